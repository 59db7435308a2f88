//! The one thread that writes: what waits is applied together, synced once and only then acknowledged.

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::mpsc::Receiver;

use super::trees::Trees;

/// How many writes may wait, and how many share one sync.
pub(super) const QUEUE: usize = 256;

/// A write on its way. It applies itself and gives what is left to do once that is durable; dropped without
/// being acknowledged, it tells its caller that the store failed.
pub(super) type Write = Box<dyn FnOnce(&Trees) -> ::sled::Result<Acknowledge> + Send>;

/// Answers the caller of a write.
pub(super) type Acknowledge = Box<dyn FnOnce()>;

/// Makes durable what was flushed.
pub(super) type Sync = Box<dyn FnMut() -> io::Result<()> + Send>;

/// The trees, closed to readers while they hold anything that is not durable yet: no answer may depend on what a
/// power cut can take back.
pub(super) struct Shared {
    trees: Trees,
    health: RwLock<Health>,
}

enum Health {
    Good,
    /// A write failed half-way, or a sync did: what the trees hold may be gone after a restart, and a second sync
    /// could succeed without having written what the first one lost.
    Broken,
}

impl Shared {
    pub(super) fn new(trees: Trees) -> Self {
        Self { trees, health: RwLock::new(Health::Good) }
    }

    /// Reads what is durable; waits while a batch is being written.
    ///
    /// # Errors
    /// [`Broken`] once a write has failed.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Trees) -> T) -> Result<T, Broken> {
        let health: RwLockReadGuard<'_, _> = self.health.read().map_err(|_: PoisonError<_>| Broken)?;
        match *health {
            Health::Good => Ok(read(&self.trees)),
            Health::Broken => Err(Broken),
        }
    }

    fn write(&self, batch: &mut Vec<Write>, sync: &mut Sync) -> Result<Vec<Acknowledge>, Broken> {
        let mut health = self.health.write().map_err(|_| Broken)?;
        let written = apply(&self.trees, batch, sync);
        written.map_err(|error| {
            *health = Health::Broken;
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, "the job store could not make a write durable; nothing is recorded until a restart");
            Broken
        })
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

fn apply(trees: &Trees, batch: &mut Vec<Write>, sync: &mut Sync) -> ::sled::Result<Vec<Acknowledge>> {
    let acknowledge = batch.drain(..).map(|write| write(trees)).collect::<::sled::Result<_>>()?;
    trees.flush()?;
    sync()?;
    Ok(acknowledge)
}

/// Nothing can be read or written until the store is opened anew.
#[derive(Debug, thiserror::Error)]
#[error("an earlier write could not be made durable; free or repair the disk and restart")]
pub(super) struct Broken;
