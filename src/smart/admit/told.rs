//! What is there for other records only: Provenance of them, what was audited about them, a Binary that is a part of one. It tells
//! that the record is there, who made it and when; so it leaves only where all that it is about may be told of (SEC-20, SEC-26).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Grant, Line, Withheld};
use crate::fhir::bundle::Entry;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::inside::look_inside;
use crate::fhir::resource_type::ResourceType;
use crate::plan::Cohort;

/// Records that one resource can be about. Of one that is about more nobody is asked.
const MOST_SUBJECTS: usize = 20_000;

/// Types of which no resource is a patient's.
const NOBODYS: [&str; 20] = [
    "ActivityDefinition",
    "CodeSystem",
    "ConceptMap",
    "Endpoint",
    "HealthcareService",
    "InsurancePlan",
    "Library",
    "Location",
    "Measure",
    "Medication",
    "MedicationKnowledge",
    "Organization",
    "OrganizationAffiliation",
    "PlanDefinition",
    "Practitioner",
    "PractitionerRole",
    "Questionnaire",
    "StructureDefinition",
    "Substance",
    "ValueSet",
];

/// A record that a resource tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// `None` if that cannot be told.
    pub(crate) of: Option<LocalReference>,
    /// Whether the resource is about it, and not only names it.
    pub(crate) is_subject: bool,
}

/// What is known of a record that something is said of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It may be told of.
    MayLeave,
    /// So may this, and it is no patient's: that something is about it does not make that a part of the export.
    IsNobodys,
    /// The server does not give it, or it does not say whose it is.
    IsUnknown,
    /// It is somebody's who is none of the export's patients.
    IsOfOthers,
    /// Policy keeps it back.
    IsKeptBack,
}

/// Why Provenance belongs to an export of patients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ProvenanceOf {
    /// It is about a patient.
    #[default]
    Patients,
    /// Or it was found as something of what is exported.
    Exported,
    /// Or it is about what lies in any patient's compartment (BD-034).
    Records,
}

/// Whom Provenance is about. What it refers to besides, and by whom it was made, is looked for by others.
#[derive(Deserialize)]
struct About<'a> {
    #[serde(borrow, default)]
    target: Vec<Target<'a>>,
    #[serde(borrow, default)]
    contained: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Target<'a> {
    #[serde(borrow)]
    reference: Option<Cow<'a, str>>,
}

impl Grant {
    /// The same where Provenance belongs to the export for this.
    pub(crate) fn with_provenance(self, provenance: ProvenanceOf) -> Self {
        Self { provenance, ..self }
    }

    /// Whether it matters what resources tell of others.
    pub(crate) fn minds_what_is_told(&self) -> bool {
        self.minds_who_is_told_of() || self.provenance == ProvenanceOf::Records
    }

    /// Whether there is anybody of whom nothing may be told.
    pub(crate) fn minds_who_is_told_of(&self) -> bool {
        self.keeps_back_resources() || matches!(self.cohort, Cohort::Members(_))
    }

    /// What was found as something of others, or is about them, which are a part of the export: as a line. SEC-20: it names no
    /// patient who is not.
    pub(crate) fn admit_associated(&self, entry: &Entry, note: impl FnMut(&Id)) -> Result<Line, Withheld> {
        if !self.types.contains(&entry.resource_type) {
            return Err(Withheld::Type);
        }
        let members = self.owners(entry)?;
        let line = self.line(entry)?;
        members.iter().for_each(note);
        Ok(line)
    }

    /// Whether a resource can be a patient's by its type.
    pub(crate) fn can_be_a_patients(&self, resource_type: ResourceType) -> bool {
        self.compartments.hold(resource_type) && !resource_type.left_out_of_patient_exports()
    }

    /// What Provenance is about, as far as that lies on this server.
    pub(crate) fn targets<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = LocalReference> + 'a {
        let named = entry.references.iter().filter(|reference| &*reference.path == "target");
        named.filter_map(|reference| self.local(&reference.target))
    }

    /// Whether it may be a part of the export, as far as that can be told before it is known what it is about.
    fn may_belong(&self, entry: &Entry) -> bool {
        let is_tied = entry.resource_type == ResourceType::PROVENANCE && self.provenance != ProvenanceOf::Patients;
        if is_tied { self.types.contains(&entry.resource_type) } else { self.belongs(entry).is_ok() }
    }

    /// The records that a resource tells of, where it is there for nothing else, or is a part of one. What is none of the
    /// export's anyhow tells nothing.
    pub(crate) fn tells_of(&self, entry: &Entry) -> Vec<Told> {
        let subject = match entry.resource_type {
            ResourceType::PROVENANCE => "target",
            ResourceType::AUDIT_EVENT => "entity.what",
            ResourceType::BINARY => "securityContext",
            _ => return Vec::new(),
        };
        if !self.may_belong(entry) {
            return Vec::new();
        }
        let told = entry.references.iter().filter_map(|reference| {
            let (of, is_subject) = (self.local(&reference.target), &*reference.path == subject);
            // What Provenance contains is looked into.
            let is_inner = entry.resource_type == ResourceType::PROVENANCE && reference.target.starts_with('#');
            // What is only named decides nothing but what policy keeps back.
            let is_named = of.is_some() && self.keeps_back_resources();
            (!is_inner && (is_subject || is_named)).then_some(Told { of, is_subject })
        });
        let mut told: Vec<_> = told.collect();
        if entry.resource_type == ResourceType::PROVENANCE {
            told.extend(self.told_without_a_reference(entry));
        }
        let is_about = told.iter().filter(|told| told.is_subject).count();
        if is_about > MOST_SUBJECTS { vec![Told { of: None, is_subject: true }] } else { told }
    }

    /// What Provenance is about and does not refer to as it stands there: a target that is named otherwise, or is contained.
    fn told_without_a_reference(&self, entry: &Entry) -> Vec<Told> {
        let unknown = || Told { of: None, is_subject: true };
        let Ok(about) = serde_json::from_slice::<About<'_>>(&entry.line) else { return vec![unknown()] };
        let mut told = Vec::new();
        if about.target.iter().any(|target| target.reference.is_none()) {
            told.push(unknown());
        }
        let is_inner = |target: &Target<'_>| target.reference.as_deref().is_some_and(|text| text.starts_with('#'));
        if about.target.iter().any(is_inner) {
            // Which of them is meant does not matter: all of them leave with it.
            told.extend(about.contained.iter().flat_map(|contained| self.told_by_contained(contained.get())));
        }
        told
    }

    /// Whom a contained resource is about: one that says so of members by reference, or is nobody's.
    fn told_by_contained(&self, json: &str) -> Vec<Told> {
        let unknown = || vec![Told { of: None, is_subject: true }];
        let Some(inside) = look_inside(json.as_bytes()).filter(|inside| !inside.is_strange) else { return unknown() };
        let [own] = &inside.resources[..] else { return unknown() };
        if is_nobodys(&own.resource_type) {
            return Vec::new();
        }
        let told = inside.references.iter().filter(|target| !target.starts_with('#'));
        let told: Vec<_> = told.map(|target| Told { of: self.local(target), is_subject: true }).collect();
        let is_patient = |told: &Told| told.of.as_ref().is_some_and(|of| of.resource_type == ResourceType::PATIENT);
        let is_named = inside.subjects.iter().all(|subject| subject.reference.is_some());
        // A patient says of nobody else who that is.
        let is_person = matches!(&*own.resource_type, "Patient" | "Person" | "RelatedPerson");
        if is_named && !is_person && told.iter().any(is_patient) { told } else { unknown() }
    }

    /// What a record makes of what tells of it, where its name says so.
    pub(crate) fn fate_by_name(&self, of: &LocalReference) -> Option<Fate> {
        let is_decided = of.resource_type == ResourceType::PATIENT && !self.keeps_back_resources();
        let fate = if self.is_member(&of.id) { Fate::MayLeave } else { Fate::IsOfOthers };
        is_decided.then_some(fate)
    }

    /// What this record makes of what tells of it.
    pub(crate) fn fate(&self, entry: &Entry) -> Fate {
        if self.bars(entry) {
            return Fate::IsKeptBack;
        }
        if !matches!(self.cohort, Cohort::Members(_)) {
            let is_somebodys = self.can_be_a_patients(entry.resource_type)
                && (entry.resource_type == ResourceType::PATIENT || self.patients(entry).next().is_some());
            return if is_somebodys { Fate::MayLeave } else { Fate::IsNobodys };
        }
        if entry.resource_type == ResourceType::PATIENT {
            return if self.is_member(&entry.id) { Fate::MayLeave } else { Fate::IsOfOthers };
        }
        match &entry.resource_type {
            // Whom it is about, nobody looks up once more.
            &ResourceType::PROVENANCE | &ResourceType::AUDIT_EVENT => Fate::IsUnknown,
            &ResourceType::DEVICE => match self.admit_context(entry) {
                Ok(_) => Fate::MayLeave,
                Err(Withheld::SharedWithOthers) => Fate::IsOfOthers,
                Err(_undecided) => Fate::IsUnknown,
            },
            name if is_nobodys(name.as_str()) => Fate::MayLeave,
            _ if self.patients(entry).next().is_some() => match self.owners(entry) {
                Ok(_) => Fate::MayLeave,
                Err(Withheld::SharedWithOthers) => Fate::IsOfOthers,
                Err(_undecided) => Fate::IsUnknown,
            },
            // It is of a compartment and in none.
            name if self.compartments.hold(*name) => Fate::IsUnknown,
            _ => self.fate_outside_of_compartments(entry),
        }
    }

    /// The same of what no compartment has, such as a Task or a Binary: whoever is referred to counts, wherever in it.
    pub(super) fn fate_outside_of_compartments(&self, entry: &Entry) -> Fate {
        let Some(inside) = look_inside(&entry.line).filter(|inside| !inside.is_strange) else { return Fate::IsUnknown };
        let is_named = inside.subjects.iter().all(|subject| subject.reference.is_some());
        let local: Vec<_> = inside.references.iter().filter_map(|target| self.local(target)).collect();
        let patients = local.iter().filter(|target| target.resource_type == ResourceType::PATIENT);
        let mut fate = Fate::IsUnknown;
        for patient in patients {
            if !self.is_member(&patient.id) {
                return Fate::IsOfOthers;
            }
            fate = Fate::MayLeave;
        }
        // What is a resource in it may be somebody's as well.
        if fate == Fate::MayLeave && !(is_named && inside.resources.len() == 1) { Fate::IsUnknown } else { fate }
    }
}

/// Whether resources of a type are about nobody.
pub(super) fn is_nobodys(name: &str) -> bool {
    NOBODYS.contains(&name)
}
