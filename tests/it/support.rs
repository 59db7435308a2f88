//! An Offtake in front of a sample upstream, as tests use it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use offtake::{Clock, Config, Offtake, SystemClock};
use sample_upstream::{Running, SampleUpstream, Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Client, Manifest};
use crate::exact::paths_below;
use crate::expected;
use crate::raw::{self, Answer};
use crate::watchdog;

/// The object that says whose an output is; it stays.
pub(crate) const MARKER: &str = "offtake.instance";
/// The copy of the ledger's head; it stays, too.
pub(crate) const HEAD: &str = "ledger.head";

/// A running Offtake and the server behind it.
pub(crate) struct App {
    /// The public FHIR base.
    pub(crate) base: String,
    pub(crate) upstream: SampleUpstream,
    pub(crate) folder: TempDir,
    server: Running,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl App {
    /// In front of an upstream with generated data.
    pub(crate) async fn with_patients(patients: usize, settings: Settings) -> Self {
        let upstream = SampleUpstream::new(settings);
        upstream.generate(patients);
        Self::before(upstream, |_| {}).await
    }

    /// In front of this upstream, with some options changed.
    pub(crate) async fn before(upstream: SampleUpstream, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_clock(upstream, change, Arc::new(SystemClock)).await
    }

    /// The same by another clock.
    pub(crate) async fn with_clock(
        upstream: SampleUpstream,
        change: impl FnOnce(&mut Config),
        clock: Arc<dyn Clock>,
    ) -> Self {
        let server = upstream.serve(listener().await).await;
        let Front { base, folder, stop, serving } = Front::before(&server.base_url, change, clock).await;
        Self { base, upstream, folder, server, stop, serving }
    }

    /// Kicks off, waits and downloads: the manifest, and the lines of each type.
    pub(crate) async fn export(&self, path: &str) -> anyhow::Result<(Manifest, BTreeMap<String, Vec<u8>>)> {
        let client = Client::new();
        let status = client.kick_off(&format!("{}{path}", self.base)).await?;
        let manifest = client.wait(&status, |_| {}).await?;
        let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for file in &manifest.output {
            let bytes = client.download(&file.url).await?;
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            ensure!(lines == file.count, "a file of {} has {lines} lines, not {}", file.resource_type, file.count);
            received.entry(file.resource_type.clone()).or_default().extend_from_slice(&bytes);
        }
        Ok((manifest, received))
    }

    /// Exports, and fails unless exactly what the upstream holds came, each resource once and byte for byte. `path` is
    /// a level, also with a list of types after it: `?_type=Patient,Observation`.
    pub(crate) async fn export_exactly(&self, path: &str) -> anyhow::Result<Manifest> {
        let (manifest, received) = self.export(path).await?;
        let expected = expected::of(&self.upstream, path);
        let difference = expected::compare(&expected, &received)?;
        ensure!(difference.is_none(), "{path}:\n{difference}");
        Ok(manifest)
    }

    /// Sends one request whose target is below the base, as it stands here and with these headers only.
    pub(crate) async fn ask(&self, method: &str, below: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        raw::ask(&self.host(), &raw::request(method, &format!("/fhir{below}"), &self.host(), headers, body)).await
    }

    /// Host and port that it listens on.
    pub(crate) fn host(&self) -> String {
        host_of(&self.base)
    }

    /// Every file in the output: data objects, sidecars, and uploads that are under way.
    pub(crate) fn output_files(&self) -> Vec<PathBuf> {
        paths_below(&self.folder.path().join("output")).expect("a folder")
    }

    /// Stops in good order, and gives what is left on disk.
    pub(crate) async fn stop(self) -> TempDir {
        let folder =
            Front { base: self.base, folder: self.folder, stop: self.stop, serving: self.serving }.stop().await;
        self.server.stop().await;
        folder
    }
}

/// An Offtake in front of any server at all.
pub(crate) struct Front {
    /// The public FHIR base.
    pub(crate) base: String,
    folder: TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Front {
    pub(crate) async fn before(upstream: &str, change: impl FnOnce(&mut Config), clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = listener().await;
        let base = format!("http://{}/fhir", listener.local_addr().expect("it listens"));
        let mut config = config(upstream, &base, folder.path());
        change(&mut config);
        let offtake = Offtake::builder(config).clock(clock).build().expect("everything can be opened");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        Self { base, folder, stop, serving }
    }

    /// Host and port that it listens on.
    pub(crate) fn host(&self) -> String {
        host_of(&self.base)
    }

    /// Stops in good order, and gives what is left on disk.
    pub(crate) async fn stop(self) -> TempDir {
        drop(self.stop);
        self.serving.await.expect("serving did not panic").expect("serving ended well");
        self.folder
    }
}

/// The configuration that tests begin with.
pub(crate) fn config(upstream: &str, base: &str, folder: &Path) -> Config {
    let mut config = Config::local(upstream, base, folder).expect("a good configuration");
    // Most tests look at what the server is asked, and when; those of processes and of profiles start as usual.
    config.upstream.probe_on_start = false;
    // Whatever the disk of the machine that they run on.
    config.output.min_free = Some(offtake::config::Size::kibibytes(0));
    // Most tests poll as fast as they can, by a clock that stands still.
    config.export.early_polls_per_second = u32::MAX;
    // And all from one address.
    config.server.max_bulk_requests_per_peer = usize::MAX;
    // The sample server answers anybody, and stands on this machine.
    config.upstream.accepts_anonymous = offtake::config::AcceptsAnonymous::Acknowledged;
    config
}

pub(crate) fn host_of(base: &str) -> String {
    base.trim_start_matches("http://").trim_end_matches("/fhir").to_owned()
}

pub(crate) async fn listener() -> TcpListener {
    watchdog::look_after_this_test();
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

/// Waits until something is so; fails if that takes longer than `patience`.
pub(crate) async fn until(what: &str, patience: Duration, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
