//! Processes that tests start, and that end with them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::net::TcpListener;

/// A process; dropped, it is told to end, and killed if it does not.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// How long a process may take to end.
const TO_END: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

impl Process {
    /// Starts it; what it says goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let (out, error) = (File::create(log)?, File::options().append(true).open(log)?);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(error).spawn().context("starting it")?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Waits until it is ready, for so long at most.
    pub(crate) async fn until(
        &mut self,
        patience: Duration,
        mut is_ready: impl AsyncFnMut(&str) -> bool,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            if is_ready(&said).await {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.said());
            }
            if began.elapsed() > patience {
                bail!("it is not ready after {patience:?}: {}", self.said());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Tells it to end, and waits until it has, for so long at most.
    pub(crate) async fn stop(mut self, patience: Duration) -> anyhow::Result<()> {
        self.terminate();
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < patience, "it does not end: {}", self.said());
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended already; there is nobody to tell.
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// What it has said last.
    pub(crate) fn said(&self) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.terminate();
        let began = Instant::now();
        while began.elapsed() < TO_END {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// A port that the system gives to nobody else for a while.
pub(crate) async fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}
