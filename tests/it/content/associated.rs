//! `includeAssociatedData`, and the Provenance that comes without it (BD-032 to BD-034, DS-007).

use std::collections::BTreeMap;

use chrono::SecondsFormat;
use offtake::config::Size;
use sample_upstream::{SampleUpstream, Settings};
use serde_json::{Value, json};

use super::{Export, PEOPLE, export, got, kick_off, string};
use crate::smart::{Client, Rig};
use crate::support::App;

/// Each is called after what it is about.
pub(super) fn provenance(id: &str, recorded: &str, targets: &[&str]) -> String {
    let targets: Vec<_> = targets.iter().map(|target| json!({ "reference": target })).collect();
    json!({ "resourceType": "Provenance", "id": id, "target": targets, "recorded": recorded }).to_string()
}

pub(super) const OLD: &str = "2020-01-01T00:00:00Z";
/// The same instant as [`NEW`] by other clocks is no other.
pub(super) const NEW: &str = "2021-01-01T02:00:00+02:00";

fn all() -> Vec<String> {
    let own = [
        provenance("anna", OLD, &["Patient/anna"]),
        provenance("of-anna-new", NEW, &["Observation/of-anna"]),
        provenance("of-anna-old", OLD, &["Observation/of-anna"]),
        provenance("of-ben", OLD, &["Observation/of-ben/_history/1"]),
        provenance("of-cleo", NEW, &["Observation/of-cleo"]),
        provenance("of-two", OLD, &["Observation/of-cleo", "Observation/of-anna"]),
        provenance("condition-of-ben", OLD, &["Condition/condition-of-ben", "Practitioner/doc"]),
        provenance("doc", OLD, &["Practitioner/doc"]),
        provenance("gone", OLD, &["Observation/gone"]),
        r#"{"resourceType":"Practitioner","id":"doc"}"#.to_owned(),
    ];
    PEOPLE.iter().map(|json| (*json).to_owned()).chain(own).collect()
}

async fn app(settings: Settings) -> App {
    let upstream = SampleUpstream::new(settings);
    for json in all() {
        upstream.create(&json).expect("a resource");
    }
    App::before(upstream, |config| {
        let devices = vec!["Condition".to_owned(), "Practitioner".to_owned()];
        let all = vec!["Provenance".to_owned()];
        config.export.associated_data = BTreeMap::from([("_care".to_owned(), devices), ("_all".to_owned(), all)]);
    })
    .await
}

/// Ways in which servers are read.
fn servers() -> [Settings; 3] {
    [
        Settings::default(),
        Settings { counts: false, max_count: Some(1), ..Settings::default() },
        Settings { no_last_updated: true, ..Settings::default() },
    ]
}

/// The Provenance of an export, sorted.
pub(super) fn told(export: &Export) -> Vec<String> {
    let mut told: Vec<_> =
        export.ids().into_iter().filter_map(|id| Some(id.strip_prefix("Provenance/")?.to_owned())).collect();
    told.sort_unstable();
    told
}

pub(super) const LATEST: &str = "LatestProvenanceResources";
pub(super) const RELEVANT: &str = "RelevantProvenanceResources";

pub(super) fn code(value: &str) -> Value {
    json!({ "name": "includeAssociatedData", "valueCode": value })
}

#[tokio::test]
async fn each_resource_brings_its_provenance_as_it_was_asked_for() {
    let every =
        ["anna", "condition-of-ben", "doc", "gone", "of-anna-new", "of-anna-old", "of-ben", "of-cleo", "of-two"];
    let of_patients = ["anna", "condition-of-ben", "doc", "of-anna-new", "of-anna-old", "of-ben", "of-cleo", "of-two"];
    let of_members = ["anna", "condition-of-ben", "doc", "of-anna-new", "of-anna-old", "of-ben"];
    for settings in servers() {
        let app = app(settings.clone()).await;
        for (level, types, asked, expected) in [
            // BD-034: what is about the patients themselves, at more than System level.
            ("", "", &[][..], &every[..]),
            ("", "Observation", &[], &[]),
            ("/Patient", "", &[], &["anna"]),
            ("/Patient", "Patient,Provenance", &[], &["anna"]),
            ("/Patient", "Observation", &[], &[]),
            ("/Group/g", "", &[], &["anna"]),
            // BD-032
            ("/Patient", "", &[RELEVANT], &of_patients),
            ("/Group/g", "", &[RELEVANT], &of_members),
            ("", "Observation", &[RELEVANT], &["of-anna-new", "of-anna-old", "of-ben", "of-cleo", "of-two"]),
            ("", "Observation", &[LATEST], &["of-anna-new", "of-ben", "of-cleo"]),
            ("", "", &[LATEST], &["anna", "condition-of-ben", "doc", "of-anna-new", "of-ben", "of-cleo"]),
            ("", "", &[RELEVANT], &every),
            ("/Patient", "Condition", &[LATEST], &["condition-of-ben"]),
            ("/Patient", "Observation", &[RELEVANT], &["of-anna-new", "of-anna-old", "of-ben", "of-cleo", "of-two"]),
            // SEC-20: what is about somebody else as well stays here.
            ("/Group/g", "Observation", &[RELEVANT], &["of-anna-new", "of-anna-old", "of-ben"]),
            ("/Group/g", "Observation", &[LATEST], &["of-anna-new", "of-ben"]),
            // BD-033
            ("", "Condition", &[LATEST, RELEVANT], &["condition-of-ben", "condition-of-ben"][..1]),
            ("", "Observation", &[LATEST, RELEVANT], &["of-anna-new", "of-anna-old", "of-ben", "of-cleo", "of-two"]),
        ] {
            let mut parameters: Vec<_> = asked.iter().copied().map(code).collect();
            if !types.is_empty() {
                parameters.push(string("_type", types));
            }
            let export = export(&app.base, level, &parameters, None).await;
            assert_eq!(told(&export), expected, "{level} {types} {asked:?} {settings:?}");
            let proof = &export.manifest["extension"]["https://offtake.dev/proof"]["Provenance"];
            assert_eq!(
                proof["written"].as_u64().unwrap_or(0),
                expected.len() as u64,
                "{proof} {level} {types} {asked:?}"
            );
            assert_eq!(proof["short"].as_u64().unwrap_or(0), 0, "{proof}");
            if !types.is_empty() && !asked.is_empty() {
                let only = export
                    .ids()
                    .into_iter()
                    .all(|id| types.contains(id.split('/').next().expect("a type")) || id.starts_with("Provenance/"));
                assert!(only, "{:?}", export.ids());
            }
        }
        app.stop().await;
    }
}

/// What has not changed since brings nothing, and what has brings its Provenance however old that is.
#[tokio::test]
async fn provenance_comes_with_what_changed_however_old_it_is() {
    let app = app(Settings::default()).await;
    let last = app.upstream.resources(None).into_iter().filter_map(|stored| stored.last_updated).max();
    let since = last.expect("some have one").to_rfc3339_opts(SecondsFormat::Nanos, true);
    app.upstream.create(r#"{"resourceType":"Observation","id":"later","status":"final","code":{"text":"c"},"subject":{"reference":"Patient/anna"}}"#).expect("a resource");
    app.upstream.create(&provenance("of-later", OLD, &["Observation/later"])).expect("a resource");
    let since = json!({ "name": "_since", "valueInstant": since });
    for (level, asked) in [("", RELEVANT), ("/Patient", LATEST), ("/Group/g", RELEVANT)] {
        let export =
            export(&app.base, level, &[since.clone(), code(asked), string("_type", "Observation")], None).await;
        let told = told(&export);
        assert_eq!(told, ["of-later"], "{level}");
    }
    app.stop().await;
}

/// Custom presets (BD-033): types that come along whatever `_type` says, and stay within a level.
#[tokio::test]
async fn a_preset_brings_its_types() {
    let app = app(Settings::default()).await;
    for (level, expected) in [
        ("", &["Condition/condition-of-ben", "Patient/anna", "Patient/ben", "Patient/cleo", "Practitioner/doc"][..]),
        ("/Patient", &["Condition/condition-of-ben", "Patient/anna", "Patient/ben", "Patient/cleo"]),
        ("/Group/g", &["Condition/condition-of-ben", "Patient/anna", "Patient/ben"]),
    ] {
        let export = export(&app.base, level, &[string("_type", "Patient"), code("_care")], None).await;
        assert_eq!(export.ids(), expected, "{level}");
    }
    let refused = kick_off(&app.base, "", &[code("_cure")], None).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["issue"][0]["location"], json!(["Parameters.parameter[0]"]));
    app.stop().await;
}

/// BD-033: of a preset that names Provenance and the latest of each resource what either brings.
#[tokio::test]
async fn a_preset_of_provenance_widens_the_latest() {
    let every =
        ["anna", "condition-of-ben", "doc", "gone", "of-anna-new", "of-anna-old", "of-ben", "of-cleo", "of-two"];
    for settings in servers() {
        let app = app(settings.clone()).await;
        for (level, asked, expected) in [
            ("", &["_all"][..], &every[..]),
            ("", &["_all", LATEST], &every),
            ("", &[LATEST, "_all"], &every),
            ("/Patient", &["_all"], &["anna"]),
            ("/Patient", &["_all", LATEST], &["anna", "of-anna-new", "of-ben", "of-cleo"]),
            ("/Patient", &[LATEST], &["of-anna-new", "of-ben", "of-cleo"]),
            ("/Group/g", &["_all", LATEST], &["anna", "of-anna-new", "of-ben"]),
            ("/Group/g", &["_all", RELEVANT], &["anna", "of-anna-new", "of-anna-old", "of-ben"]),
        ] {
            let mut parameters: Vec<_> = asked.iter().copied().map(code).collect();
            parameters.push(string("_type", "Observation"));
            let export = export(&app.base, level, &parameters, None).await;
            assert_eq!(told(&export), expected, "{level} {asked:?} {settings:?}");
        }
        app.stop().await;
    }
}

/// SEC-22, SM-033: what no scope covers is refused, or left out leniently, which the error file says.
#[tokio::test]
async fn a_scope_without_provenance_brings_none() {
    let client = Client::new("a", "system/Patient.rs system/Observation.rs");
    let rig = Rig::configured(&[], |config| {
        config.smart.clients = vec![client.config()];
    })
    .await;
    for json in all() {
        rig.upstream.create(&json).expect("a resource");
    }
    let token = rig.token(&client, "system/Patient.rs system/Observation.rs").await;
    let refused = kick_off(&rig.base, "", &[code(RELEVANT)], Some(&token)).await;
    assert_eq!(refused.status, 403, "{}", String::from_utf8_lossy(&refused.body));
    let host = rig.base.trim_start_matches("http://").trim_end_matches("/fhir");
    let authorization = format!("Bearer {token}");
    let headers = [
        crate::raw::KICKOFF[0],
        ("Prefer", "respond-async, handling=lenient"),
        ("Authorization", authorization.as_str()),
    ];
    let target = format!("/fhir/$export?_type=Observation&includeAssociatedData={RELEVANT}");
    let lenient = crate::raw::ask(host, &crate::raw::request("GET", &target, host, &headers, b"")).await;
    assert_eq!(lenient.status, 202, "{}", String::from_utf8_lossy(&lenient.body));
    let export = got(&rig.base, lenient.header("content-location"), Some(&token)).await;
    assert_eq!(told(&export), [""; 0]);
    assert!(!export.ids().is_empty());
    assert_eq!(export.says(&format!("`includeAssociatedData={RELEVANT}`")), 1, "{}", export.error);
    rig.stop().await;
}

/// What is about one resource and does not fit into memory is read page by page: of all of it one is the latest.
#[tokio::test]
async fn the_latest_is_found_among_more_than_memory_holds() {
    let upstream = SampleUpstream::new(Settings { max_count: Some(2), ..Settings::default() });
    for json in all() {
        upstream.create(&json).expect("a resource");
    }
    // The last one that is made is not the latest, nor is the first.
    for number in 0..12 {
        let recorded = format!("2022-01-{:02}T00:00:00Z", 1 + (number * 5 + 7) % 12);
        let text = format!("<div>{}</div>", "x".repeat(8 * 1024));
        let told: Value = serde_json::from_str(&provenance(
            &format!("large-{recorded}").replace(':', "-"),
            &recorded,
            &["Observation/of-anna"],
        ))
        .expect("JSON");
        let mut told = told;
        told["text"] = json!({ "status": "generated", "div": text });
        upstream.create(&told.to_string()).expect("a resource");
    }
    let app = App::before(upstream, |config| {
        config.upstream.page_target = Size::kibibytes(16);
    })
    .await;
    for (level, asked, count) in [("", LATEST, 3), ("/Group/g", LATEST, 2), ("", RELEVANT, 17)] {
        let export = export(&app.base, level, &[code(asked), string("_type", "Observation")], None).await;
        let told = told(&export);
        assert!(told.iter().any(|id| id.starts_with("large-2022-01-12")), "{level}: {told:?}");
        assert_eq!(told.len(), count, "{level}: {told:?}");
        let proof = &export.manifest["extension"]["https://offtake.dev/proof"]["Provenance"];
        assert_eq!(proof["short"], 0, "{proof}");
    }
    app.stop().await;
}

/// DS-004: a server that does not heed what it is asked by has nothing more of it exported, and whoever asked is told.
#[tokio::test]
async fn a_server_that_ignores_targets_is_found_out() {
    let ignored_params = vec!["target".to_owned()];
    let app = app(Settings { ignored_params, ..Settings::default() }).await;
    for level in ["", "/Group/g"] {
        let kickoff = kick_off(&app.base, level, &[code(LATEST)], None).await;
        assert_eq!(kickoff.status, 202);
        let host = app.base.trim_start_matches("http://").trim_end_matches("/fhir").to_owned();
        let target =
            kickoff.header("content-location").strip_prefix(&format!("http://{host}")).expect("ours").to_owned();
        let ended = loop {
            let answer = crate::raw::ask(&host, &crate::raw::request("GET", &target, &host, &[], b"")).await;
            if answer.status != 202 {
                break answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        };
        assert_eq!(ended.json()["issue"][0]["code"], "not-supported", "{}", String::from_utf8_lossy(&ended.body));
    }
    // Who does not ask for it has what is found by patient.
    let export = export(&app.base, "/Group/g", &[], None).await;
    assert_eq!(told(&export), ["anna"]);
    app.stop().await;
}

/// It costs a search for each few resources of an export: an operator may not want that.
#[tokio::test]
async fn it_is_refused_where_an_operator_has_switched_it_off() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(1);
    let app = App::before(upstream, |config| config.export.provenance_by_target = false).await;
    let refused = kick_off(&app.base, "", &[code(RELEVANT)], None).await;
    assert_eq!(refused.status, 400, "{}", String::from_utf8_lossy(&refused.body));
    app.stop().await;
}

/// Without the parameter nobody is asked by what Provenance is about.
#[tokio::test]
async fn nothing_is_searched_by_target_unasked() {
    for settings in servers() {
        let app = app(settings).await;
        for level in ["", "/Patient", "/Group/g"] {
            export(&app.base, level, &[], None).await;
        }
        let by_target = app
            .upstream
            .requests()
            .into_iter()
            .filter(|seen| format!("{}?{}", seen.path, seen.query).contains("target="));
        let by_target: Vec<_> = by_target.map(|seen| seen.query).collect();
        assert_eq!(by_target, [""; 0]);
        app.stop().await;
    }
}
