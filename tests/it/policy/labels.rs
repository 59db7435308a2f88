//! Labels that are withheld.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::DateTime;
use offtake::config::BoundaryChoice;
use offtake::{Clock, SystemClock};
use sample_upstream::Lies;
use serde_json::json;

use super::{ALL, SOON, STATEMENT, export, objects, rig, under};
use crate::smart::{Client, Rig};
use crate::support::until;

const PART_2: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode|42CFRPart2";
const LABEL: &str =
    r#""meta":{"security":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"42CFRPart2"}]}"#;

/// Two patients in a Group, and around the first all ways in which something can come along. What carries the label, wherever,
/// has an id that begins with `secret`.
fn fill(rig: &Rig) {
    let subject = r#""subject":{"reference":"Patient/p"}"#;
    for json in [
        r#"{"resourceType":"Patient","id":"p"}"#.to_owned(),
        format!(r#"{{"resourceType":"Patient","id":"secret-patient",{LABEL}}}"#),
        r#"{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p"}},
            {"entity":{"reference":"Patient/secret-patient"}}]}"#
            .to_owned(),
        r#"{"resourceType":"Practitioner","id":"known"}"#.to_owned(),
        format!(r#"{{"resourceType":"Practitioner","id":"secret-practitioner",{LABEL}}}"#),
        format!(
            r#"{{"resourceType":"Observation","id":"open",{subject},"performer":[{{"reference":"Practitioner/known"}},{{"reference":"Practitioner/secret-practitioner"}}]}}"#
        ),
        format!(r#"{{"resourceType":"Observation","id":"goes",{subject}}}"#),
        format!(r#"{{"resourceType":"Observation","id":"secret-observation",{LABEL},{subject}}}"#),
        format!(r#"{{"resourceType":"Observation","id":"secret-goes",{LABEL},{subject}}}"#),
        format!(
            r#"{{"resourceType":"Observation","id":"secret-inside",{subject},"contained":[{{"resourceType":"Specimen",{LABEL}}}]}}"#
        ),
        format!(
            r#"{{"resourceType":"Observation","id":"secret-escaped",{subject},"contained":[{{"resourceType":"Specimen","m\u0065ta":{{"secur\u0069ty":[{{"c\u006fde":"42CFRPart2"}}]}}}}]}}"#
        ),
        format!(r#"{{"resourceType":"Observation","id":"secret-unclear",{subject},"meta":{{"security":[{{"display":"?"}}]}}}}"#),
        r#"{"resourceType":"Provenance","id":"of-open","target":[{"reference":"Patient/p"}]}"#.to_owned(),
        format!(r#"{{"resourceType":"Provenance","id":"secret-provenance",{LABEL},"target":[{{"reference":"Patient/p"}}]}}"#),
        r#"{"resourceType":"Provenance","id":"of-goes","target":[{"reference":"Observation/goes"}]}"#.to_owned(),
        // Without a label, and about one that has it.
        r#"{"resourceType":"Provenance","id":"secret-of-patient","target":[{"reference":"Patient/p"},{"reference":"Patient/secret-patient"}]}"#
            .to_owned(),
        r#"{"resourceType":"Provenance","id":"secret-only","target":[{"reference":"Observation/secret-observation"}]}"#.to_owned(),
        r#"{"resourceType":"Provenance","id":"secret-told","target":[{"reference":"Patient/p"},{"reference":"Observation/secret-observation"}]}"#
            .to_owned(),
        r#"{"resourceType":"Provenance","id":"secret-made","target":[{"reference":"Patient/p"}],"entity":[{"role":"source","what":{"reference":"Observation/secret-inside"}}]}"#
            .to_owned(),
        r#"{"resourceType":"Provenance","id":"secret-unknown","target":[{"reference":"Patient/p"},{"reference":"Observation/gone"}]}"#
            .to_owned(),
    ] {
        rig.upstream.create(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
    }
}

/// Moves the time of the server, whose `Date` has whole seconds.
struct Leap(Arc<AtomicI64>);

impl Leap {
    fn of(rig: &Rig) -> Self {
        let leap = Arc::new(AtomicI64::new(0));
        let leapt = Arc::clone(&leap);
        let now = move || SystemClock.unix_millis() + leapt.load(Ordering::SeqCst);
        rig.upstream.set_clock(Arc::new(move || DateTime::from_timestamp_millis(now()).expect("in range")));
        Self(leap)
    }

    fn on(&self) {
        self.0.fetch_add(10_000, Ordering::SeqCst);
    }
}

async fn labelled(client: &Client) -> (Rig, Leap) {
    let policy = json!({ "withheld_labels": [PART_2] });
    let rig = Rig::configured(&[], |config| {
        config.smart.clients = vec![under(client, policy), Client { id: "other", ..client.clone() }.config()];
        config.upstream.settling_lag = Duration::ZERO;
    })
    .await;
    let leap = Leap::of(&rig);
    fill(&rig);
    leap.on();
    (rig, leap)
}

/// SEC-26: however Provenance is found, by what it is about or as what is about it.
#[tokio::test]
async fn what_comes_along_tells_of_no_record_that_is_withheld() {
    let client = Client::new("a", ALL);
    let (rig, _leap) = labelled(&client).await;
    let token = rig.token(&client, ALL).await;
    for (path, value) in [
        ("/$export?_type=Observation&", "RelevantProvenanceResources"),
        ("/$export?_type=Observation&", "LatestProvenanceResources"),
        ("/Patient/$export?_type=Observation&", "LatestProvenanceResources"),
        ("/Patient/$export?", "RelevantProvenanceResources"),
        ("/Group/g/$export?", "LatestProvenanceResources"),
        ("/Patient/$export?_type=Patient,Provenance&", "RelevantProvenanceResources"),
    ] {
        let asked = format!("includeAssociatedData={value}");
        let export = export(&rig, &token, &format!("{path}{asked}")).await;
        assert!(export.has("of-goes"), "{path}{asked}: {}", export.output);
        assert!(!export.output.contains(r#""id":"secret"#), "{path}{asked}: {}", export.output);
    }
    rig.stop().await;
}

/// SEC-20, SEC-26: though the upstream ignores `_security:not`.
#[tokio::test]
async fn a_record_with_a_withheld_label_is_in_no_file() {
    let client = Client::new("a", ALL);
    let (rig, _leap) = labelled(&client).await;
    let token = rig.token(&client, ALL).await;
    let other = rig.token(&Client { id: "other", ..client.clone() }, ALL).await;
    for path in ["/$export", "/Patient/$export", "/Group/g/$export", "/$export?_type=Observation,Provenance"] {
        let whole = super::export(&rig, &other, path).await;
        let export = export(&rig, &token, path).await;
        for id in ["secret-observation", "secret-goes", "secret-inside", "secret-escaped", "secret-unclear"] {
            assert!(whole.has(id), "{path}: without a policy {id} is there");
        }
        for id in ["secret-told", "secret-made", "secret-of-patient", "of-open"] {
            assert!(whole.has(id), "{path}: without a policy {id} is there");
        }
        // Whose that is which is gone, nobody knows.
        assert_eq!(whole.has("secret-unknown"), !path.starts_with("/Group"), "{path}");
        assert!(export.has("of-open"), "{path}: Provenance of what leaves does");
        assert!(!export.output.contains(r#""id":"secret"#), "{path}: {}", export.output);
        assert!(export.has("open"), "{path}: what has no label is there");
        assert_eq!(export.has("known"), !path.contains("_type"), "{path}");
        assert_eq!(export.error.matches(STATEMENT).count(), 1, "{path}: {}", export.error);
        assert!(!export.error.contains("secret"), "{path}: {}", export.error);
        // The proof adds up, and tells nothing of what is kept back.
        let proof = export.proof("Observation");
        let written = export.output.lines().filter(|line| line.contains(r#""resourceType":"Observation""#)).count();
        assert_eq!(proof["written"], written, "{path}: {proof}");
        for name in ["expected", "received"] {
            let (number, repeated) = (proof[name].as_u64(), proof["repeated"].as_u64());
            let withheld = proof["withheld"].as_u64().unwrap_or_default();
            assert_eq!(
                number,
                repeated.map(|repeated| repeated + written as u64 + withheld),
                "{path}: {name} of {proof}"
            );
        }
        assert_eq!(proof["withheld"], whole.proof("Observation")["withheld"], "{path}: {proof}");
        assert_eq!(whole.proof("Observation")["written"], written + 5, "{path}: {proof}");
    }
    rig.stop().await;
}

/// SEC-20, SEC-26: what an earlier life of the process kept back stays so, and is counted nowhere still.
#[tokio::test]
async fn an_export_that_goes_on_after_a_restart_keeps_back_the_same() {
    let client = Client::new("a", ALL);
    let policy = json!({ "withheld_labels": [PART_2] });
    let mut rig = Rig::configured(&[], |config| {
        config.smart.clients = vec![under(&client, policy)];
        config.output.file_max_resources = 10;
        config.upstream.page_max_resources = 10;
    })
    .await;
    rig.upstream.generate(20);
    fill(&rig);
    rig.upstream.update_settings(|settings| settings.latency = Duration::from_millis(50));
    let token = rig.token(&client, ALL).await;
    let kickoff = rig.with_token("GET", "/$export", &token).await;
    let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    until("it has completed some files", SOON, || objects(&rig).len() > 8).await;
    rig.restart(|_| {}).await;
    rig.upstream.update_settings(|settings| settings.latency = Duration::ZERO);
    let token = rig.token(&client, ALL).await;
    while let running @ (202 | 429) = rig.with_token("GET", &status, &token).await.status {
        rig.pause(running).await;
    }
    let export = super::got(&rig, &token, status).await;
    assert!(!export.output.contains(r#""id":"secret"#), "{}", export.output);
    let held = rig.upstream.resources(Some("Observation"));
    let open = held.iter().filter(|stored| !stored.id.starts_with("secret")).count();
    let proof = export.proof("Observation");
    let numbers = ["written", "withheld", "short"].map(|name| proof[name].as_u64());
    assert_eq!(numbers, [Some(open as u64), Some(0), Some(0)], "{proof}");
    assert_eq!(proof["expected"], proof["received"], "{proof}");
    rig.stop().await;
}

/// SEC-26: that nothing was kept back is not told either, and clients without a policy are told nothing.
#[tokio::test]
async fn the_statement_is_made_whether_anything_is_kept_back_or_not() {
    let (client, other) = (Client::new("a", ALL), Client::new("other", ALL));
    let policy = json!({ "withheld_labels": [PART_2] });
    let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy), other.config()]).await;
    for (client, told) in [(&client, 1), (&other, 0)] {
        let token = rig.token(client, ALL).await;
        let export = export(&rig, &token, "/$export?_type=Patient").await;
        assert_eq!(export.error.matches(STATEMENT).count(), told, "{}", client.id);
        assert_eq!(export.output.lines().count(), 3, "{}", client.id);
    }
    rig.stop().await;
}

/// SEC-27
#[tokio::test]
async fn a_record_with_a_withheld_label_is_not_among_what_was_deleted() {
    let client = Client::new("a", ALL);
    let (rig, leap) = labelled(&client).await;
    let token = rig.token(&client, ALL).await;
    let first = export(&rig, &token, "/$export?_type=Observation").await;
    let since = first.manifest["transactionTime"].as_str().expect("an instant").to_owned();
    leap.on();
    for id in ["goes", "secret-goes"] {
        rig.upstream.delete("Observation", id).expect("it is there");
    }
    leap.on();
    rig.upstream
        .create(r#"{"resourceType":"Observation","id":"later","subject":{"reference":"Patient/p"}}"#)
        .expect("a resource");
    leap.on();
    for path in ["/$export", "/Patient/$export", "/Group/g/$export"] {
        let export = export(&rig, &token, &format!("{path}?_type=Observation&_since={since}")).await;
        assert!(export.deleted.contains(r#""Observation/goes""#), "{path}: {}", export.deleted);
        assert!(!export.deleted.contains("secret"), "{path}: {}", export.deleted);
        // That some are left out would tell of them.
        assert!(!export.error.contains("deletions of which"), "{path}: {}", export.error);
    }
    rig.stop().await;
}

/// SEC-26: what was not labelled at the transaction time and is now does not leave as it was then.
#[tokio::test]
async fn an_older_version_does_not_leave_in_the_place_of_a_labelled_one() {
    let client = Client::new("a", ALL);
    let policy = json!({ "withheld_labels": [PART_2] });
    let rig = Rig::configured(&[], |config| {
        config.smart.clients = vec![under(&client, policy)];
        config.export.boundary = BoundaryChoice::AsOf;
        config.upstream.settling_lag = Duration::from_secs(15);
    })
    .await;
    let leap = Leap::of(&rig);
    for id in ["labelled-since", "changed-since"] {
        let json = format!(r#"{{"resourceType":"Organization","id":"{id}","name":"then"}}"#);
        rig.upstream.create(&json).expect("a resource");
    }
    leap.on();
    leap.on();
    let now = [format!(r#""id":"labelled-since",{LABEL}"#), r#""id":"changed-since""#.to_owned()];
    for members in now {
        rig.upstream
            .update(&format!(r#"{{"resourceType":"Organization",{members},"name":"now"}}"#))
            .expect("it is there");
    }
    // The server's time has whole seconds, and is later than all of it.
    leap.on();
    let token = rig.token(&client, ALL).await;
    let export = export(&rig, &token, "/$export?_type=Organization").await;
    assert!(export.has("changed-since") && !export.output.contains(r#""name":"now""#), "{}", export.output);
    assert!(!export.has("labelled-since"), "{}", export.output);
    rig.stop().await;
}

/// SEC-26, SEC-41: neither how many there are nor which.
#[tokio::test]
async fn what_the_server_fails_to_give_is_not_named_where_labels_are_withheld() {
    let client = Client::new("a", ALL);
    let rig = rig(&client, json!({ "withheld_labels": [PART_2] })).await;
    let bad = rig.upstream.resources(Some("Condition"))[0].id.clone();
    let lies = Lies { poisoned: [format!("Condition/{bad}")].into(), ..Lies::default() };
    rig.upstream.update_settings(|settings| settings.lies = lies);
    let token = rig.token(&client, ALL).await;
    // The server is asked again and again, with pauses.
    let clock = Arc::clone(&rig.clock);
    let passing = tokio::spawn(async move {
        loop {
            clock.advance(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let export = export(&rig, &token, "/$export?_type=Condition").await;
    passing.abort();
    assert!(!export.error.contains(&bad), "{}", export.error);
    assert_eq!(export.proof("Condition")["short"], 1, "{}", export.error);
    rig.stop().await;
}
