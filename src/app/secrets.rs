//! Secrets in files and variables that the configuration names.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::config::SecretSource;

/// Largest file that is read.
const MOST_BYTES: u64 = 1024 * 1024;

/// A secret as bytes. What stands there is never a part of an error.
///
/// # Errors
/// If it cannot be read, is empty, or lies open to others.
pub(super) fn read(source: &SecretSource) -> anyhow::Result<Vec<u8>> {
    let secret = match source {
        SecretSource::File(path) => file(path)?,
        SecretSource::Env(name) => variable(name)?.into_bytes(),
    };
    let secret = without_line_end(secret);
    ensure!(!secret.is_empty(), "{source} is empty");
    Ok(secret)
}

/// What a file holds that is for us alone.
///
/// # Errors
/// If it cannot be read, or others can.
pub(super) fn file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let (bytes, metadata) = contents(path)?;
    ensure!(
        is_closed(&metadata),
        "{} can be read or changed by others (mode {:03o}); close it with chmod 600",
        path.display(),
        metadata.mode() & 0o777
    );
    Ok(bytes)
}

/// What a file holds that anybody may know.
///
/// # Errors
/// If it cannot be read.
pub(super) fn public_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    Ok(contents(path)?.0)
}

fn contents(path: &Path) -> anyhow::Result<(Vec<u8>, Metadata)> {
    let context = || format!("could not read {}", path.display());
    let file = File::open(path).with_context(context)?;
    // Of the very file that is read: a name may lead elsewhere in the next moment.
    let metadata = file.metadata().with_context(context)?;
    ensure!(metadata.is_file(), "{} is not a file", path.display());
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).with_context(context)?;
    ensure!(bytes.len() as u64 <= MOST_BYTES, "{} is larger than 1 MiB", path.display());
    Ok((bytes, metadata))
}

/// For its owner alone; root's may be read by a group too, as orchestrators mount them for users that are not root.
fn is_closed(metadata: &Metadata) -> bool {
    let others = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    metadata.mode() & others == 0
}

#[expect(clippy::disallowed_methods, reason = "an operator has named this one variable in the configuration")]
fn variable(name: &str) -> anyhow::Result<String> {
    match std::env::var(name) {
        Ok(value) => Ok(value),
        Err(std::env::VarError::NotPresent) => anyhow::bail!("the variable {name} is not set"),
        Err(std::env::VarError::NotUnicode(_)) => anyhow::bail!("the variable {name} is not UTF-8"),
    }
}

/// Without the one line's end that editors add.
fn without_line_end(mut secret: Vec<u8>) -> Vec<u8> {
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    secret
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_line_end_is_no_part_of_a_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        for (text, expected) in [
            ("s3cret", Some("s3cret")),
            ("s3cret\n", Some("s3cret")),
            ("s3cret\r\n", Some("s3cret")),
            ("s3cret\n\n", Some("s3cret\n")),
            (" s3cret ", Some(" s3cret ")),
            ("s3cret\r", Some("s3cret\r")),
            ("", None),
            ("\n", None),
        ] {
            std::fs::write(&path, text).expect("it is written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("it is closed");
            let read = read(&SecretSource::File(path.clone())).ok();
            assert_eq!(read.as_deref(), expected.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn a_secret_that_lies_open_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "s3cret").expect("it is written");
        let is_root = std::fs::metadata(&path).expect("it is there").uid() == 0;
        for (mode, expected) in [
            (0o600, true),
            (0o400, true),
            (0o640, is_root),
            (0o660, false),
            (0o644, false),
            (0o604, false),
            (0o622, false),
        ] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("it is its owner's");
            let read = read(&SecretSource::File(path.clone()));
            assert_eq!(read.is_ok(), expected, "{mode:03o}");
            if let Err(error) = read {
                let told = format!("{error:#}");
                assert!(told.contains("chmod 600") && !told.contains("s3cret"), "{told}");
            }
        }
        let told = read(&SecretSource::File(folder.path().to_owned())).expect_err("a folder");
        assert!(told.to_string().ends_with("is not a file"), "{told}");
        let told = read(&SecretSource::Env("OFFTAKE_NO_SUCH_VARIABLE".to_owned())).expect_err("nothing");
        assert_eq!(told.to_string(), "the variable OFFTAKE_NO_SUCH_VARIABLE is not set");
    }
}
