//! What the engine makes of a wall clock that may be wrong (SEC-44), and what of that outlives the process.

use std::sync::{Mutex, PoisonError};

use super::Inner;
use crate::clock::watch::ClockWatch;
use crate::job::store::{ClockMark, StoreError};
use crate::telemetry::error_chain;

/// By how much time has to go on before that is recorded again.
const KEPT_EVERY_MILLIS: i64 = 5 * 60_000;

#[derive(Debug)]
pub(super) struct Timekeeper {
    pub(super) watch: ClockWatch,
    /// What the store knows.
    kept: Mutex<Option<ClockMark>>,
}

impl Timekeeper {
    pub(super) fn new(watch: ClockWatch) -> Self {
        Self { watch, kept: Mutex::default() }
    }

    fn kept(&self) -> Option<ClockMark> {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_kept(&self, mark: ClockMark) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
    }
}

impl Inner {
    /// Takes up what was seen before this process.
    ///
    /// # Errors
    /// If the store cannot be read: then it is not known what the clock is worth.
    pub(super) async fn recall_clock(&self) -> Result<(), StoreError> {
        let Some(mark) = self.services.store.clock_mark().await? else { return Ok(()) };
        self.timekeeper.watch.recall(mark.at, mark.confirmed);
        self.timekeeper.is_kept(mark);
        Ok(())
    }

    /// Keeps the latest time that was seen: seldom, but for `is_last`.
    pub(super) async fn keep_clock(&self, is_last: bool) {
        let Timekeeper { watch, .. } = &self.timekeeper;
        let mark = ClockMark { at: watch.mark(), confirmed: watch.confirmed() };
        let is_known = self.timekeeper.kept().is_some_and(|kept| {
            let ahead = mark.at.0.saturating_sub(kept.at.0);
            kept.confirmed == mark.confirmed && ahead <= if is_last { 0 } else { KEPT_EVERY_MILLIS }
        });
        if is_known {
            return;
        }
        match self.services.store.keep_clock_mark(mark).await {
            Ok(()) => self.timekeeper.is_kept(mark),
            Err(error) => tracing::warn!(error = error_chain(&error), "could not keep what time it was"),
        }
    }
}
