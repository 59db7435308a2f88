//! What is played: each scenario is a kind of server, a kind of change, and a way to read.

use sample_upstream::world::{Habits, LAG};
use sample_upstream::{Lies, Order, Paging, Settings, Total};

use super::judge::Wrong;

/// Resources on a page.
const PAGE: u32 = 4;
/// More than the quarter of an hour in which windows are young, in ticks.
const OLD: i64 = 200;

#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) habits: Habits,
    pub(super) settings: Settings,
    /// Fewest and most resources in the beginning.
    pub(super) size: (usize, usize),
    pub(super) reading: Reading,
    pub(super) crashes: bool,
    /// Searches at once, at most.
    pub(super) searches: usize,
    /// What may go wrong here without any fault of ours.
    pub(super) allowed: fn(Wrong) -> bool,
}

/// The level of the exports, which decides how they read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// System level.
    Windows,
    /// Group level.
    Batches,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Snapshot,
    Keyset,
    Offset,
    /// By offsets, where a page that lost a row is taken for the last one.
    OffsetEarly,
}

const WAYS: [Way; 3] = [Way::Snapshot, Way::Keyset, Way::Offset];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Keyset => "keyset",
            Self::Offset => "offset",
            Self::OffsetEarly => "offset_early",
        }
    }

    fn paging(self) -> Paging {
        match self {
            Self::Snapshot => Paging::Snapshot,
            Self::Keyset => Paging::Cursor,
            Self::Offset | Self::OffsetEarly => Paging::Offset,
        }
    }
}

fn scenario(name: &str, way: Way) -> Scenario {
    let settings = Settings {
        paging: way.paging(),
        total: Total::Exact,
        max_count: Some(PAGE as usize),
        gzip: false,
        history: false,
        order: Order::LastUpdated,
        lies: Lies { ends_where_deleted: way == Way::OffsetEarly, ..Lies::default() },
        ..Settings::default()
    };
    Scenario {
        name: format!("{name} {}", way.name()),
        habits: Habits::default(),
        settings,
        size: (5, 14),
        reading: Reading::Windows,
        crashes: false,
        searches: 2,
        // The only proof that offsets admit may not come about.
        allowed: if way.paging() == Paging::Offset { |wrong| wrong == Wrong::Short } else { |_| false },
    }
}

/// Every scenario of the model, by the model's names.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = tables();
    for way in WAYS {
        all.extend(oddities(way));
    }
    let plain = |name: &str| scenario(name, Way::Snapshot);
    all.push(plain("busy creates").with(|habits| (habits.mix, habits.churn) = ([2, 8, 1, 0], 0.3)));
    all.push(plain("busy updates").with(|habits| (habits.mix, habits.churn) = ([8, 1, 1, 0], 0.5)));
    all.push(plain("busy deletes").with(|habits| (habits.mix, habits.churn) = ([3, 4, 6, 0], 0.4)).counted_apart());
    for (name, ties, churn) in [("offset_early race", false, 0.25), ("offset_early race at a wall", true, 0.5)] {
        let race = scenario(name, Way::OffsetEarly).with(|habits| {
            (habits.mix, habits.churn, habits.race, habits.ties) = ([3, 2, 6, 0], churn, 0.8, ties);
        });
        all.push(Scenario { size: (12, 24), ..race });
    }
    all.push(
        scenario("batch race", Way::Keyset)
            .with(|habits| (habits.mix, habits.churn, habits.race) = ([4, 2, 1, 4], 0.2, 0.3))
            .crashing()
            .by_patients(),
    );
    for (delay, size) in [(2 * LAG, (5, 14)), (OLD, (5, 14)), (2 * LAG, (10, 20))] {
        for way in [Way::Snapshot, if size.1 == 20 { Way::Offset } else { Way::Keyset }] {
            let crash = if size.1 == 20 { " crash" } else { "" };
            let late = scenario(&format!("delay over lag {delay}{crash}"), way).with(|habits| habits.delay = delay);
            // Outside of what is promised: nothing came twice all the same where no window was old when it was read.
            let allowed = if delay == OLD {
                |wrong| matches!(wrong, Wrong::Change | Wrong::Twice)
            } else {
                |wrong| wrong == Wrong::Change
            };
            let late = Scenario { size, allowed, ..late };
            all.push(if crash.is_empty() { late } else { late.crashing() });
        }
    }
    all.push(plain("recount before the sweep"));
    // An export that ends within the lag: what was begun before it may be seen after it.
    let quick = plain("quick").with(|habits| habits.pace = 0.2);
    all.push(Scenario { size: (1, 4), ..quick });
    all
}

/// Windows and batches, by each way of paging and counting, with and without a crash.
fn tables() -> Vec<Scenario> {
    let mut all = Vec::new();
    for reading in [Reading::Windows, Reading::Batches] {
        for way in [Way::Snapshot, Way::Keyset, Way::Offset, Way::OffsetEarly] {
            for (total, counts, word) in [
                (Total::Exact, true, "exact"),
                (Total::Absent, true, "absent"),
                (Total::PageSized, true, "pagesized"),
                (Total::Absent, false, "no-count"),
            ] {
                for crash in [false, true] {
                    let (name, mix) = match reading {
                        Reading::Windows => ("windows", [6, 2, 2, 0]),
                        Reading::Batches => ("batch", [4, 2, 1, 4]),
                    };
                    let word = if crash { format!("{word} crash") } else { word.to_owned() };
                    let mut one = scenario(name, way).with(|habits| {
                        (habits.mix, habits.churn, habits.ties) = (mix, 0.12, true);
                    });
                    one.name = format!("{} {word}", one.name);
                    (one.settings.total, one.settings.counts) = (total, counts);
                    one.settings.accurate_total = total == Total::Exact;
                    one.size = (5, 20);
                    if crash {
                        one.habits.types = 2;
                        one.crashes = true;
                    }
                    if reading == Reading::Batches {
                        one = one.by_patients();
                    }
                    if !counts {
                        // Two equal readings are then the only proof, whatever the links.
                        one.allowed = |wrong| wrong == Wrong::Short;
                    }
                    all.push(one);
                }
            }
        }
    }
    all
}

/// The oddities of servers, by one way of paging.
fn oddities(way: Way) -> Vec<Scenario> {
    let one = |name: &str, change: fn(&mut Habits)| scenario(name, way).with(change);
    let wall = one("tie wall, cap 2", |habits| (habits.ties, habits.churn) = (true, 0.1)).coarse().counted_apart();
    let by_id = one("order by id, cap 2", |habits| habits.churn = 0.1).coarse().counted_apart();
    let fresh = |name, churn| {
        let mut fresh = scenario(name, way).crashing();
        (fresh.habits.fresh, fresh.habits.churn) = (true, churn);
        fresh
    };
    let larger = one("larger", |habits| (habits.churn, habits.types) = (0.15, 2)).crashing();
    let mut idle = fresh("almost idle fresh crash", 0.03).counted_apart();
    idle.habits.mix = [4, 2, 4, 0];
    let odd = |habits: &mut Habits| {
        *habits = Habits {
            date_ahead: 24,
            future: true,
            unstamped: 0.1,
            ties: true,
            race: 0.3,
            replica: 6,
            churn: 0.15,
            ..Habits::default()
        };
    };
    vec![
        wall.crashing().of_pages(2),
        Scenario { settings: Settings { order: Order::Id, ..by_id.settings.clone() }, ..by_id }.of_pages(2),
        one("race inside a request", |habits| (habits.race, habits.churn) = (0.3, 0.15)).crashing(),
        fresh("fresh server", 0.15),
        Scenario { size: (25, 40), searches: 3, ..larger },
        one("no timestamps", |habits| (habits.unstamped, habits.churn) = (0.15, 0.15)),
        one("future stamps", |habits| (habits.future, habits.churn) = (true, 0.15)),
        one("Date ahead", |habits| (habits.date_ahead, habits.churn) = (24, 0.2)),
        one("Date behind", |habits| (habits.date_ahead, habits.churn) = (-24, 0.2)),
        one("replica 8", |habits| (habits.replica, habits.churn) = (8, 0.2)),
        one("replica 20", |habits| (habits.replica, habits.churn) = (20, 0.2)),
        one("replica 360", |habits| (habits.replica, habits.churn) = (360, 0.2)),
        one("index lag 4", |habits| (habits.index_lag, habits.delay, habits.churn) = (4, LAG - 4, 0.2)),
        one("stamps regress", |habits| (habits.regress, habits.churn) = (true, 0.25)),
        scenario("all odd", way).with(odd).crashing(),
        one("almost idle", |habits| (habits.churn, habits.mix) = (0.03, [4, 2, 4, 0])),
        idle,
    ]
}

impl Scenario {
    /// What the server does, as an operator knows it: what probes find out of so few resources would be left to chance.
    pub(super) fn profile(&self) -> serde_json::Value {
        let Settings { paging, total, counts, .. } = self.settings;
        serde_json::json!({
            "last_updated": "millisecond",
            "sort": true,
            "counts": if counts { "summary" } else { "none" },
            "page_total": if total == Total::Exact { "always" } else { "none" },
            "links": if paging == Paging::Offset { "offsets" } else { "stable" },
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Habits)) -> Self {
        change(&mut self.habits);
        self
    }

    fn crashing(self) -> Self {
        Self { crashes: true, ..self }
    }

    fn by_patients(self) -> Self {
        let allowed = if self.settings.paging == Paging::Offset {
            |wrong| matches!(wrong, Wrong::Short | Wrong::Reassigned)
        } else {
            |wrong| wrong == Wrong::Reassigned
        };
        Self { reading: Reading::Batches, allowed, ..self }
    }

    /// Pages do not say how many there are.
    fn counted_apart(mut self) -> Self {
        (self.settings.total, self.settings.accurate_total) = (Total::Absent, false);
        self
    }

    /// Half a minute shares one stamp: more than fits one page, which no window can cut.
    fn coarse(mut self) -> Self {
        (self.habits.grain, self.habits.delay) = (6, LAG - 6);
        self
    }

    fn of_pages(mut self, most: usize) -> Self {
        self.settings.max_count = Some(most);
        self
    }
}
