//! The times of an export: what the newest change is, and where its windows end.

use std::collections::BTreeMap;

use futures_util::StreamExt;

use super::{PlanError, Planner};
use crate::fhir::bundle::Scope;
use crate::fhir::datatypes::{Instant, Millis};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::{Direction, Prefix, SearchQuery};
use crate::job::Job;
use crate::plan::slice::Grid;
use crate::plan::{BoundaryChoice, Horizon, TypePlan};
use crate::profile::Profile;
use crate::upstream::client::{Room, SearchError};

/// How long before the upstream's time W lies where nothing was ever changed, and how long a write may take to be seen.
const UNSEEN_MILLIS: i64 = 15 * 60 * 1000;

impl Planner {
    pub(super) fn horizon(&self, job: &Job, profile: &Profile, newest: Option<Millis>, now: Millis) -> Horizon {
        let kickoff = &job.kickoff;
        let grid = Grid { step: profile.last_updated.step_millis(), oldest: Millis(0), now };
        let long_ago = Millis(now.0 - UNSEEN_MILLIS);
        let unseen = || match kickoff.since.map(Instant::floor_millis) {
            // What is newest was not looked for, and time goes on.
            Some(since) if !profile.filters_by_time() => since.max(long_ago),
            Some(since) => since,
            None => long_ago,
        };
        Horizon {
            // The newest one that was seen lies in a window; whatever comes later in time does not.
            windows_until: Millis(
                grid.floor(newest.map_or_else(unseen, |newest| Millis(newest.0 + grid.step)).min(now).0),
            ),
            lag_millis: self.lag(newest, grid.step, now),
            since: kickoff.since,
            until: kickoff.until,
            settled: Millis(grid.floor(long_ago.0)),
            step_millis: grid.step,
        }
    }

    /// How long before W the transaction time lies. As of an instant nothing is exported that is newer: at a server where
    /// nothing was written for so long that nothing can be late any more, it is the newest change.
    pub(super) fn lag(&self, newest: Option<Millis>, step: i64, now: Millis) -> i64 {
        let is_at_rest = newest.is_some_and(|newest| now.0 - newest.0 >= UNSEEN_MILLIS);
        if self.boundary == BoundaryChoice::AsOf && is_at_rest { step.min(self.lag_millis) } else { self.lag_millis }
    }

    /// The newest stamp that is not after `now`, to the second before it, where the server does not sort: by whether
    /// anything lies in the later half.
    pub(super) async fn newest_by_halves(
        &self,
        plans: &BTreeMap<ResourceType, TypePlan>,
        now: Millis,
    ) -> Result<Option<Millis>, PlanError> {
        let occupied = plans.iter().filter(|(_, plan)| !plan.is_empty()).map(|(name, _)| *name);
        let mut newest: Option<Millis> = None;
        for name in occupied {
            let failed = |source| PlanError::Search { resource_type: name, source };
            // Only what is newer than the newest of all others matters.
            let mut from = newest.map_or(0, |newest| newest.0 + 1);
            if !self.is_occupied(name, from, now).await.map_err(failed)? {
                continue;
            }
            let mut until = now.0;
            while until - from > 1_000 {
                let middle = from + (until - from) / 2;
                if self.is_occupied(name, middle, now).await.map_err(failed)? { from = middle } else { until = middle }
            }
            newest = newest.max(Some(Millis(until)));
        }
        Ok(newest)
    }

    pub(super) async fn is_occupied(&self, name: ResourceType, from: i64, now: Millis) -> Result<bool, SearchError> {
        let query = SearchQuery::new(name)
            .last_updated(Prefix::GreaterOrEqual, Millis(from))
            .last_updated(Prefix::LessOrEqual, now)
            .count(1)
            .ids_only();
        match self.upstream.page(&query, Scope::of(name), Room::Share).await {
            Ok(answer) => Ok(!answer.page.entries.is_empty()),
            // What is too large to be looked at is there, and so is what makes the server fail.
            Err(SearchError::TooLarge { .. } | SearchError::Failing { .. }) => Ok(true),
            Err(SearchError::Refused { .. }) => Ok(false),
            Err(error @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => Err(error),
        }
    }

    /// Notes each type's oldest stamp and gives the newest one of all that is not after `now`.
    pub(super) async fn edges(
        &self,
        plans: &mut BTreeMap<ResourceType, TypePlan>,
        now: Millis,
    ) -> Result<Option<Millis>, PlanError> {
        let occupied: Vec<_> = plans.iter().filter(|(_, plan)| !plan.is_empty()).map(|(name, _)| *name).collect();
        let asked = occupied.into_iter().flat_map(|name| [(name, Direction::Ascending), (name, Direction::Descending)]);
        let mut answers = futures_util::stream::iter(asked)
            .map(|(name, direction)| async move { (name, direction, self.edge(name, direction, now).await) })
            .buffer_unordered(self.searches);
        let mut newest = None;
        while let Some((name, direction, edge)) = answers.next().await {
            let edge = edge.map_err(|source| PlanError::Search { resource_type: name, source })?;
            match (direction, edge) {
                // Where the server does not sort this type, either end is as good as the other.
                (Direction::Ascending, Some(oldest)) => {
                    newest = newest.max(Some(oldest).filter(|oldest| *oldest <= now));
                    if let Some(plan) = plans.get_mut(&name) {
                        plan.oldest = Some(oldest);
                    }
                }
                (Direction::Descending, Some(edge)) if edge <= now => newest = newest.max(Some(edge)),
                (Direction::Descending, Some(_)) | (_, None) => {}
            }
        }
        Ok(newest)
    }

    pub(super) async fn edge(
        &self,
        name: ResourceType,
        direction: Direction,
        now: Millis,
    ) -> Result<Option<Millis>, SearchError> {
        let query = SearchQuery::new(name)
            .last_updated(Prefix::LessOrEqual, now)
            .sort_last_updated(direction)
            .count(1)
            .ids_only();
        let answer = match self.upstream.page(&query, Scope::of(name), Room::Share).await {
            Err(SearchError::TooLarge { alone: false, .. }) => {
                self.upstream.page(&query, Scope::of(name), Room::Alone).await
            }
            other => other,
        };
        match answer {
            Ok(answer) => {
                Ok(answer.page.entries.iter().find_map(|entry| entry.last_updated).map(Instant::floor_millis))
            }
            Err(SearchError::Refused { .. } | SearchError::TooLarge { .. } | SearchError::Failing { .. }) => Ok(None),
            Err(error @ (SearchError::GaveUp { .. } | SearchError::Link | SearchError::Unauthorized)) => Err(error),
        }
    }
}
