//! `_since` in front of servers that do not filter by `_lastUpdated`: the filter is ours, by what resources say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::DateTime;
use offtake::{Clock, SystemClock};
use sample_upstream::{Paging, SampleUpstream, Settings, Total};
use serde_json::Value;

use crate::expected;
use crate::raw::KICKOFF;
use crate::support::App;

const HOUR_MILLIS: i64 = 3_600_000;
const GROUP: &str = "/Group/all/$export";

/// Data of some days, and a server's clock that can leap by hours.
fn upstream(settings: Settings) -> (SampleUpstream, Arc<AtomicI64>) {
    let upstream = SampleUpstream::new(settings);
    let leapt = Arc::new(AtomicI64::new(0));
    let leap = Arc::clone(&leapt);
    let now = move || SystemClock.unix_millis() + leap.load(Ordering::SeqCst);
    upstream.set_clock(Arc::new(move || DateTime::from_timestamp_millis(now()).expect("in range")));
    upstream.generate(6);
    leapt.store(HOUR_MILLIS, Ordering::SeqCst);
    (upstream, leapt)
}

/// `Type/id` of all lines.
fn names(received: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let lines = received.values().flat_map(|bytes| bytes.split(|byte| *byte == b'\n')).filter(|line| !line.is_empty());
    let parsed = lines.map(|line| serde_json::from_slice::<Value>(line).expect("JSON"));
    parsed.map(|line| format!("{}/{}", line["resourceType"], line["id"]).replace('"', "")).collect()
}

fn observation(id: &str, patient: &str) -> String {
    format!(r#"{{"resourceType":"Observation","id":"{id}","subject":{{"reference":"Patient/{patient}"}}}}"#)
}

#[tokio::test]
async fn what_changed_comes_from_servers_that_do_not_filter_by_time() {
    let untimed = Settings { ignored_params: vec!["_lastUpdated".to_owned()], ..Settings::default() };
    let offsets = Settings {
        paging: Paging::Offset,
        total: Total::Absent,
        counts: false,
        accurate_total: false,
        max_count: Some(5),
        ..untimed.clone()
    };
    let by_patient = Settings { require_patient: true, total: Total::Exact, ..untimed.clone() };
    for (settings, levels) in [
        (untimed, &["/$export", "/Patient/$export", GROUP] as &[_]),
        (offsets, &["/$export", GROUP]),
        (by_patient, &["/Patient/$export", GROUP]),
    ] {
        let (upstream, leapt) = upstream(settings);
        let app = App::before(upstream, |_| {}).await;
        let (manifest, received) = app.export(levels[0]).await.expect("an export");
        assert!(received.len() > 5, "all types are there");
        let since = manifest.whole["transactionTime"].as_str().expect("an instant").to_owned();
        leapt.fetch_add(HOUR_MILLIS, Ordering::SeqCst);
        let patient = app.upstream.resources(Some("Patient"))[0].id.clone();
        app.upstream.create(&observation("new", &patient)).expect("a resource");
        let changed = app.upstream.resources(Some("Condition"))[0].clone();
        app.upstream.update(&changed.body).expect("a resource");
        let expected = BTreeSet::from(["Observation/new".to_owned(), format!("Condition/{}", changed.id)]);
        for level in levels {
            let (manifest, received) = app.export(&format!("{level}?_since={since}")).await.expect("an export");
            let mut names = names(&received);
            // What they refer to comes along.
            names.retain(|name| name.starts_with("Observation/") || name.starts_with("Condition/"));
            assert_eq!(names, expected, "{level}");
            let next = manifest.whole["transactionTime"].as_str().expect("an instant");
            assert!(next > since.as_str(), "{level}: the next export begins later: {next}");
        }
        let (_, received) =
            app.export(&format!("{}?_until={since}&_type=Observation", levels[0])).await.expect("an export");
        let names = names(&received);
        assert!(!names.is_empty() && !names.contains("Observation/new"), "{levels:?}: {names:?}");
        app.stop().await;
    }
}

/// A whole type each time is more than was asked for.
#[tokio::test]
async fn resources_without_a_time_are_not_offered_since_one() {
    for require_patient in [false, true] {
        let settings = Settings { no_last_updated: true, require_patient, ..Settings::default() };
        let (upstream, _) = upstream(settings);
        let app = App::before(upstream, |_| {}).await;
        let path = "/Group/all/$export?_type=Condition&_since=2020-01-01T00:00:00Z";
        let error = app.export(path).await.expect_err("nobody can tell what changed").to_string();
        assert!(error.contains("Condition resources do not carry it"), "{error}");
        // Now that the server is known, there is no job that would fail.
        if !require_patient {
            let again = app.ask("GET", path, &KICKOFF, b"").await;
            again.assert_refused(path, 400, "not-supported", None);
            let text = again.json().to_string();
            assert!(text.contains("Condition resources do not carry it"), "{text}");
        }
        app.export("/Group/all/$export?_type=Condition").await.expect("all of it can be had");
        app.stop().await;
    }
}

/// What changed before an instant and what changed after it are together everything, at every level and with every strategy.
#[tokio::test]
async fn until_and_since_divide_what_there_is() {
    let offsets = Settings { paging: Paging::Offset, max_count: Some(3), ..Settings::default() };
    let by_patient = Settings { require_patient: true, total: Total::Exact, ..Settings::default() };
    for settings in [Settings::default(), offsets, by_patient] {
        let upstream = SampleUpstream::new(settings);
        let at = |day: i64| DateTime::from_timestamp(1_700_000_000 + day * 86_400, 0).expect("a time");
        let insert = |json: &str, day| upstream.insert_raw_at(json, at(day)).expect("a resource");
        let member = r#"{"entity":{"reference":"Patient/p"}}"#;
        insert(r#"{"resourceType":"Patient","id":"p"}"#, 0);
        insert(&format!(r#"{{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{member}]}}"#), 0);
        (0..20).for_each(|day| drop(insert(&observation(&format!("day-{day}"), "p"), day)));
        let app = App::before(upstream, |_| {}).await;
        for level in ["/$export", "/Patient/$export", "/Group/g/$export"] {
            for (day, nanos) in [(7, 0), (7, 1_000_000), (300, 0)] {
                let instant = (at(day) + chrono::TimeDelta::nanoseconds(nanos))
                    .to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
                let export = async |parameter: &str| {
                    let path = format!("{level}?_type=Observation&{parameter}={instant}");
                    let (_, received) = app.export(&path).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
                    names(&received)
                };
                let days = |is_in: &dyn Fn(i64) -> bool| {
                    (0..20)
                        .filter(|day| is_in(*day))
                        .map(|day| format!("Observation/day-{day}"))
                        .collect::<BTreeSet<_>>()
                };
                let is_before = |other: i64| other < day || (other == day && nanos > 0);
                assert_eq!(export("_until").await, days(&is_before), "{level} until {instant}");
                assert_eq!(export("_since").await, days(&|other| other > day), "{level} since {instant}");
            }
        }
        app.stop().await;
    }
}

/// BD-019: what is referred to comes once and whole, whenever it changed; where it is asked for by itself, as at System level, it
/// is divided like all else.
#[tokio::test]
async fn what_is_referred_to_comes_whole_on_either_side() {
    let offsets = Settings { paging: Paging::Offset, max_count: Some(3), ..Settings::default() };
    let by_patient = Settings { require_patient: true, total: Total::Exact, ..Settings::default() };
    for (settings, levels) in [
        (Settings::default(), &["/$export", "/Patient/$export", "/Group/g/$export"][..]),
        (offsets, &["/$export", "/Patient/$export", "/Group/g/$export"]),
        (by_patient, &["/Patient/$export", "/Group/g/$export"]),
    ] {
        let upstream = SampleUpstream::new(settings);
        let at = |day: i64| DateTime::from_timestamp(1_700_000_000 + day * 86_400, 0).expect("a time");
        let insert = |json: String, day| drop(upstream.insert_raw_at(&json, at(day)).expect("a resource"));
        let member = r#"{"entity":{"reference":"Patient/p"}}"#;
        insert(r#"{"resourceType":"Patient","id":"p"}"#.to_owned(), 0);
        insert(format!(r#"{{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{member}]}}"#), 0);
        for (id, day) in [("old", 1), ("new", 19), ("of-nobody", 2), ("of-nobody-new", 18)] {
            insert(format!(r#"{{"resourceType":"Practitioner","id":"{id}","name":[{{"family":"F"}}]}}"#), day);
        }
        let performers = r#""performer":[{"reference":"Practitioner/old"},{"reference":"Practitioner/new"}]"#;
        let referring = |id: &str| observation(id, "p").replacen('}', &format!("}},{performers}"), 1);
        (0..20).for_each(|day| insert(referring(&format!("day-{day}")), day));
        let app = App::before(upstream, |_| {}).await;
        for level in levels {
            for (parameter, is_in) in [("_until", 0..8_i64), ("_since", 8..20)] {
                let instant = (at(7) + chrono::TimeDelta::hours(1)).to_rfc3339();
                let instant = instant.trim_end_matches("+00:00");
                let path = format!("{level}?_type=Observation,Practitioner&{parameter}={instant}Z");
                let (_, received) = app.export(&path).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
                let mut wanted: BTreeSet<_> = is_in.clone().map(|day| format!("Observation/day-{day}")).collect();
                wanted.extend(match (*level, parameter) {
                    ("/$export", "_until") => ["Practitioner/old", "Practitioner/of-nobody"].map(str::to_owned),
                    ("/$export", _) => ["Practitioner/new", "Practitioner/of-nobody-new"].map(str::to_owned),
                    _ => ["Practitioner/old", "Practitioner/new"].map(str::to_owned),
                });
                let mut expected = expected::of(&app.upstream, "/$export");
                expected.retain(|name, _| wanted.contains(name));
                assert_eq!(expected.len(), wanted.len());
                let difference = expected::compare(&expected, &received).expect("lines of JSON");
                assert!(difference.is_none(), "{path}:\n{difference}");
            }
        }
        app.stop().await;
    }
}
