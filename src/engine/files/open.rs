//! A file that is being written: its upload, and what its sidecar and its record will say.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{FileLimits, FilesError};
use crate::engine::services::Services;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{
    CompleteFile, FileContent, FileNo, FileRecord, FileState, SliceRecord, StoredObject, joined, joined_patients,
};
use crate::job::index::{IdHash, Notes, Sidecar};
use crate::job::store::{Change, Lease};
use crate::output::layout;
use crate::output::writer::{Coding, FileWriter, Stored, Written};
use crate::plan::slice::Phase;
use crate::smart::admit::Line;

/// Slices recorded with one file at most: its record stays small.
const MOST_SLICES: usize = 100;
/// The same for a file of blocks, which has some of every type and link: those of many patients join, unless a server refused some.
const MOST_SLICES_OF_BLOCKS: usize = 2_000;
/// So many times the lines that it may have usually, where a client wants files of some size.
const MOST_TIMES: u64 = 4;

/// Lines of one type that no commit holds yet, and the slices that brought them.
#[derive(Debug)]
pub(in crate::engine) struct OpenFile {
    pub(super) no: FileNo,
    /// The upload; none as long as there is no line.
    pub(super) upload: Option<(String, FileWriter)>,
    pub(super) ids: HashSet<IdHash>,
    pub(super) notes: Notes,
    pub(super) slices: Vec<SliceRecord>,
    pub(super) opened: i64,
    /// Of a file of blocks: how many lines of each type it has.
    types: BTreeMap<ResourceType, u64>,
    /// The file in which its last block goes on.
    pub(super) continued_in: Option<FileNo>,
}

impl OpenFile {
    pub(super) fn new(no: FileNo, now: i64) -> Self {
        let (ids, notes, slices, types) = (HashSet::new(), Notes::default(), Vec::new(), BTreeMap::new());
        Self { no, upload: None, ids, notes, slices, opened: now, types, continued_in: None }
    }

    /// Notes what was read of some patients. Those who come after one another are read in the same way: what is recorded of a
    /// file grows with the types, and not with its patients.
    pub(super) fn push_patients(&mut self, records: Vec<SliceRecord>) {
        self.slices.extend(records);
        self.slices = joined_patients(std::mem::take(&mut self.slices));
    }

    /// The same as [`write`](Self::write) for a line of a block.
    pub(super) async fn write_in_block(
        &mut self,
        services: &Services,
        lease: Lease,
        (resource_type, id): (ResourceType, IdHash),
        line: Line,
    ) -> Result<(), FilesError> {
        self.write(services, lease, FileContent::Blocks, id, line).await?;
        *self.types.entry(resource_type).or_default() += 1;
        Ok(())
    }

    /// Notes that it holds a slice. Those of a list of targets are many, and one after another.
    pub(super) fn push(&mut self, record: SliceRecord) {
        let is_of_targets = record.slice.phase == Phase::Associated;
        self.slices.push(record);
        if is_of_targets && self.slices.len() >= MOST_SLICES {
            self.slices = joined(std::mem::take(&mut self.slices));
        }
    }

    pub(super) async fn write(
        &mut self,
        services: &Services,
        lease: Lease,
        content: FileContent,
        id: IdHash,
        line: Line,
    ) -> Result<(), FilesError> {
        self.put(services, lease, content, line).await?;
        self.ids.insert(id);
        Ok(())
    }

    /// Writes a line; before the first one the file is recorded as open.
    pub(super) async fn put(
        &mut self,
        services: &Services,
        lease: Lease,
        content: FileContent,
        line: Line,
    ) -> Result<(), FilesError> {
        if self.upload.is_none() {
            let key = self.announce(services, lease, content).await?;
            let writer = {
                let coding = if content.is_for_clients() { services.coding } else { Coding::Plain };
                FileWriter::begin(&services.output, &key, coding).await?
            };
            self.upload = Some((key, writer));
        }
        let no = self.no;
        let Some((key, writer)) = &mut self.upload else { return Ok(()) };
        if writer.needs_upload(&line)
            && let Some(upload) = writer.begin_upload().await?
        {
            // Before its first part: what a crash leaves of it is ended by its name.
            let state = FileState::Open { key: key.clone(), epoch: lease.epoch, upload: Some(upload) };
            let record = FileRecord { no, content, state };
            services.store.commit(lease, Change { files: vec![record], ..Change::default() }).await?;
        }
        Ok(writer.write(line).await?)
    }

    /// Records that objects of this file may come to be, so that they are found whatever happens.
    async fn announce(&self, services: &Services, lease: Lease, content: FileContent) -> Result<String, FilesError> {
        let key = layout::object(&services.folder(lease.job), content, self.no, lease.epoch);
        let state = FileState::Open { key: key.clone(), epoch: lease.epoch, upload: None };
        let record = FileRecord { no: self.no, content, state };
        services.store.commit(lease, Change { files: vec![record], ..Change::default() }).await?;
        Ok(key)
    }

    /// Makes the file's sidecar and its object durable, in this order; the record is the caller's to commit.
    pub(super) async fn finish(
        self,
        services: &Services,
        lease: Lease,
        content: FileContent,
    ) -> Result<FileRecord, FilesError> {
        services.output.check_private()?;
        let says_something = self.upload.is_some() || !self.notes.is_empty();
        let sidecar = match content {
            FileContent::Resources(_) | FileContent::Blocks if says_something => {
                let key = match &self.upload {
                    Some((key, _)) => key.clone(),
                    None => self.announce(services, lease, content).await?,
                };
                let name = layout::sidecar(&key);
                let sidecar = Sidecar::new(self.ids, self.notes);
                services.output.put(&name, sidecar.encoded()).await?;
                services.sidecars.keep(&name, Arc::new(sidecar)).await;
                Some(name)
            }
            FileContent::Resources(_) | FileContent::Blocks => None,
            FileContent::Deletions | FileContent::Outcomes | FileContent::Held => None,
        };
        let object = match self.upload {
            None => None,
            Some((key, writer)) => {
                let Stored { lines, bytes, sha256, plain } = writer.complete().await?;
                Some(StoredObject { key, lines, bytes, sha256, plain })
            }
        };
        let slices = if content == FileContent::Blocks { joined_patients(self.slices) } else { joined(self.slices) };
        let (types, continued_in) = (self.types, self.continued_in);
        let state = FileState::Complete(CompleteFile { object, sidecar, slices, commit: 0, types, continued_in });
        Ok(FileRecord { no: self.no, content, state })
    }

    pub(super) fn age(&self, now: i64) -> Duration {
        Duration::from_millis(u64::try_from(now.saturating_sub(self.opened)).unwrap_or(0))
    }

    /// Whether so many bytes would make it larger than it may be. A file has one line at least.
    pub(super) fn lacks_room_for(&self, bytes: usize, largest: u64) -> bool {
        let written = self.written();
        written.lines > 0 && written.bytes.saturating_add(bytes as u64) > largest
    }

    /// What it has so far.
    pub(super) fn written(&self) -> Written {
        self.upload.as_ref().map(|(_, writer)| writer.written()).unwrap_or_default()
    }

    pub(super) fn is_full(&self, limits: &FileLimits, now: i64) -> bool {
        let written = self.written();
        written.bytes >= limits.bytes
            || (written.lines >= limits.lines && written.bytes >= limits.asked.smallest.unwrap_or(0))
            // Which resources a file has is remembered while it is written, whatever a client asks for.
            || written.lines >= limits.lines.saturating_mul(MOST_TIMES)
            || self.age(now) >= limits.age
            || self.slices.len() >= if self.types.is_empty() { MOST_SLICES } else { MOST_SLICES_OF_BLOCKS }
            || self.notes.len() >= Notes::MOST
    }
}
