//! Per level: which searches reach which patients, in what batches.

use std::ops::Range;

use crate::fhir::datatypes::Id;

/// How many patients one search asks for at most; a batch that does not fit a page is halved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) patients: usize,
    /// Their ids and what stands around them.
    pub(crate) bytes: usize,
}

impl Lists {
    /// Several in one search are not proven to be found.
    pub(crate) const NONE: Self = Self { patients: 1, bytes: 0 };
    /// Below the 2 kB that every server and gateway takes as a URL.
    pub(crate) const IN_A_URL: Self = Self { patients: 50, bytes: 1_700 };
    /// What is asked for by POST.
    pub(crate) const IN_A_FORM: Self = Self { patients: 200, bytes: 10_000 };

    /// The same, with no more than so many bytes.
    pub(crate) fn within(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.min(bytes), ..self }
    }

    /// The same where so many bytes stand beside it.
    pub(crate) fn beside(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.saturating_sub(bytes), ..self }
    }
}

/// What stands around an id: a comma and `Patient/`, escaped.
pub(crate) const AROUND: usize = 13;

/// `members` in batches.
pub(crate) fn batches(members: &[Id], lists: Lists) -> Vec<Range<u32>> {
    let mut batches: Vec<Range<u32>> = Vec::new();
    let mut bytes = 0;
    for (number, member) in (0..).zip(members) {
        bytes += member.as_str().len() + AROUND;
        match batches.last_mut() {
            Some(batch) if batch.len() < lists.patients && bytes <= lists.bytes => batch.end = number + 1,
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
        assert_eq!(batches(&[], Lists::IN_A_URL), vec![]);
        assert_eq!(batches(&ids(1, 3), Lists::IN_A_URL), vec![0..1]);
    }

    #[test]
    fn batches_fit_into_a_url_and_leave_nobody_out() {
        assert_eq!(batches(&ids(120, 3), Lists::IN_A_URL), vec![0..50, 50..100, 100..120]);
        assert_eq!(batches(&ids(3, 3), Lists::NONE), vec![0..1, 1..2, 2..3]);
        let uuids = batches(&ids(100, 36), Lists::IN_A_URL);
        assert!(uuids.iter().all(|batch| batch.len() * (36 + AROUND) <= Lists::IN_A_URL.bytes), "{uuids:?}");
        let short = batches(&ids(100, 36), Lists::IN_A_URL.within(200));
        assert!(short.iter().all(|batch| batch.len() == 4), "{short:?}");
        assert_eq!(batches(&ids(450, 36), Lists::IN_A_FORM), vec![0..200, 200..400, 400..450]);
        let longest = batches(&ids(100, 64), Lists::IN_A_URL);
        assert_eq!(longest.iter().map(ExactSizeIterator::len).sum::<usize>(), 100, "{longest:?}");
        assert!(longest.windows(2).all(|pair| pair[0].end == pair[1].start), "{longest:?}");
    }
}
