//! What is there for other records only: Provenance of them, what was audited about them, a Binary that is a part of one. It tells
//! that the record is there, who made it and when; so it leaves only where all that it is about may be told of (SEC-20, SEC-26).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Grant, Withheld};
use crate::fhir::bundle::Entry;
use crate::fhir::datatypes::LocalReference;
use crate::fhir::inside::look_inside;
use crate::fhir::resource_type::ResourceType;
use crate::plan::Cohort;

/// Records that one resource can be about. Of one that is about more nobody is asked.
const MOST_SUBJECTS: usize = 20_000;

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
    /// The server does not give it, or it does not say whose it is.
    IsUnknown,
    /// It is somebody's who is none of the export's patients.
    IsOfOthers,
    /// Policy keeps it back.
    IsKeptBack,
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
    /// Whether it matters what resources tell of others.
    pub(crate) fn minds_what_is_told(&self) -> bool {
        self.keeps_back_resources() || matches!(self.cohort, Cohort::Members(_))
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
        if self.belongs(entry).is_err() {
            return Vec::new();
        }
        let told = entry.references.iter().filter_map(|reference| {
            let (of, is_subject) = (self.local(&reference.target), &*reference.path == subject);
            // What Provenance contains is looked into.
            let is_inner = entry.resource_type == ResourceType::PROVENANCE && reference.target.starts_with('#');
            (!is_inner && (is_subject || of.is_some())).then_some(Told { of, is_subject })
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
            for contained in about.contained {
                match look_inside(contained.get().as_bytes()) {
                    Some(inside) if !inside.is_strange => {
                        let nameless = inside.subjects.iter().any(|subject| subject.reference.is_none());
                        told.extend(nameless.then(unknown));
                        let references = inside.references.iter().filter(|target| !target.starts_with('#'));
                        told.extend(references.map(|target| Told { of: self.local(target), is_subject: true }));
                    }
                    Some(_) | None => told.push(unknown()),
                }
            }
        }
        told
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
            return Fate::MayLeave;
        }
        if entry.resource_type == ResourceType::PATIENT {
            return if self.is_member(&entry.id) { Fate::MayLeave } else { Fate::IsOfOthers };
        }
        match self.admit_context(entry) {
            Ok(_) => {}
            Err(Withheld::SharedWithOthers) => return Fate::IsOfOthers,
            Err(_undecided) => return Fate::IsUnknown,
        }
        // Whom it is about, nobody looks up once more.
        if matches!(entry.resource_type, ResourceType::PROVENANCE | ResourceType::AUDIT_EVENT) {
            return Fate::IsUnknown;
        }
        let is_of_patients = |patient: LocalReference| match patient.resource_type {
            ResourceType::PATIENT if self.is_member(&patient.id) => Fate::MayLeave,
            ResourceType::PATIENT => Fate::IsOfOthers,
            _ => Fate::IsUnknown,
        };
        if entry.resource_type == ResourceType::BINARY {
            let mut context = entry.references.iter().filter(|reference| &*reference.path == "securityContext");
            let context = context.next().and_then(|reference| self.local(&reference.target));
            return context.map_or(Fate::IsUnknown, is_of_patients);
        }
        self.fate_in_compartments(entry)
    }

    /// The same of what can lie in a compartment: everybody's in whose it does count.
    fn fate_in_compartments(&self, entry: &Entry) -> Fate {
        let mut patients = self.patients(entry).peekable();
        if patients.peek().is_some() {
            return if patients.all(|id| self.is_member(&id)) { Fate::MayLeave } else { Fate::IsOfOthers };
        }
        let links = self.compartments.links(entry.resource_type);
        if links.clone().next().is_none() {
            return Fate::MayLeave;
        }
        // It is nobody's, or it does not say whose.
        let is_link = |path: &str| links.clone().any(|link| link.paths.contains(&path));
        let mut linking = entry.references.iter().filter(|reference| is_link(&reference.path));
        let is_elsewhere = linking.any(|reference| self.local(&reference.target).is_none());
        let is_nameless = || {
            look_inside(&entry.line).is_none_or(|inside| {
                inside.is_strange || inside.subjects.iter().any(|subject| subject.reference.is_none())
            })
        };
        if is_elsewhere || is_nameless() { Fate::IsUnknown } else { Fate::MayLeave }
    }
}
