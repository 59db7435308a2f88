//! Whose a resource is: the patients in whose compartments it lies, and whether it may be somebody's of whom nobody can tell who
//! it is.

use super::{Grant, Withheld};
use crate::fhir::bundle::Entry;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::inside::{Inside, Nameless, SUBJECTS, look_inside};
use crate::fhir::resource_type::ResourceType;
use crate::plan::Cohort;

/// The one type of a compartment of which several patients can be `subject`.
const OF_SEVERAL_SUBJECTS: &str = "Account";

impl Grant {
    /// The patients in whose compartments the resource lies: members, and nobody else.
    pub(super) fn owners(&self, entry: &Entry) -> Result<Vec<Id>, Withheld> {
        let (members, others): (Vec<_>, Vec<_>) = self.patients(entry).partition(|id| self.is_member(id));
        if !others.is_empty() {
            return Err(Withheld::SharedWithOthers);
        }
        if self.may_be_a_strangers(entry) { Err(Withheld::Undecided) } else { Ok(members) }
    }

    /// The patients in whose compartments the resource lies, members or not.
    pub(super) fn patients<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = Id> + 'a {
        let targets = self.linked(entry).filter_map(|target| self.local(target));
        targets.filter(|target| target.resource_type == ResourceType::PATIENT).map(|target| target.id)
    }

    /// What the elements refer to that put a resource into compartments.
    fn linked<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a str> + 'a {
        let is_link = |path: &str| self.is_link(entry.resource_type, path);
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
        let unsure: Vec<_> = self.linked(entry).filter(|target| !self.is_clear(target)).collect();
        if unsure.iter().any(|target| !target.starts_with('#')) {
            return true;
        }
        if unsure.is_empty() && !self.may_be_nameless(entry) {
            return false;
        }
        look_inside(&entry.line).filter(|inside| !inside.is_strange).is_none_or(|inside| {
            unsure.iter().any(|target| !leads_to_an_inner_one_but_a_patient(target, &inside))
                || inside
                    .nameless
                    .iter()
                    .any(|nameless| self.is_a_patient_without_a_name(entry.resource_type, nameless))
        })
    }

    /// Whether it can be told whom a reference means, or that it means no patient.
    fn is_clear(&self, target: &str) -> bool {
        let is_another = |name: &str| ResourceType::parse(name).is_some_and(|name| name != ResourceType::PATIENT);
        match target.split_once('?') {
            Some((found, _)) => is_another(found.rsplit('/').next().unwrap_or_default()),
            // The resource itself.
            None if target == "#" => true,
            None => {
                self.local(target).is_some()
                    || LocalReference::parse_elsewhere(target).is_some_and(|of| is_another(of.resource_type.as_str()))
            }
        }
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
            || entry.resource_type.as_str() == OF_SEVERAL_SUBJECTS
    }

    /// Whether what refers to somebody by an identifier puts the resource into the compartment of a patient.
    fn is_a_patient_without_a_name(&self, resource_type: ResourceType, nameless: &Nameless<'_>) -> bool {
        let is_patient = match nameless.kind.as_deref() {
            Some(kind) => kind == ResourceType::PATIENT.as_str(),
            None => SUBJECTS.contains(&&*nameless.path),
        };
        is_patient && self.is_link(resource_type, &nameless.path)
    }
}

fn leads_to_an_inner_one_but_a_patient(target: &str, inside: &Inside<'_>) -> bool {
    let Some(name) = target.strip_prefix('#') else { return false };
    let mut inner = inside.resources.iter().skip(1).filter(|inner| inner.id.as_deref() == Some(name)).peekable();
    inner.peek().is_some() && inner.all(|inner| inner.resource_type != ResourceType::PATIENT.as_str())
}
