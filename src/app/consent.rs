//! The file that names the patients of whom nothing is exported.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::sync::watch;

use super::assembly::STORE_PAUSE;
use crate::clock::Clock;
use crate::config::PolicyConfig;
use crate::engine::{Engine, Standing};
use crate::fhir::datatypes::Id;
use crate::smart::consent::Consent;
use crate::telemetry::error_chain;

/// Largest list.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Where the list is, as the latest good configuration says. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ListFile {
    path: Arc<Mutex<Option<PathBuf>>>,
}

impl ListFile {
    pub(super) fn of(config: &PolicyConfig) -> Self {
        Self { path: Arc::new(Mutex::new(config.exclude_patients_file.clone())) }
    }

    /// From now on the list is where this configuration says.
    pub(super) fn follow(&self, config: &PolicyConfig) {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&config.exclude_patients_file);
    }

    /// Who is on it; nobody if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is not understood to its end: then nobody can say of whom nothing may leave.
    pub(super) fn read(&self) -> anyhow::Result<BTreeSet<Id>> {
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner).clone();
        path.map_or(Ok(BTreeSet::new()), |path| read(&path))
    }

    /// Whether there is to be a list.
    fn is_named(&self) -> bool {
        self.path.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Starts an engine once it is known of whom nothing may leave and the store can be read.
    pub(super) async fn start(&self, engine: &Engine, clock: &dyn Clock, standing: &watch::Sender<Standing>) {
        loop {
            match self.read() {
                Ok(patients) => match engine.start(patients).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(
                            error = error_chain(&error),
                            "the job store cannot be read; bulk requests wait for it"
                        );
                    }
                },
                Err(error) => {
                    standing.send_replace(Standing::Unlisted);
                    tracing::error!(
                        error = error_chain(&*error),
                        "the list of patients who are not exported cannot be read; bulk requests wait for it"
                    );
                }
            }
            clock.sleep(STORE_PAUSE).await;
        }
    }

    /// Has an engine heed the list as it is now. If it cannot be read, the one before it stays in force.
    pub(super) fn apply_to(&self, engine: &Engine) {
        match self.read() {
            Ok(patients) => {
                let count = patients.len();
                engine.exclude(patients);
                if self.is_named() {
                    tracing::info!(patients = count, "the list of patients who are not exported was read");
                }
            }
            Err(error) => tracing::error!(
                error = error_chain(&*error),
                "THE LIST OF PATIENTS WHO ARE NOT EXPORTED CANNOT BE READ: the one before it stays in force, and whoever \
                 came onto it since is exported still"
            ),
        }
    }
}

/// Who is on the list that a configuration names.
///
/// # Errors
/// The same as [`ListFile::read`].
pub(super) fn check(config: &PolicyConfig) -> anyhow::Result<()> {
    ListFile::of(config).read().map(drop)
}

fn read(path: &Path) -> anyhow::Result<BTreeSet<Id>> {
    let name = || format!("policy.exclude_patients_file {}", path.display());
    let mut text = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("{} cannot be read", name()))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut text).with_context(|| format!("{} cannot be read", name()))?;
    anyhow::ensure!(text.len() as u64 <= MOST_BYTES, "{} is larger than 16 MiB", name());
    Consent::read(&text).with_context(name)
}
