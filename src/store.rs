//! The stores that jobs are kept in, the folder they live in, and the conformance tests every store passes.

pub(crate) mod codec;
pub(crate) mod crash;
pub(crate) mod full;
pub(crate) mod keys;
pub(crate) mod memory;
pub(crate) mod sled;

#[cfg(test)]
mod conformance;

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::job::Epoch;

/// The epoch of whoever claims after `epoch`.
fn next(epoch: Epoch) -> Epoch {
    // Zero is the epoch of a job that nobody has claimed. After four thousand million claims the oldest lease is long gone.
    Epoch(epoch.0.wrapping_add(1).max(1))
}

/// Makes `folder` if it is missing, and makes sure that nobody but its owner can look into it (SEC-40).
///
/// # Errors
/// [`FolderError`] says what is wrong with a folder that is there already; it is never changed.
pub(crate) fn private_folder(folder: &Path) -> Result<(), FolderError> {
    let unusable = |source| FolderError::Io { folder: folder.to_owned(), source };
    match folder.symlink_metadata() {
        Ok(found) => check(folder, &found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
            check(folder, &folder.symlink_metadata().map_err(unusable)?)
        }
        Err(error) => Err(unusable(error)),
    }
}

fn check(folder: &Path, found: &Metadata) -> Result<(), FolderError> {
    let mode = found.permissions().mode() & 0o777;
    if found.is_symlink() {
        Err(FolderError::Symlink(folder.to_owned()))
    } else if !found.is_dir() {
        Err(FolderError::NotAFolder(folder.to_owned()))
    } else if mode & 0o077 != 0 {
        Err(FolderError::OpenToOthers { folder: folder.to_owned(), mode })
    } else {
        Ok(())
    }
}

/// Why a folder is not fit to hold state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// Whoever can change the link decides where the state goes.
    #[error("{} is a symbolic link; name the folder that it leads to", .0.display())]
    Symlink(PathBuf),
    /// Something else has that name.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// Its permission bits let others in.
    #[error("{} can be entered by others (mode {mode:03o}); close it with chmod 700", .folder.display())]
    OpenToOthers { folder: PathBuf, mode: u32 },
    /// It can neither be read nor made.
    #[error("could not read or make the folder {}", .folder.display())]
    Io { folder: PathBuf, source: io::Error },
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::symlink;

    use super::*;

    /// SEC-40: the state folder is 0700.
    #[test]
    fn a_missing_folder_is_made_for_its_owner_only() {
        let parent = tempfile::tempdir().expect("a folder of its own");
        let folder = parent.path().join("state/jobs");
        private_folder(&folder).expect("it can be made");
        let mode = folder.metadata().expect("it was made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        private_folder(&folder).expect("and used again");
    }

    /// SEC-40: refused at start if wider or symlinked.
    #[test]
    fn a_folder_that_others_can_enter_or_redirect_is_refused_and_left_as_it_is() {
        let parent = tempfile::tempdir().expect("a folder of its own");
        let path = |name: &str| parent.path().join(name);
        for (name, mode) in [("group", 0o750), ("world", 0o701), ("closed", 0o700)] {
            fs::create_dir(path(name)).expect("it can be made");
            fs::set_permissions(path(name), Permissions::from_mode(mode)).expect("it is ours");
        }
        symlink(path("closed"), path("link")).expect("it can be made");
        symlink(path("nowhere"), path("dangling")).expect("it can be made");
        fs::write(path("file"), "").expect("it can be made");
        for (name, expected) in [
            ("group", "can be entered by others (mode 750); close it with chmod 700"),
            ("world", "can be entered by others (mode 701); close it with chmod 700"),
            ("link", "is a symbolic link; name the folder that it leads to"),
            ("dangling", "is a symbolic link; name the folder that it leads to"),
            ("file", "is not a folder"),
            ("file/below", "could not read or make the folder"),
        ] {
            let error = private_folder(&path(name)).expect_err(name).to_string();
            assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
        }
        assert_eq!(path("group").metadata().expect("it is there").permissions().mode() & 0o777, 0o750);
    }
}
