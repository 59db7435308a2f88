//! What opens a file where clients have tokens.

use offtake::config::LinkMode;
use serde_json::json;

use super::{Client, Rig};

fn clients() -> [Client; 2] {
    [Client::new("a", "system/*.rs"), Client::new("b", "system/*.rs")]
}

#[tokio::test]
async fn a_signed_link_needs_no_token_and_lives_an_hour() {
    let [own, other] = clients();
    let rig = Rig::with(&[own.clone(), other]).await;
    let token = rig.token(&own, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient", &token).await;
    let (manifest, links) = rig.listed(&status, &token).await;
    assert_eq!(manifest["requiresAccessToken"], json!(false));
    assert_eq!(rig.ask("GET", &links["Patient"], &[], b"").await.status, 200);
    assert_eq!(rig.with_token("GET", &links["Patient"], "anything").await.status, 200, "interop 10");
    let (bare, _) = links["Patient"].split_once('?').expect("it is signed");
    assert_eq!(rig.with_token("GET", bare, &token).await.status, 403, "a token is no link");
    rig.advance(3_601);
    assert_eq!(rig.ask("GET", &links["Patient"], &[], b"").await.status, 403);
    rig.stop().await;
}

/// SEC-15; interop 9
#[tokio::test]
async fn a_proxied_file_wants_a_token_with_the_scope_of_its_type() {
    let [own, other] = clients();
    let rig = Rig::configured(&[own.clone(), other.clone()], |config| config.output.links = LinkMode::Proxy).await;
    let token = rig.token(&own, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient,Condition", &token).await;
    let (manifest, links) = rig.listed(&status, &token).await;
    assert_eq!(manifest["requiresAccessToken"], json!(true));
    let link = &links["Patient"];
    assert!(!link.contains('?'), "it stays the same: {link}");
    assert_eq!(rig.with_token("GET", link, &token).await.status, 200);
    let patients = rig.token(&own, "system/Patient.rs").await;
    let foreign = rig.token(&other, "system/*.rs").await;
    assert_eq!(rig.with_token("GET", link, &patients).await.status, 200);
    for (link, token, status) in
        [(&links["Condition"], &patients, 403), (&links["OperationOutcome"], &patients, 403), (link, &foreign, 404)]
    {
        assert_eq!(rig.with_token("GET", link, token).await.status, status, "{link}");
    }
    let missing = link.replace("Patient-00000", "Patient-00099");
    assert_eq!(rig.with_token("GET", &missing, &foreign).await.body, rig.with_token("GET", link, &foreign).await.body);
    for headers in [&[][..], &[("Authorization", "Basic YTpi")], &[("Authorization", "Bearer x")]] {
        let answer = rig.ask("GET", link, headers, b"").await;
        answer.assert_refused("no good token", 401, "login", None);
        assert!(answer.header("www-authenticate").starts_with("Bearer realm="));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_redirect_leads_on_whoever_shows_a_token() {
    let [own, other] = clients();
    let rig = Rig::configured(&[own.clone(), other.clone()], |config| config.output.links = LinkMode::Redirect).await;
    let token = rig.token(&own, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient", &token).await;
    let (manifest, links) = rig.listed(&status, &token).await;
    assert_eq!(manifest["requiresAccessToken"], json!(true));
    assert_eq!(rig.ask("GET", &links["Patient"], &[], b"").await.status, 401);
    assert_eq!(rig.ask("HEAD", &links["Patient"], &[], b"").await.status, 401);
    let head = rig.with_token("HEAD", &links["Patient"], &token).await;
    assert_eq!(head.status, 200, "a link is signed for GET alone");
    assert_ne!(head.header("etag"), "");
    let foreign = rig.token(&other, "system/*.rs").await;
    assert_eq!(rig.with_token("GET", &links["Patient"], &foreign).await.status, 404);
    let led = rig.with_token("GET", &links["Patient"], &token).await;
    assert_eq!((led.status, led.header("cache-control")), (307, "private, no-store"));
    let target = led.header("location").strip_prefix(&rig.base).expect("local disk is ours").to_owned();
    assert_eq!(rig.ask("GET", &target, &[], b"").await.status, 200);
    assert_eq!(rig.with_token("GET", &target, &token).await.status, 200, "interop 10");
    let changed = target.replace("expires=", "expires=1");
    assert_eq!(rig.ask("GET", &changed, &[], b"").await.status, 403);
    rig.advance(301);
    assert_eq!(rig.ask("GET", &target, &[], b"").await.status, 403, "it lives five minutes");
    rig.stop().await;
}
