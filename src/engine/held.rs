//! What a client holds: the ids of everything that it received by a chain of exports, kept with each of them. Where the
//! server's history does not tell what was deleted, the next export asks for all of these (SEC-27: what is not theirs is not
//! told to them).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write as _;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::deletions::{Deletions, MOST_OF_A_TYPE, PATIENCE};
use super::files::{Files, FilesError};
use super::worker::{IDS_PER_SEARCH, Worker, WorkerError};
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::checkpoint::{FileRecord, StoredObject};
use crate::job::index::IdHash;
use crate::job::{Complete, Job, JobState};
use crate::output::OutputError;
use crate::plan::Boundary;
use crate::profile::PatientForm;
use crate::smart::admit::Grant;
use crate::upstream::client::{Room, SearchError, Upstream};
use crate::upstream::probe::list;

/// Names that are looked at together.
const AT_ONCE: usize = 2_000;
/// Resources that are read to see whether the server gives any at this moment.
const CONTROLS: usize = 3;

/// What the client held after an earlier export.
#[derive(Debug)]
pub(super) struct Base {
    object: StoredObject,
    /// The types of which it is everything.
    types: BTreeSet<ResourceType>,
}

impl Worker {
    /// The export of the same client that ended at `_since` and is of the same kind, if what it left is as it was written:
    /// what others have received is not to be told, and what came to the client by other exports is not known here. Of several the one of the most types.
    pub(super) async fn base(&self, job: &Job) -> Result<Option<Base>, WorkerError> {
        let Some(since) = job.kickoff.since.filter(|_| self.plan.tells_deletions_by_difference) else {
            return Ok(None);
        };
        let ended = |other: &Job| match &other.state {
            JobState::Complete(Complete { transaction_time, .. }) => *transaction_time == since,
            JobState::Accepted | JobState::Running(_) | JobState::Failed(_) | JobState::Deleted => false,
        };
        let mut earlier = self.files.jobs().await?;
        let is_theirs = |other: &Job| {
            other.kickoff.level == job.kickoff.level && other.filters == job.filters && other.owner.is_same(&job.owner)
        };
        earlier.retain(|other| other.id != job.id && is_theirs(other) && ended(other));
        let mut best: Option<Base> = None;
        for other in earlier {
            // With the patients that it names.
            let is_alike = |whole: Job| whole.kickoff.is_alike(&job.kickoff);
            if !self.files.whole_job(other.id).await?.is_some_and(is_alike) {
                continue;
            }
            if let Some(object) = self.files.held_by(other.id).await?
                && let Some(types) = self.files.whole(&object).await?
                && best.as_ref().is_none_or(|best| types.len() > best.types.len())
            {
                best = Some(Base { object, types });
            }
        }
        Ok(best)
    }

    /// Lists those of what the client holds that are gone, of the types whose deletions nobody tells. When they went is not
    /// known: an export as of an instant cannot tell them.
    pub(super) async fn differences(&self, base: &Base, found: &mut Deletions) -> Result<(), WorkerError> {
        if self.plan.boundary == Boundary::AsOf {
            return Ok(());
        }
        let (told, untold): (Vec<_>, _) = found.untold.drain(..).partition(|name| base.types.contains(name));
        found.untold = untold;
        let mut gone: BTreeMap<ResourceType, Vec<Id>> = BTreeMap::new();
        let mut failed = BTreeSet::new();
        let mut held = self.files.read_held(base.object.clone()).await?;
        while let Some(names) = held.next().await? {
            for (resource_type, ids) in by_type(names) {
                if !told.contains(&resource_type) || failed.contains(&resource_type) {
                    continue;
                }
                let hashes: Vec<_> = ids.iter().map(|id| IdHash::of(resource_type, id)).collect();
                let exported = self.files.are_complete(resource_type, &hashes).await?;
                let ids: Vec<_> = ids.into_iter().zip(exported).filter(|(_, here)| !here).map(|(id, _)| id).collect();
                let all = gone.entry(resource_type).or_default();
                match self.gone(resource_type, ids).await? {
                    Some(more) if all.len() + more.len() <= MOST_OF_A_TYPE => all.extend(more),
                    Some(_) | None => drop(failed.insert(resource_type)),
                }
            }
        }
        // Of a type that could not be asked for to its end nothing is told: a part would be taken for all.
        gone.retain(|name, _| !failed.contains(name));
        found.untold.extend(failed);
        found.untold.sort_unstable();
        for (resource_type, id) in gone.into_iter().flat_map(|(name, ids)| ids.into_iter().map(move |id| (name, id))) {
            let hash = IdHash::of(resource_type, &id);
            let received = LocalReference { resource_type, id };
            if let Some(line) = self.reader.grant.admit_deletion_of_received(&received) {
                found.push(received.resource_type, hash, line);
            }
        }
        Ok(())
    }

    /// Takes those out of `asked` that the client received.
    pub(super) async fn received(
        &self,
        base: &Base,
        asked: &mut HashMap<IdHash, LocalReference>,
    ) -> Result<Vec<LocalReference>, WorkerError> {
        let mut received = Vec::new();
        let mut held = self.files.read_held(base.object.clone()).await?;
        while let Some(names) = held.next().await? {
            received.extend(names.iter().filter_map(|name| asked.remove(&IdHash::of(name.resource_type, &name.id))));
        }
        Ok(received)
    }

    /// Those of `ids` that no search finds and no read gives; `None` if the server does not answer, or gives nothing at all
    /// at this moment: then what is missing may only be out of reach.
    async fn gone(&self, resource_type: ResourceType, ids: Vec<Id>) -> Result<Option<Vec<Id>>, WorkerError> {
        let at_once = if self.plan.profile.id_lists { IDS_PER_SEARCH as usize } else { 1 };
        let lists: Vec<_> = ids.chunks(at_once).map(|ids| (resource_type, ids.to_vec())).collect();
        let upstream = self.reader.upstream.within(PATIENCE);
        let answers = self
            .each(&lists, |(name, ids)| {
                let upstream = upstream.clone();
                async move {
                    match missing(&upstream, name, &ids).await {
                        Ok(gone) => Ok(gone),
                        // An export can do without it: whatever goes wrong is only said, but a stop.
                        Err(error) if error.is_stopping() => Err(error.into()),
                        Err(_) => Ok(None),
                    }
                }
            })
            .await?;
        let gone: Option<Vec<_>> = answers.into_iter().map(|(_, gone)| gone).collect();
        Ok(gone.map(|gone| gone.into_iter().flatten().collect()))
    }

    /// Writes what the client holds after this export, where that is known: what it held before but for what is `gone`, and
    /// what is new.
    pub(super) async fn note_held(
        &mut self,
        job: &Job,
        base: Option<&Base>,
        gone: &HashSet<IdHash>,
    ) -> Result<Option<FileRecord>, WorkerError> {
        let is_kept = self.plan.tells_deletions_by_difference && job.kickoff.until.is_none();
        let types: BTreeSet<_> = match (base, job.kickoff.since) {
            (Some(base), Some(_)) => base.types.clone(),
            (_, None) => self.plan.types.keys().copied().collect(),
            (None, Some(_)) => return Ok(None),
        };
        if !is_kept {
            return Ok(None);
        }
        let names: Vec<_> = types.iter().map(|name| name.as_str()).collect();
        let mut file = self.files.begin_held();
        self.files.write_held(&mut file, format!("{}\n", names.join(","))).await?;
        if let Some(base) = base {
            let mut held = self.files.read_held(base.object.clone()).await?;
            while let Some(names) = held.next().await? {
                for (resource_type, ids) in by_type(names) {
                    let hashes: Vec<_> = ids.iter().map(|id| IdHash::of(resource_type, id)).collect();
                    let exported = self.files.are_complete(resource_type, &hashes).await?;
                    let stays = ids.into_iter().zip(hashes.iter().zip(exported));
                    let stays = stays.filter(|(_, (hash, exported))| !exported && !gone.contains(hash));
                    let stays = stays.map(|(id, _)| LocalReference { resource_type, id });
                    self.files.write_held(&mut file, lines(stays)).await?;
                }
            }
        }
        for (resource_type, object) in self.files.data() {
            if !types.contains(&resource_type) {
                continue;
            }
            let mut written = self.files.lines(&object).await?;
            while let Some(line) = written.next().await.map_err(FilesError::from)? {
                let entry = Entry::parse(&line, Scope::of(resource_type));
                let entry = entry.ok_or(FilesError::Output(OutputError::Damaged))?;
                let name = LocalReference { resource_type, id: entry.id };
                self.files.write_held(&mut file, lines(std::iter::once(name))).await?;
            }
        }
        Ok(Some(self.files.finish_held(file).await?))
    }
}

/// Those of `ids` that are gone, as is shown by a search that did not find them, a read that did not give them, and another
/// resource that was read after that; `None` if nothing shows it.
async fn missing(upstream: &Upstream, name: ResourceType, ids: &[Id]) -> Result<Option<Vec<Id>>, SearchError> {
    let named: Vec<_> = ids.iter().collect();
    let query = SearchQuery::new(name).param("_id", list(&named, PatientForm::Id)).count(IDS_PER_SEARCH).ids_only();
    let Some(found) = ids_of(upstream, &query).await? else { return Ok(None) };
    let mut gone = Vec::new();
    let mut alive: Vec<_> = ids.iter().filter(|id| found.contains(id)).collect();
    for id in ids.iter().filter(|id| !found.contains(id)) {
        match upstream.read(name, id).await? {
            None => gone.push(id.clone()),
            Some(_) => alive.push(id),
        }
    }
    if gone.is_empty() {
        return Ok(Some(gone));
    }
    let some = ids_of(upstream, &SearchQuery::new(name).count(1).ids_only()).await?;
    let others: Vec<_> = alive.into_iter().chain(some.iter().flatten()).collect();
    if others.is_empty() && some.is_some() {
        // There is nothing of this type at all, and the server says so.
        return Ok(Some(gone));
    }
    // One of them may have gone in between.
    for other in others.into_iter().take(CONTROLS) {
        if upstream.read(name, other).await?.is_some() {
            return Ok(Some(gone));
        }
    }
    Ok(None)
}

/// The ids on the first page of a search; `None` if it is refused.
async fn ids_of(upstream: &Upstream, query: &SearchQuery) -> Result<Option<Vec<Id>>, SearchError> {
    match upstream.page(query, Scope::of(query.resource_type()), Room::Share).await {
        Ok(answer) if answer.page.is_troubled() => Ok(None),
        Ok(answer) => Ok(Some(answer.page.entries.into_iter().map(|entry| entry.id).collect())),
        Err(SearchError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn lines(names: impl Iterator<Item = LocalReference>) -> String {
    use std::fmt::Write as _;
    names.fold(String::new(), |mut text, LocalReference { resource_type, id }| {
        writeln!(text, "{resource_type}/{id}").expect("a String takes all that is written");
        text
    })
}

fn by_type(names: Vec<LocalReference>) -> BTreeMap<ResourceType, Vec<Id>> {
    let mut by_type: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for LocalReference { resource_type, id } in names {
        by_type.entry(resource_type).or_default().push(id);
    }
    by_type
}

impl Files {
    /// Whether what a client holds is as it was written; its types.
    async fn whole(&self, object: &StoredObject) -> Result<Option<BTreeSet<ResourceType>>, FilesError> {
        let mut held = match self.read_held(object.clone()).await {
            Ok(held) => held,
            Err(FilesError::Output(error)) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        loop {
            match held.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(held.types),
                Err(FilesError::Output(OutputError::Damaged)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_held(&self, object: StoredObject) -> Result<Held, FilesError> {
        let lines = self.lines(&object).await?;
        Ok(Held { object, lines, types: None })
    }

    /// The lines of an object.
    pub(super) async fn lines(&self, object: &StoredObject) -> Result<Lines, FilesError> {
        let gzip = object.plain.is_some().then(|| MultiGzDecoder::new(Vec::new()));
        Ok(Lines { stream: self.read(object).await?, gzip, digest: Context::new(&SHA256), rest: BytesMut::new() })
    }

    async fn write_held(&self, file: &mut super::files::OpenFile, text: String) -> Result<(), FilesError> {
        if text.is_empty() { Ok(()) } else { self.put_held(file, Grant::note_held(text)).await }
    }
}

/// The lines of an object, one after another.
pub(super) struct Lines {
    stream: BoxStream<'static, Result<Bytes, OutputError>>,
    /// What unpacks an object that is stored as gzip.
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    digest: Context,
    rest: BytesMut,
}

impl Lines {
    /// The next line without its end; `None` at the end of all.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, OutputError> {
        let mut searched = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', self.rest.get(searched..).unwrap_or_default()) {
                let mut line = self.rest.split_to(searched + end + 1);
                line.truncate(searched + end);
                return Ok(Some(line));
            }
            searched = self.rest.len();
            let Some(chunk) = self.stream.next().await else {
                if let Some(mut gzip) = self.gzip.take() {
                    self.stream = futures_util::stream::empty().boxed();
                    gzip.try_finish().map_err(|_| OutputError::Damaged)?;
                    self.rest.extend_from_slice(gzip.get_ref());
                    continue;
                }
                // Every line of ours has an end.
                return if self.rest.is_empty() { Ok(None) } else { Err(OutputError::Damaged) };
            };
            let chunk = chunk?;
            self.digest.update(&chunk);
            match &mut self.gzip {
                None => self.rest.extend_from_slice(&chunk),
                Some(gzip) => {
                    gzip.write_all(&chunk).map_err(|_| OutputError::Damaged)?;
                    self.rest.extend_from_slice(gzip.get_ref());
                    gzip.get_mut().clear();
                }
            }
        }
    }

    /// SHA-256 of all that was read, in hexadecimal digits.
    pub(super) fn sha256(&mut self) -> String {
        let digest = std::mem::replace(&mut self.digest, Context::new(&SHA256)).finish();
        digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// Reads back what a client held, some names at a time.
struct Held {
    object: StoredObject,
    lines: Lines,
    types: Option<BTreeSet<ResourceType>>,
}

impl Held {
    /// The next names; `None` at the end, if all of it is what was written.
    ///
    /// # Errors
    /// [`OutputError::Damaged`] if it is not.
    async fn next(&mut self) -> Result<Option<Vec<LocalReference>>, FilesError> {
        let mut names = Vec::new();
        while names.len() < AT_ONCE {
            let Some(line) = self.lines.next().await? else { break };
            let text = std::str::from_utf8(&line).map_err(|_| OutputError::Damaged)?;
            if self.types.is_none() {
                self.types = Some(text.split(',').filter_map(ResourceType::parse).collect());
            } else {
                names.push(LocalReference::parse_on(text, &[]).ok_or(OutputError::Damaged)?);
            }
        }
        if names.is_empty() && self.lines.sha256() != self.object.sha256 {
            return Err(OutputError::Damaged.into());
        }
        Ok((!names.is_empty()).then_some(names))
    }
}
