//! An Offtake in front of a sample upstream whose files go to a storage.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use offtake::testing::{CrashPoint, JobStore};
use offtake::{Config, Offtake};
use sample_upstream::{Running, SampleUpstream, Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Client, Manifest};
use crate::crash_output::CrashOutput;
use crate::crash_parts::CrashParts;
use crate::expected;
use crate::storage::Storage;

/// How long a removal may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A server to be exported, and the folder of its output.
pub(crate) struct World<'a> {
    pub(crate) storage: &'a Storage,
    pub(crate) upstream: SampleUpstream,
    /// What all keys begin with.
    pub(crate) folder: String,
    /// Lines of the section `output`.
    pub(crate) output: String,
    /// Lines of its part `http`.
    pub(crate) http: String,
    server: Running,
    state: TempDir,
}

fn next_folder() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("exports/t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One process's life, within this one.
pub(crate) struct Life {
    pub(crate) base: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl<'a> World<'a> {
    pub(crate) async fn with_patients(storage: &'a Storage, patients: usize) -> anyhow::Result<Self> {
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(patients);
        Self::of(storage, upstream).await
    }

    pub(crate) async fn of(storage: &'a Storage, upstream: SampleUpstream) -> anyhow::Result<Self> {
        let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;
        let folder = next_folder();
        let output = storage.output(&folder);
        let http = storage.http();
        Ok(Self { storage, upstream, folder, output, http, server, state: tempfile::tempdir()? })
    }

    /// Goes on in a folder that nobody has used.
    pub(crate) fn move_on(&mut self) {
        self.folder = next_folder();
        self.output = self.storage.output(&self.folder);
    }

    /// The text of a configuration with these lines of `output` besides.
    pub(crate) fn yaml(&self, base: &str, more: &str) -> String {
        format!(
            "server: {{ public_base_url: '{base}', listen: '{}' }}\nupstream: {{ base_url: '{}' }}\n\
             store: {{ path: '{}' }}\noutput: {{ {}, http: {{ {} }}, {more} }}\n",
            base.trim_start_matches("http://").trim_end_matches("/fhir"),
            self.server.base_url,
            self.state.path().join("state").display(),
            self.output,
            self.http,
        )
    }

    /// A configuration with these lines of `output` besides.
    pub(crate) fn config(&self, base: &str, more: &str) -> anyhow::Result<Config> {
        Ok(Config::from_yaml(&self.yaml(base, more))?)
    }

    /// Runs `offtake doctor` with these lines of `output` and these variables besides: whether all is fit, and what it says.
    pub(crate) async fn doctor(&self, more: &str, variables: &[(&str, &str)]) -> anyhow::Result<(bool, String)> {
        let config = self.state.path().join("doctor.yaml");
        std::fs::write(&config, self.yaml("http://127.0.0.1:1/fhir", more))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
        command.arg("doctor").arg("--config").arg(&config).envs(variables.iter().copied());
        let ended = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = format!("{}{}", String::from_utf8(ended.stdout)?, String::from_utf8_lossy(&ended.stderr));
        Ok((ended.status.success(), said))
    }

    /// Begins a life that nothing disturbs.
    pub(crate) async fn begin(&self, more: &str) -> anyhow::Result<Life> {
        self.live(more, |builder| builder).await
    }

    /// Begins a life on `store` that stops for good at `point`.
    pub(crate) async fn begin_until(
        &self,
        more: &str,
        store: &JobStore,
        point: &Arc<CrashPoint>,
    ) -> anyhow::Result<Life> {
        let (first, second) = (Arc::clone(point), Arc::clone(point));
        self.live(more, |builder| {
            builder
                .store(store.until(point))
                .output_through(move |below| Arc::new(CrashOutput::new(below, first)))
                .uploads_through(move |below| Arc::new(CrashParts::new(below, second)))
        })
        .await
    }

    /// Begins a life that tells the name of each small object that it has written.
    pub(crate) async fn begin_telling(
        &self,
        more: &str,
        store: &JobStore,
        on_put: impl Fn(&str) + Send + Sync + 'static,
    ) -> anyhow::Result<Life> {
        let point = Arc::new(CrashPoint::new(None));
        self.live(more, |builder| {
            builder
                .store(store.clone())
                .output_through(move |below| Arc::new(CrashOutput::new(below, point).telling(on_put)))
        })
        .await
    }

    async fn live(
        &self,
        more: &str,
        change: impl FnOnce(offtake::Builder) -> offtake::Builder,
    ) -> anyhow::Result<Life> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}/fhir", listener.local_addr()?);
        let offtake = change(Offtake::builder(self.config(&base, more)?)).build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        Ok(Life { base, stop, serving })
    }

    /// Downloads what a manifest lists, and fails unless it is exactly what `path` asks for.
    pub(crate) async fn compare(&self, path: &str, manifest: &Manifest) -> anyhow::Result<()> {
        let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for file in &manifest.output {
            let answer = self.storage.fetch(&file.url).await?;
            ensure!(
                answer.status == 200,
                "a download was answered with {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
            let lines = answer.body.iter().filter(|byte| **byte == b'\n').count();
            ensure!(lines == file.count, "a file of {} has {lines} lines, not {}", file.resource_type, file.count);
            received.entry(file.resource_type.clone()).or_default().extend(answer.body);
        }
        let difference = expected::compare(&expected::of(&self.upstream, path), &received)?;
        ensure!(difference.is_none(), "{path}:\n{difference}");
        Ok(())
    }

    /// Waits until nothing of ours is left in the storage, by what it lists itself.
    pub(crate) async fn is_empty(&self) -> anyhow::Result<()> {
        until("nothing is left", PATIENCE, async || {
            let left = self.storage.left_in(&self.folder).await?;
            ensure!(left.is_empty(), "left: {left:#?}");
            Ok(())
        })
        .await
    }

    /// The same of objects alone.
    pub(crate) async fn has_no_objects(&self) -> anyhow::Result<()> {
        until("no object is left", PATIENCE, async || {
            let mut left = self.storage.left_in(&self.folder).await?;
            left.retain(|line| line.starts_with("object "));
            ensure!(left.is_empty(), "left: {left:#?}");
            Ok(())
        })
        .await
    }

    pub(crate) async fn end(self) {
        self.server.stop().await;
    }
}

impl Life {
    /// Kicks off and waits: the URL to poll, and the manifest.
    pub(crate) async fn export(&self, path: &str) -> anyhow::Result<(String, Manifest)> {
        let client = Client::new();
        let status = client.kick_off(&format!("{}{path}", self.base)).await?;
        let manifest = client.wait(&status, |_| {}).await?;
        Ok((status, manifest))
    }

    pub(crate) async fn end(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.serving.await.context("serving panicked")?
    }

    /// Ends it without a word.
    pub(crate) async fn abort(self) {
        self.serving.abort();
        let ended = self.serving.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it was serving");
    }
}

/// Asks again and again until what is asked for is so; fails with the last reason why not.
pub(crate) async fn until(
    what: &str,
    patience: Duration,
    mut is_so: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        match is_so().await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > patience => {
                return Err(error.context(format!("not within {patience:?}: {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
