//! The delete request: 404 at once for whatever is asked afterwards; the files go soon after.

use http::request::Parts;
use http::{Response, StatusCode};

use super::body::{self, Body};
use super::problem::Problem;
use super::{Edge, witness};
use crate::job::JobId;
use crate::ledger::record::{Actor, Ended, Event};
use crate::smart::server::Caller;

/// BD-098, BD-099, BD-101
pub(super) async fn delete(edge: &Edge, caller: &Caller, id: JobId, head: &Parts) -> Result<Response<Body>, Problem> {
    let engine = edge.engine_in_any_case().await?;
    edge.own_job(&engine, caller, id).await?;
    let told = Ended { job: id, actor: Actor::of(&caller.owner(), witness::peer(head)) };
    if !engine.delete(id, Event::Deleted(told)).await? {
        return Err(Problem::no_such_job());
    }
    tracing::info!(export.job_id = %id, "an export was deleted");
    let mut answer = Response::new(body::empty());
    *answer.status_mut() = StatusCode::ACCEPTED;
    Ok(answer)
}
