//! Lines that go to one file after another, all of which are recorded together: those of a slice that is judged only at its
//! end, and whatever does not fit into files as small as a client wants them.

use std::collections::HashSet;

use super::{Files, FilesError, OpenFile};
use crate::job::checkpoint::{FileContent, FileRecord};
use crate::job::index::IdHash;
use crate::smart::admit::Line;

/// A file that lines are added to, and the full ones before it.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) closed: Vec<FileRecord>,
    /// What those hold.
    closed_ids: HashSet<IdHash>,
    pub(super) open: OpenFile,
}

impl Growing {
    pub(super) fn new(open: OpenFile) -> Self {
        Self { closed: Vec::new(), closed_ids: HashSet::new(), open }
    }

    /// Whether one of them has a resource.
    pub(super) fn hold(&self, id: &IdHash) -> bool {
        self.open.ids.contains(id) || self.closed_ids.contains(id)
    }
}

impl Files {
    /// Goes on in another file.
    pub(super) async fn roll(&mut self, files: &mut Growing, content: FileContent) -> Result<(), FilesError> {
        let next = OpenFile::new(self.number(), self.services.clock.unix_millis());
        let full = std::mem::replace(&mut files.open, next);
        files.closed_ids.extend(&full.ids);
        files.closed.push(full.finish(&self.services, self.lease, content).await?);
        Ok(())
    }

    /// Goes on in another file if with `line` the open one would be larger than its client wants any to be (BD-046). What is
    /// only our own limit may be passed by a slice.
    pub(super) async fn roll_before(
        &mut self,
        files: &mut Growing,
        content: FileContent,
        line: &Line,
    ) -> Result<(), FilesError> {
        let is_too_much =
            self.limits.asked.largest.is_some() && files.open.lacks_room_for(line.len(), self.limits.bytes);
        if is_too_much { self.roll(files, content).await } else { Ok(()) }
    }
}
