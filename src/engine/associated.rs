//! The Provenance of what an export holds: found by what the complete files hold, and weighed by what it is about (BD-032 to
//! BD-034, DS-007). It is read last, so that all it could be about is known.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::files::{FilesError, Stage};
use super::holdings::Holdings;
use super::pool::Order;
use super::provenance::Known;
use super::read::{Bar, ReadError, Reader, Received};
use super::streamed::StreamError;
use super::worker::{Worker, WorkerError};
use crate::fhir::bundle::{Entry, Scope as PageScope};
use crate::fhir::datatypes::{Id, Instant, LocalReference};
use crate::fhir::outcome::Issue;
use crate::fhir::provenance::recorded;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileNo, StoredObject};
use crate::job::index::IdHash;
use crate::output::OutputError;
use crate::plan::associated::ByTarget;
use crate::plan::slice::{Phase, Scope, Slice};
use crate::plan::{Cohort, ExportPlan};
use crate::smart::admit::{Fate, ProvenanceOf, Told};
use crate::upstream::budget::Reservation;
use crate::upstream::client::Room;

/// Whether Provenance is a part of the export for what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tie {
    /// That is told by the resource itself, as of any other.
    #[default]
    Ordinary,
    /// What it is about is a part of the export, or a patient's.
    Associated,
    /// It is none, or more recent ones are about all of that.
    Apart,
}

/// Lines of a complete file that are asked about at a time: what they hold is remembered meanwhile, in a few megabytes.
const LINES_AT_ONCE: u32 = 25_000;

/// Resources that a file holds, of which something is asked.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// The line that the first of them is.
    from: u32,
    list: Vec<LocalReference>,
}

impl Targets {
    /// Those in some lines.
    pub(super) fn asked(&self, lines: &Range<u32>) -> &[LocalReference] {
        let place = |line: u32| line.checked_sub(self.from).map(|place| place as usize);
        let range = place(lines.start).zip(place(lines.end));
        range.and_then(|(start, end)| self.list.get(start..end)).unwrap_or_default()
    }
}

/// Why Provenance belongs to an export, beside for the patients whom it is about.
pub(super) fn provenance_of(plan: &ExportPlan) -> ProvenanceOf {
    match plan.by_target {
        _ if plan.provenance_of_records => ProvenanceOf::Records,
        Some(_) => ProvenanceOf::Exported,
        None => ProvenanceOf::Patients,
    }
}

impl Reader {
    /// Whether it is about one of these.
    pub(super) fn is_about(&self, entry: &Entry, asked: &[LocalReference]) -> bool {
        self.grant.targets(entry).any(|target| asked.contains(&target))
    }

    /// Whether a server may find it by one of these: some pass over whose server a reference leads to.
    pub(super) fn is_asked_by(&self, entry: &Entry, asked: &[LocalReference]) -> bool {
        let named = entry.references.iter().filter(|reference| &*reference.path == "target");
        let mut elsewhere = named.filter_map(|reference| LocalReference::parse_elsewhere(&reference.target));
        self.is_about(entry, asked) || elsewhere.any(|target| asked.contains(&target))
    }

    /// Whether a Provenance is a part of the export for what it is about (BD-034).
    pub(super) fn tie(&self, slice: &Slice, entry: &Entry, known: &Known) -> Tie {
        if let Scope::Targets { lines, .. } = &slice.scope
            && !self.is_about(entry, self.targets.asked(lines))
        {
            return Tie::Apart;
        }
        self.tie_of(slice, entry, known)
    }

    fn tie_of(&self, slice: &Slice, entry: &Entry, known: &Known) -> Tie {
        if entry.resource_type != ResourceType::PROVENANCE || matches!(self.plan.cohort, Cohort::Everything) {
            return Tie::Ordinary;
        }
        if slice.phase == Phase::Associated {
            return Tie::Associated;
        }
        if !self.plan.provenance_of_records {
            return Tie::Ordinary;
        }
        let told = self.grant.tells_of(entry);
        let is_of_patients =
            |told: &Told| told.of.as_ref().is_some_and(|of| self.grant.can_be_a_patients(of.resource_type));
        let may_leave = |told: &Told| self.fate_of(told, known) == Some(Fate::MayLeave);
        let is_tied = told.iter().any(|told| told.is_subject && is_of_patients(told) && may_leave(told));
        if is_tied { Tie::Associated } else { Tie::Apart }
    }

    /// The same of an older version than the one that was found: that may have been about something else, which is a part of the
    /// export or not.
    pub(super) async fn tie_then(&self, slice: &Slice, entry: &Entry, known: &Known) -> Result<Tie, ReadError> {
        let Scope::Targets { lines, .. } = &slice.scope else { return Ok(self.tie_of(slice, entry, known)) };
        let is_about_some = self.is_about(entry, self.targets.asked(lines)) || self.is_about_exported(entry).await?;
        Ok(if is_about_some { self.tie_of(slice, entry, known) } else { Tie::Apart })
    }

    async fn is_about_exported(&self, entry: &Entry) -> Result<bool, OutputError> {
        let Some(exported) = &self.exported else { return Ok(false) };
        for LocalReference { resource_type, id } in self.grant.targets(entry) {
            if !exported.hold(resource_type, &BTreeSet::from([id])).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves of what a resource tells of only what can make it a part of the export; nothing if one does for sure.
    pub(super) fn only_what_ties(&self, entry: &Entry, told: &mut Vec<Told>) {
        let name = |told: &Told| told.of.as_ref().map(|of| of.resource_type);
        told.retain(|told| told.is_subject && name(told).is_some_and(|name| self.grant.can_be_a_patients(name)));
        let is_tied = told.iter().any(|told| name(told) == Some(ResourceType::PATIENT));
        if is_tied || entry.resource_type != ResourceType::PROVENANCE {
            told.clear();
        }
    }

    /// Leaves out all but the most recent of each of the resources that a slice asks about, where no other is wanted.
    pub(super) fn mark_latest(&self, slice: &Slice, resources: &mut [Received]) {
        if self.plan.is_of_latest(slice) {
            let latest = self.latest(slice, resources);
            for (_, resource) in resources.iter_mut().enumerate().filter(|(place, _)| !latest.contains(place)) {
                resource.tie = Tie::Apart;
            }
        }
    }

    /// The places of the most recent of each of the resources that a slice asks about (BD-032).
    fn latest(&self, slice: &Slice, resources: &[Received]) -> HashSet<usize> {
        let Scope::Targets { lines, .. } = &slice.scope else { return HashSet::new() };
        let asked: HashSet<_> = self.targets.asked(lines).iter().collect();
        let mut latest: HashMap<LocalReference, (Recency, usize)> = HashMap::new();
        for (place, resource) in resources.iter().enumerate().filter(|(_, resource)| resource.was_there) {
            let recency = Recency::of(resource);
            for target in self.grant.targets(&resource.entry).filter(|target| asked.contains(target)) {
                let best = latest.entry(target).or_insert((recency, place));
                if *best < (recency, place) {
                    *best = (recency, place);
                }
            }
        }
        latest.into_values().map(|(_, place)| place).collect()
    }
}

/// How recent a Provenance is: by when it was recorded, then by when it was last updated; of those that are alike in both
/// always the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Recency {
    recorded: Option<Instant>,
    last_updated: Option<Instant>,
    id: IdHash,
}

impl Recency {
    fn of(resource: &Received) -> Self {
        let Received { entry, id, .. } = resource;
        Self { recorded: recorded(&entry.line), last_updated: entry.last_updated, id: *id }
    }
}

impl Worker {
    /// Reads the Provenance of what the files hold, where it is found so; and what that refers to, and its Provenance.
    pub(super) async fn read_associated(&mut self) -> Result<(), WorkerError> {
        let Some(search) = self.plan.by_target else { return Ok(()) };
        let provenance = ResourceType::PROVENANCE;
        self.progress.enter(Phase::Associated);
        loop {
            // What they are about is numbered by the lines of complete files.
            self.files.flush().await?;
            self.reader.exported = Some(Arc::new(self.files.exported()));
            let mut has_asked = false;
            for (no, name, object) in self.files.all_but(provenance) {
                if !self.left_of(no, 0..u32::try_from(object.lines).unwrap_or(u32::MAX)).is_empty() {
                    self.read_provenance_of(search, no, name, &object).await?;
                    has_asked = true;
                }
            }
            if !has_asked {
                return Ok(());
            }
            self.read_references().await?;
        }
    }

    /// What was not asked about yet of some lines of a file.
    fn left_of(&self, FileNo(file): FileNo, lines: Range<u32>) -> Vec<Slice> {
        let (phase, resource_type) = (Phase::Associated, ResourceType::PROVENANCE);
        let read = self.files.slices().map(|record| &record.slice).filter(|slice| slice.phase == phase);
        let steps = self.plan.steps(resource_type).into_iter();
        let whole = steps.map(|filter| Slice {
            phase,
            resource_type,
            filter,
            scope: Scope::Targets { file, lines: lines.clone() },
        });
        whole.flat_map(|whole| whole.remaining(read.clone())).collect()
    }

    async fn read_provenance_of(
        &mut self,
        search: ByTarget,
        no: FileNo,
        of: ResourceType,
        object: &StoredObject,
    ) -> Result<(), WorkerError> {
        let count = u32::try_from(object.lines).unwrap_or(u32::MAX);
        let mut left = 0..count;
        while let Some(from) = self.left_of(no, left.clone()).iter().filter_map(first_line).min() {
            let stretch = from..count.min(from.saturating_add(LINES_AT_ONCE));
            let list = self.names_in(of, object, &stretch).await?;
            self.reader.targets = Arc::new(Targets { from, list });
            let mut slices = Vec::new();
            for rest in self.left_of(no, stretch.clone()) {
                let Scope::Targets { file, lines } = &rest.scope else { continue };
                let asked = self.reader.targets.asked(lines);
                let parts = self.plan.target_lists(search, asked).into_iter();
                let parts = parts.map(|part| lines.start + part.start..lines.start + part.end);
                slices
                    .extend(parts.map(|lines| Slice { scope: Scope::Targets { file: *file, lines }, ..rest.clone() }));
            }
            self.drain(slices, Order::Any).await?;
            left.start = stretch.end;
        }
        self.reader.targets = Arc::default();
        Ok(())
    }

    /// What some lines of a file hold. It is read to its end at once, as no download waits for a server that is asked meanwhile;
    /// and it has to be what was written, or something of what it held would never be asked about.
    async fn names_in(
        &self,
        of: ResourceType,
        object: &StoredObject,
        stretch: &Range<u32>,
    ) -> Result<Vec<LocalReference>, FilesError> {
        let mut lines = self.files.lines(object).await?;
        let mut list = Vec::with_capacity(stretch.len());
        let mut number = 0_u64;
        while let Some(line) = lines.next().await? {
            if (u64::from(stretch.start)..u64::from(stretch.end)).contains(&number) {
                let entry = Entry::parse(&line, PageScope::of(of)).ok_or(OutputError::Damaged)?;
                list.push(LocalReference { resource_type: entry.resource_type, id: entry.id });
            }
            number += 1;
        }
        let is_whole = number == object.lines && lines.sha256() == object.sha256;
        if is_whole { Ok(list) } else { Err(OutputError::Damaged.into()) }
    }

    /// Writes what came on one page of a slice that is read page by page. Of what only the most recent is wanted, that is kept
    /// in `latest` until no page is left.
    pub(super) async fn write_page(
        &mut self,
        stage: &mut Stage,
        slice: &Slice,
        page: (Vec<Received>, Vec<Issue>, Reservation),
        latest: &mut Vec<Received>,
    ) -> Result<(), StreamError> {
        let (resources, issues, reservation) = page;
        let (mut later, mut others): (Vec<_>, Vec<_>) = resources
            .into_iter()
            .partition(|resource| self.reader.is_too_new(resource) || self.reader.is_to_be_filled(slice, resource));
        // They are part of the page, whose memory is given back now.
        for resource in &mut later {
            if self.reader.is_too_new(resource) {
                if self.reader.grant.bars(&resource.entry) {
                    resource.bar = Bar::ByPolicy;
                }
                resource.entry.line = Bytes::new();
            } else {
                resource.entry.line = Bytes::copy_from_slice(&resource.entry.line);
            }
        }
        let is_of_latest = self.plan.is_of_latest(slice);
        if is_of_latest {
            others = self.keep_latest(slice, latest, others);
        }
        self.reader.leave_long_ones(slice, &mut others).await.map_err(StreamError::Read)?;
        self.files.write_staged(stage, slice, others, issues).await?;
        drop(reservation);
        // One by one: each may take as much memory as a page.
        for mut resource in later {
            if self.reader.is_too_new(&resource) {
                resource = self.reader.restore(slice, resource, Room::Share).await.map_err(StreamError::Read)?;
            }
            self.reader.fill(slice, &mut resource, Room::Share).await.map_err(StreamError::Read)?;
            let others = if is_of_latest { self.keep_latest(slice, latest, vec![resource]) } else { vec![resource] };
            self.files.write_staged(stage, slice, others, Vec::new()).await?;
            // They may be many, and are read again after the restart.
            if self.drain.is_cancelled() && self.plan.inlines.is_some() {
                return Err(StreamError::Stopping);
            }
        }
        Ok(())
    }

    /// Keeps the most recent ones of what came before and now; gives the others, to be counted.
    fn keep_latest(&self, slice: &Slice, latest: &mut Vec<Received>, came: Vec<Received>) -> Vec<Received> {
        let mut all = std::mem::take(latest);
        all.extend(came);
        let stay = self.reader.latest(slice, &all);
        let mut others = Vec::new();
        for (place, mut resource) in all.into_iter().enumerate() {
            if stay.contains(&place) {
                // Not the whole page that it is a part of.
                resource.entry.line = Bytes::copy_from_slice(&resource.entry.line);
                latest.push(resource);
            } else {
                resource.tie = Tie::Apart;
                others.push(resource);
            }
        }
        others
    }
}

/// The first line that a slice asks about.
fn first_line(slice: &Slice) -> Option<u32> {
    match &slice.scope {
        Scope::Targets { lines, .. } => Some(lines.start),
        Scope::Window(_) | Scope::Patients { .. } | Scope::Record { .. } | Scope::Ids { .. } => None,
    }
}

/// The complete files, by what they hold.
#[derive(Debug)]
pub(super) struct Exported {
    holdings: Arc<Holdings>,
    /// Sidecars.
    keys: HashMap<ResourceType, Vec<String>>,
}

impl Exported {
    pub(super) fn new(holdings: Arc<Holdings>, keys: HashMap<ResourceType, Vec<String>>) -> Self {
        Self { holdings, keys }
    }

    /// Which of some resources they hold.
    ///
    /// # Errors
    /// If that cannot be read at this moment.
    pub(super) async fn hold(
        &self,
        resource_type: ResourceType,
        ids: &BTreeSet<Id>,
    ) -> Result<HashSet<IdHash>, OutputError> {
        let asked: Vec<_> = ids.iter().map(|id| IdHash::of(resource_type, id)).collect();
        let sidecars: Vec<_> = self.keys.get(&resource_type).into_iter().flatten().map(String::as_str).collect();
        let held = self.holdings.hold(&sidecars, &asked).await?;
        Ok(asked.into_iter().zip(held).filter_map(|(id, held)| held.then_some(id)).collect())
    }
}
