//! The built `offtake` in front of a server.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::child::{Process, free_port};
use crate::http::Http;

/// Searches at the same time, at most.
pub(crate) const SEARCHES: usize = 4;
/// Whom it gives tokens, where it gives any.
pub(crate) const CLIENT: &str = "real-client";
/// The file of the key whose making README shows.
const KEY_SET_OF_README: &str = "research-warehouse.jwks.json";
/// How long a start may take.
const TO_START: Duration = Duration::from_mins(1);

/// Dropped, it ends.
pub(crate) struct Sidecar {
    /// The public FHIR base.
    pub(crate) base: String,
    process: Process,
    _folder: TempDir,
}

/// What clients sign by.
pub(crate) struct Keys {
    /// A file with a private JWK Set.
    pub(crate) set: PathBuf,
    /// Where that lies, and what `openssl` made.
    pub(crate) folder: TempDir,
}

impl Sidecar {
    /// Starts it in front of `upstream`, with these options of `upstream` besides.
    pub(crate) async fn before(upstream: &str, more: &str) -> anyhow::Result<Self> {
        Self::start(upstream, more, "").await
    }

    /// Starts it in front of `upstream` for clients with one of these private keys, which go to files of its folder: a JWK Set, and
    /// what the commands `making_keys` leave there.
    pub(crate) async fn with_tokens(upstream: &str, making_keys: &str) -> anyhow::Result<(Self, Keys)> {
        let folder = tempfile::tempdir()?;
        let private = folder.path().join("key");
        let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
        command.args(["keys", "generate", "--alg", "ES384", "--out"]).arg(&private);
        let mut public: serde_json::Value = serde_json::from_slice(&printed(command).await?)?;
        let mut command = Command::new("bash");
        command.current_dir(folder.path()).args(["-euo", "pipefail", "-c", making_keys]);
        printed(command).await?;
        let set: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path().join(KEY_SET_OF_README))?)?;
        let more = set["keys"].as_array().context("it makes no set")?;
        public["keys"].as_array_mut().context("a set")?.extend_from_slice(more);
        let clients = format!(
            "smart: {{ mode: authorization_server, \
             clients: [{{ client_id: {CLIENT}, scope: system/*.rs, jwks: {public} }}] }}\n"
        );
        let set = folder.path().join("key.jwks");
        std::fs::write(&set, format!(r#"{{"keys":[{}]}}"#, std::fs::read_to_string(private)?))?;
        Ok((Self::start(upstream, "", &clients).await?, Keys { set, folder }))
    }

    async fn start(upstream: &str, of_upstream: &str, more: &str) -> anyhow::Result<Self> {
        let port = free_port().await?;
        let (folder, config) = configured(upstream, port, of_upstream, more)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
        // As deploy/ has it.
        command.env("MALLOC_ARENA_MAX", "1").arg("serve").arg("--config").arg(config);
        let mut process = Process::start(&mut command, &folder.path().join("log"))?;
        let base = format!("http://127.0.0.1:{port}/fhir");
        // Bulk routes answer 503 until the job store is open, and then 404 for a job that there never was.
        let nowhere = format!("{base}/$bulk-status/00000000000000000000000000000000");
        let http = Http::new();
        let is_open = async |_: &str| {
            let answer = http.send(http::Method::GET, &nowhere, &[], "").await;
            answer.is_ok_and(|answer| answer.status == 404 || answer.status == 401)
        };
        process.until(TO_START, is_open).await?;
        Ok(Self { base, process, _folder: folder })
    }

    pub(crate) fn said(&self) -> String {
        self.process.said()
    }
}

/// What a command that ends well prints.
async fn printed(mut command: Command) -> anyhow::Result<Vec<u8>> {
    let ended = tokio::task::spawn_blocking(move || command.output()).await??;
    anyhow::ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(ended.stdout)
}

/// What `offtake doctor` says of this server.
pub(crate) async fn doctor(upstream: &str) -> anyhow::Result<String> {
    let (_folder, config) = configured(upstream, 1, "", "")?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
    command.arg("doctor").arg("--config").arg(config);
    let ended = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    anyhow::ensure!(ended.status.success(), "{said}");
    Ok(said)
}

/// A folder for everything, and the configuration in it.
fn configured(upstream: &str, port: u16, of_upstream: &str, more: &str) -> anyhow::Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().display();
    let config = folder.path().join("offtake.yaml");
    std::fs::write(
        &config,
        format!(
            "server: {{ listen: 127.0.0.1:{port}, public_base_url: http://127.0.0.1:{port}/fhir }}\n\
             upstream: {{ base_url: '{upstream}', accepts_anonymous: acknowledged, max_concurrent_searches: {SEARCHES}{of_upstream} }}\n\
             output: {{ location: 'file://{path}/output', min_free_bytes: 0 }}\n\
             store: {{ path: '{path}/state' }}\n{more}"
        ),
    )?;
    Ok((folder, config))
}
