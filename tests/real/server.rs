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

/// The folder with little data.
const LITTLE: &str = "OFFTAKE_REAL_DATA";

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

/// Which server, with which settings, holding how much.
#[derive(Clone, Copy)]
enum Kind {
    /// A HAPI with a few thousand resources, in memory, and options of `Upstream.java`.
    Hapi(&'static [&'static str]),
    /// One with more than 50,000, in a file.
    LargeHapi(&'static [&'static str]),
    Helios(Helios),
    /// The router of AWS's FHIR Works over a small store of ours.
    Aws,
}

/// How a helios-hfs is set up. It asks nobody under which address it is reached.
#[derive(Clone, Copy)]
struct Helios {
    /// The address in its links; that by which it is read if there is none.
    base: Option<&'static str>,
    /// Whether it knows the search parameters of R4, which it does not bring. Without them it ignores every other one than
    /// those of all resources.
    knows_parameters: bool,
}

/// Each of the ways in which a server is set up.
const SETUPS: [(&str, Kind); 15] = [
    // The defaults of HAPI's own starter project.
    ("hapi", Kind::Hapi(&[])),
    ("hapi-large", Kind::LargeHapi(&[])),
    // The same, for others to write to.
    ("hapi-written", Kind::LargeHapi(&[])),
    ("hapi-pages-20", Kind::LargeHapi(&["--default-page-size", "20", "--max-page-size", "20"])),
    ("hapi-pages-500", Kind::LargeHapi(&["--default-page-size", "500", "--max-page-size", "500"])),
    ("hapi-pages-1000", Kind::LargeHapi(&["--default-page-size", "1000", "--max-page-size", "1000"])),
    ("hapi-foreign", Kind::LargeHapi(&["--server-address", "https://fhir.example.org/r4"])),
    // Lists that are of no use to anybody once nobody has read them for a minute or two, and pages that need lists.
    ("hapi-short-lists", Kind::LargeHapi(&["--retain-ms", "1", "--reuse-ms", "off", "--max-page-size", "100"])),
    ("hapi-compact", Kind::LargeHapi(&["--pretty", "false"])),
    // Lists are made at once and in whole.
    ("hapi-prefetch-all", Kind::LargeHapi(&["--prefetch", "-1"])),
    // Lists end there, whatever more there is.
    ("hapi-prefetch-2003", Kind::LargeHapi(&["--prefetch", "13,503,2003"])),
    ("helios", Kind::Helios(Helios { base: None, knows_parameters: true })),
    ("helios-bare", Kind::Helios(Helios { base: None, knows_parameters: false })),
    // What it says by itself wherever it is reached.
    ("helios-foreign", Kind::Helios(Helios { base: Some("http://localhost:8080"), knows_parameters: true })),
    ("aws", Kind::Aws),
];

impl Setup {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), server: OnceCell::new() }
    }

    /// What it is, however it is set up.
    pub(crate) fn software(&self) -> &str {
        self.name.split('-').next().unwrap_or(&self.name)
    }

    /// Runs, with its data in it.
    pub(crate) async fn server(&self) -> anyhow::Result<&Server> {
        self.server.get_or_try_init(|| Server::start(&self.name)).await
    }
}

impl Server {
    async fn start(name: &str) -> anyhow::Result<Self> {
        let (_, kind) = SETUPS.iter().find(|(own, _)| *own == name).context("no such server")?;
        let folder = tempfile::tempdir()?;
        let (port, http) = (free_port().await?, Http::new());
        let path = if matches!(kind, Kind::Helios(_) | Kind::Aws) { "" } else { "/fhir" };
        let (base, relay) = (format!("http://127.0.0.1:{port}{path}"), Relay::before(port, path).await?);
        let starting = || format!("starting {name}");
        let process = match kind {
            Kind::Hapi(options) => hapi(options, port, folder.path(), None).await,
            Kind::LargeHapi(options) => {
                loaded::copied_to(folder.path()).await?;
                hapi(options, port, folder.path(), Some(folder.path())).await
            }
            Kind::Helios(setup) => helios(*setup, &relay.base, port, folder.path()).await,
            Kind::Aws => aws(&relay.base, port, folder.path()).await,
        };
        let process = process.with_context(starting)?;
        let stored = match kind {
            Kind::LargeHapi(_) => loaded::stored()?,
            Kind::Hapi(_) => filled(&http, &base, "transaction").await?,
            Kind::Helios(_) => filled(&http, &base, "batch").await?,
            Kind::Aws => {
                Stored::read_singly(&http, &base, &data::read(LITTLE)?).await.context("reading what it holds")?
            }
        };
        stored.is_counted(&http, &base).await?;
        Ok(Self { relay, base, stored, _process: process, _folder: folder })
    }
}

/// Writes little data to a server, and says what it holds then.
async fn filled(http: &Http, base: &str, bundle_type: &str) -> anyhow::Result<Stored> {
    let written: Resources = data::read(LITTLE)?;
    data::load(http, base, bundle_type, &written).await.context("loading it")?;
    Stored::read(http, base, &written).await.context("reading what it holds")
}

/// Starts a helios-hfs that is read by `base`; its log and its data lie in `folder`.
async fn helios(setup: Helios, base: &str, port: u16, folder: &Path) -> anyhow::Result<Process> {
    let home = PathBuf::from(data::needed("OFFTAKE_REAL_HELIOS")?);
    let parameters = if setup.knows_parameters { home.join("data") } else { folder.to_owned() };
    let mut command = Command::new(home.join("bin/hfs"));
    command.args(["--host", "127.0.0.1", "--port", &port.to_string()]).current_dir(folder);
    command.env("HFS_DATABASE_URL", folder.join("database")).env("HFS_DATA_DIR", parameters);
    command.env("HFS_BASE_URL", setup.base.unwrap_or(base));
    for (name, value) in [
        ("HFS_BULK_EXPORT_ENABLED", "true"),
        ("HFS_UI_ENABLED", "false"),
        ("HFS_NL_SEARCH_ENABLED", "false"),
        ("HFS_SEED_CONFORMANCE", "false"),
    ] {
        command.env(name, value);
    }
    let mut process = Process::start(&mut command, &folder.join("log"))?;
    let (http, metadata) = (Http::new(), format!("http://127.0.0.1:{port}/metadata"));
    let is_there = async |_: &str| http.get::<serde_json::Value>(&metadata).await.is_ok();
    process.until(TO_START, is_there).await?;
    Ok(process)
}

/// Starts AWS's router that is read by `base`, over the little data, which it takes as it is; its log and its data lie in `folder`.
async fn aws(base: &str, port: u16, folder: &Path) -> anyhow::Result<Process> {
    let resources = folder.join("resources.ndjson");
    data::write(&resources, &data::read(LITTLE)?)?;
    let mut command = Command::new("node");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/aws/server.mjs"))
        .arg(data::needed("OFFTAKE_REAL_AWS")?);
    // Else it asks where it is hosted for its settings.
    command.arg(port.to_string()).arg(base).arg(&resources).env("ENABLE_MULTI_TENANCY", "false");
    let mut process = Process::start(&mut command, &folder.join("log"))?;
    process.until(TO_START, async |said: &str| said.contains("ready")).await?;
    Ok(process)
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
