//! Exports of servers that change all the time, with whatever habits: nothing is lost and nothing comes twice.
//!
//! Each seed chooses a server and a level. The rules are those of `exact`; every export is also held against the next
//! one: what it lacks must be newer than its transaction time. A failure is allowed only where two equal readings are the
//! only proof that the server admits, and did not come about.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use sample_upstream::{Paging, SampleUpstream, Settings, Stamp, Total};

use crate::client::Client;
use crate::exact::{Applied, Exported, Moment};
use crate::random::Random;
use crate::support::App;
use crate::writer::Writer;

const PATIENTS: usize = 6;
const CHANGES_PER_SECOND: u32 = 60;
const EXPORTS: usize = 3;
/// Servers that are exported at the same time.
const AT_ONCE: usize = 4;
const LEVELS: [&str; 3] = ["/$export", "/Patient/$export", "/Group/all/$export"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_while_the_server_changes() {
    let runs: Vec<_> = futures_util::stream::iter(seeds())
        .map(|seed| async move { (seed, run(seed).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut sum = Applied::default();
    let mut unsteady = 0;
    let mut wrong = Vec::new();
    for (seed, ended) in &runs {
        match ended {
            Ok(Ended { applied, failed }) => {
                sum.modified += applied.modified;
                sum.modified_new += applied.modified_new;
                sum.created_came += applied.created_came;
                sum.deleted_since += applied.deleted_since;
                unsteady += failed;
            }
            Err(error) => wrong.push(format!("seed {seed}, {:?}: {error:#}", server(*seed))),
        }
    }
    println!("{} servers, {unsteady} exports without two equal readings, {sum:?}", runs.len());
    assert!(wrong.is_empty(), "{} of {} servers:\n{}", wrong.len(), runs.len(), wrong.join("\n\n"));
    assert!(sum.modified_new > 0 && sum.created_came > 0 && sum.deleted_since > 0, "too little happened: {sum:?}");
}

#[expect(clippy::disallowed_methods, reason = "a switch of this test alone, to try more seeds")]
fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("OFFTAKE_CHURN_SEEDS").unwrap_or_else(|_| "1..9".to_owned());
    let (first, end) = text.split_once("..").expect("OFFTAKE_CHURN_SEEDS is FIRST..END");
    first.parse().expect("a number")..end.parse().expect("a number")
}

/// The server and the level of one seed.
fn server(seed: u64) -> (Settings, &'static str) {
    let mut random = Random::new(seed);
    let mut one = |many: usize| random.below(many);
    let counts = one(4) > 0;
    let settings = Settings {
        seed,
        latency: Duration::from_millis(2),
        gzip: false,
        paging: [Paging::Snapshot, Paging::Cursor, Paging::Offset][one(3)],
        total: [Total::Exact, Total::WhenComplete, Total::Absent, Total::PageSized][one(4)],
        counts,
        accurate_total: counts && one(2) > 0,
        max_count: [Some(5), Some(20), Some(200), None][one(4)],
        ignore_sort: one(4) == 0,
        stamp: [Stamp::default(), Stamp::Now, Stamp::Single, Stamp::Spread { over: Duration::from_secs(5_000) }]
            [one(4)],
        ..Settings::default()
    };
    let level = LEVELS[one(3)];
    // What belongs to nobody cannot be found there.
    let require_patient = level != LEVELS[0] && one(2) > 0;
    (Settings { require_patient, ..settings }, level)
}

struct Ended {
    applied: Applied,
    /// Exports that ended without a proof.
    failed: usize,
}

async fn run(seed: u64) -> anyhow::Result<Ended> {
    let (settings, path) = server(seed);
    let rereads = settings.paging == Paging::Offset || !settings.counts;
    let upstream = SampleUpstream::new(settings);
    upstream.generate(PATIENTS);
    let app = App::before(upstream, |_| {}).await;
    let writer = Writer::start(&app.upstream, seed, CHANGES_PER_SECOND)?;
    let client = Client::new();
    let mut ended = Ended { applied: Applied::default(), failed: 0 };
    for number in 0..EXPORTS {
        let began = Moment::of(&app.upstream);
        let status = client.kick_off(&format!("{}{path}", app.base)).await?;
        let manifest = match client.wait(&status, |_| {}).await {
            Ok(manifest) => manifest,
            Err(error) if rereads && format!("{error:#}").contains("readings") => {
                ended.failed += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        let versions = app.upstream.versions();
        let exported = Exported::fetch(&client, manifest).await?;
        let applied = exported.judge(path, began, &versions).with_context(|| format!("export {number} of {path}"))?;
        ensure!(applied.untouched > 0, "nothing was left alone: {applied:?}");
        ended.applied.modified += applied.modified;
        ended.applied.modified_new += applied.modified_new;
        ended.applied.created_came += applied.created_came;
        ended.applied.deleted_since += applied.deleted_since;
    }
    writer.stop().await?;
    app.stop().await;
    Ok(ended)
}
