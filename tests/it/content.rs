//! What an export holds by the parameters of its kick-off (sections 2.4 and 6 of the checklist).

mod any;
mod associated;
mod attachments;
mod elements;
mod patients;
mod provenance;
mod targets;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::raw::{self, Answer, KICKOFF};

/// Anna and Ben are in the Group, Cleo is not; each has an Observation and shares another one with somebody.
const PEOPLE: [&str; 10] = [
    r#"{"resourceType":"Patient","id":"anna","active":true,"birthDate":"1970-01-01","name":[{"family":"A"}]}"#,
    r#"{"resourceType":"Patient","id":"ben","active":false,"birthDate":"1980-01-01"}"#,
    r#"{"resourceType":"Patient","id":"cleo","birthDate":"1990-01-01"}"#,
    r#"{"resourceType":"Observation","id":"of-anna","status":"final","code":{"text":"c"},"subject":{"reference":"Patient/anna"},"valueString":"v"}"#,
    r#"{"resourceType":"Observation","id":"of-ben","status":"final","code":{"text":"c"},"subject":{"reference":"Patient/ben"},"note":[{"text":"n"}]}"#,
    r#"{"resourceType":"Observation","id":"of-cleo","status":"final","code":{"text":"c"},"subject":{"reference":"Patient/cleo"}}"#,
    r#"{"resourceType":"Observation","id":"of-anna-and-cleo","status":"final","code":{"text":"c"},"subject":{"reference":"Patient/anna"},"performer":[{"reference":"Patient/cleo"}]}"#,
    r#"{"resourceType":"Observation","id":"of-anna-and-ben","status":"final","code":{"text":"c"},"subject":{"reference":"Patient/anna"},"performer":[{"reference":"Patient/ben"}]}"#,
    r#"{"resourceType":"Condition","id":"condition-of-ben","code":{"text":"c"},"subject":{"reference":"Patient/ben"}}"#,
    r#"{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/anna"}},{"entity":{"reference":"Patient/ben"}},{"entity":{"reference":"Patient/nobody"}}]}"#,
];

/// All that a client gets of an export.
struct Export {
    manifest: Value,
    /// The lines of each type.
    lines: BTreeMap<String, Vec<String>>,
    error: String,
}

impl Export {
    /// `Type/id` of everything, sorted.
    fn ids(&self) -> Vec<String> {
        let lines = self.lines.iter().flat_map(|(name, lines)| lines.iter().map(move |line| (name, line)));
        let mut ids: Vec<_> = lines.map(|(name, line)| format!("{name}/{}", id(line))).collect();
        ids.sort_unstable();
        ids
    }

    /// The line of one resource.
    fn line(&self, reference: &str) -> &str {
        let (name, wanted) = reference.split_once('/').expect("a type and an id");
        let lines = self.lines.get(name).into_iter().flatten();
        lines.map(String::as_str).find(|line| id(line) == wanted).unwrap_or_else(|| panic!("{reference} did not come"))
    }

    /// How often the error file says something.
    fn says(&self, text: &str) -> usize {
        self.error.matches(text).count()
    }
}

fn id(line: &str) -> String {
    let resource: Value = serde_json::from_str(line).expect("JSON");
    resource["id"].as_str().expect("an id").to_owned()
}

/// `patient` for each of these ids.
fn patients(ids: &[&str]) -> Vec<Value> {
    let one = |id: &&str| json!({ "name": "patient", "valueReference": { "reference": format!("Patient/{id}") } });
    ids.iter().map(one).collect()
}

fn string(name: &str, value: &str) -> Value {
    json!({ "name": name, "valueString": value })
}

/// Kicks off by POST, at a level such as `/Patient`.
async fn kick_off(base: &str, level: &str, parameters: &[Value], token: Option<&str>) -> Answer {
    let host = base.trim_start_matches("http://").trim_end_matches("/fhir");
    let body = json!({ "resourceType": "Parameters", "parameter": parameters }).to_string();
    let authorization = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![KICKOFF[0], KICKOFF[1], ("Content-Type", "application/fhir+json")];
    headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
    raw::ask(host, &raw::request("POST", &format!("/fhir{level}/$export"), host, &headers, body.as_bytes())).await
}

/// Kicks off by POST, waits, and downloads everything.
async fn export(base: &str, level: &str, parameters: &[Value], token: Option<&str>) -> Export {
    let kickoff = kick_off(base, level, parameters, token).await;
    assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
    got(base, kickoff.header("content-location"), token).await
}

/// Waits for an export, and downloads everything.
async fn got(base: &str, status: &str, token: Option<&str>) -> Export {
    let host = base.trim_start_matches("http://").trim_end_matches("/fhir");
    let authorization = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = authorization.as_deref().map(|value| ("Authorization", value)).into_iter().collect();
    let get = |url: &str| {
        let target = url.strip_prefix(&format!("http://{host}")).expect("ours").to_owned();
        let request = raw::request("GET", &target, host, &headers, b"");
        async move { raw::ask(host, &request).await }
    };
    let manifest = loop {
        let answer = get(status).await;
        match answer.status {
            200 => break answer.json(),
            202 => tokio::time::sleep(Duration::from_millis(200)).await,
            other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
        }
    };
    let (mut lines, mut error) = (BTreeMap::<String, Vec<String>>::new(), String::new());
    for list in ["output", "error"] {
        for file in manifest[list].as_array().expect("a list") {
            let answer = get(file["url"].as_str().expect("a URL")).await;
            assert_eq!(answer.status, 200);
            let text = String::from_utf8(answer.body).expect("text");
            if list == "error" {
                error.push_str(&text);
            } else {
                assert_eq!(file["count"], text.lines().count());
                let name = file["type"].as_str().expect("a type").to_owned();
                lines.entry(name).or_default().extend(text.lines().map(str::to_owned));
            }
        }
    }
    Export { manifest, lines, error }
}
