//! `GET [base]/metadata` at a base that is ours alone.

use http::{HeaderValue, Method, Response, header};

use super::body::{self, Body};
use super::problem::Problem;
use super::{Access, Edge};
use crate::bulk::statement::Statement;
use crate::clock;
use crate::fhir::datatypes::Instant;
use crate::proxy::metadata::with_operations;

/// Answers with what is offered there. It is for everybody, as statements are.
pub(super) async fn answer(edge: &Edge, method: &Method) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Problem::method_not_allowed("GET, HEAD").into_response();
    }
    statement(edge).await.unwrap_or_else(Problem::into_response)
}

async fn statement(edge: &Edge) -> Result<Response<Body>, Problem> {
    let capability = edge.capability().await?;
    let base = edge.links.base();
    let statement = Statement {
        base: &base,
        fhir_version: &capability.fhir_version,
        has_patients: capability.compartments().is_some(),
        date: Instant::from(clock::now(&*edge.clock)).to_string(),
        token_endpoint: match &edge.access {
            Access::Server(server) => Some(server.endpoints().token.as_str()),
            Access::External(_) | Access::Open { .. } => None,
        },
    };
    let document = with_operations(statement.document().as_bytes()).ok_or_else(Problem::internal)?;
    let mut answer = Response::new(body::full(document));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    Ok(answer)
}
