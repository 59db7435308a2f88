//! `_elements`: what was asked for of each resource, and what nobody can do without (BD-027, BD-028; spec 2.4.3).

use std::time::Duration;

use sample_upstream::{SampleUpstream, Settings};
use serde_json::{Value, json};

use super::{PEOPLE, export, kick_off, patients, string};
use crate::policy::under;
use crate::raw::KICKOFF;
use crate::smart::{Client, Rig};
use crate::support::App;

async fn app() -> App {
    let upstream = SampleUpstream::new(Settings::default());
    for json in PEOPLE {
        upstream.create(json).expect("a resource");
    }
    App::before(upstream, |_| {}).await
}

/// The names of the elements of a line, and whether it says that it is not whole.
fn shape(line: &str) -> (Vec<String>, bool) {
    let resource: Value = serde_json::from_str(line).expect("JSON");
    let names = resource.as_object().expect("an object").keys().cloned().collect();
    let tag = json!({ "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED" });
    let tags = resource["meta"]["tag"].as_array().map_or(0, |tags| tags.iter().filter(|own| **own == tag).count());
    assert!(tags < 2, "{line}");
    (names, tags == 1)
}

#[tokio::test]
async fn every_level_gives_what_was_asked_for_and_says_what_is_not_whole() {
    let app = app().await;
    let whole = app.export("/$export").await.expect("an export").1;
    for level in ["", "/Patient", "/Group/g"] {
        let export =
            export(&app.base, level, &[string("_elements", "Patient.birthDate,note"), string("_elements", "id")], None)
                .await;
        for (reference, expected, is_less) in [
            ("Patient/anna", &["active", "birthDate", "id", "meta", "resourceType"][..], true),
            ("Patient/ben", &["active", "birthDate", "id", "meta", "resourceType"], false),
            ("Observation/of-anna", &["code", "id", "meta", "resourceType", "status", "subject"], true),
            ("Observation/of-ben", &["code", "id", "meta", "note", "resourceType", "status", "subject"], false),
            ("Condition/condition-of-ben", &["id", "meta", "resourceType", "subject"], true),
        ] {
            let line = export.line(reference);
            let (mut names, is_tagged) = shape(line);
            names.sort_unstable();
            assert_eq!(names, expected, "{level}: {line}");
            assert_eq!(is_tagged, is_less, "{level}: {line}");
            if !is_less {
                let name = reference.split('/').next().expect("a type");
                let bytes = String::from_utf8(whole[name].clone()).expect("text");
                assert!(bytes.lines().any(|own| own == line), "what is whole is as it was: {line}");
            }
        }
    }
    // What decides whose a resource is was looked at before.
    let shared =
        export(&app.base, "/Patient", &[&patients(&["anna"])[..], &[string("_elements", "id")]].concat(), None).await;
    assert_eq!(shared.ids(), ["Observation/of-anna", "Patient/anna"]);
    // The server is never asked for less: what decides would be missing.
    let asked = app.upstream.requests();
    assert!(asked.iter().all(|seen| !seen.query.contains("birthDate") && !seen.query.contains("note")), "{asked:?}");
    app.stop().await;
}

/// Spec 2.4.1.4: who came to the Group since, and what there is of them.
#[tokio::test]
async fn the_three_calls_of_the_guide_bring_the_older_data_of_a_new_member() {
    let upstream = SampleUpstream::new(Settings::default());
    let then = "2020-01-01T00:00:00Z".parse().expect("a time");
    for json in PEOPLE {
        upstream.insert_raw_at(json, then).expect("a resource");
    }
    let group = PEOPLE[9].replace("Patient/nobody", "Patient/cleo");
    upstream.update(&group).expect("a Group");
    let changed = PEOPLE.iter().find(|json| json.contains("\"of-ben\"")).expect("there is one");
    upstream.update(changed).expect("a new version");
    let app = App::before(upstream, |_| {}).await;
    let members = app.export("/Group/g/$export?_type=Patient&_elements=id").await.expect("an export").1;
    let mut ids: Vec<_> = std::str::from_utf8(&members["Patient"]).expect("text").lines().map(super::id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["anna", "ben", "cleo"]);
    let known = ["anna", "ben"];
    let new: Vec<_> = ids.iter().map(String::as_str).filter(|id| !known.contains(id)).collect();
    let of_new = export(&app.base, "/Group/g", &patients(&new), None).await;
    assert_eq!(of_new.ids(), ["Observation/of-cleo", "Patient/cleo"]);
    let since = app.export("/Group/g/$export?_since=2021-01-01T00:00:00Z").await.expect("an export").1;
    let names: Vec<_> = since.values().flat_map(|lines| std::str::from_utf8(lines).expect("text").lines()).collect();
    assert_eq!(names.into_iter().map(super::id).collect::<Vec<_>>(), ["of-ben"]);
    app.stop().await;
}

/// SEC-21: a filter is proven, and decides, by what does not leave; and the proof counts the same.
#[tokio::test]
async fn what_is_filtered_by_need_not_be_asked_for() {
    let app = app().await;
    for (id, gender) in [("dora", "female"), ("emil", "male")] {
        let json = format!(r#"{{"resourceType":"Patient","id":"{id}","gender":"{gender}"}}"#);
        app.upstream.create(&json).expect("a resource");
    }
    let asked = [string("_type", "Patient"), string("_typeFilter", "Patient?gender=female"), string("_elements", "id")];
    for level in ["", "/Patient"] {
        let export = export(&app.base, level, &asked, None).await;
        assert_eq!(export.ids(), ["Patient/dora"], "{level}");
        let (names, is_tagged) = shape(export.line("Patient/dora"));
        assert!(is_tagged && !names.iter().any(|name| name == "gender"), "{names:?}");
        let proof = &export.manifest["extension"]["https://offtake.dev/proof"]["Patient"];
        assert_eq!((&proof["written"], &proof["short"]), (&json!(1), &json!(0)), "{proof}");
    }
    app.stop().await;
}

/// Who asks for other elements asks for something else.
#[tokio::test]
async fn kick_offs_for_other_elements_share_no_export() {
    let client = Client::new("a", "system/*.rs");
    let rig =
        Rig::configured(std::slice::from_ref(&client), |config| config.export.share_identical_kickoffs = true).await;
    rig.upstream.update_settings(|settings| settings.latency = Duration::from_secs(2));
    let token = rig.token(&client, "system/*.rs").await;
    let mut places = Vec::new();
    for elements in ["id", "birthDate", "id"] {
        let asked = [string("_type", "Patient"), string("_elements", elements)];
        let answer = kick_off(&rig.base, "/Patient", &asked, Some(&token)).await;
        assert_eq!(answer.status, 202, "{elements}");
        places.push(answer.header("content-location").to_owned());
    }
    assert_eq!(places[0], places[2], "the same once more");
    assert_ne!(places[0], places[1], "another one");
    rig.stop().await;
}

/// SEC-22: what nobody understands is never left out, whatever a client prefers.
#[tokio::test]
async fn names_that_are_none_are_refused_by_their_place() {
    let app = app().await;
    let first = Some("Parameters.parameter[0]");
    for name in
        ["stauts", "Patient.status", "Patient.name.family", "Dragon.id", "*.id", "", "id,,status", "Patient", "_id"]
    {
        kick_off(&app.base, "/Patient", &[string("_elements", name)], None)
            .await
            .assert_refused(name, 400, "value", first);
        let lenient = [KICKOFF[0], ("Prefer", "respond-async, handling=lenient")];
        let query = format!("/Patient/$export?_type=Patient&_elements={name}");
        app.ask("GET", &query, &lenient, b"").await.assert_refused(name, 400, "value", Some("http._elements"));
    }
    let wrong = json!({ "name": "_elements", "valueCode": "id" });
    kick_off(&app.base, "", &[wrong], None).await.assert_refused("a code", 400, "invalid", first);
    app.stop().await;
}

/// SEC-26: what policy takes out does not come back for being asked for, and nothing is followed that is not there.
#[tokio::test]
async fn what_policy_takes_out_stays_out() {
    let client = Client::new("a", "system/*.rs");
    let policy = json!({ "removed_elements": ["Patient.birthDate", "Observation.note"] });
    let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy)]).await;
    for json in PEOPLE {
        rig.upstream.create(json).expect("a resource");
    }
    for json in [
        r#"{"resourceType":"Practitioner","id":"dr","name":[{"family":"D"}]}"#,
        r#"{"resourceType":"Practitioner","id":"other","name":[{"family":"O"}]}"#,
        r#"{"resourceType":"Encounter","id":"e","status":"finished","class":{"code":"AMB"},"subject":{"reference":"Patient/anna"},"participant":[{"individual":{"reference":"Practitioner/dr"}}]}"#,
        r#"{"resourceType":"Condition","id":"c","subject":{"reference":"Patient/anna"},"recorder":{"reference":"Practitioner/other"}}"#,
    ] {
        rig.upstream.create(json).expect("a resource");
    }
    let token = rig.token(&client, "system/*.rs").await;
    let asked = [&patients(&["anna", "ben"])[..], &[string("_elements", "birthDate,note,recorder")]].concat();
    let export = export(&rig.base, "/Patient", &asked, Some(&token)).await;
    for reference in ["Patient/anna", "Patient/ben", "Observation/of-ben"] {
        let (names, is_tagged) = shape(export.line(reference));
        assert!(is_tagged && !names.iter().any(|name| name == "birthDate" || name == "note"), "{names:?}");
    }
    assert_eq!(export.lines["Practitioner"].len(), 1, "only who is referred to by what is left");
    let (names, is_tagged) = shape(export.line("Practitioner/other"));
    assert_eq!((names.len(), is_tagged), (3, true), "{names:?}");
    rig.stop().await;
}
