//! Checked type names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a resource type of FHIR R4, R4B or R5.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub(crate) struct ResourceType(&'static str);

impl ResourceType {
    pub(crate) const BINARY: Self = Self("Binary");
    pub(crate) const DEVICE: Self = Self("Device");
    pub(crate) const GROUP: Self = Self("Group");
    pub(crate) const OPERATION_OUTCOME: Self = Self("OperationOutcome");
    pub(crate) const PATIENT: Self = Self("Patient");
    pub(crate) const PROVENANCE: Self = Self("Provenance");
    pub(crate) const AUDIT_EVENT: Self = Self("AuditEvent");

    pub(crate) fn parse(name: &str) -> Option<Self> {
        NAMES.binary_search(&name).ok().map(|index| Self(NAMES[index]))
    }

    /// Whether a text is the name of some type to whoever does not mind upper case.
    pub(crate) fn is_like_one(name: &str) -> bool {
        NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.0
    }

    /// Whether a Group can have resources of this type as members that are nobody's record: R4 and R5 together, without those
    /// that lie in the Patient compartment.
    pub(crate) fn is_member_by_itself(self) -> bool {
        matches!(
            self.0,
            "Device"
                | "HealthcareService"
                | "Location"
                | "Medication"
                | "Organization"
                | "Practitioner"
                | "PractitionerRole"
                | "Substance"
        )
    }

    /// Types that lie in the Patient compartment and are still no part of a patient's export: they speak of other
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_types() {
        assert!(NAMES.is_sorted());
        assert!(NAMES.iter().all(|name| name.len() <= 64), "whoever has room for one has it for all");
        assert!(NAMES.iter().all(|name| ResourceType::parse(name).is_some_and(|parsed| parsed.as_str() == *name)));
        for name in ["patient", "Patient ", "", "Dragon"] {
            assert_eq!(ResourceType::parse(name), None, "{name}");
        }
    }
}
