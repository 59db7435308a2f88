//! Keeps jobs in sled 0.34, embedded: one process, one folder, durable before it answers.
//!
//! sled's flush is no fsync on Linux, and a torn snapshot file keeps it from opening; [`open`] and [`writer`] are
//! there for that. Nothing here runs on a thread of the caller's runtime.

mod open;
mod trees;
mod writer;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::open::OpenError;
use self::open::Opened;
use self::trees::{Trees, Writes};
use self::writer::{Broken, Shared, Sync, Write};
use crate::job::checkpoint::FileRecord;
use crate::job::store::{Change, Lease, Restored, Store, StoreError};
use crate::job::{Job, JobId};
use crate::plan::ExportPlan;
use crate::profile::{Found, ProfileKey};

/// The embedded job store.
pub(crate) struct SledStore {
    shared: Arc<Shared>,
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
        let Opened { trees, data, lock } = open::open(folder)?;
        let synced = Box::new(move || data.sync_data());
        Self::start(trees, lock, synced).map_err(|error| OpenError::unavailable(folder, error))
    }

    fn start(trees: Trees, lock: File, sync: Sync) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(trees));
        let (queue, writes) = mpsc::channel(writer::QUEUE);
        let thread = std::thread::Builder::new().name("job-store".to_owned());
        let writer = thread.spawn({
            let shared = Arc::clone(&shared);
            move || writer::run(writes, &shared, sync)
        })?;
        Ok(Self { shared, queue: Some(queue), writer: Some(writer), _lock: lock })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Trees) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || shared.read(read)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(broken)) => Err(StoreError::Unavailable(broken.into())),
            Err(panicked) => Err(StoreError::Unavailable(panicked.into())),
        }
    }

    /// Has the writer do what `decide` makes of the trees, and answers once that is durable.
    async fn write<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Trees) -> Result<(Writes, T), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let broken = || StoreError::Unavailable(Broken.into());
        let (sender, answer) = oneshot::channel();
        let write: Write = Box::new(move |trees| {
            let decided = match decide(trees) {
                Ok((writes, value)) => trees.apply(&writes).map(|()| Ok(value))?,
                Err(error) => Err(error),
            };
            Ok(Box::new(move || {
                // A caller that has gone needs no answer.
                let _gone = sender.send(decided);
            }))
        });
        let queue = self.queue.as_ref().ok_or_else(broken)?;
        queue.send(write).await.map_err(|_| broken())?;
        answer.await.map_err(|_| broken())?
    }
}

impl Store for SledStore {
    fn create(&self, job: Job) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.create(job)?, ()))).boxed()
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

    fn plan(&self, id: JobId) -> BoxFuture<'_, Result<Option<ExportPlan>, StoreError>> {
        self.read(move |trees| trees.plan(id)).boxed()
    }

    fn claim(&self, id: JobId) -> BoxFuture<'_, Result<Lease, StoreError>> {
        self.write(move |trees| trees.claim(id)).boxed()
    }

    fn commit(&self, lease: Lease, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.commit(lease, change)?, ()))).boxed()
    }

    fn delete(&self, id: JobId) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.write(move |trees| trees.delete(id)).boxed()
    }

    fn restore(&self, found: Restored) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.restore(found)?, ()))).boxed()
    }

    fn purge(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.purge(id)?, ()))).boxed()
    }

    fn profile(&self, key: ProfileKey) -> BoxFuture<'_, Result<Option<Found>, StoreError>> {
        self.read(move |trees| trees.profile(key)).boxed()
    }

    fn keep_profile(&self, key: ProfileKey, found: Found) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |trees| Ok((trees.keep_profile(key, &found)?, ()))).boxed()
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
