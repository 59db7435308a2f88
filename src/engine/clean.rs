//! Removes what a worker before this one left unfinished, before a job goes on.

use std::time::Duration;

use super::Inner;
use super::files::FilesError;
use super::run::RunError;
use super::services::Services;
use crate::job::checkpoint::{FileRecord, FileState};
use crate::job::store::{Change, Lease};
use crate::output::checkpoint;

/// How long a storage may take for what a killed process had asked of it.
const LATE: Duration = Duration::from_secs(3);

impl Inner {
    /// `services` are those of the job.
    pub(super) async fn clean(
        &self,
        services: &Services,
        lease: Lease,
        records: &mut Vec<FileRecord>,
    ) -> Result<(), RunError> {
        let is_open = |record: &FileRecord| matches!(record.state, FileState::Open { .. });
        let folder = services.folder(lease.job);
        // A checkpoint object that was written and never committed.
        if let Some(key) = checkpoint::commit_keys(&folder, records).last() {
            services.output.remove(&key).await.map_err(FilesError::from)?;
        }
        let left: Vec<_> = records.iter().filter(|record| is_open(record)).cloned().collect();
        if left.is_empty() {
            return Ok(());
        }
        services.output.end_uploads(&folder, &left).await.map_err(FilesError::from)?;
        if services.output.has_unnamed_uploads() {
            // A part of an upload that has ended is refused, but nothing tells a block that it comes too late.
            tokio::select! {
                () = self.drain.cancelled() => return Err(RunError::Draining),
                () = services.clock.sleep(LATE) => {}
            }
            services.output.end_uploads(&folder, &left).await.map_err(FilesError::from)?;
        }
        for key in left.iter().flat_map(FileRecord::keys) {
            services.output.remove(&key).await.map_err(FilesError::from)?;
        }
        let forgotten: Vec<_> = left.iter().map(|record| record.no).collect();
        services.store.commit(lease, Change { forgotten, ..Change::default() }).await?;
        // Their numbers are not used again within this life of the job: the epoch in the key keeps lives apart.
        records.retain(|record| !is_open(record));
        Ok(())
    }
}
