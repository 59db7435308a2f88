//! Tunnels for the only protocol that a connection may be upgraded to (SEC-04): `websocket`, which FHIR
//! subscriptions use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::{ProxyError, headers};
use crate::body::{self, Body};

/// Says that a connection speaks HTTP no longer. Belongs into the extensions of its requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct TunnelSwitch(Arc<AtomicBool>);

impl TunnelSwitch {
    /// From now on nothing is looked at.
    fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the connection is a tunnel by now.
    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The client's side of a tunnel that is asked for but not yet granted.
#[derive(Debug)]
pub(super) struct Tunnel {
    client: OnUpgrade,
    /// Set where the listener looks at heads; nothing does in a service that embeds us.
    switch: Option<TunnelSwitch>,
}

impl Tunnel {
    /// Takes the wish for a WebSocket off a request, if it has one that we grant.
    pub(super) fn asked_by(mut request: Request<Body>) -> (Request<Body>, Option<Self>) {
        let wanted = request.version() == Version::HTTP_11
            && request.method() == Method::GET
            && names_websocket(request.headers());
        let switch = request.extensions().get().cloned();
        let tunnel = wanted.then(|| Self { client: hyper::upgrade::on(&mut request), switch });
        (request, tunnel)
    }

    /// Passes on the upstream's answer; if it agrees, bytes flow both ways until one side closes.
    pub(super) fn answer(self, mut answer: Response<Incoming>) -> Result<Response<Body>, ProxyError> {
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let mut answer = answer.map(body::map);
            headers::to_client(answer.headers_mut());
            return Ok(answer);
        }
        if !names_websocket(answer.headers()) {
            return Err(ProxyError::Switched);
        }
        if let Some(switch) = &self.switch {
            switch.open();
        }
        let upstream = hyper::upgrade::on(&mut answer);
        tokio::spawn(join(self.client, upstream));
        let mut answer = answer.map(|_| body::empty());
        headers::to_client(answer.headers_mut());
        ask(answer.headers_mut());
        Ok(answer)
    }
}

/// Puts the wish for a WebSocket, or the consent to it, onto a message of ours.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

fn names_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let only = upgrades.next().filter(|_| upgrades.next().is_none());
    only.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && headers::names(headers, &header::CONNECTION, "upgrade")
}

/// A tunnel ends with either side's connection; how it ended concerns nobody here.
async fn join(client: OnUpgrade, upstream: OnUpgrade) {
    let joined = async {
        let (client, upstream) = tokio::try_join!(client, upstream)?;
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        copy_bidirectional(&mut client, &mut upstream).await?;
        Ok::<_, body::BoxError>(())
    };
    if let Err(error) = joined.await {
        tracing::debug!(%error, "a WebSocket tunnel broke");
    }
}
