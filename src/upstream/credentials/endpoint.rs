//! The token endpoint of the upstream's authorization server, asked as a client of SMART Backend Services.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::body::{self, Body};
use crate::clock::{self, Clock};
use crate::config::check_endpoint;
use crate::smart::private_jwk::{JWT_BEARER, PrivateKey};
use crate::smart::signing_key::CannotSign;
use crate::upstream::connect::ConnectError;
use crate::upstream::retry;
use crate::upstream::tls::SearchTls;

/// Largest answer that is read.
const MOST_BYTES: usize = 64 * 1024;
/// Longest token.
const LONGEST_TOKEN: usize = 16 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token is taken to be good whose answer does not say so.
const USUAL_LIFETIME: Duration = Duration::from_mins(1);
/// No token is kept longer.
const LONGEST_LIFETIME: Duration = Duration::from_hours(24);

/// Where the token endpoint is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// It was named; letter by letter, as assertions are addressed to it.
    Given(String),
    /// Where the upstream says.
    Discovered,
}

/// Asks for access tokens.
pub(crate) struct TokenEndpoint {
    place: Place,
    /// The upstream's FHIR base.
    base: Url,
    to_upstream: Http,
    to_others: Http,
    client_id: String,
    key: PrivateKey,
    scope: String,
    clock: Arc<dyn Clock>,
}

type Http = Client<HttpsConnector<HttpConnector>, Body>;

/// A token that was issued. (No `Debug`: whoever has it has what it opens.)
pub(super) struct Issued {
    pub(super) token: String,
    pub(super) lifetime: Duration,
}

/// Why no token was issued, and how long the server asks us to wait.
pub(super) struct NotIssued {
    pub(super) error: TokenError,
    pub(super) asked: Option<Duration>,
}

/// Why there is no token. Nothing that was sent is told, and of what came only what RFC 6749 has a name for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token endpoint did not answer in time")]
    Slow,
    #[error("the token endpoint cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the token endpoint answered with status {status}{}", named(*.error))]
    Refused { status: StatusCode, error: Option<&'static str> },
    #[error("the token endpoint's answer is larger than 64 KiB, encoded or cut short")]
    Body,
    #[error("the token endpoint's answer holds no bearer token that could be sent")]
    NoToken,
    #[error("the upstream's .well-known/smart-configuration cannot be had")]
    Discovery(#[source] Box<TokenError>),
    #[error("the upstream's .well-known/smart-configuration names no token endpoint")]
    NoEndpoint,
    #[error("the token endpoint that the upstream names {0}")]
    BadEndpoint(&'static str),
    #[error("the address of the token endpoint cannot be asked")]
    Address,
    #[error("no assertion could be signed")]
    Sign(#[from] CannotSign),
    #[error("no assertion could be made")]
    Random(#[from] clock::NoRandomness),
}

fn named(error: Option<&'static str>) -> String {
    error.map(|error| format!(" ({error})")).unwrap_or_default()
}

/// The errors of RFC 6749, section 5.2: whatever else an answer says may be anything.
const OAUTH_ERRORS: [&str; 8] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "temporarily_unavailable",
    "server_error",
];

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct OAuthError {
    error: String,
}

#[derive(Deserialize)]
struct Discovered {
    token_endpoint: Option<String>,
}

/// A number, or one written as a text, as some do.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Text(String),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Written::deserialize(deserializer)? {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is out of range is no lifetime"
        )]
        Written::Number(number) if (0.0..1e12).contains(&number) => Some(number as u64),
        Written::Text(text) => text.trim().parse().ok(),
        Written::Number(_) | Written::Other(_) => None,
    })
}

impl TokenEndpoint {
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn new(
        place: Place,
        base: Url,
        tls: &SearchTls,
        client_id: String,
        key: PrivateKey,
        scope: String,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConnectError> {
        let scheme = |scheme: &str| if scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP };
        let to_upstream = http(tls.to_upstream(&scheme(base.scheme()))?);
        let to_others = match &place {
            Place::Given(endpoint) => tls.to_others(&scheme(endpoint.split(':').next().unwrap_or_default()))?,
            // Where both are on this machine there may be no authorities to be trusted, nor a need for any.
            Place::Discovered => match tls.to_others(&Scheme::HTTPS) {
                Err(ConnectError::Roots(_)) if base.scheme() != "https" => tls.to_others(&Scheme::HTTP)?,
                other => other?,
            },
        };
        Ok(Self { place, base, to_upstream, to_others: http(to_others), client_id, key, scope, clock })
    }

    /// A new token.
    pub(super) async fn ask(&self) -> Result<Issued, NotIssued> {
        let at_once = |error| NotIssued { error, asked: None };
        let endpoint = match &self.place {
            Place::Given(endpoint) => endpoint.clone(),
            Place::Discovered => self.discover().await.map_err(at_once)?,
        };
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("scope", &self.scope)
            .append_pair("client_assertion_type", JWT_BEARER)
            .append_pair("client_assertion", &self.assertion(&endpoint).map_err(at_once)?)
            .finish();
        let request = Request::post(&endpoint)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(body::full(form))
            .map_err(|_| at_once(TokenError::Address))?;
        let (status, headers, json) = self.send(&endpoint, request).await.map_err(at_once)?;
        if status != StatusCode::OK {
            let said = serde_json::from_slice(&json).ok().map(|OAuthError { error }| error);
            let error = OAUTH_ERRORS.into_iter().find(|known| said.as_deref() == Some(*known));
            let asked = retry::asked(status, &headers, None);
            return Err(NotIssued { error: TokenError::Refused { status, error }, asked });
        }
        issued(&json).ok_or_else(|| at_once(TokenError::NoToken))
    }

    /// SMART, "Authenticating to the Token Endpoint": who we are, for this endpoint and for this once.
    fn assertion(&self, endpoint: &str) -> Result<String, TokenError> {
        let now = clock::now(&*self.clock).0.div_euclid(1_000);
        Ok(self.key.assertion(&self.client_id, endpoint, now, clock::random()?)?)
    }

    async fn discover(&self) -> Result<String, TokenError> {
        let base = self.base.as_str().trim_end_matches('/');
        let address = format!("{base}/.well-known/smart-configuration");
        let request = Request::get(&address).header(header::ACCEPT, "application/json");
        let request = request.body(body::empty()).map_err(|_| TokenError::Address)?;
        let answered = self.send(&address, request).await;
        let (status, _, json) = answered.map_err(|error| TokenError::Discovery(Box::new(error)))?;
        if status != StatusCode::OK {
            let refused = TokenError::Refused { status, error: None };
            return Err(TokenError::Discovery(Box::new(refused)));
        }
        let Discovered { token_endpoint } = serde_json::from_slice(&json).map_err(|_| TokenError::NoEndpoint)?;
        let endpoint = token_endpoint.ok_or(TokenError::NoEndpoint)?;
        let url = Url::parse(&endpoint).map_err(|_| TokenError::NoEndpoint)?;
        check_endpoint(&url, &self.base).map_err(TokenError::BadEndpoint)?;
        Ok(endpoint)
    }

    /// Redirects are not followed: what we send is for this address.
    async fn send(
        &self,
        address: &str,
        request: Request<Body>,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), TokenError> {
        let is_own = Url::parse(address).is_ok_and(|url| url.origin() == self.base.origin());
        let http = if is_own { &self.to_upstream } else { &self.to_others };
        let answer = http.request(request).await.map_err(TokenError::Unreachable)?;
        let (head, body) = answer.into_parts();
        if head.headers.contains_key(header::CONTENT_ENCODING) {
            return Err(TokenError::Body);
        }
        let body = Limited::new(body, MOST_BYTES).collect().await.map_err(|_| TokenError::Body)?;
        Ok((head.status, head.headers, body.to_bytes().to_vec()))
    }
}

fn http(tls: ClientConfig) -> Http {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
}

/// The token of an answer, if it can be sent on.
fn issued(json: &[u8]) -> Option<Issued> {
    let Answer { access_token, token_type, expires_in } = serde_json::from_slice(json).ok()?;
    let token = access_token.filter(|token| (1..=LONGEST_TOKEN).contains(&token.len()))?;
    let is_bearer = token_type.is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    let lifetime = expires_in.map_or(USUAL_LIFETIME, Duration::from_secs).min(LONGEST_LIFETIME);
    (is_bearer && token.bytes().all(|byte| byte.is_ascii_graphic()) && !lifetime.is_zero())
        .then_some(Issued { token, lifetime })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_that_is_still_good_is_taken() {
        let long = "a".repeat(LONGEST_TOKEN + 1);
        for (json, expected) in [
            (r#"{"access_token":"a.b","token_type":"bearer","expires_in":300}"#, Some(300)),
            (r#"{"access_token":"a.b","token_type":"Bearer","expires_in":"3599","scope":"x"}"#, Some(3_599)),
            (r#"{"access_token":"a.b","expires_in":300.0}"#, Some(300)),
            (r#"{"access_token":"a.b"}"#, Some(60)),
            (r#"{"access_token":"a.b","expires_in":null}"#, Some(60)),
            (r#"{"access_token":"a.b","expires_in":{}}"#, Some(60)),
            (r#"{"access_token":"a.b","expires_in":-1}"#, Some(60)),
            (r#"{"access_token":"a.b","expires_in":999999999}"#, Some(86_400)),
            (r#"{"access_token":"a.b","expires_in":0}"#, None),
            (r#"{"access_token":"a.b","token_type":"mac","expires_in":300}"#, None),
            (r#"{"access_token":"","expires_in":300}"#, None),
            (r#"{"access_token":"a b","expires_in":300}"#, None),
            (r#"{"access_token":"a\r\nX: y","expires_in":300}"#, None),
            (r#"{"token_type":"bearer"}"#, None),
            ("<html>", None),
            (&format!(r#"{{"access_token":"{long}"}}"#), None),
        ] {
            let issued = issued(json.as_bytes());
            assert_eq!(issued.map(|issued| issued.lifetime.as_secs()), expected, "{json}");
        }
    }
}
