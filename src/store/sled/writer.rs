//! The one thread that writes: what waits is applied together, synced once and only then acknowledged.
//!
//! # A full disk
//!
//! sled takes no further write once one has failed, so none is begun for which there may be no room: it is refused by name.
//! Deletions have room set aside for them (SEC-45), and a little of it is for access tokens, without which nobody deletes. Where a write fails for want of room in spite of that, sled is left
//! behind, as dropping it would wait for ever for what it could not write, and a copy of its log is opened: what nobody was
//! told of may be lost. A sync that failed is another matter.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::mpsc::Receiver;

use super::open;
use super::trees::Trees;
use crate::disk::{self, Ballast, LEAST_FREE, Space};
use crate::job::store::StoreError;
use crate::telemetry::error_chain;

/// How many writes may wait, and how many share one sync.
pub(super) const QUEUE: usize = 256;

/// A write on its way.
pub(super) struct Write {
    pub(super) room: Room,
    pub(super) run: Run,
}

/// What a write has of the room that is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Nothing: on a full disk it is refused.
    None,
    /// A little, and so many times only: it is what somebody needs who wants to make room.
    Little,
    /// All: it makes room itself.
    All,
}

/// Small writes that have the room that is set aside, until there is room again: 4 MiB of it are more than ten times as
/// much.
pub(super) const LITTLE_WRITES: usize = 1_000;

/// Applies itself and gives what is left to do once that is durable, or tells its caller why it was not begun; dropped
/// without being acknowledged, it tells its caller that the store failed.
pub(super) type Run = Box<dyn FnOnce(Result<&Trees, StoreError>) -> ::sled::Result<Acknowledge> + Send>;

/// Answers the caller of a write.
pub(super) type Acknowledge = Box<dyn FnOnce()>;

/// Makes durable what was flushed.
pub(super) type Sync = Box<dyn FnMut() -> io::Result<()> + Send>;

/// The trees, closed to readers while they hold anything that is not durable yet: no answer may depend on what a
/// power cut can take back.
pub(super) struct Shared {
    folder: PathBuf,
    ballast: Option<Ballast>,
    /// Small writes that there is room for on a full disk. Only the writer asks.
    little: AtomicUsize,
    state: RwLock<State>,
}

enum State {
    Good(Trees),
    /// A write had no room: the trees can be opened anew.
    Full,
    /// A write failed half-way, or a sync did: what the trees hold may be gone after a restart, and a second sync
    /// could succeed without having written what the first one lost. They are kept where sled can still be dropped.
    Broken(#[expect(dead_code, reason = "it is dropped with the store")] Option<Trees>),
}

impl Shared {
    /// Bytes that are free on its disk.
    pub(super) fn free(&self) -> Option<u64> {
        Space::of(&self.folder).map(|space| space.free)
    }

    pub(super) fn new(folder: &Path, trees: Trees, ballast: Option<Ballast>) -> Self {
        Self {
            folder: folder.to_owned(),
            ballast,
            little: AtomicUsize::new(LITTLE_WRITES),
            state: RwLock::new(State::Good(trees)),
        }
    }

    /// Reads what is durable; waits while a batch is being written.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Unavailable`] once a write has failed.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Trees) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let state: RwLockReadGuard<'_, _> = self.state.read().map_err(|_: PoisonError<_>| Broken::error())?;
        match &*state {
            State::Good(trees) => read(trees),
            State::Full => Err(StoreError::Full),
            State::Broken(_) => Err(Broken::error()),
        }
    }

    /// # Errors
    /// [`Broken`] if nothing can be written any more.
    fn write(&self, batch: &mut Vec<Write>, sync: &mut Sync) -> Result<Vec<Acknowledge>, Broken> {
        let mut state = self.state.write().map_err(|_| Broken)?;
        if matches!(*state, State::Full)
            && let Some((trees, data)) = self.open_anew()
        {
            *state = State::Good(trees);
            *sync = Box::new(move || data.sync_data());
        }
        let State::Good(trees) = &*state else {
            refuse(batch.drain(..));
            return Ok(Vec::new());
        };
        if self.has_room() {
            self.little.store(LITTLE_WRITES, Ordering::Relaxed);
        } else {
            let (urgent, refused): (Vec<_>, Vec<_>) = batch.drain(..).partition(|write| match write.room {
                Room::None => false,
                Room::Little => {
                    let left = self.little.load(Ordering::Relaxed);
                    self.little.store(left.saturating_sub(1), Ordering::Relaxed);
                    left > 0
                }
                Room::All => true,
            });
            refuse(refused.into_iter());
            *batch = urgent;
            if batch.is_empty() {
                return Ok(Vec::new());
            }
            self.relieve();
        }
        match apply(trees, batch, sync) {
            Ok(acknowledge) => Ok(acknowledge),
            Err(Failure::Applied(::sled::Error::Io(error))) if disk::is_full(&error) => {
                tracing::error!("the disk of the job store is full");
                std::mem::forget(std::mem::replace(&mut *state, State::Full));
                refuse(batch.drain(..));
                Ok(Vec::new())
            }
            Err(failure) => {
                let error: &dyn std::error::Error = match &failure {
                    Failure::Applied(error) => error,
                    Failure::Synced(error) => error,
                };
                tracing::error!(
                    error,
                    "the job store could not make a write durable; nothing is recorded until a restart"
                );
                let left = std::mem::replace(&mut *state, State::Broken(None));
                match (failure, left) {
                    (Failure::Synced(_), State::Good(trees)) => *state = State::Broken(Some(trees)),
                    (_, left) => std::mem::forget(left),
                }
                Err(Broken)
            }
        }
    }

    fn open_anew(&self) -> Option<(Trees, File)> {
        self.relieve();
        // Opening sled where it meets the end of the disk again would be no better than what was left behind.
        if Space::of(&self.folder).is_some_and(|space| space.free < open::log_bytes(&self.folder) + LEAST_FREE / 2) {
            return None;
        }
        match open::open_copy(&self.folder) {
            Ok(opened) => Some(opened),
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "the job store cannot be opened anew yet");
                None
            }
        }
    }

    /// Whether there is room for a batch beside what is set aside, which is set aside anew if it can be.
    fn has_room(&self) -> bool {
        let Some(ballast) = &self.ballast else { return true };
        let Some(Space { free, .. }) = Space::of(&self.folder) else { return true };
        if ballast.is_there() {
            return free >= LEAST_FREE;
        }
        let has_room = free >= ballast.bytes() + LEAST_FREE;
        if has_room {
            ballast.take();
        }
        has_room
    }

    fn relieve(&self) {
        if let Some(ballast) = &self.ballast {
            ballast.relieve(&self.folder);
        }
    }
}

fn refuse(writes: impl Iterator<Item = Write>) {
    for write in writes {
        if let Ok(told) = (write.run)(Err(StoreError::Full)) {
            told();
        }
    }
}

/// Writes until the queue is closed or the store breaks; what is queued then is dropped unacknowledged.
pub(super) fn run(mut queue: Receiver<Write>, shared: &Arc<Shared>, mut sync: Sync) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, QUEUE) > 0 {
        let Ok(acknowledge) = shared.write(&mut batch, &mut sync) else { return };
        for acknowledge in acknowledge {
            acknowledge();
        }
    }
}

enum Failure {
    Applied(::sled::Error),
    Synced(io::Error),
}

fn apply(trees: &Trees, batch: &mut Vec<Write>, sync: &mut Sync) -> Result<Vec<Acknowledge>, Failure> {
    let mut acknowledge = Vec::with_capacity(batch.len());
    for write in batch.drain(..) {
        acknowledge.push((write.run)(Ok(trees)).map_err(Failure::Applied)?);
    }
    trees.flush().map_err(Failure::Applied)?;
    sync().map_err(Failure::Synced)?;
    Ok(acknowledge)
}

/// Nothing can be read or written until the store is opened anew.
#[derive(Debug, thiserror::Error)]
#[error("an earlier write could not be made durable; free or repair the disk and restart")]
pub(super) struct Broken;

impl Broken {
    pub(super) fn error() -> StoreError {
        StoreError::Unavailable(Self.into())
    }
}
