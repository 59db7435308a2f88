//! Kick-offs: what is taken has no parameter that is not known, and exports no type that is not asked for and there.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue, Method, header};

use crate::bulk::kickoff::{ExportLevel, Headers, Kickoff};
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, Instant};
use crate::fhir::resource_type::ResourceType;

/// Every parameter of the guides. Whatever else is named is refused.
const KNOWN: [&str; 12] = [
    "_type",
    "_since",
    "_until",
    "_outputFormat",
    "_typeFilter",
    "_elements",
    "patient",
    "includeAssociatedData",
    "organizeOutputBy",
    "allowPartialManifests",
    "_minimumFileSize",
    "_maximumFileSize",
];

const BASE: &str = "https://fhir.example/fhir";

/// A byte for what is asked and how, then the query, a zero, and the body.
pub(super) fn run(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let (query, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(query) = std::str::from_utf8(query) else { return };
    let level = match flags % 3 {
        0 => ExportLevel::System,
        1 => ExportLevel::Patient,
        _ => ExportLevel::Group(Id::parse("g").expect("an id")),
    };
    let method = if flags & 8 == 0 { Method::GET } else { Method::POST };
    let prefer = if flags & 16 == 0 { "respond-async" } else { "respond-async, handling=lenient" };
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/fhir+json"));
    headers.insert("prefer", HeaderValue::from_static(prefer));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
    let now = Instant::parse("2026-06-15T12:00:00Z").expect("an instant");
    let headers = Headers::of(&headers);
    let Ok((kickoff, places)) = Kickoff::parse(level, &method, Some(query), &headers, body, BASE, now) else { return };
    for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
        assert!(name.is_empty() || KNOWN.contains(&&*name), "the parameter `{name}` was passed over");
    }
    let sent: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    for parameter in sent.iter().filter_map(|sent| sent["parameter"].as_array()).flatten() {
        let name = parameter["name"].as_str().unwrap_or_default();
        assert!(KNOWN.contains(&name), "the parameter `{name}` was passed over");
    }
    assert!(kickoff.since.is_none_or(|since| since <= now));
    assert!(kickoff.since.zip(kickoff.until).is_none_or(|(since, until)| since < until));
    let there = ["Patient", "Observation", "Device", "Organization"];
    let there: BTreeSet<_> = there.into_iter().filter_map(ResourceType::parse).collect();
    let Ok(types) = kickoff.resolve(&places, &there, Compartments::R4, &|_| false) else { return };
    for name in types {
        let is_asked_for = kickoff.types.as_ref().is_none_or(|types| types.contains(&name));
        assert!(there.contains(&name) && is_asked_for, "{name} was not asked for, or is not there");
    }
}
