//! What attachments hold, read into the resources that lead to it where that is wanted (SEC-24). What cannot be had stays a
//! reference, and that is said.

use bytes::Bytes;

use super::associated::Tie;
use super::pool::Excess;
use super::read::{Accepted, Bar, Read, ReadError, Reader, Received};
use crate::fhir::attachment::{Attachment, Content, Left, with_contents};
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::resource_type::ResourceType;
use crate::plan::slice::Slice;
use crate::smart::admit::Inlining;
use crate::upstream::budget::Reservation;
use crate::upstream::client::{Room, SearchError};

/// Attachments of one resource that are read.
const MOST: usize = 32;
/// A resource of more bytes stays as it is: it is held beside what its attachments hold.
const LONGEST: usize = 1024 * 1024;
/// Resources of a slice that is not cut any further for what their attachments hold: it is read while nothing else is.
const FEWEST: usize = 8;
/// What a Binary has beside its data, and what stands around it.
const AROUND: usize = 64 * 1024;

/// What one Binary came to.
enum Had {
    /// It is a Binary that may leave so.
    Binary(Entry, Reservation),
    Left(Left),
    /// Policy keeps it back, and nobody is told so (SEC-26).
    ByPolicy,
}

impl Reader {
    /// The attachments of a resource that are to be read, if it leaves.
    fn attachments_of(&self, slice: &Slice, resource: &Received) -> Vec<Attachment> {
        let Received { entry, was_there, bar, tie, .. } = resource;
        let is_asked_for = self.plan.inlines.is_some() && self.plan.asks_for(slice, entry.last_updated);
        if !is_asked_for || !was_there || *bar != Bar::None || *tie == Tie::Apart {
            return Vec::new();
        }
        self.grant.attachments(entry, *tie == Tie::Associated)
    }

    /// Whether a resource has attachments that are to be read.
    pub(super) fn is_to_be_filled(&self, slice: &Slice, resource: &Received) -> bool {
        resource.entry.line.len() <= LONGEST && !self.attachments_of(slice, resource).is_empty()
    }

    /// Notes of resources that are too long to be held that their attachments stay references.
    pub(super) async fn leave_long_ones(&self, slice: &Slice, resources: &mut [Received]) -> Result<(), ReadError> {
        for resource in resources.iter_mut().filter(|resource| resource.entry.line.len() > LONGEST) {
            // Nothing of them is read.
            self.fill(slice, resource, Room::Share).await?;
        }
        Ok(())
    }

    /// An accepted slice with what its attachments hold; in parts if that takes more memory than there is.
    pub(super) async fn filled(&self, slice: &Slice, can_be_cut: bool, read: Read) -> Result<Read, ReadError> {
        if self.plan.inlines.is_none() {
            return Ok(read);
        }
        let Read::Accepted(mut accepted) = read else { return Ok(read) };
        let count = accepted.resources.len();
        let Accepted { resources, reservation, .. } = &mut accepted;
        let mut bytes = reservation.as_ref().map_or(0, Reservation::bytes);
        for (done, resource) in resources.iter_mut().enumerate() {
            let before = resource.entry.line.clone();
            let is_held = match self.fill(slice, resource, Room::Free).await {
                Ok(0) => continue,
                Ok(more) => {
                    bytes = bytes.saturating_add(more);
                    match reservation {
                        Some(reservation) => reservation.grow(bytes),
                        None if bytes <= self.limits.target_bytes => true,
                        // They were asked for one by one, and hold no memory that could grow.
                        None => {
                            bytes -= more;
                            resource.entry.line = before;
                            resource.left = vec![Left::TooLarge];
                            continue;
                        }
                    }
                }
                Err(ReadError::Search(SearchError::TooLarge { .. })) => false,
                Err(error) => return Err(error),
            };
            if is_held {
                continue;
            }
            if !can_be_cut || count <= FEWEST {
                return Ok(Read::Large);
            }
            // Smaller parts fit beside others.
            self.cap(slice.resource_type, done.max(count / 4).max(FEWEST));
            return Ok(Read::TooMany(Excess::counted(u64::try_from(count).ok())));
        }
        Ok(Read::Accepted(accepted))
    }

    /// Reads what the attachments of a resource hold into it, and gives by how many bytes it has grown; notes what stays a
    /// reference. With [`Room::Free`] what is held until then is made room for at once, or it is too large.
    pub(super) async fn fill(&self, slice: &Slice, resource: &mut Received, room: Room) -> Result<usize, ReadError> {
        let attachments = self.attachments_of(slice, resource);
        let Some(most) = self.plan.inlines.filter(|_| !attachments.is_empty()) else { return Ok(0) };
        // Of all of one resource together, as it stands in a line.
        let mut left = usize::try_from(most).unwrap_or(usize::MAX).div_ceil(3).saturating_mul(4);
        let mut why = Vec::new();
        let mut binaries = Vec::new();
        for (number, attachment) in attachments.iter().enumerate() {
            let had = if !self.grant.has_binaries() {
                Had::Left(Left::NotPermitted)
            } else if number >= MOST || resource.entry.line.len() > LONGEST {
                Had::Left(Left::TooLarge)
            } else {
                self.binary(attachment, &resource.entry, left, room).await?
            };
            match had {
                Had::Left(left) => why.push(left),
                Had::ByPolicy => {}
                Had::Binary(binary, held) => match Content::of(&binary.line).map(|content| content.len()) {
                    None => why.push(Left::NotGiven),
                    Some(bytes) if bytes > left => why.push(Left::TooLarge),
                    Some(bytes) => {
                        left -= bytes;
                        // Whoever waits for memory may hold none.
                        let held = (room == Room::Free).then_some(held);
                        binaries.push((attachment, binary, held));
                    }
                },
            }
        }
        resource.left = why;
        let contents: Vec<_> = binaries
            .iter()
            .filter_map(|(attachment, binary, _)| Some((*attachment, Content::of(&binary.line)?)))
            .collect();
        if contents.is_empty() {
            return Ok(0);
        }
        let contents: Vec<_> = contents.iter().map(|(attachment, content)| (*attachment, content)).collect();
        resource.entry.line = Bytes::from(with_contents(&resource.entry.line, &contents));
        Ok(resource.entry.line.len())
    }

    /// Asks for the Binary that an attachment leads to.
    async fn binary(&self, attachment: &Attachment, of: &Entry, left: usize, room: Room) -> Result<Had, ReadError> {
        if attachment.is_version {
            return Ok(Had::Left(Left::NotGiven));
        }
        let most = left.saturating_add(AROUND);
        // One that the server fails to give is no reason to wait for it.
        let upstream = self.upstream.giving_back();
        let mut rooms = if room == Room::Free { vec![Room::Free] } else { vec![Room::Alone, Room::Share] };
        let (bytes, held) = loop {
            let last = rooms.len() == 1;
            let Some(room) = rooms.pop() else { return Ok(Had::Left(Left::TooLarge)) };
            match upstream.binary(&attachment.binary, most, room).await {
                // As it came, as it is looked at, and as it is written.
                Ok(Some((bytes, mut held))) => {
                    if held.grow(bytes.len().saturating_mul(3)) {
                        break (bytes, held);
                    }
                    if room == Room::Free {
                        return Err(SearchError::TooLarge { bytes: bytes.len(), alone: false }.into());
                    }
                }
                Err(SearchError::TooLarge { alone: false, .. }) if !last => {}
                Ok(None) | Err(SearchError::Refused { .. } | SearchError::Failing { .. } | SearchError::Link) => {
                    return Ok(Had::Left(Left::NotGiven));
                }
                Err(SearchError::TooLarge { alone: true, .. }) => return Ok(Had::Left(Left::TooLarge)),
                Err(error) => return Err(error.into()),
            }
        };
        let scope = Scope::of(ResourceType::BINARY).with_references();
        let Some(binary) = Entry::parse(&bytes, scope).filter(|binary| binary.id == attachment.binary) else {
            return Ok(Had::Left(Left::NotGiven));
        };
        Ok(match self.grant.may_inline(&binary, of) {
            Inlining::Permitted => Had::Binary(binary, held),
            Inlining::OfOthers => Had::Left(Left::OfOthers),
            Inlining::ByPolicy => Had::ByPolicy,
        })
    }
}
