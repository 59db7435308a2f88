//! Clients that others wrote, and `curl` as README shows it, each with what the server stores held against its files.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::data;
use crate::expected;
use crate::server::{Server, Setup};
use crate::sidecar::{CLIENT, Keys, Sidecar};

/// What they ask for.
const TYPES: &str = "Patient,Encounter,Condition,Observation";
/// How long a new store may take to know what was used before.
const TO_BE_KNOWN: Duration = Duration::from_mins(2);
/// How long there is between two tries.
const BETWEEN: Duration = Duration::from_secs(5);
/// What is said meanwhile.
const NOT_YET: &str = "tokens cannot be issued at the moment";

pub(crate) async fn are_served(setup: &Setup) -> anyhow::Result<()> {
    let server = setup.server().await?;
    let sidecar = Sidecar::before(&server.relay.base, "").await?;
    are_served_by(server, &sidecar, None).await
}

/// The same to those who can show that they may.
pub(crate) async fn are_served_by_token(setup: &Setup) -> anyhow::Result<()> {
    let server = setup.server().await?;
    let (sidecar, keys) = Sidecar::with_tokens(&server.relay.base, &making_keys()?).await?;
    are_served_by(server, &sidecar, Some(&keys)).await
}

async fn are_served_by(server: &Server, sidecar: &Sidecar, keys: Option<&Keys>) -> anyhow::Result<()> {
    let names = data::given("OFFTAKE_REAL_CLIENTS").unwrap_or_default();
    let mut tried = 0;
    for (name, place) in names.split_whitespace().filter_map(|client| client.split_once('=')) {
        let folder = tempfile::tempdir()?;
        let path = command(name, place, &sidecar.base, folder.path(), keys)?.0;
        let said = once_tokens_are_given(|| Ok(command(name, place, &sidecar.base, folder.path(), keys)?.1)).await;
        let said = said.with_context(|| format!("{name}, and Offtake said {}", sidecar.said()))?;
        let path = format!("{path}?_type={TYPES}");
        let difference = expected::compare(&expected::of(&server.stored, &path), &lines(folder.path())?)?;
        ensure!(difference.is_none(), "{name} has from {path}\n{difference}\n{said}");
        println!("    {name} has all of {path}");
        tried += 1;
    }
    ensure!(tried > 0, "no client is there");
    Ok(())
}

/// How a client is called, and at which level it exports.
fn command(
    name: &str,
    place: &str,
    base: &str,
    folder: &Path,
    keys: Option<&Keys>,
) -> anyhow::Result<(&'static str, Command)> {
    let node = || {
        let script = format!("{}/tests/real/clients/{name}.mjs", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("node");
        command.args([&script, place, base]).arg(folder).arg(TYPES);
        if let Some(Keys { set, .. }) = keys {
            command.arg(CLIENT).arg(set);
        }
        command
    };
    Ok(match name {
        "medplum" => ("/$export", node()),
        "fhir-kit-client" => ("/Patient/$export", node()),
        "smart-fetch" => {
            // Its script names the folder that it was installed in first.
            let mut command = Command::new(format!("{place}/bin/python3"));
            command.args([
                &format!("{place}/bin/smart-fetch"),
                "bulk",
                "--fhir-url",
                base,
                "--type",
                TYPES,
                "--no-compression",
            ]);
            // Without the filters that it adds by itself: everything is to be compared.
            command.arg("--no-default-filters");
            // It asks for no scope of Group, and so gets none by a token.
            let path = if let Some(Keys { set, .. }) = keys {
                command.args(["--smart-client-id", CLIENT, "--smart-key"]).arg(set);
                "/$export"
            } else {
                command.args(["--group", "all"]);
                "/Group/all/$export"
            };
            command.arg(folder);
            (path, command)
        }
        "curl" => {
            let mut command = Command::new("bash");
            let commands = match keys {
                Some(keys) => {
                    command.env("KEYS", keys.folder.path());
                    of_readme_by_token(base)?
                }
                None => of_readme(base)?,
            };
            command.current_dir(folder).args(["-euo", "pipefail", "-c", &commands]);
            ("/Patient/$export", command)
        }
        other => anyhow::bail!("no such client: {other}"),
    })
}

/// The commands that README shows to a client, for this base.
fn of_readme(base: &str) -> anyhow::Result<String> {
    // What is kicked off by POST stands for itself.
    let shown = |block: &&str| ["$status", "status=", "manifest.json"].iter().any(|word| block.contains(word));
    let commands: String = shown_below("What a client does")?.iter().copied().filter(shown).collect();
    ensure!(commands.contains("DELETE") && commands.contains("jq"), "README shows something else: {commands}");
    Ok(for_this(base, &commands))
}

/// How a client makes a key there.
fn making_keys() -> anyhow::Result<String> {
    block_of("Who may export", "genrsa").map(str::to_owned)
}

/// The same with a token: how it is got, what it goes with, and the rest as it is without.
fn of_readme_by_token(base: &str) -> anyhow::Result<String> {
    let getting = block_of("Who may export", "new_token()")?;
    let going = block_of("Who may export", "new_token && status=")?;
    let downloads = block_of("What a client does", "curl -sS -O -J")?;
    let delete = block_of("What a client does", "DELETE")?.replace("curl -sS", "curl -sS -H @authorization");
    let key = "\"$KEYS/research-warehouse.pem\"";
    let getting = getting.replace("--arg id research-warehouse", &format!("--arg id {CLIENT}"));
    // A token is got a second time as it was the first time.
    let commands =
        format!("{}\n{going}\nnew_token\n{downloads}\n{delete}", getting.replace("research-warehouse.pem", key));
    Ok(for_this(base, &commands))
}

fn for_this(base: &str, commands: &str) -> String {
    commands.replace(README_BASE, base).replace("_type=Patient,Observation", &format!("_type={TYPES}"))
}

/// The base of README's examples.
const README_BASE: &str = "http://127.0.0.1:8080/fhir";
const README: &str = include_str!("../../README.md");

/// The commands below a heading of README that have these words in them.
fn block_of(heading: &str, words: &str) -> anyhow::Result<&'static str> {
    let found = shown_below(heading)?.into_iter().find(|block| block.contains(words));
    found.with_context(|| format!("README shows no `{words}` below {heading}"))
}

/// The commands below a heading of README, block by block.
fn shown_below(heading: &str) -> anyhow::Result<Vec<&'static str>> {
    let (_, section) = README.split_once(&format!("\n## {heading}\n")).context("no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    Ok(section.split("```sh\n").skip(1).filter_map(|block| block.split("```").next()).collect())
}

/// Until it is known what was used before a store was there, clients that do not say when they have signed get no token.
async fn once_tokens_are_given(command: impl Fn() -> anyhow::Result<Command>) -> anyhow::Result<String> {
    let began = Instant::now();
    loop {
        match run(command()?).await {
            Err(error) if began.elapsed() < TO_BE_KNOWN && format!("{error:#}").contains(NOT_YET) => {
                tokio::time::sleep(BETWEEN).await;
            }
            ended => return ended,
        }
    }
}

async fn run(mut command: Command) -> anyhow::Result<String> {
    let ended = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    ensure!(ended.status.success(), "it ended with {}: {said}", ended.status);
    Ok(said)
}

/// The lines in a folder, by their type.
fn lines(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut lines: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Hidden, or a log of its own.
        if !name.ends_with(".ndjson") || name == "log.ndjson" {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            let resource: Value = serde_json::from_str(line)?;
            let of_type = lines.entry(data::text(&resource["resourceType"]).to_owned()).or_default();
            of_type.extend_from_slice(line.as_bytes());
            of_type.push(b'\n');
        }
    }
    Ok(lines)
}
