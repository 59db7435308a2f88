//! What attachments hold, one Binary at a time. It is asked for like any search: in its turn, and within the same memory.

use http::StatusCode;

use super::{Ask, Room, SearchError, Upstream};
use crate::fhir::datatypes::Id;
use crate::fhir::resource_type::ResourceType;
use crate::upstream::budget::Reservation;

impl Upstream {
    /// A Binary of this server as it sends it where JSON is asked for, and the memory that it takes; `None` if it is not there or
    /// deleted. Where else the server would send us for it, nobody goes (SEC-24).
    ///
    /// # Errors
    /// [`SearchError::TooLarge`] for more than `most` bytes, too.
    pub(crate) async fn binary(
        &self,
        id: &Id,
        most: usize,
        room: Room,
    ) -> Result<Option<(Vec<u8>, Reservation)>, SearchError> {
        let target = format!("{}/{}/{id}", self.base_path(), ResourceType::BINARY);
        let ask = Ask { most, ..Ask::get(&target) };
        match self.patiently(ask, &room, |raw| Ok((raw.bytes.into_vec(), raw.reservation))).await {
            Err(SearchError::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. }) => Ok(None),
            other => other.map(Some),
        }
    }
}
