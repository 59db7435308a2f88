//! How many searches at once, and when none: what the server's answers, live traffic, the hour and the operator's
//! ceilings allow together. Time is an argument; who waits and who is woken is `gate`'s affair.

pub(crate) mod aimd;
pub(crate) mod breaker;
pub(crate) mod pace;
pub(crate) mod quiet;
pub(crate) mod yielding;

use std::time::Duration;

use self::aimd::{Aimd, Cut};
use self::breaker::{Breaker, BreakerSettings, Leave};
use self::pace::Pace;
use self::quiet::Quiet;
use self::yielding::{YieldSettings, Yielding};
use super::live::{LiveAnswer, LiveNow};

/// What the operator decided.
#[derive(Debug, Clone)]
pub(crate) struct LimitSettings {
    /// Searches at once, whatever the server bears.
    pub(crate) ceiling: usize,
    /// Searches that begin in a second.
    pub(crate) per_second: Option<f64>,
    pub(crate) breaker: BreakerSettings,
    /// `None`: exports search as if nobody else was there.
    pub(crate) yielding: Option<YieldSettings>,
}

/// All limits on searches.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    searches: usize,
    adaptive: Aimd,
    breaker: Breaker,
    pace: Option<Pace>,
    yielding: Option<Yielding>,
    /// The server has asked for a pause of all searches.
    asked_until: Duration,
}

/// Time and surroundings of a decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around {
    /// By the monotonic clock.
    pub(crate) now: Duration,
    pub(crate) live: LiveNow,
    pub(crate) quiet: Option<Quiet>,
}

/// Whether one more search may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Go { is_trial: bool },
    Wait(Wait),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) reason: Reason,
    /// When to ask again if nothing happens before.
    pub(crate) for_at_most: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// As many searches as may be are under way.
    Busy,
    /// So many searches have begun in this second.
    Rate,
    /// Live traffic needs all there is.
    LiveTraffic,
    /// Quiet hours, until so many minutes after midnight.
    QuietHours { until: u16 },
    /// The server does not answer.
    Away,
    /// The server has asked for a pause.
    Asked,
}

impl Reason {
    /// Whether it may last: then nobody holds anything meanwhile, and a process that is to stop does not wait for it.
    pub(crate) fn is_long(self) -> bool {
        match self {
            Self::Busy | Self::Rate => false,
            Self::LiveTraffic | Self::QuietHours { .. } | Self::Away | Self::Asked => true,
        }
    }
}

/// How a search ended, as far as limits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered.
    Answered,
    /// The server is there and has a problem of its own with this search.
    Failed,
    /// 429: the server is there and wants to be asked less.
    TooMany { asked: Option<Duration> },
    /// 503: it is overloaded or away.
    Unavailable { asked: Option<Duration> },
    /// Nothing came, no connection was to be had, or a gateway had none.
    NotThere,
    /// The connection broke in the middle of the answer.
    Broken,
}

/// Live traffic and local time change by themselves: how often they are looked at while somebody waits.
const LIVE_LOOK: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_secs(1);
const QUIET_LOOK: Duration = Duration::from_secs(15);
/// No server is waited for longer, whatever it asks for.
const LONGEST_ASKED: Duration = Duration::from_mins(2);

impl Limit {
    pub(crate) fn new(settings: &LimitSettings) -> Self {
        Self {
            searches: 0,
            adaptive: Aimd::new(settings.ceiling),
            breaker: Breaker::new(settings.breaker),
            pace: settings.per_second.map(Pace::new),
            yielding: settings.yielding.map(Yielding::new),
            asked_until: Duration::ZERO,
        }
    }

    /// What live requests tell.
    pub(crate) fn hear(&mut self, answers: &[LiveAnswer], now: Duration) {
        if let Some(yielding) = &mut self.yielding {
            for answer in answers {
                yielding.hear(answer, now);
            }
        }
    }

    /// Whether one more search may begin. What lasts longest is told first.
    pub(crate) fn decide(&mut self, around: &Around) -> Decision {
        let Around { now, live, quiet } = *around;
        let wait = |reason, for_at_most| Decision::Wait(Wait { reason, for_at_most });
        let by_the_hour = quiet.map_or(usize::MAX, |quiet| quiet.searches);
        if let Some(Quiet { searches: 0, until }) = quiet {
            return wait(Reason::QuietHours { until }, QUIET_LOOK);
        }
        let is_trial = match self.breaker.leave(now) {
            Leave::Granted => false,
            Leave::Trial => true,
            Leave::Wait(left) => return wait(Reason::Away, left.unwrap_or(LOOK).min(LOOK)),
        };
        if now < self.asked_until {
            return wait(Reason::Asked, self.asked_until.saturating_sub(now).min(LOOK));
        }
        let by_traffic = self.yielding.as_mut().map_or(usize::MAX, |yielding| yielding.searches(&live, now));
        if by_traffic == 0 {
            return wait(Reason::LiveTraffic, LIVE_LOOK);
        }
        if self.searches >= self.adaptive.searches().min(by_traffic).min(by_the_hour) {
            return wait(Reason::Busy, if live.latest.is_some() { LIVE_LOOK } else { LOOK });
        }
        match self.pace.as_ref().map(|pace| pace.wait(now)).filter(|wait| !wait.is_zero()) {
            Some(left) => wait(Reason::Rate, left.min(LOOK)),
            None => Decision::Go { is_trial },
        }
    }

    /// A search begins.
    pub(crate) fn begin(&mut self, is_trial: bool, now: Duration) {
        self.searches += 1;
        if is_trial {
            self.breaker.begin_trial();
        }
        if let Some(pace) = &mut self.pace {
            pace.begin(now);
        }
    }

    /// A search that began at `began` is under way no more. `None`: it was given up before there was an answer.
    pub(crate) fn end(&mut self, outcome: Option<Outcome>, is_trial: bool, began: Duration, now: Duration) {
        self.searches = self.searches.saturating_sub(1);
        let Some(outcome) = outcome else {
            if is_trial {
                self.breaker.lose_trial(now);
            }
            return;
        };
        let cut = match outcome {
            Outcome::Answered => {
                self.adaptive.grow();
                None
            }
            Outcome::Failed => None,
            Outcome::TooMany { asked } => {
                // To ask less than one at a time is not to ask at all for a while.
                if let Some(asked) = asked.filter(|_| self.adaptive.searches() == 1) {
                    self.asked_until = self.asked_until.max(now + asked.min(LONGEST_ASKED));
                }
                Some(Cut::Told)
            }
            Outcome::Unavailable { .. } => Some(Cut::Told),
            Outcome::NotThere | Outcome::Broken => Some(Cut::Guessed),
        };
        if let Some(cut) = cut
            && self.adaptive.cut(cut, began, now)
        {
            tracing::debug!(searches = self.adaptive.searches(), ?outcome, "fewer searches at once");
        }
        let pause = match outcome {
            Outcome::Answered | Outcome::Failed | Outcome::TooMany { .. } | Outcome::Broken => {
                if self.breaker.close() {
                    tracing::info!("the upstream answers again");
                }
                None
            }
            Outcome::Unavailable { asked } => self.breaker.fail(now, asked.map(|asked| asked.min(LONGEST_ASKED))),
            Outcome::NotThere => self.breaker.fail(now, None),
        };
        if let Some(pause) = pause {
            tracing::warn!(pause_ms = pause.as_millis(), "the upstream does not answer: searches pause");
        }
    }

    /// How long searches have paused in all since the server last answered.
    pub(crate) fn paused(&self) -> Duration {
        self.breaker.paused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> LimitSettings {
        LimitSettings {
            ceiling: 8,
            per_second: None,
            breaker: BreakerSettings {
                failures: 3,
                pause: Duration::from_secs(5),
                longest_pause: Duration::from_mins(1),
            },
            yielding: None,
        }
    }

    fn yields(least: usize) -> LimitSettings {
        let yielding = YieldSettings { ceiling: 8, headroom: 0.2, least, memory: Duration::from_mins(1) };
        LimitSettings { yielding: Some(yielding), ..settings() }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000 + seconds)
    }

    fn around(now: Duration) -> Around {
        Around { now, live: LiveNow::default(), quiet: None }
    }

    /// Searches that may begin until one has to wait, and for what.
    fn begin_all(limit: &mut Limit, around: &Around) -> (usize, Reason) {
        for begun in 0.. {
            match limit.decide(around) {
                Decision::Go { is_trial } => limit.begin(is_trial, around.now),
                Decision::Wait(wait) => return (begun, wait.reason),
            }
        }
        unreachable!("every limit ends")
    }

    fn ended(limit: &mut Limit, outcomes: &[Outcome], now: Duration) {
        for outcome in outcomes {
            limit.begin(false, now);
            limit.end(Some(*outcome), false, now, now);
        }
    }

    #[test]
    fn the_strictest_limit_holds_and_what_lasts_is_told_first() {
        let traffic = LiveNow { requests: 9, latest: Some(at(0)), idle_answers: 9, idle_at: Some(at(0)) };
        let quiet = |searches| Some(Quiet { searches, until: 420 });
        for (name, settings, around, expected) in [
            ("the ceiling", settings(), around(at(0)), (8, Reason::Busy)),
            (
                "quiet hours",
                yields(0),
                Around { quiet: quiet(0), live: traffic, ..around(at(0)) },
                (0, Reason::QuietHours { until: 420 }),
            ),
            ("hours of less", settings(), Around { quiet: quiet(3), ..around(at(0)) }, (3, Reason::Busy)),
            ("a pace", LimitSettings { per_second: Some(2.0), ..settings() }, around(at(0)), (1, Reason::Rate)),
            (
                "live traffic, some searches left",
                yields(2),
                Around { live: traffic, ..around(at(0)) },
                (2, Reason::Busy),
            ),
            ("live traffic, none left", yields(0), Around { live: traffic, ..around(at(0)) }, (0, Reason::LiveTraffic)),
        ] {
            let mut limit = Limit::new(&settings);
            assert_eq!(begin_all(&mut limit, &around), expected, "{name}");
        }
    }

    #[test]
    fn each_end_of_a_search_does_what_it_has_to() {
        let asked = |seconds| Some(Duration::from_secs(seconds));
        let told = Outcome::TooMany { asked: asked(30) };
        let away = Outcome::Unavailable { asked: asked(600) };
        for (name, outcomes, now, expected) in [
            ("answers", vec![Outcome::Answered; 20], at(0), (8, Reason::Busy)),
            ("failures of its own", vec![Outcome::Failed; 20], at(0), (8, Reason::Busy)),
            ("asked to ask less", vec![told], at(0), (4, Reason::Busy)),
            ("a broken answer", vec![Outcome::Broken], at(0), (6, Reason::Busy)),
            ("asked to pause", vec![told; 4], at(29), (0, Reason::Asked)),
            ("after the pause", vec![told; 4], at(30), (1, Reason::Busy)),
            (
                "not in a row",
                vec![Outcome::NotThere, Outcome::NotThere, Outcome::Failed, Outcome::NotThere],
                at(0),
                (3, Reason::Busy),
            ),
            ("in a row", vec![Outcome::NotThere; 3], at(4), (0, Reason::Away)),
            ("one tries", vec![Outcome::NotThere; 3], at(5), (1, Reason::Away)),
            ("asked for more than we wait", vec![away; 3], at(119), (0, Reason::Away)),
            ("waited for as long as we do", vec![away; 3], at(120), (1, Reason::Away)),
        ] {
            let mut limit = Limit::new(&settings());
            // Each a little later, so that each cuts the limit.
            for (number, outcome) in (0_u32..).zip(&outcomes) {
                ended(&mut limit, &[*outcome], at(0).saturating_sub(Duration::from_micros(50 - u64::from(number))));
            }
            assert_eq!(begin_all(&mut limit, &around(now + Duration::from_micros(50))), expected, "{name}");
        }
    }

    #[test]
    fn a_search_that_is_given_up_leaves_its_place_and_its_trial() {
        let mut limit = Limit::new(&settings());
        ended(&mut limit, &[Outcome::NotThere; 3], at(0));
        assert_eq!(begin_all(&mut limit, &around(at(5))), (1, Reason::Away));
        assert_eq!(limit.paused(), Duration::from_secs(5));
        limit.end(None, true, at(5), at(6));
        assert_eq!(begin_all(&mut limit, &around(at(6))), (1, Reason::Away), "another one tries");
        limit.end(Some(Outcome::Answered), true, at(6), at(6));
        assert_eq!(limit.paused(), Duration::ZERO);
        assert!(begin_all(&mut limit, &around(at(6))).0 > 1);
    }
}
