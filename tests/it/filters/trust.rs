//! Servers that cannot be relied on, and filters that may not be used: more than was asked for is never exported.

use std::collections::BTreeSet;
use std::time::Duration;

use sample_upstream::{Lies, SampleUpstream, Settings, Total};

use super::{Passes, coded, exports, is_laboratory, proof};
use crate::raw::KICKOFF;
use crate::support::App;

const LABORATORY: &str = "/$export?_type=Observation&_typeFilter=Observation?category=laboratory";

/// DS-004: a server that leaves a parameter out in silence is found out before anything is read.
#[tokio::test]
async fn a_filter_that_the_server_ignores_is_refused_by_its_name() {
    let ignores = Settings { ignored_params: vec!["category".to_owned()], ..Settings::default() };
    let lies = Lies { self_without: Some("category".to_owned()), ..Lies::default() };
    for settings in [ignores, Settings { lies, ..Settings::default() }] {
        let app = App::with_patients(3, settings).await;
        for level in ["", "/Patient", "/Group/all"] {
            let answer = app.ask("GET", &format!("{level}{LABORATORY}"), &KICKOFF, b"").await;
            answer.assert_refused(level, 400, "not-supported", Some("http._typeFilter"));
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains("ignores `category`"), "{text}");
        }
        assert!(app.output_files().is_empty());
        app.stop().await;
    }
}

/// A server that heeds each value alone and passes over a list of them would answer with everything.
#[tokio::test]
async fn a_list_that_the_server_ignores_is_refused_though_each_of_its_values_is_heeded() {
    for (ignores, status) in [(true, 400), (false, 202)] {
        let lists_ignored = if ignores { BTreeSet::from(["category".to_owned()]) } else { BTreeSet::new() };
        let settings = Settings { lies: Lies { lists_ignored, ..Lies::default() }, ..Settings::default() };
        let app = App::with_patients(3, settings).await;
        for level in ["", "/Patient", "/Group/all"] {
            let path = format!("{level}{LABORATORY}%252Cvital-signs");
            let answer = app.ask("GET", &path, &KICKOFF, b"").await;
            assert_eq!(answer.status, status, "{path}: {}", String::from_utf8_lossy(&answer.body));
            if ignores {
                answer.assert_refused(level, 400, "not-supported", Some("http._typeFilter"));
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(text.contains("ignores `category`"), "{text}");
            }
        }
        app.stop().await;
    }
}

/// Where nothing is counted only the resources themselves show that a next link has forgotten what was asked for.
#[tokio::test]
async fn a_filter_that_next_links_forget_is_refused() {
    for no_last_updated in [true, false] {
        let settings = Settings {
            lies: Lies { next_forgets: true, ..Lies::default() },
            no_last_updated,
            total: Total::Absent,
            counts: false,
            accurate_total: false,
            max_count: Some(7),
            ..Settings::default()
        };
        let app = App::with_patients(6, settings).await;
        for level in ["", "/Patient"] {
            let answer = app.ask("GET", &format!("{level}{LABORATORY}"), &KICKOFF, b"").await;
            answer.assert_refused(level, 400, "not-supported", Some("http._typeFilter"));
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains("links to further pages"), "{text}");
        }
        assert!(app.output_files().is_empty());
        app.stop().await;
    }
}

/// Members of a Group and what comes by reference are asked for by their ids. A server that heeds nothing else beside one is found
/// out, though it heeds the filter in a search for the type.
#[tokio::test]
async fn a_filter_is_tried_beside_the_ids_that_its_type_is_read_by() {
    for id_alone in [false, true] {
        let lies = Lies { id_alone, ..Lies::default() };
        let app = App::with_patients(3, Settings { lies, ..Settings::default() }).await;
        for (path, parameter) in [
            ("/Group/all/$export?_typeFilter=Patient%3Factive%3Dtrue", "active"),
            ("/Group/all/$export?_typeFilter=Practitioner%3Fidentifier%3D9900000000", "identifier"),
            ("/Patient/$export?_typeFilter=Practitioner%3Fidentifier%3D9900000000", "identifier"),
        ] {
            let answer = app.ask("GET", path, &KICKOFF, b"").await;
            if id_alone {
                answer.assert_refused(path, 400, "not-supported", Some("http._typeFilter"));
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert!(text.contains(&format!("ignores `{parameter}`")), "{text}");
            } else {
                assert_eq!(answer.status, 202, "{path}");
            }
        }
        app.stop().await;
    }
}

/// SEC-21, SEC-22: what may not stand in a filter, whatever the client prefers.
#[tokio::test]
async fn what_may_not_be_used_is_refused_with_its_place() {
    let app = App::with_patients(2, Settings::default()).await;
    for (filter, code) in [
        ("Observation", "value"),
        ("Dragon?name=x", "value"),
        ("Observation?", "value"),
        ("Observation?category:not=x", "not-supported"),
        ("Observation?subject.name=x", "not-supported"),
        ("Observation?_has:Provenance:target:agent=x", "not-supported"),
        ("Observation?_filter=x", "not-supported"),
        ("Observation?_count=1", "not-supported"),
        ("Observation?_sort=date", "not-supported"),
        ("Observation?_lastUpdated=ge2020", "not-supported"),
        ("Observation?near=x", "not-supported"),
        ("Observation?code%253Anot=x", "value"),
        ("Patient?gender=male", "invalid"),
    ] {
        for prefer in ["respond-async", "respond-async, handling=lenient"] {
            let path = format!("/$export?_type=Observation&_typeFilter={}", filter.replace('?', "%3F"));
            let headers = [KICKOFF[0], ("Prefer", prefer)];
            let answer = app.ask("GET", &path, &headers, b"").await;
            answer.assert_refused(filter, 400, code, Some("http._typeFilter"));
        }
    }
    for level in ["/Patient", "/Group/all"] {
        let path = format!("{level}/$export?_typeFilter=Observation%3Fsubject%3DPatient/1");
        let answer = app.ask("GET", &path, &KICKOFF, b"").await;
        answer.assert_refused(level, 400, "not-supported", Some("http._typeFilter"));
    }
    assert!(app.output_files().is_empty());
    app.stop().await;
}

/// Nothing was there to try it on when the export began: the first resource that comes is what it is tried on, and where that
/// shows that the server ignores it, nothing is exported. It is tried although one search has all memory that there is.
#[tokio::test]
async fn a_filter_is_tried_on_the_first_resource_that_comes() {
    for (ignores, searches) in [(false, 8), (true, 8), (false, 1)] {
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(3);
        for stored in upstream.resources(Some("Observation")) {
            if is_laboratory(&serde_json::from_str(&stored.body).expect("JSON")) {
                upstream.delete("Observation", &stored.id).expect("it is there");
            }
        }
        let app = App::before(upstream, |config| config.upstream.max_concurrent_searches = searches).await;
        let late = r#"{"resourceType":"Observation","id":"late","status":"final","category":[{"coding":[{"code":"laboratory"}]}]}"#;
        let server = app.upstream.clone();
        // The sweep looks for what came since: only the real export asks so.
        app.upstream.first_when(
            |seen| {
                let query = &seen.query;
                query.contains("category=laboratory")
                    && query.contains("_lastUpdated=ge")
                    && !query.contains("_lastUpdated=ge1970")
                    && !query.contains("_summary")
            },
            move || {
                if ignores {
                    server.update_settings(|settings| settings.ignored_params = vec!["category".to_owned()]);
                }
                server.create(late).expect("a resource");
            },
        );
        let exported = app.export(LABORATORY).await;
        if ignores {
            let error = format!("{:#}", exported.expect_err("the filter is ignored"));
            assert!(error.contains("ignore"), "{error}");
        } else {
            let (manifest, received) = exported.expect("an export");
            let lines = String::from_utf8(received["Observation"].clone()).expect("text");
            assert_eq!(lines.lines().count(), 1, "{lines}");
            assert!(lines.contains(r#""id":"late""#), "{lines}");
            assert_eq!(proof(&manifest.whole, "Observation")["written"], 1);
        }
        app.stop().await;
    }
}

#[tokio::test]
async fn what_nothing_passes_is_empty_and_no_failure() {
    let app = App::with_patients(2, Settings::default()).await;
    let (manifest, received) =
        app.export("/$export?_type=Observation,Patient&_typeFilter=Observation?code=nothing").await.expect("an export");
    assert_eq!(received.keys().collect::<Vec<_>>(), ["Patient"]);
    assert_eq!(proof(&manifest.whole, "Observation")["written"], 0);
    // Nothing shows that it would have found any.
    assert_eq!(proof(&manifest.whole, "Observation")["method"], "unproven");
    assert_eq!(proof(&manifest.whole, "Patient")["method"], "counted");
    app.stop().await;
}

/// Whoever wants patients to be named is asked so, however many have nothing that passes.
#[tokio::test]
async fn a_filter_that_few_patients_have_something_of_is_tried_on_them() {
    let settings = Settings { require_patient: true, total: Total::Exact, ..Settings::default() };
    let upstream = SampleUpstream::new(settings);
    upstream.generate(30);
    let rare = r#"{"resourceType":"Observation","id":"rare","status":"final","code":{"coding":[{"code":"rare"}]},"subject":{"reference":"Patient/PATIENT"}}"#;
    let patients = upstream.resources(Some("Patient"));
    let mut ids: Vec<_> = patients.iter().map(|stored| stored.id.clone()).collect();
    ids.sort_unstable();
    upstream.create(&rare.replace("PATIENT", ids.last().expect("a patient"))).expect("a resource");
    let app = App::before(upstream, |_| {}).await;
    let is_rare: Passes = |resource| coded(resource, "code", "rare");
    let manifest = exports(
        &app,
        "/Group/all/$export?_typeFilter=Observation?code=rare",
        &["Observation"],
        &[("Observation", is_rare)],
    )
    .await;
    assert_eq!(proof(&manifest, "Observation")["written"], 1);
    app.stop().await;
}

/// SEC-25: how many there are elsewhere is not told by how far an export has come.
#[tokio::test]
async fn progress_tells_nothing_of_what_a_filter_finds_beyond_the_group() {
    let latency = Duration::from_millis(20);
    let app = App::with_patients(4, Settings { latency, max_count: Some(5), ..Settings::default() }).await;
    for (level, tells) in [("", true), ("/Patient", false), ("/Group/all", false)] {
        let kickoff = app.ask("GET", &format!("{level}{LABORATORY}"), &KICKOFF, b"").await;
        let status = kickoff.header("content-location")[app.base.len()..].to_owned();
        let mut texts = BTreeSet::new();
        loop {
            let answer = app.ask("GET", &status, &[], b"").await;
            if answer.status != 202 {
                assert_eq!(answer.status, 200, "{level}");
                break;
            }
            texts.insert(answer.header("x-progress").to_owned());
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        assert!(texts.iter().any(|text| text.contains("resources")), "{level}: {texts:?}");
        assert_eq!(texts.iter().any(|text| text.contains('%')), tells, "{level}: {texts:?}");
    }
    app.stop().await;
}

/// A type that comes by reference only is narrowed as well.
#[tokio::test]
async fn what_comes_by_reference_passes_the_filter_too() {
    let app = App::with_patients(25, Settings::default()).await;
    let second: Passes = |resource| resource["identifier"][0]["value"] == "9900000001";
    let path = "/Group/all/$export?_typeFilter=Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|9900000001";
    exports(&app, path, &["Practitioner", "Patient", "Observation"], &[("Practitioner", second)]).await;
    let codes: Passes = |resource| coded(resource, "code", "718-7");
    exports(&app, "/Patient/$export?_typeFilter=Observation?code=718-7", &["Observation"], &[("Observation", codes)])
        .await;
    app.stop().await;
}
