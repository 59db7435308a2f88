//! Requests that two readers could read differently get no further than us.

use super::rig::{Reply, Rig, status_of};

/// What a smuggler would like the upstream to answer as well.
const SECOND: &str = "GET /fhir/smuggled HTTP/1.1\r\nHost: ours\r\nConnection: close\r\n\r\n";

/// SEC-04: 400 and the connection closed.
#[tokio::test]
async fn an_ambiguous_request_is_refused_and_ends_its_connection() {
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await;
    for (headers, body) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        ("Content-Length: 5, 5\r\n", "hello"),
        ("Content-Length: +5\r\n", "hello"),
        ("Content-Length: -5\r\n", "hello"),
        ("Content-Length: 0x5\r\n", "hello"),
        ("Content-Length : 5\r\n", "hello"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("X: y\0\r\nContent-Length: 0\r\n", ""),
        ("Host: theirs\r\nContent-Length: 0\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5;\nx\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhelloXX0\r\n\r\n"),
    ] {
        let request = format!("POST /fhir/x HTTP/1.1\r\nHost: ours\r\n{headers}\r\n{body}{SECOND}");
        let text = rig.talk(&request).await;
        assert_eq!(status_of(&text), 400, "{request:?}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{request:?}");
    }
    for request in [
        "GET /fhir/x HTTP/1.1\nHost: ours\n\n",
        "GET  /fhir/x HTTP/1.1\r\nHost: ours\r\n\r\n",
        "GET /fhir/x  HTTP/1.1\r\nHost: ours\r\n\r\n",
        "GET /fhir/x y HTTP/1.1\r\nHost: ours\r\n\r\n",
        "GET /fhir/x\r\nHost: ours\r\n\r\n",
        "POST /fhir/x HTTP/1.0\r\nHost: ours\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "G@T /fhir/x HTTP/1.1\r\nHost: ours\r\n\r\n",
    ] {
        let text = rig.talk(&format!("{request}{SECOND}")).await;
        assert_eq!(status_of(&text), 400, "{request:?}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{request:?}");
    }
    // Of a body that goes wrong later, the upstream may have seen the begin, and never an end.
    for asked in rig.seen() {
        assert!(!asked.text.contains("smuggled"), "{}", asked.text);
    }
}

#[tokio::test]
async fn plain_requests_may_follow_one_another() {
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await;
    for (headers, body) in [
        ("Content-Length: 5\r\n", "hello"),
        ("Content-Length: 5\r\n", "\n\r\n\0\n"),
        ("Transfer-Encoding: chunked\r\n", "5;a=b\r\nhel\nl\r\n0\r\nX: y\r\n\r\n"),
        ("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
    ] {
        let before = rig.seen().len();
        let request = format!("POST /fhir/x HTTP/1.1\r\nHost: ours\r\n{headers}\r\n{body}{SECOND}");
        let text = rig.talk(&request).await;
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{request:?}: {text}");
        assert_eq!(rig.seen().len(), before + 2, "{request:?}");
    }
}
