//! What our searches show so that the upstream answers them: nothing, headers that stay the same, or access tokens of its
//! authorization server. It goes to the origin that searches are sent to, and nowhere else (SEC-01).

mod endpoint;
mod tokens;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Uri};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::body::Body;
pub(crate) use endpoint::{Place, TokenEndpoint, TokenError};
pub(crate) use tokens::Tokens;

/// What is shown, and to whom. It can be replaced while searches go on.
pub(crate) struct Credentials {
    scheme: Scheme,
    authority: Authority,
    current: RwLock<Current>,
    replaced: Notify,
}

#[derive(Clone)]
struct Current {
    kind: Kind,
    /// Counts what was there before.
    generation: u64,
}

/// What there is to show. (Its `Debug` says no more than that.)
#[derive(Clone)]
pub(crate) enum Kind {
    Nothing,
    Headers(Arc<HeaderMap>),
    Tokens(Tokens),
}

/// What one request has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    generation: u64,
    token: Option<u64>,
}

/// What it means that a request was answered with 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It has shown nothing: the server gives this to nobody without credentials.
    NothingShown,
    /// Something else can be shown now.
    AskAgain,
    /// There is nothing else to show.
    Final,
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    #[error("there is no access token for the server")]
    Token(#[source] Arc<TokenError>),
    /// A bug of ours, noticed before it told anybody anything.
    #[error("a search was about to leave for another server than the configured one")]
    Elsewhere,
}

impl Credentials {
    /// For requests to the origin of `base`, which is an `http` or `https` URL; `None` if it is none.
    pub(crate) fn new(base: &url::Url, kind: Kind) -> Option<Self> {
        let uri: Uri = base[..url::Position::AfterPort].parse().ok()?;
        let current = RwLock::new(Current { kind, generation: 0 });
        let replaced = Notify::new();
        Some(Self { scheme: uri.scheme()?.clone(), authority: uri.authority()?.clone(), current, replaced })
    }

    /// Shows something else from now on.
    pub(crate) fn replace(&self, kind: Kind) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current { kind, generation: current.generation + 1 };
        self.replaced.notify_waiters();
    }

    /// Completes once something else is shown than when it was called.
    pub(crate) fn replaced(&self) -> Notified<'_> {
        self.replaced.notified()
    }

    /// Puts what is shown onto a request, waiting for it if need be.
    ///
    /// # Errors
    /// [`CredentialsError`] if the request cannot be sent.
    pub(crate) async fn put_on(&self, request: &mut Request<Body>) -> Result<Shown, CredentialsError> {
        let Current { kind, generation } = self.current();
        let token = match kind {
            Kind::Nothing => return Ok(Shown { generation, token: None }),
            Kind::Headers(headers) => {
                self.check_origin(request.uri())?;
                for (name, value) in &*headers {
                    request.headers_mut().insert(name, value.clone());
                }
                None
            }
            Kind::Tokens(tokens) => {
                self.check_origin(request.uri())?;
                let token = tokens.token().await.map_err(CredentialsError::Token)?;
                request.headers_mut().insert(http::header::AUTHORIZATION, token.value.clone());
                Some(token.number)
            }
        };
        Ok(Shown { generation, token })
    }

    /// What to do about a 401 to a request that has shown this.
    pub(crate) fn refused(&self, shown: Shown) -> Refused {
        let Current { kind, generation } = self.current();
        if shown.generation != generation {
            return Refused::AskAgain;
        }
        match (kind, shown.token) {
            (Kind::Nothing, _) => Refused::NothingShown,
            (Kind::Tokens(tokens), Some(number)) => {
                tokens.forget(number);
                Refused::AskAgain
            }
            (Kind::Headers(_) | Kind::Tokens(_), _) => Refused::Final,
        }
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check_origin(&self, uri: &Uri) -> Result<(), CredentialsError> {
        let is_own = uri.scheme() == Some(&self.scheme) && uri.authority() == Some(&self.authority);
        if is_own { Ok(()) } else { Err(CredentialsError::Elsewhere) }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.current().kind).finish()
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Headers(_) => "Headers",
            Self::Tokens(_) => "Tokens",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::body;

    fn headers() -> Kind {
        let value = HeaderValue::from_static("Basic s3cret");
        Kind::Headers(Arc::new(HeaderMap::from_iter([(http::header::AUTHORIZATION, value)])))
    }

    fn credentials(kind: Kind) -> Credentials {
        let base = "http://upstream:9000/fhir".parse().expect("a URL");
        Credentials::new(&base, kind).expect("an origin")
    }

    /// SEC-01
    #[tokio::test]
    async fn credentials_go_to_their_own_origin_only() {
        let credentials = credentials(headers());
        for (uri, expected) in [
            ("http://upstream:9000/fhir/Patient", true),
            ("http://upstream:9000/elsewhere", true),
            ("https://upstream:9000/fhir/Patient", false),
            ("http://upstream/fhir/Patient", false),
            ("http://upstream:9001/fhir/Patient", false),
            ("http://upstream.evil.example:9000/fhir", false),
            ("http://x@upstream:9000/fhir", false),
            ("/fhir/Patient", false),
        ] {
            let mut request = Request::get(uri).body(body::empty()).expect("a good request");
            let shown = credentials.put_on(&mut request).await;
            assert_eq!(shown.is_ok(), expected, "{uri}");
            assert_eq!(request.headers().contains_key("authorization"), expected, "{uri}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_final_unless_there_is_something_else_to_show() {
        let credentials = credentials(headers());
        let mut request = Request::get("http://upstream:9000/").body(body::empty()).expect("a good request");
        let shown = credentials.put_on(&mut request).await.expect("it is its own");
        assert_eq!(credentials.refused(shown), Refused::Final);
        credentials.replace(headers());
        assert_eq!(credentials.refused(shown), Refused::AskAgain, "others were read since");
        credentials.replace(Kind::Nothing);
        let shown = credentials.put_on(&mut request).await.expect("nothing is shown");
        assert_eq!(credentials.refused(shown), Refused::NothingShown);
    }

    #[test]
    fn no_debug_shows_a_secret() {
        let credentials = credentials(headers());
        assert_eq!(format!("{credentials:?}"), "Credentials(Headers)");
    }
}
