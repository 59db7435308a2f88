//! Whatever a kick-off says: it is taken, or refused with an outcome. No answer is an error of ours.

use futures_util::future::join_all;
use sample_upstream::Settings;
use serde_json::{Value, json};

use crate::random::Random;
use crate::raw::KICKOFF;
use crate::support::App;

const LEVELS: [&str; 6] = [
    "/$export",
    "/Patient/$export",
    "/Group/all/$export",
    "/Group/none/$export",
    "/%24export",
    "/Group/lapsed/$export",
];

/// Every parameter that a guide names, and some that none does.
const NAMES: [&str; 16] = [
    "_type",
    "_since",
    "_until",
    "_outputFormat",
    "_typeFilter",
    "_elements",
    "patient",
    "includeAssociatedData",
    "organizeOutputBy",
    "allowPartialManifests",
    "_maximumFileSize",
    "_minimumFileSize",
    "_count",
    "_format",
    "",
    "unknown",
];

/// What is good for one of them is bad for the others.
const VALUES: [&str; 38] = [
    "",
    "Patient",
    "Patient,Observation",
    "Patient,,Nothing",
    "OperationOutcome",
    "2026-01-01T00:00:00Z",
    "2026-01-01T00:00:00.000000000000001+14:00",
    "9999-12-31T23:59:60Z",
    "0000-00-00T00:00:00Z",
    "2026-01-01",
    "-1",
    "99999999999999999999999999",
    "application/fhir+ndjson",
    "ndjson",
    "application/vnd.apache.parquet",
    "Observation?code=1",
    "Observation?category=laboratory%2Cvital-signs&date=gt2020",
    "Observation?subject:Patient.name=x&_has:Provenance:target:agent=1",
    "Patient?_id=1&_count=1&_sort=name",
    "Observation?",
    "Observation?_filter=a eq b",
    "?",
    "id",
    "Patient.name,id",
    "Patient.name.family.value[x].,",
    "Patient/1",
    "Patient/p%2F1",
    "http://elsewhere.example/Patient/1",
    "Group/all",
    "LatestProvenanceResources",
    "_custom",
    "true",
    "false",
    "tru",
    "\u{0}\r\nSet-Cookie: a=b",
    "\u{1f9ea}\u{202e}\u{feff}",
    "%",
    "%25%2525%00%ff",
];

fn one<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
    of[random.below(of.len())]
}

/// A value, or two in one, or a long one.
fn value(random: &mut Random) -> String {
    match random.below(10) {
        0 => format!("{},{}", one(random, &VALUES), one(random, &VALUES)),
        1 => one(random, &VALUES).repeat(200),
        _ => one(random, &VALUES).to_owned(),
    }
}

fn query(random: &mut Random) -> String {
    let pairs = (0..random.below(4)).map(|_| {
        let (name, value) = (one(random, &NAMES), value(random));
        let escaped = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        // Some are escaped by nobody: what must not stand in a target is left out, not the request.
        let plain = |text: &str| text.chars().filter(char::is_ascii_graphic).collect::<String>();
        if random.percent(80) {
            format!("{}={}", escaped(name), escaped(&value))
        } else {
            format!("{name}={}", plain(&value))
        }
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn body(random: &mut Random) -> Vec<u8> {
    let parameters = (0..random.below(4)).map(|_| {
        let text = value(random);
        let value: Value = match random.below(6) {
            0 => json!({ "reference": text }),
            1 => json!(text.len()),
            2 => json!([text]),
            3 => json!({ "system": "s", "code": text }),
            _ => json!(text),
        };
        let kinds = [
            "valueString",
            "valueInstant",
            "valueReference",
            "valueCode",
            "valueCoding",
            "valueBoolean",
            "resource",
            "part",
        ];
        json!({ "name": one(random, &NAMES), (one(random, &kinds)): value })
    });
    let resource = json!({ "resourceType": "Parameters", "parameter": parameters.collect::<Vec<_>>() }).to_string();
    let mut bytes = resource.into_bytes();
    if random.percent(10) {
        let at = random.below(bytes.len());
        bytes[at] = u8::try_from(random.below(256)).expect("a byte");
    }
    bytes
}

#[tokio::test]
async fn no_kick_off_at_all_is_answered_with_an_error_of_ours() {
    let app = App::with_patients(2, Settings::default()).await;
    let mut random = Random::new(16);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..60 {
        let requests: Vec<_> = (0..20)
            .map(|_| {
                let (level, query) = (one(&mut random, &LEVELS), query(&mut random));
                let below = if query.is_empty() { level.to_owned() } else { format!("{level}?{query}") };
                let is_post = random.percent(50);
                let prefer = one(
                    &mut random,
                    &["respond-async", "respond-async, handling=lenient", "handling=strict,respond-async"],
                );
                (below, prefer, is_post.then(|| body(&mut random)))
            })
            .collect();
        let answers = requests.iter().map(async |(below, prefer, body)| {
            let headers = [KICKOFF[0], ("Prefer", *prefer), ("Content-Type", "application/fhir+json")];
            let method = if body.is_some() { "POST" } else { "GET" };
            let answer = app.ask(method, below, &headers, body.as_deref().unwrap_or_default()).await;
            let what =
                format!("{method} {below} {prefer} {}", String::from_utf8_lossy(body.as_deref().unwrap_or_default()));
            if answer.status != 202 {
                assert!((400..500).contains(&answer.status), "{}: {what}", answer.status);
                assert_eq!(answer.json()["resourceType"], "OperationOutcome", "{what}");
                assert_eq!(answer.header("content-type"), "application/fhir+json", "{what}");
                return false;
            }
            let status = answer.header("content-location").strip_prefix(&app.base).expect("below the base").to_owned();
            assert_eq!(app.ask("DELETE", &status, &[], b"").await.status, 202, "{what}");
            true
        });
        for was_taken in join_all(answers).await {
            if was_taken { taken += 1 } else { refused += 1 }
        }
    }
    assert!(taken > 50 && refused > 300, "{taken} were taken and {refused} refused");
    app.export_exactly("/$export").await.expect("an export");
    app.stop().await;
}
