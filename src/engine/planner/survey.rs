//! What each type of a job answers, with and without a patient, before there is a plan.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;

use super::{PlanError, Planner};
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::filter::Filter;
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::Job;
use crate::plan::{Cohort, ExportPlan, Strategy, TypePlan};
use crate::profile::{CountMethod, PatientForm, Profile, Searches};
use crate::upstream::client::SearchError;
use crate::upstream::probe::{self, Reached, Way};

/// What came of asking for each type of a job.
#[derive(Debug)]
pub(super) struct Survey {
    /// Those that are answered without a patient, and Patient where it tells of the server.
    pub(super) types: Vec<ResourceType>,
    /// How many there are of each, where the server counts.
    pub(super) held: BTreeMap<ResourceType, u64>,
    pub(super) date: Option<Millis>,
    pub(super) refused: Vec<(ResourceType, Vec<Issue>)>,
    /// Those that may be answered if a patient is named, and what was said without one.
    pub(super) alone: Vec<(ResourceType, Vec<Issue>)>,
    /// Those that are not answered then either, and what was said.
    pub(super) unreached: Vec<(ResourceType, Vec<Issue>)>,
}

impl Survey {
    /// Where nothing at all is found of what belongs to patients unless one is named, that is likely no emptiness but how
    /// the server answers: then nothing is left out for being empty.
    pub(super) fn doubt_emptiness(&mut self, compartments: Compartments) {
        let of_patients = |name: &ResourceType| *name != ResourceType::PATIENT && compartments.hold(*name);
        if self.held.iter().all(|(name, count)| !of_patients(name) || *count == 0) {
            self.held.retain(|name, _| !of_patients(name));
        }
    }
}
/// Searches of a type by the first and by the last of those whom it will be read by, for each way in which it names them.
fn by_some_patients(plan: &ExportPlan, resource_type: ResourceType) -> Vec<SearchQuery> {
    let Some(Strategy::Patients { links, .. }) = plan.types.get(&resource_type).map(|plan| &plan.strategy) else {
        return Vec::new();
    };
    let by = |link: &str, some: &[Id]| {
        let form = if link == "_id" { PatientForm::Id } else { plan.profile.patients };
        let some: Vec<_> = some.iter().collect();
        SearchQuery::new(resource_type).param(link.to_owned(), probe::list(&some, form))
    };
    let queries =
        links.iter().flat_map(|link| plan.some_asked_by(link, resource_type).into_iter().map(|some| by(link, some)));
    queries.collect()
}

impl Planner {
    /// Asks for every type of a job without a patient, but for those of which it is known that this is of no use. Where
    /// nothing is answered, patients tell more of the server than nothing.
    pub(super) async fn survey(&self, job: &Job, given: &Profile) -> Result<Survey, PlanError> {
        let required = |name: &ResourceType| given.patient_required && job.compartments.are_read_by_patient(*name);
        let (required, mut types): (Vec<_>, Vec<_>) = job.types.iter().copied().partition(required);
        if !required.is_empty() && !types.contains(&ResourceType::PATIENT) {
            types.push(ResourceType::PATIENT);
        }
        let mut held = self.held(&types).await?;
        if !types.is_empty() && held.refused.len() == types.len() && !types.contains(&ResourceType::PATIENT) {
            types.push(ResourceType::PATIENT);
            held = self.held(&types).await?;
        }
        let probe::Held { counts: held, date, mut refused } = held;
        if job.kickoff.names_patients() {
            // Members are read by their ids, whether all of their type can be searched or not.
            refused.retain(|(name, _)| *name != ResourceType::PATIENT && !name.is_member_by_itself());
        }
        types.retain(|name| refused.iter().all(|(refused, _)| refused != name));
        let (by_patient, refused) =
            refused.into_iter().partition(|(name, _)| job.compartments.are_read_by_patient(*name));
        let mut alone: Vec<(ResourceType, Vec<Issue>)> = by_patient;
        alone.extend(required.into_iter().map(|name| (name, Vec::new())));
        Ok(Survey { types, held, date, refused, alone, unreached: Vec::new() })
    }

    /// A type that is read by patient is left out for being empty only if nothing is counted for those who name patients
    /// either. Where anything is, no such count is believed: it was no more than how the server answers those who name nobody.
    pub(super) async fn doubt_zeros(&self, plan: &mut ExportPlan) -> Result<(), PlanError> {
        let Some(method) = plan.profile.counts else { return Ok(()) };
        let is_by_patient = |plan: &TypePlan| matches!(plan.strategy, Strategy::Patients { .. });
        let empty: Vec<_> = plan
            .types
            .iter()
            .filter(|(_, plan)| plan.is_empty() && is_by_patient(plan))
            .map(|(name, _)| *name)
            .collect();
        let queries: Vec<_> = empty.iter().flat_map(|name| by_some_patients(plan, *name)).collect();
        let upstream = self.upstream.giving_back();
        let mut counts = futures_util::stream::iter(queries)
            .map(|query| (query, upstream.clone()))
            .map(|(query, upstream)| async move { (query.resource_type(), upstream.count(&query, method).await) })
            .buffer_unordered(self.searches);
        let (mut are_believed, mut unanswered) = (true, BTreeSet::new());
        while let Some((resource_type, counted)) = counts.next().await {
            match counted {
                Ok((Some(count), _)) => are_believed &= count == 0,
                // It says nothing, and could not be read so either.
                Ok((None, _))
                | Err(SearchError::Refused { .. } | SearchError::Failing { .. } | SearchError::TooLarge { .. }) => {
                    unanswered.insert(resource_type);
                }
                Err(source) => return Err(PlanError::Search { resource_type, source }),
            }
        }
        drop(counts);
        if !are_believed {
            for name in empty.into_iter().filter(|name| !unanswered.contains(name)) {
                if let Some(plan) = plan.types.get_mut(&name) {
                    plan.baseline = None;
                }
            }
        }
        Ok(())
    }

    /// Patients to try searches on: the members of a Group, or some of all.
    pub(super) async fn some_patients(
        &self,
        job: &Job,
        survey: &mut Survey,
        cohort: &Cohort,
        given: &Profile,
    ) -> Result<Vec<Id>, PlanError> {
        match cohort {
            Cohort::Members(members) => return Ok(members.clone()),
            Cohort::Everything | Cohort::AllPatients if survey.alone.is_empty() => return Ok(Vec::new()),
            Cohort::Everything | Cohort::AllPatients => {}
        }
        let failed = |source| PlanError::Search { resource_type: ResourceType::PATIENT, source };
        let some = probe::some_patients(&self.upstream).await.map_err(failed)?;
        if some.is_none() {
            if given.patient_required || !survey.types.iter().any(|name| job.compartments.are_read_by_patient(*name)) {
                return Err(PlanError::NobodyListed);
            }
            // A few types that are not to be had do not stop the others.
            survey.refused.append(&mut survey.alone);
        }
        Ok(some.unwrap_or_default())
    }

    /// Every patient, where each is to have a block and no Group says who they are.
    pub(super) async fn everybody(
        &self,
        job: &Job,
        survey: &Survey,
        cohort: &Cohort,
        known: &Profile,
    ) -> Result<Option<Vec<Id>>, PlanError> {
        if job.kickoff.shape.organized_by.is_none() || *cohort != Cohort::AllPatients {
            return Ok(None);
        }
        let mut all = probe::all_patients(&self.upstream, self.listing(known), &Filter::ALL).await?;
        let is_held =
            |name: &ResourceType| survey.held.get(name) != Some(&0) && job.compartments.are_read_by_patient(*name);
        if all.is_empty() && survey.types.iter().any(is_held) {
            return Err(PlanError::NobodyListed);
        }
        let consent = self.rights.consent();
        all.retain(|id| !consent.has(id));
        Ok(Some(all))
    }

    /// How the types that want a patient can be searched by some of `patients`.
    pub(super) async fn reach(
        &self,
        job: &Job,
        survey: &mut Survey,
        patients: &[Id],
        searches: &Searches,
    ) -> Result<BTreeMap<ResourceType, Reached>, PlanError> {
        let reach = |name: ResourceType| async move {
            (name, probe::reach(&self.upstream, job.compartments, name, patients, searches.of(name)).await)
        };
        let alone: Vec<_> = std::mem::take(&mut survey.alone).into_iter().map(|(name, _)| name).collect();
        let mut answers = futures_util::stream::iter(alone).map(reach).buffer_unordered(self.searches);
        let mut reached = BTreeMap::new();
        while let Some((name, reach)) = answers.next().await {
            match reach? {
                Ok(reach) => drop(reached.insert(name, reach)),
                Err(issues) => survey.unreached.push((name, issues)),
            }
        }
        Ok(reached)
    }

    /// The types that no search by patient reaches and the records of patients hold. Where there are no such records,
    /// or they are not what is asked for, those types are refused.
    pub(super) async fn records(
        &self,
        survey: &mut Survey,
        cohort: &Cohort,
        patients: &[Id],
        given: &Profile,
    ) -> Result<Vec<ResourceType>, PlanError> {
        let of_patients = match cohort {
            Cohort::AllPatients | Cohort::Members(_) => true,
            Cohort::Everything => false,
        };
        let failed = |source| PlanError::Search { resource_type: ResourceType::PATIENT, source };
        let unreached = std::mem::take(&mut survey.unreached);
        if of_patients && !unreached.is_empty() {
            let offered = match given.everything {
                Some(known) => known,
                None => probe::records(&self.upstream, patients).await.map_err(failed)?,
            };
            if offered {
                return Ok(unreached.into_iter().map(|(name, _)| name).collect());
            }
        }
        survey.refused.extend(unreached);
        Ok(Vec::new())
    }

    /// What there is of each of `types`.
    pub(super) async fn held(&self, types: &[ResourceType]) -> Result<probe::Held, PlanError> {
        let first = types.first().copied().unwrap_or(ResourceType::PATIENT);
        let failed = |(resource_type, source)| PlanError::Search { resource_type, source };
        let method = probe::count_method(&self.upstream, types).await.map_err(|source| failed((first, source)))?;
        probe::held(&self.upstream, types, method, self.searches).await.map_err(failed)
    }

    /// What searches by patient do, by some who are patients.
    pub(super) async fn patients(
        &self,
        job: &Job,
        members: &[Id],
        held: &BTreeMap<ResourceType, u64>,
        types: &[ResourceType],
        known: &[Way<'_>],
        counts: Option<CountMethod>,
    ) -> Result<probe::Patients, PlanError> {
        let occupied = |name: &ResourceType| *name != ResourceType::PATIENT && held.get(name) != Some(&0);
        let occupied: Vec<_> = types.iter().copied().filter(occupied).collect();
        Ok(probe::patients(&self.upstream, job.compartments, &occupied, known, members, counts, self.searches).await?)
    }
}
