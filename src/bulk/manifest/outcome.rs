//! The lines of what we say ourselves: the file of outcomes, and that of deletions.

use std::collections::BTreeMap;

use serde_json::json;

use super::TypeProof;
use crate::fhir::attachment::Left;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::outcome::{Issue, IssueSeverity, IssueType};
use crate::fhir::resource_type::ResourceType;

/// BD-079: one line of a file of deletions, a transaction that deletes one resource.
pub(crate) fn deletion_line(resource_type: ResourceType, id: &Id) -> String {
    let request = json!({ "method": "DELETE", "url": format!("{resource_type}/{id}") });
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [{ "request": request }] });
    format!("{bundle}\n")
}

/// BD-040: what a patient's block begins with.
pub(crate) fn header_line(patient: &Id) -> String {
    let header = json!({ "name": "header", "valueReference": { "reference": format!("Patient/{patient}") } });
    let header = json!({ "resourceType": "Parameters", "parameter": [header] });
    format!("{header}\n")
}

/// One line of the file of outcomes: an `OperationOutcome` and a newline.
#[derive(Debug, Clone)]
pub(crate) struct OutcomeLine {
    text: String,
    severity: IssueSeverity,
}

impl OutcomeLine {
    /// The proof as an informational outcome, one issue per type.
    pub(crate) fn proof(proof: &BTreeMap<ResourceType, TypeProof>) -> Self {
        let issues = proof.iter().map(|(name, proof)| {
            let method = proof.method.as_str();
            let TypeProof { expected, received, written, repeated, withheld, reread, short, .. } = proof;
            issue(
                IssueSeverity::Information,
                IssueType::Informational,
                &format!(
                    "{name}: {method}, expected {expected}, received {received}, written {written}, repeated {repeated}, \
                     withheld {withheld}, reread {reread}, short {short}"
                ),
            )
        });
        let mut issues: Vec<_> = issues.collect();
        if issues.is_empty() {
            issues.push(issue(IssueSeverity::Information, IssueType::Informational, "nothing was to be exported"));
        }
        Self::of(&issues)
    }

    /// Members of a Group of which nothing comes by themselves.
    pub(crate) fn members_left_out() -> Self {
        let text = "some members of the Group are neither patients of this server nor of a type that is exported by itself, or \
                    cannot be resolved; they are left out";
        Self::of(&[issue(IssueSeverity::Warning, IssueType::NotFound, text)])
    }

    /// That what belongs to no patient has no block, where all was asked for.
    pub(crate) fn only_blocks() -> Self {
        let text = "the files hold what belongs to patients, in a block for each of them, and what that refers to; what lies in \
                    no patient's compartment, or in that of a patient whom the server does not list, is left out";
        Self::of(&[issue(IssueSeverity::Warning, IssueType::Informational, text)])
    }

    /// Patients that were asked for and are not exported: the same whatever the reason, and without a name or a number (SEC-25).
    pub(crate) fn patients_left_out() -> Self {
        let text = "patients that are not there, not in the Group or not permitted are not in this export, although they \
                    were asked for by `patient`";
        Self::of(&[issue(IssueSeverity::Warning, IssueType::NotFound, text)])
    }

    /// Types that only searches by patient could find, and of which none was found.
    pub(crate) fn without_witness(names: &[ResourceType]) -> Self {
        let text = "searches by patient found none of these, and nothing was there to show that they would";
        Self::about(names, IssueSeverity::Warning, IssueType::Incomplete, text)
    }

    /// Types of which nothing passes a filter that nothing was there to prove.
    pub(crate) fn without_filtered(names: &[ResourceType]) -> Self {
        let text = "a filter found none of these, and nothing was there to show that it would";
        Self::about(names, IssueSeverity::Warning, IssueType::Incomplete, text)
    }

    /// Types of which nothing was found by what it is about, and nothing was there to prove that it would.
    pub(crate) fn without_target(names: &[ResourceType]) -> Self {
        let text = "searches by what these are about found none, and nothing was there to show that they would";
        Self::about(names, IssueSeverity::Warning, IssueType::Incomplete, text)
    }

    /// Types of which the server refuses some of the ways in which they belong to a patient.
    pub(crate) fn refused_links(names: &[ResourceType]) -> Self {
        let text = "the server refuses to search these by each way in which they can belong to a patient; what only a \
                    refused one would find is not in this export";
        Self::about(names, IssueSeverity::Warning, IssueType::Incomplete, text)
    }

    /// Types that were read by `$everything`.
    pub(crate) fn by_records(names: &[ResourceType]) -> Self {
        let text = "the server lets these be searched by no patient; they are what its $everything holds, and nothing \
                    shows that this is everything";
        Self::about(names, IssueSeverity::Warning, IssueType::Incomplete, text)
    }

    /// Types that can be searched by patient only, although all was asked for.
    pub(crate) fn outside_compartment(names: &[ResourceType]) -> Self {
        let text =
            "the server lets these be searched by patient only; what belongs to no patient is not in this export";
        Self::about(names, IssueSeverity::Warning, IssueType::Incomplete, text)
    }

    /// Types that are read by narrower searches than a patient's, of which nothing shows that they find everything.
    pub(crate) fn narrowed(names: &[ResourceType]) -> Self {
        let text = "these were read by the searches that upstream.profile.searches or a preset names, and nothing shows \
                    that they find everything";
        Self::about(names, IssueSeverity::Warning, IssueType::Incomplete, text)
    }

    /// Patients for whom the server refuses to be searched, by their number: who they are may be a secret itself.
    pub(crate) fn refused_patients(patients: usize, names: &[ResourceType]) -> Self {
        let text = format!(
            "the server refuses searches for {patients} of the patients, as it does where a record is closed; what \
             they would find is not in this export"
        );
        Self::about(names, IssueSeverity::Error, IssueType::Forbidden, &text)
    }

    /// Types of which the server does not tell how they were at the transaction time, although that was wanted.
    pub(crate) fn not_as_of(names: &[ResourceType]) -> Self {
        let text = "changes after the transaction time are in this export as far as they were seen, as the server gives no \
                    history to tell what was before of these";
        Self::about(names, IssueSeverity::Warning, IssueType::NotSupported, text)
    }

    /// Types that are narrowed, where resources were wanted as of an instant.
    pub(crate) fn not_as_of_narrowed(names: &[ResourceType]) -> Self {
        let text = "changes after the transaction time are in this export as far as they were seen, as nobody can tell whether \
                    what was before of these would pass the filter";
        Self::about(names, IssueSeverity::Warning, IssueType::NotSupported, text)
    }

    /// Types of which the server does not tell what was deleted.
    pub(crate) fn untold_deletions(names: &[ResourceType]) -> Self {
        let text = "what was deleted is not listed, as the server keeps no history to tell it";
        Self::about(names, IssueSeverity::Warning, IssueType::NotSupported, text)
    }

    fn about(names: &[ResourceType], severity: IssueSeverity, code: IssueType, text: &str) -> Self {
        let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
        Self::of(&[issue(severity, code, &format!("{text}: {}", names.join(", ")))])
    }

    /// Deletions that the export may not tell of: one statement, without counts (SEC-26, SEC-27).
    pub(crate) fn withheld_deletions() -> Self {
        let text = "deletions of which nothing shows that they concern this export are left out";
        Self::of(&[issue(IssueSeverity::Information, IssueType::Suppressed, text)])
    }

    /// What policy keeps back: one statement, without counts, ids or types. It is made whether anything was kept back or not,
    /// for that alone may tell of a patient (SEC-26, SM-034).
    pub(crate) fn within_policy() -> Self {
        let text = "this export holds what the policy for it permits; what it does not permit is not in the files, not among \
                    what was deleted, and not in the numbers";
        Self::of(&[issue(IssueSeverity::Information, IssueType::Suppressed, text)])
    }

    /// A parameter that was left out by `handling=lenient`.
    pub(crate) fn ignored(parameter: &String) -> Self {
        let text = format!("the parameter `{parameter}` is not supported and was left out");
        Self::of(&[issue(IssueSeverity::Warning, IssueType::NotSupported, &text)])
    }

    /// Resources that the server counts and did not give.
    pub(crate) fn short(name: ResourceType, count: u64) -> Self {
        let text = format!("{name}: {count} resources that the server counts did not come, and are not in this export");
        Self::of(&[issue(IssueSeverity::Error, IssueType::Incomplete, &text)])
    }

    /// A resource that the server finds and fails to give.
    pub(crate) fn unreadable(LocalReference { resource_type, id }: &LocalReference) -> Self {
        let text = format!("the server fails to give {resource_type}/{id}: it is not in this export");
        Self::of(&[issue(IssueSeverity::Error, IssueType::Exception, &text)])
    }

    /// A type that the server refuses to be searched.
    pub(crate) fn refused(name: ResourceType, said: &[Issue]) -> Self {
        let text = format!("the server refuses to be searched for {name}: none of it is in this export");
        let mut issues = vec![issue(IssueSeverity::Error, IssueType::NotSupported, &text)];
        issues.extend(said.iter().map(|said| foreign(said, &format!("said of {name}"))));
        Self::of(&issues)
    }

    /// What the server said inside of good answers.
    pub(crate) fn upstream(said: &Issue, times: u64) -> Self {
        Self::of(&[foreign(said, &format!("said by the server {times} times"))])
    }

    /// Attachments that were to be inlined and are not.
    pub(crate) fn left_as_references(left: Left, times: u64) -> Self {
        let why = match left {
            Left::NotGiven => "the server does not give them as a FHIR Binary",
            Left::TooLarge => "they are larger than export.attachments_max_bytes, or too many in one resource",
            Left::OfOthers => "they are not shown to be of a patient of this export",
            Left::NotPermitted => "Binary is not permitted",
        };
        let text = format!("{times} attachments are references and hold no data, as {why}");
        Self::of(&[issue(IssueSeverity::Warning, left.issue().code, &text)])
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// How bad the gravest of its issues is.
    pub(crate) fn severity(&self) -> IssueSeverity {
        self.severity
    }

    fn of(issues: &[Said]) -> Self {
        let severity = issues.iter().map(|said| said.severity).min().unwrap_or(IssueSeverity::Information);
        let issues: Vec<_> = issues.iter().map(|said| &said.json).collect();
        let mut text = json!({ "resourceType": "OperationOutcome", "issue": issues }).to_string();
        text.push('\n');
        Self { text, severity }
    }
}

/// One issue of an outcome.
struct Said {
    severity: IssueSeverity,
    json: serde_json::Value,
}

fn issue(severity: IssueSeverity, code: IssueType, text: &str) -> Said {
    Said { severity, json: json!({ "severity": severity, "code": code, "diagnostics": text }) }
}

fn foreign(said: &Issue, text: &str) -> Said {
    let mut foreign = issue(said.severity, said.code, text);
    if let Some((system, code)) = &said.coding {
        foreign.json["details"] = json!({ "coding": [{ "system": system, "code": code }] });
    }
    foreign
}
