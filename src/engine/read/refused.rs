//! What it means that a slice was refused, or a list taken in part only.

use std::collections::HashSet;

use http::StatusCode;

use super::{Accepted, Read, ReadError, Reader, Received, Summary, range};
use crate::bulk::manifest::Method;
use crate::engine::pool::Excess;
use crate::engine::refusal::RefusalOf;
use crate::fhir::bundle::Scope as PageScope;
use crate::fhir::resource_type::ResourceType;
use crate::plan::slice::{Scope, Slice};
use crate::profile::PatientForm;
use crate::upstream::client::{Room, SearchError};
use crate::upstream::probe::list;

/// How a list is refused that is too long where no more is said than that it is a bad request, or that names somebody who
/// would be refused alone: its halves are asked for, down to one patient.
const FOR_ONE_OF_MANY: [StatusCode; 2] = [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN];

/// How a request is refused for its length.
pub(super) const FOR_LENGTH: [StatusCode; 3] =
    [StatusCode::URI_TOO_LONG, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE];

impl Reader {
    /// What it means that a slice was refused. A list may be too long, or name somebody who is refused alone; and a patient
    /// who was deleted since has no record any more. `None` if it is answered now.
    pub(super) async fn refused(
        &self,
        slice: &Slice,
        error: SearchError,
        counted: Option<u64>,
        attempt: u32,
    ) -> Result<Option<Read>, ReadError> {
        let SearchError::Refused { status, .. } = &error else { return Err(error.into()) };
        let patients =
            slice.patients().map(|members| range(self.plan.asked_of(slice.resource_type), members)).unwrap_or_default();
        let is_long = matches!(&slice.scope, Scope::Targets { lines, .. } if lines.len() > 1);
        let is_refused = match (*status, patients) {
            (status, patients)
                if (is_long || patients.len() > 1)
                    && (FOR_LENGTH.contains(&status) || FOR_ONE_OF_MANY.contains(&status)) =>
            {
                return Ok(Some(Read::TooMany(Excess::counted(counted))));
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, [patient]) if matches!(slice.scope, Scope::Record { .. }) => {
                if self.upstream.read(ResourceType::PATIENT, patient).await?.is_some() {
                    return Err(error.into());
                }
                false
            }
            (StatusCode::FORBIDDEN, [_]) => match self.refusal(slice).await? {
                RefusalOf::One => true,
                RefusalOf::Many => return Err(error.into()),
                RefusalOf::Nobody => return Ok(None),
            },
            _ => return Err(error.into()),
        };
        let method = Method::Unproven;
        let summary =
            Summary { expected: 0, received: 0, short: 0, unreadable: 0, refused: is_refused, reread: attempt, method };
        let (resources, unreadable, issues) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Some(Read::Accepted(Accepted { resources, unreadable, summary, issues, reservation: None })))
    }

    /// Whether a list of ids was taken in part only, as where the server reads so many of them and no more: those that did
    /// not come are asked for once more, the last ones first.
    pub(super) async fn is_list_cut(&self, slice: &Slice, came: &[Received]) -> Result<bool, SearchError> {
        let asked = match &slice.scope {
            Scope::Ids { list } => self.ids(slice.resource_type, list),
            Scope::Patients { link, members, .. } if &**link == "_id" => {
                range(self.plan.asked_of(slice.resource_type), members)
            }
            // How long a list of targets may be was tried out beforehand.
            Scope::Window(_) | Scope::Patients { .. } | Scope::Record { .. } | Scope::Targets { .. } => {
                return Ok(false);
            }
        };
        let came: HashSet<_> = came.iter().map(|received| &received.entry.id).collect();
        let missing: Vec<_> = asked.iter().rev().filter(|id| !came.contains(id)).collect();
        if asked.len() < 2 || missing.is_empty() {
            return Ok(false);
        }
        let count = u32::try_from(missing.len()).unwrap_or(u32::MAX);
        let query = self.by_ids(slice).param("_id", list(&missing, PatientForm::Id));
        let query = query.count(count).ids_only();
        match self.upstream.page(&query, PageScope::of(slice.resource_type), Room::Free).await {
            Ok(answer) => Ok(answer.page.entries.iter().any(|entry| missing.contains(&&entry.id))),
            // Smaller lists can be looked at as well.
            Err(SearchError::TooLarge { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
