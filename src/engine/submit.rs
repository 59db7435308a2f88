//! Why a job is not taken.

use crate::fhir::resource_type::ResourceType;
use crate::job::store::StoreError;
use crate::job::usage::Exhausted;
use crate::ledger::LedgerError;
use crate::upstream::probe::FilterProbeError;

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("too many exports wait for their turn")]
    Full,
    /// It may be otherwise after so many seconds.
    #[error("{exhausted}")]
    Quota { exhausted: Exhausted, seconds: i64 },
    #[error(
        "`_since` and `_until` need `meta.lastUpdated`: the server does not filter by it, and its {0} resources do not carry it"
    )]
    Undated(ResourceType),
    #[error("{0}")]
    Filter(FilterProbeError),
    #[error("could not record the export")]
    Store(#[from] StoreError),
    #[error("could not record the export in the ledger")]
    Ledger(#[from] LedgerError),
}
