//! Who may have files of many types, and that blocks tell of nobody whose resources do not say it.

use offtake::config::LinkMode;
use serde_json::{Value, json};

use crate::policy::under;
use crate::smart::{Client, Rig};

const ALL: &str = "system/*.rs";

/// SEC-15: a file of blocks is for whoever may have every type that is in it.
#[tokio::test]
async fn a_file_of_blocks_is_for_whoever_may_have_all_that_is_in_it() {
    let client = Client::new("a", ALL);
    let rig = Rig::configured(std::slice::from_ref(&client), |config| config.output.links = LinkMode::Proxy).await;
    let wide = rig.token(&client, ALL).await;
    let path = "/Group/all/$export?_type=Patient,Observation&organizeOutputBy=Patient";
    let status = rig.exported(path, &wide).await;
    let manifest = rig.with_token("GET", &status, &wide).await.json();
    let file = manifest["output"][0]["url"].as_str().expect("a url");
    let file = file.strip_prefix(&rig.base).expect("below the base");
    assert_eq!(rig.with_token("GET", file, &wide).await.status, 200);
    for scope in ["system/Patient.rs", "system/Observation.rs", "system/Patient.rs system/Encounter.rs"] {
        let narrow = rig.token(&client, scope).await;
        let refused = rig.with_token("GET", file, &narrow).await;
        refused.assert_refused(scope, 403, "forbidden", None);
        assert!(refused.header("www-authenticate").contains("insufficient_scope"), "{scope}");
    }
    let both = rig.token(&client, "system/Patient.rs system/Observation.rs").await;
    assert_eq!(rig.with_token("GET", file, &both).await.status, 200);
    rig.stop().await;
}

/// SEC-20, SEC-26: where policy takes out whose a resource is, a block would say it.
#[tokio::test]
async fn what_policy_keeps_from_a_client_no_block_tells() {
    for (removed, types, is_refused) in [
        (json!(["Observation.subject"]), "Patient,Observation", true),
        (json!(["*.subject"]), "Patient,Condition", true),
        (json!(["Observation.subject"]), "Patient,Condition", false),
        // A part of it says it, or all that does not is of no use.
        (json!(["*.subject.reference"]), "Patient,Condition", true),
        (json!(["Patient.telecom"]), "Patient,Observation", false),
    ] {
        let client = Client::new("a", ALL);
        let policy: Value = json!({ "removed_elements": removed });
        let rig = Rig::configured(&[], |config| config.smart.clients = vec![under(&client, policy)]).await;
        let token = rig.token(&client, ALL).await;
        let path = format!("/Group/all/$export?_type={types}&organizeOutputBy=Patient");
        let kickoff = rig.with_token("GET", &path, &token).await;
        if is_refused {
            kickoff.assert_refused(&path, 403, "forbidden", None);
        } else {
            assert_eq!(kickoff.status, 202, "{path}: {}", String::from_utf8_lossy(&kickoff.body));
        }
        rig.stop().await;
    }
}
