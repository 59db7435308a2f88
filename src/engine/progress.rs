//! How far a job has come, for the status answer; nothing of it is stored.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::plan::slice::Phase;

/// Counters of one running job.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    activity: AtomicU8,
    slices: AtomicU64,
    received: AtomicU64,
    /// What the upstream counted when the plan was made; zero if it does not count.
    expected: AtomicU64,
}

const PLANNING: u8 = 0;
const READING: u8 = 1;
const SWEEPING: u8 = 2;
const REFERENCES: u8 = 3;
const COUNTING: u8 = 4;
const FINISHING: u8 = 5;

impl Progress {
    pub(super) fn plan(&self, expected: u64, received: u64) {
        self.expected.store(expected, Ordering::Relaxed);
        self.received.store(received, Ordering::Relaxed);
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.activity.store(
            match phase {
                Phase::Old | Phase::Young | Phase::Gap => READING,
                Phase::Sweep(_) => SWEEPING,
                Phase::References => REFERENCES,
            },
            Ordering::Relaxed,
        );
    }

    pub(super) fn count(&self) {
        self.activity.store(COUNTING, Ordering::Relaxed);
    }

    pub(super) fn finish(&self) {
        self.activity.store(FINISHING, Ordering::Relaxed);
    }

    /// The number of the slice that begins.
    pub(super) fn begin_slice(&self) -> u64 {
        self.slices.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn received(&self, resources: usize) {
        self.received.fetch_add(resources as u64, Ordering::Relaxed);
    }

    /// BD-058: a text below 100 characters. It names no parameter's value.
    pub(crate) fn text(&self) -> String {
        let received = self.received.load(Ordering::Relaxed);
        let expected = self.expected.load(Ordering::Relaxed);
        let activity = match self.activity.load(Ordering::Relaxed) {
            PLANNING => return "planning".to_owned(),
            SWEEPING => "looking for changes",
            REFERENCES => "fetching references",
            COUNTING => "counting",
            FINISHING => "finishing",
            _ => "reading",
        };
        match (received.min(expected) * 100).checked_div(expected) {
            Some(percent) => format!("{activity}, {percent} % ({received} of about {expected} resources)"),
            None => format!("{activity}, {received} resources"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BD-058
    #[test]
    fn the_text_stays_below_a_hundred_characters() {
        let progress = Progress::default();
        assert_eq!(progress.text(), "planning");
        progress.plan(u64::MAX / 100, u64::MAX / 100);
        for phase in [Phase::Old, Phase::Sweep(1), Phase::References] {
            progress.enter(phase);
            assert!(progress.text().len() < 100, "{}", progress.text());
        }
    }
}
