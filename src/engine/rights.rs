//! Whether an export may still be had, by its client as it is registered now and by the list of those who withdrew consent
//! (SEC-14).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::services::Services;
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::job::store::StoreError;
use crate::job::usage::{Allowance, Day, Exhausted, Spent, Usage};
use crate::job::{Job, Owner};
use crate::smart::consent::Consent;
use crate::smart::policy::{Level, Quotas};
use crate::smart::server::Registry;

/// Who may have what now. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Rights {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Who knows the clients, where there are any.
    registry: Option<Arc<Registry>>,
    /// Exports of one client that run or wait, unless its own quotas say so.
    most_of_a_client: u32,
    consent: RwLock<Arc<Consent>>,
    /// What of that the store does not hold yet.
    unkept: Mutex<Option<Arc<Consent>>>,
}

impl Rights {
    pub(super) fn new(registry: Option<Arc<Registry>>, most_of_a_client: u32) -> Self {
        let shared = Shared { registry, most_of_a_client, consent: RwLock::default(), unkept: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    pub(super) fn consent(&self) -> Arc<Consent> {
        Arc::clone(&self.shared.consent.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up what an earlier life of the process knew; whoever is on the list since is told apart by that.
    pub(super) fn recall(&self, consent: Consent) {
        *self.shared.consent.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(consent);
    }

    /// From now on nothing of these patients leaves.
    pub(super) fn exclude(&self, patients: BTreeSet<Id>, now: Millis) {
        let mut consent = self.shared.consent.write().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(consent.with(patients, now));
        if *next != **consent {
            *self.unkept() = Some(Arc::clone(&next));
            *consent = next;
        }
    }

    /// The list, if the store does not hold it yet.
    pub(super) fn to_be_kept(&self) -> Option<Arc<Consent>> {
        self.unkept().clone()
    }

    /// The store holds this list.
    pub(super) fn is_kept(&self, kept: &Arc<Consent>) {
        let mut unkept = self.unkept();
        if unkept.as_ref().is_some_and(|unkept| Arc::ptr_eq(unkept, kept)) {
            *unkept = None;
        }
    }

    fn unkept(&self) -> std::sync::MutexGuard<'_, Option<Arc<Consent>>> {
        self.shared.unkept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the client of a new export may use, if there are clients.
    pub(super) fn allowance(&self, owner: &Owner, now: Millis) -> Option<Allowance> {
        let client = owner.client()?.clone();
        let quotas = self.quotas(owner);
        let running_jobs = quotas.running_jobs.or(Some(self.shared.most_of_a_client));
        let quotas = Quotas { running_jobs, ..quotas };
        Some(Allowance { client, today: Day::of(now), quotas })
    }

    /// How much the client of an export may have now.
    pub(super) fn quotas(&self, owner: &Owner) -> Quotas {
        match (&self.shared.registry, owner.client()) {
            (Some(registry), Some(client)) => registry.quotas(client),
            (_, _) => Quotas::default(),
        }
    }

    /// What so many bytes take of the day of an export's client.
    pub(super) fn spent(owner: &Owner, bytes: u64, now: Millis) -> Option<Spent> {
        Some(Spent { client: owner.client()?.clone(), today: Day::of(now), bytes }).filter(|spent| spent.bytes > 0)
    }
}

impl Services {
    /// Whether a client may kick off one more export, before that is said to anybody.
    pub(super) async fn has_room(&self, allowed: &Allowance) -> Result<Result<(), Exhausted>, StoreError> {
        let client = || allowed.client.clone();
        let running = if allowed.quotas.running_jobs.is_some() { self.store.active(client()).await? } else { 0 };
        let used = self.store.usage(client()).await?;
        Ok(Usage::with_kickoff(used, running, allowed).map(drop))
    }

    /// Whether the client of an export may not have all of it any more, also what comes or came along, or somebody withdrew
    /// consent since whom it may hold.
    pub(super) async fn is_revoked(&self, job: &Job) -> Result<bool, StoreError> {
        // Whoever is no member of a Group may be spoken of by what its members have: only another export tells.
        Ok(self.rights.consent().has_grown_since(job.consent) || self.is_beyond_its_client(job).await?)
    }

    async fn is_beyond_its_client(&self, job: &Job) -> Result<bool, StoreError> {
        let Some(registry) = &self.rights.shared.registry else { return Ok(false) };
        // As the kick-off was held to it: filters of types that are exported, and those of a cohort but for who may be had at all.
        let wished = job.kickoff.filters.iter().filter(|wished| job.filters.contains_key(&wished.resource_type));
        let wished = wished.map(|wished| (wished.resource_type, &wished.filter));
        let searches = job.cohort.iter().flat_map(|cohort| &cohort.searches);
        let searches = searches.filter(|search| search.resource_type != ResourceType::PATIENT);
        let sought = searches.flat_map(|search| search.filters.iter().map(|filter| (search.resource_type, filter)));
        if !registry.may_filter_by(&job.owner, wished.chain(sought)) {
            return Ok(true);
        }
        // One from a time when there were no clients is nobody's.
        if job.owner == Owner::Open || registry.is_as_wide(&job.owner) {
            return Ok(false);
        }
        let level = &job.kickoff.level;
        // Whatever its files are, and whether they can be read.
        let Some(cohort) = &job.cohort else {
            return self.is_beyond(registry, job, level.group()).await;
        };
        // Its own Group policy cannot name: those in it count, and whether its client may have what finds members.
        let listed = cohort.members.as_ref();
        let by_group = |group: &Id| registry.covers(&job.owner, Level::Group, Some(group), []);
        let groups_are_covered = listed.is_some_and(|listed| listed.groups.iter().all(by_group));
        let names_patients = listed.is_none() || cohort.names_patients;
        let may_name = !names_patients || registry.covers(&job.owner, Level::Patient, None, []);
        let searches = cohort.searches.iter().map(|search| (search.resource_type, search.filters.as_slice()));
        let searches = searches.filter(|(name, _)| *name != ResourceType::PATIENT || job.owner.may_hold_some(*name));
        let is_covered = may_name
            && (listed.is_none() || groups_are_covered)
            && registry.covers(&job.owner, Level::Group, None, searches);
        if is_covered { self.is_beyond(registry, job, None).await } else { Ok(true) }
    }

    async fn is_beyond(&self, registry: &Registry, job: &Job, group: Option<&Id>) -> Result<bool, StoreError> {
        let level = &job.kickoff.level;
        if !registry.covers(&job.owner, level.level(), group, []) {
            return Ok(true);
        }
        let mut types = job.all_types(&self.store.files(job.id).await?);
        if job.state.is_active()
            && let Some(plan) = self.store.plan(job.id).await?
        {
            match self.opened_plan(job.id, plan).await {
                Ok(plan) => types.extend(plan.context),
                // Without its plan it brings nothing more, and soon fails.
                Err(error) if error.is_lost() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let narrowed = types.into_iter().map(|name| (name, job.filters_of(name)));
        Ok(!registry.covers(&job.owner, level.level(), group, narrowed))
    }
}
