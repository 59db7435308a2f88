//! Pieces of an export one by one:
//!
//! ```text
//! cargo bench --locked --bench pieces                    # seconds of each
//! cargo bench --locked --bench pieces -- page            # of those with this word in their names
//! cargo bench --locked --bench pieces -- --instructions  # instructions for each byte of a page, under valgrind
//! ```
//!
//! Instructions do not depend on what else the machine does: each kind of page takes no more for each byte than when it was last
//! looked at, and a tenth; the exit code is 0 if that holds. Without valgrind it says `NOT RUN`.

mod null;

use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context, ensure};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, Divan};
use offtake::testing::pieces::{self, Checkpoints, Signing};
use sample_upstream::{SampleUpstream, Settings};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;

use null::NullStore;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(INSTRUCTIONS) => instructions().unwrap_or_else(|error| {
            eprintln!("could not measure: {error:#}");
            ExitCode::FAILURE
        }),
        Some(READ) => read(arguments).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        _ => {
            Divan::from_args().main();
            ExitCode::SUCCESS
        }
    }
}

/// What a page holds, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Observations as the sample server generates them, 500 bytes each.
    Observations,
    /// The same, indented.
    Pretty,
    /// Notes of 4 KiB.
    Notes,
    /// Documents of 64 KiB.
    Documents,
}

const KINDS: [Kind; 4] = [Kind::Observations, Kind::Pretty, Kind::Notes, Kind::Documents];
const PAGE_BYTES: usize = 1 << 20;

impl Kind {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// For each byte of a page, with a copy of it.
    fn most_instructions(self) -> f64 {
        match self {
            Self::Observations => 20.9,
            Self::Pretty => 25.0,
            Self::Notes => 3.8,
            Self::Documents => 2.0,
        }
    }

    fn resource_type(self) -> &'static str {
        if self == Self::Documents { "DocumentReference" } else { "Observation" }
    }

    /// A page of about a mebibyte.
    fn page(self) -> Vec<u8> {
        let upstream = SampleUpstream::new(Settings::default());
        let resources: Vec<String> = match self {
            Self::Observations | Self::Pretty => {
                upstream.generate(200);
                let stored = upstream.resources(Some(self.resource_type()));
                stored.iter().map(|stored| stored.body.to_string()).collect()
            }
            Self::Notes => (0..PAGE_BYTES / 4096).map(|number| text(self.resource_type(), number, 4096)).collect(),
            Self::Documents => {
                (0..PAGE_BYTES / 65_536).map(|number| text(self.resource_type(), number, 65_536)).collect()
            }
        };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for resource in resources.iter().cycle() {
            if bytes > PAGE_BYTES {
                break;
            }
            bytes += resource.len();
            entries.push(format!(
                r#"{{"fullUrl":"https://fhir.example.org/fhir/{}/x","resource":{resource},"search":{{"mode":"match"}}}}"#,
                self.resource_type()
            ));
        }
        let page = format!(r#"{{"resourceType":"Bundle","type":"searchset","entry":[{}]}}"#, entries.join(","));
        if self == Self::Pretty {
            let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
            return serde_json::to_vec_pretty(&page).expect("JSON");
        }
        page.into_bytes()
    }
}

/// A resource of about so many bytes.
fn text(resource_type: &str, number: usize, bytes: usize) -> String {
    let note = "no acute distress, ".repeat(bytes / 19 + 1);
    let note = &note[..bytes - 170];
    format!(
        r#"{{"resourceType":"{resource_type}","id":"o{number:09}","meta":{{"versionId":"1","lastUpdated":"2026-01-01T00:00:00.000Z"}},"status":"final","note":[{{"text":"{note}"}}]}}"#
    )
}

/// A page to lines: checked, compact, ids noted.
#[divan::bench(args = KINDS)]
fn page_to_lines(bencher: Bencher<'_, '_>, kind: Kind) {
    let page = kind.page();
    bencher
        .counter(BytesCount::new(page.len()))
        .with_inputs(|| page.clone())
        .bench_values(|page| pieces::read_page(page, kind.resource_type()).expect("a page"));
}

/// What anybody would write who has `serde_json`: raw values, and a loop that leaves out white space.
#[divan::bench(args = KINDS)]
fn page_to_lines_by_raw_values(bencher: Bencher<'_, '_>, kind: Kind) {
    let page = kind.page();
    bencher.counter(BytesCount::new(page.len())).with_inputs(|| page.clone()).bench_values(|page| {
        let lines = by_raw_values(&page);
        (page, lines)
    });
}

#[derive(Deserialize)]
struct Bundle<'a> {
    #[serde(borrow)]
    entry: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: &'a RawValue,
}

fn by_raw_values(page: &[u8]) -> Vec<Vec<u8>> {
    let bundle: Bundle<'_> = serde_json::from_slice(page).expect("a page");
    bundle.entry.iter().map(|entry| compact(entry.resource.get().as_bytes())).collect()
}

fn compact(text: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(text.len() + 1);
    let (mut is_string, mut is_escaped) = (false, false);
    for &byte in text {
        if is_string {
            is_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            continue;
        } else {
            is_string = byte == b'"';
        }
        line.push(byte);
    }
    line.push(b'\n');
    line
}

/// A page's lines to a file of a store that forgets it: SHA-256 included.
#[divan::bench(args = KINDS)]
fn lines_to_a_file(bencher: Bencher<'_, '_>, kind: Kind) {
    file(bencher, kind, false);
}

/// The same, stored as gzip.
#[divan::bench(args = KINDS)]
fn lines_to_a_packed_file(bencher: Bencher<'_, '_>, kind: Kind) {
    file(bencher, kind, true);
}

fn file(bencher: Bencher<'_, '_>, kind: Kind, is_packed: bool) {
    let runtime = Runtime::new().expect("a runtime");
    let page = kind.page();
    let lines = pieces::lines_of(page.clone(), kind.resource_type()).expect("a page");
    let store = Arc::new(NullStore::default());
    bencher.counter(BytesCount::new(page.len())).with_inputs(|| lines.clone()).bench_values(|lines| {
        runtime.block_on(pieces::write(store.clone(), is_packed, lines)).expect("it is written");
    });
}

/// What is remembered of each resource.
#[divan::bench]
fn id_hash() -> u128 {
    pieces::id_hash(black_box("Observation"), black_box("0b2a7e55-6f2c-4f5e-9d2e-1d2c3b4a5f60")).expect("an id")
}

#[divan::bench]
fn sign_a_link(bencher: Bencher<'_, '_>) {
    let signing = Signing::new().expect("keys");
    bencher.bench(|| signing.link(black_box("Observation-1.ndjson")));
}

#[divan::bench]
fn check_a_link(bencher: Bencher<'_, '_>) {
    let signing = Signing::new().expect("keys");
    let link = signing.link("Observation-1.ndjson");
    assert!(signing.opens(&link, "Observation-1.ndjson"), "a link opens its file");
    bencher.bench(|| signing.opens(black_box(&link), "Observation-1.ndjson"));
}

#[divan::bench]
fn sign_a_token(bencher: Bencher<'_, '_>) {
    let signing = Signing::new().expect("keys");
    bencher.bench(|| signing.token().expect("a token"));
}

#[divan::bench]
fn check_a_token(bencher: Bencher<'_, '_>) {
    let signing = Signing::new().expect("keys");
    let token = signing.token().expect("a token");
    assert!(signing.accepts(&token), "a token is good");
    bencher.bench(|| signing.accepts(black_box(&token)));
}

/// A complete file of so many slices, recorded durably.
#[divan::bench(args = [1, 100], sample_count = 30, sample_size = 1)]
fn checkpoint(bencher: Bencher<'_, '_>, slices: u32) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let place = folder.path().join("store");
    let mut checkpoints = runtime.block_on(Checkpoints::open(&place)).expect("a store");
    bencher.bench_local(|| runtime.block_on(checkpoints.commit(slices)).expect("it is recorded"));
}

/// A type cut into so many windows, and what is left of it once every second one is read.
#[divan::bench(args = [100, 10_000])]
fn plan(bencher: Bencher<'_, '_>, windows: u32) {
    bencher.counter(ItemsCount::new(windows)).bench(|| pieces::plan(black_box(windows)));
}

const INSTRUCTIONS: &str = "--instructions";
/// This very program: reads a page of a kind so many times.
const READ: &str = "--read";

fn read(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let name = arguments.next().context("a kind")?;
    let times: usize = arguments.next().context("a number")?.parse()?;
    let kind = KINDS.into_iter().find(|kind| kind.name() == name).context("no such kind")?;
    let page = kind.page();
    for _ in 0..times {
        black_box(pieces::read_page(page.clone(), kind.resource_type())?);
    }
    println!("{}", page.len());
    Ok(())
}

fn instructions() -> anyhow::Result<ExitCode> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("NOT RUN: instructions (valgrind is not there)");
        return Ok(ExitCode::SUCCESS);
    }
    let mut held = true;
    for kind in KINDS {
        // What is done once, and the copy of each page, is in both.
        let [(bytes, few), (_, many)] = [counted(kind, 2)?, counted(kind, 12)?];
        #[expect(clippy::cast_precision_loss, reason = "some millions")]
        let each = (many - few) as f64 / 10.0 / bytes as f64;
        let most = kind.most_instructions();
        let verdict = if each < most { "holds" } else { "DOES NOT HOLD" };
        println!(
            "{:<14} {each:>6.2} instructions for each byte of a page, less than {most:.1}: {verdict}",
            kind.name()
        );
        held &= each < most;
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many bytes a page has, and how many instructions it takes to read it so many times.
fn counted(kind: Kind, times: usize) -> anyhow::Result<(u64, u64)> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    let ended = command.args([READ, &kind.name(), &times.to_string()]).output()?;
    let (said, told) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    ensure!(ended.status.success(), "{told}");
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.context("valgrind tells no number")?;
    Ok((said.trim().parse()?, collected.trim().parse()?))
}
