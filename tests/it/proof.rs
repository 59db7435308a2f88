//! What a client is told of an export's completeness, and that a deleted export is gone.

use std::collections::BTreeMap;

use sample_upstream::{Paging, Settings, Stamp, Total};
use serde_json::Value;

use crate::client::Client;
use crate::support::App;

const PROOF: &str = "https://offtake.dev/proof";

/// How many lines each type has.
fn lines(received: &BTreeMap<String, Vec<u8>>) -> BTreeMap<&str, u64> {
    let count = |lines: &Vec<u8>| lines.iter().filter(|byte| **byte == b'\n').count() as u64;
    received.iter().map(|(name, bytes)| (name.as_str(), count(bytes))).collect()
}

#[tokio::test]
async fn the_proof_says_of_each_type_what_came_and_how_that_is_known() {
    for (settings, method) in [
        (Settings::default(), "counted"),
        (Settings { paging: Paging::Offset, ..Settings::default() }, "counted"),
        (Settings { counts: false, accurate_total: false, total: Total::Absent, ..Settings::default() }, "reread"),
    ] {
        let app = App::with_patients(8, settings.clone()).await;
        let (manifest, received) = app.export("/$export").await.expect("an export");
        let proof = manifest.whole["extension"][PROOF].as_object().expect("an object with a member for each type");
        let lines = lines(&received);
        for (name, written) in &lines {
            let of = |member: &str| proof[*name][member].as_u64();
            assert_eq!(proof[*name]["method"], method, "{name}: {settings:?}");
            assert_eq!(of("written"), Some(*written), "{name}: {settings:?}");
            assert_eq!((of("expected"), of("short")), (of("received"), Some(0)), "{name}: {settings:?}");
        }
        let written: u64 = proof.values().filter_map(|proof| proof["written"].as_u64()).sum();
        assert_eq!(written, lines.values().sum::<u64>(), "{settings:?}");

        let outcomes = manifest.whole["error"][0]["url"].as_str().expect("a file of outcomes");
        let outcomes = Client::new().download(outcomes).await.expect("it can be had");
        let first = outcomes.split(|byte| *byte == b'\n').next().expect("a line");
        let outcome: Value = serde_json::from_slice(first).expect("a resource");
        let said = outcome["issue"][0]["diagnostics"].as_str().expect("a text");
        assert!(said.contains(&format!(": {method}, expected ")), "{said}");
        assert_eq!(outcome["issue"].as_array().map(Vec::len), Some(proof.len()));
        app.stop().await;
    }
}

/// Where a row that is deleted shifts all later ones, several pages are no proof by their number, whatever the place in the list is
/// called.
#[tokio::test]
async fn pages_by_offsets_are_read_twice_whatever_an_offset_is_called() {
    for (paging, offset_name, method) in [
        (Paging::Snapshot, "_offset", "counted"),
        (Paging::Offset, "_offset", "reread"),
        (Paging::Offset, "_getpagesoffset", "reread"),
    ] {
        let one_moment = Settings { stamp: Stamp::Single, max_count: Some(3), ..Settings::default() };
        let app = App::with_patients(8, Settings { paging, offset_name, ..one_moment }).await;
        let (manifest, _) = app.export("/$export?_type=Observation").await.expect("an export");
        let found = &manifest.whole["extension"][PROOF]["Observation"]["method"];
        assert_eq!(found, method, "{paging:?} {offset_name}");
        let is_later = |query: &str| query.contains("_getpages=") || query.contains(&format!("{offset_name}=3"));
        assert!(app.upstream.requests().iter().any(|seen| is_later(&seen.query)), "several pages");
        app.stop().await;
    }
}

/// BD-098, BD-101
#[tokio::test]
async fn a_deleted_export_is_gone_with_its_files() {
    let app = App::with_patients(3, Settings::default()).await;
    let client = Client::new();
    let status = client.kick_off(&format!("{}/Patient/$export", app.base)).await.expect("a kick-off");
    let manifest = client.wait(&status, |_| {}).await.expect("an export");
    client.download(&manifest.output[0].url).await.expect("a file");
    client.delete(&status).await.expect("it can be deleted");
    let again = client.wait(&status, |_| {}).await.expect_err("it is gone").to_string();
    assert!(again.contains("404"), "{again}");
    for file in &manifest.output {
        let gone = client.download(&file.url).await.expect_err("it is gone").to_string();
        assert!(gone.contains("404"), "{gone}");
    }
    app.stop().await;
}
