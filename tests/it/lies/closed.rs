//! Patients whose records are closed to all but a few: the server refuses searches for them with 403.

use std::collections::{BTreeMap, BTreeSet};

use sample_upstream::{Everything, Lies, Paging, SampleUpstream, Settings, Total};
use serde_json::Value;

use super::{PROOF, outcomes};
use crate::expected;
use crate::support::{App, until};

const GROUP: &str = "/Group/all/$export";
const PATIENTS: usize = 24;

/// Closes the records of the first `count` patients.
fn close(upstream: &SampleUpstream, count: usize) -> BTreeSet<String> {
    let patients = upstream.resources(Some("Patient"));
    let closed: BTreeSet<_> = patients.iter().take(count).map(|patient| patient.id.clone()).collect();
    upstream.update_settings(|settings| settings.lies.closed_records.clone_from(&closed));
    closed
}

/// `Type/id` of everything that was received.
fn names(received: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let lines = received.values().flat_map(|bytes| bytes.split(|byte| *byte == b'\n')).filter(|line| !line.is_empty());
    let parsed = lines.map(|line| serde_json::from_slice::<Value>(line).expect("JSON"));
    parsed.map(|line| format!("{}/{}", line["resourceType"], line["id"]).replace('"', "")).collect()
}

/// What belongs to patients whose records are open, and to nobody else.
fn without(upstream: &SampleUpstream, closed: &BTreeSet<String>) -> BTreeSet<String> {
    let is_open = |patient: &str| patient.split_once('/').is_some_and(|(_, id)| !closed.contains(id));
    let of_open = |(name, body): &(String, String)| {
        let value: Value = serde_json::from_str(body).expect("JSON");
        expected::belongs(name, &value, is_open)
    };
    expected::of(upstream, GROUP).into_iter().filter(of_open).map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_closed_record_is_missing_and_said_to_be_and_all_others_come() {
    let exact = Settings { total: Total::Exact, ..Settings::default() };
    let uncounted = Settings { counts: false, accurate_total: false, total: Total::Absent, ..Settings::default() };
    let one_by_one = Settings { one_patient: true, paging: Paging::Offset, ..exact.clone() };
    for settings in [exact, uncounted, one_by_one] {
        let upstream = SampleUpstream::new(settings);
        upstream.generate(PATIENTS);
        let closed = close(&upstream, 2);
        let app = App::before(upstream, |_| {}).await;
        let (manifest, received) = app.export(GROUP).await.expect("an export");
        let received = names(&received);
        let open = without(&app.upstream, &closed);
        assert!(open.len() > 100, "there is something to be missed");
        assert_eq!(open.difference(&received).collect::<Vec<_>>(), Vec::<&String>::new());
        let proof = &manifest.whole["extension"][PROOF];
        assert_eq!(proof["Observation"]["method"], "unproven", "{proof}");
        assert_ne!(proof["Patient"]["method"], "unproven", "they are read by their ids");
        let said = outcomes(&manifest).await;
        let line =
            said.lines().find(|line| line.contains("refuses searches for 2 of the patients")).expect("it is said");
        assert!(line.contains("\"forbidden\"") && line.contains("Observation"), "{line}");
        assert!(closed.iter().all(|id| !said.contains(id.as_str())), "who they are is not told");
        app.stop().await;
    }
}

#[tokio::test]
async fn a_closed_record_among_those_that_only_everything_gives_is_said_to_be_missing() {
    let identifier = vec!["identifier".to_owned()];
    let required_params = BTreeMap::from([("Coverage".to_owned(), identifier)]);
    let settings =
        Settings { total: Total::Exact, everything: Everything::Paged, required_params, ..Settings::default() };
    let upstream = SampleUpstream::new(settings);
    upstream.generate(PATIENTS);
    close(&upstream, 2);
    let app = App::before(upstream, |_| {}).await;
    let (manifest, _) = app.export("/Group/all/$export?_type=Coverage").await.expect("an export");
    let said = outcomes(&manifest).await;
    assert!(said.contains("refuses searches for 2 of the patients"), "{said}");
    app.stop().await;
}

/// Credentials that are good no more look the same for one patient; they are told from it by all others.
#[tokio::test]
async fn a_server_that_refuses_everybody_or_many_fails_the_export() {
    for count in [PATIENTS, PATIENTS / 2] {
        let upstream = SampleUpstream::new(Settings { total: Total::Exact, ..Settings::default() });
        upstream.generate(PATIENTS);
        let all = upstream.resources(Some("Patient"));
        let last: BTreeSet<_> = all.iter().rev().take(count).map(|patient| patient.id.clone()).collect();
        let lies = Lies { closed_records: last, ..Lies::default() };
        upstream.update_settings(|settings| settings.lies = lies);
        let app = App::before(upstream, |_| {}).await;
        let error = app.export(GROUP).await.expect_err("most is missing").to_string();
        assert!(error.contains("403"), "{count}: {error}");
        let is_data = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "ndjson");
        assert!(!app.output_files().iter().any(is_data), "{count}: nothing of it stays");
        app.stop().await;
    }
}

/// What is refused once, as by a gateway to which requests came too fast, is asked for again.
#[tokio::test]
async fn a_refusal_that_passes_costs_nothing() {
    let upstream = SampleUpstream::new(Settings { total: Total::Exact, one_patient: true, ..Settings::default() });
    upstream.generate(PATIENTS);
    let app = App::before(upstream, |_| {}).await;
    let closed = close(&app.upstream, 1);
    let id = closed.into_iter().next().expect("one");
    let is_asked =
        || app.upstream.requests().iter().any(|seen| seen.query.contains(&id) && !seen.query.contains("_id="));
    let opens = async {
        until("it is refused", std::time::Duration::from_mins(1), is_asked).await;
        app.upstream.update_settings(|settings| settings.lies.closed_records.clear());
    };
    let path = "/Group/all/$export?_type=Condition";
    let (exported, ()) = tokio::join!(app.export_exactly(path), opens);
    let manifest = exported.expect("an exact export");
    assert_eq!(manifest.whole["extension"][PROOF]["Condition"]["method"], "counted");
    assert!(!outcomes(&manifest).await.contains("refuses searches"));
    app.stop().await;
}
