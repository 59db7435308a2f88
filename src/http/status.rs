//! The status request, and the manifest once there is one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::body::{self, Body};
use super::polls::{Poll, Poller};
use super::problem::Problem;
use super::{Edge, authorize, witness};
use crate::bulk::manifest::{Manifest, ManifestFile};
use crate::bulk::shape::StatusForm;
use crate::clock;
use crate::engine::Engine;
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileRecord, StoredObject};
use crate::job::{Complete, Job, JobId, JobState};
use crate::ledger::record::{Actor, Contents, Event, Links, ManifestRead};
use crate::output::{OutputError, layout};
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
    let job = match edge.own_job(&engine, caller, id).await {
        Ok(job) => job,
        Err(problem) => {
            if problem.is_of_nothing() {
                edge.polls.was_for_nothing(&poller);
            }
            return Err(problem);
        }
    };
    let retry = retry_seconds(&job, clock::now(&*edge.clock));
    edge.polls.answered(id, retry).await;
    // What is refused before this is said of the request alone.
    let answer = standing(edge, &engine, caller, &job, head, (poll, retry)).await?;
    Ok(in_form(job.kickoff.shape.status, answer))
}

/// When an export may be asked about again. Small pauses early: most exports are short, and the others do not mind.
fn retry_seconds(job: &Job, now: Millis) -> u64 {
    let retry = if job.state.is_active() { (now.0 - job.created.0) / 10_000 } else { 1 };
    retry.clamp(1, LONGEST_RETRY).unsigned_abs()
}

/// BD-057, BD-061: with `separate-export-status` how the export stands moves to a header of its own.
fn in_form(form: StatusForm, mut answer: Response<Body>) -> Response<Body> {
    match form {
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
    let (id, now) = (job.id, clock::now(&*edge.clock));
    match &job.state {
        JobState::Accepted | JobState::Running(_) => Ok(in_progress(&engine.progress(id), retry)),
        JobState::Complete(complete) => {
            if now.0 - job.created.0 < YOUNG_MILLIS && poll == Poll::First {
                return Ok(in_progress("finishing", retry));
            }
            let files = engine.files(id).await?;
            // SEC-15: a manifest tells of all types of its job, also of those that came along.
            authorize::require(edge, caller, job.all_types(&files))?;
            let actor = Actor::of(&caller.owner(), witness::peer(head));
            manifest(edge, actor, job, complete, &files, now).await
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

/// BD-065 to BD-077: every read signs anew (DS-014); `Expires` is when the first of the links does (DS-013).
async fn manifest(
    edge: &Edge,
    actor: Actor,
    job: &Job,
    complete: &Complete,
    files: &[FileRecord],
    now: Millis,
) -> Result<Response<Body>, Problem> {
    // A link never outlives what signs it, nor its file.
    let wanted = edge.links.expiry(now).min(complete.expires);
    let links_until = match edge.output.signs_for() {
        _ if edge.files_need_token(&job.owner) => complete.expires,
        Some(longest) => wanted.min(now.saturating_add(longest)),
        None => wanted,
    };
    let entries = files.iter().filter(|file| file.content.is_for_clients());
    let entries = entries.filter_map(|file| Some((file, file.object()?)));
    let listed: Vec<_> = entries.map(|(file, object)| listed(edge, job, file, object, links_until)).collect();
    // In their order; some clouds are asked for each signature.
    let signed = futures_util::stream::iter(listed).buffered(SIGNED_AT_ONCE).try_collect::<Vec<_>>();
    let signed = tokio::select! {
        signed = signed => signed?,
        () = edge.clock.sleep(SIGNING_PATIENCE) => {
            return Err(Problem::unavailable("the links cannot be signed at the moment"));
        }
    };
    edge.ledger.append(Event::Manifest(read(edge, actor, job, files, links_until))).await?;
    let (mut output, mut deleted, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    for (content, entry) in signed {
        match content {
            FileContent::Resources(_) => output.push(entry),
            FileContent::Deletions => deleted.push(entry),
            FileContent::Outcomes => outcomes.push(ManifestFile { severities: complete.severities.clone(), ..entry }),
            FileContent::Held => {}
        }
    }
    let manifest = Manifest {
        transaction_time: complete.transaction_time,
        request: job.request.clone(),
        requires_access_token: edge.files_need_token(&job.owner),
        output,
        deleted: job.kickoff.since.map(|_| deleted),
        outcomes,
        proof: complete.proof.clone(),
    };
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CACHE_CONTROL, "private, no-store, no-transform")
        .header(header::EXPIRES, super::http_date(links_until));
    Ok(answer.body(body::full(manifest.to_json(job.kickoff.shape.release))).expect("a date is a header value"))
}

/// What the ledger is told of it.
fn read(edge: &Edge, actor: Actor, job: &Job, files: &[FileRecord], until: Millis) -> ManifestRead {
    let links = match edge.output.signs_for() {
        _ if edge.files_need_token(&job.owner) => Links::WithToken,
        Some(_) => Links::Storage,
        None => Links::Ours,
    };
    let contents = Contents::of(files);
    ManifestRead { job: job.id, actor, links, issued: contents.files, until: until.into(), contents }
}

/// How long a client waits for links that somebody else has to sign.
const SIGNING_PATIENCE: Duration = Duration::from_secs(20);
/// Signatures that are made at the same time.
const SIGNED_AT_ONCE: usize = 16;

/// One file as the manifest lists it.
fn listed<'a>(
    edge: &'a Edge,
    job: &'a Job,
    file: &'a FileRecord,
    object: &'a StoredObject,
    until: Millis,
) -> BoxFuture<'a, Result<(FileContent, ManifestFile), OutputError>> {
    let resource_type = match file.content {
        FileContent::Resources(resource_type) => resource_type,
        FileContent::Outcomes | FileContent::Deletions | FileContent::Held => ResourceType::OPERATION_OUTCOME,
    };
    let listed = async move {
        let url = link(edge, job, file, object, until).await?;
        let StoredObject { lines: count, bytes, sha256, plain, .. } = object.clone();
        let (is_gzip, severities) = (plain.is_some(), BTreeMap::new());
        Ok((file.content, ManifestFile { resource_type, url, count, bytes, sha256, is_gzip, severities }))
    };
    listed.boxed()
}

/// A link to one file: of the storage itself where it signs, else ours; where a token is needed it is always ours.
async fn link(
    edge: &Edge,
    job: &Job,
    file: &FileRecord,
    object: &StoredObject,
    until: Millis,
) -> Result<String, OutputError> {
    let name = layout::file_name(file.content, file.no);
    if edge.files_need_token(&job.owner) {
        return Ok(edge.links.stable_file(job.id, &name));
    }
    signed(edge, job.id, &name, object, until).await
}

/// A link that is itself the right to the file, until then.
pub(super) async fn signed(
    edge: &Edge,
    job: JobId,
    name: &str,
    object: &StoredObject,
    until: Millis,
) -> Result<String, OutputError> {
    if edge.output.signs_for().is_none() {
        return Ok(edge.links.file(job, name, until));
    }
    // Whole seconds from now, rounded up: storages leave fractions away from when it was signed, and no link may end
    // before the manifest says.
    let left = until.0.saturating_sub(clock::now(&*edge.clock).0).max(0).unsigned_abs().div_ceil(1000);
    Ok(edge.output.sign(&object.key, Duration::from_secs(left)).await?.into())
}
