//! Asks the server the questions that a Profile needs. Whatever fails leaves the feature unproven.

use std::collections::BTreeMap;

use super::client::{Room, SearchError, Upstream};
use super::link;
use crate::fhir::bundle::Scope;
use crate::fhir::datatypes::{Instant, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Prefix, SearchQuery};
use crate::profile::{CountMethod, NextLinks, PageTotal, Profile};

/// A type of which at most so many resources are read to see whether counts are exact.
const READ_AT_MOST: u32 = 200;
/// Pages that may disagree with a count because something was written in between.
const PAGE_TRIES: u32 = 5;

/// How the upstream counts, if it does: the first method that gives a number for `resource_type`.
pub(crate) async fn count_method(
    upstream: &Upstream,
    resource_type: ResourceType,
) -> Result<Option<CountMethod>, SearchError> {
    for method in [CountMethod::Summary, CountMethod::Accurate] {
        match upstream.count(&SearchQuery::new(resource_type), method).await {
            Ok((Some(_), _)) => return Ok(Some(method)),
            Ok((None, _)) | Err(SearchError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Tries the server on real resources: `held` says how many of each type there are, by `counts`.
///
/// # Errors
/// If the server cannot be had. A refused probe is an answer: that feature is not to be used.
pub(crate) async fn profile(
    upstream: &Upstream,
    counts: Option<CountMethod>,
    held: &BTreeMap<ResourceType, u64>,
    fallback: &[ResourceType],
) -> Result<Profile, SearchError> {
    let mut profile = Profile::default();
    // The fewest resources that still make two pages of one: cheap to read in full.
    let witness = held.iter().filter(|(_, count)| **count > 1).min_by_key(|(_, count)| **count);
    let candidates: Vec<ResourceType> = match witness {
        Some((resource_type, _)) => vec![*resource_type],
        None => fallback.iter().copied().take(20).collect(),
    };
    for resource_type in candidates {
        let Some(first) = allowed(page(upstream, SearchQuery::new(resource_type).count(1)).await)? else { continue };
        let Some(next) = &first.next else { continue };
        profile.links = link::kind(next);
        profile.last_updated = filters_by_time(upstream, resource_type).await?;
        let Some(method) = counts else { break };
        let Some(exact) = exact_count(upstream, resource_type, method, profile.last_updated).await? else { break };
        profile.counts = Some(method);
        profile.page_total = page_total(upstream, &exact).await?;
        break;
    }
    if profile.links == NextLinks::Unknown {
        profile.links = NextLinks::Offsets;
    }
    Ok(profile)
}

/// P1: a window in the far future is empty and one in the far past is not.
async fn filters_by_time(upstream: &Upstream, resource_type: ResourceType) -> Result<bool, SearchError> {
    let since = |year| SearchQuery::new(resource_type).last_updated(Prefix::GreaterOrEqual, year_begin(year)).count(1);
    let Some(future) = allowed(page(upstream, since(2900)).await)? else { return Ok(false) };
    let Some(past) = allowed(page(upstream, since(1900)).await)? else { return Ok(false) };
    Ok(future.entries == 0 && past.entries > 0)
}

/// A search whose whole result is known.
struct Exact {
    query: SearchQuery,
    method: CountMethod,
    count: u64,
}

/// P5: a count that was compared with a page read in full. A large type is narrowed by time until it can be.
async fn exact_count(
    upstream: &Upstream,
    resource_type: ResourceType,
    method: CountMethod,
    by_time: bool,
) -> Result<Option<Exact>, SearchError> {
    let mut query = SearchQuery::new(resource_type);
    let (mut from, mut until) = (year_begin(1970), Millis(upstream.now().0 + 1));
    for _ in 0..48 {
        let Some((Some(count), _)) = allowed(upstream.count(&query, method).await)? else { return Ok(None) };
        let mut is_large = count > u64::from(READ_AT_MOST);
        if !is_large {
            let Some(read) = allowed(page(upstream, query.clone().count(READ_AT_MOST).ids_only()).await)? else {
                return Ok(None);
            };
            // The server's own pages may be smaller still.
            is_large = read.next.is_some();
            if !is_large && read.entries != count {
                if has_changed(upstream, &query, method, count).await? {
                    continue;
                }
                return Ok(None);
            }
            if !is_large && count > 1 {
                return Ok(Some(Exact { query, method, count }));
            }
        }
        if !by_time {
            return Ok(None);
        }
        if is_large {
            until = Millis(from.0 + (until.0 - from.0) / 2);
        } else {
            // Cut down to nothing or one: the other half holds the rest.
            (from, until) = (until, Millis(until.0 + (until.0 - from.0)));
        }
        if until <= from {
            return Ok(None);
        }
        query = SearchQuery::new(resource_type)
            .last_updated(Prefix::GreaterOrEqual, from)
            .last_updated(Prefix::LessThan, until);
    }
    Ok(None)
}

/// Whether a number that does not agree with a page may be no lie: what was written between the two looks alike, but
/// then the server no longer counts as many.
async fn has_changed(
    upstream: &Upstream,
    query: &SearchQuery,
    method: CountMethod,
    count: u64,
) -> Result<bool, SearchError> {
    let again = allowed(upstream.count(query, method).await)?.and_then(|(count, _)| count);
    Ok(again.is_some_and(|again| again != count))
}

/// Whether a page of one says how many there are, and what it takes to make it.
async fn page_total(upstream: &Upstream, exact: &Exact) -> Result<Option<PageTotal>, SearchError> {
    let one = exact.query.clone().count(1);
    for (query, total) in [(one.clone(), PageTotal::Always), (one.total_accurate(), PageTotal::OnRequest)] {
        let mut count = exact.count;
        for _ in 0..PAGE_TRIES {
            let Some(read) = allowed(page(upstream, query.clone()).await)? else { break };
            if read.total == Some(count) && read.entries == 1 {
                return Ok(Some(total));
            }
            let again = allowed(upstream.count(&exact.query, exact.method).await)?.and_then(|(count, _)| count);
            match again {
                Some(again) if again != count => count = again,
                Some(_) | None => break,
            }
        }
    }
    Ok(None)
}

/// What a probe needs of a page.
struct Seen {
    entries: u64,
    total: Option<u64>,
    next: Option<String>,
}

async fn page(upstream: &Upstream, query: SearchQuery) -> Result<Seen, SearchError> {
    let scope = Scope::of(query.resource_type());
    let answer = match upstream.page(&query, scope, Room::Share).await {
        Err(SearchError::TooLarge { alone: false, .. }) => upstream.page(&query, scope, Room::Alone).await?,
        other => other?,
    };
    let page = answer.page;
    Ok(Seen { entries: page.entries.len() as u64, total: page.total, next: page.next })
}

/// A refusal is an answer; only a server that cannot be had is an error.
fn allowed<T>(result: Result<T, SearchError>) -> Result<Option<T>, SearchError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(SearchError::Refused { .. } | SearchError::TooLarge { .. } | SearchError::Link) => Ok(None),
        Err(error @ SearchError::GaveUp { .. }) => Err(error),
    }
}

fn year_begin(year: i32) -> Millis {
    Instant::parse(&format!("{year:04}-01-01T00:00:00Z")).map_or(Millis(0), Instant::floor_millis)
}
