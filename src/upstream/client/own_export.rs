//! Whether a server exports by itself: then whoever reaches it has a way round policy and ledger (SEC-03). It is tried with as
//! little as there is to export, and what that began is withdrawn.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Collected, Limited};
use serde_json::{Value, json};
use url::Url;

use super::Upstream;
use crate::body::{self, Body};
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::escape;

/// How long one question may take, with its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read, and of the server's statement.
const MOST_BYTES: usize = 64 * 1024;
const MOST_STATEMENT: usize = 16 * 1024 * 1024;

/// What can be exported at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    System,
    Patient,
    /// Of a Group that nobody has: some servers begin such an export all the same.
    Group,
}

impl Level {
    const ALL: [Self; 3] = [Self::System, Self::Patient, Self::Group];

    fn operation(self) -> &'static str {
        match self {
            Self::System => "$export",
            Self::Patient => "Patient/$export",
            Self::Group => "Group/offtake-doctor-nobody/$export",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "`$export`",
            Self::Patient => "`Patient/$export`",
            Self::Group => "`Group/…/$export`",
        })
    }
}

/// What became of a kick-off of the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnExport {
    /// It was refused.
    Refused(StatusCode),
    /// An export has begun, and was ended again or not.
    Begun { withdrawn: bool },
    /// It was answered at once, with whatever.
    Answered(StatusCode),
    /// It was sent, and no answer came in time.
    Unanswered,
    /// It could not be sent, or nothing came that says anything.
    Unknown,
}

impl OwnExport {
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            408 | 425 | 429 => Self::Unknown,
            400..=499 | 501 => Self::Refused(status),
            202 => Self::Begun { withdrawn: false },
            200..=299 => Self::Answered(status),
            _ => Self::Unknown,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy)]
enum Silence {
    Late,
    Failed,
}

impl From<Silence> for OwnExport {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Late => Self::Unanswered,
            Silence::Failed => Self::Unknown,
        }
    }
}

/// An answer as far as it matters.
struct Said {
    status: StatusCode,
    location: Option<String>,
    body: Bytes,
}

impl Upstream {
    /// The levels that the server's statement says it exports at. The base that it writes into links is known from then on.
    pub(crate) async fn states_own_exports(&self) -> Vec<Level> {
        let target = format!("{}/metadata", self.base_path());
        let Ok(said) = self.say(Method::GET, &target, Bytes::new(), MOST_STATEMENT).await else { return Vec::new() };
        let statement: Value = serde_json::from_slice(&said.body).unwrap_or_default();
        if let Some(base) = statement["implementation"]["url"].as_str().filter(|url| url.starts_with("http")) {
            self.advertise(base);
        }
        stated(&statement)
    }

    /// Kicks off an export of nothing at each level: of a type that hardly any server holds, since now.
    pub(crate) async fn try_own_exports(&self) -> Vec<(Level, OwnExport)> {
        let mut tried = Vec::new();
        for level in Level::ALL {
            let target = format!("{}/{}", self.base_path(), self.export_of_nothing(level));
            let export = match self.say(Method::GET, &target, Bytes::new(), MOST_BYTES).await {
                Ok(said) => self.concluded(said.status, said.location).await,
                Err(silence) => silence.into(),
            };
            tried.push((level, export));
        }
        tried
    }

    /// The same as entries of a batch, whose path is as good as any.
    pub(crate) async fn try_own_exports_in_a_batch(&self) -> Vec<(Level, OwnExport)> {
        let entry = |level| json!({ "request": { "method": "GET", "url": self.export_of_nothing(level) } });
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": Level::ALL.map(entry) });
        let base = self.base_path();
        let target = if base.is_empty() { "/" } else { base };
        let for_all = |export: OwnExport| Level::ALL.map(|level| (level, export)).to_vec();
        let Said { status, location, body } =
            match self.say(Method::POST, target, batch.to_string().into(), MOST_BYTES).await {
                Ok(said) => said,
                Err(silence) => return for_all(silence.into()),
            };
        // A batch may itself be answered later: what is in it has begun.
        if status != StatusCode::OK {
            return for_all(self.concluded(status, location).await);
        }
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut tried = Vec::new();
        for (number, level) in Level::ALL.into_iter().enumerate() {
            let response = &answer["entry"][number]["response"];
            let status = response["status"].as_str().and_then(|status| status.get(..3)?.parse().ok());
            let export = match status {
                Some(status) => self.concluded(status, response["location"].as_str().map(str::to_owned)).await,
                None => OwnExport::Unknown,
            };
            tried.push((level, export));
        }
        tried
    }

    fn export_of_nothing(&self, level: Level) -> String {
        let mut since = String::new();
        escape(&self.now().to_string(), &mut since);
        format!("{}?_type=Basic&_since={since}", level.operation())
    }

    async fn concluded(&self, status: StatusCode, location: Option<String>) -> OwnExport {
        match OwnExport::of(status) {
            OwnExport::Begun { .. } => {
                let target = location.and_then(|location| withdrawal(&self.inner.base, &self.bases(), &location));
                let said = match &target {
                    Some(target) => self.say(Method::DELETE, target, Bytes::new(), MOST_BYTES).await.ok(),
                    None => None,
                };
                OwnExport::Begun { withdrawn: said.is_some_and(|said| said.status.is_success()) }
            }
            other => other,
        }
    }

    /// Asks once, with what searches show.
    async fn say(&self, method: Method, target: &str, sent: Bytes, most: usize) -> Result<Said, Silence> {
        let answered = async {
            let base = &self.inner.base;
            let authority = &base[url::Position::BeforeHost..url::Position::AfterPort];
            let mut request = Request::builder()
                .method(method)
                .uri(format!("{}://{authority}{target}", base.scheme()))
                .header(header::ACCEPT, "application/fhir+json")
                .header("prefer", "respond-async");
            if !sent.is_empty() {
                request = request.header(header::CONTENT_TYPE, "application/fhir+json");
            }
            let body: Body = if sent.is_empty() { body::empty() } else { body::full(sent) };
            let mut request = request.body(body).ok()?;
            self.inner.channel.credentials.put_on(&mut request).await.ok()?;
            let (head, body) = self.inner.channel.client.send(request).await.ok()?.into_parts();
            let location = head.headers.get(header::CONTENT_LOCATION).and_then(|location| location.to_str().ok());
            // What is longer is no answer that matters.
            let body = Limited::new(body, most).collect().await.map(Collected::to_bytes).unwrap_or_default();
            Some(Said { status: head.status, location: location.map(str::to_owned), body })
        };
        tokio::time::timeout(PATIENCE, answered).await.map_err(|_| Silence::Late)?.ok_or(Silence::Failed)
    }
}

/// The levels at which a statement says that the server exports.
fn stated(statement: &Value) -> Vec<Level> {
    fn named(operations: &Value) -> impl Iterator<Item = Option<Level>> {
        operations.as_array().into_iter().flatten().map(|operation| {
            let name = operation["name"].as_str().unwrap_or_default();
            let definition = operation["definition"].as_str().unwrap_or_default();
            let definition = definition.split(['|', '?']).next().and_then(|url| url.rsplit('/').next());
            let own = [Some(name), definition].into_iter().flatten().map(|name| name.trim_start_matches('$'));
            own.filter_map(|name| match name {
                "export" => Some(Level::System),
                "patient-export" => Some(Level::Patient),
                "group-export" => Some(Level::Group),
                _ => None,
            })
            .next_back()
        })
    }
    let mut found = Vec::new();
    for rest in statement["rest"].as_array().into_iter().flatten() {
        found.extend(named(&rest["operation"]).flatten());
        for resource in rest["resource"].as_array().into_iter().flatten() {
            let level = match resource["type"].as_str() {
                Some("Patient") => Level::Patient,
                Some("Group") => Level::Group,
                _ => continue,
            };
            found.extend(named(&resource["operation"]).flatten().map(|_| level));
        }
    }
    Level::ALL.into_iter().filter(|level| found.contains(level)).collect()
}

/// What to delete so that an export ends: the address that it is asked about at, if that is the server's own by one of the bases
/// that it goes by and can be no resource. It is always asked where searches go.
fn withdrawal(base: &Url, known: &[&str], location: &str) -> Option<String> {
    let with_slash = |url: &Url| {
        let mut below = url.clone();
        if !below.path().ends_with('/') {
            below.set_path(&format!("{}/", url.path()));
        }
        below
    };
    let below = with_slash(base);
    let mut url = below.join(location).ok()?;
    if url.origin() != base.origin() {
        let known = known.iter().filter_map(|known| Url::parse(known).ok()).map(|known| with_slash(&known));
        let known: Vec<_> = known.filter(|known| known.origin() == url.origin()).collect();
        if known.iter().any(|known| known.path() == with_slash(&url).path()) {
            return None;
        }
        let rest = known.iter().filter_map(|known| url.path().strip_prefix(known.path()));
        let rest = rest.min_by_key(|rest| rest.len())?.to_owned();
        let mut own = below.clone();
        own.set_path(&format!("{}{rest}", below.path()));
        own.set_query(url.query());
        url = own;
    }
    let is_resource = url.path_segments()?.any(|segment| ResourceType::is_like_one(segment) || segment.contains('%'));
    if is_resource || url.path() == base.path() || url.path() == below.path() {
        return None;
    }
    Some(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_deleted_that_may_be_a_resource_or_is_elsewhere() {
        let base = Url::parse("https://h/fhir").expect("a URL");
        let known = ["https://h/fhir", "https://public.example/r4", "https://public.example"];
        for (location, expected) in [
            ("https://h/fhir/$export-poll-status?_jobId=1", Some("/fhir/$export-poll-status?_jobId=1")),
            ("https://h:443/elsewhere/_operations/export/1#x", Some("/elsewhere/_operations/export/1")),
            ("$bulkdata-status?job=1", Some("/fhir/$bulkdata-status?job=1")),
            ("/bulk/1", Some("/bulk/1")),
            ("https://public.example/r4/$export-poll-status?_jobId=1", Some("/fhir/$export-poll-status?_jobId=1")),
            ("https://public.example/elsewhere/1", Some("/fhir/elsewhere/1")),
            ("https://public.example/r4/Patient/1", None),
            ("https://public.example/r4?_id=1", None),
            ("https://public.example/r4/x/../Patient/1", None),
            ("http://public.example/r4/$export-poll-status?_jobId=1", None),
            ("https://public.example.evil/r4/$export-poll-status?_jobId=1", None),
            ("https://other/fhir/$export-poll-status?_jobId=1", None),
            ("//other/fhir/1", None),
            ("http://h/fhir/$export-poll-status?_jobId=1", None),
            ("https://h/fhir/Patient/1", None),
            ("https://h/fhir/patient/1", None),
            ("https://h/fhir/x/../Patient/1", None),
            ("Patient?_id=1", None),
            ("https://h/fhir/%50atient/1", None),
            ("https://h/fhir", None),
            ("https://h/fhir/", None),
            ("https://h/fhir?_id=1", None),
            ("", None),
            ("mailto:a@b", None),
        ] {
            assert_eq!(withdrawal(&base, &known, location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn what_a_statement_says_of_exports_is_found_wherever_it_stands() {
        let of = |system: Value, patient: Value, group: Value| {
            stated(&json!({ "rest": [{ "operation": system, "resource": [
                { "type": "Patient", "operation": patient }, { "type": "Group", "operation": group }, { "type": "Basic" },
            ] }] }))
        };
        let export = || json!([{ "name": "export", "definition": "http://h/OperationDefinition/x" }]);
        let none = || json!([{ "name": "everything", "definition": "http://h/Patient-everything" }]);
        let all = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/group-export|2.0.0";
        for (statement, expected) in [
            (of(export(), none(), none()), vec![Level::System]),
            (of(none(), export(), export()), vec![Level::Patient, Level::Group]),
            (of(json!([{ "name": "$export", "definition": all }]), none(), none()), vec![Level::Group]),
            (of(none(), none(), none()), vec![]),
            (stated(&json!({ "rest": 1 })), vec![]),
            (stated(&Value::Null), vec![]),
        ] {
            assert_eq!(statement, expected);
        }
    }

    #[test]
    fn what_a_status_says_of_it() {
        for (status, expected) in [
            (202, Some(OwnExport::Begun { withdrawn: false })),
            (200, Some(OwnExport::Answered(StatusCode::OK))),
            (400, Some(OwnExport::Refused(StatusCode::BAD_REQUEST))),
            (404, Some(OwnExport::Refused(StatusCode::NOT_FOUND))),
            (501, Some(OwnExport::Refused(StatusCode::NOT_IMPLEMENTED))),
            (302, None),
            (429, None),
            (503, None),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(OwnExport::of(status), expected.unwrap_or(OwnExport::Unknown), "{status}");
        }
    }
}
