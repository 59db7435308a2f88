//! What an object store says when it fails, as it may be logged.

use std::error::Error;
use std::fmt::{self, Write as _};

use crate::disk;

/// A failure of the object store. It tells what happened without the body of the storage's answer, which can name keys,
/// credentials and the text that was signed (SEC-41).
#[derive(Debug)]
pub(crate) struct StoreFault {
    text: String,
    is_missing: bool,
    is_denied: bool,
    is_full: bool,
}

/// Whether a storage says that it cannot do at all what it was asked for.
pub(super) fn is_not_implemented(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::NotImplemented { .. } | E::NotSupported { .. } => true,
        // The status is only in the text.
        E::Generic { source, .. } => {
            let mut cause: Option<&(dyn Error + 'static)> = Some(&**source);
            std::iter::from_fn(|| {
                let this = cause?;
                cause = this.source();
                Some(this.to_string())
            })
            .any(|text| without_body(&text).contains("501 Not Implemented"))
        }
        _ => false,
    }
}

impl StoreFault {
    /// Whether we may not see it, or not whether it is there.
    pub(crate) fn is_denied(&self) -> bool {
        self.is_denied
    }

    /// Whether the object is simply not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_missing
    }

    /// Whether it was for want of room.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }
}

impl From<object_store::Error> for StoreFault {
    fn from(error: object_store::Error) -> Self {
        let is_missing = matches!(error, object_store::Error::NotFound { .. });
        let is_denied =
            matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. });
        let is_full = disk::is_full(&error);
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
        Self { text, is_missing, is_denied, is_full }
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
            assert!(!fault.is_missing() && !fault.is_full());
        }
        let missing = object_store::Error::NotFound { path: "a".to_owned(), source: "it".into() };
        assert!(StoreFault::from(missing).is_missing());
        let unknown = "Error performing PUT http://h/b: Server returned non-2xx status code: 501 Not Implemented: <a/>";
        let generic = |text: &str| object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
        assert!(
            is_not_implemented(&generic(unknown)) && !is_not_implemented(&generic("501 lines: <b>501 Not Implemented"))
        );
        // A storage says that there is no room in the body of its answer.
        let full = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>QuotaExceeded</Code></Error>";
        let fault = StoreFault::from(object_store::Error::Generic { store: "S3", source: full.into() });
        assert!(fault.is_full() && !fault.to_string().contains("Quota"), "{fault}");
        let disk = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(StoreFault::from(object_store::Error::Generic { store: "disk", source: disk.into() }).is_full());
    }
}
