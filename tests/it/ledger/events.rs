//! Each event of an export is recorded once, with whose it is and what it held; each refusal too; and nothing else is.

use std::path::Path;
use std::time::Duration;

use offtake::config::LinkMode;
use sample_upstream::{SampleUpstream, Settings};
use serde_json::{Value, json};

use super::of_kind;
use crate::client::Client as Consumer;
use crate::raw::KICKOFF;
use crate::smart::{Client, Key, Rig, parameters};
use crate::support::{App, HEAD, until};

const SOON: Duration = Duration::from_secs(20);

/// Without what is another one each time.
fn plain(record: &Value) -> Value {
    let mut record = record.clone();
    for member in ["seq", "at", "mac", "digest", "request", "transaction_time", "until", "bytes", "begun", "to"] {
        record.as_object_mut().expect("an object").remove(member);
    }
    record
}

#[tokio::test]
async fn an_export_is_recorded_from_its_kick_off_to_its_end() {
    let client = Client::new("research", "system/*.rs");
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let token = rig.token(&client, "system/Patient.rs system/Condition.rs system/Group.r").await;
    let status = rig.exported("/Group/all/$export?_type=Patient,Condition&_since=2001-01-01T00:00:00Z", &token).await;
    let job = status.rsplit('/').next().expect("an id");
    let (manifest, links) = rig.listed(&status, &token).await;
    let answer = rig.ask("GET", &links["Patient"], &[], b"").await;
    assert_eq!(answer.status, 200);
    until("it is told to have ended", SOON, || of_kind(&rig.ledger(), "file_ended").len() == 1).await;
    assert_eq!(rig.ask("HEAD", &links["Patient"], &[], b"").await.status, 200, "it sends nothing");
    let part = rig.ask("GET", &links["Patient"], &[("Range", "bytes=5-9")], b"").await;
    assert_eq!(part.status, 206);
    until("both are told to have ended", SOON, || of_kind(&rig.ledger(), "file_ended").len() == 2).await;
    assert_eq!(rig.with_token("DELETE", &status, &token).await.status, 202);
    until("it is removed", SOON, || of_kind(&rig.ledger(), "purged").len() == 1).await;
    let records = rig.ledger();
    let kinds: Vec<_> = records.iter().map(|record| record["event"].as_str().expect("a kind")).collect();
    let mut expected = vec!["begun", "opened", "kick_off", "finished", "manifest", "manifest"];
    expected.extend(["file_begun", "file_ended", "file_begun", "file_ended", "deleted", "purged"]);
    assert_eq!(kinds, expected);
    let scopes = "system/Patient.rs system/Condition.rs system/Group.r";
    let counts: serde_json::Map<_, _> =
        manifest["output"].as_array().expect("files").iter().fold(serde_json::Map::new(), |mut counts, file| {
            let count = counts.entry(file["type"].as_str().expect("a type")).or_insert(json!(0));
            *count = json!(count.as_u64().unwrap_or(0) + file["count"].as_u64().expect("a count"));
            counts
        });
    let files =
        manifest["output"].as_array().expect("files").len() + manifest["error"].as_array().expect("files").len();
    assert_eq!(
        plain(&records[2]),
        json!({
            "event": "kick_off", "job": job, "client": "research", "scopes": scopes, "peer": "127.0.0.1",
            "level": { "group": "all" }, "types": ["Condition", "Patient"], "since": "2001-01-01T00:00:00.000Z",
        })
    );
    assert_eq!(records[2]["request"].as_str().map(str::len), Some(32), "it is hashed");
    let patients = &records[3]["patients"];
    assert_eq!((&patients["listed"], &patients["anybody"]), (&counts["Patient"], &json!(false)));
    let mut finished = plain(&records[3]);
    finished.as_object_mut().expect("an object").remove("patients");
    assert_eq!(
        finished,
        json!({
            "event": "finished", "job": job, "client": "research", "scopes": scopes, "counts": counts,
            "deletions": 0, "files": files,
        })
    );
    assert_eq!(
        plain(&records[4]),
        json!({
            "event": "manifest", "job": job, "client": "research", "scopes": scopes, "peer": "127.0.0.1", "counts": counts,
            "deletions": 0, "files": files, "links": "ours", "issued": files,
        })
    );
    assert_eq!(records[4]["digest"], records[3]["digest"], "the same files");
    for (begun, ended, range, bytes) in [(6, 7, (0, answer.body.len()), answer.body.len()), (8, 9, (5, 10), 5)] {
        let (begun, ended) = (&records[begun], &records[ended]);
        assert_eq!((begun["client"].as_str(), begun["by"].as_str()), (Some("research"), Some("link")), "{begun}");
        assert!(begun["file"].as_str().is_some_and(|file| file.starts_with("Patient-")), "{begun}");
        assert_eq!((&begun["from"], &begun["to"]), (&json!(range.0), &json!(range.1)), "{begun}");
        assert_eq!((&ended["begun"], &ended["file"]), (&begun["seq"], &begun["file"]), "{ended}");
        assert_eq!((&ended["bytes"], &ended["whole"]), (&json!(bytes), &json!(true)), "{ended}");
    }
    assert_eq!(records[10]["client"], "research");
    let folder = rig.stop_for_folder().await;
    let wrong: Vec<_> = crate::exact::paths_below(&folder.path().join("ledger"))
        .expect("a folder")
        .into_iter()
        .filter(|path| {
            use std::os::unix::fs::PermissionsExt;
            path.metadata().expect("it is there").permissions().mode() & 0o077 != 0
        })
        .collect();
    assert!(wrong.is_empty(), "others may read {wrong:?}");
}

#[tokio::test]
async fn whoever_shows_a_token_is_recorded_by_it() {
    for (mode, kind) in [(LinkMode::Proxy, "file_begun"), (LinkMode::Redirect, "link_issued")] {
        let client = Client::new("research", "system/*.rs");
        let rig = Rig::configured(std::slice::from_ref(&client), |config| config.output.links = mode).await;
        let token = rig.token(&client, "system/*.rs").await;
        let status = rig.exported("/$export?_type=Patient", &token).await;
        let (_, links) = rig.listed(&status, &token).await;
        let answer = rig.with_token("GET", &links["Patient"], &token).await;
        assert!(matches!(answer.status, 200 | 307), "{}", answer.status);
        let records = rig.ledger();
        let told = of_kind(&records, kind);
        assert_eq!(told.len(), 1, "{mode:?}");
        assert_eq!((told[0]["client"].as_str(), told[0]["peer"].as_str()), (Some("research"), Some("127.0.0.1")));
        assert_eq!(of_kind(&records, "manifest")[0]["links"], "with_token");
        rig.stop().await;
    }
}

#[tokio::test]
async fn expired_and_revoked_exports_are_recorded_as_such() {
    let (stays, goes) = (Client::new("stays", "system/*.rs"), Client::new("goes", "system/*.rs"));
    let mut rig = Rig::with(&[stays.clone(), goes.clone()]).await;
    let token = rig.token(&goes, "system/Patient.rs").await;
    let revoked = rig.exported("/$export?_type=Patient", &token).await;
    rig.restart(|config| config.smart.clients.retain(|client| client.client_id != "goes")).await;
    until("it is revoked and removed", SOON, || of_kind(&rig.ledger(), "purged").len() == 1).await;
    let token = rig.token(&stays, "system/Patient.rs").await;
    let expired = rig.exported("/$export?_type=Patient", &token).await;
    rig.advance(24 * 3_600 + 31);
    until("it has expired and is removed", SOON, || of_kind(&rig.ledger(), "purged").len() == 2).await;
    let records = rig.ledger();
    for (kind, status, client) in [("revoked", revoked, "goes"), ("expired", expired, "stays")] {
        let told = of_kind(&records, kind);
        assert_eq!(told.len(), 1, "{kind}");
        assert_eq!((told[0]["job"].as_str(), told[0]["client"].as_str()), (status.rsplit('/').next(), Some(client)));
    }
    assert!(of_kind(&records, "deleted").is_empty());
    assert_eq!(of_kind(&records, "opened").len(), 2, "one chain over both lives");
    rig.stop().await;
}

#[tokio::test]
async fn each_refusal_is_recorded_with_who_asked_for_what() {
    let (own, other) = (Client::new("own", "system/*.rs"), Client::new("other", "system/*.rs"));
    let rig = Rig::configured(&[own.clone(), other.clone()], |config| config.export.max_waiting_jobs = 0).await;
    let token = rig.token(&own, "system/Patient.rs").await;
    let none = format!("/$bulk-status/{}", "0".repeat(32));
    let kick_off = |below: &'static str, token: String| (below, token);
    let mut expected = Vec::new();
    for ((below, token), status, code, route, client) in [
        (kick_off("/$export?_type=Patient", String::new()), 401, "login", "kick_off", None),
        (kick_off("/$export?_type=Patient", "nonsense".to_owned()), 401, "login", "kick_off", None),
        (kick_off("/$export?_type=Observation", token.clone()), 403, "forbidden", "kick_off", Some("own")),
        (
            kick_off("/$export?_typeFilter=Patient%3Fname=canary", token.clone()),
            400,
            "not-supported",
            "kick_off",
            Some("own"),
        ),
        (kick_off("/$export?_type=Patient", token.clone()), 429, "throttled", "kick_off", Some("own")),
    ] {
        let answer = rig.with_token("GET", below, &token).await;
        assert_eq!(answer.status, status, "{below}");
        expected.push((u64::from(status), code.to_owned(), route, client));
    }
    assert_eq!(rig.with_token("GET", &none, &token).await.status, 404);
    expected.push((404, "not-found".to_owned(), "status", Some("own")));
    assert_eq!(rig.with_token("DELETE", &none, &token).await.status, 404);
    expected.push((404, "not-found".to_owned(), "delete", Some("own")));
    let file = format!("/$bulk-file/{}/Patient-00001.ndjson?expires=1&key=1&signature=A", "0".repeat(32));
    assert_eq!(rig.ask("GET", &file, &[], b"").await.status, 403);
    expected.push((403, String::new(), "file", None));
    assert_eq!(rig.ask("GET", "/$export-of-others", &[], b"").await.status, 403);
    expected.push((403, "forbidden".to_owned(), "path", None));
    let line = "/Patient/%0a%22mac%22$export";
    assert_eq!(rig.ask("GET", line, &[], b"").await.status, 400);
    expected.push((400, "invalid".to_owned(), "path", None));
    assert_eq!(rig.with_token("GET", "/Patient?_count=1", &token).await.status, 401);
    expected.push((401, "login".to_owned(), "pass_through", None));
    let thief = Client { key: Key::es384("k1"), ..other.clone() };
    assert_eq!(rig.ask_for_token(&rig.parameters(&thief, "system/*.rs")).await.status, 400);
    expected.push((400, "invalid_client".to_owned(), "token", None));
    let scope = rig.ask_for_token(&parameters("system/*.write", &rig.signed(&other))).await;
    assert_eq!(scope.status, 400);
    expected.push((400, "invalid_scope".to_owned(), "token", Some("other")));
    let denied = of_kind(&rig.ledger(), "denied");
    let told: Vec<_> = denied
        .iter()
        .map(|denied| {
            let code = denied["code"].as_str().expect("a code").to_owned();
            assert_eq!(denied["peer"], "127.0.0.1");
            (
                denied["status"].as_u64().expect("a status"),
                code,
                denied["route"].as_str().expect("a route"),
                denied["client"].as_str(),
            )
        })
        .collect();
    assert_eq!(told, expected);
    rig.stop().await;
}

/// Where the ledger is not, so that a part that goes missing at its end is missed.
#[tokio::test]
async fn the_head_is_copied_beside_the_output_every_hour_and_at_the_end() {
    let rig = Rig::with(&[Client::new("own", "system/*.rs")]).await;
    assert_eq!(rig.ask("GET", "/$export", &KICKOFF, b"").await.status, 401);
    let copy = |folder: &Path| {
        let paths = std::fs::read_dir(folder.join("output")).expect("a folder");
        let mut heads = paths.map(|entry| entry.expect("an entry").path().join(HEAD));
        let head = heads.find_map(|head| std::fs::read(head).ok());
        head.map(|head| serde_json::from_slice::<Value>(&head).expect("JSON")["seq"].clone())
    };
    assert_eq!(copy(rig.folder()), None);
    let folder = rig.folder().to_owned();
    until("it is copied", SOON, || {
        rig.advance(3_600);
        copy(&folder) == Some(json!(3))
    })
    .await;
    assert_eq!(rig.ask("GET", "/$export", &KICKOFF, b"").await.status, 401);
    let folder = rig.stop_for_folder().await;
    assert_eq!(copy(folder.path()), Some(json!(4)));
}

/// However many there are: the first ones are recorded, the others counted.
#[tokio::test]
async fn a_flood_of_refusals_does_not_fill_the_disk() {
    let rig = Rig::with(&[Client::new("own", "system/*.rs")]).await;
    for _ in 0..250 {
        assert_eq!(rig.ask("GET", "/$export", &KICKOFF, b"").await.status, 401);
    }
    assert_eq!(of_kind(&rig.ledger(), "denied").len(), 100);
    rig.advance(61);
    until("the others are counted", SOON, || !of_kind(&rig.ledger(), "denied_more").is_empty()).await;
    let more = of_kind(&rig.ledger(), "denied_more").remove(0);
    assert_eq!((&more["count"], &more["by_status"]), (&json!(150), &json!({ "401": 150 })));
    assert_eq!(more["by_peer"], json!({ "127.0.0.1": 150 }));
    rig.stop().await;
}

/// SEC-42: no id, no value and no text of a resource, a request or an answer.
#[tokio::test]
async fn nothing_clinical_is_in_the_ledger() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let canary = r#"{"resourceType":"Patient","id":"canary-id","name":[{"family":"canary-name"}],"link":[{"other":{"reference":"Patient/canary-other"},"type":"seealso"}]}"#;
    upstream.insert_raw(canary).expect("a patient");
    let app = App::before(upstream.clone(), |_| {}).await;
    let client = Consumer::new();
    for below in ["/$export", "/Patient/$export?_since=2000-01-01T00:00:00Z"] {
        let status = client.kick_off(&format!("{}{below}", app.base)).await.expect("a kick-off");
        let manifest = client.wait(&status, |_| {}).await.expect("an export");
        for file in &manifest.output {
            client.download(&file.url).await.expect("a file");
        }
    }
    for below in ["/$export?patient=Patient/canary-id", "/Patient/canary-id/$export", "/$bulk-status/canary-id"] {
        assert!(app.ask("GET", below, &KICKOFF, b"").await.status >= 400);
    }
    let ids: Vec<_> =
        upstream.resources(None).iter().map(|stored| stored.id.clone()).filter(|id| id.len() > 3).collect();
    let folder = app.stop().await;
    let files = crate::exact::paths_below(&folder.path().join("ledger")).expect("a folder");
    assert!(files.len() >= 4, "records, two lists, a lock: {files:?}");
    for file in files {
        let bytes = std::fs::read(&file).expect("it is there");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("canary"), "{}", file.display());
        let found: Vec<_> = ids.iter().filter(|id| text.contains(&format!("\"{id}\""))).collect();
        assert!(found.is_empty(), "{found:?} in {}", file.display());
    }
}
