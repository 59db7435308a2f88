//! A disk that is full, and a storage that fails now and then (SEC-45): exports pause by name and go on by themselves.

mod output;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use futures_util::StreamExt;
use offtake::testing::{FullPoint, JobStore, ManualClock};
use offtake::{Clock, Offtake, SystemClock};
use sample_upstream::{Running, SampleUpstream, Settings};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Client, Poll};
use crate::exact::{self, files_below};
use crate::expected;
use crate::raw::{self, KICKOFF};
use crate::support::{config, listener};
use output::{Failing, Verdict, busy, full};

const PATH: &str = "/$export?_type=Patient,Encounter,Observation";
/// Places that are tried at the same time.
const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_mins(1);

/// An Offtake by a clock that moves only when it is told to, on a store and an output of which writes fail.
struct World {
    upstream: SampleUpstream,
    server: Running,
    clock: Arc<ManualClock>,
    base: String,
    folder: TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl World {
    async fn new(store: JobStore, verdict: Arc<Verdict>) -> anyhow::Result<Self> {
        let upstream = SampleUpstream::new(Settings { max_count: Some(20), ..Settings::default() });
        upstream.generate(3);
        let server = upstream.serve(listener().await).await;
        let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
        let folder = tempfile::tempdir()?;
        let listener = listener().await;
        let base = format!("http://{}/fhir", listener.local_addr()?);
        let mut config = config(&server.base_url, &base, folder.path());
        config.output.file_max_resources = 25;
        let offtake = Offtake::builder(config)
            .clock(clock.clone())
            .store(store)
            .output_through(move |below| Arc::new(Failing::new(below, verdict)))
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        Ok(Self { upstream, server, clock, base, folder, stop, serving })
    }

    async fn end(self) {
        drop(self.stop);
        self.serving.await.expect("serving did not panic").expect("serving ended well");
        self.server.stop().await;
    }

    fn files(&self) -> anyhow::Result<Vec<String>> {
        files_below(&self.folder.path().join("output"))
    }

    /// Moves the clock on until something is so.
    async fn until<T>(
        &self,
        step: Duration,
        mut is_so: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = is_so().await? {
                return Ok(found);
            }
            ensure!(tokio::time::Instant::now() < deadline, "waited in vain; on disk {:?}", self.files()?);
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.clock.advance(step);
        }
    }

    /// Waits for the end of an export, and fails unless it is exact and nothing else is left of it.
    async fn check(&self, status: &str, step: Duration) -> anyhow::Result<()> {
        let client = Client::new();
        let manifest = self
            .until(step, async || {
                Ok(match client.poll(status).await? {
                    Poll::Complete(manifest) => Some(manifest),
                    Poll::Running(_) => None,
                    Poll::Other(code, said) => anyhow::bail!("the export ended with {code}: {said}"),
                })
            })
            .await?;
        let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for file in &manifest.output {
            received.entry(file.resource_type.clone()).or_default().extend(client.download(&file.url).await?);
        }
        let difference = expected::compare(&expected::of(&self.upstream, PATH), &received)?;
        ensure!(difference.is_none(), "{difference}");
        exact::check_folder(&self.folder.path().join("output"), &manifest)
    }

    async fn delete(&self, status: &str) -> anyhow::Result<()> {
        let client = Client::new();
        client.delete(status).await?;
        let poll = client.poll(status).await?;
        ensure!(matches!(poll, Poll::Other(code, _) if code == 404), "{poll:?}");
        self.until(Duration::ZERO, async || Ok(self.files()?.is_empty().then_some(()))).await
    }
}

/// What becomes of an export that has no room.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    RoomIsMade,
    /// While there is still none.
    Deleted,
}

/// Full at one write: paused by name, no search and no other harm until there is room; then exact by itself.
async fn full_at(at: usize, then: Then) -> anyhow::Result<()> {
    let point = Arc::new(FullPoint::new(Some(at)));
    let verdict = {
        let point = Arc::clone(&point);
        move |_write: &'static str| if point.takes() { Ok(()) } else { Err(full()) }
    };
    let world = World::new(JobStore::memory().on(&point), Arc::new(verdict)).await?;
    let (client, host) = (Client::new(), world.base.trim_start_matches("http://").trim_end_matches("/fhir").to_owned());
    let ask = async |method: &str, target: &str| {
        raw::ask(&host, &raw::request(method, &format!("/fhir{target}"), &host, &KICKOFF, b"")).await
    };
    // The first write of all says whose the output is: before that a kick-off waits for a while.
    let ticking = Arc::clone(&world.clock);
    let kick_off = async || {
        let tick = async {
            for _ in 0..if at == 1 { 10 } else { 0 } {
                tokio::time::sleep(Duration::from_millis(20)).await;
                ticking.advance(Duration::from_secs(1));
            }
        };
        tokio::join!(ask("GET", PATH), tick).0
    };
    let mut kickoff = kick_off().await;
    if kickoff.status == 503 {
        kickoff.assert_refused("a kick-off that has no room", 503, "transient", None);
        let text = kickoff.json()["issue"][0]["diagnostics"].as_str().unwrap_or_default().to_owned();
        let expected = ["the job store cannot be used at the moment", "the disk of the job store is full"];
        ensure!(text == expected[usize::from(at > 1)], "{text}");
        ensure!(ask("GET", "/Patient?_count=1").await.status == 200, "requests pass through");
        point.make_room();
        // An output that could not be marked is tried again every five seconds.
        for _ in 0..20 {
            kickoff = kick_off().await;
            if kickoff.status == 202 {
                break;
            }
        }
        ensure!(kickoff.status == 202, "{}", kickoff.status);
        world.check(kickoff.header("content-location"), Duration::ZERO).await?;
        world.end().await;
        return Ok(());
    }
    let status = kickoff.header("content-location").to_owned();
    // The clock stands: not even five seconds pass.
    world
        .until(Duration::ZERO, async || {
            let poll = client.poll(&status).await?;
            let Poll::Running(text) = poll else { anyhow::bail!("never paused: {poll:?}") };
            Ok(text.starts_with("paused: storage-full; ").then_some(()))
        })
        .await?;
    ensure!(point.is_full(), "it is paused without a reason");
    let asked = world.upstream.requests().len();
    for _ in 0..5 {
        world.clock.advance(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(4)).await;
        let Poll::Running(text) = client.poll(&status).await? else { anyhow::bail!("not running") };
        ensure!(text.starts_with("paused: storage-full; "), "{text}");
    }
    ensure!(world.upstream.requests().len() == asked, "there are searches all the same");
    ensure!(ask("GET", "/Patient?_count=1").await.status == 200, "requests pass through");
    match then {
        Then::Deleted => world.delete(&status).await?,
        Then::RoomIsMade => {
            point.make_room();
            world.check(&status, Duration::from_millis(100)).await?;
            world.delete(&status).await?;
        }
    }
    world.end().await;
    Ok(())
}

/// SEC-45, at each write of the store and of the output in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_any_write_pauses_an_export_and_loses_nothing() {
    let point = Arc::new(FullPoint::new(None));
    let counting = Arc::clone(&point);
    let verdict = Arc::new(move |_write: &'static str| if counting.takes() { Ok(()) } else { Err(full()) });
    let world = World::new(JobStore::memory().on(&point), verdict).await.expect("a world");
    let status = Client::new().kick_off(&format!("{}{PATH}", world.base)).await.expect("a kick-off");
    world.check(&status, Duration::ZERO).await.expect("an undisturbed export");
    world.end().await;
    let writes = point.writes();
    assert!(writes > 20, "{writes} writes");
    let places = (1..=writes).map(|at| (at, if at % 3 == 0 { Then::Deleted } else { Then::RoomIsMade }));
    let tried = futures_util::stream::iter(places).map(async |(at, then)| (at, then, full_at(at, then).await));
    let tried: Vec<_> = tried.buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<_> = tried.iter().filter_map(|(at, then, ended)| Some((at, then, ended.as_ref().err()?))).collect();
    assert!(failed.is_empty(), "{} of {writes}: {failed:#?}", failed.len());
    println!("paused and exact, or deleted, at each of {writes} writes");
}

/// The output has room: it is not asked over and over for what the job store lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_store_that_is_full_is_waited_for_without_a_write_to_the_output() {
    // The job, its lease and its plan have room, and the first file has none.
    let point = Arc::new(FullPoint::new(Some(4)));
    let puts = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&puts);
    let verdict = move |_write: &'static str| {
        counting.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let world = World::new(JobStore::memory().on(&point), Arc::new(verdict)).await.expect("a world");
    let client = Client::new();
    let status = client.kick_off(&format!("{}{PATH}", world.base)).await.expect("a kick-off");
    let paused = world.until(Duration::ZERO, async || {
        let poll = client.poll(&status).await?;
        Ok(matches!(poll, Poll::Running(text) if text.starts_with("paused: storage-full; ")).then_some(()))
    });
    paused.await.expect("it is paused");
    let (before, tries) = (puts.load(Ordering::SeqCst), point.writes());
    let tried = world.until(Duration::from_secs(1), async || Ok((point.writes() > tries + 5).then_some(())));
    tried.await.expect("it tries to go on");
    assert_eq!(puts.load(Ordering::SeqCst), before, "writes to the output");
    point.make_room();
    world.check(&status, Duration::from_millis(100)).await.expect("an exact export");
    world.end().await;
}

/// One write of ten fails; the export only takes longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_that_answers_one_write_of_ten_with_503_costs_time_only() {
    for offset in 0..4 {
        let (writes, failed) = (AtomicUsize::new(offset), Arc::new(AtomicUsize::new(0)));
        let failures = Arc::clone(&failed);
        let verdict = move |write: &'static str| {
            if write == "put" || writes.fetch_add(1, Ordering::SeqCst) % 10 != 9 {
                return Ok(());
            }
            failures.fetch_add(1, Ordering::SeqCst);
            Err(busy())
        };
        let world = World::new(JobStore::memory(), Arc::new(verdict)).await.expect("a world");
        let status = Client::new().kick_off(&format!("{}{PATH}", world.base)).await.expect("a kick-off");
        world.check(&status, Duration::from_millis(50)).await.expect("an export");
        assert!(failed.load(Ordering::SeqCst) > 0, "nothing failed");
        world.delete(&status).await.expect("nothing is left");
        world.end().await;
    }
}
