//! `tests/conformance/rows.yaml` says how we stand to each row of the specifications, and by which tests. Here it is held
//! against the tree, and the tables that are made of it against their files.

mod faults;
mod table;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::tree::Tests;

/// How many rows each family has.
const FAMILIES: [(&str, &str, usize); 3] =
    [("BD", "Bulk Data Access", 115), ("SM", "SMART Backend Services", 38), ("DS", "What follows for a sidecar", 26)];

/// Our own rules, which are numbered with gaps.
const RULES: (&str, &str) = ("SEC", "What may leave, and who may ask");

const SEC: [u32; 30] =
    [1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15, 16, 20, 21, 22, 23, 24, 25, 26, 27, 30, 31, 32, 40, 41, 42, 43, 44, 45];

/// How we stand to one row.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    level: String,
    what: String,
    status: Status,
    /// Why it is not done, or in what way.
    why: Option<String>,
    /// The heading in README.md that says it.
    section: Option<String>,
    /// Why nothing that could be switched on would violate it.
    no_fault: Option<String>,
    #[serde(default)]
    tests: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Status {
    #[serde(rename = "done")]
    Done,
    #[serde(rename = "partly")]
    Partly,
    #[serde(rename = "not offered")]
    NotOffered,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partly => "partly",
            Self::NotOffered => "not offered",
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(below: &str) -> String {
    std::fs::read_to_string(root().join(below)).unwrap_or_else(|error| panic!("{below}: {error}"))
}

fn rows() -> Vec<Row> {
    serde_saphyr::from_str(&read("tests/conformance/rows.yaml")).expect("tests/conformance/rows.yaml")
}

#[test]
fn every_row_of_the_specifications_is_there_once_and_in_its_order() {
    let numbered = |(family, _, most): &(&str, &str, usize)| {
        (1..=*most).map(|number| format!("{family}-{number:03}")).collect::<Vec<_>>()
    };
    let wanted = FAMILIES.iter().flat_map(numbered).chain(SEC.iter().map(|number| format!("SEC-{number:02}")));
    let found: Vec<_> = rows().into_iter().map(|row| row.id).collect();
    assert_eq!(found, wanted.collect::<Vec<_>>());
}

#[test]
fn what_is_done_is_proven_and_what_is_not_says_why() {
    let (tests, readme) = (Tests::of_the_tree(), read("README.md"));
    let mut wrong = Vec::new();
    for Row { id, status, why, section, tests: proof, .. } in rows() {
        if status == Status::Done && proof.is_empty() && section.is_none() {
            wrong.push(format!("{id} is done, and nothing proves it"));
        }
        if status != Status::Done && why.is_none() {
            wrong.push(format!("{id} is {}, and does not say why", status.as_str()));
        }
        if let Some(section) = section.filter(|section| !readme.contains(&format!("\n## {section}\n"))) {
            wrong.push(format!("{id}: README.md has no section `{section}`"));
        }
        wrong.extend(proof.iter().filter(|test| !tests.has(test)).map(|test| format!("{id}: there is no test {test}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_that_the_source_cites_is_known() {
    let known: BTreeSet<_> = rows().into_iter().map(|row| row.id).collect();
    let mut wrong = Vec::new();
    for path in texts() {
        let text = std::fs::read_to_string(&path).expect("a text file");
        for (line, number) in text.lines().zip(1..) {
            let cited = tree::cited(line);
            let unknown = cited.filter(|id| !known.contains(*id));
            wrong.extend(unknown.map(|id| format!("{}:{number} cites {id}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "tests/conformance/rows.yaml has no such row:\n{}", wrong.join("\n"));
}

/// Where rows are cited.
fn texts() -> Vec<PathBuf> {
    let mut found: Vec<_> = ["README.md", "CHANGELOG.md"].map(|name| root().join(name)).into();
    for folder in ["src", "tests/it", "tests/clouds", "tests/issuers", "tests/upstream/src", "config"] {
        found.extend(tree::files(&root().join(folder)).into_iter().filter(|path| {
            path.extension().is_some_and(|extension| matches!(extension.to_str(), Some("rs" | "yaml" | "md")))
        }));
    }
    found
}

#[test]
#[expect(clippy::disallowed_methods, reason = "whoever runs it decides whether it compares or renews")]
fn the_tables_say_what_the_rows_say() {
    let (rows, faults) = (rows(), faults::faults());
    let seen = faults::by_row(&faults);
    let readme = read("README.md");
    let (before, rest) = readme.split_once(table::BEGIN).expect("README.md has a place for the table");
    let (_, after) = rest.split_once(table::END).expect("the place has an end");
    let readme = format!("{before}{}{}{}{after}", table::BEGIN, table::short(&rows, &seen), table::END);
    let mut stale = Vec::new();
    for (name, expected) in [("README.md", readme), ("tests/conformance/README.md", table::whole(&rows, &seen))] {
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(root().join(name), &expected).unwrap_or_else(|error| panic!("{name}: {error}"));
        } else if std::fs::read_to_string(root().join(name)).unwrap_or_default() != expected {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "stale: {stale:?}; renew them by UPDATE=1 cargo test --test it conformance");
}

/// The rows of each family, under its name.
fn families(rows: &[Row]) -> Vec<(&'static str, &'static str, Vec<&Row>)> {
    let mut by_family: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        by_family.entry(row.id.split('-').next().unwrap_or_default()).or_default().push(row);
    }
    let named = FAMILIES.iter().map(|(family, name, _)| (*family, *name)).chain([RULES]);
    named.map(|(family, name)| (family, name, by_family.remove(family).unwrap_or_default())).collect()
}
