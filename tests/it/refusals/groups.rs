//! Groups that are not there or cannot be exported (spec 2.7 and 6.4).

use std::sync::Arc;

use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use sample_upstream::{SampleUpstream, Settings};

use super::{Bench, METADATA};
use crate::raw::{self, KICKOFF};
use crate::support::{Front, listener};

#[tokio::test]
async fn a_group_that_cannot_be_exported_is_refused_at_once() {
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(2);
    let traits = r#""characteristic":[{"code":{"text":"x"},"valueBoolean":true,"exclude":false}]"#;
    for (id, more) in [
        ("off", r#""active":false,"actual":true"#.to_owned()),
        ("traits", format!(r#""active":true,"actual":false,{traits}"#)),
        ("nobody-listed", r#""active":true,"actual":false"#.to_owned()),
        ("changed", r#""actual":true,"modifierExtension":[{"url":"http://x.example","valueBoolean":true}]"#.to_owned()),
        ("gone", r#""actual":true"#.to_owned()),
    ] {
        let text = format!(r#"{{"resourceType":"Group","id":"{id}","type":"person",{more}}}"#);
        upstream.insert_raw(&text).expect("a Group");
    }
    upstream.delete("Group", "gone").expect("it is there");
    let bench = Bench::before(upstream).await;
    let mut allowed = vec![METADATA.to_owned()];
    for (id, status, code) in [
        ("none", 404, "not-found"),
        ("gone", 404, "not-found"),
        ("x.y-Z9", 404, "not-found"),
        (&"g".repeat(64) as &str, 404, "not-found"),
        ("off", 422, "business-rule"),
        ("traits", 400, "not-supported"),
        ("nobody-listed", 400, "not-supported"),
        ("changed", 400, "not-supported"),
    ] {
        allowed.push(format!("/fhir/Group/{id}"));
        for query in ["", "?_type=Patient", "?_since=2020-01-01T00:00:00Z"] {
            let path = format!("/Group/{id}/$export{query}");
            bench.get(&path).await.assert_refused(&path, status, code, None);
            bench.post(&path, b"").await.assert_refused(&path, status, code, None);
        }
    }
    // No FHIR id, so no export of ours.
    for id in [&"g".repeat(65) as &str, "a,b", "a_b", "a%20b", "%C3%A9", "$all", "*"] {
        let path = format!("/Group/{id}/$export");
        bench.get(&path).await.assert_refused(&path, 403, "forbidden", None);
    }
    let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
    bench.end(&allowed).await;
}

/// Members are counted as they come: too many are refused, whatever else there is in the list.
#[tokio::test]
async fn a_group_with_more_members_than_may_be_is_refused() {
    let member = |kind: &str, number: usize| format!(r#"{{"entity":{{"reference":"{kind}/m{number}"}}}}"#);
    let list = |kind: &str, most: usize| (0..most).map(|number| member(kind, number)).collect::<Vec<_>>().join(",");
    let upstream = SampleUpstream::new(Settings::default());
    upstream.generate(1);
    for (id, members) in [
        ("five", list("Patient", 5)),
        ("twice-the-same", format!("{0},{0}", list("Patient", 5))),
        ("and-others", format!("{},{},{}", list("Specimen", 50), list("Patient", 5), "{},".repeat(50) + "{}")),
        ("six", list("Patient", 6)),
        ("two-of-three", format!("{},{}", list("Device", 3), list("Patient", 3))),
        ("endless", format!("{},{}", list("Patient", 7), "{},".repeat(500_000) + "{}")),
        ("groups", list("Group", 101)),
    ] {
        let text =
            format!(r#"{{"resourceType":"Group","id":"{id}","type":"person","actual":true,"member":[{members}]}}"#);
        upstream.insert_raw(&text).expect("a Group");
    }
    let app = crate::support::App::before(upstream, |config| config.export.group_max_members = 5).await;
    for id in ["five", "twice-the-same", "and-others"] {
        let answer = app.ask("GET", &format!("/Group/{id}/$export?_type=Patient"), &KICKOFF, b"").await;
        assert_eq!(answer.status, 202, "{id}: {}", String::from_utf8_lossy(&answer.body));
    }
    for id in ["six", "two-of-three", "endless", "groups"] {
        let answer = app.ask("GET", &format!("/Group/{id}/$export"), &KICKOFF, b"").await;
        answer.assert_refused(id, 400, "too-costly", None);
    }
    app.stop().await;
}

/// Answers for the capability statement and for one Group.
async fn server_with_group(status: StatusCode, group: &'static str) -> std::net::SocketAddr {
    let metadata = r#"{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1","rest":[{"mode":"server",
        "resource":[{"type":"Patient","interaction":[{"code":"search-type"}]}]}]}"#;
    let listener = listener().await;
    let address = listener.local_addr().expect("it listens");
    let answer = move |request: http::Request<hyper::body::Incoming>| async move {
        let (status, text) = match request.uri().path() {
            "/fhir/metadata" => (StatusCode::OK, metadata),
            "/fhir/Group/g" => (status, group),
            other => panic!("a refused kick-off led to {other}"),
        };
        Response::builder().status(status).body(Full::new(bytes::Bytes::from(text)))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(answer);
            tokio::spawn(async move {
                let served = auto::Builder::new(TokioExecutor::new());
                // How a connection ends is its client's affair.
                let _ended = served.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// Spec 2.7: an unknown Group and one that may not be seen get the same answer.
#[tokio::test]
async fn a_group_that_may_not_be_read_is_unknown_and_a_broken_one_is_the_upstreams_fault() {
    let mut unknown = None;
    for (answered, group, status, code) in [
        (404, "{}", 404, "not-found"),
        (
            403,
            r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"forbidden"}]}"#,
            404,
            "not-found",
        ),
        (401, "", 404, "not-found"),
        (410, "", 404, "not-found"),
        (302, "", 404, "not-found"),
        (200, "<html>", 502, "invalid"),
        (200, "", 502, "invalid"),
        (200, r#"{"resourceType":"Group","member":5}"#, 502, "invalid"),
        (200, r#"{"resourceType":"Patient","id":"g"}"#, 502, "invalid"),
        (200, r#"{"resourceType":"OperationOutcome","issue":[]}"#, 502, "invalid"),
    ] {
        let answered = StatusCode::from_u16(answered).expect("a status");
        let address = server_with_group(answered, group).await;
        let front = Front::before(&format!("http://{address}/fhir"), |_| {}, Arc::new(offtake::SystemClock)).await;
        let request = raw::request("GET", "/fhir/Group/g/$export", &front.host(), &KICKOFF, b"");
        let answer = raw::ask(&front.host(), &request).await;
        answer.assert_refused(&format!("{answered} {group}"), status, code, None);
        if status == 404 {
            assert_eq!(&answer.body, unknown.get_or_insert(answer.body.clone()), "they cannot be told apart");
        }
        front.stop().await;
    }
}
