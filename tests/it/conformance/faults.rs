//! Faults that can be switched on in a copy of the tree, and the tests that were seen to turn red by each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use super::tree::{self, Tests};
use super::{Row, Status, read, root, rows};

/// One way of doing it wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) id: String,
    /// What is violated.
    pub(super) rows: Vec<String>,
    edits: Vec<Edit>,
    /// The tests that notice.
    red: Vec<String>,
}

/// An expression that the fault has another one in the place of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    /// It stands there exactly once; the expression is what is in « », or all.
    code: String,
    instead: String,
}

pub(super) fn faults() -> Vec<Fault> {
    serde_saphyr::from_str(&read("tests/conformance/faults.yaml")).expect("tests/conformance/faults.yaml")
}

impl Edit {
    /// What stands before the expression, the expression, and what stands behind it.
    fn parts(&self) -> (&str, &str, &str) {
        let Some((before, rest)) = self.code.split_once('«') else { return ("", &self.code, "") };
        let (code, after) = rest.split_once('»').expect("« has its »");
        (before, code, after)
    }

    fn plain(&self) -> String {
        self.code.replace(['«', '»'], "")
    }
}

#[test]
fn every_fault_can_be_switched_on_and_somebody_notices() {
    let (tests, known) = (Tests::of_the_tree(), rows());
    let known: BTreeSet<_> = known.iter().map(|row| row.id.as_str()).collect();
    let (mut ids, mut wrong) = (BTreeSet::new(), Vec::new());
    for Fault { id, rows, edits, red } in &faults() {
        if !ids.insert(id.clone()) || edits.is_empty() || rows.is_empty() || red.is_empty() {
            wrong.push(format!("{id} is there twice, or does or violates nothing, or nobody notices"));
        }
        wrong.extend(rows.iter().filter(|row| !known.contains(row.as_str())).map(|row| format!("{id}: no row {row}")));
        wrong.extend(red.iter().filter(|test| !tests.has(test)).map(|test| format!("{id}: no test {test}")));
        for edit in edits {
            let times = read(&edit.file).matches(&edit.plain()).count();
            if times != 1 {
                wrong.push(format!("{id}: {} stands {times} times in {}", edit.plain(), edit.file));
            }
        }
    }
    assert!(wrong.is_empty(), "tests/conformance/faults.yaml:\n{}", wrong.join("\n"));
}

/// What a SHALL asks for and is done, be it in part, is violated by a fault that one of its own tests notices, or it is said
/// why there is none.
#[test]
fn what_binds_is_seen_to_be_violated() {
    let (faults, mut wrong) = (faults(), Vec::new());
    for row in rows() {
        let is_seen = sees(&row, &faults);
        let Row { id, level, status, no_fault, .. } = row;
        match no_fault {
            None if level.contains("SHALL") && status != Status::NotOffered && !is_seen => {
                wrong.push(format!("{id}: none of its tests turns red by a fault, and it has no `no_fault`"));
            }
            Some(_) if is_seen => wrong.push(format!("{id}: it has a fault, and a reason why it has none")),
            None | Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "tests/conformance:\n{}", wrong.join("\n"));
}

/// Whether a test that a row names turns red by a fault that violates the row.
fn sees(row: &Row, faults: &[Fault]) -> bool {
    let violate = faults.iter().filter(|fault| fault.rows.contains(&row.id));
    violate.flat_map(|fault| &fault.red).any(|test| row.tests.contains(test))
}

/// `tests/conformance/prove` has a copy of the tree made with every fault in it, to be switched on by `OFFTAKE_FAULT`.
#[test]
#[expect(clippy::disallowed_methods, reason = "the script says where its copy of the tree is")]
fn a_tree_is_made_with_every_fault_in_it() {
    let faults = faults();
    let files = faulted(&faults);
    assert!(files.len() > 1 && files.values().all(|text| text.contains("crate::fault::on(")), "there are faults");
    let Some(copy) = std::env::var_os("FAULTED_TREE") else { return };
    let copy = Path::new(&copy);
    let write = |below: &str, text: &str| {
        std::fs::write(copy.join(below), text).unwrap_or_else(|error| panic!("{below}: {error}"));
    };
    for (file, text) in &files {
        write(file, text);
    }
    write("src/lib.rs", &format!("#![allow(unused_parens)]\n{}\nmod fault;\n", read("src/lib.rs")));
    write("src/fault.rs", SWITCH);
    let mut list = String::new();
    for Fault { id, red, .. } in &faults {
        for test in red {
            let (krate, path) = test.split_once("::").expect("a path");
            writeln!(list, "{id} {krate} {path}").expect("a text takes all that is written");
        }
    }
    write("faults.list", &list);
    assert!(copy != root(), "the tree itself has no faults");
}

const SWITCH: &str = "//! Which fault is switched on.

pub(crate) fn on(id: &str) -> bool {
    static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var(\"OFFTAKE_FAULT\").unwrap_or_default()) == id
}
";

/// The text of each file that has faults, with all of them in it.
fn faulted(faults: &[Fault]) -> BTreeMap<String, String> {
    let mut places: BTreeMap<(&str, String), Vec<(&str, &Edit)>> = BTreeMap::new();
    for fault in faults {
        for edit in &fault.edits {
            places.entry((&edit.file, edit.plain())).or_default().push((&fault.id, edit));
        }
    }
    let mut files = BTreeMap::new();
    for ((file, plain), edits) in places {
        let text: &mut String = files.entry(file.to_owned()).or_insert_with(|| read(file));
        let (before, code, after) = edits[0].1.parts();
        let mut choice = String::new();
        for (id, edit) in &edits {
            write!(choice, "if crate::fault::on(\"{id}\") {{ {} }} else ", edit.instead).expect("a text takes it");
        }
        *text = text.replacen(&plain, &format!("{before}({choice}{{ {code} }}){after}"), 1);
    }
    files
}

/// Those that violate a row, by its id.
pub(super) fn by_row(faults: &[Fault]) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for fault in faults {
        for row in &fault.rows {
            found.entry(row).or_default().push(&fault.id);
        }
    }
    found
}

#[test]
fn faults_in_one_place_are_told_apart() {
    let fault = |id: &str, instead: &str| Fault {
        id: id.to_owned(),
        rows: Vec::new(),
        edits: vec![Edit {
            file: "LICENSE-MIT".to_owned(),
            code: "MIT «License»".to_owned(),
            instead: instead.to_owned(),
        }],
        red: Vec::new(),
    };
    let files = faulted(&[fault("a", "1"), fault("b", "2")]);
    let expected = "MIT (if crate::fault::on(\"a\") { 1 } else if crate::fault::on(\"b\") { 2 } else { License })";
    assert!(files["LICENSE-MIT"].contains(expected), "{}", files["LICENSE-MIT"]);
    assert!(tree::files(&root().join("tests/conformance")).iter().any(|path| path.ends_with("prove")), "the script");
}
