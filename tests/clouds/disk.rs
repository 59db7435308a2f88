//! A disk of its own for one process, small enough to be filled at once.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::storage::variable;

/// A tmpfs of 16 MiB in a mount namespace that lasts as long as this, whoever is killed in it.
pub(crate) struct Disk {
    folder: TempDir,
    holder: Child,
    enter: Vec<String>,
}

impl Disk {
    pub(crate) fn mount() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let unshare = variable("OFFTAKE_TMPFS_UNSHARE");
        let mut words = unshare.split_whitespace();
        let mut command = Command::new(words.next().context("OFFTAKE_TMPFS_UNSHARE is empty")?);
        command.args(words).args(["sh", "-c", r#"mount -t tmpfs -o size=16m,mode=700 tmpfs "$0" && echo && exec cat"#]);
        let mut holder = command.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let told = holder.stdout.take().context("a pipe")?;
        let mounted = BufReader::new(told).read_line(&mut String::new())?;
        let enter = format!("nsenter --target {} --mount", holder.id());
        let user = if unshare.contains("--user") { " --user --preserve-credentials" } else { "" };
        let enter = format!("{enter}{user}").split(' ').map(str::to_owned).collect();
        let disk = Self { folder, holder, enter };
        ensure!(mounted == 1, "no tmpfs can be mounted");
        Ok(disk)
    }

    /// What runs a command where the disk is.
    pub(crate) fn enter(&self) -> Vec<String> {
        self.enter.clone()
    }

    /// Where it is for such a command.
    pub(crate) fn inside(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Where it is for us.
    pub(crate) fn outside(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), self.inside()))
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> anyhow::Result<u64> {
        let found = rustix::fs::statvfs(self.outside())?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// The file of another program.
    pub(crate) fn filler(&self) -> PathBuf {
        self.outside().join("filler")
    }

    /// Removes that file.
    pub(crate) fn make_room(&self) -> anyhow::Result<()> {
        fs::remove_file(self.filler()).context("making room")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Without a pipe to read from it ends by itself.
        let _ended = self.holder.kill().and_then(|()| self.holder.wait());
    }
}

/// Writes a file until the disk takes no more.
pub(crate) fn fill(filler: &PathBuf) -> io::Result<()> {
    let mut file = File::create(filler)?;
    let zeros = vec![0; 64 * 1024];
    loop {
        match file.write_all(&zeros) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
