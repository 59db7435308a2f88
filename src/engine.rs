//! Accepts and runs jobs: bounded, cancellable, and a panic fails only its own job.

mod accept;
mod as_of;
mod assertions;
mod associated;
mod attachments;
mod chosen;
mod clean;
mod cohorts;
mod coverage;
mod deletions;
mod downloads;
pub(crate) mod files;
mod finish;
mod held;
mod holdings;
mod isolate;
mod narrow;
mod organized;
mod planner;
mod pool;
mod profiler;
pub(crate) mod progress;
mod provenance;
mod read;
mod reaper;
mod recount;
mod refusal;
mod rights;
mod room;
mod run;
mod sealing;
mod services;
mod shared;
mod sidecars;
mod streamed;
mod submit;
mod timekeeper;
mod worker;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::watch::ClockWatch;
use crate::clock::{self, Clock};
use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::outcome::IssueType;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::FileRecord;
use crate::job::store::{Store, StoreError};
use crate::job::{Epoch, Job, JobId, JobState};
use crate::ledger::Ledger;
use crate::ledger::record::Event;
use crate::output::Output;
use crate::output::checkpoint::CheckpointKey;
use crate::output::writer::Coding;
use crate::plan::{BoundaryChoice, Newcomers, OnShort};
use crate::profile::{PresetChoice, ProfileOverrides};
use crate::smart::server::Registry;
use crate::store::keys::JobKeys;
use crate::telemetry::error_chain;
use crate::upstream::capabilities::Capabilities;
use crate::upstream::client::Upstream;
use crate::upstream::cohorts::Cohorts;
pub(crate) use cohorts::SearchesRefused;
pub(crate) use downloads::Download;
use downloads::Downloads;
use files::FileLimits;
use planner::Planner;
use profiler::{Profiler, ProfilerParts};
use progress::{Pause, Progress};
use read::KnownSizes;
use rights::Rights;
use services::Services;
use shared::SharedExports;
use sidecars::Sidecars;
pub(crate) use submit::SubmitError;
use timekeeper::Timekeeper;

/// Everything that jobs are run with.
#[derive(Debug)]
pub(crate) struct EngineParts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) output: Output,
    pub(crate) upstream: Upstream,
    /// What the upstream says of itself.
    pub(crate) capabilities: Capabilities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) watch: ClockWatch,
    pub(crate) ledger: Ledger,
    pub(crate) instance: String,
    /// What checkpoint objects are authenticated with.
    pub(crate) checkpoint_key: CheckpointKey,
    /// What the patients of each job are sealed with.
    pub(crate) job_keys: JobKeys,
    pub(crate) settings: EngineSettings,
    /// The runtime that jobs run on: not the one that serves ordinary traffic.
    pub(crate) runtime: tokio::runtime::Handle,
    /// When this process began to listen, or before.
    pub(crate) began: Millis,
    /// Who says whether the client of an export may still have it, where there are clients.
    pub(crate) registry: Option<Arc<Registry>>,
}

/// The limits that jobs run within.
#[derive(Debug, Clone)]
pub(crate) struct EngineSettings {
    pub(crate) most_running: usize,
    pub(crate) most_waiting: usize,
    /// Of one client, those that run and those that wait.
    pub(crate) most_of_a_client: u32,
    /// Whether kick-offs of a client that ask for the same share an export.
    pub(crate) share: bool,
    /// A folder for files without a name.
    pub(crate) scratch: Arc<Path>,
    pub(crate) searches: usize,
    pub(crate) page_resources: u32,
    pub(crate) page_bytes: usize,
    pub(crate) files: FileLimits,
    pub(crate) coding: Coding,
    /// The base that clients know.
    pub(crate) public_base: Box<str>,
    pub(crate) lag_millis: i64,
    pub(crate) output_ttl: Duration,
    pub(crate) most_members: usize,
    pub(crate) newcomers: Newcomers,
    pub(crate) cohorts: Cohorts,
    pub(crate) context: Vec<ResourceType>,
    /// Which preset is used.
    pub(crate) preset: PresetChoice,
    /// What an operator knows better of the upstream than the probes.
    pub(crate) profile: ProfileOverrides,
    /// How long what the probes found is believed.
    pub(crate) profile_ttl: Duration,
    /// Whether the upstream is probed before there is an export.
    pub(crate) probe_on_start: bool,
    pub(crate) on_short: OnShort,
    pub(crate) boundary: BoundaryChoice,
    pub(crate) deletions_by_difference: bool,
    /// Attachments of one resource that are inlined have so many bytes together; `None` if none is.
    pub(crate) inlines: Option<u64>,
    /// How long a job keeps trying when store or output fail.
    pub(crate) give_up_after: Duration,
}

/// Runs jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    services: Services,
    upstream: Upstream,
    planner: Planner,
    settings: EngineSettings,
    runtime: tokio::runtime::Handle,
    jobs: Mutex<Jobs>,
    shared: SharedExports,
    known_sizes: KnownSizes,
    /// What clients are fetching.
    downloads: Downloads,
    began: Millis,
    /// Whether the clock can be believed.
    timekeeper: Timekeeper,
    /// Exports are to be looked at.
    look: Notify,
    /// Places for running jobs.
    places: Arc<Semaphore>,
    /// A job waits for its turn.
    queued: Notify,
    /// A job was deleted, or a deleted one has stopped.
    discarded: Notify,
    tasks: TaskTracker,
    drain: CancellationToken,
    stop: CancellationToken,
}

/// Whether there is an engine that can be asked.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// The job store is being opened.
    Opening,
    /// The output belongs to somebody else: nothing of it is touched.
    Foreign,
    /// Who is not to be exported is not known: nothing is, and nothing is handed out.
    Unlisted,
    /// The storage gives to anybody what it is to keep: no file is written there and none is handed out, but they can be
    /// removed.
    Public(Engine),
    Ready(Engine),
}

impl Standing {
    pub(crate) fn engine(&self) -> Option<Engine> {
        match self {
            Self::Ready(engine) | Self::Public(engine) => Some(engine.clone()),
            Self::Opening | Self::Foreign | Self::Unlisted => None,
        }
    }
}

/// What this process knows of jobs beyond the store.
#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<JobId>,
    running: HashMap<JobId, Handle>,
    /// Deleted ones whose objects and records are to be removed.
    deleted: HashSet<JobId>,
    /// Failed ones whose objects are to be removed; their records stay until they expire.
    failed: HashSet<JobId>,
}

#[derive(Debug, Clone)]
struct Handle {
    cancel: CancellationToken,
    progress: Arc<Progress>,
}

/// Bytes of sidecars kept in memory.
const SIDECAR_CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// How long a drain waits before it ends all work as a crash would.
const DRAIN_PATIENCE: Duration = Duration::from_secs(25);
/// How often expired exports are looked for.
const REAP_EVERY: Duration = Duration::from_secs(30);
/// How much longer than its job a file is kept for those who are fetching it (SEC-30).
const HELD_FOR: Duration = Duration::from_hours(1);

impl Engine {
    pub(crate) fn new(parts: EngineParts) -> Self {
        let EngineParts { store, output, upstream, clock, ledger, instance, checkpoint_key, .. } = parts;
        let keys = parts.job_keys;
        let (settings, runtime) = (parts.settings, parts.runtime);
        let (began, rights) = (parts.began, Rights::new(parts.registry, settings.most_of_a_client));
        let timekeeper = Timekeeper::new(parts.watch);
        let profiler = Profiler::new(ProfilerParts {
            store: Arc::clone(&store),
            upstream: upstream.clone(),
            capabilities: parts.capabilities,
            clock: Arc::clone(&clock),
            preset: settings.preset.clone(),
            overrides: settings.profile.clone(),
            page_resources: settings.page_resources,
            searches: settings.searches,
            ttl: settings.profile_ttl,
        });
        let sidecars = Sidecars::within(SIDECAR_CACHE_BYTES);
        let planner = Planner {
            upstream: upstream.clone(),
            searches: settings.searches,
            lag_millis: settings.lag_millis,
            most_members: settings.most_members,
            newcomers: settings.newcomers,
            cohorts: settings.cohorts.clone(),
            context: settings.context.clone(),
            page_resources: settings.page_resources,
            preset: settings.preset.clone(),
            overrides: settings.profile.clone(),
            on_short: settings.on_short,
            boundary: settings.boundary,
            deletions_by_difference: settings.deletions_by_difference,
            inlines: settings.inlines,
            profiler,
            rights: rights.clone(),
        };
        let coding = settings.coding;
        let places = Arc::new(Semaphore::new(settings.most_running));
        let instance = instance.into();
        let client = None;
        let scratch = Arc::clone(&settings.scratch);
        let services = Services {
            store,
            output,
            clock,
            ledger,
            sidecars,
            scratch,
            instance,
            client,
            checkpoint_key,
            keys,
            coding,
            rights,
        };
        let inner = Inner {
            services,
            upstream,
            planner,
            settings,
            runtime,
            jobs: Mutex::default(),
            shared: SharedExports::default(),
            known_sizes: KnownSizes::default(),
            downloads: Downloads::default(),
            began,
            timekeeper,
            places,
            queued: Notify::new(),
            discarded: Notify::new(),
            look: Notify::new(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes up what the store holds and runs it, from now until [`drain`](Self::drain). Nothing of the `excluded` patients
    /// leaves.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(crate) async fn start(&self, excluded: BTreeSet<Id>) -> Result<(), StoreError> {
        self.inner.recall_clock().await?;
        let mut jobs = self.inner.services.store.jobs().await?;
        let heeded = jobs.iter().map(|job| job.consent).max().unwrap_or(Millis(0));
        let consent = self.inner.services.store.consent().await?.unwrap_or_default().not_before(heeded);
        self.inner.services.rights.recall(consent);
        self.exclude(excluded);
        self.inner.planner.profiler.recall().await;
        jobs.sort_by_key(|job| (job.created, job.id));
        for job in jobs.iter().filter(|job| self.inner.settings.share && job.state.is_active()) {
            // With the patients that it names. One whose key is lost fails soon.
            if let Some(job) = self.inner.services.store.job(job.id).await?
                && let Ok(job) = self.inner.services.opened(job).await
            {
                self.inner.may_share(&job);
            }
        }
        self.inner.services.settle_keys(&jobs).await;
        {
            let mut known = self.inner.jobs();
            known.waiting.extend(jobs.iter().filter(|job| job.state.is_active()).map(|job| job.id));
            known.deleted.extend(jobs.iter().filter(|job| job.state == JobState::Deleted).map(|job| job.id));
            known.failed.extend(jobs.iter().filter(|job| matches!(job.state, JobState::Failed(_))).map(|job| job.id));
        }
        let engine = self.clone();
        self.inner.tasks.spawn_on(async move { engine.schedule().await }, &self.inner.runtime);
        let engine = self.clone();
        self.inner.tasks.spawn_on(async move { engine.reap().await }, &self.inner.runtime);
        let engine = self.clone();
        self.inner.tasks.spawn_on(async move { engine.look_for_ended().await }, &self.inner.runtime);
        if self.inner.settings.probe_on_start {
            let engine = self.clone();
            let probing = async move { engine.inner.planner.profiler.find_out(&engine.inner.drain).await };
            self.inner.tasks.spawn_on(probing, &self.inner.runtime);
        }
        Ok(())
    }

    /// From now on nothing of these patients leaves; exports that may hold one who is new among them are revoked soon after.
    pub(crate) fn exclude(&self, patients: BTreeSet<Id>) {
        let services = &self.inner.services;
        services.rights.exclude(patients, clock::now(&*services.clock));
        self.look_again();
    }

    /// Does what may not be done in part, even if the client has gone that asked for it.
    async fn to_its_end<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        let done = self.inner.runtime.spawn(work).await;
        done.unwrap_or_else(|ended| Err(StoreError::Unavailable(ended.into()).into()))
    }

    /// A job that can be asked for: not one that is deleted or has expired.
    pub(crate) async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let now = clock::now(&*self.inner.services.clock);
        let job = self.inner.services.store.job(id).await?;
        let is_over = |job: &Job| {
            job.state.expires().is_some_and(|expires| expires <= now) && !self.inner.timekeeper.watch.holds_expiry()
        };
        Ok(job.filter(|job| job.state != JobState::Deleted && !is_over(job)))
    }

    /// All exports, as they stand in the store.
    pub(crate) async fn all(&self) -> Result<Vec<Job>, StoreError> {
        self.inner.services.store.jobs().await
    }

    /// The files of a job.
    pub(crate) async fn files(&self, id: JobId) -> Result<Vec<FileRecord>, StoreError> {
        self.inner.services.store.files(id).await
    }

    /// Deletes a job in whatever state, for the reason that `told` is; `false` if there is none. Its objects are removed soon
    /// after.
    pub(crate) async fn delete(&self, id: JobId, told: Event) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.to_its_end(async move { inner.delete(id, told).await }).await
    }

    /// Whether a job may not be had any more by its client as it is registered now, or holds somebody who withdrew consent: then
    /// it is removed soon after (SEC-14).
    pub(crate) async fn is_revoked(&self, job: &Job) -> Result<bool, StoreError> {
        let is_revoked = self.inner.services.is_revoked(job).await?;
        if is_revoked {
            self.look_again();
        }
        Ok(is_revoked)
    }

    /// Has it looked at once whether clients may still have their exports.
    pub(crate) fn look_again(&self) {
        self.inner.look.notify_one();
    }

    /// Holds an object of a job for a client that fetches it. Afterwards the job must be [looked at](Self::job): it may
    /// have gone before.
    pub(crate) fn download(&self, id: JobId, key: &str) -> Download {
        self.inner.downloads.begin(id, key)
    }

    /// How far a job has come.
    pub(crate) fn progress(&self, id: JobId) -> String {
        let waiting = self.inner.upstream.waiting();
        let jobs = self.inner.jobs();
        let progress = jobs.running.get(&id).map(|handle| &handle.progress);
        progress.map_or_else(|| "waiting for its turn".to_owned(), |progress| progress.text_while(waiting))
    }

    /// What exports are paused for, each once.
    pub(crate) fn pauses(&self) -> Vec<Pause> {
        let mut pauses = Vec::new();
        for pause in self.inner.jobs().running.values().filter_map(|handle| handle.progress.paused()) {
            if !pauses.contains(&pause) {
                pauses.push(pause);
            }
        }
        pauses
    }

    /// Ends all work: slices that are being read are finished and their files completed, so that a restart reads
    /// nothing twice.
    pub(crate) async fn drain(&self) {
        self.inner.drain.cancel();
        self.inner.upstream.stop_waiting();
        self.inner.tasks.close();
        tokio::select! {
            () = self.inner.tasks.wait() => return,
            () = self.inner.services.clock.sleep(DRAIN_PATIENCE) => {}
        }
        tracing::warn!("exports did not come to rest in time and are cut off; they go on after the restart");
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
    }

    /// Ends all work at once, as a crash would.
    pub(crate) fn stop(&self) {
        self.inner.drain.cancel();
        self.inner.stop.cancel();
    }

    async fn schedule(&self) {
        loop {
            let place = tokio::select! {
                () = self.inner.drain.cancelled() => return,
                place = Arc::clone(&self.inner.places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let id = loop {
                if let Some(id) = self.inner.jobs().waiting.pop_front() {
                    break id;
                }
                tokio::select! {
                    () = self.inner.drain.cancelled() => return,
                    () = self.inner.queued.notified() => {}
                }
            };
            self.run(id, place);
        }
    }

    fn run(&self, id: JobId, place: OwnedSemaphorePermit) {
        let handle = Handle { cancel: self.inner.stop.child_token(), progress: Arc::default() };
        self.inner.jobs().running.insert(id, handle.clone());
        let inner = Arc::clone(&self.inner);
        let work = async move {
            let run = std::panic::AssertUnwindSafe(inner.run_to_end(id, &handle.progress)).catch_unwind();
            let ended = handle.cancel.run_until_cancelled(Box::pin(run)).await;
            if let Some(Err(_panic)) = ended {
                // The panic's own message went to the log; it may hold anything and goes nowhere else.
                tracing::error!(export.job_id = %id, "an export panicked and is given up");
                inner.fail(id, IssueType::Processing, "an internal error ended the export".to_owned()).await;
            }
            inner.jobs().running.remove(&id);
            inner.shared.forget(id);
            inner.discarded.notify_one();
            drop(place);
        };
        self.inner.tasks.spawn_on(work, &self.inner.runtime);
    }
}

impl Inner {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes a job, for the reason that `told` is.
    async fn delete(&self, id: JobId, told: Event) -> Result<bool, StoreError> {
        let deleted = self.delete_in_store(id).await?;
        if deleted {
            self.tell_deleted(id, told).await;
        }
        Ok(deleted)
    }

    /// Deletes a job so that nobody gets anything of it any more; what is to be said of that comes
    /// [afterwards](Self::tell_deleted).
    async fn delete_in_store(&self, id: JobId) -> Result<bool, StoreError> {
        let deleted = self.services.store.delete(id).await?;
        if deleted {
            self.downloads.cut(id);
            // However long the storage takes: nothing more is read or written for it.
            self.cancel(id);
            self.services.unseal_never(id).await;
        }
        Ok(deleted)
    }

    /// Says in the output and in the ledger that a job was deleted, and has its objects removed.
    async fn tell_deleted(&self, id: JobId, told: Event) {
        let services = &self.services;
        // What was answered stays so, whatever is lost. If it cannot be said now, the reaper says it.
        if let Ok(Some(job)) = services.store.job(id).await
            && let Err(error) = services.ending(&job).keep_job(Epoch::default(), job, None).await
        {
            tracing::warn!(export.job_id = %id, error = error_chain(&error), "could not mark the output of a deleted export yet");
        }
        // Only now: its objects are removed for good, this mark with them.
        self.forget(id);
        services.ledger.note(told).await;
    }

    /// Stops a job that was deleted.
    fn cancel(&self, id: JobId) {
        self.shared.forget(id);
        let mut jobs = self.jobs();
        jobs.waiting.retain(|waiting| *waiting != id);
        if let Some(handle) = jobs.running.get(&id) {
            handle.cancel.cancel();
        }
    }

    /// Stops a deleted job and has its objects removed.
    fn forget(&self, id: JobId) {
        self.cancel(id);
        self.jobs().deleted.insert(id);
        self.discarded.notify_one();
    }
}
