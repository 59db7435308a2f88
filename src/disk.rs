//! Room on disks: how much there is, whether a failure says that there is none, and the ballast that a full disk is
//! relieved of (SEC-45).

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What storages in a cloud call it, in the text of a failure.
const SAID: [&str; 3] = ["QuotaExceeded", "StorageFull", "507 Insufficient Storage"];

/// Free bytes without which a store begins no write: more than a batch of them takes.
pub(crate) const LEAST_FREE: u64 = 2 * 1024 * 1024;

/// Bytes of a file system that this process may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

impl Space {
    /// Of the file system that `folder` lies on; `None` if it cannot be told.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(folder).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let space = Self { free: bytes(found.f_bavail), total: bytes(found.f_blocks) };
        // A file system that counts nothing is not full.
        (space.total > 0).then_some(space)
    }
}

/// Whether it was for want of room that something failed: a full disk, or a quota.
pub(crate) fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
            || SAID.iter().any(|said| cause.to_string().contains(said))
        {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Lets the pages of a written and synced file go from the system's memory: nobody here reads it soon, and what else the
/// machine keeps there (a database's tables, as it may be) is worth more. The next file then gets the same pages again,
/// which costs less than a third of new ones.
pub(crate) fn leave_cache(path: &Path) {
    // It is an advice: where it is not taken, nothing is lost.
    if let Ok(file) = File::open(path) {
        let _taken = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Writes a file for nobody else, durably and at once.
pub(crate) fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Beside it may be files that differ in their extension only, and another process may do the same.
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".new-{}", std::process::id()));
    let staged = PathBuf::from(staged);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    let kept = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&staged, path));
    if kept.is_err() {
        // The next process has another number, and would not write over it. What stays all the same is looked at by nobody.
        let _or_not = fs::remove_file(&staged);
    }
    kept?;
    sync_folder_of(path)
}

/// Makes durable that a file is there, or is there no more.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// A file that takes room for nothing, until the room is needed.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    pub(crate) fn new(path: PathBuf, bytes: u64) -> Self {
        Self { path, bytes }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Gives the room back if there is next to none in `folder`.
    pub(crate) fn relieve(&self, folder: &Path) {
        let folder = folder.parent().filter(|_| !folder.exists()).unwrap_or(folder);
        if Space::of(folder).is_some_and(|space| space.free < LEAST_FREE) {
            self.give_back();
        }
    }

    /// Takes the room. What cannot be taken is none.
    pub(crate) fn take(&self) {
        if let Err(error) = self.fill() {
            tracing::warn!(error = %error.kind(), "could not set room aside for recording deletions on a full disk");
            self.give_back();
        }
    }

    fn fill(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes);
        if reserved.is_err() {
            write_zeros(&mut file, self.bytes)?;
        }
        file.sync_all()
    }

    /// Gives the room back.
    pub(crate) fn give_back(&self) {
        match fs::remove_file(&self.path) {
            Ok(()) => tracing::warn!("the disk of the job store is full: the room that was set aside is given back"),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::error!(error = %error.kind(), "could not give back the room that was set aside"),
        }
    }
}

/// Where a file system cannot set room aside by a word.
fn write_zeros(file: &mut File, bytes: u64) -> io::Result<()> {
    let zeros = [0; 16 * 1024];
    for _ in 0..bytes.div_ceil(zeros.len() as u64) {
        file.write_all(&zeros)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not write")]
    struct Outer(#[source] Box<dyn Error + Send + Sync>);

    #[test]
    fn want_of_room_is_known_however_deep_it_lies() {
        let full = |kind: ErrorKind| Outer(Box::new(Outer(io::Error::from(kind).into())));
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            assert!(is_full(&full(kind)), "{kind:?}");
        }
        assert!(!is_full(&full(ErrorKind::PermissionDenied)));
        for (text, expected) in [
            ("status 403: <Code>QuotaExceeded</Code>", true),
            ("<Code>XMinioStorageFull</Code>", true),
            ("HTTP 507 Insufficient Storage", true),
            ("HTTP 503 Service Unavailable", false),
        ] {
            assert_eq!(is_full(&Outer(text.into())), expected, "{text}");
        }
    }

    #[test]
    fn a_file_that_leaves_the_cache_stays_what_it_was() {
        let folder = tempfile::tempdir().expect("a folder of its own");
        let path = folder.path().join("file");
        let content = vec![7; 100_000];
        fs::write(&path, &content).expect("it is written");
        leave_cache(&path);
        assert_eq!(fs::read(&path).expect("it is there"), content);
        leave_cache(&folder.path().join("none"));
    }

    #[test]
    fn files_that_differ_in_their_extension_are_kept_apart() {
        let folder = tempfile::tempdir().expect("a folder of its own");
        let path = |name| folder.path().join(name);
        fs::write(path("head.new"), b"of somebody else").expect("it is written");
        for name in ["head.a", "head.b", "head"] {
            keep(&path(name), name.as_bytes()).expect("there is room");
        }
        for (name, expected) in
            [("head.a", "head.a"), ("head.b", "head.b"), ("head", "head"), ("head.new", "of somebody else")]
        {
            assert_eq!(fs::read_to_string(path(name)).expect("it is there"), expected);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 4, "nothing is left beside them");
        fs::create_dir(path("folder")).expect("there is room");
        assert!(keep(&path("folder"), b"no file can be there").is_err());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 5, "nor after a failure");
    }

    #[test]
    fn ballast_takes_room_and_gives_it_back() {
        let folder = tempfile::tempdir().expect("a folder of its own");
        let ballast = Ballast::new(folder.path().join("ballast"), 128 * 1024);
        for _ in 0..2 {
            ballast.take();
            assert_eq!(ballast.path.metadata().expect("it is there").len(), ballast.bytes());
        }
        ballast.give_back();
        ballast.give_back();
        assert!(!ballast.is_there());
    }
}
