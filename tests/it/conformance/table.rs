//! The tables that are made of the rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Row, Status, families};

/// Where README.md has its table.
pub(super) const BEGIN: &str =
    "<!-- made of tests/conformance/rows.yaml: UPDATE=1 cargo test --test it conformance -->\n";
pub(super) const END: &str = "<!-- end of what is made -->\n";

/// The faults by which a row was seen to be violated, by its id.
pub(super) type Seen<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// How many rows are done, and which are not and why.
pub(super) fn short(rows: &[Row], seen: &Seen<'_>) -> String {
    let mut text = String::from(
        "\n| | rows | done | partly | not offered | SHALL, done | seen to turn red |\n|---|---|---|---|---|---|---|\n",
    );
    for (family, name, rows) in families(rows) {
        let of = |status| rows.iter().filter(|row| row.status == status).count();
        let (done, partly, none) = (of(Status::Done), of(Status::Partly), of(Status::NotOffered));
        let binding: Vec<_> =
            rows.iter().filter(|row| row.status == Status::Done && row.level.contains("SHALL")).collect();
        let red = binding.iter().filter(|row| seen.contains_key(&*row.id)).count();
        let (all, binding) = (rows.len(), binding.len());
        line(&mut text, format_args!("| {name} ({family}) | {all} | {done} | {partly} | {none} | {binding} | {red} |"));
    }
    text.push_str("\n| not done | | |\n|---|---|---|\n");
    let mut open = rows.iter().filter(|row| row.status != Status::Done).peekable();
    while let Some(first) = open.next() {
        let says = |row: &Row| (row.status, row.why.clone());
        let mut last = first;
        // Rows that follow on one another and say the same are one line.
        while let Some(next) = open.next_if(|next| says(next) == says(first) && follows(last, next)) {
            last = next;
        }
        let ids = if first.id == last.id { first.id.clone() } else { format!("{} to {}", first.id, last.id) };
        let why = first.why.as_deref().unwrap_or_default();
        line(&mut text, format_args!("| {ids} | {} | {} |", first.status.as_str(), cell(why)));
    }
    text.push('\n');
    text
}

fn follows(row: &Row, next: &Row) -> bool {
    let number = |row: &Row| {
        let (family, number) = row.id.split_once('-')?;
        Some((family.to_owned(), number.parse::<u32>().ok()?))
    };
    number(row).map(|(family, number)| (family, number + 1)) == number(next)
}

/// Every row, with what proves it.
pub(super) fn whole(rows: &[Row], seen: &Seen<'_>) -> String {
    let mut text = String::from(
        "# Conformance\n\nMade of `rows.yaml` by `UPDATE=1 cargo test --test it conformance`. How we stand to each requirement of \
         Bulk Data Access\n(BD), SMART Backend Services (SM), to what follows from them for a sidecar (DS), and to our own rules \
         (SEC).\n`lib` is a unit test in `src/`, `it` an integration test in `tests/it/`. Under \"seen red by\" stand the \
         faults of `faults.yaml` that\nviolate a row and by which its tests turn red: `tests/conformance/prove` switches on one after \
         the other. Where\nnone does, although a SHALL asks for it, it is said why.\n",
    );
    for (family, name, rows) in families(rows) {
        line(&mut text, format_args!("\n## {name} ({family})\n"));
        text.push_str("| row | level | what | status | proven by | seen red by |\n|---|---|---|---|---|---|\n");
        for Row { id, level, what, status, why, section, no_fault, tests } in rows {
            let status = match why {
                Some(why) => format!("{}: {}", status.as_str(), cell(why)),
                None => status.as_str().to_owned(),
            };
            let section = section.iter().map(|section| format!("README, \"{section}\""));
            let proof: Vec<_> = tests.iter().map(|test| format!("`{test}`")).chain(section).collect();
            let (level, what) = (cell(level), cell(what));
            let faults = seen.get(&**id).map(|faults| faults.join("<br>"));
            let none = no_fault.as_ref().map(|why| format!("none: {}", cell(why)));
            let red = faults.or(none).unwrap_or_default();
            line(&mut text, format_args!("| {id} | {level} | {what} | {status} | {} | {red} |", proof.join("<br>")));
        }
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a text takes all that is written");
}
