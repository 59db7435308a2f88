//! Whose resources an export is to hold: everybody's, a Group's, or those of the patients who were asked for.

use std::collections::BTreeSet;

use super::planner::{PlanError, Planner};
use crate::bulk::kickoff::ExportLevel;
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::Job;
use crate::plan::{Cohort, Listed, Newcomers};
use crate::profile::Profile;
use crate::upstream::cohorts::Who;
use crate::upstream::group::{self, Members, When};
use crate::upstream::probe::{self, FilterProbeError, Trial};

/// Whose resources an export is to hold, and whether somebody was left out.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) cohort: Cohort,
    /// Those of them who come as a whole, whatever `_since` says.
    pub(super) newcomers: Listed,
    /// Some members of the Group are no patients that a reference leads to.
    pub(super) members_left_out: bool,
    /// Some of the patients that were asked for are not there, not in the Group, or not to be exported.
    pub(super) patients_left_out: bool,
}

impl Planner {
    /// Finds out who they are now. Where nobody is left it is nobody, and never everybody (DS-009).
    pub(super) async fn choose(&self, job: &Job, now: Millis, profile: &Profile) -> Result<Chosen, PlanError> {
        let consent = self.rights.consent();
        let asked = job.kickoff.patients.as_ref();
        let (mut candidates, mut newcomers, mut members_left_out) = (BTreeSet::new(), Vec::new(), false);
        match (&job.kickoff.level, asked) {
            (ExportLevel::System, _) => return Ok(Chosen::all(Cohort::Everything)),
            (ExportLevel::Patient, None) => return Ok(Chosen::all(Cohort::AllPatients)),
            (ExportLevel::Patient, Some(asked)) => candidates.extend(asked.iter().cloned()),
            (ExportLevel::Group(id), _) => {
                let members = self.members(job, id, now, profile).await?;
                members_left_out = members.left_out > 0;
                candidates.extend(members.patients);
                newcomers = members.newcomers;
            }
        }
        candidates.retain(|id| !consent.has(id) && asked.is_none_or(|asked| asked.contains(id)));
        newcomers.retain(|id| candidates.contains(id));
        let newcomers = Listed(newcomers);
        let Some(asked) = asked else {
            let cohort = Cohort::Members(candidates.into_iter().collect());
            return Ok(Chosen { newcomers, members_left_out, ..Chosen::all(cohort) });
        };
        // SEC-25: whoever is not there gets the same answer as whoever is no member.
        let candidates: Vec<_> = candidates.into_iter().collect();
        let failed = |source| PlanError::Search { resource_type: ResourceType::PATIENT, source };
        let there =
            probe::existing(&self.upstream, &candidates, profile.id_lists, self.searches).await.map_err(failed)?;
        let patients_left_out = there.len() < asked.len();
        Ok(Chosen { cohort: Cohort::Members(there), newcomers, members_left_out, patients_left_out })
    }
}

impl Planner {
    /// Who is in a Group, be it the server's or ours, and which of them come as a whole.
    async fn members(&self, job: &Job, id: &Id, now: Millis, profile: &Profile) -> Result<Members, PlanError> {
        let since = job.kickoff.since.filter(|_| self.newcomers == Newcomers::Full);
        if let Some(cohort) = self.cohorts.get(id) {
            let members = match &cohort.who {
                Who::Search(filter) => self.found_by(filter, profile).await?,
                Who::Patients(_) | Who::Identifiers(_) => {
                    cohort.members(&self.upstream, self.most_members, self.searches).await?
                }
            };
            // Since when somebody is in it nobody knows.
            let newcomers = since.map(|_| members.patients.clone()).unwrap_or_default();
            return Ok(Members { newcomers, ..members });
        }
        let expands = |id: &Id| job.owner.policy().is_none_or(|policy| policy.permits_group(id));
        Ok(group::members(&self.upstream, id, self.most_members, When { now, since }, &expands).await?)
    }

    /// The patients whom a search finds, once a witness has shown that the server heeds it (SEC-21). Where it finds nobody
    /// nobody is there to show that, and nobody is a member.
    async fn found_by(&self, filter: &Filter, profile: &Profile) -> Result<Members, PlanError> {
        let resource_type = ResourceType::PATIENT;
        let statement = |source| PlanError::Statement { resource_type, source: Box::new(source) };
        let capability = self.profiler.capability().await.map_err(statement)?;
        let unlisted = |parameter: &str| FilterProbeError::Unlisted { resource_type, parameter: parameter.to_owned() };
        let kinds = filter
            .names()
            .map(|name| capability.parameter(resource_type, name).ok_or_else(|| unlisted(name)))
            .collect::<Result<Vec<_>, _>>()?;
        let all = [SearchQuery::new(resource_type)];
        match probe::filter(&self.upstream, resource_type, &all, filter, &kinds).await? {
            Trial::Nothing => Ok(Members::default()),
            Trial::Proven => {
                let (counts, stable, page) = (profile.counts, profile.links_are_stable(), self.page_resources);
                let patients =
                    probe::all_patients(&self.upstream, counts, stable, page, self.most_members, filter).await?;
                Ok(Members { patients, ..Members::default() })
            }
        }
    }
}

impl Chosen {
    fn all(cohort: Cohort) -> Self {
        let newcomers = Listed::default();
        Self { cohort, newcomers, members_left_out: false, patients_left_out: false }
    }
}
