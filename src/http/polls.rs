//! How often exports are asked about: who asks far more often than `Retry-After` says is told to wait (BD-060, BD-114).
//!
//! Only polls that come too early count. Whoever heeds `Retry-After` is never told to wait, however many exports it has:
//! for some clients a 429 is the end of the export.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;

use super::places::network;
use crate::clock::Clock;
use crate::job::JobId;
use crate::smart::client::ClientId;

/// Exports of which it is remembered when they may be asked about again, and for how long.
const EXPORTS: u64 = 10_000;
const LIFETIME: Duration = Duration::from_mins(2);
const SECOND: Duration = Duration::from_secs(1);

/// Whose polls are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Poller {
    Client(ClientId),
    /// Where nobody is a client.
    Peer(IpAddr),
}

impl Poller {
    pub(super) fn peer(peer: IpAddr) -> Self {
        Self::Peer(network(peer))
    }
}

/// What is known of an export's polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Poll {
    /// It was not asked about before, or so long ago that this is forgotten.
    First,
    /// It comes when it was asked to, or later.
    InTime,
    Early,
}

/// The polls of the last moments.
#[derive(Debug)]
pub(crate) struct Polls {
    clock: Arc<dyn Clock>,
    /// When an export may be asked about again.
    due: Cache<JobId, Duration>,
    early: Mutex<Early>,
    /// Polls of one poller that may come too early within a second.
    most: u32,
}

/// The polls that came too early since a second began.
#[derive(Debug, Default)]
struct Early {
    began: Duration,
    /// Nobody is remembered for longer than the second.
    count: HashMap<Poller, u32>,
}

/// Somebody polls too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("exports are asked about too often; `Retry-After` says when to ask again")]
pub(super) struct TooOften;

impl Polls {
    pub(crate) fn new(clock: Arc<dyn Clock>, most: u32) -> Self {
        let due = Cache::builder().max_capacity(EXPORTS).time_to_live(LIFETIME).build();
        Self { clock, due, early: Mutex::default(), most }
    }

    /// Takes note of one poll before anything is looked up for it.
    ///
    /// # Errors
    /// [`TooOften`] if it comes too early once more than may be; or first, behind so many that did.
    pub(super) async fn begin(&self, poller: &Poller, job: JobId) -> Result<Poll, TooOften> {
        let now = self.clock.monotonic();
        let poll = match self.due.get(&job).await {
            None => Poll::First,
            Some(due) if due <= now => Poll::InTime,
            Some(_) => Poll::Early,
        };
        match poll {
            Poll::InTime => Ok(poll),
            // With none allowed the first one is still no early one.
            Poll::First if self.early_ones(now, poller, 0) < self.most.max(1) => Ok(poll),
            Poll::Early if self.early_ones(now, poller, 1) <= self.most => Ok(poll),
            Poll::First | Poll::Early => Err(TooOften),
        }
    }

    /// Takes note of one page of a manifest that is asked for before anything is looked up for it: whoever follows its links
    /// asks for each once.
    ///
    /// # Errors
    /// [`TooOften`] if more are asked for in a second than polls may come early.
    pub(super) fn followed(&self, poller: &Poller) -> Result<(), TooOften> {
        let asked = self.early_ones(self.clock.monotonic(), poller, 1);
        if asked <= self.most.max(1) { Ok(()) } else { Err(TooOften) }
    }

    /// There was nothing to be asked about.
    pub(super) fn was_for_nothing(&self, poller: &Poller) {
        self.early_ones(self.clock.monotonic(), poller, 1);
    }

    /// An export may be asked about again after so many seconds.
    pub(super) async fn answered(&self, job: JobId, retry_seconds: u64) {
        self.due.insert(job, self.clock.monotonic().saturating_add(Duration::from_secs(retry_seconds))).await;
    }

    /// How many early polls a poller has made in this second, with `more` of them.
    fn early_ones(&self, now: Duration, poller: &Poller, more: u32) -> u32 {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if now < early.began || now >= early.began.saturating_add(SECOND) {
            *early = Early { began: now, count: HashMap::new() };
        }
        if more == 0 {
            return early.count.get(poller).copied().unwrap_or_default();
        }
        let count = early.count.entry(poller.clone()).or_default();
        *count = count.saturating_add(more);
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const MOST: u32 = 100;

    fn job(number: u32) -> JobId {
        JobId::new(u128::from(number).to_be_bytes())
    }

    fn poller(name: &str) -> Poller {
        Poller::Client(ClientId::parse(name).expect("a name"))
    }

    /// A thousand exports, each asked about when it was said: nobody counts that.
    #[tokio::test]
    async fn whoever_heeds_retry_after_is_never_told_to_wait() {
        let clock = Arc::new(ManualClock::new(0));
        let polls = Polls::new(clock.clone(), MOST);
        for round in 0..5 {
            for number in 0..1_000 {
                let expected = if round == 0 { Poll::First } else { Poll::InTime };
                assert_eq!(polls.begin(&poller("a"), job(number)).await, Ok(expected), "{round}");
                polls.answered(job(number), 1).await;
            }
            clock.advance(SECOND);
        }
    }

    #[tokio::test]
    async fn a_hundred_polls_a_second_may_come_early_for_each() {
        let clock = Arc::new(ManualClock::new(0));
        let polls = Polls::new(clock.clone(), MOST);
        polls.answered(job(1), 30).await;
        for _ in 0..3 {
            for _ in 0..MOST {
                assert_eq!(polls.begin(&poller("a"), job(1)).await, Ok(Poll::Early));
            }
            for _ in 0..2 {
                assert_eq!(polls.begin(&poller("a"), job(1)).await, Err(TooOften));
                assert_eq!(polls.begin(&poller("a"), job(2)).await, Err(TooOften), "nothing is looked up for it");
            }
            assert_eq!(polls.begin(&poller("b"), job(1)).await, Ok(Poll::Early), "another one");
            clock.advance(SECOND);
        }
        for _ in 0..MOST {
            assert_eq!(polls.begin(&poller("a"), job(3)).await, Ok(Poll::First));
            polls.was_for_nothing(&poller("a"));
        }
        assert_eq!(polls.begin(&poller("a"), job(3)).await, Err(TooOften), "ids are not to be guessed");
        clock.advance(Duration::from_secs(30));
        assert_eq!(polls.begin(&poller("a"), job(1)).await, Ok(Poll::InTime));
        for _ in 0..MOST {
            assert_eq!(polls.followed(&poller("c")), Ok(()));
        }
        assert_eq!(polls.followed(&poller("c")), Err(TooOften), "nor is the ledger to be filled by pages");
        let polls = Polls::new(clock, 0);
        assert_eq!(polls.begin(&poller("a"), job(1)).await, Ok(Poll::First), "the first one is no early one");
        polls.answered(job(1), 30).await;
        assert_eq!(polls.begin(&poller("a"), job(1)).await, Err(TooOften));
    }
}
