//! Writes the ledger: takes what waits together, and answers once it is on disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::chain::Head;
use super::copies::Copies;
use super::denials::Denials;
use super::forward::Forward;
use super::health::Health;
use super::record::{Denied, Event};
use super::writer::{Appended, Files, OpenError};
use super::{Command, LedgerError, Settings};
use crate::clock::watch::ClockWatch;
use crate::clock::{self, Clock};
use crate::disk;
use crate::fhir::datatypes::Instant;
use crate::telemetry::error_chain;

/// Records that are written together.
const MOST_TOGETHER: usize = 32;
/// Records that were to be made and could not, kept until they can.
const MOST_OWED: usize = 10_000;
/// Of them, those that are made up for at once.
const OWED_TOGETHER: usize = 16;
/// How often counted refusals are recorded, and what is owed is tried again.
const TICK: Duration = Duration::from_mins(1);
/// How often it is tried to open a ledger that could not be, or to make up for what is owed.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the head is copied, and what is old is looked for.
const COPY_EVERY: Duration = Duration::from_hours(1);
/// A process that ends may hold the ledger a moment longer than its successor needs it.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
const LOCK_TRIES: u32 = 60;
/// How long the end waits for each copy of the head.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// The one that writes.
pub(super) struct Writing {
    settings: Arc<Settings>,
    copies: Arc<Copies>,
    clock: Arc<dyn Clock>,
    /// Nothing is removed for its age while the clock may be wrong (SEC-44).
    watch: ClockWatch,
    commands: mpsc::Receiver<Command>,
    files: Option<Files>,
    /// How far it had come when it was written last.
    head: Option<Head>,
    denials: Denials,
    /// Refusals that found no place in the queue.
    unplaced: Arc<Mutex<Denials>>,
    owed: VecDeque<Event>,
    forward: Option<Forward>,
    /// What operators are told.
    health: Arc<Health>,
    /// It was said that nothing can be recorded.
    is_failing: bool,
    /// By the monotonic clock.
    next_tick: Duration,
    next_try: Duration,
    next_copy: Duration,
}

/// Who waits for a record.
enum Waiting {
    Event(oneshot::Sender<Result<u64, LedgerError>>),
    Noted(Event, oneshot::Sender<Result<(), LedgerError>>),
    Denied(Denied, oneshot::Sender<Result<(), LedgerError>>),
}

impl Writing {
    pub(super) fn new(
        settings: Arc<Settings>,
        watch: ClockWatch,
        commands: mpsc::Receiver<Command>,
        unplaced: Arc<Mutex<Denials>>,
        health: Arc<Health>,
    ) -> Self {
        let forward = settings.forward.clone().and_then(|target| {
            let started = Forward::start(target, settings.server.clone());
            started.inspect_err(|error| tracing::error!(%error, "records of the ledger are not handed on")).ok()
        });
        let clock = Arc::clone(watch.clock());
        let began = clock.monotonic();
        Self {
            copies: Arc::new(Copies::new(&settings.head_copies)),
            settings,
            clock,
            watch,
            commands,
            files: None,
            head: None,
            denials: Denials::default(),
            unplaced,
            owed: VecDeque::new(),
            forward,
            health,
            is_failing: false,
            next_tick: began + TICK,
            next_try: began + AGAIN,
            next_copy: began + COPY_EVERY,
        }
    }

    /// Until it is closed, or nobody is left who could ask.
    pub(super) async fn run(mut self) {
        for _ in 0..LOCK_TRIES {
            if !matches!(self.open().await, Err(OpenError::Locked)) {
                break;
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        let mut commands = Vec::new();
        loop {
            let pause = self.due().saturating_sub(self.clock.monotonic());
            tokio::select! {
                count = self.commands.recv_many(&mut commands, MOST_TOGETHER) => {
                    if count == 0 {
                        return;
                    }
                    if let Some(closed) = self.obey(commands.drain(..)).await {
                        self.end().await;
                        let _nobody_waits = closed.send(Ok(()));
                        return;
                    }
                }
                () = self.clock.sleep(pause) => self.tick().await,
            }
            // However many ask.
            if self.clock.monotonic() >= self.due() {
                self.tick().await;
            }
        }
    }

    /// When something is to be done that nobody asks for.
    fn due(&self) -> Duration {
        if self.files.is_none() || !self.owed.is_empty() { self.next_tick.min(self.next_try) } else { self.next_tick }
    }

    /// Does what is asked. What asks for the end is given back.
    async fn obey(
        &mut self,
        commands: impl Iterator<Item = Command>,
    ) -> Option<oneshot::Sender<Result<(), LedgerError>>> {
        let (mut events, mut waiting, mut closed) = (Vec::new(), Vec::new(), None);
        let mut later = Vec::new();
        for command in commands {
            match command {
                Command::Append { event, reply } => {
                    events.push(event);
                    waiting.push(Waiting::Event(reply));
                }
                Command::Note { event, reply } => {
                    events.push(event.clone());
                    waiting.push(Waiting::Noted(event, reply));
                }
                Command::Deny { denied, reply } => {
                    let at = Instant::from(clock::now(&*self.clock));
                    if self.denials.admit(&denied, self.clock.monotonic(), at) {
                        events.push(Event::Denied(denied.clone()));
                        waiting.push(Waiting::Denied(denied, reply));
                    } else {
                        let _nobody_waits = reply.send(Ok(()));
                    }
                }
                Command::Close(reply) => closed = Some(reply),
                other => later.push(other),
            }
        }
        let written = self.write(events).await;
        for (number, waiting) in waiting.into_iter().enumerate() {
            let seq = written.get(number).copied().unwrap_or(Err(LedgerError::Unusable));
            match waiting {
                Waiting::Event(reply) => drop(reply.send(seq)),
                Waiting::Noted(event, reply) => {
                    if seq.is_err() {
                        self.owe(event);
                    }
                    let _nobody_waits = reply.send(seq.map(drop));
                }
                Waiting::Denied(denied, reply) => {
                    if seq.is_err() {
                        self.denials.count(&denied, Instant::from(clock::now(&*self.clock)));
                    }
                    let _nobody_waits = reply.send(seq.map(drop));
                }
            }
        }
        for command in later {
            self.answer(command).await;
        }
        closed
    }

    async fn answer(&mut self, command: Command) {
        match command {
            Command::Keys(reply) => {
                let keys = self.files.as_ref().map(|files| Arc::clone(&files.keys));
                let _nobody_waits = reply.send(keys.ok_or(LedgerError::Unusable));
            }
            Command::Head(reply) => {
                let head = self.files.as_ref().map(|files| files.head().sealed(&files.keys));
                let _nobody_waits = reply.send(head.ok_or(LedgerError::Unusable));
            }
            Command::Holds { copy, reply } => {
                let holds = self.with_files(move |files| {
                    let head = Head::open(&files.keys, &copy);
                    head.is_some_and(|head| files.holds(&head).unwrap_or(false))
                });
                let _nobody_waits = reply.send(holds.await.ok_or(LedgerError::Unusable));
            }
            // They were taken out before.
            Command::Append { .. } | Command::Note { .. } | Command::Deny { .. } | Command::Close(_) => {}
        }
    }

    /// Makes these durable, and before them some of what is owed: gives their numbers.
    async fn write(&mut self, events: Vec<Event>) -> Vec<Result<u64, LedgerError>> {
        let owed: Vec<_> = self.owed.iter().take(OWED_TOGETHER).cloned().collect();
        let (of_owed, count) = (owed.len(), events.len());
        let all: Vec<_> = owed.into_iter().chain(events).collect();
        if all.is_empty() {
            return Vec::new();
        }
        let now = Instant::from(clock::now(&*self.clock));
        let written = self.with_files(move |files| (files.append_each(now, all), files.head())).await;
        let Some((Appended { mut records, failed }, head)) = written else {
            return vec![Err(LedgerError::Unusable); count];
        };
        self.head = Some(head);
        self.hand_on();
        let error = failed.as_ref().map_or(LedgerError::Unusable, |error| self.failed(error));
        if failed.is_none() {
            self.health.tell(false);
            if std::mem::take(&mut self.is_failing) {
                tracing::info!("the ledger can be written again");
            }
            if records.iter().any(Option::is_none) {
                tracing::error!(
                    "a record is too long for the ledger: what it was to tell of does not happen, or it is lost"
                );
            }
        }
        // What is too long will be so the next time. If not all were come to, the last that is durable shows how many were.
        let mut made_up_for = records.drain(..of_owed);
        let come_to = made_up_for.rposition(|record| record.is_some()).map_or(0, |last| last + 1);
        drop(made_up_for);
        self.owed.drain(..if failed.is_none() { of_owed } else { come_to });
        records.into_iter().map(|record| record.map(|record| record.seq).ok_or(error)).collect()
    }

    fn hand_on(&mut self) {
        if let (Some(forward), Some(files)) = (&mut self.forward, &mut self.files) {
            for record in files.recent() {
                forward.hand_on(record);
            }
        }
    }

    fn failed(&mut self, error: &io::Error) -> LedgerError {
        if !std::mem::replace(&mut self.is_failing, true) {
            let error = error_chain(error);
            tracing::error!(error, "the ledger cannot be written: bulk requests are refused until it can");
        }
        self.health.tell(true);
        if disk::is_full(error) {
            return LedgerError::Full;
        }
        // Else somebody has moved them away or changed them, or they are of a
        // mount that has gone: they are looked at anew, as a whole.
        self.files = None;
        LedgerError::Unusable
    }

    fn owe(&mut self, event: Event) {
        if self.owed.len() < MOST_OWED {
            self.owed.push_back(event);
        } else {
            tracing::error!("a record of the ledger is lost: it could not be written, and too many wait for that");
        }
    }

    /// Works on the files where that may block.
    async fn with_files<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Files) -> T + Send + 'static,
    ) -> Option<T> {
        let mut files = self.files.take()?;
        self.health.begin(self.clock.monotonic());
        let worked = tokio::task::spawn_blocking(move || {
            let result = work(&mut files);
            (files, result)
        });
        let worked = worked.await;
        self.health.end();
        let (files, result) = worked.ok()?;
        self.files = Some(files);
        Some(result)
    }

    async fn open(&mut self) -> Result<(), OpenError> {
        let (settings, copies) = (Arc::clone(&self.settings), Arc::clone(&self.copies));
        let (now, head) = (clock::now(&*self.clock), self.head);
        self.health.begin(self.clock.monotonic());
        let opened = tokio::task::spawn_blocking(move || {
            let files = Files::open(&settings, &copies, now, head)?;
            drop(files.copy_head());
            Ok(files)
        });
        let opened = opened.await.unwrap_or_else(|_| Err(OpenError::Write(io::ErrorKind::Other.into())));
        self.health.end();
        self.health.tell(opened.is_err());
        match opened {
            Ok(files) => {
                self.head = Some(files.head());
                self.files = Some(files);
                self.hand_on();
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("the ledger can be written again");
                }
                Ok(())
            }
            Err(error) => {
                if !matches!(error, OpenError::Locked) && !std::mem::replace(&mut self.is_failing, true) {
                    let error = error_chain(&error);
                    tracing::error!(error, "the ledger cannot be opened: bulk requests are refused until it can");
                }
                Err(error)
            }
        }
    }

    async fn tick(&mut self) {
        self.next_try = self.clock.monotonic() + AGAIN;
        if self.files.is_none() && matches!(self.open().await, Err(OpenError::Locked)) && !self.is_failing {
            self.is_failing = true;
            tracing::error!(
                "the ledger cannot be opened: another process writes it; bulk requests are refused until it ends"
            );
        }
        let now = self.clock.monotonic();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.record_counted().await;
        }
        if !self.owed.is_empty() {
            let _tried_again = self.write(Vec::new()).await;
        }
        if now >= self.next_copy {
            self.next_copy = now + COPY_EVERY;
            let (wall, may_retire) = (clock::now(&*self.clock), !self.watch.holds_expiry());
            let retired = self.with_files(move |files| {
                let retired = if may_retire { files.retire(wall) } else { Ok(()) };
                drop(files.copy_head());
                (retired, files.head())
            });
            match retired.await {
                Some((Ok(()), head)) => self.head = Some(head),
                Some((Err(error), head)) => {
                    self.head = Some(head);
                    tracing::warn!(error = error_chain(&error), "old records of the ledger could not be removed");
                }
                None => {}
            }
        }
    }

    async fn record_counted(&mut self) {
        let unplaced = self.unplaced.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(unplaced) = unplaced {
            self.denials.give_back(unplaced);
        }
        if let Some(more) = self.denials.take()
            && self.write(vec![Event::DeniedMore(more.clone())]).await.iter().any(Result::is_err)
        {
            self.denials.give_back(more);
        }
    }

    async fn end(&mut self) {
        self.record_counted().await;
        while !self.owed.is_empty() {
            let before = self.owed.len();
            let _none_of_them = self.write(Vec::new()).await;
            if self.owed.len() == before {
                break;
            }
        }
        let _closed = self.with_files(|files| files.copy_head().wait(LAST_PATIENCE)).await;
        self.files = None;
    }
}
