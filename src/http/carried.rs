//! The access tokens of ours that a request carries, whoever it is for (SEC-05). Pure.

use http::{Request, header};

use crate::smart::access_token;

/// SEC-05: whether a request that is not ours carries a token of ours, which nobody else may see.
pub(super) fn carries_our_token<B>(base: &str, request: &Request<B>) -> bool {
    let is_in = |text: &[u8]| {
        let holds = |text: &[u8]| words(text).any(|word| access_token::is_ours(word, base));
        holds(text) || (text.contains(&b'%') && holds(&unescaped(text)))
    };
    // Whatever the header is called: a cookie or the credentials for a proxy are read as well.
    request.headers().values().any(|value| is_in(value.as_bytes()))
        || request.uri().path_and_query().is_some_and(|target| is_in(target.as_str().as_bytes()))
}

/// Whether a request is made by a token of ours, as it stands in `Authorization`.
pub(super) fn is_by_our_token<B>(base: &str, request: &Request<B>) -> bool {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(value), None) => words(value.as_bytes()).any(|word| access_token::is_ours(word, base)),
        _ => false,
    }
}

/// A text with its escapes replaced. What is none stays as it is.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let escaped = digit(at + 1).zip(digit(at + 2)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        if let (b'%', Some(escaped)) = (*byte, escaped) {
            plain.push(escaped);
            at += 3;
        } else {
            plain.push(*byte);
            at += 1;
        }
    }
    plain
}

/// What of a text could be a token: runs of the characters of base64url and dots.
fn words(text: &[u8]) -> impl Iterator<Item = &str> {
    let is_ours = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let words = text.split(move |byte| !is_ours(byte));
    words.filter_map(|word| std::str::from_utf8(word).ok())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn escapes_are_replaced_and_what_is_none_stays() {
        for (text, plain) in [
            ("", ""),
            ("abc", "abc"),
            ("%61b%63", "abc"),
            ("a%2Eb%2e", "a.b."),
            ("%00%7f%fF", "\u{0}\u{7f}\u{ff}"),
            ("%", "%"),
            ("%4", "%4"),
            ("%4x%x4%41", "%4x%x4A"),
            ("41%%341", "41%41"),
        ] {
            let plain: Vec<u8> =
                plain.chars().map(|character| u8::try_from(u32::from(character)).expect("Latin")).collect();
            assert_eq!(unescaped(text.as_bytes()), plain, "{text}");
        }
    }

    #[test]
    fn what_could_be_a_token_are_its_characters_in_a_row() {
        let text = "Bearer a-b_c.D9; x=\"..\" \u{e4}e";
        let found: Vec<_> = words(text.as_bytes()).filter(|word| !word.is_empty()).collect();
        assert_eq!(found, ["Bearer", "a-b_c.D9", "x", "..", "e"]);
    }

    /// SEC-05
    #[test]
    fn a_token_of_ours_is_found_wherever_it_is_carried() {
        let base = "http://127.0.0.1/fhir";
        let token = |kid: &str, iss: &str| {
            let part = |json: String| URL_SAFE_NO_PAD.encode(json);
            format!("{}.{}.c2ln", part(format!(r#"{{"kid":"{kid}"}}"#)), part(format!(r#"{{"iss":"{iss}"}}"#)))
        };
        let ours = token(&format!("{}1", access_token::OURS), base);
        let carries = |name: &str, value: &str, target: &str| {
            let request = Request::builder().uri(target).header(name, value).body(()).expect("a request");
            carries_our_token(base, &request)
        };
        let escaped = ours.replace('.', "%2e");
        assert!(carries("authorization", &format!("Bearer {ours}"), "/fhir/Patient"));
        assert!(carries("cookie", &format!("a=b; t={ours}"), "/fhir/Patient"));
        assert!(carries("x-any", &escaped, "/fhir/Patient"));
        assert!(carries("x-any", "a", &format!("/fhir/Patient?access_token={ours}")));
        assert!(carries("x-any", "a", &format!("/fhir/{escaped}/x")));
        for other in [token("theirs", base), token(&format!("{}1", access_token::OURS), "http://127.0.0.1/other")] {
            assert!(!carries("authorization", &format!("Bearer {other}"), &format!("/fhir/Patient?t={other}")));
        }
        assert!(!carries("authorization", "Bearer abc%2edef", "/fhir/Patient?a=%2e"));
    }

    #[test]
    fn a_request_is_made_by_the_one_token_in_its_header() {
        let base = "http://127.0.0.1/fhir";
        let part = |json: String| URL_SAFE_NO_PAD.encode(json);
        let header = part(format!(r#"{{"kid":"{}1"}}"#, access_token::OURS));
        let ours = format!("Bearer {header}.{}.c2ln", part(format!(r#"{{"iss":"{base}"}}"#)));
        let is_by = |values: &[&str]| {
            let mut request = Request::builder().uri("/fhir/metadata").header("cookie", &ours);
            for value in values {
                request = request.header(header::AUTHORIZATION, *value);
            }
            is_by_our_token(base, &request.body(()).expect("a request"))
        };
        assert!(is_by(&[&ours]));
        for others in [&[][..], &["Bearer a.b.c"], &["Basic abc"], &[&ours, &ours], &["Basic abc", &ours]] {
            assert!(!is_by(others), "{others:?}");
        }
    }
}
