//! What of the Bulk Data operation is offered at a base, as a statement says it. Pure.

use std::collections::BTreeSet;

use crate::fhir::capability::Capability;
use crate::fhir::compartment::Compartments;
use crate::fhir::resource_type::ResourceType;

/// Groups that are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum OwnGroups {
    #[default]
    None,
    /// Cohorts that an operator has written down.
    Read,
    /// Cohorts that clients make.
    Made,
}

/// What a statement says of exports.
#[derive(Debug)]
pub(crate) struct Offer<'a> {
    /// Whether there are any.
    pub(crate) is_open: bool,
    /// The types that can be read at all.
    pub(crate) searchable: BTreeSet<ResourceType>,
    /// What belongs to patients, where that is known of the version of FHIR: else there are no exports of patients.
    pub(crate) compartments: Option<Compartments>,
    /// Types that come along with patients.
    pub(crate) context: &'a [ResourceType],
    /// Groups of ours.
    pub(crate) own_groups: OwnGroups,
    /// Whether tokens of SMART Backend Services are wanted.
    pub(crate) has_smart: bool,
    /// Where they are had, as far as that is known.
    pub(crate) token_endpoint: Option<&'a str>,
}

/// What is the same whatever the upstream says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    pub(crate) context: Vec<ResourceType>,
    pub(crate) own_groups: OwnGroups,
    pub(crate) has_smart: bool,
    pub(crate) token_endpoint: Option<String>,
}

impl Terms {
    /// What is offered before an upstream that says this of itself.
    pub(crate) fn before(&self, upstream: &Capability, is_open: bool) -> Offer<'_> {
        Offer {
            is_open,
            searchable: upstream.searchable(),
            compartments: upstream.compartments(),
            context: &self.context,
            own_groups: self.own_groups,
            has_smart: self.has_smart,
            token_endpoint: self.token_endpoint.as_deref(),
        }
    }
}

impl Offer<'_> {
    pub(super) fn has_patients(&self) -> bool {
        self.compartments.is_some()
    }

    /// Whether resources of a type are a part of any export.
    pub(super) fn exports(&self, name: &str) -> bool {
        ResourceType::parse(name).is_some_and(|name| self.searchable.contains(&name))
    }

    /// Whether resources of a type can be a part of exports of patients.
    pub(super) fn exports_with_patients(&self, name: &str) -> bool {
        let (Some(name), Some(compartments)) = (ResourceType::parse(name), self.compartments) else { return false };
        (compartments.hold(name) && !name.left_out_of_patient_exports()) || self.context.contains(&name)
    }

    /// The same of exports of Groups, whose members need not be patients.
    pub(super) fn exports_with_groups(&self, name: &str) -> bool {
        self.exports_with_patients(name) || ResourceType::parse(name).is_some_and(ResourceType::is_member_by_itself)
    }
}
