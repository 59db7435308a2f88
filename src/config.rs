//! Configuration: the sections in reading order, and what is wrong with them, all at once.

mod admin;
mod care;
mod cohorts;
mod credentials;
mod export;
mod issuer;
mod ledger;
mod load;
mod output;
mod policy;
mod secret;
mod server;
mod size;
mod smart;
mod store;
mod telemetry;
mod upstream;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::bulk::shape::Release;
pub use crate::plan::{Attachments, BoundaryChoice, Newcomers, OnShort};
pub use crate::profile::{
    CountMethod, NextLinks, NoneWord, OrNone, PageTotal, PatientForm, PresetChoice, ProfileOverrides, Searches,
    TimeFilter,
};
pub use crate::smart::client::JwksUri;
pub use crate::smart::delivery::{ClientFolder, LinkMode, NotAClientFolder};
pub use crate::smart::policy::Level;
pub use admin::AdminConfig;
pub(crate) use admin::LEAST_TOKEN;
pub use care::{
    BreakerConfig, NotATime, QuietHoursConfig, QuietWindowConfig, TimeOfDay, UtcOffset, Weekday, YieldConfig,
};
pub use cohorts::CohortConfig;
pub(crate) use credentials::check_endpoint;
pub use credentials::{
    AcceptsAnonymous, BackendConfig, BasicConfig, CredentialsConfig, PassThroughTlsConfig, PlainHttp, SearchTlsConfig,
    SecretSource,
};
pub use export::ExportConfig;
pub use issuer::{ClaimsConfig, IntrospectionConfig, IssuerConfig};
pub use ledger::{ForwardTo, LedgerConfig};
pub use load::ConfigError;
pub use output::{
    AzureConfig, Compression, GcsConfig, Location, OutputConfig, Place, PublicBucket, S3Config, ServerSideEncryption,
    StorageHttpConfig,
};
pub use policy::{ClientPolicyConfig, PolicyConfig, QuotasConfig};
pub use secret::Secret;
pub use server::{PassThroughMode, ServerConfig};
pub use size::Size;
pub use smart::{ClientConfig, ClientOutputConfig, SmartConfig, SmartMode};
pub use store::StoreConfig;
pub use telemetry::{LogFormat, LogLevel, TelemetryConfig};
pub use upstream::UpstreamConfig;

/// Every option, annotated: what `offtake config reference` prints.
pub const REFERENCE: &str = include_str!("../config/reference.yaml");

/// Everything that an operator decides. Only the two base URLs have no default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where requests come in.
    pub server: ServerConfig,
    /// The FHIR server that is exported.
    pub upstream: UpstreamConfig,
    /// Where the files go.
    #[serde(default)]
    pub output: OutputConfig,
    /// What exports may do.
    #[serde(default)]
    pub export: ExportConfig,
    /// Where jobs are kept.
    #[serde(default)]
    pub store: StoreConfig,
    /// Where it is recorded who was given what.
    #[serde(default)]
    pub ledger: LedgerConfig,
    /// Who may export.
    #[serde(default)]
    pub smart: SmartConfig,
    /// What leaves for nobody.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// What operators see.
    #[serde(default)]
    pub admin: AdminConfig,
    /// What is logged.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// A part of the configuration that can tell what is wrong with it.
trait Section {
    fn check(&self, problems: &mut Problems);
}

/// What is wrong, each with the dotted name of the option.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    section: &'static str,
    found: Vec<String>,
}

impl Problems {
    fn add(&mut self, option: &str, problem: &str) {
        self.found.push(format!("{}.{option} {problem}", self.section));
    }

    fn of(&mut self, section: &'static str, checked: &impl Section) {
        self.section = section;
        checked.check(self);
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found.join("\n"))
    }
}

impl Config {
    /// The defaults for a server at `upstream`, seen by clients as `public`, with all state and output below
    /// `folder`: for trials, tests and embedding.
    ///
    /// # Errors
    /// If one of the URLs or the folder is none that can be used.
    pub fn local(upstream: &str, public: &str, folder: &Path) -> Result<Self, ConfigError> {
        let folder = folder.to_str().unwrap_or_default();
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let yaml = format!(
            "server: {{ public_base_url: {} }}\nupstream: {{ base_url: {} }}\noutput: {{ location: {} }}\nstore: {{ path: {} }}\n",
            quoted(public),
            quoted(upstream),
            quoted(&format!("file://{folder}/output")),
            quoted(&format!("{folder}/state")),
        );
        Self::from_yaml(&yaml)
    }

    /// What is wrong with the values, if anything is.
    fn check(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        problems.of("server", &self.server);
        problems.of("upstream", &self.upstream);
        problems.of("output", &self.output);
        problems.of("export", &self.export);
        problems.of("store", &self.store);
        problems.of("ledger", &self.ledger);
        self.ledger.check_beside(&self.store.path, &mut problems);
        problems.of("smart", &self.smart);
        problems.of("policy", &self.policy);
        problems.of("admin", &self.admin);
        // Nothing of it is ever on a listener of others (SEC-10).
        let of_others = [Some(self.server.listen), self.server.bulk_listen];
        if self.admin.listen.is_some() && of_others.contains(&self.admin.listen) {
            problems.add("listen", "is an address of server");
        }
        problems.of("telemetry", &self.telemetry);
        if self.output.link_ttl > self.export.output_ttl {
            problems.section = "output";
            problems
                .add("link_ttl_seconds", "is longer than export.output_ttl_seconds: links would outlive their files");
        }
        problems.section = "output";
        // What leads on those who show a token needs somebody who gives them one.
        if self.smart.mode == SmartMode::Open && self.output.links == LinkMode::Redirect {
            problems.add("links", "is redirect, which needs a token, and with smart.mode: open there are none");
        }
        self.check_clients_output(&mut problems);
        // SM-011: tokens and assertions are for nobody on the way.
        if self.smart.mode != SmartMode::Open
            && self.server.public_base_url.scheme() != "https"
            && !server::is_loopback(&self.server.public_base_url)
        {
            problems.section = "server";
            problems.add("public_base_url", "is not https://, so access tokens could be read on the way");
        }
        // SEC-10: without authorization nobody but this machine may ask.
        if self.smart.mode == SmartMode::Open && !self.smart.open_to_everyone {
            problems.section = "smart";
            if !self.server.listen.ip().is_loopback() {
                problems
                    .add("mode", "is open, which needs a loopback address in server.listen, or open_to_everyone: true");
            }
            if self.server.bulk_listen.is_some_and(|listen| !listen.ip().is_loopback()) {
                problems.add(
                    "mode",
                    "is open, which needs a loopback address in server.bulk_listen, or open_to_everyone: true",
                );
            }
            if !server::is_loopback(&self.server.public_base_url) {
                problems.add(
                    "mode",
                    "is open, which needs a loopback host in server.public_base_url, or open_to_everyone: true",
                );
            }
        }
        // SEC-25: whose they are is told by a token that is for nobody else.
        let is_apart = self.server.bulk_base_path.is_some() || self.server.bulk_listen.is_some();
        if self.export.cohorts_by_clients
            && (self.smart.mode == SmartMode::Open || (self.smart.mode == SmartMode::External && !is_apart))
        {
            problems.section = "export";
            problems.add(
                "cohorts_by_clients",
                "needs clients with tokens that are for us alone: smart.mode authorization_server, or external with \
                 server.bulk_base_path or server.bulk_listen",
            );
        }
        self.check_open(&mut problems);
        if problems.found.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// SEC-10: what opens the upstream is not for whoever happens to be on this machine.
    fn check_open(&self, problems: &mut Problems) {
        if self.smart.mode != SmartMode::Open {
            return;
        }
        problems.section = "smart";
        for (option, is_set) in [
            ("credentials", self.upstream.credentials.are_given()),
            ("tls.client_cert_file", self.upstream.tls.client_cert_file.is_some()),
        ] {
            if is_set {
                let problem =
                    format!("is open, and upstream.{option} is set: everybody here could read what that opens");
                problems.add("mode", &problem);
            }
        }
    }
}

impl Config {
    /// The section `output` as the storage is opened: with links of its own if any client's manifests list such.
    pub(crate) fn output_that_signs(&self) -> OutputConfig {
        let is_wanted =
            |client: &ClientConfig| matches!(client.output.links, Some(LinkMode::Signed | LinkMode::Redirect));
        let mut output = self.output.clone();
        if output.links == LinkMode::Proxy && self.smart.clients.iter().any(is_wanted) {
            output.links = LinkMode::Signed;
        }
        output
    }

    /// What clients want of their files has to be had where the files go.
    fn check_clients_output(&self, problems: &mut Problems) {
        problems.section = "smart";
        let place = self.output.place();
        let is_s3 = matches!(place, Ok(Location::S3(_)));
        for (number, client) in self.smart.clients.iter().enumerate() {
            let mut add =
                |option: &str, problem: &str| problems.add(&format!("clients[{number}].output.{option}"), problem);
            if client.output.sse_kms_key_id.is_some() {
                if !is_s3 {
                    add("sse_kms_key_id", "is for S3, and output.location is none there");
                } else if self.output.s3.server_side_encryption == Some(ServerSideEncryption::S3) {
                    add("sse_kms_key_id", "is a key of KMS, and output.s3.server_side_encryption is AES256");
                }
            }
        }
        // Where the site's own links are such, it is told of those.
        let signing = self.output_that_signs();
        if signing.links != self.output.links
            && let Ok(location) = &place
        {
            problems.section = "output";
            signing.check_signing(location, problems);
        }
    }
}

/// Durations as whole seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str =
        "server: { public_base_url: http://127.0.0.1:8080/fhir }\nupstream: { base_url: http://127.0.0.1:9000/fhir }\n";

    #[test]
    fn the_reference_holds_every_option_at_its_default() {
        let reference = Config::from_yaml(REFERENCE).expect("the reference is a configuration");
        assert_eq!(reference, Config::from_yaml(LEAST).expect("two URLs are enough"));
        let value = serde_json::to_value(&reference).expect("plain values");
        for (section, options) in value.as_object().expect("sections") {
            assert_all_named(section, "  ", options);
        }
    }

    fn assert_all_named(section: &str, indent: &str, options: &serde_json::Value) {
        for (option, value) in options.as_object().into_iter().flatten() {
            let line = format!("\n{indent}{option}:");
            assert!(REFERENCE.contains(&line), "{section}.{option} is not in the reference");
            assert_all_named(&format!("{section}.{option}"), &format!("{indent}  "), value);
        }
    }

    #[test]
    fn how_the_upstream_is_spared_is_read_and_checked() {
        let with = |more: &str| {
            let yaml = format!(
                "server: {{ public_base_url: http://127.0.0.1:8080/fhir }}\n\
                 upstream: {{ base_url: http://127.0.0.1:9000/fhir, {more} }}\n"
            );
            Config::from_yaml(&yaml)
        };
        let config = with(
            "max_searches_per_second: 0.5, quiet_hours: { utc_offset: +01:00, windows: [\
             { days: [mon, fri], from: 07:30, until: 18:00 }, { from: 22:00, until: 06:00, max_concurrent_searches: 2 }] }",
        );
        let upstream = config.expect("good values").upstream;
        assert_eq!(upstream.max_searches_per_second, Some(0.5));
        assert_eq!(upstream.quiet_hours.utc_offset, UtcOffset::Fixed(3_600));
        let [office, night] = &upstream.quiet_hours.windows[..] else { panic!("two windows") };
        assert_eq!((office.days.len(), office.from.minutes, office.max_concurrent_searches), (2, 450, 0));
        assert_eq!((night.days.len(), night.until.minutes, night.max_concurrent_searches), (7, 360, 2));
        for (more, expected) in [
            ("max_searches_per_second: 0", "upstream.max_searches_per_second"),
            ("yield_to_live_traffic: { headroom_percent: 95 }", "upstream.yield_to_live_traffic.headroom_percent"),
            ("yield_to_live_traffic: { min_concurrent_searches: 9 }", "min_concurrent_searches"),
            ("circuit_breaker: { failures: 0 }", "upstream.circuit_breaker.failures"),
            ("circuit_breaker: { pause_seconds: 60 }", "upstream.circuit_breaker.max_pause_seconds"),
            ("quiet_hours: { windows: [{ from: '00:00', until: '24:00' }] }", "upstream.quiet_hours.windows"),
            ("quiet_hours: { windows: [{ from: '06:00', until: '06:00' }] }", "upstream.quiet_hours.windows"),
            ("quiet_hours: { windows: [{ days: [], from: '06:00', until: '07:00' }] }", "without days"),
            ("quiet_hours: { windows: [{ from: '6:00', until: '07:00' }] }", "6:00"),
            ("quiet_hours: { utc_offset: Europe/Berlin }", "Europe/Berlin"),
        ] {
            let error = with(more).expect_err(more).to_string();
            assert!(error.contains(expected), "{more}: {error}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once_by_their_names() {
        let yaml = format!(
            "{LEAST}export: {{ max_running_jobs: 0 }}\noutput: {{ link_ttl_seconds: 0, location: 'file:relative' }}\n"
        );
        let error = Config::from_yaml(&yaml).expect_err("three things are wrong").to_string();
        for expected in ["export.max_running_jobs", "output.link_ttl_seconds", "output.location"] {
            assert!(error.contains(expected), "{error}");
        }
    }

    /// BD-033
    #[test]
    fn names_of_associated_data_begin_with_an_underscore_and_bring_types() {
        let with = |named: &str| Config::from_yaml(&format!("{LEAST}export: {{ associated_data: {{ {named} }} }}\n"));
        assert!(with("_devices: [Device, DeviceUseStatement], _a-1_B: [Basic]").is_ok());
        for named in ["devices: [Device]", "_: [Device]", "'_a b': [Device]", "_none: []", "_some: [Dragon]"] {
            let error = with(named).expect_err("it is no name, or brings nothing").to_string();
            let name = named.split(':').next().unwrap_or_default().trim_matches('\'');
            assert!(error.contains(&format!("export.associated_data.{name} ")), "{named}: {error}");
        }
    }

    #[test]
    fn what_is_unknown_or_malformed_is_refused_with_its_place() {
        for (more, expected) in [
            ("servr: {}\n", "servr"),
            ("export: { max_jobs: 3 }\n", "max_jobs"),
            ("output: { file_max_bytes: plenty }\n", "plenty"),
            ("upstream: { base_url: http://h/fhir }\n", "upstream"),
        ] {
            let error = Config::from_yaml(&format!("{LEAST}{more}")).expect_err(more).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Config::from_yaml("server: { public_base_url: http://127.0.0.1/fhir }\n").is_err(), "no upstream");
    }

    /// SEC-10
    #[test]
    fn open_mode_stays_on_this_machine() {
        for (listen, public, expected) in [
            ("127.0.0.1:1", "http://127.0.0.1:1/fhir", true),
            ("'[::1]:1'", "http://localhost:1/fhir", true),
            ("'[::1]:1'", "'http://[::1]:1/fhir'", true),
            ("0.0.0.0:1", "http://127.0.0.1:1/fhir", false),
            ("127.0.0.1:1", "http://fhir.example.org/fhir", false),
            ("127.0.0.1:1", "http://127.0.0.1.example.org/fhir", false),
        ] {
            let yaml = format!(
                "server: {{ listen: {listen}, public_base_url: {public} }}\nupstream: {{ base_url: http://h/fhir }}\n"
            );
            assert_eq!(Config::from_yaml(&yaml).is_ok(), expected, "{listen} {public}");
        }
    }
}
