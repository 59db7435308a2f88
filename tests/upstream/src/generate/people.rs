//! Patients, and those who care for them.

use super::World;
use crate::rng::Rng;

/// What patients share: practitioners, their roles, organizations, locations, medications.
pub(super) fn shared(world: &World) -> Vec<String> {
    let mut texts = Vec::new();
    for team in 0..world.teams() {
        let (doctor, role, organization, location) =
            (world.id("dr", team), world.id("role", team), world.id("org", team), world.id("loc", team));
        texts.push(format!(
            r#"{{"resourceType":"Organization","id":"{organization}","identifier":[{{"system":"http://hospital.example/org","value":"{team}"}}],"active" : true,"name":"H\u00f4pital {team}"}}"#
        ));
        texts.push(format!(
            r#"{{"resourceType":"Practitioner","id":"{doctor}","identifier":[{{"system":"http://hl7.org/fhir/sid/us-npi","value":"99{team:08}"}}],"name":[{{"family":"Andr\u00e9","given":["Zo\u00eb"]}}]}}"#
        ));
        texts.push(format!(
            r#"{{"resourceType":"PractitionerRole","id":"{role}","practitioner":{{"reference":"Practitioner/{doctor}"}},"organization":{{"reference":"Organization/{organization}"}},"location":[{{"reference":"Location/{location}"}}]}}"#
        ));
        texts.push(format!(
            r#"{{"resourceType":"Location","id":"{location}","status":"active","name":"Ward {team}","position":{{"longitude":-71.10,"latitude":42.3300}},"managingOrganization":{{"reference":"Organization/{organization}"}}}}"#
        ));
    }
    for number in 0..MEDICATIONS.min(world.patients) {
        let id = world.id("med", number);
        texts.push(format!(
            r#"{{"resourceType":"Medication","id":"{id}","code":{{"coding":[{{"system":"http://www.nlm.nih.gov/research/umls/rxnorm","code":"{}"}}]}},"status":"active"}}"#,
            313_782 + number
        ));
    }
    texts
}

/// How many Medications there are at most.
pub(super) const MEDICATIONS: usize = 5;

const FAMILY: [&str; 6] = ["Garc\\u00eda", "Müller", "O'Brien", "Ng", "\\u0141ukasz", "Smith \\\"the third\\\""];

/// One patient.
pub(super) fn patient(world: &World, number: usize, rng: &mut Rng) -> String {
    let id = world.patient(number);
    let family = rng.pick(&FAMILY);
    let gender = rng.pick(&["female", "male", "other", "unknown"]);
    let (year, month, day) = (1930 + rng.below(90), 1 + rng.below(12), 1 + rng.below(28));
    let doctor = world.id("dr", number / 10);
    let organization = world.id("org", number / 10);
    format!(
        r#"{{"resourceType":"Patient","id":"{id}","text":{{"status":"generated","div":"<div xmlns=\"http:\/\/www.w3.org\/1999\/xhtml\">caf\u00e9 \ud83d\ude00 😀<\/div>"}},"identifier":[{{"system":"http://hospital.example/mrn","value":"{number:06}"}}],"active":true,"name":[{{"family":"{family}","given":["P{number}"]}}],"gender":"{gender}","birthDate":"{year}-{month:02}-{day:02}","generalPractitioner":[{{"reference":"Practitioner/{doctor}"}}],"managingOrganization":{{"reference":"Organization/{organization}"}}}}"#
    )
}
