//! How long a list of patients may be, in a URL and in a form: two patients in one search prove nothing of fifty.

use std::collections::BTreeSet;

use http::StatusCode;

use super::patients::{Way, list};
use super::{allowed, page};
use crate::fhir::datatypes::Id;
use crate::fhir::search::{Manner, SearchQuery};
use crate::plan::cohort::{AROUND, Lists};
use crate::profile::{CountMethod, PatientForm};
use crate::upstream::client::{Room, SearchError, Upstream};

/// Pages that a list is read by; longer ones tell nothing.
const MOST_PAGES: usize = 20;
/// Resources on one of them.
const PAGE: u32 = 500;
/// What was written in between may make two lists differ.
const TRIES: usize = 3;
/// Shares of what a URL usually takes that are tried, from the largest.
const SHARES: [usize; 3] = [1, 2, 4];

/// How long lists of patients may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LongLists {
    /// Bytes of a list in a URL, where it is fewer than usual. None at all says that no list was taken.
    pub(crate) url_most_bytes: Option<u32>,
    /// A long list in a form finds what a short one in a URL does.
    pub(crate) post: bool,
}

/// Tries long lists that hold two patients who have something, and between them nobody that there is.
///
/// # Errors
/// If the server cannot be had.
pub(crate) async fn long_lists(
    upstream: &Upstream,
    way: Way<'_>,
    pair: [&Id; 2],
    form: PatientForm,
    counts: Option<CountMethod>,
) -> Result<LongLists, SearchError> {
    let probe = Probe { upstream, way, pair, form };
    let usual = Lists::IN_A_URL;
    let mut url_most_bytes = Some(0);
    for share in SHARES {
        let lists = Lists { patients: usual.patients.div_ceil(share), bytes: usual.bytes / share };
        match probe.holds(lists, Manner::Get).await? {
            Some(true) => {
                url_most_bytes = (share > 1).then(|| u32::try_from(lists.bytes).unwrap_or(0));
                break;
            }
            Some(false) => {}
            // They are too many to be compared: nothing speaks against what servers usually take.
            None => return Ok(LongLists { url_most_bytes: None, post: false }),
        }
    }
    let post = probe.holds(Lists::IN_A_FORM, Manner::Post).await? == Some(true)
        && probe.tells_apart().await?
        && probe.counts(counts).await?;
    Ok(LongLists { url_most_bytes, post })
}

struct Probe<'a> {
    upstream: &'a Upstream,
    way: Way<'a>,
    pair: [&'a Id; 2],
    form: PatientForm,
}

impl Probe<'_> {
    /// Whether a list of that length finds what both patients alone have; `None` if that is too much to be compared.
    async fn holds(&self, lists: Lists, manner: Manner) -> Result<Option<bool>, SearchError> {
        let [first, last] = self.pair;
        let between = fillers(lists, self.pair);
        let long: Vec<&Id> = std::iter::once(first).chain(&between).chain([last]).collect();
        for _ in 0..TRIES {
            let mut both = BTreeSet::new();
            for patient in self.pair {
                let Some(found) = self.found(&[patient], Manner::Get).await? else { return Ok(None) };
                both.extend(found);
            }
            let found = self.found(&long, manner).await?;
            if found.is_none() || found.as_ref() == Some(&both) {
                return Ok(Some(found.is_some()));
            }
        }
        Ok(Some(false))
    }

    /// Whether a form's parameters are read at all: what one patient has the other has not, and both find it so.
    async fn tells_apart(&self) -> Result<bool, SearchError> {
        for _ in 0..TRIES {
            let mut sets = Vec::new();
            for patient in self.pair {
                let by_get = self.found(&[patient], Manner::Get).await?;
                let by_post = self.found(&[patient], Manner::Post).await?;
                sets.push((by_get.clone(), by_post == by_get && by_get.is_some()));
            }
            if let [(first, true), (other, true)] = sets.as_slice()
                && first != other
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a form is counted as a URL is, where counts are relied on.
    async fn counts(&self, method: Option<CountMethod>) -> Result<bool, SearchError> {
        let Some(method) = method else { return Ok(true) };
        for _ in 0..TRIES {
            let query = self.query(&self.pair);
            let by_get = allowed(self.upstream.count(&query, method).await)?.and_then(|(count, _)| count);
            let by_post = query.sent(Manner::Post);
            let by_post = allowed(self.upstream.count(&by_post, method).await)?.and_then(|(count, _)| count);
            if by_get.is_some() && by_get == by_post {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn query(&self, patients: &[&Id]) -> SearchQuery {
        let query = SearchQuery::new(self.way.resource_type).param(self.way.link, list(patients, self.form));
        self.way.narrowing.map_or(query.clone(), |narrowing| narrowing.narrow(query))
    }

    /// What a search finds, page by page; `None` where it is refused, has no end, or is posted and has a second page,
    /// to which the way is another one with each server.
    async fn found(&self, patients: &[&Id], manner: Manner) -> Result<Option<BTreeSet<Id>>, SearchError> {
        let query = self.query(patients).count(PAGE).ids_only().sent(manner);
        let Some(first) = allowed(page(self.upstream, query).await)? else { return Ok(None) };
        let mut found: BTreeSet<_> = first.entries.into_iter().map(|entry| entry.id).collect();
        let mut next = first.next;
        for _ in 1..MOST_PAGES {
            let Some(link) = next.take_if(|_| manner == Manner::Get) else { break };
            let scope = crate::fhir::bundle::Scope::of(self.way.resource_type);
            let answer = match self.upstream.next(&link, scope, Room::Share).await {
                // A list that is known no longer can be had anew, but not by this probe.
                Err(SearchError::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. }) => return Ok(None),
                other => other,
            };
            let Some(mut answer) = allowed(answer)? else { return Ok(None) };
            next = answer.page.next.take();
            found.extend(std::mem::take(&mut answer.page.entries).into_iter().map(|entry| entry.id));
        }
        Ok(next.is_none().then_some(found))
    }
}

/// Ids that no patient has, as many and as long as a list of that length takes beside two others.
fn fillers(lists: Lists, pair: [&Id; 2]) -> Vec<Id> {
    let taken: usize = pair.iter().map(|id| id.as_str().len() + AROUND).sum();
    let count = lists.patients.saturating_sub(pair.len());
    let length = (lists.bytes.saturating_sub(taken) / count.max(1)).saturating_sub(AROUND).clamp(20, 64);
    let width = length.saturating_sub(FILLER.len());
    let fillers = (0..count).filter_map(|number| Id::parse(&format!("{FILLER}{number:0width$}")).ok());
    let most = lists.bytes.saturating_sub(taken) / (length + AROUND);
    fillers.take(most).collect()
}

const FILLER: &str = "offtake-probe-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_filled_to_its_length_with_ids_of_nobody() {
        let id = |text: &str| Id::parse(text).expect("an id");
        let pair = [&id("a"), &id("018f4e5a-0000-7000-8000-000000000000")];
        for lists in [Lists::IN_A_URL, Lists::IN_A_FORM, Lists { patients: 13, bytes: 425 }] {
            let fillers = fillers(lists, pair);
            let bytes: usize = fillers.iter().chain(pair).map(|id| id.as_str().len() + AROUND).sum();
            assert!(bytes <= lists.bytes && bytes + 64 + AROUND > lists.bytes, "{bytes} of {lists:?}");
            assert!(fillers.len() + 2 <= lists.patients && fillers.len() + 4 > lists.patients, "{}", fillers.len());
            let distinct: BTreeSet<_> = fillers.iter().collect();
            assert_eq!(distinct.len(), fillers.len());
        }
    }
}
