//! What a server's `_history` tells: what was deleted of a type, and the versions of one resource.

use std::sync::{Mutex, PoisonError};

use http::StatusCode;

use super::{Ask, Miss, Raw, Room, SearchError, Upstream};
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::datatypes::{Id, Instant};
use crate::fhir::history::{HistoryPage, LookBack, NotAHistory, Then};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::escape;
use crate::upstream::link;

/// Versions asked for on one page of a type's history.
pub(crate) const HISTORY_PAGE: u32 = 500;
/// Versions asked for on one page of a resource's history: the wanted one is among the newest.
const VERSIONS_PAGE: u32 = 5;
/// Pages of a resource's history that are looked through.
const MOST_PAGES: usize = 1_000;

impl Upstream {
    /// The first page of what was changed of a type since an instant.
    pub(crate) async fn history(
        &self,
        resource_type: ResourceType,
        since: Instant,
        count: u32,
    ) -> Result<HistoryPage, SearchError> {
        let mut query = String::new();
        escape(&since.to_string(), &mut query);
        let target = format!("{}/{resource_type}/_history?_since={query}&_count={count}", self.base_path());
        self.history_at(&target, resource_type).await
    }

    /// The page of a history that a `next` link leads to.
    pub(crate) async fn next_of_history(
        &self,
        next: &str,
        resource_type: ResourceType,
    ) -> Result<HistoryPage, SearchError> {
        let target = link::anchor(self.base_path(), next).ok_or(SearchError::Link)?;
        self.history_at(&target, resource_type).await
    }

    /// The newest versions of one resource.
    pub(crate) async fn versions(&self, resource_type: ResourceType, id: &Id) -> Result<HistoryPage, SearchError> {
        let target = format!("{}/{resource_type}/{id}/_history?_count={VERSIONS_PAGE}", self.base_path());
        self.history_at(&target, resource_type).await
    }

    /// The version of a resource that was current at an instant, as its history tells; `None` if it was not there.
    ///
    /// # Errors
    /// [`SearchError::TooLarge`] where a single version is, or where memory has to be free at this moment and is not.
    pub(crate) async fn version_at(
        &self,
        resource_type: ResourceType,
        id: &Id,
        instant: Instant,
        scope: Scope,
        room: Room,
    ) -> Result<Option<Entry>, SearchError> {
        let mut found = Err(SearchError::Link);
        let ways = [(VERSIONS_PAGE, room), (1, room), (1, Room::Alone)];
        for (count, room) in ways.into_iter().filter(|(_, way)| room != Room::Free || *way == Room::Free) {
            found = self.look_back(resource_type, id, (instant, scope), count, room).await;
            if !matches!(found, Err(SearchError::TooLarge { alone: false, .. })) {
                break;
            }
        }
        found
    }

    async fn look_back(
        &self,
        resource_type: ResourceType,
        id: &Id,
        (instant, scope): (Instant, Scope),
        count: u32,
        room: Room,
    ) -> Result<Option<Entry>, SearchError> {
        let mut target = format!("{}/{resource_type}/{id}/_history?_count={count}", self.base_path());
        let look_back = Mutex::new(LookBack::new(id, scope, instant));
        for _ in 0..MOST_PAGES {
            let read = |Raw { bytes, .. }: Raw| {
                let mut look_back = look_back.lock().unwrap_or_else(PoisonError::into_inner);
                look_back.page(bytes.as_ref()).map_err(unusable)
            };
            match self.patiently(Ask::get(&target), &room, read).await? {
                Then::Version(version) => return Ok(Some(*version)),
                Then::Absent => return Ok(None),
                Then::Before(next) => target = link::anchor(self.base_path(), &next).ok_or(SearchError::Link)?,
            }
        }
        Err(SearchError::Link)
    }

    async fn history_at(&self, target: &str, resource_type: ResourceType) -> Result<HistoryPage, SearchError> {
        let read = |Raw { bytes, .. }: Raw| HistoryPage::parse(bytes.as_ref(), resource_type).map_err(unusable);
        let ask = Ask::get(target);
        match self.patiently(ask, &Room::Share, read).await {
            Err(SearchError::TooLarge { alone: false, .. }) => self.patiently(ask, &Room::Alone, read).await,
            other => other,
        }
    }
}

fn unusable(_: NotAHistory) -> Miss {
    Miss::Final(SearchError::Refused { status: StatusCode::OK, issues: Vec::new() })
}
