//! Reads and writes of single resources.

use http::StatusCode;
use http::header::{ETAG, LAST_MODIFIED, LOCATION};

use crate::answer::{Answer, Refusal};
use crate::body::Payload;
use crate::instant;
use crate::store::Record;
use crate::upstream::{Op, SampleUpstream};

/// The current version of a resource, or one of its versions.
///
/// # Errors
/// 404 if it never was there, 410 if it is deleted.
pub(crate) fn read(
    upstream: &SampleUpstream,
    resource_type: &str,
    id: &str,
    version: Option<u64>,
) -> Result<Answer, Refusal> {
    upstream.read(|store| {
        let newest = store.newest(resource_type, id);
        let found = match version {
            None => newest,
            Some(version) => newest.and_then(|_| {
                let same = |record: &&Record| *record.resource_type == *resource_type && *record.id == *id;
                store.records().iter().filter(same).find(|record| record.version == version)
            }),
        };
        let record = found.ok_or_else(|| Refusal::not_found(format!("Resource {resource_type}/{id} is not known")))?;
        show(record, StatusCode::OK).ok_or_else(|| Refusal::gone(deleted_text(record)))
    })
}

/// Stores what a client sent: a new resource, or with `id` a new version of that one.
///
/// # Errors
/// 400 if the body is no resource of this type and id.
pub(crate) fn write(
    upstream: &SampleUpstream,
    base: &str,
    resource_type: &str,
    id: Option<&str>,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let text = str::from_utf8(body).map_err(|_| Refusal::invalid("the body is not UTF-8"))?;
    let shape = crate::splice::Shape::of(text).map_err(|error| Refusal::invalid(format!("{error:#}")))?;
    if shape.resource_type() != resource_type || (id.is_some() && shape.id() != id) {
        return Err(Refusal::invalid("the body names another resource than the URL"));
    }
    let op = match id {
        Some(_) => Op::Update(text.to_owned()),
        None => Op::Create(text.to_owned()),
    };
    let pending = upstream.begin(vec![op]).map_err(|error| Refusal::invalid(format!("{error:#}")))?;
    let name = pending.names().next().unwrap_or_default();
    pending.commit();
    let id = name.rsplit('/').next().unwrap_or_default();
    upstream.read(|store| {
        let record = store.newest(resource_type, id).ok_or_else(|| Refusal::not_found("not stored"))?;
        let status = if record.version == 1 { StatusCode::CREATED } else { StatusCode::OK };
        let location = format!("{base}/{name}/_history/{}", record.version);
        let shown = show(record, status).ok_or_else(|| Refusal::gone(deleted_text(record)))?;
        Ok(shown.with(LOCATION, &location))
    })
}

/// Deletes a resource; what is not there is fine, as FHIR has it.
pub(crate) fn delete(upstream: &SampleUpstream, resource_type: &str, id: &str) -> Answer {
    match upstream.delete(resource_type, id) {
        Ok(()) => Answer::empty(StatusCode::NO_CONTENT),
        Err(_) => Answer::empty(StatusCode::OK),
    }
}

fn show(record: &Record, status: StatusCode) -> Option<Answer> {
    let mut payload = Payload::default();
    payload.push_body(record.body.as_ref()?);
    let answer = Answer::fhir(status, payload).with(ETAG, &format!("W/\"{}\"", record.version));
    Some(match record.last_updated {
        Some(at) => answer.with(LAST_MODIFIED, &instant::http_date(at)),
        None => answer,
    })
}

fn deleted_text(record: &Record) -> String {
    let at = instant::text(record.last_updated.unwrap_or(record.visible_at));
    format!("Resource was deleted at {at}")
}
