//! The upstream goes away: for half a minute, and for good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use offtake::testing::ManualClock;
use offtake::{Clock, SystemClock};
use sample_upstream::{RequestSeen, SampleUpstream, Settings, Total};

use crate::client::Client;
use crate::raw::{self, KICKOFF};
use crate::support::{App, Front, listener, until};

/// A moment of an export at which the upstream goes away.
struct Moment {
    name: &'static str,
    level: &'static str,
    settings: fn() -> Settings,
    is_now: fn(&RequestSeen) -> bool,
    /// What a failure then names beside the type: strategy and slice.
    told: &'static str,
}

fn is_count(seen: &RequestSeen) -> bool {
    seen.query.contains("_summary=count")
}

fn has(seen: &RequestSeen, prefix: &str) -> bool {
    seen.query.contains(&format!("_lastUpdated={prefix}"))
}

/// A request for resources, not one of the probes, which ask for one or for ids only.
fn is_page(seen: &RequestSeen) -> bool {
    seen.query.contains("_count=1000") && !is_count(seen)
}

fn paged() -> Settings {
    Settings { max_count: Some(7), ..Settings::default() }
}

/// Where nothing can be counted the sweep is never left out.
fn uncounted() -> Settings {
    Settings { counts: false, accurate_total: false, total: Total::Absent, ..Settings::default() }
}

const MOMENTS: [Moment; 7] = [
    Moment {
        name: "plan: the first count",
        level: "/$export",
        settings: Settings::default,
        is_now: is_count,
        told: "by probes (slice 0",
    },
    Moment {
        name: "plan: the oldest resource",
        level: "/Patient/$export",
        settings: Settings::default,
        is_now: |seen| seen.query.contains("_sort=_lastUpdated"),
        told: "by probes (slice 0",
    },
    Moment {
        name: "page: a window",
        level: "/$export",
        settings: Settings::default,
        is_now: |seen| is_page(seen) && has(seen, "lt") && seen.path.ends_with("/Observation"),
        told: " by time windows (slice ",
    },
    Moment {
        name: "page: a next link",
        level: "/$export",
        settings: || Settings { no_last_updated: true, ..paged() },
        is_now: |seen| seen.query.contains("_getpages=") && seen.query.contains("_getpagesoffset=14"),
        told: " by a chain of pages (slice ",
    },
    Moment {
        name: "count: what windows cannot see",
        level: "/$export",
        settings: Settings::default,
        is_now: |seen| is_count(seen) && has(seen, "ge") && !has(seen, "lt"),
        told: " by time windows (slice ",
    },
    Moment {
        name: "sweep",
        level: "/$export",
        settings: uncounted,
        is_now: |seen| is_page(seen) && has(seen, "ge") && !has(seen, "lt"),
        told: " by time windows (slice ",
    },
    Moment {
        name: "references",
        level: "/Group/all/$export",
        settings: Settings::default,
        is_now: |seen| seen.path.ends_with("/Practitioner") && seen.query.contains("_id="),
        told: " by references (slice ",
    },
];

impl Moment {
    async fn app(&self, away: Duration, give_up_after: Duration) -> App {
        let upstream = SampleUpstream::new((self.settings)());
        upstream.generate(8);
        let is_now = self.is_now;
        upstream.away_when(is_now, away);
        App::before(upstream, |config| config.upstream.give_up_after = give_up_after).await
    }

    /// Half a minute later all is there.
    async fn assert_delayed(&self) {
        let away = Duration::from_secs(30);
        let app = self.app(away, Duration::from_mins(10)).await;
        let began = Instant::now();
        if let Err(error) = app.export_exactly(self.level).await {
            panic!("{}: {error:#}", self.name);
        }
        let took = began.elapsed();
        assert!(took >= away, "{}: the upstream was never away: {took:?}", self.name);
        println!("{}: exact after {:.1} s", self.name, took.as_secs_f32());
        app.stop().await;
    }

    /// DS-018, SEC-41: a final code, and a text that names where it failed and nothing of what was asked.
    async fn assert_failed(&self) {
        let app = self.app(Duration::from_hours(1), Duration::from_secs(2)).await;
        let kickoff = app.ask("GET", self.level, &KICKOFF, b"").await;
        let status = kickoff.header("content-location")[app.base.len()..].to_owned();
        let began = Instant::now();
        let failed = loop {
            let answer = app.ask("GET", &status, &[], b"").await;
            if answer.status != 202 {
                break answer;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{}: not given up", self.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        println!(
            "{}: failed after {:.1} s: {}",
            self.name,
            began.elapsed().as_secs_f32(),
            String::from_utf8_lossy(&failed.body)
        );
        failed.assert_refused(self.name, 500, "processing", None);
        let text = failed.json()["issue"][0]["diagnostics"].as_str().unwrap_or_default().to_owned();
        // Several searches are under way: the first one to be given up is named.
        assert!(text.starts_with("could not read ") && text.contains(self.told), "{}: {text}", self.name);
        for secret in ["=", "?", "_lastUpdated", "_id", "_getpages", "127.0.0.1", "http", "/fhir", "pat-"] {
            assert!(!text.contains(secret), "{}: {secret} in {text}", self.name);
        }
        until("its files are removed", Duration::from_secs(10), || {
            // That it failed stays there, until the export expires.
            app.output_files().iter().all(|file| file.ends_with("job.checkpoint"))
        })
        .await;
        assert_eq!(app.ask("GET", &status, &[], b"").await.body, failed.body, "asking again changes nothing");
        assert_eq!(app.ask("DELETE", &status, &[], b"").await.status, 202);
        app.ask("GET", &status, &[], b"").await.assert_refused(self.name, 404, "not-found", None);
        app.upstream.set_available(true);
        app.export_exactly(self.level).await.expect("the next export does not suffer from this one");
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_away_for_half_a_minute_delays_an_export_and_no_more() {
    join_all(MOMENTS.iter().map(Moment::assert_delayed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_upstream_stays_away_fails_for_good_and_leaves_nothing() {
    join_all(MOMENTS.iter().map(Moment::assert_failed)).await;
}

/// A server that is not there at all: the text says so, and not where it was looked for.
#[tokio::test]
async fn a_connection_that_is_refused_is_told_without_its_address() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(1);
    let server = upstream.serve(listener().await).await;
    let port = server.addr.port().to_string();
    let change = |config: &mut offtake::Config| config.upstream.give_up_after = Duration::from_secs(1);
    let front = Front::before(&server.base_url, change, Arc::new(offtake::SystemClock)).await;
    let ask = async |method: &str, target: &str| {
        raw::ask(&front.host(), &raw::request(method, target, &front.host(), &KICKOFF, b"")).await
    };
    let first = ask("GET", "/fhir/$export?_type=Patient").await;
    assert_eq!(first.status, 202);
    Client::new().wait(first.header("content-location"), |_| {}).await.expect("an export");
    server.stop().await;
    let second = ask("GET", "/fhir/$export?_type=Patient").await;
    let error = Client::new().wait(second.header("content-location"), |_| {}).await.expect_err("nobody is there");
    let text = error.to_string();
    assert!(text.contains("could not read Patient by probes"), "{text}");
    for secret in ["127.0.0.1", "localhost", "http:", &port] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let passed = ask("GET", "/fhir/Patient").await;
    passed.assert_refused("on the way through", 502, "transient", None);
    front.stop().await;
}

/// Ordinary traffic: 502 while the upstream is away, and the upstream's answers again when it is back.
#[tokio::test]
async fn requests_on_the_way_through_are_told_that_the_upstream_is_away() {
    let app = App::with_patients(2, Settings::default()).await;
    for round in 0..2 {
        assert_eq!(app.ask("GET", "/Group/all", &[], b"").await.status, 200, "round {round}");
        app.upstream.set_available(false);
        for (method, path, body) in [
            ("GET", "/Group/all", &b""[..]),
            ("GET", "/metadata", b""),
            ("GET", "/Patient?_count=1", b""),
            ("POST", "/Patient", br#"{"resourceType":"Patient"}"#),
            ("PUT", "/Patient/new", br#"{"resourceType":"Patient","id":"new"}"#),
            ("DELETE", "/Patient/new", b""),
        ] {
            let answer = app.ask(method, path, &[("Content-Type", "application/fhir+json")], body).await;
            answer.assert_refused(&format!("{method} {path}"), 502, "transient", None);
        }
        app.upstream.set_available(true);
    }
    assert_eq!(app.ask("GET", "/metadata", &[], b"").await.status, 200);
    app.export_exactly("/$export").await.expect("an export");
    app.stop().await;
}

/// Spec 2.7: 503 with `Retry-After`, soon: a client waits for the answer. What needs no question to the upstream is
/// taken, and done when it is back. Time passes ten times as fast here.
#[tokio::test]
async fn a_kickoff_while_the_upstream_is_away_is_answered_soon() {
    let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
    let ticking = Arc::clone(&clock);
    let ticks = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            ticking.advance(Duration::from_millis(50));
        }
    });
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(2);
    let app = App::with_clock(upstream, |_| {}, clock.clone()).await;
    // The job store is open once an unknown job is not found.
    let unknown = format!("/$bulk-status/{}", "0".repeat(32));
    let opened = async { while app.ask("GET", &unknown, &KICKOFF, b"").await.status != 404 {} };
    tokio::time::timeout(Duration::from_mins(1), opened).await.expect("it is opened");
    app.upstream.set_available(false);
    let began = clock.unix_millis();
    let [system, group] = ["/$export", "/Group/all/$export"].map(|level| app.ask("GET", level, &KICKOFF, b""));
    let (system, group) = futures_util::future::join(system, group).await;
    let took = clock.unix_millis() - began;
    assert!(took < 20_000, "{took} ms");
    for answer in [system, group] {
        answer.assert_refused("a kick-off", 503, "transient", None);
        assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    }
    app.upstream.set_available(true);
    app.export_exactly("/Group/all/$export").await.expect("an export");
    app.upstream.set_available(false);
    let answer = app.ask("GET", "/Patient/$export", &KICKOFF, b"").await;
    assert_eq!(answer.status, 202, "what there is to export is still known");
    let group = app.ask("GET", "/Group/all/$export", &KICKOFF, b"").await;
    group.assert_refused("a Group that nobody can be asked for", 503, "transient", None);
    app.upstream.set_available(true);
    Client::new().wait(answer.header("content-location"), |_| {}).await.expect("an export");
    app.stop().await;
    ticks.abort();
}
