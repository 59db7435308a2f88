//! How far a job has come, for the status answer; nothing of it is stored.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::plan::slice::Phase;
use crate::upstream::limit::Reason;

/// Counters of one running job.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    activity: AtomicU8,
    /// Why nothing is read, if something stands in the way.
    paused: AtomicU8,
    slices: AtomicU64,
    received: AtomicU64,
    /// What the upstream counted when the plan was made; zero if it does not count.
    expected: AtomicU64,
    /// Numbers would tell how much is kept back (SEC-26).
    tells_no_numbers: AtomicBool,
}

/// What stands in the way of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Pause {
    /// Files or records have no room.
    Storage = 1,
    /// The upstream does not accept what our searches show.
    Credentials = 2,
}

impl Pause {
    fn of(paused: u8) -> Option<Self> {
        [Self::Storage, Self::Credentials].into_iter().find(|pause| *pause as u8 == paused)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage-full",
            Self::Credentials => "upstream refuses our credentials",
        }
    }
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

    /// From now on only parts of a hundred are told.
    pub(super) fn tell_no_numbers(&self) {
        self.tells_no_numbers.store(true, Ordering::Relaxed);
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.activity.store(
            match phase {
                Phase::Old | Phase::Young | Phase::Gap => READING,
                Phase::Sweep(_) => SWEEPING,
                Phase::References | Phase::Associated => REFERENCES,
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

    /// No search is made until this is over. Whether that was so already.
    pub(super) fn pause(&self, pause: Pause) -> bool {
        self.paused.swap(pause as u8, Ordering::Relaxed) == pause as u8
    }

    /// What stands in its way.
    pub(super) fn paused(&self) -> Option<Pause> {
        Pause::of(self.paused.load(Ordering::Relaxed))
    }

    pub(super) fn go_on(&self) {
        self.paused.store(0, Ordering::Relaxed);
    }

    /// The number of the slice that begins.
    pub(super) fn begin_slice(&self) -> u64 {
        self.slices.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many slices have begun.
    pub(super) fn slices(&self) -> u64 {
        self.slices.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self, resources: usize) {
        self.received.fetch_add(resources as u64, Ordering::Relaxed);
    }

    /// BD-058: the same while searches wait for something that may last.
    pub(crate) fn text_while(&self, waiting: Option<Reason>) -> String {
        let so_far = || {
            if self.tells_no_numbers.load(Ordering::Relaxed) {
                String::new()
            } else {
                format!("; so far {} resources", self.received.load(Ordering::Relaxed))
            }
        };
        if let Some(pause) = self.paused() {
            return format!("paused: {}{}", pause.as_str(), so_far());
        }
        let reason = match waiting {
            None | Some(Reason::Busy | Reason::Rate) => return self.text(),
            Some(Reason::LiveTraffic) => "other requests go first".to_owned(),
            Some(Reason::QuietHours { until }) => format!("quiet hours until {:02}:{:02}", until / 60, until % 60),
            Some(Reason::Away) => "the server does not answer".to_owned(),
            Some(Reason::Asked) => "the server has asked for a pause".to_owned(),
        };
        format!("waiting: {reason}{}", so_far())
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
        let percent = (received.min(expected) * 100).checked_div(expected);
        match percent {
            Some(percent) if self.tells_no_numbers.load(Ordering::Relaxed) => format!("{activity}, {percent} %"),
            None if self.tells_no_numbers.load(Ordering::Relaxed) => activity.to_owned(),
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
        for reason in [Reason::LiveTraffic, Reason::QuietHours { until: 1_440 }, Reason::Away, Reason::Asked] {
            let text = progress.text_while(Some(reason));
            assert!(text.starts_with("waiting: ") && text.len() < 100, "{text}");
        }
        assert_eq!(progress.text_while(Some(Reason::Busy)), progress.text());
        assert!(!progress.pause(Pause::Credentials));
        assert_eq!(progress.paused(), Some(Pause::Credentials));
        let text = progress.text_while(None);
        assert!(text.starts_with("paused: upstream refuses our credentials; ") && text.len() < 100, "{text}");
        assert!(!progress.pause(Pause::Storage) && progress.pause(Pause::Storage));
        let text = progress.text_while(Some(Reason::Away));
        assert!(text.starts_with("paused: storage-full; ") && text.len() < 100, "{text}");
        progress.go_on();
        assert_eq!(progress.text_while(None), progress.text());
    }

    /// SEC-26
    #[test]
    fn where_resources_are_kept_back_no_number_is_told() {
        let progress = Progress::default();
        progress.tell_no_numbers();
        progress.enter(Phase::Old);
        assert_eq!(progress.text(), "reading");
        progress.plan(1_000, 420);
        assert_eq!(progress.text(), "reading, 42 %");
        assert_eq!(progress.text_while(Some(Reason::Away)), "waiting: the server does not answer");
        progress.pause(Pause::Storage);
        assert_eq!(progress.text_while(None), "paused: storage-full");
    }
}
