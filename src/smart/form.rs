//! `application/x-www-form-urlencoded` as RFC 6749 wants it: each parameter once. Pure.

use std::collections::BTreeMap;

/// The parameters of a form, each once.
pub(crate) struct Form(BTreeMap<String, String>);

/// Why a body is no form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    #[error("the form holds an escape that is none, or does not decode to text")]
    Escape,
    #[error("the form holds a parameter twice")]
    Twice,
    #[error("the form has too many parameters")]
    TooMany,
}

/// Most parameters of a form.
const MOST: usize = 32;

impl Form {
    /// # Errors
    /// [`FormError`] if it could be read in two ways.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, FormError> {
        let mut parameters = BTreeMap::new();
        let mut rest = Some(body);
        while let Some(body) = rest {
            let (pair, after) = cut(body, b'&');
            rest = after;
            if pair.is_empty() {
                continue;
            }
            let (name, value) = cut(pair, b'=');
            let (name, value) = (decode(name)?, decode(value.unwrap_or_default())?);
            if parameters.len() == MOST {
                return Err(FormError::TooMany);
            }
            if parameters.insert(name, value).is_some() {
                return Err(FormError::Twice);
            }
        }
        Ok(Self(parameters))
    }

    /// Whether there is a parameter of this name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A parameter's value. RFC 6749, 3.1: one without a value is as good as none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// What stands before a separator, and what stands after it.
fn cut(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(separator, text) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Whole runs at a time: a form may be 64 KiB of them, from anybody.
fn decode(mut text: &[u8]) -> Result<String, FormError> {
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(at) = memchr::memchr2(b'+', b'%', text) {
        let (run, escape) = text.split_at(at);
        decoded.extend_from_slice(run);
        let (byte, rest) = match escape {
            [b'+', rest @ ..] => (b' ', rest),
            [_, high, low, rest @ ..] => (digit(*high)? * 16 + digit(*low)?, rest),
            _ => return Err(FormError::Escape),
        };
        decoded.push(byte);
        text = rest;
    }
    decoded.extend_from_slice(text);
    String::from_utf8(decoded).map_err(|_| FormError::Escape)
}

fn digit(byte: u8) -> Result<u8, FormError> {
    let digit = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digit.ok_or(FormError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_in_one_way_or_not_at_all() {
        let form = Form::parse(b"scope=system%2FPatient.rs+system/*.r&empty=&x=a%3Db=c&&flag").expect("a form");
        assert_eq!(form.get("scope"), Some("system/Patient.rs system/*.r"));
        assert_eq!(form.get("x"), Some("a=b=c"));
        for name in ["empty", "flag", "Scope"] {
            assert_eq!(form.get(name), None, "{name}");
        }
        for (body, expected) in [
            (&b"a=1&a=1"[..], FormError::Twice),
            (b"a=1&%61=2", FormError::Twice),
            (b"flag&flag", FormError::Twice),
            (b"a=%", FormError::Escape),
            (b"a=%2", FormError::Escape),
            (b"a=%zz", FormError::Escape),
            (b"a=%+1", FormError::Escape),
            (b"a=%ff", FormError::Escape),
            (b"a=\xff", FormError::Escape),
        ] {
            assert_eq!(Form::parse(body).err(), Some(expected), "{}", String::from_utf8_lossy(body));
        }
        let many: Vec<_> = (0..=MOST).map(|number| format!("p{number}=1")).collect();
        assert_eq!(Form::parse(many.join("&").as_bytes()).err(), Some(FormError::TooMany));
    }
}
