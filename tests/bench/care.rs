//! How the upstream is spared, measured:
//!
//! ```text
//! cargo bench --locked --bench care -- [ceilings] [yielding] [--pairs N] [--ceiling N] [--verbose]
//! ```
//!
//! * `ceilings`: one type holds all data and each search takes 50 ms. With ceilings of 4 and 16 searches at once an
//!   export has to be at least 3.4 and 12 times as fast as with one.
//! * `yielding`: the server has 8 slots and takes 20 ms, and 5 reads a second pass through the proxy, in pairs of runs.
//!   Without yielding their 95th percentile at least doubles in an export. With it it stays within 1.3 times that of
//!   a server at rest, while the export uses 60 % of the slots that are left, and ends.
//!
//! An export begins once the server is probed: that takes five seconds where each answer takes 50 ms, once a day.
//!
//! All runs in one process: what matters are the ratios. The exit code is 0 if all hold.

#[path = "../../examples/support/client.rs"]
#[expect(dead_code, reason = "a benchmark downloads nothing")]
mod client;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::TimeDelta;
use clap::{Parser, ValueEnum};
use client::Client;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use offtake::{Config, Offtake};
use sample_upstream::{Running, SampleUpstream, Settings};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; all if nothing is named.
    parts: Vec<Part>,
    /// Pairs of runs, without yielding and with it.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Searches at once that the operator allows where yielding is measured.
    #[arg(long, default_value_t = 16)]
    ceiling: usize,
    /// Tells of every limit that is changed.
    #[arg(long)]
    verbose: bool,
    /// What `cargo bench` adds by itself.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Ceilings,
    Yielding,
}

/// Resources of a page: few, so that the server's time and not this machine's decides.
const PAGE: u32 = 5;
const SLOTS: usize = 8;
const TAKES: Duration = Duration::from_millis(20);
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// How long the server is probed at rest.
const REST: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.verbose {
        tracing_subscriber::fmt().with_env_filter("offtake::upstream=debug").with_writer(std::io::stderr).init();
    }
    let wanted = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let mut held = true;
    if wanted(Part::Ceilings) {
        held &= told(ceilings().await);
    }
    if wanted(Part::Yielding) {
        held &= told(yielding(arguments.pairs, arguments.ceiling).await);
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn told(result: anyhow::Result<bool>) -> bool {
    result.unwrap_or_else(|error| {
        eprintln!("could not measure: {error:#}");
        false
    })
}

/// Says whether a ratio is as promised.
fn holds(name: &str, value: f64, holds: bool, promise: &str) -> bool {
    println!("{:<58} {value:>7.2}   {promise}: {}", name, if holds { "holds" } else { "DOES NOT HOLD" });
    holds
}

async fn ceilings() -> anyhow::Result<bool> {
    println!("One type, 50 ms a search");
    let mut seconds = Vec::new();
    for ceiling in [1, 4, 16] {
        let upstream = filled(2_000, Settings { latency: Duration::from_millis(50), ..Settings::default() })?;
        let stand = Stand::before(upstream, |config| config.upstream.max_concurrent_searches = ceiling).await?;
        let before = stand.searches();
        let took = stand.export().await?;
        println!("  {ceiling:>2} at once: {:.1} s, {} searches", took.as_secs_f64(), stand.searches() - before);
        seconds.push(took.as_secs_f64());
        stand.stop().await?;
    }
    let (four, sixteen) = (seconds[0] / seconds[1], seconds[0] / seconds[2]);
    let held = holds("4 searches at once, times as fast as one", four, four >= 3.4, "at least 3.4");
    Ok(holds("16 searches at once, times as fast as one", sixteen, sixteen >= 12.0, "at least 12") && held)
}

/// What one run has shown.
struct Run {
    idle: Duration,
    beside: Duration,
    /// The part of the slots left by live traffic that the export used.
    used: f64,
}

async fn yielding(pairs: usize, ceiling: usize) -> anyhow::Result<bool> {
    println!("{SLOTS} slots of 20 ms, 5 reads a second through the proxy, up to {ceiling} searches at once");
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for pair in 1..=pairs {
        for (yields, runs) in [(false, &mut without), (true, &mut with)] {
            let run = beside_reads(yields, ceiling).await?;
            println!(
                "  pair {pair}, {:<16} p95 {:>5.1} ms at rest, {:>5.1} ms in an export: {:.2} times; {:.0} % of the idle slots",
                if yields { "yielding:" } else { "not yielding:" },
                run.idle.as_secs_f64() * 1_000.0,
                run.beside.as_secs_f64() * 1_000.0,
                run.times(),
                run.used * 100.0,
            );
            runs.push(run);
        }
    }
    let least = without.iter().map(Run::times).fold(f64::INFINITY, f64::min);
    let most = with.iter().map(Run::times).fold(0.0, f64::max);
    let used = with.iter().map(|run| run.used).fold(f64::INFINITY, f64::min);
    let mut held = holds("without yielding, p95 to p95 at rest, least of all runs", least, least >= 2.0, "at least 2");
    held &= holds("yielding, p95 to p95 at rest, most of all runs", most, most <= 1.3, "at most 1.3");
    held &= holds("yielding, part of the idle slots used, least of all runs", used, used >= 0.6, "at least 0.6");
    Ok(held)
}

impl Run {
    fn times(&self) -> f64 {
        self.beside.as_secs_f64() / self.idle.as_secs_f64()
    }
}

async fn beside_reads(yields: bool, ceiling: usize) -> anyhow::Result<Run> {
    let upstream = filled(6_000, Settings { latency: TAKES, slots: Some(SLOTS), ..Settings::default() })?;
    upstream.create(r#"{"resourceType":"Patient","id":"probe"}"#)?;
    let stand = Stand::before(upstream, |config| {
        config.upstream.max_concurrent_searches = ceiling;
        config.upstream.yield_to_live_traffic.enabled = yields;
    })
    .await?;
    let resting = Probe::start(&stand.base);
    tokio::time::sleep(REST).await;
    let idle = resting.stop().await?;
    let before = stand.searches();
    let probe = Probe::start(&stand.base);
    let took = stand.export().await?;
    let beside = probe.stop().await?;
    let live = TAKES.as_secs_f64() / PROBE_EVERY.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (searches, slots) = ((stand.searches() - before) as f64, SLOTS as f64);
    let used = searches * TAKES.as_secs_f64() / (took.as_secs_f64() * (slots - live));
    stand.stop().await?;
    Ok(Run { idle: percentile(idle, 95), beside: percentile(beside, 95), used })
}

/// A server that holds this many pages of one type, a minute apart.
fn filled(pages: u32, settings: Settings) -> anyhow::Result<SampleUpstream> {
    let upstream = SampleUpstream::new(settings);
    let first = upstream.now() - TimeDelta::days(30);
    for number in 0..pages * PAGE {
        let json = format!(r#"{{"resourceType":"Observation","id":"o{number}","status":"final"}}"#);
        upstream.insert_raw_at(&json, first + TimeDelta::seconds(i64::from(number) * 60))?;
    }
    Ok(upstream)
}

/// Offtake before a sample upstream.
struct Stand {
    base: String,
    upstream: SampleUpstream,
    server: Running,
    stop: tokio::sync::oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
    folder: tempfile::TempDir,
}

impl Stand {
    async fn before(upstream: SampleUpstream, change: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
        let folder = tempfile::tempdir()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}/fhir", listener.local_addr()?);
        let mut config = Config::local(&server.base_url, &base, folder.path())?;
        config.upstream.page_max_resources = PAGE;
        change(&mut config);
        let offtake = Offtake::builder(config).build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        let stand = Self { base, upstream, server, stop, serving, folder };
        stand.probed().await;
        Ok(stand)
    }

    /// Waits until the server is known, which is found out once a day and one question after the other: until nothing has
    /// been asked for a while.
    async fn probed(&self) {
        let mut asked = 0;
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = self.upstream.requests().len();
            if now > 0 && now == asked {
                return;
            }
            asked = now;
        }
    }

    /// Exports the type that holds all, and gives how long it took.
    async fn export(&self) -> anyhow::Result<Duration> {
        let client = Client::new();
        let began = Instant::now();
        let status = client.kick_off(&format!("{}/$export?_type=Observation", self.base)).await?;
        let manifest = client.wait(&status, |_| {}).await?;
        let took = began.elapsed();
        let exported: usize = manifest.output.iter().map(|file| file.count).sum();
        let held = self.upstream.resources(Some("Observation")).len();
        ensure!(exported == held, "{exported} of {held} resources were exported");
        client.delete(&status).await?;
        Ok(took)
    }

    /// What the export has asked so far.
    fn searches(&self) -> usize {
        self.upstream.requests().iter().filter(|seen| seen.path.ends_with("/Observation")).count()
    }

    async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.serving.await?.context("serving failed")?;
        self.server.stop().await;
        drop(self.folder);
        Ok(())
    }
}

/// Reads one resource again and again, whether the last read has come back or not.
struct Probe {
    stop: tokio::sync::oneshot::Sender<()>,
    reading: JoinHandle<anyhow::Result<Vec<Duration>>>,
}

impl Probe {
    fn start(base: &str) -> Self {
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let url = format!("{base}/Patient/probe");
        let reading = tokio::spawn(async move {
            let client = HttpClient::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
            let mut every = tokio::time::interval(PROBE_EVERY);
            let mut reads = JoinSet::new();
            loop {
                tokio::select! {
                    _ = every.tick() => {}
                    _ = &mut stopped => break,
                }
                reads.spawn(read(client.clone(), url.clone()));
            }
            let read = reads.join_all().await;
            read.into_iter().collect()
        });
        Self { stop, reading }
    }

    async fn stop(self) -> anyhow::Result<Vec<Duration>> {
        drop(self.stop);
        self.reading.await?
    }
}

async fn read(client: HttpClient<HttpConnector, Full<bytes::Bytes>>, url: String) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let answer = client.get(url.parse()?).await?;
    ensure!(answer.status().is_success(), "a read was answered with {}", answer.status());
    answer.into_body().collect().await?;
    Ok(began.elapsed())
}

fn percentile(mut latencies: Vec<Duration>, percent: usize) -> Duration {
    latencies.sort_unstable();
    let rank = (latencies.len() * percent).div_ceil(100);
    latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
