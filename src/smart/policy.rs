//! What one client may have within its scopes, and how much of it. What a policy does not name it does not restrict. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::labels::Labels;
use crate::fhir::datatypes::Id;
use crate::fhir::elements::Elements;
use crate::fhir::filter::{Filter, TypeFilter};
use crate::fhir::resource_type::ResourceType;

/// At which level an export is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything: `/$export`.
    System,
    /// Whatever belongs to patients: `/Patient/$export`.
    Patient,
    /// The patients of a Group: `/Group/[id]/$export`.
    Group,
}

/// What a client may have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Policy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) levels: Option<BTreeSet<Level>>,
    /// The Groups that it may export.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) groups: Option<BTreeSet<Id>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) types: Option<BTreeSet<ResourceType>>,
    /// Of each of these types only what passes all of its filters.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) required: BTreeSet<TypeFilter>,
    /// By what a client may filter of which something is kept back, type by type: another filter could tell what it may not
    /// know (SEC-21).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) filterable: BTreeMap<ResourceType, BTreeSet<Box<str>>>,
    /// What carries one of these does not leave.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub(crate) withheld: Labels,
    /// These are taken out of whatever leaves.
    #[serde(skip_serializing_if = "Elements::is_empty")]
    pub(crate) removed: Elements,
}

/// How much a client may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Quotas {
    /// Exports that run or wait for their turn.
    pub(crate) running_jobs: Option<u32>,
    pub(crate) kickoffs_per_day: Option<u32>,
    /// Of files that are written for it.
    pub(crate) bytes_per_day: Option<u64>,
}

impl Policy {
    /// Whether it restricts nothing.
    pub(crate) fn is_open(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn permits_level(&self, level: Level) -> bool {
        self.levels.as_ref().is_none_or(|levels| levels.contains(&level))
    }

    /// Whether the Group of this id may be exported, alone or as a part of another one.
    pub(crate) fn permits_group(&self, id: &Id) -> bool {
        self.groups.as_ref().is_none_or(|groups| groups.contains(id))
    }

    /// Whether resources of a type may be a part of an export.
    pub(crate) fn permits_type(&self, resource_type: ResourceType) -> bool {
        self.types.as_ref().is_none_or(|types| types.contains(&resource_type))
    }

    /// Whether it keeps back anything at all of what scopes permit, by type or within a type.
    pub(crate) fn keeps_back(&self) -> bool {
        self.types.is_some() || !self.required.is_empty() || self.keeps_back_within()
    }

    /// Whether it keeps back what stands in resources, or single ones for what stands in them.
    fn keeps_back_within(&self) -> bool {
        !self.withheld.is_empty() || !self.removed.is_empty()
    }

    /// What has to pass of a type, all of these.
    pub(crate) fn required(&self, resource_type: ResourceType) -> impl Iterator<Item = &Filter> {
        self.required
            .iter()
            .filter(move |required| required.resource_type == resource_type)
            .map(|required| &required.filter)
    }

    /// Whether all of a type that passes any of `filters` may be exported.
    pub(crate) fn lets_pass(&self, resource_type: ResourceType, filters: &[Filter]) -> bool {
        self.required(resource_type).all(|required| filters.iter().all(|filter| required.is_as_wide_as(filter)))
    }

    /// Whether a client may filter a type by a parameter.
    pub(crate) fn may_filter_by(&self, resource_type: ResourceType, parameter: &str) -> bool {
        !self.keeps_back_within()
            || self.filterable.get(&resource_type).is_some_and(|parameters| parameters.contains(parameter))
    }

    /// Whether all of these may be filtered by that were under `then`, but for what that required itself.
    pub(crate) fn may_still_filter<'a>(
        &self,
        then: &Self,
        filters: impl IntoIterator<Item = (ResourceType, &'a Filter)>,
    ) -> bool {
        let was_required =
            |name, parameter: &str| then.required(name).any(|filter| filter.names().any(|own| own == parameter));
        let may = |name, parameter: &str| self.may_filter_by(name, parameter) || was_required(name, parameter);
        filters.into_iter().all(|(name, filter)| filter.names().all(|parameter| may(name, parameter)))
    }

    /// Whether all that `then` permits this one does too.
    pub(crate) fn is_as_wide_as(&self, then: &Self) -> bool {
        wider(self.levels.as_ref(), then.levels.as_ref())
            && wider(self.groups.as_ref(), then.groups.as_ref())
            && wider(self.types.as_ref(), then.types.as_ref())
            && self.required.is_subset(&then.required)
            && self.withholds_no_more_than(then)
    }

    /// Whether an export may be kept that was kicked off under `then`, of this level and perhaps Group. Whether all its types
    /// are permitted is another question.
    pub(crate) fn covers(&self, then: &Self, level: Level, group: Option<&Id>) -> bool {
        // Members of other Groups in it came along as far as those were permitted.
        let permits = |group| self.permits_group(group) && wider(self.groups.as_ref(), then.groups.as_ref());
        self.permits_level(level) && group.is_none_or(permits) && self.withholds_no_more_than(then)
    }

    fn withholds_no_more_than(&self, then: &Self) -> bool {
        then.withheld.include(&self.withheld) && then.removed.include(&self.removed)
    }
}

/// Whether what is permitted now is all that was.
fn wider<T: Ord>(now: Option<&BTreeSet<T>>, then: Option<&BTreeSet<T>>) -> bool {
    now.is_none_or(|now| then.is_some_and(|then| then.is_subset(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> Policy {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    const NARROW: &str = r#"{"levels":["patient","group"],"groups":["a","b"],"types":["Observation","Patient"],
        "required":["Observation?category=laboratory"],"filterable":{"Observation":["code"]},
        "withheld":["s|x"],"removed":["Patient.telecom"]}"#;

    #[test]
    fn what_is_not_named_is_not_restricted() {
        let (open, narrow) = (Policy::default(), policy(NARROW));
        let (a, c) = (Id::parse("a").expect("an id"), Id::parse("c").expect("an id"));
        let encounter = ResourceType::parse("Encounter").expect("a type");
        assert!(open.is_open() && !open.keeps_back() && !narrow.is_open() && narrow.keeps_back());
        for own in [r#"{"types":["Patient"]}"#, r#"{"withheld":["s|x"]}"#, r#"{"removed":["Patient.telecom"]}"#] {
            assert!(policy(own).keeps_back(), "{own}");
        }
        assert!(!policy(r#"{"levels":["patient"]}"#).keeps_back());
        assert!(open.permits_level(Level::System) && open.permits_group(&c) && open.permits_type(encounter));
        assert!(narrow.permits_level(Level::Group) && !narrow.permits_level(Level::System));
        assert!(narrow.permits_group(&a) && !narrow.permits_group(&c));
        assert!(narrow.permits_type(ResourceType::PATIENT) && !narrow.permits_type(encounter));
    }

    /// SEC-14: a policy that became narrower in any way is not as wide as it was.
    #[test]
    fn a_policy_is_as_wide_as_one_that_permits_no_more() {
        let narrow = policy(NARROW);
        assert!(narrow.is_as_wide_as(&narrow) && Policy::default().is_as_wide_as(&narrow));
        assert!(!narrow.is_as_wide_as(&Policy::default()));
        for (before, after, now_is_as_wide) in [
            (r#"["patient","group"]"#, r#"["patient"]"#, false),
            (r#"["patient","group"]"#, r#"["patient","group","system"]"#, true),
            (r#""groups":["a","b"]"#, r#""groups":["a"]"#, false),
            (r#""groups":["a","b"]"#, r#""groups":["a","b","c"]"#, true),
            (r#"["Observation","Patient"]"#, r#"["Patient"]"#, false),
            (r#"["Observation?category=laboratory"]"#, "[]", true),
            (
                r#""Observation?category=laboratory""#,
                r#""Observation?category=laboratory","Patient?active=true""#,
                false,
            ),
            ("Observation?category=laboratory", "Observation?category=vital-signs", false),
            (r#"["s|x"]"#, r#"["s|x","s|y"]"#, false),
            (r#"["s|x"]"#, "[]", true),
            (r#"["Patient.telecom"]"#, r#"["Patient.telecom","*.text"]"#, false),
            (r#"["Patient.telecom"]"#, "[]", true),
        ] {
            let now = policy(&NARROW.replace(before, after));
            assert_ne!(now, narrow, "{before}");
            assert_eq!(now.is_as_wide_as(&narrow), now_is_as_wide, "{before} became {after}");
        }
    }

    /// SEC-21
    #[test]
    fn what_is_required_passes_and_what_is_kept_back_is_not_filtered_by() {
        let (narrow, observation) = (policy(NARROW), ResourceType::parse("Observation").expect("a type"));
        let filter = |text| Filter::parse(text, crate::fhir::filter::Escapes::Once).expect("a filter");
        for (name, filters, expected) in [
            (observation, vec![Filter::ALL], false),
            (observation, vec![filter("category=laboratory")], true),
            (observation, vec![filter("category=laboratory&code=a"), filter("category=laboratory&code=b")], true),
            (observation, vec![filter("category=laboratory"), filter("code=b")], false),
            (ResourceType::PATIENT, vec![Filter::ALL], true),
        ] {
            assert_eq!(narrow.lets_pass(name, &filters), expected, "{name} {filters:?}");
        }
        assert!(narrow.may_filter_by(observation, "code") && !narrow.may_filter_by(observation, "value-string"));
        assert!(!narrow.may_filter_by(ResourceType::PATIENT, "code"));
        assert!(policy(r#"{"required":["Observation?category=laboratory"]}"#).may_filter_by(observation, "code"));
    }

    /// SEC-14, SEC-21
    #[test]
    fn what_was_filtered_by_may_be_filtered_by_still_or_was_required() {
        let (then, observation) = (policy(NARROW), ResourceType::parse("Observation").expect("a type"));
        let none = policy(&NARROW.replace(r#""filterable":{"Observation":["code"]},"#, ""));
        let filter = |text| Filter::parse(text, crate::fhir::filter::Escapes::Once).expect("a filter");
        for (text, by_then, by_none) in [
            ("code=1", true, false),
            ("category=laboratory", true, true),
            ("category=laboratory&code=1", true, false),
            ("status=final", false, false),
        ] {
            let filter = filter(text);
            assert_eq!(then.may_still_filter(&then, [(observation, &filter)]), by_then, "{text}");
            assert_eq!(none.may_still_filter(&then, [(observation, &filter)]), by_none, "{text}");
            assert!(Policy::default().may_still_filter(&then, [(observation, &filter)]), "{text}");
        }
        assert!(!none.may_still_filter(&then, [(ResourceType::PATIENT, &filter("category=laboratory"))]));
        assert!(none.may_still_filter(&then, []));
    }

    #[test]
    fn an_export_is_covered_by_what_concerns_it() {
        let then = policy(NARROW);
        let (a, b) = (Id::parse("a").expect("an id"), Id::parse("b").expect("an id"));
        let less = policy(&NARROW.replace(r#""groups":["a","b"]"#, r#""groups":["a"]"#));
        assert!(less.covers(&then, Level::Patient, None) && less.covers(&less, Level::Group, Some(&a)));
        assert!(!less.covers(&then, Level::Group, Some(&b)));
        assert!(!less.covers(&then, Level::Group, Some(&a)), "members of the other one may have come along");
        assert!(!policy(r#"{"levels":["group"]}"#).covers(&then, Level::Patient, None));
        assert!(!policy(r#"{"withheld":["s|y"]}"#).covers(&then, Level::Patient, None));
        assert!(!policy(r#"{"removed":["*.text"]}"#).covers(&then, Level::Patient, None));
        assert!(Policy::default().covers(&then, Level::System, None));
    }

    #[test]
    fn a_record_from_before_there_were_policies_permits_all() {
        assert!(policy("{}").is_open());
        assert_eq!(serde_json::to_string(&Policy::default()).expect("plain values"), "{}");
        let narrow = policy(NARROW);
        assert_eq!(policy(&serde_json::to_string(&narrow).expect("plain values")), narrow);
    }
}
