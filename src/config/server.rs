//! The section of its name; each option says what it does.

use std::net::{Ipv4Addr, SocketAddr};

use http::HeaderName;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Problems, Section};
use crate::fhir::resource_type::ResourceType;
pub(super) use crate::smart::address::is_loopback;

/// Where requests come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port to listen on.
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// The FHIR base as clients write it; every URL that we hand out begins with it.
    pub public_base_url: Url,
    /// Whether requests that are not ours go on to the FHIR server.
    #[serde(default)]
    pub pass_through: PassThroughMode,
    /// Another address and port to listen on, where nothing passes through.
    #[serde(default)]
    pub bulk_listen: Option<SocketAddr>,
    /// The path of a base of our own, at the origin of `public_base_url`, for all bulk requests. Without it they come to the
    /// FHIR base itself.
    #[serde(default)]
    pub bulk_base_path: Option<String>,
    /// Requests of our own routes that are answered at the same time, downloads among them. Without it as many as the process
    /// may have file descriptors, divided by four.
    #[serde(default)]
    pub max_bulk_requests: Option<usize>,
    /// Those from one address; a further one is answered with 429.
    #[serde(default = "of_a_peer")]
    pub max_bulk_requests_per_peer: usize,
    /// Headers by which a proxy before us says who asks: no client has them taken away by naming them in `Connection` (SEC-04).
    #[serde(default)]
    pub identity_headers: Vec<String>,
}

/// What becomes of requests that are not ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassThroughMode {
    /// They go on to the FHIR server.
    #[default]
    Forward,
    /// They are answered with 404.
    Off,
}

fn listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))
}

fn of_a_peer() -> usize {
    64
}

impl ServerConfig {
    /// The base of bulk requests, tokens and links.
    pub(crate) fn bulk_base(&self) -> Url {
        let mut base = self.public_base_url.clone();
        if let Some(path) = &self.bulk_base_path {
            base.set_path(path.trim_matches('/'));
        }
        base
    }

    /// `identity_headers` as names of headers; what is none was refused before.
    pub(crate) fn identity_headers(&self) -> Vec<HeaderName> {
        self.identity_headers.iter().filter_map(|name| HeaderName::try_from(name).ok()).collect()
    }

    /// A base of our own may hold nothing of the FHIR server's, and the other way round: what is below it is ours alone.
    fn check_bulk_base(&self, path: &str, problems: &mut Problems) {
        let own = segments(path);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        let is_good = |segment: &&str| !segment.starts_with('.') && segment.bytes().all(is_plain);
        // As it stands there but for one slash on either side.
        let inner = path.strip_prefix('/').unwrap_or(path);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if own.is_empty() || path.len() > LONGEST_PATH || inner != own.join("/") || !own.iter().all(is_good) {
            problems.add(
                "bulk_base_path",
                "is no path of letters, digits and -_.~ between single slashes, such as /bulk, without a dot before a name",
            );
            return;
        }
        let fhir = segments(self.public_base_url.path());
        let begins_with = |long: &[&str], short: &[&str]| {
            long.len() >= short.len() && long.iter().zip(short).all(|(long, short)| long.eq_ignore_ascii_case(short))
        };
        if begins_with(&fhir, &own) {
            problems.add("bulk_base_path", "is the path of public_base_url, or that lies below it");
        } else if !fhir.is_empty() && begins_with(&own, &fhir) {
            problems.add("bulk_base_path", "lies below the path of public_base_url, where all is the FHIR server's");
        } else if fhir.is_empty() && is_fhirs(own[0]) {
            problems.add("bulk_base_path", "begins with a name that FHIR has at the base of a server");
        }
    }
}

/// Longest path of a base of our own.
const LONGEST_PATH: usize = 200;

fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

fn is_fhirs(name: &str) -> bool {
    ResourceType::is_like_one(name) || name.eq_ignore_ascii_case("metadata") || name.starts_with('_')
}

impl Section for ServerConfig {
    fn check(&self, problems: &mut Problems) {
        check_base(&self.public_base_url, "public_base_url", problems);
        if let Some(path) = &self.bulk_base_path {
            self.check_bulk_base(path, problems);
        }
        if self.bulk_listen == Some(self.listen) {
            problems.add("bulk_listen", "is the address of server.listen");
        }
        if self.max_bulk_requests == Some(0) {
            problems.add("max_bulk_requests", "is 0, and nothing would be answered");
        }
        if self.max_bulk_requests_per_peer == 0 {
            problems.add("max_bulk_requests_per_peer", "is 0, and nothing would be answered");
        }
        if self.identity_headers().len() != self.identity_headers.len() {
            problems.add("identity_headers", "has what is no name of a header");
        }
    }
}

/// What is wrong with the URL of a FHIR base.
pub(super) fn check_base(url: &Url, option: &str, problems: &mut Problems) {
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        problems.add(option, "is not an http or https URL");
    }
    if url.query().is_some() || url.fragment().is_some() {
        problems.add(option, "has a query or a fragment");
    }
    if !url.username().is_empty() || url.password().is_some() {
        problems.add(option, "holds a user name or a password");
    }
    if url.path().contains("//") || url.path().contains('%') {
        problems.add(option, "has a path with an empty or an escaped part");
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn with(public: &str, server: &str) -> Result<Config, String> {
        let yaml = format!(
            "server: {{ public_base_url: '{public}', {server} }}\nupstream: {{ base_url: http://127.0.0.1:9000/fhir }}\n"
        );
        Config::from_yaml(&yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn a_base_of_our_own_stands_beside_the_fhir_base() {
        for (public, path, expected) in [
            ("http://127.0.0.1/fhir", "/bulk", Some("http://127.0.0.1/bulk")),
            ("http://127.0.0.1:8080/fhir/", "bulk", Some("http://127.0.0.1:8080/bulk")),
            ("http://127.0.0.1/fhir", "/bulk/", Some("http://127.0.0.1/bulk")),
            ("http://127.0.0.1/a/fhir", "/a/bulk", Some("http://127.0.0.1/a/bulk")),
            ("http://127.0.0.1/fhir", "/fhirx", Some("http://127.0.0.1/fhirx")),
            ("http://127.0.0.1/", "/bulk/r4", Some("http://127.0.0.1/bulk/r4")),
            ("http://127.0.0.1/fhir", "", None),
            ("http://127.0.0.1/fhir", "/", None),
            ("http://127.0.0.1/fhir", "//bulk", None),
            ("http://127.0.0.1/fhir", "/a//b", None),
            ("http://127.0.0.1/fhir", "/a/../fhir", None),
            ("http://127.0.0.1/fhir", "/.well-known", None),
            ("http://127.0.0.1/fhir", "/b%75lk", None),
            ("http://127.0.0.1/fhir", "/b;x", None),
            ("http://127.0.0.1/fhir", "/$bulk", None),
            ("http://127.0.0.1/fhir", "https://other.example/bulk", None),
            ("http://127.0.0.1/fhir", "/fhir", None),
            ("http://127.0.0.1/fhir", "/FHIR/", None),
            ("http://127.0.0.1/fhir", "/fhir/bulk", None),
            ("http://127.0.0.1/a/fhir", "/a", None),
            ("http://127.0.0.1/", "/Patient", None),
            ("http://127.0.0.1/", "/patient/bulk", None),
            ("http://127.0.0.1/", "/Metadata", None),
            ("http://127.0.0.1/", "/_history", None),
        ] {
            let told = with(public, &format!("bulk_base_path: '{path}'"));
            let base = told.as_ref().ok().map(|config| config.server.bulk_base().to_string());
            assert_eq!(base.as_deref(), expected, "{public} {path}: {told:?}");
            if let Err(told) = told {
                assert!(told.contains("server.bulk_base_path"), "{told}");
            }
        }
        let config = with("http://127.0.0.1/fhir", "pass_through: off, bulk_listen: 127.0.0.1:1").expect("good values");
        assert_eq!(config.server.bulk_base(), config.server.public_base_url);
        let told =
            with("http://127.0.0.1/fhir", "listen: 127.0.0.1:1, bulk_listen: 127.0.0.1:1").expect_err("one address");
        assert!(told.contains("server.bulk_listen is the address of server.listen"), "{told}");
        let told = with("http://127.0.0.1/fhir", "bulk_listen: 0.0.0.0:1").expect_err("open mode");
        assert!(told.contains("a loopback address in server.bulk_listen"), "{told}");
    }
}
