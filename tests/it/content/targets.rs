//! How far searches of Provenance by what it is about are relied on (DS-004): whatever a server makes of them, what was asked
//! for comes, or the export says that it may not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::SecondsFormat;
use offtake::config::{BoundaryChoice, Size};
use sample_upstream::{Lies, Order, RequestSeen, SampleUpstream, Settings};
use serde_json::json;

use super::associated::{LATEST, NEW, OLD, RELEVANT, code, provenance, told};
use super::{PEOPLE, export, kick_off, string};
use crate::ledger::of_kind;
use crate::raw::{ask, request};
use crate::smart::{Client, Rig};
use crate::support::App;

/// A server with people and this Provenance.
fn upstream(settings: Settings, provenance: &[String]) -> SampleUpstream {
    let upstream = SampleUpstream::new(settings);
    for json in PEOPLE.iter().copied().chain(provenance.iter().map(String::as_str)) {
        upstream.create(json).expect("a resource");
    }
    upstream
}

async fn app(settings: Settings, provenance: &[String]) -> App {
    App::before(upstream(settings, provenance), |_| {}).await
}

fn names(types: &[&str]) -> std::collections::BTreeSet<String> {
    types.iter().map(|name| (*name).to_owned()).collect()
}

/// Targets in each search that names some real ones.
fn lists(app: &App) -> Vec<usize> {
    let of = |seen: RequestSeen| {
        let mut pairs = url::form_urlencoded::parse(seen.query.as_bytes());
        let targets = pairs.find(|(name, _)| name == "target")?.1.into_owned();
        (!targets.contains("nobody")).then(|| targets.split(',').count())
    };
    app.upstream.requests().into_iter().filter_map(of).collect()
}

/// Of a list each place has to be heeded, be there one resource to see it on or several.
#[tokio::test]
async fn a_server_that_heeds_only_one_end_of_a_list_is_asked_one_by_one() {
    let one = [provenance("of-ben", OLD, &["Observation/of-ben"])];
    let several = [
        provenance("of-ben", OLD, &["Observation/of-ben"]),
        provenance("of-cleo", OLD, &["Observation/of-cleo"]),
        provenance("of-anna", OLD, &["Observation/of-anna", "Patient/anna"]),
    ];
    for (lies, is_one_by_one) in [
        (Lies { first_of_list: true, ..Lies::default() }, true),
        (Lies { last_of_list: true, ..Lies::default() }, true),
        (Lies { lists_ignored: names(&["target"]), ..Lies::default() }, true),
        (Lies { most_values: Some(20), ..Lies::default() }, false),
        (Lies::default(), false),
    ] {
        for (provenance, expected) in [(&one[..], &["of-ben"][..]), (&several, &["of-anna", "of-ben", "of-cleo"])] {
            let app = app(Settings { lies: lies.clone(), ..Settings::default() }, provenance).await;
            let export = export(&app.base, "", &[code(RELEVANT), string("_type", "Observation")], None).await;
            assert_eq!(told(&export), expected, "{lies:?}");
            let longest = lists(&app).into_iter().max().unwrap_or(0);
            assert_eq!(longest == 1, is_one_by_one, "{longest}: {lies:?}");
            app.stop().await;
        }
    }
}

/// A server may leave out of a list what is not there before it takes the first few: who tries it with nobody finds nothing wrong.
#[tokio::test]
async fn a_server_that_heeds_the_first_few_that_are_there_is_asked_for_fewer() {
    let all = [
        provenance("of-anna", OLD, &["Observation/of-anna", "Patient/anna"]),
        provenance("of-ben", OLD, &["Observation/of-ben"]),
        provenance("of-cleo", OLD, &["Observation/of-cleo"]),
    ];
    for most_targets_there in [1, 2, 3] {
        let lies = Lies { most_targets_there: Some(most_targets_there), ..Lies::default() };
        let app = app(Settings { lies, ..Settings::default() }, &all).await;
        let export = export(&app.base, "", &[code(RELEVANT), string("_type", "Patient,Observation")], None).await;
        assert_eq!(told(&export), ["of-anna", "of-ben", "of-cleo"], "the first {most_targets_there}");
        app.stop().await;
    }
}

/// What is about two resources has to be found by either: an index that holds one of them only is found out.
#[tokio::test]
async fn a_server_that_finds_it_by_some_types_only_is_refused() {
    let both = [provenance("of-anna", OLD, &["Patient/anna", "Observation/of-anna"])];
    for no_targets in [names(&["Observation"]), names(&["Patient"])] {
        let lies = Lies { no_targets: no_targets.clone(), ..Lies::default() };
        let app = app(Settings { lies, ..Settings::default() }, &both).await;
        let kickoff = kick_off(&app.base, "", &[code(RELEVANT), string("_type", "Patient,Observation")], None).await;
        let (status, told) = ended(&app, kickoff.header("content-location")).await;
        assert_eq!(status, 500, "{no_targets:?}: {told}");
        assert!(told.contains("nothing shows that the server finds it by what it is about"), "{no_targets:?}: {told}");
        app.stop().await;
    }
}

/// What is about the namesake of something on another server is found as well by servers that look at the end of a reference. It is
/// no sign of a search that was ignored, and no part of the export.
#[tokio::test]
async fn what_is_about_another_servers_resources_is_left_out() {
    let other = "https://old.example.org/fhir";
    let all = [
        provenance("of-another", NEW, &[&format!("{other}/Observation/of-anna")]),
        provenance("of-anna", OLD, &["Observation/of-anna"]),
        provenance("of-both", OLD, &["Observation/of-ben", &format!("{other}/Observation/of-anna")]),
    ];
    for lies in [Lies { targets_also_on: Some(other.to_owned()), ..Lies::default() }, Lies::default()] {
        for (level, asked, expected) in [
            ("", RELEVANT, &["of-anna", "of-both"]),
            ("", LATEST, &["of-anna", "of-both"]),
            ("/Patient", RELEVANT, &["of-anna", "of-both"]),
        ] {
            let app = app(Settings { lies: lies.clone(), ..Settings::default() }, &all).await;
            let export = export(&app.base, level, &[code(asked), string("_type", "Observation")], None).await;
            assert_eq!(told(&export), expected, "{level} {asked} {lies:?}");
            app.stop().await;
        }
    }
}

/// One that is to be found by what it is about, and is not, is no less a sign where another one is found by that.
#[tokio::test]
async fn a_server_that_finds_one_of_two_about_the_same_is_refused() {
    let all = [
        provenance("of-anna", OLD, &["Observation/of-anna"]),
        provenance("also-of-anna", OLD, &["Observation/of-anna/_history/1"]),
    ];
    for (is_lost, status) in [(false, 200), (true, 500)] {
        let lies = Lies { versions_not_found: is_lost, ..Lies::default() };
        let app = app(Settings { lies, ..Settings::default() }, &all).await;
        let kickoff = kick_off(&app.base, "", &[code(RELEVANT), string("_type", "Observation")], None).await;
        let (ended, told) = ended(&app, kickoff.header("content-location")).await;
        assert_eq!(ended, status, "{told}");
        app.stop().await;
    }
}

/// What is about something that is not there is found by no server that resolves references first, and is nothing to be found.
#[tokio::test]
async fn what_is_about_nothing_that_is_there_shows_nothing() {
    let all =
        [provenance("of-nobody", NEW, &["Observation/is-gone"]), provenance("of-anna", OLD, &["Observation/of-anna"])];
    let lies = Lies { most_targets_there: Some(50), ..Lies::default() };
    let app = app(Settings { lies, ..Settings::default() }, &all).await;
    let export = export(&app.base, "", &[code(RELEVANT), string("_type", "Observation")], None).await;
    assert_eq!(told(&export), ["of-anna"]);
    app.stop().await;
}

/// Of what a great many are about, those that were seen first may come last where they are asked for by that: that they do not come
/// on the first pages shows nothing.
#[tokio::test]
async fn more_about_one_patient_than_anybody_looks_through_is_no_sign() {
    let mut all = vec![provenance("z-0", OLD, &["Patient/anna"]), provenance("z-1", OLD, &["Patient/anna"])];
    all.extend((0..58).map(|number| provenance(&format!("a-{number:02}"), OLD, &["Patient/anna"])));
    let app = app(Settings { max_count: Some(2), ..Settings::default() }, &all).await;
    let upstream = app.upstream.clone();
    app.upstream.first_when(
        |seen| seen.query.contains("target="),
        move || upstream.update_settings(|settings| settings.order = Order::Id),
    );
    let export = export(&app.base, "", &[code(RELEVANT), string("_type", "Patient")], None).await;
    assert_eq!(told(&export).len(), 60);
    app.stop().await;
}

/// A server may show Provenance only to those who name what it is about.
#[tokio::test]
async fn nothing_is_taken_for_none_where_a_name_finds_some() {
    let of_observations = || provenance("of-ben", OLD, &["Observation/of-ben"]);
    let with_a_patient = [of_observations(), provenance("anna", OLD, &["Patient/anna"])];
    // Each is found by a patient who is tried, or nothing that is a patient's is found by those who name nobody.
    let clinical = names(&["Provenance", "Observation", "Condition"]);
    for (shy, all, expected) in [
        (names(&["Provenance"]), &with_a_patient[..], &["anna", "of-ben"][..]),
        (clinical, &[of_observations()], &["of-ben"]),
    ] {
        let lies = Lies { shy: shy.clone(), ..Lies::default() };
        let app = app(Settings { lies, ..Settings::default() }, all).await;
        let export =
            export(&app.base, "/Group/g", &[code(RELEVANT), string("_type", "Patient,Observation")], None).await;
        assert_eq!(told(&export), expected, "{shy:?}");
        app.stop().await;
    }
}

/// A first page without anything need not be the last one.
#[tokio::test]
async fn an_empty_page_with_a_link_is_not_the_end() {
    let lies = Lies { empty_pages: true, ..Lies::default() };
    let settings = Settings { lies, ..Settings::default() };
    let app = app(settings, &[provenance("of-ben", OLD, &["Observation/of-ben"])]).await;
    let export = export(&app.base, "", &[code(LATEST), string("_type", "Observation")], None).await;
    assert_eq!(told(&export), ["of-ben"]);
    app.stop().await;
}

/// Where there is none, and the server's counts can be relied on, nobody is asked any more; else each is, and it is said that
/// nothing shows whether that finds any.
#[tokio::test]
async fn where_there_is_none_that_is_known_or_said() {
    for (counts, method, asks) in [(true, "counted", false), (false, "unproven", true)] {
        let app = app(Settings { counts, accurate_total: counts, ..Settings::default() }, &[]).await;
        let export = export(&app.base, "", &[code(RELEVANT), string("_type", "Observation")], None).await;
        assert_eq!(told(&export), [""; 0]);
        let proof = &export.manifest["extension"]["https://offtake.dev/proof"]["Provenance"];
        assert_eq!(proof["method"], method, "{proof}");
        assert_eq!(export.says("searches by what these are about found none"), usize::from(asks), "{}", export.error);
        let asked = lists(&app).into_iter().filter(|list| *list > 0).count();
        // Patients are tried in any case.
        assert_eq!(asked > PEOPLE.iter().filter(|json| json.contains("\"Patient\"")).count(), asks, "{asked}");
        app.stop().await;
    }
}

/// A list that is refused is asked for in halves, however it is refused, down to single ones.
#[tokio::test]
async fn a_list_that_is_refused_later_is_asked_for_in_halves() {
    let all: Vec<_> = ["anna", "ben", "cleo", "anna-and-ben", "anna-and-cleo"]
        .map(|of| provenance(of, OLD, &[&format!("Observation/of-{of}")]))
        .into();
    let app = app(Settings::default(), &all).await;
    let (upstream, of_export) = (app.upstream.clone(), is_of_export);
    app.upstream.first_when(of_export, move || {
        upstream.update_settings(|settings| settings.lies.most_values = Some(1));
    });
    let export = export(&app.base, "", &[code(RELEVANT), string("_type", "Observation")], None).await;
    assert_eq!(told(&export), ["anna", "anna-and-ben", "anna-and-cleo", "ben", "cleo"]);
    let lists = lists(&app);
    assert!(lists.contains(&5) && lists.iter().filter(|list| **list == 1).count() >= 5, "{lists:?}");
    app.stop().await;
}

/// Whether it asks for a list of what an export holds.
fn is_of_export(seen: &RequestSeen) -> bool {
    let mut pairs = url::form_urlencoded::parse(seen.query.as_bytes());
    pairs.any(|(name, value)| name == "target" && value.contains(',') && !value.contains("nobody"))
}

/// What the files hold is read before anybody is asked about it, and has to be what was written.
#[tokio::test]
async fn what_is_asked_about_is_what_was_written() {
    let all = [provenance("of-ben", OLD, &["Observation/of-ben"]), provenance("cleo", OLD, &["Patient/cleo"])];
    let upstream = upstream(Settings::default(), &all);
    let app = App::before(upstream, |config| config.upstream.give_up_after = Duration::from_secs(1)).await;
    let (folder, is_done) = (app.folder.path().join("output"), AtomicBool::new(false));
    // When the first file is asked about, the other one changes behind our back.
    app.upstream.first_when(
        move |seen| {
            let is_of_export = is_of_export(seen);
            if is_of_export && !is_done.swap(true, Ordering::SeqCst) {
                let of_patients = seen.query.contains("Patient");
                let (other, from, to) = if of_patients {
                    ("\"resourceType\":\"Observation\"", "\"of-ben\"", "\"of-bon\"")
                } else {
                    ("\"resourceType\":\"Patient\"", "\"cleo\"", "\"clio\"")
                };
                for path in crate::exact::paths_below(&folder).expect("a folder") {
                    let Ok(text) = std::fs::read_to_string(&path) else { continue };
                    if text.starts_with(&format!("{{{other}")) {
                        std::fs::write(&path, text.replace(from, to)).expect("it is written");
                    }
                }
            }
            is_of_export
        },
        || {},
    );
    let kickoff = kick_off(&app.base, "", &[code(RELEVANT), string("_type", "Patient,Observation")], None).await;
    let ended = ended(&app, kickoff.header("content-location")).await;
    assert_eq!(ended.0, 500, "{}", ended.1);
    assert!(ended.1.contains("the export's own storage failed for too long"), "{}", ended.1);
    let changed = |seen: &RequestSeen| seen.query.contains("of-bon") || seen.query.contains("clio");
    assert!(!app.upstream.requests().iter().any(changed), "the server was asked about what nobody wrote");
    app.stop().await;
}

/// The status and text of an export that does not complete.
async fn ended(app: &App, status: &str) -> (u16, String) {
    let host = app.host();
    let target = status.strip_prefix(&format!("http://{host}")).expect("ours").to_owned();
    loop {
        let answer = ask(&host, &request("GET", &target, &host, &[], b"")).await;
        if answer.status != 202 {
            return (answer.status, String::from_utf8_lossy(&answer.body).into_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// SEC-43: Provenance of what is exported may tell of patients of whom nothing else is.
#[tokio::test]
async fn whom_provenance_may_tell_of_is_in_the_ledger() {
    let client = Client::new("a", "system/*.rs");
    let rig = Rig::configured(std::slice::from_ref(&client), |_| {}).await;
    let ago = |hours| rig.upstream.now() - chrono::TimeDelta::hours(hours);
    for json in PEOPLE {
        rig.upstream.insert_raw_at(json, ago(if json.contains("\"of-ben\"") { 1 } else { 3 })).expect("a resource");
    }
    let of_both = provenance("of-both", OLD, &["Observation/of-ben", "Observation/of-cleo"]);
    rig.upstream.insert_raw_at(&of_both, ago(3)).expect("a resource");
    let since = ago(2).to_rfc3339_opts(SecondsFormat::Nanos, true);
    let token = rig.token(&client, "system/*.rs").await;
    let since = json!({ "name": "_since", "valueInstant": since });
    for (level, asked, may_be_anybody) in [("/Patient", LATEST, true), ("/Patient", RELEVANT, true)] {
        let before = of_kind(&rig.ledger(), "finished").len();
        let parameters = [since.clone(), code(asked), string("_type", "Observation")];
        let export = export(&rig.base, level, &parameters, Some(&token)).await;
        let ids = export.ids();
        assert!(!ids.contains(&"Observation/of-cleo".to_owned()), "{level} {asked}: {ids:?}");
        assert_eq!(told(&export), ["of-both"], "{level} {asked}");
        let finished = of_kind(&rig.ledger(), "finished");
        assert_eq!(finished.len(), before + 1);
        assert_eq!(finished[before]["patients"]["anybody"], may_be_anybody, "{level} {asked}");
    }
    rig.stop().await;
}

/// What an older version is about is looked at again: it may have been nothing that is exported.
#[tokio::test]
async fn what_an_older_version_is_about_decides_whether_it_comes() {
    for level in ["", "/Patient", "/Group/g"] {
        for small in [false, true] {
            let upstream = SampleUpstream::new(Settings { max_count: small.then_some(2), ..Settings::default() });
            let now = upstream.now();
            let at = |seconds: i64| now - chrono::TimeDelta::seconds(seconds);
            for json in PEOPLE {
                upstream.insert_raw_at(json, at(7_200)).expect("a resource");
            }
            for (id, then, since) in [
                ("comes", "Observation/of-ben", "Observation/of-anna"),
                ("stays", "Condition/condition-of-ben", "Observation/of-anna"),
                ("same", "Observation/of-anna", "Observation/of-anna"),
            ] {
                upstream.insert_raw_at(&provenance(id, OLD, &[then]), at(3_000)).expect("a resource");
                upstream.insert_raw_at(&provenance(id, NEW, &[since]), at(20)).expect("a resource");
            }
            let app = App::before(upstream, |config| {
                config.export.boundary = BoundaryChoice::AsOf;
                if small {
                    config.upstream.page_target = Size::kibibytes(1);
                }
            })
            .await;
            let export = export(&app.base, level, &[code(RELEVANT), string("_type", "Observation")], None).await;
            assert_eq!(told(&export), ["comes", "same"], "{level} {small}");
            app.stop().await;
        }
    }
}
