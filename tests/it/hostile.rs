//! Clients that mean harm or have bad luck: nothing of what they do may hang, break or fill the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use offtake::testing::ManualClock;
use offtake::{Clock, SystemClock};
use sample_upstream::{SampleUpstream, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{self, Answer, KICKOFF};
use crate::support::{App, Front, listener};

const JOB: &str = "0123456789abcdef0123456789abcdef";

/// Connections that bring no request, or never the whole of one, are closed in time.
#[tokio::test]
async fn a_connection_that_says_nothing_does_not_stay() {
    let app = App::with_patients(1, Settings::default()).await;
    let host = app.host();
    let alive = format!("GET /fhir/$bulk-status/{JOB} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let said = [
        "",
        "G",
        "PRI * HT",
        "GET /fhir/$export HTTP/1.1\r\nHost: loc",
        "GET /fhir/$export HTTP/1.1\r\nHost: localhost\r\n",
        &alive,
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let closed = said.into_iter().map(async |said| {
        let mut stream = TcpStream::connect(&host).await.expect("the server listens");
        stream.write_all(said.as_bytes()).await.expect("it reads");
        let start = Instant::now();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(45), stream.read_to_end(&mut answer)).await;
        println!("{said:?} ended after {:.1} s", start.elapsed().as_secs_f32());
        ended.is_ok()
    });
    assert_eq!(join_all(closed).await, [true; 7]);
    app.stop().await;
}

/// Bodies that do not come are waited for in a bounded number of places and for a bounded time; requests that
/// bring none are answered meanwhile.
#[tokio::test]
async fn bodies_that_never_come_hold_nobody_up_for_long() {
    let clock = Arc::new(ManualClock::new(SystemClock.unix_millis()));
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(1);
    let app = App::with_clock(upstream, |_| {}, clock.clone()).await;
    let host = app.host();
    let headers = [KICKOFF[0], KICKOFF[1], ("Content-Type", "application/fhir+json"), ("Content-Length", "1000000")];
    let head = raw::request("POST", "/fhir/$export", &host, &headers, &vec![b' '; 999_000]);
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(&host).await.expect("the server listens");
        // What no place is free for stays in the sockets' buffers.
        let _full = tokio::time::timeout(Duration::from_millis(20), stream.write_all(&head)).await;
        stalled.push(stream);
    }
    let quick = app.ask("GET", "/$export?_type=Patient", &KICKOFF, b"").await;
    assert_eq!(quick.status, 202);
    assert_eq!(app.ask("POST", "/$export?_type=Patient", &KICKOFF, b"").await.status, 202, "interop 2");
    assert_eq!(app.ask("GET", &format!("/$bulk-status/{JOB}"), &[], b"").await.status, 404);
    assert_eq!(app.ask("GET", "/Group/all", &[], b"").await.status, 200);
    let ended = tokio::spawn(join_all(stalled.into_iter().map(|mut stream| async move {
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        Answer::parse(&answer).map(|answer| answer.status)
    })));
    let began = Instant::now();
    while !ended.is_finished() {
        assert!(began.elapsed() < Duration::from_secs(20), "they still wait");
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ended = ended.await.expect("no panic");
    let count = |wanted| ended.iter().filter(|status| **status == Some(wanted)).count();
    assert!(count(408) >= 16, "those that had a place: {ended:?}");
    // Not every client gets to read its answer: the server closes before it has read all that was sent.
    assert!(ended.iter().all(|status| matches!(status, None | Some(408 | 503))), "{ended:?}");
    let body = br#"{"resourceType":"Parameters"}"#;
    let next = app.ask("POST", "/$export", &headers[..3], body).await;
    assert_eq!(next.status, 202, "the places are free again");
    app.stop().await;
}

/// An upstream whose answers have no end fills no more memory than pages may take.
#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let statement = r#"{"resourceType":"CapabilityStatement","rest":[{"resource":[{"type":"Patient",
        "interaction":[{"code":"search-type"}]}]}]}"#;
    let endless = listener().await;
    let address = endless.local_addr().expect("it listens");
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = endless.accept().await {
            // The first capability statement has no end; the second one has, and the Group has none.
            let is_good = counted.fetch_add(1, Ordering::Relaxed) == 1;
            tokio::spawn(async move {
                let mut head = [0; 1024];
                let _begun = stream.read(&mut head).await;
                let good = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{statement}", statement.len());
                let begin = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let mut sent = stream.write_all(if is_good { good.as_bytes() } else { begin.as_bytes() }).await;
                let chunk = format!("10000\r\n{}\r\n", " ".repeat(65_536));
                while sent.is_ok() && !is_good {
                    sent = stream.write_all(chunk.as_bytes()).await;
                }
            });
        }
    });
    let change = |config: &mut offtake::Config| {
        config.upstream.memory_budget = offtake::config::Size::mebibytes(4);
        config.upstream.page_target = offtake::config::Size::mebibytes(1);
        config.upstream.max_concurrent_searches = 2;
    };
    let front = Front::before(&format!("http://{address}/fhir"), change, Arc::new(offtake::SystemClock)).await;
    let request = raw::request("GET", "/fhir/Group/g/$export", &front.host(), &KICKOFF, b"");
    for what in ["the capability statement", "the Group"] {
        let answer = raw::ask(&front.host(), &request).await;
        answer.assert_refused(what, 503, "transient", None);
        assert!(answer.json().to_string().contains(what.split(' ').next_back().unwrap_or_default()), "{answer:?}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    front.stop().await;
}

/// BD-049: kick-offs cannot pile up without end.
#[tokio::test]
async fn no_more_exports_wait_than_may() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(1);
    let app = App::before(upstream.clone(), |config| {
        config.export.max_running_jobs = 1;
        config.export.max_waiting_jobs = 3;
    })
    .await;
    upstream.update_settings(|settings| settings.latency = Duration::from_secs(2));
    let mut taken = Vec::new();
    let refused = loop {
        let answer = app.ask("GET", "/$export?_type=Patient", &KICKOFF, b"").await;
        if answer.status != 202 {
            break answer;
        }
        taken.push(answer.header("content-location")[app.base.len()..].to_owned());
        assert!(taken.len() < 10, "all were taken");
    };
    refused.assert_refused("one too many", 429, "throttled", None);
    assert!(refused.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0));
    assert!((3..=4).contains(&taken.len()), "one runs and three wait: {taken:?}");
    let last = taken.pop().expect("some were taken");
    assert_eq!(app.ask("DELETE", &last, &[], b"").await.status, 202);
    let next = app.ask("GET", "/$export?_type=Patient", &KICKOFF, b"").await;
    assert_eq!(next.status, 202, "a place is free again");
    upstream.update_settings(|settings| settings.latency = Duration::ZERO);
    app.stop().await;
}

/// Good requests with a few bytes changed: an answer that is no 500, or a closed connection; never a hang.
#[tokio::test]
async fn requests_with_flipped_bytes_break_nothing() {
    let app = App::with_patients(1, Settings::default()).await;
    let host = app.host();
    let json = [KICKOFF[0], KICKOFF[1], ("Content-Type", "application/fhir+json")];
    let body =
        br#"{"resourceType":"Parameters","parameter":[{"name":"_since","valueInstant":"2999-01-01T00:00:00Z"}]}"#;
    let status = format!("/fhir/$bulk-status/{JOB}");
    let file = format!("/fhir/$bulk-file/{JOB}/Patient-00000.ndjson?expires=1&key=1&signature=AAAA");
    let originals = [
        raw::request("GET", "/fhir/$export?_since=2999-01-01T00:00:00Z&_type=Patient", &host, &KICKOFF, b""),
        raw::request("POST", "/fhir/Patient/$export", &host, &json, body),
        raw::request("GET", "/fhir/Group/none/$export?_outputFormat=ndjson", &host, &KICKOFF, b""),
        raw::request("DELETE", &status, &host, &[], b""),
        raw::request("GET", &file, &host, &[("Range", "bytes=0-1"), ("If-None-Match", "\"x\"")], b""),
    ];
    // A simple generator with a fixed seed: a failure comes again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below a usize")
    };
    let mut mutated = Vec::new();
    for number in 0..1_000 {
        let mut bytes = originals[number % originals.len()].clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = u8::try_from(random(256)).expect("a byte"),
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, b"\0\r\n %/.;?&=\"\\{}[],:"[random(19)]),
                _ => {
                    let end = (at + random(40)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        mutated.push(bytes);
    }
    let mut answered = 0;
    for some in mutated.chunks(200) {
        let answers = some.iter().map(async |request| {
            let mut stream = TcpStream::connect(&host).await.expect("the server listens");
            let _closed_early = stream.write_all(request).await;
            let mut answer = Vec::new();
            let mut read = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut answer)).await;
            if read.is_err() {
                // What lacks its end is ended here, so that the server need not wait for it.
                let _closed_early = stream.shutdown().await;
                read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
            }
            assert!(read.is_ok(), "no end of {:?}", String::from_utf8_lossy(request));
            if let Some(answer) = Answer::parse(&answer) {
                assert_ne!(answer.status, 500, "{:?}", String::from_utf8_lossy(request));
                return 1;
            }
            0
        });
        answered += join_all(answers).await.into_iter().sum::<usize>();
    }
    println!("{answered} of {} were answered", mutated.len());
    assert!(answered > 700, "{answered}");
    app.export_exactly("/$export").await.expect("an export");
    app.stop().await;
}
