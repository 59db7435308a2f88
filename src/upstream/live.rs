//! Live traffic, as the pass-through sees it: how many requests are on their way, and whether they take longer than they
//! do while no export searches. The pass-through records it, the limit reads it.
//!
//! No ordinary request ever waits here: a note that cannot be made at once, because an export's thread is just reading
//! the others, is left out.

pub(crate) mod baseline;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::baseline::{Baselines, Kind, Slowness};
use crate::clock::Clock;

/// Answers kept until somebody reads them; the oldest one goes first.
const MOST_KEPT: usize = 64;

/// What the pass-through tells of its requests.
pub(crate) struct LiveTraffic {
    clock: Arc<dyn Clock>,
    /// The part by which live requests may take longer than without exports.
    rise: f32,
    /// Live requests whose answers have not begun.
    requests: AtomicUsize,
    /// When the latest one came, in microseconds; zero before the first one.
    latest: AtomicU64,
    /// Searches of exports that are under way, and how many have begun so far.
    searches: AtomicUsize,
    begun: AtomicU64,
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Default)]
struct Learnt {
    baselines: Baselines,
    answers: VecDeque<LiveAnswer>,
    idle_answers: u64,
    idle_at: Option<Duration>,
}

/// One live request that was answered, of a kind that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LiveAnswer {
    pub(crate) began: Duration,
    /// Searches of exports under way when it came.
    pub(crate) searches: usize,
    /// These and the live requests under way when it came.
    pub(crate) level: usize,
    pub(crate) slowness: Slowness,
}

/// Live traffic at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LiveNow {
    /// Requests whose answers have not begun.
    pub(crate) requests: usize,
    /// When the latest one came.
    pub(crate) latest: Option<Duration>,
    /// Answers so far while no export searched, and when the latest of them came.
    pub(crate) idle_answers: u64,
    pub(crate) idle_at: Option<Duration>,
}

impl fmt::Debug for LiveTraffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveTraffic").finish_non_exhaustive()
    }
}

impl LiveTraffic {
    /// Answers count as slow if they take longer by more than `rise` of what they take without exports.
    pub(crate) fn new(clock: Arc<dyn Clock>, rise: f32) -> Self {
        Self {
            clock,
            rise,
            requests: AtomicUsize::new(0),
            latest: AtomicU64::new(0),
            searches: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            learnt: Mutex::default(),
        }
    }

    /// A live request goes to the upstream.
    pub(crate) fn begin(self: &Arc<Self>, kind: Kind) -> LiveRequest {
        let began = self.clock.monotonic();
        let others = self.requests.fetch_add(1, Ordering::Relaxed);
        self.latest.store(micros(began), Ordering::Relaxed);
        let searches = self.searches.load(Ordering::Relaxed);
        let begun = self.begun.load(Ordering::Relaxed);
        LiveRequest { live: Arc::clone(self), kind, began, others, searches, begun }
    }

    /// A search of an export begins.
    pub(crate) fn begin_search(&self) {
        self.searches.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A search of an export has ended.
    pub(crate) fn end_search(&self) {
        self.searches.fetch_sub(1, Ordering::Relaxed);
    }

    /// Moves what was noted since the last time to `answers`, and tells how things stand. Not for ordinary requests.
    pub(crate) fn read(&self, answers: &mut Vec<LiveAnswer>) -> LiveNow {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        answers.extend(learnt.answers.drain(..));
        let latest = self.latest.load(Ordering::Relaxed);
        LiveNow {
            requests: self.requests.load(Ordering::Relaxed),
            latest: (latest > 0).then(|| Duration::from_micros(latest)),
            idle_answers: learnt.idle_answers,
            idle_at: learnt.idle_at,
        }
    }
}

/// A live request on its way. Dropped, it has ended without an answer.
#[derive(Debug)]
pub(crate) struct LiveRequest {
    live: Arc<LiveTraffic>,
    kind: Kind,
    began: Duration,
    others: usize,
    searches: usize,
    begun: u64,
}

impl LiveRequest {
    /// The first byte of its answer is there. How long the rest takes is up to who reads it.
    pub(crate) fn answered(self) {
        let live = &self.live;
        let now = live.clock.monotonic();
        let latency = now.saturating_sub(self.began);
        let is_idle = self.searches == 0 && live.begun.load(Ordering::Relaxed) == self.begun;
        let Ok(mut learnt) = live.learnt.try_lock() else { return };
        if let Some(slowness) = learnt.baselines.judge(self.kind, latency, live.rise) {
            if learnt.answers.len() == MOST_KEPT {
                learnt.answers.pop_front();
            }
            let level = self.searches + self.others;
            learnt.answers.push_back(LiveAnswer { began: self.began, searches: self.searches, level, slowness });
        }
        if is_idle {
            learnt.baselines.learn(self.kind, latency);
            learnt.idle_answers += 1;
            learnt.idle_at = Some(now);
        }
    }
}

impl Drop for LiveRequest {
    fn drop(&mut self) {
        self.live.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::clock::ManualClock;

    fn traffic() -> (Arc<ManualClock>, Arc<LiveTraffic>) {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let live = Arc::new(LiveTraffic::new(Arc::clone(&clock) as Arc<dyn Clock>, 0.1));
        (clock, live)
    }

    fn kind() -> Kind {
        Kind::of(&Method::GET, "/fhir/Patient/1", false)
    }

    fn answered_after(clock: &ManualClock, live: &Arc<LiveTraffic>, millis: u64) {
        let request = live.begin(kind());
        clock.advance(Duration::from_millis(millis));
        request.answered();
    }

    #[test]
    fn requests_are_compared_with_those_that_no_search_disturbed() {
        let (clock, live) = traffic();
        let mut answers = Vec::new();
        (0..4).for_each(|_| answered_after(&clock, &live, 20));
        let before = clock.monotonic();
        let last = live.begin(kind());
        clock.advance(Duration::from_millis(20));
        last.answered();
        let now = live.read(&mut answers);
        assert_eq!((now.requests, now.idle_answers), (0, 5));
        assert_eq!(now.latest, Some(before));
        answers.clear();

        live.begin_search();
        answered_after(&clock, &live, 40);
        live.end_search();
        // One that was overtaken by a search tells nothing of a server at rest.
        let request = live.begin(kind());
        live.begin_search();
        live.end_search();
        clock.advance(Duration::from_millis(60));
        request.answered();
        let now = live.read(&mut answers);
        assert_eq!(now.idle_answers, 5);
        let told: Vec<_> = answers.iter().map(|answer| (answer.searches, answer.slowness.times)).collect();
        assert_eq!(told, [(1, 2.0), (0, 3.0)]);
    }

    #[test]
    fn a_request_counts_until_it_is_answered_or_given_up() {
        let (clock, live) = traffic();
        let (first, second) = (live.begin(kind()), live.begin(kind()));
        live.begin_search();
        let third = live.begin(kind());
        assert_eq!((third.searches, third.others), (1, 2));
        assert_eq!(live.read(&mut Vec::new()).requests, 3);
        drop(first);
        clock.advance(Duration::from_millis(5));
        second.answered();
        assert_eq!(live.read(&mut Vec::new()).requests, 1);
    }

    #[test]
    fn an_ordinary_request_does_not_wait_for_who_reads() {
        let (clock, live) = traffic();
        let reading = live.learnt.lock().expect("nobody panicked");
        answered_after(&clock, &live, 20);
        drop(reading);
        assert_eq!(live.read(&mut Vec::new()).idle_answers, 0, "the note was left out");
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        let (clock, live) = traffic();
        (0..1_000).for_each(|_| answered_after(&clock, &live, 20));
        let mut answers = Vec::new();
        live.read(&mut answers);
        assert_eq!(answers.len(), MOST_KEPT);
    }
}
