//! The section of its name; each option says what it does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Problems, Section, Size, seconds};

/// Where the files go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// `file://` and an absolute path. The folder is made if it is not there, and refused if others may read it.
    pub location: String,
    /// A file is closed once it has this size; one line is never split.
    #[serde(rename = "file_max_bytes")]
    pub file_max: Size,
    /// A file is closed once it has this many resources.
    pub file_max_resources: u64,
    /// A file is closed once it has been open for so long: what a crash costs on a slow server.
    #[serde(rename = "file_max_age_seconds", with = "seconds")]
    pub file_max_age: Duration,
    /// How long a link is good; every read of the manifest gives new ones.
    #[serde(rename = "link_ttl_seconds", with = "seconds")]
    pub link_ttl: Duration,
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self {
            location: "file:///var/lib/offtake/output".to_owned(),
            file_max: Size::mebibytes(64),
            file_max_resources: 200_000,
            file_max_age: Duration::from_mins(5),
            link_ttl: Duration::from_hours(1),
        }
    }
}

impl OutputConfig {
    /// The folder that `location` names.
    #[must_use]
    pub fn local_folder(&self) -> PathBuf {
        PathBuf::from(self.location.strip_prefix("file://").unwrap_or_default())
    }
}

impl Section for OutputConfig {
    fn check(&self, problems: &mut Problems) {
        if !self.location.starts_with("file://") || !Path::new(&self.local_folder()).is_absolute() {
            problems.add("location", "is not file:// and an absolute path");
        }
        if self.file_max.bytes() == 0 {
            problems.add("file_max_bytes", "is 0");
        }
        if self.file_max_resources == 0 || self.file_max_resources > 10_000_000 {
            problems.add("file_max_resources", "is not between 1 and 10000000");
        }
        if self.file_max_age.is_zero() {
            problems.add("file_max_age_seconds", "is 0, so every resource would get a file of its own");
        }
        if self.link_ttl.is_zero() || self.link_ttl > Duration::from_hours(24) {
            problems.add("link_ttl_seconds", "is not between 1 and 86400, a day");
        }
    }
}
