//! The files of one job: which lines they hold, which are open, and the one commit that completes them. It
//! decides what is written, so that each resource has one line.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::Serialize;

use super::read::{Accepted, Received, Summary};
use super::sidecars::Sidecars;
use crate::clock::Clock;
use crate::fhir::datatypes::LocalReference;
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{
    CompleteFile, FileContent, FileNo, FileRecord, FileState, SliceRecord, StoredObject, joined,
};
use crate::job::index::{IdHash, Notes, Sidecar};
use crate::job::store::{Change, Lease, Store, StoreError};
use crate::job::{Epoch, Job, JobId, JobState, Running};
use crate::output::checkpoint::{self, CheckpointKey, JobSheet, Place};
use crate::output::writer::{Coding, FileWriter, Stored};
use crate::output::{Output, OutputError, layout};
use crate::plan::ExportPlan;
use crate::plan::slice::{Phase, Slice};
use crate::smart::admit::{Grant, Line};

/// When a file is closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileLimits {
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) age: Duration,
}

/// Slices recorded with one file at most: its record stays small.
const MOST_SLICES: usize = 100;
/// Files open at the same time: each holds a part of an upload in memory.
const MOST_OPEN: usize = 4;

/// The files of one job, as its one worker holds them.
#[derive(Debug)]
pub(super) struct Files {
    services: Services,
    lease: Lease,
    grant: Arc<Grant>,
    plan: Arc<ExportPlan>,
    limits: FileLimits,
    complete: Vec<FileRecord>,
    open: BTreeMap<ResourceType, OpenFile>,
    next: u32,
    /// What the store holds of the job's state, as each commit's checkpoint object repeats it.
    running: Running,
    /// The number of the latest commit that completed files.
    commits: u32,
}

/// What files are made with.
#[derive(Debug, Clone)]
pub(super) struct Services {
    pub(super) store: Arc<dyn Store>,
    pub(super) output: Output,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sidecars: Sidecars,
    pub(super) instance: Arc<str>,
    pub(super) checkpoint_key: CheckpointKey,
    /// How files for clients are stored.
    pub(super) coding: Coding,
}

impl Services {
    /// The folder of a job's objects.
    pub(super) fn folder(&self, id: JobId) -> String {
        layout::folder(&self.instance, id)
    }

    /// Says in the output what a job is; without a plan that it failed or was deleted.
    pub(super) async fn keep_job(&self, epoch: Epoch, job: Job, plan: Option<ExportPlan>) -> Result<(), OutputError> {
        let id = job.id;
        let sealed = self.seal(id, layout::JOB_CHECKPOINT, &JobSheet { epoch, job, plan });
        self.output.put_again(&self.job_checkpoint(id), sealed).await
    }

    /// The key of the object that says what a job is.
    pub(super) fn job_checkpoint(&self, id: JobId) -> String {
        format!("{}/{}", self.folder(id), layout::JOB_CHECKPOINT)
    }

    /// The key of an object that is there for a moment only, to see whether there is room.
    pub(super) fn room_probe(&self) -> String {
        format!("{}/room", self.instance)
    }

    /// Says in the output that a job has failed or was deleted. Where there is no room for that, what was said of it before
    /// goes: nobody then takes the job for one that goes on.
    pub(super) async fn mark_over(&self, job: Job) -> Result<(), OutputError> {
        let id = job.id;
        match self.keep_job(Epoch::default(), job, None).await {
            Err(error) if error.is_full() => self.output.remove(&self.job_checkpoint(id)).await,
            kept => kept,
        }
    }

    /// Says in the output what a commit is about to record.
    async fn keep_commit(&self, id: JobId, number: u32, commit: &checkpoint::Commit) -> Result<(), OutputError> {
        let name = layout::commit_checkpoint(number);
        self.output.put(&format!("{}/{name}", self.folder(id)), self.seal(id, &name, commit)).await
    }

    fn seal<T: Serialize>(&self, job: JobId, name: &str, value: &T) -> Vec<u8> {
        self.checkpoint_key.seal(Place { instance: &self.instance, job, name }, value)
    }
}

/// Why files could not go on. None of it is the upstream's fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("the job store failed")]
    Store(#[from] StoreError),
    #[error("the output failed")]
    Output(#[from] OutputError),
}

impl FilesError {
    /// Whether it is for want of room.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Full),
            Self::Output(error) => error.is_full(),
        }
    }
}

/// Lines of one type that no commit holds yet, and the slices that brought them.
#[derive(Debug)]
pub(super) struct OpenFile {
    no: FileNo,
    /// The upload; none as long as there is no line.
    upload: Option<(String, FileWriter)>,
    ids: HashSet<IdHash>,
    notes: Notes,
    slices: Vec<SliceRecord>,
    opened: i64,
}

/// Lines of one slice that is being judged while it is written: files of its own, committed together or removed.
#[derive(Debug)]
pub(super) struct Stage {
    resource_type: ResourceType,
    closed: Vec<FileRecord>,
    closed_ids: HashSet<IdHash>,
    open: OpenFile,
    tally: Tally,
}

/// What became of a slice's resources.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    written: u64,
    repeated: u64,
    withheld: u64,
}

impl Files {
    /// The files of a job as its records tell.
    pub(super) fn resume(
        services: Services,
        lease: Lease,
        grant: Arc<Grant>,
        plan: Arc<ExportPlan>,
        limits: FileLimits,
        running: Running,
        records: Vec<FileRecord>,
    ) -> Self {
        let next = records.iter().map(|record| record.no.0 + 1).max().unwrap_or(0);
        let commits = records.iter().map(FileRecord::commit).max().unwrap_or(0);
        let complete = records.into_iter().filter(|record| matches!(record.state, FileState::Complete(_))).collect();
        Self { services, lease, grant, plan, limits, complete, open: BTreeMap::new(), next, running, commits }
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.services.clock)
    }

    /// Whether more may be written.
    pub(super) fn check_room(&self) -> Result<(), FilesError> {
        Ok(self.services.output.check_room()?)
    }

    pub(super) fn job(&self) -> JobId {
        self.lease.job
    }

    /// Every slice that an open or a complete file holds.
    pub(super) fn slices(&self) -> impl Iterator<Item = &SliceRecord> + Clone {
        let complete = self.complete.iter().flat_map(FileRecord::slices);
        complete.chain(self.open.values().flat_map(|file| &file.slices))
    }

    /// Takes an accepted slice in: what is new of it becomes lines of its type's open file.
    pub(super) async fn admit(&mut self, slice: Slice, accepted: Accepted) -> Result<(), FilesError> {
        let Accepted { resources, unreadable, summary, issues, reservation } = accepted;
        let known = self.known(&slice, &resources, None).await?;
        let mut tally = Tally::default();
        let mut lines = Vec::new();
        let mut notes = Notes::default();
        for (resource, known) in resources.into_iter().zip(known) {
            self.weigh(&slice, resource, known, &mut tally, &mut notes, &mut lines);
        }
        note(&mut notes, issues);
        notes.unreadable.extend(unreadable);
        let now = self.services.clock.unix_millis();
        if !self.open.contains_key(&slice.resource_type) {
            self.make_room().await?;
            let no = self.number();
            self.open.insert(slice.resource_type, OpenFile::new(no, now));
        }
        let file = self.open.get_mut(&slice.resource_type).expect("it was just put there");
        let content = FileContent::Resources(slice.resource_type);
        for (id, line) in lines {
            file.write(&self.services, self.lease, content, id, line).await?;
        }
        drop(reservation);
        file.notes.absorb(notes);
        file.slices.push(record(slice.clone(), summary, tally));
        if file.is_full(&self.limits, now) {
            self.close(slice.resource_type).await?;
        }
        Ok(())
    }

    /// Completes every open file.
    pub(super) async fn flush(&mut self) -> Result<(), FilesError> {
        let mut records = Vec::with_capacity(self.open.len());
        while let Some((resource_type, file)) = self.open.pop_first() {
            records.push(file.finish(&self.services, self.lease, FileContent::Resources(resource_type)).await?);
        }
        if records.is_empty() { Ok(()) } else { self.complete(records, None).await }
    }

    /// Completes the files that have been open for long, so that a crash costs little on a slow server too.
    pub(super) async fn close_aged(&mut self) -> Result<(), FilesError> {
        let now = self.services.clock.unix_millis();
        let aged = self.open.iter().filter(|(_, file)| file.age(now) >= self.limits.age).map(|(name, _)| *name);
        for resource_type in aged.collect::<Vec<_>>() {
            self.close(resource_type).await?;
        }
        Ok(())
    }

    /// Completes once a file has been open for long, however long slices are waited for; never if none is open.
    pub(super) async fn aged(&self) {
        let now = self.services.clock.unix_millis();
        match self.open.values().map(|file| self.limits.age.saturating_sub(file.age(now))).min() {
            Some(left) => self.services.clock.sleep(left).await,
            None => std::future::pending().await,
        }
    }

    /// Records how far the job has come.
    pub(super) async fn save(&mut self, running: Running) -> Result<(), FilesError> {
        let state = Some(JobState::Running(running.clone()));
        self.commit(Change { state, ..Change::default() }).await?;
        self.running = running;
        Ok(())
    }

    /// Records files as complete, all together, and the job's end if that is what `state` says: first in a checkpoint
    /// object, then in the store.
    pub(super) async fn complete(
        &mut self,
        mut files: Vec<FileRecord>,
        state: Option<JobState>,
    ) -> Result<(), FilesError> {
        let number = self.commits + 1;
        for record in &mut files {
            if let FileState::Complete(file) = &mut record.state {
                file.commit = number;
            }
        }
        let commit = checkpoint::Commit {
            epoch: self.lease.epoch,
            files,
            state: state.clone().unwrap_or_else(|| JobState::Running(self.running.clone())),
        };
        self.services.keep_commit(self.lease.job, number, &commit).await?;
        let files = commit.files;
        self.commit(Change { state, files: files.clone(), ..Change::default() }).await?;
        self.commits = number;
        self.complete.extend(files);
        Ok(())
    }

    async fn commit(&self, change: Change) -> Result<(), FilesError> {
        Ok(self.services.store.commit(self.lease, change).await?)
    }

    /// Begins to write a slice that is judged only at its end.
    pub(super) fn stage(&mut self, resource_type: ResourceType) -> Stage {
        let no = self.number();
        Stage {
            resource_type,
            closed: Vec::new(),
            closed_ids: HashSet::new(),
            open: OpenFile::new(no, self.services.clock.unix_millis()),
            tally: Tally::default(),
        }
    }

    /// Writes some of a slice's resources to its stage.
    pub(super) async fn write_staged(
        &mut self,
        stage: &mut Stage,
        slice: &Slice,
        resources: Vec<Received>,
        issues: Vec<Issue>,
    ) -> Result<(), FilesError> {
        let known = self.known(slice, &resources, Some(stage)).await?;
        let mut lines = Vec::new();
        let mut notes = Notes::default();
        for (resource, known) in resources.into_iter().zip(known) {
            self.weigh(slice, resource, known, &mut stage.tally, &mut notes, &mut lines);
        }
        note(&mut notes, issues);
        let content = FileContent::Resources(stage.resource_type);
        for (id, line) in lines {
            stage.open.write(&self.services, self.lease, content, id, line).await?;
        }
        stage.open.notes.absorb(notes);
        if stage.open.is_full(&self.limits, self.services.clock.unix_millis()) {
            let no = self.number();
            let next = OpenFile::new(no, self.services.clock.unix_millis());
            let full = std::mem::replace(&mut stage.open, next);
            stage.closed_ids.extend(&full.ids);
            stage.closed.push(full.finish(&self.services, self.lease, content).await?);
        }
        Ok(())
    }

    /// Records a stage's files and its slice, all together.
    pub(super) async fn accept(&mut self, mut stage: Stage, slice: Slice, summary: Summary) -> Result<(), FilesError> {
        stage.open.slices.push(record(slice, summary, stage.tally));
        let last = stage.open.finish(&self.services, self.lease, FileContent::Resources(stage.resource_type)).await?;
        stage.closed.push(last);
        self.complete(stage.closed, None).await
    }

    /// Removes what a stage has written.
    pub(super) async fn reject(&mut self, stage: Stage) -> Result<(), FilesError> {
        let mut forgotten: Vec<_> = stage.closed.iter().map(|record| record.no).collect();
        let mut keys: Vec<_> = stage.closed.iter().flat_map(FileRecord::keys).collect();
        if let Some((key, writer)) = stage.open.upload {
            let upload = writer.upload_id();
            writer.abort().await?;
            forgotten.push(stage.open.no);
            let state = FileState::Open { key, epoch: self.lease.epoch, upload };
            let record = FileRecord { no: stage.open.no, content: FileContent::Resources(stage.resource_type), state };
            keys.extend(record.keys());
            self.services.output.end_uploads(&self.services.folder(self.lease.job), &[record]).await?;
        }
        for key in keys {
            self.services.output.remove(&key).await?;
        }
        self.commit(Change { forgotten, ..Change::default() }).await
    }

    /// Writes a file of what we say ourselves; it is recorded with the job's end.
    pub(super) async fn closing(&mut self, content: FileContent, lines: Vec<Line>) -> Result<FileRecord, FilesError> {
        let mut file = OpenFile::new(self.number(), self.services.clock.unix_millis());
        for line in lines {
            file.put(&self.services, self.lease, content, line).await?;
        }
        file.finish(&self.services, self.lease, content).await
    }

    /// Every job that the store knows.
    pub(super) async fn jobs(&self) -> Result<Vec<Job>, FilesError> {
        Ok(self.services.store.jobs().await?)
    }

    /// Where a job has noted what its client holds.
    pub(super) async fn held_by(&self, job: JobId) -> Result<Option<StoredObject>, FilesError> {
        let files = self.services.store.files(job).await?;
        Ok(files.iter().find(|file| file.content == FileContent::Held).and_then(FileRecord::object).cloned())
    }

    /// Streams an object.
    pub(super) async fn read(
        &self,
        object: &StoredObject,
    ) -> Result<BoxStream<'static, Result<Bytes, object_store::Error>>, FilesError> {
        Ok(self.services.output.stream(&object.key, 0..object.bytes).await?)
    }

    /// The complete files of resources: their types and objects.
    pub(super) fn data(&self) -> Vec<(ResourceType, StoredObject)> {
        let data = self.complete.iter().filter_map(|record| match record.content {
            FileContent::Resources(resource_type) => Some((resource_type, record.object()?.clone())),
            FileContent::Deletions | FileContent::Outcomes | FileContent::Held => None,
        });
        data.collect()
    }

    /// Begins a file of what the client holds; it is recorded with the job's end.
    pub(super) fn begin_held(&mut self) -> OpenFile {
        OpenFile::new(self.number(), self.services.clock.unix_millis())
    }

    pub(super) async fn put_held(&self, file: &mut OpenFile, line: Line) -> Result<(), FilesError> {
        file.put(&self.services, self.lease, FileContent::Held, line).await
    }

    pub(super) async fn finish_held(&self, file: OpenFile) -> Result<FileRecord, FilesError> {
        file.finish(&self.services, self.lease, FileContent::Held).await
    }

    /// What the lines of complete files refer to, each once, in the order of the files' numbers. Files that come later
    /// have higher numbers, so that a place in this list means the same in every life of the job.
    pub(super) async fn references(&self) -> Result<Vec<LocalReference>, FilesError> {
        let mut seen = HashSet::new();
        let mut ordered = Vec::new();
        let mut complete: Vec<_> = self.complete.iter().collect();
        complete.sort_unstable_by_key(|record| record.no);
        for key in complete.into_iter().filter_map(FileRecord::sidecar) {
            let sidecar = sidecar(&self.services, key).await?;
            ordered
                .extend(sidecar.notes.references.iter().filter(|reference| seen.insert((*reference).clone())).cloned());
        }
        Ok(ordered)
    }

    /// What the upstream said inside of good answers, once per kind, with how often it was said.
    pub(super) async fn outcomes_said(&self) -> Result<BTreeMap<Issue, u64>, FilesError> {
        let mut said = BTreeMap::new();
        for key in self.complete.iter().filter_map(FileRecord::sidecar) {
            for (issue, times) in &sidecar(&self.services, key).await?.notes.outcomes {
                *said.entry(issue.clone()).or_default() += times;
            }
        }
        Ok(said)
    }

    /// Resources that the upstream failed to give whenever they were asked for.
    pub(super) async fn unreadable(&self) -> Result<BTreeSet<LocalReference>, FilesError> {
        let mut failed: BTreeMap<ResourceType, BTreeSet<LocalReference>> = BTreeMap::new();
        for key in self.complete.iter().filter_map(FileRecord::sidecar) {
            for reference in &sidecar(&self.services, key).await?.notes.unreadable {
                failed.entry(reference.resource_type).or_default().insert(reference.clone());
            }
        }
        let mut unreadable = BTreeSet::new();
        for (resource_type, references) in failed {
            let hashes: Vec<_> = references.iter().map(|failed| IdHash::of(resource_type, &failed.id)).collect();
            let came = self.are_complete(resource_type, &hashes).await?;
            unreadable.extend(references.into_iter().zip(came).filter(|(_, came)| !came).map(|(failed, _)| failed));
        }
        Ok(unreadable)
    }

    /// Which of `ids` a complete file holds.
    pub(super) async fn are_complete(
        &self,
        resource_type: ResourceType,
        ids: &[IdHash],
    ) -> Result<Vec<bool>, FilesError> {
        let mut known = vec![false; ids.len()];
        for record in self.complete.iter().filter(|record| record.content == FileContent::Resources(resource_type)) {
            let Some(key) = record.sidecar() else { continue };
            let sidecar = sidecar(&self.services, key).await?;
            known.iter_mut().zip(ids).for_each(|(known, id)| *known |= sidecar.contains(*id));
        }
        Ok(known)
    }

    /// Which of a slice's resources some file holds already. What no other slice can hold is not looked up.
    async fn known(
        &self,
        slice: &Slice,
        resources: &[Received],
        stage: Option<&Stage>,
    ) -> Result<Vec<bool>, FilesError> {
        let looked_up = |resource: &Received| !slice.phase.is_disjoint() || resource.has_moved;
        if !resources.iter().any(looked_up) {
            return Ok(vec![false; resources.len()]);
        }
        let ids: Vec<_> = resources.iter().map(|resource| resource.id).collect();
        let mut known = self.are_complete(slice.resource_type, &ids).await?;
        let open = self.open.get(&slice.resource_type);
        for (known, id) in known.iter_mut().zip(&ids) {
            *known |= open.is_some_and(|file| file.ids.contains(id))
                || stage.is_some_and(|stage| stage.open.ids.contains(id) || stage.closed_ids.contains(id));
        }
        known.iter_mut().zip(resources).for_each(|(known, resource)| *known &= looked_up(resource));
        Ok(known)
    }

    /// What becomes of one resource.
    fn weigh(
        &self,
        slice: &Slice,
        resource: Received,
        known: bool,
        tally: &mut Tally,
        notes: &mut Notes,
        lines: &mut Vec<(IdHash, Line)>,
    ) {
        let entry = &resource.entry;
        if known {
            tally.repeated += 1;
        } else if !resource.was_there
            || (!self.plan.horizon.asks_for(entry.last_updated) && slice.phase != Phase::References)
        {
            tally.withheld += 1;
        } else {
            match self.grant.admit(entry) {
                Ok(line) => {
                    tally.written += 1;
                    if slice.phase != Phase::References {
                        notes.references.extend(self.grant.follows(entry));
                    }
                    lines.push((resource.id, line));
                }
                Err(_) => tally.withheld += 1,
            }
        }
    }

    /// Closes the file that has been open for longest if there are as many as memory allows.
    async fn make_room(&mut self) -> Result<(), FilesError> {
        while self.open.values().filter(|file| file.upload.is_some()).count() >= MOST_OPEN {
            let uploads = self.open.iter().filter(|(_, file)| file.upload.is_some());
            let Some(resource_type) = uploads.min_by_key(|(_, file)| file.opened).map(|(name, _)| *name) else { break };
            self.close(resource_type).await?;
        }
        Ok(())
    }

    async fn close(&mut self, resource_type: ResourceType) -> Result<(), FilesError> {
        let Some(file) = self.open.remove(&resource_type) else { return Ok(()) };
        let record = file.finish(&self.services, self.lease, FileContent::Resources(resource_type)).await?;
        self.complete(vec![record], None).await
    }

    fn number(&mut self) -> FileNo {
        let no = FileNo(self.next);
        self.next += 1;
        no
    }
}

impl OpenFile {
    fn new(no: FileNo, now: i64) -> Self {
        Self { no, upload: None, ids: HashSet::new(), notes: Notes::default(), slices: Vec::new(), opened: now }
    }

    async fn write(
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
    async fn put(
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
        let key = layout::object(&services.instance, lease.job, content, self.no, lease.epoch);
        let state = FileState::Open { key: key.clone(), epoch: lease.epoch, upload: None };
        let record = FileRecord { no: self.no, content, state };
        services.store.commit(lease, Change { files: vec![record], ..Change::default() }).await?;
        Ok(key)
    }

    /// Makes the file's sidecar and its object durable, in this order; the record is the caller's to commit.
    async fn finish(self, services: &Services, lease: Lease, content: FileContent) -> Result<FileRecord, FilesError> {
        let says_something = self.upload.is_some() || !self.notes.is_empty();
        let sidecar = match content {
            FileContent::Resources(_) if says_something => {
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
            FileContent::Resources(_) | FileContent::Deletions | FileContent::Outcomes | FileContent::Held => None,
        };
        let object = match self.upload {
            None => None,
            Some((key, writer)) => {
                let Stored { lines, bytes, sha256, plain } = writer.complete().await?;
                Some(StoredObject { key, lines, bytes, sha256, plain })
            }
        };
        let state = FileState::Complete(CompleteFile { object, sidecar, slices: joined(self.slices), commit: 0 });
        Ok(FileRecord { no: self.no, content, state })
    }

    fn age(&self, now: i64) -> Duration {
        Duration::from_millis(u64::try_from(now.saturating_sub(self.opened)).unwrap_or(0))
    }

    fn is_full(&self, limits: &FileLimits, now: i64) -> bool {
        let written = self.upload.as_ref().map(|(_, writer)| writer.written()).unwrap_or_default();
        written.bytes >= limits.bytes
            || written.lines >= limits.lines
            || self.age(now) >= limits.age
            || self.slices.len() >= MOST_SLICES
            || self.notes.len() >= Notes::MOST
    }
}

/// The sidecar under `key`: from the cache, or read once however many ask for it.
async fn sidecar(services: &Services, key: &str) -> Result<Arc<Sidecar>, OutputError> {
    if let Some(sidecar) = services.sidecars.get(key).await {
        return Ok(sidecar);
    }
    let bytes = services.output.get(key).await?;
    let sidecar = Arc::new(Sidecar::decode(bytes).ok_or(OutputError::Damaged)?);
    services.sidecars.keep(key, Arc::clone(&sidecar)).await;
    Ok(sidecar)
}

/// Adds what the upstream said beside the resources.
fn note(notes: &mut Notes, issues: Vec<Issue>) {
    for issue in issues {
        *notes.outcomes.entry(issue).or_default() += 1;
    }
}

fn record(slice: Slice, summary: Summary, tally: Tally) -> SliceRecord {
    let Summary { expected, received, short, unreadable, refused, reread, method } = summary;
    let Tally { written, repeated, withheld } = tally;
    SliceRecord { slice, expected, received, written, repeated, withheld, reread, short, unreadable, refused, method }
}
