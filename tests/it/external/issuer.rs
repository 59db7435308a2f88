//! An issuer of access tokens on loopback: what it publishes, and how often it is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::smart::Key;
use crate::support;

/// A server that answers as it is told.
#[derive(Clone)]
pub(crate) struct Issuer {
    /// Its name, and where it is.
    pub(crate) base: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The whole answer for each path, byte for byte; an empty one never comes.
    answers: BTreeMap<String, String>,
    /// What it says of tokens.
    tokens: BTreeMap<String, Value>,
    asked: Vec<Asked>,
}

/// One request to it.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) form: BTreeMap<String, String>,
}

impl Issuer {
    pub(crate) async fn serve() -> Self {
        let listener = support::listener().await;
        let base = format!("http://{}/realms/a", listener.local_addr().expect("it listens"));
        let state = Arc::new(Mutex::new(State::default()));
        let issuer = Self { base, state };
        issuer.say("/.well-known/openid-configuration", &ok(&issuer.metadata(), ""));
        let own = issuer.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let own = own.clone();
                // One that breaks off is the test's own affair.
                tokio::spawn(async move { drop(own.answer(socket).await) });
            }
        });
        issuer
    }

    async fn answer(&self, mut socket: tokio::net::TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let length = head
            .to_ascii_lowercase()
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.split("\r\n").next().and_then(|length| length.parse::<usize>().ok()));
        let mut body = vec![0; length.unwrap_or(0)];
        socket.read_exact(&mut body).await?;
        let form: BTreeMap<_, _> = url::form_urlencoded::parse(&body).into_owned().collect();
        let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches("/realms/a").to_owned();
        let answer = {
            let mut state = self.lock();
            let told = state.tokens.get(form.get("token").map_or("", String::as_str));
            let told = told.cloned().unwrap_or_else(|| json!({ "active": false }));
            let answer = match state.answers.get(&path) {
                Some(answer) => answer.clone(),
                None if path == "/introspect" => ok(&told, ""),
                None => "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned(),
            };
            state.asked.push(Asked { path, head, form });
            answer
        };
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
        socket.write_all(answer.as_bytes()).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked")
    }

    /// What it says of itself.
    pub(crate) fn metadata(&self) -> Value {
        json!({
            "issuer": self.base,
            "jwks_uri": format!("{}/jwks", self.base),
            "token_endpoint": format!("{}/token", self.base),
            "introspection_endpoint": format!("{}/introspect", self.base),
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        })
    }

    /// Answers requests for a path below its name like that from now on.
    pub(crate) fn say(&self, path: &str, answer: &str) {
        self.lock().answers.insert(path.to_owned(), answer.to_owned());
    }

    pub(crate) fn publish(&self, keys: &[&Key], headers: &str) {
        let keys: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
        self.say("/jwks", &ok(&json!({ "keys": keys }), headers));
    }

    /// Says this of a token from now on.
    pub(crate) fn tell(&self, token: &str, told: Value) {
        self.lock().tokens.insert(token.to_owned(), told);
    }

    /// How often it was asked for a path.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.lock().asked.iter().filter(|asked| asked.path == path).count()
    }

    pub(crate) fn last(&self, path: &str) -> Asked {
        self.lock().asked.iter().rfind(|asked| asked.path == path).expect("it was asked").clone()
    }
}

pub(crate) fn ok(json: &Value, headers: &str) -> String {
    let body = json.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
