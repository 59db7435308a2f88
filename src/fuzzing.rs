//! What must hold of any input at all, as functions of bytes that panic where it does not: for the fuzzers in `tests/fuzz`,
//! whose corpus is replayed here by `cargo test`. Compiled for tests and fuzzers only.

mod assertion;
mod filter;
mod kickoff;
mod link;
mod scope;
mod split;

/// A function of any bytes that panics where something does not hold.
pub type Target = fn(&[u8]);

/// Each with the name of its fuzzer and of its corpus.
pub const TARGETS: [(&str, Target); 6] = [
    ("assertion", assertion::run),
    ("filter", filter::run),
    ("kickoff", kickoff::run),
    ("link", link::run),
    ("scope", scope::run),
    ("split", split::run),
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(data);
}

/// `text` with some of its characters exchanged: each change is two bytes for where and one for what.
fn exchanged(text: &str, changes: &[u8]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % bytes.len();
        bytes[at] = change[2] & 0x7f;
    }
    String::from_utf8(bytes).expect("ASCII")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_must_hold_of_any_input_holds_of_the_corpus() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
            let mut inputs = 0;
            for entry in std::fs::read_dir(&folder).expect("a corpus") {
                target(&std::fs::read(entry.expect("an entry").path()).expect("an input"));
                inputs += 1;
            }
            assert!(inputs >= 10, "{name}: {inputs} inputs");
        }
    }
}
