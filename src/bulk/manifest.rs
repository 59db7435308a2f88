//! The manifest on the wire, the proof of completeness that it carries, and the lines of the file of outcomes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::fhir::datatypes::{Id, Instant, LocalReference};
use crate::fhir::outcome::{Issue, IssueSeverity, IssueType};
use crate::fhir::resource_type::ResourceType;

/// How it is known that a slice is complete, from the strongest way to the weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Method {
    /// As many came as the server counts.
    Counted,
    /// Two readings in succession brought the same resources in the same versions.
    Reread,
    /// What came had no sign of trouble, and nothing shows that it is all.
    Unproven,
}

/// What an export can show for one type: sums over all slices that were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TypeProof {
    /// The weakest method that any slice needed.
    pub(crate) method: Method,
    /// Resources that the server counted, slice by slice, without those that policy keeps back.
    pub(crate) expected: u64,
    /// Distinct resources that came, slice by slice, without those.
    pub(crate) received: u64,
    /// Lines in the output: each resource once.
    pub(crate) written: u64,
    /// Resources that came again in a later slice and have their line already.
    pub(crate) repeated: u64,
    /// Resources that came and are not part of what was asked for, or may not leave.
    pub(crate) withheld: u64,
    /// Readings beyond the first of each slice.
    pub(crate) reread: u64,
    /// Resources that the server counts and does not give.
    pub(crate) short: u64,
}

/// The manifest of Bulk Data Access 1.0 to 3.0.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) transaction_time: Instant,
    pub(crate) request: String,
    pub(crate) requires_access_token: bool,
    pub(crate) output: Vec<ManifestFile>,
    /// Present only where `_since` was given (BD-078).
    pub(crate) deleted: Option<Vec<ManifestFile>>,
    pub(crate) error: Vec<ManifestFile>,
    pub(crate) proof: BTreeMap<ResourceType, TypeProof>,
}

/// One file of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct ManifestFile {
    pub(crate) resource_type: ResourceType,
    pub(crate) url: String,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// In hexadecimal digits.
    pub(crate) sha256: String,
    /// Whether the object that has this size and digest is gzip.
    pub(crate) is_gzip: bool,
}

/// The names of our members in the `extension` objects (BD-087).
const PROOF: &str = "https://offtake.dev/proof";
const FILE: &str = "https://offtake.dev/file";

impl Manifest {
    /// BD-065 to BD-087; `error` and `request` are always there (DS-023).
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let file = |file: &ManifestFile| {
            let mut stored = json!({ "bytes": file.bytes, "sha256": file.sha256 });
            if file.is_gzip {
                stored["contentEncoding"] = "gzip".into();
            }
            json!({
                "type": file.resource_type.as_str(),
                "url": file.url,
                "count": file.count,
                "extension": { FILE: stored },
            })
        };
        let mut manifest = json!({
            "transactionTime": self.transaction_time.to_string(),
            "request": self.request,
            "requiresAccessToken": self.requires_access_token,
            "output": self.output.iter().map(file).collect::<Vec<_>>(),
            "error": self.error.iter().map(file).collect::<Vec<_>>(),
            "extension": { PROOF: self.proof },
        });
        if let Some(deleted) = &self.deleted {
            let deleted = deleted.iter().map(|deleted| {
                let mut item = file(deleted);
                item["type"] = "Bundle".into();
                item
            });
            manifest["deleted"] = deleted.collect();
        }
        manifest.to_string().into_bytes()
    }
}

/// BD-079: one line of a file of deletions, a transaction that deletes one resource.
pub(crate) fn deletion_line(resource_type: ResourceType, id: &Id) -> String {
    let request = json!({ "method": "DELETE", "url": format!("{resource_type}/{id}") });
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [{ "request": request }] });
    format!("{bundle}\n")
}

/// One line of the file of outcomes: an `OperationOutcome` and a newline.
#[derive(Debug, Clone)]
pub(crate) struct OutcomeLine(String);

impl OutcomeLine {
    /// The proof as an informational outcome, one issue per type.
    pub(crate) fn proof(proof: &BTreeMap<ResourceType, TypeProof>) -> Self {
        let issues = proof.iter().map(|(name, proof)| {
            let TypeProof { expected, received, written, repeated, withheld, reread, short, .. } = proof;
            let method = match proof.method {
                Method::Counted => "counted",
                Method::Reread => "reread",
                Method::Unproven => "unproven",
            };
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

    /// Members of a Group that lead to no patient.
    pub(crate) fn members_left_out() -> Self {
        let text = "some members of the Group are no patients of this server, or cannot be resolved; they are left out";
        Self::of(&[issue(IssueSeverity::Warning, IssueType::NotFound, text)])
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

    pub(crate) fn into_text(self) -> String {
        self.0
    }

    fn of(issues: &[serde_json::Value]) -> Self {
        let mut text = json!({ "resourceType": "OperationOutcome", "issue": issues }).to_string();
        text.push('\n');
        Self(text)
    }
}

fn issue(severity: IssueSeverity, code: IssueType, text: &str) -> serde_json::Value {
    json!({ "severity": severity, "code": code, "diagnostics": text })
}

fn foreign(said: &Issue, text: &str) -> serde_json::Value {
    let mut value = issue(said.severity, said.code, text);
    if let Some((system, code)) = &said.coding {
        value["details"] = json!({ "coding": [{ "system": system, "code": code }] });
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::datatypes::Millis;

    fn proof() -> TypeProof {
        TypeProof {
            method: Method::Counted,
            expected: 3,
            received: 3,
            written: 2,
            repeated: 1,
            withheld: 0,
            reread: 0,
            short: 0,
        }
    }

    /// BD-068 to BD-077, DS-023
    #[test]
    fn a_manifest_has_every_member_that_clients_look_for() {
        let file = ManifestFile {
            resource_type: ResourceType::PATIENT,
            url: "http://h/f".to_owned(),
            count: 2,
            bytes: 40,
            sha256: "ab".to_owned(),
            is_gzip: false,
        };
        let manifest = Manifest {
            transaction_time: Instant::from(Millis(0)),
            request: "http://h/$export".to_owned(),
            requires_access_token: false,
            output: vec![file],
            deleted: None,
            error: vec![],
            proof: BTreeMap::from([(ResourceType::PATIENT, proof())]),
        };
        let value: serde_json::Value = serde_json::from_slice(&manifest.to_json()).expect("JSON");
        assert_eq!(
            value,
            json!({
                "transactionTime": "1970-01-01T00:00:00.000Z",
                "request": "http://h/$export",
                "requiresAccessToken": false,
                "output": [{"type": "Patient", "url": "http://h/f", "count": 2,
                    "extension": {"https://offtake.dev/file": {"bytes": 40, "sha256": "ab"}}}],
                "error": [],
                "extension": {"https://offtake.dev/proof": {"Patient": {"method": "counted", "expected": 3, "received": 3,
                    "written": 2, "repeated": 1, "withheld": 0, "reread": 0, "short": 0}}},
            })
        );
    }

    /// BD-079
    #[test]
    fn a_deletion_is_a_transaction_of_one_entry() {
        let line = deletion_line(ResourceType::PATIENT, &Id::parse("a").expect("an id"));
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert!(line.ends_with('\n') && line.lines().count() == 1);
        assert_eq!((&value["resourceType"], &value["type"]), (&"Bundle".into(), &"transaction".into()));
        assert_eq!(value["entry"], json!([{ "request": { "method": "DELETE", "url": "Patient/a" } }]));
    }

    #[test]
    fn the_schema_of_the_proof_names_its_members() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../config/proof.schema.json")).expect("JSON");
        let members =
            |value: &serde_json::Value| value.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>());
        let proof = serde_json::to_value(proof()).expect("numbers and a word");
        assert_eq!(members(&schema["additionalProperties"]["properties"]), members(&proof));
    }

    /// BD-082, BD-090
    #[test]
    fn an_outcome_is_one_line() {
        let said = Issue {
            severity: IssueSeverity::Warning,
            code: IssueType::Incomplete,
            coding: Some(("s".into(), "c".into())),
        };
        for line in [
            OutcomeLine::proof(&BTreeMap::from([(ResourceType::PATIENT, proof())])),
            OutcomeLine::proof(&BTreeMap::new()),
            OutcomeLine::ignored(&"a\nb".to_owned()),
            OutcomeLine::refused(ResourceType::PATIENT, std::slice::from_ref(&said)),
            OutcomeLine::upstream(&said, 2),
            OutcomeLine::short(ResourceType::PATIENT, 3),
            OutcomeLine::untold_deletions(&[ResourceType::PATIENT]),
            OutcomeLine::without_witness(&[ResourceType::PATIENT]),
            OutcomeLine::refused_links(&[ResourceType::PATIENT]),
            OutcomeLine::outside_compartment(&[ResourceType::PATIENT]),
            OutcomeLine::by_records(&[ResourceType::PATIENT]),
            OutcomeLine::narrowed(&[ResourceType::PATIENT]),
            OutcomeLine::withheld_deletions(),
            OutcomeLine::members_left_out(),
            OutcomeLine::patients_left_out(),
        ] {
            let text = line.into_text();
            assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(value["resourceType"], "OperationOutcome", "{text}");
            assert!(value["issue"].as_array().is_some_and(|issues| !issues.is_empty()), "{text}");
        }
    }
}
