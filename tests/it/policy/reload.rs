//! A policy that becomes another one while there are exports (SEC-14).

use std::time::Duration;

use serde_json::json;

use super::{ALL, SOON, export, nothing_is_left, objects, rig, under};
use crate::smart::Client;
use crate::support::until;

/// SEC-14: whatever becomes narrower, and never what becomes wider or can have nothing to do with the export.
#[tokio::test]
async fn a_narrower_policy_ends_what_it_does_not_cover() {
    let before = json!({ "levels": ["system", "group"], "groups": ["all", "other"], "types": ["Patient", "Observation"],
        "withheld_labels": ["s|a"], "removed_elements": ["Patient.telecom"] });
    let client = Client::new("a", ALL);
    for (what, change, stays) in [
        ("the same", json!({}), true),
        (
            "wider",
            json!({ "levels": null, "groups": null, "types": null, "withheld_labels": [], "removed_elements": [] }),
            true,
        ),
        ("another Group, which could be in its own", json!({ "groups": ["all"] }), false),
        ("another level", json!({ "levels": ["group"] }), true),
        ("another type", json!({ "types": ["Patient"] }), true),
        ("its Group", json!({ "groups": ["other"] }), false),
        ("its level", json!({ "levels": ["system"] }), false),
        ("its type", json!({ "types": ["Observation"] }), false),
        ("a label", json!({ "withheld_labels": ["s|a", "s|b"] }), false),
        ("an element", json!({ "removed_elements": ["Patient.telecom", "Patient.name"] }), false),
    ] {
        let mut rig = rig(&client, before.clone()).await;
        let token = rig.token(&client, ALL).await;
        let export = export(&rig, &token, "/Group/all/$export?_type=Patient").await;
        let url = export.manifest["output"][0]["url"].as_str().expect("a link").to_owned();
        let link = url.strip_prefix(&rig.base).expect("ours");
        let mut after = before.clone();
        after.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        rig.reload(|config| config.smart.clients = vec![under(&client, after)]);
        // From the next request on, whether it is removed by then or not.
        let expected = if stays { 200 } else { 404 };
        assert_eq!(rig.with_token("GET", &export.status, &token).await.status, expected, "{what}");
        assert_eq!(rig.ask("GET", link, &[], b"").await.status, expected, "{what}");
        if !stays {
            nothing_is_left(&rig, what).await;
        }
        rig.stop().await;
    }
}

/// SEC-14, SEC-21: what passed a filter tells of what stands where something is kept back.
#[tokio::test]
async fn an_export_by_a_filter_that_is_permitted_no_more_ends() {
    let policy =
        |parameters: &[&str]| json!({ "removed_elements": ["Patient.identifier"], "filter_parameters": parameters });
    let client = Client::new("a", ALL);
    for (below, now, stays) in [
        ("_type=Patient&_typeFilter=Patient?gender=male", &["Patient?gender"][..], true),
        ("_type=Patient&_typeFilter=Patient?gender=male", &[][..], false),
        ("_type=Patient", &[][..], true),
    ] {
        let mut rig = rig(&client, policy(&["Patient?gender", "Patient?_tag"])).await;
        let token = rig.token(&client, ALL).await;
        let export = export(&rig, &token, &format!("/$export?{below}")).await;
        rig.reload(|config| config.smart.clients = vec![under(&client, policy(now))]);
        let expected = if stays { 200 } else { 404 };
        assert_eq!(rig.with_token("GET", &export.status, &token).await.status, expected, "{below} by {now:?}");
        if !stays {
            nothing_is_left(&rig, below).await;
        }
        rig.stop().await;
    }
}

/// SEC-14
#[tokio::test]
async fn an_export_that_runs_has_nothing_after_its_policy_became_narrower() {
    let client = Client::new("a", ALL);
    let mut rig = rig(&client, json!({})).await;
    rig.upstream.generate(20);
    rig.upstream.update_settings(|settings| settings.latency = Duration::from_millis(100));
    let token = rig.token(&client, ALL).await;
    let kickoff = rig.with_token("GET", "/$export", &token).await;
    let status = kickoff.header("content-location").strip_prefix(&rig.base).expect("below the base").to_owned();
    until("it writes", SOON, || objects(&rig).len() > 2).await;
    rig.reload(|config| config.smart.clients = vec![under(&client, json!({ "withheld_labels": ["s|b"] }))]);
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 404);
    nothing_is_left(&rig, "it ran").await;
    rig.stop().await;
}

/// What an earlier version of this program recorded had no policy: it may hold more than there may be now.
#[tokio::test]
async fn an_export_without_a_policy_ends_at_a_start_with_one() {
    let client = Client::new("a", ALL);
    let mut rig = rig(&client, json!({})).await;
    let token = rig.token(&client, ALL).await;
    export(&rig, &token, "/$export?_type=Patient").await;
    rig.restart(|config| config.smart.clients = vec![under(&client, json!({ "removed_elements": ["*.text"] }))]).await;
    nothing_is_left(&rig, "after the start").await;
    rig.stop().await;
}
