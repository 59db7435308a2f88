//! A private key as a JWK, as `keys generate` writes one: what we sign by as a client of somebody else's authorization
//! server. Pure.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::generate::pkcs1;
use super::jwk::{thumbprint_ec, thumbprint_rsa};
use super::signing_key::{CannotSign, SigningKey};

/// RFC 7523: what a form says that carries an assertion.
pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How far ahead our assertions expire: servers take five minutes at most, and clocks differ.
const ASSERTION_SECONDS: i64 = 240;

/// A key, and the name by which whoever verifies finds its public half.
#[derive(Debug, Clone)]
pub(crate) struct PrivateKey {
    pub(crate) kid: String,
    pub(crate) key: SigningKey,
}

/// Why a text is no private key that can be used. It never says what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PrivateJwkError {
    #[error("is no JSON object")]
    Json,
    #[error("is a JWK Set; one private JWK is needed, as `offtake keys generate` writes it")]
    Set,
    #[error("is a key of another kind than RSA or EC on P-384")]
    Kind,
    #[error("is for another algorithm than {0}")]
    Algorithm(&'static str),
    #[error("has no member `{0}`, or none that is base64url")]
    Member(&'static str),
    #[error("has a `kid` that is no text of 1 to 512 characters")]
    Kid,
    #[error("is an RSA key of another size than 2048 to 4096 bits")]
    Size,
    #[error("is no key: its parts do not belong together")]
    Parts,
}

impl PrivateKey {
    /// Its `kid`, if it has none, is its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// [`PrivateJwkError`] for the first thing that is wrong.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, PrivateJwkError> {
        let jwk: Map<String, Value> = serde_json::from_slice(json).map_err(|_| PrivateJwkError::Json)?;
        if jwk.contains_key("keys") {
            return Err(PrivateJwkError::Set);
        }
        let text = |member: &str| jwk.get(member).and_then(Value::as_str);
        let (key, thumbprint) = match (text("kty"), text("crv")) {
            (Some("EC"), Some("P-384")) => es384(&jwk)?,
            (Some("RSA"), _) => rs384(&jwk)?,
            _ => return Err(PrivateJwkError::Kind),
        };
        let alg = key.alg().as_str();
        if jwk.get("alg").is_some_and(|own| own.as_str() != Some(alg)) {
            return Err(PrivateJwkError::Algorithm(alg));
        }
        let kid = match jwk.get("kid") {
            None => thumbprint,
            Some(kid) => {
                let kid = kid.as_str().filter(|kid| (1..=512).contains(&kid.len()));
                kid.ok_or(PrivateJwkError::Kid)?.to_owned()
            }
        };
        Ok(Self { kid, key })
    }
}

impl PrivateKey {
    /// SMART, "Authenticating to the Token Endpoint": who we are, for this `audience` and for this once. `now` is in seconds.
    ///
    /// # Errors
    /// [`CannotSign`]
    pub(crate) fn assertion(
        &self,
        client_id: &str,
        audience: &str,
        now: i64,
        jti: [u8; 24],
    ) -> Result<String, CannotSign> {
        let header = json!({ "alg": self.key.alg().as_str(), "typ": "JWT", "kid": self.kid });
        let claims = json!({
            "iss": client_id, "sub": client_id, "aud": audience,
            "iat": now, "exp": now.saturating_add(ASSERTION_SECONDS), "jti": URL_SAFE_NO_PAD.encode(jti),
        });
        self.key.sign(&header.to_string(), &claims.to_string())
    }
}

fn es384(jwk: &Map<String, Value>) -> Result<(SigningKey, String), PrivateJwkError> {
    let fixed = |member| <[u8; 48]>::try_from(bytes(jwk, member)?).map_err(|_| PrivateJwkError::Member(member));
    let (x, y, d) = (fixed("x")?, fixed("y")?, fixed("d")?);
    let point = [&[4_u8][..], &x, &y].concat();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P384_SHA384_FIXED_SIGNING, &d, &point);
    Ok((SigningKey::es384(pair.map_err(|_| PrivateJwkError::Parts)?), thumbprint_ec(&x, &y)))
}

fn rs384(jwk: &Map<String, Value>) -> Result<(SigningKey, String), PrivateJwkError> {
    let plain = |member| {
        let bytes = bytes(jwk, member)?;
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        Ok(bytes[start..].to_vec())
    };
    let (n, e) = (plain("n")?, plain("e")?);
    // SEC-06: as our own clients' keys.
    let bits = (n.len() * 8).saturating_sub(n.first().map_or(0, |first| first.leading_zeros() as usize));
    if !(2_048..=4_096).contains(&bits) {
        return Err(PrivateJwkError::Size);
    }
    let thumbprint = thumbprint_rsa(&n, &e);
    let parts = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d: bytes(jwk, "d")?,
        p: bytes(jwk, "p")?,
        q: bytes(jwk, "q")?,
        dP: bytes(jwk, "dp")?,
        dQ: bytes(jwk, "dq")?,
        qInv: bytes(jwk, "qi")?,
    };
    let pair = RsaKeyPair::from_components(&parts).map_err(|_| PrivateJwkError::Parts)?;
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| PrivateJwkError::Parts)?;
    Ok((SigningKey::rs384(pkcs1(pkcs8.as_ref()).ok_or(PrivateJwkError::Parts)?), thumbprint))
}

fn bytes(jwk: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, PrivateJwkError> {
    let text = jwk.get(member).and_then(Value::as_str).filter(|text| !text.is_empty() && text.len() <= 1_024);
    let decoded = text.and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
    decoded.ok_or(PrivateJwkError::Member(member))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::smart::generate::Pair;
    use crate::smart::jwk::KeySet;
    use crate::smart::jws::{Alg, Compact};

    #[test]
    fn what_a_generated_key_signs_its_public_half_verifies() {
        for alg in Alg::SMART {
            let pair = Pair::generate(alg).expect("a pair");
            let read = PrivateKey::parse(pair.private.to_string().as_bytes()).expect("a private key");
            assert_eq!((read.key.alg(), Some(read.kid.as_str())), (alg, pair.public["kid"].as_str()));
            let token = read.key.sign("{}", "{}").expect("a signature");
            let known = KeySet::of(&json!({ "keys": [pair.public] })).expect("a good set");
            let public = &known.find(&read.kid, alg).expect("it is found").key;
            assert!(public.has_signed(&Compact::parse(&token, 10_000).expect("three parts"), alg), "{alg:?}");
            let secret = pair.private["d"].as_str().expect("a number");
            assert!(!format!("{read:?}").contains(secret));
            // Without a name it has its thumbprint, which is what `keys generate` names it by.
            let mut nameless = pair.private.clone();
            nameless.as_object_mut().expect("an object").remove("kid");
            assert_eq!(PrivateKey::parse(nameless.to_string().as_bytes()).expect("a key").kid, read.kid);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        let ec = Pair::generate(Alg::Es384).expect("a pair").private;
        let other = Pair::generate(Alg::Es384).expect("a pair").private;
        let rsa = Pair::generate(Alg::Rs384).expect("a pair").private;
        let with = |key: &Value, member: &str, value: Value| {
            let mut key = key.clone();
            key[member] = value;
            key
        };
        for (jwk, expected) in [
            (json!([]), PrivateJwkError::Json),
            (json!({ "keys": [ec] }), PrivateJwkError::Set),
            (json!({ "kty": "oct", "k": "AA" }), PrivateJwkError::Kind),
            (with(&ec, "crv", "P-256".into()), PrivateJwkError::Kind),
            (with(&ec, "d", Value::Null), PrivateJwkError::Member("d")),
            (with(&ec, "d", "AAAA".into()), PrivateJwkError::Member("d")),
            (with(&ec, "d", other["d"].clone()), PrivateJwkError::Parts),
            (with(&ec, "alg", "ES256".into()), PrivateJwkError::Algorithm("ES384")),
            (with(&ec, "kid", 1.into()), PrivateJwkError::Kid),
            (with(&rsa, "p", Value::Null), PrivateJwkError::Member("p")),
            (with(&rsa, "d", rsa["n"].clone()), PrivateJwkError::Parts),
            (with(&rsa, "n", "AQAB".into()), PrivateJwkError::Size),
        ] {
            assert_eq!(PrivateKey::parse(jwk.to_string().as_bytes()).err(), Some(expected));
        }
        assert_eq!(PrivateKey::parse(b"{").err(), Some(PrivateJwkError::Json));
    }
}
