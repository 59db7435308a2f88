//! The Provenance of what an export holds: which of it is a part of the export, and how it is found. It is read once everything
//! that it could be about is in complete files.

use serde::{Deserialize, Serialize};

use super::cohort::{self, Lists};
use super::slice::{Phase, Slice};
use super::{Cohort, ExportPlan};
use crate::bulk::kickoff::AssociatedProvenance;
use crate::fhir::datatypes::LocalReference;
use crate::fhir::resource_type::ResourceType;

/// Provenance is searched for by the resources that files hold, a list of them at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ByTarget {
    pub(crate) which: AssociatedProvenance,
    /// How long such lists were seen to be taken.
    pub(crate) lists: Lists,
}

impl ByTarget {
    /// `targets` in lists of which each is for one search.
    pub(crate) fn lists(&self, targets: &[LocalReference], beside: usize) -> Vec<std::ops::Range<u32>> {
        cohort::batches_by(targets, self.lists.beside(beside), taken)
    }
}

/// The slash and the comma of a target in a list: as long as they are where a server escapes them in its links, or a gateway on
/// the way.
pub(crate) const AROUND: usize = "%2F".len() + "%2C".len();

/// What a target takes of a list.
pub(crate) fn taken(target: &LocalReference) -> usize {
    target.resource_type.as_str().len() + target.id.as_str().len() + AROUND
}

/// What a search for Provenance of these asks for.
pub(crate) fn value(targets: &[LocalReference]) -> String {
    let named: Vec<_> =
        targets.iter().map(|LocalReference { resource_type, id }| format!("{resource_type}/{id}")).collect();
    named.join(",")
}

impl ExportPlan {
    /// Whether resources of a type are weighed by what others are in the export, so that they are read after those.
    pub(crate) fn is_late(&self, resource_type: ResourceType) -> bool {
        resource_type == ResourceType::PROVENANCE && self.provenance_of_records
    }

    /// Whether of what a slice brings only the most recent one of each of its targets is a part of the export.
    pub(crate) fn is_of_latest(&self, slice: &Slice) -> bool {
        let is_latest = |search: ByTarget| search.which == AssociatedProvenance::Latest;
        slice.phase == Phase::Associated && self.by_target.is_some_and(is_latest)
    }

    /// Whether Provenance has to be looked at for what it is about.
    pub(crate) fn looks_at_targets(&self) -> bool {
        self.provenance_of_records || self.by_target.is_some()
    }

    /// What a search for Provenance by target finds beside a filter.
    pub(crate) fn target_lists(&self, search: ByTarget, targets: &[LocalReference]) -> Vec<std::ops::Range<u32>> {
        search.lists(targets, self.filter_bytes(ResourceType::PROVENANCE))
    }
}

/// How Provenance is read beside that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// Not only as something of other resources.
    pub(crate) itself: bool,
    /// By time or by a filter.
    pub(crate) is_bounded: bool,
    /// It cannot be had but by patient.
    pub(crate) by_patient: bool,
}

/// Whether all Provenance of the resources that an export holds has to be searched for by them: unless it is read as a whole
/// anyhow.
pub(crate) fn is_searched_by_target(cohort: &Cohort, asked: Asked) -> bool {
    let Asked { itself: is_asked_for, is_bounded, by_patient } = asked;
    let is_read_as_a_whole = *cohort == Cohort::Everything && is_asked_for && !is_bounded && !by_patient;
    !is_read_as_a_whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::datatypes::Id;

    /// BD-032
    #[test]
    fn provenance_is_searched_by_target_where_nothing_else_finds_it() {
        let members = Cohort::Members(vec![Id::parse("a").expect("an id")]);
        for (cohort, [itself, is_bounded, by_patient], expected) in [
            (&Cohort::Everything, [true, false, false], false),
            (&Cohort::Everything, [true, false, true], true),
            (&Cohort::Everything, [true, true, false], true),
            (&Cohort::Everything, [false, false, false], true),
            (&Cohort::AllPatients, [true, false, false], true),
            (&members, [true, false, true], true),
        ] {
            let asked = Asked { itself, is_bounded, by_patient };
            assert_eq!(is_searched_by_target(cohort, asked), expected, "{cohort:?} {asked:?}");
        }
    }

    #[test]
    fn lists_of_targets_fit_into_a_url() {
        let target = |number: u32| LocalReference {
            resource_type: ResourceType::PROVENANCE,
            id: Id::parse(&format!("{number:036}")).expect("an id"),
        };
        let targets: Vec<_> = (0..100).map(target).collect();
        let search = ByTarget { which: AssociatedProvenance::Latest, lists: Lists::IN_A_URL };
        let lists = search.lists(&targets, 700);
        assert!(lists.windows(2).all(|pair| pair[0].end == pair[1].start), "{lists:?}");
        assert_eq!(lists.iter().map(ExactSizeIterator::len).sum::<usize>(), 100);
        for list in lists {
            let text = value(&targets[list.start as usize..list.end as usize]);
            assert!(text.len() <= 1_000 && text.split(',').count() == list.len(), "{text}");
        }
    }
}
