//! The disclosure ledger: who was given what, when, and what was refused (SEC-43).
//!
//! Records are lines of files of their own, chained and authenticated by a key that is kept elsewhere ([`chain`]); the head of
//! the chain is copied to other places, so that a ledger that was cut short is found out. [`Ledger::append`] answers once its
//! record is on disk, and what hands something out waits for that: without a record nothing leaves. Many records at once are
//! one write.
//!
//! # What is recorded when
//!
//! * A kick-off, before the export is recorded; a manifest, before it is sent; a file, before its first byte.
//! * What an export holds, and whose data, before it is complete. After a crash in between it is recorded once more: the last
//!   record of an export counts.
//! * A deletion, an expiry, a revocation, once it is done; if it cannot be recorded then, as soon as that is possible: they
//!   disclose nothing. That everything of an export is gone is recorded before the
//!   store forgets the export.
//! * How many bytes of a file a client took, afterwards; if the process ends before, that is never known.
//! * A request that was refused is refused, whether it can be recorded or not; if not, it is counted.

pub(crate) mod audit_event;
pub(crate) mod chain;
mod copies;
mod denials;
mod folder;
mod forward;
mod health;
mod patients;
pub(crate) mod reader;
pub(crate) mod record;
#[cfg(test)]
mod tests;
mod writer;
mod writing;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock::watch::ClockWatch;
use crate::clock::{self, Clock};
use crate::fhir::datatypes::Instant;
use crate::job::JobId;
use chain::Keys;
use denials::Denials;
pub(crate) use forward::Target;
use health::Health;
pub(crate) use patients::Gathering;
use record::{Denied, Event};
use writing::Writing;

/// Where a ledger is, and what becomes of it.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) folder: PathBuf,
    pub(crate) key_file: PathBuf,
    /// Files that the head is copied to.
    pub(crate) head_copies: Vec<PathBuf>,
    pub(crate) retention: Duration,
    pub(crate) forward: Option<Target>,
    /// Our base as clients write it.
    pub(crate) server: String,
    /// Fails writes, for tests.
    pub(crate) fault: Option<Fault>,
}

/// Asked before each write, and once it is written and not durable yet, whether it fails.
#[derive(Clone)]
pub(crate) struct Fault(pub(crate) Arc<dyn Fn() -> io::Result<()> + Send + Sync>);

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fault")
    }
}

/// The ledger of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    /// None where it is switched off.
    open: Option<Open>,
}

#[derive(Debug, Clone)]
struct Open {
    commands: mpsc::Sender<Command>,
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    runtime: tokio::runtime::Handle,
    /// Places for notes on their way into the queue.
    notes: Arc<Semaphore>,
    /// Refusals that found no place in it.
    unplaced: Arc<Mutex<Denials>>,
    health: Arc<Health>,
}

/// Why something is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("the disk of the ledger is full")]
    Full,
    #[error("the ledger cannot be written")]
    Unusable,
}

#[derive(Debug)]
enum Command {
    Append {
        event: Event,
        reply: oneshot::Sender<Result<u64, LedgerError>>,
    },
    /// To be recorded now, or as soon as that is possible.
    Note {
        event: Event,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Deny {
        denied: Denied,
        reply: oneshot::Sender<Result<(), LedgerError>>,
    },
    Keys(oneshot::Sender<Result<Arc<Keys>, LedgerError>>),
    Head(oneshot::Sender<Result<Vec<u8>, LedgerError>>),
    /// Whether this is a head of this ledger.
    Holds {
        copy: Vec<u8>,
        reply: oneshot::Sender<Result<bool, LedgerError>>,
    },
    Close(oneshot::Sender<Result<(), LedgerError>>),
}

/// Commands that wait for the writer.
const WAITING: usize = 1_024;
/// Notes that wait for a place among them.
const MOST_NOTES: usize = 10_000;
/// How long a record may take to come to the disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long those wait who only tell of a request that was refused.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

impl Ledger {
    /// None at all.
    pub(crate) fn off() -> Self {
        Self { open: None }
    }

    /// Opens the ledger, or begins one, and writes it on `runtime` from now on. If it cannot be opened, that is tried again
    /// and again, and nothing can be recorded until then.
    pub(crate) fn start(settings: Settings, watch: ClockWatch, runtime: &tokio::runtime::Handle) -> Self {
        let clock = Arc::clone(watch.clock());
        let settings = Arc::new(settings);
        let (commands, receiver) = mpsc::channel(WAITING);
        let (unplaced, health) = (Arc::default(), Arc::default());
        let writing = Writing::new(Arc::clone(&settings), watch, receiver, Arc::clone(&unplaced), Arc::clone(&health));
        runtime.spawn(writing.run());
        let (runtime, notes) = (runtime.clone(), Arc::new(Semaphore::new(MOST_NOTES)));
        Self { open: Some(Open { commands, settings, clock, runtime, notes, unplaced, health }) }
    }

    /// Whether what has to be recorded is refused, as far as was seen: its disk is not asked.
    pub(crate) fn is_failing(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.health.is_failing(open.clock.monotonic(), PATIENCE))
    }

    /// Records what is about to happen, or has, and gives the number of the record, once it is durable.
    ///
    /// # Errors
    /// [`LedgerError`]: then it may not happen.
    pub(crate) async fn append(&self, event: Event) -> Result<u64, LedgerError> {
        self.ask(PATIENCE, |reply| Command::Append { event, reply }).await.unwrap_or(Ok(0))
    }

    /// Records what happens whether it can be recorded now or not: as soon as that is possible.
    pub(crate) async fn note(&self, event: Event) {
        let Some(open) = &self.open else { return };
        let lost =
            || tracing::error!("a record of the ledger is lost: too many wait to be written, or it was closed before");
        let Ok(place) = Arc::clone(&open.notes).try_acquire_owned() else { return lost() };
        let (reply, told) = oneshot::channel();
        let commands = open.commands.clone();
        // It waits for its place in the queue however long that takes, also when nobody waits for it any more.
        let noted = open.runtime.spawn(async move {
            let sent = commands.send(Command::Note { event, reply }).await;
            if sent.is_err() || told.await.is_err() {
                lost();
            }
            drop(place);
        });
        tokio::select! {
            _now_or_later = noted => {}
            () = open.clock.sleep(PATIENCE) => {}
        }
    }

    /// Records that a request was refused, or counts it.
    pub(crate) async fn deny(&self, denied: Denied) {
        let Some(open) = &self.open else { return };
        let (reply, told) = oneshot::channel();
        // Half of the places are for what must not be refused because others were.
        let has_room = open.commands.capacity() > WAITING / 2;
        let refused = if has_room {
            match open.commands.try_send(Command::Deny { denied, reply }) {
                Err(TrySendError::Full(Command::Deny { denied, .. })) => Some(denied),
                _ => None,
            }
        } else {
            Some(denied)
        };
        if let Some(denied) = refused {
            let at = Instant::from(clock::now(&*open.clock));
            return open.unplaced.lock().unwrap_or_else(PoisonError::into_inner).count(&denied, at);
        }
        tokio::select! {
            _told = told => {}
            () = open.clock.sleep(SHORT_PATIENCE) => {}
        }
    }

    /// A list of patients of an export, to be filled; `None` where there is no ledger.
    ///
    /// # Errors
    /// [`LedgerError`] as long as the ledger cannot be used.
    pub(crate) async fn gather(&self, job: JobId) -> Result<Option<Gathering>, LedgerError> {
        let Some(open) = &self.open else { return Ok(None) };
        let keys = self.ask(PATIENCE, Command::Keys).await.unwrap_or(Err(LedgerError::Unusable))?;
        Ok(Some(Gathering::new(keys, &open.settings.folder, job)))
    }

    /// How far it has come, as it is kept elsewhere; `None` where there is no ledger.
    pub(crate) async fn head(&self) -> Option<Result<Vec<u8>, LedgerError>> {
        self.ask(PATIENCE, Command::Head).await
    }

    /// Whether a copy of a head says what this ledger holds.
    pub(crate) async fn holds(&self, copy: Vec<u8>) -> Result<bool, LedgerError> {
        self.ask(PATIENCE, |reply| Command::Holds { copy, reply }).await.unwrap_or(Ok(true))
    }

    /// Records what waits and closes the files: another process can open them.
    pub(crate) async fn close(&self) {
        let _closed = self.ask(PATIENCE, Command::Close).await;
    }

    async fn ask<T>(
        &self,
        patience: Duration,
        command: impl FnOnce(oneshot::Sender<Result<T, LedgerError>>) -> Command,
    ) -> Option<Result<T, LedgerError>> {
        let open = self.open.as_ref()?;
        let (reply, told) = oneshot::channel();
        let asked = async {
            open.commands.send(command(reply)).await.map_err(|_| LedgerError::Unusable)?;
            told.await.unwrap_or(Err(LedgerError::Unusable))
        };
        Some(tokio::select! {
            told = asked => told,
            () = open.clock.sleep(patience) => Err(LedgerError::Unusable),
        })
    }
}
