//! An output file, by a link that we signed or by a token.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::HeaderName;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode, header};

use super::body::{self, Body};
use super::coding;
use super::problem::Problem;
use super::pump::{Coder, Held, Receipt, pump};
use super::range::Selection;
use super::{Edge, authorize, manifest, witness};
use crate::config::LinkMode;
use crate::engine::Engine;
use crate::job::checkpoint::{FileContent, StoredObject};
use crate::job::{Job, JobId, JobState, Owner};
use crate::ledger::record::{Actor, Event, FileBegun, FileEnded, Key, LinkIssued};
use crate::output::layout;
use crate::smart::server::Caller;

/// RFC 9530
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// BD-088, BD-089, BD-091, BD-093. A link that is not good is a plain 403, one whose file is gone a plain 404.
pub(super) async fn file(edge: &Edge, id: JobId, name: &str, head: &Parts) -> Result<Response<Body>, Problem> {
    let Some(caller) = opened_by(edge, id, name, head).await? else { return Ok(plain(StatusCode::FORBIDDEN)) };
    let engine = edge.engine().await?;
    if caller.is_none() {
        edge.check_clock()?;
    }
    let Some((job, object)) = find(edge, &engine, caller.as_ref(), id, name).await? else {
        return Ok(plain(StatusCode::NOT_FOUND));
    };
    let mode = edge.link_mode(&job.owner);
    let may_open = match caller {
        Some(_) => edge.files_need_token(&job.owner),
        // Where links need a token, those that we lead on to are signed themselves.
        None => !edge.files_need_token(&job.owner) || mode == LinkMode::Redirect,
    };
    if !may_open {
        return Ok(plain(StatusCode::FORBIDDEN));
    }
    // A link is signed for GET alone: what a HEAD asks is answered here.
    if let Some(caller) = &caller
        && mode == LinkMode::Redirect
        && head.method != Method::HEAD
    {
        return lead_on(edge, caller, &job, name, &object, head).await;
    }
    let download = engine.download(id, &object.key);
    // Only now: whoever removes the job after this finds the download.
    if engine.job(id).await?.is_none() {
        return Ok(plain(StatusCode::NOT_FOUND));
    }
    // RFC 9110, 14.2: only a GET asks for a part.
    let range = value(&head.headers, &header::RANGE).filter(|_| head.method == Method::GET);
    let takes_gzip = head.headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let takes_gzip = match edge.output.signs_for() {
        // A storage sends what it holds, whatever is asked for.
        Some(_) if caller.is_some() && mode == LinkMode::Redirect => object.plain.is_some(),
        _ => coding::takes_gzip(takes_gzip),
    };
    let form = Form::choose(&object, takes_gzip, range.is_some());
    // Each takes some hundred kibibytes: beyond so many at a time files are sent as they are.
    let permit = (form.coding == OnTheWay::Pack && head.method == Method::GET)
        .then(|| Arc::clone(&edge.packing).try_acquire_owned());
    let (form, permit) = match permit {
        Some(Err(_none_left)) => (Form::choose(&object, false, range.is_some()), None),
        Some(Ok(permit)) => (form, Some(permit)),
        None => (form, None),
    };
    let mut answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/fhir+ndjson")
        .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))
        .header(header::CACHE_CONTROL, "private, no-store, no-transform")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::VARY, "accept-encoding")
        .header(header::ACCEPT_RANGES, if form.has_parts() { "bytes" } else { "none" })
        .header(header::ETAG, &form.etag);
    if let Some(digest) = &form.digest {
        answer = answer.header(REPR_DIGEST, digest);
    }
    if value(&head.headers, &header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, &form.etag)) {
        return Ok(answer.status(StatusCode::NOT_MODIFIED).body(body::empty()).expect("the headers are plain ASCII"));
    }
    if form.is_gzip {
        answer = answer.header(header::CONTENT_ENCODING, "gzip");
    }
    let selected = match range.filter(|_| form.has_parts()) {
        None => Selection::Whole,
        some => Selection::of(some, value(&head.headers, &header::IF_RANGE), &form.etag, object.bytes),
    };
    let (mut answer, selected, length) = match selected {
        Selection::Whole => (answer, 0..object.bytes, form.length),
        Selection::Slice(slice) => {
            let content_range = format!("bytes {}-{}/{}", slice.start, slice.end - 1, object.bytes);
            let length = slice.end - slice.start;
            let answer = answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, content_range);
            (answer, slice, Some(length))
        }
        Selection::Unsatisfiable => {
            let answer = answer.status(StatusCode::RANGE_NOT_SATISFIABLE);
            let answer = answer.header(header::CONTENT_RANGE, format!("bytes */{}", object.bytes));
            return Ok(answer.body(body::empty()).expect("the headers are plain ASCII"));
        }
    };
    if let Some(length) = length {
        answer = answer.header(header::CONTENT_LENGTH, length);
    }
    let body = if head.method == Method::HEAD {
        body::empty()
    } else {
        let source = match edge.output.stream(&object.key, selected.clone()).await {
            Ok(source) => source,
            Err(error) if error.is_missing() => return Ok(plain(StatusCode::NOT_FOUND)),
            Err(error) => return Err(error.into()),
        };
        let receipt = begin(edge, caller.as_ref(), &job, name, selected, head).await?;
        pump((&edge.sending, &edge.runtime), source, form.coding.coder(), Held { download, permit }, receipt)
    };
    Ok(answer.body(body).expect("the headers are plain ASCII"))
}

/// Records that the file is sent, before its first byte.
async fn begin(
    edge: &Edge,
    caller: Option<&Caller>,
    job: &Job,
    name: &str,
    part: Range<u64>,
    head: &Parts,
) -> Result<Receipt, Problem> {
    let by = if caller.is_some() { Key::Token } else { Key::Link };
    let owner = caller.map_or_else(|| job.owner.clone(), Caller::owner);
    let actor = Actor::of(&owner, witness::peer(head));
    let file: Box<str> = name.into();
    let begun = FileBegun { job: job.id, actor, file: file.clone(), by, from: part.start, to: part.end };
    let begun = edge.ledger.append(Event::FileBegun(begun)).await?;
    let ended = FileEnded { job: job.id, file, begun, bytes: 0, whole: false };
    Ok(Receipt { ledger: edge.ledger.clone(), ended })
}

/// What opens the file: its link, or the token of a caller; `None` if nothing does.
async fn opened_by(edge: &Edge, id: JobId, name: &str, head: &Parts) -> Result<Option<Option<Caller>>, Problem> {
    match edge.links.verify(id, name, head.uri.query(), edge.watch.believed()) {
        Ok(()) => Ok(Some(None)),
        // Whose export it is, and so what opens it, nobody is told who shows neither a link nor a token.
        Err(_) if edge.some_files_need_token() && shows_no_link(edge, head) => {
            Ok(Some(Some(authorize::caller(edge, head).await?)))
        }
        Err(refused) => {
            tracing::info!(reason = %refused, "a link was refused");
            Ok(None)
        }
    }
}

/// Whether a request does not even look like one by a link.
fn shows_no_link(edge: &Edge, head: &Parts) -> bool {
    let is_bare = head.uri.query().is_none() || head.headers.contains_key(header::AUTHORIZATION);
    is_bare || edge.link_mode == LinkMode::Proxy
}

/// The file of this name, if there is one for the caller, or for whoever has its link.
async fn find(
    edge: &Edge,
    engine: &Engine,
    caller: Option<&Caller>,
    id: JobId,
    name: &str,
) -> Result<Option<(Job, StoredObject)>, Problem> {
    let Some(job) = engine.job(id).await? else { return Ok(None) };
    // What a client has fetched of it while it ran may be more than it asked for: nothing of it leaves any more.
    if matches!(job.state, JobState::Failed(_)) {
        return Ok(None);
    }
    let files = engine.files(id).await?;
    let is_theirs = match (caller, edge.access.registry()) {
        (Some(caller), _) => caller.owns(&job.owner),
        // Those from a time when there were no clients are nobody's.
        (None, Some(_)) => job.owner != Owner::Open,
        (None, None) => Caller::Anybody.owns(&job.owner),
    };
    // SEC-14: the links of a client that may not have them any more lead nowhere.
    if !is_theirs || engine.is_revoked(&job).await? {
        return Ok(None);
    }
    let named = files.iter().find(|file| {
        file.content.is_for_clients()
            && layout::parse_file_name(name) == Some(file.no)
            && layout::file_name(file.content, file.no) == name
    });
    let Some((file, object)) = named.and_then(|file| Some((file, file.object()?.clone()))) else { return Ok(None) };
    if let Some(caller) = caller {
        let of_file = match file.content {
            FileContent::Resources(name) => BTreeSet::from([name]),
            FileContent::Blocks => file.types().into_keys().collect(),
            // They tell of everything in the export.
            FileContent::Outcomes | FileContent::Deletions | FileContent::Held => job.all_types(&files),
        };
        authorize::require_of(edge, caller, &job, of_file)?;
    }
    Ok(Some((job, object)))
}

/// How long a link is good that somebody with a token is led on to.
const LED_ON_FOR: Duration = Duration::from_mins(5);

/// To a link that is itself the right to the file: clients follow it at once.
async fn lead_on(
    edge: &Edge,
    caller: &Caller,
    job: &Job,
    name: &str,
    object: &StoredObject,
    head: &Parts,
) -> Result<Response<Body>, Problem> {
    let until = edge.watch.believed().saturating_add(LED_ON_FOR);
    let until = job.state.expires().map_or(until, |expires| expires.min(until));
    let link = manifest::signed(edge, job.id, name, object, until).await?;
    let actor = Actor::of(&caller.owner(), witness::peer(head));
    let issued = LinkIssued { job: job.id, actor, file: name.into(), until: until.into() };
    edge.ledger.append(Event::LinkIssued(issued)).await?;
    let answer = Response::builder()
        .status(StatusCode::TEMPORARY_REDIRECT)
        .header(header::LOCATION, link)
        .header(header::CACHE_CONTROL, "private, no-store");
    Ok(answer.body(body::empty()).expect("a link is made of URL characters"))
}

/// In which of its forms a file is sent: each has an entity tag of its own.
struct Form {
    etag: String,
    /// Whether it is sent with `Content-Encoding: gzip`.
    is_gzip: bool,
    coding: OnTheWay,
    /// Unknown where it is packed on the way.
    length: Option<u64>,
    digest: Option<String>,
}

/// What becomes of the stored bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnTheWay {
    AsStored,
    Pack,
    Unpack,
}

impl Form {
    /// As it is stored where the client takes that. Parts are parts of the stored bytes: whoever asks for one of a plain
    /// file gets it plain.
    fn choose(object: &StoredObject, takes_gzip: bool, wants_part: bool) -> Self {
        let StoredObject { bytes, sha256, plain, .. } = object;
        match plain {
            None if takes_gzip && !wants_part => Self {
                // Another version of this program may pack the same lines into other bytes.
                etag: format!("W/\"{sha256}-gzip\""),
                is_gzip: true,
                coding: OnTheWay::Pack,
                length: None,
                digest: None,
            },
            Some(plain) if !takes_gzip => Self {
                etag: format!("\"{}\"", plain.sha256),
                is_gzip: false,
                coding: OnTheWay::Unpack,
                length: Some(plain.bytes),
                digest: digest(&plain.sha256),
            },
            stored => Self {
                etag: format!("\"{sha256}\""),
                is_gzip: stored.is_some(),
                coding: OnTheWay::AsStored,
                length: Some(*bytes),
                digest: digest(sha256),
            },
        }
    }

    fn has_parts(&self) -> bool {
        self.coding == OnTheWay::AsStored
    }
}

impl OnTheWay {
    fn coder(self) -> Coder {
        match self {
            Self::AsStored => Coder::plain(),
            Self::Pack => Coder::gzip(),
            Self::Unpack => Coder::gunzip(),
        }
    }
}

/// The value of `Repr-Digest`: a part has that of the whole.
fn digest(sha256: &str) -> Option<String> {
    let digits = sha256.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let bytes: Vec<u8> = digits.collect::<Option<_>>()?;
    Some(format!("sha-256=:{}:", BASE64_STANDARD.encode(bytes)))
}

fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether one of a list of entity tags is ours; for a cached copy a weak tag is as good as a strong one.
fn matches(tags: &str, etag: &str) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    tags.split(',').map(str::trim).any(|tag| tag == "*" || opaque(tag) == opaque(etag))
}

fn plain(status: StatusCode) -> Response<Body> {
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    let answer = answer.header(header::CACHE_CONTROL, "private, no-store");
    answer.body(body::full(status.canonical_reason().unwrap_or_default())).expect("the headers are plain ASCII")
}
