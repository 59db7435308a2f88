//! The headers of a kick-off.

use http::{HeaderMap, header};

use super::KickoffError;
use super::prefer;

/// The headers that a kick-off depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headers {
    pub(super) accept: Option<String>,
    pub(super) prefer: Vec<String>,
    pub(super) content_type: Option<String>,
    /// The body is compressed, or whatever else `Content-Encoding` says.
    pub(super) is_encoded: bool,
}

impl Headers {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let all = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
        let accept: Vec<_> = all(header::ACCEPT).collect();
        Self {
            accept: (!accept.is_empty()).then(|| accept.join(",")),
            prefer: all(header::HeaderName::from_static("prefer")).collect(),
            content_type: all(header::CONTENT_TYPE).next(),
            is_encoded: all(header::CONTENT_ENCODING).any(|coding| !coding.trim().eq_ignore_ascii_case("identity")),
        }
    }

    /// Interop 1: any list that allows FHIR JSON is good; none at all is not.
    pub(super) fn check_accept(&self) -> Result<(), KickoffError> {
        let accept = self.accept.as_deref().ok_or(KickoffError::NoAccept)?;
        let allows = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let refused =
                parts.any(|part| matches!(part.to_ascii_lowercase().as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            !refused && matches!(media.as_str(), "application/fhir+json" | "application/json" | "application/*" | "*/*")
        };
        if accept.split(',').any(allows) { Ok(()) } else { Err(KickoffError::NotAcceptable) }
    }

    pub(crate) fn check_content_type(&self) -> Result<(), KickoffError> {
        let media = self.content_type.as_deref().unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_json = matches!(media.as_str(), "application/fhir+json" | "application/json");
        if is_json && !self.is_encoded { Ok(()) } else { Err(KickoffError::ContentType) }
    }

    /// RFC 7240: a preference counts where it is named first, and an empty value is none.
    pub(crate) fn prefers(&self, name: &str, value: &str) -> bool {
        prefer::first(&self.prefer, name).is_some_and(|first| first.eq_ignore_ascii_case(value))
    }
}
