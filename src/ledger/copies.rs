//! Files elsewhere that the head is copied to. They may lie on a machine that does not answer: each is read and written by a
//! thread of its own that nobody has to wait for, by one at a time.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::chain::{Head, Keys};
use super::folder::{self, Lines, ReadError, failed};
use super::writer::OpenError;
use crate::disk;

/// How long a copy may take to be read before it is left aside.
const PATIENCE: Duration = Duration::from_secs(10);
/// A head is far shorter.
const LONGEST: u64 = 4096;

/// All of them.
#[derive(Debug)]
pub(super) struct Copies {
    all: Vec<Copy>,
    patience: Duration,
}

#[derive(Debug)]
struct Copy {
    path: PathBuf,
    hand: Arc<Mutex<Hand>>,
}

type Work = Box<dyn FnOnce(&Path) + Send>;

/// What is done to one copy.
#[derive(Default)]
struct Hand {
    has_thread: bool,
    /// Its thread has begun with something.
    is_busy: bool,
    /// What comes after that: only what was wanted last.
    next: Option<Work>,
}

impl std::fmt::Debug for Hand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hand").field("is_busy", &self.is_busy).finish_non_exhaustive()
    }
}

/// What was found where a ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Copies that are not there, or cannot be read.
    pub(super) missing: u64,
    /// Copies that are not of this ledger.
    pub(super) foreign: u64,
}

/// The records that a head is held against: those that are there now, while others are written.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) keys: Arc<Keys>,
    pub(super) folder: PathBuf,
    pub(super) head: Head,
}

impl Held {
    /// Whether the ledger holds what a head says that it did. One from before all that is kept is believed.
    pub(super) fn holds(&self, head: &Head) -> Result<bool, ReadError> {
        if head.link() == self.head.link() {
            return Ok(true);
        }
        if head.seq >= self.head.seq {
            return Ok(false);
        }
        let segments = folder::segments(&self.folder).map_err(failed(&self.folder))?;
        let Some(segment) = segments.iter().rev().find(|segment| segment.first <= head.seq) else { return Ok(true) };
        let mut lines = Lines::open(&self.keys, &segment.path, None)?;
        while lines.next()?.is_some() {
            if lines.last.is_some_and(|last| last.seq == head.seq) {
                return Ok(lines.last == Some(head.link()));
            }
        }
        Ok(false)
    }
}

impl Copies {
    pub(super) fn new(paths: &[PathBuf]) -> Self {
        let all = paths.iter().map(|path| Copy { path: path.clone(), hand: Arc::default() });
        Self { all: all.collect(), patience: PATIENCE }
    }

    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Holds a ledger against them. Those that do not answer are left aside.
    pub(super) fn check(&self, held: &Held) -> Result<Found, OpenError> {
        let answers: Vec<_> = self.all.iter().map(|copy| (copy, copy.ask(read))).collect();
        let mut found = Found::default();
        for (copy, answer) in answers {
            let path = &copy.path;
            match answer.recv_timeout(self.patience).unwrap_or_else(|_late| Err(ErrorKind::TimedOut.into())) {
                Ok(None) => found.missing += 1,
                Ok(Some(text)) => match Head::open(&held.keys, &text) {
                    Some(head) if held.holds(&head)? => {}
                    Some(head) => return Err(OpenError::Truncated { copy: path.clone(), had: head.seq }),
                    None => {
                        found.foreign += 1;
                        tracing::error!(
                            copy = %path.display(),
                            "a copy of the ledger's head cannot be authenticated: it was changed, or is of a ledger with \
                             another key; it is left as it is"
                        );
                    }
                },
                Err(error) => {
                    found.missing += 1;
                    tracing::error!(copy = %path.display(), %error, "a copy of the ledger's head cannot be read");
                }
            }
        }
        Ok(found)
    }

    /// Writes the head to each. A copy that is not of this ledger stays. It is done once what is given ends; nobody has to
    /// wait for that.
    pub(super) fn write(&self, held: &Held) -> Written {
        let answers = self.all.iter().map(|copy| {
            let held = held.clone();
            copy.ask(move |path| write(path, &held))
        });
        Written(answers.collect())
    }
}

/// Copies that are being written.
#[derive(Debug)]
pub(super) struct Written(Vec<Receiver<()>>);

impl Written {
    /// Waits for that, so long for each at most.
    pub(super) fn wait(self, patience: Duration) {
        for one in self.0 {
            let _or_not = one.recv_timeout(patience);
        }
    }
}

impl Copy {
    /// Has this done to it, once what is done to it now has ended; gives what comes of it.
    fn ask<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> T + Send + 'static) -> Receiver<T> {
        let (sender, receiver): (SyncSender<T>, _) = sync_channel(1);
        let work: Work = Box::new(move |path| drop(sender.send(work(path))));
        let mut hand = lock(&self.hand);
        if hand.next.replace(work).is_some() && hand.is_busy {
            tracing::error!(copy = %self.path.display(), "a copy of the ledger's head does not answer");
        }
        if !hand.has_thread {
            let (path, own) = (self.path.clone(), Arc::clone(&self.hand));
            // Not one of those that the process waits for at its end.
            let thread = std::thread::Builder::new().name("offtake-head".to_owned());
            match thread.spawn(move || run(&path, &own)) {
                Ok(_) => hand.has_thread = true,
                Err(error) => {
                    hand.next = None;
                    tracing::error!(copy = %self.path.display(), %error, "a copy of the ledger's head cannot be reached");
                }
            }
        }
        receiver
    }
}

fn run(path: &Path, hand: &Mutex<Hand>) {
    loop {
        let work = {
            let mut hand = lock(hand);
            let next = hand.next.take();
            (hand.has_thread, hand.is_busy) = (next.is_some(), next.is_some());
            next
        };
        let Some(work) = work else { return };
        work(path);
    }
}

fn lock(hand: &Mutex<Hand>) -> MutexGuard<'_, Hand> {
    hand.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of a head; `None` if there is none yet.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LONGEST).read_to_end(&mut text).map(|_| Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, held: &Held) {
    let is_ours = match read(path) {
        Ok(Some(text)) => Head::open(&held.keys, &text).is_some_and(|head| held.holds(&head).unwrap_or(false)),
        Ok(None) => true,
        Err(_) => false,
    };
    let sealed = held.head.sealed(&held.keys);
    let written = if is_ours { disk::keep(path, &sealed) } else { Err(ErrorKind::InvalidData.into()) };
    if let Err(error) = written {
        tracing::error!(copy = %path.display(), %error, "the head of the ledger could not be copied");
    }
}
