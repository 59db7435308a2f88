//! `.well-known/smart-configuration` where tokens are issued elsewhere.

use std::sync::Arc;

use offtake::SystemClock;
use offtake::config::SmartMode;
use serde_json::json;

use super::issuer::{Issuer, ok};
use super::{External, client};
use crate::raw;
use crate::support::Front;

const PATH: &str = "/.well-known/smart-configuration";
const ALL: &str = "system/*.rs";

/// SM-001 to SM-006: where the upstream says nothing, clients are told where the issuer is.
#[tokio::test]
async fn the_issuers_token_endpoint_is_told_where_the_upstream_has_nothing_to_say() {
    let external = External::with(&[("a", "system/Patient.rs")]).await;
    for accept in ["application/json", "text/html"] {
        let answer = external.rig.ask("GET", PATH, &[("Accept", accept)], b"").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{accept}");
        let document = answer.json();
        assert_eq!(document["token_endpoint"], format!("{}/token", external.issuer.base));
        assert_eq!(document["scopes_supported"], json!(["system/Patient.rs"]));
        assert_eq!(document["token_endpoint_auth_methods_supported"], json!(["private_key_jwt"]));
        for other in ["issuer", "jwks_uri", "introspection_endpoint", "authorization_endpoint"] {
            assert!(document.get(other).is_none(), "{other} would be ours, or is for those who log in");
        }
    }
    let asked = external.rig.upstream.requests();
    assert!(asked.iter().all(|seen| seen.path == format!("/fhir{PATH}")) && !asked.is_empty(), "it is asked first");
    assert_eq!(external.issuer.asked("/.well-known/openid-configuration"), 1, "and the issuer once");
    external.rig.stop().await;
}

#[tokio::test]
async fn it_can_be_said_in_the_configuration() {
    let external = External::configured(&[("a", ALL)], |config| {
        config.smart.issuer.token_endpoint = Some("https://login.example/token".parse().expect("a URL"));
    })
    .await;
    let document = external.rig.ask("GET", PATH, &[], b"").await.json();
    assert_eq!(document["token_endpoint"], "https://login.example/token");
    assert_eq!(external.issuer.asked("/.well-known/openid-configuration"), 0);
    external.rig.stop().await;
}

#[tokio::test]
async fn what_is_not_known_is_not_told() {
    let external = External::with(&[("a", ALL)]).await;
    external.issuer.say("/.well-known/openid-configuration", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    external.rig.ask("GET", PATH, &[], b"").await.assert_refused("the issuer is away", 503, "transient", None);
    external.rig.stop().await;
}

/// What the upstream says to those who log in with its apps is not hidden behind ours.
#[tokio::test]
async fn an_upstream_that_says_it_itself_is_heard() {
    let (issuer, upstream) = (Issuer::serve().await, Issuer::serve().await);
    let change = |config: &mut offtake::Config| {
        config.smart.mode = SmartMode::External;
        config.smart.jwks_private_hosts = vec!["127.0.0.1".to_owned()];
        config.smart.issuer.issuer = Some(issuer.base.clone());
        config.smart.clients = vec![client("a", ALL)];
    };
    let front = Front::before(&upstream.base, change, Arc::new(SystemClock)).await;
    let ask = async |method: &str| {
        raw::ask(&front.host(), &raw::request(method, &format!("/fhir{PATH}"), &front.host(), &[], b"")).await
    };
    let plain =
        |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}Content-Length: 0\r\n\r\n");
    let theirs = json!({ "authorization_endpoint": "https://login.example/authorize", "token_endpoint": "https://login.example/t" });
    let html =
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi".to_owned();
    for (what, answer, method, status, is_theirs) in [
        ("its own", ok(&theirs, ""), "GET", 200, true),
        ("its own, asked for the head", plain("200 OK", "Content-Type: application/json\r\n"), "HEAD", 200, true),
        ("nothing", plain("404 No", ""), "GET", 200, false),
        ("gone", plain("410 No", ""), "GET", 200, false),
        ("not for us", plain("401 Who", "WWW-Authenticate: Bearer\r\n"), "GET", 200, false),
        ("a page", html, "GET", 200, false),
        ("too often", plain("429 Later", ""), "GET", 429, true),
        ("away", plain("503 Later", ""), "GET", 503, true),
        ("led on", plain("302 There", "Location: /x\r\n"), "GET", 302, true),
        ("posted", plain("405 No", ""), "POST", 405, true),
    ] {
        upstream.say(PATH, &answer);
        let answer = ask(method).await;
        assert_eq!(answer.status, status, "{what}");
        let is_ours = answer.json()["token_endpoint"] == format!("{}/token", issuer.base);
        assert_eq!(is_ours, !is_theirs, "{what}: {}", String::from_utf8_lossy(&answer.body));
    }
    front.stop().await;
}
