//! What jobs keep files and records with: store, output, clock and keys.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::rights::Rights;
use super::sidecars::Sidecars;
use crate::clock::Clock;
use crate::job::index::Sidecar;
use crate::job::store::Store;
use crate::job::{Epoch, Job, JobId};
use crate::ledger::Ledger;
use crate::output::checkpoint::{self, CheckpointKey, JobSheet, Place};
use crate::output::writer::Coding;
use crate::output::{Output, OutputError, layout};
use crate::plan::kept::KeptPlan;
use crate::smart::delivery::ClientFolder;
use crate::store::keys::JobKeys;

/// What files are made with.
#[derive(Debug, Clone)]
pub(super) struct Services {
    pub(super) store: Arc<dyn Store>,
    pub(super) output: Output,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ledger: Ledger,
    pub(super) sidecars: Sidecars,
    /// A folder for files without a name: that of the job store.
    pub(super) scratch: Arc<Path>,
    pub(super) instance: Arc<str>,
    /// The folder of the client whose job they are for.
    pub(super) client: Option<ClientFolder>,
    pub(super) checkpoint_key: CheckpointKey,
    /// What patients are sealed with.
    pub(super) keys: JobKeys,
    /// How files for clients are stored.
    pub(super) coding: Coding,
    /// Who may have what now.
    pub(super) rights: Rights,
}

impl Services {
    /// Those for one job: what they write goes where its client's does.
    ///
    /// # Errors
    /// If the output cannot encrypt as the client wants it.
    pub(super) fn of(&self, job: &Job) -> Result<Self, OutputError> {
        let client = job.delivery.folder.clone();
        let output = match &job.delivery.sse_kms_key_id {
            Some(key) => self.output.encrypting_by(key)?,
            None => self.output.clone(),
        };
        Ok(Self { output, client, ..self.clone() })
    }

    /// The same for what ends a job, which has to go on without that key as well: nothing of a resource is written then.
    pub(super) fn ending(&self, job: &Job) -> Self {
        self.of(job).unwrap_or_else(|_| Self { client: job.delivery.folder.clone(), ..self.clone() })
    }

    /// The folder of a job's objects.
    pub(super) fn folder(&self, id: JobId) -> String {
        layout::folder(&self.instance, self.client.as_ref(), id)
    }

    /// Says in the output what a job is; without a plan that it failed or was deleted. Whom it names is sealed by then, or is
    /// left out.
    pub(super) async fn keep_job(&self, epoch: Epoch, job: Job, plan: Option<KeptPlan>) -> Result<(), OutputError> {
        let (id, mut job) = (job.id, job);
        if plan.is_none() || !job.kickoff.tells_nobody() {
            job.kickoff.leave_out_patients();
        }
        // Whom its cohort names, the plan has by now.
        if let Some(listed) = job.cohort.as_mut().and_then(|cohort| cohort.members.as_mut()) {
            listed.patients.clear();
        }
        let sealed = self.seal(id, layout::JOB_CHECKPOINT, &JobSheet { epoch, job, plan });
        self.output.put_again(&self.job_checkpoint(id), sealed).await
    }

    /// The key of the object that says what a job is.
    pub(super) fn job_checkpoint(&self, id: JobId) -> String {
        format!("{}/{}", self.folder(id), layout::JOB_CHECKPOINT)
    }

    /// The key of an object that is there for a moment only, to see whether there is room.
    pub(super) fn room_probe(&self) -> String {
        format!("{}/room", self.instance)
    }

    /// Says in the output that a job has failed or was deleted. Where there is no room for that, what was said of it before
    /// goes: nobody then takes the job for one that goes on. The same where a key of the client's may refuse it: to remove
    /// something takes no key.
    pub(super) async fn mark_over(&self, job: Job) -> Result<(), OutputError> {
        let (id, has_own_key) = (job.id, job.delivery.sse_kms_key_id.is_some());
        match self.keep_job(Epoch::default(), job, None).await {
            Err(error) if has_own_key || error.must_wait() => self.output.remove(&self.job_checkpoint(id)).await,
            kept => kept,
        }
    }

    /// Says in the output what a commit is about to record.
    pub(super) async fn keep_commit(
        &self,
        id: JobId,
        number: u32,
        commit: &checkpoint::Commit,
    ) -> Result<(), OutputError> {
        self.output.check_private()?;
        let name = layout::commit_checkpoint(number);
        self.output.put(&format!("{}/{name}", self.folder(id)), self.seal(id, &name, commit)).await
    }

    /// The sidecar under `key`: from the cache, or read once however many ask for it.
    pub(super) async fn sidecar(&self, key: &str) -> Result<Arc<Sidecar>, OutputError> {
        if let Some(sidecar) = self.sidecars.get(key).await {
            return Ok(sidecar);
        }
        let bytes = self.output.get(key).await?;
        let sidecar = Arc::new(Sidecar::decode(bytes).ok_or(OutputError::Damaged)?);
        self.sidecars.keep(key, Arc::clone(&sidecar)).await;
        Ok(sidecar)
    }

    fn seal<T: Serialize>(&self, job: JobId, name: &str, value: &T) -> Vec<u8> {
        self.checkpoint_key.seal(Place { instance: &self.instance, job, name }, value)
    }
}
