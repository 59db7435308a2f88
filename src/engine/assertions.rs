//! Which assertions were used: kept where the jobs are kept, so that all who share them know.

use super::Engine;
use crate::clock::watch;
use crate::fhir::datatypes::Millis;
use crate::job::store::StoreError;
use crate::smart::assertion::{MOST_BEHIND, Use};

// What was used is remembered until no clock that is believed finds it good again.
const _: () = assert!(MOST_BEHIND as u64 == watch::MOST_BEHIND.as_secs());

impl Engine {
    /// Since when it is remembered which assertions were used: since this process began, if none was by then; but not from
    /// before an operator set the clock back, as by a later time some were forgotten.
    pub(crate) async fn remembered_since(&self) -> Result<Millis, StoreError> {
        let since = self.inner.services.store.remembered_since().await?.unwrap_or(self.inner.began);
        Ok(self.inner.timekeeper.watch.confirmed().map_or(since, |confirmed| confirmed.max(since)))
    }

    /// Whether an assertion of this hash was used.
    pub(crate) async fn was_used(&self, hash: [u8; 32]) -> Result<bool, StoreError> {
        self.inner.services.store.was_used(hash).await
    }

    /// Records that an assertion was used; `false` if it was before.
    pub(crate) async fn use_once(&self, assertion: Use) -> Result<bool, StoreError> {
        self.inner.services.store.use_once(assertion, self.inner.began).await
    }
}
