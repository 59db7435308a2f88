//! What of a Provenance tells how recent it is.

use std::borrow::Cow;

use serde::Deserialize;

use super::datatypes::Instant;

/// When it was recorded, if that is said as FHIR writes it. In R5 it need not be.
pub(crate) fn recorded(resource: &[u8]) -> Option<Instant> {
    #[derive(Deserialize)]
    struct Recorded<'a> {
        #[serde(borrow)]
        recorded: Option<Cow<'a, str>>,
    }
    let Recorded { recorded } = serde_json::from_slice(resource).ok()?;
    Instant::parse(&recorded?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_instant_says_when_something_was_recorded() {
        let instant = Instant::parse("2026-01-31T10:00:00Z").ok();
        for (resource, expected) in [
            (r#"{"resourceType":"Provenance","recorded":"2026-01-31T12:00:00+02:00"}"#, instant),
            (r#"{"resourceType":"Provenance","contained":[{"recorded":"2026-01-31T10:00:00Z"}]}"#, None),
            (r#"{"resourceType":"Provenance","recorded":"2026-01-31"}"#, None),
            (r#"{"resourceType":"Provenance","recorded":null}"#, None),
            ("[]", None),
        ] {
            assert_eq!(recorded(resource.as_bytes()), expected, "{resource}");
        }
    }
}
