//! Looks into one compact resource as bytes: its security labels, whom it refers to, and where resources lie in it. No tree of
//! it is made.
//!
//! What stands in a form that it should not have is never passed over: whoever decides by what was found is told that
//! something was not understood ([`Inside::is_strange`], [`Inside::has_strange_label`]).

use std::borrow::Cow;
use std::fmt;

/// Deepest nesting; what a page lets in is not deeper.
const DEEPEST: usize = 140;
/// Labels, subjects and resources in one; more are not understood.
const MOST_LABELS: usize = 1_000;
/// Places of references without a name, and bytes of the path to one.
const MOST_PLACES: usize = 50;
const LONGEST_PATH: usize = 300;
const MOST_RESOURCES: usize = 100_000;

/// What was found in a resource, wherever in it.
#[derive(Default)]
pub(crate) struct Inside<'a> {
    /// The resource itself and those in it, in the order in which they begin.
    pub(crate) resources: Vec<Nested<'a>>,
    /// Its labels and those of all resources in it, those of the documents that they stand for, and what extensions say by a
    /// coding, as they label single elements.
    pub(crate) labels: Vec<Coding<'a>>,
    /// The targets of all references.
    pub(crate) references: Vec<Cow<'a, str>>,
    /// Whom it is about, by the elements of its root that say so.
    pub(crate) subjects: Vec<Subject<'a>>,
    /// Where references stand that tell how a patient can be found, and lead nowhere: each place once.
    pub(crate) nameless: Vec<Nameless>,
    /// There are more such places than are told.
    pub(crate) has_more_nameless: bool,
    /// A label has no code, or two, or is none.
    pub(crate) has_strange_label: bool,
    /// A resource in it has two types or none that can be read, or a reference has two targets.
    pub(crate) is_strange: bool,
}

/// A resource, or one in it.
pub(crate) struct Nested<'a> {
    /// Where its brace stands.
    pub(crate) start: usize,
    pub(crate) resource_type: Cow<'a, str>,
    pub(crate) id: Option<Cow<'a, str>>,
}

/// A coding, as it stands there.
pub(crate) struct Coding<'a> {
    pub(crate) system: Option<Cow<'a, str>>,
    pub(crate) code: Cow<'a, str>,
}

/// A reference to whom a resource is about.
pub(crate) struct Subject<'a> {
    /// The element, such as `subject`.
    pub(crate) element: &'static str,
    pub(crate) reference: Option<Cow<'a, str>>,
    /// The type that it says it leads to.
    pub(crate) kind: Option<Cow<'a, str>>,
}

/// A place of references to patients by an identifier, or of no more than how to show them; and of those by an identifier that do
/// not say what they mean, if the element says that it is a patient.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Nameless {
    /// The names that lead to it from the root, without indices: `participant.actor`. Of a long one it is the beginning.
    pub(crate) path: String,
    /// Whether it is said to be a patient.
    pub(crate) is_patient: bool,
}

/// `Composition.confidentiality` is a code of it.
const CONFIDENTIALITY: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";

/// The elements of a resource's root that say which patient it is about.
pub(crate) const SUBJECTS: [&str; 6] = ["beneficiary", "candidate", "for", "individual", "patient", "subject"];

/// Looks into a compact resource; `None` if it is no JSON object.
pub(crate) fn look_inside(line: &[u8]) -> Option<Inside<'_>> {
    let text = std::str::from_utf8(line).ok()?.trim_end();
    let mut walk = Walk { text, at: 0, levels: Vec::with_capacity(16), inside: Inside::default() };
    walk.walk()?;
    let mut inside = walk.inside;
    inside.has_strange_label |= inside.labels.len() > MOST_LABELS;
    inside.is_strange |= inside.subjects.len() > MOST_LABELS || inside.resources.len() > MOST_RESOURCES;
    inside.resources.sort_unstable_by_key(|nested| nested.start);
    Some(inside)
}

/// Where the string that begins at `at` ends: behind its closing quote.
pub(super) fn string_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut next = at + 1;
    loop {
        next += memchr::memchr2(b'"', b'\\', bytes.get(next..)?)?;
        if bytes.get(next) == Some(&b'"') {
            return Some(next + 1);
        }
        next += 2;
    }
}

/// Where the number or the word that begins at `at` ends.
pub(super) fn plain_end(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(rest.len()).max(1)
}

/// What a string means, quotes and all: a name that is written with escapes is the same name.
pub(super) fn meaning(quoted: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'\\', quoted.as_bytes()).is_none() {
        return quoted.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed);
    }
    serde_json::from_str(quoted).ok().map(Cow::Owned)
}

/// One open object or array.
struct Level<'a> {
    is_object: bool,
    start: usize,
    /// The name of the member that is read.
    key: Cow<'a, str>,
    own: Own<'a>,
}

/// Members of one object that say what it is.
#[derive(Default)]
struct Own<'a> {
    resource_type: Slot<'a>,
    id: Slot<'a>,
    system: Slot<'a>,
    code: Slot<'a>,
    reference: Slot<'a>,
    kind: Slot<'a>,
    has_coding: bool,
    has_display: bool,
    /// Its `identifier` is an object, as references have one.
    has_identifier: bool,
}

/// A member that is a text and stands there once, if it is there.
#[derive(Default)]
struct Slot<'a> {
    text: Option<Cow<'a, str>>,
    is_strange: bool,
}

impl<'a> Slot<'a> {
    fn put(&mut self, value: Option<Cow<'a, str>>) {
        self.is_strange |= self.text.is_some() || value.is_none();
        if value.is_some() {
            self.text = value;
        }
    }
}

impl<'a> Own<'a> {
    fn slot(&mut self, key: &str) -> Option<&mut Slot<'a>> {
        Some(match key {
            "resourceType" => &mut self.resource_type,
            "id" => &mut self.id,
            "system" => &mut self.system,
            "code" => &mut self.code,
            "reference" => &mut self.reference,
            "type" => &mut self.kind,
            _ => return None,
        })
    }
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
    levels: Vec<Level<'a>>,
    inside: Inside<'a>,
}

impl<'a> Walk<'a> {
    fn walk(&mut self) -> Option<()> {
        if self.peek() != Some(b'{') {
            return None;
        }
        while let Some(byte) = self.peek() {
            match byte {
                b'{' | b'[' => {
                    if self.levels.len() >= DEEPEST {
                        return None;
                    }
                    let (is_object, start, own) = (byte == b'{', self.at, Own::default());
                    self.not_a_text(is_object);
                    self.levels.push(Level { is_object, start, key: Cow::Borrowed(""), own });
                    self.at += 1;
                }
                b'}' | b']' => {
                    let level = self.levels.pop()?;
                    if level.is_object {
                        self.end_of(level);
                    }
                    self.at += 1;
                }
                b'"' => self.string()?,
                b',' | b':' => self.at += 1,
                _ => {
                    self.not_a_text(false);
                    self.scalar();
                    self.at = plain_end(self.text, self.at);
                }
            }
        }
        self.levels.is_empty().then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Reads a string: a name, or a text.
    fn string(&mut self) -> Option<()> {
        let end = string_end(self.text, self.at)?;
        let quoted = self.text.get(self.at..end)?;
        self.at = end;
        let level = self.levels.last_mut()?;
        if level.is_object && self.text.as_bytes().get(end) == Some(&b':') {
            let name = meaning(quoted)?;
            level.own.has_coding |= name == "coding";
            level.own.has_display |= name == "display";
            level.key = name;
            return Some(());
        }
        let is_confidentiality = level.is_object && level.key == "confidentiality";
        // Other texts are none of ours, also those that hold half a character, as are seen where one was cut.
        if level.is_object
            && let Level { key, own, .. } = level
            && let Some(slot) = own.slot(key)
        {
            slot.put(meaning(quoted));
        } else if is_confidentiality && is_resource(self.names().nth(1)) {
            self.label(Some(Cow::Borrowed(CONFIDENTIALITY)), meaning(quoted)?);
        }
        self.scalar();
        Some(())
    }

    /// Notes that the member that is read is no text. A `CodeableReference` of R5 has an object for its `reference`, in which
    /// the text stands.
    fn not_a_text(&mut self, is_object: bool) {
        let Some(Level { is_object: true, key, own, .. }) = self.levels.last_mut() else { return };
        own.has_identifier |= is_object && *key == "identifier";
        if (is_object && *key == "reference") || *key == "type" {
            return;
        }
        if let Some(slot) = own.slot(key) {
            slot.put(None);
        }
    }

    /// Notes a text, a number or a word where labels should be.
    fn scalar(&mut self) {
        let is_strange = {
            let mut names = self.names();
            match (names.next(), names.next()) {
                (Some("meta"), _) | (Some("security"), Some("meta")) => true,
                (Some("securityLabel"), holder) => is_resource(holder),
                (_, _) => false,
            }
        };
        self.inside.has_strange_label |= is_strange;
    }

    /// Notes a label; one too many says that there are too many.
    fn label(&mut self, system: Option<Cow<'a, str>>, code: Cow<'a, str>) {
        if self.inside.labels.len() <= MOST_LABELS {
            self.inside.labels.push(Coding { system, code });
        }
    }

    /// Notes a reference without a name, and its place only once.
    fn nameless(&mut self, is_patient: bool) {
        let mut path = String::new();
        for level in self.levels.iter().filter(|level| level.is_object) {
            if path.len() + level.key.len() > LONGEST_PATH {
                break;
            }
            path.push_str(if path.is_empty() { "" } else { "." });
            path.push_str(&level.key);
        }
        let nameless = Nameless { path, is_patient };
        if self.inside.nameless.len() >= MOST_PLACES {
            self.inside.has_more_nameless = true;
        } else if !self.inside.nameless.contains(&nameless) {
            self.inside.nameless.push(nameless);
        }
    }

    /// The names that lead to the value that is read, the nearest first; arrays have none.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().rev().filter(|level| level.is_object).map(|level| &*level.key)
    }

    /// What an object was, now that all of it was read.
    fn end_of(&mut self, level: Level<'a>) {
        let Level { start, own, .. } = level;
        let Own { resource_type, id, system, code, reference, kind, has_coding, .. } = own;
        self.inside.is_strange |= resource_type.is_strange || reference.is_strange;
        let (is_label, is_inline, is_nameless) = {
            let mut names = self.names();
            let names = [names.next(), names.next(), names.next()];
            let is_extension = |name: Option<&str>| matches!(name, Some("extension" | "modifierExtension"));
            let is_label = match names {
                [Some("security"), Some("meta"), _] => true,
                // What a document is labelled by that is referred to, or stands in the resource.
                [Some("coding"), Some("securityLabel"), holder] => is_resource(holder),
                _ => false,
            };
            let is_nameless = match names {
                [Some("securityLabel"), holder, _] => is_resource(holder) && !has_coding,
                _ => false,
            };
            let is_inline = match names {
                [Some("valueCoding"), holder, _] => is_extension(holder),
                [Some("coding"), Some("valueCodeableConcept"), holder] => is_extension(holder),
                _ => false,
            };
            (is_label, is_inline, is_nameless)
        };
        self.inside.has_strange_label |= is_nameless;
        let is_strange = system.is_strange || code.is_strange;
        if is_label || is_inline {
            match code.text {
                Some(code) if !is_strange && !code.trim().is_empty() => self.label(system.text, code),
                // An extension may say something else.
                Some(_) => self.inside.has_strange_label = true,
                None => self.inside.has_strange_label |= is_label,
            }
        }
        let subject = match self.levels.as_slice() {
            [root] | [root, Level { is_object: false, .. }] => {
                SUBJECTS.into_iter().find(|element| *element == root.key)
            }
            _ => None,
        };
        let is_patient = kind.text.as_deref() == Some("Patient");
        let is_found =
            own.has_identifier && (is_patient || kind.is_strange || (kind.text.is_none() && subject.is_some()));
        if reference.text.is_none() && resource_type.text.is_none() && (is_found || (is_patient && own.has_display)) {
            self.nameless(is_patient || kind.is_strange);
        }
        if let Some(element) = subject
            && self.inside.subjects.len() <= MOST_LABELS
        {
            let reference = reference.text.clone();
            self.inside.subjects.push(Subject { element, reference, kind: kind.text });
        }
        self.inside.references.extend(reference.text);
        if let Some(resource_type) = resource_type.text
            && self.inside.resources.len() <= MOST_RESOURCES
        {
            self.inside.is_strange |= id.is_strange;
            self.inside.resources.push(Nested { start, resource_type, id: id.text });
        }
    }
}

/// Whether what a member of this name holds is a resource; without a name it is the whole.
fn is_resource(holder: Option<&str>) -> bool {
    matches!(holder, None | Some("contained" | "resource"))
}

impl fmt::Debug for Inside<'_> {
    /// Nothing of the content (SEC-41).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} resources, {} labels", self.resources.len(), self.labels.len())
    }
}

#[cfg(test)]
mod tests {
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
        let inside =
            look(r#"{"meta":{"security":[{"system":"s","code":"R","display":"\ud83d"}]},"text":"cut \ud83d"}"#);
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
        let resources: Vec<_> =
            inside.resources.iter().map(|found| (&*found.resource_type, found.id.as_deref())).collect();
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
}
