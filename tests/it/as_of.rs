//! `export.boundary: as_of`: no file holds anything newer than `transactionTime`, and the chain of exports loses nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use offtake::config::BoundaryChoice;
use offtake::{Clock, SystemClock};
use sample_upstream::{Paging, SampleUpstream, Settings, Stamp, Total};
use serde_json::Value;

use crate::client::{Client, Manifest};
use crate::support::App;

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).expect("in range")
}

fn observation(id: &str, status: &str) -> String {
    format!(r#"{{"resourceType":"Observation","id":"{id}","status":"{status}","subject":{{"reference":"Patient/p"}}}}"#)
}

/// A server on which three things happened within the lag before its newest change: one observation was changed twice, one
/// was made, one was deleted and made anew. Time goes on only as its clock is told.
fn upstream(settings: Settings) -> (SampleUpstream, i64, Arc<AtomicI64>) {
    let upstream = SampleUpstream::new(settings);
    let now = SystemClock.unix_millis() / 1_000 * 1_000;
    let clock = Arc::new(AtomicI64::new(now));
    let insert = |json: &str, age_seconds: i64| {
        clock.store(now - age_seconds * 1_000, Ordering::SeqCst);
        upstream.insert_raw_at(json, at(now - age_seconds * 1_000)).expect("a resource");
    };
    let of_clock = Arc::clone(&clock);
    upstream.set_clock(Arc::new(move || at(of_clock.load(Ordering::SeqCst))));
    insert(r#"{"resourceType":"Patient","id":"p"}"#, 7_200);
    let member = r#"{"entity":{"reference":"Patient/p"}}"#;
    insert(&format!(r#"{{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{member}]}}"#), 7_200);
    (0..9).for_each(|number| insert(&observation(&format!("old-{number}"), "old"), 3_600 + number));
    insert(&observation("changed", "old"), 3_000);
    insert(&observation("remade", "old"), 3_000);
    insert(&observation("changed", "newer"), 50);
    upstream.delete("Observation", "remade").expect("it is there");
    insert(&observation("remade", "newer"), 40);
    insert(&observation("made", "newer"), 30);
    insert(&observation("changed", "newest"), 20);
    clock.store(now, Ordering::SeqCst);
    (upstream, now, clock)
}

/// The status of each observation by its id.
fn statuses(received: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, String> {
    let lines = received.get("Observation").map(Vec::as_slice).unwrap_or_default().split(|byte| *byte == b'\n');
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let parsed = lines.filter(|line| !line.is_empty()).map(|line| serde_json::from_slice::<Value>(line).expect("JSON"));
    parsed.map(|line| (text(&line["id"]), text(&line["status"]))).collect()
}

async fn outcomes(manifest: &Manifest) -> String {
    let error = manifest.whole["error"][0]["url"].as_str().expect("a link");
    String::from_utf8(Client::new().download(error).await.expect("a file").to_vec()).expect("text")
}

async fn as_of(upstream: SampleUpstream) -> App {
    App::before(upstream, |config| config.export.boundary = BoundaryChoice::AsOf).await
}

#[tokio::test]
async fn what_is_newer_than_the_transaction_time_comes_with_the_next_export() {
    let exact = Settings { total: Total::Exact, ..Settings::default() };
    // One stamp for many and little memory: what cannot be cut is written as it comes.
    let streamed = Settings { paging: Paging::Offset, max_count: Some(2), stamp: Stamp::Single, ..exact.clone() };
    let short_histories = Settings { max_count: Some(1), ..exact.clone() };
    for settings in [exact, streamed, short_histories] {
        for level in ["/$export", "/Patient/$export", "/Group/g/$export"] {
            let (upstream, now, clock) = upstream(settings.clone());
            let app = as_of(upstream).await;
            let (manifest, received) = app.export(level).await.expect("an export");
            let first = statuses(&received);
            assert_eq!(first.get("changed").map(String::as_str), Some("old"), "{level}: {first:?}");
            assert!(!first.contains_key("made"), "{level}");
            // It was deleted at some time between both versions: that it was there then cannot be shown.
            assert!(!first.contains_key("remade"), "{level}");
            assert_eq!(first.len(), 10, "{level}: {first:?}");
            let time = manifest.whole["transactionTime"].as_str().expect("an instant").to_owned();
            let until = DateTime::parse_from_rfc3339(&time).expect("an instant");
            for line in received.values().flat_map(|bytes| bytes.split(|byte| *byte == b'\n')) {
                let Ok(resource) = serde_json::from_slice::<Value>(line) else { continue };
                let stamp = resource["meta"]["lastUpdated"].as_str().expect("an instant");
                assert!(DateTime::parse_from_rfc3339(stamp).expect("an instant") <= until, "{level}: {stamp} > {time}");
            }

            clock.store(now + 600_000, Ordering::SeqCst);
            app.upstream.create(r#"{"resourceType":"Patient","id":"later"}"#).expect("a resource");
            clock.store(now + 700_000, Ordering::SeqCst);
            let (_, received) = app.export(&format!("{level}?_since={time}")).await.expect("an export");
            let expected = [("changed", "newest"), ("made", "newer"), ("remade", "newer")]
                .map(|(id, status)| (id.into(), status.into()));
            assert_eq!(statuses(&received), BTreeMap::from(expected), "{level}");
            app.stop().await;
        }
    }
}

#[tokio::test]
async fn a_server_without_histories_is_exported_without_loss_and_that_is_said() {
    let (upstream, _, _) = upstream(Settings { history: false, ..Settings::default() });
    let app = as_of(upstream).await;
    let (manifest, received) = app.export("/$export").await.expect("an export");
    assert_eq!(statuses(&received).get("changed").map(String::as_str), Some("newest"));
    let said = outcomes(&manifest).await;
    let line = said.lines().find(|line| line.contains("no history to tell what was before")).expect("it is said");
    assert!(line.contains("Observation") && line.contains("Patient"), "{line}");
    app.stop().await;
}

/// Where nobody writes any more the newest changes are exported too, or they would never be.
#[tokio::test]
async fn a_server_at_rest_is_exported_as_of_its_newest_change() {
    let (upstream, now, clock) = upstream(Settings::default());
    clock.store(now + 3_600_000, Ordering::SeqCst);
    let app = as_of(upstream).await;
    let (manifest, received) = app.export("/$export").await.expect("an export");
    let statuses = statuses(&received);
    assert_eq!(statuses.get("changed").map(String::as_str), Some("newest"));
    assert!(statuses.contains_key("made") && statuses.contains_key("remade"));
    let time = manifest.whole["transactionTime"].as_str().expect("an instant");
    let newest = at(now - 20_000);
    assert_eq!(DateTime::parse_from_rfc3339(time).expect("an instant"), newest);
    let (_, received) = app.export(&format!("/$export?_since={time}")).await.expect("an export");
    assert!(received.is_empty(), "nothing has changed since");
    app.stop().await;
}
