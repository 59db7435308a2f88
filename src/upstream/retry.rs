//! Which failure earns another try, and when.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

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

pub(crate) fn of_status(status: StatusCode) -> Verdict {
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

/// How long the server asks us to wait, by whichever header it says so; the more exact one goes first. Limits on the
/// rate are told on every answer, and so are heeded only where one was exceeded.
pub(crate) fn asked(status: StatusCode, headers: &HeaderMap, server_date: Option<Millis>) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let millis = || ["x-ms-retry-after-ms", "retry-after-ms"].into_iter().find_map(|name| digits(text(name)?));
    let date = || text("retry-after").and_then(|value| retry_after(value, server_date));
    let rate = || {
        let limits = headers.get_all("ratelimit").iter().filter_map(|value| value.to_str().ok());
        let resets = ["ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset"].into_iter();
        let reset = || resets.filter_map(text).find_map(|value| until_reset(digits(value)?, server_date));
        limits.filter_map(of_rate_limit).max().map(Duration::from_secs).or_else(reset)
    };
    let asked = millis().map(Duration::from_millis).or_else(date);
    asked.or_else(|| if status == StatusCode::TOO_MANY_REQUESTS { rate() } else { None })
}

/// `Retry-After` in both its forms: seconds, or a date held against the server's own `Date`.
fn retry_after(value: &str, server_date: Option<Millis>) -> Option<Duration> {
    if let Some(seconds) = digits(value) {
        return Some(Duration::from_secs(seconds));
    }
    let millis = parse_http_date(value)?.0.saturating_sub(server_date?.0);
    Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
}

/// `"default";r=0;t=30`, or `limit=100, remaining=0, reset=30` as older drafts write it: the time until the limits that
/// have nothing left are lifted.
fn of_rate_limit(value: &str) -> Option<u64> {
    let limits = value.split(',').filter_map(|limit| {
        let member = |wanted: [&str; 2]| {
            let members = limit.split(';').filter_map(|member| member.trim().split_once('='));
            members.filter(|(name, _)| wanted.contains(name)).find_map(|(_, value)| digits(value.trim()))
        };
        let is_left = member(["r", "remaining"]).is_some_and(|left| left > 0);
        if is_left { None } else { member(["t", "reset"]) }
    });
    limits.max()
}

/// Some servers write how many seconds are left, others the second of the epoch at which the limit is lifted.
fn until_reset(seconds: u64, server_date: Option<Millis>) -> Option<Duration> {
    const NO_SPAN: u64 = 1_000_000_000;
    if seconds < NO_SPAN {
        return Some(Duration::from_secs(seconds));
    }
    let now = u64::try_from(server_date?.0 / 1_000).ok()?;
    Some(Duration::from_secs(seconds.saturating_sub(now)))
}

/// A number that is too large to be held is as good as the largest that is not.
fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
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
    fn what_a_server_asks_for_is_read_in_every_form() {
        let date = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT");
        let busy = StatusCode::TOO_MANY_REQUESTS;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (status, header, value, expected) in [
            (busy, "retry-after", "120", seconds(120)),
            (busy, "retry-after", "99999999999999999999999", seconds(u64::MAX)),
            (busy, "retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", seconds(10)),
            (busy, "retry-after", "Sun, 06 Nov 1994 08:49:07 GMT", seconds(0)),
            (busy, "retry-after", "-5", None),
            (busy, "retry-after", "soon", None),
            (busy, "x-ms-retry-after-ms", "250", Some(Duration::from_millis(250))),
            (StatusCode::SERVICE_UNAVAILABLE, "retry-after-ms", "1500", Some(Duration::from_millis(1_500))),
            (busy, "ratelimit", r#""default";r=0;t=30"#, seconds(30)),
            (busy, "ratelimit", r#""minute";r=0;t=7, "day";r=12;t=900"#, seconds(7)),
            (busy, "ratelimit", "limit=100, remaining=0, reset=5", seconds(5)),
            (busy, "ratelimit-reset", "12", seconds(12)),
            (busy, "x-ratelimit-reset", "784111787", seconds(784_111_787)),
            (StatusCode::INTERNAL_SERVER_ERROR, "ratelimit-reset", "12", None),
        ] {
            let headers = HeaderMap::from_iter([(header.parse().expect("a name"), value.parse().expect("a value"))]);
            assert_eq!(asked(status, &headers, date), expected, "{status} {header}: {value}");
        }
        let epoch = |date| until_reset(1_700_000_060, date);
        assert_eq!((epoch(Some(Millis(1_700_000_000_000))), epoch(None)), (seconds(60), None));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", None), None);
    }

    #[test]
    fn the_more_exact_header_goes_first() {
        let both = [("retry-after", "1"), ("x-ms-retry-after-ms", "350")];
        let headers = both.map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")));
        let asked = asked(StatusCode::TOO_MANY_REQUESTS, &HeaderMap::from_iter(headers), None);
        assert_eq!(asked, Some(Duration::from_millis(350)));
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
