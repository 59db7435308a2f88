//! `Grant::admit`, the only maker of lines that leave.

use bytes::Bytes;

use crate::bulk::manifest::{OutcomeLine, deletion_line};
use crate::fhir::bundle::Entry;
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::plan::Cohort;

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
    compartments: Compartments,
    types: Vec<ResourceType>,
    context: Vec<ResourceType>,
    /// The upstream's bases, as absolute references write them.
    bases: Vec<String>,
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
        Self { cohort, compartments, types, context, bases }
    }

    /// The resource as a line, if it may leave. SEC-20: at Patient and Group level it must lie in the
    /// compartment of one of the cohort's patients, and in nobody else's.
    pub(crate) fn admit(&self, entry: &Entry) -> Result<Line, Withheld> {
        self.admit_noting(entry, |_| {})
    }

    /// The same; at Patient and Group level `note` is told in whose compartment the line lies, if it is no Patient resource.
    pub(crate) fn admit_noting(&self, entry: &Entry, note: impl FnMut(&Id)) -> Result<Line, Withheld> {
        let line = || Line(entry.line.clone());
        if self.context.contains(&entry.resource_type) && !matches!(self.cohort, Cohort::Everything) {
            return self.admit_context(entry, note).map(|()| line());
        }
        if !self.types.contains(&entry.resource_type) {
            return Err(Withheld::Type);
        }
        match &self.cohort {
            Cohort::Everything => Ok(line()),
            Cohort::AllPatients | Cohort::Members(_) if entry.resource_type == ResourceType::PATIENT => {
                // Its `link` leads to other patients, whose resources are theirs.
                if self.is_member(&entry.id) { Ok(line()) } else { Err(Withheld::OutsideCohort) }
            }
            Cohort::AllPatients | Cohort::Members(_) => {
                let mut patients = self.patients(entry).peekable();
                if patients.peek().is_none() {
                    return Err(Withheld::OutsideCohort);
                }
                let (members, others): (Vec<_>, Vec<_>) = patients.partition(|id| self.is_member(id));
                match (members.is_empty(), others.is_empty()) {
                    (false, true) => {
                        members.iter().for_each(note);
                        Ok(line())
                    }
                    (false, false) => Err(Withheld::SharedWithOthers),
                    (true, _) => Err(Withheld::OutsideCohort),
                }
            }
        }
    }

    /// What `entry` refers to outside of the compartment and the export follows.
    pub(crate) fn follows<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = LocalReference> + 'a {
        let targets = entry.references.iter().filter_map(|reference| self.local(&reference.target));
        targets.filter(|target| self.context.contains(&target.resource_type))
    }

    /// SEC-23: a Device with a patient must name one of the cohort's.
    fn admit_context(&self, entry: &Entry, mut note: impl FnMut(&Id)) -> Result<(), Withheld> {
        let named = entry.references.iter().filter(|reference| &*reference.path == "patient");
        for reference in named {
            if let Some(target) = self.local(&reference.target)
                && target.resource_type == ResourceType::PATIENT
            {
                if !self.is_member(&target.id) {
                    return Err(Withheld::SharedWithOthers);
                }
                note(&target.id);
            }
        }
        Ok(())
    }

    /// The patients in whose compartments the resource lies.
    fn patients<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = Id> + 'a {
        let links = self.compartments.links(entry.resource_type);
        let paths = move |path: &str| links.clone().any(|link| link.paths.contains(&path));
        let targets = entry.references.iter().filter(move |reference| paths(&reference.path));
        let targets = targets.filter_map(|reference| self.local(&reference.target));
        targets.filter(|target| target.resource_type == ResourceType::PATIENT).map(|target| target.id)
    }

    fn local(&self, target: &str) -> Option<LocalReference> {
        let bases: Vec<&str> = self.bases.iter().map(String::as_str).collect();
        LocalReference::parse_on(target, &bases)
    }

    fn is_member(&self, id: &Id) -> bool {
        match &self.cohort {
            Cohort::Everything | Cohort::AllPatients => true,
            Cohort::Members(members) => members.binary_search(id).is_ok(),
        }
    }
}

impl Grant {
    /// What we say ourselves about an export: it holds nothing of a resource.
    pub(crate) fn admit_outcome(outcome: OutcomeLine) -> Line {
        Line(Bytes::from(outcome.into_text()))
    }

    /// That a resource is no more, as a line; `None` if this export may not tell. SEC-27: at Patient and Group level
    /// its `last` living version must have been one that may leave.
    pub(crate) fn admit_deletion(&self, resource_type: ResourceType, id: &Id, last: Option<&Entry>) -> Option<Line> {
        let may_be_told = match &self.cohort {
            Cohort::Everything => self.types.contains(&resource_type),
            Cohort::AllPatients | Cohort::Members(_) => last
                .is_some_and(|last| last.resource_type == resource_type && last.id == *id && self.admit(last).is_ok()),
        };
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

    /// Whether a search for the cohort's patients cannot have found this resource: it names patients, and none of
    /// them is a member.
    pub(crate) fn is_foreign(&self, entry: &Entry) -> bool {
        if entry.resource_type == ResourceType::PATIENT {
            return !self.is_member(&entry.id);
        }
        let mut patients = self.patients(entry).peekable();
        patients.peek().is_some() && !patients.any(|id| self.is_member(&id))
    }
}
