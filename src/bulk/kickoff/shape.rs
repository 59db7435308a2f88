//! The parameters that say nothing of what is exported, and only in what shape it comes.

use super::parameters::Parameter;
use super::{KickoffError, echo, once};
use crate::bulk::shape::{FileSizes, Shape};
use crate::fhir::resource_type::ResourceType;

/// Such parameters as they are read.
#[derive(Debug, Default)]
pub(super) struct ShapeParameters {
    allows_partial: Option<bool>,
    smallest: Option<u64>,
    largest: Option<u64>,
    /// Where that one stood.
    largest_at: Option<String>,
    organized_by: Option<ResourceType>,
}

const ALLOWS_PARTIAL: &str = "allowPartialManifests";
const SMALLEST: &str = "_minimumFileSize";
const LARGEST: &str = "_maximumFileSize";
/// By which files are put in order.
pub(super) const ORGANIZED: &str = "organizeOutputBy";

impl ShapeParameters {
    /// Whether a parameter of this name is one of them.
    pub(super) fn know(name: &str) -> bool {
        [ALLOWS_PARTIAL, SMALLEST, LARGEST, ORGANIZED].contains(&name)
    }

    /// Whether it is the wish for an order that can be had.
    pub(super) fn can_organize(parameter: &Parameter) -> bool {
        parameter.name == ORGANIZED && parameter.text(ORGANIZED) == Ok(ResourceType::PATIENT.as_str())
    }

    pub(super) fn take(&mut self, parameter: Parameter) -> Result<(), KickoffError> {
        match parameter.name.as_str() {
            SMALLEST => once(&mut self.smallest, parameter.bytes(SMALLEST)?, &parameter, SMALLEST),
            LARGEST => {
                once(&mut self.largest, parameter.bytes(LARGEST)?, &parameter, LARGEST)?;
                self.largest_at = Some(parameter.location);
                Ok(())
            }
            ORGANIZED if Self::can_organize(&parameter) => {
                once(&mut self.organized_by, ResourceType::PATIENT, &parameter, ORGANIZED)
            }
            ORGANIZED => {
                let value = echo(parameter.text(ORGANIZED)?);
                Err(KickoffError::OrganizedBy { location: parameter.location, value })
            }
            _ => once(&mut self.allows_partial, parameter.truth(ALLOWS_PARTIAL)?, &parameter, ALLOWS_PARTIAL),
        }
    }

    /// What they say together, added to `shape`; and where `_maximumFileSize` stood.
    pub(super) fn end(self, shape: Shape) -> Result<(Shape, Option<String>), KickoffError> {
        let Self { allows_partial, smallest, largest, largest_at, organized_by } = self;
        // BD-046
        if let (Some(smallest), Some(largest), Some(location)) = (smallest, largest, &largest_at)
            && largest <= smallest
        {
            return Err(KickoffError::Sizes { location: location.clone() });
        }
        let file_sizes = FileSizes { smallest, largest };
        let allows_partial = allows_partial.unwrap_or(false);
        Ok((Shape { allows_partial, file_sizes, organized_by, ..shape }, largest_at))
    }
}
