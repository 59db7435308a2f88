use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::*;
use crate::smart::generate::pkcs8_es384;
use crate::smart::jwk::ec_jwk;
use crate::smart::signing_key::SigningKey;

const NOW: Millis = Millis(1_800_000_000_500);
const SECONDS: i64 = 1_800_000_000;
const TOKEN: &str = "https://fhir.example/$bulk-token";

struct Rig {
    key: SigningKey,
    keys: KeySet,
}

impl Rig {
    fn new() -> Self {
        let pkcs8 = pkcs8_es384().expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &pkcs8).expect("a key");
        let point = pair.public_key().as_ref();
        let (x, y) = (point[1..49].try_into().expect("48 bytes"), point[49..].try_into().expect("48 bytes"));
        let keys = KeySet::of(&json!({ "keys": [ec_jwk("k", x, y)] })).expect("a good set");
        Self { key: SigningKey::es384(pair), keys }
    }

    /// What comes of an assertion that differs from a good one in one claim or one member of its header.
    fn verify(&self, name: &str, value: Value, since: Millis) -> Result<Use, AssertionError> {
        let mut header = json!({ "alg": "ES384", "typ": "JWT", "kid": "k" });
        let mut claims = json!({ "iss": "a", "sub": "a", "aud": TOKEN, "exp": SECONDS + 200, "jti": "j" });
        let part = if matches!(name, "alg" | "typ" | "kid" | "jku") { &mut header } else { &mut claims };
        part[name] = value;
        let jwt = self.key.sign(&header.to_string(), &claims.to_string()).expect("a signature");
        let audiences = [TOKEN.to_owned()];
        let expected = Expected { audiences: &audiences, now: NOW, remembered_since: since };
        Unverified::parse(&jwt)?.verify(Ok(Registered { keys: &self.keys, jwks_uri: Some("https://c/k") }), expected)
    }
}

/// SM-012 to SM-019
#[test]
fn each_claim_is_held_against_what_it_has_to_be() {
    let rig = Rig::new();
    for (name, value, expected) in [
        ("x", json!(1), None),
        ("jku", json!("https://c/k"), None),
        ("jku", json!("https://c/k2"), Some(AssertionError::Jku)),
        ("kid", json!("l"), Some(AssertionError::Key(NotFound::None))),
        ("alg", json!("RS384"), Some(AssertionError::Key(NotFound::None))),
        ("sub", json!("b"), Some(AssertionError::Names)),
        ("aud", json!([TOKEN, "https://elsewhere"]), None),
        ("aud", json!("https://fhir.example/"), Some(AssertionError::Audience)),
        ("aud", json!([]), Some(AssertionError::Audience)),
        ("exp", json!(SECONDS), Some(AssertionError::Expired)),
        ("exp", json!(SECONDS + 1), None),
        ("exp", json!(SECONDS + 330), None),
        ("exp", json!(SECONDS + 331), Some(AssertionError::Lifetime)),
        ("exp", json!(i64::MAX), Some(AssertionError::Lifetime)),
        ("exp", json!("soon"), Some(AssertionError::Malformed(Malformed::Claims))),
        ("exp", json!(1.5), Some(AssertionError::Expired)),
        ("exp", json!(1_800_000_000.5), Some(AssertionError::Expired)),
        ("exp", json!(1_800_000_001.5), None),
        ("exp", json!(1_800_000_330.9), None),
        ("exp", json!(1e300), Some(AssertionError::Lifetime)),
        ("exp", json!(-1e300), Some(AssertionError::Expired)),
        ("iat", json!(SECONDS + 31), Some(AssertionError::NotYet)),
        ("iat", json!(1_800_000_000.5), None),
        ("nbf", json!(SECONDS + 31), Some(AssertionError::NotYet)),
        ("nbf", json!(SECONDS + 30), None),
        ("jti", json!(""), Some(AssertionError::Jti)),
        ("jti", json!("j".repeat(513)), Some(AssertionError::Jti)),
        ("jti", Value::Null, Some(AssertionError::Malformed(Malformed::Claims))),
    ] {
        assert_eq!(rig.verify(name, value.clone(), Millis(0)).err(), expected, "{name}: {value}");
    }
}

/// SEC-13
#[test]
fn what_may_have_been_used_before_the_memory_began_is_not_taken() {
    let rig = Rig::new();
    let since = Millis((SECONDS - 100) * 1_000 + 700);
    for (name, value, expected) in [
        ("iat", json!(SECONDS - 101), Some(AssertionError::Forgotten)),
        // By a clock that is ahead it may have been used.
        ("iat", json!(SECONDS - 70), Some(AssertionError::Forgotten)),
        ("iat", json!(SECONDS - 69), None),
        ("exp", json!(SECONDS + 230), Some(AssertionError::Forgotten)),
        ("exp", json!(SECONDS + 231), None),
    ] {
        assert_eq!(rig.verify(name, value.clone(), since).err(), expected, "{name}: {value}");
    }
    let long_ago = Millis((SECONDS - 330) * 1_000);
    assert_eq!(rig.verify("exp", json!(SECONDS + 1), long_ago).err(), None, "330 seconds later");
}

/// SEC-13: as long as it could be good, by whatever clock is believed.
#[test]
fn what_was_used_is_remembered_until_no_clock_finds_it_good() {
    for exp in [SECONDS + 1, SECONDS + 330] {
        let used = Rig::new().verify("exp", json!(exp), Millis(0)).expect("it is good");
        assert_eq!(used.until, Millis((exp + 30 + 60) * 1_000));
    }
}

#[test]
fn a_signature_of_somebody_else_is_none() {
    let (rig, other) = (Rig::new(), Rig::new());
    let strange = Rig { key: other.key, keys: rig.keys.clone() };
    assert_eq!(strange.verify("x", json!(1), Millis(0)).err(), Some(AssertionError::Signature));
    let jwt =
        rig.key.sign(r#"{"alg":"ES384","typ":"JWT","kid":"k"}"#, r#"{"iss":"a","sub":"a","aud":"","exp":1,"jti":"j"}"#);
    let jwt = jwt.expect("a signature");
    let (signed, signature) = jwt.rsplit_once('.').expect("three parts");
    let audiences = [TOKEN.to_owned()];
    let expected = Expected { audiences: &audiences, now: NOW, remembered_since: Millis(0) };
    for signature in
        ["", "AAAA", &signature[4..], &signature.replace(&signature[..1], "!"), &format!("{signature}AAAA")]
    {
        let jwt = format!("{signed}.{signature}");
        let verified = Unverified::parse(&jwt)
            .and_then(|jwt| jwt.verify(Ok(Registered { keys: &rig.keys, jwks_uri: None }), expected));
        assert_eq!(verified.err(), Some(AssertionError::Signature), "{signature}");
    }
}

#[test]
fn uses_of_different_clients_and_ids_do_not_mix() {
    let hash = |iss: &str, jti: &str| {
        let claims = json!({ "iss": iss, "sub": iss, "aud": TOKEN, "exp": 1, "jti": jti }).to_string();
        let jwt = Rig::new().key.sign(r#"{"alg":"ES384","typ":"JWT","kid":"k"}"#, &claims).expect("a signature");
        Unverified::parse(&jwt).expect("it can be read").hash()
    };
    assert_eq!(hash("a", "bc"), hash("a", "bc"));
    assert_ne!(hash("a", "bc"), hash("ab", "c"));
    assert_ne!(hash("a", "b"), hash("a", "c"));
}
