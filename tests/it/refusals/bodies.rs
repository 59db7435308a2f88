//! Bodies of POST (spec 2.2, interop 2).

use super::{Bench, METADATA};
use crate::raw::{self, Answer, KICKOFF};

const JSON: (&str, &str) = ("Content-Type", "application/fhir+json");

fn of(parameters: &str) -> String {
    format!(r#"{{"resourceType":"Parameters","parameter":[{parameters}]}}"#)
}

/// Sends each body to two levels.
async fn assert_refused(bench: &Bench, rows: &[(impl AsRef<str>, &str, Option<&str>)]) {
    for (body, code, place) in rows {
        let body = body.as_ref();
        let what: String = body.chars().take(120).collect();
        for level in ["", "/Patient"] {
            let answer = bench.post(&format!("{level}/$export"), body.as_bytes()).await;
            answer.assert_refused(&what, 400, code, *place);
        }
    }
}

#[tokio::test]
async fn a_body_that_is_no_parameters_resource_is_refused() {
    let bench = Bench::new().await;
    let rows = [
        ("{", "structure", None),
        ("x", "structure", None),
        (" ", "structure", None),
        ("{}{}", "structure", None),
        ("{'resourceType':'Parameters'}", "structure", None),
        (r#"{"resourceType":"Parameters",}"#, "structure", None),
        ("\u{feff}{\"resourceType\":\"Parameters\"}", "structure", None),
        ("_type=Patient", "structure", None),
        ("null", "structure", None),
        ("5", "structure", None),
        ("{}", "structure", None),
        ("[]", "structure", None),
        (r#"["Parameters"]"#, "structure", None),
        (r#"["Parameters",[]]"#, "structure", None),
        (r#""Parameters""#, "structure", None),
        (r#"{"resourceType":"Patient"}"#, "structure", None),
        (r#"{"resourceType":"parameters"}"#, "structure", None),
        (r#"{"resourceType":5}"#, "structure", None),
        (r#"{"resourceType":"Bundle","resourceType":"Parameters"}"#, "structure", None),
        (r#"{"resourceType":"Parameters","parameter":{}}"#, "structure", Some("Parameters.parameter")),
        (r#"{"resourceType":"Parameters","parameter":"_type"}"#, "structure", Some("Parameters.parameter")),
    ];
    assert_refused(&bench, &rows).await;
    for body in [
        &b"\xff"[..],
        b"{\"resourceType\":\"Para\xc3\"}",
        b"\xfe\xff\0{\0}",
        b"{}\0",
        b"{\"resourceType\":\"Parameters\",\"x\":\"\xed\xa0\x80\"}",
    ] {
        let answer = bench.post("/$export", body).await;
        answer.assert_refused(&format!("{body:?}"), 400, "structure", None);
    }
    let answer = bench.post("/$export", b"{\n  \"resourceType\": \"\xff\"}").await;
    assert!(String::from_utf8_lossy(&answer.body).contains("line 2, column 20"), "{answer:?}");
    bench.end(&[METADATA]).await;
}

#[tokio::test]
async fn a_parameter_that_says_nothing_we_understand_is_refused_by_its_place() {
    let bench = Bench::new().await;
    let first = Some("Parameters.parameter[0]");
    let rows = [
        (&of("1"), "structure", first),
        (&of("null"), "structure", first),
        (&of(r#"["_type","Patient"]"#), "structure", first),
        (&of("{}"), "structure", first),
        (&of(r#"{"name":5,"valueString":"x"}"#), "structure", first),
        (&of(r#"{"name":"\ud800","valueString":"x"}"#), "structure", first),
        (&of(r#"{"name":"_type","name":"_type","valueString":"Patient"}"#), "structure", first),
        (&of(r#"{"name":"_type","valueString":"Patient","part":[]}"#), "structure", first),
        (&of(r#"{"name":"_type","valueString":"Patient","modifierExtension":[{"url":"u"}]}"#), "structure", first),
        (&of(r#"{"name":"_type"}"#), "invalid", first),
        (&of(r#"{"name":"_type","valueString":5}"#), "invalid", first),
        (&of(r#"{"name":"_type","valueString":null}"#), "invalid", first),
        (&of(r#"{"name":"_type","valueCode":"Patient"}"#), "invalid", first),
        (&of(r#"{"name":"_type","valueInstant":"2026-01-01T00:00:00Z"}"#), "invalid", first),
        (&of(r#"{"name":"_since","valueString":"2026-01-01T00:00:00Z"}"#), "invalid", first),
        (&of(r#"{"name":"_since","valueDateTime":"2026-01-01T00:00:00Z"}"#), "invalid", first),
        (&of(r#"{"name":"_since","valueInstant":1767225600}"#), "invalid", first),
        (&of(r#"{"name":"_since","valueInstant":"2026-01-01"}"#), "value", first),
        (&of(r#"{"name":"_since","valueInstant":"2026-01-01T00:00:00 02:00"}"#), "value", first),
        (&of(r#"{"name":"_since","valueInstant":"2999-01-01T00:00:00Z"}"#), "value", first),
        (&of(r#"{"name":"_type","valueString":"Dragon"}"#), "value", first),
        (&of(r#"{"name":"_type","valueString":"PaymentNotice"}"#), "not-supported", first),
        (&of(r#"{"name":"_outputFormat","valueString":"csv"}"#), "not-supported", first),
        (&of(r#"{"name":"_typeFilter","valueString":"Patient?_count=1"}"#), "not-supported", first),
        (&of(r#"{"name":"_elements","valueString":"stauts"}"#), "value", first),
        (&of(r#"{"name":"includeAssociatedData","valueCode":"x"}"#), "not-supported", first),
        (&of(r#"{"name":"organizeOutputBy","valueString":"Encounter"}"#), "not-supported", first),
        (&of(r#"{"name":"allowPartialManifests","valueString":"true"}"#), "invalid", first),
        (&of(r#"{"name":"_maximumFileSize","valuePositiveInt":1}"#), "too-costly", first),
        (&of(r#"{"name":"foo","resource":{"resourceType":"Patient"}}"#), "not-supported", first),
        (
            &of(r#"{"name":"_type","valueString":"Patient"},{"name":"_type","valueString":"Dragon"}"#),
            "value",
            Some("Parameters.parameter[1]"),
        ),
        (
            &of(
                r#"{"name":"_since","valueInstant":"2025-01-01T00:00:00Z"},{"name":"_until","valueInstant":"2024-01-01T00:00:00Z"}"#,
            ),
            "invalid",
            Some("Parameters.parameter[1]"),
        ),
        (
            &of(
                r#"{"name":"_since","valueInstant":"2025-01-01T00:00:00Z"},{"name":"_since","valueInstant":"2025-01-01T00:00:00Z"}"#,
            ),
            "invalid",
            Some("Parameters.parameter[1]"),
        ),
    ];
    assert_refused(&bench, &rows).await;
    bench.end(&[METADATA]).await;
}

/// Neither depth nor number costs more than the body itself.
#[tokio::test]
async fn a_body_that_is_deep_or_long_is_refused() {
    let bench = Bench::new().await;
    let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(200_000), "]".repeat(200_000));
    let first = Some("Parameters.parameter[0]");
    let rows = [
        (&"[".repeat(500_000), "structure", None),
        (&r#"{"a":"#.repeat(200_000), "structure", None),
        (&deep(""), "structure", None),
        (&of(&deep("")), "structure", first),
        (&of(&format!(r#"{{"name":"_type","valueString":{}}}"#, deep(""))), "invalid", first),
        (&of(&format!("{}0", "{},".repeat(300_000))), "too-costly", None),
    ];
    assert_refused(&bench, &rows).await;
    bench.end(&[]).await;
}

/// Spec 2.7: 415. Interop 2: only a body has a type.
#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let bench = Bench::new().await;
    let body = br#"{"resourceType":"Parameters"}"#;
    for headers in [
        &[][..],
        &[("Content-Type", "")],
        &[("Content-Type", "text/plain")],
        &[("Content-Type", "application/fhir+xml")],
        &[("Content-Type", "application/fhir+ndjson")],
        &[("Content-Type", "application/x-www-form-urlencoded")],
        &[("Content-Type", "multipart/form-data; boundary=x")],
        &[("Content-Type", "application/jsonx")],
        &[JSON, ("Content-Encoding", "gzip")],
        &[JSON, ("Content-Encoding", "identity, br")],
    ] {
        let headers: Vec<_> = KICKOFF.iter().chain(headers).copied().collect();
        let answer = bench.send("POST", "/$export", &headers, body).await;
        answer.assert_refused(&format!("{headers:?}"), 415, "not-supported", None);
    }
    bench.end(&[]).await;
}

/// A body is read to 1 MiB at most, and its length is believed before that.
#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let bench = Bench::new().await;
    let answer = bench.post("/$export", &vec![b' '; 1024 * 1024 + 1]).await;
    answer.assert_refused("one byte too many", 413, "too-long", None);
    let answer = bench.post("/$export", &vec![b' '; 1024 * 1024]).await;
    answer.assert_refused("1 MiB of nothing", 400, "structure", None);
    for length in ["1048577", "9999999999999"] {
        let headers = [KICKOFF[0], KICKOFF[1], JSON, ("Content-Length", length), ("Expect", "100-continue")];
        let answer = bench.send("POST", "/$export", &headers, b"").await;
        answer.assert_refused(length, 413, "too-long", None);
    }
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    let chunks = format!("{}0\r\n\r\n", chunk.repeat(17));
    let headers = [KICKOFF[0], KICKOFF[1], JSON, ("Transfer-Encoding", "chunked")];
    let answer = bench.send("POST", "/$export", &headers, chunks.as_bytes()).await;
    answer.assert_refused("chunks", 413, "too-long", None);
    bench.end(&[]).await;
}

/// A filter that stands where nobody looks would be passed over: then more leaves than was asked for.
#[tokio::test]
async fn parameters_stand_in_one_place_only() {
    let bench = Bench::new().await;
    let body = br#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient"}]}"#;
    let answer = bench.post("/$export?_type=Patient", body).await;
    answer.assert_refused("in both", 400, "invalid", Some("http._type"));
    let headers = [KICKOFF[0], KICKOFF[1], JSON];
    let answer = bench.send("GET", "/$export", &headers, body).await;
    answer.assert_refused("a GET with a body", 400, "invalid", None);
    bench.end(&[]).await;
}

/// Interop 2, spec 2.2
#[tokio::test]
async fn an_empty_body_and_a_query_are_a_kickoff_and_so_is_a_plain_body() {
    let bench = Bench::new().await;
    let with_type = |media| [KICKOFF[0], KICKOFF[1], ("Content-Type", media)];
    let patients = br#"{"resourceType":"Parameters","id":"p","meta":{"tag":[]},"parameter":[
        {"name":"_type","valueString":"Patient"},{"name":"_type","id":"x","valueString":"Observation,Condition"},
        {"name":"_since","valueInstant":"2020-01-01T00:00:00+02:00"},{"name":"_outputFormat","valueString":"ndjson"}]}"#;
    let mut accepted: Vec<Answer> = Vec::new();
    for (target, headers, body) in [
        ("/$export?_type=Patient", &KICKOFF[..], &b""[..]),
        ("/$export", &KICKOFF, b""),
        ("/$export?_type=Patient", &with_type("text/plain"), b""),
        ("/$export?_type=Patient", &[KICKOFF[0], KICKOFF[1], ("Content-Length", "0")], b""),
        ("/$export?_type=Patient", &with_type("application/fhir+json"), br#"{"resourceType":"Parameters"}"#),
        (
            "/$export?_type=Patient",
            &with_type("application/json"),
            b" {\"resourceType\":\"Parameters\",\"parameter\":[]}\r\n",
        ),
        ("/$export", &with_type("Application/FHIR+JSON; charset=UTF-8"), patients),
        ("/Patient/$export", &with_type("application/fhir+json"), patients),
        ("/Group/all/$export", &with_type("application/fhir+json"), patients),
    ] {
        let answer = bench.send("POST", target, headers, body).await;
        assert_eq!(answer.status, 202, "{target} {}", String::from_utf8_lossy(&answer.body));
        accepted.push(answer);
    }
    let chunked = [KICKOFF[0], KICKOFF[1], JSON, ("Transfer-Encoding", "chunked")];
    let body = format!("{:x}\r\n{}\r\n0\r\n\r\n", patients.len(), String::from_utf8_lossy(patients));
    accepted.push(bench.send("POST", "/$export", &chunked, body.as_bytes()).await);
    accepted.push(bench.send("POST", "/$export?_type=Patient", &chunked, b"0\r\n\r\n").await);
    for answer in accepted {
        let status = answer.header("content-location");
        let manifest = crate::client::Client::new().wait(status, |_| {}).await.expect("an export");
        let request = manifest.whole["request"].as_str().expect("BD-070");
        assert!(request.starts_with(&bench.app.base) && request.contains("$export"), "{request}");
    }
    // What comes after the body of one request is the next request, and nothing else.
    let twice = [
        raw::request("POST", "/fhir/$export?_type=Dragon", &bench.app.host(), &KICKOFF, b""),
        raw::request("GET", "/fhir/$export", &bench.app.host(), &KICKOFF, b""),
    ];
    let first = String::from_utf8_lossy(&twice[0]).replace("Connection: close\r\n", "");
    let bytes = raw::talk(&bench.app.host(), &[first.as_bytes(), &twice[1]].concat()).await;
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("HTTP/1.1 202 "), "{text}");
    bench.app.stop().await;
}
