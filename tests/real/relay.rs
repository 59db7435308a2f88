//! What stands between a server and whoever asks it, and counts the requests: Offtake's, a walk's and the server's own export
//! pass through it alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) struct Relay {
    /// The FHIR base here.
    pub(crate) base: String,
    requests: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

/// What belongs to one connection.
const OF_A_CONNECTION: [&str; 3] = ["connection", "keep-alive", "transfer-encoding"];

impl Relay {
    /// Before the server on this port of this machine.
    pub(crate) async fn before(port: u16, path: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}{path}", listener.local_addr()?);
        let requests = Arc::new(AtomicUsize::new(0));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let serving = tokio::spawn(serve(listener, port, client, Arc::clone(&requests)));
        Ok(Self { base, requests, serving })
    }

    /// How many requests came since it was asked last.
    pub(crate) fn take(&self) -> usize {
        self.requests.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

type ToServer = Client<HttpConnector, Incoming>;

async fn serve(listener: TcpListener, port: u16, client: ToServer, requests: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Small answers would wait for an acknowledgement else.
        let _set = stream.set_nodelay(true);
        let (client, requests) = (client.clone(), Arc::clone(&requests));
        let service = service_fn(move |request| {
            requests.fetch_add(1, Ordering::Relaxed);
            pass(client.clone(), port, request)
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// The host stays as it was asked for, so that links lead here again.
async fn pass(client: ToServer, port: u16, request: Request<Incoming>) -> anyhow::Result<Response<Incoming>> {
    let (mut head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    head.uri = Uri::try_from(format!("http://127.0.0.1:{port}{target}"))?;
    without_connection(&mut head.headers);
    let mut answer = client.request(Request::from_parts(head, body)).await?;
    without_connection(answer.headers_mut());
    Ok(answer)
}

fn without_connection(headers: &mut HeaderMap) {
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
}
