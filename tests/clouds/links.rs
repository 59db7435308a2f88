//! What opens a file in a storage, and what does not.

use std::time::Duration;

use anyhow::{Context, ensure};
use offtake::{Clock, SystemClock};

use crate::client::Client;
use crate::process::Process;
use crate::storage::Storage;
use crate::support::{World, until};

pub(crate) async fn attributes(storage: &Storage) -> anyhow::Result<()> {
    let world = World::of(storage, crate::exports::large()).await?;
    let life = world.begin("").await?;
    let (_, manifest) = life.export(crate::exports::OF_LARGE).await?;
    for file in &manifest.output {
        let answer = storage.fetch(&file.url).await?;
        let name = file.url.split('?').next().and_then(|url| url.rsplit(['/', '%']).next()).context("a name")?;
        // Google has slashes encoded.
        let name = name.strip_prefix("2F").unwrap_or(name).to_lowercase();
        let disposition = format!("attachment; filename=\"{name}\"");
        for (header, expected) in [
            ("content-type", "application/fhir+ndjson"),
            ("content-disposition", &disposition),
            ("cache-control", "private, no-store, no-transform"),
        ] {
            ensure!(answer.header(header) == Some(expected), "{header}: {:?}, not {expected}", answer.header(header));
        }
    }
    life.end().await?;
    world.end().await;
    Ok(())
}

/// The storage gives what it was given, and says what that is; we unpack it for those who do not take it.
pub(crate) async fn stored_as_gzip(storage: &Storage) -> anyhow::Result<()> {
    let world = World::of(storage, crate::exports::large_of(crate::exports::various)).await?;
    for links in ["signed", "proxy"] {
        let life = world.begin(&format!("links: {links}, compression: gzip")).await?;
        let (status, mut manifest) = life.export(crate::exports::OF_LARGE).await?;
        if links == "proxy" {
            world.compare(crate::exports::OF_LARGE, &manifest).await?;
        }
        let listed = manifest.whole["output"].as_array().context("a list")?.clone();
        for (file, listed) in manifest.output.iter_mut().zip(listed) {
            let stored = if links == "signed" {
                storage.fetch(&file.url).await?
            } else {
                storage.fetch_as(&file.url, &["--header", "accept-encoding: gzip"]).await?
            };
            ensure!(
                stored.header("content-encoding") == Some("gzip"),
                "{links}: {:?}",
                stored.header("content-encoding")
            );
            let listed = &listed["extension"]["https://offtake.dev/file"];
            ensure!(listed["bytes"] == stored.body.len() && listed["contentEncoding"] == "gzip", "{links}: {listed}");
            let unpacked = storage.fetch_as(&file.url, &["--compressed"]).await?;
            let lines = unpacked.body.iter().filter(|byte| **byte == b'\n').count();
            ensure!(lines == file.count && unpacked.body.len() > stored.body.len(), "{links}: {lines} lines");
        }
        Client::new().delete(&status).await?;
        world.is_empty().await?;
        life.end().await?;
    }
    world.end().await;
    Ok(())
}

/// Refused by the storage itself: it is not asked through us.
pub(crate) async fn open_one_file(storage: &Storage) -> anyhow::Result<()> {
    let world = World::with_patients(storage, 3).await?;
    let life = world.begin("").await?;
    let (status, manifest) = life.export("/$export").await?;
    let urls: Vec<_> = manifest.output.iter().map(|file| file.url.as_str()).collect();
    ensure!(urls.len() > 3, "{} files", urls.len());
    let again = Client::new().wait(&status, |_| {}).await?;
    ensure!(again.output.iter().all(|file| file.url.contains('?')), "not every link is signed");
    let split =
        |url: &str| url.split_once('?').map(|(path, query)| (path.to_owned(), query.to_owned())).context("no query");
    let own = life.base.trim_end_matches("/fhir");
    for url in &urls {
        ensure!(!url.starts_with(own), "{url} is ours");
        let (path, query) = split(url)?;
        ensure!(storage.fetch(url).await?.status == 200, "a link does not open its file");
        refused(storage, "the bare URL", &path).await?;
        for other in urls.iter().filter(|other| *other != url).take(3) {
            refused(storage, "another file's signature", &format!("{path}?{}", split(other)?.1)).await?;
        }
        for position in [0, 5, 11, 20, 31, 40] {
            let changed = changed(url, position).with_context(|| format!("{query} has no signature"))?;
            refused(storage, &format!("character {position} of the signature changed"), &changed).await?;
        }
    }
    life.end().await?;
    world.end().await;
    Ok(())
}

pub(crate) async fn end(storage: &Storage) -> anyhow::Result<()> {
    let world = World::with_patients(storage, 2).await?;
    let life = world.begin("link_ttl_seconds: 3").await?;
    let client = Client::new();
    let (status, _) = life.export("/$export?_type=Patient").await?;
    let read = storage.fetch(&status).await?;
    let expires = read.header("expires").context("no Expires")?;
    let expires = chrono::DateTime::parse_from_rfc2822(expires).with_context(|| expires.to_owned())?.timestamp_millis();
    let read: serde_json::Value = serde_json::from_slice(&read.body)?;
    let url = read["output"][0]["url"].as_str().context("a link")?;
    ensure!(storage.fetch(url).await?.status == 200, "a link does not open its file");
    until("the link expires", Duration::from_secs(8), async || refused(storage, "an expired link", url).await).await?;
    let late = SystemClock.unix_millis() - expires;
    ensure!((0..3_000).contains(&late), "the link ended {late} ms after its manifest expired");
    // The manifest has new ones.
    let manifest = client.wait(&status, |_| {}).await?;
    let url = &manifest.output[0].url;
    ensure!(storage.fetch(url).await?.status == 200, "a new link does not open its file");
    life.end().await?;

    let life = world.begin("").await?;
    let id = status.rsplit('/').next().context("an id")?;
    let status = format!("{}/$bulk-status/{id}", life.base);
    let manifest = client.wait(&status, |_| {}).await?;
    let url = &manifest.output[0].url;
    ensure!(storage.fetch(url).await?.status == 200, "a link does not open its file");
    client.delete(&status).await?;
    until("a deleted file is gone", Duration::from_secs(5), async || refused(storage, "a deleted file", url).await)
        .await?;
    world.is_empty().await?;
    life.end().await?;
    world.end().await;
    Ok(())
}

pub(crate) async fn ours(storage: &Storage) -> anyhow::Result<()> {
    let world = World::with_patients(storage, 3).await?;
    let life = world.begin("links: proxy").await?;
    let client = Client::new();
    let (status, manifest) = life.export("/Patient/$export").await?;
    for file in &manifest.output {
        ensure!(file.url.starts_with(&life.base), "{} is not ours", file.url);
        let bytes = client.download(&file.url).await?;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        ensure!(lines == file.count, "{lines} lines, not {}", file.count);
    }
    client.delete(&status).await?;
    world.is_empty().await?;
    life.end().await?;
    world.end().await;
    Ok(())
}

/// `public_endpoint`: the store's own name means nothing to clients.
pub(crate) async fn for_another_address(storage: &Storage) -> anyhow::Result<()> {
    let public = storage.public_endpoint().context("it has no other name")?;
    let world = World::with_patients(storage, 2).await?;
    let life = world.begin(&format!("public_endpoint: '{public}'")).await?;
    let (status, manifest) = life.export("/$export?_type=Patient").await?;
    for file in &manifest.output {
        ensure!(file.url.starts_with(&format!("{public}/")), "{} is not at {public}", file.url);
    }
    world.compare("/$export?_type=Patient", &manifest).await?;
    Client::new().delete(&status).await?;
    world.is_empty().await?;
    life.end().await?;
    world.end().await;
    Ok(())
}

/// A shared access signature holds for TLS and for some addresses only: both are a part of what is signed.
pub(crate) async fn bound_to_addresses(storage: &Storage) -> anyhow::Result<()> {
    let mut world = World::with_patients(storage, 2).await?;
    let key = world.output.find(", account_key:").context("a key")?;
    world.output.insert_str(key, ", link_ip_range: 127.0.0.0-127.0.0.9");
    let life = world.begin("").await?;
    let (_, manifest) = life.export("/$export?_type=Patient").await?;
    world.compare("/$export?_type=Patient", &manifest).await?;
    let protocol = if storage.name == "azurite-https" { "https" } else { "https%2Chttp" };
    for file in &manifest.output {
        ensure!(storage.fetch(&file.url).await?.status == 200, "it is good from here");
        for (said, other) in [
            (format!("spr={protocol}"), "spr=http".to_owned()),
            (format!("&spr={protocol}"), String::new()),
            ("sip=127.0.0.0-127.0.0.9".to_owned(), "sip=127.0.0.0-127.255.255.255".to_owned()),
            ("&sip=127.0.0.0-127.0.0.9".to_owned(), String::new()),
        ] {
            ensure!(file.url.contains(&said), "{said} is no part of a link");
            refused(storage, &format!("{said} as {other}"), &file.url.replace(&said, &other)).await?;
        }
    }
    life.end().await?;
    world.end().await;
    Ok(())
}

/// An identity of Entra has no key: it signs with one that the storage lends it.
pub(crate) async fn by_user_delegation(storage: &Storage) -> anyhow::Result<()> {
    let mut world = World::with_patients(storage, 3).await?;
    let key = world.output.find(", account_key:").context("a key")?;
    world.output.replace_range(key.., " }");
    let token = storage.ask(&["token"]).await?;
    let variables = vec!["env".to_owned(), format!("AZURE_STORAGE_TOKEN={}", token.trim())];
    let process = Process::start(variables, |base| world.yaml(base, "")).await?;
    let client = Client::new();
    let status = client.kick_off(&format!("{}/$export", process.base)).await?;
    let manifest = client.wait(&status, |_| {}).await?;
    let by_key = |url: &str| !url.contains("skoid=") || !url.contains("sks=b");
    ensure!(!manifest.output.iter().any(|file| by_key(&file.url)), "not every link is signed by delegation");
    world.compare("/$export", &manifest).await?;
    for file in &manifest.output {
        for position in [0, 11, 31] {
            let changed = changed(&file.url, position).context("no signature")?;
            refused(storage, "a changed signature", &changed).await?;
        }
    }
    client.delete(&status).await?;
    world.is_empty().await?;
    world.end().await;
    Ok(())
}

async fn refused(storage: &Storage, what: &str, url: &str) -> anyhow::Result<()> {
    let answer = storage.fetch(url).await?;
    ensure!(matches!(answer.status, 400 | 401 | 403 | 404), "{what} was answered with {}", answer.status);
    Ok(())
}

/// A URL with one character of its signature changed.
fn changed(url: &str, position: usize) -> Option<String> {
    let begins = ["X-Amz-Signature=", "X-Goog-Signature=", "&sig=", "?sig="];
    let at = begins.iter().find_map(|begin| url.find(begin).map(|at| at + begin.len()))? + position;
    // Escaped characters are left alone: another case of their digits means the same.
    let at = (at..url.len())
        .find(|at| url.as_bytes()[*at].is_ascii_alphanumeric() && !url[at.saturating_sub(2)..*at].contains('%'))?;
    let other = if url.as_bytes()[at] == b'1' { "2" } else { "1" };
    Some(format!("{}{other}{}", &url[..at], &url[at + 1..]))
}
