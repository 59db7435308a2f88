//! Parameters beside each other, as chance has it: what comes is what an evaluator of our own lets pass, which reads JSON and
//! knows nothing of searches; in whatever files, on whatever pages and by whichever operation it is asked for.
//!
//! What fails is asked for again with less of it, until nothing can be left out. `OFFTAKE_QUESTIONS=7,500` asks each server 500
//! questions that begin with the seed 7.

mod answer;
mod got;
mod question;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;

use anyhow::{anyhow, ensure};
use chrono::TimeDelta;
use futures_util::FutureExt;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use sample_upstream::{Paging, SampleUpstream, Settings, Total};
use serde_json::{Value, json};

use crate::support::App;
use answer::World;
use got::{Export, Got, got};
use offtake::config::Size;
use question::{How, LEAST_FILE, PRESETS, Question};

/// Questions by which a wrong one is made smaller.
const SMALLER: u32 = 150;

#[test]
fn whatever_is_asked_for_is_what_comes() {
    ask(1, 45, Settings { max_count: Some(20), ..Settings::default() });
}

/// Of a server that counts nothing and pages by offsets.
#[test]
fn whatever_is_asked_for_comes_without_counts_too() {
    let settings = Settings {
        paging: Paging::Offset,
        total: Total::Absent,
        counts: false,
        accurate_total: false,
        max_count: Some(9),
        ..Settings::default()
    };
    ask(2, 30, settings);
}

/// How often what came of the questions, so that what never comes is noticed.
#[derive(Debug, Default)]
struct Tally {
    refused: BTreeSet<String>,
    exported: usize,
    empty: usize,
    lines: usize,
    /// Of those that were exported, how many were of a kind.
    kinds: BTreeMap<&'static str, usize>,
}

#[expect(clippy::disallowed_methods, reason = "a switch of these tests alone, for whoever wants to ask more")]
fn asked_for() -> Option<(u64, u32)> {
    let asked = std::env::var("OFFTAKE_QUESTIONS").ok()?;
    let (seed, questions) = asked.split_once(',')?;
    Some((seed.parse().ok()?, questions.parse().ok()?))
}

fn ask(seed: u64, questions: u32, settings: Settings) {
    let (seed, questions) = asked_for().unwrap_or((seed, questions));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let app = runtime.block_on(app(settings));
    let world = World::of(&app.upstream);
    let config = Config { cases: questions, failure_persistence: None, max_shrink_iters: SMALLER, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let tally = RefCell::new(Tally::default());
    let asked = TestRunner::new_with_rng(config, random).run(&question::any(&world), |question| {
        // A panic is wrong as well, and can be made smaller.
        let judged = AssertUnwindSafe(judge(&app, &world, &question, &tally)).catch_unwind();
        let judged = runtime.block_on(judged).unwrap_or_else(|_| Err(anyhow!("a panic")));
        judged.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    asked.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    runtime.block_on(app.stop());
    let tally = tally.into_inner();
    println!("{tally:?}");
    let is_few = asked_for().is_some_and(|(_, questions)| questions < 100);
    let has_all = KINDS.iter().all(|(kind, _)| tally.kinds.get(kind).is_some_and(|count| *count > 0));
    assert!(is_few || (has_all && tally.refused.len() > 2), "not everything was asked for: {tally:?}");
    assert!(tally.lines > 10 * tally.exported && tally.empty < tally.exported / 4, "{tally:?}");
}

/// Whether a question and what came of it are of a kind.
type IsOf = fn(&Question, &Export) -> bool;

/// Kinds of questions of which there has to be one at the least that is answered.
const KINDS: [(&str, IsOf); 9] = [
    ("in blocks", |question, _| question.is_organized()),
    ("by the fourth release", |question, _| question.how == How::Fourth),
    ("on several pages", |_, export| export.pages > 1),
    ("in small files", |question, export| {
        let files = export.manifest["output"].as_array().map_or(0, Vec::len);
        question.largest.is_some_and(|largest| largest < 50_000) && files > 5
    }),
    ("with what was left out", |question, _| !question.ignored().is_empty()),
    ("with Provenance", |question, export| {
        !question.associated.is_empty() && export.lines.keys().any(|name| name.starts_with("Provenance/"))
    }),
    ("of named patients", |question, _| question.patients.is_some()),
    ("of elements", |question, _| question.elements.is_some()),
    ("with filters", |question, _| !question.filters.is_empty()),
];

async fn app(settings: Settings) -> App {
    let upstream = SampleUpstream::new(settings);
    upstream.generate(6);
    let before = upstream.now() - TimeDelta::hours(1);
    for (number, resource) in told(&upstream).into_iter().enumerate() {
        let at = before - TimeDelta::minutes(7 * i64::try_from(number).expect("few"));
        upstream.insert_raw_at(&resource.to_string(), at).expect("a resource");
    }
    App::before(upstream, |config| {
        config.output.least_file_max = Size::kibibytes(LEAST_FILE / 1_024);
        let types = |types: &[&str]| types.iter().map(|name| (*name).to_owned()).collect();
        config.export.associated_data = PRESETS.iter().map(|(name, all)| ((*name).to_owned(), types(all))).collect();
    })
    .await
}

/// What tells of several records: Provenance of one, of two, of another patient's as well and of none that is there; and
/// Observations of two patients.
fn told(upstream: &SampleUpstream) -> Vec<Value> {
    let names = |of: &str| -> Vec<String> {
        upstream.resources(Some(of)).iter().map(|stored| format!("{of}/{}", stored.id)).collect()
    };
    let (patients, doctor) = (names("Patient"), names("Practitioner").swap_remove(0));
    // In their order: so many of each patient.
    let of = |of: &str, patient: &str| -> Vec<String> {
        let stored = upstream.resources(Some(of)).into_iter();
        let own = stored.filter(|stored| stored.body.contains(&format!(r#""subject":{{"reference":"{patient}"}}"#)));
        own.map(|stored| format!("{of}/{}", stored.id)).collect()
    };
    let refer = |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({ "reference": name })).collect() };
    let mut all = vec![json!({ "resourceType": "Practitioner", "id": "auditor" })];
    let mut provenance = |id: String, year: usize, targets: &[&str], by: &str| {
        let recorded = format!("{}-06-07T08:09:10Z", 2001 + year);
        let agent = json!([{ "who": { "reference": by } }]);
        let (name, targets) = ("Provenance", refer(targets));
        all.push(json!({ "resourceType": name, "id": id, "target": targets, "recorded": recorded, "agent": agent }));
    };
    let auditor = "Practitioner/auditor";
    for (number, patient) in patients.iter().enumerate() {
        let next = &patients[(number + 1) % patients.len()];
        let (seen, had, visits) = (of("Observation", patient), of("Condition", next), of("Encounter", patient));
        provenance(format!("old-{number}"), 1, &[&seen[0]], &doctor);
        provenance(format!("new-{number}"), 2, &[&seen[0], &seen[1]], auditor);
        provenance(format!("of-two-{number}"), 3, &[&seen[1], &had[0]], &doctor);
        provenance(format!("version-{number}"), 4, &[&format!("{}/_history/1", visits[0])], &doctor);
        provenance(format!("gone-{number}"), 5, &["Observation/gone", &seen[2]], &doctor);
        provenance(format!("patient-{number}"), 30 + number, &[patient, &seen[3]], &doctor);
        provenance(format!("both-{number}"), 6, &[patient, next], auditor);
    }
    provenance("doctor".to_owned(), 7, &[&doctor], &doctor);
    provenance("auditor".to_owned(), 8, &[auditor], &doctor);
    let (first, last) = (&patients[0], &patients[patients.len() - 1]);
    for (number, other) in [&patients[1], last].into_iter().enumerate() {
        let (name, id, code) = ("Observation", format!("shared-{number}"), json!({ "text": "x" }));
        let (subject, performer) = (json!({ "reference": first }), refer(&[other, &doctor]));
        all.push(json!({ "resourceType": name, "id": id, "code": code, "subject": subject, "performer": performer }));
    }
    all
}

/// Asks once. An answer is wrong unless it is a refusal that is due, or all that has to come and nothing else.
async fn judge(app: &App, world: &World, question: &Question, tally: &RefCell<Tally>) -> anyhow::Result<()> {
    let refusals = question.refusals();
    match got(app, question).await? {
        Got::Refused { code, parameter } => {
            ensure!(refusals.contains(&(&*code, &*parameter)), "refused with {code} for {parameter}, not {refusals:?}");
            tally.borrow_mut().refused.insert(format!("{parameter}: {code}"));
        }
        Got::Exported(export) => {
            ensure!(refusals.is_empty(), "not refused with {refusals:?}");
            check(world, question, &export)?;
            let mut tally = tally.borrow_mut();
            let lines = export.lines.len() + export.blocks.values().map(BTreeMap::len).sum::<usize>();
            tally.exported += 1;
            tally.lines += lines;
            tally.empty += usize::from(lines == 0);
            for (kind, is_of) in KINDS {
                *tally.kinds.entry(kind).or_default() += usize::from(is_of(question, &export));
            }
        }
    }
    Ok(())
}

fn check(world: &World, question: &Question, export: &Export) -> anyhow::Result<()> {
    for ignored in question.ignored() {
        ensure!(export.errors.contains(&ignored), "it is not said that {ignored} was left out: {}", export.errors);
    }
    let value = |line: Option<&String>| line.and_then(|line| serde_json::from_str(line).ok());
    if question.is_organized() {
        let wanted = question
            .blocks(world, &|patient, name| value(export.blocks.get(patient).and_then(|block| block.get(name))));
        same(export.blocks.keys(), wanted.keys(), "blocks")?;
        for (patient, block) in &export.blocks {
            same(block.keys(), wanted[patient].iter(), patient)?;
        }
    } else {
        let wanted = question.lines(world, &|name| value(export.lines.get(name)));
        same(export.lines.keys(), wanted.iter(), "lines")?;
    }
    let all = export.blocks.values().flatten().chain(&export.lines);
    for (name, line) in all {
        question.judge(world, name, line).map_err(|wrong| anyhow!(wrong))?;
    }
    proven(question, export)
}

fn same<'a>(
    came: impl Iterator<Item = &'a String>,
    wanted: impl Iterator<Item = &'a String>,
    what: &str,
) -> anyhow::Result<()> {
    let (came, wanted): (BTreeSet<_>, BTreeSet<_>) = (came.collect(), wanted.collect());
    let (missing, unwanted): (Vec<_>, Vec<_>) =
        (wanted.difference(&came).collect(), came.difference(&wanted).collect());
    ensure!(missing.is_empty() && unwanted.is_empty(), "{what}: without {missing:?}, and with {unwanted:?}");
    Ok(())
}

/// Where the manifest has the proof of an export as one object, it tells of each line, and of nothing that is missing.
fn proven(question: &Question, export: &Export) -> anyhow::Result<()> {
    if question.how == How::Fourth || question.partial == Some(true) {
        return Ok(());
    }
    let mut written: BTreeMap<&str, u64> = BTreeMap::new();
    let names: BTreeSet<&String> = export.blocks.values().flat_map(BTreeMap::keys).chain(export.lines.keys()).collect();
    for name in names {
        *written.entry(crate::expected::type_of(name)).or_default() += 1;
    }
    let proof = export.manifest["extension"]["https://offtake.dev/proof"].as_object();
    for (of, proof) in proof.into_iter().flatten() {
        let lines = written.remove(of.as_str()).unwrap_or(0);
        ensure!(proof["written"] == lines && proof["short"] == 0, "{lines} lines of {of}, and the proof says {proof}");
    }
    ensure!(written.is_empty(), "the proof does not tell of {written:?}");
    Ok(())
}
