//! Links to files: which open one, what they answer with, and that nothing else opens anything (section 4, SEC-30).

use std::sync::Arc;
use std::time::Duration;

use offtake::testing::ManualClock;
use offtake::{Clock, SystemClock};
use sample_upstream::{SampleUpstream, Settings};

use crate::client::Client;
use crate::raw::{self, Answer, KICKOFF};
use crate::support::App;

/// A finished export, by a clock that moves only when it is told to.
struct Finished {
    app: App,
    clock: Arc<ManualClock>,
    /// The status URL's path.
    status: String,
    /// Path and query of the link to the Patient file.
    link: String,
}

impl Finished {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
        let upstream = SampleUpstream::new(Settings::default());
        upstream.generate(30);
        let app = App::with_clock(upstream, |_| {}, clock.clone()).await;
        let kickoff = app.ask("GET", "/$export?_type=Patient,Condition", &KICKOFF, b"").await;
        let status = kickoff.header("content-location").to_owned();
        Client::new().wait(&status, |_| {}).await.expect("an export");
        let status = status[app.base.len()..].to_owned();
        let mut finished = Self { app, clock, status, link: String::new() };
        finished.link = finished.link_to("Patient").await;
        finished
    }

    async fn manifest(&self) -> Answer {
        self.app.ask("GET", &self.status, &[], b"").await
    }

    /// What the manifest lists now of the first file of a type.
    async fn listed(&self, resource_type: &str) -> serde_json::Value {
        let manifest = self.manifest().await;
        assert_eq!(manifest.status, 200);
        let json = manifest.json();
        let mut files = json["output"].as_array().expect("an array").iter();
        files.find(|file| file["type"] == resource_type).expect("a file of this type").clone()
    }

    /// The link to it, below the base.
    async fn link_to(&self, resource_type: &str) -> String {
        let listed = self.listed(resource_type).await;
        let url = listed["url"].as_str().expect("a URL");
        url.strip_prefix(&self.app.base).expect("BD-074: absolute, on our base").to_owned()
    }

    async fn get(&self, link: &str, headers: &[(&str, &str)]) -> Answer {
        self.app.ask("GET", link, headers, b"").await
    }

    /// A plain 403 or 404 that says nothing of the reason.
    async fn assert_shut(&self, link: &str, status: u16) {
        let host = self.app.host();
        let target = format!("/fhir{link}");
        for method in ["GET", "HEAD"] {
            let answer = raw::ask(&host, &raw::request(method, &target, &host, &[], b"")).await;
            assert_eq!(answer.status, status, "{method} {link}");
            let said = if status == 403 { "Forbidden" } else { "Not Found" };
            let expected = if method == "HEAD" { "" } else { said };
            assert_eq!(String::from_utf8_lossy(&answer.body), expected, "{method} {link}");
            assert!(answer.header("etag").is_empty() && answer.header("content-disposition").is_empty());
            assert_eq!(answer.header("cache-control"), "private, no-store");
        }
    }
}

/// BD-088, BD-089, BD-093; SEC-30; interop 9, 10
#[tokio::test]
async fn a_link_gives_the_whole_file_with_all_that_belongs_to_it() {
    let finished = Finished::new().await;
    let listed = finished.listed("Patient").await;
    let whole = finished.get(&finished.link, &[]).await;
    assert_eq!(whole.status, 200);
    for (name, value) in [
        ("content-type", "application/fhir+ndjson"),
        ("cache-control", "private, no-store, no-transform"),
        ("x-content-type-options", "nosniff"),
        ("accept-ranges", "bytes"),
        ("vary", "accept-encoding"),
        ("content-length", &whole.body.len().to_string()),
    ] {
        assert_eq!(whole.header(name), value, "{name}");
    }
    assert!(whole.header("content-disposition").starts_with("attachment"), "{whole:?}");
    let etag = whole.header("etag").to_owned();
    let file = &listed["extension"]["https://offtake.dev/file"];
    assert_eq!(Some(etag.as_str()), file["sha256"].as_str().map(|digest| format!("\"{digest}\"")).as_deref());
    assert_eq!(file["bytes"], whole.body.len());
    assert_eq!(listed["count"], String::from_utf8_lossy(&whole.body).lines().count());
    assert_eq!(whole.body.last(), Some(&b'\n'), "BD-090");
    // Whatever else a client sends along changes nothing.
    for headers in [
        &[("Authorization", "Bearer of somebody else")][..],
        &[("Accept", "text/html")],
        &[("Accept-Encoding", "br, gzip;q=0")],
        &[("If-Modified-Since", "Sat, 01 Jan 2000 00:00:00 GMT")],
        &[("Prefer", "respond-async")],
    ] {
        let answer = finished.get(&finished.link, headers).await;
        assert_eq!((answer.status, answer.body == whole.body), (200, true), "{headers:?}");
        assert_eq!(answer.header("content-encoding"), "");
    }
    let head = raw::request("HEAD", &format!("/fhir{}", finished.link), &finished.app.host(), &[], b"");
    let head = raw::ask(&finished.app.host(), &head).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let without_date = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        headers
    };
    assert_eq!(without_date(&head), without_date(&whole));
    finished.app.stop().await;
}

/// RFC 9110, 13 and 14
#[tokio::test]
async fn parts_of_a_file_and_copies_that_are_still_good() {
    let finished = Finished::new().await;
    let whole = finished.get(&finished.link, &[]).await;
    let (length, etag) = (whole.body.len(), whole.header("etag").to_owned());
    let last = length - 1;
    for (range, expected) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=0-99".to_owned(), 0..100),
        ("bytes=100-".to_owned(), 100..length),
        ("bytes=-7".to_owned(), length - 7..length),
        (format!("bytes={last}-"), last..length),
        (format!("bytes=5-{}", length * 2), 5..length),
        (format!("bytes=-{}", length * 2), 0..length),
        ("bytes=3-18446744073709551615".to_owned(), 3..length),
    ] {
        let tag = ("If-Range", etag.as_str());
        for headers in [&[("Range", range.as_str())][..], &[("Range", &range), tag]] {
            let part = finished.get(&finished.link, headers).await;
            assert_eq!(part.status, 206, "{range}");
            assert_eq!(part.body, whole.body[expected.clone()], "{range}");
            let content_range = format!("bytes {}-{}/{length}", expected.start, expected.end - 1);
            assert_eq!(part.header("content-range"), content_range);
            assert_eq!(part.header("content-length"), expected.len().to_string());
            assert_eq!(part.header("etag"), etag);
            assert_eq!(part.header("content-type"), "application/fhir+ndjson");
            assert_eq!(part.header("cache-control"), "private, no-store, no-transform");
        }
        // What was begun is another file: then all of it is sent.
        for other in ["\"other\"", &format!("W/{etag}"), "Sat, 01 Jan 2000 00:00:00 GMT"] {
            let answer = finished.get(&finished.link, &[("Range", &range), ("If-Range", other)]).await;
            assert_eq!((answer.status, answer.body.len()), (200, length), "{range} {other}");
        }
        // 14.2: only a GET asks for a part.
        let head =
            raw::request("HEAD", &format!("/fhir{}", finished.link), &finished.app.host(), &[("Range", &range)], b"");
        let head = raw::ask(&finished.app.host(), &head).await;
        assert_eq!((head.status, head.header("content-length")), (200, length.to_string().as_str()), "{range}");
    }
    for range in [format!("bytes={length}-"), format!("bytes={length}-{}", length + 5), "bytes=-0".to_owned()] {
        let answer = finished.get(&finished.link, &[("Range", &range)]).await;
        assert_eq!((answer.status, answer.body.len()), (416, 0), "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes */{length}"));
    }
    for range in ["bytes=0-1,5-6", "bytes=9-3", "lines=0-1", "bytes=a-b", "bytes", ""] {
        let answer = finished.get(&finished.link, &[("Range", range)]).await;
        assert_eq!((answer.status, answer.body.len()), (200, length), "{range}");
    }
    for tags in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
        let answer = finished.get(&finished.link, &[("If-None-Match", &tags), ("Range", "bytes=0-1")]).await;
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{tags}");
        assert_eq!(answer.header("etag"), etag);
    }
    for tags in ["\"x\"", "", &etag[1..]] {
        let answer = finished.get(&finished.link, &[("If-None-Match", tags)]).await;
        assert_eq!((answer.status, answer.body.len()), (200, length), "{tags}");
    }
    finished.app.stop().await;
}

#[tokio::test]
async fn a_link_of_which_anything_was_changed_opens_nothing() {
    let finished = Finished::new().await;
    let link = finished.link.clone();
    let (path, query) = link.split_once('?').expect("every link is signed");
    for index in 0..query.len() {
        for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20] {
            let mut bytes = query.as_bytes().to_vec();
            bytes[index] ^= flip;
            // What cannot stand in a query at all is the HTTP library's to refuse.
            let changed = char::from(bytes[index]);
            if !changed.is_ascii_graphic() || "\"<>#\\^`{|}".contains(changed) {
                continue;
            }
            let changed = format!("{path}?{}", String::from_utf8(bytes).expect("still ASCII"));
            assert_eq!(finished.get(&changed, &[]).await.status, 403, "{changed}");
        }
    }
    let other = finished.link_to("Condition").await;
    let (other_path, other_query) = other.split_once('?').expect("every link is signed");
    let job = finished.status.rsplit('/').next().expect("a job");
    let with_job = |other: &str| path.replace(job, other);
    let pair = |name: &str| query.split('&').find(|pair| pair.starts_with(name)).expect("it is there");
    let (expires, key, signature) = (pair("expires="), pair("key="), pair("signature="));
    for changed in [
        path.to_owned(),
        format!("{path}?"),
        // Each part of another link.
        format!("{other_path}?{query}"),
        format!("{path}?{other_query}"),
        format!("{path}?{expires}&{key}&{}", other_query.split('&').next_back().expect("a signature")),
        // Files that may be there.
        format!("{}?{query}", path.replace("Patient", "OperationOutcome")),
        format!("{}?{query}", path.replace("Patient", "Observation")),
        format!("{}?{query}", path.replace(".ndjson", ".ids")),
        format!("{}?{query}", path.replace(".ndjson", ".1.ndjson")),
        format!("{}?{query}", path.replace(".ndjson", "")),
        format!("{path}x?{query}"),
        // Parameters added, repeated, left out, in another spelling.
        format!("{path}?{query}&x=1"),
        format!("{path}?{query}&"),
        format!("{path}?&{query}"),
        format!("{path}?{query}&{expires}"),
        format!("{path}?{query}&{key}"),
        format!("{path}?{query}&{signature}"),
        format!("{path}?{query}&expires=9999999999"),
        format!("{path}?expires=9999999999&{query}"),
        format!("{path}?{key}&{signature}"),
        format!("{path}?{expires}&{signature}"),
        format!("{path}?{expires}&{key}"),
        format!("{path}?{expires}&{key}&signature="),
        format!("{path}?{query}="),
        format!("{path}?{query}A"),
        format!("{path}?{}", &query[..query.len() - 1]),
        format!("{path}?{}", query.replace("expires=", "expires=0")),
        format!("{path}?{}", query.replace("expires=", "expires=%30")),
        format!("{path}?{}", query.replace("expires=", "Expires=")),
        format!("{path}?{}", query.replace("key=", "key=%31")),
        format!("{path}?{}", query.replace('&', ";")),
        format!("{path}?{query}#"),
        // Another job's, one that is and one that is not.
        format!("{}?{query}", with_job("0123456789abcdef0123456789abcdef")),
        format!("{}?{query}", with_job("00000000000000000000000000000000")),
    ] {
        if changed.ends_with('#') {
            continue;
        }
        finished.assert_shut(&changed, 403).await;
    }
    // The order of the parameters says nothing, and the link itself is still good.
    assert_eq!(finished.get(&format!("{path}?{signature}&{key}&{expires}"), &[]).await.status, 200);
    let second = finished.app.ask("GET", "/$export?_type=Patient", &KICKOFF, b"").await;
    let second = second.header("content-location").rsplit('/').next().expect("a job").to_owned();
    finished.assert_shut(&format!("{}?{query}", with_job(&second)), 403).await;
    // Malformed jobs are no jobs, and what hides the path is no path.
    for (changed, status, code) in [
        (format!("{}?{query}", with_job("x")), 404, "not-found"),
        (format!("{}?{query}", with_job(&job.to_uppercase())), 404, "not-found"),
        (format!("{path}/?{query}"), 403, "forbidden"),
        (format!("{}?{query}", path.replace("Patient", "%2e%2e%2fPatient")), 400, "invalid"),
        (format!("{}?{query}", path.replace("Patient", "../Patient")), 400, "invalid"),
        (format!("{}?{query}", path.replace("Patient", "%5cPatient")), 400, "invalid"),
    ] {
        finished.get(&changed, &[]).await.assert_refused(&changed, status, code, None);
    }
    finished.app.stop().await;
}

/// DS-013, DS-014, BD-067: a link ends when it says; reading the manifest again gives links that are good.
#[tokio::test]
async fn a_link_ends_at_its_time_and_the_manifest_gives_another() {
    let finished = Finished::new().await;
    let first = finished.manifest().await;
    let link = finished.link.clone();
    finished.clock.advance(Duration::from_secs(3_590));
    assert_eq!(finished.get(&link, &[]).await.status, 200);
    let renewed = finished.link_to("Patient").await;
    assert_ne!(renewed, link);
    let second = finished.manifest().await;
    assert_ne!(second.header("expires"), first.header("expires"));
    assert_eq!(second.json()["transactionTime"], first.json()["transactionTime"]);
    finished.clock.advance(Duration::from_secs(10));
    finished.assert_shut(&link, 403).await;
    let whole = finished.get(&renewed, &[]).await;
    assert_eq!(whole.status, 200);
    // Links never outlive what they lead to: near the end they are shorter.
    finished.clock.advance(Duration::from_mins(23 * 60 - 1));
    let last = finished.link_to("Patient").await;
    let expires =
        |link: &str| link.split("expires=").nth(1).and_then(|rest| rest.split('&').next()?.parse::<u64>().ok());
    assert!(expires(&last) < expires(&renewed).map(|first| first + 86_400), "{last}");
    assert_eq!(finished.get(&last, &[]).await.status, 200);
    finished.clock.advance(Duration::from_mins(2));
    finished.assert_shut(&last, 403).await;
    let gone = finished.manifest().await;
    gone.assert_refused("an export whose time is over", 404, "not-found", None);
    crate::support::until("expired files are removed", Duration::from_secs(10), || {
        finished.clock.advance(Duration::from_secs(30));
        finished.app.output_files().is_empty()
    })
    .await;
    finished.app.stop().await;
}
