//! What no client library would send: paths that two readers could take for different ones (SEC-03).

use std::collections::BTreeSet;
use std::path::PathBuf;

use sample_upstream::Settings;

use crate::raw::{self, Answer, KICKOFF};
use crate::support::App;

/// Sends a target exactly as it stands.
pub(crate) async fn get(app: &App, target: &str, headers: &[(&str, &str)]) -> Answer {
    raw::ask(&app.host(), &raw::request("GET", target, &app.host(), headers, b"")).await
}

/// Sees that the upstream got none of what was refused, and that all goes on.
pub(crate) async fn assert_untouched(app: App) {
    let asked: BTreeSet<_> = app.upstream.requests().into_iter().map(|seen| seen.path).collect();
    assert!(asked.is_empty(), "the upstream was asked for {asked:?}");
    assert_eq!(app.output_files(), Vec::<PathBuf>::new(), "nothing is exported");
    app.export_exactly("/Patient/$export").await.expect("an export");
    app.stop().await;
}

/// SEC-03
#[tokio::test]
async fn no_trick_with_a_path_reaches_the_upstream() {
    let app = App::with_patients(2, Settings::default()).await;
    let job = "0123456789abcdef0123456789abcdef";
    let mut targets: Vec<(String, u16, &str)> = Vec::new();
    let refused = [
        // Dot segments, plain, escaped, and as Java's servers read them.
        "/fhir/.. /fhir/../admin /fhir/./Patient /fhir/Patient/. /fhir/Patient/.. /fhir/Patient/../../x \
         /fhir/%2e%2e/admin /fhir/%2E%2E/admin /fhir/.%2e/admin /fhir/%2e/Patient /fhir/..;/admin \
         /fhir/..;x=1/admin /fhir/Patient/%2e%2e;/x /fhir/;/Patient /fhir/Patient/..%3b/x /../fhir/Patient \
         /fhir/../fhir/$export /fhir/Patient/../$export /./fhir/$export /%2e/fhir/$export",
        // Separators that somebody may decode later.
        "/fhir/Patient%2f1 /fhir/Patient%2F1 /fhir%2fPatient /fhir/Patient%2F..%2Fadmin /fhir/..%2fadmin \
         /fhir/Patient%5c1 /fhir/Patient%5C1 /fhir/..%5cadmin /fhir/Patient%2f$export /fhir/%2f$export",
        // Escapes that are escaped themselves, in one layer and in two.
        "/fhir/%252e%252e/admin /fhir/%2524export /fhir/%25%32%34export /fhir/Patient%252f1 /fhir/%25252e",
        // Escapes that are none, and bytes that are no text.
        "/fhir/% /fhir/%2 /fhir/%zz /fhir/%u002e%u002e/admin /fhir/%ff /fhir/%c0%ae%c0%ae/admin /fhir/%c0%af \
         /fhir/%e0%80%af /fhir/%ed%a0%80",
        // Control characters.
        "/fhir/Patient%00 /fhir/%00/$export /fhir/Patient%0d%0aX:%20y /fhir/Patient%09 /fhir/Patient%7f \
         /fhir/$export%00 /fhir/$export%0a",
        // Empty segments.
        "/fhir// /fhir//Patient /fhir/Patient//1 /fhir/Patient// /fhir//$export /fhir///$export \
         /fhir/Patient//$export",
        // Outside of the base.
        "/ /admin /fhi /fhirx /fhirx/Patient /FHIR/Patient //fhir/Patient //evil.example/fhir/Patient /metadata \
         /$export /Patient/$export /fhir;x=1/Patient /fhir%20/Patient /x/fhir/Patient /fhir./Patient \
         /fhir%23/Patient /fhir%3f/Patient * /*",
    ];
    for refused in refused.into_iter().flat_map(str::split_whitespace) {
        targets.push((refused.to_owned(), 400, "invalid"));
    }
    // Export operations that are not ours.
    let foreign = "/fhir/$export/ /fhir/$export/x /fhir/$EXPORT /fhir/$Export /fhir/%24EXPORT /fhir/$exports \
         /fhir/$export;x=1 /fhir/$export%3bx /fhir/$export%20 /fhir/$export%3f_type=Patient /fhir/$export%23 \
         /fhir/$export.json /fhir/$export-poll-status /fhir/%24export-poll-status?_jobId=1 /fhir/$bulk-publish \
         /fhir/$bulk-submit /fhir/$BULK-status/1 /fhir/$bulk-status /fhir/$bulk-status/ /fhir/$bulk-file \
         /fhir/Patient/1/$export /fhir/Patient/$export/ /fhir/patient/$export /fhir/Patient/$EXPORT \
         /fhir/Group/$export /fhir/Group/all/$export/ /fhir/Group/all/x/$export /fhir/Group/a,b/$export \
         /fhir/group/all/$export /fhir/Observation/$export /fhir/x/y/z/$export /fhir/Patient;x/$export \
         /fhir/$export/Patient /fhir/$bulk-status/$export /fhir/Patient/%24%45%58port /fhir/$export%2eold";
    for refused in foreign.split_whitespace() {
        targets.push((refused.to_owned(), 403, "forbidden"));
    }
    for suffix in ["/x", "/", "/x.ndjson/", ";x"] {
        // What ends with a slash is nobody's; the others name a job, or a page, that is not there.
        let (status, code) = if suffix.ends_with('/') { (403, "forbidden") } else { (404, "not-found") };
        targets.push((format!("/fhir/$bulk-status/{job}{suffix}"), status, code));
    }
    for (target, status, code) in &targets {
        for headers in [&KICKOFF[..], &[]] {
            get(&app, target, headers).await.assert_refused(target, *status, code, None);
        }
        let query = format!("{target}{}_type=Patient", if target.contains('?') { '&' } else { '?' });
        if target != "*" {
            get(&app, &query, &KICKOFF).await.assert_refused(&query, *status, code, None);
        }
        let delete = raw::request("DELETE", target, &app.host(), &[], b"");
        raw::ask(&app.host(), &delete).await.assert_refused(target, *status, code, None);
    }
    // What is no target at all is the HTTP library's to refuse, or ours; it goes nowhere either way.
    for target in
        ["", "fhir/$export", "/fhir/$export x", "/fhir/\\..\\admin", "/fhir/\u{7}", "/fhir/Pat\tient", "?x", "#"]
    {
        let bytes = raw::talk(&app.host(), &raw::request("GET", target, &app.host(), &KICKOFF, b"")).await;
        assert!(bytes.starts_with(b"HTTP/1.1 400 "), "{target:?}: {}", String::from_utf8_lossy(&bytes));
    }
    for target in [&b"/fhir/\xff"[..], b"/fhir/\xc0\xae\xc0\xae/admin", b"/fhir/caf\xe9"] {
        let request = [b"GET ", target, b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"].concat();
        let bytes = raw::talk(&app.host(), &request).await;
        assert!(bytes.starts_with(b"HTTP/1.1 400 "), "{target:?}: {}", String::from_utf8_lossy(&bytes));
    }
    assert_untouched(app).await;
}

/// The same operation in other spellings is ours, and never the upstream's.
#[tokio::test]
async fn escaped_spellings_of_our_routes_are_our_routes() {
    let app = App::with_patients(2, Settings::default()).await;
    for target in [
        "/fhir/%24export",
        "/fhir/%24%65%78port",
        "/fhir/%50atient/%24export",
        "/fhir/Group/%61ll/$export",
        "/%66hir/$export",
    ] {
        let answer = get(&app, target, &KICKOFF).await;
        assert_eq!(answer.status, 202, "{target}: {}", String::from_utf8_lossy(&answer.body));
        let status = answer.header("content-location").to_owned();
        let (head, job) = status.rsplit_once('/').expect("a path");
        let escaped = format!("{}/%{:02x}{}", head.replace('$', "%24"), job.as_bytes()[0], &job[1..]);
        let escaped = escaped.strip_prefix(&format!("http://{}", app.host())).expect("the public base").to_owned();
        let polled = get(&app, &escaped, &[]).await;
        assert_eq!(polled.status, 202, "{escaped}");
        let delete = raw::request("DELETE", &escaped, &app.host(), &[], b"");
        assert_eq!(raw::ask(&app.host(), &delete).await.status, 202);
    }
    for job in [
        "x",
        "0",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0",
        "0123456789ABCDEF0123456789ABCDEF",
        "0123456789abcdef0123456789abcdeg",
        "%2b123456789abcdef0123456789abcde",
        "caf%C3%A9",
        "0123456789abcdef0123456789abcdef%20",
    ] {
        for method in ["GET", "DELETE"] {
            let target = format!("/fhir/$bulk-status/{job}");
            let answer = raw::ask(&app.host(), &raw::request(method, &target, &app.host(), &[], b"")).await;
            answer.assert_refused(&target, 404, "not-found", None);
        }
    }
    app.stop().await;
}

/// HTTP/2 names the host in the target; the rules are the same.
#[tokio::test]
async fn the_same_holds_over_http_2() {
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    let app = App::with_patients(2, Settings::default()).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    for (path, headers, status) in [
        ("/fhir/$export", &[][..], 202),
        ("/fhir/%24export", &[], 202),
        ("/fhir/Group/all", &[], 200),
        ("/fhir/$export", &[("host", "evil.example")], 403),
        ("/fhir/$export", &[("origin", "http://localhost")], 403),
        ("/fhir/$export", &[("x-forwarded-for", "::1")], 403),
        ("/fhir/..;/admin", &[], 400),
        ("/fhir/%2e%2e/admin", &[], 400),
        ("/fhir/Patient%2f$export", &[], 400),
        ("/admin", &[], 400),
        ("/fhir/$exports", &[], 403),
        ("/fhir/Patient/1/$export", &[], 403),
    ] {
        let mut request = http::Request::builder().uri(format!("http://{}{path}", app.host()));
        for (name, value) in KICKOFF.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a good request");
        let answer = client.request(request).await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.version()), (status, http::Version::HTTP_2), "{path} {headers:?}");
    }
    app.stop().await;
}
