//! Keys and names in files of the state folder: made once, and readable by nobody else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::clock::{self, Clock};
use crate::config::{Config, SmartMode};
pub(super) use crate::disk::{keep, sync_folder_of};
use crate::fhir::datatypes::Millis;
use crate::http::key_files::{FRESH, KeyFiles};
use crate::http::links::LinkRing;
use crate::output::signing::{LinkKey, LinkKeys};
use crate::smart::generate::Pair;
use crate::smart::jws::Alg;
use crate::telemetry::error_chain;

/// The file in the state folder that the key is kept in which signs links.
pub(super) const LINK_KEY: &str = "link.key";

/// How old the key of links may get, and how often that is looked at.
pub(super) const LINK_KEY_LIFETIME: Duration = Duration::from_hours(90 * 24);
const LOOK_EVERY: Duration = Duration::from_hours(1);
/// By how much a link outlives its lifetime in what is remembered of its key.
const GRACE: Duration = Duration::from_mins(1);

/// The keys that links are signed with: a file of their own, readable by nobody else (SEC-16), made on the first start and
/// replaced if they are too old. `link_ttl` is how long links live.
pub(super) fn link_keys(state: &Path, link_ttl: Duration, now: Millis) -> anyhow::Result<LinkKeys> {
    match kept_link_keys(state)? {
        Some(known) if !known.is_due(seconds(now), LINK_KEY_LIFETIME.as_secs()) => Ok(known),
        before => replace_link_keys(state, before.as_ref(), link_ttl, now),
    }
}

/// Those that were kept, if there are any.
pub(super) fn kept_link_keys(state: &Path) -> anyhow::Result<Option<LinkKeys>> {
    let path = state.join(LINK_KEY);
    let context = || format!("could not read {}", path.display());
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(LinkKeys::read(&text).with_context(context)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(context),
    }
}

/// Makes another key, beside which what those `before` have signed is good for as long as links live.
pub(super) fn replace_link_keys(
    state: &Path,
    before: Option<&LinkKeys>,
    link_ttl: Duration,
    now: Millis,
) -> anyhow::Result<LinkKeys> {
    let until = seconds(now.saturating_add(link_ttl).saturating_add(GRACE));
    let made = LinkKeys::made(&clock::random()?, before, seconds(now), until)?;
    let path = state.join(LINK_KEY);
    keep(&path, made.text.as_bytes()).with_context(|| format!("could not make {}", path.display()))?;
    Ok(made.keys)
}

/// Replaces the key of links whenever it has become too old, for as long as it is polled.
pub(super) async fn watch_link_keys(
    ring: LinkRing,
    files: KeyFiles,
    state: PathBuf,
    link_ttl: Duration,
    clock: Arc<dyn Clock>,
) {
    loop {
        clock.sleep(LOOK_EVERY).await;
        let now = clock::now(&*clock);
        if !ring.keys().is_due(seconds(now), LINK_KEY_LIFETIME.as_secs()) {
            continue;
        }
        match link_keys(&state, link_ttl, now) {
            Ok(keys) => {
                ring.replace(keys);
                // An operator may have replaced it meanwhile, too.
                files.look_again();
                tracing::info!("the key that signs links was replaced");
            }
            // The one before it is as good as it was.
            Err(error) => {
                tracing::error!(error = error_chain(&*error), "the key that signs links could not be replaced");
            }
        }
    }
}

fn seconds(time: Millis) -> u64 {
    u64::try_from(time.0.div_euclid(1000)).unwrap_or(0)
}

/// How keys are replaced by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replacing {
    /// What the old ones have signed is good until it expires.
    Rotate,
    /// It is good no more.
    Revoke,
}

/// Replaces the keys that sign tokens and links by new ones, and waits until a process that serves goes by them.
///
/// # Errors
/// If the old ones cannot be read, or the new ones cannot be kept. Then something may have been replaced.
pub(crate) fn replace(config: &Config, how: Replacing, now: Millis) -> anyhow::Result<()> {
    let state = &config.store.path;
    anyhow::ensure!(state.is_dir(), "there is no {}: nothing was made yet", state.display());
    // Whose they are not, the process that serves could not read.
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(state).context("could not look at the state folder")?);
    let own = rustix::process::geteuid().as_raw();
    anyhow::ensure!(owner == own, "{} is user {owner}'s: run this as that user", state.display());
    let overlaps = how == Replacing::Rotate;
    if config.smart.mode == SmartMode::AuthorizationServer {
        let before = if overlaps { super::smart::kept_token_keys(state)? } else { None };
        super::smart::replace_token_keys(&config.smart, state, before.as_ref(), now)?;
    }
    let before = if overlaps { kept_link_keys(state)? } else { None };
    replace_link_keys(state, before.as_ref(), config.output.link_ttl, now)?;
    // By then whoever serves has looked at them anew, and so does not go by the old ones.
    std::thread::sleep(2 * FRESH);
    Ok(())
}

pub(super) fn new_key() -> anyhow::Result<LinkKey> {
    Ok(LinkKey::new("1", &clock::random()?)?)
}

/// Random bytes that stay the same from start to start: read from a file, or made and written to it.
pub(super) fn kept<const N: usize>(path: &Path) -> anyhow::Result<[u8; N]> {
    if let Some(bytes) = already_kept(path)? {
        return Ok(bytes);
    }
    let bytes = clock::random()?;
    keep(path, &bytes).with_context(|| format!("could not make {}", path.display()))?;
    Ok(bytes)
}

/// The same where nothing is made.
pub(super) fn already_kept<const N: usize>(path: &Path) -> anyhow::Result<Option<[u8; N]>> {
    match std::fs::read(path) {
        Ok(bytes) => match bytes.try_into() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => anyhow::bail!("{} is not {N} bytes long", path.display()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

/// Makes a key pair for a client. The private JWK goes into a new file; the public JWK Set is given back.
///
/// # Errors
/// If there is such a file already, or it cannot be written.
pub(crate) fn generate(alg: &str, file: &Path) -> anyhow::Result<String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let alg = Alg::parse(alg, &Alg::SMART).context("the algorithm is ES384 or RS384")?;
    let pair = Pair::generate(alg)?;
    let mut options = std::fs::OpenOptions::new();
    let mut opened = options.write(true).create_new(true).mode(0o600).open(file);
    let written = opened.as_mut().map_err(|error| std::io::Error::from(error.kind())).and_then(|opened| {
        writeln!(opened, "{:#}", pair.private)?;
        opened.sync_all()
    });
    written.with_context(|| format!("could not make the file {}", file.display()))?;
    Ok(format!("{:#}", serde_json::json!({ "keys": [pair.public] })))
}
