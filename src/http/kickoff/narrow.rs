//! What of each type is exported: right and wish together, fixed at the kick-off (SEC-21, SM-032).

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;

use crate::bulk::kickoff::{ExportLevel, Kickoff, Places, names_patients};
use crate::fhir::capability::Capability;
use crate::fhir::compartment::Compartments;
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::http::problem::Problem;
use crate::smart::server::Caller;

/// The filters of the types that are exported, which are `types`, and of those that may come by reference.
pub(super) fn filters(
    caller: &Caller,
    kickoff: &Kickoff,
    places: &Places,
    types: &[ResourceType],
    capability: &Capability,
    compartments: Compartments,
) -> Result<BTreeMap<ResourceType, Vec<Filter>>, Problem> {
    let (wishes, owner) = (kickoff.alternatives(), caller.owner());
    let asked_for = |name: &ResourceType| kickoff.types.as_ref().is_none_or(|types| types.contains(name));
    let may_come_along = |name: &ResourceType| match kickoff.level {
        ExportLevel::System => false,
        ExportLevel::Patient | ExportLevel::Group(_) => {
            !compartments.hold(*name) && asked_for(name) && owner.may_hold_some(*name)
        }
    };
    let narrowed: BTreeSet<_> = caller.narrowed().into_iter().chain(wishes.keys().copied()).collect();
    let mut all = BTreeMap::new();
    for name in narrowed.into_iter().filter(|name| types.contains(name) || may_come_along(name)) {
        let own = wishes.get(&name).map_or(&[][..], Vec::as_slice);
        let location = || places.of_filter(name).map(str::to_owned);
        // A scope with a query is asked for like any wish.
        let asked = own.iter().cloned().chain(caller.scoped(name)).collect::<Vec<_>>();
        if let Some(parameter) =
            asked.iter().flat_map(Filter::names).find(|parameter| !caller.may_filter_by(name, parameter))
        {
            let text = format!("what this client may have does not permit it to filter {name} by `{parameter}`");
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", text).located(location()));
        }
        let filters = caller.filters(name, own).map_err(|_too_long| {
            let text =
                format!("the filters of {name} and what this client may have of it are too many or too long together");
            Problem::new(StatusCode::BAD_REQUEST, "too-long", text).located(location())
        })?;
        // What was wished for was looked at before.
        for (filter, parameter) in filters.iter().flat_map(|filter| filter.names().map(move |name| (filter, name))) {
            let kind = capability.parameter(name, parameter);
            let why = match kind.map(|kind| filter.check_kind(parameter, kind)) {
                _ if names_patients(kickoff.level.level(), compartments, name, parameter) => {
                    "which is how it is read by patient"
                }
                None => "which the FHIR server does not list",
                Some(Err(_other_kind)) => "with a value that is none of its kind",
                Some(Ok(())) => continue,
            };
            let text = format!("of {name} this client may have a part only, told by `{parameter}`, {why}");
            return Err(Problem::new(StatusCode::FORBIDDEN, "not-supported", text));
        }
        if !filters.is_empty() && !filters.iter().any(Filter::is_all) {
            all.insert(name, filters);
        }
    }
    Ok(all)
}
