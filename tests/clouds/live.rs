//! Requests that pass through while an export is at work, or cannot be.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sample_upstream::{RequestSeen, SampleUpstream};

use crate::client::Client;
use crate::support::{PATIENCE, until};

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(10);
/// Whoever asks nothing for so long does not go on with it.
const SETTLED: Duration = Duration::from_millis(2_500);
/// A resource that no export asks for by its own address.
const READ: &str = "/Patient/live";

/// Whether a request that the server has seen is none of those, and not one for what the server can do, which is no load.
fn is_search(seen: &RequestSeen) -> bool {
    !seen.path.ends_with(READ) && !seen.path.ends_with("/metadata")
}

/// Puts there what is read.
pub(crate) fn prepare(upstream: &SampleUpstream) -> anyhow::Result<()> {
    upstream.insert_raw(r#"{"resourceType":"Patient","id":"live"}"#).map(drop)
}

/// What exports have asked of the server so far.
pub(crate) fn searches(upstream: &SampleUpstream) -> usize {
    upstream.requests().iter().filter(|seen| is_search(seen)).count()
}

/// Does something when the server is asked for the `number`th time from now on, before it answers.
pub(crate) fn at_search(upstream: &SampleUpstream, number: usize, act: impl FnOnce() + Send + Sync + 'static) {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let is_it = move |seen: &RequestSeen| {
        is_search(seen) && asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == number
    };
    upstream.first_when(is_it, act);
}

/// Reads one after another, and how long they took.
pub(crate) struct Live {
    client: Client,
    url: String,
    took: Vec<Duration>,
}

impl Live {
    pub(crate) fn through(base: &str) -> Self {
        Self { client: Client::new(), url: format!("{base}{READ}"), took: Vec::new() }
    }

    /// Reads once, after a pause; fails unless it is answered.
    pub(crate) async fn read(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        let body = self.client.download(&self.url).await?;
        self.took.push(began.elapsed());
        ensure!(body.starts_with(b"{"), "a request that passes through was answered with something else");
        Ok(())
    }

    /// Of the reads since it was last asked, with their number.
    pub(crate) fn p99(&mut self) -> (Duration, usize) {
        self.took.sort_unstable();
        let slowest = self.took.len() - 1 - self.took.len() / 100;
        let p99 = (self.took[slowest], self.took.len());
        self.took.clear();
        p99
    }
}

/// Waits until what was found out about the server in the background is known.
pub(crate) async fn settled(upstream: &SampleUpstream) -> anyhow::Result<()> {
    let (mut asked, mut since) = (searches(upstream), Instant::now());
    until("nothing is asked any more", PATIENCE, async || {
        let now = searches(upstream);
        if now != asked {
            (asked, since) = (now, Instant::now());
        }
        ensure!(since.elapsed() > SETTLED, "{asked} searches so far");
        Ok(())
    })
    .await
}

/// Reads for `time`, while exports ask nothing at all.
pub(crate) async fn alone(live: &mut Live, upstream: &SampleUpstream, time: Duration) -> anyhow::Result<()> {
    let (began, before) = (Instant::now(), searches(upstream));
    while began.elapsed() < time {
        live.read().await?;
    }
    let asked = searches(upstream) - before;
    ensure!(asked == 0, "{asked} searches all the same");
    Ok(())
}
