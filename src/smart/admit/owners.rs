//! Whose a resource is: the patients in whose compartments it lies, and whether it may be somebody's of whom nobody can tell who
//! it is.

use std::collections::HashSet;

use super::{Grant, Withheld};
use crate::fhir::bundle::Entry;
use crate::fhir::datatypes::Id;
use crate::fhir::inside::{Inside, SUBJECTS, Subject, look_inside};
use crate::fhir::resource_type::ResourceType;
use crate::plan::Cohort;

/// Types of a compartment of which several patients can be `subject`: the second since R5.
const OF_SEVERAL_SUBJECTS: [&str; 2] = ["Account", "Composition"];

impl Grant {
    /// The patients in whose compartments the resource lies: members, and nobody else.
    pub(super) fn owners(&self, entry: &Entry) -> Result<Vec<Id>, Withheld> {
        let (members, others) = self.members_and_others(entry);
        if others.is_empty() { self.if_nobody_elses(entry, members) } else { Err(Withheld::SharedWithOthers) }
    }

    /// The patients in whose compartments the resource lies, by whether they are members.
    pub(super) fn members_and_others(&self, entry: &Entry) -> (Vec<Id>, Vec<Id>) {
        self.patients(entry).partition(|id| self.is_member(id))
    }

    /// These owners, if nobody can be another one.
    pub(super) fn if_nobody_elses(&self, entry: &Entry, owners: Vec<Id>) -> Result<Vec<Id>, Withheld> {
        if self.may_be_a_strangers(entry) { Err(Withheld::Undecided) } else { Ok(owners) }
    }

    /// The patients in whose compartments the resource lies, members or not.
    pub(super) fn patients<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = Id> + 'a {
        let targets = self.linked(entry).filter_map(|target| self.local(target));
        targets.filter(|target| target.resource_type == ResourceType::PATIENT).map(|target| target.id)
    }

    /// What the elements refer to that put a resource into compartments.
    fn linked<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a str> + 'a {
        let links = self.compartments.links(entry.resource_type);
        let is_link = move |path: &str| links.clone().any(|link| link.paths.contains(&path));
        entry.references.iter().filter(move |reference| is_link(&reference.path)).map(|reference| &*reference.target)
    }

    fn is_link(&self, resource_type: ResourceType, path: &str) -> bool {
        self.compartments.links(resource_type).any(|link| link.paths.contains(&path))
    }

    /// Whether it may lie in the compartment of somebody who is no member and of whom it cannot be told who that is: a patient
    /// of another server, one in the resource itself, one who is found by a search or an identifier (SEC-20). An element other
    /// than its subject that tells neither who it means nor that it means a patient counts for none.
    fn may_be_a_strangers(&self, entry: &Entry) -> bool {
        if !matches!(self.cohort, Cohort::Members(_)) {
            return false;
        }
        let unsure: HashSet<_> = self.linked(entry).filter(|target| !self.is_clear(target)).collect();
        if unsure.iter().any(|target| !target.starts_with('#')) {
            return true;
        }
        if unsure.is_empty() && !self.may_be_nameless(entry) {
            return false;
        }
        look_inside(&entry.line).filter(|inside| !inside.is_strange).is_none_or(|inside| {
            let (patients, inner) = inner_ones(&inside);
            let is_no_patient = |target: &str| {
                target.strip_prefix('#').is_some_and(|name| inner.contains(name) && !patients.contains(name))
            };
            inside.has_more_nameless
                || !unsure.into_iter().all(is_no_patient)
                || inside.subjects.iter().any(|subject| self.is_a_subject_without_a_name(entry.resource_type, subject))
                || inside.nameless.iter().any(|nameless| self.is_link(entry.resource_type, &nameless.path))
        })
    }

    /// Whether it can be told whom a reference means, or that it means no patient.
    fn is_clear(&self, target: &str) -> bool {
        let is_another = |name: &str| ResourceType::parse(name).is_some_and(|name| name != ResourceType::PATIENT);
        if let Some((found, _)) = target.split_once('?') {
            return is_another(found.rsplit('/').next().unwrap_or_default());
        }
        let path = target.split_once("/_history/").map_or(target, |(path, _)| path);
        // The resource itself, or one that bears its type in its name, be it an id or not.
        target == "#" || self.local(target).is_some() || path.rsplit('/').nth(1).is_some_and(is_another)
    }

    /// Whether it is worth looking for a patient whom nothing but an identifier names: seldom, for it takes reading it again.
    fn may_be_nameless(&self, entry: &Entry) -> bool {
        let has = |text: &[u8]| memchr::memmem::find(&entry.line, text).is_some();
        let is_subject = |path: &str| SUBJECTS.contains(&path) && self.is_link(entry.resource_type, path);
        let names_its_subject = entry.references.iter().any(|reference| is_subject(&reference.path));
        let has_a_subject = SUBJECTS.into_iter().any(is_subject);
        // A word can be written by escapes, too.
        has(b"\"Patient\"")
            || has(b"\\u")
            || (has_a_subject && !names_its_subject)
            || OF_SEVERAL_SUBJECTS.contains(&entry.resource_type.as_str())
    }

    /// Whether it is about somebody of whom it says no more than how to find or to show them, and who may be a patient.
    fn is_a_subject_without_a_name(&self, resource_type: ResourceType, subject: &Subject<'_>) -> bool {
        let may_be_patient = subject.kind.as_deref().is_none_or(|kind| kind == ResourceType::PATIENT.as_str());
        may_be_patient && subject.reference.is_none() && self.is_link(resource_type, subject.element)
    }
}

/// The patients in a resource, and all that is in it.
fn inner_ones<'a>(inside: &'a Inside<'_>) -> (HashSet<&'a str>, HashSet<&'a str>) {
    let inner = inside.resources.iter().skip(1).filter_map(|inner| Some((inner.id.as_deref()?, &*inner.resource_type)));
    let patients =
        inner.clone().filter(|(_, name)| *name == ResourceType::PATIENT.as_str()).map(|(id, _)| id).collect();
    (patients, inner.map(|(id, _)| id).collect())
}
