//! Blocks of patients (BD-040 to BD-044): a header line, the Patient resource, what lies in its compartment, and what that
//! refers to. What was read of some patients is held until all of it is here and written at once; the record of one patient
//! that is too large for that is written as it comes, to files of its own.
//!
//! A resource of several patients stands in the block of each of them, as does what several refer to. In the proof it is
//! `written` once, and `repeated` wherever else it stands.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use super::growing::Growing;
use super::{Files, FilesError, OpenFile, Stage, Tally, Weighed, note, record};
use crate::engine::read::{Accepted, Received, Summary};
use crate::fhir::attachment::Left;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::{FileContent, FileNo, SliceRecord};
use crate::job::index::{IdHash, Notes};
use crate::plan::slice::{Phase, Slice};
use crate::smart::admit::Line;

/// What a line costs in memory beside its bytes, and a reference or a place in a block.
const AROUND_A_LINE: usize = 160;
const AROUND_A_NAME: usize = 64;
/// Resources of several blocks that are remembered at most; beyond that they are looked up in the sidecars.
const MOST_SHARED: usize = 50_000;

/// What is read of some patients, until all of it is here.
#[derive(Debug)]
pub(in crate::engine) struct Together {
    patients: Vec<Id>,
    /// What may be held.
    most_bytes: usize,
    bytes: usize,
    lines: Vec<Held>,
    ids: HashSet<IdHash>,
    /// What lines refer to, and in whose blocks.
    wanted: BTreeMap<LocalReference, BTreeSet<usize>>,
    notes: Notes,
    slices: Vec<SliceRecord>,
}

/// A line and the places of those in whose blocks it stands.
#[derive(Debug)]
struct Held {
    rank: Rank,
    id: IdHash,
    line: Line,
    whose: Vec<usize>,
    /// Blocks of others may have it as well.
    is_shared: bool,
}

/// In which order the lines of a block stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Patient,
    Own(ResourceType),
    ReferredTo(ResourceType),
}

impl Rank {
    fn of(slice: &Slice) -> Self {
        match (slice.phase, slice.resource_type) {
            (Phase::References, name) => Self::ReferredTo(name),
            (_, ResourceType::PATIENT) => Self::Patient,
            (_, name) => Self::Own(name),
        }
    }

    fn resource_type(self) -> ResourceType {
        match self {
            Self::Patient => ResourceType::PATIENT,
            Self::Own(name) | Self::ReferredTo(name) => name,
        }
    }
}

/// A resource that leaves, before it is known in whose blocks.
struct Leaving {
    id: IdHash,
    name: LocalReference,
    line: Line,
    /// In whose compartments it lies.
    whose: Vec<Id>,
    refers: Vec<LocalReference>,
    /// What is not in it though it could be.
    left: Vec<Left>,
}

impl Together {
    /// Of these patients, who are sorted; no more than `most_bytes`.
    pub(in crate::engine) fn new(patients: &[Id], most_bytes: usize) -> Self {
        Self {
            patients: patients.to_vec(),
            most_bytes,
            bytes: 0,
            lines: Vec::new(),
            ids: HashSet::new(),
            wanted: BTreeMap::new(),
            notes: Notes::default(),
            slices: Vec::new(),
        }
    }

    /// How much of what may be held is held.
    pub(in crate::engine) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What lines refer to.
    pub(in crate::engine) fn wanted(&self) -> impl Iterator<Item = &LocalReference> {
        self.wanted.keys()
    }

    fn place(&self, patient: &Id) -> Option<usize> {
        self.patients.binary_search(patient).ok()
    }

    /// In whose blocks a resource stands, and whether it may stand in others as well.
    fn whose(&self, slice: &Slice, leaving: &Leaving) -> (Vec<usize>, bool) {
        if slice.phase == Phase::References {
            return (self.wanted.get(&leaving.name).into_iter().flatten().copied().collect(), true);
        }
        if leaving.name.resource_type == ResourceType::PATIENT {
            return (self.place(&leaving.name.id).into_iter().collect(), false);
        }
        let named: BTreeSet<_> = leaving.whose.iter().collect();
        let places: Vec<_> = named.iter().filter_map(|patient| self.place(patient)).collect();
        let is_shared = places.len() < named.len();
        (places, is_shared)
    }

    /// Takes a line in; `false` if there is no room for it.
    fn take(&mut self, slice: &Slice, leaving: Leaving, whose: Vec<usize>, is_shared: bool) -> bool {
        let Leaving { id, line, refers, left, .. } = leaving;
        // Each reference is kept with all the places that it is wanted at.
        let names = whose.len().saturating_mul(refers.len().saturating_add(1));
        self.bytes = self.bytes.saturating_add(line.len() + AROUND_A_LINE + names.saturating_mul(AROUND_A_NAME));
        if self.bytes > self.most_bytes {
            return false;
        }
        let patients = leaving.whose.iter().map(|patient| IdHash::of(ResourceType::PATIENT, patient));
        self.notes.patients.extend(patients);
        note(&mut self.notes, left.iter().map(|left| left.issue()));
        for reference in refers {
            self.wanted.entry(reference).or_default().extend(&whose);
        }
        self.ids.insert(id);
        self.lines.push(Held { rank: Rank::of(slice), id, line: line.copied(), whose, is_shared });
        true
    }

    /// The lines of each block that has any, in their order, by their places.
    fn blocks(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut order: Vec<_> = (0..self.lines.len()).collect();
        order.sort_by_key(|at| self.lines.get(*at).map(|held| held.rank));
        let mut blocks: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for at in order {
            for place in self.lines.get(at).into_iter().flat_map(|held| &held.whose) {
                blocks.entry(*place).or_default().push(at);
            }
        }
        blocks
    }
}

/// The block that is being written.
#[derive(Debug)]
struct Block {
    header: Line,
    /// Lines of it in the open file, beside the header.
    lines: u64,
}

/// The block of one patient, written while it is read.
#[derive(Debug)]
pub(super) struct BlockStage {
    patient: Id,
    block: Block,
    wanted: BTreeSet<LocalReference>,
    slices: Vec<SliceRecord>,
    shared: Vec<IdHash>,
}

impl BlockStage {
    /// Whether a resource belongs to the patient, as it says itself, or is something that what does refers to.
    fn has(&self, slice: &Slice, leaving: &Leaving) -> bool {
        match Rank::of(slice) {
            Rank::Patient => leaving.name.id == self.patient,
            Rank::Own(_) => leaving.whose.contains(&self.patient),
            Rank::ReferredTo(_) => self.wanted.contains(&leaving.name),
        }
    }
}

impl Tally {
    /// Something that may leave has no place in these blocks: others have it, if anybody does.
    fn withhold(&mut self) {
        self.written = self.written.saturating_sub(1);
        self.withheld += 1;
    }
}

impl Files {
    /// Takes an accepted slice in, or holds it where it is read for blocks; `false` if it cannot be held.
    pub(in crate::engine) async fn take(
        &mut self,
        together: Option<&mut Together>,
        slice: Slice,
        accepted: Accepted,
    ) -> Result<bool, FilesError> {
        match together {
            None => self.admit(slice, accepted).await.map(|()| true),
            Some(together) => self.hold(together, slice, accepted).await,
        }
    }

    /// Holds an accepted slice of some patients; `false` if it does not fit: then nothing of them may be written together.
    async fn hold(&self, together: &mut Together, slice: Slice, accepted: Accepted) -> Result<bool, FilesError> {
        let Accepted { resources, unreadable, summary, issues, reservation } = accepted;
        let mut tally = Tally::default();
        let is_here = |id: &IdHash| together.ids.contains(id);
        let leaving = self.leaving(&slice, resources, is_here, &mut tally);
        let first = together.lines.len();
        for leaving in leaving {
            let (whose, is_shared) = together.whose(&slice, &leaving);
            if whose.is_empty() {
                tally.withhold();
            } else if !together.take(&slice, leaving, whose, is_shared) {
                return Ok(false);
            }
        }
        drop(reservation);
        let new = together.lines.get(first..).unwrap_or_default();
        let shared: Vec<_> = new.iter().filter(|held| held.is_shared).map(|held| held.id).collect();
        self.tell_repeated(&shared, &mut tally).await?;
        note(&mut together.notes, issues);
        together.notes.unreadable.extend(unreadable);
        together.slices.push(record(slice, summary, tally));
        Ok(true)
    }

    /// Writes the blocks of some patients of whom everything is here, and records all of it together.
    pub(in crate::engine) async fn write_together(&mut self, together: Together) -> Result<(), FilesError> {
        let content = FileContent::Blocks;
        let now = self.services.clock.unix_millis();
        let open = match self.open.remove(&content) {
            Some(open) => open,
            None => OpenFile::new(self.number(), now),
        };
        let mut files = Growing::new(open);
        let mut patients = Vec::new();
        for (place, lines) in together.blocks() {
            let lines: Vec<_> = lines.into_iter().filter_map(|at| together.lines.get(at)).collect();
            let Some(patient) = together.patients.get(place) else { continue };
            let mut block = self.begin_block(patient)?;
            patients.push(IdHash::of(ResourceType::PATIENT, patient));
            let bytes = lines.iter().map(|held| held.line.len()).fold(block.header.len(), usize::saturating_add);
            self.roll_before_block(&mut files, bytes, lines.len()).await?;
            for held in lines {
                let what = (held.rank.resource_type(), held.id);
                self.write_in_block(&mut files, &mut block, what, held.line.clone()).await?;
            }
        }
        files.open.notes.absorb(together.notes);
        files.open.notes.patients.extend(patients);
        files.open.push_patients(together.slices);
        self.remember(together.lines.iter().filter(|held| held.is_shared).map(|held| held.id));
        self.leave_open(content, files, now).await
    }

    /// Begins the block of one patient whose record is written as it comes.
    pub(in crate::engine) fn stage_block(&mut self, patient: &Id) -> Result<Stage, FilesError> {
        let block = self.begin_block(patient)?;
        let no = self.number();
        let (wanted, slices, shared) = (BTreeSet::new(), Vec::new(), Vec::new());
        Ok(Stage {
            content: FileContent::Blocks,
            files: Growing::new(OpenFile::new(no, self.services.clock.unix_millis())),
            tally: Tally::default(),
            block: Some(BlockStage { patient: patient.clone(), block, wanted, slices, shared }),
        })
    }

    /// Writes some of a slice's resources to the block of a stage.
    pub(super) async fn write_to_block(
        &mut self,
        stage: &mut Stage,
        slice: &Slice,
        resources: Vec<Received>,
        issues: Vec<Issue>,
    ) -> Result<(), FilesError> {
        let Stage { files, tally, block: Some(own), .. } = stage else { return Ok(()) };
        note(&mut files.open.notes, issues);
        let mut leaving = self.leaving(slice, resources, |id| files.hold(id), tally);
        leaving.retain(|leaving| {
            let is_theirs = own.has(slice, leaving);
            if !is_theirs {
                tally.withhold();
            }
            is_theirs
        });
        let is_shared = |leaving: &Leaving| {
            slice.phase == Phase::References || leaving.whose.iter().any(|patient| *patient != own.patient)
        };
        let shared: Vec<_> = leaving.iter().filter(|leaving| is_shared(leaving)).map(|leaving| leaving.id).collect();
        self.tell_repeated(&shared, tally).await?;
        own.shared.extend(shared);
        for Leaving { id, line, whose, refers, left, .. } in leaving {
            own.wanted.extend(refers);
            note(&mut files.open.notes, left.iter().map(|left| left.issue()));
            self.write_in_block(files, &mut own.block, (slice.resource_type, id), line).await?;
            let whose = whose.iter().chain([&own.patient]);
            files.open.notes.patients.extend(whose.map(|patient| IdHash::of(ResourceType::PATIENT, patient)));
        }
        Ok(())
    }

    /// Records a stage's block, all of it together.
    pub(in crate::engine) async fn accept_block(&mut self, stage: Stage) -> Result<(), FilesError> {
        let Growing { mut closed, open: mut last, .. } = stage.files;
        if let Some(BlockStage { slices, shared, .. }) = stage.block {
            last.push_patients(slices);
            self.remember(shared.into_iter());
        }
        closed.push(last.finish(&self.services, self.lease, stage.content).await?);
        self.complete(closed, None).await
    }

    /// What leaves of some resources that are not `here` yet.
    fn leaving(
        &self,
        slice: &Slice,
        resources: Vec<Received>,
        is_here: impl Fn(&IdHash) -> bool,
        tally: &mut Tally,
    ) -> Vec<Leaving> {
        let mut all = Vec::with_capacity(resources.len());
        for resource in resources {
            let name = LocalReference { resource_type: resource.entry.resource_type, id: resource.entry.id.clone() };
            let (mut whose, mut refers) = (Vec::new(), Vec::new());
            let known = is_here(&resource.id);
            let (note, refer) = (|patient: &Id| whose.push(patient.clone()), |reference| refers.push(reference));
            if let Some(Weighed { id, line, left }) = self.export.weigh(slice, resource, known, tally, note, refer) {
                all.push(Leaving { id, name, line, whose, refers, left });
            }
        }
        all
    }

    /// Counts those that stand in a block already, of others, as repeated.
    async fn tell_repeated(&self, shared: &[IdHash], tally: &mut Tally) -> Result<(), FilesError> {
        let repeated = self.stand_elsewhere(shared).await?;
        tally.written = tally.written.saturating_sub(repeated);
        tally.repeated = tally.repeated.saturating_add(repeated);
        Ok(())
    }

    async fn stand_elsewhere(&self, shared: &[IdHash]) -> Result<u64, FilesError> {
        let open = self.open.get(&FileContent::Blocks);
        let is_known = |id: &IdHash| self.shared.contains(id) || open.is_some_and(|file| file.ids.contains(id));
        let (known, mut unknown): (Vec<IdHash>, Vec<_>) = shared.iter().copied().partition(is_known);
        for record in self.complete.iter().take(self.before).filter(|record| record.content == FileContent::Blocks) {
            let Some(key) = record.sidecar().filter(|_| !unknown.is_empty()) else { continue };
            let sidecar = self.services.sidecar(key).await?;
            unknown.retain(|id| !sidecar.contains(*id));
        }
        Ok((shared.len() - unknown.len()).max(known.len()) as u64)
    }

    fn remember(&mut self, shared: impl Iterator<Item = IdHash>) {
        self.shared.extend(shared);
        if self.shared.len() > MOST_SHARED {
            // From now on they are looked up where they are.
            self.shared = HashSet::new();
            self.before = usize::MAX;
        }
    }

    fn begin_block(&self, patient: &Id) -> Result<Block, FilesError> {
        // Whoever withdrew consent while it was read has no block, nor the client this export.
        let header = self.export.grant.admit_header(patient).ok_or(FilesError::Revoked)?;
        Ok(Block { header, lines: 0 })
    }

    /// Goes on in another file if with so many bytes the open one would be larger than it may be: a block is not split if it
    /// need not be (BD-042).
    async fn roll_before_block(&mut self, files: &mut Growing, bytes: usize, lines: usize) -> Result<(), FilesError> {
        let written = files.open.written();
        let has_too_many = written.lines > 0 && written.lines.saturating_add(lines as u64) >= self.limits.lines;
        let is_too_much = has_too_many || files.open.lacks_room_for(bytes, self.limits.bytes);
        if is_too_much { self.roll(files, FileContent::Blocks).await } else { Ok(()) }
    }

    /// Writes a line of a block, its header before the first one. What does not fit into the file goes on in the next one,
    /// where the header stands again (BD-043).
    async fn write_in_block(
        &mut self,
        files: &mut Growing,
        block: &mut Block,
        what: (ResourceType, IdHash),
        line: Line,
    ) -> Result<(), FilesError> {
        let is_full =
            files.open.written().lines >= self.limits.lines || files.open.lacks_room_for(line.len(), self.limits.bytes);
        if block.lines > 0 && is_full {
            files.open.continued_in = Some(FileNo(self.next));
            self.roll(files, FileContent::Blocks).await?;
            block.lines = 0;
        }
        if block.lines == 0 {
            files.open.put(&self.services, self.lease, FileContent::Blocks, block.header.clone()).await?;
        }
        files.open.write_in_block(&self.services, self.lease, what, line).await?;
        block.lines += 1;
        Ok(())
    }
}

impl Stage {
    /// Notes that a slice of its block was accepted, which is recorded with the block.
    pub(in crate::engine) fn end_slice(&mut self, slice: Slice, summary: Summary, unreadable: Vec<LocalReference>) {
        self.files.open.notes.unreadable.extend(unreadable);
        if let Some(own) = &mut self.block {
            own.slices.push(record(slice, summary, std::mem::take(&mut self.tally)));
        }
    }

    /// What the lines of its block refer to.
    pub(in crate::engine) fn wanted(&self) -> impl Iterator<Item = &LocalReference> {
        self.block.iter().flat_map(|own| &own.wanted)
    }
}

/// The places of some of all patients.
pub(in crate::engine) fn some<'a>(all: &'a [Id], members: &Range<u32>) -> &'a [Id] {
    all.get(members.start as usize..members.end as usize).unwrap_or_default()
}
