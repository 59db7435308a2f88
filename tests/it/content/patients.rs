//! `patient`: those who are named and nobody else (BD-029 to BD-031, SEC-25, interop 7).

use sample_upstream::{Lies, SampleUpstream, Settings};
use serde_json::json;

use super::{PEOPLE, export, kick_off, patients, string};
use crate::policy::under;
use crate::smart::{Client, Rig};
use crate::support::App;

/// What is said, once, where somebody is left out.
const LEFT_OUT: &str = "patients that are not there, not in the Group or not permitted are not in this export";

async fn app(settings: Settings) -> App {
    let upstream = SampleUpstream::new(settings);
    for json in PEOPLE {
        upstream.create(json).expect("a resource");
    }
    App::before(upstream, |_| {}).await
}

/// Ways in which servers are read by patient.
fn servers() -> [Settings; 3] {
    [
        Settings::default(),
        Settings { require_patient: true, ..Settings::default() },
        Settings { one_patient: true, counts: false, max_count: Some(1), ..Settings::default() },
    ]
}

/// Nobody is taken for missing because a server read the first few of a list and said nothing of it.
#[tokio::test]
async fn a_list_that_a_server_cuts_loses_nobody() {
    let lies = Lies { most_ids: Some(3), ..Lies::default() };
    let upstream = SampleUpstream::new(Settings { lies, ..Settings::default() });
    let ids: Vec<_> = (0..11).map(|number| format!("p{number:02}")).collect();
    for id in &ids {
        upstream.create(&json!({ "resourceType": "Patient", "id": id }).to_string()).expect("a resource");
    }
    let app = App::before(upstream, |_| {}).await;
    let named: Vec<_> = ids.iter().map(String::as_str).collect();
    let export = export(&app.base, "/Patient", &patients(&named), None).await;
    assert_eq!(export.ids(), ids.iter().map(|id| format!("Patient/{id}")).collect::<Vec<_>>());
    assert_eq!(export.says(LEFT_OUT), 0, "{}", export.error);
    app.stop().await;
}

#[tokio::test]
async fn those_who_are_named_are_exported_and_nobody_else() {
    for settings in servers() {
        let app = app(settings.clone()).await;
        for (level, named, expected) in [
            ("/Patient", &["anna"][..], &["Observation/of-anna", "Patient/anna"][..]),
            ("/Group/g", &["anna"], &["Observation/of-anna", "Patient/anna"]),
            ("/Patient", &["cleo"], &["Observation/of-cleo", "Patient/cleo"]),
            (
                "/Patient",
                &["anna", "ben"],
                &[
                    "Condition/condition-of-ben",
                    "Observation/of-anna",
                    "Observation/of-anna-and-ben",
                    "Observation/of-ben",
                    "Patient/anna",
                    "Patient/ben",
                ],
            ),
        ] {
            let export = export(&app.base, level, &patients(named), None).await;
            assert_eq!(export.ids(), expected, "{level} {named:?} {settings:?}");
            assert_eq!(export.says(LEFT_OUT), 0, "{}", export.error);
            let request = export.manifest["request"].as_str().expect("a URL");
            assert!(request.ends_with(&format!("{level}/$export")), "{request}");
        }
        app.stop().await;
    }
}

/// SEC-25: nobody learns from the answer whether a patient is there, and an export of nobody is no export of everybody.
#[tokio::test]
async fn who_is_not_there_and_who_is_no_member_get_the_same_answer() {
    for settings in servers() {
        let app = app(settings).await;
        let mut answers = Vec::new();
        // One who is no member, one who is not there, and one who is a member and not there.
        for (level, named) in
            [("/Group/g", "cleo"), ("/Group/g", "unknown"), ("/Group/g", "nobody"), ("/Patient", "unknown")]
        {
            let export = export(&app.base, level, &patients(&[named]), None).await;
            assert_eq!(export.ids(), [""; 0], "{level} {named}");
            assert_eq!(export.manifest["output"], json!([]), "{level} {named}");
            assert_eq!(export.says(LEFT_OUT), 1, "{}", export.error);
            assert!(!export.error.contains(named), "nobody is named: {}", export.error);
            answers.push((export.error, export.manifest["extension"].clone()));
        }
        let (at_group, at_patient) = answers.split_at(3);
        assert!(at_group.windows(2).all(|pair| pair[0] == pair[1]), "{at_group:#?}");
        assert_eq!(at_patient[0], at_group[0]);
        let some = export(&app.base, "/Group/g", &patients(&["cleo", "anna", "unknown"]), None).await;
        assert_eq!(some.ids(), ["Observation/of-anna", "Patient/anna"]);
        assert_eq!(some.says(LEFT_OUT), 1, "{}", some.error);
        app.stop().await;
    }
}

/// SEC-25, SEC-26: whoever is kept back by policy, or may not be known of, looks like one who is not there.
#[tokio::test]
async fn who_is_kept_back_gets_the_same_answer_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list");
    std::fs::write(&list, "ben\n").expect("the disk takes it");
    let client = Client::new("a", "system/*.rs");
    let labelled = r#"{"resourceType":"Patient","id":"secret","meta":{"security":[{"system":"s","code":"x"}]}}"#;
    let policy = json!({ "withheld_labels": ["s|x"] });
    let rig = Rig::configured(&[], |config| {
        config.smart.clients = vec![under(&client, policy)];
        config.policy.exclude_patients_file = Some(list);
    })
    .await;
    for json in PEOPLE.into_iter().chain([labelled]) {
        rig.upstream.create(json).expect("a resource");
    }
    let token = rig.token(&client, "system/*.rs").await;
    let mut answers = Vec::new();
    for named in ["ben", "unknown", "secret"] {
        let export = export(&rig.base, "/Patient", &patients(&[named]), Some(&token)).await;
        assert_eq!(export.ids(), [""; 0], "{named}");
        assert_eq!(export.says(LEFT_OUT), 1, "{named}: {}", export.error);
        answers.push(export.error);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:#?}");
    // It says nothing of who is there, where anybody may be kept back.
    let export = export(&rig.base, "/Patient", &patients(&["anna"]), Some(&token)).await;
    assert_eq!((export.ids().len(), export.says(LEFT_OUT)), (2, 1), "{}", export.error);
    let kickoffs: Vec<_> = rig.ledger().into_iter().filter(|record| record["event"] == "kick_off").collect();
    assert_eq!(kickoffs.len(), 4);
    for record in kickoffs {
        assert_eq!(record["patients"].as_str().map(str::len), Some(32), "SEC-43: a hash");
        assert!(!record.to_string().contains("anna") && !record.to_string().contains("secret"), "{record}");
    }
    rig.stop().await;
}

/// A client of one type learns nothing about patients.
#[tokio::test]
async fn a_client_without_patients_is_not_told_who_is_there() {
    let client = Client::new("a", "system/Observation.rs");
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    for json in PEOPLE {
        rig.upstream.create(json).expect("a resource");
    }
    let token = rig.token(&client, "system/Observation.rs").await;
    let mut answers = Vec::new();
    for named in ["cleo", "unknown"] {
        let export = export(&rig.base, "/Patient", &patients(&[named]), Some(&token)).await;
        assert_eq!(export.says(LEFT_OUT), 1, "{named}: {}", export.error);
        answers.push(export.ids());
    }
    assert_eq!(answers, [vec!["Observation/of-cleo".to_owned()], vec![]]);
    rig.stop().await;
}

/// BD-029: also what changed since, and whatever types; `_since` does not decide who is a patient (spec 2.4.1.3).
#[tokio::test]
async fn other_parameters_narrow_it_further() {
    let upstream = SampleUpstream::new(Settings::default());
    let then = "2020-01-01T00:00:00Z".parse().expect("a time");
    for json in PEOPLE {
        upstream.insert_raw_at(json, then).expect("a resource");
    }
    upstream.update(&PEOPLE[3].replace("final", "amended")).expect("a resource");
    upstream.update(&PEOPLE[4].replace("final", "amended")).expect("a resource");
    let app = App::before(upstream, |_| {}).await;
    let since = "2021-01-01T00:00:00Z";
    let mut parameters = patients(&["anna"]);
    parameters.push(json!({ "name": "_since", "valueInstant": since }));
    let changed = export(&app.base, "/Patient", &parameters, None).await;
    assert_eq!(changed.ids(), ["Observation/of-anna"]);
    assert_eq!(changed.says(LEFT_OUT), 0, "{}", changed.error);
    let mut parameters = patients(&["ben", "anna"]);
    parameters.push(string("_type", "Patient,Condition"));
    let typed = export(&app.base, "/Group/g", &parameters, None).await;
    assert_eq!(typed.ids(), ["Condition/condition-of-ben", "Patient/anna", "Patient/ben"]);
    app.stop().await;
}

/// BD-031, SEC-22: it is never left out, however leniently somebody asks.
#[tokio::test]
async fn it_is_refused_where_it_says_nothing() {
    let app = app(Settings::default()).await;
    let first = Some("Parameters.parameter[0]");
    let system = kick_off(&app.base, "", &patients(&["anna"]), None).await;
    system.assert_refused("System level", 400, "not-supported", first);
    for (value, code) in [
        (json!({ "name": "patient", "valueString": "Patient/anna" }), "invalid"),
        (json!({ "name": "patient", "valueReference": { "identifier": { "value": "anna" } } }), "invalid"),
        (json!({ "name": "patient", "valueReference": { "reference": "anna" } }), "value"),
        (json!({ "name": "patient", "valueReference": { "reference": "Group/g" } }), "value"),
        (
            json!({ "name": "patient", "valueReference": { "reference": "https://other.example/fhir/Patient/anna" } }),
            "value",
        ),
    ] {
        let what = value.to_string();
        kick_off(&app.base, "/Patient", &[value], None).await.assert_refused(&what, 400, code, first);
    }
    for prefer in ["respond-async", "respond-async, handling=lenient"] {
        let headers = [("Accept", "application/fhir+json"), ("Prefer", prefer)];
        for method in ["GET", "POST"] {
            let answer = app.ask(method, "/Patient/$export?patient=Patient/anna", &headers, b"").await;
            answer.assert_refused(method, 400, "not-supported", Some("http.patient"));
        }
    }
    let absolute =
        json!({ "name": "patient", "valueReference": { "reference": format!("{}/Patient/anna", app.base) } });
    let export = export(&app.base, "/Patient", &[absolute], None).await;
    assert_eq!(export.ids(), ["Observation/of-anna", "Patient/anna"]);
    app.stop().await;
}

/// Many of whom few are there: lists are tried, and nobody is lost for being on a long one.
#[tokio::test]
async fn many_can_be_named() {
    let upstream = SampleUpstream::new(Settings { max_count: Some(20), ..Settings::default() });
    let ids: Vec<_> = (0..400).map(|number| format!("p-{number}")).collect();
    for id in ids.iter().step_by(3) {
        upstream.create(&format!(r#"{{"resourceType":"Patient","id":"{id}"}}"#)).expect("a resource");
    }
    let app = App::before(upstream, |_| {}).await;
    let named: Vec<&str> = ids.iter().map(String::as_str).collect();
    let export = export(&app.base, "/Patient", &patients(&named), None).await;
    let mut expected: Vec<_> = ids.iter().step_by(3).map(|id| format!("Patient/{id}")).collect();
    expected.sort_unstable();
    assert_eq!(export.ids(), expected);
    assert_eq!(export.says(LEFT_OUT), 1);
    app.stop().await;
}
