//! How large pages are asked for: what those of a type have shown of its resources' sizes, and of what the server sends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fhir::resource_type::ResourceType;
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
    /// What one reader may hold beside the others.
    pub(in crate::engine) share_bytes: usize,
}

impl PageLimits {
    /// What a slice of several pages may take of memory: some of its reader's share is left for others' second pages.
    pub(super) fn slice_bytes(self) -> usize {
        self.target_bytes.saturating_mul(2).max(self.share_bytes / 4 * 3)
    }
}

/// How large one page is asked for, and what it may take of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct PageSize {
    pub(in crate::engine) count: u32,
    pub(in crate::engine) room: Room,
    /// Bytes after which the rest is not read.
    pub(in crate::engine) most: usize,
}

/// How many resources of each type filled a page at last, in whatever export of this process: the next one begins with as many, and
/// throws no pages away to find that out. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct KnownSizes(Arc<Mutex<HashMap<ResourceType, u32>>>);

impl KnownSizes {
    fn of(&self, resource_type: ResourceType) -> Option<u32> {
        self.lock().get(&resource_type).copied()
    }

    fn note(&self, resource_type: ResourceType, count: u32) {
        self.lock().insert(resource_type, count);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ResourceType, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resources on the first pages of a type, before any has shown how large they are.
const FIRST: u32 = 500;
/// The same of types that hold documents, of which a few make a page.
const FIRST_OF_DOCUMENTS: u32 = 50;
const OF_DOCUMENTS: [&str; 4] = ["Binary", "Bundle", "DocumentReference", "Media"];
/// Bytes of a first page, or twice what pages are aimed at: as many readers as there are ask for one at the same time, and what is
/// too large is thrown away.
const FIRST_MOST: usize = 4 * 1024 * 1024;
/// What a count costs the server, in bytes of a page: about what it takes to write so many.
const COUNT: u32 = 100 * 1024;
/// What a page is taken to waste where none was guessed before: a little more than a count costs, so that the first guess of
/// a type is counted.
const FIRST_WASTED: f64 = 110.0 * 1024.0;
/// Bytes of a page before any was seen.
const FIRST_BYTES: u32 = 1024 * 1024;
/// Pages with fewer resources say nothing of the others.
const TELLING: usize = 8;

/// What the pages of one type have shown of its resources' sizes.
#[derive(Debug)]
pub(super) struct Pace {
    resource_type: ResourceType,
    /// Where the exports that follow look what its pages were like.
    known: KnownSizes,
    /// Resources on the next page.
    count: AtomicU32,
    /// And on any page: more the server does not send, or no memory holds.
    most: AtomicU32,
    /// A page has shown how large they are, if only by being too large.
    is_measured: AtomicBool,
    /// A page was read that shows it.
    is_seen: AtomicBool,
    /// Bytes that are read of a page until then.
    first_most: usize,
    /// Bytes of the last page that told of it.
    bytes: AtomicU32,
    /// Bytes of a page that are thrown away, on the average of the last ones.
    wasted: Mutex<f64>,
    /// What pages held, one after another, that had fewer resources than were asked for although there are more.
    short: Mutex<Vec<u32>>,
    /// One resource alone is more than a reader's share of memory.
    alone: AtomicBool,
    /// The server does not count by a patient alone.
    pub(super) uncounted: AtomicBool,
    /// It fails to count windows.
    guesses_uncounted: AtomicBool,
    /// It does not show stamps alone.
    is_blind: AtomicBool,
}

impl Pace {
    pub(super) fn of(resource_type: ResourceType, most: u32, target_bytes: usize, known: &KnownSizes) -> Self {
        let holds_documents = OF_DOCUMENTS.contains(&resource_type.as_str());
        let guess = if holds_documents { FIRST_OF_DOCUMENTS } else { FIRST };
        // What others have seen is a guess, too: resources may have become larger since.
        let first = known.of(resource_type).unwrap_or(guess);
        let first_most = FIRST_MOST.max(target_bytes.saturating_mul(2));
        Self { resource_type, known: known.clone(), first_most, ..Self::new(most, first) }
    }

    fn new(most: u32, first: u32) -> Self {
        let most = most.max(1);
        Self {
            resource_type: ResourceType::PATIENT,
            known: KnownSizes::default(),
            count: AtomicU32::new(most.min(first)),
            most: AtomicU32::new(most),
            is_measured: AtomicBool::default(),
            is_seen: AtomicBool::default(),
            first_most: FIRST_MOST,
            bytes: AtomicU32::new(FIRST_BYTES),
            wasted: Mutex::new(FIRST_WASTED),
            short: Mutex::default(),
            alone: AtomicBool::default(),
            uncounted: AtomicBool::default(),
            guesses_uncounted: AtomicBool::default(),
            is_blind: AtomicBool::default(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed).min(self.most.load(Ordering::Relaxed))
    }

    fn room(&self) -> Room {
        if self.alone.load(Ordering::Relaxed) { Room::Alone } else { Room::Share }
    }

    pub(super) fn size(&self) -> PageSize {
        let count = self.count();
        // A few may be as large as they are.
        let is_known = self.is_seen.load(Ordering::Relaxed) || count as usize <= TELLING;
        PageSize { count, room: self.room(), most: if is_known { usize::MAX } else { self.first_most } }
    }

    /// For a window that was cut when a page held so many: it is thrown away if it is asked for fewer. What has come since may be larger
    /// by chance; what is half as large again is not.
    pub(super) fn size_of(&self, cut_for: u32) -> PageSize {
        let size = self.size();
        let most = size.count.saturating_add(size.count / 2).min(self.most.load(Ordering::Relaxed));
        PageSize { count: size.count.max(cut_for.min(most)), ..size }
    }

    /// For what cannot be cut: as much as fits half of a reader's share, or a page if that is larger, so that it needs no second page.
    pub(super) fn whole(&self, limits: PageLimits) -> PageSize {
        let times = u32::try_from(limits.share_bytes / 2 / limits.target_bytes.max(1)).unwrap_or(u32::MAX).max(1);
        let most = self.most.load(Ordering::Relaxed);
        PageSize { count: self.count().saturating_mul(times).min(most), room: self.room(), most: usize::MAX }
    }

    /// Resources so large that a page thrown away costs more than a count.
    pub(super) fn counts_first(&self) -> bool {
        self.count() <= 4
    }

    /// Pages that were taken to hold all of a window are thrown away so often that it is cheaper to count first.
    pub(super) fn counts_guesses(&self) -> bool {
        let can_be = !self.guesses_uncounted.load(Ordering::Relaxed);
        can_be && *self.wasted.lock().unwrap_or_else(PoisonError::into_inner) > f64::from(COUNT)
    }

    /// A count that would have spared a page failed.
    pub(super) fn count_no_guesses(&self) {
        self.guesses_uncounted.store(true, Ordering::Relaxed);
    }

    pub(super) fn looks(&self) -> bool {
        !self.is_blind.load(Ordering::Relaxed)
    }

    /// Stamps alone were asked for in vain.
    pub(super) fn look_no_more(&self) {
        self.is_blind.store(true, Ordering::Relaxed);
    }

    /// After a guess that fitted a page, or after one that did not and would have been thrown away, or was.
    pub(super) fn guessed(&self, is_thrown_away: bool) {
        let mut wasted = self.wasted.lock().unwrap_or_else(PoisonError::into_inner);
        let this = if is_thrown_away { f64::from(self.bytes.load(Ordering::Relaxed)) } else { 0.0 };
        *wasted += (this - *wasted) / 8.0;
    }

    /// After a page of so many resources in so many bytes: the next one is aimed at `target_bytes`. It becomes smaller at once,
    /// but not by a few large resources that came by chance, and larger by and by.
    pub(super) fn learn(&self, resources: usize, bytes: usize, target_bytes: usize) {
        let old = self.count();
        // Windows are cut for less than a page.
        if resources == 0 || resources < TELLING.min(old as usize / 2) {
            return;
        }
        let fit = target_bytes / (bytes / resources).max(1);
        let fit = u32::try_from(fit).unwrap_or(u32::MAX).clamp(1, self.most.load(Ordering::Relaxed));
        let count = if fit < old {
            fit.max(old / 4)
        } else if self.is_measured.load(Ordering::Relaxed) {
            old + (fit - old).div_ceil(4).min(old)
        } else {
            fit
        };
        self.is_measured.store(true, Ordering::Relaxed);
        self.is_seen.store(true, Ordering::Relaxed);
        self.bytes.store(u32::try_from(bytes).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.count.store(count, Ordering::Relaxed);
        self.known.note(self.resource_type, count);
    }

    /// No page holds more than so many from now on.
    pub(super) fn hold_to(&self, most: u32) {
        let most = most.max(1);
        self.most.fetch_min(most, Ordering::Relaxed);
        self.count.fetch_min(most, Ordering::Relaxed);
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
                self.hold_to(most);
            }
        }
    }

    /// After a page that was too large as `asked`: fewer resources, at last one with all memory to itself.
    pub(super) fn shrink(&self, asked: PageSize) -> bool {
        self.is_measured.store(true, Ordering::Relaxed);
        if asked.most != usize::MAX {
            // A first guess was too large, which memory need not be. Who has read a page since knows better.
            if !self.is_seen.load(Ordering::Relaxed) {
                self.count.fetch_min((asked.count / 4).max(1), Ordering::Relaxed);
            }
            return true;
        }
        // What cannot be cut is asked for in pages of twice as many and more, and has only so many attempts.
        let most = if asked.count / 2 >= self.count() { asked.count / 4 } else { asked.count / 2 };
        self.most.fetch_min(most.max(1), Ordering::Relaxed);
        self.count.fetch_min((asked.count / 4).max(1), Ordering::Relaxed);
        if asked.count > 1 {
            return true;
        }
        let was_alone = self.alone.swap(true, Ordering::Relaxed);
        !was_alone || asked.room == Room::Share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: usize = 2 << 20;

    #[test]
    fn pages_follow_the_size_of_resources_both_ways() {
        let pace = Pace::new(1_000, FIRST);
        assert_eq!(pace.count(), FIRST, "nobody knows how large they are");
        pace.learn(500, 500 * 1_000, TARGET);
        assert_eq!(pace.count(), 1_000, "the first page tells");
        // One heavy patient makes pages small, and light ones make them large again.
        pace.learn(1_000, 1_000 * 20_000, TARGET);
        assert_eq!(pace.count(), 250, "no more than four times smaller at once");
        pace.learn(250, 250 * 20_000, TARGET);
        assert_eq!(pace.count(), 104);
        for _ in 0..16 {
            pace.learn(104, 104 * 1_000, TARGET);
        }
        assert!(pace.count() > 980, "{}", pace.count());
        pace.learn(TELLING - 1, 10_000_000, TARGET);
        pace.learn(0, 0, TARGET);
        assert!(pace.count() > 980, "a few by chance");
    }

    /// An export each night: only the first one after a start finds out what is known.
    #[test]
    fn the_next_export_begins_with_pages_as_the_last_one_has_left_them() {
        let (known, of) = (KnownSizes::default(), |name| ResourceType::parse(name).expect("a type"));
        let first = Pace::of(of("Observation"), 1_000, TARGET, &known);
        assert!(first.shrink(first.size()));
        first.learn(100, 100 * 64 * 1024, TARGET);
        let next = Pace::of(of("Observation"), 1_000, TARGET, &known);
        assert_eq!((next.size().count, next.size().most), (32, FIRST_MOST), "what they are like may have changed");
        assert_eq!(Pace::of(of("Patient"), 1_000, TARGET, &known).count(), FIRST, "of others nothing is known");
        assert_eq!(Pace::of(of("Observation"), 20, TARGET, &known).count(), 20, "and no more than may be asked for");
        // What was seen last counts, not what was seen first.
        for _ in 0..30 {
            next.learn(next.count() as usize, next.count() as usize * 1_000, TARGET);
        }
        assert!(Pace::of(of("Observation"), 1_000, TARGET, &known).count() > 900);
    }

    /// Pages of one type differ by chance, and what was cut before the last one came would be thrown away again and again.
    #[test]
    fn a_window_is_asked_for_as_it_was_cut_unless_pages_have_become_much_smaller() {
        let pace = Pace::new(1_000, FIRST);
        pace.learn(500, TARGET, TARGET);
        assert_eq!(pace.size_of(0).count, 500);
        pace.learn(500, TARGET / 10 * 12, TARGET);
        let now = pace.count();
        assert!((400..430).contains(&now), "{now}");
        assert_eq!((pace.size_of(500).count, pace.size_of(300).count), (500, now));
        pace.learn(now as usize, 2 * TARGET, TARGET);
        let now = pace.count();
        assert_eq!(pace.size_of(500).count, now + now / 2, "no larger than memory may be");
        let size = pace.size_of(500);
        assert!(pace.shrink(size) && pace.most.load(Ordering::Relaxed) == size.count / 2, "as any page");
        pace.hold_to(100);
        assert_eq!(pace.size_of(500).count, 100, "the server sends no more");
    }

    /// What was guessed too large says nothing of what memory holds, and nothing to who has read a page since.
    #[test]
    fn a_first_page_that_is_too_large_makes_no_page_small_for_good() {
        let of = |name| ResourceType::parse(name).expect("a type");
        let pace = Pace::of(of("Observation"), 1_000, TARGET, &KnownSizes::default());
        let first = pace.size();
        assert_eq!((first.count, first.most), (FIRST, FIRST_MOST));
        assert!(pace.shrink(first));
        let second = pace.size();
        assert_eq!((second.count, second.most), (FIRST / 4, FIRST_MOST), "still a guess");
        pace.learn(60, 60 * 12_000, TARGET);
        assert_eq!(pace.size().most, usize::MAX, "how large they are is known");
        let known = pace.count();
        assert!(pace.shrink(first) && pace.count() == known, "who had asked before");
        for _ in 0..30 {
            pace.learn(pace.count() as usize, pace.count() as usize * 1_000, TARGET);
        }
        assert!(pace.count() > 900, "{}", pace.count());
        let documents = Pace::of(of("DocumentReference"), 1_000, 8 * TARGET, &KnownSizes::default());
        assert_eq!((documents.count(), documents.size().most), (FIRST_OF_DOCUMENTS, 16 * TARGET));
        assert!(documents.shrink(documents.size()));
        documents.learn(6, 6 * 100_000, TARGET);
        assert_eq!(documents.size().most, usize::MAX, "half of a page tells");
    }

    /// Pages that are so small are all that will ever tell.
    #[test]
    fn pages_of_a_few_resources_become_larger_again() {
        let pace = Pace::new(1_000, FIRST);
        pace.learn(500, 500 * 1_000_000, TARGET);
        pace.learn(125, 125 * 1_000_000, TARGET);
        pace.learn(31, 31 * 1_000_000, TARGET);
        pace.learn(8, 8 * 1_000_000, TARGET);
        assert_eq!(pace.count(), 2);
        for _ in 0..30 {
            let count = pace.count() as usize;
            pace.learn(count, count * 1_000, TARGET);
        }
        assert!(pace.count() > 900, "{}", pace.count());
    }

    /// One resource that is larger than a share is asked for alone only when it was tried within one.
    #[test]
    fn all_memory_is_taken_only_for_one_resource() {
        let limits = PageLimits { readers: 8, most_resources: 1_000, target_bytes: TARGET, share_bytes: 4 * TARGET };
        let pace = Pace::new(1_000, FIRST);
        let mut asked = Vec::new();
        loop {
            let size = pace.whole(limits);
            asked.push((size.count, size.room));
            if !pace.shrink(size) {
                break;
            }
        }
        assert_eq!(asked.iter().filter(|(_, room)| *room == Room::Alone).count(), 1, "{asked:?}");
        assert_eq!(asked[asked.len() - 2..], [(1, Room::Share), (1, Room::Alone)]);
        assert!(asked.len() <= 8, "{asked:?}");
        assert_eq!(Pace::new(0, FIRST).count(), 1);
    }

    #[test]
    fn what_was_too_large_is_not_asked_for_again() {
        let pace = Pace::new(1_000, FIRST);
        assert!(pace.shrink(PageSize { most: usize::MAX, ..pace.size() }));
        assert_eq!(pace.count(), 125);
        for _ in 0..40 {
            pace.learn(100, 100, TARGET);
        }
        assert_eq!(pace.count(), 250, "half of what was too large");
        let limits = PageLimits { readers: 8, most_resources: 1_000, target_bytes: TARGET, share_bytes: 4 * TARGET };
        assert_eq!(pace.whole(limits).count, 250);
        pace.learn(250, 250 * 20_000, TARGET);
        assert_eq!(pace.whole(limits).count, 208, "half of a share");
    }
}
