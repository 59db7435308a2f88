//! Which failure earns another try, and when.

use std::time::Duration;

use crate::fhir::datatypes::{Millis, parse_http_date};

/// What an answer's status says about asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    /// The same question may be answered later.
    Again,
    /// The same question will get the same answer.
    Final,
}

pub(crate) fn of_status(status: http::StatusCode) -> Verdict {
    match status.as_u16() {
        200..=299 => Verdict::Good,
        // 423 Locked and 425 Too Early pass; so does every server error but 501 and 505, which never change.
        408 | 423 | 425 | 429 | 500 | 502..=504 | 506..=599 => Verdict::Again,
        _ => Verdict::Final,
    }
}

/// First pause, doubled at each failure.
const FIRST: Duration = Duration::from_millis(200);
/// Longest pause of our own.
const LONGEST: Duration = Duration::from_secs(10);
/// Longest pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(2);

/// How long to wait after `failures` failures in a row. `jitter` is a random number: half of the pause depends on
/// it, so that many readers do not come back at once. What the server asked for is kept, within bounds.
pub(crate) fn pause(failures: u32, asked: Option<Duration>, jitter: u64) -> Duration {
    let full = FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST);
    let half = full / 2;
    let random = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
    let own = half + Duration::from_millis(jitter % random);
    asked.map_or(own, |asked| asked.min(LONGEST_ASKED).max(own))
}

/// `Retry-After` in both its forms: seconds, or a date held against the server's own `Date`.
pub(crate) fn retry_after(value: &str, server_date: Option<Millis>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().map_or(LONGEST_ASKED, Duration::from_secs));
    }
    let millis = parse_http_date(value)?.0.saturating_sub(server_date?.0);
    Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_keep_what_the_server_asked_for() {
        assert_eq!(pause(1, None, 0), Duration::from_millis(100));
        assert!(pause(1, None, 99) < FIRST);
        assert_eq!(pause(30, None, 0), LONGEST / 2);
        assert!(pause(u32::MAX, None, u64::MAX) <= LONGEST);
        assert_eq!(pause(1, Some(Duration::from_secs(7)), 0), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(99_999)), 0), LONGEST_ASKED);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let date = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        for (value, expected) in [
            ("120", Some(Duration::from_mins(2))),
            ("99999999999999999999999", Some(LONGEST_ASKED)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(Duration::from_secs(10))),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(Duration::ZERO)),
            ("-5", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(value, date), expected, "{value}");
        }
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", None), None);
    }

    #[test]
    fn only_what_may_pass_is_asked_again() {
        for (status, expected) in [
            (200, Verdict::Good),
            (429, Verdict::Again),
            (503, Verdict::Again),
            (501, Verdict::Final),
            (400, Verdict::Final),
            (410, Verdict::Final),
        ] {
            assert_eq!(of_status(http::StatusCode::from_u16(status).expect("a status")), expected, "{status}");
        }
    }
}
