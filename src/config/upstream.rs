//! The section of its name; each option says what it does.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    AcceptsAnonymous, BreakerConfig, CredentialsConfig, PassThroughTlsConfig, Problems, QuietHoursConfig,
    SearchTlsConfig, Section, Size, YieldConfig, seconds, server,
};
use crate::profile::{PresetChoice, ProfileOverrides};

/// The FHIR server that is exported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Its FHIR base.
    pub base_url: Url,
    /// The FHIR base that exports are read from instead, such as that of a reporting replica; without it `base_url`.
    #[serde(default)]
    pub export_base_url: Option<Url>,
    /// What every search of an export carries so that it is answered.
    #[serde(default)]
    pub credentials: CredentialsConfig,
    /// By what searches know the server, and it us.
    #[serde(default)]
    pub tls: SearchTlsConfig,
    /// By what requests that pass through know the server.
    #[serde(default)]
    pub pass_through_tls: PassThroughTlsConfig,
    /// Whether it may answer requests that pass through without credentials while there are bulk requests beside them.
    #[serde(default)]
    pub accepts_anonymous: AcceptsAnonymous,
    /// Searches of all exports together that it has to answer at the same time, at most.
    #[serde(default = "max_concurrent_searches")]
    pub max_concurrent_searches: usize,
    /// Searches of all exports together that begin in a second, at most; without it there is no such limit.
    #[serde(default)]
    pub max_searches_per_second: Option<f64>,
    /// How exports make way for the requests that pass through.
    #[serde(default)]
    pub yield_to_live_traffic: YieldConfig,
    /// When it is left alone because it does not answer.
    #[serde(default)]
    pub circuit_breaker: BreakerConfig,
    /// Hours in which exports do not search, or less than usual.
    #[serde(default)]
    pub quiet_hours: QuietHoursConfig,
    /// How long after its stamp a change may come to be seen there.
    #[serde(rename = "settling_lag_seconds", default = "settling_lag", with = "seconds")]
    pub settling_lag: Duration,
    /// Resources asked for on one page at most; large ones are asked for in fewer.
    #[serde(default = "page_max_resources")]
    pub page_max_resources: u32,
    /// Size that pages are aimed at, decompressed. What cannot be cut to it is asked for in pages of up to half of what a search
    /// may take of `memory_budget_bytes`, or of this size if that is larger.
    #[serde(rename = "page_target_bytes", default = "page_target")]
    pub page_target: Size,
    /// Memory for pages in flight, all exports together. It bounds the largest resource that can be exported.
    #[serde(rename = "memory_budget_bytes", default = "memory_budget")]
    pub memory_budget: Size,
    /// A search of which nothing comes for so long has failed, and is tried again.
    #[serde(rename = "search_timeout_seconds", default = "search_timeout", with = "seconds")]
    pub search_timeout: Duration,
    /// How long a search, or the output or the store, may keep failing before the export is given up.
    #[serde(rename = "give_up_after_seconds", default = "give_up_after", with = "seconds")]
    pub give_up_after: Duration,
    /// What is known of the server by its product: `auto`, `none` or the name of a preset.
    #[serde(default)]
    pub preset: PresetChoice,
    /// How long what the probes found out about the server is believed. It is found out again at once where the capability
    /// statement tells of another software, version or version of FHIR.
    #[serde(rename = "profile_ttl_seconds", default = "profile_ttl", with = "seconds")]
    pub profile_ttl: Duration,
    /// Whether the server is probed when Offtake starts, if that was not done lately; else the first export does.
    #[serde(default = "probe_on_start")]
    pub probe_on_start: bool,
    /// Lines of the server's profile that are known better than the probes find them; `offtake doctor` prints it.
    #[serde(default)]
    pub profile: ProfileOverrides,
}

fn max_concurrent_searches() -> usize {
    8
}
fn settling_lag() -> Duration {
    Duration::from_mins(1)
}
fn page_max_resources() -> u32 {
    1_000
}
fn page_target() -> Size {
    Size::mebibytes(2)
}
fn memory_budget() -> Size {
    Size::mebibytes(64)
}
fn search_timeout() -> Duration {
    Duration::from_mins(1)
}
fn give_up_after() -> Duration {
    Duration::from_mins(10)
}

fn profile_ttl() -> Duration {
    Duration::from_hours(24)
}
fn probe_on_start() -> bool {
    true
}

impl UpstreamConfig {
    /// The FHIR base that is searched.
    pub(crate) fn searched(&self) -> &Url {
        self.export_base_url.as_ref().unwrap_or(&self.base_url)
    }
}

impl Section for UpstreamConfig {
    fn check(&self, problems: &mut Problems) {
        server::check_base(&self.base_url, "base_url", problems);
        if let Some(url) = &self.export_base_url {
            server::check_base(url, "export_base_url", problems);
        }
        self.credentials.check(self.searched(), problems);
        self.tls.check(problems);
        self.pass_through_tls.check(problems);
        if !(1..=256).contains(&self.max_concurrent_searches) {
            problems.add("max_concurrent_searches", "is not between 1 and 256");
        }
        if self.max_searches_per_second.is_some_and(|most| !(0.1..=10_000.0).contains(&most)) {
            problems.add("max_searches_per_second", "is not between 0.1 and 10000");
        }
        self.yield_to_live_traffic.check(self.max_concurrent_searches, problems);
        self.circuit_breaker.check(problems);
        self.quiet_hours.check(problems);
        if self.settling_lag > Duration::from_mins(15) {
            problems.add("settling_lag_seconds", "is more than 900, a quarter of an hour");
        }
        if !(1..=10_000).contains(&self.page_max_resources) {
            problems.add("page_max_resources", "is not between 1 and 10000");
        }
        let share = self.memory_budget.bytes() / self.max_concurrent_searches.max(1) as u64;
        if self.page_target.bytes() < 64 * 1024 || self.page_target.bytes() > share {
            problems.add("page_target_bytes", "is below 64 KiB or above memory_budget_bytes / max_concurrent_searches");
        }
        if self.profile_ttl.is_zero() {
            problems.add("profile_ttl_seconds", "is 0, so every export would probe the server anew");
        }
        if self.search_timeout.is_zero() {
            problems.add("search_timeout_seconds", "is 0, so every search would fail");
        }
        if self.give_up_after.is_zero() {
            problems.add("give_up_after_seconds", "is 0, so one failed search would end an export");
        }
    }
}
