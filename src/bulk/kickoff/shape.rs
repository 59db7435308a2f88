//! The parameters that say nothing of what is exported, and only in what shape it comes.

use super::parameters::Parameter;
use super::{KickoffError, once};
use crate::bulk::shape::{FileSizes, Shape};

/// Such parameters as they are read.
#[derive(Debug, Default)]
pub(super) struct ShapeParameters {
    allows_partial: Option<bool>,
    smallest: Option<u64>,
    largest: Option<u64>,
    /// Where that one stood.
    largest_at: Option<String>,
}

const ALLOWS_PARTIAL: &str = "allowPartialManifests";
const SMALLEST: &str = "_minimumFileSize";
const LARGEST: &str = "_maximumFileSize";

impl ShapeParameters {
    /// Whether a parameter of this name is one of them.
    pub(super) fn know(name: &str) -> bool {
        [ALLOWS_PARTIAL, SMALLEST, LARGEST].contains(&name)
    }

    pub(super) fn take(&mut self, parameter: Parameter) -> Result<(), KickoffError> {
        match parameter.name.as_str() {
            SMALLEST => once(&mut self.smallest, parameter.bytes(SMALLEST)?, &parameter, SMALLEST),
            LARGEST => {
                once(&mut self.largest, parameter.bytes(LARGEST)?, &parameter, LARGEST)?;
                self.largest_at = Some(parameter.location);
                Ok(())
            }
            _ => once(&mut self.allows_partial, parameter.truth(ALLOWS_PARTIAL)?, &parameter, ALLOWS_PARTIAL),
        }
    }

    /// What they say together, added to `shape`; and where `_maximumFileSize` stood.
    pub(super) fn end(self, shape: Shape) -> Result<(Shape, Option<String>), KickoffError> {
        let Self { allows_partial, smallest, largest, largest_at } = self;
        // BD-046
        if let (Some(smallest), Some(largest), Some(location)) = (smallest, largest, &largest_at)
            && largest <= smallest
        {
            return Err(KickoffError::Sizes { location: location.clone() });
        }
        let file_sizes = FileSizes { smallest, largest };
        Ok((Shape { allows_partial: allows_partial.unwrap_or(false), file_sizes, ..shape }, largest_at))
    }
}
