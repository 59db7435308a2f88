//! When a page of the manifest ends, where the client wants to read it while the export runs.
//!
//! A complete file never changes and never leaves the export, whatever comes after it: recounts, the sweep and references only
//! add files, what moved is dropped where a file holds it already, `as_of` decides before a line is written, and a deletion is
//! told only of what no file holds. So every complete file can be listed at once. A page ends with the commit that ends a part
//! of the work (all open files are completed then), and otherwise after a while; with that commit it is recorded.

use std::time::Duration;

use super::Files;
use crate::job::Running;
use crate::job::checkpoint::FileRecord;

/// How long a page is open at most if files are completed meanwhile.
const OPEN_FOR: Duration = Duration::from_secs(30);

/// The page that is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// Since when, in milliseconds.
    since: i64,
    /// It ends with the next commit that completes something for it.
    is_due: bool,
}

impl Turn {
    pub(super) fn from(since: i64) -> Self {
        Self { since, is_due: false }
    }

    pub(super) fn at_next_commit(&mut self) {
        self.is_due = true;
    }

    fn is_due(self, now: i64) -> bool {
        self.is_due || now.saturating_sub(self.since) >= i64::try_from(OPEN_FOR.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Files {
    /// The pages that are whole, by the commits that they end with.
    pub(in crate::engine) fn pages(&self) -> &[u32] {
        &self.running.pages
    }

    /// The job's state if a page ends with commit `number`, which completes `files`.
    pub(super) fn turned(&self, number: u32, files: &[FileRecord]) -> Option<Running> {
        if !self.export.job.kickoff.shape.allows_partial || !self.turn.is_due(self.services.clock.unix_millis()) {
            return None;
        }
        let last = self.running.pages.last().copied().unwrap_or(0);
        let since = self.complete.iter().filter(|file| file.commit() > last).chain(files);
        let is_empty = !since.into_iter().any(|file| file.content.is_for_clients() && file.object().is_some());
        let mut running = self.running.clone();
        running.pages.push(number);
        (!is_empty).then_some(running)
    }
}
