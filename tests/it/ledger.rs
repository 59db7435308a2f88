//! The disclosure ledger: who was given what, and what was refused (SEC-43).

mod commands;
mod events;
mod failing;

use std::path::Path;

use serde_json::Value;

/// The records of a ledger in their order, as they lie in its folder.
pub(crate) fn records(folder: &Path) -> Vec<Value> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|kind| kind == "ndjson")).collect();
    paths.sort();
    let texts = paths.iter().map(|path| std::fs::read_to_string(path).expect("text"));
    // What is being written has no end yet.
    let whole = |text: String| {
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let lines: Vec<_> = texts.flat_map(whole).collect();
    lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

/// Those of this kind.
pub(crate) fn of_kind(records: &[Value], kind: &str) -> Vec<Value> {
    records.iter().filter(|record| record["event"] == kind).cloned().collect()
}
