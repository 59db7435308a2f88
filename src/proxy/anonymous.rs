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
    /// What a status says. Only a server that asks for credentials, or sends people to somebody else where they get some, is
    /// taken for one that has them asked for: an error of another kind was made of a request that was let in, a page of HTML
    /// with a status of success may be anything, and so may be what it leads to of its own.
    pub(crate) fn of(status: StatusCode, leads_away: bool) -> Self {
        match status.as_u16() {
            401 | 403 | 407 => Self::Refused(status),
            300..=399 if leads_away => Self::Refused(status),
            408 | 425 | 429 | 500..=599 => Self::Unanswered,
            _ => Self::Accepted(status),
        }
    }
}

impl PassThrough {
    /// Whether the upstream lets anybody search patients.
    pub(crate) async fn asked_by_anybody(&self, clock: &dyn Clock) -> Anonymous {
        let seen = self.seen_by_anybody("Patient?_count=1", clock).await;
        seen.map_or(Anonymous::Unanswered, |(status, leads_away)| Anonymous::of(status, leads_away))
    }

    /// Whether the upstream says by itself how its users are authorized; `None` if it does not answer.
    pub(crate) async fn has_smart_configuration(&self, clock: &dyn Clock) -> Option<bool> {
        let (status, leads_away) = self.seen_by_anybody(".well-known/smart-configuration", clock).await?;
        match Anonymous::of(status, leads_away) {
            Anonymous::Unanswered => None,
            Anonymous::Accepted(_) | Anonymous::Refused(_) => Some(status == StatusCode::OK),
        }
    }

    /// The status of the answer to a request without credentials, and whether it leads to somebody else; `None` if none came
    /// in time.
    async fn seen_by_anybody(&self, below: &str, clock: &dyn Clock) -> Option<(StatusCode, bool)> {
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
            let answer = self.inner.client.send(request).await.ok()?;
            let mut locations = answer.headers().get_all(header::LOCATION).iter();
            let leads_away = match (locations.next(), locations.next()) {
                (Some(location), None) => location.to_str().is_ok_and(|location| self.inner.bases.leads_away(location)),
                _ => false,
            };
            Some((answer.status(), leads_away))
        };
        tokio::select! {
            seen = answer => seen,
            () = clock.sleep(PATIENCE) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Bases;

    /// SEC-02: what is not clearly refused is taken for given.
    #[test]
    fn only_a_server_that_asks_for_credentials_is_closed() {
        for (status, expected) in [
            (200, Some(true)),
            (204, Some(true)),
            (206, Some(true)),
            (302, Some(true)),
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
            assert_eq!(is_open(status, false), expected, "{status}");
        }
        for (status, expected) in [(200, true), (201, true), (302, false), (307, false), (404, true)] {
            assert_eq!(is_open(status, true), Some(expected), "{status} to somebody else");
        }
    }

    fn is_open(status: u16, leads_away: bool) -> Option<bool> {
        match Anonymous::of(StatusCode::from_u16(status).expect("a status"), leads_away) {
            Anonymous::Accepted(_) => Some(true),
            Anonymous::Refused(_) => Some(false),
            Anonymous::Unanswered => None,
        }
    }

    /// A slash at the end, or TLS, is no refusal.
    #[test]
    fn a_redirect_is_a_refusal_only_where_it_leads_to_somebody_else() {
        let url = |text: &str| text.parse::<url::Url>().expect("a URL");
        let bases = Bases::new(&url("https://fhir.example.org/fhir"), &url("http://inside:8080/r4")).expect("bases");
        for (location, expected) in [
            ("/r4/Patient/?_count=1", false),
            ("?_count=1", false),
            ("//inside:8080/x", false),
            ("http://inside:8080/login", false),
            ("https://inside/r4/Patient", false),
            ("https://fhir.example.org/fhir/Patient/", false),
            ("http://fhir.example.org/", false),
            ("", false),
            ("http://", false),
            ("mailto:a@b", false),
            ("https://login.example.org/auth?x=y", true),
            ("//login.example.org/", true),
            ("http://inside:9090/realms/a", true),
        ] {
            assert_eq!(bases.leads_away(location), expected, "{location:?}");
        }
    }
}
