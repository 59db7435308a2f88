//! The status request, and the manifest once there is one.

use http::{Response, StatusCode, header};

use super::Edge;
use super::body::{self, Body};
use super::problem::Problem;
use crate::bulk::manifest::{Manifest, ManifestFile};
use crate::clock;
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileRecord};
use crate::job::{Complete, Job, JobId, JobState};
use crate::output::layout;

/// A job younger than this has its first poll answered with 202 even if it has finished: clients take a first
/// poll that brings the manifest badly.
const YOUNG_MILLIS: i64 = 60_000;
/// Longest pause between polls that is asked for, in seconds.
const LONGEST_RETRY: i64 = 30;

pub(super) async fn status(edge: &Edge, id: JobId) -> Result<Response<Body>, Problem> {
    let engine = edge.engine().await?;
    let job = engine.job(id).await?.ok_or_else(Problem::no_such_job)?;
    let now = clock::now(&*edge.clock);
    match &job.state {
        JobState::Accepted | JobState::Running(_) => {
            edge.polled.insert(id, ()).await;
            Ok(in_progress(&engine.progress(id), now.0 - job.created.0))
        }
        JobState::Complete(complete) => {
            if now.0 - job.created.0 < YOUNG_MILLIS && !edge.polled.contains_key(&id) {
                edge.polled.insert(id, ()).await;
                return Ok(in_progress("finishing", 0));
            }
            let files = engine.files(id).await?;
            Ok(manifest(edge, &job, complete, &files, now))
        }
        JobState::Failed(failed) => Err(Problem::job_failed(failed)),
        JobState::Deleted => Err(Problem::no_such_job()),
    }
}

/// BD-057 to BD-059
fn in_progress(text: &str, age_millis: i64) -> Response<Body> {
    // Small pauses early: most exports are short, and the others do not mind.
    let retry = (age_millis / 10_000).clamp(1, LONGEST_RETRY);
    let answer = Response::builder()
        .status(StatusCode::ACCEPTED)
        .header("x-progress", text)
        .header(header::RETRY_AFTER, retry)
        .header(header::CACHE_CONTROL, "no-store");
    answer.body(body::empty()).expect("a progress text is plain ASCII")
}

/// BD-065 to BD-077: every read signs anew (DS-014); `Expires` is when the first of the links does (DS-013).
fn manifest(edge: &Edge, job: &Job, complete: &Complete, files: &[FileRecord], now: Millis) -> Response<Body> {
    let links_until = edge.links.expiry(now).min(complete.expires);
    let listed = |wanted: fn(FileContent) -> bool| {
        let files = files.iter().filter(move |file| wanted(file.content));
        files.filter_map(|file| {
            let object = file.object()?;
            let resource_type = match file.content {
                FileContent::Resources(resource_type) => resource_type,
                FileContent::Outcomes | FileContent::Deletions | FileContent::Held => ResourceType::OPERATION_OUTCOME,
            };
            Some(ManifestFile {
                resource_type,
                url: edge.links.file(job.id, &layout::file_name(file.content, file.no), links_until),
                count: object.lines,
                bytes: object.bytes,
                sha256: object.sha256.clone(),
            })
        })
    };
    let manifest = Manifest {
        transaction_time: complete.transaction_time,
        request: job.request.clone(),
        requires_access_token: false,
        output: listed(|content| matches!(content, FileContent::Resources(_))).collect(),
        deleted: job.kickoff.since.map(|_| listed(|content| matches!(content, FileContent::Deletions)).collect()),
        error: listed(|content| matches!(content, FileContent::Outcomes)).collect(),
        proof: complete.proof.clone(),
    };
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CACHE_CONTROL, "private, no-store, no-transform")
        .header(header::EXPIRES, super::http_date(links_until));
    answer.body(body::full(manifest.to_json())).expect("a date is a header value")
}
