//! The section of its name; each option says what it does.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Problems, Section};

/// Where jobs are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// A folder of this process alone, for jobs and keys. It is made if it is not there, and refused if others may
    /// read it.
    pub path: PathBuf,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("/var/lib/offtake/state") }
    }
}

impl Section for StoreConfig {
    fn check(&self, problems: &mut Problems) {
        if !self.path.is_absolute() {
            problems.add("path", "is not an absolute path");
        }
    }
}
