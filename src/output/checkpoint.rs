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
//! would have recorded. What is read back is therefore always a state that the store had or was about to have, never a
//! mixture ([`rebuild`](self::rebuild::rebuild) takes commits in their order, up to the first that is not good), and so no
//! more than what a crash at that time would have left. That a job failed or was deleted is written *after* the store has
//! recorded it, and before anything of the job is removed.

pub(crate) mod rebuild;

use std::fmt;

use aws_lc_rs::hmac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::layout;
use crate::job::checkpoint::{FileRecord, FileState};
use crate::job::{Epoch, Job, JobId, JobState};
use crate::output::layout::ObjectName;
use crate::plan::kept::KeptPlan;

/// Larger ones are not read: the sealed plan of an export of 800,000 members fits.
pub(crate) const MOST_BYTES: u64 = 96 * 1024 * 1024;

const MAGIC: &[u8] = b"offtake-checkpoint-1\n";
/// What another version's begin with as well.
const FAMILY: &[u8] = b"offtake-checkpoint-";
/// Bytes in a key and in a tag.
pub(crate) const LENGTH: usize = 32;

/// `job.checkpoint`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobSheet {
    /// Who held the job when it was written.
    pub(crate) epoch: Epoch,
    pub(crate) job: Job,
    /// None once the job has failed or was deleted.
    pub(crate) plan: Option<KeptPlan>,
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

/// Why a checkpoint object is not used. Nothing of what it holds is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it is larger than {MOST_BYTES} bytes")]
    TooLarge,
    #[error("it is no checkpoint object")]
    Foreign,
    #[error("another version of this program wrote it")]
    Version,
    #[error("it was changed, is in another's place, or was written with another key")]
    Signature,
    #[error("it does not hold what it should")]
    Content,
    #[error("it names objects of others")]
    ForeignKey,
    #[error("a file that it names is missing or has another size")]
    Missing,
    #[error("a later life of the job takes precedence")]
    Stale,
    #[error("it follows on one that cannot be used")]
    Unconnected,
}

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

    /// What the object at `place` holds.
    ///
    /// # Errors
    /// [`Refused`] if it is not what [`seal`](Self::seal) gave for this place.
    pub(crate) fn open<T: DeserializeOwned>(&self, place: Place<'_>, bytes: &[u8]) -> Result<T, Refused> {
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Refused::TooLarge);
        }
        let Some(sealed) = bytes.strip_prefix(MAGIC) else {
            return Err(if bytes.starts_with(FAMILY) { Refused::Version } else { Refused::Foreign });
        };
        let (tag, json) = sealed.split_first_chunk::<LENGTH>().ok_or(Refused::Foreign)?;
        let text = canonical(place, json);
        // Compares in constant time.
        hmac::verify(&self.0, &text, tag).map_err(|_| Refused::Signature)?;
        serde_json::from_slice(json).map_err(|_| Refused::Content)
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

impl Commit {
    /// Whether its files are complete and of this commit, and all its keys those of this job: nobody may have another's
    /// objects listed or removed.
    pub(crate) fn check(&self, folder: &str, number: u32) -> Result<(), Refused> {
        for record in &self.files {
            let FileState::Complete(file) = &record.state else { return Err(Refused::Content) };
            if file.commit != number {
                return Err(Refused::Content);
            }
            let is_own = |key: &str, is_data: bool| {
                let name = key.strip_prefix(folder).and_then(|name| name.strip_prefix('/'));
                match name.and_then(ObjectName::parse) {
                    Some(ObjectName::Data { content, .. }) => is_data && content == record.content,
                    Some(ObjectName::Sidecar { content, .. }) => !is_data && content == record.content,
                    Some(ObjectName::JobCheckpoint | ObjectName::CommitCheckpoint(_)) | None => false,
                }
            };
            let object = file.object.as_ref().is_none_or(|object| is_own(&object.key, true));
            let sidecar = file.sidecar.as_deref().is_none_or(|key| is_own(key, false));
            if !object || !sidecar {
                return Err(Refused::ForeignKey);
            }
        }
        Ok(())
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
    use crate::fhir::resource_type::ResourceType;
    use crate::job::Running;
    use crate::job::checkpoint::{CompleteFile, FileContent, FileNo, StoredObject};

    const PLACE: Place<'_> = Place { instance: "0a", job: JobId::new([1; 16]), name: "00001.checkpoint" };

    fn key() -> CheckpointKey {
        CheckpointKey::new(&[7; LENGTH])
    }

    #[test]
    fn an_object_opens_in_its_own_place_with_its_own_key_only() {
        let sealed = key().seal(PLACE, &"what it says");
        assert_eq!(key().open::<String>(PLACE, &sealed).as_deref(), Ok("what it says"));
        for (place, key) in [
            (Place { instance: "0b", ..PLACE }, key()),
            (Place { job: JobId::new([2; 16]), ..PLACE }, key()),
            (Place { name: "00002.checkpoint", ..PLACE }, key()),
            (PLACE, CheckpointKey::new(&[8; LENGTH])),
        ] {
            assert_eq!(key.open::<String>(place, &sealed), Err(Refused::Signature), "{place:?}");
        }
        assert_eq!(key().open::<u8>(PLACE, &sealed), Err(Refused::Content));
    }

    #[test]
    fn every_byte_of_an_object_counts() {
        let sealed = key().seal(PLACE, &"what it says");
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(key().open::<String>(PLACE, &changed).is_err(), "byte {index}");
            assert!(key().open::<String>(PLACE, &sealed[..index]).is_err(), "cut at {index}");
        }
        let later = [b"offtake-checkpoint-2\n", &sealed[MAGIC.len()..]].concat();
        assert_eq!(key().open::<String>(PLACE, &later), Err(Refused::Version));
        let large = vec![b'x'; usize::try_from(MOST_BYTES).expect("it fits") + 1];
        assert_eq!(key().open::<String>(PLACE, &large), Err(Refused::TooLarge));
    }

    /// SEC-32: names only keys of its own job.
    #[test]
    fn a_commit_that_names_anything_but_its_own_jobs_files_is_refused() {
        let folder = "0a/01010101010101010101010101010101";
        let data = |name: &str| format!("{folder}/Patient-00000.1.{name}");
        let commit = |object: &str, sidecar: &str| {
            let object =
                StoredObject { key: object.to_owned(), lines: 1, bytes: 1, sha256: String::new(), plain: None };
            let (object, sidecar) = (Some(object), Some(sidecar.to_owned()));
            let state = FileState::Complete(CompleteFile {
                object,
                sidecar,
                slices: Vec::new(),
                commit: 1,
                ..CompleteFile::default()
            });
            let content = FileContent::Resources(ResourceType::PATIENT);
            let files = vec![FileRecord { no: FileNo(0), content, state }];
            Commit { epoch: Epoch(1), files, state: JobState::Running(Running::default()) }
        };
        assert_eq!(commit(&data("ndjson"), &data("ids")).check(folder, 1), Ok(()));
        assert_eq!(commit(&data("ndjson"), &data("ids")).check(folder, 2), Err(Refused::Content));
        for (object, sidecar) in [
            ("0a/02020202020202020202020202020202/Patient-00000.1.ndjson".to_owned(), data("ids")),
            (format!("{folder}/../02020202020202020202020202020202/Patient-00000.1.ndjson"), data("ids")),
            (format!("{folder}0/Patient-00000.1.ndjson"), data("ids")),
            (format!("{folder}/Group-00000.1.ndjson"), data("ids")),
            (data("ids"), data("ids")),
            (data("ndjson"), data("ndjson")),
            (data("ndjson"), format!("{folder}/job.checkpoint")),
            (data("ndjson"), "0b/01010101010101010101010101010101/Patient-00000.1.ids".to_owned()),
        ] {
            assert_eq!(commit(&object, &sidecar).check(folder, 1), Err(Refused::ForeignKey), "{object} {sidecar}");
        }
    }
}
