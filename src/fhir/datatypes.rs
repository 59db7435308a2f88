//! Instants and references as sent, precision kept; ids; the parameters of a `Parameters` resource.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::resource_type::ResourceType;

/// A FHIR `instant`, to the nanosecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Instant(DateTime<Utc>);

/// The text is no FHIR `instant`: a date, a time with seconds, and a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an instant, such as 2026-01-31T12:00:00Z")]
pub(crate) struct ParseInstantError;

impl Instant {
    /// Reads an `instant`. A space is taken for the `+` of an offset that a client forgot to escape.
    pub(crate) fn parse(text: &str) -> Result<Self, ParseInstantError> {
        let bytes = text.as_bytes();
        let digits =
            |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
        let is_at = |index: usize, wanted: u8| bytes.get(index) == Some(&wanted);
        let shape = digits(0..4)
            && is_at(4, b'-')
            && digits(5..7)
            && is_at(7, b'-')
            && digits(8..10)
            && is_at(10, b'T')
            && digits(11..13)
            && is_at(13, b':')
            && digits(14..16)
            && is_at(16, b':')
            && digits(17..19);
        if !shape || text.len() > 40 {
            return Err(ParseInstantError);
        }
        let time = match Self::usual(bytes) {
            Some(time) => time,
            // Leap seconds, and whatever else there may be.
            None if text.contains(' ') => rfc3339(&text.replacen(' ', "+", 1))?,
            None => rfc3339(text)?,
        };
        // An offset may lead out of the years that can be written: what is stored has to be read back.
        let is_written = (Millis::EARLIEST..=Millis::LATEST).contains(&time.timestamp_millis());
        if is_written { Ok(Self(time)) } else { Err(ParseInstantError) }
    }

    /// What nearly every server sends, read without a reader of all there may be: digits where they belong, a fraction of a
    /// second or none, and `Z` or an offset.
    fn usual(bytes: &[u8]) -> Option<DateTime<Utc>> {
        let number = |range: std::ops::Range<usize>| {
            let digits = bytes.get(range)?;
            digits.iter().try_fold(0_u32, |number, digit| Some(number * 10 + char::from(*digit).to_digit(10)?))
        };
        let (mut rest, mut nanos) = (bytes.get(19..)?, 0);
        if let [b'.', fraction @ ..] = rest {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let places = u32::try_from(digits).ok().filter(|places| (1..=9).contains(places))?;
            nanos = number(20..20 + digits)? * 10_u32.pow(9 - places);
            rest = &fraction[digits..];
        }
        let minutes = match rest {
            b"Z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let from = bytes.len() - 5;
                let (hours, minutes) = (number(from..from + 2)?, number(from + 3..from + 5)?);
                let ahead = i64::from(hours * 60 + minutes);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                if *sign == b'+' { ahead } else { -ahead }
            }
            _ => return None,
        };
        let date = NaiveDate::from_ymd_opt(i32::try_from(number(0..4)?).ok()?, number(5..7)?, number(8..10)?)?;
        let time = date.and_hms_nano_opt(number(11..13)?, number(14..16)?, number(17..19)?, nanos)?;
        time.and_utc().checked_sub_signed(TimeDelta::minutes(minutes))
    }

    /// The millisecond that it lies in.
    pub(crate) fn floor_millis(self) -> Millis {
        Millis(self.0.timestamp_millis())
    }
}

fn rfc3339(text: &str) -> Result<DateTime<Utc>, ParseInstantError> {
    Ok(DateTime::parse_from_rfc3339(text).map_err(|_| ParseInstantError)?.to_utc())
}

impl From<Millis> for Instant {
    fn from(millis: Millis) -> Self {
        let bounded = millis.0.clamp(Millis::EARLIEST, Millis::LATEST);
        Self(DateTime::from_timestamp_millis(bounded).unwrap_or_default())
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_millis = self.0.timestamp_subsec_nanos().is_multiple_of(1_000_000);
        let format = if is_millis { SecondsFormat::Millis } else { SecondsFormat::AutoSi };
        f.write_str(&self.0.to_rfc3339_opts(format, true))
    }
}

impl From<Instant> for String {
    fn from(instant: Instant) -> Self {
        instant.to_string()
    }
}

impl TryFrom<String> for Instant {
    type Error = ParseInstantError;

    fn try_from(text: String) -> Result<Self, ParseInstantError> {
        Self::parse(&text)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Millis(pub(crate) i64);

impl Millis {
    /// 0001-01-01T00:00:00.000Z
    const EARLIEST: i64 = -62_135_596_800_000;
    /// 9999-12-31T23:59:59.999Z
    const LATEST: i64 = 253_402_300_799_999;

    pub(crate) fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// As it stands in a search value.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Instant::from(*self).fmt(f)
    }
}

/// A date of an HTTP header, in any of its three forms (RFC 9110, section 5.6.7).
pub(crate) fn parse_http_date(text: &str) -> Option<Millis> {
    let forms = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let parsed = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text.trim(), form).ok());
    parsed.map(|time| Millis(time.and_utc().timestamp_millis()))
}

/// A logical id: 1 to 64 letters, digits, `-` and `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Id {
    /// The rest is zero, so that ids have the order of their letters. They are no memory of their own: each resource has one.
    letters: [u8; Id::LONGEST],
    length: u8,
}

/// The text is no FHIR id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: 1 to 64 letters, digits, `-` and `.`")]
pub(crate) struct NotAnId;

impl Id {
    const LONGEST: usize = 64;

    pub(crate) fn parse(text: &str) -> Result<Self, NotAnId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        let length = u8::try_from(text.len()).map_err(|_| NotAnId)?;
        let mut letters = [0; Self::LONGEST];
        let own = letters.get_mut(..text.len()).ok_or(NotAnId)?;
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err(NotAnId);
        }
        own.copy_from_slice(text.as_bytes());
        Ok(Self { letters, length })
    }

    pub(crate) fn as_str(&self) -> &str {
        let own = self.letters.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(own).expect("letters, digits, `-` and `.`")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Id {
    /// An id may be a record number: it is not for logs (SEC-41).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Id(…)")
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.as_str().to_owned()
    }
}

impl TryFrom<String> for Id {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        Self::parse(&text)
    }
}

/// A reference to a resource of the same server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct LocalReference {
    pub(crate) resource_type: ResourceType,
    pub(crate) id: Id,
}

impl LocalReference {
    /// `Type/id`, also with a version, as it stands or on one of `bases`. Conditional, contained, `urn:` and
    /// foreign references are none of these.
    pub(crate) fn parse_on(text: &str, bases: &[&str]) -> Option<Self> {
        let relative = bases.iter().find_map(|base| text.strip_prefix(base.trim_end_matches('/'))?.strip_prefix('/'));
        let mut parts = relative.unwrap_or(text).split('/');
        let resource_type = ResourceType::parse(parts.next()?)?;
        let id = Id::parse(parts.next()?).ok()?;
        match (parts.next(), parts.next(), parts.next()) {
            (None, None, None) => {}
            (Some("_history"), Some(version), None) if !version.is_empty() => {}
            _ => return None,
        }
        Some(Self { resource_type, id })
    }

    /// What an absolute reference would be called on its own server.
    pub(crate) fn parse_elsewhere(text: &str) -> Option<Self> {
        let (_, path) = text.split_once("://")?;
        let parts: Vec<_> = path.rsplit('/').take(4).collect();
        let (id, resource_type) = match parts[..] {
            [_, "_history", id, resource_type] => (id, resource_type),
            [id, resource_type, ..] => (id, resource_type),
            _ => return None,
        };
        Some(Self { resource_type: ResourceType::parse(resource_type)?, id: Id::parse(id).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BD-023: an instant has seconds and a zone.
    #[test]
    fn only_a_whole_instant_is_one() {
        for (text, expected) in [
            ("2026-01-31T12:00:00Z", Some("2026-01-31T12:00:00.000Z")),
            ("2026-01-31T12:00:00.123456Z", Some("2026-01-31T12:00:00.123456Z")),
            ("2026-01-31T12:00:00+02:00", Some("2026-01-31T10:00:00.000Z")),
            ("2026-01-31T12:00:00 02:00", Some("2026-01-31T10:00:00.000Z")),
            ("2026-01-31T12:00:00", None),
            ("2026-01-31T12:00Z", None),
            ("2026-01-31 12:00:00Z", None),
            ("2026-01-31", None),
            ("2026-02-30T12:00:00Z", None),
            ("2026-01-31T25:00:00Z", None),
            ("0000-01-31T12:00:00Z", None),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00.000Z")),
            ("0001-01-01T00:00:00+00:01", None),
            ("9999-12-31T23:59:59.999999999Z", Some("9999-12-31T23:59:59.999999999Z")),
            ("9999-12-31T23:59:59-00:01", None),
            ("2016-12-31T23:59:60Z", Some("2016-12-31T23:59:60.000Z")),
            ("+12026-01-31T12:00:00Z", None),
            ("", None),
            ("é026-01-31T12:00:00Z", None),
        ] {
            let parsed = Instant::parse(text).ok().map(|instant| instant.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
            if let Some(written) = expected {
                assert_eq!(Instant::parse(written), Instant::parse(text), "what is written is read back");
            }
        }
    }

    /// What is read the quick way is what a reader of all forms makes of it.
    #[test]
    fn the_quick_way_reads_the_same() {
        let dates = ["2026-01-31", "2024-02-29", "2025-02-29", "0001-01-01", "9999-12-31", "2026-13-01", "2026-00-10"];
        let times = ["00:00:00", "23:59:59", "24:00:00", "12:60:00", "16:59:60", "05:06:07"];
        let fractions = ["", ".1", ".120", ".123456789", ".1234567891", ".", ".12a"];
        let zones =
            ["Z", "+00:00", "-00:00", "+14:00", "-23:59", "+24:00", "+01:60", "+1:00", "", "z", "Zx", "+01:00x"];
        let mut quick = 0;
        for date in dates {
            for time in times {
                for fraction in fractions {
                    for zone in zones {
                        let text = format!("{date}T{time}{fraction}{zone}");
                        if let Some(read) = Instant::usual(text.as_bytes()) {
                            assert_eq!(rfc3339(&text), Ok(read), "{text}");
                            quick += 1;
                        }
                    }
                }
            }
        }
        assert!(quick > 200, "{quick}");
        assert!(Instant::usual(b"2026-01-31T12:00:00.000+00:00").is_some(), "as HAPI writes it");
    }

    #[test]
    fn an_id_has_the_order_of_its_letters() {
        let mut ids = ["b", "a.", "a", "a-", "ab", "A", "10", "9"];
        let mut parsed: Vec<_> = ids.iter().map(|id| Id::parse(id).expect("an id")).collect();
        ids.sort_unstable();
        parsed.sort_unstable();
        assert_eq!(parsed.iter().map(Id::as_str).collect::<Vec<_>>(), ids);
        assert!(Id::parse(&"a".repeat(64)).is_ok() && Id::parse(&"a".repeat(65)).is_err());
        assert!(Id::parse("").is_err() && Id::parse(&"a".repeat(300)).is_err());
    }

    #[test]
    fn dates_of_headers_are_read_in_all_three_forms() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_http_date(text), Some(Millis(784_111_777_000)), "{text}");
        }
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn only_literal_references_to_this_server_are_local() {
        let base = ["http://h/fhir"];
        for (text, expected) in [
            ("Patient/1", true),
            ("Patient/1/_history/2", true),
            ("http://h/fhir/Patient/1", true),
            ("http://other/fhir/Patient/1", false),
            ("Patient?identifier=a|b", false),
            ("#p", false),
            ("urn:uuid:1", false),
            ("Patient/1/Observation/2", false),
            ("Patient/", false),
            ("Pat/1", false),
            ("Patient/a b", false),
            ("Patient/1,2", false),
        ] {
            assert_eq!(LocalReference::parse_on(text, &base).is_some(), expected, "{text}");
        }
    }
}
