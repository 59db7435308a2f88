//! How connections to the upstream are made: two clients that never mix. What clients of ours send goes
//! through [`PassThroughClient`], which has no field for a credential; what exports ask goes through
//! [`SearchClient`], whose requests are made by us alone (SEC-01). Each has connections and TLS settings of
//! its own. Neither follows redirects.

use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::uri::Scheme;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::client::legacy::{self, Builder, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tower::Layer as _;
use tower::ServiceExt as _;
use tower::util::MapResponse;
use tower_http::decompression::{Decompression, DecompressionLayer};

use super::tls::{self, Authorities, SearchTls};
use crate::body::{self, Body, BoxError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Shorter than the idle timeouts that servers commonly have, so that it is we who close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// After so long without a byte the system asks whether the peer still lives.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// One HTTP/1 connection's read buffer on the pass-through path, and thereby the longest head of an answer.
const PASS_THROUGH_BUFFER_BYTES: usize = 128 * 1024;

/// The same for searches: pages are read as fast as they come.
const SEARCH_BUFFER_BYTES: usize = 256 * 1024;

/// What one HTTP/2 stream may have on the way while its reader is slow.
const PASS_THROUGH_STREAM_WINDOW_BYTES: u32 = 512 * 1024;

/// What all streams of one HTTP/2 connection may have on the way: many times a stream's share, so that a
/// few slow readers do not hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

const SEARCH_STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("could not load the system's trusted certificate authorities")]
    Roots(#[source] io::Error),
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
}

/// Which protocols a connection may speak.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Protocols {
    /// Chosen by the server in the TLS handshake; without TLS it is HTTP/1.1.
    Negotiated,
    Http1,
}

/// Carries requests of clients to the upstream, as they are.
#[derive(Clone)]
pub(crate) struct PassThroughClient {
    shared: Client<HttpsConnector<HttpConnector>, Body>,
    alone: Client<HttpsConnector<HttpConnector>, Body>,
}

impl fmt::Debug for PassThroughClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassThroughClient").finish_non_exhaustive()
    }
}

impl PassThroughClient {
    /// A client for an upstream of this scheme; certificates are needed for `https` only.
    pub(crate) fn new(scheme: &Scheme, authorities: &Authorities) -> Result<Self, ConnectError> {
        let tls = tls::unnamed(scheme, authorities)?;
        let mut builder = builder();
        builder
            .http1_max_buf_size(PASS_THROUGH_BUFFER_BYTES)
            .http2_initial_stream_window_size(PASS_THROUGH_STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .retry_canceled_requests(false);
        let shared = builder.build(connector(tls.clone(), Protocols::Negotiated));
        let alone = builder.pool_max_idle_per_host(0).build(connector(tls, Protocols::Http1));
        Ok(Self { shared, alone })
    }

    /// Sends a request and answers once the head of the upstream's answer is there.
    ///
    /// A request that authenticates its *connection* (NTLM, Negotiate) gets one that nobody had before or
    /// has after it; a connection on which the upstream asks for that takes no further request (SEC-05).
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, legacy::Error> {
        if names_connection_scheme(&request.headers().get_all(header::AUTHORIZATION)) {
            return self.send_alone(request).await;
        }
        let connection = capture_connection(&mut request);
        let response = self.shared.request(request).await?;
        if names_connection_scheme(&response.headers().get_all(header::WWW_AUTHENTICATE))
            && let Some(connection) = connection.connection_metadata().as_ref()
        {
            connection.poison();
        }
        Ok(response)
    }

    /// Sends a request over an HTTP/1.1 connection of its own, which is closed after the answer.
    pub(crate) async fn send_alone(&self, request: Request<Body>) -> Result<Response<Incoming>, legacy::Error> {
        self.alone.request(request).await
    }
}

/// Whether one of these header values speaks of a scheme by which a whole connection is authenticated.
fn names_connection_scheme(values: &header::GetAll<'_, http::HeaderValue>) -> bool {
    let bound = |challenge: &[u8]| {
        let challenge = challenge.trim_ascii_start();
        let end = challenge.iter().position(u8::is_ascii_whitespace).unwrap_or(challenge.len());
        let scheme = &challenge[..end];
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    };
    values.iter().any(|value| value.as_bytes().split(|byte| *byte == b',').any(bound))
}

/// Asks what exports need. Answers may be compressed on the wire and are plain here.
#[derive(Clone)]
pub(crate) struct SearchClient {
    service: Decompression<MapResponse<Client<HttpsConnector<HttpConnector>, Body>, Mark>>,
}

type Mark = fn(Response<Incoming>) -> Response<Incoming>;

/// In the extensions of an answer that was compressed on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WasCompressed;

impl fmt::Debug for SearchClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SearchClient").finish_non_exhaustive()
    }
}

impl SearchClient {
    /// A client for an upstream of this scheme; certificates are needed for `https` only.
    pub(crate) fn new(scheme: &Scheme, protocols: Protocols, tls: &SearchTls) -> Result<Self, ConnectError> {
        let client = builder()
            .http1_max_buf_size(SEARCH_BUFFER_BYTES)
            .http2_initial_stream_window_size(SEARCH_STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .build(connector(tls.to_upstream(scheme)?, protocols));
        let marked = MapResponse::new(client, mark as Mark);
        Ok(Self { service: DecompressionLayer::new().layer(marked) })
    }

    /// Sends a request and answers once the head of the upstream's answer is there.
    pub(crate) fn send(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, BoxError>> {
        // Boxed: from the outside the compiler cannot see that the whole stack is `Send`.
        let answer = self.service.clone().oneshot(request).boxed();
        Box::pin(async move { Ok(answer.await?.map(body::map)) })
    }
}

/// Nobody above sees how an answer was encoded.
fn mark(mut response: Response<Incoming>) -> Response<Incoming> {
    if response.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip") {
        response.extensions_mut().insert(WasCompressed);
    }
    response
}

/// What both clients have in common.
fn builder() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES);
    builder
}

fn connector(tls: ClientConfig, protocols: Protocols) -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE));
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    match protocols {
        Protocols::Negotiated => builder.enable_all_versions().wrap_connector(tcp),
        Protocols::Http1 => builder.enable_http1().wrap_connector(tcp),
    }
}

/// For connections to anybody, by what the system trusts.
pub(crate) fn tls(scheme: &Scheme) -> Result<ClientConfig, ConnectError> {
    tls::unnamed(scheme, &Authorities::default())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with these bytes; gives back the request's head.
    async fn search(answer: &'static [u8]) -> (Response<Body>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let upstream = listener.local_addr().expect("it is bound");
        let served = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("the client connects");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.expect("the client sends a head"));
            }
            socket.write_all(answer).await.expect("the client reads");
            String::from_utf8(head).expect("the client sends text")
        });
        let client = SearchClient::new(&Scheme::HTTP, Protocols::Negotiated, &SearchTls::default())
            .expect("plain HTTP needs no roots");
        let request = Request::get(format!("http://{upstream}/fhir/Patient?_count=1"))
            .body(body::empty())
            .expect("the request is well formed");
        let response = client.send(request).await.expect("the upstream answers");
        (response, served.await.expect("the upstream lives"))
    }

    #[tokio::test]
    async fn a_compressed_page_is_asked_for_and_comes_out_plain() {
        let (response, head) = search(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 25\r\n\r\n\
              \x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\x07\0\x86\xa6\x10\x36\x05\0\0\0",
        )
        .await;
        assert!(head.contains("\r\naccept-encoding: gzip\r\n"), "{head}");
        assert!(response.extensions().get::<WasCompressed>().is_some());
        let body = response.into_body().collect().await.expect("the body comes whole");
        assert_eq!(body.to_bytes(), "hello");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let (response, _) =
            search(b"HTTP/1.1 307 Away\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(response.status(), 307);
        assert!(response.extensions().get::<WasCompressed>().is_none());
    }

    #[test]
    fn a_client_for_https_needs_nothing_but_certificate_authorities() {
        // Machines without any exist.
        let search = SearchClient::new(&Scheme::HTTPS, Protocols::Negotiated, &SearchTls::default());
        let made = [PassThroughClient::new(&Scheme::HTTPS, &Authorities::default()).map(drop), search.map(drop)];
        for made in made {
            assert!(matches!(made, Ok(()) | Err(ConnectError::Roots(_))), "{made:?}");
        }
    }
}
