//! Exports that are organized by patient: everything of some patients is read before any of it is written. Whose record is too
//! large to be held is read alone, and written as it comes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::accept::{ATTEMPTS, Judge};
use super::files::{Stage, Together, some};
use super::pool::{Order, Task};
use super::read::{Accepted, Read, ReadError};
use super::streamed::{StreamError, Tried};
use super::worker::{DRAIN_GRACE, IDS_PER_SEARCH, Worker, WorkerError};
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::plan::organized::MOST_TOGETHER;
use crate::plan::slice::{Phase, Scope, Slice};

/// What is held of some patients together at most, in pages.
const MOST_PAGES: usize = 4;

/// How far a slice has come that is written as it is read.
struct Tries {
    judge: Judge,
    /// Readings that were not accepted.
    attempt: u32,
    missing: u64,
    is_troubled: bool,
}

impl Worker {
    /// Reads all that is left, some patients at a time: as many as fit into what may be held.
    pub(super) async fn read_blocks(&mut self) -> Result<(), WorkerError> {
        self.progress.enter(Phase::Young);
        let most_bytes = self.reader.limits.target_bytes.saturating_mul(MOST_PAGES);
        let mut most = MOST_TOGETHER;
        for mut run in self.plan.unread(self.files.slices().map(|record| &record.slice)) {
            while run.start < run.end {
                if self.drain.is_cancelled() {
                    return Err(WorkerError::Draining);
                }
                let members = run.start..run.end.min(run.start.saturating_add(most));
                let count = members.end - members.start;
                match self.read_together(&members, most_bytes).await? {
                    Some(held) => {
                        // The next ones may be as small.
                        if held < most_bytes / 4 {
                            most = count.saturating_mul(2).clamp(most, MOST_TOGETHER);
                        }
                        run.start = members.end;
                    }
                    None if count > 1 => most = count / 2,
                    None => {
                        self.read_alone(members.start).await?;
                        run.start = members.end;
                    }
                }
                self.files.close_aged().await?;
            }
        }
        Ok(())
    }

    /// Reads some patients and writes their blocks; how much of them was held, or `None` if they do not fit: then nothing is
    /// written.
    async fn read_together(&mut self, members: &Range<u32>, most_bytes: usize) -> Result<Option<usize>, WorkerError> {
        let mut together = Together::new(some(self.plan.patients(), members), most_bytes);
        let slices = self.plan.slices_of_patients(members);
        if !self.drain_into(Some(&mut together), slices, Order::Any).await? {
            return Ok(None);
        }
        let slices = self.slices_of_wanted(together.wanted());
        if !self.drain_into(Some(&mut together), slices, Order::Any).await? {
            return Ok(None);
        }
        let held = together.bytes();
        self.files.write_together(together).await?;
        Ok(Some(held))
    }

    /// What is to be read of what lines refer to. Their places are those of the lists that readers have from now on.
    fn slices_of_wanted<'a>(&mut self, wanted: impl Iterator<Item = &'a LocalReference>) -> Vec<Slice> {
        let mut by_type: BTreeMap<ResourceType, Vec<Id>> = BTreeMap::new();
        for LocalReference { resource_type, id } in wanted {
            by_type.entry(*resource_type).or_default().push(id.clone());
        }
        let at_once = if self.plan.profile.id_lists { IDS_PER_SEARCH } else { 1 };
        let mut slices = Vec::new();
        for (resource_type, ids) in &by_type {
            let end = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            for filter in self.plan.steps(*resource_type) {
                slices.extend((0..end).step_by(at_once as usize).map(|start| {
                    let scope = Scope::Ids { list: start..end.min(start.saturating_add(at_once)) };
                    Slice { phase: Phase::References, resource_type: *resource_type, filter, scope }
                }));
            }
        }
        self.reader.references = Arc::new(by_type.into_iter().collect());
        slices
    }

    /// Reads one patient, slice by slice, and writes the block as it comes. What was written is judged with each slice: if one
    /// has to be read again, so has all before it.
    async fn read_alone(&mut self, member: u32) -> Result<(), WorkerError> {
        let members = member..member.saturating_add(1);
        let patient = some(self.plan.patients(), &members).first().cloned();
        let Some(patient) = patient else { return Ok(()) };
        let mut tries: HashMap<Slice, Tries> = HashMap::new();
        let mut wanted_before = Vec::new();
        loop {
            let mut stage = self.files.stage_block(&patient)?;
            let slices = self.plan.slices_of_patients(&members);
            let mut is_whole = self.write_slices(&mut stage, slices, &mut tries).await;
            if matches!(is_whole, Ok(true)) {
                let wanted: Vec<_> = stage.wanted().cloned().collect();
                let slices = self.slices_of_wanted(wanted.iter());
                if wanted != wanted_before {
                    // Their places in the lists are others' now.
                    for (slice, tried) in tries.iter_mut().filter(|(slice, _)| slice.phase == Phase::References) {
                        tried.judge = self.reader.judge(slice);
                    }
                    wanted_before = wanted;
                }
                is_whole = self.write_slices(&mut stage, slices, &mut tries).await;
            }
            match is_whole {
                Ok(true) => return Ok(self.files.accept_block(stage).await?),
                Ok(false) => self.files.reject(stage).await?,
                Err((resource_type, number, error)) => {
                    return Err(self.break_off(stage, (resource_type, number), error).await?);
                }
            }
        }
    }

    /// Writes slices to the block of a stage; `false` if one of them has to be read again.
    async fn write_slices(
        &mut self,
        stage: &mut Stage,
        slices: Vec<Slice>,
        tries: &mut HashMap<Slice, Tries>,
    ) -> Result<bool, (ResourceType, u64, StreamError)> {
        let mut left = VecDeque::from(slices);
        while let Some(slice) = left.pop_front() {
            let resource_type = slice.resource_type;
            let number = self.progress.begin_slice();
            let failed = |error| (resource_type, number, error);
            match self.read_one(&slice).await.map_err(failed)? {
                Read::Accepted(Accepted { resources, unreadable, summary, issues, reservation }) => {
                    self.progress.received(resources.len());
                    let written = self.files.write_staged(stage, &slice, resources, issues).await;
                    written.map_err(|error| failed(error.into()))?;
                    drop(reservation);
                    stage.end_slice(slice, summary, unreadable);
                }
                Read::TooMany(_) | Read::InHalves if slice.halves().is_some() => {
                    slice.halves().into_iter().flatten().rev().for_each(|half| left.push_front(half));
                }
                Read::TooMany(_) | Read::InHalves | Read::Large => {
                    let judge = self.reader.judge(&slice);
                    let tried = tries.entry(slice.clone());
                    let tried = tried.or_insert(Tries { judge, attempt: 0, missing: 0, is_troubled: false });
                    if tried.attempt >= ATTEMPTS {
                        let error = ReadError::unaccepted(tried.missing, tried.is_troubled);
                        return Err(failed(StreamError::Read(error)));
                    }
                    let came = self.try_once(&slice, &mut tried.judge, stage, tried.attempt).await.map_err(failed)?;
                    let may_come = match came {
                        Tried::Accepted(summary) => {
                            stage.end_slice(slice, summary, Vec::new());
                            continue;
                        }
                        Tried::InVain => false,
                        Tried::Missing(by) => {
                            tried.missing = by;
                            true
                        }
                        Tried::Troubled => {
                            (tried.missing, tried.is_troubled) = (0, true);
                            true
                        }
                    };
                    tried.attempt += 1;
                    if may_come {
                        self.reader.rest(tried.attempt).await;
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reads one slice while nothing else is read.
    async fn read_one(&self, slice: &Slice) -> Result<Read, StreamError> {
        if self.drain.is_cancelled() {
            return Err(StreamError::Stopping);
        }
        self.files.check_room()?;
        let task = Task::alone(slice.clone());
        let (stopping, clock) = (self.drain.clone(), self.files.clock());
        let out_of_time = async move {
            stopping.cancelled().await;
            clock.sleep(DRAIN_GRACE).await;
        };
        tokio::select! {
            read = self.reader.read(&task) => Ok(read.map_err(StreamError::Read)?),
            () = out_of_time => Err(StreamError::Stopping),
        }
    }
}
