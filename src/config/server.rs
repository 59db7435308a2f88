//! The section of its name; each option says what it does.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Problems, Section};
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

impl Section for ServerConfig {
    fn check(&self, problems: &mut Problems) {
        check_base(&self.public_base_url, "public_base_url", problems);
        if self.bulk_listen == Some(self.listen) {
            problems.add("bulk_listen", "is the address of server.listen");
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
