//! Points in time as FHIR writes them, and the comparisons of the `_lastUpdated` parameter.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};

/// A FHIR `instant` with milliseconds, as HAPI writes it.
pub(crate) fn text(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

/// The `Date` and `Last-Modified` headers: whole seconds.
pub(crate) fn http_date(at: DateTime<Utc>) -> String {
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// `at` without what lies below the millisecond.
pub(crate) fn to_millis(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap_or(at)
}

/// A date or time as wide as its precision: milliseconds since the epoch, the end not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: i64,
    pub(crate) until: i64,
}

impl Span {
    /// Reads a year, a month, a day, a minute, a second or a fraction of one; without a zone it is UTC.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once('T') {
            None => Self::of_date(text),
            Some((date, time)) => Self::of_time(date, time),
        }
    }

    fn of_date(text: &str) -> Option<Self> {
        let (from, until) = match text.len() {
            4 => {
                let year: i32 = text.parse().ok()?;
                (NaiveDate::from_ymd_opt(year, 1, 1)?, NaiveDate::from_ymd_opt(year + 1, 1, 1)?)
            }
            7 => {
                let first = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok()?;
                (first, first.checked_add_months(chrono::Months::new(1))?)
            }
            10 => {
                let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
                (day, day.succ_opt()?)
            }
            _ => return None,
        };
        let millis = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
        Some(Self { from: millis(from), until: millis(until) })
    }

    fn of_time(date: &str, time: &str) -> Option<Self> {
        // An unescaped `+` arrives as a blank; HAPI takes it, and so do we.
        let zone_at = time.find(['Z', '+', '-', ' ']).unwrap_or(time.len());
        let (clock, zone) = time.split_at_checked(zone_at)?;
        let offset = offset_of(zone)?;
        let day = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
        let (whole, width) = match clock.split_once('.') {
            None if clock.len() == 5 => (NaiveTime::parse_from_str(clock, "%H:%M").ok()?, 60_000),
            None => (NaiveTime::parse_from_str(clock, "%H:%M:%S").ok()?, 1_000),
            Some((_, digits)) => {
                let width = match digits.len() {
                    1 => 100,
                    2 => 10,
                    _ => 1,
                };
                (NaiveTime::parse_from_str(clock, "%H:%M:%S%.f").ok()?, width)
            }
        };
        let local = NaiveDateTime::new(day, whole).and_utc();
        let from = local.checked_sub_signed(offset)?.timestamp_millis();
        Some(Self { from, until: from + width })
    }
}

fn offset_of(zone: &str) -> Option<TimeDelta> {
    if zone.is_empty() || zone == "Z" {
        return Some(TimeDelta::zero());
    }
    let (sign, digits) = zone.split_at_checked(1)?;
    let (hours, minutes) = digits.split_once(':')?;
    let offset = TimeDelta::minutes(hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?);
    Some(if sign == "-" { -offset } else { offset })
}

/// One `_lastUpdated` value: a prefix and the span it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparison {
    prefix: Prefix,
    span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Comparison {
    /// Reads `ge2026-01-01T00:00:00Z` and the like; `ap` is not supported, as on HAPI.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (prefix, rest) = match value.split_at_checked(2)? {
            ("eq", rest) => (Prefix::Equal, rest),
            ("ne", rest) => (Prefix::NotEqual, rest),
            ("gt" | "sa", rest) => (Prefix::Greater, rest),
            ("ge", rest) => (Prefix::GreaterOrEqual, rest),
            ("lt" | "eb", rest) => (Prefix::Less, rest),
            ("le", rest) => (Prefix::LessOrEqual, rest),
            _ => (Prefix::Equal, value),
        };
        Some(Self { prefix, span: Span::parse(rest)? })
    }

    /// Whether a resource with this `lastUpdated`, in milliseconds, matches.
    pub(crate) fn holds(&self, millis: i64) -> bool {
        let inside = (self.lower()..self.upper()).contains(&millis);
        match self.prefix {
            Prefix::NotEqual => !(self.span.from..self.span.until).contains(&millis),
            Prefix::Equal | Prefix::Greater | Prefix::GreaterOrEqual | Prefix::Less | Prefix::LessOrEqual => inside,
        }
    }

    /// Whether all between its two ends match.
    pub(crate) fn is_a_range(&self) -> bool {
        !matches!(self.prefix, Prefix::NotEqual)
    }

    /// No match lies before this.
    pub(crate) fn lower(&self) -> i64 {
        match self.prefix {
            Prefix::Equal | Prefix::GreaterOrEqual => self.span.from,
            Prefix::Greater => self.span.until,
            Prefix::NotEqual | Prefix::Less | Prefix::LessOrEqual => i64::MIN,
        }
    }

    /// No match lies at or after this.
    pub(crate) fn upper(&self) -> i64 {
        match self.prefix {
            Prefix::Equal | Prefix::LessOrEqual => self.span.until,
            Prefix::Less => self.span.from,
            Prefix::NotEqual | Prefix::Greater | Prefix::GreaterOrEqual => i64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_as_wide_as_its_precision() {
        let stored = Span::parse("2026-03-04T05:06:07.250Z").expect("a time").from;
        for (value, expected) in [
            ("eq2026-03-04T05:06:07.250Z", true),
            ("2026-03-04T05:06:07.250Z", true),
            ("eq2026-03-04T05:06:07Z", true),
            ("eq2026-03-04T06:06:07+01:00", true),
            ("2026-03", true),
            ("2026-03-05", false),
            ("ne2026-03-04T05:06:07Z", false),
            ("ge2026-03-04T05:06:07.250Z", true),
            ("gt2026-03-04T05:06:07.250Z", false),
            ("gt2026-03-04T05:06:07Z", false),
            ("sa2026-03-04T05:06:06Z", true),
            ("lt2026-03-04T05:06:07Z", false),
            ("le2026-03-04T05:06:07Z", true),
            ("lt2026-03-04T05:06:07.251 00:00", true),
            ("eb2026-03-04T05:06:07.250Z", false),
        ] {
            assert_eq!(Comparison::parse(value).map(|c| c.holds(stored)), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for value in ["ap2026-01-01", "yesterday", "2026-13-01", "2026-01-01T25:00:00Z", "g", "ge", "ä2026"] {
            assert_eq!(Comparison::parse(value), None, "{value}");
        }
    }
}
