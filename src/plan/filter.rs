//! What narrows the types of an export: each of a type's filters is a step of its own, and what any of them finds belongs to
//! it. They overlap, so that their lines are looked up.

use serde::{Deserialize, Serialize};

use super::ExportPlan;
use super::slice::{Phase, Slice};
use crate::fhir::capability::ParameterKind;
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::profile::Narrowing;

/// One of the filters of a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedFilter {
    pub(crate) filter: Filter,
    /// What values its parameters have, in their order.
    pub(crate) kinds: Vec<ParameterKind>,
    /// A resource was found by its own value and excluded by another one. Where nothing was there to show that, nothing is
    /// written before something shows it.
    pub(crate) is_proven: bool,
    /// How many it finds, where the server counts.
    pub(crate) baseline: Option<u64>,
}

/// Which of a type's filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FilterNo(u8);

impl ExportPlan {
    /// Whether a type is narrowed.
    pub(crate) fn is_filtered(&self, resource_type: ResourceType) -> bool {
        self.filters.contains_key(&resource_type)
    }

    /// The steps that read a type: one by each of its filters, or one without any.
    pub(crate) fn steps(&self, resource_type: ResourceType) -> Vec<Option<FilterNo>> {
        match self.filters.get(&resource_type) {
            None => vec![None],
            Some(filters) => (0..u8::MAX).zip(filters).map(|(number, _)| Some(FilterNo(number))).collect(),
        }
    }

    /// What narrows a slice, if its type is narrowed.
    pub(crate) fn filter(&self, slice: &Slice) -> Option<&PlannedFilter> {
        let FilterNo(number) = slice.filter?;
        self.filters.get(&slice.resource_type)?.get(usize::from(number))
    }

    /// Whether no other slice can hold the same resource, so that no line needs to be looked up.
    pub(crate) fn is_disjoint(&self, slice: &Slice) -> bool {
        let is_alone = self.filters.get(&slice.resource_type).is_none_or(|filters| filters.len() < 2);
        slice.phase == Phase::Old && is_alone
    }

    /// How many resources of a type were there when the plan was made, as far as the server counts.
    pub(crate) fn expected(&self, resource_type: ResourceType) -> Option<u64> {
        match self.filters.get(&resource_type) {
            None => self.types.get(&resource_type)?.baseline,
            Some(filters) => filters.iter().map(|filter| filter.baseline).try_fold(0, |sum, count| Some(sum + count?)),
        }
    }
}

impl ExportPlan {
    /// What the longest filter of a type takes of a URL.
    pub(super) fn filter_bytes(&self, resource_type: ResourceType) -> usize {
        let filters = self.filters.get(&resource_type).into_iter().flatten();
        filters.map(|filter| filter.filter.sent_bytes()).max().unwrap_or(0)
    }

    /// Whether the filter of a slice asks by a parameter that these searches ask by.
    pub(super) fn repeats(&self, slice: &Slice, searches: &[Narrowing]) -> bool {
        let is_asked = |name: &str| searches.iter().any(|narrowing| narrowing.names().any(|own| own == name));
        self.filter(slice).is_some_and(|filter| filter.filter.names().any(is_asked))
    }
}
