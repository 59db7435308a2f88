//! A manifest, or a page of one, as it is read: every read signs its links anew.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use http::request::Parts;
use http::{Response, header};

use super::body::{self, Body};
use super::problem::Problem;
use super::{Edge, authorize, witness};
use crate::bulk::manifest::{Manifest, ManifestFile, TypeProof};
use crate::engine::Engine;
use crate::fhir::datatypes::{Instant, Millis};
use crate::fhir::outcome::IssueSeverity;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileRecord, StoredObject};
use crate::job::pages::Pages;
use crate::job::{Job, JobId, JobState};
use crate::ledger::record::{Actor, Contents, Event, Links, ManifestRead};
use crate::output::{OutputError, layout};
use crate::smart::server::Caller;

/// What a job's state says for its manifest.
struct Said<'a> {
    transaction_time: Instant,
    pages: Pages<'a>,
    /// None while it runs.
    expires: Option<Millis>,
    /// Where there is one page.
    proof: Option<&'a BTreeMap<ResourceType, TypeProof>>,
    severities: BTreeMap<IssueSeverity, u64>,
}

impl<'a> Said<'a> {
    fn by(state: &'a JobState) -> Option<Self> {
        match state {
            JobState::Running(running) => Some(Self {
                transaction_time: running.transaction_time?,
                pages: Pages::so_far(&running.pages),
                expires: None,
                proof: None,
                severities: BTreeMap::new(),
            }),
            JobState::Complete(complete) => Some(Self {
                transaction_time: complete.transaction_time,
                pages: Pages::all(&complete.pages),
                expires: Some(complete.expires),
                proof: complete.pages.is_empty().then_some(&complete.proof),
                severities: complete.severities.clone(),
            }),
            JobState::Accepted | JobState::Failed(_) | JobState::Deleted => None,
        }
    }
}

/// How many pages of a job's manifest are whole.
pub(super) fn pages(job: &Job) -> usize {
    Said::by(&job.state).map_or(0, |said| said.pages.count())
}

/// BD-065 to BD-087: page `number` of a job's manifest; `Expires` is when the first of its links does (DS-013, DS-014).
pub(super) async fn page(
    edge: &Edge,
    engine: &Engine,
    caller: &Caller,
    job: &Job,
    number: usize,
    head: &Parts,
) -> Result<Response<Body>, Problem> {
    let said = Said::by(&job.state).filter(|said| (1..=said.pages.count()).contains(&number));
    let said = said.ok_or_else(Problem::no_such_page)?;
    let mut files = engine.files(job.id).await?;
    // SEC-15: a manifest tells of all types of its job, also of those that came along.
    authorize::require_of(edge, caller, job, job.all_types(&files))?;
    files.retain(|file| said.pages.hold(number, file));
    let now = edge.watch.believed();
    // A link never outlives what signs it, nor its file.
    let wanted = edge.links.expiry(now).min(said.expires.unwrap_or(Millis(i64::MAX)));
    let links_until = match edge.output.signs_for() {
        _ if edge.files_need_token(&job.owner) => said.expires.unwrap_or(wanted),
        Some(longest) => wanted.min(now.saturating_add(longest)),
        None => wanted,
    };
    let entries = files.iter().filter(|file| file.content.is_for_clients());
    let entries: Vec<_> = entries.filter_map(|file| Some((file, file.object()?))).collect();
    let listed: Vec<_> = entries.iter().map(|(file, object)| listed(edge, job, file, object, links_until)).collect();
    // In their order; some clouds are asked for each signature.
    let signed = futures_util::stream::iter(listed).buffered(SIGNED_AT_ONCE).try_collect::<Vec<_>>();
    let mut signed = tokio::select! {
        signed = signed => signed?,
        () = edge.clock.sleep(SIGNING_PATIENCE) => {
            return Err(Problem::unavailable("the links cannot be signed at the moment"));
        }
    };
    // A block that goes on does so in a file of the same page: they were completed together.
    let numbers: Vec<_> = entries.iter().map(|(file, _)| file.no).collect();
    for (at, (file, _)) in entries.iter().enumerate() {
        let next = file.continued_in().and_then(|next| numbers.iter().position(|no| *no == next));
        let url = next.and_then(|next| signed.get(next)).map(|(_, next)| next.url.clone());
        if let Some((_, entry)) = signed.get_mut(at) {
            entry.continued_in = url;
        }
    }
    let actor = Actor::of(&caller.owner(), witness::peer(head));
    edge.ledger.append(Event::Manifest(read(edge, actor, job, &files, links_until))).await?;
    let (mut output, mut deleted, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    for (content, entry) in signed {
        match content {
            FileContent::Resources(_) | FileContent::Blocks => output.push(entry),
            FileContent::Deletions => deleted.push(entry),
            FileContent::Outcomes => outcomes.push(entry),
            FileContent::Held => {}
        }
    }
    // They were counted together.
    if let [all] = &mut outcomes[..] {
        all.severities = said.severities.clone();
    }
    let manifest = Manifest {
        transaction_time: said.transaction_time,
        request: job.request.clone(),
        requires_access_token: edge.files_need_token(&job.owner),
        organized_by: job.kickoff.shape.organized_by,
        output,
        deleted: job.kickoff.since.map(|_| deleted),
        outcomes,
        proof: said.proof.cloned(),
        next: (number < said.pages.count()).then(|| edge.links.page(job.id, number + 1)),
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
        FileContent::Resources(resource_type) => Some(resource_type),
        FileContent::Blocks => None,
        FileContent::Outcomes | FileContent::Deletions | FileContent::Held => Some(ResourceType::OPERATION_OUTCOME),
    };
    let listed = async move {
        let url = link(edge, job, file, object, until).await?;
        let StoredObject { lines: count, bytes, sha256, plain, .. } = object.clone();
        let (is_gzip, severities, continued_in) = (plain.is_some(), BTreeMap::new(), None);
        let entry = ManifestFile { resource_type, url, count, bytes, sha256, is_gzip, severities, continued_in };
        Ok((file.content, entry))
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
    Ok(edge.output.sign_until(&object.key, until, &|| edge.watch.believed()).await?.into())
}
