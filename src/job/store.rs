//! Store trait: what the engine asks of whatever keeps the jobs.

use std::fmt;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::checkpoint::{FileNo, FileRecord};
use super::cohort::ClientCohort;
use super::usage::{Allowance, Exhausted, Spent, Usage};
use super::{Epoch, Job, JobId, JobState};
use crate::bulk::cohort::CohortId;
use crate::fhir::datatypes::Millis;
use crate::plan::kept::KeptPlan;
use crate::profile::{Found, ProfileKey};
use crate::smart::assertion::Use;
use crate::smart::client::ClientId;
use crate::smart::consent::Consent;

/// Keeps jobs, plans and files. Every call is durable when it answers, atomic, and may be repeated.
pub(crate) trait Store: fmt::Debug + Send + Sync + 'static {
    /// Bytes that are free where it writes; `None` if it cannot tell.
    fn free(&self) -> Option<u64> {
        None
    }

    /// Records a new job.
    fn create(&self, job: Job) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Records a new job and that its client has kicked it off, if what the client may use leaves room for it. Of any number at
    /// once as many are recorded as there is room for.
    fn create_within(&self, job: Job, allowed: Allowance) -> BoxFuture<'_, Result<Result<(), Exhausted>, StoreError>>;

    /// How many jobs of a client run or wait. Those that have ended cost nothing here.
    fn active(&self, client: ClientId) -> BoxFuture<'_, Result<usize, StoreError>>;

    /// What a client has used of its latest day.
    fn usage(&self, client: ClientId) -> BoxFuture<'_, Result<Option<Usage>, StoreError>>;

    /// A job, also one that is deleted; `None` once it is purged.
    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<Job>, StoreError>>;

    /// Every job, in no particular order, [as lists have it](Job::listed): there may be thousands of jobs, of thousands of
    /// patients each, and with a proof for each of 150 types.
    fn jobs(&self) -> BoxFuture<'_, Result<Vec<Job>, StoreError>>;

    /// The files of a job in the order of their numbers.
    fn files(&self, id: JobId) -> BoxFuture<'_, Result<Vec<FileRecord>, StoreError>>;

    /// The plan of a job, once it was committed.
    fn plan(&self, id: JobId) -> BoxFuture<'_, Result<Option<KeptPlan>, StoreError>>;

    /// Takes the job for one worker: every earlier lease is fenced from now on.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the job is unknown or deleted.
    fn claim(&self, id: JobId) -> BoxFuture<'_, Result<Lease, StoreError>>;

    /// Records all of `change`, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the job was deleted or claimed anew since the lease was given.
    fn commit(&self, lease: Lease, change: Change) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Marks a job as deleted and fences its worker; `false` if it is unknown or deleted already.
    fn delete(&self, id: JobId) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Records a job that was found outside the store, with all that belongs to it. One that is known already stays as
    /// it is.
    fn restore(&self, found: Restored) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Forgets a deleted job and all that belongs to it. A job that is not deleted is left alone.
    fn purge(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What was found out about an upstream. A record that is damaged, or that a later version wrote, is as good as none:
    /// the server can be asked again.
    fn profile(&self, key: ProfileKey) -> BoxFuture<'_, Result<Option<Found>, StoreError>>;

    /// Keeps what was found out about an upstream, in the place of what was kept before.
    fn keep_profile(&self, key: ProfileKey, found: Found) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Who had withdrawn consent, as it was kept last.
    fn consent(&self) -> BoxFuture<'_, Result<Option<Consent>, StoreError>>;

    /// Keeps who has withdrawn consent, in the place of what was kept before.
    fn keep_consent(&self, consent: Consent) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Records a cohort that a client has made, unless it has `most` of them: whether there was room for it. Of any number at
    /// once as many are recorded as there is room for. One that is known already stays as it is.
    fn keep_cohort(&self, cohort: ClientCohort, most: usize) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// A cohort of this client's.
    fn cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<Option<ClientCohort>, StoreError>>;

    /// All cohorts of a client, in the order of their ids.
    fn cohorts(&self, client: ClientId) -> BoxFuture<'_, Result<Vec<ClientCohort>, StoreError>>;

    /// Forgets a cohort of this client's; `false` if there is none.
    fn forget_cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Since when it is remembered which assertions were used (SEC-13); `None` before the first was.
    fn remembered_since(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>>;

    /// Whether the assertion of this hash was used. A record that cannot be read is one of an assertion that was.
    fn was_used(&self, hash: [u8; 32]) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Records that an assertion was used; `false` if it was before. Of any number at once one is the first (SM-017). With
    /// the first of all it is recorded that they are remembered since `began`.
    fn use_once(&self, assertion: Use, began: Millis) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// What is known of the clock, as it was kept last.
    fn clock_mark(&self) -> BoxFuture<'_, Result<Option<ClockMark>, StoreError>>;

    /// Keeps that, in the place of what was kept before.
    fn keep_clock_mark(&self, mark: ClockMark) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Forgets assertions that have expired by `now`.
    fn forget_used(&self, now: Millis) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// What outlives the process of what is known of the wall clock (SEC-44).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockMark {
    /// The latest time that was seen.
    pub(crate) at: Millis,
    /// When an operator said last that it is right though it was behind.
    pub(crate) confirmed: Option<Millis>,
}

/// The right to commit to a job until somebody else claims it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) job: JobId,
    pub(crate) epoch: Epoch,
}

/// What one commit records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) state: Option<JobState>,
    pub(crate) plan: Option<KeptPlan>,
    /// Files opened or completed.
    pub(crate) files: Vec<FileRecord>,
    /// Open files whose object is gone.
    pub(crate) forgotten: Vec<FileNo>,
    /// What the files that are completed take of their client's day.
    pub(crate) spent: Option<Spent>,
}

/// A job as it was found outside the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Restored {
    pub(crate) job: Job,
    /// Later than that of anybody who ever held it.
    pub(crate) epoch: Epoch,
    pub(crate) plan: Option<KeptPlan>,
    pub(crate) files: Vec<FileRecord>,
}

/// Why the store did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The lease is no longer good: the job was deleted or somebody else works on it.
    #[error("the job was deleted or taken over")]
    Fenced,
    /// There is no room for it. What makes room can still be recorded: deletions.
    #[error("the disk of the job store is full")]
    Full,
    /// The store cannot be used; the cause is `source`.
    #[error("the job store cannot be used")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record is not what was written.
    #[error("the job store's record {0} is damaged")]
    Damaged(String),
}
