//! A slice to its end: its next links, and the searches that are left of it.

use std::collections::HashSet;

use super::pace::PageSize;
use super::sort::Chain;
use super::{Accepted, ReadError, Reader, Received, Summary};
use crate::engine::accept::Reading;
use crate::fhir::outcome::Issue;
use crate::fhir::search::{Manner, SearchQuery};
use crate::plan::slice::Slice;
use crate::upstream::budget::Reservation;
use crate::upstream::client::{Answer, Room, SearchError};

/// What became of reading a slice to its end.
pub(super) enum Followed {
    ToTheEnd(Walked),
    /// It does not fit into memory.
    TooLarge,
    /// It was posted and has more than a page, or more than fits: its parts fit into URLs and have links to follow.
    NotByPost,
}

pub(super) struct Walked {
    pub(super) resources: Vec<Received>,
    pub(super) reading: Reading,
    issues: Vec<Issue>,
    reservation: Option<Reservation>,
}

impl Walked {
    pub(super) fn accepted(self, summary: Summary) -> Accepted {
        let Self { resources, issues, reservation, .. } = self;
        Accepted { resources, unreadable: Vec::new(), summary, issues, reservation }
    }
}

impl Reader {
    /// Follows next links, and reads the searches that are left of the slice, while everything fits into the first page's
    /// share of memory. What is posted has one page or is read in smaller parts: where its next link leads, and by which
    /// method, is another thing with each server, down to links that have forgotten the filter.
    pub(super) async fn follow(
        &self,
        slice: &Slice,
        (first, asked): (Answer, PageSize),
        others: Vec<SearchQuery>,
    ) -> Result<Followed, ReadError> {
        let is_posted = self.plan.manner(slice) == Manner::Post;
        let mut reading = Reading { total: first.page.total, ..Reading::default() };
        let mut tally = self.tally(slice, &mut reading, &first.page);
        let mut searches = others.into_iter();
        let mut seen = HashSet::with_capacity(first.page.entries.len());
        let mut chain = Chain::default();
        // What the search that is read was asked for: pages of the type may have become larger meanwhile.
        let mut asked = asked.count;
        let mut issues = first.page.outcomes.clone();
        let mut next = first.page.next.clone();
        let mut reservation = first.reservation;
        let mut bytes = first.page.bytes;
        let mut resources = self.sort(slice, first.page, &mut seen, &mut reading);
        loop {
            // What is held already may not be held while others are waited for.
            let answer = if let Some(link) = &next {
                if is_posted {
                    return Ok(Followed::NotByPost);
                }
                chain.step(link, tally.received(&seen))?;
                self.next_page(slice, link, Room::Free).await.map_err(ReadError::of_next)
            } else {
                tally.end(&mut reading);
                let Some(search) = searches.next() else { break };
                chain = Chain::default();
                let size = PageSize { room: Room::Free, most: usize::MAX, ..self.page_size(slice.resource_type) };
                asked = size.count;
                self.first_page(&search, size).await.map_err(ReadError::Search)
            };
            let mut answer = match answer {
                Ok(answer) => answer,
                Err(ReadError::Search(SearchError::TooLarge { .. })) if is_posted => return Ok(Followed::NotByPost),
                Err(ReadError::Search(SearchError::TooLarge { .. })) => return Ok(Followed::TooLarge),
                Err(error) => return Err(error),
            };
            if next.is_some() {
                tally.page(&mut reading, &answer.page);
            } else {
                tally = self.tally(slice, &mut reading, &answer.page);
            }
            bytes += answer.page.bytes;
            drop(answer.reservation); // what is held grows in its place, without waiting
            if bytes > self.limits.slice_bytes() || !reservation.grow(bytes) {
                return Ok(if is_posted { Followed::NotByPost } else { Followed::TooLarge });
            }
            next = answer.page.next.take();
            if is_posted && next.is_none() && answer.page.may_go_on(asked) {
                return Ok(Followed::NotByPost);
            }
            issues.extend(answer.page.outcomes.iter().cloned());
            resources.extend(self.sort(slice, answer.page, &mut seen, &mut reading));
        }
        Ok(Followed::ToTheEnd(Walked { resources, reading, issues, reservation: Some(reservation) }))
    }
}
