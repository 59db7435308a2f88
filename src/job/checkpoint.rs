//! What is committed: the files of a job and the slices that each of them holds. What no complete file holds
//! is left to do; that is the whole of resuming.

use serde::{Deserialize, Serialize};

use super::Epoch;
use crate::bulk::manifest::Method;
use crate::fhir::resource_type::ResourceType;
use crate::plan::slice::Slice;

/// The number of a file within its job; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FileNo(pub(crate) u32);

/// One file of a job: recorded as open before its first byte, as complete after its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) no: FileNo,
    pub(crate) content: FileContent,
    pub(crate) state: FileState,
}

/// What the lines of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileContent {
    Resources(ResourceType),
    Deletions,
    Outcomes,
    /// What the client holds after this export, for the next one to find out what was deleted: `Type/id` on each line. It is
    /// ours alone.
    Held,
}

impl FileContent {
    /// Whether clients may fetch it.
    pub(crate) fn is_for_clients(self) -> bool {
        match self {
            Self::Resources(_) | Self::Deletions | Self::Outcomes => true,
            Self::Held => false,
        }
    }
}

/// How far a file has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileState {
    /// Its object may exist in part; nobody may list it.
    Open { key: String, epoch: Epoch },
    /// Its object is durable and never changes; its slices are read.
    Complete(CompleteFile),
}

/// What a complete file holds. One without an object holds slices that brought no new line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompleteFile {
    pub(crate) object: Option<StoredObject>,
    /// The key of the sidecar; there is none beside outcomes, nor where there is nothing to say.
    pub(crate) sidecar: Option<String>,
    pub(crate) slices: Vec<SliceRecord>,
    /// The number of the job's commit that completed it, counted from 1: its checkpoint object is called by it. Zero
    /// where there is no such object.
    #[serde(default)]
    pub(crate) commit: u32,
}

/// One object in the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredObject {
    pub(crate) key: String,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    /// SHA-256 of the object's bytes, in hexadecimal digits.
    pub(crate) sha256: String,
}

/// A slice that was accepted, and what it brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SliceRecord {
    pub(crate) slice: Slice,
    /// How many the upstream counted, or, where it does not count, how many two equal readings had.
    pub(crate) expected: u64,
    /// Distinct resources received, without those that had moved.
    pub(crate) received: u64,
    /// Lines written for it: resources that no file held before.
    pub(crate) written: u64,
    /// Resources that a file held already.
    pub(crate) repeated: u64,
    /// Resources that the grant did not admit.
    pub(crate) withheld: u64,
    /// How often it was read again before it was accepted.
    pub(crate) reread: u32,
    /// Resources that the upstream counts and did not give.
    pub(crate) short: u64,
    /// Resources that the upstream counts and fails to give.
    pub(crate) unreadable: u64,
    /// The upstream refuses it, as some do for some patients: nothing of it is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) refused: bool,
    pub(crate) method: Method,
}

impl FileRecord {
    /// The object of a complete file.
    pub(crate) fn object(&self) -> Option<&StoredObject> {
        match &self.state {
            FileState::Complete(file) => file.object.as_ref(),
            FileState::Open { .. } => None,
        }
    }

    /// The sidecar of a complete file.
    pub(crate) fn sidecar(&self) -> Option<&str> {
        match &self.state {
            FileState::Complete(file) => file.sidecar.as_deref(),
            FileState::Open { .. } => None,
        }
    }

    /// The number of the commit that completed it; zero as long as it is open.
    pub(crate) fn commit(&self) -> u32 {
        match &self.state {
            FileState::Complete(file) => file.commit,
            FileState::Open { .. } => 0,
        }
    }

    /// The slices that a complete file holds; an open one holds none yet.
    pub(crate) fn slices(&self) -> &[SliceRecord] {
        match &self.state {
            FileState::Complete(file) => &file.slices,
            FileState::Open { .. } => &[],
        }
    }
}
