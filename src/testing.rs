//! For tests, examples and benchmarks only; no promise is made about it.

use std::sync::Arc;

pub use crate::app::JobStore;
pub use crate::clock::ManualClock;
pub use crate::store::crash::{Crash, CrashPoint, When};

use crate::job::JobState;
use crate::store::crash::CrashStore;
use crate::store::memory::MemoryStore;

impl JobStore {
    /// A store that ends with the process.
    #[must_use]
    pub fn memory() -> Self {
        Self { store: Arc::new(MemoryStore::default()), identity: Arc::default() }
    }

    /// The ids of all jobs that are not deleted.
    pub async fn job_ids(&self) -> Vec<String> {
        let jobs = self.store.jobs().await.unwrap_or_default();
        jobs.iter().filter(|job| job.state != JobState::Deleted).map(|job| job.id.to_string()).collect()
    }

    /// This store up to a crash: what was answered by then stays in `self`.
    #[must_use]
    pub fn until(&self, point: &Arc<CrashPoint>) -> Self {
        let store = Arc::new(CrashStore::new(Arc::clone(&self.store), Arc::clone(point)));
        Self { store, identity: Arc::clone(&self.identity) }
    }
}
