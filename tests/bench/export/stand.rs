//! Offtake before the server, as a process of its own: its processor time and its peak memory are nobody else's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use offtake::{Config, Offtake};
use sample_upstream::Running;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::client::{Client, Poll};
use crate::null::NullStore;
use crate::storage::Storage;

/// Where an export goes.
pub(crate) enum Target {
    /// To a store that forgets it.
    Null,
    Disk,
    Cloud(Storage),
}

/// The built program before the server.
pub(crate) struct Stand {
    base: String,
    child: Child,
    folder: TempDir,
    client: Client,
    is_on_disk: bool,
}

/// One export.
pub(crate) struct Exported {
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
    /// NDJSON, where it went to disk.
    pub(crate) bytes: u64,
}

/// The first argument of this program where it is to be Offtake with a store that forgets.
pub(crate) const SERVE_NULL: &str = "serve-null";
/// How long it may take until what is deleted is gone.
const TO_REMOVE: Duration = Duration::from_mins(1);
/// Between two looks at whether an export has ended.
const POLL: Duration = Duration::from_millis(10);

impl Target {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Null => "a store that forgets".to_owned(),
            Self::Disk => "local disk".to_owned(),
            Self::Cloud(storage) => storage.name.clone(),
        }
    }

    fn output(&self, folder: &Path) -> String {
        match self {
            Self::Null | Self::Disk => format!("location: 'file://{}/output'", folder.display()),
            Self::Cloud(storage) => {
                let below = format!("bench/{}", folder.file_name().unwrap_or_default().to_string_lossy());
                format!("{}, http: {{ {} }}", storage.output(&below), storage.http())
            }
        }
    }
}

impl Stand {
    pub(crate) async fn before(server: &Running, target: &Target, searches: usize) -> anyhow::Result<Self> {
        // Beside what is built: a temporary folder may be no disk.
        let folder = tempfile::Builder::new().prefix("stand-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
        let config = folder.path().join("offtake.yaml");
        std::fs::write(
            &config,
            format!(
                "server: {{ listen: '127.0.0.1:{port}', public_base_url: 'http://127.0.0.1:{port}/fhir' }}\n\
                 upstream: {{ base_url: '{}', accepts_anonymous: acknowledged, max_concurrent_searches: {searches} }}\n\
                 smart: {{ mode: open }}\n\
                 export: {{ early_polls_per_second: 1000000 }}\n\
                 output: {{ {} }}\n\
                 store: {{ path: '{}/state' }}\n",
                server.base_url,
                target.output(folder.path()),
                folder.path().display(),
            ),
        )?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = if matches!(target, Target::Null) {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(SERVE_NULL).arg(config);
            command
        } else {
            let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
            command.args(["serve", "--config"]).arg(config);
            command
        };
        // As deploy/ has it.
        command.env("MALLOC_ARENA_MAX", "1");
        let child = command.stdout(Stdio::null()).stderr(log).spawn()?;
        let base = format!("http://127.0.0.1:{port}/fhir");
        let is_on_disk = matches!(target, Target::Disk);
        let stand = Self { base, child, folder, client: Client::new(), is_on_disk };
        // The server is found out about before anything is timed: once a day, that is.
        for _ in 0..600 {
            if let Ok(status) = stand.client.kick_off(&format!("{}/$export?_type=Basic", stand.base)).await {
                stand.client.wait(&status, |_| {}).await?;
                stand.removed(&status).await?;
                return Ok(stand);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("it does not start: {}", std::fs::read_to_string(stand.folder.path().join("log"))?)
    }

    /// Exports all, and has it removed again.
    pub(crate) async fn export(&self, types: &[String], resources: usize) -> anyhow::Result<Exported> {
        let (cpu, began) = (self.cpu()?, Instant::now());
        let status = self.client.kick_off(&format!("{}/$export?_type={}", self.base, types.join(","))).await?;
        let manifest = loop {
            match self.client.poll(&status).await? {
                Poll::Running(_) => tokio::time::sleep(POLL).await,
                Poll::Complete(manifest) => break manifest,
                Poll::Other(status, said) => anyhow::bail!("the export ended with {status}: {said}"),
            }
        };
        let (took, cpu) = (began.elapsed(), self.cpu()?.saturating_sub(cpu));
        let exported: usize = manifest.output.iter().map(|file| file.count).sum();
        ensure!(exported == resources, "{exported} of {resources} resources were exported");
        let bytes = written(&self.folder.path().join("output"));
        self.removed(&status).await?;
        Ok(Exported { took, cpu, bytes })
    }

    /// Has an export removed, and waits until it is.
    async fn removed(&self, status: &str) -> anyhow::Result<()> {
        self.client.delete(status).await?;
        let began = Instant::now();
        while self.is_on_disk && written(&self.folder.path().join("output")) > 0 {
            ensure!(began.elapsed() < TO_REMOVE, "what was deleted is still there");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(") ").context("a process has a name")?.1.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        // Linux counts them in hundredths of a second for everybody.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Its peak memory in megabytes.
    pub(crate) fn peak(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1_024.0 / 1e6)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Is Offtake by this configuration, with an output that forgets, until it is killed.
pub(crate) async fn serve_null(config: &Path) -> anyhow::Result<()> {
    let config = Config::from_yaml(&std::fs::read_to_string(config)?)?;
    let listener = TcpListener::bind(&config.server.listen.to_string()).await?;
    let offtake = Offtake::builder(config).output(Arc::new(NullStore::default())).build()?;
    offtake.run_on(listener, std::future::pending()).await
}

/// Bytes of NDJSON in a folder and below it.
fn written(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |path: PathBuf| match path.extension() {
        _ if path.is_dir() => written(&path),
        Some(extension) if extension == "ndjson" => path.metadata().map_or(0, |file| file.len()),
        _ => 0,
    };
    entries.filter_map(|entry| entry.ok().map(|entry| of(entry.path()))).sum()
}
