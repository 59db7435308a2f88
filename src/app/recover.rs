//! `offtake jobs recover`: a lost job store is rebuilt in its place, or nothing is changed.

use std::path::Path;

use anyhow::Context;

use super::assembly::JOBS;
use super::identity::{CHECKPOINT_KEY, INSTANCE, JOB_KEYS, STORE_IDENTITY, hex, owner, owner_prefix};
use super::keys::{keep, kept, sync_folder_of};
use crate::config::Config;
use crate::job::store::Store;
use crate::output::checkpoint::{self, CheckpointKey};
use crate::output::{Output, layout};
use crate::recover::{self, Report};
use crate::store::keys::JobKeys;
use crate::store::sled::SledStore;

/// Rebuilds a lost job store from what lies beside the output of `instance`, so that the next start serves it.
///
/// # Errors
/// If there are jobs already, if nothing can be rebuilt, or if the output or the state folder cannot be used. The state
/// folder is as it was then.
pub(crate) async fn recover(config: &Config, instance: &str, key_file: Option<&Path>) -> anyhow::Result<Report> {
    let name = parse_instance(instance).context("an instance is named by 16 digits of 0 to 9 and a to f")?;
    let state = &config.store.path;
    crate::store::private_folder(state).context("could not make the state folder")?;
    let keys = JobKeys::in_folder(&state.join(JOB_KEYS)).context("could not make the folder of the exports' keys")?;
    let secret = recovery_key(&state.join(CHECKPOINT_KEY), key_file)?;
    let jobs = state.join(JOBS);
    let aside = state.join("jobs.empty");
    let is_there = jobs.try_exists().context("could not look into the state folder")?;
    if is_there {
        let store = open_blocking(&jobs).await.context("the job store that is there cannot be used")?;
        let known = store.jobs().await?.len();
        anyhow::ensure!(known == 0, "the job store in {} holds {known} jobs: it is not lost", jobs.display());
        anyhow::ensure!(!aside.exists(), "{} is in the way; move it away", aside.display());
    }
    let output = Output::open(&config.output).context("could not open the output")?;
    // What an earlier try left.
    let staged = state.join("jobs.recovering");
    let clear = || match std::fs::remove_dir_all(&staged) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    clear().with_context(|| format!("could not remove {}", staged.display()))?;
    let store = open_blocking(&staged).await?;
    let recovered = recover::recover(&output, &store, instance, &CheckpointKey::new(&secret), &keys).await;
    drop(store);
    let report = match recovered {
        Ok(report) => report,
        Err(error) => {
            clear().with_context(|| format!("could not remove {}", staged.display()))?;
            return Err(error.into());
        }
    };
    let is_own = output.owner().await?.is_none_or(|owner| owner.starts_with(owner_prefix(instance).as_bytes()));
    if !is_own {
        clear().with_context(|| format!("could not remove {}", staged.display()))?;
        anyhow::bail!("the output belongs to another instance; if it does no longer, remove {} in it", layout::MARKER);
    }
    // The store comes last: what is there before it makes no difference to an empty one.
    let context = || format!("could not write to {}", state.display());
    keep(&state.join(CHECKPOINT_KEY), &secret).with_context(context)?;
    keep(&state.join(INSTANCE), &name).with_context(context)?;
    if is_there {
        std::fs::rename(&jobs, &aside).with_context(context)?;
    }
    std::fs::rename(&staged, &jobs).and_then(|()| sync_folder_of(&jobs)).with_context(context)?;
    let store = hex(kept(&jobs.join(STORE_IDENTITY))?);
    output.take_over(&owner(instance, &store)).await.context("could not mark the output")?;
    Ok(report)
}

async fn open_blocking(folder: &Path) -> anyhow::Result<SledStore> {
    let folder = folder.to_owned();
    Ok(tokio::task::spawn_blocking(move || SledStore::open(&folder)).await??)
}

/// The key in the state folder, or the one given if there is none.
fn recovery_key(own: &Path, given: Option<&Path>) -> anyhow::Result<[u8; checkpoint::LENGTH]> {
    let read = |path: &Path| -> anyhow::Result<[u8; checkpoint::LENGTH]> {
        use std::io::Read;
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).with_context(|| format!("could not read {}", path.display()))?;
        file.take(checkpoint::LENGTH as u64 + 1).read_to_end(&mut bytes)?;
        bytes.try_into().map_err(|_| anyhow::anyhow!("{} is not {} bytes long", path.display(), checkpoint::LENGTH))
    };
    let kept = if own.try_exists()? { Some(read(own)?) } else { None };
    match (kept, given.map(read).transpose()?) {
        (Some(kept), Some(given)) if kept != given => {
            anyhow::bail!("{} is another key than the one given; move it away to use that one", own.display())
        }
        (Some(key), _) | (None, Some(key)) => Ok(key),
        (None, None) => anyhow::bail!("there is no {}; give a copy of it by --key-file", own.display()),
    }
}

fn parse_instance(text: &str) -> Option<[u8; 8]> {
    let bytes = u64::from_str_radix(text, 16).ok()?.to_be_bytes();
    (hex(bytes) == text).then_some(bytes)
}
