//! `ETag` of a statement, and whether a client has it already. Pure.

use http::header::{self, HeaderMap, HeaderValue};
use serde_json::value::RawValue;

use super::text::Object;

/// The validator of a statement. It is a weak one: servers write the time of the answer into `date`, which changes nothing of
/// what is said.
pub(crate) fn etag(statement: &[u8]) -> HeaderValue {
    let date = date(statement).unwrap_or_default();
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(&statement[..date.start]);
    digest.update(&statement[date.end..]);
    let digest = digest.finish();
    let half = u128::from_be_bytes(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"));
    HeaderValue::try_from(format!("W/\"{half:032x}\"")).expect("hexadecimal digits are visible ASCII")
}

/// Where `date` of the statement stands.
fn date(statement: &[u8]) -> Option<std::ops::Range<usize>> {
    let text = std::str::from_utf8(statement).ok()?;
    let root: &RawValue = serde_json::from_str(text).ok()?;
    let date = Object::parse(root).ok()?.member("date").ok()??;
    let start = date.get().as_ptr().addr() - text.as_ptr().addr();
    Some(start..start + date.get().len())
}

/// Whether a request names this validator among those that its sender has (RFC 9110, section 13.1.2: weak comparison).
pub(crate) fn is_known(asked: &HeaderMap, etag: &HeaderValue) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let Ok(etag) = etag.to_str().map(opaque) else { return false };
    let values = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| tag.trim() == "*" || opaque(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_the_same_whenever_it_was_written() {
        let of = |text: &str| etag(text.as_bytes());
        let one = of(r#"{"resourceType":"CapabilityStatement","date":"2026-01-01","status":"active"}"#);
        assert_eq!(
            one,
            of(r#"{"resourceType":"CapabilityStatement","date":"2026-12-31T00:00:00Z","status":"active"}"#)
        );
        assert_ne!(one, of(r#"{"resourceType":"CapabilityStatement","date":"2026-01-01","status":"draft"}"#));
        assert_ne!(of("no JSON"), of("nor this"));
    }

    #[test]
    fn whoever_names_it_has_it() {
        let tag = HeaderValue::from_static("W/\"a\"");
        for (sent, expected) in [
            (&["W/\"a\""][..], true),
            (&["\"a\""], true),
            (&["\"b\", W/\"a\""], true),
            (&["\"b\"", "\"a\""], true),
            (&["*"], true),
            (&["\"b\""], false),
            (&["a"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            }
            assert_eq!(is_known(&headers, &tag), expected, "{sent:?}");
        }
    }
}
