//! What expires, and which of it does so soon: certificates, keys and credentials (SEC-44). Pure.

pub(crate) mod credentials;
pub(crate) mod x509;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::fhir::datatypes::Millis;

/// How long before its end something is warned of.
const AHEAD: Duration = Duration::from_hours(30 * 24);
/// How long it is until it is warned of again.
const AGAIN: Duration = Duration::from_hours(24);
const DAY_MILLIS: i64 = 24 * 3_600_000;

/// Something that ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expiring {
    /// The option that names it, or its file in the state folder: nothing of what it holds.
    pub(crate) what: String,
    pub(crate) when: Millis,
    pub(crate) renewal: Renewal,
}

/// Who puts another one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// An operator, who is told in time.
    ByHand,
    /// We, or the platform: an operator is told if that has not happened.
    ByItself,
}

/// How something stands that expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    Good,
    /// It expires after so many whole days.
    Soon {
        days: i64,
    },
    /// It has expired.
    Over,
}

impl Expiring {
    pub(crate) fn outlook(&self, now: Millis) -> Outlook {
        if self.when <= now {
            return Outlook::Over;
        }
        match self.renewal {
            Renewal::ByHand if self.when <= now.saturating_add(AHEAD) => {
                Outlook::Soon { days: self.when.0.saturating_sub(now.0) / DAY_MILLIS }
            }
            Renewal::ByHand | Renewal::ByItself => Outlook::Good,
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("is good for now"),
            Self::Soon { days: 0 } => f.write_str("EXPIRES WITHIN A DAY"),
            Self::Soon { days } => write!(f, "expires in {days} days"),
            Self::Over => f.write_str("HAS EXPIRED"),
        }
    }
}

/// The earliest of several that are used as one.
pub(crate) fn earliest(found: impl IntoIterator<Item = Millis>) -> Option<Millis> {
    found.into_iter().min()
}

/// The latest of several of which one is enough: an old one beside a good one does no harm. None if one never ends, as far as it
/// says.
pub(crate) fn latest(found: impl IntoIterator<Item = Option<Millis>>) -> Option<Millis> {
    found.into_iter().collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// What an operator has been told of, and when.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<String, (Millis, Millis)>);

impl Told {
    /// What is to be told now: all that expires soon or has expired, each once a day, and at once if it was replaced by
    /// something that does so as well.
    pub(crate) fn news<'a>(&mut self, known: &'a [Expiring], now: Millis) -> Vec<(&'a Expiring, Outlook)> {
        // What is gone and comes back is told anew.
        self.0.retain(|what, _| known.iter().any(|expiring| expiring.what == *what));
        let mut news = Vec::new();
        for expiring in known {
            let outlook = expiring.outlook(now);
            if outlook == Outlook::Good {
                self.0.remove(&expiring.what);
                continue;
            }
            let told = self.0.get(&expiring.what);
            // A clock that was set back is no reason for silence.
            let is_fresh = |at: Millis| at <= now && now < at.saturating_add(AGAIN);
            if told.is_some_and(|(when, at)| *when == expiring.when && is_fresh(*at)) {
                continue;
            }
            self.0.insert(expiring.what.clone(), (expiring.when, now));
            news.push((expiring, outlook));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_000);

    fn in_days(what: &str, days: i64, renewal: Renewal) -> Expiring {
        Expiring { what: what.to_owned(), when: Millis(NOW.0 + days * DAY_MILLIS), renewal }
    }

    /// SEC-44
    #[test]
    fn what_expires_is_told_of_thirty_days_ahead_and_what_renews_itself_once_it_did_not() {
        for (days, renewal, expected) in [
            (31, Renewal::ByHand, Outlook::Good),
            (30, Renewal::ByHand, Outlook::Soon { days: 30 }),
            (1, Renewal::ByHand, Outlook::Soon { days: 1 }),
            (0, Renewal::ByHand, Outlook::Over),
            (-400, Renewal::ByHand, Outlook::Over),
            (1, Renewal::ByItself, Outlook::Good),
            (0, Renewal::ByItself, Outlook::Over),
        ] {
            assert_eq!(in_days("a", days, renewal).outlook(NOW), expected, "{days} {renewal:?}");
        }
        let last = Expiring { when: Millis(NOW.0 + 1), ..in_days("a", 0, Renewal::ByHand) };
        assert_eq!(last.outlook(NOW).to_string(), "EXPIRES WITHIN A DAY");
        let far = Expiring { when: Millis(i64::MAX), ..last };
        assert_eq!(far.outlook(Millis(i64::MIN)), Outlook::Good);
    }

    #[test]
    fn each_is_told_once_a_day_and_at_once_when_it_was_replaced() {
        let mut told = Told::default();
        let mut names = |known: &[Expiring], now: Millis| -> Vec<String> {
            told.news(known, now).into_iter().map(|(expiring, _)| expiring.what.clone()).collect()
        };
        let both = [in_days("a", 3, Renewal::ByHand), in_days("b", 40, Renewal::ByHand)];
        let later = |hours: i64| Millis(NOW.0 + hours * 3_600_000);
        assert_eq!(names(&both, NOW), ["a"]);
        assert!(names(&both, later(23)).is_empty());
        assert_eq!(names(&both, later(24)), ["a"]);
        let replaced = [in_days("a", 9, Renewal::ByHand), in_days("b", 40, Renewal::ByHand)];
        assert_eq!(names(&replaced, later(25)), ["a"]);
        assert_eq!(names(&replaced, later(241)), ["a", "b"], "one has expired, the other does so soon");
        let good = [in_days("a", 400, Renewal::ByHand)];
        assert!(names(&good, later(242)).is_empty());
        assert_eq!(names(&replaced, later(243)), ["a", "b"], "what came back is told anew");
        assert_eq!(names(&both, NOW), ["a"], "by a clock that was set back");
    }
}
