//! SEC-42: what is marked is looked for in all that the built program tells while it logs everything: its log, its ledger, what
//! it prints, and what it answers to others.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use sample_upstream::{Demand, SampleUpstream, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::process::{Options, Process, until};
use crate::raw::{self, Answer, KICKOFF};
use crate::smart::process::{ask, exported, token, with_token};
use crate::smart::{Client, FORM};
use crate::support::listener;

/// What operators show.
const OPERATORS: &str = "canary-operators-0123456789abcdef0123456789";

/// What must not be told, and what it is.
#[derive(Default)]
struct Marks(Vec<(&'static str, String)>);

impl Marks {
    fn add(&mut self, what: &'static str, mark: impl Into<String>) {
        let mark = mark.into();
        assert!(mark.len() >= 8, "{what} is too short to be told from something else: {mark}");
        self.0.push((what, mark));
    }

    /// Fails if a text tells one of them.
    #[track_caller]
    fn are_not_in(&self, place: &str, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let told: Vec<_> =
            self.0.iter().filter(|(_, mark)| text.contains(mark.as_str())).map(|(what, _)| *what).collect();
        if let Some((_, first)) = self.0.iter().find(|(what, _)| told.first() == Some(what)) {
            let at = text.find(first.as_str()).unwrap_or(0);
            let from =
                text.char_indices().map(|(index, _)| index).take_while(|index| *index <= at.saturating_sub(300)).last();
            panic!("{place} tells {told:?}: …{}", text[from.unwrap_or(0)..].chars().take(700).collect::<String>());
        }
    }

    /// Looks into every file below a folder.
    #[track_caller]
    fn are_not_below(&self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                self.are_not_below(&path);
            } else if let Ok(bytes) = fs::read(&path) {
                self.are_not_in(&path.display().to_string(), &bytes);
            }
        }
    }

    /// Looks into all that a process has told by now.
    #[track_caller]
    fn are_not_told_by(&self, process: &Process) {
        self.are_not_in("the log", process.whole_log().as_bytes());
        self.are_not_below(&process.state().with_file_name("ledger"));
        for arguments in [&["ledger", "export"][..], &["ledger", "verify"], &["config", "print"], &["doctor"]] {
            let ran = process.run(arguments).expect("it runs");
            self.are_not_in(&arguments.join(" "), &ran.stdout);
            self.are_not_in(&arguments.join(" "), &ran.stderr);
        }
    }

    #[track_caller]
    fn are_not_answered(&self, what: &str, answer: &Answer) {
        self.are_not_in(what, &answer.body);
        self.are_not_in(what, format!("{:?}", answer.headers).as_bytes());
    }
}

/// A process that logs everything, one JSON object on each line or for people.
async fn telling(upstream: &str, options: Options, clients: &[&Client], format: &str) -> (Process, String) {
    let clients: Vec<_> = clients
        .iter()
        .map(|client| json!({ "client_id": client.id, "scope": client.scope, "jwks": client.key.jwks() }))
        .collect();
    let smart = format!("mode: authorization_server, clients: {}", Value::from(clients));
    let mut process = Process::start_for(upstream, options, &smart).await.expect("it starts");
    let operators = listener().await.local_addr().expect("a free port");
    let secret = written(&process.state().with_file_name("admin.token"), OPERATORS);
    let more = format!(
        "telemetry: {{ log_level: trace, log_format: {format} }}\nadmin: {{ listen: {operators}, token_file: '{secret}' }}\n"
    );
    process.reload(|yaml| yaml + &more).expect("it is told");
    process.kill().expect("it is killed");
    process.restart().expect("it starts");
    until("it listens", async || {
        let host = process.base.trim_start_matches("http://").trim_end_matches("/fhir");
        Ok(tokio::net::TcpStream::connect(host).await.ok().map(drop))
    })
    .await
    .expect("it does");
    (process, operators.to_string())
}

/// Sees what operators are shown, and what others are who ask for that.
async fn look_as_operators(operators: &str, marks: &mut Marks) {
    marks.add("the operators' token", OPERATORS);
    marks.add("another token of operators", "canary-no-operator");
    for path in ["/", "/health/live", "/health/ready", "/metrics", "/?x=canary-no-operator"] {
        for (shown, expected) in [(OPERATORS, 200), ("canary-no-operator", 401)] {
            let authorization = format!("Bearer {shown}");
            let headers = [("Authorization", authorization.as_str())];
            let answer = raw::ask(operators, &raw::request("GET", path, operators, &headers, b"")).await;
            assert_eq!(answer.status, expected, "{path}");
            marks.are_not_answered("what operators are shown", &answer);
        }
    }
}

/// Says what is no HTTP.
async fn speak_no_http(process: &Process) {
    let host = process.base.trim_start_matches("http://").trim_end_matches("/fhir");
    let mut stream = tokio::net::TcpStream::connect(host).await.expect("it listens");
    stream.write_all(b"canary-nonsense\r\ncanary-nonsense: \0\r\n\r\n").await.expect("it listens");
    let mut answer = Vec::new();
    // However it ends.
    let _ended = stream.read_to_end(&mut answer).await;
}

fn written(path: &Path, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).expect("the disk takes it");
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("it is ours");
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // commands are waited for while the server answers them
async fn nothing_of_patients_and_no_secret_is_told_while_exports_go_well() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut marks = Marks::default();
    let upstream = SampleUpstream::new(Settings {
        demand: Demand::Header { name: "x-api-key", value: "canary-upstream-secret".to_owned() },
        ..Settings::default()
    });
    upstream.generate(3);
    marks.add("a secret for the upstream", "canary-upstream-secret");
    let patient = r#"{"resourceType":"Patient","id":"canary-patient-id","name":[{"family":"CanaryFamily"}]}"#;
    upstream.create(patient).expect("a resource");
    let observation = r#"{"resourceType":"Observation","id":"canary-observation-id","status":"final",
        "subject":{"reference":"Patient/canary-patient-id"},"code":{"text":"CanaryCode"}}"#;
    upstream.create(observation).expect("a resource");
    let group = r#"{"resourceType":"Group","id":"canary-group","type":"person","actual":true,
        "member":[{"entity":{"reference":"Patient/canary-patient-id"}}]}"#;
    upstream.create(group).expect("a resource");
    for (what, mark) in [
        ("a patient's id", "canary-patient-id"),
        ("a resource's id", "canary-observation-id"),
        ("a name", "CanaryFamily"),
        ("a body", "CanaryCode"),
    ] {
        marks.add(what, mark);
    }
    let server = upstream.serve(listener().await).await;
    let secret = written(&folder.path().join("secret"), "canary-upstream-secret");
    let options = Options {
        upstream: format!("credentials: {{ headers: {{ X-Api-Key: {{ file: '{secret}' }} }} }}").leak(),
        ..Options::default()
    };
    let (own, other) = (Client::new("own", "system/*.rs"), Client::new("other", "system/*.rs"));
    for format in ["json", "text"] {
        let (process, operators) = telling(&server.base_url, options, &[&own, &other], format).await;
        let (token, foreign) = (token(&process, &own).await, token(&process, &other).await);
        for good in [&token, &foreign] {
            let (_, signature) = good.rsplit_once('.').expect("a JWT");
            marks.add("an access token", signature);
        }
        let (status, link) = exported(&process, &token).await;
        marks.add("a link's signature", link.rsplit_once("signature=").expect("it is signed").1);
        let file = ask(&process, "GET", &link, &[], b"").await;
        assert!(String::from_utf8_lossy(&file.body).contains("CanaryFamily"), "what is told to nobody is in the file");
        for level in ["/Group/canary-group/$export", "/Patient/$export", "/$export?_since=2001-02-03T04:05:06Z"] {
            let kickoff = with_token(&process, "GET", &format!("{}{level}", process.base), &token).await;
            assert_eq!(kickoff.status, 202, "{level}");
            let status = kickoff.header("content-location").to_owned();
            until("the export ends", async || {
                Ok((with_token(&process, "GET", &status, &token).await.status == 200).then_some(()))
            })
            .await
            .unwrap_or_else(|error| panic!("{error:?}\n{}", process.log()));
        }
        // What is refused, of whatever is wrong with it, and what passes through.
        for (what, mark) in [
            ("a parameter", "CanaryParameter"),
            ("a value", "canary-value"),
            ("a bad token", "canary.bearer.token"),
            ("a password", "Y2FuYXJ5LXBhc3N3b3Jk"),
            ("a bad signature", "canary-signature"),
            ("a query that passes", "canary-passing-query"),
            ("a body that passes", "canary-passing-body"),
            ("a form", "canary-form-value"),
            ("a cookie", "canary-cookie"),
            ("what is no HTTP", "canary-nonsense"),
        ] {
            marks.add(what, mark);
        }
        let base = process.base.clone();
        let bearer = format!("Bearer {token}");
        for (method, below, authorization, body) in [
            ("GET", "/$export?CanaryParameter=canary-value", bearer.as_str(), ""),
            ("GET", "/$export?_typeFilter=Patient%3Fname%3Dcanary-value", &bearer, ""),
            ("GET", "/Patient/$export?patient=Patient/canary-patient-id&_type=canary-value", &bearer, ""),
            ("GET", "/$export?_since=canary-value", &bearer, ""),
            ("GET", "/Group/canary-value/$export", &bearer, ""),
            ("POST", "/$export", &bearer, r#"{"resourceType":"Parameters","parameter":[{"name":"canary-value"}]}"#),
            ("POST", "/$export", &bearer, "canary-value"),
            ("GET", "/$export", "Bearer canary.bearer.token", ""),
            ("GET", "/$export", "Basic Y2FuYXJ5LXBhc3N3b3Jk", ""),
            ("GET", "/$bulk-status/canary-value", &bearer, ""),
            ("GET", "/Patient?name=canary-passing-query", "", ""),
            ("GET", "/Patient/canary-patient-id?x=canary-passing-query", "Bearer canary.bearer.token", ""),
            ("POST", "/Patient/_search", "", "name=canary-passing-body"),
            ("GET", "/Patient?name=canary-passing-query", &bearer, ""),
        ] {
            let headers = [KICKOFF[0], KICKOFF[1], ("Authorization", authorization), ("Cookie", "a=canary-cookie")];
            let headers = if authorization.is_empty() { &headers[..2] } else { &headers[..] };
            let answer = ask(&process, method, &format!("{base}{below}"), headers, body.as_bytes()).await;
            assert_ne!(answer.status, 202, "{below}");
            assert!(answer.status < 500, "{below}: {}", answer.status);
        }
        let spoilt = link.split("signature=").next().expect("a link").to_owned() + "signature=canary-signature";
        for refused in [
            ask(&process, "GET", &spoilt, &[], b"").await,
            ask(&process, "POST", &format!("{base}/$bulk-token"), &[FORM], b"client_assertion=canary-form-value").await,
            ask(&process, "POST", &format!("{base}/$bulk-token"), &[FORM], b"grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=e30.canary-form-value.eA").await,
            // What others are told of an export that is not theirs.
            with_token(&process, "GET", &status, &foreign).await,
            with_token(&process, "DELETE", &status, &foreign).await,
            ask(&process, "GET", &status, &[], b"").await,
        ] {
            assert!((400..500).contains(&refused.status), "{}", refused.status);
            marks.are_not_answered("what others are answered", &refused);
        }
        look_as_operators(&operators, &mut marks).await;
        assert_eq!(with_token(&process, "DELETE", &status, &token).await.status, 202);
        speak_no_http(&process).await;
        until("it logs everything", async || Ok(process.whole_log().contains("DEBUG").then_some(())))
            .await
            .unwrap_or_else(|error| panic!("{error:?}\n{}", process.log()));
        marks.are_not_told_by(&process);
    }
    server.stop().await;
}

/// A server that fails to answer anything, at length.
async fn failing(marks: &Marks) -> String {
    let listener = listener().await;
    let base = format!("http://{}/fhir", listener.local_addr().expect("it listens"));
    let mut text = String::new();
    for (_, mark) in &marks.0 {
        write!(text, "{mark} ").expect("a String takes all");
    }
    let statement = json!({
        "resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "format": ["json"], "status": "active",
        "kind": "instance", "date": "2026-01-01", "software": { "name": "failing" },
        "rest": [{ "mode": "server", "resource": [
            { "type": "Patient", "interaction": [{ "code": "search-type" }], "searchParam": [{ "name": "_lastUpdated", "type": "date" }] },
        ] }],
    });
    let outcome = json!({
        "resourceType": "OperationOutcome",
        "issue": [{ "severity": "fatal", "code": "exception", "diagnostics": text, "details": { "text": text },
            "expression": [text] }],
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (statement, outcome, text) = (statement.to_string(), outcome.to_string(), text.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                let is_statement = head.starts_with(b"GET /fhir/metadata");
                let (status, body) = if is_statement { ("200 OK", statement) } else { ("422 Canaries", outcome) };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/fhir+json\r\nConnection: close\r\n\
                     Set-Cookie: {0}\r\nLocation: /{1}\r\nWarning: {0}\r\nContent-Length: {2}\r\n\r\n{body}",
                    text.trim(),
                    text.trim().replace(' ', "/"),
                    body.len()
                );
                let _gone = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    base
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // commands are waited for while the server answers them
async fn nothing_that_a_failing_server_says_is_told() {
    let mut marks = Marks::default();
    marks.add("what the server says", "canary-diagnostics");
    marks.add("whom it speaks of", "Patient/canary-in-trouble");
    let upstream = failing(&marks).await;
    let client = Client::new("own", "system/*.rs");
    let options = Options { upstream: "give_up_after_seconds: 2", ..Options::default() };
    let (process, operators) = telling(&upstream, options, &[&client], "json").await;
    let token = token(&process, &client).await;
    let kickoff = with_token(&process, "GET", &format!("{}/$export", process.base), &token).await;
    marks.are_not_answered("the kick-off", &kickoff);
    assert_eq!(kickoff.status, 202, "{}", String::from_utf8_lossy(&kickoff.body));
    let status = kickoff.header("content-location").to_owned();
    let ended = until("the export ends", async || {
        let answer = with_token(&process, "GET", &status, &token).await;
        Ok((answer.status != 202).then_some(answer))
    });
    let ended = ended.await.expect("it does");
    assert_eq!(ended.status, 200, "what it does not give is said in a file");
    marks.are_not_answered("the status", &ended);
    let link = ended.json()["error"][0]["url"].as_str().expect("a link").to_owned();
    let said = ask(&process, "GET", &link, &[], b"").await;
    assert_eq!(said.status, 200);
    marks.are_not_answered("what is said of it", &said);
    let group = with_token(&process, "GET", &format!("{}/Group/a/$export", process.base), &token).await;
    assert!(group.status >= 400, "{}", group.status);
    marks.are_not_answered("the kick-off of a Group", &group);
    look_as_operators(&operators, &mut marks).await;
    marks.are_not_told_by(&process);
}
