//! Exports whose lines stand in blocks, one for each patient (`organizeOutputBy`): everything is read by patients, and all of
//! what is read of some patients is written and recorded at once. No sweep follows: whoever is a patient is known before the
//! first one is read, and what changes from then on is stamped after the transaction time.

use std::ops::Range;

use super::cohort::{Lists, batches};
use super::slice::{Phase, Scope, Slice, uncovered};
use super::{ExportPlan, Strategy};
use crate::fhir::resource_type::ResourceType;

/// Patients whose blocks are made together at most, whatever their records take.
pub(crate) const MOST_TOGETHER: u32 = 200;

impl ExportPlan {
    /// The patients of whom nothing is recorded in `read`, in runs of which each is of newcomers or of others.
    pub(crate) fn unread<'a>(&self, read: impl Iterator<Item = &'a Slice>) -> Vec<Range<u32>> {
        // What belongs to some patients is recorded at once: any slice stands for all.
        let read: Vec<_> = read.filter_map(|slice| slice.patients().cloned()).collect();
        let together = Lists { patients: usize::MAX, bytes: usize::MAX };
        let runs = self.batches(ResourceType::PATIENT, together).into_iter();
        runs.flat_map(|run| uncovered(run, read.clone())).collect()
    }

    /// All that is to be read of some patients, Patient resources first: what they refer to is known only afterwards.
    pub(crate) fn slices_of_patients(&self, members: &Range<u32>) -> Vec<Slice> {
        let (own, others): (Vec<ResourceType>, Vec<_>) =
            self.types.keys().partition(|name| **name == ResourceType::PATIENT);
        own.into_iter().chain(others).flat_map(|name| self.slices_of_their(members, name)).collect()
    }

    fn slices_of_their(&self, members: &Range<u32>, name: ResourceType) -> Vec<Slice> {
        let Some(plan) = self.types.get(&name).filter(|plan| !plan.is_empty()) else { return Vec::new() };
        let since = self.horizon.since.filter(|_| self.profile.filters_by_time());
        let from = since.map(|since| self.horizon.floor(since));
        let scopes: Vec<Scope> = match &plan.strategy {
            Strategy::Patients { links, .. } => {
                let by_link = links.iter().flat_map(|link| {
                    let lists = self.parts(members, self.lists(link, name)).into_iter();
                    lists.map(move |members| Scope::Patients { link: link.clone(), members, from })
                });
                by_link.collect()
            }
            Strategy::Records => {
                self.parts(members, Lists::NONE).into_iter().map(|members| Scope::Record { members }).collect()
            }
            // No plan of this kind has one.
            Strategy::Windows | Strategy::Chain | Strategy::Targets => Vec::new(),
        };
        let steps = self.steps(name).into_iter();
        let slices = steps.flat_map(|filter| {
            let with = move |scope| Slice { phase: Phase::Young, resource_type: name, filter, scope };
            scopes.clone().into_iter().map(with)
        });
        slices.map(|slice| if self.is_of_newcomers(&slice) { slice.whole() } else { slice }).collect()
    }

    /// Some patients in lists for one search each.
    fn parts(&self, members: &Range<u32>, lists: Lists) -> Vec<Range<u32>> {
        let asked = self.patients().get(members.start as usize..members.end as usize).unwrap_or_default();
        let place = |range: Range<u32>| members.start + range.start..members.start + range.end;
        batches(asked, lists).into_iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::fhir::compartment::Compartments;
    use crate::fhir::datatypes::{Id, Instant, Millis};
    use crate::plan::{Boundary, Cohort, Horizon, Listed, OnShort, TypePlan};
    use crate::profile::{Profile, TimeFilter};

    fn plan(newcomers: &[&str]) -> ExportPlan {
        let id = |id: &&str| Id::parse(id).expect("an id");
        let by = |links: &[&str]| Strategy::Patients {
            links: links.iter().map(|link| Box::from(*link)).collect(),
            searches: Vec::new(),
        };
        let of = |name: &str, strategy| {
            let plan = TypePlan { strategy, baseline: None, oldest: None, assumed: BTreeSet::new() };
            (ResourceType::parse(name).expect("a type"), plan)
        };
        let windows_until = Millis(1_800_000_000_000);
        let since = Some(Instant::from(Millis(1_700_000_000_000)));
        ExportPlan {
            horizon: Horizon { windows_until, lag_millis: 0, since, until: None, settled: Millis(0), step_millis: 1 },
            profile: Profile {
                last_updated: TimeFilter::Millisecond,
                id_lists: true,
                or_lists: true,
                ..Profile::default()
            },
            types: BTreeMap::from([
                of("Encounter", Strategy::Records),
                of("Observation", by(&["subject", "performer"])),
                of("Patient", by(&["_id"])),
            ]),
            filters: BTreeMap::new(),
            cohort: Cohort::Members(["a", "b", "c", "d", "e"].iter().map(id).collect()),
            compartments: Compartments::R4,
            listed: Listed::default(),
            newcomers: Listed(newcomers.iter().map(id).collect()),
            others: BTreeMap::new(),
            context: Vec::new(),
            by_target: None,
            provenance_of_records: false,
            is_organized: true,
            inlines: None,
            on_short: OnShort::Fail,
            boundary: Boundary::NoLoss,
            tells_deletions_by_difference: false,
            bases: Vec::new(),
        }
    }

    #[test]
    fn everything_of_some_patients_is_read_and_they_themselves_come_first() {
        let slices = plan(&[]).slices_of_patients(&(1..4));
        assert_eq!(slices.first().map(|slice| slice.resource_type), Some(ResourceType::PATIENT));
        let scopes: Vec<_> = slices.iter().map(|slice| &slice.scope).collect();
        let by_link = |wanted: &str| {
            let lists = scopes.iter().filter_map(|scope| match scope {
                Scope::Patients { link, members, .. } if &**link == wanted => Some(members.clone()),
                _ => None,
            });
            lists.collect::<Vec<_>>()
        };
        for link in ["_id", "subject", "performer"] {
            assert_eq!(by_link(link).as_slice(), std::slice::from_ref(&(1..4)), "{link}");
        }
        // A record is one patient's.
        let records = scopes.iter().filter(|scope| matches!(scope, Scope::Record { members } if members.len() == 1));
        assert_eq!((records.count(), slices.len()), (3, 6));
    }

    #[test]
    fn who_is_recorded_is_not_read_again_and_newcomers_are_read_apart() {
        let plan = plan(&["c"]);
        let runs = [0..2, 2..3, 3..5];
        assert_eq!(plan.unread(std::iter::empty()), runs);
        let read = plan.slices_of_patients(&(3..4));
        assert_eq!(plan.unread(read.iter()), [0..2, 2..3, 4..5]);
        let whole: Vec<_> = runs.iter().flat_map(|run| plan.slices_of_patients(run)).collect();
        assert_eq!(plan.unread(whole.iter()), []);
        for slice in &whole {
            if let Scope::Patients { members, from, .. } = &slice.scope {
                assert_eq!(from.is_none(), *members == (2..3), "{slice:?}");
            }
        }
    }
}
