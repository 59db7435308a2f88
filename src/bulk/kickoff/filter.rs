//! `_typeFilter`: what narrows single types (BD-035 to BD-039). What cannot be used is refused whatever the client prefers
//! (SEC-22).

use std::collections::{BTreeMap, BTreeSet};

use super::parameters::Parameter;
use super::{Kickoff, KickoffError, Places};
use crate::bulk::shape::Release;
use crate::fhir::capability::Capability;
use crate::fhir::compartment::Compartments;
use crate::fhir::filter::{Escapes, Filter, MOST_FILTERS, TypeFilter};
use crate::fhir::resource_type::ResourceType;
use crate::smart::policy::Level;

/// Filters of one type: each is proven before anything is read, and read in a step of its own.
pub(super) const MOST_OF_A_TYPE: usize = 16;

/// Reads one value, which in the first two releases of the guide may be several filters.
pub(super) fn read(
    parameter: &Parameter,
    release: Release,
    filters: &mut Vec<TypeFilter>,
    places: &mut Vec<(ResourceType, String)>,
) -> Result<(), KickoffError> {
    let text = parameter.text("_typeFilter")?;
    // A query was unescaped already; in a body the filter is as it would stand in a URL.
    let escapes = if parameter.is_from_query() { Escapes::CommasOnly } else { Escapes::Once };
    let location = || parameter.location.clone();
    let read = TypeFilter::parse_list(text, escapes);
    let read = read.map_err(|error| KickoffError::Filter { location: location(), error })?;
    if release == Release::Four && read.len() > 1 {
        return Err(KickoffError::List { location: location(), name: "_typeFilter" });
    }
    for filter in read {
        if filters.contains(&filter) {
            continue;
        }
        let of_type = filters.iter().filter(|other| other.resource_type == filter.resource_type).count();
        if filters.len() == MOST_FILTERS || of_type == MOST_OF_A_TYPE {
            return Err(KickoffError::TooManyFilters { location: location() });
        }
        places.push((filter.resource_type, location()));
        filters.push(filter);
    }
    Ok(())
}

impl Places {
    /// Where the first filter of a type stood.
    pub(crate) fn of_filter(&self, name: ResourceType) -> Option<&str> {
        self.filters.iter().find(|(of, _)| *of == name).map(|(_, location)| location.as_str())
    }
}

impl Kickoff {
    /// A filter of a type that `_type` leaves out can only be a mistake.
    pub(super) fn check_filtered_types(&self, places: &Places) -> Result<(), KickoffError> {
        let Some(types) = &self.types else { return Ok(()) };
        let other = places.filters.iter().find(|(name, _)| !types.contains(name));
        other.map_or(Ok(()), |(name, location)| {
            Err(KickoffError::FilteredNotAsked { location: location.clone(), name: *name })
        })
    }

    /// What narrows each type that is filtered.
    pub(crate) fn alternatives(&self) -> BTreeMap<ResourceType, Vec<Filter>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for TypeFilter { resource_type, filter } in &self.filters {
            all.entry(*resource_type).or_default().push(filter.clone());
        }
        all
    }

    /// The types that are filtered, each once.
    pub(crate) fn filtered_types(&self) -> impl Iterator<Item = ResourceType> {
        let types: BTreeSet<_> = self.filters.iter().map(|filter| filter.resource_type).collect();
        types.into_iter()
    }

    /// Whether the server lists everything that is filtered by, for the very type (SEC-21).
    ///
    /// # Errors
    /// One for the first parameter that is not listed, or by which a patient is named where patients are asked for.
    pub(crate) fn check_filters(
        &self,
        places: &Places,
        capability: &Capability,
        compartments: Compartments,
    ) -> Result<(), KickoffError> {
        for (TypeFilter { resource_type: name, filter }, (_, location)) in self.filters.iter().zip(&places.filters) {
            let (name, location) = (*name, || location.clone());
            if !capability.searchable().contains(&name) {
                return Err(KickoffError::NotExportable { location: location(), name });
            }
            for parameter in filter.names() {
                if names_patients(self.read_at(), compartments, name, parameter) || self.finds_by(name, parameter) {
                    let parameter = parameter.to_owned();
                    return Err(KickoffError::FilterIsUsed { location: location(), name, parameter });
                }
                let Some(kind) = capability.parameter(name, parameter) else {
                    let parameter = parameter.to_owned();
                    return Err(KickoffError::FilterUnlisted { location: location(), name, parameter });
                };
                let checked = filter.check_kind(parameter, kind);
                checked.map_err(|error| KickoffError::Filter { location: location(), error })?;
            }
        }
        Ok(())
    }
}

/// Whether an export of some patients may itself have to ask for a type by this parameter.
pub(crate) fn names_patients(level: Level, compartments: Compartments, name: ResourceType, parameter: &str) -> bool {
    let is_link =
        matches!(parameter, "patient" | "subject") || compartments.links(name).any(|link| link.param == parameter);
    match level {
        Level::System => false,
        Level::Patient | Level::Group => is_link,
    }
}
