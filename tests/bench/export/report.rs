//! Figures as they are shown.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

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

/// What is told of one server in a document.
pub(crate) struct Told {
    pub(crate) what: &'static str,
    pub(crate) megabytes: f64,
    pub(crate) drained: f64,
    /// Where nothing but the processors bounds an export.
    pub(crate) written: Option<f64>,
    pub(crate) forgotten: Exported,
    pub(crate) disk: Exported,
    /// The quickest of the walks that follow links, where there were any.
    pub(crate) walk: Option<f64>,
    /// What an export is held against, how much of it is reached, and how much is asked for.
    pub(crate) part: (&'static str, f64, f64),
}

/// Seconds, processor time for each gigabyte, and peak memory.
pub(crate) struct Exported {
    pub(crate) seconds: f64,
    pub(crate) cpu: f64,
    pub(crate) peak: f64,
}

/// A table of Markdown.
pub(crate) fn table(told: &[Told], rounds: u16) -> String {
    let mut text = format!(
        "By `cargo bench --locked --bench export` at {}, {}, which the sample server shares; medians of {rounds} rounds. Seconds but \
         where it is said; processor time and memory are those of Offtake alone, to disk and (in brackets) to a store that forgets.\n\n\
         | the server holds | MB NDJSON | raw drain | written, fsynced | Offtake to disk | Offtake, forgotten | walk by links | CPU s/GB | \
         peak MB | held against |\n|---|---|---|---|---|---|---|---|---|---|\n",
        commit(),
        machine(),
    );
    let or_none = |seconds: Option<f64>| seconds.map_or(String::new(), |seconds| format!("{seconds:.2}"));
    for Told { what, megabytes, drained, written, forgotten, disk, walk, part: (of, part, asked) } in told {
        let verdict = if part >= asked { "holds" } else { "does not hold" };
        let row = format!(
            "| {what} | {megabytes:.0} | {drained:.2} | {} | {:.2} | {:.2} | {} | {:.2} ({:.2}) | {:.0} ({:.0}) | {part:.3} of {of}, \
             {asked} asked: {verdict} |\n",
            or_none(*written),
            disk.seconds,
            forgotten.seconds,
            or_none(*walk),
            disk.cpu,
            forgotten.cpu,
            disk.peak,
            forgotten.peak,
        );
        text.push_str(&row);
    }
    text
}

const BEGIN: &str = "<!-- figures: cargo bench --bench export -- --table -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Puts a table into a document, in the place of the one that stands between two marks.
pub(crate) fn put_into(file: &Path, table: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{} has no {BEGIN}", file.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{} has no {END}", file.display()))?;
    Ok(std::fs::write(file, format!("{before}{BEGIN}{table}{END}{after}"))?)
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
