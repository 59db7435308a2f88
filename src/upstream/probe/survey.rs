//! All that is asked of a server on which no export waits: at the start, and by `offtake doctor`.

use std::collections::BTreeMap;

use futures_util::StreamExt;

use super::by_patient::{Reached, reach, records, some_patients};
use super::patients::{PatientProbeError, Way, patients};
use super::{Held, count_method, held, profile, strict};
use crate::fhir::compartment::Compartments;
use crate::fhir::resource_type::ResourceType;
use crate::profile::{ByPatient, Findings, Profile, Searches, StrictHandling};
use crate::upstream::client::{SearchError, Upstream};

/// What the server holds and what it was found to do.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) held: Held,
    pub(crate) findings: Findings,
}

/// The server could no longer be had.
#[derive(Debug, thiserror::Error)]
#[error("the server could no longer be had when it was asked for {resource_type}")]
pub(crate) struct Silent {
    pub(crate) resource_type: ResourceType,
    #[source]
    pub(crate) source: SearchError,
}

/// Asks everything that can be asked without a patient: `types` are those that can be searched so, `most` is what a page
/// will be asked for.
///
/// # Errors
/// If the server cannot be had.
pub(crate) async fn survey(
    upstream: &Upstream,
    types: &[ResourceType],
    most: u32,
    at_once: usize,
) -> Result<Survey, Silent> {
    let first = types.first().copied().unwrap_or(ResourceType::PATIENT);
    let failed = |source| Silent { resource_type: first, source };
    let strict = strict(upstream, types).await.map_err(failed)?;
    let upstream = &upstream.strictly(strict != StrictHandling::Refused);
    let method = count_method(upstream, types).await.map_err(failed)?;
    let held = held(upstream, types, method, at_once).await;
    let held = held.map_err(|(resource_type, source)| Silent { resource_type, source })?;
    let mut findings = profile(upstream, method, &held.counts, types, most).await.map_err(failed)?;
    findings.profile.strict = strict;
    Ok(Survey { held, findings })
}

/// Tries searches by patient on some who are patients, and notes what they do: of `types`, which were searched without
/// one, and of those that `given` or the server says cannot be.
///
/// # Errors
/// If the server cannot be had. That searches by patient cannot be relied on is a finding.
pub(crate) async fn try_patients(
    upstream: &Upstream,
    compartments: Compartments,
    types: &[ResourceType],
    held: &Held,
    given: &Profile,
    findings: &mut Findings,
    at_once: usize,
) -> Result<(), Silent> {
    let failed = |source| Silent { resource_type: ResourceType::PATIENT, source };
    let upstream = &upstream.strictly(findings.profile.strict != StrictHandling::Refused);
    let some = some_patients(upstream).await.map_err(failed)?.unwrap_or_default();
    if some.is_empty() {
        return Ok(());
    }
    let is_refused = |name: &ResourceType| held.refused.iter().any(|(refused, _)| refused == name);
    let of_patients: Vec<_> = types.iter().copied().filter(|name| compartments.are_read_by_patient(*name)).collect();
    let (alone, answered): (Vec<_>, Vec<_>) =
        of_patients.into_iter().partition(|name| given.patient_required || is_refused(name));
    let occupied: Vec<_> = answered.into_iter().filter(|name| held.counts.get(name) != Some(&0)).collect();
    let tried = async {
        let mut answers = futures_util::stream::iter(alone)
            .map(|name| {
                let some = &some;
                async move { (name, reach(upstream, compartments, name, some, given.searches.of(name)).await) }
            })
            .buffer_unordered(at_once);
        let mut reached = BTreeMap::new();
        while let Some((name, reach)) = answers.next().await {
            if let Ok(reach) = reach? {
                reached.insert(name, reach);
            }
        }
        let ways = ways(&reached, &given.searches);
        patients(upstream, compartments, &occupied, &ways, &some, findings.profile.counts, at_once).await
    };
    match tried.await {
        Ok(found) => {
            findings.profile.note(found.form, found.lists.map(|lists| (lists.url_most_bytes, lists.post)));
            findings.by_patient = ByPatient::Tried;
        }
        Err(PatientProbeError::Search { resource_type, source }) => return Err(Silent { resource_type, source }),
        Err(error) => findings.by_patient = ByPatient::Unreliable(error.to_string()),
    }
    findings.profile.everything = Some(records(upstream, &some).await.map_err(failed)?);
    Ok(())
}

/// The searches by patient that were answered.
pub(crate) fn ways<'a>(reached: &BTreeMap<ResourceType, Reached>, searches: &'a Searches) -> Vec<Way<'a>> {
    let found = reached.iter().filter(|(_, reach)| reach.found.is_some());
    let ways = found.filter_map(|(name, reach)| {
        let link = *reach.links.first()?;
        Some(Way { resource_type: *name, link, narrowing: searches.of(*name).first(), found: reach.found })
    });
    ways.collect()
}
