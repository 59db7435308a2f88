//! Expired and deleted output: idempotent, and only what our own records name (SEC-32).

use super::{Engine, Inner, REAP_EVERY};
use crate::clock;
use crate::job::JobId;
use crate::job::checkpoint::FileRecord;
use crate::output::layout;
use crate::telemetry::error_chain;

impl Engine {
    /// Removes what was deleted or has expired, until the process stops.
    pub(super) async fn reap(&self) {
        loop {
            self.inner.expire().await;
            let deleted: Vec<_> = {
                let jobs = self.inner.jobs();
                // A worker that still runs may yet begin an object: it is stopped first.
                jobs.deleted.iter().filter(|id| !jobs.running.contains_key(id)).copied().collect()
            };
            for id in deleted {
                if self.inner.purge(id).await {
                    self.inner.jobs().deleted.remove(&id);
                }
            }
            tokio::select! {
                () = self.inner.drain.cancelled() => return,
                () = self.inner.discarded.notified() => {}
                () = self.inner.services.clock.sleep(REAP_EVERY) => {}
            }
        }
    }
}

impl Inner {
    /// Deletes the jobs whose time has come.
    async fn expire(&self) {
        let now = clock::now(&*self.services.clock);
        let jobs = match self.services.store.jobs().await {
            Ok(jobs) => jobs,
            Err(error) => return tracing::warn!(error = error_chain(&error), "could not look for expired exports"),
        };
        for job in jobs.iter().filter(|job| job.state.expires().is_some_and(|expires| expires <= now)) {
            match self.services.store.delete(job.id).await {
                Ok(_) => self.forget(job.id),
                Err(error) => tracing::warn!(error = error_chain(&error), "could not delete an expired export"),
            }
        }
    }

    /// Removes every object of a deleted job and then its record; `false` if something is left for the next time.
    async fn purge(&self, id: JobId) -> bool {
        let purged = async {
            let records = self.services.store.files(id).await?;
            for key in records.iter().flat_map(FileRecord::keys) {
                self.services.output.remove(&key).await?;
            }
            self.services.output.remove_folder(&layout::folder(&self.services.instance, id)).await;
            Ok::<_, super::FilesError>(self.services.store.purge(id).await?)
        };
        let purged = purged.await;
        if let Err(error) = &purged {
            tracing::warn!(export.job_id = %id, error = error_chain(error), "could not remove a deleted export yet");
        }
        purged.is_ok()
    }
}
