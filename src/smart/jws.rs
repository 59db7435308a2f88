//! Compact JWS (RFC 7515): three parts, and asymmetric algorithms only. Pure.
//!
//! Which algorithms a signature may be verified by is bound to the key and to who verifies, never taken from the token alone.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The algorithms that can be verified by: all with a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Alg {
    Es256,
    Es384,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
}

/// The kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    P256,
    P384,
    Rsa,
}

impl Alg {
    /// Those of SMART: every server takes at least one of them (SM-009), we both.
    pub(crate) const SMART: [Self; 2] = [Self::Es384, Self::Rs384];
    pub(crate) const ALL: [Self; 8] =
        [Self::Es256, Self::Es384, Self::Rs256, Self::Rs384, Self::Rs512, Self::Ps256, Self::Ps384, Self::Ps512];

    /// The one of this name among those that are `accepted`.
    pub(crate) fn parse(name: &str, accepted: &[Self]) -> Option<Self> {
        accepted.iter().copied().find(|alg| alg.as_str() == name)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// What a key has to be to verify by it.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Es256 => Kind::P256,
            Self::Es384 => Kind::P384,
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => Kind::Rsa,
        }
    }

    pub(crate) fn algorithm(self) -> Algorithm {
        match self {
            Self::Es256 => Algorithm::ES256,
            Self::Es384 => Algorithm::ES384,
            Self::Rs256 => Algorithm::RS256,
            Self::Rs384 => Algorithm::RS384,
            Self::Rs512 => Algorithm::RS512,
            Self::Ps256 => Algorithm::PS256,
            Self::Ps384 => Algorithm::PS384,
            Self::Ps512 => Algorithm::PS512,
        }
    }
}

/// A public key.
#[derive(Clone)]
pub(crate) struct VerifyingKey {
    kind: Kind,
    key: DecodingKey,
    /// Of a signature that it may have made.
    signature_bytes: usize,
}

impl VerifyingKey {
    /// A point of P-256: both coordinates have 32 bytes.
    pub(crate) fn p256(x: &[u8; 32], y: &[u8; 32]) -> Self {
        let point = [&[4_u8][..], x, y].concat();
        Self { kind: Kind::P256, key: DecodingKey::from_ec_der(&point), signature_bytes: 64 }
    }

    /// A point of P-384: both coordinates have 48 bytes.
    pub(crate) fn p384(x: &[u8; 48], y: &[u8; 48]) -> Self {
        let point = [&[4_u8][..], x, y].concat();
        Self { kind: Kind::P384, key: DecodingKey::from_ec_der(&point), signature_bytes: 96 }
    }

    /// Modulus and exponent, big-endian and without zeros before them.
    pub(crate) fn rsa(modulus: &[u8], exponent: &[u8]) -> Self {
        let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
        Self { kind: Kind::Rsa, key, signature_bytes: modulus.len() }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether a signature of this many bytes can be this key's.
    pub(crate) fn makes(&self, signature_bytes: usize) -> bool {
        self.signature_bytes == signature_bytes
    }

    /// Whether the key has signed it by this algorithm.
    pub(crate) fn has_signed(&self, token: &Compact<'_>, alg: Alg) -> bool {
        alg.kind() == self.kind
            && crypto::verify(token.signature, token.signed.as_bytes(), &self.key, alg.algorithm()).unwrap_or(false)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({:?})", self.kind)
    }
}

/// A token taken apart, of which nothing is verified.
pub(crate) struct Compact<'a> {
    /// The first two parts and the dot between them.
    signed: &'a str,
    header: Vec<u8>,
    claims: Vec<u8>,
    signature: &'a str,
}

/// Why a text is no token that could be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it is longer than any token of ours")]
    TooLong,
    #[error("it has not three parts of base64url")]
    Parts,
    #[error("its header is not a JSON object with `alg`, `typ` and `kid`")]
    Header,
    #[error("its claims are not a JSON object with all that have to be there")]
    Claims,
    #[error("its header names an extension that has to be understood")]
    Critical,
    #[error("its algorithm is none of those that are accepted")]
    Algorithm,
    #[error("its `typ` is another one")]
    Type,
}

/// The header of a token that may be verified.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) alg: Alg,
    pub(crate) kid: String,
    pub(crate) jku: Option<String>,
}

/// The same of one that need not say of what type it is, nor which key has signed it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LooseHeader {
    pub(crate) alg: Alg,
    pub(crate) typ: Option<String>,
    pub(crate) kid: Option<String>,
}

#[derive(Deserialize)]
struct Sent {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    jku: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Compact<'a> {
    /// # Errors
    /// [`Malformed::TooLong`] or [`Malformed::Parts`].
    pub(crate) fn parse(text: &'a str, longest: usize) -> Result<Self, Malformed> {
        if text.len() > longest {
            return Err(Malformed::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Malformed::Parts)?;
        let (header, claims) = signed.split_once('.').ok_or(Malformed::Parts)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed::Parts);
        // Of the dots in a text of more parts one is left in the claims, which are no base64url then.
        let (header, claims) = (decode(header)?, decode(claims)?);
        Ok(Self { signed, header, claims, signature })
    }

    /// What the header says, if it is one of `typ` and of an algorithm that is accepted (SM-013).
    ///
    /// # Errors
    /// [`Malformed`] for the first thing that is wrong.
    pub(crate) fn header(&self, typ: &str, accepted: &[Alg]) -> Result<Header, Malformed> {
        let (alg, sent) = self.sent(accepted)?;
        let (Some(own), Some(kid)) = (sent.typ, sent.kid) else { return Err(Malformed::Header) };
        if own != typ {
            return Err(Malformed::Type);
        }
        if kid.is_empty() { Err(Malformed::Header) } else { Ok(Header { alg, kid, jku: sent.jku }) }
    }

    /// What the header says, whatever of it is not there.
    ///
    /// # Errors
    /// [`Malformed`] for the first thing that is wrong.
    pub(crate) fn loose_header(&self, accepted: &[Alg]) -> Result<LooseHeader, Malformed> {
        let (alg, Sent { typ, kid, .. }) = self.sent(accepted)?;
        Ok(LooseHeader { alg, typ, kid })
    }

    fn sent(&self, accepted: &[Alg]) -> Result<(Alg, Sent), Malformed> {
        let sent: Sent = object(&self.header).ok_or(Malformed::Header)?;
        if sent.crit.is_some() {
            return Err(Malformed::Critical);
        }
        let alg = Alg::parse(&sent.alg, accepted).ok_or(Malformed::Algorithm)?;
        Ok((alg, sent))
    }

    /// What it claims.
    ///
    /// # Errors
    /// [`Malformed::Claims`] if a claim is missing, there twice, or of another kind.
    pub(crate) fn claims<T: DeserializeOwned>(&self) -> Result<T, Malformed> {
        object(&self.claims).ok_or(Malformed::Claims)
    }

    /// How many bytes its signature has.
    pub(crate) fn signature_bytes(&self) -> usize {
        self.signature.len() * 3 / 4
    }
}

/// A JSON object; an array of the same values in their order, which serde would take as well, is none.
fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(json: &str) -> Result<Header, Malformed> {
        let text = format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(json));
        Compact::parse(&text, 20_000).expect("three parts").header("JWT", &Alg::SMART)
    }

    /// SM-013
    #[test]
    fn only_what_can_be_verified_has_a_header() {
        let good = header(r#"{"alg":"ES384","typ":"JWT","kid":"k","more":[1]}"#).expect("a good header");
        assert_eq!((good.alg, good.kid.as_str(), good.jku), (Alg::Es384, "k", None));
        for (json, expected) in [
            (r#"{"alg":"none","typ":"JWT","kid":"k"}"#, Malformed::Algorithm),
            (r#"{"alg":"HS384","typ":"JWT","kid":"k"}"#, Malformed::Algorithm),
            (r#"{"alg":"es384","typ":"JWT","kid":"k"}"#, Malformed::Algorithm),
            (r#"{"alg":"ES384","typ":"at+jwt","kid":"k"}"#, Malformed::Type),
            (r#"{"alg":"ES384","kid":"k"}"#, Malformed::Header),
            (r#"{"alg":"ES384","typ":"JWT"}"#, Malformed::Header),
            (r#"{"alg":"ES384","typ":"JWT","kid":""}"#, Malformed::Header),
            (r#"{"alg":"ES384","typ":"JWT","kid":1}"#, Malformed::Header),
            (r#"{"alg":"ES384","alg":"ES384","typ":"JWT","kid":"k"}"#, Malformed::Header),
            (r#"{"alg":"ES384","typ":"JWT","kid":"k","crit":["b64"],"b64":false}"#, Malformed::Critical),
            (r#"["ES384","JWT","k",null,null]"#, Malformed::Header),
            ("null", Malformed::Header),
        ] {
            assert_eq!(header(json).err(), Some(expected), "{json}");
        }
    }

    #[test]
    fn a_token_has_three_parts() {
        for text in
            ["", ".", "..", "a.b", "e30.e30", "e30.e30.AAAA.AAAA", "e30=.e30.AAAA", "e3 0.e30.AAAA", "e30.e31.A"]
        {
            let parsed = Compact::parse(text, 100).and_then(|token| token.header("JWT", &Alg::SMART));
            assert!(parsed.is_err(), "{text}");
        }
        assert_eq!(Compact::parse(&"a".repeat(101), 100).err(), Some(Malformed::TooLong));
    }

    #[test]
    fn what_nobody_looks_at_is_passed_over_however_deep_it_is() {
        let json =
            format!(r#"{{"alg":"ES384","typ":"JWT","kid":"k","x":{}1{}}}"#, "[".repeat(4_000), "]".repeat(4_000));
        assert!(header(&json).is_ok());
    }
}
