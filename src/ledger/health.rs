//! Whether the ledger can be written, as far as was seen: what operators are told without asking its disk.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Told by the one that writes.
#[derive(Debug, Default)]
pub(super) struct Health {
    has_failed: AtomicBool,
    /// Since when its disk is waited for, in milliseconds of the monotonic clock and one more; zero while it is not.
    busy_since: AtomicU64,
}

impl Health {
    /// It could be written when that was tried last, or not.
    pub(super) fn tell(&self, has_failed: bool) {
        self.has_failed.store(has_failed, Ordering::Relaxed);
    }

    pub(super) fn begin(&self, now: Duration) {
        self.busy_since.store(millis(now).saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// Whether the last try failed, or one takes longer than anybody waits.
    pub(super) fn is_failing(&self, now: Duration, patience: Duration) -> bool {
        let since = self.busy_since.load(Ordering::Relaxed);
        let hangs = since != 0 && millis(now).saturating_sub(since - 1) >= millis(patience);
        hangs || self.has_failed.load(Ordering::Relaxed)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fails_when_it_did_last_or_hangs() {
        let (health, patience) = (Health::default(), Duration::from_secs(10));
        let is_failing = |at: u64| health.is_failing(Duration::from_secs(at), patience);
        health.begin(Duration::ZERO);
        assert!(!is_failing(9) && is_failing(10));
        health.end();
        assert!(!is_failing(10));
        health.tell(true);
        assert!(is_failing(10));
        health.tell(false);
        assert!(!is_failing(10));
    }
}
