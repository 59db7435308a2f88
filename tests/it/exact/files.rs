//! The files of an export on disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::listed::listed;
use crate::client::Manifest;
use crate::support::{HEAD, MARKER};

/// Fails if something is on disk that should not be, or the other way round: each listed file is there, once, and beside
/// them nothing but sidecars and checkpoint objects, those of the job and of each of its commits, which name every file
/// and every sidecar that is there once and none that is not. Some sidecars stand alone (slices that brought a warning and
/// no line).
pub(crate) fn check_folder(output: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let mut wanted = BTreeSet::new();
    for kind in ["output", "error"] {
        wanted.extend(listed(manifest, kind)?.iter().map(|file| file.name().to_owned()));
    }
    let mut wrong = Vec::new();
    let mut found = BTreeSet::new();
    let files = files_below(output)?;
    let mut named = named_by_checkpoints(output, &files)?;
    for file in files {
        let (stem, extension) = file.rsplit_once('.').unwrap_or((&file, ""));
        // On disk the epoch stands between number and extension.
        let name = stem.rsplit_once('.').map_or_else(String::new, |(name, _)| format!("{name}.ndjson"));
        match extension {
            "ndjson" if wanted.contains(&name) && found.insert(name.clone()) && named.remove(&file) => {}
            "ids" if named.remove(&file) => {}
            // Which of them there are was looked at already.
            "checkpoint" => {}
            _ => wrong.push(format!("{file} is left")),
        }
    }
    wrong.extend(wanted.difference(&found).map(|name| format!("{name} is not there")));
    wrong.extend(named.iter().map(|name| format!("{name} is not there, and a checkpoint object names it")));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The files that the checkpoint objects among `files`, those of one complete export, name: `job.checkpoint`, and one of
/// each commit, from 1 on without a gap, of which the last one and no other says that the export is complete.
fn named_by_checkpoints(output: &Path, files: &[String]) -> anyhow::Result<BTreeSet<String>> {
    let mut names: Vec<_> = files.iter().filter(|name| name.ends_with(".checkpoint")).collect();
    names.sort_unstable();
    let expected: Vec<_> = (1..names.len()).map(|number| format!("{number:05}.checkpoint")).collect();
    ensure!(names.pop().is_some_and(|name| name == "job.checkpoint"), "there is no job.checkpoint: {names:?}");
    ensure!(names.iter().copied().eq(&expected), "the checkpoint objects are {names:?}");
    let mut named = BTreeSet::new();
    for name in &expected {
        let checkpoint = checkpoint(&path_below(output, name).with_context(|| format!("{name} is gone"))?)?;
        let is_complete = checkpoint["state"]["complete"].is_object();
        ensure!(is_complete == (Some(name) == expected.last()), "{name} says {}", checkpoint["state"]);
        for file in checkpoint["files"].as_array().context("a commit has files")? {
            let file = &file["state"]["complete"];
            for key in [&file["object"]["key"], &file["sidecar"]].into_iter().filter_map(Value::as_str) {
                let name = key.rsplit('/').next().unwrap_or_default();
                ensure!(named.insert(name.to_owned()), "{name} is named twice");
            }
        }
    }
    Ok(named)
}

/// What a checkpoint object says; whether it is authentic is not looked at.
pub(crate) fn checkpoint(file: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(file)?;
    let sealed = bytes.strip_prefix(b"offtake-checkpoint-1\n").context("no checkpoint object")?;
    Ok(serde_json::from_slice(sealed.get(32..).context("no tag")?)?)
}

/// The one file of this name below `folder`.
fn path_below(folder: &Path, name: &str) -> Option<PathBuf> {
    paths_below(folder).ok()?.into_iter().find(|path| path.file_name().is_some_and(|found| found == name))
}

/// The names of all files below `folder`. What goes while it is looked at is not there.
pub(crate) fn files_below(folder: &Path) -> anyhow::Result<Vec<String>> {
    let names =
        paths_below(folder)?.into_iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    Ok(names.collect())
}

/// The paths of all files below `folder` that belong to exports.
pub(crate) fn paths_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if !is_of_the_instance(&entry.file_name().to_string_lossy()) {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Whether a file belongs to no export: the marker, the copy of the ledger's head, or what becomes either of them
/// (`NAME#N` while it is being written).
pub(crate) fn is_of_the_instance(name: &str) -> bool {
    let written = name.split_once('#').map_or(name, |(written, _)| written);
    [MARKER, HEAD].contains(&written)
}
