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
    /// When it could not be had.
    failed: Mutex<Option<Duration>>,
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
    #[error("the server's capability statement could not be fetched a moment ago")]
    Lately,
}

/// How long a statement is believed: a server that is upgraded is noticed after that.
const LIFETIME: Duration = Duration::from_mins(10);
/// How long it is asked for by exports, and by people of whom nothing is known.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is not asked for again by people of whom nothing is known, once it could not be had.
const PAUSE: Duration = Duration::from_secs(5);

impl Capabilities {
    pub(crate) fn new(upstream: Upstream, clock: Arc<dyn Clock>) -> Self {
        let (read, failed, turn) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        Self { inner: Arc::new(Inner { upstream, clock, read, failed, turn }) }
    }

    /// For a client that waits for it: at once, whatever exports wait for.
    pub(crate) async fn at_once(&self) -> Result<Arc<Capability>, StatementError> {
        let _turn = self.inner.turn.lock().await;
        self.of(&self.inner.upstream.urgent()).await
    }

    /// For whoever asks, without having shown who they are: however many they are, the server is asked by one of them, and not
    /// again right after it did not answer.
    pub(crate) async fn for_anybody(&self) -> Result<Arc<Capability>, StatementError> {
        let _turn = self.inner.turn.lock().await;
        let failed = || self.inner.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.inner.clock.monotonic();
        if failed().is_some_and(|at| now.saturating_sub(at) < PAUSE) {
            return Err(StatementError::Lately);
        }
        // Once, whatever comes of it.
        let upstream = self.inner.upstream.urgent().within(Duration::ZERO);
        let read = tokio::select! {
            read = self.of(&upstream) => read,
            () = self.inner.clock.sleep(PATIENCE) => Err(StatementError::Lately),
        };
        *failed() = read.is_err().then(|| self.inner.clock.monotonic());
        read
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
