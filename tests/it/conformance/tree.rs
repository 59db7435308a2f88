//! What the source holds: its tests by their paths, and the rows that it cites.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every test by its path, such as `it::status::the_first_poll_is_never_the_manifest`.
pub(super) struct Tests(BTreeSet<String>);

impl Tests {
    pub(super) fn of_the_tree() -> Self {
        let mut found = BTreeSet::new();
        for (krate, folder) in
            [("lib", "src"), ("it", "tests/it"), ("clouds", "tests/clouds"), ("issuers", "tests/issuers")]
        {
            let folder = super::root().join(folder);
            for file in files(&folder).into_iter().filter(|path| path.extension().is_some_and(|name| name == "rs")) {
                let below = file.strip_prefix(&folder).expect("it was found there").with_extension("");
                let parts =
                    below.iter().filter_map(|part| part.to_str()).filter(|part| !matches!(*part, "lib" | "main"));
                let module: Vec<_> = std::iter::once(krate).chain(parts).collect();
                let text = std::fs::read_to_string(&file).expect("a source file");
                found.extend(tests(&text).into_iter().map(|test| format!("{}::{test}", module.join("::"))));
            }
        }
        Self(found)
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains(path)
    }
}

/// The tests of one file. By custom a module of tests within a file ends it.
fn tests(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut module, mut is_test, mut is_for_tests) = (String::new(), false, false);
    for line in text.lines().map(str::trim) {
        let function = line.trim_start_matches("pub ").trim_start_matches("async ").strip_prefix("fn ");
        match function.and_then(|rest| rest.split(['(', '<']).next()) {
            Some(name) if is_test => found.push(format!("{module}{name}")),
            _ => {}
        }
        if let (true, Some(name)) = (is_for_tests, line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {"))) {
            module = format!("{name}::");
        }
        is_for_tests = line == "#[cfg(test)]";
        is_test = line.starts_with("#[test]")
            || line.starts_with("#[tokio::test")
            || (is_test && (line.starts_with("#[") || line.starts_with("//")));
    }
    found
}

/// Every file below a folder.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The rows that a line names: `BD-` and such, and digits.
pub(super) fn cited(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|character: char| !(character.is_ascii_alphanumeric() || character == '-'));
    words.filter(|word| {
        let number = ["BD-", "SM-", "DS-", "SEC-"].iter().find_map(|family| word.strip_prefix(family));
        number.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[test]
fn a_test_is_found_wherever_it_stands() {
    let text = "
        /// BD-001
        #[test]
        fn plain() {}
        fn none() {}
        #[tokio::test(start_paused = true)]
        async fn later() {}
        #[cfg(test)]
        mod tests {
            #[test]
            #[should_panic(expected = \"\")]
            fn within() {}
        }";
    assert_eq!(tests(text), ["plain", "later", "tests::within"]);
}

#[test]
fn a_row_is_found_wherever_it_is_cited() {
    for (line, expected) in [
        ("/// BD-057 to BD-059, SEC-06: text", vec!["BD-057", "BD-059", "SEC-06"]),
        ("(SM-019). interop 4", vec!["SM-019"]),
        ("a BD-row, SEC- and HMAC-SHA-256", vec![]),
    ] {
        assert_eq!(cited(line).collect::<Vec<_>>(), expected, "{line}");
    }
}
