//! Asks the server the questions that a Profile needs. Whatever fails leaves the feature unproven.
//!
//! | probe | where |
//! |---|---|
//! | P1, P7 `_lastUpdated`, its precision and edges | [`time_filter`] |
//! | P2 a patient that nobody is finds nothing | [`patients`](mod@patients) |
//! | P3 `_sort` | [`sorts`] |
//! | P4 what next links point into | [`link::kind`]; a second sort key is never sent |
//! | P5 counts and totals | [`exact_count`], [`page_total`] |
//! | P6 the largest page | [`page_most`] |
//! | P8, P9 lists of ids and of patients, in URLs and in forms | [`lists_of_ids`], [`long_lists`] |
//! | P10 `_history` | [`history`] |
//! | P11 links to another base | none: every link is anchored at the configured base |
//! | P12 the clock | [`Upstream::skew_millis`] |
//! | P13 `Prefer: handling=strict` | [`strict`] |
//! | P14 compression and HTTP/2 | [`Upstream::compresses`], [`Upstream::protocol`] |
//! | what narrows a type, for whoever asks by it | [`filter`](mod@filter) |
//! | Provenance by what it is about, where exports ask so | [`targets`](mod@targets) |
//! | P15 batches of searches | not asked: an export never sends one. A batch hides the single search's status, its retry hints and its next link, and is one large answer in memory where pages are small |

mod by_patient;
mod existing;
mod filter;
mod long_lists;
mod patients;
mod survey;
mod targets;
mod witness;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;

use super::client::{Answer, Room, SearchError, Upstream};
use super::link;
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::datatypes::{Id, Instant, Millis};
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Direction, Prefix, SearchQuery};
use crate::profile::{
    CountMethod, Findings, Line, NextLinks, PageTotal, PatientForm, Profile, StrictHandling, TimeFilter,
};

pub(crate) use by_patient::{ListError, Listing, Reached, all_patients, reach, records, some_patients, subjects};
pub(crate) use existing::existing;
pub(crate) use filter::{FilterProbeError, Trial, filter, passing};
pub(crate) use patients::{PatientProbeError, Patients, Way, list, patients};
pub(crate) use survey::{Silent, Survey, survey, try_patients, ways};
pub(crate) use targets::{TargetSearch, targets};

/// A type of which at most so many resources are read to see whether counts are exact.
const READ_AT_MOST: u32 = 200;
/// Pages that may disagree with a count because something was written in between.
const PAGE_TRIES: u32 = 5;
/// Types that are tried for what a single one may be too uniform to show.
const TYPES_TRIED: usize = 3;
/// Types that are asked for until one shows how the server counts.
const TYPES_COUNTED: usize = 20;
/// Stamps that a time filter is tried on.
const STAMPS_TRIED: usize = 4;
/// How long before the upstream's time changes are asked for where only the answer's form matters.
const RECENTLY_MILLIS: i64 = 60_000;
/// Resources on the pages that orders are seen from.
const A_FEW: u32 = 20;

/// How the upstream counts, if it does: the first method that gives a number for one of `types` that holds something.
/// Of one that holds nothing an ordinary page says so as well.
pub(crate) async fn count_method(
    upstream: &Upstream,
    types: &[ResourceType],
) -> Result<Option<CountMethod>, SearchError> {
    let is_patient = |name: &&ResourceType| **name == ResourceType::PATIENT;
    let patients_first = types.iter().filter(is_patient).chain(types.iter().filter(|name| !is_patient(name)));
    let mut of_nothing = None;
    for name in patients_first.take(TYPES_COUNTED) {
        let mut says_nothing = false;
        for method in [CountMethod::Summary, CountMethod::Accurate] {
            match upstream.count(&SearchQuery::new(*name), method).await {
                Ok((Some(0), _)) => {
                    of_nothing = of_nothing.or(Some(method));
                    says_nothing = true;
                    break;
                }
                Ok((Some(_), _)) => return Ok(Some(method)),
                Ok((None, _)) => {}
                Err(SearchError::Refused { .. }) => says_nothing = true,
                Err(error) => return Err(error),
            }
        }
        if !says_nothing {
            return Ok(None);
        }
    }
    Ok(of_nothing)
}

/// What the upstream holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// How many there are of each type, where the upstream counts.
    pub(crate) counts: BTreeMap<ResourceType, u64>,
    /// The upstream's time when it was asked first.
    pub(crate) date: Option<Millis>,
    /// Types that it refuses to be searched, and what it said.
    pub(crate) refused: Vec<(ResourceType, Vec<Issue>)>,
}

/// How many there are of each of `types`, `at_once` of them asked for at a time.
///
/// # Errors
/// The type at which the server could no longer be had.
pub(crate) async fn held(
    upstream: &Upstream,
    types: &[ResourceType],
    method: Option<CountMethod>,
    at_once: usize,
) -> Result<Held, (ResourceType, SearchError)> {
    let mut answers = futures_util::stream::iter(types.iter().copied())
        .map(|name| async move {
            let query = SearchQuery::new(name);
            let answer = if let Some(method) = method {
                upstream.count(&query, method).await
            } else {
                let page = upstream.page(&query.count(1), Scope::of(name), Room::Share).await;
                page.map(|answer| (None, answer.date))
            };
            (name, answer)
        })
        .buffer_unordered(at_once);
    let mut held = Held::default();
    while let Some((name, answer)) = answers.next().await {
        match answer {
            Ok((count, answered)) => {
                held.counts.extend(count.map(|count| (name, count)));
                // The earliest answer is nearest to the kick-off.
                held.date = held.date.into_iter().chain(answered).min();
            }
            Err(SearchError::Refused { issues, .. }) => held.refused.push((name, issues)),
            Err(SearchError::TooLarge { .. } | SearchError::Failing { .. }) => {}
            Err(source @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => {
                return Err((name, source));
            }
        }
    }
    Ok(held)
}

/// Tries the server on real resources: `held` says how many of each type there are, by `counts`; `most` is what a page
/// will be asked for.
///
/// # Errors
/// If the server cannot be had. A refused probe is an answer: that feature is not to be used.
async fn profile(
    upstream: &Upstream,
    counts: Option<CountMethod>,
    held: &BTreeMap<ResourceType, u64>,
    fallback: &[ResourceType],
    most: u32,
) -> Result<Findings, SearchError> {
    let mut profile = Profile::default();
    let mut untried = BTreeSet::from([Line::LastUpdated, Line::Sort, Line::Counts, Line::Links, Line::IdLists]);
    // The fewest resources that still make two pages of one: cheap to read in full.
    let mut several: Vec<_> = held.iter().filter(|(_, count)| **count > 1).collect();
    several.sort_by_key(|(_, count)| **count);
    let mut witnesses: Vec<ResourceType> = several.iter().map(|(name, _)| **name).collect();
    if witnesses.is_empty() {
        witnesses = fallback.iter().copied().take(TYPES_COUNTED).collect();
    }
    for resource_type in witnesses.iter().copied() {
        let Some(first) = allowed(page(upstream, SearchQuery::new(resource_type).count(1)).await)? else { continue };
        let Some(next) = &first.next else { continue };
        untried.clear();
        profile.links = link::kind(next);
        profile.last_updated = time_filter(upstream, resource_type).await?;
        profile.id_lists = lists_of_ids(upstream, resource_type).await?;
        let Some(method) = counts else { break };
        let Some(exact) = exact_count(upstream, resource_type, method, profile.last_updated).await? else { break };
        profile.counts = Some(method);
        profile.page_total = page_total(upstream, &exact).await?;
        break;
    }
    if profile.links == NextLinks::Unknown {
        profile.links = NextLinks::Offsets;
    }
    if profile.last_updated == TimeFilter::None {
        // Where everything was written while it was looked at, or nothing has a stamp, it looks the same; and a server that
        // filters is read in so much a better way that it is worth another try.
        untried.insert(Line::LastUpdated);
    } else {
        untried.insert(Line::Sort);
        // The more there are, the more stamps.
        for resource_type in witnesses.iter().rev().copied().take(TYPES_TRIED) {
            match sorts(upstream, resource_type).await? {
                Some(true) => {
                    profile.sort = true;
                    untried.remove(&Line::Sort);
                    break;
                }
                Some(false) => drop(untried.remove(&Line::Sort)),
                None => {}
            }
        }
    }
    if let Some((resource_type, count)) = several.last() {
        profile.page_most = page_most(upstream, **resource_type, **count, most).await?;
    }
    if counts.is_some() && profile.counts.is_none() {
        // The server counts, and nothing showed that it counts right: it may have been busy, or refused something once.
        untried.insert(Line::Counts);
    }
    profile.history = history(upstream, held).await?;
    if profile.history.is_none() {
        untried.insert(Line::History);
    }
    profile.gzip = upstream.compresses();
    profile.protocol = upstream.protocol();
    Ok(Findings { profile, untried, ahead_millis: upstream.skew_millis(), ..Findings::default() })
}

/// P13: whether a search may carry `Prefer: handling=strict`, and whether a parameter that nobody knows is then refused.
async fn strict(upstream: &Upstream, types: &[ResourceType]) -> Result<StrictHandling, SearchError> {
    let (strictly, leniently) = (upstream.strictly(true), upstream.strictly(false));
    for resource_type in types.iter().copied().take(TYPES_COUNTED) {
        let query = SearchQuery::new(resource_type).count(1);
        if allowed(page(&strictly, query.clone()).await)?.is_some() {
            let unknown = query.param("offtake-probe", "1".to_owned());
            let answer = strictly.giving_back().page(&unknown, Scope::of(resource_type), Room::Share).await;
            let refused = matches!(answer, Err(SearchError::Refused { status, .. }) if status.is_client_error());
            return Ok(if refused { StrictHandling::Enforced } else { StrictHandling::Accepted });
        }
        if allowed(page(&leniently, query).await)?.is_some() {
            return Ok(StrictHandling::Refused);
        }
    }
    Ok(StrictHandling::Accepted)
}

/// P10: whether the history of any type that holds something can be asked for; `None` if none holds anything.
async fn history(upstream: &Upstream, held: &BTreeMap<ResourceType, u64>) -> Result<Option<bool>, SearchError> {
    let since = Millis(upstream.now().0 - RECENTLY_MILLIS).into();
    let mut offered = None;
    for (resource_type, _) in held.iter().filter(|(_, count)| **count > 0).take(TYPES_COUNTED) {
        if allowed(upstream.giving_back().history(*resource_type, since, 2).await)?.is_some() {
            return Ok(Some(true));
        }
        offered = Some(false);
    }
    Ok(offered)
}

/// P1 and P7: windows in the far future are empty and those in the far past are not; and around one resource's own
/// stamp each window holds what lies in it and nothing else.
async fn time_filter(upstream: &Upstream, resource_type: ResourceType) -> Result<TimeFilter, SearchError> {
    let since = |year| SearchQuery::new(resource_type).last_updated(Prefix::GreaterOrEqual, year_begin(year));
    let Some(future) = allowed(page(upstream, since(2900).count(1)).await)? else { return Ok(TimeFilter::None) };
    let Some(past) = allowed(page(upstream, since(1900).count(A_FEW).ids_only()).await)? else {
        return Ok(TimeFilter::None);
    };
    if !future.entries.is_empty() {
        return Ok(TimeFilter::None);
    }
    let stamps: BTreeSet<_> = past.entries.iter().filter_map(stamp).collect();
    for filter in [TimeFilter::Millisecond, TimeFilter::Second] {
        // One that was written since it was seen proves nothing; not all of them were.
        for stamp in stamps.iter().take(STAMPS_TRIED) {
            if separates(upstream, resource_type, *stamp, filter.step_millis()).await? {
                return Ok(filter);
            }
        }
    }
    Ok(TimeFilter::None)
}

/// Whether a window of one step finds the resource stamped `stamp`, and its neighbours do not.
async fn separates(
    upstream: &Upstream,
    resource_type: ResourceType,
    stamp: Millis,
    step: i64,
) -> Result<bool, SearchError> {
    let from = stamp.0 - stamp.0.rem_euclid(step);
    for begin in [from, from + step, from - step] {
        let end = begin + step;
        let query = SearchQuery::new(resource_type)
            .last_updated(Prefix::GreaterOrEqual, Millis(begin))
            .last_updated(Prefix::LessThan, Millis(end))
            .count(A_FEW)
            .ids_only();
        let Some(seen) = allowed(page(upstream, query).await)? else { return Ok(false) };
        let inside = |entry: &Entry| self::stamp(entry).is_some_and(|at| (begin..end).contains(&at.0));
        if !seen.entries.iter().all(inside) || (begin == from && seen.entries.is_empty()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the first resources of a type do not say when they were last updated.
pub(crate) async fn is_unstamped(upstream: &Upstream, resource_type: ResourceType) -> Result<bool, SearchError> {
    let seen = allowed(page(upstream, SearchQuery::new(resource_type).count(A_FEW)).await)?;
    Ok(seen.is_some_and(|seen| by_patient::are_unstamped(&seen.entries)))
}

/// P10, for one resource: whether its history holds the version that a search shows. A type of which nothing is there has
/// nothing to be seen.
pub(crate) async fn keeps_versions(upstream: &Upstream, resource_type: ResourceType) -> Result<bool, SearchError> {
    // It may be deleted or changed in between; the newest one would be the likeliest.
    let Some(seen) = allowed(page(upstream, SearchQuery::new(resource_type).count(A_FEW).ids_only()).await)? else {
        return Ok(false);
    };
    for Entry { id, last_updated, .. } in seen.entries.iter().take(STAMPS_TRIED) {
        let Some(stamp) = *last_updated else { continue };
        let version = upstream.version_at(resource_type, id, stamp, Scope::of(resource_type), Room::Share).await;
        if allowed(version)?.flatten().is_some_and(|version| version.last_updated == Some(stamp)) {
            return Ok(true);
        }
    }
    Ok(seen.entries.is_empty())
}

/// Whether any of a type's first resources does not say when it was last updated: no search by time may find it.
pub(crate) async fn is_partly_unstamped(upstream: &Upstream, resource_type: ResourceType) -> Result<bool, SearchError> {
    let seen = allowed(page(upstream, SearchQuery::new(resource_type).count(READ_AT_MOST).ids_only()).await)?;
    Ok(seen.is_some_and(|seen| seen.entries.iter().any(|entry| entry.last_updated.is_none())))
}

/// P3: both directions are obeyed, which resources of more than one stamp show; `None` if there are none.
async fn sorts(upstream: &Upstream, resource_type: ResourceType) -> Result<Option<bool>, SearchError> {
    let mut edges = Vec::new();
    for direction in [Direction::Ascending, Direction::Descending] {
        let query = SearchQuery::new(resource_type).sort_last_updated(direction).count(A_FEW).ids_only();
        let Some(seen) = allowed(page(upstream, query).await)? else { return Ok(Some(false)) };
        let stamps: Vec<_> = seen.entries.iter().filter_map(stamp).collect();
        let in_order = |pair: &[Millis]| match direction {
            Direction::Ascending => pair[0] <= pair[1],
            Direction::Descending => pair[0] >= pair[1],
        };
        if !stamps.windows(2).all(in_order) {
            return Ok(Some(false));
        }
        edges.extend(stamps.first().copied().zip(stamps.last().copied()));
    }
    let [(oldest, later), (newest, earlier)] = edges.as_slice() else { return Ok(None) };
    // Pages of one stamp each show no order, unless the same page comes for both directions.
    let is_uniform = oldest == newest && oldest == later && newest == earlier;
    Ok((!is_uniform).then_some(oldest < newest))
}

/// P8: two ids in one search find two resources, and one finds one.
async fn lists_of_ids(upstream: &Upstream, resource_type: ResourceType) -> Result<bool, SearchError> {
    let of = |ids: &[&Id]| SearchQuery::new(resource_type).param("_id", list(ids, PatientForm::Id)).count(A_FEW);
    let two = SearchQuery::new(resource_type).count(2).ids_only();
    let Some(two) = allowed(page(upstream, two).await)? else { return Ok(false) };
    let [first, second] = two.entries.as_slice() else { return Ok(false) };
    for asked in [vec![&first.id], vec![&first.id, &second.id]] {
        let Some(seen) = allowed(page(upstream, of(&asked).ids_only()).await)? else { return Ok(false) };
        let found: BTreeSet<_> = seen.entries.iter().map(|entry| &entry.id).collect();
        if found != asked.into_iter().collect() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// P6: how many resources a page holds where more were asked for and are there.
async fn page_most(
    upstream: &Upstream,
    resource_type: ResourceType,
    held: u64,
    asked: u32,
) -> Result<Option<u32>, SearchError> {
    let query = SearchQuery::new(resource_type).count(asked).ids_only();
    let Some(seen) = allowed(page(upstream, query).await)? else { return Ok(None) };
    let entries = u32::try_from(seen.entries.len()).unwrap_or(u32::MAX);
    let capped = seen.next.is_some() && entries > 0 && entries < asked && u64::from(entries) < held;
    Ok(capped.then_some(entries))
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
    filter: TimeFilter,
) -> Result<Option<Exact>, SearchError> {
    let step = filter.step_millis();
    let mut query = SearchQuery::new(resource_type);
    let (mut from, mut until) = (year_begin(1970), Millis(upstream.now().0 + step));
    for _ in 0..48 {
        let Some((Some(count), _)) = allowed(upstream.count(&query, method).await)? else { return Ok(None) };
        let mut is_large = count > u64::from(READ_AT_MOST);
        if !is_large {
            let Some(read) = allowed(page(upstream, query.clone().count(READ_AT_MOST).ids_only()).await)? else {
                return Ok(None);
            };
            // The server's own pages may be smaller still.
            is_large = read.next.is_some();
            if !is_large && read.entries.len() as u64 != count {
                if has_changed(upstream, &query, method, count).await? {
                    continue;
                }
                return Ok(None);
            }
            if !is_large && count > 1 {
                return Ok(Some(Exact { query, method, count }));
            }
        }
        if filter == TimeFilter::None {
            return Ok(None);
        }
        if is_large {
            until = Millis(from.0 + (until.0 - from.0) / 2);
        } else {
            // Cut down to nothing or one: the other half holds the rest.
            (from, until) = (until, Millis(until.0 + (until.0 - from.0)));
        }
        until = Millis(until.0 - until.0.rem_euclid(step));
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
            if read.total == Some(count) && read.entries.len() == 1 {
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
    entries: Vec<Entry>,
    total: Option<u64>,
    next: Option<String>,
}

async fn page(upstream: &Upstream, query: SearchQuery) -> Result<Seen, SearchError> {
    let scope = Scope::of(query.resource_type());
    // The reservation lasts as long as the page's bytes do; what is kept of it is small.
    let Answer { mut page, reservation: _reservation, .. } = answer(upstream, &query, scope).await?;
    Ok(Seen { entries: std::mem::take(&mut page.entries), total: page.total, next: page.next.take() })
}

/// The answer to one question. One record that the server cannot give leaves something unproven and ends nothing; what
/// passes is waited for, so that it does not weaken the proof.
async fn answer(upstream: &Upstream, query: &SearchQuery, scope: Scope) -> Result<Answer, SearchError> {
    let asked = upstream.giving_back();
    let ask = async || match asked.page(query, scope, Room::Share).await {
        Err(SearchError::TooLarge { alone: false, .. }) => asked.page(query, scope, Room::Alone).await,
        other => other,
    };
    match ask().await {
        Err(SearchError::Failing { .. }) => {
            // Once the server counts again it is only this question that it fails to answer.
            let _count = upstream.count(&SearchQuery::new(query.resource_type()), CountMethod::Summary).await?;
            ask().await
        }
        other => other,
    }
}

fn stamp(entry: &Entry) -> Option<Millis> {
    entry.last_updated.map(Instant::floor_millis)
}

/// A refusal is an answer; only a server that cannot be had is an error.
fn allowed<T>(result: Result<T, SearchError>) -> Result<Option<T>, SearchError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(
            SearchError::Refused { .. }
            | SearchError::TooLarge { .. }
            | SearchError::Failing { .. }
            | SearchError::Link,
        ) => Ok(None),
        Err(error @ (SearchError::GaveUp { .. } | SearchError::Unauthorized)) => Err(error),
    }
}

fn year_begin(year: i32) -> Millis {
    Instant::parse(&format!("{year:04}-01-01T00:00:00Z")).map_or(Millis(0), Instant::floor_millis)
}
