//! Parameters of the query (spec 2.4 and 2.7).

use super::{Bench, METADATA};
use crate::raw::KICKOFF;
use crate::support::App;

const LENIENT: [(&str, &str); 2] = [KICKOFF[0], ("Prefer", "respond-async, handling=lenient")];

/// BD-023; spec 2.4.1.9: an instant has seconds and a zone.
#[tokio::test]
async fn what_is_no_instant_is_refused_by_its_place() {
    let bench = Bench::new().await;
    for value in [
        "",
        "x",
        "null",
        "now",
        "1767225600",
        "2026",
        "2026-01",
        "2026-01-01",
        "2026-01-01T00",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01%2000:00:00Z",
        "2026-1-1T00:00:00Z",
        "20260101T000000Z",
        "2026-W01-1T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T25:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:61Z",
        "2026-01-01t00:00:00Z",
        "2026-01-01T00:00:00%2B02",
        "2026-01-01T00:00:00%2B0200",
        "2026-01-01T00:00:00%2B2:00",
        "2026-01-01T00:00:00%2B25:00",
        "2026-01-01T00:00:00%2B02:60",
        "2026-01-01T00:00:00%E2%88%9202:00",
        "2026-01-01T00:00:00%20Z",
        "2026-01-01T00:00:00Z%20",
        "2026-01-01T00:00:00ZZ",
        "%202026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z%00",
        "2026-01-01T00:00:00Z%0d%0aX:%20y",
        "ge2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z,2026-01-02T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00%2B14:00",
        "9999-12-31T23:59:59-14:00",
        "-2026-01-01T00:00:00Z",
        "12026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.0000000000000000000000000000001Z",
        "%EF%BC%92%EF%BC%90%EF%BC%92%EF%BC%96-01-01T00:00:00Z",
    ] {
        for name in ["_since", "_until"] {
            let place = format!("http.{name}");
            let query = format!("/$export?{name}={value}");
            bench.get(&query).await.assert_refused(&query, 400, "value", Some(&place));
        }
    }
    for (query, code, place) in [
        ("_since=2999-01-01T00:00:00Z", "value", "http._since"),
        ("_since=9999-12-31T23:59:59.999Z&_until=2020-01-01T00:00:00Z", "value", "http._since"),
        ("_since=2026-01-01T00:00:00Z&_until=2025-01-01T00:00:00Z", "invalid", "http._until"),
        ("_since=2026-01-01T00:00:00Z&_until=2026-01-01T00:00:00Z", "invalid", "http._until"),
        ("_until=2026-01-01T01:00:00%2B02:00&_since=2026-01-01T00:00:00Z", "invalid", "http._until"),
        ("_since=2026-01-01T00:00:00Z&_since=2026-01-01T00:00:00Z", "invalid", "http._since"),
        ("_until=2026-01-01T00:00:00Z&_type=Patient&_until=2026-01-01T00:00:00Z", "invalid", "http._until"),
    ] {
        for level in ["", "/Patient", "/Group/all"] {
            let query = format!("{level}/$export?{query}");
            bench.get(&query).await.assert_refused(&query, 400, code, Some(place));
        }
    }
    bench.end(&[]).await;
}

#[tokio::test]
async fn unknown_types_and_types_that_are_not_to_be_had_are_refused() {
    let bench = Bench::new().await;
    let long = "X".repeat(5_000);
    for (query, code) in [
        ("_type=", "value"),
        ("_type", "value"),
        ("_type=Dragon", "value"),
        ("_type=patient", "value"),
        ("_type=PATIENT", "value"),
        ("_type=Patients", "value"),
        ("_type=Patient,Dragon", "value"),
        ("_type=Patient&_type=Dragon", "value"),
        ("_type=Patient,", "value"),
        ("_type=,Patient", "value"),
        ("_type=Patient;Observation", "value"),
        ("_type=Patient%20Observation", "value"),
        ("_type=Patient/1", "value"),
        ("_type=Patient%00", "value"),
        ("_type=Patient%0aObservation", "value"),
        ("_type=*", "value"),
        ("_type=Resource", "value"),
        ("_type=DomainResource", "value"),
        (&format!("_type={long}") as &str, "value"),
        // Known to FHIR, not to this server.
        ("_type=PaymentNotice", "not-supported"),
        ("_type=Patient,PaymentNotice", "not-supported"),
    ] {
        let query = format!("/$export?{query}");
        let answer = bench.get(&query).await;
        answer.assert_refused(&query, 400, code, Some("http._type"));
    }
    for level in ["/Patient", "/Group/all"] {
        for types in ["Organization", "Organization,Practitioner", "Group"] {
            let query = format!("{level}/$export?_type={types}");
            bench.get(&query).await.assert_refused(&query, 400, "not-supported", Some("http._type"));
        }
    }
    // Whether practitioners are in a Group, it says itself.
    bench.end(&[METADATA, "/fhir/Group/all"]).await;
}

/// SEC-22, BD-048: nothing that could narrow is passed over, whatever the client prefers.
#[tokio::test]
async fn parameters_that_are_not_supported_are_named_and_refused() {
    let bench = Bench::new().await;
    let narrowing = [
        ("_typeFilter", "Observation%3F_count%3D1"),
        ("patient", "Patient/1"),
        ("_lastUpdated", "gt2026-01-01"),
        ("_format", "json"),
        ("_count", "1"),
        ("_Type", "Patient"),
        ("_type%20", "Patient"),
        ("_since:missing", "true"),
        ("foo", "bar"),
        ("", "x"),
    ];
    let permitting = [("includeAssociatedData", "_custom"), ("organizeOutputBy", "Encounter")];
    for (name, value) in narrowing.iter().chain(&permitting) {
        for query in [format!("/$export?{name}={value}"), format!("/Patient/$export?_type=Patient&{name}={value}")] {
            let place = format!("http.{}", name.replace("%20", " "));
            let answer = bench.get(&query).await;
            answer.assert_refused(&query, 400, "not-supported", Some(&place));
        }
    }
    for (name, value) in narrowing {
        for also in ["", "organizeOutputBy=Patient&", "organizeOutputBy=Encounter&"] {
            let query = format!("/Patient/$export?{also}{name}={value}");
            let place = format!("http.{}", name.replace("%20", " "));
            let answer = bench.send("GET", &query, &LENIENT, b"").await;
            answer.assert_refused(&query, 400, "not-supported", Some(&place));
        }
    }
    for (query, code, place) in [
        ("_since=x", "value", "http._since"),
        ("_until=x", "value", "http._until"),
        ("_type=Dragon", "value", "http._type"),
        ("_type=PaymentNotice", "not-supported", "http._type"),
        ("_outputFormat=text/csv", "not-supported", "http._outputFormat"),
    ] {
        let query = format!("/$export?{query}");
        bench.send("GET", &query, &LENIENT, b"").await.assert_refused(&query, 400, code, Some(place));
    }
    bench.end(&[METADATA]).await;
}

/// SEC-22, spec 2.7: what only permits is left out leniently, and a warning says so.
#[tokio::test]
async fn what_is_left_out_leniently_is_told_in_the_error_file() {
    let app = App::with_patients(2, sample_upstream::Settings::default()).await;
    let query =
        "/$export?_type=Patient&includeAssociatedData=_custom&organizeOutputBy=Encounter&includeAssociatedData=_custom";
    let kickoff = app.ask("GET", query, &LENIENT, b"").await;
    assert_eq!(kickoff.status, 202);
    let client = crate::client::Client::new();
    let manifest = client.wait(kickoff.header("content-location"), |_| {}).await.expect("an export");
    let types: Vec<_> = manifest.output.iter().map(|file| file.resource_type.as_str()).collect();
    assert!(!types.is_empty() && types.iter().all(|name| *name == "Patient"), "only what was asked for: {types:?}");
    let mut told = Vec::new();
    for file in manifest.whole["error"].as_array().expect("an array") {
        assert_eq!(file["type"], "OperationOutcome");
        let bytes = client.download(file["url"].as_str().expect("a link")).await.expect("a file");
        for line in std::str::from_utf8(&bytes).expect("text").lines() {
            let outcome: serde_json::Value = serde_json::from_str(line).expect("JSON");
            for issue in
                outcome["issue"].as_array().expect("issues").iter().filter(|issue| issue["code"] == "not-supported")
            {
                assert_eq!(issue["severity"], "warning", "{issue}");
                told.push(issue["diagnostics"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    told.sort_unstable();
    for (told, name) in told.iter().zip(["includeAssociatedData=_custom", "organizeOutputBy"]) {
        assert!(told.contains(&format!("`{name}`")), "{told}");
    }
    assert_eq!(told.len(), 2, "one line for each parameter: {told:?}");
    app.stop().await;
}

/// Times at the ends of what can be written are times, and no window between them is without an end.
#[tokio::test]
async fn times_at_the_ends_of_the_calendar_are_times() {
    let app = App::with_patients(2, sample_upstream::Settings::default()).await;
    for (query, is_empty) in [
        ("_since=0001-01-01T00:00:00Z", false),
        ("_since=1969-12-31T23:59:59.999999999Z", false),
        ("_since=2016-12-31T23:59:60Z", false),
        ("_until=9999-12-31T23:59:59.999999999Z", false),
        ("_since=0001-01-01T00:00:00Z&_until=9999-12-31T23:59:59Z", false),
        ("_since=2020-01-01T00:00:00%2B14:00&_until=9999-12-31T23:59:59Z", false),
        ("_until=0001-01-01T00:00:00Z", true),
        ("_since=0001-01-01T00:00:00Z&_until=0001-01-01T00:00:00.000000001Z", true),
        ("_since=1969-12-31T23:59:59Z&_until=1970-01-01T00:00:01Z", true),
    ] {
        for level in ["/$export", "/Group/all/$export"] {
            let (manifest, received) = app
                .export(&format!("{level}?_type=Patient&{query}"))
                .await
                .unwrap_or_else(|error| panic!("{query}: {error:#}"));
            let lines = received.get("Patient").map_or(0, |lines| String::from_utf8_lossy(lines).lines().count());
            assert_eq!(lines, if is_empty { 0 } else { 2 }, "{query}: {}", manifest.whole);
        }
    }
    app.stop().await;
}

/// Spec 2.4: three names of one format; another one is refused in every mode.
#[tokio::test]
async fn other_formats_are_refused_with_the_ones_that_are_to_be_had() {
    let bench = Bench::new().await;
    for format in [
        "",
        "text/csv",
        "csv",
        "json",
        "application/json",
        "application/fhir%2Bjson",
        "application/fhir%2Bparquet",
        "application/vnd.apache.parquet",
        "ndjson2",
        "ndjson,ndjson",
        "application/fhir%2Bndjson;charset=utf-8",
        "application/fhir%2Bndjson%00",
    ] {
        let query = format!("/$export?_outputFormat={format}");
        let answer = bench.get(&query).await;
        answer.assert_refused(&query, 400, "not-supported", Some("http._outputFormat"));
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("application/fhir+ndjson"), "{text}");
    }
    let query = "/$export?_outputFormat=ndjson&_outputFormat=ndjson";
    bench.get(query).await.assert_refused(query, 400, "invalid", Some("http._outputFormat"));
    bench.end(&[]).await;
}

#[tokio::test]
async fn a_query_that_does_not_decode_and_one_without_end_are_refused() {
    let bench = Bench::new().await;
    for query in ["%", "%2", "%zz=1", "_type=%ff", "_type=Patient%", "_since=%c3%28", "x=%ed%a0%80"] {
        let query = format!("/$export?{query}");
        bench.get(&query).await.assert_refused(&query, 400, "structure", None);
    }
    let many = format!("/$export?{}", "_type=Patient&".repeat(1_001));
    bench.get(&many).await.assert_refused("1,001 parameters", 400, "too-costly", None);
    // Longer than an address may be, and longer than a head may be: the server underneath says so.
    for (bytes, status) in [(70_000, [414, 431]), (400_000, [414, 431])] {
        let answer = bench.get(&format!("/$export?_type={}", "a".repeat(bytes))).await;
        assert!(status.contains(&answer.status), "{}", answer.status);
    }
    bench.end(&[]).await;
}
