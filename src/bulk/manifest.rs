//! The manifest: one model of it, and a writer for each shape that the guide has given it.

mod outcome;
mod proof;
mod stu3;
mod stu4;

use std::collections::BTreeMap;

use serde_json::json;

use super::shape::Release;
use crate::fhir::datatypes::Instant;
use crate::fhir::outcome::IssueSeverity;
use crate::fhir::resource_type::ResourceType;
pub(crate) use outcome::{OutcomeLine, deletion_line, header_line};
pub(crate) use proof::{Method, TypeProof};

/// What a finished export tells of itself.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) transaction_time: Instant,
    pub(crate) request: String,
    pub(crate) requires_access_token: bool,
    /// What the files of `output` have blocks of, if they have (BD-076).
    pub(crate) organized_by: Option<ResourceType>,
    pub(crate) output: Vec<ManifestFile>,
    /// Present only where `_since` was given (BD-078).
    pub(crate) deleted: Option<Vec<ManifestFile>>,
    /// What there is to say beside the resources: `error` to 3.0, `outcome` in 4.0.
    pub(crate) outcomes: Vec<ManifestFile>,
    /// None where there are several pages: all that each of them says of the whole would have to be the same (BD-084).
    pub(crate) proof: Option<BTreeMap<ResourceType, TypeProof>>,
    /// Where the next page is (BD-083).
    pub(crate) next: Option<String>,
}

/// One file of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct ManifestFile {
    /// None where its lines are of several types (BD-075).
    pub(crate) resource_type: Option<ResourceType>,
    pub(crate) url: String,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// In hexadecimal digits.
    pub(crate) sha256: String,
    /// Whether the object that has this size and digest is gzip.
    pub(crate) is_gzip: bool,
    /// Of a file of outcomes: how many there are whose gravest issue is of a severity.
    pub(crate) severities: BTreeMap<IssueSeverity, u64>,
    /// The address of the file in which its last block goes on (BD-043).
    pub(crate) continued_in: Option<String>,
}

/// What our extensions are called (BD-087).
const PROOF: &str = "https://offtake.dev/proof";
const FILE: &str = "https://offtake.dev/file";

impl Manifest {
    /// BD-065 to BD-087, in the shape of `release`.
    pub(crate) fn to_json(&self, release: Release) -> Vec<u8> {
        let mut written = match release {
            Release::Three => stu3::written(self),
            Release::Four => stu4::written(self),
        };
        if let Some(name) = self.organized_by {
            written["outputOrganizedBy"] = name.as_str().into();
        }
        if let Some(url) = &self.next {
            written["link"] = json!([{ "relation": "next", "url": url }]);
        }
        written.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests;
