//! The text of filters: where one ends and the next begins, and how values are escaped.

use std::fmt::Write as _;

use super::{Escapes, FilterError};

/// The parts of a list: a comma begins another one only where what follows looks like `Type?`, and no backslash makes it a
/// part of a value.
pub(super) fn split_list(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices(',') {
        let is_escaped = text[..at].bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        if !is_escaped && begins_a_filter(&text[at + 1..]) {
            parts.push(&text[from..at]);
            from = at + 1;
        }
    }
    parts.push(&text[from..]);
    parts
}

/// Looks no further than the letters go, so that a text of commas takes no longer than it is.
fn begins_a_filter(text: &str) -> bool {
    let letters = text.bytes().take_while(u8::is_ascii_alphabetic).count();
    text.starts_with(|first: char| first.is_ascii_uppercase()) && text.as_bytes().get(letters) == Some(&b'?')
}

/// The values of a list: a comma ends one unless a backslash stands before it.
pub(crate) fn values(text: &str) -> Vec<&str> {
    let mut values = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices(',') {
        let is_escaped = text[..at].bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        if !is_escaped {
            values.push(&text[from..at]);
            from = at + 1;
        }
    }
    values.push(&text[from..]);
    values
}

/// A name or a value as it was meant.
pub(super) fn unescaped(text: &str, escapes: Escapes) -> Result<String, FilterError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let byte = others.get(..2).and_then(|digits| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
        });
        match (escapes, byte) {
            (Escapes::Once, Some(byte)) | (Escapes::CommasOnly, Some(byte @ b',')) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            (Escapes::CommasOnly, None) => bytes.push(b'%'),
            (Escapes::Once, None) | (Escapes::CommasOnly, Some(_)) => return Err(FilterError::Escape),
        }
    }
    String::from_utf8(bytes).map_err(|_| FilterError::Escape)
}

/// A value as [`unescaped`] reads it once, and as a scope may hold it: visible ASCII without quotes and backslashes.
pub(super) fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'&' | b'#' | b'+' | b'"' | b'\\') {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes all that is written");
        }
    }
    text
}
