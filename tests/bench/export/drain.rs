//! The least that reading a server can take: all pages, so many at a time, as they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::ACCEPT_ENCODING;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

type Http = Client<HttpConnector, Full<Bytes>>;

/// All pages of a server.
pub(crate) struct Pages {
    urls: Vec<String>,
    at_once: usize,
}

/// How long they took, and how much it was on the wire.
pub(crate) struct Drained {
    pub(crate) took: Duration,
    pub(crate) bytes: u64,
}

/// Resources of a page, as many as Offtake asks for.
const PAGE: usize = 1_000;
/// Of a drain to disk; what is written by a task of its own is gathered first, as it would be otherwise.
const WRITE_BYTES: usize = 1 << 20;

impl Pages {
    /// Looks for where all pages of these types are.
    pub(crate) async fn of(base: &str, types: &[String], at_once: usize) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            link: Vec<Link>,
        }
        #[derive(Deserialize)]
        struct Link {
            relation: String,
            url: String,
        }
        let (http, mut urls) = (http(), Vec::new());
        for name in types {
            let mut next = Some(format!("{base}/{name}?_count={PAGE}"));
            while let Some(url) = next {
                let answer = http.get(url.parse()?).await?;
                ensure!(answer.status().is_success(), "{url} was answered with {}", answer.status());
                let page: Page = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
                next = page.link.into_iter().find(|link| link.relation == "next").map(|link| link.url);
                urls.push(url);
            }
        }
        Ok(Self { urls, at_once })
    }

    pub(crate) fn len(&self) -> usize {
        self.urls.len()
    }

    /// Fetches all and throws them away unread.
    pub(crate) async fn drain(self: &Arc<Self>) -> anyhow::Result<Drained> {
        self.drain_to(None).await
    }

    /// Fetches all and writes them to a folder, each worker to a file of its own, and has the disk keep them.
    pub(crate) async fn drain_to_disk(self: &Arc<Self>, folder: &Path) -> anyhow::Result<Drained> {
        self.drain_to(Some(folder)).await
    }

    async fn drain_to(self: &Arc<Self>, folder: Option<&Path>) -> anyhow::Result<Drained> {
        let (next, bytes, http) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)), http());
        let began = Instant::now();
        let workers: Vec<_> = (0..self.at_once)
            .map(|number| {
                let file = folder.map(|folder| folder.join(number.to_string()));
                tokio::spawn(Arc::clone(self).work(Arc::clone(&next), Arc::clone(&bytes), http.clone(), file))
            })
            .collect();
        for worker in workers {
            worker.await??;
        }
        Ok(Drained { took: began.elapsed(), bytes: bytes.load(Ordering::Relaxed) })
    }

    async fn work(
        self: Arc<Self>,
        next: Arc<AtomicUsize>,
        bytes: Arc<AtomicU64>,
        http: Http,
        file: Option<PathBuf>,
    ) -> anyhow::Result<()> {
        let mut file = match file {
            Some(file) => Some(tokio::io::BufWriter::with_capacity(WRITE_BYTES, tokio::fs::File::create(file).await?)),
            None => None,
        };
        while let Some(url) = self.urls.get(next.fetch_add(1, Ordering::Relaxed)) {
            // As Offtake asks.
            let request = Request::get(url).header(ACCEPT_ENCODING, "gzip").body(Full::default())?;
            let answer = http.request(request).await?;
            ensure!(answer.status().is_success(), "{url} was answered with {}", answer.status());
            let mut body = answer.into_body();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame?.into_data() else { continue };
                bytes.fetch_add(u64::try_from(data.len())?, Ordering::Relaxed);
                if let Some(file) = &mut file {
                    file.write_all(&data).await?;
                }
            }
        }
        if let Some(mut file) = file {
            file.flush().await?;
            file.into_inner().sync_all().await?;
        }
        Ok(())
    }
}

fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// How many bytes a second a disk takes, written and kept.
pub(crate) fn disk_rate(folder: &Path) -> anyhow::Result<f64> {
    use std::io::Write;
    const BLOCKS: usize = 512;
    let block = vec![b'x'; 1 << 20];
    let path = folder.join("rate");
    let began = Instant::now();
    let mut file = std::fs::File::create(&path)?;
    for _ in 0..BLOCKS {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let took = began.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    #[expect(clippy::cast_precision_loss, reason = "some hundred millions")]
    let bytes = (BLOCKS << 20) as f64;
    Ok(bytes / took)
}
