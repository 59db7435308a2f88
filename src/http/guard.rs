//! Layers around the bulk routes that refuse a request by its headers, before anything looks at it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::{self, HeaderMap};
use http::uri::Authority;
use http::{Request, Response, Uri};
use tower::util::{Oneshot, ServiceExt as _};
use tower::{Layer, Service};

use super::body::Body;
use super::problem::Problem;

/// Why a request is refused by its headers alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("`open` mode answers only requests for a loopback host")]
    Host,
    #[error("`open` mode answers no request that a web page sends")]
    Origin,
    #[error("`open` mode answers no request that came through another proxy")]
    Forwarded,
    #[error("a request has one `Authorization` header at most")]
    Authorizations,
}

/// What a [`Guard`] looks at.
#[derive(Debug, Clone, Copy)]
enum Rule {
    LoopbackOnly,
    OneAuthorization,
}

/// Puts a [`Guard`] around a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardLayer(Rule);

impl GuardLayer {
    /// For `open` mode, where being on this machine is the only credential: a page in a local browser can
    /// reach us by a name that it rebinds to loopback, and a proxy beside us speaks for strangers (SEC-10).
    pub(crate) fn loopback_only() -> Self {
        Self(Rule::LoopbackOnly)
    }

    /// Two credentials in one request: whoever looks at it next may look at the other one (SEC-11).
    pub(crate) fn one_authorization() -> Self {
        Self(Rule::OneAuthorization)
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard { rule: self.0, inner }
    }
}

/// Answers what its rule refuses; all else goes to the inner service.
#[derive(Debug, Clone)]
pub(crate) struct Guard<S> {
    rule: Rule,
    inner: S,
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Oneshot<S, Request<B>>, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // `oneshot` awaits the inner service; a refusal waits for nobody.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let checked = match self.rule {
            Rule::LoopbackOnly => loopback_only(request.uri(), request.headers()),
            Rule::OneAuthorization => one_authorization(request.headers()),
        };
        match checked {
            Ok(()) => Either::Left(self.inner.clone().oneshot(request)),
            Err(refused) => {
                tracing::info!(reason = %refused, "refused a bulk request by its headers");
                Either::Right(ready(Ok(Problem::from(refused).into_response())))
            }
        }
    }
}

/// What `open` mode asks of every bulk request (SEC-10), and every mode (SEC-11).
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Refused> {
    loopback_only(request.uri(), request.headers())?;
    one_authorization(request.headers())
}

fn loopback_only(uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
    let named: Vec<Option<Authority>> = headers
        .get_all(header::HOST)
        .iter()
        .map(|host| Authority::try_from(host.as_bytes()).ok())
        // HTTP/2 and absolute-form targets name the host in the target.
        .chain(uri.authority().cloned().map(Some))
        .collect();
    let loopback = |host: &Option<Authority>| host.as_ref().is_some_and(is_loopback);
    if named.is_empty() || !named.iter().all(loopback) {
        return Err(Refused::Host);
    }
    if headers.contains_key(header::ORIGIN) {
        return Err(Refused::Origin);
    }
    let forwards =
        |name: &str| name == "forwarded" || name == "via" || name == "x-real-ip" || name.starts_with("x-forwarded");
    if headers.keys().any(|name| forwards(name.as_str())) {
        return Err(Refused::Forwarded);
    }
    Ok(())
}

fn one_authorization(headers: &HeaderMap) -> Result<(), Refused> {
    if headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
        return Err(Refused::Authorizations);
    }
    Ok(())
}

/// `localhost`, 127.0.0.0/8 or `[::1]`, with or without a port, and nothing before it.
fn is_loopback(authority: &Authority) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    name.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tower::service_fn;

    use super::*;
    use crate::http::body;

    async fn status(layer: GuardLayer, uri: &str, headers: &[(&str, &str)]) -> StatusCode {
        let inner = service_fn(|_: Request<Body>| ready(Ok(Response::new(body::empty()))));
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body::empty()).expect("the test's request is well formed");
        let Ok(response) = layer.layer(inner).oneshot(request).await;
        response.status()
    }

    /// SEC-10.
    #[tokio::test]
    async fn open_mode_answers_only_this_machine_asking_for_itself() {
        for (uri, headers, expected) in [
            ("/fhir/$export", &[("host", "127.0.0.1:8080")][..], 200),
            ("/fhir/$export", &[("host", "localhost")], 200),
            ("/fhir/$export", &[("host", "LOCALHOST.:8080")], 200),
            ("/fhir/$export", &[("host", "[::1]:8080")], 200),
            ("/fhir/$export", &[("host", "127.9.9.9")], 200),
            ("http://127.0.0.1:8080/fhir/$export", &[], 200),
            ("/fhir/$export", &[], 403),
            ("/fhir/$export", &[("host", "")], 403),
            ("/fhir/$export", &[("host", "evil.example")], 403),
            ("/fhir/$export", &[("host", "localhost.evil.example")], 403),
            ("/fhir/$export", &[("host", "127.0.0.1.evil.example")], 403),
            ("/fhir/$export", &[("host", "127.0.0.1@evil.example")], 403),
            ("/fhir/$export", &[("host", "evil.example@127.0.0.1")], 403),
            ("/fhir/$export", &[("host", "10.0.0.1")], 403),
            ("/fhir/$export", &[("host", "0.0.0.0:8080")], 403),
            ("/fhir/$export", &[("host", "[::]:8080")], 403),
            ("/fhir/$export", &[("host", "127.1")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("host", "evil.example")], 403),
            ("http://evil.example/fhir/$export", &[("host", "localhost")], 403),
            ("http://localhost/fhir/$export", &[("host", "evil.example")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("origin", "http://localhost")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("origin", "null")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("forwarded", "for=10.0.0.1")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("x-forwarded-for", "127.0.0.1")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("x-forwarded-prefix", "/x")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("x-real-ip", "127.0.0.1")], 403),
            ("/fhir/$export", &[("host", "localhost"), ("via", "1.1 proxy")], 403),
        ] {
            let status = status(GuardLayer::loopback_only(), uri, headers).await;
            assert_eq!(status, expected, "{uri} {headers:?}");
        }
    }

    /// SEC-11: refused are two `Authorization` headers.
    #[tokio::test]
    async fn a_request_with_two_credentials_is_refused() {
        for (headers, expected) in [
            (&[][..], 200),
            (&[("authorization", "Bearer a")], 200),
            (&[("authorization", "Bearer a"), ("Authorization", "Bearer a")], 400),
            (&[("authorization", "Bearer a"), ("authorization", "Basic b")], 400),
        ] {
            let status = status(GuardLayer::one_authorization(), "/fhir/$export", headers).await;
            assert_eq!(status, expected, "{headers:?}");
        }
    }
}
