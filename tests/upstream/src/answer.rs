//! Answers before they are sent, and refusals with their `OperationOutcome`.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};

use crate::body::Payload;

const FHIR_JSON: HeaderValue = HeaderValue::from_static("application/fhir+json;charset=UTF-8");

/// An answer before it is paced, compressed and sent.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
}

impl Answer {
    /// A FHIR answer.
    pub(crate) fn fhir(status: StatusCode, payload: impl Into<Payload>) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, FHIR_JSON)]);
        Self { status, headers, payload: payload.into() }
    }

    /// An answer of another media type.
    pub(crate) fn plain(content_type: &'static str, payload: impl Into<Payload>) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        Self { status: StatusCode::OK, headers, payload: payload.into() }
    }

    /// An answer without a body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), payload: Payload::default() }
    }

    /// Adds a header; a value that is none is left out.
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// Why a request was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    text: String,
    retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into(), retry_after: None }
    }

    /// 400.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", text)
    }

    /// 404.
    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", text)
    }

    /// 410.
    pub(crate) fn gone(text: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "processing", text)
    }

    /// Says after how many seconds to try again.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, code, text, retry_after } = refusal;
        let text = serde_json::Value::from(text);
        let outcome = format!(
            r#"{{"resourceType":"OperationOutcome","issue":[{{"severity":"error","code":"{code}","diagnostics":{text}}}]}}"#
        );
        let answer = Self::fhir(status, outcome);
        match retry_after {
            Some(seconds) => answer.with(RETRY_AFTER, &seconds.to_string()),
            None => answer,
        }
    }
}
