//! How large pages are asked for: what those of a type have shown of its resources' sizes, and of what the server sends.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::upstream::client::Room;

/// Pages running that hold less than was asked for, until that is taken for the most that the server sends.
const SHORT_PAGES: usize = 4;

/// How large pages are asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct PageLimits {
    /// Searches of one export that can be under way at the same time.
    pub(in crate::engine) readers: usize,
    pub(in crate::engine) most_resources: u32,
    pub(in crate::engine) target_bytes: usize,
}

/// How large one page is asked for, and what it may take of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct PageSize {
    pub(in crate::engine) count: u32,
    pub(in crate::engine) room: Room,
}

/// What the pages of one type have shown of its resources' sizes.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) count: AtomicU32,
    /// What pages held, one after another, that had fewer resources than were asked for although there are more.
    pub(super) short: Mutex<Vec<u32>>,
    /// One resource alone is more than a reader's share of memory.
    pub(super) alone: AtomicBool,
    /// The server does not count by a patient alone.
    pub(super) uncounted: AtomicBool,
}

impl Pace {
    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn size(&self) -> PageSize {
        let room = if self.alone.load(Ordering::Relaxed) { Room::Alone } else { Room::Share };
        PageSize { count: self.count(), room }
    }

    /// Resources so large that a page thrown away costs more than a count.
    pub(super) fn counts_first(&self) -> bool {
        self.count() <= 4
    }

    /// The server sent no more than `entries` on a page although there are more. One page may be short by chance, as
    /// where a server filters after it has made the page: only several running show what it is willing to send.
    pub(super) fn cap(&self, asked: PageSize, entries: usize) {
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        let mut short = self.short.lock().unwrap_or_else(PoisonError::into_inner);
        if entries >= asked.count {
            short.clear();
            return;
        }
        short.push(entries);
        if short.len() >= SHORT_PAGES {
            let most = short.drain(..).max().unwrap_or(0);
            if most > 0 {
                self.count.fetch_min(most, Ordering::Relaxed);
            }
        }
    }

    /// After a page that was too large as `asked`: fewer resources, at last one with all memory to itself.
    pub(super) fn shrink(&self, asked: PageSize) -> bool {
        let smaller = (asked.count / 4).max(1);
        if self.count.fetch_min(smaller, Ordering::Relaxed) > 1 && asked.count > 1 {
            return true;
        }
        let was_alone = self.alone.swap(true, Ordering::Relaxed);
        !was_alone || asked.room == Room::Share
    }
}
