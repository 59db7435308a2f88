//! What an export reads: made once from the kick-off and what is known of the upstream, stored, and never
//! recomputed, so that an upgrade or a changed server cannot bend a running job.

pub(crate) mod associated;
pub(crate) mod cohort;
pub(crate) mod filter;
pub(crate) mod kept;
pub(crate) mod organized;
pub(crate) mod slice;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, Instant, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::profile::{Narrowing, Profile};
use associated::ByTarget;
use cohort::Lists;
use filter::{FilterNo, PlannedFilter};
use slice::{Phase, Scope, Slice, Window};

/// The whole of what one export is to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExportPlan {
    pub(crate) horizon: Horizon,
    /// What the upstream was found to do when the plan was made.
    pub(crate) profile: Profile,
    pub(crate) types: BTreeMap<ResourceType, TypePlan>,
    /// What narrows types, also those that are read by reference; what any filter of a type finds belongs to it.
    #[serde(default)]
    pub(crate) filters: BTreeMap<ResourceType, Vec<PlannedFilter>>,
    pub(crate) cohort: Cohort,
    /// What belongs to patients in the upstream's version of FHIR.
    #[serde(default)]
    pub(crate) compartments: Compartments,
    /// Whom to ask for at System and Patient level where a search has to name a patient.
    #[serde(default)]
    pub(crate) listed: Listed,
    /// Those of the cohort who are exported as a whole, whatever `_since` says: they were no members of the Group then, or
    /// may have been none.
    #[serde(default, skip_serializing_if = "Listed::is_empty")]
    pub(crate) newcomers: Listed,
    /// Members of the Group that are no patients, type by type: they are read by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) others: BTreeMap<ResourceType, Others>,
    /// Types that are read by reference only: what exported resources refer to.
    pub(crate) context: Vec<ResourceType>,
    /// The Provenance of what files hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by_target: Option<ByTarget>,
    /// Whether the Provenance that is read belongs to the export by the records that it is about, and not only if that is a
    /// patient (BD-034).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) provenance_of_records: bool,
    /// Whether its lines stand in blocks, one for each patient: then everything is read by patients.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_organized: bool,
    pub(crate) on_short: OnShort,
    #[serde(default)]
    pub(crate) boundary: Boundary,
    /// Whether deletions that no history tells are found by what the client received before.
    #[serde(default)]
    pub(crate) tells_deletions_by_difference: bool,
    /// Attachments that are kept as a Binary of the server are inlined, where those of one resource have no more than so many
    /// bytes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inlines: Option<u64>,
    /// What absolute references to the upstream begin with.
    pub(crate) bases: Vec<String>,
}

/// What becomes of an export of which something that the server counts does not come, and nobody knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnShort {
    /// It fails: nobody takes a part for the whole.
    #[default]
    Fail,
    /// It ends, and the proof and the error file say what is missing.
    Report,
}

/// What becomes of attachments that are kept as a Binary of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachments {
    /// They leave as references.
    #[default]
    Reference,
    /// What they hold is written into the resources that refer to it. It costs a request for each.
    Inline,
}

/// What is exported with `_since` of patients who became members of the Group after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Newcomers {
    /// What changed since, as of all others.
    #[default]
    None,
    /// Their whole records. Where it cannot be known whether somebody was a member then, it is taken that they were not.
    Full,
}

/// What a client gets to see of changes after `transactionTime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundaryChoice {
    /// What was seen of them is in the files, and comes again with the next export.
    #[default]
    NoLoss,
    /// Each resource is in the version that was current then, as the server's history tells; what was made later is left
    /// out. It costs a request for each resource that changed since. Where the server keeps no history it is `no_loss`, and
    /// the `error` file says so.
    AsOf,
}

/// What becomes of resources that changed after the transaction time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Boundary {
    /// They are exported as they are.
    #[default]
    NoLoss,
    /// They are exported as they were then.
    AsOf,
    /// They are exported as they are, though it was wanted otherwise: the server keeps no history of these types.
    NoHistory(Vec<ResourceType>),
    /// The same, though it was wanted otherwise: nobody can ask whether what was before of these would pass their filters.
    Narrowed(Vec<ResourceType>),
}

/// How one resource type is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TypePlan {
    pub(crate) strategy: Strategy,
    /// How many resources the upstream counted when the plan was made, where it counts.
    pub(crate) baseline: Option<u64>,
    /// The oldest `lastUpdated` seen then; a hint for cutting, nothing rests on it.
    pub(crate) oldest: Option<Millis>,
    /// What the proof of this type would have to take for granted.
    #[serde(default)]
    pub(crate) assumed: BTreeSet<Assumption>,
}

/// Why what came of a type may not be all of it, whatever the counts of its slices say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Assumption {
    /// Nothing was there to show that its searches by patient find what they should. It holds until something comes.
    NoWitness,
    /// Nothing was there to show that one of its filters finds what it should. It holds until something comes by it.
    NoFiltered,
    /// Nothing was there to show that its searches by what it is about find what they should. It holds until something comes by
    /// one.
    NoTarget,
    /// The server refuses some of the ways in which its resources belong to a patient.
    RefusedLinks,
    /// What `$everything` holds is for the server to say.
    Everything,
    /// All was asked for, and only what belongs to a patient can be found.
    OutsideCompartment,
}

/// The way to a type's resources, from best to last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Strategy {
    /// Windows of `_lastUpdated`, each cut to fit one page.
    Windows,
    /// Batches of patients, once by each linking parameter. Where `searches` are given, each batch is what they find
    /// together; none of them means that a patient is enough.
    Patients {
        links: Vec<Box<str>>,
        #[serde(default)]
        searches: Vec<Narrowing>,
    },
    /// The records of patients by `$everything`, one after another and type by type.
    Records,
    /// The whole type by its next links.
    Chain,
    /// By the resources that files hold, once all of those are there.
    Targets,
}

impl TypePlan {
    /// Whether the upstream counted none when the plan was made. What comes to be seen later is looked for at the end.
    pub(crate) fn is_empty(&self) -> bool {
        self.baseline == Some(0)
    }
}

impl Strategy {
    /// The word for progress texts and errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Windows => "time windows",
            Self::Patients { .. } => "patient batches",
            Self::Records => "`$everything`",
            Self::Chain => "a chain of pages",
            Self::Targets => "what it is about",
        }
    }
}

/// Whose resources are asked for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cohort {
    /// System level: every resource.
    Everything,
    /// Patient level: what lies in any patient's compartment.
    AllPatients,
    /// Group level, or where patients were asked for: what lies in the compartments of these, sorted.
    Members(Vec<Id>),
}

/// Patients of an export that is for no Group, sorted.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Listed(pub(crate) Vec<Id>);

impl Listed {
    /// Whether nobody is on it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Members of a Group that are all of one type, and no patients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Others {
    pub(crate) all: Listed,
    /// Those that come whatever `_since` says.
    #[serde(default, skip_serializing_if = "Listed::is_empty")]
    pub(crate) newcomers: Listed,
}

impl std::fmt::Debug for Listed {
    /// They are patient data: their number is enough.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listed({})", self.0.len())
    }
}

impl std::fmt::Debug for Cohort {
    /// Members are patient data: their number is enough.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everything => f.write_str("Everything"),
            Self::AllPatients => f.write_str("AllPatients"),
            Self::Members(members) => write!(f, "Members({})", members.len()),
        }
    }
}

/// The times of an export, all by the upstream's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Horizon {
    /// W: windows end here, exclusive; everything later belongs to the sweep.
    pub(crate) windows_until: Millis,
    /// How long after its stamp a transaction may come to be seen.
    pub(crate) lag_millis: i64,
    /// `_since`: only what changed after it.
    pub(crate) since: Option<Instant>,
    /// `_until`: only what changed before it.
    pub(crate) until: Option<Instant>,
    /// Nothing that is older can come to be seen late: it was written long before the kick-off.
    #[serde(default)]
    pub(crate) settled: Millis,
    /// The finest step between two bounds that the server tells apart, in milliseconds. Every bound lies on one.
    pub(crate) step_millis: i64,
}

/// Windows younger than this may still change under the reader.
const YOUNG_MILLIS: i64 = 15 * 60 * 1000;

impl Horizon {
    /// W − a quarter of an hour: where the young windows begin.
    pub(crate) fn young_from(&self) -> Millis {
        Millis(self.windows_until.0 - YOUNG_MILLIS)
    }

    /// T, the manifest's `transactionTime`: everything up to and including it is in the output.
    pub(crate) fn transaction_time(&self) -> Instant {
        let settled = Instant::from(Millis(self.windows_until.0 - self.lag_millis));
        self.since.map_or(settled, |since| since.max(settled))
    }

    /// The windows of `phase`, if it has one.
    fn window(&self, phase: Phase) -> Window {
        let whole = Window {
            from: self.since.map(|since| self.floor(since)),
            until: self.until.map(|until| Millis(self.floor(until).0 + self.step_millis)),
        };
        match phase {
            Phase::Old => whole.before(self.young_from()),
            Phase::Young => whole.after(self.young_from()).before(self.windows_until),
            Phase::Sweep(_) => whole.after(Millis(self.windows_until.0 - self.lag_millis)),
            Phase::Gap | Phase::References | Phase::Associated => whole,
        }
    }

    /// The last bound at or before an instant that a client named: the finer filter is ours.
    fn floor(&self, instant: Instant) -> Millis {
        let millis = instant.floor_millis().0;
        Millis(millis - millis.rem_euclid(self.step_millis.max(1)))
    }

    /// Whether a resource stamped `last_updated` was asked for. One without a stamp was: `_since` and `_until`
    /// cannot speak of it.
    pub(crate) fn asks_for(&self, last_updated: Option<Instant>) -> bool {
        last_updated.is_none_or(|stamp| {
            self.since.is_none_or(|since| stamp > since) && self.until.is_none_or(|until| stamp < until)
        })
    }

    /// Whether a resource found outside its window has moved: its stamp is later than the window and so young
    /// that it may have been written or committed while the export ran.
    pub(crate) fn has_moved(&self, window: Window, stamp: Millis) -> bool {
        stamp >= self.young_from() && window.until.is_some_and(|until| stamp >= until)
    }

    /// Whether three counts can show what windows cannot see: only where windows see all of a type.
    pub(crate) fn covers_all(&self) -> bool {
        self.since.is_none() && self.until.is_none()
    }
}

impl ExportPlan {
    /// Whom searches by patient ask for.
    pub(crate) fn patients(&self) -> &[Id] {
        match &self.cohort {
            Cohort::Members(members) => members,
            Cohort::Everything | Cohort::AllPatients => &self.listed.0,
        }
    }

    /// Whom or what searches of a type ask for where they name somebody: patients, or members that are of that type.
    pub(crate) fn asked_of(&self, resource_type: ResourceType) -> &[Id] {
        match self.others.get(&resource_type) {
            Some(others) => &others.all.0,
            // They are nobody's, so that to ask for them by patient would be to ask for something else.
            None if resource_type.is_member_by_itself() => &[],
            None => self.patients(),
        }
    }

    fn newcomers_of(&self, resource_type: ResourceType) -> &Listed {
        self.others.get(&resource_type).map_or(&self.newcomers, |others| &others.newcomers)
    }

    /// Whether a slice asks for members who are exported as a whole. It asks for none else then.
    fn is_of_newcomers(&self, slice: &Slice) -> bool {
        let asked = self.asked_of(slice.resource_type);
        let first = slice.patients().and_then(|members| asked.get(members.start as usize));
        first.is_some_and(|first| self.newcomers_of(slice.resource_type).0.binary_search(first).is_ok())
    }

    /// Whether a resource of a slice, stamped `last_updated`, was asked for. What others refer to comes whatever its age.
    pub(crate) fn asks_for(&self, slice: &Slice, last_updated: Option<Instant>) -> bool {
        let horizon = if self.is_of_newcomers(slice) { Horizon { since: None, ..self.horizon } } else { self.horizon };
        matches!(slice.phase, Phase::References | Phase::Associated) || horizon.asks_for(last_updated)
    }

    /// What the searches of a slice have to ask for beside its patients; empty if that is enough.
    pub(crate) fn searches(&self, slice: &Slice) -> &[Narrowing] {
        let by_patient = match &slice.scope {
            // A patient is found by its id, which is all that can be asked for beside it.
            Scope::Patients { link, .. } => &**link != "_id",
            Scope::Record { .. } | Scope::Window(_) | Scope::Ids { .. } | Scope::Targets { .. } => false,
        };
        match self.types.get(&slice.resource_type).map(|plan| &plan.strategy) {
            // What the server wants to be told the filter tells it, where it is of the same kind.
            Some(Strategy::Patients { searches, .. }) if by_patient && self.repeats(slice, searches) => &[],
            Some(Strategy::Patients { searches, .. }) if by_patient => searches,
            Some(
                Strategy::Patients { .. } | Strategy::Records | Strategy::Windows | Strategy::Chain | Strategy::Targets,
            )
            | None => &[],
        }
    }

    /// The slices of one phase for one type, before any has been read.
    pub(crate) fn slices(&self, phase: Phase, resource_type: ResourceType) -> Vec<Slice> {
        let steps = self.steps(resource_type).into_iter();
        steps.flat_map(|filter| self.slices_of_step(phase, resource_type, filter)).collect()
    }

    fn slices_of_step(&self, phase: Phase, resource_type: ResourceType, filter: Option<FilterNo>) -> Vec<Slice> {
        let Some(plan) = self.types.get(&resource_type) else { return Vec::new() };
        let window = self.horizon.window(phase);
        let slice = |scope| Slice { phase, resource_type, filter, scope };
        let one = |scope| vec![slice(scope)];
        match (&plan.strategy, phase) {
            // What they are, or are of, is known only once the rest is read.
            (_, Phase::References | Phase::Associated) | (Strategy::Targets, _) => Vec::new(),
            (Strategy::Windows, Phase::Old | Phase::Young) if window.is_empty() => Vec::new(),
            (_, Phase::Sweep(_)) if window.is_empty() => Vec::new(),
            (_, Phase::Old | Phase::Young) if plan.is_empty() => Vec::new(),
            (Strategy::Windows, Phase::Gap) => one(Scope::Window(Window::ALL)),
            (Strategy::Windows, _) => one(Scope::Window(window)),
            // Without a filter on time a second reading is a whole export.
            (_, Phase::Sweep(_)) if !self.profile.filters_by_time() => Vec::new(),
            // Batches and chains need no bound above: they are read once, and the sweep looks for what moved.
            (Strategy::Patients { .. } | Strategy::Records | Strategy::Chain, Phase::Old | Phase::Gap) => Vec::new(),
            // A record has no filter on time that could be relied on: a sweep would read all of them once more.
            (Strategy::Records, Phase::Sweep(_)) => Vec::new(),
            (Strategy::Records, Phase::Young) => {
                let records = self.batches(resource_type, Lists::NONE).into_iter();
                let scopes = records.map(|members| Scope::Record { members });
                scopes.map(slice).collect()
            }
            (Strategy::Patients { links, .. }, Phase::Young | Phase::Sweep(_)) => {
                let from = if phase == Phase::Young {
                    self.horizon.since.filter(|_| self.profile.filters_by_time()).map(|since| self.horizon.floor(since))
                } else {
                    window.from
                };
                let scopes = links.iter().flat_map(|link| {
                    let batches = self.batches(resource_type, self.lists(link, resource_type)).into_iter();
                    batches.map(move |members| Scope::Patients { link: link.clone(), members, from })
                });
                // Only what moves is left for a sweep, whoever it is about.
                let is_whole = |slice: &Slice| phase == Phase::Young && self.is_of_newcomers(slice);
                scopes.map(slice).map(|slice| if is_whole(&slice) { slice.whole() } else { slice }).collect()
            }
            (Strategy::Chain, Phase::Young) => one(Scope::Window(Window::ALL)),
            (Strategy::Chain, Phase::Sweep(_)) => one(Scope::Window(window)),
        }
    }

    /// What of a phase's slices none of `read` covers: the whole of what resuming means.
    pub(crate) fn remaining<'a>(
        &self,
        phase: Phase,
        resource_type: ResourceType,
        read: impl Iterator<Item = &'a Slice> + Clone,
    ) -> Vec<Slice> {
        let read = read.filter(|slice| slice.phase == phase && slice.resource_type == resource_type);
        self.slices(phase, resource_type).into_iter().flat_map(|whole| whole.remaining(read.clone())).collect()
    }
}

impl Window {
    fn after(self, bound: Millis) -> Self {
        Self { from: Some(self.from.map_or(bound, |from| from.max(bound))), ..self }
    }

    fn before(self, bound: Millis) -> Self {
        Self { until: Some(self.until.map_or(bound, |until| until.min(bound))), ..self }
    }
}

#[cfg(test)]
mod tests;
