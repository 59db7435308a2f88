//! Exports belong to their client, and hold what its token permits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::DateTime;
use offtake::{Clock, SystemClock};
use serde_json::json;

use super::{Client, Rig};

fn types(manifest: &serde_json::Value) -> BTreeSet<&str> {
    let files = manifest["output"].as_array().expect("a list").iter();
    files.map(|file| file["type"].as_str().expect("a type")).collect()
}

/// SM-033, SEC-15
#[tokio::test]
async fn an_export_holds_what_the_token_permits_and_no_more() {
    let client = Client::new("a", "system/*.rs");
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let wide = rig.token(&client, "system/*.rs").await;
    let narrow = rig.token(&client, "system/Patient.rs system/Observation.rs system/Group.r").await;
    for (path, expected) in [
        ("/$export", &["Observation", "Patient"][..]),
        ("/Patient/$export", &["Observation", "Patient"]),
        ("/Group/all/$export", &["Observation", "Patient"]),
        ("/$export?_type=Patient", &["Patient"]),
    ] {
        let status = rig.exported(path, &narrow).await;
        let (manifest, _) = rig.listed(&status, &narrow).await;
        assert_eq!(types(&manifest), expected.iter().copied().collect(), "{path}: also what is referred to");
        assert_eq!(manifest["requiresAccessToken"], json!(false));
    }
    // What the wide one may have is more than that.
    let status = rig.exported("/Patient/$export", &wide).await;
    let (manifest, _) = rig.listed(&status, &wide).await;
    assert!(types(&manifest).contains("Practitioner") && types(&manifest).contains("Condition"));
    let refused = rig.with_token("GET", &status, &narrow).await;
    refused.assert_refused("a narrow token on a wide manifest", 403, "forbidden", None);
    assert!(refused.header("www-authenticate").contains("error=\"insufficient_scope\""));
    assert!(refused.header("www-authenticate").contains("system/Condition.rs"));
    rig.stop().await;
}

/// SEC-15: foreign = unknown.
#[tokio::test]
async fn an_export_of_somebody_else_is_none() {
    let (own, other) = (Client::new("a", "system/*.rs"), Client::new("b", "system/*.rs"));
    let rig = Rig::with(&[own.clone(), other.clone()]).await;
    let (token, foreign) = (rig.token(&own, "system/*.rs").await, rig.token(&other, "system/*.rs").await);
    let status = rig.exported("/$export?_type=Patient", &token).await;
    let unknown = "/$bulk-status/00000000000000000000000000000000";
    for method in ["GET", "DELETE"] {
        let told = |answer: &crate::raw::Answer| {
            let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
            (
                answer.status,
                headers.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>(),
                answer.body.clone(),
            )
        };
        let foreign_answer = rig.with_token(method, &status, &foreign).await;
        let unknown_answer = rig.with_token(method, unknown, &foreign).await;
        assert_eq!(foreign_answer.status, 404);
        assert_eq!(told(&foreign_answer), told(&unknown_answer), "{method}");
    }
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 200, "nothing became of it");
    assert_eq!(rig.with_token("DELETE", &status, &token).await.status, 202);
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 404);
    rig.stop().await;
}

/// SEC-27: what one client has received is not told to another one.
#[tokio::test]
async fn deletions_by_difference_are_found_among_what_the_same_client_received() {
    let (first, second) = (Client::new("first", "system/*.rs"), Client::new("second", "system/*.rs"));
    let rig = Rig::configured(&[first.clone(), second.clone()], |config| {
        config.export.deletions_by_difference = true;
        config.upstream.settling_lag = Duration::ZERO;
    })
    .await;
    rig.upstream.update_settings(|settings| settings.history = false);
    let leap = Arc::new(AtomicI64::new(0));
    let leapt = Arc::clone(&leap);
    let now = move || SystemClock.unix_millis() + leapt.load(Ordering::SeqCst);
    rig.upstream.set_clock(Arc::new(move || DateTime::from_timestamp_millis(now()).expect("in range")));
    for id in ["goes", "stays"] {
        let json = format!(r#"{{"resourceType":"Organization","id":"{id}"}}"#);
        rig.upstream.create(&json).expect("a resource");
    }
    leap.fetch_add(10_000, Ordering::SeqCst);
    let token = rig.token(&first, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Organization", &token).await;
    let (manifest, _) = rig.listed(&status, &token).await;
    let since = manifest["transactionTime"].as_str().expect("an instant").to_owned();
    leap.fetch_add(10_000, Ordering::SeqCst);
    rig.upstream.delete("Organization", "goes").expect("it is there");
    rig.upstream.create(r#"{"resourceType":"Organization","id":"later"}"#).expect("a resource");
    leap.fetch_add(10_000, Ordering::SeqCst);
    for (client, told) in [(&second, 0), (&first, 1)] {
        let token = rig.token(client, "system/*.rs").await;
        let status = rig.exported(&format!("/$export?_type=Organization&_since={since}"), &token).await;
        let (manifest, _) = rig.listed(&status, &token).await;
        assert_eq!(manifest["deleted"].as_array().map(Vec::len), Some(told), "{}", client.id);
    }
    rig.stop().await;
}
