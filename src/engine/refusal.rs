//! Patients whom the server does not let be searched, as where a record is closed to all but a few (break the glass).

use super::read::{ReadError, Reader};
use crate::fhir::bundle::Scope as PageScope;
use crate::plan::slice::{Scope, Slice};
use crate::upstream::client::{Room, SearchError};

/// Other patients who are asked for until one of them is answered.
const OTHERS_ASKED: usize = 4;
/// Patients who may be refused, where they are no more than a tenth of all.
const MOST_OF_A_FEW: usize = 2;

impl Reader {
    /// Whether it is this one patient alone whom the server refuses: it answers the same search for another one, and the
    /// patients whom it refused are few. Where credentials have expired everybody is refused.
    pub(super) async fn is_refused_alone(&self, slice: &Slice) -> Result<bool, ReadError> {
        let Some(refused) = slice.patients().map(|members| members.start) else { return Ok(false) };
        let all = self.plan.patients().len();
        let most = (all / 10).max(MOST_OF_A_FEW);
        {
            let mut known = self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            known.insert(refused);
            if known.len() > most {
                return Ok(false);
            }
        }
        for place in others(refused, all) {
            let members = place..place + 1;
            let scope = match &slice.scope {
                Scope::Patients { link, from, .. } => Scope::Patients { link: link.clone(), members, from: *from },
                Scope::Record { .. } => Scope::Record { members },
                Scope::Window(_) | Scope::Ids { .. } => return Ok(false),
            };
            let (query, _) = self.searches(&Slice { scope, ..slice.clone() });
            let page_scope = PageScope::of(slice.resource_type).among_others();
            match self.upstream.page(&query.count(1), page_scope, Room::Share).await {
                // One that is too large to be looked at was given.
                Ok(_) | Err(SearchError::TooLarge { .. }) => return Ok(true),
                Err(SearchError::Refused { .. } | SearchError::Failing { .. }) => {}
                Err(error @ (SearchError::GaveUp { .. } | SearchError::Link)) => return Err(error.into()),
            }
        }
        Ok(false)
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
