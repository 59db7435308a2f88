//! What the server says of itself, read again after a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::client::{SearchError, Upstream};
use crate::clock::Clock;
use crate::fhir::capability::{Capability, CapabilityError};

/// The capability statement, and when it was read. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Capabilities {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstream: Upstream,
    clock: Arc<dyn Clock>,
    read: Mutex<Option<(Duration, Arc<Capability>)>>,
    /// Of many clients that ask at once one reads it for all.
    turn: tokio::sync::Mutex<()>,
}

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatementError {
    #[error("the server's capability statement cannot be fetched")]
    Search(#[source] SearchError),
    #[error("what the server sends as its capability statement is none")]
    Unreadable(#[source] CapabilityError),
}

/// How long a statement is believed: a server that is upgraded is noticed after that.
const LIFETIME: Duration = Duration::from_mins(10);
/// How long it is asked for where nobody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Capabilities {
    pub(crate) fn new(upstream: Upstream, clock: Arc<dyn Clock>) -> Self {
        let (read, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { inner: Arc::new(Inner { upstream, clock, read, turn }) }
    }

    /// For a client that waits for it: at once, whatever exports wait for.
    pub(crate) async fn at_once(&self) -> Result<Arc<Capability>, StatementError> {
        let _turn = self.inner.turn.lock().await;
        self.of(&self.inner.upstream.urgent()).await
    }

    /// For an export: as its searches are asked.
    pub(crate) async fn in_turn(&self) -> Result<Arc<Capability>, StatementError> {
        self.of(&self.inner.upstream.within(PATIENCE)).await
    }

    async fn of(&self, upstream: &Upstream) -> Result<Arc<Capability>, StatementError> {
        let Inner { clock, read, .. } = &*self.inner;
        let now = clock.monotonic();
        let known = read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, capability)) = known.filter(|(at, _)| now.saturating_sub(*at) < LIFETIME) {
            return Ok(capability);
        }
        let statement = upstream.metadata().await.map_err(StatementError::Search)?;
        let capability = Arc::new(Capability::parse(&statement).map_err(StatementError::Unreadable)?);
        *read.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, Arc::clone(&capability)));
        Ok(capability)
    }
}
