//! How much a client may have.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::{ALL, export, rig};
use crate::smart::{Client, Rig};

/// BD-049: how many of each status `count` kick-offs at once are answered with.
async fn kick_off_at_once(rig: &Rig, token: &str, count: usize) -> BTreeMap<u16, usize> {
    let asked = (0..count).map(|_| rig.with_token("GET", "/$export?_type=Patient", token));
    let mut answers = BTreeMap::new();
    for answer in futures_util::future::join_all(asked).await {
        if answer.status == 429 {
            answer.assert_refused("one too many", 429, "throttled", None);
            assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
        }
        *answers.entry(answer.status).or_default() += 1;
    }
    answers
}

#[tokio::test]
async fn of_a_hundred_kick_offs_at_once_as_many_run_as_may() {
    let client = Client::new("a", ALL);
    let rig = rig(&client, json!({ "quotas": { "running_jobs": 3 } })).await;
    // None of them ends meanwhile.
    rig.upstream.update_settings(|settings| settings.latency = Duration::from_secs(5));
    let token = rig.token(&client, ALL).await;
    assert_eq!(kick_off_at_once(&rig, &token, 100).await, BTreeMap::from([(202, 3), (429, 97)]));
    let jobs = rig.store.job_ids().await;
    assert_eq!(jobs.len(), 3);
    assert_eq!(rig.with_token("DELETE", &format!("/$bulk-status/{}", jobs[0]), &token).await.status, 202);
    assert_eq!(kick_off_at_once(&rig, &token, 5).await, BTreeMap::from([(202, 1), (429, 4)]), "one has ended");
    rig.stop().await;
}

/// What was deleted counts, and no restart forgets it; the next day all may be had again.
#[tokio::test]
async fn kick_offs_of_a_day_are_counted_whatever_becomes_of_them() {
    let client = Client::new("a", ALL);
    let mut rig = rig(&client, json!({ "quotas": { "kickoffs_per_day": 4 } })).await;
    // The day does not end under the test.
    let into = u64::try_from(rig.now() % 86_400).expect("after 1970");
    rig.advance(86_400 - into + 60);
    let token = rig.token(&client, ALL).await;
    assert_eq!(kick_off_at_once(&rig, &token, 3).await, BTreeMap::from([(202, 3)]));
    for job in rig.store.job_ids().await {
        assert_eq!(rig.with_token("DELETE", &format!("/$bulk-status/{job}"), &token).await.status, 202);
    }
    rig.restart(|_| {}).await;
    let token = rig.token(&client, ALL).await;
    assert_eq!(kick_off_at_once(&rig, &token, 9).await, BTreeMap::from([(202, 1), (429, 8)]));
    rig.advance(86_400);
    let token = rig.token(&client, ALL).await;
    assert_eq!(kick_off_at_once(&rig, &token, 5).await, BTreeMap::from([(202, 4), (429, 1)]));
    rig.stop().await;
}

/// Who may kick off no more has nothing asked of the server, and is not told whether a Group is there.
#[tokio::test]
async fn what_is_beyond_a_quota_is_refused_before_the_server_is_asked_for_it() {
    let client = Client::new("a", ALL);
    let rig = rig(&client, json!({ "quotas": { "kickoffs_per_day": 1 } })).await;
    let token = rig.token(&client, ALL).await;
    export(&rig, &token, "/$export?_type=Patient").await;
    let before = rig.upstream.requests().len();
    for below in ["/Group/all/$export", "/Group/nobody/$export", "/$export?_typeFilter=Patient?gender=male"] {
        rig.with_token("GET", below, &token).await.assert_refused(below, 429, "throttled", None);
    }
    assert_eq!(rig.upstream.requests().len(), before, "{:?}", rig.upstream.requests());
    rig.stop().await;
}

#[tokio::test]
async fn an_export_that_goes_beyond_the_bytes_of_a_day_fails_and_says_so() {
    let client = Client::new("a", ALL);
    let rig = rig(&client, json!({ "quotas": { "bytes_per_day": 600_000 } })).await;
    let token = rig.token(&client, ALL).await;
    let within = export(&rig, &token, "/$export?_type=Patient").await;
    assert_eq!(within.output.lines().count(), 3);
    let text = "x".repeat(590_000);
    rig.upstream
        .create(&format!(r#"{{"resourceType":"Organization","id":"large","name":"{text}"}}"#))
        .expect("a resource");
    let kickoff = rig.with_token("GET", "/$export?_type=Organization,Patient", &token).await;
    let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    let one_more = format!(r#"{{"resourceType":"Organization","id":"more","name":"{text}"}}"#);
    rig.upstream.create(&one_more).expect("a resource");
    let failed = loop {
        let answer = rig.with_token("GET", &status, &token).await;
        if !matches!(answer.status, 202 | 429) {
            break answer;
        }
        rig.pause(answer.status).await;
    };
    failed.assert_refused("too much", 500, "too-costly", None);
    assert!(String::from_utf8_lossy(&failed.body).contains("bytes that it may have in a day"));
    // What was not handed out is not counted: a small one is within.
    assert_eq!(export(&rig, &token, "/$export?_type=Patient").await.output.lines().count(), 3);
    rig.stop().await;
}
