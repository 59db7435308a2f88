//! What is said of the server that issues tokens, be it ours or another one: `.well-known/smart-configuration`. Pure.

use serde_json::json;

use super::jws::Alg;
use super::scope::Scopes;

/// The addresses of an authorization server: all below the FHIR base that it is for.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    /// The base, without a slash at its end: issuer and audience of all tokens.
    pub(crate) base: String,
    pub(crate) token: String,
    pub(crate) introspection: String,
    pub(crate) jwks: String,
}

impl Endpoints {
    pub(crate) fn below(base: &str) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        let at = |name: &str| format!("{base}/{name}");
        Self { token: at("$bulk-token"), introspection: at("$bulk-introspect"), jwks: at("$bulk-jwks"), base }
    }

    /// SM-001 to SM-006. `registered` is what the clients may have: each of it works for some client.
    pub(crate) fn document<'a>(&self, registered: impl Iterator<Item = &'a Scopes>) -> String {
        let (scopes, algorithms) = (listed(registered), algorithms());
        json!({
            "issuer": self.base,
            "jwks_uri": self.jwks,
            "token_endpoint": self.token,
            "introspection_endpoint": self.introspection,
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": algorithms,
            "introspection_endpoint_auth_methods_supported": ["private_key_jwt"],
            "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
            "scopes_supported": scopes,
            "code_challenge_methods_supported": ["S256"],
            "capabilities": ["client-confidential-asymmetric", "permission-v2", "permission-v1"],
        })
        .to_string()
    }
}

/// The same where another server issues the tokens: what is known of it, and no endpoint of ours.
pub(crate) fn of_another<'a>(
    token_endpoint: &str,
    auth_methods: Option<Vec<String>>,
    auth_algorithms: Option<Vec<String>>,
    registered: impl Iterator<Item = &'a Scopes>,
) -> String {
    json!({
        "token_endpoint": token_endpoint,
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": auth_methods.unwrap_or_else(|| vec!["private_key_jwt".to_owned()]),
        "token_endpoint_auth_signing_alg_values_supported": auth_algorithms.unwrap_or_else(algorithms),
        "scopes_supported": listed(registered),
        "code_challenge_methods_supported": ["S256"],
        "capabilities": ["client-confidential-asymmetric", "permission-v2", "permission-v1"],
    })
    .to_string()
}

fn algorithms() -> Vec<String> {
    Alg::SMART.iter().map(|alg| alg.as_str().to_owned()).collect()
}

/// What some client may have: each of it works.
fn listed<'a>(registered: impl Iterator<Item = &'a Scopes>) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for scope in registered.flat_map(|scopes| scopes.to_string().split(' ').map(str::to_owned).collect::<Vec<_>>()) {
        // What narrows one client is nobody else's to know.
        let scope = scope.split('?').next().unwrap_or_default().to_owned();
        if !scopes.contains(&scope) && scopes.len() < MOST_SCOPES {
            scopes.push(scope);
        }
    }
    scopes
}

/// The list may be incomplete.
const MOST_SCOPES: usize = 100;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// SM-002, SM-003, SM-004, SM-005, SM-006
    #[test]
    fn the_document_has_what_is_required_and_nothing_relative() {
        let registered = [
            Scopes::parse("system/Patient.rs?gender=male").expect("scopes"),
            Scopes::parse("system/*.read").expect("scopes"),
        ];
        let document = Endpoints::below("https://fhir.example/r4/").document(registered.iter());
        let document: Value = serde_json::from_str(&document).expect("JSON");
        for (name, expected) in [
            ("issuer", json!("https://fhir.example/r4")),
            ("token_endpoint", json!("https://fhir.example/r4/$bulk-token")),
            ("introspection_endpoint", json!("https://fhir.example/r4/$bulk-introspect")),
            ("jwks_uri", json!("https://fhir.example/r4/$bulk-jwks")),
            ("grant_types_supported", json!(["client_credentials"])),
            ("code_challenge_methods_supported", json!(["S256"])),
            ("token_endpoint_auth_methods_supported", json!(["private_key_jwt"])),
            ("token_endpoint_auth_signing_alg_values_supported", json!(["ES384", "RS384"])),
            ("scopes_supported", json!(["system/Patient.rs", "system/*.read"])),
        ] {
            assert_eq!(document[name], expected, "{name}");
        }
        let capabilities = document["capabilities"].as_array().expect("a list");
        assert!(capabilities.contains(&json!("client-confidential-asymmetric")));
        assert!(document.get("authorization_endpoint").is_none(), "there is nobody who could log in");
    }

    #[test]
    fn of_another_server_nothing_is_said_but_what_is_known() {
        let registered = [Scopes::parse("system/Patient.rs").expect("scopes")];
        let methods = Some(vec!["private_key_jwt".to_owned(), "client_secret_basic".to_owned()]);
        let document = of_another("https://login.example/token", methods, None, registered.iter());
        let document: Value = serde_json::from_str(&document).expect("JSON");
        for (name, expected) in [
            ("token_endpoint", json!("https://login.example/token")),
            ("token_endpoint_auth_methods_supported", json!(["private_key_jwt", "client_secret_basic"])),
            ("token_endpoint_auth_signing_alg_values_supported", json!(["ES384", "RS384"])),
            ("scopes_supported", json!(["system/Patient.rs"])),
            ("code_challenge_methods_supported", json!(["S256"])),
            ("issuer", Value::Null),
            ("introspection_endpoint", Value::Null),
        ] {
            assert_eq!(document[name], expected, "{name}");
        }
    }
}
