//! What is written of an export, in each shape.

use super::*;
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::outcome::{Issue, IssueType};

fn proof() -> TypeProof {
    TypeProof {
        method: Method::Counted,
        expected: 3,
        received: 3,
        written: 2,
        repeated: 1,
        withheld: 0,
        reread: 0,
        short: 0,
    }
}

fn file(name: &str) -> ManifestFile {
    ManifestFile {
        resource_type: Some(ResourceType::parse(name).expect("a type")),
        url: format!("http://h/{name}"),
        count: 2,
        bytes: 40,
        sha256: "ab".to_owned(),
        is_gzip: false,
        severities: BTreeMap::new(),
        continued_in: None,
    }
}

fn manifest() -> Manifest {
    let severities = BTreeMap::from([(IssueSeverity::Error, 1), (IssueSeverity::Information, 2)]);
    Manifest {
        transaction_time: Instant::from(Millis(0)),
        request: "http://h/$export".to_owned(),
        requires_access_token: false,
        organized_by: None,
        output: vec![file("Patient")],
        deleted: None,
        outcomes: vec![ManifestFile { is_gzip: true, severities, ..file("OperationOutcome") }],
        proof: Some(BTreeMap::from([(ResourceType::PATIENT, proof())])),
        next: None,
    }
}

fn written(manifest: &Manifest, release: Release) -> serde_json::Value {
    serde_json::from_slice(&manifest.to_json(release)).expect("JSON")
}

/// BD-068 to BD-077, DS-023
#[test]
fn a_manifest_has_every_member_that_clients_look_for() {
    let stored = json!({ "bytes": 40, "sha256": "ab" });
    let packed = json!({ "bytes": 40, "sha256": "ab", "contentEncoding": "gzip" });
    let expected = json!({
        "transactionTime": "1970-01-01T00:00:00.000Z",
        "request": "http://h/$export",
        "requiresAccessToken": false,
        "output": [{ "type": "Patient", "url": "http://h/Patient", "count": 2,
            "extension": { "https://offtake.dev/file": stored } }],
        "error": [{ "type": "OperationOutcome", "url": "http://h/OperationOutcome", "count": 2,
            "extension": { "https://offtake.dev/file": packed } }],
        "extension": { "https://offtake.dev/proof": { "Patient": { "method": "counted", "expected": 3, "received": 3,
            "written": 2, "repeated": 1, "withheld": 0, "reread": 0, "short": 0 } } },
    });
    assert_eq!(written(&manifest(), Release::Three), expected);
}

/// DS-023, BD-081, BD-087: what 4.0 renames, leaves out and adds.
#[test]
fn the_manifest_of_the_fourth_release_has_outcomes_and_extensions_of_fhir() {
    let sha256 = json!({ "url": "sha256", "valueString": "ab" });
    let gzip = json!({ "url": "contentEncoding", "valueString": "gzip" });
    let number = |url: &str, value: u64| json!({ "url": url, "valueDecimal": value });
    let expected = json!({
        "manifestType": "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkDataManifest",
        "transactionTime": "1970-01-01T00:00:00.000Z",
        "requiresAccessToken": false,
        "outputFormat": "application/fhir+ndjson",
        "output": [{ "type": "Patient", "url": "http://h/Patient", "count": 2, "fileSize": 40,
            "extension": [{ "url": "https://offtake.dev/file", "extension": [sha256] }] }],
        "outcome": [{ "url": "http://h/OperationOutcome", "count": 2, "fileSize": 40,
            "countSeverity": [{ "code": "error", "count": 1 }, { "code": "information", "count": 2 }],
            "extension": [{ "url": "https://offtake.dev/file", "extension": [sha256, gzip] }] }],
        "extension": [{ "url": "https://offtake.dev/proof", "extension": [{ "url": "Patient", "extension": [
            { "url": "method", "valueCode": "counted" }, number("expected", 3), number("received", 3), number("written", 2),
            number("repeated", 1), number("withheld", 0), number("reread", 0), number("short", 0)] }] }],
    });
    assert_eq!(written(&manifest(), Release::Four), expected);
}

/// BD-078: a file of deletions has the type of its lines in 3.0, and none in 4.0.
#[test]
fn deletions_are_listed_where_they_were_asked_for() {
    let deleted = Manifest { deleted: Some(vec![file("OperationOutcome")]), ..manifest() };
    assert_eq!(written(&deleted, Release::Three)["deleted"][0]["type"], "Bundle");
    let item = &written(&deleted, Release::Four)["deleted"][0];
    assert!(item.get("type").is_none() && item["fileSize"] == 40, "{item}");
    let none = Manifest { deleted: Some(vec![]), ..manifest() };
    for release in [Release::Three, Release::Four] {
        assert_eq!(written(&none, release)["deleted"], json!([]), "{release:?}");
        assert_eq!(written(&manifest(), release).get("deleted"), None, "{release:?}");
    }
}

/// BD-083, BD-084: one link, and nothing of the whole that is not known on each page.
#[test]
fn a_page_leads_on_to_the_next() {
    let page = Manifest { proof: None, next: Some("http://h/2".to_owned()), ..manifest() };
    for release in [Release::Three, Release::Four] {
        let written = written(&page, release);
        assert_eq!(written["link"], json!([{ "relation": "next", "url": "http://h/2" }]), "{release:?}");
        assert_eq!(written.get("extension"), None, "{release:?}");
    }
    assert_eq!(written(&manifest(), Release::Three).get("link"), None);
}

/// It is counted by the gravest issue of each.
#[test]
fn an_outcome_is_as_grave_as_its_gravest_issue() {
    let said = Issue { severity: IssueSeverity::Fatal, code: IssueType::Exception, coding: None };
    assert_eq!(OutcomeLine::refused(ResourceType::PATIENT, &[said]).severity(), IssueSeverity::Fatal);
    assert_eq!(OutcomeLine::refused(ResourceType::PATIENT, &[]).severity(), IssueSeverity::Error);
    assert_eq!(OutcomeLine::proof(&BTreeMap::new()).severity(), IssueSeverity::Information);
}

/// BD-079
#[test]
fn a_deletion_is_a_transaction_of_one_entry() {
    let line = deletion_line(ResourceType::PATIENT, &Id::parse("a").expect("an id"));
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert!(line.ends_with('\n') && line.lines().count() == 1);
    assert_eq!((&value["resourceType"], &value["type"]), (&"Bundle".into(), &"transaction".into()));
    assert_eq!(value["entry"], json!([{ "request": { "method": "DELETE", "url": "Patient/a" } }]));
}

#[test]
fn the_schema_of_the_proof_names_its_members() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../config/proof.schema.json")).expect("JSON");
    let members =
        |value: &serde_json::Value| value.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>());
    let proof = serde_json::to_value(proof()).expect("numbers and a word");
    assert_eq!(members(&schema["additionalProperties"]["properties"]), members(&proof));
}

/// BD-082, BD-090
#[test]
fn an_outcome_is_one_line() {
    let said =
        Issue { severity: IssueSeverity::Warning, code: IssueType::Incomplete, coding: Some(("s".into(), "c".into())) };
    for line in [
        OutcomeLine::proof(&BTreeMap::from([(ResourceType::PATIENT, proof())])),
        OutcomeLine::proof(&BTreeMap::new()),
        OutcomeLine::ignored(&"a\nb".to_owned()),
        OutcomeLine::refused(ResourceType::PATIENT, std::slice::from_ref(&said)),
        OutcomeLine::upstream(&said, 2),
        OutcomeLine::short(ResourceType::PATIENT, 3),
        OutcomeLine::untold_deletions(&[ResourceType::PATIENT]),
        OutcomeLine::without_witness(&[ResourceType::PATIENT]),
        OutcomeLine::refused_links(&[ResourceType::PATIENT]),
        OutcomeLine::outside_compartment(&[ResourceType::PATIENT]),
        OutcomeLine::by_records(&[ResourceType::PATIENT]),
        OutcomeLine::narrowed(&[ResourceType::PATIENT]),
        OutcomeLine::withheld_deletions(),
        OutcomeLine::members_left_out(),
        OutcomeLine::patients_left_out(),
    ] {
        let text = line.into_text();
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["resourceType"], "OperationOutcome", "{text}");
        assert!(value["issue"].as_array().is_some_and(|issues| !issues.is_empty()), "{text}");
    }
}

/// BD-043, BD-075, BD-076
#[test]
fn files_of_blocks_have_no_type_and_say_where_they_go_on() {
    let blocks = ManifestFile { resource_type: None, continued_in: Some("http://h/b".to_owned()), ..file("Patient") };
    let whole = Manifest { organized_by: Some(ResourceType::PATIENT), output: vec![blocks], ..manifest() };
    for release in [Release::Three, Release::Four] {
        let written = written(&whole, release);
        assert_eq!(written["outputOrganizedBy"], "Patient", "{written}");
        let output = &written["output"][0];
        assert!(output.get("type").is_none() && output["continuesInFile"] == "http://h/b", "{written}");
        let plain = super::tests::written(&manifest(), release);
        assert!(plain.get("outputOrganizedBy").is_none(), "{plain}");
        assert!(
            plain["output"][0]["type"] == "Patient" && plain["output"][0].get("continuesInFile").is_none(),
            "{plain}"
        );
    }
}

/// BD-040
#[test]
fn a_block_begins_with_whose_it_is() {
    let header = header_line(&Id::parse("p-1").expect("an id"));
    let header: serde_json::Value = serde_json::from_str(header.strip_suffix('\n').expect("a line")).expect("JSON");
    let named = json!([{ "name": "header", "valueReference": { "reference": "Patient/p-1" } }]);
    assert_eq!(header, json!({ "resourceType": "Parameters", "parameter": named }));
}
