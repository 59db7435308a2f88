//! What is there for other records leaves only where all that it is about may be told of (SEC-20).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use offtake::config::Size;
use sample_upstream::{Lies, RequestSeen, SampleUpstream, Settings};
use serde_json::{Value, json};

use crate::support::App;

const PROOF: &str = "https://offtake.dev/proof";
/// Anna is in the Group, Cleo is not.
const RECORDS: [&str; 18] = [
    r#"{"resourceType":"Patient","id":"anna"}"#,
    r#"{"resourceType":"Patient","id":"cleo"}"#,
    r#"{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/anna"}}]}"#,
    r#"{"resourceType":"Practitioner","id":"doctor"}"#,
    r#"{"resourceType":"Observation","id":"of-anna","subject":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Observation","id":"of-cleo","subject":{"reference":"Patient/cleo"}}"#,
    r#"{"resourceType":"Observation","id":"of-both","subject":{"reference":"Patient/anna"},"performer":[{"reference":"Patient/cleo"}]}"#,
    r#"{"resourceType":"Observation","id":"of-a-place","subject":{"reference":"Location/l"}}"#,
    r#"{"resourceType":"Observation","id":"of-somebody","subject":{"identifier":{"system":"s","value":"v"}}}"#,
    r#"{"resourceType":"Device","id":"of-anna","patient":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Device","id":"of-cleo","patient":{"reference":"Patient/cleo"}}"#,
    r#"{"resourceType":"Task","id":"of-anna","for":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Task","id":"of-cleo","for":{"reference":"Patient/cleo"}}"#,
    r#"{"resourceType":"Task","id":"of-somebody","for":{"identifier":{"system":"s","value":"v"}},"owner":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Bundle","id":"document","type":"document","entry":[{"resource":{"resourceType":"Patient","id":"cleo","generalPractitioner":[{"reference":"Patient/anna"}]}}]}"#,
    r#"{"resourceType":"Appointment","id":"of-somebody","participant":[{"actor":{"type":"Patient","identifier":{"system":"s","value":"v"}}}]}"#,
    r#"{"resourceType":"Binary","id":"of-anna","securityContext":{"reference":"Patient/anna"}}"#,
    r#"{"resourceType":"Binary","id":"of-whom"}"#,
];

/// Provenance of Anna and of something else.
fn provenance(id: &str, target: &Value, contained: Option<Value>) -> String {
    let target = json!([{ "reference": "Patient/anna" }, target]);
    let agent = json!([{ "who": { "reference": "Patient/cleo" } }]);
    let contained = contained.map(|contained| vec![contained]).unwrap_or_default();
    let (name, text) = ("Provenance", "x".repeat(1_000));
    json!({ "resourceType": name, "id": id, "contained": contained, "target": target, "agent": agent, "note": text })
        .to_string()
}

fn of(reference: &str) -> Value {
    json!({ "reference": reference })
}

fn about(subject: &Value) -> Value {
    json!({ "resourceType": "Observation", "id": "c", "subject": subject })
}

/// What leaves, and what does not, with the reason in its name.
fn fill(upstream: &SampleUpstream) -> (BTreeSet<String>, BTreeSet<String>) {
    for json in RECORDS {
        upstream.insert_raw(json).expect("a resource");
    }
    let goes = [
        ("goes-of-anna", of("Observation/of-anna"), None),
        ("goes-version", of("Observation/of-anna/_history/1"), None),
        ("goes-doctor", of("Practitioner/doctor"), None),
        ("goes-task", of("Task/of-anna"), None),
        ("goes-device", of("Device/of-anna"), None),
        ("goes-binary", of("Binary/of-anna"), None),
        ("goes-contained", of("#c"), Some(about(&of("Patient/anna")))),
    ];
    let stays = [
        ("stays-patient", of("Patient/cleo"), None),
        ("stays-of-cleo", of("Observation/of-cleo"), None),
        ("stays-of-both", of("Observation/of-both"), None),
        ("stays-of-somebody", of("Observation/of-somebody"), None),
        ("stays-place", of("Observation/of-a-place"), None),
        ("stays-task", of("Task/of-cleo"), None),
        ("stays-task-of-somebody", of("Task/of-somebody"), None),
        ("stays-document", of("Bundle/document"), None),
        ("stays-appointment", of("Appointment/of-somebody"), None),
        ("stays-gone", of("Observation/gone"), None),
        ("stays-elsewhere", of("https://elsewhere.example/fhir/Observation/of-anna"), None),
        ("stays-named", json!({ "type": "Patient", "identifier": { "system": "s", "value": "v" } }), None),
        ("stays-device", of("Device/of-cleo"), None),
        ("stays-binary", of("Binary/of-whom"), None),
        ("stays-inner", of("Provenance/goes-of-anna"), None),
        (
            "stays-contained-cleo",
            of("#c"),
            Some(json!({ "resourceType": "Patient", "id": "c", "name": [{ "family": "C" }] })),
        ),
        ("stays-contained", of("#c"), Some(about(&of("Observation/of-cleo")))),
        ("stays-contained-patient", of("#c"), Some(about(&of("Patient/cleo")))),
        ("stays-contained-nobody", of("#c"), Some(json!({ "resourceType": "Observation", "id": "c" }))),
        (
            "stays-contained-link",
            of("#c"),
            Some(json!({ "resourceType": "Patient", "id": "c", "link": [{ "other": of("Patient/anna") }] })),
        ),
        (
            "stays-contained-named-too",
            of("#c"),
            Some(json!({
                "resourceType": "Observation",
                "id": "c",
                "subject": { "identifier": { "value": "v" } },
                "performer": [of("Patient/anna")],
            })),
        ),
        ("stays-contained-named", of("#c"), Some(about(&json!({ "identifier": { "value": "v" } })))),
    ];
    let put = |(id, target, contained): (&str, Value, Option<Value>)| {
        upstream.insert_raw(&provenance(id, &target, contained)).expect("a resource");
        id.to_owned()
    };
    (goes.map(put).into(), stays.map(put).into())
}

/// The Provenance that came, and how often some is said to be withheld: once more where it is read again at the end.
async fn exported(app: &App, path: &str) -> (BTreeSet<String>, u64) {
    let exported = tokio::time::timeout(Duration::from_mins(1), app.export(path)).await.expect("nobody waits for ever");
    let (manifest, received): (_, BTreeMap<String, Vec<u8>>) = exported.expect("an export");
    let lines = received.get("Provenance").map(Vec::as_slice).unwrap_or_default();
    let ids = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
        let resource: Value = serde_json::from_slice(line).expect("JSON");
        resource["id"].as_str().expect("an id").to_owned()
    });
    let withheld = manifest.whole["extension"][PROOF]["Provenance"]["withheld"].as_u64();
    (ids.collect(), withheld.unwrap_or_default())
}

#[tokio::test]
async fn provenance_leaves_only_if_nothing_in_it_is_about_somebody_else() {
    let upstream = SampleUpstream::new(Settings::default());
    let (goes, stays) = fill(&upstream);
    let app = App::before(upstream, |_| {}).await;
    for path in ["/Group/g/$export", "/Group/g/$export?_type=Provenance"] {
        let (came, withheld) = exported(&app, path).await;
        assert_eq!(came, goes, "{path}");
        assert!(withheld >= stays.len() as u64, "{path}: {withheld}");
    }
    // Of all patients nobody is somebody else.
    let all: BTreeSet<_> = goes.union(&stays).cloned().collect();
    for path in ["/Patient/$export", "/$export"] {
        assert_eq!(exported(&app, path).await, (all.clone(), 0), "{path}");
    }
    app.stop().await;
}

/// Where one reader has all the memory there is, nothing can be asked for beside a page: it is given back, and read again. That is
/// so too where Provenance does not fit into memory together.
#[tokio::test]
async fn what_is_asked_for_beside_a_page_never_waits_for_its_memory() {
    for many in [0, 2_000] {
        let upstream = SampleUpstream::new(Settings::default());
        let (mut goes, stays) = fill(&upstream);
        for number in 0..many {
            let id = format!("many-{number}");
            upstream.insert_raw(&provenance(&id, &of("Observation/of-anna"), None)).expect("a resource");
            goes.insert(id);
        }
        let app = App::before(upstream, |config| {
            config.upstream.max_concurrent_searches = 1;
            config.upstream.memory_budget = Size::kibibytes(1024);
        })
        .await;
        let (came, withheld) = exported(&app, "/Group/g/$export?_type=Provenance").await;
        assert_eq!(came.len(), goes.len());
        assert!(came == goes && withheld >= stays.len() as u64, "{many}: {withheld}");
        app.stop().await;
    }
}

/// A record that the server cannot give holds back what is about it, and nothing else.
#[tokio::test]
async fn a_record_that_the_server_fails_on_does_not_end_the_export() {
    let upstream = SampleUpstream::new(Settings::default());
    let (mut goes, stays) = fill(&upstream);
    upstream
        .insert_raw(r#"{"resourceType":"Observation","id":"broken","subject":{"reference":"Patient/anna"}}"#)
        .expect("one");
    upstream.insert_raw(&provenance("stays-broken", &of("Observation/broken"), None)).expect("one");
    upstream.insert_raw(&provenance("goes-too", &of("Observation/of-anna"), None)).expect("one");
    goes.insert("goes-too".to_owned());
    let poisoned = BTreeSet::from(["Observation/broken".to_owned()]);
    upstream.update_settings(|settings| settings.lies = Lies { poisoned, ..Lies::default() });
    let app = App::before(upstream, |_| {}).await;
    let (came, withheld) = exported(&app, "/Group/g/$export?_type=Provenance").await;
    assert_eq!(came, goes);
    assert!(withheld > stays.len() as u64, "{withheld}");
    app.stop().await;
}

/// A server that fails for a while says nothing of what it fails on: Provenance waits for it.
#[tokio::test]
async fn a_server_that_fails_for_a_while_holds_nothing_back() {
    let upstream = SampleUpstream::new(Settings::default());
    let (goes, _) = fill(&upstream);
    let app = App::before(upstream, |_| {}).await;
    // It is known by then, so that nothing but this export asks it.
    exported(&app, "/Group/g/$export?_type=Patient").await;
    let poisoned = ["Observation/of-anna", "Patient/anna", "Patient/cleo", "Task/of-anna"].map(str::to_owned).into();
    app.upstream.update_settings(|settings| settings.lies = Lies { poisoned, ..Lies::default() });
    let recovering = app.upstream.clone();
    let is_any = |seen: &RequestSeen| seen.path.ends_with("/Patient") && seen.query == "_count=1";
    app.upstream.first_when(is_any, move || recovering.update_settings(|settings| settings.lies = Lies::default()));
    assert_eq!(exported(&app, "/Group/g/$export?_type=Provenance").await.0, goes);
    assert!(app.upstream.requests().iter().any(is_any), "it was asked for anything");
    app.stop().await;
}
