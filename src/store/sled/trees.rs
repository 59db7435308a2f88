//! How jobs, plans and files lie in the trees: reads, and the writes that each call amounts to.
//!
//! Only the writer's thread writes, so that what it has read still holds when it applies what it made of it.

use std::collections::{BTreeMap, BTreeSet};

use ::sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use ::sled::{Db, Tree};
use serde::{Deserialize, Serialize};

use super::records::{Batch, failed, one, parts, put, records, remove};
use crate::bulk::cohort::CohortId;
use crate::fhir::datatypes::Millis;
use crate::job::checkpoint::{FileNo, FileRecord};
use crate::job::cohort::ClientCohort;
use crate::job::listed::ListedState;
use crate::job::store::{Change, ClockMark, Lease, Restored, StoreError};
use crate::job::usage::{Allowance, Exhausted, Usage};
use crate::job::{Epoch, Job, JobId, JobState};
use crate::plan::kept::KeptPlan;
use crate::profile::{Found, ProfileKey};
use crate::smart::assertion::Use;
use crate::smart::client::ClientId;
use crate::smart::consent::Consent;
use crate::store::codec::{self, Record};

/// One tree for each kind of record. (No `Debug`: a tree's own prints what it holds.)
#[derive(Clone)]
pub(super) struct Trees {
    jobs: Tree,
    plans: Tree,
    files: Tree,
    /// All files of a job that has ended, in one record, unless they are many: thousands of such jobs are read through at each
    /// start.
    ended: Tree,
    profiles: Tree,
    used: Tree,
    meta: Tree,
    /// Jobs that run or wait, under the hash of their client's name.
    active: Tree,
}

/// The record that tells a log that was written from one that never was.
const MARK: &[u8] = b"offtake";
/// The record that says that jobs which run or wait are found by their client.
const INDEXED: &[u8] = b"active-by-client";

/// Records of files that become one when their job ends, and their bytes. Each of them is removed then, for which whole nodes are
/// written anew, and such a batch is no larger than the room without which none is begun.
pub(super) const MOST_TOGETHER: usize = 1_000;
const MOST_TOGETHER_BYTES: usize = 512 * 1024;

/// What one call writes: all of it, or nothing.
#[derive(Default)]
pub(super) struct Writes {
    jobs: Batch,
    plans: Batch,
    files: Batch,
    ended: Batch,
    profiles: Batch,
    used: Batch,
    meta: Batch,
    active: Batch,
}

/// A job with what only the store needs to know of it.
#[derive(Serialize, Deserialize)]
struct JobRecord<S = JobState> {
    epoch: Epoch,
    job: Job<S>,
}

impl Trees {
    pub(super) fn open(db: &Db) -> ::sled::Result<Self> {
        let tree = |name| db.open_tree(name);
        let (jobs, plans, files, ended) = (tree("jobs")?, tree("plans")?, tree("files")?, tree("ended-files")?);
        let (profiles, used, meta, active) = (tree("profiles")?, tree("used")?, tree("meta")?, tree("active")?);
        let trees = Self { jobs, plans, files, ended, profiles, used, meta, active };
        if !trees.meta.contains_key(INDEXED)? {
            trees.index()?;
        }
        Ok(trees)
    }

    /// Finds the jobs that run or wait in a log of a version that did not keep them apart. One that is damaged is no
    /// concern here.
    fn index(&self) -> ::sled::Result<()> {
        let mut writes = Writes::default();
        for job in self.jobs().unwrap_or_default() {
            index(&mut writes, &job);
        }
        writes.meta.insert(INDEXED, &[1]);
        self.apply(&writes)
    }

    /// Whether this log was ever [marked](Self::mark).
    pub(super) fn is_marked(&self) -> ::sled::Result<bool> {
        self.meta.contains_key(MARK)
    }

    /// Records that this log is in use.
    pub(super) fn mark(&self) -> ::sled::Result<()> {
        self.meta.insert(MARK, &[1])?;
        self.flush()
    }

    pub(super) fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.job_record(id)?.map(|record| record.job))
    }

    /// Every job that can be read. One damaged record must not keep all others from being worked on.
    pub(super) fn jobs(&self) -> Result<Vec<Job>, StoreError> {
        let jobs = records(self.jobs.iter(), |key| Some(Record::Job(JobId::new(*key.first_chunk()?))));
        let readable = jobs.filter_map(|job| match job {
            Ok((_, JobRecord::<ListedState> { job, .. })) => Some(Ok(job.listed())),
            Err(StoreError::Damaged(record)) => {
                tracing::error!(record, "a record of the job store is damaged; its job is left out");
                None
            }
            Err(error @ (StoreError::Fenced | StoreError::Full | StoreError::Unavailable(_))) => Some(Err(error)),
        });
        readable.collect()
    }

    /// Those of jobs that have ended are together, or apart if they are many or an earlier version of this program has left them so.
    pub(super) fn files(&self, id: JobId) -> Result<Vec<FileRecord>, StoreError> {
        let ended: Option<Vec<FileRecord>> = one(&self.ended, Record::Files(id))?;
        let apart = self.files_apart(id)?;
        let Some(ended) = ended else { return Ok(apart) };
        Ok(by_number(ended, apart))
    }

    fn files_apart(&self, id: JobId) -> Result<Vec<FileRecord>, StoreError> {
        let record = |key: &[u8]| {
            let no = key.get(id.as_bytes().len()..)?.first_chunk()?;
            Some(Record::File(id, FileNo(u32::from_be_bytes(*no))))
        };
        records(self.files.scan_prefix(id.as_bytes()), record).map(|file| file.map(|(_, file)| file)).collect()
    }

    pub(super) fn plan(&self, id: JobId) -> Result<Option<KeptPlan>, StoreError> {
        one(&self.plans, Record::Plan(id))
    }

    /// A job that is known already stays as it is: the call was made before.
    pub(super) fn create(&self, job: Job) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        if self.job_record(job.id)?.is_none() {
            self.put_job(&mut writes, &JobRecord { epoch: Epoch::default(), job })?;
        }
        Ok(writes)
    }

    /// A job that is known already has its place.
    pub(super) fn create_within(
        &self,
        job: Job,
        allowed: &Allowance,
    ) -> Result<(Writes, Result<(), Exhausted>), StoreError> {
        let mut writes = Writes::default();
        if self.job_record(job.id)?.is_some() {
            return Ok((writes, Ok(())));
        }
        let running = if allowed.quotas.running_jobs.is_some() { self.active(&allowed.client)? } else { 0 };
        match Usage::with_kickoff(self.usage(&allowed.client)?, running, allowed) {
            Ok(usage) => {
                self.put_usage(&mut writes, &allowed.client, &usage)?;
                self.put_job(&mut writes, &JobRecord { epoch: Epoch::default(), job })?;
                Ok((writes, Ok(())))
            }
            Err(exhausted) => Ok((writes, Err(exhausted))),
        }
    }

    /// How many jobs of a client run or wait. A version of this program that does not keep them apart may have ended some.
    pub(super) fn active(&self, client: &ClientId) -> Result<usize, StoreError> {
        let digest = client.digest();
        let mut active = 0;
        for key in self.active.scan_prefix(digest).keys() {
            let key = key.map_err(|error| failed(error, Record::Usage(digest)))?;
            let Some(id) = key.get(digest.len()..).and_then(|id| id.first_chunk()) else { continue };
            match self.job_record(JobId::new(*id)) {
                Ok(record) => active += usize::from(record.is_some_and(|record| record.job.state.is_active())),
                Err(StoreError::Damaged(_)) => {}
                Err(error @ (StoreError::Fenced | StoreError::Full | StoreError::Unavailable(_))) => return Err(error),
            }
        }
        Ok(active)
    }

    /// A record that is damaged is as good as none: nobody is kept out for good because of it.
    pub(super) fn usage(&self, client: &ClientId) -> Result<Option<Usage>, StoreError> {
        match one(&self.meta, Record::Usage(client.digest())) {
            Err(StoreError::Damaged(record)) => {
                tracing::error!(record, "a record of the job store is damaged; its client's day begins anew");
                Ok(None)
            }
            other => other,
        }
    }

    fn put_usage(&self, writes: &mut Writes, client: &ClientId, usage: &Usage) -> Result<(), StoreError> {
        put(&self.meta, &mut writes.meta, Record::Usage(client.digest()), usage)
    }

    pub(super) fn consent(&self) -> Result<Option<Consent>, StoreError> {
        match one(&self.meta, Record::Consent) {
            // Then everybody on the list is taken to be new there.
            Err(StoreError::Damaged(record)) => {
                tracing::error!(record, "a record of the job store is damaged and counts for none");
                Ok(None)
            }
            other => other,
        }
    }

    pub(super) fn keep_consent(&self, consent: &Consent) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        put(&self.meta, &mut writes.meta, Record::Consent, consent)?;
        Ok(writes)
    }

    /// A record that is damaged takes its place still.
    pub(super) fn keep_cohort(&self, cohort: &ClientCohort, most: usize) -> Result<(Writes, bool), StoreError> {
        let (digest, mut writes) = (cohort.client.digest(), Writes::default());
        let record = Record::Cohort(digest, cohort.id);
        if !parts(&self.meta, record)?.is_empty() {
            return Ok((writes, true));
        }
        let mut known = BTreeSet::new();
        for key in self.meta.scan_prefix(Record::cohorts_of(digest)).keys() {
            let key = key.map_err(|error| failed(error, record))?;
            known.extend(Record::cohort_of(digest, &key).map(Record::prefix));
        }
        if known.len() >= most {
            return Ok((writes, false));
        }
        put(&self.meta, &mut writes.meta, record, cohort)?;
        Ok((writes, true))
    }

    pub(super) fn cohort(&self, client: &ClientId, id: CohortId) -> Result<Option<ClientCohort>, StoreError> {
        one(&self.meta, Record::Cohort(client.digest(), id))
    }

    /// Every one that can be read.
    pub(super) fn cohorts(&self, client: &ClientId) -> Result<Vec<ClientCohort>, StoreError> {
        let digest = client.digest();
        let all = self.meta.scan_prefix(Record::cohorts_of(digest));
        let all = records(all, |key| Record::cohort_of(digest, key));
        let readable = all.filter_map(|cohort| match cohort {
            Ok((_, cohort)) => Some(Ok(cohort)),
            Err(StoreError::Damaged(record)) => {
                tracing::error!(record, "a record of the job store is damaged; its cohort is left out");
                None
            }
            Err(error @ (StoreError::Fenced | StoreError::Full | StoreError::Unavailable(_))) => Some(Err(error)),
        });
        readable.collect()
    }

    pub(super) fn forget_cohort(&self, client: &ClientId, id: CohortId) -> Result<(Writes, bool), StoreError> {
        let (record, mut writes) = (Record::Cohort(client.digest(), id), Writes::default());
        let is_there = !parts(&self.meta, record)?.is_empty();
        remove(&self.meta, &mut writes.meta, record)?;
        Ok((writes, is_there))
    }

    pub(super) fn claim(&self, id: JobId) -> Result<(Writes, Lease), StoreError> {
        let mut record = self.live_job(id)?.ok_or(StoreError::Fenced)?;
        record.epoch = crate::store::next(record.epoch);
        let mut writes = Writes::default();
        self.put_job(&mut writes, &record)?;
        Ok((writes, Lease { job: id, epoch: record.epoch }))
    }

    pub(super) fn commit(&self, lease: Lease, change: Change) -> Result<Writes, StoreError> {
        // A job that nobody has claimed yet has no lease that could be good.
        let holds = |record: &JobRecord| record.epoch != Epoch::default() && record.epoch == lease.epoch;
        let record = self.live_job(lease.job)?.filter(holds);
        let mut record = record.ok_or(StoreError::Fenced)?;
        let Change { state, plan, files, forgotten, spent } = change;
        let mut writes = Writes::default();
        if let Some(spent) = spent {
            let usage = Usage::with_bytes(self.usage(&spent.client)?, &spent);
            self.put_usage(&mut writes, &spent.client, &usage)?;
        }
        if let Some(state) = state {
            record.job.state = state;
            self.put_job(&mut writes, &record)?;
        }
        if let Some(plan) = plan {
            put(&self.plans, &mut writes.plans, Record::Plan(lease.job), &plan)?;
        }
        let id = lease.job;
        if !record.job.state.is_active()
            && let Some(known) = self.files_to_keep_together(id)?
        {
            let mut all = by_number(known, files);
            all.retain(|file| !forgotten.contains(&file.no));
            self.put_files_together(&mut writes, id, &all)?;
            return Ok(writes);
        }
        for file in files.iter().filter(|file| !forgotten.contains(&file.no)) {
            put(&self.files, &mut writes.files, Record::File(id, file.no), file)?;
        }
        for no in forgotten {
            remove(&self.files, &mut writes.files, Record::File(id, no))?;
        }
        Ok(writes)
    }

    /// The files of a job that ends, or of one whose files are together already; `None` if they stay apart, as they are too many, or
    /// as one of them cannot be read: a job ends all the same.
    fn files_to_keep_together(&self, id: JobId) -> Result<Option<Vec<FileRecord>>, StoreError> {
        let together: Option<Vec<FileRecord>> = one(&self.ended, Record::Files(id))?;
        if let Some(together) = together {
            return Ok(Some(by_number(together, self.files_apart(id)?)));
        }
        let mut bytes = 0;
        for (count, part) in self.files.scan_prefix(id.as_bytes()).enumerate() {
            let (key, value) = part.map_err(|error| failed(error, Record::Files(id)))?;
            bytes += key.len() + value.len();
            if count >= MOST_TOGETHER || bytes > MOST_TOGETHER_BYTES {
                return Ok(None);
            }
        }
        match self.files_apart(id) {
            Ok(files) => Ok(Some(files)),
            Err(StoreError::Damaged(_) | StoreError::Unavailable(_)) => Ok(None),
            Err(error @ (StoreError::Fenced | StoreError::Full)) => Err(error),
        }
    }

    /// All files of a job that has ended.
    fn put_files_together(&self, writes: &mut Writes, id: JobId, files: &[FileRecord]) -> Result<(), StoreError> {
        self.remove_files_apart(writes, id)?;
        put(&self.ended, &mut writes.ended, Record::Files(id), &files)
    }

    fn remove_files_apart(&self, writes: &mut Writes, id: JobId) -> Result<(), StoreError> {
        for key in self.files.scan_prefix(id.as_bytes()).keys() {
            writes.files.remove(key.map_err(|error| failed(error, Record::Job(id)))?);
        }
        Ok(())
    }

    pub(super) fn delete(&self, id: JobId) -> Result<(Writes, bool), StoreError> {
        let mut writes = Writes::default();
        let Some(mut record) = self.live_job(id)? else { return Ok((writes, false)) };
        record.job.state = JobState::Deleted;
        self.put_job(&mut writes, &record)?;
        Ok((writes, true))
    }

    pub(super) fn restore(&self, found: Restored) -> Result<Writes, StoreError> {
        let Restored { job, epoch, plan, files } = found;
        let (id, mut writes) = (job.id, Writes::default());
        if self.job_record(id)?.is_some() {
            return Ok(writes);
        }
        let is_active = job.state.is_active();
        self.put_job(&mut writes, &JobRecord { epoch, job })?;
        if let Some(plan) = plan {
            put(&self.plans, &mut writes.plans, Record::Plan(id), &plan)?;
        }
        if !is_active && files.len() <= MOST_TOGETHER {
            self.put_files_together(&mut writes, id, &files)?;
            return Ok(writes);
        }
        for file in &files {
            put(&self.files, &mut writes.files, Record::File(id, file.no), file)?;
        }
        Ok(writes)
    }

    pub(super) fn purge(&self, id: JobId) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        if self.job_record(id)?.is_some_and(|record| record.job.state == JobState::Deleted) {
            remove(&self.jobs, &mut writes.jobs, Record::Job(id))?;
            remove(&self.plans, &mut writes.plans, Record::Plan(id))?;
            remove(&self.ended, &mut writes.ended, Record::Files(id))?;
            self.remove_files_apart(&mut writes, id)?;
        }
        Ok(writes)
    }

    /// A record that cannot be read is as good as none, whatever the reason.
    pub(super) fn profile(&self, key: ProfileKey) -> Result<Option<Found>, StoreError> {
        let record = Record::Profile(key);
        let parts = parts(&self.profiles, record)?;
        if parts.is_empty() {
            return Ok(None);
        }
        let decoded = codec::decode(record, &parts);
        Ok(decoded
            .inspect_err(|error| tracing::warn!(%record, %error, "what is kept of the upstream cannot be read"))
            .ok())
    }

    pub(super) fn keep_profile(&self, key: ProfileKey, found: &Found) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        put(&self.profiles, &mut writes.profiles, Record::Profile(key), found)?;
        Ok(writes)
    }

    pub(super) fn remembered_since(&self) -> Result<Option<Millis>, StoreError> {
        one(&self.meta, Record::RememberedSince)
    }

    /// Whatever stands there was written when the assertion was used.
    pub(super) fn was_used(&self, hash: [u8; 32]) -> Result<bool, StoreError> {
        Ok(!parts(&self.used, Record::Used(hash))?.is_empty())
    }

    pub(super) fn use_once(&self, Use { hash, until }: Use, began: Millis) -> Result<(Writes, bool), StoreError> {
        let mut writes = Writes::default();
        if self.was_used(hash)? {
            return Ok((writes, false));
        }
        put(&self.used, &mut writes.used, Record::Used(hash), &until)?;
        if self.remembered_since()?.is_none() {
            put(&self.meta, &mut writes.meta, Record::RememberedSince, &began)?;
        }
        Ok((writes, true))
    }

    pub(super) fn clock_mark(&self) -> Result<Option<ClockMark>, StoreError> {
        one(&self.meta, Record::ClockMark)
    }

    pub(super) fn keep_clock_mark(&self, mark: ClockMark) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        put(&self.meta, &mut writes.meta, Record::ClockMark, &mark)?;
        Ok(writes)
    }

    /// Whether some of what is remembered can be forgotten.
    pub(super) fn has_expired(&self, now: Millis) -> Result<bool, StoreError> {
        Ok(self.expired(now)?.next().is_some())
    }

    pub(super) fn forget_used(&self, now: Millis) -> Result<Writes, StoreError> {
        let mut writes = Writes::default();
        for record in self.expired(now)? {
            remove(&self.used, &mut writes.used, record)?;
        }
        Ok(writes)
    }

    /// Records of assertions that have expired. One that is damaged stays: nobody knows until when it counts.
    fn expired(&self, now: Millis) -> Result<impl Iterator<Item = Record>, StoreError> {
        let records = records::<Millis>(self.used.iter(), |key| Some(Record::Used(*key.first_chunk()?)));
        let readable = records.filter_map(|used| match used {
            Ok((record, until)) => (until <= now).then_some(Ok(record)),
            Err(StoreError::Damaged(_)) => None,
            Err(error @ (StoreError::Fenced | StoreError::Full | StoreError::Unavailable(_))) => Some(Err(error)),
        });
        Ok(readable.collect::<Result<Vec<_>, _>>()?.into_iter())
    }

    /// Makes `writes` visible; durable they are once `flush` was called and the file synced.
    pub(super) fn apply(&self, writes: &Writes) -> ::sled::Result<()> {
        let Writes { jobs, plans, files, ended, profiles, used, meta, active } = writes;
        let batches = [
            (&self.jobs, jobs),
            (&self.plans, plans),
            (&self.files, files),
            (&self.ended, ended),
            (&self.profiles, profiles),
            (&self.used, used),
            (&self.meta, meta),
            (&self.active, active),
        ];
        let mut single = batches.iter().flat_map(|(tree, batch)| batch.0.iter().map(move |write| (tree, write)));
        // One key is written as a whole anyhow. A transaction rolls sled's buffer over twice, and each of them is a write and a
        // sync of its own.
        if let (Some((tree, (key, value))), None) = (single.next(), single.next()) {
            return match value {
                Some(value) => tree.insert(key, value).map(drop),
                None => tree.remove(key).map(drop),
            };
        }
        let trees = batches.each_ref().map(|(tree, _)| *tree);
        let batches = batches.map(|(_, batch)| batch.to_sled());
        let applied = trees.as_slice().transaction(|trees| {
            for (tree, batch) in trees.iter().zip(&batches) {
                tree.apply_batch(batch)?;
            }
            Ok::<_, ConflictableTransactionError<::sled::Error>>(())
        });
        applied.map_err(|(TransactionError::Abort(error) | TransactionError::Storage(error))| error)
    }

    /// Hands all that was applied to the operating system. On Linux this is no fsync.
    pub(super) fn flush(&self) -> ::sled::Result<()> {
        self.jobs.flush().map(|_bytes| ())
    }

    fn job_record(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        one(&self.jobs, Record::Job(id))
    }

    /// A job that is not deleted.
    fn live_job(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        Ok(self.job_record(id)?.filter(|record| record.job.state != JobState::Deleted))
    }

    fn put_job(&self, writes: &mut Writes, record: &JobRecord) -> Result<(), StoreError> {
        index(writes, &record.job);
        put(&self.jobs, &mut writes.jobs, Record::Job(record.job.id), record)
    }
}

/// `changed` in the place of those of the same numbers, in the order of numbers.
fn by_number(files: Vec<FileRecord>, changed: Vec<FileRecord>) -> Vec<FileRecord> {
    let all: BTreeMap<FileNo, FileRecord> = files.into_iter().chain(changed).map(|file| (file.no, file)).collect();
    all.into_values().collect()
}

/// Keeps apart whether a client's job runs or waits.
fn index(writes: &mut Writes, job: &Job) {
    let Some(client) = job.owner.client() else { return };
    let key = [client.digest().as_slice(), job.id.as_bytes()].concat();
    if job.state.is_active() {
        writes.active.insert(key, &[]);
    } else {
        writes.active.remove(key);
    }
}
