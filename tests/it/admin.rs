//! The operators' listener: nobody is answered there without its token, and what it says holds nothing of anybody (SEC-10).

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use offtake::Config;
use offtake::config::{PassThroughMode, Secret};
use sample_upstream::{SampleUpstream, Settings};

use crate::raw::{self, Answer};
use crate::smart::{Client, Rig};
use crate::support::{App, listener};

const TOKEN: &str = "operators-0123456789abcdef0123456789";
const ROUTES: [&str; 4] = ["/", "/health/live", "/health/ready", "/metrics"];

async fn free() -> SocketAddr {
    listener().await.local_addr().expect("a free port")
}

fn listening_at(address: SocketAddr) -> impl FnOnce(&mut Config) {
    move |config| {
        config.admin.listen = Some(address);
        config.admin.token = Some(Secret::from(TOKEN.to_owned()));
    }
}

/// It is bound once the process serves.
async fn listening(address: SocketAddr) {
    let open = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), open).await.expect("it listens");
}

async fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let host = address.to_string();
    raw::ask(&host, &raw::request(method, path, &host, headers, b"")).await
}

async fn shown(address: SocketAddr, path: &str) -> String {
    let answer = ask(address, "GET", path, &[("Authorization", &format!("Bearer {TOKEN}"))]).await;
    assert_eq!(answer.status, 200, "{path}");
    String::from_utf8(answer.body).expect("text")
}

#[tokio::test]
async fn nobody_is_answered_there_without_the_token_on_loopback_either() {
    let address = free().await;
    let app = App::before(SampleUpstream::new(Settings::default()), listening_at(address)).await;
    listening(address).await;
    let bearer = format!("Bearer {TOKEN}");
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("operator:{TOKEN}")));
    for path in ROUTES {
        for (headers, expected) in [
            (&[][..], 401),
            (&[("Authorization", "Bearer operators-0123456789abcdef012345678")], 401),
            (&[("Authorization", "Basic b3BlcmF0b3I6")], 401),
            (&[("Authorization", bearer.as_str()), ("Authorization", bearer.as_str())], 401),
            (&[("X-Forwarded-For", "127.0.0.1"), ("Authorization", TOKEN)], 401),
            (&[("Authorization", bearer.as_str())], 200),
            (&[("Authorization", basic.as_str())], 200),
        ] {
            let answer = ask(address, "GET", path, headers).await;
            assert_eq!(answer.status, expected, "{path} {headers:?}");
            assert_eq!(answer.header("cache-control"), "no-store", "{path}");
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!text.contains(TOKEN) && (expected == 200 || !text.contains("offtake_")), "{text}");
        }
        let by_query = ask(address, "GET", &format!("{path}?access_token={TOKEN}"), &[]).await;
        assert_eq!(by_query.status, 401);
    }
    for (method, path, expected) in [("POST", "/", 405), ("DELETE", "/metrics", 405), ("GET", "/fhir/Patient", 404)] {
        assert_eq!(ask(address, method, path, &[]).await.status, 401, "{method} {path}");
        assert_eq!(ask(address, method, path, &[("Authorization", &bearer)]).await.status, expected, "{method} {path}");
    }
    // Nothing of it is on the other listener, and the token is nothing there.
    let before = app.upstream.requests().len();
    let elsewhere = raw::ask(&app.host(), &raw::request("GET", "/metrics", &app.host(), &[], b"")).await;
    assert_ne!(elsewhere.status, 200);
    assert_eq!(app.ask("GET", "/metrics", &[], b"").await.status, 404, "the server has none");
    assert!(app.upstream.requests().len() > before, "it was asked");
    app.stop().await;
    assert!(std::net::TcpStream::connect(address).is_err(), "it ends with the process");
}

#[tokio::test]
async fn the_page_begins_with_what_is_dangerous_and_nothing_on_it_tells_of_anybody() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(3);
    let address = free().await;
    let app = App::before(upstream, listening_at(address)).await;
    listening(address).await;
    let manifest = app.export_exactly("/Patient/$export").await.expect("it is exported");
    let counted = async {
        while !shown(address, "/metrics").await.contains("offtake_jobs{state=\"complete\"} 1\n") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect("it is counted");
    let (page, metrics, ready) =
        (shown(address, "/").await, shown(address, "/metrics").await, shown(address, "/health/ready").await);
    let warning = page.find("<li>smart.mode is open: everybody on this machine may export everything");
    assert!(warning.is_some() && warning < page.find("<h2>"), "{page}");
    assert!(page.contains("<th scope=\"row\">complete</th><td>1</td>"), "{page}");
    let answer = ask(address, "GET", "/", &[("Authorization", &format!("Bearer {TOKEN}"))]).await;
    let policy = answer.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.contains("<script") && !page.contains("http:") && !page.contains("src="), "{page}");
    assert_eq!(ready, r#"{"bulk":true,"passThrough":true,"ready":true,"reasons":[]}"#);
    // SEC-41: names of states, reasons and options, and numbers.
    for line in metrics.lines().filter(|line| !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("offtake_") && value.parse::<i64>().is_ok(), "{line}");
    }
    let link_key =
        metrics.lines().find_map(|line| line.strip_prefix("offtake_expiry_timestamp_seconds{what=\"link.key\"} "));
    assert!(link_key.is_some_and(|end| end.parse::<i64>().is_ok_and(|end| end > 1_700_000_000)), "{metrics}");
    let job = manifest.output[0].url.split("$bulk-file/").nth(1).and_then(|rest| rest.split('/').next());
    let job = job.expect("the link of a file names its export");
    let ids: Vec<_> = app.upstream.resources(None).into_iter().map(|resource| resource.id).collect();
    assert!(ids.iter().any(|id| id.starts_with("p-")), "{ids:?}");
    for id in ids.iter().filter(|id| id.contains('-')) {
        assert!(!page.contains(id) && !metrics.contains(id), "{id}");
    }
    for text in [&page, &metrics, &ready] {
        assert!(!text.contains(job) && !text.contains(TOKEN), "{text}");
    }
    app.stop().await;
}

#[tokio::test]
async fn readiness_tells_why_bulk_requests_are_refused() {
    let client = Client::new("warehouse", "system/*.rs");
    for passes_through in [true, false] {
        let upstream = SampleUpstream::new(Settings::default());
        let server = upstream.serve(listener().await).await;
        let address = free().await;
        let rig = Rig::before(upstream, server, std::slice::from_ref(&client), |config| {
            listening_at(address)(config);
            config.policy.exclude_patients_file = Some("/nowhere/withdrawn".into());
            if !passes_through {
                config.server.pass_through = PassThroughMode::Off;
            }
        })
        .await;
        listening(address).await;
        let bearer = format!("Bearer {TOKEN}");
        let told = async {
            loop {
                let answer = ask(address, "GET", "/health/ready", &[("Authorization", &bearer)]).await;
                if String::from_utf8_lossy(&answer.body).contains("exclude_patients_file") {
                    return answer.status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let status = tokio::time::timeout(Duration::from_secs(30), told).await.expect("it is told");
        assert_eq!(status, if passes_through { 200 } else { 503 });
        let page = shown(address, "/").await;
        assert!(
            page.contains("<li>Bulk requests are refused: policy.exclude_patients_file cannot be read.</li>"),
            "{page}"
        );
        assert!(!page.contains("smart.mode is open"), "{page}");
        assert!(shown(address, "/metrics").await.contains("offtake_bulk_ready 0\n"));
        assert!(shown(address, "/health/live").await.contains("true"));
        rig.stop().await;
    }
}

/// A disk that hangs closes no way to the server, and what it holds is said to be unknown.
#[tokio::test]
async fn a_disk_that_hangs_keeps_no_probe_waiting() {
    let address = free().await;
    let app = App::before(SampleUpstream::new(Settings::default()), listening_at(address)).await;
    listening(address).await;
    assert!(shown(address, "/metrics").await.contains("what=\"link.key\""));
    // Whoever reads that waits for somebody who writes.
    let key = app.folder.path().join("state/link.key");
    std::fs::remove_file(&key).expect("it was made");
    assert!(std::process::Command::new("mkfifo").arg(&key).status().expect("it is a command").success());
    let prompt = async {
        loop {
            let (metrics, page) = tokio::join!(shown(address, "/metrics"), shown(address, "/"));
            assert!(shown(address, "/health/ready").await.contains("\"ready\":true"));
            if !metrics.contains("what=") && metrics.contains("offtake_bulk_ready 1\n") {
                assert!(page.contains("<li>when certificates, keys and credentials expire cannot be read"), "{page}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answered = tokio::time::timeout(Duration::from_secs(20), prompt).await;
    // Nobody waits any more.
    let _writer = tokio::task::spawn_blocking(move || std::fs::File::options().read(true).write(true).open(key)).await;
    answered.expect("each answer came");
    app.stop().await;
}

/// Whoever only connects keeps nobody out, and has no more places than its own.
#[tokio::test]
async fn an_address_has_a_few_connections_there_and_those_that_say_nothing_make_room() {
    let address = free().await;
    let app = App::before(SampleUpstream::new(Settings::default()), listening_at(address)).await;
    listening(address).await;
    shown(address, "/health/live").await;
    let connected = tokio::task::spawn_blocking(move || {
        let connect = || {
            let stream = std::net::TcpStream::connect(address).expect("it listens");
            stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            stream
        };
        let mut held: Vec<_> = (0..40).map(|_| connect()).collect();
        // A closed one can be read to its end at once, of an open one nothing comes.
        let closed = held.iter_mut().filter_map(|stream| stream.read(&mut [0]).ok()).count();
        (held, closed)
    });
    let (held, closed) = connected.await.expect("it does not panic");
    assert!(closed >= 24, "{closed}");
    for _ in 0..20 {
        shown(address, "/health/live").await;
    }
    drop(held);
    app.stop().await;
}
