//! Levels, Groups and types.

use serde_json::json;

use super::{ALL, STATEMENT, export, rig};
use crate::smart::Client;

/// SEC-15, SM-034: refused before anything of it is asked of the server.
#[tokio::test]
async fn levels_and_groups_are_refused_before_the_server_is_asked() {
    let client = Client::new("a", ALL);
    let rig = rig(&client, json!({ "levels": ["group"], "groups": ["mine"] })).await;
    for (id, member) in [("mine", "Group/theirs"), ("theirs", "Patient/p")] {
        let json = format!(
            r#"{{"resourceType":"Group","id":"{id}","type":"person","actual":true,"member":[{{"entity":{{"reference":"{member}"}}}},{{"entity":{{"reference":"Patient/q"}}}}]}}"#
        );
        rig.upstream.create(&json).expect("a Group");
    }
    for id in ["p", "q"] {
        rig.upstream.create(&format!(r#"{{"resourceType":"Patient","id":"{id}"}}"#)).expect("a patient");
    }
    let token = rig.token(&client, ALL).await;
    let before = rig.upstream.requests().len();
    for path in ["/$export", "/Patient/$export"] {
        rig.with_token("GET", path, &token).await.assert_refused(path, 403, "forbidden", None);
    }
    let theirs = rig.with_token("GET", "/Group/theirs/$export", &token).await;
    assert_eq!(rig.upstream.requests().len(), before);
    let unknown = rig.with_token("GET", "/Group/nowhere/$export", &token).await;
    assert_eq!((theirs.status, &theirs.body), (404, &unknown.body), "as if it was not there");
    // SEC-25: what is in a Group that is named is no more than what is named.
    let export = export(&rig, &token, "/Group/mine/$export?_type=Patient").await;
    assert!(export.has("q") && !export.has("p"), "{}", export.output);
    assert!(!export.error.contains(STATEMENT), "{}", export.error);
    rig.stop().await;
}

/// SM-034: policy narrows silently, and says so once in the file of outcomes.
#[tokio::test]
async fn types_are_narrowed_and_it_is_said() {
    let client = Client::new("a", ALL);
    let rig = rig(&client, json!({ "types": ["Patient", "Observation"] })).await;
    let token = rig.token(&client, ALL).await;
    for (path, expected) in [
        ("/$export", &["Observation", "Patient"][..]),
        ("/Patient/$export", &["Observation", "Patient"]),
        ("/Group/all/$export", &["Observation", "Patient"]),
        ("/$export?_type=Patient,Condition", &["Patient"]),
    ] {
        let export = export(&rig, &token, path).await;
        let files = export.manifest["output"].as_array().expect("a list");
        let mut types: Vec<_> = files.iter().filter_map(|file| file["type"].as_str()).collect();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types, expected, "{path}: also what would come along");
        assert_eq!(export.error.matches(STATEMENT).count(), 1, "{path}");
        assert!(!export.error.contains("Condition") && export.proof("Condition").is_null(), "{path}: {}", export.error);
    }
    let refused = rig.with_token("GET", "/$export?_type=Condition", &token).await;
    refused.assert_refused("nothing is left", 403, "forbidden", None);
    rig.stop().await;
}
