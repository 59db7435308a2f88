//! The built program on a disk of 16 MiB that is filled, by itself or by somebody else, with its files and its jobs on it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use sample_upstream::{Running, SampleUpstream, Settings};
use tokio::net::TcpListener;

use crate::client::{Client, Manifest, Poll};
use crate::disk::{self, Disk};
use crate::expected;
use crate::exports::{OF_LARGE, large_of, various};
use crate::live::{self, Live};
use crate::process::Process;
use crate::storage::Storage;
use crate::support::{PATIENCE, until};

/// How soon a job that has no room says so.
const PAUSED_WITHIN: Duration = Duration::from_secs(5);
/// How long the server is watched then.
const QUIET: Duration = Duration::from_secs(2);
/// Less than this does not take the next part of a file.
const PART: u64 = 5 * 1024 * 1024;
/// More lines of a ledger than a block of a file system has room for.
const LINES_OF_A_BLOCK: usize = 4096 / 64;
/// Places that are tried at the same time.
const AT_ONCE: usize = 6;

const PATH: &str = "/$export?_type=Patient,Encounter,Observation";
const ONE_FILE: &str = "/$export?_type=Observation";
const FEW: &str = "/$export?_type=Patient";

/// A process whose files and jobs are on a small disk.
struct World {
    upstream: SampleUpstream,
    server: Running,
    process: Process,
    disk: Disk,
    client: Client,
}

impl World {
    async fn new(upstream: SampleUpstream) -> anyhow::Result<Self> {
        Self::with_files_of(25, upstream).await
    }

    /// With files of so many resources.
    async fn with_files_of(most: usize, upstream: SampleUpstream) -> anyhow::Result<Self> {
        live::prepare(&upstream)?;
        let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
        let disk = Disk::mount()?;
        let folder = disk.inside();
        let process = Process::start(disk.enter(), |base| {
            format!(
                "server: {{ public_base_url: '{base}', listen: '{}' }}\n\
                 upstream: {{ base_url: '{}', max_concurrent_searches: 1 }}\nstore: {{ path: '{folder}/state' }}\n\
                 output: {{ location: 'file://{folder}/output', min_free_bytes: 0, file_max_resources: {most} }}\n",
                base.trim_start_matches("http://").trim_end_matches("/fhir"),
                server.base_url,
            )
        });
        let process = process.await?;
        Ok(Self { upstream, server, process, disk, client: Client::new() })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.process.base)
    }

    fn searches(&self) -> usize {
        live::searches(&self.upstream)
    }

    /// Waits for the end of an export, and fails unless it is exact.
    async fn is_exact(&self, path: &str, status: &str) -> anyhow::Result<Manifest> {
        let ended = tokio::time::timeout(PATIENCE, self.client.wait(status, |_| {})).await;
        let manifest = ended.context("the export does not end")??;
        self.holds(path, &manifest).await?;
        Ok(manifest)
    }

    /// Fails unless exactly what `path` asks for can be had.
    async fn holds(&self, path: &str, manifest: &Manifest) -> anyhow::Result<()> {
        let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for file in &manifest.output {
            received.entry(file.resource_type.clone()).or_default().extend(self.client.download(&file.url).await?);
        }
        let difference = expected::compare(&expected::of(&self.upstream, path), &received)?;
        ensure!(difference.is_none(), "{path}:\n{difference}");
        Ok(())
    }

    /// Waits until an export says that it has no room, and then watches that it asks for nothing while requests pass through.
    async fn is_paused(&self, status: &str, full_since: Instant, quiet: Duration) -> anyhow::Result<Duration> {
        until("it is paused", PATIENCE, async || self.says_that_it_is_paused(status).await).await?;
        let took = full_since.elapsed();
        let mut live = Live::through(&self.process.base);
        live::alone(&mut live, &self.upstream, quiet).await?;
        self.says_that_it_is_paused(status).await?;
        ensure!(took <= PAUSED_WITHIN, "it said only after {took:?} that it is paused");
        Ok(took)
    }

    async fn says_that_it_is_paused(&self, status: &str) -> anyhow::Result<()> {
        match self.client.poll(status).await? {
            Poll::Running(text) if text.starts_with("paused: storage-full; ") => Ok(()),
            other => bail!("it is {other:?}"),
        }
    }

    async fn delete(&self, status: &str) -> anyhow::Result<()> {
        self.client.delete(status).await?;
        let poll = self.client.poll(status).await?;
        ensure!(matches!(poll, Poll::Other(code, _) if code == 404), "{poll:?}");
        Ok(())
    }

    /// SIGKILL and another life, in which the job is known.
    async fn die(&mut self, status: &str) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.restart()?;
        until("the job is known", PATIENCE, async || match self.client.poll(status).await? {
            Poll::Running(_) => Ok(()),
            other => bail!("it is {other:?}"),
        })
        .await
    }

    /// Kicks off as soon as there is room for it, and waits for the end.
    async fn export(&self, path: &str) -> anyhow::Result<Manifest> {
        let kicked_off = OnceLock::new();
        until("it is taken", PATIENCE, async || {
            let status = self.client.kick_off(&self.url(path)).await?;
            let _first = kicked_off.set(status);
            Ok(())
        })
        .await?;
        self.is_exact(path, kicked_off.get().context("it was kicked off")?).await
    }
}

/// More than fits: it says so, the server is left alone, and once it is deleted there is room for others.
pub(crate) async fn by_itself(_disk: &Storage) -> anyhow::Result<()> {
    let upstream = large_of(various);
    // Packing would take longest of all.
    upstream.update_settings(|settings| settings.gzip = false);
    let world = World::new(upstream).await?;
    match more_than_fits(&world).await {
        Ok(took) => println!("more than fits: paused within {took:.1?}"),
        Err(error) => return Err(error.context(world.process.log())),
    }
    world.server.stop().await;
    Ok(())
}

async fn more_than_fits(world: &World) -> anyhow::Result<Duration> {
    world.export(FEW).await?;
    live::settled(&world.upstream).await?;
    let empty = world.disk.free()?;
    let status = world.client.kick_off(&world.url(OF_LARGE)).await?;
    let full_since = OnceLock::new();
    until("the disk is full", PATIENCE, async || {
        let is_full = world.disk.free()? < PART || world.says_that_it_is_paused(&status).await.is_ok();
        ensure!(is_full, "there is room");
        let _first = full_since.set(Instant::now());
        Ok(())
    })
    .await?;
    let full_since = *full_since.get().context("it is full")?;
    // What it has written in vain is removed; the same shall not be read again for that.
    let took = world.is_paused(&status, full_since, 3 * QUIET).await?;
    world.delete(&status).await?;
    until("the room is free again", PATIENCE, async || {
        let free = world.disk.free()?;
        ensure!(free + 1024 * 1024 > empty, "{free} of {empty}");
        Ok(())
    })
    .await?;
    world.export(FEW).await?;
    Ok(took)
}

/// A server from which little comes: the disk is looked at, though nothing is written for a long time.
pub(crate) async fn while_it_waits(_disk: &Storage) -> anyhow::Result<()> {
    let upstream = small();
    upstream.generate(9);
    let world = World::with_files_of(1_000, upstream).await?;
    let took = filled_while_it_waits(&world).await.with_context(|| world.process.log())?;
    println!("filled while little was read: paused within {took:.1?}");
    world.server.stop().await;
    Ok(())
}

async fn filled_while_it_waits(world: &World) -> anyhow::Result<Duration> {
    world.export(FEW).await?;
    live::settled(&world.upstream).await?;
    let pace = |bytes| world.upstream.update_settings(|settings| settings.bytes_per_second = bytes);
    pace(Some(5_000));
    let status = world.client.kick_off(&world.url(ONE_FILE)).await?;
    // By then the file is open, and it is written once it is full.
    until("it reads", PATIENCE, async || match world.client.poll(&status).await? {
        Poll::Running(text) if text.starts_with("reading, ") && !text.contains("(0 of") => Ok(()),
        other => bail!("it is {other:?}"),
    })
    .await?;
    pace(Some(1_000));
    disk::fill(&world.disk.filler())?;
    let full_since = Instant::now();
    until("it is paused", PATIENCE, async || world.says_that_it_is_paused(&status).await).await?;
    let took = full_since.elapsed();
    ensure!(took <= PAUSED_WITHIN, "it said only after {took:?} that it is paused");
    pace(None);
    // Whoever made room at once would be taken for the export itself.
    live::alone(&mut Live::through(&world.process.base), &world.upstream, QUIET).await?;
    world.disk.make_room()?;
    world.is_exact(ONE_FILE, &status).await?;
    Ok(took)
}

/// What becomes of an export while there is no room.
#[derive(Debug, Clone, Copy)]
enum Then {
    RoomIsMade,
    Deleted,
    Killed,
}

fn small() -> SampleUpstream {
    let upstream = SampleUpstream::new(Settings { max_count: Some(20), ..Settings::default() });
    upstream.generate(3);
    upstream
}

/// Filled by another program before a kick-off, and at a dozen moments of an export from its first search to its last.
pub(crate) async fn by_others(_disk: &Storage) -> anyhow::Result<()> {
    let world = World::new(small()).await?;
    world.export(FEW).await?;
    live::settled(&world.upstream).await?;
    let before = world.searches();
    world.export(PATH).await?;
    let searches = world.searches() - before;
    ensure!(searches > 24, "only {searches} searches");
    let moments: Vec<_> = (1..=12).map(|twelfth| (searches * twelfth / 12).max(1)).collect();
    filled_before(&world).await.with_context(|| world.process.log()).context("filled before a kick-off")?;
    world.server.stop().await;

    let thens = [Then::RoomIsMade, Then::Deleted, Then::Killed];
    let tries = moments.into_iter().zip(thens.into_iter().cycle());
    let tried = futures_util::stream::iter(tries).map(async |(moment, then)| {
        let took = filled_at(moment, then).await;
        took.with_context(|| format!("filled at search {moment} of {searches}, then {then:?}"))
    });
    let tried: Vec<_> = tried.buffer_unordered(AT_ONCE).collect().await;
    let tried = tried.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let slowest = tried.iter().max().copied().unwrap_or_default();
    println!("filled at {} moments of {searches} searches: paused within {slowest:.1?}", tried.len());
    Ok(())
}

/// Nothing is taken that could not be kept; what was taken before stays.
async fn filled_before(world: &World) -> anyhow::Result<()> {
    let kept = world.export(FEW).await?;
    disk::fill(&world.disk.filler())?;
    let refused = world.client.kick_off(&world.url(FEW)).await;
    ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains("503")), "{refused:?}");
    live::alone(&mut Live::through(&world.process.base), &world.upstream, QUIET).await?;
    // Nothing leaves that cannot be recorded. The ledger is on the same disk here, and what its last block still has room
    // for is recorded.
    let mut refused = Ok(());
    for _ in 0..LINES_OF_A_BLOCK {
        refused = world.holds(FEW, &kept).await;
        if refused.is_err() {
            break;
        }
    }
    ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains("503")), "{refused:?}");
    world.disk.make_room()?;
    until("it is had again", PATIENCE, async || world.holds(FEW, &kept).await).await?;
    world.export(FEW).await.map(drop)
}

/// Filled at a search: how soon it was said.
async fn filled_at(moment: usize, then: Then) -> anyhow::Result<Duration> {
    let mut world = World::new(small()).await?;
    let took = filled_in(&mut world, moment, then).await;
    let took = took.with_context(|| world.process.log())?;
    world.server.stop().await;
    Ok(took)
}

async fn filled_in(world: &mut World, moment: usize, then: Then) -> anyhow::Result<Duration> {
    let first = world.client.kick_off(&world.url(FEW)).await?;
    world.is_exact(FEW, &first).await?;
    live::settled(&world.upstream).await?;
    let full_since = Arc::new(OnceLock::new());
    let (filler, full) = (world.disk.filler(), Arc::clone(&full_since));
    live::at_search(&world.upstream, moment, move || {
        disk::fill(&filler).expect("it can be filled");
        let _first = full.set(Instant::now());
    });
    let status = world.client.kick_off(&world.url(PATH)).await?;
    until("the disk is filled", PATIENCE, async || full_since.get().map(drop).context("not yet")).await?;
    let full_since = *full_since.get().context("it is full")?;
    let took = world.is_paused(&status, full_since, QUIET).await?;
    match then {
        Then::RoomIsMade => {
            world.disk.make_room()?;
            world.is_exact(PATH, &status).await?;
        }
        Then::Deleted => {
            world.delete(&status).await?;
            world.disk.make_room()?;
            world.export(PATH).await?;
        }
        Then::Killed => {
            world.die(&status).await?;
            // The one that had ended before is known, too.
            world.is_exact(FEW, &first).await?;
            world.is_paused(&status, Instant::now(), QUIET).await?;
            world.disk.make_room()?;
            world.is_exact(PATH, &status).await?;
        }
    }
    world.is_exact(FEW, &first).await?;
    Ok(took)
}
