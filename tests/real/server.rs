//! The servers, and how each is started.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::child::{Process, free_port};
use crate::data::{self, Resources};
use crate::http::Http;
use crate::relay::Relay;
use crate::stored::Stored;

/// How long a start may take, on a machine that does much else.
const TO_START: Duration = Duration::from_mins(5);

/// A server with its settings and its data, which is started by the first test that needs it.
pub(crate) struct Setup {
    pub(crate) name: String,
    server: OnceCell<Server>,
}

pub(crate) struct Server {
    /// Everything that is asked of it goes through here.
    pub(crate) relay: Relay,
    pub(crate) stored: Stored,
    _process: Process,
    _folder: TempDir,
}

/// Options of `Upstream.java` for each of the ways in which a HAPI is set up.
fn hapi_options(name: &str) -> anyhow::Result<&'static [&'static str]> {
    Ok(match name {
        // The defaults of HAPI's own starter project.
        "hapi" => &[],
        other => anyhow::bail!("no such server: {other}"),
    })
}

impl Setup {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), server: OnceCell::new() }
    }

    /// Runs, with its data in it.
    pub(crate) async fn server(&self) -> anyhow::Result<&Server> {
        self.server.get_or_try_init(|| Server::start(&self.name)).await
    }
}

impl Server {
    async fn start(name: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port().await?;
        let process = hapi(name, port, &folder).await.with_context(|| format!("starting {name}"))?;
        let http = Http::new();
        let base = format!("http://127.0.0.1:{port}/fhir");
        let written: Resources = data::read("OFFTAKE_REAL_DATA")?;
        data::load(&http, &base, "transaction", &written).await.context("loading it")?;
        let stored = Stored::read(&http, &base, &written).await.context("reading what it holds")?;
        let relay = Relay::before(port, "/fhir").await?;
        Ok(Self { relay, stored, _process: process, _folder: folder })
    }
}

async fn hapi(name: &str, port: u16, folder: &TempDir) -> anyhow::Result<Process> {
    let home = PathBuf::from(data::needed("OFFTAKE_REAL_HAPI")?);
    let classes = format!("{0}/hapi-upstream.jar:{0}/lib/*", home.display());
    let mut command = Command::new("java");
    command.args(["-Xmx1500m", "-cp", &classes, "offtake.real.Upstream", "--port", &port.to_string()]);
    command.args(hapi_options(name)?);
    let mut process = Process::start(&mut command, &folder.path().join("log"))?;
    process.until(TO_START, async |said: &str| said.contains("ready http://")).await?;
    Ok(process)
}
