//! SMART Backend Services over TCP: clients, tokens, and what they open (section 7 of the checklist).

mod clients;
mod clock;
mod delivery;
mod discovery;
mod exports;
mod links;
pub(crate) mod process;
mod rotation;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use offtake::config::{ClientConfig, SmartMode};
use offtake::testing::{CrashPoint, JobStore, ManualClock};
use offtake::{Clock, Config, Offtake, SystemClock};
use sample_upstream::{Running, SampleUpstream, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::raw::{self, Answer, KICKOFF};
use crate::support;

pub(crate) const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A key pair of a client.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) alg: Algorithm,
    pub(crate) private: EncodingKey,
    /// Its public half, as a client registers it.
    pub(crate) jwk: Value,
}

impl Key {
    pub(crate) fn es384(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
        let pkcs8 = pair.to_pkcs8v1().expect("it can be written");
        Self::of(Algorithm::ES384, EncodingKey::from_ec_der(pkcs8.as_ref()), kid)
    }

    pub(crate) fn es256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let pkcs8 = pair.to_pkcs8v1().expect("it can be written");
        Self::of(Algorithm::ES256, EncodingKey::from_ec_der(pkcs8.as_ref()), kid)
    }

    pub(crate) fn rs384(kid: &str) -> Self {
        Self::rsa(Algorithm::RS384, kid)
    }

    pub(crate) fn rsa(alg: Algorithm, kid: &str) -> Self {
        let pkcs8 = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pkcs8.as_der().expect("it can be written");
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            base64::prelude::BASE64_STANDARD.encode(der.as_ref())
        );
        Self::of(alg, EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a key"), kid)
    }

    fn of(alg: Algorithm, private: EncodingKey, kid: &str) -> Self {
        let jwk = Jwk::from_encoding_key(&private, alg).expect("a public half");
        let mut jwk = serde_json::to_value(&jwk).expect("JSON");
        jwk["kid"] = kid.into();
        Self { alg, private, jwk }
    }

    pub(crate) fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk] })
    }

    /// Whatever header and claims as a JWT.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = crypto::sign(signed.as_bytes(), &self.private, self.alg).expect("a signature");
        format!("{signed}.{signature}")
    }
}

/// A registered client.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) id: &'static str,
    pub(crate) scope: &'static str,
    pub(crate) key: Key,
}

impl Client {
    pub(crate) fn new(id: &'static str, scope: &'static str) -> Self {
        Self { id, scope, key: Key::es384("k1") }
    }

    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig {
            client_id: self.id.to_owned(),
            scope: self.scope.to_owned(),
            jwks: Some(self.key.jwks()),
            ..ClientConfig::default()
        }
    }
}

/// An assertion before it is signed.
#[derive(Clone)]
pub(crate) struct Assertion {
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

/// Parameters of a form, in their order.
pub(crate) type Parameters = Vec<(String, String)>;

/// An Offtake with an authorization server, in front of a sample upstream, by a clock that tests move.
pub(crate) struct Rig {
    pub(crate) base: String,
    pub(crate) upstream: SampleUpstream,
    pub(crate) clock: Arc<ManualClock>,
    /// Counts what was written to the job store.
    pub(crate) writes: Arc<CrashPoint>,
    pub(crate) store: JobStore,
    /// Jobs and keys are kept where an operator has them, and not in that.
    is_on_disk: bool,
    server: Running,
    folder: TempDir,
    config: Config,
    offtake: Option<Offtake>,
    serving: Option<(oneshot::Sender<()>, JoinHandle<anyhow::Result<()>>)>,
}

impl Rig {
    pub(crate) async fn with(clients: &[Client]) -> Self {
        Self::configured(clients, |_| {}).await
    }

    /// The same with jobs and keys on disk, so that keys outlive a restart.
    pub(crate) async fn on_disk(clients: &[Client], change: impl FnOnce(&mut Config)) -> Self {
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(3);
        let server = upstream.serve(support::listener().await).await;
        let rig = Self::kept(upstream, server, clients, change, true).await;
        rig.waits_for_store(&clients[0]).await;
        rig
    }

    /// Waits until a store on disk is open: that is tried by the clock that tests move.
    pub(crate) async fn waits_for_store(&self, client: &Client) {
        let opened = async { while self.ask_for_token(&self.parameters(client, "system/*.rs")).await.status == 503 {} };
        let moving = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.advance(1);
            }
        };
        tokio::select! {
            () = opened => {}
            () = moving => {}
        }
    }

    pub(crate) async fn configured(clients: &[Client], change: impl FnOnce(&mut Config)) -> Self {
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(3);
        let server = upstream.serve(support::listener().await).await;
        let rig = Self::before(upstream, server, clients, change).await;
        if rig.config.server.bulk_base_path.is_none() && rig.config.smart.mode == SmartMode::AuthorizationServer {
            rig.is_asked_at_start(1).await;
        }
        rig
    }

    /// Waits until the server was asked for its SMART configuration by each of so many starts, which is no test's concern.
    pub(crate) async fn is_asked_at_start(&self, starts: usize) {
        let asked = || self.upstream.requests().iter().filter(|seen| seen.path.contains(".well-known")).count();
        let is_asked = || asked() >= starts;
        support::until("it is asked for its SMART configuration", Duration::from_secs(30), is_asked).await;
    }

    /// The same in front of this upstream.
    pub(crate) async fn before(
        upstream: SampleUpstream,
        server: Running,
        clients: &[Client],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        Self::kept(upstream, server, clients, change, false).await
    }

    async fn kept(
        upstream: SampleUpstream,
        server: Running,
        clients: &[Client],
        change: impl FnOnce(&mut Config),
        is_on_disk: bool,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Taken for a moment, so that the address is known.
        let listener = support::listener().await;
        let base = format!("http://{}/fhir", listener.local_addr().expect("it listens"));
        let mut config = support::config(&server.base_url, &base, folder.path());
        config.smart.mode = SmartMode::AuthorizationServer;
        config.smart.clients = clients.iter().map(Client::config).collect();
        change(&mut config);
        let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
        let (store, writes) = (JobStore::memory(), Arc::new(CrashPoint::new(None)));
        let mut rig = Self {
            base,
            upstream,
            clock,
            writes,
            store,
            is_on_disk,
            server,
            folder,
            config,
            offtake: None,
            serving: None,
        };
        let offtake = rig.built();
        // Before that an assertion could have been used before the store was made (SEC-13). What is asked at the start has a
        // patience by this clock: nothing is asked until it stands still.
        rig.advance(31);
        rig.serve(offtake, listener);
        rig
    }

    fn built(&self) -> Offtake {
        let builder = Offtake::builder(self.config.clone()).clock(self.clock.clone());
        let builder = if self.is_on_disk { builder } else { builder.store(self.store.until(&self.writes)) };
        builder.build().expect("everything can be opened")
    }

    fn serve(&mut self, offtake: Offtake, listener: tokio::net::TcpListener) {
        self.offtake = Some(offtake.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        self.serving = Some((stop, serving));
    }

    /// Stops, and starts anew with the same store and other options, at the same address.
    pub(crate) async fn restart(&mut self, change: impl FnOnce(&mut Config)) {
        self.stop_serving().await;
        change(&mut self.config);
        let host = self.host();
        let listener = tokio::net::TcpListener::bind(&host).await.expect("nobody took it");
        self.serve(self.built(), listener);
    }

    /// Takes up other options as it runs, as SIGHUP does.
    pub(crate) fn reload(&mut self, change: impl FnOnce(&mut Config)) {
        self.change(change);
        let offtake = self.offtake.as_ref().expect("it serves");
        offtake::testing::reload(offtake, &self.config).expect("they can be taken up");
    }

    /// Has other options taken up by the next start, or by whoever has it reloaded.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
    }

    /// What serves, and by what it does.
    pub(crate) fn handle(&self) -> (Offtake, Config) {
        (self.offtake.clone().expect("it serves"), self.config.clone())
    }

    /// A path in the folder that is its own.
    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    async fn stop_serving(&mut self) {
        drop(self.offtake.take());
        let Some((stop, serving)) = self.serving.take() else { return };
        drop(stop);
        serving.await.expect("serving did not panic").expect("serving ended well");
    }

    pub(crate) async fn stop(self) {
        drop(self.stop_for_folder().await);
    }

    /// The same; gives what is left on disk.
    pub(crate) async fn stop_for_folder(mut self) -> TempDir {
        self.stop_serving().await;
        self.server.stop().await;
        self.folder
    }

    /// Where everything is kept.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// What the ledger holds.
    pub(crate) fn ledger(&self) -> Vec<Value> {
        crate::ledger::records(&self.folder.path().join("ledger"))
    }

    pub(crate) fn host(&self) -> String {
        self.base.trim_start_matches("http://").trim_end_matches("/fhir").to_owned()
    }

    /// The folder of the output.
    pub(crate) fn output(&self) -> std::path::PathBuf {
        self.folder.path().join("output")
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.unix_millis() / 1_000
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) fn token_endpoint(&self) -> String {
        format!("{}/$bulk-token", self.base)
    }

    /// Sends one request below the base.
    pub(crate) async fn ask(&self, method: &str, below: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let host = self.host();
        raw::ask(&host, &raw::request(method, &format!("/fhir{below}"), &host, headers, body)).await
    }

    /// What a client of this name would assert now.
    pub(crate) fn assertion(&self, client: &Client) -> Assertion {
        let now = self.now();
        let alg = if client.key.alg == Algorithm::ES384 { "ES384" } else { "RS384" };
        Assertion {
            header: json!({ "alg": alg, "typ": "JWT", "kid": client.key.jwk["kid"] }),
            claims: json!({
                "iss": client.id, "sub": client.id, "aud": self.token_endpoint(),
                "iat": now, "exp": now + 300, "jti": fresh("jti"),
            }),
        }
    }

    /// A good assertion, signed.
    pub(crate) fn signed(&self, client: &Client) -> String {
        let Assertion { header, claims } = self.assertion(client);
        client.key.sign(&header.to_string(), &claims.to_string())
    }

    /// The parameters of a good token request.
    pub(crate) fn parameters(&self, client: &Client, scope: &str) -> Parameters {
        parameters(scope, &self.signed(client))
    }

    pub(crate) async fn ask_for_token(&self, parameters: &Parameters) -> Answer {
        self.ask("POST", "/$bulk-token", &[FORM], form(parameters).as_bytes()).await
    }

    /// A token of these scopes.
    pub(crate) async fn token(&self, client: &Client, scope: &str) -> String {
        let answer = self.ask_for_token(&self.parameters(client, scope)).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// A request that shows a token.
    pub(crate) async fn with_token(&self, method: &str, below: &str, token: &str) -> Answer {
        let authorization = format!("Bearer {token}");
        let headers = [KICKOFF[0], KICKOFF[1], ("Authorization", authorization.as_str())];
        self.ask(method, below, &headers, b"").await
    }

    /// Kicks off and waits: where the status is, below the base.
    pub(crate) async fn exported(&self, below: &str, token: &str) -> String {
        let kickoff = self.with_token("GET", below, token).await;
        assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
        let status = kickoff.header("content-location").to_owned();
        let status = status.strip_prefix(&self.base).expect("below the base").to_owned();
        loop {
            let answer = self.with_token("GET", &status, token).await;
            match answer.status {
                200 => return status,
                running @ (202 | 429) => self.pause(running).await,
                other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
            }
        }
    }

    /// A moment between two polls. Whoever is told to wait waits by the clock that tests move: it stands still by itself.
    pub(crate) async fn pause(&self, status: u16) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if status == 429 {
            self.advance(1);
        }
    }

    /// The links of a manifest, by type; those of outcomes are called `OperationOutcome`.
    pub(crate) async fn listed(&self, status: &str, token: &str) -> (Value, BTreeMap<String, String>) {
        let manifest = self.with_token("GET", status, token).await.json();
        let files = ["output", "error"].into_iter().flat_map(|list| manifest[list].as_array().expect("a list"));
        let links = files.map(|file| {
            let url = file["url"].as_str().expect("a URL");
            let below = url.strip_prefix(&self.base).unwrap_or(url);
            (file["type"].as_str().expect("a type").to_owned(), below.to_owned())
        });
        let links = links.collect();
        (manifest, links)
    }
}

/// The parameters of a token request.
pub(crate) fn parameters(scope: &str, assertion: &str) -> Parameters {
    [
        ("grant_type", "client_credentials"),
        ("scope", scope),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", assertion),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

pub(crate) fn form(parameters: &Parameters) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(parameters);
    text.finish()
}

/// A text that there was never before.
pub(crate) fn fresh(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Fails unless an answer is this error of RFC 6749.
#[track_caller]
pub(crate) fn assert_error(answer: &Answer, status: u16, error: &str, what: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(error)), "{what}: {text}");
    assert!(answer.json()["error_description"].as_str().is_some_and(|text| !text.is_empty()), "SM-023: {what}");
    for (name, value) in [("content-type", "application/json"), ("cache-control", "no-store"), ("pragma", "no-cache")] {
        assert_eq!(answer.header(name), value, "SM-028: {what}");
    }
}
