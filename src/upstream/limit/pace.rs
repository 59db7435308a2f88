//! A ceiling on how many searches begin in a second: they are spread, not let through in bursts.

use std::time::Duration;

/// Timers are no finer than this, so that so much may be made good.
const SLACK: Duration = Duration::from_millis(20);

/// When the next search may begin.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    interval: Duration,
    next: Duration,
}

impl Pace {
    /// So many in a second at most.
    pub(crate) fn new(per_second: f64) -> Self {
        Self { interval: Duration::from_secs_f64(1.0 / per_second), next: Duration::ZERO }
    }

    /// How long from `now` until the next search may begin.
    pub(crate) fn wait(&self, now: Duration) -> Duration {
        self.next.saturating_sub(now + SLACK)
    }

    /// A search begins.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.next = self.next.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_sees_more_than_the_ceiling() {
        for (per_second, seconds, most) in [(10.0, 10, 101), (0.5, 60, 31), (200.0, 5, 1_005), (2_000.0, 2, 4_045)] {
            let mut pace = Pace::new(per_second);
            let end = Duration::from_secs(seconds);
            let (mut now, mut begun) = (Duration::ZERO, 0);
            while now < end {
                if pace.wait(now).is_zero() {
                    pace.begin(now);
                    begun += 1;
                } else {
                    now += pace.wait(now).max(Duration::from_millis(1));
                }
            }
            assert!(begun <= most && begun >= most * 95 / 100, "{per_second}: {begun} in {seconds} s");
        }
    }

    #[test]
    fn what_was_not_used_is_not_made_good() {
        let mut pace = Pace::new(10.0);
        pace.begin(Duration::ZERO);
        let later = Duration::from_hours(1);
        pace.begin(later);
        assert_eq!(pace.wait(later), Duration::from_millis(80));
    }
}
