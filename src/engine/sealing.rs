//! Whom an export is for is told to nobody but the export: sealed when it is kept, opened when it is needed (SEC-40).

use super::services::Services;
use crate::clock;
use crate::job::store::StoreError;
use crate::job::{Job, JobId};
use crate::plan::ExportPlan;
use crate::plan::kept::KeptPlan;
use crate::store::keys::KeyError;
use crate::telemetry::error_chain;

impl Services {
    /// A new job as it is recorded: with those sealed whom it names.
    pub(super) async fn sealed_before_it_is_recorded(&self, job: Job) -> Result<Job, KeyError> {
        if job.kickoff.tells_nobody() {
            return Ok(job);
        }
        let key = self.keys.made(job.id).await?;
        Ok(Job { kickoff: job.kickoff.sealed(&key, clock::random()?), ..job })
    }

    /// A recorded job as it is kept. One from before patients were sealed is sealed from now on.
    pub(super) async fn sealed(&self, job: Job) -> Result<Job, KeyError> {
        if job.kickoff.tells_nobody() {
            return Ok(job);
        }
        let key = self.keys.obtain(job.id).await?;
        Ok(Job { kickoff: job.kickoff.sealed(&key, clock::random()?), ..job })
    }

    /// A job with those in the clear whom it names.
    pub(super) async fn opened(&self, job: Job) -> Result<Job, KeyError> {
        if !job.kickoff.is_sealed() {
            return Ok(job);
        }
        let id = job.id;
        let kickoff = job.kickoff.opened(&self.keys.of(id).await?).map_err(|_unopened| KeyError::Damaged(id))?;
        Ok(Job { kickoff, ..job })
    }

    /// A plan as it is kept. One that names nobody needs no key, now or after a loss.
    pub(super) async fn sealed_plan(&self, job: JobId, plan: &ExportPlan) -> Result<KeptPlan, KeyError> {
        if !plan.names_patients() {
            return Ok(KeptPlan::Clear(Box::new(plan.clone())));
        }
        let key = self.keys.obtain(job).await?;
        Ok(KeptPlan::sealed(plan, &key, clock::random()?))
    }

    pub(super) async fn opened_plan(&self, job: JobId, plan: KeptPlan) -> Result<ExportPlan, KeyError> {
        match plan {
            KeptPlan::Clear(plan) => Ok(*plan),
            KeptPlan::Sealed(sealed) => {
                let opened = KeptPlan::open(&sealed, &self.keys.of(job).await?);
                opened.map_err(|_unopened| KeyError::Damaged(job))
            }
        }
    }

    /// Destroys the key of a job that is over. If that cannot be done now, it is when its records are removed.
    pub(super) async fn unseal_never(&self, job: JobId) {
        if let Err(error) = self.keys.destroy(job).await {
            let error = error_chain(&error);
            tracing::warn!(export.job_id = %job, error, "could not destroy the key of an export yet");
        }
    }

    /// The key of a job is one that only its end destroys. If that cannot be said now, it is at the next start.
    pub(super) async fn has_recorded(&self, job: JobId) {
        if let Err(error) = self.keys.is_recorded(job).await {
            tracing::warn!(export.job_id = %job, error = error_chain(&error), "could not settle the key of an export yet");
        }
    }

    /// Removes keys of jobs that were about to be recorded when the process ended.
    pub(super) async fn settle_keys(&self, jobs: &[Job]) {
        if let Err(error) = self.keys.settle(jobs.iter().map(|job| job.id).collect()).await {
            tracing::warn!(error = error_chain(&error), "could not clear up after kick-offs that came to nothing");
        }
    }
}

impl From<KeyError> for StoreError {
    fn from(error: KeyError) -> Self {
        if crate::disk::is_full(&error) { Self::Full } else { Self::Unavailable(error.into()) }
    }
}
