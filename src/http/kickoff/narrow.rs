//! What of each type is exported: right and wish together, fixed at the kick-off (SEC-21, SM-032).

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;

use crate::bulk::kickoff::{Kickoff, Places, names_patients};
use crate::fhir::capability::Capability;
use crate::fhir::compartment::Compartments;
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::http::problem::Problem;
use crate::smart::policy::Level;
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
    let may_come_along = |name: &ResourceType| match kickoff.read_at() {
        Level::System => false,
        Level::Patient | Level::Group => {
            !compartments.hold(*name) && kickoff.asks_for(*name) && owner.may_hold_some(*name)
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
                _ if names_patients(kickoff.read_at(), compartments, name, parameter) => {
                    "which is how it is read by patient"
                }
                _ if kickoff.finds_by(name, parameter) => "which is how it is found of other resources",
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

/// Whether files may be organized by patient: a block says whose its lines are, also where policy takes that out of them.
pub(super) fn organized(
    caller: &Caller,
    kickoff: &Kickoff,
    types: &[ResourceType],
    compartments: Compartments,
) -> Result<(), Problem> {
    let Caller::Client(client) = caller else { return Ok(()) };
    let tells = |name: &ResourceType| {
        let mut paths = compartments.links(*name).flat_map(|link| link.paths);
        paths.any(|path| client.policy().removed.touch(*name, path))
    };
    if kickoff.shape.organized_by.is_some() && types.iter().any(tells) {
        return Err(Problem::not_by_policy(
            "this client may not have all that says whose resources are, and files that are organized by patient would say it",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::bulk::kickoff::{ExportLevel, Headers, Operation};
    use crate::bulk::shape::Release;
    use crate::fhir::datatypes::Instant;
    use crate::smart::client::ClientId;
    use crate::smart::policy::{Policy, Quotas};
    use crate::smart::scope::Scopes;
    use crate::smart::server::{Client, ClientKeys, Registry};

    const STATEMENT: &[u8] = br#"{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1","rest":[{"resource":[
        {"type":"Patient","interaction":[{"code":"search-type"}],"searchParam":[{"name":"gender","type":"token"}]},
        {"type":"Observation","interaction":[{"code":"search-type"}],"searchParam":[{"name":"code","type":"token"},
          {"name":"date","type":"date"},{"name":"subject","type":"reference"}]},
        {"type":"Practitioner","interaction":[{"code":"search-type"}],"searchParam":[{"name":"active","type":"token"}]}]}]}"#;

    fn caller(scope: &str, policy: &str) -> Caller {
        let id = ClientId::parse("a").expect("a name");
        let client = Client {
            id: id.clone(),
            scopes: Scopes::parse(scope).expect("scopes"),
            keys: ClientKeys::Elsewhere,
            delivery: crate::smart::delivery::Delivery::default(),
            links: None,
            release: None,
            policy: Arc::new(serde_json::from_str::<Policy>(policy).expect("a policy")),
            quotas: Quotas::default(),
        };
        let registry = Registry::new(BTreeMap::from([(id.clone(), Arc::new(client))]));
        Caller::Client(registry.authorize(&id, scope).expect("an authorization"))
    }

    /// SEC-21: what a right is told by is listed, of its kind and not how the export itself asks; of types that are not exported
    /// nothing is wanted.
    #[test]
    fn a_right_is_held_against_what_the_server_lists_and_the_export_asks_by() {
        let capability = Capability::parse(STATEMENT).expect("a statement");
        let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
        let name = |name: &str| ResourceType::parse(name).expect("a type");
        let narrowed = |level: &ExportLevel, query: &str, types: &[&str], caller: &Caller| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static("respond-async"));
            headers.insert("accept", HeaderValue::from_static("application/fhir+json"));
            let operation = Operation { level: level.clone(), release: Release::Three };
            let headers = Headers::of(&headers);
            let base = "https://offtake.example/fhir";
            let parsed = Kickoff::parse(operation, &Method::GET, Some(query), &headers, b"", base, now);
            let (kickoff, places) = parsed.expect("a kick-off");
            let types: Vec<_> = types.iter().map(|of| name(of)).collect();
            let filters = filters(caller, &kickoff, &places, &types, &capability, Compartments::R4);
            let text = |filters: Vec<Filter>| filters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let told = |filters: BTreeMap<ResourceType, Vec<Filter>>| {
                filters.into_iter().map(|(name, filters)| format!("{name}: {}", text(filters))).collect::<Vec<_>>()
            };
            filters.map(told).map_err(|problem| problem.into_response().status())
        };
        let (system, patient) = (&ExportLevel::System, &ExportLevel::Patient);
        let all = &["Patient", "Observation"][..];
        let refused = Err(StatusCode::FORBIDDEN);
        for (scope, required, level, query, types, expected) in [
            ("system/*.rs", "", system, "", all, Ok(vec![])),
            ("system/*.rs", "Observation?date=ge2020", system, "", all, Ok(vec!["Observation: date=ge2020"])),
            ("system/*.rs", "Observation?date=yesterday", system, "", all, refused.clone()),
            ("system/*.rs", "Observation?date=yesterday", system, "", &all[..1], Ok(vec![])),
            ("system/*.rs", "Observation?near=x", system, "", all, refused.clone()),
            (
                "system/*.rs",
                "Observation?subject=Patient/1",
                system,
                "",
                all,
                Ok(vec!["Observation: subject=Patient/1"]),
            ),
            ("system/*.rs", "Observation?subject=Patient/1", patient, "", all, refused.clone()),
            // It may come by reference where patients are asked for.
            ("system/*.rs", "Practitioner?active=true", patient, "", all, Ok(vec!["Practitioner: active=true"])),
            ("system/*.rs", "Practitioner?near=x", patient, "", all, refused.clone()),
            ("system/*.rs", "Practitioner?near=x", patient, "_type=Patient", &all[..1], Ok(vec![])),
            ("system/*.rs", "Practitioner?near=x", system, "", all, Ok(vec![])),
            ("system/Patient.rs system/Observation.rs", "Practitioner?near=x", patient, "", all, Ok(vec![])),
            (
                "system/Observation.rs?code=a system/Observation.rs?code=b",
                "Observation?date=ge2020",
                system,
                "_typeFilter=Observation?code=c",
                &all[1..],
                Ok(vec!["Observation: code=a&code=c&date=ge2020 or code=b&code=c&date=ge2020"]),
            ),
        ] {
            let required = if required.is_empty() { String::new() } else { format!("\"{required}\"") };
            let caller = caller(scope, &format!(r#"{{"required":[{required}]}}"#));
            let expected = expected.map(|all: Vec<&str>| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(narrowed(level, query, types, &caller), expected, "{scope} {required} {level:?} {query}");
        }
    }
}
