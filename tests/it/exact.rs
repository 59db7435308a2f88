//! Is an export exact although the server changed under it?
//!
//! Every version that the server ever showed is known, and how many of them there were before the kick-off. So for each
//! resource it can be said which versions an export may hold, and whether it has to hold one: left alone, exactly once and
//! byte for byte; changed, exactly once in a version that was current at kick-off or later; created since, at most
//! once; deleted before, not at all. What an export lacks of the last state must be newer than its transaction time:
//! then the next one brings it. Of a server that hides what is of deleted patients, as HAPI does (`tests/real`), nobody is owed that.

mod files;
mod judge;
mod listed;
mod tests;

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use sample_upstream::SampleUpstream;
use serde_json::Value;

pub(crate) use self::files::{check_folder, checkpoint, files_below, is_of_the_instance, paths_below};
pub(crate) use self::judge::{Applied, Exported, Moment};

impl Moment {
    pub(crate) fn of(upstream: &SampleUpstream) -> Self {
        Self(upstream.versions().len())
    }
}

impl Exported {
    /// Each issue of the file of errors without its numbers and without the method of a proof, which depends on what
    /// the server could be seen to do: what an undisturbed export says as well.
    pub(crate) fn kinds_of_errors(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut kinds = BTreeSet::new();
        for line in &self.errors {
            let outcome: Value = serde_json::from_str(line).context("an error is not JSON")?;
            ensure!(outcome["resourceType"] == "OperationOutcome", "an error is no OperationOutcome");
            for issue in outcome["issue"].as_array().context("an error without an issue")? {
                let text = issue["diagnostics"].as_str().unwrap_or_default();
                let text: String = text.chars().filter(|character| !character.is_ascii_digit()).collect();
                let text = text.replace(": reread,", ": counted,");
                kinds.insert(format!("{} {} {} {text}", issue["severity"], issue["code"], issue["details"]));
            }
        }
        Ok(kinds)
    }
}
