//! What the complete files of an export hold, as far as somebody has asked: looked up without reading their sidecars again and
//! again, and in memory that hardly grows with them.

mod runs;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::runs::IdRuns;
use super::services::Services;
use crate::disk::Space;
use crate::job::index::{IdHash, Sidecar};
use crate::output::OutputError;
use crate::telemetry::error_chain;

/// Bytes that stay free on the disk of the job store beside what the output keeps free of its own, for it may be the same.
const LEFT_FREE: u64 = 512 << 20;

/// The ids in some sidecars, none of which is ever taken out again.
#[derive(Debug)]
pub(super) struct Holdings {
    services: Services,
    /// One asks at a time: what it takes in the next one finds.
    turn: tokio::sync::Mutex<()>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The sidecars that were taken in.
    sidecars: HashSet<Box<str>>,
    ids: IdRuns,
    /// The disk did not take them: sidecars are asked one by one.
    is_given_up: bool,
}

impl Holdings {
    pub(super) fn new(services: Services) -> Self {
        Self { services, turn: tokio::sync::Mutex::default(), known: Arc::default() }
    }

    /// Which of `ids` the files of these sidecars hold, or others that were asked about before.
    ///
    /// # Errors
    /// If a sidecar cannot be read.
    pub(super) async fn hold(&self, sidecars: &[&str], ids: &[IdHash]) -> Result<Vec<bool>, OutputError> {
        let _turn = self.turn.lock().await;
        for key in sidecars {
            if self.known().must_take(key) {
                let sidecar = self.services.sidecar(key).await?;
                self.take(key, sidecar).await;
            }
        }
        if let Some(held) = self.find(sidecars, ids).await {
            return Ok(held);
        }
        let mut held = vec![false; ids.len()];
        for key in sidecars {
            let sidecar = self.services.sidecar(key).await?;
            held.iter_mut().zip(ids).for_each(|(held, id)| *held |= sidecar.contains(*id));
        }
        Ok(held)
    }

    /// Takes in what a sidecar says.
    async fn take(&self, key: &str, sidecar: Arc<Sidecar>) {
        let (key, folder) = (Box::<str>::from(key), Arc::clone(&self.services.scratch));
        let kept = self.services.output.room().map_or(0, |room| room.kept).saturating_add(LEFT_FREE);
        self.blocking(move |known| {
            let has_room = |bytes: u64| Space::of(&folder).is_none_or(|space| space.free >= bytes.saturating_add(kept));
            let written = known.ids.add(sidecar.ids(), sidecar.len(), &folder, has_room);
            match written {
                Ok(()) => {
                    known.sidecars.insert(key);
                }
                Err(error) => known.give_up(&error),
            }
        })
        .await;
    }

    /// Which of `ids` were taken in; `None` if the sidecars have to be asked.
    async fn find(&self, sidecars: &[&str], ids: &[IdHash]) -> Option<Vec<bool>> {
        let in_memory = {
            let known = self.known();
            // One that was not taken in was not because the process ends.
            if sidecars.iter().any(|key| !known.sidecars.contains(*key)) {
                return None;
            }
            known.ids.hold_in_memory(ids)
        };
        if in_memory.is_some() {
            return in_memory;
        }
        let ids = ids.to_vec();
        let find = move |known: &mut Known| match known.ids.hold(&ids) {
            Ok(held) => Some(held),
            Err(error) => {
                known.give_up(&error);
                None
            }
        };
        self.blocking(find).await.flatten()
    }

    /// Does what may wait for a disk. What has begun goes on to its end, whoever still waits for it.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&mut Known) -> T + Send + 'static) -> Option<T> {
        let known = Arc::clone(&self.known);
        tokio::task::spawn_blocking(move || work(&mut lock(&known))).await.ok()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

impl Known {
    fn must_take(&self, key: &str) -> bool {
        !self.is_given_up && !self.sidecars.contains(key)
    }

    fn give_up(&mut self, error: &std::io::Error) {
        tracing::warn!(
            error = error_chain(error),
            "ids are looked up in the output: the disk of the job store does not take them"
        );
        *self = Self { is_given_up: true, ..Self::default() };
    }
}

/// What is half taken in is not asked.
fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(|poisoned| {
        let mut known = PoisonError::into_inner(poisoned);
        *known = Known { is_given_up: true, ..Known::default() };
        known
    })
}
