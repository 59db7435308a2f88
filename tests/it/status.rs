//! The status request (section 3).

use std::collections::BTreeSet;
use std::time::Duration;

use sample_upstream::{SampleUpstream, Settings};

use crate::raw::KICKOFF;
use crate::support::App;

/// Interop 6: the first poll is answered with 202 even if the export has long finished.
#[tokio::test]
async fn the_first_poll_is_never_the_manifest() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(1);
    let app = App::before(upstream, |config| config.export.max_running_jobs = 1).await;
    for _ in 0..3 {
        let kickoff = app.ask("GET", "/$export?_type=Patient", &KICKOFF, b"").await;
        let status = kickoff.header("content-location")[app.base.len()..].to_owned();
        // One export at a time: once the one after it is complete, this one has ended.
        app.export("/$export?_type=Patient").await.expect("the one after it");
        let first = app.ask("GET", &status, &[], b"").await;
        assert_eq!((first.status, first.body.len()), (202, 0));
        assert!(!first.header("retry-after").is_empty());
        for _ in 0..2 {
            let later = app.ask("GET", &status, &[], b"").await;
            assert_eq!(later.status, 200, "{}", String::from_utf8_lossy(&later.body));
        }
    }
    app.stop().await;
}

/// BD-057 to BD-059, BD-065, BD-066
#[tokio::test]
async fn progress_is_told_in_a_hundred_characters_and_the_manifest_says_when_it_ends() {
    let upstream = SampleUpstream::new(Settings {
        latency: Duration::from_millis(20),
        max_count: Some(10),
        ..Settings::default()
    });
    upstream.generate(10);
    let app = App::before(upstream, |config| config.upstream.max_concurrent_searches = 2).await;
    let kickoff = app.ask("GET", "/Patient/$export?_type=Patient,Observation,Encounter,Condition", &KICKOFF, b"").await;
    let status = kickoff.header("content-location")[app.base.len()..].to_owned();
    let mut texts = BTreeSet::new();
    let manifest = loop {
        // What a client prefers or accepts changes nothing here.
        let answer = app.ask("GET", &status, &[("Accept", "application/json"), ("Prefer", "x")], b"").await;
        if answer.status != 202 {
            break answer;
        }
        let text = answer.header("x-progress").to_owned();
        assert!(!text.is_empty() && text.len() < 100, "{text}");
        let retry: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!((1..=30).contains(&retry), "{retry}");
        assert_eq!((answer.body.len(), answer.header("cache-control")), (0, "no-store"));
        texts.insert(text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(texts.iter().any(|text| text.contains('%')), "{texts:?}");
    assert_eq!(manifest.status, 200, "{}", String::from_utf8_lossy(&manifest.body));
    assert_eq!(manifest.header("content-type"), "application/json");
    assert_eq!(manifest.header("cache-control"), "private, no-store, no-transform");
    let expires = chrono::DateTime::parse_from_rfc2822(manifest.header("expires")).expect("a date");
    let left = expires.timestamp() - offtake::Clock::unix_millis(&offtake::SystemClock) / 1_000;
    assert!((3_500..=3_600).contains(&left), "{left} s");
    let json = manifest.json();
    for member in ["transactionTime", "request", "requiresAccessToken", "output", "error"] {
        assert!(!json[member].is_null(), "{member} is missing: {json}");
    }
    assert_eq!(json["requiresAccessToken"], false);
    app.stop().await;
}
