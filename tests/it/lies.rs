//! Every way of paging and every lie of the sample upstream: the export is complete by the strongest method that the
//! server allows, or it stops and says which filter, probe or type failed.

mod by_patient;
mod closed;
mod posts;
mod presets;
mod records;
mod rows;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use offtake::config::OnShort;
use sample_upstream::{Lies, Paging, RequestSeen, SampleUpstream, Settings, Total};

use crate::client::{Client, Manifest};
use crate::support::App;

const PROOF: &str = "https://offtake.dev/proof";
/// Scenarios at a time.
const AT_ONCE: usize = 4;
/// One scenario may take this long.
const PATIENCE: Duration = Duration::from_mins(1);

/// One server, and what is expected of an export from it.
struct Row {
    name: String,
    settings: Settings,
    patients: usize,
    /// Done to the data before the export.
    prepare: fn(&SampleUpstream),
    /// The preset that the configuration names, where the server's own name does not.
    preset: Option<&'static str>,
    level: &'static str,
    expected: Expected,
    /// What is to be seen afterwards.
    check: fn(&SampleUpstream, &str) -> Result<(), String>,
}

/// What is expected.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// Exactly what the server holds, the weakest of all types by this method.
    Complete(&'static str),
    /// A failure whose text holds all of these.
    Stops(&'static [&'static str]),
}

impl Row {
    async fn run(self) -> Option<String> {
        let Self { name, settings, patients, prepare, preset, level, expected, check } = self;
        let upstream = SampleUpstream::new(settings);
        upstream.generate(patients);
        prepare(&upstream);
        let app = App::before(upstream, |config| {
            if let Some(preset) = preset {
                config.upstream.preset = serde_json::from_value(preset.into()).expect("there is such a preset");
            }
        })
        .await;
        let exported = tokio::time::timeout(PATIENCE, app.export_exactly(level)).await;
        let problem = match (exported, expected) {
            (Err(_), _) => Some(format!("no end within {PATIENCE:?}")),
            (Ok(Ok(manifest)), Expected::Complete(method)) => {
                let weakest = weakest(&manifest);
                let said = outcomes(&manifest).await;
                check(&app.upstream, &said)
                    .err()
                    .or_else(|| (weakest != method).then(|| format!("by {weakest}, not by {method}")))
            }
            (Ok(Err(error)), Expected::Stops(parts)) => {
                let text = format!("{error:#}");
                parts.iter().any(|part| !text.contains(part)).then(|| format!("it stopped with: {text}"))
            }
            (Ok(Ok(_)), Expected::Stops(_)) => Some("it ended as if all were well".to_owned()),
            (Ok(Err(error)), Expected::Complete(_)) => Some(format!("{error:#}")),
        };
        let no_store = app.upstream.requests().iter().any(|request| {
            let values = request.headers.get_all("cache-control").into_iter();
            values.filter_map(|value| value.to_str().ok()).any(|value| value.contains("no-store"))
        });
        app.stop().await;
        let problem = problem.or_else(|| no_store.then(|| "a request said `no-store`".to_owned()));
        problem.map(|problem| format!("{name}, {level}, expected {expected:?}: {problem}"))
    }
}

/// The weakest method of all types' proofs.
fn weakest(manifest: &Manifest) -> String {
    const METHODS: [&str; 3] = ["counted", "reread", "unproven"];
    let proofs = manifest.whole["extension"][PROOF].as_object().into_iter().flat_map(|proof| proof.values());
    let place = |method: &str| METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len());
    let methods = proofs.map(|proof| proof["method"].as_str().unwrap_or("none").to_owned());
    methods.max_by_key(|method| place(method)).unwrap_or_default()
}

/// All lines of the files of outcomes.
async fn outcomes(manifest: &Manifest) -> String {
    let mut said = String::new();
    for file in manifest.whole["error"].as_array().into_iter().flatten() {
        let url = file["url"].as_str().expect("a file has a URL");
        let bytes = Client::new().download(url).await.expect("a file of outcomes");
        said.push_str(&String::from_utf8_lossy(&bytes));
    }
    said
}

/// What is counted once more while it is held needs no memory that has to be waited for: one search has all that there is.
#[tokio::test]
async fn what_goes_while_it_is_read_is_counted_by_one_search_too() {
    let ignored_params = ["_lastUpdated".to_owned()].into();
    let settings = Settings { paging: Paging::Cursor, total: Total::Exact, ignored_params, ..Settings::default() };
    let upstream = SampleUpstream::new(settings);
    upstream.generate(30);
    rows::going(&upstream);
    let app = App::before(upstream, |config| config.upstream.max_concurrent_searches = 1).await;
    let exported = tokio::time::timeout(PATIENCE, app.export_exactly("/$export")).await;
    exported.expect("it ends").unwrap_or_else(|error| panic!("{error:#}"));
    app.stop().await;
}

#[tokio::test]
async fn each_server_is_exported_in_full_or_the_reason_why_not_is_named() {
    run(rows::all()).await;
}

/// Runs scenarios, several at a time.
async fn run(rows: Vec<Row>) {
    let names: BTreeSet<_> = rows.iter().map(|row| (row.name.clone(), row.level)).collect();
    assert_eq!(names.len(), rows.len(), "each scenario has a name of its own");
    let count = rows.len();
    let wrong: Vec<String> = futures_util::stream::iter(rows)
        .map(Row::run)
        .buffer_unordered(AT_ONCE)
        .filter_map(async |wrong| wrong)
        .collect()
        .await;
    assert!(wrong.is_empty(), "{} of {count} scenarios went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The oldest Observation is one that the server lies about.
async fn before_a_liar(lies: fn(BTreeSet<String>) -> Lies, on_short: OnShort) -> (App, String) {
    let upstream = SampleUpstream::new(Settings { total: Total::Exact, ..Settings::default() });
    upstream.generate(4);
    let all = upstream.resources(Some("Observation"));
    let oldest = all.iter().min_by_key(|resource| resource.last_updated).expect("some");
    let name = format!("Observation/{}", oldest.id);
    let lies = lies(BTreeSet::from([name.clone()]));
    upstream.update_settings(|settings| settings.lies = lies);
    (App::before(upstream, |config| config.export.on_short = on_short).await, name)
}

/// It is counted and never sent.
async fn before_a_server_that_drops_one(on_short: OnShort) -> (App, String) {
    before_a_liar(|dropped| Lies { dropped, ..Lies::default() }, on_short).await
}

/// It is counted by whoever asks for the number alone, and neither on a page nor in a page's total.
async fn before_a_server_that_leaves_one_out(on_short: OnShort) -> (App, String) {
    before_a_liar(|left_out| Lies { left_out, ..Lies::default() }, on_short).await
}

#[tokio::test]
async fn a_resource_that_is_counted_and_never_sent_fails_the_export() {
    let (app, _) = before_a_server_that_drops_one(OnShort::Fail).await;
    let error = app.export("/$export").await.expect_err("one is missing").to_string();
    assert!(error.contains("500"), "{error}");
    assert!(error.contains("could not read Observation by time windows"), "{error}");
    assert!(error.contains("1 resources that the server counts did not come"), "{error}");
    app.stop().await;
}

#[tokio::test]
async fn a_resource_that_is_counted_and_never_sent_is_reported_where_that_is_wanted() {
    let (app, dropped) = before_a_server_that_drops_one(OnShort::Report).await;
    let (manifest, received) = app.export("/$export").await.expect("an export");
    let proof = &manifest.whole["extension"][PROOF];
    let held = app.upstream.resources(Some("Observation")).len();
    assert_eq!(proof["Observation"]["short"], 1);
    assert_eq!(proof["Observation"]["expected"], held);
    assert_eq!(proof["Observation"]["written"], held - 1);
    for (name, proof) in proof.as_object().expect("an object").iter().filter(|(name, _)| *name != "Observation") {
        assert_eq!(proof["short"], 0, "{name}");
    }
    let lines = String::from_utf8_lossy(&received["Observation"]).into_owned();
    let (_, id) = dropped.split_once('/').expect("a type and an id");
    assert!(!lines.contains(&format!("\"id\":\"{id}\"")), "it came after all");
    let said = outcomes(&manifest).await;
    let about: Vec<_> = said.lines().skip(1).filter(|line| line.contains("Observation")).collect();
    assert!(matches!(about.as_slice(), [line] if line.contains("1 ") && line.contains("\"incomplete\"")), "{about:?}");
    app.stop().await;
}

/// However old it is: what a page says of itself is not the last word.
#[tokio::test]
async fn what_pages_and_their_totals_leave_out_fails_the_export() {
    let (app, _) = before_a_server_that_leaves_one_out(OnShort::Fail).await;
    let error = app.export("/$export").await.expect_err("one is missing").to_string();
    assert!(error.contains("could not read Observation by time windows"), "{error}");
    assert!(error.contains("1 resources that the server counts did not come"), "{error}");
    app.stop().await;
}

#[tokio::test]
async fn what_pages_and_their_totals_leave_out_is_reported_where_that_is_wanted() {
    let (app, left_out) = before_a_server_that_leaves_one_out(OnShort::Report).await;
    let (manifest, received) = app.export("/$export").await.expect("an export");
    assert_eq!(manifest.whole["extension"][PROOF]["Observation"]["short"], 1);
    let lines = String::from_utf8_lossy(&received["Observation"]).into_owned();
    let (_, id) = left_out.split_once('/').expect("a type and an id");
    assert!(!lines.contains(&format!("\"id\":\"{id}\"")), "it came after all");
    assert_eq!(lines.lines().count(), app.upstream.resources(Some("Observation")).len() - 1);
    app.stop().await;
}

#[tokio::test]
async fn what_pages_left_out_for_a_while_is_exported() {
    let (app, _) = before_a_server_that_leaves_one_out(OnShort::Fail).await;
    let has_come = AtomicBool::new(false);
    let upstream = app.upstream.clone();
    let is_counted_again = move |seen: &RequestSeen| {
        let of_window = seen.path.ends_with("/Observation") && seen.query.contains("_lastUpdated=lt");
        let is_page = of_window && !seen.query.contains("_summary") && !seen.query.contains("_sort");
        has_come.fetch_or(is_page, Ordering::Relaxed) && of_window && seen.query.contains("_summary=count")
    };
    app.upstream
        .first_when(is_counted_again, move || upstream.update_settings(|settings| settings.lies = Lies::default()));
    let manifest = app.export_exactly("/$export").await.expect("all of it");
    assert_eq!(weakest(&manifest), "counted");
    let repeated = &manifest.whole["extension"][PROOF]["Observation"]["repeated"];
    assert!(repeated.as_u64() > Some(0), "it came the first time: {repeated}");
    app.stop().await;
}
