//! The status request: how an export stands, and its manifest as far as there is one.

use std::net::{IpAddr, Ipv4Addr};

use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::body::{self, Body};
use super::polls::{Poll, Poller};
use super::problem::Problem;
use super::{Edge, cohort, manifest, witness};
use crate::bulk::shape::StatusForm;
use crate::clock;
use crate::engine::Engine;
use crate::fhir::datatypes::Millis;
use crate::job::{Job, JobId, JobState};
use crate::smart::server::Caller;

/// A job younger than this has its first poll answered with 202 even if it has finished: clients take a first
/// poll that brings the manifest badly.
const YOUNG_MILLIS: i64 = 60_000;
/// What says how the export stands where it was preferred apart.
const EXPORT_STATUS: HeaderName = HeaderName::from_static("x-export-status");
/// Longest pause between polls that is asked for, in seconds.
const LONGEST_RETRY: i64 = 30;

pub(super) async fn status(edge: &Edge, caller: &Caller, id: JobId, head: &Parts) -> Result<Response<Body>, Problem> {
    let poller = poller(caller, head);
    let poll = edge.polls.begin(&poller, id).await?;
    let engine = edge.engine().await?;
    // What was made at once is told where exports are asked about.
    if let Some(made) = cohort::client::made(edge, &engine, caller, id).await? {
        return Ok(made);
    }
    let job = own_job(edge, &engine, caller, id, &poller).await?;
    let retry = retry_seconds(&job, clock::now(&*edge.clock));
    edge.polls.answered(id, retry).await;
    // What is refused before this is said of the request alone.
    let answer = standing(edge, &engine, caller, &job, head, (poll, retry)).await?;
    Ok(in_form(&job, answer))
}

/// BD-083: a page of the manifest after the first one. It has no status of its own but that of the request, unless the export
/// was given up: then there are no pages any more (3.4, rule 6). It is no poll, and heeds no `Retry-After`.
pub(super) async fn page(
    edge: &Edge,
    caller: &Caller,
    id: JobId,
    number: usize,
    head: &Parts,
) -> Result<Response<Body>, Problem> {
    let poller = poller(caller, head);
    edge.polls.followed(&poller)?;
    let engine = edge.engine().await?;
    let job = own_job(edge, &engine, caller, id, &poller).await?;
    match &job.state {
        JobState::Accepted => Err(Problem::no_such_page()),
        JobState::Running(_) | JobState::Complete(_) => manifest::page(edge, &engine, caller, &job, number, head).await,
        JobState::Failed(failed) => Ok(in_form(&job, Problem::job_failed(failed).into_response())),
        JobState::Deleted => Err(Problem::no_such_job()),
    }
}

/// The job that is asked about; who asks about nothing is taken note of.
async fn own_job(edge: &Edge, engine: &Engine, caller: &Caller, id: JobId, poller: &Poller) -> Result<Job, Problem> {
    let job = edge.own_job(engine, caller, id).await;
    if job.as_ref().is_err_and(Problem::is_of_nothing) {
        edge.polls.was_for_nothing(poller);
    }
    job
}

/// When an export may be asked about again. Small pauses early: most exports are short, and the others do not mind.
fn retry_seconds(job: &Job, now: Millis) -> u64 {
    let retry = if job.state.is_active() { (now.0 - job.created.0) / 10_000 } else { 1 };
    retry.clamp(1, LONGEST_RETRY).unsigned_abs()
}

/// BD-057, BD-061: with `separate-export-status` how the export stands moves to a header of its own.
fn in_form(job: &Job, mut answer: Response<Body>) -> Response<Body> {
    match job.kickoff.shape.status {
        StatusForm::Plain => {}
        StatusForm::Separate => {
            let status = std::mem::replace(answer.status_mut(), StatusCode::OK);
            let status = HeaderValue::try_from(status.to_string()).expect("a status and its name are plain ASCII");
            answer.headers_mut().insert(EXPORT_STATUS, status);
        }
    }
    answer
}

/// How an export stands, for a poll that may be the first one.
async fn standing(
    edge: &Edge,
    engine: &Engine,
    caller: &Caller,
    job: &Job,
    head: &Parts,
    (poll, retry): (Poll, u64),
) -> Result<Response<Body>, Problem> {
    let now = clock::now(&*edge.clock);
    match &job.state {
        JobState::Accepted | JobState::Running(_) => {
            let progress = in_progress(&engine.progress(job.id), retry);
            if manifest::pages(job) == 0 {
                return Ok(progress);
            }
            // 3.4: what is complete already, as it will stay.
            let (mut answer, _) = progress.into_parts();
            let (of_page, body) = manifest::page(edge, engine, caller, job, 1, head).await?.into_parts();
            answer.headers.extend(of_page.headers);
            Ok(Response::from_parts(answer, body))
        }
        JobState::Complete(_) => {
            if now.0 - job.created.0 < YOUNG_MILLIS && poll == Poll::First {
                return Ok(in_progress("finishing", retry));
            }
            manifest::page(edge, engine, caller, job, 1, head).await
        }
        JobState::Failed(failed) => Ok(Problem::job_failed(failed).into_response()),
        JobState::Deleted => Err(Problem::no_such_job()),
    }
}

/// BD-060: whose poll it is.
fn poller(caller: &Caller, head: &Parts) -> Poller {
    match caller.owner().client() {
        Some(client) => Poller::Client(client.clone()),
        None => Poller::peer(witness::peer(head).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
    }
}

/// BD-057 to BD-059
fn in_progress(text: &str, retry: u64) -> Response<Body> {
    let answer = Response::builder()
        .status(StatusCode::ACCEPTED)
        .header("x-progress", text)
        .header(header::RETRY_AFTER, retry)
        .header(header::CACHE_CONTROL, "no-store");
    answer.body(body::empty()).expect("a progress text is plain ASCII")
}
