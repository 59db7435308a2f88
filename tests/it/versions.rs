//! Servers that speak other versions of FHIR: what belongs to a patient there.

use std::collections::{BTreeMap, BTreeSet};

use sample_upstream::{SampleUpstream, Settings};
use serde_json::Value;

use crate::raw::KICKOFF;
use crate::support::App;

fn speaks(fhir_version: &str) -> Settings {
    Settings { fhir_version: fhir_version.to_owned(), ..Settings::default() }
}

/// Resources of R5: where it differs from R4, one that names Anna, and one that names Ben beside her.
const OF_R5: [&str; 25] = [
    r#"{"resourceType":"Patient","id":"anna"}"#,
    r#"{"resourceType":"Patient","id":"ben"}"#,
    r#"{"resourceType":"Group","id":"a","type":"person","membership":"enumerated","member":[{"entity":{"reference":"Patient/anna"}}]}"#,
    r#"{"resourceType":"Group","id":"traits","type":"person","membership":"definitional"}"#,
    r#"{"resourceType":"AllergyIntolerance","id":"own","patient":{"reference":"Patient/anna"},"participant":[{"actor":{"reference":"Practitioner/dr"}}]}"#,
    r#"{"resourceType":"AllergyIntolerance","id":"shared","patient":{"reference":"Patient/anna"},"participant":[{"actor":{"reference":"Patient/ben"}}]}"#,
    r#"{"resourceType":"Consent","id":"own","subject":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Coverage","id":"own","beneficiary":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Coverage","id":"paid","beneficiary":{"reference":"Patient/anna"},"paymentBy":[{"party":{"reference":"Patient/anna"}}]}"#,
    r#"{"resourceType":"Coverage","id":"shared","beneficiary":{"reference":"Patient/anna"},"paymentBy":[{"party":{"reference":"Patient/ben"}}]}"#,
    r#"{"resourceType":"DetectedIssue","id":"own","subject":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"DeviceRequest","id":"own","performer":{"reference":{"reference":"Patient/anna"}}}"#,
    r#"{"resourceType":"DeviceUsage","id":"own","patient":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Encounter","id":"own","subject":{"reference":"Patient/anna"},"participant":[{"actor":{"reference":"Practitioner/dr"}}]}"#,
    r#"{"resourceType":"MedicationStatement","id":"own","subject":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"NutritionIntake","id":"own","subject":{"reference":"Patient/anna"},"reportedReference":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"NutritionIntake","id":"shared","subject":{"reference":"Patient/anna"},"reportedReference":{"reference":"Patient/ben"}}"#,
    r#"{"resourceType":"Provenance","id":"own","target":[{"reference":"Consent/own"},{"reference":"Practitioner/dr"}],"patient":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"RequestOrchestration","id":"own","action":[{"participant":[{"actorReference":{"reference":"Patient/anna"}}]}]}"#,
    r#"{"resourceType":"RequestOrchestration","id":"shared","subject":{"reference":"Patient/anna"},"action":[{"action":[{"participant":[{"actorReference":{"reference":"Patient/ben"}}]}]}]}"#,
    r#"{"resourceType":"ResearchSubject","id":"own","subject":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Task","id":"own","for":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Task","id":"shared","for":{"reference":"Patient/anna"},"focus":{"reference":"Patient/ben"}}"#,
    r#"{"resourceType":"Task","id":"of-ben","for":{"reference":"Patient/ben"}}"#,
    r#"{"resourceType":"Practitioner","id":"dr"}"#,
];

fn names(received: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let lines = received.values().flat_map(|lines| lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()));
    let name = |line: &[u8]| {
        let resource: Value = serde_json::from_slice(line).expect("a line is JSON");
        let text = |member: &str| resource[member].as_str().expect("each resource says what it is").to_owned();
        format!("{}/{}", text("resourceType"), text("id"))
    };
    lines.map(name).collect()
}

/// Design 2, "Servers differ": R5 has a compartment of its own, with types and elements that R4 has not.
#[tokio::test]
async fn patients_of_r5_are_exported_by_its_own_compartment() {
    let upstream = SampleUpstream::new(speaks("5.0.0"));
    for json in OF_R5 {
        upstream.insert_raw(json).expect("a resource");
    }
    // In R5 a Task belongs to a patient, so that no reference takes one along.
    let follow = |config: &mut offtake::Config| config.export.follow_references.push("Task".to_owned());
    let app = App::before(upstream, follow).await;
    let all: BTreeSet<String> =
        app.upstream.resources(None).iter().map(|held| format!("{}/{}", held.resource_type, held.id)).collect();
    // A Group is no part of a patient's export.
    let of_patients = all.iter().filter(|name| !name.starts_with("Group/")).cloned();
    let of_anna = of_patients.clone().filter(|name| !name.ends_with("/shared") && !name.contains("ben"));
    for (level, expected) in [
        ("/$export", all.clone()),
        ("/Patient/$export", of_patients.clone().collect()),
        ("/Group/a/$export", of_anna.collect()),
    ] {
        let (manifest, received) = app.export(level).await.unwrap_or_else(|error| panic!("{level}: {error:#}"));
        assert_eq!(names(&received), expected, "{level}");
        assert_eq!(manifest.output.iter().map(|file| file.count).sum::<usize>(), expected.len(), "{level}: none twice");
    }
    let answer = app.ask("GET", "/Group/traits/$export", &KICKOFF, b"").await;
    let said = answer.json().to_string();
    assert!(answer.status >= 400 && said.contains("characteristics"), "{}: {said}", answer.status);
    app.stop().await;
}

/// The Patient compartment of other versions is not known here.
#[tokio::test]
async fn other_versions_are_exported_at_system_level_only() {
    for version in ["3.0.2", "5.0.0-ballot", "6.0.0"] {
        let upstream = SampleUpstream::new(speaks(version));
        upstream.generate(2);
        let app = App::before(upstream, |_| {}).await;
        app.export_exactly("/$export").await.unwrap_or_else(|error| panic!("{version}: {error:#}"));
        for path in ["/Patient/$export", "/Group/all/$export"] {
            let answer = app.ask("GET", path, &KICKOFF, b"").await;
            answer.assert_refused(&format!("{version}, {path}"), 400, "not-supported", None);
            assert!(answer.json().to_string().contains("R4, R4B or R5"), "{:?}", answer.json());
        }
        app.stop().await;
    }
}
