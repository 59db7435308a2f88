//! Cohorts that clients have made, and what of one an export is for.

use serde::{Deserialize, Serialize};

use crate::bulk::cohort::{CohortId, Definition, Listed};
use crate::fhir::datatypes::Millis;
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::smart::client::ClientId;

/// The record of one cohort. It is its client's alone (SEC-25).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientCohort {
    pub(crate) id: CohortId,
    pub(crate) client: ClientId,
    pub(crate) created: Millis,
    pub(crate) definition: Definition,
}

/// A cohort as an export is for it: fixed at the kick-off, with what its client may have no more of by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CohortOfJob {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) members: Option<Listed>,
    /// Whether patients are among those, also where they are left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) names_patients: bool,
    /// All of them have to find somebody.
    pub(crate) searches: Vec<MemberSearch>,
}

/// A search that finds members: what any of its filters lets pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberSearch {
    pub(crate) resource_type: ResourceType,
    pub(crate) filters: Vec<Filter>,
}
