//! How quick an export is, beside the least that reading the same pages can take, and beside what others do:
//!
//! ```text
//! cargo bench --locked --bench export -- [--scenario NAME]… [--rounds N] [--searches N] [--mebibytes N] [--json FILE]
//!                                        [--table FILE]… [--smart-fetch VENV] [--no-crawls]
//! tests/clouds/run short -- cargo bench --locked --bench export     # and to each cloud's stand-in
//! ```
//!
//! In each round all pages are fetched as they are and thrown away unread (the raw drain), fetched and written to disk (where nothing but the processors
//! bounds an export), exported by Offtake to a store that forgets and to local disk, with SHA-256 and fsync, and drained once more: an export is held against
//! the mean of the drains before and after it, or against the one that was written, and figures are medians of the rounds with the
//! least and the most beside them. All have as many searches at once but smart-fetch, which has five connections; what crawls is timed
//! once. The server is this process, Offtake a process of its own: its processor time and its peak memory (`VmHWM`) are nobody else's. An
//! export is timed from its kick-off until its manifest is there.
//!
//! What has to hold is said below the figures, and the exit code is 0 if all does.

#[path = "../../../examples/support/client.rs"]
#[expect(dead_code, reason = "a benchmark downloads nothing")]
mod client;
mod crawl;
mod drain;
#[path = "../null.rs"]
mod null;
mod report;
mod scenario;
mod stand;
#[path = "../../clouds/storage.rs"]
#[expect(dead_code, reason = "a benchmark asks no storage by itself")]
mod storage;
#[path = "../verdict.rs"]
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use crawl::Crawl;
use drain::{Pages, disk_rate};
use report::{Exported, Figure, Told, gigabytes, holds, row};
use sample_upstream::Settings;
use scenario::{Limit, Scenario};
use serde_json::{Value, json};
use stand::{SERVE_NULL, Stand, Target};
use storage::Storage;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; all if none is named.
    #[arg(long = "scenario")]
    scenarios: Vec<Scenario>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Searches at once, of Offtake and of all others.
    #[arg(long, default_value_t = 8)]
    searches: usize,
    /// About so much is exported, where no line is held.
    #[arg(long, default_value_t = 200)]
    mebibytes: usize,
    /// Writes all figures there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A document whose table of figures is made anew; may be said several times.
    #[arg(long)]
    table: Vec<PathBuf>,
    /// The environment of Python that smart-fetch was installed in.
    #[arg(long)]
    smart_fetch: Option<PathBuf>,
    /// Only Offtake and the drains: what follows links takes long.
    #[arg(long)]
    no_crawls: bool,
    /// What `cargo bench` adds by itself.
    #[arg(long, hide = true)]
    bench: bool,
}

const MOST_CPU_PER_GB: f64 = 2.3;
const MOST_PEAK_MB: f64 = 150.0;

#[tokio::main]
async fn main() -> ExitCode {
    let mut given = std::env::args_os().skip(1);
    let measured = match (given.next(), given.next()) {
        (Some(first), Some(config)) if first == SERVE_NULL => stand::serve_null(config.as_ref()).await.map(|()| true),
        _ => measure(&Arguments::parse()).await,
    };
    verdict::ended(measured)
}

async fn measure(arguments: &Arguments) -> anyhow::Result<bool> {
    let is_wanted = |scenario: &&Scenario| arguments.scenarios.is_empty() || arguments.scenarios.contains(scenario);
    let (mut held, mut figures, mut told) = (true, BTreeMap::new(), Vec::new());
    for scenario in Scenario::value_variants().iter().filter(is_wanted) {
        let (holds, of_scenario, row) = rounds_of(*scenario, arguments).await?;
        held &= holds;
        figures.insert(scenario.name(), of_scenario);
        told.push(row);
    }
    if let Some(file) = &arguments.json {
        let all = json!({ "machine": report::machine(), "commit": report::commit(), "scenarios": figures });
        std::fs::write(file, format!("{all:#}\n"))?;
    }
    for file in &arguments.table {
        report::put_into(file, &report::table(&told, arguments.rounds))?;
    }
    Ok(held)
}

/// Seconds of each round.
#[derive(Default)]
struct Rounds {
    drained: Vec<f64>,
    written: Vec<f64>,
    /// By target: how long exports took, and their processor time.
    exported: Vec<(Vec<f64>, Vec<f64>)>,
}

#[expect(clippy::too_many_lines, reason = "the rows of one table, from top to bottom")]
async fn rounds_of(scenario: Scenario, arguments: &Arguments) -> anyhow::Result<(bool, Value, Told)> {
    let upstream = scenario.upstream(arguments.mebibytes << 20)?;
    let counts = upstream.counts();
    let types: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).map(|(name, _)| name.clone()).collect();
    let resources = counts.values().sum();
    let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
    // They are looked for while nothing is slow.
    upstream.update_settings(|settings| (settings.latency, settings.bytes_per_second) = (Duration::ZERO, None));
    let pages = Arc::new(Pages::of(&server.base_url, &types, arguments.searches).await?);
    let mut targets = vec![Target::Null, Target::Disk];
    let clouds = storage::given("OFFTAKE_CLOUDS").unwrap_or_default();
    // A file system of a few megabytes holds no export of this size.
    let clouds = clouds.split_whitespace().filter(|name| *name != "tmpfs");
    targets.extend(clouds.map(|name| Target::Cloud(Storage::named(name))));
    let mut stands = Vec::with_capacity(targets.len());
    for target in &targets {
        stands.push(Stand::before(&server, target, arguments.searches).await?);
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let disk = disk_rate(folder.path())?;
    upstream.update_settings(|settings| {
        let Settings { latency, bytes_per_second, .. } = scenario.settings();
        (settings.latency, settings.bytes_per_second) = (latency, bytes_per_second);
    });

    let mut rounds = Rounds { exported: vec![Default::default(); targets.len()], ..Rounds::default() };
    let (mut searches, mut fetched_bytes, mut exported_bytes, mut drained_bytes) = (0, 0, 0, 0);
    for _ in 0..arguments.rounds {
        let before = pages.drain().await?;
        if scenario.limit() == Limit::Ourselves {
            let folder = tempfile::tempdir_in(folder.path())?;
            rounds.written.push(pages.drain_to_disk(folder.path()).await?.took.as_secs_f64());
        }
        for (stand, (took, cpu)) in stands.iter().zip(&mut rounds.exported) {
            let (asked, sent) = (upstream.requests().len(), upstream.sent_bytes());
            let exported = stand.export(&types, resources).await?;
            searches = upstream.requests().len() - asked;
            fetched_bytes = upstream.sent_bytes() - sent;
            took.push(exported.took.as_secs_f64());
            cpu.push(exported.cpu.as_secs_f64());
            exported_bytes = exported_bytes.max(exported.bytes);
        }
        let after = pages.drain().await?;
        drained_bytes = after.bytes;
        rounds.drained.push((before.took + after.took).as_secs_f64() / 2.0);
    }
    let mut crawls = Vec::new();
    if !arguments.no_crawls {
        crawls = crawl::walks(&server.base_url, &types, arguments.searches, resources)?;
        let of_patients: Vec<_> = types.iter().filter(|name| crawl::is_crawled(name)).cloned().collect();
        match &arguments.smart_fetch {
            _ if !scenario.has_patients() => {}
            Some(environment) => {
                let patients = upstream.resources(Some("Patient"));
                let patients = patients.iter().map(|patient| &*patient.body);
                // What is nobody's it does not find.
                let of_somebody = |name: &String| {
                    let all = upstream.resources(Some(name));
                    all.iter().filter(|resource| resource.body.contains("\"Patient/")).count()
                };
                let expected = of_patients.iter().map(of_somebody).sum();
                let crawled = crawl::smart_fetch(environment, &server.base_url, &of_patients, patients, expected)?;
                let all: usize = of_patients.iter().filter_map(|name| counts.get(name)).sum();
                let exported = stands[1].export(&of_patients, all).await?;
                let offtake = exported.took.as_secs_f64();
                println!(
                    "  smart-fetch crawls {expected} resources of {} types in {:.2} s, Offtake exports {all} of them in {offtake:.2} s",
                    of_patients.len(),
                    crawled.seconds,
                );
                crawls.push(Crawl { times: Some(crawled.seconds / offtake), ..crawled });
            }
            None => println!("  NOT RUN: smart-fetch (no --smart-fetch)"),
        }
    }
    let peaks = stands.iter().map(Stand::peak).collect::<anyhow::Result<Vec<_>>>()?;
    drop(stands);
    server.stop().await;

    let (gigabytes, drained_gigabytes) = (gigabytes(exported_bytes), gigabytes(drained_bytes));
    println!(
        "{}: {resources} resources of {} types, {:.0} MB NDJSON, {:.0} MB on the wire in {} pages; {} at once; Offtake asked \
         {searches} times and fetched {:.0} MB; the disk takes {:.0} MB/s",
        scenario.name(),
        types.len(),
        gigabytes * 1e3,
        drained_gigabytes * 1e3,
        pages.len(),
        arguments.searches,
        report::gigabytes(fetched_bytes) * 1e3,
        disk / 1e6,
    );
    let drained = Figure::of(&rounds.drained);
    row("raw drain", &drained, drained_gigabytes, None);
    let written = (!rounds.written.is_empty()).then(|| Figure::of(&rounds.written));
    if let Some(written) = &written {
        row("raw drain, written and fsynced", written, drained_gigabytes, None);
    }
    for ((target, (took, cpu)), peak) in targets.iter().zip(&rounds.exported).zip(&peaks) {
        let cpu = Figure::of(cpu).median / gigabytes;
        row(&format!("Offtake to {}", target.name()), &Figure::of(took), gigabytes, Some((cpu, *peak)));
    }
    let [(null_rounds, null_cpu), (disk_rounds, disk_cpu), ..] = rounds.exported.as_slice() else {
        anyhow::bail!("two targets are always there")
    };
    let (disk_took, disk_cpu) = (Figure::of(disk_rounds), Figure::of(disk_cpu).median / gigabytes);
    let null_cpu = Figure::of(null_cpu).median / gigabytes;
    for crawl in &crawls {
        let times = crawl.times.unwrap_or(crawl.seconds / disk_took.median);
        let whose = if crawl.is_ours { " (ours)" } else { "" };
        println!("  {:<40} {:>8.2} s, {times:.1} times as long", format!("{}{whose}", crawl.name), crawl.seconds);
    }
    let of = |least: &[f64], took: &[f64]| {
        Figure::of(&least.iter().zip(took).map(|(least, took)| least / took).collect::<Vec<_>>()).median
    };
    let (against, part, asked) = match scenario.limit() {
        Limit::Ourselves => ("a drain that is written to disk", of(&rounds.written, disk_rounds), 0.55),
        Limit::Latency => ("the raw drain", of(&rounds.drained, disk_rounds), 0.80),
        #[expect(clippy::cast_precision_loss, reason = "some hundred millions")]
        Limit::Line(rate) if disk >= 2.0 * rate as f64 => ("the raw drain", of(&rounds.drained, disk_rounds), 0.97),
        Limit::Line(_) => ("the raw drain, to a store that forgets", of(&rounds.drained, null_rounds), 0.97),
    };
    let mut all_hold = holds(&format!("part of {against}"), part, asked, true);
    let quickest = crawls.iter().filter(|crawl| crawl.is_ours).map(|crawl| crawl.seconds).min_by(f64::total_cmp);
    let told = Told {
        what: scenario.what(),
        megabytes: gigabytes * 1e3,
        drained: drained.median,
        written: written.as_ref().map(|written| written.median),
        forgotten: Exported { seconds: Figure::of(null_rounds).median, cpu: null_cpu, peak: peaks[0] },
        disk: Exported { seconds: disk_took.median, cpu: disk_cpu, peak: peaks[1] },
        walk: quickest,
        part: (against, part, asked),
    };
    if scenario.counts_cpu() {
        all_hold &= holds("CPU s for each GB, to disk", disk_cpu, MOST_CPU_PER_GB, false);
    }
    for crawl in crawls.iter().filter(|crawl| !crawl.is_ours) {
        let least = match (scenario.limit(), arguments.searches) {
            (Limit::Latency, 32..) => 20.0,
            (Limit::Latency, _) => 5.0,
            (Limit::Ourselves | Limit::Line(_), _) => 10.0,
        };
        let times = crawl.times.unwrap_or_default();
        all_hold &= holds(&format!("times as quick as {}", crawl.name), times, least, true);
    }
    let peak = peaks.iter().copied().fold(0.0, f64::max);
    all_hold &= holds("peak memory, MB", peak, MOST_PEAK_MB, false);
    let all = json!({
        "resources": resources, "types": types.len(), "ndjson_gigabytes": gigabytes, "pages": pages.len(),
        "wire_gigabytes": drained_gigabytes, "searches": searches, "fetched_bytes": fetched_bytes, "searches_at_once": arguments.searches,
        "disk_bytes_per_second": disk, "drained_seconds": rounds.drained, "written_seconds": rounds.written,
        "exports": targets.iter().zip(&rounds.exported).zip(&peaks).map(|((target, (took, cpu)), peak)| json!({
            "to": target.name(), "seconds": took, "cpu_seconds": cpu, "peak_megabytes": peak,
        })).collect::<Vec<_>>(),
        "crawls": crawls.iter().map(|crawl| json!({
            "name": crawl.name, "ours": crawl.is_ours, "seconds": crawl.seconds,
            "times_as_long": crawl.times.unwrap_or(crawl.seconds / disk_took.median),
        })).collect::<Vec<_>>(),
    });
    Ok((all_hold, all, told))
}
