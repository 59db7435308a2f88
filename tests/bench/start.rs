//! How soon a process answers that has just been started:
//!
//! ```text
//! cargo bench --locked --bench start -- [--rounds N] [--jobs N] [--files N]
//! ```
//!
//! With an empty job store: from the start of the process until `/health/ready` says so. With one of many finished exports, after
//! SIGKILL and with nothing of it in the page cache (as root; otherwise it is said that it was): until a status request is answered
//! with a manifest. The exit code is 0 if both are as quick as they are promised to be.

#[path = "../../examples/support/client.rs"]
#[expect(dead_code, reason = "a benchmark downloads nothing")]
mod client;
mod verdict;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use client::Client;
use http_body_util::Full;
use hyper::Request;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sample_upstream::{SampleUpstream, Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Finished exports in the job store.
    #[arg(long, default_value_t = 10_000)]
    jobs: u32,
    /// Files of each.
    #[arg(long, default_value_t = 200)]
    files: u32,
    /// What `cargo bench` adds by itself.
    #[arg(long, hide = true)]
    bench: bool,
}

const MOST_UNTIL_READY: f64 = 0.1;
const MOST_UNTIL_ANSWERED: f64 = 1.0;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(1);

#[tokio::main]
async fn main() -> ExitCode {
    verdict::ended(measure(&Arguments::parse()).await)
}

async fn measure(arguments: &Arguments) -> anyhow::Result<bool> {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
    let mut until_ready = Vec::new();
    for _ in 0..arguments.rounds {
        let place = Place::before(&server.base_url).await?;
        let process = place.start()?;
        until_ready.push(place.until(&place.ready()?, process.began).await?);
    }
    let mut held = holds("start to ready, empty store", &mut until_ready, MOST_UNTIL_READY);

    let place = Place::before(&server.base_url).await?;
    let process = place.start()?;
    place.until(&place.ready()?, process.began).await?;
    let client = Client::new();
    let status = client.kick_off(&format!("{}/$export", place.base)).await?;
    client.wait(&status, |_| {}).await?;
    drop(process);
    let began = Instant::now();
    let (state, jobs, files) = (place.folder.path().join("state/jobs"), arguments.jobs, arguments.files);
    tokio::task::spawn_blocking(move || offtake::testing::multiply_jobs(&state, jobs, files)).await??;
    let bytes = size(&place.folder.path().join("state"));
    println!(
        "{jobs} exports of {files} files each: {} MB in the job store, made in {:.0?}",
        bytes / 1_000_000,
        began.elapsed()
    );
    let mut until_answered = Vec::new();
    let mut is_cold = true;
    for _ in 0..arguments.rounds {
        // One that runs, and is killed.
        let process = place.start()?;
        place.until(&place.ready()?, process.began).await?;
        drop(process);
        is_cold &= forget_pages();
        let process = place.start()?;
        until_answered.push(place.until(&request(&status, None)?, process.began).await?);
    }
    if is_cold {
        held &= holds("SIGKILL to a status, with a cold page cache", &mut until_answered, MOST_UNTIL_ANSWERED);
    } else {
        println!("NOT RUN: SIGKILL to a status (only root can empty the page cache)");
    }
    server.stop().await;
    Ok(held)
}

fn holds(name: &str, seconds: &mut [f64], most: f64) -> bool {
    seconds.sort_unstable_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
    let (least, longest) = (seconds.first().copied().unwrap_or(f64::NAN), seconds.last().copied().unwrap_or(f64::NAN));
    let is_so = median < most;
    let verdict = if is_so { "holds" } else { "DOES NOT HOLD" };
    println!(
        "{name}: {:.0} ms ({:.0} to {:.0}), less than {:.0}: {verdict}",
        median * 1e3,
        least * 1e3,
        longest * 1e3,
        most * 1e3
    );
    is_so
}

/// Where a process is configured and keeps what it knows.
struct Place {
    base: String,
    admin: String,
    config: PathBuf,
    folder: TempDir,
}

/// A process, killed when it is dropped.
struct Process {
    child: Child,
    began: Instant,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Place {
    async fn before(upstream: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let [port, admin] = [free_port().await?, free_port().await?];
        let (token, config) = (folder.path().join("token"), folder.path().join("offtake.yaml"));
        std::fs::write(&token, TOKEN)?;
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600))?;
        let path = folder.path().display();
        std::fs::write(
            &config,
            format!(
                "server: {{ listen: '127.0.0.1:{port}', public_base_url: 'http://127.0.0.1:{port}/fhir' }}\n\
                 upstream: {{ base_url: '{upstream}', accepts_anonymous: acknowledged }}\n\
                 smart: {{ mode: open }}\n\
                 admin: {{ listen: '127.0.0.1:{admin}', token_file: '{path}/token' }}\n\
                 output: {{ location: 'file://{path}/output' }}\n\
                 store: {{ path: '{path}/state' }}\n",
            ),
        )?;
        let base = format!("http://127.0.0.1:{port}/fhir");
        Ok(Self { base, admin: format!("http://127.0.0.1:{admin}"), config, folder })
    }

    fn start(&self) -> anyhow::Result<Process> {
        let log = std::fs::File::create(self.folder.path().join("log"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
        command.args(["serve", "--config"]).arg(&self.config).stdout(Stdio::null()).stderr(log);
        let began = Instant::now();
        Ok(Process { child: command.spawn()?, began })
    }

    fn ready(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        request(&format!("{}/health/ready", self.admin), Some(TOKEN))
    }

    /// Asks until the answer is 200: seconds since `began`.
    async fn until(&self, request: &Request<Full<Bytes>>, began: Instant) -> anyhow::Result<f64> {
        let http: HttpClient<HttpConnector, Full<Bytes>> = HttpClient::builder(TokioExecutor::new()).build_http();
        loop {
            if http.request(request.clone()).await.is_ok_and(|answer| answer.status() == 200) {
                return Ok(began.elapsed().as_secs_f64());
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "no answer: {}",
                std::fs::read_to_string(self.folder.path().join("log"))?
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

fn request(url: &str, token: Option<&str>) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = Request::get(url);
    let request = match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    };
    request.body(Full::default()).context("a request")
}

async fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

/// Has the system forget what it has of files in memory; `false` if it does not let us.
fn forget_pages() -> bool {
    let is_written = Command::new("sync").status().is_ok_and(|status| status.success());
    is_written && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Bytes of a folder and of what is below it.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |path: PathBuf| if path.is_dir() { size(&path) } else { path.metadata().map_or(0, |file| file.len()) };
    entries.filter_map(|entry| entry.ok().map(|entry| of(entry.path()))).sum()
}
