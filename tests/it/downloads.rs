//! Files on their way to clients: packed or not, cut and taken up again, and what becomes of them when their export goes.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::bufread::GzDecoder;
use flate2::read::MultiGzDecoder;
use offtake::config::Compression;
use offtake::testing::ManualClock;
use offtake::{Clock, SystemClock};
use sample_upstream::{SampleUpstream, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::client::Client;
use crate::raw::{self, Answer, KICKOFF};
use crate::support::{App, until};

/// More than sockets and servers hold on the way.
const LARGE: usize = 16 * 1024 * 1024;
const SOON: Duration = Duration::from_secs(30);

/// A finished export of one large file of patients.
struct Finished {
    app: App,
    clock: Arc<ManualClock>,
    status: String,
    /// Path and query of the link to it.
    link: String,
    listed: serde_json::Value,
}

impl Finished {
    async fn new(compression: Compression, bytes: usize) -> Self {
        let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
        let upstream = SampleUpstream::new(Settings::default());
        let mut random = crate::random::Random::new(7);
        for number in 0..16 {
            // Letters that no packing shrinks to nothing.
            let text: String =
                (0..bytes / 16).map(|_| char::from(b'a' + u8::try_from(random.below(26)).unwrap_or(0))).collect();
            let patient = format!(r#"{{"resourceType":"Patient","id":"p{number}","text":{{"div":"{text}"}}}}"#);
            upstream.insert_raw(&patient).expect("a patient");
        }
        let app = App::with_clock(upstream, |config| config.output.compression = compression, clock.clone()).await;
        let kickoff = app.ask("GET", "/$export?_type=Patient", &KICKOFF, b"").await;
        let status = kickoff.header("content-location").to_owned();
        Client::new().wait(&status, |_| {}).await.expect("an export");
        let status = status[app.base.len()..].to_owned();
        let manifest = app.ask("GET", &status, &[], b"").await.json();
        let listed = manifest["output"][0].clone();
        let link = listed["url"].as_str().expect("a URL")[app.base.len()..].to_owned();
        Self { app, clock, status, link, listed }
    }

    async fn ask(&self, method: &str, headers: &[(&str, &str)]) -> Answer {
        self.app.ask(method, &self.link, headers, b"").await
    }

    /// A client that reads the head of the answer, and then only what it is told to.
    async fn slow(&self, headers: &[(&str, &str)]) -> Slow {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 * 1024).expect("a small buffer");
        let mut stream = socket.connect(self.app.host().parse().expect("an address")).await.expect("it listens");
        let request = raw::request("GET", &format!("/fhir{}", self.link), &self.app.host(), headers, b"");
        stream.write_all(&request).await.expect("it takes requests");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        assert!(head.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&head));
        Slow { stream, read: Vec::new() }
    }

    /// How many objects are left that are data.
    fn data_files(&self) -> usize {
        self.app.output_files().iter().filter(|file| file.extension().is_some_and(|kind| kind == "ndjson")).count()
    }
}

struct Slow {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Slow {
    async fn read_some(&mut self, bytes: usize) {
        let mut more = vec![0; bytes];
        self.stream.read_exact(&mut more).await.expect("more is to come");
        self.read.extend(more);
    }

    /// All that comes until the other side ends it, one way or the other.
    async fn read_rest(mut self) -> Vec<u8> {
        let _cut = self.stream.read_to_end(&mut self.read).await;
        self.read
    }
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut lines).expect("gzip");
    lines
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all that is written");
        text
    })
}

/// RFC 9530: of what is sent, undivided.
fn assert_digest(answer: &Answer, whole: &[u8]) {
    let expected = format!("sha-256=:{}:", BASE64_STANDARD.encode(digest(&SHA256, whole)));
    assert_eq!(answer.header("repr-digest"), expected);
}

/// But for what differs from one answer to the next.
fn assert_same_headers(one: &Answer, other: &Answer) {
    let mut headers = [one.headers.clone(), other.headers.clone()];
    for headers in &mut headers {
        headers.remove("date");
        // An answer without a body has none of its framing.
        headers.remove("transfer-encoding");
    }
    assert_eq!(headers[0], headers[1]);
}

/// BD-091
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_packed_on_the_way_for_clients_that_take_gzip() {
    let finished = Finished::new(Compression::None, 1024 * 1024).await;
    let gzip = ("Accept-Encoding", "gzip, deflate, br");
    let whole = finished.ask("GET", &[]).await;
    assert_digest(&whole, &whole.body);
    let packed = finished.ask("GET", &[gzip]).await;
    assert_eq!((packed.status, packed.header("content-encoding")), (200, "gzip"));
    assert!(packed.body.len() < whole.body.len());
    assert!(unpacked(&packed.body) == whole.body, "the lines differ");
    for (name, value) in [
        ("content-length", ""),
        ("repr-digest", ""),
        ("accept-ranges", "none"),
        ("vary", "accept-encoding"),
        ("content-type", "application/fhir+ndjson"),
        ("cache-control", "private, no-store, no-transform"),
    ] {
        assert_eq!(packed.header(name), value, "{name}");
    }
    assert_ne!(packed.header("etag"), whole.header("etag"));
    assert_same_headers(&finished.ask("HEAD", &[gzip]).await, &packed);
    let copy = finished.ask("GET", &[gzip, ("If-None-Match", packed.header("etag"))]).await;
    assert_eq!((copy.status, copy.header("content-encoding"), copy.body.len()), (304, "", 0));
    let other = finished.ask("GET", &[("If-None-Match", packed.header("etag"))]).await;
    assert_eq!(other.status, 200, "a packed copy is no plain one");
    // A part is one of the plain file.
    let part = finished.ask("GET", &[gzip, ("Range", "bytes=1000-1999"), ("If-Range", whole.header("etag"))]).await;
    assert_eq!((part.status, part.header("content-encoding")), (206, ""));
    assert_eq!(part.body, whole.body[1000..2000]);
    assert_digest(&part, &whole.body);
    // What was begun packed is begun anew.
    let anew = finished.ask("GET", &[gzip, ("Range", "bytes=1000-"), ("If-Range", packed.header("etag"))]).await;
    assert_eq!((anew.status, anew.header("content-encoding")), (200, ""));
    assert!(anew.body == whole.body, "the lines differ");
    finished.app.stop().await;
}

/// BD-091; size and digest of the manifest are those of the object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_stored_as_gzip_is_sent_so_or_unpacked() {
    let finished = Finished::new(Compression::Gzip, 4 * 1024 * 1024).await;
    let gzip = ("Accept-Encoding", "gzip");
    let stored = finished.ask("GET", &[gzip]).await;
    assert_eq!((stored.status, stored.header("content-encoding")), (200, "gzip"));
    let file = &finished.listed["extension"]["https://offtake.dev/file"];
    assert_eq!(file["bytes"], stored.body.len());
    assert_eq!(file["sha256"], sha256(&stored.body));
    assert_eq!(file["contentEncoding"], "gzip");
    assert_digest(&stored, &stored.body);
    let length = stored.body.len();
    assert_eq!((stored.header("content-length"), stored.header("accept-ranges")), (&*length.to_string(), "bytes"));
    let name = finished.link.split('?').next().and_then(|path| path.rsplit('/').next()).expect("a name").to_owned();
    let stem = format!("/{}.", name.trim_end_matches(".ndjson"));
    let mut files = finished.app.output_files().into_iter();
    let on_disk = files.find(|file| file.to_string_lossy().contains(&stem)).expect("a file");
    let on_disk = std::fs::read(on_disk.with_extension("ndjson")).expect("it can be read");
    assert!(on_disk == stored.body, "it is sent as it is stored");
    assert_same_headers(&finished.ask("HEAD", &[gzip]).await, &stored);
    for (range, expected) in [("bytes=0-9", 0..10), ("bytes=5000-", 5000..length), ("bytes=-1", length - 1..length)] {
        let part = finished.ask("GET", &[gzip, ("Range", range), ("If-Range", stored.header("etag"))]).await;
        assert_eq!((part.status, part.header("content-encoding")), (206, "gzip"), "{range}");
        assert!(part.body == stored.body[expected], "{range}");
        assert_digest(&part, &stored.body);
    }
    // One member: `curl --compressed` and others take no more.
    let mut first = GzDecoder::new(&stored.body[..]);
    std::io::copy(&mut first, &mut std::io::sink()).expect("gzip");
    assert!(first.into_inner().is_empty(), "more follows the first member");

    for headers in [&[][..], &[("Range", "bytes=0-9")], &[("Accept-Encoding", "gzip;q=0")]] {
        let plain = finished.ask("GET", headers).await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, ""), "{headers:?}");
        assert!(plain.body == unpacked(&stored.body), "the lines differ");
        assert_eq!(plain.header("content-length"), plain.body.len().to_string());
        assert_eq!((plain.header("accept-ranges"), plain.header("vary")), ("none", "accept-encoding"));
        assert_ne!(plain.header("etag"), stored.header("etag"));
        assert_digest(&plain, &plain.body);
        assert_same_headers(&finished.ask("HEAD", headers).await, &plain);
    }
    finished.app.export_exactly("/$export").await.expect("a client that knows nothing of gzip");
    finished.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_was_cut_goes_on_where_it_was() {
    for (compression, coding) in [(Compression::None, "identity"), (Compression::Gzip, "gzip")] {
        let finished = Finished::new(compression, LARGE / 4).await;
        let coding = ("Accept-Encoding", coding);
        let whole = finished.ask("GET", &[coding]).await;
        let mut slow = finished.slow(&[coding]).await;
        slow.read_some(whole.body.len() / 3).await;
        let mut received = slow.read;
        drop(slow.stream);
        // In parts, as those do who fetch several at a time.
        while received.len() < whole.body.len() {
            let range = format!("bytes={}-{}", received.len(), received.len() + 999_999);
            let headers = [coding, ("Range", &*range), ("If-Range", whole.header("etag"))];
            let part = finished.ask("GET", &headers).await;
            assert_eq!(part.status, 206, "{range}");
            assert_digest(&part, &whole.body);
            received.extend(part.body);
        }
        assert!(received == whole.body, "{coding:?}: the bytes differ");
        finished.app.stop().await;
    }
}

/// SEC-30: a download holds its file at most an hour longer than its export.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_expires_waits_an_hour_for_those_who_fetch_its_files() {
    let finished = Finished::new(Compression::None, LARGE).await;
    let whole = finished.ask("GET", &[]).await.body;
    let one = finished.slow(&[]).await;
    let other = finished.slow(&[("Accept-Encoding", "gzip")]).await;
    let files = finished.app.output_files();
    assert_eq!(finished.data_files(), 2, "the patients, and what is said of them: {files:?}");
    finished.clock.advance(Duration::from_hours(24) + Duration::from_secs(1));
    until("what nobody fetches is removed", SOON, || finished.data_files() == 1).await;
    assert_eq!(finished.ask("GET", &[]).await.status, 403, "its time is over for all others");
    assert!(one.read_rest().await.ends_with(&whole), "all of it comes");
    finished.clock.advance(Duration::from_mins(50));
    assert_eq!(finished.data_files(), 1, "the other one holds it too");
    // It does not read, and holds it no longer.
    finished.clock.advance(Duration::from_mins(10));
    until("it is removed", SOON, || {
        finished.clock.advance(Duration::from_secs(30));
        finished.app.output_files().is_empty()
    })
    .await;
    let cut = other.read_rest().await;
    assert!(!cut.ends_with(b"0\r\n\r\n"), "a part must not look like the whole");
    finished.app.stop().await;
}

/// SEC-30: never beyond DELETE.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_export_is_fetched_no_further() {
    let finished = Finished::new(Compression::None, LARGE).await;
    let mut one = finished.slow(&[]).await;
    one.read_some(1_000_000).await;
    let other = finished.slow(&[("Accept-Encoding", "gzip")]).await;
    assert_eq!(finished.app.ask("DELETE", &finished.status, &[], b"").await.status, 202);
    until("its files are removed", SOON, || finished.app.output_files().is_empty()).await;
    let received = one.read_rest().await;
    assert!((1_000_000..LARGE).contains(&received.len()), "{} bytes", received.len());
    assert!(!other.read_rest().await.ends_with(b"0\r\n\r\n"), "a part must not look like the whole");
    assert_eq!(finished.ask("GET", &[]).await.status, 404);
    finished.app.stop().await;
}
