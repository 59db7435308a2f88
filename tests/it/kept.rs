//! Files without which nobody can answer bulk requests: whatever becomes of them, requests pass through, and what is amiss is
//! said and can be mended without a restart.

use std::fs;
use std::path::PathBuf;

use sample_upstream::{SampleUpstream, Settings};
use serde_json::json;

use crate::process::{Options, Process, until};
use crate::smart::Client;
use crate::smart::process::{ask, exported, token, with_token};
use crate::support::listener;

/// A process with one client, which shows a header from a file to the upstream.
struct Kept {
    process: Process,
    client: Client,
    token: String,
    status: String,
    link: String,
    secret: PathBuf,
    _folder: tempfile::TempDir,
    _server: sample_upstream::Running,
}

impl Kept {
    async fn start() -> Self {
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(3);
        let server = upstream.serve(listener().await).await;
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        write(&secret, b"s3cret-of-ours");
        let client = Client::new("a", "system/*.rs");
        let clients = json!([{ "client_id": client.id, "scope": client.scope, "jwks": client.key.jwks() }]);
        let smart = format!("mode: authorization_server, clients: {clients}");
        let options = Options {
            upstream: format!("credentials: {{ headers: {{ X-Key: {{ file: {} }} }} }}", secret.display()).leak(),
            ..Options::default()
        };
        let process = Process::start_for(&server.base_url, options, &smart).await.expect("it starts");
        let token = token(&process, &client).await;
        let (status, link) = exported(&process, &token).await;
        Self { process, client, token, status, link, secret, _folder: folder, _server: server }
    }

    async fn ask(&self, below: &str, headers: &[(&str, &str)]) -> crate::raw::Answer {
        ask(&self.process, "GET", &format!("{}{below}", self.process.base), headers, b"").await
    }

    /// Waits until requests pass through.
    async fn passes_through(&self) {
        until("requests pass through", async || {
            let host = self.process.base.trim_start_matches("http://").trim_end_matches("/fhir");
            let Ok(stream) = tokio::net::TcpStream::connect(host).await else { return Ok(None) };
            drop(stream);
            Ok((self.ask("/Patient?_count=1", &[]).await.status == 200).then_some(()))
        })
        .await
        .unwrap_or_else(|error| panic!("{error:?}\n{}", self.process.log()));
    }

    /// Waits until bulk requests are answered as before.
    async fn is_mended(&self) {
        until("bulk requests are answered", async || {
            let answer = with_token(&self.process, "GET", &self.status, &self.token).await;
            Ok((answer.status == 200).then_some(()))
        })
        .await
        .unwrap_or_else(|error| panic!("{error:?}\n{}", self.process.log()));
        assert_eq!(ask(&self.process, "GET", &self.link, &[], b"").await.status, 200);
    }
}

fn write(path: &std::path::Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, bytes).expect("the disk takes it");
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("it is ours");
}

/// SEC-16: a key that cannot be read closes what needs it, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // doctor is waited for while the server answers it
async fn a_damaged_key_or_secret_stops_bulk_requests_until_it_is_mended_and_nothing_else() {
    let mut kept = Kept::start().await;
    let state = kept.process.state();
    let files = ["token.keys", "link.key", "checkpoint.key", "instance"].map(|name| (name, state.join(name)));
    for (name, path) in files.into_iter().chain([("upstream.credentials.headers.X-Key", kept.secret.clone())]) {
        let good = fs::read(&path).expect("it is there");
        kept.process.kill().expect("it is killed");
        write(&path, b"");
        let told = kept.process.whole_log().len();
        kept.process.restart().expect("it starts");
        kept.passes_through().await;
        let answer = with_token(&kept.process, "GET", &kept.status, &kept.token).await;
        assert_eq!(answer.status, 503, "{name}");
        assert_eq!(
            with_token(&kept.process, "GET", &format!("{}/$export", kept.process.base), &kept.token).await.status,
            503
        );
        let tokens = ask(&kept.process, "POST", &format!("{}/$bulk-token", kept.process.base), &[], b"").await;
        assert_eq!((tokens.status, tokens.json()["error"].as_str()), (503, Some("temporarily_unavailable")), "{name}");
        assert_eq!(ask(&kept.process, "GET", &kept.link, &[], b"").await.status, 503, "{name}");
        let bearer = format!("Bearer {}", kept.token);
        let passed = kept.ask("/Patient", &[("Authorization", &bearer)]).await;
        assert_eq!(passed.status, 401, "SEC-05, {name}: a token of ours goes to nobody else");
        let log = kept.process.whole_log()[told..].to_owned();
        assert!(log.contains("BULK REQUESTS ARE REFUSED") && log.contains(name), "{name}: {log}");
        let doctor = kept.process.run(&["doctor"]).expect("it runs");
        let found = format!("{}{}", String::from_utf8_lossy(&doctor.stdout), String::from_utf8_lossy(&doctor.stderr));
        assert!(!doctor.status.success() && found.contains(name), "{name}: {found}");
        assert!(!found.contains("s3cret-of-ours") && !log.contains("s3cret-of-ours"));
        write(&path, &good);
        kept.process.reload(|yaml| yaml).expect("it is told");
        kept.is_mended().await;
    }
    let doctor = kept.process.run(&["doctor"]).expect("it runs");
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("as they were"));
}

/// Without the old keys there are new ones: only tokens have to be asked for anew.
#[tokio::test]
async fn a_damaged_token_key_can_be_removed() {
    let mut kept = Kept::start().await;
    let path = kept.process.state().join("token.keys");
    kept.process.kill().expect("it is killed");
    write(&path, b"{}");
    kept.process.restart().expect("it starts");
    kept.passes_through().await;
    fs::remove_file(&path).expect("it is there");
    kept.process.reload(|yaml| yaml).expect("it is told");
    until("links are answered", async || {
        Ok((ask(&kept.process, "GET", &kept.link, &[], b"").await.status == 200).then_some(()))
    })
    .await
    .expect("they are");
    assert_eq!(with_token(&kept.process, "GET", &kept.status, &kept.token).await.status, 401, "it is of the old key");
    assert!(path.exists());
}

/// SEC-16: `keys rotate` takes nothing away from anybody, `keys revoke` acts once it has ended.
#[tokio::test]
async fn an_operator_replaces_the_keys_of_tokens_and_links() {
    let kept = Kept::start().await;
    for command in ["rotate", "revoke"] {
        let file = |name: &str| fs::read(kept.process.state().join(name)).expect("it is there");
        let before = (file("token.keys"), file("link.key"));
        let replaced = kept.process.run(&["keys", command]).expect("it runs");
        assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
        assert!(file("token.keys") != before.0 && file("link.key") != before.1);
        let answer = with_token(&kept.process, "GET", &kept.status, &kept.token).await;
        if command == "rotate" {
            let link = answer.json()["output"][0]["url"].as_str().map(str::to_owned).expect("a link");
            let key = |link: &str| link.split('&').nth(1).map(str::to_owned);
            assert!(key(&link).is_some() && key(&link) != key(&kept.link), "links are signed by another key");
            kept.is_mended().await;
        } else {
            assert_eq!(answer.status, 401, "the old token is good no more");
            assert_eq!(ask(&kept.process, "GET", &kept.link, &[], b"").await.status, 403);
        }
    }
    // A token of the new key is good until something is put in its place that cannot be read: then nobody knows.
    let token = token(&kept.process, &kept.client).await;
    let path = kept.process.state().join("token.keys");
    fs::remove_file(&path).expect("it is there");
    fs::create_dir(&path).expect("nothing is there");
    until("it is looked at", async || {
        let answer = with_token(&kept.process, "GET", &kept.status, &token).await;
        Ok((answer.status == 503).then_some(()))
    })
    .await
    .expect("it is");
    kept.passes_through().await;
    // What holds no keys takes nothing away. It is looked at at once, as the look before it came to nothing.
    fs::remove_dir(&path).expect("it is empty");
    write(&path, b"{}");
    assert_eq!(with_token(&kept.process, "GET", &kept.status, &token).await.status, 200);
}

/// SEC-43: the ledger's key is another matter, for an operator alone: what is recorded must not begin anew unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_ledger_key_stops_bulk_requests_and_nothing_else() {
    let mut kept = Kept::start().await;
    let key = kept.process.state().with_file_name("ledger.key");
    let good = fs::read(&key).expect("it is there");
    kept.process.kill().expect("it is killed");
    write(&key, b"short");
    kept.process.restart().expect("it starts");
    kept.passes_through().await;
    until("what would leave cannot be recorded", async || {
        let answer = with_token(&kept.process, "GET", &kept.status, &kept.token).await;
        Ok((answer.status == 503).then_some(()))
    })
    .await
    .expect("it does not");
    write(&key, &good);
    kept.is_mended().await;
}
