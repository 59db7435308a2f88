//! The pass-through over real connections.

mod rig;
mod smuggling;
mod streaming;

use self::rig::{Reply, Rig, status_of};

#[tokio::test]
async fn a_request_and_its_answer_pass_as_they_are() {
    let answer = "HTTP/1.1 418 Whatever\r\nETag: W/\"7\"\r\nX-Odd: a\r\nX-Odd: b\r\n\
        Location: http://theirs/fhir/Patient/1\r\nContent-Length: 4\r\n\
        Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\r\nbody";
    let rig = Rig::start(move |_| Reply::keep(answer)).await;
    let text = rig
        .talk(
            "PATCH /fhir/Patient/1?x=%2f&&y=a|b HTTP/1.1\r\nHost: evil.example\r\n\
             Authorization: Bearer t\r\nX-Odd: 1\r\nX-Odd: 2\r\nX-Hop: 1\r\n\
             X-Forwarded-For: 10.0.0.1\r\nContent-Length: 5\r\nConnection: close, x-hop\r\n\r\nhello",
        )
        .await;
    let [asked] = &rig.seen()[..] else { panic!("one request goes upstream") };
    assert!(asked.text.starts_with("PATCH /base/Patient/1?x=%2f&&y=a|b HTTP/1.1\r\n"));
    assert!(asked.text.ends_with("\r\n\r\nhello"));
    for (line, there) in [
        (format!("host: {}\r\n", rig.upstream), true),
        ("authorization: Bearer t\r\n".to_owned(), true),
        ("x-odd: 1\r\nx-odd: 2\r\n".to_owned(), true),
        ("content-length: 5\r\n".to_owned(), true),
        ("x-forwarded-for: 127.0.0.1\r\n".to_owned(), true),
        ("x-forwarded-host: ours\r\n".to_owned(), true),
        ("x-hop".to_owned(), false),
        ("connection".to_owned(), false),
        ("evil".to_owned(), false),
    ] {
        assert_eq!(asked.text.contains(&line), there, "{line} in {}", asked.text);
    }
    assert_eq!(status_of(&text), 418);
    assert!(text.ends_with("\r\n\r\nbody"));
    for (line, there) in [
        ("etag: W/\"7\"\r\n", true),
        ("x-odd: a\r\nx-odd: b\r\n", true),
        ("location: http://theirs/fhir/Patient/1\r\n", true),
        ("content-length: 4\r\n", true),
        ("x-hop", false),
        ("keep-alive", false),
    ] {
        assert_eq!(text.contains(line), there, "{line} in {text}");
    }
}

#[tokio::test]
async fn what_passes_is_noted_as_live_traffic_until_it_is_answered() {
    let request = "GET /fhir/Patient/1 HTTP/1.1\r\nHost: ours\r\nConnection: close\r\n\r\n";
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 204 No Content\r\n\r\n")).await;
    rig.talk(request).await;
    let noted = rig.live.read(&mut Vec::new());
    assert_eq!((noted.requests, noted.idle_answers, noted.latest.is_some()), (0, 1, true));
    let gone = Rig::without_upstream().await;
    gone.talk(request).await;
    let noted = gone.live.read(&mut Vec::new());
    assert_eq!((noted.requests, noted.idle_answers), (0, 0), "a failure is no answer");
}

#[tokio::test]
async fn any_method_passes_but_connect() {
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 204 No Content\r\n\r\n")).await;
    for (method, expected) in [
        ("GET", 204),
        ("HEAD", 204),
        ("POST", 204),
        ("PUT", 204),
        ("DELETE", 204),
        ("OPTIONS", 204),
        ("TRACE", 204),
        ("PURGE", 204),
    ] {
        let request = format!("{method} /fhir/x HTTP/1.1\r\nHost: ours\r\nConnection: close\r\n\r\n");
        assert_eq!(status_of(&rig.talk(&request).await), expected, "{method}");
    }
    assert_eq!(rig.seen().len(), 8);
    let connect = "CONNECT ours:80 HTTP/1.1\r\nHost: ours\r\nConnection: close\r\n\r\n";
    assert_eq!(status_of(&rig.talk(connect).await), 501);
    let outside = "GET /other HTTP/1.1\r\nHost: ours\r\nConnection: close\r\n\r\n";
    assert_eq!(status_of(&rig.talk(outside).await), 400);
    assert_eq!(rig.seen().len(), 8);
}

#[tokio::test]
async fn without_an_upstream_the_answer_is_a_502_that_says_so() {
    let gone = Rig::without_upstream().await;
    let hangs_up = Rig::start(|_| Reply::close("")).await;
    let talks_nonsense = Rig::start(|_| Reply::close("SMTP ready\r\n\r\n")).await;
    let switches =
        Rig::start(|_| Reply::keep("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"))
            .await;
    for rig in [gone, hangs_up, talks_nonsense, switches] {
        let text = rig.get("/fhir/Patient").await;
        assert_eq!(status_of(&text), 502);
        assert!(text.contains("\r\ncontent-type: application/fhir+json\r\n"), "{text}");
        assert!(text.contains(r#""resourceType":"OperationOutcome""#), "{text}");
        assert!(text.contains(r#""code":"transient""#), "{text}");
    }
}

/// SEC-01: a test sees no credential of ours on an anonymous pass-through request.
#[tokio::test]
async fn an_anonymous_request_stays_anonymous() {
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 204 No Content\r\n\r\n")).await;
    assert_eq!(status_of(&rig.get("/fhir/Patient/1").await), 204);
    let asked = rig.seen().pop().expect("one request goes upstream");
    let lines = asked.text.lines().skip(1).filter(|line| !line.is_empty());
    let mut names: Vec<&str> = lines.filter_map(|line| line.split(':').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]);
}

#[tokio::test]
async fn an_upstream_that_hangs_up_after_each_answer_is_called_again() {
    let rig = Rig::start(|_| Reply::close("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    for _ in 0..100 {
        assert_eq!(status_of(&rig.get("/fhir/Patient").await), 200);
    }
    assert_eq!(rig.seen().len(), 100);
}

/// SEC-05: a connection on which the upstream asked for NTLM or Negotiate is never shared.
#[tokio::test]
async fn a_connection_that_is_being_authenticated_is_not_used_again() {
    const ROUNDS: usize = 20;
    for (authorization, challenge, shared) in [
        ("", "", true),
        ("", "WWW-Authenticate: Bearer realm=\"x\"\r\n", true),
        ("Authorization: Bearer x\r\n", "", true),
        ("", "WWW-Authenticate: NTLM\r\n", false),
        ("", "WWW-Authenticate: Bearer\r\nWWW-Authenticate: negotiate abc\r\n", false),
        ("", "WWW-Authenticate: Basic realm=\"x\", Negotiate\r\n", false),
        ("Authorization: NTLM TlRMTVNTUAAB\r\n", "", false),
        ("Authorization: negotiate YII\r\n", "", false),
    ] {
        let rig =
            Rig::start(move |_| Reply::keep(format!("HTTP/1.1 401 No\r\n{challenge}Content-Length: 0\r\n\r\n"))).await;
        for _ in 0..ROUNDS {
            let request = format!("GET /fhir/x HTTP/1.1\r\nHost: ours\r\n{authorization}Connection: close\r\n\r\n");
            assert_eq!(status_of(&rig.talk(&request).await), 401);
        }
        let mut connections: Vec<usize> = rig.seen().iter().map(|asked| asked.connection).collect();
        assert_eq!(connections.len(), ROUNDS);
        connections.dedup();
        let case = format!("{authorization}{challenge}");
        assert_eq!(connections.len() < ROUNDS, shared, "{case}: {connections:?}");
    }
}

/// SEC-04: only `Upgrade: websocket` tunnels.
#[tokio::test]
async fn only_a_websocket_is_tunnelled() {
    let rig = Rig::start(|asked| {
        if asked.text.contains("upgrade: websocket\r\n") {
            Reply::echo(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: x\r\n\r\n",
            )
        } else {
            Reply::keep("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        }
    })
    .await;
    let mut socket = rig.connect().await;
    socket
        .say(
            "GET /fhir/ws HTTP/1.1\r\nHost: ours\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n",
        )
        .await;
    let head = socket.hear_until("\r\n\r\n").await;
    assert_eq!(status_of(&head), 101);
    assert!(head.contains("\r\nsec-websocket-accept: x\r\n"), "{head}");
    // A tunnel's bytes are not looked at: a line may end as it likes.
    for words in ["ping\n", "\npong\n\n"] {
        socket.say(words).await;
        assert_eq!(socket.hear_until(words).await, words);
    }
    assert!(rig.seen()[0].text.contains("\r\nsec-websocket-key: k\r\n"));

    for upgrade in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: close\r\nUpgrade: websocket\r\n",
    ] {
        let request = format!("GET /fhir/x HTTP/1.1\r\nHost: ours\r\n{upgrade}Connection: close\r\n\r\n");
        let text = rig.talk(&request).await;
        assert_eq!(status_of(&text), 200, "{upgrade}");
        let asked = rig.seen().pop().expect("the request went on without its upgrade");
        assert!(!asked.text.contains("upgrade"), "{}", asked.text);
        assert!(!asked.text.contains("http2-settings"), "{}", asked.text);
    }
}

#[tokio::test]
async fn a_refused_websocket_is_answered_as_the_upstream_answers() {
    let rig = Rig::start(|_| Reply::keep("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")).await;
    let text = rig
        .talk(
            "GET /fhir/ws HTTP/1.1\r\nHost: ours\r\nConnection: upgrade, close\r\n\
             Upgrade: websocket\r\n\r\n",
        )
        .await;
    assert_eq!(status_of(&text), 403);
    assert!(text.ends_with("\r\n\r\nno"));
}
