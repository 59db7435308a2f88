//! Provenance of what policy keeps back stays here too, and so does what was audited about it: it would tell that the record is
//! there, who made it and when (SEC-26). So does a Binary that is a part of it.
//! What it is about is asked for, as nothing in it says how that is labelled.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::read::{Bar, ReadError, Reader, Received};
use super::worker::IDS_PER_SEARCH;
use crate::fhir::bundle::{Entry, Scope as PageScope};
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::index::IdHash;
use crate::profile::PatientForm;
use crate::smart::admit::Told;
use crate::upstream::client::{Room, SearchError};
use crate::upstream::probe::list;

/// Records of which it is remembered whether they are kept back, or are not there.
const MOST_REMEMBERED: usize = 200_000;
/// How often memory is waited for, and how long each time. What is held meanwhile is not given back.
const TRIES: u32 = 5;
const REST: Duration = Duration::from_secs(1);

/// What became of a record that something is said of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Leaves,
    IsKeptBack,
    /// The server does not give it: nobody knows.
    IsUnknown,
}

impl Reader {
    /// Marks those of a slice's resources that say something of a record that is kept back.
    pub(super) async fn bar_what_tells_of_others(&self, resources: &mut [Received]) -> Result<(), ReadError> {
        if !self.grant.keeps_back_resources() {
            return Ok(());
        }
        let told: Vec<_> = resources.iter().map(|resource| self.grant.tells_of(&resource.entry)).collect();
        let mut asked: BTreeMap<ResourceType, BTreeSet<Id>> = BTreeMap::new();
        let mut found = HashMap::new();
        for LocalReference { resource_type, id } in told.iter().flatten().filter_map(|told| told.of.as_ref()) {
            let hash = IdHash::of(*resource_type, id);
            // Taken now: whoever else reads may have it forgotten meanwhile.
            match self.fates().get(&hash) {
                Some(fate) => drop(found.insert(hash, *fate)),
                None => drop(asked.entry(*resource_type).or_default().insert(id.clone())),
            }
        }
        for (resource_type, ids) in asked {
            let ids: Vec<_> = ids.iter().collect();
            let at_once = if self.plan.profile.id_lists { IDS_PER_SEARCH as usize } else { 1 };
            for ids in ids.chunks(at_once) {
                let left = self.ask_for_fates(resource_type, ids, &mut found).await?;
                // A list may be too long, or too much.
                for id in left.into_iter().filter(|_| ids.len() > 1) {
                    self.ask_for_fates(resource_type, &[id], &mut found).await?;
                }
            }
        }
        let fate = |of: &Option<LocalReference>| {
            let hash = of.as_ref().map(|of| IdHash::of(of.resource_type, &of.id));
            hash.and_then(|hash| found.get(&hash)).copied().unwrap_or(Fate::IsUnknown)
        };
        for (resource, told) in resources.iter_mut().zip(&told) {
            for Told { of, is_subject } in told {
                let bar = match fate(of) {
                    Fate::IsKeptBack => Bar::ByPolicy,
                    Fate::IsUnknown if *is_subject => Bar::Undecided,
                    Fate::IsUnknown | Fate::Leaves => Bar::None,
                };
                resource.bar = resource.bar.max(bar);
            }
        }
        let mut known = self.fates();
        if known.len() > MOST_REMEMBERED {
            known.clear();
        }
        known.extend(found);
        Ok(())
    }

    /// The last version of what was deleted, unless it says something of a record that is kept back.
    pub(super) async fn unless_it_tells_of_others(&self, last: Option<Entry>) -> Result<Option<Entry>, ReadError> {
        let Some(entry) = last else { return Ok(None) };
        let id = IdHash::of(entry.resource_type, &entry.id);
        let mut resource = [Received { entry, id, has_moved: false, was_there: true, bar: Bar::None }];
        self.bar_what_tells_of_others(&mut resource).await?;
        let [Received { entry, bar, .. }] = resource;
        Ok((bar == Bar::None).then_some(entry))
    }

    /// Finds out about some of a type; gives those that did not come.
    async fn ask_for_fates<'a>(
        &self,
        resource_type: ResourceType,
        ids: &[&'a Id],
        found: &mut HashMap<IdHash, Fate>,
    ) -> Result<Vec<&'a Id>, ReadError> {
        let query = SearchQuery::new(resource_type).param("_id", list(ids, PatientForm::Id)).count(IDS_PER_SEARCH);
        let scope = PageScope::of(resource_type).with_references();
        let mut entries = Vec::new();
        for tried in 1..=TRIES {
            match self.upstream.page(&query, scope, Room::Free).await {
                Ok(answer) => {
                    entries = answer.page.entries;
                    break;
                }
                Err(SearchError::TooLarge { .. }) if ids.len() == 1 && tried < TRIES => self.upstream.rest(REST).await,
                Err(SearchError::TooLarge { .. } | SearchError::Refused { .. } | SearchError::Failing { .. }) => break,
                Err(error @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => {
                    return Err(error.into());
                }
            }
        }
        for entry in entries.iter().filter(|entry| ids.contains(&&entry.id)) {
            let fate = if self.grant.bars(entry) { Fate::IsKeptBack } else { Fate::Leaves };
            found.insert(IdHash::of(resource_type, &entry.id), fate);
        }
        Ok(ids.iter().copied().filter(|id| !found.contains_key(&IdHash::of(resource_type, id))).collect())
    }

    fn fates(&self) -> MutexGuard<'_, HashMap<IdHash, Fate>> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
