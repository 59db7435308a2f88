//! The built program against a storage that stalls, or refuses one write of ten: what waits is not piled up in memory, the
//! server is left alone meanwhile, and nobody has to help afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sample_upstream::{SampleUpstream, Settings};

use crate::between::Between;
use crate::client::{Client, Manifest, Poll};
use crate::expected::compact;
use crate::live::{self, Live};
use crate::process::Process;
use crate::storage::{Storage, given, variable};
use crate::support::World;

/// Most memory of the process, whatever the storage does. Code that is not optimized is 27 MB longer, and its pages count.
const MOST_MEMORY: u64 = if cfg!(debug_assertions) { 177_000_000 } else { 150_000_000 };
/// How long the storage stalls, in seconds, unless `OFFTAKE_CLOUDS_STALL` says otherwise.
const STALL: u64 = 15;
/// How long searches may go on after the storage has stalled.
const SEARCHES: Duration = Duration::from_secs(5);
/// Reads of the server take so long at most in one of a hundred cases, or twice as long as without exports.
const SLOW: Duration = Duration::from_millis(100);
/// How long an export may take besides: on a machine that does much else.
const LONGEST: Duration = Duration::from_mins(5);

/// Bytes of one resource.
const BYTES: usize = 1_000_000;

/// Resources of a megabyte each.
fn large(count: usize) -> anyhow::Result<SampleUpstream> {
    // Packing would take longest of all.
    let upstream = SampleUpstream::new(Settings { gzip: false, ..Settings::default() });
    live::prepare(&upstream)?;
    for number in 0..count {
        let data = format!("{number:04}").repeat(BYTES / 4);
        upstream.insert_raw(&format!(
            r#"{{"resourceType":"DocumentReference","id":"d{number}","status":"current","subject":{{"reference":"Patient/live"}},"content":[{{"attachment":{{"data":"{data}"}}}}]}}"#
        ))?;
    }
    Ok(upstream)
}

const PATH: &str = "/$export";

/// Far more is still to be read than would fit into memory.
pub(crate) async fn is_outlasted(storage: &Storage) -> anyhow::Result<()> {
    let stall = match given("OFFTAKE_CLOUDS_STALL") {
        Some(seconds) => seconds.parse().context("OFFTAKE_CLOUDS_STALL is a number of seconds")?,
        None => STALL,
    };
    let stall = Duration::from_secs(stall);
    let (world, between) = behind(storage, large(180)?, |part| part == 5, |_| false).await?;
    let process = Process::start(Vec::new(), |base| world.yaml(base, "")).await?;
    let mut live = Live::through(&process.base);
    live::settled(&world.upstream).await?;
    for _ in 0..150 {
        live.read().await?;
    }
    let (idle, _) = live.p99();
    let client = Client::new();
    let status = client.kick_off(&format!("{}{PATH}", process.base)).await?;
    tokio::time::timeout(LONGEST, between.stalls()).await.context("the storage never stalled")??;

    let (began, mut quiet_since) = (Instant::now(), Instant::now());
    let mut asked = live::searches(&world.upstream);
    while began.elapsed() < stall {
        live.read().await?;
        let now = live::searches(&world.upstream);
        if now != asked {
            (asked, quiet_since) = (now, Instant::now());
        }
    }
    let searched = quiet_since - began;
    let (stalled, reads) = live.p99();
    let memory = process.peak_memory()?;
    let poll = client.poll(&status).await?;
    ensure!(matches!(poll, Poll::Running(_)), "an export in a stall: {poll:?}");
    between.go_on();

    let manifest = ended(&client, &status, &process).await?;
    let peak = process.peak_memory()?;
    println!(
        "a stall of {stall:?}: searches for {searched:.1?} more, p99 of {reads} reads {stalled:.1?} ({idle:.1?} when idle), \
         VmHWM {} MB after it and {} MB in the end",
        memory / 1_000_000,
        peak / 1_000_000
    );
    let left = live::searches(&world.upstream) - asked;
    ensure!(left > 20, "only {left} searches were left: it proves little");
    ensure!(searched <= SEARCHES, "searches went on for {searched:?}");
    ensure!(stalled <= SLOW.max(2 * idle), "reads took {stalled:?} in a stall and {idle:?} without exports");
    ensure!(peak <= MOST_MEMORY, "VmHWM is {peak}");
    finish(world, &client, &status, &manifest).await
}

/// 503 to one part of ten, and to one object of ten.
pub(crate) async fn refusals_cost_time_only(storage: &Storage) -> anyhow::Result<()> {
    let upstream = large(60)?;
    // Every type is a file of its own.
    upstream.generate(2);
    let (world, between) = behind(storage, upstream, |_| false, |write| write % 10 == 1).await?;
    let process = Process::start(Vec::new(), |base| world.yaml(base, "file_max_resources: 6")).await?;
    let client = Client::new();
    let status = client.kick_off(&format!("{}{PATH}", process.base)).await?;
    let manifest = ended(&client, &status, &process).await?;
    let peak = process.peak_memory()?;
    let (parts, objects) = (between.parts(), between.objects());
    println!("503 to one of ten: parts {parts:?}, objects {objects:?}, VmHWM {} MB", peak / 1_000_000);
    for writes in [parts, objects] {
        ensure!(writes.refused.load(Ordering::SeqCst) > 1, "too little was refused");
    }
    ensure!(peak <= MOST_MEMORY, "VmHWM is {peak}");
    finish(world, &client, &status, &manifest).await
}

/// A world whose storage is reached through something.
async fn behind(
    storage: &Storage,
    upstream: SampleUpstream,
    stalls: fn(usize) -> bool,
    refuses: fn(usize) -> bool,
) -> anyhow::Result<(World<'_>, Between)> {
    let endpoint = variable("OFFTAKE_S3_ENDPOINT");
    let between = Between::before(endpoint.trim_start_matches("http://"), stalls, refuses).await?;
    let mut world = World::of(storage, upstream).await?;
    world.output = world.output.replace(&endpoint, &between.endpoint);
    Ok((world, between))
}

async fn ended(client: &Client, status: &str, process: &Process) -> anyhow::Result<Manifest> {
    let ended = tokio::time::timeout(LONGEST, client.wait(status, |_| {})).await;
    ended.context("the export does not end").flatten().with_context(|| process.log())
}

/// Fails unless the export is exact and, once it is deleted, nothing is left of it.
async fn finish(world: World<'_>, client: &Client, status: &str, manifest: &Manifest) -> anyhow::Result<()> {
    let named = |stored: sample_upstream::Stored| (format!("{}/{}", stored.resource_type, stored.id), stored.body);
    let mut expected: BTreeMap<_, _> = world.upstream.resources(None).into_iter().map(named).collect();
    for file in &manifest.output {
        let answer = world.storage.fetch(&file.url).await?;
        ensure!(answer.status == 200, "a download was answered with {}", answer.status);
        for line in std::str::from_utf8(&answer.body)?.lines() {
            let id = line.split(r#""id":""#).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            let body = expected.remove(&format!("{}/{id}", file.resource_type));
            let body = body.with_context(|| format!("{id} came twice, or is not there"))?;
            // Most have no white space to begin with.
            ensure!(*body == *line || compact(&body) == line, "{id} did not come as it is");
        }
    }
    ensure!(expected.is_empty(), "{} did not come", expected.len());
    client.delete(status).await?;
    world.is_empty().await?;
    world.end().await;
    Ok(())
}
