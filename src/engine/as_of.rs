//! Resources as they were at the transaction time, where that is wanted and the server's history tells it.

use http::StatusCode;

use super::provenance::{Known, Looked};
use super::read::{Accepted, Bar, Read, ReadError, Reader, Received};
use crate::fhir::bundle::Entry;
use crate::fhir::datatypes::Instant;
use crate::plan::Boundary;
use crate::plan::slice::Slice;
use crate::upstream::budget::Reservation;
use crate::upstream::client::{Room, SearchError};

impl Reader {
    /// The instant that resources are to be exported as of.
    fn as_of(&self) -> Option<Instant> {
        match self.plan.boundary {
            Boundary::AsOf => Some(self.plan.horizon.transaction_time()),
            Boundary::NoLoss | Boundary::NoHistory(_) | Boundary::Narrowed(_) => None,
        }
    }

    /// An accepted slice as it was; in parts if that takes more memory than there is.
    pub(super) async fn look_back(
        &self,
        slice: &Slice,
        can_be_cut: bool,
        accepted: Accepted,
        known: &Known,
    ) -> Result<Read, ReadError> {
        let Accepted { mut resources, unreadable, summary, issues, mut reservation } = accepted;
        for resource in &mut resources {
            resource.bar = resource.bar.max(self.bar(&resource.entry, known));
            resource.tie = self.tie(slice, &resource.entry, known);
        }
        let mut bytes = reservation.as_ref().map_or(0, Reservation::bytes);
        let mut restored = Vec::with_capacity(resources.len());
        for resource in resources {
            if self.is_too_new(&resource) {
                // SEC-26: what it was before it was labelled does not leave either.
                let bar = if self.grant.bars(&resource.entry) { Bar::ByPolicy } else { resource.bar };
                let resource = Received { bar, ..resource };
                let resource = match self.restore(slice, resource, Room::Free).await {
                    Ok(resource) => resource,
                    Err(ReadError::Search(SearchError::TooLarge { .. })) => return Ok(in_parts(slice, can_be_cut)),
                    Err(error) => return Err(error),
                };
                bytes = bytes.saturating_add(resource.entry.line.len());
                if reservation.as_mut().is_some_and(|reservation| !reservation.grow(bytes)) {
                    return Ok(in_parts(slice, can_be_cut));
                }
                restored.push(resource);
            } else {
                restored.push(resource);
            }
        }
        Ok(Read::Accepted(Accepted { resources: restored, unreadable, summary, issues, reservation }))
    }

    /// Whether a resource is to be exported in an older version, if in any.
    pub(super) fn is_too_new(&self, resource: &Received) -> bool {
        self.as_of().is_some_and(|instant| resource.entry.last_updated.is_some_and(|stamp| stamp > instant))
    }

    /// A resource as it was; it stays out if it was not there.
    pub(super) async fn restore(&self, slice: &Slice, resource: Received, room: Room) -> Result<Received, ReadError> {
        let Some(instant) = self.as_of() else { return Ok(resource) };
        let scope = self.page_scope(resource.entry.resource_type);
        let Entry { resource_type, id, .. } = &resource.entry;
        let then = match self.upstream.version_at(*resource_type, id, instant, scope, room).await {
            // It was deleted since, and some servers know nothing of what is gone.
            Err(SearchError::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. })
                if room == Room::Free || self.upstream.read(*resource_type, id).await?.is_none() =>
            {
                None
            }
            then => then?,
        };
        let Some(entry) = then else { return Ok(Received { was_there: false, ..resource }) };
        // It may have told of other records then, or have been about others.
        let known = match room {
            Room::Free => match self.look_at_whom_they_tell_of(std::iter::once(&entry), Known::default()).await? {
                Looked::All(known) => known,
                Looked::NoRoom(..) => return Err(SearchError::TooLarge { bytes: 0, alone: false }.into()),
            },
            Room::Share | Room::Alone => self.look_at_whom_it_tells_of(&entry).await?,
        };
        let bar = resource.bar.max(self.bar(&entry, &known));
        let tie = self.tie_then(slice, &entry, &known).await?;
        Ok(Received { entry, bar, tie, ..resource })
    }
}

/// How a slice is read of which more has to be held than fits beside the others.
fn in_parts(slice: &Slice, can_be_cut: bool) -> Read {
    if can_be_cut && slice.is_list() { Read::InHalves } else { Read::Large }
}
