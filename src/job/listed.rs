//! Jobs as lists have them: of thousands of exports, what is needed of all of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Complete, Failed, Job, JobState, Running};
use crate::fhir::datatypes::{Instant, Millis};

/// Where a job stands, read without what its manifest proves: that is most of its record.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ListedState {
    Accepted,
    Running(Running),
    Complete(ListedComplete),
    Failed(Failed),
    Deleted,
}

/// What is read of [`Complete`].
#[derive(Deserialize)]
pub(crate) struct ListedComplete {
    transaction_time: Instant,
    #[serde(default)]
    pages: Vec<u32>,
    expires: Millis,
}

impl From<ListedState> for JobState {
    fn from(state: ListedState) -> Self {
        match state {
            ListedState::Accepted => Self::Accepted,
            ListedState::Running(running) => Self::Running(running),
            ListedState::Complete(ListedComplete { transaction_time, pages, expires }) => {
                let (proof, severities) = (BTreeMap::new(), BTreeMap::new());
                Self::Complete(Complete { transaction_time, proof, severities, pages, expires })
            }
            ListedState::Failed(failed) => Self::Failed(failed),
            ListedState::Deleted => Self::Deleted,
        }
    }
}

impl From<JobState> for ListedState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Accepted => Self::Accepted,
            JobState::Running(running) => Self::Running(running),
            JobState::Complete(Complete { transaction_time, proof: _, severities: _, pages, expires }) => {
                Self::Complete(ListedComplete { transaction_time, pages, expires })
            }
            JobState::Failed(failed) => Self::Failed(failed),
            JobState::Deleted => Self::Deleted,
        }
    }
}

impl Job {
    /// As lists have it: it says that somebody is named and not whom, and nothing of what its manifest counts and proves.
    pub(crate) fn listed(self) -> Self {
        self.without_patients_and(|state| ListedState::from(state).into())
    }
}

impl Job<ListedState> {
    /// The same of a record that was read so.
    pub(crate) fn listed(self) -> Job {
        self.without_patients_and(JobState::from)
    }
}

impl<S> Job<S> {
    fn without_patients_and<T>(self, state_of: impl FnOnce(S) -> T) -> Job<T> {
        let Self { id, mut kickoff, mut cohort, owner, delivery, consent, types, .. } = self;
        let Self { filters, compartments, request, advertised_base, software, created, state, .. } = self;
        kickoff.leave_out_patients();
        if let Some(listed) = cohort.as_mut().and_then(|cohort| cohort.members.as_mut()) {
            listed.patients.clear();
        }
        let state = state_of(state);
        Job {
            id,
            kickoff,
            cohort,
            owner,
            delivery,
            consent,
            types,
            filters,
            compartments,
            request,
            advertised_base,
            software,
            created,
            state,
        }
    }
}
