//! Figures as they are shown.

use std::process::Command;

/// A median, and how far apart the rounds were.
pub(crate) struct Figure {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

impl Figure {
    pub(crate) fn of(rounds: &[f64]) -> Self {
        let mut all = rounds.to_vec();
        all.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(all.len() / 2), least: at(0), most: at(all.len().saturating_sub(1)) }
    }
}

/// One row: seconds, and how many megabytes a second that is; of Offtake its CPU seconds for each GB and its peak in MB.
pub(crate) fn row(name: &str, took: &Figure, gigabytes: f64, own: Option<(f64, f64)>) {
    let Figure { median, least, most } = took;
    let rate = gigabytes * 1e3 / median;
    let of = if own.is_some() { "NDJSON" } else { "on the wire" };
    print!("  {name:<40} {median:>8.2} s ({least:.2} to {most:.2}) {rate:>6.0} MB/s {of}");
    match own {
        Some((cpu, peak)) => println!(" {cpu:>6.2} CPU s/GB {peak:>4.0} MB"),
        None => println!(),
    }
}

/// Shows a figure and what is promised of it; gives whether it holds.
pub(crate) fn holds(name: &str, value: f64, bound: f64, is_least: bool) -> bool {
    let holds = if is_least { value >= bound } else { value <= bound };
    let promise = if is_least { "at least" } else { "at most" };
    println!("  {name:<50} {value:>8.3}   {promise} {bound}: {}", if holds { "holds" } else { "DOES NOT HOLD" });
    holds
}

#[expect(clippy::cast_precision_loss, reason = "a few significant digits are shown")]
pub(crate) fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// What was measured on: processors and their name.
pub(crate) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names: Vec<_> = info.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": ")).collect();
    let name = names.first().map_or("unknown", |(_, name)| name);
    format!("{} × {name}", names.len())
}

/// What was measured.
pub(crate) fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let said = Command::new("git").args(["-C", folder, "describe", "--always", "--dirty", "--abbrev=10"]).output();
    said.ok().and_then(|said| String::from_utf8(said.stdout).ok()).unwrap_or_default().trim().to_owned()
}
