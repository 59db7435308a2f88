//! The built program with credentials: what is wrong with files is told, and SIGHUP has them read anew.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use sample_upstream::{Demand, Settings};
use serde_json::{Value, json};

use super::{Secrets, client, header, upstream};
use crate::process::{Options, Process, until};
use crate::raw::{self, KICKOFF};
use crate::smart::process::{ask, exported, token, with_token};

/// Clients for the section `smart`.
pub(super) fn smart() -> String {
    let client = client();
    let client = json!([{ "client_id": client.id, "scope": client.scope, "jwks": client.key.jwks() }]);
    format!("mode: authorization_server, clients: {client}")
}

fn check(folder: &Path, upstream: &str) -> Output {
    let config = folder.join("offtake.yaml");
    let yaml = format!(
        "server: {{ public_base_url: http://127.0.0.1:1/fhir }}\nupstream: {{ base_url: 'https://fhir.example/fhir', {upstream} }}\n\
         output: {{ location: file:///nowhere/output }}\nsmart: {{ {} }}\n",
        smart()
    );
    std::fs::write(&config, yaml).expect("the disk takes it");
    let mut check = Command::new(env!("CARGO_BIN_EXE_offtake"));
    check.args(["config", "check", "--config"]).arg(&config).env("OFFTAKE_EMPTY", "");
    check.env("OFFTAKE_KEY", "k3y").output().expect("it runs")
}

#[test]
fn what_is_wrong_with_a_secret_is_told_and_the_secret_is_not() {
    let secrets = Secrets::new();
    let good = secrets.file("good", "s3cret\n");
    let open = secrets.file("open", "s3cret\n");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).expect("it is ours");
    let (empty, lines, missing) =
        (secrets.file("empty", "\n"), secrets.file("lines", "s3cret\ns3cret\n"), secrets.path("none"));
    let pem = secrets.file("pem", "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n");
    let of = |path: &Path| format!("credentials: {{ headers: {{ X-Key: {{ file: {} }} }} }}", path.display());
    let smart = |path: &Path| format!("credentials: {{ smart: {{ client_id: a, key_file: {} }} }}", path.display());
    for (upstream, expected) in [
        (of(&good), ""),
        ("credentials: { headers: { X-Key: { env: OFFTAKE_KEY } } }".to_owned(), ""),
        (of(&open), "can be read or changed by others (mode 644); close it with chmod 600"),
        (of(&empty), "is empty"),
        (of(&lines), "holds a line's end or another character"),
        (of(&missing), "could not read"),
        (
            "credentials: { headers: { X-Key: { env: OFFTAKE_EMPTY } } }".to_owned(),
            "the variable OFFTAKE_EMPTY is empty",
        ),
        ("credentials: { basic: { username: a, password_env: OFFTAKE_NONE } }".to_owned(), "OFFTAKE_NONE is not set"),
        (smart(&good), "is no JSON object"),
        (smart(&open), "chmod 600"),
        (format!("tls: {{ ca_file: {} }}", pem.display()), "holds no certificate in PEM"),
        (
            format!("tls: {{ client_cert_file: {}, client_key_file: {} }}", good.display(), open.display()),
            "upstream.tls.client_key_file",
        ),
        (format!("pass_through_tls: {{ ca_file: {} }}", missing.display()), "upstream.pass_through_tls.ca_file"),
    ] {
        let output = check(secrets.path("x").parent().expect("a folder"), &upstream);
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(if expected.is_empty() { 0 } else { 2 }), "{upstream}: {told}");
        assert!(told.contains(expected), "{upstream}: {told}");
        assert!(!told.contains("s3cret"), "{upstream}: {told}");
    }
}

#[tokio::test]
async fn sighup_has_the_credentials_read_anew() {
    let secrets = Secrets::new();
    let (upstream, server) = upstream(Settings { demand: header("x-api-key", "first"), ..Settings::default() }).await;
    let file = secrets.file("key", "first");
    let options = Options::default();
    let base =
        format!("{}, credentials: {{ headers: {{ x-api-key: {{ file: {} }} }} }}", server.base_url, file.display());
    let process = Process::start_for(&base, options, &smart()).await.expect("it starts");
    let token = token(&process, &client()).await;
    exported(&process, &token).await;
    upstream.update_settings(|settings| settings.demand = header("x-api-key", "second"));
    // A file that cannot be used changes nothing.
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("it is ours");
    process.reload(|yaml| yaml).expect("it is told");
    until("it says so", async || {
        Ok(process.log().contains("credentials for the upstream stay as they were").then_some(()))
    })
    .await
    .expect("it is told");
    secrets.file("key", "second\n");
    process.reload(|yaml| yaml).expect("it is told");
    until("it says so", async || {
        Ok(process.log().contains("credentials for the upstream were read anew").then_some(()))
    })
    .await
    .expect("it is told");
    exported(&process, &token).await;
    // Nor does a configuration that is not taken up.
    secrets.file("key", "third");
    let external =
        "mode: external, clients: [{ client_id: a, scope: system/*.rs }], issuer: { issuer: 'https://login.example' }";
    process.reload(|yaml| yaml.replace(&smart(), external)).expect("it is told");
    until("it says so", async || Ok(process.log().contains("the clients stay as they were").then_some(())))
        .await
        .expect("it is told");
    exported(&process, &token).await;
    // They are for the server that they were for at the start, and go to no other.
    let elsewhere = format!("http://localhost:{}/fhir", server.addr.port());
    process.reload(|yaml| yaml.replace(external, &smart()).replace(&server.base_url, &elsewhere)).expect("it is told");
    until("it says so", async || Ok(process.log().contains("base URL is another one than at the start").then_some(())))
        .await
        .expect("it is told");
    let passed = ask(&process, "GET", &format!("{}/Patient?_count=1", process.base), &[], b"").await;
    assert_eq!(passed.status, 401);
    server.stop().await;
}

/// SEC-42: marked values are searched for in everything that is told to anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // commands are waited for while the server answers them
async fn no_log_and_no_answer_holds_a_secret() {
    let secrets = Secrets::new();
    let (upstream, server) =
        upstream(Settings { demand: header("authorization", "Bearer c4n4ry-one"), ..Settings::default() }).await;
    let file = secrets.file("key", "Bearer c4n4ry-one");
    let base =
        format!("{}, credentials: {{ headers: {{ Authorization: {{ file: {} }} }} }}", server.base_url, file.display());
    let smart = format!("{} }}\ntelemetry: {{ log_level: trace", smart());
    let options = Options { upstream: "give_up_after_seconds: 1", ..Options::default() };
    let process = Process::start_for(&base, options, &smart).await.expect("it starts");
    let token = token(&process, &client()).await;
    let (status, _) = exported(&process, &token).await;
    let manifest = with_token(&process, "GET", &status, &token).await;
    let mut told = vec![String::from_utf8_lossy(&manifest.body).into_owned()];
    // The server refuses it from now on.
    upstream.update_settings(|settings| settings.demand = header("authorization", "Bearer c4n4ry-two"));
    let kickoff = with_token(&process, "GET", &format!("{}/$export?_type=Patient", process.base), &token).await;
    let status = kickoff.header("content-location").to_owned();
    let failed = until("it fails", async || {
        let answer = with_token(&process, "GET", &status, &token).await;
        Ok((answer.status != 202).then_some(answer))
    });
    let failed = failed.await.expect("it fails");
    told.push(String::from_utf8_lossy(&failed.body).into_owned());
    assert_eq!(failed.status, 500, "{told:?}");
    let (host, _) = process.base.trim_start_matches("http://").split_once('/').expect("a path");
    let metadata = raw::ask(host, &raw::request("GET", "/fhir/metadata", host, &KICKOFF, b"")).await;
    told.push(String::from_utf8_lossy(&metadata.body).into_owned());
    for command in [&["config", "print"][..], &["config", "check"], &["doctor"]] {
        let output = process.run(command).expect("it runs");
        told.push(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)));
    }
    let printed: Value = serde_json::from_str(&told[3]).expect("JSON, which is YAML");
    assert_eq!(printed["upstream"]["credentials"]["headers"]["Authorization"]["file"], file.display().to_string());
    told.push(process.whole_log());
    assert!(told[6].contains("an export was accepted"), "{}", told[6]);
    for text in &told {
        assert!(!text.contains("c4n4ry"), "{text}");
    }
    server.stop().await;
}

/// SEC-42: the same for tokens, assertions and the key that signs them.
#[tokio::test]
async fn no_log_and_no_answer_holds_a_token() {
    let secrets = Secrets::new();
    super::tokens::make_key("ES384", &secrets.path("key"));
    let lifetime = Duration::from_mins(5);
    let demand = |refusal| Demand::Token { lifetime, refusal };
    let (upstream, server) = upstream(Settings { demand: demand(None), ..Settings::default() }).await;
    let key = secrets.path("key");
    let base = format!(
        "{}, give_up_after_seconds: 1, credentials: {{ smart: {{ client_id: offtake, key_file: {} }} }}",
        server.base_url,
        key.display()
    );
    let smart = format!("{} }}\ntelemetry: {{ log_level: trace", smart());
    let process = Process::start_for(&base, Options::default(), &smart).await.expect("it starts");
    let token = token(&process, &client()).await;
    exported(&process, &token).await;
    upstream.update_settings(|settings| settings.demand = demand(Some((400, "invalid_client"))));
    upstream.revoke_tokens();
    let kickoff = with_token(&process, "GET", &format!("{}/$export?_type=Patient", process.base), &token).await;
    let status = kickoff.header("content-location").to_owned();
    let failed = until("it fails", async || {
        let answer = with_token(&process, "GET", &status, &token).await;
        Ok((answer.status != 202).then_some(answer))
    });
    let failed = failed.await.expect("it fails");
    let said = String::from_utf8_lossy(&failed.body).into_owned();
    assert_eq!(failed.status, 500, "{said}");
    assert!(said.contains("invalid_client"), "{said}");
    let jwk: Value = serde_json::from_slice(&std::fs::read(&key).expect("a key")).expect("JSON");
    let log = process.whole_log();
    assert!(log.contains("no access token for the upstream was issued"), "{log}");
    for text in [said, log] {
        // `eyJ` is how every JWT begins.
        for secret in ["sample-token", "eyJ", "s3cret words", jwk["d"].as_str().expect("a number")] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    server.stop().await;
}
