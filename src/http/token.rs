//! The authorization server's own routes: token endpoint, introspection, keys and discovery.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::Edge;
use super::body::{self, Body, BoxError};
use super::places::Place;
use super::problem::Problem;
use super::witness::{self, Code};
use crate::bulk::route::SmartRoute;
use crate::clock;
use crate::engine::Engine;
use crate::job::store::StoreError;
use crate::smart::assertion::{AssertionError, Authenticated, Use};
use crate::smart::client::ClientId;
use crate::smart::external::ExternalIssuer;
use crate::smart::form::Form;
use crate::smart::server::{AuthorizationServer, Checked, IssueError};
use crate::telemetry::error_chain;

/// Largest form: an assertion of 16 kB and long scopes.
const MOST_BODY_BYTES: usize = 64 * 1024;
/// How long a form may take to come, and a request to get its turn.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// RFC 7523
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An error of RFC 6749, section 5.2.
#[derive(Debug)]
enum OAuthError {
    InvalidRequest(String),
    /// One answer for all that is wrong with a client (SEC-12).
    InvalidClient,
    /// The same for one that has tried to prove who it is in a way that we do not know.
    OtherAuthentication,
    UnsupportedGrantType,
    InvalidScope(String),
    /// Something that we depend on cannot be used at the moment.
    Unavailable,
}

impl OAuthError {
    fn into_response(self) -> Response<Body> {
        let (status, error, description) = match &self {
            Self::InvalidRequest(text) => (StatusCode::BAD_REQUEST, "invalid_request", text.as_str()),
            Self::InvalidClient => (StatusCode::BAD_REQUEST, "invalid_client", "the client could not be authenticated"),
            Self::OtherAuthentication => (
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "clients are authenticated by private_key_jwt only, without an Authorization header",
            ),
            Self::UnsupportedGrantType => (
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "the grant_type is client_credentials, and no other",
            ),
            Self::InvalidScope(text) => (StatusCode::BAD_REQUEST, "invalid_scope", text.as_str()),
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", "tokens cannot be issued at the moment")
            }
        };
        let mut answer = answer(&json!({ "error": error, "error_description": description }).to_string());
        *answer.status_mut() = status;
        answer.extensions_mut().insert(Code(error));
        let headers = answer.headers_mut();
        match self {
            Self::OtherAuthentication => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            }
            Self::InvalidRequest(_) | Self::InvalidClient | Self::UnsupportedGrantType | Self::InvalidScope(_) => {}
        }
        answer
    }
}

/// JSON that nobody may keep (SM-028).
fn answer(json: &str) -> Response<Body> {
    let mut answer = Response::new(body::full(json.to_owned()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    answer
}

/// JSON that may be kept for a while.
fn document(json: String) -> Response<Body> {
    let mut answer = Response::new(body::full(json));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    answer
}

/// Answers a request to one of the routes of the authorization server.
pub(super) async fn smart<B>(
    edge: &Arc<Edge>,
    server: &Arc<AuthorizationServer>,
    route: SmartRoute,
    head: Parts,
    sent: B,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    match route {
        SmartRoute::Discovery if is_read => document(server.document()),
        SmartRoute::Keys if is_read => document(server.jwks()),
        SmartRoute::Discovery | SmartRoute::Keys => Problem::method_not_allowed("GET, HEAD").into_response(),
        SmartRoute::Token | SmartRoute::Introspection if head.method != Method::POST => {
            Problem::method_not_allowed("POST").into_response()
        }
        SmartRoute::Token => form_answered(edge, server, FormRoute::Token, head, sent).await,
        SmartRoute::Introspection => form_answered(edge, server, FormRoute::Introspection, head, sent).await,
    }
}

/// A route that forms are sent to.
#[derive(Clone, Copy)]
enum FormRoute {
    Token,
    Introspection,
}

/// Answers a form where exports work: ordinary requests do not wait for what it costs a processor.
async fn form_answered<B>(
    edge: &Arc<Edge>,
    server: &Arc<AuthorizationServer>,
    route: FormRoute,
    head: Parts,
    sent: B,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let Came { body, place, turn } = match came(edge, &head, sent).await {
        Ok(came) => came,
        Err(error) => return error.into_response(),
    };
    let (there, server) = (Arc::clone(edge), Arc::clone(server));
    let answering = async move {
        // Both go along with the work, whoever still waits for its end.
        let _held = (place, turn);
        let form = Form::parse(&body).map_err(|error| OAuthError::InvalidRequest(error.to_string()))?;
        match route {
            FormRoute::Token => token(&there, &server, &head, &form).await,
            FormRoute::Introspection => introspect(&there, &server, &form).await,
        }
    };
    let answered = edge.runtime.spawn(answering.in_current_span()).await;
    answered.unwrap_or(Err(OAuthError::Unavailable)).unwrap_or_else(OAuthError::into_response)
}

/// The answer of the token endpoint while no token can be issued.
pub(super) fn unavailable() -> Response<Body> {
    OAuthError::Unavailable.into_response()
}

/// Where an issuer gives tokens to our clients.
pub(super) async fn discovery(issuer: &ExternalIssuer) -> Response<Body> {
    match issuer.document().await {
        Some(json) => document(json),
        None => Problem::unavailable("it is not known at the moment where access tokens are issued").into_response(),
    }
}

/// Whether an upstream has something to say of its authorization, or cannot say it at the moment.
pub(super) fn says_something<B>(answer: &Response<B>) -> bool {
    let media = answer.headers().get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let is_json = media.split(';').next().is_some_and(|media| media.trim().ends_with("json"));
    match answer.status() {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
        status if status.is_client_error() => false,
        status if status.is_success() => is_json,
        // It is led on, unchanged, or away.
        _ => true,
    }
}

/// SM-011 to SM-029
async fn token(
    edge: &Edge,
    server: &AuthorizationServer,
    head: &Parts,
    form: &Form,
) -> Result<Response<Body>, OAuthError> {
    match form.get("grant_type") {
        Some("client_credentials") => {}
        Some(_) => return Err(OAuthError::UnsupportedGrantType),
        None => return Err(OAuthError::InvalidRequest("grant_type is missing".to_owned())),
    }
    let client = authenticate(edge, server, form).await?;
    witness::saw(head, client.client(), None);
    let jti = clock::random().map_err(|_| OAuthError::Unavailable)?;
    let issued = server.issue(&client, form.get("scope").unwrap_or_default(), jti).map_err(|error| match error {
        IssueError::Scope(scope) => OAuthError::InvalidScope(format!("the scope {scope}")),
        IssueError::Revoked => OAuthError::InvalidClient,
        IssueError::Sign(error) => {
            tracing::error!(error = error_chain(&error), "an access token could not be signed");
            OAuthError::Unavailable
        }
    })?;
    // SEC-41: what a scope narrows by may tell of patients.
    let scopes = issued.scopes.hiding(|_| "-".to_owned());
    tracing::info!(client = %client.client(), scope = %scopes, "an access token was issued");
    let json = json!({
        "access_token": issued.token,
        "token_type": "bearer",
        "expires_in": issued.lifetime.as_secs(),
        "scope": issued.scopes.to_string(),
    });
    Ok(answer(&json.to_string()))
}

/// RFC 7662, SM-038. A client learns about its own tokens only.
async fn introspect(edge: &Edge, server: &AuthorizationServer, form: &Form) -> Result<Response<Body>, OAuthError> {
    let token = form.get("token").ok_or_else(|| OAuthError::InvalidRequest("token is missing".to_owned()))?;
    let client = authenticate(edge, server, form).await?;
    let json = match server.inspect(token).ok().filter(|token| token.client == *client.client()) {
        Some(token) => json!({
            "active": true,
            "scope": token.scopes.to_string(),
            "client_id": token.client.as_str(),
            "sub": token.client.as_str(),
            "iss": server.endpoints().base,
            "aud": server.endpoints().base,
            "iat": token.issued,
            "exp": token.expires,
            "token_type": "bearer",
        }),
        None => json!({ "active": false }),
    };
    Ok(answer(&json.to_string()))
}

/// The body of a form that has come whole, its place and its turn. A peer has no more of them than places.
struct Came {
    body: Bytes,
    place: Place,
    turn: OwnedSemaphorePermit,
}

/// The body of a request whose parameters stand there and nowhere else, and its turn: nobody who is silent takes one (SEC-06).
async fn came<B>(edge: &Edge, head: &Parts, sent: B) -> Result<Came, OAuthError>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let invalid = |text: &str| OAuthError::InvalidRequest(text.to_owned());
    if head.headers.contains_key(header::AUTHORIZATION) {
        return Err(OAuthError::OtherAuthentication);
    }
    if head.uri.query().is_some() {
        return Err(invalid("parameters stand in the body, not in the URL"));
    }
    let mut types = head.headers.get_all(header::CONTENT_TYPE).iter();
    let media = match (types.next(), types.next()) {
        (Some(media), None) => media.to_str().unwrap_or_default(),
        _ => "",
    };
    let media = media.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        || head.headers.contains_key(header::CONTENT_ENCODING)
    {
        return Err(invalid("the body is application/x-www-form-urlencoded, and not encoded"));
    }
    if sent.size_hint().lower() > MOST_BODY_BYTES as u64 {
        return Err(invalid("the body is larger than 64 KiB"));
    }
    let read = async {
        let place = edge.coming.take(witness::peer(head)).await.map_err(|_| OAuthError::Unavailable)?;
        let read = Limited::new(sent, MOST_BODY_BYTES).collect().await;
        let body = read.map_err(|_| invalid("the body is larger than 64 KiB, or was cut short"))?.to_bytes();
        Ok((body, place))
    };
    let (body, place) = tokio::select! {
        read = read => read?,
        () = edge.clock.sleep(BODY_PATIENCE) => return Err(OAuthError::Unavailable),
    };
    let turn = tokio::select! {
        turn = Arc::clone(&edge.forms).acquire_owned() => turn.map_err(|_| OAuthError::Unavailable)?,
        () = edge.clock.sleep(BODY_PATIENCE) => return Err(OAuthError::Unavailable),
    };
    Ok(Came { body, place, turn })
}

/// The client that a form proves to come from. Whatever is wrong, the answer is the same, and so is the work: one
/// signature and one look into the store (SEC-12). Only who shows what the client has signed learns that nobody knows yet whether
/// it was used before.
async fn authenticate(edge: &Edge, server: &AuthorizationServer, form: &Form) -> Result<Authenticated, OAuthError> {
    let missing = |name: &str| OAuthError::InvalidRequest(format!("{name} is missing"));
    let kind = form.get("client_assertion_type").ok_or_else(|| missing("client_assertion_type"))?;
    let assertion = form.get("client_assertion").ok_or_else(|| missing("client_assertion"))?;
    let engine = edge.engine_in_any_case().await.map_err(|_| OAuthError::Unavailable)?;
    let unavailable = |error| {
        tracing::error!(error = error_chain(&error), "the job store failed under a token request");
        OAuthError::Unavailable
    };
    edge.check_clock().map_err(|_| OAuthError::Unavailable)?;
    let since = engine.remembered_since().await.map_err(unavailable)?;
    if kind != JWT_BEARER {
        return Err(OAuthError::InvalidClient);
    }
    let Checked { hash, result } = server.check(assertion, form.get("client_id"), since).await;
    let was_used = engine.was_used(hash).await.map_err(unavailable)?;
    let authenticated = match result {
        Ok(_) if was_used => Err(AssertionError::Replayed),
        Err(AssertionError::Forgotten) if was_used => Err(AssertionError::Replayed),
        Ok((client, assertion)) => use_up(&engine, client, assertion).await.map_err(unavailable)?,
        Err(error) => Err(error),
    };
    authenticated.map_err(|error| {
        tracing::info!(reason = %error, "a client was not authenticated");
        match error {
            // It is signed by the client: one that is signed in a while will be good.
            AssertionError::Forgotten => OAuthError::Unavailable,
            _ => OAuthError::InvalidClient,
        }
    })
}

async fn use_up(
    engine: &Engine,
    client: ClientId,
    assertion: Use,
) -> Result<Result<Authenticated, AssertionError>, StoreError> {
    let is_first = engine.use_once(assertion).await?;
    Ok(Authenticated::by(client, is_first))
}
