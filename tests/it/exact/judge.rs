//! The rules, applied to the versions that a server showed and to the files that a client has.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use sample_upstream::Version;
use serde_json::Value;

use super::listed::listed;
use crate::client::{Client, Manifest};
use crate::expected::{belongs, compact, followed, type_of};

/// How far a server had come at some moment: so many versions had been seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(pub(super) usize);

/// A finished export as a client has it.
pub(crate) struct Exported {
    pub(crate) manifest: Manifest,
    /// The lines of each resource, by `Type/id`.
    pub(super) lines: BTreeMap<String, Vec<String>>,
    /// The lines of the file of errors.
    pub(super) errors: Vec<String>,
    /// The server hides what is of deleted patients from searches by them, so that nobody is owed that (HAPI).
    pub(crate) is_of_who_hides_deleted: bool,
}

/// How often each rule was put to use: a test of changes should know that there were some.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) untouched: usize,
    pub(crate) modified: usize,
    /// Modified ones that came in a version which was written after the kick-off.
    pub(crate) modified_new: usize,
    pub(crate) created: usize,
    /// Created ones that came.
    pub(crate) created_came: usize,
    pub(crate) deleted_since: usize,
    pub(crate) deleted_before: usize,
    /// Those that had to come, in whichever version.
    pub(crate) had_to_come: usize,
    /// Those of them that came.
    pub(crate) came: usize,
    /// Resources that came because others refer to them.
    pub(crate) context: usize,
    /// Those that did not come and need not, as the server hides what is of deleted patients.
    pub(crate) excused: usize,
}

impl Exported {
    /// Fetches every file of `manifest`, and holds it against what the manifest says of it.
    pub(crate) async fn fetch(client: &Client, manifest: Manifest) -> anyhow::Result<Self> {
        let (mut lines, mut errors) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        for file in listed(&manifest, "output")? {
            for line in file.fetch(client).await? {
                let value: Value = serde_json::from_str(&line).context("a line is not JSON")?;
                let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
                ensure!(text("resourceType") == file.resource_type, "a line of a wrong type in {}", file.name());
                lines.entry(format!("{}/{}", file.resource_type, text("id"))).or_default().push(line);
            }
        }
        for file in listed(&manifest, "error")? {
            errors.extend(file.fetch(client).await?);
        }
        Ok(Self { manifest, lines, errors, is_of_who_hides_deleted: false })
    }

    /// Everything that is wrong with the export that `path` kicked off at `began`, by the rules above. `versions` are
    /// those seen when the export had ended.
    pub(crate) fn judge(&self, path: &str, began: Moment, versions: &[Version]) -> anyhow::Result<Applied> {
        let histories = histories(began, versions);
        let mut judgement = Judgement { wrong: Vec::new(), applied: Applied::default() };
        let level = Level::of(path, &histories)?;
        let transaction_time = self.manifest.whole["transactionTime"].as_str().context("no transactionTime")?;
        let transaction_time = transaction_time.parse::<chrono::DateTime<chrono::Utc>>()?;

        let mut asked_for = BTreeSet::new();
        let own = self.lines.iter().filter(|(name, _)| !level.is_context(name));
        for line in own.flat_map(|(_, lines)| lines) {
            asked_for.extend(followed(&serde_json::from_str(line)?));
        }
        let gone = gone(&histories);
        for (name, history) in &histories {
            let is_owed =
                !self.is_of_who_hides_deleted || history.live().all(|version| !level.may_lack(name, version, &gone));
            let in_scope = |version: &&Version| {
                level.holds(name, version) || (level.is_context(name) && asked_for.contains(name.as_str()))
            };
            let lines = self.lines.get(name).map_or(&[] as &[String], Vec::as_slice);
            judgement.of(name, history, (is_owed, in_scope), lines);
            let has_gone = history.last().is_none_or(|version| version.body.is_none());
            judgement.applied.excused += usize::from(!is_owed && !has_gone && lines.is_empty());
            if level.is_context(name) {
                judgement.applied.context += lines.len();
                continue; // what is referred to is a part of no later export by itself
            }
            // The next export brings what is stamped later than this one's transaction time.
            let is_news = |version: &&Version| match version.body.as_deref() {
                Some(body) => is_owed && in_scope(version) && !lines.contains(&compact(body)),
                None => !lines.is_empty(),
            };
            let stamp = history.last().filter(is_news).and_then(|version| version.last_updated);
            if let Some(stamp) = stamp.filter(|stamp| *stamp <= transaction_time) {
                judgement.wrong.push(format!("{name}: what was written at {stamp} is lost to the next export as well"));
            }
        }
        judgement.wrong.extend(
            self.lines
                .keys()
                .filter(|name| !histories.contains_key(*name))
                .map(|name| format!("{name}: never was there")),
        );
        judgement.wrong.extend(self.contradictions());
        let Judgement { wrong, applied } = judgement;
        ensure!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(30)].join("\n"));
        Ok(applied)
    }

    /// Where the proof does not say what the files hold.
    fn contradictions(&self) -> Vec<String> {
        let proof = &self.manifest.whole["extension"]["https://offtake.dev/proof"];
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        self.lines.iter().for_each(|(name, lines)| *counts.entry(type_of(name)).or_default() += lines.len());
        let said =
            proof.as_object().into_iter().flatten().map(|(name, proof)| (name.as_str(), proof["written"].as_u64()));
        let said: BTreeMap<&str, u64> = said.map(|(name, written)| (name, written.unwrap_or(u64::MAX))).collect();
        let names: BTreeSet<&str> = counts.keys().chain(said.keys()).copied().collect();
        let count = |name: &str| counts.get(name).copied().unwrap_or(0) as u64;
        let wrong = names.into_iter().filter(|name| said.get(name).copied().unwrap_or(0) != count(name));
        let mut wrong: Vec<String> = wrong
            .map(|name| format!("{name}: {} lines, and the proof says {:?}", count(name), said.get(name)))
            .collect();
        let short = proof.as_object().into_iter().flatten().filter(|(_, proof)| proof["short"] != 0);
        wrong.extend(short.map(|(name, _)| format!("{name}: short")));
        wrong
    }
}

struct Judgement {
    wrong: Vec<String>,
    applied: Applied,
}

impl Judgement {
    fn of(
        &mut self,
        name: &str,
        history: &History<'_>,
        (is_owed, in_scope): (bool, impl Fn(&&Version) -> bool),
        lines: &[String],
    ) {
        if lines.len() > 1 {
            self.wrong.push(format!("{name}: {} lines", lines.len()));
        }
        let allowed: Vec<&Version> = history.current().into_iter().chain(history.since.iter().copied()).collect();
        let deleted = allowed.iter().any(|version| version.body.is_none());
        let live: Vec<&Version> = allowed.iter().copied().filter(|version| version.body.is_some()).collect();
        let came =
            |line: &String| live.iter().find(|version| version.body.as_deref().map(compact).as_ref() == Some(line));
        for line in lines {
            match came(line) {
                None if live.is_empty() => self.wrong.push(format!("{name}: had been deleted")),
                None => self.wrong.push(format!("{name}: in no version that was current at kick-off or later")),
                Some(version) if !in_scope(version) => self.wrong.push(format!("{name}: was not asked for")),
                Some(_) => {}
            }
        }
        let was_there = history.current().is_some();
        let has_to_come = is_owed && history.had_to_come() && live.iter().all(&in_scope);
        self.applied.had_to_come += usize::from(has_to_come);
        self.applied.came += usize::from(has_to_come && !lines.is_empty());
        if has_to_come && lines.is_empty() {
            let versions: Vec<_> = live.iter().map(|version| (version.version, version.last_updated)).collect();
            self.wrong.push(format!("{name}: missing; {versions:?}"));
        }
        let Applied { untouched, modified, modified_new, created, created_came, deleted_since, deleted_before, .. } =
            &mut self.applied;
        match (was_there, history.since.is_empty(), deleted) {
            (true, true, _) => *untouched += 1,
            (true, false, false) => {
                *modified += 1;
                let old = history.current().map(|version| version.version);
                *modified_new += usize::from(lines.iter().filter_map(came).any(|version| Some(version.version) != old));
            }
            (true, false, true) => *deleted_since += 1,
            (false, true, _) => *deleted_before += 1,
            (false, false, _) => {
                *created += 1;
                *created_came += lines.len();
            }
        }
    }
}

/// The versions of one resource, as seen before and after a kick-off.
#[derive(Default)]
pub(super) struct History<'v> {
    before: Option<&'v Version>,
    since: Vec<&'v Version>,
}

impl<'v> History<'v> {
    /// The version that was there at kick-off.
    fn current(&self) -> Option<&'v Version> {
        self.before.filter(|version| version.body.is_some())
    }

    /// Whether it was there all the time, in whichever version.
    pub(super) fn had_to_come(&self) -> bool {
        self.current().is_some() && self.since.iter().all(|version| version.body.is_some())
    }

    /// All that are no deletions.
    fn live(&self) -> impl Iterator<Item = &'v Version> {
        self.before.into_iter().chain(self.since.iter().copied()).filter(|version| version.body.is_some())
    }

    fn was_deleted(&self) -> bool {
        self.before.into_iter().chain(self.since.iter().copied()).any(|version| version.body.is_none())
    }

    /// The last one of all.
    pub(super) fn last(&self) -> Option<&'v Version> {
        self.since.last().copied().or(self.before)
    }
}

pub(super) fn histories(began: Moment, versions: &[Version]) -> BTreeMap<String, History<'_>> {
    let mut histories: BTreeMap<String, History<'_>> = BTreeMap::new();
    for (number, version) in versions.iter().enumerate() {
        let history = histories.entry(format!("{}/{}", version.resource_type, version.id)).or_default();
        if number < began.0 { history.before = Some(version) } else { history.since.push(version) }
    }
    histories
}

/// What was deleted at some time, by `Type/id`.
pub(super) fn gone<'h>(histories: &'h BTreeMap<String, History<'_>>) -> BTreeSet<&'h str> {
    histories.iter().filter(|(_, history)| history.was_deleted()).map(|(name, _)| name.as_str()).collect()
}

/// What an export asks for.
pub(super) enum Level {
    System,
    Patient,
    Group(BTreeSet<String>),
}

impl Level {
    /// By the path of its kick-off; a Group must stay as it was at that time.
    pub(super) fn of(path: &str, histories: &BTreeMap<String, History<'_>>) -> anyhow::Result<Self> {
        let group = match path {
            "/$export" => return Ok(Self::System),
            "/Patient/$export" => return Ok(Self::Patient),
            path => path.trim_start_matches('/').trim_end_matches("/$export"),
        };
        let version = histories.get(group).and_then(History::current).context("no such Group")?;
        let group: Value = serde_json::from_str(version.body.as_deref().unwrap_or_default())?;
        let members = group["member"].as_array().into_iter().flatten();
        Ok(Self::Group(
            members.filter_map(|member| member["entity"]["reference"].as_str().map(str::to_owned)).collect(),
        ))
    }

    /// Whether the level itself asks for a resource in this version.
    pub(super) fn holds(&self, name: &str, version: &Version) -> bool {
        let Some(body) = version.body.as_deref() else { return false };
        let belongs = |is_member: &dyn Fn(&str) -> bool| {
            serde_json::from_str(body).is_ok_and(|resource| belongs(name, &resource, is_member))
        };
        match self {
            Self::System => true,
            Self::Patient => belongs(&|_| true),
            Self::Group(members) => belongs(&|patient| members.contains(patient)),
        }
    }

    /// Whether a resource of a Group may be absent for what is `gone`: HAPI finds nothing by a patient who was deleted, and
    /// Provenance of a record that was deleted stays here, as nobody can say whose that was.
    pub(super) fn may_lack(&self, name: &str, version: &Version, gone: &BTreeSet<&str>) -> bool {
        let (Self::Group(members), Some(body)) = (self, version.body.as_deref()) else { return false };
        let Ok(resource) = serde_json::from_str::<Value>(body) else { return false };
        let targets = resource["target"].as_array().into_iter().flatten();
        let mut targets = targets.filter_map(|target| target["reference"].as_str());
        let tells_of_what_is_gone = type_of(name) == "Provenance" && targets.any(|target| gone.contains(target));
        // It belongs to nobody but members, and to no one of them who is left.
        let is_of_who_is_gone = self.holds(name, version)
            && belongs(name, &resource, |patient: &str| members.contains(patient) && gone.contains(patient));
        tells_of_what_is_gone || is_of_who_is_gone
    }

    /// Whether a resource can only come because others refer to it.
    pub(super) fn is_context(&self, name: &str) -> bool {
        // A resource of such a type refers to itself in the form that `followed` looks for.
        !matches!(self, Self::System) && !followed(&serde_json::json!({ "reference": name })).is_empty()
    }
}
