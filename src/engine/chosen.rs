//! Whose resources an export is to hold: everybody's, a Group's, or those of the patients who were asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::planner::{PlanError, Planner};
use crate::bulk::kickoff::{ExportLevel, NamedPatients};
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::job::Job;
use crate::job::cohort::CohortOfJob;
use crate::plan::{Cohort, Listed, Newcomers, Others};
use crate::profile::Profile;
use crate::upstream::cohorts::Who;
use crate::upstream::group::{self, Members, When};
use crate::upstream::probe;

/// Whose resources an export is to hold, and whether somebody was left out.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) cohort: Cohort,
    /// Those of them who come as a whole, whatever `_since` says.
    pub(super) newcomers: Listed,
    /// Members that are no patients.
    pub(super) others: BTreeMap<ResourceType, Others>,
    /// Some members of the Group are of types that come with patients only, or no reference leads to them.
    pub(super) members_left_out: bool,
    /// Some of the patients that were asked for are not there, not in the Group, or not to be exported.
    pub(super) patients_left_out: bool,
}

impl Planner {
    /// Finds out who they are now. Where nobody is left it is nobody, and never everybody (DS-009).
    pub(super) async fn choose(&self, job: &Job, now: Millis, profile: &Profile) -> Result<Chosen, PlanError> {
        let consent = self.rights.consent();
        let asked = match &job.kickoff.patients {
            None => None,
            Some(NamedPatients::Clear(asked)) => Some(asked),
            Some(NamedPatients::Sealed(_)) => return Err(PlanError::Sealed),
        };
        let (mut candidates, mut newcomers, mut members_left_out) = (BTreeSet::new(), Vec::new(), false);
        let mut others = BTreeMap::new();
        let is_organized = job.kickoff.shape.organized_by.is_some();
        match (&job.kickoff.level, asked) {
            // What belongs to nobody has no block.
            (ExportLevel::System, _) if is_organized => return Ok(Chosen::all(Cohort::AllPatients)),
            (ExportLevel::System, _) => return Ok(Chosen::all(Cohort::Everything)),
            (ExportLevel::Patient, None) => return Ok(Chosen::all(Cohort::AllPatients)),
            (ExportLevel::Patient, Some(asked)) => candidates.extend(asked.iter().cloned()),
            (ExportLevel::Group(id), _) => {
                let members = match &job.cohort {
                    Some(cohort) => self.of_client(job, cohort, now, profile).await?,
                    None => self.members(job, id, now, profile).await?,
                };
                members_left_out = members.left_out > 0;
                candidates.extend(members.patients);
                newcomers = members.newcomers;
                // Whoever names patients asks for these and nothing else.
                others = if asked.is_none() { members.others } else { BTreeMap::new() };
                members_left_out |= is_organized && !others.is_empty();
                others.retain(|name, _| job.types.contains(name) && !is_organized);
            }
        }
        candidates.retain(|id| !consent.has(id) && asked.is_none_or(|asked| asked.contains(id)));
        newcomers.retain(|id| candidates.contains(id));
        let newcomers = Listed(newcomers);
        let Some(asked) = asked else {
            let cohort = Cohort::Members(candidates.into_iter().collect());
            return Ok(Chosen { newcomers, others, members_left_out, ..Chosen::all(cohort) });
        };
        // SEC-25: whoever is not there gets the same answer as whoever is no member.
        let candidates: Vec<_> = candidates.into_iter().collect();
        let there = self.there(&candidates, profile).await?;
        let patients_left_out = there.len() < asked.len();
        Ok(Chosen { cohort: Cohort::Members(there), newcomers, others, members_left_out, patients_left_out })
    }
}

impl Planner {
    /// Those of some patients whom the server has.
    async fn there(&self, patients: &[Id], profile: &Profile) -> Result<Vec<Id>, PlanError> {
        let failed = |source| PlanError::Search { resource_type: ResourceType::PATIENT, source };
        probe::existing(&self.upstream, patients, profile.id_lists, self.searches).await.map_err(failed)
    }

    /// Who is in a client's cohort. Since when somebody is in it nobody knows.
    async fn of_client(
        &self,
        job: &Job,
        cohort: &CohortOfJob,
        now: Millis,
        profile: &Profile,
    ) -> Result<Members, PlanError> {
        let members = self.members_of(job, cohort, now, profile).await?;
        let are_told = job.kickoff.since.is_some() && self.newcomers == Newcomers::Full;
        let newcomers = if are_told { members.patients.clone() } else { Vec::new() };
        Ok(Members { newcomers, ..members })
    }

    /// Who is in a Group, be it the server's or ours, and which of them come as a whole.
    pub(super) async fn members(
        &self,
        job: &Job,
        id: &Id,
        now: Millis,
        profile: &Profile,
    ) -> Result<Members, PlanError> {
        let since = job.kickoff.since.filter(|_| self.newcomers == Newcomers::Full);
        if let Some(cohort) = self.cohorts.get(id) {
            let members = match &cohort.who {
                Who::Search(filter) => self.found_by(filter, profile).await?,
                Who::Patients(_) => {
                    let listed = cohort.members(&self.upstream, self.most_members, self.searches).await?.patients;
                    let patients = self.there(&listed, profile).await?;
                    let left_out = listed.len().saturating_sub(patients.len()) as u64;
                    Members { patients, left_out, ..Members::default() }
                }
                Who::Identifiers(_) => cohort.members(&self.upstream, self.most_members, self.searches).await?,
            };
            // Since when somebody is in it nobody knows.
            let newcomers = since.map(|_| members.patients.clone()).unwrap_or_default();
            return Ok(Members { newcomers, ..members });
        }
        let expands = |id: &Id| job.owner.policy().is_none_or(|policy| policy.permits_group(id));
        Ok(group::members(&self.upstream, id, self.most_members, When { now, since }, &expands).await?)
    }
}

impl Chosen {
    fn all(cohort: Cohort) -> Self {
        let (newcomers, others) = (Listed::default(), BTreeMap::new());
        Self { cohort, newcomers, others, members_left_out: false, patients_left_out: false }
    }
}
