//! Reads a ledger as it lies on disk, also while a process writes it: holds every record against the key, and the whole
//! against the copies of its head.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::chain::{Broken, Head, Keys, Link};
pub(crate) use super::folder::ReadError;
use super::folder::{self, Lines, failed};
use super::patients;
use super::record::{Event, Patients, Record};
use crate::fhir::datatypes::Id;
use crate::job::JobId;

/// A ledger that is only read.
#[derive(Debug)]
pub(crate) struct Reader {
    folder: PathBuf,
    keys: Keys,
}

/// What was found where a ledger was read to its end.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Records that are as they were written.
    pub(crate) records: u64,
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<Link>,
    /// What is wrong.
    pub(crate) problems: Vec<String>,
    /// What is only to be said.
    pub(crate) notes: Vec<String>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (Some(first), Some(last)) => {
                writeln!(f, "{} records, {first} to {}, are as they were written", self.records, last.seq)?;
            }
            _ => writeln!(f, "there are no records")?,
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "BAD: {problem}"))?;
        if self.problems.is_empty() { writeln!(f, "the ledger is good") } else { Ok(()) }
    }
}

impl Reader {
    pub(crate) fn open(folder: &Path, key: &Path) -> Result<Self, ReadError> {
        Ok(Self { folder: folder.to_owned(), keys: folder::read_key(key)? })
    }

    /// Gives every record to `each`, in their order. What a crash has left of a write at the end is passed over; gives whether
    /// there was some.
    pub(crate) fn read<E: From<ReadError>>(
        &self,
        mut each: impl FnMut(Record, Link) -> Result<(), E>,
    ) -> Result<bool, E> {
        let segments = folder::segments(&self.folder).map_err(failed(&self.folder))?;
        let mut after = None;
        for (number, segment) in segments.iter().enumerate() {
            let is_last = number + 1 == segments.len();
            let mut lines = Lines::open(&self.keys, &segment.path, after)?;
            let mut first = Some(segment.first);
            loop {
                match lines.next() {
                    Ok(Some(record)) => {
                        if first.take().is_some_and(|first| first != record.seq) {
                            return Err(lines.broken(Broken::Number).into());
                        }
                        let link = lines.last.unwrap_or(Link::START);
                        each(record, link)?;
                    }
                    Ok(None) => break,
                    Err(ReadError::Broken { why: Broken::Cut, .. }) if is_last => return Ok(true),
                    Err(error) => return Err(error.into()),
                }
            }
            after = lines.last.or(after);
        }
        Ok(false)
    }

    /// Holds everything against everything. `copies` are copies of the head with what they are called.
    pub(crate) fn verify(&self, copies: &[(String, io::Result<Option<Vec<u8>>>)]) -> Findings {
        let mut findings = Findings::default();
        let mut heads = BTreeMap::new();
        for (name, copy) in copies {
            match copy {
                Ok(Some(text)) => match Head::open(&self.keys, text) {
                    Some(head) => heads.entry(head.seq).or_insert_with(Vec::new).push((name, head)),
                    None => findings.problems.push(format!("the copy of the head in {name} cannot be authenticated")),
                },
                Ok(None) => findings.problems.push(format!("there is no copy of the head in {name}")),
                Err(error) => findings.problems.push(format!("the copy of the head in {name} cannot be read: {error}")),
            }
        }
        let (mut retired, mut lists, mut without_copies) = (1, BTreeMap::new(), None);
        let read = self.read(|record, link| {
            findings.records += 1;
            findings.first.get_or_insert(record.seq);
            findings.last = Some(link);
            for (name, head) in heads.get(&link.seq).into_iter().flatten() {
                if head.mac != link.mac {
                    let seq = link.seq;
                    findings.problems.push(format!("record {seq} is another one than {name} says that there was"));
                }
            }
            match record.event {
                Event::Retired { first } => retired = first,
                Event::Opened { copies_missing: 0, copies_foreign: 0, .. } => {}
                Event::Opened { copies_missing, copies_foreign, .. } => {
                    let starts = without_copies.map_or(0, |(starts, _)| starts);
                    without_copies = Some((starts + 1_u64, (record.seq, record.at, copies_missing, copies_foreign)));
                }
                Event::Finished(finished) => drop(lists.insert(finished.job, (record.seq, finished.patients))),
                _ => {}
            }
            Ok::<_, ReadError>(())
        });
        match read {
            Ok(false) => {}
            Ok(true) => findings
                .notes
                .push("the last line is not whole: it was being written, or a crash cut it off".to_owned()),
            Err(error) => findings.problems.push(crate::telemetry::error_chain(&error)),
        }
        if let Some((starts, (seq, at, missing, foreign))) = without_copies {
            findings.notes.push(format!(
                "at {starts} starts the end could not be held against all copies of the head: at the last of them, record {seq} \
                 at {at}, {missing} could not be read and {foreign} were of another ledger or changed"
            ));
        }
        if let Some(first) = findings.first.filter(|first| *first > retired) {
            findings.problems.push(format!("records before {first} are missing, and were not removed for their age"));
        }
        let last = findings.last.map_or(0, |last| last.seq);
        for (name, head) in heads.range(last + 1..).flat_map(|(_, heads)| heads) {
            let (seq, at) = (head.seq, head.at);
            findings.problems.push(format!(
                "records are missing at the end: the ledger ends with {last}, and by {name} it had come to {seq} at {at}"
            ));
        }
        for (job, (seq, list)) in lists.into_iter().filter(|(_, (seq, _))| *seq >= retired) {
            if let Err(problem) = self.check_list(job, &list) {
                findings.problems.push(format!("the list of patients of export {job} (record {seq}) {problem}"));
            }
        }
        findings
    }

    fn check_list(&self, job: JobId, list: &Patients) -> Result<(), &'static str> {
        match patients::sha256(&folder::list_at(&self.folder, job, &list.sha256)) {
            Ok(found) if found == *list.sha256 => Ok(()),
            Ok(_) => Err("was changed"),
            Err(error) if error.kind() == ErrorKind::NotFound => Err("is missing"),
            Err(_) => Err("cannot be read"),
        }
    }

    /// The exports that hold data of a patient, and those that may: of anybody, or of whom is not recorded here.
    pub(crate) fn exports_of(&self, patient: &Id) -> Result<BTreeMap<JobId, Share>, ReadError> {
        let (mut exports, mut finished_ones, mut disclosed) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        self.read(|record, _| {
            if matches!(record.event, Event::Manifest(_) | Event::LinkIssued(_) | Event::FileBegun(_)) {
                disclosed.extend(record.event.job());
            }
            if let Event::Finished(finished) = record.event {
                finished_ones.insert(finished.job);
                let list = folder::list_at(&self.folder, finished.job, &finished.patients.sha256);
                match patients::holds(&self.keys, &list, patient) {
                    Ok(true) => drop(exports.insert(finished.job, Share::Listed)),
                    Ok(false) if finished.patients.anybody => drop(exports.insert(finished.job, Share::Possible)),
                    Ok(false) => drop(exports.remove(&finished.job)),
                    Err(source) => return Err(ReadError::Io { path: list, source }),
                }
            }
            Ok(())
        })?;
        // Of an export from before this ledger, or of which the records of its end were retired.
        exports.extend(disclosed.difference(&finished_ones).map(|job| (*job, Share::Unknown)));
        Ok(exports)
    }
}

/// What an export holds of a patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Data of theirs.
    Listed,
    /// Whatever the server had of anybody: it may be data of theirs, too.
    Possible,
    /// Something of it was disclosed, and there is no record of what it holds.
    Unknown,
}

/// A copy of the head in a file.
pub(crate) fn copy_in(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(found) if found.len() > 4096 => Err(ErrorKind::InvalidData.into()),
        Ok(_) => fs::read(path).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
