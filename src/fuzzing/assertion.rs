//! Assertions: nobody without the client's key is the client, and of what is signed only what the guide allows counts.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::fhir::datatypes::Millis;
use crate::smart::assertion::{AssertionError, Expected, Registered, Unverified, Use};
use crate::smart::generate::Pair;
use crate::smart::jwk::KeySet;
use crate::smart::jws::Alg;
use crate::smart::private_jwk::PrivateKey;
use crate::smart::signing_key::SigningKey;

const SECONDS: i64 = 1_800_000_000;
const TOKEN: &str = "https://fhir.example/$bulk-token";
const HEADER: &str = r#"{"alg":"ES384","typ":"JWT","kid":"k"}"#;
const CLAIMS: &str = r#"{"iss":"a","sub":"a","aud":"https://fhir.example/$bulk-token","exp":1800000200,"jti":"j"}"#;

/// The client's key, and one assertion that it has signed.
struct Rig {
    key: SigningKey,
    keys: KeySet,
    minted: String,
}

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let mut pair = Pair::generate(Alg::Es384).expect("a pair");
        let key = PrivateKey::parse(pair.private.to_string().as_bytes()).expect("a private key").key;
        pair.public["kid"] = "k".into();
        let keys = KeySet::of(&json!({ "keys": [pair.public] })).expect("a set");
        let minted = key.sign(HEADER, CLAIMS).expect("a signature");
        Rig { key, keys, minted }
    })
}

/// The first byte says what the others are: a whole token, changes of a good one, claims that are signed, or a header.
pub(super) fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let rig = rig();
    let text = String::from_utf8_lossy(rest);
    match kind % 4 {
        0 => judge_foreign(&text),
        1 => judge_foreign(&super::exchanged(&rig.minted, rest)),
        2 => judge_claims(&text),
        _ => {
            let jwt = rig.key.sign(&text, CLAIMS).expect("a signature");
            if verify(&jwt).is_ok() {
                let header: Value = serde_json::from_str(&text).expect("what is taken for JSON is JSON");
                assert_eq!(
                    (&header["alg"], &header["typ"], &header["kid"]),
                    (&json!("ES384"), &json!("JWT"), &json!("k"))
                );
                assert!(header["jku"].is_null() && header["crit"].is_null(), "{header}");
            }
        }
    }
}

fn verify(jwt: &str) -> Result<Use, AssertionError> {
    let audiences = [TOKEN.to_owned()];
    let expected = Expected { audiences: &audiences, now: Millis(SECONDS * 1_000 + 500), remembered_since: Millis(0) };
    let unverified = Unverified::parse(jwt)?;
    unverified.verify(Ok(Registered { keys: &rig().keys, jwks_uri: None }), expected)
}

/// What the client has not signed opens nothing.
fn judge_foreign(jwt: &str) {
    assert_eq!(verify(jwt).is_ok(), jwt == rig().minted, "{jwt}");
}

/// Whatever is accepted is what the guide allows.
fn judge_claims(claims: &str) {
    let jwt = rig().key.sign(HEADER, claims).expect("a signature");
    let Ok(accepted) = verify(&jwt) else { return };
    let claims: Value = serde_json::from_str(claims).expect("what is taken for JSON is JSON");
    assert_eq!(claims["iss"].as_str().expect("a text"), claims["sub"].as_str().expect("a text"));
    let names_us = |value: &Value| value.as_str() == Some(TOKEN);
    assert!(
        names_us(&claims["aud"]) || claims["aud"].as_array().is_some_and(|list| list.iter().any(names_us)),
        "{claims}"
    );
    let seconds = |name: &str| claims[name].as_f64();
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let now = SECONDS as f64;
    let exp = seconds("exp").expect("a number");
    assert!(exp > now && exp < now + 331.0, "{claims}");
    assert!(["iat", "nbf"].iter().filter_map(|name| seconds(name)).all(|time| time <= now + 30.0), "{claims}");
    assert!(claims["jti"].as_str().is_some_and(|jti| !jti.is_empty() && jti.len() <= 512), "{claims}");
    assert!(accepted.until.0 >= SECONDS * 1_000, "it is remembered as long as it is good");
}
