//! The section of its name; each option says what it does.

use serde::{Deserialize, Serialize};

use super::{Problems, Section};

/// Who may export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmartConfig {
    /// How clients are known.
    pub mode: SmartMode,
}

/// How clients are known. Others than `open` come later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmartMode {
    /// Everybody on this machine may export everything: for trials.
    #[default]
    Open,
}

impl Section for SmartConfig {
    fn check(&self, _: &mut Problems) {}
}
