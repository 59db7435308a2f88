//! `Accept`, `Prefer` and methods (spec 2.3, interop 1 and 2).

use super::{Bench, METADATA};
use crate::raw::KICKOFF;

const ACCEPT: (&str, &str) = KICKOFF[0];
const PREFER: (&str, &str) = KICKOFF[1];

#[tokio::test]
async fn missing_and_unacceptable_headers_are_told_by_name() {
    let bench = Bench::new().await;
    for (headers, status, code, named) in [
        (&[PREFER][..], 400, "required", "Accept"),
        (&[ACCEPT], 400, "required", "Prefer: respond-async"),
        (&[], 400, "required", "Accept"),
        (&[("Accept", ""), PREFER], 406, "not-supported", "Accept"),
        (&[("Accept", "text/html"), PREFER], 406, "not-supported", "Accept"),
        (&[("Accept", "application/fhir+xml"), PREFER], 406, "not-supported", "Accept"),
        (&[("Accept", "application/fhir+ndjson"), PREFER], 406, "not-supported", "Accept"),
        (&[("Accept", "text/*, image/png"), PREFER], 406, "not-supported", "Accept"),
        (&[("Accept", "*/*;q=0"), PREFER], 406, "not-supported", "Accept"),
        (&[("Accept", "application/fhir+json; q=0.0"), PREFER], 406, "not-supported", "Accept"),
        (&[ACCEPT, ("Prefer", "")], 400, "required", "Prefer"),
        (&[ACCEPT, ("Prefer", "return=minimal")], 400, "required", "Prefer"),
        (&[ACCEPT, ("Prefer", "respond-sync")], 400, "required", "Prefer"),
        (&[ACCEPT, ("Prefer", "respond-asynchronously")], 400, "required", "Prefer"),
        (&[ACCEPT, ("Prefer", "respond-async=false")], 400, "required", "Prefer"),
        (&[ACCEPT, ("Prefer", "respond async")], 400, "required", "Prefer"),
        (&[ACCEPT, ("Prefer", "note=\"x, respond-async\"")], 400, "required", "Prefer"),
        (&[ACCEPT, ("X-Prefer", "respond-async")], 400, "required", "Prefer"),
    ] {
        for (method, level) in [("GET", ""), ("POST", "/Patient"), ("GET", "/Group/all")] {
            let answer = bench.send(method, &format!("{level}/$export"), headers, b"").await;
            answer.assert_refused(&format!("{method} {level} {headers:?}"), status, code, None);
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains(named), "which header to add or mend: {text}");
        }
    }
    bench.end(&[]).await;
}

/// Interop 1; RFC 7240, section 2.
#[tokio::test]
async fn every_spelling_that_says_what_is_wanted_works() {
    let bench = Bench::new().await;
    for headers in [
        &[ACCEPT, PREFER][..],
        &[("accept", "APPLICATION/FHIR+JSON"), ("PREFER", "Respond-Async")],
        &[("Accept", "application/fhir+json, */*; q=0.1"), PREFER],
        &[("Accept", "text/html;q=0.9, application/fhir+json;fhirVersion=4.0;q=0.2"), PREFER],
        &[("Accept", "text/html"), ("Accept", "*/*"), PREFER],
        &[("Accept", "application/json"), PREFER],
        &[("Accept", "application/*"), PREFER],
        &[ACCEPT, ("Prefer", "wait=10"), ("Prefer", "respond-async")],
        &[ACCEPT, ("Prefer", "  wait=10 ,, respond-async ;foo=bar  ")],
        &[ACCEPT, ("Prefer", "respond-async=\"\"")],
        &[ACCEPT, ("Prefer", "handling=strict,respond-async")],
        &[ACCEPT, ("Prefer", "handling=\"lenient\", respond-async")],
        // Unknown, so ignored and not claimed.
        &[ACCEPT, ("Prefer", "respond-async, separate-export-statuses")],
    ] {
        let answer = bench.send("GET", "/$export?_type=Patient", headers, b"").await;
        assert_eq!(answer.status, 202, "{headers:?}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(answer.header("preference-applied"), "");
        assert_eq!(answer.header("cache-control"), "no-store");
        let status = answer.header("content-location");
        assert!(status.starts_with(&format!("{}/$bulk-status/", bench.app.base)), "BD-047: {status}");
        let deleted = bench.app.ask("DELETE", &status[bench.app.base.len()..], &[], b"").await;
        assert_eq!(deleted.status, 202);
    }
    // RFC 7240: a preference counts where it is named first.
    for (prefer, status) in [
        ("respond-async, handling=lenient, handling=strict", 202),
        ("respond-async, handling=strict, handling=lenient", 400),
        ("respond-async, HANDLING = Lenient", 202),
        ("respond-async, handling=lenient;foo=bar", 202),
        ("respond-async, handling=lenien", 400),
        ("respond-async, note=\"handling=lenient\"", 400),
    ] {
        let answer = bench.send("GET", "/$export?organizeOutputBy=Encounter", &[ACCEPT, ("Prefer", prefer)], b"").await;
        assert_eq!(answer.status, status, "{prefer}");
    }
    bench.app.stop().await;
}

#[tokio::test]
async fn other_methods_are_told_which_are_allowed() {
    let bench = Bench::new().await;
    let job = "0123456789abcdef0123456789abcdef";
    for (path, allow, methods) in [
        ("/$export".to_owned(), "GET, POST", &["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"][..]),
        ("/Patient/$export".to_owned(), "GET, POST", &["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]),
        ("/Group/all/$export".to_owned(), "GET, POST", &["PUT", "DELETE", "OPTIONS"]),
        (format!("/$bulk-status/{job}"), "GET, DELETE", &["POST", "PUT", "PATCH", "OPTIONS", "TRACE"]),
        ("/$bulk-status/nonsense".to_owned(), "GET, DELETE", &["POST", "PUT"]),
        (format!("/$bulk-file/{job}/Patient-00000.ndjson"), "GET, HEAD", &["POST", "PUT", "DELETE", "OPTIONS"]),
    ] {
        for method in methods {
            let answer = bench.send(method, &path, &KICKOFF, b"").await;
            answer.assert_refused(&format!("{method} {path}"), 405, "not-supported", None);
            assert_eq!(answer.header("allow"), allow, "{method} {path}");
        }
    }
    // A head has no body; it is refused all the same.
    for (path, allow) in [("/$export", "GET, POST"), ("/Patient/$export", "GET, POST")] {
        let answer = bench.send("HEAD", path, &KICKOFF, b"").await;
        assert_eq!((answer.status, answer.header("allow"), answer.body.len()), (405, allow, 0));
    }
    // A method that another header names decides nothing (SEC-04).
    let overriding = [ACCEPT, PREFER, ("X-HTTP-Method-Override", "POST"), ("X-Method-Override", "GET")];
    bench.send("PUT", "/$export", &overriding, b"").await.assert_refused("an override", 405, "not-supported", None);
    bench.end(&[METADATA]).await;
}
