//! Filters as rights: scopes with a query and what policy requires (SEC-14, SEC-15, SEC-20, SEC-21, SEC-43, SM-032). Whatever is
//! wished for, nothing leaves beyond the right.

mod beyond;
mod reach;

use std::collections::BTreeSet;

use offtake::config::ClientConfig;
use serde_json::{Value, json};

use super::{coded, is_laboratory};
use crate::policy::{export, under};
use crate::raw::Answer;
use crate::smart::{Client, Rig};

const ALL: &str = "system/*.rs";
const LABORATORY: &str = "system/Observation.rs?category=laboratory";
const MANY: &str = "system/Patient.rs system/Condition.rs system/Observation.rs?category=laboratory";
const OTHER: &str = "system/Observation.rs?category=vital-signs";

/// The status of some export of a client, and the ids of the Observations that it holds.
async fn observations(rig: &Rig, token: &str, below: &str) -> (String, BTreeSet<String>) {
    let exported = export(rig, token, below).await;
    (exported.status.clone(), exported.ids("Observation"))
}

/// What is under a link or a status, by the token of a client that asks no more often than it may.
async fn read(rig: &Rig, below: &str, token: &str) -> Answer {
    loop {
        let answer = rig.with_token("GET", below, token).await;
        if answer.status != 429 {
            return answer;
        }
        rig.pause(429).await;
    }
}

/// Ids of the Observations that the server holds and that pass.
fn held(rig: &Rig, passes: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let all = rig.upstream.resources(Some("Observation"));
    let parsed = all.iter().map(|stored| (stored.id.clone(), serde_json::from_str(&stored.body).expect("JSON")));
    parsed.filter(|(_, resource)| passes(resource)).map(|(id, _)| id).collect()
}

/// SM-032: a scope with a query is granted, and every search of its type carries it.
#[tokio::test]
async fn a_scope_with_a_query_narrows_every_export() {
    let (wide, narrow) = (Client::new("wide", ALL), Client::new("narrow", MANY));
    let rig = Rig::with(&[wide.clone(), narrow.clone()]).await;
    for (client, scope) in [(&wide, MANY), (&narrow, ALL), (&narrow, LABORATORY)] {
        let token = rig.token(client, scope).await;
        for (below, passes) in [
            ("/$export?_type=Observation", is_laboratory as fn(&Value) -> bool),
            ("/Patient/$export?_type=Observation", |resource| {
                is_laboratory(resource)
                    && resource["subject"]["reference"].as_str().is_some_and(|of| of.starts_with("Patient/"))
            }),
            ("/$export?_type=Observation&_typeFilter=Observation?code=718-7", |resource| {
                is_laboratory(resource) && coded(resource, "code", "718-7")
            }),
            // What lies outside of the right is not to be had by a wish.
            ("/$export?_type=Observation&_typeFilter=Observation?category=vital-signs", |_| false),
        ] {
            let (_, ids) = observations(&rig, &token, below).await;
            assert_eq!(ids, held(&rig, passes), "{scope}: {below}");
        }
    }
    let both = rig.token(&wide, &format!("{LABORATORY} {OTHER}")).await;
    let (_, ids) = observations(&rig, &both, "/$export?_type=Observation").await;
    assert_eq!(ids, held(&rig, |resource| is_laboratory(resource) || coded(resource, "category", "vital-signs")));
    rig.stop().await;
}

/// SEC-15: whoever may have less than an export holds does not read its manifest.
#[tokio::test]
async fn a_manifest_is_for_who_may_have_all_that_passed() {
    let client = Client::new("a", ALL);
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let laboratory = rig.token(&client, LABORATORY).await;
    let (status, _) = observations(&rig, &laboratory, "/$export?_type=Observation").await;
    let whole = rig.token(&client, ALL).await;
    let (of_all, _) = observations(&rig, &whole, "/$export?_type=Observation").await;
    let (wished, _) =
        observations(&rig, &whole, "/$export?_type=Observation&_typeFilter=Observation?category=laboratory").await;
    for (scope, of_laboratory, all) in [
        (ALL, 200, 200),
        (LABORATORY, 200, 403),
        (OTHER, 403, 403),
        ("system/Observation.rs?category=laboratory&status=final", 403, 403),
        ("system/Observation.rs?category=vital-signs system/Observation.rs?category=laboratory", 200, 403),
        ("system/Patient.rs", 403, 403),
    ] {
        let token = rig.token(&client, scope).await;
        for (status, expected) in [(&status, of_laboratory), (&wished, of_laboratory), (&of_all, all)] {
            let answer = read(&rig, status, &token).await;
            assert_eq!(answer.status, expected, "{scope}");
            if expected == 403 {
                assert!(answer.header("www-authenticate").contains("insufficient_scope"), "{scope}");
            }
        }
    }
    rig.stop().await;
}

/// SEC-21: what policy requires is in every search, by whatever parameter the client is told what it may filter by.
#[tokio::test]
async fn what_policy_requires_holds_whatever_is_asked_for() {
    let client = Client::new("a", ALL);
    let policy = json!({ "required_filters": ["Observation?category=laboratory", "Observation?status=final"] });
    let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy)]).await;
    let token = rig.token(&client, ALL).await;
    for below in [
        "/$export",
        "/Group/all/$export?_type=Observation",
        "/$export?_type=Observation&_typeFilter=Observation?status=final",
    ] {
        let (_, ids) = observations(&rig, &token, below).await;
        let members =
            |resource: &Value| resource["subject"]["reference"].as_str().is_some_and(|of| of.starts_with("Patient/"));
        let expected = held(&rig, |resource| is_laboratory(resource) && (below.starts_with("/$") || members(resource)));
        assert!(!ids.is_empty() && ids.is_subset(&expected), "{below}");
        if below.starts_with("/$") {
            assert_eq!(ids, expected, "{below}");
        }
    }
    // SEC-43: values are in no record.
    let ledger = serde_json::to_string(&rig.ledger()).expect("JSON");
    assert!(ledger.contains("category") && !ledger.contains("laboratory") && !ledger.contains("final"), "{ledger}");
    rig.stop().await;
}

/// SEC-14: an export that does not pass what is required now is gone.
#[tokio::test]
async fn an_export_ends_when_more_is_required_than_it_was_narrowed_by() {
    let client = Client::new("a", ALL);
    for (before, query, after, stays) in [
        (json!({}), "", json!({ "required_filters": ["Observation?category=laboratory"] }), false),
        (
            json!({}),
            "&_typeFilter=Observation?category=laboratory",
            json!({ "required_filters": ["Observation?category=laboratory"] }),
            true,
        ),
        (json!({}), "", json!({ "required_filters": ["Patient?active=true"] }), true),
        (json!({ "required_filters": ["Observation?category=laboratory"] }), "", json!({}), true),
        (
            json!({ "required_filters": ["Observation?category=laboratory"] }),
            "",
            json!({ "required_filters": ["Observation?category=laboratory", "Observation?status=final"] }),
            false,
        ),
    ] {
        let what = format!("{before} {query} {after}");
        let mut rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, before)]).await;
        let token = rig.token(&client, ALL).await;
        let (status, _) = observations(&rig, &token, &format!("/$export?_type=Observation{query}")).await;
        rig.reload(|config| config.smart.clients = vec![under(&client, after)]);
        let expected = if stays { 200 } else { 404 };
        assert_eq!(read(&rig, &status, &token).await.status, expected, "{what}");
        rig.stop().await;
    }
    // The same where its registered scope becomes one with a query.
    let mut rig = Rig::with(std::slice::from_ref(&client)).await;
    let token = rig.token(&client, ALL).await;
    let (status, _) = observations(&rig, &token, "/$export?_type=Observation").await;
    rig.reload(|config| config.smart.clients = vec![ClientConfig { scope: LABORATORY.to_owned(), ..client.config() }]);
    assert_eq!(read(&rig, &status, &token).await.status, 404);
    rig.stop().await;
}

/// SEC-21: a right that cannot be enforced is none, and says so.
#[tokio::test]
async fn a_right_that_cannot_be_enforced_refuses_the_kick_off() {
    let client = Client::new("a", ALL);
    for (policy, below, status, said) in [
        (json!({ "required_filters": ["Observation?near=x"] }), "/$export", 403, "`near`"),
        (json!({ "required_filters": ["Observation?subject=Patient/1"] }), "/Patient/$export", 403, "`subject`"),
        (json!({ "required_filters": ["Observation?category=laboratory"] }), "/$export", 400, "ignores `category`"),
    ] {
        let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy)]).await;
        rig.upstream.update_settings(|settings| settings.ignored_params = vec!["category".to_owned()]);
        let token = rig.token(&client, ALL).await;
        let answer = rig.with_token("GET", below, &token).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{said}: {text}");
        assert!(text.contains(said), "{text}");
        let others = rig.with_token("GET", "/$export?_type=Patient", &token).await;
        assert_eq!(others.status, 202, "what is not narrowed is not concerned");
        rig.stop().await;
    }
}

/// SEC-21: by a filter nobody finds out what is kept back.
#[tokio::test]
async fn who_may_not_have_all_of_a_resource_filters_only_by_what_is_listed() {
    let client = Client::new("a", ALL);
    let policy = json!({ "removed_elements": ["Patient.identifier"], "filter_parameters": ["Patient?gender"] });
    let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy)]).await;
    let token = rig.token(&client, ALL).await;
    let ask = async |filter: &str| {
        rig.with_token("GET", &format!("/$export?_type=Patient&_typeFilter={filter}"), &token).await
    };
    assert_eq!(ask("Patient?gender=male").await.status, 202);
    ask("Patient?identifier=000001").await.assert_refused("kept back", 403, "forbidden", Some("http._typeFilter"));
    // Nor by asking for a scope.
    let token = rig.token(&client, "system/Patient.rs?identifier=000001").await;
    assert_eq!(rig.with_token("GET", "/$export?_type=Patient", &token).await.status, 403);
    rig.stop().await;
}
