//! An upstream that fails now and then, in every way that a test can think of.

use std::time::Duration;

use futures_util::future::join_all;
use sample_upstream::{Faults, Paging, Rate, RequestSeen, SampleUpstream, Settings};

use crate::support::App;

const PAGINGS: [Paging; 3] = [Paging::Snapshot, Paging::Cursor, Paging::Offset];

/// One request in twenty fails, in one of five ways: exact all the same, nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failure_in_twenty_makes_no_difference() {
    let one_percent = Rate::Probability(0.01);
    let faults = Faults {
        reset: one_percent,
        error_503: one_percent,
        error_429: one_percent,
        error_500: one_percent,
        truncate: one_percent,
        retry_after: Duration::ZERO,
    };
    assert_exact(&faults, Some(9), &["/$export", "/Group/all/$export"]).await;
}

/// The same with one in twenty of each kind, so that more than one request in five fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failure_in_five_makes_no_difference() {
    let often = Rate::Probability(0.05);
    let faults = Faults {
        reset: often,
        error_503: often,
        error_429: often,
        error_500: often,
        truncate: often,
        retry_after: Duration::ZERO,
    };
    assert_exact(&faults, None, &["/Patient/$export?_type=Patient,Observation,Encounter,Condition,Practitioner"]).await;
}

async fn assert_exact(faults: &Faults, max_count: Option<usize>, paths: &[&str]) {
    let runs = PAGINGS.into_iter().zip(1..).map(async |(paging, seed)| {
        let settings = Settings { paging, seed, max_count, faults: faults.clone(), ..Settings::default() };
        let app = App::with_patients(6, settings).await;
        for path in paths {
            if let Err(error) = app.export_exactly(path).await {
                panic!("{paging:?}: {error:#}");
            }
        }
        let asked = app.upstream.requests().len();
        println!("{paging:?}: exact after {asked} requests");
        app.stop().await;
    });
    join_all(runs).await;
}

/// `Retry-After` is kept: the same question comes again when it is over, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_busy_upstream_asks_for_is_kept() {
    let every = 30;
    let pause = Duration::from_secs(1);
    let busy = [
        Faults { error_429: Rate::EveryNth(every), retry_after: pause, ..Faults::default() },
        Faults { error_503: Rate::EveryNth(every), retry_after: pause, ..Faults::default() },
    ];
    let runs = busy.into_iter().map(async |faults| {
        let upstream = SampleUpstream::new(Settings { faults, ..Settings::default() });
        upstream.generate(2);
        // One search at a time, so that it is known which of them was struck.
        let app = App::before(upstream, |config| config.upstream.max_concurrent_searches = 1).await;
        if let Err(error) = app.export_exactly("/$export?_type=Patient,Observation,Encounter,Group").await {
            panic!("{error:#}");
        }
        let asked: Vec<RequestSeen> =
            app.upstream.requests().into_iter().filter(|seen| seen.path != "/fhir/metadata").collect();
        let every = usize::try_from(every).expect("a small number");
        let mut struck = 0;
        for index in (every - 1..asked.len()).step_by(every) {
            let (first, later) = (&asked[index], &asked[index + 1..]);
            let again = later.iter().find(|seen| (&seen.path, &seen.query) == (&first.path, &first.query));
            let again = again.unwrap_or_else(|| panic!("{} was never asked again", first.path));
            let waited = again.at - first.at;
            assert!(waited.num_milliseconds() >= 1_000, "{} came again after {waited}", first.path);
            struck += 1;
        }
        assert!(struck >= 2, "{} requests and {struck} struck", asked.len());
        println!("{struck} of {} requests were struck", asked.len());
        app.stop().await;
    });
    join_all(runs).await;
}
