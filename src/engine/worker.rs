//! One job, from its checkpoint to its next state. It always starts from what is stored, so that a restart is
//! nothing special.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::files::{Files, FilesError, Together};
use super::pool::{Order, Pool};
use super::progress::Progress;
use super::read::{Read, ReadError, Reader};
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::job::Running;
use crate::plan::filter::FilterNo;
use crate::plan::slice::{Phase, Scope, Slice};
use crate::plan::{Cohort, ExportPlan, Strategy, TypePlan};

/// The worker of one planned job.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) reader: Reader,
    pub(super) files: Files,
    pub(super) plan: Arc<ExportPlan>,
    pub(super) running: Running,
    pub(super) searches: usize,
    /// Set when the process is to stop: slices that are being read are finished, no further ones begun.
    pub(super) drain: CancellationToken,
    pub(super) progress: Arc<Progress>,
}

/// Why a worker stopped before the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    /// The slice cannot be read, now or later.
    #[error("could not read {resource_type} by {strategy} (slice {slice})")]
    Slice {
        resource_type: ResourceType,
        strategy: &'static str,
        slice: u64,
        #[source]
        source: ReadError,
    },
    /// Store or output failed: the job goes on from its checkpoint once they are back.
    #[error("the job was interrupted")]
    Interrupted(#[from] FilesError),
    #[error("the process is stopping")]
    Draining,
}

impl WorkerError {
    /// Whether the server does not accept what was shown to it.
    pub(super) fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Slice { source, .. } if source.is_unauthorized())
    }
}

/// How long slices that are being read may take once the process is to stop.
pub(super) const DRAIN_GRACE: Duration = Duration::from_secs(10);
/// How often the output is asked whether there is room.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Sweep passes at most; what still moves then comes with the next export.
const MOST_PASSES: u32 = 3;
/// Ids asked for by one search, where lists of them are proven.
pub(super) const IDS_PER_SEARCH: u32 = 25;

impl Worker {
    /// Reads all that is left of the plan. Afterwards every slice is held by a complete file; if the process is
    /// stopping, every slice that was read.
    pub(super) async fn read_all(&mut self) -> Result<(), WorkerError> {
        let read = self.read_phases().await;
        if matches!(read, Err(WorkerError::Draining)) {
            self.files.flush().await?;
        }
        read
    }

    async fn read_phases(&mut self) -> Result<(), WorkerError> {
        if self.plan.is_organized {
            self.read_blocks().await?;
            return Ok(self.files.flush().await?);
        }
        let (late, types): (Vec<_>, Vec<_>) = self.plan.types.keys().partition(|name| self.plan.is_late(**name));
        self.read_types(&types).await?;
        if !late.is_empty() {
            self.files.flush().await?;
            self.reader.exported = Some(Arc::new(self.files.exported()));
            self.read_types(&late).await?;
        }
        self.read_references().await?;
        self.read_associated().await?;
        Ok(self.files.flush().await?)
    }

    async fn read_types(&mut self, types: &[ResourceType]) -> Result<(), WorkerError> {
        let mut windows = self.types_by(|strategy| matches!(strategy, Strategy::Windows));
        windows.retain(|name| types.contains(name));
        let covers = self.plan.horizon.covers_all() && self.plan.profile.counts.is_some();
        // What was empty at kick-off is looked at once more at the end.
        let is_empty = |name: &ResourceType| self.plan.types.get(name).is_some_and(TypePlan::is_empty);
        let (empty, occupied): (Vec<_>, Vec<_>) = windows.into_iter().partition(is_empty);
        if covers {
            self.find_gaps(&occupied).await?;
        }
        self.read_phase(Phase::Old, types).await?;
        self.read_phase(Phase::Young, types).await?;
        // What is compared with files from here on must not fall with a crash.
        self.files.flush().await?;
        let mut still = if covers { self.find_gaps(&occupied).await? } else { self.still(&occupied).await? };
        self.read_gaps(types).await?;
        let mut changed = self.recount(types).await?;
        // Last of all, so that one count of each is enough.
        still.extend(self.find_gaps(&empty).await?);
        if self.read_gaps(types).await? {
            changed.extend(self.recount(types).await?);
        }
        for changed in changed {
            still.remove(&changed);
        }
        self.files.flush().await?;
        self.sweep(types, &still).await
    }

    /// Reads what no window could see; `false` if there is none that has not been read yet.
    async fn read_gaps(&mut self, types: &[ResourceType]) -> Result<bool, WorkerError> {
        let gaps: Vec<_> = self.running.gaps.keys().copied().filter(|name| types.contains(name)).collect();
        let slices: Vec<_> = gaps.iter().flat_map(|name| self.remaining(Phase::Gap, *name)).collect();
        if slices.is_empty() {
            return Ok(false);
        }
        self.drain(slices, Order::Any).await?;
        Ok(true)
    }

    async fn read_phase(&mut self, phase: Phase, types: &[ResourceType]) -> Result<(), WorkerError> {
        self.progress.enter(phase);
        let slices = types.iter().flat_map(|name| self.remaining(phase, *name)).collect();
        self.drain(slices, Order::Any).await
    }

    fn remaining(&self, phase: Phase, resource_type: ResourceType) -> Vec<Slice> {
        self.plan.remaining(phase, resource_type, self.files.slices().map(|record| &record.slice))
    }

    pub(super) fn types_by(&self, wanted: impl Fn(&Strategy) -> bool) -> Vec<ResourceType> {
        self.plan.types.iter().filter(|(_, plan)| wanted(&plan.strategy)).map(|(name, _)| *name).collect()
    }

    /// A pool that knows how dense a type was when the plan was made.
    fn pool(&self, slices: Vec<Slice>, order: Order) -> Pool {
        let mut pool = Pool::new(slices, order);
        let until = self.plan.horizon.windows_until.0;
        for (name, plan) in &self.plan.types {
            if let (Some(count), Some(oldest)) = (self.plan.expected(*name), plan.oldest) {
                pool.expect(*name, count, until.saturating_sub(oldest.0));
            }
        }
        pool
    }

    /// Reads slices until none is left. What does not fit into memory is read alone, after the others of its turn.
    pub(super) async fn drain(&mut self, slices: Vec<Slice>, order: Order) -> Result<(), WorkerError> {
        self.drain_into(None, slices, order).await.map(drop)
    }

    /// The same, and holds what was read of some patients; `false` if not all of it can be held.
    pub(super) async fn drain_into(
        &mut self,
        mut together: Option<&mut Together>,
        slices: Vec<Slice>,
        order: Order,
    ) -> Result<bool, WorkerError> {
        let mut pool = self.pool(slices, order);
        let mut reading = JoinSet::new();
        let mut large: VecDeque<Slice> = VecDeque::new();
        let (stopping, clock) = (self.drain.clone(), self.files.clock());
        let mut out_of_time = std::pin::pin!(async move {
            stopping.cancelled().await;
            clock.sleep(DRAIN_GRACE).await;
        });
        let mut look = self.files.clock().sleep(LOOK_EVERY);
        let mut stopped = false;
        loop {
            if self.drain.is_cancelled() {
                pool.clear();
            }
            while reading.len() < self.searches
                && let Some(task) = pool.next(|name| self.reader.cutting(name))
            {
                let reader = self.reader.clone();
                let number = self.progress.begin_slice();
                let span = self.span(task.slice.resource_type, number);
                let read = async move {
                    let read = reader.read(&task).await;
                    (task, number, read)
                };
                reading.spawn(read.instrument(span));
            }
            let read = tokio::select! {
                read = reading.join_next() => read,
                // The upstream does not answer: what it has not sent by now is read after the restart.
                () = &mut out_of_time => {
                    reading.shutdown().await;
                    None
                }
                () = self.files.aged() => {
                    self.files.close_aged().await?;
                    continue;
                }
                // What is read goes to memory first: a disk that others fill is noticed before a part is.
                () = &mut look => {
                    self.files.check_room()?;
                    look = self.files.clock().sleep(LOOK_EVERY);
                    continue;
                }
            };
            let Some(read) = read else {
                if self.drain.is_cancelled() {
                    return Err(WorkerError::Draining);
                }
                let Some(slice) = large.pop_front() else {
                    return if stopped { Err(WorkerError::Draining) } else { Ok(true) };
                };
                let resource_type = slice.resource_type;
                let number = self.progress.begin_slice();
                let span = self.span(resource_type, number);
                self.stream(slice, number).instrument(span).await?;
                pool.release(resource_type);
                continue;
            };
            let (task, number, read) = match read {
                Ok(read) => read,
                // A panic in a reader is a panic of this job, and of no other.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Its runtime has ended under it.
                Err(_) => return Err(WorkerError::Draining),
            };
            let resource_type = task.slice.resource_type;
            match read {
                Ok(Read::Accepted(mut accepted)) => {
                    self.progress.received(accepted.resources.len());
                    let slice = task.slice.clone();
                    self.reader.mark_latest(&slice, &mut accepted.resources);
                    pool.read(task, accepted.summary.received, self.reader.cutting(resource_type).grid);
                    if !self.files.take(together.as_deref_mut(), slice, accepted).await? {
                        return Ok(false);
                    }
                    self.files.close_aged().await?;
                }
                Ok(Read::TooMany(excess)) => pool.put_back(task, excess, self.reader.cutting(resource_type)),
                Ok(Read::InHalves) => pool.halve(task, self.reader.cutting(resource_type).grid),
                Ok(Read::Large) if together.is_some() => return Ok(false),
                Ok(Read::Large) => large.push_back(pool.set_aside(task)),
                // Others that are being read may still come to their end.
                Err(source) if source.is_stopping() => {
                    stopped = true;
                    pool.clear();
                }
                Err(source) => return Err(self.failed(resource_type, number, source)),
            }
        }
    }

    /// Reads what moved or was committed late, in ascending order, until a pass brings nothing unknown. Each life
    /// of the process starts afresh: what an earlier one saw of a pass does not count.
    async fn sweep(&mut self, types: &[ResourceType], still: &BTreeSet<ResourceType>) -> Result<(), WorkerError> {
        if !self.plan.profile.filters_by_time() {
            return Ok(());
        }
        let mut types: BTreeSet<_> = types.iter().copied().collect();
        for quiet in self.quiet(&types, still).await? {
            types.remove(&quiet);
        }
        for _ in 0..MOST_PASSES {
            if types.is_empty() {
                break;
            }
            self.running.sweep += 1;
            self.save().await?;
            let phase = Phase::Sweep(self.running.sweep);
            self.progress.enter(phase);
            let slices = types.iter().flat_map(|name| self.plan.slices(phase, *name)).collect();
            self.drain(slices, Order::Ascending).await?;
            let unknown: HashMap<ResourceType, u64> = self
                .files
                .slices()
                .filter(|record| record.slice.phase == phase)
                .fold(HashMap::new(), |mut unknown, record| {
                    *unknown.entry(record.slice.resource_type).or_default() += record.written;
                    unknown
                });
            self.files.flush().await?;
            types.retain(|name| unknown.get(name).is_some_and(|count| *count > 0));
        }
        Ok(())
    }

    /// Fetches what exported resources refer to and no search has brought, once.
    pub(super) async fn read_references(&mut self) -> Result<(), WorkerError> {
        if self.plan.context.is_empty() || matches!(self.plan.cohort, Cohort::Everything) {
            return Ok(());
        }
        self.progress.enter(Phase::References);
        self.files.flush().await?;
        let mut wanted: HashMap<ResourceType, Vec<Id>> = HashMap::new();
        for reference in self.files.references().await? {
            wanted.entry(reference.resource_type).or_default().push(reference.id);
        }
        let at_once = if self.plan.profile.id_lists { IDS_PER_SEARCH } else { 1 };
        let mut slices = Vec::new();
        for (resource_type, ids) in &wanted {
            let list = 0..u32::try_from(ids.len()).unwrap_or(u32::MAX);
            let read = self.files.slices().map(|record| &record.slice);
            let read = read.filter(|slice| slice.phase == Phase::References && slice.resource_type == *resource_type);
            for filter in self.plan.steps(*resource_type) {
                let (phase, scope) = (Phase::References, Scope::Ids { list: list.clone() });
                let whole = Slice { phase, resource_type: *resource_type, filter, scope };
                for rest in whole.remaining(read.clone()) {
                    let Scope::Ids { list } = rest.scope else { continue };
                    let starts = list.clone().step_by(at_once as usize);
                    let parts = starts.map(|start| start..list.end.min(start.saturating_add(at_once)));
                    slices.extend(parts.map(|list| Slice { scope: Scope::Ids { list }, ..whole.clone() }));
                }
            }
        }
        self.reader.references = Arc::new(wanted);
        self.drain(slices, Order::Any).await
    }

    pub(super) async fn save(&mut self) -> Result<(), WorkerError> {
        Ok(self.files.save(self.running.clone()).await?)
    }

    /// Asks one question for each of `subjects`, several at a time.
    pub(super) async fn each<S, T, F>(&self, subjects: &[S], ask: impl Fn(S) -> F) -> Result<Vec<(S, T)>, WorkerError>
    where
        S: Clone + HasType,
        F: Future<Output = Result<T, ReadError>>,
    {
        use futures_util::StreamExt;
        let asked = subjects.iter().cloned().map(|subject| {
            let answer = ask(subject.clone());
            async move { (subject, answer.await) }
        });
        let mut answers = futures_util::stream::iter(asked).buffer_unordered(self.searches);
        let mut all = Vec::with_capacity(subjects.len());
        while let Some((subject, answer)) = answers.next().await {
            if self.drain.is_cancelled() {
                return Err(WorkerError::Draining);
            }
            let answer =
                answer.map_err(|source| self.failed(subject.resource_type(), self.progress.begin_slice(), source))?;
            all.push((subject, answer));
        }
        Ok(all)
    }

    pub(super) fn failed(&self, resource_type: ResourceType, slice: u64, source: ReadError) -> WorkerError {
        if source.is_stopping() {
            return WorkerError::Draining;
        }
        let source = match source {
            ReadError::Output(error) => return FilesError::from(error).into(),
            source => source,
        };
        WorkerError::Slice { resource_type, strategy: self.strategy(resource_type), slice, source }
    }

    /// Whatever is logged while a slice is read says which one it is: as a failure does, and no parameter's value.
    pub(super) fn span(&self, resource_type: ResourceType, slice: u64) -> tracing::Span {
        let (job, strategy) = (self.files.job(), self.strategy(resource_type));
        tracing::info_span!("slice", export.job_id = %job, %resource_type, strategy, slice)
    }

    fn strategy(&self, resource_type: ResourceType) -> &'static str {
        self.plan.types.get(&resource_type).map_or("references", |plan| plan.strategy.name())
    }
}

/// What a question is about, for the error that may come of it.
pub(super) trait HasType {
    fn resource_type(&self) -> ResourceType;
}

impl HasType for ResourceType {
    fn resource_type(&self) -> ResourceType {
        *self
    }
}

impl HasType for (ResourceType, Id) {
    fn resource_type(&self) -> ResourceType {
        self.0
    }
}

impl HasType for (ResourceType, Option<FilterNo>) {
    fn resource_type(&self) -> ResourceType {
        self.0
    }
}

impl HasType for (ResourceType, Millis) {
    fn resource_type(&self) -> ResourceType {
        self.0
    }
}

impl HasType for (ResourceType, Vec<Id>) {
    fn resource_type(&self) -> ResourceType {
        self.0
    }
}

impl HasType for Slice {
    fn resource_type(&self) -> ResourceType {
        self.resource_type
    }
}
