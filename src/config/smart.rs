//! The section of its name; each option says what it does.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::issuer::IssuerConfig;
use super::policy::ClientPolicyConfig;
use super::server::is_loopback;
use super::{Problems, Section, seconds};
use crate::bulk::shape::Release;
use crate::smart::address::is_public;
use crate::smart::client::{ClientId, JwksUri};
use crate::smart::delivery::{ClientFolder, LinkMode};
use crate::smart::jwk::KeySet;
use crate::smart::narrowing;
use crate::smart::scope::Scopes;

/// Who may export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmartConfig {
    /// How clients are known.
    pub mode: SmartMode,
    /// Whether in `open` mode everybody who reaches us may export everything, from whatever machine.
    pub open_to_everyone: bool,
    /// How long an access token is good.
    #[serde(rename = "token_lifetime_seconds", with = "seconds")]
    pub token_lifetime: Duration,
    /// The key that signs access tokens is replaced after so long; the one before it stays good for its last tokens.
    #[serde(rename = "token_key_lifetime_seconds", with = "seconds")]
    pub token_key_lifetime: Duration,
    /// Hosts of `jwks_uri`, and of an issuer, that may have private addresses.
    pub jwks_private_hosts: Vec<String>,
    /// Whose access tokens are taken in `external` mode.
    pub issuer: IssuerConfig,
    /// Who may export, in the words of RFC 7591.
    pub clients: Vec<ClientConfig>,
}

/// How clients are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmartMode {
    /// Everybody on this machine may export everything: for trials.
    #[default]
    Open,
    /// Registered clients get access tokens from us (SMART Backend Services).
    AuthorizationServer,
    /// Registered clients get access tokens from another issuer, which knows them.
    External,
}

/// A client that may export. Where it asks us for access tokens, its keys are given in one of three ways.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// The name that it signs its assertions by.
    pub client_id: String,
    /// What it is called by people.
    pub client_name: Option<String>,
    /// What it may have at most, such as `system/*.rs`.
    pub scope: String,
    /// Its public keys, as a JWK Set.
    pub jwks: Option<serde_json::Value>,
    /// The file that holds them.
    pub jwks_file: Option<PathBuf>,
    /// Where they can be fetched.
    pub jwks_uri: Option<JwksUri>,
    /// What is different for its files.
    pub output: ClientOutputConfig,
    /// The release of the guide whose operation it calls, where it may call no other: 3 is `$export`, 4 is `$export-v4`.
    pub bulk_data_version: Option<Release>,
    /// What of that scope it may have, and how much.
    pub policy: ClientPolicyConfig,
}

/// What is different for the files of one client; what is null is as the section `output` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientOutputConfig {
    /// They lie in a folder of this name, below that of the instance.
    pub folder: Option<ClientFolder>,
    /// What its manifests list.
    pub links: Option<LinkMode>,
    /// The key of KMS that S3 encrypts them with.
    pub sse_kms_key_id: Option<String>,
}

impl Default for SmartConfig {
    fn default() -> Self {
        Self {
            mode: SmartMode::Open,
            open_to_everyone: false,
            token_lifetime: Duration::from_mins(5),
            token_key_lifetime: Duration::from_hours(90 * 24),
            jwks_private_hosts: Vec::new(),
            issuer: IssuerConfig::default(),
            clients: Vec::new(),
        }
    }
}

impl SmartConfig {
    /// The hosts that may be private, as they are compared.
    pub(crate) fn private_hosts(&self) -> BTreeSet<String> {
        self.jwks_private_hosts.iter().map(|host| plain(host)).collect()
    }

    fn check_client(&self, number: usize, client: &ClientConfig, problems: &mut Problems) {
        let mut add = |option: &str, problem: &str| problems.add(&format!("clients[{number}].{option}"), problem);
        if let Err(error) = ClientId::parse(&client.client_id) {
            add("client_id", &format!("is none: {error}"));
        }
        if self.clients[..number].iter().any(|other| other.client_id == client.client_id) {
            add("client_id", "is that of another client as well");
        }
        match Scopes::parse(&client.scope) {
            Err(error) => add("scope", &error.to_string()),
            Ok(scopes) => {
                let (policy, _) = client.policy.read().unwrap_or_default();
                let is_too_much =
                    |name| narrowing::alternatives(&scopes.alternatives(name), policy.required(name), &[]).is_err();
                if scopes.narrowed().any(is_too_much) {
                    add(
                        "scope",
                        "narrows a type, with policy.required_filters, by more or longer queries than an export can have",
                    );
                }
            }
        }
        for (option, problem) in client.policy.read().err().into_iter().flatten() {
            add(&format!("policy.{option}"), &problem);
        }
        let given = [
            ("jwks", client.jwks.is_some()),
            ("jwks_file", client.jwks_file.is_some()),
            ("jwks_uri", client.jwks_uri.is_some()),
        ];
        if self.mode == SmartMode::External {
            for (option, _) in given.iter().filter(|(_, given)| *given) {
                add(option, "is for `mode: authorization_server`: in external mode the issuer knows its clients' keys");
            }
            return;
        }
        match given.iter().filter(|(_, given)| *given).count() {
            0 => add("jwks", "is missing: give the client's public keys by jwks, jwks_file or jwks_uri"),
            1 => {}
            _ => add("jwks", "is one of several: give the keys in one way, jwks, jwks_file or jwks_uri"),
        }
        if let Some(Err(error)) = client.jwks.as_ref().map(KeySet::of) {
            add("jwks", &error.to_string());
        }
        if client.jwks_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            add("jwks_file", "is not an absolute path");
        }
        if let Some(uri) = &client.jwks_uri {
            check_uri(uri.url(), &self.private_hosts(), &mut |problem| add("jwks_uri", problem));
        }
    }

    /// What belongs to another mode.
    fn check_mode(&self, problems: &mut Problems) {
        match self.mode {
            SmartMode::Open if !self.clients.is_empty() => {
                problems.add("clients", "are not asked who they are while smart.mode is open");
            }
            SmartMode::AuthorizationServer | SmartMode::External if self.clients.is_empty() => {
                problems.add("clients", "is empty, so nobody could export anything");
            }
            SmartMode::Open | SmartMode::AuthorizationServer | SmartMode::External => {}
        }
        if self.open_to_everyone && self.mode != SmartMode::Open {
            problems.add("open_to_everyone", "is for `mode: open`");
        }
        let usual = Self::default();
        if self.mode == SmartMode::External {
            let hosts = self.private_hosts();
            self.issuer.check(&hosts, &mut |option, problem| problems.add(&format!("issuer.{option}"), problem));
            let ours = [
                ("token_lifetime_seconds", self.token_lifetime == usual.token_lifetime),
                ("token_key_lifetime_seconds", self.token_key_lifetime == usual.token_key_lifetime),
            ];
            for (option, _) in ours.iter().filter(|(_, is_usual)| !is_usual) {
                problems.add(option, "is for `mode: authorization_server`: in external mode the issuer says it");
            }
        } else if self.issuer != usual.issuer {
            problems.add("issuer", "is for `mode: external`");
        }
    }
}

/// What is wrong with an address that we ask. `private_hosts` are those that may be inside.
pub(super) fn check_uri(uri: &Url, private_hosts: &BTreeSet<String>, add: &mut dyn FnMut(&str)) {
    match uri.scheme() {
        "https" => {}
        "http" if is_loopback(uri) => {}
        _ => add("is not https://, and its host is not this machine"),
    }
    if !uri.username().is_empty() || uri.password().is_some() || uri.fragment().is_some() {
        add("holds a user name, a password or a fragment");
    }
    let is_private = match uri.host() {
        Some(Host::Ipv4(address)) => !is_public(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => !is_public(IpAddr::V6(address)),
        Some(Host::Domain(_)) => is_loopback(uri),
        None => false,
    };
    if is_private && !private_hosts.contains(&plain(uri.host_str().unwrap_or_default())) {
        add("has a private address: name its host in smart.jwks_private_hosts if it is meant");
    }
}

/// A host without the brackets of an IPv6 address, in lower case.
pub(super) fn plain(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

impl Section for SmartConfig {
    fn check(&self, problems: &mut Problems) {
        for (number, client) in self.clients.iter().enumerate() {
            self.check_client(number, client, problems);
        }
        self.check_mode(problems);
        // Longer ones outlive a client that is taken off the list elsewhere, and SMART wants them short.
        if self.token_lifetime < Duration::from_secs(10) || self.token_lifetime > Duration::from_hours(1) {
            problems.add("token_lifetime_seconds", "is not between 10 and 3600");
        }
        if self.token_key_lifetime < self.token_lifetime.saturating_mul(2) {
            problems.add("token_key_lifetime_seconds", "is less than twice token_lifetime_seconds");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::bulk::shape::Release;
    use crate::config::Config;

    const JWKS: &str = "{ keys: [{ kty: EC, crv: P-384, kid: a, \
        x: T3VHttu529bCNhXMGm7e6Y6AtongILRjp3WxZJqUpnPNBPi-8Ow8OAXaSty8prfM, \
        y: pq1XWvFKHn6Hy3XKmT62rT3j9BuD9zhJ1X2UpsZkMbRrDfVJlmKuyMwy7cKB_UfW }] }";

    fn with(smart: &str) -> Result<Config, String> {
        let smart = smart.replace("JWKS", JWKS);
        let yaml = format!(
            "server: {{ listen: '0.0.0.0:8080', public_base_url: https://fhir.example.org/fhir }}\n\
             upstream: {{ base_url: http://127.0.0.1:9000/fhir }}\nsmart: {{ {smart} }}\n"
        );
        Config::from_yaml(&yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn a_client_is_held_to_a_release_by_its_number() {
        for (written, expected) in
            [("3", Some(Release::Three)), ("'4'", Some(Release::Four)), ("4", Some(Release::Four)), ("null", None)]
        {
            let client = format!("client_id: a, scope: system/*.rs, jwks: JWKS, bulk_data_version: {written}");
            let config = with(&format!("mode: authorization_server, clients: [{{ {client} }}]")).expect(written);
            assert_eq!(config.smart.clients[0].bulk_data_version, expected, "{written}");
        }
        let client = "client_id: a, scope: system/*.rs, jwks: JWKS, bulk_data_version: 5";
        assert!(
            with(&format!("mode: authorization_server, clients: [{{ {client} }}]")).is_err(),
            "there is no such release"
        );
    }

    #[test]
    fn clients_are_given_their_keys_in_one_of_three_ways() {
        for keys in [
            "jwks: JWKS",
            "jwks_file: /etc/offtake/a.json",
            "jwks_uri: https://client.example/jwks.json",
            "jwks_uri: 'http://127.0.0.1:9/jwks'",
            "jwks_uri: https://keys.hospital.example/jwks",
        ] {
            let smart = format!(
                "mode: authorization_server, jwks_private_hosts: [127.0.0.1], \
                 clients: [{{ client_id: a, client_name: A, scope: system/*.rs, {keys} }}]"
            );
            assert_eq!(with(&smart).err(), None, "{keys}");
        }
    }

    #[test]
    fn what_a_client_wants_of_its_files_has_to_be_had() {
        for (location, client, expected) in [
            ("s3://bucket", "folder: research, links: redirect, sse_kms_key_id: key", None),
            ("gs://bucket, links: proxy, gcs: { base_url: http://127.0.0.1:1 }", "folder: research", None),
            ("file:///a", "sse_kms_key_id: key", Some("smart.clients[0].output.sse_kms_key_id is for S3")),
            (
                "s3://bucket, s3: { server_side_encryption: AES256 }",
                "sse_kms_key_id: key",
                Some("smart.clients[0].output.sse_kms_key_id is a key of KMS"),
            ),
            (
                "gs://bucket, links: proxy, gcs: { base_url: http://127.0.0.1:1 }",
                "links: signed",
                Some("output.gcs.base_url"),
            ),
            ("s3://bucket", "folder: a/b", Some("a folder has 1 to 64 letters")),
            ("s3://bucket", "prefix: a", Some("prefix")),
        ] {
            let smart = format!(
                "mode: authorization_server, \
                 clients: [{{ client_id: a, scope: system/*.rs, jwks: JWKS, output: {{ {client} }} }}] }}\n\
                 output: {{ location: {location}"
            );
            match (with(&smart), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(expected)) => assert!(error.contains(expected), "{client}: {error}"),
                (other, _) => panic!("{client} on {location}: {:?}", other.err()),
            }
        }
    }

    #[test]
    fn every_mistake_is_named() {
        for (smart, expected) in [
            ("mode: authorization_server", "smart.clients is empty"),
            ("mode: open", "smart.mode is open"),
            ("clients: [{ client_id: a, scope: system/*.rs, jwks: JWKS }]", "while smart.mode is open"),
            ("CLIENT: scope: system/*.rs, jwks: JWKS", "clients[0].client_id is none"),
            ("CLIENT: client_id: 'a b', scope: system/*.rs, jwks: JWKS", "clients[0].client_id is none"),
            ("CLIENT: client_id: a, jwks: JWKS", "clients[0].scope names no scope"),
            ("CLIENT: client_id: a, scope: user/*.rs, jwks: JWKS", "clients[0].scope holds something else"),
            ("CLIENT: client_id: a, scope: 'system/Patient.rs?a:not=b', jwks: JWKS", "a query that cannot be enforced"),
            ("CLIENT: client_id: a, scope: 'system/*.rs?_security=b', jwks: JWKS", "a query that cannot be enforced"),
            ("CLIENT: client_id: a, scope: system/*.rs", "clients[0].jwks is missing"),
            (
                "CLIENT: client_id: a, scope: system/*.rs, jwks: JWKS, jwks_file: /a",
                "clients[0].jwks is one of several",
            ),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks: { keys: [] }", "clients[0].jwks has no key"),
            (
                "CLIENT: client_id: a, scope: system/*.rs, jwks: { keys: [{ kty: EC, d: AA }] }",
                "a private or symmetric key",
            ),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks: { keys: [{ kty: RSA, n: AQAB, e: AQAB }] }", "17 bits"),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks_file: a.json", "clients[0].jwks_file is not an absolute"),
            (
                "CLIENT: client_id: a, scope: system/*.rs, jwks_uri: http://client.example/k",
                "clients[0].jwks_uri is not https",
            ),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks_uri: 'https://10.0.0.1/k'", "has a private address"),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks_uri: 'http://[::1]/k'", "has a private address"),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks_uri: 'http://localhost/k'", "has a private address"),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks_uri: 'https://a:b@client.example/k'", "a password"),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks: JWKS, secret: a", "secret"),
            (
                "CLIENT: client_id: a, scope: system/*.rs, jwks: JWKS, policy: { types: [Dragon] }",
                "clients[0].policy.types[0] is `Dragon`",
            ),
            ("CLIENT: client_id: a, scope: system/*.rs, jwks: JWKS, policy: { type: [Patient] }", "type"),
            ("mode: authorization_server, token_lifetime_seconds: 5", "smart.token_lifetime_seconds"),
            ("mode: authorization_server, token_key_lifetime_seconds: 5", "smart.token_key_lifetime_seconds"),
            ("mode: authorization_server, open_to_everyone: true", "smart.open_to_everyone"),
            ("mode: external", "smart.clients is empty"),
            ("mode: external", "smart.issuer.issuer is missing"),
            ("issuer: { issuer: https://login.example }", "smart.issuer is for `mode: external`"),
        ] {
            let smart = match smart.strip_prefix("CLIENT: ") {
                Some(client) => format!("mode: authorization_server, clients: [{{ {client} }}]"),
                None => smart.to_owned(),
            };
            let error = with(&smart).expect_err(&smart);
            assert!(error.contains(expected), "{smart}: {error}");
        }
        let twice = "mode: authorization_server, clients: [{ client_id: a, scope: system/*.rs, jwks: JWKS }, \
                     { client_id: a, scope: system/*.rs, jwks: JWKS }]";
        let error = with(twice).expect_err("two of a name");
        assert!(error.contains("clients[1].client_id is that of another"), "{error}");
    }

    /// SM-011
    #[test]
    fn tokens_are_not_to_be_read_on_the_way() {
        for (public, expected) in [
            ("https://fhir.example.org/fhir", true),
            ("http://127.0.0.1:8080/fhir", true),
            ("http://fhir.example.org/fhir", false),
        ] {
            let yaml = format!(
                "server: {{ public_base_url: {public} }}\nupstream: {{ base_url: http://h/fhir }}\n\
                 smart: {{ mode: authorization_server, clients: [{{ client_id: a, scope: system/*.rs, jwks: {JWKS} }}] }}\n"
            );
            assert_eq!(Config::from_yaml(&yaml).is_ok(), expected, "{public}");
        }
    }

    /// SEC-10
    #[test]
    fn open_mode_is_for_everyone_only_where_it_says_so() {
        assert!(with("open_to_everyone: true").is_ok());
        let error = with("open_to_everyone: false").expect_err("others could ask");
        assert!(error.contains("smart.mode is open"), "{error}");
    }
}
