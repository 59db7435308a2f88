//! Requests to servers, whatever they answer.

use std::io::Read as _;

use anyhow::{Context, ensure};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

/// A client that keeps its connections.
#[derive(Clone)]
pub(crate) struct Http(Client<HttpConnector, Full<Bytes>>);

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Never from what a server has kept of earlier searches.
const FRESH: (&str, &str) = ("Cache-Control", "no-cache");
const JSON: (&str, &str) = ("Accept", "application/fhir+json");

impl Http {
    pub(crate) fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, body) = self.0.request(request.body(Full::new(body.into()))?).await?.into_parts();
        let body = body.collect().await.context("reading an answer")?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// A JSON document that is there.
    pub(crate) async fn get<T: DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        self.send(Method::GET, url, &[JSON, FRESH], Bytes::new()).await?.json(url)
    }

    /// The same, packed on its way.
    pub(crate) async fn get_packed<T: DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        let headers = [JSON, FRESH, ("Accept-Encoding", "gzip")];
        let mut answer = self.send(Method::GET, url, &headers, Bytes::new()).await?;
        if answer.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip") {
            let mut body = Vec::new();
            MultiGzDecoder::new(&answer.body[..]).read_to_end(&mut body)?;
            answer.body = body.into();
        }
        answer.json(url)
    }

    /// Posts a document, and gives the one that it is answered with.
    pub(crate) async fn post<T: DeserializeOwned>(&self, url: &str, document: String) -> anyhow::Result<T> {
        self.send(Method::POST, url, &[JSON, ("Content-Type", "application/fhir+json")], document).await?.json(url)
    }
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self, of: &str) -> anyhow::Result<T> {
        let text = String::from_utf8_lossy(&self.body);
        let shown = text.get(..600).unwrap_or(&text);
        ensure!(self.status.is_success(), "{of} was answered with {}: {shown}", self.status);
        serde_json::from_slice(&self.body).with_context(|| format!("{of}: {shown}"))
    }
}
