//! What arrives in a storage is what the server holds.

use std::time::Duration;

use anyhow::ensure;
use sample_upstream::{SampleUpstream, Settings};

use crate::client::Client;
use crate::storage::{Storage, given};
use crate::support::World;

pub(crate) async fn is_exact(storage: &Storage) -> anyhow::Result<()> {
    let world = match given("OFFTAKE_CLOUDS_DATA") {
        None => World::with_patients(storage, 100).await?,
        Some(folder) => {
            let upstream = SampleUpstream::new(Settings::default());
            upstream.load_dir(std::path::Path::new(&folder))?;
            World::of(storage, upstream).await?
        }
    };
    let life = world.begin("").await?;
    for path in ["/$export", "/Group/all/$export"] {
        let (status, manifest) = life.export(path).await?;
        ensure!(manifest.output.len() > 3, "{} files", manifest.output.len());
        world.compare(path, &manifest).await?;
        Client::new().delete(&status).await?;
    }
    world.is_empty().await?;
    life.end().await?;
    world.end().await;
    Ok(())
}

/// Bytes of a large resource: more than a third of a part.
const LARGE: usize = 1_900_000;

/// Bytes of a part of an upload.
const PART: u64 = 5 * 1024 * 1024;

/// A server with some small resources and some that take an upload in parts.
pub(crate) fn large() -> SampleUpstream {
    // Not all alike, so that parts in a wrong order are seen.
    large_of(|number| format!("{number}").repeat(LARGE))
}

/// Letters that packing leaves most of.
pub(crate) fn various(number: usize) -> String {
    let mut state = number as u64 + 1;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'A' + u8::try_from(state >> 59).unwrap_or(0) % 26)
    };
    (0..LARGE).map(letter).collect()
}

/// The same with other data in what is large.
pub(crate) fn large_of(data: impl Fn(usize) -> String) -> SampleUpstream {
    let upstream = SampleUpstream::new(Settings::default());
    let insert = |json: String| upstream.insert_raw(&json).expect("a resource");
    for number in 0..40 {
        insert(format!(r#"{{"resourceType":"Patient","id":"p{number:02}"}}"#));
        insert(format!(
            r#"{{"resourceType":"DocumentReference","id":"s{number:02}","status":"current","subject":{{"reference":"Patient/p{number:02}"}}}}"#
        ));
    }
    // Two files of more than one part.
    for number in 0..7 {
        let data = data(number);
        let (resource_type, status, element) = if number < 4 {
            ("DocumentReference", "current", "content")
        } else {
            ("DiagnosticReport", "final", "presentedForm")
        };
        insert(format!(
            r#"{{"resourceType":"{resource_type}","id":"d{number}","status":"{status}","subject":{{"reference":"Patient/p0{number}"}},"{element}":[{{"attachment":{{"data":"{data}"}}}}]}}"#
        ));
    }
    upstream
}

pub(crate) const OF_LARGE: &str = "/$export?_type=Patient,DocumentReference,DiagnosticReport";

pub(crate) async fn is_exact_in_parts(storage: &Storage) -> anyhow::Result<()> {
    let world = World::of(storage, large()).await?;
    let life = world.begin("").await?;
    let (status, manifest) = life.export(OF_LARGE).await?;
    // How many files a type has is the engine's business: it may read two slices at once.
    let files = manifest.whole["output"].as_array().into_iter().flatten();
    let bytes = files.filter_map(|file| file["extension"]["https://offtake.dev/file"]["bytes"].as_u64());
    let of_parts = bytes.filter(|bytes| *bytes > PART).count();
    ensure!(of_parts >= 1, "no file takes more than one part: {}", manifest.whole);
    world.compare(OF_LARGE, &manifest).await?;
    Client::new().delete(&status).await?;
    world.is_empty().await?;
    life.end().await?;
    world.end().await;
    Ok(())
}

/// A storage that answers nothing for longer than a request is waited for costs time, and nothing else.
pub(crate) async fn outlasts_a_stall(storage: &Storage) -> anyhow::Result<()> {
    let mut world = World::of(storage, large()).await?;
    world.http = format!("request_timeout_seconds: 2, {}", world.http);
    let life = world.begin("").await?;
    let client = Client::new();
    let status = client.kick_off(&format!("{}{OF_LARGE}", life.base)).await?;
    storage.ctl("pause").await?;
    // Long enough for requests to be given up and sent again.
    let stalled = tokio::time::timeout(Duration::from_secs(7), client.wait(&status, |_| {})).await;
    storage.ctl("resume").await?;
    ensure!(stalled.is_err(), "the export was over before the storage stalled");
    let manifest = client.wait(&status, |_| {}).await?;
    world.compare(OF_LARGE, &manifest).await?;
    client.delete(&status).await?;
    world.is_empty().await?;
    life.end().await?;
    world.end().await;
    Ok(())
}
