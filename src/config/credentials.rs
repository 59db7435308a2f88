//! What is shown to the upstream by our searches, and by what its TLS is verified; each option says what it does.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use http::HeaderName;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Problems;
use super::server::is_loopback;
use crate::smart::client::{ClientId, JwksUri};

/// What every search carries so that the upstream answers it: one of these, or nothing. Requests that pass through never
/// carry it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialsConfig {
    /// Headers that stay the same, each with where its value is.
    pub headers: BTreeMap<String, SecretSource>,
    /// A name and a password.
    pub basic: Option<BasicConfig>,
    /// Access tokens that we get as a client of the upstream's authorization server (SMART Backend Services).
    pub smart: Option<BackendConfig>,
    /// Whether they may be sent without TLS to another machine.
    pub plain_http: PlainHttp,
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// In a file of its own.
    File(PathBuf),
    /// In a variable of the environment.
    Env(String),
}

/// A name and a password (RFC 7617).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BasicConfig {
    /// The name.
    pub username: String,
    /// The file that holds the password.
    pub password_file: Option<PathBuf>,
    /// The variable that holds it.
    pub password_env: Option<String>,
}

/// How access tokens are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// Where; without it, where the upstream's `.well-known/smart-configuration` says.
    #[serde(default)]
    pub token_endpoint: Option<JwksUri>,
    /// The name that we are registered by there.
    pub client_id: String,
    /// The file that holds our private key as a JWK, as `offtake keys generate` writes it.
    pub key_file: PathBuf,
    /// What is asked for.
    #[serde(default = "scope")]
    pub scope: String,
}

/// Whether credentials may go over connections that anybody on the way can read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlainHttp {
    /// Only to this machine.
    #[default]
    Refused,
    /// To any machine: the network between is trusted.
    Acknowledged,
}

/// By what searches know the upstream, and it us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchTlsConfig {
    /// Certificate authorities (PEM) that are trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, and those that lead to its authority (PEM).
    pub client_cert_file: Option<PathBuf>,
    /// The private key of our certificate (PEM).
    pub client_key_file: Option<PathBuf>,
}

/// By what requests that pass through know the upstream. There is no certificate of ours: they are made by others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PassThroughTlsConfig {
    /// Certificate authorities (PEM) that are trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
}

/// Whether a server that answers without credentials may stand behind us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceptsAnonymous {
    /// Bulk requests are refused where requests pass through to one that does.
    #[default]
    Refused,
    /// Whoever reaches us may read what it gives to anybody, and that is meant.
    Acknowledged,
}

fn scope() -> String {
    "system/*.rs".to_owned()
}

/// Most headers.
const MOST_HEADERS: usize = 16;

/// Headers that say how a request is read or sent, and who asks whom: they are ours, or the connection's.
const OURS: [&str; 17] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
    "range",
    "prefer",
    "cache-control",
    "pragma",
    "max-forwards",
];
/// The beginnings of others, and of those by which a server is told of another method.
const OURS_TOO: [&str; 6] = ["content-", "accept", "if-", "x-http-method", "x-method-override", ":"];

impl CredentialsConfig {
    /// Whether there are any.
    pub(crate) fn are_given(&self) -> bool {
        !self.headers.is_empty() || self.basic.is_some() || self.smart.is_some()
    }

    /// `base` is the FHIR base that searches are sent to.
    pub(super) fn check(&self, base: &Url, problems: &mut Problems) {
        let given = [!self.headers.is_empty(), self.basic.is_some(), self.smart.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            problems.add("credentials", "are given in several ways: headers, basic and smart exclude each other");
        }
        self.check_headers(problems);
        if let Some(basic) = &self.basic {
            basic.check(problems);
        }
        if let Some(smart) = &self.smart {
            smart.check(base, problems);
        }
        let is_plain = base.scheme() != "https" && !is_loopback(base);
        if self.are_given() && is_plain && self.plain_http == PlainHttp::Refused {
            problems.add(
                "credentials",
                "would be sent over plain http to another machine: use https, or set credentials.plain_http: acknowledged",
            );
        }
    }

    fn check_headers(&self, problems: &mut Problems) {
        if self.headers.len() > MOST_HEADERS {
            problems.add("credentials.headers", "are more than 16");
        }
        let mut names: Vec<String> = Vec::new();
        for (name, source) in &self.headers {
            let plain = name.to_ascii_lowercase();
            // A name that is none may be a secret in the wrong place: it is not repeated.
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                problems.add("credentials.headers", "has a name that is none of a header");
                continue;
            }
            let option = format!("credentials.headers.{name}");
            if OURS.contains(&plain.as_str()) || OURS_TOO.iter().any(|begin| plain.starts_with(begin)) {
                problems.add(&option, "is no header for credentials: it says how a request is read or sent");
            }
            if names.contains(&plain) {
                problems.add(&option, "is there twice");
            }
            names.push(plain);
            source.check(&option, problems);
        }
    }
}

impl SecretSource {
    fn check(&self, option: &str, problems: &mut Problems) {
        match self {
            Self::File(path) => check_path(Some(path), &format!("{option}.file"), problems),
            Self::Env(name) => check_variable(name, &format!("{option}.env"), problems),
        }
    }
}

/// Where it is, which is no secret.
impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Env(name) => write!(f, "the variable {name}"),
        }
    }
}

impl BasicConfig {
    /// Where its password is, if that is said in exactly one way.
    pub(crate) fn password(&self) -> Option<SecretSource> {
        match (&self.password_file, &self.password_env) {
            (Some(file), None) => Some(SecretSource::File(file.clone())),
            (None, Some(name)) => Some(SecretSource::Env(name.clone())),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }

    fn check(&self, problems: &mut Problems) {
        let is_bad = |character: char| character == ':' || character.is_control();
        if self.username.is_empty() || self.username.contains(is_bad) {
            problems.add("credentials.basic.username", "is empty, or has a colon or a control character");
        }
        if let Some(source) = self.password() {
            let option = match source {
                SecretSource::File(_) => "credentials.basic.password_file",
                SecretSource::Env(_) => "credentials.basic.password_env",
            };
            match &source {
                SecretSource::File(path) => check_path(Some(path), option, problems),
                SecretSource::Env(name) => check_variable(name, option, problems),
            }
        } else {
            problems.add("credentials.basic", "needs either password_file or password_env");
        }
    }
}

impl BackendConfig {
    fn check(&self, base: &Url, problems: &mut Problems) {
        if let Err(error) = ClientId::parse(&self.client_id) {
            problems.add("credentials.smart.client_id", &format!("is none: {error}"));
        }
        check_path(Some(&self.key_file), "credentials.smart.key_file", problems);
        // Scopes of others may be such as we do not know.
        let is_bad = |byte: u8| !(byte == b' ' || byte.is_ascii_graphic()) || matches!(byte, b'"' | b'\\');
        if self.scope.trim().is_empty() || self.scope.bytes().any(is_bad) {
            problems.add("credentials.smart.scope", "is empty, or no list of scopes");
        }
        if let Some(endpoint) = &self.token_endpoint
            && let Err(problem) = check_endpoint(endpoint.url(), base)
        {
            problems.add("credentials.smart.token_endpoint", problem);
        }
    }
}

/// Whether an assertion of ours may be sent to this address, where `base` is the upstream's.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_endpoint(endpoint: &Url, base: &Url) -> Result<(), &'static str> {
    // What an upstream elsewhere says of addresses of this machine is about its own machine.
    let is_local = is_loopback(endpoint) && is_loopback(base);
    match endpoint.scheme() {
        "https" => {}
        "http" if is_local => {}
        _ => return Err("is not https://, and not on this machine as the upstream is"),
    }
    if !endpoint.username().is_empty() || endpoint.password().is_some() || endpoint.fragment().is_some() {
        return Err("holds a user name, a password or a fragment");
    }
    if endpoint.has_host() { Ok(()) } else { Err("has no host") }
}

impl SearchTlsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        check_path(self.ca_file.as_deref(), "tls.ca_file", problems);
        check_path(self.client_cert_file.as_deref(), "tls.client_cert_file", problems);
        check_path(self.client_key_file.as_deref(), "tls.client_key_file", problems);
        if self.client_cert_file.is_some() != self.client_key_file.is_some() {
            problems.add("tls.client_cert_file", "and client_key_file need each other");
        }
    }
}

impl PassThroughTlsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        check_path(self.ca_file.as_deref(), "pass_through_tls.ca_file", problems);
    }
}

fn check_path(path: Option<&Path>, option: &str, problems: &mut Problems) {
    if path.is_some_and(|path| !path.is_absolute()) {
        problems.add(option, "is not an absolute path");
    }
}

fn check_variable(name: &str, option: &str, problems: &mut Problems) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    // A text that is no name may be the secret itself: it is not repeated.
    if name.is_empty() || !name.bytes().all(is_plain) || name.as_bytes()[0].is_ascii_digit() {
        problems.add(option, "is not the name of a variable");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, SecretSource};

    fn with(base: &str, upstream: &str) -> Result<Config, String> {
        let yaml = format!(
            "server: {{ public_base_url: https://fhir.example.org/fhir }}\n\
             upstream: {{ base_url: {base}, {upstream} }}\n\
             smart: {{ mode: authorization_server, clients: [{{ client_id: a, scope: system/*.rs, \
             jwks_uri: https://client.example/jwks }}] }}\n"
        );
        Config::from_yaml(&yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn credentials_are_given_in_one_of_three_ways() {
        for credentials in [
            "headers: { Authorization: { file: /run/secrets/a } }",
            "headers: { X-Api-Key: { env: FHIR_KEY }, X-Remote-User: { file: /a } }",
            "basic: { username: offtake, password_file: /run/secrets/a }",
            "basic: { username: offtake, password_env: FHIR_PASSWORD }",
            "smart: { client_id: offtake, key_file: /a }",
            "smart: { client_id: offtake, key_file: /a, token_endpoint: https://login.example/token, scope: system/*.read }",
        ] {
            let config = with("https://h/fhir", &format!("credentials: {{ {credentials} }}"));
            assert!(config.expect(credentials).upstream.credentials.are_given(), "{credentials}");
        }
        let config = with("https://h/fhir", "credentials: { headers: { a: { env: B } } }").expect("good values");
        assert_eq!(config.upstream.credentials.headers["a"], SecretSource::Env("B".to_owned()));
        assert!(!with("https://h/fhir", "credentials: {}").expect("none").upstream.credentials.are_given());
    }

    /// SEC-01: a closed list.
    #[test]
    fn a_header_that_says_how_a_request_is_read_is_no_credential() {
        for name in [
            "Host",
            "connection",
            "TE",
            "Transfer-Encoding",
            "Content-Type",
            "content-length",
            "Accept",
            "Accept-Encoding",
            "Prefer",
            "If-None-Match",
            "Range",
            "Cache-Control",
            "X-HTTP-Method-Override",
            "Expect",
            "Upgrade",
            "Proxy-Authorization",
            "Keep-Alive",
        ] {
            let told = with("https://h/fhir", &format!("credentials: {{ headers: {{ {name}: {{ file: /a }} }} }}"));
            let told = told.expect_err(name);
            assert!(told.contains(&format!("credentials.headers.{name} is no header for credentials")), "{told}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let smart = "client_id: offtake, key_file: /a";
        for (credentials, expected) in [
            ("basic: { username: a, password_file: /a }, smart: { client_id: a, key_file: /a }", "in several ways"),
            ("headers: { a: { file: relative } }", "credentials.headers.a.file is not an absolute path"),
            ("headers: { a: { env: 's3cret value' } }", "credentials.headers.a.env is not the name of a variable"),
            ("headers: { a: { file: /a }, A: { file: /b } }", "is there twice"),
            ("headers: { 'a b': { file: /a } }", "has a name that is none"),
            ("headers: { a: plain }", ""),
            ("basic: { username: 'a:b', password_file: /a }", "basic.username is empty, or has a colon"),
            ("basic: { username: a }", "needs either password_file or password_env"),
            (
                "basic: { username: a, password_file: /a, password_env: A }",
                "needs either password_file or password_env",
            ),
            ("basic: { username: a, password: s3cret }", ""),
            ("smart: { client_id: '', key_file: /a }", "smart.client_id is none"),
            ("smart: { client_id: a, key_file: a }", "smart.key_file is not an absolute path"),
            (&format!("smart: {{ {smart}, scope: '' }}"), "smart.scope is empty"),
            (&format!("smart: {{ {smart}, token_endpoint: http://login.example/token }}"), "is not https://"),
            (&format!("smart: {{ {smart}, token_endpoint: http://127.0.0.1/token }}"), "is not https://"),
            (&format!("smart: {{ {smart}, token_endpoint: https://a:b@login.example/ }}"), "holds a user name"),
        ] {
            let told = with("https://h/fhir", &format!("credentials: {{ {credentials} }}")).expect_err(credentials);
            assert!(told.contains(expected), "{credentials}: {told}");
            assert!(!told.contains("s3cret value"), "{told}");
        }
        let tls = "tls: { client_cert_file: /a }";
        let told = with("https://h/fhir", tls).expect_err(tls);
        assert!(told.contains("tls.client_cert_file and client_key_file need each other"), "{told}");
        let tls = "pass_through_tls: { client_cert_file: /a }";
        assert!(with("https://h/fhir", tls).is_err(), "SEC-01: there is no such option");
    }

    #[test]
    fn credentials_go_over_plain_http_to_this_machine_only() {
        let basic = "credentials: { basic: { username: a, password_file: /a }";
        for (base, more, expected) in [
            ("https://h/fhir", "", true),
            ("http://127.0.0.1:9/fhir", "", true),
            ("http://localhost/fhir", "", true),
            ("http://h/fhir", "", false),
            ("http://h/fhir", ", plain_http: acknowledged", true),
            ("https://h/fhir, export_base_url: 'http://replica/fhir'", "", false),
            ("http://h/fhir, export_base_url: 'https://replica/fhir'", "", true),
        ] {
            let told = with(base, &format!("{basic}{more} }}"));
            assert_eq!(told.is_ok(), expected, "{base} {more}: {told:?}");
        }
    }

    /// SEC-10
    #[test]
    fn open_mode_has_no_credentials() {
        for upstream in [
            "credentials: { basic: { username: a, password_file: /a } }",
            "tls: { client_cert_file: /a, client_key_file: /b }",
        ] {
            for smart in ["mode: open", "mode: open, open_to_everyone: true"] {
                let yaml = format!(
                    "server: {{ public_base_url: http://127.0.0.1:8080/fhir }}\n\
                     upstream: {{ base_url: https://h/fhir, {upstream} }}\nsmart: {{ {smart} }}\n"
                );
                let told = Config::from_yaml(&yaml).expect_err(upstream).to_string();
                assert!(told.contains("smart.mode is open, and upstream."), "{told}");
            }
        }
        let told = Config::from_yaml(
            "server: { public_base_url: http://127.0.0.1:8080/fhir }\nupstream: { base_url: https://h/fhir, tls: { ca_file: /a } }\n",
        );
        assert!(told.is_ok(), "whom we trust opens nothing: {told:?}");
    }

    #[test]
    fn nothing_that_is_printed_holds_a_secret() {
        let config = with("https://h/fhir", "credentials: { headers: { a: { env: B } } }").expect("good values");
        assert_eq!(config.upstream.credentials.headers["a"].to_string(), "the variable B");
    }
}
