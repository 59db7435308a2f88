//! Changes a sample upstream while it is exported: updates, creations, deletions, and now and then a transaction that
//! is seen seconds after its stamp.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use sample_upstream::{Op, Pending, SampleUpstream};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::expected::type_of;
use crate::random::Random;

/// Practitioners that nobody refers to at first.
const SPARE: usize = 40;
/// Resources of a type that are never deleted, so that no type runs out.
const KEPT: usize = 10;
/// How long after its stamp a late transaction is seen.
const LATE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(4)];

/// A writer at work.
pub(crate) struct Writer {
    stop: CancellationToken,
    working: JoinHandle<anyhow::Result<Writes>>,
}

/// How often the writer did what.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Writes {
    pub(crate) updated: usize,
    pub(crate) created: usize,
    pub(crate) deleted: usize,
    /// Those among them that were seen late.
    pub(crate) late: usize,
}

impl Writer {
    /// Begins to change resources of any type but Group, so many in a second.
    pub(crate) fn start(upstream: &SampleUpstream, seed: u64, per_second: u32) -> anyhow::Result<Self> {
        for number in 0..SPARE {
            upstream.create(&format!(r#"{{"resourceType":"Practitioner","id":"spare-{number}"}}"#))?;
        }
        let stop = CancellationToken::new();
        let mut work = Work::new(upstream, seed);
        let stopped = stop.clone();
        let working = tokio::spawn(async move {
            let mut clock = tokio::time::interval(Duration::from_secs(1) / per_second);
            while stopped.run_until_cancelled(clock.tick()).await.is_some() {
                work.change_something()?;
            }
            Ok(work.writes)
        });
        Ok(Self { stop, working })
    }

    /// Ends all changes. Transactions that were not seen yet never will be.
    pub(crate) async fn stop(self) -> anyhow::Result<Writes> {
        self.stop.cancel();
        self.working.await?
    }
}

struct Work {
    upstream: SampleUpstream,
    random: Random,
    /// What can be changed, by its type: `Type/id` and the text.
    live: BTreeMap<String, Vec<(String, Arc<str>)>>,
    /// What a transaction that cannot be seen yet has changed: no other may before it ends.
    locked: BTreeSet<String>,
    late: Vec<Late>,
    made: usize,
    writes: Writes,
}

struct Late {
    due: Instant,
    pending: Pending,
    changed: Vec<Changed>,
}

/// A resource's name and its new text, if it has one.
type Changed = (String, Option<Arc<str>>);

impl Work {
    fn new(upstream: &SampleUpstream, seed: u64) -> Self {
        let mut live: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for stored in upstream.resources(None).into_iter().filter(|stored| stored.resource_type != "Group") {
            let name = format!("{}/{}", stored.resource_type, stored.id);
            live.entry(stored.resource_type).or_default().push((name, stored.body));
        }
        Self {
            upstream: upstream.clone(),
            random: Random::new(seed),
            live,
            locked: BTreeSet::new(),
            late: Vec::new(),
            made: 0,
            writes: Writes::default(),
        }
    }

    fn change_something(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(due) = self.late.iter().position(|late| late.due <= now) {
            let Late { pending, changed, .. } = self.late.swap_remove(due);
            self.locked.retain(|name| changed.iter().all(|(own, _)| own != name));
            pending.commit();
            self.note(changed);
        }
        if !self.random.percent(5) {
            let (op, changed) = self.change()?;
            self.upstream.begin(vec![op])?.commit();
            self.note(vec![changed]);
            return Ok(());
        }
        let (mut ops, mut all) = (Vec::new(), Vec::new());
        for _ in 0..=self.random.below(3) {
            let (op, changed) = self.change()?;
            self.locked.insert(changed.0.clone());
            ops.push(op);
            all.push(changed);
        }
        self.writes.late += ops.len();
        let pending = self.upstream.begin(ops)?;
        let due = now + self.random.between(LATE[0], LATE[1]);
        self.late.push(Late { due, pending, changed: all });
        Ok(())
    }

    fn change(&mut self) -> anyhow::Result<(Op, Changed)> {
        match self.random.below(100) {
            0..25 => {
                self.writes.created += 1;
                let (name, text) = self.invent();
                Ok((Op::Create(text.clone()), (name, Some(text.into()))))
            }
            25..40 => {
                self.writes.deleted += 1;
                let (name, _) = self.pick(|_, held| held > KEPT)?;
                let (resource_type, id) = name.split_once('/').context("a name")?;
                let op = Op::Delete { resource_type: resource_type.to_owned(), id: id.to_owned() };
                Ok((op, (name, None)))
            }
            _ => {
                self.writes.updated += 1;
                let (name, text) = self.pick(|_, _| true)?;
                let text = if type_of(&name) == "Observation" { self.amended(&text)? } else { text };
                Ok((Op::Update(text.to_string()), (name, Some(text))))
            }
        }
    }

    /// A resource that no open transaction has changed, of one of the wanted types, each as likely as the others: by
    /// its name and by how many there are.
    fn pick(&mut self, wanted: impl Fn(&str, usize) -> bool) -> anyhow::Result<(String, Arc<str>)> {
        let types: Vec<_> = self.live.iter().filter(|(name, held)| wanted(name, held.len())).collect();
        for _ in 0..10_000 {
            let (_, held) =
                types.get(self.random.below(types.len())).context("nothing is left that could be changed")?;
            match held.get(self.random.below(held.len())) {
                Some((name, text)) if !self.locked.contains(name) => return Ok((name.clone(), Arc::clone(text))),
                Some(_) | None => {}
            }
        }
        anyhow::bail!("all is locked")
    }

    /// An observation as somebody else reports it: mostly somebody whom nobody has referred to before.
    fn amended(&mut self, text: &str) -> anyhow::Result<Arc<str>> {
        let mut value: Value = serde_json::from_str(text)?;
        value["status"] = "amended".into();
        value["performer"] = json!([{ "reference": self.practitioner() }]);
        Ok(value.to_string().into())
    }

    fn practitioner(&mut self) -> String {
        format!("Practitioner/spare-{}", self.random.below(SPARE))
    }

    /// A resource that there never was.
    fn invent(&mut self) -> (String, String) {
        self.made += 1;
        let id = format!("made-{}", self.made);
        let patient =
            self.pick(|name, _| name == "Patient").map_or_else(|_| "Patient/none".to_owned(), |found| found.0);
        let (resource_type, rest) = match self.random.below(10) {
            0 => ("Patient", json!({ "active": true })),
            1 => ("Practitioner", json!({ "active": true })),
            2 | 3 => ("Condition", json!({ "subject": { "reference": patient } })),
            4 | 5 => ("Encounter", json!({ "status": "planned", "subject": { "reference": patient } })),
            _ => {
                let performer = json!([{ "reference": self.practitioner() }]);
                ("Observation", json!({ "subject": { "reference": patient }, "performer": performer }))
            }
        };
        let mut resource = rest;
        resource["resourceType"] = resource_type.into();
        resource["id"] = id.as_str().into();
        (format!("{resource_type}/{id}"), resource.to_string())
    }

    /// Remembers what can be seen now.
    fn note(&mut self, changed: Vec<Changed>) {
        for (name, text) in changed {
            let held = self.live.entry(type_of(&name).to_owned()).or_default();
            let known = held.iter().position(|(own, _)| *own == name);
            match (known, text) {
                (Some(known), Some(text)) => held[known].1 = text,
                (Some(known), None) => drop(held.swap_remove(known)),
                (None, Some(text)) => held.push((name, text)),
                (None, None) => {}
            }
        }
    }
}
