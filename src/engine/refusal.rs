//! Patients whom the server does not let be searched, as where a record is closed to all but a few (break the glass).

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::read::{ReadError, Reader};
use crate::fhir::bundle::Scope as PageScope;
use crate::job::checkpoint::SliceRecord;
use crate::plan::slice::{Scope, Slice};
use crate::upstream::client::{Room, SearchError};

/// Other patients who are asked for until one of them is answered.
const OTHERS_ASKED: usize = 4;
/// The pause before a refused patient is asked for once more.
const REST: Duration = Duration::from_secs(1);
/// Patients who may be refused where a tenth of all is less.
const MOST_OF_A_FEW: usize = 2;

/// What a refusal of one patient says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusalOf {
    /// This one alone is refused.
    One,
    /// The server refuses others as well, or too many: it is no matter of single patients.
    Many,
    /// It answers now.
    Nobody,
}

impl Reader {
    /// Whether it is this one patient alone whom the server refuses: it answers the same search for another one, refuses
    /// this one after that once more, and the patients whom it refused are few. Where credentials have expired everybody
    /// is refused, and where a gateway refuses what comes too fast anybody is.
    pub(super) async fn refusal(&self, slice: &Slice) -> Result<RefusalOf, ReadError> {
        // Of others than patients nobody closes a single record.
        if self.plan.others.contains_key(&slice.resource_type) {
            return Ok(RefusalOf::Many);
        }
        let Some(refused) = slice.patients().map(|members| members.start) else { return Ok(RefusalOf::Many) };
        let all = self.plan.patients().len();
        let mut is_answered = false;
        for place in others(refused, all) {
            is_answered = self.answers(slice, place).await?;
            if is_answered {
                break;
            }
        }
        if !is_answered {
            return Ok(RefusalOf::Many);
        }
        // Once it is known to be so, it is so for each of the patient's types.
        if !self.refused_ones().contains(&refused) {
            self.upstream.rest(REST).await;
            if self.answers(slice, refused).await? {
                return Ok(RefusalOf::Nobody);
            }
        }
        let mut known = self.refused_ones();
        known.insert(refused);
        Ok(if known.len() <= (all / 10).max(MOST_OF_A_FEW) { RefusalOf::One } else { RefusalOf::Many })
    }

    /// What earlier lives of the job have recorded counts as well.
    pub(super) fn refused_before<'a>(&self, slices: impl Iterator<Item = &'a SliceRecord>) {
        let refused = slices.filter(|record| record.refused);
        let places = refused.filter_map(|record| record.slice.patients()).map(|members| members.start);
        self.refused_ones().extend(places);
    }

    fn refused_ones(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the search of a slice is answered for the patient at `place`.
    async fn answers(&self, slice: &Slice, place: u32) -> Result<bool, ReadError> {
        let members = place..place + 1;
        let scope = match &slice.scope {
            Scope::Patients { link, from, .. } => Scope::Patients { link: link.clone(), members, from: *from },
            Scope::Record { .. } => Scope::Record { members },
            Scope::Window(_) | Scope::Ids { .. } | Scope::Targets { .. } => return Ok(false),
        };
        let (query, _) = self.searches(&Slice { scope, ..slice.clone() });
        let page_scope = PageScope::of(slice.resource_type).among_others();
        match self.upstream.page(&query.count(1), page_scope, Room::Share).await {
            // One that is too large to be looked at was given.
            Ok(_) | Err(SearchError::TooLarge { .. }) => Ok(true),
            Err(SearchError::Refused { .. } | SearchError::Failing { .. }) => Ok(false),
            Err(error @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => {
                Err(error.into())
            }
        }
    }
}

/// Places of some others in a list of `all`, the nearest first and one from far away.
fn others(place: u32, all: usize) -> impl Iterator<Item = u32> {
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    let near = [place.checked_add(1), place.checked_sub(1)];
    let far = all.checked_div(2).and_then(|half| place.checked_add(half)).map(|sum| sum % all.max(1));
    let places = near.into_iter().chain([far, place.checked_add(2)]).flatten();
    places.filter(move |other| *other < all && *other != place).take(OTHERS_ASKED)
}

#[cfg(test)]
mod tests {
    use super::others;

    #[test]
    fn others_are_never_the_one_who_is_refused() {
        for all in 0..8 {
            for place in 0..all {
                let others: Vec<_> = others(place, all as usize).collect();
                assert!(others.iter().all(|other| *other < all && *other != place), "{place} of {all}: {others:?}");
                assert_eq!(others.is_empty(), all <= 1, "{place} of {all}");
            }
        }
    }
}
