//! Until when credentials are good that say so themselves: JWTs, JWKs, and shared access signatures of Azure. Pure, and whatever
//! says nothing has no known end.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::prelude::BASE64_STANDARD;
use chrono::{NaiveDate, NaiveDateTime};
use serde_json::Value;

use super::{earliest, latest, x509};
use crate::fhir::datatypes::{Instant, Millis};

/// Keys of a set, and certificates of a key, that are looked at.
const MOST: usize = 64;

/// The end of a JWK, that of a certificate in `x5c` or `exp` where somebody writes it, or of the last key of a JWK Set.
pub(crate) fn of_jwks(jwks: &Value) -> Option<Millis> {
    let keys = jwks.get("keys").and_then(Value::as_array).map_or(std::slice::from_ref(jwks), Vec::as_slice);
    latest(keys.iter().take(MOST).map(of_jwk))
}

fn of_jwk(jwk: &Value) -> Option<Millis> {
    let chain = jwk.get("x5c").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let ends = chain.iter().take(MOST).filter_map(|certificate| {
        let der = BASE64_STANDARD.decode(certificate.as_str()?).ok()?;
        x509::not_after(&der).ok().flatten()
    });
    earliest(ends.chain(seconds(jwk.get("exp"))))
}

/// `exp` of a JWT, which may stand behind the name of a scheme as in `Bearer eyJ…`.
pub(crate) fn of_jwt(text: &str) -> Option<Millis> {
    let token = text.split_ascii_whitespace().next_back()?;
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if header.is_empty() || signature.is_empty() || parts.next().is_some() {
        return None;
    }
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    seconds(claims.get("exp"))
}

/// A `NumericDate` (RFC 7519), whose parts of a second do not matter.
fn seconds(value: Option<&Value>) -> Option<Millis> {
    let value = value?;
    #[expect(clippy::cast_possible_truncation, reason = "beyond all bounds it is the bound")]
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))?;
    Some(Millis(seconds.saturating_mul(1_000)))
}

/// `se` of a shared access signature: an instant, also without seconds, or a date.
pub(crate) fn of_sas(signature: &str) -> Option<Millis> {
    let query = signature.trim().trim_start_matches('?');
    let (_, end) = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "se")?;
    if let Ok(instant) = Instant::parse(&end) {
        return Some(instant.floor_millis());
    }
    let minutes = NaiveDateTime::parse_from_str(&end, "%Y-%m-%dT%H:%MZ").ok();
    let date = || NaiveDate::parse_from_str(&end, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    Some(Millis(minutes.or_else(date)?.and_utc().timestamp_millis()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn certificate(year: i32) -> String {
        let mut params = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        BASE64_STANDARD.encode(params.self_signed(&key).expect("it signs itself").der())
    }

    #[test]
    fn a_clients_key_ends_with_the_first_of_its_certificates_and_a_set_with_its_last_key() {
        let (soon, late) = (certificate(2030), certificate(2040));
        for (jwks, expected) in [
            (json!({ "keys": [{ "x5c": [late, soon] }] }), Some("2030-01-01")),
            (json!({ "keys": [{ "x5c": [soon] }, { "x5c": [late] }] }), Some("2040-01-01")),
            (json!({ "keys": [{ "kty": "RSA" }, { "x5c": [soon] }] }), None),
            (json!({ "keys": [] }), None),
            (json!({ "kty": "EC", "x5c": [late] }), Some("2040-01-01")),
            (json!({ "keys": [{ "x5c": [late], "exp": 1_893_456_000 }] }), Some("2030-01-01")),
            (json!({ "keys": [{ "x5c": ["!", 1, "AAAA"] }, { "x5c": "x" }, 7, null] }), None),
            (json!({ "keys": {} }), None),
            (json!([]), None),
            (json!("x"), None),
        ] {
            let found = of_jwks(&jwks).map(|end| end.to_string());
            assert_eq!(found.as_deref().map(|end| &end[..10]), expected, "{jwks}");
        }
    }

    #[test]
    fn the_end_of_a_token_is_read_and_what_is_none_has_no_end() {
        let jwt = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        for (text, expected) in [
            (jwt(r#"{"exp":1800000000}"#), Some(1_800_000_000_000)),
            (format!("Bearer {}", jwt(r#"{"exp":1.8e9}"#)), Some(1_800_000_000_000)),
            (jwt(r#"{"exp":1e300}"#), Some(i64::MAX)),
            (jwt(r#"{"exp":"1800000000"}"#), None),
            (jwt("{}"), None),
            (jwt("x"), None),
            ("Basic czNjcmV0".to_owned(), None),
            ("a.b.c.d".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(of_jwt(&text).map(|end| end.0), expected, "{text}");
        }
    }

    #[test]
    fn the_end_of_a_shared_access_signature_is_read() {
        for (text, expected) in [
            ("sv=2023-11-03&se=2030-01-01T00%3A00%3A00Z&sr=c&sig=a%2Bb", Some(1_893_456_000_000)),
            ("?se=2030-01-01T00:00Z&sig=x\n", Some(1_893_456_000_000)),
            ("se=2030-01-01&sig=x", Some(1_893_456_000_000)),
            ("se=soon&sig=x", None),
            ("sig=x&sp=se=2030-01-01", None),
            ("", None),
        ] {
            assert_eq!(of_sas(text).map(|end| end.0), expected, "{text}");
        }
    }
}
