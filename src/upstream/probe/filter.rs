//! Whether the server heeds what narrows a type. A filter is proven by a witness only: a resource that is found by its own
//! value and excluded by another one. A server that does not know a parameter leaves it out in silence, and would send
//! everything.

use super::{A_FEW, answer};
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::capability::ParameterKind;
use crate::fhir::datatypes::Id;
use crate::fhir::filter::{Filter, values};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{SearchQuery, is_asked_by};
use crate::upstream::client::{Answer, Room, SearchError, Upstream};

/// What came of trying a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    /// It finds what it should and nothing that it should not.
    Proven,
    /// It finds nothing at this moment: there is nothing to try it on.
    Nothing,
}

/// Why a filter cannot be relied on. It names parameters, never values.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterProbeError {
    #[error("the FHIR server ignores `{parameter}` when it is searched for {resource_type}")]
    Ignored { resource_type: ResourceType, parameter: String },
    #[error("nothing shows that the FHIR server heeds `{parameter}` when it is searched for {resource_type}")]
    Unproven { resource_type: ResourceType, parameter: String },
    #[error(
        "the FHIR server does not find by a list of values of `{parameter}` what it finds by one of them, of {resource_type}"
    )]
    Lists { resource_type: ResourceType, parameter: String },
    #[error("the FHIR server forgets in the links to further pages by what it is searched for {resource_type}")]
    Forgets { resource_type: ResourceType },
    #[error("the FHIR server refuses to be searched for {resource_type} by {parameters}")]
    Refused { resource_type: ResourceType, parameters: String },
    #[error("the FHIR server does not list `{parameter}` among the search parameters of {resource_type}")]
    Unlisted { resource_type: ResourceType, parameter: String },
    #[error("{resource_type} is read as a part of the records of patients, which nothing narrows")]
    Records { resource_type: ResourceType },
    #[error(
        "the FHIR server wants {resource_type} to be searched by patient, so that no filter can name one by `{parameter}`"
    )]
    NamesPatients { resource_type: ResourceType, parameter: String },
    #[error("the FHIR server could not be asked for {resource_type}")]
    Search {
        resource_type: ResourceType,
        #[source]
        source: SearchError,
    },
}

impl FilterProbeError {
    /// The type that is narrowed.
    pub(crate) fn resource_type(&self) -> ResourceType {
        match self {
            Self::Ignored { resource_type, .. }
            | Self::Unproven { resource_type, .. }
            | Self::Lists { resource_type, .. }
            | Self::Forgets { resource_type }
            | Self::Refused { resource_type, .. }
            | Self::Unlisted { resource_type, .. }
            | Self::Records { resource_type }
            | Self::NamesPatients { resource_type, .. }
            | Self::Search { resource_type, .. } => *resource_type,
        }
    }
}

/// Witnesses that a value is tried on.
const WITNESSES: usize = 4;
/// Values of a list that are looked for until one finds something.
const VALUES_TRIED: usize = 50;
/// Pages after the first one that are looked at.
const LINKS_FOLLOWED: usize = 3;
/// How often a proof is begun anew where its witnesses changed under it.
const TRIES: usize = 3;

/// Tries a filter by some searches, each of which finds resources of the type: the first that finds something with the filter
/// is where it is tried. `kinds` are those of its parameters.
///
/// # Errors
/// [`FilterProbeError`] if it cannot be relied on, or the server cannot be had.
pub(crate) async fn filter(
    upstream: &Upstream,
    resource_type: ResourceType,
    bases: &[SearchQuery],
    filter: &Filter,
    kinds: &[ParameterKind],
) -> Result<Trial, FilterProbeError> {
    // Without anybody to search by there is nothing to find.
    let mut is_answered = bases.is_empty();
    for base in bases {
        let probe = Probe { upstream, resource_type, base, filter };
        for _ in 0..TRIES {
            let Some(witnesses) = probe.find(filter).await? else { break };
            is_answered = true;
            if witnesses.is_empty() {
                break;
            }
            for ((place, (name, value)), kind) in filter.pairs().enumerate().zip(kinds) {
                probe.prove(place, name, value, *kind).await?;
            }
            probe.heed_links().await?;
            // What changed meanwhile was no witness.
            let later = probe.find(filter).await?.unwrap_or_default();
            if later.iter().any(|id| witnesses.contains(id)) {
                return Ok(Trial::Proven);
            }
        }
    }
    if is_answered {
        return Ok(Trial::Nothing);
    }
    let parameters: Vec<_> = filter.names().map(|name| format!("`{name}`")).collect();
    Err(FilterProbeError::Refused { resource_type, parameters: parameters.join(" and ") })
}

/// Some of what a search for a type finds with a filter; `None` if the server refuses it.
///
/// # Errors
/// [`FilterProbeError`] if it cannot be relied on, or the server cannot be had.
pub(crate) async fn passing(
    upstream: &Upstream,
    all: &SearchQuery,
    filter: &Filter,
) -> Result<Option<Vec<Id>>, FilterProbeError> {
    let probe = Probe { upstream, resource_type: all.resource_type(), base: all, filter };
    probe.find(filter).await
}

struct Probe<'a> {
    upstream: &'a Upstream,
    resource_type: ResourceType,
    base: &'a SearchQuery,
    filter: &'a Filter,
}

/// What became of a witness under another value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Excluded,
    Found,
    /// The server refuses this value, or the witnesses cannot be asked for alone.
    Unknown,
}

impl Probe<'_> {
    /// One parameter: what it finds by its own value it does not find by another one, whatever else is asked.
    async fn prove(&self, place: usize, name: &str, value: &str, kind: ParameterKind) -> Result<(), FilterProbeError> {
        let (resource_type, parameter) = (self.resource_type, || name.to_owned());
        let values = values(value);
        // Of a list one value is enough, of which there is a resource.
        let mut found = None;
        for value in values.iter().take(VALUES_TRIED) {
            let narrowed = self.filter.with_value(place, value);
            let witnesses = self.find(&narrowed).await?.unwrap_or_default();
            if !witnesses.is_empty() {
                found = Some((*value, narrowed, witnesses));
                break;
            }
        }
        let Some((value, narrowed, witnesses)) = found else {
            return Err(FilterProbeError::Unproven { resource_type, parameter: parameter() });
        };
        for others in others(kind, value) {
            self.exclude(name, &narrowed, place, &others, &witnesses).await?;
        }
        if values.len() > 1 && !self.understands_lists(place, &values).await? {
            return Err(FilterProbeError::Lists { resource_type, parameter: parameter() });
        }
        if values.len() > 1 {
            // A server may heed each of them and pass over a list, in which it knows no value.
            let witnesses = self.find(self.filter).await?.unwrap_or_default();
            let lists = other_lists(kind, &values);
            self.exclude(name, self.filter, place, &lists, &witnesses).await?;
        }
        Ok(())
    }

    /// One of some other values has to exclude what the own one finds.
    async fn exclude(
        &self,
        name: &str,
        own: &Filter,
        place: usize,
        others: &[String],
        witnesses: &[Id],
    ) -> Result<(), FilterProbeError> {
        let (resource_type, parameter) = (self.resource_type, name.to_owned());
        let mut is_found = false;
        for other in others {
            match self.try_other(own, place, other, witnesses).await? {
                Seen::Excluded => return Ok(()),
                Seen::Found => is_found = true,
                Seen::Unknown => {}
            }
        }
        Err(if is_found {
            FilterProbeError::Ignored { resource_type, parameter }
        } else {
            FilterProbeError::Unproven { resource_type, parameter }
        })
    }

    /// Whether a witness of one value is found by another one.
    async fn try_other(
        &self,
        own: &Filter,
        place: usize,
        other: &str,
        witnesses: &[Id],
    ) -> Result<Seen, FilterProbeError> {
        let changed = own.with_value(place, other);
        let Some(answer) = self.ask(&changed, None).await? else { return Ok(Seen::Unknown) };
        if answer.ids.is_empty() && answer.next.is_none() {
            return Ok(Seen::Excluded);
        }
        if answer.ids.iter().any(|id| witnesses.contains(id)) {
            return Ok(Seen::Found);
        }
        // It finds others, which says nothing of these.
        for witness in witnesses.iter().take(WITNESSES) {
            if !self.finds(own, witness).await? {
                continue;
            }
            let Some(answer) = self.ask(&changed, Some(witness)).await? else { continue };
            if answer.ids.contains(witness) {
                return Ok(Seen::Found);
            }
            if self.finds(own, witness).await? {
                return Ok(Seen::Excluded);
            }
        }
        Ok(Seen::Unknown)
    }

    /// Whether what the first and the last value of a list find alone is found by the list.
    async fn understands_lists(&self, place: usize, values: &[&str]) -> Result<bool, FilterProbeError> {
        for value in values.first().into_iter().chain(values.last()) {
            let alone = self.filter.with_value(place, value);
            let witnesses = self.find(&alone).await?.unwrap_or_default();
            let together = self.find(self.filter).await?.unwrap_or_default();
            if witnesses.is_empty() || witnesses.iter().any(|id| together.contains(id)) {
                continue;
            }
            let mut is_lost = false;
            for witness in witnesses.iter().take(WITNESSES) {
                if self.finds(self.filter, witness).await? {
                    is_lost = false;
                    break;
                }
                // It may have changed, or nothing can be asked for by its id.
                is_lost |= self.finds(&alone, witness).await?;
            }
            if is_lost {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What next links lead to passes as well. Where nothing is counted nobody would notice that they have forgotten the filter.
    async fn heed_links(&self) -> Result<(), FilterProbeError> {
        // What changes meanwhile does not do so each time.
        for _ in 0..TRIES {
            if !self.links_forget().await? {
                return Ok(());
            }
        }
        Err(FilterProbeError::Forgets { resource_type: self.resource_type })
    }

    /// Whether something comes by a next link, is there, and is not found by the filter.
    async fn links_forget(&self) -> Result<bool, FilterProbeError> {
        let query = self.filter.narrow(self.base.clone()).count(1).ids_only();
        let Some(first) = self.page(answer(self.upstream, &query, Scope::of(self.resource_type)).await)? else {
            return Ok(false);
        };
        let Some(known) = first.ids.first() else { return Ok(false) };
        // Without that nothing can be told of a single one.
        if first.next.is_none() || !self.finds(self.filter, known).await? {
            return Ok(false);
        }
        let mut next = first.next;
        for _ in 0..LINKS_FOLLOWED {
            let Some(link) = next else { break };
            let upstream = self.upstream.giving_back();
            let later = upstream.next(&link, Scope::of(self.resource_type), Room::Share).await;
            let Some(later) = self.page(later)? else { break };
            for id in later.ids.iter().filter(|id| !first.ids.contains(id)).take(WITNESSES) {
                if !self.finds(self.filter, id).await? && self.finds(&Filter::ALL, id).await? {
                    return Ok(true);
                }
            }
            next = later.next;
        }
        Ok(false)
    }

    async fn finds(&self, filter: &Filter, id: &Id) -> Result<bool, FilterProbeError> {
        let answer = self.ask(filter, Some(id)).await?;
        Ok(answer.is_some_and(|answer| answer.ids == [id.clone()]))
    }

    /// Some of what a filter finds; `None` if the server refuses it. What says of itself that it has left something out has
    /// ignored it (DS-004).
    async fn find(&self, filter: &Filter) -> Result<Option<Vec<Id>>, FilterProbeError> {
        let Some(found) = self.ask(filter, None).await? else { return Ok(None) };
        let left_out = found.own.as_deref().and_then(|own| filter.names().find(|name| !is_asked_by(own, name)));
        if let Some(name) = left_out {
            let (resource_type, parameter) = (self.resource_type, name.to_owned());
            return Err(FilterProbeError::Ignored { resource_type, parameter });
        }
        Ok(Some(found.ids))
    }

    async fn ask(&self, filter: &Filter, id: Option<&Id>) -> Result<Option<Found>, FilterProbeError> {
        let resource_type = self.resource_type;
        let query = filter.narrow(self.base.clone());
        // One of those that are asked for anyhow.
        let query = id.map_or(query.clone(), |id| query.ids(id.as_str().to_owned()));
        let query = query.count(A_FEW).ids_only();
        self.page(answer(self.upstream, &query, Scope::of(resource_type)).await)
    }

    /// What came; `None` if that says nothing.
    fn page(&self, answer: Result<Answer, SearchError>) -> Result<Option<Found>, FilterProbeError> {
        let resource_type = self.resource_type;
        match answer {
            Ok(Answer { mut page, .. }) if !page.is_troubled() => {
                let ids = page.entries.drain(..).map(|Entry { id, .. }| id).collect();
                Ok(Some(Found { ids, own: page.own.take(), next: page.next.take() }))
            }
            Ok(_)
            | Err(
                SearchError::Refused { .. }
                | SearchError::TooLarge { .. }
                | SearchError::Failing { .. }
                | SearchError::Link,
            ) => Ok(None),
            Err(source @ (SearchError::GaveUp { .. } | SearchError::Unauthorized)) => {
                Err(FilterProbeError::Search { resource_type, source })
            }
        }
    }
}

struct Found {
    ids: Vec<Id>,
    own: Option<String>,
    next: Option<String>,
}

const NO_CODE: &str = "offtake-no-such-code";
const NO_SYSTEM: &str = "urn:offtake:no-such-system";
/// Where a server takes only codes that it knows.
const OTHER_CODES: [&str; 4] = ["unknown", "entered-in-error", "true", "false"];
const LONG_AGO: &str = "lt1800-01-01";
const FAR_AWAY: &str = "gt2900-01-01";

/// Lists of two values that might be asked for instead of a list: one of them has to exclude what that finds.
fn other_lists(kind: ParameterKind, values: &[&str]) -> Vec<String> {
    let value = values.first().copied().unwrap_or_default();
    let others = others(kind, value).into_iter().next().unwrap_or_default();
    let mut lists = Vec::new();
    match kind {
        // Whatever begins like them is as unknown as they are.
        ParameterKind::Token | ParameterKind::String | ParameterKind::Reference | ParameterKind::Uri => {
            lists.extend(others.first().map(|other| format!("{other},{other}-2")));
        }
        ParameterKind::Date | ParameterKind::Number | ParameterKind::Quantity => {}
    }
    let pairs = others.windows(2).filter(|pair| pair.iter().all(|other| !values.contains(&other.as_str())));
    lists.extend(pairs.map(|pair| pair.join(",")));
    lists
}

/// What else might be asked for: of each list of values one has to exclude what the own value finds.
fn others(kind: ParameterKind, value: &str) -> Vec<Vec<String>> {
    let some = |values: &[&str]| vec![values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>()];
    match kind {
        ParameterKind::Token => match value.split_once('|') {
            None => {
                let known = OTHER_CODES.iter().filter(|other| **other != value);
                vec![std::iter::once(&NO_CODE).chain(known).map(|other| (*other).to_owned()).collect()]
            }
            Some((_, "")) => some(&[&format!("{NO_SYSTEM}|")]),
            Some(("", _)) => some(&[&format!("|{NO_CODE}")]),
            // The same code of another system is another code.
            Some((system, code)) => vec![vec![format!("{system}|{NO_CODE}")], vec![format!("{NO_SYSTEM}|{code}")]],
        },
        // One of them lies outside of any period but those that have no beginning and no end.
        ParameterKind::Date => some(&[LONG_AGO, FAR_AWAY, "1800-01-01"]),
        ParameterKind::Number => some(&["-987654321", "lt-987654321", "gt987654321"]),
        ParameterKind::Quantity => {
            let unit = value.find('|').map_or("", |at| &value[at..]);
            some(&[&format!("-987654321{unit}"), &format!("lt-987654321{unit}"), &format!("gt987654321{unit}")])
        }
        ParameterKind::String => some(&["offtake-no-such-text"]),
        ParameterKind::Reference => match value.rsplit_once('/') {
            Some((before, _)) => some(&[&format!("{before}/offtake-no-such-id"), "offtake-no-such-id"]),
            None => some(&["offtake-no-such-id"]),
        },
        ParameterKind::Uri => some(&["urn:offtake:no-such-uri"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_value_is_of_the_same_kind() {
        for (kind, value, expected) in [
            (ParameterKind::Token, "final", vec![NO_CODE]),
            (ParameterKind::Token, "http://s|c", vec!["http://s|offtake-no-such-code", "urn:offtake:no-such-system|c"]),
            (ParameterKind::Token, "http://s|", vec!["urn:offtake:no-such-system|"]),
            (ParameterKind::Token, "|c", vec!["|offtake-no-such-code"]),
            (ParameterKind::Date, "ge2020", vec![LONG_AGO]),
            (ParameterKind::Quantity, "gt5|http://u|mg", vec!["-987654321|http://u|mg"]),
            (ParameterKind::Reference, "Practitioner/a", vec!["Practitioner/offtake-no-such-id"]),
            (
                ParameterKind::Reference,
                "http://h/fhir/Practitioner/a",
                vec!["http://h/fhir/Practitioner/offtake-no-such-id"],
            ),
            (ParameterKind::Reference, "a", vec!["offtake-no-such-id"]),
        ] {
            let first: Vec<_> =
                others(kind, value).into_iter().filter_map(|others| others.into_iter().next()).collect();
            assert_eq!(first, expected, "{value}");
            assert!(others(kind, value).iter().flatten().all(|other| other != value), "{value}");
        }
        assert!(!others(ParameterKind::Token, "unknown")[0].contains(&"unknown".to_owned()));
        for (kind, values, expected) in [
            (ParameterKind::Token, ["final", "amended"], "offtake-no-such-code,offtake-no-such-code-2"),
            (ParameterKind::Token, ["unknown", "final"], "offtake-no-such-code,offtake-no-such-code-2"),
            (
                ParameterKind::Token,
                ["http://s|", "http://t|"],
                "urn:offtake:no-such-system|,urn:offtake:no-such-system|-2",
            ),
            (ParameterKind::Date, ["ge2020", "2010"], "lt1800-01-01,gt2900-01-01"),
            (ParameterKind::Number, ["1", "2"], "-987654321,lt-987654321"),
        ] {
            let lists = other_lists(kind, &values);
            assert_eq!(lists.first().map(String::as_str), Some(expected), "{values:?}");
            let told = lists.iter().flat_map(|list| list.split(','));
            assert!(told.into_iter().all(|other| !values.contains(&other)), "{lists:?}");
        }
    }
}
