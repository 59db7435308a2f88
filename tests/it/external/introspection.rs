//! Tokens that the issuer is asked about (RFC 7662).

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine as _;
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::External;
use super::issuer::ok;
use crate::credentials::tokens::make_key;
use crate::smart::JWT_BEARER;
use crate::support::until;

const ALL: &str = "system/*.rs";
const PATH: &str = "/$export?_type=Patient";
const NOWHERE: &str = "/$bulk-status/00000000000000000000000000000000";
const ASK: &str = "/introspect";

/// An Offtake that is registered at the issuer by a name and a secret. (The folder holds that.)
async fn external(clients: &[(&str, &str)]) -> (External, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, "s3cret:+ü\n").expect("the disk takes it");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it is ours");
    let external = External::configured(clients, |config| {
        config.smart.issuer.introspection.client_id = Some("offtake:1".to_owned());
        config.smart.issuer.introspection.client_secret_file = Some(file);
    })
    .await;
    (external, folder)
}

/// What the issuer tells of a good token.
fn good(external: &External, client: &str, scope: &str) -> Value {
    let mut told = external.claims(client, scope);
    told["active"] = true.into();
    told["token_type"] = "Bearer".into();
    told
}

fn with(told: &Value, name: &str, value: Value) -> Value {
    let mut told = told.clone();
    told[name] = value;
    told
}

#[tokio::test]
async fn an_opaque_token_opens_what_its_issuer_says() {
    let (external, _folder) = external(&[("a", "system/Patient.rs")]).await;
    external.issuer.tell("opaque", good(&external, "a", ALL));
    let status = external.rig.exported("/$export", "opaque").await;
    let (manifest, links) = external.rig.listed(&status, "opaque").await;
    assert!(links.contains_key("Patient") && manifest["output"].as_array().expect("a list").len() == 1);
    let asked = external.issuer.last(ASK);
    assert_eq!((asked.form["token"].as_str(), asked.form["token_type_hint"].as_str()), ("opaque", "access_token"));
    // RFC 6749, 2.3.1
    let shown = base64::prelude::BASE64_STANDARD.encode("offtake%3A1:s3cret%3A%2B%C3%BC");
    assert!(asked.head.to_ascii_lowercase().contains("\r\naccept: application/json\r\n"));
    assert!(asked.head.contains(&format!("Basic {shown}\r\n")), "{}", asked.head);
    external.rig.stop().await;
}

/// The same as of a JWT is asked of what it tells.
#[tokio::test]
async fn what_the_issuer_tells_has_to_be_as_it_must() {
    let (external, _folder) = external(&[("a", ALL)]).await;
    let told = good(&external, "a", ALL);
    let now = external.rig.now();
    for (number, (name, value, expected)) in [
        ("more", json!(1), 202),
        ("active", json!(false), 401),
        ("active", json!("true"), 503),
        ("active", json!(1), 503),
        ("iss", json!("https://evil.example"), 401),
        ("aud", json!("https://evil.example"), 401),
        ("aud", json!(["account", external.rig.base]), 202),
        ("aud", Value::Null, 401),
        ("exp", json!(now), 401),
        ("exp", Value::Null, 401),
        ("nbf", json!(now + 3_000), 401),
        ("client_id", json!("b"), 401),
        ("client_id", Value::Null, 401),
        ("azp", json!("b"), 401),
        ("token_type", json!("DPoP"), 401),
        ("cnf", json!({ "jkt": "x" }), 401),
        ("patient", json!("p1"), 401),
        ("nonce", json!("n"), 401),
        ("scope", json!(""), 403),
        ("scope", json!("system/*.rs user/*.rs"), 401),
        ("scope", json!("system/*.rs\u{0}"), 401),
        ("scope", json!("system/*.rs\u{a0}system/*.rs"), 401),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("t{number}");
        external.issuer.tell(&token, with(&told, name, value.clone()));
        let answer = external.rig.with_token("GET", PATH, &token).await;
        assert_eq!(answer.status, expected, "{name}: {value}");
    }
    let mut without = told.clone();
    without.as_object_mut().expect("an object").remove("iss");
    external.issuer.tell("without", without);
    assert_eq!(external.rig.with_token("GET", PATH, "without").await.status, 202, "it need not say who it is");
    external.rig.stop().await;
}

/// SEC-11: 30 seconds at most, and never for a kick-off.
#[tokio::test]
async fn what_was_told_is_relied_on_for_half_a_minute_and_not_for_a_kickoff() {
    let (external, _folder) = external(&[("a", ALL)]).await;
    let (rig, issuer) = (&external.rig, &external.issuer);
    issuer.tell("t", good(&external, "a", ALL));
    assert_eq!(rig.with_token("GET", NOWHERE, "t").await.status, 404);
    issuer.tell("t", json!({ "active": false }));
    rig.advance(29);
    assert_eq!(rig.with_token("GET", NOWHERE, "t").await.status, 404, "as it was told");
    assert_eq!(issuer.asked(ASK), 1);
    assert_eq!(rig.with_token("GET", PATH, "t").await.status, 401, "a kick-off asks");
    assert_eq!(issuer.asked(ASK), 2);
    assert_eq!(rig.with_token("GET", NOWHERE, "t").await.status, 401, "and what it learnt holds for all");
    assert_eq!(issuer.asked(ASK), 2);
    // What is not active is not asked for again and again either, and may be so later.
    issuer.tell("t", good(&external, "a", ALL));
    assert_eq!(rig.with_token("GET", NOWHERE, "t").await.status, 401);
    assert_eq!(issuer.asked(ASK), 2);
    rig.advance(30);
    assert_eq!(rig.with_token("GET", NOWHERE, "t").await.status, 404);
    assert_eq!(issuer.asked(ASK), 3);
    rig.advance(30);
    issuer.tell("t", json!({ "active": false }));
    assert_eq!(rig.with_token("GET", NOWHERE, "t").await.status, 401, "half a minute later it is known");
    for _ in 0..3 {
        assert_eq!(rig.with_token("GET", PATH, "t").await.status, 401);
    }
    assert_eq!(issuer.asked(ASK), 7, "each kick-off has asked");
    external.rig.stop().await;
}

/// A token expires in time, whatever was remembered of it, and is nobody else's.
#[tokio::test]
async fn what_is_remembered_of_one_token_is_said_of_no_other() {
    let (external, _folder) = external(&[("a", ALL), ("b", ALL)]).await;
    let rig = &external.rig;
    external.issuer.tell("a", good(&external, "a", ALL));
    external.issuer.tell("b", good(&external, "b", ALL));
    external.issuer.tell("soon", with(&good(&external, "a", ALL), "exp", json!(rig.now() + 10)));
    let status = rig.exported(PATH, "a").await;
    assert_eq!(rig.with_token("GET", &status, "b").await.status, 404);
    assert_eq!(rig.with_token("GET", &status, "A").await.status, 401);
    assert_eq!(rig.with_token("GET", &status, "a.").await.status, 401);
    assert_eq!(rig.with_token("GET", &status, "soon").await.status, 200);
    rig.advance(10);
    assert_eq!(rig.with_token("GET", &status, "soon").await.status, 401, "it has expired");
    assert_eq!(rig.with_token("GET", &status, "a").await.status, 200);
    external.rig.stop().await;
}

#[tokio::test]
async fn a_crowd_asks_once_and_a_flood_of_other_tokens_takes_nobody_elses_turn() {
    let (external, _folder) = external(&[("a", ALL)]).await;
    let rig = &external.rig;
    external.issuer.tell("t", good(&external, "a", ALL));
    let answers = join_all((0..40).map(|_| rig.with_token("GET", NOWHERE, "t"))).await;
    assert!(answers.iter().all(|answer| answer.status == 404));
    assert_eq!(external.issuer.asked(ASK), 1, "one asks for all");
    external.issuer.say(ASK, "");
    let tokens: Vec<_> = (0..10).map(|number| format!("x{number}")).collect();
    let flood = join_all(tokens.iter().map(|token| rig.with_token("GET", NOWHERE, token)));
    let meanwhile = async {
        until("they are asked about", Duration::from_mins(1), || external.issuer.asked(ASK) == 1 + 4).await;
        // Those of one peer wait for each other, until they have a place or no patience any more.
        loop {
            rig.advance(1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let answers = tokio::select! {
        answers = flood => answers,
        () = meanwhile => unreachable!("it never ends"),
    };
    assert!(answers.iter().all(|answer| answer.status == 503));
    external.rig.stop().await;
}

/// Nothing is known of a token then: it is 503, and what was told before is relied on no longer than ever.
#[tokio::test]
async fn an_issuer_that_is_away_lets_nobody_in_and_harms_no_export() {
    let (external, _folder) = external(&[("a", ALL)]).await;
    let rig = &external.rig;
    external.issuer.tell("t", good(&external, "a", ALL));
    let kickoff = rig.with_token("GET", PATH, "t").await;
    let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    let mut known: Vec<(&str, String)> = vec![
        ("an error", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("we are not known", "HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a redirect", "HTTP/1.1 307 Away\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("no JSON", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned()),
        ("a list", ok(&json!([true]), "")),
        ("nothing of it", ok(&json!({}), "")),
    ];
    let large = format!("{{\"active\":true,\"x\":\"{}\"}}", "x".repeat(70_000));
    known.push(("too large", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len())));
    let twice = r#"{"active":true,"active":true}"#;
    known.push(("twice", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{twice}", twice.len())));
    for (what, answer) in known {
        external.issuer.say(ASK, &answer);
        rig.advance(30);
        let refused = rig.with_token("GET", &status, "t").await;
        refused.assert_refused(what, 503, "transient", None);
        rig.with_token("GET", PATH, "t").await.assert_refused(what, 503, "transient", None);
        let asked = external.issuer.asked(ASK);
        rig.with_token("GET", NOWHERE, "t").await.assert_refused(what, 503, "transient", None);
        assert_eq!(external.issuer.asked(ASK), asked, "{what}: not at once again");
    }
    external.issuer.say(ASK, &ok(&good(&external, "a", ALL), ""));
    rig.advance(1);
    let answer = rig.with_token("GET", &status, "t").await;
    assert!(matches!(answer.status, 200 | 202), "the export knows nothing of it: {}", answer.status);
    external.rig.stop().await;
}

/// Nothing is asked about what no token can be.
#[tokio::test]
async fn what_is_no_token_is_not_asked_about() {
    let (external, _folder) = external(&[("a", ALL)]).await;
    for token in
        [String::new(), "a b".to_owned(), "a,b".to_owned(), "ü".to_owned(), "x".repeat(20_000), "a\"".to_owned()]
    {
        assert_eq!(external.rig.with_token("GET", PATH, &token).await.status, 401, "{token}");
    }
    assert_eq!(external.issuer.asked(ASK), 0);
    external.rig.stop().await;
}

/// SM-007 to SM-011, as a client of the issuer: who asks is proven by a signature, each time by another one.
#[tokio::test]
async fn an_issuer_can_be_asked_by_who_signs_for_it() {
    for audience in [None, Some("https://login.example/realms/clinic")] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("key");
        let keys = make_key("ES384", &file);
        let external = External::configured(&[("a", ALL)], |config| {
            config.smart.issuer.introspection.client_id = Some("offtake:1".to_owned());
            config.smart.issuer.introspection.key_file = Some(file);
            config.smart.issuer.introspection.audience = audience.map(str::to_owned);
        })
        .await;
        external.issuer.tell("opaque", good(&external, "a", ALL));
        external.rig.exported(PATH, "opaque").await;
        let asked = external.issuer.last(ASK);
        assert!(!asked.head.to_ascii_lowercase().contains("authorization:"), "{}", asked.head);
        assert_eq!(asked.form["client_assertion_type"], JWT_BEARER);
        assert_eq!((asked.form["token"].as_str(), asked.form["client_id"].as_str()), ("opaque", "offtake:1"));
        let mut validation = Validation::new(Algorithm::ES384);
        validation.validate_exp = false;
        validation.set_audience(&[audience.map_or_else(|| format!("{}{ASK}", external.issuer.base), str::to_owned)]);
        let key = DecodingKey::from_jwk(&keys.keys[0]).expect("a public key");
        let assertion = jsonwebtoken::decode::<Value>(&asked.form["client_assertion"], &key, &validation);
        let claims = assertion.expect("it verifies").claims;
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("offtake:1"), &json!("offtake:1")));
        let now = external.rig.now();
        assert!((now..=now + 300).contains(&claims["exp"].as_i64().expect("a time")), "{claims}");
        let first = claims["jti"].clone();
        external.rig.exported(PATH, "opaque").await;
        let again = external.issuer.last(ASK).form["client_assertion"].clone();
        let again = jsonwebtoken::decode::<Value>(&again, &key, &validation).expect("it verifies").claims;
        assert_ne!(again["jti"], first);
        external.rig.stop().await;
    }
}
