//! What the objects of this process in an output are called and known by, and whose the output is.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::assembly::JOBS;
use super::keys::kept;
use crate::clock;
use crate::job::store::Store;
use crate::output::checkpoint::CheckpointKey;
use crate::output::layout;
use crate::store::keys::JobKeys;

/// A job store to build with.
#[derive(Debug, Clone)]
pub struct JobStore {
    pub(crate) store: Arc<dyn Store>,
    /// Of all who open this store, one after another.
    pub(crate) identity: Arc<OnceLock<Identity>>,
}

impl JobStore {
    pub(crate) fn identity(&self) -> anyhow::Result<Identity> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity.clone());
        }
        let made = Identity {
            instance: hex(clock::random()?),
            checkpoint_key: CheckpointKey::new(&clock::random()?),
            job_keys: JobKeys::in_memory(),
            store: Some(hex(clock::random()?)),
        };
        Ok(self.identity.get_or_init(|| made).clone())
    }
}

/// What objects in the output are called and known by.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) instance: String,
    pub(crate) checkpoint_key: CheckpointKey,
    pub(crate) job_keys: JobKeys,
    /// Of the job store; `None` where it is kept in the store's own folder, and lost with it.
    pub(crate) store: Option<String>,
}

/// The file in the state folder that the name of this instance is kept in, and that of its key for checkpoint objects.
pub(super) const INSTANCE: &str = "instance";
pub(super) const CHECKPOINT_KEY: &str = "checkpoint.key";
/// The folder in the state folder that the key of each export is kept in (SEC-40): it outlives a store that is lost.
pub(super) const JOB_KEYS: &str = "job-keys";
/// The file in the job store's folder that tells it from every other one, such as an empty one with the same keys.
pub(super) const STORE_IDENTITY: &str = "identity";

impl Identity {
    /// Made once. The name begins every key in the output; the key is readable by nobody else and never leaves the
    /// folder (SEC-32).
    pub(super) fn kept(state: &Path) -> anyhow::Result<Self> {
        let instance = hex(kept(&state.join(INSTANCE))?);
        let checkpoint_key = CheckpointKey::new(&kept(&state.join(CHECKPOINT_KEY))?);
        let job_keys = JobKeys::in_folder(&state.join(JOB_KEYS))?;
        Ok(Self { instance, checkpoint_key, job_keys, store: None })
    }

    /// What the output is marked with: once the job store is open.
    pub(super) fn owner(&self, state: &Path) -> anyhow::Result<String> {
        let store = match &self.store {
            Some(store) => store.clone(),
            None => hex(kept(&state.join(JOBS).join(STORE_IDENTITY))?),
        };
        Ok(owner(&self.instance, &store))
    }
}

/// The text of the marker.
pub(super) fn owner(instance: &str, store: &str) -> String {
    format!("{}{store}\n", owner_prefix(instance))
}

pub(super) fn owner_prefix(instance: &str) -> String {
    format!("{}{instance} ", String::from_utf8_lossy(layout::MARK))
}

pub(super) fn hex(bytes: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// Random bytes that were kept, in hexadecimal digits, if they were.
pub(super) fn known(path: &Path) -> std::io::Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes.try_into().ok().map(hex)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
