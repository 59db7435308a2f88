use std::collections::VecDeque;
use std::sync::Arc;

use http::Method;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::upstream::live::baseline::{Kind, Slowness};
use crate::upstream::live::{LiveRequest, LiveTraffic};

fn settings(ceiling: usize) -> YieldSettings {
    YieldSettings { ceiling, headroom: 0.1, least: 1, memory: Duration::from_mins(1) }
}

fn at(millis: u64) -> Duration {
    Duration::from_secs(1_000) + Duration::from_millis(millis)
}

/// Live traffic whose baselines are known.
fn live(now: Duration, requests: usize) -> LiveNow {
    LiveNow { requests, latest: Some(now), idle_answers: 10, idle_at: Some(now) }
}

fn answer(began: Duration, searches: usize, times: f32) -> LiveAnswer {
    LiveAnswer { began, searches, level: searches, slowness: Slowness { times, excess: (times - 1.15) * 10.0 } }
}

/// A server that works on so many requests at a time, first come first served, and what is asked of it: reads that pass
/// through at even distances, and as many searches as may be.
struct Model {
    slots: usize,
    /// What a request takes, and by how much it varies.
    takes: u64,
    varies: u64,
    reads_per_second: u64,
    ceiling: usize,
    /// Every so-many-th read is held up by something else, for as long as it takes by itself; 0 is none.
    hiccups: u64,
}

const PLAIN: Model = Model { slots: 8, takes: 20, varies: 2, reads_per_second: 5, ceiling: 16, hiccups: 0 };

/// One request in the model: a read that began at some time, or a search.
enum Asked {
    Read(LiveRequest, u64),
    Search,
}

/// What came of a run.
#[derive(Debug)]
struct Shown {
    /// Searches that were worked on at once, as a part of the slots that reads leave idle.
    used: f64,
    /// The 95th percentile of reads in milliseconds, without searches and beside them.
    idle: u64,
    beside: u64,
}

impl Model {
    /// A minute of reads alone, and so many seconds of reads and searches.
    fn run(&self, seconds: u64) -> Shown {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let live = Arc::new(LiveTraffic::new(Arc::clone(&clock) as Arc<dyn Clock>, 0.15));
        let mut yielding = Yielding::new(settings(self.ceiling));
        let kind = Kind::of(&Method::GET, "/fhir/Patient/1", false);
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below.max(1)
        };
        let (begin, end) = (60_000, 60_000 + seconds * 1_000);
        let (mut waiting, mut working) = (VecDeque::new(), Vec::new());
        let (mut idle, mut beside) = (Vec::new(), Vec::new());
        let (mut searches, mut used, mut reads) = (0, 0, 0);
        for millis in 0..end {
            let (ended, still): (Vec<(u64, Asked)>, _) = working.into_iter().partition(|(until, _)| *until <= millis);
            working = still;
            for (_, asked) in ended {
                match asked {
                    Asked::Search => {
                        searches -= 1;
                        live.end_search();
                    }
                    Asked::Read(request, began) => {
                        request.answered();
                        if began < begin { &mut idle } else { &mut beside }.push(millis - began);
                    }
                }
            }
            if millis % (1_000 / self.reads_per_second) == 0 {
                waiting.push_back(Asked::Read(live.begin(kind), millis));
                reads += 1;
            }
            let mut answers = Vec::new();
            let traffic = live.read(&mut answers);
            let now = clock.monotonic();
            for answer in &answers {
                yielding.hear(answer, now);
            }
            if millis >= begin {
                let allowed = yielding.searches(&traffic, now);
                while searches < allowed {
                    searches += 1;
                    live.begin_search();
                    waiting.push_back(Asked::Search);
                }
                used += working.iter().filter(|(_, asked)| matches!(asked, Asked::Search)).count();
            }
            while working.len() < self.slots
                && let Some(asked) = waiting.pop_front()
            {
                let held_up = self.hiccups > 0 && reads % self.hiccups == 0 && matches!(asked, Asked::Read(..));
                let takes = self.takes + random(self.varies) + if held_up { self.takes } else { 0 };
                working.push((millis + takes, asked));
            }
            clock.advance(Duration::from_millis(1));
        }
        let p95 = |latencies: &mut Vec<u64>| {
            latencies.sort_unstable();
            latencies[latencies.len() * 95 / 100]
        };
        let small = |number: u64| as_f64(usize::try_from(number).expect("small"));
        let idle_slots = as_f64(self.slots) - small(self.reads_per_second * self.takes) / 1_000.0;
        let used = as_f64(used) / (idle_slots * small(seconds * 1_000));
        Shown { used, idle: p95(&mut idle), beside: p95(&mut beside) }
    }
}

#[test]
fn reads_are_hardly_disturbed_and_searches_use_most_of_what_is_left() {
    for (name, model, seconds) in [
        ("a ceiling of the slots", Model { ceiling: 8, ..PLAIN }, 20),
        ("a ceiling of twice the slots", PLAIN, 20),
        ("a ceiling far above the slots", Model { ceiling: 64, ..PLAIN }, 20),
        ("a long export", PLAIN, 600),
        ("many reads", Model { reads_per_second: 50, ..PLAIN }, 20),
        ("few reads", Model { reads_per_second: 1, ..PLAIN }, 120),
        ("reads that are held up by chance", Model { hiccups: 50, ..PLAIN }, 120),
        ("reads that vary", Model { varies: 20, ..PLAIN }, 20),
        ("both", Model { varies: 20, hiccups: 25, ..PLAIN }, 120),
        ("many slots", Model { slots: 64, ceiling: 64, ..PLAIN }, 20),
        ("few slots", Model { slots: 4, ..PLAIN }, 20),
        ("a slow server", Model { takes: 500, varies: 50, ..PLAIN }, 20),
    ] {
        let shown = model.run(seconds);
        println!("{name}: {shown:?}");
        assert!(shown.used >= 0.6, "{name}: {shown:?}");
        assert!(shown.beside * 10 <= shown.idle * 13, "{name}: {shown:?}");
    }
}

#[test]
fn without_live_traffic_the_ceiling_holds() {
    let mut yielding = Yielding::new(settings(8));
    let never = LiveNow::default();
    assert_eq!(yielding.searches(&never, at(0)), 8);
    let came = live(at(0), 0);
    assert!(yielding.searches(&came, at(1)) < 8);
    assert!(yielding.searches(&came, at(59_999)) < 8);
    assert_eq!(yielding.searches(&came, at(60_000)), 8);
    // One that is not answered yet is there.
    assert!(yielding.searches(&LiveNow { requests: 1, ..came }, at(90_000)) < 8);
}

#[test]
fn each_live_request_takes_the_place_of_a_search() {
    let mut yielding = Yielding::new(settings(16));
    let allowed = [0, 1, 3, 6, 40].map(|requests| yielding.searches(&live(at(0), requests), at(0)));
    assert_eq!(allowed, [7, 6, 4, 1, 1], "down to the least");
}

#[test]
fn searches_stop_if_they_may_and_go_on_when_live_requests_are_quick_again() {
    let mut yielding = Yielding::new(YieldSettings { least: 0, ..settings(4) });
    let mut now = at(0);
    let mut hear = |yielding: &mut Yielding, times| {
        now += Duration::from_millis(200);
        let searches = yielding.searches(&live(now, 0), now);
        yielding.hear(&answer(now, searches, if searches == 0 { 1.0 } else { times }), now);
        searches
    };
    let stopped = (0..60).position(|_| hear(&mut yielding, 3.0) == 0);
    assert!(stopped.is_some_and(|answers| answers < 10), "stopped after {stopped:?} answers");
    let went_on = (0..400).position(|_| hear(&mut yielding, 1.0) == 3);
    assert!(went_on.is_some(), "all but the part that stays free are back");
}

#[test]
fn one_slow_answer_alone_changes_nothing() {
    let mut yielding = Yielding::new(settings(16));
    let mut now = at(0);
    for times in [1.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 1.0] {
        now += Duration::from_millis(200);
        let before = yielding.searches(&live(now, 0), now);
        yielding.hear(&answer(now, before, times), now);
        assert!(yielding.searches(&live(now, 0), now) >= before);
    }
}

#[test]
fn what_is_slow_without_searches_is_not_their_doing() {
    let mut yielding = Yielding::new(settings(8));
    for number in 0..50 {
        let now = at(number * 100);
        let before = yielding.searches(&live(now, 0), now);
        yielding.hear(&answer(now, 0, 5.0), now);
        assert_eq!(yielding.searches(&live(now, 0), now), before);
    }
}

#[test]
fn baselines_that_are_not_known_are_learnt_while_searches_pause() {
    let mut yielding = Yielding::new(settings(8));
    let unknown = |now, idle_answers| LiveNow { idle_answers, idle_at: None, ..live(now, 0) };
    assert_eq!(yielding.searches(&unknown(at(0), 0), at(0)), 0);
    assert_eq!(yielding.searches(&unknown(at(400), 2), at(400)), 0);
    let learnt = LiveNow { idle_answers: 3, idle_at: Some(at(600)), ..live(at(600), 0) };
    assert_eq!(yielding.searches(&learnt, at(600)), 4);
    // Where nothing comes they do not pause for long, and not again soon.
    let mut yielding = Yielding::new(settings(8));
    assert_eq!(yielding.searches(&unknown(at(0), 0), at(0)), 0);
    for (millis, expected) in [(1_000, 4), (30_000, 4), (62_000, 0), (63_000, 4)] {
        assert_eq!(yielding.searches(&unknown(at(millis), 0), at(millis)), expected, "after {millis} ms");
    }
    // After a while they are learnt anew.
    let old = LiveNow { latest: Some(at(601_000)), ..live(at(0), 0) };
    assert_eq!(yielding.searches(&old, at(601_000)), 0);
}
