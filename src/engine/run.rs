//! One job from its checkpoint to its end: as many runs as it takes, and what ends each of them.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::associated::provenance_of;
use super::files::{Export, Files, FilesError};
use super::planner::{PlanError, Planned};
use super::progress::{Pause, Progress};
use super::read::{PageLimits, Reader};
use super::reaper::ended;
use super::room::{By, RoomWait, Stopped};
use super::worker::{Worker, WorkerError};
use crate::fhir::filter::Filter;
use crate::fhir::outcome::IssueType;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::FileState;
use crate::job::store::{Change, StoreError};
use crate::job::{Failed, Job, JobId, JobState, Running};
use crate::ledger::record::Event;
use crate::plan::Cohort;
use crate::smart::admit::Grant;
use crate::store::keys::KeyError;
use crate::telemetry::error_chain;
use crate::upstream::probe::FilterProbeError;

/// First pause after store or output failed under a job; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Inner {
    /// Runs a job from its checkpoint as often as store or output break it off, for as long as there is patience.
    pub(super) async fn run_to_end(self: &Arc<Self>, id: JobId, progress: &Arc<Progress>) {
        let mut failures = 0_u32;
        let mut since = None;
        let mut room = RoomWait::default();
        let mut refused = Refusals::default();
        loop {
            let clock = &self.services.clock;
            let (before, slices) = (self.completed(id).await, progress.slices());
            // From here on: what was read anew while this goes on is tried at once.
            let replaced = self.upstream.credentials().replaced();
            match Box::pin(self.run_once(id, progress)).await {
                Ok(()) => return,
                Err(RunError::Fenced | RunError::Draining) => return,
                Err(RunError::Revoked) => {
                    if self.revoke(id).await
                        || self.drain.run_until_cancelled(clock.sleep(LONGEST_PAUSE)).await.is_none()
                    {
                        return;
                    }
                }
                Err(RunError::Unauthorized { text }) => {
                    if self.completed(id).await > before {
                        refused = Refusals::default();
                    }
                    let Some(pause) = refused.next(clock.monotonic(), self.settings.give_up_after) else {
                        tracing::warn!(export.job_id = %id, reason = text, "an export failed");
                        return self.fail(id, IssueType::Processing, text).await;
                    };
                    progress.pause(Pause::Credentials);
                    tracing::error!(
                        export.job_id = %id,
                        pause_seconds = pause.as_secs(),
                        "an export is paused: the upstream does not accept our credentials; it is tried again, and at once \
                         after SIGHUP has read others"
                    );
                    let waited = async {
                        tokio::select! {
                            () = clock.sleep(pause) => {}
                            () = replaced => {}
                        }
                    };
                    if self.drain.run_until_cancelled(waited).await.is_none() {
                        return;
                    }
                }
                Err(RunError::GivenUp { code, text }) => {
                    tracing::warn!(export.job_id = %id, reason = text, "an export failed");
                    return self.fail(id, code, text).await;
                }
                Err(RunError::Full(error)) => {
                    if !progress.pause(Pause::Storage) {
                        let error = error_chain(&error);
                        tracing::warn!(export.job_id = %id, error, "an export is paused until it can write again");
                    }
                    if self.completed(id).await > before {
                        refused = Refusals::default();
                    }
                    let stopped = Stopped {
                        by: By::of(&error),
                        has_read: progress.slices() > slices,
                        has_completed: self.completed(id).await > before,
                    };
                    let waited = async {
                        self.give_back(id).await;
                        room.returns(&self.services, stopped).await;
                    };
                    if self.drain.run_until_cancelled(waited).await.is_none() {
                        return;
                    }
                }
                Err(RunError::Interrupted(error)) => {
                    // What is gone or damaged stays so, however much is completed anew beside it.
                    if !error.is_damage() && self.completed(id).await > before {
                        (failures, since, refused) = (0, None, Refusals::default());
                    }
                    failures += 1;
                    let now = clock.unix_millis();
                    let failing = now.saturating_sub(*since.get_or_insert(now));
                    tracing::warn!(export.job_id = %id, error = error_chain(&error), "an export was interrupted");
                    if failing > i64::try_from(self.settings.give_up_after.as_millis()).unwrap_or(i64::MAX) {
                        let text = "the export's own storage failed for too long".to_owned();
                        return self.fail(id, IssueType::Processing, text).await;
                    }
                    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(LONGEST_PAUSE);
                    tokio::select! {
                        () = self.drain.cancelled() => return,
                        () = clock.sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// How many files of a job are complete, as far as the store tells.
    async fn completed(&self, id: JobId) -> usize {
        let files = self.services.store.files(id).await.unwrap_or_default();
        files.iter().filter(|file| matches!(file.state, FileState::Complete(_))).count()
    }

    /// Removes what a run has left unfinished: on a cloud it takes the very room that is waited for. What cannot be removed
    /// now, the next run removes.
    async fn give_back(&self, id: JobId) {
        let given = async {
            let store = &self.services.store;
            let lease = store.claim(id).await?;
            let Some(job) = store.job(id).await? else { return Err(RunError::Fenced) };
            let mut records = store.files(id).await?;
            self.clean(&self.services.ending(&job), lease, &mut records).await
        };
        if let Err(error) = given.await {
            tracing::debug!(export.job_id = %id, ?error, "what an export has begun is not removed yet");
        }
    }

    async fn run_once(&self, id: JobId, progress: &Arc<Progress>) -> Result<(), RunError> {
        let store = &self.services.store;
        self.services.output.check_room().map_err(FilesError::from)?;
        let lease = store.claim(id).await?;
        let Some(kept) = store.job(id).await? else { return Err(RunError::Fenced) };
        if !kept.state.is_active() {
            return Ok(());
        }
        let job = self.services.opened(kept.clone()).await?;
        let services = self.services.of(&job).map_err(FilesError::from)?;
        let mut records = store.files(id).await?;
        self.clean(&services, lease, &mut records).await?;
        progress.go_on();
        let (plan, running) = match (store.plan(id).await?, job.state.clone()) {
            (Some(plan), JobState::Running(running)) => (services.opened_plan(id, plan).await?, running),
            (_, JobState::Accepted | JobState::Running(_)) => {
                if let Some(base) = &job.advertised_base {
                    self.upstream.advertise(base);
                }
                let planned = self
                    .drain
                    .run_until_cancelled(Box::pin(self.planner.plan(&job)))
                    .await
                    .ok_or(RunError::Draining)??;
                let Planned { plan, refused, members_left_out, patients_left_out } = planned;
                let transaction_time = Some(plan.horizon.transaction_time());
                let running =
                    Running { refused, members_left_out, patients_left_out, transaction_time, ..Running::default() };
                let state = JobState::Running(running.clone());
                let planned = Job { state: state.clone(), ..services.sealed(kept).await? };
                let sealed = services.sealed_plan(id, &plan).await?;
                let keep = services.keep_job(lease.epoch, planned, Some(sealed.clone()));
                Box::pin(keep).await.map_err(FilesError::from)?;
                let change = Change { state: Some(state), plan: Some(sealed), ..Change::default() };
                store.commit(lease, change).await?;
                (plan, running)
            }
            (_, JobState::Complete(_) | JobState::Failed(_) | JobState::Deleted) => return Ok(()),
        };
        // The plan may be older than this process.
        self.upstream.heed(&plan.profile);
        let plan = Arc::new(plan);
        // Whatever is planned: what the client may not have does not leave.
        let may_hold = |name: &ResourceType| job.owner.may_hold(*name, job.filters_of(*name));
        // What is inlined passes no filter, and leaves whole.
        let may_inline = job.owner.may_hold(ResourceType::BINARY, &[Filter::ALL])
            && job.owner.policy().is_none_or(|policy| !policy.removed.touch(ResourceType::BINARY, "data"));
        let permitted = |names: Vec<ResourceType>| names.into_iter().filter(may_hold).collect();
        let types = permitted(plan.types.keys().copied().collect());
        let context = permitted(plan.context.clone());
        let grant = Grant::new(plan.cohort.clone(), plan.compartments, types, context, plan.bases.clone());
        let grant = grant.on_base(&self.settings.public_base);
        let others = plan.others.iter().map(|(name, others)| (*name, others.all.0.clone()));
        // What came as a part of others is not told when it goes: whether it would have come is not known.
        let only_of_others = plan.by_target.filter(|_| !job.kickoff.asks_for_provenance_itself());
        let untold = only_of_others.map(|_| ResourceType::PROVENANCE);
        let grant = grant.with_others(others.collect());
        let grant = grant.narrowing(job.filters.keys().copied().chain(untold).collect());
        let grant = grant.with_provenance(provenance_of(&plan)).with_binaries(may_inline);
        let grant = grant.of_elements(job.kickoff.elements.as_ref());
        let grant = Arc::new(grant.within(job.owner.policy(), self.services.rights.consent()));
        let keeps_back = grant.keeps_back_resources();
        if keeps_back {
            progress.tell_no_numbers();
        }
        let limits = PageLimits {
            readers: self.settings.searches,
            most_resources: self.settings.page_resources,
            target_bytes: self.settings.page_bytes,
            share_bytes: self.upstream.share_bytes(),
        };
        let (upstream, sizes) = (self.upstream.clone(), &self.known_sizes);
        let reader = Reader::new(upstream, Arc::clone(&plan), Arc::clone(&grant), limits, sizes);
        let limits = self.settings.files.asked(job.kickoff.shape.file_sizes);
        let job = Arc::new(job);
        let export = Export { job: Arc::clone(&job), plan: Arc::clone(&plan), grant };
        let files = Files::resume(services, lease, export, limits, running.clone(), records);
        reader.refused_before(files.slices());
        let baselines = plan.types.keys().filter_map(|name| plan.expected(*name));
        // SEC-25, SEC-26: how many a filter finds of all that the server holds is not for those who may have a part of it.
        let may_be_told = plan.filters.is_empty() || (plan.cohort == Cohort::Everything && !keeps_back);
        let expected = if may_be_told { baselines.fold(0, u64::saturating_add) } else { 0 };
        progress.plan(expected, files.slices().map(|record| record.received).sum());
        let mut worker = Worker {
            reader,
            files,
            plan,
            running,
            searches: self.settings.searches,
            drain: self.drain.clone(),
            progress: Arc::clone(progress),
        };
        Box::pin(worker.read_all()).await?;
        progress.finish();
        let expires = self.timekeeper.watch.believed().saturating_add(self.settings.output_ttl);
        worker.finish(&job, expires).await?;
        tracing::info!(export.job_id = %id, "an export is complete");
        Ok(())
    }

    /// Ends a job that its client may not have any more (SEC-14); `false` if that cannot be done now. It is a task of its own:
    /// what is deleted stops its run, which is what asks for it, and would be left there for good if that ended here.
    async fn revoke(self: &Arc<Self>, id: JobId) -> bool {
        let inner = Arc::clone(self);
        let revoked = async move {
            match inner.services.store.job(id).await? {
                Some(job) => inner.delete(id, Event::Revoked(ended(&job))).await,
                None => Ok(false),
            }
        };
        let revoked = self.tasks.spawn_on(revoked, &self.runtime).await;
        match revoked.unwrap_or_else(|ended| Err(StoreError::Unavailable(ended.into()))) {
            Ok(_) => {
                tracing::warn!(export.job_id = %id, "an export was revoked: its client may not have it any more");
                true
            }
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "could not revoke an export yet");
                false
            }
        }
    }

    /// Gives a job up for good; its objects are removed soon after.
    pub(super) async fn fail(&self, id: JobId, code: IssueType, text: String) {
        let expires = self.timekeeper.watch.believed().saturating_add(self.settings.output_ttl);
        let state = Some(JobState::Failed(Failed { code, text, expires }));
        let failed = async {
            let lease = self.services.store.claim(id).await?;
            self.services.store.commit(lease, Change { state, ..Change::default() }).await
        };
        match failed.await {
            Ok(()) => {
                self.jobs().failed.insert(id);
                self.downloads.cut(id);
                self.discarded.notify_one();
                self.services.ledger.note(Event::Failed { job: id, code }).await;
            }
            Err(StoreError::Fenced) => {}
            // The next start takes it up again.
            Err(error) => {
                tracing::error!(export.job_id = %id, error = error_chain(&error), "could not record that an export failed");
            }
        }
    }
}

/// How often and since when the upstream did not accept our credentials.
#[derive(Debug, Default)]
struct Refusals {
    since: Option<Duration>,
    count: u32,
}

impl Refusals {
    /// The first pause: it doubles, so that a password that is wrong is not tried so often that a server locks us out.
    const FIRST: Duration = Duration::from_secs(30);
    const LONGEST: Duration = Duration::from_mins(5);

    /// How long it is until the next try, by a monotonic clock; `None` once there is no more patience.
    fn next(&mut self, now: Duration, patience: Duration) -> Option<Duration> {
        let refused_for = now.saturating_sub(*self.since.get_or_insert(now));
        let pause = Self::FIRST.saturating_mul(2_u32.saturating_pow(self.count.min(8))).min(Self::LONGEST);
        self.count += 1;
        // At its end it is tried once more.
        let left = patience.checked_sub(refused_for).filter(|left| !left.is_zero())?;
        Some(pause.min(left))
    }
}

/// How one run of a job ended before its end.
#[derive(Debug)]
pub(super) enum RunError {
    /// The job was deleted or taken over.
    Fenced,
    /// Its client may not have it any more.
    Revoked,
    Draining,
    /// There is no room for records or files, or none that is private.
    Full(FilesError),
    /// Store or output failed.
    Interrupted(FilesError),
    /// The upstream does not accept what our searches show: somebody may mend that.
    Unauthorized {
        text: String,
    },
    /// The upstream cannot be read, now or later.
    GivenUp {
        code: IssueType,
        text: String,
    },
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        Self::from(FilesError::Store(error))
    }
}

impl From<KeyError> for RunError {
    fn from(error: KeyError) -> Self {
        Self::from(FilesError::Key(error))
    }
}

impl From<FilesError> for RunError {
    fn from(error: FilesError) -> Self {
        if error.must_wait() {
            return Self::Full(error);
        }
        match error {
            FilesError::Store(StoreError::Fenced) => Self::Fenced,
            FilesError::Revoked => Self::Revoked,
            FilesError::Quota => {
                let text = "the export's client has used up the bytes that it may have in a day".to_owned();
                Self::GivenUp { code: IssueType::TooCostly, text }
            }
            FilesError::Key(error) if error.is_lost() => {
                tracing::error!(error = error_chain(&error), "an export cannot go on");
                let text = "the key that the patients of this export are sealed with is lost; start a new export";
                Self::GivenUp { code: IssueType::Processing, text: text.to_owned() }
            }
            FilesError::Key(_)
            | FilesError::Store(StoreError::Full | StoreError::Unavailable(_) | StoreError::Damaged(_))
            | FilesError::Output(_)
            | FilesError::Ledger(_) => Self::Interrupted(error),
        }
    }
}

impl From<WorkerError> for RunError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Interrupted(error) => error.into(),
            WorkerError::Draining => Self::Draining,
            WorkerError::Slice { .. } if error.is_unauthorized() => Self::Unauthorized { text: error_chain(&error) },
            WorkerError::Slice { .. } => Self::GivenUp { code: IssueType::Processing, text: error_chain(&error) },
        }
    }
}

impl From<PlanError> for RunError {
    fn from(error: PlanError) -> Self {
        if error.is_stopping() {
            return Self::Draining;
        }
        if error.is_unauthorized() {
            return Self::Unauthorized { text: error_chain(&error) };
        }
        let code = match &error {
            PlanError::Search { .. } | PlanError::Group(_) | PlanError::Patients(_) => IssueType::Processing,
            PlanError::Listing(_) | PlanError::Statement { .. } | PlanError::Sealed => IssueType::Processing,
            PlanError::Filter(FilterProbeError::Search { .. }) => IssueType::Processing,
            PlanError::Unstamped(_) | PlanError::NobodyListed => IssueType::NotSupported,
            PlanError::Provenance | PlanError::Filter(_) => IssueType::NotSupported,
        };
        Self::GivenUp { code, text: error_chain(&error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_credentials_are_tried_seldom_and_not_for_ever() {
        let mut refused = Refusals::default();
        let (mut now, mut pauses) = (Duration::from_secs(7), Vec::new());
        while let Some(pause) = refused.next(now, Duration::from_mins(10)) {
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [30, 60, 120, 240, 150]);
        assert_eq!(Refusals::default().next(now, Duration::ZERO), None);
    }
}
