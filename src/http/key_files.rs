//! The keys that sign tokens and links, as their files have them: what an operator revokes in another process is good no more
//! once the command has ended (SEC-16), which waits until whoever serves has looked at them anew. They are looked at where exports
//! work, and one after the other: a folder that does not answer holds up nobody who passes through.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use super::links::LinkRing;
use super::problem::Problem;
use crate::clock::{Clock, SystemClock};
use crate::output::signing::LinkKeys;
use crate::smart::access_token::TokenKeys;
use crate::smart::server::AuthorizationServer;
use crate::telemetry::error_chain;

/// For how long they are taken to be what they were when they were looked at last. Time passes for files of others as it does
/// for everybody, whatever clock is given.
pub(crate) const FRESH: Duration = Duration::from_millis(100);
/// How long a request waits for them.
const PATIENCE: Duration = Duration::from_secs(5);

/// The files of keys, and who goes by them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KeyFiles(Arc<Inner>);

struct Inner {
    /// Whose turn it is to look.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// When the last look that has ended began.
    looked: Mutex<Option<Duration>>,
    links: Option<(KeyFile, LinkRing)>,
    tokens: Option<(KeyFile, Arc<AuthorizationServer>)>,
}

/// A file that others replace as a whole.
struct KeyFile {
    path: PathBuf,
    /// What it was when it was read last.
    seen: Mutex<Option<Version>>,
    /// The one that could not be read.
    unreadable: Mutex<Option<Version>>,
}

/// What tells a file from the one that was in its place before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len(), modified }
    }
}

impl KeyFiles {
    /// None where keys do not outlive the process.
    pub(crate) fn none() -> Self {
        Self(Arc::new(Inner { turn: Arc::default(), looked: Mutex::default(), links: None, tokens: None }))
    }

    /// Files of the keys that sign links and, where we issue them, tokens.
    pub(crate) fn new(links: (PathBuf, LinkRing), tokens: Option<(PathBuf, Arc<AuthorizationServer>)>) -> Self {
        let file = |path| KeyFile { path, seen: Mutex::default(), unreadable: Mutex::default() };
        let (path, ring) = links;
        let tokens = tokens.map(|(path, server)| (file(path), server));
        Self(Arc::new(Inner {
            turn: Arc::default(),
            looked: Mutex::default(),
            links: Some((file(path), ring)),
            tokens,
        }))
    }

    /// Takes up the keys of files that were replaced since. One that is not there, or holds no keys, changes nothing: the keys
    /// that are in use stay so until there are others, or until SIGHUP.
    ///
    /// # Errors
    /// If the folder does not answer, or what was put there cannot be read: then nobody knows what is good.
    pub(crate) async fn take_up(&self, runtime: &Handle, clock: &dyn Clock) -> Result<(), Problem> {
        if self.0.links.is_none() || self.is_fresh() {
            return Ok(());
        }
        let unanswered = || Problem::unavailable("the keys of this server cannot be read at the moment");
        let looked = async {
            let turn = Arc::clone(&self.0.turn).lock_owned().await;
            let files = self.clone();
            // The turn ends with the look, also where nobody waits for it any more.
            let look = runtime.spawn_blocking(move || {
                let _turn = turn;
                // Whoever was before may have looked since.
                files.is_fresh() || files.look()
            });
            look.await.ok().filter(|is_known| *is_known).map(drop).ok_or_else(unanswered)
        };
        tokio::select! {
            looked = looked => looked,
            () = clock.sleep(PATIENCE) => Err(unanswered()),
        }
    }

    fn is_fresh(&self) -> bool {
        let looked = *self.0.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.is_some_and(|began| SystemClock.monotonic().saturating_sub(began) < FRESH)
    }

    /// Gives whether all is known.
    fn look(&self) -> bool {
        let began = SystemClock.monotonic();
        let links =
            self.0.links.as_ref().is_none_or(|(file, ring)| {
                file.if_replaced(|text| LinkKeys::read(text).map(|keys| ring.replace(keys)))
            });
        let tokens = self.0.tokens.as_ref().is_none_or(|(file, server)| {
            file.if_replaced(|text| TokenKeys::read(text).map(|keys| server.use_keys(keys)))
        });
        if links && tokens {
            *self.0.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        }
        links && tokens
    }

    /// Has both files read at the next request, whatever was read: for who has replaced one.
    pub(crate) fn look_again(&self) {
        let links = self.0.links.iter().map(|(file, _)| file);
        for file in links.chain(self.0.tokens.iter().map(|(file, _)| file)) {
            *file.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        *self.0.looked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl KeyFile {
    /// Gives whether what is there now is known.
    fn if_replaced<E: std::error::Error + 'static>(&self, take_up: impl FnOnce(&[u8]) -> Result<(), E>) -> bool {
        // Whoever comes meanwhile waits, as what is good is not known yet.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match std::fs::metadata(&self.path) {
            Ok(metadata) => Version::of(&metadata),
            Err(error) => return error.kind() == std::io::ErrorKind::NotFound,
        };
        if *seen == Some(now) {
            return true;
        }
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) => {
                // It may be readable soon; it is told once.
                let before = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
                if before != Some(now) {
                    tracing::error!(
                        error = error_chain(&error),
                        "keys that sign tokens or links were replaced and cannot be read"
                    );
                }
                return false;
            }
        };
        if let Err(error) = take_up(&text) {
            tracing::error!(error = error_chain(&error), "keys that sign tokens or links stay as they were");
        }
        *seen = Some(now);
        true
    }
}

impl fmt::Debug for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFiles")
    }
}
