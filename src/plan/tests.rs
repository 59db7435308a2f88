use super::*;

fn horizon(since: Option<&str>, until: Option<&str>) -> Horizon {
    let instant = |text: &str| Instant::parse(text).expect("an instant");
    Horizon {
        windows_until: instant("2026-01-01T12:00:00Z").floor_millis(),
        lag_millis: 60_000,
        since: since.map(instant),
        until: until.map(instant),
        settled: Millis(0),
        step_millis: 1,
    }
}

fn at(text: &str) -> Millis {
    Instant::parse(text).expect("an instant").floor_millis()
}

/// BD-069: everything up to and including the transaction time, which is the settled part of what was read.
#[test]
fn the_transaction_time_lies_the_lag_before_w_and_never_before_since() {
    for (since, expected) in [
        (None, "2026-01-01T11:59:00Z"),
        (Some("2025-01-01T00:00:00Z"), "2026-01-01T11:59:00Z"),
        (Some("2026-01-01T11:59:30.500Z"), "2026-01-01T11:59:30.500Z"),
    ] {
        let expected = Instant::parse(expected).expect("an instant");
        assert_eq!(horizon(since, None).transaction_time(), expected, "{since:?}");
    }
}

#[test]
fn windows_and_sweep_cover_all_time_and_old_and_young_do_not_overlap() {
    let horizon = horizon(None, None);
    let windows = [Phase::Old, Phase::Young, Phase::Sweep(1)].map(|phase| horizon.window(phase));
    assert_eq!(Window::ALL.remaining(windows), vec![]);
    assert_eq!(windows[0].until, windows[1].from);
    assert_eq!(windows[2].from, Some(at("2026-01-01T11:59:00Z")));
}

/// Batches and chains have no upper bound: one that lies before W leaves all of them to be read.
#[test]
fn what_is_not_cut_by_time_is_read_whatever_until_is() {
    let resource_type = ResourceType::PATIENT;
    let patients = Strategy::Patients { links: vec!["patient".into()], searches: Vec::new() };
    for strategy in [Strategy::Chain, Strategy::Records, patients] {
        for until in [None, Some("2025-01-01T00:00:00Z"), Some("2026-02-01T00:00:00Z")] {
            let plan = TypePlan { strategy: strategy.clone(), baseline: None, oldest: None, assumed: BTreeSet::new() };
            let plan = ExportPlan {
                horizon: horizon(None, until),
                profile: Profile::default(),
                types: BTreeMap::from([(resource_type, plan)]),
                filters: BTreeMap::new(),
                cohort: Cohort::Members(vec![Id::parse("p").expect("an id")]),
                compartments: Compartments::R4,
                listed: Listed::default(),
                newcomers: Listed::default(),
                others: BTreeMap::new(),
                context: Vec::new(),
                by_target: None,
                provenance_of_records: false,
                is_organized: false,
                on_short: OnShort::Fail,
                boundary: Boundary::NoLoss,
                tells_deletions_by_difference: false,
                inlines: None,
                bases: Vec::new(),
            };
            assert_eq!(plan.slices(Phase::Young, resource_type).len(), 1, "{strategy:?} until {until:?}");
        }
    }
}

/// BD-020: no batch is of newcomers and of others, nobody is asked for twice, and only newcomers whatever their age.
#[test]
fn newcomers_are_read_as_a_whole_and_in_batches_of_their_own() {
    let ids = |range: std::ops::Range<u32>| range.map(|id| Id::parse(&format!("{id:03}")).expect("an id"));
    let since = "2025-01-01T00:00:00Z";
    let resource_type = ResourceType::PATIENT;
    let strategy = Strategy::Patients { links: vec!["patient".into()], searches: Vec::new() };
    let plan = TypePlan { strategy, baseline: None, oldest: None, assumed: BTreeSet::new() };
    let plan = ExportPlan {
        horizon: horizon(Some(since), None),
        profile: Profile {
            or_lists: true,
            last_updated: crate::profile::TimeFilter::Millisecond,
            ..Profile::default()
        },
        types: BTreeMap::from([(resource_type, plan)]),
        cohort: Cohort::Members(ids(0..200).collect()),
        compartments: Compartments::R4,
        listed: Listed::default(),
        filters: BTreeMap::new(),
        newcomers: Listed(ids(70..71).chain(ids(100..180)).collect()),
        others: BTreeMap::new(),
        context: Vec::new(),
        by_target: None,
        provenance_of_records: false,
        is_organized: false,
        on_short: OnShort::Fail,
        boundary: Boundary::NoLoss,
        tells_deletions_by_difference: false,
        inlines: None,
        bases: Vec::new(),
    };
    let (mut asked, mut old, mut new) = (BTreeSet::new(), 0, 0);
    let stamp = |text| Some(Instant::parse(text).expect("an instant"));
    for slice in plan.slices(Phase::Young, resource_type) {
        let Scope::Patients { members, from, .. } = &slice.scope else { panic!("{slice:?}") };
        let are_new: BTreeSet<bool> = members.clone().map(|id| id == 70 || (100..180).contains(&id)).collect();
        assert_eq!(are_new.len(), 1, "{members:?}");
        let is_new = are_new.contains(&true);
        assert_eq!(from.is_none(), is_new, "{members:?}");
        assert_eq!(plan.asks_for(&slice, stamp("2020-01-01T00:00:00Z")), is_new, "{members:?}");
        assert!(plan.asks_for(&slice, stamp("2025-06-01T00:00:00Z")));
        *(if is_new { &mut new } else { &mut old }) += members.len();
        assert!(members.clone().all(|id| asked.insert(id)), "{members:?}");
    }
    assert_eq!((asked.len(), old, new), (200, 119, 81));
    let sweep = plan.slices(Phase::Sweep(1), resource_type);
    assert!(sweep.iter().all(|slice| slice.window().from.is_some()), "{sweep:?}");
}

#[test]
fn windows_and_sweep_cover_all_that_since_and_until_ask_for() {
    let instants = [None, Some("2020-01-01T00:00:00Z"), Some("2026-01-01T11:50:00.5Z"), Some("2027-01-01T00:00:00Z")];
    for (since, until) in instants.iter().flat_map(|since| instants.iter().map(move |until| (*since, *until))) {
        let horizon = horizon(since, until);
        let windows = [Phase::Old, Phase::Young, Phase::Sweep(1)].map(|phase| horizon.window(phase));
        let windows = windows.into_iter().filter(|window| !window.is_empty());
        let asked = Window {
            from: horizon.since.map(Instant::floor_millis),
            until: horizon.until.map(|until| Millis(until.floor_millis().0 + 1)),
        };
        let left = if asked.is_empty() { Vec::new() } else { asked.remaining(windows) };
        assert_eq!(left, vec![], "{since:?} {until:?}");
    }
}

/// BD-021, BD-022: strictly after `_since`, strictly before `_until`; the finest digits decide.
#[test]
fn since_and_until_are_strict() {
    let horizon = horizon(Some("2025-06-01T00:00:00.123Z"), Some("2025-07-01T00:00:00Z"));
    for (stamp, expected) in [
        (Some("2025-06-01T00:00:00.123Z"), false),
        (Some("2025-06-01T00:00:00.123001Z"), true),
        (Some("2025-06-30T23:59:59.999Z"), true),
        (Some("2025-07-01T00:00:00Z"), false),
        (None, true),
    ] {
        let stamp = stamp.map(|text| Instant::parse(text).expect("an instant"));
        assert_eq!(horizon.asks_for(stamp), expected, "{stamp:?}");
    }
    assert!(
        horizon.window(Phase::Old).contains(at("2025-06-01T00:00:00.123Z")),
        "the filter is ours, not the server's"
    );
    let seconds = Horizon { step_millis: 1_000, ..horizon };
    assert_eq!(seconds.window(Phase::Old).from, Some(at("2025-06-01T00:00:00Z")));
}
