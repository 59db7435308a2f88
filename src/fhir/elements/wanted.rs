//! `_elements`: what a client wants of each resource, and what it gets of it (section 2.4.3 of the checklist).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::cut::{TAG, tag, value_end};
use super::{LONGEST, is_named};
use crate::fhir::compartment::Compartments;
use crate::fhir::inside::{meaning, string_end};
use crate::fhir::resource_type::ResourceType;

/// Elements of the roots of resources, as a client names them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Wanted(BTreeSet<RootElement>);

/// `Patient.birthDate`, or `status` of all types that have it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RootElement {
    /// `None` is every type.
    of: Option<ResourceType>,
    name: Box<str>,
}

/// A text is no element of the root of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an element of the root of a resource, such as `status` or `Patient.birthDate`")]
pub(crate) struct NotARootElement;

/// What stays of the resources of each type of one version of FHIR.
#[derive(Debug)]
pub(crate) struct Kept(BTreeMap<ResourceType, Vec<Stays>>);

/// An element that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stays {
    name: &'static str,
    /// It bears the name of its type at its end, such as `valueQuantity`.
    is_choice: bool,
}

/// What stays of every resource: what it is, what it was, and what changes the meaning of all else.
const ALWAYS: [&str; 5] = ["id", "implicitRules", "meta", "modifierExtension", "resourceType"];
/// What any resource may have beside its own elements, and loses if nobody asks for it.
const ANY: [&str; 4] = ["contained", "extension", "language", "text"];

impl FromStr for RootElement {
    type Err = NotARootElement;

    fn from_str(text: &str) -> Result<Self, NotARootElement> {
        let (of, name) = match text.split_once('.') {
            None => (None, text),
            Some((of, name)) => (Some(ResourceType::parse(of).ok_or(NotARootElement)?), name),
        };
        let name = name.strip_suffix("[x]").unwrap_or(name);
        let is_element = name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if text.len() > LONGEST || !is_element { Err(NotARootElement) } else { Ok(Self { of, name: name.into() }) }
    }
}

impl RootElement {
    /// Whether a type has it, in one version of FHIR: as the element that stays then.
    fn of_type(&self, resource_type: &str, version: Compartments) -> Option<Stays> {
        if self.of.is_some_and(|of| of.as_str() != resource_type) {
            return None;
        }
        let common = ALWAYS.into_iter().chain(ANY).find(|name| *name == &*self.name);
        if let Some(name) = common {
            return Some(Stays { name, is_choice: false });
        }
        let own = row(resource_type, version).map(|(element, _)| element);
        own.into_iter().find(|own| own.is_named(&self.name))
    }
}

impl Wanted {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn insert(&mut self, element: RootElement) {
        self.0.insert(element);
    }

    /// One of them that no type has in a version of FHIR.
    pub(crate) fn unknown(&self, version: Compartments) -> Option<&RootElement> {
        let is_known = |element: &RootElement| match element.of {
            Some(of) => element.of_type(of.as_str(), version).is_some(),
            None => rows(version).any(|(name, _)| element.of_type(name, version).is_some()),
        };
        self.0.iter().find(|element| !is_known(element))
    }

    /// One of some types of which it is not known what must stay.
    pub(crate) fn unknown_type(types: &[ResourceType], version: Compartments) -> Option<ResourceType> {
        types.iter().copied().find(|name| rows(version).all(|(known, _)| known != name.as_str()))
    }

    /// What stays of each type: what is asked for, what is mandatory or a modifier, and what makes it a patient's.
    pub(crate) fn kept(&self, version: Compartments) -> Kept {
        let of = |name: ResourceType| {
            let own: Vec<_> = row(name.as_str(), version).collect();
            let needed = own.iter().filter(|(_, is_needed)| *is_needed).map(|(element, _)| *element);
            let roots = version.links(name).flat_map(|link| link.paths);
            let roots: Vec<&str> = roots.filter_map(|path| path.split('.').next()).collect();
            let links = own.iter().map(|(element, _)| *element);
            let links = links.filter(|element| roots.iter().any(|root| element.is_named(root)));
            let always = ALWAYS.map(|name| Stays { name, is_choice: false });
            let asked = self.0.iter().filter_map(|element| element.of_type(name.as_str(), version));
            let stays: BTreeSet<_> = needed.chain(links).chain(always).chain(asked).collect();
            stays.into_iter().collect()
        };
        let types = rows(version).filter_map(|(name, _)| ResourceType::parse(name));
        Kept(types.map(|name| (name, of(name))).collect())
    }
}

impl Stays {
    fn is_named(self, name: &str) -> bool {
        if self.is_choice { is_named(self.name, name) } else { self.name == name }
    }
}

impl Kept {
    /// Whether the element of the root stays in which a path begins.
    pub(crate) fn reach(&self, resource_type: ResourceType, path: &str) -> bool {
        let root = path.split('.').next().unwrap_or(path);
        self.0.get(&resource_type).is_none_or(|stays| stays.iter().any(|own| own.is_named(root)))
    }

    /// A compact resource without what nobody asked for, and a newline; `None` if that is all of it, or nothing could say
    /// that it is not.
    pub(crate) fn cut(&self, resource_type: ResourceType, line: &[u8]) -> Option<Vec<u8>> {
        let stays = self.0.get(&resource_type)?;
        let text = std::str::from_utf8(line).ok()?.trim_end();
        let (mut kept, mut lost, mut contained) = (Vec::new(), false, None);
        let mut at = 1;
        while *text.as_bytes().get(at)? != b'}' {
            let colon = string_end(text, at)?;
            let name = meaning(text.get(at..colon)?)?;
            let end = value_end(text, colon + 1)?;
            let own = name.strip_prefix('_').unwrap_or(&name);
            let member = text.get(at..end)?;
            if stays.iter().any(|stays| stays.is_named(own)) {
                kept.push(member);
            } else if own == "contained" {
                contained = Some((kept.len(), member));
            } else {
                lost = true;
            }
            at = if text.as_bytes().get(end) == Some(&b',') { end + 1 } else { end };
        }
        if let Some((place, member)) = contained {
            // What is left may refer to what lies there.
            if kept.iter().any(|member| member.contains("\"#") || member.contains("\"\\u0023")) {
                kept.insert(place, member);
            } else {
                lost = true;
            }
        }
        if !lost {
            return None;
        }
        // One copy, with room for all that is added.
        let mut left = String::with_capacity(line.len() + TAG.len() + 20);
        for (number, member) in kept.iter().enumerate() {
            left.push(if number == 0 { '{' } else { ',' });
            left.push_str(member);
        }
        left.push_str(if kept.is_empty() { "{}" } else { "}" });
        let mut left = tag(left)?.into_bytes();
        left.push(b'\n');
        Some(left)
    }
}

/// The elements of a type's root, and whether each has to stay.
fn row(resource_type: &str, version: Compartments) -> impl Iterator<Item = (Stays, bool)> {
    let found = rows(version).find(|(name, _)| *name == resource_type);
    let elements = found.map_or("", |(_, elements)| elements).split(' ').filter(|name| !name.is_empty());
    elements.map(|element| {
        let name = element.strip_suffix('!').unwrap_or(element);
        let own = name.strip_suffix("[x]");
        (Stays { name: own.unwrap_or(name), is_choice: own.is_some() }, name.len() < element.len())
    })
}

/// Each type and the elements of its root, as `derive.py` writes them: those of R4 are those of R4B too.
fn rows(version: Compartments) -> impl Iterator<Item = (&'static str, &'static str)> {
    let table = match version {
        Compartments::R4 => include_str!("r4.tsv"),
        Compartments::R5 => include_str!("r5.tsv"),
    };
    table.lines().filter_map(|line| line.split_once('\t'))
}

impl fmt::Display for RootElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(of) = self.of {
            write!(f, "{of}.")?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Debug for RootElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RootElement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RootElement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(texts: &[&str]) -> Wanted {
        Wanted(texts.iter().map(|text| text.parse().expect("an element")).collect())
    }

    fn named(name: &str) -> ResourceType {
        ResourceType::parse(name).expect("a type")
    }

    /// What is left of a resource; `None` if nothing was left out.
    fn left(texts: &[&str], json: &str) -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let resource_type = named(value["resourceType"].as_str().expect("a type"));
        let kept = wanted(texts).kept(Compartments::R4);
        let line = kept.cut(resource_type, format!("{json}\n").as_bytes())?;
        Some(String::from_utf8(line).expect("text").strip_suffix('\n').expect("a line").to_owned())
    }

    const TAG: &str = r#"{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}"#;

    #[test]
    fn only_elements_of_the_root_are_named() {
        for good in ["id", "Patient.birthDate", "value", "Observation.valueQuantity"] {
            assert_eq!(good.parse::<RootElement>().map(|element| element.to_string()).as_deref(), Ok(good));
        }
        assert_eq!("value[x]".parse::<RootElement>(), "value".parse());
        for bad in [
            "",
            "Patient",
            "Patient.",
            "Patient.name.family",
            "name.family",
            "Pat.name",
            "*.name",
            "_name",
            "na me",
            "a-b",
        ] {
            assert_eq!(bad.parse::<RootElement>(), Err(NotARootElement), "{bad}");
        }
        let some = wanted(&["Patient.name", "status"]);
        let json = serde_json::to_string(&some).expect("plain texts");
        assert_eq!(json, r#"["status","Patient.name"]"#);
        assert_eq!(serde_json::from_str::<Wanted>(&json).expect("what was written"), some);
    }

    #[test]
    fn names_that_no_type_has_are_known_for_what_they_are() {
        for (version, text, expected) in [
            (Compartments::R4, "status", true),
            (Compartments::R4, "valueQuantity", true),
            (Compartments::R4, "language", true),
            (Compartments::R4, "stauts", false),
            (Compartments::R4, "statusCode", false),
            (Compartments::R4, "Patient.status", false),
            (Compartments::R4, "Media.content", true),
            (Compartments::R5, "Media.content", false),
            (Compartments::R4, "Citation.citedArtifact", true),
        ] {
            assert_eq!(wanted(&[text]).unknown(version).is_none(), expected, "{version:?} {text}");
        }
        assert_eq!(Wanted::unknown_type(&[named("Patient"), named("Media")], Compartments::R5), Some(named("Media")));
        assert_eq!(Wanted::unknown_type(&[named("Patient"), named("Media")], Compartments::R4), None);
    }

    /// BD-027, BD-028; spec 2.4.3.4.
    #[test]
    fn what_was_asked_for_stays_and_what_nobody_can_do_without() {
        let observation = r#"{"resourceType":"Observation","id":"o","meta":{"versionId":"1"},"text":{"div":"x"},"status":"final","_status":{"id":"s"},"code":{"text":"c"},"subject":{"reference":"Patient/p"},"valueQuantity":{"value":1.00},"note":[{"text":"n"}],"extension":[{"url":"u"}],"modifierExtension":[{"url":"m"}]}"#;
        let lines = [
            (&["id"][..], ""),
            (&["value"], r#","valueQuantity":{"value":1.00}"#),
            (&["Observation.value[x]"], r#","valueQuantity":{"value":1.00}"#),
            (&["valueString", "Patient.name"], ""),
            (&["note", "valueQuantity"], r#","valueQuantity":{"value":1.00},"note":[{"text":"n"}]"#),
            (&["extension"], r#","extension":[{"url":"u"}]"#),
        ];
        for (asked, more) in lines {
            // A name for one type of a value brings all of them.
            let more = if asked.contains(&"valueString") { r#","valueQuantity":{"value":1.00}"# } else { more };
            let expected = format!(
                r#"{{"resourceType":"Observation","id":"o","meta":{{"tag":[{TAG}],"versionId":"1"}},"status":"final","_status":{{"id":"s"}},"code":{{"text":"c"}},"subject":{{"reference":"Patient/p"}}{more},"modifierExtension":[{{"url":"m"}}]}}"#
            );
            assert_eq!(left(asked, observation).as_deref(), Some(&*expected), "{asked:?}");
        }
        assert_eq!(left(&["id"], r#"{"resourceType":"Patient","id":"p","active":true,"deceasedBoolean":false}"#), None);
        let escaped = left(&["id"], r#"{"resourceType":"Patient","\u0069d":"p","n\u0061me":[{}]}"#);
        assert_eq!(escaped, Some(format!(r#"{{"meta":{{"tag":[{TAG}]}},"resourceType":"Patient","\u0069d":"p"}}"#)));
    }

    #[test]
    fn what_is_referred_to_within_stays_with_the_reference() {
        let request = r##"{"resourceType":"MedicationRequest","id":"r","contained":[{"resourceType":"Medication","id":"m"}],"status":"active","intent":"order","medicationReference":{"reference":"#m"},"subject":{"reference":"Patient/p"}}"##;
        assert_eq!(left(&["id"], request), None);
        let dangling = request.replace("\"#m\"", "\"Medication/m\"");
        assert!(!left(&["id"], &dangling).expect("less").contains("contained"));
        assert_eq!(left(&["contained"], &dangling), None);
    }

    /// BD-028: once, and only where something was left out.
    #[test]
    fn a_resource_that_is_tagged_is_not_tagged_again() {
        let tagged = format!(r#"{{"resourceType":"Patient","id":"p","meta":{{"tag":[{TAG}]}},"name":[{{}}]}}"#);
        assert_eq!(left(&["id"], &tagged), Some(tagged.replace(r#","name":[{}]"#, "")));
    }

    /// What has two metas could not say that it is not whole.
    #[test]
    fn what_cannot_be_tagged_stays_whole() {
        assert_eq!(left(&["id"], r#"{"resourceType":"Patient","id":"p","meta":{},"meta":{},"name":[{}]}"#), None);
    }

    #[test]
    fn the_tables_know_all_types_and_all_ways_to_a_patient() {
        for version in Compartments::ALL {
            let names: Vec<_> = rows(version).map(|(name, _)| name).collect();
            assert!(names.is_sorted() && names.len() > 150, "{version:?}");
            for name in names {
                let resource_type = ResourceType::parse(name).unwrap_or_else(|| panic!("{name} is no type"));
                let kept = wanted(&["id"]).kept(version);
                for path in version.links(resource_type).flat_map(|link| link.paths) {
                    assert!(kept.reach(resource_type, path), "{version:?} {name}.{path}");
                }
                for (element, _) in row(name, version) {
                    assert!(!ALWAYS.contains(&element.name) && !ANY.contains(&element.name), "{name}");
                }
            }
        }
    }
}
