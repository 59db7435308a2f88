//! Elements that are taken out.

use serde_json::{Value, json};

use super::{ALL, STATEMENT, export, rig};
use crate::smart::Client;

/// SEC-26, BD-028
#[tokio::test]
async fn elements_are_taken_out_of_all_that_leaves() {
    let client = Client::new("a", ALL);
    let rig = rig(&client, json!({ "removed_elements": ["Patient.telecom", "Observation.performer"] })).await;
    for json in [
        r#"{"resourceType":"Patient","id":"p","telecom":[{"value":"0123"}],"text":{"status":"generated","div":"call 0123"},"gender":"other"}"#,
        r#"{"resourceType":"Practitioner","id":"seen"}"#,
        r#"{"resourceType":"Practitioner","id":"unseen"}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"performer":[{"reference":"Practitioner/unseen"}],"valueQuantity":{"value":1.00}}"#,
        r#"{"resourceType":"Condition","id":"c","subject":{"reference":"Patient/p"},"asserter":{"reference":"Practitioner/seen"},"contained":[{"resourceType":"Patient","id":"x","telecom":[{"value":"0123"}]}]}"#,
    ] {
        rig.upstream.create(json).expect("a resource");
    }
    let token = rig.token(&client, ALL).await;
    let export = export(&rig, &token, "/Patient/$export?_type=Patient,Observation,Condition,Practitioner").await;
    assert!(!export.output.contains("0123") && !export.output.contains("telecom"), "{}", export.output);
    assert_eq!(export.error.matches(STATEMENT).count(), 1);
    let line = |id: &str| export.output.lines().find(|line| line.contains(&format!(r#""id":"{id}","#)));
    let patient: Value = serde_json::from_str(line("p").expect("a patient")).expect("JSON");
    assert_eq!((&patient["gender"], &patient["meta"]["tag"][0]["code"]), (&json!("other"), &json!("SUBSETTED")));
    assert!(line("o").is_some_and(|line| line.contains(r#""value":1.00"#) && line.contains("SUBSETTED")));
    assert!(line("c").is_some_and(|line| line.contains("SUBSETTED")), "what is contained is a part of it");
    // What a removed element refers to is not followed.
    assert!(export.has("seen") && !export.has("unseen"), "{}", export.output);
    // Where nothing was lost nothing is said, byte for byte.
    let held = rig.upstream.resources(Some("Practitioner"));
    let seen = held.iter().find(|stored| stored.id == "seen").expect("it is there");
    assert_eq!(line("seen"), Some(&*seen.body));
    rig.stop().await;
}
