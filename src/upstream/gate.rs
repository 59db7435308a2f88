//! Where searches wait until they may begin: one after another, holding neither memory nor a place. Whatever lasts can be
//! ended from outside, by dropping who waits or by closing the gate, and can be told to who asks.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::limit::quiet::{self, QuietWindow};
use super::limit::{Around, Decision, Limit, LimitSettings, Outcome, Reason};
use super::live::LiveTraffic;
use crate::clock::{self, Clock};

/// Whose local time the quiet hours are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    /// This machine's, with its daylight saving.
    Local,
    /// So many seconds ahead of UTC all the year round.
    Fixed(i32),
}

/// Hours in which exports do not search, or less than usual.
#[derive(Debug, Clone)]
pub(crate) struct QuietHours {
    pub(crate) zone: Zone,
    pub(crate) windows: Vec<QuietWindow>,
}

/// Lets searches begin as the limits allow. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    live: Arc<LiveTraffic>,
    quiet: QuietHours,
    limit: Mutex<Limit>,
    /// Only who holds it is woken: the others wait for it, in their order.
    turn: tokio::sync::Mutex<()>,
    /// A search has ended.
    ended: Notify,
    /// What the one whose turn it is waits for, if it may last.
    waiting: watch::Sender<Option<Reason>>,
    closed: CancellationToken,
}

/// One search that is under way; its end is told when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    gate: Gate,
    began: Duration,
    is_trial: bool,
    outcome: Option<Outcome>,
}

/// Why a search may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The gate was closed: the process is stopping.
    Closed,
    /// It will not be possible soon, and who asked does not wait.
    NotSoon,
}

/// Whether who asks waits for what may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patient {
    Yes,
    /// It holds something that others may need.
    No,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    pub(crate) fn new(
        settings: &LimitSettings,
        quiet: QuietHours,
        live: Arc<LiveTraffic>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let inner = Inner {
            clock,
            live,
            quiet,
            limit: Mutex::new(Limit::new(settings)),
            turn: tokio::sync::Mutex::default(),
            ended: Notify::new(),
            waiting: watch::Sender::default(),
            closed: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Waits until a search may begin. It has not begun yet: [`enter`](Self::enter) may still find that it may not.
    pub(crate) async fn ready(&self, patient: Patient) -> Result<(), Refusal> {
        let inner = &*self.inner;
        let mut waiting = inner.waiting.subscribe();
        let _turn = tokio::select! {
            turn = inner.turn.lock() => turn,
            _ = waiting.wait_for(Option::is_some), if patient == Patient::No => return Err(Refusal::NotSoon),
        };
        let told = Told(inner);
        loop {
            let Decision::Wait(wait) = inner.decide(&mut inner.limit()) else { return Ok(()) };
            if wait.reason.is_long() {
                if patient == Patient::No {
                    return Err(Refusal::NotSoon);
                }
                if inner.closed.is_cancelled() {
                    return Err(Refusal::Closed);
                }
                told.tell(Some(wait.reason));
            } else {
                told.tell(None);
            }
            tokio::select! {
                () = inner.ended.notified() => {}
                () = inner.clock.sleep(wait.for_at_most) => {}
                () = inner.closed.cancelled(), if wait.reason.is_long() => {}
            }
        }
    }

    /// Begins a search, if it may at this moment.
    pub(crate) fn enter(&self) -> Option<Place> {
        let now = self.inner.clock.monotonic();
        // Decided and begun at once: of two who ask together only one gets the last place.
        let mut limit = self.inner.limit();
        let Decision::Go { is_trial } = self.inner.decide(&mut limit) else { return None };
        limit.begin(is_trial, now);
        drop(limit);
        Some(self.begun(is_trial, now))
    }

    /// Begins a search for which a client of ours is waiting at this moment: it is one question, and cannot wait.
    pub(crate) fn enter_now(&self) -> Place {
        let now = self.inner.clock.monotonic();
        self.inner.limit().begin(false, now);
        self.begun(false, now)
    }

    fn begun(&self, is_trial: bool, began: Duration) -> Place {
        self.inner.live.begin_search();
        Place { gate: self.clone(), began, is_trial, outcome: None }
    }

    /// Waits in vain no more: from now on nobody waits for what may last.
    pub(crate) fn close(&self) {
        self.inner.closed.cancel();
    }

    /// Completes once the gate is closed.
    pub(crate) async fn closed(&self) {
        self.inner.closed.cancelled().await;
    }

    /// What searches wait for at this moment, if it is something that may last.
    pub(crate) fn waiting(&self) -> Option<Reason> {
        *self.inner.waiting.borrow()
    }

    /// How long searches have paused in all since the server last answered.
    pub(crate) fn paused(&self) -> Duration {
        self.inner.limit().paused()
    }
}

impl Inner {
    fn decide(&self, limit: &mut Limit) -> Decision {
        let now = self.clock.monotonic();
        let mut answers = Vec::new();
        let live = self.live.read(&mut answers);
        limit.hear(&answers, now);
        limit.decide(&Around { now, live, quiet: self.quiet() })
    }

    fn quiet(&self) -> Option<quiet::Quiet> {
        if self.quiet.windows.is_empty() {
            return None;
        }
        let time = clock::now(&*self.clock);
        let offset_seconds = match self.quiet.zone {
            Zone::Local => clock::local_offset_seconds(time),
            Zone::Fixed(seconds) => seconds,
        };
        quiet::at(&self.quiet.windows, time, offset_seconds)
    }

    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what is waited for, until it is dropped.
struct Told<'a>(&'a Inner);

impl Told<'_> {
    fn tell(&self, reason: Option<Reason>) {
        self.0.waiting.send_if_modified(|told| std::mem::replace(told, reason) != reason);
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.tell(None);
    }
}

impl Place {
    /// How the search ended. Without it, it was given up.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let inner = &self.gate.inner;
        let now = inner.clock.monotonic();
        inner.limit().end(self.outcome, self.is_trial, self.began, now);
        inner.live.end_search();
        inner.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::clock::ManualClock;
    use crate::upstream::limit::breaker::BreakerSettings;

    /// 2026-01-05T12:00:00Z, a Monday.
    const NOON: i64 = 1_767_614_400_000;

    fn gate(ceiling: usize, windows: Vec<QuietWindow>) -> (Arc<ManualClock>, Gate) {
        let clock = Arc::new(ManualClock::new(NOON));
        let breaker =
            BreakerSettings { failures: 2, pause: Duration::from_secs(5), longest_pause: Duration::from_mins(1) };
        let settings = LimitSettings { ceiling, per_second: None, breaker, yielding: None };
        let as_clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let live = Arc::new(LiveTraffic::new(Arc::clone(&as_clock), 0.1));
        (clock, Gate::new(&settings, QuietHours { zone: Zone::Fixed(0), windows }, live, as_clock))
    }

    fn office_hours() -> Vec<QuietWindow> {
        vec![QuietWindow { days: [true; 7], from: 7 * 60, until: 18 * 60, searches: 0 }]
    }

    async fn entered(gate: &Gate) -> Place {
        gate.ready(Patient::Yes).await.expect("it is open");
        gate.enter().expect("nobody else wants to")
    }

    /// Lets what was woken run, on this thread alone.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn those_who_wait_go_in_their_order_as_places_become_free() {
        let (_clock, gate) = gate(1, Vec::new());
        let first = entered(&gate).await;
        let (order, came) = std::sync::mpsc::channel();
        for number in 0..3 {
            let (gate, order) = (gate.clone(), order.clone());
            tokio::spawn(async move {
                let place = entered(&gate).await;
                order.send(number).expect("the test listens");
                place.end(Outcome::Answered);
            });
            settle().await;
        }
        assert_eq!((came.try_recv().ok(), gate.waiting()), (None, None), "a full server is nothing to tell");
        first.end(Outcome::Answered);
        settle().await;
        assert_eq!(came.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn quiet_hours_are_waited_for_and_told() {
        let (clock, gate) = gate(4, office_hours());
        let mut waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.ready(Patient::Yes).await }
        });
        settle().await;
        assert_eq!(gate.waiting(), Some(Reason::QuietHours { until: 18 * 60 }));
        clock.advance(Duration::from_secs(6 * 3_600 - 1));
        settle().await;
        assert!((&mut waiting).now_or_never().is_none(), "one second is left");
        clock.advance(Duration::from_secs(15));
        assert_eq!(waiting.await.expect("no panic"), Ok(()));
        assert_eq!(gate.waiting(), None);
    }

    #[tokio::test]
    async fn a_gate_that_is_closed_lets_nobody_wait_for_what_may_last() {
        let (_clock, gate) = gate(4, office_hours());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let gate = gate.clone();
                tokio::spawn(async move { gate.ready(Patient::Yes).await })
            })
            .collect();
        settle().await;
        gate.close();
        for waiting in waiting {
            assert_eq!(waiting.await.expect("no panic"), Err(Refusal::Closed));
        }
    }

    #[tokio::test]
    async fn a_gate_that_is_closed_lets_in_who_needs_only_a_place() {
        let (_clock, gate) = gate(1, Vec::new());
        let place = entered(&gate).await;
        gate.close();
        let mut waiting = Box::pin(gate.ready(Patient::Yes));
        assert_eq!((&mut waiting).now_or_never(), None);
        place.end(Outcome::Answered);
        assert_eq!(waiting.await, Ok(()));
    }

    #[tokio::test]
    async fn who_holds_something_does_not_wait_long_not_even_for_its_turn() {
        let (_clock, gate) = gate(4, office_hours());
        assert_eq!(gate.ready(Patient::No).await, Err(Refusal::NotSoon));
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.ready(Patient::Yes).await }
        });
        settle().await;
        assert_eq!(gate.ready(Patient::No).await, Err(Refusal::NotSoon), "another one has the turn");
        waiting.abort();
        assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(gate.waiting(), None, "nobody waits any more");
        drop(gate.enter_now());
    }

    #[tokio::test]
    async fn one_search_sees_whether_the_server_is_back() {
        let (clock, gate) = gate(4, Vec::new());
        for _ in 0..2 {
            entered(&gate).await.end(Outcome::NotThere);
        }
        assert!(gate.enter().is_none());
        assert_eq!(gate.paused(), Duration::from_secs(5));
        let mut waiting = Box::pin(gate.ready(Patient::Yes));
        assert_eq!((&mut waiting).now_or_never(), None);
        assert_eq!(gate.waiting(), Some(Reason::Away));
        clock.advance(Duration::from_secs(5));
        assert_eq!(waiting.await, Ok(()));
        let trial = gate.enter().expect("its turn");
        assert!(gate.enter().is_none(), "only one tries");
        drop(trial);
        let trial = gate.enter().expect("the first was given up");
        trial.end(Outcome::Answered);
        assert!(gate.enter().is_some());
        assert_eq!(gate.paused(), Duration::ZERO);
    }
}
