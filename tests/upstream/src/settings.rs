//! How a sample upstream behaves: honest by default, and every habit of real servers that can be switched on.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;

use crate::demand::Demand;
use crate::lies::Lies;
use crate::params::Version;

/// Everything that makes one sample upstream behave differently from another.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each habit is there or not, whatever the others are")]
pub struct Settings {
    /// What the server's software calls itself.
    pub software: String,
    /// Which version of it that is, as it says.
    pub version: String,
    /// The version of FHIR that it says it speaks. With R5 it has R5's search parameters from the start.
    pub fhir_version: String,
    /// Longer queries of a URL are answered with 414, as from Jetty.
    pub most_url_bytes: usize,
    /// How later pages of a search are reached.
    pub paging: Paging,
    /// The parameter of [`Paging::Offset`]. AWS's router calls it as HAPI calls a place in a list that is kept.
    pub offset_name: &'static str,
    /// What `Bundle.total` says on ordinary pages.
    pub total: Total,
    /// `_summary=count` and `_count=0` are answered; otherwise both are ignored and give an ordinary page.
    pub counts: bool,
    /// `_total=accurate` is honoured.
    pub accurate_total: bool,
    /// Entries of a page when the client asks for no number.
    pub default_count: usize,
    /// The most entries of a page; a larger `_count` is lowered without a word.
    pub max_count: Option<usize>,
    /// Waited before each answer.
    pub latency: Duration,
    /// Requests that are worked on at the same time: latency and answer. The others wait, first come first served.
    pub slots: Option<usize>,
    /// Bytes on the wire per second, shared by all answers of the server; compressed ones where gzip is used.
    pub bytes_per_second: Option<u64>,
    /// `Accept-Encoding: gzip` is honoured.
    pub gzip: bool,
    /// Answers are indented: white space between tokens, the tokens themselves untouched.
    pub pretty: bool,
    /// Pages with resources carry a warning beside them, as an `OperationOutcome` entry (Epic).
    pub warnings: bool,
    /// A foreign base URL that all links and `fullUrl`s show, as behind an unaware reverse proxy.
    pub link_base: Option<String>,
    /// The server keeps no `meta.lastUpdated` and ignores the parameter `_lastUpdated` (Epic).
    pub no_last_updated: bool,
    /// Search parameters that are silently ignored, though the `self` link repeats them.
    pub ignored_params: Vec<String>,
    /// `_sort` is silently ignored.
    pub ignore_sort: bool,
    /// The order of a search that is not sorted.
    pub order: Order,
    /// Clinical searches must name a patient or an id, else 400 (Epic, Oracle Health).
    pub require_patient: bool,
    /// By type, parameters of which a search must have one, or `_id`, else 400 (Epic: a category or a code of an
    /// Observation; Oracle Health: the status of an Encounter; both: something that tells one patient from others).
    pub required_params: BTreeMap<String, Vec<String>>,
    /// Two patients in one search are refused with 400 (Epic).
    pub one_patient: bool,
    /// `Patient/[id]/$everything`.
    pub everything: Everything,
    /// `_history` of the server, of types and of resources is answered; otherwise it is 501 (Epic, IRIS).
    pub history: bool,
    /// `$export` can be kicked off, by itself and in a batch; it never ends by itself.
    pub own_export: OwnExport,
    /// What whoever asks has to show.
    pub demand: Demand,
    /// The token endpoint that the server names, where it demands tokens; none is its own.
    pub token_endpoint: Option<String>,
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// What it says that is not so, and other oddities.
    pub lies: Lies,
    /// Added to the clock: shifts the `Date` header and the stamps alike.
    pub clock_skew: TimeDelta,
    /// How loaded and generated resources are stamped.
    pub stamp: Stamp,
    /// Decides generated data, faults and the writer.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            software: "sample upstream".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fhir_version: "4.0.1".to_owned(),
            most_url_bytes: 8 * 1024,
            paging: Paging::Snapshot,
            offset_name: "_offset",
            total: Total::WhenComplete,
            counts: true,
            accurate_total: true,
            default_count: 20,
            max_count: None,
            latency: Duration::ZERO,
            slots: None,
            bytes_per_second: None,
            gzip: true,
            pretty: false,
            warnings: false,
            link_base: None,
            no_last_updated: false,
            ignored_params: Vec::new(),
            ignore_sort: false,
            order: Order::default(),
            require_patient: false,
            required_params: BTreeMap::new(),
            one_patient: false,
            everything: Everything::default(),
            history: true,
            own_export: OwnExport::None,
            demand: Demand::default(),
            token_endpoint: None,
            faults: Faults::default(),
            lies: Lies::default(),
            clock_skew: TimeDelta::zero(),
            stamp: Stamp::default(),
            seed: 1,
        }
    }
}

impl Settings {
    /// Whose search parameters there are.
    pub(crate) fn version(&self) -> Version {
        if self.fhir_version.starts_with('5') { Version::R5 } else { Version::R4 }
    }
}

/// Where the server has an `$export` of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OwnExport {
    #[default]
    None,
    /// For Groups that it has, and it looks for them first.
    KnownGroups,
    /// For Groups, and it looks for them later.
    Groups,
    /// At all levels.
    Everywhere,
}

/// What becomes of `Patient/[id]/$everything`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Everything {
    /// There is no such operation.
    #[default]
    Absent,
    /// Pages of what lies in the patient's compartment, of the types that `_type` names, and what comes along.
    Paged,
    /// The same, and `_type` is ignored.
    TypeIgnored,
    /// It holds the records of all patients, whoever is asked for.
    OfEverybody,
}

/// How later pages of a search are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Paging {
    /// A list of ids frozen at the first request (HAPI): `?_getpages=…`.
    Snapshot,
    /// A position in the order (helios-hfs): `_cursor=…`, newest first unless sorted.
    Cursor,
    /// A number of entries to skip: `_offset=…`, or as `offset_name` says. Loses and doubles under writes, as real ones do.
    Offset,
}

/// The order of a search that is not sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// That of creation; by cursors the newest first.
    #[default]
    Own,
    /// By `lastUpdated`, ascending.
    LastUpdated,
    /// By id.
    Id,
}

/// What `Bundle.total` says on ordinary pages; `_total=accurate` goes before it where it is honoured, but for
/// [`Self::Estimated`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Total {
    /// Always the number of matches.
    Exact,
    /// The number of matches, on the page that completes the answer (HAPI).
    WhenComplete,
    /// Never there.
    Absent,
    /// The number of entries on this page (Epic, MEDITECH).
    PageSized,
    /// A tenth more than there are, and one, unless the page completes the answer; counts that are asked for, too (Google;
    /// Medplum above a million).
    Estimated,
}

/// How `generate` and `load_dir` stamp `meta.lastUpdated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// Evenly, all types mixed, over this long before an hour ago.
    Spread {
        /// How long before an hour ago the oldest one lies.
        over: Duration,
    },
    /// Just now, in transactions of 200 whose resources share one stamp; transactions lie 1 ms apart.
    Now,
    /// All with one stamp, now: a wall that no time window can cut.
    Single,
}

impl Default for Stamp {
    fn default() -> Self {
        Self::Spread { over: Duration::from_hours(8760) }
    }
}

/// Failures that strike any request but `/metadata`; the first that is due wins, in the order of the fields.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The connection is dropped without an answer.
    pub reset: Rate,
    /// 503 with `Retry-After`.
    pub error_503: Rate,
    /// 429 with `Retry-After`.
    pub error_429: Rate,
    /// 500.
    pub error_500: Rate,
    /// The body ends half-way and the connection breaks.
    pub truncate: Rate,
    /// What `Retry-After` says, in whole seconds.
    pub retry_after: Duration,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Rate {
    /// Never.
    #[default]
    Never,
    /// Every so-many-th request, counted per fault; 1 is every request, 0 none.
    EveryNth(u64),
    /// Each request with this probability, decided by the seed.
    Probability(f64),
}
