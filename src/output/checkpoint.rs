//! Checkpoint objects: beside a job's output, what its records in the store can be rebuilt from (SEC-32).
//!
//! ```text
//! {instance}/{job}/job.checkpoint      what the job is: record and plan; of one that failed or was deleted, that it did
//! {instance}/{job}/00001.checkpoint    what its first commit of files recorded; the last one says that it is complete
//! ```
//!
//! Each is `offtake-checkpoint-1`, a line end, an HMAC-SHA-256 and then JSON. The key is in no bucket, and what it
//! authenticates names instance, job and object: none can be put in another's place. Pure.
//!
//! # Order of writing
//!
//! The object of a commit is written *before* the commit. A crash in between leaves one commit too many in the bucket,
//! and its number is the next one's: the next life of the job removes the files that it names, as it does with all that
//! are open, and writes over it. Until then it can be used, if all that it names is still there: it is what the commit
//! would have recorded. That a job failed or was deleted is written *after* the store has
//! recorded it, and before anything of the job is removed.

use std::fmt;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use super::layout;
use crate::job::checkpoint::FileRecord;
use crate::job::{Epoch, Job, JobId, JobState};
use crate::plan::ExportPlan;

const MAGIC: &[u8] = b"offtake-checkpoint-1\n";
/// Bytes in a key and in a tag.
pub(crate) const LENGTH: usize = 32;

/// `job.checkpoint`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobSheet {
    /// Who held the job when it was written.
    pub(crate) epoch: Epoch,
    pub(crate) job: Job,
    /// None once the job has failed or was deleted.
    pub(crate) plan: Option<ExportPlan>,
}

/// What one commit of files recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Commit {
    pub(crate) epoch: Epoch,
    /// Files that were completed together.
    pub(crate) files: Vec<FileRecord>,
    /// The job's state from then on.
    pub(crate) state: JobState,
}

/// Where an object lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) instance: &'a str,
    pub(crate) job: JobId,
    pub(crate) name: &'a str,
}

/// The key that checkpoint objects are authenticated with. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub(crate) struct CheckpointKey(hmac::Key);

impl CheckpointKey {
    pub(crate) fn new(secret: &[u8; LENGTH]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// `value` as the object at `place`.
    pub(crate) fn seal<T: Serialize>(&self, place: Place<'_>, value: &T) -> Vec<u8> {
        let json =
            serde_json::to_vec(value).expect("records always become JSON: they are kept as such in the store too");
        let tag = self.tag(place, &json);
        [MAGIC, tag.as_ref(), &json].concat()
    }

    fn tag(&self, place: Place<'_>, json: &[u8]) -> hmac::Tag {
        hmac::sign(&self.0, &canonical(place, json))
    }
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckpointKey")
    }
}

/// The keys of a job's checkpoint objects, but for that of the job itself, of which `records` are the files: those of
/// their commits, and of one more that may have been under way.
pub(crate) fn commit_keys(folder: &str, records: &[FileRecord]) -> impl Iterator<Item = String> + use<> {
    let last = records.iter().map(FileRecord::commit).max().unwrap_or(0);
    let folder = folder.to_owned();
    (1..=last.saturating_add(1)).map(move |number| format!("{folder}/{}", layout::commit_checkpoint(number)))
}

/// What is authenticated. Each part is led by its length, so that no two objects have the same text.
fn canonical(place: Place<'_>, json: &[u8]) -> Vec<u8> {
    let mut text = MAGIC.to_vec();
    for part in [place.instance, &place.job.to_string(), place.name] {
        text.extend_from_slice(format!("{}:{part}\n", part.len()).as_bytes());
    }
    text.extend_from_slice(json);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_bound_to_its_key_its_place_and_what_it_says() {
        let place = Place { instance: "0a", job: JobId::new([1; 16]), name: "00001.checkpoint" };
        let key = CheckpointKey::new(&[7; LENGTH]);
        let sealed = key.seal(place, &"what it says");
        assert!(sealed.starts_with(MAGIC) && sealed.ends_with(b"\"what it says\""));
        let tag = |sealed: &[u8]| sealed[MAGIC.len()..MAGIC.len() + LENGTH].to_vec();
        for (other, value, key) in [
            (Place { instance: "0b", ..place }, "what it says", key.clone()),
            (Place { job: JobId::new([2; 16]), ..place }, "what it says", key.clone()),
            (Place { name: "00002.checkpoint", ..place }, "what it says", key.clone()),
            (place, "something else", key.clone()),
            (place, "what it says", CheckpointKey::new(&[8; LENGTH])),
        ] {
            assert_ne!(tag(&key.seal(other, &value)), tag(&sealed), "{other:?} {value}");
        }
    }
}
