//! `GET [base]/Group/[id]` of a cohort of ours: that there is one, and what it is called. Who is in it an export tells.

use http::request::Parts;
use http::{HeaderValue, Response, header};
use serde_json::json;

use super::body::{self, Body};
use super::problem::Problem;
use super::{Edge, authorize};
use crate::fhir::datatypes::Id;
use crate::smart::policy::Level;
use crate::smart::server::Caller;
use crate::upstream::group::GroupError;

/// SEC-25: for whoever may read Groups, and this one.
pub(super) async fn cohort(edge: &Edge, id: &Id, head: &Parts) -> Result<Response<Body>, Problem> {
    let caller = authorize::caller(edge, head).await?;
    authorize::require_groups(edge, &caller)?;
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
    let mut answer = Response::new(body::full(group.to_string()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(answer)
}
