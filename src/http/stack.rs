//! The whole middleware order on one screen, a reason beside each layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
#[cfg(target_os = "linux")]
use rustix::net::sockopt;
use tokio::net::TcpListener;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

use super::authorize;
use super::body::{self, Body, BoxError};
use super::carried;
use super::desk::Desk;
use super::door::Door;
use super::guard;
use super::heads::Heads;
use super::problem::Problem;
use super::stalls::{self, Watched};
use super::statement;
use super::token;
use super::witness::{self, Witness};
use super::{Access, Edge};
use crate::bulk::cohort::CohortId;
use crate::bulk::route::{BasePaths, BulkRoute, PathRefused, Route, SmartRoute};
use crate::fhir::datatypes::Id;
use crate::job::JobId;
use crate::ledger::record::Asked;
use crate::proxy::{PeerAddr, ProxyError};
use crate::smart::external::ExternalIssuer;

/// How long requests under way may take to end once the process is told to stop.
const GRACE: Duration = Duration::from_secs(20);
/// A client that has not sent its whole head by then is dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may say nothing until its client is asked whether it is still there.
const LOST_AFTER: Duration = Duration::from_mins(1);
/// Pause after the listener could not accept: most often no file descriptor was free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Puts the bulk routes before any service. Requests that are not ours go to that service untouched: also all whose
/// path lies outside of the FHIR base. Refused are only paths that could be taken for one of ours and are not.
#[derive(Debug, Clone)]
pub struct OfftakeLayer {
    desk: Desk,
    bases: Arc<BasePaths>,
    door: Door,
}

impl OfftakeLayer {
    pub(crate) fn new(desk: Desk, bases: BasePaths) -> Self {
        Self { desk, bases: Arc::new(bases), door: Door::Open }
    }

    /// The same behind a door.
    pub(crate) fn behind(self, door: Door) -> Self {
        Self { door, ..self }
    }
}

impl<S> Layer<S> for OfftakeLayer {
    type Service = Diverted<S>;

    fn layer(&self, upstream: S) -> Self::Service {
        let Self { desk, bases, door } = self.clone();
        Diverted { desk, bases, door, upstream }
    }
}

type Answering<E> = BoxFuture<'static, Result<Response<Body>, E>>;

/// Sends Bulk Data requests to the export service and every other one on.
#[derive(Debug, Clone)]
pub struct Diverted<S> {
    desk: Desk,
    bases: Arc<BasePaths>,
    door: Door,
    upstream: S,
}

impl<S> Diverted<S> {
    /// Has a request answered by whatever stands behind us.
    fn pass_on<B, R>(&self, request: Request<B>) -> Answering<S::Error>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        B: Send + 'static,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let answer = self.upstream.clone().oneshot(request);
        Box::pin(async move { Ok(answer.await?.map(body::map)) })
    }

    /// What is asked of cohorts of ours. SEC-25: where requests pass through as well it is there for those alone who show a
    /// token of ours, or for everybody if nobody has one.
    fn own_cohort<B>(&self, edge: &Edge, request: &Request<B>) -> Option<BulkRoute> {
        let by_clients = edge.most_cohorts.is_some();
        if edge.cohorts.is_empty() && !by_clients {
            return None;
        }
        let below = request.uri().path().strip_prefix(self.bases.ours())?.strip_prefix("/Group")?;
        let route = match (below.strip_prefix('/'), request.method()) {
            (Some(id), &(Method::GET | Method::HEAD)) => BulkRoute::Cohort(Id::parse(id).ok()?),
            (Some(id), &Method::DELETE) if by_clients => {
                let id = Id::parse(id).ok().filter(|id| CohortId::of(id).is_some())?;
                BulkRoute::DeleteCohort(id)
            }
            (None, &Method::POST) if by_clients && below.is_empty() => BulkRoute::MakeCohort,
            (None, &(Method::GET | Method::HEAD)) if by_clients && below.is_empty() => BulkRoute::FindCohorts,
            (Some(_) | None, _) => return None,
        };
        // Whoever has a token of ours is answered alike whether there is none of this name or none for them.
        let is_ours = self.bases.are_apart()
            || match &edge.access {
                Access::Open { .. } => matches!(&route, BulkRoute::Cohort(id) if edge.cohorts.get(id).is_some()),
                Access::Server(server) => carried::carries_our_token(&server.endpoints().base, request),
                Access::External(_) => false,
            };
        is_ours.then_some(route)
    }

    /// Refuses a request whatever it holds.
    fn refuse<E, B: Send + 'static>(&self, request: Request<B>, asked: Asked, problem: Problem) -> Answering<E> {
        let ledger = self.desk.ledger.clone();
        let witness = Witness::of(&mut request.into_parts().0.extensions, (asked, None));
        Box::pin(async move { Ok(witness.tell(&ledger, problem.into_response()).await) })
    }

    /// What the upstream says of its authorization, and where it says nothing, where the issuer of our clients' tokens is.
    fn discover<B, R>(&self, request: Request<B>, issuer: Arc<ExternalIssuer>) -> Answering<S::Error>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        B: Send + 'static,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let upstream = self.pass_on(request);
        Box::pin(async move {
            let answer = upstream.await?;
            Ok(if is_read && !token::says_something(&answer) { token::discovery(&issuer).await } else { answer })
        })
    }

    /// Passes a request on, unless it carries an access token of ours. What the server can do is read by anybody, and clients
    /// show their token there as well: it stays here.
    fn pass_on_without_ours<B, R>(&self, mut request: Request<B>) -> Answering<S::Error>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        B: Send + 'static,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let tokens_of = self.desk.tokens_of();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if is_read
            && request.uri().path().strip_prefix(self.bases.ours()) == Some("/metadata")
            && tokens_of.is_some_and(|base| carried::is_by_our_token(base, &request))
        {
            request.headers_mut().remove(AUTHORIZATION);
        }
        match tokens_of {
            Some(base) if carried::carries_our_token(base, &request) => {
                tracing::info!("a request that is no bulk request was refused: it carries an access token of ours");
                self.refuse(request, Asked::PassThrough, authorize::ours_is_not_for_others(base))
            }
            _ => self.pass_on(request),
        }
    }

    /// Answers a request while nobody handles those to our routes.
    fn answer_unattended<B, R>(&self, request: Request<B>, routed: Result<Route, PathRefused>) -> Answering<S::Error>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        B: Send + 'static,
        R: http_body::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let answer = match routed {
            Err(PathRefused::OutsideBase) | Ok(Route::Upstream) => return self.pass_on_without_ours(request),
            Err(refused) => return self.refuse(request, Asked::Path, refused.into()),
            Ok(Route::Nowhere) => return self.refuse(request, Asked::Path, Problem::nothing_here()),
            Ok(Route::Smart(SmartRoute::Discovery)) if self.desk.tokens_of().is_none() && !self.bases.are_apart() => {
                return self.pass_on(request);
            }
            Ok(Route::Smart(SmartRoute::Token | SmartRoute::Introspection)) if self.desk.tokens_of().is_some() => {
                token::unavailable()
            }
            Ok(Route::Bulk(_) | Route::Statement | Route::Smart(_)) => Problem::unavailable(
                "bulk requests cannot be answered at the moment: a file that they need cannot be used",
            )
            .into_response(),
        };
        Box::pin(async move { Ok(answer) })
    }

    /// Answers a request to one of our own routes, unless its headers alone refuse it.
    fn answer<E, B: Send + 'static>(
        &self,
        edge: &Arc<Edge>,
        mut request: Request<B>,
        asked: (Asked, Option<JobId>),
        handle: impl FnOnce(Arc<Edge>, Request<B>) -> BoxFuture<'static, Response<Body>> + Send + 'static,
    ) -> Answering<E> {
        let (edge, door) = (Arc::clone(edge), self.door.clone());
        let seat = match edge.seats.take(witness::peer_of(request.extensions())) {
            Ok(seat) => seat,
            Err(none) => {
                tracing::info!(reason = %none, "a bulk request was refused");
                return self.refuse(request, asked.0, none.into());
            }
        };
        let witness = Witness::of(request.extensions_mut(), asked);
        Box::pin(async move {
            let answer = if let Err(refused) = guard::check(&request, edge.exposure()) {
                tracing::info!(reason = %refused, "a bulk request was refused by its headers");
                Problem::from(refused).into_response()
            } else if let Err(closed) = door.enter().await {
                tracing::info!(reason = %closed, "a bulk request was refused");
                // It may be let in later, and is refused now all the same (SEC-02).
                return Ok(witness.record(&edge.ledger, Problem::from(closed).into_response()).await);
            } else if let Err(unknown) = edge.key_files.take_up(&edge.runtime, &*edge.clock).await {
                unknown.into_response()
            } else {
                handle(Arc::clone(&edge), request).await
            };
            Ok(seat.until_gone(witness.tell(&edge.ledger, answer).await))
        })
    }
}

impl<S, B, R> Service<Request<B>> for Diverted<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // `oneshot` awaits readiness on the side that is called: a busy export must not hold back ordinary
        // traffic, nor the reverse.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let routed = BulkRoute::of(request.method(), request.uri().path(), &self.bases);
        let Some(edge) = self.desk.edge() else { return self.answer_unattended(request, routed) };
        let routed = match (routed, self.own_cohort(edge, &request)) {
            (Ok(Route::Upstream | Route::Nowhere), Some(route)) => Ok(Route::Bulk(route)),
            (routed, _) => routed,
        };
        match (routed, &edge.access) {
            (Ok(Route::Nowhere), _) => self.refuse(request, Asked::Path, Problem::nothing_here()),
            (Ok(Route::Smart(_)), Access::Open { .. }) if self.bases.are_apart() => {
                self.refuse(request, Asked::Path, Problem::nothing_here())
            }
            (Ok(Route::Smart(SmartRoute::Discovery)), Access::External(issuer)) if self.bases.are_apart() => {
                let issuer = Arc::clone(issuer);
                self.answer(edge, request, (Asked::Other, None), move |_edge, request| {
                    Box::pin(async move {
                        match *request.method() {
                            Method::GET | Method::HEAD => token::discovery(&issuer).await,
                            _ => Problem::method_not_allowed("GET, HEAD").into_response(),
                        }
                    })
                })
            }
            (Ok(Route::Statement), _) => {
                let (method, asked) = (request.method().clone(), request.headers().clone());
                self.answer(edge, request, (Asked::Other, None), |edge, _request| {
                    Box::pin(async move { statement::answer(&edge, &method, &asked).await })
                })
            }
            // Whoever embeds the layer may serve more than FHIR: a path outside of the base is the service's own. So are
            // tokens that we did not issue.
            (Err(PathRefused::OutsideBase) | Ok(Route::Upstream), _) => self.pass_on_without_ours(request),
            // What the upstream says of its own authorization is its own, where we issue no tokens.
            (Ok(Route::Smart(SmartRoute::Discovery)), Access::Open { .. }) => self.pass_on(request),
            (Ok(Route::Smart(SmartRoute::Discovery)), Access::External(issuer)) => {
                self.discover(request, Arc::clone(issuer))
            }
            (Ok(Route::Bulk(route)), _) => {
                let asked = witness::asked(&route);
                self.answer(edge, request, asked, |edge, request| {
                    Box::pin(async move { edge.answer(route, request).await })
                })
            }
            (Ok(Route::Smart(route)), Access::Server(server)) => {
                let server = Arc::clone(server);
                self.answer(edge, request, witness::asked_of_server(route), move |edge, request| {
                    let (head, sent) = request.into_parts();
                    Box::pin(async move { token::smart(&edge, &server, route, head, sent).await })
                })
            }
            (Ok(Route::Smart(_)), Access::External(_)) => {
                self.refuse(request, Asked::Path, Problem::no_such_endpoint())
            }
            (Ok(Route::Smart(_)), Access::Open { .. }) => {
                self.refuse(request, Asked::Path, PathRefused::ForeignOperation.into())
            }
            (Err(refused), _) => self.refuse(request, Asked::Path, refused.into()),
        }
    }
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response<Body> {
    // What the panic says went to the log; it may hold anything.
    Problem::internal().into_response()
}

/// Leaves no error: one would end the connection.
#[expect(clippy::unnecessary_wraps, reason = "what maps a service's results has to keep the type of its errors")]
fn answered(passed: Result<Response<Body>, ProxyError>) -> Result<Response<Body>, ProxyError> {
    Ok(passed.unwrap_or_else(|error| Problem::from(error).into_response()))
}

/// Where requests go that are not ours.
pub(crate) type Behind = BoxCloneService<Request<Body>, Response<Body>, ProxyError>;

/// Nothing is behind us.
pub(crate) fn nothing() -> Behind {
    let nothing = service_fn(|_: Request<Body>| std::future::ready(Ok(Problem::nothing_here().into_response())));
    Behind::new(nothing)
}

/// Serves connections until `shutdown`, then lets the requests under way end.
pub(crate) async fn serve(
    listener: TcpListener,
    layer: &OfftakeLayer,
    upstream: Behind,
    shutdown: impl Future<Output = ()>,
) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(128 * 1024);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(LOST_AFTER)
        // What it asked for lies before that question on a slow line.
        .keep_alive_timeout(stalls::PATIENCE);
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small answers leave at once; a socket that is gone already tells so when it is read.
        let _best_effort = stream.set_nodelay(true);
        // A client that is lost without a word is noticed as well.
        #[cfg(target_os = "linux")]
        let _best_effort =
            sockopt::set_socket_keepalive(&stream, true).and_then(|()| sockopt::set_tcp_keepidle(&stream, LOST_AFTER));
        let stream = Watched::new(stream);
        let taking = stream.taking();
        // What two readers could read differently is spoilt before it is parsed.
        let stream = Heads::new(stream);
        let tunnel = stream.tunnel_switch();
        let asked = Arc::new(AtomicBool::new(false));
        let has_asked = Arc::clone(&asked);
        let service = ServiceBuilder::new()
            // Outermost: a bug answers 500 and the connection lives on.
            .layer(CatchPanicLayer::custom(panicked))
            // What could not be passed through is answered from the one table.
            .map_result(answered)
            // The proxy writes the peer into forwarding headers.
            .map_request(move |mut request: Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(PeerAddr(peer));
                request.extensions_mut().insert(tunnel.clone());
                request.map(body::map)
            })
            // Bulk requests end here; all others go on to the upstream.
            .layer(layer.clone())
            .service(upstream.clone());
        // Its whole type could not be told from the outside.
        let service: BoxCloneService<Request<Incoming>, Response<_>, ProxyError> = BoxCloneService::new(service);
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            // Before its first bytes have shown which protocol it speaks, nothing else watches a connection.
            let silent = async {
                tokio::time::sleep(HEAD_TIMEOUT).await;
                if has_asked.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                // A connection that breaks is the client's own affair.
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(error = %error, "a connection ended early");
                },
                () = silent => tracing::debug!("a connection brought no request in time"),
                () = taking.stalled(|| tokio::time::sleep(stalls::PATIENCE)) => tracing::debug!("a client took nothing any more of an answer"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests had not ended in time and were cut off");
    }
}
