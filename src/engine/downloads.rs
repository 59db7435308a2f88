//! Downloads under way: a file that is being fetched is not removed because its time has come (SEC-30). Kept in memory
//! only: they end with the process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::fhir::datatypes::Millis;
use crate::job::JobId;

/// Who fetches what. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Downloads {
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    jobs: HashMap<JobId, Fetched>,
    /// The number of the latest download.
    last: u64,
}

/// What is being fetched of one job.
#[derive(Debug, Default)]
struct Fetched {
    /// The key of the object, by the number of the download.
    objects: HashMap<u64, String>,
    cut: CancellationToken,
    /// Once the job has expired: until when its files are held for those who fetch them.
    until: Option<Millis>,
}

/// One download. Its file is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Download {
    downloads: Downloads,
    job: JobId,
    number: u64,
    cut: CancellationToken,
}

impl Downloads {
    /// Holds the object under `key`. Whoever begins looks afterwards whether the job is still there: from then on it is
    /// either held or cut.
    pub(super) fn begin(&self, job: JobId, key: &str) -> Download {
        let mut under_way = self.lock();
        under_way.last += 1;
        let number = under_way.last;
        let fetched = under_way.jobs.entry(job).or_default();
        fetched.objects.insert(number, key.to_owned());
        Download { downloads: self.clone(), job, number, cut: fetched.cut.clone() }
    }

    /// Ends every download of a job.
    pub(super) fn cut(&self, job: JobId) {
        if let Some(fetched) = self.lock().jobs.remove(&job) {
            fetched.cut.cancel();
        }
    }

    /// Lets the downloads of an expired job go on until then.
    pub(super) fn expire(&self, job: JobId, until: Millis) {
        if let Some(fetched) = self.lock().jobs.get_mut(&job) {
            fetched.until = Some(until);
        }
    }

    /// The objects of a deleted or expired job that cannot be removed yet; downloads that have no right to hold theirs
    /// are cut.
    pub(super) fn held(&self, job: JobId, now: Millis) -> HashSet<String> {
        let objects = self
            .lock()
            .jobs
            .get(&job)
            .filter(|fetched| fetched.until.is_some_and(|until| now < until))
            .map(|fetched| fetched.objects.values().cloned().collect::<HashSet<_>>());
        objects.unwrap_or_else(|| {
            self.cut(job);
            HashSet::new()
        })
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Download {
    /// Completes once nothing more of the file may be sent.
    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut under_way = self.downloads.lock();
        if let Some(fetched) = under_way.jobs.get_mut(&self.job) {
            fetched.objects.remove(&self.number);
            if fetched.objects.is_empty() {
                under_way.jobs.remove(&self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId::new([1; 16]);

    #[test]
    fn what_is_fetched_is_held_after_its_time_and_never_after_a_deletion() {
        let downloads = Downloads::default();
        let (first, second) = (downloads.begin(JOB, "a"), downloads.begin(JOB, "b"));
        let keys = |now| {
            let mut keys: Vec<_> = downloads.held(JOB, Millis(now)).into_iter().collect();
            keys.sort();
            keys
        };
        downloads.expire(JOB, Millis(100));
        assert_eq!(keys(99), ["a", "b"]);
        drop(first);
        assert_eq!(keys(99), ["b"]);
        assert!(!second.cut.is_cancelled());
        assert!(keys(100).is_empty(), "its hour is over");
        assert!(second.cut.is_cancelled());
        let third = downloads.begin(JOB, "c");
        assert!(keys(0).is_empty() && third.cut.is_cancelled(), "deleted, not expired");
        drop((second, third));
        assert!(downloads.lock().jobs.is_empty());
    }
}
