//! Access tokens: JWTs (RFC 9068) that we sign and nobody but us has to understand. Pure: time and keys are arguments.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{ClientId, NotAClientId};
use super::jwk::{ec_jwk, thumbprint_ec};
use super::jws::{Alg, Compact, Malformed, VerifyingKey};
use super::scope::{ScopeError, Scopes};
use super::signing_key::{CannotSign, SigningKey};
use crate::fhir::datatypes::Millis;

/// `typ` of an access token (RFC 9068).
const TYPE: &str = "at+jwt";
/// What the names of all keys of ours begin with: by it a token is known as ours though its key is long gone.
pub(crate) const OURS: &str = "offtake.";
/// Longest token that is looked at.
const LONGEST: usize = 12 * 1024;
/// By how much a token outlives its lifetime in what is remembered of its key.
const GRACE_MILLIS: i64 = 60_000;

/// The point of a public key on P-384.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    x: [u8; 48],
    y: [u8; 48],
}

impl Point {
    fn of(uncompressed: &[u8]) -> Option<Self> {
        let (form, point) = uncompressed.split_first()?;
        let (x, y) = point.split_at_checked(48)?;
        (*form == 4).then_some(Self { x: x.try_into().ok()?, y: y.try_into().ok()? })
    }

    fn kid(&self) -> String {
        format!("{OURS}{}", thumbprint_ec(&self.x, &self.y))
    }

    fn jwk(&self) -> Value {
        ec_jwk(&self.kid(), &self.x, &self.y)
    }

    fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::p384(&self.x, &self.y)
    }
}

/// The key that signs tokens, and those before it, whose tokens may still be good.
#[derive(Debug, Clone)]
pub(crate) struct TokenKeys {
    current: Current,
    previous: Vec<Previous>,
}

#[derive(Debug, Clone)]
struct Current {
    key: SigningKey,
    point: Point,
    created: Millis,
}

/// The public half of a key that signs no more; the other one is thrown away.
#[derive(Debug, Clone)]
struct Previous {
    point: Point,
    /// From when on nothing that it signed is good.
    until: Millis,
}

/// The keys as they are kept in a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// PKCS#8, in base64url.
    current: String,
    created: Millis,
    previous: Vec<KeptPrevious>,
}

#[derive(Serialize, Deserialize)]
struct KeptPrevious {
    x: String,
    y: String,
    until: Millis,
}

/// What is kept is no set of keys. Nothing of it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the keys that sign access tokens cannot be read")]
pub(crate) struct BadKeys;

/// A new set, and what has to be kept of it.
pub(crate) struct Made {
    pub(crate) keys: TokenKeys,
    pub(crate) text: String,
}

impl TokenKeys {
    /// A new key, PKCS#8 on P-384, in the place of all `before`; what those have signed is good for `lifetime_millis`
    /// more at most.
    ///
    /// # Errors
    /// [`BadKeys`] if `pkcs8` is no such key.
    pub(crate) fn made(
        pkcs8: &[u8],
        before: Option<&Self>,
        now: Millis,
        lifetime_millis: i64,
    ) -> Result<Made, BadKeys> {
        let until = Millis(now.0.saturating_add(lifetime_millis).saturating_add(GRACE_MILLIS));
        let mut previous: Vec<Previous> = Vec::new();
        if let Some(before) = before {
            previous.push(Previous { point: before.current.point, until });
            previous.extend(before.previous.iter().filter(|key| now < key.until).cloned());
        }
        let keys = Self { current: Current::of(pkcs8, now)?, previous };
        let kept = Kept {
            version: 1,
            current: URL_SAFE_NO_PAD.encode(pkcs8),
            created: now,
            previous: keys.previous.iter().map(KeptPrevious::of).collect(),
        };
        let text = serde_json::to_string(&kept).map_err(|_| BadKeys)?;
        Ok(Made { keys, text })
    }

    /// What was kept.
    ///
    /// # Errors
    /// [`BadKeys`] if it is not what [`made`](Self::made) gave.
    pub(crate) fn read(text: &[u8]) -> Result<Self, BadKeys> {
        let kept: Kept = serde_json::from_slice(text).map_err(|_| BadKeys)?;
        if kept.version != 1 {
            return Err(BadKeys);
        }
        let pkcs8 = URL_SAFE_NO_PAD.decode(&kept.current).map_err(|_| BadKeys)?;
        let previous = kept.previous.iter().map(|key| key.read().ok_or(BadKeys)).collect::<Result<_, _>>()?;
        Ok(Self { current: Current::of(&pkcs8, kept.created)?, previous })
    }

    /// Whether the key that signs is older than it may get.
    pub(crate) fn is_due(&self, now: Millis, lifetime_millis: i64) -> bool {
        now.0.saturating_sub(self.current.created.0) >= lifetime_millis
    }

    /// Since when the key that signs is in use.
    pub(crate) fn created(&self) -> Millis {
        self.current.created
    }

    /// The JWK Set that is published: the key that signs, and those whose tokens are good still.
    pub(crate) fn jwks(&self, now: Millis) -> String {
        let previous = self.previous.iter().filter(|key| now < key.until).map(|key| key.point.jwk());
        let keys: Vec<_> = std::iter::once(self.current.point.jwk()).chain(previous).collect();
        json!({ "keys": keys }).to_string()
    }

    fn find(&self, kid: &str, now: Millis) -> Option<Point> {
        let previous = self.previous.iter().filter(|key| now < key.until).map(|key| key.point);
        std::iter::once(self.current.point).chain(previous).find(|point| point.kid() == kid)
    }
}

impl Current {
    fn of(pkcs8: &[u8], created: Millis) -> Result<Self, BadKeys> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8).map_err(|_| BadKeys)?;
        let point = Point::of(pair.public_key().as_ref()).ok_or(BadKeys)?;
        Ok(Self { key: SigningKey::es384(pair), point, created })
    }
}

impl KeptPrevious {
    fn of(key: &Previous) -> Self {
        let encode = |coordinate: &[u8; 48]| URL_SAFE_NO_PAD.encode(coordinate);
        Self { x: encode(&key.point.x), y: encode(&key.point.y), until: key.until }
    }

    fn read(&self) -> Option<Previous> {
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok();
        Some(Previous { point: Point { x: decode(&self.x)?, y: decode(&self.y)? }, until: self.until })
    }
}

/// What a token says.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    client_id: String,
    scope: String,
    iat: i64,
    exp: i64,
    jti: String,
}

/// What one of our tokens permits, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessToken {
    pub(crate) client: ClientId,
    pub(crate) scopes: Scopes,
    /// In seconds since 1970.
    pub(crate) issued: i64,
    /// The same, exclusive.
    pub(crate) expires: i64,
}

/// Why a token is worth nothing. It is logged; whoever sent it learns only that it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token cannot be read: {0}")]
    Malformed(#[from] Malformed),
    #[error("the token is signed by no key of ours that is in use")]
    UnknownKey,
    #[error("the token's signature does not verify")]
    Signature,
    #[error("the token is of another issuer or for another audience")]
    Audience,
    #[error("the token has expired, or is not good yet")]
    Expired,
    #[error("the token names no client")]
    Client(#[from] NotAClientId),
    #[error("the token's scopes cannot be read")]
    Scope(#[from] ScopeError),
    #[error("the token's client is not registered, or no longer for anything of it")]
    Revoked,
}

impl AccessToken {
    /// The token itself, for the server at `base`.
    ///
    /// # Errors
    /// [`CannotSign`]
    pub(crate) fn sign(&self, keys: &TokenKeys, base: &str, jti: [u8; 16]) -> Result<String, CannotSign> {
        let kid = keys.current.point.kid();
        let header = json!({ "alg": "ES384", "typ": TYPE, "kid": kid }).to_string();
        let claims = Claims {
            iss: base.to_owned(),
            sub: self.client.to_string(),
            aud: base.to_owned(),
            client_id: self.client.to_string(),
            scope: self.scopes.to_string(),
            iat: self.issued,
            exp: self.expires,
            jti: URL_SAFE_NO_PAD.encode(jti),
        };
        keys.current.key.sign(&header, &serde_json::to_string(&claims).map_err(|_| CannotSign)?)
    }

    /// What a token says, if we have signed it for the server at `base` and it is good `now`.
    ///
    /// # Errors
    /// [`TokenError`] for the first thing that is wrong.
    pub(crate) fn verify(token: &str, keys: &TokenKeys, base: &str, now: Millis) -> Result<Self, TokenError> {
        let token = Compact::parse(token, LONGEST)?;
        let header = token.header(TYPE, &[Alg::Es384])?;
        let point = keys.find(&header.kid, now).ok_or(TokenError::UnknownKey)?;
        if !point.verifying_key().has_signed(&token, header.alg) {
            return Err(TokenError::Signature);
        }
        let claims: Claims = token.claims()?;
        if claims.iss != base || claims.aud != base || claims.sub != claims.client_id {
            return Err(TokenError::Audience);
        }
        let seconds = now.0.div_euclid(1000);
        // Beyond a minute a clock that was set back makes it worth nothing. Up to there it lives as much longer, also one
        // that had expired.
        if claims.exp <= seconds || claims.iat > seconds + GRACE_MILLIS / 1000 {
            return Err(TokenError::Expired);
        }
        Ok(Self {
            client: ClientId::parse(&claims.client_id)?,
            scopes: Scopes::parse(&claims.scope)?,
            issued: claims.iat,
            expires: claims.exp,
        })
    }
}

/// Whether a text holds what is, or pretends to be, a token that the server at `base` has issued at any time: such a one goes to
/// nobody else (SEC-05), whatever stands before and behind it. Whether it is good is not asked.
pub(crate) fn is_ours(text: &str, base: &str) -> bool {
    #[derive(Deserialize)]
    struct Named {
        kid: String,
    }
    #[derive(Deserialize)]
    struct Issued {
        iss: String,
    }
    let decode = |part: &str, longest| (part.len() <= longest).then(|| URL_SAFE_NO_PAD.decode(part).ok()).flatten();
    let is_header = |part: &str| {
        let header = decode(part, 1_024).and_then(|json| serde_json::from_slice::<Named>(&json).ok());
        header.is_some_and(|header| header.kid.starts_with(OURS))
    };
    let is_of_base = |part: &str| {
        let claims = decode(part, LONGEST).and_then(|json| serde_json::from_slice::<Issued>(&json).ok());
        claims.is_some_and(|claims| claims.iss == base)
    };
    let parts: Vec<_> = text.split('.').collect();
    parts.windows(3).any(|parts| is_header(parts[0]) && is_of_base(parts[1]))
}

#[cfg(test)]
mod tests;
