//! Records that the server cannot give: where it fails to answer a slice that can be cut no further, its resources are
//! asked for one by one, and those that it fails on are named.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::accept::{Judge, Reading, Verdict};
use super::read::{Accepted, Chain, Read, ReadError, Reader, Received, Summary, range};
use crate::fhir::bundle::{Page, Scope as PageScope};
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Direction, SearchQuery};
use crate::job::index::IdHash;
use crate::plan::slice::{Scope, Slice};
use crate::upstream::budget::Reservation;
use crate::upstream::client::{Room, SearchError};

/// So few resources are asked for one by one rather than in smaller slices.
const FEW: u64 = 16;
/// Resources of one slice that are asked for one by one, at most.
const MOST_ALONE: usize = 1_000;
/// How often what the server fails on is asked for, and the pause between. Each time is three tries.
const ROUNDS: u32 = 3;
const REST: Duration = Duration::from_secs(1);
/// Unreadable resources of one life of a job. More are no single bad records: the server is waited for.
const MOST_UNREADABLE: u32 = 100;

/// What came of reading a slice one resource at a time.
#[derive(Debug)]
pub(super) enum OneByOne {
    Read(Read),
    Again,
    /// It cannot be read so: it is for the server to recover.
    Impossible,
}

/// The resources of a slice, each asked for alone.
#[derive(Debug)]
struct Isolated {
    resources: Vec<Received>,
    /// What the server fails to give.
    unreadable: BTreeSet<Id>,
    reading: Reading,
    issues: Vec<Issue>,
    reservation: Option<Reservation>,
    bytes: usize,
}

impl Isolated {
    /// What the next answer may take of memory: nobody waits for some while holding some.
    fn room(&self) -> Room {
        if self.reservation.is_some() { Room::Free } else { Room::Share }
    }
}

/// What came of asking for one resource.
enum Alone {
    Came,
    Failed,
    TooLarge,
    /// It was not asked for: there is no memory for it beside what is held, or no leave to search, at this moment.
    NotNow,
}

/// What the server gives beside what it fails on.
enum Others {
    Given,
    NotGiven,
    NotNow,
}

impl Reader {
    /// Reads a slice that the server fails to answer as a whole, and judges what came. That nothing but single resources
    /// is to blame is shown by the server itself, which still counts the slice and lists its ids: a server that does
    /// neither is waited for.
    pub(super) async fn one_by_one(
        &self,
        slice: &Slice,
        can_be_cut: bool,
        asks_in_parts: &Self,
        judge: &mut Judge,
        attempt: u32,
    ) -> Result<OneByOne, ReadError> {
        let counted = self.count(slice).await?;
        if can_be_cut && counted.is_none_or(|counted| counted > FEW) {
            return Ok(OneByOne::Read(Read::InHalves));
        }
        let Some(counted) = counted else { return Ok(OneByOne::Impossible) };
        // Narrower searches are read as they are: nothing says that what is listed without them may be asked for so.
        if self.is_open(slice) {
            return Ok(OneByOne::Impossible);
        }
        let isolated = match asks_in_parts.isolate(slice, counted).await? {
            Ok(isolated) => isolated,
            // What was held has been given back.
            Err(OneByOne::Again) => {
                self.upstream.rest(REST).await;
                return Ok(OneByOne::Again);
            }
            Err(other) => return Ok(other),
        };
        let Isolated { resources, unreadable, reading, issues, reservation, .. } = isolated;
        let Verdict::Accept { method, expected } = judge.judge(&reading, &self.plan.profile) else {
            return Ok(OneByOne::Again);
        };
        let count = unreadable.len() as u64;
        // Those of a reading that is thrown away are met again in the next.
        let more = u32::try_from(count).unwrap_or(u32::MAX);
        let before = self.unreadable.fetch_add(more, Ordering::Relaxed);
        if more > 0 && before.saturating_add(more) > MOST_UNREADABLE {
            return Ok(OneByOne::Impossible);
        }
        let mut summary = Summary::accepted(&reading, expected + count, attempt, method);
        summary.unreadable = count;
        let resource_type = slice.resource_type;
        let unreadable = unreadable.into_iter().map(|id| LocalReference { resource_type, id }).collect();
        tracing::warn!(
            resource_type = resource_type.as_str(),
            unreadable = count,
            "the server fails to give some resources"
        );
        let accepted = Accepted { resources, unreadable, summary, issues, reservation };
        Ok(OneByOne::Read(Read::Accepted(accepted)))
    }

    /// Asks for the resources of a slice one by one, or says why not.
    async fn isolate(&self, slice: &Slice, counted: u64) -> Result<Result<Isolated, OneByOne>, ReadError> {
        let Some((ids, pages)) = self.ids_of(slice).await? else { return Ok(Err(OneByOne::Impossible)) };
        let mut isolated = Isolated {
            resources: Vec::new(),
            unreadable: BTreeSet::new(),
            reading: Reading { pages, ..Reading::default() },
            issues: Vec::new(),
            reservation: None,
            bytes: 0,
        };
        let mut seen = HashSet::new();
        let mut left = ids;
        for round in 0..ROUNDS {
            if round > 0 {
                if left.is_empty() {
                    break;
                }
                // Only a server that gives others fails on these alone.
                match self.others(slice, &isolated).await? {
                    Others::Given => {}
                    Others::NotGiven => break,
                    Others::NotNow => return Ok(Err(OneByOne::Again)),
                }
                self.upstream.rest(REST).await;
            }
            let mut failed = BTreeSet::new();
            for id in left {
                match self.alone(slice, &id, &mut isolated, &mut seen).await? {
                    Alone::Came => {}
                    Alone::Failed => drop(failed.insert(id)),
                    // It does not fit beside the others.
                    Alone::TooLarge => return Ok(Err(OneByOne::Impossible)),
                    Alone::NotNow => return Ok(Err(OneByOne::Again)),
                }
            }
            left = failed;
        }
        if !left.is_empty() {
            match self.others(slice, &isolated).await? {
                Others::Given => {}
                Others::NotGiven => return Ok(Err(OneByOne::Impossible)),
                Others::NotNow => return Ok(Err(OneByOne::Again)),
            }
        }
        isolated.unreadable = left;
        // What the server counts is held against both together.
        isolated.reading.counted_before = counted.checked_sub(isolated.unreadable.len() as u64);
        Ok(Ok(isolated))
    }

    /// Asks for one resource of a slice.
    async fn alone(
        &self,
        slice: &Slice,
        id: &Id,
        isolated: &mut Isolated,
        seen: &mut HashSet<IdHash>,
    ) -> Result<Alone, ReadError> {
        let query = match &slice.scope {
            // A search by ids is by this id alone.
            Scope::Ids { .. } => self.by_ids(slice),
            Scope::Patients { link, .. } if &**link == "_id" => self.by_ids(slice),
            Scope::Window(_) | Scope::Patients { .. } | Scope::Record { .. } | Scope::Targets { .. } => {
                self.query(slice)
            }
        };
        let query = query.param("_id", id.as_str().to_owned());
        let answer = match self.upstream.page(&query, self.page_scope(slice.resource_type), isolated.room()).await {
            Ok(answer) => answer,
            Err(SearchError::Failing { .. }) => return Ok(Alone::Failed),
            Err(SearchError::TooLarge { alone: false, .. }) if isolated.reservation.is_some() => {
                return Ok(Alone::NotNow);
            }
            Err(SearchError::TooLarge { .. }) => return Ok(Alone::TooLarge),
            Err(error) => return Err(error.into()),
        };
        isolated.bytes += answer.page.bytes;
        let others = answer.page.entries.iter().any(|entry| entry.id != *id);
        isolated.reading.elsewhere += u64::from(others);
        isolated.issues.extend(answer.page.outcomes.iter().cloned());
        let resources = self.sort(slice, answer.page, seen, &mut isolated.reading);
        isolated.resources.extend(resources);
        match &mut isolated.reservation {
            None => isolated.reservation = Some(answer.reservation),
            Some(reservation) => {
                drop(answer.reservation); // what is held grows in its place, without waiting
                if !reservation.grow(isolated.bytes) {
                    return Ok(Alone::TooLarge);
                }
            }
        }
        Ok(Alone::Came)
    }

    /// Whether the server gives the contents of anything at this moment: of one that came, or else of some resource of the
    /// slice's type, or of some patient.
    async fn others(&self, slice: &Slice, isolated: &Isolated) -> Result<Others, ReadError> {
        let id = isolated.resources.first().map(|received| received.entry.id.as_str().to_owned());
        let same = id.map(|id| SearchQuery::new(slice.resource_type).param("_id", id));
        let any = SearchQuery::new(slice.resource_type).count(1);
        let latest = any.clone().sort_last_updated(Direction::Descending);
        for query in same.into_iter().chain([any, latest, SearchQuery::new(ResourceType::PATIENT).count(1)]) {
            match self.upstream.page(&query, PageScope::of(query.resource_type()), isolated.room()).await {
                Ok(answer) if !answer.page.entries.is_empty() => return Ok(Others::Given),
                Ok(_) => {}
                Err(SearchError::TooLarge { alone: false, .. }) if isolated.reservation.is_some() => {
                    return Ok(Others::NotNow);
                }
                Err(SearchError::Failing { .. } | SearchError::Refused { .. } | SearchError::TooLarge { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Others::NotGiven)
    }

    /// The ids of all resources of a slice, which the server lists without their contents on so many pages; `None` if it
    /// does not, or if there are too many.
    async fn ids_of(&self, slice: &Slice) -> Result<Option<(BTreeSet<Id>, u32)>, ReadError> {
        match &slice.scope {
            Scope::Ids { list } => return Ok(Some((self.ids(slice.resource_type, list).iter().cloned().collect(), 1))),
            Scope::Patients { link, members, .. } if &**link == "_id" => {
                let asked = range(self.plan.asked_of(slice.resource_type), members);
                return Ok(Some((asked.iter().cloned().collect(), 1)));
            }
            Scope::Record { .. } => return Ok(None),
            Scope::Window(_) | Scope::Patients { .. } | Scope::Targets { .. } => {}
        }
        let size = self.page_size(slice.resource_type);
        let query = self.query(slice).count(size.count).ids_only();
        let scope = PageScope::of(slice.resource_type);
        let mut page: Page = match self.upstream.page(&query, scope, Room::Share).await {
            Ok(answer) => answer.page,
            Err(SearchError::Failing { .. } | SearchError::Refused { .. } | SearchError::TooLarge { .. }) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let mut ids = BTreeSet::new();
        let (mut chain, mut pages) = (Chain::default(), 0_u32);
        loop {
            pages += 1;
            if page.is_troubled() {
                return Ok(None);
            }
            ids.extend(page.entries.into_iter().map(|entry| entry.id));
            if ids.len() > MOST_ALONE {
                return Ok(None);
            }
            let Some(next) = page.next else { return Ok(Some((ids, pages))) };
            chain.step(&next, ids.len())?;
            page = match self.upstream.next(&next, scope, Room::Share).await {
                Ok(answer) => answer.page,
                Err(SearchError::Failing { .. } | SearchError::Refused { .. } | SearchError::TooLarge { .. }) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
        }
    }
}
