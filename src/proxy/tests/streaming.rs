//! Bodies pass as they come, and never seem whole when they are not.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::rig::{Reply, Rig, Socket, status_of};

/// A proxy, and an upstream that the test plays by hand.
async fn by_hand() -> (Rig, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let upstream = listener.local_addr().expect("it is bound");
    (Rig::before(upstream, Arc::default()).await, listener)
}

async fn accept(listener: &TcpListener) -> Socket {
    Socket(listener.accept().await.expect("the proxy connects").0)
}

#[tokio::test]
async fn the_first_bytes_of_a_body_pass_before_the_last_are_there() {
    let (rig, listener) = by_hand().await;
    let mut client = rig.connect().await;
    client.say("POST /fhir/x HTTP/1.1\r\nHost: ours\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.say("5\r\nfirst\r\n").await;
    let mut upstream = accept(&listener).await;
    upstream.hear_until("5\r\nfirst\r\n").await;
    client.say("4\r\nlast\r\n0\r\n\r\n").await;
    upstream.hear_until("4\r\nlast\r\n0\r\n\r\n").await;

    upstream.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.hear_until("\r\n\r\n").await;
    upstream.say("5\r\nfirst\r\n").await;
    assert_eq!(client.hear_until("first\r\n").await, "5\r\nfirst\r\n");
    upstream.say("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(client.hear_until("0\r\n\r\n").await, "4\r\nlast\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_at_the_client() {
    for (head, cut) in [
        ("Content-Length: 10", "five!"),
        ("Transfer-Encoding: chunked", "5\r\nfive!\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nfi"),
    ] {
        let rig = Rig::start(move |_| Reply::close(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{cut}"))).await;
        // Without `Connection: close`, so that the connection's end is the break and nothing else.
        let text = rig.talk("GET /fhir/x HTTP/1.1\r\nHost: ours\r\n\r\n").await;
        assert_eq!(status_of(&text), 200, "{head}");
        let lower = head.to_ascii_lowercase();
        assert!(text.contains(&format!("\r\n{lower}\r\n")), "{text}");
        assert!(text.contains("\r\n\r\n"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "a last chunk would make it whole: {text}");
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_breaks_off_at_the_upstream() {
    for (framing, part) in [("Content-Length: 10", "five!"), ("Transfer-Encoding: chunked", "5\r\nfive!\r\n")] {
        let (rig, listener) = by_hand().await;
        let mut client = rig.connect().await;
        client.say(&format!("PUT /fhir/x HTTP/1.1\r\nHost: ours\r\n{framing}\r\n\r\n{part}")).await;
        let mut upstream = accept(&listener).await;
        let head = upstream.hear_until("\r\n\r\n").await;
        assert!(head.contains(&framing.to_ascii_lowercase()), "{head}");
        upstream.hear_until(part).await;
        drop(client);
        assert_eq!(upstream.hear_all().await, "", "{framing}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_upstream() {
    let (rig, listener) = by_hand().await;
    let mut client = rig.connect().await;
    client.say("GET /fhir/slow HTTP/1.1\r\nHost: ours\r\n\r\n").await;
    let mut upstream = accept(&listener).await;
    upstream.hear_until("\r\n\r\n").await;
    drop(client);
    // Nothing is answered: the connection ends because nobody waits for it any more.
    assert_eq!(upstream.hear_all().await, "");
}

#[tokio::test]
async fn a_client_is_told_to_go_on_before_it_sends_its_body() {
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")).await;
    let mut client = rig.connect().await;
    client
        .say(
            "POST /fhir/x HTTP/1.1\r\nHost: ours\r\nExpect: 100-continue\r\n\
             Content-Length: 5\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(client.hear_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.say("hello").await;
    assert_eq!(status_of(&client.hear_all().await), 201);
    assert!(rig.seen()[0].text.ends_with("\r\n\r\nhello"));
}

/// SEC-04, SEC-05: nothing is said in them that could not be said before the body.
#[tokio::test]
async fn trailers_of_a_request_stay_here() {
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")).await;
    let text = rig
        .talk(
            "PUT /fhir/x HTTP/1.1\r\nHost: ours\r\nTransfer-Encoding: chunked\r\nTrailer: X-Remote-User\r\n\
             Connection: close\r\n\r\n4\r\nbody\r\n0\r\nX-Remote-User: root\r\n\r\n",
        )
        .await;
    assert_eq!(status_of(&text), 201);
    let asked = rig.seen().pop().expect("one request goes upstream").text;
    assert!(asked.ends_with("4\r\nbody\r\n0\r\n\r\n"), "{asked}");
    assert!(!asked.to_ascii_lowercase().contains("trailer") && !asked.contains("root"), "{asked}");
}

#[tokio::test]
async fn trailers_of_an_answer_pass() {
    let rig = Rig::start(|_| {
        Reply::keep(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
    })
    .await;
    let text = rig.talk("GET /fhir/x HTTP/1.1\r\nHost: ours\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n").await;
    assert!(text.ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"), "{text}");
    let asked = rig.seen().pop().expect("one request goes upstream");
    assert!(asked.text.contains("\r\nte: trailers\r\n"), "{}", asked.text);
}

#[tokio::test]
async fn an_http2_client_is_answered_by_an_http1_upstream() {
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    let socket = rig.connect().await.0;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .expect("the proxy speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .version(Version::HTTP_2)
        .uri("http://evil.example/fhir/x?a=b")
        .body(Empty::<Bytes>::new())
        .expect("the request is well formed");
    let response = sender.send_request(request).await.expect("the proxy answers");
    let body = response.into_body().collect().await.expect("the body comes whole");
    assert_eq!(body.to_bytes(), "ok");
    let asked = rig.seen().pop().expect("one request goes upstream");
    assert!(asked.text.starts_with("GET /base/x?a=b HTTP/1.1\r\n"), "{}", asked.text);
    assert!(asked.text.contains(&format!("host: {}\r\n", rig.upstream)), "{}", asked.text);
    assert!(!asked.text.contains("evil"), "{}", asked.text);
    connection.abort();
}
