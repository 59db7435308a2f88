//! SMART Backend Services with us as the client.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use offtake::config::BackendConfig;
use offtake::{Clock, Config};
use sample_upstream::{Demand, RequestSeen, SampleUpstream, Settings};
use serde_json::Value;

use super::{Secrets, client, export_exactly, export_exactly_by, failed, rig, searches, upstream};
use crate::smart::Rig;

/// Makes a key pair as an operator does: the public JWK Set. The private key is in the file.
pub(crate) fn make_key(alg: &str, file: &Path) -> JwkSet {
    let mut make = Command::new(env!("CARGO_BIN_EXE_offtake"));
    let made = make.args(["keys", "generate", "--alg", alg, "--out"]).arg(file).output().expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    serde_json::from_slice(&made.stdout).expect("a JWK Set")
}

fn of(lifetime: u64) -> Demand {
    Demand::Token { lifetime: Duration::from_secs(lifetime), refusal: None }
}

/// Asks as this client with the key of that file.
fn as_client(config: &mut Config, key_file: &Path, token_endpoint: Option<&str>) {
    config.upstream.credentials.smart = Some(BackendConfig {
        token_endpoint: token_endpoint.map(|endpoint| endpoint.parse().expect("a URL")),
        client_id: "offtake-at-home".to_owned(),
        key_file: key_file.to_owned(),
        scope: "system/*.rs".to_owned(),
    });
    // Tests let much time pass.
    config.smart.token_lifetime = Duration::from_hours(1);
}

/// The upstream goes by the clock that the test moves.
fn share_clock(rig: &Rig) {
    let clock = rig.clock.clone();
    rig.upstream.set_clock(std::sync::Arc::new(move || {
        DateTime::<Utc>::from_timestamp_millis(clock.unix_millis()).expect("a time")
    }));
}

fn token_requests(upstream: &SampleUpstream) -> Vec<RequestSeen> {
    upstream.requests().into_iter().filter(|seen| seen.path == "/token").collect()
}

/// What a token request asserts, if its signature is that of one of the keys.
fn asserted(request: &RequestSeen, keys: &JwkSet) -> (Value, Value) {
    let form: Vec<(String, String)> = url::form_urlencoded::parse(request.query.as_bytes()).into_owned().collect();
    let value =
        |name: &str| form.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone()).expect("it is there");
    assert_eq!((value("grant_type"), value("scope")), ("client_credentials".to_owned(), "system/*.rs".to_owned()));
    assert!(!request.headers.contains_key("authorization"));
    let assertion = value("client_assertion");
    let (signed, signature) = assertion.rsplit_once('.').expect("three parts");
    let parts: Vec<Value> = signed
        .split('.')
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON"))
        .collect();
    let [header, claims] = <[Value; 2]>::try_from(parts).expect("two parts");
    let key = keys.find(header["kid"].as_str().expect("a name")).expect("it is registered");
    let algorithm = if header["alg"] == "RS384" { Algorithm::RS384 } else { Algorithm::ES384 };
    let key = DecodingKey::from_jwk(key).expect("a key");
    assert!(crypto::verify(signature, signed.as_bytes(), &key, algorithm).expect("a signature"), "{header}");
    (header, claims)
}

/// SMART, "Authenticating to the Token Endpoint"
#[tokio::test]
async fn a_server_that_wants_access_tokens_is_exported_whole() {
    for (alg, is_named) in [("ES384", true), ("RS384", false)] {
        let secrets = Secrets::new();
        let keys = make_key(alg, &secrets.path("key"));
        let (upstream, server) = upstream(Settings { demand: of(300), ..Settings::default() }).await;
        let endpoint = format!("http://{}/token", server.addr);
        let rig = Rig::before(upstream, server, &[client()], |config| {
            as_client(config, &secrets.path("key"), is_named.then_some(endpoint.as_str()));
        })
        .await;
        export_exactly(&rig, "/$export").await;
        export_exactly(&rig, "/Group/all/$export").await;
        let asked = token_requests(&rig.upstream);
        assert_eq!((asked.len(), rig.upstream.tokens_issued()), (1, 1), "one for all searches of both exports");
        let (header, claims) = asserted(&asked[0], &keys);
        assert_eq!((&header["alg"], &header["typ"]), (&alg.into(), &"JWT".into()));
        for (name, expected) in [("iss", "offtake-at-home"), ("sub", "offtake-at-home"), ("aud", endpoint.as_str())] {
            assert_eq!(claims[name], expected, "{name}");
        }
        let ahead = claims["exp"].as_i64().expect("a time") - rig.now();
        assert!((1..=300).contains(&ahead), "{ahead}");
        assert!(claims["jti"].as_str().is_some_and(|jti| jti.len() >= 32));
        let discovered = rig.upstream.requests().iter().filter(|seen| seen.path.contains(".well-known")).count();
        assert_eq!(discovered, 1 + usize::from(!is_named), "once at the start, as anybody could");
        rig.stop().await;
    }
}

/// Searches of one export that a test disturbs: those for windows of time.
fn is_window(seen: &RequestSeen) -> bool {
    seen.query.contains("_lastUpdated=lt") || seen.query.contains("_lastUpdated=ge")
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_an_export_is_replaced() {
    let secrets = Secrets::new();
    let keys = make_key("ES384", &secrets.path("key"));
    let rig = rig(of(60), |config| as_client(config, &secrets.path("key"), None)).await;
    share_clock(&rig);
    // At three places of it a token's whole life goes by, and all three are less than a search that fails is tried for.
    for types in ["Patient", "Observation", "Encounter"] {
        let clock = rig.clock.clone();
        let path = format!("/fhir/{types}");
        rig.upstream.first_when(
            move |seen| seen.path == path && is_window(seen),
            move || clock.advance(Duration::from_secs(75)),
        );
    }
    // Where a new token is over as well, the export pauses by the clock that stands still by itself.
    let moving = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            rig.advance(1);
        }
    };
    tokio::select! {
        () = export_exactly(&rig, "/$export") => {}
        () = moving => {}
    }
    let asked = token_requests(&rig.upstream);
    // Searches run side by side: what is over for several of them at once is replaced once.
    assert!(asked.len() >= 2, "{}", asked.len());
    let used: BTreeSet<_> = asked.iter().map(|asked| asserted(asked, &keys).1["jti"].to_string()).collect();
    assert_eq!(used.len(), asked.len(), "no assertion is used twice");
    rig.stop().await;
}

#[tokio::test]
async fn a_token_that_is_refused_before_its_time_is_replaced_once() {
    let secrets = Secrets::new();
    make_key("ES384", &secrets.path("key"));
    let rig = rig(of(3_600), |config| as_client(config, &secrets.path("key"), None)).await;
    let other = rig.upstream.clone();
    rig.upstream.first_when(is_window, move || other.revoke_tokens());
    export_exactly(&rig, "/$export").await;
    assert_eq!(rig.upstream.tokens_issued(), 2, "of all searches that were refused one has asked for another");
    rig.stop().await;
}

#[tokio::test]
async fn a_client_that_is_revoked_fails_its_export_with_clear_words() {
    let secrets = Secrets::new();
    make_key("ES384", &secrets.path("key"));
    let rig = rig(of(3_600), |config| {
        as_client(config, &secrets.path("key"), None);
        config.upstream.give_up_after = Duration::from_secs(20);
    })
    .await;
    let other = rig.upstream.clone();
    rig.upstream.first_when(is_window, move || {
        other.revoke_tokens();
        other.update_settings(|settings| {
            settings.demand =
                Demand::Token { lifetime: Duration::from_hours(1), refusal: Some((401, "invalid_client")) };
        });
    });
    let said = failed(&rig, "/$export").await;
    let expected = "there is no access token for the server: the token endpoint answered with status 401 Unauthorized \
                    (invalid_client)";
    assert!(said.contains(expected), "{said}");
    assert!(!said.contains("s3cret words"), "what it says besides may be anything: {said}");
    // Each of them waits for the pause of the one before it, however many searches want a token.
    let asked = token_requests(&rig.upstream).len();
    assert!((3..40).contains(&asked), "{asked}");
    rig.stop().await;
}

#[tokio::test]
async fn an_authorization_server_that_is_away_for_a_while_costs_nothing_but_time() {
    let secrets = Secrets::new();
    make_key("ES384", &secrets.path("key"));
    let rig = rig(of(3_600), |config| as_client(config, &secrets.path("key"), None)).await;
    let away = |status| Demand::Token { lifetime: Duration::from_hours(1), refusal: Some((status, "server_error")) };
    let other = rig.upstream.clone();
    rig.upstream.first_when(is_window, move || {
        other.revoke_tokens();
        other.update_settings(|settings| settings.demand = away(503));
    });
    let token = rig.token(&client(), "system/*.rs").await;
    let clock = rig.clock.clone();
    let upstream = rig.upstream.clone();
    let passing = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            clock.advance(Duration::from_secs(1));
            if upstream.requests().iter().filter(|seen| seen.path == "/token").count() >= 4 {
                upstream.update_settings(|settings| settings.demand = of(3_600));
            }
        }
    });
    export_exactly_by(&rig, "/$export", &token).await;
    passing.abort();
    rig.stop().await;
}

/// What an upstream says of its token endpoint is followed where an assertion may go, and nowhere else.
#[tokio::test]
async fn an_assertion_goes_to_no_address_that_others_could_read() {
    for (endpoint, said) in [
        ("http://login.example/token", false),
        ("ftp://127.0.0.1/token", false),
        ("/token", false),
        ("", false),
        ("http://user:pass@127.0.0.1:1/token", false),
    ] {
        let secrets = Secrets::new();
        make_key("ES384", &secrets.path("key"));
        let settings = Settings { demand: of(300), token_endpoint: Some(endpoint.to_owned()), ..Settings::default() };
        let (upstream, server) = upstream(settings).await;
        let rig = Rig::before(upstream, server, &[client()], |config| {
            as_client(config, &secrets.path("key"), None);
        })
        .await;
        let token = rig.token(&client(), "system/*.rs").await;
        let kickoff = rig.with_token("GET", "/$export", &token);
        let clock = rig.clock.clone();
        let passing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                clock.advance(Duration::from_secs(1));
            }
        });
        kickoff.await.assert_refused(endpoint, 503, "transient", None);
        passing.abort();
        assert_eq!(rig.upstream.tokens_issued() > 0, said, "{endpoint}");
        assert!(searches(&rig.upstream).is_empty(), "without a token nothing is asked");
        rig.stop().await;
    }
}

/// SIGHUP for another reason has nobody asked for another token.
#[tokio::test]
async fn a_token_stays_in_use_over_a_reload_that_changes_nothing() {
    let secrets = Secrets::new();
    make_key("ES384", &secrets.path("key"));
    let mut rig = rig(of(3_600), |config| as_client(config, &secrets.path("key"), None)).await;
    export_exactly(&rig, "/$export").await;
    let asked = token_requests(&rig.upstream).len();
    rig.reload(|config| config.smart.clients[0].scope = "system/*.rs".to_owned());
    export_exactly(&rig, "/$export").await;
    assert_eq!(token_requests(&rig.upstream).len(), asked);
    std::fs::remove_file(secrets.path("key")).expect("it is there");
    make_key("ES384", &secrets.path("key"));
    rig.reload(|_| {});
    export_exactly(&rig, "/$export").await;
    assert!(token_requests(&rig.upstream).len() > asked, "it is another key");
    rig.stop().await;
}
