//! `Prefer` in all its forms, and `separate-export-status` (sections 2.3 and 3.1 of the checklist).

use sample_upstream::Settings;

use super::{before_a_failing_upstream, ended, status_of};
use crate::raw::{Answer, KICKOFF};
use crate::support::App;

const ACCEPT: (&str, &str) = KICKOFF[0];
const APPLIED: &str = "respond-async, separate-export-status";

fn runs(answer: &Answer) -> bool {
    answer.header("x-export-status") == "202 Accepted"
}

/// What was done as preferred is said, in whatever way it was asked for, and nothing else ever is.
#[tokio::test]
async fn only_the_preference_that_is_kept_is_claimed() {
    let app = App::with_patients(1, Settings::default()).await;
    let both = [ACCEPT, ("Prefer", "respond-async"), ("prefer", "separate-export-status")];
    let turned = [ACCEPT, ("Prefer", "separate-export-status"), ("Prefer", "handling=lenient, respond-async")];
    for headers in [
        &both[..],
        &turned,
        &[ACCEPT, ("Prefer", "respond-async,separate-export-status")],
        &[ACCEPT, ("Prefer", "Separate-Export-Status ; x=y , Respond-Async")],
        &[ACCEPT, ("Prefer", "respond-async, return=minimal, separate-export-status=, wait=100")],
    ] {
        let kickoff = app.ask("GET", "/$export?_type=Patient", headers, b"").await;
        assert_eq!((kickoff.status, kickoff.header("preference-applied")), (202, APPLIED), "{headers:?}");
    }
    for prefer in [
        "respond-async",
        "respond-async, handling=lenient, return=minimal, wait=100",
        "respond-async, separate-export-status=false",
        "respond-async, separate-status",
        "respond-async; separate-export-status",
        r#"respond-async, note="x, separate-export-status""#,
    ] {
        let kickoff = app.ask("GET", "/$export?_type=Patient", &[ACCEPT, ("Prefer", prefer)], b"").await;
        assert!(kickoff.headers.get("preference-applied").is_none(), "{prefer}: {:?}", kickoff.headers);
        let running = app.ask("GET", &status_of(&app, &kickoff), &[], b"").await;
        assert_eq!((running.status, running.header("x-export-status")), (202, ""), "{prefer}");
    }
    let alone = app.ask("GET", "/$export", &[ACCEPT, ("Prefer", "separate-export-status")], b"").await;
    alone.assert_refused("exports are asynchronous", 400, "required", None);
    assert!(alone.headers.get("preference-applied").is_none(), "a refusal claims nothing");
    app.stop().await;
}

/// BD-057 to BD-062, BD-065, BD-101: 200 for every status request that could be answered, and the export's own status beside it.
#[tokio::test]
async fn every_answer_about_an_export_says_apart_how_it_stands() {
    let app = before_a_failing_upstream().await;
    let prefer = [ACCEPT, ("Prefer", APPLIED)];
    let kickoff = app.ask("GET", "/$export?_type=Patient", &prefer, b"").await;
    let status = status_of(&app, &kickoff);
    let running = app.ask("GET", &status, &[], b"").await;
    assert_eq!((running.status, running.header("x-export-status"), running.body.len()), (200, "202 Accepted", 0));
    assert!(!running.header("x-progress").is_empty() && !running.header("retry-after").is_empty());

    // What a later request prefers changes nothing: it was settled by the kick-off.
    let complete = ended(&app, &status, runs).await;
    assert_eq!((complete.status, complete.header("x-export-status")), (200, "200 OK"));
    assert_eq!(complete.header("content-type"), "application/json");
    assert!(complete.json()["output"].as_array().is_some_and(|files| !files.is_empty()), "{}", complete.json());
    let again = app.ask("GET", &status, &[("Prefer", "respond-async")], b"").await;
    assert_eq!(again.header("x-export-status"), "200 OK");

    let kickoff = app.ask("GET", "/$export?_type=Observation", &prefer, b"").await;
    let failed = ended(&app, &status_of(&app, &kickoff), runs).await;
    assert_eq!((failed.status, failed.header("x-export-status")), (200, "500 Internal Server Error"));
    assert_eq!(failed.header("content-type"), "application/fhir+json");
    assert_eq!(
        (&failed.json()["resourceType"], &failed.json()["issue"][0]["code"]),
        (&"OperationOutcome".into(), &"processing".into())
    );

    // The request itself fails from here on, and that is its own status.
    let deleted = app.ask("DELETE", &status, &[], b"").await;
    assert_eq!((deleted.status, deleted.header("x-export-status")), (202, ""));
    let gone = app.ask("GET", &status, &[], b"").await;
    gone.assert_refused("it was deleted", 404, "not-found", None);
    assert_eq!(gone.header("x-export-status"), "");
    app.stop().await;
}
