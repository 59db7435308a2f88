//! Every refusal's status and `OperationOutcome`: the one table. A new error variant must choose its
//! answer here; causes are logged where they are handled, never sent.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::body::{self, Body};
use super::door::Closed;
use super::guard::Refused;
use super::polls::TooOften;
use super::seats::NoSeat;
use super::witness::Code;
use crate::bulk::kickoff::KickoffError;
use crate::bulk::route::PathRefused;
use crate::engine::SubmitError;
use crate::fhir::filter::FilterError;
use crate::job::Failed;
use crate::job::store::StoreError;
use crate::ledger::LedgerError;
use crate::output::OutputError;
use crate::output::signing::LinkRefused;
use crate::proxy::ProxyError;
use crate::telemetry::error_chain;
use crate::upstream::group::GroupError;

/// One failed interaction, as the client is told of it.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    issue: Issue,
    headers: Box<HeaderMap>,
}

#[derive(Debug, Serialize)]
struct Issue {
    severity: &'static str,
    /// A code of <http://hl7.org/fhir/issue-type>.
    code: &'static str,
    diagnostics: String,
    /// The parameter that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<[String; 1]>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    resource_type: &'static str,
    issue: [&'a Issue; 1],
}

impl Problem {
    /// An error with a code of the FHIR issue types. `text` is sent to the client.
    pub(crate) fn new(status: StatusCode, code: &'static str, text: impl ToString) -> Self {
        let issue = Issue { severity: "error", code, diagnostics: text.to_string(), location: None };
        Self { status, issue, headers: Box::default() }
    }

    /// Names what is to blame, in the words of `OperationOutcome.issue.location`.
    #[must_use]
    pub(crate) fn located(mut self, location: Option<String>) -> Self {
        self.issue.location = location.map(|location| [location]).or(self.issue.location);
        self
    }

    /// Adds a header to the answer, such as `Allow` or `Retry-After`.
    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The answer itself. It is about this one request, so nobody may keep it.
    pub(crate) fn into_response(self) -> Response<Body> {
        let outcome = Outcome { resource_type: "OperationOutcome", issue: [&self.issue] };
        let text = serde_json::to_vec(&outcome).expect("strings and arrays always make JSON");
        let mut response = Response::new(body::full(text));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Code(self.issue.code));
        let headers = response.headers_mut();
        *headers = *self.headers;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Answers that no error type stands for.
impl Problem {
    /// Unknown, deleted and expired jobs cannot be told apart (BD-101).
    pub(crate) fn no_such_job() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such export, or no longer")
    }

    /// Whether it says that there is no such thing.
    pub(crate) fn is_of_nothing(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub(crate) fn no_such_page() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "the manifest of this export has no such page")
    }

    /// SM-034: what scopes permit and policy does not.
    pub(crate) fn not_by_policy(text: impl ToString) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", text)
    }

    /// SEC-10: a request to the admin listener that does not show its token.
    pub(crate) fn not_an_operator() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "login", "the token of this listener is needed (admin.token_file)")
    }

    /// Where tokens are issued elsewhere.
    pub(crate) fn no_such_endpoint() -> Self {
        let text = "access tokens are issued elsewhere: `.well-known/smart-configuration` says where";
        Self::new(StatusCode::NOT_FOUND, "not-found", text)
    }

    /// Nothing of ours is here, and nothing else is reached from here.
    pub(crate) fn nothing_here() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is nothing here")
    }

    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let text = format!("only {allow} can be asked here");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "not-supported", text)
            .with_header(header::ALLOW, HeaderValue::from_static(allow))
    }

    /// Something that we depend on cannot be used at the moment.
    pub(crate) fn unavailable(text: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "transient", text)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("10"))
    }

    pub(crate) fn without_statement() -> Self {
        Self::unavailable("the FHIR server's capability statement cannot be had at the moment")
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", "an internal error")
    }

    /// BD-061, DS-018: an export that was given up for good.
    pub(crate) fn job_failed(failed: &Failed) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, failed.code.as_str(), &failed.text)
    }
}

/// Section 2.7 of the checklist: one line for each reason.
impl From<KickoffError> for Problem {
    fn from(error: KickoffError) -> Self {
        use KickoffError as E;
        let (status, code) = match &error {
            E::NoAccept | E::NotAsync => (StatusCode::BAD_REQUEST, "required"),
            E::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not-supported"),
            E::ContentType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-supported"),
            E::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-long"),
            E::Slow => (StatusCode::REQUEST_TIMEOUT, "timeout"),
            E::TooMany | E::TooManyElements { .. } | E::TooManyFilters { .. } | E::SmallFiles { .. } => {
                (StatusCode::BAD_REQUEST, "too-costly")
            }
            E::CutShort | E::Json { .. } | E::NotParameters | E::Query | E::Shape { .. } => {
                (StatusCode::BAD_REQUEST, "structure")
            }
            E::BodyOfGet
            | E::BothPlaces { .. }
            | E::Kind { .. }
            | E::Twice { .. }
            | E::List { .. }
            | E::Sizes { .. }
            | E::Order { .. }
            | E::FilteredNotAsked { .. } => (StatusCode::BAD_REQUEST, "invalid"),
            E::NotAPatient { .. }
            | E::NotAnElement { .. }
            | E::Instant { .. }
            | E::Future { .. }
            | E::UnknownType { .. } => (StatusCode::BAD_REQUEST, "value"),
            E::Filter { error, .. } => (StatusCode::BAD_REQUEST, of_filter(error)),
            E::Format { .. }
            | E::Unsupported { .. }
            | E::NotAssociated { .. }
            | E::NoProvenance { .. }
            | E::OrganizedBy { .. }
            | E::NotOrganized
            | E::ProvenanceInBlocks { .. }
            | E::NotExportable { .. }
            | E::OutsideCompartment { .. }
            | E::ElementsOf { .. }
            | E::ElementsOfVersion
            | E::PatientInQuery { .. }
            | E::PatientAtSystem { .. }
            | E::FilterUnlisted { .. }
            | E::FilterIsUsed { .. }
            | E::FhirVersion => (StatusCode::BAD_REQUEST, "not-supported"),
        };
        let location = error.location().map(str::to_owned);
        Self::new(status, code, error).located(location)
    }
}

/// The code of a filter that is none or cannot be used.
fn of_filter(error: &FilterError) -> &'static str {
    use FilterError as E;
    match error {
        E::NoType | E::UnknownType(_) | E::Shape | E::Empty(_) | E::Kind(_) | E::Characters | E::Escape => "value",
        E::TooLong => "too-long",
        E::Modifier(_) | E::Chain(_) | E::NotAFilter(_) => "not-supported",
    }
}

impl From<PathRefused> for Problem {
    fn from(refused: PathRefused) -> Self {
        use PathRefused as E;
        let (status, code) = match refused {
            E::Escape | E::Separator | E::Segment | E::OutsideBase | E::Disguise => {
                (StatusCode::BAD_REQUEST, "invalid")
            }
            E::ForeignOperation => (StatusCode::FORBIDDEN, "forbidden"),
        };
        Self::new(status, code, refused)
    }
}

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        use GroupError as E;
        let (status, code) = match &error {
            E::Unknown => (StatusCode::NOT_FOUND, "not-found"),
            E::Inactive => (StatusCode::UNPROCESSABLE_ENTITY, "business-rule"),
            E::Characteristics | E::ModifierExtension => (StatusCode::BAD_REQUEST, "not-supported"),
            E::TooLarge(_) | E::TooDeep => (StatusCode::BAD_REQUEST, "too-costly"),
            E::Malformed => (StatusCode::BAD_GATEWAY, "invalid"),
            E::Identifiers => (StatusCode::INTERNAL_SERVER_ERROR, "processing"),
            E::Upstream(_) => return Self::unavailable("the Group cannot be fetched at the moment"),
        };
        Self::new(status, code, error)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = error_chain(&error), "the job store failed under a request");
        match error {
            StoreError::Fenced => Self::no_such_job(),
            StoreError::Full => Self::unavailable("the disk of the job store is full"),
            StoreError::Unavailable(_) => Self::unavailable("the job store cannot be used at the moment"),
            // DS-018: nobody may poll for ever for what does not come back by itself.
            StoreError::Damaged(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "processing", "what is recorded of this cannot be read")
            }
        }
    }
}

impl From<LedgerError> for Problem {
    /// SEC-43: what cannot be recorded does not happen.
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Full => Self::unavailable("the disk of the ledger is full"),
            LedgerError::Unusable => Self::unavailable("the ledger cannot be used at the moment"),
        }
    }
}

impl From<SubmitError> for Problem {
    /// BD-049
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Full => Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", error)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("60")),
            SubmitError::Quota { exhausted, seconds } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", exhausted)
                    .with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
            }
            SubmitError::Undated(_) | SubmitError::Filter(_) => {
                Self::new(StatusCode::BAD_REQUEST, "not-supported", error)
            }
            SubmitError::Store(error) => error.into(),
            SubmitError::Ledger(error) => error.into(),
        }
    }
}

impl From<TooOften> for Problem {
    /// BD-060
    fn from(error: TooOften) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", error)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }
}

impl From<NoSeat> for Problem {
    /// SEC-06
    fn from(none: NoSeat) -> Self {
        match none {
            NoSeat::OfThePeer => Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", none)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("1")),
            NoSeat::AtAll => Self::unavailable("as many bulk requests are being answered as may"),
        }
    }
}

impl From<OutputError> for Problem {
    fn from(error: OutputError) -> Self {
        tracing::error!(error = error_chain(&error), "the output failed under a request");
        Self::unavailable("the file cannot be read at the moment")
    }
}

impl From<ProxyError> for Problem {
    fn from(error: ProxyError) -> Self {
        use ProxyError as E;
        let (status, code) = match &error {
            E::OutsideBase | E::BadBody(_) => (StatusCode::BAD_REQUEST, "invalid"),
            E::Connect => (StatusCode::NOT_IMPLEMENTED, "not-supported"),
            E::Unreachable(_) | E::CutShort(_) | E::Switched => (StatusCode::BAD_GATEWAY, "transient"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        use Refused as E;
        let (status, code) = match refused {
            E::Host | E::Origin | E::Forwarded => (StatusCode::FORBIDDEN, "forbidden"),
            E::Authorizations => (StatusCode::BAD_REQUEST, "invalid"),
        };
        Self::new(status, code, refused.to_string())
    }
}

impl From<Closed> for Problem {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Anonymous | Closed::Unknown => Self::new(StatusCode::SERVICE_UNAVAILABLE, "transient", closed)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("10")),
        }
    }
}

impl From<LinkRefused> for Problem {
    /// One answer for all: why a link is void is told to the log, not to whoever tries links.
    fn from(refused: LinkRefused) -> Self {
        use LinkRefused as E;
        match refused {
            E::Malformed | E::UnknownKey | E::Signature | E::Expired => {
                let text = "this link is not valid, or no longer; read the manifest again";
                Self::new(StatusCode::FORBIDDEN, "forbidden", text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(problem: Problem) -> (StatusCode, String) {
        let response = problem.into_response();
        let status = response.status();
        let body = response.into_body().collect().await.expect("the body is in memory");
        (status, String::from_utf8(body.to_bytes().to_vec()).expect("JSON is UTF-8"))
    }

    #[tokio::test]
    async fn a_problem_is_an_operation_outcome() {
        let problem = Problem::new(StatusCode::CONFLICT, "conflict", "a \"quoted\"\nword")
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("7"));
        let response = problem.into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/fhir+json");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let (status, text) = text(Problem::new(StatusCode::CONFLICT, "conflict", "a \"quoted\"\nword")).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(
            text,
            r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"conflict","diagnostics":"a \"quoted\"\nword"}]}"#,
        );
    }

    /// BD-063, DS-018: whoever is told of a passing reason asks again, and whoever is told of another one does not.
    #[test]
    fn passing_reasons_have_transient_codes_and_others_do_not() {
        let branch = ["transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"];
        let unavailable = || StoreError::Unavailable("it is away".into());
        for (problem, is_passing) in [
            (Problem::from(StoreError::Full), true),
            (unavailable().into(), true),
            (StoreError::Damaged("of a job".to_owned()).into(), false),
            (StoreError::Fenced.into(), false),
            (LedgerError::Full.into(), true),
            (LedgerError::Unusable.into(), true),
            (SubmitError::Full.into(), true),
            (TooOften.into(), true),
            (Problem::unavailable("the FHIR server is away"), true),
            (Problem::no_such_job(), false),
        ] {
            assert_eq!(branch.contains(&problem.issue.code), is_passing, "{problem:?}");
            let asks_again = problem.headers.contains_key(header::RETRY_AFTER);
            assert_eq!(asks_again, is_passing, "{problem:?}");
        }
    }

    /// Design: every refusal of a link is the same 403.
    #[tokio::test]
    async fn refused_links_cannot_be_told_apart() {
        let expired = text(LinkRefused::Expired.into()).await;
        assert_eq!(expired.0, StatusCode::FORBIDDEN);
        for refused in [LinkRefused::Malformed, LinkRefused::UnknownKey, LinkRefused::Signature] {
            assert_eq!(text(refused.into()).await, expired, "{refused:?}");
        }
    }
}
