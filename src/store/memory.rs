//! Keeps jobs in memory: for tests, and for those who embed the export and need no job to outlive the process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt};

use crate::bulk::cohort::CohortId;
use crate::fhir::datatypes::Millis;
use crate::job::checkpoint::{FileNo, FileRecord};
use crate::job::cohort::ClientCohort;
use crate::job::store::{Change, ClockMark, Lease, Restored, Store, StoreError};
use crate::job::usage::{Allowance, Exhausted, Usage};
use crate::job::{Epoch, Job, JobId, JobState};
use crate::plan::kept::KeptPlan;
use crate::profile::{Found, ProfileKey};
use crate::smart::assertion::Use;
use crate::smart::client::ClientId;
use crate::smart::consent::Consent;

/// A store that ends with the process.
#[derive(Default)]
pub(crate) struct MemoryStore {
    jobs: Mutex<BTreeMap<JobId, Kept>>,
    /// Taken after `jobs` where both are.
    usage: Mutex<BTreeMap<ClientId, Usage>>,
    cohorts: Mutex<BTreeMap<(ClientId, CohortId), ClientCohort>>,
    consent: Mutex<Option<Consent>>,
    profiles: Mutex<BTreeMap<ProfileKey, Found>>,
    used: Mutex<Used>,
    clock: Mutex<Option<ClockMark>>,
}

/// Assertions that were used, until when each is remembered, and since when they are.
#[derive(Default)]
struct Used {
    since: Option<Millis>,
    assertions: BTreeMap<[u8; 32], Millis>,
}

struct Kept {
    job: Job,
    epoch: Epoch,
    plan: Option<KeptPlan>,
    files: BTreeMap<FileNo, FileRecord>,
}

impl MemoryStore {
    fn kept(&self) -> MutexGuard<'_, BTreeMap<JobId, Kept>> {
        // No change is left half done by a panic: each is checked first and then made without a step that can fail.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profiles(&self) -> MutexGuard<'_, BTreeMap<ProfileKey, Found>> {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used_by_clients(&self) -> MutexGuard<'_, BTreeMap<ClientId, Usage>> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cohorts_of_clients(&self) -> MutexGuard<'_, BTreeMap<(ClientId, CohortId), ClientCohort>> {
        self.cohorts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn withdrawn(&self) -> MutexGuard<'_, Option<Consent>> {
        self.consent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create_if_allowed(&self, job: Job, allowed: Allowance) -> Result<(), Exhausted> {
        let mut jobs = self.kept();
        if jobs.contains_key(&job.id) {
            return Ok(());
        }
        let running = active(&jobs, &allowed.client);
        let mut usage = self.used_by_clients();
        let used = Usage::with_kickoff(usage.get(&allowed.client).copied(), running, &allowed)?;
        usage.insert(allowed.client, used);
        jobs.insert(job.id, Kept { job, epoch: Epoch::default(), plan: None, files: BTreeMap::new() });
        Ok(())
    }

    fn change(&self, lease: Lease, change: Change) -> Result<(), StoreError> {
        let mut jobs = self.kept();
        let kept = jobs.get_mut(&lease.job).ok_or(StoreError::Fenced)?;
        // A job that nobody has claimed yet has no lease that could be good.
        let claimed = kept.epoch != Epoch::default() && kept.epoch == lease.epoch;
        if kept.job.state == JobState::Deleted || !claimed {
            return Err(StoreError::Fenced);
        }
        let Change { state, plan, files, forgotten, spent } = change;
        if let Some(spent) = spent {
            let mut usage = self.used_by_clients();
            let used = Usage::with_bytes(usage.get(&spent.client).copied(), &spent);
            usage.insert(spent.client, used);
        }
        if let Some(state) = state {
            kept.job.state = state;
        }
        if let Some(plan) = plan {
            kept.plan = Some(plan);
        }
        kept.files.extend(files.into_iter().map(|file| (file.no, file)));
        kept.files.retain(|no, _| !forgotten.contains(no));
        Ok(())
    }
}

fn active(jobs: &BTreeMap<JobId, Kept>, client: &ClientId) -> usize {
    let is_own = |kept: &&Kept| kept.job.owner.client() == Some(client) && kept.job.state.is_active();
    jobs.values().filter(is_own).count()
}

impl Store for MemoryStore {
    fn create(&self, job: Job) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let kept = |job| Kept { job, epoch: Epoch::default(), plan: None, files: BTreeMap::new() };
            self.kept().entry(job.id).or_insert_with(|| kept(job));
            Ok(())
        }
        .boxed()
    }

    fn create_within(&self, job: Job, allowed: Allowance) -> BoxFuture<'_, Result<Result<(), Exhausted>, StoreError>> {
        async move { Ok(self.create_if_allowed(job, allowed)) }.boxed()
    }

    fn active(&self, client: ClientId) -> BoxFuture<'_, Result<usize, StoreError>> {
        async move { Ok(active(&self.kept(), &client)) }.boxed()
    }

    fn usage(&self, client: ClientId) -> BoxFuture<'_, Result<Option<Usage>, StoreError>> {
        async move { Ok(self.used_by_clients().get(&client).copied()) }.boxed()
    }

    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<Job>, StoreError>> {
        async move { Ok(self.kept().get(&id).map(|kept| kept.job.clone())) }.boxed()
    }

    fn jobs(&self) -> BoxFuture<'_, Result<Vec<Job>, StoreError>> {
        async move { Ok(self.kept().values().map(|kept| kept.job.clone().listed()).collect()) }.boxed()
    }

    fn files(&self, id: JobId) -> BoxFuture<'_, Result<Vec<FileRecord>, StoreError>> {
        async move { Ok(self.kept().get(&id).map_or_else(Vec::new, |kept| kept.files.values().cloned().collect())) }
            .boxed()
    }

    fn plan(&self, id: JobId) -> BoxFuture<'_, Result<Option<KeptPlan>, StoreError>> {
        async move { Ok(self.kept().get(&id).and_then(|kept| kept.plan.clone())) }.boxed()
    }

    fn claim(&self, id: JobId) -> BoxFuture<'_, Result<Lease, StoreError>> {
        async move {
            let mut jobs = self.kept();
            let kept = jobs.get_mut(&id).filter(|kept| kept.job.state != JobState::Deleted);
            let kept = kept.ok_or(StoreError::Fenced)?;
            kept.epoch = super::next(kept.epoch);
            Ok(Lease { job: id, epoch: kept.epoch })
        }
        .boxed()
    }

    fn commit(&self, lease: Lease, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.change(lease, change) }.boxed()
    }

    fn delete(&self, id: JobId) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let mut jobs = self.kept();
            let kept = jobs.get_mut(&id).filter(|kept| kept.job.state != JobState::Deleted);
            Ok(kept.map(|kept| kept.job.state = JobState::Deleted).is_some())
        }
        .boxed()
    }

    fn restore(&self, found: Restored) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let Restored { job, epoch, plan, files } = found;
            let files = files.into_iter().map(|file| (file.no, file)).collect();
            self.kept().entry(job.id).or_insert(Kept { job, epoch, plan, files });
            Ok(())
        }
        .boxed()
    }

    fn purge(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            self.kept().retain(|known, kept| *known != id || kept.job.state != JobState::Deleted);
            Ok(())
        }
        .boxed()
    }

    fn profile(&self, key: ProfileKey) -> BoxFuture<'_, Result<Option<Found>, StoreError>> {
        async move { Ok(self.profiles().get(&key).cloned()) }.boxed()
    }

    fn keep_profile(&self, key: ProfileKey, found: Found) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            self.profiles().insert(key, found);
            Ok(())
        }
        .boxed()
    }

    fn consent(&self) -> BoxFuture<'_, Result<Option<Consent>, StoreError>> {
        async move { Ok(self.withdrawn().clone()) }.boxed()
    }

    fn keep_consent(&self, consent: Consent) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            *self.withdrawn() = Some(consent);
            Ok(())
        }
        .boxed()
    }

    fn keep_cohort(&self, cohort: ClientCohort, most: usize) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let mut cohorts = self.cohorts_of_clients();
            let key = (cohort.client.clone(), cohort.id);
            let is_known = cohorts.contains_key(&key);
            let has_room = is_known || cohorts.keys().filter(|(client, _)| *client == cohort.client).count() < most;
            if has_room {
                cohorts.entry(key).or_insert(cohort);
            }
            Ok(has_room)
        }
        .boxed()
    }

    fn cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<Option<ClientCohort>, StoreError>> {
        async move { Ok(self.cohorts_of_clients().get(&(client, id)).cloned()) }.boxed()
    }

    fn cohorts(&self, client: ClientId) -> BoxFuture<'_, Result<Vec<ClientCohort>, StoreError>> {
        async move {
            let cohorts = self.cohorts_of_clients();
            Ok(cohorts.values().filter(|cohort| cohort.client == client).cloned().collect())
        }
        .boxed()
    }

    fn forget_cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move { Ok(self.cohorts_of_clients().remove(&(client, id)).is_some()) }.boxed()
    }

    fn remembered_since(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        async move { Ok(self.used().since) }.boxed()
    }

    fn was_used(&self, hash: [u8; 32]) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move { Ok(self.used().assertions.contains_key(&hash)) }.boxed()
    }

    fn use_once(&self, Use { hash, until }: Use, began: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let mut used = self.used();
            let is_first = !used.assertions.contains_key(&hash);
            used.assertions.entry(hash).or_insert(until);
            used.since.get_or_insert(began);
            Ok(is_first)
        }
        .boxed()
    }

    fn clock_mark(&self) -> BoxFuture<'_, Result<Option<ClockMark>, StoreError>> {
        async move { Ok(*self.clock.lock().unwrap_or_else(PoisonError::into_inner)) }.boxed()
    }

    fn keep_clock_mark(&self, mark: ClockMark) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
            Ok(())
        }
        .boxed()
    }

    fn forget_used(&self, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            self.used().assertions.retain(|_, until| now < *until);
            Ok(())
        }
        .boxed()
    }
}

impl fmt::Debug for MemoryStore {
    /// Plans hold patients' ids: the number of jobs is enough.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} jobs)", self.kept().len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn the_store_in_memory_does_what_every_store_does() {
        conformance::conformance(async || Arc::new(MemoryStore::default()) as Arc<dyn Store>).await;
    }
}
