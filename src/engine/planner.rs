//! Makes the plan of a job: asks the upstream what it holds, how it behaves and what time it is.

mod cohort;
mod filters;
mod provenance;
mod survey;
mod times;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;

use super::chosen::Chosen;
use super::profiler::Profiler;
use super::rights::Rights;
use crate::fhir::compartment::Compartments;
use crate::fhir::filter::Filter;
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::job::Job;
use crate::plan::{
    Assumption, Boundary, BoundaryChoice, Cohort, ExportPlan, Listed, Newcomers, OnShort, Strategy, TypePlan,
};
use crate::profile::{PresetChoice, Profile, ProfileOverrides};
use crate::upstream::capabilities::StatementError;
use crate::upstream::client::{SearchError, Upstream};
use crate::upstream::cohorts::Cohorts;
use crate::upstream::group::GroupError;
use crate::upstream::probe::{self, FilterProbeError, ListError, PatientProbeError, Reached, Silent};
use survey::Survey;

/// What planning needs to know beside the job.
#[derive(Debug, Clone)]
pub(super) struct Planner {
    pub(super) upstream: Upstream,
    pub(super) searches: usize,
    pub(super) lag_millis: i64,
    pub(super) most_members: usize,
    pub(super) newcomers: Newcomers,
    pub(super) cohorts: Cohorts,
    pub(super) context: Vec<ResourceType>,
    pub(super) page_resources: u32,
    pub(super) preset: PresetChoice,
    /// Lines of the profile that an operator knows better.
    pub(super) overrides: ProfileOverrides,
    pub(super) on_short: OnShort,
    pub(super) boundary: BoundaryChoice,
    pub(super) deletions_by_difference: bool,
    /// Attachments of one resource that are inlined have so many bytes together; `None` if none is.
    pub(super) inlines: Option<u64>,
    /// What was found out about the upstream.
    pub(super) profiler: Profiler,
    /// Who is not to be exported.
    pub(super) rights: Rights,
}

/// A plan, and what is to be said about what it leaves out.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: ExportPlan,
    pub(super) refused: Vec<(ResourceType, Vec<Issue>)>,
    /// Some members of the Group are of types that come with patients only, or no reference leads to them.
    pub(super) members_left_out: bool,
    /// Some of the patients that were asked for are not there, not in the Group, or not to be exported.
    pub(super) patients_left_out: bool,
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
    #[error(
        "what belongs to patients can be searched by patient only, and who they are is not known: the server refuses the \
         probe that lists Patient"
    )]
    NobodyListed,
    #[error("what belongs to patients can be searched by patient only, and who they are cannot be found out")]
    Listing(#[from] ListError),
    #[error(
        "the Provenance of what is exported was asked for, and nothing shows that the server finds it by what it is about (`target`)"
    )]
    Provenance,
    #[error("what narrows an export cannot be relied on")]
    Filter(#[from] FilterProbeError),
    #[error("what narrows {resource_type} cannot be held against what the server lists")]
    Statement {
        resource_type: ResourceType,
        #[source]
        source: Box<StatementError>,
    },
    #[error(
        "`_since` and `_until` need `meta.lastUpdated`: the server does not filter by it, and its {0} resources do not carry it"
    )]
    Unstamped(ResourceType),
    #[error("whom the export is for was not opened")]
    Sealed,
}

impl PlanError {
    /// Whether it says nothing about the server: planning was left for the next start.
    pub(super) fn is_stopping(&self) -> bool {
        self.search().is_some_and(SearchError::is_stopping)
    }

    /// Whether the server does not accept what was shown to it.
    pub(super) fn is_unauthorized(&self) -> bool {
        self.search().is_some_and(SearchError::is_unauthorized)
    }

    /// Whether a search brought nothing that says anything.
    pub(super) fn search_failed(&self) -> bool {
        self.search().is_some()
    }

    /// The search that brought nothing, if it was one.
    fn search(&self) -> Option<&SearchError> {
        match self {
            Self::Search { source, .. } | Self::Group(GroupError::Upstream(source)) => Some(source),
            Self::Patients(PatientProbeError::Search { source, .. }) => Some(source),
            Self::Listing(ListError::Search(source)) | Self::Filter(FilterProbeError::Search { source, .. }) => {
                Some(source)
            }
            Self::Statement { source, .. } => match &**source {
                StatementError::Search(source) => Some(source),
                StatementError::Unreadable(_) | StatementError::Lately => None,
            },
            Self::Patients(PatientProbeError::FindsNothing { .. } | PatientProbeError::Ignores { .. }) => None,
            Self::Group(_)
            | Self::NobodyListed
            | Self::Listing(_)
            | Self::Unstamped(_)
            | Self::Provenance
            | Self::Filter(_)
            | Self::Sealed => None,
        }
    }
}

impl From<Silent> for PlanError {
    fn from(Silent { resource_type, source }: Silent) -> Self {
        Self::Search { resource_type, source }
    }
}

impl Planner {
    pub(super) async fn plan(&self, job: &Job) -> Result<Planned, PlanError> {
        let compartments = job.compartments;
        let preset = self.preset.of(&job.software);
        // What is known before anything is asked.
        let given = Profile::default().known(preset, &self.overrides);
        let filters = self.filters(job).await?;
        let findings = self.profiler.findings(&job.types).await?;
        let mut survey = self.survey(job, &given).await?;
        let now = survey.date.unwrap_or_else(|| self.upstream.now());
        // Whoever decides who is exported heeds what is known of such servers, and what the operator says of this one.
        let known = findings.profile.clone().known(preset, &self.overrides);
        let chosen = self.choose(job, now, &known).await?;
        let Chosen { cohort, newcomers, others, members_left_out, patients_left_out } = chosen;
        let everybody = self.everybody(job, &survey, &cohort, &known).await?;
        let by_patient = matches!(cohort, Cohort::Members(_)) || everybody.is_some();
        if matches!((&cohort, &everybody), (Cohort::Members(some), _) | (_, Some(some)) if !some.is_empty()) {
            survey.doubt_emptiness(job.compartments);
        }
        let mut profile = findings.profile;
        let some = match &everybody {
            Some(all) => all.clone(),
            None => self.some_patients(job, &mut survey, &cohort, &given).await?,
        };
        let reached = self.reach(job, &mut survey, &some, &given.searches).await?;
        let records = self.records(&mut survey, &cohort, &some, &given).await?;
        if by_patient || !reached.is_empty() {
            let is_tried = |name: &ResourceType| by_patient && !name.is_member_by_itself();
            let tried: Vec<_> = survey.types.iter().copied().filter(is_tried).collect();
            let ways = probe::ways(&reached, &given.searches);
            let found = self.patients(job, &some, &survey.held, &tried, &ways, profile.counts).await?;
            profile.note(found.form, found.lists.map(|lists| (lists.url_most_bytes, lists.post)));
        }
        let profile = profile.known(preset, &self.overrides);
        let kickoff = &job.kickoff;
        if !profile.filters_by_time() && (kickoff.since.is_some() || kickoff.until.is_some()) {
            self.must_be_stamped(job, &survey, &reached, &records).await?;
        }
        let is_organized = kickoff.shape.organized_by.is_some();
        let listed = match (&cohort, everybody) {
            (_, Some(everybody)) => everybody,
            (Cohort::Everything | Cohort::AllPatients, None) if !reached.is_empty() || !records.is_empty() => {
                probe::all_patients(&self.upstream, self.listing(&profile), &Filter::ALL).await?
            }
            (Cohort::Everything | Cohort::AllPatients | Cohort::Members(_), None) => Vec::new(),
        };
        let mut plans = BTreeMap::new();
        for resource_type in survey.types.iter().filter(|name| job.types.contains(name)) {
            let strategy = strategy(*resource_type, job.compartments, by_patient, &profile);
            let baseline = profile.counts.and_then(|_| survey.held.get(resource_type).copied());
            plans.insert(*resource_type, TypePlan { strategy, baseline, oldest: None, assumed: BTreeSet::new() });
        }
        self.chain_what_time_may_not_find(&mut plans, &profile).await?;
        let newest = match (profile.filters_by_time(), profile.sort) {
            (true, true) => self.edges(&mut plans, now).await?,
            (true, false) => self.newest_by_halves(&plans, now).await?,
            (false, _) => None,
        };
        plans.extend(reached.iter().map(|(name, reach)| (*name, patient_by_patient(*name, reach, &cohort, &profile))));
        plans.extend(records.iter().map(|name| (*name, by_records())));
        let horizon = self.horizon(job, &profile, newest, now);
        // What belongs to patients comes with its patients, or not at all.
        let may_hold = |name: &ResourceType| job.owner.may_hold(*name, job.filters_of(*name));
        let is_context = |name: &ResourceType| !compartments.hold(*name) && kickoff.asks_for(*name) && may_hold(name);
        let context = match cohort {
            Cohort::Everything => Vec::new(),
            Cohort::AllPatients | Cohort::Members(_) => {
                let named: BTreeSet<_> = self.context.iter().chain(&kickoff.associated.types).copied().collect();
                named.into_iter().filter(is_context).collect()
            }
        };
        let (by_target, provenance_of_records) = self.provenance(job, &cohort, profile.counts, &mut plans).await?;
        let bases = self.upstream.bases().into_iter().map(str::to_owned).collect();
        let boundary = self.boundary(job, plans.keys().chain(&context).copied().collect(), &survey).await?;
        let (listed, on_short) = (Listed(listed), self.on_short);
        let mut plan = ExportPlan {
            horizon,
            profile,
            types: plans,
            filters,
            cohort,
            compartments,
            listed,
            newcomers,
            others,
            context,
            by_target,
            provenance_of_records,
            is_organized,
            on_short,
            boundary,
            // It takes files of one type.
            tells_deletions_by_difference: self.deletions_by_difference && !is_organized,
            inlines: self.inlines,
            bases,
        };
        self.doubt_zeros(&mut plan).await?;
        self.prove_filters(&mut plan).await?;
        let refused = survey.refused.into_iter().filter(|(name, _)| job.types.contains(name)).collect();
        Ok(Planned { plan, refused, members_left_out, patients_left_out })
    }

    /// Where the server does not filter by time, we do, by what each resource says of itself. A type that does not say it
    /// would be exported as a whole each time.
    async fn must_be_stamped(
        &self,
        job: &Job,
        survey: &Survey,
        reached: &BTreeMap<ResourceType, Reached>,
        records: &[ResourceType],
    ) -> Result<(), PlanError> {
        let unstamped = reached.iter().find(|(_, reach)| reach.is_unstamped).map(|(name, _)| *name);
        // What only records hold was not looked at.
        if let Some(name) = unstamped.or_else(|| records.first().copied()) {
            return Err(PlanError::Unstamped(name));
        }
        let is_asked = |name: &ResourceType| job.types.contains(name) && survey.held.get(name) != Some(&0);
        let occupied = survey.types.iter().copied().filter(is_asked).collect();
        self.unstamped(occupied).await?.map_or(Ok(()), |name| Err(PlanError::Unstamped(name)))
    }

    /// One of some types whose resources do not say when they were last updated.
    async fn unstamped(&self, types: Vec<ResourceType>) -> Result<Option<ResourceType>, PlanError> {
        let mut answers = futures_util::stream::iter(types)
            .map(|name| async move { (name, probe::is_unstamped(&self.upstream, name).await) })
            .buffer_unordered(self.searches);
        while let Some((name, answer)) = answers.next().await {
            if answer.map_err(|source| PlanError::Search { resource_type: name, source })? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// A type for which a job's `_since` or `_until` cannot be heeded, as far as it is known before there is a plan: whoever
    /// asks is told at once.
    pub(super) async fn cannot_be_dated(&self, job: &Job) -> Option<ResourceType> {
        if job.kickoff.since.is_none() && job.kickoff.until.is_none() {
            return None;
        }
        let profile = self.profiler.known_profile()?;
        if profile.filters_by_time() || profile.patient_required {
            return None;
        }
        self.unstamped(job.types.clone()).await.ok().flatten()
    }

    /// Where nothing counts what no window can see, a type that has resources without a time is read as a whole.
    async fn chain_what_time_may_not_find(
        &self,
        plans: &mut BTreeMap<ResourceType, TypePlan>,
        profile: &Profile,
    ) -> Result<(), PlanError> {
        if profile.counts.is_some() {
            return Ok(());
        }
        let by_windows = plans.iter().filter(|(_, plan)| plan.strategy == Strategy::Windows).map(|(name, _)| *name);
        let mut answers = futures_util::stream::iter(by_windows.collect::<Vec<_>>())
            .map(|name| async move { (name, probe::is_partly_unstamped(&self.upstream, name).await) })
            .buffer_unordered(self.searches);
        while let Some((name, answer)) = answers.next().await {
            if answer.map_err(|source| PlanError::Search { resource_type: name, source })?
                && let Some(plan) = plans.get_mut(&name)
            {
                plan.strategy = Strategy::Chain;
            }
        }
        Ok(())
    }

    /// What is to become of what changed after the transaction time: whether the server keeps histories is seen on one
    /// resource of each type.
    async fn boundary(&self, job: &Job, types: BTreeSet<ResourceType>, survey: &Survey) -> Result<Boundary, PlanError> {
        match self.boundary {
            BoundaryChoice::NoLoss => return Ok(Boundary::NoLoss),
            // Whose block an older version would stand in, the patients who are read together do not say.
            BoundaryChoice::AsOf if job.kickoff.shape.organized_by.is_some() => return Ok(Boundary::NoLoss),
            BoundaryChoice::AsOf => {}
        }
        let narrowed: Vec<_> = types.iter().copied().filter(|name| job.filters.contains_key(name)).collect();
        if !narrowed.is_empty() {
            return Ok(Boundary::Narrowed(narrowed));
        }
        let occupied = types.into_iter().filter(|name| survey.held.get(name) != Some(&0));
        let mut answers = futures_util::stream::iter(occupied)
            .map(|name| async move { (name, probe::keeps_versions(&self.upstream, name).await) })
            .buffer_unordered(self.searches);
        let mut without = Vec::new();
        while let Some((name, answer)) = answers.next().await {
            let keeps = answer.map_err(|source| PlanError::Search { resource_type: name, source })?;
            without.extend((!keeps).then_some(name));
        }
        without.sort_unstable();
        Ok(if without.is_empty() { Boundary::AsOf } else { Boundary::NoHistory(without) })
    }
}

fn strategy(resource_type: ResourceType, compartments: Compartments, by_patient: bool, profile: &Profile) -> Strategy {
    if !by_patient {
        return if profile.filters_by_time() { Strategy::Windows } else { Strategy::Chain };
    }
    if resource_type == ResourceType::PATIENT || resource_type.is_member_by_itself() {
        return Strategy::Patients { links: vec!["_id".into()], searches: Vec::new() };
    }
    let links = compartments.links(resource_type).map(|link| link.param.into());
    Strategy::Patients { links: links.collect(), searches: profile.searches.of(resource_type).to_vec() }
}

/// The plan of a type that cannot be searched without a patient.
fn patient_by_patient(name: ResourceType, reach: &Reached, cohort: &Cohort, profile: &Profile) -> TypePlan {
    let links = reach.links.iter().map(|link| Box::from(*link)).collect();
    let mut assumed = BTreeSet::new();
    let nobody = matches!(cohort, Cohort::Members(members) if members.is_empty());
    if reach.found.is_none() && !nobody {
        assumed.insert(Assumption::NoWitness);
    }
    if reach.refuses_some && !nobody {
        assumed.insert(Assumption::RefusedLinks);
    }
    if *cohort == Cohort::Everything {
        assumed.insert(Assumption::OutsideCompartment);
    }
    let searches = profile.searches.of(name).to_vec();
    TypePlan { strategy: Strategy::Patients { links, searches }, baseline: None, oldest: None, assumed }
}

/// The plan of a type that only the records of patients hold.
fn by_records() -> TypePlan {
    let assumed = BTreeSet::from([Assumption::Everything]);
    TypePlan { strategy: Strategy::Records, baseline: None, oldest: None, assumed }
}
