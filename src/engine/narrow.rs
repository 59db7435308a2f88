//! Nothing of a type that is narrowed is written before its filter is proven. Where nothing was there to prove it when the plan
//! was made, the first resource that comes is what it is tried on.

use super::read::{ReadError, Reader};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::plan::filter::PlannedFilter;
use crate::plan::slice::Slice;
use crate::plan::{ExportPlan, Strategy};
use crate::profile::Narrowing;
use crate::upstream::client::Upstream;
use crate::upstream::probe::{self, FilterProbeError, Trial, list};

/// Patients by whom a filter is tried where the server wants one to be named.
const PATIENTS_TRIED: usize = 8;

/// Tries a filter of a plan: on all of its type, and where that is refused on what some of the plan's patients have.
pub(super) async fn try_on(
    upstream: &Upstream,
    plan: &ExportPlan,
    resource_type: ResourceType,
    PlannedFilter { filter, kinds, .. }: &PlannedFilter,
) -> Result<Trial, FilterProbeError> {
    let all = SearchQuery::new(resource_type);
    let mut bases = vec![all.clone()];
    if let Some(Strategy::Patients { links, searches }) = plan.types.get(&resource_type).map(|plan| &plan.strategy)
        && let Some(link) = links.first().filter(|link| &***link != "_id")
    {
        let repeats = searches.iter().flat_map(Narrowing::names).any(|name| filter.names().any(|own| own == name));
        for patient in plan.patients().iter().take(PATIENTS_TRIED) {
            let of_patient = all.clone().param(link.to_string(), list(&[patient], plan.profile.patients));
            if searches.is_empty() || repeats {
                bases.push(of_patient);
            } else {
                bases.extend(searches.iter().map(|narrowing| narrowing.narrow(of_patient.clone())));
            }
        }
    }
    probe::filter(upstream, resource_type, &bases, filter, kinds).await
}

impl Reader {
    /// Whether what a slice brought was found by a filter that does what it should. `false` if nothing is there any more to
    /// show it.
    pub(super) async fn relies_on_filter(&self, slice: &Slice) -> Result<bool, ReadError> {
        let (Some(planned), Some(number)) = (self.plan.filter(slice), slice.filter) else { return Ok(true) };
        let subject = (slice.resource_type, number);
        let mut proven = self.proven.lock().await;
        if planned.is_proven || proven.contains(&subject) {
            return Ok(true);
        }
        match try_on(&self.upstream, &self.plan, slice.resource_type, planned).await? {
            Trial::Proven => {
                proven.insert(subject);
                Ok(true)
            }
            Trial::Nothing => Ok(false),
        }
    }
}
