//! What the authorization server publishes.

use serde_json::json;

use super::{Client, Rig};
use crate::support::App;

/// SM-001 to SM-006, SM-030
#[tokio::test]
async fn the_base_says_where_tokens_are_had() {
    let rig = Rig::with(&[Client::new("a", "system/Patient.rs")]).await;
    for accept in ["application/json", "text/html", "application/fhir+xml"] {
        let answer = rig.ask("GET", "/.well-known/smart-configuration", &[("Accept", accept)], b"").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{accept}");
        let document = answer.json();
        assert_eq!(document["token_endpoint"], rig.token_endpoint());
        assert_eq!(document["scopes_supported"], json!(["system/Patient.rs"]));
        let uri = document["jwks_uri"].as_str().expect("an address");
        let keys = rig.ask("GET", uri.strip_prefix(&rig.base).expect("below the base"), &[], b"").await;
        let keys = keys.json();
        assert_eq!((keys["keys"].as_array().map(Vec::len), &keys["keys"][0]["crv"]), (Some(1), &json!("P-384")));
        assert!(keys["keys"][0].get("d").is_none());
    }
    assert_eq!(rig.ask("POST", "/.well-known/smart-configuration", &[], b"").await.status, 405);
    // At the start the server is asked whether it has one of its own, by us.
    let is_of_clients = |seen: &sample_upstream::RequestSeen| !seen.headers.contains_key("user-agent");
    assert!(!rig.upstream.requests().iter().any(is_of_clients), "it is ours alone");
    rig.stop().await;
}

/// SEC-05: fhir-kit-client shows its token wherever it asks. What the server can do is public, and the token goes nowhere.
#[tokio::test]
async fn what_can_be_done_here_is_read_with_a_token_of_ours_that_stays_here() {
    let client = Client::new("a", "system/Patient.rs");
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let token = rig.token(&client, "system/Patient.rs").await;
    let asked = rig.upstream.requests().len();
    let answer = rig.with_token("GET", "/metadata", &token).await;
    assert_eq!((answer.status, &answer.json()["resourceType"]), (200, &json!("CapabilityStatement")));
    let seen = rig.upstream.requests().split_off(asked);
    let is_shown = |seen: &sample_upstream::RequestSeen| {
        seen.headers.values().any(|value| value.as_bytes().windows(token.len()).any(|part| part == token.as_bytes()))
    };
    assert!(seen.iter().any(|seen| seen.path == "/fhir/metadata") && !seen.iter().any(is_shown), "{seen:?}");
    let asked = rig.upstream.requests().len();
    let bearer = format!("Bearer {token}");
    let twice = [("Authorization", bearer.as_str()), ("X-Other", token.as_str())];
    for (what, status) in [
        ("written to", rig.with_token("POST", "/metadata", &token).await.status),
        ("below it", rig.with_token("GET", "/metadata/x", &token).await.status),
        ("elsewhere", rig.with_token("GET", "/Patient", &token).await.status),
        ("twice", rig.ask("GET", "/metadata", &twice, b"").await.status),
        ("in the URL", rig.ask("GET", &format!("/metadata?a={token}"), &[], b"").await.status),
    ] {
        assert_eq!(status, 401, "{what}");
    }
    assert_eq!(rig.upstream.requests().len(), asked, "none of these gets there");
    rig.stop().await;
}

#[tokio::test]
async fn in_open_mode_it_is_the_upstreams_own() {
    let app = App::with_patients(1, sample_upstream::Settings::default()).await;
    app.ask("GET", "/.well-known/smart-configuration", &[], b"").await;
    let asked = app.upstream.requests();
    assert!(asked.iter().any(|seen| seen.path == "/fhir/.well-known/smart-configuration"), "it was not asked");
    for path in ["/$bulk-token", "/$bulk-introspect", "/$bulk-jwks"] {
        let answer = app.ask("POST", path, &[super::FORM], b"").await;
        answer.assert_refused(path, 403, "forbidden", None);
    }
    assert_eq!(app.upstream.requests().len(), asked.len());
    app.stop().await;
}
