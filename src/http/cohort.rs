//! `GET [base]/Group/[id]` of a cohort of ours: that there is one, and what it is called. Who is in it an export tells.

pub(super) mod client;

use http::Response;
use http::request::Parts;
use serde_json::json;

use super::body::Body;
use super::problem::Problem;
use super::{Edge, authorize};
use crate::bulk::cohort::CohortId;
use crate::fhir::datatypes::Id;
use crate::smart::policy::Level;
use crate::smart::server::Caller;
use crate::upstream::group::GroupError;

/// SEC-25: for whoever may read Groups, and this one.
pub(super) async fn cohort(edge: &Edge, id: &Id, head: &Parts) -> Result<Response<Body>, Problem> {
    let caller = authorize::caller(edge, head).await?;
    authorize::require_groups(edge, &caller)?;
    if edge.most_cohorts.is_some()
        && CohortId::of(id).is_some()
        && let Some(own) = client::known(edge, &edge.engine().await?, &caller, id).await?
    {
        return Ok(client::resource(&own.definition.group(own.id)));
    }
    // Whatever is hidden from it is unknown, as what is not there is.
    if let Caller::Client(client) = &caller
        && !(client.policy().permits_level(Level::Group) && client.policy().permits_group(id))
    {
        return Err(GroupError::Unknown.into());
    }
    let cohort = edge.cohorts.get(id).ok_or(GroupError::Unknown)?;
    let mut group = json!({
        "resourceType": "Group", "id": id.as_str(), "active": true, "type": "person", "actual": true,
    });
    if let Some(name) = &cohort.name {
        group["name"] = json!(name);
    }
    Ok(client::resource(&group))
}
