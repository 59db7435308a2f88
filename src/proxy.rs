//! The pass-through: whatever is not a Bulk Data request goes to the upstream as it came, and the answer
//! comes back as it is. Bodies are streamed both ways at the reader's pace; there is no limit on their size
//! or duration, and no retry: a request whose connection fails may have been carried out.
//!
//! Which paths may come here at all is decided before (`bulk/route.rs`, SEC-03).

pub(crate) mod anonymous;
mod base;
mod headers;
pub(crate) mod metadata;
mod peer;
mod tunnel;

use std::error::Error as _;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy;
use tower::Service;

pub(crate) use self::base::Bases;
pub(crate) use self::peer::PeerAddr;
use self::tunnel::Tunnel;
pub(crate) use self::tunnel::TunnelSwitch;
use crate::body::{self, Body, BoxError};
use crate::upstream::connect::PassThroughClient;
use crate::upstream::live::LiveTraffic;
use crate::upstream::live::baseline::Kind;

/// Why a request could not be passed through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the path lies outside this server's base")]
    OutsideBase,
    #[error("this server opens no connections for others")]
    Connect,
    #[error("the request's body could not be read to its end")]
    BadBody(#[source] legacy::Error),
    #[error("the FHIR server behind this one could not be reached")]
    Unreachable(#[source] legacy::Error),
    #[error("the FHIR server behind this one broke off its answer")]
    CutShort(#[source] BoxError),
    #[error("the FHIR server behind this one changed protocols without being asked")]
    Switched,
}

/// The service that passes requests through. Cheap to clone. What an error is answered with is the edge's to say.
#[derive(Debug, Clone)]
pub(crate) struct PassThrough {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: PassThroughClient,
    bases: Bases,
    live: Arc<LiveTraffic>,
}

impl PassThrough {
    pub(crate) fn new(client: PassThroughClient, bases: Bases, live: Arc<LiveTraffic>) -> Self {
        Self { inner: Arc::new(Inner { client, bases, live }) }
    }

    /// Where our public address lies, and where the upstream's.
    pub(crate) fn bases(&self) -> &Bases {
        &self.inner.bases
    }
}

impl Service<Request<Body>> for PassThrough {
    type Response = Response<Body>;
    type Error = ProxyError;
    type Future = BoxFuture<'static, Result<Response<Body>, ProxyError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        async move { inner.exchange(request).await }.boxed()
    }
}

impl Inner {
    /// The request to the upstream that stands for one of ours, and the tunnel that was asked for.
    fn outgoing(&self, request: Request<Body>) -> Result<(Request<Body>, Option<Tunnel>), ProxyError> {
        if request.method() == Method::CONNECT {
            return Err(ProxyError::Connect);
        }
        let uri = self.bases.upstream_of(request.uri()).ok_or(ProxyError::OutsideBase)?;
        let (mut request, tunnel) = Tunnel::asked_by(request);
        let peer = request.extensions().get::<PeerAddr>().map(|peer| peer.0.ip());
        headers::to_upstream(request.headers_mut(), peer, &self.bases);

        // A new request: nothing that layers have noted about this one goes further.
        let (head, body) = request.into_parts();
        let mut outgoing = Request::new(body::without_trailers(body));
        *outgoing.method_mut() = head.method;
        *outgoing.uri_mut() = uri;
        *outgoing.headers_mut() = head.headers;
        Ok((outgoing, tunnel))
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Body>, ProxyError> {
        let (mut outgoing, tunnel) = self.outgoing(request)?;
        match tunnel {
            None => {
                let kind = Kind::of(outgoing.method(), outgoing.uri().path(), outgoing.uri().query().is_some());
                let live = self.live.begin(kind);
                let response = self.client.send(outgoing).await.map_err(failed)?;
                live.answered();
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return Err(ProxyError::Switched);
                }
                let mut response = response.map(body::map);
                headers::to_client(response.headers_mut());
                Ok(response)
            }
            Some(tunnel) => {
                tunnel::ask(outgoing.headers_mut());
                let response = self.client.send_alone(outgoing).await.map_err(failed)?;
                tunnel.answer(response)
            }
        }
    }
}

fn failed(error: legacy::Error) -> ProxyError {
    // The client speaks through us: its body, not the upstream, is at fault.
    let cause = error.source().and_then(|cause| cause.downcast_ref::<hyper::Error>());
    if cause.is_some_and(hyper::Error::is_user) {
        tracing::debug!(%error, "a passed-through request broke off");
        return ProxyError::BadBody(error);
    }
    let connected = !error.is_connect();
    tracing::warn!(%error, connected, "the upstream did not answer a passed-through request");
    ProxyError::Unreachable(error)
}

#[cfg(test)]
mod tests;
