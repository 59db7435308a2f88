//! The pages of a manifest: which files each of them lists.
//!
//! A file is of the page in which the commit falls that completed it, and neither ever changes: so a page that was read once
//! lists the same for good. A page is whole once the commit is recorded that it ends with, in the same transaction. The last
//! one is whole when the job is complete.

use super::checkpoint::FileRecord;

/// The pages of one manifest as far as they are whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages<'a> {
    /// The commits that pages end with, in their order.
    ends: &'a [u32],
    /// Whether what comes after the last of them is a page as well: the job is complete.
    is_over: bool,
}

impl<'a> Pages<'a> {
    /// Of a job that goes on.
    pub(crate) fn so_far(ends: &'a [u32]) -> Self {
        Self { ends, is_over: false }
    }

    /// Of a job that is complete.
    pub(crate) fn all(ends: &'a [u32]) -> Self {
        Self { ends, is_over: true }
    }

    pub(crate) fn count(self) -> usize {
        self.ends.len() + usize::from(self.is_over)
    }

    /// Whether a page lists a file; the first page is number 1.
    pub(crate) fn hold(self, number: usize, file: &FileRecord) -> bool {
        let commit = file.commit();
        let before = number.checked_sub(2).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let is_last = self.is_over && number == self.count();
        let end = number.checked_sub(1).and_then(|own| self.ends.get(own)).copied();
        // Records from before commits had numbers have none, and one page.
        let is_after = commit > before || before == 0;
        is_after && (is_last || end.is_some_and(|end| commit <= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::resource_type::ResourceType;
    use crate::job::checkpoint::{CompleteFile, FileContent, FileNo, FileState};

    fn file(commit: u32) -> FileRecord {
        let state = FileState::Complete(CompleteFile {
            object: None,
            sidecar: None,
            slices: Vec::new(),
            commit,
            ..CompleteFile::default()
        });
        FileRecord { no: FileNo(commit), content: FileContent::Resources(ResourceType::PATIENT), state }
    }

    fn listed(pages: Pages<'_>) -> Vec<Vec<u32>> {
        let numbers = 1..=pages.count();
        numbers.map(|number| (1..=9).filter(|commit| pages.hold(number, &file(*commit))).collect()).collect()
    }

    #[test]
    fn each_file_is_on_one_page_and_stays_there() {
        assert_eq!(listed(Pages::so_far(&[])), Vec::<Vec<u32>>::new());
        assert_eq!(listed(Pages::so_far(&[3])), [vec![1, 2, 3]]);
        assert_eq!(listed(Pages::so_far(&[3, 4])), [vec![1, 2, 3], vec![4]]);
        assert_eq!(listed(Pages::all(&[3, 4])), [vec![1, 2, 3], vec![4], vec![5, 6, 7, 8, 9]]);
        assert_eq!(listed(Pages::all(&[])), [(1..=9).collect::<Vec<_>>()]);
        assert!(Pages::all(&[]).hold(1, &file(0)), "a record from before commits had numbers");
        for number in [0, 2] {
            assert!(!Pages::all(&[]).hold(number, &file(1)), "there is no page {number}");
        }
    }
}
