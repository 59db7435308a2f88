//! Whether the server finds Provenance by what it is about, and by how many resources at a time: seen on some of its own.

use std::collections::BTreeSet;

use super::{A_FEW, answer};
use crate::fhir::bundle::Scope;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{SearchQuery, is_asked_by};
use crate::plan::associated::value;
use crate::plan::cohort::Lists;
use crate::upstream::client::{SearchError, Upstream};

/// What came of trying it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetSearch {
    /// It is found so, by lists of this length.
    Proven(Lists),
    /// There is no Provenance to try it on.
    Nothing,
    /// It is not, or nothing shows that it is.
    Unproven,
}

/// Resources that it is tried on.
const TRIED: usize = 4;
/// Provenance of one of them that is looked at.
const PAGE: u32 = 200;
/// Shares of what a URL usually takes that are tried, from the largest.
const SHARES: [usize; 3] = [1, 4, 16];

/// Tries it.
///
/// # Errors
/// If the server cannot be had.
pub(crate) async fn targets(upstream: &Upstream) -> Result<TargetSearch, SearchError> {
    let probe = Probe { upstream };
    let Some(some) = probe.found(None, A_FEW).await? else { return Ok(TargetSearch::Unproven) };
    if some.is_empty() {
        return Ok(TargetSearch::Nothing);
    }
    // Each once, and of as many of those that came as can be: the first of each first.
    let mut known = BTreeSet::new();
    let deepest = some.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..deepest).flat_map(|place| some.iter().filter_map(move |targets| targets.get(place)));
    let named: Vec<_> = in_turn.filter(|target| known.insert((*target).clone())).take(TRIED).cloned().collect();
    let mut proven = Vec::new();
    for target in named {
        // What was changed or deleted meanwhile shows nothing.
        if probe.tells(&target).await? {
            proven.push(target);
        } else if probe.is_ignored(&target).await? {
            return Ok(TargetSearch::Unproven);
        }
    }
    let (Some(first), Some(last)) = (proven.first(), proven.last()) else { return Ok(TargetSearch::Unproven) };
    for share in SHARES {
        let usual = Lists::IN_A_URL;
        let lists = Lists { patients: usual.patients.div_ceil(share), bytes: usual.bytes / share };
        if probe.finds_both(first, last, lists).await? {
            return Ok(TargetSearch::Proven(lists));
        }
    }
    Ok(TargetSearch::Proven(Lists::NONE))
}

struct Probe<'a> {
    upstream: &'a Upstream,
}

impl Probe<'_> {
    /// What it finds is about what was asked for, and nothing is about what nobody has.
    async fn tells(&self, target: &LocalReference) -> Result<bool, SearchError> {
        let Some(own) = self.found(Some(std::slice::from_ref(target)), PAGE).await? else { return Ok(false) };
        let nobody = self.found(Some(&[nobody(target, 0)]), PAGE).await?;
        let are_all = own.iter().all(|targets| targets.contains(target));
        Ok(!own.is_empty() && are_all && nobody.is_some_and(|found| found.is_empty()))
    }

    /// Something is found that is about something else.
    async fn is_ignored(&self, target: &LocalReference) -> Result<bool, SearchError> {
        let found = self.found(Some(std::slice::from_ref(target)), PAGE).await?;
        Ok(found.is_none_or(|found| found.iter().any(|targets| !targets.contains(target))))
    }

    /// Whether a list of that length finds what its first and its last one do.
    async fn finds_both(
        &self,
        first: &LocalReference,
        last: &LocalReference,
        lists: Lists,
    ) -> Result<bool, SearchError> {
        let ends = value(&[first.clone(), last.clone()]).len();
        let mut bytes = ends;
        let mut list = vec![first.clone()];
        for number in 0.. {
            let filler = nobody(first, number);
            bytes += value(std::slice::from_ref(&filler)).len() + 1;
            if list.len() + 2 > lists.patients || bytes > lists.bytes {
                break;
            }
            list.push(filler);
        }
        list.push(last.clone());
        let Some(found) = self.found(Some(&list), PAGE).await? else { return Ok(false) };
        Ok([first, last].iter().all(|end| found.iter().any(|targets| targets.contains(end))))
    }

    /// What some Provenance is about, one list for each; `None` if the server refuses to tell, or leaves out by what it is asked.
    async fn found(
        &self,
        targets: Option<&[LocalReference]>,
        count: u32,
    ) -> Result<Option<Vec<Vec<LocalReference>>>, SearchError> {
        let all = SearchQuery::new(ResourceType::PROVENANCE).count(count);
        let query = match targets {
            None => all,
            Some(targets) => all.param("target", value(targets)),
        };
        let bases = self.upstream.bases();
        let scope = Scope::of(ResourceType::PROVENANCE).with_references();
        match answer(self.upstream, &query, scope).await {
            Ok(answer) if answer.page.is_troubled() => Ok(None),
            Ok(answer)
                if targets.is_some() && answer.page.own.as_deref().is_some_and(|own| !is_asked_by(own, "target")) =>
            {
                Ok(None)
            }
            Ok(answer) => {
                let targets_of = |entry: &crate::fhir::bundle::Entry| {
                    let named = entry.references.iter().filter(|reference| &*reference.path == "target");
                    named.filter_map(|reference| LocalReference::parse_on(&reference.target, &bases)).collect()
                };
                Ok(Some(answer.page.entries.iter().map(targets_of).collect()))
            }
            Err(SearchError::Refused { .. } | SearchError::TooLarge { .. } | SearchError::Failing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One like it that nobody has.
fn nobody(like: &LocalReference, number: u32) -> LocalReference {
    let id = Id::parse(&format!("offtake-no-such-id-{number}")).expect("letters, digits and dashes");
    LocalReference { resource_type: like.resource_type, id }
}
