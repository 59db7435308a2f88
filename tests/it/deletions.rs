//! What was deleted since the last export (BD-078 to BD-080, SEC-27).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::DateTime;
use offtake::{Clock, Config, SystemClock};
use sample_upstream::{SampleUpstream, Settings};

use crate::client::{Client, Manifest};
use crate::support::App;

/// `Type/id` of all deletions that a manifest lists; `None` if it has no such list.
async fn deleted(manifest: &Manifest) -> Option<BTreeSet<String>> {
    let client = Client::new();
    let mut names = BTreeSet::new();
    for file in manifest.whole.get("deleted")?.as_array().expect("a list") {
        assert_eq!(file["type"], "Bundle");
        let lines = client.download(file["url"].as_str().expect("a link")).await.expect("a file");
        let lines = std::str::from_utf8(&lines).expect("text");
        assert_eq!(lines.lines().count() as u64, file["count"].as_u64().expect("a number"));
        for line in lines.lines() {
            let bundle: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!((&bundle["resourceType"], &bundle["type"]), (&"Bundle".into(), &"transaction".into()));
            let request = &bundle["entry"][0]["request"];
            assert_eq!(request["method"], "DELETE");
            assert!(names.insert(request["url"].as_str().expect("a URL").to_owned()), "twice: {line}");
        }
    }
    Some(names)
}

fn observation(id: &str, subject: &str) -> String {
    format!(r#"{{"resourceType":"Observation","id":"{id}","status":"final","subject":{{"reference":"{subject}"}}}}"#)
}

fn organization(id: &str) -> String {
    format!(r#"{{"resourceType":"Organization","id":"{id}"}}"#)
}

/// Lets ten seconds pass at the server, whose `Date` has whole ones.
struct Leap(Arc<AtomicI64>);

impl Leap {
    fn on(&self) {
        self.0.fetch_add(10_000, Ordering::SeqCst);
    }
}

/// A server with two patients, of whom one is in the Group, and its transaction time before anything was deleted.
async fn prepared() -> (App, String, Leap) {
    prepared_with(|_| {}).await
}

async fn prepared_with(change: impl FnOnce(&mut Config)) -> (App, String, Leap) {
    let upstream = SampleUpstream::new(Settings::default());
    let leap = Arc::new(AtomicI64::new(0));
    let leapt = Arc::clone(&leap);
    let now = move || SystemClock.unix_millis() + leapt.load(Ordering::SeqCst);
    upstream.set_clock(Arc::new(move || DateTime::from_timestamp_millis(now()).expect("in range")));
    let insert = |json: &str| upstream.insert_raw(json).expect("a resource");
    insert(r#"{"resourceType":"Patient","id":"in"}"#);
    insert(r#"{"resourceType":"Patient","id":"out"}"#);
    insert(
        r#"{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/in"}}]}"#,
    );
    for id in ["stays", "goes", "returns"] {
        insert(&observation(id, "Patient/in"));
    }
    insert(&observation("of-another", "Patient/out"));
    insert(&observation("of-a-device", "Device/d"));
    insert(&organization("closed"));
    let app = App::before(upstream, |config| {
        config.upstream.settling_lag = Duration::ZERO;
        change(config);
    })
    .await;
    // What was written in the second that the export begins in comes again with the next one.
    leap.fetch_add(10_000, Ordering::SeqCst);
    let (manifest, _) = app.export("/$export").await.expect("an export");
    assert_eq!(deleted(&manifest).await, None, "without `_since` there is no list");
    let since = manifest.whole["transactionTime"].as_str().expect("an instant").to_owned();
    leap.fetch_add(10_000, Ordering::SeqCst);
    (app, since, Leap(leap))
}

/// Deletes, makes one anew, and writes something that is newer than all deletions.
fn delete(app: &App, leap: &Leap) {
    for id in ["goes", "returns", "of-another", "of-a-device"] {
        app.upstream.delete("Observation", id).expect("it is there");
    }
    app.upstream.delete("Organization", "closed").expect("it is there");
    app.upstream.create(&observation("returns", "Patient/in")).expect("a resource");
    leap.on();
    app.upstream.create(&organization("later")).expect("a resource");
    app.upstream.create(&observation("later", "Patient/in")).expect("a resource");
    leap.on();
}

fn names(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn each_level_tells_the_deletions_of_what_it_exports() {
    let (app, since, leap) = prepared().await;
    delete(&app, &leap);
    for (path, expected, patients) in [
        (
            "/$export",
            &["Observation/goes", "Observation/of-another", "Observation/of-a-device", "Organization/closed"] as &[_],
            0,
        ),
        ("/Patient/$export", &["Observation/goes", "Observation/of-another"], 2),
        ("/Group/g/$export", &["Observation/goes"], 1),
        ("/$export?_type=Organization", &["Organization/closed"], 0),
    ] {
        let separator = if path.contains('?') { '&' } else { '?' };
        let (manifest, received) = app.export(&format!("{path}{separator}_since={since}")).await.expect("an export");
        let told = deleted(&manifest).await;
        assert_eq!(told, Some(names(expected)), "{path}");
        let records = crate::ledger::records(&app.folder.path().join("ledger"));
        let finished = crate::ledger::of_kind(&records, "finished").pop().expect("it is recorded");
        assert_eq!(finished["deletions"], expected.len(), "{path}");
        assert_eq!(finished["patients"]["listed"], patients, "{path}: those whose they were");
        // BD-080: nothing is both deleted and there.
        let lines: Vec<u8> = received.values().flatten().copied().collect();
        let lines = String::from_utf8(lines).expect("text");
        for name in told.iter().flatten() {
            let id = name.split('/').nth(1).expect("an id");
            assert!(!lines.contains(&format!(r#""id":"{id}""#)), "{path}: {name} is in the output too");
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_deletion_after_the_transaction_time_is_told_by_the_next_export() {
    let (app, since, leap) = prepared().await;
    delete(&app, &leap);
    app.upstream.delete("Observation", "stays").expect("it is there");
    let (manifest, _) = app.export(&format!("/$export?_since={since}")).await.expect("an export");
    let told = deleted(&manifest).await.expect("a list");
    assert!(told.contains("Observation/goes") && !told.contains("Observation/stays"), "{told:?}");
    leap.on();
    app.upstream.create(&organization("still-later")).expect("a resource");
    leap.on();
    let since = manifest.whole["transactionTime"].as_str().expect("an instant").to_owned();
    let (manifest, _) = app.export(&format!("/$export?_since={since}")).await.expect("an export");
    assert!(deleted(&manifest).await.expect("a list").contains("Observation/stays"));
    app.stop().await;
}

/// HAPI's histories lose their tail where they are not asked for with `_since`.
#[tokio::test]
async fn a_history_that_loses_its_tail_without_since_tells_all_deletions() {
    let (app, since, leap) = prepared().await;
    delete(&app, &leap);
    app.upstream.update_settings(|settings| settings.lies.history_loses_tail = true);
    let (manifest, _) = app.export(&format!("/$export?_since={since}")).await.expect("an export");
    let expected = ["Observation/goes", "Observation/of-another", "Observation/of-a-device", "Organization/closed"];
    assert_eq!(deleted(&manifest).await, Some(names(&expected)));
    app.stop().await;
}

/// Interop: what nobody can tell is said, and the list is there and empty.
#[tokio::test]
async fn a_server_without_a_history_leaves_the_list_empty_and_says_so() {
    let (app, since, leap) = prepared().await;
    delete(&app, &leap);
    app.upstream.update_settings(|settings| settings.history = false);
    let (manifest, _) = app.export(&format!("/$export?_since={since}")).await.expect("an export");
    assert_eq!(deleted(&manifest).await, Some(names(&[])));
    let error = manifest.whole["error"][0]["url"].as_str().expect("a link");
    let lines = Client::new().download(error).await.expect("a file");
    let lines = String::from_utf8(lines.to_vec()).expect("text");
    assert!(lines.contains("keeps no history") && lines.contains("Observation"), "{lines}");
    app.stop().await;
}

/// SEC-27: a client is told what it received before and is gone, by a server that keeps no history.
mod by_difference {
    use offtake::config::Compression;
    use sample_upstream::Lies;

    use super::*;

    const LEVELS: [&str; 3] = ["/$export", "/Patient/$export", "/Group/g/$export"];

    /// A server without a history, of which everything was exported at each level; and their transaction times.
    async fn exported() -> (App, Vec<String>, Leap) {
        let (app, since, leap) = prepared_with(|config| config.export.deletions_by_difference = true).await;
        app.upstream.update_settings(|settings| settings.history = false);
        let mut times = vec![since];
        for level in &LEVELS[1..] {
            let (manifest, _) = app.export(level).await.expect("an export");
            times.push(manifest.whole["transactionTime"].as_str().expect("an instant").to_owned());
        }
        (app, times, leap)
    }

    async fn since(app: &App, level: &str, since: &str) -> (Manifest, Option<BTreeSet<String>>) {
        let (manifest, _) = app.export(&format!("{level}?_since={since}")).await.expect("an export");
        let told = deleted(&manifest).await;
        (manifest, told)
    }

    async fn says_untold(manifest: &Manifest) -> bool {
        let error = manifest.whole["error"][0]["url"].as_str().expect("a link");
        let lines = Client::new().download(error).await.expect("a file");
        String::from_utf8(lines.to_vec()).expect("text").contains("keeps no history")
    }

    #[tokio::test]
    async fn each_level_is_told_what_it_received_before_and_only_once() {
        for finds_nothing in [false, true] {
            let (app, times, leap) = exported().await;
            if finds_nothing {
                // A search that finds nothing by `_id` shows nothing: only a read does.
                let lies = Lies { finds_nothing: BTreeSet::from(["_id".to_owned()]), ..Lies::default() };
                app.upstream.update_settings(|settings| settings.lies = lies);
            }
            delete(&app, &leap);
            let levels = if finds_nothing { &LEVELS[..2] } else { &LEVELS[..] };
            for (level, first) in levels.iter().zip(&times) {
                let expected: &[&str] = match *level {
                    "/$export" => &[
                        "Observation/goes",
                        "Observation/of-another",
                        "Observation/of-a-device",
                        "Organization/closed",
                    ],
                    "/Patient/$export" => &["Observation/goes", "Observation/of-another"],
                    _ => &["Observation/goes"],
                };
                let (manifest, told) = since(&app, level, first).await;
                let untold = says_untold(&manifest).await;
                assert_eq!((told, untold), (Some(names(expected)), false), "{level}, {finds_nothing}");
                assert!(!manifest.whole.to_string().contains("held-"), "what the client holds is ours");
                // What was told is told once; what came since is held as well.
                let second = manifest.whole["transactionTime"].as_str().expect("an instant");
                app.upstream.delete("Observation", "later").expect("it is there");
                let (_, told) = since(&app, level, second).await;
                assert_eq!(told, Some(names(&["Observation/later"])), "{level}");
                leap.on();
                app.upstream.create(&observation("later", "Patient/in")).expect("a resource");
                leap.on();
            }
            app.stop().await;
        }
    }

    /// What the client received is read from the files themselves, however they are stored.
    #[tokio::test]
    async fn what_was_received_in_files_stored_as_gzip_is_known_as_well() {
        let (app, first, leap) = prepared_with(|config| {
            config.export.deletions_by_difference = true;
            config.output.compression = Compression::Gzip;
        })
        .await;
        app.upstream.update_settings(|settings| settings.history = false);
        delete(&app, &leap);
        let (_, told) = since(&app, "/$export", &first).await;
        let expected = ["Observation/goes", "Observation/of-another", "Observation/of-a-device", "Organization/closed"];
        assert_eq!(told, Some(names(&expected)));
        app.stop().await;
    }

    /// What a gateway says while it cannot reach its server is no deletion.
    #[tokio::test]
    async fn what_cannot_be_reached_is_not_said_to_be_gone() {
        let (app, times, leap) = exported().await;
        delete(&app, &leap);
        for finds_nothing in [true, false] {
            let names_of = |is: bool| if is { BTreeSet::from(["_id".to_owned()]) } else { BTreeSet::new() };
            let lies = Lies { reads_nothing: true, finds_nothing: names_of(finds_nothing), ..Lies::default() };
            app.upstream.update_settings(|settings| settings.lies = lies);
            let (manifest, told) = since(&app, "/$export", &times[0]).await;
            assert_eq!(told, Some(names(&[])));
            assert!(says_untold(&manifest).await);
        }
        // And it is not forgotten for that.
        app.upstream.update_settings(|settings| settings.lies = Lies::default());
        let (_, told) = since(&app, "/$export", &times[0]).await;
        assert_eq!(told.map(|told| told.len()), Some(4));
        app.stop().await;
    }

    /// What came by an export that is gone is not known: a part of the deletions would be taken for all.
    #[tokio::test]
    async fn the_export_that_ended_at_since_has_to_be_there() {
        let (app, times, leap) = exported().await;
        leap.on();
        app.upstream.create(&organization("by-the-second")).expect("a resource");
        leap.on();
        let client = Client::new();
        let status = client.kick_off(&format!("{}/$export?_since={}", app.base, times[0])).await.expect("a status");
        let manifest = client.wait(&status, |_| {}).await.expect("an export");
        let second = manifest.whole["transactionTime"].as_str().expect("an instant");
        client.delete(&status).await.expect("it is deleted");
        app.upstream.delete("Organization", "by-the-second").expect("it is there");
        app.upstream.delete("Organization", "closed").expect("it is there");
        let (manifest, told) = since(&app, "/$export", second).await;
        assert_eq!(told, Some(names(&[])));
        assert!(says_untold(&manifest).await);
        app.stop().await;
    }

    /// SEC-27: what belongs to the Group no longer, or cannot be shown to, and was received before, is told.
    #[tokio::test]
    async fn what_a_history_cannot_show_to_be_of_the_group_is_told_to_who_received_it() {
        let (app, times, leap) = exported().await;
        app.upstream.update_settings(|settings| settings.history = true);
        delete(&app, &leap);
        // Of its versions none is left to be seen but the deletion.
        let (_, told) = since(&app, "/Group/g/$export", &times[2]).await;
        assert_eq!(told, Some(names(&["Observation/goes"])));
        app.stop().await;
    }

    #[tokio::test]
    async fn without_an_earlier_export_that_is_whole_nothing_is_told_and_that_is_said() {
        let (app, times, leap) = exported().await;
        delete(&app, &leap);
        // Of another level, of types that were not asked for, before any export.
        for (path, time) in [("/$export", "2001-01-01T00:00:00Z"), ("/Group/g/$export", "2001-01-01T00:00:00Z")] {
            let (manifest, told) = since(&app, path, time).await;
            assert_eq!(told, Some(names(&[])), "{path}");
            assert!(says_untold(&manifest).await, "{path}");
        }
        let held: Vec<_> =
            app.output_files().into_iter().filter(|path| path.to_string_lossy().contains("held-")).collect();
        assert!(held.len() >= 3, "{held:?}");
        for path in held {
            let mut text = std::fs::read_to_string(&path).expect("a file");
            text = text.replace("Observation/goes", "Observation/gone");
            std::fs::write(&path, text).expect("it is ours");
        }
        let (manifest, told) = since(&app, "/$export", &times[0]).await;
        assert_eq!(told, Some(names(&[])), "somebody has changed what the client is said to hold");
        assert!(says_untold(&manifest).await);
        app.stop().await;
    }
}
