//! Access tokens that are JWTs of an external issuer: verified by its keys. Pure: keys are fetched before.

use super::claims::{Claims, Presented, Rules, Told, Unfit};
use crate::fhir::datatypes::Millis;
use crate::smart::jwk::{KeySet, NotFound};
use crate::smart::jws::{Alg, Compact, LooseHeader, Malformed};

/// Longest token that is looked at: it travels in a header.
const LONGEST: usize = 16 * 1024;
/// `typ` of an access token: as RFC 9068 has it, or as most have it.
const TYPES: [&str; 3] = ["at+jwt", "application/at+jwt", "JWT"];

/// A token of which nothing is verified yet.
pub(crate) struct Unverified<'a> {
    token: Compact<'a>,
    header: LooseHeader,
    claims: Claims,
}

/// Why a token is worth nothing. It is logged; whoever sent it learns only that it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwtError {
    #[error("the token cannot be read: {0}")]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Claims(#[from] Unfit),
    #[error("{0}")]
    Key(NotFound),
    #[error("the token's signature does not verify")]
    Signature,
}

impl<'a> Unverified<'a> {
    /// # Errors
    /// [`JwtError::Malformed`]
    pub(crate) fn parse(token: &'a str, accepted: &[Alg]) -> Result<Self, JwtError> {
        let token = Compact::parse(token, LONGEST)?;
        let header = token.loose_header(accepted)?;
        let is_known = |own: &str| TYPES.iter().any(|known| known.eq_ignore_ascii_case(own));
        if header.typ.as_deref().is_some_and(|own| !is_known(own)) {
            return Err(Malformed::Type.into());
        }
        if header.kid.as_deref() == Some("") {
            return Err(Malformed::Header.into());
        }
        let claims = token.claims()?;
        Ok(Self { token, header, claims })
    }

    /// What it says, if that is as it has to be, whoever says so.
    ///
    /// # Errors
    /// [`JwtError::Claims`]
    pub(crate) fn check(&self, rules: &Rules, now: Millis) -> Result<Presented, JwtError> {
        Ok(self.claims.check(rules, Told::ByToken, now)?)
    }

    /// Whether a set holds its key.
    pub(crate) fn is_by_one_of(&self, keys: &KeySet) -> bool {
        !matches!(self.find(keys), Err(NotFound::None))
    }

    /// Fails unless one of the keys has signed it.
    ///
    /// # Errors
    /// [`JwtError::Key`] or [`JwtError::Signature`].
    pub(crate) fn verify(&self, keys: &KeySet) -> Result<(), JwtError> {
        let key = &self.find(keys).map_err(JwtError::Key)?.key;
        let is_signed = key.makes(self.token.signature_bytes()) && key.has_signed(&self.token, self.header.alg);
        if is_signed { Ok(()) } else { Err(JwtError::Signature) }
    }

    fn find<'k>(&self, keys: &'k KeySet) -> Result<&'k crate::smart::jwk::PublicKey, NotFound> {
        match &self.header.kid {
            Some(kid) => keys.find(kid, self.header.alg),
            None => keys.find_unnamed(self.header.alg),
        }
    }
}

#[cfg(test)]
mod tests;
