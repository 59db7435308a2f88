//! Why a kick-off was refused.

use super::elements::MOST_ELEMENTS;
use super::parameters::ParametersError;
use crate::fhir::filter::{FilterError, MOST_FILTERS};
use crate::fhir::resource_type::ResourceType;

/// Why a kick-off was refused. Knows nothing of HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KickoffError {
    #[error("the header `Accept: application/fhir+json` is missing")]
    NoAccept,
    #[error("the `Accept` header does not allow `application/fhir+json`")]
    NotAcceptable,
    #[error("the header `Prefer: respond-async` is missing: exports are asynchronous only")]
    NotAsync,
    #[error("the body has to be sent as `application/fhir+json`, and not encoded")]
    ContentType,
    #[error("the body is larger than 1 MiB")]
    TooLarge,
    #[error("the body did not come to its end")]
    CutShort,
    #[error("the body did not come in time")]
    Slow,
    #[error("a GET request has its parameters in the URL and no body")]
    BodyOfGet,
    #[error("the body is not JSON (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("the body is not a `Parameters` resource")]
    NotParameters,
    #[error("the query holds an escape that is none, or does not decode to text")]
    Query,
    #[error("there are more parameters than one request may have")]
    TooMany,
    #[error("{location}: parameters stand in the body or in the query, not in both")]
    BothPlaces { location: String },
    #[error("{location}: {name} has no value of the right kind")]
    Kind { location: String, name: &'static str },
    #[error("{location}: not a parameter with a name and a value, or one with parts or a modifier extension")]
    Shape { location: String },
    #[error("{location}: `{name}` stands there twice")]
    Twice { location: String, name: &'static str },
    #[error("{location}: one value of `{name}` stands in each parameter here, and no list of them")]
    List { location: String, name: &'static str },
    #[error("{location}: `_maximumFileSize` is not larger than `_minimumFileSize`")]
    Sizes { location: String },
    #[error("{location}: `_maximumFileSize` is less than {least} bytes, which is the least that can be asked for")]
    SmallFiles { location: String, least: u64 },
    #[error("{location}: not a FHIR instant such as 2026-01-31T12:00:00Z, with seconds and a zone")]
    Instant { location: String },
    #[error("{location}: `_since` lies in the future")]
    Future { location: String },
    #[error("{location}: `_until` does not lie after `_since`")]
    Order { location: String },
    #[error("{location}: `{name}` is not a resource type")]
    UnknownType { location: String, name: String },
    #[error("{location}: only `application/fhir+ndjson`, `application/ndjson` and `ndjson` can be had")]
    Format { location: String },
    #[error(
        "{location}: `{name}` is not an element of the root of a resource, such as `status` or `Patient.birthDate`"
    )]
    NotAnElement { location: String, name: String },
    #[error("{location}: `_elements` cannot be heeded for {name}, as it is not known what must stay of it")]
    ElementsOf { location: String, name: ResourceType },
    #[error("`_elements` is for servers that speak FHIR R4, R4B or R5, and this one speaks another version")]
    ElementsOfVersion,
    #[error("{location}: there are more than {MOST_ELEMENTS} elements")]
    TooManyElements { location: String },
    #[error("{location}: `patient` is sent by POST, as a `valueReference` in a `Parameters` body")]
    PatientInQuery { location: String },
    #[error("{location}: `patient` can be asked for at Patient and Group level, not at System level")]
    PatientAtSystem { location: String },
    #[error("{location}: not a literal reference to a patient of this server, such as `Patient/123`")]
    NotAPatient { location: String },
    #[error("{location}: {error}")]
    Filter { location: String, error: FilterError },
    #[error("{location}: there are more than {MOST_FILTERS} filters")]
    TooManyFilters { location: String },
    #[error("{location}: {name} is filtered and not among the types of `_type`")]
    FilteredNotAsked { location: String, name: ResourceType },
    #[error("{location}: the FHIR server does not list `{parameter}` among the search parameters of {name}")]
    FilterUnlisted { location: String, name: ResourceType, parameter: String },
    #[error("{location}: `{parameter}` is how {name} is read in this export, and may not be used to filter it")]
    FilterIsUsed { location: String, name: ResourceType, parameter: String },
    #[error("{location}: `{value}` is no value of `includeAssociatedData` that is known here")]
    NotAssociated { location: String, value: String },
    #[error("{location}: the FHIR server does not let Provenance be searched by what it is about (`target`)")]
    NoProvenance { location: String },
    #[error("{location}: files can be organized by `Patient`, and not by `{value}`")]
    OrganizedBy { location: String, value: String },
    #[error("files that are organized by patient (`organizeOutputBy`) are not to be had here")]
    NotOrganized,
    #[error("{location}: the Provenance of what is exported cannot be had in files that are organized by patient")]
    ProvenanceInBlocks { location: String },
    #[error("{location}: the parameter `{name}` is not supported")]
    Unsupported { location: String, name: String },
    #[error("{location}: there are no {name} resources to export here")]
    NotExportable { location: String, name: ResourceType },
    #[error(
        "{location}: none of the types asked for belongs to patients, or is that of a member of the Group; ask for them at system level"
    )]
    OutsideCompartment { location: String },
    #[error(
        "patients can be exported of servers that speak FHIR R4, R4B or R5, and this one speaks another version; System level is offered"
    )]
    FhirVersion,
}

impl KickoffError {
    /// The parameter that is to blame, in the words of `OperationOutcome.issue.location`.
    pub(crate) fn location(&self) -> Option<&str> {
        match self {
            Self::Kind { location, .. }
            | Self::Shape { location }
            | Self::Twice { location, .. }
            | Self::List { location, .. }
            | Self::Sizes { location }
            | Self::SmallFiles { location, .. }
            | Self::Instant { location }
            | Self::UnknownType { location, .. }
            | Self::Format { location }
            | Self::BothPlaces { location }
            | Self::Future { location }
            | Self::Order { location }
            | Self::NotExportable { location, .. }
            | Self::OutsideCompartment { location }
            | Self::NotAnElement { location, .. }
            | Self::ElementsOf { location, .. }
            | Self::TooManyElements { location }
            | Self::PatientInQuery { location }
            | Self::PatientAtSystem { location }
            | Self::NotAPatient { location }
            | Self::Filter { location, .. }
            | Self::TooManyFilters { location }
            | Self::FilteredNotAsked { location, .. }
            | Self::FilterUnlisted { location, .. }
            | Self::FilterIsUsed { location, .. }
            | Self::NotAssociated { location, .. }
            | Self::NoProvenance { location }
            | Self::OrganizedBy { location, .. }
            | Self::ProvenanceInBlocks { location }
            | Self::Unsupported { location, .. } => Some(location),
            Self::NoAccept
            | Self::NotOrganized
            | Self::NotAcceptable
            | Self::NotAsync
            | Self::ContentType
            | Self::TooLarge
            | Self::CutShort
            | Self::Slow
            | Self::BodyOfGet
            | Self::TooMany
            | Self::Json { .. }
            | Self::NotParameters
            | Self::Query
            | Self::ElementsOfVersion
            | Self::FhirVersion => None,
        }
    }
}

impl From<ParametersError> for KickoffError {
    fn from(error: ParametersError) -> Self {
        match error {
            ParametersError::Json { line, column } => Self::Json { line, column },
            ParametersError::NotParameters => Self::NotParameters,
            ParametersError::TooMany => Self::TooMany,
            ParametersError::Shape { location } => Self::Shape { location },
            ParametersError::Query => Self::Query,
        }
    }
}
