//! Why a slice is read again, or cannot be read.

use std::time::Duration;

use http::StatusCode;

use super::ATTEMPTS;
use crate::engine::accept::Reading;
use crate::output::OutputError;
use crate::upstream::client::SearchError;
use crate::upstream::probe::FilterProbeError;

/// Why a slice could not be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum ReadError {
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error("{by} resources that the server counts did not come in {ATTEMPTS} readings")]
    Short { by: u64 },
    #[error("no two of {ATTEMPTS} readings in succession brought the same resources")]
    Unsteady,
    #[error("the server sends more resources than it counts for the same search")]
    OverExport,
    #[error("the server sends resources that the search excludes: a filter is ignored")]
    IgnoredFilter,
    #[error(transparent)]
    Filter(#[from] FilterProbeError),
    #[error("the server says inside of its answers that something went wrong, in each of {ATTEMPTS} readings")]
    Troubled,
    #[error("the server's pages lead round in a circle")]
    Loop,
    #[error("the server forgets its lists of pages sooner than they can be read")]
    Expired,
    /// Nothing is wrong with the server: what was written cannot be read at the moment.
    #[error("what the export holds cannot be read")]
    Output(#[from] OutputError),
}

impl ReadError {
    /// What it means that the page behind a link cannot be had: a list that the server no longer knows can be asked for
    /// anew from its beginning.
    pub(in crate::engine) fn of_next(error: SearchError) -> Self {
        match error {
            SearchError::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. } => Self::Expired,
            other => Self::Search(other),
        }
    }

    /// Why a slice was not accepted in all its readings: how many were missing in the last one, and whether the server said
    /// that something went wrong.
    pub(in crate::engine) fn unaccepted(missing: u64, is_troubled: bool) -> Self {
        match missing {
            0 if is_troubled => Self::Troubled,
            0 => Self::Unsteady,
            by => Self::Short { by },
        }
    }

    /// Whether the server does not accept what was shown to it.
    pub(in crate::engine) fn is_unauthorized(&self) -> bool {
        self.search().is_some_and(SearchError::is_unauthorized)
    }

    /// Whether it says nothing about the server: the slice was left for the next start.
    pub(in crate::engine) fn is_stopping(&self) -> bool {
        self.search().is_some_and(SearchError::is_stopping)
    }

    /// The search that failed, for a slice or to show that its filter is heeded.
    fn search(&self) -> Option<&SearchError> {
        match self {
            Self::Search(error) | Self::Filter(FilterProbeError::Search { source: error, .. }) => Some(error),
            Self::Short { .. }
            | Self::Unsteady
            | Self::OverExport
            | Self::IgnoredFilter
            | Self::Filter(_)
            | Self::Troubled
            | Self::Loop
            | Self::Expired
            | Self::Output(_) => None,
        }
    }
}

/// Readings that follow one another at once; what can be cut is cut by the last of them.
const AT_ONCE: u32 = 5;
/// Pauses before the others, the first of which is the shortest: replicas that are behind catch up by and by.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long to wait after so many readings that were not accepted.
pub(super) fn pause_after(readings: u32) -> Duration {
    match readings.checked_sub(AT_ONCE) {
        None => Duration::ZERO,
        Some(more) => SHORTEST_PAUSE.saturating_mul(1 << more.min(16)).min(LONGEST_PAUSE),
    }
}

/// Why a slice is read again.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(in crate::engine) enum Again {
    #[error("a page was too large; smaller ones are asked for")]
    Smaller,
    #[error("the server forgot its list of pages")]
    Expired,
    #[error("{by} resources that the server counts did not come")]
    Missing { by: u64 },
    #[error("{0} resources came that the search excludes")]
    Elsewhere(u64),
    #[error("nothing shows yet that all came")]
    Unproven,
}

impl Again {
    /// After a reading that was not accepted, of which `by` are missing as far as is known.
    pub(in crate::engine) fn judged(reading: &Reading, by: u64) -> Self {
        match (by, reading.elsewhere) {
            (0, 0) => Self::Unproven,
            (0, elsewhere) => Self::Elsewhere(elsewhere),
            (by, _) => Self::Missing { by },
        }
    }

    /// Tells the operator; the span that a slice is read in says which one it is. Where two readings are needed the
    /// second one is no news.
    pub(in crate::engine) fn tell(self, attempt: u32) {
        let attempt = attempt + 1;
        match self {
            Self::Unproven if attempt == 1 => tracing::debug!(attempt, reason = %self, "a slice is read again"),
            Self::Smaller | Self::Expired | Self::Missing { .. } | Self::Elsewhere(_) | Self::Unproven => {
                tracing::info!(attempt, reason = %self, "a slice is read again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_have_some_seconds_to_catch_up() {
        let pauses: Vec<_> = (1..ATTEMPTS).map(pause_after).collect();
        assert!(pauses.is_sorted() && pauses[3].is_zero() && pauses[4] == SHORTEST_PAUSE);
        let all: Duration = pauses.iter().sum();
        assert!(all > Duration::from_secs(10) && all < Duration::from_secs(20), "{all:?}");
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }
}
