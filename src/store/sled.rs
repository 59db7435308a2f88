//! Keeps jobs in sled 0.34, embedded: one process, one folder, durable before it answers.
//!
//! sled's flush is no fsync on Linux, and a torn snapshot file keeps it from opening; [`open`] and [`writer`] are
//! there for that. Nothing here runs on a thread of the caller's runtime.

mod open;
mod records;
mod trees;
mod writer;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::open::OpenError;
use self::open::Opened;
use self::trees::{Trees, Writes};
use self::writer::{Broken, Room, Shared, Sync, Write};
use crate::bulk::cohort::CohortId;
use crate::disk::Ballast;
use crate::fhir::datatypes::Millis;
use crate::job::checkpoint::FileRecord;
use crate::job::cohort::ClientCohort;
use crate::job::store::{Change, ClockMark, Lease, Restored, Store, StoreError};
use crate::job::usage::{Allowance, Exhausted, Usage};
use crate::job::{Job, JobId};
use crate::plan::kept::KeptPlan;
use crate::profile::{Found, ProfileKey};
use crate::smart::assertion::Use;
use crate::smart::client::ClientId;
use crate::smart::consent::Consent;

/// The embedded job store.
pub(crate) struct SledStore {
    shared: Arc<Shared>,
    /// It is written once, so that it need not be read again for each assertion.
    remembered_since: Arc<OnceLock<Millis>>,
    /// `Some` until it is dropped.
    queue: Option<mpsc::Sender<Write>>,
    writer: Option<JoinHandle<()>>,
    /// Held until all else is closed.
    _lock: File,
}

impl SledStore {
    /// Opens the store in `folder`, which is made if it is missing. Blocks: not for a runtime's own thread.
    ///
    /// # Errors
    /// [`OpenError`], which names the folder and says what an operator can do.
    pub(crate) fn open(folder: &Path) -> Result<Self, OpenError> {
        Self::open_beside(folder, None)
    }

    /// The same with room set aside for recording deletions: nothing else is written on a disk that is about to be full.
    pub(crate) fn open_beside(folder: &Path, ballast: Option<Ballast>) -> Result<Self, OpenError> {
        if let Some(ballast) = &ballast {
            // sled may have to write in order to open.
            ballast.relieve(folder);
        }
        let Opened { trees, data, lock } = open::open(folder)?;
        let synced = Box::new(move || data.sync_data());
        let shared = Shared::new(folder, trees, ballast);
        Self::start(shared, lock, synced).map_err(|error| OpenError::unavailable(folder, error))
    }

    fn start(shared: Shared, lock: File, sync: Sync) -> std::io::Result<Self> {
        let shared = Arc::new(shared);
        let (queue, writes) = mpsc::channel(writer::QUEUE);
        let thread = std::thread::Builder::new().name("job-store".to_owned());
        let writer = thread.spawn({
            let shared = Arc::clone(&shared);
            move || writer::run(writes, &shared, sync)
        })?;
        Ok(Self { shared, remembered_since: Arc::default(), queue: Some(queue), writer: Some(writer), _lock: lock })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Trees) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let answer = tokio::task::spawn_blocking(move || shared.read(read)).await;
        let answer = answer.unwrap_or_else(|panicked| Err(StoreError::Unavailable(panicked.into())));
        if matches!(answer, Err(StoreError::Full))
            && let Some(queue) = &self.queue
        {
            // Only the writer opens the trees anew. It may have more to do already.
            let nothing = Write { room: Room::None, run: Box::new(|_trees| Ok(Box::new(|| {}))) };
            let _busy = queue.try_send(nothing);
        }
        answer
    }

    /// Has the writer do what `decide` makes of the trees, and answers once that is durable.
    async fn write<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Trees) -> Result<(Writes, T), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.enqueue(Room::None, decide).await
    }

    /// The same for what makes room: there is room set aside for it.
    async fn make_room<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Trees) -> Result<(Writes, T), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.enqueue(Room::All, decide).await
    }

    async fn enqueue<T: Send + 'static>(
        &self,
        room: Room,
        decide: impl FnOnce(&Trees) -> Result<(Writes, T), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let broken = Broken::error;
        let (sender, answer) = oneshot::channel();
        let run: writer::Run = Box::new(move |trees| {
            let decided = match trees.map(|trees| (trees, decide(trees))) {
                Ok((trees, Ok((writes, value)))) => trees.apply(&writes).map(|()| Ok(value))?,
                Ok((_, Err(error))) | Err(error) => Err(error),
            };
            Ok(Box::new(move || {
                // A caller that has gone needs no answer.
                let _gone = sender.send(decided);
            }))
        });
        let write = Write { room, run };
        let queue = self.queue.as_ref().ok_or_else(broken)?;
        queue.send(write).await.map_err(|_| broken())?;
        match answer.await {
            Ok(answer) => answer,
            // Nobody was told of anything in its batch.
            Err(_dropped) => match self.read(|_trees| Ok(())).await {
                Ok(()) => Err(StoreError::Full),
                Err(error) => Err(error),
            },
        }
    }
}

impl Store for SledStore {
    fn free(&self) -> Option<u64> {
        self.shared.free()
    }

    fn create(&self, job: Job) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.create(job)?, ()))).boxed()
    }

    fn create_within(&self, job: Job, allowed: Allowance) -> BoxFuture<'_, Result<Result<(), Exhausted>, StoreError>> {
        self.write(move |trees| trees.create_within(job, &allowed)).boxed()
    }

    fn active(&self, client: ClientId) -> BoxFuture<'_, Result<usize, StoreError>> {
        self.read(move |trees| trees.active(&client)).boxed()
    }

    fn usage(&self, client: ClientId) -> BoxFuture<'_, Result<Option<Usage>, StoreError>> {
        self.read(move |trees| trees.usage(&client)).boxed()
    }

    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<Job>, StoreError>> {
        self.read(move |trees| trees.job(id)).boxed()
    }

    fn jobs(&self) -> BoxFuture<'_, Result<Vec<Job>, StoreError>> {
        self.read(Trees::jobs).boxed()
    }

    fn files(&self, id: JobId) -> BoxFuture<'_, Result<Vec<FileRecord>, StoreError>> {
        self.read(move |trees| trees.files(id)).boxed()
    }

    fn plan(&self, id: JobId) -> BoxFuture<'_, Result<Option<KeptPlan>, StoreError>> {
        self.read(move |trees| trees.plan(id)).boxed()
    }

    fn claim(&self, id: JobId) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.write(move |trees| trees.claim(id)).boxed()
    }

    fn commit(&self, lease: Lease, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.commit(lease, change)?, ()))).boxed()
    }

    fn delete(&self, id: JobId) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.make_room(move |trees| trees.delete(id)).boxed()
    }

    fn restore(&self, found: Restored) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.restore(found)?, ()))).boxed()
    }

    fn purge(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.make_room(move |trees| Ok((trees.purge(id)?, ()))).boxed()
    }

    fn profile(&self, key: ProfileKey) -> BoxFuture<'_, Result<Option<Found>, StoreError>> {
        self.read(move |trees| trees.profile(key)).boxed()
    }

    fn keep_profile(&self, key: ProfileKey, found: Found) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.keep_profile(key, &found)?, ()))).boxed()
    }

    fn consent(&self) -> BoxFuture<'_, Result<Option<Consent>, StoreError>> {
        self.read(Trees::consent).boxed()
    }

    fn keep_consent(&self, consent: Consent) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.keep_consent(&consent)?, ()))).boxed()
    }

    fn keep_cohort(&self, cohort: ClientCohort, most: usize) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.write(move |trees| trees.keep_cohort(&cohort, most)).boxed()
    }

    fn cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<Option<ClientCohort>, StoreError>> {
        self.read(move |trees| trees.cohort(&client, id)).boxed()
    }

    fn cohorts(&self, client: ClientId) -> BoxFuture<'_, Result<Vec<ClientCohort>, StoreError>> {
        self.read(move |trees| trees.cohorts(&client)).boxed()
    }

    fn forget_cohort(&self, client: ClientId, id: CohortId) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.make_room(move |trees| trees.forget_cohort(&client, id)).boxed()
    }

    fn remembered_since(&self) -> BoxFuture<'_, Result<Option<Millis>, StoreError>> {
        if let Some(known) = self.remembered_since.get() {
            return std::future::ready(Ok(Some(*known))).boxed();
        }
        let known = Arc::clone(&self.remembered_since);
        let read = move |trees: &Trees| Ok(trees.remembered_since()?.map(|since| *known.get_or_init(|| since)));
        self.read(read).boxed()
    }

    fn was_used(&self, hash: [u8; 32]) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.read(move |trees| trees.was_used(hash)).boxed()
    }

    fn use_once(&self, assertion: Use, began: Millis) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.enqueue(Room::Little, move |trees| trees.use_once(assertion, began)).boxed()
    }

    fn clock_mark(&self) -> BoxFuture<'_, Result<Option<ClockMark>, StoreError>> {
        self.read(Trees::clock_mark).boxed()
    }

    fn keep_clock_mark(&self, mark: ClockMark) -> BoxFuture<'_, Result<(), StoreError>> {
        self.enqueue(Room::Little, move |trees| Ok((trees.keep_clock_mark(mark)?, ()))).boxed()
    }

    fn forget_used(&self, now: Millis) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            // Looking costs nothing; a write is synced even if it writes nothing.
            if self.read(move |trees| trees.has_expired(now)).await? {
                self.make_room(move |trees| Ok((trees.forget_used(now)?, ()))).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

impl Drop for SledStore {
    /// Ends the writer, so that the folder can be opened again.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            // If it panicked, whoever waited for it was told so.
            let _panicked = writer.join();
        }
    }
}

impl fmt::Debug for SledStore {
    /// A tree's own `Debug` prints what it holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SledStore")
    }
}

#[cfg(test)]
mod tests;
