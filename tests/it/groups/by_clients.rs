//! The Bulk Cohort API: cohorts that clients make by filters, and who may have them (BD-115, SEC-21, SEC-25).

use std::collections::BTreeSet;

use offtake::config::Config;
use sample_upstream::SampleUpstream;
use serde_json::{Value, json};

use crate::raw::Answer;
use crate::smart::{Client, Rig};

const ALL: &str = "system/*.rs system/Group.cruds";
const FILTER: &str = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/member-filter";
const PROFILE: &str = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/bulk-cohort-group";

fn cohort(filters: &[&str]) -> Value {
    let filter = |text: &&str| json!({ "url": FILTER, "valueExpression": { "language": "application/x-fhir-query", "expression": text } });
    let filters: Vec<_> = filters.iter().map(filter).collect();
    json!({ "resourceType": "Group", "type": "person", "actual": false, "name": "Ours", "modifierExtension": filters })
}

fn of_members(filters: &[&str], members: &[&str]) -> Value {
    let mut cohort = cohort(filters);
    cohort["actual"] = json!(true);
    cohort["member"] = members.iter().map(|of| json!({ "entity": { "reference": of } })).collect();
    cohort
}

/// Thirty patients: each third is a woman, each second has a condition that is active, or one that is not.
fn people(upstream: &SampleUpstream) {
    for number in 0..30 {
        let (id, gender) = (format!("p{number:02}"), if number % 3 == 0 { "female" } else { "male" });
        let subject = json!({ "reference": format!("Patient/{id}") });
        let code = if number % 2 == 0 { "diabetes" } else { "flu" };
        for resource in [
            json!({ "resourceType": "Patient", "id": id, "gender": gender }),
            json!({ "resourceType": "Condition", "id": format!("c{number:02}"), "code": { "coding": [{ "system": "urn:x", "code": code }] }, "subject": subject }),
            json!({ "resourceType": "Observation", "id": format!("o{number:02}"), "status": "final", "subject": subject }),
        ] {
            upstream.update(&resource.to_string()).expect("a resource");
        }
    }
    let members: Vec<_> = (0..10).map(|number| super::member(&format!("Patient/p{number:02}"))).collect();
    upstream.insert_raw(&super::group("ward", &members)).expect("a Group");
}

fn on(config: &mut Config) {
    config.export.cohorts_by_clients = true;
}

async fn rig(clients: &[Client], change: impl FnOnce(&mut Config)) -> Rig {
    let rig = Rig::configured(clients, |config| {
        on(config);
        change(config);
    })
    .await;
    for stored in rig.upstream.resources(None) {
        let value: Value = serde_json::from_str(&stored.body).expect("JSON");
        let (name, id) = (&value["resourceType"], &value["id"]);
        rig.upstream.delete(name.as_str().expect("a type"), id.as_str().expect("an id")).expect("it is there");
    }
    people(&rig.upstream);
    rig
}

async fn send(rig: &Rig, token: Option<&str>, prefer: Option<&str>, body: &[u8]) -> Answer {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("Content-Type", "application/fhir+json"), ("Accept", "application/fhir+json")];
    headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
    headers.extend(prefer.map(|value| ("Prefer", value)));
    rig.ask("POST", "/Group", &headers, body).await
}

/// Makes one: its id.
async fn made(rig: &Rig, token: &str, group: &Value) -> String {
    let answer = send(rig, Some(token), None, group.to_string().as_bytes()).await;
    assert_eq!(answer.status, 201, "{group}: {}", String::from_utf8_lossy(&answer.body));
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.header("location"), format!("{}/Group/{id}", rig.base));
    id
}

/// The ids of the patients of an export's observations.
async fn exported(rig: &Rig, token: &str, id: &str) -> BTreeSet<String> {
    let status = rig.exported(&format!("/Group/{id}/$export?_type=Observation"), token).await;
    let (_, links) = rig.listed(&status, token).await;
    let Some(link) = links.get("Observation") else { return BTreeSet::new() };
    let lines = String::from_utf8(rig.ask("GET", link, &[], b"").await.body).expect("text");
    let ids = lines.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["subject"]["reference"].as_str().expect("a subject").trim_start_matches("Patient/").to_owned()
    });
    ids.collect()
}

fn those(wanted: impl Fn(usize) -> bool) -> BTreeSet<String> {
    (0..30).filter(|number| wanted(*number)).map(|number| format!("p{number:02}")).collect()
}

/// BD-115: several filters have to hold together, of patients and of what lies in their compartments; with members of nobody
/// else; and who holds is found out when the export begins.
#[tokio::test]
async fn a_cohort_has_those_of_whom_all_its_filters_hold() {
    let client = Client::new("a", ALL);
    let rig = rig(std::slice::from_ref(&client), |_| {}).await;
    let token = rig.token(&client, ALL).await;
    let women = ["Patient?gender=female"];
    let both = ["Condition?code=urn:x|diabetes", "Patient?gender=female"];
    for (group, expected) in [
        (cohort(&women), those(|number| number % 3 == 0)),
        (cohort(&both[..1]), those(|number| number % 2 == 0)),
        (cohort(&both), those(|number| number % 6 == 0)),
        (cohort(&["Patient?gender=other"]), BTreeSet::new()),
        (of_members(&women, &["Patient/p00", "Patient/p01", "Patient/nobody"]), those(|number| number == 0)),
        (of_members(&both, &["Group/ward"]), those(|number| number % 6 == 0 && number < 10)),
        (
            of_members(&women, &["Group/ward", "Patient/p12"]),
            those(|number| number % 3 == 0 && (number < 10 || number == 12)),
        ),
    ] {
        let id = made(&rig, &token, &group).await;
        assert_eq!(exported(&rig, &token, &id).await, expected, "{group}");
        let read = rig.with_token("GET", &format!("/Group/{id}"), &token).await;
        assert_eq!((read.status, read.header("content-type")), (200, "application/fhir+json"));
        let read = read.json();
        assert_eq!(
            (&read["name"], &read["actual"], &read["meta"]["profile"][0]),
            (&group["name"], &group["actual"], &json!(PROFILE))
        );
        assert_eq!(read["modifierExtension"], group["modifierExtension"]);
    }
    let id = made(&rig, &token, &cohort(&women)).await;
    rig.upstream
        .update(&json!({ "resourceType": "Patient", "id": "p01", "gender": "female" }).to_string())
        .expect("it is there");
    assert_eq!(exported(&rig, &token, &id).await, those(|number| number % 3 == 0 || number == 1));
    // Nothing of it is the server's.
    assert!(
        rig.upstream.requests().iter().all(|seen| seen.method != "POST" || seen.path.ends_with("/_search")),
        "nothing is written upstream"
    );
    rig.stop().await;
}

/// BD-115: made, read, found and deleted, at once or as an interaction that is asked about.
#[tokio::test]
async fn a_cohort_is_made_asynchronously_found_and_deleted() {
    let client = Client::new("a", ALL);
    let mut rig = rig(std::slice::from_ref(&client), |config| config.export.max_cohorts_per_client = 2).await;
    let token = rig.token(&client, ALL).await;
    let group = cohort(&["Patient?gender=female"]);
    let kept = send(&rig, Some(&token), Some("respond-async"), group.to_string().as_bytes()).await;
    assert_eq!((kept.status, kept.header("preference-applied")), (202, "respond-async"));
    let status = kept.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    let told = rig.with_token("GET", &status, &token).await;
    assert_eq!(told.status, 200, "{}", String::from_utf8_lossy(&told.body));
    let told = told.json();
    assert_eq!(
        (&told["type"], &told["entry"][0]["response"]["status"]),
        (&json!("batch-response"), &json!("201 Created"))
    );
    let id = told["entry"][0]["resource"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(told["entry"][0]["response"]["location"], format!("{}/Group/{id}", rig.base));
    let mut other = group.clone();
    other["name"] = json!("Theirs");
    let other = made(&rig, &token, &other).await;
    let found = |query: &'static str| {
        let (rig, token) = (&rig, &token);
        async move {
            let found = rig.with_token("GET", &format!("/Group{query}"), token).await;
            assert_eq!(found.status, 200, "{query}: {}", String::from_utf8_lossy(&found.body));
            found.json()["total"].as_u64().expect("a number")
        }
    };
    for (query, expected) in [("", 2), ("?name=our", 1), ("?name=x", 0), ("?_id=ward", 0)] {
        assert_eq!(found(query).await, expected, "{query}");
    }
    rig.with_token("GET", "/Group?member=Patient/p00", &token).await.assert_refused(
        "search",
        400,
        "not-supported",
        None,
    );
    let full = send(&rig, Some(&token), None, group.to_string().as_bytes()).await;
    full.assert_refused("a third", 429, "throttled", None);
    rig.restart(|_| {}).await;
    let token = rig.token(&client, ALL).await;
    assert_eq!(rig.with_token("GET", &format!("/Group/{id}"), &token).await.status, 200, "it is kept");
    assert_eq!(rig.with_token("DELETE", &format!("/Group/{id}"), &token).await.status, 204);
    for (method, below) in [
        ("GET", format!("/Group/{id}")),
        ("DELETE", format!("/Group/{id}")),
        ("GET", format!("/Group/{id}/$export")),
        ("GET", status),
    ] {
        rig.with_token(method, &below, &token).await.assert_refused(&below, 404, "not-found", None);
    }
    assert_eq!(rig.with_token("GET", &format!("/Group/{other}"), &token).await.status, 200);
    let records = rig.ledger();
    let of = |event: &str| records.iter().filter(|record| record["event"] == event).collect::<Vec<_>>();
    let (made, deleted) = (of("cohort_made"), of("cohort_deleted"));
    assert_eq!((made.len(), deleted.len()), (2, 1));
    assert_eq!((&made[0]["client"], &made[0]["filters"][0][0]), (&json!("a"), &json!("Patient")));
    assert!(!records.iter().any(|record| record.to_string().contains("female")), "SEC-43");
    rig.stop().await;
}

/// SEC-25: a cohort of somebody else is as unknown as one that was never there, to whatever is asked of it.
#[tokio::test]
async fn a_cohort_is_its_creators_alone() {
    let clients = [Client::new("a", ALL), Client::new("b", ALL)];
    let rig = rig(&clients, |_| {}).await;
    let (own, theirs) = (rig.token(&clients[0], ALL).await, rig.token(&clients[1], ALL).await);
    let id = made(&rig, &own, &cohort(&["Patient?gender=female"])).await;
    let number = id.strip_prefix("bulk-cohort-").expect("our prefix").to_owned();
    let never = "0".repeat(32);
    for (method, path) in [
        ("GET", "/Group/bulk-cohort-{}"),
        ("DELETE", "/Group/bulk-cohort-{}"),
        ("GET", "/Group/bulk-cohort-{}/$export"),
        ("GET", "/$bulk-status/{}"),
    ] {
        let foreign = rig.with_token(method, &path.replace("{}", &number), &theirs).await;
        let unknown = rig.with_token(method, &path.replace("{}", &never), &theirs).await;
        foreign.assert_refused(path, 404, "not-found", None);
        assert_eq!((foreign.status, &foreign.body), (unknown.status, &unknown.body), "{method} {path}");
    }
    assert_eq!(rig.with_token("GET", "/Group", &theirs).await.json()["total"], 0);
    // Nor does a cohort of it become one of theirs.
    let nested = of_members(&["Patient?gender=female"], &[&format!("Group/{id}")]);
    let refused = send(&rig, Some(&theirs), None, nested.to_string().as_bytes()).await;
    refused.assert_refused("nested", 400, "not-supported", None);
    // A Group of the server's that has its id is the server's to others, and hides nothing from its client.
    rig.upstream.insert_raw(&super::group(&id, &[super::member("Patient/p01")])).expect("a Group");
    assert_eq!(exported(&rig, &own, &id).await, those(|number| number % 3 == 0));
    assert_eq!(exported(&rig, &theirs, &id).await, those(|number| number == 1));
    assert_eq!(rig.with_token("GET", &format!("/Group/{id}"), &own).await.status, 200);
    rig.stop().await;
}

/// SEC-05, SEC-25: whoever shows no token of ours writes to the server as ever; and so does everybody where it is off.
#[tokio::test]
async fn a_group_that_is_ordinary_traffic_passes_through() {
    let client = Client::new("a", ALL);
    let mut rig = rig(std::slice::from_ref(&client), |_| {}).await;
    let group = cohort(&["Patient?gender=female"]).to_string();
    // A store that has seen none would not believe in one that is as old (SEC-13).
    rig.token(&client, ALL).await;
    let posted = |rig: &Rig| {
        rig.upstream.requests().iter().filter(|seen| seen.method == "POST" && seen.path == "/fhir/Group").count()
    };
    for token in [None, Some("somebody-elses")] {
        let before = posted(&rig);
        let answer = send(&rig, token, None, group.as_bytes()).await;
        assert_eq!(posted(&rig) - before, 1, "{token:?}");
        assert!(answer.json()["id"].as_str().is_none_or(|id| !id.starts_with("bulk-cohort-")), "{token:?}");
    }
    let before = rig.upstream.requests().len();
    assert_eq!(rig.ask("GET", "/Group", &[], b"").await.status, 200);
    rig.ask("DELETE", &format!("/Group/bulk-cohort-{}", "0".repeat(32)), &[], b"").await;
    assert_eq!(rig.upstream.requests().len() - before, 2);
    let profile = |rig: &Rig| {
        let asked = rig.base.clone();
        async move { text_of(&format!("{asked}/metadata")).await.contains(PROFILE) }
    };
    assert!(profile(&rig).await, "it is claimed");
    rig.restart(|config| config.export.cohorts_by_clients = false).await;
    let token = rig.token(&client, ALL).await;
    let refused = send(&rig, Some(&token), None, group.as_bytes()).await;
    refused.assert_refused("off", 401, "login", None);
    assert!(!profile(&rig).await, "it is not");
    let granted = rig.ask_for_token(&rig.parameters(&client, ALL)).await.json();
    assert!(!granted["scope"].as_str().expect("scopes").contains('c'), "{granted}");
    rig.stop().await;
}

async fn text_of(url: &str) -> String {
    let host = url.trim_start_matches("http://").split('/').next().expect("a host");
    let path = &url[url.find(host).expect("it is there") + host.len()..];
    let answer = crate::raw::ask(host, &crate::raw::request("GET", path, host, &[], b"")).await;
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// SEC-21, SEC-25: what is not permitted, not understood or not proven is refused, and nothing is kept of it.
#[tokio::test]
async fn what_a_client_may_not_ask_for_is_refused() {
    let clients =
        [Client::new("a", ALL), Client::new("groups", ALL), Client::new("level", ALL), Client::new("labels", ALL)];
    let rig = rig(&clients, |config| {
        let policies = [
            json!({ "levels": ["group"], "groups": ["ward"] }),
            json!({ "levels": ["patient"] }),
            json!({ "withheld_labels": ["urn:x|secret"], "filter_parameters": ["Patient?gender"] }),
        ];
        for (client, policy) in config.smart.clients[1..].iter_mut().zip(policies) {
            client.policy = serde_json::from_value(policy).expect("a policy");
        }
        config.export.cohorts =
            vec![serde_json::from_value(json!({ "id": "ours", "patients": ["p01"] })).expect("a cohort")];
    })
    .await;
    let token = rig.token(&clients[0], ALL).await;
    let women = ["Patient?gender=female"];
    let mut unknown = cohort(&women);
    unknown["modifierExtension"]
        .as_array_mut()
        .expect("a list")
        .push(json!({ "url": "http://x.example", "valueBoolean": true }));
    let mut devices = cohort(&women);
    devices["type"] = json!("device");
    let mut traits = cohort(&women);
    traits["characteristic"] = json!([{}]);
    let nested = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let huge = "x".repeat(1_100_000);
    let sent = |group: &Value| group.to_string();
    for (what, body, status, code) in [
        ("no filter", sent(&cohort(&[])), 400, "invalid"),
        ("another modifier extension", sent(&unknown), 400, "not-supported"),
        ("devices", sent(&devices), 400, "not-supported"),
        ("traits", sent(&traits), 400, "not-supported"),
        ("a parameter that is not listed", sent(&cohort(&["Patient?shoe-size=42"])), 400, "not-supported"),
        ("a parameter that names patients", sent(&cohort(&["Condition?subject=Patient/p01"])), 400, "not-supported"),
        ("a result parameter", sent(&cohort(&["Patient?_count=1"])), 400, "invalid"),
        ("a chain", sent(&cohort(&["Condition?subject.name=x"])), 400, "invalid"),
        ("a type of nobody", sent(&cohort(&["Organization?name=x"])), 400, "not-supported"),
        ("everybody in an empty list", sent(&of_members(&women, &[])), 400, "invalid"),
        ("a practitioner", sent(&of_members(&women, &["Practitioner/x"])), 400, "not-supported"),
        ("a Group that is not there", sent(&of_members(&women, &["Group/none"])), 400, "not-found"),
        ("depth", nested, 400, "invalid"),
        ("size", huge, 413, "too-long"),
        ("nothing", String::new(), 400, "invalid"),
    ] {
        let refused = send(&rig, Some(&token), None, body.as_bytes()).await;
        refused.assert_refused(what, status, code, None);
    }
    let ours = made(&rig, &token, &of_members(&["Patient?gender=male"], &["Group/ours"])).await;
    assert_eq!(
        exported(&rig, &token, &ours).await,
        those(|number| number == 1),
        "those of the operator can be members"
    );
    // By scope.
    for (scope, what) in [
        ("system/*.rs", "nothing to make"),
        ("system/Group.crs system/Patient.r", "nothing to search"),
        ("system/Group.crs system/Observation.rs", "another type"),
    ] {
        let token = rig.token(&clients[0], scope).await;
        let refused = send(&rig, Some(&token), None, cohort(&women).to_string().as_bytes()).await;
        refused.assert_refused(what, 403, "forbidden", None);
        rig.with_token("DELETE", &format!("/Group/{ours}"), &token).await.assert_refused(what, 403, "forbidden", None);
    }
    // By policy.
    for (client, group, expected) in [
        (1, cohort(&women), 403),
        (1, of_members(&women, &["Patient/p00"]), 403),
        (1, of_members(&women, &["Group/all"]), 400),
        (1, of_members(&women, &["Group/ward"]), 201),
        (2, cohort(&women), 403),
        (3, cohort(&women), 201),
        (3, cohort(&["Condition?code=urn:x|diabetes"]), 403),
    ] {
        let token = rig.token(&clients[client], ALL).await;
        let answer = send(&rig, Some(&token), None, group.to_string().as_bytes()).await;
        assert_eq!(answer.status, expected, "{client} {group}: {}", String::from_utf8_lossy(&answer.body));
        if expected == 201 {
            let id = answer.json()["id"].as_str().expect("an id").to_owned();
            assert!(!exported(&rig, &token, &id).await.is_empty(), "{client}");
        }
    }
    // A server that passes over the filter would have everybody in it.
    rig.upstream.update_settings(|settings| settings.ignored_params = vec!["gender".to_owned()]);
    let refused = send(&rig, Some(&token), None, cohort(&women).to_string().as_bytes()).await;
    refused.assert_refused("ignored", 400, "not-supported", None);
    let refused = rig.with_token("GET", &format!("/Group/{ours}/$export"), &token).await;
    refused.assert_refused("ignored since", 400, "not-supported", None);
    assert_eq!(rig.with_token("GET", "/Group", &token).await.json()["total"], 1);
    rig.stop().await;
}

/// SEC-25: the filters that a client is held to are added, be they a scope's or a policy's, at the time of the export.
#[tokio::test]
async fn a_client_finds_nobody_by_what_it_may_not_have() {
    let clients = [Client::new("a", ALL), Client::new("b", ALL)];
    let mut rig = rig(&clients, |config| {
        let policy = json!({ "required_filters": ["Patient?gender=female"] });
        config.smart.clients[1].policy = serde_json::from_value(policy).expect("a policy");
    })
    .await;
    let diabetes = cohort(&["Condition?code=urn:x|diabetes"]);
    let narrowed = "system/Group.crds system/Observation.rs system/Condition.rs?code=urn:x|flu";
    let token = rig.token(&clients[0], ALL).await;
    let id = made(&rig, &token, &diabetes).await;
    assert_eq!(exported(&rig, &token, &id).await, those(|number| number % 2 == 0));
    let token = rig.token(&clients[0], narrowed).await;
    assert_eq!(exported(&rig, &token, &id).await, BTreeSet::new(), "both codes at once nobody has");
    let token = rig.token(&clients[0], "system/Group.rs system/Observation.rs").await;
    let refused = rig.with_token("GET", &format!("/Group/{id}/$export"), &token).await;
    refused.assert_refused("what finds them may not be searched", 403, "forbidden", None);
    let token = rig.token(&clients[1], ALL).await;
    let id = made(&rig, &token, &diabetes).await;
    assert_eq!(exported(&rig, &token, &id).await, those(|number| number % 6 == 0));
    // SEC-14: an export that a policy would narrow now is revoked.
    let status = rig.exported(&format!("/Group/{id}/$export?_type=Observation"), &token).await;
    rig.reload(|config| {
        let policy = json!({ "required_filters": ["Condition?code=urn:x|flu"] });
        config.smart.clients[1].policy = serde_json::from_value(policy).expect("a policy");
    });
    rig.with_token("GET", &status, &token).await.assert_refused("revoked", 404, "not-found", None);
    rig.stop().await;
}
