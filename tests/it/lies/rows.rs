//! The scenarios.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use sample_upstream::{Accepts, Bounds, Lies, Links, Op, Paging, SampleUpstream, Settings, Stamp, Total};

use super::Expected::{self, Complete, Stops};
use super::Row;

const SYSTEM: &str = "/$export";
const ALL_PATIENTS: &str = "/Patient/$export";
const GROUP: &str = "/Group/all/$export";
/// Not everybody is in it.
const SOME: &str = "/Group/first-half/$export";

fn row(name: impl Into<String>, settings: Settings, level: &'static str, expected: Expected) -> Row {
    Row {
        name: name.into(),
        settings,
        patients: 4,
        prepare: |_| {},
        preset: None,
        level,
        expected,
        check: |_, _| Ok(()),
    }
}

fn lying(lies: Lies) -> Settings {
    Settings { lies, ..Settings::default() }
}

/// Everything has one stamp, and a page holds twenty: no window can be cut to fit one page.
fn wall(settings: Settings) -> Settings {
    Settings { stamp: Stamp::Single, max_count: Some(20), ..settings }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(super) fn all() -> Vec<Row> {
    [paging(), totals_and_pages(), seen(), filters(), times(), wire()].into_iter().flatten().collect()
}

fn paging() -> Vec<Row> {
    let mut rows = Vec::new();
    for paging in [Paging::Snapshot, Paging::Cursor, Paging::Offset] {
        for total in [Total::Exact, Total::WhenComplete, Total::Absent, Total::PageSized] {
            let settings = Settings { paging, total, ..Settings::default() };
            rows.push(row(format!("{paging:?} and {total:?} totals"), settings, SYSTEM, Complete("counted")));
        }
        let method = if paging == Paging::Offset { "reread" } else { "counted" };
        let settings = Settings { paging, ..Settings::default() };
        rows.push(Row {
            patients: 12,
            ..row(format!("{paging:?} at a wall of one stamp"), wall(settings), SYSTEM, Complete(method))
        });
        for (name, links) in [
            ("relative", Links::Relative),
            ("without the base's path", Links::WithoutBase),
            ("without a scheme", Links::WithoutScheme),
        ] {
            let settings = Settings { paging, ..lying(Lies { links, ..Lies::default() }) };
            let name = format!("{paging:?}, links {name}");
            rows.push(Row { patients: 12, ..row(name, wall(settings), SYSTEM, Complete(method)) });
        }
        let link_base = Some("https://inner.example:8443/r4".to_owned());
        let settings = Settings { paging, link_base, ..Settings::default() };
        let name = format!("{paging:?}, links to a foreign host");
        rows.push(Row { patients: 12, ..row(name, wall(settings), SYSTEM, Complete(method)) });
        let repeats = Settings { paging, ..lying(Lies { repeats: true, ..Lies::default() }) };
        let name = format!("{paging:?}, each page begins with the end of the one before");
        rows.push(Row { patients: 12, ..row(name, wall(repeats), SYSTEM, Complete(method)) });
        let loops = Settings { paging, ..lying(Lies { loops: true, ..Lies::default() }) };
        rows.push(row(format!("{paging:?}, a next link that loops"), loops.clone(), SYSTEM, Complete("counted")));
        let stops = Stops(&["by time windows (slice ", "lead round in a circle"]);
        let name = format!("{paging:?}, a next link that loops where no window can be cut");
        rows.push(Row { patients: 12, ..row(name, wall(loops), SYSTEM, stops) });
        let short = Settings { paging, ..lying(Lies { short_pages: true, ..Lies::default() }) };
        for level in [SYSTEM, GROUP] {
            // A short page of a search by patients has a next link: offsets are then read twice.
            rows.push(row(format!("{paging:?}, short pages"), short.clone(), level, Complete("counted")));
        }
        let empty = Settings { paging, ..lying(Lies { empty_pages: true, ..Lies::default() }) };
        rows.push(row(format!("{paging:?}, an empty page before the others"), empty, SYSTEM, Complete("reread")));
    }
    rows
}

fn totals_and_pages() -> Vec<Row> {
    let snapshot = |list_pages| Lies { list_pages: Some(list_pages), ..Lies::default() };
    let early = |early_end_every| {
        let lies = Lies { early_end_every, ..Lies::default() };
        Settings { paging: Paging::Offset, total: Total::Exact, ..lying(lies) }
    };
    let warned = |no_mode| Settings { warnings: true, ..lying(Lies { no_mode, ..Lies::default() }) };
    let says_so = |_: &SampleUpstream, said: &str| {
        let lines = said.lines().filter(|line| line.contains("4119")).count();
        if lines == 1 { Ok(()) } else { Err(format!("{lines} lines of the error files tell of the warning")) }
    };
    let estimated = Settings { total: Total::Estimated, ..Settings::default() };
    vec![
        row("estimated totals and counts", estimated.clone(), SYSTEM, Complete("reread")),
        row("estimated totals and counts", estimated.clone(), GROUP, Complete("reread")),
        row(
            "estimated totals by offsets",
            Settings { paging: Paging::Offset, ..estimated },
            SYSTEM,
            Complete("reread"),
        ),
        row(
            "a next link on every page",
            lying(Lies { always_next: true, ..Lies::default() }),
            SYSTEM,
            Complete("reread"),
        ),
        row(
            "a next link on every page and no totals",
            Settings {
                counts: false,
                accurate_total: false,
                total: Total::Absent,
                ..lying(Lies { always_next: true, ..Lies::default() })
            },
            SYSTEM,
            Complete("reread"),
        ),
        row(
            "a server that calls itself what is known not to count",
            Settings { software: "Medplum".to_owned(), ..Settings::default() },
            SYSTEM,
            Complete("reread"),
        ),
        row("lists that expire at once", lying(snapshot(0)), SYSTEM, Complete("counted")),
        Row {
            patients: 12,
            ..row("lists that expire after 50 pages", wall(lying(snapshot(50))), SYSTEM, Complete("counted"))
        },
        Row {
            patients: 12,
            ..row(
                "lists that expire after one page where no window can be cut",
                wall(lying(snapshot(1))),
                SYSTEM,
                Stops(&["by time windows (slice ", "forgets its lists of pages"]),
            )
        },
        Row {
            patients: 12,
            prepare: |upstream| {
                let dropped = format!("Observation/{}", upstream.resources(Some("Observation"))[30].id);
                upstream.update_settings(|settings| settings.lies.dropped = BTreeSet::from([dropped]));
            },
            ..row(
                "offsets at a wall that always lack the same one",
                wall(Settings { paging: Paging::Offset, ..Settings::default() }),
                SYSTEM,
                Stops(&["could not read Observation", "1 resources that the server counts did not come"]),
            )
        },
        row("pages that end early with a total that agrees", early(5), SYSTEM, Complete("counted")),
        row("pages that end early with a total that agrees", early(5), GROUP, Complete("counted")),
        Row { patients: 12, ..row("pages that end early at a wall", wall(early(17)), SYSTEM, Complete("reread")) },
        row(
            "errors in pages",
            lying(Lies { error_entries: true, ..Lies::default() }),
            SYSTEM,
            Stops(&["by time windows", "something went wrong"]),
        ),
        Row { check: says_so, ..row("warnings in pages", warned(false), SYSTEM, Complete("counted")) },
        Row { check: says_so, ..row("warnings in pages, without a mode", warned(true), SYSTEM, Complete("counted")) },
        row(
            "accurate totals instead of counts",
            Settings { counts: false, ..Settings::default() },
            SYSTEM,
            Complete("counted"),
        ),
        row(
            "no counts at all",
            Settings { counts: false, accurate_total: false, total: Total::Absent, ..Settings::default() },
            SYSTEM,
            Complete("reread"),
        ),
    ]
}

/// Whenever a page of observations is asked for, one that was counted before goes.
pub(super) fn going(upstream: &SampleUpstream) {
    let handle = upstream.clone();
    let deletes = move |seen: &sample_upstream::RequestSeen| {
        let is_page = seen.path.ends_with("/Observation") && !seen.query.contains("_summary=");
        if is_page && let Some(first) = handle.resources(Some("Observation")).first() {
            handle.delete("Observation", &first.id).expect("it is there");
        }
        false
    };
    upstream.away_when(deletes, Duration::ZERO);
}

/// What was seen in front of real servers, each at more than one level. What is read as a whole, or of one patient, cannot be cut.
fn seen() -> Vec<Row> {
    let many_of_one = |upstream: &SampleUpstream| {
        let patient = upstream.resources(Some("Patient"))[0].id.clone();
        for number in 0..60 {
            let json = format!(
                r#"{{"resourceType":"Observation","id":"one-of-many-{number}","status":"final","subject":{{"reference":"Patient/{patient}"}}}}"#
            );
            upstream.create(&json).expect("a resource");
        }
    };
    let ended = || lying(Lies { results_end: Some(40), ..Lies::default() });
    let untimed = Settings { ignored_params: ["_lastUpdated".to_owned()].into(), ..ended() };
    let ignored = Settings { ignored_params: ["_lastUpdated".to_owned()].into(), ..Settings::default() };
    let deleted = Settings { paging: Paging::Cursor, total: Total::Exact, ..ignored };
    let deleted = row("windows are ignored, and something goes with each page", deleted, SYSTEM, Complete("counted"));
    let uncounted = lying(Lies { uncounted: names(&["patient", "subject", "target"]), ..Lies::default() });
    let uncounted = row("what is somebody's is not counted", uncounted, GROUP, Complete("counted"));
    let whole = row("results that end after 40, and windows are ignored", untimed, SYSTEM, Stops(&["did not come"]));
    let of_one =
        row("results that end after 40, of one patient", ended(), GROUP, Stops(&["30 resources", "did not come"]));
    let nothing = Settings { history: false, ..lying(Lies { html_for_nothing: true, ..Lies::default() }) };
    let mut rows = vec![
        Row { patients: 30, ..whole },
        Row { prepare: many_of_one, ..of_one },
        Row { patients: 30, prepare: going, ..deleted },
        uncounted,
    ];
    for level in [SYSTEM, GROUP] {
        for paging in [Paging::Snapshot, Paging::Offset] {
            let ended = Settings { paging, total: Total::Exact, ..ended() };
            let name = format!("{paging:?}, results that end after 40");
            rows.push(Row { patients: 30, ..row(name, ended, level, Complete("counted")) });
        }
        let name = "HTML for what there is not, and no history";
        rows.push(row(name, nothing.clone(), level, Complete("counted")));
    }
    rows
}

fn filters() -> Vec<Row> {
    let nothing = |params: &[&str]| lying(Lies { finds_nothing: names(params), ..Lies::default() });
    let ignored = |params: &[&str]| Settings {
        ignored_params: params.iter().map(|name| (*name).to_owned()).collect(),
        ..Settings::default()
    };
    let typed = lying(Lies { typed_references: true, ..Lies::default() });
    let first = lying(Lies { first_of_list: true, ..Lies::default() });
    vec![
        row(
            "searches by patient find nothing",
            nothing(&["patient"]),
            SOME,
            Stops(&["searches by patient cannot be relied on", "by `patient`, although there are some"]),
        ),
        row(
            "searches by subject find nothing",
            nothing(&["subject"]),
            SOME,
            Stops(&["searches by patient cannot be relied on", "by `subject`, although there are some"]),
        ),
        row("searches by time find nothing", nothing(&["_lastUpdated"]), SYSTEM, Complete("counted")),
        row("searches by patient are ignored and echoed", ignored(&["patient", "subject"]), SOME, {
            Stops(&["searches by patient cannot be relied on", "in searches of "])
        }),
        Row {
            patients: 30,
            ..row(
                "lists of ids are read to the tenth",
                lying(Lies { most_ids: Some(10), ..Lies::default() }),
                GROUP,
                Complete("counted"),
            )
        },
        Row {
            patients: 30,
            ..row(
                "lists of ids are read to the tenth, of those who are new as well",
                lying(Lies { most_ids: Some(10), ..Lies::default() }),
                "/Group/all/$export?_type=Patient,Condition&_since=2000-01-01T00:00:00Z",
                Complete("counted"),
            )
        },
        row(
            "nothing of one type is found without a patient",
            lying(Lies { shy: names(&["Observation"]), ..Lies::default() }),
            GROUP,
            Complete("counted"),
        ),
        row(
            "no patient is found who is not named",
            lying(Lies { shy: names(&["Patient"]), ..Lies::default() }),
            GROUP,
            Complete("counted"),
        ),
        Row {
            prepare: |upstream| {
                upstream.update_settings(|settings| settings.lies.shy = names(&["Observation"]));
                let shown = upstream.clone();
                upstream.first_when(
                    |seen| seen.path.ends_with("/Condition") && seen.query.contains("_lastUpdated=lt"),
                    move || shown.update_settings(|settings| settings.lies = Lies::default()),
                );
            },
            ..row("a type is seen only after it was counted", Settings::default(), SYSTEM, Complete("counted"))
        },
        row(
            "counts without a patient fail, and are 0",
            lying(Lies { count_errors: true, ..Lies::default() }),
            GROUP,
            Complete("counted"),
        ),
        row(
            "self links that leave a filter out",
            lying(Lies { self_without: Some("_lastUpdated".to_owned()), ..Lies::default() }),
            SYSTEM,
            Stops(&["by time windows", "a filter is ignored"]),
        ),
        row("searches by time are ignored and echoed", ignored(&["_lastUpdated"]), SYSTEM, Complete("counted")),
        row("searches by id are ignored and echoed", ignored(&["_id"]), SOME, {
            Stops(&["could not read Patient by patient batches", "a filter is ignored"])
        }),
        row(
            "sorting is ignored and echoed",
            Settings { ignore_sort: true, ..Settings::default() },
            SYSTEM,
            Complete("counted"),
        ),
        row("patients are found by type and id only", typed, GROUP, Complete("counted")),
        row("of a list only the first counts", first.clone(), GROUP, Complete("counted")),
        row("of a list only the first counts", first, ALL_PATIENTS, Complete("counted")),
    ]
}

fn times() -> Vec<Row> {
    let bounds = |bounds| lying(Lies { bounds, ..Lies::default() });
    let skewed = |minutes| Settings { clock_skew: TimeDelta::minutes(minutes), ..Settings::default() };
    let by_windows = |upstream: &SampleUpstream, _: &str| {
        let is_window = |query: &str| {
            query.contains("_lastUpdated=ge") && query.contains("_lastUpdated=lt") && !query.contains("_elements=")
        };
        let windows = upstream.requests().iter().filter(|request| is_window(&request.query)).count();
        if windows > 10 { Ok(()) } else { Err(format!("only {windows} windows were read")) }
    };
    let unstamped = lying(Lies { unstamped_every: 100, ..Lies::default() });
    vec![
        Row {
            check: by_windows,
            ..row("bounds of whole seconds", bounds(Bounds::Floored), SYSTEM, Complete("counted"))
        },
        Row {
            check: by_windows,
            ..row("bounds with fractions are refused", bounds(Bounds::WholeSeconds), SYSTEM, Complete("counted"))
        },
        Row { patients: 12, ..row("one of a hundred has no stamp", unstamped.clone(), SYSTEM, Complete("counted")) },
        Row { patients: 12, ..row("one of a hundred has no stamp", unstamped.clone(), GROUP, Complete("counted")) },
        Row {
            patients: 12,
            ..row("one of a hundred has no stamp, and nothing counts", uncounted(unstamped), SYSTEM, Complete("reread"))
        },
        Row {
            prepare: |upstream| {
                let at = "2099-01-01T00:00:00Z".parse().expect("an instant");
                for number in 0..3 {
                    let text = format!(r#"{{"resourceType":"Basic","id":"future-{number}"}}"#);
                    upstream.insert_raw_at(&text, at).expect("a resource");
                }
            },
            ..row("stamps in 2099", Settings::default(), SYSTEM, Complete("counted"))
        },
        row("a clock two minutes ahead", skewed(2), SYSTEM, Complete("counted")),
        row("a clock two minutes behind", skewed(-2), SYSTEM, Complete("counted")),
        row(
            "a clock two minutes ahead, all just loaded",
            Settings { stamp: Stamp::Now, ..skewed(2) },
            SYSTEM,
            Complete("counted"),
        ),
        Row {
            // What others wrote in the last ten minutes comes to be seen while the export runs.
            prepare: |upstream| {
                let behind = upstream.now() - TimeDelta::minutes(10);
                upstream.insert_raw_at(r#"{"resourceType":"Basic","id":"newest"}"#, behind).expect("a resource");
                once_seen(upstream, move |upstream| {
                    let at = behind + TimeDelta::seconds(1);
                    upstream.insert_raw_at(r#"{"resourceType":"Basic","id":"late"}"#, at).expect("a resource");
                });
            },
            ..row("a replica ten minutes behind", Settings::default(), SYSTEM, Complete("counted"))
        },
        Row {
            // Stamped before what is seen at kick-off, and seen later.
            prepare: |upstream| {
                let late = upstream.begin(vec![Op::Create(r#"{"resourceType":"Basic","id":"late"}"#.to_owned())]);
                let late = std::sync::Mutex::new(Some(late.expect("a transaction")));
                let at = upstream.now() + TimeDelta::milliseconds(5);
                upstream.insert_raw_at(r#"{"resourceType":"Basic","id":"newest"}"#, at).expect("a resource");
                once_seen(upstream, move |_| {
                    let late = late.lock().expect("no panic").take();
                    late.expect("it is committed once").commit();
                });
            },
            ..row("a transaction that is seen after its stamp", Settings::default(), SYSTEM, Complete("counted"))
        },
    ]
}

fn uncounted(settings: Settings) -> Settings {
    Settings { counts: false, accurate_total: false, total: Total::Absent, ..settings }
}

fn wire() -> Vec<Row> {
    let accepts = |accepts| lying(Lies { accepts, ..Lies::default() });
    let remembered = |upstream: &SampleUpstream, _: &str| {
        let fhir = |request: &&sample_upstream::RequestSeen| {
            request.headers.get("accept").is_some_and(|accept| accept == "application/fhir+json")
        };
        match upstream.requests().iter().filter(fhir).count() {
            1..8 => Ok(()),
            many => Err(format!("{many} requests asked in the way that was refused")),
        }
    };
    let stall = Lies { step_stall: Some((50, Duration::from_millis(50))), ..Lies::default() };
    vec![
        Row { patients: 12, ..row("pages that cross a step stall", wall(lying(stall)), SYSTEM, Complete("counted")) },
        row(
            "a search cache that mixes up lt with le unless told not to",
            lying(Lies { cache_mixes_lt_and_le: true, ..Lies::default() }),
            SYSTEM,
            Complete("counted"),
        ),
        row(
            "lists are cut short where they may not be kept",
            lying(Lies { no_store_truncates: true, ..Lies::default() }),
            SYSTEM,
            Complete("counted"),
        ),
        Row { check: remembered, ..row("only application/json", accepts(Accepts::Json), SYSTEM, Complete("counted")) },
        Row { check: remembered, ..row("only _format=json", accepts(Accepts::Format), GROUP, Complete("counted")) },
        Row {
            check: remembered,
            patients: 12,
            ..row("only _format=json at a wall", wall(accepts(Accepts::Format)), SYSTEM, Complete("counted"))
        },
    ]
}

/// Does something once, when the first window is read: after the plan was made.
fn once_seen(upstream: &SampleUpstream, change: impl Fn(&SampleUpstream) + Send + Sync + 'static) {
    let (handle, done) = (upstream.clone(), std::sync::atomic::AtomicBool::new(false));
    upstream.away_when(
        move |seen| {
            let is_read = seen.query.contains("_lastUpdated=") && !seen.query.contains("_elements=");
            if is_read && !seen.query.contains("_summary=") && !done.swap(true, std::sync::atomic::Ordering::Relaxed) {
                change(&handle);
            }
            false
        },
        Duration::ZERO,
    );
}
