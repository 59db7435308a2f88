//! What an object store says when it fails, as it may be logged.

use std::error::Error;
use std::fmt::{self, Write as _};

/// A failure of the object store. It tells what happened without the body of the storage's answer, which can name keys,
/// credentials and the text that was signed (SEC-41).
#[derive(Debug)]
pub(crate) struct StoreFault {
    text: String,
    is_missing: bool,
}

impl StoreFault {
    /// Whether the object is simply not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_missing
    }
}

impl From<object_store::Error> for StoreFault {
    fn from(error: object_store::Error) -> Self {
        let is_missing = matches!(error, object_store::Error::NotFound { .. });
        let mut text = without_body(&error.to_string()).to_owned();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            let cause_text = without_body(&cause_text);
            // Most of them print their source themselves.
            if !text.ends_with(cause_text) {
                write!(text, ": {cause_text}").expect("a String takes all that is written");
            }
            source = cause.source();
        }
        Self { text, is_missing }
    }
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for StoreFault {}

/// Storages answer with XML or JSON.
fn without_body(text: &str) -> &str {
    text.split(['<', '{']).next().unwrap_or_default().trim_end_matches([' ', ':', '\n', '"'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_storage_answers_is_not_told() {
        for body in ["<?xml version=\"1.0\"?><Error><Key>secret</Key></Error>", "{\"error\":\"secret\"}"] {
            let source =
                format!("Error performing PUT http://h/b: Server returned non-2xx status code: 403 Forbidden: {body}");
            let error = object_store::Error::Generic { store: "S3", source: source.into() };
            let fault = StoreFault::from(error);
            let text = fault.to_string();
            assert!(text.contains("403 Forbidden") && !text.contains("secret"), "{text}");
            assert!(!fault.is_missing());
        }
        let missing = object_store::Error::NotFound { path: "a".to_owned(), source: "it".into() };
        assert!(StoreFault::from(missing).is_missing());
    }
}
