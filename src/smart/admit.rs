//! `Grant::admit`, the only maker of lines that leave. What is there for other records only has a room of its own (`told`).

mod attachments;
mod owners;
mod told;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::consent::Consent;
use super::labels::Labels;
use super::policy::Policy;
use crate::bulk::manifest::{OutcomeLine, deletion_line, header_line};
use crate::fhir::bundle::Entry;
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::elements::{Elements, Kept, Wanted};
use crate::fhir::inside::{Inside, Subject, look_inside};
use crate::fhir::rebase::Rebase;
use crate::fhir::resource_type::ResourceType;
use crate::plan::Cohort;

pub(crate) use attachments::Inlining;
pub(crate) use told::{Fate, ProvenanceOf, Told};

/// One line of an output file: a compact resource and a newline. Nothing but [`Grant::admit`] makes one.
#[derive(Clone)]
pub(crate) struct Line(Bytes);

impl Line {
    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The same in memory of its own: the page that it is a part of can go.
    pub(crate) fn copied(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({} bytes)", self.0.len())
    }
}

/// What one export may hand out.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    cohort: Cohort,
    /// Members of the cohort that are no patients, sorted.
    others: BTreeMap<ResourceType, Vec<Id>>,
    compartments: Compartments,
    types: Vec<ResourceType>,
    context: Vec<ResourceType>,
    /// Types of which only what passes a filter was asked for, or may be had: by asking the server, as nothing else can tell.
    narrowed: BTreeSet<ResourceType>,
    /// The upstream's bases, as absolute references write them.
    bases: Vec<String>,
    /// What carries one of these does not leave.
    withheld: Labels,
    /// These are taken out of what leaves.
    removed: Elements,
    /// What stays of what leaves, if not all of it was asked for.
    kept: Option<Arc<Kept>>,
    /// Of those on it nothing leaves.
    consent: Arc<Consent>,
    /// What leaves refers to the base that clients know.
    rebase: Option<Arc<Rebase>>,
    /// Why Provenance belongs to the export.
    provenance: ProvenanceOf,
    /// Whether what a Binary holds may be had.
    has_binaries: bool,
}

/// Why a resource does not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// Its type was not asked for.
    Type,
    /// It lies in no compartment of the export's patients.
    OutsideCohort,
    /// It lies in the compartment of somebody else as well.
    SharedWithOthers,
    /// It is about something of which nobody can say whether policy keeps it back.
    Undecided,
    /// Policy keeps it back, and nobody is told how much of this there is (SEC-26).
    ByPolicy,
}

impl Grant {
    /// `types` and, by reference only, `context`; both of `cohort`, by what `compartments` say is a patient's.
    pub(crate) fn new(
        cohort: Cohort,
        compartments: Compartments,
        types: Vec<ResourceType>,
        context: Vec<ResourceType>,
        bases: Vec<String>,
    ) -> Self {
        let (withheld, removed, consent) = (Labels::default(), Elements::default(), Arc::default());
        let (others, narrowed, kept, rebase) = (BTreeMap::new(), BTreeSet::new(), None, None);
        let provenance = ProvenanceOf::Patients;
        Self {
            cohort,
            others,
            compartments,
            types,
            context,
            narrowed,
            bases,
            withheld,
            removed,
            kept,
            consent,
            rebase,
            provenance,
            has_binaries: false,
        }
    }

    /// The same with these members beside patients, each of them for itself.
    pub(crate) fn with_others(self, others: BTreeMap<ResourceType, Vec<Id>>) -> Self {
        Self { others, ..self }
    }

    /// The same where these types are narrowed.
    pub(crate) fn narrowing(self, narrowed: BTreeSet<ResourceType>) -> Self {
        Self { narrowed, ..self }
    }

    /// The same where absolute references to the upstream lead to the base that clients know (DS-025).
    pub(crate) fn on_base(self, public: &str) -> Self {
        let rebase = Rebase::new(self.bases.iter().map(String::as_str), public).map(Arc::new);
        Self { rebase, ..self }
    }

    /// The same within a client's policy, if it has one, and without those who withdrew consent.
    pub(crate) fn within(self, policy: Option<&Policy>, consent: Arc<Consent>) -> Self {
        let Policy { withheld, removed, .. } = policy.cloned().unwrap_or_default();
        Self { withheld, removed, consent, ..self }
    }

    /// The same with no more of each resource than was asked for.
    pub(crate) fn of_elements(self, wanted: Option<&Wanted>) -> Self {
        let kept = wanted.map(|wanted| Arc::new(wanted.kept(self.compartments)));
        Self { kept, ..self }
    }

    /// Whether it keeps back single resources by what stands in them. Then nobody may learn how many, nor which.
    pub(crate) fn keeps_back_resources(&self) -> bool {
        !self.withheld.is_empty() || !self.consent.is_empty()
    }

    /// The resource as a line, if it may leave, without what may not leave of it. SEC-20: at Patient and Group level it must lie
    /// in the compartment of one of the cohort's patients, and in nobody else's; it carries no label that is withheld, and
    /// speaks of nobody who withdrew consent. At Patient and Group level `note` is told in whose compartment the line lies,
    /// if it is no Patient resource.
    pub(crate) fn admit(&self, entry: &Entry, note: impl FnMut(&Id)) -> Result<Line, Withheld> {
        let patients = self.belongs(entry)?;
        let line = self.line(entry)?;
        patients.iter().for_each(note);
        Ok(line)
    }

    /// What leaves of a resource that is a part of the export: what may, as far as it was asked for.
    fn line(&self, entry: &Entry) -> Result<Line, Withheld> {
        let left = self.left_of(entry)?;
        let rewritten = self.rebase.as_ref().and_then(|rebase| rebase.line(&left.0));
        Ok(rewritten.map_or(left, |line| Line(Bytes::from(line))))
    }

    /// The same before its references are written anew.
    fn left_of(&self, entry: &Entry) -> Result<Line, Withheld> {
        let permitted = self.permitted(entry)?;
        let asked_for = self.kept.as_ref().and_then(|kept| kept.cut(entry.resource_type, &permitted.0));
        Ok(asked_for.map_or(permitted, |left| Line(Bytes::from(left))))
    }

    /// What may leave of it.
    fn permitted(&self, entry: &Entry) -> Result<Line, Withheld> {
        if !self.keeps_back_resources() && self.removed.is_empty() {
            return Ok(Line(entry.line.clone()));
        }
        let inside = look_inside(&entry.line).ok_or(Withheld::ByPolicy)?;
        if self.bars_what_is(entry, &inside) {
            return Err(Withheld::ByPolicy);
        }
        match self.removed.cut(&entry.line, &inside) {
            Ok(None) => Ok(Line(entry.line.clone())),
            Ok(Some(left)) => Ok(Line(Bytes::from(left))),
            Err(_not_understood) => Err(Withheld::ByPolicy),
        }
    }

    /// Whether policy keeps a resource back, be it a part of the export or not. What cannot be decided is kept back.
    pub(crate) fn bars(&self, entry: &Entry) -> bool {
        self.keeps_back_resources() && look_inside(&entry.line).is_none_or(|inside| self.bars_what_is(entry, &inside))
    }

    fn bars_what_is(&self, entry: &Entry, inside: &Inside<'_>) -> bool {
        self.withheld.withhold(inside) || (!self.consent.is_empty() && self.may_speak_of_the_withdrawn(entry, inside))
    }

    /// SEC-14: whether a resource is one of a patient who withdrew consent, holds one or refers to one, at whatever level; or
    /// is about somebody of whom it cannot be told who it is.
    fn may_speak_of_the_withdrawn(&self, entry: &Entry, inside: &Inside<'_>) -> bool {
        let is_one = inside.resources.iter().any(|nested| {
            let id = nested.id.as_deref().and_then(|id| Id::parse(id).ok());
            nested.resource_type == ResourceType::PATIENT.as_str() && id.is_some_and(|id| self.consent.has(&id))
        });
        let is_meant = inside.references.iter().any(|reference| self.consent.may_be_meant_by(reference));
        let links = self.compartments.links(entry.resource_type);
        let is_unknown = |subject: &Subject<'_>| {
            let is_patient = subject.kind.as_deref().is_none_or(|kind| kind == ResourceType::PATIENT.as_str());
            // Where it is no reference, it is something else that is called so.
            let is_somebody =
                subject.reference.is_some() || links.clone().any(|link| link.paths.contains(&subject.element));
            let is_named = subject
                .reference
                .as_deref()
                .is_some_and(|target| target.contains("://") || self.local(target).is_some());
            is_patient && is_somebody && !is_named
        };
        let is_nameless = !inside.nameless.is_empty() || inside.has_more_nameless;
        let may_be_any = is_nameless || inside.subjects.iter().any(is_unknown);
        let is_named = || std::str::from_utf8(&entry.line).is_ok_and(|text| self.consent.is_named_in(text));
        // Whose it is, it says by a reference or not at all.
        let is_nobodys = entry.resource_type == ResourceType::BINARY && inside.references.is_empty();
        inside.is_strange
            || is_one
            || is_meant
            || is_nobodys
            || may_be_any
            || refers_to_an_inner_patient(inside)
            || is_named()
    }

    /// Whether a resource is a part of what was asked for, and of nobody else: the patients in whose compartments it lies, at
    /// Patient and Group level and but for Patient resources.
    fn belongs(&self, entry: &Entry) -> Result<Vec<Id>, Withheld> {
        let is_asked_for = self.types.contains(&entry.resource_type);
        // The Group itself names it; of whom a Device is, it says.
        if is_asked_for && self.is_among_others(entry) == Some(true) {
            if entry.resource_type == ResourceType::DEVICE {
                return self.admit_context(entry);
            }
            return Ok(Vec::new());
        }
        if self.context.contains(&entry.resource_type) && !matches!(self.cohort, Cohort::Everything) {
            return self.admit_context(entry);
        }
        if !is_asked_for {
            return Err(Withheld::Type);
        }
        match &self.cohort {
            Cohort::Everything => Ok(Vec::new()),
            Cohort::AllPatients | Cohort::Members(_) if entry.resource_type == ResourceType::PATIENT => {
                // Its `link` leads to other patients, whose resources are theirs.
                if self.is_member(&entry.id) { Ok(Vec::new()) } else { Err(Withheld::OutsideCohort) }
            }
            Cohort::AllPatients | Cohort::Members(_) => {
                let (members, others) = self.members_and_others(entry);
                match (members.is_empty(), others.is_empty()) {
                    (false, true) => self.if_nobody_elses(entry, members),
                    (false, false) => Err(Withheld::SharedWithOthers),
                    (true, _) => Err(Withheld::OutsideCohort),
                }
            }
        }
    }

    /// What `entry` refers to outside of the compartment and the export follows, as far as that stays in it.
    pub(crate) fn follows<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = LocalReference> + 'a {
        let stays = |path: &str| {
            !self.removed.touch(entry.resource_type, path)
                && self.kept.as_ref().is_none_or(|kept| kept.reach(entry.resource_type, path))
        };
        let left = entry.references.iter().filter(move |reference| stays(&reference.path));
        let targets = left.filter_map(|reference| self.local(&reference.target));
        targets.filter(|target| self.context.contains(&target.resource_type))
    }

    /// SEC-23: a Device with a patient must name one of the cohort's. Where it cannot be told who that is, it may be anybody.
    fn admit_context(&self, entry: &Entry) -> Result<Vec<Id>, Withheld> {
        let mut members = Vec::new();
        let named = entry.references.iter().filter(|reference| &*reference.path == "patient");
        for reference in named {
            if let Some(target) = self.local(&reference.target)
                && target.resource_type == ResourceType::PATIENT
            {
                if !self.is_member(&target.id) {
                    return Err(Withheld::SharedWithOthers);
                }
                members.push(target.id);
            }
        }
        if !matches!(self.cohort, Cohort::Members(_)) || told::is_nobodys(entry.resource_type.as_str()) {
            return Ok(members);
        }
        if entry.resource_type == ResourceType::DEVICE {
            return if members.is_empty() && has_a_patient(entry) { Err(Withheld::Undecided) } else { Ok(members) };
        }
        // Whoever it names, by whatever element, is somebody to whom it may belong.
        match self.fate_outside_of_compartments(entry) {
            Fate::IsOfOthers => Err(Withheld::SharedWithOthers),
            Fate::MayLeave => Ok(members),
            Fate::IsUnknown | Fate::IsNobodys | Fate::IsKeptBack if names_nobody(entry) => Ok(members),
            Fate::IsUnknown | Fate::IsNobodys | Fate::IsKeptBack => Err(Withheld::Undecided),
        }
    }

    fn local(&self, target: &str) -> Option<LocalReference> {
        let bases: Vec<&str> = self.bases.iter().map(String::as_str).collect();
        LocalReference::parse_on(target, &bases)
    }

    /// Whether a resource of a type of which members are named is one of them; `None` if none of its type is named.
    fn is_among_others(&self, entry: &Entry) -> Option<bool> {
        self.others.get(&entry.resource_type).map(|ids| ids.binary_search(&entry.id).is_ok())
    }

    fn is_member(&self, id: &Id) -> bool {
        match &self.cohort {
            Cohort::Everything | Cohort::AllPatients => true,
            Cohort::Members(members) => members.binary_search(id).is_ok(),
        }
    }
}

/// Whether a resource holds a patient whom it refers to: one who is somebody, of whom it is not said who.
fn refers_to_an_inner_patient(inside: &Inside<'_>) -> bool {
    let inner = inside.resources.iter().skip(1).filter(|inner| inner.resource_type == ResourceType::PATIENT.as_str());
    let inner: HashSet<_> = inner.filter_map(|inner| inner.id.as_deref()).collect();
    let mut named = inside.references.iter().filter_map(|target| target.strip_prefix('#'));
    !inner.is_empty() && named.any(|name| inner.contains(name))
}

/// Whether a resource says of nobody that it is about them, by whatever form.
fn names_nobody(entry: &Entry) -> bool {
    let inside = look_inside(&entry.line);
    inside.is_some_and(|inside| !inside.is_strange && inside.subjects.is_empty() && inside.resources.len() == 1)
}

/// Whether a resource of no compartment has a patient, be it by a reference that is understood or not. What cannot be looked at
/// may have one.
fn has_a_patient(entry: &Entry) -> bool {
    let inside = look_inside(&entry.line);
    inside.is_none_or(|inside| inside.is_strange || inside.subjects.iter().any(|subject| subject.element == "patient"))
}

impl Grant {
    /// What a patient's block begins with (BD-040); `None` of whoever is not exported.
    pub(crate) fn admit_header(&self, patient: &Id) -> Option<Line> {
        let may_leave = self.is_member(patient) && !self.consent.has(patient);
        may_leave.then(|| Line(Bytes::from(header_line(patient))))
    }

    /// What we say ourselves about an export: it holds nothing of a resource.
    pub(crate) fn admit_outcome(outcome: OutcomeLine) -> Line {
        Line(Bytes::from(outcome.into_text()))
    }

    /// Whether the last living version of what was deleted decides whether that may be told.
    pub(crate) fn asks_for_last_versions(&self) -> bool {
        !matches!(self.cohort, Cohort::Everything) || self.keeps_back_resources()
    }

    /// That a resource is no more, as a line; `None` if this export may not tell. SEC-27: at Patient and Group level, and where
    /// single resources are kept back, its `last` living version must have been one that may leave, and `note` is told whose it
    /// was.
    pub(crate) fn admit_deletion(
        &self,
        resource_type: ResourceType,
        id: &Id,
        last: Option<&Entry>,
        note: impl FnMut(&Id),
    ) -> Option<Line> {
        let was_admitted = || {
            last.is_some_and(|last| {
                last.resource_type == resource_type && last.id == *id && self.admit(last, note).is_ok()
            })
        };
        // Nobody can ask whether what is gone would have passed a filter.
        let may_be_told = !self.narrowed.contains(&resource_type)
            && if self.asks_for_last_versions() { was_admitted() } else { self.types.contains(&resource_type) };
        may_be_told.then(|| Line(Bytes::from(deletion_line(resource_type, id))))
    }

    /// What a client holds, for ourselves: it is in no manifest.
    pub(crate) fn note_held(text: String) -> Line {
        Line(Bytes::from(text))
    }

    /// That a resource which this client received before is no more (SEC-27).
    pub(crate) fn admit_deletion_of_received(
        &self,
        LocalReference { resource_type, id }: &LocalReference,
    ) -> Option<Line> {
        self.types.contains(resource_type).then(|| Line(Bytes::from(deletion_line(*resource_type, id))))
    }

    /// Whether a search for the cohort's members cannot have found this resource: it names patients, and none of
    /// them is a member, or it is none itself.
    pub(crate) fn is_foreign(&self, entry: &Entry) -> bool {
        if let Some(is_one) = self.is_among_others(entry) {
            return !is_one;
        }
        if entry.resource_type == ResourceType::PATIENT {
            return !self.is_member(&entry.id);
        }
        let mut patients = self.patients(entry).peekable();
        patients.peek().is_some() && !patients.any(|id| self.is_member(&id))
    }
}

#[cfg(test)]
mod tests;
