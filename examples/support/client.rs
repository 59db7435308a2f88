//! What a client of an export does: kick off, poll, download, delete.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

/// Pause between two polls.
const PAUSE: Duration = Duration::from_millis(100);
/// An export that says the same for as long as this is stuck: whoever waits for it is told what it said.
const STUCK: Duration = Duration::from_mins(10);

pub(crate) struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
}

/// What a finished export says of itself.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) output: Vec<File>,
    /// All of it, as it came.
    #[serde(skip)]
    pub(crate) whole: serde_json::Value,
}

/// How an export stands.
#[derive(Debug)]
pub(crate) enum Poll {
    /// At work; with its progress in words.
    Running(String),
    Complete(Manifest),
    /// Neither: with what the answer says.
    Other(StatusCode, String),
}

#[derive(Debug, Deserialize)]
pub(crate) struct File {
    /// Empty where its resources are of many.
    #[serde(rename = "type", default)]
    pub(crate) resource_type: String,
    pub(crate) url: String,
    pub(crate) count: usize,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self { http: HttpClient::builder(TokioExecutor::new()).build_http() }
    }

    /// Gives the URL to poll.
    pub(crate) async fn kick_off(&self, url: &str) -> anyhow::Result<String> {
        let answer = self.send(Method::GET, url).await?;
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::ACCEPTED {
            bail!("kick-off was answered with {}: {}", head.status, text(body).await?);
        }
        let location = head.headers.get(header::CONTENT_LOCATION).context("kick-off gave no Content-Location")?;
        Ok(location.to_str()?.to_owned())
    }

    /// Polls until the export has ended; each progress text goes to `show`. One that goes no further is given up.
    pub(crate) async fn wait(&self, status: &str, show: impl Fn(&str)) -> anyhow::Result<Manifest> {
        let (mut last, mut since) = (String::new(), Instant::now());
        loop {
            match self.poll(status).await? {
                Poll::Running(progress) => {
                    show(&progress);
                    ensure!(progress != last || since.elapsed() < STUCK, "the export goes no further: {progress}");
                    if progress != last {
                        (last, since) = (progress, Instant::now());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Poll::Complete(manifest) => return Ok(manifest),
                Poll::Other(status, said) => bail!("the export ended with {status}: {said}"),
            }
        }
    }

    /// Asks once how an export stands.
    pub(crate) async fn poll(&self, status: &str) -> anyhow::Result<Poll> {
        let (head, body) = self.send(Method::GET, status).await?.into_parts();
        Ok(match head.status {
            StatusCode::ACCEPTED => {
                let progress = head.headers.get("x-progress").and_then(|value| value.to_str().ok());
                Poll::Running(progress.unwrap_or_default().to_owned())
            }
            StatusCode::OK => {
                let whole: serde_json::Value = serde_json::from_str(&text(body).await?)?;
                let manifest = Manifest::deserialize(&whole)?;
                Poll::Complete(Manifest { whole, ..manifest })
            }
            other => Poll::Other(other, text(body).await?),
        })
    }

    pub(crate) async fn download(&self, url: &str) -> anyhow::Result<Bytes> {
        let (head, body) = self.send(Method::GET, url).await?.into_parts();
        ensure!(head.status == StatusCode::OK, "a download was answered with {}", head.status);
        Ok(body.collect().await?.to_bytes())
    }

    pub(crate) async fn delete(&self, status: &str) -> anyhow::Result<()> {
        let answer = self.send(Method::DELETE, status).await?;
        ensure!(answer.status() == StatusCode::ACCEPTED, "the delete request was answered with {}", answer.status());
        Ok(())
    }

    async fn send(&self, method: Method, url: &str) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::ACCEPT, "application/fhir+json")
            .header("prefer", "respond-async")
            .body(Full::default())?;
        Ok(self.http.request(request).await?)
    }
}

async fn text(body: Incoming) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned())
}
