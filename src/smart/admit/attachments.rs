//! What attachments hold may leave only with the resource that they are a part of, and only if it is nobody else's (SEC-24).

use super::Grant;
use crate::fhir::attachment::{self, Attachment};
use crate::fhir::bundle::Entry;
use crate::fhir::resource_type::ResourceType;
use crate::plan::Cohort;

/// Whether what a Binary holds may leave in a resource that refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inlining {
    Permitted,
    /// It is somebody else's, or nobody can say whose.
    OfOthers,
    /// Policy keeps it back, and nobody is told so (SEC-26).
    ByPolicy,
}

impl Grant {
    /// The same for somebody who may have what a Binary holds, or may not.
    pub(crate) fn with_binaries(self, has_binaries: bool) -> Self {
        Self { has_binaries, ..self }
    }

    /// Whether what a Binary holds may be had.
    pub(crate) fn has_binaries(&self) -> bool {
        self.has_binaries
    }

    /// The attachments of a resource that are kept as a Binary of the server, as far as they leave; `is_associated` as it is
    /// admitted.
    pub(crate) fn attachments(&self, entry: &Entry, is_associated: bool) -> Vec<Attachment> {
        let bases: Vec<&str> = self.bases.iter().map(String::as_str).collect();
        let found = attachment::attachments(&entry.line, &bases);
        if found.is_empty() {
            return found;
        }
        let is_admitted = if is_associated {
            self.types.contains(&entry.resource_type) && self.owners(entry).is_ok()
        } else {
            self.belongs(entry).is_ok()
        };
        let Some(left) = is_admitted.then(|| self.left_of(entry).ok()).flatten() else { return Vec::new() };
        let stays = attachment::attachments(&left.0, &bases);
        found.into_iter().filter(|attachment| stays.iter().any(|left| left.binary == attachment.binary)).collect()
    }

    /// Whether what a Binary holds may leave in this resource: by its labels, and by what it says decides who may have it. That has
    /// to be the resource itself or a patient of the export, and one whose the resource is where single resources are kept back:
    /// nobody asks whether another one may leave. What says nothing leaves where it does not matter whose it is.
    pub(crate) fn may_inline(&self, binary: &Entry, of: &Entry) -> Inlining {
        if binary.resource_type != ResourceType::BINARY || self.bars(binary) {
            return Inlining::ByPolicy;
        }
        // SEC-24: whoever may write a reference to a Binary may not thereby read it. Where it matters whose it is, it says so.
        let may_be_anybodys = match self.cohort {
            Cohort::Everything if !self.keeps_back_resources() => true,
            Cohort::Everything | Cohort::AllPatients => !attachment::has_security_context(&binary.line),
            Cohort::Members(_) => false,
        };
        if may_be_anybodys {
            return Inlining::Permitted;
        }
        let mut contexts =
            binary.references.iter().filter(|reference| &*reference.path == "securityContext").peekable();
        let is_theirs = contexts.peek().is_some()
            && contexts.all(|context| {
                self.local(&context.target).is_some_and(|target| {
                    let may_be_any = !self.keeps_back_resources();
                    let is_patient = target.resource_type == ResourceType::PATIENT
                        && self.is_member(&target.id)
                        && (may_be_any || self.patients(of).any(|id| id == target.id));
                    is_patient || (target.resource_type == of.resource_type && target.id == of.id)
                })
            });
        if is_theirs { Inlining::Permitted } else { Inlining::OfOthers }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fhir::bundle::Scope;
    use crate::fhir::compartment::Compartments;
    use crate::fhir::datatypes::Id;
    use crate::smart::policy::Policy;

    fn entry(json: &str) -> Entry {
        let name = json.split('"').nth(3).and_then(ResourceType::parse).expect("a type");
        Entry::parse(json.as_bytes(), Scope::of(name).with_references()).expect("a resource")
    }

    fn grant(cohort: Cohort) -> Grant {
        let types = vec![ResourceType::parse("DocumentReference").expect("a type")];
        Grant::new(cohort, Compartments::R4, types, Vec::new(), vec!["http://inner/fhir".to_owned()])
    }

    fn members() -> Cohort {
        Cohort::Members(vec![Id::parse("anna").expect("an id")])
    }

    #[test]
    fn what_binaries_hold_may_be_had_only_if_that_is_said() {
        assert!(!grant(members()).has_binaries());
        for has_binaries in [true, false] {
            assert_eq!(grant(members()).with_binaries(has_binaries).has_binaries(), has_binaries);
        }
    }

    /// SEC-24
    #[test]
    fn a_binary_leaves_only_in_what_it_says_it_is_a_part_of() {
        let document = entry(r#"{"resourceType":"DocumentReference","id":"d","subject":{"reference":"Patient/anna"}}"#);
        let binary = |context: &str| entry(&format!(r#"{{"resourceType":"Binary","id":"b"{context},"data":"aGk="}}"#));
        for (context, expected) in [
            ("", false),
            (r#","securityContext":{"reference":"Patient/anna"}"#, true),
            (r#","securityContext":{"reference":"http://inner/fhir/DocumentReference/d"}"#, true),
            (r#","securityContext":{"reference":"Patient/ben"}"#, false),
            (r#","securityContext":{"reference":"DocumentReference/e"}"#, false),
            (r#","securityContext":{"reference":"http://outer/fhir/Patient/anna"}"#, false),
            (r##","securityContext":{"reference":"#p"}"##, false),
            (r#","securityContext":{"display":"Anna"}"#, false),
        ] {
            let told = grant(members()).may_inline(&binary(context), &document);
            assert_eq!(told == Inlining::Permitted, expected, "{context}");
            assert_eq!(grant(Cohort::Everything).may_inline(&binary(context), &document), Inlining::Permitted);
        }
        let labels: Policy = serde_json::from_str(r#"{"withheld":["s|x"]}"#).expect("a policy");
        for (context, expected) in [
            ("", Inlining::Permitted),
            (r#","securityContext":{"reference":"Patient/anna"}"#, Inlining::Permitted),
            (r#","securityContext":{"reference":"DocumentReference/d"}"#, Inlining::Permitted),
            (r#","securityContext":{"reference":"Patient/ben"}"#, Inlining::OfOthers),
            (r#","securityContext":{"reference":"DocumentReference/e"}"#, Inlining::OfOthers),
        ] {
            let keeping_back = grant(Cohort::Everything).within(Some(&labels), Arc::default());
            assert_eq!(
                keeping_back.may_inline(&binary(context), &document),
                expected,
                "it may be kept back: {context}"
            );
        }
        let of_all_patients = grant(Cohort::AllPatients).may_inline(&binary(""), &document);
        assert_eq!(of_all_patients, Inlining::Permitted, "whoever it is of is one of them, or it is nobody's");
        assert_eq!(grant(members()).may_inline(&document, &document), Inlining::ByPolicy, "it is no Binary");
    }

    /// SEC-20: nothing is fetched for what stays here.
    #[test]
    fn attachments_are_looked_for_in_what_leaves() {
        let document = |patient: &str| {
            entry(&format!(
                r#"{{"resourceType":"DocumentReference","id":"d","subject":{{"reference":"Patient/{patient}"}},"content":[{{"attachment":{{"url":"Binary/b"}}}}]}}"#
            ))
        };
        for (patient, expected) in [("anna", 1), ("ben", 0)] {
            for is_associated in [false, true] {
                let found = grant(members()).attachments(&document(patient), is_associated);
                assert_eq!(found.len(), expected, "{patient} {is_associated}");
            }
        }
        assert_eq!(grant(Cohort::Everything).attachments(&document("ben"), false).len(), 1);
        let observation = entry(r#"{"resourceType":"Observation","id":"o","valueAttachment":{"url":"Binary/b"}}"#);
        assert_eq!(grant(Cohort::Everything).attachments(&observation, false), [], "its type was not asked for");
    }
}
