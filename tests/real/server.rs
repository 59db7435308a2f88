//! The servers, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::child::{Process, free_port};
use crate::data::{self, Resources};
use crate::http::Http;
use crate::loaded;
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
    /// Everything that is asked of it to export it goes through here.
    pub(crate) relay: Relay,
    /// Its own FHIR base, for whoever writes to it.
    pub(crate) base: String,
    pub(crate) stored: Stored,
    _process: Process,
    _folder: TempDir,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// A few thousand resources, in memory.
    Little,
    /// More than 50,000, in a file.
    Much,
}

/// Each of the ways in which a HAPI is set up: what it holds, and options of `Upstream.java`.
const HAPI: [(&str, Holds, &[&str]); 11] = [
    // The defaults of HAPI's own starter project.
    ("hapi", Holds::Little, &[]),
    ("hapi-large", Holds::Much, &[]),
    // The same, for others to write to.
    ("hapi-written", Holds::Much, &[]),
    ("hapi-pages-20", Holds::Much, &["--default-page-size", "20", "--max-page-size", "20"]),
    ("hapi-pages-500", Holds::Much, &["--default-page-size", "500", "--max-page-size", "500"]),
    ("hapi-pages-1000", Holds::Much, &["--default-page-size", "1000", "--max-page-size", "1000"]),
    ("hapi-foreign", Holds::Much, &["--server-address", "https://fhir.example.org/r4"]),
    // Lists that are of no use to anybody after a minute, and pages that need lists.
    ("hapi-short-lists", Holds::Much, &["--retain-ms", "1", "--reuse-ms", "off", "--max-page-size", "100"]),
    ("hapi-compact", Holds::Much, &["--pretty", "false"]),
    // Lists are made at once and in whole.
    ("hapi-prefetch-all", Holds::Much, &["--prefetch", "-1"]),
    // Lists end there, whatever more there is.
    ("hapi-prefetch-2003", Holds::Much, &["--prefetch", "13,503,2003"]),
];

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
        let (_, holds, options) = HAPI.iter().find(|(own, ..)| *own == name).context("no such server")?;
        let folder = tempfile::tempdir()?;
        let port = free_port().await?;
        let (base, http) = (format!("http://127.0.0.1:{port}/fhir"), Http::new());
        let starting = || format!("starting {name}");
        let (process, stored) = match holds {
            Holds::Little => {
                let process = hapi(options, port, folder.path(), None).await.with_context(starting)?;
                let written: Resources = data::read("OFFTAKE_REAL_DATA")?;
                data::load(&http, &base, "transaction", &written).await.context("loading it")?;
                (process, Stored::read(&http, &base, &written).await.context("reading what it holds")?)
            }
            Holds::Much => {
                let stored = loaded::copied_to(folder.path()).await?;
                let process = hapi(options, port, folder.path(), Some(folder.path())).await.with_context(starting)?;
                (process, stored)
            }
        };
        stored.is_counted(&http, &base).await?;
        let relay = Relay::before(port, "/fhir").await?;
        Ok(Self { relay, base, stored, _process: process, _folder: folder })
    }
}

/// Starts a HAPI; its log lies in `folder`, its data in a file of `database`, or in memory.
pub(crate) async fn hapi(
    options: &[&str],
    port: u16,
    folder: &Path,
    database: Option<&Path>,
) -> anyhow::Result<Process> {
    let home = PathBuf::from(data::needed("OFFTAKE_REAL_HAPI")?);
    let classes = format!("{0}/hapi-upstream.jar:{0}/lib/*", home.display());
    let mut command = Command::new("java");
    command.args(["-Xmx1500m", "-cp", &classes, "offtake.real.Upstream", "--port", &port.to_string()]);
    if let Some(database) = database {
        command.arg("--db").arg(database);
    }
    command.args(options);
    let mut process = Process::start(&mut command, &folder.join("log"))?;
    process.until(TO_START, async |said: &str| said.contains("ready http://")).await?;
    Ok(process)
}
