//! Patients who withdrew consent (SEC-14).

use std::path::Path;
use std::time::Duration;

use offtake::Config;
use sample_upstream::{SampleUpstream, Settings};
use serde_json::json;

use super::{ALL, Export, STATEMENT, export, nothing_is_left};
use crate::smart::{Client, Rig};
use crate::support::{App, until};

fn write(path: &Path, patients: &str) {
    std::fs::write(path, patients).expect("the disk takes it");
}

/// In front of three patients: `in` and `also` are in the Group, `out` is not.
async fn rig(client: &Client, list: &Path, patients: &str) -> Rig {
    write(list, patients);
    let list = list.to_owned();
    let rig = Rig::configured(std::slice::from_ref(client), move |config: &mut Config| {
        config.policy.exclude_patients_file = Some(list);
    })
    .await;
    for id in ["in", "also", "out"] {
        let patient = format!(r#"{{"resourceType":"Patient","id":"{id}"}}"#);
        let own =
            format!(r#"{{"resourceType":"Observation","id":"of-{id}","subject":{{"reference":"Patient/{id}"}}}}"#);
        let about =
            format!(r#"{{"resourceType":"Provenance","id":"about-{id}","target":[{{"reference":"Patient/{id}"}}]}}"#);
        let device =
            format!(r#"{{"resourceType":"Device","id":"device-{id}","patient":{{"reference":"Patient/{id}"}}}}"#);
        let seen = format!(
            r#"{{"resourceType":"Observation","id":"by-{id}","subject":{{"reference":"Patient/in"}},"focus":[{{"reference":"Patient/{id}"}}]}}"#
        );
        for json in [patient, own, about, device, seen] {
            rig.upstream.create(&json).expect("a resource");
        }
    }
    rig.upstream
        .create(
            r#"{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/in"}},{"entity":{"reference":"Patient/also"}}]}"#,
        )
        .expect("a Group");
    rig
}

/// What an export that has ended is answered with; after a restart the first answer says that it runs.
async fn status(rig: &Rig, export: &Export, token: &str) -> u16 {
    match rig.with_token("GET", &export.status, token).await.status {
        202 => rig.with_token("GET", &export.status, token).await.status,
        other => other,
    }
}

#[tokio::test]
async fn nothing_of_them_leaves_at_any_level() {
    let folder = tempfile::tempdir().expect("a folder");
    let client = Client::new("a", ALL);
    let rig = rig(&client, &folder.path().join("list"), "# withdrawn\nPatient/also\n").await;
    let token = rig.token(&client, ALL).await;
    for path in ["/$export", "/Patient/$export", "/Group/g/$export"] {
        let export = export(&rig, &token, path).await;
        for id in ["in", "of-in", "about-in", "by-in"] {
            assert!(export.has(id), "{path}: {id} is missing");
        }
        assert!(!export.output.contains("Patient/also") && !export.output.contains(r#""id":"also""#), "{path}");
        assert!(!export.has("of-also") && !export.has("about-also") && !export.has("device-also"), "{path}");
        assert_eq!(export.error.matches(STATEMENT).count(), 1, "{path}");
        assert!(!export.error.contains("also"), "{path}: {}", export.error);
        let proof = export.proof("Patient");
        assert_eq!(proof["expected"], proof["received"], "{path}: {proof}");
        assert_eq!((&proof["withheld"], &proof["short"]), (&json!(0), &json!(0)), "{path}: {proof}");
    }
    rig.stop().await;
}

/// SEC-26: nor do the numbers tell of them where everybody was changed so late that it counts as moved.
#[tokio::test]
async fn no_number_tells_of_who_was_changed_just_now() {
    let folder = tempfile::tempdir().expect("a folder");
    let client = Client::new("a", ALL);
    let list = folder.path().join("list");
    write(&list, "also\n");
    let rig = Rig::configured(std::slice::from_ref(&client), |config| {
        config.policy.exclude_patients_file = Some(list);
    })
    .await;
    let later = rig.upstream.now() + chrono::TimeDelta::hours(1);
    for id in ["in", "also"] {
        let patient = format!(r#"{{"resourceType":"Patient","id":"{id}"}}"#);
        rig.upstream.insert_raw_at(&patient, later).expect("a patient");
    }
    let group = r#"{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/in"}},{"entity":{"reference":"Patient/also"}}]}"#;
    rig.upstream.create(group).expect("a Group");
    let token = rig.token(&client, ALL).await;
    let export = export(&rig, &token, "/Group/g/$export").await;
    assert!(export.has("in") && !export.output.contains("also"));
    let proof = export.proof("Patient");
    assert_eq!((&proof["written"], &proof["withheld"], &proof["short"]), (&json!(1), &json!(0), &json!(0)), "{proof}");
    assert_eq!(proof["expected"], proof["received"], "{proof}");
    rig.stop().await;
}

/// Whoever may ask.
#[tokio::test]
async fn nothing_of_them_leaves_in_open_mode() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list");
    write(&list, "gone");
    let upstream = SampleUpstream::new(Settings::default());
    for id in ["stays", "gone"] {
        upstream.create(&format!(r#"{{"resourceType":"Patient","id":"{id}"}}"#)).expect("a patient");
    }
    let app = App::before(upstream, |config| config.policy.exclude_patients_file = Some(list)).await;
    let (_, received) = app.export("/$export").await.expect("an export");
    let patients = std::str::from_utf8(&received["Patient"]).expect("text");
    assert!(patients.contains(r#""id":"stays""#) && !patients.contains("gone"), "{patients}");
    app.stop().await;
}

/// SEC-14: every export may hold somebody who is new on the list, be it in what others have; it ends.
#[tokio::test]
async fn a_list_that_grows_ends_what_may_hold_who_is_new() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list");
    let client = Client::new("a", ALL);
    for (path, after, stays) in [
        ("/$export", "also\n", true),
        ("/$export", "", true),
        ("/$export", "also\nout\n", false),
        ("/Patient/$export", "also\nout\n", false),
        ("/Patient/$export", "out\n", false),
        ("/Group/g/$export", "also\nout\n", false),
        ("/Group/g/$export", "also\nin\n", false),
    ] {
        let mut rig = rig(&client, &list, "also\n").await;
        let token = rig.token(&client, ALL).await;
        let export = export(&rig, &token, path).await;
        write(&list, after);
        rig.reload(|_| {});
        let what = format!("{path} {after:?}");
        let expected = if stays { 200 } else { 404 };
        assert_eq!(rig.with_token("GET", &export.status, &token).await.status, expected, "{what}");
        if !stays {
            nothing_is_left(&rig, &what).await;
        }
        // The same list after a restart is none that has grown.
        rig.restart(|_| {}).await;
        let token = rig.token(&client, ALL).await;
        assert_eq!(status(&rig, &export, &token).await, expected, "{what}, after a restart");
        rig.stop().await;
    }
}

#[tokio::test]
async fn an_export_that_runs_ends_when_the_list_grows() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list");
    let client = Client::new("a", ALL);
    let mut rig = rig(&client, &list, "").await;
    rig.upstream.generate(20);
    rig.upstream.update_settings(|settings| settings.latency = Duration::from_millis(100));
    let token = rig.token(&client, ALL).await;
    let kickoff = rig.with_token("GET", "/$export", &token).await;
    let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    until("it writes", super::SOON, || super::objects(&rig).len() > 2).await;
    write(&list, "in");
    rig.reload(|_| {});
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 404);
    nothing_is_left(&rig, "it ran").await;
    rig.stop().await;
}

/// Where there are many to end it is an export itself that notices first: it has to be removed all the same, though its own end
/// stops it.
#[tokio::test]
async fn exports_that_run_end_while_others_are_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list");
    let client = Client::new("a", ALL);
    let mut rig = rig(&client, &list, "").await;
    let token = rig.token(&client, ALL).await;
    for _ in 0..40 {
        export(&rig, &token, "/$export?_type=Patient").await;
    }
    rig.upstream.generate(20);
    rig.upstream.update_settings(|settings| settings.latency = Duration::from_millis(20));
    let finished = super::objects(&rig).len();
    for _ in 0..4 {
        assert_eq!(rig.with_token("GET", "/$export", &token).await.status, 202);
    }
    until("they write", super::SOON, || super::objects(&rig).len() > finished + 20).await;
    write(&list, "in");
    rig.reload(|_| {});
    nothing_is_left(&rig, "they ran").await;
    rig.stop().await;
}

/// What cannot be read keeps everything back at a start, and changes nothing later.
#[tokio::test]
async fn a_list_that_cannot_be_read_lets_nothing_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list");
    let client = Client::new("a", ALL);
    let mut rig = rig(&client, &list, "also\n").await;
    let token = rig.token(&client, ALL).await;
    let done = export(&rig, &token, "/$export?_type=Patient").await;
    write(&list, "no id at all\n");
    rig.reload(|_| {});
    assert_eq!(rig.with_token("GET", &done.status, &token).await.status, 200, "the one before it stays in force");
    let again = export(&rig, &token, "/$export?_type=Patient").await;
    assert!(again.has("in") && !again.has("also"), "{}", again.output);
    rig.restart(|_| {}).await;
    assert_eq!(rig.ask_for_token(&rig.parameters(&client, ALL)).await.status, 503, "there is no token to ask with");
    assert_eq!(rig.ask("GET", "/Patient?_count=1", &[], b"").await.status, 200, "others pass through");
    write(&list, "also\n");
    // It is looked at again after a while.
    let mut waited = 0;
    while rig.ask_for_token(&rig.parameters(&client, ALL)).await.status != 200 {
        assert!(waited < 100, "it does not come back");
        rig.advance(5);
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
    }
    let token = rig.token(&client, ALL).await;
    assert_eq!(status(&rig, &done, &token).await, 200, "nothing was lost");
    rig.stop().await;
}
