//! Exports from a server that gives nothing to whoever shows nothing, and ordinary requests beside them.

mod expiries;
mod process;
mod tls;
pub(crate) mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use offtake::Config;
use offtake::config::{BasicConfig, SecretSource};
use sample_upstream::{Demand, RequestSeen, Running, SampleUpstream, Settings};
use tempfile::TempDir;

use crate::expected;
use crate::raw::KICKOFF;
use crate::smart::{Client, Rig};
use crate::support::listener;

/// Files of a test that hold secrets.
struct Secrets(TempDir);

impl Secrets {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder of its own"))
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the disk takes it");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("it is ours");
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Who exports, in all these tests.
fn client() -> Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| Client::new("warehouse", "system/*.rs"));
    CLIENT.clone()
}

async fn upstream(settings: Settings) -> (SampleUpstream, Running) {
    let upstream = SampleUpstream::new(settings);
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    (upstream, server)
}

/// An Offtake in front of a server that demands something.
async fn rig(demand: Demand, change: impl FnOnce(&mut Config)) -> Rig {
    let (upstream, server) = upstream(Settings { demand, ..Settings::default() }).await;
    Rig::before(upstream, server, &[client()], change).await
}

fn header(name: &'static str, value: &str) -> Demand {
    Demand::Header { name, value: value.to_owned() }
}

/// Shows the content of a file in this header.
fn show(config: &mut Config, name: &str, file: &Path) {
    config.upstream.credentials.headers.insert(name.to_owned(), SecretSource::File(file.to_owned()));
}

/// Exports, and fails unless exactly what the server holds has come.
async fn export_exactly(rig: &Rig, level: &str) {
    let token = rig.token(&client(), "system/*.rs").await;
    export_exactly_by(rig, level, &token).await;
}

async fn export_exactly_by(rig: &Rig, level: &str, token: &str) {
    let status = rig.exported(level, token).await;
    let (manifest, _) = rig.listed(&status, token).await;
    let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for listed in manifest["output"].as_array().expect("a list") {
        let (name, url) = (listed["type"].as_str().expect("a type"), listed["url"].as_str().expect("a link"));
        let file = rig.ask("GET", url.strip_prefix(&rig.base).expect("below the base"), &[], b"").await;
        assert_eq!(file.status, 200, "{name}");
        received.entry(name.to_owned()).or_default().extend_from_slice(&file.body);
    }
    let expected = expected::of(&rig.upstream, level);
    assert!(expected.len() > 10, "there is something to export");
    let difference = expected::compare(&expected, &received).expect("NDJSON");
    assert!(difference.is_none(), "{difference}");
}

/// What exports have asked for, and not what passed through or a token was had by.
fn searches(upstream: &SampleUpstream) -> Vec<RequestSeen> {
    let seen = upstream.requests().into_iter();
    let below = seen.filter(|seen| seen.path.starts_with("/fhir") && !seen.path.contains(".well-known"));
    below.filter(|seen| !seen.headers.contains_key("x-forwarded-host")).collect()
}

fn passed(upstream: &SampleUpstream) -> Vec<RequestSeen> {
    upstream
        .requests()
        .into_iter()
        .filter(|seen| seen.headers.contains_key("x-forwarded-host") && !seen.path.contains(".well-known"))
        .collect()
}

#[tokio::test]
async fn a_server_that_wants_a_header_is_exported_whole() {
    let secrets = Secrets::new();
    let rig = rig(header("x-api-key", "k3y of ours"), |config| {
        show(config, "X-Api-Key", &secrets.file("key", "k3y of ours\n"));
        config.upstream.probe_on_start = true;
    })
    .await;
    for level in ["/$export", "/Patient/$export", "/Group/all/$export"] {
        export_exactly(&rig, level).await;
    }
    let searches = searches(&rig.upstream);
    assert!(searches.iter().all(|seen| seen.headers["x-api-key"] == "k3y of ours"));
    rig.stop().await;
}

#[tokio::test]
async fn a_server_that_wants_a_password_is_exported_whole() {
    let secrets = Secrets::new();
    let value = format!("Basic {}", BASE64_STANDARD.encode("offtake:pässword"));
    let rig = rig(header("authorization", &value), |config| {
        let password_file = Some(secrets.file("password", "pässword\r\n"));
        let basic = BasicConfig { username: "offtake".to_owned(), password_file, password_env: None };
        config.upstream.credentials.basic = Some(basic);
    })
    .await;
    export_exactly(&rig, "/$export").await;
    rig.stop().await;
}

/// What is refused is told, and tried again a few times and no more: a password that is wrong is not tried again and again.
#[tokio::test]
async fn credentials_that_the_server_does_not_accept_fail_the_export_with_clear_words() {
    let secrets = Secrets::new();
    let rig = rig(header("x-api-key", "another"), |config| {
        show(config, "x-api-key", &secrets.file("key", "k3y"));
        config.upstream.give_up_after = Duration::from_mins(2);
    })
    .await;
    let token = rig.token(&client(), "system/*.rs").await;
    let kickoff = rig.with_token("GET", "/$export", &token).await;
    kickoff.assert_refused("its statement is not given either", 503, "transient", None);
    assert_eq!(searches(&rig.upstream).len(), 1);
    // The statement is known by now; the key is changed while the export runs.
    rig.upstream.update_settings(|settings| settings.demand = header("x-api-key", "k3y"));
    let other = rig.upstream.clone();
    rig.upstream.first_when(
        |seen| seen.query.contains("_lastUpdated") && seen.query.contains("_count"),
        move || other.update_settings(|settings| settings.demand = header("x-api-key", "another")),
    );
    let answer = failed(&rig, "/$export").await;
    assert!(answer.contains("401: it does not accept the credentials of upstream.credentials"), "{answer}");
    assert!(!answer.contains("k3y"), "{answer}");
    rig.stop().await;
}

/// A server that takes none of it for a while, and a password that was changed, cost an export nothing but time.
#[tokio::test]
async fn an_export_waits_for_credentials_that_the_server_accepts() {
    for is_replaced in [false, true] {
        let secrets = Secrets::new();
        let mut rig = rig(header("x-api-key", "k3y"), |config| {
            show(config, "x-api-key", &secrets.file("key", "k3y"));
        })
        .await;
        let other = rig.upstream.clone();
        rig.upstream.first_when(
            |seen| seen.query.contains("_lastUpdated") && seen.query.contains("_count"),
            move || other.update_settings(|settings| settings.demand = header("x-api-key", "another")),
        );
        let token = rig.token(&client(), "system/*.rs").await;
        let kickoff = rig.with_token("GET", "/$export", &token).await;
        let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
        loop {
            let answer = rig.with_token("GET", &status, &token).await;
            assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
            if answer.header("x-progress").starts_with("paused: upstream refuses our credentials") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if is_replaced {
            // Nobody waits for the next try.
            secrets.file("key", "another");
            rig.reload(|_| {});
        } else {
            rig.upstream.update_settings(|settings| settings.demand = header("x-api-key", "k3y"));
        }
        loop {
            let answer = rig.with_token("GET", &status, &token).await;
            match answer.status {
                202 if !is_replaced => rig.advance(1),
                202 => {}
                200 => break,
                other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rig.stop().await;
    }
}

/// Kicks off, and waits until the export has failed: what is said of it.
async fn failed(rig: &Rig, level: &str) -> String {
    let token = rig.token(&client(), "system/*.rs").await;
    let kickoff = rig.with_token("GET", level, &token).await;
    assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
    let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    loop {
        let answer = rig.with_token("GET", &status, &token).await;
        match answer.status {
            202 => {
                rig.advance(1);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            500 => return String::from_utf8_lossy(&answer.body).into_owned(),
            other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
}

/// SEC-01: nothing of ours is on a request that passes through, before an export and after it, on whatever connection.
#[tokio::test]
async fn an_anonymous_request_that_passes_through_shows_nothing_of_ours() {
    let secrets = Secrets::new();
    let rig = rig(header("authorization", "Bearer of-ours"), |config| {
        show(config, "Authorization", &secrets.file("key", "Bearer of-ours"));
    })
    .await;
    for _ in 0..3 {
        assert_eq!(rig.ask("GET", "/Patient?_count=1", &[], b"").await.status, 401);
        export_exactly(&rig, "/$export").await;
    }
    let own = [("Authorization", "Bearer of-theirs"), ("X-Api-Key", "theirs")];
    assert_eq!(rig.ask("GET", "/Patient?_count=1", &own, b"").await.status, 401);
    let passed = passed(&rig.upstream);
    assert_eq!(passed.len(), 4);
    assert!(passed[..3].iter().all(|seen| !seen.headers.contains_key("authorization")), "{passed:?}");
    assert_eq!(passed[3].headers["authorization"], "Bearer of-theirs", "their own pass untouched");
    assert_eq!(passed[3].headers["x-api-key"], "theirs");
    rig.stop().await;
}

/// SEC-01: the headers of a search are a closed list, whatever a client sends with its kick-off.
#[tokio::test]
async fn nothing_of_a_clients_request_is_a_part_of_a_search() {
    let secrets = Secrets::new();
    let rig = rig(header("x-api-key", "k3y"), |config| show(config, "x-api-key", &secrets.file("key", "k3y"))).await;
    let bearer = format!("Bearer {}", rig.token(&client(), "system/*.rs").await);
    let smuggled = [
        KICKOFF[0],
        KICKOFF[1],
        ("Authorization", bearer.as_str()),
        ("X-Api-Key", "smuggled"),
        ("Cookie", "smuggled=1"),
        ("X-Forwarded-User", "smuggled"),
        ("X-Remote-User", "smuggled"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("Connection", "x-api-key, authorization"),
        ("Accept-Language", "smuggled"),
    ];
    let kickoff = rig.ask("GET", "/$export", &smuggled, b"").await;
    assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
    export_exactly(&rig, "/$export").await;
    let searches = searches(&rig.upstream);
    let names: BTreeSet<_> =
        searches.iter().flat_map(|seen| seen.headers.keys().map(http::HeaderName::as_str)).collect();
    let listed = ["accept", "accept-encoding", "cache-control", "host", "prefer", "x-api-key"];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), listed);
    assert!(searches.iter().all(|seen| seen.headers.get_all("x-api-key").iter().eq(["k3y"])));
    rig.stop().await;
}

/// SEC-01: credentials never go to a host that is named in a link.
#[tokio::test]
async fn a_next_link_to_another_origin_gets_no_credentials_and_no_request() {
    let secrets = Secrets::new();
    let (evil, evil_server) = upstream(Settings::default()).await;
    let settings = Settings {
        demand: header("authorization", "Bearer of-ours"),
        link_base: Some(evil_server.base_url.clone()),
        max_count: Some(2),
        // So that it is read as one chain of pages.
        no_last_updated: true,
        ..Settings::default()
    };
    let (upstream, server) = upstream(settings).await;
    let rig = Rig::before(upstream, server, &[client()], |config| {
        show(config, "Authorization", &secrets.file("key", "Bearer of-ours"));
    })
    .await;
    export_exactly(&rig, "/$export").await;
    let followed = searches(&rig.upstream).into_iter().filter(|seen| seen.query.contains("_getpages")).count();
    assert!(followed > 0, "links were followed");
    assert!(evil.requests().is_empty(), "{:?}", evil.requests());
    evil_server.stop().await;
    rig.stop().await;
}
