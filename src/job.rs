//! Job, our record of one export, and its legal transitions: each [`JobState`] holds exactly its own data.

pub(crate) mod checkpoint;
pub(crate) mod cohort;
pub(crate) mod index;
pub(crate) mod listed;
pub(crate) mod pages;
pub(crate) mod store;
pub(crate) mod usage;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::checkpoint::{FileContent, FileRecord};
use self::cohort::CohortOfJob;
pub(crate) use crate::bulk::job_id::JobId;
use crate::bulk::kickoff::Kickoff;
use crate::bulk::manifest::TypeProof;
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Instant, Millis};
use crate::fhir::filter::Filter;
use crate::fhir::outcome::{Issue, IssueSeverity, IssueType};
use crate::fhir::resource_type::ResourceType;
pub(crate) use crate::smart::client::Owner;
pub(crate) use crate::smart::delivery::Delivery;

/// Counts who held a job: what an earlier holder still sends is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Epoch(pub(crate) u32);

/// The record of one export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job<S = JobState> {
    pub(crate) id: JobId,
    pub(crate) kickoff: Kickoff,
    /// The cohort of its client's that it is for, if its Group is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cohort: Option<CohortOfJob>,
    /// Whose it is, and what it may hold. A record from before there were clients is of `open` mode.
    #[serde(default)]
    pub(crate) owner: Owner,
    /// Where its files go. Those of a record from before clients had wishes go where all do.
    #[serde(default)]
    pub(crate) delivery: Delivery,
    /// When the list of those who withdrew consent had last grown, as it was heeded from the kick-off on.
    #[serde(default = "before_all_lists")]
    pub(crate) consent: Millis,
    /// The types to export: those asked for, or all that the level allows.
    pub(crate) types: Vec<ResourceType>,
    /// What narrows single types, as it was wished for and as far as no more is permitted; what any filter of a type finds
    /// belongs to it. Types that are not named are not narrowed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) filters: BTreeMap<ResourceType, Vec<Filter>>,
    /// What belongs to patients in the version of FHIR that the upstream spoke at kick-off.
    #[serde(default)]
    pub(crate) compartments: Compartments,
    /// The whole kick-off URL, as the manifest repeats it.
    pub(crate) request: String,
    /// The base that the upstream said is its own, where it says so.
    pub(crate) advertised_base: Option<String>,
    /// What the upstream's software calls itself; empty where it does not say.
    #[serde(default)]
    pub(crate) software: String,
    pub(crate) created: Millis,
    pub(crate) state: S,
}

/// An export from before there were such lists knows of nobody on one.
fn before_all_lists() -> Millis {
    Millis(i64::MIN)
}

impl Job {
    /// What passes of a type: what any of these lets pass.
    pub(crate) fn filters_of(&self, resource_type: ResourceType) -> &[Filter] {
        const EVERYTHING: &[Filter] = &[Filter::ALL];
        self.filters.get(&resource_type).map_or(EVERYTHING, Vec::as_slice)
    }

    /// All types that it tells of by these files, also those that came along by reference.
    pub(crate) fn all_types(&self, files: &[FileRecord]) -> BTreeSet<ResourceType> {
        let listed = files.iter().flat_map(|file| match file.content {
            FileContent::Resources(name) => BTreeSet::from([name]),
            FileContent::Blocks => file.types().into_keys().collect(),
            FileContent::Outcomes | FileContent::Deletions | FileContent::Held => BTreeSet::new(),
        });
        self.types.iter().copied().chain(listed).collect()
    }
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobState {
    /// Accepted; the plan is not made yet.
    Accepted,
    /// Planned; slices are being read.
    Running(Running),
    /// All files are complete; the manifest can be read until `expires`.
    Complete(Complete),
    /// Given up for good.
    Failed(Failed),
    /// Deleted or expired: answers 404 from now on, and goes when its last object has gone.
    Deleted,
}

/// What a running job has found out that its files do not say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Types that hold more than windows can see, and by how many; recorded when found.
    pub(crate) gaps: BTreeMap<ResourceType, u64>,
    /// The number of the latest sweep pass, over all lives of the process.
    pub(crate) sweep: u32,
    /// Types that the upstream refuses to be searched, and what it said.
    pub(crate) refused: Vec<(ResourceType, Vec<Issue>)>,
    /// Some members of the Group are of types that come with patients only, or no reference leads to them.
    pub(crate) members_left_out: bool,
    /// Some of the patients that were asked for are not exported.
    #[serde(default)]
    pub(crate) patients_left_out: bool,
    /// What the manifest will say that it is as of: settled with the plan.
    #[serde(default)]
    pub(crate) transaction_time: Option<Instant>,
    /// The pages of the manifest that are whole, by the number of the commit that each of them ends with.
    #[serde(default)]
    pub(crate) pages: Vec<u32>,
}

/// What a finished job's manifest says beside its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Complete {
    pub(crate) transaction_time: Instant,
    pub(crate) proof: BTreeMap<ResourceType, TypeProof>,
    /// How many outcomes there are whose gravest issue is of a severity. Exports from before it was counted have none.
    #[serde(default)]
    pub(crate) severities: BTreeMap<IssueSeverity, u64>,
    /// The pages of the manifest before the last one, as in [`Running::pages`].
    #[serde(default)]
    pub(crate) pages: Vec<u32>,
    pub(crate) expires: Millis,
}

/// Why a job was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failed {
    /// Never a transient code: clients would poll for ever (DS-018).
    pub(crate) code: IssueType,
    /// Names type, strategy and slice, never a parameter's value.
    pub(crate) text: String,
    pub(crate) expires: Millis,
}

impl JobState {
    /// Whether a worker has something to do.
    pub(crate) fn is_active(&self) -> bool {
        match self {
            Self::Accepted | Self::Running(_) => true,
            Self::Complete(_) | Self::Failed(_) | Self::Deleted => false,
        }
    }

    /// When the job goes by itself.
    pub(crate) fn expires(&self) -> Option<Millis> {
        match self {
            Self::Complete(complete) => Some(complete.expires),
            Self::Failed(failed) => Some(failed.expires),
            Self::Accepted | Self::Running(_) | Self::Deleted => None,
        }
    }
}
