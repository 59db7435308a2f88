//! Exports, held against what the server stores.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use crate::client::{Client, Manifest};
use crate::data::text;
use crate::expected;
use crate::http::Http;
use crate::server::{Server, Setup};
use crate::sidecar::{self, Sidecar};
use crate::table::Row;

/// Every level, and the kick-off for it.
pub(crate) const LEVELS: [(&str, &str); 3] =
    [("System", "/$export"), ("Patient", "/Patient/$export"), ("Group", "/Group/all/$export")];

/// What one export brought.
pub(crate) struct Export {
    pub(crate) manifest: Manifest,
    pub(crate) received: BTreeMap<String, Vec<u8>>,
    /// From the kick-off to the last byte.
    pub(crate) took: Duration,
}

/// Kicks off, waits, downloads and deletes.
pub(crate) async fn export(url: &str) -> anyhow::Result<Export> {
    let (client, began) = (Client::new(), Instant::now());
    let status = client.kick_off(url).await?;
    let manifest = client.wait(&status, |_| {}).await?;
    let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for file in &manifest.output {
        let bytes = client.download(&file.url).await?;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        ensure!(lines == file.count, "a file of {} has {lines} lines, not {}", file.resource_type, file.count);
        received.entry(file.resource_type.clone()).or_default().extend_from_slice(&bytes);
    }
    let took = began.elapsed();
    client.delete(&status).await?;
    Ok(Export { manifest, received, took })
}

impl Export {
    pub(crate) fn lines(&self) -> usize {
        self.manifest.output.iter().map(|file| file.count).sum()
    }
}

/// The weakest method by which any type of an export is proven; fails if one is not.
pub(crate) fn proven(manifest: &Manifest) -> anyhow::Result<&'static str> {
    let proof = manifest.whole["extension"]["https://offtake.dev/proof"].as_object().context("no proof")?;
    let unproven: Vec<_> =
        proof.iter().filter(|(_, proof)| proof["method"] == "unproven" || proof["short"] != 0).collect();
    ensure!(unproven.is_empty(), "unproven: {unproven:?}");
    let reread = proof.values().any(|proof| proof["method"] == "reread");
    Ok(if reread { "reread" } else { "counted" })
}

/// All levels, line by line.
pub(crate) async fn is_exact(setup: &Setup) -> anyhow::Result<()> {
    let server = setup.server().await?;
    let list = if setup.name == "hapi-short-lists" { Some(list_begun(server).await?) } else { None };
    let sidecar = Sidecar::before(&server.relay.base, "").await?;
    for (level, path) in LEVELS {
        let checked = if setup.name == "helios-bare" && level == "Group" {
            is_refused(&format!("{}{path}", sidecar.base)).await
        } else {
            is_exact_at(setup, server, &sidecar, level, path).await.map(drop)
        };
        checked.with_context(|| sidecar.said())?;
    }
    if let Some(second) = list {
        let answer = Http::new().send(Method::GET, &second, &[], Bytes::new()).await?;
        ensure!(answer.status == StatusCode::GONE, "a list outlived the exports: {}", answer.status);
    }
    Ok(())
}

/// The second page of a list, which ends before the exports do: each time that it is read it would be kept for ten minutes more.
async fn list_begun(server: &Server) -> anyhow::Result<String> {
    let first: Value = Http::new().get(&format!("{}/Observation?_count=100", server.relay.base)).await?;
    let links = first["link"].as_array().context("links")?;
    let next = links.iter().find(|link| link["relation"] == "next").context("a list of one page")?;
    Ok(text(&next["url"]).to_owned())
}

/// Before a server that passes over every search by patient nobody's record can be told from others', and that is said.
async fn is_refused(url: &str) -> anyhow::Result<()> {
    let ended = export(url).await.err().context("it was exported")?;
    ensure!(format!("{ended:#}").contains("searches by patient cannot be relied on"), "{ended:#}");
    Ok(())
}

/// An export that is what it has to be; gives how long it took.
pub(crate) async fn is_exact_at(
    setup: &Setup,
    server: &Server,
    sidecar: &Sidecar,
    level: &str,
    path: &str,
) -> anyhow::Result<Duration> {
    server.relay.take();
    let export = export(&format!("{}{path}", sidecar.base)).await?;
    let requests = server.relay.take();
    let expected = expected::of(&server.stored, path);
    let difference = expected::compare(&expected, &export.received)?;
    ensure!(difference.is_none(), "{path}:\n{difference}");
    Row {
        server: setup.name.clone(),
        level: level.to_owned(),
        strategy: format!("offtake, {}", proven(&export.manifest)?),
        expected: expected.len(),
        exported: export.lines(),
        requests,
        took: export.took,
    }
    .note();
    Ok(export.took)
}

/// The column at which values begin.
const VALUE_BEGINS: usize = 14;
/// The column at which doctor begins to say what a value means; a longer value is cut there.
const VALUE_ENDS: usize = 30;

/// What `offtake doctor` says of a server is what it was last found to be, line by line.
pub(crate) async fn is_known(setup: &Setup) -> anyhow::Result<()> {
    let server = setup.server().await?;
    let said = sidecar::doctor(&server.relay.base).await?;
    let profile = profile_in(&said);
    ensure!(!profile.is_empty(), "doctor says nothing of it:\n{said}");
    let expected_in = |name| format!("{}/tests/real/profiles/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    // What sets its pages or links otherwise may be found to be otherwise.
    let own = expected_in(setup.name.as_str());
    let path = if Path::new(&own).exists() { own } else { expected_in(setup.software()) };
    // One that nobody has written down yet is shown below.
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    ensure!(is_as_expected(&profile, &expected), "{path} says\n{expected}\nand doctor\n{profile}");
    Ok(())
}

/// Line by line. `one or another` is what depends on how quick the server is at that moment.
fn is_as_expected(profile: &str, expected: &str) -> bool {
    let value = |line: &str| line.get(VALUE_BEGINS..).map(str::to_owned);
    let is_one_of = |line: &str, expected: &str| {
        let name = expected.get(..VALUE_BEGINS);
        let one_of = value(expected).unwrap_or_default();
        line.get(..VALUE_BEGINS) == name && one_of.split(" or ").any(|one| value(line).as_deref() == Some(one))
    };
    let lines: Vec<_> = profile.lines().collect();
    let expected: Vec<_> = expected.lines().collect();
    let same = |(line, expected): (&&str, &&str)| line == expected || is_one_of(line, expected);
    lines.len() == expected.len() && lines.iter().zip(&expected).all(same)
}

/// Names and values of the lines, without what stands before them and what is about this run: numbers of resources, clock, keys,
/// storage.
fn profile_in(said: &str) -> String {
    const OF_THIS_RUN: [&str; 4] = ["anonymous", "types", "clock", "keys"];
    let lines = said.lines().skip_while(|line| !line.starts_with("software"));
    let lines = lines.take_while(|line| !line.starts_with("storage"));
    let lines = lines.filter(|line| OF_THIS_RUN.iter().all(|name| !line.starts_with(name)));
    lines.map(|line| line.chars().take(VALUE_ENDS).collect::<String>().trim_end().to_owned() + "\n").collect()
}
