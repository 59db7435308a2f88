//! What operators see: a page, health and metrics, on a listener of their own that answers nobody without its token (SEC-10).
//!
//! It reads and changes nothing. What it shows is counts, options and reasons: no patient, no client, no export by its id.

mod connections;
mod found;
mod metrics;
mod page;
mod snapshot;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::connections::{Connections, Place};
pub(crate) use self::found::Found;
pub(crate) use self::snapshot::{Jobs, Snapshot};
use crate::body::{self, Body};
use crate::http::heads::Heads;
use crate::http::problem::Problem;

/// Connections at a time, of all and of one address. A further one takes the place of the oldest that has not asked yet.
const CONNECTIONS: usize = 64;
const CONNECTIONS_OF_A_PEER: usize = 16;
/// How long a head may take, and a connection with its one answer.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after the listener could not accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every request has to show: its digest, so that nothing of it is told by how long a comparison takes.
#[derive(Clone, Copy)]
pub(crate) struct Token([u8; 32]);

/// The token in use; none as long as it could not be read. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Key(Arc<RwLock<Option<Token>>>);

type Glance = dyn Fn() -> Snapshot + Send + Sync;
type Look = dyn Fn(Snapshot) -> BoxFuture<'static, Snapshot> + Send + Sync;

/// Answers operators. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admin {
    key: Key,
    glance: Arc<Glance>,
    look: Arc<Look>,
}

impl Token {
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut own = [0; 32];
        own.copy_from_slice(digest(&SHA256, text).as_ref());
        Self(own)
    }

    fn is(&self, shown: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, &Self::new(shown).0).is_ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Key {
    /// From now on this one counts, and no other.
    pub(crate) fn replace(&self, token: Token) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    /// Whether it is this one.
    #[cfg(test)]
    pub(crate) fn is(&self, token: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some_and(|own| own.is(token.as_bytes()))
    }

    /// Whether a request shows it.
    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = *self.0.read().unwrap_or_else(PoisonError::into_inner) else {
            return Err(Problem::unavailable("the token of this listener cannot be read"));
        };
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let is_shown = match (shown.next(), shown.next()) {
            (Some(shown), None) => secret_of(shown.as_bytes()).is_some_and(|secret| token.is(&secret)),
            _ => false,
        };
        if is_shown { Ok(()) } else { Err(Problem::not_an_operator()) }
    }
}

/// The token of `Bearer`, or the password of `Basic`, whoever the user is.
fn secret_of(authorization: &[u8]) -> Option<Vec<u8>> {
    let blank = authorization.iter().position(|byte| *byte == b' ')?;
    let (scheme, value) = (&authorization[..blank], authorization[blank..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"Bearer") {
        return Some(value.to_owned());
    }
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(value).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_owned())
}

impl Admin {
    /// `glance` says what is known at once, whatever disks and stores do, and `look` adds to it what they say.
    pub(crate) fn new(
        key: Key,
        glance: impl Fn() -> Snapshot + Send + Sync + 'static,
        look: impl Fn(Snapshot) -> BoxFuture<'static, Snapshot> + Send + Sync + 'static,
    ) -> Self {
        Self { key, glance: Arc::new(glance), look: Arc::new(look) }
    }

    /// Answers one request, of which only the head is read.
    async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let mut answer = match self.key.check(request.headers()) {
            Ok(()) => self.page(request.method(), request.uri().path()).await.unwrap_or_else(Problem::into_response),
            Err(problem) => problem.into_response(),
        };
        let is_refused = answer.status() == StatusCode::UNAUTHORIZED;
        let headers = answer.headers_mut();
        if is_refused {
            // A browser asks for a password; all others read the second.
            for challenge in ["Basic realm=\"offtake admin\", charset=\"UTF-8\"", "Bearer realm=\"offtake admin\""] {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        for (name, value) in EVERYWHERE {
            headers.insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn page(&self, method: &Method, path: &str) -> Result<Response<Body>, Problem> {
        let shown = match path {
            "/" => Shown::All(page::answer),
            "/health/live" => Shown::Life,
            "/health/ready" => Shown::Readiness,
            "/metrics" => Shown::All(metrics::answer),
            _ => return Err(Problem::nothing_here()),
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Problem::method_not_allowed("GET, HEAD"));
        }
        Ok(match shown {
            // However all else stands: nothing is looked at.
            Shown::Life => said(StatusCode::OK, &json!({ "live": true })),
            // A disk that hangs is no reason to close the way to the server.
            Shown::Readiness => ready(&(self.glance)()),
            Shown::All(make) => make(&(self.look)((self.glance)()).await),
        })
    }
}

/// What of all that is known an answer needs.
#[derive(Clone, Copy)]
enum Shown {
    Life,
    Readiness,
    All(fn(&Snapshot) -> Response<Body>),
}

/// On every answer: it is for whoever has asked, as it is now, and it brings nothing from anywhere else.
const EVERYWHERE: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Whether requests should be sent here. Those that pass through are served whatever becomes of bulk requests: an orchestrator
/// that goes by this must not close the way to the server for them.
fn ready(snapshot: &Snapshot) -> Response<Body> {
    let reasons = snapshot.reasons();
    // That the ledger can be written again is seen by requests alone: they must not be kept away for that.
    let is_ready = snapshot.refused.is_empty() || snapshot.passes_through;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    said(
        status,
        &json!({ "ready": is_ready, "passThrough": snapshot.passes_through, "bulk": reasons.is_empty(), "reasons": reasons }),
    )
}

fn said(status: StatusCode, what: &serde_json::Value) -> Response<Body> {
    let mut answer = Response::new(body::full(what.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// Serves connections until `shutdown`. There are few, each for one request, and none for long.
pub(crate) async fn serve(listener: TcpListener, admin: Admin, shutdown: impl Future<Output = ()>) {
    let mut places = Connections::new(CONNECTIONS, CONNECTIONS_OF_A_PEER);
    // Dropped, it ends them all: nobody waits for an answer from here.
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept an operator's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = places.take(peer.ip()) else {
            tracing::info!("an operator's connection was closed: as many are being answered as may be");
            continue;
        };
        let (admin, known) = (admin.clone(), Arc::downgrade(&place));
        let connection = connections.spawn(async move {
            let _ended_by_itself =
                tokio::time::timeout(CONNECTION_TIMEOUT, converse(stream, peer, admin, &place)).await;
        });
        places.add(peer.ip(), known, connection);
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, admin: Admin, place: &Place) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(16 * 1024).keep_alive(false);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        place.has_asked();
        let admin = admin.clone();
        async move {
            let answer = admin.answer(&request).await;
            if answer.status() == StatusCode::UNAUTHORIZED {
                tracing::info!(peer = %peer.ip(), "a request to the admin listener was refused: it does not show the token");
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    if let Err(error) = server.serve_connection(TokioIo::new(Heads::new(stream)), service).await {
        tracing::debug!(%error, "an operator's connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn request(method: &str, path: &str, authorizations: &[&str]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(path);
        for authorization in authorizations {
            request = request.header(header::AUTHORIZATION, *authorization);
        }
        request.body(()).expect("a request")
    }

    fn admin(snapshot: Snapshot) -> Admin {
        let key = Key::default();
        key.replace(Token::new(TOKEN.as_bytes()));
        Admin::new(key, move || snapshot.clone(), |snapshot| Box::pin(std::future::ready(snapshot)))
    }

    /// SEC-10
    #[tokio::test]
    async fn nobody_is_answered_without_the_token_whatever_they_ask_for() {
        let admin = admin(Snapshot::default());
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        let (bearer, password) = (format!("Bearer {TOKEN}"), basic(&format!("anybody:{TOKEN}")));
        for path in ["/", "/metrics", "/health/live", "/health/ready", "/elsewhere", "/?access_token=x"] {
            let expected = if path == "/elsewhere" { 404 } else { 200 };
            for (shown, expected) in [
                (&[bearer.as_str()][..], expected),
                (&[password.as_str()], expected),
                (&[&format!("bearer  {TOKEN}") as &str], expected),
                (&[], 401),
                (&[TOKEN], 401),
                (&["Bearer"], 401),
                (&["Bearer "], 401),
                (&[&format!("Bearer {}", &TOKEN[1..])], 401),
                (&[&format!("Bearer {TOKEN}0")], 401),
                (&[&format!("Digest {TOKEN}")], 401),
                (&[&basic(TOKEN)], 401),
                (&[&basic(&format!("{TOKEN}:"))], 401),
                (&["Basic !"], 401),
                (&[bearer.as_str(), bearer.as_str()], 401),
            ] {
                let answer = admin.answer(&request("GET", path, shown)).await;
                assert_eq!(answer.status().as_u16(), expected, "{path} {shown:?}");
                assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
                let challenges = answer.headers().get_all(header::WWW_AUTHENTICATE).iter().count();
                assert_eq!(challenges, if expected == 401 { 2 } else { 0 });
            }
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(admin.answer(&request(method, "/", &[])).await.status(), 401, "{method}");
            assert_eq!(admin.answer(&request(method, "/", &[&bearer])).await.status(), 405, "{method}");
        }
        admin.key.replace(Token::new(b"another one of thirty-two characters"));
        assert_eq!(admin.answer(&request("GET", "/", &[&bearer])).await.status(), 401, "it was replaced");
        let unread = Admin { key: Key::default(), ..admin };
        for shown in [&[bearer.as_str()][..], &["Bearer "], &[]] {
            assert_eq!(unread.answer(&request("GET", "/", shown)).await.status(), 503, "{shown:?}");
        }
        assert_eq!(
            format!("{:?} {:?}", Token::new(b"a"), unread.key),
            "Token Key(RwLock { data: None, poisoned: false, .. })"
        );
    }

    /// What passes through is served whatever becomes of bulk requests.
    #[tokio::test]
    async fn readiness_says_what_is_refused_and_closes_the_way_to_the_server_for_nothing() {
        let bearer = format!("Bearer {TOKEN}");
        for (passes_through, refused, expected) in [
            (true, vec![], 200),
            (true, vec!["it is away"], 200),
            (false, vec![], 200),
            (false, vec!["it is away"], 503),
        ] {
            let mut admin = admin(Snapshot { passes_through, refused: refused.clone(), ..Snapshot::default() });
            // Whatever disks and stores do.
            admin.look = Arc::new(|_| Box::pin(std::future::pending()));
            let answer = admin.answer(&request("GET", "/health/ready", &[&bearer])).await;
            assert_eq!(answer.status().as_u16(), expected, "{passes_through} {refused:?}");
            let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body").to_bytes();
            let said: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(said["reasons"], json!(refused));
            assert_eq!(said["bulk"], json!(refused.is_empty()));
        }
        let snapshot = Snapshot { ledger_fails: true, ..Snapshot::default() };
        let answer = ready(&snapshot);
        assert_eq!(answer.status(), 200, "requests have to find out when it can be written again");
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body").to_bytes();
        assert!(body.starts_with(br#"{"bulk":false,"#), "{body:?}");
    }
}
