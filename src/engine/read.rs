//! Reading one slice: until it is accepted, or has to be read in another way. What is asked (`ask`), how much at a time (`pace`),
//! what came (`sort`), the way to its end (`follow`) and what goes wrong (`refused`, `trouble`) have rooms of their own.

mod ask;
mod follow;
mod pace;
mod refused;
mod sort;
mod trouble;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::accept::{ATTEMPTS, Judge, Reading, Verdict};
use super::associated::{Exported, Targets, Tie};
use super::isolate::OneByOne;
use super::narrow::Proven;
use super::pool::{Crowd, Cutting, Excess, LOOKED_AT, Start, Task};
use super::provenance::{Known, Looked};

use crate::bulk::manifest::Method;
use crate::fhir::attachment::Left;
use crate::fhir::bundle::{Entry, Page};
use crate::fhir::datatypes::{Id, Instant, LocalReference, Millis};
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::Manner;
use crate::job::index::IdHash;
use crate::plan::slice::{Grid, Scope, Slice};
use crate::plan::{ExportPlan, OnShort};
use crate::smart::admit::{Fate, Grant};
use crate::upstream::budget::Reservation;
use crate::upstream::client::{Answer, Room, SearchError, Upstream};
use follow::Followed;
use pace::Pace;
pub(super) use pace::{KnownSizes, PageLimits, PageSize};
pub(super) use sort::{Chain, SearchTally, made_since};
use trouble::pause_after;
pub(super) use trouble::{Again, ReadError};

/// For how long a number is asked for while what was read is held.
const STILL_COUNTED_WITHIN: Duration = Duration::from_secs(30);
/// After so many slices running that pauses did not help there are none.
const RESTS_IN_VAIN: u32 = 16;

/// Reads slices of one job. Cheap to clone: readers share what they learn of page sizes.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) upstream: Upstream,
    pub(super) plan: Arc<ExportPlan>,
    pub(super) grant: Arc<Grant>,
    pub(super) limits: PageLimits,
    /// What exported resources refer to, by type; known once everything else is read.
    pub(super) references: Arc<HashMap<ResourceType, Vec<Id>>>,
    /// What the complete files hold, where that is asked.
    pub(super) exported: Option<Arc<Exported>>,
    /// Exported resources of which something is asked at this moment.
    pub(super) targets: Arc<Targets>,
    paces: Arc<HashMap<ResourceType, Pace>>,
    /// Resources that the server failed to give, so far.
    pub(super) unreadable: Arc<AtomicU32>,
    /// Slices running that pauses between their readings did not help.
    rested_in_vain: Arc<AtomicU32>,
    /// Patients whom the server refused, so far, by their places in the list of all.
    pub(super) refused: Arc<Mutex<HashSet<u32>>>,
    pub(super) proven: Arc<Proven>,
    /// Whether a page has to hold what is counted before it, whatever it says of itself: what is read was counted and did not come.
    pub(super) holds_pages_to_counts: bool,
    /// What became of records that others tell of.
    pub(super) fates: Arc<Mutex<HashMap<IdHash, Fate>>>,
}

/// What came of reading a slice.
#[derive(Debug)]
pub(super) enum Read {
    Accepted(Accepted),
    /// It does not fit one page and can be cut; nothing of it was kept.
    TooMany(Excess),
    /// It would fit one page, and can be cut: it does not come out, or the server fails to answer it as a whole.
    InHalves,
    /// It has several pages that cannot be cut apart and do not fit into memory together.
    Large,
}

/// A slice whose resources are all here, each once.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) resources: Vec<Received>,
    /// What the server fails to give.
    pub(super) unreadable: Vec<LocalReference>,
    pub(super) summary: Summary,
    pub(super) issues: Vec<Issue>,
    /// The memory that the resources' pages take.
    pub(super) reservation: Option<Reservation>,
}

/// The numbers of an accepted slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summary {
    pub(super) expected: u64,
    pub(super) received: u64,
    pub(super) short: u64,
    pub(super) unreadable: u64,
    /// The server refuses it, as it does for some patients.
    pub(super) refused: bool,
    pub(super) reread: u32,
    pub(super) method: Method,
}

impl Summary {
    pub(super) fn accepted(reading: &Reading, expected: u64, attempt: u32, method: Method) -> Self {
        let received = reading.set.distinct().saturating_sub(reading.moved);
        Self { expected, received, short: 0, unreadable: 0, refused: false, reread: attempt, method }
    }
}

/// A resource as it came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) entry: Entry,
    pub(super) id: IdHash,
    /// It lies later than the slice that found it.
    pub(super) has_moved: bool,
    /// It was there at the transaction time, or that is not asked.
    pub(super) was_there: bool,
    /// Whether it stays here for what it tells of others.
    pub(super) bar: Bar,
    /// Whether it is a part of the export for what it tells of others.
    pub(super) tie: Tie,
    /// Why attachments of it are references, although what they hold is wanted.
    pub(super) left: Vec<Left>,
}

/// Whether a resource stays here for what it tells of others, the stronger reason last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bar {
    None,
    /// Nobody can say whose that is which it is about, or whether policy keeps that back: it is counted as what may not leave.
    Undecided,
    /// It is about a record of somebody who is none of the export's patients.
    TellsOfOthers,
    /// Policy keeps that back, and so this.
    ByPolicy,
}

impl Reader {
    pub(super) fn new(
        upstream: Upstream,
        plan: Arc<ExportPlan>,
        grant: Arc<Grant>,
        limits: PageLimits,
        known: &KnownSizes,
    ) -> Self {
        let types = plan.types.keys().chain(&plan.context).copied();
        let most = plan.profile.page_most.map_or(limits.most_resources, |most| most.min(limits.most_resources));
        let pace = |resource_type| Pace::of(resource_type, most, limits.target_bytes, known);
        let paces = Arc::new(types.map(|resource_type| (resource_type, pace(resource_type))).collect());
        Self {
            upstream,
            plan,
            grant,
            limits,
            references: Arc::default(),
            exported: None,
            targets: Arc::default(),
            paces,
            unreadable: Arc::default(),
            rested_in_vain: Arc::default(),
            refused: Arc::default(),
            proven: Arc::default(),
            holds_pages_to_counts: false,
            fates: Arc::default(),
        }
    }

    /// The same that gives up what the server fails to answer, for who can ask in another way.
    pub(super) fn giving_back(&self) -> Self {
        Self { upstream: self.upstream.giving_back(), ..self.clone() }
    }

    /// Reads a slice until it is accepted, or has to be read in another way.
    pub(super) async fn read(&self, task: &Task) -> Result<Read, ReadError> {
        let mut asked = Known::default();
        for _ in 0..ATTEMPTS {
            let accepted = match self.read_by_its_filter(task).await? {
                Read::Accepted(accepted) => accepted,
                other @ (Read::TooMany(_) | Read::InHalves | Read::Large) => return Ok(other),
            };
            self.remember(&accepted.resources);
            let entries = accepted.resources.iter().map(|resource| &resource.entry);
            match self.look_at_whom_they_tell_of(entries, asked).await? {
                Looked::All(known) => {
                    let can_be_cut = task.slice.can_be_cut(self.cutting(task.slice.resource_type).grid);
                    let read = self.look_back(&task.slice, can_be_cut, accepted, &known).await?;
                    return self.filled(&task.slice, can_be_cut, read).await;
                }
                Looked::NoRoom(known, untold) => {
                    drop(accepted);
                    asked = self.find_out(untold, known).await?;
                }
            }
        }
        Err(ReadError::Unsteady)
    }

    /// Reads a slice of which something came by a filter that is proven.
    async fn read_by_its_filter(&self, task: &Task) -> Result<Read, ReadError> {
        for _ in 0..ATTEMPTS {
            let read = Box::pin(self.read_as_it_is(task)).await?;
            if task.start == Start::Guess {
                let pace = self.pace(task.slice.resource_type);
                match &read {
                    Read::Accepted(_) => pace.guessed(false),
                    Read::TooMany(_) => pace.guessed(true),
                    Read::InHalves | Read::Large => {}
                }
            }
            match read {
                Read::Accepted(accepted) if !accepted.resources.is_empty() && !self.relies_on_filter(&task.slice) => {
                    // It is read anew, whether it could be tried or what it found has gone before.
                    drop(accepted);
                    let _is_proven = self.prove_filter(&task.slice).await?;
                }
                read => return Ok(read),
            }
        }
        Err(ReadError::Unsteady)
    }

    async fn read_as_it_is(&self, task: &Task) -> Result<Read, ReadError> {
        let slice = &task.slice;
        let can_be_cut = slice.can_be_cut(self.cutting(slice.resource_type).grid);
        let mut judge = self.judge(slice);
        let (mut missing, mut is_troubled) = (0, false);
        let asks_in_parts = self.giving_back();
        let mut reader = &asks_in_parts;
        for attempt in 0..ATTEMPTS {
            let counting = self.upstream.date();
            let before = match self.count_first(task, &judge, attempt).await {
                Ok(counted) => counted,
                Err(error) => match self.refused(slice, error, None, attempt).await? {
                    Some(read) => return Ok(read),
                    None => continue,
                },
            };
            let pace = self.pace(slice.resource_type);
            if can_be_cut && let Some(excess) = reader.excess(task, before, attempt).await {
                return Ok(Read::TooMany(excess));
            }
            let asked = if can_be_cut { pace.size_of(task.capacity) } else { pace.whole(self.limits) };
            let (first, others) = self.searches(slice);
            let answer = match reader.first_page(&first, asked).await {
                Ok(answer) => answer,
                Err(SearchError::TooLarge { .. }) if pace.shrink(asked) => {
                    if can_be_cut {
                        return Ok(Read::TooMany(Excess::counted(before)));
                    }
                    Again::Smaller.tell(attempt);
                    continue;
                }
                Err(SearchError::Failing { .. }) => {
                    match self.one_by_one(slice, can_be_cut, &asks_in_parts, &mut judge, attempt).await? {
                        OneByOne::Read(read) => return Ok(read),
                        OneByOne::Again => {}
                        OneByOne::Impossible => reader = self,
                    }
                    continue;
                }
                Err(error) => match self.refused(slice, error, before, attempt).await? {
                    Some(read) => return Ok(read),
                    None => continue,
                },
            };
            self.learn(slice.resource_type, &answer.page);
            if let Some(read) = self.in_parts(slice, &answer.page, asked, before, attempt) {
                return Ok(read);
            }
            let walked = match reader.follow(slice, (answer, asked), others).await {
                Ok(Followed::ToTheEnd(walked)) => walked,
                // Whether a list was taken to its end can be seen only where all of it is here.
                Ok(Followed::TooLarge) if can_be_cut && slice.is_list() => return Ok(Read::InHalves),
                Ok(Followed::TooLarge) => return Ok(Read::Large),
                Ok(Followed::NotByPost) => return Ok(Read::TooMany(Excess::counted(before))),
                Err(ReadError::Expired) if attempt + 1 < ATTEMPTS => {
                    Again::Expired.tell(attempt);
                    continue;
                }
                Err(ReadError::Search(SearchError::Failing { .. })) => {
                    match self.one_by_one(slice, can_be_cut, &asks_in_parts, &mut judge, attempt).await? {
                        OneByOne::Read(read) => return Ok(read),
                        OneByOne::Again => {}
                        OneByOne::Impossible => reader = self,
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            let made_since = made_since(&walked.resources, counting);
            let reading = Reading { counted_before: before, made_since, ..walked.reading };
            let reading = self.counted_still(slice, &judge, reading).await;
            is_troubled = reading.is_troubled;
            match judge.judge(&reading, &self.plan.profile) {
                Verdict::Accept { .. } if self.is_list_cut(slice, &walked.resources).await? => {
                    return Ok(Read::InHalves);
                }
                Verdict::Accept { method, expected } => {
                    let summary = self.summary(&reading, expected, attempt, method);
                    return Ok(Read::Accepted(walked.accepted(summary)));
                }
                Verdict::Again { by } => {
                    missing = by;
                    if let Some(summary) = self.in_spite(slice, &reading, by, attempt) {
                        return Ok(Read::Accepted(walked.accepted(summary)));
                    }
                    Again::judged(&reading, by).tell(attempt);
                }
                Verdict::Troubled => {
                    missing = 0;
                    if let Some(summary) = self.in_spite(slice, &reading, 0, attempt) {
                        return Ok(Read::Accepted(walked.accepted(summary)));
                    }
                }
                Verdict::OverExport => return Err(ReadError::OverExport),
                Verdict::IgnoredFilter => return Err(ReadError::IgnoredFilter),
            }
            drop(walked);
            self.rest(attempt + 1).await;
        }
        Err(ReadError::unaccepted(missing, is_troubled))
    }

    /// A reading that is held to a count, and has less: what was deleted meanwhile is counted no more. What was read may be held, so
    /// that no memory is waited for, nor a server that is away; without a second number the first one stands.
    pub(super) async fn counted_still(&self, slice: &Slice, judge: &Judge, reading: Reading) -> Reading {
        let lacks = |before: &u64| judge.holds_pages() && *before > reading.set.distinct();
        let Some(before) = reading.counted_before.filter(lacks) else { return reading };
        let asks = Self { upstream: self.upstream.within_at_most(STILL_COUNTED_WITHIN), ..self.clone() };
        match asks.count_if_told(slice, Room::Free).await {
            Ok(Some(after)) => Reading { counted_before: Some(before.min(after)), ..reading },
            Ok(None) | Err(_) => reading,
        }
    }

    /// Waits before what was not accepted in so many readings is read again, unless that is of no use with this server.
    pub(super) async fn rest(&self, readings: u32) {
        let pause = pause_after(readings);
        let helps = self.rested_in_vain.load(Ordering::Relaxed) < RESTS_IN_VAIN;
        if helps && readings < ATTEMPTS && !pause.is_zero() {
            self.upstream.rest(pause).await;
        }
    }

    /// The numbers of a reading that was accepted.
    pub(super) fn summary(&self, reading: &Reading, expected: u64, attempt: u32, method: Method) -> Summary {
        if !pause_after(attempt).is_zero() {
            self.rested_in_vain.store(0, Ordering::Relaxed);
        }
        Summary::accepted(reading, expected, attempt, method)
    }

    /// What is counted before the page is asked for, if it is. A count that only spares a page is not insisted on.
    async fn count_first(&self, task: &Task, judge: &Judge, attempt: u32) -> Result<Option<u64>, SearchError> {
        let slice = &task.slice;
        let pace = self.pace(slice.resource_type);
        if self.wants_count(slice, judge) {
            return self.count_before(slice, judge).await;
        }
        let begins_by_it = match task.start {
            Start::Count => true,
            Start::Guess => pace.counts_guesses(),
            Start::Page | Start::Look => false,
        };
        let spares_a_page = begins_by_it && attempt == 0 && slice.can_be_cut(self.cutting(slice.resource_type).grid);
        if !spares_a_page {
            return Ok(None);
        }
        match self.giving_back().count(slice).await {
            Err(SearchError::Refused { .. } | SearchError::Failing { .. } | SearchError::TooLarge { .. }) => {
                pace.count_no_guesses();
                Ok(None)
            }
            other => other,
        }
    }

    /// That a slice which can be cut holds more than a page, if that is known before it is asked for one.
    async fn excess(&self, task: &Task, counted: Option<u64>, attempt: u32) -> Option<Excess> {
        if task.start == Start::Look
            && attempt == 0
            && let Some(excess) = self.look(task, counted).await
        {
            return Some(excess);
        }
        let is_full = counted.is_some_and(|count| count > self.capacity(task));
        is_full.then_some(Excess::counted(counted))
    }

    /// Where the resources of a slice lie that holds more than a page; `None` if it does not, or that cannot be seen. Where there is no
    /// number, a next link after a few of them is taken for more than a page.
    async fn look(&self, task: &Task, counted: Option<u64>) -> Option<Excess> {
        let slice = &task.slice;
        let (first, _) = self.searches(slice);
        let pace = self.pace(slice.resource_type);
        if !pace.looks() {
            return None;
        }
        let Ok(Answer { page, .. }) = self.stamps(&first, LOOKED_AT.min(pace.count())).await else {
            pace.look_no_more();
            return None;
        };
        let total = self.exact_total(slice, &page).or(counted);
        let capacity = self.capacity(task);
        let is_full = total.map_or(page.next.is_some(), |total| total > capacity);
        let crowd = self.crowd(slice, &page);
        (is_full && (crowd.is_some() || total.is_some())).then_some(Excess { total, crowd })
    }

    /// Resources that the page of a window would hold.
    fn capacity(&self, task: &Task) -> u64 {
        self.pace(task.slice.resource_type).size_of(task.capacity).count.into()
    }

    fn learn(&self, resource_type: ResourceType, page: &Page) {
        let resources = page.entries.len() + page.passed_over;
        self.pace(resource_type).learn(resources, page.bytes, self.limits.target_bytes);
    }

    fn exact_total(&self, slice: &Slice, page: &Page) -> Option<u64> {
        page.total.filter(|_| !self.is_open(slice) && self.plan.profile.page_total.is_some())
    }

    fn crowd(&self, slice: &Slice, page: &Page) -> Option<Crowd> {
        let stamps = page.entries.iter().filter_map(|entry| entry.last_updated).map(Instant::floor_millis);
        Crowd::among(stamps, self.cutting(slice.resource_type).grid)
    }

    /// How a slice is to be read after its first page, if not as it is.
    fn in_parts(
        &self,
        slice: &Slice,
        page: &Page,
        asked: PageSize,
        counted: Option<u64>,
        attempt: u32,
    ) -> Option<Read> {
        let more = page.next.is_some();
        if more {
            self.pace(slice.resource_type).cap(asked, page.entries.len() + page.passed_over);
        }
        if !slice.can_be_cut(self.cutting(slice.resource_type).grid) {
            return None;
        }
        if self.plan.manner(slice) == Manner::Post && !more && page.may_go_on(asked.count) {
            return Some(Read::TooMany(Excess::counted(counted)));
        }
        let total = self.exact_total(slice, page).or(counted);
        let entries = page.entries.len() as u64;
        // It says to be whole, as did the one before it.
        if self.judge(slice).holds_pages() && slice.is_list() && !more && counted > Some(entries) {
            return Some(Read::InHalves);
        }
        // A link alone is no sign of more: servers end their lists by an empty page. What it leads to is looked at.
        if more && total.map_or(entries >= u64::from(asked.count), |total| total > entries) {
            return Some(Read::TooMany(Excess { total, crowd: self.crowd(slice, page) }));
        }
        // Every few attempts a slice that does not come out is cut although it fits.
        (entries > 0 && matches!(attempt, 4 | 8)).then_some(Read::InHalves)
    }

    /// A judge for the readings of a slice.
    pub(super) fn judge(&self, slice: &Slice) -> Judge {
        if self.is_open(slice) {
            Judge::of_what_is_asked()
        } else if self.holds_pages_to_counts || self.is_counted_by_itself(slice) {
            Judge::of_what_was_counted()
        } else {
            Judge::default()
        }
    }

    /// Whether a slice is held to a count from the beginning, as nothing counts it at the end, where windows and lists of patients are
    /// counted. (What a sweep reads, and what is asked for by ids, is counted neither then nor now.)
    pub(super) fn is_counted_by_itself(&self, slice: &Slice) -> bool {
        match &slice.scope {
            Scope::Window(window) => !window.is_bounded(),
            Scope::Patients { .. } => self.plan.is_organized,
            Scope::Targets { .. } => true,
            Scope::Ids { .. } | Scope::Record { .. } => false,
        }
    }

    /// Whether nothing shows that what is asked for is all of a slice: narrower searches are, and the record of a patient
    /// is what the server makes of it.
    pub(super) fn is_open(&self, slice: &Slice) -> bool {
        matches!(slice.scope, Scope::Record { .. }) || !self.plan.searches(slice).is_empty()
    }

    /// The numbers of a last reading that is taken although it was not accepted, where that is wanted.
    pub(super) fn in_spite(&self, slice: &Slice, reading: &Reading, by: u64, attempt: u32) -> Option<Summary> {
        if attempt + 1 < ATTEMPTS || self.plan.on_short == OnShort::Fail {
            return None;
        }
        self.rested_in_vain.fetch_add(1, Ordering::Relaxed);
        let is_counted = by > 0 && (reading.counted_before.is_some() || !self.is_open(slice));
        let method = if is_counted { Method::Counted } else { Method::Unproven };
        let received = Summary::accepted(reading, 0, attempt, method);
        Some(Summary { expected: received.received + by, short: by, ..received })
    }

    /// How large the next page of a type is asked for.
    pub(super) fn page_size(&self, resource_type: ResourceType) -> PageSize {
        self.pace(resource_type).size()
    }

    /// After a page that was too large: asks for smaller ones from now on; `false` if one resource alone is.
    pub(super) fn shrink(&self, resource_type: ResourceType, asked: PageSize) -> bool {
        self.pace(resource_type).shrink(asked)
    }

    /// After more than fits: asks for no more than so many at a time from now on.
    pub(super) fn cap(&self, resource_type: ResourceType, most: usize) {
        self.pace(resource_type).hold_to(u32::try_from(most).unwrap_or(u32::MAX));
    }

    /// How slices of a type are cut at this moment.
    pub(super) fn cutting(&self, resource_type: ResourceType) -> Cutting {
        let oldest = self.plan.types.get(&resource_type).and_then(|plan| plan.oldest);
        let grid = Grid {
            step: self.plan.profile.last_updated.step_millis(),
            oldest: oldest.unwrap_or(Millis(0)),
            now: self.plan.horizon.windows_until,
        };
        Cutting { capacity: self.pace(resource_type).count(), readers: self.limits.readers, grid }
    }

    fn pace(&self, resource_type: ResourceType) -> &Pace {
        self.paces.get(&resource_type).expect("slices are made of the plan's types")
    }
}

pub(super) fn range<'a>(ids: &'a [Id], range: &std::ops::Range<u32>) -> &'a [Id] {
    ids.get(range.start as usize..range.end as usize).unwrap_or_default()
}
