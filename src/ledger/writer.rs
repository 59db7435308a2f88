//! The files of the ledger as the one process that writes them holds them.
//!
//! A record is acknowledged once it is on disk, end of line and all. So a last line without its end was never acknowledged:
//! it is what a crash has left of a write, and is cut off. So is a rest of zeros, which some file systems leave of one.
//! Whatever else is not the next record was changed by somebody, or by a failing disk: then nothing is written after it, and
//! an operator has to look.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::chain::{Broken, Head, Keys, LENGTH, Link};
use super::copies::{Copies, Held, Written};
use super::folder::{self, Lines, ReadError, Segment};
use super::record::{Event, Finished, Record};
use super::{Fault, Settings};
use crate::clock;
use crate::disk;
use crate::fhir::datatypes::{Instant, Millis};
use crate::store::{FolderError, private_folder};

/// A file is followed by another one once it has this size, or with the next month.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// What one write can leave behind: so much is cut off at most.
pub(super) const MOST_AT_ONCE: usize = 1024 * 1024;

/// What became of events.
pub(super) struct Appended {
    /// One for each: `None` if it is not durable.
    pub(super) records: Vec<Option<Record>>,
    /// Why the last of them could not be written. What is only too long is not among it.
    pub(super) failed: Option<io::Error>,
}

/// Why the ledger cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the folder of the ledger cannot be used")]
    Folder(#[from] FolderError),
    #[error("another process writes this ledger")]
    Locked,
    #[error(
        "there is no {}, and without it nothing can be told of the ledger that is there; put the key back, or move the \
         ledger away to begin another one", .0.display()
    )]
    KeyLost(PathBuf),
    #[error("{} is readable by others; make it 0600", .0.display())]
    KeyExposed(PathBuf),
    #[error("could not make the ledger's key {}", .path.display())]
    Key { path: PathBuf, source: io::Error },
    #[error(
        "the ledger holds something that it did not end with; run `offtake ledger verify`, and move the ledger away to begin \
         another one"
    )]
    Read(#[from] ReadError),
    #[error(
        "{} says that the ledger had come to record {had}, and it does not hold that any more: records are missing; run \
         `offtake ledger verify`, and move ledger and copy away to begin another one", .copy.display()
    )]
    Truncated { copy: PathBuf, had: u64 },
    #[error("the ledger does not hold any more what this process has written to it; run `offtake ledger verify`")]
    Changed,
    #[error("could not write the ledger")]
    Write(#[source] io::Error),
}

/// What is written to.
#[derive(Debug)]
pub(super) struct Files {
    settings: Arc<Settings>,
    copies: Arc<Copies>,
    pub(super) keys: Arc<Keys>,
    file: File,
    segment: Segment,
    /// Bytes that are on disk for certain.
    durable: u64,
    /// A write has failed: what it has left beyond that has to go first.
    is_torn: bool,
    /// The next file was begun and may be there in part: nothing more is written to this one.
    must_roll: bool,
    pub(super) last: Link,
    /// The month of the segment's first record, such as `2026-11`.
    month: String,
    /// What is to be handed on.
    recent: Vec<Record>,
    /// When the last record was.
    last_at: Instant,
    /// It was said that the clock may have been wrong, and that nothing is removed for its age.
    keeps_all: bool,
    _lock: File,
}

impl Files {
    /// Opens the ledger or begins one, and records that. `known` is how far this process has seen it come.
    pub(super) fn open(
        settings: &Arc<Settings>,
        copies: &Arc<Copies>,
        now: Millis,
        known: Option<Head>,
    ) -> Result<Self, OpenError> {
        private_folder(&settings.folder)?;
        private_folder(&folder::patients(&settings.folder))?;
        // What is on disk is to be found there, too.
        disk::sync_folder_of(&settings.folder).map_err(OpenError::Write)?;
        let lock = locked(&settings.folder)?;
        let unreadable = |source| ReadError::Io { path: settings.folder.clone(), source };
        let segments = folder::segments(&settings.folder).map_err(unreadable)?;
        let keys = Arc::new(key(&settings.key_file, segments.is_empty())?);
        let opened = Self::go_on((settings, copies), &keys, segments, &lock)?;
        let is_new = opened.is_none();
        let (mut files, cut) = match opened {
            Some(opened) => opened,
            None if known.is_some() => return Err(OpenError::Changed),
            None => (Self::begin((settings, copies), keys, Instant::from(now), lock)?, 0),
        };
        let found = copies.check(&files.held())?;
        // There are none of a ledger that begins.
        let copies_missing = if is_new { 0 } else { found.missing };
        if let Some(known) = known
            && !files.holds(&known)?
        {
            return Err(OpenError::Changed);
        }
        let now = Instant::from(now);
        let version = env!("CARGO_PKG_VERSION").into();
        let opened = Event::Opened { version, cut, copies_missing, copies_foreign: found.foreign };
        files.append(now, vec![opened]).map_err(OpenError::Write)?;
        Ok(files)
    }

    /// Opens the last file that holds a record.
    fn go_on(
        (settings, copies): (&Arc<Settings>, &Arc<Copies>),
        keys: &Arc<Keys>,
        mut segments: Vec<Segment>,
        lock: &File,
    ) -> Result<Option<(Self, u64)>, OpenError> {
        let mut cut = 0;
        while let Some(segment) = segments.pop() {
            let mut lines = Lines::open(keys, &segment.path, None)?;
            let mut first = None;
            let mut last_at = None;
            let broken = loop {
                match lines.next() {
                    Ok(Some(record)) => {
                        first.get_or_insert((record.seq, record.at));
                        last_at = Some(record.at);
                    }
                    Ok(None) => break None,
                    Err(ReadError::Broken { path, line, why }) => break Some(ReadError::Broken { path, line, why }),
                    Err(error) => return Err(error.into()),
                }
            };
            let (end, last) = (lines.end, lines.last);
            if let Some(broken) = broken {
                cut += unacknowledged(&segment.path, end).ok_or(broken)?;
            }
            let (Some((first, first_at)), Some(last), Some(last_at)) = (first, last, last_at) else {
                // Nothing of it was ever acknowledged.
                fs::remove_file(&segment.path).map_err(OpenError::Write)?;
                continue;
            };
            if segment.first != first {
                return Err(lines.broken(Broken::Number).into());
            }
            let file = append_to(&segment.path).map_err(OpenError::Write)?;
            let lock = lock.try_clone().map_err(OpenError::Write)?;
            let mut files = Self {
                settings: Arc::clone(settings),
                copies: Arc::clone(copies),
                keys: Arc::clone(keys),
                file,
                segment,
                durable: end,
                is_torn: true,
                must_roll: false,
                recent: Vec::new(),
                last,
                month: month(first_at),
                last_at,
                keeps_all: false,
                _lock: lock,
            };
            files.repair().map_err(OpenError::Write)?;
            return Ok(Some((files, cut)));
        }
        Ok(None)
    }

    /// Begins a ledger.
    fn begin(
        (settings, copies): (&Arc<Settings>, &Arc<Copies>),
        keys: Arc<Keys>,
        now: Instant,
        lock: File,
    ) -> Result<Self, OpenError> {
        let segment = folder::segment(&settings.folder, 1);
        let (file, durable, last) = begun(&segment.path, &keys, Link::START, now).map_err(OpenError::Write)?;
        Ok(Self {
            settings: Arc::clone(settings),
            copies: Arc::clone(copies),
            keys,
            file,
            segment,
            durable,
            is_torn: false,
            must_roll: false,
            recent: Vec::new(),
            last,
            month: month(now),
            last_at: now,
            keeps_all: false,
            _lock: lock,
        })
    }

    /// Makes events durable, and gives their records.
    ///
    /// # Errors
    /// If not all of them are.
    pub(super) fn append(&mut self, now: Instant, events: Vec<Event>) -> io::Result<Vec<Record>> {
        let Appended { records, failed } = self.append_each(now, events);
        failed.map_or(Ok(()), Err)?;
        records.into_iter().collect::<Option<_>>().ok_or_else(|| ErrorKind::InvalidInput.into())
    }

    /// Makes events durable in their order, as many as may be at once. What is too long for any write is left out.
    pub(super) fn append_each(&mut self, now: Instant, events: Vec<Event>) -> Appended {
        let mut records = Vec::with_capacity(events.len());
        let count = events.len();
        let failed = self.append_into(&mut records, now, events).err();
        records.resize_with(count, || None);
        Appended { records, failed }
    }

    fn append_into(&mut self, durable: &mut Vec<Option<Record>>, now: Instant, events: Vec<Event>) -> io::Result<()> {
        self.fault()?;
        self.repair()?;
        self.check_file()?;
        if self.must_roll || self.durable >= MOST_BYTES || month(now) != self.month {
            self.roll(now)?;
        }
        let (mut text, mut last, mut records) = (Vec::new(), self.last, Vec::with_capacity(events.len()));
        for mut event in events {
            event.hide(|clear| self.keys.hidden(clear));
            let (line, link, record) = last.add(&self.keys, now, event)?;
            if line.len() > MOST_AT_ONCE {
                records.push(None);
                continue;
            }
            if text.len() + line.len() > MOST_AT_ONCE {
                self.write(now, &std::mem::take(&mut text), last, &records)?;
                durable.append(&mut records);
            }
            text.extend_from_slice(&line);
            last = link;
            records.push(Some(record));
        }
        self.write(now, &text, last, &records)?;
        durable.append(&mut records);
        Ok(())
    }

    /// Makes these records durable, all of them or none.
    fn write(&mut self, now: Instant, text: &[u8], last: Link, records: &[Option<Record>]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.is_torn = true;
        if let Err(error) = self.file.write_all(text).and_then(|()| self.fault()).and_then(|()| self.file.sync_data()) {
            // Nobody is to read what was never acknowledged. If it cannot go now, it goes before the next write.
            let _goes_later = self.repair();
            return Err(error);
        }
        self.is_torn = false;
        self.durable += text.len() as u64;
        self.last = last;
        self.last_at = now;
        if self.settings.forward.is_some() {
            self.recent.extend(records.iter().flatten().cloned());
        }
        Ok(())
    }

    /// Fails where a test wants it.
    fn fault(&self) -> io::Result<()> {
        self.settings.fault.as_ref().map_or(Ok(()), |Fault(fault)| fault())
    }

    /// Removes what a write that failed has left.
    fn repair(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.durable)?;
            self.file.sync_all()?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Whether the file is the one that it was, with nothing added and nothing taken away.
    fn check_file(&self) -> io::Result<()> {
        let (own, found) = (self.file.metadata()?, fs::metadata(&self.segment.path)?);
        let is_same = own.ino() == found.ino() && own.dev() == found.dev() && own.len() == self.durable;
        if is_same { Ok(()) } else { Err(io::Error::new(ErrorKind::NotFound, "the file was changed by somebody else")) }
    }

    fn roll(&mut self, now: Instant) -> io::Result<()> {
        self.must_roll = true;
        let segment = folder::segment(&self.settings.folder, self.last.seq + 1);
        let (file, durable, last) = begun(&segment.path, &self.keys, self.last, now)?;
        self.must_roll = false;
        (self.file, self.durable, self.last, self.segment, self.month) = (file, durable, last, segment, month(now));
        Ok(())
    }

    /// What was recorded since this was asked last, where it is handed on.
    pub(super) fn recent(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.recent)
    }

    #[cfg(test)]
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How far it has come.
    pub(super) fn head(&self) -> Head {
        Head { seq: self.last.seq, mac: self.last.mac, at: self.last_at }
    }

    /// Whether the ledger holds what a head says that it did. One from before all that is kept is believed.
    pub(super) fn holds(&self, head: &Head) -> Result<bool, ReadError> {
        self.held().holds(head)
    }

    fn held(&self) -> Held {
        Held { keys: Arc::clone(&self.keys), folder: self.settings.folder.clone(), head: self.head() }
    }

    /// Writes the head to where it is copied, which nobody has to wait for.
    pub(super) fn copy_head(&self) -> Written {
        self.copies.write(&self.held())
    }

    /// Removes whole files, and the lists of the exports in them, all of whose records are older than is kept.
    pub(super) fn retire(&mut self, now: Millis) -> Result<(), OpenError> {
        let kept_since = now.0.saturating_sub(millis(self.settings.retention));
        let unreadable = |source| ReadError::Io { path: self.settings.folder.clone(), source };
        let segments = folder::segments(&self.settings.folder).map_err(unreadable)?;
        let mut old = Vec::new();
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            let mut lines = Lines::open(&self.keys, &next.path, None)?;
            let Some(begun) = lines.next()? else { break };
            if begun.at.floor_millis().0 >= kept_since {
                break;
            }
            old.push((segment, next.first));
        }
        let Some((_, first)) = old.last().copied() else { return Ok(()) };
        if self.has_jumped_since(&segments, kept_since, now)? {
            if !std::mem::replace(&mut self.keeps_all, true) {
                tracing::warn!(
                    "nothing is removed from the ledger for its age: by its records the clock has jumped, or nothing was \
                     recorded for two months; this goes on until that itself is older than what is kept"
                );
            }
            return Ok(());
        }
        self.keeps_all = false;
        let lists = self.lists_of_these_alone(&segments, first)?;
        // First it is said: what then is missing was removed by us.
        self.append(Instant::from(now), vec![Event::Retired { first }]).map_err(OpenError::Write)?;
        for path in lists.into_iter().chain(old.into_iter().map(|(segment, _)| segment.path.clone())) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(OpenError::Write(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The lists of patients that records before the number `kept` name, and none from there on: an export may have been
    /// finished twice, with a crash between.
    fn lists_of_these_alone(&self, segments: &[Segment], kept: u64) -> Result<HashSet<PathBuf>, ReadError> {
        let (mut old, mut still) = (HashSet::new(), HashSet::new());
        for segment in segments {
            let lists = if segment.first < kept { &mut old } else { &mut still };
            let mut lines = Lines::open(&self.keys, &segment.path, None)?;
            while let Some(record) = lines.next()? {
                if let Event::Finished(Finished { job, patients, .. }) = record.event {
                    lists.insert(folder::list_of(&self.settings.folder, job, &patients.sha256));
                    lists.insert(folder::unnamed_list_of(&self.settings.folder, job));
                }
            }
        }
        old.retain(|list| !still.contains(list));
        Ok(old)
    }

    /// Whether the times in the records have gone back or leapt ahead at a place that is not older than what is kept: then
    /// none of them tells how old a record is (SEC-44). That is told by the records, since a clock may stay wrong for longer
    /// than a process runs.
    fn has_jumped_since(&self, segments: &[Segment], kept_since: i64, now: Millis) -> Result<bool, ReadError> {
        let last_at = self.last_at.floor_millis().0;
        if is_jump(last_at, now.0) {
            return Ok(true);
        }
        let mut before: Option<(&Segment, i64)> = None;
        for segment in segments {
            let mut lines = Lines::open(&self.keys, &segment.path, None)?;
            let Some(begun) = lines.next()? else { break };
            let begun = begun.at.floor_millis().0;
            // A file is of one month: only if the beginnings are so far apart, it is looked at where the one before ends.
            if let Some((before, its_beginning)) = before
                && is_jump(its_beginning, begun)
            {
                let end = self.end_of(before)?.unwrap_or(its_beginning);
                if (begun < its_beginning || is_jump(end, begun)) && end.max(begun) >= kept_since {
                    return Ok(true);
                }
            }
            before = Some((segment, begun));
        }
        Ok(false)
    }

    /// When the last record of a file was.
    fn end_of(&self, segment: &Segment) -> Result<Option<i64>, ReadError> {
        let (mut lines, mut end) = (Lines::open(&self.keys, &segment.path, None)?, None);
        while let Some(record) = lines.next()? {
            end = Some(record.at.floor_millis().0);
        }
        Ok(end)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Whether no clock that goes right, of a process that runs, would have come from one time to the other.
fn is_jump(from: i64, to: i64) -> bool {
    /// Nobody records less often.
    const AHEAD: Duration = Duration::from_hours(62 * 24);
    /// A clock is set right by a little now and then.
    const BACK: Duration = Duration::from_hours(1);
    let passed = to.saturating_sub(from);
    passed > millis(AHEAD) || passed < -millis(BACK)
}

fn month(at: Instant) -> String {
    at.to_string().chars().take(7).collect()
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

/// Begins a file: what is there under its name was never acknowledged.
fn begun(path: &Path, keys: &Keys, last: Link, now: Instant) -> io::Result<(File, u64, Link)> {
    let (line, link, _) = last.add(keys, now, Event::Begun { previous: last.mac })?;
    let mut made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    made.write_all(&line)?;
    made.sync_all()?;
    disk::sync_folder_of(path)?;
    Ok((append_to(path)?, line.len() as u64, link))
}

/// How many bytes from `end` on a crash has left of a write that was never acknowledged; `None` if they can be anything else.
fn unacknowledged(path: &Path, end: u64) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(end)).ok()?;
    let mut rest = Vec::new();
    file.take(MOST_AT_ONCE as u64 + 1).read_to_end(&mut rest).ok()?;
    let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
    let text = &rest[..rest.len() - zeros];
    (rest.len() <= MOST_AT_ONCE && !text.contains(&b'\n')).then_some(rest.len() as u64)
}

/// Takes the folder for this process, until what is given is dropped.
fn locked(folder: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(false).mode(0o600).open(folder::lock(folder));
    let lock = opened.map_err(OpenError::Write)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked),
        Err(TryLockError::Error(error)) => Err(OpenError::Write(error)),
    }
}

/// The key, made if there is no ledger yet.
fn key(path: &Path, is_new: bool) -> Result<Keys, OpenError> {
    // A secret that is mounted is a link.
    match fs::metadata(path) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            return Err(OpenError::KeyExposed(path.to_owned()));
        }
        Ok(_) => return Ok(folder::read_key(path)?),
        Err(error) if error.kind() == ErrorKind::NotFound && is_new => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(OpenError::KeyLost(path.to_owned())),
        Err(source) => return Err(OpenError::Key { path: path.to_owned(), source }),
    }
    let made = || {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let secret: [u8; LENGTH] = clock::random().map_err(io::Error::other)?;
        disk::keep(path, &secret)?;
        Ok(Keys::new(&secret))
    };
    made().map_err(|source| OpenError::Key { path: path.to_owned(), source })
}
