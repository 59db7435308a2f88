//! What searches wait for: that it is kept, that it is told, and that waiting can be ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use offtake::config::{QuietWindowConfig, UtcOffset, Weekday};
use offtake::testing::ManualClock;
use offtake::{Clock, Config};
use sample_upstream::{SampleUpstream, Settings};

use crate::client::{Client, Manifest, Poll};
use crate::expected;
use crate::process::until;
use crate::support::App;

/// 2026-01-05T12:00:00Z, a Monday.
const NOON: i64 = 1_767_614_400_000;
const HOUR: Duration = Duration::from_hours(1);

/// No searches on workdays from seven to six in the evening.
fn office_hours(config: &mut Config) {
    use Weekday::{Fri, Mon, Thu, Tue, Wed};
    config.upstream.quiet_hours.utc_offset = UtcOffset::Fixed(0);
    config.upstream.quiet_hours.windows = vec![QuietWindowConfig {
        days: vec![Mon, Tue, Wed, Thu, Fri],
        from: "07:00".parse().expect("a time"),
        until: "18:00".parse().expect("a time"),
        max_concurrent_searches: 0,
    }];
}

async fn app(change: impl FnOnce(&mut Config)) -> (Arc<ManualClock>, App) {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let clock = Arc::new(ManualClock::new(NOON));
    let handed = Arc::clone(&clock) as Arc<dyn Clock>;
    let app = App::with_clock(upstream, change, handed).await;
    (clock, app)
}

async fn kick_off(client: &Client, app: &App, path: &str) -> String {
    client.kick_off(&format!("{}{path}", app.base)).await.expect("a kick-off")
}

/// Waits until the export tells that it is at this.
async fn until_told(client: &Client, status: &str, wanted: &str, clock: Option<&ManualClock>) {
    until(wanted, async || {
        if let Some(clock) = clock {
            clock.advance(Duration::from_millis(100));
        }
        Ok(match client.poll(status).await? {
            Poll::Running(text) if text.starts_with(wanted) => Some(()),
            Poll::Running(_) => None,
            Poll::Complete(_) => anyhow::bail!("the export is complete"),
            Poll::Other(code, text) => anyhow::bail!("{code}: {text}"),
        })
    })
    .await
    .expect("it is told");
}

/// Downloads what a finished export lists, and compares it with what the server holds.
async fn assert_exact(client: &Client, app: &App, path: &str, manifest: &Manifest) -> anyhow::Result<()> {
    let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for file in &manifest.output {
        received.entry(file.resource_type.clone()).or_default().extend(client.download(&file.url).await?);
    }
    let difference = expected::compare(&expected::of(&app.upstream, path), &received)?;
    ensure!(difference.is_none(), "{difference}");
    Ok(())
}

fn searches(app: &App) -> usize {
    app.upstream.requests().iter().filter(|seen| !seen.path.ends_with("/metadata")).count()
}

#[tokio::test]
async fn in_quiet_hours_an_export_is_accepted_and_searches_nothing_until_they_are_over() {
    let (clock, app) = app(office_hours).await;
    let client = Client::new();
    let status = kick_off(&client, &app, "/$export").await;
    until_told(&client, &status, "waiting: quiet hours until 18:00", None).await;
    assert_eq!(searches(&app), 0);
    // Longer than any search may keep failing: waiting is not failing.
    clock.advance(5 * HOUR);
    until_told(&client, &status, "waiting: quiet hours until 18:00", None).await;
    assert_eq!(searches(&app), 0);
    clock.advance(HOUR);
    let manifest = client.wait(&status, |_| {}).await.expect("the export ends");
    assert_exact(&client, &app, "/$export", &manifest).await.expect("it is exact");
    app.stop().await;
}

/// Who kicks off a Group export is told at once whether there is such a Group.
#[tokio::test]
async fn a_kick_off_is_answered_in_quiet_hours() {
    let (_clock, app) = app(office_hours).await;
    let client = Client::new();
    kick_off(&client, &app, "/Group/all/$export").await;
    let refused = client.kick_off(&format!("{}/Group/nobody/$export", app.base)).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("404")));
    app.stop().await;
}

#[tokio::test]
async fn an_export_that_waits_can_be_deleted_and_does_not_hold_up_a_stop() {
    let (_clock, app) = app(office_hours).await;
    let client = Client::new();
    let deleted = kick_off(&client, &app, "/$export").await;
    let kept = kick_off(&client, &app, "/Patient/$export").await;
    for status in [&deleted, &kept] {
        until_told(&client, status, "waiting: quiet hours until 18:00", None).await;
    }
    client.delete(&deleted).await.expect("it can be deleted");
    until("the export is gone", async || {
        Ok(matches!(client.poll(&deleted).await?, Poll::Other(code, _) if code == 404).then_some(()))
    })
    .await
    .expect("it is gone");
    until_told(&client, &kept, "waiting: quiet hours until 18:00", None).await;
    tokio::time::timeout(Duration::from_secs(30), app.stop()).await.expect("nothing holds up the stop");
}

/// The clock stands still but for what the test moves it: no pause is real.
#[tokio::test]
async fn a_server_that_is_away_is_left_alone_and_the_export_goes_on_when_it_is_back() {
    let (clock, app) = app(|config| {
        config.upstream.circuit_breaker.failures = 3;
        config.upstream.circuit_breaker.pause = Duration::from_mins(1);
        config.upstream.circuit_breaker.max_pause = Duration::from_mins(1);
    })
    .await;
    app.upstream.away_when(|seen| seen.query.contains("_summary=count"), 24 * HOUR);
    let client = Client::new();
    let status = kick_off(&client, &app, "/$export").await;
    until_told(&client, &status, "waiting: the server does not answer", Some(&clock)).await;
    app.upstream.set_available(true);
    clock.advance(Duration::from_mins(1));
    let manifest = until("the export ends", async || {
        clock.advance(Duration::from_millis(100));
        Ok(match client.poll(&status).await? {
            Poll::Complete(manifest) => Some(manifest),
            Poll::Running(_) => None,
            Poll::Other(code, text) => anyhow::bail!("{code}: {text}"),
        })
    })
    .await
    .expect("it ends");
    assert_exact(&client, &app, "/$export", &manifest).await.expect("it is exact");
    app.stop().await;
}

/// Pauses because the server is away count for those who have found it away: the export does not wait for ever.
#[tokio::test]
async fn a_server_that_stays_away_ends_the_export_in_time() {
    let (clock, app) = app(|config| config.upstream.give_up_after = Duration::from_mins(5)).await;
    app.upstream.away_when(|seen| seen.query.contains("_summary=count"), 24 * HOUR);
    let client = Client::new();
    let status = kick_off(&client, &app, "/$export").await;
    let kicked_off = clock.unix_millis();
    let said = until("the export fails", async || {
        clock.advance(Duration::from_millis(500));
        Ok(match client.poll(&status).await? {
            Poll::Other(_, text) => Some(text),
            Poll::Complete(_) | Poll::Running(_) => None,
        })
    })
    .await
    .expect("it fails");
    let took = Duration::from_millis(u64::try_from(clock.unix_millis() - kicked_off).expect("time goes on"));
    assert!(said.contains("no usable answer within 300 s"), "{said}");
    assert!(took < Duration::from_mins(20), "it took {took:?}");
    app.stop().await;
}

#[tokio::test]
async fn searches_begin_no_more_often_than_the_operator_allows() {
    const PER_SECOND: f64 = 100.0;
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let app = App::before(upstream, |config| {
        config.upstream.max_searches_per_second = Some(PER_SECOND);
        config.upstream.page_max_resources = 5;
    })
    .await;
    let began = Instant::now();
    app.export_exactly("/$export").await.expect("it is exact");
    let (searches, took) = (u32::try_from(searches(&app)).expect("few"), began.elapsed());
    assert!(searches > 60, "only {searches} searches");
    let least = Duration::from_secs_f64(f64::from(searches - 5) / PER_SECOND);
    assert!(took >= least, "{searches} searches in {took:?}");
    app.stop().await;
}
