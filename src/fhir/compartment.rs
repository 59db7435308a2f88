//! The Patient compartment: how resources come to belong to a patient, in each version of FHIR.

use serde::{Deserialize, Serialize};

use super::resource_type::ResourceType;

/// Whose Patient compartment counts. An export keeps the one that it began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compartments {
    /// FHIR R4 and R4B: theirs is the same, parameter by parameter.
    ///
    /// Source: <https://hl7.org/fhir/R4/compartmentdefinition-patient.html>
    #[default]
    R4,
    /// FHIR R5.
    ///
    /// Source: <https://hl7.org/fhir/R5/compartmentdefinition-patient.html>
    R5,
}

/// One way in which a resource belongs to a patient: a search parameter, and the elements that it reads, as paths
/// from the root without indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) param: &'static str,
    pub(crate) paths: &'static [&'static str],
}

impl Compartments {
    pub(crate) const ALL: [Self; 2] = [Self::R4, Self::R5];

    /// Those of a version as a capability statement writes it; `None` if they are not known here.
    pub(crate) fn of_version(version: &str) -> Option<Self> {
        // What came before R5 and bears its number has other elements.
        let is = |release: &str| version.starts_with(release) && !version.contains('-');
        match version {
            _ if version.starts_with("4.0") || version.starts_with("4.3") => Some(Self::R4),
            _ if is("5.0.") => Some(Self::R5),
            _ => None,
        }
    }

    /// How resources of a type come to lie in a patient's compartment; empty if they never do.
    pub(crate) fn links(self, resource_type: ResourceType) -> impl Iterator<Item = Link> + Clone {
        let table = self.table();
        let index = table.binary_search_by_key(&resource_type.as_str(), |(name, _)| name);
        let links: &[(&str, &[&str])] = index.map_or(&[], |index| table[index].1);
        links.iter().map(|(param, paths)| Link { param, paths })
    }

    /// Whether resources of a type can lie in a patient's compartment.
    pub(crate) fn hold(self, resource_type: ResourceType) -> bool {
        self.links(resource_type).next().is_some()
    }

    /// Whether resources of a type are a patient's, beside the patient.
    pub(crate) fn are_read_by_patient(self, resource_type: ResourceType) -> bool {
        resource_type != ResourceType::PATIENT
            && self.hold(resource_type)
            && !resource_type.left_out_of_patient_exports()
    }

    fn table(self) -> &'static [Row] {
        match self {
            Self::R4 => R4,
            Self::R5 => R5,
        }
    }
}

type Row = (&'static str, &'static [(&'static str, &'static [&'static str])]);

/// Type, then search parameters and the elements that each of them reads; in the order of the types' bytes.
#[rustfmt::skip]
const R4: &[Row] = &[
    ("Account", &[("subject", &["subject"])]),
    ("AdverseEvent", &[("subject", &["subject"])]),
    ("AllergyIntolerance", &[("patient", &["patient"]), ("recorder", &["recorder"]), ("asserter", &["asserter"])]),
    ("Appointment", &[("actor", &["participant.actor"])]),
    ("AppointmentResponse", &[("actor", &["actor"])]),
    ("AuditEvent", &[("patient", &["agent.who", "entity.what"])]),
    ("Basic", &[("patient", &["subject"]), ("author", &["author"])]),
    ("BodyStructure", &[("patient", &["patient"])]),
    ("CarePlan", &[("patient", &["subject"]), ("performer", &["activity.detail.performer"])]),
    ("CareTeam", &[("patient", &["subject"]), ("participant", &["participant.member"])]),
    ("ChargeItem", &[("subject", &["subject"])]),
    ("Claim", &[("patient", &["patient"]), ("payee", &["payee.party"])]),
    ("ClaimResponse", &[("patient", &["patient"])]),
    ("ClinicalImpression", &[("subject", &["subject"])]),
    ("Communication", &[("subject", &["subject"]), ("sender", &["sender"]), ("recipient", &["recipient"])]),
    ("CommunicationRequest", &[("subject", &["subject"]), ("sender", &["sender"]), ("recipient", &["recipient"]), ("requester", &["requester"])]),
    ("Composition", &[("subject", &["subject"]), ("author", &["author"]), ("attester", &["attester.party"])]),
    ("Condition", &[("patient", &["subject"]), ("asserter", &["asserter"])]),
    ("Consent", &[("patient", &["patient"])]),
    ("Coverage", &[("policy-holder", &["policyHolder"]), ("subscriber", &["subscriber"]), ("beneficiary", &["beneficiary"]), ("payor", &["payor"])]),
    ("CoverageEligibilityRequest", &[("patient", &["patient"])]),
    ("CoverageEligibilityResponse", &[("patient", &["patient"])]),
    ("DetectedIssue", &[("patient", &["patient"])]),
    ("DeviceRequest", &[("subject", &["subject"]), ("performer", &["performer"])]),
    ("DeviceUseStatement", &[("subject", &["subject"])]),
    ("DiagnosticReport", &[("subject", &["subject"])]),
    ("DocumentManifest", &[("subject", &["subject"]), ("author", &["author"]), ("recipient", &["recipient"])]),
    ("DocumentReference", &[("subject", &["subject"]), ("author", &["author"])]),
    ("Encounter", &[("patient", &["subject"])]),
    ("EnrollmentRequest", &[("subject", &["candidate"])]),
    ("EpisodeOfCare", &[("patient", &["patient"])]),
    ("ExplanationOfBenefit", &[("patient", &["patient"]), ("payee", &["payee.party"])]),
    ("FamilyMemberHistory", &[("patient", &["patient"])]),
    ("Flag", &[("patient", &["subject"])]),
    ("Goal", &[("patient", &["subject"])]),
    ("Group", &[("member", &["member.entity"])]),
    ("ImagingStudy", &[("patient", &["subject"])]),
    ("Immunization", &[("patient", &["patient"])]),
    ("ImmunizationEvaluation", &[("patient", &["patient"])]),
    ("ImmunizationRecommendation", &[("patient", &["patient"])]),
    ("Invoice", &[("subject", &["subject"]), ("patient", &["subject"]), ("recipient", &["recipient"])]),
    ("List", &[("subject", &["subject"]), ("source", &["source"])]),
    ("MeasureReport", &[("patient", &["subject"])]),
    ("Media", &[("subject", &["subject"])]),
    ("MedicationAdministration", &[("patient", &["subject"]), ("performer", &["performer.actor"]), ("subject", &["subject"])]),
    ("MedicationDispense", &[("subject", &["subject"]), ("patient", &["subject"]), ("receiver", &["receiver"])]),
    ("MedicationRequest", &[("subject", &["subject"])]),
    ("MedicationStatement", &[("subject", &["subject"])]),
    ("MolecularSequence", &[("patient", &["patient"])]),
    ("NutritionOrder", &[("patient", &["patient"])]),
    ("Observation", &[("subject", &["subject"]), ("performer", &["performer"])]),
    ("Patient", &[("link", &["link.other"])]),
    ("Person", &[("patient", &["link.target"])]),
    ("Procedure", &[("patient", &["subject"]), ("performer", &["performer.actor"])]),
    ("Provenance", &[("patient", &["target"])]),
    ("QuestionnaireResponse", &[("subject", &["subject"]), ("author", &["author"])]),
    ("RelatedPerson", &[("patient", &["patient"])]),
    ("RequestGroup", &[("subject", &["subject"]), ("participant", &["action.participant", "action.action.participant"])]),
    ("ResearchSubject", &[("individual", &["individual"])]),
    ("RiskAssessment", &[("subject", &["subject"])]),
    ("Schedule", &[("actor", &["actor"])]),
    ("ServiceRequest", &[("subject", &["subject"]), ("performer", &["performer"])]),
    ("Specimen", &[("subject", &["subject"])]),
    ("SupplyDelivery", &[("patient", &["patient"])]),
    ("SupplyRequest", &[("subject", &["deliverTo"])]),
    ("VisionPrescription", &[("patient", &["patient"])]),
];

#[rustfmt::skip]
const R5: &[Row] = &[
    ("Account", &[("subject", &["subject"])]),
    ("AdverseEvent", &[("subject", &["subject"])]),
    ("AllergyIntolerance", &[("patient", &["patient"]), ("participant", &["participant.actor"])]),
    ("Appointment", &[("actor", &["participant.actor"])]),
    ("AppointmentResponse", &[("actor", &["actor"])]),
    ("AuditEvent", &[("patient", &["patient"])]),
    ("Basic", &[("patient", &["subject"]), ("author", &["author"])]),
    ("BiologicallyDerivedProductDispense", &[("patient", &["patient"])]),
    ("BodyStructure", &[("patient", &["patient"])]),
    ("CarePlan", &[("patient", &["subject"])]),
    ("CareTeam", &[("patient", &["subject"]), ("participant", &["participant.member"])]),
    ("ChargeItem", &[("subject", &["subject"])]),
    ("Claim", &[("patient", &["patient"]), ("payee", &["payee.party"])]),
    ("ClaimResponse", &[("patient", &["patient"])]),
    ("ClinicalImpression", &[("subject", &["subject"])]),
    ("Communication", &[("subject", &["subject"]), ("sender", &["sender"]), ("recipient", &["recipient"])]),
    ("CommunicationRequest", &[("subject", &["subject"]), ("information-provider", &["informationProvider"]), ("recipient", &["recipient"]), ("requester", &["requester"])]),
    ("Composition", &[("subject", &["subject"]), ("author", &["author"]), ("attester", &["attester.party"])]),
    ("Condition", &[("patient", &["subject"]), ("participant-actor", &["participant.actor"])]),
    ("Consent", &[("subject", &["subject"])]),
    ("Contract", &[("patient", &["subject"])]),
    ("Coverage", &[("policy-holder", &["policyHolder"]), ("subscriber", &["subscriber"]), ("beneficiary", &["beneficiary"]), ("paymentby-party", &["paymentBy.party"])]),
    ("CoverageEligibilityRequest", &[("patient", &["patient"])]),
    ("CoverageEligibilityResponse", &[("patient", &["patient"])]),
    ("DetectedIssue", &[("patient", &["subject"])]),
    ("DeviceAssociation", &[("subject", &["subject"]), ("operator", &["operation.operator"])]),
    ("DeviceRequest", &[("subject", &["subject"]), ("performer", &["performer.reference"])]),
    ("DeviceUsage", &[("patient", &["patient"])]),
    ("DiagnosticReport", &[("subject", &["subject"])]),
    ("DocumentReference", &[("subject", &["subject"]), ("author", &["author"])]),
    ("Encounter", &[("patient", &["subject"])]),
    ("EncounterHistory", &[("patient", &["subject"])]),
    ("EnrollmentRequest", &[("subject", &["candidate"])]),
    ("EpisodeOfCare", &[("patient", &["patient"])]),
    ("ExplanationOfBenefit", &[("patient", &["patient"]), ("payee", &["payee.party"])]),
    ("FamilyMemberHistory", &[("patient", &["patient"])]),
    ("Flag", &[("patient", &["subject"])]),
    ("GenomicStudy", &[("patient", &["subject"])]),
    ("Goal", &[("patient", &["subject"])]),
    ("Group", &[("member", &["member.entity"])]),
    ("GuidanceResponse", &[("patient", &["subject"])]),
    ("ImagingSelection", &[("patient", &["subject"])]),
    ("ImagingStudy", &[("patient", &["subject"])]),
    ("Immunization", &[("patient", &["patient"])]),
    ("ImmunizationEvaluation", &[("patient", &["patient"])]),
    ("ImmunizationRecommendation", &[("patient", &["patient"])]),
    ("Invoice", &[("subject", &["subject"]), ("patient", &["subject"]), ("recipient", &["recipient"])]),
    ("List", &[("subject", &["subject"]), ("source", &["source"])]),
    ("MeasureReport", &[("patient", &["subject"])]),
    ("MedicationAdministration", &[("patient", &["subject"]), ("subject", &["subject"])]),
    ("MedicationDispense", &[("subject", &["subject"]), ("patient", &["subject"]), ("receiver", &["receiver"])]),
    ("MedicationRequest", &[("subject", &["subject"])]),
    ("MedicationStatement", &[("subject", &["subject"])]),
    ("MolecularSequence", &[("subject", &["subject"])]),
    ("NutritionIntake", &[("subject", &["subject"]), ("source", &["reportedReference"])]),
    ("NutritionOrder", &[("patient", &["subject"])]),
    ("Observation", &[("subject", &["subject"]), ("performer", &["performer"])]),
    ("Patient", &[("link", &["link.other"])]),
    ("Person", &[("patient", &["link.target"])]),
    ("Procedure", &[("patient", &["subject"]), ("performer", &["performer.actor"])]),
    ("Provenance", &[("patient", &["patient"])]),
    ("QuestionnaireResponse", &[("subject", &["subject"]), ("author", &["author"])]),
    ("RelatedPerson", &[("patient", &["patient"])]),
    ("RequestOrchestration", &[("subject", &["subject"]), ("participant", &["action.participant.actorReference", "action.action.participant.actorReference"])]),
    ("ResearchSubject", &[("subject", &["subject"])]),
    ("RiskAssessment", &[("subject", &["subject"])]),
    ("Schedule", &[("actor", &["actor"])]),
    ("ServiceRequest", &[("subject", &["subject"]), ("performer", &["performer"])]),
    ("Specimen", &[("subject", &["subject"])]),
    ("SupplyDelivery", &[("patient", &["patient"])]),
    ("SupplyRequest", &[("subject", &["deliverTo"])]),
    ("Task", &[("patient", &["for"]), ("focus", &["focus"])]),
    ("VisionPrescription", &[("patient", &["patient"])]),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Paths from the root, by type and parameter.
    type Paths = BTreeMap<(String, String), BTreeSet<String>>;

    /// What the published `CompartmentDefinition` and the `FHIRPath` of its search parameters say.
    const FACTS: [(Compartments, &str); 2] = [
        (Compartments::R4, include_str!("compartment/r4.tsv")),
        (Compartments::R5, include_str!("compartment/r5.tsv")),
    ];

    fn facts(text: &str) -> Paths {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let rows = lines.map(|line| {
            let [name, param, expression] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let parts = expression.split(" | ").filter(|part| !part.contains("ofType(canonical)"));
            let paths = parts.map(|part| {
                let part = part.trim_matches(['(', ')']).replace(".where(resolve() is Patient", "");
                let part = part.replace(" as Reference", "Reference").replace(".ofType(Reference", "Reference");
                part.strip_prefix(&format!("{name}.")).unwrap_or_else(|| panic!("{line}")).replace(')', "")
            });
            ((name.to_owned(), param.to_owned()), paths.collect())
        });
        rows.collect()
    }

    /// BD-051: 66 types and 100 pairs of type and parameter in R4 and R4B, 73 and 105 in R5.
    #[test]
    fn the_tables_are_those_of_the_specification() {
        for ((compartments, text), (types, pairs)) in FACTS.into_iter().zip([(66, 100), (73, 105)]) {
            let table = compartments.table();
            assert!(table.is_sorted_by_key(|(name, _)| name), "{compartments:?}");
            assert_eq!(table.len(), types, "{compartments:?}");
            let mut rows = Paths::new();
            for (name, _) in table {
                let resource_type = ResourceType::parse(name).expect("a type");
                for Link { param, paths } in compartments.links(resource_type) {
                    // Actions lie in actions: those that no search parameter reads shall not escape either.
                    let paths = paths.iter().filter(|path| !path.starts_with("action.action."));
                    rows.insert(((*name).to_owned(), param.to_owned()), paths.map(|path| (*path).to_owned()).collect());
                }
            }
            assert_eq!(rows.len(), pairs, "{compartments:?}");
            assert_eq!(rows, facts(text), "{compartments:?}");
        }
    }

    #[test]
    fn versions_have_their_own_compartments_or_none() {
        for (version, expected) in [
            ("4.0.1", Some(Compartments::R4)),
            ("4.3.0", Some(Compartments::R4)),
            ("5.0.0", Some(Compartments::R5)),
            ("5.0.0-ballot", None),
            ("3.0.2", None),
            ("4.6.0", None),
            ("6.0.0-ballot2", None),
            ("", None),
        ] {
            assert_eq!(Compartments::of_version(version), expected, "{version}");
        }
    }

    #[test]
    fn what_belongs_to_patients_differs_between_versions() {
        let named = |name| ResourceType::parse(name).expect("a type");
        let params = |compartments: Compartments, name| {
            compartments.links(named(name)).map(|link| link.param).collect::<Vec<_>>()
        };
        assert_eq!(params(Compartments::R4, "Coverage"), ["policy-holder", "subscriber", "beneficiary", "payor"]);
        assert_eq!(params(Compartments::R5, "Coverage")[3], "paymentby-party");
        assert_eq!(params(Compartments::R5, "Device"), [""; 0]);
        assert!(
            !Compartments::R4.are_read_by_patient(named("Task")) && Compartments::R5.are_read_by_patient(named("Task"))
        );
        assert!(!Compartments::R5.are_read_by_patient(named("List")) && Compartments::R5.hold(named("List")));
    }
}
