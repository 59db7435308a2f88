//! The delete request in every state of a job (section 5).

use std::time::Duration;

use sample_upstream::{SampleUpstream, Settings};

use crate::client::Client;
use crate::raw::KICKOFF;
use crate::support::{App, until};

/// Files are gone within seconds; links answer 404 at once.
const SOON: Duration = Duration::from_secs(10);

async fn kick_off(app: &App, below: &str) -> String {
    let kickoff = app.ask("GET", below, &KICKOFF, b"").await;
    assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
    kickoff.header("content-location")[app.base.len()..].to_owned()
}

/// BD-098, BD-099, BD-101: 202, and from then on 404 whatever is asked.
async fn assert_deleted(app: &App, status: &str) {
    let deleted = app.ask("DELETE", status, &[], b"").await;
    assert_eq!(deleted.status, 202, "{}", String::from_utf8_lossy(&deleted.body));
    for method in ["GET", "DELETE", "GET"] {
        let answer = app.ask(method, status, &[], b"").await;
        answer.assert_refused(&format!("{method} after DELETE"), 404, "not-found", None);
    }
    let job = status.rsplit('/').next().expect("a job").to_owned();
    let is_left = |path: &std::path::PathBuf| path.to_string_lossy().contains(&job);
    until("the files are gone", SOON, || !app.output_files().iter().any(is_left)).await;
    assert_eq!(app.ask("GET", status, &[], b"").await.status, 404);
}

#[tokio::test]
async fn a_queued_and_a_running_export_end_when_they_are_deleted() {
    let upstream = SampleUpstream::new(Settings { max_count: Some(20), ..Settings::default() });
    upstream.generate(10);
    let app = App::before(upstream.clone(), |config| {
        config.export.max_running_jobs = 1;
        config.upstream.max_concurrent_searches = 1;
        config.output.file_max_resources = 5;
    })
    .await;
    // Slow enough to be met in its middle.
    upstream.update_settings(|settings| settings.latency = Duration::from_millis(100));
    let running = kick_off(&app, "/$export?_type=Encounter,Observation,Patient").await;
    let queued = kick_off(&app, "/$export").await;
    until("files are being written", Duration::from_secs(30), || app.output_files().len() > 2).await;
    for (job, text) in [(&running, "reading"), (&queued, "waiting for its turn")] {
        let answer = app.ask("GET", job, &[], b"").await;
        assert_eq!(answer.status, 202);
        assert!(answer.header("x-progress").starts_with(text), "{}", answer.header("x-progress"));
    }
    // Nobody answers its next search: what is deleted waits for none, and its place is free again.
    let before = upstream.requests().len();
    upstream.update_settings(|settings| settings.latency = Duration::from_hours(1));
    until("it asks for more", Duration::from_secs(30), || upstream.requests().len() > before).await;
    assert_deleted(&app, &queued).await;
    assert_deleted(&app, &running).await;
    upstream.update_settings(|settings| settings.latency = Duration::ZERO);
    let before = upstream.requests().len();
    app.export_exactly("/$export").await.expect("the place is free again");
    assert!(upstream.requests().len() > before);
    app.stop().await;
}

#[tokio::test]
async fn a_complete_export_goes_with_its_links() {
    let app = App::with_patients(3, Settings::default()).await;
    let status = kick_off(&app, "/Patient/$export").await;
    let manifest = Client::new().wait(&format!("{}{status}", app.base), |_| {}).await.expect("an export");
    assert!(manifest.output.len() > 5 && app.output_files().len() > 5);
    let link = manifest.output[0].url[app.base.len()..].to_owned();
    assert_eq!(app.ask("GET", &link, &[], b"").await.status, 200);
    assert_deleted(&app, &status).await;
    for method in ["GET", "HEAD"] {
        let answer = app.ask(method, &link, &[], b"").await;
        assert_eq!(answer.status, 404, "interop 9");
    }
    assert!(app.output_files().is_empty(), "{:?}", app.output_files());
    app.stop().await;
}

#[tokio::test]
async fn a_failed_export_can_be_deleted_too() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(2);
    let app = App::before(upstream.clone(), |config| config.upstream.give_up_after = Duration::from_secs(1)).await;
    upstream.away_when(|seen| seen.query.contains("_summary=count"), Duration::from_hours(1));
    let status = kick_off(&app, "/$export").await;
    let failed = loop {
        let answer = app.ask("GET", &status, &[], b"").await;
        if answer.status != 202 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    failed.assert_refused("a failed export", 500, "processing", None);
    assert_deleted(&app, &status).await;
    app.stop().await;
}

/// Only one of many that come at once deletes the job.
#[tokio::test]
async fn of_many_delete_requests_at_once_one_is_taken() {
    let app = App::with_patients(2, Settings::default()).await;
    for _ in 0..5 {
        let status = kick_off(&app, "/$export").await;
        let asked = (0..8).map(|_| app.ask("DELETE", &status, &[], b""));
        let mut statuses: Vec<_> =
            futures_util::future::join_all(asked).await.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [202, 404, 404, 404, 404, 404, 404, 404]);
    }
    until("nothing is left", SOON, || app.output_files().is_empty()).await;
    app.stop().await;
}
