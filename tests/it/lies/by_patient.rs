//! Servers that want to be told a patient, and more than that.

use std::collections::{BTreeMap, BTreeSet};

use offtake::config::OnShort;
use offtake::{Clock, Config, SystemClock};
use sample_upstream::{Lies, Paging, RequestSeen, SampleUpstream, Settings, Total};
use serde_json::{Value, json};

use super::{PROOF, outcomes};
use crate::client::Manifest;
use crate::support::App;

const GROUP: &str = "/Group/all/$export";

fn required(names: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    names.iter().map(|(name, params)| ((*name).to_owned(), owned(params))).collect()
}

/// As Epic is known to be: one patient at a time, a category for observations, no times, no counts.
pub(super) fn like_epic() -> Settings {
    Settings {
        software: "Epic".to_owned(),
        no_last_updated: true,
        counts: false,
        accurate_total: false,
        total: Total::PageSized,
        warnings: true,
        require_patient: true,
        required_params: required(&[("Observation", &["category", "code"]), ("Patient", &["identifier", "name"])]),
        one_patient: true,
        ..Settings::default()
    }
}

/// An Observation must be asked for by its category, and can be by any way in which it belongs to a patient.
fn wants_categories() -> Settings {
    Settings {
        total: Total::Exact,
        required_params: required(&[("Observation", &["category"])]),
        ..Settings::default()
    }
}

fn with_categories(config: &mut Config) {
    let profile = json!({ "searches": { "Observation": ["category=vital-signs", "category=laboratory"] } });
    config.upstream.profile = serde_json::from_value(profile).expect("lines of a profile");
}

async fn before(settings: Settings, patients: usize, change: impl FnOnce(&mut Config)) -> App {
    let upstream = SampleUpstream::new(settings);
    upstream.generate(patients);
    App::before(upstream, change).await
}

fn proof<'m>(manifest: &'m Manifest, name: &str) -> &'m Value {
    &manifest.whole["extension"][PROOF][name]
}

/// The searches for data of one type: neither counts nor probes.
fn searches(upstream: &SampleUpstream, name: &str) -> Vec<String> {
    let is_search = |request: &sample_upstream::RequestSeen| {
        request.path.ends_with(&format!("/{name}")) && !request.query.contains("_summary=")
    };
    upstream.requests().into_iter().filter(is_search).map(|request| request.query).collect()
}

/// Inserts an Observation of the first patient with these categories.
fn observe(upstream: &SampleUpstream, id: &str, categories: &[&str]) {
    let patient = upstream.resources(Some("Patient"))[0].id.clone();
    let category: Vec<_> = categories.iter().map(|code| json!({ "coding": [{ "code": code }] })).collect();
    let mut observation = json!({
        "resourceType": "Observation", "id": id, "status": "final", "code": { "text": "x" },
        "subject": { "reference": format!("Patient/{patient}") },
    });
    if !category.is_empty() {
        observation["category"] = category.into();
    }
    // What was made within the second of a count could have been made after it.
    let stamp = chrono::DateTime::from_timestamp_millis(SystemClock.unix_millis() - 60_000).expect("a time");
    upstream.insert_raw_at(&observation.to_string(), stamp).expect("a resource");
}

#[tokio::test]
async fn a_server_like_epic_is_read_patient_by_patient_and_nothing_is_claimed_to_be_counted() {
    let app = before(like_epic(), 4, |_| {}).await;
    observe(&app.upstream, "of-two-kinds", &["vital-signs", "laboratory"]);
    let manifest = app.export_exactly(GROUP).await.expect("an exact export");
    let methods = manifest.whole["extension"][PROOF].as_object().expect("a proof").values();
    let methods: BTreeSet<_> = methods.filter_map(|proof| proof["method"].as_str()).collect();
    assert_eq!(methods, BTreeSet::from(["reread", "unproven"]));
    assert_eq!(proof(&manifest, "Observation")["method"], "unproven");
    assert_eq!(proof(&manifest, "Immunization")["method"], "reread", "it belongs to a patient in one way");
    assert_eq!(proof(&manifest, "Observation")["repeated"], 0, "one line however many searches find it");
    let said = outcomes(&manifest).await;
    let line = said.lines().find(|line| line.contains("upstream.profile.searches")).expect("it is said");
    assert!(line.contains("Observation") && !line.contains("Immunization"), "{line}");
    let refused = said.lines().find(|line| line.contains("refuses to search these")).expect("it is said");
    assert!(refused.contains("Condition") && !refused.contains("Immunization"), "{refused}");
    let observations = searches(&app.upstream, "Observation");
    let of_two = |query: &&String| query.contains(',') && !query.contains("_id=");
    assert!(observations.iter().filter(of_two).count() <= 1, "no list but the probe's: {observations:?}");
    app.stop().await;
}

#[tokio::test]
async fn an_export_stops_where_it_cannot_be_known_who_the_patients_are() {
    let app = before(like_epic(), 2, |_| {}).await;
    for level in ["/Patient/$export", "/$export"] {
        let error = app.export(level).await.expect_err("nobody can be asked for").to_string();
        assert!(error.contains("refuses the probe that lists Patient"), "{error}");
        assert!(error.contains("searched by patient only"), "{error}");
    }
    app.stop().await;
}

#[tokio::test]
async fn patients_are_listed_where_only_they_can_be_searched() {
    let settings = Settings { require_patient: true, total: Total::Exact, ..Settings::default() };
    let app = before(settings, 5, |_| {}).await;
    let manifest = app.export_exactly("/Patient/$export?_type=Patient,Immunization").await.expect("an exact export");
    for name in ["Patient", "Immunization"] {
        assert_eq!(proof(&manifest, name)["method"], "counted", "{name}");
    }
    let lists = searches(&app.upstream, "Immunization");
    assert!(lists.iter().any(|query| query.matches(',').count() >= 4), "all in one batch: {lists:?}");
    app.export_exactly("/Patient/$export").await.expect("an exact export");

    // What belongs to nobody cannot be found, and the proof does not claim it.
    let manifest = app.export_exactly("/$export?_type=Patient,Immunization").await.expect("an exact export");
    assert_eq!(proof(&manifest, "Patient")["method"], "counted");
    assert_eq!(proof(&manifest, "Immunization")["method"], "unproven");
    let said = outcomes(&manifest).await;
    assert!(said.contains("what belongs to no patient is not in this export: Immunization"), "{said}");
    app.stop().await;
}

#[tokio::test]
async fn more_patients_than_may_be_listed_stop_the_export() {
    let settings = Settings { require_patient: true, ..Settings::default() };
    let app = before(settings, 5, |config| config.export.group_max_members = 4).await;
    let error = app.export("/Patient/$export").await.expect_err("five are too many").to_string();
    assert!(error.contains("more than 4 patients"), "{error}");
    app.stop().await;
}

#[tokio::test]
async fn several_searches_are_counted_only_by_the_number_of_the_whole() {
    // The server counts by patient alone, and both categories are all that there is.
    let app = before(Settings { total: Total::Exact, ..Settings::default() }, 4, with_categories).await;
    observe(&app.upstream, "of-two-kinds", &["vital-signs", "laboratory"]);
    let manifest = app.export_exactly(GROUP).await.expect("an exact export");
    assert_eq!(proof(&manifest, "Observation")["method"], "counted");
    assert!(searches(&app.upstream, "Observation").iter().any(|query| query.contains("category=laboratory")));
    // One that no search finds is counted all the same.
    observe(&app.upstream, "of-no-kind", &[]);
    let error = app.export(GROUP).await.expect_err("one is missing").to_string();
    assert!(error.contains("could not read Observation by patient batches"), "{error}");
    assert!(error.contains("1 resources that the server counts did not come"), "{error}");
    app.stop().await;
}

#[tokio::test]
async fn what_no_search_finds_and_nobody_counts_is_said_to_be_unproven() {
    let app = before(wants_categories(), 4, with_categories).await;
    let manifest = app.export_exactly(GROUP).await.expect("an exact export");
    assert_eq!(proof(&manifest, "Observation")["method"], "unproven");
    assert_eq!(proof(&manifest, "Condition")["method"], "counted");
    observe(&app.upstream, "of-no-kind", &[]);
    let (manifest, received) = app.export(GROUP).await.expect("an export");
    assert!(!String::from_utf8_lossy(&received["Observation"]).contains("of-no-kind"));
    assert_eq!(proof(&manifest, "Observation")["method"], "unproven");
    assert!(outcomes(&manifest).await.contains("nothing shows that they find everything: Observation"));
    app.stop().await;
}

#[tokio::test]
async fn what_one_of_several_searches_counts_and_does_not_send_is_short() {
    for on_short in [OnShort::Fail, OnShort::Report] {
        let app = before(wants_categories(), 4, |config| {
            with_categories(config);
            config.export.on_short = on_short;
        })
        .await;
        let dropped = format!("Observation/{}", app.upstream.resources(Some("Observation"))[3].id);
        app.upstream.update_settings(|settings| {
            settings.lies = Lies { dropped: BTreeSet::from([dropped]), ..Lies::default() };
        });
        let exported = app.export(GROUP).await;
        match (on_short, exported) {
            (OnShort::Fail, Err(error)) => {
                let error = error.to_string();
                assert!(error.contains("1 resources that the server counts did not come"), "{error}");
            }
            (OnShort::Report, Ok((manifest, _))) => {
                let proof = proof(&manifest, "Observation");
                assert!(proof["short"].as_u64() >= Some(1), "{proof}");
                assert_eq!(proof["method"], "unproven", "nobody has counted the whole");
            }
            (_, exported) => panic!("{on_short:?}: {:?}", exported.map(|(manifest, _)| manifest.whole)),
        }
        app.stop().await;
    }
}

/// An index that was never built looks like a type that nobody has anything of.
#[tokio::test]
async fn a_type_of_which_searches_by_patient_find_nothing_is_not_said_to_be_empty() {
    let lies = Lies { finds_nothing: BTreeSet::from(["patient".to_owned()]), ..Lies::default() };
    let app =
        before(Settings { require_patient: true, total: Total::Exact, lies, ..Settings::default() }, 4, |_| {}).await;
    let (manifest, received) = app.export("/Group/all/$export?_type=Immunization,Condition").await.expect("an export");
    assert!(!received.contains_key("Immunization"));
    assert_eq!(proof(&manifest, "Immunization")["method"], "unproven");
    let said = outcomes(&manifest).await;
    let line = said.lines().find(|line| line.contains("found none of these")).expect("it is said");
    assert!(line.contains("Immunization"), "{line}");
    app.stop().await;
}

/// One patient's resources of a type that fit no memory are written as they come, and judged at the end.
#[tokio::test]
async fn several_searches_of_many_pages_are_still_one_slice() {
    for (paging, counts, method) in
        [(Paging::Snapshot, true, "counted"), (Paging::Offset, true, "reread"), (Paging::Cursor, false, "unproven")]
    {
        let honest = Settings { paging, max_count: Some(20), total: Total::Exact, ..Settings::default() };
        let settings = if counts { honest } else { Settings { paging, max_count: Some(20), ..wants_categories() } };
        let app = before(settings, 2, |config| {
            with_categories(config);
            config.upstream.page_target = "64KiB".parse().expect("a size");
        })
        .await;
        let both = ["vital-signs", "laboratory"];
        (0..700).for_each(|number| {
            observe(&app.upstream, &format!("many-{number}-{}", "x".repeat(40)), &both[number % 2..]);
        });
        let manifest = app.export_exactly(GROUP).await.expect("an exact export");
        assert_eq!(proof(&manifest, "Observation")["method"], method, "{paging:?}");
        app.stop().await;
    }
}

/// A filter is proven by a witness: a resource that names a patient has to be found by that patient.
#[tokio::test]
async fn a_way_to_patients_that_finds_nothing_stops_the_export() {
    let lies = Lies { finds_nothing: BTreeSet::from(["performer".to_owned()]), ..Lies::default() };
    let app = before(Settings { lies, ..wants_categories() }, 4, with_categories).await;
    let error = app.export(GROUP).await.expect_err("the index is not there").to_string();
    assert!(error.contains("does not find Observation by `performer`"), "{error}");
    app.stop().await;
}

/// A resource that names a patient no longer once it is looked for by that patient says nothing about the search.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_changes_while_it_is_looked_for_proves_nothing() {
    for require_patient in [false, true] {
        let upstream = SampleUpstream::new(Settings { require_patient, ..Settings::default() });
        let insert = |json: Value| upstream.insert_raw(&json.to_string()).expect("a resource");
        for id in ["p", "q"] {
            insert(json!({ "resourceType": "Patient", "id": id }));
        }
        let members = json!([{ "entity": { "reference": "Patient/p" } }, { "entity": { "reference": "Patient/q" } }]);
        insert(json!({ "resourceType": "Group", "id": "all", "type": "person", "actual": true, "member": members }));
        let subject = json!({ "reference": "Patient/p" });
        let condition = json!({ "resourceType": "Condition", "id": "c", "subject": subject });
        let mut with_asserter = condition.clone();
        with_asserter["asserter"] = subject;
        insert(with_asserter);
        let (changing, condition) = (upstream.clone(), condition.to_string());
        let is_looked_for = |seen: &RequestSeen| seen.path.ends_with("/Condition") && seen.query.contains("asserter=");
        upstream.first_when(is_looked_for, move || drop(changing.update(&condition).expect("it is there")));
        let app = App::before(upstream, |_| {}).await;
        let (_, received) = app.export(GROUP).await.unwrap_or_else(|error| panic!("{require_patient}: {error:#}"));
        let lines = received["Condition"].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines, 1, "{require_patient}");
        let changed = app.upstream.requests().iter().any(is_looked_for);
        assert!(changed, "{require_patient}: nobody looked for it");
        app.stop().await;
    }
}
