//! What tokens cost, and a flood of bad assertions:
//!
//! ```text
//! cargo bench --locked --bench tokens -- [cost] [apart] [flood] [crowd] [--requests N] [--each N] [--seconds N]
//! ```
//!
//! * `cost`: token requests with ES384 to the built program, over TCP and with its job store on disk. One takes less than a
//!   millisecond of its processor time, in all its threads.
//! * `apart` (SEC-12): an unknown client, an unknown key, a bad signature and a replay, one after the other again and again. Whoever
//!   sees how long an answer took tells no two of them apart better than in 55 of a hundred cases, whatever the threshold, and
//!   the answers are the same.
//! * `flood`: a thousand distinct assertions a second, signed by nobody with RSA-4096 and a `kid` that is not known, in bodies of
//!   64 kB. Beside it the 99th percentile of reads that pass through is at most 1.2 times that at rest, as the median of several
//!   rounds of both (that beside the same flood into a server that reads it and does nothing, on the threads by which reads are
//!   answered, is said beside it); the client's keys are fetched once a minute at
//!   most; and the job store does not grow.
//!
//! * `crowd`: beside that flood, a thousand downloads of 4 kB/s and one export after another, the 99th percentile of small reads is at
//!   most 1.3 times that at rest, and none of all these fails.
//!
//! All of it comes from this very process, on this machine, where it would come from others. So what sends the flood alone runs
//! where nobody else wants a processor; and in the crowd, which leaves none, what floods, downloads and exports, and the server that
//! exports read (a replica, `upstream.export_base_url`), runs on threads of a lower priority than what reads and what is read: what
//! reads take there that do not pass through is said beside those that do.
//! The exit code is 0 if all hold.

mod crowd;
mod machines;
mod verdict;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use sample_upstream::{Running, SampleUpstream, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use self::machines::Machines;

#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; all if nothing is named.
    parts: Vec<Part>,
    /// Token requests.
    #[arg(long, default_value_t = 3_000)]
    requests: usize,
    /// Requests of each kind that are held apart.
    #[arg(long, default_value_t = 10_000)]
    each: usize,
    /// How often it is flooded.
    #[arg(long, default_value_t = 13)]
    rounds: usize,
    /// How long each flood lasts.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// What `cargo bench` adds by itself.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Cost,
    Apart,
    Flood,
    Crowd,
}

/// Requests of the flood in a second.
const A_SECOND: u32 = 1_000;
/// Token requests and requests of the flood that are under way at the same time.
const AT_ONCE: usize = 4;
const FLOODING: usize = 64;
const READ_EVERY: Duration = Duration::from_millis(5);

type Http = HttpClient<HttpConnector, Full<Bytes>>;

fn main() -> ExitCode {
    verdict::ended(
        Machines::start().and_then(|machines| machines.reader.block_on(measure(Arguments::parse(), &machines))),
    )
}

async fn measure(
    Arguments { parts, requests, each, rounds, seconds, .. }: Arguments,
    machines: &Machines,
) -> anyhow::Result<bool> {
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let stand = Arc::new(Stand::start(machines).await?);
    stand.until_tokens_are_issued().await?;
    let mut held = true;
    if wanted(Part::Cost) {
        held &= cost(&stand, requests).await?;
    }
    if wanted(Part::Apart) {
        held &= apart(&stand, each).await?;
    }
    if wanted(Part::Flood) {
        held &= flood(&stand, rounds, Duration::from_secs(seconds)).await?;
    }
    if wanted(Part::Crowd) {
        held &= crowd::crowd(&stand, rounds, Duration::from_secs(seconds)).await?;
    }
    Ok(held)
}

/// Says whether a figure is as promised.
fn holds(name: &str, value: f64, holds: bool, promise: &str) -> bool {
    println!("{name:<58} {value:>8.3}   {promise}: {}", if holds { "holds" } else { "DOES NOT HOLD" });
    holds
}

async fn cost(stand: &Stand, requests: usize) -> anyhow::Result<bool> {
    // What is done once for all of them is no part of it.
    stand.tokens(50).await?;
    let (before, began) = (stand.cpu()?, Instant::now());
    stand.tokens(requests).await?;
    let (took, cpu) = (began.elapsed(), stand.cpu()?.saturating_sub(before));
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let each = cpu.as_secs_f64() * 1_000.0 / requests as f64;
    println!("{requests} token requests with ES384 in {:.1} s", took.as_secs_f64());
    Ok(holds("processor time of a token request, ms", each, each < 1.0, "less than 1"))
}

/// What may be wrong with a client.
const CASES: [&str; 4] = ["unknown client", "unknown key", "bad signature", "replay"];

async fn apart(stand: &Stand, each: usize) -> anyhow::Result<bool> {
    let replayed = stand.good()?;
    let uri = format!("{}/$bulk-token", stand.base);
    let (status, _) = post(&stand.http, &uri, replayed.clone()).await?;
    ensure!(status == StatusCode::OK, "it is good once");
    let (mut took, mut answers) = (CASES.map(|_| Vec::with_capacity(each)), BTreeSet::new());
    // What is done once for all of them is no part of it.
    let warm = 200;
    for round in 0..each + warm {
        for (case, took) in took.iter_mut().enumerate() {
            let (client, kid) = match CASES[case] {
                "unknown client" => ("nobody", "k"),
                "unknown key" => ("good", "other"),
                _ => ("good", "k"),
            };
            // Made for a replay too: what was done here just before is no part of the difference.
            let made = stand.signed_by_nobody(client, kid)?;
            let form = if CASES[case] == "replay" { replayed.clone() } else { made };
            let began = Instant::now();
            let answer = post(&stand.http, &uri, form).await?;
            if round >= warm {
                took.push(began.elapsed());
            }
            answers.insert(answer);
        }
    }
    for took in &mut took {
        took.sort_unstable();
    }
    for (case, took) in CASES.iter().zip(&took) {
        println!("{case:<16} median {:.3?} of {}", took[took.len() / 2], took.len());
    }
    let mut worst: (f64, &str, &str) = (0.0, "", "");
    for (at, one) in took.iter().enumerate() {
        for (other_at, other) in took.iter().enumerate().skip(at + 1) {
            let told = told_apart(one, other);
            if told > worst.0 {
                worst = (told, CASES[at], CASES[other_at]);
            }
        }
    }
    println!("told apart best: {} and {}", worst.1, worst.2);
    let is_one = answers.len() == 1;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let mut held = holds("kinds of answers", answers.len() as f64, is_one, "one");
    held &= holds("cases told apart by the best threshold", worst.0, worst.0 < 0.55, "below 0.55");
    Ok(held)
}

/// How many of a hundred cases of two kinds, both sorted, the best threshold puts right.
#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn told_apart(one: &[Duration], other: &[Duration]) -> f64 {
    let below = |of: &[Duration], most: Duration| of.partition_point(|took| *took <= most) as f64 / of.len() as f64;
    let differences = one.iter().chain(other).map(|took| (below(one, *took) - below(other, *took)).abs());
    0.5 + differences.fold(0.0, f64::max) / 2.0
}

async fn flood(stand: &Arc<Stand>, rounds: usize, lasts: Duration) -> anyhow::Result<bool> {
    let token = format!("{}/$bulk-token", stand.base);
    let nowhere = stand.server.spawn(nowhere()).await??;
    let (grown, fetched, began) = (stand.state_bytes(), stand.fetched.load(Ordering::Relaxed), Instant::now());
    let (mut to_rest, mut to_nowhere) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let idle = percentile(stand.reads(lasts).await?);
        let (elsewhere, _) = tokio::try_join!(stand.reads(lasts), stand.flood(&nowhere, lasts, &stand.away))?;
        let (beside, answers) = tokio::try_join!(stand.reads(lasts), stand.flood(&token, lasts, &stand.away))?;
        let (elsewhere, beside) = (percentile(elsewhere), percentile(beside));
        println!(
            "99th percentile of reads: {idle:.2?} at rest, {elsewhere:.2?} while nowhere is flooded, {beside:.2?} beside {answers:?}"
        );
        to_rest.push(beside.as_secs_f64() / idle.as_secs_f64());
        to_nowhere.push(beside.as_secs_f64() / elsewhere.as_secs_f64());
    }
    let grown = stand.state_bytes().abs_diff(grown);
    let fetched = stand.fetched.load(Ordering::Relaxed) - fetched;
    let (ratio, of_the_program) = (median(to_rest), median(to_nowhere));
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (grown, fetched) = (grown as f64, fetched as f64);
    let most = 1.0 + (began.elapsed().as_secs_f64() / 60.0).floor();
    let mut held = holds("99th percentile beside a flood, times that at rest", ratio, ratio <= 1.2, "at most 1.2");
    println!("{:<58} {of_the_program:>8.3}", "... times that while nowhere is flooded");
    held &= holds("times that the client's keys were fetched", fetched, fetched <= most, "once a minute");
    held &= holds("bytes by which the job store has grown", grown, grown == 0.0, "none");
    Ok(held)
}

/// The built program before a sample upstream, with two clients: one with its keys in the configuration, one with a `jwks_uri`.
struct Stand {
    base: String,
    child: Child,
    folder: TempDir,
    key: EncodingKey,
    http: Http,
    /// Connections that are driven where those are.
    http_of_others: Http,
    /// How often the second client's keys were fetched.
    fetched: Arc<AtomicUsize>,
    /// What exports read.
    replica: SampleUpstream,
    upstream_base: String,
    _servers: [Running; 2],
    /// Where the server is that is read.
    server: Handle,
    /// Where those are who flood, download and export at once, and who only flood.
    others: Handle,
    away: Handle,
}

#[derive(Debug, Default, Clone, Copy)]
struct Answers {
    sent: usize,
    refused: usize,
    busy: usize,
}

impl Stand {
    async fn start(machines: &Machines) -> anyhow::Result<Self> {
        let [server, others, away] =
            [&machines.server, &machines.others, &machines.away].map(|machine| machine.handle().clone());
        let [upstream, replica] = [(); 2].map(|()| SampleUpstream::new(Settings::default()));
        for server in [&upstream, &replica] {
            server.create(r#"{"resourceType":"Patient","active":true}"#).context("a patient")?;
        }
        let serve = async |upstream: &SampleUpstream, on: &Handle| {
            let upstream = upstream.clone();
            on.spawn(async move { anyhow::Ok(upstream.serve(listener().await?).await) }).await?
        };
        let servers = [serve(&upstream, &server).await?, serve(&replica, &others).await?];
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).ok().context("a key")?;
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().ok().context("it can be written")?.as_ref());
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES384)?)?;
        jwk["kid"] = "k".into();
        let jwks = json!({ "keys": [jwk] });
        let fetched = Arc::new(AtomicUsize::new(0));
        let uri = publish(jwks.to_string(), Arc::clone(&fetched)).await?;
        let clients = json!([
            { "client_id": "good", "scope": "system/*.rs", "jwks": jwks },
            { "client_id": "flooded", "scope": "system/*.rs", "jwks_uri": uri },
        ]);
        let folder = tempfile::tempdir()?;
        let port = listener().await?.local_addr()?.port();
        let base = format!("http://127.0.0.1:{port}/fhir");
        let child = spawn(folder.path(), port, &servers, &clients)?;
        let http = HttpClient::builder(TokioExecutor::new()).build_http();
        let http_of_others = HttpClient::builder(TokioExecutor::new()).build_http();
        let stand = Self {
            base,
            child,
            folder,
            key,
            http,
            http_of_others,
            fetched,
            replica,
            upstream_base: servers[0].base_url.clone(),
            _servers: servers,
            server,
            others,
            away,
        };
        for _ in 0..500 {
            if stand.read().await.is_ok() {
                return Ok(stand);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("it does not answer")
    }

    /// The job store has to be open, and a second has to have passed since.
    async fn until_tokens_are_issued(&self) -> anyhow::Result<()> {
        let mut tried = Ok(());
        for _ in 0..60 {
            tried = self.tokens(1).await;
            if tried.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tried
    }

    /// So many good token requests.
    async fn tokens(&self, requests: usize) -> anyhow::Result<()> {
        let mut asking = JoinSet::new();
        for _ in 0..requests {
            if asking.len() >= AT_ONCE {
                asking.join_next().await.context("one is under way")???;
            }
            let (http, form) = (self.http.clone(), self.good()?);
            let uri = format!("{}/$bulk-token", self.base);
            asking.spawn(async move {
                let (status, body) = post(&http, &uri, form).await?;
                ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
                Ok::<_, anyhow::Error>(())
            });
        }
        asking.join_all().await.into_iter().collect()
    }

    /// A form that a token is issued for.
    fn good(&self) -> anyhow::Result<String> {
        let header = json!({ "alg": "ES384", "typ": "JWT", "kid": "k" });
        let signed = self.unsigned("good", &header);
        let signature = crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES384)?;
        Ok(form(&format!("{signed}.{signature}")))
    }

    /// A form with an assertion that looks like one, and is signed by nobody.
    fn signed_by_nobody(&self, client: &str, kid: &str) -> anyhow::Result<String> {
        let signed = self.unsigned(client, &json!({ "alg": "ES384", "typ": "JWT", "kid": kid }));
        let mut signature = crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES384)?.into_bytes();
        // One letter of it, which no bits are left over of.
        signature[40] = if signature[40] == b'A' { b'B' } else { b'A' };
        Ok(form(&format!("{signed}.{}", String::from_utf8(signature)?)))
    }

    fn unsigned(&self, client: &str, header: &Value) -> String {
        // Each is used once.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let (now, jti) =
            (offtake::Clock::unix_millis(&offtake::SystemClock) / 1_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let claims = json!({
            "iss": client, "sub": client, "aud": format!("{}/$bulk-token", self.base),
            // So late that it cannot have been used before the start.
            "iat": now, "exp": now + 330, "jti": jti.to_string(),
        });
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    /// Bad assertions at their pace, whatever they are answered with.
    async fn flood(self: &Arc<Self>, uri: &str, lasts: Duration, from: &Handle) -> anyhow::Result<Answers> {
        let (stand, uri) = (Arc::clone(self), uri.to_owned());
        from.spawn(async move { stand.flooding(&uri, lasts).await }).await?
    }

    async fn flooding(&self, uri: &str, lasts: Duration) -> anyhow::Result<Answers> {
        let http: Http = HttpClient::builder(TokioExecutor::new()).build_http();
        let began = Instant::now();
        let mut pace = tokio::time::interval(Duration::from_secs(1) / A_SECOND);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let (mut answers, mut asking) = (Answers::default(), JoinSet::new());
        while began.elapsed() < lasts {
            pace.tick().await;
            if asking.len() >= FLOODING {
                answers.count(asking.join_next().await.context("one is under way")??);
            }
            let (http, uri, form) = (http.clone(), uri.to_owned(), self.bad(answers.sent));
            answers.sent += 1;
            asking.spawn(async move { post(&http, &uri, form).await.map(|(status, _)| status) });
        }
        asking.join_all().await.into_iter().for_each(|answer| answers.count(answer));
        Ok(answers)
    }

    /// A form of 64 kB with an assertion that is as dear as it can be and signed by nobody.
    fn bad(&self, number: usize) -> String {
        let header = json!({ "alg": "RS384", "typ": "JWT", "kid": format!("unknown-{number}") });
        let signed = self.unsigned("flooded", &header);
        let mut signature = [0x5a; 512];
        signature[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let mut form = form(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)));
        form.push_str("&padding=");
        form.extend(std::iter::repeat_n('x', 64_000_usize.saturating_sub(form.len())));
        form
    }

    /// How long reads take that pass through.
    async fn reads(&self, lasts: Duration) -> anyhow::Result<Vec<Duration>> {
        self.reads_of(&self.base, lasts).await
    }

    /// How long such reads of a server take.
    async fn reads_of(&self, base: &str, lasts: Duration) -> anyhow::Result<Vec<Duration>> {
        let (began, mut every, mut took) = (Instant::now(), tokio::time::interval(READ_EVERY), Vec::new());
        while began.elapsed() < lasts {
            every.tick().await;
            took.push(self.read_of(base).await?);
        }
        Ok(took)
    }

    async fn read(&self) -> anyhow::Result<Duration> {
        self.read_of(&self.base).await
    }

    async fn read_of(&self, base: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let answer = self.http.get(format!("{base}/Patient?_count=1").parse()?).await?;
        ensure!(answer.status().is_success(), "a read was answered with {}", answer.status());
        answer.into_body().collect().await?;
        Ok(began.elapsed())
    }

    /// What the program has used of the processors.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(") ").context("a process has a name")?.1.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        // Linux counts them in hundredths of a second for everybody.
        Ok(Duration::from_millis(ticks * 10))
    }

    fn state_bytes(&self) -> u64 {
        files(&self.folder.path().join("state/jobs")).iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Answers {
    fn count(&mut self, answer: anyhow::Result<StatusCode>) {
        match answer {
            Ok(StatusCode::BAD_REQUEST) => self.refused += 1,
            Ok(_) | Err(_) => self.busy += 1,
        }
    }
}

fn spawn(folder: &Path, port: u16, [upstream, replica]: &[Running; 2], clients: &Value) -> anyhow::Result<Child> {
    let (config, path) = (folder.join("offtake.yaml"), folder.display());
    let (upstream, replica) = (&upstream.base_url, &replica.base_url);
    std::fs::write(
        &config,
        format!(
            "server: {{ listen: 127.0.0.1:{port}, public_base_url: http://127.0.0.1:{port}/fhir, \
             max_bulk_requests: 4000, max_bulk_requests_per_peer: 4000 }}\n\
             upstream: {{ base_url: {upstream}, export_base_url: {replica}, accepts_anonymous: acknowledged }}\n\
             output: {{ location: file://{path}/output, min_free_bytes: 0 }}\n\
             store: {{ path: {path}/state }}\n\
             smart: {{ mode: authorization_server, jwks_private_hosts: [127.0.0.1], clients: {clients} }}\n"
        ),
    )?;
    let log = std::fs::File::create(folder.join("log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_offtake"));
    command.args(["serve", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().context("starting it")
}

/// Answers everybody with these keys, and counts how often.
async fn publish(jwks: String, fetched: Arc<AtomicUsize>) -> anyhow::Result<String> {
    let listener = listener().await?;
    let uri = format!("http://{}/jwks.json", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            fetched.fetch_add(1, Ordering::Relaxed);
            let mut head = [0; 4_096];
            let answer =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{jwks}", jwks.len());
            // Who breaks off asks again.
            drop(socket.read(&mut head).await);
            drop(socket.write_all(answer.as_bytes()).await);
        }
    });
    Ok(uri)
}

/// Reads what is sent to it, and refuses it.
async fn nowhere() -> anyhow::Result<String> {
    let listener = listener().await?;
    let uri = format!("http://{}/nowhere", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let refuse = service_fn(async |request: Request<Incoming>| {
                let refused = Response::builder().status(StatusCode::BAD_REQUEST).body(Full::<Bytes>::default());
                request.into_body().collect().await.map(|_| refused.expect("a status"))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), refuse));
        }
    });
    Ok(uri)
}

async fn listener() -> anyhow::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await.context("a free port")
}

fn form(assertion: &str) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.extend_pairs([
        ("grant_type", "client_credentials"),
        ("scope", "system/*.rs"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ]);
    form.finish()
}

async fn post(http: &Http, uri: &str, form: String) -> anyhow::Result<(StatusCode, Bytes)> {
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let answer = http.request(request.body(Full::new(Bytes::from(form)))?).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

fn percentile(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took.get((took.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}
