//! What a client holds: the ids of everything that it received by a chain of exports, kept with each of them. Where the
//! server's history does not tell what was deleted, the next export asks for all of these (SEC-27: what is not theirs is not
//! told to them).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::deletions::{Deletions, MOST_OF_A_TYPE, PATIENCE};
use super::files::{Files, FilesError};
use super::read::ReadError;
use super::worker::{IDS_PER_SEARCH, Worker, WorkerError};
use crate::fhir::bundle::Scope;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::checkpoint::{FileRecord, StoredObject};
use crate::job::index::IdHash;
use crate::job::{Complete, Job, JobState};
use crate::output::OutputError;
use crate::profile::PatientForm;
use crate::smart::admit::{Grant, Line};
use crate::upstream::client::{Room, SearchError};
use crate::upstream::probe::list;

/// Names that are looked at together.
const AT_ONCE: usize = 2_000;
/// A line that is longer is none of ours.
const LONGEST_LINE: usize = 4_096;

/// What the client held after an earlier export.
#[derive(Debug)]
pub(super) struct Base {
    object: StoredObject,
    /// The types of which it is everything.
    types: BTreeSet<ResourceType>,
}

impl Worker {
    /// The newest export of the same kind that the client may have built on, if what it left is as it was written.
    pub(super) async fn base(&self, job: &Job) -> Result<Option<Base>, WorkerError> {
        let Some(since) = job.kickoff.since.filter(|_| self.plan.tells_deletions_by_difference) else {
            return Ok(None);
        };
        let mut earlier: Vec<_> = self.files.jobs().await?;
        earlier.retain(|other| other.id != job.id && other.kickoff.level == job.kickoff.level);
        let ended = |job: &Job| match &job.state {
            JobState::Complete(Complete { transaction_time, .. }) => Some(*transaction_time),
            JobState::Accepted | JobState::Running(_) | JobState::Failed(_) | JobState::Deleted => None,
        };
        let mut earlier: Vec<_> = earlier.iter().filter_map(|job| Some((ended(job)?, job))).collect();
        earlier.retain(|(time, _)| *time <= since);
        earlier.sort_unstable_by_key(|(time, job)| (*time, job.created));
        while let Some((_, job)) = earlier.pop() {
            if let Some(object) = self.files.held_by(job.id).await?
                && let Some(types) = self.files.whole(&object).await?
            {
                return Ok(Some(Base { object, types }));
            }
        }
        Ok(None)
    }

    /// Lists those of what the client holds that are gone, of the types whose deletions nobody tells.
    pub(super) async fn differences(&self, base: &Base, found: &mut Deletions) -> Result<(), WorkerError> {
        let (told, untold): (Vec<_>, _) = found.untold.drain(..).partition(|name| base.types.contains(name));
        found.untold = untold;
        let mut lines: BTreeMap<ResourceType, Vec<Line>> = BTreeMap::new();
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
                let Some(gone) = self.gone(resource_type, ids).await? else {
                    failed.insert(resource_type);
                    continue;
                };
                let lines = lines.entry(resource_type).or_default();
                for id in gone {
                    found.gone.insert(IdHash::of(resource_type, &id));
                    lines.extend(self.reader.grant.admit_deletion_of_received(&LocalReference { resource_type, id }));
                }
                if lines.len() > MOST_OF_A_TYPE {
                    failed.insert(resource_type);
                }
            }
        }
        // Of a type that could not be asked for to its end nothing is told: a part would be taken for all.
        lines.retain(|name, _| !failed.contains(name));
        found.untold.extend(failed);
        found.untold.sort_unstable();
        found.lines.extend(lines.into_values().flatten());
        Ok(())
    }

    /// Those of `ids` that no search finds and no read gives; `None` if the server does not answer.
    async fn gone(&self, resource_type: ResourceType, ids: Vec<Id>) -> Result<Option<Vec<Id>>, WorkerError> {
        let at_once = if self.plan.profile.id_lists { IDS_PER_SEARCH as usize } else { 1 };
        let lists: Vec<_> = ids.chunks(at_once).map(|ids| (resource_type, ids.to_vec())).collect();
        let upstream = self.reader.upstream.within(PATIENCE);
        let answers = self
            .each(&lists, |(name, ids)| {
                let upstream = upstream.clone();
                async move {
                    let named: Vec<_> = ids.iter().collect();
                    let query = SearchQuery::new(name).param("_id", list(&named, PatientForm::Id));
                    let query = query.count(IDS_PER_SEARCH).ids_only();
                    let mut missing: BTreeSet<_> = ids.iter().cloned().collect();
                    match upstream.page(&query, Scope::of(name), Room::Share).await {
                        Ok(answer) => missing.retain(|id| answer.page.entries.iter().all(|entry| entry.id != *id)),
                        // What cannot be searched can be read.
                        Err(SearchError::Refused { .. } | SearchError::TooLarge { .. }) => {}
                        Err(error) => return Self::unanswered(error),
                    }
                    let mut gone = Vec::new();
                    for id in missing {
                        // Only a read tells what is gone from what a search did not find.
                        match upstream.read(name, &id).await {
                            Ok(None) => gone.push(id),
                            Ok(Some(_)) => {}
                            Err(error) => return Self::unanswered(error),
                        }
                    }
                    Ok(Some(gone))
                }
            })
            .await?;
        let gone: Option<Vec<_>> = answers.into_iter().map(|(_, gone)| gone).collect();
        Ok(gone.map(|gone| gone.into_iter().flatten().collect()))
    }

    /// An export can do without it: whatever goes wrong is only said, but a stop.
    fn unanswered(error: SearchError) -> Result<Option<Vec<Id>>, ReadError> {
        if error.is_stopping() { Err(error.into()) } else { Ok(None) }
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
        for key in self.files.sidecars() {
            let names = self.files.names_in(&key).await?.into_iter();
            let names = names.filter(|name| types.contains(&name.resource_type));
            self.files.write_held(&mut file, lines(names)).await?;
        }
        Ok(Some(self.files.finish_held(file).await?))
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
                Ok(None) => return Ok(Some(held.types)),
                Err(FilesError::Output(OutputError::Damaged)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_held(&self, object: StoredObject) -> Result<Held, FilesError> {
        let stream = self.read(&object).await?;
        Ok(Held { object, stream, digest: Context::new(&SHA256), rest: Vec::new(), types: BTreeSet::new(), lines: 0 })
    }

    async fn write_held(&self, file: &mut super::files::OpenFile, text: String) -> Result<(), FilesError> {
        if text.is_empty() { Ok(()) } else { self.put_held(file, Grant::note_held(text)).await }
    }
}

/// Reads back what a client held, some names at a time.
struct Held {
    object: StoredObject,
    stream: BoxStream<'static, Result<Bytes, object_store::Error>>,
    digest: Context,
    rest: Vec<u8>,
    types: BTreeSet<ResourceType>,
    lines: u64,
}

impl Held {
    /// The next names; `None` at the end, if all of it is what was written.
    ///
    /// # Errors
    /// [`OutputError::Damaged`] if it is not.
    async fn next(&mut self) -> Result<Option<Vec<LocalReference>>, FilesError> {
        let mut names = Vec::new();
        while names.len() < AT_ONCE {
            let Some(chunk) = self.stream.next().await else { break };
            let chunk = chunk.map_err(|source| OutputError::Store { doing: "read an object", source })?;
            self.digest.update(&chunk);
            self.rest.extend_from_slice(&chunk);
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
                if self.rest.len() > LONGEST_LINE {
                    return Err(OutputError::Damaged.into());
                }
                continue;
            };
            let whole: Vec<u8> = self.rest.drain(..=end).collect();
            for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line = std::str::from_utf8(line).map_err(|_| OutputError::Damaged)?;
                self.lines += 1;
                if self.lines == 1 {
                    self.types = line.split(',').filter_map(ResourceType::parse).collect();
                } else {
                    names.push(LocalReference::parse_on(line, &[]).ok_or(OutputError::Damaged)?);
                }
            }
        }
        if names.is_empty() && !self.is_whole() {
            return Err(OutputError::Damaged.into());
        }
        Ok((!names.is_empty()).then_some(names))
    }

    /// Whether all that was read is what was written.
    fn is_whole(&mut self) -> bool {
        let digest = std::mem::replace(&mut self.digest, Context::new(&SHA256)).finish();
        let text = digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        self.rest.is_empty() && text == self.object.sha256
    }
}
