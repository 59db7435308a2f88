//! What can be found of a type that the server lets nobody search without a patient: by which parameters it takes the
//! patient, and who the patients are.

use std::collections::BTreeSet;

use http::StatusCode;

use super::patients::{PatientProbeError, list};
use super::witness::{MOST_CHANGED, Witness};
use super::{A_FEW, page};
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::compartment::{Compartments, Link};
use crate::fhir::datatypes::Id;
use crate::fhir::filter::Filter;
use crate::fhir::outcome::Issue;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;
use crate::job::index::IdHash;
use crate::profile::{CountMethod, Narrowing, PatientForm};
use crate::upstream::client::{Answer, Room, SearchError, Upstream};

/// Patients that are tried for each type.
const PATIENTS_TRIED: usize = 8;
/// Patients of whom all searches are refused until that is taken for the rule.
const REFUSALS: usize = 3;
/// Searches for each parameter that may name the patient.
const SEARCHES_TRIED: usize = 24;
/// Readings of the list of patients until it is taken for complete.
const LISTINGS: usize = 6;
/// Pages of a record on which its patient is looked for.
const RECORD_PAGES: usize = 50;
/// Resources that may tell who the patients are.
const MOST_MATCHES: usize = 250_000;
/// Pages in a row without anybody new.
const MOST_EMPTY_PAGES: u32 = 100;

/// Whether `patient` stands for this parameter where a type has both: it finds what the other finds, if that is a patient.
/// Not so for supplies of R5: `patient` is whom they are for, and `subject` whom they are delivered to.
fn is_same_as_patient(link: &Link) -> bool {
    matches!(link.param, "subject" | "beneficiary" | "individual" | "actor" | "target") && link.paths != ["deliverTo"]
}

/// How a type can be searched by patient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The parameters that the server takes, at least one.
    pub(crate) links: Vec<&'static str>,
    /// Whether it refuses others by which a resource may belong to a patient.
    pub(crate) refuses_some: bool,
    /// How the patient was named where something was found.
    pub(crate) found: Option<PatientForm>,
    /// Whether what was found does not say when it was last updated.
    pub(crate) is_unstamped: bool,
}

/// What came of trying one parameter.
enum Tried {
    Refused(Vec<Issue>),
    Nothing,
    Found(By, Vec<Entry>),
}

/// By whom something was found.
struct By {
    form: PatientForm,
    patient: Id,
}

/// Tries every way in which resources of a type belong to a patient on some of `patients`, with what has to be asked for
/// beside them. `Err` holds what the server says where it refuses all of them.
///
/// # Errors
/// [`PatientProbeError::FindsNothing`] if a resource that names a patient is not found by that patient.
pub(crate) async fn reach(
    upstream: &Upstream,
    compartments: Compartments,
    resource_type: ResourceType,
    patients: &[Id],
    searches: &[Narrowing],
) -> Result<Result<Reached, Vec<Issue>>, PatientProbeError> {
    let probe = Probe { upstream, resource_type, searches };
    let failed = |source| PatientProbeError::Search { resource_type, source };
    let some: Vec<&Id> = patients.iter().take(PATIENTS_TRIED).collect();
    let mut reached = Reached { links: Vec::new(), refuses_some: false, found: None, is_unstamped: false };
    let mut said = Vec::new();
    let mut seen = Vec::new();
    let mut as_patient = None;
    for link in compartments.links(resource_type) {
        let mut param = link.param;
        let (mut tried, mut witness) = probe.by_witness(&link, param, &seen, &some).await.map_err(failed)?;
        if matches!(tried, Tried::Refused(_)) && is_same_as_patient(&link) && as_patient != Some(false) {
            let other = probe.by_witness(&link, "patient", &seen, &some).await.map_err(failed)?;
            as_patient = Some(!matches!(other.0, Tried::Refused(_)));
            if as_patient == Some(true) {
                (param, (tried, witness)) = ("patient", other);
            }
        }
        let mut changed = 0;
        // That a witness is not found says something only if it is there still.
        while let (Tried::Nothing, Some(at)) = (&tried, witness) {
            let Seen { by, patient, witness: was } = seen.swap_remove(at);
            let again = probe.tries(by, &[&patient]).await.map_err(failed)?;
            let later = Witness::all(if let Tried::Found(_, entries) = again { entries } else { Vec::new() });
            changed += 1;
            if was.is_among(&later) || changed >= MOST_CHANGED {
                return Err(PatientProbeError::FindsNothing { resource_type, link: param });
            }
            seen.extend(Seen::all(later, by, &patient));
            (tried, witness) = probe.by_witness(&link, param, &seen, &some).await.map_err(failed)?;
        }
        match tried {
            Tried::Refused(issues) => {
                reached.refuses_some = true;
                said = issues;
                continue;
            }
            Tried::Nothing => {}
            Tried::Found(found, entries) => {
                reached.found = reached.found.max(Some(found.form));
                reached.is_unstamped |= are_unstamped(&entries);
                seen.extend(Seen::all(Witness::all(entries), param, &found.patient));
            }
        }
        if !reached.links.contains(&param) {
            reached.links.push(param);
        }
    }
    Ok(if reached.links.is_empty() { Err(said) } else { Ok(reached) })
}

/// A resource that was found, and by what.
struct Seen {
    by: &'static str,
    patient: Id,
    witness: Witness,
}

impl Seen {
    fn all(witnesses: Vec<Witness>, by: &'static str, patient: &Id) -> impl Iterator<Item = Self> {
        witnesses.into_iter().map(move |witness| Self { by, patient: patient.clone(), witness })
    }
}

struct Probe<'a> {
    upstream: &'a Upstream,
    resource_type: ResourceType,
    searches: &'a [Narrowing],
}

impl Probe<'_> {
    /// Tries a parameter on a patient whom something that was seen names by it, and on others; with the place of what was
    /// seen.
    async fn by_witness(
        &self,
        link: &Link,
        param: &'static str,
        seen: &[Seen],
        others: &[&Id],
    ) -> Result<(Tried, Option<usize>), SearchError> {
        let bases = self.upstream.bases();
        let named = |seen: &Seen| seen.witness.patients(link.paths, &bases).next();
        let witness = seen.iter().enumerate().find_map(|(at, seen)| Some((at, named(seen)?)));
        let (at, patient) = witness.unzip();
        let asked: Vec<&Id> = patient.iter().chain(others.iter().copied()).collect();
        Ok((self.tries(param, &asked).await?, at))
    }

    async fn tries(&self, link: &'static str, patients: &[&Id]) -> Result<Tried, SearchError> {
        let mut said = None;
        let mut accepted = false;
        let mut left = SEARCHES_TRIED.max(2 * self.searches.len());
        for (patient, tried) in patients.iter().zip(1..) {
            for form in [PatientForm::Id, PatientForm::Typed] {
                let mut found: Option<Vec<_>> = None;
                for narrowing in self.narrowings() {
                    if left == 0 && found.is_none() {
                        break;
                    }
                    left = left.saturating_sub(1);
                    let query = SearchQuery::new(self.resource_type).param(link, list(&[*patient], form)).count(A_FEW);
                    let query = narrowing.map_or(query.clone(), |narrowing| narrowing.narrow(query));
                    let scope = Scope::of(self.resource_type).with_references();
                    match super::answer(self.upstream, &query, scope).await {
                        Ok(answer) if answer.page.entries.is_empty() => accepted = true,
                        Ok(answer) => found.get_or_insert_default().extend(answer.page.entries),
                        // What is too large to be looked at is there, and so is what makes the server fail.
                        Err(SearchError::TooLarge { .. } | SearchError::Failing { .. }) => {
                            found.get_or_insert_default();
                        }
                        Err(SearchError::Refused { issues, .. }) => said = Some(issues),
                        Err(error @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => {
                            return Err(error);
                        }
                    }
                }
                if let Some(entries) = found {
                    return Ok(Tried::Found(By { form, patient: (*patient).clone() }, entries));
                }
            }
            // One patient may be out of bounds for us, and others not.
            if !accepted && tried >= REFUSALS {
                break;
            }
        }
        Ok(said.filter(|_| !accepted).map_or(Tried::Nothing, Tried::Refused))
    }

    fn narrowings(&self) -> impl Iterator<Item = Option<&Narrowing>> {
        let none = self.searches.is_empty().then_some(None);
        none.into_iter().chain(self.searches.iter().map(Some))
    }
}

/// Whether resources are there, and none of them says when it was last updated.
pub(super) fn are_unstamped(entries: &[Entry]) -> bool {
    !entries.is_empty() && entries.iter().all(|entry| entry.last_updated.is_none())
}

/// Whether the server gives the records of patients by `$everything`, as the first of them show.
pub(crate) async fn records(upstream: &Upstream, patients: &[Id]) -> Result<bool, SearchError> {
    for patient in patients.iter().take(REFUSALS) {
        let query = SearchQuery::record_of(patient.clone(), ResourceType::PATIENT).count(A_FEW);
        let scope = Scope::of(ResourceType::PATIENT).among_others();
        let mut answer = super::allowed(upstream.page(&query, scope, Room::Share).await)?;
        // Where `_type` is not heeded the patient may stand on any page.
        for _ in 0..RECORD_PAGES {
            let Some(Answer { mut page, .. }) = answer.take() else { break };
            if page.entries.iter().any(|entry| entry.id == *patient) {
                return Ok(true);
            }
            let Some(next) = page.next.take() else { break };
            // Nobody waits for memory while holding some.
            drop(page);
            answer = super::allowed(upstream.next(&next, scope, Room::Share).await)?;
        }
    }
    Ok(false)
}

/// Why it cannot be said who the patients are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("the probe that lists Patient failed")]
    Search(#[from] SearchError),
    #[error("the pages of the probe that lists Patient have no end")]
    Endless,
    #[error("the probe that lists Patient found more than {0} patients, as export.group_max_members allows")]
    TooMany(usize),
    #[error("more than {0} resources are found that tell who the patients are: narrow what is searched")]
    TooManyMatches(usize),
    #[error("the probe that lists Patient gave another list each time")]
    Unsteady,
}

/// Some patients; `None` where the server does not let them be searched.
pub(crate) async fn some_patients(upstream: &Upstream) -> Result<Option<Vec<Id>>, SearchError> {
    let seen = super::allowed(page(upstream, SearchQuery::new(ResourceType::PATIENT).count(A_FEW).ids_only()).await)?;
    Ok(seen.map(|seen| seen.entries.into_iter().map(|entry| entry.id).collect()))
}

/// How lists are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listing {
    pub(crate) counts: Option<CountMethod>,
    pub(crate) links_are_stable: bool,
    pub(crate) page_resources: u32,
    /// Patients at most.
    pub(crate) most: usize,
}

/// What a search finds.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    pub(crate) patients: BTreeSet<Id>,
    /// There is nothing that it finds.
    pub(crate) is_of_nothing: bool,
}

/// Every patient who passes a filter, sorted.
pub(crate) async fn all_patients(upstream: &Upstream, listing: Listing, filter: &Filter) -> Result<Vec<Id>, ListError> {
    let all = filter.narrow(SearchQuery::new(ResourceType::PATIENT)).ids_only();
    let own = |entry: &Entry| vec![entry.id.clone()];
    let listed = subjects(upstream, listing, &all, Scope::of(ResourceType::PATIENT), &own).await?;
    Ok(listed.patients.into_iter().collect())
}

/// The patients whom all that a search finds is about, as `of` tells: as much of it as the server counts, where its links cannot
/// lose any, else as two readings agree.
pub(crate) async fn subjects(
    upstream: &Upstream,
    mut listing: Listing,
    all: &SearchQuery,
    scope: Scope,
    of: &(dyn Fn(&Entry) -> Vec<Id> + Sync),
) -> Result<Subjects, ListError> {
    let mut previous: Option<BTreeSet<IdHash>> = None;
    for _ in 0..LISTINGS {
        let counted = match listing.counts {
            Some(method) => upstream.count(all, method).await?.0,
            None => None,
        };
        let Listed { seen, patients, pages } = match list_once(upstream, listing, all, scope, of).await {
            Ok(listed) => listed,
            // A list of pages that is known no longer is asked for anew.
            Err(ListError::Search(SearchError::Refused {
                status: StatusCode::NOT_FOUND | StatusCode::GONE, ..
            })) => {
                continue;
            }
            Err(ListError::Search(SearchError::TooLarge { .. })) if listing.page_resources > 1 => {
                listing.page_resources = (listing.page_resources / 4).max(1);
                continue;
            }
            Err(error) => return Err(error),
        };
        let is_proven = match counted {
            Some(counted) if counted != seen.len() as u64 => false,
            Some(_) => pages == 1 || listing.links_are_stable || previous.as_ref() == Some(&seen),
            None => previous.as_ref() == Some(&seen),
        };
        if is_proven {
            return Ok(Subjects { patients, is_of_nothing: seen.is_empty() });
        }
        previous = Some(seen);
    }
    Err(ListError::Unsteady)
}

/// What one reading of a list brought.
#[derive(Default)]
struct Listed {
    seen: BTreeSet<IdHash>,
    patients: BTreeSet<Id>,
    pages: u32,
}

async fn list_once(
    upstream: &Upstream,
    listing: Listing,
    all: &SearchQuery,
    scope: Scope,
    of: &(dyn Fn(&Entry) -> Vec<Id> + Sync),
) -> Result<Listed, ListError> {
    let query = all.clone().count(listing.page_resources);
    let mut answer = upstream.page(&query, scope, Room::Share).await?;
    let (mut listed, mut empty) = (Listed::default(), 0);
    loop {
        if answer.page.is_troubled() {
            let issues = std::mem::take(&mut answer.page.outcomes);
            return Err(SearchError::Refused { status: StatusCode::OK, issues }.into());
        }
        listed.pages = listed.pages.saturating_add(1);
        let before = listed.seen.len();
        for entry in std::mem::take(&mut answer.page.entries) {
            listed.seen.insert(IdHash::of(entry.resource_type, &entry.id));
            listed.patients.extend(of(&entry));
        }
        if listed.patients.len() > listing.most {
            return Err(ListError::TooMany(listing.most));
        }
        if listed.seen.len() > listing.most.max(MOST_MATCHES) {
            return Err(ListError::TooManyMatches(listing.most.max(MOST_MATCHES)));
        }
        empty = if listed.seen.len() == before { empty + 1 } else { 0 };
        if empty > MOST_EMPTY_PAGES {
            return Err(ListError::Endless);
        }
        let Some(next) = answer.page.next.take() else { return Ok(listed) };
        // Nobody waits for memory while holding some.
        drop(answer);
        answer = upstream.next(&next, scope, Room::Share).await?;
    }
}
