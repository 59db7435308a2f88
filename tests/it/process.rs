//! The built `offtake serve`, as a process of its own that can be killed, started anew and measured.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::client::{Client, Manifest, Poll};

/// What a configuration says beside addresses and folders: lines of these sections.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) upstream: &'static str,
    pub(crate) output: &'static str,
}

/// A running Offtake. Dropped, it is killed.
pub(crate) struct Process {
    /// The public FHIR base.
    pub(crate) base: String,
    child: Child,
    config: PathBuf,
    folder: TempDir,
}

/// Longest wait for anything that a test waits for.
const PATIENCE: Duration = Duration::from_mins(30);
const PAUSE: Duration = Duration::from_millis(20);

impl Process {
    /// Starts it in front of `upstream`, on a port and with folders of its own, and waits until it answers.
    pub(crate) async fn start(upstream: &str, options: Options) -> anyhow::Result<Self> {
        Self::start_for(upstream, options, "").await
    }

    /// The same for clients that `smart` names.
    pub(crate) async fn start_for(upstream: &str, options: Options, smart: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let config = folder.path().join("offtake.yaml");
        let path = folder.path().display();
        let Options { upstream: more_upstream, output: more_output } = options;
        std::fs::write(
            &config,
            format!(
                "server: {{ listen: 127.0.0.1:{port}, public_base_url: http://127.0.0.1:{port}/fhir, \
                 max_bulk_requests_per_peer: 100000 }}\n\
                 upstream: {{ base_url: {upstream}, accepts_anonymous: acknowledged, {more_upstream} }}\n\
                 output: {{ location: file://{path}/output, min_free_bytes: 0, {more_output} }}\n\
                 store: {{ path: {path}/state }}\n\
                 export: {{ early_polls_per_second: 1000000 }}\n\
                 smart: {{ {smart} }}\n"
            ),
        )?;
        let child = spawn(&config, folder.path())?;
        let process = Self { base: format!("http://127.0.0.1:{port}/fhir"), child, config, folder };
        process.wait_until_ready().await?;
        Ok(process)
    }

    /// Starts another one with the same output, and a state folder of its own that `prepare` may fill from this one's. It
    /// does not wait for anything.
    pub(crate) fn beside(&self, prepare: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let text = std::fs::read_to_string(&self.config)?;
        let own = self.base.trim_start_matches("http://127.0.0.1:").trim_end_matches("/fhir");
        let state = folder.path().join("state");
        let text = text.replace(&format!(":{own}"), &format!(":{port}"));
        let text = text.replace(&self.state().display().to_string(), &state.display().to_string());
        let config = folder.path().join("offtake.yaml");
        std::fs::write(&config, text)?;
        prepare(&state)?;
        let child = spawn(&config, folder.path())?;
        Ok(Self { base: format!("http://127.0.0.1:{port}/fhir"), child, config, folder })
    }

    /// SIGKILL: nothing of the process runs any more. It does not wait for anything.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("killing it")?;
        self.child.wait().context("waiting for its end")?;
        Ok(())
    }

    /// SIGTERM, and waits until it has ended in good order.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("stopping it")?;
        let ended = self.child.wait().context("waiting for its end")?;
        ensure!(ended.success(), "it ended with {ended}:\n{}", self.log());
        Ok(())
    }

    /// Starts it again on what it left behind.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.config, self.folder.path())?;
        Ok(())
    }

    /// Changes its configuration, and tells it so by SIGHUP.
    pub(crate) fn reload(&self, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
        std::fs::write(&self.config, change(std::fs::read_to_string(&self.config)?))?;
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).context("telling it")
    }

    /// Where files are kept.
    pub(crate) fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    /// Where jobs and keys are kept.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Runs another command of the program with the same configuration, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
        command.args(arguments).arg("--config").arg(&self.config).output().context("running a command")
    }

    /// Waits until an export has ended well.
    pub(crate) async fn finished(&self, client: &Client, status: &str) -> anyhow::Result<Manifest> {
        until("the export ends", async || {
            Ok(match self.poll(client, status).await? {
                Some(Poll::Complete(manifest)) => Some(manifest),
                Some(Poll::Running(_) | Poll::Other(..)) | None => None,
            })
        })
        .await
        .with_context(|| self.log())
    }

    /// `VmHWM`: the most memory that it has had at any time since it was started, in bytes.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmHWM")?;
        Ok(kibibytes.trim().parse::<u64>()? * 1024)
    }

    /// What the system allows it, as `/proc` has it.
    pub(crate) fn limits(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/limits", self.child.id()))?)
    }

    /// Kicks off as soon as it can be done; gives the URL to poll.
    pub(crate) async fn kick_off(&self, client: &Client, path: &str) -> anyhow::Result<String> {
        client.kick_off(&format!("{}{path}", self.base)).await.with_context(|| self.log())
    }

    /// How an export stands; `None` as long as nobody answers or the job store is not open yet.
    pub(crate) async fn poll(&self, client: &Client, status: &str) -> anyhow::Result<Option<Poll>> {
        match client.poll(status).await {
            Ok(Poll::Other(code, said)) if code != 503 => {
                bail!("the export ended with {code}: {said}\n{}", self.log())
            }
            Ok(Poll::Other(..)) | Err(_) => Ok(None),
            Ok(poll) => Ok(Some(poll)),
        }
    }

    /// All that it has told.
    pub(crate) fn whole_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What it has told last.
    pub(crate) fn log(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let (client, began) = (Client::new(), Instant::now());
        // Bulk routes answer 503 until the job store is open, and then 404 for a job that there never was; 401 where
        // clients have tokens, also before that.
        let nowhere = format!("{}/$bulk-status/00000000000000000000000000000000", self.base);
        while !matches!(client.poll(&nowhere).await, Ok(Poll::Other(code, _)) if code == 404 || code == 401) {
            if began.elapsed() > PATIENCE {
                bail!("it does not answer:\n{}", self.log());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ended = self.kill();
    }
}

/// Asks `question` again and again until it has an answer.
pub(crate) async fn until<T>(
    what: &str,
    mut question: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = question().await? {
            return Ok(answer);
        }
        if began.elapsed() > PATIENCE {
            bail!("waited in vain: {what}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn spawn(config: &Path, folder: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
    command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // As deploy/ has it.
    command.env("MALLOC_ARENA_MAX", "1");
    command.spawn().context("starting it")
}

/// A port below those that the system gives away: nobody takes it while the process is down.
fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 1_000).unwrap_or(0) * 12;
    for _ in 0..1_000 {
        let port = 20_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}
