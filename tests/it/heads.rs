//! Headers that two readers could read differently (SEC-04), and requests that a web page or another proxy sends
//! (SEC-10).

use sample_upstream::Settings;

use crate::paths::{assert_untouched, get};
use crate::raw::{self, Answer, KICKOFF};
use crate::support::App;

/// SEC-10: a page in a browser, a rebound name and a proxy beside us get nothing from `open` mode.
#[tokio::test]
async fn open_mode_answers_nobody_but_this_machine() {
    let app = App::with_patients(2, Settings::default()).await;
    let host = app.host();
    let port = host.rsplit_once(':').map(|(_, port)| port).expect("a port");
    let job = "0123456789abcdef0123456789abcdef";
    let routes = ["/fhir/$export".to_owned(), format!("/fhir/$bulk-status/{job}"), format!("/fhir/$bulk-file/{job}/f")];
    let [dotted, sub, user] = [
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.evil.example:{port}"),
        format!("localhost@evil.example:{port}"),
    ];
    for headers in [
        &[("Host", "evil.example")][..],
        &[("Host", &dotted)],
        &[("Host", &sub)],
        &[("Host", &user)],
        &[("Host", "")],
        &[("Host", "10.0.0.1")],
        &[("Host", "0.0.0.0")],
        &[("Host", "[::]")],
        &[("Host", "127.1")],
        &[("Host", "2130706433")],
        &[("Host", "0x7f.0.0.1")],
        &[("Origin", "http://127.0.0.1")],
        &[("Origin", "null")],
        &[("Forwarded", "for=127.0.0.1;host=localhost")],
        &[("X-Forwarded-For", "127.0.0.1")],
        &[("X-Forwarded-Host", "localhost")],
        &[("X-Forwarded-Proto", "http")],
        &[("x-forwarded-anything", "")],
        &[("X-Real-IP", "127.0.0.1")],
        &[("Via", "1.1 proxy")],
        // Naming a header in `Connection` does not take it away.
        &[("Connection", "X-Forwarded-For, Origin"), ("X-Forwarded-For", "127.0.0.1")],
    ] {
        for route in &routes {
            let headers: Vec<_> = KICKOFF.iter().chain(headers).copied().collect();
            get(&app, route, &headers).await.assert_refused(&format!("{route} {headers:?}"), 403, "forbidden", None);
        }
    }
    let twice = [KICKOFF[0], KICKOFF[1], ("Authorization", "Bearer a"), ("Authorization", "Bearer b")];
    for route in &routes {
        get(&app, route, &twice).await.assert_refused("two credentials", 400, "invalid", None);
    }
    // The old protocol names no host at all.
    let request = "GET /fhir/$export HTTP/1.0\r\nAccept: */*\r\nPrefer: respond-async\r\n\r\n";
    let bytes = raw::talk(&host, request.as_bytes()).await;
    Answer::parse(&bytes).expect("an answer").assert_refused("HTTP/1.0", 403, "forbidden", None);
    // Absolute-form targets name a host as well.
    for (target, named, status) in [
        ("http://evil.example/fhir/$export", host.as_str(), 403),
        ("https://evil.example/fhir/$export", &host, 403),
        ("http://127.0.0.1@evil.example/fhir/$export", &host, 403),
        ("http://127.0.0.1/fhir/$export", "evil.example", 403),
        ("http://evil.example/fhir/Patient/1/$export", &host, 403),
        ("http://evil.example/fhir/../x", &host, 400),
        ("http://127.0.0.1/", &host, 400),
        ("http://127.0.0.1", &host, 400),
        ("http://evil.example/admin", &host, 400),
    ] {
        let answer = get(&app, target, &[KICKOFF[0], KICKOFF[1], ("Host", named)]).await;
        assert_eq!(answer.status, status, "{target} of {named}: {}", String::from_utf8_lossy(&answer.body));
    }
    let bytes = raw::talk(&host, &raw::request("CONNECT", "evil.example:443", &host, &[], b"")).await;
    assert!(
        bytes.starts_with(b"HTTP/1.1 400 ") || bytes.starts_with(b"HTTP/1.1 501 "),
        "{}",
        String::from_utf8_lossy(&bytes)
    );
    assert_untouched(app).await;
}

#[tokio::test]
async fn this_machine_may_call_itself_by_any_of_its_names() {
    let app = App::with_patients(2, Settings::default()).await;
    let port = app.host().rsplit_once(':').map(|(_, port)| port.to_owned()).expect("a port");
    for (target, host) in [
        ("/fhir/$export".to_owned(), "localhost".to_owned()),
        ("/fhir/$export".to_owned(), format!("LOCALHOST:{port}")),
        ("/fhir/$export".to_owned(), "[::1]:80".to_owned()),
        ("/fhir/$export".to_owned(), "127.0.0.53".to_owned()),
        (format!("http://{}/fhir/$export", app.host()), app.host()),
        (format!("http://localhost:{port}/fhir/$export"), "127.0.0.1".to_owned()),
    ] {
        let answer =
            get(&app, &target, &[KICKOFF[0], KICKOFF[1], ("Host", &host), ("Authorization", "Bearer x")]).await;
        assert_eq!(answer.status, 202, "{target} of {host}");
        // DS-001: what we hand out is made of the configured base, whatever the request called us.
        assert!(answer.header("content-location").starts_with(&app.base), "{answer:?}");
    }
    app.stop().await;
}

/// SEC-04: on the way through, these headers decide nothing, and ours replace the client's.
#[tokio::test]
async fn on_the_way_through_a_client_claims_nothing_of_itself() {
    let app = App::with_patients(2, Settings::default()).await;
    let claims = [
        ("Host", "evil.example"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "for=6.6.6.6;host=evil.example"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Authorization", "Bearer kept"),
        ("Connection", "Authorization, X-Forwarded-For"),
    ];
    let group = get(&app, "http://evil.example/fhir/Group/all?x=%2F..%2F", &claims).await;
    assert_eq!(group.status, 200);
    assert_eq!(group.json()["id"], "all", "the method stays what it is");
    let seen = app.upstream.requests().pop().expect("it was passed through");
    assert_eq!((seen.method.as_str(), seen.query.as_str()), ("GET", "x=%2F..%2F"));
    for (name, value) in &seen.headers {
        let value = value.to_str().unwrap_or_default();
        assert!(!value.contains("6.6.6.6") && !value.contains("evil"), "{name}: {value}");
    }
    assert_eq!(seen.headers.get("authorization").map(http::HeaderValue::as_bytes), Some(&b"Bearer kept"[..]));
    app.stop().await;
}

/// SEC-04: 400 and the connection closed, on our routes and on those of the upstream.
#[tokio::test]
async fn what_two_readers_could_read_differently_ends_the_connection() {
    let app = App::with_patients(2, Settings::default()).await;
    let host = app.host();
    let second = "GET /fhir/Patient/smuggled HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for route in ["/fhir/$export", "/fhir/Patient", "/fhir/$bulk-status/0123456789abcdef0123456789abcdef"] {
        for (headers, body) in [
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
            ("Content-Length: 5, 5\r\n", "hello"),
            ("Content-Length: +5\r\n", "hello"),
            ("Content-Length: -1\r\n", "hello"),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
            ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
            ("Host: localhost\r\n", ""),
            ("X: y\rZ: z\r\n", ""),
            ("X: y\nZ: z\r\n", ""),
            ("X: y\r\n folded: z\r\n", ""),
            ("X: a\0b\r\n", ""),
            ("no colon\r\n", ""),
            (": nameless\r\n", ""),
            ("Na me: x\r\n", ""),
        ] {
            let head = format!("POST {route} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nPrefer: respond-async\r\n");
            let bytes = raw::talk(&host, format!("{head}{headers}\r\n{body}{second}").as_bytes()).await;
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.starts_with("HTTP/1.1 400 "), "{route} {headers:?}: {text}");
            assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{route} {headers:?}: {text}");
        }
    }
    for line in [
        "GET /fhir/$export\r\n",
        "GET  /fhir/$export HTTP/1.1\r\n",
        "GET /fhir/$export HTTP/1.1\n",
        "GET /fhir/$export HTTP/3.0\r\n",
        "G\0T /fhir/$export HTTP/1.1\r\n",
        "\n",
        "\u{1}\u{2}\u{3}\r\n",
    ] {
        let bytes = raw::talk(&host, format!("{line}Host: localhost\r\n\r\n{second}").as_bytes()).await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 400 ") || text.is_empty(), "{line:?}: {text}");
        assert!(text.matches("HTTP/1.1 ").count() <= 1, "{line:?}: {text}");
    }
    assert_untouched(app).await;
}
