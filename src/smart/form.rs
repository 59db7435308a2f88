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
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = (decode(&pair[..end])?, decode(pair.get(end + 1..).unwrap_or_default())?);
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

fn decode(text: &[u8]) -> Result<String, FormError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || {
                    let digit = bytes.next().and_then(|byte| char::from(*byte).to_digit(16));
                    digit.and_then(|digit| u8::try_from(digit).ok()).ok_or(FormError::Escape)
                };
                digit()? * 16 + digit()?
            }
            byte => *byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| FormError::Escape)
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
            (b"a=%ff", FormError::Escape),
            (b"a=\xff", FormError::Escape),
        ] {
            assert_eq!(Form::parse(body).err(), Some(expected), "{}", String::from_utf8_lossy(body));
        }
        let many: Vec<_> = (0..=MOST).map(|number| format!("p{number}=1")).collect();
        assert_eq!(Form::parse(many.join("&").as_bytes()).err(), Some(FormError::TooMany));
    }
}
