//! The server's own `$export`, as far as it can be begun and ended: nothing is ever exported.

use http::StatusCode;
use http::header::{CONTENT_LOCATION, HeaderMap};
use serde_json::{Value, json};

use crate::answer::{Answer, Refusal};
use crate::settings::OwnExport;
use crate::upstream::SampleUpstream;

/// The levels at which it is offered.
pub(crate) fn is_offered(upstream: &SampleUpstream, path: &[&str]) -> bool {
    let offered = upstream.settings().own_export;
    match path {
        ["$export"] | ["Patient", "$export"] => offered == OwnExport::Everywhere,
        // Most look for the Group only once the export runs.
        ["Group", _, "$export"] => matches!(offered, OwnExport::Everywhere | OwnExport::Groups),
        _ => false,
    }
}

fn is_async(headers: &HeaderMap) -> bool {
    headers.get("prefer").is_some_and(|prefer| prefer.as_bytes() == b"respond-async")
}

/// Begins one, if that is asked for as it has to be.
pub(crate) fn kick_off(upstream: &SampleUpstream, base: &str, headers: &HeaderMap) -> Result<Answer, Refusal> {
    if !is_async(headers) {
        return Err(Refusal::invalid("must request async processing for $export"));
    }
    let status = format!("{base}/$export-poll-status?_jobId={}", upstream.begin_export());
    Ok(Answer::empty(StatusCode::ACCEPTED).with(CONTENT_LOCATION, &status))
}

/// Ends one.
pub(crate) fn end(upstream: &SampleUpstream, pairs: &[(String, String)]) -> Result<Answer, Refusal> {
    let id = pairs.iter().find(|(name, _)| name == "_jobId").and_then(|(_, id)| id.parse().ok());
    let known = id.is_some_and(|id| upstream.end_export(id));
    if known { Ok(Answer::empty(StatusCode::ACCEPTED)) } else { Err(Refusal::not_found("no such job")) }
}

/// A batch whose entries are kick-offs; all others are not found.
pub(crate) fn batch(
    upstream: &SampleUpstream,
    base: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Answer, Refusal> {
    let bundle: Value = serde_json::from_slice(body).map_err(|_| Refusal::invalid("no JSON"))?;
    if bundle["type"] != "batch" {
        return Err(Refusal::invalid("no batch"));
    }
    let entries = bundle["entry"].as_array().map(Vec::as_slice).unwrap_or_default();
    let answered = entries.iter().map(|entry| {
        let url = entry["request"]["url"].as_str().unwrap_or_default();
        let path: Vec<_> = url.split('?').next().unwrap_or_default().split('/').collect();
        let is_export = entry["request"]["method"] == "GET" && is_offered(upstream, &path);
        let answer = if is_export { kick_off(upstream, base, headers).ok() } else { None };
        match answer {
            Some(answer) => {
                let location = answer.headers[CONTENT_LOCATION].to_str().unwrap_or_default();
                json!({ "response": { "status": "202 Accepted", "location": location } })
            }
            None => json!({ "response": { "status": "404 Not Found" } }),
        }
    });
    let answered: Vec<_> = answered.collect();
    let bundle = json!({ "resourceType": "Bundle", "type": "batch-response", "entry": answered });
    Ok(Answer::fhir(StatusCode::OK, bundle.to_string()))
}
