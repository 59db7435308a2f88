//! What is committed: the files of a job and the slices that each of them holds. What no complete file holds
//! is left to do; that is the whole of resuming.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Epoch;
use crate::bulk::manifest::Method;
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::plan::slice::{Phase, Scope, Slice, Window};

/// The number of a file within its job; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FileNo(pub(crate) u32);

/// One file of a job: recorded as open before its first byte, as complete after its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) no: FileNo,
    pub(crate) content: FileContent,
    pub(crate) state: FileState,
}

/// What the lines of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileContent {
    Resources(ResourceType),
    /// Blocks of patients, each of which begins with a line that says whose it is. Its resources are of many types.
    Blocks,
    Deletions,
    Outcomes,
    /// What the client holds after this export, for the next one to find out what was deleted: `Type/id` on each line. It is
    /// ours alone.
    Held,
}

impl FileContent {
    /// Whether clients may fetch it.
    pub(crate) fn is_for_clients(self) -> bool {
        match self {
            Self::Resources(_) | Self::Blocks | Self::Deletions | Self::Outcomes => true,
            Self::Held => false,
        }
    }
}

/// How far a file has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileState {
    /// Its object may exist in part; nobody may list it.
    Open {
        key: String,
        epoch: Epoch,
        /// The name that a cloud gave to its upload, once it is begun.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upload: Option<String>,
    },
    /// Its object is durable and never changes; its slices are read.
    Complete(CompleteFile),
}

/// What a complete file holds. One without an object holds slices that brought no new line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompleteFile {
    pub(crate) object: Option<StoredObject>,
    /// The key of the sidecar; there is none beside outcomes, nor where there is nothing to say.
    pub(crate) sidecar: Option<String>,
    pub(crate) slices: Vec<SliceRecord>,
    /// The number of the job's commit that completed it, counted from 1: its checkpoint object is called by it. Zero
    /// where there is no such object.
    #[serde(default)]
    pub(crate) commit: u32,
    /// Of what types the lines of a file of blocks are, and how many of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) types: BTreeMap<ResourceType, u64>,
    /// The file in which its last block goes on, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) continued_in: Option<FileNo>,
}

/// One object in the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredObject {
    pub(crate) key: String,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    /// SHA-256 of the object's bytes, in hexadecimal digits.
    pub(crate) sha256: String,
    /// What its lines are, where the object is gzip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plain: Option<Plain>,
}

/// The lines of an object that is stored as gzip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plain {
    pub(crate) bytes: u64,
    /// In hexadecimal digits.
    pub(crate) sha256: String,
}

/// A slice that was accepted, and what it brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SliceRecord {
    pub(crate) slice: Slice,
    /// How many the upstream counted, or, where it does not count, how many two equal readings had.
    pub(crate) expected: u64,
    /// Distinct resources received, without those that had moved.
    pub(crate) received: u64,
    /// Lines written for it: resources that no file held before.
    pub(crate) written: u64,
    /// Resources that a file held already.
    pub(crate) repeated: u64,
    /// Resources that the grant did not admit.
    pub(crate) withheld: u64,
    /// Resources that came and that policy keeps back, of those that had not moved.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) kept_back: u64,
    /// How often it was read again before it was accepted.
    pub(crate) reread: u32,
    /// Resources that the upstream counts and did not give.
    pub(crate) short: u64,
    /// Resources that the upstream counts and fails to give.
    pub(crate) unreadable: u64,
    /// The upstream refuses it, as some do for some patients: nothing of it is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) refused: bool,
    pub(crate) method: Method,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl FileRecord {
    /// The object of a complete file.
    pub(crate) fn object(&self) -> Option<&StoredObject> {
        match &self.state {
            FileState::Complete(file) => file.object.as_ref(),
            FileState::Open { .. } => None,
        }
    }

    /// The sidecar of a complete file.
    pub(crate) fn sidecar(&self) -> Option<&str> {
        match &self.state {
            FileState::Complete(file) => file.sidecar.as_deref(),
            FileState::Open { .. } => None,
        }
    }

    /// The types of the resources that a complete file has, and how many lines are of each.
    pub(crate) fn types(&self) -> BTreeMap<ResourceType, u64> {
        match (self.content, &self.state) {
            (FileContent::Resources(name), _) => self.object().map(|object| (name, object.lines)).into_iter().collect(),
            (FileContent::Blocks, FileState::Complete(file)) => file.types.clone(),
            (FileContent::Blocks, FileState::Open { .. }) => BTreeMap::new(),
            (FileContent::Deletions | FileContent::Outcomes | FileContent::Held, _) => BTreeMap::new(),
        }
    }

    /// The file in which the last block of a complete file goes on.
    pub(crate) fn continued_in(&self) -> Option<FileNo> {
        match &self.state {
            FileState::Complete(file) => file.continued_in,
            FileState::Open { .. } => None,
        }
    }

    /// Whether resources of a type may be among its lines.
    pub(crate) fn may_hold(&self, resource_type: ResourceType) -> bool {
        match self.content {
            FileContent::Resources(name) => name == resource_type,
            FileContent::Blocks => true,
            FileContent::Deletions | FileContent::Outcomes | FileContent::Held => false,
        }
    }

    /// The number of the commit that completed it; zero as long as it is open.
    pub(crate) fn commit(&self) -> u32 {
        match &self.state {
            FileState::Complete(file) => file.commit,
            FileState::Open { .. } => 0,
        }
    }

    /// The slices that a complete file holds; an open one holds none yet.
    pub(crate) fn slices(&self) -> &[SliceRecord] {
        match &self.state {
            FileState::Complete(file) => &file.slices,
            FileState::Open { .. } => &[],
        }
    }
}

/// Records of old windows that lie side by side become one: nobody asks for the single ones again, so that what is kept of
/// a large type is as much as its files, not as its pages. Young ones stay, for they are counted once more.
pub(crate) fn joined(records: Vec<SliceRecord>) -> Vec<SliceRecord> {
    let window = |record: &SliceRecord| match &record.slice {
        Slice { phase: Phase::Old, scope: Scope::Window(window), .. } => Some(*window),
        Slice {
            phase: Phase::Old,
            scope: Scope::Patients { .. } | Scope::Record { .. } | Scope::Ids { .. } | Scope::Targets { .. },
            ..
        }
        | Slice { phase: Phase::Young | Phase::Gap | Phase::Sweep(_), .. }
        | Slice { phase: Phase::References | Phase::Associated, .. } => None,
    };
    let (mut old, others): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| window(record).is_some());
    old.sort_by_key(|record| (record.slice.resource_type, record.slice.filter, window(record)));
    let mut all: Vec<SliceRecord> = Vec::new();
    for next in old {
        let both = all.last().and_then(window).zip(window(&next));
        let meet = both.filter(|(before, after)| before.until.is_some() && before.until == after.from);
        match (all.last_mut(), meet) {
            (Some(last), Some((before, after)))
                if last.method == next.method
                    && last.slice.resource_type == next.slice.resource_type
                    && last.slice.filter == next.slice.filter =>
            {
                last.absorb(&next, Scope::Window(Window { from: before.from, until: after.until }));
            }
            (_, _) => all.push(next),
        }
    }
    all.extend(joined_targets(others));
    all
}

/// The same of patients who were asked for side by side, by one link and since the same time, and of all that their blocks
/// refer to. Those whom the server refuses stay: they are counted.
pub(crate) fn joined_patients(records: Vec<SliceRecord>) -> Vec<SliceRecord> {
    let patients = |record: &SliceRecord| match &record.slice.scope {
        Scope::Patients { link, members, from } if !record.refused => {
            Some((Way::Link(link.clone(), *from), members.clone()))
        }
        Scope::Record { members } if !record.refused => Some((Way::Record, members.clone())),
        // Which of them it was says nothing later: they are found anew of each patient.
        Scope::Ids { list } => Some((Way::Id, list.clone())),
        Scope::Patients { .. } | Scope::Record { .. } | Scope::Window(_) | Scope::Targets { .. } => None,
    };
    let (mut lists, mut all): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| patients(record).is_some());
    lists.sort_by_cached_key(|record| {
        let (way, members) = patients(record).unwrap_or((Way::Id, 0..0));
        (record.slice.resource_type, record.slice.filter, way, members.start)
    });
    for next in lists {
        let both = all.last().and_then(|last: &SliceRecord| patients(last)).zip(patients(&next));
        let meet = both
            .filter(|((way, before), (other, after))| way == other && (before.end == after.start || *way == Way::Id));
        match (all.last_mut(), meet) {
            (Some(last), Some(((way, before), (_, after))))
                if last.method == next.method
                    && last.slice.resource_type == next.slice.resource_type
                    && last.slice.filter == next.slice.filter =>
            {
                let members = before.start..after.end;
                let scope = match way {
                    Way::Link(link, from) => Scope::Patients { link, members, from },
                    Way::Record => Scope::Record { members },
                    Way::Id => {
                        Scope::Ids { list: 0..(before.end - before.start).saturating_add(after.end - after.start) }
                    }
                };
                last.absorb(&next, scope);
            }
            (_, _) => all.push(next),
        }
    }
    all
}

/// How patients are asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Link(Box<str>, Option<Millis>),
    Record,
    /// They are none, but what lines of their blocks refer to.
    Id,
}

/// The same of lines of one file that were asked about side by side.
fn joined_targets(records: Vec<SliceRecord>) -> Vec<SliceRecord> {
    let targets = |record: &SliceRecord| match &record.slice.scope {
        Scope::Targets { file, lines } => Some((*file, lines.clone())),
        Scope::Window(_) | Scope::Patients { .. } | Scope::Record { .. } | Scope::Ids { .. } => None,
    };
    let (mut lists, mut all): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| targets(record).is_some());
    lists.sort_by_key(|record| (record.slice.filter, targets(record).map(|(file, lines)| (file, lines.start))));
    for next in lists {
        match (all.last_mut(), targets(&next)) {
            (Some(last), Some((file, lines)))
                if last.method == next.method
                    && last.slice.filter == next.slice.filter
                    && targets(last).is_some_and(|(other, before)| other == file && before.end == lines.start) =>
            {
                let from = targets(last).map_or(lines.start, |(_, before)| before.start);
                last.absorb(&next, Scope::Targets { file, lines: from..lines.end });
            }
            (_, _) => all.push(next),
        }
    }
    all
}

impl SliceRecord {
    /// Of a slice of which all that was counted came, at the first reading, and was written.
    pub(crate) fn counted(slice: Slice, number: u64) -> Self {
        Self {
            slice,
            expected: number,
            received: number,
            written: number,
            repeated: 0,
            withheld: 0,
            kept_back: 0,
            reread: 0,
            short: 0,
            unreadable: 0,
            refused: false,
            method: Method::Counted,
        }
    }

    fn absorb(&mut self, next: &Self, scope: Scope) {
        self.slice.scope = scope;
        self.expected = self.expected.saturating_add(next.expected);
        self.received = self.received.saturating_add(next.received);
        self.written = self.written.saturating_add(next.written);
        self.repeated = self.repeated.saturating_add(next.repeated);
        self.withheld = self.withheld.saturating_add(next.withheld);
        self.kept_back = self.kept_back.saturating_add(next.kept_back);
        self.reread = self.reread.saturating_add(next.reread);
        self.short = self.short.saturating_add(next.short);
        self.unreadable = self.unreadable.saturating_add(next.unreadable);
        self.refused |= next.refused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(phase: Phase, from: Option<i64>, until: i64, written: u64, method: Method) -> SliceRecord {
        let window = Window { from: from.map(Millis), until: Some(Millis(until)) };
        let slice = Slice { phase, resource_type: ResourceType::PATIENT, filter: None, scope: Scope::Window(window) };
        let (expected, received) = (written, written);
        let none = (0, 0, 0, 1, 0);
        let (repeated, withheld, short, reread, unreadable) = none;
        let (refused, kept_back) = (false, 0);
        SliceRecord {
            slice,
            expected,
            received,
            written,
            repeated,
            withheld,
            kept_back,
            reread,
            short,
            unreadable,
            refused,
            method,
        }
    }

    #[test]
    fn old_windows_that_meet_are_one_record_and_say_the_same_together() {
        use Method::{Counted, Reread};
        let read = vec![
            record(Phase::Old, Some(20), 30, 3, Counted),
            record(Phase::Young, Some(60), 70, 6, Counted),
            record(Phase::Old, None, 10, 1, Counted),
            record(Phase::Young, Some(70), 80, 7, Counted),
            record(Phase::Old, Some(10), 20, 2, Counted),
            record(Phase::Old, Some(30), 40, 4, Reread),
            record(Phase::Old, Some(50), 60, 5, Reread),
        ];
        let kept = joined(read.clone());
        let first = SliceRecord { reread: 3, ..record(Phase::Old, None, 30, 6, Counted) };
        assert_eq!(kept, [first, read[5].clone(), read[6].clone(), read[1].clone(), read[3].clone()]);
        let windows = |records: &[SliceRecord]| records.iter().map(|record| record.slice.window()).collect::<Vec<_>>();
        assert_eq!(Window::ALL.remaining(windows(&kept)), Window::ALL.remaining(windows(&read)), "the same is left");
        assert_eq!(joined(Vec::new()), []);
    }

    #[test]
    fn lines_that_were_asked_about_side_by_side_are_one_record() {
        let targets = |file, lines: std::ops::Range<u32>| {
            let first = record(Phase::Associated, None, 0, u64::from(lines.end - lines.start), Method::Counted);
            let scope = Scope::Targets { file, lines };
            SliceRecord { slice: Slice { scope, ..first.slice.clone() }, ..first }
        };
        let read = vec![targets(1, 50..100), targets(2, 0..50), targets(1, 0..50), targets(1, 120..130)];
        let kept = joined(read.clone());
        let whole = SliceRecord { reread: 2, ..targets(1, 0..100) };
        assert_eq!(kept, [whole, targets(1, 120..130), targets(2, 0..50)]);
        let asked = targets(1, 0..200).slice;
        let left = asked.remaining(kept.iter().map(|record| &record.slice));
        assert_eq!(left, asked.remaining(read.iter().map(|record| &record.slice)), "the same is left");
        assert_eq!(left, [targets(1, 100..120).slice, targets(1, 130..200).slice]);
    }

    #[test]
    fn patients_who_were_asked_for_side_by_side_are_one_record() {
        let patients = |link: &str, members: std::ops::Range<u32>, refused| {
            let first = record(Phase::Young, None, 0, u64::from(members.end - members.start), Method::Counted);
            let scope = Scope::Patients { link: link.into(), members, from: None };
            SliceRecord { slice: Slice { scope, ..first.slice.clone() }, refused, ..first }
        };
        let ids = |list: std::ops::Range<u32>| {
            let first = record(Phase::References, None, 0, u64::from(list.end - list.start), Method::Counted);
            SliceRecord { slice: Slice { scope: Scope::Ids { list }, ..first.slice.clone() }, ..first }
        };
        let read = vec![
            patients("subject", 2..4, false),
            ids(0..2),
            patients("performer", 0..4, false),
            patients("subject", 4..5, true),
            patients("subject", 0..2, false),
            patients("subject", 6..8, false),
            ids(0..3),
        ];
        let kept = joined_patients(read.clone());
        let whole = SliceRecord { reread: 2, ..patients("subject", 0..4, false) };
        let of_ids = SliceRecord { reread: 2, ..ids(0..5) };
        for expected in [&whole, &of_ids, &read[2], &read[3], &read[5]] {
            assert!(kept.contains(expected), "{expected:?} in {kept:?}");
        }
        assert_eq!(kept.len(), 5, "{kept:?}");
        let asked = patients("subject", 0..9, false).slice;
        let left = asked.remaining(kept.iter().map(|record| &record.slice));
        assert_eq!(left, asked.remaining(read.iter().map(|record| &record.slice)), "the same is left");
    }
}
