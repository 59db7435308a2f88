//! Per level: which searches reach which patients, in what batches.

use std::ops::Range;

/// Patients asked for by one search at first; a batch that does not fit a page is halved. Fifty ids of the
/// longest common form, a UUID, stay below the 2 kB that every server and gateway takes as a URL.
const BATCH: u32 = 50;

/// `members` patients in batches.
pub(crate) fn batches(members: usize) -> Vec<Range<u32>> {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    let starts = (0..members).step_by(BATCH as usize);
    starts.map(|start| start..members.min(start.saturating_add(BATCH))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DS-009: an empty Group yields no search at all, never one without a filter.
    #[test]
    fn no_member_means_no_batch() {
        assert_eq!(batches(0), vec![]);
        assert_eq!(batches(1), vec![0..1]);
        assert_eq!(batches(120), vec![0..50, 50..100, 100..120]);
    }
}
