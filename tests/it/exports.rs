//! Whole exports: every level, every way of paging, byte for byte.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sample_upstream::{Paging, SampleUpstream, Settings, Stamp, Total};

use crate::support::App;

const LEVELS: [&str; 3] = ["/$export", "/Patient/$export", "/Group/all/$export"];

#[tokio::test]
async fn every_level_is_exact_with_every_way_of_paging() {
    for paging in [Paging::Snapshot, Paging::Cursor, Paging::Offset] {
        for total in [Total::Exact, Total::WhenComplete, Total::Absent, Total::PageSized] {
            let app = App::with_patients(4, Settings { paging, total, ..Settings::default() }).await;
            for level in LEVELS {
                if let Err(error) = app.export_exactly(level).await {
                    panic!("{paging:?}, {total:?}: {error:#}");
                }
            }
            app.stop().await;
        }
    }
}

#[tokio::test]
async fn small_pages_pretty_pages_and_foreign_links_make_no_difference() {
    for settings in [
        Settings { max_count: Some(3), ..Settings::default() },
        Settings { max_count: Some(3), paging: Paging::Offset, ..Settings::default() },
        Settings { max_count: Some(7), paging: Paging::Cursor, total: Total::Absent, ..Settings::default() },
        Settings { pretty: true, gzip: false, ..Settings::default() },
        Settings {
            link_base: Some("https://inner.example:8443/r4".to_owned()),
            max_count: Some(5),
            ..Settings::default()
        },
        Settings { accurate_total: false, total: Total::Absent, ..Settings::default() },
    ] {
        let app = App::with_patients(4, settings.clone()).await;
        for level in LEVELS {
            if let Err(error) = app.export_exactly(level).await {
                panic!("{settings:?}: {error:#}");
            }
        }
        app.stop().await;
    }
}

/// A freshly loaded server is exported at once and in full, whether its stamps are all one or a few.
#[tokio::test]
async fn a_freshly_loaded_server_is_exported_in_full() {
    for stamp in [Stamp::Now, Stamp::Single] {
        for paging in [Paging::Snapshot, Paging::Cursor, Paging::Offset] {
            let app =
                App::with_patients(12, Settings { stamp, paging, max_count: Some(20), ..Settings::default() }).await;
            for level in LEVELS {
                if let Err(error) = app.export_exactly(level).await {
                    panic!("{stamp:?}, {paging:?}: {error:#}");
                }
            }
            app.stop().await;
        }
    }
}

#[tokio::test]
async fn servers_that_neither_count_nor_filter_by_time_are_read_by_chains() {
    for settings in [
        Settings { counts: false, accurate_total: false, total: Total::Absent, ..Settings::default() },
        Settings {
            counts: false,
            accurate_total: false,
            total: Total::PageSized,
            paging: Paging::Offset,
            ..Settings::default()
        },
        Settings { no_last_updated: true, ..Settings::default() },
        Settings {
            no_last_updated: true,
            counts: false,
            accurate_total: false,
            total: Total::Absent,
            max_count: Some(6),
            ..Settings::default()
        },
    ] {
        let app = App::with_patients(4, settings.clone()).await;
        for level in LEVELS {
            if let Err(error) = app.export_exactly(level).await {
                panic!("{settings:?}: {error:#}");
            }
        }
        app.stop().await;
    }
}

/// Nobody waits for memory while holding some: many readers of several pages each get by with little.
#[tokio::test]
async fn readers_of_several_pages_share_little_memory() {
    for no_last_updated in [true, false] {
        let settings = Settings {
            no_last_updated,
            counts: false,
            accurate_total: false,
            total: Total::Absent,
            stamp: Stamp::Single,
            max_count: Some(40),
            ..Settings::default()
        };
        let upstream = SampleUpstream::new(settings);
        upstream.generate(40);
        let app = App::before(upstream, |config| {
            config.upstream.memory_budget = offtake::config::Size::kibibytes(1024);
            config.upstream.page_target = offtake::config::Size::kibibytes(64);
        })
        .await;
        let exported = tokio::time::timeout(std::time::Duration::from_mins(1), app.export_exactly("/$export"));
        exported.await.expect("nobody waits for ever").expect("an exact export");
        app.stop().await;
    }
}

/// DS-025: an inner address is none that a client could follow.
#[tokio::test]
async fn what_refers_to_the_server_leads_to_where_clients_reach_it() {
    let inner = "http://inner.example:8081/r4";
    let upstream = SampleUpstream::new(Settings { link_base: Some(inner.to_owned()), ..Settings::default() });
    let insert = |json: &str| upstream.insert_raw(json).expect("a resource");
    insert(r#"{"resourceType":"Patient","id":"p"}"#);
    let condition = |base: &str| {
        format!(
            r#"{{"resourceType":"Condition","id":"c","subject":{{"reference":"{base}/Patient/p"}},"evidence":[{{"detail":[{{"reference":"https://elsewhere.example/Observation/1"}}]}}],"note":[{{"text":"{inner}/Patient/p"}}]}}"#
        )
    };
    insert(&condition(inner));
    let app = App::before(upstream.clone(), |_| {}).await;
    for path in ["/Patient/$export?_type=Condition", "/$export?_type=Condition"] {
        let (_, received) = app.export(path).await.expect("an export");
        let line = String::from_utf8(received["Condition"].clone()).expect("text");
        let expected: serde_json::Value = serde_json::from_str(&condition(&app.base)).expect("JSON");
        let mut line: serde_json::Value = serde_json::from_str(&line).expect("one line");
        line.as_object_mut().expect("an object").remove("meta");
        assert_eq!(line, expected, "{path}");
    }
    app.stop().await;
}

/// A server that writes its public base into references is known by it.
#[tokio::test]
async fn references_with_the_servers_own_base_are_its_own() {
    let public = "https://public.example/r4";
    let upstream = SampleUpstream::new(Settings { link_base: Some(public.to_owned()), ..Settings::default() });
    let insert = |json: String| upstream.insert_raw(&json).expect("a resource");
    insert(r#"{"resourceType":"Patient","id":"p"}"#.to_owned());
    let member = format!(r#"{{"entity":{{"reference":"{public}/Patient/p"}}}}"#);
    insert(format!(r#"{{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{member}]}}"#));
    for (id, base) in [("ours", public), ("theirs", "https://elsewhere.example/r4")] {
        insert(format!(r#"{{"resourceType":"Condition","id":"{id}","subject":{{"reference":"{base}/Patient/p"}}}}"#));
    }
    let app = App::before(upstream, |_| {}).await;
    let (_, received) = app.export("/Patient/$export?_type=Patient,Condition").await.expect("an export");
    let conditions = received.get("Condition").map(Vec::as_slice).unwrap_or_default();
    let conditions = std::str::from_utf8(conditions).expect("text");
    assert!(conditions.contains(r#""id":"ours""#) && !conditions.contains("theirs"), "{conditions}");
    let (_, received) = app.export("/Group/g/$export?_type=Patient").await.expect("an export");
    assert_eq!(received.len(), 1, "the member is found");
    app.stop().await;
}

/// Exports are read from the replica, and everything else goes to the server itself.
#[tokio::test]
async fn a_replica_is_read_in_the_servers_place() {
    let primary = SampleUpstream::new(Settings::default());
    let mut config = None;
    let replica = SampleUpstream::new(Settings::default());
    replica.insert_raw(r#"{"resourceType":"Patient","id":"p"}"#).expect("a resource");
    let serving = replica.serve(crate::support::listener().await).await;
    let app = App::before(primary, |of_app| {
        of_app.upstream.export_base_url = Some(serving.base_url.parse().expect("a URL"));
        config = Some(of_app.clone());
    })
    .await;
    let own = config.expect("a configuration").upstream.base_url;
    let written = format!(r#"{{"resourceType":"Condition","id":"c","subject":{{"reference":"{own}/Patient/p"}}}}"#);
    replica.insert_raw(&written).expect("a resource");
    let (_, received) = app.export("/Patient/$export?_type=Patient,Condition").await.expect("an export");
    assert_eq!(received.keys().collect::<Vec<_>>(), ["Condition", "Patient"]);
    assert!(app.upstream.requests().is_empty(), "nothing was asked of the server itself");
    let read = app.ask("GET", "/Patient/p", &[], b"").await;
    assert_eq!((read.status, app.upstream.requests().len()), (404, 1));
    app.stop().await;
    serving.stop().await;
}

/// DS-009
#[tokio::test]
async fn an_empty_group_and_an_empty_server_export_nothing() {
    let app = App::with_patients(3, Settings::default()).await;
    let (manifest, received) = app.export("/Group/empty/$export").await.expect("an export");
    assert!(manifest.output.is_empty() && received.is_empty());
    app.stop().await;
    let app = App::before(SampleUpstream::new(Settings::default()), |_| {}).await;
    let (manifest, _) = app.export("/$export").await.expect("an export");
    assert!(manifest.output.is_empty());
    app.stop().await;
}

/// DS-010: who has left a Group is not exported, and who is in a Group within it is.
#[tokio::test]
async fn only_present_members_of_a_group_are_exported() {
    let app = App::with_patients(6, Settings::default()).await;
    let patients = |group: &'static str| {
        let app = &app;
        async move {
            let (_, received) = app.export(&format!("/Group/{group}/$export?_type=Patient")).await.expect("an export");
            received.get("Patient").map_or(0, |lines| lines.iter().filter(|byte| **byte == b'\n').count())
        }
    };
    let all = patients("all").await;
    assert_eq!(all, 6);
    assert!(patients("lapsed").await < all, "some have left");
    assert_eq!(patients("nested").await, patients("first-half").await, "the nested Group is the first half");
    app.stop().await;
}

/// What is written while the server is being probed makes an honest count no lie.
#[tokio::test]
async fn changes_while_the_server_is_probed_do_not_spoil_the_proof() {
    let app = App::with_patients(4, Settings { max_count: Some(20), ..Settings::default() }).await;
    let (upstream, written) = (app.upstream.clone(), AtomicU32::new(0));
    app.upstream.away_when(
        move |seen| {
            // Between a count and the page that it is compared with.
            let is_compared = seen.query.contains("_count=200") || seen.query.contains("_count=1&_total=accurate");
            if is_compared && written.fetch_add(1, Ordering::Relaxed) < 5 {
                let resource_type = seen.path.rsplit('/').next().unwrap_or_default();
                upstream.create(&format!(r#"{{"resourceType":"{resource_type}"}}"#)).expect("a resource");
            }
            false
        },
        Duration::ZERO,
    );
    let manifest = app.export_exactly("/$export").await.expect("an exact export");
    let proof = manifest.whole["extension"]["https://offtake.dev/proof"].as_object().expect("a proof");
    let others: Vec<_> = proof.iter().filter(|(_, proof)| proof["method"] != "counted").map(|(name, _)| name).collect();
    assert!(others.is_empty(), "not counted: {others:?}");
    app.stop().await;
}

/// Pages that are smaller than any type are compared with the count of a part of it.
#[tokio::test]
async fn small_pages_do_not_spoil_the_proof() {
    let app = App::with_patients(40, Settings { max_count: Some(2), ..Settings::default() }).await;
    let (manifest, _) = app.export("/$export?_type=Observation").await.expect("an export");
    assert_eq!(manifest.whole["extension"]["https://offtake.dev/proof"]["Observation"]["method"], "counted");
    app.stop().await;
}
