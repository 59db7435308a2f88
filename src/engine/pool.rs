//! Slices that wait for a reader. Windows are cut from what is left of a step one after another, as long as the
//! density seen so far lets them fit one page: a good cut costs no search.

mod density;

use std::collections::{BTreeMap, HashMap, VecDeque};

use density::{Density, ratio};

use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::plan::slice::{Grid, Scope, Slice};

/// In which order slices are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Any,
    /// Those of one type one after another, from early to late: what moves, moves ahead of the reader.
    Ascending,
}

/// What the pool has to know of a type before it cuts a slice for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cutting {
    /// Resources that one page holds.
    pub(super) capacity: u32,
    /// Searches that can be under way at the same time.
    pub(super) readers: usize,
    pub(super) grid: Grid,
}

/// A slice to be read, and what is expected of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) slice: Slice,
    pub(super) start: Start,
    /// Resources that a page held when it was cut: it is asked for as much, whatever others have shown since.
    pub(super) capacity: u32,
    /// So many cuts in succession have left most of what there was in one half.
    uneven_cuts: u8,
    /// The other half of what it was cut from, and how many both hold: once this one is counted, both are.
    sibling: Option<(Slice, u64)>,
}

impl Task {
    /// A slice that is read by itself.
    pub(super) fn alone(slice: Slice) -> Self {
        Self { slice, start: Start::Page, capacity: 0, uneven_cuts: 0, sibling: None }
    }

    /// The same with the cut that it comes from, of which one half holds `part`.
    fn uneven_cuts(&self, part: Option<u64>) -> u8 {
        let both = self.sibling.as_ref().map(|(_, both)| *both);
        if both.zip(part).is_some_and(|(both, part)| is_most(part, both)) {
            self.uneven_cuts.saturating_add(1)
        } else {
            0
        }
    }
}

/// What a slice is first asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Its page: it fits one, as far as is known.
    Page,
    /// Its page too, but that it fits one is an estimate: where such pages are often thrown away, its number.
    Guess,
    /// Its number: it was cut in the dark, so that to count it is cheaper than to throw a page away.
    Count,
    /// Where its resources lie, as it holds some more than a page.
    Look,
}

/// An instant at which much of what a page holds was changed, and how much of it: a transaction stamps all it writes alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowd {
    pub(super) at: Millis,
    pub(super) resources: u64,
}

impl Crowd {
    /// The one instant that at least a third of these stamps share.
    pub(super) fn among(stamps: impl Iterator<Item = Millis>, grid: Grid) -> Option<Self> {
        let mut numbers: HashMap<i64, u64> = HashMap::new();
        let mut all = 0_u64;
        for stamp in stamps {
            *numbers.entry(grid.floor(stamp.0)).or_default() += 1;
            all += 1;
        }
        // The earlier one of two that hold as many.
        let (at, resources) = numbers.into_iter().max_by_key(|(at, number)| (*number, std::cmp::Reverse(*at)))?;
        (resources > 1 && resources.saturating_mul(3) >= all).then_some(Self { at: Millis(at), resources })
    }
}

/// More than a page, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excess {
    /// How many there are at most.
    pub(super) total: Option<u64>,
    pub(super) crowd: Option<Crowd>,
}

impl Excess {
    /// What is known without a page.
    pub(super) fn counted(total: Option<u64>) -> Self {
        Self { total, crowd: None }
    }
}

/// Slices that wait, and what is left of those that did not fit a page.
#[derive(Debug)]
pub(super) struct Pool {
    /// What is left of the steps, by type and in ascending order.
    waiting: BTreeMap<ResourceType, VecDeque<Segment>>,
    busy: HashMap<ResourceType, usize>,
    densities: HashMap<ResourceType, Density>,
    /// How many of a type there are, as far as is known.
    expected: HashMap<ResourceType, u64>,
    turn: Option<ResourceType>,
    order: Order,
}

/// What is left of a step, and how many it holds at most if that is known.
#[derive(Debug)]
struct Segment {
    slice: Slice,
    known: Option<u64>,
    /// So many cuts in succession have left most of what there was in it.
    uneven_cuts: u8,
    /// So many of it are for each reader: it is the last of what waits.
    share: Option<f64>,
    /// Nothing of it was asked for.
    is_new: bool,
}

impl Segment {
    fn of(slice: Slice, known: Option<u64>) -> Self {
        Self { slice, known, uneven_cuts: 0, share: None, is_new: false }
    }
}

/// After so many uneven cuts what is left is taken to lie close together.
const CROWDED_AFTER: u8 = 3;
/// More pages than these are not looked at to be cut.
const PAGES_LOOKED_AT: u64 = 4;
/// Resources that are looked at, by their stamps alone.
pub(super) const LOOKED_AT: u32 = 50;

impl Pool {
    pub(super) fn new(slices: Vec<Slice>, order: Order) -> Self {
        let mut waiting: BTreeMap<_, VecDeque<_>> = BTreeMap::new();
        for slice in slices {
            waiting
                .entry(slice.resource_type)
                .or_default()
                .push_back(Segment { is_new: true, ..Segment::of(slice, None) });
        }
        Self { waiting, busy: HashMap::new(), densities: HashMap::new(), expected: HashMap::new(), turn: None, order }
    }

    /// So many of a type are expected in so long a time.
    pub(super) fn expect(&mut self, resource_type: ResourceType, count: u64, millis: i64) {
        self.expected.insert(resource_type, count);
        self.densities.insert(resource_type, Density::of(count, millis));
    }

    /// The next slice to be read: of the type that was last served, so that few files are open at a time.
    pub(super) fn next(&mut self, cutting: impl Fn(ResourceType) -> Cutting) -> Option<Task> {
        let is_free = |name: &ResourceType| match self.order {
            Order::Any => true,
            Order::Ascending => self.busy.get(name).is_none_or(|busy| *busy == 0),
        };
        let turn = self.turn.filter(|name| self.waiting.contains_key(name) && is_free(name));
        let name = turn.or_else(|| self.waiting.keys().copied().find(is_free))?;
        let others = self.waiting.len() - 1;
        let queue = self.waiting.get_mut(&name)?;
        let density = self.densities.get(&name).copied();
        let is_last = others == 0 && queue.len() == 1 && self.order == Order::Any;
        let expected = self.expected.get(&name).copied();
        let task = queue.pop_front().map(|mut segment| {
            // Of what all together fits one page, a part does.
            if segment.is_new {
                segment.known = expected.filter(|count| *count <= u64::from(cutting(name).capacity));
            }
            let (task, rest) = cut(segment, density, cutting(name), is_last);
            if let Some(rest) = rest {
                queue.push_front(rest);
            }
            task
        });
        if queue.is_empty() {
            self.waiting.remove(&name);
        }
        self.turn = Some(name);
        *self.busy.entry(name).or_default() += 1;
        task
    }

    /// A slice was read and held `count`.
    pub(super) fn read(&mut self, task: Task, count: u64, grid: Grid) {
        if let Scope::Window(window) = &task.slice.scope {
            let millis = length(window.span(grid));
            let density = self.densities.entry(task.slice.resource_type).or_insert_with(|| Density::of(count, millis));
            // Many at one instant say nothing of what lies before and after it.
            if window.can_be_cut(grid) || ratio(count, millis) < density.per_milli {
                density.learn(count, millis);
            }
        }
        self.done(task, Some(count));
    }

    /// A slice holds more than a page. It takes its place again, to be read in parts.
    pub(super) fn put_back(&mut self, task: Task, excess: Excess, cutting: Cutting) {
        let resource_type = task.slice.resource_type;
        let slice = task.slice.clone();
        let Excess { total, crowd } = excess;
        let uneven_cuts = task.uneven_cuts(total);
        // First what lies behind it, then itself.
        self.done(task, total);
        let queue = self.waiting.entry(resource_type).or_default();
        if let Some([first, second]) = slice.halves() {
            queue.push_front(Segment::of(second, None));
            queue.push_front(Segment::of(first, None));
            return;
        }
        let Scope::Window(window) = &slice.scope else {
            queue.push_front(Segment::of(slice, None));
            return;
        };
        let with = |window| Slice { scope: Scope::Window(window), ..slice.clone() };
        if let Some((crowd, parts)) = crowd.and_then(|crowd| Some((crowd, window.around(crowd.at, cutting.grid)?))) {
            // Both what lies before and what lies after it hold no more than what is left.
            let rest = total.map(|total| total.saturating_sub(crowd.resources));
            for window in parts.into_iter().rev() {
                let known = rest.filter(|_| !window.contains(crowd.at));
                queue.push_front(Segment { uneven_cuts: CROWDED_AFTER, ..Segment::of(with(window), known) });
            }
            return;
        }
        let millis = length(window.span(cutting.grid));
        let capacity = u64::from(cutting.capacity);
        let known = total.filter(|total| *total > capacity);
        // One that holds a little more than a page says little of the density; of one that was not counted nothing is known.
        let total = total.unwrap_or(4 * capacity).max(capacity + 1);
        let density = self.densities.entry(resource_type).or_insert_with(|| Density::of(total, millis));
        density.learn(total, millis);
        density.per_milli = density.per_milli.max(ratio(total, millis));
        let halves = window.carve(millis / 2, cutting.grid).filter(|_| known.is_none() && density.irregular);
        let Some((first, rest)) = halves else {
            return queue.push_front(Segment { uneven_cuts, ..Segment::of(slice, known) });
        };
        // Neither is known how many there are, nor can it be estimated: as a whole it would be asked for again and again.
        for window in [rest, first] {
            queue.push_front(Segment::of(with(window), None));
        }
    }

    /// A slice that would fit one page is to be read in parts all the same: both halves take its place.
    pub(super) fn halve(&mut self, task: Task, grid: Grid) {
        let slice = task.slice.clone();
        self.done(task, None);
        let parts = slice.halves().or_else(|| {
            let Scope::Window(window) = &slice.scope else { return None };
            let (first, second) = window.carve(length(window.span(grid)) / 2, grid)?;
            Some([first, second].map(|window| Slice { scope: Scope::Window(window), ..slice.clone() }))
        });
        let parts = parts.map_or_else(|| vec![slice.clone()], Vec::from);
        let queue = self.waiting.entry(slice.resource_type).or_default();
        parts.into_iter().rev().for_each(|slice| queue.push_front(Segment::of(slice, None)));
    }

    /// A slice is neither read nor put back: somebody else takes care of it.
    pub(super) fn set_aside(&mut self, task: Task) -> Slice {
        let slice = task.slice.clone();
        self.done(task, None);
        // In ascending order nothing of its type may be read before it.
        *self.busy.entry(slice.resource_type).or_default() += 1;
        slice
    }

    /// What was set aside was read.
    pub(super) fn release(&mut self, resource_type: ResourceType) {
        if let Some(busy) = self.busy.get_mut(&resource_type) {
            *busy = busy.saturating_sub(1);
        }
    }

    fn done(&mut self, task: Task, count: Option<u64>) {
        let resource_type = task.slice.resource_type;
        self.release(resource_type);
        if let Some((slice, both)) = task.sibling.clone() {
            let known = count.and_then(|count| both.checked_sub(count));
            let rest = Segment { uneven_cuts: task.uneven_cuts(known), ..Segment::of(slice, known) };
            self.waiting.entry(resource_type).or_default().push_front(rest);
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// Nine of ten.
fn is_most(part: u64, of: u64) -> bool {
    part.saturating_mul(10) >= of.saturating_mul(9)
}

fn length(span: std::ops::Range<i64>) -> i64 {
    span.end - span.start
}

/// As much of what is left of a step as fits one page by what is known of it, and the rest. What is the last of all that
/// waits is shared out to all readers, if it is more than a page: none of them is idle before the end.
fn cut(segment: Segment, density: Option<Density>, cutting: Cutting, is_last: bool) -> (Task, Option<Segment>) {
    let Segment { slice, known, uneven_cuts, share, is_new } = segment;
    let task = |slice, start| Task { capacity: cutting.capacity, ..Task { start, ..Task::alone(slice) } };
    let whole = |slice, start| (task(slice, start), None);
    let Scope::Window(window) = &slice.scope else { return whole(slice, Start::Page) };
    let capacity = u64::from(cutting.capacity);
    // What ends before the oldest of all holds nothing, as far as is known.
    let is_empty = is_new && window.until.is_some_and(|until| until <= cutting.grid.oldest);
    let fits = is_empty || known.is_some_and(|known| known <= capacity);
    if fits || !slice.can_be_cut(cutting.grid) {
        return whole(slice, Start::Page);
    }
    let Some(density) = density else { return whole(slice, Start::Guess) };
    let span = length(window.span(cutting.grid));
    let with = |window| Slice { scope: Scope::Window(window), ..slice.clone() };
    if density.irregular {
        let Some(known) = known else { return whole(slice, Start::Count) };
        if uneven_cuts >= CROWDED_AFTER && known <= capacity.saturating_mul(PAGES_LOOKED_AT) {
            return whole(slice, Start::Look);
        }
        return match window.carve(span / 2, cutting.grid) {
            Some((first, rest)) => {
                let sibling = Some((with(rest), known));
                (Task { uneven_cuts, sibling, ..task(with(first), Start::Count) }, None)
            }
            None => whole(slice, Start::Page),
        };
    }
    let share = share.filter(|_| is_last).or_else(|| density.share(span, cutting).filter(|_| is_last));
    let length = density.length(cutting.capacity, share);
    // A count that is too large for one page goes before an estimate that says otherwise.
    let length = if known.is_some() { length.min(span / 2) } else { length };
    match window.carve(length, cutting.grid).filter(|_| length < span) {
        Some((first, rest)) => {
            let rest = Segment { share, ..Segment::of(with(rest), None) };
            (task(with(first), Start::Guess), Some(rest))
        }
        None => whole(slice, Start::Guess),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::plan::slice::{Phase, Window};

    const GRID: Grid = Grid { step: 1, oldest: Millis(0), now: Millis(10_000_000_000) };
    const CUTTING: Cutting = Cutting { capacity: 1_000, readers: 8, grid: GRID };

    fn whole(until: i64) -> Slice {
        let window = Window { from: None, until: Some(Millis(until)) };
        Slice { phase: Phase::Old, resource_type: ResourceType::PATIENT, filter: None, scope: Scope::Window(window) }
    }

    /// What reading costs by a server that holds these stamps, sorted: searches, and resources thrown away.
    fn cost(stamps: &[i64], in_flight: usize, in_order: bool) -> (u64, u64) {
        let until = stamps.last().expect("some") + 1;
        let mut pool = Pool::new(vec![whole(until)], Order::Any);
        pool.expect(ResourceType::PATIENT, stamps.len() as u64, until);
        let (mut searches, mut thrown, mut read) = (0, 0, 0);
        let mut reading = VecDeque::new();
        loop {
            while reading.len() < in_flight
                && let Some(task) = pool.next(|_| CUTTING)
            {
                reading.push_back(task);
            }
            let Some(task) = reading.pop_front() else { break };
            let (slice, start) = (task.slice.clone(), task.start);
            let Scope::Window(window) = &slice.scope else { panic!("only windows were put in") };
            let below =
                |bound: Option<Millis>, open| bound.map_or(open, |bound| stamps.partition_point(|at| *at < bound.0));
            let held = &stamps[below(window.from, 0)..below(window.until, stamps.len())];
            let count = held.len() as u64;
            searches += u64::from(matches!(start, Start::Count | Start::Look));
            if count <= 1_000 || !slice.can_be_cut(GRID) {
                searches += count.div_ceil(1_000).max(1);
                read += count;
                pool.read(task, count, GRID);
            } else {
                let mut crowd = None;
                if start != Start::Count {
                    let shown = if start == Start::Look { LOOKED_AT as usize } else { 1_000 };
                    searches += u64::from(start != Start::Look);
                    thrown += shown as u64;
                    // Servers answer in the order of time, or in none.
                    let apart = if in_order { 1 } else { held.len() / shown };
                    crowd = Crowd::among(held.iter().step_by(apart).take(shown).map(|at| Millis(*at)), GRID);
                }
                pool.put_back(task, Excess { total: Some(count), crowd }, CUTTING);
            }
        }
        assert_eq!(read, stamps.len() as u64, "every resource is read once");
        (searches, thrown)
    }

    /// Numbers that look random, the same each time.
    fn noise() -> impl FnMut(i64) -> i64 {
        let mut state = 88_172_645_463_325_252_u64;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            i64::try_from(state % u64::try_from(below).expect("positive")).expect("small")
        }
    }

    fn assert_cheap(name: &str, mut stamps: Vec<i64>, most_searches: f64, most_thrown: f64) {
        stamps.sort_unstable();
        for in_order in [true, false] {
            let (searches, thrown) = cost(&stamps, 8, in_order);
            let all = i64::try_from(stamps.len()).expect("small");
            let (searches, thrown) = (ratio(searches * 1_000, all), ratio(thrown, all));
            println!("{name}: {searches:.3} searches for each full page, {thrown:.4} thrown away");
            assert!(searches <= most_searches, "{name}: {searches} searches for each full page");
            assert!(thrown <= most_thrown, "{name}: {thrown} of all resources thrown away");
        }
    }

    /// What does not count and says no totals tells only that there is more: nothing is gained by asking for the same again.
    #[test]
    fn what_does_not_fit_and_was_not_counted_is_never_asked_for_as_a_whole_again() {
        let mut random = noise();
        let mut stamps: Vec<i64> =
            (0..30_000).map(|at| if at % 3 == 0 { random(50_000) } else { 50_000_000 + at }).collect();
        stamps.sort_unstable();
        let mut pool = Pool::new(vec![whole(60_000_000)], Order::Any);
        let mut asked = HashSet::new();
        let mut read = 0;
        while let Some(task) = pool.next(|_| CUTTING) {
            let Scope::Window(window) = task.slice.scope else { panic!("only windows were put in") };
            assert!(asked.insert(window), "{window:?} once more");
            let count = stamps.iter().filter(|at| window.contains(Millis(**at))).count() as u64;
            if count <= u64::from(CUTTING.capacity) {
                read += count;
                pool.read(task, count, GRID);
            } else {
                pool.put_back(task, Excess::counted(None), CUTTING);
            }
        }
        assert_eq!(read, stamps.len() as u64);
    }

    #[test]
    fn cuts_fit_pages_whatever_the_density() {
        let year = 31_536_000_000_i64;
        let mut random = noise();
        assert_cheap("even", (0..1_000_000).map(|number| number * year / 1_000_000).collect(), 1.2, 0.03);
        assert_cheap("random", (0..1_000_000).map(|_| random(year)).collect(), 1.15, 0.02);
        // One transaction of a hundred stamps twenty alike: what windows hold varies twice as much.
        let transactions = (0..850_000).flat_map(|_| {
            let (at, alike) = (random(year), if random(100) == 0 { 20 } else { 1 });
            std::iter::repeat_n(at, alike)
        });
        assert_cheap("random with ties", transactions.collect(), 1.3, 0.03);
        let day = 86_400_000;
        // Ten times as much by day as by night.
        let by_day = (0..1_000_000).map(|_| {
            let hour = if random(11) == 0 { random(day) } else { day / 3 + random(day / 3) };
            random(365) * day + hour
        });
        assert_cheap("by day", by_day.collect(), 4.0, 0.05);
        // A bulk load of an hour after a year of trickle.
        let loaded = (0..200_000).map(|number| if number < 20_000 { random(year) } else { year + random(3_600_000) });
        assert_cheap("bulk load", loaded.collect(), 2.0, 0.05);
        // Single changes, and each hour a transaction of more than fits a page.
        let large = (0..8_760).flat_map(|hour| {
            let at = hour * 3_600_000 + random(3_600_000);
            std::iter::repeat_n(at, if hour % 20 == 0 { 2_200 } else { 30 })
        });
        assert_cheap("large transactions", large.collect(), 7.0, 0.05);
        // A hundred of them in a minute, and little else.
        let minute = (0..100).flat_map(|_| std::iter::repeat_n(year + random(60_000), 2_200));
        assert_cheap("nothing but large transactions", minute.collect(), 8.0, 0.05);
    }

    /// Three pages for eight readers: each of them gets some.
    #[test]
    fn what_is_left_at_last_is_shared_out_to_all_readers() {
        let mut pool = Pool::new(vec![whole(30_000_000)], Order::Any);
        pool.expect(ResourceType::PATIENT, 3_000, 30_000_000);
        let tasks: Vec<_> = std::iter::from_fn(|| pool.next(|_| CUTTING)).collect();
        assert!((7..=9).contains(&tasks.len()), "{}", tasks.len());
        assert_eq!(Window::ALL.remaining(tasks.iter().map(|task| task.slice.window())).len(), 1, "all but the future");
        // One page is one search, and as long as others wait pages are full.
        let mut pool = Pool::new(vec![whole(10_000_000)], Order::Any);
        pool.expect(ResourceType::PATIENT, 700, 10_000_000);
        assert_eq!(std::iter::from_fn(|| pool.next(|_| CUTTING)).count(), 1);
    }

    /// Typing errors lie in 2099, and more than a page is made while the sweep is read: each search takes as long as the
    /// windows last that are cut.
    #[test]
    fn a_sweep_towards_a_future_that_does_not_fit_a_page_comes_to_its_end() {
        let grid = Grid { step: 1, oldest: Millis(0), now: Millis(1_000_000) };
        let cutting = Cutting { capacity: 4, readers: 1, grid };
        let window = Window { from: Some(Millis(940_000)), until: None };
        let sweep = Slice {
            phase: Phase::Sweep(1),
            resource_type: ResourceType::PATIENT,
            filter: None,
            scope: Scope::Window(window),
        };
        let mut pool = Pool::new(vec![sweep], Order::Ascending);
        pool.expect(ResourceType::PATIENT, 40, 1_000_000);
        let mut stamps: Vec<i64> = (0..6).map(|number| 4_070_908_800_000 + number).collect();
        let mut now = 1_000_000;
        for searches in 0.. {
            let Some(task) = pool.next(|_| cutting) else { break };
            assert!(searches < 300, "it has no end");
            now += 5_000;
            stamps.push(now);
            let window = task.slice.window();
            let count = stamps.iter().filter(|at| window.contains(Millis(**at))).count() as u64;
            if count <= 4 || !task.slice.can_be_cut(grid) {
                pool.read(task, count, grid);
            } else {
                pool.put_back(task, Excess::counted(Some(count)), cutting);
            }
        }
    }

    /// Windows of a millisecond that hold nothing are a measure for what lies after them, though they cannot be cut.
    #[test]
    fn where_less_comes_than_was_expected_windows_become_longer() {
        let mut pool = Pool::new(vec![whole(3_600_000)], Order::Ascending);
        pool.expect(ResourceType::PATIENT, 10_000_000_000, 3_600_000);
        for searches in 0.. {
            let Some(task) = pool.next(|_| CUTTING) else { break };
            assert!(searches < 60, "it has no end");
            pool.read(task, 0, GRID);
        }
    }

    #[test]
    fn one_type_is_read_in_ascending_order_one_slice_at_a_time() {
        let mut pool = Pool::new(vec![whole(1_000_000)], Order::Ascending);
        pool.expect(ResourceType::PATIENT, 10_000, 1_000_000);
        let first = pool.next(|_| CUTTING).expect("a slice");
        assert_eq!(pool.next(|_| CUTTING), None, "the next one waits");
        pool.put_back(first.clone(), Excess::counted(Some(5_000)), CUTTING);
        let again = pool.next(|_| CUTTING).expect("a shorter slice");
        assert_eq!(again.slice.window().from, first.slice.window().from);
        assert!(again.slice.window().until < first.slice.window().until);
    }
}
