//! The handle on a sample upstream: what a test does to it without HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::demand::Tokens;
use crate::faults::FaultDice;
use crate::instant;
use crate::paging::ResultLists;
use crate::requests::{RequestLog, RequestSeen, Then};
use crate::settings::Settings;
use crate::slots::Slots;
use crate::store::{Change, Incoming, Moment, Record, Store};
use crate::wire::Throttle;

type ClockFn = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// An in-memory FHIR server. Clones are handles on the same one.
#[derive(Clone)]
pub struct SampleUpstream {
    inner: Arc<Inner>,
}

struct Inner {
    settings: RwLock<Arc<Settings>>,
    clock: RwLock<ClockFn>,
    store: RwLock<Store>,
    lists: Mutex<ResultLists>,
    log: Mutex<RequestLog>,
    dice: Mutex<FaultDice>,
    tokens: Mutex<Tokens>,
    available: watch::Sender<bool>,
    throttle: Throttle,
    slots: Slots,
    next_id: std::sync::atomic::AtomicU64,
    /// Exports of its own that have begun and were not ended.
    exports: Mutex<std::collections::BTreeSet<u64>>,
    /// Pages by offsets that were made.
    pages: std::sync::atomic::AtomicU64,
    /// Bytes of answers.
    sent: std::sync::atomic::AtomicU64,
    script: RwLock<Option<Arc<dyn Script>>>,
}

/// What happens to the server while it answers.
pub(crate) trait Script: Send + Sync {
    fn play(&self, step: Step<'_>);
}

/// Where the answer to a request stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'r> {
    /// It has arrived: its path below the base, and its query.
    Arrived { path: &'r str, query: &'r str },
    /// A search knows which resources it found and has not loaded them.
    Found,
    /// The resources of a page, as text for people.
    Loaded(&'r str),
    /// The answer is made and on its way.
    Answered,
}

/// The current version of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its type.
    pub resource_type: String,
    /// Its logical id.
    pub id: String,
    /// `meta.versionId`.
    pub version: u64,
    /// `meta.lastUpdated`, to the millisecond; `None` where the server keeps none.
    pub last_updated: Option<DateTime<Utc>>,
    /// Its text, as searches answer it.
    pub body: Arc<str>,
}

/// One version of a resource that can be or once could be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its type.
    pub resource_type: String,
    /// Its logical id.
    pub id: String,
    /// `meta.versionId`.
    pub version: u64,
    /// `meta.lastUpdated`: when its transaction began. Deletions have one too.
    pub last_updated: Option<DateTime<Utc>>,
    /// From when on searches found it.
    pub visible_at: DateTime<Utc>,
    /// Its text; `None` is a deletion.
    pub body: Option<Arc<str>>,
    /// The order in which versions became visible, from 0.
    pub sequence: u64,
}

/// One write of a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    /// A new resource, as JSON; without an id the server gives it one.
    Create(String),
    /// A new version of the resource whose type and id the JSON names; made if it is not there.
    Update(String),
    /// The end of a resource.
    Delete {
        /// Its type.
        resource_type: String,
        /// Its logical id.
        id: String,
    },
}

/// A transaction that has its stamp and cannot be seen yet. Dropped, it never happened.
#[must_use = "a transaction that is not committed never happened"]
pub struct Pending {
    upstream: SampleUpstream,
    changes: Vec<Change>,
    stamp: DateTime<Utc>,
}

impl Pending {
    /// The `lastUpdated` of all its resources.
    #[must_use]
    pub fn stamp(&self) -> DateTime<Utc> {
        self.stamp
    }

    /// `Type/id` of its resources, in their order; those that the server named are among them.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.changes.iter().map(name_of)
    }

    /// Makes its changes visible, all at once.
    pub fn commit(self) {
        self.upstream.apply(self.changes, self.stamp);
    }
}

impl SampleUpstream {
    /// An empty server.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let dice = FaultDice::new(settings.seed);
        Self {
            inner: Arc::new(Inner {
                settings: RwLock::new(Arc::new(settings)),
                clock: RwLock::new(Arc::new(Utc::now)),
                store: RwLock::default(),
                lists: Mutex::default(),
                log: Mutex::default(),
                dice: Mutex::new(dice),
                tokens: Mutex::default(),
                available: watch::Sender::new(true),
                throttle: Throttle::default(),
                slots: Slots::default(),
                next_id: std::sync::atomic::AtomicU64::new(1),
                exports: Mutex::default(),
                pages: std::sync::atomic::AtomicU64::new(0),
                sent: std::sync::atomic::AtomicU64::new(0),
                script: RwLock::default(),
            }),
        }
    }

    /// Stores a resource as a create now would; gives `Type/id`. An id in the text is kept.
    ///
    /// # Errors
    /// If the text is no resource.
    pub fn insert_raw(&self, json: &str) -> anyhow::Result<String> {
        self.insert_raw_at(json, self.now())
    }

    /// As [`Self::insert_raw`], with this stamp.
    ///
    /// # Errors
    /// If the text is no resource.
    pub fn insert_raw_at(&self, json: &str, last_updated: DateTime<Utc>) -> anyhow::Result<String> {
        let change = self.prepare(Op::Create(json.to_owned()))?;
        let name = name_of(&change);
        self.apply(vec![change], last_updated);
        Ok(name)
    }

    /// Stores a new resource, as [`Self::insert_raw`].
    ///
    /// # Errors
    /// If the text is no resource.
    pub fn create(&self, json: &str) -> anyhow::Result<String> {
        self.insert_raw(json)
    }

    /// Stores a new version of the resource that the text names; gives `Type/id`.
    ///
    /// # Errors
    /// If the text is no resource or names no id.
    pub fn update(&self, json: &str) -> anyhow::Result<String> {
        let pending = self.begin(vec![Op::Update(json.to_owned())])?;
        let name = pending.names().next().context("no change")?;
        pending.commit();
        Ok(name)
    }

    /// Deletes a resource.
    ///
    /// # Errors
    /// If it is not there.
    pub fn delete(&self, resource_type: &str, id: &str) -> anyhow::Result<()> {
        let live = self.read(|store| store.newest(resource_type, id).is_some_and(|record| record.body.is_some()));
        anyhow::ensure!(live, "no {resource_type}/{id} to delete");
        self.begin(vec![Op::Delete { resource_type: resource_type.to_owned(), id: id.to_owned() }])?.commit();
        Ok(())
    }

    /// Begins a transaction: its changes are stamped now and seen from [`Pending::commit`] on.
    ///
    /// # Errors
    /// If one of the texts is no resource.
    pub fn begin(&self, ops: Vec<Op>) -> anyhow::Result<Pending> {
        let stamp = instant::to_millis(self.now());
        let changes = ops.into_iter().map(|op| self.prepare(op)).collect::<anyhow::Result<_>>()?;
        Ok(Pending { upstream: self.clone(), changes, stamp })
    }

    /// The server's time, its skew included.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let clock = Arc::clone(&self.inner.clock.read().unwrap_or_else(PoisonError::into_inner));
        clock() + self.settings().clock_skew
    }

    /// Replaces the system's clock.
    pub fn set_clock(&self, clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>) {
        *self.inner.clock.write().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    /// The current resources of one type or of all, in order of creation by type. Puts together the whole text
    /// of large generated ones.
    #[must_use]
    pub fn resources(&self, resource_type: Option<&str>) -> Vec<Stored> {
        self.read(|store| {
            let wanted = store.types().filter(|(name, _)| resource_type.is_none_or(|wanted| wanted == &***name));
            let records =
                wanted.flat_map(|(_, of_type)| of_type.rows.keys().filter_map(move |pid| store.current(of_type, *pid)));
            records.filter_map(stored).collect()
        })
    }

    /// How many current resources there are of each type.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.read(|store| store.types().map(|(name, of_type)| (name.to_string(), of_type.rows.len())).collect())
    }

    /// Every version that can be or once could be seen, in the order in which they became visible.
    #[must_use]
    pub fn versions(&self) -> Vec<Version> {
        self.read(|store| {
            let numbered = store.records().iter().zip(0..);
            numbered
                .map(|(record, sequence)| Version {
                    resource_type: record.resource_type.as_ref().to_owned(),
                    id: record.id.as_ref().to_owned(),
                    version: record.version,
                    last_updated: record.last_updated,
                    visible_at: record.visible_at,
                    body: record.body.as_ref().map(crate::body::Body::text),
                    sequence,
                })
                .collect()
        })
    }

    /// Takes the server away (connections are dropped, new ones at once) or brings it back.
    pub fn set_available(&self, available: bool) {
        self.inner.available.send_replace(available);
    }

    /// Goes away for `for_` when a request first matches; that request finds the server away already.
    pub fn away_when(&self, matches: impl Fn(&RequestSeen) -> bool + Send + Sync + 'static, for_: Duration) {
        self.log().watch_for(Box::new(matches), Then::Away(for_));
    }

    /// Does something when a request first matches, before that request is answered.
    pub fn first_when(
        &self,
        matches: impl Fn(&RequestSeen) -> bool + Send + Sync + 'static,
        act: impl FnOnce() + Send + Sync + 'static,
    ) {
        self.log().watch_for(Box::new(matches), Then::Do(Box::new(act)));
    }

    /// The last 100,000 requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestSeen> {
        self.log().seen()
    }

    /// Changes the settings for all requests that come after.
    pub fn update_settings(&self, change: impl FnOnce(&mut Settings)) {
        let mut held = self.inner.settings.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut held));
    }

    /// How many access tokens its token endpoint has issued.
    #[must_use]
    pub fn tokens_issued(&self) -> usize {
        self.tokens().issued()
    }

    /// From now on none of the access tokens is good that there are.
    pub fn revoke_tokens(&self) {
        self.tokens().revoke();
    }

    /// Forgets all result lists, as if their time were over: their `next` links answer 410.
    pub fn expire_searches(&self) {
        self.lists().expire();
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.inner.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.inner.store.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn lists(&self) -> MutexGuard<'_, ResultLists> {
        self.inner.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, RequestLog> {
        self.inner.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dice(&self) -> MutexGuard<'_, FaultDice> {
        self.inner.dice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn throttle(&self) -> &Throttle {
        &self.inner.throttle
    }

    /// How many exports of its own have begun and were not ended.
    #[must_use]
    pub fn own_exports(&self) -> usize {
        self.exports().len()
    }

    pub(crate) fn begin_export(&self) -> u64 {
        let id = self.inner.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.exports().insert(id);
        id
    }

    pub(crate) fn end_export(&self, id: u64) -> bool {
        self.exports().remove(&id)
    }

    fn exports(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<u64>> {
        self.inner.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.inner.slots
    }

    /// Goes away and comes back by itself; needs a tokio runtime.
    pub(crate) fn leave_for(&self, away: Duration) {
        self.set_available(false);
        let upstream = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(away).await;
            upstream.set_available(true);
        });
    }

    pub(crate) fn availability(&self) -> watch::Receiver<bool> {
        self.inner.available.subscribe()
    }

    /// Reads one operation; what has no id gets one.
    pub(crate) fn prepare(&self, op: Op) -> anyhow::Result<Change> {
        match op {
            Op::Create(json) => {
                let incoming = Incoming::parse(self.settings().version(), &json)?;
                let id = incoming.id().map_or_else(|| self.new_id(), Arc::from);
                Ok(Change::Put { id, incoming })
            }
            Op::Update(json) => {
                let incoming = Incoming::parse(self.settings().version(), &json)?;
                let id = incoming.id().context("an update names its id")?.into();
                Ok(Change::Put { id, incoming })
            }
            Op::Delete { resource_type, id } => {
                Ok(Change::Delete { resource_type: resource_type.into(), id: id.into() })
            }
        }
    }

    /// Makes changes with one stamp visible now, all at once.
    pub(crate) fn apply(&self, changes: Vec<Change>, stamp: DateTime<Utc>) {
        self.apply_seen_at(changes, stamp, self.now());
    }

    /// As [`Self::apply`]; `visible_at` is what [`Self::versions`] will tell.
    pub(crate) fn apply_seen_at(&self, changes: Vec<Change>, stamp: DateTime<Utc>, visible_at: DateTime<Utc>) {
        let keeps_stamps = !self.settings().no_last_updated;
        let last_updated = keeps_stamps.then(|| instant::to_millis(stamp));
        let moment = Moment { last_updated, visible_at, is_indexed: true };
        self.write(|store| {
            for change in changes {
                store.apply(change, moment);
            }
        });
    }

    /// Makes a change without a stamp visible.
    pub(crate) fn apply_unstamped(&self, change: Change, visible_at: DateTime<Utc>) {
        let moment = Moment { last_updated: None, visible_at, is_indexed: true };
        self.write(|store| {
            store.apply(change, moment);
        });
    }

    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        change(&mut self.inner.store.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has `script` play at each step of every request from now on.
    pub(crate) fn set_script(&self, script: Option<Arc<dyn Script>>) {
        *self.inner.script.write().unwrap_or_else(PoisonError::into_inner) = script;
    }

    pub(crate) fn is_scripted(&self) -> bool {
        self.inner.script.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What a script has to play at this step. The store may not be held.
    pub(crate) fn play(&self, step: Step<'_>) {
        let script = self.inner.script.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(script) = script {
            script.play(step);
        }
    }

    /// Bytes of answers that went out, without their heads.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.inner.sent.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn note_sent(&self, bytes: usize) {
        self.inner.sent.fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
    }

    /// The number of one more page by offsets, from 1.
    pub(crate) fn next_page_number(&self) -> u64 {
        self.inner.pages.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
    }

    /// An id that no resource has.
    fn new_id(&self) -> Arc<str> {
        let number = self.inner.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("n{number}").into()
    }
}

/// `Type/id` of what is changed.
pub(crate) fn name_of(change: &Change) -> String {
    match change {
        Change::Put { id, incoming } => format!("{}/{id}", incoming.resource_type()),
        Change::Delete { resource_type, id } => format!("{resource_type}/{id}"),
    }
}

fn stored(record: &Record) -> Option<Stored> {
    Some(Stored {
        resource_type: record.resource_type.as_ref().to_owned(),
        id: record.id.as_ref().to_owned(),
        version: record.version,
        last_updated: record.last_updated,
        body: record.body.as_ref()?.text(),
    })
}

impl std::fmt::Debug for SampleUpstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SampleUpstream").field("settings", &self.settings()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_commit_is_stamped_before_what_was_seen_first() {
        let upstream = SampleUpstream::new(Settings::default());
        let pending =
            upstream.begin(vec![Op::Create(r#"{"resourceType":"Basic","id":"late"}"#.to_owned())]).expect("ops");
        std::thread::sleep(Duration::from_millis(3));
        upstream.create(r#"{"resourceType":"Basic","id":"early"}"#).expect("stored");
        assert_eq!(upstream.resources(Some("Basic")).len(), 1, "not seen before its commit");
        let stamp = pending.stamp();
        pending.commit();
        let versions = upstream.versions();
        assert_eq!(versions.iter().map(|version| version.id.as_str()).collect::<Vec<_>>(), ["early", "late"]);
        assert_eq!(versions[1].last_updated, Some(stamp));
        assert!(
            versions[1].last_updated < versions[0].last_updated && versions[1].visible_at >= versions[0].visible_at
        );
    }

    #[test]
    fn the_server_gives_ids_and_refuses_what_is_no_resource() {
        let upstream = SampleUpstream::new(Settings::default());
        assert_eq!(upstream.create(r#"{"resourceType":"Basic"}"#).expect("stored"), "Basic/n1");
        assert!(upstream.resources(None)[0].body.contains(r#""id":"n1""#));
        assert!(upstream.update(r#"{"resourceType":"Basic"}"#).is_err(), "an update names its id");
        assert!(upstream.delete("Basic", "n2").is_err());
        assert!(upstream.create("[]").is_err());
    }
}
