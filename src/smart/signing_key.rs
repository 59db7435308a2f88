//! Private keys, and what they sign. The algorithm is that of the key.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::EcdsaKeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, crypto};

use super::jws::Alg;
use crate::clock;

/// A private key. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub(crate) struct SigningKey(PrivateKey);

#[derive(Clone)]
enum PrivateKey {
    /// Taken apart once: jsonwebtoken does that for each signature anew.
    P384(Arc<EcdsaKeyPair>),
    Rsa(EncodingKey),
}

impl SigningKey {
    /// A pair for signatures of fixed length on P-384.
    pub(crate) fn es384(pair: EcdsaKeyPair) -> Self {
        Self(PrivateKey::P384(Arc::new(pair)))
    }

    /// From PKCS#1.
    pub(crate) fn rs384(pkcs1: &[u8]) -> Self {
        Self(PrivateKey::Rsa(EncodingKey::from_rsa_der(pkcs1)))
    }

    pub(crate) fn alg(&self) -> Alg {
        match self.0 {
            PrivateKey::P384(_) => Alg::Es384,
            PrivateKey::Rsa(_) => Alg::Rs384,
        }
    }

    /// `header` and `claims`, both JSON, as a token.
    ///
    /// # Errors
    /// [`CannotSign`] if the key is none.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> Result<String, CannotSign> {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = match &self.0 {
            PrivateKey::P384(pair) => {
                let signature = pair.sign(&clock::nonces(), signed.as_bytes()).map_err(|_| CannotSign)?;
                URL_SAFE_NO_PAD.encode(signature)
            }
            PrivateKey::Rsa(key) => {
                crypto::sign(signed.as_bytes(), key, self.alg().algorithm()).map_err(|_| CannotSign)?
            }
        };
        Ok(format!("{signed}.{signature}"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.alg().as_str())
    }
}

/// A key that does not sign. What the library says of it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing key cannot be used")]
pub(crate) struct CannotSign;
