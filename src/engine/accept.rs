//! When is a slice accepted? The one place that decides it, and pure: readings in, a verdict out.

use crate::bulk::manifest::Method;
use crate::job::index::IdHash;
use crate::profile::Profile;

/// Readings of one slice before it counts as short.
pub(super) const ATTEMPTS: u32 = 14;

/// The set of (id, version) that one reading brought, whatever their order: how many, and the sum of their hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    distinct: u64,
    sum: u128,
}

impl Fingerprint {
    /// Adds a resource that the reading had not brought before.
    pub(super) fn add(&mut self, id: IdHash, version: Option<&str>) {
        self.distinct += 1;
        self.sum = self.sum.wrapping_add(id.with_version(version.unwrap_or_default()));
    }

    pub(super) fn distinct(self) -> u64 {
        self.distinct
    }
}

/// What one reading of a slice brought.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    pub(super) set: Fingerprint,
    /// Resources that now lie later than the slice: written or committed while it was read.
    pub(super) moved: u64,
    /// Resources that the slice's filter cannot have found.
    pub(super) elsewhere: u64,
    pub(super) pages: u32,
    /// The server said inside of a good answer that something went wrong.
    pub(super) is_troubled: bool,
    /// The first page's own total.
    pub(super) total: Option<u64>,
    /// A separate count, taken before the first page; where it was more than came, and that matters, the smaller of it and one
    /// taken after the last page.
    pub(super) counted_before: Option<u64>,
    /// Resources stamped since that count; `None` where nobody looked.
    pub(super) made_since: Option<u64>,
    /// Of several searches that make up the slice: resources that one of them counted and did not bring.
    pub(super) missing: u64,
}

/// What is to be done with a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept {
        method: Method,
        expected: u64,
    },
    /// Read it again. `by` is how many are missing, as far as is known.
    Again {
        by: u64,
    },
    /// Read it again: the server said that something went wrong, so that nothing it counts proves anything.
    Troubled,
    /// The server sends more than it counts, twice the same: a filter does not do what it should.
    OverExport,
    /// Twice there were resources that the filter excludes.
    IgnoredFilter,
}

/// Judges the readings of one slice, one after the other.
#[derive(Debug, Default)]
pub(super) struct Judge {
    previous: Option<Fingerprint>,
    excess: Option<(Fingerprint, u64)>,
    elsewhere: u32,
    /// A page that should carry its total did not: from now on a separate count is taken, in case that the next one does
    /// not either.
    pub(super) needs_count: bool,
    /// Whether what is read is all of the slice is another question: only a count of the slice can tell.
    is_open: bool,
    /// A page that says to be whole is held against the count as well.
    holds_pages_to_counts: bool,
}

impl Judge {
    /// The judge of a slice of which nothing shows that the questions it is read by ask for all of it. The total of no
    /// page speaks of the whole.
    pub(super) fn of_what_is_asked() -> Self {
        Self { is_open: true, needs_count: true, ..Self::default() }
    }

    /// The judge of a slice in which more was counted than came by pages that said to be whole. What a page says to have over
    /// that is no excess: who counted may be behind.
    pub(super) fn of_what_was_counted() -> Self {
        Self { holds_pages_to_counts: true, needs_count: true, ..Self::default() }
    }

    /// Whether a page that says to be whole is held against the count as well.
    pub(super) fn holds_pages(&self) -> bool {
        self.holds_pages_to_counts
    }

    /// Whether the next reading wants a count taken before it.
    pub(super) fn wants_count(&self, profile: &Profile) -> bool {
        profile.counts.is_some() && (self.needs_count || !profile.page_proves_itself())
    }

    /// The verdict on one more reading.
    pub(super) fn judge(&mut self, reading: &Reading, profile: &Profile) -> Verdict {
        if reading.elsewhere > 0 {
            self.elsewhere += 1;
            return if self.elsewhere > 1 { Verdict::IgnoredFilter } else { Verdict::Again { by: 0 } };
        }
        if reading.is_troubled {
            return Verdict::Troubled;
        }
        let distinct = reading.set.distinct();
        let Some(counted) = self.counted(reading, profile) else {
            if profile.page_proves_itself() && !self.needs_count && profile.counts.is_some() {
                self.needs_count = true;
                return Verdict::Again { by: 0 };
            }
            let same = self.previous.replace(reading.set) == Some(reading.set);
            // A number that agrees proves nothing here, but one that is larger says that something is missing.
            let by = reading
                .counted_before
                .filter(|_| profile.counts.is_some())
                .map_or(0, |counted| counted.saturating_sub(distinct))
                .max(reading.missing);
            if by > 0 {
                return Verdict::Again { by };
            }
            // What no question asks for comes in no reading.
            let is_unknown = self.is_open && (reading.counted_before.is_none() || profile.counts.is_none());
            let method = if is_unknown { Method::Unproven } else { Method::Reread };
            return if same { Verdict::Accept { method, expected: distinct } } else { Verdict::Again { by: 0 } };
        };
        let stayed = distinct - reading.moved.min(distinct);
        if counted < stayed {
            // A deletion between count and page looks alike, but not twice with the same rows.
            let excess = (reading.set, counted);
            if self.excess.replace(excess) == Some(excess) {
                return Verdict::OverExport;
            }
            return Verdict::Again { by: 0 };
        }
        let by = counted.saturating_sub(distinct).max(reading.missing);
        if by > 0 {
            return Verdict::Again { by };
        }
        // A page that says of itself that it is whole, after a count that was larger, may come from a server that is behind
        // the one that counted: what was deleted between them stays away the next time as well.
        let is_behind = reading.counted_before.is_some_and(|before| profile.counts.is_some() && before > counted);
        if is_behind && self.previous.replace(reading.set) != Some(reading.set) {
            return Verdict::Again { by: 0 };
        }
        // What was made since the count may stand where one is missing that no question asks for.
        let before = distinct - reading.made_since.unwrap_or(reading.moved).min(distinct);
        let method = if self.is_open && counted > before { Method::Unproven } else { Method::Counted };
        Verdict::Accept { method, expected: counted }
    }

    /// The number that this reading may be held against, if the server has shown that its numbers are right.
    fn counted(&self, reading: &Reading, profile: &Profile) -> Option<u64> {
        let own = reading.total.filter(|_| profile.page_proves_itself() && !self.is_open);
        let before = reading.counted_before.filter(|_| profile.counts.is_some());
        let counted = if self.holds_pages_to_counts { own.max(before) } else { own.or(before) };
        // A row that leaves the list shifts all later ones: then numbers agree while a resource is lost.
        counted.filter(|_| reading.pages <= 1 || profile.links_are_stable())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::datatypes::Id;
    use crate::fhir::resource_type::ResourceType;
    use crate::profile::{CountMethod, NextLinks, PageTotal};

    fn set(ids: &[&str]) -> Fingerprint {
        let mut set = Fingerprint::default();
        for id in ids {
            let (id, version) = id.split_once('/').unwrap_or((id, "1"));
            set.add(IdHash::of(ResourceType::PATIENT, &Id::parse(id).expect("an id")), Some(version));
        }
        set
    }

    fn reading(ids: &[&str], total: Option<u64>, counted_before: Option<u64>) -> Reading {
        Reading { set: set(ids), pages: 1, total, counted_before, ..Reading::default() }
    }

    fn exact() -> Profile {
        Profile {
            counts: Some(CountMethod::Summary),
            page_total: Some(PageTotal::Always),
            links: NextLinks::Stable,
            ..Profile::default()
        }
    }

    const COUNTED: fn(u64) -> Verdict = |expected| Verdict::Accept { method: Method::Counted, expected };
    const REREAD: fn(u64) -> Verdict = |expected| Verdict::Accept { method: Method::Reread, expected };

    #[test]
    fn one_page_with_an_exact_total_is_accepted_if_they_agree() {
        let mut judge = Judge::default();
        assert!(!judge.wants_count(&exact()));
        assert_eq!(judge.judge(&reading(&["a", "b"], Some(3), None), &exact()), Verdict::Again { by: 1 });
        assert_eq!(judge.judge(&reading(&["a", "b", "c"], Some(3), None), &exact()), COUNTED(3));
    }

    #[test]
    fn a_page_that_is_whole_by_itself_and_not_by_a_count_before_is_read_twice() {
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&reading(&["a", "b"], Some(2), Some(3)), &exact()), Verdict::Again { by: 0 });
        assert_eq!(judge.judge(&reading(&["a", "b", "c"], Some(3), Some(3)), &exact()), COUNTED(3));
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&reading(&["a", "b"], Some(2), Some(3)), &exact()), Verdict::Again { by: 0 });
        assert_eq!(judge.judge(&reading(&["a", "b"], Some(2), Some(3)), &exact()), COUNTED(2));
    }

    #[test]
    fn a_page_of_which_more_was_counted_is_held_to_the_count_and_not_against_it() {
        let mut judge = Judge::of_what_was_counted();
        assert!(judge.wants_count(&exact()));
        for _ in 0..3 {
            assert_eq!(judge.judge(&reading(&["a", "b"], Some(2), Some(3)), &exact()), Verdict::Again { by: 1 });
        }
        assert_eq!(judge.judge(&reading(&["a", "b", "c"], Some(3), Some(3)), &exact()), COUNTED(3));
        let mut judge = Judge::of_what_was_counted();
        assert_eq!(
            judge.judge(&reading(&["a", "b", "c"], Some(3), Some(2)), &exact()),
            COUNTED(3),
            "who counted is behind"
        );
        let mut judge = Judge::of_what_was_counted();
        let without = Profile { page_total: None, ..exact() };
        assert_eq!(judge.judge(&reading(&["a", "b"], None, Some(2)), &without), COUNTED(2));
    }

    #[test]
    fn a_total_is_no_proof_where_links_are_offsets() {
        let profile = Profile { links: NextLinks::Offsets, ..exact() };
        let mut judge = Judge::default();
        assert!(judge.wants_count(&profile));
        assert_eq!(judge.judge(&reading(&["a", "b"], Some(2), Some(3)), &profile), Verdict::Again { by: 1 });
        assert_eq!(judge.judge(&reading(&["a", "b", "c"], Some(3), Some(3)), &profile), COUNTED(3));
    }

    #[test]
    fn several_pages_by_offsets_are_never_accepted_by_their_number() {
        let profile = Profile { links: NextLinks::Offsets, ..exact() };
        let pages = |ids| Reading { pages: 2, ..reading(ids, Some(2), Some(2)) };
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&pages(&["a", "b"]), &profile), Verdict::Again { by: 0 });
        assert_eq!(
            judge.judge(&pages(&["a", "b/2"]), &profile),
            Verdict::Again { by: 0 },
            "a new version is another set"
        );
        assert_eq!(judge.judge(&pages(&["b/2", "a"]), &profile), REREAD(2), "the order does not matter");
        let mut judge = Judge::default();
        for _ in 0..3 {
            assert_eq!(judge.judge(&pages(&["a"]), &profile), Verdict::Again { by: 1 }, "one is missing each time");
        }
    }

    #[test]
    fn without_counts_two_equal_readings_are_wanted() {
        let profile = Profile { counts: None, page_total: None, ..exact() };
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&reading(&["a"], Some(1), None), &profile), Verdict::Again { by: 0 });
        assert_eq!(judge.judge(&reading(&["a"], Some(1), None), &profile), REREAD(1));
    }

    /// Each search of a union may be complete, and still a resource that none of them finds is missing.
    #[test]
    fn a_union_is_counted_only_by_the_number_of_the_whole() {
        let union = |ids, whole| reading(ids, None, whole);
        let mut judge = Judge::of_what_is_asked();
        assert!(judge.wants_count(&exact()));
        assert_eq!(judge.judge(&union(&["a", "b"], Some(3)), &exact()), Verdict::Again { by: 1 });
        assert_eq!(judge.judge(&union(&["a", "b", "c"], Some(3)), &exact()), COUNTED(3));
        let mut judge = Judge::of_what_is_asked();
        assert_eq!(judge.judge(&union(&["a", "b"], None), &exact()), Verdict::Again { by: 0 });
        let unproven = Verdict::Accept { method: Method::Unproven, expected: 2 };
        assert_eq!(judge.judge(&union(&["a", "b"], None), &exact()), unproven);
        let lacking = Reading { missing: 1, ..union(&["a", "b"], None) };
        let mut judge = Judge::of_what_is_asked();
        for _ in 0..3 {
            assert_eq!(judge.judge(&lacking, &exact()), Verdict::Again { by: 1 }, "one search lacks one each time");
        }
        let uncounted = Profile { counts: None, page_total: None, ..exact() };
        let mut judge = Judge::of_what_is_asked();
        assert_eq!(judge.judge(&union(&["a"], Some(1)), &uncounted), Verdict::Again { by: 0 });
        let unproven = Verdict::Accept { method: Method::Unproven, expected: 1 };
        assert_eq!(judge.judge(&union(&["a"], Some(1)), &uncounted), unproven, "its counts are not exact");
    }

    #[test]
    fn a_page_that_lacks_its_total_is_counted_apart() {
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&reading(&["a"], None, None), &exact()), Verdict::Again { by: 0 });
        assert!(judge.wants_count(&exact()));
        assert_eq!(judge.judge(&reading(&["a"], None, Some(1)), &exact()), COUNTED(1));
    }

    /// Under writes a count apart is soon wrong: it was taken before the page.
    #[test]
    fn a_page_that_has_its_total_again_is_held_against_it() {
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&reading(&["a"], None, None), &exact()), Verdict::Again { by: 0 });
        assert_eq!(judge.judge(&reading(&["a", "b"], None, Some(1)), &exact()), Verdict::Again { by: 0 });
        assert_eq!(judge.judge(&reading(&["a", "b", "c"], Some(3), Some(2)), &exact()), COUNTED(3));
    }

    #[test]
    fn more_than_counted_is_over_export_only_if_it_is_the_same_twice() {
        let mut judge = Judge::default();
        let more = reading(&["a", "b"], Some(1), None);
        assert_eq!(judge.judge(&more, &exact()), Verdict::Again { by: 0 });
        assert_eq!(
            judge.judge(&reading(&["a"], Some(1), None), &exact()),
            COUNTED(1),
            "one was deleted between count and page"
        );
        let mut judge = Judge::default();
        assert_eq!(judge.judge(&more, &exact()), Verdict::Again { by: 0 });
        assert_eq!(judge.judge(&more, &exact()), Verdict::OverExport);
    }

    #[test]
    fn what_has_moved_counts_as_received_whether_it_was_counted_or_not() {
        for counted in [2, 3] {
            let reading = Reading { moved: 1, ..reading(&["a", "b", "c/2"], Some(counted), None) };
            assert_eq!(Judge::default().judge(&reading, &exact()), COUNTED(counted));
        }
    }

    /// A resource that no question asks for is missing, and one that was made since the count stands in its place.
    #[test]
    fn what_was_made_since_the_count_proves_nothing_of_an_open_slice() {
        let reading = |made_since| Reading { moved: 1, made_since, ..reading(&["a", "b", "d"], None, Some(3)) };
        let unproven = Verdict::Accept { method: Method::Unproven, expected: 3 };
        for (made_since, expected) in [(Some(1), unproven), (None, unproven), (Some(0), COUNTED(3))] {
            assert_eq!(Judge::of_what_is_asked().judge(&reading(made_since), &exact()), expected, "{made_since:?}");
        }
        assert_eq!(
            Judge::default().judge(&reading(Some(1)), &exact()),
            COUNTED(3),
            "elsewhere nothing is left unasked"
        );
    }

    #[test]
    fn a_reading_with_an_error_inside_proves_nothing() {
        let mut judge = Judge::default();
        let troubled = Reading { is_troubled: true, ..reading(&["a"], Some(1), None) };
        assert_eq!(judge.judge(&troubled, &exact()), Verdict::Troubled);
        assert_eq!(judge.judge(&troubled, &exact()), Verdict::Troubled);
        assert_eq!(judge.judge(&reading(&["a"], Some(1), None), &exact()), COUNTED(1));
    }

    #[test]
    fn what_the_filter_excludes_stops_the_job_when_it_comes_again() {
        let mut judge = Judge::default();
        let strange = Reading { elsewhere: 1, ..reading(&["a"], Some(1), None) };
        assert_eq!(judge.judge(&strange, &exact()), Verdict::Again { by: 0 });
        assert_eq!(judge.judge(&strange, &exact()), Verdict::IgnoredFilter);
    }
}
