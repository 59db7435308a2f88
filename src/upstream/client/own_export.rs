//! Whether a server exports by itself: then whoever reaches it has a way round policy and ledger (SEC-03). It is tried with as
//! little as there is to export, and what that began is withdrawn.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Collected, Limited};
use serde_json::{Value, json};
use url::Url;

use super::Upstream;
use crate::body::{self, Body};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::escape;

/// How long one question may take, with its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const MOST_BYTES: usize = 64 * 1024;

/// What became of a kick-off of the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnExport {
    /// It was refused.
    Refused(StatusCode),
    /// An export has begun, and was ended again or not.
    Begun { withdrawn: bool },
    /// It was answered at once, with whatever.
    Answered(StatusCode),
    /// Nothing came, or nothing that says anything.
    Unknown,
}

impl OwnExport {
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            408 | 425 | 429 => Self::Unknown,
            400..=499 | 501 => Self::Refused(status),
            202 => Self::Begun { withdrawn: false },
            200..=299 => Self::Answered(status),
            _ => Self::Unknown,
        }
    }
}

/// An answer as far as it matters.
struct Said {
    status: StatusCode,
    location: Option<String>,
    body: Bytes,
}

impl Upstream {
    /// Kicks off an export of nothing: of a type that hardly any server holds, since now.
    pub(crate) async fn try_own_export(&self) -> OwnExport {
        let target = format!("{}/{}", self.base_path(), self.export_of_nothing());
        let Some(said) = self.say(Method::GET, &target, Bytes::new()).await else { return OwnExport::Unknown };
        self.concluded(said.status, said.location).await
    }

    /// The same as an entry of a batch, whose path is as good as any.
    pub(crate) async fn try_own_export_in_a_batch(&self) -> OwnExport {
        let entry = json!({ "request": { "method": "GET", "url": self.export_of_nothing() } });
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [entry] });
        let base = self.base_path();
        let target = if base.is_empty() { "/" } else { base };
        let said = self.say(Method::POST, target, batch.to_string().into()).await;
        let Some(Said { status, location, body }) = said else { return OwnExport::Unknown };
        // A batch may itself be answered later: what is in it has begun.
        if status != StatusCode::OK {
            return self.concluded(status, location).await;
        }
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let response = &answer["entry"][0]["response"];
        let status = response["status"].as_str().and_then(|status| status.get(..3)?.parse().ok());
        let Some(status) = status else { return OwnExport::Unknown };
        self.concluded(status, response["location"].as_str().map(str::to_owned)).await
    }

    fn export_of_nothing(&self) -> String {
        let mut since = String::new();
        escape(&self.now().to_string(), &mut since);
        format!("$export?_type=Basic&_since={since}")
    }

    async fn concluded(&self, status: StatusCode, location: Option<String>) -> OwnExport {
        match OwnExport::of(status) {
            OwnExport::Begun { .. } => {
                let target = location.and_then(|location| withdrawal(&self.inner.base, &location));
                let said = match &target {
                    Some(target) => self.say(Method::DELETE, target, Bytes::new()).await,
                    None => None,
                };
                OwnExport::Begun { withdrawn: said.is_some_and(|said| said.status.is_success()) }
            }
            other => other,
        }
    }

    /// Asks once, with what searches show.
    async fn say(&self, method: Method, target: &str, sent: Bytes) -> Option<Said> {
        let answered = async {
            let base = &self.inner.base;
            let authority = &base[url::Position::BeforeHost..url::Position::AfterPort];
            let mut request = Request::builder()
                .method(method)
                .uri(format!("{}://{authority}{target}", base.scheme()))
                .header(header::ACCEPT, "application/fhir+json")
                .header("prefer", "respond-async");
            if !sent.is_empty() {
                request = request.header(header::CONTENT_TYPE, "application/fhir+json");
            }
            let body: Body = if sent.is_empty() { body::empty() } else { body::full(sent) };
            let mut request = request.body(body).ok()?;
            self.inner.channel.credentials.put_on(&mut request).await.ok()?;
            let (head, body) = self.inner.channel.client.send(request).await.ok()?.into_parts();
            let location = head.headers.get(header::CONTENT_LOCATION).and_then(|location| location.to_str().ok());
            // What is longer is no answer that matters.
            let body = Limited::new(body, MOST_BYTES).collect().await.map(Collected::to_bytes).unwrap_or_default();
            Some(Said { status: head.status, location: location.map(str::to_owned), body })
        };
        tokio::time::timeout(PATIENCE, answered).await.ok().flatten()
    }
}

/// What to delete so that an export ends: the address that it is asked about at, if that is the server's own and can be no
/// resource.
fn withdrawal(base: &Url, location: &str) -> Option<String> {
    let mut below = base.clone();
    if !below.path().ends_with('/') {
        below.set_path(&format!("{}/", base.path()));
    }
    let url = below.join(location).ok()?;
    let is_resource = url.path_segments()?.any(|segment| ResourceType::is_like_one(segment) || segment.contains('%'));
    if url.origin() != base.origin() || is_resource || url.path() == base.path() || url.path() == below.path() {
        return None;
    }
    Some(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_deleted_that_may_be_a_resource_or_is_elsewhere() {
        let base = Url::parse("https://h/fhir").expect("a URL");
        for (location, expected) in [
            ("https://h/fhir/$export-poll-status?_jobId=1", Some("/fhir/$export-poll-status?_jobId=1")),
            ("https://h:443/elsewhere/_operations/export/1#x", Some("/elsewhere/_operations/export/1")),
            ("$bulkdata-status?job=1", Some("/fhir/$bulkdata-status?job=1")),
            ("/bulk/1", Some("/bulk/1")),
            ("https://other/fhir/$export-poll-status?_jobId=1", None),
            ("//other/fhir/1", None),
            ("http://h/fhir/$export-poll-status?_jobId=1", None),
            ("https://h/fhir/Patient/1", None),
            ("https://h/fhir/patient/1", None),
            ("https://h/fhir/x/../Patient/1", None),
            ("Patient?_id=1", None),
            ("https://h/fhir/%50atient/1", None),
            ("https://h/fhir", None),
            ("https://h/fhir/", None),
            ("https://h/fhir?_id=1", None),
            ("", None),
            ("mailto:a@b", None),
        ] {
            assert_eq!(withdrawal(&base, location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn what_a_status_says_of_it() {
        for (status, expected) in [
            (202, Some(OwnExport::Begun { withdrawn: false })),
            (200, Some(OwnExport::Answered(StatusCode::OK))),
            (400, Some(OwnExport::Refused(StatusCode::BAD_REQUEST))),
            (404, Some(OwnExport::Refused(StatusCode::NOT_FOUND))),
            (501, Some(OwnExport::Refused(StatusCode::NOT_IMPLEMENTED))),
            (302, None),
            (429, None),
            (503, None),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(OwnExport::of(status), expected.unwrap_or(OwnExport::Unknown), "{status}");
        }
    }
}
