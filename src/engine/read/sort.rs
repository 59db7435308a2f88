//! What came on a page: where each resource lies, which searches brought it, and whether next links lead anywhere.

use std::collections::HashSet;

use super::{Bar, ReadError, Reader, Received};
use crate::engine::accept::Reading;
use crate::engine::associated::Tie;
use crate::fhir::bundle::{Entry, Page};
use crate::fhir::datatypes::{Instant, Millis};
use crate::fhir::search::is_asked_by;
use crate::job::index::IdHash;
use crate::plan::slice::{Scope, Slice, Window};

/// Pages that one slice may have before it counts as endless.
const MOST_PAGES: u32 = 1_000_000;

/// Pages in a row that may be empty before their chain counts as endless.
const MOST_EMPTY_PAGES: u32 = 100;

impl Reader {
    /// Sorts a page's entries into those the slice asked for, those that moved, and those that its filter excludes.
    pub(in crate::engine) fn sort(
        &self,
        slice: &Slice,
        page: Page,
        seen: &mut HashSet<IdHash>,
        reading: &mut Reading,
    ) -> Vec<Received> {
        let window = slice.window();
        reading.is_troubled |= page.is_troubled();
        // Later pages are named by other words.
        if reading.pages == 1 && page.own.as_deref().is_some_and(|own| !self.repeats(own, slice)) {
            reading.elsewhere += 1;
        }
        let mut received = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let id = IdHash::of(entry.resource_type, &entry.id);
            if !seen.insert(id) {
                continue;
            }
            let has_moved = match self.place(slice, window, &entry) {
                Place::Inside => false,
                Place::Moved => true,
                Place::Elsewhere => {
                    reading.elsewhere += 1;
                    continue;
                }
            };
            reading.moved += u64::from(has_moved);
            reading.set.add(id, entry.version_id.as_deref());
            received.push(Received {
                entry,
                id,
                has_moved,
                was_there: true,
                bar: Bar::None,
                tie: Tie::Ordinary,
                left: Vec::new(),
            });
        }
        received
    }

    /// Whether a `self` link repeats the filters of a slice (DS-004).
    fn repeats(&self, own: &str, slice: &Slice) -> bool {
        let mut names = self.plan.filter(slice).into_iter().flat_map(|filter| filter.filter.names());
        names.all(|name| is_asked_by(own, name)) && repeats(own, slice)
    }

    fn place(&self, slice: &Slice, window: Window, entry: &Entry) -> Place {
        let horizon = &self.plan.horizon;
        let stamp = entry.last_updated.map(Instant::floor_millis);
        match &slice.scope {
            Scope::Window(_) if !window.is_bounded() => Place::Inside,
            Scope::Window(_) => match stamp {
                Some(stamp) if window.contains(stamp) => Place::Inside,
                Some(stamp) if horizon.has_moved(window, stamp) => Place::Moved,
                Some(_) | None => Place::Elsewhere,
            },
            Scope::Patients { from, .. } => {
                if self.grant.is_foreign(entry) || from.is_some_and(|from| stamp.is_none_or(|stamp| stamp < from)) {
                    Place::Elsewhere
                } else if stamp.is_some_and(|stamp| stamp >= horizon.windows_until) {
                    Place::Moved
                } else {
                    Place::Inside
                }
            }
            // What else the server puts into a record is withheld, not a sign of a filter that was ignored.
            Scope::Record { .. } if stamp.is_some_and(|stamp| stamp >= horizon.windows_until) => Place::Moved,
            Scope::Record { .. } => Place::Inside,
            Scope::Targets { lines, .. } => {
                if !self.is_asked_by(entry, self.targets.asked(lines)) {
                    Place::Elsewhere
                } else if stamp.is_some_and(|stamp| stamp >= horizon.windows_until) {
                    Place::Moved
                } else {
                    Place::Inside
                }
            }
            Scope::Ids { list } => {
                let asked = self.ids(slice.resource_type, list);
                if asked.contains(&entry.id) { Place::Inside } else { Place::Elsewhere }
            }
        }
    }

    /// Begins to tally one search of a slice, at its first page.
    pub(in crate::engine) fn tally(&self, slice: &Slice, reading: &mut Reading, first: &Page) -> SearchTally {
        let is_union = !self.plan.searches(slice).is_empty();
        if self.is_open(slice) {
            reading.total = None;
        }
        let total = first.total.filter(|_| is_union && self.plan.profile.page_proves_itself());
        let mut tally = SearchTally { pages: 0, passed_over: 0, total, own: is_union.then(HashSet::new) };
        tally.page(reading, first);
        tally
    }
}

/// What one search of a slice has brought.
#[derive(Debug)]
pub(in crate::engine) struct SearchTally {
    pages: u32,
    /// Resources of other types that came along.
    passed_over: usize,
    /// How many it counts itself, where it is one of several and such totals are exact.
    total: Option<u64>,
    /// What it brought, where others have brought the same.
    own: Option<HashSet<IdHash>>,
}

impl SearchTally {
    /// One more page of it.
    pub(in crate::engine) fn page(&mut self, reading: &mut Reading, page: &Page) {
        self.pages += 1;
        // Each search has its own pages: only one of several of its own can lose what shifts.
        reading.pages = reading.pages.max(self.pages);
        self.passed_over = self.passed_over.saturating_add(page.passed_over);
        if let Some(own) = &mut self.own {
            own.extend(page.entries.iter().map(|entry| IdHash::of(entry.resource_type, &entry.id)));
        }
    }

    /// Distinct resources that it brought, and those of other types; `seen` is what all searches of the slice did.
    pub(in crate::engine) fn received(&self, seen: &HashSet<IdHash>) -> usize {
        self.own.as_ref().unwrap_or(seen).len().saturating_add(self.passed_over)
    }

    /// It has ended.
    pub(in crate::engine) fn end(&self, reading: &mut Reading) {
        if let (Some(total), Some(own)) = (self.total, &self.own) {
            reading.missing = reading.missing.saturating_add(total.saturating_sub(own.len() as u64));
        }
    }
}

enum Place {
    Inside,
    Moved,
    Elsewhere,
}

/// Watches that a chain of next links leads somewhere.
#[derive(Debug, Default)]
pub(in crate::engine) struct Chain {
    links: HashSet<u64>,
    resources: usize,
    empty: u32,
}

impl Chain {
    /// Goes on to `link`, after `resources` distinct resources in all.
    pub(in crate::engine) fn step(&mut self, link: &str, resources: usize) -> Result<(), ReadError> {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(link);
        self.empty = if resources == self.resources { self.empty + 1 } else { 0 };
        self.resources = resources;
        let endless = self.links.len() >= MOST_PAGES as usize || self.empty > MOST_EMPTY_PAGES;
        if endless || !self.links.insert(hash) { Err(ReadError::Loop) } else { Ok(()) }
    }
}

/// Whether a `self` link, where it has a query, repeats the filters of a slice: one that a server leaves out it did not
/// use. How servers name a patient differs too much to be held against them.
fn repeats(own: &str, slice: &Slice) -> bool {
    let has = |name: &str| is_asked_by(own, name);
    match &slice.scope {
        Scope::Window(window) => !window.is_bounded() || has("_lastUpdated"),
        Scope::Patients { link, from, .. } => {
            (from.is_none() || has("_lastUpdated")) && (&**link != "_id" || has("_id"))
        }
        // It is a part of the path.
        Scope::Record { .. } => true,
        Scope::Ids { .. } => has("_id"),
        Scope::Targets { .. } => has("target"),
    }
}

/// How many of these were stamped since this time and lie later than their slice; `None` if the time is not known.
pub(in crate::engine) fn made_since(resources: &[Received], from: Option<Millis>) -> Option<u64> {
    let is_later = |received: &&Received| {
        let stamp = received.entry.last_updated.map(Instant::floor_millis);
        received.has_moved && stamp.is_none_or(|stamp| Some(stamp) >= from)
    };
    from.map(|_| resources.iter().filter(is_later).count() as u64)
}
