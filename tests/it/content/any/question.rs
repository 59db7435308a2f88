//! What is asked for: any parameters beside each other, spelled in any way, as a request.

use std::collections::BTreeSet;

use proptest::sample::{select, subsequence};
use proptest::strategy::{Just, Strategy};
use proptest::{bool as truth, option, prop_oneof};
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use super::answer::World;
use crate::filters::{Passes, coded};

pub(super) const LATEST: &str = "LatestProvenanceResources";
pub(super) const RELEVANT: &str = "RelevantProvenanceResources";

/// Presets of the server's operator.
pub(super) const PRESETS: [(&str, &[&str]); 2] =
    [("_care", &["Condition", "Practitioner"]), ("_told", &["Provenance"])];

/// Types of patients.
pub(super) const PATIENTS_OWN: [&str; 13] = [
    "AllergyIntolerance",
    "CarePlan",
    "Condition",
    "Coverage",
    "DiagnosticReport",
    "DocumentReference",
    "Encounter",
    "Immunization",
    "MedicationRequest",
    "Observation",
    "Patient",
    "Procedure",
    "Provenance",
];
/// Types that are a part of a patient's export by reference only, or never.
const OTHERS: [&str; 5] = ["Group", "Location", "Medication", "Organization", "Practitioner"];

const LEVELS: [&str; 4] = ["", "/Patient", "/Group/all", "/Group/first-half"];

/// Filters with what they let pass.
pub(super) const FILTERS: [(&str, Passes); 7] = [
    ("Observation?category=laboratory", |resource| coded(resource, "category", "laboratory")),
    ("Observation?code=http://loinc.org|8867-4", |resource| coded(resource, "code", "8867-4")),
    ("Observation?category=vital-signs&code=8867-4", |resource| {
        coded(resource, "category", "vital-signs") && coded(resource, "code", "8867-4")
    }),
    ("Patient?gender=male", |resource| resource["gender"] == "male"),
    ("Patient?active=true", |resource| resource["active"] == true),
    ("Condition?category=encounter-diagnosis", |resource| coded(resource, "category", "encounter-diagnosis")),
    ("Encounter?class=AMB", |resource| resource["class"]["code"] == "AMB"),
];

const ELEMENTS: [&str; 6] = ["id", "status", "subject", "code", "Patient.name", "Observation.valueQuantity"];
/// No type has it.
pub(super) const NO_ELEMENT: &str = "stauts";

pub(super) const FORMATS: [&str; 4] =
    ["application/fhir+ndjson", "application/ndjson", "ndjson", "Application/FHIR+NDJSON"];
const OTHER_FORMATS: [&str; 3] = ["application/vnd.apache.parquet", "application/fhir+json", "csv"];

/// The least that files may be asked to have at most.
pub(super) const LEAST_FILE: u64 = 1_024;

/// The operation, and the way in which it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Get,
    Post,
    /// `$export-v4`, which is posted.
    Fourth,
}

#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) level: &'static str,
    pub(super) how: How,
    pub(super) is_lenient: bool,
    pub(super) is_separate: bool,
    /// Several values stand in one parameter.
    pub(super) in_lists: bool,
    pub(super) types: Option<Vec<&'static str>>,
    pub(super) filters: Vec<&'static str>,
    pub(super) since: Option<String>,
    pub(super) until: Option<String>,
    /// Their ids.
    pub(super) patients: Option<Vec<String>>,
    pub(super) elements: Option<Vec<&'static str>>,
    pub(super) associated: Vec<&'static str>,
    pub(super) organized_by: Option<&'static str>,
    pub(super) partial: Option<bool>,
    pub(super) smallest: Option<u64>,
    pub(super) largest: Option<u64>,
    pub(super) format: Option<&'static str>,
    /// The value of one that nobody knows.
    pub(super) unknown: Option<&'static str>,
    /// So many of the parameters stand behind the others.
    pub(super) turn: usize,
}

/// Any question to a server. Most of them can be answered.
pub(super) fn any(world: &World) -> impl Strategy<Value = Question> {
    let types: Vec<_> = PATIENTS_OWN.into_iter().chain(OTHERS).collect();
    let filters: Vec<_> = FILTERS.iter().map(|(filter, _)| *filter).collect();
    let instants = world.instants();
    let patients = world.patients();
    let (many, everybody) = (types.len(), patients.len());
    let who = (
        select(LEVELS.to_vec()),
        select(vec![How::Get, How::Post, How::Fourth]),
        truth::weighted(0.3),
        truth::weighted(0.2),
        truth::ANY,
        // What makes no sense together is asked for as well, but seldom.
        truth::weighted(0.1),
    );
    let what = (
        option::weighted(0.6, subsequence(types, 1..=many)),
        subsequence(filters, 0..=3),
        option::weighted(0.25, select(instants.clone())),
        option::weighted(0.25, select(instants)),
        option::weighted(0.25, subsequence(patients, 1..=everybody)),
        option::weighted(0.25, subsequence(ELEMENTS.to_vec(), 1..=ELEMENTS.len())),
    );
    let shape = (
        prop_oneof![
            4 => Just(Vec::new()),
            3 => subsequence(vec![LATEST, RELEVANT, "_care", "_told"], 1..=2),
            1 => subsequence(vec![LATEST, RELEVANT, "_care", "_told", "_unknown"], 1..=5),
        ],
        prop_oneof![13 => Just(None), 5 => Just(Some("Patient")), 1 => Just(Some("Encounter"))],
        option::weighted(0.5, truth::ANY),
        option::weighted(0.25, select(vec![1_000, 20_000, 2_000_000_000])),
        option::weighted(0.3, select(vec![2_000, 30_000, 1_000_000, 2_000_000_000, LEAST_FILE, LEAST_FILE - 1])),
        prop_oneof![
            12 => Just(None),
            11 => select(FORMATS.to_vec()).prop_map(Some),
            1 => select(OTHER_FORMATS.to_vec()).prop_map(Some),
        ],
        0..4_usize,
    );
    (who, what, shape).prop_map(|(who, what, shape)| {
        let (level, how, is_lenient, is_separate, in_lists, is_misplaced) = who;
        let (types, filters, since, until, patients, elements) = what;
        let (associated, organized_by, partial, smallest, largest, format, turn) = shape;
        let unknown = (is_misplaced && turn == 1).then_some("x");
        let question = Question {
            level,
            how,
            is_lenient,
            is_separate,
            in_lists,
            types,
            filters,
            since,
            until,
            patients,
            elements,
            associated,
            organized_by,
            partial,
            smallest,
            largest,
            format,
            unknown,
            turn,
        };
        if is_misplaced { question.without_an_element() } else { question.sensible() }
    })
}

/// The value of a parameter, by its type in a body.
enum Sent {
    String(String),
    Instant(String),
    Reference(String),
    Code(String),
    /// By the code system of the guide.
    Coding(String),
    Boolean(bool),
    Number(u64),
}

impl Sent {
    fn of(text: impl ToString) -> Self {
        Self::String(text.to_string())
    }

    /// As it stands in a query.
    fn text(&self) -> String {
        match self {
            Self::String(text) | Self::Instant(text) | Self::Reference(text) => text.clone(),
            Self::Code(text) | Self::Coding(text) => text.clone(),
            Self::Boolean(truth) => truth.to_string(),
            Self::Number(number) => number.to_string(),
        }
    }

    fn in_a_body(&self, name: &str) -> Value {
        let system = "http://hl7.org/fhir/uv/bulkdata/CodeSystem/include-associated-data";
        match self {
            Self::String(text) => json!({ "name": name, "valueString": text }),
            Self::Instant(text) => json!({ "name": name, "valueInstant": text }),
            Self::Reference(text) => json!({ "name": name, "valueReference": { "reference": text } }),
            Self::Code(text) => json!({ "name": name, "valueCode": text }),
            Self::Coding(text) => json!({ "name": name, "valueCoding": { "system": system, "code": text } }),
            Self::Boolean(truth) => json!({ "name": name, "valueBoolean": truth }),
            Self::Number(number) => json!({ "name": name, "valuePositiveInt": number }),
        }
    }
}

/// A kick-off below the base.
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) below: String,
    pub(super) body: String,
    pub(super) prefer: String,
    /// The names of the parameters, in their order.
    names: Vec<&'static str>,
}

impl Question {
    /// The same without what is refused because it does not go together.
    fn sensible(mut self) -> Self {
        let types = self.types.clone();
        self.filters.retain(|filter| {
            types.as_ref().is_none_or(|types| types.iter().any(|name| filter.split('?').next() == Some(*name)))
        });
        if self.since.is_some() && self.until <= self.since {
            self.until = None;
        }
        if self.level.is_empty() || self.how == How::Get {
            self.patients = None;
        }
        if self.how == How::Fourth {
            self.in_lists = false;
        }
        if self.largest.is_some() && self.largest <= self.smallest {
            self.smallest = None;
        }
        self
    }

    fn without_an_element(mut self) -> Self {
        if let (2, Some(elements)) = (self.turn, &mut self.elements) {
            elements.push(NO_ELEMENT);
        }
        self
    }

    /// Each parameter with its value, in the order in which they are sent.
    fn parameters(&self) -> Vec<(&'static str, Sent)> {
        let mut all = Vec::new();
        let mut several = |name: &'static str, values: &[&str], sent: fn(String) -> Sent| {
            if self.in_lists && !values.is_empty() {
                all.push((name, sent(values.join(","))));
            } else {
                all.extend(values.iter().map(|value| (name, sent((*value).to_owned()))));
            }
        };
        several("_type", self.types.as_deref().unwrap_or_default(), Sent::String);
        several("_typeFilter", &self.filters, Sent::String);
        several("_elements", self.elements.as_deref().unwrap_or_default(), Sent::String);
        let code = if self.how == How::Fourth { Sent::Coding } else { Sent::Code };
        several("includeAssociatedData", &self.associated, code);
        all.extend(self.since.iter().map(|since| ("_since", Sent::Instant(since.clone()))));
        all.extend(self.until.iter().map(|until| ("_until", Sent::Instant(until.clone()))));
        let patients = self.patients.iter().flatten();
        all.extend(patients.map(|id| ("patient", Sent::Reference(format!("Patient/{id}")))));
        all.extend(self.organized_by.map(|by| ("organizeOutputBy", Sent::of(by))));
        all.extend(self.partial.map(|partial| ("allowPartialManifests", Sent::Boolean(partial))));
        all.extend(self.smallest.map(|bytes| ("_minimumFileSize", Sent::Number(bytes))));
        all.extend(self.largest.map(|bytes| ("_maximumFileSize", Sent::Number(bytes))));
        all.extend(self.format.map(|format| ("_outputFormat", Sent::of(format))));
        all.extend(self.unknown.map(|value| ("_unknown", Sent::of(value))));
        let turn = self.turn.min(all.len());
        all.rotate_left(turn);
        all
    }

    pub(super) fn request(&self) -> Request {
        let parameters = self.parameters();
        let names = parameters.iter().map(|(name, _)| *name).collect();
        let operation = if self.how == How::Fourth { "$export-v4" } else { "$export" };
        let below = format!("{}/{operation}", self.level);
        let mut prefer = "respond-async".to_owned();
        if self.is_lenient {
            prefer += ", handling=lenient";
        }
        if self.is_separate {
            prefer += ", separate-export-status";
        }
        if self.how == How::Get {
            let escaped = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pairs = parameters.iter().map(|(name, sent)| format!("{name}={}", escaped(&sent.text())));
            let below = format!("{below}?{}", pairs.collect::<Vec<_>>().join("&"));
            Request { method: "GET", below, body: String::new(), prefer, names }
        } else {
            let list: Vec<_> = parameters.iter().map(|(name, sent)| sent.in_a_body(name)).collect();
            let body = json!({ "resourceType": "Parameters", "parameter": list }).to_string();
            Request { method: "POST", below, body, prefer, names }
        }
    }
}

impl Request {
    /// The name of the parameter that an outcome's `location` leads to.
    pub(super) fn named<'a>(&'a self, location: &'a str) -> Option<&'a str> {
        if let Some(name) = location.strip_prefix("http.") {
            return Some(name);
        }
        let place = location.strip_prefix("Parameters.parameter[")?.strip_suffix(']')?;
        self.names.get(place.parse::<usize>().ok()?).copied()
    }

    /// Whether a parameter was sent.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }
}

/// All types that some presets bring.
pub(super) fn brought(presets: &[&'static str]) -> BTreeSet<&'static str> {
    let asked = PRESETS.iter().filter(|(name, _)| presets.contains(name));
    asked.flat_map(|(_, types)| types.iter().copied()).collect()
}
