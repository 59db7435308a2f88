//! The time of a world, as numbers of ticks and as instants.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::instant::Span;

/// How long a tick is.
pub const TICK: Duration = Duration::from_secs(5);
/// The moment at which a world begins: 2026-03-01T00:00:00Z.
pub(super) const BEGIN_MILLIS: i64 = 1_772_323_200_000;
const TICK_MILLIS: i64 = 5_000;

pub(super) fn at(tick: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::milliseconds(BEGIN_MILLIS + tick * TICK_MILLIS)
}

/// A query to be read by people: instants as ticks.
pub(super) fn in_ticks(query: &str) -> String {
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let shown = pairs.map(|(name, value)| {
        let (prefix, rest) = value.split_at_checked(2).unwrap_or((&value, ""));
        match Span::parse(rest).filter(|_| name == "_lastUpdated") {
            Some(span) => {
                let past = span.from - BEGIN_MILLIS;
                let (ticks, rest) = (past.div_euclid(TICK_MILLIS), past.rem_euclid(TICK_MILLIS));
                format!("{prefix}{ticks}+{rest}ms")
            }
            None => format!("{name}={value}"),
        }
    });
    shown.collect::<Vec<_>>().join("&")
}

/// An instant of this world as a number of ticks, rounded down.
#[must_use]
pub fn ticks(instant: &str) -> Option<i64> {
    Some((Span::parse(instant)?.from - BEGIN_MILLIS).div_euclid(TICK_MILLIS))
}
