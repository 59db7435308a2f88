//! A disk that is full at a chosen write, until room is made, for tests: a store on it, and the point itself, which an
//! object store can share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::watch;

use crate::bulk::cohort::CohortId;
use crate::fhir::datatypes::Millis;
use crate::job::checkpoint::FileRecord;
use crate::job::cohort::ClientCohort;
use crate::job::store::{Change, ClockMark, Lease, Restored, Store, StoreError};
use crate::job::usage::{Allowance, Exhausted, Usage};
use crate::job::{Job, JobId};
use crate::plan::kept::KeptPlan;
use crate::profile::{Found, ProfileKey};
use crate::smart::assertion::Use;
use crate::smart::client::ClientId;
use crate::smart::consent::Consent;

/// Where a disk is full: shared by all that lies on it.
#[derive(Debug)]
pub struct FullPoint {
    at: Option<usize>,
    writes: AtomicUsize,
    full: watch::Sender<bool>,
}

impl FullPoint {
    /// Full from the write of this number on, counted from 1; without one it only counts.
    #[must_use]
    pub fn new(at: Option<usize>) -> Self {
        Self { at, writes: AtomicUsize::new(0), full: watch::Sender::new(false) }
    }

    /// How many writes there were so far: as many places to be full at.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Counts a write, and answers whether there is room for it.
    pub fn takes(&self) -> bool {
        if self.writes.fetch_add(1, Ordering::SeqCst) + 1 == self.at.unwrap_or(0) {
            self.full.send_replace(true);
        }
        !self.is_full()
    }

    /// Whether there is no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    /// Makes room, for good.
    pub fn make_room(&self) {
        self.full.send_replace(false);
    }
}

/// Hands every call on to another store, but for writes while its disk is full. Those that make room have room set aside
/// for them.
pub(crate) struct FullStore {
    below: Arc<dyn Store>,
    point: Arc<FullPoint>,
}

impl FullStore {
    pub(crate) fn new(below: Arc<dyn Store>, point: Arc<FullPoint>) -> Self {
        Self { below, point }
    }

    fn write<'a, T: Send + 'a>(
        &self,
        write: BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        if self.point.takes() { write } else { std::future::ready(Err(StoreError::Full)).boxed() }
    }
}

impl Store for FullStore {
    fn create(&self, job: Job) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(self.below.create(job))
    }

    fn create_within(&self, job: Job, allowed: Allowance) -> BoxFuture<'_, Result<Result<(), Exhausted>, StoreError>> {
        self.write(self.below.create_within(job, allowed))
    }

    fn active(&self, client: ClientId) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.below.active(client)
    }

    fn usage(&self, client: ClientId) -> BoxFuture<'_, Result<Option<Usage>, StoreError>> {
        self.below.usage(client)
    }

    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<Job>, StoreError>> {
        self.below.job(id)
    }

    fn jobs(&self) -> BoxFuture<'_, Result<Vec<Job>, StoreError>> {
        self.below.jobs()
    }

    fn files(&self, id: JobId) -> BoxFuture<'_, Result<Vec<FileRecord>, StoreError>> {
        self.below.files(id)
    }

    fn plan(&self, id: JobId) -> BoxFuture<'_, Result<Option<KeptPlan>, StoreError>> {
        self.below.plan(id)
    }

    fn claim(&self, id: JobId) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.write(self.below.claim(id))
    }

    fn commit(&self, lease: Lease, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(self.below.commit(lease, change))
    }

    fn delete(&self, id: JobId) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.below.delete(id)
    }

    fn restore(&self, found: Restored) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(self.below.restore(found))
    }

    fn purge(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.below.purge(id)
    }

    fn profile(&self, key: ProfileKey) -> BoxFuture<'_, Result<Option<Found>, StoreError>> {
        self.below.profile(key)
    }

    fn keep_profile(&self, key: ProfileKey, found: Found) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(self.below.keep_profile(key, found))
    }

    fn consent(&self) -> BoxFuture<'_, Result<Option<Consent>, StoreError>> {
        self.below.consent()
    }

    fn keep_consent(&self, consent: Consent) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(self.below.keep_consent(consent))
    }

    fn keep_cohort(&self, cohort: ClientCohort, most: usize) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.write(self.below.keep_cohort(cohort, most))
    }

    fn cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<Option<ClientCohort>, StoreError>> {
        self.below.cohort(client, id)
    }

    fn cohorts(&self, client: ClientId) -> BoxFuture<'_, Result<Vec<ClientCohort>, StoreError>> {
        self.below.cohorts(client)
    }

    fn forget_cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.below.forget_cohort(client, id)
    }

    fn remembered_since(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        self.below.remembered_since()
    }

    fn was_used(&self, hash: [u8; 32]) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.below.was_used(hash)
    }

    fn use_once(&self, assertion: Use, began: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        // Without a token nobody could delete anything.
        self.below.use_once(assertion, began)
    }

    fn clock_mark(&self) -> BoxFuture<'_, Result<Option<ClockMark>, StoreError>> {
        self.below.clock_mark()
    }

    fn keep_clock_mark(&self, mark: ClockMark) -> BoxFuture<'_, Result<(), StoreError>> {
        self.below.keep_clock_mark(mark)
    }

    fn forget_used(&self, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        self.below.forget_used(now)
    }
}

impl fmt::Debug for FullStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FullStore({:?}, {:?})", self.point, self.below)
    }
}
