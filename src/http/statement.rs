//! `GET [base]/metadata` at a base that is ours alone.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::Edge;
use super::body::{self, Body};
use super::problem::Problem;
use crate::bulk::statement::Statement;
use crate::clock;
use crate::fhir::datatypes::Instant;
use crate::fhir::resource_type::ResourceType;
use crate::proxy::metadata::{validator, with_operations};

/// Answers with what is offered there. It is for everybody, as statements are.
pub(super) async fn answer(edge: &Edge, method: &Method, asked: &HeaderMap) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Problem::method_not_allowed("GET, HEAD").into_response();
    }
    statement(edge, asked).await.unwrap_or_else(Problem::into_response)
}

async fn statement(edge: &Edge, asked: &HeaderMap) -> Result<Response<Body>, Problem> {
    let capability = edge.capabilities.for_anybody().await.map_err(|_unavailable| Problem::without_statement())?;
    let offer = edge.terms.before(&capability, true);
    let mut types = offer.searchable.clone();
    if offer.compartments.is_some() {
        types.extend([ResourceType::PATIENT, ResourceType::GROUP]);
    }
    let base = edge.links.base();
    let statement = Statement {
        base: &base,
        fhir_version: &capability.fhir_version,
        types: &types,
        date: Instant::from(clock::now(&*edge.clock)).to_string(),
    };
    let document = with_operations(statement.document().as_bytes(), &offer).map_err(|_not_ours| Problem::internal())?;
    let etag = validator::etag(&document);
    let mut answer = if validator::is_known(asked, &etag) {
        let mut answer = Response::new(body::empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        let mut answer = Response::new(body::full(document));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
        answer
    };
    let headers = answer.headers_mut();
    headers.insert(header::ETAG, etag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    Ok(answer)
}
