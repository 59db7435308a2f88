//! The search parameters that the sample upstream knows, and their values in a resource.

use serde_json::Value;

/// How a parameter's values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `x`, `Type/x`.
    Reference,
    /// `value`, `system|value`.
    Token,
}

/// One search parameter of a resource type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Elements that hold its values, joined by `|`; lists on the way are flattened.
    paths: &'static str,
}

/// The version of FHIR whose parameters are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// R4 and R4B, and whatever is spoken that is not R5.
    R4,
    R5,
}

/// Types of the R4 Patient compartment (`spec/bulk-data.md` section 6.2) with `parameter=element` pairs.
/// `patient` finds references to patients only. Sorted by type.
const COMPARTMENT: &[(&str, &str)] = &[
    ("Account", "subject=subject patient=subject"),
    ("AdverseEvent", "subject=subject"),
    ("AllergyIntolerance", "patient=patient recorder=recorder asserter=asserter"),
    ("Appointment", "actor=participant.actor patient=participant.actor"),
    ("AppointmentResponse", "actor=actor patient=actor"),
    ("AuditEvent", "patient=agent.who|entity.what"),
    ("Basic", "patient=subject subject=subject author=author"),
    ("BodyStructure", "patient=patient"),
    ("CarePlan", "patient=subject subject=subject performer=activity.detail.performer"),
    ("CareTeam", "patient=subject subject=subject participant=participant.member"),
    ("ChargeItem", "subject=subject patient=subject"),
    ("Claim", "patient=patient payee=payee.party"),
    ("ClaimResponse", "patient=patient"),
    ("ClinicalImpression", "subject=subject patient=subject"),
    ("Communication", "subject=subject patient=subject sender=sender recipient=recipient"),
    ("CommunicationRequest", "subject=subject patient=subject sender=sender recipient=recipient requester=requester"),
    ("Composition", "subject=subject patient=subject author=author attester=attester.party"),
    ("Condition", "patient=subject subject=subject asserter=asserter"),
    ("Consent", "patient=patient"),
    (
        "Coverage",
        "policy-holder=policyHolder subscriber=subscriber beneficiary=beneficiary payor=payor patient=beneficiary",
    ),
    ("CoverageEligibilityRequest", "patient=patient"),
    ("CoverageEligibilityResponse", "patient=patient"),
    ("DetectedIssue", "patient=patient"),
    ("DeviceRequest", "subject=subject patient=subject performer=performer"),
    ("DeviceUseStatement", "subject=subject patient=subject"),
    ("DiagnosticReport", "subject=subject patient=subject"),
    ("DocumentManifest", "subject=subject patient=subject author=author recipient=recipient"),
    ("DocumentReference", "subject=subject patient=subject author=author"),
    ("Encounter", "patient=subject subject=subject"),
    ("EnrollmentRequest", "subject=candidate patient=candidate"),
    ("EpisodeOfCare", "patient=patient"),
    ("ExplanationOfBenefit", "patient=patient payee=payee.party"),
    ("FamilyMemberHistory", "patient=patient"),
    ("Flag", "patient=subject subject=subject"),
    ("Goal", "patient=subject subject=subject"),
    ("Group", "member=member.entity"),
    ("ImagingStudy", "patient=subject subject=subject"),
    ("Immunization", "patient=patient"),
    ("ImmunizationEvaluation", "patient=patient"),
    ("ImmunizationRecommendation", "patient=patient"),
    ("Invoice", "subject=subject patient=subject recipient=recipient"),
    ("List", "subject=subject patient=subject source=source"),
    ("MeasureReport", "patient=subject subject=subject"),
    ("Media", "subject=subject patient=subject"),
    ("MedicationAdministration", "patient=subject performer=performer.actor subject=subject"),
    ("MedicationDispense", "subject=subject patient=subject receiver=receiver"),
    ("MedicationRequest", "subject=subject patient=subject"),
    ("MedicationStatement", "subject=subject patient=subject"),
    ("MolecularSequence", "patient=patient"),
    ("NutritionOrder", "patient=patient"),
    ("Observation", "subject=subject patient=subject performer=performer"),
    ("Patient", "link=link.other"),
    ("Person", "patient=link.target"),
    ("Procedure", "patient=subject subject=subject performer=performer.actor"),
    ("Provenance", "patient=target target=target"),
    ("QuestionnaireResponse", "subject=subject patient=subject author=author"),
    ("RelatedPerson", "patient=patient"),
    ("RequestGroup", "subject=subject patient=subject participant=action.participant"),
    ("ResearchSubject", "individual=individual patient=individual"),
    ("RiskAssessment", "subject=subject patient=subject"),
    ("Schedule", "actor=actor"),
    ("ServiceRequest", "subject=subject patient=subject performer=performer"),
    ("Specimen", "subject=subject patient=subject"),
    ("SupplyDelivery", "patient=patient"),
    ("SupplyRequest", "subject=deliverTo"),
    ("VisionPrescription", "patient=patient"),
];

/// The same of R5, where it differs: types that it has no more are `None`.
const OF_R5: &[(&str, Option<&str>)] = &[
    ("AllergyIntolerance", Some("patient=patient participant=participant.actor")),
    ("AuditEvent", Some("patient=patient")),
    ("BiologicallyDerivedProductDispense", Some("patient=patient")),
    ("CarePlan", Some("patient=subject subject=subject")),
    (
        "CommunicationRequest",
        Some(
            "subject=subject patient=subject information-provider=informationProvider recipient=recipient requester=requester",
        ),
    ),
    ("Condition", Some("patient=subject subject=subject participant-actor=participant.actor")),
    ("Consent", Some("subject=subject patient=subject")),
    ("Contract", Some("patient=subject subject=subject")),
    (
        "Coverage",
        Some(
            "policy-holder=policyHolder subscriber=subscriber beneficiary=beneficiary paymentby-party=paymentBy.party patient=beneficiary",
        ),
    ),
    ("DetectedIssue", Some("patient=subject subject=subject")),
    ("DeviceAssociation", Some("subject=subject patient=subject operator=operation.operator")),
    ("DeviceRequest", Some("subject=subject patient=subject performer=performer.reference")),
    ("DeviceUsage", Some("patient=patient")),
    ("DeviceUseStatement", None),
    ("DocumentManifest", None),
    ("EncounterHistory", Some("patient=subject subject=subject")),
    ("GenomicStudy", Some("patient=subject subject=subject")),
    ("GuidanceResponse", Some("patient=subject subject=subject")),
    ("ImagingSelection", Some("patient=subject subject=subject")),
    ("Media", None),
    ("MedicationAdministration", Some("patient=subject subject=subject")),
    ("MolecularSequence", Some("subject=subject patient=subject")),
    ("NutritionIntake", Some("subject=subject patient=subject source=reportedReference")),
    ("NutritionOrder", Some("patient=subject subject=subject")),
    ("Provenance", Some("patient=patient target=target")),
    ("RequestGroup", None),
    ("RequestOrchestration", Some("subject=subject patient=subject participant=action.participant.actorReference")),
    ("ResearchSubject", Some("subject=subject patient=subject")),
    ("SupplyRequest", Some("subject=deliverTo patient=deliverFor")),
    ("Task", Some("patient=for subject=for focus=focus")),
];

/// Types outside the compartment that are known all the same.
const OTHERS: &[(&str, &str)] = &[
    ("Binary", ""),
    ("Device", "patient=patient"),
    ("Endpoint", ""),
    ("HealthcareService", ""),
    ("Location", ""),
    ("Medication", ""),
    ("Organization", ""),
    ("Practitioner", ""),
    ("PractitionerRole", "practitioner=practitioner organization=organization"),
    ("Questionnaire", ""),
    ("Substance", ""),
    ("Task", "patient=for subject=for focus=focus"),
];

/// Token parameters that every type has.
const COMMON_TOKENS: &[(&str, &str)] =
    &[("identifier", "identifier"), ("status", "status"), ("_tag", "meta.tag"), ("_security", "meta.security")];

/// Token parameters by type.
const TOKENS: &[(&str, &[(&str, &str)])] = &[
    ("AllergyIntolerance", &[("clinical-status", "clinicalStatus"), ("code", "code")]),
    ("CarePlan", &[("category", "category")]),
    ("Condition", &[("clinical-status", "clinicalStatus"), ("category", "category"), ("code", "code")]),
    ("DiagnosticReport", &[("category", "category"), ("code", "code")]),
    ("DocumentReference", &[("category", "category"), ("type", "type")]),
    ("Encounter", &[("class", "class")]),
    ("Group", &[("type", "type"), ("code", "code")]),
    ("MedicationRequest", &[("intent", "intent")]),
    ("Observation", &[("category", "category"), ("code", "code")]),
    ("Patient", &[("gender", "gender"), ("active", "active")]),
    ("Procedure", &[("code", "code")]),
];

/// The names of all types that are known without holding any.
pub(crate) fn known_types(version: Version) -> impl Iterator<Item = &'static str> {
    let all = COMPARTMENT.iter().chain(OTHERS).map(|(name, _)| *name).chain(OF_R5.iter().map(|(name, _)| *name));
    all.filter(move |name| in_compartment(version, name).is_some() || references(OTHERS, name).is_some())
}

/// Whether searches of this type are about patients' records: the compartment without Patient and Group.
pub(crate) fn is_clinical(version: Version, resource_type: &str) -> bool {
    !matches!(resource_type, "Patient" | "Group") && in_compartment(version, resource_type).is_some()
}

/// The parameters of a type beside those that begin with `_` and are no tokens.
pub(crate) fn of(version: Version, resource_type: &str) -> impl Iterator<Item = Param> {
    let pairs = in_compartment(version, resource_type).or_else(|| references(OTHERS, resource_type)).unwrap_or("");
    let references = pairs.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
    let own = TOKENS.iter().find(|(name, _)| *name == resource_type).map_or(&[][..], |(_, tokens)| tokens);
    let tokens = COMMON_TOKENS.iter().chain(own);
    references
        .map(|(name, paths)| Param { name, kind: Kind::Reference, paths })
        .chain(tokens.map(|(name, paths)| Param { name, kind: Kind::Token, paths }))
}

/// How the parameter of this name, without a modifier, is compared.
pub(crate) fn kind_of(version: Version, resource_type: &str, name: &str) -> Option<Kind> {
    of(version, resource_type).find(|param| param.name == name).map(|param| param.kind)
}

fn in_compartment(version: Version, resource_type: &str) -> Option<&'static str> {
    let changed = OF_R5.iter().find(|(name, _)| version == Version::R5 && *name == resource_type);
    changed.map_or_else(|| references(COMPARTMENT, resource_type), |(_, pairs)| *pairs)
}

fn references(table: &'static [(&str, &str)], resource_type: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == resource_type).map(|(_, pairs)| *pairs)
}

/// Every `parameter=value` under which a resource can be found; `subject:present` where a reference
/// parameter has any value.
pub(crate) fn terms(version: Version, resource_type: &str, resource: &Value) -> Vec<String> {
    let mut terms = Vec::new();
    for param in of(version, resource_type) {
        let mut values = Vec::new();
        for path in param.paths.split('|') {
            collect(resource, path, &mut values);
        }
        let before = terms.len();
        for value in values {
            match param.kind {
                Kind::Reference => reference_terms(param.name, value, &mut terms),
                Kind::Token => token_terms(param.name, value, &mut terms),
            }
        }
        if param.kind == Kind::Reference && terms.len() > before {
            terms.push(present(param.name));
        }
    }
    terms.sort_unstable();
    terms.dedup();
    terms
}

/// The term of resources that have any value for this reference parameter.
pub(crate) fn present(param: &str) -> String {
    format!("{param}:present")
}

fn collect<'v>(value: &'v Value, path: &str, found: &mut Vec<&'v Value>) {
    if let Value::Array(items) = value {
        for item in items {
            collect(item, path, found);
        }
        return;
    }
    if path.is_empty() {
        found.push(value);
        return;
    }
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    if let Some(inner) = value.get(first) {
        collect(inner, rest, found);
    }
}

/// The term of what names a version of a target.
pub(crate) const TARGETS_A_VERSION: &str = "target:versioned";

fn reference_terms(param: &str, value: &Value, terms: &mut Vec<String>) {
    let Some(reference) = value.get("reference").and_then(Value::as_str) else {
        return;
    };
    let target = reference.split_once("/_history/").map_or(reference, |(target, _)| target);
    if param != "patient" || target.starts_with("Patient/") {
        terms.push(format!("{param}={target}"));
    }
    if param == "target" && target.len() < reference.len() {
        terms.push(TARGETS_A_VERSION.to_owned());
    }
}

fn token_terms(param: &str, value: &Value, terms: &mut Vec<String>) {
    match value {
        Value::String(code) => terms.push(format!("{param}={code}")),
        Value::Bool(flag) => terms.push(format!("{param}={flag}")),
        Value::Object(object) => {
            if let Some(Value::Array(codings)) = object.get("coding") {
                for coding in codings {
                    token_terms(param, coding, terms);
                }
            }
            let text = |name: &str| object.get(name).and_then(Value::as_str);
            // Identifier has `value`, Coding has `code`.
            if let Some(code) = text("value").or_else(|| text("code")) {
                terms.push(format!("{param}={code}"));
                terms.push(format!("{param}={}|{code}", text("system").unwrap_or("")));
            }
        }
        Value::Null | Value::Number(_) | Value::Array(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn terms_of(text: &str) -> Vec<String> {
        let resource: Value = serde_json::from_str(text).expect("JSON");
        let resource_type = resource["resourceType"].as_str().expect("a type").to_owned();
        terms(Version::R4, &resource_type, &resource)
    }

    #[test]
    fn the_compartment_has_the_66_types_of_r4_or_the_73_of_r5() {
        let types: Vec<_> = COMPARTMENT.iter().map(|(name, _)| *name).collect();
        assert_eq!(types.len(), 66);
        assert!(types.is_sorted() && OF_R5.is_sorted_by_key(|(name, _)| name), "in order");
        let of = |version| {
            known_types(version).filter(|name| in_compartment(version, name).is_some()).collect::<BTreeSet<_>>()
        };
        assert_eq!((of(Version::R4).len(), of(Version::R5).len()), (66, 73));
    }

    #[test]
    fn patient_finds_patients_only_and_subject_finds_all() {
        assert_eq!(
            terms_of(
                r#"{"resourceType":"Observation","subject":{"reference":"Device/d"},"performer":[{"reference":"Patient/p/_history/2"}]}"#
            ),
            ["performer:present", "performer=Patient/p", "subject:present", "subject=Device/d"]
        );
        assert_eq!(
            terms_of(r#"{"resourceType":"Encounter","subject":{"reference":"Patient/p"}}"#),
            ["patient:present", "patient=Patient/p", "subject:present", "subject=Patient/p"]
        );
    }

    #[test]
    fn lists_on_the_way_are_flattened() {
        let terms = terms_of(
            r#"{"resourceType":"CarePlan","activity":[{"detail":{"performer":[{"reference":"Patient/a"}]}},{},{"detail":{"performer":[{"reference":"Patient/b"}]}}]}"#,
        );
        assert_eq!(terms, ["performer:present", "performer=Patient/a", "performer=Patient/b"]);
    }

    #[test]
    fn tokens_are_found_with_and_without_their_system() {
        assert_eq!(
            terms_of(
                r#"{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"s","code":"c"}]},"identifier":[{"value":"7"}]}"#
            ),
            ["code=c", "code=s|c", "identifier=7", "identifier=|7", "status=final"]
        );
    }
}
