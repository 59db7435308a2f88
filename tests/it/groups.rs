//! Groups: whose data an export of one holds, and whose it never holds (spec 6.4, DS-009 to DS-011, SEC-25).

mod by_clients;
mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chrono::{DateTime, Duration, Utc};
use offtake::config::Newcomers;
use sample_upstream::{SampleUpstream, Settings};
use serde_json::{Value, json};

use crate::smart::{Client, Rig};
use crate::support::App;

fn group(id: &str, members: &[Value]) -> String {
    json!({ "resourceType": "Group", "id": id, "type": "person", "actual": true, "member": members }).to_string()
}

fn member(reference: &str) -> Value {
    json!({ "entity": { "reference": reference } })
}

fn patient(id: &str) -> String {
    json!({ "resourceType": "Patient", "id": id }).to_string()
}

/// An observation of a patient.
fn observation(id: &str, patient: &str) -> String {
    let subject = json!({ "reference": format!("Patient/{patient}") });
    let code = json!({ "text": "x" });
    json!({ "resourceType": "Observation", "id": id, "status": "final", "code": code, "subject": subject }).to_string()
}

/// Waits until exports are taken, however busy the machine.
async fn ready(app: &App) {
    let unknown = format!("/$bulk-status/{}", "0".repeat(32));
    while app.ask("GET", &unknown, &[], b"").await.status == 503 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The ids that came, by type.
async fn exported(app: &App, path: &str) -> BTreeMap<String, BTreeSet<String>> {
    ready(app).await;
    let (_, received) = app.export(path).await.unwrap_or_else(|error| panic!("{path}: {error:#}"));
    let ids = |lines: Vec<u8>| {
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec);
        lines
            .map(|line| {
                let resource: Value = serde_json::from_slice(&line).expect("JSON");
                resource["id"].as_str().expect("an id").to_owned()
            })
            .collect()
    };
    received.into_iter().map(|(name, lines)| (name, ids(lines))).collect()
}

fn named(numbers: impl IntoIterator<Item = usize>, prefix: &str) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("{prefix}{number:02}")).collect()
}

/// DS-010, SEC-25: whoever is no member now, is not there any more or is somebody else's is in no file.
#[tokio::test]
async fn a_65_patient_group_with_inactive_ended_nested_cyclic_deleted_and_foreign_members_exports_exactly_its_own() {
    let upstream = SampleUpstream::new(Settings::default());
    let put = |json: &str| upstream.insert_raw(json).expect("a resource");
    for number in 0..65 {
        put(&patient(&format!("p{number:02}")));
        put(&observation(&format!("o{number:02}"), &format!("p{number:02}")));
    }
    // In the compartments of a member and of somebody who is none.
    let mut shared: Value = serde_json::from_str(&observation("shared", "p00")).expect("JSON");
    shared["performer"] = json!([{ "reference": "Patient/p64" }]);
    put(&shared.to_string());
    let mut members = Vec::new();
    for number in 0..65 {
        let own = format!("Patient/p{number:02}");
        let with = |more: Value| {
            let mut member = member(&own);
            member.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            member
        };
        members.push(match number {
            0..20 => member(&own),
            20..25 => with(json!({ "inactive": true })),
            25..30 => with(json!({ "period": { "start": "2010", "end": "2020-01-31" } })),
            30..33 => with(json!({ "period": { "start": "2999-01-01" } })),
            33..35 => with(json!({ "modifierExtension": [{ "url": "http://x.example", "valueBoolean": true }] })),
            // Deleted below.
            48..53 => member(&own),
            53..55 => member(&format!("{own}/_history/1")),
            // Of another server, where other people have the same ids.
            55..60 => member(&format!("https://elsewhere.example/fhir/{own}")),
            60 => json!({ "entity": { "identifier": { "system": "http://x.example", "value": "p60" } } }),
            // Once as somebody who has left, and once more in a group within.
            61..63 => with(json!({ "inactive": true })),
            63 => member("Practitioner/p63"),
            // In groups within, or in none.
            _ => continue,
        });
    }
    members.push(member("Device/p64"));
    for id in ["inner", "off", "changed", "gone"] {
        members.push(member(&format!("Group/{id}")));
    }
    members.push(json!({ "entity": { "reference": "Group/left" }, "period": { "end": "2020" } }));
    let people = |numbers: &[usize]| -> Vec<Value> {
        numbers.iter().map(|number| member(&format!("Patient/p{number:02}"))).collect()
    };
    let mut inner = people(&[35, 36, 37, 38, 39, 61, 62, 0]);
    inner.push(member("Group/innermost"));
    // Round and round.
    let innermost = [people(&[40, 41]), vec![member("Group/all"), member("Group/innermost")]].concat();
    put(&group("all", &members));
    put(&group("inner", &inner));
    put(&group("innermost", &innermost));
    put(&group("left", &people(&[47])));
    let with = |text: &str, more: Value| {
        let mut group: Value = serde_json::from_str(text).expect("JSON");
        group.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        group.to_string()
    };
    put(&with(&group("off", &people(&[42, 43, 44])), json!({ "active": false })));
    let changed = json!({ "modifierExtension": [{ "url": "http://x.example", "valueBoolean": true }] });
    put(&with(&group("changed", &people(&[45, 46])), changed));
    for number in 48..53 {
        upstream.delete("Patient", &format!("p{number:02}")).expect("it is there");
        upstream.delete("Observation", &format!("o{number:02}")).expect("it is there");
    }
    let app = App::before(upstream, |_| {}).await;
    let own = || (0..20).chain(35..42).chain(53..55).chain(61..63);
    for query in ["", "?_type=Patient,Observation", "?_since=2020-01-01T00:00:00Z"] {
        let came = exported(&app, &format!("/Group/all/$export{query}")).await;
        let expected = [("Observation", named(own(), "o")), ("Patient", named(own(), "p"))];
        let expected: BTreeMap<_, _> = expected.map(|(name, ids)| (name.to_owned(), ids)).into();
        assert_eq!(came, expected, "{query}");
    }
    // DS-009
    app.upstream.insert_raw(&group("nobody", &[])).expect("a Group");
    app.upstream
        .insert_raw(&group("nobody-now", &[json!({ "entity": { "reference": "Patient/p00" }, "inactive": true })]))
        .expect("a Group");
    for id in ["nobody", "nobody-now"] {
        assert!(exported(&app, &format!("/Group/{id}/$export")).await.is_empty(), "{id}");
    }
    app.stop().await;
}

/// A server on which membership of Group `all` has changed. Each patient has an observation from before and one from after.
struct Changing {
    upstream: SampleUpstream,
    since: String,
}

impl Changing {
    /// Members before and after, each with what is said of them.
    fn new(settings: Settings, before: &[Value], after: Option<&[Value]>) -> Self {
        let upstream = SampleUpstream::new(settings);
        let now = upstream.now();
        let long_ago: DateTime<Utc> = now - Duration::days(100);
        for id in ["a", "b", "c", "d"] {
            for (prefix, stamp) in [("old", long_ago), ("new", now - Duration::days(1))] {
                upstream.insert_raw_at(&observation(&format!("{prefix}-{id}"), id), stamp).expect("an observation");
            }
            upstream.insert_raw_at(&patient(id), long_ago).expect("a patient");
        }
        upstream.insert_raw_at(&group("all", before), long_ago).expect("a Group");
        upstream.insert_raw_at(&group("inner", &[member("Patient/d")]), long_ago).expect("a Group");
        if let Some(after) = after {
            upstream.update(&group("all", after)).expect("it is there");
        }
        let since = (now - Duration::days(10)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        Self { upstream, since }
    }

    /// What comes of observations since then.
    async fn since(self, newcomers: Newcomers) -> String {
        let app = App::before(self.upstream, |config| config.export.group_since_newcomers = newcomers).await;
        let path = format!("/Group/all/$export?_type=Observation&_since={}", self.since);
        let mut came = exported(&app, &path).await;
        app.stop().await;
        let mut text = String::new();
        for id in came.remove("Observation").unwrap_or_default() {
            write!(text, "{id} ").expect("a text takes all");
        }
        text.trim_end().to_owned()
    }
}

/// BD-020: `export.group_since_newcomers`. With `full` those who became members after `_since` come with all they have; where
/// that cannot be known, they are taken for newcomers.
#[tokio::test]
async fn newcomers_to_a_group_come_as_a_whole_where_that_is_wanted() {
    let [a, b] = ["Patient/a", "Patient/b"].map(member);
    let from = |start: &str| json!({ "entity": { "reference": "Patient/b" }, "period": { "start": start } });
    let no_history = || Settings { history: false, ..Settings::default() };
    let with_history = Settings::default;
    let lately = (SampleUpstream::new(no_history()).now() - Duration::days(5)).format("%Y-%m-%d").to_string();
    let (a_only, both, nested) = ([a.clone()], [a.clone(), b], [a, member("Group/inner")]);
    let (since_lately, since_long_ago) = ([from(&lately)], [from("2001")]);
    let (none, full) = (Newcomers::None, Newcomers::Full);
    for (what, settings, before, after, newcomers, expected) in [
        ("nothing is asked of it", with_history(), &a_only[..], Some(&both[..]), none, "new-a new-b"),
        ("its history tells", with_history(), &a_only, Some(&both), full, "new-a new-b old-b"),
        ("it has not changed", no_history(), &both, None, full, "new-a new-b"),
        ("nobody knows", no_history(), &both, Some(&both), full, "new-a new-b old-a old-b"),
        ("they were members all along", with_history(), &both, Some(&both), full, "new-a new-b"),
        ("a group within is new", with_history(), &a_only, Some(&nested), full, "new-a new-d old-d"),
        ("a group within is not", with_history(), &nested, Some(&nested), full, "new-a new-d"),
        ("it says since when", no_history(), &a_only, Some(&since_lately), full, "new-b old-b"),
        (
            "it says since long ago, and was not in it",
            with_history(),
            &a_only,
            Some(&since_long_ago),
            full,
            "new-b old-b",
        ),
        ("it says since long ago", no_history(), &a_only, Some(&since_long_ago), full, "new-b"),
        ("nobody was in it", with_history(), &[], Some(&a_only), full, "new-a old-a"),
    ] {
        let came = Changing::new(settings, before, after).since(newcomers).await;
        assert_eq!(came, expected, "{what}");
    }
}

/// SEC-25: a cohort of ours is exported as a Group is, by whoever may have Groups and this one, and is nobody else's to see.
#[tokio::test]
async fn a_cohort_of_ours_is_a_group_for_those_who_may_have_it() {
    const ALL: &str = "system/*.rs";
    let clients = [Client::new("a", ALL), Client::new("b", ALL), Client::new("c", ALL)];
    let file = tempfile::NamedTempFile::new().expect("a file");
    // The sample server takes what stands before and after a comma for two values, and finds somebody by one of them.
    let list = ["1", "2", "twice", "nobody", "3,4"].map(|mrn| format!("http://x.example/mrn|{mrn}\n")).concat();
    std::fs::write(file.path(), format!("# ours\n\n{list}")).expect("the disk takes it");
    let rig = Rig::configured(&clients, |config| {
        let cohort = |more: Value| serde_json::from_value(more).expect("a cohort");
        config.export.cohorts = vec![
            cohort(json!({ "id": "registry", "name": "Our registry", "patients": ["p1", "Patient/p2", "not-there"] })),
            cohort(json!({ "id": "trial", "identifiers_file": file.path() })),
            // It hides one of the server's.
            cohort(json!({ "id": "all", "patients": ["p3"] })),
        ];
        config.smart.clients[1].policy =
            serde_json::from_value(json!({ "levels": ["group"], "groups": ["trial"] })).expect("a policy");
        config.smart.clients[2].policy = serde_json::from_value(json!({ "levels": ["patient"] })).expect("a policy");
    })
    .await;
    for (id, mrn) in [("p1", "1"), ("p2", "2"), ("p3", "twice"), ("p4", "twice"), ("p5", "4")] {
        let identifier = json!([{ "system": "http://x.example/mrn", "value": mrn }]);
        let patient = json!({ "resourceType": "Patient", "id": id, "identifier": identifier });
        rig.upstream.insert_raw(&patient.to_string()).expect("a patient");
        rig.upstream.insert_raw(&observation(&format!("of-{id}"), id)).expect("an observation");
    }
    let token = rig.token(&clients[0], ALL).await;
    for (id, expected) in [("registry", &["p1", "p2"][..]), ("trial", &["p1", "p2"]), ("all", &["p3"])] {
        let status = rig.exported(&format!("/Group/{id}/$export?_type=Patient,Observation"), &token).await;
        let (_, links) = rig.listed(&status, &token).await;
        for (name, prefix) in [("Patient", ""), ("Observation", "of-")] {
            let lines = rig.ask("GET", &links[name], &[], b"").await;
            let lines = String::from_utf8(lines.body).expect("text");
            let ids: BTreeSet<String> = lines
                .lines()
                .map(|line| {
                    serde_json::from_str::<Value>(line).expect("JSON")["id"].as_str().expect("an id").to_owned()
                })
                .collect();
            assert_eq!(ids, expected.iter().map(|id| format!("{prefix}{id}")).collect(), "{id} {name}");
        }
    }
    let asked = || rig.upstream.requests().iter().filter(|seen| seen.path.starts_with("/fhir/Group/registry")).count();
    let group = rig.with_token("GET", "/Group/registry", &token).await;
    assert_eq!((group.status, group.header("content-type")), (200, "application/fhir+json"));
    let expected = json!({ "resourceType": "Group", "id": "registry", "active": true, "type": "person", "actual": true, "name": "Our registry" });
    assert_eq!(group.json(), expected);
    assert_eq!(asked(), 0, "the server knows nothing of it");
    // Whoever may not have it finds what the server says, or nothing.
    let theirs = rig.token(&clients[1], ALL).await;
    let refused = rig.with_token("GET", "/Group/registry", &theirs).await;
    refused.assert_refused("by policy", 404, "not-found", None);
    rig.with_token("GET", "/Group/registry/$export", &theirs).await.assert_refused("too", 404, "not-found", None);
    let unknown = rig.with_token("GET", "/Group/no-such-cohort", &theirs).await;
    assert_eq!(
        (unknown.status, &unknown.body),
        (404, &refused.body),
        "what is hidden is as unknown as what is not there"
    );
    assert_eq!(rig.with_token("GET", "/Group/trial", &theirs).await.status, 200);
    let of_patients = rig.token(&clients[2], ALL).await;
    let refused = rig.with_token("GET", "/Group/registry", &of_patients).await;
    refused.assert_refused("by level", 404, "not-found", None);
    let narrow = rig.token(&clients[0], "system/Patient.rs").await;
    rig.with_token("GET", "/Group/registry", &narrow).await.assert_refused("by scope", 403, "forbidden", None);
    assert_eq!(asked(), 0);
    let passed = rig.ask("GET", "/Group/registry", &[], b"").await;
    assert_eq!((passed.status, asked()), (404, 1), "on the way through it is the server's to answer");
    // A list that cannot be read is nobody's excuse to leave somebody out.
    std::fs::write(file.path(), "http://x.example/mrn|1\nnonsense\n").expect("the disk takes it");
    let kickoff = rig.with_token("GET", "/Group/trial/$export", &token).await;
    let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    let failed = loop {
        let answer = rig.with_token("GET", &status, &token).await;
        if answer.status != 202 {
            break answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    failed.assert_refused("a list that is none", 500, "processing", None);
    rig.stop().await;
}

/// SEC-21, SEC-25: a search finds the members, as long as the server is seen to heed it.
#[tokio::test]
async fn a_cohort_by_a_search_has_whom_it_finds_and_never_everybody() {
    let upstream = SampleUpstream::new(Settings::default());
    for number in 0..30 {
        let gender = if number % 3 == 0 { "female" } else { "male" };
        let patient = json!({ "resourceType": "Patient", "id": format!("p{number:02}"), "gender": gender });
        upstream.insert_raw(&patient.to_string()).expect("a patient");
        upstream.insert_raw(&observation(&format!("o{number:02}"), &format!("p{number:02}"))).expect("an observation");
    }
    let app = App::before(upstream, |config| {
        let cohort =
            |id: &str, search: &str| serde_json::from_value(json!({ "id": id, "search": search })).expect("a cohort");
        config.export.cohorts = vec![
            cohort("women", "Patient?gender=female"),
            cohort("nobody", "Patient?gender=other"),
            cohort("unlisted", "Patient?shoe-size=42"),
            cohort("misspelt", "Patient?birthdate=01.01.1950"),
        ];
    })
    .await;
    let women = || (0..30).filter(|number| number % 3 == 0);
    let came = exported(&app, "/Group/women/$export?_type=Patient,Observation").await;
    let expected = [("Observation", named(women(), "o")), ("Patient", named(women(), "p"))];
    assert_eq!(came, expected.map(|(name, ids)| (name.to_owned(), ids)).into());
    assert!(exported(&app, "/Group/nobody/$export").await.is_empty());
    for (id, parameter) in [("unlisted", "shoe-size"), ("misspelt", "birthdate")] {
        let error = app.export(&format!("/Group/{id}/$export")).await.expect_err("nobody knows whom it finds");
        assert!(format!("{error:#}").contains(parameter), "{error:#}");
    }
    app.stop().await;
}
