//! The lies and oddities of real servers, each by itself; without any the sample upstream is honest.

use std::collections::BTreeSet;
use std::time::Duration;

/// Every lie that can be switched on; each is off by default.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each lie is told or not, whatever the others are")]
pub struct Lies {
    /// Search parameters by which nothing is ever found (an index that was never built: helios-hfs, `HealthLake`).
    pub finds_nothing: BTreeSet<String>,
    /// References are found as `Patient/id` only, not by the id alone (Medplum's in-memory matcher).
    pub typed_references: bool,
    /// Of a comma list only the first value counts (Oracle Health takes single values).
    pub first_of_list: bool,
    /// Of a comma list only the last value counts.
    pub last_of_list: bool,
    /// A comma list of more values is refused with 400.
    pub most_values: Option<usize>,
    /// Types of which nothing is found or counted by whoever names no resource.
    pub shy: BTreeSet<String>,
    /// Of these parameters a list of several values is passed over, and one alone is heeded.
    pub lists_ignored: BTreeSet<String>,
    /// Types by which as targets nothing is ever found.
    pub no_targets: BTreeSet<String>,
    /// What is about a target's namesake on this other server is found by it as well (Azure).
    pub targets_also_on: Option<String>,
    /// What names a version of a target is not found by it.
    pub versions_not_found: bool,
    /// Of a list of targets only the first so many are heeded that are there.
    pub most_targets_there: Option<usize>,
    /// Of a list of `_id` only so many are read.
    pub most_ids: Option<usize>,
    /// A search by `_id` heeds nothing else that could narrow it.
    pub id_alone: bool,
    /// Of a parameter that is sent several times only the last one counts.
    pub last_of_repeats: bool,
    /// The next link of a search that is narrowed leads into all of the type.
    pub next_forgets: bool,
    /// A count without a patient is 0, with an error beside it.
    pub count_errors: bool,
    /// Numbers of what is found by these parameters are refused with 400, and pages of it are not (gateways that know no more than
    /// what their applications ask).
    pub uncounted: BTreeSet<String>,
    /// How links are written.
    pub links: Links,
    /// Of what a search finds only the first so many are on its pages, with a total as if that were all; counts are true (HAPI's last
    /// prefetch step, AWS). Not where pages are found by a cursor.
    pub results_end: Option<usize>,
    /// What there is not, and what it does not do, is answered with 404 and a page of HTML (AWS).
    pub html_for_nothing: bool,
    /// A kept list of results is gone after so many later pages (Firely, Epic, HAPI).
    pub list_pages: Option<usize>,
    /// Every third search with more than one match has one entry on its first page, and a next link (Epic filters
    /// after it has made the page).
    pub short_pages: bool,
    /// The first page of each search with any match is empty, and leads to the others by its next link (Azure).
    pub empty_pages: bool,
    /// Every page that holds something has a next link, and a list ends with an empty page.
    pub always_next: bool,
    /// A second page's next link leads to that page again (`OpenELIS`).
    pub loops: bool,
    /// `OperationOutcome` entries lack `search.mode` (Smile CDR, facades).
    pub no_mode: bool,
    /// Each later page begins with the last entry of the one before it (`OpenELIS`, HAPI's `_offset`).
    pub repeats: bool,
    /// Every so-many-th page of a search by offsets is one entry short and taken for the last one, and its total agrees: a
    /// row was deleted between the query for ids and their load (HAPI's `_offset`). 0 is never.
    pub early_end_every: u64,
    /// A full page by offsets that lost a row between the query for ids and their load is taken for the last one, and its
    /// total agrees (the same, but where it really happens).
    pub ends_where_deleted: bool,
    /// Without `Cache-Control: no-cache` a search for `lt` is answered with the list of `le` (HAPI's search cache).
    pub cache_mixes_lt_and_le: bool,
    /// With `Cache-Control: no-store` a list ends after its first entry (HAPI).
    pub no_store_truncates: bool,
    /// What bounds of `_lastUpdated` mean.
    pub bounds: Bounds,
    /// Every so-many-th loaded resource has no `meta.lastUpdated`, and no `_lastUpdated` finds it. 0 is none.
    pub unstamped_every: usize,
    /// A later page of a kept list that crosses a multiple of so many entries takes so long (HAPI fills its lists in
    /// steps).
    pub step_stall: Option<(usize, Duration)>,
    /// Which requests are answered with JSON.
    pub accepts: Accepts,
    /// What becomes of searches by POST.
    pub posts: Posts,
    /// Ids of patients of whom nothing but their own resource may be asked for: searches that name one of them are answered
    /// with 403 (break the glass).
    pub closed_records: BTreeSet<String>,
    /// Whoever asks for a Binary is sent to that of another base.
    pub binaries_at: Option<String>,
    /// No resource can be read by its id (facades, and gateways that cannot reach their server for a while).
    pub reads_nothing: bool,
    /// A history of a type or of the server that is not asked for with `_since` lacks its older half (HAPI, under writes).
    pub history_loses_tail: bool,
    /// What becomes of a parameter that it does not know, and of `Prefer`.
    pub handling: Handling,
    /// `Type/id` of resources that are found and counted, but on no page.
    pub dropped: BTreeSet<String>,
    /// `Type/id` of resources that are counted where nothing but the number is asked for, on no page, and in no page's total (an
    /// index that is behind its database).
    pub left_out: BTreeSet<String>,
    /// Pages with resources say beside them that an error occurred, as facades do whose own servers failed.
    pub error_entries: bool,
    /// The parameter that `self` links leave out although it is used.
    pub self_without: Option<String>,
    /// `Type/id` of resources that are found and counted, and with whose content no page can be written: it is answered
    /// with 500 (`OpenELIS`, Oracle Health).
    pub poisoned: BTreeSet<String>,
}

/// How links are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// As URLs.
    #[default]
    Absolute,
    /// `Observation?…`, relative to the base.
    Relative,
    /// `/Observation?…`, without the base's path (Canvas, Aidbox).
    WithoutBase,
    /// `host/fhir/Observation?…` (Zus).
    WithoutScheme,
}

/// What becomes of searches by POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Posts {
    /// They find what the same search by GET finds, and so do their next links.
    #[default]
    AsGets,
    /// They are refused with 405.
    Refused,
    /// The form is not read: only what the URL says counts (Google).
    FormIgnored,
    /// A next link has to be posted as well (`LinuxForHealth`).
    NextByPost,
    /// A next link has forgotten the form: it leads into all of the type.
    NextForgets,
    /// Of a list longer than a hundred values only the first hundred count.
    ListsCut,
}

/// What becomes of a parameter that it does not know, and of `Prefer: handling=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Handling {
    /// It is refused, whatever is preferred (HAPI).
    #[default]
    Strict,
    /// It is ignored unless `handling=strict` is preferred (helios-hfs, Microsoft).
    AsPreferred,
    /// It is ignored, whatever is preferred.
    Lenient,
    /// A search with `Prefer` is refused, and what it does not know is ignored.
    PreferRefused,
}

/// What bounds of `_lastUpdated` mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bounds {
    /// What they say.
    #[default]
    Exact,
    /// The whole second that they lie in (`HealthLake`).
    Floored,
    /// Those with a fraction of a second are refused with 400.
    WholeSeconds,
}

/// Which requests are answered with JSON; others get 406.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accepts {
    /// All.
    #[default]
    Anything,
    /// Those with `Accept: application/json`, or `_format=json`.
    Json,
    /// Those with `_format=json`.
    Format,
}

impl Links {
    /// `link`, which begins with `base`, written so.
    pub(crate) fn write(self, base: &str, link: &str) -> String {
        let below = link.strip_prefix(base).unwrap_or(link);
        match self {
            Self::Absolute => link.to_owned(),
            Self::Relative => below.trim_start_matches('/').to_owned(),
            Self::WithoutBase if below.starts_with('/') => below.to_owned(),
            Self::WithoutBase => format!("/{below}"),
            Self::WithoutScheme => link.split_once("://").map_or(link, |(_, rest)| rest).to_owned(),
        }
    }
}

impl Lies {
    /// Whether a search of these parameters is one whose first page is too short.
    pub(crate) fn is_short(&self, pairs: &[(String, String)]) -> bool {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        // The same search gets the same answer.
        self.short_pages && BuildHasherDefault::<DefaultHasher>::default().hash_one(pairs).is_multiple_of(3)
    }

    /// What is asked for, as the server takes it. `cached` is whether an answer may come from its cache.
    pub(crate) fn bend(&self, pairs: &mut [(String, String)], cached: bool) {
        self.overlook(pairs);
        for (name, value) in pairs {
            if self.first_of_list
                && !name.starts_with("_sort")
                && let Some((first, _)) = value.split_once(',')
            {
                *value = first.to_owned();
            }
            if self.last_of_list
                && !name.starts_with("_sort")
                && let Some((_, last)) = value.rsplit_once(',')
            {
                *value = last.to_owned();
            }
            if self.lists_ignored.contains(name) && value.contains(',') {
                value.clear();
            }
            if name == "target" && !self.no_targets.is_empty() {
                let is_found = |target: &&str| !self.no_targets.contains(target.split('/').next().unwrap_or_default());
                let found: Vec<_> = value.split(',').filter(is_found).collect();
                *value = if found.is_empty() { "Patient/no-target".to_owned() } else { found.join(",") };
            }
            if name == "target"
                && let Some(other) = &self.targets_also_on
            {
                let both = value.split(',').map(|target| format!("{target},{other}/{target}"));
                *value = both.collect::<Vec<_>>().join(",");
            }
            if name == "_id"
                && let Some(most) = self.most_ids
            {
                *value = value.split(',').take(most).collect::<Vec<_>>().join(",");
            }
            if name == "_lastUpdated" {
                if cached && self.cache_mixes_lt_and_le && value.starts_with("lt") {
                    value.replace_range(..2, "le");
                }
                if self.bounds == Bounds::Floored
                    && let Some((whole, rest)) = value.split_once('.')
                {
                    let zone = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
                    *value = format!("{whole}.000{zone}");
                }
            }
        }
    }

    /// A list of targets, of those that are there as many as are heeded.
    pub(crate) fn cut_targets(&self, pairs: &mut [(String, String)], is_there: impl Fn(&str, &str) -> bool) {
        let Some(most) = self.most_targets_there else { return };
        for (_, value) in pairs.iter_mut().filter(|(name, _)| name == "target") {
            let there =
                value.split(',').filter(|target| target.split_once('/').is_some_and(|(of, id)| is_there(of, id)));
            *value = there.take(most).collect::<Vec<_>>().join(",");
            if value.is_empty() {
                "Patient/no-target".clone_into(value);
            }
        }
    }

    /// Empties what is passed over.
    fn overlook(&self, pairs: &mut [(String, String)]) {
        let is_by_id = pairs.iter().any(|(name, _)| name == "_id");
        for at in 0..pairs.len() {
            let name = pairs[at].0.clone();
            let comes_again = pairs[at + 1..].iter().any(|(other, _)| *other == name);
            let is_passed_over = (self.id_alone && is_by_id) || (self.last_of_repeats && comes_again);
            if is_passed_over && !name.starts_with('_') {
                pairs[at].1.clear();
            }
        }
    }

    /// Whether a search of a type finds nothing because it names no resource.
    pub(crate) fn hides(&self, resource_type: &str, pairs: &[(String, String)]) -> bool {
        let names_one = |(name, value): &(String, String)| {
            matches!(name.as_str(), "_id" | "patient" | "subject" | "target") && !value.is_empty()
        };
        self.shy.contains(resource_type) && !pairs.iter().any(names_one)
    }

    /// Whether one of these parameters has more values than the server takes.
    pub(crate) fn is_too_long(&self, pairs: &[(String, String)]) -> bool {
        self.most_values.is_some_and(|most| pairs.iter().any(|(_, value)| value.split(',').count() > most))
    }

    /// Whether one of these parameters is written in a way that the server refuses.
    pub(crate) fn refuses(&self, pairs: &[(String, String)]) -> bool {
        self.bounds == Bounds::WholeSeconds
            && pairs.iter().any(|(name, value)| name == "_lastUpdated" && value.contains('.'))
    }
}

impl Accepts {
    /// Whether a request with this `Accept` and these parameters is answered.
    pub(crate) fn takes(self, accept: &str, query: &str) -> bool {
        let by_format = query.split('&').any(|pair| pair == "_format=json");
        match self {
            Self::Anything => true,
            Self::Json => by_format || accept.split(',').any(|media| media.trim() == "application/json"),
            Self::Format => by_format,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_written_in_every_odd_way() {
        let base = "http://h:1/fhir";
        for (form, page, list) in [
            (Links::Absolute, "http://h:1/fhir/Patient?a=b", "http://h:1/fhir?_getpages=x"),
            (Links::Relative, "Patient?a=b", "?_getpages=x"),
            (Links::WithoutBase, "/Patient?a=b", "/?_getpages=x"),
            (Links::WithoutScheme, "h:1/fhir/Patient?a=b", "h:1/fhir?_getpages=x"),
        ] {
            assert_eq!(form.write(base, &format!("{base}/Patient?a=b")), page);
            assert_eq!(form.write(base, &format!("{base}?_getpages=x")), list);
        }
    }

    #[test]
    fn what_is_asked_for_is_bent() {
        let lies =
            Lies { first_of_list: true, cache_mixes_lt_and_le: true, bounds: Bounds::Floored, ..Lies::default() };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut pairs = [pair("patient", "a,b"), pair("_lastUpdated", "lt2026-01-01T00:00:00.500Z")];
        lies.bend(&mut pairs, true);
        assert_eq!(pairs, [pair("patient", "a"), pair("_lastUpdated", "le2026-01-01T00:00:00.000Z")]);
        let asked = [pair("_id", "a"), pair("code", "x"), pair("code", "y"), pair("_count", "1")];
        for (lies, left) in [
            (Lies { last_of_repeats: true, ..Lies::default() }, ["a", "", "y", "1"]),
            (Lies { id_alone: true, ..Lies::default() }, ["a", "", "", "1"]),
        ] {
            let mut pairs = asked.clone();
            lies.bend(&mut pairs, true);
            assert_eq!(pairs.map(|(_, value)| value), left);
        }
    }

    #[test]
    fn json_is_sent_to_those_who_ask_for_it_in_the_right_way() {
        for (accepts, accept, query, taken) in [
            (Accepts::Anything, "application/fhir+json", "", true),
            (Accepts::Json, "application/fhir+json", "", false),
            (Accepts::Json, "application/json", "", true),
            (Accepts::Format, "application/json", "a=b", false),
            (Accepts::Format, "application/json", "a=b&_format=json", true),
        ] {
            assert_eq!(accepts.takes(accept, query), taken, "{accepts:?}, {accept}, {query}");
        }
    }
}
