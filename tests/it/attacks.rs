//! The attack table: each row beside a benign twin that differs from it in one property and is let in.
//!
//! Every row goes over TCP. A row that is refused has left nothing but a denial in the ledger: the upstream was asked for
//! nothing, and nothing was written to the job store.

mod assertions;
mod external;
mod jobs;
mod tokens;

use serde_json::Value;

use crate::raw::{self, Answer};
use crate::smart::{Client, FORM, Key, Parameters, Rig, form};

/// One request, as it goes over the wire.
#[derive(Clone)]
struct Sent {
    method: String,
    /// Below the base.
    below: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Sent {
    fn new(method: &str, below: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { method: method.to_owned(), below: below.to_owned(), headers, body: body.to_vec() }
    }

    /// The same with one header in the place of any of that name.
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
        self.and(name, value)
    }

    /// The same with one header more.
    fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn to(mut self, below: &str) -> Self {
        below.clone_into(&mut self.below);
        self
    }

    async fn send(&self, rig: &Rig) -> Answer {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let host = rig.host();
        let target = format!("/fhir{}", self.below);
        raw::ask(&host, &raw::request(&self.method, &target, &host, &headers, &self.body)).await
    }
}

/// How an attack is answered: its status, and the `error` of RFC 6749 or of `WWW-Authenticate`, or the code of the issue.
type Refusal = (u16, &'static str);

/// Sends the attack and then its twin: the one is refused and leaves nothing, the other is let in.
async fn assert_refused(rig: &Rig, what: &str, attack: &Sent, refusal: Refusal, twin: &Sent) {
    let recorded = rig.ledger().len();
    let before = (rig.upstream.requests().len(), rig.writes.effects(), rig.store.job_ids().await);
    let answer = attack.send(rig).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, refusal.0, "{what}: {text}");
    let json = answer.json();
    let told = [json["error"].as_str(), error_of(answer.header("www-authenticate")), code_of(&json)];
    assert!(told.contains(&Some(refusal.1)) || refusal.1.is_empty(), "{what}: {told:?}: {text}");
    let after = (rig.upstream.requests().len(), rig.writes.effects(), rig.store.job_ids().await);
    assert_eq!(before, after, "{what}: requests to the upstream, writes to the store, jobs");
    // A twin's download may have come to its end by now.
    let told = crate::ledger::of_kind(&rig.ledger().split_off(recorded), "denied");
    let [denial] = told.as_slice() else { panic!("{what}: not one record: {told:?}") };
    assert_eq!(denial["status"].as_u64(), Some(refusal.0.into()), "{what}");
    let answer = twin.send(rig).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(matches!(answer.status, 200 | 202 | 307), "the twin of {what}: {}: {text}", answer.status);
    // An export that was begun is waited for, so that what comes next finds everything at rest.
    if let Some(status) = answer.header("content-location").strip_prefix(&rig.base) {
        let poll = Sent { method: "GET".to_owned(), body: Vec::new(), ..twin.clone() }.to(status);
        let mut answer = poll.send(rig).await;
        while matches!(answer.status, 202 | 429) {
            rig.pause(answer.status).await;
            answer = poll.send(rig).await;
        }
        assert_eq!(answer.status, 200, "the export of the twin of {what}");
    }
}

fn error_of(challenge: &str) -> Option<&str> {
    challenge.split_once("error=\"")?.1.split('"').next()
}

fn code_of(json: &Value) -> Option<&str> {
    json["issue"][0]["code"].as_str()
}

/// A token request of these parameters.
fn token_request(parameters: &Parameters) -> Sent {
    Sent::new("POST", "/$bulk-token", &[FORM], form(parameters).as_bytes())
}

/// A client, another one, and a third whose keys are of the other kind.
fn cast() -> [Client; 3] {
    let rsa = Client { key: Key::rs384("r1"), ..Client::new("rsa", "system/*.rs") };
    [Client::new("own", "system/*.rs system/*.cud"), Client::new("other", "system/Patient.rs"), rsa]
}
