//! The built `offtake serve` as a process of its own, which can be killed, started anew and measured.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::client::{Client, Poll};
use crate::support::{PATIENCE, until};

/// Dropped, it is killed.
pub(crate) struct Process {
    pub(crate) base: String,
    /// Runs the command that stands after it.
    launcher: Vec<String>,
    child: Child,
    folder: TempDir,
}

impl Process {
    /// Starts it by `launcher` with what `config` says for its base, and waits until it answers.
    pub(crate) async fn start(launcher: Vec<String>, config: impl FnOnce(&str) -> String) -> anyhow::Result<Self> {
        // The system gives such a port to nobody else for a while.
        let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let base = format!("http://{address}/fhir");
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("offtake.yaml"), config(&base))?;
        let child = spawn(&launcher, &folder)?;
        let process = Self { base, launcher, child, folder };
        process.is_ready().await?;
        Ok(process)
    }

    /// SIGKILL: nothing of it runs any more.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("killing it")?;
        self.child.wait().context("waiting for its end")?;
        Ok(())
    }

    /// Starts it again on what it has left behind; it does not wait for anything.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.launcher, &self.folder)?;
        Ok(())
    }

    /// `VmHWM`: the most memory that it has had at any time since it was started, in bytes.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmHWM")?;
        Ok(kibibytes.trim().parse::<u64>()? * 1024)
    }

    /// What it has told last.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(log(&self.folder)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    async fn is_ready(&self) -> anyhow::Result<()> {
        // Bulk routes answer 503 until the job store is open, and then 404 for a job that there never was.
        let nowhere = format!("{}/$bulk-status/00000000000000000000000000000000", self.base);
        let client = Client::new();
        let answers = until("it answers", PATIENCE, async || match client.poll(&nowhere).await? {
            Poll::Other(code, _) if code == 404 => Ok(()),
            other => bail!("{other:?}"),
        });
        answers.await.with_context(|| self.log())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ended = self.kill();
    }
}

fn log(folder: &TempDir) -> PathBuf {
    folder.path().join("log")
}

fn spawn(launcher: &[String], folder: &TempDir) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(log(folder))?;
    // `env` alone runs what stands after it.
    let mut command = Command::new("env");
    // As deploy/ has it.
    command.arg("MALLOC_ARENA_MAX=1").args(launcher).arg(env!("CARGO_BIN_EXE_offtake"));
    command.arg("serve").arg("--config").arg(folder.path().join("offtake.yaml"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("starting it")
}
