//! Finds the resources that a search matches, in its order.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;

use crate::paging::Position;
use crate::query::{Field, Filters, SortKey};
use crate::store::{Store, TypeStore};

type Pids<'s> = Box<dyn Iterator<Item = u64> + 's>;

/// Filters made ready against what one type holds.
#[derive(Debug)]
pub(crate) struct Matcher<'s> {
    store: &'s Store,
    of_type: &'s TypeStore,
    filters: &'s Filters,
    /// The live resources that each group of terms allows, of each group one after another.
    groups: Vec<Vec<&'s BTreeSet<u64>>>,
    /// From here (included) to there (not included), in milliseconds, all matches lie.
    window: (i64, i64),
    /// And whatever lies there is a match: no other filter is to be tried on it.
    is_exact: bool,
}

impl<'s> Matcher<'s> {
    pub(crate) fn new(store: &'s Store, of_type: &'s TypeStore, filters: &'s Filters) -> Self {
        let postings = |group: &Vec<String>| group.iter().filter_map(|term| of_type.posting(term)).collect();
        let groups = filters.terms.iter().map(postings).collect();
        let lower = filters.times.iter().map(super::instant::Comparison::lower).max().unwrap_or(i64::MIN);
        let upper = filters.times.iter().map(super::instant::Comparison::upper).min().unwrap_or(i64::MAX);
        let Filters { ids, times, terms, without } = filters;
        let is_exact = ids.is_none() && terms.is_empty() && without.is_empty() && of_type.unplaced == 0;
        let is_exact = is_exact && !times.is_empty() && times.iter().all(super::instant::Comparison::is_a_range);
        Self { store, of_type, filters, groups, window: (lower, upper.max(lower)), is_exact }
    }

    /// The pids of all matches, in the given order, after `after` where one is given.
    ///
    /// Lazy wherever the store keeps that order itself, so that a page costs no more than a page.
    pub(crate) fn select(&self, order: &[SortKey], after: Option<&Position>) -> Pids<'_> {
        if let [SortKey { field, descending }] = order
            && self.filters.ids.is_none()
            && self.groups.is_empty()
        {
            if *field == Field::Inserted && !self.filters.times.is_empty() {
                return self.within_window(*descending, after);
            }
            let walked = self.walk(*field, *descending, after);
            if self.is_exact && *field == Field::LastUpdated {
                return walked;
            }
            return Box::new(walked.filter(|pid| self.matches(*pid)));
        }
        let mut found: Vec<Position> = self
            .candidates()
            .filter(|pid| self.matches(*pid))
            .filter_map(|pid| self.store.position(self.of_type, pid))
            .filter(|position| after.is_none_or(|after| compare(order, position, after) == Ordering::Greater))
            .collect();
        found.sort_unstable_by(|one, other| compare(order, one, other));
        Box::new(found.into_iter().map(|position| position.pid))
    }

    /// How many resources match.
    pub(crate) fn count(&self) -> usize {
        let Filters { ids, times, terms, without } = self.filters;
        if ids.is_none() && times.is_empty() && terms.is_empty() && without.is_empty() {
            return self.of_type.rows.len();
        }
        if self.is_exact {
            return self.candidates().count();
        }
        self.candidates().filter(|pid| self.matches(*pid)).count()
    }

    /// The matches of a window of time in the order of creation: found by time, so that a narrow window of a large type
    /// costs little.
    fn within_window(&self, descending: bool, after: Option<&Position>) -> Pids<'_> {
        let is_behind = |pid: u64| after.is_none_or(|after| if descending { pid < after.pid } else { pid > after.pid });
        let mut pids: Vec<u64> =
            self.candidates().filter(|pid| is_behind(*pid) && (self.is_exact || self.matches(*pid))).collect();
        pids.sort_unstable();
        from_end(pids.into_iter(), descending)
    }

    /// The store's own indexes walked from one end, begun behind `after`.
    fn walk(&self, field: Field, descending: bool, after: Option<&Position>) -> Pids<'_> {
        let of_type = self.of_type;
        match field {
            Field::Inserted => {
                let place = after.map(|after| after.pid);
                let bounds = behind(place, descending, Bound::Unbounded, Bound::Unbounded);
                from_end(of_type.rows.range(bounds).map(|(pid, _)| *pid), descending)
            }
            Field::LastUpdated => {
                let (first, last) = ((self.window.0, 0), (self.window.1, 0));
                // A place outside the window (a link that was tampered with) would turn the range round.
                let place = after.map(|after| (after.millis, after.pid).clamp(first, last));
                let bounds = behind(place, descending, Bound::Included(first), Bound::Excluded(last));
                from_end(of_type.times.range(bounds).map(|(_, pid)| *pid), descending)
            }
            Field::Id => {
                let place = after.map(|after| after.id.as_str());
                let bounds = behind(place, descending, Bound::Unbounded, Bound::Unbounded);
                from_end(of_type.ids.range::<str, _>(bounds).map(|(_, slot)| slot.pid), descending)
            }
        }
    }

    /// Resources among which all matches are, in no order: as few as the indexes tell. None twice.
    fn candidates(&self) -> Pids<'_> {
        if let Some(ids) = &self.filters.ids {
            let slots = ids.iter().filter_map(|id| self.of_type.ids.get(id.as_str()));
            return distinct(slots.map(|slot| slot.pid).collect());
        }
        let size = |group: &&Vec<&BTreeSet<u64>>| group.iter().map(|posting| posting.len()).sum::<usize>();
        if let Some(smallest) = self.groups.iter().min_by_key(size) {
            return distinct(smallest.iter().copied().flatten().copied().collect());
        }
        if self.filters.times.is_empty() {
            return Box::new(self.of_type.rows.keys().copied());
        }
        let window = (self.window.0, 0)..(self.window.1, 0);
        Box::new(self.of_type.times.range(window).map(|(_, pid)| *pid))
    }

    fn matches(&self, pid: u64) -> bool {
        let Some(record) = self.store.current(self.of_type, pid) else {
            return false;
        };
        let without = |term: &String| !self.of_type.posting(term).is_some_and(|posting| posting.contains(&pid));
        // What has no place in time is found by no comparison.
        let place = self.of_type.place(pid);
        self.filters.times.iter().all(|time| place.is_some_and(|place| time.holds(place)))
            && self.filters.ids.as_ref().is_none_or(|ids| ids.iter().any(|id| **id == *record.id))
            && self.groups.iter().all(|group| group.iter().any(|posting| posting.contains(&pid)))
            && self.filters.without.iter().all(without)
    }
}

fn distinct<'s>(mut pids: Vec<u64>) -> Pids<'s> {
    pids.sort_unstable();
    pids.dedup();
    Box::new(pids.into_iter())
}

fn from_end<'s>(walked: impl DoubleEndedIterator<Item = u64> + 's, back: bool) -> Pids<'s> {
    if back { Box::new(walked.rev()) } else { Box::new(walked) }
}

/// The part of a range that lies behind a place, which must not lie before it.
fn behind<T: PartialEq>(place: Option<T>, descending: bool, first: Bound<T>, last: Bound<T>) -> (Bound<T>, Bound<T>) {
    match place {
        None => (first, last),
        Some(place) if descending => (first, Bound::Excluded(place)),
        // A range from a place to itself may not leave out both of its ends.
        Some(place) if matches!(&last, Bound::Excluded(end) if *end == place) => (Bound::Included(place), last),
        Some(place) => (Bound::Excluded(place), last),
    }
}

/// Where `one` stands to `other` in this order; equal keys fall back to the order of creation.
fn compare(order: &[SortKey], one: &Position, other: &Position) -> Ordering {
    let fallback = SortKey { field: Field::Inserted, descending: order.last().is_some_and(|key| key.descending) };
    let steps = order.iter().chain([&fallback]).map(|key| {
        let step = match key.field {
            Field::Inserted => one.pid.cmp(&other.pid),
            Field::LastUpdated => one.millis.cmp(&other.millis),
            Field::Id => one.id.cmp(&other.id),
        };
        if key.descending { step.reverse() } else { step }
    });
    steps.fold(Ordering::Equal, Ordering::then)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Version;
    use crate::query::Search;
    use crate::settings::Settings;
    use crate::store::{Change, Incoming, Moment};

    /// Nine observations `o0` to `o8`, two per second, of the patients `p0` to `p2`; the ids run backwards.
    fn observations() -> Store {
        let mut store = Store::default();
        for number in 0..9_i64 {
            let text = format!(
                r#"{{"resourceType":"Observation","id":"o{}","status":"final","subject":{{"reference":"Patient/p{}"}}}}"#,
                8 - number,
                number % 3
            );
            let incoming = Incoming::parse(Version::R4, &text).expect("a resource");
            let id = incoming.id().expect("an id").into();
            let at = chrono::DateTime::from_timestamp(number / 2, 0).expect("in range");
            store.apply(
                Change::Put { id, incoming },
                Moment { last_updated: Some(at), visible_at: at, is_indexed: true },
            );
        }
        store
    }

    fn ids(store: &Store, query: &str, step: usize) -> String {
        let settings = Settings { paging: crate::settings::Paging::Cursor, ..Settings::default() };
        let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let search = Search::parse("Observation", pairs, &settings, &["Patient".to_owned()]).expect("a search");
        let of_type = store.of_type("Observation").expect("held");
        let matcher = Matcher::new(store, of_type, &search.filters);
        let mut found = Vec::new();
        let mut place = None;
        loop {
            let page: Vec<u64> = matcher.select(&search.order, place.as_ref()).take(step).collect();
            let positions: Vec<_> = page.iter().filter_map(|pid| store.position(of_type, *pid)).collect();
            assert_eq!(matcher.count(), matcher.select(&search.order, None).count(), "{query}");
            let Some(last) = positions.last() else { break };
            place = Some(last.clone());
            found.extend(positions.into_iter().map(|position| position.id.replace('o', "")));
        }
        found.join("")
    }

    #[test]
    fn every_order_gives_the_same_by_any_page_size() {
        let store = observations();
        for (query, expected) in [
            ("", "012345678"),
            ("_sort=_lastUpdated", "876543210"),
            ("_sort=_id", "012345678"),
            ("_sort=-_id", "876543210"),
            ("_sort=-_lastUpdated,_id", "012345678"),
            ("_sort=_lastUpdated,_id", "785634120"),
            ("_lastUpdated=ge1970-01-01T00:00:01Z&_lastUpdated=lt1970-01-01T00:00:03Z&_sort=_lastUpdated", "6543"),
            ("_lastUpdated=ge1970-01-01T00:00:01Z&_lastUpdated=lt1970-01-01T00:00:03Z", "3456"),
            ("_lastUpdated=gt1971&_sort=_lastUpdated", ""),
            ("_lastUpdated=gt1971&_lastUpdated=lt1970&_sort=_lastUpdated", ""),
            ("patient=p1&_sort=_id", "147"),
            ("patient=p1,p2&_lastUpdated=lt1970-01-01T00:00:01Z&_sort=_id", "7"),
            ("_id=o1,o3,o1,nobody&_sort=_id", "13"),
            ("_id=o1,o3&subject=Patient/p1", "1"),
            ("subject:missing=true", ""),
            ("status=final,amended&patient:missing=false&_sort=_id", "012345678"),
            ("status=amended", ""),
        ] {
            for step in [1, 2, 4, 100] {
                assert_eq!(ids(&store, query, step), expected, "{query} by {step}");
            }
        }
    }
}
