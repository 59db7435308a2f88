//! Where a client's keys come from.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use offtake::config::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Client, Key, Rig, assert_error};
use crate::support;

const ALL: &str = "system/*.rs";

/// A server at which a client publishes its keys.
pub(super) struct Keys {
    pub(super) uri: url::Url,
    /// The whole answer, byte for byte.
    answer: Arc<Mutex<String>>,
    asked: Arc<Mutex<usize>>,
}

impl Keys {
    pub(super) async fn serve(answer: String) -> Self {
        let listener = support::listener().await;
        let uri = format!("http://{}/jwks.json", listener.local_addr().expect("it listens"));
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::new(0)));
        let (own_answer, own_asked) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let answer = own_answer.lock().expect("nobody panicked").clone();
                *own_asked.lock().expect("nobody panicked") += 1;
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = socket.read_u8().await else { return };
                        head.push(byte);
                    }
                    // One that breaks off is the test's own affair.
                    let _sent = socket.write_all(answer.as_bytes()).await;
                    if answer.is_empty() {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { uri: uri.parse().expect("a URL"), answer, asked }
    }

    pub(super) fn publish(&self, answer: String) {
        *self.answer.lock().expect("nobody panicked") = answer;
    }

    fn asked(&self) -> usize {
        *self.asked.lock().expect("nobody panicked")
    }

    fn client(&self) -> ClientConfig {
        let jwks_uri = Some(self.uri.clone().into());
        ClientConfig { client_id: "a".to_owned(), scope: ALL.to_owned(), jwks_uri, ..ClientConfig::default() }
    }
}

pub(super) fn ok(keys: &[&Key], headers: &str) -> String {
    let keys: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
    let body = serde_json::json!({ "keys": keys }).to_string();
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

async fn rig(keys: &Keys) -> Rig {
    Rig::configured(&[], |config| {
        config.smart.clients = vec![keys.client()];
        config.smart.jwks_private_hosts = vec!["127.0.0.1".to_owned()];
    })
    .await
}

fn signing(key: &Key) -> Client {
    Client { key: key.clone(), ..Client::new("a", ALL) }
}

/// SM-007, SM-020
#[tokio::test]
async fn keys_are_fetched_once_and_again_for_a_new_name_once_a_minute() {
    let (first, second, forged) = (Key::es384("k1"), Key::es384("k2"), Key::es384("k3"));
    let keys = Keys::serve(ok(&[&first], "Cache-Control: max-age=3600\r\n")).await;
    let rig = rig(&keys).await;
    for _ in 0..3 {
        rig.token(&signing(&first), ALL).await;
    }
    assert_eq!(keys.asked(), 1);
    for _ in 0..5 {
        let answer = rig.ask_for_token(&rig.parameters(&signing(&forged), ALL)).await;
        assert_error(&answer, 400, "invalid_client", "an unknown kid");
    }
    assert_eq!(keys.asked(), 1, "not within the first minute");
    rig.advance(61);
    keys.publish(ok(&[&first, &second], "Cache-Control: max-age=3600\r\n"));
    let parameters: Vec<_> = (0..8).map(|_| rig.parameters(&signing(&second), ALL)).collect();
    let answers = futures_util::future::join_all(parameters.iter().map(|form| rig.ask_for_token(form))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "a key was added");
    assert_eq!(keys.asked(), 2, "one fetches for all");
    rig.stop().await;
}

/// SM-020: nothing is relied on beyond what the client's own headers allow, and nobody without a key has it fetched.
#[tokio::test]
async fn keys_that_are_too_old_are_fetched_for_whoever_has_one_of_them() {
    let (key, forged) = (Key::es384("k1"), Key::es384("k1"));
    let keys = Keys::serve(ok(&[&key], "Cache-Control: no-store\r\n")).await;
    let rig = rig(&keys).await;
    rig.token(&signing(&key), ALL).await;
    let before = keys.asked();
    for _ in 0..5 {
        let answer = rig.ask_for_token(&rig.parameters(&signing(&forged), ALL)).await;
        assert_error(&answer, 400, "invalid_client", "a bad signature");
    }
    assert_eq!(keys.asked(), before);
    rig.advance(1);
    rig.token(&signing(&key), ALL).await;
    assert_eq!(keys.asked(), before + 1);
    // A key that was taken out is worth nothing from then on.
    keys.publish(ok(&[&Key::es384("k2")], "Cache-Control: no-store\r\n"));
    rig.advance(1);
    let answer = rig.ask_for_token(&rig.parameters(&signing(&key), ALL)).await;
    assert_error(&answer, 400, "invalid_client", "a key that is no more");
    rig.stop().await;
}

#[tokio::test]
async fn what_is_no_set_of_keys_opens_nothing() {
    let key = Key::es384("k1");
    let large = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(70_000));
    let mut private = key.clone();
    private.jwk["d"] = "AAAA".into();
    let elsewhere = Keys::serve(ok(&[&key], "")).await;
    for (what, answer) in [
        ("a redirect", format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.uri)),
        ("too large", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len())),
        ("an error", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("no JSON", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned()),
        ("cut short", "HTTP/1.1 200 OK\r\nContent-Length: 200\r\nConnection: close\r\n\r\n{\"keys\"".to_owned()),
        ("a private key", ok(&[&private], "")),
        ("nothing at all", String::new()),
        ("encoded", ok(&[&key], "Content-Encoding: br\r\n")),
    ] {
        let keys = Keys::serve(answer).await;
        let rig = rig(&keys).await;
        let parameters = rig.parameters(&signing(&key), ALL);
        let waiting = async {
            // Whoever says nothing at all is waited for by the clock.
            support::until("it is asked", Duration::from_mins(1), || keys.asked() == 1).await;
            rig.advance(5);
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = rig.ask_for_token(&parameters) => answer,
            () = waiting => unreachable!("it never ends"),
        };
        assert_error(&answer, 400, "invalid_client", what);
        assert_eq!(keys.asked(), 1, "{what}");
        // Mended, they are had after a minute.
        keys.publish(ok(&[&key], ""));
        assert_error(&rig.ask_for_token(&rig.parameters(&signing(&key), ALL)).await, 400, "invalid_client", what);
        rig.advance(61);
        assert_eq!(rig.ask_for_token(&rig.parameters(&signing(&key), ALL)).await.status, 200, "{what}");
        rig.stop().await;
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");
}

/// Spec 7.2, step 6: `jku` is the text that was registered, also where a URL is written in another way when it is asked.
#[tokio::test]
async fn jku_is_the_address_as_it_was_registered() {
    let key = Key::es384("k1");
    let keys = Keys::serve(ok(&[&key], "")).await;
    let registered = keys.uri.as_str().replace("http://127.0.0.1", "HTTP://127.0.0.1").replace("/jwks.json", "");
    let rig = Rig::configured(&[], |config| {
        let jwks_uri = Some(registered.parse().expect("a URL"));
        config.smart.clients = vec![ClientConfig { jwks_uri, ..keys.client() }];
        config.smart.jwks_private_hosts = vec!["127.0.0.1".to_owned()];
    })
    .await;
    let normal = url::Url::parse(&registered).expect("a URL").to_string();
    assert_ne!(normal, registered);
    for (jku, status) in [(registered, 200), (normal, 400)] {
        let mut assertion = rig.assertion(&signing(&key));
        assertion.header["jku"] = jku.as_str().into();
        let signed = key.sign(&assertion.header.to_string(), &assertion.claims.to_string());
        assert_eq!(rig.ask_for_token(&super::parameters(ALL, &signed)).await.status, status, "{jku}");
    }
    rig.stop().await;
}

/// One client's file that cannot be read costs that client its tokens, and nobody anything else.
#[tokio::test]
async fn a_client_whose_keys_cannot_be_read_does_not_keep_the_others_out() {
    let (good, bad) = (Client::new("good", ALL), Client::new("bad", ALL));
    let mut rig = Rig::with(&[good.clone(), bad.clone()]).await;
    let token = rig.token(&bad, ALL).await;
    rig.exported("/$export?_type=Patient", &token).await;
    let jobs = rig.store.job_ids().await;
    assert_eq!(jobs.len(), 1);
    rig.restart(|config| {
        config.smart.clients[1].jwks = None;
        config.smart.clients[1].jwks_file = Some("/nowhere/bad.jwks.json".into());
    })
    .await;
    rig.token(&good, ALL).await;
    let answer = rig.ask_for_token(&rig.parameters(&bad, ALL)).await;
    assert_error(&answer, 400, "invalid_client", "its keys are not known");
    assert_eq!(rig.ask("GET", "/Patient?_count=1", &[], b"").await.status, 200);
    assert_eq!(rig.store.job_ids().await, jobs, "what it has it keeps");
    rig.stop().await;
}

#[tokio::test]
async fn a_private_address_is_asked_only_where_its_host_is_named() {
    let key = Key::es384("k1");
    let keys = Keys::serve(ok(&[&key], "")).await;
    for host in ["127.0.0.1", "localhost"] {
        let mut uri = keys.uri.clone();
        uri.set_host(Some(host)).expect("a host");
        let client = ClientConfig { jwks_uri: Some(uri.into()), ..keys.client() };
        // As if a public name had come to lead there: a configuration that says so is refused.
        let rig = Rig::configured(&[], |config| config.smart.clients = vec![client]).await;
        let answer = rig.ask_for_token(&rig.parameters(&signing(&key), ALL)).await;
        assert_error(&answer, 400, "invalid_client", host);
        rig.stop().await;
    }
    assert_eq!(keys.asked(), 0);
}

/// SIGHUP for another reason has nothing fetched, and takes nothing from a client whose server is away.
#[tokio::test]
async fn keys_stay_in_use_over_a_reload_that_does_not_concern_them() {
    let key = Key::es384("k1");
    let keys = Keys::serve(ok(&[&key], "Cache-Control: max-age=3600\r\n")).await;
    let mut rig = rig(&keys).await;
    rig.token(&signing(&key), ALL).await;
    keys.publish("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned());
    rig.reload(|config| config.smart.clients[0].scope = "system/Patient.rs".to_owned());
    rig.token(&signing(&key), "system/Patient.rs").await;
    assert_eq!(keys.asked(), 1);
    rig.reload(|config| config.smart.jwks_private_hosts.clear());
    let answer = rig.ask_for_token(&rig.parameters(&signing(&key), "system/Patient.rs")).await;
    assert_error(&answer, 400, "invalid_client", "its host is named no more");
    assert_eq!(keys.asked(), 1);
    rig.stop().await;
}

#[tokio::test]
async fn keys_can_be_given_in_a_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let client = Client::new("a", ALL);
    let path = folder.path().join("a.jwks.json");
    std::fs::write(&path, client.key.jwks().to_string()).expect("it can be written");
    let config = ClientConfig { jwks: None, jwks_file: Some(path), ..client.config() };
    let rig = Rig::configured(&[], |all| all.smart.clients = vec![config]).await;
    rig.token(&client, ALL).await;
    rig.stop().await;
}
