//! Cohorts that clients make (SEC-25): each is recorded in the ledger and the store, and is its client's alone.

use super::planner::PlanError;
use super::{Engine, SubmitError};
use crate::bulk::cohort::CohortId;
use crate::fhir::outcome::IssueType;
use crate::job::cohort::{ClientCohort, MemberSearch};
use crate::job::store::StoreError;
use crate::ledger::record::Event;
use crate::smart::client::ClientId;

/// Why the searches of a cohort cannot be used.
#[derive(Debug)]
pub(crate) enum SearchesRefused {
    /// What they ask by cannot be relied on.
    Filter(SubmitError),
    /// The server could not be asked.
    Unavailable,
}

impl Engine {
    /// Whether a server can be asked by what is to find members.
    ///
    /// # Errors
    /// [`SearchesRefused`] if it cannot.
    pub(crate) async fn try_searches(&self, searches: &[MemberSearch]) -> Result<(), SearchesRefused> {
        Box::pin(self.inner.planner.cannot_find_members(searches)).await.map_err(|error| match error {
            error if error.search_failed() => SearchesRefused::Unavailable,
            PlanError::Filter(error) => SearchesRefused::Filter(SubmitError::Filter(error)),
            _ => SearchesRefused::Unavailable,
        })
    }

    /// Records a cohort of which `made` tells, unless its client has `most` of them: whether there was room for it.
    ///
    /// # Errors
    /// If it cannot be recorded.
    pub(crate) async fn make_cohort(
        &self,
        cohort: ClientCohort,
        most: usize,
        made: Event,
    ) -> Result<bool, SubmitError> {
        let engine = self.clone();
        self.to_its_end(async move {
            let services = &engine.inner.services;
            if services.store.cohorts(cohort.client.clone()).await?.len() >= most {
                return Ok(false);
            }
            services.ledger.append(made.clone()).await?;
            let has_room = services.store.keep_cohort(cohort, most).await?;
            if let (false, Event::CohortMade(made)) = (has_room, made) {
                // Others at the same time were sooner: what was said of it is said to have come to nothing.
                services.ledger.note(Event::CohortFailed { cohort: made.cohort, code: IssueType::Throttled }).await;
            }
            Ok(has_room)
        })
        .await
    }

    /// A cohort of this client's. One of somebody else is none.
    pub(crate) async fn cohort(&self, client: &ClientId, id: CohortId) -> Result<Option<ClientCohort>, StoreError> {
        self.inner.services.store.cohort(client.clone(), id).await
    }

    /// All cohorts of a client.
    pub(crate) async fn cohorts(&self, client: &ClientId) -> Result<Vec<ClientCohort>, StoreError> {
        self.inner.services.store.cohorts(client.clone()).await
    }

    /// Forgets a cohort of this client's, of which `gone` tells; `false` if there is none. Exports that were kicked off go on.
    pub(crate) async fn forget_cohort(&self, client: ClientId, id: CohortId, gone: Event) -> Result<bool, StoreError> {
        let engine = self.clone();
        self.to_its_end(async move {
            let services = &engine.inner.services;
            let was_there = services.store.forget_cohort(client, id).await?;
            if was_there {
                services.ledger.note(gone).await;
            }
            Ok::<_, StoreError>(was_there)
        })
        .await
    }
}
