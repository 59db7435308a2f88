//! SEC-44: a wall clock that went back, and one that leapt.

use chrono::TimeDelta;
use sample_upstream::{SampleUpstream, Settings};

use super::{Client, FORM, Rig, assert_error, form};
use crate::support;

const HOUR: i64 = 3_600_000;

fn client() -> Client {
    Client::new("a", "system/*.rs")
}

/// Has the engine look at its exports often enough.
async fn let_it_look(rig: &Rig) {
    for _ in 0..20 {
        rig.advance(31);
        tokio::task::yield_now().await;
        assert_eq!(rig.ask("GET", "/Patient?_count=1", &[], b"").await.status, 200);
    }
}

async fn is_refused(rig: &Rig, client: &Client, token: &str, status: &str, link: &str) {
    assert_eq!(rig.with_token("GET", status, token).await.status, 503, "a token");
    assert_eq!(rig.ask("GET", link, &[], b"").await.status, 503, "a link");
    let parameters = rig.parameters(client, "system/*.rs");
    let answer = rig.ask("POST", "/$bulk-token", &[FORM], form(&parameters).as_bytes()).await;
    assert_error(&answer, 503, "temporarily_unavailable", "an assertion");
    assert_eq!(rig.ask("GET", "/Patient?_count=1", &[], b"").await.status, 200, "what passes through");
}

#[tokio::test]
async fn while_the_clock_is_behind_what_was_seen_nothing_that_was_signed_is_accepted() {
    let client = client();
    let mut rig = Rig::with(std::slice::from_ref(&client)).await;
    let token = rig.token(&client, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient", &token).await;
    let (_, links) = rig.listed(&status, &token).await;
    let link = &links["Patient"];
    rig.clock.set_by(-59_000);
    assert_eq!(rig.ask("GET", link, &[], b"").await.status, 200, "clocks are set a little all the time");
    rig.clock.set_by(-2_000);
    is_refused(&rig, &client, &token, &status, link).await;
    rig.clock.set_by(61_000);
    assert_eq!(rig.ask("GET", link, &[], b"").await.status, 200);
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 200);
    // What was seen outlives the process.
    rig.clock.set_by(-61_000);
    rig.restart(|_| {}).await;
    let parameters = rig.parameters(&client, "system/*.rs");
    let answer = rig.ask("POST", "/$bulk-token", &[FORM], form(&parameters).as_bytes()).await;
    assert_error(&answer, 503, "temporarily_unavailable", "an assertion");
    rig.clock.set_by(61_000);
    let token = rig.token(&client, "system/*.rs").await;
    let status = rig.with_token("GET", &status, &token).await.status;
    assert!(matches!(status, 200 | 202), "{status}");
    rig.stop().await;
}

#[tokio::test]
async fn after_a_leap_nothing_expires_until_the_clock_is_back() {
    let client = client();
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let token = rig.token(&client, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient", &token).await;
    rig.clock.set_by(48 * HOUR);
    let_it_look(&rig).await;
    let token = rig.token(&client, "system/*.rs").await;
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 200, "a day and more after its end");
    rig.clock.set_by(-48 * HOUR);
    let_it_look(&rig).await;
    let token = rig.token(&client, "system/*.rs").await;
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 200);
    rig.advance(25 * 3_600);
    let token = rig.token(&client, "system/*.rs").await;
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 404, "time has passed");
    rig.stop().await;
}

#[tokio::test]
async fn a_leap_is_explained_by_a_server_whose_clock_agrees() {
    let client = client();
    let settings = Settings { clock_skew: TimeDelta::hours(48), ..Settings::default() };
    let upstream = SampleUpstream::new(settings);
    upstream.generate(3);
    let server = upstream.serve(support::listener().await).await;
    let rig = Rig::before(upstream, server, std::slice::from_ref(&client), |_| {}).await;
    let token = rig.token(&client, "system/*.rs").await;
    let status = rig.exported("/$export?_type=Patient", &token).await;
    rig.clock.set_by(48 * HOUR);
    let_it_look(&rig).await;
    let token = rig.token(&client, "system/*.rs").await;
    assert_eq!(rig.with_token("GET", &status, &token).await.status, 404, "it was ours that was wrong");
    rig.stop().await;
}
