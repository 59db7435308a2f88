//! `includeAssociatedData`: what is to come along with what was asked for, whatever `_type` says (BD-032, BD-033).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::parameters::Parameter;
use super::{Kickoff, KickoffError, Places, Release, echo};
use crate::fhir::capability::Capability;
use crate::fhir::resource_type::ResourceType;

/// What comes along.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Associated {
    /// Of the Provenance of what is exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) provenance: Option<AssociatedProvenance>,
    /// All of these, as if `_type` had named them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) types: BTreeSet<ResourceType>,
}

/// How much of the Provenance of each resource comes along: of several the least restrictive counts, which is the last one
/// (BD-033).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AssociatedProvenance {
    /// The most recent one, and no other.
    Latest,
    /// All of it.
    Relevant,
}

/// What an operator calls some types by, with the underscore.
pub(crate) type Presets = BTreeMap<String, BTreeSet<ResourceType>>;

/// A value of the parameter, and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) code: String,
    pub(super) location: String,
}

/// The parameter's name.
pub(super) const NAME: &str = "includeAssociatedData";
/// By which Provenance is found of what it is about.
const TARGET: &str = "target";
/// Values that one request may have.
const MOST_VALUES: usize = 64;

/// Source: <https://hl7.org/fhir/uv/bulkdata/CodeSystem/include-associated-data>
const SYSTEM: &str = "http://hl7.org/fhir/uv/bulkdata/CodeSystem/include-associated-data";

/// Reads one parameter, which to 3.0 may have several values.
pub(super) fn read(parameter: &Parameter, release: Release, values: &mut Vec<Value>) -> Result<(), KickoffError> {
    let location = || parameter.location.clone();
    let (system, codes) = parameter.coding(NAME)?;
    if release == Release::Four && codes.contains(',') {
        return Err(KickoffError::List { location: location(), name: NAME });
    }
    for code in codes.split(',') {
        // What others have called so is something else.
        let code = if system.is_none_or(|system| system == SYSTEM) { echo(code.trim()) } else { String::new() };
        values.push(Value { code, location: location() });
        if values.len() > MOST_VALUES {
            return Err(KickoffError::TooMany);
        }
    }
    Ok(())
}

impl AssociatedProvenance {
    fn of(code: &str) -> Option<Self> {
        match code {
            "LatestProvenanceResources" => Some(Self::Latest),
            "RelevantProvenanceResources" => Some(Self::Relevant),
            _ => None,
        }
    }
}

impl Associated {
    pub(crate) fn is_empty(&self) -> bool {
        self.provenance.is_none() && self.types.is_empty()
    }

    /// Every type that comes along.
    pub(crate) fn all_types(&self) -> impl Iterator<Item = ResourceType> + '_ {
        self.provenance.map(|_| ResourceType::PROVENANCE).into_iter().chain(self.types.iter().copied())
    }
}

impl Kickoff {
    /// Settles what comes along. What nobody knows, or the caller `lacks` a scope for, is left out leniently (SEC-22), and else
    /// refused: the latter by whoever looks at scopes.
    ///
    /// # Errors
    /// [`KickoffError::NotAssociated`] for a value that is neither of the guide, where `finds_provenance`, nor one of `presets`.
    pub(crate) fn associate(
        &mut self,
        places: &Places,
        presets: &Presets,
        finds_provenance: bool,
        lacks: impl Fn(ResourceType) -> bool,
    ) -> Result<(), KickoffError> {
        for Value { code, location } in &places.associated {
            let provenance = AssociatedProvenance::of(code).filter(|_| finds_provenance);
            let types = presets.get(code);
            let is_known = provenance.is_some() || types.is_some();
            if !is_known && !places.is_lenient {
                return Err(KickoffError::NotAssociated { location: location.clone(), value: code.clone() });
            }
            let mut named = types.into_iter().flatten().copied().chain(provenance.map(|_| ResourceType::PROVENANCE));
            if !is_known || (places.is_lenient && named.any(&lacks)) {
                self.ignore_associated(code);
                continue;
            }
            self.associated.provenance = self.associated.provenance.max(provenance);
            self.associated.types.extend(types.into_iter().flatten());
        }
        Ok(())
    }

    /// Whether the upstream has what it takes to find the Provenance of a resource; leniently it is done without.
    ///
    /// # Errors
    /// [`KickoffError::NoProvenance`] if not; [`KickoffError::ProvenanceInBlocks`] if it was to be found for blocks, which are
    /// whole before all is there that it could be about.
    pub(crate) fn check_associated(&mut self, places: &Places, capability: &Capability) -> Result<(), KickoffError> {
        let provenance = ResourceType::PROVENANCE;
        let is_found =
            capability.searchable().contains(&provenance) && capability.parameter(provenance, TARGET).is_some();
        let is_organized = self.shape.organized_by.is_some();
        if self.associated.provenance.is_none() || (is_found && !is_organized) {
            return Ok(());
        }
        for Value { code, location } in &places.associated {
            if AssociatedProvenance::of(code).is_none() {
                continue;
            }
            if !places.is_lenient {
                let location = location.clone();
                return Err(if is_organized {
                    KickoffError::ProvenanceInBlocks { location }
                } else {
                    KickoffError::NoProvenance { location }
                });
            }
            self.ignore_associated(code);
        }
        self.associated.provenance = None;
        Ok(())
    }

    fn ignore_associated(&mut self, code: &str) {
        let ignored = format!("{NAME}={code}");
        if !self.ignored.contains(&ignored) {
            self.ignored.push(ignored);
        }
    }

    /// Whether a type may be in the export, by what was asked for.
    pub(crate) fn asks_for(&self, name: ResourceType) -> bool {
        self.types.as_ref().is_none_or(|types| types.contains(&name)) || self.comes_along(name)
    }

    /// Whether a type is to come along whatever `_type` says.
    pub(crate) fn comes_along(&self, name: ResourceType) -> bool {
        self.associated.all_types().any(|along| along == name)
    }

    /// Whether Provenance was asked for by itself, and not only as something of other resources.
    pub(crate) fn asks_for_provenance_itself(&self) -> bool {
        let provenance = ResourceType::PROVENANCE;
        self.types.as_ref().is_none_or(|types| types.contains(&provenance))
            || self.associated.types.contains(&provenance)
    }

    /// Whether of the Provenance of a resource only the latest is wanted. Whoever asks for all of it by a preset as well has all
    /// (BD-033).
    pub(crate) fn asks_for_the_latest_only(&self) -> bool {
        self.associated.provenance == Some(AssociatedProvenance::Latest)
            && !self.associated.types.contains(&ResourceType::PROVENANCE)
    }

    /// Whether the export itself asks for a type by this parameter, beside by patients.
    pub(crate) fn finds_by(&self, name: ResourceType, parameter: &str) -> bool {
        self.associated.provenance.is_some() && name == ResourceType::PROVENANCE && parameter == TARGET
    }
}

#[cfg(test)]
mod tests;
