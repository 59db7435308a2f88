//! A storage that gives to anybody what it is to keep (SEC-31): bulk stops by name until it does not any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offtake::config::{LinkMode, PublicBucket};
use offtake::testing::ManualClock;
use offtake::{Clock, Config, SystemClock};
use sample_upstream::{SampleUpstream, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::process::until;
use crate::raw::{Answer, KICKOFF};
use crate::smart::{self, Rig};
use crate::support::{App, MARKER, listener};

/// What speaks like S3 and takes every signature for a good one.
#[derive(Debug, Default)]
struct Bucket {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    gives_to_anybody: AtomicBool,
    lists_to_anybody: AtomicBool,
    /// To those without a signature it does not say anything.
    is_away: AtomicBool,
    /// What was asked without a signature.
    asked: Mutex<Vec<String>>,
}

impl Bucket {
    fn answer(&self, method: &str, target: &str, is_signed: bool, body: Vec<u8>) -> (u16, Vec<u8>) {
        let path = target.split('?').next().unwrap_or_default();
        let key = path.strip_prefix("/bulk").unwrap_or_default().trim_start_matches('/').to_owned();
        if !is_signed {
            self.asked.lock().expect("no panic").push(format!("{method} {target}"));
            let is_open = if key.is_empty() { &self.lists_to_anybody } else { &self.gives_to_anybody };
            if self.is_away.load(Ordering::SeqCst) {
                return (503, Vec::new());
            }
            if !is_open.load(Ordering::SeqCst) {
                return (403, b"<Error><Code>AccessDenied</Code></Error>".to_vec());
            }
        }
        let mut objects = self.objects.lock().expect("no panic");
        match method {
            _ if key.is_empty() => (200, b"<ListBucketResult></ListBucketResult>".to_vec()),
            "PUT" => {
                objects.insert(key, body);
                (200, Vec::new())
            }
            "DELETE" => {
                objects.remove(&key);
                (204, Vec::new())
            }
            _ => match objects.get(&key) {
                Some(found) => (200, found.clone()),
                None => (404, b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
            },
        }
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&self).serve_one(stream));
        }
    }

    async fn serve_one(self: Arc<Self>, mut stream: TcpStream) {
        let mut asked = Vec::new();
        let (head, mut body) = loop {
            if stream.read_buf(&mut asked).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(end) = asked.windows(4).position(|window| window == b"\r\n\r\n") {
                break (String::from_utf8_lossy(&asked[..end]).to_lowercase(), asked.split_off(end + 4));
            }
        };
        let target = String::from_utf8_lossy(&asked).split(' ').nth(1).unwrap_or_default().to_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        while body.len() < length.unwrap_or(0) && stream.read_buf(&mut body).await.unwrap_or(0) > 0 {}
        let is_signed = head.contains("\nauthorization: ") || target.contains("X-Amz-Signature=");
        let method = head.split(' ').next().unwrap_or_default().to_uppercase();
        let (status, said) = self.answer(&method, &target, is_signed, body);
        let head = format!(
            "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\netag: \"1\"\r\n\
             last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nconnection: close\r\n\r\n",
            said.len()
        );
        let said = [head.into_bytes(), said].concat();
        // Who asked may be gone.
        let _said = stream.write_all(&said).await;
    }
}

/// Has files go to a bucket there.
fn to(config: &mut Config, endpoint: &str) {
    "s3://bulk/exports".clone_into(&mut config.output.location);
    config.output.s3.endpoint = Some(endpoint.parse().expect("a URL"));
    config.output.s3.access_key_id = Some("A".to_owned());
    config.output.s3.secret_access_key = Some("hush".to_owned().into());
}

struct World {
    app: App,
    bucket: Arc<Bucket>,
    clock: Arc<ManualClock>,
}

impl World {
    async fn with(bucket: Bucket, change: impl FnOnce(&mut Config)) -> Self {
        let bucket = Arc::new(bucket);
        let storage = listener().await;
        let endpoint = format!("http://{}", storage.local_addr().expect("it listens"));
        tokio::spawn(Arc::clone(&bucket).serve(storage));
        let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(2);
        let change = |config: &mut Config| {
            to(config, &endpoint);
            change(config);
        };
        let app = App::with_clock(upstream, change, Arc::clone(&clock) as _).await;
        Self { app, bucket, clock }
    }

    /// What a kick-off is answered once it is known what becomes of it.
    async fn kick_off(&self) -> Answer {
        let opening = "the job store cannot be used at the moment";
        until("it is decided", async || {
            // A request waits a little for the job store, by the clock that stands still.
            self.clock.advance(Duration::from_secs(2));
            let answer = self.app.ask("GET", "/$export?_type=Patient", &KICKOFF, b"").await;
            Ok((answer.json()["issue"][0]["diagnostics"] != opening).then_some(answer))
        })
        .await
        .expect("it is decided")
    }

    async fn assert_stopped(&self) {
        let refused = self.kick_off().await;
        refused.assert_refused("a kick-off", 503, "transient", None);
        assert_eq!(refused.json()["issue"][0]["diagnostics"], "the storage of the output is public");
        assert_eq!(self.app.ask("GET", "/Patient?_count=1", &[], b"").await.status, 200, "requests pass through");
        let objects: Vec<_> = self.bucket.objects.lock().expect("no panic").keys().cloned().collect();
        assert_eq!(objects, [format!("exports/{MARKER}")], "nothing is exported");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_stops_while_a_storage_is_public_and_goes_on_once_it_is_not() {
    let [objects, lists] = [true, false].map(|gives| Bucket {
        gives_to_anybody: AtomicBool::new(gives),
        lists_to_anybody: AtomicBool::new(!gives),
        ..Bucket::default()
    });
    // Who finds a file by a list of the storage needs no link of ours.
    for (bucket, links) in [(objects, LinkMode::Signed), (lists, LinkMode::Proxy)] {
        let world = World::with(bucket, |config| config.output.links = links).await;
        world.assert_stopped().await;
        let unknown = world.app.ask("DELETE", "/$bulk-status/00000000000000000000000000000000", &[], b"").await;
        assert_eq!(unknown.status, 404, "what is there can be removed");
        world.bucket.gives_to_anybody.store(false, Ordering::SeqCst);
        world.bucket.lists_to_anybody.store(false, Ordering::SeqCst);
        let accepted = until("it is looked at again", async || {
            world.clock.advance(Duration::from_secs(30));
            Ok(Some(world.kick_off().await).filter(|answer| answer.status == 202))
        });
        accepted.await.expect("it goes on by itself");
        let asked = world.bucket.asked.lock().expect("no panic").clone();
        for expected in
            [format!("GET /bulk/exports/{MARKER}"), "GET /bulk?list-type=2&max-keys=1&prefix=exports%2F".to_owned()]
        {
            assert!(asked.contains(&expected), "{expected} in {asked:?}");
        }
        world.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_storage_and_one_that_is_acknowledged_are_used() {
    let public = || Bucket { gives_to_anybody: AtomicBool::new(true), ..Bucket::default() };
    let acknowledged = |config: &mut Config| config.output.public_bucket = PublicBucket::Acknowledged;
    for world in [World::with(Bucket::default(), |_| {}).await, World::with(public(), acknowledged).await] {
        assert_eq!(world.kick_off().await.status, 202);
        world.app.stop().await;
    }
}

/// Clients may reach what we do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_asked_from_here_stops_nothing() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("it had one");
    let endpoint = format!("http://{nowhere}").parse().expect("a URL");
    let world = World::with(Bucket::default(), |config| config.output.public_endpoint = Some(endpoint)).await;
    assert_eq!(world.kick_off().await.status, 202);
    world.app.stop().await;
}

/// What could not be asked at the start is asked later: a storage that turns out to be public stops bulk then, and what was
/// exported until then is no longer handed out, but can be removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_that_turns_out_to_be_public_is_not_exported_to_any_more() {
    let world = World::with(Bucket { is_away: AtomicBool::new(true), ..Bucket::default() }, |_| {}).await;
    let accepted = world.kick_off().await;
    assert_eq!(accepted.status, 202);
    let status = accepted.header("content-location").rsplit_once("/fhir").expect("a URL").1.to_owned();
    world.bucket.gives_to_anybody.store(true, Ordering::SeqCst);
    world.bucket.is_away.store(false, Ordering::SeqCst);
    let stopped = until("it is looked at again", async || {
        world.clock.advance(Duration::from_mins(1));
        Ok(Some(world.kick_off().await).filter(|answer| answer.status == 503))
    });
    let stopped = stopped.await.expect("it is seen");
    assert_eq!(stopped.json()["issue"][0]["diagnostics"], "the storage of the output is public");
    assert_eq!(world.app.ask("GET", &status, &[], b"").await.status, 503, "no manifest");
    assert_eq!(world.app.ask("DELETE", &status, &[], b"").await.status, 202);
    until("its files are removed", async || {
        world.clock.advance(Duration::from_secs(31));
        let left: Vec<_> = world.bucket.objects.lock().expect("no panic").keys().cloned().collect();
        Ok((left == [format!("exports/{MARKER}")]).then_some(()))
    })
    .await
    .expect("it can be removed");
    world.app.stop().await;
}

/// Whoever is to delete by a token gets one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_can_delete_what_lies_in_a_storage_that_turned_out_to_be_public() {
    let bucket = Arc::new(Bucket { is_away: AtomicBool::new(true), ..Bucket::default() });
    let storage = listener().await;
    let endpoint = format!("http://{}", storage.local_addr().expect("it listens"));
    tokio::spawn(Arc::clone(&bucket).serve(storage));
    let client = smart::Client::new("a", "system/*.rs");
    let rig = Rig::configured(std::slice::from_ref(&client), |config| to(config, &endpoint)).await;
    let ask = async |method: &str, below: &str| {
        let token = rig.token(&client, "system/*.rs").await;
        rig.with_token(method, below, &token).await
    };
    let accepted = ask("GET", "/$export?_type=Patient").await;
    assert_eq!(accepted.status, 202, "{}", String::from_utf8_lossy(&accepted.body));
    let status = accepted.header("content-location").rsplit_once("/fhir").expect("a URL").1.to_owned();
    bucket.gives_to_anybody.store(true, Ordering::SeqCst);
    bucket.is_away.store(false, Ordering::SeqCst);
    until("it is seen", async || {
        rig.advance(60);
        Ok((ask("GET", "/$export?_type=Patient").await.status == 503).then_some(()))
    })
    .await
    .expect("it is looked at again");
    assert_eq!(ask("GET", &status).await.status, 503, "no manifest");
    assert_eq!(ask("DELETE", &status).await.status, 202);
    rig.stop().await;
}
