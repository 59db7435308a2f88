//! A process that is killed at a chosen effect, for tests: a store that stops there for good, and the point itself,
//! which an object store can share.
//!
//! A store answers once what it wrote is durable. So a process that dies in a write finds one of two things when it
//! starts again: the write was not durable yet and never happened ([`When::Before`]), or it was and nobody was told
//! ([`When::After`]). The second life of a test opens the store below this one.

use std::fmt;
use std::future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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

/// Hands every call on to another store, until its [`CrashPoint`] is reached: from then on no call ever completes,
/// not even one that was under way.
pub(crate) struct CrashStore {
    below: Arc<dyn Store>,
    point: Arc<CrashPoint>,
}

/// Where a process stops for good: shared by everything that can tell a life from the next one.
#[derive(Debug)]
pub struct CrashPoint {
    crash: Option<Crash>,
    /// Only effects of this kind are counted for it.
    of: Option<&'static str>,
    /// What each effect so far was.
    effects: Mutex<Vec<&'static str>>,
    /// The kind of effect that it has stopped at.
    hit: OnceLock<&'static str>,
    crashed: watch::Sender<bool>,
}

/// At which effect a process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// The number of the effect, counted from 1.
    pub at: usize,
    /// On which side of it.
    pub when: When,
}

/// On which side of an effect a process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The effect is lost: nothing of it was synced.
    Before,
    /// The effect is durable, but is never acknowledged.
    After,
}

impl CrashPoint {
    /// Stops at `crash`; without one it only counts.
    #[must_use]
    pub fn new(crash: Option<Crash>) -> Self {
        Self { crash, of: None, effects: Mutex::default(), hit: OnceLock::new(), crashed: watch::Sender::new(false) }
    }

    /// Stops at `crash`, counted by the effects of one kind alone: those are at no fixed place among all.
    #[must_use]
    pub fn at_kind(kind: &'static str, crash: Crash) -> Self {
        Self { of: Some(kind), ..Self::new(Some(crash)) }
    }

    /// How many effects there were so far: as many places to crash at.
    #[must_use]
    pub fn effects(&self) -> usize {
        self.kinds().len()
    }

    /// What the effects so far were, one after another.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// At what kind of effect it has stopped, if it has come to that.
    #[must_use]
    pub fn hit(&self) -> Option<&'static str> {
        self.hit.get().copied()
    }

    /// Completes once the crash has come.
    pub async fn crashed(&self) {
        // The sender lives as long as `self`, so that waiting cannot end in an error.
        let mut crashed = self.crashed.subscribe();
        let _seen = crashed.wait_for(|crashed| *crashed).await;
    }

    /// Makes a call that changes nothing: it never answers once the crash has come.
    pub async fn look<T>(&self, call: impl Future<Output = T>) -> T {
        if self.has_crashed() {
            return future::pending().await;
        }
        let answer = call.await;
        if self.has_crashed() { future::pending().await } else { answer }
    }

    /// Makes a call that has an effect of some kind, or stops before or after it.
    pub async fn effect<T>(&self, kind: &'static str, call: impl Future<Output = T>) -> T {
        if self.has_crashed() {
            return future::pending().await;
        }
        let number = {
            let mut effects = self.effects.lock().unwrap_or_else(PoisonError::into_inner);
            effects.push(kind);
            match self.of {
                None => effects.len(),
                Some(of) if of == kind => effects.iter().filter(|kind| **kind == of).count(),
                // The first one has the number 1.
                Some(_) => 0,
            }
        };
        let when = self.crash.filter(|crash| crash.at == number).map(|crash| crash.when);
        if when.is_some() {
            self.hit.get_or_init(|| kind);
        }
        match when {
            None => {}
            Some(When::Before) => self.stop(),
            Some(When::After) => {
                call.await;
                self.stop();
                return future::pending().await;
            }
        }
        self.look(call).await
    }

    /// Stops here and now.
    pub fn stop(&self) {
        self.crashed.send_replace(true);
    }

    fn has_crashed(&self) -> bool {
        *self.crashed.borrow()
    }
}

impl CrashStore {
    /// `below`, up to `point`.
    pub(crate) fn new(below: Arc<dyn Store>, point: Arc<CrashPoint>) -> Self {
        Self { below, point }
    }
}

impl Store for CrashStore {
    fn create(&self, job: Job) -> BoxFuture<'_, Result<(), StoreError>> {
        self.point.effect("store: create", self.below.create(job)).boxed()
    }

    fn create_within(&self, job: Job, allowed: Allowance) -> BoxFuture<'_, Result<Result<(), Exhausted>, StoreError>> {
        self.point.effect("store: create", self.below.create_within(job, allowed)).boxed()
    }

    fn active(&self, client: ClientId) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.point.look(self.below.active(client)).boxed()
    }

    fn usage(&self, client: ClientId) -> BoxFuture<'_, Result<Option<Usage>, StoreError>> {
        self.point.look(self.below.usage(client)).boxed()
    }

    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<Job>, StoreError>> {
        self.point.look(self.below.job(id)).boxed()
    }

    fn jobs(&self) -> BoxFuture<'_, Result<Vec<Job>, StoreError>> {
        self.point.look(self.below.jobs()).boxed()
    }

    fn files(&self, id: JobId) -> BoxFuture<'_, Result<Vec<FileRecord>, StoreError>> {
        self.point.look(self.below.files(id)).boxed()
    }

    fn plan(&self, id: JobId) -> BoxFuture<'_, Result<Option<KeptPlan>, StoreError>> {
        self.point.look(self.below.plan(id)).boxed()
    }

    fn claim(&self, id: JobId) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.point.effect("store: claim", self.below.claim(id)).boxed()
    }

    fn commit(&self, lease: Lease, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        self.point.effect("store: commit", self.below.commit(lease, change)).boxed()
    }

    fn delete(&self, id: JobId) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.point.effect("store: delete", self.below.delete(id)).boxed()
    }

    fn restore(&self, found: Restored) -> BoxFuture<'_, Result<(), StoreError>> {
        self.point.effect("store: restore", self.below.restore(found)).boxed()
    }

    fn purge(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.point.effect("store: purge", self.below.purge(id)).boxed()
    }

    fn profile(&self, key: ProfileKey) -> BoxFuture<'_, Result<Option<Found>, StoreError>> {
        self.point.look(self.below.profile(key)).boxed()
    }

    fn keep_profile(&self, key: ProfileKey, found: Found) -> BoxFuture<'_, Result<(), StoreError>> {
        self.point.effect("store: profile", self.below.keep_profile(key, found)).boxed()
    }

    fn consent(&self) -> BoxFuture<'_, Result<Option<Consent>, StoreError>> {
        self.point.look(self.below.consent()).boxed()
    }

    fn keep_consent(&self, consent: Consent) -> BoxFuture<'_, Result<(), StoreError>> {
        self.point.effect("store: consent", self.below.keep_consent(consent)).boxed()
    }

    fn keep_cohort(&self, cohort: ClientCohort, most: usize) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.point.effect("store: cohort", self.below.keep_cohort(cohort, most)).boxed()
    }

    fn cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<Option<ClientCohort>, StoreError>> {
        self.point.look(self.below.cohort(client, id)).boxed()
    }

    fn cohorts(&self, client: ClientId) -> BoxFuture<'_, Result<Vec<ClientCohort>, StoreError>> {
        self.point.look(self.below.cohorts(client)).boxed()
    }

    fn forget_cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.point.effect("store: forget cohort", self.below.forget_cohort(client, id)).boxed()
    }

    fn remembered_since(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        self.point.look(self.below.remembered_since()).boxed()
    }

    fn was_used(&self, hash: [u8; 32]) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.point.look(self.below.was_used(hash)).boxed()
    }

    fn use_once(&self, assertion: Use, began: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.point.effect("store: use once", self.below.use_once(assertion, began)).boxed()
    }

    fn clock_mark(&self) -> BoxFuture<'_, Result<Option<ClockMark>, StoreError>> {
        self.point.look(self.below.clock_mark()).boxed()
    }

    fn keep_clock_mark(&self, mark: ClockMark) -> BoxFuture<'_, Result<(), StoreError>> {
        self.point.look(self.below.keep_clock_mark(mark)).boxed()
    }

    fn forget_used(&self, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        self.point.look(self.below.forget_used(now)).boxed()
    }
}

impl fmt::Debug for CrashStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrashStore({:?}, {:?})", self.point, self.below)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::store::conformance::{self, job};
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn until_it_crashes_it_does_what_every_store_does() {
        conformance::conformance(async || {
            Arc::new(CrashStore::new(memory(), Arc::new(CrashPoint::new(None)))) as Arc<dyn Store>
        })
        .await;
    }

    #[tokio::test]
    async fn a_write_at_the_crash_is_lost_or_durable_and_is_never_acknowledged() {
        for (when, survives) in [(When::Before, false), (When::After, true)] {
            let below = memory();
            let point = Arc::new(CrashPoint::new(Some(Crash { at: 2, when })));
            let store = CrashStore::new(Arc::clone(&below), Arc::clone(&point));
            store.create(job(1)).await.expect("the first write is before the crash");
            assert!(poll!(Box::pin(point.crashed())).is_pending(), "{when:?}");
            assert!(poll!(store.create(job(2))).is_pending(), "{when:?}");
            point.crashed().await;
            assert_eq!(point.effects(), 2);
            let found = below.job(job(2).id).await.expect("it is in memory");
            assert_eq!(found.is_some(), survives, "{when:?}");
        }
    }

    #[tokio::test]
    async fn a_crash_can_be_at_one_kind_of_effect() {
        let below = memory();
        let crash = Crash { at: 2, when: When::Before };
        let point = Arc::new(CrashPoint::at_kind("store: claim", crash));
        let store = CrashStore::new(Arc::clone(&below), Arc::clone(&point));
        let id = job(1).id;
        store.create(job(1)).await.expect("not a claim");
        store.claim(id).await.expect("the first one");
        assert!(poll!(store.claim(id)).is_pending());
        point.crashed().await;
        assert_eq!(point.hit(), Some("store: claim"));
        assert_eq!(point.kinds(), ["store: create", "store: claim", "store: claim"]);
    }

    #[tokio::test]
    async fn after_the_crash_no_call_completes_or_has_an_effect() {
        let below = memory();
        let point = Arc::new(CrashPoint::new(Some(Crash { at: 1, when: When::After })));
        let store = CrashStore::new(Arc::clone(&below), Arc::clone(&point));
        let mut under_way = store.jobs();
        assert!(poll!(store.create(job(1))).is_pending());
        assert!(poll!(&mut under_way).is_pending(), "a call from before the crash");
        let id = job(1).id;
        assert!(poll!(store.job(id)).is_pending());
        assert!(poll!(store.files(id)).is_pending());
        assert!(poll!(store.plan(id)).is_pending());
        assert!(poll!(store.claim(id)).is_pending());
        assert!(poll!(store.delete(id)).is_pending());
        assert!(poll!(store.purge(id)).is_pending());
        let key = conformance::found("1").0;
        assert!(poll!(store.profile(key)).is_pending());
        assert!(poll!(store.keep_profile(key, conformance::found("1").1)).is_pending());
        assert_eq!(below.job(id).await.expect("it is in memory"), Some(job(1)));
        assert_eq!(point.effects(), 1);
    }

    fn memory() -> Arc<dyn Store> {
        Arc::new(MemoryStore::default())
    }
}
