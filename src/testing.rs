//! For tests, examples and benchmarks only; no promise is made about it.

pub mod pieces;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use aws_lc_rs::digest::{SHA256, digest};

pub use crate::app::JobStore;
pub use crate::clock::ManualClock;
pub use crate::store::crash::{Crash, CrashPoint, When};
pub use crate::store::full::FullPoint;

use crate::app::{Identity, Offtake, Replacing, replace_keys as replace_keys_of};
use crate::config::Config;
use crate::fhir::datatypes::Millis;
use crate::job::checkpoint::{CompleteFile, FileNo, FileRecord, FileState};
use crate::job::store::{Restored, Store};
use crate::job::{Epoch, Job, JobId, JobState};
use crate::output::Output;
use crate::plan::kept::KeptPlan;
use crate::recover::{RecoverError, recover};
use crate::store::crash::CrashStore;
use crate::store::full::FullStore;
use crate::store::keys::JobKeys;
use crate::store::memory::MemoryStore;
use crate::store::sled::SledStore;

/// Takes up another configuration, as SIGHUP does.
///
/// # Errors
/// If it is none that can be taken up without a restart.
pub fn reload(offtake: &Offtake, config: &Config) -> anyhow::Result<()> {
    offtake.reload(config)
}

/// Replaces the keys of a configuration, as `offtake keys rotate` does, and `keys revoke` unless what was signed `stays_good`.
///
/// # Errors
/// If they cannot be read or kept.
pub fn replace_keys(config: &Config, stays_good: bool, unix_millis: i64) -> anyhow::Result<()> {
    let how = if stays_good { Replacing::Rotate } else { Replacing::Revoke };
    replace_keys_of(config, how, Millis(unix_millis))
}

/// Fills the job store in `folder`, which nobody has open, with copies of the finished jobs in it: so many of them, each with so
/// many files, of which there is nothing in the output.
///
/// # Errors
/// If it cannot be opened or written, or holds no finished job with a file.
pub fn multiply_jobs(folder: &Path, jobs: u32, files: u32) -> anyhow::Result<()> {
    let store = SledStore::open(folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let listed = store.jobs().await?;
        let finished = listed.into_iter().find(|job| matches!(job.state, JobState::Complete(_)));
        let job = store.job(finished.context("no job has finished")?.id).await?.context("it is there")?;
        let (plan, held) = (store.plan(job.id).await?, store.files(job.id).await?);
        let first = held.first().context("it has no file")?;
        for number in 0..jobs {
            let job = Job { id: JobId::new((u128::MAX - u128::from(number)).to_be_bytes()), ..job.clone() };
            let files = (0..files).map(|no| like(first, number, FileNo(no))).collect();
            store.restore(Restored { job, epoch: Epoch(1), plan: plan.clone(), files }).await?;
        }
        anyhow::Ok(())
    })
}

/// A file of another job that differs from this one in what no packing shrinks.
fn like(file: &FileRecord, job: u32, no: FileNo) -> FileRecord {
    let mut file = FileRecord { no, ..file.clone() };
    if let FileState::Complete(CompleteFile { object: Some(object), .. }) = &mut file.state {
        object.key = format!("{job:08x}-{}", object.key);
        let digest = digest(&SHA256, format!("{job} {}", no.0).as_bytes());
        object.sha256 = digest.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex_digit).collect();
    }
    file
}

fn hex_digit(value: u8) -> char {
    char::from_digit(value.into(), 16).unwrap_or_default()
}

/// What can be read in the bytes of a job store's file by whoever unpacks what is packed there.
#[must_use]
pub fn legible(bytes: &[u8]) -> Vec<u8> {
    crate::store::codec::legible(bytes)
}

impl JobStore {
    /// A store that ends with the process.
    #[must_use]
    pub fn memory() -> Self {
        Self { store: Arc::new(MemoryStore::default()), identity: Arc::default() }
    }

    /// The ids of all jobs that are not deleted.
    pub async fn job_ids(&self) -> Vec<String> {
        let jobs = self.store.jobs().await.unwrap_or_default();
        jobs.iter().filter(|job| job.state != JobState::Deleted).map(|job| job.id.to_string()).collect()
    }

    /// The store that an operator has rebuilt from the output in `folder` after this one was lost: an empty one if there is
    /// nothing yet to rebuild it from.
    ///
    /// # Errors
    /// If the output cannot be read, or holds something that cannot be used.
    pub async fn rebuilt(&self, folder: &Path) -> anyhow::Result<Self> {
        self.rebuilt_from(Output::local(folder)?).await
    }

    /// The same from the output that a configuration names.
    ///
    /// # Errors
    /// If the output cannot be read, or holds something that cannot be used.
    pub async fn rebuilt_by(&self, config: &Config) -> anyhow::Result<Self> {
        self.rebuilt_from(Output::open(&config.output)?).await
    }

    async fn rebuilt_from(&self, output: Output) -> anyhow::Result<Self> {
        let Identity { instance, checkpoint_key, job_keys, .. } = self.identity()?;
        let store = Arc::new(MemoryStore::default());
        match recover(&output, &*store, &instance, &checkpoint_key, &job_keys).await {
            Ok(_) | Err(RecoverError::UnknownInstance { .. } | RecoverError::NoCheckpoints(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { store, identity: Arc::clone(&self.identity) })
    }

    /// This store as a version of this program would have left it that did not seal patients: without a key of any job.
    ///
    /// # Errors
    /// If what is sealed in it does not open.
    pub async fn unsealed(&self) -> anyhow::Result<Self> {
        let Identity { instance, checkpoint_key, job_keys, store: name } = self.identity()?;
        let store = Arc::new(MemoryStore::default());
        for listed in self.store.jobs().await? {
            let id = listed.id;
            let Some(mut job) = self.store.job(id).await? else { continue };
            let mut plan = self.store.plan(id).await?;
            if job.kickoff.is_sealed() {
                job.kickoff = job.kickoff.opened(&job_keys.of(id).await?)?;
            }
            if let Some(KeptPlan::Sealed(sealed)) = &plan {
                plan = Some(KeptPlan::Clear(Box::new(KeptPlan::open(sealed, &job_keys.of(id).await?)?)));
            }
            let files = self.store.files(id).await?;
            store.restore(Restored { job, epoch: Epoch(1_000), plan, files }).await?;
        }
        let identity = Identity { instance, checkpoint_key, job_keys: JobKeys::in_memory(), store: name };
        Ok(Self { store, identity: Arc::new(OnceLock::from(identity)) })
    }

    /// This store on a disk that is full at some time.
    #[must_use]
    pub fn on(&self, point: &Arc<FullPoint>) -> Self {
        let store = Arc::new(FullStore::new(Arc::clone(&self.store), Arc::clone(point)));
        Self { store, identity: Arc::clone(&self.identity) }
    }

    /// This store up to a crash: what was answered by then stays in `self`.
    #[must_use]
    pub fn until(&self, point: &Arc<CrashPoint>) -> Self {
        let store = Arc::new(CrashStore::new(Arc::clone(&self.store), Arc::clone(point)));
        Self { store, identity: Arc::clone(&self.identity) }
    }
}
