//! Asks addresses that others have named, for little: 64 KiB and five seconds at most, without redirects, and inside only
//! where an operator has named the host.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use tower::Service;
use url::Url;

use super::address::is_public;
use crate::body::{self, Body};
use crate::clock::Clock;
use crate::fhir::datatypes::parse_http_date;
use crate::upstream::connect::{self, ConnectError};

/// Largest answer that is read.
const MOST_BYTES: usize = 64 * 1024;
/// How long one may take to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what came is good whose answer says nothing of it, and how long at most.
const USUAL: Duration = Duration::from_mins(5);
const LONGEST: Duration = Duration::from_hours(1);

/// Fetches JSON.
pub(crate) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector<Outside>>, Body>,
    clock: Arc<dyn Clock>,
    private_hosts: Arc<BTreeSet<String>>,
}

/// What came.
pub(crate) struct Fetched {
    pub(crate) json: Bytes,
    /// How long its headers allow to keep it.
    pub(crate) lifetime: Duration,
}

/// Why nothing came that could be used. It is logged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("it did not come in time")]
    Slow,
    #[error("the server cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error("the answer is larger than 64 KiB, or was cut short")]
    Body,
    #[error("the answer is encoded")]
    Encoded,
    #[error("the address is private, and its host is not one of smart.jwks_private_hosts")]
    Private,
    #[error("the address cannot be asked")]
    Address,
}

impl Fetcher {
    /// `private_hosts` are those that may have addresses which nobody outside can have.
    ///
    /// # Errors
    /// If TLS cannot be set up, which is needed for `https` only.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        private_hosts: BTreeSet<String>,
        has_https: bool,
    ) -> Result<Self, ConnectError> {
        let scheme = if has_https { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP };
        let private_hosts = Arc::new(private_hosts);
        let mut tcp = HttpConnector::new_with_resolver(Outside { private_hosts: Arc::clone(&private_hosts) });
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(PATIENCE));
        let connector = HttpsConnectorBuilder::new().with_tls_config(connect::tls(&scheme)?).https_or_http();
        let connector = connector.enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client, clock, private_hosts })
    }

    /// What lies at an address.
    ///
    /// # Errors
    /// [`FetchError`] if that is not had whole and in time.
    pub(crate) async fn get(&self, uri: &Url) -> Result<Fetched, FetchError> {
        let request = Request::get(uri.as_str()).header(header::ACCEPT, "application/json");
        self.send(uri, request.body(body::empty())).await
    }

    /// What is answered to a form, of which nothing is logged.
    ///
    /// # Errors
    /// [`FetchError`] if that is not had whole and in time.
    pub(crate) async fn post(
        &self,
        uri: &Url,
        form: String,
        authorization: Option<HeaderValue>,
    ) -> Result<Bytes, FetchError> {
        let mut request = Request::post(uri.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        Ok(self.send(uri, request.body(body::full(form))).await?.json)
    }

    async fn send(&self, uri: &Url, request: http::Result<Request<Body>>) -> Result<Fetched, FetchError> {
        let request = request.map_err(|_| FetchError::Address)?;
        tokio::select! {
            asked = self.ask(uri, request) => asked,
            () = self.clock.sleep(PATIENCE) => Err(FetchError::Slow),
        }
    }

    async fn ask(&self, uri: &Url, request: Request<Body>) -> Result<Fetched, FetchError> {
        // A literal address is resolved by nobody.
        let literal = match uri.host() {
            Some(url::Host::Ipv4(address)) => Some(address.into()),
            Some(url::Host::Ipv6(address)) => Some(address.into()),
            Some(url::Host::Domain(_)) | None => None,
        };
        if literal.is_some_and(|address| !is_public(address) && !self.is_allowed(uri)) {
            return Err(FetchError::Private);
        }
        // Redirects are not followed: where they lead is not registered.
        let answer = self.client.request(request).await.map_err(FetchError::Unreachable)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        if answer.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(FetchError::Encoded);
        }
        let lifetime = lifetime(answer.headers());
        let json = Limited::new(answer.into_body(), MOST_BYTES).collect().await.map_err(|_| FetchError::Body)?;
        Ok(Fetched { json: json.to_bytes(), lifetime })
    }

    fn is_allowed(&self, uri: &Url) -> bool {
        let plain = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        uri.host_str().is_some_and(|host| self.private_hosts.contains(&plain(host)))
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

/// How long an answer may be kept (SM-020): as long as it says, and no longer than we like.
fn lifetime(headers: &HeaderMap) -> Duration {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let all = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<_> =
        all.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase()).collect();
    let forbids = |word: &String| word.starts_with("no-store") || word.starts_with("no-cache");
    if directives.iter().any(forbids) {
        return Duration::ZERO;
    }
    let max_age = directives.iter().find_map(|word| word.strip_prefix("max-age="));
    let seconds = |text: &str| text.trim_matches('"').parse().map_or(Duration::ZERO, Duration::from_secs);
    let said = match (max_age, text(header::EXPIRES)) {
        (Some(age), _) => seconds(age).saturating_sub(text(header::AGE).map_or(Duration::ZERO, seconds)),
        (None, Some(expires)) => {
            let until = parse_http_date(expires).zip(text(header::DATE).and_then(parse_http_date));
            until.map_or(Duration::ZERO, |(until, date)| {
                Duration::from_millis(u64::try_from(until.0.saturating_sub(date.0)).unwrap_or(0))
            })
        }
        (None, None) => USUAL,
    };
    said.min(LONGEST)
}

/// Resolves names to addresses outside, but for hosts that may be inside.
#[derive(Debug, Clone)]
struct Outside {
    private_hosts: Arc<BTreeSet<String>>,
}

impl Service<Name> for Outside {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let may_be_inside = self.private_hosts.contains(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<_> = found.filter(|found| may_be_inside || is_public(found.ip())).collect();
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the name has private addresses only"));
            }
            Ok(found.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SM-020
    #[test]
    fn keys_are_kept_as_long_as_their_answer_allows() {
        let date = "Thu, 01 Jan 2026 00:00:00 GMT";
        for (headers, seconds) in [
            (&[][..], 300),
            (&[("cache-control", "max-age=60")], 60),
            (&[("cache-control", "public, max-age=60")], 60),
            (&[("cache-control", "Max-Age=\"60\"")], 60),
            (&[("cache-control", "max-age=60"), ("age", "50")], 10),
            (&[("cache-control", "max-age=60"), ("age", "70")], 0),
            (&[("cache-control", "max-age=999999")], 3600),
            (&[("cache-control", "max-age=no")], 0),
            (&[("cache-control", "no-store")], 0),
            (&[("cache-control", "no-cache, max-age=60")], 0),
            (&[("cache-control", "public"), ("cache-control", "no-store")], 0),
            (&[("expires", "Thu, 01 Jan 2026 00:02:00 GMT"), ("date", date)], 120),
            (&[("expires", "Wed, 31 Dec 2025 00:02:00 GMT"), ("date", date)], 0),
            (&[("expires", "0"), ("date", date)], 0),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, http::HeaderValue::from_static(value));
            }
            assert_eq!(lifetime(&map), Duration::from_secs(seconds), "{headers:?}");
        }
    }
}
