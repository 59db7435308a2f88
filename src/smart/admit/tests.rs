use std::collections::BTreeSet;

use super::*;
use crate::fhir::bundle::Scope;

const PART_2: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode|42CFRPart2";

fn named(name: &str) -> ResourceType {
    ResourceType::parse(name).expect("a type")
}

fn entry(json: &str) -> Entry {
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let name = named(value["resourceType"].as_str().expect("a type"));
    Entry::parse(json.as_bytes(), Scope::of(name).with_references()).expect("a resource")
}

fn grant(cohort: Cohort, policy: &str, withdrawn: &str) -> Grant {
    let types =
        ["Binary", "Bundle", "Device", "Observation", "Organization", "Patient", "Provenance"].map(named).to_vec();
    let context = vec![named("Practitioner")];
    let policy: Policy = serde_json::from_str(policy).expect("a policy");
    let list = Consent::read(withdrawn.as_bytes()).expect("a list");
    let consent = Arc::new(Consent::default().with(list, crate::fhir::datatypes::Millis(1)));
    let bases = vec!["http://h/fhir".to_owned()];
    Grant::new(cohort, Compartments::R4, types, context, bases).within(Some(&policy), consent)
}

fn levels() -> [Cohort; 3] {
    [Cohort::Everything, Cohort::AllPatients, Cohort::Members(vec![Id::parse("p").expect("an id")])]
}

/// SEC-20, SEC-26: at every level, and of whatever kind a resource is.
#[test]
fn what_carries_a_withheld_label_leaves_at_no_level() {
    let policy = format!(r#"{{"withheld":["{PART_2}"]}}"#);
    let label = r#"{"security":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"42CFRPart2"}]}"#;
    for cohort in levels() {
        let grant = grant(cohort.clone(), &policy, "");
        for json in [
            format!(
                r#"{{"resourceType":"Observation","id":"o","meta":{label},"subject":{{"reference":"Patient/p"}}}}"#
            ),
            format!(r#"{{"resourceType":"Patient","id":"p","meta":{label}}}"#),
            format!(
                r#"{{"resourceType":"Provenance","id":"v","meta":{label},"target":[{{"reference":"Patient/p"}}]}}"#
            ),
            format!(
                r#"{{"resourceType":"Observation","id":"o","subject":{{"reference":"Patient/p"}},"contained":[{{"resourceType":"Basic","meta":{label}}}]}}"#
            ),
            r#"{"resourceType":"Patient","id":"p","meta":{"security":[{"display":"?"}]}}"#.to_owned(),
        ] {
            let entry = entry(&json);
            assert_eq!(grant.admit(&entry, |_| {}).err(), Some(Withheld::ByPolicy), "{cohort:?} {json}");
            assert!(grant.bars(&entry));
            assert!(grant.admit_deletion(entry.resource_type, &entry.id, Some(&entry), |_| {}).is_none(), "SEC-27");
            assert!(grant.admit_deletion(entry.resource_type, &entry.id, None, |_| {}).is_none(), "SEC-27");
        }
        let practitioner = entry(&format!(r#"{{"resourceType":"Practitioner","id":"d","meta":{label}}}"#));
        assert!(grant.admit(&practitioner, |_| {}).is_err(), "nor by reference");
        let plain = entry(r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"}}"#);
        assert!(grant.admit(&plain, |_| {}).is_ok() && !grant.bars(&plain));
        assert!(grant.admit_deletion(plain.resource_type, &plain.id, Some(&plain), |_| {}).is_some());
    }
}

/// SEC-27: what passed a filter once is known only to whoever received it.
#[test]
fn what_is_narrowed_is_told_as_deleted_only_to_whoever_received_it() {
    let grant = grant(Cohort::Everything, "{}", "").narrowing(BTreeSet::from([named("Observation")]));
    for (name, is_told) in [("Observation", false), ("Device", true)] {
        let gone = entry(&format!(r#"{{"resourceType":"{name}","id":"x"}}"#));
        let line = grant.admit_deletion(gone.resource_type, &gone.id, Some(&gone), |_| {});
        assert_eq!(line.is_some(), is_told, "{name}");
        let received = LocalReference { resource_type: gone.resource_type, id: gone.id.clone() };
        assert!(grant.admit_deletion_of_received(&received).is_some(), "{name}");
        assert!(grant.admit(&gone, |_| {}).is_ok(), "{name}");
    }
}

/// SEC-14: nothing of them, nothing about them, and nothing of whom it cannot be told.
#[test]
fn nothing_leaves_that_may_speak_of_who_withdrew_consent() {
    let grant = grant(Cohort::Everything, "{}", "gone");
    for json in [
        r#"{"resourceType":"Patient","id":"gone"}"#,
        r#"{"resourceType":"Patient","id":"p","link":[{"other":{"reference":"Patient/gone"}}]}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/gone"}}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"http://h/fhir/Patient/gone"}}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"focus":[{"reference":"Patient/gone"}]}"#,
        r#"{"resourceType":"Device","id":"d","patient":{"reference":"Patient/gone"}}"#,
        r#"{"resourceType":"Organization","id":"x","contained":[{"resourceType":"Basic","subject":{"reference":"Patient/gone"}}]}"#,
        r#"{"resourceType":"Bundle","id":"b","entry":[{"resource":{"id":"gone","resourceType":"Patient"}}]}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient?identifier=s|v"}}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"identifier":{"value":"v"}}}"#,
        r##"{"resourceType":"Observation","id":"o","subject":{"reference":"#p"}}"##,
        r#"{"resourceType":"Organization","id":"x","extension":[{"valueUri":"http://h/fhir/Patient\/gone"}]}"#,
        r#"{"resourceType":"Binary","id":"b","data":"AAAA"}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"display":"Somebody"}}"#,
        r#"{"resourceType":"Organization","id":"x","for":{"reference":"urn:x:y"}}"#,
        r#"{"resourceType":"Device","id":"d","patient":{"type":"Patient","identifier":{"value":"v"}}}"#,
        r#"{"resourceType":"Device","id":"d","patient":{"identifier":{"value":"v"}}}"#,
        r#"{"resourceType":"Organization","id":"x","for":{"identifier":{"value":"v"}}}"#,
        r#"{"resourceType":"Organization","id":"x","extension":[{"valueReference":{"type":"Patient","display":"Somebody"}}]}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"performer":[{"type":"Patient","identifier":{"value":"v"}}]}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"performer":[{"type":"Pat\u0069ent","identifier":{"value":"v"}}]}"#,
        r##"{"resourceType":"Organization","id":"x","contained":[{"resourceType":"Patient","id":"c"}],"partOf":{"reference":"#c"}}"##,
        r#"{"resourceType":"Organization","id":"x","extension":[{"valueUri":"Observation?subject=Patient%2Fgone"}]}"#,
        r#"{"resourceType":"Organization","id":"x","extension":[{"valueUri":"Observation?patient=gone&code=1"}]}"#,
        r#"{"resourceType":"Organization","id":"x","extension":[{"valueUri":"Observation?code=1&patient=p,gone"}]}"#,
        r#"{"resourceType":"Organization","id":"x","extension":[{"valueUri":"Observation?subject:Patient=q%2Cgone"}]}"#,
    ] {
        assert_eq!(grant.admit(&entry(json), |_| {}).err(), Some(Withheld::ByPolicy), "{json}");
    }
    for json in [
        r#"{"resourceType":"Patient","id":"p"}"#,
        r#"{"resourceType":"Observation","id":"gone","subject":{"reference":"Patient/p"}}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"type":"Device","identifier":{"value":"v"}}}"#,
        r#"{"resourceType":"Observation","id":"o"}"#,
        r#"{"resourceType":"Organization","id":"x"}"#,
        r#"{"resourceType":"Organization","id":"x","identifier":[{"value":"v"}],"partOf":{"identifier":{"value":"v"}}}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"performer":[{"type":"Practitioner","identifier":{"value":"v"}}]}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"performer":[{"display":"Somebody"}]}"#,
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"performer":[{"identifier":{"value":"v"}}]}"#,
        r#"{"resourceType":"Organization","id":"x","subject":[{"characteristic":[]}]}"#,
        r#"{"resourceType":"Bundle","id":"b","entry":[{"resource":{"resourceType":"Patient","id":"p"}}]}"#,
        r#"{"resourceType":"Organization","id":"x","extension":[{"valueUri":"Observation?patient=gone2,p&subject=q"}]}"#,
        r#"{"resourceType":"Binary","id":"b","securityContext":{"reference":"Patient/p"}}"#,
    ] {
        assert!(grant.admit(&entry(json), |_| {}).is_ok(), "{json}");
    }
}

/// SEC-20: whoever is beside a member in a resource is one as well, or it is not known that it is nobody else's.
#[test]
fn what_may_be_somebody_elses_beside_a_member_is_not_decided() {
    let observation = |performer: &str| {
        let json = format!(
            r#"{{"resourceType":"Observation","id":"o","subject":{{"reference":"Patient/p"}},"performer":[{performer}],
            "contained":[{{"resourceType":"Patient","id":"c"}},{{"resourceType":"Practitioner","id":"d"}}]}}"#
        );
        json.split_whitespace().collect::<String>()
    };
    let of_several = |name: &str, subject: &str| {
        format!(r#"{{"resourceType":"{name}","id":"a","subject":[{{"reference":"Patient/p"}},{subject}]}}"#)
    };
    let account = |subject: &str| of_several("Account", subject);
    let types = ["Account", "Composition", "Observation", "Patient"].map(named).to_vec();
    let grant =
        |cohort| Grant::new(cohort, Compartments::R4, types.clone(), Vec::new(), vec!["http://h/fhir".to_owned()]);
    let [_, all, members] = levels();
    let (all, members) = (grant(all), grant(members));
    for json in [
        observation(r#"{"type":"Patient","identifier":{"value":"v"}}"#),
        observation(r#"{"type":"P\u0061tient","identifier":{"value":"v"}}"#),
        observation(r#"{"typ\u0065":"Patient","identifier":{"value":"v"}}"#),
        observation(r#"{"type":"Patient","display":"Somebody"}"#),
        observation(r#"{"type":"Device","type":"Patient","identifier":{"value":"v"}}"#),
        observation(r#"{"reference":"https://other.example/fhir/Patient/z"}"#),
        observation(r#"{"reference":"https://other.example/fhir/Patient/z/_history/2"}"#),
        observation(r#"{"reference":"Patient?identifier=s|v"}"#),
        observation(r#"{"reference":"Patient/no id"}"#).replace("noid", "no id"),
        observation(r#"{"reference":"urn:uuid:4f0f3f0a-0000-4000-8000-000000000000"}"#),
        observation(r##"{"reference":"#c"}"##),
        observation(r##"{"reference":"#nobody"}"##),
        account(r#"{"identifier":{"value":"v"}}"#),
        of_several("Composition", r#"{"identifier":{"value":"v"}}"#),
        account(r#"{"type":"Patient","identifier":{"value":"v"}}"#),
    ] {
        let entry = entry(&json);
        assert_eq!(members.admit(&entry, |_| {}).err(), Some(Withheld::Undecided), "{json}");
        assert_eq!(members.admit_associated(&entry, |_| {}).err(), Some(Withheld::Undecided), "{json}");
        assert_eq!(members.fate(&entry), Fate::IsUnknown, "{json}");
        assert!(members.admit_deletion(entry.resource_type, &entry.id, Some(&entry), |_| {}).is_none(), "SEC-27");
        assert!(all.admit(&entry, |_| {}).is_ok(), "whoever it is, it is a patient's: {json}");
    }
    for json in [
        observation(r#"{"reference":"Practitioner/1"}"#),
        observation(r#"{"reference":"Practitioner/dr_smith"}"#),
        observation(r#"{"reference":"/Practitioner/1/_history/3"}"#),
        observation(r#"{"reference":"Organization/1#a"}"#),
        observation(r#"{"reference":"https://other.example/fhir/Practitioner/1"}"#),
        observation(r#"{"reference":"Practitioner?identifier=s|v"}"#),
        observation(r##"{"reference":"#d"}"##),
        observation(r##"{"reference":"#"}"##),
        observation(r#"{"type":"Practitioner","identifier":{"value":"v"}}"#),
        observation(r#"{"identifier":{"value":"v"}}"#),
        observation(r#"{"display":"Somebody"}"#),
        // Whom it is not a part of the compartment of.
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"focus":[{"type":"Patient","identifier":{"value":"v"}}]}"#.to_owned(),
        account(r#"{"reference":"Device/1"}"#),
        account(r#"{"type":"Device","identifier":{"value":"v"}}"#),
    ] {
        let entry = entry(&json);
        assert!(members.admit(&entry, |_| {}).is_ok(), "{json}");
        assert_eq!(members.fate(&entry), Fate::MayLeave, "{json}");
    }
    for subject in [r#"{"display":"Somebody"}"#, r#"{"type":"Patient"}"#, r#"{"identifier":{"value":"v"}}"#] {
        let json = format!(
            r#"{{"resourceType":"Observation","id":"o","subject":{subject},"performer":[{{"reference":"Patient/p"}}]}}"#
        );
        assert_eq!(members.admit(&entry(&json), |_| {}).err(), Some(Withheld::Undecided), "{subject}");
    }
    let without_a_subject = r#"{"resourceType":"Observation","id":"o","performer":[{"reference":"Patient/p"}]}"#;
    assert!(members.admit(&entry(without_a_subject), |_| {}).is_ok());
    let many = vec![r##"{"reference":"#d"}"##; 20_000].join(",");
    assert!(members.admit(&entry(&observation(&many)), |_| {}).is_ok(), "in no more time than it takes to read");
}

/// SEC-26
#[test]
fn what_is_taken_out_is_not_followed_and_decides_still() {
    let members = Cohort::Members(vec![Id::parse("p").expect("an id")]);
    let grant = grant(members, r#"{"removed":["Observation.performer","Observation.subject"]}"#, "");
    let own = entry(
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"performer":[{"reference":"Practitioner/d"}],"status":"final"}"#,
    );
    let line = grant.admit(&own, |_| {}).expect("it is a member's").into_bytes();
    let line = std::str::from_utf8(&line).expect("text");
    assert!(line.contains("SUBSETTED") && line.contains(r#""status":"final"}"#), "{line}");
    assert!(!line.contains("Patient/p") && !line.contains("Practitioner"), "{line}");
    assert_eq!(grant.follows(&own).count(), 0);
    let other = entry(r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/q"}}"#);
    assert_eq!(grant.admit(&other, |_| {}).err(), Some(Withheld::OutsideCohort));
}

/// A grant of Observations and Patients, to which Devices and Practitioners come along by reference.
fn with_devices(cohort: Cohort) -> Grant {
    let bases = vec!["http://h/fhir".to_owned()];
    let (types, context) = (["Observation", "Patient"].map(named), ["Device", "Practitioner"].map(named));
    Grant::new(cohort, Compartments::R4, types.to_vec(), context.to_vec(), bases)
}

/// SEC-23: a Device with a patient must name one of the cohort's.
#[test]
fn what_comes_along_belongs_to_nobody_else() {
    let [everything, _, members] = levels();
    for (json, expected) in [
        (r#"{"resourceType":"Practitioner","id":"d"}"#, Ok(vec![])),
        (r#"{"resourceType":"Device","id":"d"}"#, Ok(vec![])),
        (r#"{"resourceType":"Device","id":"d","patient":{"reference":"Patient/p"}}"#, Ok(vec!["p"])),
        (r#"{"resourceType":"Device","id":"d","patient":{"reference":"Patient/q"}}"#, Err(Withheld::SharedWithOthers)),
        (r#"{"resourceType":"Device","id":"d","patient":{"reference":"Group/q"}}"#, Err(Withheld::Undecided)),
        (r#"{"resourceType":"Device","id":"d","patient":{"identifier":{"value":"q"}}}"#, Err(Withheld::Undecided)),
        (
            r#"{"resourceType":"Device","id":"d","patient":{"reference":"Patient?identifier=q"}}"#,
            Err(Withheld::Undecided),
        ),
        (r#"{"resourceType":"Device","id":"d","owner":{"reference":"Patient/q"}}"#, Ok(vec![])),
    ] {
        let mut noted = Vec::new();
        let admitted = with_devices(members.clone()).admit(&entry(json), |id| noted.push(id.to_string()));
        let expected = expected.map(|ids| ids.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(admitted.map(|_| noted), expected, "{json}");
        let whole = with_devices(everything.clone()).admit(&entry(json), |_| {}).err();
        assert_eq!(whole, Some(Withheld::Type), "by its type or not at all: {json}");
    }
}

/// SEC-23: where every patient is one of the export's, a Device of somebody who is not named is one of theirs.
#[test]
fn what_comes_along_to_everybody_may_be_anybodys() {
    let grant = with_devices(Cohort::AllPatients);
    for patient in [r#"{"identifier":{"value":"q"}}"#, r#"{"reference":"Patient/q"}"#] {
        let device = format!(r#"{{"resourceType":"Device","id":"d","patient":{patient}}}"#);
        assert!(grant.admit(&entry(&device), |_| {}).is_ok(), "{patient}");
    }
}

/// SEC-23: of a type that may be somebody's, what does not say whose it is comes along only if it names nobody.
#[test]
fn what_may_be_somebodys_comes_along_if_it_names_a_member_or_nobody() {
    let bases = vec!["http://h/fhir".to_owned()];
    let [_, _, members] = levels();
    let grant = Grant::new(members, Compartments::R4, vec![ResourceType::PATIENT], vec![named("Task")], bases);
    for (json, expected) in [
        (r#"{"resourceType":"Task","id":"t"}"#, None),
        (r#"{"resourceType":"Task","id":"t","for":{"reference":"Patient/p"}}"#, None),
        (r#"{"resourceType":"Task","id":"t","for":{"reference":"Patient/q"}}"#, Some(Withheld::SharedWithOthers)),
        (r#"{"resourceType":"Task","id":"t","for":{"identifier":{"value":"q"}}}"#, Some(Withheld::Undecided)),
        (r#"{"resourceType":"Task","id":"t","for":{"reference":"Group/g"}}"#, Some(Withheld::Undecided)),
        (r#"{"resourceType":"Task","id":"t","contained":[{"resourceType":"Basic"}]}"#, Some(Withheld::Undecided)),
    ] {
        assert_eq!(grant.admit(&entry(json), |_| {}).err(), expected, "{json}");
    }
}

/// DS-025, BD-025: the line has the public base, and no more than was asked for.
#[test]
fn what_leaves_is_on_the_public_base_and_as_far_as_it_was_asked_for() {
    let json = r#"{"resourceType":"Observation","id":"o","status":"final","code":{},"note":[{"text":"x"}],"subject":{"reference":"http://h/fhir/Patient/p"}}"#;
    let observation = entry(json);
    let text = |grant: Grant| {
        let line = grant.admit(&observation, |_| {}).expect("it may leave").into_bytes();
        String::from_utf8(line.to_vec()).expect("text")
    };
    let plain = || grant(Cohort::AllPatients, "{}", "");
    assert_eq!(text(plain()), format!("{json}\n"));
    assert_eq!(
        text(plain().on_base("https://public/r4")),
        format!("{json}\n").replace("http://h/fhir", "https://public/r4")
    );
    let wanted = "Observation.status".parse().map(|element| {
        let mut wanted = Wanted::default();
        wanted.insert(element);
        wanted
    });
    let cut = text(plain().of_elements(Some(&wanted.expect("an element"))));
    assert!(cut.contains("\"status\"") && cut.contains("SUBSETTED") && !cut.contains("\"note\""), "{cut}");
}

#[test]
fn a_line_shows_its_length_and_nothing_else() {
    let line = grant(Cohort::Everything, "{}", "").admit(&entry(r#"{"resourceType":"Patient","id":"p"}"#), |_| {});
    assert_eq!(format!("{:?}", line.expect("it may leave")), "Line(36 bytes)");
}

/// SEC-20, DS-024: what belongs to a member and to somebody else is neither's.
#[test]
fn what_lies_in_the_compartment_of_somebody_else_as_well_stays() {
    let [_, _, members] = levels();
    for (references, expected) in [
        (r#""subject":{"reference":"Patient/p"}"#, None),
        (r#""subject":{"reference":"Patient/p"},"performer":[{"reference":"Practitioner/q"}]"#, None),
        (
            r#""subject":{"reference":"Patient/p"},"performer":[{"reference":"Patient/q"}]"#,
            Some(Withheld::SharedWithOthers),
        ),
        (r#""subject":{"reference":"Patient/q"}"#, Some(Withheld::OutsideCohort)),
        (r#""subject":{"reference":"Group/p"}"#, Some(Withheld::OutsideCohort)),
        (r#""status":"final""#, Some(Withheld::OutsideCohort)),
    ] {
        let own = entry(&format!(r#"{{"resourceType":"Observation","id":"o",{references}}}"#));
        assert_eq!(with_devices(members.clone()).admit(&own, |_| {}).err(), expected, "{references}");
    }
}

#[test]
fn only_types_that_come_along_are_followed() {
    let own = entry(
        r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"encounter":{"reference":"Encounter/e"},"performer":[{"reference":"http://h/fhir/Practitioner/d"},{"reference":"http://elsewhere/fhir/Practitioner/x"}],"device":{"reference":"Device/v"}}"#,
    );
    let grant = with_devices(Cohort::AllPatients);
    let followed: BTreeSet<_> = grant.follows(&own).map(|found| found.id.to_string()).collect();
    assert_eq!(followed, BTreeSet::from(["d".to_owned(), "v".to_owned()]));
}

#[test]
fn only_what_names_nobody_of_the_cohort_is_foreign() {
    let [everything, _, members] = levels();
    for (json, expected) in [
        (r#"{"resourceType":"Patient","id":"p"}"#, false),
        (r#"{"resourceType":"Patient","id":"q"}"#, true),
        (r#"{"resourceType":"Observation","id":"o"}"#, false),
        (r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/q"}}"#, true),
        (r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"}}"#, false),
        (
            r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/q"},"performer":[{"reference":"Patient/p"}]}"#,
            false,
        ),
    ] {
        assert_eq!(with_devices(members.clone()).is_foreign(&entry(json)), expected, "{json}");
        assert!(!with_devices(everything.clone()).is_foreign(&entry(json)), "{json}");
    }
}

#[test]
fn it_is_known_what_single_resources_decide() {
    for cohort in levels() {
        let is_everything = matches!(cohort, Cohort::Everything);
        let plain = with_devices(cohort.clone());
        assert_eq!((plain.keeps_back_resources(), plain.asks_for_last_versions()), (false, !is_everything));
        for (policy, withdrawn, expected) in [
            ("{}", "", false),
            (r#"{"withheld":["s|x"]}"#, "", true),
            ("{}", "gone", true),
            (r#"{"removed":["*.text"]}"#, "", false),
        ] {
            let grant = grant(cohort.clone(), policy, withdrawn);
            assert_eq!(grant.keeps_back_resources(), expected, "{policy} {withdrawn}");
            assert_eq!(grant.asks_for_last_versions(), expected || !is_everything, "{policy} {withdrawn}");
        }
    }
}

/// SEC-27
#[test]
fn what_was_received_and_is_gone_is_told_if_its_type_is_in_the_export() {
    let grant = with_devices(Cohort::Everything);
    let reference = |text: &str| LocalReference::parse_on(text, &[]).expect("a reference");
    let told = grant.admit_deletion_of_received(&reference("Patient/p")).expect("a line");
    assert_eq!(told.len(), told.clone().into_bytes().len());
    assert!(told.len() > 1 && told.into_bytes().ends_with(b"\n"));
    assert!(grant.admit_deletion_of_received(&reference("Encounter/e")).is_none());
}

#[test]
fn what_tells_of_other_records_names_them() {
    let mut grant = grant(Cohort::Everything, r#"{"withheld":["x"]}"#, "");
    grant.types.push(ResourceType::AUDIT_EVENT);
    let told = |json: &str| {
        let told = grant.tells_of(&entry(json)).into_iter();
        told.map(|told| (told.of.map(|of| of.id.to_string()), told.is_subject)).collect::<Vec<_>>()
    };
    let id = |text: &str| Some(text.to_owned());
    for (json, expected) in [
        (
            r#"{"resourceType":"Provenance","id":"v","target":[{"reference":"Observation/o"},{"reference":"urn:x"}],"entity":[{"what":{"reference":"Observation/e"}},{"what":{"reference":"urn:y"}}]}"#,
            vec![(id("o"), true), (None, true), (id("e"), false)],
        ),
        (
            r#"{"resourceType":"AuditEvent","id":"a","entity":[{"what":{"reference":"Patient/p"}}],"agent":[{"who":{"reference":"Practitioner/d"}}]}"#,
            vec![(id("p"), true), (id("d"), false)],
        ),
        (r#"{"resourceType":"Binary","id":"b","securityContext":{"reference":"Patient/p"}}"#, vec![(id("p"), true)]),
        (r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"}}"#, vec![]),
    ] {
        assert_eq!(told(json), expected, "{json}");
    }
}

/// BD-008: a member that is no patient leaves, whomever it names; others of its type leave as what comes along does, or not.
#[test]
fn members_that_are_no_patients_leave_for_themselves_alone() {
    let ids = |ids: &[&str]| ids.iter().map(|id| Id::parse(id).expect("an id")).collect::<Vec<_>>();
    let others = BTreeMap::from([(named("Device"), ids(&["d"])), (named("Practitioner"), ids(&["m"]))]);
    for members in [vec![], ids(&["p"])] {
        let grant = grant(Cohort::Members(members), "{}", "").with_others(others.clone());
        for (json, leaves) in [
            (r#"{"resourceType":"Device","id":"d"}"#, true),
            (r#"{"resourceType":"Device","id":"d","patient":{"reference":"Patient/q"}}"#, false),
            (r#"{"resourceType":"Device","id":"e"}"#, false),
            // It may be referred to.
            (r#"{"resourceType":"Practitioner","id":"n"}"#, true),
            (r#"{"resourceType":"Observation","id":"d","performer":[{"reference":"Practitioner/m"}]}"#, false),
            (r#"{"resourceType":"Patient","id":"d"}"#, false),
        ] {
            assert_eq!(grant.admit(&entry(json), |_| {}).is_ok(), leaves, "{json}");
        }
        assert!(grant.is_foreign(&entry(r#"{"resourceType":"Device","id":"e"}"#)));
        assert!(!grant.is_foreign(&entry(r#"{"resourceType":"Device","id":"d"}"#)));
    }
    // Consent and labels are heeded of them as of all.
    let withdrawn = grant(Cohort::Members(ids(&["q"])), "{}", "q").with_others(others);
    let device = entry(r#"{"resourceType":"Device","id":"d","patient":{"reference":"Patient/q"}}"#);
    assert_eq!(withdrawn.admit(&device, |_| {}).err(), Some(Withheld::ByPolicy));
}

/// SEC-20: whose a record is decides whether it may be told of.
#[test]
fn what_is_somebody_elses_may_not_be_told_of() {
    use Fate::{IsOfOthers, IsUnknown, MayLeave};
    let others = BTreeMap::from([(named("Device"), vec![Id::parse("d").expect("an id")])]);
    let grant = grant(Cohort::Members(vec![Id::parse("p").expect("an id")]), "{}", "").with_others(others);
    for (json, expected) in [
        (r#"{"resourceType":"Patient","id":"p"}"#, MayLeave),
        (r#"{"resourceType":"Patient","id":"q"}"#, IsOfOthers),
        (r#"{"resourceType":"Device","id":"d","patient":{"reference":"Patient/q"}}"#, IsOfOthers),
        (r#"{"resourceType":"Device","id":"e","patient":{"reference":"Patient/q"}}"#, IsOfOthers),
        (r#"{"resourceType":"Device","id":"e","patient":{"identifier":{"value":"v"}}}"#, IsUnknown),
        (r#"{"resourceType":"Device","id":"e"}"#, MayLeave),
        (r#"{"resourceType":"Medication","id":"e"}"#, MayLeave),
        (r#"{"resourceType":"Provenance","id":"e","target":[{"reference":"Patient/p"}]}"#, IsUnknown),
        (r#"{"resourceType":"Binary","id":"b","securityContext":{"reference":"Patient/p"}}"#, MayLeave),
        (r#"{"resourceType":"Binary","id":"b","securityContext":{"reference":"Patient/q"}}"#, IsOfOthers),
        (r#"{"resourceType":"Binary","id":"b","securityContext":{"reference":"Practitioner/q"}}"#, IsUnknown),
        (r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"}}"#, MayLeave),
        (
            r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/p"},"performer":[{"reference":"Patient/q"}]}"#,
            IsOfOthers,
        ),
        (r#"{"resourceType":"Observation","id":"o","focus":[{"reference":"Patient/p"}]}"#, IsUnknown),
        (r#"{"resourceType":"Task","id":"t","for":{"reference":"Patient/p"}}"#, MayLeave),
        (
            r#"{"resourceType":"Task","id":"t","for":{"reference":"Patient/p"},"owner":{"reference":"Patient/q"}}"#,
            IsOfOthers,
        ),
        (
            r#"{"resourceType":"Task","id":"t","for":{"identifier":{"value":"v"}},"owner":{"reference":"Patient/p"}}"#,
            IsUnknown,
        ),
        (r#"{"resourceType":"Task","id":"t"}"#, IsUnknown),
        (
            r#"{"resourceType":"Bundle","id":"t","entry":[{"resource":{"resourceType":"Patient","link":[{"other":{"reference":"Patient/p"}}]}}]}"#,
            IsUnknown,
        ),
    ] {
        assert_eq!(grant.fate(&entry(json)), expected, "{json}");
    }
}

/// SEC-20, BD-034: what is found as something of others leaves without a patient of its own, and never with somebody else's.
#[test]
fn what_was_found_as_something_of_others_names_nobody_else() {
    let of_observation = r#"{"resourceType":"Provenance","id":"v","target":[{"reference":"Observation/o"}]}"#;
    let of_member =
        r#"{"resourceType":"Provenance","id":"v","target":[{"reference":"Observation/o"},{"reference":"Patient/p"}]}"#;
    let of_others =
        r#"{"resourceType":"Provenance","id":"v","target":[{"reference":"Observation/o"},{"reference":"Patient/q"}]}"#;
    for cohort in levels() {
        let is_group = matches!(cohort, Cohort::Members(_));
        let grant = grant(cohort.clone(), "{}", "").with_provenance(ProvenanceOf::Exported);
        let mut noted = Vec::new();
        let mut admitted = |json: &str| grant.admit_associated(&entry(json), |id| noted.push(id.to_string())).map(drop);
        assert_eq!(admitted(of_observation), Ok(()), "{cohort:?}");
        assert_eq!(admitted(of_member), Ok(()), "{cohort:?}");
        let expected = if is_group { Err(Withheld::SharedWithOthers) } else { Ok(()) };
        assert_eq!(admitted(of_others), expected, "{cohort:?}");
        let encounter = entry(r#"{"resourceType":"Encounter","id":"e"}"#);
        assert_eq!(grant.admit_associated(&encounter, |_| {}).err(), Some(Withheld::Type), "{cohort:?}");
        // What it is about is looked at although it names no patient.
        assert_eq!(grant.tells_of(&entry(of_observation)).len(), 1, "{cohort:?}");
        assert_eq!(noted.first().map(String::as_str), Some("p"), "{cohort:?}");
    }
}

/// BD-034: what makes Provenance a patient's, where all patients are exported.
#[test]
fn a_record_of_any_patient_makes_what_is_about_it_theirs() {
    let grant = grant(Cohort::AllPatients, "{}", "").with_provenance(ProvenanceOf::Records);
    assert!(grant.minds_what_is_told() && !grant.minds_who_is_told_of());
    for (json, expected) in [
        (r#"{"resourceType":"Patient","id":"x"}"#, Fate::MayLeave),
        (r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/x"}}"#, Fate::MayLeave),
        (r#"{"resourceType":"Observation","id":"o","subject":{"reference":"Location/x"}}"#, Fate::IsNobodys),
        (r#"{"resourceType":"Practitioner","id":"d"}"#, Fate::IsNobodys),
        (r#"{"resourceType":"Group","id":"g","member":[{"entity":{"reference":"Patient/x"}}]}"#, Fate::IsNobodys),
    ] {
        assert_eq!(grant.fate(&entry(json)), expected, "{json}");
    }
}

/// BD-040, SEC-14, SEC-20: no block says anything of whoever is not exported.
#[test]
fn a_block_is_begun_for_nobody_but_who_is_exported() {
    let id = |id: &str| Id::parse(id).expect("an id");
    let members = Cohort::Members(vec![id("gone"), id("p")]);
    for (cohort, patient, has_block) in [
        (members.clone(), "p", true),
        (members.clone(), "q", false),
        (members, "gone", false),
        (Cohort::AllPatients, "q", true),
        (Cohort::AllPatients, "gone", false),
    ] {
        assert_eq!(grant(cohort, "{}", "gone").admit_header(&id(patient)).is_some(), has_block, "{patient}");
    }
}
