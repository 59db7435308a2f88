//! Slice: a step narrowed until one search answers it; where to cut it, and what is left of a step.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::filter::FilterNo;
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;

/// The part of a step that one search answers safely: the unit of parallelism, of retry and of proof.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Slice {
    pub(crate) phase: Phase,
    pub(crate) resource_type: ResourceType,
    /// Which of its type's filters narrows it, if any does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<FilterNo>,
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
    /// What is said of the exported ones, by their names.
    Associated,
}

/// What narrows a slice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// A half-open window of `_lastUpdated`; without any bound it is the whole type.
    Window(Window),
    /// Some of the cohort's patients, by one linking parameter; `from` leaves out what is older.
    Patients { link: Box<str>, members: Range<u32>, from: Option<Millis> },
    /// The record of one of the patients, by its place in the list of all; of it, one type.
    Record { members: Range<u32> },
    /// Some of the resources that exported ones refer to, by their place in the list of all.
    Ids { list: Range<u32> },
    /// What is about the resources in these lines of a complete file, by its number.
    Targets { file: u32, lines: Range<u32> },
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
        let read = read.filter(|slice| slice.filter == self.filter);
        match &self.scope {
            Scope::Window(window) => {
                let read = read.filter_map(|slice| match &slice.scope {
                    Scope::Window(window) => Some(*window),
                    Scope::Patients { .. } | Scope::Record { .. } | Scope::Ids { .. } | Scope::Targets { .. } => None,
                });
                window.remaining(read).into_iter().map(|window| with(Scope::Window(window))).collect()
            }
            Scope::Patients { link, members, from } => {
                let read = read.filter_map(|slice| match &slice.scope {
                    Scope::Patients { link: other, members, .. } if other == link => Some(members.clone()),
                    Scope::Window(_)
                    | Scope::Patients { .. }
                    | Scope::Record { .. }
                    | Scope::Ids { .. }
                    | Scope::Targets { .. } => None,
                });
                let left = uncovered(members.clone(), read.collect()).into_iter();
                left.map(|members| with(Scope::Patients { link: link.clone(), members, from: *from })).collect()
            }
            Scope::Record { members } => {
                let read = read.filter_map(|slice| match &slice.scope {
                    Scope::Record { members } => Some(members.clone()),
                    Scope::Window(_) | Scope::Patients { .. } | Scope::Ids { .. } | Scope::Targets { .. } => None,
                });
                let left = uncovered(members.clone(), read.collect()).into_iter();
                left.map(|members| with(Scope::Record { members })).collect()
            }
            Scope::Ids { list } => {
                let read = read.filter_map(|slice| match &slice.scope {
                    Scope::Ids { list } => Some(list.clone()),
                    Scope::Window(_) | Scope::Patients { .. } | Scope::Record { .. } | Scope::Targets { .. } => None,
                });
                uncovered(list.clone(), read.collect()).into_iter().map(|list| with(Scope::Ids { list })).collect()
            }
            Scope::Targets { file, lines } => {
                let read = read.filter_map(|slice| match &slice.scope {
                    Scope::Targets { file: other, lines } if other == file => Some(lines.clone()),
                    Scope::Window(_)
                    | Scope::Patients { .. }
                    | Scope::Record { .. }
                    | Scope::Ids { .. }
                    | Scope::Targets { .. } => None,
                });
                let left = uncovered(lines.clone(), read.collect()).into_iter();
                left.map(|lines| with(Scope::Targets { file: *file, lines })).collect()
            }
        }
    }

    /// The same however old a resource is.
    pub(super) fn whole(mut self) -> Self {
        match &mut self.scope {
            Scope::Patients { from, .. } => *from = None,
            Scope::Window(_) | Scope::Record { .. } | Scope::Ids { .. } | Scope::Targets { .. } => {}
        }
        self
    }

    /// The window of `_lastUpdated` that every resource of this slice must lie in.
    pub(crate) fn window(&self) -> Window {
        match &self.scope {
            Scope::Window(window) => *window,
            Scope::Patients { from, .. } => Window { from: *from, until: None },
            Scope::Record { .. } | Scope::Ids { .. } | Scope::Targets { .. } => Window::ALL,
        }
    }

    /// Whether parts of this slice can be read apart.
    pub(crate) fn can_be_cut(&self, grid: Grid) -> bool {
        match &self.scope {
            // A type that windows cannot see all of is read as a whole, or its gap would be read by nobody.
            Scope::Window(window) => self.phase != Phase::Gap && window.can_be_cut(grid),
            Scope::Patients { members, .. } => members.len() > 1,
            Scope::Record { .. } => false,
            Scope::Ids { list } | Scope::Targets { lines: list, .. } => list.len() > 1,
        }
    }

    /// Whether it is a list of patients, ids or targets.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.scope, Scope::Patients { .. } | Scope::Ids { .. } | Scope::Targets { .. })
    }

    /// Whom it asks for, by their places in the list of all; `None` where it asks for nobody in particular.
    pub(crate) fn patients(&self) -> Option<&Range<u32>> {
        match &self.scope {
            Scope::Patients { members, .. } | Scope::Record { members } => Some(members),
            Scope::Window(_) | Scope::Ids { .. } | Scope::Targets { .. } => None,
        }
    }

    /// Both halves of a list of patients, ids or targets; `None` for windows, which are cut by what is known of their density.
    pub(crate) fn halves(&self) -> Option<[Self; 2]> {
        let with = |scope| Self { scope, ..self.clone() };
        match &self.scope {
            Scope::Window(_) | Scope::Record { .. } => None,
            Scope::Patients { link, members, from } => {
                let halves = halves(members)?;
                Some(halves.map(|members| with(Scope::Patients { link: link.clone(), members, from: *from })))
            }
            Scope::Ids { list } => Some(halves(list)?.map(|list| with(Scope::Ids { list }))),
            Scope::Targets { file, lines } => {
                Some(halves(lines)?.map(|lines| with(Scope::Targets { file: *file, lines })))
            }
        }
    }
}

fn halves(range: &Range<u32>) -> Option<[Range<u32>; 2]> {
    let middle = range.start + (range.end.checked_sub(range.start)?) / 2;
    (range.start < middle).then_some([range.start..middle, middle..range.end])
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

    /// Where this window's resources are taken to lie: not before `oldest`, which stands in for a missing lower bound as the
    /// present does for a missing upper one, so that it has a length.
    pub(crate) fn span(self, grid: Grid) -> Range<i64> {
        let until = match (self.until, self.from) {
            (Some(until), _) => until.0,
            (None, Some(from)) if from.0 >= grid.present() => LATEST,
            (None, _) => grid.present(),
        };
        let from = match self.from {
            Some(from) if from.0 < grid.oldest.0 && grid.oldest.0 < until.saturating_sub(2 * grid.step) => {
                grid.floor(grid.oldest.0).max(from.0)
            }
            Some(from) => from.0,
            None if grid.oldest.0 < until => grid.floor(grid.oldest.0),
            // The hint was wrong: no resource is older than computers.
            None => grid.floor(until.saturating_sub(CENTURY)),
        };
        from..until.max(from)
    }

    /// Whether this window is longer than the finest step that the server tells apart.
    pub(crate) fn can_be_cut(self, grid: Grid) -> bool {
        let has_a_beginning = self.from.is_some() || self.until.is_some_and(|until| until.0 > EARLIEST);
        has_a_beginning && self.carve(grid.step, grid).is_some()
    }

    /// The first `length` milliseconds of this window's span, and the rest; `None` if it cannot be cut there. What lies
    /// before the span stays in the first part, what lies after it in the rest. An open end that begins after the
    /// present is halved towards the year 9999, so that stamps of a typing error are reached in a few dozen cuts.
    pub(crate) fn carve(self, length: i64, grid: Grid) -> Option<(Self, Self)> {
        let span = self.span(grid);
        let length = if span.end == LATEST && self.until.is_none() { (span.end - span.start) / 2 } else { length };
        let at = grid.floor(span.start.saturating_add(length.max(grid.step)));
        // All that lies before the present is one part of an open window, and what is yet to come the other.
        let at = if self.until.is_none() { at.min(span.end) } else { at };
        let inside = self.from.is_none_or(|from| from.0 < at) && self.until.is_none_or(|until| at < until.0);
        let at = Millis(at);
        inside.then_some((Self { from: self.from, until: Some(at) }, Self { from: Some(at), until: self.until }))
    }

    /// What of this window lies before an instant, the shortest window that holds it, and what lies after it; `None` if that
    /// is all there is.
    pub(crate) fn around(self, at: Millis, grid: Grid) -> Option<Vec<Self>> {
        let start = Millis(grid.floor(at.0));
        let end = Millis(start.0.saturating_add(grid.step.max(1)));
        let from = Some(self.from.map_or(start, |from| from.max(start)));
        let until = Some(self.until.map_or(end, |until| until.min(end)));
        let parts = [Self { until: from, ..self }, Self { from, until }, Self { from: until, ..self }];
        let parts = parts.into_iter().filter(|part| part.is_bounded() && !part.is_empty()).collect::<Vec<_>>();
        (self.contains(at) && parts.len() > 1).then_some(parts)
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
/// 1900-01-01: what is older is not cut any further.
const EARLIEST: i64 = -2_208_988_800_000;
/// In milliseconds.
const CENTURY: i64 = 100 * 366 * 24 * 3_600_000;

/// Where windows can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    /// The finest step between two bounds that the server tells apart, in milliseconds.
    pub(crate) step: i64,
    /// The oldest stamp that was seen; a hint.
    pub(crate) oldest: Millis,
    /// What counts as the present: one moment for as long as an export lasts. An open end that is cut at the time of each cut
    /// is cut for ever where what lies in the future does not fit a page, for that time goes on.
    pub(crate) now: Millis,
}

impl Grid {
    /// The last bound at or before `millis`.
    pub(crate) fn floor(self, millis: i64) -> i64 {
        millis - millis.rem_euclid(self.step.max(1))
    }

    /// The first bound after the present.
    fn present(self) -> i64 {
        self.floor(self.now.0).saturating_add(self.step)
    }
}

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

    fn grid(step: i64) -> Grid {
        Grid { step, oldest: Millis(1_000), now: Millis(9_000) }
    }

    #[test]
    fn both_parts_of_a_cut_cover_the_window_and_do_not_overlap() {
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
        ] {
            for length in [0, 1, 2, 4_000, i64::MAX] {
                let Some((first, rest)) = whole.carve(length, grid(1)) else {
                    assert!(length > 2, "{whole:?} can be cut after {length} ms");
                    continue;
                };
                assert_eq!(whole.remaining([first, rest]), vec![], "{whole:?} after {length} ms");
                assert!(first.until == rest.from && !first.is_empty() && !rest.is_empty(), "{first:?} {rest:?}");
            }
        }
        assert_eq!(
            window(Some(0), Some(10)).carve(4, grid(1)),
            Some((window(Some(0), Some(4)), window(Some(4), Some(10))))
        );
        assert_eq!(
            window(None, Some(5_000)).carve(500, grid(1)).map(|(first, _)| first),
            Some(window(None, Some(1_500)))
        );
        assert_eq!(
            window(Some(8_000), None).carve(i64::MAX, grid(1)),
            Some((window(Some(8_000), Some(9_001)), window(Some(9_001), None))),
            "what is yet to come is a part of its own"
        );
    }

    #[test]
    fn what_lies_around_an_instant_covers_the_window_and_does_not_overlap() {
        let bounds = [None, Some(-7), Some(0), Some(1_000), Some(1_001), Some(5_000), Some(i64::MAX)];
        for (from, until) in bounds.iter().flat_map(|from| bounds.iter().map(move |until| (*from, *until))) {
            for (at, step) in [-7, 0, 999, 1_000, 1_001, 4_999, i64::MAX].iter().flat_map(|at| [(*at, 1), (*at, 1_000)])
            {
                let (whole, at) = (window(from, until), Millis(at));
                let Some(parts) = whole.around(at, grid(step)) else { continue };
                assert_eq!(whole.remaining(parts.iter().copied()), [], "{whole:?} around {at:?}");
                assert!(parts.windows(2).all(|two| two[0].until.is_some() && two[0].until == two[1].from), "{parts:?}");
                assert!(parts.first().map(|first| first.from) == Some(whole.from), "{whole:?} around {at:?}");
                assert!(parts.last().map(|last| last.until) == Some(whole.until), "{whole:?} around {at:?}");
                let holds = parts.iter().filter(|part| part.contains(at)).collect::<Vec<_>>();
                assert!(matches!(holds.as_slice(), [one] if !one.can_be_cut(grid(step))), "{whole:?} around {at:?}");
            }
        }
        assert_eq!(window(Some(5), Some(6)).around(Millis(5), grid(1)), None, "that is all there is");
        assert_eq!(window(Some(5), Some(9)).around(Millis(9), grid(1)), None, "it lies elsewhere");
        let three = [window(Some(0), Some(4)), window(Some(4), Some(5)), window(Some(5), Some(9))];
        assert_eq!(window(Some(0), Some(9)).around(Millis(4), grid(1)), Some(three.to_vec()));
    }

    /// A server that tells whole seconds apart finds what lies before a bound within a second.
    #[test]
    fn bounds_lie_on_the_servers_grid() {
        let (first, rest) = window(Some(2_000), Some(10_000)).carve(1_700, grid(1_000)).expect("eight seconds");
        assert_eq!((first, rest), (window(Some(2_000), Some(3_000)), window(Some(3_000), Some(10_000))));
        assert!(!window(Some(2_000), Some(3_000)).can_be_cut(grid(1_000)));
        assert!(window(Some(2_000), Some(3_000)).can_be_cut(grid(1)));
    }

    /// Where the hint is wrong what lies before it is reached all the same.
    #[test]
    fn a_window_is_cut_behind_the_oldest_stamp() {
        let grid = grid(1);
        let cut = window(Some(0), Some(9_000)).carve(500, grid);
        assert_eq!(cut, Some((window(Some(0), Some(1_500)), window(Some(1_500), Some(9_000)))));
        let mut first = window(Some(0), Some(9_000));
        let mut cuts = 0;
        while let Some((shorter, _)) = first.carve((first.span(grid).end - first.span(grid).start) / 2, grid) {
            (first, cuts) = (shorter, cuts + 1);
            assert!(cuts < 40, "it has no end");
        }
        assert_eq!(first, window(Some(0), Some(1)));
    }

    #[test]
    fn one_millisecond_cannot_be_cut() {
        assert!(!window(Some(5), Some(6)).can_be_cut(grid(1)));
        assert!(!Window::ALL.can_be_cut(grid(1)), "a whole type is read as one");
    }

    #[test]
    fn a_stamp_in_2099_is_reached_in_a_few_dozen_cuts() {
        let (now, far) = (Millis(1_795_000_000_000), Millis(4_070_908_800_000));
        let grid = Grid { step: 1, oldest: now, now };
        let mut rest = window(Some(now.0 + 1), None);
        let mut cuts = 0;
        while let Some((first, second)) = rest.carve((rest.span(grid).end - rest.span(grid).start) / 2, grid) {
            rest = if first.contains(far) { first } else { second };
            cuts += 1;
            assert!(cuts < 60, "still at {rest:?}");
        }
        assert!(rest.contains(far));
    }
}
