//! `offtake ledger export`, `verify` and `who`: they only read, also while a process serves.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;

use crate::app::identity::{INSTANCE, known};
use crate::config::Config;
use crate::fhir::datatypes::{Id, Instant};
use crate::job::JobId;
use crate::ledger::audit_event::audit_event;
use crate::ledger::reader::{Findings, ReadError, Reader, Share, copy_in};
use crate::ledger::record::{Actor, Event, FileEnded, Links, Record};
use crate::output::{Output, OutputError, layout};
use crate::telemetry::error_chain;

/// How long the output may take to give its copy of the head.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(30);

fn reader(config: &Config) -> anyhow::Result<Reader> {
    let store = &config.store.path;
    Ok(Reader::open(&config.ledger.folder(store), &config.ledger.key(store))?)
}

/// Why records were not given out.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the ledger cannot be read to its end")]
    Read(#[from] ReadError),
    #[error("could not write")]
    Write(#[from] io::Error),
}

/// Writes every record from `since` on and before `until` as an `AuditEvent` on a line. Each is held against the chain.
///
/// # Errors
/// At the first record that is not as it was written, and if the ledger cannot be read.
pub(crate) fn export(
    config: &Config,
    since: Option<Instant>,
    until: Option<Instant>,
    to: &mut impl Write,
) -> anyhow::Result<()> {
    let server = config.server.public_base_url.as_str();
    let is_wanted = |at: Instant| since.is_none_or(|since| since <= at) && until.is_none_or(|until| at < until);
    reader(config)?.read(|record, _| {
        if is_wanted(record.at)
            && let Some(event) = audit_event(&record, server)
        {
            writeln!(to, "{event}")?;
        }
        Ok::<_, ExportError>(())
    })?;
    to.flush()?;
    Ok(())
}

/// Holds every record against the chain, and the whole against the copies of its head.
///
/// # Errors
/// If there is nothing to begin with: no key, no folder.
pub(crate) async fn verify(config: &Config) -> anyhow::Result<Findings> {
    let reader = reader(config)?;
    let copies = config.ledger.head_copies.iter();
    let mut copies: Vec<_> = copies.map(|copy| (copy.display().to_string(), copy_in(copy))).collect();
    let of_output = tokio::time::timeout(OUTPUT_PATIENCE, copy_in_output(config)).await;
    let mut notes = Vec::new();
    match of_output {
        Ok(Ok(Some(copy))) => copies.push(("the output".to_owned(), Ok(Some(copy)))),
        Ok(Ok(None)) => {
            notes.push("there is no copy of the head in the output: it is made every hour, and at the end".to_owned());
        }
        Ok(Err(error)) => {
            notes.push(format!("the copy of the head in the output cannot be read: {}", error_chain(&*error)));
        }
        Err(_late) => notes.push("the copy of the head in the output cannot be read: no answer".to_owned()),
    }
    let verified = tokio::task::spawn_blocking(move || reader.verify(&copies)).await;
    let mut findings = verified.context("reading the ledger was ended")?;
    findings.notes.extend(notes);
    Ok(findings)
}

/// The copy of the head beside the output, if there is one.
async fn copy_in_output(config: &Config) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(instance) = known(&config.store.path.join(INSTANCE))? else { return Ok(None) };
    let output = Output::open(&config.output)?;
    match output.get(&layout::ledger_head(&instance)).await {
        Ok(copy) => Ok(Some(copy.to_vec())),
        Err(error) if OutputError::is_missing(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Tells which exports hold data of a patient, whose they are, and what became of them.
///
/// # Errors
/// If the ledger cannot be read to its end.
pub(crate) fn who(config: &Config, patient: &str, to: &mut impl Write) -> anyhow::Result<()> {
    let patient = Id::parse(patient).context("a patient is named by the logical id, without `Patient/`")?;
    let reader = reader(config)?;
    let exports = reader.exports_of(&patient)?;
    let mut told: BTreeMap<JobId, Vec<String>> = BTreeMap::new();
    let mut order = Vec::new();
    reader.read(|record, _| {
        if let Some(job) = record.event.job().filter(|job| exports.contains_key(job))
            && let Some(line) = line(&record)
        {
            let lines = told.entry(job).or_default();
            if lines.is_empty() {
                order.push(job);
            }
            lines.push(line);
        }
        Ok::<_, ReadError>(())
    })?;
    for job in order {
        let share = match exports.get(&job) {
            Some(Share::Listed) => "holds data of this patient",
            Some(Share::Unknown) => "may hold data of this patient: the ledger has no record of what it holds",
            Some(Share::Possible) | None => {
                "is of the whole server: it may hold data of this patient, but not the Patient resource"
            }
        };
        writeln!(to, "export {job} {share}")?;
        for line in told.remove(&job).unwrap_or_default() {
            writeln!(to, "  {line}")?;
        }
    }
    if exports.is_empty() {
        writeln!(to, "no export holds data of this patient")?;
    }
    to.flush()?;
    Ok(())
}

/// One record in words; `None` for what tells nothing of a disclosure.
fn line(record: &Record) -> Option<String> {
    let by = |actor: &Actor| {
        let client = actor.client.as_ref().map_or_else(|| "anybody".to_owned(), ToString::to_string);
        let peer = actor.peer.map_or_else(String::new, |peer| format!(" from {peer}"));
        let scopes = actor.scopes.as_ref().map_or_else(String::new, |scopes| format!(" ({scopes})"));
        format!("{client}{scopes}{peer}")
    };
    let said = match &record.event {
        Event::KickOff(kickoff) => format!("kicked off by {}", by(&kickoff.actor)),
        Event::Finished(finished) => {
            let counts: Vec<_> =
                finished.contents.counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
            format!("complete: {}; of {} patients", counts.join(", "), finished.patients.listed)
        }
        Event::Manifest(read) => {
            let links = match read.links {
                Links::Storage => "links to the storage, which count as the disclosure",
                Links::Ours => "links to files, whose use is below",
                Links::WithToken => "addresses of files, which need a token",
            };
            format!("manifest read by {}: {} {links}, until {}", by(&read.actor), read.issued, read.until)
        }
        Event::LinkIssued(issued) => {
            format!("link to {} issued to {}, until {}", issued.file, by(&issued.actor), issued.until)
        }
        Event::FileBegun(begun) => format!("{} is sent to {}", begun.file, by(&begun.actor)),
        Event::FileEnded(FileEnded { file, bytes, whole, .. }) => {
            format!("{file}: {bytes} bytes were sent, {}", if *whole { "to its end" } else { "then it was cut" })
        }
        Event::Deleted(ended) => format!("deleted by {}", by(&ended.actor)),
        Event::Expired(_) => "expired".to_owned(),
        Event::Revoked(_) => "revoked".to_owned(),
        Event::Purged { .. } => "removed".to_owned(),
        Event::Failed { .. } => "failed".to_owned(),
        Event::Denied(denied) => format!("refused with {}: {}", denied.status, by(&denied.actor)),
        Event::CohortMade(made) => format!("cohort {} made by {}", made.cohort.group(), by(&made.actor)),
        Event::CohortFailed { cohort, .. } => format!("cohort {} not made after all", cohort.group()),
        Event::CohortDeleted(gone) => format!("cohort {} deleted by {}", gone.cohort.group(), by(&gone.actor)),
        Event::Begun { .. } | Event::Opened { .. } | Event::DeniedMore(_) | Event::Retired { .. } => return None,
    };
    Some(format!("{} {said}", record.at))
}
