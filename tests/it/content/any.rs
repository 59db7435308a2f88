//! Parameters beside each other, as chance has it: what comes is what an evaluator of our own lets pass, which reads JSON and
//! knows nothing of searches.

use std::collections::{BTreeMap, BTreeSet};

use sample_upstream::{Paging, SampleUpstream, Settings, Total};
use serde_json::{Map, Value, json};

use super::{export, string};
use crate::expected;
use crate::filters::{Passes, coded};
use crate::random::Random;
use crate::support::App;

/// Questions to each server.
const QUESTIONS: usize = 24;

/// All of them are patients' and come by no reference.
const TYPES: [&str; 7] = ["Condition", "Coverage", "Encounter", "Immunization", "Observation", "Patient", "Procedure"];

/// Filters with what they let pass.
const FILTERS: [(&str, &str, Passes); 7] = [
    ("Observation", "category=laboratory", |resource| coded(resource, "category", "laboratory")),
    ("Observation", "code=http://loinc.org|8867-4", |resource| coded(resource, "code", "8867-4")),
    ("Observation", "category=vital-signs&code=8867-4", |resource| {
        coded(resource, "category", "vital-signs") && coded(resource, "code", "8867-4")
    }),
    ("Patient", "gender=male", |resource| resource["gender"] == "male"),
    ("Patient", "active=true", |resource| resource["active"] == true),
    ("Condition", "category=encounter-diagnosis", |resource| coded(resource, "category", "encounter-diagnosis")),
    ("Encounter", "class=AMB", |resource| resource["class"]["code"] == "AMB"),
];

/// What is kept of every resource, whatever is asked for: at the least this.
const KEPT: [&str; 3] = ["resourceType", "id", "meta"];
const ELEMENTS: [&str; 6] = ["id", "status", "subject", "code", "Patient.name", "Observation.valueQuantity"];

#[tokio::test]
async fn whatever_is_asked_for_is_what_comes() {
    let offsets = Settings {
        paging: Paging::Offset,
        total: Total::Absent,
        counts: false,
        accurate_total: false,
        max_count: Some(9),
        ..Settings::default()
    };
    let (mut answered, mut empty) = (0, 0);
    for (seed, settings) in [Settings { max_count: Some(20), ..Settings::default() }, offsets].into_iter().enumerate() {
        let app = App::with_patients(6, settings).await;
        let mut random = Random::new(seed as u64);
        for number in 0..QUESTIONS {
            let question = Question::draw(&mut random, &app.upstream);
            let export = export(&app.base, question.level, &question.parameters(), None).await;
            let wanted = question.answer(&app.upstream);
            let received: BTreeMap<String, Value> = export
                .lines
                .iter()
                .filter(|(name, _)| TYPES.contains(&name.as_str()))
                .flat_map(|(name, lines)| lines.iter().map(move |line| (name, line)))
                .map(|(name, line)| {
                    let resource: Value = serde_json::from_str(line).expect("JSON");
                    (format!("{name}/{}", resource["id"].as_str().expect("an id")), resource)
                })
                .collect();
            let lines: usize = TYPES.iter().filter_map(|name| export.lines.get(*name)).map(Vec::len).sum();
            assert_eq!(lines, received.len(), "server {seed}, question {number}, a line twice: {question:?}");
            let (ids, wanted_ids): (BTreeSet<_>, BTreeSet<_>) = (received.keys().collect(), wanted.keys().collect());
            assert_eq!(ids, wanted_ids, "server {seed}, question {number}: {question:?}");
            for (id, resource) in &received {
                question.judge(&wanted[id], resource).unwrap_or_else(|wrong| panic!("{id}: {wrong}: {question:?}"));
            }
            answered += received.len();
            empty += usize::from(received.is_empty());
        }
        app.stop().await;
    }
    assert!(answered > 500 && empty < QUESTIONS, "{answered} resources, {empty} questions with none");
}

#[derive(Debug)]
struct Question {
    level: &'static str,
    types: Option<BTreeSet<&'static str>>,
    filters: Vec<usize>,
    since: Option<String>,
    until: Option<String>,
    patients: Option<BTreeSet<String>>,
    elements: Option<BTreeSet<&'static str>>,
}

impl Question {
    fn draw(random: &mut Random, upstream: &SampleUpstream) -> Self {
        let level = ["", "/Patient", "/Group/all"][random.below(3)];
        let types = random.percent(60).then(|| TYPES.into_iter().filter(|_| random.percent(50)).collect());
        let types: Option<BTreeSet<_>> = types.filter(|types: &BTreeSet<_>| !types.is_empty());
        // What is not asked for is not filtered.
        let is_asked = |name: &str| types.as_ref().is_none_or(|types| types.contains(name));
        let filters = (0..FILTERS.len()).filter(|number| is_asked(FILTERS[*number].0) && random.percent(25)).collect();
        let stamps: Vec<_> = upstream.resources(None).iter().filter_map(|stored| stored.last_updated).collect();
        let mut instant = |percent| {
            let between = stamps[random.below(stamps.len())] + chrono::TimeDelta::milliseconds(7);
            random.percent(percent).then(|| between.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
        };
        let (since, until) = (instant(35), instant(35));
        // Nothing lies between the two otherwise, and that is refused.
        let until = until.filter(|until| since.as_ref().is_none_or(|since| since < until));
        let everybody = upstream.resources(Some("Patient")).into_iter().map(|stored| stored.id);
        let patients = (!level.is_empty() && random.percent(35)).then(|| {
            let some: BTreeSet<_> = everybody.clone().filter(|_| random.percent(50)).collect();
            if some.is_empty() { everybody.take(1).collect() } else { some }
        });
        let elements = random.percent(35).then(|| ELEMENTS.into_iter().filter(|_| random.percent(50)).collect());
        let elements = elements.filter(|elements: &BTreeSet<_>| !elements.is_empty());
        Self { level, types, filters, since, until, patients, elements }
    }

    fn parameters(&self) -> Vec<Value> {
        let instant = |name: &str, value: &String| json!({ "name": name, "valueInstant": value });
        let listed =
            |name: &str, set: &BTreeSet<&str>| string(name, &set.iter().copied().collect::<Vec<_>>().join(","));
        let mut parameters = Vec::new();
        parameters.extend(self.types.as_ref().map(|types| listed("_type", types)));
        parameters.extend(self.filters.iter().map(|number| {
            let (name, filter, _) = FILTERS[*number];
            string("_typeFilter", &format!("{name}?{filter}"))
        }));
        parameters.extend(self.since.as_ref().map(|since| instant("_since", since)));
        parameters.extend(self.until.as_ref().map(|until| instant("_until", until)));
        parameters.extend(
            self.patients
                .iter()
                .flatten()
                .map(|id| json!({ "name": "patient", "valueReference": { "reference": format!("Patient/{id}") } })),
        );
        parameters.extend(self.elements.as_ref().map(|elements| listed("_elements", elements)));
        parameters
    }

    /// What is to come, whole.
    fn answer(&self, upstream: &SampleUpstream) -> BTreeMap<String, Value> {
        let level = expected::of(upstream, &format!("{}/$export", self.level));
        let values = level.iter().map(|(name, body)| (name.clone(), serde_json::from_str(body).expect("JSON")));
        values.filter(|(name, resource)| self.lets_pass(name, resource)).collect()
    }

    fn lets_pass(&self, name: &str, resource: &Value) -> bool {
        let of = name.split('/').next().unwrap_or_default();
        let stamp = resource["meta"]["lastUpdated"].as_str().expect("a time");
        let stamp = chrono::DateTime::parse_from_rfc3339(stamp).expect("a time");
        let lies = |instant: &String| stamp.cmp(&chrono::DateTime::parse_from_rfc3339(instant).expect("a time"));
        let filters: Vec<_> =
            self.filters.iter().map(|number| FILTERS[*number]).filter(|(name, ..)| *name == of).collect();
        let is_named = |patients: &BTreeSet<String>| {
            let mut links = vec![format!("Patient/{}", resource["id"].as_str().unwrap_or_default())];
            let elements = ["subject", "patient", "beneficiary", "policyHolder", "subscriber", "asserter", "recorder"];
            let lists = ["performer", "payor", "participant"];
            if of != "Patient" {
                links = elements
                    .iter()
                    .filter_map(|link| resource[*link]["reference"].as_str())
                    .map(str::to_owned)
                    .collect();
                let listed = lists.iter().filter_map(|link| resource[*link].as_array()).flatten();
                links.extend(listed.flat_map(|one| {
                    [one["reference"].as_str(), one["actor"]["reference"].as_str()]
                        .into_iter()
                        .flatten()
                        .map(str::to_owned)
                }));
                links.retain(|link| link.starts_with("Patient/"));
            }
            // What is somebody else's as well does not leave.
            links.iter().all(|link| link.strip_prefix("Patient/").is_some_and(|id| patients.contains(id)))
        };
        TYPES.contains(&of)
            && self.types.as_ref().is_none_or(|types| types.contains(of))
            && (filters.is_empty() || filters.iter().any(|(_, _, passes)| passes(resource)))
            && self.since.as_ref().is_none_or(|since| lies(since).is_gt())
            && self.until.as_ref().is_none_or(|until| lies(until).is_lt())
            && self.patients.as_ref().is_none_or(is_named)
    }

    /// Whether of a resource that stays which was asked for, and nothing that it had not.
    fn judge(&self, whole: &Value, received: &Value) -> Result<(), String> {
        let Some(elements) = &self.elements else {
            return if whole == received { Ok(()) } else { Err(format!("not as it was sent: {received}")) };
        };
        let (whole, received): (&Map<_, _>, &Map<_, _>) = (object(whole)?, object(received)?);
        let of = whole["resourceType"].as_str().unwrap_or_default();
        let names = elements.iter().filter_map(|element| match element.split_once('.') {
            Some((name, element)) => (name == of).then_some(element),
            None => Some(*element),
        });
        let names: BTreeSet<&str> = names.chain(KEPT).collect();
        for (name, value) in received {
            if name != "meta" && whole.get(name) != Some(value) {
                return Err(format!("{name} is another one"));
            }
        }
        for (name, _) in whole.iter().filter(|(name, _)| names.contains(name.as_str())) {
            if !received.contains_key(name) {
                return Err(format!("{name} is missing"));
            }
        }
        let lost = received.len() < whole.len();
        let is_said = received["meta"]["tag"].to_string().contains("SUBSETTED");
        if lost == is_said { Ok(()) } else { Err(format!("something is missing: {lost}, it is said: {is_said}")) }
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| "no resource".to_owned())
}
