//! SEC-16: keys of each kind are replaced while an export runs and a file is fetched. Nothing fails that was good; what an old
//! key signs is refused after the overlap, also after a restart.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use offtake::Config;
use offtake::testing::replace_keys;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::clients::{Keys, ok};
use super::{Client, Key, Rig, assert_error, parameters};
use crate::raw;

const ALL: &str = "system/*.rs";

/// Restarts, and waits until the store is open.
async fn restart(rig: &mut Rig, client: &Client) {
    rig.restart(|_| {}).await;
    rig.waits_for_store(client).await;
}

/// Kicks off, has `replaced` happen while the export reads, and waits for its end.
async fn exported_while(rig: &Rig, token: &str, replaced: impl FnOnce() + Send + Sync + 'static) -> String {
    rig.upstream.first_when(|seen| seen.query.contains("_lastUpdated") && seen.query.contains("_count"), replaced);
    rig.exported("/$export?_type=Patient,Observation", token).await
}

/// Fetches a file, of which the rest comes after `replaced` has happened.
async fn fetched_while(rig: &Rig, link: &str, replaced: impl FnOnce()) -> Vec<u8> {
    let mut stream = TcpStream::connect(rig.host()).await.expect("it listens");
    let request = raw::request("GET", &format!("/fhir{link}"), &rig.host(), &[("Connection", "close")], b"");
    stream.write_all(&request).await.expect("it takes a request");
    let mut answer = vec![0; 15];
    stream.read_exact(&mut answer).await.expect("it begins");
    replaced();
    stream.read_to_end(&mut answer).await.expect("it goes on to its end");
    let answer = raw::Answer::parse(&answer).expect("a whole answer");
    assert_eq!(answer.status, 200);
    answer.body
}

/// How an export stands that is complete, asked for by a token a second after whatever was asked before. The first poll after
/// a restart may come too early for it.
async fn shown(rig: &Rig, status: &str, token: &str) -> raw::Answer {
    rig.advance(1);
    let answer = rig.with_token("GET", status, token).await;
    if answer.status != 202 {
        return answer;
    }
    rig.advance(1);
    rig.with_token("GET", status, token).await
}

/// How a client tells its keys.
enum Told {
    InConfiguration,
    InFile(tempfile::TempDir),
    AtAddress(Keys),
}

impl Told {
    fn file(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("a.jwks.json")
    }

    /// Has a client of the configuration tell them in this way.
    fn is_the_way_of(&self, config: &mut Config, keys: &[&Key]) {
        let client = &mut config.smart.clients[0];
        client.jwks = matches!(self, Self::InConfiguration).then(|| jwks(keys));
        match self {
            Self::InConfiguration => {}
            Self::InFile(folder) => client.jwks_file = Some(Self::file(folder)),
            Self::AtAddress(published) => {
                client.jwks_uri = Some(published.uri.clone().into());
                config.smart.jwks_private_hosts = vec!["127.0.0.1".to_owned()];
            }
        }
    }

    /// Tells them in the place where they are, if that is none of ours.
    fn publish(&self, keys: &[&Key]) {
        match self {
            Self::InConfiguration => {}
            Self::InFile(folder) => std::fs::write(Self::file(folder), jwks(keys).to_string()).expect("it is ours"),
            Self::AtAddress(published) => published.publish(ok(keys, "Cache-Control: max-age=60\r\n")),
        }
    }

    /// Tells other keys than before, which are taken up as SIGHUP has it done where they are not fetched anyhow.
    fn change(&self, rig: &mut Rig, keys: &[&Key]) -> impl FnOnce() + Send + Sync + use<> {
        self.publish(keys);
        if matches!(self, Self::InConfiguration) {
            rig.change(|config| config.smart.clients[0].jwks = Some(jwks(keys)));
        }
        let is_reloaded = !matches!(self, Self::AtAddress(_));
        let (offtake, config) = rig.handle();
        move || {
            if is_reloaded {
                offtake::testing::reload(&offtake, &config).expect("it can be taken up");
            }
        }
    }
}

fn jwks(keys: &[&Key]) -> Value {
    json!({ "keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>() })
}

async fn a_key_is_replaced_by_a_client_that_tells_it(told: &Told) {
    let old = Client::new("a", ALL);
    let new = Client { key: Key::es384("k2"), ..old.clone() };
    told.publish(&[&old.key]);
    let clients = std::slice::from_ref(&old);
    let mut rig = Rig::on_disk(clients, |config| told.is_the_way_of(config, &[&old.key])).await;
    let token = rig.token(&old, ALL).await;
    let replaced = told.change(&mut rig, &[&old.key, &new.key]);
    let status = exported_while(&rig, &token, replaced).await;
    // By then keys are fetched for a name that is not known.
    rig.advance(61);
    rig.token(&old, ALL).await;
    rig.token(&new, ALL).await;
    let (_, links) = rig.listed(&status, &token).await;
    let whole = rig.ask("GET", &links["Patient"], &[], b"").await.body;
    let replaced = told.change(&mut rig, &[&new.key]);
    assert_eq!(fetched_while(&rig, &links["Patient"], replaced).await, whole);
    assert_eq!(shown(&rig, &status, &token).await.status, 200, "a token outlives the key that it was asked for by");
    rig.advance(61);
    for _ in 0..2 {
        let token = rig.token(&new, ALL).await;
        assert_eq!(shown(&rig, &status, &token).await.status, 200);
        let refused = rig.ask_for_token(&parameters(ALL, &rig.signed(&old))).await;
        assert_error(&refused, 400, "invalid_client", "it is of the old key");
        restart(&mut rig, &new).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_clients_key_is_replaced_while_its_export_runs() {
    a_key_is_replaced_by_a_client_that_tells_it(&Told::InConfiguration).await;
}

#[tokio::test]
async fn a_clients_key_in_a_file_is_replaced_while_its_export_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    a_key_is_replaced_by_a_client_that_tells_it(&Told::InFile(folder)).await;
}

#[tokio::test]
async fn a_clients_key_at_an_address_is_replaced_while_its_export_runs() {
    let published = Keys::serve(String::new()).await;
    a_key_is_replaced_by_a_client_that_tells_it(&Told::AtAddress(published)).await;
}

/// A token that whoever has the key of `token.keys` in `state` makes of another one: good for a day.
fn forged(state: &Path, token: &str, now: i64) -> String {
    let kept: Value = serde_json::from_slice(&std::fs::read(state.join("token.keys")).expect("a file")).expect("JSON");
    let pkcs8 = URL_SAFE_NO_PAD.decode(kept["current"].as_str().expect("a key")).expect("base64url");
    let decoded = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("text");
    let parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let mut claims: Value = serde_json::from_str(&decoded(&parts[1])).expect("JSON");
    claims["iat"] = now.into();
    claims["exp"] = (now + 86_400).into();
    let key = Key { alg: Algorithm::ES384, private: EncodingKey::from_ec_der(&pkcs8), jwk: Value::Null };
    key.sign(&decoded(&parts[0]), &claims.to_string())
}

#[tokio::test]
async fn the_key_of_tokens_is_replaced_while_an_export_runs() {
    let client = Client::new("a", ALL);
    let mut rig = Rig::on_disk(std::slice::from_ref(&client), |_| {}).await;
    let token = rig.token(&client, ALL).await;
    let stolen = forged(&rig.path("state"), &token, rig.now());
    let (offtake, config) = rig.handle();
    let now = rig.now() * 1_000;
    let status = exported_while(&rig, &token, move || {
        replace_keys(&config, true, now).expect("there are others");
        offtake::testing::reload(&offtake, &config).expect("they can be taken up");
    })
    .await;
    for good in [&token, &stolen, &rig.token(&client, ALL).await] {
        assert_eq!(shown(&rig, &status, good).await.status, 200);
    }
    restart(&mut rig, &client).await;
    assert_eq!(shown(&rig, &status, &stolen).await.status, 200, "it is of a key that overlaps");
    rig.advance(300 + 61);
    for _ in 0..2 {
        assert_eq!(shown(&rig, &status, &stolen).await.status, 401, "nothing is good that it signs");
        assert_eq!(shown(&rig, &status, &rig.token(&client, ALL).await).await.status, 200);
        restart(&mut rig, &client).await;
    }
    // Without an overlap it acts at once.
    let token = rig.token(&client, ALL).await;
    let (offtake, config) = rig.handle();
    replace_keys(&config, false, rig.now() * 1_000).expect("there are others");
    offtake::testing::reload(&offtake, &config).expect("they can be taken up");
    assert_eq!(shown(&rig, &status, &token).await.status, 401);
    rig.stop().await;
}

/// A link that whoever has the key of `link.key` in `state` makes of another one: good for a day.
fn forged_link(rig: &Rig, link: &str) -> String {
    let kept = std::fs::read(rig.path("state").join("link.key")).expect("a file");
    let kept: Value = serde_json::from_slice(&kept).expect("JSON");
    let secret = URL_SAFE_NO_PAD.decode(kept["current"]["secret"].as_str().expect("a key")).expect("base64url");
    let id = kept["current"]["id"].as_str().expect("a name");
    let (path, _) = link.split_once('?').expect("it is signed");
    let parts: Vec<_> = path.split('/').collect();
    let [job, file] = parts[parts.len() - 2..] else { panic!("{link}") };
    let expires = (rig.now() + 86_400).to_string();
    let base = format!("{}/fhir", rig.host());
    let mut text = String::from("offtake-link-1\n");
    for part in [base.as_str(), job, file, &expires, id] {
        writeln!(text, "{}:{part}", part.len()).expect("a String takes all");
    }
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), text.as_bytes());
    format!("{path}?expires={expires}&key={id}&signature={}", URL_SAFE_NO_PAD.encode(tag))
}

#[tokio::test]
async fn the_key_of_links_is_replaced_while_a_file_is_fetched() {
    let client = Client::new("a", ALL);
    let mut rig = Rig::on_disk(std::slice::from_ref(&client), |_| {}).await;
    let token = rig.token(&client, ALL).await;
    let status = rig.exported("/$export?_type=Patient", &token).await;
    let (_, links) = rig.listed(&status, &token).await;
    let link = links["Patient"].clone();
    let whole = rig.ask("GET", &link, &[], b"").await.body;
    let stolen = forged_link(&rig, &link);
    let (offtake, config) = rig.handle();
    let now = rig.now() * 1_000;
    let fetched = fetched_while(&rig, &link, move || {
        replace_keys(&config, true, now).expect("there are others");
        offtake::testing::reload(&offtake, &config).expect("they can be taken up");
    });
    assert_eq!(fetched.await, whole);
    let (_, links) = rig.listed(&status, &token).await;
    let key = |link: &str| link.split('&').find(|part| part.starts_with("key=")).map(str::to_owned);
    assert_ne!(key(&links["Patient"]), key(&link), "the new one signs");
    for good in [&link, &stolen, &links["Patient"]] {
        assert_eq!(rig.ask("GET", good, &[], b"").await.body, whole);
    }
    restart(&mut rig, &client).await;
    rig.advance(3_000);
    for good in [&link, &stolen] {
        assert_eq!(rig.ask("GET", good, &[], b"").await.body, whole, "for as long as a link lives");
    }
    rig.advance(661);
    for _ in 0..2 {
        assert_eq!(rig.ask("GET", &stolen, &[], b"").await.status, 403, "nothing is good that it signs");
        let token = rig.token(&client, ALL).await;
        let (_, links) = rig.listed(&status, &token).await;
        assert_eq!(rig.ask("GET", &links["Patient"], &[], b"").await.body, whole);
        restart(&mut rig, &client).await;
    }
    let token = rig.token(&client, ALL).await;
    let (_, links) = rig.listed(&status, &token).await;
    let (offtake, config) = rig.handle();
    replace_keys(&config, false, rig.now() * 1_000).expect("there are others");
    offtake::testing::reload(&offtake, &config).expect("they can be taken up");
    assert_eq!(rig.ask("GET", &links["Patient"], &[], b"").await.status, 403, "without an overlap it acts at once");
    rig.stop().await;
}
