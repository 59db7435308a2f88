//! An Offtake in front of a sample upstream, as tests use it.

use std::collections::BTreeMap;

use anyhow::ensure;
use offtake::{Config, Offtake};
use sample_upstream::{Running, SampleUpstream, Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{Client, Manifest};
use crate::expected;

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
        let server = upstream.serve(listener().await).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = listener().await;
        let base = format!("http://{}/fhir", listener.local_addr().expect("it listens"));
        let mut config = Config::local(&server.base_url, &base, folder.path()).expect("a good configuration");
        change(&mut config);
        let offtake = Offtake::builder(config).build().expect("everything can be opened");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
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

    /// Exports, and fails unless exactly what the upstream holds came, each resource once and byte for byte.
    pub(crate) async fn export_exactly(&self, path: &str) -> anyhow::Result<Manifest> {
        let (manifest, received) = self.export(path).await?;
        let difference = expected::compare(&expected::of(&self.upstream, path), &received)?;
        ensure!(difference.is_none(), "{path}:\n{difference}");
        Ok(manifest)
    }

    /// Stops in good order, and gives what is left on disk.
    pub(crate) async fn stop(self) -> TempDir {
        drop(self.stop);
        self.serving.await.expect("serving did not panic").expect("serving ended well");
        self.server.stop().await;
        self.folder
    }
}

pub(crate) async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}
