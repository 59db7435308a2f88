//! How all stands at one moment: what the page and the metrics say. Pure.

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
    /// What an operator has decided that is dangerous.
    pub(crate) warnings: Vec<&'static str>,
    /// Why the clock is not believed.
    pub(crate) clock: Option<&'static str>,
    /// What searches of exports wait for, if that may last.
    pub(crate) pause: Option<Reason>,
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
    pub(super) fn now(&self) -> Millis {
        self.now.unwrap_or(Millis(0))
    }
}

/// All that searches may wait for for long, and what it is.
pub(super) const PAUSES: [(&str, &str); 4] = [
    ("live_traffic", "exports wait for the requests that pass through"),
    ("quiet_hours", "exports wait for the end of upstream.quiet_hours"),
    ("away", "exports wait for the FHIR server, which does not answer"),
    ("asked", "exports wait as long as the FHIR server has asked for"),
];

/// The one of those that a reason is.
pub(super) fn pause(reason: Reason) -> Option<usize> {
    match reason {
        Reason::Busy | Reason::Rate => None,
        Reason::LiveTraffic => Some(0),
        Reason::QuietHours { .. } => Some(1),
        Reason::Away => Some(2),
        Reason::Asked => Some(3),
    }
}
