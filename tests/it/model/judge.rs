//! What came in a chain of exports, held against every version that there was.

use std::collections::{BTreeMap, BTreeSet};

use sample_upstream::{SampleUpstream, Version};

/// What is wrong with a chain: P1 to P7 of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wrong {
    /// P1: a resource that nobody touched did not come.
    Untouched,
    /// P2: one that was changed did not come.
    Modified,
    /// P2, known: it did not come, and got another patient while batches of patients were swept.
    Reassigned,
    /// P2: a version came that was no longer current at kick-off.
    OldVersion,
    /// P3: it had been deleted before.
    Deleted,
    /// P4: it came twice in one export.
    Twice,
    /// P5: a change came in none of the exports.
    Change,
    /// P6: the proof says `counted`, and something untouched is missing.
    FalseProof,
    /// P7: the export failed although the server is honest.
    Failed,
    /// P7, known: readings did not agree in so many attempts.
    Short,
}

/// One finished export.
pub(super) struct Export {
    /// So many versions could be seen at kick-off.
    pub(super) began: usize,
    /// `Type/id` and version of each line.
    pub(super) lines: Vec<(String, u64)>,
    /// Types whose proof says `counted`.
    pub(super) counted: BTreeSet<String>,
}

/// The versions of one resource; `None` are deletions.
struct History<'v> {
    before: Option<&'v Version>,
    since: Vec<&'v Version>,
}

impl Export {
    /// What is wrong with this export alone; a `whole` one has no `_since`. `reassigned` are versions in which resources came
    /// to other patients, `swept` is how many versions could be seen when the sweep by patients began.
    pub(super) fn judge(
        &self,
        whole: bool,
        versions: &[Version],
        reassigned: &BTreeSet<(String, u64)>,
        swept: Option<usize>,
    ) -> Vec<(Wrong, String)> {
        let mut wrong = Vec::new();
        let histories = self.histories(versions);
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, version) in &self.lines {
            *times.entry(name).or_default() += 1;
            let Some(history) = histories.get(name) else {
                wrong.push((Wrong::OldVersion, format!("{name} never was there")));
                continue;
            };
            let current = history.before.into_iter().chain(history.since.iter().copied());
            if !current.clone().any(|known| known.version == *version && known.body.is_some()) {
                let was_deleted = history.before.is_some_and(|before| before.body.is_none());
                let kind = if was_deleted { Wrong::Deleted } else { Wrong::OldVersion };
                wrong.push((kind, format!("{name} v{version}")));
            }
        }
        wrong.extend(times.iter().filter(|(_, times)| **times > 1).map(|(name, _)| (Wrong::Twice, (*name).to_owned())));
        for (name, history) in histories.iter().filter(|_| whole) {
            let was_there = history.before.is_some_and(|before| before.body.is_some());
            let is_there = history.since.iter().all(|version| version.body.is_some());
            if times.contains_key(name.as_str()) || !was_there || !is_there {
                continue;
            }
            let during_sweep = |version: &&&Version| swept.is_some_and(|swept| version.sequence >= swept as u64);
            let mut in_sweep = history.since.iter().filter(during_sweep);
            let moved = in_sweep.any(|version| reassigned.contains(&(name.clone(), version.version)));
            let kind = match (history.since.is_empty(), moved) {
                (true, _) => Wrong::Untouched,
                (false, true) => Wrong::Reassigned,
                (false, false) => Wrong::Modified,
            };
            wrong.push((kind, name.clone()));
            let (resource_type, _) = name.split_once('/').unwrap_or_default();
            if kind == Wrong::Untouched && self.counted.contains(resource_type) {
                wrong.push((Wrong::FalseProof, name.clone()));
            }
        }
        wrong
    }

    fn histories<'v>(&self, versions: &'v [Version]) -> BTreeMap<String, History<'v>> {
        let mut histories: BTreeMap<String, History<'v>> = BTreeMap::new();
        for (number, version) in versions.iter().enumerate() {
            if matches!(version.resource_type.as_str(), "Patient" | "Group") {
                continue;
            }
            let name = format!("{}/{}", version.resource_type, version.id);
            let history = histories.entry(name).or_insert(History { before: None, since: Vec::new() });
            if number < self.began { history.before = Some(version) } else { history.since.push(version) }
        }
        histories
    }
}

/// P5: what a client lacks that took each of `exports`, the last of them at rest.
pub(super) fn lost(exports: &[Export], upstream: &SampleUpstream) -> Vec<(Wrong, String)> {
    let mut held: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, version) in exports.iter().flat_map(|export| &export.lines) {
        let newest = held.entry(name).or_default();
        *newest = (*newest).max(*version);
    }
    let mut wrong = Vec::new();
    for stored in upstream.resources(None) {
        let name = format!("{}/{}", stored.resource_type, stored.id);
        // `_since` cannot see what has no stamp.
        let is_asked_for = stored.last_updated.is_some() && !matches!(&*stored.resource_type, "Patient" | "Group");
        let newest = held.get(name.as_str()).copied().unwrap_or(0);
        if is_asked_for && newest < stored.version {
            wrong.push((Wrong::Change, format!("{name} v{}, and v{newest} is the last that came", stored.version)));
        }
    }
    wrong
}
