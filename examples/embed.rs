//! Puts the export before a service of your own, in the same process:
//!
//! ```text
//! cargo run --release --example embed
//! ```
//!
//! A portal, written with axum, has pages of its own and a FHIR server behind it. With one layer it gets `$export` at
//! `/fhir`; everything else stays the portal's. The example starts both, exports all patients through the portal, reads
//! a page of its own, and ends.

use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use offtake::{Config, Offtake};
use sample_upstream::{SampleUpstream, Settings};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(50);
    let server = upstream.serve(TcpListener::bind("127.0.0.1:0").await?).await;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let portal = format!("http://{}", listener.local_addr()?);
    let folder = tempfile::tempdir().context("could not make a temporary folder")?;
    // The base that clients see is the portal's; searches go to the FHIR server itself.
    let config = Config::local(&server.base_url, &format!("{portal}/fhir"), folder.path())?;
    let offtake = Offtake::builder(config).build()?;
    let app = Router::new().route("/about", get(async || "a portal with exports")).layer(offtake.layer());
    let serving = tokio::spawn(serve(listener, app));

    println!("{portal}/about: {}", text(&send(Method::GET, &format!("{portal}/about")).await?.1));
    let exported = export(&portal).await?;
    let patients = upstream.resources(Some("Patient")).len();
    println!("{portal}/fhir/Patient/$export: {exported} of {patients} patients");
    ensure!(exported == patients, "not every patient was exported");

    // First no new requests, then what exports have read is completed.
    serving.abort();
    offtake.drain().await;
    server.stop().await;
    Ok(())
}

/// What `axum::serve` does; axum is here without its features.
async fn serve(listener: TcpListener, app: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // A connection that breaks is the client's own affair.
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// Exports the patients, and counts the lines that were downloaded.
async fn export(portal: &str) -> anyhow::Result<usize> {
    let (head, body) = send(Method::GET, &format!("{portal}/fhir/Patient/$export?_type=Patient")).await?;
    ensure!(head.status == StatusCode::ACCEPTED, "the kick-off was answered with {}: {}", head.status, text(&body));
    let status = head.headers.get(header::CONTENT_LOCATION).context("no Content-Location")?.to_str()?.to_owned();
    let manifest: serde_json::Value = loop {
        let (head, body) = send(Method::GET, &status).await?;
        match head.status {
            StatusCode::ACCEPTED => tokio::time::sleep(Duration::from_millis(100)).await,
            StatusCode::OK => break serde_json::from_slice(&body)?,
            other => anyhow::bail!("the export ended with {other}: {}", text(&body)),
        }
    };
    let mut lines = 0;
    for file in manifest["output"].as_array().context("a manifest has a list of files")? {
        let (head, body) = send(Method::GET, file["url"].as_str().context("a file has a URL")?).await?;
        ensure!(head.status == StatusCode::OK, "a download was answered with {}", head.status);
        lines += text(&body).lines().count();
    }
    let (head, _) = send(Method::DELETE, &status).await?;
    ensure!(head.status == StatusCode::ACCEPTED, "the delete request was answered with {}", head.status);
    Ok(lines)
}

async fn send(method: Method, url: &str) -> anyhow::Result<(http::response::Parts, Bytes)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::builder().method(method).uri(url);
    let request = request.header(header::ACCEPT, "application/fhir+json").header("prefer", "respond-async");
    let (head, body) = client.request(request.body(Full::default())?).await?.into_parts();
    Ok((head, body.collect().await?.to_bytes()))
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
