//! Why a search brought nothing, and why one try of it failed.

use std::time::Duration;

use http::StatusCode;

use crate::body;
use crate::fhir::bundle::PageError;
use crate::fhir::outcome::Issue;
use crate::upstream::credentials::CredentialsError;

/// Why a search brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SearchError {
    /// The server will not answer this question.
    #[error("the server refused the search with status {status}")]
    Refused { status: StatusCode, issues: Vec<Issue> },
    /// The answer does not fit into what it may take of memory; `bytes` of it had come.
    #[error("an answer is larger than {bytes} bytes")]
    TooLarge { bytes: usize, alone: bool },
    /// The server could not be had, or gave no usable answer, for as long as we have patience.
    #[error("the server gave no usable answer within {} s", .after.as_secs())]
    GaveUp { after: Duration, source: Failure },
    /// The server is there, and fails to answer this very question again and again; told only where it was
    /// [asked for](super::Upstream::giving_back).
    #[error("the server fails to answer this search, and no other")]
    Failing { source: Failure },
    /// The link leads nowhere that we may ask.
    #[error("a next link cannot be followed")]
    Link,
    /// It says nothing about what was asked for: nobody is given anything by these credentials.
    #[error("the server answered with 401: it does not accept the credentials of upstream.credentials")]
    Unauthorized,
}

/// Why one try failed; another may not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the connection failed")]
    Connection(#[source] body::BoxError),
    #[error("the answer broke off")]
    CutShort(#[source] body::BoxError),
    #[error("nothing came for {} s", .0.as_secs())]
    Silence(Duration),
    #[error("the server answered with status {0}")]
    Status(StatusCode),
    #[error("the answer came from a cache")]
    Cached,
    #[error("the answer is not a page")]
    Page(#[source] PageError),
    /// The server was not asked.
    #[error("the search cannot show who it is from")]
    Credentials(#[source] CredentialsError),
    /// It was not tried again: the process is stopping.
    #[error("the process is stopping")]
    Stopping,
}

impl Failure {
    /// Whether it may be what is asked for that makes the server fail, and not how it fares.
    pub(super) fn is_of_the_question(&self) -> bool {
        match self {
            Self::Status(status) => *status == StatusCode::INTERNAL_SERVER_ERROR,
            Self::Page(_) => true,
            Self::Connection(_)
            | Self::CutShort(_)
            | Self::Silence(_)
            | Self::Cached
            | Self::Credentials(_)
            | Self::Stopping => false,
        }
    }
}

impl SearchError {
    /// Whether the server does not accept what was shown to it.
    pub(crate) fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Unauthorized)
    }

    /// Whether it says nothing about the server: the search was left for the next start.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self, Self::GaveUp { source: Failure::Stopping, .. })
    }
}
