//! What an issuer publishes, its keys and what it says of itself: fetched when it is needed, and by one for all.
//!
//! Kept as long as its headers allow, but a minute at least and an hour at most; while it cannot be had anew, for an hour
//! since it came. Whoever asks for what is not in it (an unknown `kid`) has it fetched once a minute at most. While it is fresh
//! nobody waits for that but who wants more; once it is not, everybody waits until it was tried to have it anew: what was
//! withdrawn is good no longer than was said. An answer that withdraws all leaves nothing to go by.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::telemetry::error_chain;

/// How long it is good whatever its headers say.
const LEAST: Duration = Duration::from_mins(1);
/// How long it is relied on while it cannot be had anew.
const LONGEST: Duration = Duration::from_hours(1);
/// Pause between two fetches, and the same while there is nothing to go by.
const PAUSE: Duration = Duration::from_mins(1);
const PAUSE_WITHOUT: Duration = Duration::from_secs(10);

/// Something that is fetched.
pub(super) struct Published<T> {
    /// What it is called in the log.
    what: &'static str,
    clock: Arc<dyn Clock>,
    state: RwLock<State<T>>,
    /// Whose turn it is to fetch.
    turn: Mutex<()>,
}

struct State<T> {
    kept: Option<Kept<T>>,
    /// When it was last asked for, and when because of something that was not in it; by the monotonic clock.
    tried: Option<Duration>,
    tried_for_more: Option<Duration>,
}

struct Kept<T> {
    value: Arc<T>,
    came: Duration,
    fresh_until: Duration,
}

/// What is to be done.
enum Look<T> {
    /// This is it, whether it holds what is wanted or not; or there is nothing, and it is too early to ask again.
    Done(Option<Arc<T>>),
    /// It is to be fetched.
    Due,
}

/// Why nothing came of a fetch that could be used.
pub(super) trait Failure: Error {
    /// Whether an answer came whole, and says that nothing is to be used of what came before.
    fn withdraws(&self) -> bool;
}

impl<T> Published<T> {
    pub(super) fn new(what: &'static str, clock: Arc<dyn Clock>) -> Self {
        let state = State { kept: None, tried: None, tried_for_more: None };
        Self { what, clock, state: RwLock::new(state), turn: Mutex::new(()) }
    }

    /// What there is, fetched if it is not there, or too old, or holds nothing that `is_wanted`. `fetch` says how long its
    /// headers allow to keep it.
    pub(super) async fn get<E: Failure>(
        &self,
        is_wanted: impl Fn(&T) -> bool,
        fetch: impl Future<Output = Result<(T, Duration), E>>,
    ) -> Option<Arc<T>> {
        if let Look::Done(value) = self.look(&is_wanted) {
            return value;
        }
        let _turn = self.turn.lock().await;
        // Somebody else may have fetched it meanwhile.
        if let Look::Done(value) = self.look(&is_wanted) {
            return value;
        }
        let fetched = fetch.await;
        self.keep(fetched, &is_wanted)
    }

    /// Has it fetched anew when it is needed next. What there is stays as long as that cannot be had.
    pub(super) fn look_again(&self) {
        let now = self.clock.monotonic();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        (state.tried, state.tried_for_more) = (None, None);
        if let Some(kept) = &mut state.kept {
            kept.fresh_until = kept.fresh_until.min(now);
        }
    }

    fn look(&self, is_wanted: impl Fn(&T) -> bool) -> Look<T> {
        let now = self.clock.monotonic();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let is_early = |tried: Option<Duration>, pause| tried.is_some_and(|tried| now.saturating_sub(tried) < pause);
        let Some(kept) = state.kept.as_ref().filter(|kept| now.saturating_sub(kept.came) < LONGEST) else {
            let is_early = is_early(state.tried, PAUSE_WITHOUT);
            return if is_early { Look::Done(None) } else { Look::Due };
        };
        let value = || Some(Arc::clone(&kept.value));
        let is_fresh = now < kept.fresh_until || is_early(state.tried, PAUSE);
        match (is_wanted(&kept.value), is_fresh) {
            (true, true) => Look::Done(value()),
            // It is not in a set that came a minute ago at most, or it was looked for then.
            (false, _) if is_early(state.tried_for_more, PAUSE) => Look::Done(value()),
            (true, false) | (false, _) => Look::Due,
        }
    }

    fn keep<E: Failure>(&self, fetched: Result<(T, Duration), E>, is_wanted: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let now = self.clock.monotonic();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let lacks_it = |state: &State<T>| state.kept.as_ref().is_some_and(|kept| !is_wanted(&kept.value));
        let was_lacking = lacks_it(&state);
        state.tried = Some(now);
        match fetched {
            Ok((value, lifetime)) => {
                tracing::debug!(what = self.what, "what the issuer of access tokens publishes was fetched");
                let fresh_until = now.saturating_add(lifetime.clamp(LEAST, LONGEST));
                state.kept = Some(Kept { value: Arc::new(value), came: now, fresh_until });
            }
            Err(error) => {
                if error.withdraws() {
                    state.kept = None;
                }
                let error = error_chain(&error);
                tracing::warn!(what = self.what, error, "what the issuer of access tokens publishes cannot be had");
            }
        }
        // It was fetched for something that is not in it, or was not.
        if was_lacking || lacks_it(&state) {
            state.tried_for_more = Some(now);
        }
        let kept = state.kept.as_ref().filter(|kept| now.saturating_sub(kept.came) < LONGEST);
        kept.map(|kept| Arc::clone(&kept.value))
    }
}

impl<T> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published").field("what", &self.what).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
