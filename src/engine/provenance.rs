//! What tells of other records: Provenance, what was audited, a Binary that is a part of one. Whether those records may be told of
//! is asked for, as nothing in it says whose they are and how they are labelled (SEC-20, SEC-26).
//!
//! Nobody waits for memory while holding some: where there is no room beside the pages that are held, these are given back, what
//! is to be known is asked for, and they are read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{MutexGuard, PoisonError};

use super::read::{Bar, Chain, ReadError, Reader, Received};
use super::worker::IDS_PER_SEARCH;
use crate::fhir::bundle::{Entry, Scope as PageScope};
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::index::IdHash;
use crate::profile::PatientForm;
use crate::smart::admit::{Fate, Told};
use crate::upstream::client::{Room, SearchError};
use crate::upstream::probe::list;

/// Records of which it is remembered what is known of them.
const MOST_REMEMBERED: usize = 200_000;

/// Records that resources tell of and nothing is known of yet.
#[derive(Debug, Default)]
pub(super) struct Untold(BTreeMap<ResourceType, BTreeSet<Id>>);

/// What is known of the records that some resources tell of.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<IdHash, Fate>);

/// What came of looking at whom resources tell of.
#[derive(Debug)]
pub(super) enum Looked {
    All(Known),
    /// There is no room to ask for the rest at this moment.
    NoRoom(Known, Untold),
}

/// What came of asking for some records.
enum Asked<'a> {
    /// These did not come.
    Left(Vec<&'a Id>),
    TooLarge,
}

impl Reader {
    /// Looks at whom resources tell of, as far as there is room for it beside what is held. What is `known` already is not asked
    /// for.
    pub(super) async fn look_at_whom_they_tell_of(
        &self,
        entries: impl Iterator<Item = &Entry> + Send,
        mut known: Known,
    ) -> Result<Looked, ReadError> {
        let untold = self.whom_they_tell_of(entries, &mut known);
        let left = self.ask(untold, Room::Free, &mut known).await?;
        Ok(if left.0.is_empty() { Looked::All(known) } else { Looked::NoRoom(known, left) })
    }

    /// The same for who holds no memory.
    pub(super) async fn look_at_whom_it_tells_of(&self, entry: &Entry) -> Result<Known, ReadError> {
        let mut known = Known::default();
        let untold = self.whom_they_tell_of(std::iter::once(entry), &mut known);
        self.find_out(untold, known).await
    }

    /// Asks for what there was no room for; for who has given back what it held.
    pub(super) async fn find_out(&self, untold: Untold, mut known: Known) -> Result<Known, ReadError> {
        self.ask(untold, Room::Share, &mut known).await?;
        Ok(known)
    }

    /// Notes what was read itself, where Provenance that is still to come may tell of it.
    pub(super) fn remember(&self, resources: &[Received]) {
        if !self.grant.minds_who_is_told_of() || !self.plan.types.contains_key(&ResourceType::PROVENANCE) {
            return;
        }
        let is_told_of = |received: &&Received| received.entry.resource_type != ResourceType::PROVENANCE;
        let fates = resources.iter().filter(is_told_of).map(|received| (received.id, self.grant.fate(&received.entry)));
        self.keep(fates.collect::<Vec<_>>());
    }

    /// What is remembered of whom resources tell of, and what is not.
    fn whom_they_tell_of<'a>(&self, entries: impl Iterator<Item = &'a Entry>, known: &mut Known) -> Untold {
        let mut untold = Untold::default();
        if !self.grant.minds_what_is_told() {
            return untold;
        }
        for entry in entries {
            let mut told = self.grant.tells_of(entry);
            if !self.grant.minds_who_is_told_of() {
                self.only_what_ties(entry, &mut told);
            }
            let fates = self.fates();
            let fate = |told: &Told| {
                let of = told.of.as_ref()?;
                let fate = self.grant.fate_by_name(of).or_else(|| known.0.get(&hash(of)).copied());
                fate.or_else(|| fates.get(&hash(of)).copied())
            };
            let found: Vec<_> = told.iter().map(fate).collect();
            let is_decided = bar(told.iter().zip(&found).filter_map(|(told, fate)| fate.map(|fate| (told, fate))));
            for (told, fate) in told.iter().zip(found) {
                match (&told.of, fate) {
                    // Taken now: whoever else reads may have it forgotten meanwhile.
                    (Some(of), Some(fate)) => drop(known.0.insert(hash(of), fate)),
                    // Nothing can come of them but what is known already.
                    (Some(_), None) if is_decided >= Bar::TellsOfOthers => {}
                    (Some(of), None) => drop(untold.0.entry(of.resource_type).or_default().insert(of.id.clone())),
                    (None, _) => {}
                }
            }
        }
        untold
    }

    /// Asks for records; gives those for which there is no room.
    async fn ask(&self, untold: Untold, room: Room, known: &mut Known) -> Result<Untold, ReadError> {
        let mut left = Untold::default();
        let (mut found, mut failed) = (Known::default(), Known::default());
        let at_once = if self.plan.profile.id_lists { IDS_PER_SEARCH as usize } else { 1 };
        for (resource_type, mut ids) in untold.0 {
            if let Some(exported) = &self.exported {
                // What cannot be read at this moment is asked for.
                let held = exported.hold(resource_type, &ids).await.unwrap_or_default();
                ids.retain(|id| !held.contains(&IdHash::of(resource_type, id)));
                known.0.extend(held.into_iter().map(|id| (id, Fate::MayLeave)));
            }
            let ids: Vec<_> = ids.iter().collect();
            for ids in ids.chunks(at_once) {
                let mut too_large = Vec::new();
                match self.ask_for(resource_type, ids, room, &mut found, &mut failed).await? {
                    Asked::TooLarge if ids.len() == 1 => too_large.extend(ids.iter().copied()),
                    // A list may be too long, or too much.
                    asked => {
                        let alone = if let Asked::Left(left) = asked { left } else { ids.to_vec() };
                        for id in alone {
                            if let Asked::TooLarge =
                                self.ask_for(resource_type, &[id], room, &mut found, &mut failed).await?
                            {
                                too_large.push(id);
                            }
                        }
                    }
                }
                if !too_large.is_empty() {
                    left.0.entry(resource_type).or_default().extend(too_large.into_iter().cloned());
                }
            }
        }
        self.keep(found.0.iter().map(|(id, fate)| (*id, *fate)));
        known.0.extend(found.0.into_iter().chain(failed.0));
        Ok(left)
    }

    /// Asks for some records of a type. What the server `failed` to give it may give another time.
    async fn ask_for<'a>(
        &self,
        resource_type: ResourceType,
        ids: &[&'a Id],
        room: Room,
        found: &mut Known,
        failed: &mut Known,
    ) -> Result<Asked<'a>, ReadError> {
        let query = SearchQuery::new(resource_type).param("_id", list(ids, PatientForm::Id)).count(IDS_PER_SEARCH);
        let scope = PageScope::of(resource_type).with_references();
        // A record that the server fails to give is no reason to wait for it.
        let upstream = self.upstream.giving_back();
        let mut answer = upstream.page(&query, scope, room).await;
        if ids.len() == 1 && room == Room::Share && matches!(answer, Err(SearchError::TooLarge { .. })) {
            answer = upstream.page(&query, scope, Room::Alone).await;
        }
        let (mut chain, mut has_failed) = (Chain::default(), false);
        loop {
            let page = match answer {
                Ok(answer) => answer.page,
                Err(SearchError::TooLarge { .. }) if room == Room::Free || ids.len() > 1 => return Ok(Asked::TooLarge),
                Err(SearchError::Failing { .. }) if ids.len() == 1 && !has_failed => {
                    // It may be the server that fails, and not this record: until it answers anything, it is waited for.
                    has_failed = true;
                    let any = SearchQuery::new(ResourceType::PATIENT).count(1);
                    match self.upstream.page(&any, PageScope::of(ResourceType::PATIENT), room).await {
                        Err(SearchError::TooLarge { .. }) if room == Room::Free => return Ok(Asked::TooLarge),
                        Ok(_) | Err(SearchError::TooLarge { .. } | SearchError::Refused { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                    answer = upstream.page(&query, scope, room).await;
                    continue;
                }
                Err(SearchError::TooLarge { .. } | SearchError::Refused { .. } | SearchError::Failing { .. }) => break,
                Err(error @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => {
                    return Err(error.into());
                }
            };
            for entry in page.entries.iter().filter(|entry| ids.contains(&&entry.id)) {
                found.0.insert(IdHash::of(resource_type, &entry.id), self.grant.fate(entry));
            }
            // Servers begin by empty pages, too.
            let came = ids.iter().filter(|id| found.0.contains_key(&IdHash::of(resource_type, id))).count();
            let Some(next) = page.next.filter(|_| came < ids.len()) else { break };
            drop(page.entries);
            if chain.step(&next, came).is_err() {
                break;
            }
            answer = upstream.next(&next, scope, room).await;
        }
        let left = ids.iter().copied().filter(|id| !found.0.contains_key(&IdHash::of(resource_type, id)));
        let left: Vec<_> = left.collect();
        match left[..] {
            [id] if ids.len() == 1 => {
                let kept = if has_failed { failed } else { found };
                kept.0.insert(IdHash::of(resource_type, id), Fate::IsUnknown);
                Ok(Asked::Left(Vec::new()))
            }
            _ => Ok(Asked::Left(left)),
        }
    }

    /// The last version of what was deleted, unless it says something of a record that may not be told of.
    pub(super) async fn unless_it_tells_of_others(&self, last: Option<Entry>) -> Result<Option<Entry>, ReadError> {
        let Some(entry) = last else { return Ok(None) };
        let known = self.look_at_whom_it_tells_of(&entry).await?;
        Ok((self.bar(&entry, &known) == Bar::None).then_some(entry))
    }

    /// Whether a resource stays here for what it tells of others.
    pub(super) fn bar(&self, entry: &Entry, known: &Known) -> Bar {
        if !self.grant.minds_who_is_told_of() {
            return Bar::None;
        }
        let told = self.grant.tells_of(entry);
        let fate = |told: &Told| told.of.as_ref().and_then(|of| known.0.get(&hash(of)).copied());
        bar(told.iter().map(|told| (told, fate(told).unwrap_or(Fate::IsUnknown))))
    }

    /// What is known of one that a resource tells of.
    pub(super) fn fate_of(&self, told: &Told, known: &Known) -> Option<Fate> {
        let of = told.of.as_ref()?;
        self.grant.fate_by_name(of).or_else(|| known.0.get(&hash(of)).copied())
    }

    fn keep(&self, fates: impl IntoIterator<Item = (IdHash, Fate)>) {
        let mut kept = self.fates();
        if kept.len() > MOST_REMEMBERED {
            kept.clear();
        }
        kept.extend(fates);
    }

    fn fates(&self) -> MutexGuard<'_, HashMap<IdHash, Fate>> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(of: &LocalReference) -> IdHash {
    IdHash::of(of.resource_type, &of.id)
}

/// What the records that a resource tells of make of it.
fn bar<'a>(told: impl Iterator<Item = (&'a Told, Fate)>) -> Bar {
    let bars = told.map(|(told, fate)| match fate {
        Fate::IsKeptBack => Bar::ByPolicy,
        Fate::IsOfOthers if told.is_subject => Bar::TellsOfOthers,
        Fate::IsUnknown if told.is_subject => Bar::Undecided,
        Fate::IsOfOthers | Fate::IsUnknown | Fate::IsNobodys | Fate::MayLeave => Bar::None,
    });
    bars.max().unwrap_or(Bar::None)
}
