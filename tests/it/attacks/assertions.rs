//! Assertions and token requests that must not get a token (SM-011 to SM-024, SEC-12).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::{Sent, assert_refused, cast, token_request};
use crate::smart::{Assertion, Client, Key, Parameters, Rig, form, parameters};

const ALL: &str = "system/*.rs";
const CLIENT: super::Refusal = (400, "invalid_client");
const REQUEST: super::Refusal = (400, "invalid_request");
const SCOPE: super::Refusal = (400, "invalid_scope");

/// A good assertion with one member of its header or its claims exchanged.
fn changed(rig: &Rig, client: &Client, name: &str, value: Value) -> String {
    let Assertion { mut header, mut claims } = rig.assertion(client);
    match name.strip_prefix("header ") {
        Some(name) => header[name] = value,
        None => claims[name] = value,
    }
    client.key.sign(&header.to_string(), &claims.to_string())
}

async fn each_is_refused(rig: &Rig, client: &Client, rows: Vec<(&str, String)>) {
    for (what, assertion) in rows {
        let attack = token_request(&parameters(ALL, &assertion));
        assert_refused(rig, what, &attack, CLIENT, &token_request(&rig.parameters(client, ALL))).await;
    }
}

#[tokio::test]
async fn claims_and_headers_that_say_something_else() {
    let [own, other, rsa] = cast();
    let rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    let now = rig.now();
    let rows = [
        ("alg none", "header alg", json!("none")),
        ("alg None", "header alg", json!("None")),
        ("alg of another hash", "header alg", json!("ES256")),
        ("alg of another kind", "header alg", json!("RS384")),
        ("alg HS384", "header alg", json!("HS384")),
        ("no typ", "header typ", Value::Null),
        ("typ of an access token", "header typ", json!("at+jwt")),
        ("an unknown kid", "header kid", json!("k9")),
        ("an empty kid", "header kid", json!("")),
        ("no kid", "header kid", Value::Null),
        ("a kid that is a path", "header kid", json!("../../../dev/null")),
        ("jku elsewhere", "header jku", json!("http://127.0.0.1:1/jwks")),
        ("jku that is empty", "header jku", json!("")),
        ("crit", "header crit", json!(["exp"])),
        ("b64 that has to be understood", "header crit", json!(["b64"])),
        ("expired", "exp", json!(now - 1)),
        ("expires now", "exp", json!(now)),
        ("lives too long", "exp", json!(now + 331)),
        ("lives for ever", "exp", json!(i64::MAX)),
        ("exp below zero", "exp", json!(-1)),
        ("exp as a text", "exp", json!("1900000000")),
        ("no exp", "exp", Value::Null),
        ("iat to come", "iat", json!(now + 120)),
        ("nbf to come", "nbf", json!(now + 120)),
        ("aud is the base", "aud", json!(rig.base)),
        ("aud elsewhere", "aud", json!("https://elsewhere.example/token")),
        ("aud with a slash more", "aud", json!(format!("{}/", rig.token_endpoint()))),
        ("aud in another case", "aud", json!(rig.token_endpoint().to_uppercase())),
        ("aud is empty", "aud", json!([])),
        ("no aud", "aud", Value::Null),
        ("iss of nobody", "iss", json!("nobody")),
        ("iss of another client", "iss", json!(other.id)),
        ("sub of another client", "sub", json!(other.id)),
        ("no sub", "sub", Value::Null),
        ("no jti", "jti", Value::Null),
        ("an empty jti", "jti", json!("")),
        ("a huge jti", "jti", json!("j".repeat(600))),
        ("jti as a number", "jti", json!(7)),
        ("a claim that makes it too long", "x", json!("x".repeat(20_000))),
    ];
    let rows = rows.into_iter().map(|(what, name, value)| (what, changed(&rig, &own, name, value))).collect();
    each_is_refused(&rig, &own, rows).await;
    // Deep and strange JSON that nobody looks at does no harm: it is let in, or refused, and the process lives.
    let deep = format!("{}1{}", "[".repeat(3_000), "]".repeat(3_000));
    let Assertion { header, claims } = rig.assertion(&own);
    let claims = format!("{},\"x\":{deep}}}", claims.to_string().trim_end_matches('}'));
    let answer = token_request(&parameters(ALL, &own.key.sign(&header.to_string(), &claims))).send(&rig).await;
    assert!(matches!(answer.status, 200 | 400), "{}", answer.status);
    rig.stop().await;
}

#[tokio::test]
async fn signatures_of_somebody_else() {
    let [own, other, rsa] = cast();
    let rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    let sign_as = |client: &Client, key: &Key| {
        let Assertion { header, claims } = rig.assertion(client);
        key.sign(&header.to_string(), &claims.to_string())
    };
    let stolen_name = sign_as(&own, &other.key);
    let forged = sign_as(&own, &Key::es384("k1"));
    let forged_rsa = sign_as(&rsa, &Key::rs384("r1"));
    // HMAC with the public key as its secret.
    let confused = {
        let Assertion { mut header, claims } = rig.assertion(&own);
        header["alg"] = "HS384".into();
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let secret = EncodingKey::from_secret(own.key.jwk.to_string().as_bytes());
        let signature = crypto::sign(signed.as_bytes(), &secret, Algorithm::HS384).expect("a signature");
        format!("{signed}.{signature}")
    };
    let own_key_in_header = {
        let thief = Key::es384("k1");
        let Assertion { mut header, claims } = rig.assertion(&own);
        header["jwk"] = thief.jwk.clone();
        thief.sign(&header.to_string(), &claims.to_string())
    };
    let good = rig.signed(&own);
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let (header, claims) = signed.split_once('.').expect("two parts");
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT","kid":"k1"}"#);
    let twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES384","alg":"none","typ":"JWT","kid":"k1"}"#);
    let other_claims = URL_SAFE_NO_PAD.encode(rig.assertion(&own).claims.to_string());
    let rows = vec![
        ("another client's key", stolen_name),
        ("a key of the same name", forged),
        ("an RSA key of the same name", forged_rsa),
        ("HMAC by the public key", confused),
        ("a key in the header", own_key_in_header),
        ("no signature", format!("{signed}.")),
        ("alg none and no signature", format!("{none}.{claims}.")),
        ("alg twice", format!("{twice}.{claims}.{signature}")),
        ("claims of another assertion", format!("{header}.{other_claims}.{signature}")),
        ("a signature cut short", format!("{signed}.{}", &signature[..signature.len() - 4])),
        ("a signature with more behind it", format!("{good}AAAA")),
        ("a signature in standard base64", format!("{signed}.{}=", signature.replace('-', "+").replace('_', "/"))),
        ("a signature of zeros", format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0_u8; 96]))),
        ("two parts", signed.to_owned()),
        ("four parts", format!("{good}.AAAA")),
        ("no JWT at all", "client_assertion".to_owned()),
        ("JSON in arrays", {
            let header = r#"["ES384","JWT","k1",null,null]"#;
            own.key.sign(header, &rig.assertion(&own).claims.to_string())
        }),
    ];
    each_is_refused(&rig, &own, rows).await;
    // Each byte of a signature counts.
    for index in (0..signature.len()).step_by(9) {
        let mut bytes = signature.as_bytes().to_vec();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = format!("{signed}.{}", String::from_utf8(bytes).expect("ASCII"));
        let answer = token_request(&parameters(ALL, &changed)).send(&rig).await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_client")), "byte {index}");
    }
    assert_eq!(token_request(&parameters(ALL, &good)).send(&rig).await.status, 200, "it was good all the time");
    rig.stop().await;
}

/// A good request with one parameter exchanged, or left out.
fn with_parameter(rig: &Rig, client: &Client, name: &str, value: Option<&str>) -> Parameters {
    let mut parameters = rig.parameters(client, ALL);
    parameters.retain(|(own, _)| own != name);
    parameters.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    parameters
}

#[tokio::test]
async fn requests_that_are_no_token_requests() {
    let [own, other, rsa] = cast();
    let rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    for (what, name, value, refusal) in [
        ("no grant_type", "grant_type", None, REQUEST),
        ("another grant_type", "grant_type", Some("authorization_code"), (400, "unsupported_grant_type")),
        ("a refresh token", "grant_type", Some("refresh_token"), (400, "unsupported_grant_type")),
        ("no assertion type", "client_assertion_type", None, REQUEST),
        ("SAML", "client_assertion_type", Some("urn:ietf:params:oauth:client-assertion-type:saml2-bearer"), CLIENT),
        ("no assertion", "client_assertion", None, REQUEST),
        ("an empty assertion", "client_assertion", Some(""), REQUEST),
        ("another client_id", "client_id", Some(other.id), CLIENT),
    ] {
        let attack = token_request(&with_parameter(&rig, &own, name, value));
        assert_refused(&rig, what, &attack, refusal, &token_request(&rig.parameters(&own, ALL))).await;
    }
    let good = || token_request(&rig.parameters(&own, ALL));
    let with_body = |body: String| Sent { body: body.into_bytes(), ..good() };
    let text = |client: &Client| form(&rig.parameters(client, ALL));
    let many: Vec<_> = (0..40).map(|number| format!("p{number}=1")).collect();
    let many = many.join("&");
    let mut twice = rig.parameters(&own, ALL);
    twice.push(("scope".to_owned(), ALL.to_owned()));
    for (what, attack, refusal) in [
        ("a parameter twice", token_request(&twice), REQUEST),
        ("a parameter twice, once escaped", with_body(format!("{}&%73cope=system/*.rs", text(&own))), REQUEST),
        ("an assertion twice", with_body(format!("{}&client_assertion=x", text(&own))), REQUEST),
        ("an escape that is none", with_body(format!("{}&x=%zz", text(&own))), REQUEST),
        ("what is no text", with_body(format!("{}&x=%ff%fe", text(&own))), REQUEST),
        ("JSON", good().with("Content-Type", "application/json"), REQUEST),
        ("multipart", good().with("Content-Type", "multipart/form-data; boundary=x"), REQUEST),
        ("two media types", good().and("Content-Type", "application/x-www-form-urlencoded"), REQUEST),
        ("a packed body", good().and("Content-Encoding", "gzip"), REQUEST),
        ("parameters in the URL", good().to(&format!("/$bulk-token?{}", text(&own))), REQUEST),
        ("a huge body", with_body(format!("{}&x={}", text(&own), "x".repeat(70_000))), REQUEST),
        ("many parameters", with_body(format!("{}&{many}", text(&own))), REQUEST),
        ("an empty body", with_body(String::new()), REQUEST),
        ("a password", good().and("Authorization", "Basic b3duOnNlY3JldA=="), (401, "invalid_client")),
        ("GET", Sent { method: "GET".to_owned(), body: Vec::new(), ..good() }, (405, "not-supported")),
        ("PUT", Sent { method: "PUT".to_owned(), ..good() }, (405, "not-supported")),
        ("the path in another case", good().to("/$Bulk-Token"), (403, "forbidden")),
        ("the path with a slash more", good().to("/$bulk-token/"), (403, "forbidden")),
    ] {
        assert_refused(&rig, what, &attack, refusal, &good()).await;
    }
    rig.stop().await;
}

/// A scope is refused once the client is known, so that its assertion is used up: nothing else is left of it.
#[tokio::test]
async fn scopes_that_are_not_the_clients() {
    let [own, other, rsa] = cast();
    let rig = Rig::with(&[own.clone(), other.clone(), rsa.clone()]).await;
    for (what, client, scope) in [
        ("no scope", &own, ""),
        ("spaces", &own, "   "),
        ("of a user", &own, "user/*.rs"),
        ("of a launch", &own, "launch patient/*.rs openid fhirUser"),
        ("for writing", &own, "system/*.write"),
        ("for writing by letters", &own, "system/Patient.cud"),
        ("letters out of order", &own, "system/Patient.sr"),
        ("a query that cannot be enforced", &own, "system/Patient.rs?gender:not=male"),
        ("characters that no scope has", &own, "system/Patient.rs\"\\"),
        ("a line break", &own, "system/Patient.rs\nsystem/*.rs"),
        ("one that it is not registered for", &other, "system/Observation.rs"),
        ("many", &own, &"system/Patient.rs ".repeat(500)),
    ] {
        let (asked, jobs) = (rig.upstream.requests().len(), rig.store.job_ids().await);
        let answer = token_request(&rig.parameters(client, scope)).send(&rig).await;
        crate::smart::assert_error(&answer, SCOPE.0, SCOPE.1, what);
        assert_eq!((rig.upstream.requests().len(), rig.store.job_ids().await), (asked, jobs), "{what}");
        let twin = token_request(&rig.parameters(client, "system/Patient.rs")).send(&rig).await;
        assert_eq!(twin.json()["scope"], "system/Patient.rs", "{what}");
    }
    // What is granted is never more than both.
    let answer = token_request(&rig.parameters(&other, "system/*.*")).send(&rig).await;
    assert_eq!(answer.json()["scope"], "system/Patient.read", "asked for all, registered for one");
    rig.stop().await;
}
