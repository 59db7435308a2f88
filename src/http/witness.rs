//! What the ledger is told of requests: who asks, and that one was refused.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::request::Parts;
use http::{Extensions, Response, StatusCode};

use super::body::Body;
use crate::bulk::route::{BulkRoute, SmartRoute};
use crate::job::JobId;
use crate::ledger::Ledger;
use crate::ledger::record::{Actor, Asked, Denied};
use crate::proxy::PeerAddr;
use crate::smart::client::ClientId;
use crate::smart::scope::Scopes;

/// The code of a refusal, in the extensions of its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(pub(super) &'static str);

/// Who has shown who they are, in the extensions of a request.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<OnceLock<(ClientId, Option<Scopes>)>>);

/// One request, for as long as it is answered.
#[derive(Debug)]
pub(super) struct Witness {
    asked: Asked,
    job: Option<JobId>,
    peer: Option<IpAddr>,
    seen: Seen,
}

/// Where a request comes from, by its connection.
pub(super) fn peer(head: &Parts) -> Option<IpAddr> {
    peer_of(&head.extensions)
}

pub(super) fn peer_of(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<PeerAddr>().map(|peer| peer.0.ip().to_canonical())
}

/// Notes who makes a request.
pub(super) fn saw(head: &Parts, client: &ClientId, scopes: Option<&Scopes>) {
    if let Some(Seen(seen)) = head.extensions.get() {
        let _first_counts = seen.set((client.clone(), scopes.cloned()));
    }
}

impl Witness {
    /// Before the request is looked at.
    pub(super) fn of(extensions: &mut Extensions, (asked, job): (Asked, Option<JobId>)) -> Self {
        let seen = Seen::default();
        extensions.insert(seen.clone());
        Self { asked, job, peer: peer_of(extensions), seen }
    }

    /// Records that the answer is a refusal, if it is one. It is the same whatever becomes of that.
    pub(super) async fn tell(self, ledger: &Ledger, answer: Response<Body>) -> Response<Body> {
        let status = answer.status();
        if !status.is_client_error() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return answer;
        }
        self.record(ledger, answer).await
    }

    /// Records that the answer is a refusal, whatever its status.
    pub(super) async fn record(self, ledger: &Ledger, answer: Response<Body>) -> Response<Body> {
        let status = answer.status();
        let code = answer.extensions().get::<Code>().map_or("", |code| code.0);
        let (client, scopes) = self.seen.0.get().cloned().unzip();
        let actor = Actor { client, scopes: scopes.flatten(), peer: self.peer };
        let (route, job) = (self.asked, self.job);
        ledger.deny(Denied { route, job, actor, status: status.as_u16(), code: code.into() }).await;
        answer
    }
}

/// What a request to one of our routes asks for.
pub(super) fn asked(route: &BulkRoute) -> (Asked, Option<JobId>) {
    match route {
        BulkRoute::Kickoff(_) => (Asked::KickOff, None),
        BulkRoute::Status(job) | BulkRoute::Page { job, .. } => (Asked::Status, Some(*job)),
        BulkRoute::Delete(job) => (Asked::Delete, Some(*job)),
        BulkRoute::File { job, .. } => (Asked::File, Some(*job)),
        BulkRoute::MakeCohort | BulkRoute::DeleteCohort(_) => (Asked::Cohort, None),
        BulkRoute::Cohort(_) | BulkRoute::FindCohorts | BulkRoute::NoSuchJob | BulkRoute::MethodNotAllowed { .. } => {
            (Asked::Other, None)
        }
    }
}

/// The same of the authorization server's.
pub(super) fn asked_of_server(route: SmartRoute) -> (Asked, Option<JobId>) {
    match route {
        SmartRoute::Token => (Asked::Token, None),
        SmartRoute::Introspection => (Asked::Introspection, None),
        SmartRoute::Discovery | SmartRoute::Keys => (Asked::Other, None),
    }
}
