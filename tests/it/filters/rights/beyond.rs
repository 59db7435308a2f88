//! Ways round a right that lead nowhere: other tokens of the same client, shared exports, scopes beside each other, and servers
//! that heed a part of what they are asked (SEC-15, SEC-21, SM-030, SM-032).

use std::collections::BTreeSet;

use offtake::config::LinkMode;
use sample_upstream::Lies;
use serde_json::json;

use super::{ALL, LABORATORY, OTHER, held, observations, read};
use crate::filters::{coded, is_laboratory};
use crate::policy::{export, under};
use crate::smart::{Client, Rig, assert_error};

/// SEC-15: a file is for who may have all that passed. To whom else it may not tell anything, the export may still be ended
/// by: it is the client's.
#[tokio::test]
async fn a_file_is_for_who_may_have_all_that_passed() {
    for (links, own) in [(LinkMode::Proxy, 200), (LinkMode::Redirect, 307)] {
        let client = Client::new("a", ALL);
        let rig = Rig::configured(std::slice::from_ref(&client), |config| config.output.links = links).await;
        let wide = rig.token(&client, ALL).await;
        let narrow = rig.token(&client, LABORATORY).await;
        let other = rig.token(&client, &format!("{OTHER} system/Patient.rs?gender=male")).await;
        let of_all = rig.exported("/$export?_type=Observation", &wide).await;
        let of_laboratory = rig.exported("/$export?_type=Observation", &narrow).await;
        for (status, tokens) in [
            (&of_all, [(&wide, own), (&narrow, 403), (&other, 403)]),
            (&of_laboratory, [(&wide, own), (&narrow, own), (&other, 403)]),
        ] {
            let (_, files) = rig.listed(status, &wide).await;
            assert!(files.contains_key("Observation") && files.contains_key("OperationOutcome"));
            for (token, expected) in tokens {
                for (name, link) in &files {
                    assert_eq!(rig.with_token("GET", link, token).await.status, expected, "{name}");
                    let head = rig.with_token("HEAD", link, token).await.status;
                    assert_eq!(head == 403, expected == 403, "{name}");
                }
            }
        }
        assert_eq!(rig.with_token("DELETE", &of_all, &other).await.status, 202);
        assert_eq!(read(&rig, &of_all, &wide).await.status, 404);
        rig.stop().await;
    }
}

/// Kick-offs that share an export share their rights.
#[tokio::test]
async fn an_export_is_shared_by_those_of_the_same_rights_only() {
    let client = Client::new("a", ALL);
    let rig =
        Rig::configured(std::slice::from_ref(&client), |config| config.export.share_identical_kickoffs = true).await;
    let mut statuses = BTreeSet::new();
    let both = format!("{LABORATORY} {OTHER}");
    for (scope, passes) in [
        (ALL, (|_| true) as fn(&serde_json::Value) -> bool),
        (LABORATORY, is_laboratory),
        (OTHER, |resource| coded(resource, "category", "vital-signs")),
        (&both, |resource| is_laboratory(resource) || coded(resource, "category", "vital-signs")),
    ] {
        let token = rig.token(&client, scope).await;
        let (status, ids) = observations(&rig, &token, "/$export?_type=Observation").await;
        assert_eq!(ids, held(&rig, passes), "{scope}");
        assert!(statuses.insert(status), "{scope}");
    }
    rig.stop().await;
}

/// SM-030, SM-032: scopes of both notations, with queries and without, add up, and none widens another one.
#[tokio::test]
async fn scopes_beside_each_other_permit_what_any_of_them_does() {
    let clients = [
        Client::new("narrow", "system/Patient.read system/Observation.rs?category=laboratory"),
        Client::new("parts", "system/*.r system/Observation.s?category=laboratory system/Patient.s"),
        Client::new("wide", "system/*.read system/Observation.rs?category=laboratory"),
    ];
    let rig = Rig::with(&clients).await;
    let [narrow, parts, wide] = &clients;
    let (all, laboratory) = (held(&rig, |_| true), held(&rig, is_laboratory));
    for (client, asked, granted, expected) in [
        (narrow, "system/*.read", "system/Patient.read system/Observation.rs?category=laboratory", &laboratory),
        (narrow, "system/*.*", "system/Patient.read system/Observation.rs?category=laboratory", &laboratory),
        (narrow, "system/Observation.read", "system/Observation.rs?category=laboratory", &laboratory),
        (
            narrow,
            "system/Observation.rs system/Patient.rs",
            "system/Observation.rs?category=laboratory system/Patient.rs",
            &laboratory,
        ),
        (parts, "system/Observation.rs", "system/Observation.r system/Observation.s?category=laboratory", &laboratory),
        (wide, "system/Observation.rs", "system/Observation.rs", &all),
        (
            wide,
            "system/Observation.read system/Observation.rs?category=laboratory",
            "system/Observation.read system/Observation.rs?category=laboratory",
            &all,
        ),
        // What cannot be enforced is left out.
        (wide, "system/*.rs?_security=x system/Observation.rs?category=laboratory", LABORATORY, &laboratory),
        (
            wide,
            "system/Observation.rs?category:not=laboratory system/Observation.rs?category=laboratory",
            LABORATORY,
            &laboratory,
        ),
    ] {
        let answer = rig.ask_for_token(&rig.parameters(client, asked)).await;
        assert_eq!(answer.json()["scope"], granted, "{asked}");
        let token = answer.json()["access_token"].as_str().expect("a token").to_owned();
        for below in ["/$export", "/$export?_type=Observation"] {
            let (_, ids) = observations(&rig, &token, below).await;
            assert_eq!(&ids, expected, "{} asks for {asked}: {below}", client.id);
        }
    }
    for (client, asked) in [
        (wide, "system/*.rs?_security=x"),
        (wide, "system/*.read?_security=x"),
        (wide, "system/Observation.rs?_count=1"),
        (wide, "system/Observation.rs?category=laboratory,"),
        (wide, "system/Observation.rs?subject.name=x"),
        (narrow, "system/Condition.rs?category=x"),
    ] {
        let answer = rig.ask_for_token(&rig.parameters(client, asked)).await;
        assert_error(&answer, 400, "invalid_scope", asked);
    }
    rig.stop().await;
}

/// SEC-21: right and wish are one search. A server that heeds one of them only is found out, whichever it is.
#[tokio::test]
async fn a_server_that_heeds_either_right_or_wish_is_found_out() {
    let client = Client::new("a", ALL);
    let policy = json!({ "required_filters": ["Observation?category=laboratory"] });
    for (scope, policy) in [(LABORATORY, json!({})), (ALL, policy)] {
        let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy)]).await;
        rig.upstream.update_settings(|settings| settings.lies = Lies { last_of_repeats: true, ..Lies::default() });
        let token = rig.token(&client, scope).await;
        // One of them stands before the other in the search, and one behind it.
        for wish in ["vital-signs", "exam"] {
            let json = format!(
                r#"{{"resourceType":"Observation","id":"{wish}","status":"final","category":[{{"coding":[{{"code":"{wish}"}}]}}]}}"#
            );
            rig.upstream.create(&json).expect("a resource");
            let below = format!("/$export?_type=Observation&_typeFilter=Observation?category={wish}");
            let answer = rig.with_token("GET", &below, &token).await;
            answer.assert_refused(wish, 400, "not-supported", Some("http._typeFilter"));
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains("ignores `category`"), "{text}");
        }
        let (_, ids) = observations(&rig, &token, "/$export?_type=Observation").await;
        assert_eq!(ids, held(&rig, is_laboratory), "without a wish it is asked once");
        rig.stop().await;
    }
}

/// SEC-21: which Groups a client may have a part of says nothing of who is in one.
#[tokio::test]
async fn no_members_are_had_of_groups_that_are_narrowed() {
    let client = Client::new("a", ALL);
    let policy = json!({ "required_filters": ["Group?type=person"] });
    let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy)]).await;
    let whole = rig.token(&client, ALL).await;
    let narrowed = rig.token(&client, "system/Patient.rs system/Group.rs?type=person").await;
    for token in [&whole, &narrowed] {
        let answer = rig.with_token("GET", "/Group/all/$export?_type=Patient", token).await;
        answer.assert_refused("a Group", 403, "forbidden", None);
        // As resources they are had as far as they pass.
        assert!(!export(&rig, token, "/$export?_type=Group").await.ids("Group").is_empty());
    }
    rig.stop().await;
}
