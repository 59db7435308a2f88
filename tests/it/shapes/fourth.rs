//! `$export-v4` beside `$export` (section 1 of the checklist).

use std::collections::BTreeSet;

use offtake::config::Release;
use sample_upstream::{Lies, SampleUpstream, Settings};
use serde_json::Value;

use super::{ended, status_of};
use crate::client::Client as Http;
use crate::expected;
use crate::raw::{Answer, KICKOFF};
use crate::smart::{Client, Rig};
use crate::support::App;

const POSTED: [(&str, &str); 3] = [KICKOFF[0], KICKOFF[1], ("Content-Type", "application/fhir+json")];

fn runs(answer: &Answer) -> bool {
    answer.status == 202
}

fn types(names: &[&str]) -> String {
    let named: Vec<_> = names.iter().map(|name| format!(r#"{{"name":"_type","valueString":"{name}"}}"#)).collect();
    format!(r#"{{"resourceType":"Parameters","parameter":[{}]}}"#, named.join(","))
}

/// DS-023: every level, the same resources as by `$export`, and a manifest in its own shape: never `error` beside `outcome`.
#[tokio::test]
async fn it_exports_the_same_at_every_level_in_another_shape() {
    let app = App::with_patients(4, Settings::default()).await;
    for level in ["", "/Patient", "/Group/all"] {
        let kickoff = app.ask("POST", &format!("{level}/$export-v4"), &POSTED, types(&[]).as_bytes()).await;
        let status = status_of(&app, &kickoff);
        let complete = ended(&app, &status, runs).await;
        let manifest = complete.json();
        assert_eq!((complete.status, complete.header("content-type")), (200, "application/json"));
        let members: BTreeSet<_> = manifest.as_object().expect("an object").keys().map(String::as_str).collect();
        let wanted = ["extension", "manifestType", "outcome", "output", "outputFormat", "requiresAccessToken"];
        assert_eq!(members, wanted.into_iter().chain(["transactionTime"]).collect(), "{level}");

        let mut received = std::collections::BTreeMap::<String, Vec<u8>>::new();
        for file in manifest["output"].as_array().expect("a list") {
            let bytes = Http::new().download(file["url"].as_str().expect("a link")).await.expect("a file");
            assert_eq!(file["fileSize"], bytes.len(), "{file}");
            assert_eq!(file["count"], bytes.iter().filter(|byte| **byte == b'\n').count(), "{file}");
            assert!(file["extension"].is_array(), "{file}");
            let name = file["type"].as_str().expect("a type").to_owned();
            received.entry(name).or_default().extend_from_slice(&bytes);
        }
        let expected = expected::of(&app.upstream, &format!("{level}/$export"));
        let difference = expected::compare(&expected, &received).expect("lines of JSON");
        assert!(difference.is_none(), "{level}:\n{difference}");
    }
    app.stop().await;
}

/// BD-081: as many outcomes of each severity as the file holds, each by its gravest issue.
#[tokio::test]
async fn outcomes_are_counted_by_severity() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(2);
    let hidden = upstream.resources(Some("Observation"))[0].id.clone();
    upstream.update_settings(|settings| {
        settings.lies = Lies { dropped: [format!("Observation/{hidden}")].into(), ..Lies::default() };
    });
    let app = App::before(upstream, |config| config.export.on_short = offtake::config::OnShort::Report).await;
    let kickoff = app.ask("POST", "/$export-v4", &POSTED, types(&["Patient", "Observation"]).as_bytes()).await;
    let manifest = ended(&app, &status_of(&app, &kickoff), runs).await.json();
    let [file] = manifest["outcome"].as_array().map_or(&[][..], Vec::as_slice) else { panic!("one file: {manifest}") };
    assert!(file.get("type").is_none(), "{file}");
    let bytes = Http::new().download(file["url"].as_str().expect("a link")).await.expect("a file");
    let mut counted = std::collections::BTreeMap::<String, u64>::new();
    for line in std::str::from_utf8(&bytes).expect("text").lines() {
        let outcome: Value = serde_json::from_str(line).expect("JSON");
        let issues = outcome["issue"].as_array().expect("issues");
        let has = |severity: &&str| issues.iter().any(|issue| issue["severity"] == **severity);
        let gravest = ["fatal", "error", "warning", "information"].into_iter().find(has).expect("a severity");
        *counted.entry(gravest.to_owned()).or_default() += 1;
    }
    let told = file["countSeverity"].as_array().expect("a list").iter();
    let told = told.map(|item| (item["code"].as_str().unwrap_or("?").to_owned(), item["count"].as_u64().unwrap_or(0)));
    assert_eq!(told.collect::<std::collections::BTreeMap<_, _>>(), counted);
    assert!(counted["error"] >= 1 && counted["information"] >= 1, "{counted:?}");
    app.stop().await;
}

/// It is posted, each value by itself, and what is refused leaves nothing behind. SEC-03: the upstream never sees it.
#[tokio::test]
async fn it_is_posted_value_by_value_and_never_passed_on() {
    let app = App::with_patients(1, Settings::default()).await;
    for level in ["", "/Patient", "/Group/all"] {
        for method in ["GET", "PUT", "DELETE", "PATCH"] {
            let answer = app.ask(method, &format!("{level}/$export-v4?_type=Patient"), &KICKOFF, b"").await;
            answer.assert_refused(method, 405, "not-supported", None);
            assert_eq!(answer.header("allow"), "POST", "{method}");
        }
        let path = format!("{level}/$export-v4");
        let list = app.ask("POST", &path, &POSTED, types(&["Patient,Observation"]).as_bytes()).await;
        list.assert_refused("a list", 400, "invalid", Some("Parameters.parameter[0]"));
        let query = app.ask("POST", &format!("{path}?_type=Patient,Observation"), &KICKOFF, b"").await;
        query.assert_refused("a list in the query", 400, "invalid", Some("http._type"));
    }
    for path in ["/$export-v4/", "/$EXPORT-v4", "/Observation/$export-v4", "/Patient/1/$export-v4", "/$export-v3"] {
        app.ask("POST", path, &POSTED, b"").await.assert_refused(path, 403, "forbidden", None);
    }
    assert!(app.upstream.requests().is_empty(), "{:?}", app.upstream.requests());
    app.stop().await;
}

/// Interop 8: it stands beside the others, with its own release.
#[tokio::test]
async fn it_is_advertised_beside_the_others() {
    let app = App::with_patients(1, Settings::default()).await;
    let statement = app.ask("GET", "/metadata", &[("Accept", "application/fhir+json")], b"").await.json();
    let server = &statement["rest"][0];
    let named = |operations: &Value| -> Vec<String> {
        let operations = operations.as_array().expect("a list");
        operations.iter().map(|operation| operation["name"].as_str().unwrap_or("?").to_owned()).collect()
    };
    let of = |name: &str| {
        let resources = server["resource"].as_array().expect("a list");
        resources.iter().find(|resource| resource["type"] == name).expect("it is there")["operation"].clone()
    };
    for (operations, definition, beside) in [
        (server["operation"].clone(), "export", &["export"][..]),
        (of("Patient"), "patient-export", &["export", "patient-export"]),
        (of("Group"), "group-export", &["export", "group-export"]),
    ] {
        for name in beside.iter().copied().chain(["export-v4"]) {
            assert!(named(&operations).iter().any(|known| known == name), "{name}: {operations}");
        }
        let fourth = operations.as_array().expect("a list").iter().find(|one| one["name"] == "export-v4").expect("it");
        let canonical = format!("http://hl7.org/fhir/uv/bulkdata/OperationDefinition/{definition}|4.0.0");
        assert_eq!(fourth["definition"], canonical);
    }
    app.stop().await;
}

/// `smart.clients[].bulk_data_version`: the other operation is refused, before anything is read of what was sent.
#[tokio::test]
async fn a_client_can_be_held_to_one_of_the_two() {
    let clients =
        [Client::new("any", "system/*.rs"), Client::new("old", "system/*.rs"), Client::new("new", "system/*.rs")];
    let rig = Rig::configured(&clients, |config| {
        config.smart.clients[1].bulk_data_version = Some(Release::Three);
        config.smart.clients[2].bulk_data_version = Some(Release::Four);
    })
    .await;
    for (client, may) in clients.iter().zip([[true, true], [true, false], [false, true]]) {
        let authorization = format!("Bearer {}", rig.token(client, "system/*.rs").await);
        let headers = [POSTED[0], POSTED[1], POSTED[2], ("Authorization", authorization.as_str())];
        for (operation, may) in ["$export", "$export-v4"].into_iter().zip(may) {
            let what = format!("{} {operation}", client.id);
            let body = if may { types(&["Patient"]) } else { "no JSON".to_owned() };
            let answer = rig.ask("POST", &format!("/{operation}"), &headers, body.as_bytes()).await;
            if may {
                assert_eq!(answer.status, 202, "{what}: {}", String::from_utf8_lossy(&answer.body));
            } else {
                answer.assert_refused(&what, 403, "forbidden", None);
            }
        }
    }
    let refused = rig.ledger().iter().filter(|record| record.to_string().contains("forbidden")).count();
    assert_eq!(refused, 2, "both are in the ledger");
    rig.stop().await;
}
