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
pub(crate) fn known_types() -> impl Iterator<Item = &'static str> {
    COMPARTMENT.iter().chain(OTHERS).map(|(resource_type, _)| *resource_type)
}

/// Whether searches of this type are about patients' records: the compartment without Patient and Group.
pub(crate) fn is_clinical(resource_type: &str) -> bool {
    !matches!(resource_type, "Patient" | "Group") && references(COMPARTMENT, resource_type).is_some()
}

/// The parameters of a type beside those that begin with `_` and are no tokens.
pub(crate) fn of(resource_type: &str) -> impl Iterator<Item = Param> {
    let pairs = references(COMPARTMENT, resource_type).or_else(|| references(OTHERS, resource_type)).unwrap_or("");
    let references = pairs.split_ascii_whitespace().filter_map(|pair| pair.split_once('='));
    let own = TOKENS.iter().find(|(name, _)| *name == resource_type).map_or(&[][..], |(_, tokens)| tokens);
    let tokens = COMMON_TOKENS.iter().chain(own);
    references
        .map(|(name, paths)| Param { name, kind: Kind::Reference, paths })
        .chain(tokens.map(|(name, paths)| Param { name, kind: Kind::Token, paths }))
}

/// How the parameter of this name, without a modifier, is compared.
pub(crate) fn kind_of(resource_type: &str, name: &str) -> Option<Kind> {
    of(resource_type).find(|param| param.name == name).map(|param| param.kind)
}

fn references(table: &'static [(&str, &str)], resource_type: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == resource_type).map(|(_, pairs)| *pairs)
}

/// Every `parameter=value` under which a resource can be found; `subject:present` where a reference
/// parameter has any value.
pub(crate) fn terms(resource_type: &str, resource: &Value) -> Vec<String> {
    let mut terms = Vec::new();
    for param in of(resource_type) {
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

fn reference_terms(param: &str, value: &Value, terms: &mut Vec<String>) {
    let Some(reference) = value.get("reference").and_then(Value::as_str) else {
        return;
    };
    let target = reference.split_once("/_history/").map_or(reference, |(target, _)| target);
    if param != "patient" || target.starts_with("Patient/") {
        terms.push(format!("{param}={target}"));
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
    use super::*;

    fn terms_of(text: &str) -> Vec<String> {
        let resource: Value = serde_json::from_str(text).expect("JSON");
        let resource_type = resource["resourceType"].as_str().expect("a type").to_owned();
        terms(&resource_type, &resource)
    }

    #[test]
    fn the_compartment_has_the_66_types_of_r4_in_order() {
        let types: Vec<_> = COMPARTMENT.iter().map(|(name, _)| *name).collect();
        assert_eq!(types.len(), 66);
        assert!(types.is_sorted(), "in order");
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
