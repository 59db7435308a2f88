//! The upstream's `CapabilityStatement`: hints, never proof.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::compartment::Compartments;
use super::resource_type::ResourceType;

/// What the upstream says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capability {
    pub(crate) fhir_version: String,
    /// The name of the server's software, as it calls itself.
    pub(crate) software: String,
    /// Its version.
    pub(crate) version: String,
    /// `implementation.url`: the base that the server writes into links and references.
    pub(crate) base: Option<String>,
    types: BTreeMap<ResourceType, Interactions>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Interactions {
    search: bool,
    parameters: BTreeMap<Box<str>, ParameterKind>,
}

/// What values a search parameter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ParameterKind {
    Number,
    Date,
    String,
    Token,
    Reference,
    Quantity,
    Uri,
}

impl ParameterKind {
    /// Those that are made of several, or are like no other, are passed over.
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "number" => Self::Number,
            "date" => Self::Date,
            "string" => Self::String,
            "token" => Self::Token,
            "reference" => Self::Reference,
            "quantity" => Self::Quantity,
            "uri" => Self::Uri,
            _ => return None,
        })
    }
}

/// Names of search parameters are shorter than this.
const LONGEST_NAME: usize = 64;

/// The answer is no capability statement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CapabilityError {
    #[error("not a capability statement (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("a {0} instead of a capability statement")]
    Other(String),
}

impl Capability {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, CapabilityError> {
        let statement: Statement = serde_json::from_slice(json)
            .map_err(|error| CapabilityError::Json { line: error.line(), column: error.column() })?;
        if statement.resource_type != "CapabilityStatement" {
            let named = ResourceType::parse(&statement.resource_type);
            return Err(CapabilityError::Other(named.map_or("something", ResourceType::as_str).to_owned()));
        }
        let mut types: BTreeMap<ResourceType, Interactions> = BTreeMap::new();
        for resource in statement.rest.into_iter().flat_map(|rest| rest.resource) {
            let Some(resource_type) = ResourceType::parse(&resource.name) else { continue };
            let search = resource.interaction.iter().any(|interaction| interaction.code == "search-type");
            let known: &mut Interactions = types.entry(resource_type).or_default();
            known.search |= search;
            let parameters = resource.search_param.into_iter().filter(|parameter| parameter.name.len() <= LONGEST_NAME);
            known.parameters.extend(
                parameters
                    .filter_map(|parameter| Some((parameter.name.into(), ParameterKind::parse(&parameter.kind)?))),
            );
        }
        let base = statement.implementation.and_then(|own| own.url).filter(|url| url.starts_with("http"));
        let Software { name, version } = statement.software.unwrap_or_default();
        let (software, version) = (name.unwrap_or_default().trim().to_owned(), version.unwrap_or_default());
        Ok(Self { fhir_version: statement.fhir_version.unwrap_or_default(), software, version, base, types })
    }

    /// The Patient compartment of the version of FHIR that the server speaks, where that is known here. One that does
    /// not say is taken for R4, and at its word when it is searched.
    pub(crate) fn compartments(&self) -> Option<Compartments> {
        if self.fhir_version.is_empty() { Some(Compartments::R4) } else { Compartments::of_version(&self.fhir_version) }
    }

    /// What values a search parameter of a type has, if the server lists it for this very type.
    pub(crate) fn parameter(&self, resource_type: ResourceType, name: &str) -> Option<ParameterKind> {
        self.types.get(&resource_type)?.parameters.get(name).copied()
    }

    /// The types that can be searched.
    pub(crate) fn searchable(&self) -> BTreeSet<ResourceType> {
        self.types.iter().filter(|(_, interactions)| interactions.search).map(|(name, _)| *name).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    resource_type: String,
    fhir_version: Option<String>,
    software: Option<Software>,
    implementation: Option<Implementation>,
    #[serde(default)]
    rest: Vec<Rest>,
}

#[derive(Deserialize)]
struct Implementation {
    url: Option<String>,
}

#[derive(Deserialize, Default)]
struct Software {
    name: Option<String>,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Rest {
    #[serde(default)]
    resource: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "type")]
    name: String,
    #[serde(default)]
    interaction: Vec<Interaction>,
    #[serde(default, rename = "searchParam")]
    search_param: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Interaction {
    code: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_can_be_searched_are_read_and_unknown_ones_passed_over() {
        let json = br#"{"resourceType":"CapabilityStatement","fhirVersion":"4.0.1","rest":[{"resource":[
            {"type":"Patient","interaction":[{"code":"read"},{"code":"search-type"}],"searchParam":[{"name":"gender","type":"token"},
              {"name":"near","type":"special"},{"type":"token"},{"name":"x"}]},
            {"type":"Observation","interaction":[{"code":"read"}]},{"type":"Dragon","interaction":[{"code":"search-type"}]}]}]}"#;
        let capability = Capability::parse(json).expect("a capability statement");
        assert_eq!(capability.searchable(), BTreeSet::from([ResourceType::PATIENT]));
        assert_eq!(capability.parameter(ResourceType::PATIENT, "gender"), Some(ParameterKind::Token));
        for (name, parameter) in [("Patient", "near"), ("Patient", "x"), ("Observation", "gender"), ("Group", "gender")]
        {
            let name = ResourceType::parse(name).expect("a type");
            assert_eq!(capability.parameter(name, parameter), None, "{name} {parameter}");
        }
        assert_eq!(capability.fhir_version, "4.0.1");
        for (version, expected) in [
            ("4.0.1", Some(Compartments::R4)),
            ("", Some(Compartments::R4)),
            ("5.0.0", Some(Compartments::R5)),
            ("3.0.2", None),
        ] {
            let other = Capability { fhir_version: version.to_owned(), ..capability.clone() };
            assert_eq!(other.compartments(), expected, "{version}");
        }
        assert!(matches!(Capability::parse(br#"{"resourceType":"Bundle"}"#), Err(CapabilityError::Other(_))));
        assert!(matches!(Capability::parse(b"<html>"), Err(CapabilityError::Json { .. })));
    }
}
