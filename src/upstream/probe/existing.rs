//! Which of some patients there are.

use std::collections::BTreeSet;

use futures_util::StreamExt;

use super::list;
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::datatypes::Id;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::plan::cohort::{Lists, batches};
use crate::profile::PatientForm;
use crate::upstream::client::{Room, SearchError, Upstream};

/// Patients in the list that the probe has seen to find each of them.
const PROVEN: usize = 2;

/// Those of `asked`, which is sorted, that the server gives: by searches for lists of them where `lists` says that these find
/// each of them, and by reads where it does not let patients be searched.
pub(crate) async fn existing(
    upstream: &Upstream,
    asked: &[Id],
    lists: bool,
    at_once: usize,
) -> Result<Vec<Id>, SearchError> {
    let lists = if lists { Lists::IN_A_URL } else { Lists::NONE };
    let batches: Vec<Vec<Id>> = batches(asked, lists)
        .into_iter()
        .filter_map(|batch| asked.get(batch.start as usize..batch.end as usize))
        .map(<[Id]>::to_vec)
        .collect();
    let mut answers = futures_util::stream::iter(batches)
        .map(|batch| async move { in_batch(upstream, batch).await })
        .buffer_unordered(at_once.max(1));
    let mut there = BTreeSet::new();
    while let Some(found) = answers.next().await {
        there.extend(found?);
    }
    Ok(there.into_iter().collect())
}

async fn in_batch(upstream: &Upstream, batch: Vec<Id>) -> Result<BTreeSet<Id>, SearchError> {
    let Found { mut there, is_whole } = by_search(upstream, &batch).await?;
    if is_whole && batch.len() <= PROVEN {
        return Ok(there);
    }
    // A server may read a part of a long list and say nothing of it: those it did not give are asked for by lists as short as
    // the one that was tried on it.
    if is_whole {
        let missing: Vec<_> = batch.into_iter().filter(|id| !there.contains(id)).collect();
        for few in missing.chunks(PROVEN) {
            there.extend(Box::pin(in_batch(upstream, few.to_vec())).await?);
        }
        return Ok(there);
    }
    // A page that was cut, or a search that was refused, says nothing of those who are not on it.
    let is_one = batch.len() == 1;
    for id in batch {
        if there.contains(&id) {
            continue;
        }
        let one = std::slice::from_ref(&id);
        let alone = if is_one { Found::default() } else { by_search(upstream, one).await? };
        if !alone.there.is_empty() || (!alone.is_whole && is_read(upstream, &id).await?) {
            there.insert(id);
        }
    }
    Ok(there)
}

/// What one search found.
#[derive(Default)]
struct Found {
    there: BTreeSet<Id>,
    /// Whether those who were not found are not there.
    is_whole: bool,
}

async fn by_search(upstream: &Upstream, ids: &[Id]) -> Result<Found, SearchError> {
    let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let named = list(&ids.iter().collect::<Vec<_>>(), PatientForm::Id);
    let query = SearchQuery::new(ResourceType::PATIENT).param("_id", named).count(count).ids_only();
    match upstream.page(&query, Scope::of(ResourceType::PATIENT), Room::Share).await {
        Ok(answer) => {
            let page = answer.page;
            let is_whole = page.next.is_none() && !page.is_troubled();
            let there = page.entries.into_iter().map(|entry| entry.id).filter(|id| ids.contains(id)).collect();
            Ok(Found { there, is_whole })
        }
        Err(SearchError::TooLarge { .. } | SearchError::Refused { .. } | SearchError::Failing { .. }) => {
            Ok(Found::default())
        }
        Err(error @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => Err(error),
    }
}

/// Whether a patient can be read. What is too large to be looked at, or makes the server fail, is there.
async fn is_read(upstream: &Upstream, id: &Id) -> Result<bool, SearchError> {
    match upstream.read(ResourceType::PATIENT, id).await {
        Ok(None) | Err(SearchError::Refused { .. }) => Ok(false),
        Ok(Some(body)) => {
            Ok(Entry::parse(&body, Scope::of(ResourceType::PATIENT)).is_some_and(|entry| entry.id == *id))
        }
        Err(SearchError::TooLarge { .. } | SearchError::Failing { .. }) => Ok(true),
        Err(error @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => Err(error),
    }
}
