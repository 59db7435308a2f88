//! Which searches it takes to cover a type where a patient alone is not enough to be answered.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fhir::compartment::Compartments;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;

/// By type, what is asked for beside the patient, search by search; what any of them finds is the type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<ResourceType, Vec<Narrowing>>")]
pub struct Searches(BTreeMap<ResourceType, Vec<Narrowing>>);

/// What narrows one search beside the patient: `category=laboratory`, or several joined by `&`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Narrowing(Vec<(Box<str>, Box<str>)>);

/// Searches of one type for each patient.
const MOST_SEARCHES: usize = 64;
/// Bytes of one narrowing.
const MOST_BYTES: usize = 500;

impl Searches {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of one type; none means that a patient is enough.
    pub(crate) fn of(&self, resource_type: ResourceType) -> &[Narrowing] {
        self.0.get(&resource_type).map_or(&[], Vec::as_slice)
    }

    /// Every type that needs more than a patient, and how many searches it takes.
    pub(crate) fn types(&self) -> impl Iterator<Item = (ResourceType, usize)> + '_ {
        self.0.iter().map(|(name, searches)| (*name, searches.len())).filter(|(_, count)| *count > 0)
    }

    /// These, with the types that `known` names as it names them.
    pub(super) fn overridden(mut self, known: &Self) -> Self {
        self.0.extend(known.0.iter().map(|(name, searches)| (*name, searches.clone())));
        self
    }
}

impl TryFrom<BTreeMap<ResourceType, Vec<Narrowing>>> for Searches {
    type Error = String;

    fn try_from(searches: BTreeMap<ResourceType, Vec<Narrowing>>) -> Result<Self, Self::Error> {
        for (name, searches) in &searches {
            // Whatever version the server speaks.
            let links: Vec<_> =
                Compartments::ALL.iter().flat_map(|all| all.links(*name)).map(|link| link.param).collect();
            if links.is_empty() || *name == ResourceType::PATIENT {
                return Err(format!("searches names {name}, which is not read by patient"));
            }
            if searches.len() > MOST_SEARCHES {
                return Err(format!("searches names more than {MOST_SEARCHES} searches for {name}"));
            }
            let names = searches.iter().flat_map(|narrowing| narrowing.0.iter().map(|(param, _)| &**param));
            for param in names {
                if links.contains(&param) || matches!(param, "patient" | "subject") {
                    return Err(format!("searches names `{param}` for {name}, which is how the patient is named"));
                }
            }
        }
        Ok(Self(searches))
    }
}

impl Narrowing {
    /// `name=value`, several joined by `&`. Parameters that begin with `_` are ours.
    fn parse(text: &str) -> Option<Self> {
        let is_name = |name: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'.');
            !name.is_empty() && !name.starts_with('_') && name.bytes().all(plain)
        };
        let pairs = text.split('&').map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let is_value = !value.is_empty() && !value.chars().any(char::is_control);
            (is_name(name) && is_value).then(|| (name.into(), value.into()))
        });
        let pairs: Option<Vec<_>> = pairs.collect();
        pairs.filter(|_| text.len() <= MOST_BYTES).map(Self)
    }

    /// The parameters that it asks by.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// `query`, narrowed by this.
    pub(crate) fn narrow(&self, query: SearchQuery) -> SearchQuery {
        self.0.iter().fold(query, |query, (name, value)| query.param(String::from(&**name), String::from(&**value)))
    }
}

impl Serialize for Narrowing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        serializer.serialize_str(&pairs.join("&"))
    }
}

impl<'de> Deserialize<'de> for Narrowing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let problem =
            "a search is given as `name=value`, several parameters joined by `&`, none of which begins with `_`";
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_narrows_a_search_is_read_once_and_never_names_the_patient_or_what_is_ours() {
        for (json, expected) in [
            (r#"{"Observation":["category=vital-signs","category=laboratory&status=final"]}"#, true),
            (r#"{"Observation":[]}"#, true),
            (r#"{"Observation":["category"]}"#, false),
            (r#"{"Observation":["category="]}"#, false),
            (r#"{"Observation":["_count=5"]}"#, false),
            (r#"{"Observation":["category=a&_summary=count"]}"#, false),
            (r#"{"Observation":["patient=a"]}"#, false),
            (r#"{"Observation":["performer=a"]}"#, false),
            (r#"{"Patient":["name=a"]}"#, false),
            (r#"{"Practitioner":["name=a"]}"#, false),
            (r#"{"Dragon":["name=a"]}"#, false),
        ] {
            let read: Result<Searches, _> = serde_json::from_str(json);
            assert_eq!(read.is_ok(), expected, "{json}");
            if let Ok(read) = read {
                let again = serde_json::to_string(&read).expect("plain values");
                assert_eq!(again, json);
            }
        }
        let many = vec!["category=a"; MOST_SEARCHES + 1];
        let many = serde_json::json!({ "Observation": many }).to_string();
        assert!(serde_json::from_str::<Searches>(&many).is_err());
    }

    #[test]
    fn a_narrowing_is_escaped_into_the_search() {
        let narrowing = Narrowing::parse("category=http://x|a&date=ge1900").expect("two parameters");
        let query = narrowing.narrow(SearchQuery::new(ResourceType::PATIENT).param("patient", "a".to_owned()));
        assert_eq!(query.to_query(), "patient=a&category=http://x%7Ca&date=ge1900");
    }
}
