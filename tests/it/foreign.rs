//! Outputs that are somebody else's (SEC-32): bulk stops by name, nothing is removed, ordinary requests pass through.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sample_upstream::{SampleUpstream, Settings};

use crate::client::Client;
use crate::exact::{self, Exported, Moment};
use crate::process::{Options, Process, until};
use crate::raw::{self, Answer, KICKOFF};
use crate::support::listener;

const PATH: &str = "/$export";
const KEYS: [&str; 3] = ["instance", "checkpoint.key", "link.key"];

async fn ask(process: &Process, target: &str) -> Answer {
    let host = process.base.trim_start_matches("http://").trim_end_matches("/fhir");
    raw::ask(host, &raw::request("GET", &format!("/fhir{target}"), host, &KICKOFF, b"")).await
}

/// Every file below a folder with its bytes, but for those that go while they are looked at.
fn contents(folder: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let read = |path: PathBuf| match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => Some(read.map(|bytes| (path, bytes)).map_err(anyhow::Error::from)),
    };
    exact::paths_below(folder)?.into_iter().filter_map(read).collect()
}

/// Waits until bulk requests of a process are refused by name, and fails if ordinary ones do not pass through.
async fn assert_stopped(process: &Process) -> anyhow::Result<()> {
    let host = process.base.trim_start_matches("http://").trim_end_matches("/fhir");
    until("it listens", async || Ok(tokio::net::TcpStream::connect(host).await.ok())).await?;
    let text = "the output belongs to another instance or another job store";
    let refused = until("it is refused by name", async || {
        let answer = ask(process, PATH).await;
        ensure!(answer.status == 503, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        Ok((answer.json()["issue"][0]["diagnostics"] == text).then_some(answer))
    })
    .await?;
    refused.assert_refused("a kick-off", 503, "transient", None);
    ask(process, "/$bulk-status/00000000000000000000000000000000").await.assert_refused(
        "status",
        503,
        "transient",
        None,
    );
    ensure!(ask(process, "/Patient?_count=1").await.status == 200, "requests pass through");
    ensure!(process.log().contains("the output belongs to another instance"), "{}", process.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_of_another_instance_or_of_another_store_is_left_alone() {
    leave_alone().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn leave_alone() -> anyhow::Result<()> {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let production = Process::start(&server.base_url, Options::default()).await?;
    let (client, began) = (Client::new(), Moment::of(&upstream));
    let status = production.kick_off(&client, PATH).await?;
    let manifest = production.finished(&client, &status).await?;
    let before = contents(&production.output())?;
    ensure!(before.len() > 4, "{before:?}");

    let stranger = production.beside(|_state| Ok(()))?;
    assert_stopped(&stranger).await?;
    // A staging copy: production's keys and name, and none of its jobs.
    let mut copy = production.beside(|state| {
        std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(state)?;
        for key in KEYS {
            fs::copy(production.state().join(key), state.join(key)).context(key)?;
        }
        Ok(())
    })?;
    assert_stopped(&copy).await?;
    copy.kill()?;
    copy.restart()?;
    assert_stopped(&copy).await?;
    ensure!(contents(&production.output())? == before, "something was changed or removed");

    // Production does not suffer from them, nor after a restart.
    let mut production = production;
    let exported = Exported::fetch(&client, manifest).await?;
    exported.judge(PATH, began, &upstream.versions())?;
    production.stop()?;
    production.restart()?;
    let second = until("it answers", async || Ok(production.kick_off(&client, PATH).await.ok())).await?;
    production.finished(&client, &second).await?;
    for status in [&status, &second] {
        client.delete(status).await?;
    }
    // What is looked at may go at that moment.
    until("all is removed", async || Ok(contents(&production.output()).ok().filter(BTreeMap::is_empty).map(drop)))
        .await?;
    assert_stopped(&stranger).await?;
    // The marker is for an operator to remove.
    drop(production);
    server.stop().await;
    Ok(())
}
