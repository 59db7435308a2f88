//! What an export can show of its completeness, type by type.

use serde::{Deserialize, Serialize};

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

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Reread => "reread",
            Self::Unproven => "unproven",
        }
    }
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
