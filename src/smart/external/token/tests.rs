use std::collections::BTreeMap;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::*;
use crate::smart::generate::pkcs8_es384;
use crate::smart::jwk::ec_jwk;
use crate::smart::signing_key::SigningKey;

const NOW: Millis = Millis(1_800_000_000_500);
const ACCEPTED: [Alg; 2] = [Alg::Es384, Alg::Rs256];

struct Key {
    private: SigningKey,
    jwk: Value,
}

fn key(kid: &str) -> Key {
    let pkcs8 = pkcs8_es384().expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &pkcs8).expect("a key");
    let point = pair.public_key().as_ref();
    let (x, y) = (point[1..49].try_into().expect("48 bytes"), point[49..].try_into().expect("48 bytes"));
    let jwk = ec_jwk(kid, x, y);
    Key { private: SigningKey::es384(pair), jwk }
}

fn set(keys: &[&Key]) -> KeySet {
    let keys: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
    KeySet::parse_fetched(json!({ "keys": keys }).to_string().as_bytes(), &ACCEPTED).expect("a good set")
}

fn rules() -> Rules {
    Rules {
        issuer: "https://login.example".to_owned(),
        audience: "https://fhir.example".to_owned(),
        client: vec!["client_id".to_owned()],
        scope: vec!["scope".to_owned()],
        scope_map: BTreeMap::new(),
        required: BTreeMap::new(),
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://login.example", "aud": "https://fhir.example", "exp": 1_800_000_300, "client_id": "a",
        "scope": "system/*.rs",
    })
}

fn verify(token: &str, keys: &KeySet) -> Result<(), JwtError> {
    let token = Unverified::parse(token, &ACCEPTED)?;
    token.check(&rules(), NOW)?;
    token.verify(keys)
}

/// SEC-11
#[test]
fn a_header_says_no_more_than_which_key_and_which_algorithm() {
    let (own, other) = (key("k"), key("l"));
    let keys = set(&[&own, &other]);
    let with = |header: Value| own.private.sign(&header.to_string(), &claims().to_string()).expect("a signature");
    for (header, expected) in [
        (json!({ "alg": "ES384", "typ": "JWT", "kid": "k" }), None),
        (json!({ "alg": "ES384", "typ": "at+jwt", "kid": "k" }), None),
        (json!({ "alg": "ES384", "typ": "application/at+jwt", "kid": "k" }), None),
        (json!({ "alg": "ES384", "typ": "AT+JWT", "kid": "k" }), None),
        (json!({ "alg": "ES384", "kid": "k" }), None),
        (json!({ "alg": "ES384", "kid": "k", "jku": "https://evil.example", "jwk": other.jwk, "x5c": ["AA"] }), None),
        (json!({ "alg": "ES384", "typ": "id_token+jwt", "kid": "k" }), Some(Malformed::Type.into())),
        (json!({ "alg": "ES384", "typ": "logout+jwt", "kid": "k" }), Some(Malformed::Type.into())),
        (json!({ "alg": "ES384", "typ": "dpop+jwt", "kid": "k" }), Some(Malformed::Type.into())),
        (json!({ "alg": "ES384", "typ": "", "kid": "k" }), Some(Malformed::Type.into())),
        (json!({ "alg": "ES384", "typ": 1, "kid": "k" }), Some(Malformed::Header.into())),
        (json!({ "alg": "ES384", "kid": "" }), Some(Malformed::Header.into())),
        (json!({ "alg": "ES384", "kid": "m" }), Some(JwtError::Key(NotFound::None))),
        (json!({ "alg": "ES384", "kid": "l" }), Some(JwtError::Signature)),
        (json!({ "alg": "ES384" }), Some(JwtError::Key(NotFound::Several))),
        (json!({ "alg": "RS256", "kid": "k" }), Some(JwtError::Key(NotFound::None))),
        (json!({ "alg": "RS384", "kid": "k" }), Some(Malformed::Algorithm.into())),
        (json!({ "alg": "ES256", "kid": "k" }), Some(Malformed::Algorithm.into())),
        (json!({ "alg": "HS384", "kid": "k" }), Some(Malformed::Algorithm.into())),
        (json!({ "alg": "none", "kid": "k" }), Some(Malformed::Algorithm.into())),
        (json!({ "alg": "None" }), Some(Malformed::Algorithm.into())),
        (json!({ "alg": "ES384", "kid": "k", "crit": ["b64"], "b64": false }), Some(Malformed::Critical.into())),
        (json!({ "alg": "ES384", "kid": "k", "crit": [] }), Some(Malformed::Critical.into())),
    ] {
        assert_eq!(verify(&with(header.clone()), &keys).err(), expected, "{header}");
    }
    let unnamed = with(json!({ "alg": "ES384" }));
    assert_eq!(verify(&unnamed, &set(&[&own])), Ok(()), "the only one that it can be by");
    assert_eq!(verify(&unnamed, &set(&[&other])), Err(JwtError::Signature));
    let twin = Key {
        private: other.private.clone(),
        jwk: {
            let mut jwk = other.jwk.clone();
            jwk["kid"] = "k".into();
            jwk
        },
    };
    let named = with(json!({ "alg": "ES384", "kid": "k" }));
    assert_eq!(verify(&named, &set(&[&own, &twin])), Err(JwtError::Key(NotFound::Several)), "two of a name");
}

#[test]
fn every_character_counts_and_so_does_their_number() {
    let own = key("k");
    let keys = set(&[&own]);
    let header = json!({ "alg": "ES384", "kid": "k" }).to_string();
    let token = own.private.sign(&header, &claims().to_string()).expect("a signature");
    assert_eq!(verify(&token, &keys), Ok(()));
    for index in (0..token.len()).step_by(5) {
        let mut changed = token.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        assert!(verify(&String::from_utf8(changed).expect("ASCII"), &keys).is_err(), "character {index}");
    }
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    for bad in [format!("{signed}."), format!("{token}.{signature}"), format!("{token}="), signature.to_owned()] {
        assert!(verify(&bad, &keys).is_err(), "{bad}");
    }
    let mut large = claims();
    large["groups"] = vec!["x"; 6_000].into();
    let large = own.private.sign(&header, &large.to_string()).expect("a signature");
    assert_eq!(verify(&large, &keys), Err(Malformed::TooLong.into()));
    let deep = format!("{{\"iss\":\"https://login.example\",\"x\":{}1{}}}", "[".repeat(2_000), "]".repeat(2_000));
    let deep = own.private.sign(&header, &deep).expect("a signature");
    assert_eq!(verify(&deep, &keys), Err(Malformed::Claims.into()));
}
