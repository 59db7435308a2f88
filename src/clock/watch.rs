//! Whether the wall clock can be believed: it is held against the other one, and against the latest time that was ever seen
//! (SEC-44).
//!
//! A wall clock that went back would have links and assertions good again that have expired; one that leapt would have
//! everything expire at once. Neither is believed until it is as it was, or somebody who knows says that it is right.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Clock;
use crate::fhir::datatypes::Millis;

/// By how much it may be behind the latest time that was seen.
pub(crate) const MOST_BEHIND: Duration = Duration::from_mins(1);
/// By how much it may be set against the other one.
const MOST_SET_MILLIS: i64 = 5 * 60_000;

/// What is made of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is as it should be.
    Good,
    /// It was set by so many milliseconds while the process ran: nothing expires.
    Set { by: i64 },
    /// It is so many milliseconds behind what was seen before: nothing is accepted that was signed until some time.
    Behind { by: i64 },
}

/// Watches the wall clock. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ClockWatch {
    clock: Arc<dyn Clock>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    /// Both clocks when they were believed to agree.
    anchor: (Millis, Duration),
    /// The latest time that was seen while the clock was believed.
    mark: Millis,
    /// When somebody said last that it is right though it is behind.
    confirmed: Option<Millis>,
}

impl ClockWatch {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = super::now(&*clock);
        let seen = Seen { anchor: (now, clock.monotonic()), mark: now, confirmed: None };
        Self { clock, seen: Arc::new(Mutex::new(seen)) }
    }

    /// The clock that is watched.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What was seen, and said, before this process.
    pub(crate) fn recall(&self, mark: Millis, confirmed: Option<Millis>) {
        let mut seen = self.seen();
        seen.mark = seen.mark.max(mark);
        seen.confirmed = seen.confirmed.max(confirmed);
    }

    /// The latest time that was seen.
    pub(crate) fn mark(&self) -> Millis {
        self.look();
        self.seen().mark
    }

    /// What time it is as far as the clock is believed: while it is set, what it would be if it were not.
    pub(crate) fn believed(&self) -> Millis {
        let is_set = matches!(self.look(), Standing::Set { .. });
        let (now, passed) = (super::now(&*self.clock), self.clock.monotonic());
        let (began, since) = self.seen().anchor;
        if is_set { began.saturating_add(passed.saturating_sub(since)) } else { now }
    }

    /// What is made of the clock now.
    pub(crate) fn look(&self) -> Standing {
        let (now, passed) = (super::now(&*self.clock), self.clock.monotonic());
        let mut seen = self.seen();
        let passed = passed.saturating_sub(seen.anchor.1);
        let by = now.0.saturating_sub(seen.anchor.0.saturating_add(passed).0);
        let is_set = by.saturating_abs() > MOST_SET_MILLIS;
        if !is_set {
            seen.mark = seen.mark.max(now);
        }
        let behind = seen.mark.0.saturating_sub(now.0);
        if seen.mark > now.saturating_add(MOST_BEHIND) {
            Standing::Behind { by: behind }
        } else if is_set {
            Standing::Set { by }
        } else {
            Standing::Good
        }
    }

    /// Whether what was signed until some time cannot be judged: nobody can say what has expired.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self.look(), Standing::Behind { .. })
    }

    /// Whether nothing may expire now.
    pub(crate) fn holds_expiry(&self) -> bool {
        self.look() != Standing::Good
    }

    /// Somebody else's clock agrees with ours: it was set to what is right. What was seen before stays seen.
    pub(crate) fn explain(&self) {
        let now = super::now(&*self.clock);
        self.seen().anchor = (now, self.clock.monotonic());
        self.look();
    }

    /// An operator says that the clock is right, whatever was seen before.
    pub(crate) fn confirm(&self) {
        let now = super::now(&*self.clock);
        *self.seen() = Seen { anchor: (now, self.clock.monotonic()), mark: now, confirmed: Some(now) };
    }

    /// When that was said last: nothing that was signed before can be told from what was used already.
    pub(crate) fn confirmed(&self) -> Option<Millis> {
        self.seen().confirmed
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ClockWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClockWatch").field(&*self.seen()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ManualClock;
    use super::*;

    const SECOND: i64 = 1_000;
    const MINUTE: i64 = 60 * SECOND;
    const NOW: i64 = 1_800_000_000_000;

    fn watched() -> (Arc<ManualClock>, ClockWatch) {
        let clock = Arc::new(ManualClock::new(NOW));
        (Arc::clone(&clock), ClockWatch::new(clock))
    }

    #[test]
    fn a_clock_that_is_set_a_little_is_believed_and_one_that_leaps_is_not() {
        for (by, expected) in [
            (0, Standing::Good),
            (5 * MINUTE, Standing::Good),
            (5 * MINUTE + 1, Standing::Set { by: 5 * MINUTE + 1 }),
            (-MINUTE, Standing::Good),
            (-MINUTE - 1, Standing::Behind { by: MINUTE + 1 }),
            (-60 * MINUTE, Standing::Behind { by: 60 * MINUTE }),
        ] {
            let (clock, watch) = watched();
            clock.advance(Duration::from_hours(1));
            watch.look();
            clock.set_by(by);
            assert_eq!(watch.look(), expected, "{by}");
            clock.set_by(-by);
            assert_eq!(
                watch.look(),
                if by == 5 * MINUTE { Standing::Behind { by } } else { Standing::Good },
                "back: {by}"
            );
        }
    }

    #[test]
    fn what_a_leap_showed_is_seen_once_it_is_explained() {
        let (clock, watch) = watched();
        clock.set_by(60 * MINUTE);
        assert!(watch.holds_expiry() && !watch.is_behind());
        assert_eq!(watch.mark(), Millis(NOW), "it is not believed yet");
        clock.advance(Duration::from_millis(7));
        assert_eq!(watch.believed(), Millis(NOW + 7), "nothing is stamped with it either");
        clock.advance(Duration::from_millis(3));
        clock.set_by(-10);
        watch.explain();
        assert_eq!(watch.believed(), Millis(NOW + 60 * MINUTE));
        assert_eq!((watch.look(), watch.mark()), (Standing::Good, Millis(NOW + 60 * MINUTE)));
        clock.set_by(-60 * MINUTE);
        watch.explain();
        assert!(watch.is_behind(), "who agrees with a clock that went back cannot take back what has expired");
    }

    #[test]
    fn an_operator_can_take_back_what_was_seen() {
        let (clock, watch) = watched();
        watch.recall(Millis(NOW + 90 * MINUTE), None);
        assert_eq!(watch.look(), Standing::Behind { by: 90 * MINUTE }, "seen by a process before this one");
        assert_eq!(watch.confirmed(), None);
        watch.confirm();
        assert_eq!((watch.look(), watch.mark()), (Standing::Good, Millis(NOW)));
        assert_eq!(watch.confirmed(), Some(Millis(NOW)));
        clock.advance(Duration::from_millis(90));
        assert_eq!(watch.mark(), Millis(NOW + 90));
    }
}
