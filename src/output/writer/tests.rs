use std::io::Read as _;
use std::sync::Mutex;

use async_trait::async_trait;
use flate2::read::GzDecoder;
use futures_util::poll;
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Attribute, ClientOptions, Error, PutResult, Result};
use tokio::sync::Semaphore;

use super::super::cloud::doors::Doors;
use super::super::cloud::uploads::Uploads;
use super::super::cloud::{Cloud, Parts};
use super::*;
use crate::smart::admit::Grant;

/// A storage that takes a part only when it is let, and may refuse one.
struct Slow {
    taken: Mutex<Vec<(usize, Vec<u8>)>>,
    lets: Semaphore,
    refuses: Option<usize>,
    completed: Mutex<Option<usize>>,
    encoding: Mutex<Option<String>>,
}

#[async_trait]
impl MultipartStore for Slow {
    async fn create_multipart(&self, _: &Path) -> Result<MultipartId> {
        Err(Error::NotImplemented { operation: "an upload without attributes".into(), implementer: "Slow".into() })
    }

    async fn create_multipart_opts(&self, _: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        assert!(
            matches!(options.attributes.len(), 3 | 4),
            "type, disposition, cache control, and encoding where there is one"
        );
        *self.encoding.lock().expect("no panic") =
            options.attributes.get(&Attribute::ContentEncoding).map(|value| value.as_ref().to_owned());
        Ok("upload".to_owned())
    }

    async fn put_part(&self, _: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        assert_eq!(id, "upload");
        self.lets.acquire().await.expect("it is never closed").forget();
        if self.refuses == Some(index) {
            return Err(Error::Generic { store: "Slow", source: "refused".into() });
        }
        let bytes = data.iter().flat_map(|bytes| bytes.iter().copied()).collect();
        self.taken.lock().expect("no panic").push((index, bytes));
        Ok(PartId { content_id: index.to_string() })
    }

    async fn complete_multipart(&self, _: &Path, _: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let ordered = parts.iter().enumerate().all(|(index, part)| part.content_id == index.to_string());
        assert!(ordered, "{parts:?}");
        *self.completed.lock().expect("no panic") = Some(parts.len());
        Ok(PutResult { e_tag: None, version: None, extensions: object_store::Extensions::default() })
    }

    async fn abort_multipart(&self, _: &Path, _: &MultipartId) -> Result<()> {
        Ok(())
    }
}

fn output(refuses: Option<usize>) -> (Arc<Slow>, Output) {
    let slow = Arc::new(Slow {
        taken: Mutex::default(),
        lets: Semaphore::new(0),
        refuses,
        completed: Mutex::default(),
        encoding: Mutex::default(),
    });
    let http = ReqwestConnector::default().connect(&ClientOptions::new()).expect("a client");
    let credentials = Arc::new(object_store::StaticCredentialProvider::new(object_store::gcp::GcpCredential {
        bearer: String::new(),
    }));
    let doors = Doors::new(http.clone(), Vec::new(), &[]);
    let uploads = Arc::new(Uploads::of_gcs(http, credentials, "http://127.0.0.1:1/b".to_owned()));
    let parts = Some(Parts { store: Arc::clone(&slow) as _, uploads });
    let memory = Output::of(Arc::new(InMemory::new()));
    (slow, Output { cloud: Some(Cloud { parts, signer: None, doors, keyed: None }), ..memory })
}

const LINE: usize = 200 * 1024;

fn line(number: usize) -> Line {
    Grant::note_held(format!("{number:05}{}\n", "x".repeat(LINE - 6)))
}

async fn write(writer: &mut FileWriter, line: Line) -> std::result::Result<(), OutputError> {
    if writer.needs_upload(&line) {
        assert_eq!(writer.begin_upload().await?.as_deref(), Some("upload"));
    }
    writer.write(line).await
}

/// A slow storage slows the reading: what is held for it does not grow.
#[tokio::test]
async fn no_more_than_two_parts_are_held_for_a_storage_that_takes_none() {
    let (slow, output) = output(None);
    let mut writer =
        FileWriter::begin(&output, "a/Patient-00000.1.ndjson", Coding::Plain).await.expect("nothing is asked yet");
    let mut number = 0;
    let mut expected = Vec::new();
    let mut is_held_back = false;
    while !is_held_back {
        let next = line(number);
        expected.extend_from_slice(&next.clone().into_bytes());
        number += 1;
        let mut writing = Box::pin(write(&mut writer, next));
        let mut turns = 0;
        while poll!(&mut writing).is_pending() {
            tokio::task::yield_now().await;
            turns += 1;
            if turns == 100 {
                is_held_back = true;
                slow.lets.add_permits(1_000);
                writing.await.expect("it is taken now");
                break;
            }
        }
        assert!(number * LINE <= 2 * PART + LINE, "{number} lines were taken by nobody");
    }
    assert!(number * LINE >= 2 * PART, "{number} lines are less than two parts: one is sent while the next is filled");
    for number in number..number + 40 {
        let next = line(number);
        expected.extend_from_slice(&next.clone().into_bytes());
        write(&mut writer, next).await.expect("it is taken");
    }
    let stored = writer.complete().await.expect("all is taken");
    assert_eq!((stored.bytes, stored.plain), (expected.len() as u64, None));
    let mut taken = slow.taken.lock().expect("no panic").clone();
    taken.sort();
    let (last, full) = taken.split_last().expect("some parts");
    assert!(full.iter().all(|(_, part)| part.len() == PART) && last.1.len() <= PART, "parts are of one size");
    assert_eq!(*slow.completed.lock().expect("no panic"), Some(taken.len()));
    assert!(taken.into_iter().flat_map(|(_, part)| part).eq(expected), "the bytes are those that were written");
}

/// A part that is not taken while nobody waits for it is no less lost.
#[tokio::test]
async fn a_part_that_is_refused_ends_the_object() {
    for refused in [0, 1, 2] {
        let (slow, output) = output(Some(refused));
        slow.lets.add_permits(1_000);
        let mut writer =
            FileWriter::begin(&output, "a/Patient-00000.1.ndjson", Coding::Plain).await.expect("nothing is asked yet");
        let mut failed = false;
        for number in 0..2 * PART / LINE + 4 {
            failed = write(&mut writer, line(number)).await.is_err();
            if failed {
                break;
            }
        }
        if !failed {
            assert!(writer.complete().await.is_err(), "part {refused} was refused");
        }
        assert_eq!(*slow.completed.lock().expect("no panic"), None, "part {refused} was refused");
    }
}

/// What is less than a part is one request, and nothing to tidy up.
#[tokio::test]
async fn a_small_object_goes_in_one_go_with_its_attributes() {
    let (slow, output) = output(None);
    let mut writer =
        FileWriter::begin(&output, "a/Patient-00000.1.ndjson", Coding::Plain).await.expect("nothing is asked yet");
    for number in 0..3 {
        write(&mut writer, line(number)).await.expect("it is held");
    }
    assert_eq!(writer.upload_id(), None);
    writer.complete().await.expect("it is put");
    let got = output.store.get(&Path::from("a/Patient-00000.1.ndjson")).await.expect("it is there");
    assert_eq!(got.meta.size, 3 * LINE as u64);
    let attributes: Vec<_> = got.attributes.iter().map(|(_, value)| value.to_string()).collect();
    for expected in [
        "application/fhir+ndjson",
        "attachment; filename=\"Patient-00000.1.ndjson\"",
        "private, no-store, no-transform",
    ] {
        assert!(attributes.iter().any(|value| value == expected), "{attributes:?}");
    }
    assert!(slow.taken.lock().expect("no panic").is_empty());
}

/// Letters that no packing makes shorter, unlike all others.
fn noise(number: usize, length: usize) -> Line {
    let mut state = number as u64 + 1;
    let letters = (1..length).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(u8::try_from(state >> 56).unwrap_or(0).max(b' '))
    });
    Grant::note_held(letters.chain(['\n']).collect())
}

/// What packing does to lines is not known before it is done: an upload is begun in time all the same, and what is stored is
/// said to be gzip either way.
#[tokio::test]
async fn what_is_packed_goes_in_parts_or_in_one_go_and_is_said_to_be_gzip() {
    let key = "a/Patient-00000.1.ndjson";
    let mut ways = [0, 0];
    for count in [1, 2, 3, 20, 60] {
        for is_noise in [false, true] {
            let (slow, output) = output(None);
            slow.lets.add_permits(1_000);
            let mut writer = FileWriter::begin(&output, key, Coding::Gzip).await.expect("nothing is asked yet");
            let mut expected = Vec::new();
            for number in 0..count {
                let next = if is_noise { noise(number, 3 * LINE / 2) } else { line(number) };
                expected.extend_from_slice(&next.clone().into_bytes());
                write(&mut writer, next).await.expect("it is taken");
            }
            let in_parts = writer.upload_id().is_some();
            let stored = writer.complete().await.expect("all is taken");
            let (bytes, encoding) = if in_parts {
                let mut taken = slow.taken.lock().expect("no panic").clone();
                taken.sort();
                assert_eq!(*slow.completed.lock().expect("no panic"), Some(taken.len()));
                let encoding = slow.encoding.lock().expect("no panic").clone();
                (taken.into_iter().flat_map(|(_, part)| part).collect(), encoding)
            } else {
                let got = output.store.get(&Path::from(key)).await.expect("it is there");
                let encoding = got.attributes.get(&Attribute::ContentEncoding).map(|value| value.as_ref().to_owned());
                (got.bytes().await.expect("it can be read").to_vec(), encoding)
            };
            ways[usize::from(in_parts)] += 1;
            assert_eq!(encoding.as_deref(), Some("gzip"), "{count} lines");
            assert_eq!(stored.bytes, bytes.len() as u64, "{count} lines");
            assert_eq!(stored.plain.map(|plain| plain.bytes), Some(expected.len() as u64), "{count} lines");
            let mut lines = Vec::new();
            GzDecoder::new(&*bytes).read_to_end(&mut lines).expect("gzip");
            assert!(lines == expected, "{count} lines: they differ");
        }
    }
    assert!(ways.iter().all(|times| *times > 1), "both ways are gone: {ways:?}");
}

/// Packing can make what is packed longer, and what it holds back comes at the end.
#[test]
fn nothing_packed_is_longer_than_it_is_taken_for() {
    for bytes in [1, 2, 100, 5_000, UNCOPIED, FLUSH, 3 * FLUSH] {
        for number in 0..3 {
            let mut gzip = Gzip::new();
            let piece: Vec<u8> = noise(number, bytes).into_bytes().iter().map(|byte| byte.wrapping_mul(151)).collect();
            for piece in piece.chunks(UNCOPIED) {
                gzip.pack(piece);
            }
            gzip.end();
            let packed = usize::try_from(gzip.packed).expect("some bytes");
            assert!(packed <= most_packed(piece.len()), "{} became {packed}", piece.len());
        }
    }
}
