//! Other ways to read the same server, beside Offtake in the same run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use http::{Method, StatusCode, header};
use serde_json::Value;

use crate::data::text;
use crate::expected::{self, Expected};
use crate::export::{LEVELS, export, is_exact_at};
use crate::http::Http;
use crate::server::{Server, Setup};
use crate::sidecar::{SEARCHES, Sidecar};
use crate::table::{self, Row};
use crate::walk::{By, Walk};

/// By how much Offtake has to be quicker than a walk by links, and than the server's own export.
const THAN_A_WALK: f64 = 2.0;
const THAN_ITS_OWN: f64 = 10.0;
/// Pause between two polls of the server's own export.
const PAUSE: Duration = Duration::from_millis(200);

/// An export at System level of a server about which everything has been found out.
async fn offtake(setup: &Setup, server: &Server) -> anyhow::Result<Duration> {
    let sidecar = Sidecar::before(&server.relay.base, "").await?;
    let (level, path) = LEVELS[0];
    export(&format!("{}{path}?_type=Organization", sidecar.base)).await?;
    is_exact_at(setup, server, &sidecar, level, path).await.with_context(|| sidecar.said())
}

/// Walks through the same, with as many connections.
pub(crate) async fn walks(setup: &Setup) -> anyhow::Result<()> {
    let server = setup.server().await?;
    let own = offtake(setup, server).await?;
    let expected = expected::of(&server.stored, LEVELS[0].1);
    let mut too_slow = None;
    for by in [By::Next, By::Offset] {
        server.relay.take();
        let walk = Walk::through(&server.relay.base, server.stored.types(), SEARCHES, by).await?;
        let requests = server.relay.take();
        let names = walk.names()?;
        let row = Row {
            server: setup.name.clone(),
            level: LEVELS[0].0.to_owned(),
            strategy: by.name().to_owned(),
            expected: expected.len(),
            exported: expected.keys().filter(|name| names.contains(*name)).count(),
            requests,
            took: walk.took,
        };
        row.note();
        let times = walk.took.as_secs_f64() / own.as_secs_f64();
        table::say(format!("{}: Offtake is {times:.1} times as fast as a {}", setup.name, by.name()));
        let is_promised = matches!(by, By::Next) && setup.name == "hapi-large";
        if is_promised && times < THAN_A_WALK {
            too_slow = Some(format!("only {times:.1} times as fast as a {}", by.name()));
        }
    }
    ensure!(too_slow.is_none(), "{}", too_slow.unwrap_or_default());
    Ok(())
}

/// The server's own export: what it holds besides, and how long that takes. Its files stay there as resources.
pub(crate) async fn its_own(setup: &Setup) -> anyhow::Result<()> {
    let server = setup.server().await?;
    let offtake = offtake(setup, server).await?;
    server.relay.take();
    let Own { received, took } = own(&server.relay.base).await?;
    let requests = server.relay.take();
    let expected: Expected = expected::of(&server.stored, LEVELS[0].1);
    let difference = expected::compare(&expected, &received)?;
    table::own(&setup.name, LEVELS[0].0, took);
    let row = Row {
        server: setup.name.clone(),
        level: LEVELS[0].0.to_owned(),
        strategy: "the server's own export".to_owned(),
        expected: expected.len(),
        exported: received.values().flat_map(|lines| lines.iter()).filter(|byte| **byte == b'\n').count(),
        requests,
        took,
    };
    row.note();
    let times = took.as_secs_f64() / offtake.as_secs_f64();
    table::say(format!("{}: Offtake is {times:.1} times as fast as the server's own export", setup.name));
    ensure!(difference.is_none(), "the server's own export:\n{difference}");
    let is_promised = setup.name == "hapi-large";
    ensure!(!is_promised || times >= THAN_ITS_OWN, "only {times:.1} times as fast as the server's own export");
    Ok(())
}

struct Own {
    received: BTreeMap<String, Vec<u8>>,
    /// From the kick-off to the last byte.
    took: Duration,
}

async fn own(base: &str) -> anyhow::Result<Own> {
    let (http, began) = (Http::new(), Instant::now());
    let kick_off = [("Accept", "application/fhir+json"), ("Prefer", "respond-async")];
    let answer = http.send(Method::GET, &format!("{base}/$export"), &kick_off, "").await?;
    ensure!(answer.status == StatusCode::ACCEPTED, "{}", String::from_utf8_lossy(&answer.body));
    let status = answer.headers.get(header::CONTENT_LOCATION).context("no Content-Location")?.to_str()?.to_owned();
    let manifest: Value = loop {
        let answer = http.send(Method::GET, &status, &kick_off[..1], "").await?;
        match answer.status {
            StatusCode::ACCEPTED => tokio::time::sleep(PAUSE).await,
            StatusCode::OK => break answer.json(&status)?,
            other => bail!("it was answered with {other}: {}", String::from_utf8_lossy(&answer.body)),
        }
    };
    let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for file in manifest["output"].as_array().context("no output")? {
        let answer = http.send(Method::GET, text(&file["url"]), &[("Accept", "application/fhir+ndjson")], "").await?;
        ensure!(answer.status == StatusCode::OK, "a file was answered with {}", answer.status);
        let lines = received.entry(text(&file["type"]).to_owned()).or_default();
        lines.extend_from_slice(&answer.body);
        if !lines.ends_with(b"\n") {
            lines.push(b'\n');
        }
    }
    Ok(Own { received, took: began.elapsed() })
}
