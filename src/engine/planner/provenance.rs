//! How the Provenance of what a job exports is to be found.

use std::collections::BTreeMap;

use super::{PlanError, Planner};
use crate::bulk::kickoff::AssociatedProvenance;
use crate::fhir::resource_type::ResourceType;
use crate::job::Job;
use crate::plan::associated::{Asked, ByTarget, is_searched_by_target};
use crate::plan::cohort::Lists;
use crate::plan::{Assumption, Cohort, Strategy, TypePlan};
use crate::profile::CountMethod;
use crate::upstream::probe::{self, TargetSearch};

impl Planner {
    /// What is searched for by target, and whether all else of it is weighed by the records that it is about.
    pub(super) async fn provenance(
        &self,
        job: &Job,
        cohort: &Cohort,
        counts: Option<CountMethod>,
        plans: &mut BTreeMap<ResourceType, TypePlan>,
    ) -> Result<(Option<ByTarget>, bool), PlanError> {
        let resource_type = ResourceType::PROVENANCE;
        let kickoff = &job.kickoff;
        // Without being asked it is searched like any other type: to look for what it is about costs a search for each few
        // resources of the export.
        let Some(wanted) = kickoff.associated.provenance else { return Ok((None, false)) };
        let Some(plan) = plans.get_mut(&resource_type) else { return Ok((None, false)) };
        let is_asked_for = kickoff.asks_for_provenance_itself();
        let is_bounded = kickoff.since.is_some() || kickoff.until.is_some() || job.filters.contains_key(&resource_type);
        let by_patient = matches!(plan.strategy, Strategy::Patients { .. } | Strategy::Records);
        let latest_only = kickoff.asks_for_the_latest_only();
        let asked = Asked { itself: is_asked_for, is_bounded, by_patient };
        let by_target = if latest_only || is_searched_by_target(cohort, asked) {
            let lists = match self.try_targets(job, counts).await? {
                TargetSearch::Proven(lists) => Some(lists),
                // What comes from now on is newer than the export.
                TargetSearch::Nothing => None,
                TargetSearch::Untried => {
                    plan.assumed.insert(Assumption::NoTarget);
                    Some(Lists::NONE)
                }
                TargetSearch::Unproven => return Err(PlanError::Provenance),
            };
            lists.map(|lists| ByTarget { which: wanted, lists })
        } else {
            None
        };
        if by_target.is_some() {
            // A count of none was no more than how the server answers those who name nobody.
            plan.baseline = plan.baseline.filter(|count| *count > 0);
        }
        if !is_asked_for || latest_only {
            plan.strategy = Strategy::Targets;
        }
        let is_read_as_a_whole = matches!(plan.strategy, Strategy::Windows | Strategy::Chain);
        let is_of_all = *cohort == Cohort::AllPatients && wanted == AssociatedProvenance::Relevant;
        Ok((by_target, is_of_all && is_read_as_a_whole))
    }

    /// Whether the server finds Provenance by what it is about.
    async fn try_targets(&self, job: &Job, counts: Option<CountMethod>) -> Result<TargetSearch, PlanError> {
        let resource_type = ResourceType::PROVENANCE;
        let capability = self.profiler.capability().await;
        let capability =
            capability.map_err(|source| PlanError::Statement { resource_type, source: Box::new(source) })?;
        let searchable = capability.searchable().into_iter();
        let of_patients: Vec<_> = searchable.filter(|name| job.compartments.are_read_by_patient(*name)).collect();
        let tried = probe::targets(&self.upstream, counts, &of_patients).await;
        tried.map_err(|source| PlanError::Search { resource_type, source })
    }
}
