//! `client_assertion`: the signed JWT by which a client proves who it is (RFC 7523, SMART's asymmetric
//! authentication). Pure: keys are fetched before, and the caller records the `jti`, so that it is accepted once.

mod dummy;

use aws_lc_rs::digest;
use serde::Deserialize;

use super::client::ClientId;
use super::jwk::{KeySet, NotFound};
use super::jws::{Alg, Compact, Header, Malformed};
use crate::fhir::datatypes::Millis;

/// Longest assertion. Those of 4096 bits take a tenth of it.
const LONGEST: usize = 16 * 1024;
/// Longest `jti`.
const LONGEST_JTI: usize = 512;
/// How far ahead `exp` may lie (SM-016), in seconds.
pub(crate) const LIFETIME: i64 = 300;
/// How far a client's clock may be ahead of ours, in seconds.
pub(crate) const SKEW: i64 = 30;
/// How far our own clock may go back and still be believed, in seconds.
pub(crate) const MOST_BEHIND: u32 = 60;

/// An assertion of which nothing is verified yet.
pub(crate) struct Unverified<'a> {
    token: Compact<'a>,
    header: Header,
    claims: Claims,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: f64,
    jti: String,
    iat: Option<f64>,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn names(&self, url: &str) -> bool {
        match self {
            Self::One(one) => one == url,
            Self::Many(many) => many.iter().any(|one| one == url),
        }
    }
}

/// Why a client is not authenticated. It is logged and never told: every one of these is answered alike (SEC-12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AssertionError {
    #[error("the assertion cannot be read: {0}")]
    Malformed(#[from] Malformed),
    #[error("`iss`, `sub` and `client_id` are not the same")]
    Names,
    #[error("there is no such client")]
    UnknownClient,
    #[error("`jku` is not the client's registered `jwks_uri`")]
    Jku,
    #[error("the client's keys cannot be had")]
    NoKeys,
    #[error("{0}")]
    Key(NotFound),
    #[error("the signature does not verify")]
    Signature,
    #[error("`aud` does not name the token endpoint")]
    Audience,
    #[error("it has expired")]
    Expired,
    #[error("`exp` lies more than {LIFETIME} seconds ahead")]
    Lifetime,
    #[error("`iat` or `nbf` lies in the future")]
    NotYet,
    #[error("`jti` is empty or too long")]
    Jti,
    #[error("it may have been used before this server's memory began")]
    Forgotten,
    #[error("it was used before")]
    Replayed,
}

/// What is known of a client: by what keys it signs, and where they come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registered<'a> {
    pub(crate) keys: &'a KeySet,
    /// `jwks_uri`, where it is registered by one.
    pub(crate) jwks_uri: Option<&'a str>,
}

/// What an assertion is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// What `aud` has to name, one of them.
    pub(crate) audiences: &'a [String],
    pub(crate) now: Millis,
    /// Since when it is remembered which assertions were used (SEC-13).
    pub(crate) remembered_since: Millis,
}

/// An assertion that its client has signed and that is good now: the client is authenticated if it was not used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    /// What tells it from every other one: a hash of `iss` and `jti`.
    pub(crate) hash: [u8; 32],
    /// Until when it has to be remembered.
    pub(crate) until: Millis,
}

impl<'a> Unverified<'a> {
    /// # Errors
    /// [`AssertionError::Malformed`], and [`AssertionError::Names`] where it is not of one client.
    pub(crate) fn parse(jwt: &'a str) -> Result<Self, AssertionError> {
        let token = Compact::parse(jwt, LONGEST)?;
        let header = token.header("JWT", &Alg::SMART)?;
        let claims: Claims = token.claims()?;
        if claims.iss != claims.sub {
            return Err(AssertionError::Names);
        }
        Ok(Self { token, header, claims })
    }

    /// Who it says that it is.
    pub(crate) fn client(&self) -> &str {
        &self.claims.iss
    }

    /// Whether a set holds that key.
    pub(crate) fn is_by_one_of(&self, keys: &KeySet) -> bool {
        !matches!(keys.find(&self.header.kid, self.header.alg), Err(NotFound::None))
    }

    /// Verifies it, in the order of the spec. One signature is verified in every case, by a key of the same kind and size
    /// if there is none of the client's, so that the time which it takes tells nothing (SEC-12).
    ///
    /// # Errors
    /// [`AssertionError`] for the first thing that is wrong.
    pub(crate) fn verify(
        &self,
        registered: Result<Registered<'_>, AssertionError>,
        expected: Expected<'_>,
    ) -> Result<Use, AssertionError> {
        let size = self.token.signature_bytes();
        let key = registered.and_then(|Registered { keys, jwks_uri }| {
            if self.header.jku.is_some() && self.header.jku.as_deref() != jwks_uri {
                return Err(AssertionError::Jku);
            }
            let key = keys.find(&self.header.kid, self.header.alg).map_err(AssertionError::Key)?;
            // A signature of another size is none of its, and would be found out at once.
            if key.key.makes(size) { Ok(&key.key) } else { Err(AssertionError::Signature) }
        });
        let dummy;
        let by = if let Ok(key) = &key {
            *key
        } else {
            dummy = dummy::of(self.header.alg.kind(), size);
            &dummy
        };
        let is_signed = by.has_signed(&self.token, self.header.alg);
        key?;
        if !is_signed {
            return Err(AssertionError::Signature);
        }
        self.check_claims(expected)
    }

    fn check_claims(&self, expected: Expected<'_>) -> Result<Use, AssertionError> {
        let Expected { audiences, now, remembered_since } = expected;
        let Claims { aud, jti, iat, nbf, .. } = &self.claims;
        if !audiences.iter().any(|url| aud.names(url)) {
            return Err(AssertionError::Audience);
        }
        // Seconds are held against the second that it is now: what a client calls now is not in the future.
        let seconds = now.0.div_euclid(1000);
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
        let float = |seconds: i64| seconds as f64;
        // RFC 7519, section 2: a time may have a fraction. It is good up to the second that it lies in.
        let exp = self.claims.exp.floor();
        if exp.is_nan() || exp <= float(seconds) {
            return Err(AssertionError::Expired);
        }
        if exp > float(seconds.saturating_add(LIFETIME + SKEW)) {
            return Err(AssertionError::Lifetime);
        }
        #[expect(clippy::cast_possible_truncation, reason = "it lies in the next minutes, and has no fraction")]
        let exp = exp as i64;
        let latest = float(seconds + SKEW);
        if [iat, nbf].into_iter().flatten().any(|time| time.is_nan() || *time > latest) {
            return Err(AssertionError::NotYet);
        }
        if jti.is_empty() || jti.len() > LONGEST_JTI {
            return Err(AssertionError::Jti);
        }
        // Of what was used before the memory began nothing is known. Whatever was good then has expired by now, or was
        // issued later, also by a clock that is ahead.
        let since = remembered_since.0.div_euclid(1000);
        let forgotten_until = since.saturating_add(LIFETIME + SKEW);
        let is_later = iat.is_some_and(|iat| iat > float(since + SKEW)) || exp > forgotten_until;
        if seconds < forgotten_until && !is_later {
            return Err(AssertionError::Forgotten);
        }
        // A clock that went back by no more than is believed may find it good once more.
        let until = Millis((exp + SKEW + i64::from(MOST_BEHIND)).saturating_mul(1000));
        Ok(Use { hash: self.hash(), until })
    }

    /// What it would be remembered by, verified or not.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let Claims { iss, jti, .. } = &self.claims;
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [iss, jti] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}

/// A client that has proven who it is.
#[derive(Debug, Clone)]
pub(crate) struct Authenticated(ClientId);

impl Authenticated {
    /// The client of an assertion, once it is recorded that it was used: `is_first` is what the record says.
    ///
    /// # Errors
    /// [`AssertionError::Replayed`]
    pub(crate) fn by(client: ClientId, is_first: bool) -> Result<Self, AssertionError> {
        if is_first { Ok(Self(client)) } else { Err(AssertionError::Replayed) }
    }

    pub(crate) fn client(&self) -> &ClientId {
        &self.0
    }
}

#[cfg(test)]
mod tests;
