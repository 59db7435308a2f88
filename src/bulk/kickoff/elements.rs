//! `_elements`: what is wanted of each resource (BD-027).

use std::collections::BTreeMap;

use super::parameters::Parameter;
use super::{Kickoff, KickoffError, Places, Release, echo, values};
use crate::fhir::compartment::Compartments;
use crate::fhir::elements::{RootElement, Wanted};
use crate::fhir::resource_type::ResourceType;

/// Elements that one request may name.
pub(super) const MOST_ELEMENTS: usize = 1_000;

/// Adds what one parameter names.
pub(super) fn read(
    parameter: &Parameter,
    release: Release,
    elements: &mut Option<Wanted>,
    places: &mut BTreeMap<String, String>,
) -> Result<(), KickoffError> {
    let wanted = elements.get_or_insert_default();
    for name in values(parameter, "_elements", release)? {
        let location = || parameter.location.clone();
        let element: RootElement =
            name.trim().parse().map_err(|_| KickoffError::NotAnElement { location: location(), name: echo(name) })?;
        places.entry(element.to_string()).or_insert_with(location);
        wanted.insert(element);
        if wanted.len() > MOST_ELEMENTS {
            return Err(KickoffError::TooManyElements { location: location() });
        }
    }
    Ok(())
}

impl Kickoff {
    /// Holds `_elements` against what the version of FHIR has.
    ///
    /// # Errors
    /// [`KickoffError::NotAnElement`] for an element that no type has, and [`KickoffError::ElementsOf`] for a type of which
    /// nobody knows what it cannot do without.
    pub(super) fn check_elements(
        &self,
        places: &Places,
        types: &[ResourceType],
        version: Compartments,
    ) -> Result<(), KickoffError> {
        let Some(elements) = &self.elements else { return Ok(()) };
        if let Some(unknown) = elements.unknown(version) {
            let name = unknown.to_string();
            let location = places.elements.get(&name).cloned().unwrap_or_else(|| "http._elements".to_owned());
            return Err(KickoffError::NotAnElement { location, name });
        }
        match Wanted::unknown_type(types, version) {
            Some(name) => Err(KickoffError::ElementsOf { location: places.of(name), name }),
            None => Ok(()),
        }
    }
}
