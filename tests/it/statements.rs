//! `GET [base]/metadata`: what is said of exports, and to whom it is not said (BD-102 to BD-105, interop 8).

use std::time::Duration;

use offtake::config::AcceptsAnonymous;
use sample_upstream::{Demand, SampleUpstream, Settings};
use serde_json::{Value, json};

use crate::raw::Answer;
use crate::smart::{Client, Rig};
use crate::support::{App, listener};

const GUIDE: &str = "http://hl7.org/fhir/uv/bulkdata";

/// What a statement says of one type.
fn resource<'a>(statement: &'a Value, name: &str) -> &'a Value {
    let resources = statement["rest"][0]["resource"].as_array().expect("a list");
    resources.iter().find(|resource| resource["type"] == name).unwrap_or(&Value::Null)
}

fn names(holder: &Value) -> Vec<&str> {
    holder["operation"].as_array().into_iter().flatten().filter_map(|operation| operation["name"].as_str()).collect()
}

/// The operations of the guide that a type is no part of.
fn lacks(resource: &Value) -> Vec<&str> {
    let extensions = resource["extension"].as_array().into_iter().flatten();
    let said = extensions.filter(|extension| extension["url"] == format!("{GUIDE}/Extension/operation-not-supported"));
    said.filter_map(|extension| extension["valueCanonical"].as_str()?.strip_prefix(GUIDE)).collect()
}

fn assert_says_what_is_exported(statement: &Value) {
    let guide = format!("{GUIDE}/CapabilityStatement/bulk-data");
    assert!(statement["instantiates"].as_array().is_some_and(|list| list.contains(&guide.clone().into())), "BD-102");
    assert!(names(&statement["rest"][0]).contains(&"export"));
    for (name, own) in [("Patient", "patient-export"), ("Group", "group-export")] {
        let names = names(resource(statement, name));
        assert!(names.contains(&"export") && names.contains(&own), "interop 8: {names:?}");
    }
    let without = ["/OperationDefinition/patient-export", "/OperationDefinition/group-export"];
    for (name, expected) in [
        ("Observation", &[][..]),
        ("Patient", &[]),
        // Along with patients.
        ("Practitioner", &[]),
        ("Organization", &[]),
        ("Slot", &without),
        ("Group", &without),
        ("List", &without),
    ] {
        let resource = resource(statement, name);
        // Not every server has lists or slots.
        assert!(!resource.is_null() || ["List", "Slot"].contains(&name), "BD-104: {name}");
        if !resource.is_null() {
            assert_eq!(lacks(resource), expected, "BD-105: {name}");
        }
    }
}

async fn get(rig: &Rig, below: &str, headers: &[(&str, &str)]) -> Answer {
    rig.ask("GET", below, headers, b"").await
}

#[tokio::test]
async fn a_statement_says_what_is_exported_and_how_tokens_are_had() {
    let rig = Rig::with(&[Client::new("a", "system/*.rs")]).await;
    rig.upstream.create(r#"{"resourceType":"List","id":"l"}"#).expect("a list");
    let answer = get(&rig, "/metadata", &[]).await;
    let statement = answer.json();
    assert_says_what_is_exported(&statement);
    let security = &statement["rest"][0]["security"];
    assert_eq!(security["service"][0]["coding"][0]["code"], "SMART-on-FHIR");
    assert_eq!(security["extension"][0]["extension"][0]["valueUri"], rig.token_endpoint());
    assert!(!resource(&statement, "Patient")["searchParam"].is_null(), "what is the upstream's stays");
    // The sample server writes the time into each statement: for whoever has one it is the same.
    let etag = answer.header("etag").to_owned();
    let again = get(&rig, "/metadata", &[("If-None-Match", &etag)]).await;
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, etag.as_str()));
    rig.upstream.update_settings(|settings| settings.software = "Other".to_owned());
    let other = get(&rig, "/metadata", &[("If-None-Match", &etag)]).await;
    assert_eq!(other.status, 200);
    assert_ne!(other.header("etag"), etag);
    rig.stop().await;
}

/// BD-103, SEC-02
#[tokio::test]
async fn a_statement_does_not_claim_what_is_refused() {
    let upstream = SampleUpstream::new(Settings { demand: Demand::Nothing, ..Settings::default() });
    let server = upstream.serve(listener().await).await;
    let client = Client::new("a", "system/*.rs");
    let mut rig = Rig::before(upstream, server, &[client], |config| {
        config.upstream.accepts_anonymous = AcceptsAnonymous::Refused;
    })
    .await;
    let closed = get(&rig, "/metadata", &[]).await.json();
    assert_eq!(closed["resourceType"], "CapabilityStatement");
    assert!(closed["instantiates"].is_null() && names(&closed["rest"][0]).is_empty());
    assert!(names(resource(&closed, "Patient")).is_empty() && closed["rest"][0]["security"].is_null());
    rig.restart(|config| config.upstream.accepts_anonymous = AcceptsAnonymous::Acknowledged).await;
    assert_eq!(names(&get(&rig, "/metadata", &[]).await.json()["rest"][0]), ["export", "export-v4"]);
    rig.stop().await;
    // Patients' compartments are unknown there.
    let upstream = SampleUpstream::new(Settings { fhir_version: "3.0.2".to_owned(), ..Settings::default() });
    let app = App::before(upstream, |_| {}).await;
    let statement = app.ask("GET", "/metadata", &[], b"").await.json();
    assert_eq!(names(&statement["rest"][0]), ["export", "export-v4"]);
    for name in ["Patient", "Group"] {
        assert!(names(resource(&statement, name)).is_empty(), "{name}");
    }
    assert!(statement["rest"][0]["security"].is_null(), "nobody needs a token there");
    app.stop().await;
}

/// BD-104: at a base of our own the types stand that can be exported, and whoever asks for it often asks us alone.
#[tokio::test]
async fn a_statement_at_our_own_base_is_asked_of_the_upstream_once() {
    let apart = |config: &mut offtake::Config| config.server.bulk_base_path = Some("/bulk".to_owned());
    let rig = Rig::configured(&[Client::new("a", "system/*.rs")], apart).await;
    let host = rig.host();
    let ask = async |headers: &[(&str, &str)]| {
        crate::raw::ask(&host, &crate::raw::request("GET", "/bulk/metadata", &host, headers, b"")).await
    };
    let asked = || rig.upstream.requests().iter().filter(|seen| seen.path.ends_with("/metadata")).count();
    rig.upstream.set_available(false);
    let before = asked();
    for _ in 0..5 {
        ask(&[]).await.assert_refused("it is away", 503, "transient", None);
    }
    rig.upstream.set_available(true);
    ask(&[]).await.assert_refused("it was away a moment ago", 503, "transient", None);
    assert_eq!(asked(), before, "nobody's questions are handed on without a pause");
    rig.advance(5);
    let answers = futures_util::future::join_all((0..20).map(|_| ask(&[]))).await;
    assert_eq!(asked(), before + 1, "one asks for all");
    let statement = answers[0].json();
    assert_says_what_is_exported(&statement);
    assert_eq!(resource(&statement, "Observation"), &json!({ "type": "Observation" }));
    let etag = answers[0].header("etag").to_owned();
    rig.clock.advance(Duration::from_secs(7));
    let again = ask(&[("If-None-Match", &etag)]).await;
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, etag.as_str()));
    rig.stop().await;
}
