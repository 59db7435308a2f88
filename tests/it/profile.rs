//! What is known of the server: found out at the start, kept, and found out again when it may no longer hold.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use offtake::testing::{JobStore, ManualClock};
use offtake::{Clock, Config, Offtake, SystemClock};
use sample_upstream::{Handling, Lies, Running, SampleUpstream, Settings, Total};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Client, Manifest};
use crate::support::{App, listener, until};

const PATIENCE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// A server, and what outlives one Offtake before it.
struct World {
    upstream: SampleUpstream,
    server: Running,
    folder: TempDir,
    /// `None`: the store in the folder.
    store: Option<JobStore>,
    clock: Arc<ManualClock>,
}

/// One Offtake.
struct Life {
    base: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl World {
    async fn new(patients: usize, settings: Settings, store: Option<JobStore>) -> Self {
        let upstream = SampleUpstream::new(settings);
        if patients > 0 {
            upstream.generate(patients);
        }
        let server = upstream.serve(listener().await).await;
        let folder = tempfile::tempdir().expect("a folder of its own");
        let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
        Self { upstream, server, folder, store, clock }
    }

    async fn begin(&self, change: impl FnOnce(&mut Config)) -> Life {
        let listener = listener().await;
        let base = format!("http://{}/fhir", listener.local_addr().expect("it listens"));
        let folder: &Path = self.folder.path();
        let mut config = Config::local(&self.server.base_url, &base, folder).expect("a good configuration");
        // By a clock that stands still, all polls are of one second.
        config.export.early_polls_per_second = u32::MAX;
        change(&mut config);
        let builder = Offtake::builder(config).clock(Arc::clone(&self.clock) as Arc<dyn Clock>);
        let builder = match &self.store {
            Some(store) => builder.store(store.clone()),
            None => builder,
        };
        let offtake = builder.build().expect("everything can be opened");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        Life { base, stop, serving }
    }

    /// How often it was found out whether the server filters by time, which is asked once in each probing.
    fn probed(&self) -> usize {
        self.upstream.requests().iter().filter(|seen| seen.query.contains("_lastUpdated=ge2900")).count()
    }

    async fn until_probed(&self, times: usize) {
        until("the server is probed", PATIENCE, || self.probed() >= times).await;
    }

    async fn end(self) {
        self.server.stop().await;
    }
}

impl Life {
    /// Exports everything: by then what is known of the server was applied.
    async fn export(&self) -> Manifest {
        let client = Client::new();
        let status = client.kick_off(&format!("{}/$export", self.base)).await.expect("it is accepted");
        client.wait(&status, |_| {}).await.expect("an export")
    }

    async fn end(self) {
        drop(self.stop);
        self.serving.await.expect("serving did not panic").expect("serving ended well");
    }
}

fn exact() -> Settings {
    Settings { total: Total::Exact, ..Settings::default() }
}

/// Probes in one life, and gives how often the server was probed once another life after `between` has exported.
async fn probed_by_two_lives(store: Option<JobStore>, between: fn(&World)) -> usize {
    let world = World::new(3, exact(), store).await;
    let life = world.begin(|_| {}).await;
    life.export().await;
    life.end().await;
    assert_eq!(world.probed(), 1, "once for the start and the export together");
    between(&world);
    let life = world.begin(|_| {}).await;
    life.export().await;
    life.end().await;
    let probed = world.probed();
    world.end().await;
    probed
}

#[tokio::test]
async fn a_restart_does_not_probe_again_whatever_the_store_is() {
    assert_eq!(probed_by_two_lives(Some(JobStore::memory()), |_| {}).await, 1);
    assert_eq!(probed_by_two_lives(None, |_| {}).await, 1);
}

#[tokio::test]
async fn a_restart_probes_again_once_what_was_found_has_expired() {
    let nearly = probed_by_two_lives(None, |world| world.clock.advance(Duration::from_mins(23 * 60 + 59)));
    assert_eq!(nearly.await, 1);
    assert_eq!(probed_by_two_lives(None, |world| world.clock.advance(DAY)).await, 2);
}

#[tokio::test]
async fn a_restart_probes_again_where_the_server_is_another_one() {
    let upgraded = |world: &World| world.upstream.update_settings(|settings| settings.version = "2.0.0".to_owned());
    assert_eq!(probed_by_two_lives(None, upgraded).await, 2);
    let replaced = |world: &World| world.upstream.update_settings(|settings| settings.software = "other".to_owned());
    assert_eq!(probed_by_two_lives(Some(JobStore::memory()), replaced).await, 2);
}

/// The capability statement is read again after ten minutes.
#[tokio::test]
async fn a_server_that_is_upgraded_is_probed_again_without_a_restart() {
    let world = World::new(3, exact(), Some(JobStore::memory())).await;
    let life = world.begin(|_| {}).await;
    life.export().await;
    world.clock.advance(Duration::from_mins(11));
    life.export().await;
    assert_eq!(world.probed(), 1, "nothing has changed");
    world.upstream.update_settings(|settings| {
        settings.version = "2.0.0".to_owned();
        settings.lies.bounds = sample_upstream::Bounds::WholeSeconds;
    });
    world.clock.advance(Duration::from_mins(11));
    life.export().await;
    assert_eq!(world.probed(), 2);
    life.end().await;
    world.end().await;
}

/// Where there was nothing to try anything on, the next export tries.
#[tokio::test]
async fn what_had_no_witness_is_tried_again_by_the_next_export() {
    let world = World::new(0, exact(), None).await;
    let life = world.begin(|_| {}).await;
    life.export().await;
    assert_eq!(world.probed(), 0, "there is nothing to try it on");
    world.upstream.generate(3);
    let manifest = life.export().await;
    assert!(manifest.output.iter().any(|file| file.count > 0));
    assert_eq!(world.probed(), 1);
    let proof = &manifest.whole["extension"]["https://offtake.dev/proof"]["Observation"];
    assert_eq!(proof["method"], "counted", "{proof}");
    life.export().await;
    life.end().await;
    let life = world.begin(|_| {}).await;
    life.export().await;
    assert_eq!(world.probed(), 1, "all of it was tried");
    life.end().await;
    world.end().await;
}

#[tokio::test]
async fn the_server_is_probed_before_anybody_asks_unless_that_is_not_wanted() {
    let world = World::new(3, exact(), Some(JobStore::memory())).await;
    let life = world.begin(|_| {}).await;
    world.until_probed(1).await;
    life.end().await;
    world.end().await;
    let world = World::new(3, exact(), Some(JobStore::memory())).await;
    let life = world.begin(|config| config.upstream.probe_on_start = false).await;
    life.export().await;
    assert_eq!(world.probed(), 1, "the first export does it");
    let first = world.upstream.requests().into_iter().next().expect("the export asked");
    assert!(first.path.ends_with("/metadata"), "nothing was asked before the kick-off: {}", first.query);
    life.end().await;
    world.end().await;
}

/// All of a kick-off's own questions come after the one probing that it waits for.
#[tokio::test]
async fn exports_that_are_kicked_off_at_the_start_share_one_probing() {
    let settings = Settings { latency: Duration::from_millis(15), ..exact() };
    let world = World::new(3, settings, Some(JobStore::memory())).await;
    let life = world.begin(|_| {}).await;
    let (first, second, third) = tokio::join!(life.export(), life.export(), life.export());
    for manifest in [first, second, third] {
        assert!(!manifest.output.is_empty());
    }
    assert_eq!(world.probed(), 1);
    life.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_probed_once_it_is_back() {
    let world = World::new(3, exact(), Some(JobStore::memory())).await;
    world.upstream.away_when(|seen| seen.path.ends_with("/metadata"), Duration::from_millis(300));
    let life = world.begin(|_| {}).await;
    until("the server is probed", PATIENCE, || {
        world.clock.advance(Duration::from_millis(500));
        world.probed() > 0
    })
    .await;
    life.end().await;
    world.end().await;
}

/// Care for the server holds for probes too, and ordinary traffic waits for none of them.
#[tokio::test]
async fn quiet_hours_are_kept_by_probes() {
    let world = World::new(3, exact(), Some(JobStore::memory())).await;
    let life = world
        .begin(|config| {
            let quiet = json!({ "windows": [
                { "from": "00:00", "until": "12:00", "max_concurrent_searches": 0 },
                { "from": "12:00", "until": "00:00", "max_concurrent_searches": 0 },
            ] });
            config.upstream.quiet_hours = serde_json::from_value(quiet).expect("quiet hours");
        })
        .await;
    let client = Client::new();
    for _ in 0..20 {
        let status = client.kick_off(&format!("{}/$export", life.base)).await.expect("it is accepted");
        client.poll(&status).await.expect("an answer");
    }
    let asked = world.upstream.requests();
    assert!(asked.iter().all(|seen| seen.path.ends_with("/metadata")), "{} requests", asked.len());
    life.end().await;
    world.end().await;
}

/// An operator's word goes before what was found, also over what a life before has kept.
#[tokio::test]
async fn what_is_kept_is_what_was_found_and_an_operator_can_change_what_is_made_of_it() {
    let world = World::new(3, exact(), None).await;
    let life = world.begin(|_| {}).await;
    life.export().await;
    life.end().await;
    let with = |profile: serde_json::Value| {
        move |config: &mut Config| config.upstream.profile = serde_json::from_value(profile).expect("lines")
    };
    let method =
        |manifest: &Manifest| manifest.whole["extension"]["https://offtake.dev/proof"]["Observation"]["method"].clone();
    let life = world.begin(with(json!({ "counts": "none", "page_total": "none", "strict": "refused" }))).await;
    let before = world.upstream.requests().len();
    assert_eq!(method(&life.export().await), "reread");
    let prefers = world.upstream.requests()[before..].iter().any(|seen| seen.headers.contains_key("prefer"));
    assert!(!prefers, "nothing is preferred of a server that is known to refuse it");
    life.end().await;
    let life = world.begin(|_| {}).await;
    assert_eq!(method(&life.export().await), "counted", "the findings were kept as they were found");
    assert_eq!(world.probed(), 1);
    life.end().await;
    world.end().await;
}

#[tokio::test]
async fn compressed_answers_are_asked_for_unless_an_operator_says_otherwise() {
    for (profile, expected) in [(json!({}), Some("gzip")), (json!({ "gzip": false }), Some("identity"))] {
        let upstream = SampleUpstream::new(exact());
        upstream.generate(2);
        let app = App::before(upstream, |config| {
            config.upstream.profile = serde_json::from_value(profile.clone()).expect("lines");
        })
        .await;
        app.export_exactly("/$export").await.expect("an exact export");
        for seen in app.upstream.requests() {
            let encoding = seen.headers.get("accept-encoding").and_then(|value| value.to_str().ok());
            assert_eq!(encoding, expected, "{profile} {}", seen.path);
        }
        app.stop().await;
    }
}

/// What a server does with parameters that it does not know, and with `Prefer` itself, breaks nothing.
#[tokio::test]
async fn strict_handling_is_asked_for_only_where_that_is_not_refused() {
    for handling in [Handling::Strict, Handling::AsPreferred, Handling::Lenient, Handling::PreferRefused] {
        let upstream = SampleUpstream::new(Settings { lies: Lies { handling, ..Lies::default() }, ..exact() });
        upstream.generate(3);
        let app = App::before(upstream, |_| {}).await;
        for level in ["/$export", "/Group/all/$export"] {
            app.export_exactly(level).await.unwrap_or_else(|error| panic!("{handling:?}: {error:#}"));
        }
        let seen = app.upstream.requests();
        let reads = seen.iter().filter(|seen| seen.query.contains("_count=1000"));
        let (with, without): (Vec<_>, Vec<_>) = reads.partition(|seen| seen.headers.contains_key("prefer"));
        let (expected, other) = if handling == Handling::PreferRefused { (without, with) } else { (with, without) };
        assert!(!expected.is_empty() && other.is_empty(), "{handling:?}: {} and {}", expected.len(), other.len());
        app.stop().await;
    }
}
