use super::*;

fn look(json: &str) -> Inside<'_> {
    look_inside(json.as_bytes()).expect("an object")
}

fn labels<'a>(inside: &'a Inside<'_>) -> Vec<(Option<&'a str>, &'a str)> {
    inside.labels.iter().map(|label| (label.system.as_deref(), &*label.code)).collect()
}

/// Servers that cut texts by the number of their units leave halves of characters behind.
#[test]
fn half_a_character_matters_only_where_it_could_be_a_label() {
    let inside = look(r#"{"meta":{"security":[{"system":"s","code":"R","display":"\ud83d"}]},"text":"cut \ud83d"}"#);
    assert_eq!((labels(&inside), inside.has_strange_label), (vec![(Some("s"), "R")], false));
    assert!(look(r#"{"meta":{"security":[{"system":"s","code":"\ud83d"}]}}"#).has_strange_label);
    assert!(look_inside(br#"{"\ud83d":1}"#).is_none(), "a name that is none");
}

/// SEC-26: wherever a label stands, and however its name is written.
#[test]
fn labels_are_found_wherever_they_stand() {
    for json in [
        r#"{"resourceType":"Basic","meta":{"security":[{"system":"s","code":"R"}]}}"#,
        r#"{"resourceType":"Basic","\u006deta":{"secur\u0069ty":[{"s\u0079stem":"s","c\u006fde":"\u0052"}]}}"#,
        r#"{"resourceType":"Basic","meta":{"security":{"code":"R","system":"s"}}}"#,
        r#"{"resourceType":"Basic","meta":{"security":[[{"code":"R","system":"s"}]]}}"#,
        r#"{"resourceType":"Basic","meta":[{"security":[{"code":"R","system":"s"}]}]}"#,
        r#"{"contained":[{"resourceType":"Basic","meta":{"security":[{"system":"s","code":"R"}]}}],"resourceType":"Basic"}"#,
        r#"{"contained":[{"contained":[{"contained":[{"meta":{"security":[{"system":"s","code":"R"}]}}]}]}]}"#,
        r#"{"resourceType":"Bundle","entry":[{"resource":{"meta":{"security":[{"system":"s","code":"R"}]}}}]}"#,
        r#"{"resourceType":"Parameters","parameter":[{"part":[{"resource":{"meta":{"security":[{"system":"s","code":"R"}]}}}]}]}"#,
        r#"{"resourceType":"Basic","name":[{"extension":[{"valueCoding":{"system":"s","code":"R"},"url":"inline"}]}]}"#,
        r#"{"resourceType":"Basic","_x":{"extension":[{"valueCodeableConcept":{"coding":[{"system":"s","code":"R"}]}}]}}"#,
    ] {
        let inside = look(json);
        assert_eq!(labels(&inside), [(Some("s"), "R")], "{json}");
        assert!(!inside.has_strange_label, "{json}");
    }
    for json in [
        r#"{"resourceType":"DocumentReference","securityLabel":[{"coding":[{"system":"s","code":"R"}]}]}"#,
        r#"{"contained":[{"resourceType":"DocumentReference","securityLabel":[{"coding":[{"system":"s","code":"R"}]}]}]}"#,
    ] {
        assert_eq!(labels(&look(json)), [(Some("s"), "R")], "{json}");
    }
    let document = look(r#"{"resourceType":"Bundle","entry":[{"resource":{"confidentiality":"R"}}]}"#);
    assert_eq!(labels(&document), [(Some(CONFIDENTIALITY), "R")]);
    let two = look(r#"{"meta":{"security":[{"code":"a"}],"security":[{"system":"s","code":"b"}]}}"#);
    assert_eq!(labels(&two), [(None, "a"), (Some("s"), "b")], "a name that stands there twice");
    let none = look(
        r#"{"resourceType":"Consent","provision":{"securityLabel":[{"system":"s","code":"R"}]},"code":{"coding":[{"code":"R"}]}}"#,
    );
    assert_eq!(labels(&none), [], "what is said of others is no label");
}

/// SEC-20: what cannot be decided is said.
#[test]
fn what_is_no_label_where_one_should_be_is_strange() {
    for security in [
        "[{}]",
        r#"[{"system":"s"}]"#,
        r#"[{"display":"Restricted"}]"#,
        r#"[{"code":""}]"#,
        r#"[{"code":" "}]"#,
        r#"[{"code":5}]"#,
        r#"[{"code":null}]"#,
        r#"[{"code":["R"]}]"#,
        r#"[{"code":{"x":"R"}}]"#,
        r#"[{"code":"a","code":"R"}]"#,
        r#"[{"code":"a","system":"s","system":"t"}]"#,
        r#"[{"code":"a","system":7}]"#,
        r#"["R"]"#,
        r#""R""#,
        "[null]",
        "null",
        "true",
    ] {
        let json = format!(r#"{{"resourceType":"Basic","id":"a","meta":{{"security":{security}}}}}"#);
        assert!(look(&json).has_strange_label, "{security}");
    }
    assert!(look(r#"{"contained":[{"meta":"R"}]}"#).has_strange_label);
    assert!(look(r#"{"securityLabel":[{"text":"R"}]}"#).has_strange_label);
    assert!(look(r#"{"securityLabel":["R"]}"#).has_strange_label);
    let many = format!(r#"{{"meta":{{"security":[{}]}}}}"#, vec![r#"{"code":"a"}"#; MOST_LABELS + 1].join(","));
    assert!(look(&many).has_strange_label, "one of those that are not looked at may be it");
    for fine in [
        r#"{"meta":{"security":[]}}"#,
        r#"{"meta":{"tag":[{"system":"s"}]}}"#,
        r#"{"security":"x","code":"y"}"#,
        r#"{"extension":[{"valueCoding":{"display":"x"}}],"type":5,"code":{"coding":[]}}"#,
    ] {
        assert!(!look(fine).has_strange_label, "{fine}");
    }
}

/// The labels of a tree: what stands in `security` of whatever is called `meta`.
fn labels_of(value: &serde_json::Value, codes: &mut Vec<String>) {
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(|item| labels_of(item, codes)),
        serde_json::Value::Object(members) => {
            let security = members.get("meta").and_then(|meta| meta.get("security"));
            let labels = security.into_iter().flat_map(|list| list.as_array().into_iter().flatten());
            codes.extend(labels.filter_map(|label| label["code"].as_str().map(str::to_owned)));
            members.values().for_each(|member| labels_of(member, codes));
        }
        _ => {}
    }
}

/// Whatever a resource looks like, the labels that are found are those of its tree.
#[test]
fn the_labels_in_the_bytes_are_those_of_the_tree() {
    use serde_json::{Map, Value, json};
    fn below(dice: &mut u64, most: u64) -> u64 {
        *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*dice >> 33) % most
    }
    fn tree(dice: &mut u64, depth: u64) -> Value {
        match below(dice, if depth == 0 { 2 } else { 6 }) {
            0 => json!(below(dice, 9)),
            1 => json!("a \"text\" \\ {[:,"),
            2 => Value::Array((0..below(dice, 4)).map(|_| tree(dice, depth - 1)).collect()),
            _ => {
                let names = ["contained", "entry", "resource", "code", "system", "security", "x\"y", "reference"];
                let mut members = Map::new();
                if below(dice, 3) == 0 {
                    let codes: Vec<_> = (0..below(dice, 3))
                        .map(|_| json!({ "code": format!("c{}", below(dice, 99)), "system": "s" }))
                        .collect();
                    members.insert("meta".to_owned(), json!({ "security": codes, "tag": [{ "code": "t" }] }));
                }
                for _ in 0..below(dice, 4) {
                    let name = names[usize::try_from(below(dice, 8)).expect("small")];
                    members.insert(name.to_owned(), tree(dice, depth - 1));
                }
                Value::Object(members)
            }
        }
    }
    let (mut dice, mut many) = (7, 0);
    for _ in 0..3_000 {
        let value = json!({ "resourceType": "Basic", "a": tree(&mut dice, 6), "b": tree(&mut dice, 6) });
        let json = value.to_string();
        let inside = look(&json);
        let mut found: Vec<_> = inside.labels.iter().map(|label| label.code.to_string()).collect();
        let mut expected = Vec::new();
        labels_of(&value, &mut expected);
        many += usize::from(expected.len() > 1);
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{json}");
    }
    assert!(many > 500, "{many}");
}

#[test]
fn references_subjects_and_resources_are_found() {
    let json = r##"{"resourceType":"Observation","id":"o","subject":{"reference":"Patient\/1","type":"Patient"},
        "performer":[{"reference":"Practitioner/2"}],"contained":[{"resourceType":"Patient","id":"p","link":[{"other":{"reference":"Patient/3"}}]}],
        "focus":[{"identifier":{"system":"s","value":"v"}}],"note":[{"authorReference":{"reference":"#p"}}]}"##;
    let json: String = json.split_whitespace().collect();
    let inside = look(&json);
    let references: Vec<_> = inside.references.iter().map(|target| &**target).collect();
    assert_eq!(references, ["Patient/1", "Practitioner/2", "Patient/3", "#p"]);
    let [subject] = &inside.subjects[..] else { panic!("one subject") };
    let told = (subject.element, subject.reference.as_deref(), subject.kind.as_deref());
    assert_eq!(told, ("subject", Some("Patient/1"), Some("Patient")));
    let resources: Vec<_> = inside.resources.iter().map(|found| (&*found.resource_type, found.id.as_deref())).collect();
    assert_eq!(resources, [("Observation", Some("o")), ("Patient", Some("p"))]);
    assert!(json[inside.resources[1].start..].starts_with(r#"{"resourceType":"Patient""#));
    assert!(!inside.is_strange);
    assert!(inside.nameless.is_empty(), "a focus that does not say that it is a patient");
    let found = r#"{"resourceType":"Appointment","identifier":[{"value":"1"}],"participant":[
        {"actor":{"type":"Patient","display":"x"}},{"actor":{"identifier":{"value":"2"},"type":"Device"}},
        {"actor":{"type":"Patient","identifier":{"value":"3"}}},{"actor":{"display":"x"}},
        {"actor":{"type":"Device","type":"Group","identifier":{"value":"4"}}},{"type":[{"coding":[{"display":"x"}]}]}],
        "for":{"identifier":{"value":"5"}},"patient":{"display":"x"}}"#;
    let found: String = found.split_whitespace().collect();
    let found = look(&found);
    let paths: Vec<_> = found.nameless.iter().map(|found| (&*found.path, found.is_patient)).collect();
    assert_eq!(paths, [("participant.actor", true), ("for", false)], "each place once");
    assert!(!found.has_more_nameless && !found.is_strange);
    let nameless = look(r#"{"resourceType":"Observation","subject":[{"identifier":{"value":"v"}}]}"#);
    assert!(nameless.subjects.len() == 1 && nameless.subjects[0].reference.is_none());
    for strange in [
        r#"{"contained":[{"resourceType":"Patient","resourceType":"Basic"}]}"#,
        r#"{"contained":[{"resourceType":["Patient"]}]}"#,
        r#"{"subject":{"reference":"Patient/1","reference":"Patient/2"}}"#,
        r#"{"subject":{"reference":["Patient/1"]}}"#,
    ] {
        assert!(look(strange).is_strange, "{strange}");
    }
    let newer = look(r#"{"reason":[{"reference":{"reference":"Condition/1"}}]}"#);
    assert!(!newer.is_strange && newer.references.len() == 1, "a CodeableReference of R5");
}

/// Whatever there is of them, and however they are called, it takes little memory.
#[test]
fn many_references_without_a_name_are_few_places() {
    let many = |name: &str, count: usize| {
        vec![format!(r#""{name}":[{{"type":"Patient","identifier":{{}}}}]"#); count].join(",")
    };
    let one = format!("{{{}}}", many("a", 5_000));
    assert_eq!((look(&one).nameless.len(), look(&one).has_more_nameless), (1, false));
    let places: Vec<_> = (0..5_000).map(|number| many(&format!("a{number}"), 1)).collect();
    let others = format!("{{{}}}", places.join(","));
    assert_eq!((look(&others).nameless.len(), look(&others).has_more_nameless), (MOST_PLACES, true));
    let long = format!(r#"{{"a":{{{}}}}}"#, many(&"b".repeat(100_000), 1));
    assert_eq!(look(&long).nameless, [Nameless { path: "a".to_owned(), is_patient: true }]);
    let without = r#"{"resourceType":"PaymentReconciliation","detail":[X]}"#
        .replace('X', &vec![r#"{"identifier":{"value":"v"}}"#; 5_000].join(","));
    assert!(look(&without).nameless.is_empty() && !look(&without).is_strange);
}

#[test]
fn what_is_no_object_is_not_looked_into() {
    for bad in ["", "[]", "\"a\"", "{", "{\"a\"", "{\"a\":[}", "7"] {
        let looked = look_inside(bad.as_bytes());
        assert!(looked.is_none() || bad == "{\"a\":[}", "{bad}");
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    assert!(look_inside(deep.as_bytes()).is_none());
    assert!(look_inside(b"{\"a\":\"\xff\"}").is_none());
}
