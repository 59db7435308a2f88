//! The files of one job: which lines they hold, which are open, and the one commit that completes them. It
//! decides what is written, so that each resource has one line.

mod blocks;
mod disclosed;
mod growing;
mod look;
mod open;
mod pages;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::associated::Tie;
use super::holdings::Holdings;
use super::read::{Accepted, Bar, Received, Summary};
use super::rights::Rights;
use super::services::Services;
use crate::bulk::shape::FileSizes;
use crate::clock::Clock;
use crate::fhir::attachment::Left;
use crate::fhir::datatypes::{Id, LocalReference, Millis};
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileNo, FileRecord, FileState, SliceRecord};
use crate::job::index::{IdHash, Notes};
use crate::job::store::{Change, Lease, StoreError};
use crate::job::usage::{Spent, Usage};
use crate::job::{Job, JobId, JobState, Running};
use crate::ledger::LedgerError;
use crate::output::{OutputError, checkpoint};
use crate::plan::ExportPlan;
use crate::plan::slice::{Phase, Slice};
use crate::smart::admit::{Grant, Line, Withheld};
use crate::store::keys::KeyError;

use blocks::BlockStage;
pub(super) use blocks::{Together, some};
use growing::Growing;
pub(super) use open::OpenFile;
use pages::Turn;

/// When a file is closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileLimits {
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) age: Duration,
    /// What a client has asked for.
    pub(crate) asked: FileSizes,
}

impl FileLimits {
    /// With what a client has asked for; it never makes files larger than they may be.
    pub(super) fn asked(self, asked: FileSizes) -> Self {
        let bytes = asked.largest.map_or(self.bytes, |largest| self.bytes.min(largest));
        Self { bytes, asked, ..self }
    }
}

/// Files open at the same time: each holds a part of an upload in memory.
const MOST_OPEN: usize = 4;

/// The files of one job, as its one worker holds them.
#[derive(Debug)]
pub(super) struct Files {
    services: Services,
    lease: Lease,
    export: Export,
    limits: FileLimits,
    complete: Vec<FileRecord>,
    /// What those hold, for whoever asks.
    holdings: Arc<Holdings>,
    open: BTreeMap<FileContent, OpenFile>,
    next: u32,
    /// What may stand in blocks of several patients and was written by this run.
    shared: HashSet<IdHash>,
    /// So many of the complete files may have more of that.
    before: usize,
    /// What the store holds of the job's state, as each commit's checkpoint object repeats it.
    running: Running,
    /// The number of the latest commit that completed files.
    commits: u32,
    turn: Turn,
}

/// What the files are of.
#[derive(Debug, Clone)]
pub(super) struct Export {
    pub(super) job: Arc<Job>,
    pub(super) plan: Arc<ExportPlan>,
    pub(super) grant: Arc<Grant>,
}

/// Why files could not go on. None of it is the upstream's fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("the job store failed")]
    Store(#[from] StoreError),
    #[error("the output failed")]
    Output(#[from] OutputError),
    #[error("what the export holds could not be recorded")]
    Ledger(#[from] LedgerError),
    #[error("whom the export is for cannot be read")]
    Key(#[from] KeyError),
    #[error("the client may not have the export any more")]
    Revoked,
    #[error("the client has used up its bytes of the day")]
    Quota,
}

impl FilesError {
    /// Whether something that was written is gone, or is not what it was.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Output(error) => matches!(error, OutputError::Damaged) || error.is_missing(),
            Self::Store(error) => matches!(error, StoreError::Damaged(_)),
            Self::Ledger(_) | Self::Key(_) | Self::Revoked | Self::Quota => false,
        }
    }

    /// Whether it is tried again once there is room, or a place that keeps to itself what it gets.
    pub(super) fn must_wait(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Full),
            Self::Output(error) => error.must_wait(),
            // Without a record nothing leaves, and the next one may succeed.
            Self::Ledger(_) => true,
            Self::Key(error) => crate::disk::is_full(error),
            Self::Revoked | Self::Quota => false,
        }
    }
}

/// Lines of one slice that is being judged while it is written: files of its own, committed together or removed.
#[derive(Debug)]
pub(super) struct Stage {
    content: FileContent,
    files: Growing,
    tally: Tally,
    /// Where it is the block of one patient.
    block: Option<BlockStage>,
}

/// What became of a slice's resources.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    written: u64,
    repeated: u64,
    withheld: u64,
    /// Kept back by policy, of those that had not moved.
    kept_back: u64,
}

impl Files {
    /// The files of a job as its records tell.
    pub(super) fn resume(
        services: Services,
        lease: Lease,
        export: Export,
        limits: FileLimits,
        running: Running,
        records: Vec<FileRecord>,
    ) -> Self {
        let next = records.iter().map(|record| record.no.0 + 1).max().unwrap_or(0);
        let commits = records.iter().map(FileRecord::commit).max().unwrap_or(0);
        let complete: Vec<_> =
            records.into_iter().filter(|record| matches!(record.state, FileState::Complete(_))).collect();
        let turn = Turn::from(services.clock.unix_millis());
        let (open, shared, before) = (BTreeMap::new(), HashSet::new(), complete.len());
        let holdings = Arc::new(Holdings::new(services.clone()));
        Self { services, lease, export, limits, complete, holdings, open, next, shared, before, running, commits, turn }
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
        let mut notes = Notes::default();
        note(&mut notes, issues);
        notes.unreadable.extend(unreadable);
        let now = self.services.clock.unix_millis();
        let content = FileContent::Resources(slice.resource_type);
        let open = if let Some(open) = self.open.remove(&content) {
            open
        } else {
            self.make_room().await?;
            OpenFile::new(self.number(), now)
        };
        let mut files = Growing::new(open);
        for (resource, known) in resources.into_iter().zip(known) {
            // One by one: a line is memory of its own where something is taken out of it.
            let (note, refer) = notes.hear();
            if let Some(Weighed { id, line, left }) =
                self.export.weigh(&slice, resource, known, &mut tally, note, refer)
            {
                self::note(&mut notes, left.iter().map(|left| left.issue()));
                self.roll_before(&mut files, content, &line).await?;
                files.open.write(&self.services, self.lease, content, id, line).await?;
            }
        }
        drop(reservation);
        files.open.notes.absorb(notes);
        files.open.push(record(slice, summary, tally));
        self.leave_open(content, files, now).await
    }

    /// Leaves the last one of some files open for what comes next. If there are others before it, or it is full, all are
    /// completed: what is in several files is recorded with all of them.
    async fn leave_open(&mut self, content: FileContent, files: Growing, now: i64) -> Result<(), FilesError> {
        let Growing { mut closed, open: file, .. } = files;
        if !closed.is_empty() {
            closed.push(file.finish(&self.services, self.lease, content).await?);
            return self.complete(closed, None).await;
        }
        let is_full = file.is_full(&self.limits, now);
        self.open.insert(content, file);
        if is_full { self.close(content).await } else { Ok(()) }
    }

    /// Completes every open file.
    pub(super) async fn flush(&mut self) -> Result<(), FilesError> {
        let mut records = Vec::with_capacity(self.open.len());
        while let Some((content, file)) = self.open.pop_first() {
            records.push(file.finish(&self.services, self.lease, content).await?);
        }
        self.turn.at_next_commit();
        if records.is_empty() { Ok(()) } else { self.complete(records, None).await }
    }

    /// Completes the files that have been open for long, so that a crash costs little on a slow server too.
    pub(super) async fn close_aged(&mut self) -> Result<(), FilesError> {
        let now = self.services.clock.unix_millis();
        let aged = self.open.iter().filter(|(_, file)| file.age(now) >= self.limits.age).map(|(content, _)| *content);
        for content in aged.collect::<Vec<_>>() {
            self.close(content).await?;
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
        // Pages are turned here, and nowhere else.
        let running = Running { pages: self.running.pages.clone(), ..running };
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
        let spent = self.spend(&files, state.is_some()).await?;
        let number = self.commits + 1;
        for record in &mut files {
            if let FileState::Complete(file) = &mut record.state {
                file.commit = number;
            }
        }
        let turned = if state.is_none() { self.turned(number, &files) } else { None };
        let state = state.or_else(|| turned.clone().map(JobState::Running));
        let commit = checkpoint::Commit {
            epoch: self.lease.epoch,
            files,
            state: state.clone().unwrap_or_else(|| JobState::Running(self.running.clone())),
        };
        self.services.keep_commit(self.lease.job, number, &commit).await?;
        let files = commit.files;
        self.commit(Change { state, files: files.clone(), spent, ..Change::default() }).await?;
        self.commits = number;
        if let Some(running) = turned {
            self.running = running;
            self.turn = Turn::from(self.services.clock.unix_millis());
        }
        self.complete.extend(files);
        Ok(())
    }

    /// What completing `files` takes of their client's day. SEC-14: it is looked at what the client may have now.
    async fn spend(&self, files: &[FileRecord], is_end: bool) -> Result<Option<Spent>, FilesError> {
        let Self { services, export: Export { job, .. }, .. } = self;
        if services.is_revoked(job).await? {
            return Err(FilesError::Revoked);
        }
        let objects = files.iter().filter(|file| file.content.is_for_clients()).filter_map(FileRecord::object);
        let bytes = objects.fold(0, |sum: u64, object| sum.saturating_add(object.bytes));
        let Some(spent) = Rights::spent(&job.owner, bytes, Millis(services.clock.unix_millis())) else {
            return Ok(None);
        };
        let quotas = services.rights.quotas(&job.owner);
        // What is said at the end is little, and without it all before was for nothing.
        if !is_end && quotas.bytes_per_day.is_some() {
            let used = services.store.usage(spent.client.clone()).await?;
            if !Usage::has_room_for(used, &spent, quotas) {
                return Err(FilesError::Quota);
            }
        }
        Ok(Some(spent))
    }

    async fn commit(&self, change: Change) -> Result<(), FilesError> {
        Ok(self.services.store.commit(self.lease, change).await?)
    }

    /// Begins to write a slice that is judged only at its end.
    pub(super) fn stage(&mut self, resource_type: ResourceType) -> Stage {
        let no = self.number();
        Stage {
            content: FileContent::Resources(resource_type),
            files: Growing::new(OpenFile::new(no, self.services.clock.unix_millis())),
            tally: Tally::default(),
            block: None,
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
        if stage.block.is_some() {
            return self.write_to_block(stage, slice, resources, issues).await;
        }
        let known = self.known(slice, &resources, Some(stage)).await?;
        let mut notes = Notes::default();
        note(&mut notes, issues);
        let content = stage.content;
        for (resource, known) in resources.into_iter().zip(known) {
            let (note, refer) = notes.hear();
            if let Some(Weighed { id, line, left }) =
                self.export.weigh(slice, resource, known, &mut stage.tally, note, refer)
            {
                self::note(&mut notes, left.iter().map(|left| left.issue()));
                self.roll_before(&mut stage.files, content, &line).await?;
                stage.files.open.write(&self.services, self.lease, content, id, line).await?;
            }
        }
        stage.files.open.notes.absorb(notes);
        if stage.files.open.is_full(&self.limits, self.services.clock.unix_millis()) {
            self.roll(&mut stage.files, content).await?;
        }
        Ok(())
    }

    /// Records a stage's files and its slice, all together.
    pub(super) async fn accept(&mut self, stage: Stage, slice: Slice, summary: Summary) -> Result<(), FilesError> {
        let Growing { mut closed, open: mut last, .. } = stage.files;
        last.slices.push(record(slice, summary, stage.tally));
        closed.push(last.finish(&self.services, self.lease, stage.content).await?);
        self.complete(closed, None).await
    }

    /// Removes what a stage has written.
    pub(super) async fn reject(&mut self, stage: Stage) -> Result<(), FilesError> {
        let mut forgotten: Vec<_> = stage.files.closed.iter().map(|record| record.no).collect();
        let mut keys: Vec<_> = stage.files.closed.iter().flat_map(FileRecord::keys).collect();
        if let Some((key, writer)) = stage.files.open.upload {
            let upload = writer.upload_id();
            writer.abort().await?;
            forgotten.push(stage.files.open.no);
            let state = FileState::Open { key, epoch: self.lease.epoch, upload };
            let record = FileRecord { no: stage.files.open.no, content: stage.content, state };
            keys.extend(record.keys());
            self.services.output.end_uploads(&self.services.folder(self.lease.job), &[record]).await?;
        }
        for key in keys {
            self.services.output.remove(&key).await?;
        }
        self.commit(Change { forgotten, ..Change::default() }).await
    }

    /// Writes what we say ourselves, to one file where it may be as large; it is recorded with the job's end.
    pub(super) async fn closing(
        &mut self,
        content: FileContent,
        lines: Vec<Line>,
    ) -> Result<Vec<FileRecord>, FilesError> {
        let mut files = Growing::new(OpenFile::new(self.number(), self.services.clock.unix_millis()));
        for line in lines {
            self.roll_before(&mut files, content, &line).await?;
            files.open.put(&self.services, self.lease, content, line).await?;
        }
        let Growing { mut closed, open: last, .. } = files;
        closed.push(last.finish(&self.services, self.lease, content).await?);
        Ok(closed)
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

    /// Which of a slice's resources some file holds already. What no other slice can hold is not looked up.
    async fn known(
        &self,
        slice: &Slice,
        resources: &[Received],
        stage: Option<&Stage>,
    ) -> Result<Vec<bool>, FilesError> {
        let is_disjoint = self.export.plan.is_disjoint(slice);
        let looked_up = |resource: &Received| !is_disjoint || resource.has_moved;
        if !resources.iter().any(looked_up) {
            return Ok(vec![false; resources.len()]);
        }
        let ids: Vec<_> = resources.iter().map(|resource| resource.id).collect();
        let mut known = self.are_complete(slice.resource_type, &ids).await?;
        let open = self.open.get(&FileContent::Resources(slice.resource_type));
        for (known, id) in known.iter_mut().zip(&ids) {
            *known |= open.is_some_and(|file| file.ids.contains(id)) || stage.is_some_and(|stage| stage.files.hold(id));
        }
        known.iter_mut().zip(resources).for_each(|(known, resource)| *known &= looked_up(resource));
        Ok(known)
    }

    /// Closes the file that has been open for longest if there are as many as memory allows.
    async fn make_room(&mut self) -> Result<(), FilesError> {
        while self.open.values().filter(|file| file.upload.is_some()).count() >= MOST_OPEN {
            let uploads = self.open.iter().filter(|(_, file)| file.upload.is_some());
            let Some(content) = uploads.min_by_key(|(_, file)| file.opened).map(|(content, _)| *content) else { break };
            self.close(content).await?;
        }
        Ok(())
    }

    async fn close(&mut self, content: FileContent) -> Result<(), FilesError> {
        let Some(file) = self.open.remove(&content) else { return Ok(()) };
        let record = file.finish(&self.services, self.lease, content).await?;
        self.complete(vec![record], None).await
    }

    fn number(&mut self) -> FileNo {
        let no = FileNo(self.next);
        self.next += 1;
        no
    }
}

/// A resource that leaves.
struct Weighed {
    id: IdHash,
    line: Line,
    /// What is not in it though it could be.
    left: Vec<Left>,
}

impl Export {
    /// What becomes of one resource: its line, if it has one. `note` is told whose it is, and `refer` what it refers to.
    fn weigh(
        &self,
        slice: &Slice,
        resource: Received,
        known: bool,
        tally: &mut Tally,
        note: impl FnMut(&Id),
        refer: impl FnMut(LocalReference),
    ) -> Option<Weighed> {
        let entry = &resource.entry;
        if known {
            tally.repeated += 1;
            return None;
        }
        if !resource.was_there || !self.plan.asks_for(slice, entry.last_updated) {
            tally.withheld += 1;
            return None;
        }
        let admitted = match (resource.bar, resource.tie) {
            (Bar::ByPolicy, _) => Err(Withheld::ByPolicy),
            (Bar::Undecided | Bar::TellsOfOthers | Bar::None, Tie::Apart) => Err(Withheld::OutsideCohort),
            // SEC-20: what cannot be decided is refused, and said; unless it is none of the export's anyhow.
            (Bar::Undecided, Tie::Ordinary) => self.grant.admit(entry, |_| {}).and(Err(Withheld::Undecided)),
            (Bar::Undecided, Tie::Associated) => {
                self.grant.admit_associated(entry, |_| {}).and(Err(Withheld::Undecided))
            }
            (Bar::TellsOfOthers, Tie::Ordinary) => self.grant.admit(entry, |_| {}).and(Err(Withheld::SharedWithOthers)),
            (Bar::TellsOfOthers, Tie::Associated) => Err(Withheld::SharedWithOthers),
            (Bar::None, Tie::Ordinary) => self.grant.admit(entry, note),
            (Bar::None, Tie::Associated) => self.grant.admit_associated(entry, note),
        };
        match admitted {
            Ok(line) => {
                tally.written += 1;
                if slice.phase != Phase::References {
                    self.grant.follows(entry).for_each(refer);
                }
                Some(Weighed { id: resource.id, line, left: resource.left })
            }
            // SEC-26: as if it had not been there. What has moved is not counted as received.
            Err(Withheld::ByPolicy) => {
                tally.kept_back += u64::from(!resource.has_moved);
                None
            }
            Err(Withheld::Type | Withheld::OutsideCohort | Withheld::SharedWithOthers | Withheld::Undecided) => {
                tally.withheld += 1;
                None
            }
        }
    }
}

/// Adds what the upstream said beside the resources.
fn note(notes: &mut Notes, issues: impl IntoIterator<Item = Issue>) {
    for issue in issues {
        *notes.outcomes.entry(issue).or_default() += 1;
    }
}

fn record(slice: Slice, summary: Summary, tally: Tally) -> SliceRecord {
    let Summary { expected, received, short, unreadable, refused, reread, method } = summary;
    let Tally { written, repeated, withheld, kept_back } = tally;
    SliceRecord {
        slice,
        expected,
        received,
        written,
        repeated,
        withheld,
        kept_back,
        reread,
        short,
        unreadable,
        refused,
        method,
    }
}
