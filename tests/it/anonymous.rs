//! SEC-02: putting Offtake before a server that trusts its network does not open it.

use std::time::Duration;

use offtake::Config;
use offtake::config::{AcceptsAnonymous, PassThroughMode, SecretSource};
use sample_upstream::{Demand, RequestSeen, SampleUpstream, Settings};

use crate::raw::{self, Answer, KICKOFF};
use crate::smart::{Client, FORM, Rig, form};
use crate::support::{listener, until};

const PATIENCE: Duration = Duration::from_secs(30);

fn refused(config: &mut Config) {
    config.upstream.accepts_anonymous = AcceptsAnonymous::Refused;
}

fn demand() -> Demand {
    Demand::Header { name: "x-api-key", value: "k3y".to_owned() }
}

/// With a key for searches.
fn with_key(config: &mut Config, folder: &tempfile::TempDir) {
    let path = folder.path().join("key");
    std::fs::write(&path, "k3y").expect("the disk takes it");
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, closed).expect("it is ours");
    config.upstream.credentials.headers.insert("x-api-key".to_owned(), SecretSource::File(path));
}

async fn rig(demand: Demand, client: &Client, change: impl FnOnce(&mut Config)) -> Rig {
    let upstream = SampleUpstream::new(Settings { demand, ..Settings::default() });
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    Rig::before(upstream, server, std::slice::from_ref(client), change).await
}

/// Our questions as anybody.
fn asked(upstream: &SampleUpstream, path: &str) -> Vec<RequestSeen> {
    let is_ours = |seen: &RequestSeen| {
        let agent = seen.headers.get("user-agent").and_then(|agent| agent.to_str().ok());
        agent.is_some_and(|agent| agent.starts_with("offtake/")) && seen.path == path
    };
    upstream.requests().into_iter().filter(is_ours).collect()
}

/// Asks until the answer has another status than 503: what it is, and what was said.
async fn settled(rig: &Rig, method: &str, below: &str) -> Answer {
    loop {
        let answer = rig.ask(method, below, &KICKOFF, b"").await;
        if answer.status != 503 {
            return answer;
        }
        rig.advance(1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every route of ours.
const OURS: [(&str, &str); 9] = [
    ("GET", "/$export"),
    ("POST", "/$export"),
    ("GET", "/Patient/$export"),
    ("GET", "/Group/all/$export"),
    ("GET", "/$bulk-status/0123456789abcdef0123456789abcdef"),
    ("DELETE", "/$bulk-status/0123456789abcdef0123456789abcdef"),
    ("GET", "/$bulk-file/0123456789abcdef0123456789abcdef/Patient.0001.ndjson"),
    ("GET", "/.well-known/smart-configuration"),
    ("GET", "/$bulk-jwks"),
];

#[tokio::test]
async fn bulk_requests_are_refused_beside_a_server_that_answers_anybody() {
    let client = Client::new("warehouse", "system/*.rs");
    let rig = rig(Demand::Nothing, &client, refused).await;
    let upstream = rig.upstream.clone();
    until("it was asked", PATIENCE, || !asked(&upstream, "/fhir/Patient").is_empty()).await;
    for (method, below) in OURS {
        let answer = rig.ask(method, below, &KICKOFF, b"").await;
        answer.assert_refused(below, 503, "transient", None);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("answers requests without credentials"), "{below}: {text}");
    }
    let token =
        rig.ask("POST", "/$bulk-token", &[FORM], form(&rig.parameters(&client, "system/*.rs")).as_bytes()).await;
    token.assert_refused("a token", 503, "transient", None);
    let denied = crate::ledger::of_kind(&rig.ledger(), "denied");
    let refused = denied.iter().filter(|record| record["status"] == 503).count();
    assert_eq!(refused, OURS.len() + 1, "each is recorded: {denied:?}");
    // Ordinary requests notice nothing, and foreign operations are not forwarded for it.
    assert_eq!(rig.ask("GET", "/Patient?_count=1", &[], b"").await.status, 200);
    assert_eq!(rig.ask("GET", "/$export-poll-status", &[], b"").await.status, 403);
    let asked = asked(&upstream, "/fhir/Patient");
    assert_eq!(asked[0].query, "_count=1");
    assert!(!asked[0].headers.contains_key("authorization"));
    // It asks for credentials from now on: that is noticed without a restart.
    upstream.update_settings(|settings| settings.demand = demand());
    assert_eq!(settled(&rig, "GET", "/$export").await.status, 401, "a token is needed, and can be had");
    rig.stop().await;
}

#[tokio::test]
async fn beside_a_server_that_asks_for_credentials_bulk_requests_are_served_and_searches_show_them() {
    let client = Client::new("warehouse", "system/*.rs");
    let folder = tempfile::tempdir().expect("a folder of its own");
    let rig = rig(demand(), &client, |config| {
        refused(config);
        with_key(config, &folder);
    })
    .await;
    assert_eq!(settled(&rig, "GET", "/$export").await.status, 401);
    let token = rig.token(&client, "system/*.rs").await;
    rig.exported("/$export", &token).await;
    let asked = asked(&rig.upstream, "/fhir/Patient");
    assert!(!asked.is_empty() && asked.iter().all(|seen| !seen.headers.contains_key("x-api-key")), "as anybody");
    // It asks for none any more: sooner or later that is noticed too.
    rig.upstream.update_settings(|settings| settings.demand = Demand::Nothing);
    rig.advance(601);
    let closed = async {
        while rig.ask("GET", "/$export", &KICKOFF, b"").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("bulk requests are refused");
    rig.stop().await;
}

#[tokio::test]
async fn until_the_server_was_reached_bulk_requests_are_refused() {
    let client = Client::new("warehouse", "system/*.rs");
    let upstream = SampleUpstream::new(Settings { demand: demand(), ..Settings::default() });
    upstream.set_available(false);
    let server = upstream.serve(listener().await).await;
    let rig = Rig::before(upstream, server, std::slice::from_ref(&client), refused).await;
    let clock = rig.clock.clone();
    let passing = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clock.advance(Duration::from_millis(500));
        }
    });
    for _ in 0..3 {
        let answer = rig.ask("GET", "/$export", &KICKOFF, b"").await;
        answer.assert_refused("away", 503, "transient", None);
        assert!(String::from_utf8_lossy(&answer.body).contains("has not been reached yet"));
    }
    rig.upstream.set_available(true);
    assert_eq!(settled(&rig, "GET", "/$export").await.status, 401);
    // Once seen, it is known, also while it is away again.
    rig.upstream.set_available(false);
    assert_eq!(rig.ask("GET", "/$export", &KICKOFF, b"").await.status, 401);
    passing.abort();
    rig.stop().await;
}

#[tokio::test]
async fn an_operator_can_say_that_it_is_meant_and_open_mode_has_rules_of_its_own() {
    let client = Client::new("warehouse", "system/*.rs");
    let mut rig = rig(Demand::Nothing, &client, |config| {
        config.upstream.accepts_anonymous = AcceptsAnonymous::Acknowledged;
    })
    .await;
    assert_eq!(rig.ask("GET", "/$export", &KICKOFF, b"").await.status, 401);
    rig.restart(|config| {
        refused(config);
        config.smart = offtake::config::SmartConfig::default();
    })
    .await;
    assert_eq!(rig.ask("GET", "/$export", &KICKOFF, b"").await.status, 202);
    assert!(asked(&rig.upstream, "/fhir/Patient").is_empty(), "there is nothing to be found out");
    rig.stop().await;
}

#[tokio::test]
async fn a_listener_by_which_nothing_passes_serves_bulk_requests_in_any_case() {
    let client = Client::new("warehouse", "system/*.rs");
    let apart = listener().await.local_addr().expect("a free port");
    let rig = rig(Demand::Nothing, &client, |config| {
        refused(config);
        config.server.bulk_listen = Some(apart);
    })
    .await;
    let host = apart.to_string();
    let by_it = async |method: &str, below: &str, headers: &[(&str, &str)], body: &[u8]| {
        raw::ask(&host, &raw::request(method, &format!("/fhir{below}"), &host, headers, body)).await
    };
    let refused = rig.ask("GET", "/$export", &KICKOFF, b"").await;
    refused.assert_refused("where requests pass through", 503, "transient", None);
    let asked = form(&rig.parameters(&client, "system/*.rs"));
    let token = by_it("POST", "/$bulk-token", &[FORM], asked.as_bytes()).await.json();
    let bearer = format!("Bearer {}", token["access_token"].as_str().expect("a token"));
    let headers = [KICKOFF[0], KICKOFF[1], ("Authorization", bearer.as_str())];
    assert_eq!(by_it("GET", "/$export", &headers, b"").await.status, 202);
    let before = rig.upstream.requests().iter().filter(|seen| seen.headers.contains_key("x-forwarded-host")).count();
    for below in ["/Patient", "/Patient/1", "", "/", "/$export-all", "/Patient/$everything", "/_history"] {
        by_it("GET", below, &KICKOFF, b"").await.assert_refused(below, 404, "not-found", None);
    }
    let outside = raw::ask(&host, &raw::request("GET", "/elsewhere", &host, &[], b"")).await;
    outside.assert_refused("elsewhere", 404, "not-found", None);
    let passed = rig.upstream.requests().iter().filter(|seen| seen.headers.contains_key("x-forwarded-host")).count();
    assert_eq!(passed, before, "nothing passes through");
    rig.stop().await;
}

#[tokio::test]
async fn where_nothing_passes_through_a_server_that_answers_anybody_is_nobodys_but_ours() {
    let client = Client::new("warehouse", "system/*.rs");
    let rig = rig(Demand::Nothing, &client, |config| {
        refused(config);
        config.server.pass_through = PassThroughMode::Off;
    })
    .await;
    let token = rig.token(&client, "system/*.rs").await;
    rig.exported("/$export", &token).await;
    for (method, below) in [("GET", "/Patient"), ("POST", "/"), ("GET", "/Patient/1"), ("GET", "/$bulk-publish")] {
        rig.ask(method, below, &[], b"").await.assert_refused(below, 404, "not-found", None);
    }
    let statement = rig.ask("GET", "/metadata", &[], b"").await;
    assert_eq!(statement.status, 200);
    assert_eq!(statement.json()["rest"][0]["operation"][0]["name"], "export");
    assert!(rig.upstream.requests().iter().all(|seen| !seen.headers.contains_key("x-forwarded-host")));
    rig.stop().await;
}
