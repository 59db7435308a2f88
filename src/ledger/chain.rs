//! The chain of records: each is authenticated together with what the one before it was authenticated by. Pure.
//!
//! A line is the JSON of a [`Record`] with one member more at its end, `mac`: HMAC-SHA-256 over the `mac` of the line before
//! it, as 32 bytes, and the text of this line up to that member. So none can be changed, left out, put elsewhere or added
//! without the key. That the last ones are missing no chain can tell: a [`Head`] says how far it had come, and is kept
//! elsewhere.

use std::fmt;

use aws_lc_rs::hmac;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::{Event, Record};
use crate::fhir::datatypes::{Id, Instant};
use crate::fhir::resource_type::ResourceType;
use crate::job::index::IdHash;

/// Bytes in a key and in a MAC.
pub(crate) const LENGTH: usize = 32;

/// What a record is authenticated by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac([u8; LENGTH]);

impl Mac {
    /// What the first record of all follows.
    pub(super) const NONE: Self = Self([0; LENGTH]);

    fn of(tag: &hmac::Tag) -> Self {
        let (mac, _) = tag.as_ref().split_first_chunk().expect("SHA-256 has 32 bytes");
        Self(*mac)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut mac = [0; LENGTH];
        if text.len() != LENGTH * 2 {
            return None;
        }
        for (byte, pair) in mac.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |digit: u8| match digit {
                b'0'..=b'9' => Some(digit - b'0'),
                b'a'..=b'f' => Some(digit - b'a' + 10),
                _ => None,
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a MAC: 64 hexadecimal digits"))
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// The keys that the one in the key file stands for. Their `Debug` shows nothing of them.
#[derive(Clone)]
pub(crate) struct Keys {
    chain: hmac::Key,
    heads: hmac::Key,
    values: hmac::Key,
    patients: hmac::Key,
}

impl Keys {
    pub(crate) fn new(secret: &[u8; LENGTH]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |name: &str| {
            let tag = hmac::sign(&secret, format!("offtake-ledger-1 {name}").as_bytes());
            hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
        };
        Self {
            chain: derived("chain"),
            heads: derived("heads"),
            values: derived("values"),
            patients: derived("patients"),
        }
    }

    /// The keyed hash of a text.
    pub(super) fn hidden(&self, text: &str) -> String {
        hex(&hmac::sign(&self.values, text.as_bytes()).as_ref()[..16])
    }

    /// The patient of this hash as a list of patients holds it.
    pub(super) fn patient(&self, id: IdHash) -> u128 {
        let tag = hmac::sign(&self.patients, &id.to_bytes());
        let (first, _) = tag.as_ref().split_first_chunk().expect("SHA-256 has 32 bytes");
        u128::from_be_bytes(*first)
    }

    /// The same by the id.
    pub(super) fn patient_of(&self, id: &Id) -> u128 {
        self.patient(IdHash::of(ResourceType::PATIENT, id))
    }

    fn mac(&self, previous: Mac, text: &[u8]) -> Mac {
        let mut context = hmac::Context::with_key(&self.chain);
        context.update(&previous.0);
        context.update(text);
        Mac::of(&context.sign())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// How far a chain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) mac: Mac,
}

impl Link {
    /// Before the first record.
    pub(super) const START: Self = Self { seq: 0, mac: Mac::NONE };

    /// The next record as a line with its end, and the link that it is.
    pub(super) fn add(
        self,
        keys: &Keys,
        at: Instant,
        event: Event,
    ) -> Result<(Vec<u8>, Self, Record), serde_json::Error> {
        let record = Record { seq: self.seq + 1, at, event };
        let mut line = serde_json::to_vec(&record)?;
        let _brace = line.pop();
        let mac = keys.mac(self.mac, &line);
        line.extend_from_slice(format!("{BEFORE_MAC}{mac}{AFTER_MAC}\n").as_bytes());
        Ok((line, Self { seq: record.seq, mac }, record))
    }

    /// The record in a line without its end, if it is the next one.
    pub(super) fn follow(self, keys: &Keys, line: &[u8]) -> Result<(Record, Self), Broken> {
        let (text, mac) = parts(line).ok_or(Broken::Form)?;
        let mut authentic = Vec::with_capacity(LENGTH + text.len());
        authentic.extend_from_slice(&self.mac.0);
        authentic.extend_from_slice(text);
        // Compares in constant time.
        hmac::verify(&keys.chain, &authentic, &mac.0).map_err(|_| Broken::Mac)?;
        let record = parsed(text).ok_or(Broken::Content)?;
        if record.seq != self.seq + 1 {
            return Err(Broken::Number);
        }
        Ok((record, Self { seq: self.seq + 1, mac }))
    }

    /// What the first line of a file says that it follows. Nothing of it is authentic before it was followed from there.
    pub(super) fn before(line: &[u8]) -> Result<Self, Broken> {
        let (text, _) = parts(line).ok_or(Broken::Form)?;
        let record = parsed(text).ok_or(Broken::Content)?;
        match record.event {
            Event::Begun { previous } => {
                Ok(Self { seq: record.seq.checked_sub(1).ok_or(Broken::Number)?, mac: previous })
            }
            _ => Err(Broken::Begin),
        }
    }
}

const BEFORE_MAC: &str = ",\"mac\":\"";
const AFTER_MAC: &str = "\"}";

/// What of a line is authenticated, and by what.
fn parts(line: &[u8]) -> Option<(&[u8], Mac)> {
    let rest = line.strip_suffix(AFTER_MAC.as_bytes())?;
    let (rest, mac) = rest.split_at_checked(rest.len().checked_sub(LENGTH * 2)?)?;
    let text = rest.strip_suffix(BEFORE_MAC.as_bytes())?;
    Some((text, Mac::parse(std::str::from_utf8(mac).ok()?)?))
}

fn parsed(text: &[u8]) -> Option<Record> {
    serde_json::from_slice(&[text, b"}"].concat()).ok()
}

/// Why a line is not the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it is no record")]
    Form,
    #[error("it was changed, or stands in another's place, or one before it is missing, or the key is another one")]
    Mac,
    #[error("it is authentic, but another version of this program wrote it")]
    Content,
    #[error("its number is not the next one")]
    Number,
    #[error("it is not how a file begins")]
    Begin,
    #[error("it does not come to its end")]
    Cut,
    #[error("it does not go on where the file before it ended")]
    Gap,
}

/// How far a chain had come at some time: kept where the ledger is not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) mac: Mac,
    pub(crate) at: Instant,
}

#[derive(Serialize, Deserialize)]
struct SealedHead {
    #[serde(flatten)]
    head: Head,
    seal: Mac,
}

impl Head {
    pub(crate) fn link(&self) -> Link {
        Link { seq: self.seq, mac: self.mac }
    }

    /// As it is kept.
    pub(super) fn sealed(self, keys: &Keys) -> Vec<u8> {
        let seal = Mac::of(&hmac::sign(&keys.heads, self.text().as_bytes()));
        let sealed = serde_json::to_vec(&SealedHead { head: self, seal });
        let mut text = sealed.expect("numbers and texts always make JSON");
        text.push(b'\n');
        text
    }

    /// What was kept, if the key says so.
    pub(super) fn open(keys: &Keys, text: &[u8]) -> Option<Self> {
        let SealedHead { head, seal } = serde_json::from_slice(text).ok()?;
        hmac::verify(&keys.heads, head.text().as_bytes(), &seal.0).ok()?;
        Some(head)
    }

    fn text(&self) -> String {
        format!("{} {} {}", self.seq, self.mac, self.at)
    }
}
