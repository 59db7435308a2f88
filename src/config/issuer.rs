//! The section of its name below `smart`; each option says what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use super::smart::check_uri;
use crate::smart::jws::Alg;
use crate::smart::scope::Scopes;

/// Whose access tokens are taken, and how they are verified: by its keys, or by asking it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its name, as `iss` of its tokens has it, letter by letter; its metadata lie there.
    pub issuer: Option<String>,
    /// Where its keys are; without it, where its metadata say.
    pub jwks_uri: Option<Url>,
    /// What its tokens may be signed by.
    pub algorithms: Vec<String>,
    /// What `aud` of its tokens has to name; without it the base that bulk clients use.
    pub audience: Option<String>,
    /// How it is asked what a token is worth, if that is how they are verified.
    pub introspection: IntrospectionConfig,
    /// Where its tokens say what.
    pub claims: ClaimsConfig,
    /// What words of its own among the scopes stand for.
    pub scope_map: BTreeMap<String, String>,
    /// Where clients get their tokens; without it, where its metadata say.
    pub token_endpoint: Option<Url>,
}

/// How an issuer is asked what a token is worth (RFC 7662).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// Where; without it, where its metadata say.
    pub endpoint: Option<Url>,
    /// The name that we are registered by there.
    pub client_id: Option<String>,
    /// The file that holds our secret.
    pub client_secret_file: Option<PathBuf>,
    /// The file of a private key, as `offtake keys generate` makes one, instead of a secret.
    pub key_file: Option<PathBuf>,
    /// Whom what that signs is for; null is the endpoint's own address.
    pub audience: Option<String>,
}

/// Where a token says what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimsConfig {
    /// Which claims name the client.
    pub client: Vec<String>,
    /// Which claims may hold the scopes: the first that is there does.
    pub scope: Vec<String>,
    /// Claims that have to be there, each with this text.
    pub required: BTreeMap<String, String>,
}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            issuer: None,
            jwks_uri: None,
            algorithms: Alg::SMART.iter().map(|alg| alg.as_str().to_owned()).collect(),
            audience: None,
            introspection: IntrospectionConfig::default(),
            claims: ClaimsConfig::default(),
            scope_map: BTreeMap::new(),
            token_endpoint: None,
        }
    }
}

impl Default for ClaimsConfig {
    fn default() -> Self {
        Self { client: names(&["client_id", "azp"]), scope: names(&["scope"]), required: BTreeMap::new() }
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl IssuerConfig {
    /// What its tokens may be signed by.
    pub(crate) fn accepted(&self) -> Vec<Alg> {
        self.algorithms.iter().filter_map(|name| Alg::parse(name, &Alg::ALL)).collect()
    }

    /// All addresses that are asked.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Url> {
        [&self.jwks_uri, &self.introspection.endpoint].into_iter().flatten()
    }

    /// What is wrong with it where it is used. `private_hosts` are those that may be inside.
    pub(super) fn check(&self, private_hosts: &BTreeSet<String>, add: &mut dyn FnMut(&str, &str)) {
        match self.issuer.as_deref().map(Url::parse) {
            None => add("issuer", "is missing: name the issuer as `iss` of its tokens has it"),
            Some(Err(_)) => add("issuer", "is no URL"),
            Some(Ok(url)) => {
                if url.query().is_some() {
                    add("issuer", "has a query");
                }
                check_uri(&url, private_hosts, &mut |problem| add("issuer", problem));
            }
        }
        let addresses = [
            ("jwks_uri", &self.jwks_uri),
            ("introspection.endpoint", &self.introspection.endpoint),
            ("token_endpoint", &self.token_endpoint),
        ];
        for (option, address) in addresses {
            if let Some(address) = address {
                // Of the last one we only tell others.
                let anywhere =
                    if option == "token_endpoint" { address.host_str().map(super::smart::plain) } else { None };
                let hosts: BTreeSet<_> = private_hosts.iter().cloned().chain(anywhere).collect();
                check_uri(address, &hosts, &mut |problem| add(option, problem));
            }
        }
        self.check_algorithms(add);
        if self.audience.as_deref().is_some_and(|audience| audience.is_empty() || audience.len() > 1_000) {
            add("audience", "is empty, or longer than 1000 characters");
        }
        self.introspection.check(add);
        if self.introspection != IntrospectionConfig::default() && self.jwks_uri.is_some() {
            add("jwks_uri", "is not asked where tokens are verified by introspection: take out one of them");
        }
        self.claims.check(add);
        for (word, scope) in &self.scope_map {
            let option = format!("scope_map.{word}");
            let is_scope = ["system/", "patient/", "user/"].iter().any(|context| word.starts_with(context));
            if word.is_empty() || is_scope || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
                add("scope_map", "has a word that is a scope already, or no word");
            }
            if let Err(error) = Scopes::parse(scope) {
                add(&option, &error.to_string());
            }
        }
    }

    fn check_algorithms(&self, add: &mut dyn FnMut(&str, &str)) {
        if self.algorithms.is_empty() {
            add("algorithms", "is empty, so no token would be good");
        }
        for name in &self.algorithms {
            if name.starts_with("HS") {
                let problem = format!("holds {name}: whoever can verify by it can sign");
                add("algorithms", &problem);
            } else if Alg::parse(name, &Alg::ALL).is_none() {
                let known: Vec<_> = Alg::ALL.iter().map(|alg| alg.as_str()).collect();
                add("algorithms", &format!("holds what is none of {}", known.join(", ")));
            }
        }
    }
}

impl IntrospectionConfig {
    fn check(&self, add: &mut dyn FnMut(&str, &str)) {
        if *self == Self::default() {
            return;
        }
        let is_bad = |id: &String| id.is_empty() || id.chars().any(char::is_control);
        if self.client_id.as_ref().is_none_or(is_bad) {
            add("introspection.client_id", "is missing, or holds control characters");
        }
        match (&self.client_secret_file, &self.key_file) {
            (None, None) => {
                add(
                    "introspection.client_secret_file",
                    "is missing, and key_file too: the issuer has to know who asks",
                );
            }
            (Some(_), Some(_)) => {
                add("introspection.key_file", "stands beside client_secret_file: one of them is shown");
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
        for (option, path) in [("client_secret_file", &self.client_secret_file), ("key_file", &self.key_file)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                add(&format!("introspection.{option}"), "is not an absolute path");
            }
        }
        if self.audience.is_some() && self.key_file.is_none() {
            add("introspection.audience", "is for key_file");
        }
        if self.audience.as_ref().is_some_and(|audience| audience.is_empty() || audience.len() > 1_000) {
            add("introspection.audience", "is empty, or longer than 1000 characters");
        }
    }
}

impl ClaimsConfig {
    fn check(&self, add: &mut dyn FnMut(&str, &str)) {
        for (option, names) in [("claims.client", &self.client), ("claims.scope", &self.scope)] {
            if names.is_empty() || names.len() > 8 || names.iter().any(String::is_empty) {
                add(option, "names no claim, or more than eight, or an empty one");
            }
        }
        if self.client.iter().any(|name| name == "sub") {
            add("claims.client", "holds `sub`, which is no client at many issuers: name the claim that is");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    /// What is told of a configuration with this in `smart.issuer`, and this beside it.
    fn told(issuer: &str, beside: &str) -> Option<String> {
        let yaml = format!(
            "server: {{ listen: '0.0.0.0:8080', public_base_url: https://fhir.example.org/fhir }}\n\
             upstream: {{ base_url: http://127.0.0.1:9000/fhir }}\n\
             smart: {{ mode: external, clients: [{{ client_id: a, scope: system/*.rs }}], {beside}\n\
             \x20 issuer: {{ {issuer} }} }}\n"
        );
        Config::from_yaml(&yaml).err().map(|error| error.to_string())
    }

    #[test]
    fn an_issuer_is_named_and_the_rest_can_be_found_out() {
        for issuer in [
            "issuer: https://login.example/realms/a",
            "issuer: https://login.example/, jwks_uri: https://login.example/keys, token_endpoint: https://login.example/t",
            "issuer: https://login.example, algorithms: [RS256, PS256, ES256, ES384]",
            "issuer: https://login.example, audience: 'api://offtake'",
            "issuer: https://login.example, claims: { client: [cid], scope: [scp] }",
            "issuer: https://login.example, claims: { required: { idtyp: app } }",
            "issuer: https://login.example, scope_map: { system.all: system/*.rs, 'api://a/Patient': system/Patient.rs }",
            "issuer: https://login.example, introspection: { client_id: offtake, client_secret_file: /run/secrets/a }",
            "issuer: https://login.example, introspection: { client_id: offtake, key_file: /run/secrets/a }",
            "issuer: https://login.example, introspection: { client_id: a, key_file: /a, audience: https://login.example }",
            "issuer: https://login.example, token_endpoint: 'https://10.0.0.1/token'",
        ] {
            assert_eq!(told(issuer, ""), None, "{issuer}");
        }
        assert_eq!(told("issuer: 'http://127.0.0.1:9'", "jwks_private_hosts: [127.0.0.1],"), None);
    }

    #[test]
    fn every_mistake_is_named() {
        let issuer = "issuer: https://login.example";
        for (more, expected) in [
            ("", "smart.issuer.issuer is missing"),
            ("issuer: login", "smart.issuer.issuer is no URL"),
            ("issuer: http://login.example", "smart.issuer.issuer is not https://"),
            ("issuer: 'http://127.0.0.1:9'", "smart.issuer.issuer has a private address"),
            ("issuer: 'https://login.example?a=b'", "smart.issuer.issuer has a query"),
            ("issuer: 'https://a:b@login.example'", "smart.issuer.issuer holds a user name"),
            ("ISSUER, jwks_uri: http://login.example/k", "smart.issuer.jwks_uri is not https://"),
            ("ISSUER, jwks_uri: 'https://10.0.0.1/k'", "smart.issuer.jwks_uri has a private address"),
            ("ISSUER, token_endpoint: http://login.example/t", "smart.issuer.token_endpoint is not https://"),
            ("ISSUER, algorithms: []", "smart.issuer.algorithms is empty"),
            ("ISSUER, algorithms: [HS256]", "whoever can verify by it can sign"),
            ("ISSUER, algorithms: [none]", "smart.issuer.algorithms holds what is none of ES256"),
            ("ISSUER, algorithms: [rs256]", "smart.issuer.algorithms holds what is none of ES256"),
            ("ISSUER, audience: ''", "smart.issuer.audience is empty"),
            ("ISSUER, claims: { client: [client_id, sub] }", "smart.issuer.claims.client holds `sub`"),
            ("ISSUER, claims: { client: [] }", "smart.issuer.claims.client names no claim"),
            ("ISSUER, claims: { scope: [''] }", "smart.issuer.claims.scope names no claim"),
            ("ISSUER, scope_map: { system/Patient.rs: system/*.rs }", "a word that is a scope already"),
            ("ISSUER, scope_map: { all: 'user/*.rs' }", "smart.issuer.scope_map.all holds something else"),
            ("ISSUER, introspection: { client_id: a }", "smart.issuer.introspection.client_secret_file is missing"),
            ("ISSUER, introspection: { client_secret_file: /a }", "smart.issuer.introspection.client_id is missing"),
            ("ISSUER, introspection: { client_id: a, client_secret_file: a }", "is not an absolute path"),
            ("ISSUER, introspection: { client_id: a, client_secret: a }", "client_secret"),
            ("ISSUER, introspection: { client_id: a, client_secret_file: /a, key_file: /b }", "one of them is shown"),
            ("ISSUER, introspection: { client_id: a, key_file: b }", "introspection.key_file is not an absolute path"),
            (
                "ISSUER, introspection: { client_id: a, client_secret_file: /a, audience: b }",
                "audience is for key_file",
            ),
            ("ISSUER, introspection: { client_id: a, key_file: /a, audience: '' }", "introspection.audience is empty"),
            (
                "ISSUER, jwks_uri: https://login.example/k, introspection: { client_id: a, client_secret_file: /a }",
                "is not asked where tokens are verified by introspection",
            ),
        ] {
            let told = told(&more.replace("ISSUER", issuer), "").expect(more);
            assert!(told.contains(expected), "{more}: {told}");
        }
        for (beside, expected) in [
            ("token_lifetime_seconds: 60,", "smart.token_lifetime_seconds is for `mode: authorization_server`"),
            ("open_to_everyone: true,", "smart.open_to_everyone is for `mode: open`"),
        ] {
            let told = told(issuer, beside).expect(beside);
            assert!(told.contains(expected), "{beside}: {told}");
        }
    }

    /// Whoever may ask an issuer for tokens, it is the issuer that knows their keys.
    #[test]
    fn clients_of_an_issuer_have_no_keys_here() {
        for keys in ["jwks: { keys: [] }", "jwks_file: /a", "jwks_uri: https://client.example/k"] {
            let yaml = format!(
                "server: {{ public_base_url: https://fhir.example.org/fhir }}\nupstream: {{ base_url: http://h/fhir }}\n\
                 smart: {{ mode: external, issuer: {{ issuer: https://login.example }}, clients: [{{ client_id: a, \
                 scope: system/*.rs, {keys} }}] }}\n"
            );
            let told = Config::from_yaml(&yaml).expect_err(keys).to_string();
            let option = keys.split(':').next().unwrap_or_default();
            assert!(told.contains(&format!("smart.clients[0].{option} is for `mode: authorization_server`")), "{told}");
        }
    }

    /// What is said of a client in one mode is as good in the other.
    #[test]
    fn the_policy_of_a_client_is_looked_at_whoever_knows_its_keys() {
        let yaml = "server: { public_base_url: https://fhir.example.org/fhir }\nupstream: { base_url: http://h/fhir }\n\
             smart: { mode: external, issuer: { issuer: https://login.example }, clients: [{ client_id: a, \
             scope: system/*.rs, policy: { types: [Dragon] } }] }\n";
        let told = Config::from_yaml(yaml).expect_err("there are no dragons").to_string();
        assert!(told.contains("smart.clients[0].policy.types[0] is `Dragon`"), "{told}");
    }

    /// SM-011
    #[test]
    fn tokens_are_not_to_be_read_on_the_way() {
        let yaml = "server: { public_base_url: http://fhir.example.org/fhir }\nupstream: { base_url: http://h/fhir }\n\
             smart: { mode: external, issuer: { issuer: https://login.example }, clients: [{ client_id: a, \
             scope: system/*.rs }] }\n";
        let told = Config::from_yaml(yaml).expect_err("plain http").to_string();
        assert!(told.contains("server.public_base_url is not https://"), "{told}");
    }
}
