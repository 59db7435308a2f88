//! The sidecar of one file: ids as sorted hashes, references still to be fetched, outcomes and counters. It is
//! what later slices are compared with, and all that a restart needs to know of a file's lines.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::ops::Range;

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;

/// The first 128 bits of SHA-256 over `Type/id`: no two resources of one export share it, by accident or by
/// intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct IdHash(u128);

/// Bytes of a type's name, a slash and an id at most.
const LONGEST_NAME: usize = 64 + 1 + 64;

impl IdHash {
    pub(crate) fn of(resource_type: ResourceType, id: &Id) -> Self {
        let mut name = [0; LONGEST_NAME];
        let mut length = 0;
        for part in [resource_type.as_str(), "/", id.as_str()] {
            name[length..length + part.len()].copy_from_slice(part.as_bytes());
            length += part.len();
        }
        // In one go: a context would be made and thrown away for each resource.
        let digest = digest::digest(&digest::SHA256, &name[..length]);
        let (first, _) = digest.as_ref().split_first_chunk::<16>().expect("SHA-256 has 32 bytes");
        Self(u128::from_be_bytes(*first))
    }

    pub(crate) fn to_bytes(self) -> [u8; HASH] {
        self.0.to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; HASH]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// A hash of this resource in one version, for this process only. It tells two readings of the same apart, which a quick
    /// hash does.
    pub(crate) fn with_version(self, version: &str) -> u128 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u128(self.0);
        hasher.write(version.as_bytes());
        let first = hasher.finish();
        hasher.write_u8(0xff);
        (u128::from(first) << 64) | u128::from(hasher.finish())
    }
}

/// What is said of one file beside its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sidecar {
    /// As it is stored: the ids are looked up where they lie.
    bytes: Bytes,
    /// How many ids there are.
    count: usize,
    /// Where the patients lie in `bytes`.
    patients: Range<usize>,
    pub(crate) notes: Notes,
}

/// What slices found beside resources: kept with the file that holds the slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notes {
    /// Resources that lines refer to and that no search of this export brings.
    pub(crate) references: BTreeSet<LocalReference>,
    /// What the upstream said inside of good answers, once per kind, with how often it was said.
    pub(crate) outcomes: BTreeMap<Issue, u64>,
    /// Resources that the upstream fails to give.
    pub(crate) unreadable: BTreeSet<LocalReference>,
    /// In whose compartments lines lie, other than Patient resources, which are among the ids. A sidecar has them beside its
    /// notes.
    #[serde(skip)]
    pub(crate) patients: HashSet<IdHash>,
}

impl Notes {
    /// Distinct references, outcomes and unreadable resources kept in one file; a file is closed when it holds as many.
    pub(crate) const MOST: usize = 50_000;

    /// What hears of the patients whose a line is, and what of its references.
    pub(crate) fn hear(&mut self) -> (impl FnMut(&Id), impl FnMut(LocalReference)) {
        let Self { patients, references, .. } = self;
        let note = |patient: &Id| {
            patients.insert(IdHash::of(ResourceType::PATIENT, patient));
        };
        let refer = |reference| {
            references.insert(reference);
        };
        (note, refer)
    }

    pub(crate) fn absorb(&mut self, other: Self) {
        self.references.extend(other.references);
        self.unreadable.extend(other.unreadable);
        self.patients.extend(other.patients);
        for (issue, times) in other.outcomes {
            *self.outcomes.entry(issue).or_default() += times;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && self.patients.is_empty()
    }

    /// Without patients: there are no more of them than lines.
    pub(crate) fn len(&self) -> usize {
        self.references.len() + self.outcomes.len() + self.unreadable.len()
    }
}

const MAGIC: &[u8; 8] = b"offtake1";
/// Of one that tells of patients, too.
const WITH_PATIENTS: &[u8; 8] = b"offtake2";
const HASH: usize = size_of::<u128>();
/// Where the ids begin: after what it is and how many there are.
const HEAD: usize = MAGIC.len() + size_of::<u64>();

impl Sidecar {
    pub(crate) fn new(ids: impl IntoIterator<Item = IdHash>, notes: Notes) -> Self {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend_from_slice(&[0; size_of::<u64>()]);
        ids.into_iter().for_each(|id| bytes.extend_from_slice(&id.0.to_be_bytes()));
        // What is sorted as bytes is sorted as numbers.
        let (ids, _) = bytes[HEAD..].as_chunks_mut::<HASH>();
        ids.sort_unstable();
        let count = ids.len();
        bytes[MAGIC.len()..HEAD].copy_from_slice(&(count as u64).to_be_bytes());
        let mut notes = notes;
        let mut patients: Vec<_> = std::mem::take(&mut notes.patients).into_iter().collect();
        patients.sort_unstable();
        let from = bytes.len();
        for id in patients {
            bytes.extend_from_slice(&id.0.to_be_bytes());
        }
        let patients = from..bytes.len();
        let Notes { references, outcomes, unreadable, .. } = &notes;
        let outcomes: Vec<_> = outcomes.iter().collect();
        let said = serde_json::to_vec(&(references, outcomes, unreadable));
        bytes.extend_from_slice(&said.expect("strings and numbers always become JSON"));
        if !patients.is_empty() {
            bytes[..MAGIC.len()].copy_from_slice(WITH_PATIENTS);
            bytes.extend_from_slice(&(patients.len() as u64).to_be_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        Self { bytes: Bytes::from(bytes), count, patients, notes }
    }

    /// How many resources the file holds.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// What the file holds, sorted.
    pub(crate) fn ids(&self) -> impl Iterator<Item = IdHash> + '_ {
        hashes(self.bytes.get(HEAD..HEAD + self.count * HASH).unwrap_or_default())
    }

    /// In whose compartments its lines lie, other than Patient resources.
    pub(crate) fn patients(&self) -> impl Iterator<Item = IdHash> + '_ {
        hashes(self.bytes.get(self.patients.clone()).unwrap_or_default())
    }

    pub(crate) fn contains(&self, id: IdHash) -> bool {
        let ids = self.bytes.get(HEAD..HEAD + self.count * HASH).unwrap_or_default();
        let (ids, _) = ids.as_chunks::<HASH>();
        ids.binary_search(&id.0.to_be_bytes()).is_ok()
    }

    /// Bytes of memory that it takes.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.len() + self.notes.len() * 160 + 64
    }

    /// `offtake1`, the number of ids, the ids, the notes as JSON, CRC-32 of all before it. Of one that tells of patients:
    /// `offtake2`, the number of ids, the ids, the patients, the notes, how many bytes the patients are, CRC-32.
    pub(crate) fn encoded(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The sidecar whose [`encoded`](Self::encoded) form is `bytes`; `None` if anything is not as it was written.
    pub(crate) fn decode(bytes: Bytes) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let (body, patients) = match body.strip_prefix(WITH_PATIENTS) {
            Some(body) => {
                let (body, patients) = body.split_last_chunk::<8>()?;
                (body, usize::try_from(u64::from_be_bytes(*patients)).ok()?)
            }
            None => (body.strip_prefix(MAGIC)?, 0),
        };
        let (count, body) = body.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_be_bytes(*count)).ok()?;
        let (_, body) = body.split_at_checked(count.checked_mul(HASH)?)?;
        let (_, said) = body.split_at_checked(patients)?;
        let from = HEAD + count * HASH;
        let patients = from..from + patients;
        let (references, outcomes, unreadable): (_, Vec<(Issue, u64)>, _) = serde_json::from_slice(said).ok()?;
        let outcomes = outcomes.into_iter().collect();
        let notes = Notes { references, outcomes, unreadable, patients: HashSet::new() };
        Some(Self { bytes, count, patients, notes })
    }
}

fn hashes(bytes: &[u8]) -> impl Iterator<Item = IdHash> + '_ {
    bytes.as_chunks::<HASH>().0.iter().map(|hash| IdHash::from_bytes(*hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(id: &str) -> IdHash {
        IdHash::of(ResourceType::PATIENT, &Id::parse(id).expect("an id"))
    }

    #[test]
    fn a_sidecar_is_read_back_as_it_was_written_and_in_no_other_way() {
        for patients in [vec![], vec!["p", "q"]] {
            let patients: HashSet<_> = patients.into_iter().map(hash).collect();
            let notes = Notes { patients: patients.clone(), ..Notes::default() };
            let sidecar = Sidecar::new(["b", "a", "c"].map(hash), notes);
            let bytes = sidecar.encoded().to_vec();
            let decode = |bytes: &[u8]| Sidecar::decode(Bytes::copy_from_slice(bytes));
            let back = decode(&bytes).expect("what was written");
            assert_eq!(back, sidecar);
            assert!(back.contains(hash("b")) && !back.contains(hash("d")));
            assert_eq!(back.ids().collect::<HashSet<_>>(), HashSet::from(["a", "b", "c"].map(hash)));
            assert_eq!(back.patients().collect::<HashSet<_>>(), patients);
            for index in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1;
                assert_eq!(decode(&damaged), None, "byte {index}");
                assert_eq!(decode(&bytes[..index]), None, "cut at {index}");
            }
        }
    }

    #[test]
    fn ids_of_two_types_do_not_meet() {
        let id = Id::parse("1").expect("an id");
        assert_ne!(IdHash::of(ResourceType::PATIENT, &id), IdHash::of(ResourceType::GROUP, &id));
    }
}
