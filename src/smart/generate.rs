//! New key pairs, for clients and for us. The randomness is the cryptographic library's own.

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::jwk::{ec_jwk, rsa_jwk, thumbprint_ec, thumbprint_rsa};
use super::jws::{Alg, Kind};

/// A key pair as two JWKs. Its `Debug` shows nothing of the private one.
pub(crate) struct Pair {
    pub(crate) private: Value,
    pub(crate) public: Value,
}

/// A pair could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key pair could not be made")]
pub(crate) struct CannotGenerate;

impl Pair {
    /// A new pair for signatures by `alg`, one of [SMART](Alg::SMART): on P-384, or RSA of 3072 bits. Its `kid` is its thumbprint.
    ///
    /// # Errors
    /// [`CannotGenerate`]
    pub(crate) fn generate(alg: Alg) -> Result<Self, CannotGenerate> {
        match alg.kind() {
            Kind::P384 => Self::es384(),
            Kind::Rsa => Self::rs384(),
            Kind::P256 => Err(CannotGenerate),
        }
    }

    fn es384() -> Result<Self, CannotGenerate> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).map_err(|_| CannotGenerate)?;
        let (x, y) =
            pair.public_key().as_ref().get(1..).and_then(|point| point.split_at_checked(48)).ok_or(CannotGenerate)?;
        let (Ok(x), Ok(y)) = (x.try_into(), y.try_into()) else { return Err(CannotGenerate) };
        let secret: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().map_err(|_| CannotGenerate)?;
        let public = ec_jwk(&thumbprint_ec(x, y), x, y);
        Ok(Self { private: private(&public, [("d", secret.as_ref())].into_iter()), public })
    }

    fn rs384() -> Result<Self, CannotGenerate> {
        let pair = RsaKeyPair::generate(KeySize::Rsa3072).map_err(|_| CannotGenerate)?;
        let pkcs8 = pair.as_der().map_err(|_| CannotGenerate)?;
        let numbers = rsa_numbers(pkcs8.as_ref()).ok_or(CannotGenerate)?;
        let [n, e, secret @ ..] = numbers;
        let public = rsa_jwk(&thumbprint_rsa(n, e), n, e);
        Ok(Self { private: private(&public, ["d", "p", "q", "dp", "dq", "qi"].into_iter().zip(secret)), public })
    }
}

/// A new private key on P-384 as PKCS#8, for our own tokens.
///
/// # Errors
/// [`CannotGenerate`]
pub(crate) fn pkcs8_es384() -> Result<Vec<u8>, CannotGenerate> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).map_err(|_| CannotGenerate)?;
    Ok(pair.to_pkcs8v1().map_err(|_| CannotGenerate)?.as_ref().to_vec())
}

fn private<'a>(public: &Value, secret: impl Iterator<Item = (&'static str, &'a [u8])>) -> Value {
    let mut jwk = public.clone();
    jwk["key_ops"] = json!(["sign"]);
    for (name, number) in secret {
        jwk[name] = URL_SAFE_NO_PAD.encode(number).into();
    }
    jwk
}

/// n, e, d, p, q, dp, dq and qi of an RSA key in PKCS#8 (RFC 5208, RFC 8017 A.1.2).
fn rsa_numbers(pkcs8: &[u8]) -> Option<[&[u8]; 8]> {
    let (sequence, _) = element(0x30, pkcs1(pkcs8)?)?;
    let (_version, mut rest) = element(0x02, sequence)?;
    let mut numbers = [&[][..]; 8];
    for number in &mut numbers {
        let (bytes, after) = element(0x02, rest)?;
        // DER has a zero before a number whose first bit is set.
        *number = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        rest = after;
    }
    Some(numbers)
}

/// The `RSAPrivateKey` in an RSA key in PKCS#8.
pub(super) fn pkcs1(pkcs8: &[u8]) -> Option<&[u8]> {
    let (outer, _) = element(0x30, pkcs8)?;
    let (_version, rest) = element(0x02, outer)?;
    let (_algorithm, rest) = element(0x30, rest)?;
    Some(element(0x04, rest)?.0)
}

/// The content of a DER element of this kind, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), rest.get(2..)?),
        short @ ..=0x7f => (usize::from(*short), rest),
        _ => return None,
    };
    (*first == tag).then(|| rest.split_at_checked(length)).flatten()
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smart::jwk::{JwksError, KeySet};
    use crate::smart::jws::Compact;
    use crate::smart::signing_key::SigningKey;

    #[test]
    fn a_public_key_can_be_registered_and_a_private_one_cannot() {
        for alg in Alg::SMART {
            let pair = Pair::generate(alg).expect("a pair");
            let kid = pair.public["kid"].as_str().expect("a name").to_owned();
            let keys = KeySet::of(&json!({ "keys": [pair.public] })).expect("a good set");
            assert!(keys.find(&kid, alg).is_ok(), "{alg:?}");
            let registered = KeySet::of(&json!({ "keys": [pair.private] }));
            assert_eq!(registered.err(), Some(JwksError::Private(0)), "{alg:?}");
            let secret = pair.private["d"].as_str().expect("a number").to_owned();
            assert!(!format!("{pair:?}").contains(&secret));
        }
    }

    #[test]
    fn what_a_new_key_signs_its_public_half_verifies() {
        let pkcs8 = pkcs8_es384().expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &pkcs8).expect("a key");
        let point = pair.public_key().as_ref();
        let (x, y) = (point[1..49].try_into().expect("48 bytes"), point[49..].try_into().expect("48 bytes"));
        let key = crate::smart::jws::VerifyingKey::p384(x, y);
        let token = SigningKey::es384(pair).sign("{}", "{}").expect("a signature");
        assert!(key.has_signed(&Compact::parse(&token, 1_000).expect("three parts"), Alg::Es384));
    }
}
