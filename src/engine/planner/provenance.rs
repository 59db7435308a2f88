//! How the Provenance of what a job exports is to be found.

use std::collections::BTreeMap;

use super::{PlanError, Planner};
use crate::bulk::kickoff::AssociatedProvenance;
use crate::fhir::resource_type::ResourceType;
use crate::job::Job;
use crate::plan::associated::{Asked, ByTarget, is_searched_by_target};
use crate::plan::{Cohort, Strategy, TypePlan};
use crate::upstream::probe::{self, TargetSearch};

impl Planner {
    /// What is searched for by target, and whether all else of it is weighed by the records that it is about.
    pub(super) async fn provenance(
        &self,
        job: &Job,
        cohort: &Cohort,
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
        let asked = Asked { itself: is_asked_for, is_bounded, by_patient };
        let by_target = if is_searched_by_target(wanted, cohort, asked) {
            let tried = probe::targets(&self.upstream).await;
            match tried.map_err(|source| PlanError::Search { resource_type, source })? {
                TargetSearch::Proven(lists) => Some(ByTarget { which: wanted, lists }),
                // What comes from now on is newer than the export.
                TargetSearch::Nothing => None,
                TargetSearch::Unproven => return Err(PlanError::Provenance),
            }
        } else {
            None
        };
        if !is_asked_for || wanted == AssociatedProvenance::Latest {
            plan.strategy = Strategy::Targets;
        }
        let is_read_as_a_whole = matches!(plan.strategy, Strategy::Windows | Strategy::Chain);
        Ok((by_target, *cohort == Cohort::AllPatients && is_read_as_a_whole))
    }
}
