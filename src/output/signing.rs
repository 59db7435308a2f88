//! Links to files that we serve ourselves: whoever holds one may fetch that one file until it expires.
//!
//! ```text
//! {public_base}/$bulk-file/{job}/{file}?expires=1767225600&key=k1&signature=…
//! ```
//!
//! The signature is an HMAC-SHA-256 over all that the link says, so that no part can be exchanged for
//! another. Pure: the time is an argument. Clouds presign their own links.

mod keys;

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub(crate) use keys::LinkKeys;

/// Bytes in a key and in a signature.
const LENGTH: usize = 32;

/// A key id is part of every link: no longer than this many characters of base64url's alphabet.
const MAX_KEY_ID: usize = 32;

/// What a link leads to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link<'a> {
    /// The public base's authority and path, `fhir.example.org/fhir`: a link signed for one base is void
    /// under another that shares the key.
    pub(crate) base: &'a str,
    pub(crate) job: &'a str,
    pub(crate) file: &'a str,
}

/// Why a link opens nothing. A client is told none of this: every refusal is the same 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkRefused {
    #[error("the link's parameters are not ours")]
    Malformed,
    #[error("the link was signed with a key that is not in use")]
    UnknownKey,
    #[error("the link's signature does not verify")]
    Signature,
    #[error("the link has expired")]
    Expired,
}

/// A key's id is empty, too long or not of base64url's alphabet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a link key's id has 1 to {MAX_KEY_ID} of the characters A-Z, a-z, 0-9, `-` and `_`")]
pub(crate) struct BadKeyId;

/// One signing key. Its `Debug` shows the id only.
#[derive(Clone)]
pub(crate) struct LinkKey {
    id: Box<str>,
    secret: [u8; LENGTH],
    key: hmac::Key,
}

impl LinkKey {
    pub(crate) fn new(id: &str, secret: &[u8; LENGTH]) -> Result<Self, BadKeyId> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if id.is_empty() || id.len() > MAX_KEY_ID || !id.bytes().all(plain) {
            return Err(BadKeyId);
        }
        Ok(Self { id: id.into(), secret: *secret, key: hmac::Key::new(hmac::HMAC_SHA256, secret) })
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl LinkKeys {
    /// The query of a link that is good until `expires_unix`, in seconds since 1970, exclusive.
    pub(crate) fn sign(&self, link: Link<'_>, expires_unix: u64) -> String {
        let LinkKey { id, key, .. } = &self.current;
        let tag = hmac::sign(key, canonical(link, expires_unix, id).as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(tag);
        format!("expires={expires_unix}&key={id}&signature={signature}")
    }

    /// Whether `query` is what [`Self::sign`] gave for this link, at `now_unix` seconds since 1970. The
    /// method is not part of it: a link that may be fetched may be asked for its head.
    ///
    /// # Errors
    /// [`LinkRefused::Malformed`] if a parameter is missing, repeated, foreign or not written as we write
    /// it; then [`LinkRefused::UnknownKey`], [`LinkRefused::Signature`], and only on a genuine link
    /// [`LinkRefused::Expired`].
    pub(crate) fn verify(&self, link: Link<'_>, query: &str, now_unix: u64) -> Result<(), LinkRefused> {
        let claim = Claim::parse(query).ok_or(LinkRefused::Malformed)?;
        let key = self.find(claim.key, now_unix).ok_or(LinkRefused::UnknownKey)?;
        let text = canonical(link, claim.expires_unix, &key.id);
        // Compares in constant time.
        hmac::verify(&key.key, text.as_bytes(), &claim.signature).map_err(|_| LinkRefused::Signature)?;
        if now_unix < claim.expires_unix { Ok(()) } else { Err(LinkRefused::Expired) }
    }
}

/// What a link's query says of itself, unproven.
struct Claim<'a> {
    expires_unix: u64,
    key: &'a str,
    signature: [u8; LENGTH],
}

impl<'a> Claim<'a> {
    /// Nothing is percent-decoded: no value of ours needs it, and one spelling only is accepted.
    fn parse(query: &'a str) -> Option<Self> {
        let (mut expires, mut key, mut signature) = (None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=')?;
            let field = match name {
                "expires" => &mut expires,
                "key" => &mut key,
                "signature" => &mut signature,
                _ => return None,
            };
            if field.replace(value).is_some() {
                return None;
            }
        }
        let expires = expires?;
        let expires_unix: u64 = expires.parse().ok()?;
        if expires_unix.to_string() != expires {
            return None;
        }
        let mut bytes = [0; LENGTH];
        let written = URL_SAFE_NO_PAD.decode_slice(signature?, &mut bytes).ok()?;
        (written == LENGTH).then_some(Self { expires_unix, key: key?, signature: bytes })
    }
}

/// The text that is signed. Each part is led by its length, so that no two links have the same text.
fn canonical(link: Link<'_>, expires_unix: u64, key_id: &str) -> String {
    let expires = expires_unix.to_string();
    let mut text = String::from("offtake-link-1\n");
    for part in [link.base, link.job, link.file, &expires, key_id] {
        text.push_str(&part.len().to_string());
        text.push(':');
        text.push_str(part);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link<'_> = Link { base: "127.0.0.1:8080/fhir", job: "j1", file: "Patient.0001.ndjson" };
    const EXPIRES: u64 = 1_767_225_600;
    const BEFORE: u64 = EXPIRES - 1;

    fn key(id: &str, byte: u8) -> LinkKey {
        LinkKey::new(id, &[byte; LENGTH]).expect("the id is of the alphabet")
    }

    fn keys() -> LinkKeys {
        LinkKeys::new(key("k1", 1), None)
    }

    #[test]
    fn a_link_is_good_until_the_second_it_names() {
        let query = keys().sign(LINK, EXPIRES);
        for (now, expected) in
            [(0, Ok(())), (BEFORE, Ok(())), (EXPIRES, Err(LinkRefused::Expired)), (u64::MAX, Err(LinkRefused::Expired))]
        {
            assert_eq!(keys().verify(LINK, &query, now), expected, "at {now}");
        }
    }

    #[test]
    fn a_link_opens_no_other_file() {
        let query = keys().sign(LINK, EXPIRES);
        for other in [
            Link { base: "127.0.0.1:8081/fhir", ..LINK },
            Link { base: "127.0.0.1:8080/", ..LINK },
            Link { job: "j2", ..LINK },
            Link { file: "Patient.0002.ndjson", ..LINK },
            // The same characters, divided otherwise.
            Link { job: "j1\nPatient", file: ".0001.ndjson", ..LINK },
            Link { job: "j", file: "1Patient.0001.ndjson", ..LINK },
        ] {
            let refused = keys().verify(other, &query, BEFORE);
            assert_eq!(refused, Err(LinkRefused::Signature), "{other:?}");
        }
    }

    #[test]
    fn an_expiry_cannot_be_moved() {
        let query = keys().sign(LINK, EXPIRES);
        let moved = query.replace("expires=1767225600", "expires=1767225601");
        assert_eq!(keys().verify(LINK, &moved, EXPIRES), Err(LinkRefused::Signature));
        // The signature is looked at first: what is expired and forged is forged.
        assert_eq!(keys().verify(LINK, &moved, u64::MAX), Err(LinkRefused::Signature));
    }

    #[test]
    fn after_a_rotation_links_of_the_previous_key_are_good_and_older_ones_are_not() {
        let (first, second, third) = (key("k1", 1), key("k2", 2), key("k3", 3));
        let query = LinkKeys::new(first.clone(), None).sign(LINK, EXPIRES);
        let rotated = LinkKeys::new(second.clone(), Some((first, EXPIRES)));
        assert_eq!(rotated.verify(LINK, &query, BEFORE), Ok(()));
        assert!(rotated.sign(LINK, EXPIRES).contains("&key=k2&"));
        let again = LinkKeys::new(third, Some((second, EXPIRES)));
        assert_eq!(again.verify(LINK, &query, BEFORE), Err(LinkRefused::UnknownKey));
        // Another secret under a known id.
        let other = LinkKeys::new(key("k1", 9), None);
        assert_eq!(other.verify(LINK, &query, BEFORE), Err(LinkRefused::Signature));
    }

    #[test]
    fn a_link_is_accepted_in_one_spelling_only() {
        let query = keys().sign(LINK, EXPIRES);
        let spoilt = |from: &str, to: &str| query.replace(from, to);
        for altered in [
            String::new(),
            format!("{query}&"),
            format!("{query}&x=1"),
            format!("{query}&key=k1"),
            format!("&{query}"),
            format!("{query}="),
            spoilt("expires=", "expires=0"),
            spoilt("expires=", "expires=+"),
            spoilt("expires=", "expires=%31"),
            spoilt("expires=1767225600", "expires=99999999999999999999"),
            spoilt("expires=1767225600&", ""),
            spoilt("key=k1&", ""),
            spoilt("expires=", "Expires="),
            query[..query.len() - 1].to_owned(),
            format!("{query}A"),
            format!("{}!", &query[..query.len() - 1]),
        ] {
            let refused = keys().verify(LINK, &altered, BEFORE);
            assert_eq!(refused, Err(LinkRefused::Malformed), "{altered}");
        }
        let unknown = spoilt("key=k1", "key=k9");
        assert_eq!(keys().verify(LINK, &unknown, BEFORE), Err(LinkRefused::UnknownKey));
    }

    #[test]
    fn every_bit_of_a_signature_counts() {
        let query = keys().sign(LINK, EXPIRES);
        let (head, signature) = query.split_once("signature=").expect("every link is signed");
        let bytes = URL_SAFE_NO_PAD.decode(signature).expect("we wrote base64url");
        for bit in 0..LENGTH * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let forged = format!("{head}signature={}", URL_SAFE_NO_PAD.encode(forged));
            assert_eq!(keys().verify(LINK, &forged, BEFORE), Err(LinkRefused::Signature), "bit {bit}");
        }
    }

    #[test]
    fn a_key_shows_its_id_and_nothing_else() {
        for id in ["", "a b", "k&x", "k=1", "ä", "123456789012345678901234567890123"] {
            assert_eq!(LinkKey::new(id, &[0; LENGTH]).err(), Some(BadKeyId), "{id:?}");
        }
        assert_eq!(format!("{:?}", key("k1", 7)), "LinkKey { id: \"k1\", .. }");
    }
}
