//! Beside the hospital's own authorization: a base of our own for bulk requests, and the FHIR base as it was.

use std::collections::BTreeMap;
use std::time::Duration;

use offtake::Config;
use sample_upstream::{Demand, RequestSeen, SampleUpstream, Settings};
use serde_json::Value;

use crate::expected;
use crate::raw::{self, Answer, KICKOFF};
use crate::smart::{Client, FORM, Parameters, Rig, form, parameters};
use crate::support::{listener, until};

fn apart(config: &mut Config) {
    config.server.bulk_base_path = Some("/bulk".to_owned());
}

fn client() -> Client {
    Client::new("warehouse", "system/*.rs")
}

/// Sends a target exactly as it stands.
async fn ask(rig: &Rig, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let host = rig.host();
    raw::ask(&host, &raw::request(method, target, &host, headers, body)).await
}

fn base(rig: &Rig) -> String {
    format!("http://{}/bulk", rig.host())
}

/// A token request for an endpoint.
fn request(rig: &Rig, client: &Client, endpoint: &str) -> Parameters {
    let mut assertion = rig.assertion(client);
    assertion.claims["aud"] = endpoint.into();
    parameters("system/*.rs", &client.key.sign(&assertion.header.to_string(), &assertion.claims.to_string()))
}

async fn token(rig: &Rig, client: &Client) -> String {
    let asked = form(&request(rig, client, &format!("{}/$bulk-token", base(rig))));
    let answer = ask(rig, "POST", "/bulk/$bulk-token", &[FORM], asked.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["access_token"].as_str().expect("a token").to_owned()
}

fn passed(upstream: &SampleUpstream) -> Vec<RequestSeen> {
    upstream.requests().into_iter().filter(|seen| seen.headers.contains_key("x-forwarded-host")).collect()
}

#[tokio::test]
async fn a_whole_export_has_all_its_addresses_below_the_base_of_our_own() {
    let client = client();
    let rig = Rig::configured(std::slice::from_ref(&client), apart).await;
    let base = base(&rig);
    let token = token(&rig, &client).await;
    let payload = token.split('.').nth(1).expect("three parts");
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!((&claims["iss"], &claims["aud"]), (&Value::from(base.as_str()), &Value::from(base.as_str())));
    let bearer = format!("Bearer {token}");
    let headers = [KICKOFF[0], KICKOFF[1], ("Authorization", bearer.as_str())];
    for level in ["/$export", "/Patient/$export", "/Group/all/$export"] {
        let kickoff = ask(&rig, "GET", &format!("/bulk{level}"), &headers, b"").await;
        assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
        let status = kickoff.header("content-location").to_owned();
        assert!(status.starts_with(&format!("{base}/$bulk-status/")), "{status}");
        let below = |url: &str| url.strip_prefix(&format!("http://{}", rig.host())).expect("our origin").to_owned();
        let manifest = loop {
            let answer = ask(&rig, "GET", &below(&status), &headers, b"").await;
            match answer.status {
                200 => break answer.json(),
                running @ (202 | 429) => rig.pause(running).await,
                other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
            }
        };
        assert_eq!(manifest["request"], format!("{base}{level}"));
        let mut received: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for file in manifest["output"].as_array().expect("a list") {
            let url = file["url"].as_str().expect("a link");
            assert!(url.starts_with(&format!("{base}/$bulk-file/")), "{url}");
            let answer = ask(&rig, "GET", &below(url), &[], b"").await;
            assert_eq!(answer.status, 200);
            let elsewhere = ask(&rig, "GET", &below(url).replace("/bulk/", "/fhir/"), &headers, b"").await;
            elsewhere.assert_refused("at the FHIR base", 403, "forbidden", None);
            received.entry(file["type"].as_str().expect("a type").to_owned()).or_default().extend(answer.body);
        }
        let difference = expected::compare(&expected::of(&rig.upstream, level), &received).expect("NDJSON");
        assert!(difference.is_none(), "{level}: {difference}");
        assert_eq!(ask(&rig, "DELETE", &below(&status), &headers, b"").await.status, 202);
    }
    assert!(passed(&rig.upstream).iter().all(|seen| seen.path != "/fhir/$export"));
    rig.stop().await;
}

#[tokio::test]
async fn each_base_says_what_is_there() {
    let client = client();
    let rig = Rig::configured(std::slice::from_ref(&client), apart).await;
    rig.upstream.update_settings(|settings| {
        settings.demand = Demand::Token { lifetime: Duration::from_mins(5), refusal: None };
    });
    let theirs = ask(&rig, "GET", "/fhir/.well-known/smart-configuration", &[], b"").await.json();
    assert_eq!(theirs["capabilities"][0], "launch-ehr", "its users keep theirs");
    rig.upstream.update_settings(|settings| settings.demand = Demand::Nothing);
    let ours = ask(&rig, "GET", "/bulk/.well-known/smart-configuration", &[], b"").await.json();
    let base = base(&rig);
    for (name, at) in [
        ("issuer", ""),
        ("token_endpoint", "/$bulk-token"),
        ("introspection_endpoint", "/$bulk-introspect"),
        ("jwks_uri", "/$bulk-jwks"),
    ] {
        assert_eq!(ours[name], format!("{base}{at}"), "{name}");
    }
    assert_eq!(ask(&rig, "GET", "/bulk/$bulk-jwks", &[], b"").await.json()["keys"].as_array().map(Vec::len), Some(1));
    let statement = ask(&rig, "GET", "/bulk/metadata", &[], b"").await;
    let document = statement.json();
    assert_eq!((statement.status, statement.header("content-type")), (200, "application/fhir+json"));
    assert_eq!(document["implementation"]["url"], base);
    assert_eq!(document["fhirVersion"], "4.0.1");
    let server = &document["rest"][0];
    assert_eq!(server["operation"][0]["name"], "export");
    let resources = server["resource"].as_array().expect("a list");
    let group = resources.iter().find(|resource| resource["type"] == "Group").expect("it is there");
    assert_eq!(group["operation"][0]["name"], "export");
    assert_eq!(server["security"]["extension"][0]["extension"][0]["valueUri"], format!("{base}/$bulk-token"));
    assert_eq!(ask(&rig, "POST", "/bulk/metadata", &[], b"").await.status, 405);
    // Nothing is added to the upstream's own.
    let theirs = ask(&rig, "GET", "/fhir/metadata", &[], b"").await.json();
    assert!(theirs["instantiates"].is_null() && theirs["rest"][0]["operation"].is_null(), "{theirs}");
    rig.stop().await;
}

/// SEC-03, SEC-05: nothing below our base reaches the upstream, nothing of ours is at its base, and tokens of ours stay here.
#[tokio::test]
async fn the_two_bases_are_never_taken_for_each_other() {
    let client = client();
    let rig = Rig::configured(std::slice::from_ref(&client), apart).await;
    let bearer = format!("Bearer {}", token(&rig, &client).await);
    let before = rig.upstream.requests().len();
    let job = "0123456789abcdef0123456789abcdef";
    for (target, status) in [
        // Ours, or nobody's.
        ("/bulk", 404),
        ("/bulk/", 404),
        ("/bulk/Patient", 404),
        ("/bulk/Patient/1", 404),
        ("/bulk/Patient?_count=1", 404),
        ("/bulk/$export/", 404),
        ("/bulk/$export-poll-status", 404),
        ("/bulk/$EXPORT", 404),
        ("/bulk/fhir/Patient", 404),
        ("/bulk/_history", 404),
        ("/bulk/.well-known/openid-configuration", 404),
        (&format!("/bulk/$bulk-status/{job}/x") as &str, 404),
        // Read in two ways.
        ("/bulk/../fhir/Patient", 400),
        ("/bulk/%2e%2e/fhir/Patient", 400),
        ("/bulk/..;/fhir/Patient", 400),
        ("/bulk/..%2ffhir/Patient", 400),
        ("/bulk%2f$export", 400),
        ("/bulk\\$export", 400),
        ("/bulk//$export", 400),
        ("//bulk/$export", 400),
        ("/BULK/$export", 400),
        ("/Bulk/Patient", 400),
        ("/bulk;x=1/$export", 400),
        ("/fhir/../bulk/$export", 400),
        ("/fhir/%2e%2e/bulk/$export", 400),
        ("/fhir/..;/bulk/$export", 400),
        ("/./bulk/$export", 400),
        ("/%62%75lk%2f..%2ffhir/Patient", 400),
        // Neither, where a token of ours is of no use.
        ("/bulkx", 401),
        ("/bulkx/$export", 401),
        ("/", 401),
        // At the FHIR base nothing is ours, and exports are not the upstream's either.
        ("/fhir/$export", 403),
        ("/fhir/%24export", 403),
        ("/fhir/Patient/$export", 403),
        ("/fhir/Group/all/$export", 403),
        ("/fhir/$bulk-token", 403),
        ("/fhir/$bulk-jwks", 403),
        ("/fhir/$bulk-introspect", 403),
        (&format!("/fhir/$bulk-status/{job}"), 403),
        ("/fhir/bulk/$export", 403),
        // A token of ours opens nothing there, and is not shown to it.
        ("/fhir/Patient", 401),
        ("/fhir/.well-known/smart-configuration", 401),
        ("/fhir/metadata", 401),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let headers = [KICKOFF[0], KICKOFF[1], ("Authorization", bearer.as_str())];
            let answer = ask(&rig, method, target, &headers, b"").await;
            assert_eq!(answer.status, status, "{method} {target}: {}", String::from_utf8_lossy(&answer.body));
        }
    }
    assert_eq!(rig.upstream.requests().len(), before, "none of it reached the upstream");
    // Spelled otherwise it is the same base.
    let kickoff =
        ask(&rig, "GET", "/%62ulk/%24export", &[KICKOFF[0], KICKOFF[1], ("Authorization", &bearer)], b"").await;
    assert_eq!(kickoff.status, 202);
    assert!(kickoff.header("content-location").starts_with(&base(&rig)));
    // Tokens are for this base: an assertion for an endpoint at the other one is for somebody else.
    let asked = form(&request(&rig, &client, &format!("{}/$bulk-token", rig.base)));
    let answer = ask(&rig, "POST", "/bulk/$bulk-token", &[FORM], asked.as_bytes()).await;
    assert_eq!(answer.json()["error"], "invalid_client");
    // What is the upstream's passes as it came.
    let own = [("Authorization", "Bearer of-theirs")];
    for target in ["/fhir/Patient?_count=1", "/fhir/bulk", "/fhir/metadata", "/fhir/.well-known/smart-configuration"] {
        ask(&rig, "GET", target, &own, b"").await;
        let passed = passed(&rig.upstream);
        let last = passed.last().expect("it passes");
        assert_eq!(
            (last.path.as_str(), &last.headers["authorization"]),
            (target.split('?').next().expect("a path"), &own[0].1.parse().expect("a value"))
        );
    }
    rig.stop().await;
}

/// In open mode there is no authorization server, and the upstream's is not to be found at our base.
#[tokio::test]
async fn a_base_of_our_own_in_open_mode_has_no_tokens() {
    let mut rig = Rig::configured(&[client()], apart).await;
    rig.restart(|config| config.smart = offtake::config::SmartConfig::default()).await;
    assert_eq!(ask(&rig, "GET", "/bulk/$export", &KICKOFF, b"").await.status, 202);
    for target in ["/bulk/.well-known/smart-configuration", "/bulk/$bulk-token", "/bulk/$bulk-jwks"] {
        ask(&rig, "GET", target, &[], b"").await.assert_refused(target, 404, "not-found", None);
    }
    ask(&rig, "GET", "/fhir/$export", &KICKOFF, b"").await.assert_refused("elsewhere", 403, "forbidden", None);
    let evil = ask(&rig, "GET", "/bulk/metadata", &[("Host", "evil.example")], b"").await;
    evil.assert_refused("DNS rebinding", 403, "forbidden", None);
    rig.stop().await;
}

/// Without a base of our own the upstream is asked at the start whether ours stands in the place of one of its own.
#[tokio::test]
async fn the_upstream_is_asked_whether_it_publishes_a_configuration() {
    let upstream = SampleUpstream::new(Settings::default());
    let server = upstream.serve(listener().await).await;
    let rig = Rig::before(upstream.clone(), server, &[client()], |_| {}).await;
    let is_asked = || {
        let asked = upstream.requests();
        asked.iter().any(|seen| seen.path == "/fhir/.well-known/smart-configuration")
    };
    until("it is asked", Duration::from_secs(30), is_asked).await;
    rig.stop().await;
}
