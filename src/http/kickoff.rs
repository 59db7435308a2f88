//! The kick-off request: parse, hold against what the upstream has, record, answer where to ask.

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::Edge;
use super::body::{self, Body, BoxError};
use super::problem::Problem;
use crate::bulk::kickoff::{ExportLevel, Headers, Kickoff, KickoffError};
use crate::clock;
use crate::job::{Job, JobId, JobState};
use crate::upstream::group;

/// A `Parameters` body of every type and of some thousand patients is smaller.
const MOST_BODY_BYTES: usize = 1024 * 1024;

/// BD-047: 202 and where to ask.
pub(super) async fn kick_off<B>(
    edge: &Edge,
    level: ExportLevel,
    head: &Parts,
    sent: B,
) -> Result<Response<Body>, Problem>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let engine = edge.engine().await?;
    let sent = Limited::new(sent, MOST_BODY_BYTES).collect().await.map_err(|_| KickoffError::Body)?.to_bytes();
    let now = clock::now(&*edge.clock);
    let headers = Headers::of(&head.headers);
    let kickoff = Kickoff::parse(level, &head.method, head.uri.query(), &headers, &sent, now.into())?;
    let capability = edge.capability().await?;
    let types = kickoff.resolve(&capability.searchable())?;
    if let ExportLevel::Group(id) = &kickoff.level {
        // Read again when the plan is made; here only so that a Group that is not there is refused at once.
        group::members(&edge.upstream, id, edge.most_members, now).await?;
    }
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let id = JobId::new(clock::random().map_err(|_| Problem::unavailable("the system has no randomness to give"))?);
    let request = edge.links.public_url(path);
    let job = Job { id, kickoff, types, request, created: now, state: JobState::Accepted };
    engine.submit(job).await?;
    tracing::info!(export.job_id = %id, "an export was accepted");
    let answer = Response::builder()
        .status(StatusCode::ACCEPTED)
        .header(header::CONTENT_LOCATION, edge.links.status(id))
        .header(header::CACHE_CONTROL, "no-store");
    Ok(answer.body(body::empty()).expect("the status URL is made of URL characters"))
}
