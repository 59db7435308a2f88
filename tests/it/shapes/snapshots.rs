//! What a client of each release sees, to the letter: whoever knows an earlier one notices nothing of the later ones.
//!
//! The files beside this one are what was answered, but for what no two exports have in common: addresses, times, links and
//! digests.

use chrono::{DateTime, Utc};
use sample_upstream::{SampleUpstream, Settings};
use serde_json::Value;

use super::{ended, status_of};
use crate::raw::{Answer, KICKOFF};
use crate::support::App;

/// An upstream whose answers are the same each time.
async fn app() -> App {
    let upstream = SampleUpstream::new(Settings::default());
    let then: DateTime<Utc> = "2020-01-01T00:00:00Z".parse().expect("a time");
    for json in [
        r#"{"resourceType":"Patient","id":"p1"}"#,
        r#"{"resourceType":"Patient","id":"p2"}"#,
        r#"{"resourceType":"Observation","id":"o1","subject":{"reference":"Patient/p1"}}"#,
        r#"{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p1"}}]}"#,
    ] {
        upstream.insert_raw_at(json, then).expect("a resource");
    }
    // One after another, so that files have the same numbers each time.
    App::before(upstream, |config| config.upstream.max_concurrent_searches = 1).await
}

/// What was said between a client and us.
struct Transcript<'a> {
    app: &'a App,
    text: String,
}

impl<'a> Transcript<'a> {
    fn of(app: &'a App) -> Self {
        Self { app, text: String::new() }
    }

    async fn ask(&mut self, method: &str, below: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let answer = self.app.ask(method, below, headers, body.as_bytes()).await;
        self.note(method, below, body, &answer);
        answer
    }

    fn note(&mut self, method: &str, below: &str, body: &str, answer: &Answer) {
        let mut headers: Vec<_> = answer.headers.iter().collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        let headers: Vec<String> = headers
            .into_iter()
            .map(|(name, value)| match name.as_str() {
                "date" | "expires" => format!("{name}: TIME"),
                "x-progress" => format!("{name}: PROGRESS"),
                // Links and digests that stand in it are as long each time, numbers are not.
                "content-length" if !answer.body.is_empty() => format!("{name}: LENGTH"),
                _ => format!("{name}: {}", value.to_str().expect("plain ASCII")),
            })
            .collect();
        let said = match serde_json::from_slice::<Value>(&answer.body) {
            Ok(mut json) => {
                plain(&mut json);
                serde_json::to_string_pretty(&json).expect("JSON")
            }
            Err(_) => String::from_utf8_lossy(&answer.body).into_owned(),
        };
        let asked = if body.is_empty() { String::new() } else { format!("{body}\n") };
        let text = format!("> {method} {below}\n{asked}< {}\n{}\n{said}\n\n", answer.status, headers.join("\n"));
        let text = text.replace(&self.app.host(), "HOST");
        self.text.push_str(&without_jobs(&text));
    }

    /// Kicks off, polls once and to the end, reads the outcomes, and deletes.
    async fn export(&mut self, method: &str, below: &str, headers: &[(&str, &str)], body: &str) {
        let kickoff = self.ask(method, below, headers, body).await;
        let status = status_of(self.app, &kickoff);
        let first = self.ask("GET", &status, &[], "").await;
        let number = first.status;
        let last = ended(self.app, &status, |answer| answer.status == 202 && number == 202).await;
        self.note("GET", &status, "", &last);
        self.ask("DELETE", &status, &[], "").await;
        self.ask("GET", &status, &[], "").await;
    }

    fn assert_is(self, expected: &str) {
        assert!(self.text == expected, "what was said is another thing:\n{}", self.text);
    }
}

/// Leaves out of an answer what is its own.
fn plain(json: &mut Value) {
    match json {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), &member) {
                    ("transactionTime", Value::String(_)) => *member = "TIME".into(),
                    ("sha256", Value::String(_)) => *member = "SHA256".into(),
                    ("url", Value::String(url)) if url.contains("$bulk-file") => {
                        let (address, _) = url.split_once('?').expect("a signed link");
                        *member = format!("{address}?SIGNATURE").into();
                    }
                    (_, other) if other.is_string() => {}
                    _ => plain(member),
                }
            }
            if json["url"] == "sha256" {
                json["valueString"] = "SHA256".into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The names of jobs are chance.
fn without_jobs(text: &str) -> String {
    let is_name = |piece: &&str| piece.len() == 32 && piece.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pieces = text.split_inclusive(|character: char| !character.is_ascii_alphanumeric());
    pieces
        .map(|piece| {
            let name = piece.trim_end_matches(|character: char| !character.is_ascii_alphanumeric());
            if is_name(&name) { format!("JOB{}", &piece[name.len()..]) } else { piece.to_owned() }
        })
        .collect()
}

const POSTED: [(&str, &str); 3] = [KICKOFF[0], KICKOFF[1], ("Content-Type", "application/fhir+json")];

/// 1.0: everything by GET, and a JSON object where there is something of our own.
#[tokio::test]
async fn a_client_of_the_first_release_sees_no_difference() {
    let app = app().await;
    let mut said = Transcript::of(&app);
    said.export("GET", "/Patient/$export?_type=Patient,Observation", &KICKOFF, "").await;
    said.ask("GET", "/$export?_type=Dragon", &KICKOFF, "").await;
    said.ask("GET", "/$export?_format=json", &KICKOFF, "").await;
    said.ask("GET", "/$export", &[KICKOFF[0]], "").await;
    said.assert_is(include_str!("snapshots/release-1.txt"));
    app.stop().await;
}

/// 2.0: also by POST, with what was deleted.
#[tokio::test]
async fn a_client_of_the_second_release_sees_no_difference() {
    let app = app().await;
    let mut said = Transcript::of(&app);
    let body = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient,Observation"},{"name":"_since","valueInstant":"2019-01-01T00:00:00Z"}]}"#;
    said.export("POST", "/Group/g/$export", &POSTED, body).await;
    said.ask("PUT", "/$export", &KICKOFF, "").await;
    said.assert_is(include_str!("snapshots/release-2.txt"));
    app.stop().await;
}

/// 3.0: how it stands is said apart.
#[tokio::test]
async fn a_client_of_the_third_release_sees_what_it_prefers() {
    let app = app().await;
    let mut said = Transcript::of(&app);
    let separate = [KICKOFF[0], ("Prefer", "respond-async, separate-export-status")];
    let kickoff = said.ask("GET", "/$export?_type=Patient", &separate, "").await;
    let status = status_of(&app, &kickoff);
    said.ask("GET", &status, &[], "").await;
    let complete = ended(&app, &status, |answer| answer.header("x-export-status") == "202 Accepted").await;
    said.note("GET", &status, "", &complete);
    said.assert_is(include_str!("snapshots/release-3.txt"));
    app.stop().await;
}

/// The ballot of 4.0: another operation, and another manifest.
#[tokio::test]
async fn a_client_of_the_fourth_release_sees_its_own_shape() {
    let app = app().await;
    let mut said = Transcript::of(&app);
    let body = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient"},{"name":"_since","valueInstant":"2019-01-01T00:00:00Z"}]}"#;
    said.export("POST", "/Patient/$export-v4", &POSTED, body).await;
    let list = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient,Observation"}]}"#;
    said.ask("POST", "/$export-v4", &POSTED, list).await;
    said.ask("GET", "/$export-v4", &KICKOFF, "").await;
    said.assert_is(include_str!("snapshots/release-4.txt"));
    app.stop().await;
}
