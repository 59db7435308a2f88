//! From a request to its answer: which interaction is it?

use http::header::{HeaderMap, IF_NONE_MATCH};
use http::{Method, StatusCode};

use crate::answer::{Answer, Refusal};
use crate::body::Payload;
use crate::lies::Posts;
use crate::searchset::Manner;
use crate::settings::OwnExport;
use crate::upstream::SampleUpstream;
use crate::{capability, everything, export, history, instance, searchset};

/// The path that all FHIR URLs begin with.
pub(crate) const BASE_PATH: &str = "/fhir";

/// A request whose body, if it matters, has been read.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// Below the base, `%24` and the like decoded, without slashes at its ends.
    pub(crate) path: String,
    pub(crate) pairs: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// The base URL as the client sees it, or the foreign one that links shall show.
    pub(crate) base: String,
}

/// An answer, and whether it is to be indented.
pub(crate) fn answer(upstream: &SampleUpstream, asked: Asked) -> (Answer, bool) {
    let by_default = upstream.settings().pretty;
    let pretty =
        asked.pairs.iter().rfind(|(name, _)| name == "_pretty").map_or(by_default, |(_, value)| value == "true");
    match dispatch(upstream, asked) {
        Ok((answer, listed)) => (answer, pretty || listed),
        Err(refusal) => (refusal.into(), pretty),
    }
}

fn dispatch(upstream: &SampleUpstream, asked: Asked) -> Result<(Answer, bool), Refusal> {
    let Asked { method, path, pairs, headers, body, base } = asked;
    let segments: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
    let get = method == Method::GET || method == Method::HEAD;
    let answer = match segments.as_slice() {
        [] if get => return searchset::later_page(upstream, &base, &pairs),
        ["metadata"] if get => Answer::fhir(StatusCode::OK, capability::statement(upstream, &base)),
        path if get && export::is_offered(upstream, path) => export::kick_off(upstream, &base, &headers)?,
        ["$export-poll-status"] if method == Method::DELETE && has_own_export(upstream) => {
            export::end(upstream, &pairs)?
        }
        [] if method == Method::POST && has_own_export(upstream) => export::batch(upstream, &base, &headers, &body)?,
        ["$bytes"] if get => bytes(&pairs)?,
        ["_history"] | [_, "_history"] | [_, _, "_history"] if get && !upstream.settings().history => {
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "not-supported", "there is no history here"));
        }
        ["_history"] if get => history::history(upstream, &base, &path, &pairs, |_| true)?,
        [resource_type, "_history"] if get => {
            history::history(upstream, &base, &path, &pairs, |record| *record.resource_type == **resource_type)?
        }
        [resource_type, id, "_history"] if get => {
            let same = |record: &crate::store::Record| *record.resource_type == **resource_type && *record.id == **id;
            history::history(upstream, &base, &path, &pairs, same)?
        }
        [resource_type, id, "_history", version] if get => {
            let version = version.parse().map_err(|_| Refusal::not_found("no such version"))?;
            instance::read(upstream, resource_type, id, Some(version))?
        }
        [name] | [name, _] if name.starts_with(['$', '_']) => return Err(unknown(&path)),
        [_, operation] if operation.starts_with('$') => return Err(unknown(&path)),
        ["Patient", id, "$everything"] if get => everything::everything(upstream, &base, id, &pairs)?,
        [resource_type] if get => searchset::search(upstream, &base, resource_type, pairs, Manner::get(&headers))?,
        [_, "_search"] if method == Method::POST && upstream.settings().lies.posts == Posts::Refused => {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not-supported", "no searches by POST here"));
        }
        [resource_type, "_search"] if method == Method::POST => {
            searchset::search(upstream, &base, resource_type, pairs, Manner::post(&headers))?
        }
        [resource_type] if method == Method::POST => instance::write(upstream, &base, resource_type, None, &body)?,
        [_, _] if get && upstream.settings().lies.reads_nothing => return Err(unknown(&path)),
        ["Binary", id] if get && upstream.settings().lies.binaries_at.is_some() => {
            let place = upstream.settings().lies.binaries_at.clone().unwrap_or_default();
            Answer::empty(StatusCode::FOUND).with(http::header::LOCATION, &format!("{place}/Binary/{id}"))
        }
        [resource_type, id] if get && upstream.settings().lies.poisoned.contains(&format!("{resource_type}/{id}")) => {
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", "a required field is missing"));
        }
        [resource_type, id] if get => unchanged(&headers, instance::read(upstream, resource_type, id, None)?),
        [resource_type, id] if method == Method::PUT => {
            instance::write(upstream, &base, resource_type, Some(id), &body)?
        }
        [resource_type, id] if method == Method::DELETE => instance::delete(upstream, resource_type, id),
        [] | [_] | [_, _] => {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not-supported", format!("no {method} here")));
        }
        _ => return Err(unknown(&path)),
    };
    Ok((answer, false))
}

fn has_own_export(upstream: &SampleUpstream) -> bool {
    upstream.settings().own_export != OwnExport::None
}

fn unknown(path: &str) -> Refusal {
    Refusal::not_found(format!("there is nothing at {path}"))
}

/// `$bytes?n=…`: so many arbitrary bytes, for tests of what passes such things through.
fn bytes(pairs: &[(String, String)]) -> Result<Answer, Refusal> {
    let asked = pairs.iter().find(|(name, _)| name == "n").and_then(|(_, value)| value.parse().ok());
    let len = asked.ok_or_else(|| Refusal::invalid("n is a number of bytes"))?;
    Ok(Answer::plain("application/octet-stream", Payload::filler(len)))
}

/// 304 where the client has this version already.
fn unchanged(headers: &HeaderMap, answer: Answer) -> Answer {
    let same = headers.get(IF_NONE_MATCH).is_some_and(|known| answer.headers.get(http::header::ETAG) == Some(known));
    if same { Answer { status: StatusCode::NOT_MODIFIED, payload: Payload::default(), ..answer } } else { answer }
}
