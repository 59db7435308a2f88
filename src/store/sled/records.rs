//! Records in their parts: how one is written to a tree, and what a tree holds of it.

use std::collections::BTreeMap;

use ::sled::{IVec, Tree};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::job::store::StoreError;
use crate::store::codec::{self, Record};

/// What is written to one tree: values by their keys, none where the key is removed.
#[derive(Default)]
pub(super) struct Batch(pub(super) BTreeMap<IVec, Option<IVec>>);

impl Batch {
    pub(super) fn insert(&mut self, key: impl Into<IVec>, value: impl Into<IVec>) {
        self.0.insert(key.into(), Some(value.into()));
    }

    pub(super) fn remove(&mut self, key: impl Into<IVec>) {
        self.0.insert(key.into(), None);
    }

    pub(super) fn to_sled(&self) -> ::sled::Batch {
        let mut batch = ::sled::Batch::default();
        for (key, value) in &self.0 {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch
    }
}

/// Replaces every part of `record`, so that none of a longer one is left behind.
pub(super) fn put<T: Serialize>(tree: &Tree, batch: &mut Batch, record: Record, value: &T) -> Result<(), StoreError> {
    remove(tree, batch, record)?;
    for (key, part) in codec::encode(record, value)? {
        batch.insert(key, part);
    }
    Ok(())
}

pub(super) fn remove(tree: &Tree, batch: &mut Batch, record: Record) -> Result<(), StoreError> {
    for key in tree.scan_prefix(record.prefix()).keys() {
        batch.remove(key.map_err(|error| failed(error, record))?);
    }
    Ok(())
}

pub(super) fn one<T: DeserializeOwned>(tree: &Tree, record: Record) -> Result<Option<T>, StoreError> {
    let parts = parts(tree, record)?;
    if parts.is_empty() { Ok(None) } else { codec::decode(record, &parts).map(Some) }
}

pub(super) fn parts(tree: &Tree, record: Record) -> Result<Vec<(IVec, IVec)>, StoreError> {
    tree.scan_prefix(record.prefix()).collect::<Result<_, _>>().map_err(|error| failed(error, record))
}

/// The records that `parts`, in the order of their keys, make up; `record` knows them by a part's key.
pub(super) fn records<T: DeserializeOwned>(
    parts: ::sled::Iter,
    record: impl Fn(&[u8]) -> Option<Record>,
) -> impl Iterator<Item = Result<(Record, T), StoreError>> {
    let mut parts = parts.peekable();
    let mut broken = false;
    std::iter::from_fn(move || {
        let mut of_one: Vec<(IVec, IVec)> = Vec::new();
        let mut known = None;
        while let Some(part) = parts.next_if(|part| match part {
            Ok((key, _)) => known.is_none() || record(key) == known,
            Err(_) => true,
        }) {
            match part {
                Ok((key, value)) => {
                    let Some(record) = record(&key) else {
                        return Some(Err(StoreError::Damaged("under a key that is too short".to_owned())));
                    };
                    known = Some(record);
                    of_one.push((key, value));
                }
                Err(_) if broken => return None,
                Err(error) => {
                    broken = true; // sled repeats the error for ever
                    return Some(Err(StoreError::Unavailable(error.into())));
                }
            }
        }
        let known = known?;
        Some(codec::decode(known, &of_one).map(|value| (known, value)))
    })
}

pub(super) fn failed(error: ::sled::Error, record: Record) -> StoreError {
    match error {
        ::sled::Error::Corruption { .. } => StoreError::Damaged(record.to_string()),
        error @ (::sled::Error::CollectionNotFound(_)
        | ::sled::Error::Unsupported(_)
        | ::sled::Error::ReportableBug(_)
        | ::sled::Error::Io(_)) => StoreError::Unavailable(error.into()),
    }
}
