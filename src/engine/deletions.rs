//! What was deleted since the client's last export, from the server's own history (BD-078 to BD-080, SEC-27).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use super::held::Base;
use super::read::Chain;
use super::worker::{Worker, WorkerError};
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::datatypes::{Id, Instant, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::job::index::IdHash;
use crate::smart::admit::Line;
use crate::upstream::client::history::HISTORY_PAGE;

/// What is to be said of deletions.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    pub(super) lines: Vec<Line>,
    /// Types whose deletions nobody can tell.
    pub(super) untold: Vec<ResourceType>,
    /// Whether some deletions are left out because the export may not tell of them.
    pub(super) left_out: bool,
    /// What is listed: the client holds it no longer.
    pub(super) gone: HashSet<IdHash>,
    /// Patients among them, and those whose they were, as far as it is known.
    pub(super) patients: Vec<IdHash>,
}

impl Deletions {
    /// Lists one.
    pub(super) fn push(&mut self, resource_type: ResourceType, hash: IdHash, line: Line) {
        if resource_type == ResourceType::PATIENT {
            self.patients.push(hash);
        }
        self.gone.insert(hash);
        self.lines.push(line);
    }
}

/// How long a question about deletions may fail.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// An instant since which nothing can have been deleted.
const FAR_AWAY: &str = "2900-01-01T00:00:00Z";
/// Deletions of one type that one export lists.
pub(super) const MOST_OF_A_TYPE: usize = 100_000;

impl Worker {
    /// The deletions between `_since` and the transaction time; none if no `_since` was given. Those that no history tells
    /// are found by what the client received with `base`.
    pub(super) async fn deletions(&self, base: Option<&Base>) -> Result<Deletions, WorkerError> {
        let mut found = Deletions::default();
        let Some(since) = self.plan.horizon.since else { return Ok(found) };
        // One type after another: what a history holds is not bounded by what is exported.
        let until = self.plan.horizon.transaction_time();
        for resource_type in self.plan.types.keys().copied() {
            if self.drain.is_cancelled() {
                return Err(WorkerError::Draining);
            }
            let told = match self.plan.profile.history {
                Some(false) => None,
                Some(true) | None => self.reader.deleted_between(resource_type, since, until).await,
            };
            match told {
                Some(deleted) => self.list(resource_type, deleted, base, &mut found).await?,
                None => found.untold.push(resource_type),
            }
        }
        if let Some(base) = base {
            self.differences(base, &mut found).await?;
        }
        Ok(found)
    }

    /// Lists those of `deleted` that are gone still, that no file holds, and that this export may tell of: because its
    /// history shows that it would have been a part of it, or because the client received it with `base`.
    async fn list(
        &self,
        resource_type: ResourceType,
        deleted: Vec<Id>,
        base: Option<&Base>,
        found: &mut Deletions,
    ) -> Result<(), WorkerError> {
        let hashes: Vec<_> = deleted.iter().map(|id| IdHash::of(resource_type, id)).collect();
        let exported = self.files.are_complete(resource_type, &hashes).await?;
        let gone: Vec<_> =
            deleted.into_iter().zip(exported).filter(|(_, exported)| !exported).map(|(id, _)| id).collect();
        let subjects: Vec<_> = gone.into_iter().map(|id| (resource_type, id)).collect();
        let reader = self.reader.clone();
        let asks_for_last = self.reader.grant.asks_for_last_versions();
        let fates = self
            .each(&subjects, move |(name, id)| {
                let reader = reader.clone();
                async move {
                    match reader.upstream.within(PATIENCE).read(name, &id).await {
                        Ok(None) => {}
                        Ok(Some(_)) => return Ok(Fate::Lives),
                        Err(_) => return Ok(Fate::Unknown),
                    }
                    let last = if asks_for_last { reader.last_living(name, &id).await } else { None };
                    let last = reader.unless_it_tells_of_others(last).await?;
                    let mut patients = Vec::new();
                    let note = |patient: &Id| patients.push(IdHash::of(ResourceType::PATIENT, patient));
                    let line = reader.grant.admit_deletion(name, &id, last.as_ref(), note);
                    Ok(line.map_or(Fate::Gone, |line| Fate::Listed(line, patients)))
                }
            })
            .await?;
        let mut untold = HashMap::new();
        for ((name, id), fate) in fates {
            let hash = IdHash::of(name, &id);
            match fate {
                Fate::Listed(line, patients) => {
                    found.patients.extend(patients);
                    found.push(name, hash, line);
                }
                Fate::Gone => drop(untold.insert(hash, LocalReference { resource_type: name, id })),
                Fate::Unknown => found.left_out = true,
                Fate::Lives => {}
            }
        }
        if let (Some(base), false) = (base, untold.is_empty()) {
            for received in self.received(base, &mut untold).await? {
                let hash = IdHash::of(received.resource_type, &received.id);
                if let Some(line) = self.reader.grant.admit_deletion_of_received(&received) {
                    found.push(received.resource_type, hash, line);
                }
            }
        }
        found.left_out |= !untold.is_empty();
        Ok(())
    }
}

/// What became of a resource that was deleted once.
enum Fate {
    /// It was made anew since.
    Lives,
    /// Told, with the patients whose it was.
    Listed(Line, Vec<IdHash>),
    /// It is gone, and nothing shows that it would have been a part of this export.
    Gone,
    /// The server does not say whether it is there.
    Unknown,
}

impl super::read::Reader {
    /// Every id of a type that was deleted from one instant up to another; `None` if the server does not tell. An export
    /// can do without it: whatever goes wrong, it is only said.
    async fn deleted_between(&self, name: ResourceType, since: Instant, until: Instant) -> Option<Vec<Id>> {
        let deleted = self.deleted_since(name, since).await?;
        if deleted.is_empty() {
            return Some(Vec::new());
        }
        // Histories have been seen that do not say when something was deleted.
        let later = self.deleted_since(name, until).await?;
        // One that tells the same whenever it is asked since has not heard the question.
        if later == deleted
            && let Ok(far) = Instant::parse(FAR_AWAY)
            && self.deleted_since(name, far).await.is_some_and(|ever| ever == deleted)
        {
            return None;
        }
        Some(deleted.into_iter().filter(|id| !later.contains(id)).collect())
    }

    async fn deleted_since(&self, name: ResourceType, since: Instant) -> Option<BTreeSet<Id>> {
        let upstream = self.upstream.within(PATIENCE);
        let mut page = upstream.history(name, since, HISTORY_PAGE).await.ok()?;
        let mut deleted = BTreeSet::new();
        let mut chain = Chain::default();
        let mut pages = 0;
        loop {
            deleted.extend(page.deleted);
            pages += 1;
            if deleted.len() > MOST_OF_A_TYPE {
                return None;
            }
            let Some(next) = page.next else { return Some(deleted) };
            // Pages without any deletion are no sign of a circle: what counts is that each link is new.
            chain.step(&next, pages).ok()?;
            page = upstream.next_of_history(&next, name).await.ok()?;
        }
    }

    /// A deleted resource in its last version, if the server still gives it.
    async fn last_living(&self, name: ResourceType, id: &Id) -> Option<Entry> {
        let page = self.upstream.within(PATIENCE).versions(name, id).await.ok()?;
        let entry = Entry::parse(&page.living?, Scope::of(name).with_references());
        entry.filter(|entry| entry.id == *id)
    }
}
