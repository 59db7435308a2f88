//! The keys that sign links, and how they are kept and replaced (SEC-16).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{LENGTH, LinkKey};

/// The name of a key from a time when there was one alone, kept as its bytes.
const FIRST: &str = "1";

/// The key that signs, and those before it, whose links may still be good.
#[derive(Debug, Clone)]
pub(crate) struct LinkKeys {
    pub(super) current: LinkKey,
    /// In seconds since 1970.
    created: u64,
    previous: Vec<Previous>,
}

#[derive(Debug, Clone)]
struct Previous {
    key: LinkKey,
    /// From when on nothing that it signed is good, in seconds since 1970.
    until: u64,
}

/// The keys as they are kept in a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    current: KeptKey,
    created: u64,
    previous: Vec<KeptPrevious>,
}

#[derive(Serialize, Deserialize)]
struct KeptKey {
    id: String,
    /// In base64url.
    secret: String,
}

#[derive(Serialize, Deserialize)]
struct KeptPrevious {
    key: KeptKey,
    until: u64,
}

/// What is kept is no set of keys. Nothing of it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the keys that sign links cannot be read")]
pub(crate) struct BadLinkKeys;

/// A new set, and what has to be kept of it.
pub(crate) struct MadeLinkKeys {
    pub(crate) keys: LinkKeys,
    pub(crate) text: String,
}

impl LinkKeys {
    /// A key of which nobody knows since when it is in use, and one before it with the time of its end.
    pub(crate) fn new(current: LinkKey, previous: Option<(LinkKey, u64)>) -> Self {
        let previous = previous.map(|(key, until)| Previous { key, until }).into_iter().collect();
        Self { current, created: 0, previous }
    }

    /// A new key in the place of all `before`, whose links are good until `until` at most. Times are in seconds since 1970.
    ///
    /// # Errors
    /// [`BadLinkKeys`] if that cannot be written down.
    pub(crate) fn made(
        secret: &[u8; LENGTH],
        before: Option<&Self>,
        now: u64,
        until: u64,
    ) -> Result<MadeLinkKeys, BadLinkKeys> {
        let mut previous = Vec::new();
        if let Some(before) = before {
            previous.push(Previous { key: before.current.clone(), until });
            previous.extend(before.previous.iter().filter(|key| now < key.until).cloned());
        }
        // No name comes again, however soon one follows another.
        let taken = previous.iter().filter_map(|previous| previous.key.id.parse::<u64>().ok()).max();
        let id = taken.map_or(now, |taken| now.max(taken.saturating_add(1))).to_string();
        let keys = Self { current: LinkKey::new(&id, secret).map_err(|_| BadLinkKeys)?, created: now, previous };
        let kept = Kept {
            version: 1,
            current: KeptKey::of(&keys.current),
            created: now,
            previous: keys
                .previous
                .iter()
                .map(|key| KeptPrevious { key: KeptKey::of(&key.key), until: key.until })
                .collect(),
        };
        let text = serde_json::to_string(&kept).map_err(|_| BadLinkKeys)?;
        Ok(MadeLinkKeys { keys, text })
    }

    /// What was kept: by this version, or the bytes of one key.
    ///
    /// # Errors
    /// [`BadLinkKeys`] if it is neither.
    pub(crate) fn read(text: &[u8]) -> Result<Self, BadLinkKeys> {
        // What was cut off is no key of the form that all had once.
        if let Ok(secret) = <&[u8; LENGTH]>::try_from(text)
            && !text.starts_with(b"{\"version\"")
        {
            return Ok(Self::new(LinkKey::new(FIRST, secret).map_err(|_| BadLinkKeys)?, None));
        }
        let Kept { version, current, created, previous } = serde_json::from_slice(text).map_err(|_| BadLinkKeys)?;
        if version != 1 {
            return Err(BadLinkKeys);
        }
        let previous = previous.iter().map(|kept| Ok(Previous { key: kept.key.read()?, until: kept.until }));
        Ok(Self { current: current.read()?, created, previous: previous.collect::<Result<_, _>>()? })
    }

    /// Whether the key that signs is older than it may get.
    pub(crate) fn is_due(&self, now: u64, lifetime: u64) -> bool {
        now.saturating_sub(self.created) >= lifetime
    }

    /// Since when the key that signs is in use, in seconds since 1970, if anybody knows.
    pub(crate) fn created(&self) -> Option<u64> {
        Some(self.created).filter(|created| *created > 0)
    }

    /// The key of this name, if it is good for something still.
    pub(super) fn find(&self, id: &str, now: u64) -> Option<&LinkKey> {
        let previous = self.previous.iter().filter(|key| now < key.until).map(|key| &key.key);
        std::iter::once(&self.current).chain(previous).find(|key| *key.id == *id)
    }
}

impl KeptKey {
    fn of(key: &LinkKey) -> Self {
        Self { id: key.id.to_string(), secret: URL_SAFE_NO_PAD.encode(key.secret) }
    }

    fn read(&self) -> Result<LinkKey, BadLinkKeys> {
        let secret = URL_SAFE_NO_PAD.decode(&self.secret).map_err(|_| BadLinkKeys)?;
        let secret: [u8; LENGTH] = secret.try_into().map_err(|_| BadLinkKeys)?;
        LinkKey::new(&self.id, &secret).map_err(|_| BadLinkKeys)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Link, LinkRefused};
    use super::*;

    const LINK: Link<'_> = Link { base: "127.0.0.1:8080/fhir", job: "j1", file: "Patient.0001.ndjson" };
    const NOW: u64 = 1_767_225_600;
    const HOUR: u64 = 3_600;

    /// SEC-16: rotation overlaps; what the old key signed is refused after the overlap, also after a restart.
    #[test]
    fn what_an_old_key_signed_is_good_until_the_overlap_ends_whoever_reads_the_keys() {
        let first = LinkKeys::read(&[7; LENGTH]).expect("bytes of a key");
        assert!(first.is_due(NOW, 90 * 24 * HOUR), "nobody knows how old it is");
        let link = first.sign(LINK, NOW + 100 * HOUR);
        let second = LinkKeys::made(&[8; LENGTH], Some(&first), NOW, NOW + HOUR).expect("a good key");
        let third = LinkKeys::made(&[9; LENGTH], Some(&second.keys), NOW, NOW + HOUR).expect("a good key");
        let read = LinkKeys::read(third.text.as_bytes()).expect("it was just written");
        let later = second.keys.sign(LINK, NOW + HOUR);
        for keys in [&second.keys, &third.keys, &read] {
            assert_eq!(keys.verify(LINK, &link, NOW + HOUR - 1), Ok(()));
            assert_eq!(keys.verify(LINK, &later, NOW + HOUR - 1), Ok(()));
            assert_eq!(keys.verify(LINK, &link, NOW + HOUR), Err(LinkRefused::UnknownKey));
            assert!(!keys.is_due(NOW + HOUR - 1, HOUR) && keys.is_due(NOW + HOUR, HOUR));
        }
        let revoked = LinkKeys::made(&[9; LENGTH], None, NOW, NOW).expect("a good key");
        assert_eq!(revoked.keys.verify(LINK, &link, NOW), Err(LinkRefused::UnknownKey));
        // What is over is kept no longer.
        let fourth = LinkKeys::made(&[1; LENGTH], Some(&read), NOW + HOUR, NOW + 2 * HOUR).expect("a good key");
        assert_eq!(fourth.keys.previous.len(), 1);
    }

    #[test]
    fn a_key_knows_since_when_it_signs_unless_it_is_from_before_that_was_kept() {
        let first = LinkKeys::read(&[7; LENGTH]).expect("bytes of a key");
        assert_eq!(first.created(), None);
        let second = LinkKeys::made(&[8; LENGTH], Some(&first), NOW, NOW + HOUR).expect("a good key");
        assert_eq!(second.keys.created(), Some(NOW));
        let read = LinkKeys::read(second.text.as_bytes()).expect("it was just written");
        assert_eq!(read.created(), Some(NOW));
    }

    #[test]
    fn what_is_no_set_of_keys_is_refused() {
        let made = LinkKeys::made(&[1; LENGTH], None, NOW, NOW).expect("a good key").text;
        for text in ["", "{}", "short", &made.replace("\"version\":1", "\"version\":2"), &made[1..], &made[..LENGTH]] {
            assert_eq!(LinkKeys::read(text.as_bytes()).err(), Some(BadLinkKeys), "{text}");
        }
        assert!(LinkKeys::read(made.as_bytes()).is_ok());
    }
}
