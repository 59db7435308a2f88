//! One job's records from its checkpoint objects: the latest state that they connect to. Pure, and nothing is removed: what
//! no commit names becomes an open file, which the next worker of the job clears away as it does after a crash.

use std::collections::{BTreeMap, BTreeSet};

use super::{Commit, JobSheet, Refused};
use crate::fhir::datatypes::Millis;
use crate::fhir::outcome::IssueType;
use crate::job::checkpoint::{FileContent, FileNo, FileRecord, FileState};
use crate::job::store::Restored;
use crate::job::{Epoch, Failed, JobState};
use crate::output::layout::{self, ObjectName};

/// How far the epoch goes on: past those of lives that left nothing behind, and of one that may still be writing
/// somewhere.
const EPOCHS: u32 = 1_000;
/// How long after its kick-off an export that was given up can be asked about, in milliseconds.
const TOLD_MILLIS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// What lies in a job's folder: names, and sizes in bytes. Of an unfinished upload the name that it would have had.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    pub(crate) objects: BTreeMap<String, u64>,
    pub(crate) unfinished: BTreeSet<String>,
}

/// A job as far as it could be rebuilt.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) restored: Restored,
    /// Commits that are not used.
    pub(crate) refused: BTreeMap<u32, Refused>,
    /// Names of objects that are not ours: they stay where they are.
    pub(crate) foreign: Vec<String>,
}

/// Rebuilds the job of `sheet` in `folder` from those of its commits that could be opened.
///
/// # Errors
/// [`Refused::Content`] if the sheet says of a job that is under way that it has no plan.
pub(crate) fn rebuild(
    folder: &str,
    found: &Folder,
    sheet: JobSheet,
    commits: BTreeMap<u32, Commit>,
) -> Result<Rebuilt, Refused> {
    let JobSheet { epoch: mut last, mut job, mut plan } = sheet;
    let mut files: Vec<FileRecord> = Vec::new();
    let mut refused = BTreeMap::new();
    let epochs = commits.values().map(|commit| commit.epoch).chain([last]);
    let epoch = Epoch(epochs.max().unwrap_or(last).0.saturating_add(EPOCHS));
    if job.state.is_active() {
        if plan.is_none() {
            return Err(Refused::Content);
        }
        let mut next = 1;
        let mut given_up = None;
        for (number, commit) in commits {
            // Until when it is told that it was given up, if a client may have read what cannot be had again.
            let until = match &commit.state {
                JobState::Complete(complete) => Some(complete.expires),
                JobState::Running(running) if running.pages.iter().any(|end| *end >= next) => {
                    Some(Millis(job.created.0.saturating_add(TOLD_MILLIS)))
                }
                JobState::Accepted | JobState::Running(_) | JobState::Failed(_) | JobState::Deleted => None,
            };
            let verdict = if !is_there(&commit, folder, found) {
                Err(Refused::Missing)
            } else if commit.epoch < last {
                Err(Refused::Stale)
            } else if number != next || job.state.expires().is_some() {
                Err(Refused::Unconnected)
            } else {
                Ok(())
            };
            match verdict {
                Ok(()) => {
                    (last, next, job.state) = (commit.epoch, number + 1, commit.state);
                    files.extend(commit.files);
                }
                Err(reason) => {
                    // The last one may have been written and not recorded: nobody has read of it.
                    given_up = until.filter(|_| reason == Refused::Unconnected).or(given_up);
                    refused.insert(number, reason);
                }
            }
        }
        // What was listed stays as it was, or is given up: a client may have fetched a part of it.
        if let Some(expires) = given_up.filter(|_| job.state.is_active()) {
            job.state = JobState::Failed(lost(expires));
            files.clear();
        }
    }
    if !job.state.is_active() && !matches!(job.state, JobState::Complete(_)) {
        plan = None;
    }
    let used = files.iter().map(FileRecord::commit).max().unwrap_or(0);
    let kept: BTreeSet<String> = files.iter().flat_map(FileRecord::keys).collect();
    let mut foreign = Vec::new();
    let mut left = BTreeMap::new();
    for name in found.objects.keys().chain(&found.unfinished) {
        let key = format!("{folder}/{name}");
        let is_unfinished = !found.objects.contains_key(name);
        match ObjectName::parse(name) {
            Some(ObjectName::JobCheckpoint) => {}
            Some(ObjectName::CommitCheckpoint(number)) if number <= used && !is_unfinished => {}
            Some(ObjectName::CommitCheckpoint(_)) => drop(left.insert(key, FileContent::Outcomes)),
            Some(ObjectName::Data { content, stem } | ObjectName::Sidecar { content, stem }) => {
                let data = format!("{folder}/{stem}.ndjson");
                if kept.contains(&key) {
                    continue;
                }
                // Object and sidecar of one open file go together: none may take one along that is listed.
                if kept.contains(&data) || kept.contains(&layout::sidecar(&data)) {
                    foreign.push(name.clone());
                } else {
                    left.insert(data, content);
                }
            }
            None => foreign.push(name.clone()),
        }
    }
    let first = files.iter().map(|file| file.no.0.saturating_add(1)).max().unwrap_or(0);
    let open = (first..).zip(left).map(|(no, (key, content))| {
        let state = FileState::Open { key, epoch: last, upload: None };
        FileRecord { no: FileNo(no), content, state }
    });
    files.extend(open);
    Ok(Rebuilt { restored: Restored { job, epoch, plan, files }, refused, foreign })
}

/// Whether every object that a commit names is there with its size.
fn is_there(commit: &Commit, folder: &str, found: &Folder) -> bool {
    let size = |key: &str| {
        let name = key.strip_prefix(folder)?.strip_prefix('/')?;
        found.objects.get(name).copied()
    };
    commit.files.iter().all(|file| {
        file.object().is_none_or(|object| size(&object.key) == Some(object.bytes))
            && file.sidecar().is_none_or(|key| size(key).is_some())
    })
}

fn lost(expires: Millis) -> Failed {
    let text = "the export's records were lost and could not all be rebuilt; start a new export".to_owned();
    Failed { code: IssueType::Processing, text, expires }
}

#[cfg(test)]
mod tests;
