//! What the upstream gives to somebody who shows nothing: asked just as whoever reaches us can have it asked (SEC-02).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{Request, StatusCode, header};

use super::{PassThrough, PeerAddr};
use crate::body;
use crate::clock::Clock;

/// How long an answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);
/// By which an operator finds these requests in the server's own log.
const AGENT: &str = concat!("offtake/", env!("CARGO_PKG_VERSION"), " (asks as anybody could)");

/// What has become of a request without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anonymous {
    /// It was not refused for want of them.
    Accepted(StatusCode),
    Refused(StatusCode),
    /// Nothing came, or nothing that says anything.
    Unanswered,
}

impl Anonymous {
    /// What a status says. Only a server that asks for credentials, or sends people to where they get some, is taken for one
    /// that has them asked for: an error of another kind was made of a request that was let in, and a page of HTML with a
    /// status of success may be anything.
    pub(crate) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            401 | 403 | 407 | 300..=399 => Self::Refused(status),
            408 | 425 | 429 | 500..=599 => Self::Unanswered,
            _ => Self::Accepted(status),
        }
    }
}

impl PassThrough {
    /// Whether the upstream lets anybody search patients.
    pub(crate) async fn asked_by_anybody(&self, clock: &dyn Clock) -> Anonymous {
        self.status_for_anybody("Patient?_count=1", clock).await.map_or(Anonymous::Unanswered, Anonymous::of)
    }

    /// Whether the upstream says by itself how its users are authorized; `None` if it does not answer.
    pub(crate) async fn has_smart_configuration(&self, clock: &dyn Clock) -> Option<bool> {
        let status = self.status_for_anybody(".well-known/smart-configuration", clock).await?;
        match Anonymous::of(status) {
            Anonymous::Unanswered => None,
            Anonymous::Accepted(_) | Anonymous::Refused(_) => Some(status == StatusCode::OK),
        }
    }

    /// The status of the answer to a request without credentials; `None` if none came in time.
    async fn status_for_anybody(&self, below: &str, clock: &dyn Clock) -> Option<StatusCode> {
        let mut request = Request::get(format!("{}/{below}", self.inner.bases.public_path()))
            .header(header::ACCEPT, "application/fhir+json, application/json")
            .header(header::USER_AGENT, AGENT)
            .body(body::empty())
            .ok()?;
        // A server that goes by who is said to ask trusts this machine most.
        request.extensions_mut().insert(PeerAddr(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        let answer = async {
            // It is nobody's live request, and exports need not make way for it.
            let (request, _tunnel) = self.inner.outgoing(request).ok()?;
            Some(self.inner.client.send(request).await.ok()?.status())
        };
        tokio::select! {
            status = answer => status,
            () = clock.sleep(PATIENCE) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SEC-02: what is not clearly refused is taken for given.
    #[test]
    fn only_a_server_that_asks_for_credentials_is_closed() {
        for (status, expected) in [
            (200, Some(true)),
            (204, Some(true)),
            (206, Some(true)),
            (302, Some(false)),
            (400, Some(true)),
            (401, Some(false)),
            (403, Some(false)),
            (404, Some(true)),
            (405, Some(true)),
            (410, Some(true)),
            (429, None),
            (500, None),
            (501, None),
            (502, None),
            (503, None),
        ] {
            let is_open = match Anonymous::of(StatusCode::from_u16(status).expect("a status")) {
                Anonymous::Accepted(_) => Some(true),
                Anonymous::Refused(_) => Some(false),
                Anonymous::Unanswered => None,
            };
            assert_eq!(is_open, expected, "{status}");
        }
    }
}
