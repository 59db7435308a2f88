//! `Patient/[id]/$everything`: a patient's record, paged by offsets, and who and what it refers to.

use std::collections::BTreeSet;

use http::StatusCode;

use crate::answer::{Answer, Refusal};
use crate::bundle::{Bundle, Head};
use crate::params::{self, Kind, Version};
use crate::settings::Everything;
use crate::store::{Record, Store};
use crate::upstream::SampleUpstream;

/// Types that come along with every record, as included ones.
const ALONG: [&str; 2] = ["Organization", "Practitioner"];

/// Answers with a page of the record of patient `id`.
///
/// # Errors
/// 404 where there is no such operation or no such patient, 400 for numbers that are none.
pub(crate) fn everything(
    upstream: &SampleUpstream,
    base: &str,
    id: &str,
    pairs: &[(String, String)],
) -> Result<Answer, Refusal> {
    let settings = upstream.settings();
    if settings.everything == Everything::Absent {
        return Err(Refusal::not_found("there is no operation $everything here"));
    }
    if settings.lies.closed_records.contains(id) {
        return Err(Refusal::new(http::StatusCode::FORBIDDEN, "forbidden", "the record is closed"));
    }
    let value = |name: &str| pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let number = |name: &str, default: usize| match value(name) {
        Some(text) => text.parse().map_err(|_| Refusal::invalid(format!("invalid value of parameter {name}"))),
        None => Ok(default),
    };
    let offset: usize = number("_offset", 0)?;
    let count = number("_count", settings.default_count)?.clamp(1, settings.max_count.unwrap_or(usize::MAX).max(1));
    let types: Option<BTreeSet<&str>> = match settings.everything {
        Everything::TypeIgnored => None,
        Everything::Absent | Everything::Paged | Everything::OfEverybody => {
            value("_type").map(|value| value.split(',').collect())
        }
    };
    let now = upstream.now();
    upstream.read(|store| {
        store.newest("Patient", id).ok_or_else(|| Refusal::not_found("there is no such patient"))?;
        let everybody = settings.everything == Everything::OfEverybody;
        let found = record(store, settings.version(), id, everybody);
        let wanted =
            |record: &&(&Record, bool)| types.as_ref().is_none_or(|types| types.contains(&*record.0.resource_type));
        let found: Vec<_> = found.iter().filter(wanted).collect();
        let end = offset.saturating_add(count).min(found.len());
        let mut links = Vec::new();
        if end < found.len() {
            let types = value("_type").map(|types| format!("&_type={types}")).unwrap_or_default();
            links.push(("next", format!("{base}/Patient/{id}/%24everything?_count={count}&_offset={end}{types}")));
        }
        let bundle_id = format!("{:016x}", now.timestamp_micros());
        let head = Head { kind: "searchset", id: &bundle_id, at: now, total: Some(found.len()), links: &links };
        let mut bundle = Bundle::open(&head);
        for (record, along) in found.get(offset..end).unwrap_or_default() {
            let name = format!("{}/{}", record.resource_type, record.id);
            if settings.lies.dropped.contains(&name) {
                continue;
            }
            let mode = if *along { "include" } else { "match" };
            let search = format!(r#","search":{{"mode":"{mode}"}}"#);
            bundle.entry(&format!("{base}/{name}"), record.body.as_ref(), &search);
        }
        Ok(Answer::fhir(StatusCode::OK, bundle.close()))
    })
}

/// What belongs to the patient, or to any, and what comes along.
fn record<'s>(store: &'s Store, version: Version, id: &str, everybody: bool) -> Vec<(&'s Record, bool)> {
    let mut found = Vec::new();
    for (name, of_type) in store.types() {
        let along = ALONG.contains(&&**name);
        let all = along || (everybody && (params::is_clinical(version, name) || &**name == "Patient"));
        let pids: BTreeSet<u64> = if all {
            of_type.rows.keys().copied().collect()
        } else if params::is_clinical(version, name) {
            let links = params::of(version, name).filter(|param| param.kind == Kind::Reference);
            let postings = links.filter_map(|param| of_type.posting(&format!("{}=Patient/{id}", param.name)));
            postings.flatten().copied().collect()
        } else {
            BTreeSet::new()
        };
        found.extend(pids.into_iter().filter_map(|pid| store.current(of_type, pid)).map(|record| (record, along)));
        if &**name == "Patient" && !everybody {
            found.extend(store.newest("Patient", id).map(|record| (record, false)));
        }
    }
    found
}
