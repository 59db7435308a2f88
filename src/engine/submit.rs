//! How a job is taken up: recorded in the ledger and the store, or found to be one that runs already; and why one is not.

use std::net::IpAddr;
use std::time::Duration;

use super::planner::PlanError;
use super::shared::{Question, SharedExports};
use super::{Engine, Inner};
use crate::clock;
use crate::fhir::datatypes::Millis;
use crate::fhir::outcome::IssueType;
use crate::fhir::resource_type::ResourceType;
use crate::job::store::StoreError;
use crate::job::usage::{Day, Exhausted};
use crate::job::{Job, JobId};
use crate::ledger::LedgerError;
use crate::ledger::record::{Event, KickOff};
use crate::smart::client::Owner;
use crate::upstream::probe::FilterProbeError;

/// How long a kick-off waits for what its job can find out as well.
const SUBMIT_PATIENCE: Duration = Duration::from_secs(5);
/// After how long a client whose exports run may ask for another one.
const RUNNING_RETRY_SECONDS: i64 = 60;

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("too many exports wait for their turn")]
    Full,
    /// It may be otherwise after so many seconds.
    #[error("{exhausted}")]
    Quota { exhausted: Exhausted, seconds: i64 },
    #[error(
        "`_since` and `_until` need `meta.lastUpdated`: the server does not filter by it, and its {0} resources do not carry it"
    )]
    Undated(ResourceType),
    #[error("{0}")]
    Filter(FilterProbeError),
    #[error("could not record the export")]
    Store(#[from] StoreError),
    #[error("could not record the export in the ledger")]
    Ledger(#[from] LedgerError),
}

impl SubmitError {
    fn exhausted(exhausted: Exhausted, now: Millis) -> Self {
        let seconds = match exhausted {
            Exhausted::Running => RUNNING_RETRY_SECONDS,
            Exhausted::Kickoffs | Exhausted::Bytes => Day::seconds_left(now),
        };
        Self::Quota { exhausted, seconds }
    }
}

impl Engine {
    /// Records a new job that somebody at `peer` has kicked off, in the ledger and then in the store; it runs when its turn
    /// comes. The answer is where to ask: another job if that is shared.
    ///
    /// # Errors
    /// [`SubmitError::Full`] if as many jobs wait already as may, [`SubmitError::Quota`] if its client has used up what it may,
    /// and [`SubmitError::Undated`] if the server is known not to say what the job asks for.
    pub(crate) async fn submit(&self, job: Job, peer: Option<IpAddr>) -> Result<JobId, SubmitError> {
        if let Some(id) = self.inner.shared_export(&job, peer).await? {
            return Ok(id);
        }
        if self.inner.jobs().waiting.len() >= self.inner.settings.most_waiting {
            return Err(SubmitError::Full);
        }
        let planner = &self.inner.planner;
        let looked_at = async {
            if let Some(name) = planner.cannot_be_dated(&job).await {
                return Err(SubmitError::Undated(name));
            }
            if let Some(error) = Box::pin(planner.cannot_be_narrowed(&job)).await {
                return Err(SubmitError::Filter(error));
            }
            let searches = job.cohort.as_ref().map_or(&[][..], |cohort| &cohort.searches);
            match Box::pin(planner.cannot_find_members(searches)).await {
                Err(PlanError::Filter(error)) if !matches!(error, FilterProbeError::Search { .. }) => {
                    Err(SubmitError::Filter(error))
                }
                Ok(()) | Err(_) => Ok(()),
            }
        };
        tokio::select! {
            looked_at = looked_at => looked_at?,
            // Then the job finds out.
            () = self.inner.services.clock.sleep(SUBMIT_PATIENCE) => {}
        }
        // As a whole, even if the client has gone that asked for it: nothing may run that is not recorded.
        let engine = self.clone();
        self.to_its_end(async move { engine.record_or_share(job, peer).await }).await
    }

    /// Whether a client may kick off one more export, as far as is known before the server is asked anything for it. One that has
    /// exports under way may be asking for one of those.
    ///
    /// # Errors
    /// [`SubmitError::Quota`] if it may not.
    pub(crate) async fn has_room_for(&self, owner: &Owner) -> Result<(), SubmitError> {
        let services = &self.inner.services;
        let now = clock::now(&*services.clock);
        let Some(allowed) = services.rights.allowance(owner, now) else { return Ok(()) };
        if self.inner.settings.share && services.store.active(allowed.client.clone()).await? > 0 {
            return Ok(());
        }
        services.has_room(&allowed).await?.map_err(|exhausted| SubmitError::exhausted(exhausted, now))
    }

    async fn record_or_share(&self, job: Job, peer: Option<IpAddr>) -> Result<JobId, SubmitError> {
        let inner = &self.inner;
        let question = if inner.settings.share { SharedExports::question(&job) } else { None };
        let _turn = match question {
            Some(question) => Some(inner.shared.turn(question).await),
            None => None,
        };
        if let Some(id) = inner.shared_export(&job, peer).await? {
            return Ok(id);
        }
        let id = job.id;
        self.record(job, peer, question).await?;
        Ok(id)
    }

    async fn record(&self, job: Job, peer: Option<IpAddr>, question: Option<Question>) -> Result<(), SubmitError> {
        let services = &self.inner.services;
        let (id, now) = (job.id, clock::now(&*services.clock));
        let job = Job { consent: services.rights.consent().grown(), ..job };
        let refused = |exhausted| SubmitError::exhausted(exhausted, now);
        let allowed = services.rights.allowance(&job.owner, now);
        if let Some(allowed) = &allowed {
            services.has_room(allowed).await?.map_err(refused)?;
        }
        let told = Event::KickOff(KickOff::of(&job, peer));
        let job = services.sealed_before_it_is_recorded(job).await.map_err(StoreError::from)?;
        let recorded = async {
            services.ledger.append(told).await?;
            match allowed {
                None => services.store.create(job).await?,
                Some(allowed) => {
                    if let Err(exhausted) = services.store.create_within(job, allowed).await? {
                        // Others at the same time were sooner: what was said of it is said to have come to nothing.
                        services.ledger.note(Event::Failed { job: id, code: IssueType::Throttled }).await;
                        return Err(refused(exhausted));
                    }
                }
            }
            Ok(())
        };
        let recorded: Result<(), SubmitError> = recorded.await;
        match recorded {
            Ok(()) => services.has_recorded(id).await,
            // Nothing was sealed that anybody has.
            Err(SubmitError::Quota { .. } | SubmitError::Ledger(_)) => services.unseal_never(id).await,
            // It may be recorded all the same: the next start knows.
            Err(_) => {}
        }
        recorded?;
        if let Some(question) = question {
            self.inner.shared.note(question, id);
        }
        self.inner.jobs().waiting.push_back(id);
        self.inner.queued.notify_one();
        Ok(())
    }
}

impl Inner {
    /// From now on who asks for the same has this one, if that is wanted.
    pub(super) fn may_share(&self, job: &Job) {
        if self.settings.share
            && let Some(question) = SharedExports::question(job)
        {
            self.shared.note(question, job.id);
        }
    }

    /// The export that runs or waits for the same as `job` would, recorded as kicked off by its client once more.
    async fn shared_export(&self, job: &Job, peer: Option<IpAddr>) -> Result<Option<JobId>, SubmitError> {
        let question = if self.settings.share { SharedExports::question(job) } else { None };
        let Some(id) = question.and_then(|question| self.shared.find(question)) else { return Ok(None) };
        let Some(known) = self.services.store.job(id).await? else { return Ok(None) };
        if !known.state.is_active() || self.services.is_revoked(&known).await? {
            return Ok(None);
        }
        // It names the same patients, and they are sealed there.
        let known = Job { kickoff: job.kickoff.clone(), ..known };
        self.services.ledger.append(Event::KickOff(KickOff::of(&known, peer))).await?;
        Ok(Some(id))
    }
}
