//! What others do who want everything of a server: they follow its links, or crawl it patient by patient.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::ensure;

/// One of them, timed.
pub(crate) struct Crawl {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    pub(crate) is_ours: bool,
    /// How many times as long as an export of the same, where that is another one than is timed otherwise.
    pub(crate) times: Option<f64>,
}

/// Of all types that there are those that smart-fetch asks for patient by patient.
pub(crate) fn is_crawled(name: &str) -> bool {
    const TYPES: [&str; 14] = [
        "AllergyIntolerance",
        "Condition",
        "Device",
        "DiagnosticReport",
        "DocumentReference",
        "Encounter",
        "EpisodeOfCare",
        "Immunization",
        "MedicationDispense",
        "MedicationRequest",
        "Observation",
        "Procedure",
        "ServiceRequest",
        "Specimen",
    ];
    TYPES.contains(&name)
}

/// Times scripts of ours, where what runs them is there.
pub(crate) fn walks(base: &str, types: &[String], at_once: usize, resources: usize) -> anyhow::Result<Vec<Crawl>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/export");
    let mut crawls = Vec::new();
    for (program, script) in [("python3", "walk.py"), ("node", "walk.mjs")] {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("  NOT RUN: {script} ({program} is not there)");
            continue;
        }
        let output = output()?;
        let mut command = Command::new(program);
        command.arg(folder.join(script)).arg(base).arg(output.path()).arg(at_once.to_string()).args(types);
        let seconds = timed(command)?;
        let came = lines(output.path(), types)?;
        ensure!(came == resources, "{script} brought {came} of {resources} resources");
        crawls.push(Crawl { name: script.to_owned(), seconds, is_ours: true, times: None });
    }
    Ok(crawls)
}

/// Times smart-fetch with what is known of these patients, who are given to it.
pub(crate) fn smart_fetch<'a>(
    environment: &Path,
    base: &str,
    types: &[String],
    patients: impl Iterator<Item = &'a str>,
    resources: usize,
) -> anyhow::Result<Crawl> {
    let (source, output) = (output()?, output()?);
    let mut file = std::io::BufWriter::new(std::fs::File::create(source.path().join("Patient.ndjson"))?);
    for patient in patients {
        writeln!(file, "{patient}")?;
    }
    file.flush()?;
    let bin = environment.join("bin");
    // Its script names the folder that it was installed in first.
    let mut command = Command::new(bin.join("python3"));
    command.arg(bin.join("smart-fetch")).args([
        "crawl",
        "--no-compression",
        "--no-default-filters",
        "--fhir-url",
        base,
    ]);
    command.arg("--type").arg(types.join(",")).arg("--source-dir").arg(source.path()).arg(output.path());
    let seconds = timed(command)?;
    // It ends well whatever failed, and says so in a folder.
    let came = lines(output.path(), types)?;
    ensure!(came == resources, "smart-fetch brought {came} of {resources} resources");
    Ok(Crawl { name: "smart-fetch crawl".to_owned(), seconds, is_ours: false, times: None })
}

/// How many resources of these types are in the files that are called by them.
fn lines(folder: &Path, types: &[String]) -> anyhow::Result<usize> {
    let mut lines = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ndjson")).unwrap_or_default();
        // Large files are numbered.
        if types.iter().any(|known| name.split('.').next() == Some(known)) {
            lines += std::io::BufReader::new(std::fs::File::open(path)?).lines().count();
        }
    }
    Ok(lines)
}

fn output() -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR")))?)
}

fn timed(mut command: Command) -> anyhow::Result<f64> {
    let began = Instant::now();
    let ended = tokio::task::block_in_place(|| command.output())?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{command:?} ended with {}: {said}", ended.status);
    Ok(began.elapsed().as_secs_f64())
}
