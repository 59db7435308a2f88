//! A ledger that cannot be written: nothing is handed out without a record, and nothing else is held up.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use offtake::Offtake;
use offtake::config::Secret;
use sample_upstream::{Running, SampleUpstream, Settings};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{of_kind, records};
use crate::client::{Client, Poll};
use crate::raw::{self, Answer, KICKOFF};
use crate::support::{self, config, listener, until};

const TOKEN: &str = "operators-0123456789abcdef0123456789";
const SOON: Duration = Duration::from_secs(30);

/// An Offtake whose ledger fails while it is told to.
struct World {
    server: Running,
    base: String,
    operators: String,
    is_full: Arc<AtomicBool>,
    /// Closed, it keeps writes waiting.
    gate: Arc<(Mutex<bool>, Condvar)>,
    folder: TempDir,
    serving: Option<(oneshot::Sender<()>, JoinHandle<anyhow::Result<()>>)>,
}

impl World {
    async fn new() -> Self {
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(3);
        let server = upstream.serve(listener().await).await;
        let folder = tempfile::tempdir().expect("a folder");
        let listener = listener().await;
        let base = format!("http://{}/fhir", listener.local_addr().expect("it listens"));
        let mut config = config(&server.base_url, &base, folder.path());
        let operators = support::listener().await.local_addr().expect("a free port");
        config.admin.listen = Some(operators);
        config.admin.token = Some(Secret::from(TOKEN.to_owned()));
        let is_full = Arc::new(AtomicBool::new(false));
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (disk, passed) = (Arc::clone(&is_full), Arc::clone(&gate));
        let fault = move || {
            let (is_closed, opened) = &*passed;
            let is_closed = is_closed.lock().expect("nobody panicked");
            drop(opened.wait_while(is_closed, |is_closed| *is_closed).expect("nobody panicked"));
            if disk.load(Ordering::SeqCst) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
        };
        let offtake = Offtake::builder(config).ledger_failing(fault).build().expect("everything can be opened");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { offtake.run_on(listener, async { drop(stopped.await) }).await });
        Self { server, base, operators: operators.to_string(), is_full, gate, folder, serving: Some((stop, serving)) }
    }

    async fn ask(&self, method: &str, url: &str) -> Answer {
        let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
        raw::ask(host, &raw::request(method, &format!("/{path}"), host, &KICKOFF, b"")).await
    }

    /// What operators are shown.
    async fn shown(&self, path: &str) -> String {
        let authorization = format!("Bearer {TOKEN}");
        let asked = raw::request("GET", path, &self.operators, &[("Authorization", &authorization)], b"");
        let answer = raw::ask(&self.operators, &asked).await;
        assert_eq!(answer.status, 200, "{path}");
        String::from_utf8(answer.body).expect("text")
    }

    fn close_gate(&self, is_closed: bool) {
        *self.gate.0.lock().expect("nobody panicked") = is_closed;
        self.gate.1.notify_all();
    }

    fn fill(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }

    fn kinds(&self, kind: &str) -> usize {
        of_kind(&records(&self.folder.path().join("ledger")), kind).len()
    }

    async fn stop(mut self) {
        let (stop, serving) = self.serving.take().expect("it serves");
        drop(stop);
        serving.await.expect("serving did not panic").expect("serving ended well");
        self.server.stop().await;
    }
}

#[tokio::test]
async fn without_a_record_nothing_leaves_and_with_room_everything_goes_on() {
    let world = World::new().await;
    let client = Client::new();
    let kick_off = format!("{}/$export?_type=Patient", world.base);
    let status = client.kick_off(&kick_off).await.expect("a kick-off");
    let manifest = client.wait(&status, |_| {}).await.expect("an export");
    let link = &manifest.output[0].url;
    world.fill(true);
    for (what, method, url) in
        [("a kick-off", "GET", &kick_off), ("a manifest", "GET", &status), ("a file", "GET", link)]
    {
        let answer = world.ask(method, url).await;
        answer.assert_refused(what, 503, "transient", None);
        assert_eq!(answer.header("retry-after"), "10", "{what}");
        assert!(String::from_utf8_lossy(&answer.body).contains("ledger is full"), "{what}");
    }
    let pass_through = world.ask("GET", &format!("{}/Patient?_count=1", world.base)).await;
    assert_eq!(pass_through.status, 200, "ordinary requests need no record");
    let ready = world.shown("/health/ready").await;
    assert!(ready.contains("\"bulk\":false") && ready.contains("the ledger could not be written"), "{ready}");
    assert!(world.shown("/metrics").await.contains("offtake_bulk_ready 0\n"));
    let none = format!("{}/$bulk-status/{}", world.base, "0".repeat(32));
    assert_eq!(world.ask("GET", &none).await.status, 404, "a refusal is one, recorded or not");
    assert_eq!(world.kinds("manifest") + world.kinds("kick_off"), 2, "those of before");
    world.fill(false);
    assert_eq!(world.ask("GET", link).await.status, 200, "it goes on by itself");
    assert_eq!(world.ask("GET", &status).await.status, 200);
    assert!(world.shown("/metrics").await.contains("offtake_bulk_ready 1\n"));
    client.kick_off(&kick_off).await.expect("another kick-off");
    until("what was sent is recorded", SOON, || world.kinds("file_ended") == 1).await;
    world.stop().await;
}

#[tokio::test]
async fn an_export_is_complete_only_once_what_it_holds_is_recorded() {
    let world = World::new().await;
    let client = Client::new();
    let status = client.kick_off(&format!("{}/$export?_type=Patient", world.base)).await.expect("a kick-off");
    world.fill(true);
    let paused = "paused: storage-full";
    let mut said = String::new();
    while !said.starts_with(paused) {
        match client.poll(&status).await.expect("an answer") {
            Poll::Running(text) => said = text,
            // It was quicker than the disk.
            Poll::Other(code, _) if code == 503 => break,
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if said.starts_with(paused) {
        let full = "offtake_searches_paused{reason=\"storage_full\"} 1\n";
        // Between two tries it is not said.
        while !world.shown("/metrics").await.contains(full) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    world.fill(false);
    client.wait(&status, |_| {}).await.expect("it goes on by itself");
    assert_eq!(world.kinds("finished"), 1);
    world.stop().await;
}

#[tokio::test]
async fn an_export_can_be_deleted_and_that_is_recorded_once_there_is_room() {
    let world = World::new().await;
    let client = Client::new();
    let status = client.kick_off(&format!("{}/$export?_type=Patient", world.base)).await.expect("a kick-off");
    client.wait(&status, |_| {}).await.expect("an export");
    world.fill(true);
    assert_eq!(world.ask("DELETE", &status).await.status, 202);
    assert_eq!(world.ask("GET", &status).await.status, 404);
    assert_eq!(world.kinds("deleted"), 0);
    world.fill(false);
    // With the next record what is owed is made up for.
    assert_eq!(world.ask("GET", &status).await.status, 404);
    until("it is recorded", SOON, || world.kinds("deleted") == 1).await;
    world.stop().await;
}

/// Whoever deletes does not have to wait for the answer.
#[tokio::test]
async fn a_deletion_is_recorded_even_if_its_client_has_gone() {
    let world = World::new().await;
    let client = Client::new();
    let status = client.kick_off(&format!("{}/$export?_type=Patient", world.base)).await.expect("a kick-off");
    client.wait(&status, |_| {}).await.expect("an export");
    world.close_gate(true);
    let (host, path) = status.trim_start_matches("http://").split_once('/').expect("a path");
    let mut connection = TcpStream::connect(host).await.expect("it listens");
    let request = raw::request("DELETE", &format!("/{path}"), host, &[], b"");
    connection.write_all(&request).await.expect("it is sent");
    while world.ask("GET", &status).await.status != 404 {}
    drop(connection);
    // By the time that this is answered the other one is known to be gone.
    assert_eq!(world.ask("GET", &status).await.status, 404);
    world.fill(true);
    world.close_gate(false);
    // The record that waited has failed once this one has.
    assert_eq!(world.ask("GET", &format!("{}/$export?_type=Patient", world.base)).await.status, 503);
    world.fill(false);
    assert_eq!(world.ask("GET", &status).await.status, 404);
    until("it is recorded", SOON, || world.kinds("deleted") == 1).await;
    world.stop().await;
}

/// As an operator finds it: the folder cannot be made, until it can.
#[tokio::test]
async fn a_ledger_that_cannot_be_opened_is_waited_for() {
    use crate::process::{Options, Process, until};
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let server = upstream.serve(listener().await).await;
    let mut process = Process::start(&server.base_url, Options::default()).await.expect("it starts");
    process.stop().expect("it stops");
    let folder = process.state().with_file_name("ledger");
    let key = process.state().with_file_name("ledger.key");
    let kept = std::fs::read(&key).expect("a key");
    std::fs::remove_file(&key).expect("it is there");
    process.restart().expect("it starts");
    let client = Client::new();
    let kick_off = format!("{}/$export?_type=Patient", process.base);
    let refused = until("it is refused", async || {
        Ok(client.kick_off(&kick_off).await.err().map(|error| error.to_string()).filter(|said| said.contains("ledger")))
    });
    let refused = refused.await.expect("an answer");
    assert!(refused.contains("503"), "{refused}");
    let (host, _) = process.base.trim_start_matches("http://").split_once('/').expect("a path");
    let read = raw::ask(host, &raw::request("GET", "/fhir/Patient?_count=1", host, &[], b"")).await;
    assert_eq!(read.status, 200, "ordinary requests are served");
    assert!(!key.exists(), "no other key is made: {}", process.log());
    assert!(process.log().contains("put the key back"), "{}", process.log());
    std::fs::write(&key, kept).expect("it can be written");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    until("it goes on by itself", async || Ok(client.kick_off(&kick_off).await.ok())).await.expect("a kick-off");
    assert!(folder.exists());
    process.stop().expect("it stops");
    server.stop().await;
}
