//! Whether our routes are open on a listener by which requests pass through as well (SEC-02): not while the server behind
//! it may be one that answers whoever reaches it, and was reached by nobody before we stood before it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::proxy::anonymous::Anonymous;

/// How long a request waits for what is being found out right after the start.
const PATIENCE: Duration = Duration::from_secs(2);

/// What our routes are behind.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    Open,
    /// They are open once the server was seen to refuse requests without credentials.
    Watched {
        seen: watch::Receiver<Anonymous>,
        clock: Arc<dyn Clock>,
    },
}

/// Why a bulk request is not let in by this listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    #[error(
        "the FHIR server behind this one answers requests without credentials, and bulk requests are refused here until \
         that is acknowledged"
    )]
    Anonymous,
    #[error("the FHIR server behind this one has not been reached yet")]
    Unknown,
}

impl Door {
    /// Whether requests may be answered now, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Open => true,
            Self::Watched { seen, .. } => matches!(*seen.borrow(), Anonymous::Refused(_)),
        }
    }

    /// Why they may not be, as far as is known.
    pub(crate) fn closed(&self) -> Option<Closed> {
        let Self::Watched { seen, .. } = self else { return None };
        match *seen.borrow() {
            Anonymous::Refused(_) => None,
            Anonymous::Accepted(_) => Some(Closed::Anonymous),
            Anonymous::Unanswered => Some(Closed::Unknown),
        }
    }

    /// # Errors
    /// [`Closed`] if the request may not be answered now.
    pub(crate) async fn enter(&self) -> Result<(), Closed> {
        let Self::Watched { seen, clock } = self else { return Ok(()) };
        let mut seen = seen.clone();
        let known = tokio::select! {
            known = seen.wait_for(|seen| *seen != Anonymous::Unanswered) => known.ok().map(|known| *known),
            () = clock.sleep(PATIENCE) => None,
        };
        match known {
            Some(Anonymous::Refused(_)) => Ok(()),
            Some(Anonymous::Accepted(_)) => Err(Closed::Anonymous),
            Some(Anonymous::Unanswered) | None => Err(Closed::Unknown),
        }
    }
}
