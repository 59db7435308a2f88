//! After some failures in a row the server is taken to be away: nothing is asked of it for a while, then one search
//! tries. If that is answered, all go on; if not, the pause doubles.

use std::time::Duration;

/// When the breaker opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BreakerSettings {
    /// Failures in a row, of all searches together.
    pub(crate) failures: u32,
    /// The first pause.
    pub(crate) pause: Duration,
    /// No pause of ours is longer.
    pub(crate) longest_pause: Duration,
}

/// The circuit breaker.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// All pauses since the server last answered.
    paused: Duration,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Duration,
        pause: Duration,
    },
    /// One search is under way to see whether the server is back.
    Trial {
        pause: Duration,
    },
}

/// Whether a search may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    Granted,
    /// Only this one, to see whether the server is back.
    Trial,
    /// Not before so long; `None` while another one tries.
    Wait(Option<Duration>),
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, paused: Duration::ZERO }
    }

    pub(crate) fn leave(&self, now: Duration) -> Leave {
        match self.state {
            State::Closed { .. } => Leave::Granted,
            State::Open { until, .. } if now >= until => Leave::Trial,
            State::Open { until, .. } => Leave::Wait(Some(until.saturating_sub(now))),
            State::Trial { .. } => Leave::Wait(None),
        }
    }

    /// The search that tries has begun.
    pub(crate) fn begin_trial(&mut self) {
        if let State::Open { pause, .. } = self.state {
            self.state = State::Trial { pause };
        }
    }

    /// The search that tried was given up before there was an answer: another one may try.
    pub(crate) fn lose_trial(&mut self, now: Duration) {
        if let State::Trial { pause } = self.state {
            self.state = State::Open { until: now, pause };
        }
    }

    /// The server answered, whatever it said; `true` if it was taken to be away.
    pub(crate) fn close(&mut self) -> bool {
        let was_closed = matches!(self.state, State::Closed { .. });
        self.state = State::Closed { failures: 0 };
        self.paused = Duration::ZERO;
        !was_closed
    }

    /// The server was not there; it may have `asked` for a pause. Gives the pause if one begins.
    pub(crate) fn fail(&mut self, now: Duration, asked: Option<Duration>) -> Option<Duration> {
        let own = match self.state {
            State::Closed { failures } if failures + 1 < self.settings.failures => {
                self.state = State::Closed { failures: failures + 1 };
                return None;
            }
            State::Closed { .. } => self.settings.pause,
            State::Trial { pause } => (pause * 2).min(self.settings.longest_pause),
            // One of those that were under way when it opened.
            State::Open { .. } => return None,
        };
        let pause = asked.map_or(own, |asked| asked.max(own));
        self.paused += pause;
        self.state = State::Open { until: now + pause, pause: own };
        Some(pause)
    }

    /// All pauses since the server last answered: what a search that keeps failing has to count as its own.
    pub(crate) fn paused(&self) -> Duration {
        self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: BreakerSettings =
        BreakerSettings { failures: 3, pause: Duration::from_secs(5), longest_pause: Duration::from_secs(15) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failed(times: usize) -> Breaker {
        let mut breaker = Breaker::new(SETTINGS);
        (0..times).for_each(|_| {
            breaker.fail(at(100), None);
        });
        breaker
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row() {
        for (failures, expected) in [
            (0, Leave::Granted),
            (2, Leave::Granted),
            (3, Leave::Wait(Some(at(5)))),
            // Those that were under way make it no longer.
            (11, Leave::Wait(Some(at(5)))),
        ] {
            assert_eq!(failed(failures).leave(at(100)), expected, "{failures}");
        }
        let mut breaker = failed(2);
        assert!(!breaker.close());
        assert_eq!(breaker.fail(at(100), None), None);
        assert_eq!(breaker.leave(at(100)), Leave::Granted, "they were not in a row");
    }

    #[test]
    fn one_search_tries_and_all_follow_it() {
        let mut breaker = failed(3);
        assert_eq!(breaker.leave(at(104)), Leave::Wait(Some(at(1))));
        assert_eq!(breaker.leave(at(105)), Leave::Trial);
        breaker.begin_trial();
        assert_eq!(breaker.leave(at(105)), Leave::Wait(None));
        assert!(breaker.close());
        assert_eq!((breaker.leave(at(105)), breaker.paused()), (Leave::Granted, at(0)));
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_counted() {
        let mut breaker = failed(3);
        let mut now = at(100);
        for (pause, paused) in [(5, 5), (10, 15), (15, 30), (15, 45)] {
            assert_eq!(breaker.leave(now), Leave::Wait(Some(at(pause))));
            assert_eq!(breaker.paused(), at(paused));
            now += at(pause);
            assert_eq!(breaker.leave(now), Leave::Trial);
            breaker.begin_trial();
            assert!(breaker.fail(now, None).is_some());
        }
    }

    #[test]
    fn a_server_that_asks_for_more_gets_it_and_a_lost_trial_is_made_by_another() {
        let mut breaker = failed(2);
        assert_eq!(breaker.fail(at(100), Some(at(60))), Some(at(60)));
        assert_eq!(breaker.leave(at(159)), Leave::Wait(Some(at(1))));
        breaker.begin_trial();
        breaker.lose_trial(at(170));
        assert_eq!(breaker.leave(at(170)), Leave::Trial);
    }
}
