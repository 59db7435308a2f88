//! Opens the folder of a store, and mends what a hard stop can leave behind.

use std::error::Error;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::trees::Trees;
use crate::store::{FolderError, private_folder};

/// sled's cache of pages, in bytes.
const CACHE: u64 = 8 * 1024 * 1024;
/// Held while the folder is in use; sled's own lock comes too late, after the repair.
const LOCK: &str = "lock";
/// sled's log: all that was written.
const DATA: &str = "db";
/// The log while it is copied.
const COPY: &str = "db.copy";
/// A file that is made once the log is known to hold a record. sled takes a log that it cannot read from its first
/// byte for an empty one: with this file there, an empty log is a damaged one.
const WRITTEN: &str = "written";
/// How long sled may take to let its own lock go.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// What a snapshot is called that kept the store from opening. sled must not take it for one of its own.
const ASIDE: &str = "damaged.";

/// A store's open folder.
pub(super) struct Opened {
    pub(super) trees: Trees,
    /// A handle of our own on the log, to sync it.
    pub(super) data: File,
    pub(super) lock: File,
}

/// Opens the store in `folder`.
///
/// sled keeps a snapshot beside its log to start faster. One that is torn or half written keeps it from opening
/// though the log is whole: it is set aside, and sled reads the log from its beginning.
pub(super) fn open(folder: &Path) -> Result<Opened, OpenError> {
    private_folder(folder).map_err(OpenError::Folder)?;
    let unavailable = |error| OpenError::unavailable(folder, error);
    let lock = lock(folder)?;
    refuse_links(folder)?;
    for half_written in snapshots(folder).map_err(unavailable)?.iter().filter(|name| name.ends_with(".generating")) {
        fs::remove_file(folder.join(half_written)).map_err(unavailable)?;
    }
    let trees = open_mended(folder)?;
    let data = File::open(folder.join(DATA)).map_err(unavailable)?;
    refuse_emptied(folder, &trees, &data)?;
    make_durable(folder).map_err(unavailable)?;
    Ok(Opened { trees, data, lock })
}

/// The size of the log.
pub(super) fn log_bytes(folder: &Path) -> u64 {
    folder.join(DATA).metadata().map_or(0, |log| log.len())
}

/// Opens a copy of the log in its place, after sled has failed to write to it. That sled is never dropped, because it would
/// wait for what it could not write, and keeps its lock on the old log. What can be read is thereby written anew, so that
/// nothing is taken for durable that a failed write has left in the system's memory only.
pub(super) fn open_copy(folder: &Path) -> Result<(Trees, File), OpenError> {
    let unavailable = |error| OpenError::unavailable(folder, error);
    let (log, copy) = (folder.join(DATA), folder.join(COPY));
    let copied = fs::copy(&log, &copy).and_then(|_bytes| File::open(&copy)?.sync_all());
    if let Err(error) = copied {
        // It may take the last room there is.
        let _none = fs::remove_file(&copy);
        return Err(unavailable(error));
    }
    fs::rename(&copy, &log).map_err(unavailable)?;
    for half_written in snapshots(folder).map_err(unavailable)?.iter().filter(|name| name.ends_with(".generating")) {
        fs::remove_file(folder.join(half_written)).map_err(unavailable)?;
    }
    let trees = open_mended(folder)?;
    let data = File::open(&log).map_err(unavailable)?;
    refuse_emptied(folder, &trees, &data)?;
    make_durable(folder).map_err(unavailable)?;
    Ok((trees, data))
}

fn open_mended(folder: &Path) -> Result<Trees, OpenError> {
    let mut tries = 0;
    loop {
        match open_sled(folder) {
            Ok(trees) => return Ok(trees),
            Err(Failure::Damage(_)) => return open_without_snapshots(folder),
            // Our own lock is held: it is a thread of sled's that has not ended yet, from before it was dropped.
            Err(Failure::Other(error))
                if tries < LOCK_TRIES && error.to_string().contains("could not acquire lock") =>
            {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(Failure::Other(error)) => return Err(OpenError::unavailable(folder, error)),
        }
    }
}

/// A log that was written and has nothing in it was damaged: nobody may go on as if there had never been a job.
fn refuse_emptied(folder: &Path, trees: &Trees, data: &File) -> Result<(), OpenError> {
    let unavailable = |error| OpenError::unavailable(folder, error);
    let failed = |error: ::sled::Error| OpenError::unavailable(folder, error);
    let marker = folder.join(WRITTEN);
    let was_written = marker.try_exists().map_err(unavailable)?;
    if trees.is_marked().map_err(failed)? {
        if !was_written {
            File::create(&marker).map_err(unavailable)?;
        }
        return Ok(());
    }
    if was_written {
        return Err(OpenError::Damaged { folder: folder.to_owned(), source: Emptied.into() });
    }
    trees.mark().map_err(failed)?;
    data.sync_data().map_err(unavailable)?;
    File::create(&marker).map_err(unavailable)?;
    Ok(())
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let unavailable = |error| OpenError::unavailable(folder, error);
    let mut options = OpenOptions::new();
    let lock = options.create(true).append(true).mode(0o600).open(folder.join(LOCK)).map_err(unavailable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(unavailable(error)),
    }
}

/// SEC-40: whoever can put a link into the folder decides where the records go.
fn refuse_links(folder: &Path) -> Result<(), OpenError> {
    let unavailable = |error| OpenError::unavailable(folder, error);
    for entry in fs::read_dir(folder).map_err(unavailable)? {
        let entry = entry.map_err(unavailable)?;
        if entry.file_type().map_err(unavailable)?.is_symlink() {
            return Err(OpenError::Folder(FolderError::Symlink(entry.path())));
        }
    }
    Ok(())
}

fn open_without_snapshots(folder: &Path) -> Result<Trees, OpenError> {
    let unavailable = |error| OpenError::unavailable(folder, error);
    let names = snapshots(folder).map_err(unavailable)?;
    let aside = |name: &str| folder.join(format!("{ASIDE}{name}"));
    for name in &names {
        fs::rename(folder.join(name), aside(name)).map_err(unavailable)?;
    }
    match open_sled(folder) {
        Ok(trees) => {
            tracing::warn!(folder = %folder.display(), "the job store's snapshot was damaged; it was opened from its log");
            Ok(trees)
        }
        Err(Failure::Damage(source)) => {
            // It was not the snapshots: the folder is left as it was found, for whoever looks into it.
            for name in &names {
                fs::rename(aside(name), folder.join(name)).map_err(unavailable)?;
            }
            Err(OpenError::Damaged { folder: folder.to_owned(), source })
        }
        Err(Failure::Other(error)) => Err(OpenError::unavailable(folder, error)),
    }
}

enum Failure {
    Damage(Cause),
    Other(Cause),
}

fn open_sled(folder: &Path) -> Result<Trees, Failure> {
    // `flush_every_ms(None)`: the writer flushes, and nothing is durable before it says so.
    let config = ::sled::Config::new().path(folder).cache_capacity(CACHE).flush_every_ms(None);
    // On some damaged logs sled panics. Nothing of what it had built by then is used again.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open().and_then(|db| Trees::open(&db))));
    match opened {
        Ok(Ok(trees)) => Ok(trees),
        Ok(Err(error @ ::sled::Error::Corruption { .. })) => Err(Failure::Damage(error.into())),
        Ok(Err(error)) => Err(Failure::Other(error.into())),
        Err(_panic) => Err(Failure::Damage(Panicked.into())),
    }
}

/// The names of sled's snapshots, whole or not.
fn snapshots(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    let names = names.filter_map(Result::transpose).collect::<io::Result<Vec<_>>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with("snap.")).collect())
}

/// The files themselves must outlive a power cut, not only what is written to them.
fn make_durable(folder: &Path) -> io::Result<()> {
    for file in [DATA, "conf"] {
        File::open(folder.join(file))?.sync_all()?;
    }
    File::open(folder)?.sync_all()?;
    folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

type Cause = Box<dyn Error + Send + Sync>;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The folder or what is in it is not as it must be.
    #[error("the job store's folder cannot be used")]
    Folder(#[source] FolderError),
    /// Two processes would overwrite each other's records.
    #[error("another process uses the job store in {}; stop it, or give this one a folder of its own", .0.display())]
    Locked(PathBuf),
    /// The log itself is broken, so that no job can be read. Starting empty is for the operator to decide.
    #[error(
        "the job store in {} is damaged and could not be mended; restore the folder from a backup, or move it away to \
         start with an empty one (exports are forgotten then, and their output files stay where they are)",
        .folder.display()
    )]
    Damaged { folder: PathBuf, source: Cause },
    /// It could not be read or written.
    #[error("could not open the job store in {}", .folder.display())]
    Unavailable { folder: PathBuf, source: Cause },
}

impl OpenError {
    pub(super) fn unavailable(folder: &Path, source: impl Into<Cause>) -> Self {
        Self::Unavailable { folder: folder.to_owned(), source: source.into() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("its log was written before and holds nothing that can be read")]
struct Emptied;

#[derive(Debug, thiserror::Error)]
#[error("sled panicked while it read its files")]
struct Panicked;
