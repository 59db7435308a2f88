//! Makes the plan of a job: asks the upstream what it holds, how it behaves and what time it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use moka::future::Cache;

use crate::bulk::kickoff::ExportLevel;
use crate::fhir::bundle::Scope;
use crate::fhir::datatypes::{Id, Instant, Millis};
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Direction, Prefix, SearchQuery};
use crate::job::Job;
use crate::plan::slice::Grid;
use crate::plan::{Cohort, ExportPlan, Horizon, OnShort, Strategy, TypePlan};
use crate::profile::{CountMethod, PresetChoice, Profile, ProfileOverrides};
use crate::upstream::client::{Room, SearchError, Upstream};
use crate::upstream::group::{self, GroupError};
use crate::upstream::probe::{self, PatientProbeError};

/// What planning needs to know beside the job.
#[derive(Debug, Clone)]
pub(super) struct Planner {
    pub(super) upstream: Upstream,
    pub(super) searches: usize,
    pub(super) lag_millis: i64,
    pub(super) most_members: usize,
    pub(super) context: Vec<ResourceType>,
    pub(super) page_resources: u32,
    pub(super) preset: PresetChoice,
    /// Lines of the profile that an operator knows better.
    pub(super) overrides: ProfileOverrides,
    pub(super) on_short: OnShort,
    /// What was found out about the upstream, for a while.
    pub(super) profiles: Cache<(), Arc<Profile>>,
}

/// A plan, and what is to be said about what it leaves out.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: ExportPlan,
    pub(super) refused: Vec<(ResourceType, Vec<Issue>)>,
    /// Some members of the Group are no patients that a reference leads to.
    pub(super) left_out: bool,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error("could not read {resource_type} by probes (slice 0, before there is a plan)")]
    Search {
        resource_type: ResourceType,
        #[source]
        source: SearchError,
    },
    #[error("could not read the Group by its id (slice 0, before there is a plan)")]
    Group(#[from] GroupError),
    #[error("searches by patient cannot be relied on")]
    Patients(#[from] PatientProbeError),
    #[error("`_since` and `_until` need a server that filters by `_lastUpdated`, and this one does not")]
    NoTimeFilter,
}

impl PlanError {
    /// Whether it says nothing about the server: planning was left for the next start.
    pub(super) fn is_stopping(&self) -> bool {
        match self {
            Self::Search { source, .. } | Self::Group(GroupError::Upstream(source)) => source.is_stopping(),
            Self::Patients(PatientProbeError::Search { source, .. }) => source.is_stopping(),
            Self::Group(_) | Self::Patients(PatientProbeError::FindsNothing { .. }) | Self::NoTimeFilter => false,
        }
    }
}

/// How long before the upstream's time W lies where nothing was ever changed.
const UNSEEN_MILLIS: i64 = 15 * 60 * 1000;

impl Planner {
    pub(super) async fn plan(&self, job: &Job) -> Result<Planned, PlanError> {
        let types = &job.types;
        let first = types.first().copied().unwrap_or(ResourceType::PATIENT);
        let failed = |resource_type| move |source| PlanError::Search { resource_type, source };
        let method = probe::count_method(&self.upstream, types).await.map_err(failed(first))?;
        let held = probe::held(&self.upstream, types, method, self.searches).await;
        let probe::Held { counts: held, date, refused } =
            held.map_err(|(resource_type, source)| PlanError::Search { resource_type, source })?;
        let now = date.unwrap_or_else(|| self.upstream.now());
        let mut left_out = false;
        let cohort = match &job.kickoff.level {
            ExportLevel::System => Cohort::Everything,
            ExportLevel::Patient => Cohort::AllPatients,
            ExportLevel::Group(id) => {
                let members = group::members(&self.upstream, id, self.most_members, now).await?;
                left_out = members.left_out > 0;
                Cohort::Members(members.patients)
            }
        };
        let mut profile = self.profile(method, &held, types).await.map_err(failed(first))?;
        if let Cohort::Members(members) = &cohort {
            let found = self.patients(members, &held, types, profile.counts).await?;
            (profile.patients, profile.or_lists) = (found.form, found.or_lists);
        }
        let profile = profile.known(self.preset.of(&job.software), &self.overrides);
        let kickoff = &job.kickoff;
        if !profile.filters_by_time() && (kickoff.since.is_some() || kickoff.until.is_some()) {
            return Err(PlanError::NoTimeFilter);
        }
        let refused_types: Vec<_> = refused.iter().map(|(name, _)| *name).collect();
        let mut plans = BTreeMap::new();
        for resource_type in types.iter().filter(|name| !refused_types.contains(name)) {
            let strategy = strategy(*resource_type, &cohort, &profile);
            let baseline = profile.counts.and_then(|_| held.get(resource_type).copied());
            plans.insert(*resource_type, TypePlan { strategy, baseline, oldest: None });
        }
        let newest = match (profile.filters_by_time(), profile.sort) {
            (true, true) => self.edges(&mut plans, now).await?,
            (true, false) => self.newest_by_halves(&plans, now).await?,
            (false, _) => None,
        };
        let grid = Grid { step: profile.last_updated.step_millis(), oldest: Millis(0), now };
        let unseen = || kickoff.since.map_or(Millis(now.0 - UNSEEN_MILLIS), Instant::floor_millis);
        let horizon = Horizon {
            // The newest one that was seen lies in a window; whatever comes later in time does not.
            windows_until: Millis(
                grid.floor(newest.map_or_else(unseen, |newest| Millis(newest.0 + grid.step)).min(now).0),
            ),
            lag_millis: self.lag_millis,
            since: kickoff.since,
            until: kickoff.until,
            step_millis: grid.step,
        };
        let asked_for = |name: &ResourceType| kickoff.types.as_ref().is_none_or(|types| types.contains(name));
        let context = match cohort {
            Cohort::Everything => Vec::new(),
            Cohort::AllPatients | Cohort::Members(_) => self.context.iter().copied().filter(asked_for).collect(),
        };
        let bases = self.upstream.bases().into_iter().map(str::to_owned).collect();
        let plan = ExportPlan { horizon, profile, types: plans, cohort, context, on_short: self.on_short, bases };
        Ok(Planned { plan, refused, left_out })
    }

    async fn profile(
        &self,
        method: Option<CountMethod>,
        held: &BTreeMap<ResourceType, u64>,
        types: &[ResourceType],
    ) -> Result<Profile, SearchError> {
        if let Some(profile) = self.profiles.get(&()).await {
            return Ok((*profile).clone());
        }
        let profile = probe::profile(&self.upstream, method, held, types, self.page_resources).await?;
        // What was not proven for want of resources is tried again by the next export.
        if profile.filters_by_time() {
            self.profiles.insert((), Arc::new(profile.clone())).await;
        }
        tracing::info!(?profile, "the upstream was probed");
        Ok(profile)
    }

    /// What searches by patient do, by the members of a Group.
    async fn patients(
        &self,
        members: &[Id],
        held: &BTreeMap<ResourceType, u64>,
        types: &[ResourceType],
        counts: Option<CountMethod>,
    ) -> Result<probe::Patients, PlanError> {
        let occupied = |name: &ResourceType| *name != ResourceType::PATIENT && held.get(name) != Some(&0);
        let occupied: Vec<_> = types.iter().copied().filter(occupied).collect();
        Ok(probe::patients(&self.upstream, &occupied, members, counts, self.searches).await?)
    }

    /// The newest stamp that is not after `now`, to the second before it, where the server does not sort: by whether
    /// anything lies in the later half.
    async fn newest_by_halves(
        &self,
        plans: &BTreeMap<ResourceType, TypePlan>,
        now: Millis,
    ) -> Result<Option<Millis>, PlanError> {
        let occupied = plans.iter().filter(|(_, plan)| !plan.is_empty()).map(|(name, _)| *name);
        let mut newest: Option<Millis> = None;
        for name in occupied {
            let failed = |source| PlanError::Search { resource_type: name, source };
            // Only what is newer than the newest of all others matters.
            let mut from = newest.map_or(0, |newest| newest.0 + 1);
            if !self.is_occupied(name, from, now).await.map_err(failed)? {
                continue;
            }
            let mut until = now.0;
            while until - from > 1_000 {
                let middle = from + (until - from) / 2;
                if self.is_occupied(name, middle, now).await.map_err(failed)? { from = middle } else { until = middle }
            }
            newest = newest.max(Some(Millis(until)));
        }
        Ok(newest)
    }

    async fn is_occupied(&self, name: ResourceType, from: i64, now: Millis) -> Result<bool, SearchError> {
        let query = SearchQuery::new(name)
            .last_updated(Prefix::GreaterOrEqual, Millis(from))
            .last_updated(Prefix::LessOrEqual, now)
            .count(1)
            .ids_only();
        match self.upstream.page(&query, Scope::of(name), Room::Share).await {
            Ok(answer) => Ok(!answer.page.entries.is_empty()),
            // What is too large to be looked at is there, and so is what makes the server fail.
            Err(SearchError::TooLarge { .. } | SearchError::Failing { .. }) => Ok(true),
            Err(SearchError::Refused { .. }) => Ok(false),
            Err(error @ (SearchError::GaveUp { .. } | SearchError::Link)) => Err(error),
        }
    }

    /// Notes each type's oldest stamp and gives the newest one of all that is not after `now`.
    async fn edges(
        &self,
        plans: &mut BTreeMap<ResourceType, TypePlan>,
        now: Millis,
    ) -> Result<Option<Millis>, PlanError> {
        let occupied: Vec<_> = plans.iter().filter(|(_, plan)| !plan.is_empty()).map(|(name, _)| *name).collect();
        let asked = occupied.into_iter().flat_map(|name| [(name, Direction::Ascending), (name, Direction::Descending)]);
        let mut answers = futures_util::stream::iter(asked)
            .map(|(name, direction)| async move { (name, direction, self.edge(name, direction, now).await) })
            .buffer_unordered(self.searches);
        let mut newest = None;
        while let Some((name, direction, edge)) = answers.next().await {
            let edge = edge.map_err(|source| PlanError::Search { resource_type: name, source })?;
            match (direction, edge) {
                (Direction::Ascending, Some(oldest)) => {
                    if let Some(plan) = plans.get_mut(&name) {
                        plan.oldest = Some(oldest);
                    }
                }
                (Direction::Descending, Some(edge)) if edge <= now => newest = newest.max(Some(edge)),
                (Direction::Descending, Some(_)) | (_, None) => {}
            }
        }
        Ok(newest)
    }

    async fn edge(&self, name: ResourceType, direction: Direction, now: Millis) -> Result<Option<Millis>, SearchError> {
        let query = SearchQuery::new(name)
            .last_updated(Prefix::LessOrEqual, now)
            .sort_last_updated(direction)
            .count(1)
            .ids_only();
        let answer = match self.upstream.page(&query, Scope::of(name), Room::Share).await {
            Err(SearchError::TooLarge { alone: false, .. }) => {
                self.upstream.page(&query, Scope::of(name), Room::Alone).await
            }
            other => other,
        };
        match answer {
            Ok(answer) => {
                Ok(answer.page.entries.iter().find_map(|entry| entry.last_updated).map(Instant::floor_millis))
            }
            Err(SearchError::Refused { .. } | SearchError::TooLarge { .. } | SearchError::Failing { .. }) => Ok(None),
            Err(error @ (SearchError::GaveUp { .. } | SearchError::Link)) => Err(error),
        }
    }
}

fn strategy(resource_type: ResourceType, cohort: &Cohort, profile: &Profile) -> Strategy {
    match cohort {
        Cohort::Members(_) if resource_type == ResourceType::PATIENT => {
            Strategy::Patients { links: vec!["_id".into()] }
        }
        Cohort::Members(_) => {
            let links = resource_type.compartment().map(|link| link.param.into());
            Strategy::Patients { links: links.collect() }
        }
        Cohort::Everything | Cohort::AllPatients if profile.filters_by_time() => Strategy::Windows,
        Cohort::Everything | Cohort::AllPatients => Strategy::Chain,
    }
}
