//! What the process takes of memory, whatever the size of what goes through it: `VmHWM` of the built binary, with the
//! sample server in another process than it.
//!
//! ```text
//! cargo test --release --test it limits -- --nocapture                         # prints the figures; two minutes
//! OFFTAKE_LIMITS=full cargo test --release --test it limits -- --nocapture     # all 12 GB of large resources
//! OFFTAKE_LIMITS=millions cargo test --release --test it limits::millions -- --nocapture     # one and ten millions
//! ```
//!
//! Without `--release` the same is measured with less data.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sample_upstream::{SampleUpstream, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Client, Manifest, Poll};
use crate::crowd::{self, Crowd};
use crate::organized::insert;
use crate::process::{Options, Process, until};
use crate::support::listener;

const MEGABYTE: u64 = 1_000_000;
/// Most memory for any export. Code that is not optimized is 27 MB longer, and its pages count.
const MOST: u64 = if IS_DEBUG { 177 * MEGABYTE } else { 150 * MEGABYTE };
/// Less than all of what it exports takes by itself.
const MOST_IN_BLOCKS: u64 = if IS_DEBUG { 125 * MEGABYTE } else { 100 * MEGABYTE };
/// Most memory for bodies passing through, beyond that of the idle process.
const MOST_BEYOND_IDLE: u64 = 8 * MEGABYTE;
/// Unoptimized code gets less to do.
const IS_DEBUG: bool = cfg!(debug_assertions);

const MANY_PATIENTS: usize = if IS_DEBUG { 300 } else { 4_300 };
const LARGE_BYTES: usize = 40_000_000;
const PASSING_BYTES: u64 = if IS_DEBUG { 40 * MEGABYTE } else { 200 * MEGABYTE };
const SLOW_BYTES_PER_SECOND: u64 = MEGABYTE;
const SLOW_TIME: Duration = Duration::from_secs(if IS_DEBUG { 5 } else { 20 });

#[expect(clippy::disallowed_methods, reason = "a switch of these tests alone, for all there is to measure")]
fn is_asked_for(what: &str) -> bool {
    std::env::var("OFFTAKE_LIMITS").is_ok_and(|asked| asked == what)
}

fn large_resources() -> usize {
    match is_asked_for("full") {
        true => 300,
        false if IS_DEBUG => 4,
        false => 60,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_resources_are_exported_in_little_memory() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(MANY_PATIENTS);
    let held = upstream.resources(None).len() as u64;
    assert!(IS_DEBUG || held >= 100_000, "only {held}");
    for (path, expected) in [("/$export", Some(held)), ("/Group/all/$export", None)] {
        let figures = export(&upstream, path).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
        println!("{path}: {figures:?}");
        assert!(expected.is_none_or(|expected| figures.resources == expected), "{figures:?} of {held}");
        assert!(figures.peak_bytes <= MOST, "{figures:?}");
    }
}

/// BD-040: a block of each patient takes no more memory than any export, however much all of them hold together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_patients_have_their_blocks_in_little_memory() {
    const PATIENTS: usize = 2_000;
    let upstream = SampleUpstream::new(Settings::default());
    let note = "x".repeat(8_000);
    let mut members = Vec::with_capacity(PATIENTS);
    for number in 0..PATIENTS {
        let patient = format!(r#""subject":{{"reference":"Patient/p{number}"}}"#);
        members.push(format!(r#"{{"entity":{{"reference":"Patient/p{number}"}}}}"#));
        insert(&upstream, &format!(r#"{{"resourceType":"Patient","id":"p{number}"}}"#));
        for (name, more) in [("Observation", r#""status":"final""#), ("Condition", r#""recordedDate":"2024""#)] {
            for of in 0..4 {
                let resource = format!(
                    r#"{{"resourceType":"{name}","id":"{number}-{of}",{more},"code":{{"text":"{note}"}},{patient}}}"#
                );
                insert(&upstream, &resource);
            }
        }
    }
    let members = members.join(",");
    let group = format!(r#"{{"resourceType":"Group","id":"all","type":"person","actual":true,"member":[{members}]}}"#);
    insert(&upstream, &group);
    let server = upstream.serve(listener().await).await;
    let process = Process::start(&server.base_url, Options::default()).await.expect("it starts");
    let client = Client::new();
    for path in ["/Group/all/$export?organizeOutputBy=Patient", "/Patient/$export?organizeOutputBy=Patient"] {
        let began = Instant::now();
        let status = process.kick_off(&client, path).await.expect("a kick-off");
        let manifest = process.finished(&client, &status).await.expect("an export");
        let (took, peak) = (began.elapsed(), process.peak_memory().expect("a figure"));
        println!("{path}: {took:?}, {peak} bytes at most");
        let checked = crate::organized::check(&client, &manifest, &upstream, path).await;
        checked.unwrap_or_else(|error| panic!("{path}: {error:#}"));
        let held: usize = upstream.resources(None).iter().map(|stored| stored.body.len()).sum();
        assert!(peak <= MOST_IN_BLOCKS && MOST_IN_BLOCKS < held as u64, "{path}: {peak} bytes of {held}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_resources_are_exported_in_little_memory() {
    let count = large_resources();
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate_big(count, LARGE_BYTES);
    let figures = export(&upstream, "/$export").await.unwrap_or_else(|error| panic!("{error:#}"));
    println!("{count} resources of {LARGE_BYTES} bytes: {figures:?}");
    let (count, least) = (count as u64, count as u64 * (LARGE_BYTES as u64 - 1_000));
    assert!(figures.resources == count + 4 && figures.bytes > least, "{figures:?}");
    assert!(figures.peak_bytes <= MOST, "{figures:?}");
}

/// Small resources of one type, ten times as many in the second round: memory does not follow, and pages are full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn millions_of_small_resources_are_exported_by_full_pages_in_the_same_memory() {
    let (few, most_searches) = match is_asked_for("millions") {
        // With ties what a window holds varies twice as much, so that windows are cut smaller.
        true => (1_000_000, [1.2, 1.4]),
        // A few questions come before all reading.
        false if IS_DEBUG => (10_000, [9.0; 2]),
        false => (50_000, [4.0; 2]),
    };
    let mut all = Vec::new();
    let kinds = [("even", crowd::even as fn(usize) -> Vec<i64>), ("random with ties", crowd::random_with_ties)];
    for ((name, stamps), most_searches) in kinds.into_iter().zip(most_searches) {
        for count in [few, 10 * few] {
            let figures =
                export_crowd(stamps(count)).await.unwrap_or_else(|error| panic!("{name}, {count}: {error:#}"));
            println!("{name}, {count}: {figures:?}");
            assert!(figures.searches_per_full_page <= most_searches, "{name}, {count}: {figures:?}");
            all.push(figures);
        }
    }
    for figures in &all {
        assert!(figures.peak_bytes <= MOST, "{all:?}");
        assert!(figures.thrown_away <= 0.04 || few < 1_000_000, "{all:?}");
    }
    assert!(all[0].thrown_away <= 0.03 || few < 1_000_000, "{all:?}");
    for pair in all.chunks_exact(2) {
        assert!(few < 1_000_000 || pair[1].peak_bytes * 10 <= pair[0].peak_bytes * 11, "{all:?}");
    }
}

/// Bodies in both directions, as fast as they go and with readers of 1 MB/s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_pass_through_without_being_kept() {
    let passed = pass_through().await.unwrap_or_else(|error| panic!("{error:#}"));
    println!("{passed:?}");
}

#[derive(Debug)]
#[expect(dead_code, reason = "some figures are for whoever reads them")]
struct Figures {
    resources: u64,
    bytes: u64,
    took: Duration,
    idle_bytes: u64,
    peak_bytes: u64,
}

async fn export(upstream: &SampleUpstream, path: &str) -> anyhow::Result<Figures> {
    let server = upstream.serve(listener().await).await;
    let process = Process::start(&server.base_url, Options::default()).await?;
    let idle_bytes = process.peak_memory()?;
    let (client, began) = (Client::new(), Instant::now());
    let status = process.kick_off(&client, path).await?;
    let manifest = until("the export ends", async || {
        Ok(match process.poll(&client, &status).await? {
            Some(Poll::Complete(manifest)) => Some(manifest),
            Some(Poll::Running(_) | Poll::Other(..)) | None => None,
        })
    })
    .await
    .with_context(|| process.log())?;
    let took = began.elapsed();
    let Manifest { output, whole } = &manifest;
    let bytes = whole["output"].as_array().into_iter().flatten();
    let bytes = bytes.filter_map(|file| file["extension"]["https://offtake.dev/file"]["bytes"].as_u64());
    Ok(Figures {
        resources: output.iter().map(|file| file.count as u64).sum(),
        bytes: bytes.sum(),
        took,
        idle_bytes,
        peak_bytes: process.peak_memory()?,
    })
}

/// What an export of many small resources took.
#[derive(Debug)]
#[expect(dead_code, reason = "some figures are for whoever reads them")]
struct Crowded {
    took: Duration,
    peak_bytes: u64,
    /// Of all questions, as a part of the pages that hold everything if each is full.
    searches_per_full_page: f64,
    /// Of the resources' bytes.
    thrown_away: f64,
}

/// Exports, and fails unless each resource has one line, byte for byte.
#[expect(clippy::cast_precision_loss, reason = "ratios")]
async fn export_crowd(stamps: Vec<i64>) -> anyhow::Result<Crowded> {
    const PAGE: f64 = 1_000.0;
    let count = stamps.len();
    let crowd = Crowd::new(stamps);
    let server = crowd.serve().await;
    let process = Process::start(&server.base_url, Options::default()).await?;
    let (client, began) = (Client::new(), Instant::now());
    let status = process.kick_off(&client, "/$export").await?;
    let manifest = process.finished(&client, &status).await?;
    let took = began.elapsed();
    let peak_bytes = process.peak_memory()?;
    let mut is_there = vec![false; count];
    let mut bytes = 0_u64;
    for file in &manifest.output {
        let lines = client.download(&file.url).await?;
        for line in std::str::from_utf8(&lines)?.lines() {
            let id = line.split(r#""id":""#).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            let number = Crowd::number(id).context("a line with another id")?;
            ensure!(crowd.text(number).as_deref() == Some(line), "resource {number} came otherwise than it was sent");
            ensure!(!std::mem::replace(&mut is_there[number], true), "resource {number} came twice");
            bytes += line.len() as u64;
        }
    }
    let lines: usize = manifest.output.iter().map(|file| file.count).sum();
    ensure!(lines == count && is_there.iter().all(|came| *came), "{lines} lines for {count} resources");
    let cost = crowd.cost();
    Ok(Crowded {
        took,
        peak_bytes,
        searches_per_full_page: cost.searches as f64 / (count as f64 / PAGE),
        thrown_away: 1.0 - bytes as f64 / cost.bytes as f64,
    })
}

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// What the process had at most, after each kind of body.
#[derive(Debug)]
#[expect(dead_code, reason = "these figures are for whoever reads them")]
struct Passed {
    idle: u64,
    down: u64,
    up: u64,
    slowly_down: u64,
    idle_of_another: u64,
    slowly_up: u64,
}

async fn pass_through() -> anyhow::Result<Passed> {
    let upstream = SampleUpstream::new(Settings::default());
    let server = upstream.serve(listener().await).await;
    let process = Process::start(&server.base_url, Options::default()).await?;
    let http: HttpClient<HttpConnector, Body> = HttpClient::builder(TokioExecutor::new()).build_http();
    // Everything that an idle process keeps has been made by then.
    for _ in 0..20 {
        let answer = send(&http, &format!("{}/$bytes?n=1000", process.base), Method::GET, nothing()).await?;
        answer.into_body().collect().await?;
    }
    let idle = process.peak_memory()?;
    let grown = |what: &str, idle: u64, process: &Process| {
        let peak = process.peak_memory()?;
        ensure!(peak < idle + MOST_BEYOND_IDLE, "{what}: from {idle} to {peak} bytes");
        Ok(peak)
    };

    let much = format!("{}/$bytes?n={PASSING_BYTES}", process.base);
    let mut body = send(&http, &much, Method::GET, nothing()).await?.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    ensure!(received == PASSING_BYTES, "{received} bytes came");
    let down = grown("to a client", idle, &process)?;

    let answer = send(&http, &format!("{}/$echo-size", process.base), Method::POST, filler()).await?;
    let said = answer.into_body().collect().await?.to_bytes();
    ensure!(said == PASSING_BYTES.to_string(), "{} arrived", String::from_utf8_lossy(&said));
    let up = grown("to the server", idle, &process)?;

    let mut body = send(&http, &much, Method::GET, nothing()).await?.into_body();
    let (began, mut received) = (Instant::now(), 0);
    while began.elapsed() < SLOW_TIME && received < PASSING_BYTES {
        received += body.frame().await.context("cut short")??.data_ref().map_or(0, Bytes::len) as u64;
        pace(began, received).await;
    }
    drop(body);
    let slowly_down = grown("to a slow client", idle, &process)?;

    // The sample server reads as fast as it can: here is one that does not.
    let slow = listener().await;
    // It takes one connection, and nobody but the client is to have it.
    let options = Options { upstream: "probe_on_start: false", ..Options::default() };
    let process = Process::start(&format!("http://{}/fhir", slow.local_addr()?), options).await?;
    let idle_of_another = process.peak_memory()?;
    let url = format!("{}/Binary", process.base);
    let uploaded = send(&http, &url, Method::POST, filler());
    let read = async {
        let (mut socket, _) = slow.accept().await?;
        let (began, mut received, mut buffer) = (Instant::now(), 0, vec![0; 16 * 1024]);
        while began.elapsed() < SLOW_TIME {
            received += socket.read(&mut buffer).await? as u64;
            pace(began, received).await;
        }
        socket.write_all(b"HTTP/1.1 413 Enough\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await?;
        Ok::<_, anyhow::Error>(received)
    };
    let (answered, received) = tokio::join!(uploaded, read);
    // Whether the answer overtakes the broken upload is a race that either side may win.
    drop(answered);
    ensure!(received? > SLOW_BYTES_PER_SECOND, "nothing was read");
    let slowly_up = grown("to a slow server", idle_of_another, &process)?;
    Ok(Passed { idle, down, up, slowly_down, idle_of_another, slowly_up })
}

/// Waits until so many bytes have taken as long as they should.
async fn pace(began: Instant, bytes: u64) {
    let due = began + Duration::from_micros(bytes * 1_000_000 / SLOW_BYTES_PER_SECOND);
    tokio::time::sleep_until(due.into()).await;
}

fn nothing() -> Body {
    Empty::new().boxed_unsync()
}

/// As many bytes as are to pass, made as they are asked for.
fn filler() -> Body {
    let frame = Bytes::from(vec![b'x'; 64 * 1024]);
    let frames = stream::unfold(PASSING_BYTES, move |left| {
        let length = left.min(frame.len() as u64);
        let frame = frame.slice(..usize::try_from(length).unwrap_or(0));
        async move { (length > 0).then(|| (Ok(Frame::data(frame)), left - length)) }
    });
    StreamBody::new(frames).boxed_unsync()
}

async fn send(
    http: &HttpClient<HttpConnector, Body>,
    url: &str,
    method: Method,
    body: Body,
) -> anyhow::Result<Response<Incoming>> {
    let request = Request::builder().method(method).uri(url).header("content-type", "application/octet-stream");
    let answer = http.request(request.body(body)?).await?;
    ensure!(answer.status() == StatusCode::OK, "{url} was answered with {}", answer.status());
    Ok(answer)
}
