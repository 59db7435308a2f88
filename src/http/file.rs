//! An output file, by a link that we signed.

use futures_util::TryStreamExt;
use http::request::Parts;
use http::{Method, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;

use super::Edge;
use super::body::{self, Body};
use super::problem::Problem;
use super::range::Selection;
use crate::clock;
use crate::job::JobId;
use crate::output::layout;

/// BD-088, BD-089, BD-093. A link that is not good is a plain 403, one whose file is gone a plain 404.
pub(super) async fn file(edge: &Edge, id: JobId, name: &str, head: &Parts) -> Result<Response<Body>, Problem> {
    let now = clock::now(&*edge.clock);
    if let Err(refused) = edge.links.verify(id, name, head.uri.query(), now) {
        tracing::info!(reason = %refused, "a link was refused");
        return Ok(plain(StatusCode::FORBIDDEN));
    }
    let engine = edge.engine().await?;
    if engine.job(id).await?.is_none() {
        return Ok(plain(StatusCode::NOT_FOUND));
    }
    let files = engine.files(id).await?;
    let named = files.iter().find(|file| {
        file.content.is_for_clients()
            && layout::parse_file_name(name) == Some(file.no)
            && layout::file_name(file.content, file.no) == name
    });
    let Some(object) = named.and_then(|file| file.object()) else { return Ok(plain(StatusCode::NOT_FOUND)) };
    let etag = format!("\"{}\"", object.sha256);
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/fhir+ndjson")
        .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))
        .header(header::CACHE_CONTROL, "private, no-store, no-transform")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, &etag);
    let value = |name| head.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    if value(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, &etag)) {
        return Ok(answer.status(StatusCode::NOT_MODIFIED).body(body::empty()).expect("the headers are plain ASCII"));
    }
    // RFC 9110, 14.2: only a GET asks for a part.
    let range = value(header::RANGE).filter(|_| head.method == Method::GET);
    let (answer, selected) = match Selection::of(range, value(header::IF_RANGE), &etag, object.bytes) {
        Selection::Whole => (answer, 0..object.bytes),
        Selection::Slice(slice) => {
            let content_range = format!("bytes {}-{}/{}", slice.start, slice.end - 1, object.bytes);
            (answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, content_range), slice)
        }
        Selection::Unsatisfiable => {
            let answer = answer.status(StatusCode::RANGE_NOT_SATISFIABLE);
            let answer = answer.header(header::CONTENT_RANGE, format!("bytes */{}", object.bytes));
            return Ok(answer.body(body::empty()).expect("the headers are plain ASCII"));
        }
    };
    let answer = answer.header(header::CONTENT_LENGTH, selected.end - selected.start);
    let body = if head.method == Method::HEAD {
        body::empty()
    } else {
        let stream = match edge.output.stream(&object.key, selected).await {
            Ok(stream) => stream,
            Err(error) if error.is_missing() => return Ok(plain(StatusCode::NOT_FOUND)),
            Err(error) => return Err(error.into()),
        };
        body::map(StreamBody::new(stream.map_ok(Frame::data)))
    };
    Ok(answer.body(body).expect("the headers are plain ASCII"))
}

/// Whether one of a list of entity tags is ours; for a cached copy a weak tag is as good as a strong one.
fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn plain(status: StatusCode) -> Response<Body> {
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    let answer = answer.header(header::CACHE_CONTROL, "private, no-store");
    answer.body(body::full(status.canonical_reason().unwrap_or_default())).expect("the headers are plain ASCII")
}
