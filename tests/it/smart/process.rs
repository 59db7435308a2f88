//! The built program with clients: SIGHUP, restarts, and the key files.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use sample_upstream::{SampleUpstream, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::clients::{Keys, ok};
use super::{Client, FORM, form, fresh, parameters};
use crate::process::{Options, Process, until};
use crate::raw::{self, Answer, KICKOFF};
use crate::support::listener;

/// A process with these clients.
async fn process(clients: &[Client], upstream: &str) -> Process {
    process_with(clients, upstream, Options::default()).await
}

async fn process_with(clients: &[Client], upstream: &str, options: Options) -> Process {
    let clients: Vec<_> = clients
        .iter()
        .map(|client| json!({ "client_id": client.id, "scope": client.scope, "jwks": client.key.jwks() }))
        .collect();
    let smart = format!("mode: authorization_server, clients: {}", Value::from(clients));
    Process::start_for(upstream, options, &smart).await.expect("it starts")
}

pub(crate) async fn ask(process: &Process, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    assert!(process.base.contains(host));
    raw::ask(host, &raw::request(method, &format!("/{path}"), host, headers, body)).await
}

fn assertion(process: &Process, client: &Client) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let header = json!({ "alg": "ES384", "typ": "JWT", "kid": client.key.jwk["kid"] });
    let claims = json!({
        "iss": client.id, "sub": client.id, "aud": format!("{}/$bulk-token", process.base),
        // So late that it cannot have been used before the start (SEC-13).
        "iat": now, "exp": now + 330, "jti": fresh("jti"),
    });
    client.key.sign(&header.to_string(), &claims.to_string())
}

/// Asks until the job store is open, and a second has passed since.
pub(crate) async fn token(process: &Process, client: &Client) -> String {
    until("there is a token", async || {
        let answer = token_answer(process, client).await;
        Ok(answer.json()["access_token"].as_str().map(str::to_owned))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:?}\n{}", process.log()))
}

/// Asks until the job store is open.
async fn token_answer(process: &Process, client: &Client) -> Answer {
    until("tokens are issued", async || {
        let body = form(&parameters("system/*.rs", &assertion(process, client)));
        let url = format!("{}/$bulk-token", process.base);
        let answer = ask(process, "POST", &url, &[FORM], body.as_bytes()).await;
        Ok((answer.status != 503).then_some(answer))
    })
    .await
    .expect("an answer")
}

pub(crate) async fn with_token(process: &Process, method: &str, url: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    ask(process, method, url, &[KICKOFF[0], KICKOFF[1], ("Authorization", &bearer)], b"").await
}

/// Exports, and gives the status address and the link to the patients.
pub(crate) async fn exported(process: &Process, token: &str) -> (String, String) {
    let kickoff = with_token(process, "GET", &format!("{}/$export?_type=Patient", process.base), token).await;
    let status = kickoff.header("content-location").to_owned();
    let manifest = until("the export ends", async || {
        let answer = with_token(process, "GET", &status, token).await;
        Ok((answer.status == 200).then(|| answer.json()))
    });
    let link = manifest.await.expect("a manifest")["output"][0]["url"].as_str().expect("a link").to_owned();
    (status, link)
}

/// SEC-14
#[tokio::test]
async fn a_client_that_is_taken_off_the_list_has_nothing_from_the_next_request_on() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let (stays, goes) = (Client::new("stays", "system/*.rs"), Client::new("goes", "system/*.rs"));
    let process = process(&[stays.clone(), goes.clone()], &server.base_url).await;
    let (kept, lost) = (token(&process, &stays).await, token(&process, &goes).await);
    let (status, link) = exported(&process, &lost).await;
    let (own_status, own_link) = exported(&process, &kept).await;
    assert_eq!(ask(&process, "GET", &link, &[], b"").await.status, 200);
    process.reload(|yaml| yaml.replace("mode: authorization_server", "mode: nonsense")).expect("it is told");
    process
        .reload(|yaml| yaml.replace("mode: nonsense", "mode: authorization_server").replace("\"goes\"", "\"another\""))
        .expect("it is told");
    until("the clients are read anew", async || {
        Ok((with_token(&process, "GET", &status, &lost).await.status == 401).then_some(()))
    })
    .await
    .expect("its token is worth nothing");
    assert_eq!(ask(&process, "GET", &link, &[], b"").await.status, 404, "nor its links");
    let job = status.rsplit('/').next().expect("an id");
    let folders =
        || std::fs::read_dir(process.output()).expect("a folder").filter_map(|entry| Some(entry.ok()?.path()));
    until("its files are removed", async || {
        let is_there = folders().any(|instance| instance.join(job).exists());
        Ok((!is_there).then_some(()))
    })
    .await
    .expect("nothing is left of it");
    assert_eq!(token_answer(&process, &goes).await.json()["error"], "invalid_client");
    assert_eq!(with_token(&process, "GET", &own_status, &kept).await.status, 200, "others notice nothing");
    assert_eq!(ask(&process, "GET", &own_link, &[], b"").await.status, 200);
    server.stop().await;
}

/// SEC-41, SEC-43: by what value a scope narrows may tell of somebody: no log has it.
#[tokio::test]
async fn what_a_scope_narrows_by_is_in_no_log() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let client = Client::new("a", "system/Patient.rs?gender=canary system/Condition.rs");
    let process = process(std::slice::from_ref(&client), &server.base_url).await;
    let token = token(&process, &client).await;
    for below in ["$export", "$export?_type=Observation", "$export?_type=Patient&_typeFilter=Patient?gender=canary"] {
        let answer = with_token(&process, "GET", &format!("{}/{below}", process.base), &token).await;
        let expected = if below.contains("Observation") { 403 } else { 202 };
        assert_eq!(answer.status, expected, "{below}");
    }
    let log = process.log();
    assert!(log.contains("an access token was issued") && log.contains("system/Patient.rs?gender="), "{log}");
    assert!(!log.contains("canary"), "{log}");
    server.stop().await;
}

/// A link that was good before its client's files were to be had by tokens alone opens nothing any more.
#[tokio::test]
async fn links_are_worth_nothing_once_their_client_wants_tokens() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let client = Client::new("own", "system/*.rs");
    let process = process(std::slice::from_ref(&client), &server.base_url).await;
    let token = token(&process, &client).await;
    let (_, link) = exported(&process, &token).await;
    assert_eq!(ask(&process, "GET", &link, &[], b"").await.status, 200);
    process
        .reload(|yaml| yaml.replace("\"client_id\"", "\"output\":{\"links\":\"proxy\"},\"client_id\""))
        .expect("it is told");
    until("its links are worth nothing", async || {
        Ok((ask(&process, "GET", &link, &[], b"").await.status == 403).then_some(()))
    })
    .await
    .expect("tokens are wanted");
    let (bare, _) = link.split_once('?').expect("it was signed");
    assert_eq!(with_token(&process, "GET", bare, &token).await.status, 200);
    server.stop().await;
}

/// SEC-14
#[tokio::test]
async fn an_export_that_runs_ends_with_its_client() {
    let upstream = SampleUpstream::new(Settings { latency: Duration::from_millis(200), ..Settings::default() });
    upstream.generate(20);
    let server = upstream.serve(listener().await).await;
    let (stays, goes) = (Client::new("stays", "system/*.rs"), Client::new("goes", "system/*.rs"));
    let options = Options { upstream: "max_concurrent_searches: 1", ..Options::default() };
    let process = process_with(&[stays.clone(), goes.clone()], &server.base_url, options).await;
    let token = token(&process, &goes).await;
    let kickoff = with_token(&process, "GET", &format!("{}/$export", process.base), &token).await;
    let status = kickoff.header("content-location").to_owned();
    until("it runs", async || {
        let answer = with_token(&process, "GET", &status, &token).await;
        assert_eq!(answer.status, 202, "it takes a while");
        Ok(upstream.requests().iter().any(|seen| seen.query.contains("_lastUpdated")).then_some(()))
    })
    .await
    .expect("it is under way");
    process.reload(|yaml| yaml.replace("\"goes\"", "\"another\"")).expect("it is told");
    until("it is ended", async || Ok(process.log().contains("an export was revoked").then_some(())))
        .await
        .expect("by name");
    assert_eq!(with_token(&process, "GET", &status, &token).await.status, 401);
    let folders =
        || std::fs::read_dir(process.output()).expect("a folder").filter_map(|entry| Some(entry.ok()?.path()));
    let job = status.rsplit('/').next().expect("an id");
    until("its files are removed", async || Ok((!folders().any(|of| of.join(job).exists())).then_some(())))
        .await
        .expect("nothing is left of it");
    server.stop().await;
}

/// SEC-14: what came along by reference counts as well, and so does what is on its way.
#[tokio::test]
async fn a_client_that_may_have_less_keeps_nothing_that_holds_more() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let large = format!(r#"{{"resourceType":"Patient","id":"large","text":{{"div":"{}"}}}}"#, "x".repeat(16 << 20));
    upstream.insert_raw(&large).expect("a patient");
    let server = upstream.serve(listener().await).await;
    let narrowed = "system/Patient.rs system/Observation.rs system/Condition.rs";
    let client = Client::new("a", "system/Patient.rs system/Observation.rs system/Condition.rs system/Practitioner.rs");
    let process = process(std::slice::from_ref(&client), &server.base_url).await;
    let token = token(&process, &client).await;
    let kickoff = with_token(&process, "GET", &format!("{}/Patient/$export", process.base), &token).await;
    let status = kickoff.header("content-location").to_owned();
    let manifest = until("the export ends", async || {
        let answer = with_token(&process, "GET", &status, &token).await;
        Ok((answer.status == 200).then(|| answer.json()))
    });
    let manifest = manifest.await.expect("a manifest");
    let files = manifest["output"].as_array().expect("a list");
    let link = |name: &str| {
        let file = files.iter().filter(|file| file["type"] == name).max_by_key(|file| file["fileSize"].as_u64());
        file.and_then(|file| file["url"].as_str()).unwrap_or_else(|| panic!("{name}: {manifest}")).to_owned()
    };
    assert_eq!(ask(&process, "GET", &link("Practitioner"), &[], b"").await.status, 200);
    let (host, path) = link("Patient")
        .trim_start_matches("http://")
        .split_once('/')
        .map(|(host, path)| (host.to_owned(), format!("/{path}")))
        .expect("a path");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("a small buffer");
    let mut download = socket.connect(host.parse().expect("an address")).await.expect("it listens");
    download.write_all(&raw::request("GET", &path, &host, &[], b"")).await.expect("it takes requests");
    let mut received = vec![0; 1024];
    download.read_exact(&mut received).await.expect("it begins");
    process.reload(|yaml| yaml.replace(client.scope, narrowed)).expect("it is told");
    until("its links are worth nothing", async || {
        Ok((ask(&process, "GET", &link("Practitioner"), &[], b"").await.status == 404).then_some(()))
    })
    .await
    .expect("it may not have it any more");
    until("its export is revoked", async || {
        Ok((with_token(&process, "GET", &status, &token).await.status == 404).then_some(()))
    })
    .await
    .expect("with the old token, which is good for less");
    let _cut = download.read_to_end(&mut received).await;
    assert!(received.len() < 16 << 20, "{} bytes of a download came after that", received.len());
    server.stop().await;
}

/// A client that comes by SIGHUP is as good as one from the start; another `smart.mode` wants a restart.
#[tokio::test]
async fn a_jwks_uri_can_come_by_sighup_and_another_mode_cannot() {
    let upstream = SampleUpstream::new(Settings::default());
    let server = upstream.serve(listener().await).await;
    let (early, late) = (Client::new("early", "system/*.rs"), Client::new("late", "system/*.rs"));
    let keys = Keys::serve(ok(&[&late.key], "")).await;
    let process = process(std::slice::from_ref(&early), &server.base_url).await;
    let more = format!("clients: [{{client_id: late, scope: system/*.rs, jwks_uri: '{}'}},", keys.uri);
    process
        .reload(|yaml| {
            yaml.replace("clients: [", &more).replace("smart: {", "smart: { jwks_private_hosts: [127.0.0.1],")
        })
        .expect("it is told");
    token(&process, &late).await;
    let good = token(&process, &early).await;
    process
        .reload(|yaml| format!("{}smart: {{}}\n", yaml.split("smart:").next().unwrap_or_default()))
        .expect("it is told");
    until("that is refused", async || Ok(process.log().contains("smart.mode is another one").then_some(())))
        .await
        .expect("it says so");
    let nowhere = format!("{}/$bulk-status/00000000000000000000000000000000", process.base);
    assert_eq!(with_token(&process, "GET", &nowhere, &good).await.status, 404, "the token is good");
    assert_eq!(ask(&process, "GET", &nowhere, &[], b"").await.status, 401, "and needed");
    server.stop().await;
}

/// SEC-02: a server that trusts its network is opened to whoever reaches us, which has to be meant and is warned of.
#[tokio::test]
async fn a_server_that_answers_anybody_is_warned_of_or_bulk_requests_are_refused_beside_it() {
    const WARNING: &str = "every other request reaches the FHIR server by server.listen";
    const REFUSAL: &str = "the FHIR server answers requests without credentials";
    let upstream = SampleUpstream::new(Settings::default());
    let server = upstream.serve(listener().await).await;
    let mut process = process(&[Client::new("a", "system/*.rs")], &server.base_url).await;
    assert!(process.log().contains(WARNING) && !process.log().contains(REFUSAL));
    process
        .reload(|yaml| yaml.replace("accepts_anonymous: acknowledged", "accepts_anonymous: refused"))
        .expect("it is told");
    process.kill().expect("it is killed");
    process.restart().expect("it starts");
    until("it is told", async || Ok(process.log().contains(REFUSAL).then_some(()))).await.expect("it says so");
    let nowhere = format!("{}/$bulk-status/00000000000000000000000000000000", process.base);
    until("bulk requests are refused", async || {
        Ok((ask(&process, "GET", &nowhere, &[], b"").await.status == 503).then_some(()))
    })
    .await
    .expect("they are");
    let passed = ask(&process, "GET", &format!("{}/Patient", process.base), &[], b"").await;
    assert_eq!(passed.status, 200, "the others pass");
    server.stop().await;
}

/// SEC-14: what cannot be read of one client holds up nothing that is said of another.
#[tokio::test]
async fn a_client_is_taken_off_the_list_whatever_is_wrong_with_another_one() {
    let upstream = SampleUpstream::new(Settings::default());
    let server = upstream.serve(listener().await).await;
    let (stays, goes) = (Client::new("stays", "system/*.rs"), Client::new("goes", "system/*.rs"));
    let process = process(&[stays.clone(), goes.clone()], &server.base_url).await;
    let (good, bad) = (token(&process, &stays).await, token(&process, &goes).await);
    let broken = "clients: [{client_id: broken, scope: system/*.rs, jwks_file: /nowhere/jwks.json},";
    process.reload(|yaml| yaml.replace("clients: [", broken).replace("\"goes\"", "\"another\"")).expect("it is told");
    let nowhere = format!("{}/$bulk-status/00000000000000000000000000000000", process.base);
    until("it is taken off", async || {
        Ok((with_token(&process, "GET", &nowhere, &bad).await.status == 401).then_some(()))
    })
    .await
    .expect("its token is worth nothing");
    assert_eq!(with_token(&process, "GET", &nowhere, &good).await.status, 404, "the other one's is good");
    assert!(process.log().contains("/nowhere/jwks.json"), "it is said what is wrong");
    server.stop().await;
}

/// SM-017, SEC-13, SEC-16
#[tokio::test]
async fn after_a_restart_tokens_are_good_and_assertions_used_up() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let client = Client::new("a", "system/*.rs");
    let mut process = process(std::slice::from_ref(&client), &server.base_url).await;
    let token = token(&process, &client).await;
    let (status, link) = exported(&process, &token).await;
    let used = form(&parameters("system/*.rs", &assertion(&process, &client)));
    let url = format!("{}/$bulk-token", process.base);
    assert_eq!(ask(&process, "POST", &url, &[FORM], used.as_bytes()).await.status, 200);
    let keys = process.state().join("token.keys");
    let mode = keys.metadata().expect("a key file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    process.kill().expect("it is killed");
    process.restart().expect("it starts");
    until("it answers", async || {
        let Ok(stream) =
            tokio::net::TcpStream::connect(process.base.trim_start_matches("http://").trim_end_matches("/fhir")).await
        else {
            return Ok(None);
        };
        drop(stream);
        let answer = with_token(&process, "GET", &status, &token).await;
        Ok((answer.status == 200).then_some(()))
    })
    .await
    .expect("the token is good still");
    assert_eq!(ask(&process, "GET", &link, &[], b"").await.status, 200);
    let replayed = ask(&process, "POST", &url, &[FORM], used.as_bytes()).await;
    assert_eq!((replayed.status, replayed.json()["error"].as_str()), (400, Some("invalid_client")));
    server.stop().await;
}

#[test]
fn keys_are_made_for_a_client() {
    let folder = tempfile::tempdir().expect("a folder of its own");
    let make = |alg: &str, out: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
        command.args(["keys", "generate", "--alg", alg, "--out"]).arg(out).output().expect("it runs")
    };
    for (alg, kty) in [("ES384", "EC"), ("RS384", "RSA")] {
        let file = folder.path().join(alg);
        let output = make(alg, &file);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let public: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let private: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
        assert_eq!(file.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        let public = &public["keys"][0];
        assert_eq!((&public["kty"], &public["alg"], &public["kid"]), (&json!(kty), &json!(alg), &private["kid"]));
        assert!(public.get("d").is_none() && private["d"].is_string());
        let again = make(alg, &file);
        assert!(!again.status.success(), "what is there is not written over");
    }
    assert!(!make("HS256", &folder.path().join("x")).status.success());
}

#[test]
fn a_configuration_whose_keys_cannot_be_used_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder of its own");
    let path = folder.path();
    let private = path.join("private.jwk");
    let mut make = Command::new(env!("CARGO_BIN_EXE_offtake"));
    assert!(make.args(["keys", "generate", "--out"]).arg(&private).output().expect("it runs").status.success());
    let private_set = format!("{{\"keys\":[{}]}}", std::fs::read_to_string(&private).expect("a key"));
    std::fs::write(path.join("private.json"), private_set).expect("the disk takes it");
    let config = path.join("offtake.yaml");
    let yaml = format!(
        "server: {{ public_base_url: http://127.0.0.1:1/fhir }}\nupstream: {{ base_url: http://127.0.0.1:2/fhir }}\n\
         smart:\n  mode: authorization_server\n  clients:\n\
         \x20   - {{ client_id: a, scope: system/*.rs, jwks_file: {0}/missing.json }}\n\
         \x20   - {{ client_id: b, scope: system/*.rs, jwks_file: {0}/private.json }}\n",
        path.display()
    );
    std::fs::write(&config, yaml).expect("the disk takes it");
    let mut check = Command::new(env!("CARGO_BIN_EXE_offtake"));
    let output = check.args(["config", "check", "--config"]).arg(&config).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for expected in [
        "smart.clients[0].jwks_file",
        "missing.json cannot be read",
        "smart.clients[1].jwks_file",
        "private or symmetric key",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
