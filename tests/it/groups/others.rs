//! Members that are no patients: practitioners, devices and the like (BD-008).

use std::collections::{BTreeMap, BTreeSet};

use chrono::Duration;
use offtake::config::Newcomers;
use sample_upstream::{SampleUpstream, Settings};
use serde_json::{Value, json};

use super::{exported, group, member, observation, patient};
use crate::smart::{Client, Rig};
use crate::support::App;

/// Two practitioners with a role, and devices of which one is in a patient; p1 was seen by somebody of neither Group.
fn hospital() -> SampleUpstream {
    let upstream = SampleUpstream::new(Settings::default());
    let put = |json: Value| upstream.insert_raw(&json.to_string()).expect("a resource");
    for id in ["dr1", "dr2", "dr3", "dr4"] {
        put(json!({ "resourceType": "Practitioner", "id": id, "identifier": [{ "value": id }] }));
    }
    put(json!({ "resourceType": "Organization", "id": "ward" }));
    put(json!({ "resourceType": "PractitionerRole", "id": "role", "practitioner": { "reference": "Practitioner/dr1" },
        "organization": { "reference": "Organization/ward" } }));
    put(json!({ "resourceType": "Device", "id": "pump", "status": "active" }));
    put(json!({ "resourceType": "Device", "id": "pacemaker", "patient": { "reference": "Patient/p2" } }));
    put(json!({ "resourceType": "Device", "id": "other", "status": "active" }));
    for id in ["p1", "p2"] {
        upstream.insert_raw(&patient(id)).expect("a patient");
        let mut seen: Value = serde_json::from_str(&observation(&format!("of-{id}"), id)).expect("JSON");
        seen["performer"] = json!([{ "reference": "Practitioner/dr3" }]);
        seen["device"] = json!({ "reference": "Device/pacemaker" });
        upstream.insert_raw(&seen.to_string()).expect("an observation");
    }
    let groups = [
        ("staff", &["Practitioner/dr1", "Practitioner/dr2", "PractitionerRole/role", "Practitioner/gone"][..]),
        ("things", &["Device/pump", "Device/pacemaker"]),
        ("mixed", &["Patient/p1", "Device/pump", "Group/staff", "CareTeam/team"]),
    ];
    for (id, members) in groups {
        let members: Vec<_> = members.iter().map(|reference| member(reference)).collect();
        upstream.insert_raw(&group(id, &members)).expect("a Group");
    }
    upstream
}

fn came(expected: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    expected.iter().map(|(name, of)| ((*name).to_owned(), ids(of))).collect()
}

/// BD-008: members come themselves and what they refer to as all that is exported does; nobody's record comes for having been
/// seen by one of them.
#[tokio::test]
async fn practitioners_and_devices_are_exported_as_the_members_that_they_are() {
    let app = App::before(hospital(), |_| {}).await;
    let staff = [("Practitioner", &["dr1", "dr2"][..]), ("PractitionerRole", &["role"]), ("Organization", &["ward"])];
    // The other one is in somebody who is no member (SEC-23).
    let things = [("Device", &["pump"][..])];
    let mixed = [
        ("Patient", &["p1"][..]),
        ("Observation", &["of-p1"]),
        ("Practitioner", &["dr1", "dr2", "dr3"]),
        ("PractitionerRole", &["role"]),
        ("Organization", &["ward"]),
        // The one that the observation was made with is in somebody else.
        ("Device", &["pump"]),
    ];
    let long_ago = "?_since=2000-01-01T00:00:00Z";
    for (path, expected) in [
        ("/Group/staff/$export".to_owned(), &staff[..]),
        (format!("/Group/staff/$export{long_ago}"), &staff),
        ("/Group/things/$export".to_owned(), &things),
        ("/Group/mixed/$export".to_owned(), &mixed),
        ("/Group/staff/$export?_type=Practitioner".to_owned(), &staff[..1]),
        ("/Group/staff/$export?_type=Practitioner,Observation".to_owned(), &staff[..1]),
        ("/Group/staff/$export?_type=Observation".to_owned(), &[]),
        ("/Group/mixed/$export?_type=Patient,Device".to_owned(), &[mixed[0], mixed[5]]),
        (
            "/Group/staff/$export?_type=Practitioner&_typeFilter=Practitioner%3Fidentifier%3Ddr2".to_owned(),
            &[("Practitioner", &["dr2"])],
        ),
    ] {
        assert_eq!(exported(&app, &path).await, came(expected), "{path}");
    }
    // Nothing of a type that no member is of, and nothing that a Group can never hold.
    for (path, asked) in [("/Group/staff/$export?_type=Device", 1), ("/Group/staff/$export?_type=Questionnaire", 0)] {
        let seen = || app.upstream.requests().iter().filter(|seen| seen.path.contains("/Group/staff")).count();
        let before = seen();
        let answer = app.ask("GET", path, &crate::raw::KICKOFF, b"").await;
        assert_eq!(answer.status, 400, "{path}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(seen() - before, asked, "{path}");
    }
    app.stop().await;
}

/// What changed before `_since` does not come, unless it became a member after it and that is wanted.
#[tokio::test]
async fn since_holds_of_members_that_are_no_patients() {
    for (newcomers, expected) in [(Newcomers::None, &["dr2"][..]), (Newcomers::Full, &["dr2", "dr3"])] {
        let upstream = SampleUpstream::new(Settings::default());
        let now = upstream.now();
        let (long_ago, lately) = (now - Duration::days(100), now - Duration::days(1));
        for (id, stamp) in [("dr1", long_ago), ("dr2", lately), ("dr3", long_ago), ("dr4", lately)] {
            let json = json!({ "resourceType": "Practitioner", "id": id }).to_string();
            upstream.insert_raw_at(&json, stamp).expect("a practitioner");
        }
        let members = ["dr1", "dr2", "dr3"].map(|id| member(&format!("Practitioner/{id}")));
        upstream.insert_raw_at(&group("staff", &members[..2]), long_ago).expect("a Group");
        upstream.update(&group("staff", &members)).expect("it is there");
        let app = App::before(upstream, |config| config.export.group_since_newcomers = newcomers).await;
        let since = (now - Duration::days(10)).format("%Y-%m-%dT%H:%M:%SZ");
        let path = format!("/Group/staff/$export?_since={since}");
        assert_eq!(exported(&app, &path).await, came(&[("Practitioner", expected)]), "{newcomers:?}");
        app.stop().await;
    }
}

/// SEC-20, SEC-21: nothing but what the client may have, and nothing that was not asked for, whatever the server answers.
#[tokio::test]
async fn what_a_client_may_not_have_of_them_does_not_come() {
    let client = Client::new("a", "system/*.rs");
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    for stored in hospital().resources(None) {
        rig.upstream.insert_raw(&stored.body).expect("a resource");
    }
    let types = |scope: &'static str| {
        let (rig, client) = (&rig, &client);
        async move {
            let token = rig.token(client, scope).await;
            let status = rig.exported("/Group/staff/$export", &token).await;
            let mut links = rig.listed(&status, &token).await.1;
            links.remove("OperationOutcome");
            links.into_keys().collect::<BTreeSet<_>>()
        }
    };
    assert_eq!(types("system/Group.r system/PractitionerRole.rs").await, ["PractitionerRole".to_owned()].into());
    assert_eq!(types("system/Group.r system/Observation.rs").await, BTreeSet::new());
    let narrow = rig.token(&client, "system/Group.r system/Observation.rs").await;
    let refused = rig.with_token("GET", "/Group/staff/$export?_type=Practitioner", &narrow).await;
    refused.assert_refused("by scope", 403, "forbidden", None);
    rig.stop().await;
}

/// A server that takes no ids, and answers with all there are, has its export end.
#[tokio::test]
async fn a_server_that_passes_over_ids_brings_nothing_of_others() {
    let upstream = hospital();
    upstream.update_settings(|settings| settings.ignored_params = vec!["_id".to_owned()]);
    let app = App::before(upstream, |_| {}).await;
    super::ready(&app).await;
    let ended = app.export("/Group/things/$export").await;
    assert!(ended.is_err(), "{:?}", ended.map(|(_, lines)| lines.into_keys().collect::<Vec<_>>()));
    app.stop().await;
}
