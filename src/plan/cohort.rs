//! Per level: which searches reach which patients, in what batches.

use std::ops::Range;

use crate::fhir::datatypes::Id;

/// Patients asked for by one search at most; a batch that does not fit a page is halved.
const MOST_PATIENTS: usize = 50;
/// Their ids and what stands around them: below the 2 kB that every server and gateway takes as a URL.
const MOST_BYTES: usize = 1_700;
/// What stands around an id: a comma and `Patient/`, escaped.
const AROUND: usize = 13;

/// `members` in batches; one by one where several in one search are not proven to be found.
pub(crate) fn batches(members: &[Id], or_lists: bool) -> Vec<Range<u32>> {
    let mut batches: Vec<Range<u32>> = Vec::new();
    let mut bytes = 0;
    for (number, member) in (0..).zip(members) {
        bytes += member.as_str().len() + AROUND;
        match batches.last_mut() {
            Some(batch) if or_lists && batch.len() < MOST_PATIENTS && bytes <= MOST_BYTES => batch.end = number + 1,
            Some(_) | None => {
                bytes = member.as_str().len() + AROUND;
                batches.push(number..number + 1);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: usize, length: usize) -> Vec<Id> {
        (0..count).map(|number| Id::parse(&format!("{number:0length$}")).expect("digits")).collect()
    }

    /// DS-009: an empty Group yields no search at all, never one without a filter.
    #[test]
    fn no_member_means_no_batch() {
        assert_eq!(batches(&[], true), vec![]);
        assert_eq!(batches(&ids(1, 3), true), vec![0..1]);
    }

    #[test]
    fn batches_fit_into_a_url_and_leave_nobody_out() {
        assert_eq!(batches(&ids(120, 3), true), vec![0..50, 50..100, 100..120]);
        assert_eq!(batches(&ids(3, 3), false), vec![0..1, 1..2, 2..3]);
        let uuids = batches(&ids(100, 36), true);
        assert!(uuids.iter().all(|batch| batch.len() * (36 + AROUND) <= MOST_BYTES), "{uuids:?}");
        let longest = batches(&ids(100, 64), true);
        assert_eq!(longest.iter().map(ExactSizeIterator::len).sum::<usize>(), 100, "{longest:?}");
        assert!(longest.windows(2).all(|pair| pair[0].end == pair[1].start), "{longest:?}");
    }
}
