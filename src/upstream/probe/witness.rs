//! Resources that a search by patient is tried on. Data changes while it is looked at: that a witness is not found proves
//! something only if it was there, unchanged, before and after.

use super::patients::patients_of;
use crate::fhir::bundle::{Entry, Referenced};
use crate::fhir::datatypes::{Id, Instant};

/// Witnesses that may change while they are looked for until a search is no longer believed. A server that is written to all the time and
/// is slow to answer changed four of a type with a few resources, one after another.
pub(super) const MOST_CHANGED: usize = 10;

/// What is kept of a resource: not its bytes, so that no page waits with it.
pub(super) struct Witness {
    id: Id,
    version_id: Option<Box<str>>,
    last_updated: Option<Instant>,
    references: Vec<Referenced>,
}

impl Witness {
    /// What some entries can testify.
    pub(super) fn all(entries: Vec<Entry>) -> Vec<Self> {
        let witness =
            |Entry { id, version_id, last_updated, references, .. }| Self { id, version_id, last_updated, references };
        entries.into_iter().map(witness).collect()
    }

    /// The patients that it names in these elements.
    pub(super) fn patients<'a>(&'a self, paths: &'a [&'a str], bases: &'a [&'a str]) -> impl Iterator<Item = Id> + 'a {
        patients_of(&self.references, paths, bases)
    }

    pub(super) fn names(&self, patient: &Id, paths: &[&str], bases: &[&str]) -> bool {
        self.patients(paths, bases).any(|named| named == *patient)
    }

    /// Whether it is among `later` as it was.
    pub(super) fn is_among(&self, later: &[Self]) -> bool {
        later.iter().any(|other| {
            self.id == other.id
                && self.version_id == other.version_id
                && self.last_updated == other.last_updated
                && self.references == other.references
        })
    }
}
