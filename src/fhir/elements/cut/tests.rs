use serde_json::{Map, Value, json};

use super::*;
use crate::fhir::elements::Element;
use crate::fhir::inside::look_inside;

fn elements(texts: &[&str]) -> Elements {
    texts.iter().map(|text| text.parse::<Element>().expect("an element")).collect()
}

/// What is left of a compact resource; itself if nothing goes.
fn cut(texts: &[&str], json: &str) -> Result<String, NotUnderstood> {
    let line = format!("{json}\n");
    let inside = look_inside(line.as_bytes()).ok_or(NotUnderstood)?;
    let left = elements(texts).cut(line.as_bytes(), &inside)?;
    let left = left.map_or(line.clone(), |left| String::from_utf8(left).expect("it was text"));
    Ok(left.strip_suffix('\n').expect("a line has an end").to_owned())
}

fn tagged(json: &str) -> String {
    json.replace("TAG", TAG)
}

/// SEC-26, BD-028
#[test]
fn an_element_goes_with_all_that_could_tell_the_same() {
    for (what, elements, json, left) in [
        (
            "its sibling and the narrative",
            &["Patient.birthDate"][..],
            r#"{"resourceType":"Patient","id":"a","text":{"div":"x"},"birthDate":"1970-01-01","_birthDate":{"id":"x"},"active":true}"#,
            r#"{"meta":{"tag":[TAG]},"resourceType":"Patient","id":"a","active":true}"#,
        ),
        (
            "the same element in contained resources",
            &["Patient.telecom"],
            r#"{"resourceType":"Basic","id":"a","contained":[{"resourceType":"Patient","telecom":[{"value":"1"}],"id":"p","text":{}}],"text":{"div":"1"}}"#,
            r#"{"meta":{"tag":[TAG]},"resourceType":"Basic","id":"a","contained":[{"resourceType":"Patient","id":"p"}]}"#,
        ),
        (
            "a name that is written with escapes",
            &["Patient.telecom"],
            r#"{"resourceType":"Patient","id":"a","t\u0065lecom":[],"\u005ftelecom":[null]}"#,
            r#"{"meta":{"tag":[TAG]},"resourceType":"Patient","id":"a"}"#,
        ),
        (
            "a name that stands there twice",
            &["Patient.telecom"],
            r#"{"telecom":1,"resourceType":"Patient","id":"a","telecom":[2]}"#,
            r#"{"meta":{"tag":[TAG]},"resourceType":"Patient","id":"a"}"#,
        ),
        (
            "whatever type it has",
            &["Observation.value[x]"],
            r#"{"resourceType":"Observation","id":"a","valueQuantity":{"value":1.00},"valueless":2.50,"_valueString":{}}"#,
            r#"{"meta":{"tag":[TAG]},"resourceType":"Observation","id":"a","valueless":2.50}"#,
        ),
        (
            "what is below others, and what would be left empty",
            &["Patient.contact.telecom"],
            r#"{"resourceType":"Patient","id":"a","contact":[{"telecom":[1]},{"telecom":[2],"gender":"other"},{"_telecom":[3]}]}"#,
            r#"{"meta":{"tag":[TAG]},"resourceType":"Patient","id":"a","contact":[{"gender":"other"}]}"#,
        ),
        (
            "all that is left empty",
            &["Patient.contact.telecom"],
            r#"{"resourceType":"Patient","contact":[{"telecom":[1]}],"id":"a"}"#,
            r#"{"meta":{"tag":[TAG]},"resourceType":"Patient","id":"a"}"#,
        ),
        (
            "of every type",
            &["*.extension"],
            r#"{"resourceType":"Basic","id":"a","meta":{"versionId":"1"},"extension":[{}],"code":{"extension":[{}],"text":"t"}}"#,
            r#"{"resourceType":"Basic","id":"a","meta":{"tag":[TAG],"versionId":"1"},"code":{"extension":[{}],"text":"t"}}"#,
        ),
        (
            "in a resource in a Bundle in Parameters",
            &["Patient.telecom"],
            r#"{"resourceType":"Parameters","id":"a","meta":{},"parameter":[{"resource":{"resourceType":"Bundle","entry":[{"resource":{"telecom":[1],"resourceType":"Patient"}}]}}]}"#,
            r#"{"resourceType":"Parameters","id":"a","meta":{"tag":[TAG]},"parameter":[{"resource":{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient"}}]}}]}"#,
        ),
        (
            "with the tags that there are",
            &["Patient.telecom"],
            r#"{"resourceType":"Patient","id":"a","meta":{"tag":[{"code":"x"}]},"telecom":[]}"#,
            r#"{"resourceType":"Patient","id":"a","meta":{"tag":[TAG,{"code":"x"}]}}"#,
        ),
        (
            "with an empty list of tags",
            &["Patient.telecom"],
            r#"{"resourceType":"Patient","id":"a","meta":{"tag":[]},"telecom":[]}"#,
            r#"{"resourceType":"Patient","id":"a","meta":{"tag":[TAG]}}"#,
        ),
    ] {
        assert_eq!(cut(elements, json), Ok(tagged(left)), "{what}");
    }
}

#[test]
fn what_loses_nothing_stays_byte_for_byte() {
    for json in [
        r#"{"resourceType":"Basic","id":"a","text":{"div":"x"},"telecom":[1.00],"e":[],"o":{}}"#,
        r#"{"resourceType":"Patient","id":"a","x":[1.00,-2.5E+10,"\u00e9 \" \\"],"e":[],"o":{},"contact":[{}]}"#,
    ] {
        assert_eq!(cut(&["Patient.telecom", "Patient.contact.telecom"], json).as_deref(), Ok(json));
    }
}

/// SEC-20: what is not understood does not leave.
#[test]
fn what_is_not_understood_is_not_cut() {
    for json in [
        r#"{"resourceType":"Patient","id":"a","meta":[],"telecom":[]}"#,
        r#"{"resourceType":"Patient","id":"a","meta":{"tag":{}},"telecom":[]}"#,
        r#"{"resourceType":"Patient","id":"a","meta":{"tag":[],"tag":[]},"telecom":[]}"#,
        r#"{"resourceType":"Patient","contained":[{"resourceType":"Basic","resourceType":"Patient"}]}"#,
    ] {
        assert_eq!(cut(&["Patient.telecom"], json), Err(NotUnderstood), "{json}");
    }
}

/// Numbers as good as chance, the same for each seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

const NAMES: [&str; 10] = [
    "telecom",
    "_telecom",
    "contact",
    "text",
    "valueQuantity",
    "valueString",
    "name",
    "contained",
    "resource",
    "\u{e9}\"",
];
const TYPES: [&str; 3] = ["Patient", "Basic", "Observation"];

fn tree(dice: &mut Dice, depth: u64) -> Value {
    match dice.below(if depth == 0 { 3 } else { 7 }) {
        0 => json!(dice.below(100)),
        1 => json!(["a", "b\"\\", "\u{1f600}\n"][usize::try_from(dice.below(3)).expect("small")]),
        2 => json!([null, true, 1.5]),
        3 => Value::Array((0..dice.below(4)).map(|_| tree(dice, depth - 1)).collect()),
        _ => {
            let mut members = Map::new();
            if dice.below(3) == 0 {
                members.insert("resourceType".to_owned(), TYPES[usize::try_from(dice.below(3)).expect("small")].into());
            }
            for _ in 0..dice.below(5) {
                let name = NAMES[usize::try_from(dice.below(NAMES.len() as u64)).expect("small")];
                members.insert(name.to_owned(), tree(dice, depth - 1));
            }
            Value::Object(members)
        }
    }
}

/// The rules once more, on a tree: whether anything went, and what is left, if anything is.
fn without(value: &Value, rules: &[(Option<&str>, Vec<&str>)], paths: &[Vec<&str>], lost: &mut bool) -> Option<Value> {
    match value {
        Value::Array(items) => {
            let left: Vec<_> = items.iter().filter_map(|item| without(item, rules, paths, lost)).collect();
            (!left.is_empty() || items.is_empty()).then_some(Value::Array(left))
        }
        Value::Object(members) => {
            let of = members.get("resourceType").and_then(Value::as_str);
            let mut paths = paths.to_vec();
            if let Some(of) = of {
                paths.extend(
                    rules.iter().filter(|(own, _)| own.is_none_or(|own| own == of)).map(|(_, path)| path.clone()),
                );
            }
            let mut left = Map::new();
            for (name, member) in members {
                let own = name.trim_start_matches('_');
                let fits = |path: &&Vec<&str>| path[0] == own || (path[0] == "value" && own.starts_with("value"));
                if (own == "text" && of.is_some()) || paths.iter().any(|path| path.len() == 1 && fits(&path)) {
                    *lost = true;
                    continue;
                }
                let below: Vec<_> = paths.iter().filter(fits).map(|path| path[1..].to_vec()).collect();
                if let Some(member) = without(member, rules, &below, lost) {
                    left.insert(name.clone(), member);
                }
            }
            (!left.is_empty() || members.is_empty()).then_some(Value::Object(left))
        }
        other => Some(other.clone()),
    }
}

fn has(value: &Value, concerns: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| has(item, concerns)),
        Value::Object(members) => {
            members.get("resourceType").and_then(Value::as_str).is_some_and(concerns)
                || members.values().any(|member| has(member, concerns))
        }
        _ => false,
    }
}

/// Whatever a resource looks like, what is left is the tree without what goes.
#[test]
fn the_bytes_that_are_left_are_the_tree_that_is_left() {
    let texts = ["Patient.telecom", "*.contact.name", "Observation.value[x]", "Patient.contact.telecom"];
    let rules: Vec<(Option<&str>, Vec<&str>)> = vec![
        (Some("Patient"), vec!["telecom"]),
        (None, vec!["contact", "name"]),
        (Some("Observation"), vec!["value"]),
        (Some("Patient"), vec!["contact", "telecom"]),
    ];
    let own = &rules;
    for (some, dice) in [(&texts[..], 1), (&texts[..1], 2), (&texts[2..], 3)] {
        let rules: Vec<_> = match dice {
            1 => own.clone(),
            2 => own[..1].to_vec(),
            _ => own[2..].to_vec(),
        };
        let concerns = |of: &str| rules.iter().any(|(own, _)| own.is_none_or(|own| own == of));
        let (mut dice, mut changed) = (Dice(dice), 0);
        for round in 0..3_000 {
            let mut root = Map::new();
            root.insert("id".to_owned(), "a".into());
            root.insert("resourceType".to_owned(), TYPES[usize::try_from(dice.below(3)).expect("small")].into());
            if dice.below(2) == 0 {
                root.insert("meta".to_owned(), json!({ "versionId": "1" }));
            }
            for _ in 0..dice.below(6) {
                let name = NAMES[usize::try_from(dice.below(NAMES.len() as u64)).expect("small")];
                root.insert(name.to_owned(), tree(&mut dice, 5));
            }
            let root = Value::Object(root);
            let mut lost = false;
            let mut expected = root.clone();
            if has(&root, &concerns) {
                expected = without(&root, &rules, &[], &mut lost).expect("an id is left");
            }
            if lost {
                changed += 1;
                expected["meta"]["tag"] = json!([serde_json::from_str::<Value>(TAG).expect("JSON")]);
            }
            let left = cut(some, &root.to_string()).expect("it is understood");
            let left: Value = serde_json::from_str(&left).unwrap_or_else(|error| panic!("{round}: {error}: {left}"));
            assert_eq!(left, expected, "{round}: {root}");
        }
        assert!(changed > 500, "{changed} of them");
    }
}
