//! The records of a patient, and those of nobody.

use super::World;
use super::people::MEDICATIONS;
use crate::base64;
use crate::rng::Rng;

const LOINC: [(&str, &str); 5] =
    [("8867-4", "/min"), ("8310-5", "Cel"), ("29463-7", "kg"), ("718-7", "g/dL"), ("2339-0", "mg/dL")];
const SNOMED: [&str; 4] = ["44054006", "38341003", "195967001", "73211009"];

/// Everything about patient `number`.
pub(super) fn records(world: &World, number: usize, rng: &mut Rng, texts: &mut Vec<String>) {
    let who = Who::new(world, number);
    let subject = format!(r#""subject":{{"reference":"Patient/{}"}}"#, who.patient);
    let patient = format!(r#""patient":{{"reference":"Patient/{}"}}"#, who.patient);
    let (encounter, doctor, organization) = (&who.encounter, &who.doctor, &who.organization);
    for visit in 0..2 {
        let id = world.id("enc", number * 2 + visit);
        let when = when(rng);
        texts.push(format!(
            r#"{{"resourceType":"Encounter","id":"{id}","status":"finished","class":{{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"AMB"}},{subject},"participant":[{{"individual":{{"reference":"Practitioner/{doctor}"}}}}],"period":{{"start":"{when}"}},"location":[{{"location":{{"reference":"Location/{}"}}}}],"serviceProvider":{{"reference":"Organization/{organization}"}}}}"#,
            who.location
        ));
        let id = world.id("con", number * 2 + visit);
        let code = rng.pick(&SNOMED);
        texts.push(format!(
            r#"{{"resourceType":"Condition","id":"{id}","clinicalStatus":{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/condition-clinical","code":"active"}}]}},"category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/condition-category","code":"encounter-diagnosis"}}]}}],"code":{{"coding":[{{"system":"http://snomed.info/sct","code":"{code}"}}]}},{subject},"encounter":{{"reference":"Encounter/{encounter}"}},"recordedDate":"{when}"}}"#
        ));
    }
    observations(world, number, &who, rng, texts);
    let (when, code) = (when(rng), rng.pick(&SNOMED));
    texts.push(format!(
        r#"{{"resourceType":"Procedure","id":"{}","status":"completed","code":{{"coding":[{{"system":"http://snomed.info/sct","code":"{code}"}}]}},{subject},"encounter":{{"reference":"Encounter/{encounter}"}},"performedDateTime":"{when}","performer":[{{"actor":{{"reference":"Practitioner/{doctor}"}}}}]}}"#,
        world.id("proc", number)
    ));
    let medication = world.id("med", rng.below(MEDICATIONS.min(world.patients)));
    texts.push(format!(
        r#"{{"resourceType":"MedicationRequest","id":"{}","status":"active","intent":"order","medicationReference":{{"reference":"Medication/{medication}"}},{subject},"authoredOn":"{when}","requester":{{"reference":"Practitioner/{doctor}"}},"dosageInstruction":[{{"doseAndRate":[{{"doseQuantity":{{"value":0.50,"unit":"mg"}}}}]}}]}}"#,
        world.id("mr", number)
    ));
    texts.push(format!(
        r#"{{"resourceType":"Immunization","id":"{}","status":"completed","vaccineCode":{{"coding":[{{"system":"http://hl7.org/fhir/sid/cvx","code":"140"}}]}},{patient},"occurrenceDateTime":"{when}"}}"#,
        world.id("imm", number)
    ));
    texts.push(format!(
        r#"{{"resourceType":"DiagnosticReport","id":"{}","status":"final","category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/v2-0074","code":"LAB"}}]}}],"code":{{"coding":[{{"system":"http://loinc.org","code":"58410-2"}}]}},{subject},"result":[{{"reference":"Observation/{}"}}]}}"#,
        world.id("dr-rep", number),
        world.id("obs", number * 10)
    ));
    let note = base64::encode(format!("Note on patient {number}\r\nall well\u{e9}").as_bytes());
    texts.push(format!(
        r#"{{"resourceType":"DocumentReference","id":"{}","text":{{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\">tab\t, line\n, back\\slash, sol\/idus, caf\u00e9 \ud83d\ude00<\/div>"}},"status":"current","type":{{"coding":[{{"system":"http://loinc.org","code":"34117-2"}}]}},{subject},"author":[{{"reference":"Practitioner/{doctor}"}}],"content":[{{"\u0069d":"c1","attachment":{{"contentType":"text/plain","data":"{note}"}}}}]}}"#,
        world.id("doc", number)
    ));
    // Every seventh policy is another patient's: a cross-link between two compartments.
    let holder = if number % 7 == 6 { world.patient(number - 1) } else { who.patient.clone() };
    texts.push(format!(
        r#"{{"resourceType":"Coverage","id":"{}","status":"active","policyHolder":{{"reference":"Patient/{holder}"}},"beneficiary":{{"reference":"Patient/{}"}},"payor":[{{"reference":"Organization/{organization}"}}]}}"#,
        world.id("cov", number),
        who.patient
    ));
    texts.push(format!(
        r#"{{"resourceType":"Provenance","id":"{}","target":[{{"reference":"Patient/{}"}}],"recorded":"{when}","agent":[{{"who":{{"reference":"Organization/{organization}"}}}}]}}"#,
        world.id("prov", number),
        who.patient
    ));
    if number.is_multiple_of(2) {
        texts.push(format!(
            r#"{{"resourceType":"AllergyIntolerance","id":"{}","clinicalStatus":{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical","code":"active"}}]}},"code":{{"text":"penicillin"}},{patient},"recorder":{{"reference":"Patient/{}"}}}}"#,
            world.id("all", number),
            who.patient
        ));
    }
    if number.is_multiple_of(3) {
        texts.push(format!(
            r#"{{"resourceType":"CarePlan","id":"{}","contained":[{{"resourceType":"Basic","id":"in","meta":{{"versionId":"7"}}}}],"extension":[{{"url":"http://example.org/deep","valueString":"[[[["}},{}],"status":"active","intent":"plan",{subject}}}"#,
            world.id("cp", number),
            nested(24)
        ));
    }
    if number.is_multiple_of(4) {
        texts.push(format!(
            r#"{{"resourceType":"Device","id":"{}","status":"active","deviceName":[{{"name":"pacemaker","type":"user-friendly-name"}}],{patient}}}"#,
            world.id("dev", number)
        ));
    }
}

fn observations(world: &World, number: usize, who: &Who, rng: &mut Rng, texts: &mut Vec<String>) {
    for of_patient in 0..10 {
        let id = world.id("obs", number * 10 + of_patient);
        let (code, unit) = rng.pick(&LOINC);
        // Decimals whose last zeros mean something.
        let value = match rng.below(4) {
            0 => "1.00".to_owned(),
            1 => format!("{}.50", 20 + rng.below(60)),
            2 => format!("{}E-1", 100 + rng.below(900)),
            _ => format!("{}", 40 + rng.below(100)),
        };
        // Some are told by the patient; some by another one, who so has them in their compartment too.
        let performer = match of_patient {
            8 => format!("Patient/{}", who.patient),
            9 if number % 10 == 9 => format!("Patient/{}", world.patient(number - 1)),
            _ => format!("Practitioner/{}", who.doctor),
        };
        texts.push(format!(
            r#"{{"resourceType":"Observation","id":"{id}","status":"final","category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"{}"}}]}}],"code":{{"coding":[{{"system":"http://loinc.org","code":"{code}"}}]}},"subject":{{"reference":"Patient/{}"}},"encounter":{{"reference":"Encounter/{}"}},"effectiveDateTime":"{}","performer":[{{"reference":"{performer}"}}],"valueQuantity":{{"value":{value},"unit":"{unit}"}}}}"#,
            if of_patient < 5 { "vital-signs" } else { "laboratory" },
            who.patient,
            who.encounter,
            when(rng)
        ));
    }
}

/// Observations whose subject is no patient: they belong to no patient's export.
pub(super) fn of_nobody(world: &World, texts: &mut Vec<String>) {
    for team in 0..world.teams() {
        let device = world.id("spare", team);
        texts.push(format!(r#"{{"resourceType":"Device","id":"{device}","status":"active"}}"#));
        let location = world.id("loc", team);
        for (kind, subject) in [
            ("dev", format!("Device/{device}")),
            ("loc", format!("Location/{location}")),
            ("grp", "Group/all".to_owned()),
        ] {
            let id = world.id(&format!("obs-{kind}"), team);
            texts.push(format!(
                r#"{{"resourceType":"Observation","id":"{id}","status":"final","code":{{"text":"calibration"}},"subject":{{"reference":"{subject}"}},"valueInteger":0}}"#
            ));
        }
    }
}

struct Who {
    patient: String,
    encounter: String,
    doctor: String,
    organization: String,
    location: String,
}

impl Who {
    fn new(world: &World, number: usize) -> Self {
        let team = number / 10;
        Self {
            patient: world.patient(number),
            encounter: world.id("enc", number * 2),
            doctor: world.id("dr", team),
            organization: world.id("org", team),
            location: world.id("loc", team),
        }
    }
}

fn when(rng: &mut Rng) -> String {
    let (year, month, day) = (2010 + rng.below(15), 1 + rng.below(12), 1 + rng.below(28));
    format!("{year}-{month:02}-{day:02}T{:02}:{:02}:00+01:00", rng.below(24), rng.below(60))
}

fn nested(depth: usize) -> String {
    let open = r#"{"url":"http://example.org/deep","extension":["#.repeat(depth);
    let close = "]}".repeat(depth);
    format!(r#"{open}{{"url":"http://example.org/end","valueDecimal":1.00}}{close}"#)
}
