//! Listens, hands requests to their answers, and goes away when told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, Refusal};
use crate::demand;
use crate::faults::Fault;
use crate::lies::Posts;
use crate::requests::{RequestSeen, Then};
use crate::route::{self, Asked, BASE_PATH};
use crate::searchset;
use crate::settings::Settings;
use crate::upstream::{SampleUpstream, Step};
use crate::wire::{self, Broken, Manner, WireBody};

/// The largest resource or form that is read.
const MOST_BODY_BYTES: usize = 64 * 1024 * 1024;
/// The most that `$echo-size` counts.
const MOST_ECHO_BYTES: u64 = 512 * 1024 * 1024;

/// A listening server. Dropping it stops it at once.
#[derive(Debug)]
pub struct Running {
    /// Where clients find it, e.g. `http://127.0.0.1:9000/fhir`.
    pub base_url: String,
    /// What it listens on.
    pub addr: SocketAddr,
    stop: CancellationToken,
    accepting: Option<JoinHandle<()>>,
}

impl Running {
    /// Stops listening and drops all connections. The resources stay in the [`SampleUpstream`].
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(accepting) = self.accepting.take()
            && let Err(error) = accepting.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl SampleUpstream {
    /// Serves HTTP/1.1 and cleartext HTTP/2 on `listener` until the returned [`Running`] is dropped.
    ///
    /// # Panics
    /// If the listener has no local address: then nobody could have connected to it either.
    #[expect(clippy::unused_async, reason = "it spawns, and so may be called on a runtime only")]
    pub async fn serve(&self, listener: TcpListener) -> Running {
        self.run(listener, None)
    }

    /// The same over TLS.
    ///
    /// # Panics
    /// If the listener has no local address: then nobody could have connected to it either.
    #[expect(clippy::unused_async, reason = "it spawns, and so may be called on a runtime only")]
    pub async fn serve_tls(&self, listener: TcpListener, tls: Arc<ServerConfig>) -> Running {
        self.run(listener, Some(tls.into()))
    }

    fn run(&self, listener: TcpListener, tls: Option<TlsAcceptor>) -> Running {
        let addr = listener.local_addr().expect("a bound listener has an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let stop = CancellationToken::new();
        let accepts = stop.clone().run_until_cancelled_owned(accept(self.clone(), listener, tls, stop.clone()));
        let accepting = tokio::spawn(async move {
            accepts.await;
        });
        Running { base_url: format!("{scheme}://{addr}{BASE_PATH}"), addr, stop, accepting: Some(accepting) }
    }
}

async fn accept(upstream: SampleUpstream, listener: TcpListener, tls: Option<TlsAcceptor>, stop: CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it answers in several frames wait for acknowledgements; failing to set it changes only speed.
                stream.set_nodelay(true).unwrap_or_default();
                let (upstream, tls) = (upstream.clone(), tls.clone());
                let served = async move {
                    match tls {
                        None => connection(upstream, stream, false).await,
                        Some(tls) => {
                            // A handshake that fails is its client's concern.
                            let Ok(stream) = tls.accept(stream).await else { return };
                            let has_certificate = stream.get_ref().1.peer_certificates().is_some();
                            connection(upstream, stream, has_certificate).await;
                        }
                    }
                };
                tokio::spawn(stop.clone().run_until_cancelled_owned(served));
            }
            // Out of file descriptors, most likely: others are about to be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// One connection, until either side is gone or the server goes away.
async fn connection<S>(upstream: SampleUpstream, stream: S, has_certificate: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut availability = upstream.availability();
    if !*availability.borrow_and_update() {
        return;
    }
    let service = service_fn(move |request| answer(upstream.clone(), request, has_certificate));
    let builder = auto::Builder::new(TokioExecutor::new());
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // How a connection ended is its client's concern.
        _ = served => {}
        _ = availability.wait_for(|available| !available) => {}
    }
}

async fn answer(
    upstream: SampleUpstream,
    request: Request<Incoming>,
    has_certificate: bool,
) -> Result<Response<WireBody>, Broken> {
    let settings = upstream.settings();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().replace("%24", "$");
    let below = path.strip_prefix(BASE_PATH).map(|below| below.trim_matches('/').to_owned());
    let is_echo = parts.method == Method::POST && below.as_deref() == Some("$echo-size");
    let (body, echoed) =
        if is_echo { (Ok(Vec::new()), Some(count(body).await?)) } else { (collect(body).await?, None) };

    let is_form = parts
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let url_query = parts.uri.query().unwrap_or("").to_owned();
    let form = match &body {
        Ok(body) if is_form => String::from_utf8_lossy(body).into_owned(),
        Ok(_) | Err(_) => String::new(),
    };
    let query = [url_query.as_str(), form.as_str()].map(str::to_owned).into_iter().filter(|part| !part.is_empty());
    let query = query.collect::<Vec<_>>().join("&");

    let seen = RequestSeen {
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        query: query.clone(),
        headers: parts.headers.clone(),
        has_certificate,
        at: upstream.now(),
    };
    let then = upstream.log().note(seen);
    match then {
        None => {}
        Some(Then::Do(act)) => act(),
        Some(Then::Away(away)) => {
            upstream.leave_for(away);
            return Err(Broken);
        }
    }
    let is_metadata = below.as_deref() == Some("metadata");
    let fault = if is_metadata { None } else { upstream.dice().roll(&settings.faults) };
    if fault == Some(Fault::Reset) {
        return Err(Broken);
    }
    let slot = match settings.slots {
        Some(slots) => Some(upstream.slots().take(slots).await),
        None => None,
    };
    if !settings.latency.is_zero() {
        tokio::time::sleep(settings.latency).await;
    }

    if let Some((step, stall)) = settings.lies.step_stall
        && searchset::crosses(&query, step)
    {
        tokio::time::sleep(stall).await;
    }

    upstream.play(Step::Arrived { path: below.as_deref().unwrap_or_default(), query: &query });

    let gzip = settings.gzip && wire::takes_gzip(&parts.headers);
    let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
    let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok().map(str::to_owned)).or(authority);
    let host = host.unwrap_or_default();
    let refusal = failure(fault, &settings);
    let demanded = demand::answer(&upstream, &parts.method, &path, &parts.headers, &form, &host);
    if let Some(answer) = demanded.filter(|_| refusal.is_none()) {
        return Ok(wire::response(&upstream, answer, Manner { pretty: false, gzip, truncate: false }));
    }
    let base = settings.link_base.clone().unwrap_or_else(|| format!("http://{host}{BASE_PATH}"));
    let (answer, pretty) = match (below, refusal, body, echoed) {
        (_, Some(refusal), _, _) | (_, None, Err(refusal), _) => (refusal.into(), settings.pretty),
        (_, None, Ok(_), Some(size)) => (Answer::plain("text/plain", size.to_string()), false),
        _ if !settings.lies.accepts.takes(&accept, &query) => {
            let refusal = Refusal::new(StatusCode::NOT_ACCEPTABLE, "not-supported", "this server sends JSON only");
            (refusal.into(), settings.pretty)
        }
        (None, None, Ok(_), None) => (Refusal::not_found(format!("all is below {BASE_PATH}")).into(), false),
        _ if url_query.len() > settings.most_url_bytes => {
            let answer = Answer::plain("text/html", "<h1>414 URI Too Long</h1>".to_owned());
            (Answer { status: StatusCode::URI_TOO_LONG, ..answer }, false)
        }
        (Some(path), None, Ok(body), None) => {
            let read = if settings.lies.posts == Posts::FormIgnored { &url_query } else { &query };
            let pairs = url::form_urlencoded::parse(read.as_bytes()).into_owned().collect();
            let asked = Asked { method: parts.method, path, pairs, headers: parts.headers, body, base };
            let (answer, pretty) = route::answer(&upstream, asked);
            let is_nothing = matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED);
            if settings.lies.html_for_nothing && is_nothing {
                let answer = Answer::plain("text/html", "<!DOCTYPE html><pre>Cannot GET this</pre>".to_owned());
                (Answer { status: StatusCode::NOT_FOUND, ..answer }, false)
            } else {
                (answer, pretty)
            }
        }
    };
    drop(slot);
    upstream.play(Step::Answered);
    let manner = Manner { pretty, gzip, truncate: fault == Some(Fault::Truncate) };
    Ok(wire::response(&upstream, answer, manner))
}

/// What a fault answers, if it does.
fn failure(fault: Option<Fault>, settings: &Settings) -> Option<Refusal> {
    let seconds = settings.faults.retry_after.as_secs();
    match fault? {
        Fault::Error500 => Some(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", "something broke")),
        Fault::Error503 => {
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "transient", "busy, try again later");
            Some(refusal.retry_after(seconds))
        }
        Fault::Error429 => {
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "throttled", "too many requests");
            Some(refusal.retry_after(seconds))
        }
        Fault::Reset | Fault::Truncate => None,
    }
}

/// A whole body, if it is not too large; a connection that breaks on the way is none to answer on.
async fn collect(body: Incoming) -> Result<Result<Vec<u8>, Refusal>, Broken> {
    match Limited::new(body, MOST_BODY_BYTES).collect().await {
        Ok(collected) => Ok(Ok(collected.to_bytes().into())),
        Err(error) if error.is::<LengthLimitError>() => {
            Ok(Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too-long", "the body is too large")))
        }
        Err(_) => Err(Broken),
    }
}

/// The size of a body that is read and thrown away.
async fn count(mut body: Incoming) -> Result<u64, Broken> {
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Broken)?;
        size += frame.data_ref().map_or(0, |data| data.len() as u64);
        if size > MOST_ECHO_BYTES {
            return Err(Broken);
        }
    }
    Ok(size)
}
