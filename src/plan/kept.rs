//! A plan as it is kept: sealed if it names patients (SEC-40).

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Cohort, ExportPlan};
use crate::bulk::sealed::{JobKey, Part, Sealed, Unopened};

/// A plan in a store or beside the output. As JSON it is an object, as all of them were once, or one text if it is sealed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum KeptPlan {
    Clear(Box<ExportPlan>),
    Sealed(Sealed),
}

impl ExportPlan {
    /// Whether it says of somebody that they are a patient, or of something that it may be somebody's.
    pub(crate) fn names_patients(&self) -> bool {
        let has_members = match &self.cohort {
            Cohort::Members(members) => !members.is_empty(),
            Cohort::Everything | Cohort::AllPatients => false,
        };
        has_members || !self.listed.is_empty() || !self.newcomers.is_empty() || !self.others.is_empty()
    }
}

impl KeptPlan {
    /// A plan under a key. The `nonce` is random.
    pub(crate) fn sealed(plan: &ExportPlan, key: &JobKey, nonce: [u8; 12]) -> Self {
        let json = serde_json::to_vec(plan).expect("plans always become JSON: they are kept as such");
        Self::Sealed(key.seal(Part::Plan, nonce, json))
    }

    /// What was sealed.
    ///
    /// # Errors
    /// [`Unopened`] if the key does not open it.
    pub(crate) fn open(sealed: &Sealed, key: &JobKey) -> Result<ExportPlan, Unopened> {
        serde_json::from_slice(&key.open(Part::Plan, sealed)?).map_err(|_| Unopened)
    }
}

impl Serialize for KeptPlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Clear(plan) => plan.serialize(serializer),
            Self::Sealed(sealed) => sealed.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for KeptPlan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Kept;
        impl<'de> Visitor<'de> for Kept {
            type Value = KeptPlan;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a plan, or what it is sealed as")
            }

            fn visit_str<E: Error>(self, sealed: &str) -> Result<Self::Value, E> {
                Sealed::deserialize(StrDeserializer::new(sealed)).map(KeptPlan::Sealed)
            }

            fn visit_map<A: MapAccess<'de>>(self, plan: A) -> Result<Self::Value, A::Error> {
                ExportPlan::deserialize(MapAccessDeserializer::new(plan)).map(|plan| KeptPlan::Clear(Box::new(plan)))
            }
        }
        deserializer.deserialize_any(Kept)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bulk::job_id::JobId;
    use crate::fhir::compartment::Compartments;
    use crate::fhir::datatypes::{Id, Millis};
    use crate::plan::{Boundary, Horizon, Listed, OnShort};
    use crate::profile::Profile;

    fn ids() -> Vec<Id> {
        ["p-one", "p-two"].into_iter().map(|id| Id::parse(id).expect("an id")).collect()
    }

    fn plan(cohort: Cohort, listed: Vec<Id>) -> ExportPlan {
        let horizon = Horizon {
            windows_until: Millis(0),
            lag_millis: 0,
            since: None,
            until: None,
            settled: Millis(0),
            step_millis: 1,
        };
        ExportPlan {
            horizon,
            profile: Profile::default(),
            types: BTreeMap::new(),
            filters: BTreeMap::new(),
            cohort,
            compartments: Compartments::R4,
            listed: Listed(listed),
            newcomers: Listed::default(),
            others: BTreeMap::new(),
            context: Vec::new(),
            by_target: None,
            provenance_of_records: false,
            is_organized: false,
            on_short: OnShort::Fail,
            boundary: Boundary::NoLoss,
            tells_deletions_by_difference: false,
            inlines: None,
            bases: Vec::new(),
        }
    }

    #[test]
    fn a_sealed_plan_tells_nobody_and_opens_to_the_same() {
        let key = |secret| JobKey::new(JobId::new([1; 16]), &[secret; 32]);
        for plan in [plan(Cohort::Members(ids()), Vec::new()), plan(Cohort::AllPatients, ids())] {
            assert!(plan.names_patients());
            let kept = serde_json::to_string(&KeptPlan::sealed(&plan, &key(1), [1; 12])).expect("JSON");
            assert!(!kept.contains("p-one") && !kept.contains("p-two"), "{kept}");
            let KeptPlan::Sealed(sealed) = serde_json::from_str(&kept).expect("JSON") else { panic!("{kept}") };
            assert_eq!(KeptPlan::open(&sealed, &key(1)), Ok(plan));
            assert_eq!(KeptPlan::open(&sealed, &key(2)), Err(Unopened));
        }
        for cohort in [Cohort::Everything, Cohort::AllPatients, Cohort::Members(Vec::new())] {
            assert!(!plan(cohort, Vec::new()).names_patients());
        }
    }

    /// Records of the version before are read as they are.
    #[test]
    fn a_plan_from_before_plans_were_sealed_is_read() {
        let plan = plan(Cohort::Members(ids()), Vec::new());
        let written = serde_json::to_string(&plan).expect("JSON");
        assert!(written.contains(r#""cohort":{"members":["p-one","p-two"]}"#), "{written}");
        let kept = KeptPlan::Clear(Box::new(plan));
        assert_eq!(serde_json::from_str::<KeptPlan>(&written).expect("JSON"), kept);
        assert_eq!(serde_json::to_string(&kept).expect("JSON"), written);
    }
}
