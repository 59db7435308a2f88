//! Kick-offs that are refused: the status, the code and place, and that nothing came of it.

mod any;
mod bodies;
mod groups;
mod headers;
mod parameters;

use std::collections::BTreeSet;

use sample_upstream::{SampleUpstream, Settings};

use crate::raw::{Answer, KICKOFF};
use crate::support::App;

/// An Offtake that is asked for what it must not do.
struct Bench {
    app: App,
}

impl Bench {
    async fn new() -> Self {
        Self { app: App::with_patients(2, Settings::default()).await }
    }

    async fn before(upstream: SampleUpstream) -> Self {
        Self { app: App::before(upstream, |_| {}).await }
    }

    async fn get(&self, below: &str) -> Answer {
        self.send("GET", below, &KICKOFF, b"").await
    }

    async fn post(&self, below: &str, body: &[u8]) -> Answer {
        let headers = [KICKOFF[0], KICKOFF[1], ("Content-Type", "application/fhir+json")];
        self.send("POST", below, &headers, body).await
    }

    /// Sends a request, and sees that the process still answers afterwards.
    async fn send(&self, method: &str, below: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.app.ask(method, below, headers, body).await;
        assert_ne!(answer.status, 500, "{method} {below} {headers:?}");
        let alive = self.app.ask("GET", "/$bulk-status/00000000000000000000000000000000", &[], b"").await;
        alive.assert_refused("an unknown job", 404, "not-found", None);
        answer
    }

    /// Sees that no job was recorded: the upstream was asked for nothing but `allowed`, nothing was written, and
    /// the next export is the only one that ever is.
    async fn end(self, allowed: &[&str]) {
        let asked: BTreeSet<_> = self.app.upstream.requests().into_iter().map(|seen| seen.path).collect();
        let foreign: Vec<_> = asked.iter().filter(|path| !allowed.contains(&path.as_str())).collect();
        assert!(foreign.is_empty(), "the upstream was asked for {foreign:?}");
        assert!(self.app.output_files().is_empty(), "something was written");
        self.app.export_exactly("/$export").await.expect("an export");
        let jobs: BTreeSet<_> =
            self.app.output_files().iter().filter_map(|path| path.parent().map(ToOwned::to_owned)).collect();
        assert_eq!(jobs.len(), 1, "a refused kick-off was carried out: {jobs:?}");
        self.app.stop().await;
    }
}

const METADATA: &str = "/fhir/metadata";
