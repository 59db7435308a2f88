//! Access tokens of an external issuer that open nothing (SEC-11): of users, of other clients, for other servers, forged.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{Refusal, Sent, assert_refused};
use crate::external::{External, signed};
use crate::raw::KICKOFF;
use crate::smart::{FORM, Key, fresh};

const ALL: &str = "system/*.rs";
const PATH: &str = "/$export?_type=Patient";
const TOKEN: Refusal = (401, "invalid_token");

fn kick_off(token: &str) -> Sent {
    Sent::new("GET", PATH, &KICKOFF, b"").and("Authorization", &format!("Bearer {token}"))
}

/// What HMAC with these bytes signs.
fn by_secret(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

#[tokio::test]
async fn tokens_that_the_issuer_did_not_sign() {
    let external = External::configured(&[("a", ALL)], |config| {
        config.smart.issuer.algorithms = vec!["ES384".to_owned(), "RS256".to_owned()];
    })
    .await;
    let rsa = Key::rsa(Algorithm::RS256, "r1");
    let mut second = Key::es384("i1");
    second.jwk["kid"] = "twin".into();
    let mut other = Key::es384("twin");
    other.jwk["kid"] = "twin".into();
    external.issuer.publish(&[&external.key, &rsa, &second, &other], "");
    let (rig, key, claims) = (&external.rig, &external.key, external.claims("a", ALL));
    let good = external.token("a", ALL);
    let (thief, text) = (Key::es384("i1"), claims.to_string());
    let header = |more: Value| {
        let mut header = json!({ "alg": "ES384", "typ": "at+jwt", "kid": "i1" });
        header.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        header
    };
    let (signed_part, signature) = good.rsplit_once('.').expect("three parts");
    let none = URL_SAFE_NO_PAD.encode(header(json!({ "alg": "none" })).to_string());
    let body = URL_SAFE_NO_PAD.encode(&text);
    let public = key.jwk.to_string();
    let modulus = URL_SAFE_NO_PAD.decode(rsa.jwk["n"].as_str().expect("a number")).expect("base64url");
    for (what, token) in [
        ("an empty one", String::new()),
        ("nonsense", "nonsense".to_owned()),
        ("a huge one", format!("{good}{}", "A".repeat(20_000))),
        ("another key under the same name", thief.sign(&header(json!({})).to_string(), &text)),
        ("a key of its own", thief.sign(&header(json!({ "jwk": thief.jwk })).to_string(), &text)),
        ("a key elsewhere", thief.sign(&header(json!({ "jku": "https://evil.example/jwks" })).to_string(), &text)),
        (
            "a certificate of its own",
            thief.sign(&header(json!({ "x5u": "https://evil.example/c" })).to_string(), &text),
        ),
        ("a name that two keys have", second.sign(&header(json!({ "kid": "twin" })).to_string(), &text)),
        ("a name that is a path", thief.sign(&header(json!({ "kid": "../../dev/null" })).to_string(), &text)),
        ("a name that is a list", key.sign(&header(json!({ "kid": ["i1"] })).to_string(), &text)),
        ("an empty name", key.sign(&header(json!({ "kid": "" })).to_string(), &text)),
        ("no name among several", key.sign(r#"{"alg":"ES384","typ":"at+jwt"}"#, &text)),
        ("alg none", format!("{none}.{body}.")),
        ("alg none, signed", format!("{none}.{body}.{signature}")),
        ("no signature", format!("{signed_part}.")),
        ("HMAC by the public key", by_secret(&header(json!({ "alg": "HS256" })), &claims, public.as_bytes())),
        ("HMAC by the modulus", by_secret(&header(json!({ "alg": "HS256", "kid": "r1" })), &claims, &modulus)),
        ("HMAC by nothing", by_secret(&header(json!({ "alg": "HS256" })), &claims, b"")),
        ("RSA by a name of the other kind", rsa.sign(&header(json!({ "alg": "RS256" })).to_string(), &text)),
        (
            "an algorithm that is not allowed",
            Key { alg: Algorithm::PS256, ..rsa.clone() }
                .sign(&header(json!({ "alg": "PS256", "kid": "r1" })).to_string(), &text),
        ),
        (
            "another algorithm than the key's",
            Key { alg: Algorithm::RS384, ..rsa.clone() }
                .sign(&header(json!({ "alg": "RS256", "kid": "r1" })).to_string(), &text),
        ),
        ("something critical", key.sign(&header(json!({ "crit": ["exp"], "exp": 1 })).to_string(), &text)),
        ("encrypted", format!("{none}.{body}.{body}.{body}.{signature}")),
        ("a part more", format!("{good}.{signature}")),
        ("an ID token by its type", key.sign(&header(json!({ "typ": "id_token+jwt" })).to_string(), &text)),
        ("a claim twice", key.sign(&header(json!({})).to_string(), &text.replacen('{', "{\"client_id\":\"a\",", 1))),
        (
            "deep claims",
            key.sign(
                &header(json!({})).to_string(),
                &text.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(900), "]".repeat(900)), 1),
            ),
        ),
    ] {
        assert_refused(rig, what, &kick_off(&token), TOKEN, &kick_off(&good)).await;
    }
    let by_rsa = rsa.sign(&header(json!({ "alg": "RS256", "kid": "r1" })).to_string(), &text);
    assert_eq!(kick_off(&by_rsa).send(rig).await.status, 202, "that key is good for that");
    external.rig.stop().await;
}

#[tokio::test]
async fn tokens_that_are_for_somebody_or_something_else() {
    let external = External::with(&[("a", ALL), ("b", "system/Patient.rs")]).await;
    let (rig, now) = (&external.rig, external.rig.now());
    let good = external.token("a", ALL);
    let base = rig.base.as_str();
    let own = |change: &Value| {
        let mut claims = external.claims("a", ALL);
        let members = claims.as_object_mut().expect("an object");
        for (name, value) in change.as_object().expect("an object") {
            members.remove(name);
            if *value != json!("GONE") {
                members.insert(name.clone(), value.clone());
            }
        }
        signed(&external.key, &claims)
    };
    let scope: Refusal = (403, "insufficient_scope");
    for (change, refusal) in [
        (json!({ "client_id": "c" }), TOKEN),
        (json!({ "client_id": "A" }), TOKEN),
        (json!({ "client_id": "a " }), TOKEN),
        (json!({ "client_id": "a\u{0}" }), TOKEN),
        (json!({ "client_id": "GONE", "sub": "a" }), TOKEN),
        (json!({ "azp": "b" }), TOKEN),
        (json!({ "client_id": "b", "azp": "a" }), TOKEN),
        (json!({ "client_id": ["a", "b"] }), TOKEN),
        (json!({ "iss": format!("{}/", external.issuer.base) }), TOKEN),
        (json!({ "iss": base }), TOKEN),
        (json!({ "iss": "GONE" }), TOKEN),
        (json!({ "aud": "a" }), TOKEN),
        (json!({ "aud": format!("{base}/") }), TOKEN),
        (json!({ "aud": format!("{base}/Patient") }), TOKEN),
        (json!({ "aud": base.trim_end_matches("/fhir") }), TOKEN),
        (json!({ "aud": format!("{base}.evil.example") }), TOKEN),
        (json!({ "aud": base.to_uppercase() }), TOKEN),
        (json!({ "aud": format!("x {base}") }), TOKEN),
        (json!({ "aud": { "0": base } }), TOKEN),
        (json!({ "aud": "GONE" }), TOKEN),
        (json!({ "exp": now }), TOKEN),
        (json!({ "exp": "GONE" }), TOKEN),
        (json!({ "exp": format!("{}", now + 60) }), TOKEN),
        (json!({ "exp": 1e40 }), TOKEN),
        (json!({ "nbf": now + 600 }), TOKEN),
        (json!({ "iat": now + 600 }), TOKEN),
        (json!({ "patient": "p1" }), TOKEN),
        (json!({ "patient": null }), TOKEN),
        (json!({ "launch": "x" }), TOKEN),
        (json!({ "fhirUser": "Practitioner/1" }), TOKEN),
        (json!({ "nonce": "n" }), TOKEN),
        (json!({ "sid": "x" }), TOKEN),
        (json!({ "at_hash": "x" }), TOKEN),
        (json!({ "typ": "ID" }), TOKEN),
        (json!({ "cnf": { "x5t#S256": "x" } }), TOKEN),
        (json!({ "scope": "system/*.rs patient/*.rs" }), TOKEN),
        (json!({ "scope": "system/*.rs user/Patient.read" }), TOKEN),
        (json!({ "scope": "system/*.rs launch/patient" }), TOKEN),
        (json!({ "scope": "system/Patient.rs\u{0}" }), TOKEN),
        (json!({ "scope": "system/Patient.rs\u{2028}system/*.rs" }), TOKEN),
        (json!({ "scope": "system/Patient.rs\tsystem/*.rs" }), TOKEN),
        (json!({ "scope": "system/\u{ff0a}.rs" }), TOKEN),
        (json!({ "scope": { "a": "system/*.rs" } }), TOKEN),
        (json!({ "scope": ["system/*.rs patient/*.rs"] }), TOKEN),
        (json!({ "scope": "GONE", "scp": ALL }), scope),
        (json!({ "scope": "" }), scope),
        (json!({ "scope": "patientsystem/*.rs" }), scope),
        (json!({ "scope": "SYSTEM/*.rs" }), scope),
        (json!({ "scope": "system/*.RS" }), scope),
        (json!({ "scope": "system/Observation.rs" }), scope),
        (json!({ "scope": "system/Patient.r" }), scope),
        (json!({ "client_id": "b", "scope": "system/Observation.rs" }), scope),
    ] {
        assert_refused(rig, &change.to_string(), &kick_off(&own(&change)), refusal, &kick_off(&good)).await;
    }
    let long = format!("{} {}{}", "x".repeat(8_000), "system/Patient.rs ".repeat(10), "y".repeat(1_500));
    assert_eq!(kick_off(&own(&json!({ "scope": long }))).send(rig).await.status, 202, "long and good");
    external.rig.stop().await;
}

#[tokio::test]
async fn tokens_in_the_wrong_place() {
    let external = External::with(&[("a", ALL)]).await;
    let (rig, token) = (&external.rig, external.token("a", ALL));
    let (good, without) = (kick_off(&token), Sent::new("GET", PATH, &KICKOFF, b""));
    let form =
        Sent::new("POST", "/$export", &[KICKOFF[0], KICKOFF[1], FORM], format!("access_token={token}").as_bytes());
    for (what, attack, refusal) in [
        ("no token", without.clone(), (401, "login")),
        ("a password", without.clone().and("Authorization", "Basic YTpi"), (401, "login")),
        ("another scheme", without.clone().and("Authorization", &format!("DPoP {token}")), (401, "login")),
        ("two headers", good.clone().and("Authorization", &format!("Bearer {token}")), (400, "invalid")),
        ("in the URL", without.clone().to(&format!("{PATH}&access_token={token}")), (400, "invalid_request")),
        ("in the URL too", good.clone().to(&format!("{PATH}&access_token={token}")), (400, "invalid_request")),
        (
            "in the URL, escaped",
            without.clone().to(&format!("{PATH}&access%5ftoken={token}")),
            (400, "invalid_request"),
        ),
        ("in a form", form, (401, "login")),
        ("in a cookie", without.clone().and("Cookie", &format!("access_token={token}")), (401, "login")),
        ("an unknown job", without.to("/$bulk-status/00000000000000000000000000000000"), (401, "login")),
    ] {
        assert_refused(rig, what, &attack, refusal, &good).await;
    }
    external.rig.stop().await;
}

/// What we issue in another mode, at the same base, is nothing here; nor is what the issuer signs for itself.
#[tokio::test]
async fn tokens_that_look_like_ours() {
    let external = External::with(&[("a", ALL)]).await;
    let (rig, good) = (&external.rig, external.token("a", ALL));
    let now = rig.now();
    let ours = Key::es384("offtake.x");
    let claims = json!({
        "iss": rig.base, "aud": rig.base, "sub": "a", "client_id": "a", "scope": ALL, "iat": now, "exp": now + 300,
        "jti": fresh("jti"),
    });
    let assertion = json!({ "iss": "a", "sub": "a", "aud": rig.base, "exp": now + 60, "jti": fresh("jti") });
    for (what, token) in [
        ("one that we might have issued", signed(&ours, &claims)),
        ("the same by the issuer's key", signed(&external.key, &claims)),
        ("an assertion", signed(&external.key, &assertion)),
    ] {
        assert_refused(rig, what, &kick_off(&token), TOKEN, &kick_off(&good)).await;
    }
    external.rig.stop().await;
}
