//! Lists of patients that were believed by their pages' own totals. A server whose searches end after so many results, whatever more
//! there is, says of such a page that it is whole.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Run;
use crate::fhir::resource_type::ResourceType;
use crate::job::checkpoint::SliceRecord;
use crate::plan::ExportPlan;
use crate::plan::filter::FilterNo;
use crate::plan::slice::{Phase, Scope, Slice};

/// Lists side by side that are counted together; there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lists {
    /// What they were cut from.
    whole: Slice,
    read: Vec<Read>,
}

/// A list that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    members: Range<u32>,
    /// What was counted in it by its pages, that which is known not to come included.
    expected: u64,
    received: u64,
    /// Some of it may have come with another list as well: together they are counted once.
    is_shared: bool,
    number: usize,
}

impl Run for Lists {
    /// The server has answered these searches, and may refuse to count some of them, together or alone.
    const IS_NEEDED: bool = false;

    fn slice(&self) -> Slice {
        let mut slice = self.whole.clone();
        let (first, last) = (self.read.first(), self.read.last());
        if let (Scope::Patients { members, .. }, Some((first, last))) = (&mut slice.scope, first.zip(last)) {
            *members = first.members.start..last.members.end;
        }
        slice
    }

    fn had(&self) -> u64 {
        self.read.iter().fold(0, |sum, read| sum.saturating_add(read.expected))
    }

    fn halves(mut self) -> Option<[Self; 2]> {
        let middle = self.read.len() / 2;
        if middle == 0 {
            return None;
        }
        let second = Self { read: self.read.split_off(middle), whole: self.whole.clone() };
        Some([self, second])
    }
}

/// What was read by lists of patients, each run no longer than a search may be, and what of it has to be read again because it is
/// not known what came of it.
pub(super) fn lists<'a>(
    plan: &ExportPlan,
    types: &[ResourceType],
    records: impl Iterator<Item = &'a SliceRecord>,
) -> (Vec<Lists>, Vec<Slice>) {
    let whole = types.iter().flat_map(|name| plan.remaining(Phase::Young, *name, std::iter::empty()));
    // Where several searches make up a list, each reading is held against a count.
    of_lists(whole.filter(|slice| plan.searches(slice).is_empty()), records)
}

fn of_lists<'a>(
    whole: impl Iterator<Item = Slice>,
    records: impl Iterator<Item = &'a SliceRecord>,
) -> (Vec<Lists>, Vec<Slice>) {
    type Step<'s> = (ResourceType, Option<FilterNo>, &'s str);
    let mut steps: BTreeMap<Step<'_>, Vec<Read>> = BTreeMap::new();
    for (number, record) in records.enumerate() {
        let Slice { phase: Phase::Young, resource_type, filter, scope: Scope::Patients { link, members, .. } } =
            &record.slice
        else {
            continue;
        };
        if record.refused {
            continue;
        }
        steps.entry((*resource_type, *filter, link)).or_default().push(Read {
            members: members.clone(),
            expected: record.expected.max(record.received + record.short + record.unreadable),
            received: record.received,
            is_shared: record.repeated + record.withheld + record.kept_back > 0,
            number,
        });
    }
    for read in steps.values_mut() {
        read.sort_by_key(|read| read.members.start);
    }
    let whole: Vec<_> = whole.collect();
    // No search gives more than any of its type gives at most: what was cut is as large as the largest list of them. Lists that
    // cannot be counted together are counted where they are half as large.
    let mut largest: BTreeMap<ResourceType, u64> = BTreeMap::new();
    for whole in &whole {
        let Scope::Patients { link, .. } = &whole.scope else { continue };
        let read = steps.get(&(whole.resource_type, whole.filter, &**link)).into_iter().flatten();
        let largest = largest.entry(whole.resource_type).or_default();
        *largest = read.map(|read| read.received).fold(*largest, u64::max);
    }
    let (mut runs, mut again): (Vec<Lists>, Vec<Slice>) = (Vec::new(), Vec::new());
    for whole in whole {
        let Scope::Patients { link, members, .. } = &whole.scope else { continue };
        let Some(read) = steps.get(&(whole.resource_type, whole.filter, &**link)) else { continue };
        let bound = |at: u32| read.partition_point(|read| read.members.start < at);
        let within = read.get(bound(members.start)..bound(members.end)).unwrap_or_default();
        let (mut latest, cut) = latest(within.to_vec());
        let with = |read| Lists { whole: whole.clone(), read };
        again.extend(cut.into_iter().map(|members| with(vec![Read { members, ..Read::UNKNOWN }]).slice()));
        latest.sort_unstable_by_key(|read| read.members.start);
        let mut joins = false;
        for read in latest {
            let (meets, is_shared) = (joins && !read.is_shared, read.is_shared);
            joins = !is_shared;
            let half = largest.get(&whole.resource_type).copied().unwrap_or(0).div_ceil(2);
            if is_shared && read.received < half {
                continue;
            }
            match runs.last_mut().filter(|run| meets && run.whole == whole && run.ends_at(read.members.start)) {
                Some(run) => run.read.push(read),
                None => runs.push(with(vec![read])),
            }
        }
    }
    (runs, again)
}

/// Those that no later one has anything of, and the members of all others whom no later one has.
fn latest(mut read: Vec<Read>) -> (Vec<Read>, Vec<Range<u32>>) {
    read.sort_unstable_by_key(|read| std::cmp::Reverse(read.number));
    let (mut kept, mut cut): (Vec<Read>, Vec<Range<u32>>) = (Vec::new(), Vec::new());
    for read in read {
        let covered = kept.iter().map(|kept| kept.members.clone()).chain(cut.iter().cloned()).collect();
        let left = crate::plan::slice::uncovered(read.members.clone(), covered);
        if left == [read.members.clone()] {
            kept.push(read);
        } else {
            cut.extend(left);
        }
    }
    (kept, cut)
}

impl Lists {
    fn ends_at(&self, member: u32) -> bool {
        self.read.last().is_some_and(|read| read.members.end == member)
    }
}

impl Read {
    const UNKNOWN: Self = Self { members: 0..0, expected: 0, received: 0, is_shared: false, number: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(members: Range<u32>) -> Slice {
        Slice {
            phase: Phase::Young,
            resource_type: ResourceType::PATIENT,
            filter: None,
            scope: Scope::Patients { link: "_id".into(), members, from: None },
        }
    }

    fn record(members: Range<u32>, expected: u64) -> SliceRecord {
        SliceRecord::counted(slice(members), expected)
    }

    /// What is counted together: members, and how many resources they had; and, with none, what is read again.
    fn counted(read: &[SliceRecord]) -> Vec<(Range<u32>, Option<u64>)> {
        let (runs, again) = of_lists([slice(0..10), slice(10..20)].into_iter(), read.iter());
        let members = |slice: Slice| slice.patients().expect("it is a list").clone();
        let runs = runs.iter().map(|run| (members(run.slice()), Some(run.had())));
        runs.chain(again.into_iter().map(|slice| (members(slice), None))).collect()
    }

    #[test]
    fn lists_are_counted_by_as_many_as_one_search_may_have() {
        let read = [record(5..10, 2), record(0..3, 1), record(3..5, 4), record(10..20, 8)];
        assert_eq!(counted(&read), [(0..10, Some(7)), (10..20, Some(8))]);
    }

    #[test]
    fn what_is_shared_refused_or_missing_parts_them() {
        let shared = SliceRecord { repeated: 1, ..record(3..5, 4) };
        let refused = SliceRecord { refused: true, ..record(6..7, 0) };
        let withheld = SliceRecord { withheld: 1, ..record(9..10, 2) };
        let read = [record(0..3, 1), shared.clone(), record(5..6, 1), refused, record(7..9, 2), withheld];
        let parted = [(0..3, Some(1)), (3..5, Some(4)), (5..6, Some(1)), (7..9, Some(2)), (9..10, Some(2))];
        assert_eq!(counted(&read), parted);
        let small = [record(0..3, 9), shared, record(5..6, 1)];
        assert_eq!(counted(&small), [(0..3, Some(9)), (5..6, Some(1))], "what is much smaller than others was not cut");
    }

    #[test]
    fn of_what_was_read_again_the_later_counts_and_what_it_left_is_read_once_more() {
        let read = [record(0..8, 5), record(8..10, 1), record(0..4, 3), record(4..8, 6)];
        assert_eq!(counted(&read), [(0..10, Some(10))]);
        let part = [record(0..8, 5), record(8..10, 1), record(0..4, 3)];
        assert_eq!(counted(&part), [(0..4, Some(3)), (8..10, Some(1)), (4..8, None)]);
    }

    #[test]
    fn a_run_is_searched_by_halves_down_to_a_list() {
        let read: Vec<_> = (0..7).map(|at| record(at..at + 1, 1)).collect();
        let (mut runs, _) = of_lists(std::iter::once(slice(0..10)), read.iter());
        let mut single = 0;
        while let Some(run) = runs.pop() {
            match run.clone().halves() {
                Some([first, second]) => {
                    assert_eq!(first.had() + second.had(), run.had());
                    runs.extend([first, second]);
                }
                None => single += 1,
            }
        }
        assert_eq!(single, 7);
    }
}
