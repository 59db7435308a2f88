//! `Kickoff`: parameters and `Prefer` become a typed request, or a precise refusal.

mod parameters;
mod prefer;

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, Method, header};
use serde::{Deserialize, Serialize};

use crate::fhir::compartment::Compartments;
use crate::fhir::datatypes::{Id, Instant};
use crate::fhir::resource_type::ResourceType;
use crate::smart::policy::Level;
use parameters::{Parameter, ParametersError};

/// What an export is asked of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExportLevel {
    System,
    Patient,
    Group(Id),
}

impl ExportLevel {
    /// Which one it is, whatever the Group.
    pub(crate) fn level(&self) -> Level {
        match self {
            Self::System => Level::System,
            Self::Patient => Level::Patient,
            Self::Group(_) => Level::Group,
        }
    }

    /// The Group that is asked for.
    pub(crate) fn group(&self) -> Option<&Id> {
        match self {
            Self::System | Self::Patient => None,
            Self::Group(id) => Some(id),
        }
    }
}

/// A kick-off request that can be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kickoff {
    pub(crate) level: ExportLevel,
    /// `_type`; `None` is every type that the level allows.
    pub(crate) types: Option<BTreeSet<ResourceType>>,
    pub(crate) since: Option<Instant>,
    pub(crate) until: Option<Instant>,
    /// Names of parameters that `handling=lenient` left out, each once.
    pub(crate) ignored: Vec<String>,
}

/// Where each parameter stood, for refusals that come later than parsing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Places {
    types: BTreeMap<ResourceType, String>,
}

/// The headers that a kick-off depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headers {
    accept: Option<String>,
    prefer: Vec<String>,
    content_type: Option<String>,
    /// The body is compressed, or whatever else `Content-Encoding` says.
    is_encoded: bool,
}

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
    #[error("{location}: the parameter `{name}` is not supported")]
    Unsupported { location: String, name: String },
    #[error("{location}: there are no {name} resources to export here")]
    NotExportable { location: String, name: ResourceType },
    #[error("{location}: none of the types asked for belongs to patients; ask for them at system level")]
    OutsideCompartment { location: String },
    #[error(
        "patients can be exported of servers that speak FHIR R4, R4B or R5, and this one speaks another version; System level is offered"
    )]
    FhirVersion,
}

/// SEC-22: what may be left out leniently, because it never narrows what is exported.
const LENIENT: [&str; 3] = ["includeAssociatedData", "organizeOutputBy", "allowPartialManifests"];
/// Longest piece of a request that an answer repeats.
const LONGEST_ECHO: usize = 64;

impl Headers {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let all = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
        let accept: Vec<_> = all(header::ACCEPT).collect();
        Self {
            accept: (!accept.is_empty()).then(|| accept.join(",")),
            prefer: all(header::HeaderName::from_static("prefer")).collect(),
            content_type: all(header::CONTENT_TYPE).next(),
            is_encoded: all(header::CONTENT_ENCODING).any(|coding| !coding.trim().eq_ignore_ascii_case("identity")),
        }
    }

    /// Interop 1: any list that allows FHIR JSON is good; none at all is not.
    fn check_accept(&self) -> Result<(), KickoffError> {
        let accept = self.accept.as_deref().ok_or(KickoffError::NoAccept)?;
        let allows = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let refused =
                parts.any(|part| matches!(part.to_ascii_lowercase().as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            !refused && matches!(media.as_str(), "application/fhir+json" | "application/json" | "application/*" | "*/*")
        };
        if accept.split(',').any(allows) { Ok(()) } else { Err(KickoffError::NotAcceptable) }
    }

    fn check_content_type(&self) -> Result<(), KickoffError> {
        let media = self.content_type.as_deref().unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_json = matches!(media.as_str(), "application/fhir+json" | "application/json");
        if is_json && !self.is_encoded { Ok(()) } else { Err(KickoffError::ContentType) }
    }

    /// RFC 7240: a preference counts where it is named first, and an empty value is none.
    fn prefers(&self, name: &str, value: &str) -> bool {
        prefer::first(&self.prefer, name).is_some_and(|first| first.eq_ignore_ascii_case(value))
    }
}

impl Kickoff {
    /// Reads a kick-off request.
    ///
    /// # Errors
    /// One for the first thing that is wrong; nothing that would narrow the export is ever passed over.
    pub(crate) fn parse(
        level: ExportLevel,
        method: &Method,
        query: Option<&str>,
        headers: &Headers,
        body: &[u8],
        now: Instant,
    ) -> Result<(Self, Places), KickoffError> {
        headers.check_accept()?;
        if !headers.prefers("respond-async", "") {
            return Err(KickoffError::NotAsync);
        }
        let lenient = headers.prefers("handling", "lenient");
        let mut parameters = parameters::from_query(query.unwrap_or_default())?;
        if !body.is_empty() {
            // A filter in a body that nobody reads would be passed over.
            if *method != Method::POST {
                return Err(KickoffError::BodyOfGet);
            }
            headers.check_content_type()?;
            let sent = parameters::from_body(body)?;
            if let (Some(first), false) = (parameters.first(), sent.is_empty()) {
                return Err(KickoffError::BothPlaces { location: first.location.clone() });
            }
            parameters.extend(sent);
        }
        let mut kickoff = Self { level, types: None, since: None, until: None, ignored: Vec::new() };
        let mut places = Places::default();
        let (mut since_at, mut until_at) = (String::new(), String::new());
        let mut has_format = false;
        for parameter in parameters {
            match parameter.name.as_str() {
                "_type" => {
                    let named = types_of(&parameter)?;
                    let at = named.iter().map(|name| (*name, parameter.location.clone()));
                    places.types.extend(at);
                    kickoff.types.get_or_insert_default().extend(named);
                }
                "_since" => {
                    once(&mut kickoff.since, instant(&parameter, "_since")?, &parameter, "_since")?;
                    since_at = parameter.location;
                }
                "_until" => {
                    once(&mut kickoff.until, instant(&parameter, "_until")?, &parameter, "_until")?;
                    until_at = parameter.location;
                }
                "_outputFormat" => {
                    if std::mem::replace(&mut has_format, true) {
                        return Err(KickoffError::Twice { location: parameter.location, name: "_outputFormat" });
                    }
                    check_format(&parameter)?;
                }
                name if lenient && LENIENT.contains(&name) => {
                    if !kickoff.ignored.iter().any(|known| known == name) {
                        kickoff.ignored.push(parameter.name);
                    }
                }
                name => {
                    let name = echo(name);
                    return Err(KickoffError::Unsupported { location: parameter.location, name });
                }
            }
        }
        if kickoff.since.is_some_and(|since| since > now) {
            return Err(KickoffError::Future { location: since_at });
        }
        if let (Some(since), Some(until)) = (kickoff.since, kickoff.until)
            && until <= since
        {
            return Err(KickoffError::Order { location: until_at });
        }
        Ok((kickoff, places))
    }

    /// The types to export, of those that the upstream can be searched for.
    ///
    /// # Errors
    /// [`KickoffError::NotExportable`] for a type that was named and is not among them;
    /// [`KickoffError::OutsideCompartment`] if all that was named never belongs to a patient.
    pub(crate) fn resolve(
        &self,
        places: &Places,
        searchable: &BTreeSet<ResourceType>,
        compartments: Compartments,
    ) -> Result<Vec<ResourceType>, KickoffError> {
        let wanted = match &self.types {
            None => searchable,
            Some(types) => match types.iter().find(|name| !searchable.contains(name)) {
                Some(name) => {
                    return Err(KickoffError::NotExportable { location: places.of(*name), name: *name });
                }
                None => types,
            },
        };
        let of_patients = |name: &ResourceType| compartments.hold(*name) && !name.left_out_of_patient_exports();
        let types: Vec<_> = match self.level {
            ExportLevel::System => wanted.iter().copied().collect(),
            ExportLevel::Patient | ExportLevel::Group(_) => wanted.iter().copied().filter(of_patients).collect(),
        };
        match wanted.first() {
            Some(first) if types.is_empty() && self.types.is_some() => {
                Err(KickoffError::OutsideCompartment { location: places.of(*first) })
            }
            Some(_) | None => Ok(types),
        }
    }
}

impl Places {
    fn of(&self, name: ResourceType) -> String {
        self.types.get(&name).cloned().unwrap_or_else(|| "http._type".to_owned())
    }
}

impl KickoffError {
    /// The parameter that is to blame, in the words of `OperationOutcome.issue.location`.
    pub(crate) fn location(&self) -> Option<&str> {
        match self {
            Self::Kind { location, .. }
            | Self::Shape { location }
            | Self::Twice { location, .. }
            | Self::Instant { location }
            | Self::UnknownType { location, .. }
            | Self::Format { location }
            | Self::BothPlaces { location }
            | Self::Future { location }
            | Self::Order { location }
            | Self::NotExportable { location, .. }
            | Self::OutsideCompartment { location }
            | Self::Unsupported { location, .. } => Some(location),
            Self::NoAccept
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

fn types_of(parameter: &Parameter) -> Result<Vec<ResourceType>, KickoffError> {
    let text = parameter.text("_type")?;
    let parse = |name: &str| {
        let unknown = || KickoffError::UnknownType { location: parameter.location.clone(), name: echo(name) };
        ResourceType::parse(name.trim()).ok_or_else(unknown)
    };
    text.split(',').map(parse).collect()
}

fn instant(parameter: &Parameter, name: &'static str) -> Result<Instant, KickoffError> {
    let text = parameter.text(name)?;
    let is_plain = text.is_ascii() && (parameter.is_from_query() || !text.contains(' '));
    let instant = Instant::parse(text).ok().filter(|_| is_plain);
    instant.ok_or_else(|| KickoffError::Instant { location: parameter.location.clone() })
}

fn check_format(parameter: &Parameter) -> Result<(), KickoffError> {
    let text = parameter.text("_outputFormat")?;
    // A `+` that was not escaped has become a space.
    let format = text.trim().replace(' ', "+").to_ascii_lowercase();
    match format.as_str() {
        "application/fhir+ndjson" | "application/ndjson" | "ndjson" => Ok(()),
        _ => Err(KickoffError::Format { location: parameter.location.clone() }),
    }
}

fn once<T>(slot: &mut Option<T>, value: T, parameter: &Parameter, name: &'static str) -> Result<(), KickoffError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(KickoffError::Twice { location: parameter.location.clone(), name }),
    }
}

/// A piece of a request as an answer may repeat it.
fn echo(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(LONGEST_ECHO).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(accept: &str, prefer: &str) -> Headers {
        Headers {
            accept: (!accept.is_empty()).then(|| accept.to_owned()),
            prefer: vec![prefer.to_owned()],
            content_type: Some("application/fhir+json; charset=utf-8".to_owned()),
            is_encoded: false,
        }
    }

    fn get_with(query: &str, prefer: &str) -> Result<Kickoff, KickoffError> {
        let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
        let headers = headers("application/fhir+json", prefer);
        let parsed = Kickoff::parse(ExportLevel::System, &Method::GET, Some(query), &headers, b"", now);
        parsed.map(|(kickoff, _)| kickoff)
    }

    fn get(query: &str) -> Result<Kickoff, KickoffError> {
        get_with(query, "respond-async")
    }

    fn post(body: &str) -> Result<Kickoff, KickoffError> {
        let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
        let headers = headers("*/*", "respond-async");
        let parsed = Kickoff::parse(ExportLevel::Patient, &Method::POST, None, &headers, body.as_bytes(), now);
        parsed.map(|(kickoff, _)| kickoff)
    }

    fn types(names: &[&str]) -> BTreeSet<ResourceType> {
        names.iter().filter_map(|name| ResourceType::parse(name)).collect()
    }

    /// Interop 1
    #[test]
    fn both_headers_are_wanted_in_any_form_that_allows_what_we_do() {
        let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
        for (accept, prefer, expected) in [
            ("application/fhir+json", "respond-async", None),
            ("application/fhir+json, */*; q=0.1", "Respond-Async, handling=strict", None),
            ("application/json", "wait=10, respond-async;foo=bar", None),
            ("", "respond-async", Some(KickoffError::NoAccept)),
            ("text/html", "respond-async", Some(KickoffError::NotAcceptable)),
            ("*/*;q=0", "respond-async", Some(KickoffError::NotAcceptable)),
            ("*/*", "", Some(KickoffError::NotAsync)),
            ("*/*", "respond-asynchronously", Some(KickoffError::NotAsync)),
        ] {
            let parsed = Kickoff::parse(ExportLevel::System, &Method::GET, None, &headers(accept, prefer), b"", now);
            assert_eq!(parsed.err(), expected, "{accept} | {prefer}");
        }
    }

    #[test]
    fn lists_and_repeats_of_types_are_the_same() {
        for query in ["_type=Patient,Observation", "_type=Patient&_type=Observation", "_type=Patient%2CObservation"] {
            assert_eq!(get(query).expect("a kick-off").types, Some(types(&["Patient", "Observation"])), "{query}");
        }
        assert_eq!(get("").expect("a kick-off").types, None);
    }

    #[test]
    fn bad_values_are_told_by_their_place_and_never_exported_without() {
        let at = |name: &str| format!("http.{name}");
        for (query, expected) in [
            ("_type=Dragon", KickoffError::UnknownType { location: at("_type"), name: "Dragon".to_owned() }),
            ("_type=patient", KickoffError::UnknownType { location: at("_type"), name: "patient".to_owned() }),
            ("_type=", KickoffError::UnknownType { location: at("_type"), name: String::new() }),
            ("_since=2026-01-01", KickoffError::Instant { location: at("_since") }),
            ("_since=2026-01-01T00:00:00", KickoffError::Instant { location: at("_since") }),
            ("_until=x", KickoffError::Instant { location: at("_until") }),
            ("_since=2027-01-01T00:00:00Z", KickoffError::Future { location: at("_since") }),
            ("_since=2026-01-01T00:00:00Z&_until=2026-01-01T00:00:00Z", KickoffError::Order { location: at("_until") }),
            (
                "_since=2026-01-01T00:00:00Z&_since=2025-01-01T00:00:00Z",
                KickoffError::Twice { location: at("_since"), name: "_since" },
            ),
            ("_outputFormat=text/csv", KickoffError::Format { location: at("_outputFormat") }),
            (
                "_typeFilter=Patient%3Fgender%3Dmale",
                KickoffError::Unsupported { location: at("_typeFilter"), name: "_typeFilter".to_owned() },
            ),
            ("patient=Patient/1", KickoffError::Unsupported { location: at("patient"), name: "patient".to_owned() }),
            ("_format=json", KickoffError::Unsupported { location: at("_format"), name: "_format".to_owned() }),
            ("_type=Patient&%zz=1", KickoffError::Query),
        ] {
            assert_eq!(get(query), Err(expected), "{query}");
        }
    }

    #[test]
    fn all_spellings_of_the_format_and_an_unescaped_plus_are_taken() {
        for format in ["application/fhir%2Bndjson", "application/fhir+ndjson", "application/ndjson", "ndjson"] {
            assert!(get(&format!("_outputFormat={format}")).is_ok(), "{format}");
        }
        assert!(get("_since=2026-01-01T00:00:00+02:00").is_ok(), "an offset whose plus was not escaped");
    }

    /// SEC-22
    #[test]
    fn lenient_leaves_out_only_what_cannot_narrow() {
        let lenient = "respond-async, handling=lenient";
        assert_eq!(get_with("organizeOutputBy=Patient", lenient).expect("a kick-off").ignored, ["organizeOutputBy"]);
        for query in
            ["_typeFilter=Patient%3Fa%3Db", "patient=Patient/1", "_elements=id", "_since=x", "_type=Dragon", "foo=bar"]
        {
            assert!(get_with(query, lenient).is_err(), "{query}");
        }
        assert!(get("organizeOutputBy=Patient").is_err(), "strict is the default");
    }

    #[test]
    fn a_parameters_body_says_the_same_as_a_query() {
        let body = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient,Observation"},
            {"name":"_type","valueString":"Condition"},{"name":"_since","valueInstant":"2026-01-01T00:00:00Z"}]}"#;
        let kickoff = post(body).expect("a kick-off");
        assert_eq!(kickoff.types, Some(types(&["Patient", "Observation", "Condition"])));
        assert!(kickoff.since.is_some());
        assert!(post("").is_ok(), "interop 2: an empty body");
        for (body, expected) in [
            ("{", "the body is not JSON (line 1, column 1)"),
            (r#"{"resourceType":"Patient"}"#, "the body is not a `Parameters` resource"),
            ("[]", "the body is not"),
            (
                r#"{"resourceType":"Parameters","parameter":[{"name":"_since","valueString":"2026-01-01T00:00:00Z"}]}"#,
                "Parameters.parameter[0]: _since has no value of the right kind",
            ),
            (
                r#"{"resourceType":"Parameters","parameter":[{"valueString":"x"}]}"#,
                "Parameters.parameter[0]: not a parameter with a name",
            ),
            (r#"["Parameters"]"#, "the body is not a `Parameters` resource"),
            (r#"{"resourceType":"Parameters","resourceType":"Parameters"}"#, "the body is not a `Parameters`"),
            (r#"{"resourceType":"Parameters","parameter":{}}"#, "Parameters.parameter: not a parameter"),
            (r#"{"resourceType":"Parameters","parameter":[["_type"]]}"#, "Parameters.parameter[0]: not a parameter"),
            (
                r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient","modifierExtension":[{}]}]}"#,
                "Parameters.parameter[0]: not a parameter",
            ),
            (
                r#"{"resourceType":"Parameters","parameter":[{"name":"_since","valueInstant":"2026-01-01T00:00:00 02:00"}]}"#,
                "Parameters.parameter[0]: not a FHIR instant",
            ),
            (
                r#"{"resourceType":"Parameters","parameter":[{"name":"_type"}]}"#,
                "Parameters.parameter[0]: _type has no value",
            ),
            (
                r#"{"resourceType":"Parameters","parameter":[{"name":"patient","valueReference":{"reference":"Patient/1"}}]}"#,
                "Parameters.parameter[0]: the parameter `patient` is not supported",
            ),
        ] {
            let error = post(body).expect_err("no kick-off").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    /// Spec 2.2: what stands in the query counts only if the body has nothing to say.
    #[test]
    fn a_body_and_a_query_do_not_mix() {
        let now = Instant::parse("2026-06-01T00:00:00Z").expect("an instant");
        let headers = headers("*/*", "respond-async");
        let parse = |method, body: &str| {
            Kickoff::parse(ExportLevel::System, &method, Some("_type=Patient"), &headers, body.as_bytes(), now)
        };
        let full = r#"{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient"}]}"#;
        let location = "http._type".to_owned();
        assert!(parse(Method::POST, r#"{"resourceType":"Parameters"}"#).is_ok());
        assert_eq!(parse(Method::POST, full).err(), Some(KickoffError::BothPlaces { location }));
        assert_eq!(parse(Method::GET, full).err(), Some(KickoffError::BodyOfGet));
    }

    #[test]
    fn no_more_parameters_are_held_than_one_request_may_have() {
        let body = |many| format!(r#"{{"resourceType":"Parameters","parameter":[{}0]}}"#, "{},".repeat(many));
        assert_eq!(
            post(&body(999)).err(),
            Some(KickoffError::Shape { location: "Parameters.parameter[0]".to_owned() })
        );
        assert_eq!(post(&body(300_000)).err(), Some(KickoffError::TooMany));
        assert_eq!(get(&"_type=Patient&".repeat(1_001)).err(), Some(KickoffError::TooMany));
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        assert_eq!(post(&deep).err(), Some(KickoffError::NotParameters));
    }

    #[test]
    fn types_are_held_against_the_level_and_the_server() {
        let searchable = types(&["Patient", "Observation", "Organization", "Group"]);
        let resolve = |level, names: Option<&[&str]>| {
            let types = names.map(types);
            let kickoff = Kickoff { level, types, since: None, until: None, ignored: vec![] };
            let names = kickoff.resolve(&Places::default(), &searchable, Compartments::R4);
            names.map(|names| names.iter().map(|name| name.as_str()).collect::<Vec<_>>())
        };
        assert_eq!(resolve(ExportLevel::System, None), Ok(vec!["Group", "Observation", "Organization", "Patient"]));
        assert_eq!(resolve(ExportLevel::Patient, None), Ok(vec!["Observation", "Patient"]));
        assert_eq!(resolve(ExportLevel::Patient, Some(&["Observation", "Organization"])), Ok(vec!["Observation"]));
        assert_eq!(
            resolve(ExportLevel::Patient, Some(&["Organization"])),
            Err(KickoffError::OutsideCompartment { location: "http._type".to_owned() })
        );
        let name = ResourceType::parse("Device").expect("a type");
        let refused = KickoffError::NotExportable { location: "http._type".to_owned(), name };
        assert_eq!(resolve(ExportLevel::System, Some(&["Device"])), Err(refused));
    }
}
