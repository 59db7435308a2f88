//! An issuer's keys: rotated, gone, slow, huge, private, or somewhere else.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::issuer::ok;
use super::{External, signed};
use crate::smart::Key;
use crate::support::until;

const ALL: &str = "system/*.rs";
const PATH: &str = "/$export?_type=Patient";
const NOWHERE: &str = "/$bulk-status/00000000000000000000000000000000";

/// Nothing fails that was valid, and what the removed key signed is refused after the overlap.
#[tokio::test]
async fn keys_are_rotated_while_an_export_runs() {
    let external = External::with(&[("a", ALL)]).await;
    let rig = &external.rig;
    external.issuer.publish(&[&external.key], "Cache-Control: max-age=600\r\n");
    let old = external.token("a", ALL);
    let kickoff = rig.with_token("GET", PATH, &old).await;
    let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    assert_eq!(external.issuer.asked("/jwks"), 1);
    // The new one signs at once; the old one is still published.
    let next = Key::es384("i2");
    external.issuer.publish(&[&external.key, &next], "Cache-Control: max-age=600\r\n");
    let new = signed(&next, &external.claims("a", ALL));
    let answers = join_all((0..20).map(|_| rig.with_token("GET", &status, &new))).await;
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 202)), "the new key is found at once");
    assert_eq!(external.issuer.asked("/jwks"), 2, "one fetches for all");
    let mut tokens = [&old, &new].into_iter().cycle();
    loop {
        match rig.with_token("GET", &status, tokens.next().expect("they go round")).await.status {
            200 => break,
            running @ (202 | 429) => rig.pause(running).await,
            other => panic!("{other}: both are good"),
        }
    }
    assert_eq!(external.issuer.asked("/jwks"), 2);
    // Now it is taken out.
    external.issuer.publish(&[&next], "Cache-Control: max-age=600\r\n");
    rig.advance(599);
    assert_eq!(rig.with_token("GET", &status, &old).await.status, 200, "that is the overlap");
    rig.advance(1);
    assert_eq!(rig.with_token("GET", &status, &old).await.status, 401);
    assert_eq!(rig.with_token("GET", &status, &new).await.status, 200);
    assert_eq!(external.issuer.asked("/jwks"), 3);
    external.rig.stop().await;
}

/// At most one fetch a minute, whatever is sent.
#[tokio::test]
async fn a_flood_of_unknown_keys_is_none_to_the_issuer() {
    let external = External::with(&[("a", ALL)]).await;
    let rig = &external.rig;
    assert_eq!(rig.with_token("GET", NOWHERE, &external.token("a", ALL)).await.status, 404);
    let flood = async || {
        let tokens: Vec<_> =
            (0..12).map(|n| signed(&Key::es384(&format!("x{n}")), &external.claims("a", ALL))).collect();
        let answers = join_all(tokens.iter().map(|token| rig.with_token("GET", NOWHERE, token))).await;
        assert!(answers.iter().all(|answer| answer.status == 401));
    };
    for minutes in 1..4 {
        flood().await;
        flood().await;
        assert_eq!(external.issuer.asked("/jwks"), 1 + minutes, "in minute {minutes}");
        assert_eq!(
            rig.with_token("GET", NOWHERE, &external.token("a", ALL)).await.status,
            404,
            "others notice nothing"
        );
        rig.advance(60);
    }
    // What is not for us is not even looked up.
    let before = external.issuer.asked("/jwks");
    for (name, value) in [("iss", json!("https://evil.example")), ("aud", json!("x")), ("exp", json!(1))] {
        let mut claims = external.claims("a", ALL);
        claims[name] = value;
        assert_eq!(rig.with_token("GET", NOWHERE, &signed(&Key::es384("y"), &claims)).await.status, 401, "{name}");
    }
    assert_eq!(external.issuer.asked("/jwks"), before);
    external.rig.stop().await;
}

/// Nothing is known of a token then, which is said so; and it heals.
#[tokio::test]
async fn keys_that_cannot_be_had_let_nobody_in_and_heal() {
    let elsewhere = External::with(&[("a", ALL)]).await;
    let away = format!("HTTP/1.1 302 Found\r\nLocation: {}/jwks\r\nContent-Length: 0\r\n\r\n", elsewhere.issuer.base);
    let large = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(70_000));
    let mut private = Key::es384("i1");
    private.jwk["d"] = "AAAA".into();
    let mut many = Vec::new();
    many.resize(65, Key::es384("i1").jwk);
    let symmetric = json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "i1", "alg": "HS256" }] });
    for (what, answer) in [
        ("a redirect", away),
        ("too large", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len())),
        ("too many", ok(&json!({ "keys": many }), "")),
        ("an error", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("no JSON", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned()),
        ("cut short", "HTTP/1.1 200 OK\r\nContent-Length: 200\r\nConnection: close\r\n\r\n{\"keys\"".to_owned()),
        ("a private key", ok(&json!({ "keys": [private.jwk] }), "")),
        ("a symmetric key", ok(&symmetric, "")),
        ("no key", ok(&json!({ "keys": [] }), "")),
        ("nothing at all", String::new()),
    ] {
        let external = External::with(&[("a", ALL)]).await;
        let rig = &external.rig;
        external.issuer.say("/jwks", &answer);
        let token = external.token("a", ALL);
        let waiting = async {
            // Whoever says nothing at all is waited for by the clock.
            until("it is asked", Duration::from_mins(1), || external.issuer.asked("/jwks") == 1).await;
            rig.advance(5);
            std::future::pending::<()>().await;
        };
        let refused = tokio::select! {
            refused = rig.with_token("GET", PATH, &token) => refused,
            () = waiting => unreachable!("it never ends"),
        };
        refused.assert_refused(what, 503, "transient", None);
        assert_ne!(refused.header("retry-after"), "", "{what}");
        assert_eq!(external.issuer.asked("/jwks"), 1, "{what}");
        external.issuer.publish(&[&external.key], "");
        rig.advance(10);
        assert_eq!(rig.with_token("GET", PATH, &token).await.status, 202, "{what}: mended");
        // From then on it may be away for an hour.
        external.issuer.say("/jwks", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
        rig.advance(3_500);
        let token = external.token("a", ALL);
        assert_eq!(rig.with_token("GET", NOWHERE, &token).await.status, 404, "{what}");
        rig.advance(100);
        assert_eq!(rig.with_token("GET", NOWHERE, &token).await.status, 503, "{what}: too old to be relied on");
        external.rig.stop().await;
    }
    assert_eq!(elsewhere.issuer.asked("/jwks"), 0, "redirects are not followed");
    elsewhere.rig.stop().await;
}

/// SEC-12: whoever cannot sign is told nothing of who is registered, nor by how long it takes.
#[tokio::test]
async fn who_is_registered_is_told_to_nobody_without_a_good_signature() {
    let external = External::with(&[("a", ALL)]).await;
    let rig = &external.rig;
    external.issuer.say("/jwks", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    for (times, client) in ["a", "nobody"].into_iter().enumerate() {
        let forged = signed(&Key::es384("i1"), &external.claims(client, ALL));
        rig.with_token("GET", NOWHERE, &forged).await.assert_refused(client, 503, "transient", None);
        assert_eq!(external.issuer.asked("/jwks"), times + 1, "{client}");
        rig.advance(10);
    }
    external.issuer.publish(&[&external.key], "");
    for client in ["nobody", "a"] {
        let forged = signed(&Key::es384("i1"), &external.claims(client, ALL));
        assert_eq!(rig.with_token("GET", NOWHERE, &forged).await.status, 401, "{client}");
    }
    assert_eq!(rig.with_token("GET", NOWHERE, &external.token("nobody", ALL)).await.status, 401);
    assert_eq!(rig.with_token("GET", NOWHERE, &external.token("a", ALL)).await.status, 404);
    external.rig.stop().await;
}

/// An issuer that takes back all its keys, or has shown a private one, is believed: nobody goes on by what was there before.
#[tokio::test]
async fn keys_that_are_withdrawn_are_good_no_longer_than_was_said() {
    let mut private = Key::es384("i1");
    private.jwk["d"] = "AAAA".into();
    for (what, answer) in [
        ("none", ok(&json!({ "keys": [] }), "")),
        ("none for us", ok(&json!({ "keys": [Key::es256("x").jwk] }), "")),
        ("a private key", ok(&json!({ "keys": [private.jwk] }), "")),
    ] {
        let external = External::with(&[("a", ALL)]).await;
        let rig = &external.rig;
        let token = external.token("a", ALL);
        external.issuer.publish(&[&external.key], "Cache-Control: max-age=60\r\n");
        assert_eq!(rig.with_token("GET", NOWHERE, &token).await.status, 404, "{what}");
        external.issuer.say("/jwks", &answer);
        rig.advance(60);
        let answers = join_all((0..10).map(|_| rig.with_token("GET", NOWHERE, &token))).await;
        assert!(answers.iter().all(|answer| answer.status == 503), "{what}: for nobody");
        assert_eq!(external.issuer.asked("/jwks"), 2, "{what}");
        external.rig.stop().await;
    }
}

/// While keys come slowly those go on that there are.
#[tokio::test]
async fn nobody_waits_for_keys_who_has_one_that_is_known() {
    let external = External::with(&[("a", ALL)]).await;
    let rig = &external.rig;
    let token = external.token("a", ALL);
    assert_eq!(rig.with_token("GET", NOWHERE, &token).await.status, 404);
    external.issuer.say("/jwks", "");
    let unknown = signed(&Key::es384("x"), &external.claims("a", ALL));
    let stuck = rig.with_token("GET", NOWHERE, &unknown);
    let others = async {
        until("it is asked", Duration::from_mins(1), || external.issuer.asked("/jwks") == 2).await;
        for _ in 0..5 {
            assert_eq!(rig.with_token("GET", NOWHERE, &token).await.status, 404);
        }
        rig.advance(5);
    };
    let (stuck, ()) = tokio::join!(stuck, others);
    assert_eq!(stuck.status, 401, "there are keys, and it is by none of them");
    external.rig.stop().await;
}

/// Its metadata lie in one of two places, are its own, and lead to no private address that nobody has named.
#[tokio::test]
async fn the_issuers_metadata_are_its_own() {
    const OPENID: &str = "/.well-known/openid-configuration";
    let with = |external: &External, name: &str, value: serde_json::Value| {
        let mut metadata = external.issuer.metadata();
        metadata[name] = value;
        ok(&metadata, "")
    };
    for (what, change) in [
        (
            "of another issuer",
            Box::new(|external: &External| with(external, "issuer", json!("https://evil.example")))
                as Box<dyn Fn(&External) -> String>,
        ),
        ("no keys", Box::new(|external| with(external, "jwks_uri", json!(null)))),
        ("keys in plain", Box::new(|external| with(external, "jwks_uri", json!("http://evil.example/keys")))),
        (
            "keys inside",
            Box::new(|external| {
                let inside = external.issuer.base.replace("127.0.0.1", "localhost");
                with(external, "jwks_uri", json!(format!("{inside}/jwks")))
            }),
        ),
        ("a redirect", Box::new(|_| "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned())),
    ] {
        let external = External::with(&[("a", ALL)]).await;
        external.issuer.say(OPENID, &change(&external));
        let answer = external.rig.with_token("GET", PATH, &external.token("a", ALL)).await;
        answer.assert_refused(what, 503, "transient", None);
        assert_eq!(external.issuer.asked("/jwks"), 0, "{what}");
        external.rig.stop().await;
    }
    let external = External::with(&[("a", ALL)]).await;
    external.issuer.say(OPENID, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    external.issuer.say("/.well-known/oauth-authorization-server/realms/a", &ok(&external.issuer.metadata(), ""));
    assert_eq!(external.rig.with_token("GET", PATH, &external.token("a", ALL)).await.status, 202, "RFC 8414");
    external.rig.stop().await;
    // Where all is said they are not asked for.
    let external = External::configured(&[("a", ALL)], |config| {
        let issuer = config.smart.issuer.issuer.as_deref().expect("a name");
        config.smart.issuer.jwks_uri = Some(format!("{issuer}/jwks").parse().expect("a URL"));
    })
    .await;
    assert_eq!(external.rig.with_token("GET", PATH, &external.token("a", ALL)).await.status, 202);
    assert_eq!((external.issuer.asked(OPENID), external.issuer.asked("/jwks")), (0, 1));
    external.rig.stop().await;
}

/// SIGHUP for another reason, while the issuer is away, takes nothing from anybody.
#[tokio::test]
async fn keys_stay_good_over_a_reload_while_the_issuer_is_away() {
    let key = Key::es384("k1");
    let mut external = External::with(&[("a", ALL)]).await;
    external.issuer.publish(&[&key], "Cache-Control: max-age=3000\r\n");
    let claims = external.claims("a", ALL);
    let token = signed(&key, &claims);
    assert_eq!(external.rig.with_token("GET", NOWHERE, &token).await.status, 404, "it is good");
    external.issuer.say("/jwks", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let asked = external.issuer.asked("/jwks");
    external.rig.reload(|_| {});
    assert_eq!(external.rig.with_token("GET", NOWHERE, &token).await.status, 404, "it is good still");
    assert_eq!(external.issuer.asked("/jwks"), asked + 1, "it was asked, and did not answer");
    let other = Key::es384("k2");
    external.issuer.publish(&[&other], "");
    external.rig.reload(|_| {});
    assert_eq!(external.rig.with_token("GET", NOWHERE, &token).await.status, 401, "its key was taken out");
    external.rig.stop().await;
}
