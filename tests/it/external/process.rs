//! The built program with an external issuer: SIGHUP, and what `config check` and doctor say.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use sample_upstream::{Running, SampleUpstream, Settings};
use serde_json::{Value, json};

use super::issuer::{Issuer, ok};
use super::signed;
use crate::process::{Options, Process, until};
use crate::raw::{self, Answer, KICKOFF};
use crate::smart::{Key, fresh};
use crate::support::listener;

const ALL: &str = "system/*.rs";

/// A process whose clients get their tokens from the issuer, and what it stands before.
async fn process(issuer: &Issuer, clients: &[(&str, &str)]) -> (Process, Running) {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let clients: Vec<_> = clients.iter().map(|(id, scope)| json!({ "client_id": id, "scope": scope })).collect();
    let smart = format!(
        "mode: external, jwks_private_hosts: [127.0.0.1], issuer: {{ issuer: '{}' }}, clients: {}",
        issuer.base,
        Value::from(clients)
    );
    (Process::start_for(&server.base_url, Options::default(), &smart).await.expect("it starts"), server)
}

fn token(process: &Process, issuer: &Issuer, key: &Key, client: &str) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let claims = json!({
        "iss": issuer.base, "aud": process.base, "sub": "5f1c2d3e", "client_id": client, "scope": ALL, "iat": now,
        "exp": now + 3_600, "jti": fresh("jti"),
    });
    signed(key, &claims)
}

async fn ask(process: &Process, method: &str, url: &str, token: &str) -> Answer {
    let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    assert!(process.base.contains(host));
    let authorization = format!("Bearer {token}");
    let headers = [KICKOFF[0], KICKOFF[1], ("Authorization", authorization.as_str())];
    raw::ask(host, &raw::request(method, &format!("/{path}"), host, &headers, b"")).await
}

/// Where its status is, and a link in it.
async fn exported(process: &Process, token: &str) -> (String, String) {
    let kickoff = until("it is accepted", async || {
        let answer = ask(process, "GET", &format!("{}/$export?_type=Patient", process.base), token).await;
        Ok((answer.status == 202).then_some(answer))
    });
    let status = kickoff.await.expect("the job store opens").header("content-location").to_owned();
    let manifest = until("the export ends", async || {
        let answer = ask(process, "GET", &status, token).await;
        Ok((answer.status == 200).then(|| answer.json()))
    });
    let manifest = manifest.await.expect("a manifest");
    (status, manifest["output"][0]["url"].as_str().expect("a URL").to_owned())
}

/// SEC-14: who is off the list has nothing from the next request on, whatever the issuer says.
#[tokio::test]
async fn a_client_that_is_taken_off_the_list_has_nothing_of_its_exports() {
    let (issuer, key) = (Issuer::serve().await, Key::es384("i1"));
    issuer.publish(&[&key], "");
    let (process, server) = process(&issuer, &[("stays", ALL), ("goes", ALL)]).await;
    let (kept, lost) = (token(&process, &issuer, &key, "stays"), token(&process, &issuer, &key, "goes"));
    let (status, link) = exported(&process, &lost).await;
    let (own_status, own_link) = exported(&process, &kept).await;
    process.reload(|yaml| yaml.replace("mode: external", "mode: authorization_server")).expect("it is told");
    until("that is refused", async || Ok(process.log().contains("the clients stay as they were").then_some(())))
        .await
        .expect("it says so");
    process
        .reload(|yaml| yaml.replace("mode: authorization_server", "mode: external").replace("\"goes\"", "\"another\""))
        .expect("it is told");
    until("it is taken off", async || Ok((ask(&process, "GET", &status, &lost).await.status == 401).then_some(())))
        .await
        .expect("its token is worth nothing");
    assert_eq!(ask(&process, "GET", &link, "").await.status, 404, "nor its links");
    until("its export is revoked", async || Ok(process.log().contains("an export was revoked").then_some(())))
        .await
        .expect("by name");
    assert_eq!(ask(&process, "GET", &own_status, &kept).await.status, 200, "others notice nothing");
    assert_eq!(ask(&process, "GET", &own_link, "").await.status, 200);
    server.stop().await;
}

/// SEC-14: and whatever else of a configuration cannot be used.
#[tokio::test]
async fn a_client_is_taken_off_the_list_though_a_secret_cannot_be_read() {
    let issuer = Issuer::serve().await;
    let folder = tempfile::tempdir().expect("a folder of its own");
    let file = folder.path().join("secret");
    std::fs::write(&file, "s3cret").expect("the disk takes it");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it is ours");
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let smart = format!(
        "mode: external, jwks_private_hosts: [127.0.0.1], issuer: {{ issuer: '{}', introspection: {{ client_id: offtake, \
         client_secret_file: '{}' }} }}, clients: [{{ client_id: goes, scope: {ALL} }}]",
        issuer.base,
        file.display()
    );
    let process = Process::start_for(&server.base_url, Options::default(), &smart).await.expect("it starts");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let told = json!({
        "active": true, "token_type": "Bearer", "iss": issuer.base, "aud": process.base, "client_id": "goes", "scope": ALL,
        "iat": now, "exp": now + 3_600,
    });
    issuer.tell("opaque", told);
    let (status, link) = exported(&process, "opaque").await;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("it is ours");
    process.reload(|yaml| yaml.replace("client_id: goes", "client_id: another")).expect("it is told");
    until("it is taken off", async || Ok((ask(&process, "GET", &status, "opaque").await.status == 401).then_some(())))
        .await
        .expect("its token is worth nothing");
    until("its export is revoked", async || Ok(process.log().contains("an export was revoked").then_some(())))
        .await
        .expect("by name");
    assert_eq!(ask(&process, "GET", &link, "").await.status, 404, "nor its links");
    assert!(process.log().contains("close it with chmod 600"), "and it is told what is wrong");
    server.stop().await;
}

/// A key that is known to be stolen is out of use as soon as an operator says so, however long its set may be kept.
#[tokio::test]
async fn sighup_has_the_issuers_keys_fetched_anew() {
    let (issuer, old, new) = (Issuer::serve().await, Key::es384("i1"), Key::es384("i2"));
    issuer.publish(&[&old], "Cache-Control: max-age=3600\r\n");
    let (process, server) = process(&issuer, &[("a", ALL)]).await;
    let (stolen, good) = (token(&process, &issuer, &old, "a"), token(&process, &issuer, &new, "a"));
    let (status, _) = exported(&process, &stolen).await;
    issuer.publish(&[&new], "Cache-Control: max-age=3600\r\n");
    assert_eq!(ask(&process, "GET", &status, &stolen).await.status, 200);
    process.reload(|yaml| yaml).expect("it is told");
    until("it is refused", async || Ok((ask(&process, "GET", &status, &stolen).await.status == 401).then_some(())))
        .await
        .expect("its key is not published any more");
    assert_eq!(ask(&process, "GET", &status, &good).await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_says_whether_the_issuer_can_be_used() {
    let (issuer, key) = (Issuer::serve().await, Key::es384("i1"));
    issuer.publish(&[&key], "");
    let (process, server) = process(&issuer, &[("a", ALL)]).await;
    // It asks the upstream and the issuer, which are here.
    let doctor = async || tokio::task::block_in_place(|| process.run(&["doctor"])).expect("it runs");
    let output = doctor().await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("issuer        answers         its keys can be had"), "{text}");
    let mut foreign = issuer.metadata();
    foreign["issuer"] = "https://evil.example".into();
    for (path, answer, expected) in [
        ("/jwks", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned(), "the answer has status 500"),
        (
            "/jwks",
            ok(&json!({ "keys": [Key::es256("x").jwk] }), ""),
            "has no key that is for one of smart.issuer.algorithms",
        ),
        ("/.well-known/openid-configuration", ok(&foreign, ""), "`issuer` is not smart.issuer.issuer"),
    ] {
        issuer.say(path, &answer);
        let output = doctor().await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{expected}: {text}");
    }
    server.stop().await;
}

#[test]
fn a_secret_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder of its own");
    let config = folder.path().join("offtake.yaml");
    let open = folder.path().join("open");
    std::fs::write(&open, "s3cret\n").expect("the disk takes it");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).expect("it is ours");
    let nowhere = folder.path().join("nowhere");
    for (file, expected) in [(&nowhere, "could not read"), (&open, "can be read or changed by others (mode 644)")] {
        let file = file.display();
        let yaml = format!(
            "server: {{ public_base_url: http://127.0.0.1:1/fhir }}\nupstream: {{ base_url: http://127.0.0.1:2/fhir }}\n\
             smart: {{ mode: external, clients: [{{ client_id: a, scope: system/*.rs }}],\n\
             \x20 issuer: {{ issuer: https://login.example,\n\
             \x20 introspection: {{ client_id: offtake, client_secret_file: '{file}' }} }} }}\n"
        );
        std::fs::write(&config, yaml).expect("the disk takes it");
        let mut check = Command::new(env!("CARGO_BIN_EXE_offtake"));
        let output = check.args(["config", "check", "--config"]).arg(&config).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        let option = format!("smart.issuer.introspection.client_secret_file {file} cannot be read");
        assert!(text.contains(&option) && text.contains(expected) && !text.contains("s3cret"), "{text}");
    }
}
