//! The folder of the ledger: which files there are, and the lines in them.
//!
//! ```text
//! 0000000000000001.ndjson   the records from this number on; the last file is written to
//! patients/{job}            whose data an export holds, as keyed hashes
//! lock                      held by the process that writes
//! ```

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::chain::{Broken, Keys, LENGTH, Link};
use super::record::Record;
use crate::job::JobId;

/// Longest line that is read; the longest that is written is far below.
const LONGEST_LINE: u64 = 1024 * 1024;
const LOCK: &str = "lock";
const PATIENTS: &str = "patients";

/// One file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The number of its first record.
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

/// Why a ledger cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("could not read {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the ledger's key is not {LENGTH} bytes long")]
    NoKey,
    #[error("{}, line {line}: {why}", .path.display())]
    Broken { path: PathBuf, line: u64, why: Broken },
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
    let path = path.to_owned();
    move |source| ReadError::Io { path, source }
}

pub(super) fn segment(folder: &Path, first: u64) -> Segment {
    Segment { first, path: folder.join(format!("{first:016}.ndjson")) }
}

pub(super) fn lock(folder: &Path) -> PathBuf {
    folder.join(LOCK)
}

pub(super) fn patients(folder: &Path) -> PathBuf {
    folder.join(PATIENTS)
}

/// The list of an export's patients, as its record names it: by its digest, so that another one of the same export, made after
/// a crash, does not take its place.
pub(super) fn list_of(folder: &Path, job: JobId, sha256: &str) -> PathBuf {
    patients(folder).join(list_name(job, sha256))
}

pub(super) fn list_name(job: JobId, sha256: &str) -> String {
    format!("{job}.{sha256}")
}

/// The same where it is: earlier versions had one name for all lists of an export.
pub(super) fn list_at(folder: &Path, job: JobId, sha256: &str) -> PathBuf {
    let named = list_of(folder, job, sha256);
    if named.exists() { named } else { unnamed_list_of(folder, job) }
}

/// The list of an export of an earlier version.
pub(super) fn unnamed_list_of(folder: &Path, job: JobId) -> PathBuf {
    patients(folder).join(job.to_string())
}

/// The files of records in their order.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".ndjson")).and_then(|first| first.parse().ok());
        // Another spelling of a number is no name of ours.
        found.extend(first.map(|first| segment(folder, first)).filter(|segment| segment.path.ends_with(&name)));
    }
    found.sort_unstable_by_key(|segment| segment.first);
    Ok(found)
}

/// The key in a file.
pub(super) fn read_key(path: &Path) -> Result<Keys, ReadError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed(path))?;
    file.take(LENGTH as u64 + 1).read_to_end(&mut bytes).map_err(failed(path))?;
    let secret: [u8; LENGTH] = bytes.try_into().map_err(|_| ReadError::NoKey)?;
    Ok(Keys::new(&secret))
}

/// Reads a file of records, each held against the one before it.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    keys: &'a Keys,
    path: &'a Path,
    reader: BufReader<File>,
    /// The number of the line that was read last, counted from 1.
    line: u64,
    /// The record that was read last; before the first one, what it follows.
    pub(super) last: Option<Link>,
    /// Bytes up to the end of that record.
    pub(super) end: u64,
}

impl<'a> Lines<'a> {
    /// `after` is what the file has to go on from; `None` is whatever it says itself.
    pub(super) fn open(keys: &'a Keys, path: &'a Path, after: Option<Link>) -> Result<Self, ReadError> {
        let reader = BufReader::new(File::open(path).map_err(failed(path))?);
        Ok(Self { keys, path, reader, line: 0, last: after, end: 0 })
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError::Broken`] if it is none: what comes after it cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<Record>, ReadError> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        read.map_err(failed(self.path))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        let record = self.check(&line).map_err(|why| self.broken(why))?;
        self.end += line.len() as u64;
        Ok(Some(record))
    }

    fn check(&mut self, line: &[u8]) -> Result<Record, Broken> {
        let line = line.strip_suffix(b"\n").ok_or(Broken::Cut)?;
        if self.line == 1 {
            let own = Link::before(line)?;
            if self.last.is_some_and(|after| after != own) {
                return Err(Broken::Gap);
            }
            self.last = Some(own);
        }
        let (record, link) = self.last.unwrap_or(Link::START).follow(self.keys, line)?;
        self.last = Some(link);
        Ok(record)
    }

    pub(super) fn broken(&self, why: Broken) -> ReadError {
        ReadError::Broken { path: self.path.to_owned(), line: self.line, why }
    }
}
