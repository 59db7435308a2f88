//! The Bulk Cohort API: a Group whose members a client's filters tell.
//!
//! Source: Bulk Data Access 3.0.0, "Groups" and the profile `bulk-cohort-group`.

use std::collections::BTreeSet;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::job_id::JobId;
use super::kickoff::names_patients;
use crate::fhir::capability::Capability;
use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, LocalReference};
use crate::fhir::filter::{Escapes, FilterError, TypeFilter};
use crate::fhir::resource_type::ResourceType;
use crate::smart::policy::Level;

/// What a statement names where cohorts can be made.
pub(crate) const PROFILE: &str = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/bulk-cohort-group";
const MEMBER_FILTER: &str = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/member-filter";
const LANGUAGE: &str = "application/x-fhir-query";
/// What the ids of such Groups begin with.
pub(crate) const PREFIX: &str = "bulk-cohort-";

/// Filters of one cohort: each is proven on the server's own data.
const MOST_FILTERS: usize = 8;
const MOST_MEMBERS: usize = 200;
/// Groups among them: each is read.
const MOST_GROUPS: usize = 20;
const LONGEST_NAME: usize = 200;

/// Which of all cohorts: 128 random bits, as of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct CohortId(JobId);

impl CohortId {
    pub(crate) fn new(random: JobId) -> Self {
        Self(random)
    }

    /// The cohort that a Group of this id would be.
    pub(crate) fn of(id: &Id) -> Option<Self> {
        id.as_str().strip_prefix(PREFIX)?.parse().ok().map(Self)
    }

    /// The id of the Group that it is.
    pub(crate) fn group(self) -> Id {
        Id::parse(&format!("{PREFIX}{}", self.0)).expect("letters, digits and `-`, and less than 64 of them")
    }

    /// What stands in the address that tells that it was made.
    pub(crate) fn number(self) -> JobId {
        self.0
    }
}

/// Who is in a cohort, as its client has written it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) name: Box<str>,
    /// Nobody else than these; `None` is everybody whom the client may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) members: Option<Listed>,
    /// What all have to hold of a patient: a filter of Patient passes it, or one of another type passes something in its
    /// compartment.
    pub(crate) filters: Vec<TypeFilter>,
}

/// Members that are named.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) patients: BTreeSet<Id>,
    pub(crate) groups: BTreeSet<Id>,
}

impl std::fmt::Debug for Listed {
    /// They are patient data: their number is enough.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listed({} patients, {} groups)", self.patients.len(), self.groups.len())
    }
}

/// Why a Group is no cohort that can be made. Nothing of it is repeated but names of types and parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CohortError {
    #[error("the body is no JSON of a Group, or has an element twice or with a value that none has")]
    Json,
    #[error("a cohort is a Group")]
    NotAGroup,
    #[error("Group.type of a cohort is `person`: cohorts of practitioners and of devices are not supported")]
    Kind,
    #[error("Group.name is what a cohort is called, in at most {LONGEST_NAME} characters")]
    Name,
    #[error("a cohort that is not active would never have anybody in it")]
    Inactive,
    #[error("Group.actual is true where there are members, and false where there are none")]
    Actual,
    #[error("Group.{0} is not supported in a cohort")]
    Element(&'static str),
    #[error("Group carries a modifier extension other than {MEMBER_FILTER}")]
    ModifierExtension,
    #[error("a cohort needs at least one filter: a modifier extension {MEMBER_FILTER}")]
    NoFilter,
    #[error("a cohort has {MOST_FILTERS} filters at most")]
    TooManyFilters,
    #[error("a filter is a valueExpression with the language {LANGUAGE} and an expression without templates")]
    Expression,
    #[error("a filter cannot be used: {0}")]
    Filter(#[from] FilterError),
    #[error("{0} does not belong to patients, and cannot tell them")]
    OutsideCompartment(ResourceType),
    #[error("the FHIR server does not let {0} be searched")]
    NotSearchable(ResourceType),
    #[error("the FHIR server does not list `{parameter}` among the search parameters of {name}")]
    Unlisted { name: ResourceType, parameter: String },
    #[error("`{parameter}` of {name} names patients, and cannot be used to tell them")]
    NamesPatients { name: ResourceType, parameter: String },
    #[error("a member of a cohort is a Patient or a Group of this server, by its id, and with nothing else said of it")]
    Member,
    #[error("Group.member is there and has nobody in it")]
    NoMembers,
    #[error("a cohort has {MOST_MEMBERS} patients and {MOST_GROUPS} Groups as members at most")]
    TooManyMembers,
    #[error("a cohort cannot be made of another cohort")]
    Nested,
}

impl CohortError {
    /// Whether it asks for something that there could be, and not for what nobody understands.
    pub(crate) fn is_unsupported(&self) -> bool {
        match self {
            Self::Kind
            | Self::Element(_)
            | Self::ModifierExtension
            | Self::OutsideCompartment(_)
            | Self::NotSearchable(_)
            | Self::Unlisted { .. }
            | Self::NamesPatients { .. }
            | Self::Member
            | Self::Nested => true,
            Self::Json
            | Self::NotAGroup
            | Self::Name
            | Self::Inactive
            | Self::Actual
            | Self::NoFilter
            | Self::TooManyFilters
            | Self::Expression
            | Self::Filter(_)
            | Self::NoMembers
            | Self::TooManyMembers => false,
        }
    }
}

/// What is read of a Group that is sent. An element that is there and is null would be one that is not there, to some: it is
/// refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    resource_type: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    name: Option<String>,
    active: Option<bool>,
    actual: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    modifier_extension: Option<Vec<SentFilter>>,
    #[serde(default, deserialize_with = "present")]
    member: Option<Vec<SentMember>>,
    #[serde(default, deserialize_with = "present")]
    implicit_rules: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    characteristic: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    contained: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentFilter {
    url: String,
    value_expression: Option<SentExpression>,
}

#[derive(Deserialize)]
struct SentExpression {
    language: Option<String>,
    expression: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SentMember {
    entity: Option<SentReference>,
    #[serde(default, deserialize_with = "present")]
    inactive: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    period: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    modifier_extension: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct SentReference {
    reference: Option<String>,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Definition {
    /// Reads a Group that is sent to be made; absolute references on `base` lead to this server.
    ///
    /// # Errors
    /// One for the first thing that is wrong, or that could mean something which is not heeded.
    pub(crate) fn parse(body: &[u8], base: &str) -> Result<Self, CohortError> {
        let sent: Sent = serde_json::from_slice(body).map_err(|_| CohortError::Json)?;
        if sent.resource_type != ResourceType::GROUP.as_str() {
            return Err(CohortError::NotAGroup);
        }
        let unsupported = [
            ("implicitRules", sent.implicit_rules.is_some()),
            ("characteristic", sent.characteristic.is_some()),
            ("contained", sent.contained.is_some()),
        ];
        if let Some((name, _)) = unsupported.into_iter().find(|(_, is_there)| *is_there) {
            return Err(CohortError::Element(name));
        }
        if sent.kind.as_deref() != Some("person") {
            return Err(CohortError::Kind);
        }
        if sent.active == Some(false) {
            return Err(CohortError::Inactive);
        }
        let name = sent.name.unwrap_or_default();
        if name.trim().is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(CohortError::Name);
        }
        let filters = filters(sent.modifier_extension.unwrap_or_default())?;
        let members = sent.member.map(|members| listed(members, base)).transpose()?;
        if sent.actual.is_some_and(|actual| actual != members.is_some()) {
            return Err(CohortError::Actual);
        }
        Ok(Self { name: name.into(), members, filters })
    }

    /// Whether a server that says this of itself can be asked by all of its filters (SEC-21).
    ///
    /// # Errors
    /// One for the first filter by which it cannot.
    pub(crate) fn check(&self, capability: &Capability, compartments: Compartments) -> Result<(), CohortError> {
        for TypeFilter { resource_type: name, filter } in &self.filters {
            let name = *name;
            if name != ResourceType::PATIENT && !compartments.are_read_by_patient(name) {
                return Err(CohortError::OutsideCompartment(name));
            }
            if !capability.searchable().contains(&name) {
                return Err(CohortError::NotSearchable(name));
            }
            for own in filter.names() {
                let parameter = || own.to_owned();
                if names_patients(Level::Group, compartments, name, own) {
                    return Err(CohortError::NamesPatients { name, parameter: parameter() });
                }
                let kind = capability.parameter(name, own);
                let kind = kind.ok_or_else(|| CohortError::Unlisted { name, parameter: parameter() })?;
                filter.check_kind(own, kind)?;
            }
        }
        Ok(())
    }

    /// The Group that it is. Who is in it beyond those whom its client has named, an export tells.
    pub(crate) fn group(&self, id: CohortId) -> Value {
        let filter = |filter: &TypeFilter| {
            let expression = json!({ "language": LANGUAGE, "expression": filter.to_string() });
            json!({ "url": MEMBER_FILTER, "valueExpression": expression })
        };
        let mut group = json!({
            "resourceType": "Group",
            "id": id.group().as_str(),
            "meta": { "profile": [PROFILE] },
            "modifierExtension": self.filters.iter().map(filter).collect::<Vec<_>>(),
            "active": true,
            "type": "person",
            "actual": self.members.is_some(),
            "name": self.name,
        });
        if let Some(Listed { patients, groups }) = &self.members {
            let reference = |kind: &str, id: &Id| json!({ "entity": { "reference": format!("{kind}/{id}") } });
            let patients = patients.iter().map(|id| reference("Patient", id));
            group["member"] = patients.chain(groups.iter().map(|id| reference("Group", id))).collect();
        }
        group
    }
}

fn filters(sent: Vec<SentFilter>) -> Result<Vec<TypeFilter>, CohortError> {
    let mut filters = Vec::new();
    for SentFilter { url, value_expression } in sent {
        if url != MEMBER_FILTER {
            return Err(CohortError::ModifierExtension);
        }
        let expression = value_expression.filter(|sent| sent.language.as_deref() == Some(LANGUAGE));
        let text = expression.and_then(|sent| sent.expression).filter(|text| !text.contains("{{"));
        let filter = TypeFilter::parse(&text.ok_or(CohortError::Expression)?, Escapes::Once)?;
        if !filters.contains(&filter) {
            filters.push(filter);
        }
    }
    match filters.len() {
        0 => Err(CohortError::NoFilter),
        1..=MOST_FILTERS => Ok(filters),
        _ => Err(CohortError::TooManyFilters),
    }
}

fn listed(sent: Vec<SentMember>, base: &str) -> Result<Listed, CohortError> {
    if sent.is_empty() {
        return Err(CohortError::NoMembers);
    }
    let mut listed = Listed::default();
    for SentMember { entity, inactive, period, modifier_extension } in sent {
        let is_plain = inactive != Some(true) && period.is_none() && modifier_extension.is_none();
        let text = entity.and_then(|entity| entity.reference).filter(|text| is_plain && !text.contains("/_history/"));
        let target = LocalReference::parse_on(&text.ok_or(CohortError::Member)?, &[base]).ok_or(CohortError::Member)?;
        match target.resource_type {
            ResourceType::PATIENT => drop(listed.patients.insert(target.id)),
            ResourceType::GROUP if CohortId::of(&target.id).is_some() => return Err(CohortError::Nested),
            ResourceType::GROUP => drop(listed.groups.insert(target.id)),
            _ => return Err(CohortError::Member),
        }
        if listed.patients.len() > MOST_MEMBERS || listed.groups.len() > MOST_GROUPS {
            return Err(CohortError::TooManyMembers);
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "https://h/fhir";

    fn group(more: &str) -> String {
        let filter = format!(
            r#"{{"url":"{MEMBER_FILTER}","valueExpression":{{"language":"{LANGUAGE}","expression":"Condition?code=a|b"}}}}"#
        );
        format!(
            r#"{{"resourceType":"Group","type":"person","actual":false,"name":"n","modifierExtension":[{filter}]}}"#
        )
        .replace("\"actual\":false", more)
    }

    fn with_filters(filters: &str) -> String {
        format!(
            r#"{{"resourceType":"Group","type":"person","actual":false,"name":"n","modifierExtension":[{filters}]}}"#
        )
    }

    fn parse(json: &str) -> Result<Definition, CohortError> {
        Definition::parse(json.as_bytes(), BASE)
    }

    #[test]
    fn a_cohort_is_read_and_written_as_the_profile_has_it() {
        let sent = group(
            r#""actual":true,"member":[{"entity":{"reference":"Patient/b"}},{"entity":{"reference":"https://h/fhir/Patient/a"}},{"entity":{"reference":"Group/g"}}]"#,
        );
        let definition = parse(&sent).expect("a cohort");
        let id = CohortId::new(JobId::new([7; 16]));
        let group = definition.group(id);
        assert_eq!(group["id"], format!("{PREFIX}{}", "07".repeat(16)));
        assert_eq!(CohortId::of(&id.group()), Some(id));
        assert_eq!(group["modifierExtension"][0]["valueExpression"]["expression"], "Condition?code=a|b");
        let members: Vec<_> =
            ["Patient/a", "Patient/b", "Group/g"].map(|of| json!({ "entity": { "reference": of } })).into();
        assert_eq!(group["member"], json!(members));
        assert_eq!(parse(&group.to_string()), Ok(definition.clone()), "what is told can be sent");
        let stored = serde_json::to_string(&definition).expect("plain values");
        assert_eq!(serde_json::from_str::<Definition>(&stored).expect("the same"), definition);
        assert!(!format!("{definition:?}").contains("a|b"), "SEC-41");
        assert_eq!(parse(&self::group("\"actual\":false")).expect("a cohort").members, None);
    }

    /// SEC-25, DS-009: what could mean something is heeded or refused; nothing makes everybody of somebody.
    #[test]
    fn what_is_not_understood_is_refused() {
        use CohortError::{
            Actual, Element, Expression, Filter, Inactive, Json, Kind, Member, ModifierExtension, Name, Nested,
            NoFilter, NoMembers, NotAGroup, TooManyFilters, TooManyMembers,
        };
        let member =
            |more: &str| group(&format!(r#""actual":true,"member":[{{"entity":{{"reference":"Patient/a"}}{more}}}]"#));
        let reference = |of: &str| group(&format!(r#""actual":true,"member":[{{"entity":{{"reference":"{of}"}}}}]"#));
        let expression =
            |value: &str| with_filters(&format!(r#"{{"url":"{MEMBER_FILTER}","valueExpression":{value}}}"#));
        let query = |text: &str| expression(&format!(r#"{{"language":"{LANGUAGE}","expression":"{text}"}}"#));
        let many = |most: usize| {
            let one = |number| format!(r#"{{"entity":{{"reference":"Patient/{number}"}}}}"#);
            let list: Vec<_> = (0..most).map(one).collect();
            group(&format!(r#""actual":true,"member":[{}]"#, list.join(",")))
        };
        let nested = format!("Group/{PREFIX}{}", "0".repeat(32));
        let plain = group("\"actual\":false");
        let filters: Vec<_> = (0..=MOST_FILTERS)
            .map(|number| {
                format!(r#"{{"url":"{MEMBER_FILTER}","valueExpression":{{"language":"{LANGUAGE}","expression":"Patient?x={number}"}}}}"#)
            })
            .collect();
        for (sent, expected) in [
            ("[]".to_owned(), Json),
            ("{".to_owned(), Json),
            ("[".repeat(100_000), Json),
            (plain.replace("\"name\"", "\"x\":{\"y\":".repeat(2_000).as_str()), Json),
            (plain.replace("\"actual\"", "\"name\":\"m\",\"actual\""), Json),
            (plain.replace("Group", "List"), NotAGroup),
            (plain.replace("person", "device"), Kind),
            (plain.replace("\"n\"", "\" \""), Name),
            (plain.replace("\"n\"", &format!("\"{}\"", "n".repeat(201))), Name),
            (group("\"active\":false"), Inactive),
            (group("\"actual\":true"), Actual),
            (reference("Patient/a").replace("\"actual\":true", "\"actual\":false"), Actual),
            (group("\"implicitRules\":\"http://x\""), Element("implicitRules")),
            (group("\"characteristic\":[{}]"), Element("characteristic")),
            (group("\"characteristic\":null"), Element("characteristic")),
            (group("\"member\":null"), Json),
            (group("\"member\":[]"), NoMembers),
            (with_filters(""), NoFilter),
            (with_filters(r#"{"url":"http://x.example","valueBoolean":true}"#), ModifierExtension),
            (with_filters(&filters.join(",")), TooManyFilters),
            (with_filters(&format!(r#"{{"url":"{MEMBER_FILTER}","valueString":"Patient?x=1"}}"#)), Expression),
            (expression(r#"{"language":"text/cql","expression":"true"}"#), Expression),
            (expression(r#"{"language":"application/x-fhir-query"}"#), Expression),
            (query("Patient?gender={{%patient.gender}}"), Expression),
            (query("gender=male"), Filter(FilterError::NoType)),
            (query("Patient?"), Filter(FilterError::Shape)),
            (query("Patient?_sort=name"), Filter(FilterError::NotAFilter("_sort".to_owned()))),
            (
                query("Patient?_has:Group:member:_id=g"),
                Filter(FilterError::NotAFilter("_has:Group:member:_id".to_owned())),
            ),
            (member(r#","inactive":true"#), Member),
            (member(r#","period":{"end":"2020"}"#), Member),
            (member(r#","modifierExtension":[{"url":"http://x"}]"#), Member),
            (reference("Practitioner/a"), Member),
            (reference("https://elsewhere/fhir/Patient/a"), Member),
            (reference("Patient/a/_history/1"), Member),
            (reference("Patient?name=x"), Member),
            (reference(&nested), Nested),
            (many(MOST_MEMBERS + 1), TooManyMembers),
        ] {
            let what: String = sent.chars().take(200).collect();
            assert_eq!(parse(&sent).expect_err(&what), expected, "{what}");
        }
        assert!(parse(&many(MOST_MEMBERS)).is_ok());
        assert!(parse(&member(r#","inactive":false"#)).is_ok());
    }
}
