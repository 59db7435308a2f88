//! Which assertions were used: kept where the jobs are kept, so that all who share them know.

use super::{Engine, Inner};
use crate::fhir::datatypes::Millis;
use crate::job::store::StoreError;
use crate::smart::assertion::Use;

impl Engine {
    /// Since when it is remembered which assertions were used: not before this process began, if nothing was remembered
    /// by then.
    pub(crate) async fn remembered_since(&self) -> Result<Millis, StoreError> {
        let Inner { services, remembered_since, began, .. } = &*self.inner;
        remembered_since.get_or_try_init(|| services.store.remembered_since(*began)).await.copied()
    }

    /// Whether an assertion of this hash was used.
    pub(crate) async fn was_used(&self, hash: [u8; 32]) -> Result<bool, StoreError> {
        self.inner.services.store.was_used(hash).await
    }

    /// Records that an assertion was used; `false` if it was before.
    pub(crate) async fn use_once(&self, assertion: Use) -> Result<bool, StoreError> {
        self.inner.services.store.use_once(assertion).await
    }
}
