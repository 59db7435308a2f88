//! Nothing of a type that is narrowed is written before its filter is proven. Where nothing was there to prove it when the plan
//! was made, the first resource that comes is what it is tried on.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::read::{ReadError, Reader};
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Prefix, SearchQuery};
use crate::plan::filter::{FilterNo, PlannedFilter};
use crate::plan::slice::{Scope, Slice};
use crate::plan::{ExportPlan, Strategy};
use crate::profile::{Narrowing, PatientForm};
use crate::upstream::client::Upstream;
use crate::upstream::probe::{self, FilterProbeError, Trial, list};

/// What is dated at all is later.
const EPOCH: Millis = Millis(0);
/// Patients by whom a filter is tried where the server wants one to be named.
const PATIENTS_TRIED: usize = 8;

/// Tries a filter of a plan by searches such as those that read its type: by windows of time, by what patients have, or by ids.
/// `of` is a slice of which something came, and `ids` are those that it asks for.
pub(super) async fn try_on(
    upstream: &Upstream,
    plan: &ExportPlan,
    resource_type: ResourceType,
    PlannedFilter { filter, kinds, .. }: &PlannedFilter,
    of: Option<&Slice>,
    ids: &[Id],
) -> Result<Trial, FilterProbeError> {
    let all = SearchQuery::new(resource_type);
    let bases = match plan.types.get(&resource_type).map(|plan| &plan.strategy) {
        Some(Strategy::Patients { links, .. }) if links.first().is_none_or(|link| &**link == "_id") => {
            let lists = patients(plan, resource_type, links, of).into_iter().map(|(_, patients)| patients);
            by_ids(upstream, all, filter, lists.collect()).await?
        }
        None => by_ids(upstream, all, filter, vec![ids.iter().collect()]).await?,
        Some(Strategy::Patients { links, searches }) => {
            let repeats = searches.iter().flat_map(Narrowing::names).any(|name| filter.names().any(|own| own == name));
            let mut bases = Vec::new();
            for (link, patients) in patients(plan, resource_type, links, of) {
                let of_patients = all.clone().param(link.to_owned(), list(&patients, plan.profile.patients));
                if searches.is_empty() || repeats {
                    bases.push(of_patients);
                } else {
                    bases.extend(searches.iter().map(|narrowing| narrowing.narrow(of_patients.clone())));
                }
            }
            bases
        }
        Some(Strategy::Windows) => vec![all.clone().last_updated(Prefix::GreaterOrEqual, EPOCH), all],
        Some(Strategy::Chain | Strategy::Records | Strategy::Targets) => vec![all],
    };
    probe::filter(upstream, resource_type, &bases, filter, kinds).await
}

/// Searches by ids, as single resources are read: a server may take an id for all that it is asked. Some of those that pass, as
/// far as a search for all tells, then `lists`.
pub(super) async fn by_ids(
    upstream: &Upstream,
    all: SearchQuery,
    filter: &Filter,
    lists: Vec<Vec<&Id>>,
) -> Result<Vec<SearchQuery>, FilterProbeError> {
    let passing = probe::passing(upstream, &all, filter).await?;
    let lists: Vec<_> = lists.into_iter().filter(|ids| !ids.is_empty()).collect();
    if passing.is_none() && lists.is_empty() {
        return Ok(vec![all]);
    }
    let each = passing.iter().flatten().map(|id| vec![id]);
    Ok(each.chain(lists).map(|ids| all.clone().ids(list(&ids, PatientForm::Id))).collect())
}

/// Whom to search by, and by which parameter: those of the slice, else some of the plan one by one.
fn patients<'a>(
    plan: &'a ExportPlan,
    resource_type: ResourceType,
    links: &'a [Box<str>],
    of: Option<&'a Slice>,
) -> Vec<(&'a str, Vec<&'a Id>)> {
    let asked = plan.asked_of(resource_type);
    let alone = asked.iter().take(PATIENTS_TRIED).map(|patient| vec![patient]);
    let alone = links.first().into_iter().flat_map(|link| alone.clone().map(|patient| (&**link, patient)));
    let of_slice = of.and_then(|slice| {
        let Scope::Patients { link, members, .. } = &slice.scope else { return None };
        let members = asked.get(members.start as usize..members.end as usize)?;
        Some((&**link, members.iter().collect()))
    });
    of_slice.into_iter().chain(alone).collect()
}

/// Filters that were proven only when something came.
#[derive(Debug, Default)]
pub(super) struct Proven {
    filters: Mutex<BTreeSet<(ResourceType, FilterNo)>>,
    /// One reader tries a filter, and others wait for what it finds.
    turn: tokio::sync::Mutex<()>,
}

impl Proven {
    fn filters(&self) -> MutexGuard<'_, BTreeSet<(ResourceType, FilterNo)>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// Whether the filter that a slice is read by does what it should.
    pub(super) fn relies_on_filter(&self, slice: &Slice) -> bool {
        let (Some(planned), Some(number)) = (self.plan.filter(slice), slice.filter) else { return true };
        planned.is_proven || self.proven.filters().contains(&(slice.resource_type, number))
    }

    /// Tries the filter of a slice that has brought something; `false` if nothing is there any more to show what it does. It
    /// searches and waits for others who do, so that whoever asks for it has given back all that it held.
    pub(super) async fn prove_filter(&self, slice: &Slice) -> Result<bool, ReadError> {
        let (Some(planned), Some(number)) = (self.plan.filter(slice), slice.filter) else { return Ok(true) };
        let _turn = self.proven.turn.lock().await;
        if self.relies_on_filter(slice) {
            return Ok(true);
        }
        let ids = match &slice.scope {
            Scope::Ids { list } => self.ids(slice.resource_type, list),
            Scope::Window(_) | Scope::Patients { .. } | Scope::Record { .. } | Scope::Targets { .. } => &[],
        };
        match try_on(&self.upstream, &self.plan, slice.resource_type, planned, Some(slice), ids).await? {
            Trial::Proven => {
                self.proven.filters().insert((slice.resource_type, number));
                Ok(true)
            }
            Trial::Nothing => Ok(false),
        }
    }
}
