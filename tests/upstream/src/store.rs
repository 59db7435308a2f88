//! What the sample upstream holds: the current version of each resource, found by id, time and term, and every
//! version there ever was, in the order in which they became visible.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::body::Body;
use crate::instant;
use crate::paging::Position;
use crate::params::{self, Version};
use crate::splice::Shape;

/// A resource as a client sent it, checked and read once.
#[derive(Debug)]
pub(crate) struct Incoming {
    body: Body,
    shape: Shape,
    terms: Vec<String>,
}

impl Incoming {
    /// Reads a resource.
    ///
    /// # Errors
    /// If the text is no JSON object with a `resourceType`.
    pub(crate) fn parse(version: Version, text: &str) -> anyhow::Result<Self> {
        let resource: Value = serde_json::from_str(text).context("not JSON")?;
        let shape = Shape::of(text)?;
        let terms = params::terms(version, shape.resource_type(), &resource);
        Ok(Self { body: Body::Text(text.into()), shape, terms })
    }

    /// A large resource: `filler_bytes` of base64 stand between `head` and `tail`.
    ///
    /// # Errors
    /// If the two are no resource without the filler, or the id stands after it.
    pub(crate) fn filled(version: Version, head: &str, filler_bytes: usize, tail: &str) -> anyhow::Result<Self> {
        let skeleton = Self::parse(version, &format!("{head}{tail}"))?;
        anyhow::ensure!(skeleton.shape.reach() <= head.len(), "id and meta must stand before the filler");
        Ok(Self { body: Body::Filled { head: head.into(), filler_bytes, tail: tail.into() }, ..skeleton })
    }

    pub(crate) fn resource_type(&self) -> &str {
        self.shape.resource_type()
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.shape.id()
    }

    /// Every `parameter=value` under which it can be found.
    pub(crate) fn terms(&self) -> &[String] {
        &self.terms
    }

    fn stamped(self, id: &str, version: u64, last_updated: Option<DateTime<Utc>>) -> Body {
        let at = last_updated.map(instant::text);
        let stamp = |text: &str| self.shape.stamp(text, id, version, at.as_deref()).into();
        match &self.body {
            Body::Text(text) => Body::Text(stamp(text)),
            Body::Filled { head, filler_bytes, tail } => {
                Body::Filled { head: stamp(head), filler_bytes: *filler_bytes, tail: Arc::clone(tail) }
            }
        }
    }
}

/// One change to be applied.
#[derive(Debug)]
pub(crate) enum Change {
    Put { id: Arc<str>, incoming: Incoming },
    Delete { resource_type: Arc<str>, id: Arc<str> },
}

/// When a change was stamped, and when it can be seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// `None` where the server keeps no stamps.
    pub(crate) last_updated: Option<DateTime<Utc>>,
    pub(crate) visible_at: DateTime<Utc>,
    /// Whether its place in time can be searched for at once, or only after [`Store::index`].
    pub(crate) is_indexed: bool,
}

/// One version of one resource.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) resource_type: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) version: u64,
    pub(crate) last_updated: Option<DateTime<Utc>>,
    pub(crate) visible_at: DateTime<Utc>,
    /// `None` is a deletion.
    pub(crate) body: Option<Body>,
}

impl Record {
    fn millis(&self) -> Option<i64> {
        self.last_updated.map(|at| at.timestamp_millis())
    }
}

/// All resources and their past.
#[derive(Debug, Default)]
pub(crate) struct Store {
    types: BTreeMap<Arc<str>, TypeStore>,
    records: Vec<Record>,
    next_pid: u64,
}

/// The resources of one type. A `pid` is a number that a resource keeps for life, in order of creation.
#[derive(Debug, Default)]
pub(crate) struct TypeStore {
    /// Live ones.
    pub(crate) rows: BTreeMap<u64, Row>,
    /// Live and deleted ones.
    pub(crate) ids: BTreeMap<Arc<str>, Slot>,
    /// Live ones by their place in time, in milliseconds; those without one come first.
    pub(crate) times: BTreeSet<(i64, u64)>,
    /// Live ones without a place in time.
    pub(crate) unplaced: usize,
    terms: HashMap<Box<str>, u32>,
    postings: Vec<BTreeSet<u64>>,
}

/// A live resource.
#[derive(Debug)]
pub(crate) struct Row {
    record: usize,
    /// The place in time that searches compare; none if there is no stamp, or none was indexed yet.
    place: Option<i64>,
    terms: Box<[u32]>,
}

/// Where a resource's newest version is, be it a deletion.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) pid: u64,
    record: usize,
}

impl TypeStore {
    /// The live resources with this term.
    pub(crate) fn posting(&self, term: &str) -> Option<&BTreeSet<u64>> {
        let number = *self.terms.get(term)?;
        self.postings.get(usize::try_from(number).ok()?)
    }

    fn intern(&mut self, term: String) -> u32 {
        // A test server holds far fewer than 2^32 distinct terms; at the end the last number is shared.
        let next = u32::try_from(self.postings.len()).unwrap_or(u32::MAX);
        let number = *self.terms.entry(term.into_boxed_str()).or_insert(next);
        if number == next {
            self.postings.push(BTreeSet::new());
        }
        number
    }

    /// The place in time that a search would find this live resource at.
    pub(crate) fn place(&self, pid: u64) -> Option<i64> {
        self.rows.get(&pid)?.place
    }

    fn unlink(&mut self, pid: u64) {
        if let Some(row) = self.rows.remove(&pid) {
            self.times.remove(&(row.place.unwrap_or(0), pid));
            self.unplaced -= usize::from(row.place.is_none());
            for term in row.terms {
                if let Some(posting) = self.postings.get_mut(term as usize) {
                    posting.remove(&pid);
                }
            }
        }
    }

    fn link(&mut self, pid: u64, place: Option<i64>, record: usize, terms: Vec<String>) {
        let terms: Box<[u32]> = terms.into_iter().map(|term| self.intern(term)).collect();
        for term in &terms {
            if let Some(posting) = self.postings.get_mut(*term as usize) {
                posting.insert(pid);
            }
        }
        self.times.insert((place.unwrap_or(0), pid));
        self.unplaced += usize::from(place.is_none());
        self.rows.insert(pid, Row { record, place, terms });
    }
}

impl Store {
    pub(crate) fn types(&self) -> impl Iterator<Item = (&Arc<str>, &TypeStore)> {
        self.types.iter()
    }

    pub(crate) fn of_type(&self, resource_type: &str) -> Option<&TypeStore> {
        self.types.get(resource_type)
    }

    /// Every version, in the order in which they became visible.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The current version of a live resource.
    pub(crate) fn current(&self, of_type: &TypeStore, pid: u64) -> Option<&Record> {
        self.records.get(of_type.rows.get(&pid)?.record)
    }

    /// Where a live resource stands among others.
    pub(crate) fn position(&self, of_type: &TypeStore, pid: u64) -> Option<Position> {
        let record = self.current(of_type, pid)?;
        Some(Position { millis: of_type.place(pid).unwrap_or(0), pid, id: record.id.as_ref().to_owned() })
    }

    /// From now on a live resource is searched for by its present stamp.
    pub(crate) fn index(&mut self, resource_type: &str, id: &str) {
        let Some(of_type) = self.types.get_mut(resource_type) else { return };
        let Some(pid) = of_type.ids.get(id).map(|slot| slot.pid) else { return };
        let Some(row) = of_type.rows.get_mut(&pid) else { return };
        let place = self.records.get(row.record).and_then(Record::millis);
        let before = std::mem::replace(&mut row.place, place);
        of_type.times.remove(&(before.unwrap_or(0), pid));
        of_type.times.insert((place.unwrap_or(0), pid));
        of_type.unplaced += usize::from(place.is_none());
        of_type.unplaced -= usize::from(before.is_none());
    }

    /// The newest version of a resource, be it a deletion.
    pub(crate) fn newest(&self, resource_type: &str, id: &str) -> Option<&Record> {
        self.records.get(self.types.get(resource_type)?.ids.get(id)?.record)
    }

    /// Makes one change visible and gives its record. Deleting what is not there changes nothing.
    pub(crate) fn apply(&mut self, change: Change, moment: Moment) -> Option<&Record> {
        let (resource_type, id, incoming) = match change {
            Change::Put { id, incoming } => (incoming.resource_type().into(), id, Some(incoming)),
            Change::Delete { resource_type, id } => (resource_type, id, None),
        };
        let before = self.newest(&resource_type, &id).map(|record| (record.version, record.body.is_some()));
        if incoming.is_none() && !before.is_some_and(|(_, live)| live) {
            return None;
        }
        let version = before.map_or(0, |(version, _)| version) + 1;
        let of_type = self.types.entry(Arc::clone(&resource_type)).or_default();
        let number = self.records.len();
        let next_pid = self.next_pid;
        let slot = of_type.ids.entry(Arc::clone(&id)).or_insert(Slot { pid: next_pid, record: number });
        slot.record = number;
        let pid = slot.pid;
        self.next_pid += u64::from(pid == next_pid);
        let place_before = of_type.place(pid);
        of_type.unlink(pid);
        let mut record = Record {
            resource_type,
            id,
            version,
            last_updated: moment.last_updated,
            visible_at: moment.visible_at,
            body: None,
        };
        if let Some(mut incoming) = incoming {
            let place = if moment.is_indexed { record.millis() } else { place_before };
            of_type.link(pid, place, number, std::mem::take(&mut incoming.terms));
            record.body = Some(incoming.stamped(&record.id, version, moment.last_updated));
        }
        self.records.push(record);
        self.records.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &mut Store, text: &str, second: i64) {
        let incoming = Incoming::parse(Version::R4, text).expect("a resource");
        let id = incoming.id().expect("an id").into();
        store.apply(Change::Put { id, incoming }, moment(second));
    }

    fn moment(second: i64) -> Moment {
        let at = DateTime::from_timestamp(second, 0).expect("in range");
        Moment { last_updated: Some(at), visible_at: at, is_indexed: true }
    }

    #[test]
    fn an_update_moves_in_time_and_among_terms() {
        let mut store = Store::default();
        put(&mut store, r#"{"resourceType":"Encounter","id":"e","subject":{"reference":"Patient/a"}}"#, 1);
        put(&mut store, r#"{"resourceType":"Encounter","id":"e","subject":{"reference":"Patient/b"}}"#, 2);
        let encounters = store.of_type("Encounter").expect("held");
        assert_eq!(encounters.times.iter().collect::<Vec<_>>(), [&(2_000, 0)]);
        assert!(encounters.posting("subject=Patient/a").is_some_and(BTreeSet::is_empty));
        assert_eq!(encounters.posting("subject=Patient/b").map(BTreeSet::len), Some(1));
        let current = store.newest("Encounter", "e").expect("there");
        assert_eq!(current.version, 2);
        let text = current.body.as_ref().expect("live").text();
        assert!(text.contains(r#""meta":{"versionId":"2","lastUpdated":"1970-01-01T00:00:02.000+00:00"}"#), "{text}");
    }

    #[test]
    fn an_index_that_runs_behind_finds_an_update_at_its_old_place() {
        let mut store = Store::default();
        put(&mut store, r#"{"resourceType":"Basic","id":"a"}"#, 1);
        for (id, second) in [("a", 2), ("b", 3)] {
            let incoming = Incoming::parse(Version::R4, &format!(r#"{{"resourceType":"Basic","id":"{id}"}}"#))
                .expect("a resource");
            store.apply(Change::Put { id: id.into(), incoming }, Moment { is_indexed: false, ..moment(second) });
        }
        let places = |store: &Store| store.of_type("Basic").map(|basics| [basics.place(0), basics.place(1)]);
        assert_eq!(places(&store), Some([Some(1_000), None]));
        store.index("Basic", "a");
        store.index("Basic", "b");
        assert_eq!(places(&store), Some([Some(2_000), Some(3_000)]));
        assert_eq!(store.of_type("Basic").map(|basics| basics.times.len()), Some(2));
    }

    #[test]
    fn a_deletion_keeps_the_past_and_the_place() {
        let mut store = Store::default();
        put(&mut store, r#"{"resourceType":"Basic","id":"a"}"#, 1);
        let delete = || Change::Delete { resource_type: "Basic".into(), id: "a".into() };
        assert!(store.apply(delete(), moment(2)).is_some_and(|record| record.version == 2 && record.body.is_none()));
        assert!(store.apply(delete(), moment(3)).is_none(), "gone already");
        assert!(store.of_type("Basic").is_some_and(|basics| basics.rows.is_empty() && basics.times.is_empty()));
        put(&mut store, r#"{"resourceType":"Basic","id":"a"}"#, 4);
        assert_eq!(store.records().iter().map(|record| record.version).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(store.of_type("Basic").is_some_and(|basics| basics.rows.contains_key(&0)), "the same pid as before");
    }

    #[test]
    fn a_large_resource_is_stamped_before_its_filler() {
        let incoming = Incoming::filled(Version::R4, r#"{"resourceType":"Binary","id":"b","data":""#, 400, r#""}"#)
            .expect("a resource");
        let mut store = Store::default();
        store.apply(Change::Put { id: "b".into(), incoming }, moment(1));
        let text = store.newest("Binary", "b").and_then(|record| record.body.clone()).expect("live").text();
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["meta"]["versionId"], "1");
        assert_eq!(value["data"].as_str().map(str::len), Some(400));
        assert!(Incoming::filled(Version::R4, r#"{"resourceType":"Binary","data":""#, 4, r#"","id":"b"}"#).is_err());
    }
}
