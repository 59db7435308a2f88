//! The questions that a slice is read by.

use std::sync::atomic::Ordering;

use super::pace::PageSize;
use super::refused::FOR_LENGTH;
use super::{Reader, range};
use crate::engine::accept::Judge;
use crate::fhir::bundle::Scope as PageScope;
use crate::fhir::datatypes::Id;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Prefix, SearchQuery};
use crate::plan::filter::PlannedFilter;
use crate::plan::slice::{Scope, Slice};
use crate::plan::{Cohort, associated};
use crate::profile::{Narrowing, PageTotal, PatientForm};
use crate::upstream::client::{Answer, Room, SearchError};
use crate::upstream::probe::list;

impl Reader {
    /// A count of the slice, where the next reading is to be held against one.
    pub(in crate::engine) async fn count_before(
        &self,
        slice: &Slice,
        judge: &Judge,
    ) -> Result<Option<u64>, SearchError> {
        if !self.wants_count(slice, judge) {
            return Ok(None);
        }
        // A page that proves itself is believed where nobody counts.
        let is_needed = self.holds_pages_to_counts || !self.plan.profile.page_proves_itself();
        if self.is_counted_by_itself(slice) && !is_needed {
            return self.count_if_told(slice, Room::Share).await;
        }
        self.count(slice).await
    }

    /// Whether a reading is to be held against a count.
    pub(super) fn wants_count(&self, slice: &Slice, judge: &Judge) -> bool {
        judge.wants_count(&self.plan.profile) || self.pace(slice.resource_type).counts_first()
    }

    /// How many resources the upstream counts in a slice, if it counts.
    pub(in crate::engine) async fn count(&self, slice: &Slice) -> Result<Option<u64>, SearchError> {
        self.count_in(slice, Room::Share).await
    }

    /// The same where no export is to end for want of a number: `None` if the server refuses or fails to tell it, or if nothing is
    /// free for its answer. A server that is away is waited for.
    pub(in crate::engine) async fn count_if_told(&self, slice: &Slice, room: Room) -> Result<Option<u64>, SearchError> {
        match self.giving_back().count_in(slice, room).await {
            Err(SearchError::Refused { .. } | SearchError::Failing { .. } | SearchError::TooLarge { .. }) => Ok(None),
            told => told,
        }
    }

    async fn count_in(&self, slice: &Slice, room: Room) -> Result<Option<u64>, SearchError> {
        let Some(method) = self.plan.profile.counts else { return Ok(None) };
        let pace = self.pace(slice.resource_type);
        if matches!(slice.scope, Scope::Record { .. }) || pace.uncounted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.upstream.count_in(&self.query(slice), method, room).await {
            // A server that wants to be told more than a patient may not count without it either.
            Err(SearchError::Refused { status, .. })
                if !self.plan.searches(slice).is_empty() && !FOR_LENGTH.contains(&status) =>
            {
                pace.uncounted.store(true, Ordering::Relaxed);
                Ok(None)
            }
            other => Ok(other?.0),
        }
    }

    /// The search that a slice is read by, or the first one and the others; what any of them finds belongs to it.
    pub(in crate::engine) fn searches(&self, slice: &Slice) -> (SearchQuery, Vec<SearchQuery>) {
        let narrow = |narrowing: &Narrowing| narrowing.narrow(self.query(slice));
        match self.plan.searches(slice) {
            [] => (self.query(slice), Vec::new()),
            [first, others @ ..] => (narrow(first), others.iter().map(narrow).collect()),
        }
    }

    /// The first page of a search.
    pub(in crate::engine) async fn first_page(
        &self,
        search: &SearchQuery,
        size: PageSize,
    ) -> Result<Answer, SearchError> {
        let query = self.with_total(search.clone().count(size.count));
        let scope = self.page_scope(search.resource_type());
        let scope = if search.patient().is_some() { scope.among_others() } else { scope };
        self.upstream.reading(size.most).page(&query, scope, size.room).await
    }

    fn with_total(&self, query: SearchQuery) -> SearchQuery {
        if self.plan.profile.page_total == Some(PageTotal::OnRequest) && self.plan.profile.page_proves_itself() {
            query.total_accurate()
        } else {
            query
        }
    }

    /// When some of what a search finds was changed.
    pub(in crate::engine) async fn stamps(&self, search: &SearchQuery, count: u32) -> Result<Answer, SearchError> {
        let query = self.with_total(search.clone().count(count).ids_only());
        self.upstream.page(&query, PageScope::of(search.resource_type()), Room::Share).await
    }

    /// The page after `next`.
    pub(in crate::engine) async fn next_page(
        &self,
        slice: &Slice,
        next: &str,
        room: Room,
    ) -> Result<Answer, SearchError> {
        let scope = self.page_scope(slice.resource_type);
        let scope = if matches!(slice.scope, Scope::Record { .. }) { scope.among_others() } else { scope };
        self.upstream.next(next, scope, room).await
    }

    /// A search of a slice's type for nothing but what its filter lets pass.
    pub(in crate::engine) fn of_step(&self, slice: &Slice) -> SearchQuery {
        let all = SearchQuery::new(slice.resource_type);
        match self.plan.filter(slice) {
            Some(PlannedFilter { filter, .. }) => filter.narrow(all),
            None => all,
        }
    }

    pub(in crate::engine) fn query(&self, slice: &Slice) -> SearchQuery {
        let query = self.of_step(slice).sent(self.plan.manner(slice));
        let from = |query: SearchQuery, from| match from {
            Some(from) => query.last_updated(Prefix::GreaterOrEqual, from),
            None => query,
        };
        match &slice.scope {
            Scope::Window(window) => {
                let query = from(query, window.from);
                match window.until {
                    Some(until) => query.last_updated(Prefix::LessThan, until),
                    None => query,
                }
            }
            Scope::Patients { link, members, from: bound } => {
                let form = if &**link == "_id" { PatientForm::Id } else { self.plan.profile.patients };
                let members: Vec<_> = range(self.plan.asked_of(slice.resource_type), members).iter().collect();
                from(query.param(String::from(&**link), list(&members, form)), *bound)
            }
            Scope::Record { members } => match range(self.plan.patients(), members) {
                [patient, ..] => SearchQuery::record_of(patient.clone(), slice.resource_type),
                [] => query,
            },
            Scope::Targets { lines, .. } => query.param("target", associated::value(self.targets.asked(lines))),
            Scope::Ids { list } => {
                let ids: Vec<_> = self.ids(slice.resource_type, list).iter().collect();
                query.param("_id", self::list(&ids, PatientForm::Id))
            }
        }
    }

    /// What a search by other ids than those of a slice, which is one by ids, begins with: of patients it is for what is as new.
    pub(in crate::engine) fn by_ids(&self, slice: &Slice) -> SearchQuery {
        let query = self.of_step(slice);
        match slice.scope {
            Scope::Patients { from: Some(from), .. } => query.last_updated(Prefix::GreaterOrEqual, from),
            Scope::Patients { from: None, .. }
            | Scope::Window(_)
            | Scope::Record { .. }
            | Scope::Targets { .. }
            | Scope::Ids { .. } => query,
        }
    }

    pub(in crate::engine) fn ids(&self, resource_type: ResourceType, list: &std::ops::Range<u32>) -> &[Id] {
        self.references.get(&resource_type).map_or(&[], |ids| range(ids, list))
    }

    pub(in crate::engine) fn page_scope(&self, resource_type: ResourceType) -> PageScope {
        match self.plan.cohort {
            Cohort::Everything if resource_type == ResourceType::PROVENANCE && self.plan.looks_at_targets() => {
                PageScope::of(resource_type).with_references()
            }
            // What tells of records that are kept back is looked for.
            Cohort::Everything if self.grant.keeps_back_resources() => PageScope::of(resource_type).with_references(),
            Cohort::Everything => PageScope::of(resource_type),
            Cohort::AllPatients | Cohort::Members(_) => PageScope::of(resource_type).with_references(),
        }
    }
}
