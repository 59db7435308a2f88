use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use http::Method;
use object_store::client::{HttpClient, HttpConnector, ReqwestConnector};
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{Attribute, ClientOptions, GetOptions, ObjectStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::cloud::doors::Doors;
use super::super::cloud::uploads::Uploads;
use super::super::cloud::{Cloud, Credential, LinkSigner, Parts};
use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::fhir::datatypes::Millis;

/// What a storage does otherwise than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    GivesToAnybody,
    ListsToAnybody,
    /// Any signature at all is as good as the right one.
    IgnoresSignatures,
    IgnoresRange,
    /// It says nothing of what it gives.
    Mute,
    /// Its answers to clients are those of a proxy that is in trouble.
    BehindTrouble,
    ListsNoUploads,
}

/// Signs like a cloud: the signature is in the query, and good for one path.
#[derive(Debug)]
struct Signatures {
    base: String,
}

fn signature(path: &str) -> String {
    format!("{:08x}", crc32fast::hash(format!("hush {path}").as_bytes()))
}

#[async_trait]
impl Signer for Signatures {
    async fn signed_url(&self, _: Method, path: &Path, _: Duration) -> object_store::Result<Url> {
        let text = format!("{}/b/{path}?sig={}", self.base, signature(path.as_ref()));
        Ok(Url::parse(&text).expect("a URL"))
    }
}

/// One request to the storage: status, headers and body of its answer.
async fn answer(
    store: &InMemory,
    fault: Fault,
    target: &str,
    head: &str,
) -> (u16, BTreeMap<&'static str, String>, Vec<u8>) {
    let none = BTreeMap::new();
    if fault == Fault::BehindTrouble {
        return (502, none, Vec::new());
    }
    let url = Url::parse(&format!("http://h{target}")).expect("a target");
    let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    let key = url.path().trim_start_matches("/b").trim_start_matches('/');
    if query.contains_key("uploads") {
        assert!(head.contains("authorization: Bearer ours"), "it is ours to ask: {head}");
        // The one that is under way.
        let prefix = &query["prefix"];
        let upload = format!("<Upload><Key>{prefix}large.ndjson</Key><UploadId>u</UploadId></Upload>");
        let text = format!("<ListMultipartUploadsResult>{upload}</ListMultipartUploadsResult>");
        return if fault == Fault::ListsNoUploads { (403, none, Vec::new()) } else { (200, none, text.into_bytes()) };
    }
    assert!(!head.contains("authorization"), "nobody but us has credentials: {head}");
    if key.is_empty() {
        return if fault == Fault::ListsToAnybody {
            (200, none, b"<ListBucketResult/>".to_vec())
        } else {
            (403, none, Vec::new())
        };
    }
    let is_signed = query.get("sig").is_some_and(|sig| fault == Fault::IgnoresSignatures || *sig == signature(key));
    if !is_signed && fault != Fault::GivesToAnybody {
        return (403, none, Vec::new());
    }
    let Ok(found) = store.get_opts(&Path::from(key), GetOptions::default()).await else {
        return (404, none, Vec::new());
    };
    let mut headers = BTreeMap::new();
    for (name, attribute) in [("content-type", Attribute::ContentType), ("cache-control", Attribute::CacheControl)] {
        if let Some(value) = found.attributes.get(&attribute).filter(|_| fault != Fault::Mute) {
            headers.insert(name, value.to_string());
        }
    }
    let body = found.bytes().await.expect("it is in memory").to_vec();
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.split_once('-'));
    match range.filter(|_| fault != Fault::IgnoresRange) {
        Some((from, to)) => {
            let (from, to): (usize, usize) = (from.parse().expect("a number"), to.trim().parse().expect("a number"));
            (206, headers, body[from..=to].to_vec())
        }
        None => (200, headers, body),
    }
}

/// A storage that says what it is told to, and an output on it.
async fn scripted(fault: Fault) -> (Arc<InMemory>, Output) {
    let store = Arc::new(InMemory::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("it listens"));
    let below = Arc::clone(&store);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") && stream.read_buf(&mut asked).await.is_ok_and(|read| read > 0) {}
            let head = String::from_utf8(asked).expect("a request");
            let target = head.split(' ').nth(1).expect("a target").to_owned();
            let (status, headers, body) = answer(&below, fault, &target, &head).await;
            let mut said = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
            for (name, value) in headers {
                write!(said, "{name}: {value}\r\n").expect("a String takes all");
            }
            let date = chrono::DateTime::from_timestamp_millis(SystemClock.unix_millis() + 600_000).expect("a time");
            write!(said, "date: {}\r\n\r\n", date.format("%a, %d %b %Y %H:%M:%S GMT")).expect("a String takes all");
            let said = [said.into_bytes(), body].concat();
            // Who has seen enough may be gone.
            let _said = stream.write_all(&said).await;
        }
    });
    let http = || -> HttpClient {
        let options = ClientOptions::new().with_allow_http(true);
        ReqwestConnector::default().connect(&options).expect("a client")
    };
    let credential = object_store::gcp::GcpCredential { bearer: "ours".to_owned() };
    let credentials = Arc::new(object_store::StaticCredentialProvider::new(credential));
    let uploads = Arc::new(Uploads::of_gcs(http(), credentials, format!("{base}/b")));
    let bucket = Url::parse(&format!("{base}/b")).expect("a URL");
    let cloud = Cloud {
        parts: Some(Parts { store: Arc::clone(&store) as _, uploads }),
        signer: Some(LinkSigner {
            signer: Arc::new(Signatures { base }),
            credential: Credential::Key,
            longest: Duration::from_hours(1),
        }),
        doors: Doors::new(http(), vec![bucket], &[("list-type", "2")]),
        keyed: None,
    };
    let output = Output::of(Arc::clone(&store) as _);
    (store, Output { cloud: Some(cloud), prefix: "exports/".to_owned(), ..output })
}

async fn left(store: &InMemory) -> Vec<String> {
    let listed: Vec<_> = store.list(None).try_collect().await.expect("it is in memory");
    listed.into_iter().map(|object| object.location.to_string()).collect()
}

#[tokio::test]
async fn a_storage_that_does_as_it_should() {
    let (store, output) = scripted(Fault::None).await;
    let found = output.examine(&SystemClock, "0a1b").await;
    let link = found.link.as_ref().expect("it signs");
    assert!(link.host.starts_with("127.0.0.1:"), "{link:?}");
    let ahead = found.exposure.as_ref().and_then(|exposure| exposure.ahead_millis).expect("it says its time");
    assert!((590_000..=601_000).contains(&ahead), "{ahead}");
    let expected = Findings {
        write: Step::Done,
        parts: Step::Done,
        uploads: UploadList::Listed,
        exposure: Some(Exposure { object: Visit::Refused(403), list: Visit::Refused(403), ahead_millis: Some(ahead) }),
        link: Some(LinkFindings {
            host: link.host.clone(),
            whole: Fetched::Good,
            content_type: Some("application/fhir+ndjson".to_owned()),
            cache_control: Some("private, no-store, no-transform".to_owned()),
            range: Fetched::Good,
            changed: Visit::Refused(403),
            other: Visit::Refused(403),
            removed: Visit::Refused(404),
        }),
        delete: Step::Done,
        delete_again: Step::Done,
        is_cut: false,
        cleaned: Step::Done,
    };
    assert_eq!(found, expected);
    assert_eq!(left(&store).await, Vec::<String>::new());
}

type Is = fn(&LinkFindings, &Exposure, &Findings) -> bool;

#[tokio::test]
async fn each_fault_is_found_and_nothing_is_left() {
    let link = |found: &Findings| found.link.clone().expect("it signs");
    let exposure = |found: &Findings| found.exposure.clone().expect("anybody can ask");
    let rows: [(Fault, Is); 7] = [
        (Fault::GivesToAnybody, |link, exposure, _| {
            exposure.object == Visit::Open && exposure.list != Visit::Open && link.changed == Visit::Open
        }),
        (Fault::ListsToAnybody, |_, exposure, _| {
            exposure.list == Visit::Open && exposure.object == Visit::Refused(403)
        }),
        (Fault::IgnoresSignatures, |link, exposure, _| {
            link.changed == Visit::Open && link.other == Visit::Open && !exposure.is_open()
        }),
        (Fault::IgnoresRange, |link, _, _| link.range == Fetched::Status(200)),
        (Fault::Mute, |link, _, _| {
            link.content_type.is_none() && link.cache_control.is_none() && link.whole == Fetched::Good
        }),
        (Fault::BehindTrouble, |link, exposure, found| {
            link.whole == Fetched::Status(502)
                && exposure.object == Visit::Unclear(502)
                && matches!(found.uploads, UploadList::Failed(_))
                && found.delete == Step::Done
        }),
        (Fault::ListsNoUploads, |_, _, found| found.uploads == UploadList::Unlisted),
    ];
    for (fault, is) in rows {
        let (store, output) = scripted(fault).await;
        let found = output.examine(&SystemClock, "0a1b").await;
        assert!(is(&link(&found), &exposure(&found), &found), "{fault:?}: {found:#?}");
        assert_eq!(left(&store).await, Vec::<String>::new(), "{fault:?}");
    }
}

/// The link is signed, and whoever looks at what was found does not see by what.
#[tokio::test]
async fn what_was_found_holds_no_signature() {
    for fault in [Fault::None, Fault::BehindTrouble] {
        let (_, output) = scripted(fault).await;
        let signed = signature("exports/doctor/0a1b/first.ndjson");
        let found = format!("{:?}", output.examine(&SystemClock, "0a1b").await);
        assert!(!found.contains(&signed) && !found.contains("sig="), "{found}");
    }
}

/// A storage that answers nothing is given up, and does not hold anybody for longer.
#[tokio::test]
async fn a_storage_that_never_answers_is_given_up_in_time() {
    let clock = Arc::new(crate::clock::ManualClock::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it listens");
    let (_, output) = scripted(Fault::None).await;
    let bucket = Url::parse(&format!("http://{address}/b")).expect("a URL");
    let mut cloud = output.cloud.clone().expect("it has one");
    let options = ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_hours(1));
    cloud.doors = Doors::new(ReqwestConnector::default().connect(&options).expect("a client"), vec![bucket], &[]);
    let output = Output { cloud: Some(cloud), ..output };
    let examining = tokio::spawn({
        let clock = Arc::clone(&clock);
        async move { output.examine(&*clock, "0a1b").await }
    });
    let asked = listener.accept().await.expect("it is asked");
    clock.advance(PATIENCE);
    let found = examining.await.expect("no panic");
    assert!(found.is_cut && found.write == Step::Done && found.cleaned == Step::Done, "{found:?}");
    assert_eq!((found.exposure, found.delete), (None, Step::Untried));
    drop(asked);
}

/// What is tried on local disk needs nobody to answer, and no folder is left either.
#[tokio::test]
async fn local_disk_is_tried_and_left_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder of its own");
    let output = Output::local(&folder.path().join("output")).expect("it is made");
    let found = output.examine(&SystemClock, "0a1b").await;
    let expected = Findings {
        write: Step::Done,
        parts: Step::Done,
        delete: Step::Done,
        delete_again: Step::Done,
        cleaned: Step::Done,
        ..Findings::default()
    };
    assert_eq!(found, expected);
    let left = std::fs::read_dir(folder.path().join("output")).expect("it is there").count();
    assert_eq!(left, 0);
}

/// Uploads of which no second part is taken.
#[derive(Debug)]
struct OnePart {
    below: Arc<InMemory>,
    aborted: Mutex<Vec<String>>,
}

#[async_trait]
impl MultipartStore for OnePart {
    async fn create_multipart(&self, path: &Path) -> object_store::Result<MultipartId> {
        self.below.create_multipart(path).await
    }

    async fn create_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> object_store::Result<MultipartId> {
        self.create_multipart(path).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        index: usize,
        data: PutPayload,
    ) -> object_store::Result<PartId> {
        if index == 0 {
            return self.below.put_part(path, id, index, data).await;
        }
        Err(object_store::Error::Generic { store: "OnePart", source: "503 Slow Down".into() })
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> object_store::Result<object_store::PutResult> {
        self.below.complete_multipart(path, id, parts).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> object_store::Result<()> {
        self.aborted.lock().expect("no panic").push(path.to_string());
        self.below.abort_multipart(path, id).await
    }
}

/// A step that fails leaves nothing behind either, and the rest is tried all the same.
#[tokio::test]
async fn an_upload_that_fails_is_ended() {
    let (store, output) = scripted(Fault::None).await;
    let parts = Arc::new(OnePart { below: Arc::clone(&store), aborted: Mutex::default() });
    let below = Arc::clone(&parts);
    let output = output.through_parts(move |_| below);
    let found = output.examine(&SystemClock, "0a1b").await;
    assert!(matches!(&found.parts, Step::Failed(why) if why.contains("503 Slow Down")), "{found:?}");
    assert_eq!((found.delete, found.cleaned), (Step::Done, Step::Done));
    assert_eq!(*parts.aborted.lock().expect("no panic"), ["exports/doctor/0a1b/large.ndjson"]);
    assert_eq!(left(&store).await, Vec::<String>::new());
}

/// Signs from when it comes to it, which takes a while: as where credentials have to be fetched first.
#[derive(Debug)]
struct Waits {
    clock: Arc<ManualClock>,
    seconds: Mutex<Vec<u64>>,
}

#[async_trait]
impl Signer for Waits {
    async fn signed_url(&self, _: Method, _: &Path, lifetime: Duration) -> object_store::Result<Url> {
        let waited = self.seconds.lock().expect("no panic").pop().unwrap_or(0);
        self.clock.advance(Duration::from_secs(waited));
        let until = self.clock.unix_millis() + i64::try_from(lifetime.as_millis()).expect("short");
        Ok(Url::parse(&format!("https://b.example/?until={until}")).expect("a URL"))
    }
}

/// SEC-30: links never outlive what they are for.
#[tokio::test]
async fn a_link_ends_when_it_should_however_long_signing_takes() {
    const NOW: i64 = 1_800_000_000_000;
    // The last is the first that it waits; by how much the link may end before.
    for (seconds, expected) in
        [(vec![], Some(0)), (vec![5], Some(0)), (vec![5, 7], Some(5)), (vec![5; 9], Some(0)), (vec![20, 5, 5], None)]
    {
        let clock = Arc::new(ManualClock::new(NOW));
        let signer = Arc::new(Waits { clock: Arc::clone(&clock), seconds: Mutex::new(seconds.clone()) });
        let (_, output) = scripted(Fault::None).await;
        let cloud = output.cloud.clone().expect("it is one");
        let signer = LinkSigner { signer, credential: Credential::Key, longest: Duration::from_hours(1) };
        let output = Output { cloud: Some(Cloud { signer: Some(signer), ..cloud }), ..output };
        let until = NOW + 60_500;
        let link = output.sign_until("a", Millis(until), &|| crate::clock::now(&*clock)).await;
        assert_eq!(link.is_ok(), expected.is_some(), "{seconds:?}");
        if let (Ok(link), Some(before)) = (link, expected) {
            let ends: i64 = link.as_str().rsplit('=').next().and_then(|end| end.parse().ok()).expect("a number");
            assert!((until - before * 1_000..until + 1_000).contains(&ends), "{seconds:?}: {ends}");
        }
    }
}
