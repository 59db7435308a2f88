//! A whole export, from kick-off to downloaded file, in front of a sample FHIR server:
//!
//! ```text
//! cargo run --release --example demo -- [--level system|patient|group] [--paging snapshot|cursor|offset]
//!                                       [--patients N | --load DIR] [--keep DIR]
//! ```
//!
//! Without `--level` all three levels are exported, one after another. The exit code is 0 only if every export holds
//! exactly what the server holds, line by line and byte for byte.

#[path = "support/client.rs"]
mod client;
#[path = "support/expected.rs"]
mod expected;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use client::{Client, Manifest};
use offtake::{Config, Offtake};
use sample_upstream::{Paging, SampleUpstream, Settings};
use tokio::net::TcpListener;

/// Exports a sample FHIR server through Offtake and checks every line.
#[derive(Debug, Parser)]
struct Arguments {
    /// Generated patients, each with linked resources of twenty types.
    #[arg(long, default_value_t = 100, conflicts_with = "load")]
    patients: usize,
    /// A folder of NDJSON files, plain or gzipped, to load instead.
    #[arg(long, value_name = "DIR")]
    load: Option<PathBuf>,
    /// Where to leave the downloaded files, as `Type.ndjson`.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// One level instead of all three.
    #[arg(long)]
    level: Option<Level>,
    /// How the sample server pages.
    #[arg(long, value_enum, default_value_t = PagingStyle::Snapshot)]
    paging: PagingStyle,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    System,
    Patient,
    Group,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PagingStyle {
    /// Lists that the server keeps, as HAPI does.
    Snapshot,
    /// The place after the last row.
    Cursor,
    /// Offsets into a list made anew for each page.
    Offset,
}

impl Level {
    fn path(self) -> &'static str {
        match self {
            Self::System => "/$export",
            Self::Patient => "/Patient/$export",
            Self::Group => "/Group/all/$export",
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let paging = match arguments.paging {
        PagingStyle::Snapshot => Paging::Snapshot,
        PagingStyle::Cursor => Paging::Cursor,
        PagingStyle::Offset => Paging::Offset,
    };
    let upstream = SampleUpstream::new(Settings { paging, ..Settings::default() });
    if let Some(folder) = &arguments.load {
        let loaded = upstream.load_dir(folder).with_context(|| format!("could not load {}", folder.display()))?;
        println!("The sample FHIR server holds {loaded} resources from {}.", folder.display());
    } else {
        upstream.generate(arguments.patients);
        println!("The sample FHIR server holds {} generated resources.", upstream.resources(None).len());
    }
    let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
    println!("It answers at {}.", server.base_url);

    let folder = tempfile::tempdir().context("could not make a temporary folder")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}/fhir", listener.local_addr()?);
    let config = Config::local(&server.base_url, &base, folder.path())?;
    let offtake = Offtake::builder(config).build()?;
    println!("Offtake stands in front of it at {base}.");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn({
        let offtake = offtake.clone();
        async move { offtake.run_on(listener, async { drop(stopped.await) }).await }
    });

    let keep = match arguments.keep {
        Some(keep) => keep,
        None => folder.path().join("downloaded"),
    };
    let levels = arguments.level.map_or_else(|| vec![Level::System, Level::Patient, Level::Group], |level| vec![level]);
    let several = levels.len() > 1;
    for level in levels {
        let keep = if several {
            keep.join(level.path().trim_end_matches("/$export").replace('/', "-").trim_matches('-'))
        } else {
            keep.clone()
        };
        let expected = expected::of(&upstream, level.path());
        export(&base, level, &keep, &expected).await?;
    }

    drop(stop);
    serving.await??;
    server.stop().await;
    Ok(())
}

/// Kicks off, polls, downloads and compares.
async fn export(base: &str, level: Level, keep: &std::path::Path, expected: &expected::Expected) -> anyhow::Result<()> {
    println!("\nGET {base}{}", level.path());
    let began = Instant::now();
    let client = Client::new();
    let status = client.kick_off(&format!("{base}{}", level.path())).await?;
    let manifest = client.wait(&status, |progress| print_bar(progress, began)).await?;
    println!("\r{:<78}", format!("Complete after {:.1} s.", began.elapsed().as_secs_f32()));
    println!("{}", serde_json::to_string_pretty(&shortened(&manifest))?);

    std::fs::create_dir_all(keep).with_context(|| format!("could not make {}", keep.display()))?;
    let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for file in &manifest.output {
        let bytes = client.download(&file.url).await?;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        ensure!(
            lines == file.count,
            "a file of {} has {lines} lines, and its manifest says {}",
            file.resource_type,
            file.count
        );
        received.entry(file.resource_type.clone()).or_default().extend_from_slice(&bytes);
    }
    for (resource_type, lines) in &received {
        let path = keep.join(format!("{resource_type}.ndjson"));
        std::fs::write(&path, lines).with_context(|| format!("could not write {}", path.display()))?;
    }
    let difference = expected::compare(expected, &received)?;
    print!("{difference}");
    println!("The files are in {}.", keep.display());
    ensure!(difference.is_none(), "what was exported is not what the server holds");
    client.delete(&status).await
}

fn print_bar(progress: &str, began: Instant) {
    use std::io::{IsTerminal, Write};
    if !std::io::stdout().is_terminal() {
        return;
    }
    let percent = progress.split(' ').zip(progress.split(' ').skip(1)).find(|(_, unit)| *unit == "%");
    let percent: usize = percent.and_then(|(number, _)| number.parse().ok()).unwrap_or(0).min(100);
    let bar = format!("[{:<25}] {:>4.1} s  {progress}", "#".repeat(percent / 4), began.elapsed().as_secs_f32());
    print!("\r{bar:<78.78}");
    // Only looks suffer if the terminal does not take it.
    drop(std::io::stdout().flush());
}

/// The manifest with its links cut to what tells them apart.
fn shortened(manifest: &Manifest) -> serde_json::Value {
    let mut value = manifest.whole.clone();
    for list in ["output", "error"] {
        for file in value.get_mut(list).and_then(serde_json::Value::as_array_mut).into_iter().flatten() {
            if let Some(url) = file.get("url").and_then(serde_json::Value::as_str) {
                file["url"] = format!("{}?…", url.split('?').next().unwrap_or(url)).into();
            }
        }
    }
    value
}
