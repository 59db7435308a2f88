//! Public keys as JWK Sets (RFC 7517) write them. Pure.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::jws::{Alg, Kind, VerifyingKey};

/// Most keys in one set.
const MOST_KEYS: usize = 64;
/// SEC-06: larger ones make every forged signature dear for us.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;
/// Members of a JWK that only its owner may have.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// One key of a client, or of an issuer.
#[derive(Debug, Clone)]
pub(crate) struct PublicKey {
    kid: Option<Box<str>>,
    /// RFC 7638
    thumbprint: Box<str>,
    /// The one algorithm that it is for, if it says so.
    alg: Option<Alg>,
    pub(crate) key: VerifyingKey,
}

impl PublicKey {
    /// Whether it may verify by this algorithm.
    fn is_for(&self, alg: Alg) -> bool {
        self.key.kind() == alg.kind() && self.alg.is_none_or(|own| own == alg)
    }
}

/// The keys of a client, or of an issuer, that can verify.
#[derive(Debug, Clone)]
pub(crate) struct KeySet(Vec<PublicKey>);

/// What is wrong with a JWK Set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwksError {
    #[error("is not JSON")]
    Json,
    #[error("is no JWK Set: an object whose `keys` are a list of objects")]
    Shape,
    #[error("has more than {MOST_KEYS} keys")]
    TooMany,
    #[error("holds a private or symmetric key (at index {0}): take it out of use, and register public keys only")]
    Private(usize),
    #[error("has an RSA key of {bits} bits (at index {index}); 2048 to 4096 are accepted")]
    RsaSize { index: usize, bits: usize },
    #[error("has a key that is malformed (at index {0})")]
    Malformed(usize),
    #[error("has two keys of the same kind with the same `kid` (at index {0})")]
    Twice(usize),
    #[error("has no key that can be used: RSA, or EC on P-384, for signatures, and not as a certificate only")]
    NoKey,
}

/// Why no one key is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotFound {
    None,
    Several,
}

impl KeySet {
    /// A client's keys, for the algorithms of SMART. Keys of other kinds, and such as are not for signatures, are passed over:
    /// sets serve several purposes.
    ///
    /// # Errors
    /// [`JwksError`] for the first thing that is wrong.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, JwksError> {
        Self::of(&serde_json::from_slice(json).map_err(|_| JwksError::Json)?)
    }

    /// A set that was fetched, and that others use too: keys that cannot be used by one of the algorithms are passed over, and
    /// of two with the same `kid` neither is found by it. Private ones are out in the open: nothing of such a set is used.
    ///
    /// # Errors
    /// [`JwksError`] if nothing is left of it.
    pub(crate) fn parse_fetched(json: &[u8], accepted: &[Alg]) -> Result<Self, JwksError> {
        let set: Value = serde_json::from_slice(json).map_err(|_| JwksError::Json)?;
        let mut known = Vec::new();
        for (index, jwk) in listed(&set)?.iter().enumerate() {
            let Some(jwk) = jwk.as_object() else { continue };
            without_secrets(index, jwk)?;
            known.extend(public_key(index, jwk, accepted).ok().flatten());
        }
        Self::some(known)
    }

    /// The same of JSON that is read already.
    ///
    /// # Errors
    /// [`JwksError`] for the first thing that is wrong.
    pub(crate) fn of(set: &Value) -> Result<Self, JwksError> {
        let mut known: Vec<PublicKey> = Vec::new();
        for (index, jwk) in listed(set)?.iter().enumerate() {
            let jwk = jwk.as_object().ok_or(JwksError::Shape)?;
            without_secrets(index, jwk)?;
            let Some(key) = public_key(index, jwk, &Alg::SMART)? else { continue };
            let is_twin = |other: &PublicKey| other.kid == key.kid && other.key.kind() == key.key.kind();
            if key.kid.is_some() && known.iter().any(is_twin) {
                return Err(JwksError::Twice(index));
            }
            known.push(key);
        }
        Self::some(known)
    }

    fn some(known: Vec<PublicKey>) -> Result<Self, JwksError> {
        if known.is_empty() { Err(JwksError::NoKey) } else { Ok(Self(known)) }
    }

    /// The one key of this name and for this algorithm (SM-019). A key's thumbprint is a name of it too (interop 4).
    ///
    /// # Errors
    /// [`NotFound`] if there is none or more than one.
    pub(crate) fn find(&self, kid: &str, alg: Alg) -> Result<&PublicKey, NotFound> {
        let is_named = |key: &&PublicKey| key.kid.as_deref() == Some(kid) || *key.thumbprint == *kid;
        only(self.0.iter().filter(|key| key.is_for(alg)).filter(is_named))
    }

    /// The one key that there is for this algorithm, where a token does not name it.
    ///
    /// # Errors
    /// [`NotFound`] if there is none or more than one.
    pub(crate) fn find_unnamed(&self, alg: Alg) -> Result<&PublicKey, NotFound> {
        only(self.0.iter().filter(|key| key.is_for(alg)))
    }
}

fn only<'a>(mut found: impl Iterator<Item = &'a PublicKey>) -> Result<&'a PublicKey, NotFound> {
    match (found.next(), found.next()) {
        (Some(key), None) => Ok(key),
        (None, _) => Err(NotFound::None),
        (Some(_), Some(_)) => Err(NotFound::Several),
    }
}

/// The keys of a set, as they are written.
fn listed(set: &Value) -> Result<&[Value], JwksError> {
    let keys = set.get("keys").and_then(Value::as_array).ok_or(JwksError::Shape)?;
    if keys.len() > MOST_KEYS { Err(JwksError::TooMany) } else { Ok(keys) }
}

fn without_secrets(index: usize, jwk: &Map<String, Value>) -> Result<(), JwksError> {
    let is_private = PRIVATE.iter().any(|member| jwk.contains_key(*member));
    if is_private { Err(JwksError::Private(index)) } else { Ok(()) }
}

/// A key that can verify by one of the algorithms; `None` for one that is for something else.
fn public_key(index: usize, jwk: &Map<String, Value>, accepted: &[Alg]) -> Result<Option<PublicKey>, JwksError> {
    let text = |member: &str| jwk.get(member).and_then(Value::as_str);
    let is_for_other = |member: &str, own: &str| jwk.get(member).is_some_and(|value| value.as_str() != Some(own));
    let verifies = |operations: &Value| {
        operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"))
    };
    if is_for_other("use", "sig") || jwk.get("key_ops").is_some_and(|operations| !verifies(operations)) {
        return Ok(None);
    }
    let malformed = JwksError::Malformed(index);
    let bytes = |member: &str| {
        let value = text(member).and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
        value.ok_or(malformed)
    };
    let kid = match jwk.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().filter(|kid| !kid.is_empty() && kid.len() <= 512).ok_or(malformed)?.into()),
    };
    let is_wanted = |kind: Kind| accepted.iter().any(|alg| alg.kind() == kind);
    let (key, thumbprint) = match (text("kty"), text("crv")) {
        // A key that is there as a certificate only is not enough (spec 7.2).
        (Some("EC"), Some("P-256")) if jwk.contains_key("x") && is_wanted(Kind::P256) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            let (Ok(x), Ok(y)) = (x.as_slice().try_into(), y.as_slice().try_into()) else { return Err(malformed) };
            (VerifyingKey::p256(x, y), thumbprint_point("P-256", x, y))
        }
        (Some("EC"), Some("P-384")) if jwk.contains_key("x") && is_wanted(Kind::P384) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            let (Ok(x), Ok(y)) = (x.as_slice().try_into(), y.as_slice().try_into()) else { return Err(malformed) };
            (VerifyingKey::p384(x, y), thumbprint_ec(x, y))
        }
        (Some("RSA"), _) if jwk.contains_key("n") && is_wanted(Kind::Rsa) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            let (n, e) = (without_zeros(&n), without_zeros(&e));
            let bits = (n.len() * 8).saturating_sub(n.first().map_or(0, |first| first.leading_zeros() as usize));
            if !RSA_BITS.contains(&bits) {
                return Err(JwksError::RsaSize { index, bits });
            }
            // Larger ones cost more to verify by, and even ones are none.
            if e.len() > 4 || e == [1] || e.last().is_none_or(|last| last % 2 == 0) {
                return Err(malformed);
            }
            (VerifyingKey::rsa(n, e), thumbprint_rsa(n, e))
        }
        _ => return Ok(None),
    };
    let alg = match jwk.get("alg") {
        None => None,
        Some(alg) => match alg.as_str().and_then(|alg| Alg::parse(alg, accepted)) {
            Some(alg) if alg.kind() == key.kind() => Some(alg),
            Some(_) | None => return Ok(None),
        },
    };
    Ok(Some(PublicKey { kid, thumbprint: thumbprint.into(), alg, key }))
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    &bytes[start..]
}

/// RFC 7638 of a key on P-384.
pub(crate) fn thumbprint_ec(x: &[u8; 48], y: &[u8; 48]) -> String {
    thumbprint_point("P-384", x, y)
}

fn thumbprint_point(curve: &str, x: &[u8], y: &[u8]) -> String {
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    thumbprint(&format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#))
}

/// RFC 7638 of an RSA key.
pub(crate) fn thumbprint_rsa(n: &[u8], e: &[u8]) -> String {
    let (n, e) = (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e));
    thumbprint(&format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#))
}

fn thumbprint(canonical: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
}

/// A public key on P-384 as a JWK.
pub(crate) fn ec_jwk(kid: &str, x: &[u8; 48], y: &[u8; 48]) -> Value {
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    json!({ "kty": "EC", "crv": "P-384", "x": x, "y": y, "kid": kid, "alg": "ES384", "use": "sig", "key_ops": ["verify"] })
}

/// A public RSA key as a JWK.
pub(crate) fn rsa_jwk(kid: &str, n: &[u8], e: &[u8]) -> Value {
    let (n, e) = (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e));
    json!({ "kty": "RSA", "n": n, "e": e, "kid": kid, "alg": "RS384", "use": "sig", "key_ops": ["verify"] })
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no key has this `kid` and fits the algorithm",
            Self::Several => "several keys have this `kid`",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7517, appendix A.1, and RFC 7638, section 3.1.
    const RSA_N: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
    const EC_X: &str = "T3VHttu529bCNhXMGm7e6Y6AtongILRjp3WxZJqUpnPNBPi-8Ow8OAXaSty8prfM";
    const EC_Y: &str = "pq1XWvFKHn6Hy3XKmT62rT3j9BuD9zhJ1X2UpsZkMbRrDfVJlmKuyMwy7cKB_UfW";

    fn set(keys: Value) -> Result<KeySet, JwksError> {
        KeySet::of(&json!({ "keys": keys }))
    }

    #[test]
    fn a_key_is_found_by_its_name_or_its_thumbprint_and_its_kind() {
        let rsa = json!({ "kty": "RSA", "n": RSA_N, "e": "AQAB", "kid": "a" });
        let ec = json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": "a" });
        let keys = set(json!([rsa, ec])).expect("a good set");
        for (kid, alg, expected) in [
            ("a", Alg::Rs384, None),
            ("a", Alg::Es384, None),
            ("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", Alg::Rs384, None),
            ("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", Alg::Es384, Some(NotFound::None)),
            ("A", Alg::Rs384, Some(NotFound::None)),
        ] {
            assert_eq!(keys.find(kid, alg).err(), expected, "{kid} {alg:?}");
        }
        let twins = set(json!([{ "kty": "RSA", "n": RSA_N, "e": "AQAB" }, { "kty": "RSA", "n": RSA_N, "e": "AQAB" }]));
        let found = twins.expect("without names").find("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", Alg::Rs384).err();
        assert_eq!(found, Some(NotFound::Several));
    }

    #[test]
    fn keys_for_other_purposes_are_passed_over() {
        let good = json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": "good" });
        let others = [
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA" }),
            json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }),
            json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc" }),
            json!({ "kty": "RSA", "n": RSA_N, "e": "AQAB", "alg": "RS256" }),
            json!({ "kty": "RSA", "n": RSA_N, "e": "AQAB", "key_ops": ["wrapKey"] }),
            json!({ "kty": "RSA", "x5c": ["AA"] }),
            json!({ "kid": "what?" }),
        ];
        for other in others {
            assert_eq!(set(json!([other])).err(), Some(JwksError::NoKey), "{other}");
            assert!(set(json!([other, good])).expect("one is good").find("good", Alg::Es384).is_ok(), "{other}");
        }
    }

    #[test]
    fn one_bad_key_does_not_spoil_a_set_that_is_fetched() {
        let good = json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": "good" });
        let twin = json!({ "kty": "RSA", "n": RSA_N, "e": "AQAB", "kid": "twin" });
        let fetched = |keys: Value| KeySet::parse_fetched(json!({ "keys": keys }).to_string().as_bytes(), &Alg::SMART);
        for bad in [
            json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }),
            json!({ "kty": "EC", "crv": "P-384", "x": "!", "y": EC_Y }),
            json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": 1 }),
            json!("a"),
        ] {
            assert_eq!(fetched(json!([bad])).err(), Some(JwksError::NoKey), "{bad}");
            assert!(fetched(json!([bad, good])).expect("one is good").find("good", Alg::Es384).is_ok(), "{bad}");
        }
        let twins = fetched(json!([twin, twin, good])).expect("one is good");
        assert_eq!(twins.find("twin", Alg::Rs384).err(), Some(NotFound::Several));
        assert!(twins.find("good", Alg::Es384).is_ok());
        let private = json!({ "kty": "RSA", "n": "AQAB", "d": "AA" });
        assert_eq!(fetched(json!([good, private])).err(), Some(JwksError::Private(1)));
        assert_eq!(fetched(json!(vec![good; MOST_KEYS + 1])).err(), Some(JwksError::TooMany));
    }

    /// A key is for one algorithm if it says so, and for all of its kind that are accepted if not.
    #[test]
    fn a_key_verifies_by_nothing_that_it_is_not_for() {
        let rsa = |more: Value| {
            let mut key = json!({ "kty": "RSA", "n": RSA_N, "e": "AQAB", "kid": "a" });
            key.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            key
        };
        let issuer = [Alg::Rs256, Alg::Ps256, Alg::Es256];
        for (key, accepted, expected) in [
            (
                rsa(json!({})),
                &issuer[..],
                &[Alg::Rs256, Alg::Rs384, Alg::Ps256, Alg::Ps384, Alg::Rs512, Alg::Ps512][..],
            ),
            (rsa(json!({ "alg": "RS256" })), &issuer, &[Alg::Rs256]),
            (rsa(json!({ "alg": "PS256" })), &issuer, &[Alg::Ps256]),
            (rsa(json!({ "alg": "RS512" })), &issuer, &[]),
            (rsa(json!({ "alg": "ES256" })), &issuer, &[]),
            (rsa(json!({ "alg": "HS256" })), &issuer, &[]),
            (rsa(json!({})), &[Alg::Es384], &[]),
            (json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": "a" }), &issuer, &[]),
            (json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": "a" }), &[Alg::Es384], &[Alg::Es384]),
            (
                json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": "a", "alg": "ES256" }),
                &[Alg::Es384, Alg::Es256],
                &[],
            ),
            // RFC 7517, appendix A.1
            (
                json!({ "kty": "EC", "crv": "P-256", "kid": "a", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM" }),
                &[Alg::Es384, Alg::Es256],
                &[Alg::Es256],
            ),
        ] {
            let set = KeySet::parse_fetched(json!({ "keys": [key] }).to_string().as_bytes(), accepted);
            let found: Vec<_> =
                Alg::ALL.into_iter().filter(|alg| set.as_ref().is_ok_and(|set| set.find("a", *alg).is_ok())).collect();
            let mut expected = expected.to_vec();
            expected.sort_by_key(|alg| Alg::ALL.iter().position(|other| other == alg));
            assert_eq!(found, expected, "{key} {accepted:?}");
        }
    }

    #[test]
    fn a_key_that_is_not_named_is_found_where_it_is_the_only_one() {
        let ec = json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": "a" });
        let rsa = json!({ "kty": "RSA", "n": RSA_N, "e": "AQAB" });
        let keys = |keys: Value| set(keys).expect("a good set");
        assert_eq!(keys(json!([ec, rsa])).find_unnamed(Alg::Es384).err(), None);
        assert_eq!(keys(json!([rsa])).find_unnamed(Alg::Es384).err(), Some(NotFound::None));
        assert_eq!(keys(json!([rsa, rsa])).find_unnamed(Alg::Rs384).err(), Some(NotFound::Several));
    }

    #[test]
    fn what_is_wrong_with_a_set_is_named() {
        let ec = json!({ "kty": "EC", "crv": "P-384", "x": EC_X, "y": EC_Y, "kid": "a" });
        let with = |member: &str, value: Value| {
            let mut key = ec.clone();
            key[member] = value;
            key
        };
        for (keys, expected) in [
            (json!([]), JwksError::NoKey),
            (json!({}), JwksError::Shape),
            (json!(["a"]), JwksError::Shape),
            (json!([ec, with("d", "AA".into())]), JwksError::Private(1)),
            (json!([{ "kty": "oct", "k": "AA" }]), JwksError::Private(0)),
            (json!([ec, ec]), JwksError::Twice(1)),
            (json!([with("x", "AAAA".into())]), JwksError::Malformed(0)),
            (json!([with("y", "!".into())]), JwksError::Malformed(0)),
            (json!([with("kid", 1.into())]), JwksError::Malformed(0)),
            (json!([{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }]), JwksError::RsaSize { index: 0, bits: 17 }),
            (json!([{ "kty": "RSA", "n": "A".repeat(20), "e": "AQAB" }]), JwksError::RsaSize { index: 0, bits: 0 }),
            (
                json!([{ "kty": "RSA", "n": "_".repeat(700), "e": "AQAB" }]),
                JwksError::RsaSize { index: 0, bits: 4_200 },
            ),
            (json!([{ "kty": "RSA", "n": RSA_N, "e": "AQAA" }]), JwksError::Malformed(0)),
            (json!([{ "kty": "RSA", "n": RSA_N, "e": "AQ" }]), JwksError::Malformed(0)),
            (json!([{ "kty": "RSA", "n": RSA_N, "e": "AQAAAAAB" }]), JwksError::Malformed(0)),
            (Value::Array(vec![ec.clone(); MOST_KEYS + 1]), JwksError::TooMany),
        ] {
            assert_eq!(set(keys.clone()).err(), Some(expected), "{keys}");
        }
        assert_eq!(KeySet::parse(b"{").err(), Some(JwksError::Json));
        assert_eq!(KeySet::parse(b"[]").err(), Some(JwksError::Shape));
    }
}
