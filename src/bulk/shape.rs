//! What shape a client wants its answers in: settled by its kick-off and kept with the job. It changes nothing of what is
//! exported.

use serde::{Deserialize, Serialize};

use crate::fhir::resource_type::ResourceType;

/// The shape of all answers about one export. A record from before there was a choice is of the first of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Shape {
    pub(crate) release: Release,
    pub(crate) status: StatusForm,
    /// The manifest may have pages, and those that are whole may be read while the export runs (`allowPartialManifests`).
    pub(crate) allows_partial: bool,
    pub(crate) file_sizes: FileSizes,
    /// Lines stand in blocks, one for each of these, and not in files of one type (`organizeOutputBy`). It is `Patient` or
    /// nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) organized_by: Option<ResourceType>,
}

/// How large files may be, in bytes of their lines (`_minimumFileSize`, `_maximumFileSize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FileSizes {
    /// As far as it can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) smallest: Option<u64>,
    /// Kept by every file of more than one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) largest: Option<u64>,
}

/// The release of the guide whose operation was called. What they differ in otherwise is only added to from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Release {
    /// `$export`, as 1.0 to 3.0 describe it.
    #[default]
    #[serde(rename = "3")]
    Three,
    /// `$export-v4`, as the ballot of 4.0 does.
    #[serde(rename = "4")]
    Four,
}

impl Release {
    /// The operation that is called.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Three => "$export",
            Self::Four => "$export-v4",
        }
    }
}

/// Where an answer to a status request says how the export stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StatusForm {
    /// In its own status.
    #[default]
    Plain,
    /// In `X-Export-Status`, and its own status is that of the request alone (`separate-export-status`).
    Separate,
}

impl StatusForm {
    /// What a kick-off's answer says was done as preferred. Nothing where it is what all clients get: those of earlier guides
    /// see no difference.
    pub(crate) fn preference_applied(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Separate => Some("respond-async, separate-export-status"),
        }
    }
}
