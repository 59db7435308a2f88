//! Counts while somebody writes: no two are of the same moment.

use std::sync::atomic::{AtomicUsize, Ordering};

use sample_upstream::{SampleUpstream, Settings, Total};

use crate::support::App;

/// Real servers take as long to count as a writer needs for some changes.
#[tokio::test]
async fn a_type_that_changes_between_any_two_counts_is_read_in_windows() {
    let upstream = SampleUpstream::new(Settings { total: Total::Exact, ..Settings::default() });
    upstream.generate(20);
    let observations = upstream.resources(Some("Observation"));
    assert!(observations.len() > 40, "{} observations", observations.len());
    let (writer, written) = (upstream.clone(), AtomicUsize::new(0));
    // Before each count of what is new, and once between it and that of what is old.
    let is_written = AtomicUsize::new(0);
    upstream.first_when(
        move |seen| {
            let is_count = seen.path.ends_with("/Observation") && seen.query.contains("_summary=count");
            let is_of_new = is_count && seen.query.contains("_lastUpdated=ge");
            let is_of_old = is_count && seen.query.contains("_lastUpdated=lt") && !seen.query.contains("=ge");
            if is_of_new || (is_of_old && is_written.fetch_add(1, Ordering::Relaxed) == 0) {
                let place = written.fetch_add(1, Ordering::Relaxed) % observations.len();
                writer.update(&observations[place].body).expect("it is there");
            }
            false
        },
        || (),
    );
    let app = App::before(upstream, |_| {}).await;
    let (manifest, _) = app.export("/$export?_type=Observation").await.expect("an export");
    assert_eq!(manifest.whole["extension"]["https://offtake.dev/proof"]["Observation"]["method"], "counted");
    let requests = app.upstream.requests();
    let is_whole =
        |query: &str| query.contains("_count=1000") && !query.contains("_lastUpdated") && !query.contains("_elements");
    let whole = requests.iter().filter(|seen| seen.path.ends_with("/Observation") && is_whole(&seen.query)).count();
    assert_eq!(whole, 0, "nothing is hidden from windows");
    app.stop().await;
}
