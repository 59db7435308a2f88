//! An upstream that says what it is told to, our proxy before it, and a client that writes raw bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::Request;
use http::uri::Scheme;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::Service as _;
use url::Url;

use crate::body;
use crate::clock::SystemClock;
use crate::http::heads::Heads;
use crate::http::problem::Problem;
use crate::proxy::{Bases, PassThrough, PeerAddr};
use crate::upstream::connect::PassThroughClient;
use crate::upstream::live::LiveTraffic;
use crate::upstream::tls::Authorities;

/// One request as the upstream saw it, head and body.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Connections are numbered as they come.
    pub(super) connection: usize,
    pub(super) text: String,
}

/// What the upstream does with a request.
pub(super) struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(PartialEq)]
enum Then {
    Keep,
    Close,
    Echo,
}

impl Reply {
    /// Says this and waits for the next request.
    pub(super) fn keep(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Keep }
    }

    /// Says this and hangs up.
    pub(super) fn close(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Close }
    }

    /// Says this and from then on what it hears.
    pub(super) fn echo(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Echo }
    }
}

/// All of it; ends when it is dropped.
pub(super) struct Rig {
    pub(super) upstream: SocketAddr,
    pub(super) live: Arc<LiveTraffic>,
    front: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
    tasks: JoinSet<()>,
}

impl Rig {
    pub(super) async fn start<F>(answer: F) -> Self
    where
        F: Fn(&Asked) -> Reply + Clone + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let upstream = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut rig = Self::before(upstream, Arc::clone(&seen)).await;
        rig.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for connection in 0.. {
                let (socket, _) = listener.accept().await.expect("the listener lives");
                connections.spawn(serve(socket, connection, answer.clone(), Arc::clone(&seen)));
            }
        });
        rig
    }

    /// Nothing listens where the upstream should be.
    pub(super) async fn without_upstream() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let upstream = listener.local_addr().expect("it is bound");
        drop(listener);
        Self::before(upstream, Arc::default()).await
    }

    /// Our proxy before an upstream that the test plays itself.
    pub(super) async fn before(upstream: SocketAddr, seen: Arc<Mutex<Vec<Asked>>>) -> Self {
        let url = |text: &str| Url::parse(text).expect("the URL is well formed");
        let bases = Bases::new(&url("http://ours/fhir"), &url(&format!("http://{upstream}/base")));
        let client = PassThroughClient::new(&Scheme::HTTP, &Authorities::default()).expect("plain HTTP needs no roots");
        let live = Arc::new(LiveTraffic::new(Arc::new(SystemClock), 0.1));
        let proxy = PassThrough::new(client, bases.expect("both are http"), Arc::clone(&live));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let front = listener.local_addr().expect("it is bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, peer) = listener.accept().await.expect("the listener lives");
                let proxy = proxy.clone();
                let socket = Heads::new(socket);
                let switch = socket.tunnel_switch();
                let service = service_fn(move |request: Request<Incoming>| {
                    let mut request = request.map(body::map);
                    request.extensions_mut().insert(PeerAddr(peer));
                    request.extensions_mut().insert(switch.clone());
                    let passed = proxy.clone().call(request);
                    async move {
                        Ok::<_, Infallible>(passed.await.unwrap_or_else(|error| Problem::from(error).into_response()))
                    }
                });
                connections.spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    // How a connection ends is seen by the client.
                    drop(server.serve_connection_with_upgrades(TokioIo::new(socket), service).await);
                });
            }
        });
        Self { upstream, live, front, seen, tasks }
    }

    pub(super) fn seen(&self) -> Vec<Asked> {
        self.seen.lock().expect("no test panics while it holds this").clone()
    }

    pub(super) async fn connect(&self) -> Socket {
        Socket(TcpStream::connect(self.front).await.expect("the proxy listens"))
    }

    /// Says this and hears all until the proxy closes the connection.
    pub(super) async fn talk(&self, request: &str) -> String {
        let mut socket = self.connect().await;
        socket.say(request).await;
        socket.hear_all().await
    }

    pub(super) async fn get(&self, path: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: ours\r\nConnection: close\r\n\r\n");
        self.talk(&head).await
    }
}

/// One side of a connection, as text.
pub(super) struct Socket(pub(super) TcpStream);

impl Socket {
    pub(super) async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("the other side reads");
    }

    /// All until the other side closes or breaks the connection.
    pub(super) async fn hear_all(&mut self) -> String {
        let mut heard = Vec::new();
        // A reset is an end as well: what came before it has been kept.
        drop(self.0.read_to_end(&mut heard).await);
        String::from_utf8(heard).expect("the test speaks text")
    }

    /// All up to and with `end`.
    pub(super) async fn hear_until(&mut self, end: &str) -> String {
        self.hear_to(end).await.unwrap_or_else(|| panic!("closed before {end:?}"))
    }

    async fn hear_to(&mut self, end: &str) -> Option<String> {
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) {
            heard.push(self.0.read_u8().await.ok()?);
        }
        Some(String::from_utf8(heard).expect("the test speaks text"))
    }

    /// A whole request: its head, and the body that the head announces.
    async fn hear_request(&mut self) -> Option<String> {
        let head = self.hear_to("\r\n\r\n").await?;
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let body = match header("content-length:") {
            Some(length) => {
                let mut body = vec![0; length.parse().expect("our client writes numbers")];
                self.0.read_exact(&mut body).await.ok()?;
                String::from_utf8(body).expect("the test speaks text")
            }
            None if header("transfer-encoding:").is_some() => self.hear_to("0\r\n\r\n").await?,
            None => String::new(),
        };
        Some(head + &body)
    }
}

async fn serve<F>(socket: TcpStream, connection: usize, answer: F, seen: Arc<Mutex<Vec<Asked>>>)
where
    F: Fn(&Asked) -> Reply,
{
    let mut socket = Socket(socket);
    while let Some(text) = socket.hear_request().await {
        let asked = Asked { connection, text };
        let Reply { bytes, then } = answer(&asked);
        seen.lock().expect("no test panics while it holds this").push(asked);
        if socket.0.write_all(&bytes).await.is_err() || then == Then::Close {
            return;
        }
        if then == Then::Echo {
            let (mut read, mut write) = socket.0.split();
            // An echo ends with its connection.
            drop(tokio::io::copy(&mut read, &mut write).await);
            return;
        }
    }
}

/// The status of an answer's text; 0 if there is none.
pub(super) fn status_of(text: &str) -> u16 {
    let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "));
    status.and_then(|rest| rest.get(..3)).and_then(|status| status.parse().ok()).unwrap_or(0)
}
