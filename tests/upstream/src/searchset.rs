//! Answers searches: the first page, and the pages behind its links.

use std::sync::atomic::AtomicUsize;

use http::header::CACHE_CONTROL;
use http::{HeaderMap, StatusCode};

use crate::answer::{Answer, Refusal};
use crate::body::{Body, Payload};
use crate::bundle::{Bundle, Head, subset};
use crate::lies::{Handling, Lies, Posts};
use crate::paging::ResultList;
use crate::params;
use crate::query::Search;
use crate::search::Matcher;
use crate::settings::{Paging, Settings, Total};
use crate::store::{Record, Store};
use crate::upstream::{SampleUpstream, Step};

/// What a page says beside its resources where the settings want it.
const WARNING: &str = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"suppressed","details":{"coding":[{"system":"urn:oid:1.2.3","code":"4119"}]}}]}"#;
const ERROR: &str = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"transient","details":{"coding":[{"system":"urn:oid:1.2.3","code":"4120"}]}}]}"#;

/// The parameter of a search whose first page was empty.
const BEGUN: &str = "_begun";

/// How a search is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    by_post: bool,
    /// The answer may come from a cache.
    cached: bool,
    /// The answer may not be kept.
    no_store: bool,
    prefers: Prefers,
}

/// What `Prefer` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefers {
    Nothing,
    Something,
    StrictHandling,
}

impl Manner {
    pub(crate) fn get(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
        let directives: Vec<_> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
        let prefer = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
        let prefer: Vec<_> = prefer.flat_map(|value| value.split(',')).map(str::trim).collect();
        Self {
            by_post: false,
            cached: !directives.contains(&"no-cache"),
            no_store: directives.contains(&"no-store"),
            prefers: match prefer.as_slice() {
                [] => Prefers::Nothing,
                some if some.contains(&"handling=strict") => Prefers::StrictHandling,
                _ => Prefers::Something,
            },
        }
    }

    pub(crate) fn post(headers: &HeaderMap) -> Self {
        Self { by_post: true, ..Self::get(headers) }
    }
}

/// A page before it is written.
struct Page<'s> {
    records: Vec<&'s Record>,
    /// The number of all matches, if the page is to say it.
    total: Option<usize>,
    next: Option<String>,
}

impl Lies {
    fn fails_to_count(&self, search: &Search) -> bool {
        let names_one = |(name, _): &(String, String)| matches!(name.as_str(), "patient" | "subject");
        self.count_errors && search.count_only && !search.pairs.iter().any(names_one)
    }
}

impl std::fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for record in &self.records {
            write!(f, "{} v{}, ", record.id, record.version)?;
        }
        write!(f, "total {:?}{}", self.total, if self.next.is_some() { ", next" } else { "" })
    }
}

impl Page<'_> {
    /// A page with a poisoned resource cannot be written.
    fn check(&self, settings: &Settings, search: &Search) -> Result<(), Refusal> {
        let poisoned = &settings.lies.poisoned;
        let is_poisoned = |record: &&Record| poisoned.contains(&format!("{}/{}", record.resource_type, record.id));
        if poisoned.is_empty() || search.elements.is_some() || !self.records.iter().any(is_poisoned) {
            return Ok(());
        }
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", "a required field is missing"))
    }
}

/// Answers a search of one type: its first page, or one behind a cursor or an offset.
///
/// # Errors
/// 404 for an unknown type, 400 for a search that is not understood.
pub(crate) fn search(
    upstream: &SampleUpstream,
    base: &str,
    resource_type: &str,
    mut pairs: Vec<(String, String)>,
    manner: Manner,
) -> Result<Answer, Refusal> {
    let settings = upstream.settings();
    let held: Vec<String> = upstream.read(|store| store.types().map(|(name, _)| name.as_ref().to_owned()).collect());
    if !held.iter().any(|name| name == resource_type)
        && !params::known_types(settings.version()).any(|name| name == resource_type)
    {
        return Err(Refusal::not_found(format!("unknown resource type '{resource_type}'")));
    }
    let ignores = match settings.lies.handling {
        Handling::Strict => false,
        Handling::AsPreferred => manner.prefers != Prefers::StrictHandling,
        Handling::PreferRefused if manner.prefers != Prefers::Nothing => {
            return Err(Refusal::invalid("nothing can be preferred here"));
        }
        Handling::PreferRefused | Handling::Lenient => true,
    };
    if settings.lies.refuses(&pairs) {
        return Err(Refusal::invalid("times are given in whole seconds"));
    }
    if settings.lies.is_too_long(&pairs) {
        return Err(Refusal::invalid("too many values"));
    }
    let asked = pairs.clone();
    if manner.by_post && settings.lies.posts == Posts::ListsCut {
        for (_, value) in &mut pairs {
            *value = first_hundred(value);
        }
    }
    if ignores {
        let is_known = |name: &str| {
            let unmodified = name.split(':').next().unwrap_or_default();
            name.starts_with('_') || params::kind_of(settings.version(), resource_type, unmodified).is_some()
        };
        pairs.retain(|(name, _)| is_known(name));
    }
    settings.lies.bend(&mut pairs, manner.cached);
    upstream.read(|store| settings.lies.cut_targets(&mut pairs, |of, id| store.newest(of, id).is_some()));
    let mut search = Search::parse(resource_type, pairs, &settings, &held)?;
    search.pairs = asked;
    if search.count_only && search.pairs.iter().any(|(name, _)| settings.lies.uncounted.contains(name)) {
        return Err(Refusal::invalid("nothing is counted by that here"));
    }
    if settings.lies.versions_not_found && search.pairs.iter().any(|(name, _)| name == "target") {
        search.filters.without.push(params::TARGETS_A_VERSION.to_owned());
    }
    if settings.lies.hides(resource_type, &search.pairs) {
        search.filters.ids = Some(Vec::new());
    }
    let own = if manner.by_post {
        format!("{base}/{resource_type}/_search")
    } else if let Some(left_out) = &settings.lies.self_without {
        let all = search.pairs.clone();
        search.pairs.retain(|(name, _)| name != left_out);
        let own = link(base, &search, &[]);
        search.pairs = all;
        own
    } else {
        link(base, &search, &[])
    };
    let found = upstream.read(|store| find(upstream, store, &settings, base, &search));
    upstream.play(Step::Found);
    let mut told = None;
    let answer = upstream.read(|store| {
        let mut page = found.load(store, &settings, &search);
        if manner.no_store && settings.lies.no_store_truncates {
            page.records.truncate(1);
            page.next = None;
        }
        if manner.by_post {
            page.next = page.next.map(|next| settings.lies.posts.bend(base, &search, next));
        }
        if settings.lies.next_forgets && search.pairs.iter().any(|(name, _)| !name.starts_with('_')) {
            page.next = page.next.map(|_| format!("{base}/{resource_type}?_count={}", search.count));
        }
        if settings.lies.loops && search.is_later() && page.next.is_some() {
            page.next = Some(own.clone());
        }
        page.check(&settings, &search)?;
        if settings.lies.fails_to_count(&search) {
            page.total = Some(0);
        }
        told = upstream.is_scripted().then(|| page.to_string());
        Ok(Answer::fhir(StatusCode::OK, write(upstream, base, &search, &own, page)))
    });
    if let Some(page) = told {
        upstream.play(Step::Loaded(&page));
    }
    answer
}

/// Answers a later page of a frozen result list.
///
/// # Errors
/// 410 if there is no such list (any more), 400 if the link lacks its numbers.
pub(crate) fn later_page(
    upstream: &SampleUpstream,
    base: &str,
    pairs: &[(String, String)],
) -> Result<(Answer, bool), Refusal> {
    let value = |name: &str| pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let Some(id) = value("_getpages") else {
        return Err(Refusal::invalid("this server does not know how to search all types at once"));
    };
    let settings = upstream.settings();
    let Some(list) = upstream.lists().serve(id, settings.lies.list_pages) else {
        return Err(Refusal::gone(format!("Search ID \"{id}\" does not exist and may have expired")));
    };
    let number = |name: &str, default: usize| match value(name) {
        Some(text) => text.parse().map_err(|_| Refusal::invalid(format!("invalid value of parameter {name}"))),
        None => Ok(default),
    };
    let offset: usize = number("_getpagesoffset", 0)?;
    let count = number("_count", list.search.count)?.clamp(1, settings.max_count.unwrap_or(usize::MAX).max(1));
    upstream.play(Step::Found);
    let mut told = None;
    let answer = upstream.read(|store| {
        let end = offset.saturating_add(count).min(list.pids.len());
        let start = if settings.lies.repeats { offset.saturating_sub(1) } else { offset };
        let pids = list.pids.get(start..end).unwrap_or_default();
        let of_type = store.of_type(&list.search.resource_type);
        // What was deleted since is simply absent; what was updated shows its present version.
        let records: Vec<_> =
            pids.iter().filter_map(|pid| of_type.and_then(|of_type| store.current(of_type, *pid))).collect();
        let turns_back = settings.lies.loops && offset > 0;
        let has_next = end < list.pids.len() || (settings.lies.always_next && !records.is_empty());
        let next = has_next.then(|| list_link(base, id, if turns_back { offset } else { end }, count));
        let total = total(&settings, &list.search, next.is_none(), records.len(), || list.pids.len());
        let own = list_link(base, id, offset, count);
        let page = Page { records, total, next };
        page.check(&settings, &list.search)?;
        told = upstream.is_scripted().then(|| page.to_string());
        Ok(Answer::fhir(StatusCode::OK, write(upstream, base, &list.search, &own, page)))
    })?;
    if let Some(page) = told {
        upstream.play(Step::Loaded(&page));
    }
    Ok((answer, list.search.pretty))
}

/// What a search found before it is loaded.
struct Found {
    pids: Vec<u64>,
    total: Option<usize>,
    next: Option<String>,
}

impl Found {
    /// What became of a resource since it was found is what is shown.
    fn load<'s>(self, store: &'s Store, settings: &Settings, search: &Search) -> Page<'s> {
        let Self { pids, mut total, mut next } = self;
        let of_type = store.of_type(&search.resource_type);
        let current = |pid: &u64| of_type.and_then(|of_type| store.current(of_type, *pid));
        let records: Vec<_> = pids.iter().filter_map(current).collect();
        let says_its_size = settings.total == Total::PageSized && !(search.accurate || search.count_only);
        let is_cut = records.len() < pids.len() && pids.len() >= search.count;
        if settings.lies.ends_where_deleted && settings.paging == Paging::Offset && is_cut {
            next = None;
            total = total.map(|_| search.offset + records.len());
        }
        if says_its_size {
            total = Some(records.len());
        }
        Page { records, total, next }
    }
}

fn find(upstream: &SampleUpstream, store: &Store, settings: &Settings, base: &str, search: &Search) -> Found {
    let Some(of_type) = store.of_type(&search.resource_type) else {
        return Found { pids: Vec::new(), total: total(settings, search, true, 0, || 0), next: None };
    };
    let matcher = Matcher::new(store, of_type, &search.filters);
    if search.count_only {
        return Found { pids: Vec::new(), total: total(settings, search, true, 0, || matcher.count()), next: None };
    }
    let lies = &settings.lies;
    if lies.empty_pages && !search.is_later() && !search.pairs.iter().any(|(name, _)| name == BEGUN) {
        let next = (matcher.count() > 0).then(|| link(base, search, &[(BEGUN, "true".to_owned())]));
        let total = total(settings, search, next.is_none(), 0, || matcher.count());
        return Found { pids: Vec::new(), total, next };
    }
    let mut shortened = search.clone();
    if lies.is_short(&search.pairs) && !search.is_later() {
        shortened.count = 1;
    }
    let page_count = shortened.count;
    let (mut pids, mut next, mut known): (Vec<u64>, _, _) = match settings.paging {
        Paging::Snapshot => {
            let most = lies.results_end.unwrap_or(usize::MAX);
            let pids: Vec<u64> = matcher.select(&search.order, None).take(most).collect();
            let first = pids.iter().take(page_count).copied().collect();
            let all = pids.len();
            let next = (all > page_count || (lies.always_next && all > 0)).then(|| {
                let list = ResultList { search: search.clone(), pids, served: AtomicUsize::default() };
                let id = upstream.lists().keep(list, settings.seed);
                list_link(base, &id, page_count, search.count)
            });
            (first, next, Some(all))
        }
        Paging::Cursor => {
            let after = search.cursor.as_ref();
            let mut pids: Vec<u64> = matcher.select(&search.order, after).take(page_count + 1).collect();
            let more = pids.len() > page_count;
            pids.truncate(page_count);
            let last = pids.last().and_then(|pid| store.position(of_type, *pid));
            let cursor = last.filter(|_| more).map(|last| last.encode());
            let next = cursor.map(|cursor| link(base, search, &[("_cursor", cursor)]));
            let repeated = after.filter(|_| lies.repeats).map(|after| after.pid);
            (repeated.into_iter().chain(pids).collect(), next, None)
        }
        Paging::Offset => {
            let repeated = usize::from(lies.repeats && search.offset > 0);
            let selected = matcher.select(&search.order, None).skip(search.offset - repeated);
            let mut pids: Vec<u64> = selected.take(page_count + repeated + 1).collect();
            let more = pids.len() > page_count + repeated;
            pids.truncate(page_count + repeated);
            let offset = (search.offset + page_count).to_string();
            let next = more.then(|| link(base, search, &[(settings.offset_name, offset)]));
            (pids, next, None)
        }
    };
    if let Some(end) = lies.results_end.filter(|_| settings.paging == Paging::Offset) {
        if search.offset + page_count >= end {
            pids.truncate(end.saturating_sub(search.offset));
            next = None;
        }
        known = Some(matcher.count().min(end));
    }
    let ends_early = settings.paging == Paging::Offset && lies.early_end_every > 0 && pids.len() > 1;
    if ends_early && upstream.next_page_number().is_multiple_of(lies.early_end_every) {
        pids.pop();
        next = None;
        known = Some(search.offset + pids.len());
    }
    let total = total(settings, search, next.is_none(), pids.len(), || known.unwrap_or_else(|| matcher.count()));
    Found { pids, total, next }
}

fn total(
    settings: &Settings,
    search: &Search,
    complete: bool,
    on_page: usize,
    all: impl FnOnce() -> usize,
) -> Option<usize> {
    if (search.accurate || search.count_only) && settings.total != Total::Estimated {
        return Some(all());
    }
    match settings.total {
        Total::Exact => Some(all()),
        Total::WhenComplete => complete.then(all),
        Total::Absent => None,
        Total::PageSized => Some(on_page),
        Total::Estimated if complete && !search.count_only => Some(all()),
        Total::Estimated => Some(all()).map(|all| all + all / 10 + 1),
    }
}

fn write(upstream: &SampleUpstream, base: &str, search: &Search, own: &str, mut page: Page<'_>) -> Payload {
    let settings = upstream.settings();
    let lies = &settings.lies;
    if !lies.left_out.is_empty() {
        let found = page.records.len();
        page.records.retain(|record| !lies.left_out.contains(&format!("{}/{}", record.resource_type, record.id)));
        page.total = page.total.map(|total| total - (found - page.records.len()));
    }
    let mut links = vec![("self", lies.links.write(base, own))];
    links.extend(page.next.map(|next| ("next", lies.links.write(base, &next))));
    let now = upstream.now();
    let id = format!("{:016x}", now.timestamp_micros());
    let mut bundle = Bundle::open(&Head { kind: "searchset", id: &id, at: now, total: page.total, links: &links });
    if settings.warnings && !page.records.is_empty() {
        let mode = if lies.no_mode { "" } else { r#","search":{"mode":"outcome"}"# };
        bundle.entry("urn:oid:1.2.3.4119", Some(&Body::Text(WARNING.into())), mode);
    }
    if (lies.error_entries && !page.records.is_empty()) || lies.fails_to_count(search) {
        bundle.entry("urn:oid:1.2.3.4120", Some(&Body::Text(ERROR.into())), r#","search":{"mode":"outcome"}"#);
    }
    for record in page.records {
        if !lies.dropped.is_empty() && lies.dropped.contains(&format!("{}/{}", record.resource_type, record.id)) {
            continue;
        }
        let full_url = format!("{base}/{}/{}", record.resource_type, record.id);
        let body = record.body.as_ref();
        let reduced = search.elements.as_ref().and_then(|elements| body.map(|body| subset(body, elements)));
        bundle.entry(&full_url, reduced.as_ref().or(body), r#","search":{"mode":"match"}"#);
    }
    bundle.close()
}

/// A link that repeats the search. Given `changed` it leads to a later page, whose `_count` is the true one.
fn link(base: &str, search: &Search, changed: &[(&str, String)]) -> String {
    let place = |name: &str| matches!(name, "_cursor" | "_count") || changed.iter().any(|(other, _)| *other == name);
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(search.pairs.iter().filter(|(name, _)| changed.is_empty() || !place(name)));
    if !changed.is_empty() {
        query.append_pair("_count", &search.count.to_string());
        query.extend_pairs(changed);
    }
    let query = query.finish();
    let question_mark = if query.is_empty() { "" } else { "?" };
    format!("{base}/{}{question_mark}{query}", search.resource_type)
}

/// Of a list of values the first hundred.
fn first_hundred(value: &str) -> String {
    value.split(',').take(100).collect::<Vec<_>>().join(",")
}

impl Posts {
    /// The next link of a posted search as this server writes it.
    fn bend(self, base: &str, search: &Search, next: String) -> String {
        let name = &search.resource_type;
        match self {
            Self::AsGets | Self::Refused | Self::FormIgnored | Self::ListsCut => next,
            Self::NextByPost => {
                let query = next.split_once('?').map_or("", |(_, query)| query);
                format!("{base}/{name}/_search?{query}")
            }
            Self::NextForgets => format!("{base}/{name}?_count={}", search.count),
        }
    }
}

/// Whether a later page of a kept list, by its link's parameters, crosses a multiple of `step` entries.
pub(crate) fn crosses(query: &str, step: usize) -> bool {
    let number = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(own, _)| *own == name).and_then(|(_, value)| value.parse::<usize>().ok())
    };
    let (Some(offset), Some(count)) = (number("_getpagesoffset"), number("_count")) else { return false };
    offset.checked_div(step) != offset.saturating_add(count).checked_div(step)
}

fn list_link(base: &str, id: &str, offset: usize, count: usize) -> String {
    format!("{base}?_getpages={id}&_getpagesoffset={offset}&_count={count}&_bundletype=searchset")
}
