//! How patients are named in searches, and whether each type's search by patient finds what it should: a filter is
//! proven only by a resource that it finds (P2 and P8).

use std::collections::BTreeSet;

use futures_util::StreamExt;
use http::StatusCode;

use super::long_lists::{LongLists, long_lists};
use super::witness::{MOST_CHANGED, Witness};
use super::{A_FEW, allowed, page};
use crate::fhir::bundle::{Referenced, Scope};
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Direction, SearchQuery};
use crate::profile::{CountMethod, Narrowing, PatientForm};
use crate::upstream::client::{SearchError, Upstream};

/// Members that are tried until two of them have something.
const MEMBERS_TRIED: usize = 20;
/// Patients of a link that are searched for until one of them may be.
const WITNESSES_TRIED: usize = 4;
/// Types that an OR list is tried on.
const LISTS_TRIED: usize = 6;

/// Why searches by patient cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PatientProbeError {
    /// A resource that names a patient is not found by that patient.
    #[error("the server does not find {resource_type} by `{link}`, although there are some: none would be exported")]
    FindsNothing { resource_type: ResourceType, link: &'static str },
    /// A patient that nobody is has something.
    #[error("the server ignores `{link}` in searches of {resource_type}: what belongs to others would be exported")]
    Ignores { resource_type: ResourceType, link: &'static str },
    #[error("could not ask the server about {resource_type}")]
    Search {
        resource_type: ResourceType,
        #[source]
        source: SearchError,
    },
}

/// What searches by patient were found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patients {
    pub(crate) form: PatientForm,
    /// How long lists of them may be, if several patients in one search find what each of them finds alone.
    pub(crate) lists: Option<LongLists>,
}

/// A search by patient that was seen to be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) resource_type: ResourceType,
    pub(crate) link: &'static str,
    /// What has to be asked for beside the patient.
    pub(crate) narrowing: Option<&'a Narrowing>,
    pub(crate) found: Option<PatientForm>,
}

/// Tries the searches by patient of `types`, which hold something, and lists of `members` on these and in the ways that
/// are known already.
///
/// # Errors
/// [`PatientProbeError::FindsNothing`] if a type's search finds nothing where there is something.
pub(crate) async fn patients(
    upstream: &Upstream,
    compartments: Compartments,
    types: &[ResourceType],
    known: &[Way<'_>],
    members: &[Id],
    counts: Option<CountMethod>,
    at_once: usize,
) -> Result<Patients, PatientProbeError> {
    let mut tried = futures_util::stream::iter(types.iter().copied())
        .map(|name| async move { (name, by_its_own_patients(upstream, compartments, name, &ALL_FORMS).await) })
        .buffer_unordered(at_once);
    let mut form = known.iter().filter_map(|way| way.found).max().unwrap_or_default();
    let mut found = Vec::new();
    while let Some((resource_type, result)) = tried.next().await {
        match result.map_err(|source| PatientProbeError::Search { resource_type, source })? {
            Found::By(by) => {
                form = form.max(by);
                found.push(resource_type);
            }
            Found::NoWitness => {}
            Found::Nothing(link) => return Err(PatientProbeError::FindsNothing { resource_type, link }),
            Found::Anything(link) => return Err(PatientProbeError::Ignores { resource_type, link }),
        }
    }
    if form == PatientForm::Typed {
        // One form for all of them: what was found by the other one has to be found by this one too.
        if let Some(way) = known.iter().find(|way| way.found == Some(PatientForm::Id)) {
            return Err(PatientProbeError::FindsNothing { resource_type: way.resource_type, link: way.link });
        }
        for resource_type in found {
            let again = by_its_own_patients(upstream, compartments, resource_type, &[form]).await;
            let again = again.map_err(|source| PatientProbeError::Search { resource_type, source })?;
            match again {
                Found::Nothing(link) => return Err(PatientProbeError::FindsNothing { resource_type, link }),
                Found::Anything(link) => return Err(PatientProbeError::Ignores { resource_type, link }),
                Found::By(_) | Found::NoWitness => {}
            }
        }
    }
    let first = |resource_type: &ResourceType| {
        let link = compartments.links(*resource_type).next()?.param;
        Some(Way { resource_type: *resource_type, link, narrowing: None, found: None })
    };
    let ways: Vec<_> = types.iter().filter_map(first).chain(known.iter().copied()).collect();
    let lists = or_lists(upstream, &ways, members, form, counts).await?;
    Ok(Patients { form, lists })
}

/// What became of searching for resources by the patients that they name.
enum Found {
    By(PatientForm),
    /// There is nothing to try it on, or nothing that may be seen without a patient.
    NoWitness,
    Nothing(&'static str),
    /// Something is found by a patient that nobody is.
    Anything(&'static str),
}

/// An id that no patient has.
const NOBODY: &str = "offtake-probe-nobody";

/// How patients may be named, the usual way first.
const ALL_FORMS: [PatientForm; 2] = [PatientForm::Id, PatientForm::Typed];

/// What named a patient by this link was not found by it, and is not there any more as it was: it says nothing.
struct Changed(&'static str);

async fn by_its_own_patients(
    upstream: &Upstream,
    compartments: Compartments,
    resource_type: ResourceType,
    forms: &[PatientForm],
) -> Result<Found, SearchError> {
    let mut found = Found::NoWitness;
    for _ in 0..MOST_CHANGED {
        let Some(witnesses) = some_witnesses(upstream, resource_type).await? else { return Ok(Found::NoWitness) };
        match by_witnesses(upstream, compartments, resource_type, forms, &witnesses).await? {
            Ok(found) => return Ok(found),
            Err(Changed(link)) => found = Found::Nothing(link),
        }
    }
    Ok(found)
}

/// Some of a type; `None` where they cannot be seen without a patient.
async fn some_witnesses(upstream: &Upstream, resource_type: ResourceType) -> Result<Option<Vec<Witness>>, SearchError> {
    let query = SearchQuery::new(resource_type);
    let scope = Scope::of(resource_type).with_references();
    // Where the server fails on one of them, another one will do.
    let others = [query.clone().count(1), query.clone().sort_last_updated(Direction::Descending).count(1)];
    let mut answer = super::answer(upstream, &query.count(A_FEW), scope).await;
    for other in others {
        if !matches!(answer, Err(SearchError::Failing { .. })) {
            break;
        }
        answer = super::answer(upstream, &other, scope).await;
    }
    // Nobody waits for memory while holding some.
    Ok(allowed(answer)?.map(|mut answer| Witness::all(std::mem::take(&mut answer.page.entries))))
}

async fn by_witnesses(
    upstream: &Upstream,
    compartments: Compartments,
    resource_type: ResourceType,
    forms: &[PatientForm],
    witnesses: &[Witness],
) -> Result<Result<Found, Changed>, SearchError> {
    let bases = upstream.bases();
    let mut found = Found::NoWitness;
    for link in compartments.links(resource_type) {
        let patients: BTreeSet<_> = witnesses.iter().flat_map(|witness| witness.patients(link.paths, &bases)).collect();
        let mut by = None;
        let mut asked = None;
        // Some patients may be out of bounds for us, and others not.
        for patient in patients.iter().take(WITNESSES_TRIED) {
            for form in forms {
                let finds = finds(upstream, resource_type, link.param, list(&[patient], *form)).await?;
                if finds != Finds::Forbidden {
                    asked = Some(patient);
                }
                if by.is_none() && finds == Finds::Some {
                    by = Some(*form);
                }
            }
            if asked.is_some() {
                break;
            }
        }
        let Some(patient) = asked else { continue };
        // P2: it finds what it should, and nothing else.
        let nobody = by.map(|form| (form, Id::parse(NOBODY)));
        if let Some((form, Ok(nobody))) = nobody
            && finds(upstream, resource_type, link.param, list(&[&nobody], form)).await? == Finds::Some
        {
            return Ok(Ok(Found::Anything(link.param)));
        }
        match (by, &found) {
            // Of two ways that differ the stricter one is told.
            (Some(form), Found::By(other)) => found = Found::By(form.max(*other)),
            (Some(form), _) => found = Found::By(form),
            (None, _) => {
                let later = some_witnesses(upstream, resource_type).await?.unwrap_or_default();
                let mut named = witnesses.iter().filter(|witness| witness.names(patient, link.paths, &bases));
                let is_there_still = named.any(|witness| witness.is_among(&later));
                return Ok(if is_there_still { Ok(Found::Nothing(link.param)) } else { Err(Changed(link.param)) });
            }
        }
    }
    Ok(Ok(found))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finds {
    Some,
    Nothing,
    /// This patient may not be asked for.
    Forbidden,
}

async fn finds(
    upstream: &Upstream,
    name: ResourceType,
    link: &'static str,
    value: String,
) -> Result<Finds, SearchError> {
    let seen = page(upstream, SearchQuery::new(name).param(link, value).count(1)).await;
    if matches!(&seen, Err(SearchError::Refused { status: StatusCode::FORBIDDEN, .. })) {
        return Ok(Finds::Forbidden);
    }
    let finds = allowed(seen)?.is_some_and(|seen| !seen.entries.is_empty());
    Ok(if finds { Finds::Some } else { Finds::Nothing })
}

pub(super) fn patients_of<'a>(
    references: &'a [Referenced],
    paths: &'a [&'a str],
    bases: &'a [&'a str],
) -> impl Iterator<Item = Id> + 'a {
    let named = references.iter().filter(|reference| paths.contains(&&*reference.path));
    let local = named.filter_map(move |reference| LocalReference::parse_on(&reference.target, bases));
    local.filter(|target| target.resource_type == ResourceType::PATIENT).map(|target| target.id)
}

/// P8: two patients in one search find as many as each of them alone, both of them something; and so do long lists.
async fn or_lists(
    upstream: &Upstream,
    ways: &[Way<'_>],
    members: &[Id],
    form: PatientForm,
    counts: Option<CountMethod>,
) -> Result<Option<LongLists>, PatientProbeError> {
    for way in ways.iter().copied().take(LISTS_TRIED) {
        let Way { resource_type, link, narrowing, .. } = way;
        let failed = |source| PatientProbeError::Search { resource_type, source };
        let how_many = async |patients: &[&Id]| {
            let query = SearchQuery::new(resource_type).param(link, list(patients, form));
            let query = narrowing.map_or(query.clone(), |narrowing| narrowing.narrow(query));
            number(upstream, query, counts).await.map_err(failed)
        };
        let mut with_some = Vec::new();
        for member in members.iter().take(MEMBERS_TRIED) {
            match how_many(&[member]).await? {
                Some(count) if count > 0 => with_some.push((member, count)),
                Some(_) | None => {}
            }
            if let [(first, one), (second, other)] = with_some.as_slice() {
                let both = how_many(&[first, second]).await?;
                // A resource of both is counted once.
                if both.is_some_and(|both| both <= one + other && both > *one.max(other)) {
                    let lists = long_lists(upstream, way, [first, second], form, counts).await.map_err(failed)?;
                    // Of a list that no URL takes only two were seen to be found.
                    return Ok(Some(lists));
                }
                break;
            }
        }
    }
    Ok(None)
}

/// As many patients as a search's value.
pub(crate) fn list(patients: &[&Id], form: PatientForm) -> String {
    let prefix = match form {
        PatientForm::Id => "",
        PatientForm::Typed => "Patient/",
    };
    let named: Vec<String> = patients.iter().map(|id| format!("{prefix}{id}")).collect();
    named.join(",")
}

async fn number(
    upstream: &Upstream,
    query: SearchQuery,
    counts: Option<CountMethod>,
) -> Result<Option<u64>, SearchError> {
    if let Some(method) = counts {
        return Ok(allowed(upstream.count(&query, method).await)?.and_then(|(count, _)| count));
    }
    let seen = allowed(page(upstream, query.count(1_000).ids_only()).await)?;
    Ok(seen.filter(|seen| seen.next.is_none()).map(|seen| seen.entries.len() as u64))
}
