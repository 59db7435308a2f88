//! What may come along, and what is told of the rest.

use http::Method;

use super::*;
use crate::bulk::kickoff::{ExportLevel, Headers, Operation};
use crate::fhir::datatypes::Instant;

const BASE: &str = "https://fhir.example/fhir";

fn headers(prefer: &str) -> Headers {
    let content_type = Some("application/fhir+json".to_owned());
    Headers { accept: Some("*/*".to_owned()), prefer: vec![prefer.to_owned()], content_type, is_encoded: false }
}

fn types(names: &[&str]) -> BTreeSet<ResourceType> {
    names.iter().filter_map(|name| ResourceType::parse(name)).collect()
}

/// BD-005, BD-006, BD-024, BD-032, BD-033, SEC-22
#[test]
fn what_comes_along_is_known_by_its_code_and_the_least_restrictive_counts() {
    use AssociatedProvenance::{Latest, Relevant};
    let presets = Presets::from([("_devices".to_owned(), types(&["Device", "DeviceUseStatement"]))]);
    let settled = |query: &str, prefer: &str, lacks: &[&str]| {
        let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
        let headers = headers(prefer);
        let (mut kickoff, places) =
            Kickoff::parse(ExportLevel::System, &Method::GET, Some(query), &headers, b"", BASE, now)?;
        kickoff.associate(&places, &presets, true, |name| lacks.contains(&name.as_str()))?;
        Ok((kickoff.associated.provenance, kickoff.associated.types.len(), kickoff.ignored))
    };
    let (latest, relevant) = ("LatestProvenanceResources", "RelevantProvenanceResources");
    let (strict, lenient) = ("respond-async", "respond-async, handling=lenient");
    let nothing: [&str; 0] = [];
    for (value, prefer, lacks, expected) in [
        (latest.to_owned(), strict, &[][..], (Some(Latest), 0, &nothing[..])),
        (format!("{latest},{relevant}"), strict, &[], (Some(Relevant), 0, &nothing)),
        (format!("{relevant}&includeAssociatedData={latest}"), strict, &[], (Some(Relevant), 0, &nothing)),
        (format!("_devices,{latest}"), strict, &[], (Some(Latest), 2, &nothing)),
        // Who may have what is looked at later.
        (latest.to_owned(), strict, &["Provenance"], (Some(Latest), 0, &nothing)),
        (
            format!("{latest},_devices"),
            lenient,
            &["Provenance"],
            (None, 2, &["includeAssociatedData=LatestProvenanceResources"]),
        ),
        (format!("{latest},_devices"), lenient, &["Device"], (Some(Latest), 0, &["includeAssociatedData=_devices"])),
        (
            format!("_none,{relevant},latestProvenanceResources,_none"),
            lenient,
            &[],
            (Some(Relevant), 0, &["includeAssociatedData=_none", "includeAssociatedData=latestProvenanceResources"]),
        ),
    ] {
        let query = format!("includeAssociatedData={value}");
        let (provenance, types, ignored) = settled(&query, prefer, lacks).expect("a kick-off");
        assert_eq!(
            (provenance, types, &ignored.iter().map(String::as_str).collect::<Vec<_>>()[..]),
            expected,
            "{query}"
        );
    }
    for value in ["_none", "latestProvenanceResources", "", "LatestProvenanceResources%20,_none"] {
        let query = format!("includeAssociatedData={value}");
        let refused = settled(&query, strict, &[]).expect_err("a refusal");
        let place = "http.includeAssociatedData";
        assert!(
            matches!(&refused, KickoffError::NotAssociated { location, .. } if location == place),
            "{query}: {refused}"
        );
    }
}

/// BD-004, BD-006: a code to 3.0, a Coding in 4.0.
#[test]
fn what_comes_along_is_a_code_or_a_coding_of_the_guides_system() {
    let system = "http://hl7.org/fhir/uv/bulkdata/CodeSystem/include-associated-data";
    let settled = |value: &str, release: Release| {
        let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
        let body =
            format!(r#"{{"resourceType":"Parameters","parameter":[{{"name":"includeAssociatedData",{value}}}]}}"#);
        let operation = Operation { level: ExportLevel::System, release };
        let headers = headers("respond-async");
        let (mut kickoff, places) =
            Kickoff::parse(operation, &Method::POST, None, &headers, body.as_bytes(), BASE, now)?;
        kickoff.associate(&places, &Presets::new(), true, |_| false)?;
        Ok(kickoff.associated.provenance)
    };
    let code = r#""valueCode":"LatestProvenanceResources""#;
    let coding = format!(r#""valueCoding":{{"system":"{system}","code":"LatestProvenanceResources"}}"#);
    let bare = r#""valueCoding":{"code":"LatestProvenanceResources"}"#;
    for value in [code, &coding, bare] {
        for release in [Release::Three, Release::Four] {
            assert_eq!(settled(value, release), Ok(Some(AssociatedProvenance::Latest)), "{value} {release:?}");
        }
    }
    let place = || "Parameters.parameter[0]".to_owned();
    let of_others = r#""valueCoding":{"system":"urn:x","code":"LatestProvenanceResources"}"#;
    assert!(matches!(settled(of_others, Release::Four), Err(KickoffError::NotAssociated { .. })));
    let list = r#""valueCode":"LatestProvenanceResources,RelevantProvenanceResources""#;
    assert_eq!(settled(list, Release::Three), Ok(Some(AssociatedProvenance::Relevant)));
    let name = "includeAssociatedData";
    assert_eq!(settled(list, Release::Four), Err(KickoffError::List { location: place(), name }));
    for value in
        [r#""valueString":"LatestProvenanceResources""#, r#""valueCoding":{"system":"x"}"#, r#""valueBoolean":true"#]
    {
        assert_eq!(settled(value, Release::Three), Err(KickoffError::Kind { location: place(), name }), "{value}");
    }
}
