//! `allowPartialManifests` (3.4 of the checklist): pages of the manifest while the export runs, each of which stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sample_upstream::{SampleUpstream, Settings};
use serde_json::{Value, json};

use super::status_of;
use crate::client::Client as Http;
use crate::expected;
use crate::process::{Options, Process};
use crate::raw::{Answer, KICKOFF};
use crate::smart::{Client, Rig};
use crate::support::{App, listener};

const PATIENCE: Duration = Duration::from_mins(2);

/// In front of an upstream that takes its time, so that the end of an export comes long after its first files.
async fn slow(change: impl FnOnce(&mut offtake::Config)) -> App {
    let upstream = SampleUpstream::new(Settings { latency: Duration::from_millis(30), ..Settings::default() });
    upstream.generate(6);
    App::before(upstream, |config| {
        config.upstream.max_concurrent_searches = 2;
        change(config);
    })
    .await
}

/// Polls until what is awaited comes.
async fn until(app: &App, status: &str, is_so: impl Fn(&Answer) -> bool) -> Answer {
    let began = Instant::now();
    loop {
        let answer = app.ask("GET", status, &[], b"").await;
        if is_so(&answer) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn next(manifest: &Value) -> Option<&str> {
    let link = manifest.get("link")?;
    let [link] = link.as_array().map_or(&[][..], Vec::as_slice) else { panic!("BD-083: one link: {manifest}") };
    assert_eq!(link["relation"], "next");
    link["url"].as_str()
}

/// What may not change of a page: all but its link to the next one, and what makes links to files good.
fn fixed(page: &Value) -> Value {
    let mut page = page.clone();
    let members = page.as_object_mut().expect("an object");
    members.remove("link");
    for list in ["output", "error", "outcome", "deleted"] {
        for file in members.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let url = file["url"].as_str().expect("a link");
            file["url"] = url.split('?').next().into();
        }
    }
    page
}

fn files<'a>(page: &'a Value, list: &str) -> &'a [Value] {
    page[list].as_array().map_or(&[][..], Vec::as_slice)
}

/// All pages from the first one on; each is asked for twice, and is the same.
async fn pages(app: &App, first: Value) -> Vec<Value> {
    let mut pages = vec![first];
    while let Some(url) = next(&pages[pages.len() - 1]) {
        let below = url.strip_prefix(&app.base).expect("an address of ours").to_owned();
        let (page, again) = (app.ask("GET", &below, &[], b"").await, app.ask("GET", &below, &[], b"").await);
        assert_eq!((page.status, page.header("content-type")), (200, "application/json"), "{below}");
        assert_eq!(fixed(&page.json()), fixed(&again.json()), "{below}");
        pages.push(page.json());
    }
    pages
}

/// BD-045, BD-083 to BD-086: what is listed early can be had early and stays, and together the pages are the export.
#[tokio::test]
async fn files_are_listed_while_the_export_runs_and_stay_listed() {
    for (level, release) in [("/$export", 3), ("/Group/all/$export-v4", 4)] {
        let app = slow(|_| {}).await;
        let (method, query, body, errors) = if release == 3 {
            ("GET", "?allowPartialManifests=true", "", "error")
        } else {
            let body =
                r#"{"resourceType":"Parameters","parameter":[{"name":"allowPartialManifests","valueBoolean":true}]}"#;
            ("POST", "", body, "outcome")
        };
        let headers = [KICKOFF[0], KICKOFF[1], ("Content-Type", "application/fhir+json")];
        let kickoff = app.ask(method, &format!("{level}{query}"), &headers, body.as_bytes()).await;
        let status = status_of(&app, &kickoff);
        let early = until(&app, &status, |answer| answer.status != 202 || !answer.body.is_empty()).await;
        assert_eq!((early.status, early.header("content-type")), (202, "application/json"), "{level}: not early");
        assert!(!early.header("retry-after").is_empty() && !early.header("x-progress").is_empty());
        assert_eq!(early.header("cache-control"), "private, no-store, no-transform");
        let early = early.json();
        assert!(!files(&early, "output").is_empty() && files(&early, errors).is_empty(), "{early}");
        let http = Http::new();
        let mut downloaded = BTreeMap::new();
        for file in files(&early, "output") {
            let bytes = http.download(file["url"].as_str().expect("a link")).await.expect("BD-085: it can be had");
            downloaded
                .insert(file["url"].as_str().and_then(|url| url.split('?').next()).expect("it").to_owned(), bytes);
        }

        let complete = until(&app, &status, |answer| answer.status != 202).await;
        assert_eq!(complete.status, 200, "{}", String::from_utf8_lossy(&complete.body));
        let pages = pages(&app, complete.json()).await;
        assert!(pages.len() > 1, "{level}: one page");
        assert_eq!(fixed(&pages[0]), fixed(&early), "BD-086");
        let mut seen = BTreeSet::new();
        let mut received = BTreeMap::<String, Vec<u8>>::new();
        for (number, page) in pages.iter().enumerate() {
            for member in ["transactionTime", "request", "requiresAccessToken", "manifestType"] {
                assert_eq!(page.get(member), early.get(member), "BD-084: {member} of page {number}");
            }
            assert_eq!(page.get("extension"), None, "what is not known early is on no page");
            assert_eq!(!files(page, errors).is_empty(), number + 1 == pages.len(), "outcomes come last");
            for file in files(page, "output") {
                let url = file["url"].as_str().expect("a link");
                let name = url.split('?').next().expect("a link").to_owned();
                let bytes = http.download(url).await.expect("a file");
                assert!(downloaded.get(&name).is_none_or(|early| *early == bytes), "it has changed: {name}");
                assert!(seen.insert(name), "on two pages: {url}");
                let name = file["type"].as_str().expect("a type").to_owned();
                received.entry(name).or_default().extend_from_slice(&bytes);
            }
        }
        let expected = expected::of(&app.upstream, level.trim_end_matches("-v4"));
        let difference = expected::compare(&expected, &received).expect("lines of JSON");
        assert!(difference.is_none(), "{level}:\n{difference}");

        // What no page leads to is not there.
        for number in ["0", "1", "01", &(pages.len() + 1).to_string(), "x", "-2", "99999999999999999999"] {
            let answer = app.ask("GET", &format!("{status}/{number}"), &[], b"").await;
            answer.assert_refused(number, 404, "not-found", None);
        }
        let post = app.ask("DELETE", &format!("{status}/2"), &[], b"").await;
        post.assert_refused("a page is not deleted", 405, "not-supported", None);
        assert_eq!(app.ask("DELETE", &status, &[], b"").await.status, 202);
        for number in 2..=pages.len() {
            let answer = app.ask("GET", &format!("{status}/{number}"), &[], b"").await;
            answer.assert_refused("BD-101", 404, "not-found", None);
        }
        app.stop().await;
    }
}

/// Who does not ask for it sees no page before the end, and one at the end.
#[tokio::test]
async fn nobody_gets_pages_who_has_not_asked_for_them() {
    for query in ["", "&allowPartialManifests=false"] {
        let app = slow(|_| {}).await;
        let kickoff = app.ask("GET", &format!("/Group/all/$export?_type=Patient{query}"), &KICKOFF, b"").await;
        let status = status_of(&app, &kickoff);
        let complete = until(&app, &status, |answer| {
            assert!(answer.status != 202 || answer.body.is_empty(), "{query}");
            answer.status != 202
        })
        .await;
        let manifest = complete.json();
        assert_eq!((complete.status, next(&manifest)), (200, None), "{query}");
        assert!(manifest["extension"].is_object(), "{manifest}");
        app.ask("GET", &format!("{status}/2"), &[], b"").await.assert_refused(query, 404, "not-found", None);
        app.stop().await;
    }
}

/// 3.4, rule 6: once an export is given up, its pages say so, each in the form that was preferred; its files are gone.
#[tokio::test]
async fn the_pages_of_an_export_that_fails_answer_with_its_failure() {
    for prefer in ["respond-async", "respond-async, separate-export-status"] {
        let app = slow(|config| config.upstream.give_up_after = Duration::from_secs(1)).await;
        let headers = [KICKOFF[0], ("Prefer", prefer)];
        let kickoff = app.ask("GET", "/Group/all/$export?allowPartialManifests=true", &headers, b"").await;
        let status = status_of(&app, &kickoff);
        let early = until(&app, &status, |answer| !answer.body.is_empty()).await;
        let is_separate = prefer.contains("separate");
        assert_eq!(
            (early.status, early.header("x-export-status")),
            if is_separate { (200, "202 Accepted") } else { (202, "") }
        );
        let early = early.json();
        let link = files(&early, "output")[0]["url"].as_str().expect("a link")[app.base.len()..].to_owned();
        assert_eq!(app.ask("GET", &link, &[], b"").await.status, 200);
        app.upstream.set_available(false);
        let has_failed = |answer: &Answer| answer.json()["resourceType"] == "OperationOutcome";
        until(&app, &status, has_failed).await;
        for below in [status.clone(), format!("{status}/2")] {
            let failed = app.ask("GET", &below, &[], b"").await;
            let expected = if is_separate { (200, "500 Internal Server Error") } else { (500, "") };
            assert_eq!((failed.status, failed.header("x-export-status")), expected, "{below}");
            assert_eq!(failed.json()["issue"][0]["code"], "processing", "{below}");
        }
        until(&app, &link, |answer| answer.status == 404).await;
        app.stop().await;
    }
}

/// SEC-15: a page is had by whoever may have the manifest; each read is in the ledger.
#[tokio::test]
async fn a_page_is_guarded_as_the_manifest_is() {
    let clients = [Client::new("one", "system/*.rs"), Client::new("other", "system/*.rs")];
    let rig = Rig::with(&clients).await;
    let token = rig.token(&clients[0], "system/*.rs").await;
    let status = rig.exported("/Group/all/$export?allowPartialManifests=true", &token).await;
    let first = rig.with_token("GET", &status, &token).await.json();
    let page = next(&first).expect("a second page").strip_prefix(&rig.base).expect("ours").to_owned();
    let reads = |rig: &Rig| {
        let ledger = rig.ledger();
        ledger.iter().filter(|record| record.to_string().contains(r#""manifest""#)).count()
    };
    let before = reads(&rig);
    assert_eq!(rig.with_token("GET", &page, &token).await.status, 200);
    assert_eq!(reads(&rig), before + 1, "SEC-43");

    rig.ask("GET", &page, &[], b"").await.assert_refused("without a token", 401, "login", None);
    let foreign = rig.token(&clients[1], "system/*.rs").await;
    rig.with_token("GET", &page, &foreign).await.assert_refused("somebody else's", 404, "not-found", None);
    let narrow = rig.token(&clients[0], "system/Patient.rs").await;
    rig.with_token("GET", &page, &narrow).await.assert_refused("too few scopes", 403, "forbidden", None);
    rig.with_token("DELETE", &status, &token).await;
    rig.with_token("GET", &page, &token).await.assert_refused("it was deleted", 404, "not-found", None);
    rig.stop().await;
}

/// BD-086: what was returned stays, also when the process is killed before the export has ended, and its store lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_the_same_after_a_crash() {
    for lose_store in [false, true] {
        crash(lose_store).await.unwrap_or_else(|error| panic!("lost: {lose_store}: {error:#}"));
    }
}

async fn crash(lose_store: bool) -> anyhow::Result<()> {
    let upstream = SampleUpstream::new(Settings { latency: Duration::from_millis(40), ..Settings::default() });
    upstream.generate(6);
    let server = upstream.serve(listener().await).await;
    let options = Options { upstream: "max_concurrent_searches: 2", output: "" };
    let mut process = Process::start(&server.base_url, options).await?;
    let client = Http::new();
    let status = client.kick_off(&format!("{}/Group/all/$export?allowPartialManifests=true", process.base)).await?;
    let host = process.base.trim_start_matches("http://").trim_end_matches("/fhir").to_owned();
    let below = format!("/fhir{}", &status[process.base.len()..]);
    let ask = async |target: &str| crate::raw::ask(&host, &crate::raw::request("GET", target, &host, &[], b"")).await;
    let early = crate::process::until("a page can be read", async || {
        let answer = ask(&below).await;
        ensure!(answer.status == 202, "it has ended: {}", answer.status);
        Ok((!answer.body.is_empty()).then(|| answer.json()))
    })
    .await?;
    process.kill()?;
    if lose_store {
        std::fs::remove_dir_all(process.state().join("jobs"))?;
        let folders = std::fs::read_dir(process.output())?.map(|entry| entry.map(|entry| entry.path()));
        let folders: Vec<_> = folders.collect::<Result<_, _>>()?;
        let instance = folders.iter().find(|path| path.is_dir()).and_then(|path| path.file_name()?.to_str());
        let done = process.run(&["jobs", "recover", "--instance", instance.context("a folder")?])?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    process.restart()?;
    process.finished(&client, &status).await?;
    let mut page = ask(&below).await.json();
    ensure!(fixed(&page) == fixed(&early), "the page was {early} and is {page}");
    let mut seen: BTreeSet<String> = BTreeSet::new();
    loop {
        for file in files(&page, "output") {
            let name = file["url"].as_str().and_then(|url| url.split('?').next()).context("a link")?;
            ensure!(seen.insert(name.to_owned()), "{name} is on two pages");
        }
        let Some(url) = next(&page) else { break };
        page = ask(&format!("/fhir{}", &url[process.base.len()..])).await.json();
    }
    ensure!(page["error"] != json!([]), "the last page has the outcomes: {page}");
    server.stop().await;
    Ok(())
}
