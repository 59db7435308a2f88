//! What an operator is told while slices have to be read again.

use anyhow::ensure;
use sample_upstream::{Faults, Lies, Rate, SampleUpstream, Settings, Total};

use crate::client::{Client, Poll};
use crate::process::{Options, Process, until};
use crate::support::listener;

/// SEC-41: type, strategy, slice, attempt and reason; nothing of what was asked or came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_each_slice_that_is_read_again_and_why() {
    tell().await.unwrap_or_else(|error| panic!("{error:#}"));
}

async fn tell() -> anyhow::Result<()> {
    let upstream = SampleUpstream::new(Settings { total: Total::Exact, ..Settings::default() });
    upstream.generate(4);
    // One is counted and never sent, and now and then the server is busy.
    let hidden = upstream.resources(Some("Observation"))[3].id.clone();
    upstream.update_settings(|settings| {
        settings.lies = Lies { dropped: [format!("Observation/{hidden}")].into(), ..Lies::default() };
        settings.faults = Faults { error_503: Rate::EveryNth(9), ..Faults::default() };
    });
    let server = upstream.serve(listener().await).await;
    let options = Options { upstream: "max_concurrent_searches: 2", output: "" };
    let process = Process::start(&server.base_url, options).await?;
    let client = Client::new();
    let status = process.kick_off(&client, "/$export?_type=Patient,Observation").await?;
    until("the export fails", async || match client.poll(&status).await? {
        Poll::Running(_) => Ok(None),
        Poll::Other(code, _) if code == 500 => Ok(Some(())),
        other => anyhow::bail!("{other:?}\n{}", process.log()),
    })
    .await?;
    let log = process.log();
    let id = status.rsplit('/').next().unwrap_or_default();
    let slice = format!("slice{{export.job_id={id} resource_type=Observation strategy=\"time windows\" slice=");
    for (told, attempts) in [
        ("a slice is read again attempt=", "reason=1 resources that the server counts did not come"),
        ("a search failed and is tried again failures=", "reason=the server answered with status 503"),
    ] {
        let is_told = |line: &&str| line.contains(" INFO ") && line.contains(&slice) && line.contains(told);
        ensure!(log.lines().filter(is_told).any(|line| line.contains(attempts)), "{told} {attempts}:\n{log}");
    }
    for secret in [hidden.as_str(), "_lastUpdated", "_count", &server.base_url] {
        ensure!(!log.contains(secret), "{secret} in\n{log}");
    }
    server.stop().await;
    Ok(())
}
