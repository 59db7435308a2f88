//! What it costs to keep what is exported, measured:
//!
//! ```text
//! cargo bench --locked --bench output -- [--pairs N] [--mebibytes N]
//! tests/clouds/run short -- cargo bench --locked --bench output     # and on each cloud's stand-in
//! ```
//!
//! The same export goes to a store that forgets its files and to local disk, with SHA-256 and fsync, in pairs of runs: the
//! CPU time of this process, server included, beyond that of the forgetful store's runs is what local disk costs. It is at
//! most 1.0 s for each GB. Gzip's and each cloud's figure is shown. The exit code is 0 if it holds.

#[path = "../../examples/support/client.rs"]
#[expect(dead_code, reason = "a benchmark downloads nothing")]
mod client;
mod null;
#[path = "../clouds/storage.rs"]
#[expect(dead_code, reason = "a benchmark asks no storage by itself")]
mod storage;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use client::Client;
use null::NullStore;
use offtake::{Config, Offtake};
use sample_upstream::{Running, SampleUpstream, Settings};
use storage::Storage;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
struct Arguments {
    /// Runs to each output, by turns.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// What is exported.
    #[arg(long, default_value_t = 512)]
    mebibytes: usize,
    /// Only the output of this name, and nothing is compared: for a profiler.
    #[arg(long)]
    only: Option<String>,
    /// What `cargo bench` adds by itself.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Bytes of a resource, as clinical documents have.
const RESOURCE_BYTES: usize = 4 * 1024;
const MOST_SECONDS_PER_GB: f64 = 1.0;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    verdict::ended(measure(&arguments).await)
}

/// Where files go.
enum Target {
    Forgetful,
    /// With these lines of `output`.
    Disk(&'static str),
    Cloud(Storage),
}

impl Target {
    fn name(&self) -> String {
        match self {
            Self::Forgetful => "forgetful store".to_owned(),
            Self::Disk("") => "local disk".to_owned(),
            Self::Disk(more) => format!("local disk, {more}"),
            Self::Cloud(storage) => storage.name.clone(),
        }
    }

    /// The section `output`; each run has a place of its own, as each has a job store of its own.
    fn output(&self, local: &str, round: usize) -> String {
        match self {
            Self::Forgetful => format!("location: '{local}'"),
            Self::Disk(more) => format!("location: '{local}', {more}"),
            Self::Cloud(storage) => {
                let folder = format!("bench/{}-{round}", std::process::id());
                format!("{}, http: {{ {} }}", storage.output(&folder), storage.http())
            }
        }
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<bool> {
    let upstream = filled(arguments.mebibytes)?;
    let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
    let mut targets = vec![Target::Forgetful, Target::Disk(""), Target::Disk("compression: gzip")];
    let clouds = storage::given("OFFTAKE_CLOUDS").unwrap_or_default();
    // A file system of a few megabytes holds no export of this size.
    let clouds = clouds.split_whitespace().filter(|name| *name != "tmpfs");
    targets.extend(clouds.map(|name| Target::Cloud(Storage::named(name))));
    if let Some(only) = &arguments.only {
        targets.retain(|target| target.name() == *only);
    }
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); targets.len()];
    for round in 0..=arguments.pairs {
        for (target, costs) in targets.iter().zip(&mut costs) {
            let run = export(&server, target, round).await.with_context(|| target.name())?;
            // The first one warms up.
            if round > 0 {
                println!("  {round}: {:<30} {:>6.2} CPU s per GB, {:.2} s", target.name(), run.cpu_per_gb, run.seconds);
                costs.push(run.cpu_per_gb);
            }
        }
    }
    if arguments.only.is_some() {
        server.stop().await;
        return Ok(true);
    }
    let medians: Vec<f64> = costs.into_iter().map(median).collect();
    for (target, cost) in targets.iter().zip(&medians).skip(1) {
        println!("{:<34} {:>6.2} CPU s per GB more than the forgetful store", target.name(), cost - medians[0]);
    }
    let holds = medians[1] - medians[0] <= MOST_SECONDS_PER_GB;
    println!("local disk at most {MOST_SECONDS_PER_GB:.1}: {}", if holds { "holds" } else { "DOES NOT HOLD" });
    server.stop().await;
    Ok(holds)
}

/// What one run took.
struct Run {
    cpu_per_gb: f64,
    seconds: f64,
}

async fn export(server: &Running, target: &Target, round: usize) -> anyhow::Result<Run> {
    // Not in memory, as a folder for temporary files may be.
    let folder = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target"))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/fhir", listener.local_addr()?);
    let local = format!("file://{}/output", folder.path().display());
    let config = Config::from_yaml(&format!(
        "server: {{ public_base_url: '{base}', listen: '{}' }}\nupstream: {{ base_url: '{}' }}\nstore: {{ path: '{}' }}\n\
         output: {{ {} }}\n",
        listener.local_addr()?,
        server.base_url,
        folder.path().join("state").display(),
        target.output(&local, round),
    ))?;
    let mut builder = Offtake::builder(config);
    if matches!(target, Target::Forgetful) {
        builder = builder.output(Arc::new(NullStore::default()));
    }
    let offtake = builder.build()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
    let client = Client::new();
    let (began, spent) = (Instant::now(), cpu_seconds()?);
    let status = client.kick_off(&format!("{base}/$export")).await?;
    let manifest = client.wait(&status, |_| {}).await?;
    let (seconds, spent) = (began.elapsed().as_secs_f64(), cpu_seconds()? - spent);
    let listed = manifest.whole["output"].as_array().context("a manifest lists files")?;
    // Before they are packed.
    let bytes = manifest.output.iter().map(|file| file.count).sum::<usize>() * RESOURCE_BYTES;
    ensure!(!listed.is_empty() && bytes > 0, "nothing was exported");
    client.delete(&status).await?;
    drop(stop);
    serving.await?.context("serving failed")?;
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    let gigabytes = bytes as f64 / 1e9;
    Ok(Run { cpu_per_gb: spent / gigabytes, seconds })
}

/// A server with so much of one type.
fn filled(mebibytes: usize) -> anyhow::Result<SampleUpstream> {
    let upstream = SampleUpstream::new(Settings::default());
    let first = upstream.now() - chrono::TimeDelta::days(30);
    let mut state: u64 = 1;
    for number in 0..mebibytes * 1024 * 1024 / RESOURCE_BYTES {
        let head = format!(r#"{{"resourceType":"Observation","id":"o{number}","status":"final","note":[{{"text":""#);
        let mut text = head;
        // Words, not noise: gzip is to find something.
        while text.len() < RESOURCE_BYTES - 90 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(WORDS[usize::try_from(state >> 60)?]);
        }
        text.push_str(r#""}]}"#);
        upstream.insert_raw_at(&text, first + chrono::TimeDelta::seconds(i64::try_from(number)?))?;
    }
    Ok(upstream)
}

const WORDS: [&str; 16] = [
    "blood ",
    "pressure ",
    "normal ",
    "patient ",
    "denies ",
    "chest ",
    "pain ",
    "mild ",
    "cough ",
    "since ",
    "Tuesday ",
    "follow-up ",
    "in ",
    "two ",
    "weeks ",
    "mmHg ",
];

/// User and system time of this process so far.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold spaces.
    let (_, fields) = stat.rsplit_once(") ").context("fields")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields.get(at).context("a field")?.parse::<f64>().context("ticks");
    // Linux counts a hundred in a second, whatever its own clock does.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
