//! The token endpoint and what comes of it.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use super::{Client, FORM, Key, Rig, assert_error, form, parameters};
use crate::raw::Answer;

const ALL: &str = "system/*.rs";

fn research() -> Client {
    Client::new("research", ALL)
}

/// SM-011, SM-025 to SM-029
#[tokio::test]
async fn a_client_that_proves_who_it_is_gets_a_token() {
    let client = research();
    let rsa = Client { key: Key::rs384("r"), ..Client::new("rsa", "system/Patient.rs system/Group.r") };
    let rig = Rig::with(&[client.clone(), rsa.clone()]).await;
    for (client, asked, granted) in [
        (&client, "system/*.rs", "system/*.rs"),
        (&client, "system/Patient.read system/Dragon.read", "system/Patient.read"),
        (&rsa, "system/*.read", "system/Patient.read system/Group.r"),
    ] {
        let answer = rig.ask_for_token(&rig.parameters(client, asked)).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let json = answer.json();
        assert_eq!(
            (&json["token_type"], &json["expires_in"], &json["scope"]),
            (&json!("bearer"), &json!(300), &json!(granted))
        );
        assert!(json.get("refresh_token").is_none(), "SM-027");
        for (name, value) in
            [("content-type", "application/json"), ("cache-control", "no-store"), ("pragma", "no-cache")]
        {
            assert_eq!(answer.header(name), value);
        }
        let token = json["access_token"].as_str().expect("a token");
        assert_eq!(rig.with_token("GET", "/Patient/$export?_type=Patient", token).await.status, 202);
    }
    rig.stop().await;
}

/// Without a date and whatever else differs between any two answers.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
    let headers = headers.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect();
    (answer.status, headers, String::from_utf8_lossy(&answer.body).into_owned())
}

/// SEC-12
#[tokio::test]
async fn whatever_is_wrong_with_a_client_the_answer_is_the_same() {
    let client = research();
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let good = rig.parameters(&client, ALL);
    assert_eq!(rig.ask_for_token(&good).await.status, 200);
    let replayed = told(&rig.ask_for_token(&good).await);
    assert_eq!(replayed.0, 400);
    let unknown = Client { id: "nobody", ..client.clone() };
    let other_key = Client { key: Key::es384("k2"), ..client.clone() };
    let forged = Client { key: Key::es384("k1"), ..client.clone() };
    for (what, client) in [("an unknown client", unknown), ("an unknown kid", other_key), ("a bad signature", forged)] {
        let answer = rig.ask_for_token(&rig.parameters(&client, ALL)).await;
        assert_eq!(told(&answer), replayed, "{what}");
    }
    rig.stop().await;
}

/// SEC-06
#[tokio::test]
async fn whoever_sends_nothing_keeps_nobody_else_from_a_token() {
    let client = research();
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let host: SocketAddr = rig.host().parse().expect("an address");
    let head = format!(
        "POST /fhir/$bulk-token HTTP/1.1\r\nHost: {host}\r\n{}: {}\r\nContent-Length: 100\r\n\r\n",
        FORM.0, FORM.1
    );
    let mut silent = Vec::new();
    for _ in 0..64 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("it is this machine's too");
        let mut stream = socket.connect(host).await.expect("it listens");
        stream.write_all(head.as_bytes()).await.expect("it takes heads");
        silent.push(stream);
    }
    for _ in 0..3 {
        rig.token(&client, ALL).await;
    }
    drop(silent);
    rig.stop().await;
}

/// SM-017, SEC-13
#[tokio::test]
async fn of_a_hundred_replays_at_once_one_gets_a_token_and_none_ever_after() {
    let client = research();
    let mut rig = Rig::with(std::slice::from_ref(&client)).await;
    let parameters = rig.parameters(&client, ALL);
    let requests = (0..100).map(|_| rig.ask_for_token(&parameters));
    let answers = futures_util::future::join_all(requests).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_error(answer, 400, "invalid_client", "a replay");
    }
    rig.restart(|_| {}).await;
    assert_error(&rig.ask_for_token(&parameters).await, 400, "invalid_client", "a replay after a restart");
    assert_eq!(rig.ask_for_token(&rig.parameters(&client, ALL)).await.status, 200);
    rig.stop().await;
}

/// SEC-13
#[tokio::test]
async fn with_an_empty_store_what_may_have_been_used_before_is_not_taken_for_a_while() {
    let client = research();
    let rig = Rig::with(std::slice::from_ref(&client)).await;
    let undated = |ahead: i64| {
        let mut assertion = rig.assertion(&client);
        assertion.claims.as_object_mut().expect("an object").remove("iat");
        assertion.claims["exp"] = (rig.now() + ahead).into();
        parameters(ALL, &client.key.sign(&assertion.header.to_string(), &assertion.claims.to_string()))
    };
    let mut dated = rig.assertion(&client);
    dated.claims["iat"] = (rig.now() - 40).into();
    dated.claims["exp"] = (rig.now() + 250).into();
    let before = parameters(ALL, &client.key.sign(&dated.header.to_string(), &dated.claims.to_string()));
    for (what, parameters) in [("without a date", undated(200)), ("from before the start", before)] {
        let answer = rig.ask_for_token(&parameters).await;
        assert_error(&answer, 503, "temporarily_unavailable", what);
        assert_eq!(answer.header("retry-after"), "10", "{what}");
    }
    let mut stranger = rig.assertion(&client);
    stranger.claims["iat"] = (rig.now() - 40).into();
    let signed = Key::es384("other").sign(&stranger.header.to_string(), &stranger.claims.to_string());
    assert_error(&rig.ask_for_token(&parameters(ALL, &signed)).await, 400, "invalid_client", "by another key");
    assert_eq!(rig.ask_for_token(&rig.parameters(&client, ALL)).await.status, 200, "issued since");
    rig.advance(331);
    assert_eq!(rig.ask_for_token(&undated(200)).await.status, 200, "whatever was used before has expired");
    rig.stop().await;
}

/// SM-038
#[tokio::test]
async fn a_client_can_ask_what_its_own_token_is_worth() {
    let (client, other) = (research(), Client::new("other", ALL));
    let rig = Rig::with(&[client.clone(), other.clone()]).await;
    let token = rig.token(&client, "system/Patient.rs").await;
    let ask = async |client: &Client, token: &str| {
        let mut parameters = rig.parameters(client, "");
        parameters.push(("token".to_owned(), token.to_owned()));
        let answer = rig.ask("POST", "/$bulk-introspect", &[FORM], form(&parameters).as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()
    };
    let own = ask(&client, &token).await;
    assert_eq!(
        (&own["active"], &own["client_id"], &own["scope"]),
        (&json!(true), &json!("research"), &json!("system/Patient.rs"))
    );
    assert_eq!(own["exp"], rig.now() + 300);
    for (client, token) in [(&other, token.as_str()), (&client, "nonsense"), (&client, "")] {
        if token.is_empty() {
            continue;
        }
        assert_eq!(ask(client, token).await, json!({ "active": false }));
    }
    let without = rig.ask("POST", "/$bulk-introspect", &[FORM], format!("token={token}").as_bytes()).await;
    assert_error(&without, 400, "invalid_request", "nobody says who asks");
    rig.advance(301);
    assert_eq!(ask(&client, &token).await, json!({ "active": false }));
    rig.stop().await;
}

/// SEC-16
#[tokio::test]
async fn the_key_is_replaced_and_what_the_old_one_signed_is_good_until_it_expires() {
    let client = research();
    let rig = Rig::configured(std::slice::from_ref(&client), |config| {
        config.smart.token_key_lifetime = Duration::from_mins(20);
    })
    .await;
    let kid = |token: &str| {
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().expect("a header")).expect("base64url");
        serde_json::from_slice::<Value>(&header).expect("JSON")["kid"].clone()
    };
    let published = async || {
        let keys = rig.ask("GET", "/$bulk-jwks", &[], b"").await.json();
        keys["keys"].as_array().expect("a list").iter().map(|key| key["kid"].clone()).collect::<Vec<_>>()
    };
    // A good token and a job that there is not.
    let is_good = async |token: &str| {
        rig.with_token("GET", "/$bulk-status/00000000000000000000000000000000", token).await.status == 404
    };
    let mut old = rig.token(&client, ALL).await;
    assert_eq!(published().await, [kid(&old)]);
    let mut steps = 0;
    let new = loop {
        rig.advance(20);
        steps += 1;
        assert!(steps < 500, "it was never replaced");
        let token = rig.token(&client, ALL).await;
        if kid(&token) != kid(&old) {
            break token;
        }
        old = token;
    };
    // The rig has waited 31 s since the start.
    assert!(steps * 20 + 31 >= 1_200, "not before its time");
    assert_eq!(published().await, [kid(&new), kid(&old)], "both verify");
    assert!(is_good(&old).await && is_good(&new).await);
    rig.advance(361);
    assert_eq!(published().await, [kid(&new)]);
    assert!(!is_good(&old).await);
    rig.stop().await;
}
