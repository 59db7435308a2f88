//! Modules use only what stands above them, and the pure core touches nothing of the world.
//!
//! This reads the text of `src/`. Tests within it may use whatever they like.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From the core outward: a module uses itself and what stands above it. A part of a module may have a place of its own.
const ORDER: [&str; 31] = [
    "fhir",
    "clock", // gives instants as FHIR writes them
    "body",
    "disk",
    "expiry",
    "profile",
    "smart",
    "bulk",
    "plan",
    "smart::admit", // what a token permits meets whom the plan is for
    "job",
    "config",
    "telemetry",
    "store",
    "ledger",
    "upstream",
    "smart::fetch", // fetches as the upstream's clients do
    "smart::key_source",
    "smart::server",
    "smart::external",
    "output",
    "engine",
    "recover",
    "proxy",
    "doctor", // also asks as whoever reaches us could
    "http",
    "admin",
    "app",
    "cli",
    "testing",
    "fuzzing", // for tests and fuzzers only
];

/// No threads, no time, no randomness, no files, no network: facts are arguments, and the rest is computed.
const PURE: [&str; 56] = [
    "admin::metrics",
    "admin::page",
    "admin::snapshot",
    "fhir",
    "expiry",
    "profile",
    "bulk",
    "plan",
    "smart::access_token",
    "smart::address",
    "smart::admit",
    "smart::assertion",
    "smart::client",
    "smart::consent",
    "smart::delivery",
    "smart::discovery",
    "smart::external::claims",
    "smart::external::metadata",
    "smart::external::token",
    "smart::form",
    "smart::generate",
    "smart::jwk",
    "smart::jws",
    "smart::labels",
    "smart::policy",
    "smart::private_jwk",
    "smart::scope",
    "job",
    "ledger::audit_event",
    "ledger::chain",
    "ledger::denials",
    "ledger::record",
    "upstream::limit",
    "upstream::link",
    "upstream::retry",
    "output::checkpoint",
    "output::layout",
    "output::signing",
    "engine::accept",
    "engine::progress",
    "doctor::anonymous",
    "doctor::expiries",
    "doctor::files",
    "doctor::own_export",
    "doctor::storage",
    "proxy::base",
    "proxy::headers",
    "proxy::metadata::offer",
    "proxy::metadata::patch",
    "proxy::metadata::text",
    "proxy::metadata::validator",
    "http::coding",
    "http::guard",
    "http::heads::scanner",
    "http::links",
    "http::range",
];

/// What gives a pure module away.
const WORLD: [&str; 13] = [
    "tokio",
    "crate::clock",
    "SystemTime",
    "Instant::now",
    "Utc::now",
    "Local::now",
    "::rand",
    "std::fs",
    "std::env",
    "std::net::Tcp",
    "std::process",
    "std::thread",
    "object_store",
];

/// What only the clock's own file may ask for. `sleep` takes a clock too, but a listener's pause needs none.
const TIME_AND_CHANCE: [&str; 6] =
    ["SystemTime", "Instant::now", "Utc::now", "Local::now", "rand::fill", "rand::SystemRandom"];

/// One file of the crate.
struct Source {
    path: PathBuf,
    /// Such as `smart::admit`.
    module: String,
    /// Its lines of code with their numbers: no comments, no tests.
    lines: Vec<(usize, String)>,
}

#[test]
fn a_module_uses_only_what_stands_above_it() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !matches!(&*source.module, "lib" | "main")) {
        let Some(own) = place(&source.module) else {
            panic!("{} has no place in the order: put it where it belongs", source.module);
        };
        for (number, line) in &source.lines {
            for used in used_modules(line) {
                match place(&used) {
                    Some(place) if place <= own => {}
                    Some(place) => wrong.push(format!("{}:{number} uses {}", source.path.display(), ORDER[place])),
                    None => wrong.push(format!("{}:{number} uses {used}, which has no place", source.path.display())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these use what stands below them:\n{}", wrong.join("\n"));
}

#[test]
fn the_pure_core_touches_nothing_of_the_world() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| PURE.iter().any(|pure| is_within(&source.module, pure))) {
        for (number, line) in &source.lines {
            let found = WORLD.iter().filter(|world| line.contains(*world));
            wrong.extend(found.map(|world| format!("{}:{number} has {world}", source.path.display())));
        }
    }
    assert!(wrong.is_empty(), "these are pure and should be given it as an argument:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_clock_asks_the_system_for_time_or_chance() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module != "clock") {
        for (number, line) in &source.lines {
            let found = TIME_AND_CHANCE.iter().filter(|call| line.contains(*call));
            wrong.extend(found.map(|call| format!("{}:{number} has {call}", source.path.display())));
        }
    }
    assert!(wrong.is_empty(), "these should take a clock:\n{}", wrong.join("\n"));
}

/// Else the tables above would go on about modules that are gone, and prove nothing.
#[test]
fn every_module_of_the_tables_is_there_and_is_read() {
    let modules: BTreeSet<String> = sources().into_iter().map(|source| source.module).collect();
    for named in ORDER.iter().chain(&PURE) {
        assert!(modules.contains(*named), "there is no module {named}");
    }
    let used: Vec<_> = sources().iter().flat_map(|source| source.lines.clone()).collect();
    assert!(used.iter().any(|(_, line)| used_modules(line) == ["smart::admit::Grant"]), "no use line is found");
}

#[test]
fn a_use_is_found_however_it_is_written() {
    for (line, expected) in [
        ("use crate::job::{Job, JobId};", vec!["job"]),
        ("use crate::smart::admit::Grant;", vec!["smart::admit::Grant"]),
        (
            "    let key = crate::output::layout::sidecar(crate::job::key());",
            vec!["output::layout::sidecar", "job::key"],
        ),
        ("use crate::{app, cli::Cli};", vec!["{"]),
        ("use super::job;", vec![]),
    ] {
        assert_eq!(used_modules(line), expected, "{line}");
    }
}

/// The place of the longest entry of the order that `module` is or lies in.
fn place(module: &str) -> Option<usize> {
    let holding = (0..ORDER.len()).filter(|place| is_within(module, ORDER[*place]));
    holding.max_by_key(|place| ORDER[*place].len())
}

fn is_within(module: &str, outer: &str) -> bool {
    module.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The paths after each `crate::` of a line. A group right after it has no place and so is refused: one line for each.
fn used_modules(line: &str) -> Vec<String> {
    let path = |rest: &str| {
        if rest.starts_with('{') {
            return "{".to_owned();
        }
        let end = rest.find(|character: char| !(character.is_alphanumeric() || matches!(character, '_' | ':')));
        rest[..end.unwrap_or(rest.len())].trim_end_matches(':').to_owned()
    };
    line.split("crate::").skip(1).map(path).collect()
}

/// Every file of the crate but those that only tests see.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut tests = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let below = path.strip_prefix(&root).expect("it was found there").with_extension("");
                let module =
                    below.iter().map(|part| part.to_str().expect("plain names")).collect::<Vec<_>>().join("::");
                let (lines, test_modules) = code(&text);
                tests.extend(test_modules.into_iter().map(|name| format!("{module}::{name}")));
                found.push(Source {
                    path: Path::new("src").join(path.strip_prefix(&root).expect("the same")),
                    module,
                    lines,
                });
            }
        }
    }
    found.retain(|source| !tests.iter().any(|test| is_within(&source.module, test)));
    found
}

/// The lines of code, and the names of modules in files of their own that only tests see. By custom a module of tests
/// within a file ends it.
fn code(text: &str) -> (Vec<(usize, String)>, Vec<String>) {
    let mut lines = Vec::new();
    let mut tests = Vec::new();
    let mut numbered = text.lines().zip(1..);
    while let Some((line, number)) = numbered.next() {
        if line.trim() == "#[cfg(test)]" {
            let next = numbered.next().map(|(next, _)| next.trim()).unwrap_or_default();
            match next.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                Some(name) => tests.push(name.to_owned()),
                None => break,
            }
        } else if !line.trim_start().starts_with("//") {
            lines.push((number, line.to_owned()));
        }
    }
    (lines, tests)
}
