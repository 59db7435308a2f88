//! `GET [base]/metadata`: the upstream's own answer with our operations in it.
//!
//! Only a JSON answer with status 200 of up to 16 MiB is edited; HEAD, XML, compressed or larger answers and
//! all other requests pass untouched. What is edited has an `ETag` of its own.

pub(crate) mod offer;
mod patch;
mod text;
pub(crate) mod validator;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::future::{BoxFuture, Either};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, response};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use tokio::sync::Semaphore;
use tower::Service;
use tower::util::{Oneshot, ServiceExt as _};

use self::offer::Terms;
pub(crate) use self::patch::with_operations;
use super::{Bases, ProxyError};
use crate::body::{self, Body, BoxError};
use crate::fhir::capability::Capability;

/// Whether bulk requests are answered at the moment where this statement is.
pub(crate) type IsOpen = Arc<dyn Fn() -> bool + Send + Sync>;

/// The largest statement that is edited; HAPI's is under 2 MiB.
const LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Statements held in memory at the same time; who comes later waits.
const MAX_AT_ONCE: usize = 4;

/// What a changed answer makes untrue.
const ABOUT_OLD_BYTES: [HeaderName; 7] = [
    header::ETAG,
    header::LAST_MODIFIED,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// What would make the upstream send less than the plain, whole statement.
const ASKS_FOR_LESS: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Passes requests on and adds our operations to the capability statement on its way back.
#[derive(Clone)]
pub(crate) struct Metadata<S> {
    inner: S,
    path: Arc<str>,
    offered: Arc<Offered>,
}

/// What is added, and who adds it at the moment.
struct Offered {
    terms: Terms,
    is_open: IsOpen,
    places: Semaphore,
}

impl<S> Metadata<S> {
    pub(crate) fn new(inner: S, bases: &Bases, terms: Terms, is_open: IsOpen) -> Self {
        let path = format!("{}/metadata", bases.public_path()).into();
        let offered = Offered { terms, is_open, places: Semaphore::new(MAX_AT_ONCE) };
        Self { inner, path, offered: Arc::new(offered) }
    }
}

impl<S> Service<Request<Body>> for Metadata<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = ProxyError> + Clone + Send,
    S::Future: Send,
    S: 'static,
{
    type Response = Response<Body>;
    type Error = ProxyError;
    type Future = Either<Oneshot<S, Request<Body>>, BoxFuture<'static, Result<Response<Body>, ProxyError>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let upstream = self.inner.clone();
        if request.method() != Method::GET || request.uri().path() != &*self.path {
            return Either::Left(upstream.oneshot(request));
        }
        let asked = request.headers().clone();
        ask_for_plain_text(request.headers_mut());
        let offered = Arc::clone(&self.offered);
        // Boxed by itself: inside the block below its `Send` could not be seen.
        let answer = upstream.oneshot(request).boxed();
        Either::Right(
            async move {
                let response = answer.await?;
                if is_editable(&response) { edit(response, &asked, offered).await } else { Ok(response) }
            }
            .boxed(),
        )
    }
}

fn ask_for_plain_text(headers: &mut HeaderMap) {
    for name in &ASKS_FOR_LESS {
        headers.remove(name);
    }
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

fn is_editable(response: &Response<Body>) -> bool {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let json = text(header::CONTENT_TYPE).is_some_and(|content_type| {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
    });
    let plain = !response.headers().contains_key(header::CONTENT_ENCODING)
        || text(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "identity");
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    response.status() == StatusCode::OK && json && plain && length.is_none_or(|length| length <= LIMIT_BYTES)
}

async fn edit(
    response: Response<Body>,
    asked: &HeaderMap,
    offered: Arc<Offered>,
) -> Result<Response<Body>, ProxyError> {
    let Ok(_place) = offered.places.acquire().await else {
        return Ok(response); // Closed: nobody closes it.
    };
    let (head, body) = response.into_parts();
    let text = match collect(body).await {
        Ok(Collected::All(text)) => text.freeze(),
        Ok(Collected::TooLarge { begin, rest }) => {
            return Ok(Response::from_parts(head, rejoin(begin, rest)));
        }
        Err(error) => {
            tracing::warn!(%error, "the upstream broke off its capability statement");
            return Err(ProxyError::CutShort(error));
        }
    };
    let (original, terms) = (text.clone(), Arc::clone(&offered));
    // A large statement takes a while; other requests on this thread do not wait for it.
    let edited = tokio::task::spawn_blocking(move || -> Result<_, BoxError> {
        let upstream = Capability::parse(&text)?;
        let edited = with_operations(&text, &terms.terms.before(&upstream, (terms.is_open)()))?;
        Ok((validator::etag(&edited), edited))
    });
    Ok(match edited.await.map_err(BoxError::from).flatten() {
        Ok((etag, _)) if validator::is_known(asked, &etag) => not_modified(head, etag),
        Ok((etag, edited)) => replaced(head, etag, edited),
        Err(error) => {
            tracing::warn!(%error, "passed the upstream's capability statement without our operations");
            Response::from_parts(head, body::full(original))
        }
    })
}

fn replaced(mut head: response::Parts, etag: HeaderValue, text: Vec<u8>) -> Response<Body> {
    for name in &ABOUT_OLD_BYTES {
        head.headers.remove(name);
    }
    head.headers.insert(header::ETAG, etag);
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    Response::from_parts(head, body::full(text))
}

/// The sender has what it asks for.
fn not_modified(mut head: response::Parts, etag: HeaderValue) -> Response<Body> {
    head.status = StatusCode::NOT_MODIFIED;
    let gone = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::TRANSFER_ENCODING];
    for name in ABOUT_OLD_BYTES.iter().chain(&gone) {
        head.headers.remove(name);
    }
    head.headers.insert(header::ETAG, etag);
    Response::from_parts(head, body::empty())
}

enum Collected {
    All(BytesMut),
    TooLarge { begin: BytesMut, rest: Body },
}

async fn collect(mut body: Body) -> Result<Collected, BoxError> {
    let mut text = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers of a statement tell about its old bytes.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        text.extend_from_slice(&data);
        if text.len() > LIMIT_BYTES {
            return Ok(Collected::TooLarge { begin: text, rest: body });
        }
    }
    Ok(Collected::All(text))
}

fn rejoin(begin: BytesMut, rest: Body) -> Body {
    let begin = stream::iter([Ok(Frame::data(begin.freeze()))]);
    body::map(StreamBody::new(begin.chain(BodyStream::new(rest))))
}

#[cfg(test)]
mod tests;
