//! Elements that are taken out of resources, with all that could tell the same (SEC-26), on their bytes: what stays is as the
//! server sent it.

mod cut;
mod wanted;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::resource_type::ResourceType;
pub(crate) use wanted::{Kept, RootElement, Wanted};

/// One element of one type, or of all: `Patient.telecom`, `Observation.value[x]`, `*.text`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Element {
    /// `None` is every type.
    of: Option<ResourceType>,
    path: Vec<Box<str>>,
}

/// Those that are taken out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Elements(BTreeSet<Element>);

/// Why a text names no element that can be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAnElement {
    #[error("is no element such as Patient.telecom, Observation.value[x] or *.text")]
    Shape,
    #[error("begins with no resource type and no `*`")]
    Type,
    #[error("names `{0}`, without which nobody could read a resource as what it is")]
    Needed(&'static str),
}

/// What a resource cannot be without: what it is, what it was, and what changes the meaning of all else.
const NEEDED: [&str; 5] = ["id", "implicitRules", "meta", "modifierExtension", "resourceType"];
/// Longest text of an element.
const LONGEST: usize = 200;
/// Of one name in it; FHIR's own are shorter.
pub(crate) const LONGEST_NAME: usize = 64;

/// The types of values, as the names of their elements end: `value[x]` is `valueQuantity`, `valueString` and so on. In the order
/// of their bytes.
///
/// Source: <https://hl7.org/fhir/R4/datatypes.html#open>, <https://hl7.org/fhir/R5/datatypes.html#open>
#[rustfmt::skip]
const DATATYPES: [&str; 57] = [
    "Address", "Age", "Annotation", "Attachment", "Availability", "Base64Binary", "Boolean", "Canonical", "Code",
    "CodeableConcept", "CodeableReference", "Coding", "ContactDetail", "ContactPoint", "Contributor", "Count",
    "DataRequirement", "Date", "DateTime", "Decimal", "Distance", "Dosage", "Duration", "Expression",
    "ExtendedContactDetail", "HumanName", "Id", "Identifier", "Instant", "Integer", "Integer64", "Markdown", "Meta",
    "MonetaryComponent", "Money", "Oid", "ParameterDefinition", "Period", "PositiveInt", "Quantity", "Range", "Ratio",
    "RatioRange", "Reference", "RelatedArtifact", "SampledData", "Signature", "SimpleQuantity", "String", "Time",
    "Timing", "TriggerDefinition", "UnsignedInt", "Uri", "Url", "UsageContext", "Uuid",
];

/// Whether the element `own` stands in JSON under this name, be it in one of several types.
fn is_named(own: &str, name: &str) -> bool {
    name.strip_prefix(own).is_some_and(|rest| rest.is_empty() || DATATYPES.binary_search(&rest).is_ok())
}

impl FromStr for Element {
    type Err = NotAnElement;

    fn from_str(text: &str) -> Result<Self, NotAnElement> {
        let (name, path) = text.split_once('.').ok_or(NotAnElement::Shape)?;
        let of = match name {
            "*" => None,
            name => Some(ResourceType::parse(name).ok_or(NotAnElement::Type)?),
        };
        let is_element = |name: &str| {
            name.len() <= LONGEST_NAME
                && name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let names = path.split('.').map(|name| name.strip_suffix("[x]").unwrap_or(name));
        let path: Vec<Box<str>> = names.map(Box::from).collect();
        if text.len() > LONGEST || !path.iter().all(|name| is_element(name)) {
            return Err(NotAnElement::Shape);
        }
        // Within an element an id is only that element's.
        let needed = NEEDED.iter().find(|needed| {
            path.first().is_some_and(|first| is_named(first, needed))
                || (**needed == "modifierExtension" && path.iter().any(|name| &**name == **needed))
        });
        match needed {
            Some(needed) => Err(NotAnElement::Needed(needed)),
            None => Ok(Self { of, path }),
        }
    }
}

impl Element {
    fn is_of(&self, resource_type: &str) -> bool {
        self.of.is_none_or(|of| of.as_str() == resource_type)
    }

    /// Whether all that `other` takes out this one does too.
    fn includes(&self, other: &Self) -> bool {
        let names = self.path.iter().zip(&other.path);
        (self.of.is_none() || self.of == other.of)
            && self.path.len() <= other.path.len()
            && names.clone().all(|(own, other)| is_named(own, other))
    }
}

impl Elements {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all that `others` take out these do too.
    pub(crate) fn include(&self, others: &Self) -> bool {
        others.0.iter().all(|other| self.0.iter().any(|own| own.includes(other)))
    }

    /// Whether anything of what stands at a path from the root of a resource, without indices, is taken out: it, what it is in,
    /// or a part of it.
    pub(crate) fn touch(&self, resource_type: ResourceType, path: &str) -> bool {
        self.of(resource_type.as_str())
            .any(|own| own.iter().zip(path.split('.')).all(|(own, name)| is_named(own, name)))
    }

    /// The paths of those of a type.
    fn of<'a>(&'a self, resource_type: &'a str) -> impl Iterator<Item = &'a [Box<str>]> {
        self.0.iter().filter(move |element| element.is_of(resource_type)).map(|element| element.path.as_slice())
    }
}

impl FromIterator<Element> for Elements {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        Self(elements.into_iter().collect())
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.of.map_or("*", ResourceType::as_str))?;
        self.path.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(texts: &[&str]) -> Elements {
        texts.iter().map(|text| text.parse::<Element>().expect("an element")).collect()
    }

    #[test]
    fn an_element_is_named_by_its_type_and_path() {
        assert!(DATATYPES.is_sorted());
        for good in ["Patient.telecom", "*.text", "Patient.contact.telecom", "Encounter.participant.actor.display"] {
            assert_eq!(good.parse::<Element>().map(|element| element.to_string()).as_deref(), Ok(good));
        }
        assert_eq!("Observation.value[x]".parse(), "Observation.value".parse::<Element>());
        for (bad, expected) in [
            ("Patient", NotAnElement::Shape),
            ("telecom", NotAnElement::Shape),
            ("Patient.", NotAnElement::Shape),
            ("Patient..telecom", NotAnElement::Shape),
            ("Patient.Telecom", NotAnElement::Shape),
            ("Patient._telecom", NotAnElement::Shape),
            ("Patient.telecom ", NotAnElement::Shape),
            ("Patient.telecom[0]", NotAnElement::Shape),
            ("Patient.*", NotAnElement::Shape),
            ("patient.telecom", NotAnElement::Type),
            ("Pat.telecom", NotAnElement::Type),
            ("Patient.id", NotAnElement::Needed("id")),
            ("*.meta", NotAnElement::Needed("meta")),
            ("*.meta.security", NotAnElement::Needed("meta")),
            ("*.resourceType", NotAnElement::Needed("resourceType")),
            ("*.implicitRules", NotAnElement::Needed("implicitRules")),
            ("Patient.contact.modifierExtension", NotAnElement::Needed("modifierExtension")),
        ] {
            assert_eq!(bad.parse::<Element>(), Err(expected), "{bad}");
        }
    }

    #[test]
    fn a_path_is_touched_with_all_below_it_and_all_above() {
        let some = elements(&["Encounter.participant", "Observation.value[x]", "*.performer.onBehalfOf"]);
        for (name, path, expected) in [
            ("Encounter", "participant.individual", true),
            ("Encounter", "participantx.individual", false),
            ("Encounter", "part", false),
            ("Observation", "valueReference", true),
            ("Observation", "value", true),
            ("Observation", "valueless", false),
            ("Procedure", "performer.onBehalfOf", true),
            ("Procedure", "performer.actor", false),
            ("Procedure", "performer", true),
            ("Patient", "participant.individual", false),
        ] {
            assert_eq!(some.touch(ResourceType::parse(name).expect("a type"), path), expected, "{name}.{path}");
        }
    }

    #[test]
    fn less_is_included_in_more() {
        for (more, less, expected) in [
            (&["Patient.contact"][..], &["Patient.contact.telecom"][..], true),
            (&["Patient.contact.telecom"], &["Patient.contact"], false),
            (&["*.text"], &["Patient.text"], true),
            (&["Patient.text"], &["*.text"], false),
            (&["Observation.value"], &["Observation.valueQuantity"], true),
            (&["Observation.valueQuantity"], &["Observation.value[x]"], false),
            (&["Patient.a", "Patient.b"], &["Patient.b"], true),
            (&[], &[], true),
            (&["Patient.a"], &[], true),
            (&[], &["Patient.a"], false),
        ] {
            assert_eq!(elements(more).include(&elements(less)), expected, "{more:?} {less:?}");
        }
    }

    #[test]
    fn they_are_read_back_as_they_were_written() {
        let some = elements(&["Patient.telecom", "Observation.value[x]", "*.text"]);
        let json = serde_json::to_string(&some).expect("plain texts");
        assert_eq!(json, r#"["*.text","Observation.value","Patient.telecom"]"#);
        assert_eq!(serde_json::from_str::<Elements>(&json).expect("what was written"), some);
        assert!(serde_json::from_str::<Elements>(r#"["Patient.id"]"#).is_err());
    }
}
