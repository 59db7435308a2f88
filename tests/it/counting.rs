//! Counts while somebody writes: no two are of the same moment.

use std::sync::atomic::{AtomicUsize, Ordering};

use sample_upstream::{Lies, SampleUpstream, Settings, Total};

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

/// As many are made before the counts of a triple as windows cannot see, and deleted between them: that triple has nothing over.
#[tokio::test]
async fn what_windows_cannot_see_is_not_hidden_by_what_is_made_and_deleted_between_counts() {
    let lies = Lies { unstamped_every: 97, ..Lies::default() };
    let upstream = SampleUpstream::new(Settings { total: Total::Exact, lies, ..Settings::default() });
    upstream.generate(20);
    let observations = upstream.resources(Some("Observation"));
    let is_hidden = |body: &str| !body.contains("lastUpdated");
    let hidden: Vec<_> =
        observations.iter().filter(|stored| is_hidden(&stored.body)).map(|stored| &stored.id).collect();
    assert!(!hidden.is_empty() && hidden.len() < 20, "{} are hidden", hidden.len());
    let (writer, count, triples) = (upstream.clone(), hidden.len(), AtomicUsize::new(0));
    let body = observations[0].body.clone();
    let first = observations[0].id.clone();
    let named = move |id: &str| body.replacen(&format!("\"{first}\""), &format!("\"{id}\""), 1);
    upstream.first_when(
        move |seen| {
            let is_count = seen.path.ends_with("/Observation") && seen.query.contains("_summary=count");
            let temporary = |number: usize| format!("temporary-{number}");
            if is_count && seen.query.contains("_lastUpdated=ge") && !seen.query.contains("_lastUpdated=lt") {
                let triple = triples.fetch_add(1, Ordering::Relaxed);
                // No two counts of all are the same.
                writer.create(&named(&format!("more-{triple}"))).expect("a resource");
                if triple % 3 == 2 {
                    (0..count).for_each(|number| drop(writer.create(&named(&temporary(number))).expect("a resource")));
                }
            } else if is_count && !seen.query.contains("_lastUpdated") && triples.load(Ordering::Relaxed) % 3 == 0 {
                (0..count).for_each(|number| drop(writer.delete("Observation", &temporary(number))));
            }
            false
        },
        || (),
    );
    let app = App::before(upstream.clone(), |_| {}).await;
    let (_, received) = app.export("/$export?_type=Observation").await.expect("an export");
    let lines = String::from_utf8(received["Observation"].clone()).expect("text");
    for id in hidden {
        assert!(lines.contains(&format!("\"id\":\"{id}\"")), "{id} is hidden from windows and was lost");
    }
    app.stop().await;
}
