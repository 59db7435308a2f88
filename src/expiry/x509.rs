//! Until when a certificate is good (RFC 5280). Pure.
//!
//! All that stands before `validity` in a certificate are seven elements of which only the ends matter. This walks over
//! them, copies nothing, calls itself nowhere and looks at nothing behind; whether a certificate is good at all is for those
//! to say who use it.

use chrono::{DateTime, NaiveDateTime};

use crate::fhir::datatypes::Millis;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, which holds the version.
const VERSION: u8 = 0xa0;
/// Bytes that a length may take: four gigabytes are no certificate.
const MOST_LENGTH_BYTES: usize = 4;
/// RFC 5280, section 4.1.2.5: it has no end that anybody knows.
const NO_END: &[u8] = b"99991231235959Z";

/// The bytes are not the beginning of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no X.509 certificate")]
pub(crate) struct NotACertificate;

/// `notAfter` of a certificate in DER; none if it never ends.
///
/// # Errors
/// [`NotACertificate`] if what stands before its end is not as it has to be.
pub(crate) fn not_after(der: &[u8]) -> Result<Option<Millis>, NotACertificate> {
    match find(der).ok_or(NotACertificate)? {
        End::At(time) => Ok(Some(time)),
        End::Never => Ok(None),
    }
}

fn find(der: &[u8]) -> Option<End> {
    let mut certificate = Reader(der);
    let mut certificate = Reader(certificate.element(SEQUENCE)?);
    let mut signed = Reader(certificate.element(SEQUENCE)?);
    if signed.0.first() == Some(&VERSION) {
        signed.element(VERSION)?;
    }
    signed.element(INTEGER)?; // serialNumber
    signed.element(SEQUENCE)?; // signature
    signed.element(SEQUENCE)?; // issuer
    let mut validity = Reader(signed.element(SEQUENCE)?);
    validity.time()?;
    validity.time()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    At(Millis),
    Never,
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next element, which has to be of this kind.
    fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&found, rest) = self.0.split_first()?;
        if found != tag {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..0x80 => (usize::from(first), rest),
            // Without a length at all it is not DER.
            0x80 => return None,
            _ => {
                let count = usize::from(first & 0x7f);
                if count > MOST_LENGTH_BYTES {
                    return None;
                }
                let (bytes, rest) = rest.split_at_checked(count)?;
                let length = bytes.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
                (usize::try_from(length).ok()?, rest)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    /// The next element, which has to be a time as certificates have it: to the second, and in UTC.
    fn time(&mut self) -> Option<End> {
        let tag = *self.0.first()?;
        let content = self.element(tag)?;
        if tag == GENERALIZED_TIME && content == NO_END {
            return Some(End::Never);
        }
        let is_plain = |digits: usize| {
            content.len() == digits + 1 && content.ends_with(b"Z") && content[..digits].iter().all(u8::is_ascii_digit)
        };
        let text = std::str::from_utf8(content).ok()?;
        let text = match tag {
            // Years from 50 on are of the century before.
            UTC_TIME if is_plain(12) => format!("{}{text}", if content[0] >= b'5' { "19" } else { "20" }),
            GENERALIZED_TIME if is_plain(14) => text.to_owned(),
            _ => return None,
        };
        let time: DateTime<_> = NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?.and_utc();
        Some(End::At(Millis(time.timestamp_millis())))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// A certificate that ends on this day.
    fn made(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["fhir.example".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(1975, 1, 1);
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("it signs itself").der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_however_its_year_is_written() {
        for ((year, month, day), expected) in [
            ((1999, 12, 31), "1999-12-31T00:00:00.000Z"),
            ((2026, 2, 28), "2026-02-28T00:00:00.000Z"),
            ((2049, 12, 31), "2049-12-31T00:00:00.000Z"),
            ((2050, 1, 1), "2050-01-01T00:00:00.000Z"),
            ((4096, 1, 1), "4096-01-01T00:00:00.000Z"),
        ] {
            let found = not_after(&made(year, month, day)).expect("a certificate").expect("it ends");
            assert_eq!(found.to_string(), expected);
        }
    }

    /// `SEQUENCE { SEQUENCE { [0] …, INTEGER, SEQUENCE, SEQUENCE, SEQUENCE { a time, another } } }`
    fn by_hand(times: &[u8]) -> Vec<u8> {
        let wrapped = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).expect("short")], content].concat();
        let signed = [
            &wrapped(VERSION, &[2, 1, 2])[..],
            &wrapped(INTEGER, &[1]),
            &wrapped(SEQUENCE, &[]),
            &wrapped(SEQUENCE, &[]),
            &wrapped(SEQUENCE, times),
        ];
        wrapped(SEQUENCE, &wrapped(SEQUENCE, &signed.concat()))
    }

    #[test]
    fn times_are_taken_only_as_certificates_have_them() {
        const BEGIN: &[u8] = b"\x17\x0d700101000000Z";
        for (end, expected) in [
            (&b"\x17\x0d491231235959Z"[..], Ok(Some(Millis(2_524_607_999_000)))),
            (b"\x17\x0d500101000000Z", Ok(Some(Millis(-631_152_000_000)))),
            (b"\x18\x0f20500101000000Z", Ok(Some(Millis(2_524_608_000_000)))),
            (b"\x18\x0f99991231235959Z", Ok(None)),
            (b"\x17\x0b4912312359Z", Err(NotACertificate)),
            (b"\x17\x11491231235959+0100", Err(NotACertificate)),
            (b"\x17\x0d491331235959Z", Err(NotACertificate)),
            (b"\x17\x0d49123123595 Z", Err(NotACertificate)),
            (b"\x17\x0d+91231235959Z", Err(NotACertificate)),
            (b"\x18\x1220500101000000.5Z", Err(NotACertificate)),
            (b"\x04\x0d491231235959Z", Err(NotACertificate)),
            (b"\x17\x00", Err(NotACertificate)),
            (b"", Err(NotACertificate)),
        ] {
            assert_eq!(not_after(&by_hand(&[BEGIN, end].concat())), expected, "{}", end.escape_ascii());
        }
    }

    /// A client's certificate may come from anywhere.
    #[test]
    fn whatever_is_cut_turned_or_too_long_is_no_certificate_and_does_no_harm() {
        let good = made(2030, 1, 1);
        let end = not_after(&good).expect("a certificate");
        for length in 0..good.len() {
            assert_eq!(not_after(&good[..length]), Err(NotACertificate), "cut after {length} bytes");
        }
        for place in 0..good.len() {
            for bit in 0..8 {
                let mut turned = good.clone();
                turned[place] ^= 1 << bit;
                // Some of them say another time; none may panic.
                let _another = not_after(&turned);
            }
        }
        let followed = [&good[..], b"and more"].concat();
        assert_eq!(not_after(&followed), Ok(end));
        let nested: Vec<u8> =
            std::iter::repeat_n([SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff], 100_000).flatten().collect();
        for hostile in [
            &nested[..],
            &[SEQUENCE, 0x80, SEQUENCE, 0x80, 0, 0, 0, 0],
            &[SEQUENCE, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[SEQUENCE, 0xff],
            &[SEQUENCE],
            b"",
            b"-----BEGIN CERTIFICATE-----",
        ] {
            assert_eq!(not_after(hostile), Err(NotACertificate));
        }
    }
}
