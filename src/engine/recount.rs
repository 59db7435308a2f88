//! What was read by windows, or by lists of patients, is counted once more: so a late commit is seen, and what a page left out
//! although its own total agreed.

mod lists;

use std::collections::{BTreeMap, BTreeSet};

use super::pool::Order;
use super::worker::{HasType, Worker, WorkerError};
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::plan::filter::FilterNo;
use crate::plan::slice::{Phase, Scope, Slice, Window};
use crate::upstream::client::Room;

/// Of so many runs not one number: then the server is asked for no more of this kind.
const UNTOLD: usize = 4;

/// What is counted together.
trait Run: Clone + Sized {
    /// Whether an export ends where the server refuses or fails to count it.
    const IS_NEEDED: bool;

    /// All of it as one slice. However old it is, a line may be there already.
    fn slice(&self) -> Slice;

    /// What it is held to have.
    fn had(&self) -> u64;

    /// Both halves, if it can be counted in parts.
    fn halves(self) -> Option<[Self; 2]>;
}

/// Windows of one step side by side, in ascending order, that are counted together; there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Windows {
    resource_type: ResourceType,
    filter: Option<FilterNo>,
    read: Vec<Read>,
}

/// A window that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Read {
    window: Window,
    /// What came of it, and what is known not to come: that is missed no more.
    received: u64,
    /// Its place in the order in which they were read.
    number: usize,
}

/// A run, and what the server counts in it now; `None` if it does not say.
#[derive(Debug)]
struct Counted<R> {
    run: R,
    now: Option<u64>,
}

impl<R: Run> Counted<R> {
    fn has_changed(&self) -> bool {
        self.now != Some(self.run.had())
    }

    fn lacks_something(&self) -> bool {
        self.now > Some(self.run.had())
    }
}

/// A run's place among all that are counted.
#[derive(Clone)]
struct Place(usize, Slice);

impl HasType for Place {
    fn resource_type(&self) -> ResourceType {
        self.1.resource_type
    }
}

impl Run for Windows {
    const IS_NEEDED: bool = true;

    fn had(&self) -> u64 {
        self.read.iter().fold(0, |sum, read| sum.saturating_add(read.received))
    }

    fn slice(&self) -> Slice {
        let (first, last) = (self.read.first(), self.read.last());
        let window =
            Window { from: first.and_then(|read| read.window.from), until: last.and_then(|read| read.window.until) };
        let Self { resource_type, filter, .. } = *self;
        Slice { phase: Phase::Young, resource_type, filter, scope: Scope::Window(window) }
    }

    /// None of a single window.
    fn halves(mut self) -> Option<[Self; 2]> {
        let middle = self.read.len() / 2;
        if middle == 0 {
            return None;
        }
        let second = Self { read: self.read.split_off(middle), ..self };
        Some([self, second])
    }
}

impl Worker {
    /// Counts what was read by windows, and what pages of lists said to be all: what holds more now than came of it is read
    /// again, and its pages are held to the count. Gives the types of which any window holds another number now.
    pub(super) async fn recount(&mut self, types: &[ResourceType]) -> Result<BTreeSet<ResourceType>, WorkerError> {
        if self.plan.profile.counts.is_none() {
            return Ok(BTreeSet::new());
        }
        self.progress.count();
        let (all_changed, mut again) = self.count_in_parts(self.runs(|name| types.contains(&name))).await?;
        if self.plan.profile.page_proves_itself() {
            let (lists, cut) = lists::lists(&self.plan, types, self.files.slices());
            let (_, lacking) = self.count_in_parts(lists).await?;
            again.extend(cut.into_iter().chain(lacking));
        }
        // What was counted and did not come by pages that said to be whole, or was never counted, is not accepted by what they say.
        self.reader.holds_pages_to_counts = true;
        let read = self.drain(again, Order::Any).await;
        self.reader.holds_pages_to_counts = false;
        read.map(|()| all_changed)
    }

    /// The types of which any run holds another number now, and the smallest runs that hold more.
    async fn count_in_parts<R: Run>(
        &self,
        mut runs: Vec<R>,
    ) -> Result<(BTreeSet<ResourceType>, Vec<Slice>), WorkerError> {
        let (mut all_changed, mut lacking) = (BTreeSet::new(), Vec::new());
        while !runs.is_empty() {
            let all = self.count_runs(runs).await?;
            runs = Vec::new();
            if all.len() >= UNTOLD && all.iter().all(|counted| counted.now.is_none()) {
                break;
            }
            for counted in all.into_iter().filter(Counted::has_changed) {
                let (slice, lacks_something) = (counted.run.slice(), counted.lacks_something());
                all_changed.insert(slice.resource_type);
                match counted.run.halves() {
                    // Something may be missing in one of them although more was taken out of the other.
                    Some(halves) => runs.extend(halves),
                    None if lacks_something => lacking.push(slice),
                    None => {}
                }
            }
        }
        Ok((all_changed, lacking))
    }

    fn runs(&self, wanted: impl Fn(ResourceType) -> bool) -> Vec<Windows> {
        let records = self.files.slices().filter(|record| wanted(record.slice.resource_type));
        let read = records.enumerate().filter_map(|(number, record)| {
            let Slice { phase: Phase::Old | Phase::Young, resource_type, filter, scope: Scope::Window(window) } =
                record.slice
            else {
                return None;
            };
            let received = record.received + record.short + record.unreadable;
            window.is_bounded().then_some(((resource_type, filter), Read { window, received, number }))
        });
        runs(read, self.plan.horizon.settled)
    }

    /// Those whose number is not told are left out if it is needed, as the server then does not count at all.
    async fn count_runs<R: Run>(&self, runs: Vec<R>) -> Result<Vec<Counted<R>>, WorkerError> {
        let reader = self.reader.clone();
        let count = move |Place(_, slice): Place| {
            let reader = reader.clone();
            async move {
                let told = if R::IS_NEEDED {
                    reader.count(&slice).await
                } else {
                    reader.count_if_told(&slice, Room::Share).await
                };
                Ok(told?)
            }
        };
        let places: Vec<_> = runs.iter().enumerate().map(|(at, run)| Place(at, run.slice())).collect();
        let mut counts: Vec<_> = self.each(&places, count).await?;
        counts.sort_unstable_by_key(|(place, _)| place.0);
        let counted = runs.into_iter().zip(counts).map(|(run, (_, now))| Counted { run, now });
        Ok(counted.filter(|counted| !R::IS_NEEDED || counted.now.is_some()).collect())
    }
}

/// What lies side by side, and is so old that nothing can be late in it, is counted together; each window after `settled` is
/// counted by itself, as something that comes late in one may stand where something was taken out of another. Of windows that
/// overlap, which were read again, the later ones say what is there.
fn runs(read: impl Iterator<Item = ((ResourceType, Option<FilterNo>), Read)>, settled: Millis) -> Vec<Windows> {
    let mut steps: BTreeMap<_, Vec<Read>> = BTreeMap::new();
    for (step, read) in read {
        steps.entry(step).or_default().push(read);
    }
    let mut runs: Vec<Windows> = Vec::new();
    for ((resource_type, filter), mut all) in steps {
        all.sort_by_key(|read| read.window.from);
        let with = |read| Windows { resource_type, filter, read };
        let mut joins = false;
        for group in overlapping(all) {
            let alone = if let [one] = group.as_slice() { Some(*one) } else { None };
            let is_settled = |read: &Read| read.window.until.is_some_and(|until| until <= settled);
            let Some(read) = alone.filter(is_settled) else {
                runs.extend(latest(group).into_iter().map(|read| with(vec![read])));
                joins = false;
                continue;
            };
            match runs.last_mut().filter(|run| joins && run.read.last().is_some_and(|last| last.meets(read))) {
                Some(run) => run.read.push(read),
                None => runs.push(with(vec![read])),
            }
            joins = true;
        }
    }
    runs
}

impl Read {
    fn meets(self, next: Self) -> bool {
        self.window.until.is_some() && self.window.until == next.window.from
    }
}

/// Windows in ascending order, together with those that they overlap.
fn overlapping(all: Vec<Read>) -> Vec<Vec<Read>> {
    let mut groups: Vec<Vec<Read>> = Vec::new();
    // Where the last group ends; nothing ends before the first one.
    let mut end: Option<Millis> = Some(Millis(i64::MIN));
    for read in all {
        let is_apart = end.is_some_and(|end| read.window.from.map_or(i64::MIN, |from| from.0) >= end.0);
        if let Some(group) = groups.last_mut().filter(|_| !is_apart) {
            group.push(read);
            end = end.zip(read.window.until).map(|(end, until)| end.max(until));
        } else {
            groups.push(vec![read]);
            end = read.window.until;
        }
    }
    groups
}

/// Those of a group that others do not cover that were read later.
fn latest(mut group: Vec<Read>) -> Vec<Read> {
    group.sort_by_key(|read| std::cmp::Reverse(read.number));
    let mut kept: Vec<Read> = Vec::new();
    for read in group {
        if !read.window.remaining(kept.iter().map(|kept| kept.window)).is_empty() {
            kept.push(read);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: i64, until: i64, received: u64) -> Read {
        Read {
            window: Window { from: (from >= 0).then_some(Millis(from)), until: Some(Millis(until)) },
            received,
            number: 0,
        }
    }

    /// What is counted together of windows that were read in this order: from, until, received.
    fn counted(read: &[Read], settled: i64) -> Vec<(Option<i64>, i64, u64)> {
        let step = (ResourceType::PATIENT, None);
        let read = read.iter().enumerate().map(|(number, read)| (step, Read { number, ..*read }));
        let runs = runs(read, Millis(settled));
        let bounds = |run: &Windows| {
            let window = run.slice().window();
            (window.from.map(|from| from.0), window.until.expect("all end").0, run.had())
        };
        runs.iter().map(bounds).collect()
    }

    #[test]
    fn what_nothing_can_be_late_in_is_counted_together() {
        let all = [read(20, 30, 3), read(-1, 10, 1), read(10, 20, 2), read(30, 40, 4), read(40, 50, 5)];
        assert_eq!(counted(&all, 40), [(None, 40, 10), (Some(40), 50, 5)]);
        let alone = [(None, 10, 1), (Some(10), 20, 2), (Some(20), 30, 3), (Some(30), 40, 4), (Some(40), 50, 5)];
        assert_eq!(counted(&all, 0), alone);
        assert_eq!(counted(&all, 39), [(None, 30, 6), (Some(30), 40, 4), (Some(40), 50, 5)], "its end decides");
    }

    #[test]
    fn what_lies_apart_is_not_counted_together() {
        assert_eq!(counted(&[read(-1, 10, 1), read(20, 30, 2)], 100), [(None, 10, 1), (Some(20), 30, 2)]);
    }

    /// A window that was read again in parts would be counted twice, and what is missing elsewhere not be noticed.
    #[test]
    fn what_was_read_again_is_counted_once() {
        let again = [read(-1, 10, 1), read(10, 20, 8), read(20, 30, 2), read(10, 15, 4), read(15, 20, 5)];
        assert_eq!(counted(&again, 100), [(None, 10, 1), (Some(15), 20, 5), (Some(10), 15, 4), (Some(20), 30, 2)]);
        // In part only: the rest was lost with a file.
        let part = [read(10, 20, 8), read(10, 15, 4)];
        assert_eq!(counted(&part, 100), [(Some(10), 15, 4), (Some(10), 20, 8)]);
        let whole = [read(10, 15, 4), read(15, 20, 5), read(10, 20, 9)];
        assert_eq!(counted(&whole, 100), [(Some(10), 20, 9)]);
        let open = Read { window: Window { from: Some(Millis(20)), until: None }, received: 7, number: 0 };
        let mut groups = overlapping(vec![read(10, 20, 1), open, read(30, 40, 2)]);
        assert_eq!(groups.pop().expect("the open one").len(), 2, "nothing lies behind what has no end");
    }

    #[test]
    fn a_run_is_searched_by_halves_down_to_a_window() {
        let all: Vec<_> = (0..9).map(|at| read(at * 10, at * 10 + 10, 1)).collect();
        let step = (ResourceType::PATIENT, None);
        let read = all.into_iter().map(|read| (step, read));
        let mut runs = runs(read, Millis(1_000));
        let mut single = 0;
        while let Some(run) = runs.pop() {
            match run.clone().halves() {
                Some([first, second]) => {
                    assert_eq!(first.had() + second.had(), run.had());
                    assert_eq!(first.slice().window().until, second.slice().window().from);
                    runs.extend([first, second]);
                }
                None => single += 1,
            }
        }
        assert_eq!(single, 9);
    }
}
