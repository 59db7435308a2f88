//! Somebody who creates, updates and deletes resources of a server while it is exported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::DateTime;
use http::{Method, header};
use offtake::{Clock as _, SystemClock};
use sample_upstream::Version;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http::Http;
use crate::stored::{self, read_each};

/// Writes in a second, all workers together.
pub(crate) const PER_SECOND: usize = 20;
/// Each has resources of its own, and waits for one answer at a time.
const WORKERS: usize = 10;
/// Resources of a type that a worker never deletes, so that no type runs out.
const KEPT: usize = 2;
/// Larger ones are left alone: to write one of them takes a second.
const LARGEST: usize = 16 << 10;
/// Practitioners that nobody refers to at first, for each worker.
const SPARE: usize = 4;
/// Versions asked for in one batch.
const BATCH: usize = 200;
/// Pause between two looks at how much was written.
const PAUSE: Duration = Duration::from_millis(20);

/// A write that was answered.
pub(crate) struct Write {
    resource_type: String,
    id: String,
    /// `None`: it was deleted.
    version: Option<u64>,
    pub(crate) answered: Instant,
}

/// A writer at work.
pub(crate) struct Writer {
    stop: CancellationToken,
    written: Arc<AtomicUsize>,
    began: Instant,
    working: Vec<JoinHandle<anyhow::Result<Vec<Write>>>>,
}

impl Writer {
    /// Begins to change what is there after these versions, but for Groups. `round` makes its ids its own.
    pub(crate) fn start(base: &str, versions: &[Version], round: usize) -> Self {
        let (stop, written) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let live = live(versions);
        let worker = |number| {
            let own = |(position, held): (usize, &Held)| (position % WORKERS == number).then(|| held.clone());
            let types =
                live.iter().map(|(name, held)| (name.clone(), held.iter().enumerate().filter_map(own).collect()));
            let mut work = Work {
                http: Http::new(),
                base: base.to_owned(),
                types: types.collect(),
                called: format!("made-{round}-{number}"),
                made: 0,
                writes: Vec::new(),
            };
            let (stop, written) = (stop.clone(), Arc::clone(&written));
            tokio::spawn(async move {
                let period = Duration::from_secs(WORKERS as u64) / u32::try_from(PER_SECOND)?;
                let first = tokio::time::Instant::now() + period * u32::try_from(number)? / u32::try_from(WORKERS)?;
                let mut clock = tokio::time::interval_at(first, period);
                while stop.run_until_cancelled(clock.tick()).await.is_some() {
                    work.change_something().await?;
                    written.fetch_add(1, Ordering::Relaxed);
                }
                Ok(work.writes)
            })
        };
        let working = (0..WORKERS).map(worker).collect();
        Self { stop, written, began: Instant::now(), working }
    }

    /// Waits until so much more was written.
    pub(crate) async fn writes(&self, count: usize) -> anyhow::Result<()> {
        let enough = self.written.load(Ordering::Relaxed) + count;
        while self.written.load(Ordering::Relaxed) < enough {
            ensure!(self.working.iter().all(|worker| !worker.is_finished()), "a writer has ended");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Ends it: what it has written, in the order of the answers, and how much in a second.
    pub(crate) async fn stop(self) -> anyhow::Result<(Vec<Write>, f64)> {
        self.stop.cancel();
        let mut writes = Vec::new();
        for worker in self.working {
            writes.extend(worker.await??);
        }
        writes.sort_by_key(|write| write.answered);
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let per_second = writes.len() as f64 / self.began.elapsed().as_secs_f64();
        Ok((writes, per_second))
    }
}

/// An id, and the text of the resource.
type Held = (String, Arc<str>);

/// What can be written to, by its type.
fn live(versions: &[Version]) -> BTreeMap<String, Vec<Held>> {
    let mut last: BTreeMap<(&str, &str), Option<&Arc<str>>> = BTreeMap::new();
    for version in versions.iter().filter(|version| version.resource_type != "Group") {
        last.insert((&version.resource_type, &version.id), version.body.as_ref());
    }
    let mut live: BTreeMap<String, Vec<Held>> = BTreeMap::new();
    for ((name, id), body) in last {
        if let Some(body) = body.filter(|body| body.len() <= LARGEST) {
            live.entry(name.to_owned()).or_default().push((id.to_owned(), Arc::clone(body)));
        }
    }
    live
}

struct Work {
    http: Http,
    base: String,
    types: Vec<(String, Vec<Held>)>,
    /// What the ids of new resources begin with.
    called: String,
    made: usize,
    writes: Vec<Write>,
}

impl Work {
    async fn change_something(&mut self) -> anyhow::Result<()> {
        let number = self.made;
        self.made += 1;
        if number < SPARE {
            let id = self.spare(number);
            return self.put("Practitioner", &id, json!({ "active": true })).await;
        }
        self.types.retain(|(_, held)| !held.is_empty());
        let (round, of_types) = (number / self.types.len().max(1), self.types.len());
        let (name, held) = self.types.get_mut(number % of_types.max(1)).context("nothing is left")?;
        let (name, position) = (name.clone(), number * 7919 % held.len());
        match (number + round) % 5 {
            0 => {
                let (_, text) = held[position].clone();
                let id = format!("{}-{number}", self.called);
                let created = serde_json::from_str(&text)?;
                self.put(&name, &id, created).await?;
                self.types[number % of_types].1.push((id, text));
                Ok(())
            }
            1 if held.len() > KEPT => {
                let (id, _) = held.swap_remove(position);
                self.delete(&name, &id).await
            }
            _ => {
                let (id, text) = held[position].clone();
                let mut changed: Value = serde_json::from_str(&text)?;
                // Every type has this element.
                changed["language"] = format!("x-{number}").into();
                if name == "Observation" {
                    // Somebody whom nobody has referred to before, or is no longer there.
                    let performer = format!("Practitioner/{}", self.spare(number % SPARE));
                    changed["performer"] = json!([{ "reference": performer }]);
                }
                self.put(&name, &id, changed).await
            }
        }
    }

    fn spare(&self, number: usize) -> String {
        format!("{}-spare-{number}", self.called)
    }

    async fn put(&mut self, name: &str, id: &str, mut resource: Value) -> anyhow::Result<()> {
        resource["resourceType"] = name.into();
        resource["id"] = id.into();
        let version = put(&self.http, &self.base, &resource).await?;
        self.note(name, id, Some(version));
        Ok(())
    }

    async fn delete(&mut self, name: &str, id: &str) -> anyhow::Result<()> {
        let answer = self.http.send(Method::DELETE, &format!("{}/{name}/{id}", self.base), &[], "").await?;
        let said = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status.is_success(), "to delete {name}/{id} was answered with {}: {said}", answer.status);
        self.note(name, id, None);
        Ok(())
    }

    fn note(&mut self, name: &str, id: &str, version: Option<u64>) {
        let (resource_type, id) = (name.to_owned(), id.to_owned());
        self.writes.push(Write { resource_type, id, version, answered: Instant::now() });
    }
}

/// Writes a resource by its id, and gives the number of its version.
pub(crate) async fn put(http: &Http, base: &str, resource: &Value) -> anyhow::Result<u64> {
    let (name, id) = (resource["resourceType"].as_str().unwrap_or("?"), resource["id"].as_str().unwrap_or("?"));
    let headers = [("Content-Type", "application/fhir+json"), ("Prefer", "return=minimal")];
    let answer = http.send(Method::PUT, &format!("{base}/{name}/{id}"), &headers, resource.to_string()).await?;
    let said = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status.is_success(), "to write {name}/{id} was answered with {}: {said}", answer.status);
    let version = answer.headers.get(header::ETAG).context("no ETag")?.to_str()?;
    Ok(version.trim_start_matches("W/").trim_matches('"').parse()?)
}

/// The versions that were written, each as the server has it.
pub(crate) async fn versions(http: &Http, base: &str, writes: &[Write]) -> anyhow::Result<Vec<Version>> {
    let now = DateTime::from_timestamp_millis(SystemClock.unix_millis()).context("a time")?;
    let read_at = Instant::now();
    let mut versions = Vec::new();
    for writes in writes.chunks(BATCH) {
        let place = |Write { resource_type, id, version, .. }: &Write| {
            version.map(|version| format!("{resource_type}/{id}/_history/{version}"))
        };
        let places: Vec<_> = writes.iter().filter_map(place).collect();
        let mut read = read_each(http, base, &places).await?.into_iter();
        for write in writes {
            versions.push(match write.version {
                Some(_) => stored::version(&read.next().context("a version")?)?,
                // When it went is not told: before the answer, that is.
                None => Version {
                    resource_type: write.resource_type.clone(),
                    id: write.id.clone(),
                    version: 0,
                    last_updated: Some(now - read_at.saturating_duration_since(write.answered)),
                    visible_at: chrono::DateTime::UNIX_EPOCH,
                    body: None,
                    sequence: 0,
                },
            });
        }
    }
    Ok(versions)
}
