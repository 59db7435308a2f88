//! Slice: a step narrowed until one search answers it; where to cut it, and what is left of a step.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;

/// The part of a step that one search answers safely: the unit of parallelism, of retry and of proof.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Slice {
    pub(crate) phase: Phase,
    pub(crate) resource_type: ResourceType,
    pub(crate) scope: Scope,
}

/// When in an export a slice is read, and against what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Windows older than [`Horizon::young_from`](super::Horizon): no two of one type overlap.
    Old,
    /// Windows between there and W, whose transactions may still come to be seen; and batches and chains.
    Young,
    /// A type of which windows cannot see everything, read as a whole.
    Gap,
    /// What moved or was committed while the export ran. The number tells one pass from the next, and the
    /// passes of an earlier life of the process from those of this one.
    Sweep(u32),
    /// Resources that the exported ones refer to, by their ids.
    References,
}

impl Phase {
    /// Whether no other slice can hold the same resource, so that no line needs to be looked up.
    pub(crate) fn is_disjoint(self) -> bool {
        matches!(self, Self::Old)
    }
}

/// What narrows a slice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// A half-open window of `_lastUpdated`; without any bound it is the whole type.
    Window(Window),
    /// Some of the cohort's patients, by one linking parameter; `from` leaves out what is older.
    Patients { link: Box<str>, members: Range<u32>, from: Option<Millis> },
    /// Some of the resources that exported ones refer to, by their place in the list of all.
    Ids { list: Range<u32> },
}

/// `[from, until)` in Unix milliseconds; a missing bound is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) from: Option<Millis>,
    pub(crate) until: Option<Millis>,
}

impl Slice {
    /// What of this slice none of `read` covers. Those of other steps are passed over.
    pub(crate) fn remaining<'a>(&self, read: impl Iterator<Item = &'a Self>) -> Vec<Self> {
        let with = |scope| Self { scope, ..self.clone() };
        match &self.scope {
            Scope::Window(window) => {
                let read = read.filter_map(|slice| match &slice.scope {
                    Scope::Window(window) => Some(*window),
                    Scope::Patients { .. } | Scope::Ids { .. } => None,
                });
                window.remaining(read).into_iter().map(|window| with(Scope::Window(window))).collect()
            }
            Scope::Patients { link, members, from } => {
                let read = read.filter_map(|slice| match &slice.scope {
                    Scope::Patients { link: other, members, .. } if other == link => Some(members.clone()),
                    Scope::Window(_) | Scope::Patients { .. } | Scope::Ids { .. } => None,
                });
                let left = uncovered(members.clone(), read.collect()).into_iter();
                left.map(|members| with(Scope::Patients { link: link.clone(), members, from: *from })).collect()
            }
            Scope::Ids { list } => {
                let read = read.filter_map(|slice| match &slice.scope {
                    Scope::Ids { list } => Some(list.clone()),
                    Scope::Window(_) | Scope::Patients { .. } => None,
                });
                uncovered(list.clone(), read.collect()).into_iter().map(|list| with(Scope::Ids { list })).collect()
            }
        }
    }

    /// The window of `_lastUpdated` that every resource of this slice must lie in.
    pub(crate) fn window(&self) -> Window {
        match &self.scope {
            Scope::Window(window) => *window,
            Scope::Patients { from, .. } => Window { from: *from, until: None },
            Scope::Ids { .. } => Window::ALL,
        }
    }

    /// This slice in parts, each of which one page may answer; `None` if it cannot be cut any further.
    pub(crate) fn cut(&self, parts: u64, oldest: Millis, now: Millis) -> Option<Vec<Self>> {
        let with = |scope| Self { scope, ..self.clone() };
        match &self.scope {
            // A type that windows cannot see all of is read as a whole, or its gap would be read by nobody.
            Scope::Window(window) if self.phase == Phase::Gap || !window.is_bounded() => None,
            Scope::Window(window) => {
                Some(window.cut(parts, oldest, now)?.into_iter().map(|window| with(Scope::Window(window))).collect())
            }
            Scope::Patients { link, members, from } => {
                let halves = halves(members)?;
                Some(halves.map(|members| with(Scope::Patients { link: link.clone(), members, from: *from })).into())
            }
            Scope::Ids { list } => Some(halves(list)?.map(|list| with(Scope::Ids { list })).into()),
        }
    }
}

fn halves(range: &Range<u32>) -> Option<[Range<u32>; 2]> {
    let middle = range.start + (range.end.checked_sub(range.start)?) / 2;
    (range.start < middle).then(|| [range.start..middle, middle..range.end])
}

impl Window {
    pub(crate) const ALL: Self = Self { from: None, until: None };

    pub(crate) fn is_bounded(self) -> bool {
        self.from.is_some() || self.until.is_some()
    }

    pub(crate) fn is_empty(self) -> bool {
        matches!((self.from, self.until), (Some(from), Some(until)) if from >= until)
    }

    pub(crate) fn contains(self, stamp: Millis) -> bool {
        self.from.is_none_or(|from| from <= stamp) && self.until.is_none_or(|until| stamp < until)
    }

    /// What of this window none of `read` covers, in ascending order.
    pub(crate) fn remaining(self, read: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let left = uncovered(self.bounds(), read.into_iter().map(Self::bounds).collect());
        left.into_iter().map(Self::from_bounds).collect()
    }

    /// This window in `parts` of equal length, the last one with the rest; `None` if it is too short to be cut.
    ///
    /// `oldest` stands in for a missing lower bound and `now` for a missing upper one: what lies before and
    /// after them stays in the first and the last part. An open end that begins after `now` is halved towards
    /// the year 9999, so that stamps of a typing error are reached in a few dozen cuts.
    pub(crate) fn cut(self, parts: u64, oldest: Millis, now: Millis) -> Option<Vec<Self>> {
        let until = self
            .until
            .map_or_else(|| if self.from.is_none_or(|from| from <= now) { now.0 + 1 } else { LATEST }, |until| until.0);
        let from = self.from.map_or(oldest.0.min(until - 1), |from| from.0);
        let length = until.checked_sub(from).filter(|length| *length > 0)?;
        let mut bounds = vec![];
        if self.until.is_some() || until == LATEST {
            let parts = i64::try_from(parts).unwrap_or(i64::MAX).clamp(2, MOST_PARTS).min(length);
            let parts = if self.until.is_none() { 2 } else { parts };
            bounds.extend((1..parts).map(|part| from + length / parts * part + (length % parts) * part / parts));
        } else {
            bounds.push(until);
        }
        if self.from.is_none() && bounds.is_empty() {
            bounds.push(from); // all that is older than `oldest` apart from the last millisecond
        }
        bounds.retain(|bound| {
            self.from.is_none_or(|from| from.0 < *bound) && self.until.is_none_or(|until| *bound < until.0)
        });
        bounds.dedup();
        if bounds.is_empty() {
            return None;
        }
        let starts = std::iter::once(self.from).chain(bounds.iter().map(|bound| Some(Millis(*bound))));
        let ends = bounds.iter().map(|bound| Some(Millis(*bound))).chain(std::iter::once(self.until));
        Some(starts.zip(ends).map(|(from, until)| Self { from, until }).collect())
    }

    fn bounds(self) -> Range<i64> {
        self.from.map_or(i64::MIN, |from| from.0)..self.until.map_or(i64::MAX, |until| until.0)
    }

    fn from_bounds(bounds: Range<i64>) -> Self {
        Self {
            from: (bounds.start != i64::MIN).then_some(Millis(bounds.start)),
            until: (bounds.end != i64::MAX).then_some(Millis(bounds.end)),
        }
    }
}

/// 9999-12-31T23:59:59.999Z: no FHIR instant lies later.
const LATEST: i64 = 253_402_300_799_999;
/// How many parts one cut makes at most; more come from cutting the parts.
const MOST_PARTS: i64 = 256;

/// What of `whole` none of `read` covers, in ascending order.
pub(crate) fn uncovered<T: Copy + Ord>(whole: Range<T>, mut read: Vec<Range<T>>) -> Vec<Range<T>> {
    read.retain(|range| range.start < range.end);
    read.sort_by_key(|range| range.start);
    let mut left = Vec::new();
    let mut from = whole.start;
    for range in read {
        if from >= whole.end {
            break;
        }
        if range.start > from {
            left.push(from..range.start.min(whole.end));
        }
        from = from.max(range.end);
    }
    if from < whole.end {
        left.push(from..whole.end);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from: Option<i64>, until: Option<i64>) -> Window {
        Window { from: from.map(Millis), until: until.map(Millis) }
    }

    #[test]
    fn what_was_read_is_not_read_again() {
        for (whole, read, expected) in [
            (window(None, Some(100)), vec![], vec![window(None, Some(100))]),
            (window(None, Some(100)), vec![window(None, Some(40))], vec![window(Some(40), Some(100))]),
            (
                window(None, Some(100)),
                vec![window(Some(40), Some(60))],
                vec![window(None, Some(40)), window(Some(60), Some(100))],
            ),
            (window(Some(0), Some(100)), vec![window(Some(50), Some(100)), window(Some(0), Some(50))], vec![]),
            (window(Some(0), None), vec![window(Some(0), Some(10))], vec![window(Some(10), None)]),
            (window(Some(0), None), vec![window(Some(0), None)], vec![]),
            (window(Some(0), Some(10)), vec![window(Some(4), Some(4))], vec![window(Some(0), Some(10))]),
        ] {
            assert_eq!(whole.remaining(read.clone()), expected, "{whole:?} without {read:?}");
        }
    }

    #[test]
    fn the_parts_of_a_cut_cover_the_window_and_do_not_overlap() {
        let (oldest, now) = (Millis(1_000), Millis(9_000));
        for whole in [
            window(Some(0), Some(10_000)),
            window(Some(0), Some(3)),
            window(None, Some(5_000)),
            window(None, Some(1_000)),
            window(None, Some(500)),
            window(Some(8_000), None),
            window(Some(9_000), None),
            window(Some(9_001), None),
            window(Some(20_000), None),
            window(None, None),
        ] {
            for parts in [2, 3, 7, 1_000_000] {
                let cut = whole.cut(parts, oldest, now).unwrap_or_else(|| panic!("{whole:?} can be cut"));
                assert!(cut.len() > 1, "{whole:?} in {parts}: {cut:?}");
                assert_eq!(whole.remaining(cut.clone()), vec![], "{whole:?} in {parts}: {cut:?}");
                assert!(cut.windows(2).all(|pair| pair[0].until == pair[1].from && !pair[0].is_empty()), "{cut:?}");
            }
        }
    }

    #[test]
    fn one_millisecond_cannot_be_cut() {
        assert_eq!(window(Some(5), Some(6)).cut(4, Millis(0), Millis(9)), None);
    }

    #[test]
    fn a_stamp_in_2099_is_reached_in_a_few_dozen_cuts() {
        let (now, far) = (Millis(1_795_000_000_000), Millis(4_070_908_800_000));
        let mut rest = window(Some(now.0 + 1), None);
        let mut cuts = 0;
        while let Some(parts) = rest.cut(2, now, now) {
            rest = *parts.iter().find(|part| part.contains(far)).expect("the parts cover the whole");
            cuts += 1;
            assert!(cuts < 60, "still at {rest:?}");
        }
        assert!(rest.contains(far));
    }
}
