//! Exports make way for live traffic. While there is any, a part of the places for searches stays free, each live request
//! takes the place of a search, and what is left is found by what live requests themselves tell: as long as they are
//! answered as quickly as without exports one more search is tried, and when they are not, searches make room at once.
//!
//! Nothing is known of the server but this. Live requests are disturbed a few times until the limit is found; then
//! searches stay well below it, and a higher one is tried more and more seldom.

use std::time::Duration;

use super::aimd::{as_f64, as_usize};
use crate::upstream::live::{LiveAnswer, LiveNow};

/// How much room live traffic gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct YieldSettings {
    /// Searches at once where there is no live traffic.
    pub(crate) ceiling: usize,
    /// The part of what would do no harm that stays free while there is any.
    pub(crate) headroom: f64,
    /// Searches at once that go on however slow live requests get.
    pub(crate) least: usize,
    /// Live traffic is taken to be there for so long after a request.
    pub(crate) memory: Duration,
}

/// Finds how many searches at once live traffic does not notice.
#[derive(Debug, Clone)]
pub(crate) struct Yielding {
    settings: YieldSettings,
    /// Searches and live requests at once.
    limit: f64,
    /// What the limit returns to after it was cut for a while.
    usual: f64,
    /// What it was before it was raised to what it is.
    before: f64,
    /// How sure it is, by the usual limit or by a higher one.
    state: State,
    /// How much speaks for live requests being disturbed.
    harm: f64,
    /// When a live answer was last heard of, and how many times as long as usual the latest slow one took.
    heard: Duration,
    times: f64,
    /// Answers in succession since the limit was changed that were not slow.
    fine: u32,
    /// Requests that came earlier tell of another limit.
    changed: Duration,
    /// The limit is not raised before then, and not above the usual one before that.
    grow_from: Duration,
    try_from: Duration,
    /// How often a raised limit turned out to be too high.
    too_high: u32,
    /// When live traffic was last seen.
    seen: Option<Duration>,
    retreat: Retreat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No limit has been too high yet: it is raised as fast as answers allow.
    Climbing,
    /// The usual limit was just set.
    Unproven,
    /// The usual limit has done no harm for a while.
    Proven,
    /// A limit above the usual one is tried.
    Trying,
}

/// Times without searches, in which the baselines are learnt.
#[derive(Debug, Clone, Copy, Default)]
struct Retreat {
    /// Since when, and the answers without searches by then.
    under_way: Option<(Duration, u64)>,
    latest: Option<Duration>,
}

/// So much evidence is no chance: two answers that took far too long, or more that took a little too long. A limit that
/// was just raised is doubted sooner, and one that is only tried is given up for one answer.
const ENOUGH_EVIDENCE: f64 = 3.0;
const ENOUGH_TO_STOP: f64 = 2.0;
const ENOUGH_TO_RETURN: f64 = 1.5;
/// With more evidence than this the limit is not raised.
const SOME_EVIDENCE: f64 = 1.0;
/// The most and the least that one answer says, and what is forgotten with each.
const MOST_SAID: f64 = 2.0;
const LEAST_SAID: f64 = -0.5;
const FORGOTTEN_EACH: f64 = 0.1;
/// Answers that come closer together say less each, but not less than this part.
const SPACING: Duration = Duration::from_millis(200);
const LEAST_WEIGHT: f64 = 1.0 / 8.0;
/// So many answers in succession that were not slow prove a limit, and so many let a higher one be tried.
const PROOF: u32 = 8;
const FINE_TO_CLIMB: u32 = 2;
const FINE_TO_TRY: u32 = 5;
/// How long no higher limit is tried after one was too high; twice as long each time, so often.
const FIRST_HOLD: Duration = Duration::from_secs(10);
const MOST_DOUBLINGS: u32 = 5;
/// What a proven limit is cut to when live requests are slow all the same, how long that lasts, and what is left of it.
const CUT: f64 = 0.75;
const SHORT_HOLD: Duration = Duration::from_secs(2);
const LEFT: f64 = 0.95;
/// A limit found so long ago is found anew.
const FORGOTTEN: Duration = Duration::from_mins(10);
/// Baselines without an answer for so long are learnt anew: searches pause until there are so many, for this time at most
/// and no more often than this.
const STALE: Duration = Duration::from_mins(10);
const ENOUGH_ANSWERS: u64 = 3;
const LONGEST_RETREAT: Duration = Duration::from_secs(1);
const RETREAT_EVERY: Duration = Duration::from_mins(1);

impl Yielding {
    pub(crate) fn new(settings: YieldSettings) -> Self {
        let mut new = Self {
            settings,
            limit: 0.0,
            usual: 0.0,
            before: 0.0,
            state: State::Climbing,
            harm: 0.0,
            heard: Duration::ZERO,
            times: f64::INFINITY,
            fine: 0,
            changed: Duration::ZERO,
            grow_from: Duration::ZERO,
            try_from: Duration::ZERO,
            too_high: 0,
            seen: None,
            retreat: Retreat::default(),
        };
        // Half of what may be, and not less than a few: the operator's ceiling says something about the server.
        let most = new.most_beside_traffic();
        new.limit = as_f64((most / 2).max(4).min(most));
        new.usual = new.limit;
        new
    }

    /// Searches at once while there is live traffic: all but the part that stays free, but at least one.
    fn most_beside_traffic(&self) -> usize {
        let ceiling = as_f64(self.settings.ceiling);
        as_usize(ceiling - (self.settings.headroom * ceiling - 1e-9).ceil()).max(1)
    }

    /// Searches that may be under way at once.
    pub(crate) fn searches(&mut self, live: &LiveNow, now: Duration) -> usize {
        let is_there = |latest| live.requests > 0 || now.saturating_sub(latest) < self.settings.memory;
        if !live.latest.is_some_and(is_there) {
            return self.settings.ceiling;
        }
        if self.seen.is_none_or(|seen| now.saturating_sub(seen) > FORGOTTEN) {
            *self = Self { retreat: self.retreat, changed: now, ..Self::new(self.settings) };
        }
        self.seen = Some(now);
        if self.retreats(live, now) {
            return 0;
        }
        let left = as_usize((self.limit - as_f64(live.requests)).max(0.0));
        left.max(self.settings.least).min(self.most_beside_traffic())
    }

    /// What a live request tells.
    pub(crate) fn hear(&mut self, answer: &LiveAnswer, now: Duration) {
        let excess = f64::from(answer.slowness.excess);
        // What is slow without us is not our doing.
        if answer.began < self.changed || (excess > 0.0 && answer.searches == 0) {
            return;
        }
        let weight = now.saturating_sub(self.heard).as_secs_f64() / SPACING.as_secs_f64();
        let said = excess.clamp(LEAST_SAID, MOST_SAID) - FORGOTTEN_EACH;
        self.harm = (self.harm + weight.clamp(LEAST_WEIGHT, 1.0) * said).max(0.0);
        self.heard = now;
        if excess > 0.0 {
            let times = f64::from(answer.slowness.times);
            if self.harm >= self.enough() {
                // One that took much longer than the one before may have had reasons of its own.
                self.cut(as_f64(answer.level), times.min(self.times), now);
            }
            (self.times, self.fine) = (times, 0);
            return;
        }
        self.fine += 1;
        // A limit that was not used up has proven nothing.
        if as_f64(answer.level) + 1.0 >= self.limit.floor() {
            self.prove(now);
        }
    }

    fn enough(&self) -> f64 {
        match self.state {
            State::Climbing => ENOUGH_TO_STOP,
            State::Trying => ENOUGH_TO_RETURN,
            State::Unproven | State::Proven => ENOUGH_EVIDENCE,
        }
    }

    /// An answer was not slow although as many searches as may be were under way.
    fn prove(&mut self, now: Duration) {
        let is_below = self.limit < self.usual;
        if self.fine >= PROOF && !is_below {
            self.usual = self.limit;
            self.state = State::Proven;
        }
        let may_grow = self.harm < SOME_EVIDENCE && now >= self.grow_from;
        let higher = match self.state {
            _ if !may_grow => return,
            State::Climbing if self.fine < FINE_TO_CLIMB => return,
            State::Climbing => self.limit + (self.limit / 16.0).max(1.0),
            State::Unproven | State::Proven | State::Trying if is_below => self.usual.min(self.limit + 1.0),
            State::Unproven | State::Proven | State::Trying if self.fine < FINE_TO_TRY || now < self.try_from => return,
            State::Unproven | State::Proven | State::Trying => {
                self.state = State::Trying;
                self.limit + 1.0
            }
        };
        tracing::debug!(limit = higher, usual = self.usual, state = ?self.state, "live traffic leaves room");
        (self.before, self.limit) = (self.limit, higher);
        (self.changed, self.fine) = (now, 0);
    }

    /// Live requests are disturbed.
    fn cut(&mut self, level: f64, times: f64, now: Duration) {
        match self.state {
            State::Climbing | State::Trying => {
                // Where requests queue they take longer in proportion to how many there are; but what did no harm a
                // moment ago is known better.
                let harmless = self.before.max(level / times.max(1.0)).min(self.limit.min(level) - 1.0).max(0.0);
                // A limit that was tried in small steps from one that did no harm is sure; others need room for doubt.
                let doubt = (harmless * self.settings.headroom).max(1.0);
                self.usual = if self.state == State::Trying { harmless } else { (harmless - doubt).max(0.0) };
                self.limit = self.usual;
                self.state = State::Unproven;
                self.try_from = now + FIRST_HOLD * 2_u32.pow(self.too_high);
                self.too_high = (self.too_high + 1).min(MOST_DOUBLINGS);
            }
            State::Unproven => {
                self.limit *= CUT;
                self.usual = self.limit;
            }
            State::Proven => {
                self.limit *= CUT;
                self.usual *= LEFT;
            }
        }
        self.grow_from = now + SHORT_HOLD;
        tracing::debug!(limit = self.limit, usual = self.usual, level, times, state = ?self.state, "searches make room");
        (self.changed, self.fine, self.harm, self.times) = (now, 0, 0.0, f64::INFINITY);
    }

    /// Whether searches pause at this moment so that the baselines can be learnt.
    fn retreats(&mut self, live: &LiveNow, now: Duration) -> bool {
        if let Some((since, answers)) = self.retreat.under_way {
            if live.idle_answers < answers + ENOUGH_ANSWERS && now.saturating_sub(since) < LONGEST_RETREAT {
                return true;
            }
            self.retreat = Retreat { under_way: None, latest: Some(now) };
            return false;
        }
        let is_stale = live.idle_at.is_none_or(|at| now.saturating_sub(at) > STALE);
        let is_due = self.retreat.latest.is_none_or(|latest| now.saturating_sub(latest) > RETREAT_EVERY);
        if is_stale && is_due {
            self.retreat.under_way = Some((now, live.idle_answers));
        }
        is_stale && is_due
    }
}

#[cfg(test)]
mod tests;
