//! How all stands at one moment: what the page and the metrics say. Pure.

use crate::engine::progress::Pause;
use crate::expiry::Expiring;
use crate::fhir::datatypes::Millis;
use crate::upstream::limit::Reason;

/// What is known at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// When it was.
    pub(crate) now: Option<Millis>,
    /// Whether requests that are not ours go on to the server.
    pub(crate) passes_through: bool,
    /// Why bulk requests are refused; nothing if they are not.
    pub(crate) refused: Vec<&'static str>,
    /// The ledger could not be written when that was tried last: what has to be recorded is refused.
    pub(crate) ledger_fails: bool,
    /// What an operator has decided that is dangerous.
    pub(crate) warnings: Vec<&'static str>,
    /// Why the clock is not believed.
    pub(crate) clock: Option<&'static str>,
    /// What searches of exports wait for, if that may last.
    pub(crate) pause: Option<Reason>,
    /// What stands in the way of some of them.
    pub(crate) paused: Vec<Pause>,
    /// Unknown as long as the job store cannot be read.
    pub(crate) jobs: Option<Jobs>,
    /// Unknown as long as files cannot be read.
    pub(crate) expiries: Option<Vec<Expiring>>,
}

/// How many exports there are, by how they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Jobs {
    pub(crate) accepted: u64,
    pub(crate) running: u64,
    pub(crate) complete: u64,
    pub(crate) failed: u64,
    /// Whose files are about to go.
    pub(crate) deleted: u64,
}

impl Jobs {
    /// Each with its name.
    pub(super) fn by_state(self) -> [(&'static str, u64); 5] {
        let Self { accepted, running, complete, failed, deleted } = self;
        [("accepted", accepted), ("running", running), ("complete", complete), ("failed", failed), ("deleted", deleted)]
    }
}

impl Snapshot {
    /// Why bulk requests are refused, all in all.
    pub(super) fn reasons(&self) -> Vec<&'static str> {
        let ledger = self.ledger_fails.then_some("the ledger could not be written when that was tried last");
        self.refused.iter().copied().chain(ledger).collect()
    }

    /// Of [`PAUSES`], those that are now.
    pub(super) fn pauses(&self) -> Vec<usize> {
        let paused = self.paused.iter().map(|paused| match paused {
            Pause::Storage => STORAGE,
            Pause::Credentials => CREDENTIALS,
        });
        let mut pauses: Vec<_> = self.pause.and_then(pause).into_iter().chain(paused).collect();
        pauses.sort_unstable();
        pauses
    }

    pub(super) fn now(&self) -> Millis {
        self.now.unwrap_or(Millis(0))
    }
}

/// All that searches may wait for for long, and what it is.
pub(super) const PAUSES: [(&str, &str); 6] = [
    ("live_traffic", "exports wait for the requests that pass through"),
    ("quiet_hours", "exports wait for the end of upstream.quiet_hours"),
    ("away", "exports wait for the FHIR server, which does not answer"),
    ("asked", "exports wait as long as the FHIR server has asked for"),
    ("storage_full", "exports are paused: their files or records have no room"),
    ("credentials", "exports are paused: the FHIR server does not accept what searches show"),
];
/// Of these, those that an operator has to end.
const STORAGE: usize = 4;
const CREDENTIALS: usize = 5;
pub(super) const WRONG: [usize; 2] = [STORAGE, CREDENTIALS];

/// The one of those that a reason is.
fn pause(reason: Reason) -> Option<usize> {
    match reason {
        Reason::Busy | Reason::Rate => None,
        Reason::LiveTraffic => Some(0),
        Reason::QuietHours { .. } => Some(1),
        Reason::Away => Some(2),
        Reason::Asked => Some(3),
    }
}
