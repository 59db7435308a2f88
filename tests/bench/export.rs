//! How quick an export is, beside the least that reading the same pages can take:
//!
//! ```text
//! cargo bench --locked --bench export -- [--scenario NAME]… [--rounds N] [--searches N] [--mebibytes N] [--json FILE]
//! ```
//!
//! In each round all pages are fetched as they are and thrown away unread (the raw drain), then Offtake exports the same from the
//! same server to local disk, with SHA-256 and fsync, and then they are drained once more: an export is held against the mean
//! of the drains before and after it, and figures are medians of the rounds. Both have as many searches at once. The server is
//! this process, Offtake the built program: its processor time and its peak memory (`VmHWM`) are its own. An export is timed from
//! its kick-off until its manifest is there. Where python3 and node are there, what follows the links with them is timed as well
//! (`walk.py`, `walk.mjs`: ours, one type after the other by as many workers).
//!
//! What has to hold is said beside each figure, and the exit code is 0 if all does.

#[path = "../../examples/support/client.rs"]
#[expect(dead_code, reason = "a benchmark downloads nothing")]
mod client;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use client::{Client, Poll};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sample_upstream::{Running, SampleUpstream, Settings};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; all if none is named.
    #[arg(long = "scenario")]
    scenarios: Vec<Scenario>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Searches at once, of Offtake and of all others.
    #[arg(long, default_value_t = 8)]
    searches: usize,
    /// About so much is exported.
    #[arg(long, default_value_t = 200)]
    mebibytes: usize,
    /// Writes all figures there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What `cargo bench` adds by itself.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the server holds, and how it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Generated patients and all that belongs to them, in pages without white space.
    Many,
    /// The same, indented.
    Pretty,
    /// One type, of small resources.
    One,
    /// Documents of 64 KiB.
    Large,
    /// `many` with 50 ms before each answer.
    ManySlow,
    /// `one` with 50 ms before each answer.
    OneSlow,
    /// `large` at 100 MB/s.
    LargeHeld,
}

/// What an export may take at least, as a part of the raw drain.
struct Promise {
    least: f64,
    /// CPU seconds for each GB of NDJSON; none where too little is exported to be counted.
    cpu: bool,
}

const MOST_CPU_PER_GB: f64 = 2.3;
const MOST_PEAK_MB: f64 = 150.0;
const SMALL_BYTES: usize = 700;
const LARGE_BYTES: usize = 64 << 10;
const PAGE: usize = 1_000;
const SLOW: Duration = Duration::from_millis(50);
const HELD: u64 = 100_000_000;
/// How long it may take until what is deleted is gone.
const TO_REMOVE: Duration = Duration::from_mins(1);
/// Between two looks at whether an export has ended.
const POLL: Duration = Duration::from_millis(10);

type Http = HttpClient<HttpConnector, Full<Bytes>>;

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn settings(self) -> Settings {
        Settings {
            pretty: self == Self::Pretty,
            latency: if matches!(self, Self::ManySlow | Self::OneSlow) { SLOW } else { Duration::ZERO },
            bytes_per_second: (self == Self::LargeHeld).then_some(HELD),
            ..Settings::default()
        }
    }

    fn upstream(self, bytes: usize) -> anyhow::Result<SampleUpstream> {
        let upstream = SampleUpstream::new(self.settings());
        match self {
            // A patient of the generator has some 60 kB.
            Self::Many | Self::Pretty | Self::ManySlow => upstream.generate((bytes / 60_000).max(10)),
            Self::Large | Self::LargeHeld => upstream.generate_big(bytes / LARGE_BYTES, LARGE_BYTES),
            Self::One | Self::OneSlow => {
                let first = upstream.now() - chrono::TimeDelta::days(400);
                for number in 0..bytes / SMALL_BYTES {
                    let note = "x".repeat(SMALL_BYTES.saturating_sub(170));
                    let json = format!(
                        r#"{{"resourceType":"Observation","id":"o{number:09}","status":"final","note":[{{"text":"{note}"}}]}}"#
                    );
                    let at = first + chrono::TimeDelta::milliseconds(i64::try_from(number)? * 1_000);
                    upstream.insert_raw_at(&json, at)?;
                }
            }
        }
        Ok(upstream)
    }

    fn promise(self) -> Promise {
        match self {
            Self::Many | Self::Pretty | Self::One | Self::Large => Promise { least: 0.55, cpu: true },
            Self::ManySlow | Self::OneSlow => Promise { least: 0.80, cpu: false },
            Self::LargeHeld => Promise { least: 0.97, cpu: false },
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("could not measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<bool> {
    let all = Scenario::value_variants();
    let (mut held, mut figures) = (true, BTreeMap::new());
    for scenario in
        all.iter().filter(|scenario| arguments.scenarios.is_empty() || arguments.scenarios.contains(scenario))
    {
        let (holds, of_scenario) = rounds_of(*scenario, arguments).await?;
        held &= holds;
        figures.insert(scenario.name(), of_scenario);
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, format!("{:#}\n", json!(figures)))?;
    }
    Ok(held)
}

/// What one round has shown.
#[derive(Debug, Default, Clone, Copy)]
struct Round {
    drained: f64,
    exported: f64,
    cpu: f64,
}

async fn rounds_of(scenario: Scenario, arguments: &Arguments) -> anyhow::Result<(bool, Value)> {
    let upstream = scenario.upstream(arguments.mebibytes << 20)?;
    let held = upstream.resources(None);
    let resources = held.len();
    let types: BTreeSet<_> = held.into_iter().map(|resource| resource.resource_type).collect();
    let types: Vec<_> = types.into_iter().collect();
    let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
    // They are looked for while nothing is slow.
    upstream.update_settings(|settings| (settings.latency, settings.bytes_per_second) = (Duration::ZERO, None));
    let pages = Arc::new(pages(&server.base_url, &types).await?);
    upstream.update_settings(|settings| {
        let Settings { latency, bytes_per_second, .. } = scenario.settings();
        (settings.latency, settings.bytes_per_second) = (latency, bytes_per_second);
    });
    let stand = Stand::before(&server, arguments.searches).await?;
    let base = &server.base_url;
    let (mut rounds, mut searches, mut exported_bytes, mut drained_bytes) = (Vec::new(), 0, 0, 0);
    for _ in 0..arguments.rounds {
        let (before, _) = drain(&pages, arguments.searches).await?;
        let asked = upstream.requests().len();
        let (took, cpu, bytes) = stand.export(&types, resources).await?;
        searches = upstream.requests().len() - asked;
        let (after, drained) = drain(&pages, arguments.searches).await?;
        (exported_bytes, drained_bytes) = (bytes, drained);
        let drained = (before + after).as_secs_f64() / 2.0;
        rounds.push(Round { drained, exported: took.as_secs_f64(), cpu: cpu.as_secs_f64() });
    }
    let walks = walks(base, &types, arguments.searches)?;
    let peak = stand.peak()?;
    drop(stand);
    server.stop().await;

    let gigabytes = gigabytes(exported_bytes);
    let drained = median(rounds.iter().map(|round| round.drained));
    let exported = median(rounds.iter().map(|round| round.exported));
    let part = median(rounds.iter().map(|round| round.drained / round.exported));
    let cpu = median(rounds.iter().map(|round| round.cpu)) / gigabytes;
    println!(
        "{}: {resources} resources of {} types, {:.0} MB NDJSON, {:.0} MB in {} pages; Offtake asked {searches} times",
        scenario.name(),
        types.len(),
        gigabytes * 1e3,
        self::gigabytes(drained_bytes) * 1e3,
        pages.len(),
    );
    println!("  {:<44} {drained:>8.2} s", "raw drain");
    println!("  {:<44} {exported:>8.2} s", "Offtake to local disk");
    for (name, took) in &walks {
        println!("  {name:<44} {took:>8.2} s, {:.1} times as long", took / exported);
    }
    let Promise { least, cpu: is_counted } = scenario.promise();
    let mut held = holds("part of the raw drain", part, part >= least, &format!("at least {least:.2}"));
    if is_counted {
        held &= holds("CPU s for each GB", cpu, cpu <= MOST_CPU_PER_GB, &format!("at most {MOST_CPU_PER_GB}"));
    }
    held &= holds("peak memory, MB", peak, peak <= MOST_PEAK_MB, &format!("at most {MOST_PEAK_MB}"));
    let all = json!({
        "resources": resources, "types": types.len(), "ndjson_gigabytes": gigabytes, "pages": pages.len(), "searches": searches,
        "searches_at_once": arguments.searches, "cpu_seconds_per_gigabyte": cpu, "peak_megabytes": peak,
        "part_of_raw_drain": part, "walks": walks,
        "rounds": rounds.iter().map(|round| json!([round.drained, round.exported, round.cpu])).collect::<Vec<_>>(),
    });
    Ok((held, all))
}

fn holds(name: &str, value: f64, holds: bool, promise: &str) -> bool {
    println!("  {name:<44} {value:>8.3}   {promise}: {}", if holds { "holds" } else { "DOES NOT HOLD" });
    holds
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<_> = of.collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "a few significant digits are shown")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn http() -> Http {
    HttpClient::builder(TokioExecutor::new()).build_http()
}

/// Where all pages of all types are, of as many resources as Offtake asks for.
async fn pages(base: &str, types: &[String]) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        link: Vec<Link>,
    }
    #[derive(Deserialize)]
    struct Link {
        relation: String,
        url: String,
    }
    let (http, mut pages) = (http(), Vec::new());
    for name in types {
        let mut next = Some(format!("{base}/{name}?_count={PAGE}"));
        while let Some(url) = next {
            let answer = http.get(url.parse()?).await?;
            ensure!(answer.status().is_success(), "{url} was answered with {}", answer.status());
            let page: Page = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
            next = page.link.into_iter().find(|link| link.relation == "next").map(|link| link.url);
            pages.push(url);
        }
    }
    Ok(pages)
}

/// Fetches all pages, so many at a time, and throws them away: how long that took, and how much it was.
async fn drain(pages: &Arc<Vec<String>>, at_once: usize) -> anyhow::Result<(Duration, u64)> {
    let (next, bytes, http) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)), http());
    let began = Instant::now();
    let workers: Vec<_> = (0..at_once)
        .map(|_| {
            let (next, bytes, http, pages) = (Arc::clone(&next), Arc::clone(&bytes), http.clone(), Arc::clone(pages));
            tokio::spawn(async move {
                while let Some(url) = pages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut body = http.get(url.parse()?).await?.into_body();
                    while let Some(frame) = body.frame().await {
                        let length = frame?.data_ref().map_or(0, Bytes::len);
                        bytes.fetch_add(u64::try_from(length)?, Ordering::Relaxed);
                    }
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok((began.elapsed(), bytes.load(Ordering::Relaxed)))
}

/// How long others take that follow the links, where they can be had.
fn walks(base: &str, types: &[String], at_once: usize) -> anyhow::Result<BTreeMap<String, f64>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench");
    let mut walks = BTreeMap::new();
    for (program, script) in [("python3", "walk.py"), ("node", "walk.mjs")] {
        if Command::new(program).arg("--version").output().is_err() {
            println!("  NOT RUN: {script} ({program} is not there)");
            continue;
        }
        let began = Instant::now();
        let output = tempfile::tempdir()?;
        let mut command = Command::new(program);
        command.arg(folder.join(script)).arg(base).arg(output.path()).arg(at_once.to_string()).args(types);
        let status = tokio::task::block_in_place(|| command.status())?;
        ensure!(status.success(), "{script} ended with {status}");
        walks.insert(format!("{script} (ours)"), began.elapsed().as_secs_f64());
    }
    Ok(walks)
}

/// The built program before the server.
struct Stand {
    base: String,
    child: Child,
    folder: TempDir,
    client: Client,
}

impl Stand {
    async fn before(server: &Running, searches: usize) -> anyhow::Result<Self> {
        // Beside what is built: a temporary folder may be no disk.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let (path, config) = (folder.path().display(), folder.path().join("offtake.yaml"));
        std::fs::write(
            &config,
            format!(
                "server: {{ listen: '127.0.0.1:{port}', public_base_url: 'http://127.0.0.1:{port}/fhir' }}\n\
                 upstream: {{ base_url: '{}', accepts_anonymous: acknowledged, max_concurrent_searches: {searches} }}\n\
                 smart: {{ mode: open }}\n\
                 export: {{ early_polls_per_second: 1000000 }}\n\
                 output: {{ location: 'file://{path}/output' }}\n\
                 store: {{ path: '{path}/state' }}\n",
                server.base_url
            ),
        )?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
        // As deploy/ has it.
        command.env("MALLOC_ARENA_MAX", "1").args(["serve", "--config"]).arg(config);
        let child = command.stdout(Stdio::null()).stderr(log).spawn()?;
        let stand = Self { base: format!("http://127.0.0.1:{port}/fhir"), child, folder, client: Client::new() };
        // The server is found out about before anything is timed: once a day, that is.
        for _ in 0..600 {
            if let Ok(status) = stand.client.kick_off(&format!("{}/$export?_type=Basic", stand.base)).await {
                stand.client.wait(&status, |_| {}).await?;
                stand.removed(&status).await?;
                return Ok(stand);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("it does not start: {}", std::fs::read_to_string(stand.folder.path().join("log"))?)
    }

    /// How long an export takes, its processor time, and its bytes.
    async fn export(&self, types: &[String], resources: usize) -> anyhow::Result<(Duration, Duration, u64)> {
        let (cpu, began) = (self.cpu()?, Instant::now());
        let status = self.client.kick_off(&format!("{}/$export?_type={}", self.base, types.join(","))).await?;
        let manifest = loop {
            match self.client.poll(&status).await? {
                Poll::Running(_) => tokio::time::sleep(POLL).await,
                Poll::Complete(manifest) => break manifest,
                Poll::Other(status, said) => anyhow::bail!("the export ended with {status}: {said}"),
            }
        };
        let (took, cpu) = (began.elapsed(), self.cpu()?.saturating_sub(cpu));
        let exported: usize = manifest.output.iter().map(|file| file.count).sum();
        ensure!(exported == resources, "{exported} of {resources} resources were exported");
        let bytes = written(&self.folder.path().join("output"));
        self.removed(&status).await?;
        Ok((took, cpu, bytes))
    }

    /// Has an export removed, and waits until it is.
    async fn removed(&self, status: &str) -> anyhow::Result<()> {
        self.client.delete(status).await?;
        let began = Instant::now();
        while written(&self.folder.path().join("output")) > 0 {
            ensure!(began.elapsed() < TO_REMOVE, "what was deleted is still there");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(") ").context("a process has a name")?.1.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        // Linux counts them in hundredths of a second for everybody.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Its peak memory in megabytes.
    fn peak(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1_024.0 / 1e6)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Bytes of NDJSON in a folder and below it.
fn written(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |path: PathBuf| match path.extension() {
        _ if path.is_dir() => written(&path),
        Some(extension) if extension == "ndjson" => path.metadata().map_or(0, |file| file.len()),
        _ => 0,
    };
    entries.filter_map(|entry| entry.ok().map(|entry| of(entry.path()))).sum()
}
