//! Which bytes of a file a request asks for. Pure; only a GET may ask for a part (RFC 9110, 14.2).

use std::ops::Range;

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of it, with status 200: nothing was asked that we understand and that still fits the file.
    Whole,
    /// These bytes, never none of them, with status 206.
    Slice(Range<u64>),
    /// No byte of the file was asked for: status 416 with `Content-Range: bytes */length`.
    Unsatisfiable,
}

impl Selection {
    /// Chooses from the headers `Range` and `If-Range` for a file of `length` bytes with the strong entity
    /// tag `etag`, quotes included.
    ///
    /// Several ranges at once get the whole file, as does anything that is not a range of bytes. A weak tag
    /// or a date in `If-Range` matches nothing: neither proves that the bytes are the same.
    ///
    /// Source: RFC 9110, 13.1.5, 14.1.2 and 14.2
    pub(crate) fn of(range: Option<&str>, if_range: Option<&str>, etag: &str, length: u64) -> Self {
        let Some(range) = range else {
            return Self::Whole;
        };
        if if_range.is_some_and(|tag| tag.trim() != etag || etag.starts_with("W/")) {
            return Self::Whole;
        }
        match Asked::parse(range) {
            None => Self::Whole,
            Some(Asked::From { first, last }) => {
                if first >= length {
                    return Self::Unsatisfiable;
                }
                let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                Self::Slice(first..end)
            }
            Some(Asked::Last(0)) => Self::Unsatisfiable,
            // A file without bytes has no part that a 206 could describe.
            Some(Asked::Last(_)) if length == 0 => Self::Whole,
            Some(Asked::Last(count)) => Self::Slice(length.saturating_sub(count)..length),
        }
    }
}

/// One range as it is written.
enum Asked {
    /// `first-` or `first-last`.
    From { first: u64, last: Option<u64> },
    /// `-count`: so many at the end.
    Last(u64),
}

impl Asked {
    fn parse(range: &str) -> Option<Self> {
        let (unit, set) = range.trim().split_once('=')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (first, last) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }
}

/// Digits only: no sign, no blank, no comma. More than a `u64` holds lies behind every file's end.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"a1\"";

    /// RFC 9110, 14.1.2 and 14.2.
    #[test]
    fn one_range_of_bytes_selects_those_bytes() {
        for (range, length, expected) in [
            ("bytes=0-0", 10, Selection::Slice(0..1)),
            ("bytes=0-", 10, Selection::Slice(0..10)),
            ("bytes=4-6", 10, Selection::Slice(4..7)),
            ("bytes=4-400", 10, Selection::Slice(4..10)),
            ("bytes=9-9", 10, Selection::Slice(9..10)),
            ("bytes=-3", 10, Selection::Slice(7..10)),
            ("bytes=-300", 10, Selection::Slice(0..10)),
            ("BYTES=2-3", 10, Selection::Slice(2..4)),
            ("bytes=0-99999999999999999999999", 10, Selection::Slice(0..10)),
            ("bytes=0-18446744073709551615", 10, Selection::Slice(0..10)),
            ("bytes=10-", 10, Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Selection::Unsatisfiable),
            ("bytes=-0", 10, Selection::Unsatisfiable),
            ("bytes=0-", 0, Selection::Unsatisfiable),
            ("bytes=-5", 0, Selection::Whole),
        ] {
            assert_eq!(Selection::of(Some(range), None, TAG, length), expected, "{range} of {length}");
        }
    }

    #[test]
    fn what_is_not_one_range_of_bytes_is_answered_with_the_whole_file() {
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=6-4",
            "bytes=0-1,4-5",
            "bytes=,0-1",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=--5",
            "bytes=0x1-2",
            "bytes=1 -2",
            "lines=1-2",
            "0-1",
        ] {
            assert_eq!(Selection::of(Some(range), None, TAG, 10), Selection::Whole, "{range:?}");
        }
        assert_eq!(Selection::of(None, Some(TAG), TAG, 10), Selection::Whole);
    }

    /// RFC 9110, 13.1.5: `If-Range` needs a strong comparison.
    #[test]
    fn a_part_is_sent_only_of_the_file_that_the_client_began() {
        let slice = Selection::Slice(5..10);
        for (if_range, etag, expected) in [
            (TAG, TAG, &slice),
            ("\"b2\"", TAG, &Selection::Whole),
            ("W/\"a1\"", TAG, &Selection::Whole),
            ("W/\"a1\"", "W/\"a1\"", &Selection::Whole),
            ("a1", TAG, &Selection::Whole),
            ("", TAG, &Selection::Whole),
            ("Sat, 01 Jan 2000 00:00:00 GMT", TAG, &Selection::Whole),
        ] {
            let selected = Selection::of(Some("bytes=5-"), Some(if_range), etag, 10);
            assert_eq!(&selected, expected, "If-Range: {if_range}");
        }
    }
}
