//! A database with much in it: filled once, kept with what the server that filled it stores, and copied for each start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::child::free_port;
use crate::data;
use crate::http::Http;
use crate::server;
use crate::stored::Stored;

const DATABASE: &str = "upstream.mv.db";
const STORED: &str = "stored.ndjson";
/// So many resources are much.
const MUCH: usize = 50_000;
/// How long it may take to close a large database.
const TO_CLOSE: Duration = Duration::from_mins(3);

/// Has the database in `folder`, which is filled before if there is none yet.
pub(crate) async fn copied_to(folder: &Path) -> anyhow::Result<()> {
    let kept = kept()?;
    if !kept.exists() {
        fill(&kept).await.context("filling a database")?;
    }
    std::fs::copy(kept.join(DATABASE), folder.join(DATABASE))?;
    Ok(())
}

/// What it holds.
pub(crate) fn stored() -> anyhow::Result<Stored> {
    Stored::kept(&kept()?.join(STORED))
}

fn kept() -> anyhow::Result<PathBuf> {
    Ok(data::needed("OFFTAKE_REAL_LOADED")?.into())
}

/// Fills a server and ends it. Whole or not at all: what is not moved to `kept` goes with the run.
async fn fill(kept: &Path) -> anyhow::Result<()> {
    let part = PathBuf::from(data::needed("OFFTAKE_REAL_PART")?);
    // What a test before this one may have left.
    if part.exists() {
        std::fs::remove_dir_all(&part)?;
    }
    std::fs::create_dir(&part)?;
    let written = data::read("OFFTAKE_REAL_MUCH")?;
    let count: usize = written.iter().map(|(_, of_type)| of_type.len()).sum();
    ensure!(count >= MUCH, "OFFTAKE_REAL_MUCH has {count} resources: with fewer than {MUCH} little is shown");
    println!("    writing {count} resources to a database that is kept");
    let (port, http) = (free_port().await?, Http::new());
    let base = format!("http://127.0.0.1:{port}/fhir");
    let process = server::hapi(&[], port, &part, Some(&part)).await?;
    data::load(&http, &base, "transaction", &written).await.context("loading it")?;
    let stored = Stored::read(&http, &base, &written).await.context("reading what it holds")?;
    stored.is_counted(&http, &base).await?;
    process.stop(TO_CLOSE).await?;
    stored.keep(&part.join(STORED))?;
    std::fs::rename(&part, kept)?;
    Ok(())
}
