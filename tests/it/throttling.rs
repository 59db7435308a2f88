//! How often may be polled and kicked off (BD-049, BD-060, BD-114).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use offtake::testing::ManualClock;
use offtake::{Clock, Config, SystemClock};
use sample_upstream::{SampleUpstream, Settings};
use serde_json::json;

use crate::raw::{Answer, KICKOFF};
use crate::smart::{Client, Rig};
use crate::support::App;

const ALL: &str = "system/*.rs";

/// Exports do not search, and so do not end: all hours are quiet. Polls are counted as they are anywhere.
fn without_end(config: &mut Config) {
    config.export.early_polls_per_second = 100;
    let all_day = json!({ "windows": [{ "from": "00:00", "until": "00:00" }] });
    config.upstream.quiet_hours = serde_json::from_value(all_day).expect("hours");
}

async fn rig(clients: &[Client], change: impl FnOnce(&mut Config)) -> Rig {
    Rig::configured(clients, |config| {
        without_end(config);
        change(config);
    })
    .await
}

/// Where a kick-off may be asked about, below the base.
async fn kicked_off(rig: &Rig, token: &str, path: &str) -> String {
    let answer = rig.with_token("GET", path, token).await;
    assert_eq!(answer.status, 202, "{path}: {}", String::from_utf8_lossy(&answer.body));
    answer.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned()
}

fn assert_throttled(answer: &Answer) {
    answer.assert_refused("one too many", 429, "throttled", None);
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
}

/// BD-060: counted for each client, and only what comes before `Retry-After` has passed.
#[tokio::test]
async fn whoever_polls_more_than_a_hundred_times_a_second_is_told_to_wait() {
    let clients = [Client::new("a", ALL), Client::new("b", ALL)];
    let rig = rig(&clients, |_| {}).await;
    let tokens = [rig.token(&clients[0], ALL).await, rig.token(&clients[1], ALL).await];
    let mine = kicked_off(&rig, &tokens[0], "/$export?_type=Patient").await;
    let theirs = kicked_off(&rig, &tokens[1], "/$export?_type=Patient").await;
    for path in [&mine, &theirs] {
        for _ in 0..=100 {
            let token = if *path == mine { &tokens[0] } else { &tokens[1] };
            let answer = rig.with_token("GET", path, token).await;
            assert_eq!((answer.status, answer.header("retry-after")), (202, "1"));
        }
    }
    for _ in 0..3 {
        assert_throttled(&rig.with_token("GET", &mine, &tokens[0]).await);
    }
    let unknown = format!("/$bulk-status/{}", "0".repeat(32));
    assert_throttled(&rig.with_token("GET", &unknown, &tokens[0]).await);
    rig.advance(1);
    assert_eq!(rig.with_token("GET", &mine, &tokens[0]).await.status, 202, "it waited as it was told");
    assert_eq!(rig.with_token("DELETE", &mine, &tokens[0]).await.status, 202);
    rig.stop().await;
}

/// Interop 11: as many exports as one likes, each asked about when it was said.
#[tokio::test]
async fn a_client_that_heeds_retry_after_is_never_told_to_wait() {
    let client = Client::new("a", ALL);
    let rig = rig(std::slice::from_ref(&client), |config| config.export.max_jobs_per_client = 1_000).await;
    let token = rig.token(&client, ALL).await;
    let mut paths = Vec::new();
    for _ in 0..120 {
        paths.push(kicked_off(&rig, &token, "/$export").await);
    }
    for _ in 0..2 {
        for path in &paths {
            assert_eq!(rig.with_token("GET", path, &token).await.status, 202);
        }
        rig.advance(1);
    }
    rig.stop().await;
}

/// Where nobody is a client, those of one address are counted together.
#[tokio::test]
async fn without_clients_polls_are_counted_for_each_peer() {
    let upstream = SampleUpstream::new(Settings::default());
    let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
    upstream.generate(1);
    let app = App::with_clock(upstream, without_end, clock.clone()).await;
    let unknown = format!("/$bulk-status/{}", "0".repeat(32));
    for _ in 0..100 {
        app.ask("GET", &unknown, &[], b"").await.assert_refused("not there", 404, "not-found", None);
    }
    assert_throttled(&app.ask("GET", &unknown, &[], b"").await);
    clock.advance(Duration::from_secs(1));
    app.ask("GET", &unknown, &[], b"").await.assert_refused("not there", 404, "not-found", None);
    app.stop().await;
}

/// BD-049: one client leaves room for the others, also if nobody has thought of quotas.
#[tokio::test]
async fn a_client_has_so_many_exports_at_most_and_others_have_theirs() {
    let clients = [Client::new("a", ALL), Client::new("b", ALL), Client::new("c", ALL)];
    let quotas = json!({ "quotas": { "running_jobs": 3 } });
    let rig = rig(&clients, |config| {
        config.export.max_jobs_per_client = 2;
        config.smart.clients[2].policy = serde_json::from_value(quotas).expect("a policy");
    })
    .await;
    for (client, most) in clients.iter().zip([2, 2, 3]) {
        let token = rig.token(client, ALL).await;
        let mut paths = Vec::new();
        for _ in 0..most {
            paths.push(kicked_off(&rig, &token, "/$export").await);
        }
        assert_throttled(&rig.with_token("GET", "/$export", &token).await);
        assert_eq!(rig.with_token("DELETE", &paths[0], &token).await.status, 202);
        kicked_off(&rig, &token, "/$export").await;
    }
    rig.stop().await;
}

/// BD-049, of all together.
#[tokio::test]
async fn so_many_exports_wait_at_most() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(1);
    let app = App::before(upstream, |config| {
        without_end(config);
        config.export.max_running_jobs = 1;
        config.export.max_waiting_jobs = 2;
    })
    .await;
    let mut answers = BTreeMap::<u16, usize>::new();
    for _ in 0..8 {
        let answer = app.ask("GET", "/$export", &KICKOFF, b"").await;
        if answer.status == 429 {
            assert_throttled(&answer);
        }
        *answers.entry(answer.status).or_default() += 1;
    }
    // One runs, two wait, and one more is being taken up.
    assert!((2..=4).contains(&answers[&202]) && answers[&429] >= 4, "{answers:?}");
    app.stop().await;
}

/// `export.share_identical_kickoffs`: the same question of one client is one export, across a restart too.
#[tokio::test]
async fn identical_kick_offs_of_a_client_share_an_export_where_that_is_wanted() {
    let clients = [Client::new("a", ALL), Client::new("b", ALL)];
    let mut rig = rig(&clients, |config| config.export.share_identical_kickoffs = true).await;
    let token = rig.token(&clients[0], ALL).await;
    let asked = (0..20).map(|_| kicked_off(&rig, &token, "/Patient/$export?_type=Patient"));
    let shared = futures_util::future::join_all(asked).await.into_iter().collect::<BTreeSet<_>>();
    assert_eq!((shared.len(), rig.store.job_ids().await.len()), (1, 1));
    let shared = shared.into_iter().next().expect("one");
    let kick_offs = || rig.ledger().iter().filter(|record| record["event"] == "kick_off").count();
    assert_eq!(kick_offs(), 20, "each of them is recorded");
    // Another level, other parameters, other rights, another client: another export.
    for path in ["/$export?_type=Patient", "/Patient/$export?_type=Observation", "/Patient/$export"] {
        assert_ne!(kicked_off(&rig, &token, path).await, shared, "{path}");
    }
    let narrow = rig.token(&clients[0], "system/Patient.rs").await;
    assert_ne!(kicked_off(&rig, &narrow, "/Patient/$export?_type=Patient").await, shared);
    let theirs = rig.token(&clients[1], ALL).await;
    assert_ne!(kicked_off(&rig, &theirs, "/Patient/$export?_type=Patient").await, shared);
    rig.restart(|_| {}).await;
    let token = rig.token(&clients[0], ALL).await;
    assert_eq!(kicked_off(&rig, &token, "/Patient/$export?_type=Patient").await, shared);
    assert_eq!(rig.with_token("DELETE", &shared, &token).await.status, 202);
    let next = kicked_off(&rig, &token, "/Patient/$export?_type=Patient").await;
    assert_ne!(next, shared, "it is over");
    rig.restart(|config| config.export.share_identical_kickoffs = false).await;
    let token = rig.token(&clients[0], ALL).await;
    assert_ne!(kicked_off(&rig, &token, "/Patient/$export?_type=Patient").await, next);
    rig.stop().await;
}

/// SEC-06: requests of ours that never end leave room for those of others, and take nothing from the clinic's.
#[tokio::test]
async fn requests_that_never_end_leave_room_for_others_and_for_the_clinic() {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    for (most, most_of_a_peer, status, code) in [(3, 2, 429, "throttled"), (2, 64, 503, "transient")] {
        let app = App::before(SampleUpstream::new(Settings::default()), |config| {
            config.server.max_bulk_requests = Some(most);
            config.server.max_bulk_requests_per_peer = most_of_a_peer;
        })
        .await;
        let unknown = format!("/$bulk-status/{}", "0".repeat(32));
        let becomes = async |wanted: u16| loop {
            let answer = app.ask("GET", &unknown, &[], b"").await;
            if answer.status == wanted {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let becomes =
            async |wanted| tokio::time::timeout(Duration::from_secs(30), becomes(wanted)).await.expect("it does");
        becomes(404).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(app.host()).await.expect("it listens");
            let head = format!(
                "POST /fhir/$export HTTP/1.1\r\nHost: {}\r\nAccept: application/fhir+json\r\nPrefer: respond-async\r\n\
                 Content-Type: application/fhir+json\r\nContent-Length: 100\r\n\r\n{{",
                app.host()
            );
            stream.write_all(head.as_bytes()).await.expect("it reads");
            held.push(stream);
        }
        let refused = becomes(status).await;
        refused.assert_refused("one too many", status, code, None);
        assert_eq!(app.ask("GET", "/Patient?_count=1", &[], b"").await.status, 200, "it passes through");
        drop(held);
        becomes(404).await;
        app.stop().await;
    }
}
