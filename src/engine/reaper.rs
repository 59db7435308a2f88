//! Expired and deleted output: idempotent, and only what our own records name (SEC-32).

use std::collections::HashSet;
use std::sync::Arc;

use super::files::FilesError;
use super::services::Services;
use super::{Engine, HELD_FOR, Inner, REAP_EVERY};
use crate::clock;
use crate::job::checkpoint::FileRecord;
use crate::job::store::{Change, StoreError};
use crate::job::{Job, JobId};
use crate::ledger::record::{Actor, Ended, Event};
use crate::output::checkpoint;
use crate::telemetry::error_chain;

impl Engine {
    /// Looks for what has expired or was revoked, until the process stops: however long removals take.
    pub(super) async fn look_for_ended(&self) {
        loop {
            self.inner.keep_consent().await;
            self.expire_and_revoke().await;
            self.inner.forget_used().await;
            self.inner.keep_clock(false).await;
            tokio::select! {
                () = self.inner.drain.cancelled() => return self.inner.keep_clock(true).await,
                () = self.inner.look.notified() => {}
                () = self.inner.services.clock.sleep(REAP_EVERY) => {}
            }
        }
    }

    /// Removes what was deleted, until the process stops.
    pub(super) async fn reap(&self) {
        loop {
            let (deleted, failed) = {
                let jobs = self.inner.jobs();
                // A worker that still runs may yet begin an object: it is stopped first.
                let stopped = |ids: &HashSet<JobId>| -> Vec<JobId> {
                    ids.iter().filter(|id| !jobs.running.contains_key(id)).copied().collect()
                };
                (stopped(&jobs.deleted), stopped(&jobs.failed))
            };
            for id in failed {
                if self.inner.clear(id).await {
                    self.inner.jobs().failed.remove(&id);
                }
            }
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

impl Engine {
    /// Deletes the jobs whose time has come, and those that their client may have no more.
    async fn expire_and_revoke(&self) {
        let jobs = match self.inner.services.store.jobs().await {
            Ok(jobs) => jobs,
            Err(error) => return tracing::warn!(error = error_chain(&error), "could not look for expired exports"),
        };
        for job in &jobs {
            let revoked = async {
                if !self.inner.services.is_revoked(job).await? {
                    return Ok(false);
                }
                // What has expired may be held by a download still.
                self.inner.downloads.cut(job.id);
                self.inner.delete_in_store(job.id).await
            };
            match revoked.await {
                Ok(true) => {
                    // However long storage and ledger take for that, the next one is not kept waiting.
                    let (inner, id, told) = (Arc::clone(&self.inner), job.id, Event::Revoked(ended(job)));
                    let telling = async move { inner.tell_deleted(id, told).await };
                    self.inner.tasks.spawn_on(telling, &self.inner.runtime);
                    tracing::warn!(export.job_id = %job.id, "an export was revoked: its client may not have it any more");
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(error = error_chain(&error), "could not revoke an export yet"),
            }
        }
        // Afterwards: nobody gets what has expired.
        self.expire(&jobs).await;
    }

    /// Deletes the jobs whose time has come.
    async fn expire(&self, jobs: &[Job]) {
        let inner = &self.inner;
        // SEC-44: it comes back, or somebody says that it is right.
        if inner.timekeeper.watch.holds_expiry() {
            return;
        }
        let now = clock::now(&*inner.services.clock);
        let expired = jobs.iter().filter_map(|job| Some((job, job.state.expires().filter(|expires| *expires <= now)?)));
        for (job, expires) in expired {
            inner.downloads.expire(job.id, expires.saturating_add(HELD_FOR));
            match inner.services.store.delete(job.id).await {
                Ok(was_there) => {
                    inner.services.unseal_never(job.id).await;
                    inner.forget(job.id);
                    if was_there {
                        let (ledger, told) = (inner.services.ledger.clone(), Event::Expired(ended(job)));
                        inner.tasks.spawn_on(async move { ledger.note(told).await }, &inner.runtime);
                    }
                }
                Err(error) => tracing::warn!(error = error_chain(&error), "could not delete an expired export"),
            }
        }
    }
}

/// What is told of an export that has ended by itself.
pub(super) fn ended(job: &Job) -> Ended {
    Ended { job: job.id, actor: Actor::of(&job.owner, None) }
}

impl Inner {
    /// Keeps the list of those who withdrew consent. If that fails, it is tried again, and after a crash before that everybody
    /// who came onto it counts as new.
    async fn keep_consent(&self) {
        let rights = &self.services.rights;
        let Some(consent) = rights.to_be_kept() else { return };
        match self.services.store.keep_consent((*consent).clone()).await {
            Ok(()) => rights.is_kept(&consent),
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "could not keep the list of excluded patients yet");
            }
        }
    }

    /// Assertions that have expired are refused without being remembered.
    async fn forget_used(&self) {
        if self.timekeeper.watch.holds_expiry() {
            return;
        }
        if let Err(error) = self.services.store.forget_used(clock::now(&*self.services.clock)).await {
            tracing::warn!(error = error_chain(&error), "could not forget assertions that have expired");
        }
    }

    /// Removes every object of a failed job but the one that says so, and leaves its record for those who ask; `false` if
    /// something is left for the next time.
    async fn clear(&self, id: JobId) -> bool {
        let cleared = async {
            let store = &self.services.store;
            let records = store.files(id).await?;
            let Some(job) = store.job(id).await? else { return Ok(()) };
            let services = self.services.ending(&job);
            services.mark_over(job).await?;
            services.keys.destroy(id).await?;
            remove_objects(&services, id, &records, &HashSet::new()).await?;
            if !records.is_empty() {
                let forgotten = records.iter().map(|record| record.no).collect();
                let lease = store.claim(id).await?;
                store.commit(lease, Change { forgotten, ..Change::default() }).await?;
            }
            Ok::<_, FilesError>(())
        };
        match cleared.await {
            // Deleted meanwhile: then it is purged.
            Ok(()) | Err(FilesError::Store(StoreError::Fenced)) => true,
            Err(error) => {
                tracing::warn!(export.job_id = %id, error = error_chain(&error), "could not clear up after a failed export yet");
                false
            }
        }
    }

    /// Removes every object of a deleted job, at last the one that says that it was deleted, and then its record; `false`
    /// if something is left for the next time, such as a file that is being fetched.
    async fn purge(&self, id: JobId) -> bool {
        let purged = async {
            // Its worker may have made one after it was destroyed.
            self.services.keys.destroy(id).await?;
            let records = self.services.store.files(id).await?;
            let services = match self.services.store.job(id).await? {
                Some(job) => {
                    let services = self.services.ending(&job);
                    services.mark_over(job).await?;
                    services
                }
                None => self.services.clone(),
            };
            let held = self.downloads.held(id, clock::now(&*services.clock));
            remove_objects(&services, id, &records, &held).await?;
            if !held.is_empty() {
                return Ok(false);
            }
            services.output.remove(&services.job_checkpoint(id)).await?;
            services.output.remove_folder(&services.folder(id)).await;
            // While the store knows of it: what cannot be recorded now is tried again.
            services.ledger.append(Event::Purged { job: id }).await?;
            services.store.purge(id).await?;
            Ok::<_, FilesError>(true)
        };
        let purged = purged.await;
        if let Err(error) = &purged {
            tracing::warn!(export.job_id = %id, error = error_chain(error), "could not remove a deleted export yet");
        }
        purged.unwrap_or(false)
    }
}

/// Removes what the records of a job name: its files but for those in `held`, their sidecars, what is left of unfinished
/// uploads to them, and the checkpoint objects of their commits.
async fn remove_objects(
    services: &Services,
    id: JobId,
    records: &[FileRecord],
    held: &HashSet<String>,
) -> Result<(), FilesError> {
    let folder = services.folder(id);
    services.output.end_uploads(&folder, records).await?;
    let commits = checkpoint::commit_keys(&folder, records);
    let keys = records.iter().flat_map(FileRecord::keys).chain(commits);
    for key in keys.filter(|key| !held.contains(key)) {
        services.output.remove(&key).await?;
    }
    Ok(())
}
