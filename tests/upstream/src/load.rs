//! Fills the server at once: folders of NDJSON, and what `generate` makes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use flate2::read::MultiGzDecoder;

use crate::generate;
use crate::params::Version;
use crate::rng::Rng;
use crate::settings::Stamp;
use crate::store::{Change, Incoming};
use crate::upstream::SampleUpstream;

/// Resources of one transaction under [`Stamp::Now`].
const TRANSACTION: usize = 200;

impl SampleUpstream {
    /// Loads every `*.ndjson` and `*.ndjson.gz` of a folder; gives the number of resources stored. References
    /// like `Practitioner?identifier=…` are resolved, as servers do on write. If the folder holds no Group,
    /// `Group/all` is added with every Patient as a member.
    ///
    /// # Errors
    /// If the folder cannot be read or a line is no resource with an id; then nothing is stored.
    pub fn load_dir(&self, dir: &Path) -> anyhow::Result<usize> {
        let version = self.settings().version();
        let mut changes = Vec::new();
        for file in ndjson_files(dir)? {
            read_file(version, &file, &mut changes).with_context(|| format!("reading {}", file.display()))?;
        }
        resolve_conditional(version, &mut changes)?;
        if !changes.iter().any(|(_, incoming)| incoming.resource_type() == "Group") {
            let patients = changes.iter().filter(|(_, incoming)| incoming.resource_type() == "Patient");
            let ids = patients.filter_map(|(_, incoming)| incoming.id());
            let members: Vec<String> = ids.map(|id| generate::member(&format!("Patient/{id}"), "")).collect();
            let group = generate::group("all", "person", &members);
            let incoming = Incoming::parse(version, &group)?;
            changes.push((group, incoming));
        }
        let count = changes.len();
        self.store_all(changes.into_iter().map(|(_, incoming)| incoming).collect())?;
        Ok(count)
    }

    /// Makes so many patients and their records, the same for the same seed.
    pub fn generate(&self, patients: usize) {
        let settings = self.settings();
        let texts = generate::resources(patients, settings.seed);
        let parsed =
            texts.into_iter().map(|text| Incoming::parse(settings.version(), &text)).collect::<anyhow::Result<_>>();
        let stored = parsed.and_then(|incoming| self.store_all(incoming));
        stored.expect("generated resources are resources: a unit test reads them all");
    }

    /// Makes `count` resources of about `bytes` bytes each, of `DocumentReference`, Binary and Observation in
    /// turn, with three patients in `Group/all`. They share one filler, so that they take no memory here.
    pub fn generate_big(&self, count: usize, bytes: usize) {
        let version = self.settings().version();
        let texts = generate::few_patients(3);
        let parsed = texts.iter().map(|text| Incoming::parse(version, text));
        let big = (0..count).map(|number| {
            let (head, tail) = generate::big_around_filler(number);
            let filler_bytes = bytes.saturating_sub(head.len() + tail.len()) / 4 * 4;
            Incoming::filled(version, &head, filler_bytes, &tail)
        });
        let stored = parsed.chain(big).collect::<anyhow::Result<_>>().and_then(|incoming| self.store_all(incoming));
        stored.expect("generated resources are resources: a unit test reads them all");
    }

    /// Stores resources, stamped as the settings say. Each must have an id.
    fn store_all(&self, mut all: Vec<Incoming>) -> anyhow::Result<()> {
        let settings = self.settings();
        let now = self.now();
        if matches!(settings.stamp, Stamp::Spread { .. }) {
            Rng::new(settings.seed).shuffle(&mut all);
        }
        let count = all.len();
        let mut changes: Vec<Change> = Vec::with_capacity(TRANSACTION);
        let mut last = None;
        for (number, incoming) in all.into_iter().enumerate() {
            let at = stamp_of(settings.stamp, number, count, now);
            if last.is_some_and(|last| last != at) || changes.len() == TRANSACTION {
                self.apply_loaded(std::mem::take(&mut changes), last, settings.stamp);
            }
            last = Some(at);
            let id = incoming.id().context("a loaded resource has an id")?.into();
            let change = Change::Put { id, incoming };
            if (number + 1).checked_rem(settings.lies.unstamped_every) == Some(0) {
                self.apply_unstamped(change, at);
            } else {
                changes.push(change);
            }
        }
        self.apply_loaded(changes, last, settings.stamp);
        Ok(())
    }

    fn apply_loaded(&self, changes: Vec<Change>, stamp: Option<DateTime<Utc>>, rule: Stamp) {
        let Some(stamp) = stamp else { return };
        match rule {
            Stamp::Spread { .. } => self.apply_seen_at(changes, stamp, stamp),
            Stamp::Now | Stamp::Single => self.apply(changes, stamp),
        }
    }
}

/// The stamp of resource `number` of `count`.
fn stamp_of(rule: Stamp, number: usize, count: usize, now: DateTime<Utc>) -> DateTime<Utc> {
    let millis = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    match rule {
        Stamp::Single => now,
        Stamp::Now => {
            let transactions_after = (count - 1) / TRANSACTION - number / TRANSACTION;
            now - TimeDelta::milliseconds(millis(transactions_after))
        }
        Stamp::Spread { over } => {
            let after = over.as_millis() * (count - 1 - number) as u128 / count.max(1) as u128;
            let after = TimeDelta::milliseconds(i64::try_from(after).unwrap_or(i64::MAX / 2));
            now.checked_sub_signed(TimeDelta::hours(1) + after).unwrap_or(now)
        }
    }
}

fn ndjson_files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".ndjson") || name.ends_with(".ndjson.gz") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(version: Version, path: &Path, into: &mut Vec<(String, Incoming)>) -> anyhow::Result<()> {
    let file = File::open(path)?;
    let zipped = path.extension().is_some_and(|extension| extension == "gz");
    let lines: Box<dyn BufRead> =
        if zipped { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(BufReader::new(file)) };
    for (line, number) in lines.lines().zip(1..) {
        let line = line?;
        if !line.trim().is_empty() {
            let incoming = Incoming::parse(version, &line).with_context(|| format!("line {number}"))?;
            into.push((line, incoming));
        }
    }
    Ok(())
}

/// Puts `Type/id` where a reference names a resource by an identifier that one of `all` has.
fn resolve_conditional(version: Version, all: &mut [(String, Incoming)]) -> anyhow::Result<()> {
    const MARK: &str = "?identifier=";
    if !all.iter().any(|(text, _)| text.contains(MARK)) {
        return Ok(());
    }
    let mut known: HashMap<String, String> = HashMap::new();
    for (_, incoming) in &*all {
        let Some(id) = incoming.id() else { continue };
        let resource_type = incoming.resource_type();
        for identifier in incoming.terms().iter().filter_map(|term| term.strip_prefix("identifier=")) {
            known.insert(format!("{resource_type}{MARK}{identifier}"), format!("{resource_type}/{id}"));
        }
    }
    for (text, incoming) in all {
        let mut resolved = String::new();
        let mut copied = 0;
        for (mark, _) in text.match_indices(MARK) {
            let start = text[..mark].rfind('"').map_or(0, |quote| quote + 1);
            let end = text[mark..].find('"').map_or(text.len(), |quote| mark + quote);
            if let Some(name) = known.get(&text[start..end]) {
                resolved.push_str(&text[copied..start]);
                resolved.push_str(name);
                copied = end;
            }
        }
        if copied > 0 {
            resolved.push_str(&text[copied..]);
            *incoming = Incoming::parse(version, &resolved)?;
            *text = resolved;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::Settings;

    #[test]
    fn stamps_follow_their_rule() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let ago = |rule, number| (now - stamp_of(rule, number, 401, now)).num_milliseconds();
        let spread = Stamp::Spread { over: Duration::from_secs(401) };
        for (rule, number, expected) in [
            (Stamp::Single, 0, 0),
            (Stamp::Now, 0, 2),
            (Stamp::Now, 199, 2),
            (Stamp::Now, 200, 1),
            (Stamp::Now, 400, 0),
            (spread, 400, 3_600_000),
            (spread, 0, 3_600_000 + 400_000),
        ] {
            assert_eq!(ago(rule, number), expected, "{rule:?} of {number}");
        }
    }

    #[test]
    fn a_folder_is_loaded_with_its_references_resolved_and_a_group_of_all() {
        let dir = std::env::temp_dir().join(format!("sample-upstream-load-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let patient = r#"{"resourceType":"Patient","id":"p","generalPractitioner":[{"reference":"Practitioner?identifier=s|7"}],"v":1.00}"#;
        let practitioner = r#"{"resourceType":"Practitioner","id":"d","identifier":[{"system":"s","value":"7"}]}"#;
        std::fs::write(dir.join("a.ndjson"), format!("{patient}\n\n{practitioner}\n")).expect("written");
        let upstream = SampleUpstream::new(Settings::default());
        let loaded = upstream.load_dir(&dir);
        std::fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(loaded.expect("loaded"), 3);
        let patient = &upstream.resources(Some("Patient"))[0].body;
        assert!(patient.contains(r#"[{"reference":"Practitioner/d"}],"v":1.00}"#), "{patient}");
        assert!(upstream.resources(Some("Group"))[0].body.contains(r#"{"reference":"Patient/p"}"#));
    }

    #[test]
    fn a_folder_with_a_bad_line_is_refused_as_a_whole() {
        let dir = std::env::temp_dir().join(format!("sample-upstream-bad-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join("a.ndjson"), "{\"resourceType\":\"Basic\",\"id\":\"a\"}\n{\n").expect("written");
        let upstream = SampleUpstream::new(Settings::default());
        let loaded = upstream.load_dir(&dir);
        std::fs::remove_dir_all(&dir).expect("removed");
        assert!(loaded.is_err_and(|error| format!("{error:#}").contains("line 2")));
        assert_eq!(upstream.resources(None), []);
    }
}
