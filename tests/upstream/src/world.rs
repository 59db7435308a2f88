//! A world whose time passes only while the server is asked: at each step of each request some seconds go by, and
//! transactions begin and come to be seen. What happens when is drawn from a seed, so that a reader who asks the same
//! questions in the same order sees the same.

mod habits;
mod tick;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rng::Rng;
use crate::store::{Change, Incoming, Moment};
use crate::upstream::{SampleUpstream, Script, Step};
pub use habits::{Habits, LAG};
use tick::{BEGIN_MILLIS, at, in_ticks};
pub use tick::{TICK, ticks};

/// Decades after all else: stamps of a typing error.
const FUTURE: i64 = 463_000_000;
/// Long before all else: Patients and the Group.
const PAST: i64 = -3_000;
/// What changes, and the second one who a resource may belong to.
const TYPES: [(&str, &str); 2] = [("Observation", "performer"), ("Condition", "asserter")];
/// Patients of [`GROUP`].
pub const PATIENTS: usize = 4;
/// The Group of all patients.
pub const GROUP: &str = "all";

/// A world and the server that shows it. Clones are handles on the same one.
#[derive(Clone)]
pub struct World {
    upstream: SampleUpstream,
    state: Arc<Mutex<State>>,
}

type OnTick = Box<dyn Fn() + Send>;
type OnRequest = Box<dyn FnOnce() + Send>;

struct State {
    habits: Habits,
    seed: u64,
    rng: Rng,
    now: Arc<std::sync::atomic::AtomicI64>,
    on_tick: OnTick,
    serial: i64,
    begun: usize,
    /// What was committed, be it seen or not.
    primary: BTreeMap<Name, Known>,
    /// Resources that a transaction under way writes.
    locked: BTreeSet<Name>,
    pending: Vec<(i64, Transaction)>,
    replicating: VecDeque<(i64, Seen)>,
    indexing: VecDeque<(i64, Name)>,
    /// Ticks that may still pass while it is held still; `None` if it is not.
    still: Option<usize>,
    requests: usize,
    steps: usize,
    at_request: Option<(usize, OnRequest)>,
    reassigned: BTreeSet<(String, u64)>,
    /// Versions that had been seen when patients were first asked for what changed since some time.
    mark: Option<usize>,
    trace: Vec<String>,
}

/// What a transaction makes of resources.
type Seen = Vec<(Name, Option<Known>)>;

/// The number of its type, and its id.
type Name = (usize, String);

#[derive(Debug, Clone)]
struct Known {
    version: u64,
    stamp: Option<i64>,
    patients: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Transaction {
    stamp: i64,
    writes: Vec<(Write, Name)>,
}

#[derive(Debug, Clone)]
enum Write {
    Create(Vec<usize>),
    Update,
    Reassign(Vec<usize>),
    Delete,
}

impl World {
    /// A world of four patients and, so far, nothing else. From now on each request to `upstream` makes time pass;
    /// `on_tick` is told of each tick.
    ///
    /// # Panics
    /// If `upstream` holds something already.
    #[must_use]
    pub fn new(upstream: &SampleUpstream, habits: Habits, seed: u64, on_tick: impl Fn() + Send + 'static) -> Self {
        assert!(upstream.resources(None).is_empty(), "a world begins empty");
        let now = Arc::new(std::sync::atomic::AtomicI64::new(0));
        let (shown, ahead) = (Arc::clone(&now), habits.date_ahead);
        upstream.set_clock(Arc::new(move || at(shown.load(std::sync::atomic::Ordering::SeqCst) + ahead)));
        let state = State {
            habits,
            seed,
            rng: Rng::new(seed),
            now,
            on_tick: Box::new(on_tick),
            serial: 0,
            begun: 0,
            primary: BTreeMap::new(),
            locked: BTreeSet::new(),
            pending: Vec::new(),
            replicating: VecDeque::new(),
            indexing: VecDeque::new(),
            still: None,
            requests: 0,
            steps: 0,
            at_request: None,
            reassigned: BTreeSet::new(),
            mark: None,
            trace: Vec::new(),
        };
        let world = Self { upstream: upstream.clone(), state: Arc::new(Mutex::new(state)) };
        world.people();
        upstream.set_script(Some(Arc::new(world.clone())));
        world
    }

    /// The server goes on without its world: else each would keep the other one alive.
    pub fn leave(upstream: &SampleUpstream) {
        upstream.set_script(None);
    }

    /// Where the clock stands in the beginning, in Unix milliseconds.
    #[must_use]
    pub fn begin_millis() -> i64 {
        BEGIN_MILLIS
    }

    fn people(&self) {
        let patient = |number: usize| format!(r#"{{"resourceType":"Patient","id":"p{number}"}}"#);
        let member = |number: usize| format!(r#"{{"entity":{{"reference":"Patient/p{number}"}}}}"#);
        let members = (0..PATIENTS).map(member).collect::<Vec<_>>().join(",");
        let group =
            format!(r#"{{"resourceType":"Group","id":"{GROUP}","type":"person","actual":true,"member":[{members}]}}"#);
        for (number, text) in (0..).zip((0..PATIENTS).map(patient).chain([group])) {
            self.upstream.insert_raw_at(&text, at(PAST + number)).expect("a resource");
        }
    }

    /// Resources that were there before all else.
    pub fn load(&self, count: usize) {
        let mut state = self.state();
        let Habits { types, ties, fresh, future, unstamped, .. } = state.habits;
        for _ in 0..count {
            let name = state.new_name(types);
            let rng = &mut state.rng;
            let mut stamp = match rng.below(3) {
                _ if fresh => -1 - offset(rng, 12),
                0 => -1 - offset(rng, 600),
                1 => -200 - offset(rng, 400),
                _ => -1 - offset(rng, 14),
            };
            if ties && rng.chance(0.4) {
                stamp = -300;
            }
            let mut stamp = Some(stamp - stamp.rem_euclid(state.habits.grain));
            if state.rng.chance(unstamped) {
                stamp = None;
            }
            if future && state.rng.chance(0.15) {
                stamp = Some(FUTURE + offset(&mut state.rng, 5));
            }
            let known = Known { version: 1, stamp, patients: state.patients() };
            state.say(&format!("was loaded {} stamp {stamp:?} patients {:?}", full(&name), known.patients));
            state.primary.insert(name.clone(), known.clone());
            self.put(&name, &known, true);
        }
    }

    /// Lets time pass between two exports.
    pub fn pass(&self, ticks: i64) {
        let mut state = self.state();
        for _ in 0..ticks {
            self.tick(&mut state);
            self.may_begin(&mut state);
        }
    }

    /// No transaction begins any more, and all that were begun come to be seen.
    pub fn rest(&self) {
        let mut state = self.state();
        state.habits.churn = 0.0;
        let Habits { delay, replica, index_lag, .. } = state.habits;
        state.say("comes to rest");
        for _ in 0..delay + replica + index_lag + 2 {
            self.tick(&mut state);
        }
    }

    /// Holds time still but for so many ticks, however much is asked.
    pub fn hold(&self, ticks: usize) {
        self.state().still = Some(ticks);
    }

    /// Time passes again.
    pub fn go_on(&self) {
        let mut state = self.state();
        if state.still.take().is_some() {
            state.say("goes on");
        }
    }

    /// Does something when the request of this number from now on arrives, counted from 1 while time passes.
    pub fn at_request(&self, number: usize, act: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        let number = state.requests + number;
        state.at_request = Some((number, Box::new(act)));
    }

    /// Requests that came so far while time passed.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// Steps of requests so far, whether time passed or not: they grow as long as something is asked.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.state().steps
    }

    /// Transactions that were begun so far.
    #[must_use]
    pub fn transactions(&self) -> usize {
        self.state().begun
    }

    /// `Type/id` and the versions in which a resource came to other patients.
    #[must_use]
    pub fn reassigned(&self) -> BTreeSet<(String, u64)> {
        self.state().reassigned.clone()
    }

    /// How many versions had been seen when patients were first asked for what changed since some time.
    #[must_use]
    pub fn changes_asked_for_at(&self) -> Option<usize> {
        self.state().mark
    }

    /// Adds a line to the story.
    pub fn say(&self, text: &str) {
        self.state().say(text);
    }

    /// All that was asked and all that happened, in order; times are in ticks.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens between two steps of the reader.
    fn pass_some(&self, state: &mut State) {
        let ticks = if let Some(left) = &mut state.still {
            let ticks = usize::from(*left > 0 && state.rng.chance(0.3));
            *left -= ticks;
            ticks
        } else {
            let (ticks, pace) = (*state.rng.pick(&[0, 0, 1, 1, 2]), state.habits.pace);
            if state.rng.chance(pace) { ticks } else { 0 }
        };
        for _ in 0..ticks {
            self.tick(state);
            self.may_begin(state);
        }
    }

    fn tick(&self, state: &mut State) {
        let now = state.now.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        (state.on_tick)();
        let (mut due, pending): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(|(at, _)| *at <= now);
        state.pending = pending;
        state.rng.shuffle(&mut due);
        for (_, transaction) in due {
            self.commit(state, transaction);
        }
        while state.replicating.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, seen)) = state.replicating.pop_front() else { break };
            self.show(state, seen);
        }
        while state.indexing.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, (kind, id))) = state.indexing.pop_front() else { break };
            self.upstream.write(|store| store.index(TYPES[kind].0, &id));
        }
    }

    fn may_begin(&self, state: &mut State) {
        let churn = state.habits.churn;
        if state.rng.chance(churn) && state.begun < state.habits.most_transactions {
            state.begun += 1;
            self.begin(state);
        }
    }

    fn begin(&self, state: &mut State) {
        let free: Vec<Name> = state.primary.keys().filter(|name| !state.locked.contains(*name)).cloned().collect();
        let now = state.now();
        let mut stamp = now - now.rem_euclid(state.habits.grain);
        let Habits { types, ties, future, .. } = state.habits;
        let kind = state.kind();
        let mut writes = Vec::new();
        if kind == 1 || free.is_empty() {
            let many = if ties { *state.rng.pick(&[1, 1, 3]) } else { 1 };
            for _ in 0..many {
                let name = state.new_name(types);
                writes.push((Write::Create(state.patients()), name));
            }
            if future && state.rng.chance(0.2) {
                stamp = FUTURE + offset(&mut state.rng, 5);
            }
        } else {
            let choices: &[usize] = if ties { &[1, 1, 2, 5] } else { &[1, 1, 2] };
            let many = *state.rng.pick(choices);
            let mut names = free;
            state.rng.shuffle(&mut names);
            for name in names.into_iter().take(many) {
                let write = match kind {
                    0 => Write::Update,
                    2 => Write::Delete,
                    _ => Write::Reassign(state.patients()),
                };
                writes.push((write, name));
            }
        }
        let most = usize::try_from(state.habits.delay).unwrap_or(0);
        let most = if state.rng.chance(0.5) { most.min(1) } else { most };
        let delay = offset(&mut state.rng, most + 1);
        let transaction = Transaction { stamp, writes };
        if delay == 0 {
            return self.commit(state, transaction);
        }
        if !state.habits.regress {
            state.locked.extend(transaction.writes.iter().map(|(_, name)| name.clone()));
        }
        let names = transaction.writes.iter().map(|(write, name)| format!("{write:?} {}", full(name)));
        let names = names.collect::<Vec<_>>().join(", ");
        state.say(&format!("begins {names}, stamp {stamp}, committed at {}", now + delay));
        state.pending.push((now + delay, transaction));
    }

    fn commit(&self, state: &mut State, transaction: Transaction) {
        let mut seen = Vec::new();
        for (write, name) in transaction.writes {
            state.locked.remove(&name);
            let before = state.primary.get(&name).cloned();
            let stamp = Some(transaction.stamp);
            let after = match (&write, before) {
                (Write::Create(patients), _) => Some(Known { version: 1, stamp, patients: patients.clone() }),
                (_, None) => continue,
                (Write::Delete, Some(_)) => None,
                (Write::Update | Write::Reassign(_), Some(before)) => {
                    let patients = if let Write::Reassign(patients) = &write { patients } else { &before.patients };
                    let stamp = before.stamp.and(stamp);
                    Some(Known { version: before.version + 1, stamp, patients: patients.clone() })
                }
            };
            let version = after.as_ref().map_or(0, |after| after.version);
            if matches!(write, Write::Reassign(_)) {
                state.reassigned.insert((full(&name), version));
            }
            state.say(&format!("commits {write:?} {} v{version}, stamp {}", full(&name), transaction.stamp));
            match &after {
                Some(after) => drop(state.primary.insert(name.clone(), after.clone())),
                None => drop(state.primary.remove(&name)),
            }
            seen.push((name, after));
        }
        if state.habits.replica == 0 {
            self.show(state, seen);
        } else {
            let at = state.now() + state.habits.replica;
            state.replicating.push_back((at, seen));
        }
    }

    /// From now on searches find it so.
    fn show(&self, state: &mut State, seen: Seen) {
        for (name, known) in seen {
            if state.habits.replica > 0 {
                state.say(&format!("shows {} {known:?}", full(&name)));
            }
            match known {
                Some(known) => self.put(&name, &known, state.habits.index_lag == 0),
                None => {
                    self.change(Change::Delete { resource_type: TYPES[name.0].0.into(), id: name.1.as_str().into() });
                }
            }
            if state.habits.index_lag > 0 {
                let at = state.now() + state.habits.index_lag;
                state.indexing.push_back((at, name));
            }
        }
    }

    fn put(&self, name: &Name, known: &Known, is_indexed: bool) {
        let incoming =
            Incoming::parse(self.upstream.settings().version(), &text(name, &known.patients)).expect("a resource");
        let (last_updated, visible_at) = (known.stamp.map(at), self.upstream.now());
        let change = Change::Put { id: name.1.as_str().into(), incoming };
        self.upstream.write(|store| {
            let version = store.apply(change, Moment { last_updated, visible_at, is_indexed });
            assert_eq!(version.map(|record| record.version), Some(known.version), "{name:?}");
        });
    }

    fn change(&self, change: Change) {
        let visible_at = self.upstream.now();
        let moment = Moment { last_updated: Some(visible_at), visible_at, is_indexed: true };
        self.upstream.write(|store| {
            store.apply(change, moment);
        });
    }
}

impl Script for World {
    fn play(&self, step: Step<'_>) {
        let mut state = self.state();
        state.steps += 1;
        match step {
            Step::Arrived { path: "metadata", .. } => {}
            Step::Arrived { path, query } => {
                if state.still.is_none() {
                    state.requests += 1;
                    // By the number of the request: another order of requests changes little else.
                    let number = state.requests as u64;
                    state.rng = Rng::new(state.seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
                    let by_patient =
                        query.contains("=p") || query.contains("Patient%2Fp") || query.contains("Patient/p");
                    if state.mark.is_none() && by_patient && query.contains("_lastUpdated=ge") {
                        state.mark = Some(self.upstream.read(|store| store.records().len()));
                    }
                    let is_due = state.at_request.as_ref().is_some_and(|(number, _)| *number == state.requests);
                    if let Some((_, act)) = state.at_request.take_if(|_| is_due) {
                        act();
                    }
                    self.pass_some(&mut state);
                    state.say(&format!("    {path}?{}", in_ticks(query)));
                } else if !path.starts_with("Group") {
                    // Whoever kicks off does not wait for long until it is seen that the Group is there.
                    self.pass_some(&mut state);
                }
            }
            Step::Found => {
                let race = state.habits.race;
                if state.still.is_none() && state.rng.chance(race) {
                    self.pass_some(&mut state);
                }
            }
            Step::Loaded(page) => {
                if state.still.is_none() {
                    state.say(&format!("    -> {page}"));
                }
            }
            Step::Answered => {
                if state.still.is_none() && state.rng.chance(0.5) {
                    self.pass_some(&mut state);
                }
            }
        }
    }
}

impl State {
    fn now(&self) -> i64 {
        self.now.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn say(&mut self, text: &str) {
        let line = format!("{:5}  {text}", self.now());
        self.trace.push(line);
    }

    fn new_name(&mut self, types: usize) -> Name {
        self.serial += 1;
        let number = *self.rng.pick(&[self.serial, self.serial, 5_000 - self.serial]);
        (self.rng.below(types), format!("{number:04}"))
    }

    fn patients(&mut self) -> Vec<usize> {
        let first = self.rng.below(PATIENTS);
        if self.rng.below(3) < 2 {
            return vec![first];
        }
        vec![first, (first + 1 + self.rng.below(PATIENTS - 1)) % PATIENTS]
    }

    /// The place of a kind of write in the mix.
    fn kind(&mut self) -> usize {
        let mut drawn = self.rng.below(self.habits.mix.iter().sum());
        for (kind, weight) in self.habits.mix.into_iter().enumerate() {
            if drawn < weight {
                return kind;
            }
            drawn -= weight;
        }
        0
    }
}

fn offset(rng: &mut Rng, bound: usize) -> i64 {
    i64::try_from(rng.below(bound)).unwrap_or(0)
}

fn full((kind, id): &Name) -> String {
    format!("{}/{id}", TYPES[*kind].0)
}

fn text((kind, id): &Name, patients: &[usize]) -> String {
    let (name, second) = TYPES[*kind];
    let reference = |patient: &usize| format!(r#"{{"reference":"Patient/p{patient}"}}"#);
    let subject = patients.first().map(reference).unwrap_or_default();
    let also = patients.get(1).map(reference);
    let also = also.map(|also| if *kind == 0 { format!("[{also}]") } else { also });
    let also = also.map(|also| format!(r#","{second}":{also}"#)).unwrap_or_default();
    format!(r#"{{"resourceType":"{name}","id":"{id}","subject":{subject}{also}}}"#)
}
