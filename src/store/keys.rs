//! The keys of exports, each of which seals the patients that its export is for (SEC-40): a small file each, beside the job
//! store and not in it, since a log keeps what was removed from it. Destroying one takes what it sealed from everybody,
//! wherever a copy of that lies.
//!
//! A key is durable before anything is sealed with it. Until its export is recorded it lies there as `{job}.new`: what a
//! crash leaves of one that never came to be is removed at the next start, and no other key that the store does not know, for
//! its records may be rebuilt later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{FolderError, private_folder};
use crate::bulk::sealed::{JobKey, LENGTH};
use crate::clock;
use crate::disk;
use crate::job::JobId;

/// Keys by their jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct JobKeys(Arc<Place>);

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    /// For stores that end with the process.
    Memory(Mutex<BTreeMap<JobId, Secret>>),
}

type Secret = [u8; LENGTH];

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the key that the patients of export {0} are sealed with is not there")]
    Missing(JobId),
    #[error("the key that the patients of export {0} are sealed with is damaged, or is another one")]
    Damaged(JobId),
    #[error("the folder of the keys of exports cannot be used")]
    Folder(#[from] FolderError),
    #[error("a key of an export could not be read or written")]
    Io(#[from] io::Error),
    #[error(transparent)]
    NoRandomness(#[from] clock::NoRandomness),
}

impl KeyError {
    /// Whether it is of no use to try again: what was sealed is lost.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Missing(_) | Self::Damaged(_) => true,
            Self::Folder(_) | Self::Io(_) | Self::NoRandomness(_) => false,
        }
    }
}

/// How far the export has come that a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is about to be recorded.
    New,
    Recorded,
}

impl JobKeys {
    /// Those in a folder, which is made if it is missing.
    ///
    /// # Errors
    /// If others could read them there.
    pub(crate) fn in_folder(folder: &Path) -> Result<Self, KeyError> {
        let is_new = !folder.try_exists()?;
        private_folder(folder)?;
        if is_new {
            disk::sync_folder_of(folder)?;
        }
        Ok(Self(Arc::new(Place::Folder(folder.to_owned()))))
    }

    /// Those of a store that ends with the process.
    pub(crate) fn in_memory() -> Self {
        Self(Arc::new(Place::Memory(Mutex::default())))
    }

    /// The key of a job.
    ///
    /// # Errors
    /// [`KeyError::Missing`] if there is none.
    pub(crate) async fn of(&self, job: JobId) -> Result<JobKey, KeyError> {
        let secret = self.on_disk(move |place| place.read(job)).await?;
        Ok(JobKey::new(job, &secret.ok_or(KeyError::Missing(job))?))
    }

    /// A key for a job that is about to be recorded.
    pub(crate) async fn made(&self, job: JobId) -> Result<JobKey, KeyError> {
        self.obtained(job, Stage::New).await
    }

    /// The key of a job that is recorded; it is made if there is none yet.
    pub(crate) async fn obtain(&self, job: JobId) -> Result<JobKey, KeyError> {
        self.obtained(job, Stage::Recorded).await
    }

    async fn obtained(&self, job: JobId, stage: Stage) -> Result<JobKey, KeyError> {
        let secret = self.on_disk(move |place| {
            if let Some(secret) = place.read(job)? {
                return Ok(secret);
            }
            let secret = clock::random()?;
            place.write(job, stage, &secret)?;
            Ok(secret)
        });
        Ok(JobKey::new(job, &secret.await?))
    }

    /// The job that a key was [made](Self::made) for is recorded: from now on only its end destroys it.
    pub(crate) async fn is_recorded(&self, job: JobId) -> Result<(), KeyError> {
        self.on_disk(move |place| place.settle_one(job)).await
    }

    /// Destroys the key of a job, whether there is one or not.
    pub(crate) async fn destroy(&self, job: JobId) -> Result<(), KeyError> {
        self.on_disk(move |place| place.destroy(job)).await
    }

    /// After a start: removes the keys of jobs that never came to be. Those of `jobs` are recorded.
    pub(crate) async fn settle(&self, jobs: BTreeSet<JobId>) -> Result<(), KeyError> {
        self.on_disk(move |place| place.settle(&jobs)).await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        let place = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&place)).await;
        done.unwrap_or_else(|ended| Err(io::Error::other(ended).into()))
    }
}

impl Place {
    fn read(&self, job: JobId) -> Result<Option<Secret>, KeyError> {
        let folder = match self {
            Self::Folder(folder) => folder,
            Self::Memory(keys) => {
                return Ok(keys.lock().unwrap_or_else(PoisonError::into_inner).get(&job).copied());
            }
        };
        for stage in [Stage::Recorded, Stage::New] {
            match fs::read(path(folder, job, stage)) {
                Ok(bytes) => return bytes.try_into().map(Some).map_err(|_| KeyError::Damaged(job)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn write(&self, job: JobId, stage: Stage, secret: &Secret) -> Result<(), KeyError> {
        match self {
            Self::Folder(folder) => {
                private_folder(folder)?;
                Ok(disk::keep(&path(folder, job, stage), secret)?)
            }
            Self::Memory(keys) => {
                keys.lock().unwrap_or_else(PoisonError::into_inner).insert(job, *secret);
                Ok(())
            }
        }
    }

    fn destroy(&self, job: JobId) -> Result<(), KeyError> {
        match self {
            Self::Folder(folder) => {
                for stage in [Stage::Recorded, Stage::New] {
                    destroy(&path(folder, job, stage))?;
                }
            }
            Self::Memory(keys) => drop(keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&job)),
        }
        Ok(())
    }

    fn settle_one(&self, job: JobId) -> Result<(), KeyError> {
        let Self::Folder(folder) = self else { return Ok(()) };
        let recorded = path(folder, job, Stage::Recorded);
        match fs::rename(path(folder, job, Stage::New), &recorded) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(disk::sync_folder_of(&recorded)?),
        }
    }

    fn settle(&self, jobs: &BTreeSet<JobId>) -> Result<(), KeyError> {
        let Self::Folder(folder) = self else { return Ok(()) };
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            let Some((job, rest)) = name.to_str().and_then(|name| name.split_once('.')) else { continue };
            let Ok(job) = job.parse() else { continue };
            match rest {
                "new" if jobs.contains(&job) => self.settle_one(job)?,
                "new" => destroy(&path(folder, job, Stage::New))?,
                // What was being written when the process ended.
                rest if rest.starts_with("new.new-") || rest.starts_with("key.new-") => destroy(&folder.join(&name))?,
                _ => {}
            }
        }
        Ok(())
    }
}

fn path(folder: &Path, job: JobId, stage: Stage) -> PathBuf {
    let extension = match stage {
        Stage::New => "new",
        Stage::Recorded => "key",
    };
    folder.join(format!("{job}.{extension}"))
}

/// Writes over a key and removes it. Where a disk writes elsewhere than it is told, to remove it is all that there is.
fn destroy(path: &Path) -> io::Result<()> {
    let overwritten = OpenOptions::new().write(true).open(path).and_then(|mut file| {
        file.write_all(&[0; LENGTH])?;
        file.sync_all()
    });
    match (overwritten, fs::remove_file(path)) {
        (_, Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        (_, Err(error)) => Err(error),
        // On a disk that is full there may be no room to write over something.
        (_, Ok(())) => disk::sync_folder_of(path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;
    use crate::bulk::sealed::Part;

    const JOB: JobId = JobId::new([1; 16]);
    const OTHER: JobId = JobId::new([2; 16]);

    fn places() -> (TempDir, [JobKeys; 2]) {
        let parent = tempfile::tempdir().expect("a folder");
        let keys = JobKeys::in_folder(&parent.path().join("job-keys")).expect("it can be made");
        (parent, [keys, JobKeys::in_memory()])
    }

    fn names(parent: &TempDir) -> Vec<String> {
        let names = fs::read_dir(parent.path().join("job-keys")).expect("a folder");
        let mut names: Vec<_> =
            names.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn each_job_has_a_key_of_its_own_until_it_is_destroyed() {
        let (parent, places) = places();
        for keys in places {
            assert!(matches!(keys.of(JOB).await, Err(KeyError::Missing(JOB))));
            let made = keys.made(JOB).await.expect("room");
            let sealed = made.seal(Part::Plan, [1; 12], b"text".to_vec());
            keys.is_recorded(JOB).await.expect("room");
            for key in [keys.of(JOB).await, keys.made(JOB).await, keys.obtain(JOB).await] {
                assert_eq!(key.expect("it is there").open(Part::Plan, &sealed).as_deref(), Ok(b"text".as_slice()));
            }
            let same = keys.obtain(OTHER).await.expect("room").seal(Part::Plan, [1; 12], b"text".to_vec());
            assert_ne!(same, sealed);
            for _ in 0..2 {
                keys.destroy(JOB).await.expect("it is ours");
            }
            assert!(keys.of(JOB).await.expect_err("destroyed").is_lost());
            assert!(keys.obtain(JOB).await.expect("another one").open(Part::Plan, &sealed).is_err());
        }
        assert_eq!(names(&parent), [format!("{JOB}.key"), format!("{OTHER}.key")]);
    }

    /// SEC-40: 0700 and 0600.
    #[tokio::test]
    async fn keys_are_for_their_owner_only() {
        let (parent, [keys, _]) = places();
        keys.obtain(JOB).await.expect("room");
        let (folder, file) = (parent.path().join("job-keys"), format!("{JOB}.key"));
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(&file))), (0o700, 0o600));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).expect("it is ours");
        assert!(matches!(keys.obtain(OTHER).await, Err(KeyError::Folder(FolderError::OpenToOthers { .. }))));
        assert!(matches!(JobKeys::in_folder(&folder), Err(KeyError::Folder(FolderError::OpenToOthers { .. }))));
        assert_eq!(names(&parent), [file]);
    }

    /// A store may be rebuilt, or put back, after a start on an empty one.
    #[tokio::test]
    async fn only_keys_of_jobs_that_never_came_to_be_are_removed_at_a_start() {
        let (parent, [keys, _]) = places();
        let [lost, unknown] = [[3; 16], [4; 16]].map(JobId::new);
        for job in [JOB, lost] {
            keys.made(job).await.expect("room");
        }
        for job in [OTHER, unknown] {
            keys.obtain(job).await.expect("room");
        }
        for name in [format!("{JOB}.key.new-12"), format!("{JOB}.new.new-12"), "of-others".to_owned()] {
            fs::write(parent.path().join("job-keys").join(name), "half").expect("room");
        }
        keys.settle([JOB, OTHER].into()).await.expect("it is ours");
        let expected = [format!("{JOB}.key"), format!("{OTHER}.key"), format!("{unknown}.key"), "of-others".to_owned()];
        assert_eq!(names(&parent), expected);
    }

    #[tokio::test]
    async fn a_key_that_was_cut_is_damaged_and_no_other_one_is_made_for_it() {
        let (parent, [keys, _]) = places();
        keys.obtain(JOB).await.expect("room");
        fs::write(parent.path().join(format!("job-keys/{JOB}.key")), "short").expect("room");
        for key in [keys.of(JOB).await, keys.obtain(JOB).await] {
            assert!(matches!(key, Err(KeyError::Damaged(JOB))));
        }
    }

    /// Nothing of it is left in the file that somebody has linked or opened before.
    #[tokio::test]
    async fn a_key_is_written_over_before_it_is_removed() {
        let (parent, [keys, _]) = places();
        keys.obtain(JOB).await.expect("room");
        let linked = parent.path().join("linked");
        fs::hard_link(parent.path().join(format!("job-keys/{JOB}.key")), &linked).expect("room");
        keys.destroy(JOB).await.expect("it is ours");
        assert_eq!(fs::read(linked).expect("it is there"), [0; LENGTH]);
    }
}
