//! The capability statement's way through, with an upstream that answers as it is told to.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::ready;
use tower::service_fn;
use url::Url;

use super::*;
use crate::http::problem::Problem;

const STATEMENT: &str = r#"{"resourceType":"CapabilityStatement","rest":[{"mode":"server","resource":[{"type":"Patient","interaction":[{"code":"search-type"}],"operation":[{"name":"export","definition":"of the upstream"}]}]}]}"#;

type Answer = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

/// What comes of a request, its body collected, and the headers that the upstream was asked with.
struct Outcome {
    head: response::Parts,
    text: Result<Bytes, String>,
    asked: HeaderMap,
}

impl Outcome {
    fn is_edited(&self) -> bool {
        self.text.as_ref().is_ok_and(|text| String::from_utf8_lossy(text).contains("/OperationDefinition/export"))
    }
}

async fn outcome(request: Request<Body>, answer: Answer) -> Outcome {
    outcome_while(true, request, answer).await
}

/// Bulk requests are answered, or refused.
async fn outcome_while(is_open: bool, request: Request<Body>, answer: Answer) -> Outcome {
    let asked = Arc::new(Mutex::new(HeaderMap::new()));
    let seen = Arc::clone(&asked);
    let upstream = service_fn(move |request: Request<Body>| {
        *seen.lock().expect("no test panics while it holds this") = request.headers().clone();
        ready(Ok(answer()))
    });
    let url = |text: &str| Url::parse(text).expect("the URL is well formed");
    let bases = Bases::new(&url("http://ours/fhir"), &url("http://theirs/base"));
    let service = Metadata::new(upstream, &bases.expect("both are http"), Terms::default(), Arc::new(move || is_open));
    let passed = service.oneshot(request).await;
    let response = passed.unwrap_or_else(|error| Problem::from(error).into_response());
    let (head, body) = response.into_parts();
    let text = body.collect().await.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string());
    let asked = asked.lock().expect("no test panics while it holds this").clone();
    Outcome { head, text, asked }
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(body::empty()).expect("the request is well formed")
}

fn answer(status: u16, headers: &[(&str, &str)], text: &str) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body::full(text.to_owned())).expect("the answer is well formed")
}

#[tokio::test]
async fn a_statement_comes_with_our_operations_and_true_headers() {
    let length = STATEMENT.len().to_string();
    let answer: Answer = Arc::new(move || {
        let headers = [
            ("content-type", "application/fhir+json;charset=UTF-8"),
            ("content-length", length.as_str()),
            ("etag", "W/\"1\""),
            ("last-modified", "Sat, 01 Jan 2000 00:00:00 GMT"),
            ("content-digest", "sha-256=:x:"),
            ("cache-control", "max-age=5"),
        ];
        answer(200, &headers, STATEMENT)
    });
    let mut request = get("/fhir/metadata?_format=json");
    for (name, value) in [
        ("accept-encoding", "gzip, br"),
        ("if-none-match", "W/\"1\""),
        ("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT"),
        ("range", "bytes=0-1"),
        ("accept", "application/fhir+json"),
    ] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let outcome = outcome(request, answer).await;
    assert!(outcome.is_edited());
    let headers = &outcome.head.headers;
    let length = outcome.text.expect("the body comes whole").len();
    assert_eq!(headers["content-length"], length.to_string());
    assert_eq!(headers["cache-control"], "max-age=5");
    for name in ["last-modified", "content-digest"] {
        assert!(!headers.contains_key(name), "{name} is about other bytes");
    }
    assert!(headers["etag"] != "W/\"1\"", "so is that");
    let mut asked: Vec<_> = outcome.asked.keys().map(HeaderName::as_str).collect();
    asked.sort_unstable();
    assert_eq!(asked, ["accept", "accept-encoding"]);
    assert_eq!(outcome.asked["accept-encoding"], "identity");
}

fn statement() -> Answer {
    Arc::new(|| answer(200, &[("content-type", "application/json"), ("etag", "\"1\"")], STATEMENT))
}

#[tokio::test]
async fn whoever_has_the_statement_is_told_so() {
    let first = outcome(get("/fhir/metadata"), statement()).await;
    let etag = first.head.headers["etag"].clone();
    let mut again = get("/fhir/metadata");
    again.headers_mut().insert("if-none-match", etag.clone());
    let again = outcome(again, statement()).await;
    assert_eq!((again.head.status, &again.head.headers["etag"]), (StatusCode::NOT_MODIFIED, &etag));
    assert!(again.text.expect("nothing").is_empty() && !again.head.headers.contains_key("content-type"));
    let mut theirs = get("/fhir/metadata");
    theirs.headers_mut().insert("if-none-match", HeaderValue::from_static("\"1\""));
    assert!(outcome(theirs, statement()).await.is_edited(), "it is another document");
}

/// BD-103: while bulk requests are refused nothing is claimed, not by the upstream either.
#[tokio::test]
async fn a_statement_says_nothing_of_exports_that_are_refused() {
    let closed = outcome_while(false, get("/fhir/metadata"), statement()).await;
    let text = closed.text.expect("the body comes whole");
    let expected = STATEMENT.replace(r#","operation":[{"name":"export","definition":"of the upstream"}]"#, "");
    assert_eq!(String::from_utf8_lossy(&text), expected);
    let open = outcome(get("/fhir/metadata"), statement()).await;
    assert_ne!(open.head.headers["etag"], closed.head.headers["etag"]);
}

#[tokio::test]
async fn only_a_plain_json_answer_to_a_get_of_the_statement_is_edited() {
    let json = ("content-type", "application/fhir+json");
    for (method, path, status, headers, edited) in [
        ("GET", "/fhir/metadata", 200, &[json][..], true),
        ("GET", "/fhir/metadata", 200, &[("content-type", "Application/JSON; charset=utf-8")], true),
        ("GET", "/fhir/metadata", 200, &[json, ("content-encoding", "identity")], true),
        ("HEAD", "/fhir/metadata", 200, &[json], false),
        ("POST", "/fhir/metadata", 200, &[json], false),
        ("GET", "/fhir/Metadata", 200, &[json], false),
        ("GET", "/fhir/metadata/", 200, &[json], false),
        ("GET", "/metadata", 200, &[json], false),
        ("GET", "/fhir/Patient/metadata", 200, &[json], false),
        ("GET", "/fhir/metadata", 203, &[json], false),
        ("GET", "/fhir/metadata", 404, &[json], false),
        ("GET", "/fhir/metadata", 200, &[], false),
        ("GET", "/fhir/metadata", 200, &[("content-type", "application/fhir+xml")], false),
        ("GET", "/fhir/metadata", 200, &[("content-type", "text/html")], false),
        ("GET", "/fhir/metadata", 200, &[json, ("content-encoding", "gzip")], false),
        ("GET", "/fhir/metadata", 200, &[json, ("content-length", "16777217")], false),
    ] {
        let owned = headers.to_vec();
        let answer: Answer = Arc::new(move || answer(status, &owned, STATEMENT));
        let mut request = get(path);
        *request.method_mut() = method.parse().expect("a method");
        let outcome = outcome(request, answer).await;
        let case = format!("{method} {path} {status} {headers:?}");
        assert_eq!(outcome.is_edited(), edited, "{case}");
        if !edited {
            assert_eq!(outcome.text.as_deref(), Ok(STATEMENT.as_bytes()), "{case}");
            assert_eq!(outcome.head.headers.len(), headers.len(), "{case}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_edited_passes_as_it_is() {
    let page = format!("[{}]", "0,".repeat(LIMIT_BYTES));
    for text in ["", "not JSON", r#"{"resourceType":"OperationOutcome"}"#, page.as_str()] {
        let own = text.to_owned();
        let headers = [("content-type", "application/json"), ("etag", "\"1\"")];
        let answer: Answer = Arc::new(move || {
            // In frames, and without a length: how much there is shows only while it comes.
            let own = Bytes::from(own.clone());
            let frames = (0..own.len()).step_by(1 << 20).map(move |start| {
                let end = own.len().min(start + (1 << 20));
                Ok::<_, BoxError>(Frame::data(own.slice(start..end)))
            });
            let frames: Vec<_> = frames.collect();
            answer(200, &headers, "").map(|_| body::map(StreamBody::new(stream::iter(frames))))
        });
        let outcome = outcome(get("/fhir/metadata"), answer).await;
        assert_eq!(outcome.head.headers["etag"], "\"1\"");
        let passed = outcome.text.expect("the body comes whole");
        assert!(passed == text.as_bytes(), "{} bytes became {}", text.len(), passed.len());
    }
}

#[tokio::test]
async fn a_statement_that_breaks_off_is_a_502_and_not_half_a_statement() {
    let answer: Answer = Arc::new(|| {
        let frames = [Ok(Frame::data(Bytes::from("{"))), Err(BoxError::from("cut"))];
        answer(200, &[("content-type", "application/json")], "")
            .map(|_| body::map(StreamBody::new(stream::iter(frames))))
    });
    let outcome = outcome(get("/fhir/metadata"), answer).await;
    assert_eq!(outcome.head.status, StatusCode::BAD_GATEWAY);
    assert!(String::from_utf8_lossy(&outcome.text.expect("it is in memory")).contains("transient"));
}
