//! Whether the server finds Provenance by what it is about, and by how many resources at a time: seen on some of its own.

use std::collections::BTreeSet;

use super::{A_FEW, TYPES_COUNTED, allowed, answer, some_patients};
use crate::fhir::bundle::{Entry, Page, Scope};
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{SearchQuery, is_asked_by};
use crate::plan::associated::{AROUND, taken, value};
use crate::plan::cohort::Lists;
use crate::profile::CountMethod;
use crate::upstream::client::{Room, SearchError, Upstream};

/// What came of trying it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetSearch {
    /// It is found so, by lists of this length.
    Proven(Lists),
    /// There is no Provenance at all.
    Nothing,
    /// There may be some, and none was found to try it on.
    Untried,
    /// It is not, or nothing shows that it is.
    Unproven,
}

/// Resources that it is tried on: of as many types as there are.
const TRIED: usize = 8;
/// Patients who are asked for where nothing is found without naming one.
const PATIENTS_TRIED: usize = 8;
/// Provenance on a page of what is about one of them.
const PAGE: u32 = 200;
/// Pages until something has come that tells anything.
const MOST_PAGES: usize = 20;
/// Shares of what a URL usually takes that are tried, from the largest.
const SHARES: [usize; 3] = [1, 4, 16];

/// Tries it. `counts` is how the server counts, if it does; `of_patients` are types that tell whether it shows what is a
/// patient's to those who name none.
///
/// # Errors
/// If the server cannot be had.
pub(crate) async fn targets(
    upstream: &Upstream,
    counts: Option<CountMethod>,
    of_patients: &[ResourceType],
) -> Result<TargetSearch, SearchError> {
    let probe = Probe { upstream };
    let mut some = probe.of_anybody().await?;
    if !is_about_something(&some) {
        some.extend(probe.of_some_patients().await?);
    }
    if some.is_empty() {
        // What is refused to nobody would be refused at the end of an export.
        if probe.of(&[nobody(ResourceType::PATIENT, 0, 0)]).await?.is_none() {
            return Ok(TargetSearch::Unproven);
        }
        let is_empty = probe.is_empty(counts, of_patients).await?;
        return Ok(if is_empty { TargetSearch::Nothing } else { TargetSearch::Untried });
    }
    let mut proven = Vec::new();
    for target in tried(&some) {
        let about_it: Vec<_> = some.iter().filter(|found| found.is_about(target)).map(|found| &found.id).collect();
        match probe.trial(&about_it, target).await? {
            Trial::Finds => proven.push(target.clone()),
            Trial::Misses(one) if !probe.is_to_be_found(&one, target).await? => {}
            Trial::Misses(_) | Trial::Ignores => return Ok(TargetSearch::Unproven),
        }
    }
    let (Some(first), Some(last)) = (proven.first(), proven.last()) else { return Ok(TargetSearch::Unproven) };
    let there = probe.others(&proven, of_patients).await?;
    for share in SHARES {
        let usual = Lists::IN_A_URL;
        let lists = Lists { patients: usual.patients.div_ceil(share), bytes: usual.bytes / share };
        if let Some(heeded) = probe.heeds(first, last, &there, lists).await? {
            return Ok(TargetSearch::Proven(heeded));
        }
    }
    Ok(TargetSearch::Proven(Lists::NONE))
}

/// Targets that it is tried on, each once: of each type the first one, then others.
fn tried(some: &About) -> Vec<&LocalReference> {
    let deepest = some.iter().map(|found| found.about.len()).max().unwrap_or(0);
    let in_turn = (0..deepest).flat_map(|place| some.iter().filter_map(move |found| found.about.get(place)));
    let (mut known, mut types) = (BTreeSet::new(), BTreeSet::new());
    let each_once = in_turn.filter(|target| known.insert((*target).clone()));
    let (first, others): (Vec<_>, Vec<_>) = each_once.partition(|target| types.insert(target.resource_type));
    first.into_iter().chain(others).take(TRIED).collect()
}

struct Probe<'a> {
    upstream: &'a Upstream,
}

/// One that was found.
struct Found {
    id: Id,
    about: Vec<LocalReference>,
    /// What it is about on other servers, as it would be called here.
    elsewhere: Vec<LocalReference>,
}

impl Found {
    fn is_about(&self, target: &LocalReference) -> bool {
        self.about.contains(target)
    }

    /// Whether a server may find it by this: some pass over whose a reference is.
    fn is_asked_by(&self, target: &LocalReference) -> bool {
        self.is_about(target) || self.elsewhere.contains(target)
    }
}

/// What Provenance is about.
type About = Vec<Found>;

/// What came of a search by one target.
enum Trial {
    /// It finds what is about it.
    Finds,
    /// It finds nothing else, and not this one.
    Misses(Id),
    /// It finds something else, or nothing shows that it is heeded.
    Ignores,
}

fn is_about_something(found: &About) -> bool {
    found.iter().any(|found| !found.about.is_empty())
}

fn is_something(found: &About) -> bool {
    !found.is_empty()
}

impl Probe<'_> {
    /// Whether these are found by what they are about, nothing is that is about something else, and nothing by what nobody has.
    async fn trial(&self, about_it: &[&Id], target: &LocalReference) -> Result<Trial, SearchError> {
        let missed = |found: &About| about_it.iter().find(|id| !found.iter().any(|found| found.id == ***id)).copied();
        let asked = Some(("target", value(std::slice::from_ref(target))));
        let (own, is_whole) = match self.found(asked, PAGE, |found| missed(found).is_none()).await? {
            Some(own) => (own, true),
            // There may be more of them than anybody looks through here: that a few have not come by then shows nothing.
            None => match self.of(std::slice::from_ref(target)).await? {
                Some(first) if !first.is_empty() => (first, false),
                Some(_) | None => return Ok(Trial::Ignores),
            },
        };
        let of_nobody = self.of(&[nobody(target.resource_type, 0, 0)]).await?;
        let is_heeded =
            own.iter().all(|found| found.is_asked_by(target)) && of_nobody.is_some_and(|found| found.is_empty());
        Ok(match missed(&own).filter(|_| is_whole) {
            _ if !is_heeded => Trial::Ignores,
            Some(one) => Trial::Misses(one.clone()),
            None => Trial::Finds,
        })
    }

    /// Whether one that was missed is to be found by this target: it is there and says so before and after it is missed once more,
    /// and so is the target. What was changed or deleted meanwhile shows nothing.
    async fn is_to_be_found(&self, of: &Id, target: &LocalReference) -> Result<bool, SearchError> {
        let says_so = async || {
            let found = self.found(Some(("_id", of.to_string())), PAGE, is_something).await?;
            Ok::<_, SearchError>(found.is_some_and(|found| found.iter().any(|found| found.is_about(target))))
        };
        Ok(says_so().await?
            && self.is_there(target).await?
            && !matches!(self.trial(&[of], target).await?, Trial::Finds)
            && says_so().await?)
    }

    async fn is_there(&self, target: &LocalReference) -> Result<bool, SearchError> {
        let query = SearchQuery::new(target.resource_type).param("_id", target.id.to_string());
        let found = allowed(answer(self.upstream, &query, Scope::of(target.resource_type)).await)?;
        Ok(found.is_some_and(|found| found.page.entries.iter().any(|entry| entry.id == target.id)))
    }

    /// What is found where nobody is named: fewer, where more are too much for a page. Nothing if that is refused.
    async fn of_anybody(&self) -> Result<About, SearchError> {
        for count in [PAGE, A_FEW, 1] {
            if let Some(found) = self.found(None, count, is_about_something).await? {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// Resources that are there, as many as a list takes, but those that it is tried on: of other types first, which less may be
    /// about.
    async fn others(
        &self,
        tried: &[LocalReference],
        types: &[ResourceType],
    ) -> Result<Vec<LocalReference>, SearchError> {
        let of_tried: BTreeSet<_> = tried.iter().map(|target| target.resource_type).collect();
        let is_other = |name: &ResourceType| *name != ResourceType::PATIENT && !of_tried.contains(name);
        let of_others = types.iter().copied().filter(is_other).take(TYPES_COUNTED);
        let (mut asked, mut there) = (BTreeSet::new(), Vec::new());
        let names = of_others.chain(of_tried.iter().copied().rev()).chain([ResourceType::PATIENT]);
        for name in names.filter(|name| asked.insert(*name)) {
            if there.len() >= Lists::IN_A_URL.patients {
                break;
            }
            let some = SearchQuery::new(name).count(PAGE).ids_only();
            let Some(answer) = allowed(answer(self.upstream, &some, Scope::of(name)).await)? else { continue };
            let named = answer.page.entries.iter();
            let named = named.map(|entry| LocalReference { resource_type: name, id: entry.id.clone() });
            there.extend(named.filter(|other| !tried.contains(other)));
        }
        Ok(there)
    }

    /// The length of a list, at most this one, of which every place is heeded: what stands in its last place behind nobody is
    /// found, and so is what stands in its first one, and what stands in both; and nothing else is, nor anything by nobody alone.
    /// And what stands behind resources that are `there` is found as well: a server may leave out who is nobody before it counts.
    async fn heeds(
        &self,
        first: &LocalReference,
        last: &LocalReference,
        there: &[LocalReference],
        lists: Lists,
    ) -> Result<Option<Lists>, SearchError> {
        let behind = filled(&[], last, lists);
        let (_, unknown) = behind.split_last().unwrap_or((last, &[]));
        if unknown.is_empty() || self.of(unknown).await?.is_none_or(|found| !found.is_empty()) {
            return Ok(None);
        }
        let before = filled(&[], first, lists).into_iter().rev().collect::<Vec<_>>();
        // The same one twice would show nothing more.
        let around = if first == last { Vec::new() } else { filled(&[first], last, lists) };
        let mut heeded = lists;
        for (list, wanted) in [(behind, vec![last]), (before, vec![first]), (around, vec![first, last])] {
            if list.is_empty() {
                continue;
            }
            if list.len() <= wanted.len() || !self.finds(&list, &wanted).await? {
                return Ok(None);
            }
            let bytes = list.iter().map(taken).sum();
            heeded = Lists { patients: heeded.patients.min(list.len()), bytes: heeded.bytes.min(bytes) };
        }
        // Nobody is among them, so that the list tells itself from one of an export.
        let ends = [nobody(last.resource_type, 0, 0), last.clone()];
        let there = taken_of(there, &ends, heeded);
        for list in [[there, &ends[..]].concat(), [&ends[..], there].concat()] {
            if !there.is_empty() && !self.finds(&list, &[last]).await? {
                return Ok(None);
            }
        }
        // No more of them are asked about than were seen to be heeded at a time.
        heeded.patients = heeded.patients.min(there.len() + 1);
        Ok(Some(heeded))
    }

    /// Whether a list finds something about each of these, and about nothing else.
    async fn finds(&self, list: &[LocalReference], wanted: &[&LocalReference]) -> Result<bool, SearchError> {
        let are_there = |found: &About| wanted.iter().all(|wanted| found.iter().any(|found| found.is_about(wanted)));
        let Some(found) = self.found(Some(("target", value(list))), PAGE, are_there).await? else { return Ok(false) };
        let is_asked = |found: &Found| list.iter().any(|asked| found.is_asked_by(asked));
        Ok(are_there(&found) && found.iter().all(is_asked))
    }

    /// What is found of some patients, each by itself, where the server may want one to be named.
    async fn of_some_patients(&self) -> Result<About, SearchError> {
        for id in some_patients(self.upstream).await?.unwrap_or_default().into_iter().take(PATIENTS_TRIED) {
            let patient = LocalReference { resource_type: ResourceType::PATIENT, id };
            for name in ["target", "patient"] {
                let asked = Some((name, value(std::slice::from_ref(&patient))));
                let found = self.found(asked, PAGE, is_about_something).await?;
                if let Some(found) = found.filter(is_something) {
                    return Ok(found);
                }
            }
        }
        Ok(Vec::new())
    }

    /// Whether there is none at all. Where nothing is found of what else is a patient's either, that is likely no emptiness but
    /// how the server answers those who name nobody.
    async fn is_empty(&self, counts: Option<CountMethod>, of_patients: &[ResourceType]) -> Result<bool, SearchError> {
        let Some(method) = counts else { return Ok(false) };
        let count = async |name: ResourceType| {
            let counted = allowed(self.upstream.giving_back().count(&SearchQuery::new(name), method).await)?;
            Ok::<_, SearchError>(counted.and_then(|(count, _)| count))
        };
        if count(ResourceType::PROVENANCE).await? != Some(0) {
            return Ok(false);
        }
        for name in of_patients.iter().filter(|name| **name != ResourceType::PROVENANCE).take(TYPES_COUNTED) {
            if count(*name).await?.is_some_and(|count| count > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is about some targets, as far as it comes at first.
    async fn of(&self, targets: &[LocalReference]) -> Result<Option<About>, SearchError> {
        self.found(Some(("target", value(targets))), PAGE, is_something).await
    }

    /// What some Provenance is about, page by page until that is `enough`, or all; `None` if the server refuses to tell, leaves
    /// out by what it is asked, or comes to no end.
    async fn found(
        &self,
        asked: Option<(&'static str, String)>,
        count: u32,
        enough: impl Fn(&About) -> bool,
    ) -> Result<Option<About>, SearchError> {
        let name = asked.as_ref().map(|(name, _)| *name);
        let all = SearchQuery::new(ResourceType::PROVENANCE).count(count);
        let query = asked.into_iter().fold(all, |query, (name, value)| query.param(name, value));
        let scope = Scope::of(ResourceType::PROVENANCE).with_references();
        let bases = self.upstream.bases();
        let is_left_out =
            |page: &Page| name.is_some_and(|name| page.own.as_deref().is_some_and(|own| !is_asked_by(own, name)));
        let Some(mut answer) = allowed(answer(self.upstream, &query, scope).await)? else { return Ok(None) };
        if is_left_out(&answer.page) {
            return Ok(None);
        }
        let mut found = About::new();
        for _ in 0..MOST_PAGES {
            if answer.page.is_troubled() {
                return Ok(None);
            }
            let targets_of = |entry: &Entry| {
                let named = || entry.references.iter().filter(|reference| &*reference.path == "target");
                let about =
                    named().filter_map(|reference| LocalReference::parse_on(&reference.target, &bases)).collect();
                let elsewhere =
                    named().filter_map(|reference| LocalReference::parse_elsewhere(&reference.target)).collect();
                Found { id: entry.id.clone(), about, elsewhere }
            };
            found.extend(answer.page.entries.iter().map(targets_of));
            let Some(next) = answer.page.next.take().filter(|_| !enough(&found)) else { return Ok(Some(found)) };
            drop(answer);
            let following = self.upstream.giving_back().next(&next, scope, Room::Share).await;
            answer = match allowed(following)? {
                Some(answer) => answer,
                None => return Ok(None),
            };
        }
        Ok(None)
    }
}

/// The first of those that are there which fit into a list beside others.
fn taken_of<'a>(there: &'a [LocalReference], beside: &[LocalReference], lists: Lists) -> &'a [LocalReference] {
    let mut bytes: usize = beside.iter().map(taken).sum();
    let fits = |other: &&LocalReference| {
        bytes += taken(other);
        bytes <= lists.bytes
    };
    let count = there.iter().take(lists.patients.saturating_sub(beside.len())).take_while(fits).count();
    &there[..count]
}

/// A list that begins with some and ends with one, filled to a length with what nobody has.
fn filled(begin: &[&LocalReference], end: &LocalReference, lists: Lists) -> Vec<LocalReference> {
    let real = begin.iter().copied().chain([end]).map(taken).sum::<usize>();
    let count = lists.patients.saturating_sub(begin.len() + 1);
    let length = (lists.bytes.saturating_sub(real) / count.max(1))
        .saturating_sub(AROUND + end.resource_type.as_str().len())
        .clamp(SHORTEST, LONGEST);
    let (mut list, mut bytes): (Vec<_>, _) = (begin.iter().copied().cloned().collect(), real);
    for number in (1..).take(count) {
        let filler = nobody(end.resource_type, number, length);
        bytes += taken(&filler);
        if bytes > lists.bytes {
            break;
        }
        list.push(filler);
    }
    list.push(end.clone());
    list
}

/// Letters of an id that nobody has.
const SHORTEST: usize = NOBODY.len() + 3;
const LONGEST: usize = 64;
const NOBODY: &str = "offtake-nobody-";

/// What nobody has, with an id of so many letters or a few more.
fn nobody(resource_type: ResourceType, number: u32, length: usize) -> LocalReference {
    let width = length.saturating_sub(NOBODY.len());
    let id = Id::parse(&format!("{NOBODY}{number:0width$}")).expect("letters, digits and dashes");
    LocalReference { resource_type, id }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is tried is as long as what will be sent, by its number and by its bytes.
    #[test]
    fn a_list_is_filled_to_its_length_with_what_nobody_has() {
        let target = |id: &str| LocalReference {
            resource_type: ResourceType::parse("Observation").expect("a type"),
            id: Id::parse(id).expect("an id"),
        };
        let (first, last) = (target("a"), target("018f4e5a-0000-7000-8000-000000000000"));
        for (lists, least) in [
            (Lists::IN_A_URL, 40),
            (Lists { patients: 13, bytes: 425 }, 9),
            (Lists { patients: 50, bytes: 4_000 }, 49),
            (Lists { patients: 4, bytes: 106 }, 2),
        ] {
            for begin in [&[][..], &[&first]] {
                let list = filled(begin, &last, lists);
                let bytes: usize = list.iter().map(taken).sum();
                assert!(list.len() >= least && list.len() <= lists.patients, "{} of {lists:?}", list.len());
                assert!(bytes <= lists.bytes.max(taken(&first) + taken(&last)), "{bytes} of {lists:?}");
                assert!(list.len() + 1 >= lists.patients || bytes + 64 > lists.bytes, "{bytes} of {lists:?}");
                assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len());
                assert_eq!(list.last(), Some(&last));
            }
        }
    }
}
