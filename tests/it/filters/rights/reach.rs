//! What comes another way than by a search for its type is held to the right as well: by reference, by the ids of members, by
//! what was deleted (SEC-20, SEC-21, SEC-27).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::DateTime;
use offtake::{Clock, SystemClock};
use sample_upstream::{Lies, SampleUpstream};
use serde_json::{Value, json};

use super::{ALL, read};
use crate::policy::{Export, export, got, under};
use crate::smart::{Client, Rig};

const BY_REFERENCE: &str =
    "system/Patient.rs system/Observation.rs system/Group.r system/Practitioner.rs?identifier=locum";

/// A Practitioner, and an Observation of some patient that refers to it.
fn referred_to(upstream: &SampleUpstream, id: &str) {
    let patient = upstream.resources(Some("Patient"))[0].id.clone();
    let practitioner = json!({ "resourceType": "Practitioner", "id": id, "identifier": [{ "value": id }] });
    let observation = json!({
        "resourceType": "Observation", "id": format!("by-{id}"), "status": "final",
        "subject": { "reference": format!("Patient/{patient}") },
        "performer": [{ "reference": format!("Practitioner/{id}") }],
    });
    for resource in [practitioner, observation] {
        upstream.update(&resource.to_string()).expect("a resource");
    }
}

fn ids(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What comes by reference passes as well, be the right a scope's or a policy's.
#[tokio::test]
async fn what_comes_by_reference_is_held_to_the_right() {
    let client = Client::new("a", ALL);
    let policy = json!({ "required_filters": ["Practitioner?identifier=locum"] });
    for (scope, policy) in [(BY_REFERENCE, json!({})), (ALL, policy)] {
        let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy)]).await;
        referred_to(&rig.upstream, "locum");
        referred_to(&rig.upstream, "partner");
        let token = rig.token(&client, scope).await;
        for below in ["/Patient/$export", "/Group/all/$export", "/$export?_type=Practitioner,Patient"] {
            let exported = export(&rig, &token, below).await;
            assert_eq!(exported.ids("Practitioner"), ids(&["locum"]), "{scope}: {below}");
            assert!(!exported.ids("Patient").is_empty(), "{scope}: {below}");
            // Nor is it said that there is another one.
            assert!(
                !exported.error.contains("partner") && !exported.error.contains("Practitioner/"),
                "{}",
                exported.error
            );
        }
        // Where it may not come, what narrows it is nobody's concern.
        rig.upstream.update_settings(|settings| settings.ignored_params = vec!["identifier".to_owned()]);
        let exported = export(&rig, &token, "/Patient/$export?_type=Patient,Observation").await;
        assert_eq!(exported.ids("Practitioner"), ids(&[]));
        let answer = rig.with_token("GET", "/Patient/$export", &token).await;
        assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(&answer.body));
        rig.stop().await;
    }
}

/// A server may heed a filter until it is told an id as well, as what is referred to and who is a member is asked for.
#[tokio::test]
async fn a_server_that_heeds_nothing_beside_an_id_is_found_out() {
    let client = Client::new("a", ALL);
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    referred_to(&rig.upstream, "locum");
    rig.upstream.update_settings(|settings| settings.lies = Lies { id_alone: true, ..Lies::default() });
    let patients = rig.upstream.resources(Some("Patient"));
    let genders =
        patients.iter().map(|stored| serde_json::from_str::<Value>(&stored.body).expect("JSON")["gender"].clone());
    let gender = genders.map(|gender| gender.as_str().expect("a gender").to_owned()).next().expect("a patient");
    let members = format!("system/Group.r system/Patient.rs?gender={gender}");
    for (scope, below, named) in [
        (BY_REFERENCE, "/Patient/$export", "ignores `identifier`"),
        (BY_REFERENCE, "/Group/all/$export", "ignores `identifier`"),
        (&members, "/Group/all/$export", "ignores `gender`"),
    ] {
        let token = rig.token(&client, scope).await;
        let answer = rig.with_token("GET", below, &token).await;
        answer.assert_refused(scope, 400, "not-supported", None);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(named), "{text}");
    }
    // By searches for the type it does what it should.
    let token = rig.token(&client, &members).await;
    let exported = export(&rig, &token, "/Patient/$export").await;
    let passes = |line: &str| line.contains(&format!(r#""gender":"{gender}""#));
    assert!(!exported.output.is_empty() && exported.output.lines().all(passes));
    rig.stop().await;
}

/// Nothing that passes is there when the export begins: what it refers to is tried before it is written.
#[tokio::test]
async fn a_right_is_tried_on_the_first_that_comes_by_reference() {
    for ignores in [false, true] {
        let client = Client::new("a", ALL);
        let rig = Rig::with(std::slice::from_ref(&client)).await;
        referred_to(&rig.upstream, "partner");
        let server = rig.upstream.clone();
        rig.upstream.first_when(
            // Before that there was nobody to be asked for.
            |seen| seen.path.ends_with("/Practitioner") && seen.query.contains("_id="),
            move || {
                let locum =
                    json!({ "resourceType": "Practitioner", "id": "partner", "identifier": [{ "value": "locum" }] });
                server.update(&locum.to_string()).expect("a resource");
                if ignores {
                    server.update_settings(|settings| settings.lies = Lies { id_alone: true, ..Lies::default() });
                }
            },
        );
        let token = rig.token(&client, BY_REFERENCE).await;
        let kickoff = rig.with_token("GET", "/Patient/$export", &token).await;
        assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
        let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
        let ended = loop {
            match read(&rig, &status, &token).await {
                running if running.status == 202 => rig.pause(202).await,
                ended => break ended,
            }
        };
        if ignores {
            let text = String::from_utf8_lossy(&ended.body).into_owned();
            assert!(ended.status >= 500 && text.contains("ignore"), "{}: {text}", ended.status);
        } else {
            let Export { output, .. } = got(&rig, &token, status).await;
            assert!(output.contains(r#""id":"partner""#), "{output}");
        }
        rig.stop().await;
    }
}

/// Members of a Group, and patients who are named, are had as far as they pass; whoever may have a part of all patients is not
/// told who else there is.
#[tokio::test]
async fn patients_are_held_to_the_right_whoever_names_them() {
    let client = Client::new("a", ALL);
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let of = |gender: &str| {
        let all = rig.upstream.resources(Some("Patient"));
        let passing = all.iter().filter(|stored| stored.body.contains(&format!(r#""gender":"{gender}""#)));
        passing.map(|stored| stored.id.clone()).collect::<BTreeSet<_>>()
    };
    for gender in ["female", "male", "other", "unknown"] {
        let token = rig
            .token(&client, &format!("system/Group.r system/Observation.rs system/Patient.rs?gender={gender}"))
            .await;
        let exported = export(&rig, &token, "/Group/all/$export").await;
        assert_eq!(exported.ids("Patient"), of(gender), "{gender}");
        let named = rig.upstream.resources(Some("Patient")).into_iter().map(
            |stored| json!({ "name": "patient", "valueReference": { "reference": format!("Patient/{}", stored.id) } }),
        );
        let body = json!({ "resourceType": "Parameters", "parameter": named.collect::<Vec<_>>() }).to_string();
        let authorization = format!("Bearer {token}");
        let headers = [
            ("Accept", "application/fhir+json"),
            ("Prefer", "respond-async"),
            ("Content-Type", "application/fhir+json"),
            ("Authorization", authorization.as_str()),
        ];
        let kickoff = rig.ask("POST", "/Patient/$export", &headers, body.as_bytes()).await;
        assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
        let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
        while let running @ (202 | 429) = rig.with_token("GET", &status, &token).await.status {
            rig.pause(running).await;
        }
        let exported = got(&rig, &token, status).await;
        assert_eq!(exported.ids("Patient"), of(gender), "{gender}");
        assert!(
            exported.error.contains("not in the Group or not permitted are not in this export"),
            "{}",
            exported.error
        );
    }
    rig.stop().await;
}

/// SEC-27: nobody can ask whether what is gone would have passed, and by another export of the client it was not received.
#[tokio::test]
async fn of_a_type_that_is_narrowed_no_deletions_are_told_but_of_what_was_received_by_the_same_right() {
    const NARROW: &str = "system/Organization.rs?identifier=own";
    for history in [true, false] {
        let client = Client::new("a", ALL);
        let rig = Rig::configured(std::slice::from_ref(&client), |config| {
            config.export.deletions_by_difference = !history;
            config.upstream.settling_lag = Duration::ZERO;
        })
        .await;
        rig.upstream.update_settings(|settings| settings.history = history);
        let leap = Arc::new(AtomicI64::new(0));
        let leapt = Arc::clone(&leap);
        let now = move || SystemClock.unix_millis() + leapt.load(Ordering::SeqCst);
        rig.upstream.set_clock(Arc::new(move || DateTime::from_timestamp_millis(now()).expect("in range")));
        for id in ["own", "foreign", "stays"] {
            let json = json!({ "resourceType": "Organization", "id": id, "identifier": [{ "value": id }] });
            rig.upstream.update(&json.to_string()).expect("a resource");
        }
        leap.fetch_add(10_000, Ordering::SeqCst);
        let wide = rig.token(&client, ALL).await;
        let narrow = rig.token(&client, NARROW).await;
        let of_all = export(&rig, &wide, "/$export?_type=Organization").await;
        leap.fetch_add(10_000, Ordering::SeqCst);
        // What changes here tells the transaction times of both apart.
        rig.upstream.update(r#"{"resourceType":"Organization","id":"stays"}"#).expect("a resource");
        leap.fetch_add(10_000, Ordering::SeqCst);
        let of_own = export(&rig, &narrow, "/$export?_type=Organization").await;
        assert_eq!(of_own.ids("Organization"), ids(&["own"]));
        leap.fetch_add(10_000, Ordering::SeqCst);
        for id in ["own", "foreign"] {
            rig.upstream.delete("Organization", id).expect("it is there");
        }
        rig.upstream.update(r#"{"resourceType":"Organization","id":"later"}"#).expect("a resource");
        leap.fetch_add(10_000, Ordering::SeqCst);
        let received: &[&str] = if history { &[] } else { &["own"] };
        for (before, told) in [(&of_all, &[][..]), (&of_own, received)] {
            let since = before.manifest["transactionTime"].as_str().expect("an instant");
            let exported = export(&rig, &narrow, &format!("/$export?_type=Organization&_since={since}")).await;
            let lines: Vec<_> = exported.deleted.lines().collect();
            assert_eq!(lines.len(), told.len(), "{history}: {lines:?}");
            assert!(told.iter().all(|id| exported.deleted.contains(&format!("Organization/{id}"))), "{history}");
        }
        rig.stop().await;
    }
}
