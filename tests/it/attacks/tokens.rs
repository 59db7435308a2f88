//! Access tokens that open nothing, and where a good one must not go (SM-035 to SM-037, SEC-05, SEC-11).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Sent, assert_refused, cast};
use crate::raw::KICKOFF;
use crate::smart::{Client, Key, Rig};

const TOKEN: super::Refusal = (401, "invalid_token");
const PATH: &str = "/$export?_type=Patient";

fn kick_off(token: &str) -> Sent {
    Sent::new("GET", PATH, &KICKOFF, b"").and("Authorization", &format!("Bearer {token}"))
}

/// The header and the claims of a token.
fn parts(token: &str) -> [Value; 2] {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64url"));
    [(); 2].map(|()| serde_json::from_slice(&parts.next().expect("three parts")).expect("JSON"))
}

#[tokio::test]
async fn tokens_that_we_did_not_issue() {
    let [own, other, rsa] = cast();
    let rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    let good = rig.token(&own, "system/*.rs").await;
    let [header, claims] = parts(&good);
    let signed_by = |key: &Key, header: &Value, claims: &Value| key.sign(&header.to_string(), &claims.to_string());
    let thief = Key::es384("thief");
    let with = |what: &Value, name: &str, value: Value| {
        let mut what = what.clone();
        what[name] = value;
        what
    };
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let widened = with(&claims, "client_id", "other".into());
    let widened = URL_SAFE_NO_PAD.encode(widened.to_string());
    let first = signed.split('.').next().expect("a header");
    let none = URL_SAFE_NO_PAD.encode(with(&header, "alg", "none".into()).to_string());
    for (what, token) in [
        ("an empty one", String::new()),
        ("nonsense", "nonsense".to_owned()),
        ("a huge one", "x".repeat(30_000)),
        ("signed by somebody else", signed_by(&thief, &header, &claims)),
        ("a key of its own", signed_by(&thief, &with(&header, "jwk", thief.jwk.clone()), &claims)),
        ("a client's own key", signed_by(&own.key, &with(&header, "kid", "k1".into()), &claims)),
        ("no signature", format!("{signed}.")),
        ("alg none", format!("{none}.{}.", &signed[first.len() + 1..])),
        ("other claims", format!("{first}.{widened}.{signature}")),
        ("a flipped bit", good.replace(&signature[..1], if signature.starts_with('A') { "B" } else { "A" })),
        ("a part more", format!("{good}.{signature}")),
        ("a client's assertion", rig.signed(&own)),
        (
            "an ID token",
            signed_by(
                &thief,
                &json!({ "alg": "ES384", "typ": "JWT", "kid": header["kid"] }),
                &json!({ "iss": rig.base, "sub": "u", "aud": rig.base, "nonce": "n", "exp": rig.now() + 60 }),
            ),
        ),
        ("a user's token", signed_by(&thief, &header, &with(&claims, "scope", "patient/*.rs launch".into()))),
    ] {
        assert_refused(&rig, what, &kick_off(&token), TOKEN, &kick_off(&good)).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn tokens_that_are_good_no_more() {
    let [own, other, rsa] = cast();
    let mut rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    let old = rig.token(&own, "system/*.rs").await;
    rig.advance(300);
    let new = rig.token(&own, "system/*.rs").await;
    assert_refused(&rig, "expired", &kick_off(&old), TOKEN, &kick_off(&new)).await;
    let gone = rig.token(&other, "system/Patient.rs").await;
    rig.restart(|config| config.smart.clients.retain(|client| client.client_id != "other")).await;
    rig.is_asked_at_start(2).await;
    let own_token = rig.token(&own, "system/*.rs").await;
    assert_refused(&rig, "its client is gone", &kick_off(&gone), TOKEN, &kick_off(&own_token)).await;
    rig.stop().await;
}

#[tokio::test]
async fn tokens_in_the_wrong_place_or_of_too_little_scope() {
    let [own, other, rsa] = cast();
    let rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    let token = rig.token(&own, "system/*.rs").await;
    let narrow = rig.token(&own, "system/Patient.rs").await;
    let only_read = rig.token(&own, "system/Patient.r").await;
    let without = Sent::new("GET", PATH, &KICKOFF, b"");
    let good = kick_off(&token);
    let scope: super::Refusal = (403, "insufficient_scope");
    for (what, attack, refusal) in [
        ("no token", without.clone(), (401, "login")),
        ("a password", without.clone().and("Authorization", "Basic YTpi"), (401, "login")),
        ("a token without its scheme", without.clone().and("Authorization", &token), (401, "login")),
        ("another scheme", without.clone().and("Authorization", &format!("DPoP {token}")), (401, "login")),
        ("two headers", good.clone().and("Authorization", &format!("Bearer {token}")), (400, "invalid")),
        ("two headers, one of which is bad", good.clone().and("Authorization", "Bearer x"), (400, "invalid")),
        ("in the URL", without.clone().to(&format!("{PATH}&access_token={token}")), (400, "invalid_request")),
        ("in the URL too", good.clone().to(&format!("{PATH}&access_token={token}")), (400, "invalid_request")),
        (
            "in the URL, escaped",
            without.clone().to(&format!("{PATH}&access%5ftoken={token}")),
            (400, "invalid_request"),
        ),
        ("in another header", without.clone().and("X-Authorization", &format!("Bearer {token}")), (401, "login")),
        ("in a cookie", without.clone().and("Cookie", &format!("access_token={token}")), (401, "login")),
        ("a type outside of its scopes", kick_off(&narrow).to("/$export?_type=Patient,Observation"), scope),
        ("only types outside of its scopes", kick_off(&narrow).to("/$export?_type=Observation"), scope),
        ("a Group without its scope", kick_off(&narrow).to("/Group/all/$export?_type=Patient"), scope),
        ("reading without searching", kick_off(&only_read), scope),
        (
            "an unknown job without a token",
            without.clone().to("/$bulk-status/00000000000000000000000000000000"),
            (401, "login"),
        ),
        ("what is no job without a token", without.to("/$bulk-status/1"), (401, "login")),
    ] {
        assert_refused(&rig, what, &attack, refusal, &good).await;
    }
    rig.stop().await;
}

/// SEC-05
#[tokio::test]
async fn a_token_of_ours_goes_to_nobody_else_and_every_other_one_does() {
    let [own, other, rsa] = cast();
    let rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    let token = rig.token(&own, "system/*.rs").await;
    let expired = rig.token(&own, "system/*.rs").await;
    let [header, claims] = parts(&token);
    let pretended = Key::es384("x").sign(&header.to_string(), &claims.to_string());
    let read = Sent::new("GET", "/Patient?_count=1", &[], b"");
    let foreign = Key::es384("theirs").sign(r#"{"alg":"ES384","kid":"theirs"}"#, r#"{"iss":"https://login.example"}"#);
    let theirs = format!("Bearer {foreign}");
    for (what, attack) in [
        ("in the header", read.clone().and("Authorization", &format!("Bearer {token}"))),
        ("under another scheme", read.clone().and("Authorization", &format!("DPoP {token}"))),
        ("without a scheme", read.clone().and("Authorization", &token)),
        ("in lower case", read.clone().and("authorization", &format!("bearer   {token}"))),
        (
            "in a second header",
            read.clone().and("Authorization", "Basic YTpi").and("Authorization", &format!("Bearer {token}")),
        ),
        ("as a parameter of a scheme", read.clone().and("Authorization", &format!("Custom token=\"{token}\""))),
        ("in the URL", read.clone().to(&format!("/Patient?_count=1&access_token={token}"))),
        ("in the URL, escaped", read.clone().to(&format!("/Patient?_count=1&x={}", token.replace('.', "%2E")))),
        ("in the URL, after a comma", read.clone().to(&format!("/Patient?_count=1,{token};"))),
        ("in a cookie", read.clone().and("Cookie", &format!("a=b; token={token}"))),
        ("in a cookie, escaped", read.clone().and("Cookie", &format!("t=Bearer%20{}", token.replace('.', "%2e")))),
        ("for another proxy", read.clone().and("Proxy-Authorization", &format!("Bearer {token}"))),
        ("in a header of somebody else's", read.clone().and("X-Forwarded-Access-Token", &token)),
        ("one that looks like ours", read.clone().and("Authorization", &format!("Bearer {pretended}"))),
        (
            "below the capability statement",
            read.clone().to("/metadata/1").and("Authorization", &format!("Bearer {token}")),
        ),
        ("posted", Sent { method: "POST".to_owned(), ..read.clone() }.and("Authorization", &format!("Bearer {token}"))),
    ] {
        let twin = read.clone().and("Authorization", &theirs);
        assert_refused(&rig, what, &attack, TOKEN, &twin).await;
        let seen = rig.upstream.requests().pop().expect("the twin came through");
        assert_eq!(seen.headers.get_all("authorization").iter().collect::<Vec<_>>(), [theirs.as_str()], "{what}");
    }
    let host = rig.host();
    let outside = crate::raw::request("GET", &format!("/elsewhere?access_token={token}"), &host, &[], b"");
    assert_eq!(crate::raw::ask(&host, &outside).await.status, 401, "outside of the base too");
    rig.advance(600);
    let attack = read.clone().and("Authorization", &format!("Bearer {expired}"));
    assert_refused(&rig, "an expired one", &attack, TOKEN, &read).await;
    for other in ["Basic YTpi", "Bearer opaque", "Negotiate YII", "Bearer a.b.c"] {
        let answer = read.clone().and("Authorization", other).send(&rig).await;
        assert_eq!(answer.status, 200, "{other}");
        let seen = rig.upstream.requests().pop().expect("it came through");
        assert_eq!(seen.headers["authorization"], other);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_hundred_clients_do_not_mix() {
    let names: Vec<&'static str> = (0..100).map(|number| &*format!("client-{number}").leak()).collect();
    let clients: Vec<_> = names.iter().map(|name| Client::new(name, "system/Patient.rs")).collect();
    let rig = Rig::with(&clients).await;
    let (first, last) = (&clients[0], &clients[99]);
    let tokens = [rig.token(first, "system/Patient.rs").await, rig.token(last, "system/Patient.rs").await];
    assert_eq!(parts(&tokens[0])[1]["client_id"], first.id);
    assert_eq!(parts(&tokens[1])[1]["client_id"], last.id);
    rig.stop().await;
}
