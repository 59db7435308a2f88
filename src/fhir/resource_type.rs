//! Checked type names; Patient compartment membership.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a resource type of FHIR R4, R4B or R5.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub(crate) struct ResourceType(&'static str);

/// One way in which a resource belongs to a patient: a search parameter, and the elements that it reads, as paths
/// from the root without indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) param: &'static str,
    pub(crate) paths: &'static [&'static str],
}

impl ResourceType {
    pub(crate) const GROUP: Self = Self("Group");
    pub(crate) const OPERATION_OUTCOME: Self = Self("OperationOutcome");
    pub(crate) const PATIENT: Self = Self("Patient");

    pub(crate) fn parse(name: &str) -> Option<Self> {
        NAMES.binary_search(&name).ok().map(|index| Self(NAMES[index]))
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.0
    }

    /// How resources of this type come to lie in the Patient compartment of R4; empty if they never do.
    ///
    /// Source: <https://hl7.org/fhir/R4/compartmentdefinition-patient.html>
    pub(crate) fn compartment(self) -> impl Iterator<Item = Link> + Clone {
        let index = COMPARTMENT.binary_search_by_key(&self.0, |(name, _)| name);
        let links: &[(&str, &[&str])] = index.map_or(&[], |index| COMPARTMENT[index].1);
        links.iter().map(|(param, paths)| Link { param, paths })
    }

    pub(crate) fn in_patient_compartment(self) -> bool {
        self.compartment().next().is_some()
    }

    /// Types whose resources are a patient's, beside the patient.
    pub(crate) fn is_read_by_patient(self) -> bool {
        self != Self::PATIENT && self.in_patient_compartment() && !self.left_out_of_patient_exports()
    }

    /// Types that lie in the compartment and are still no part of a patient's export: they speak of other
    /// patients, or are logs and summaries.
    pub(crate) fn left_out_of_patient_exports(self) -> bool {
        matches!(self.0, "AuditEvent" | "Basic" | "Group" | "List" | "MeasureReport" | "Person")
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl fmt::Debug for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'de> Deserialize<'de> for ResourceType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| serde::de::Error::custom("not a resource type"))
    }
}

/// In the order of their bytes.
#[rustfmt::skip]
const NAMES: &[&str] = &[
    "Account", "ActivityDefinition", "ActorDefinition", "AdministrableProductDefinition",
    "AdverseEvent", "AllergyIntolerance", "Appointment", "AppointmentResponse", "ArtifactAssessment",
    "AuditEvent", "Basic", "Binary", "BiologicallyDerivedProduct", "BiologicallyDerivedProductDispense",
    "BodyStructure", "Bundle", "CapabilityStatement", "CarePlan", "CareTeam", "CatalogEntry",
    "ChargeItem", "ChargeItemDefinition", "Citation", "Claim", "ClaimResponse", "ClinicalImpression",
    "ClinicalUseDefinition", "CodeSystem", "Communication", "CommunicationRequest",
    "CompartmentDefinition", "Composition", "ConceptMap", "Condition", "ConditionDefinition", "Consent",
    "Contract", "Coverage", "CoverageEligibilityRequest", "CoverageEligibilityResponse",
    "DetectedIssue", "Device", "DeviceAssociation", "DeviceDefinition", "DeviceDispense",
    "DeviceMetric", "DeviceRequest", "DeviceUsage", "DeviceUseStatement", "DiagnosticReport",
    "DocumentManifest", "DocumentReference", "EffectEvidenceSynthesis", "Encounter", "EncounterHistory",
    "Endpoint", "EnrollmentRequest", "EnrollmentResponse", "EpisodeOfCare", "EventDefinition",
    "Evidence", "EvidenceReport", "EvidenceVariable", "ExampleScenario", "ExplanationOfBenefit",
    "FamilyMemberHistory", "Flag", "FormularyItem", "GenomicStudy", "Goal", "GraphDefinition", "Group",
    "GuidanceResponse", "HealthcareService", "ImagingSelection", "ImagingStudy", "Immunization",
    "ImmunizationEvaluation", "ImmunizationRecommendation", "ImplementationGuide", "Ingredient",
    "InsurancePlan", "InventoryItem", "InventoryReport", "Invoice", "Library", "Linkage", "List",
    "Location", "ManufacturedItemDefinition", "Measure", "MeasureReport", "Media", "Medication",
    "MedicationAdministration", "MedicationDispense", "MedicationKnowledge", "MedicationRequest",
    "MedicationStatement", "MedicinalProduct", "MedicinalProductAuthorization",
    "MedicinalProductContraindication", "MedicinalProductDefinition", "MedicinalProductIndication",
    "MedicinalProductIngredient", "MedicinalProductInteraction", "MedicinalProductManufactured",
    "MedicinalProductPackaged", "MedicinalProductPharmaceutical", "MedicinalProductUndesirableEffect",
    "MessageDefinition", "MessageHeader", "MolecularSequence", "NamingSystem", "NutritionIntake",
    "NutritionOrder", "NutritionProduct", "Observation", "ObservationDefinition", "OperationDefinition",
    "OperationOutcome", "Organization", "OrganizationAffiliation", "PackagedProductDefinition",
    "Parameters", "Patient", "PaymentNotice", "PaymentReconciliation", "Permission", "Person",
    "PlanDefinition", "Practitioner", "PractitionerRole", "Procedure", "Provenance", "Questionnaire",
    "QuestionnaireResponse", "RegulatedAuthorization", "RelatedPerson", "RequestGroup",
    "RequestOrchestration", "Requirements", "ResearchDefinition", "ResearchElementDefinition",
    "ResearchStudy", "ResearchSubject", "RiskAssessment", "RiskEvidenceSynthesis", "Schedule",
    "SearchParameter", "ServiceRequest", "Slot", "Specimen", "SpecimenDefinition",
    "StructureDefinition", "StructureMap", "Subscription", "SubscriptionStatus", "SubscriptionTopic",
    "Substance", "SubstanceDefinition", "SubstanceNucleicAcid", "SubstancePolymer", "SubstanceProtein",
    "SubstanceReferenceInformation", "SubstanceSourceMaterial", "SubstanceSpecification",
    "SupplyDelivery", "SupplyRequest", "Task", "TerminologyCapabilities", "TestPlan", "TestReport",
    "TestScript", "Transport", "ValueSet", "VerificationResult", "VisionPrescription",
];

type Row = (&'static str, &'static [(&'static str, &'static [&'static str])]);

/// Type, then search parameters and the elements that each of them reads; in the order of the types' bytes.
#[rustfmt::skip]
const COMPARTMENT: &[Row] = &[
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_can_be_searched() {
        assert!(NAMES.is_sorted() && COMPARTMENT.is_sorted_by_key(|(name, _)| name));
        assert!(NAMES.iter().all(|name| ResourceType::parse(name).is_some_and(|parsed| parsed.as_str() == *name)));
        for name in ["patient", "Patient ", "", "Dragon"] {
            assert_eq!(ResourceType::parse(name), None, "{name}");
        }
    }

    /// BD-051: 66 types and 100 pairs of type and parameter.
    #[test]
    fn the_compartment_is_that_of_r4() {
        assert_eq!(COMPARTMENT.len(), 66);
        assert_eq!(COMPARTMENT.iter().map(|(_, links)| links.len()).sum::<usize>(), 100);
        assert!(COMPARTMENT.iter().all(|(name, _)| ResourceType::parse(name).is_some()));
        let params =
            |name| ResourceType::parse(name).expect("a type").compartment().map(|link| link.param).collect::<Vec<_>>();
        assert_eq!(params("Observation"), ["subject", "performer"]);
        assert_eq!(params("Device"), [""; 0]);
    }
}
