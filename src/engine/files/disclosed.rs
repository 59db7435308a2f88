//! What an export discloses, for the ledger: what its files hold, and whose data that is.

use super::{Files, FilesError};
use crate::fhir::resource_type::ResourceType;
use crate::job::Job;
use crate::job::checkpoint::{FileContent, FileRecord};
use crate::job::index::IdHash;
use crate::ledger::LedgerError;
use crate::ledger::record::{Actor, Contents, Event, Finished};
use crate::plan::Cohort;

impl Files {
    /// Records what the export holds with `closing`, which is not committed yet, and whose data: `deleted` are patients of
    /// whom it is only told that they are gone. Afterwards the export may be complete.
    pub(in crate::engine) async fn disclose(
        &self,
        job: &Job,
        closing: &[FileRecord],
        deleted: Vec<IdHash>,
    ) -> Result<(), FilesError> {
        let Some(mut gathering) = self.services.ledger.gather(job.id).await? else { return Ok(()) };
        let files: Vec<_> = self.complete.iter().chain(closing).cloned().collect();
        let contents = Contents::of(&files);
        // At System level the references of a resource are not looked at: whose it is, is not known.
        let is_all = matches!(self.export.plan.cohort, Cohort::Everything);
        for file in &files {
            let are_patients = file.content == FileContent::Resources(ResourceType::PATIENT);
            let Some(key) = file.sidecar().filter(|_| are_patients || !is_all) else { continue };
            let sidecar = self.services.sidecar(key).await?;
            // Hundreds of thousands of hashes: other work goes on meanwhile.
            gathering = blocking(move || {
                if are_patients {
                    gathering.add(sidecar.ids())?;
                }
                gathering.add(sidecar.patients())?;
                Ok(gathering)
            })
            .await?;
        }
        // What is found by what it is about tells of patients of whom nothing else may be in the export.
        let plan = &self.export.plan;
        let is_part = job.kickoff.since.is_some() || job.kickoff.until.is_some() || job.kickoff.types.is_some();
        let has_everybody = !is_part && job.filters.is_empty() && plan.types.contains_key(&ResourceType::PATIENT);
        let tells_of_others =
            plan.looks_at_targets() && !has_everybody && contents.counts.contains_key(&ResourceType::PROVENANCE);
        let anybody = tells_of_others || is_all && contents.counts.keys().any(|name| *name != ResourceType::PATIENT);
        let patients = blocking(move || {
            gathering.add(deleted)?;
            gathering.finish(anybody)
        })
        .await?;
        let actor = Actor::of(&job.owner, None);
        let transaction_time = self.export.plan.horizon.transaction_time();
        let finished = Finished { job: job.id, actor, transaction_time, contents, patients };
        self.services.ledger.append(Event::Finished(finished)).await?;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, FilesError> {
    let worked = tokio::task::spawn_blocking(work).await;
    let worked = worked.map_err(|_| LedgerError::Unusable)?;
    worked.map_err(|error| {
        tracing::warn!(error = %error.kind(), "the list of an export's patients could not be written");
        FilesError::from(if crate::disk::is_full(&error) { LedgerError::Full } else { LedgerError::Unusable })
    })
}
