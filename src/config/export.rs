//! The section of its name; each option says what it does.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cohorts::{self, CohortConfig};
use super::{Problems, Section, Size, seconds};
use crate::fhir::compartment::Compartments;
use crate::fhir::resource_type::ResourceType;
use crate::plan::{Attachments, BoundaryChoice, Newcomers, OnShort};

/// What exports may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct ExportConfig {
    /// How long a finished export's manifest and files can be had.
    #[serde(rename = "output_ttl_seconds", with = "seconds")]
    pub output_ttl: Duration,
    /// Exports running at the same time; later kick-offs are accepted and wait for their turn.
    pub max_running_jobs: usize,
    /// Exports waiting for their turn; a further kick-off is answered with 429.
    pub max_waiting_jobs: usize,
    /// Exports of one client that run or wait; a further kick-off of its is answered with 429. The client's own quota
    /// `running_jobs` counts instead.
    pub max_jobs_per_client: u32,
    /// Status requests of one client within a second that may come before `Retry-After` has passed; a further one is
    /// answered with 429.
    pub early_polls_per_second: u32,
    /// Whether a kick-off that asks for what an export of the same client that runs or waits is for is answered with
    /// that export.
    pub share_identical_kickoffs: bool,
    /// Members of a Group at most; and patients of a server whose data can be searched by patient only.
    pub group_max_members: usize,
    /// What is exported with `_since` of patients who became members of the Group after it.
    pub group_since_newcomers: Newcomers,
    /// Cohorts of ours, exported as Groups are.
    pub cohorts: Vec<CohortConfig>,
    /// Whether clients may make cohorts (the Bulk Cohort API).
    pub cohorts_by_clients: bool,
    /// Cohorts that one client may have; a further one is answered with 429.
    pub max_cohorts_per_client: usize,
    /// Types outside of the Patient compartment that come along at Patient and Group level if an exported resource
    /// refers to them.
    pub follow_references: Vec<String>,
    /// What clients may call some types by, so that they come along: values of `includeAssociatedData` that begin with `_`.
    pub associated_data: BTreeMap<String, Vec<String>>,
    /// Whether clients may ask for the Provenance of what is exported (`includeAssociatedData`). It costs a search for each few
    /// resources of an export.
    pub provenance_by_target: bool,
    /// Whether clients may have files of blocks, one for each patient (`organizeOutputBy=Patient`).
    pub organize_by_patient: bool,
    /// What becomes of an export of which something that the server counts does not come.
    pub on_short: OnShort,
    /// Whether changes after `transactionTime` that were seen are in the files.
    pub boundary: BoundaryChoice,
    /// Whether deletions that the server's history does not tell are found by asking for everything that the client
    /// received before.
    pub deletions_by_difference: bool,
    /// What becomes of attachments that are kept as a Binary of the server.
    pub attachments: Attachments,
    /// Bytes of the attachments of one resource together, as far as they are inlined.
    #[serde(rename = "attachments_max_bytes")]
    pub attachments_max: Size,
}

impl Default for ExportConfig {
    fn default() -> Self {
        let followed = ["Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Device"];
        Self {
            output_ttl: Duration::from_hours(24),
            max_running_jobs: 4,
            max_waiting_jobs: 1_000,
            max_jobs_per_client: 100,
            early_polls_per_second: 100,
            share_identical_kickoffs: false,
            group_max_members: 100_000,
            group_since_newcomers: Newcomers::None,
            cohorts: Vec::new(),
            cohorts_by_clients: false,
            max_cohorts_per_client: 100,
            follow_references: followed.map(str::to_owned).to_vec(),
            associated_data: BTreeMap::new(),
            provenance_by_target: true,
            organize_by_patient: true,
            on_short: OnShort::Fail,
            boundary: BoundaryChoice::NoLoss,
            deletions_by_difference: false,
            attachments: Attachments::Reference,
            attachments_max: Size::mebibytes(8),
        }
    }
}

impl Section for ExportConfig {
    fn check(&self, problems: &mut Problems) {
        if self.output_ttl.is_zero() {
            problems.add("output_ttl_seconds", "is 0, so nothing could ever be fetched");
        }
        if !(1..=64).contains(&self.max_running_jobs) {
            problems.add("max_running_jobs", "is not between 1 and 64");
        }
        if self.max_waiting_jobs == 0 {
            problems.add("max_waiting_jobs", "is 0, so no export could ever begin");
        }
        if self.max_jobs_per_client == 0 {
            problems.add("max_jobs_per_client", "is 0, so no client could export anything");
        }
        if self.group_max_members == 0 {
            problems.add("group_max_members", "is 0, so no Group could be exported");
        }
        if !(1..=10_000).contains(&self.max_cohorts_per_client) {
            problems.add("max_cohorts_per_client", "is not between 1 and 10000");
        }
        if !(1..=Size::mebibytes(64).bytes()).contains(&self.attachments_max.bytes()) {
            problems.add("attachments_max_bytes", "is not between 1 and 64MiB");
        }
        for (option, problem) in cohorts::problems(&self.cohorts) {
            problems.add(&option, &problem);
        }
        for (name, types) in &self.associated_data {
            let option = format!("associated_data.{name}");
            let is_code = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            if !name.strip_prefix('_').is_some_and(|rest| !rest.is_empty() && rest.len() < 64 && is_code(rest)) {
                problems.add(&option, "is no underscore with letters, digits, `-` and `_` after it");
            }
            if types.is_empty() {
                problems.add(&option, "names no type, so that nothing would come along");
            }
            for name in types.iter().filter(|name| ResourceType::parse(name).is_none()) {
                problems.add(&option, &format!("names {name}, which is no resource type"));
            }
        }
        for name in &self.follow_references {
            match ResourceType::parse(name) {
                // What belongs to patients in later versions only is known when there is a server.
                Some(known) if Compartments::R4.hold(known) => {
                    problems.add("follow_references", &format!("names {name}, which belongs to patients"));
                }
                Some(_) => {}
                None => problems.add("follow_references", &format!("names {name}, which is no resource type")),
            }
        }
    }
}
