//! What stands between Offtake and an S3 storage: it hands requests on as they are, so that signatures stay good, and stalls
//! or refuses as it is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// When something is done, by the number of a write, from 1.
type When = fn(usize) -> bool;

/// It listens until this is dropped.
pub(crate) struct Between {
    pub(crate) endpoint: String,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    storage: String,
    http: HttpClient<HttpConnector, Incoming>,
    is_stalled: watch::Sender<bool>,
    stalls: When,
    refuses: When,
    parts: Writes,
    objects: Writes,
}

/// Writes of one kind.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    pub(crate) seen: AtomicUsize,
    pub(crate) refused: AtomicUsize,
}

impl Between {
    /// In front of a storage: stalls from the first part on whose number `stalls` names, and answers 503 to those parts, and to
    /// those objects written at once, whose number `refuses` names.
    pub(crate) async fn before(storage: &str, stalls: When, refuses: When) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State {
            storage: storage.to_owned(),
            http: HttpClient::builder(TokioExecutor::new()).build_http(),
            is_stalled: watch::Sender::new(false),
            stalls,
            refuses,
            parts: Writes::default(),
            objects: Writes::default(),
        });
        let answering = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&answering);
                let service = service_fn(move |request| Arc::clone(&state).answer(request));
                tokio::spawn(async move {
                    // How a connection ended is its client's concern.
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        Ok(Self { endpoint, state, accepting })
    }

    /// Waits until it stalls.
    pub(crate) async fn stalls(&self) -> anyhow::Result<()> {
        self.state.is_stalled.subscribe().wait_for(|is_stalled| *is_stalled).await.map(drop).context("it is gone")
    }

    /// Ends the stall.
    pub(crate) fn go_on(&self) {
        self.state.is_stalled.send_replace(false);
    }

    pub(crate) fn parts(&self) -> &Writes {
        &self.state.parts
    }

    pub(crate) fn objects(&self) -> &Writes {
        &self.state.objects
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
        if request.method() == Method::PUT {
            let is_part = request.uri().query().is_some_and(|query| query.contains("partNumber="));
            let writes = if is_part { &self.parts } else { &self.objects };
            let number = writes.seen.fetch_add(1, Ordering::SeqCst) + 1;
            if is_part && (self.stalls)(number) {
                self.is_stalled.send_replace(true);
            }
            if (self.refuses)(number) {
                writes.refused.fetch_add(1, Ordering::SeqCst);
                return refuse(request).await;
            }
        }
        self.stall().await?;
        let (mut head, body) = request.into_parts();
        let target = head.uri.path_and_query().context("a request without a path")?;
        head.uri = Uri::builder().scheme("http").authority(&*self.storage).path_and_query(target.clone()).build()?;
        let answer = self.http.request(Request::from_parts(head, body)).await?;
        // What had come before the stall is not answered in it.
        self.stall().await?;
        Ok(answer.map(BodyExt::boxed_unsync))
    }

    /// Waits until it does not stall any more.
    async fn stall(&self) -> anyhow::Result<()> {
        self.is_stalled.subscribe().wait_for(|is_stalled| !is_stalled).await?;
        Ok(())
    }
}

/// As S3 does that is asked for too much.
async fn refuse(request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    request.into_body().collect().await?;
    let said = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code></Error>";
    let body = Full::new(Bytes::from(said)).map_err(|never: Infallible| match never {}).boxed_unsync();
    Ok(Response::builder()
        .status(StatusCode::SERVICE_UNAVAILABLE)
        .header("content-type", "application/xml")
        .body(body)?)
}
