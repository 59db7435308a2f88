//! Access tokens of an external issuer, over TCP (SEC-11).

mod discovery;
mod introspection;
pub(crate) mod issuer;
mod keys;
mod process;
mod tokens;

use offtake::Config;
use offtake::config::{ClientConfig, SmartMode};
use serde_json::{Value, json};

use crate::smart::{Key, Rig, fresh};
use issuer::Issuer;

/// An Offtake whose clients get their tokens from an issuer of the test.
pub(crate) struct External {
    pub(crate) rig: Rig,
    pub(crate) issuer: Issuer,
    /// What the issuer signs by.
    pub(crate) key: Key,
}

impl External {
    pub(crate) async fn with(clients: &[(&str, &str)]) -> Self {
        Self::configured(clients, |_| {}).await
    }

    pub(crate) async fn configured(clients: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> Self {
        let (issuer, key) = (Issuer::serve().await, Key::es384("i1"));
        issuer.publish(&[&key], "");
        let rig = Rig::configured(&[], |config| {
            config.smart.mode = SmartMode::External;
            config.smart.jwks_private_hosts = vec!["127.0.0.1".to_owned()];
            config.smart.issuer.issuer = Some(issuer.base.clone());
            config.smart.clients = clients.iter().map(|(id, scope)| client(id, scope)).collect();
            change(config);
        })
        .await;
        Self { rig, issuer, key }
    }

    /// What the issuer says in a good token of this client.
    pub(crate) fn claims(&self, client: &str, scope: &str) -> Value {
        let now = self.rig.now();
        json!({
            "iss": self.issuer.base, "aud": self.rig.base, "sub": "5f1c2d3e", "client_id": client, "scope": scope,
            "iat": now, "exp": now + 3_600, "jti": fresh("jti"),
        })
    }

    /// Such a token.
    pub(crate) fn token(&self, client: &str, scope: &str) -> String {
        signed(&self.key, &self.claims(client, scope))
    }
}

/// A client that the issuer knows.
pub(crate) fn client(id: &str, scope: &str) -> ClientConfig {
    ClientConfig { client_id: id.to_owned(), scope: scope.to_owned(), ..ClientConfig::default() }
}

/// An access token as RFC 9068 has it.
pub(crate) fn signed(key: &Key, claims: &Value) -> String {
    let alg = key.jwk["alg"].as_str().expect("an algorithm");
    key.sign(&json!({ "alg": alg, "typ": "at+jwt", "kid": key.jwk["kid"] }).to_string(), &claims.to_string())
}
