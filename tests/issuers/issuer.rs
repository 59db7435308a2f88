//! A real issuer, as its clients use it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use crate::raw::{self, Answer};

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// An issuer that runs.
pub(crate) struct Issuer {
    pub(crate) name: String,
    /// `iss`
    pub(crate) url: String,
    folder: PathBuf,
}

/// A client of it that proves who it is by a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) id: &'static str,
    alg: Algorithm,
}

pub(crate) const ES384: Client = Client { id: "warehouse-es384", alg: Algorithm::ES384 };
pub(crate) const RS384: Client = Client { id: "warehouse-rs384", alg: Algorithm::RS384 };
/// It is not listed here.
pub(crate) const STRANGER: Client = Client { id: "stranger", alg: Algorithm::ES384 };
/// It is listed, and its tokens of Keycloak are for nobody in particular.
pub(crate) const ELSEWHERE: Client = Client { id: "elsewhere", alg: Algorithm::ES384 };

#[expect(clippy::disallowed_methods, reason = "tests are told by it what runs")]
pub(crate) fn given(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// What `tests/issuers/run` sets.
pub(crate) fn needed(variable: &str) -> String {
    given(variable).unwrap_or_else(|| panic!("{variable} is set by tests/issuers/run"))
}

impl Issuer {
    pub(crate) fn named(name: &str) -> Self {
        let folder = PathBuf::from(needed("OFFTAKE_ISSUERS_DIR"));
        let url = std::fs::read_to_string(folder.join(format!("{name}.issuer"))).expect("it has started");
        Self { name: name.to_owned(), url: url.trim().to_owned(), folder }
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.name.ends_with("opaque")
    }

    pub(crate) fn is_keycloak(&self) -> bool {
        self.name == "keycloak"
    }

    /// What it says of itself.
    pub(crate) async fn metadata(&self) -> Value {
        ask(&format!("{}/.well-known/openid-configuration", self.url), "GET", &[], b"").await.json()
    }

    /// What a client signs to prove who it is, for so many seconds.
    fn assertion(&self, client: Client, seconds: u64) -> anyhow::Result<String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = if client.alg == Algorithm::ES384 { "es384" } else { "rs384" };
        let read = |ending: &str| std::fs::read_to_string(self.folder.join(format!("{name}.{ending}")));
        let (pem, kid) = (read("pem")?, read("kid")?);
        let key = match client.alg {
            Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes())?,
            _ => EncodingKey::from_rsa_pem(pem.as_bytes())?,
        };
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed()?;
        let jti = format!("{}-{}-{}", std::process::id(), now.as_nanos(), NEXT.fetch_add(1, Ordering::Relaxed));
        let header = json!({ "alg": name.to_uppercase(), "typ": "JWT", "kid": kid });
        let claims = json!({
            "iss": client.id, "sub": client.id, "aud": self.url, "iat": now.as_secs(), "exp": now.as_secs() + seconds,
            "jti": jti,
        });
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = crypto::sign(signed.as_bytes(), &key, client.alg)?;
        Ok(format!("{signed}.{signature}"))
    }

    /// Sends a form with what proves who the client is to the endpoint of this name.
    async fn post(
        &self,
        endpoint: &str,
        client: Client,
        seconds: u64,
        more: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let metadata = self.metadata().await;
        let url = metadata[endpoint].as_str().with_context(|| format!("{endpoint} is not in its metadata"))?;
        let assertion = self.assertion(client, seconds)?;
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs([("client_assertion_type", JWT_BEARER), ("client_assertion", &assertion)]);
        form.extend_pairs(more);
        Ok(ask(url, "POST", &[FORM], form.finish().as_bytes()).await)
    }

    /// What comes of asking for a token by client credentials.
    pub(crate) async fn answer(&self, client: Client, scope: &str, more: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let form = [&[("grant_type", "client_credentials"), ("scope", scope)], more].concat();
        self.post("token_endpoint", client, 60, &form).await
    }

    /// A token.
    pub(crate) async fn token(&self, client: Client, scope: &str) -> anyhow::Result<String> {
        token(&self.answer(client, scope, &[]).await?)
    }

    /// A token by an assertion that is good for so long.
    pub(crate) async fn token_by(&self, client: Client, seconds: u64) -> anyhow::Result<String> {
        let form = [("grant_type", "client_credentials"), ("scope", "system/*.rs")];
        token(&self.post("token_endpoint", client, seconds, &form).await?)
    }

    /// Has a token revoked by the client that it was issued to (RFC 7009).
    pub(crate) async fn revoke(&self, client: Client, token: &str) -> anyhow::Result<()> {
        let answer = self.post("revocation_endpoint", client, 60, &[("token", token)]).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        Ok(())
    }

    /// What a user's app gets once the user has logged in.
    pub(crate) fn login(&self, scope: &str) -> anyhow::Result<Value> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/issuers/login.mjs");
        let mut node = Command::new("node");
        let output = node.args([script, &self.url, "portal", scope, "http://127.0.0.1:1/callback"]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn token(answer: &Answer) -> anyhow::Result<String> {
    ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    Ok(answer.json()["access_token"].as_str().context("no access token")?.to_owned())
}

async fn ask(url: &str, method: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    raw::ask(host, &raw::request(method, &format!("/{path}"), host, headers, body)).await
}
