//! What an export has to hold, worked out from the sample server's own data in another way than Offtake does it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Context;
use sample_upstream::SampleUpstream;
use serde_json::Value;

/// Compact resources by `Type/id`.
pub(crate) type Expected = BTreeMap<String, String>;

/// Types that are never part of a patient's export unless a policy says so.
const LEFT_OUT: [&str; 6] = ["Group", "AuditEvent", "Person", "MeasureReport", "Basic", "List"];
/// Types that come along because exported resources refer to them.
const FOLLOWED: [&str; 6] = ["Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Device"];

/// The elements that make a resource a patient's, for the types that the sample data holds.
const LINKS: [(&str, &[&str]); 27] = [
    ("AllergyIntolerance", &["patient", "recorder", "asserter"]),
    ("Appointment", &["participant"]),
    ("CarePlan", &["subject", "activity"]),
    ("CareTeam", &["subject", "participant"]),
    ("Claim", &["patient", "payee"]),
    ("Condition", &["subject", "asserter"]),
    ("Coverage", &["policyHolder", "subscriber", "beneficiary", "payor"]),
    ("DiagnosticReport", &["subject"]),
    ("DocumentReference", &["subject", "author"]),
    ("Encounter", &["subject"]),
    ("EpisodeOfCare", &["patient"]),
    ("ExplanationOfBenefit", &["patient", "payee"]),
    ("Flag", &["subject"]),
    ("Goal", &["subject"]),
    ("ImagingStudy", &["subject"]),
    ("Immunization", &["patient"]),
    ("MedicationAdministration", &["subject", "performer"]),
    ("MedicationDispense", &["subject", "receiver"]),
    ("MedicationRequest", &["subject"]),
    ("MedicationStatement", &["subject"]),
    ("Observation", &["subject", "performer"]),
    ("Procedure", &["subject", "performer"]),
    ("Provenance", &["target"]),
    ("RelatedPerson", &["patient"]),
    ("ServiceRequest", &["subject", "performer"]),
    ("Specimen", &["subject"]),
    ("SupplyDelivery", &["patient"]),
];

/// A server whose resources are known without Offtake.
pub(crate) trait Held {
    /// All of them.
    fn held(&self) -> Expected;
}

impl Held for SampleUpstream {
    fn held(&self) -> Expected {
        let resources = self.resources(None).into_iter();
        resources.map(|stored| (format!("{}/{}", stored.resource_type, stored.id), compact(&stored.body))).collect()
    }
}

/// What the kick-off at `path` asks for, its `_type` included.
pub(crate) fn of(server: &impl Held, path: &str) -> Expected {
    let all = server.held();
    let (path, types) =
        path.split_once("?_type=").map_or((path, None), |(path, types)| (path, types.split('&').next()));
    let asked_for = |name: &str| {
        let resource_type = name.split('/').next().unwrap_or_default();
        types.is_none_or(|types| types.split(',').any(|asked| asked == resource_type))
    };
    let values: BTreeMap<&String, Value> =
        all.iter().map(|(name, body)| (name, serde_json::from_str(body).expect("the server holds JSON"))).collect();
    let members: BTreeSet<String> = match path {
        "/$export" => return all.into_iter().filter(|(name, _)| asked_for(name)).collect(),
        "/Patient/$export" => all.keys().filter(|name| name.starts_with("Patient/")).cloned().collect(),
        group => {
            let group = group.trim_start_matches('/').trim_end_matches("/$export");
            let group = values.get(&group.to_owned()).expect("the server has this Group");
            let members = group["member"].as_array().expect("it has members");
            members.iter().filter_map(|member| member["entity"]["reference"].as_str().map(str::to_owned)).collect()
        }
    };
    let is_member = |patient: &str| members.contains(patient);
    let wanted: BTreeSet<&String> = values
        .iter()
        .filter(|(name, value)| asked_for(name) && belongs(name, value, is_member))
        .map(|(name, _)| *name)
        .collect();
    let followed = wanted.iter().flat_map(|name| followed(&values[*name]));
    let followed: Vec<String> = followed.filter(|name| all.contains_key(name) && asked_for(name)).collect();
    wanted.into_iter().cloned().chain(followed).map(|name| (name.clone(), all[&name].clone())).collect()
}

/// Whether a resource is a part of the export of those patients that are members: it is one of them, or belongs to
/// some of them and to nobody else. `name` is its `Type/id`, as a member's is.
pub(crate) fn belongs(name: &str, resource: &Value, is_member: impl Fn(&str) -> bool) -> bool {
    let resource_type = type_of(name);
    if LEFT_OUT.contains(&resource_type) {
        return false;
    }
    if resource_type == "Patient" {
        return is_member(name);
    }
    let patients = whose(name, resource);
    !patients.is_empty() && patients.iter().all(|patient| is_member(patient))
}

/// The patients in whose compartments a resource lies, as `Patient/id`; a patient is their own.
pub(crate) fn whose(name: &str, resource: &Value) -> BTreeSet<String> {
    let resource_type = type_of(name);
    let mut patients = BTreeSet::new();
    if resource_type == "Patient" {
        patients.insert(name.to_owned());
    }
    let links = LINKS.iter().find(|(name, _)| *name == resource_type).map_or(&[] as &[&str], |(_, elements)| elements);
    for element in links {
        references(&resource[element], &mut patients);
    }
    patients.retain(|reference| reference.starts_with("Patient/"));
    patients
}

/// What comes along with an exported resource because it refers to it.
pub(crate) fn followed(resource: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    references(resource, &mut found);
    found.retain(|name| FOLLOWED.contains(&type_of(name)));
    found
}

/// The type in a `Type/id`.
pub(crate) fn type_of(name: &str) -> &str {
    name.split('/').next().unwrap_or_default()
}

/// Every literal reference outside of contained resources.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "reference" => {
                        found.insert(text.clone());
                    }
                    _ if name == "contained" => {}
                    other => references(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// JSON without the white space between its tokens; everything else stays as it is.
pub(crate) fn compact(json: &str) -> String {
    let (mut text, mut in_string, mut escaped) = (String::with_capacity(json.len()), false, false);
    for character in json.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character.is_ascii_whitespace() {
            continue;
        } else {
            in_string = character == '"';
        }
        text.push(character);
    }
    text
}

/// Per type: how many were expected and received, and what is wrong.
pub(crate) struct Difference {
    types: BTreeMap<String, Row>,
}

#[derive(Default)]
struct Row {
    expected: usize,
    received: usize,
    missing: usize,
    unexpected: usize,
    twice: usize,
    changed: usize,
}

impl Difference {
    pub(crate) fn is_none(&self) -> bool {
        self.types.values().all(|row| row.missing + row.unexpected + row.twice + row.changed == 0)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28}{:>10}{:>10}", "type", "expected", "received")?;
        for (name, row) in &self.types {
            write!(f, "{name:<28}{:>10}{:>10}", row.expected, row.received)?;
            for (count, what) in [
                (row.missing, "missing"),
                (row.unexpected, "unexpected"),
                (row.twice, "twice"),
                (row.changed, "changed"),
            ] {
                if count > 0 {
                    write!(f, "  {count} {what}")?;
                }
            }
            writeln!(f)?;
        }
        let sum = |part: fn(&Row) -> usize| self.types.values().map(part).sum::<usize>();
        writeln!(f, "{:<28}{:>10}{:>10}", "all", sum(|row| row.expected), sum(|row| row.received))
    }
}

/// Holds the downloaded lines against what was expected.
pub(crate) fn compare(expected: &Expected, received: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<Difference> {
    let mut types: BTreeMap<String, Row> = BTreeMap::new();
    for name in expected.keys() {
        types.entry(type_of(name).to_owned()).or_default().expected += 1;
    }
    let mut seen = BTreeSet::new();
    for (resource_type, lines) in received {
        for line in std::str::from_utf8(lines)?.lines() {
            let value: Value = serde_json::from_str(line).context("a line is not JSON")?;
            let name =
                format!("{}/{}", value["resourceType"].as_str().unwrap_or("?"), value["id"].as_str().unwrap_or("?"));
            let row = types.entry(resource_type.clone()).or_default();
            row.received += 1;
            match expected.get(&name) {
                None => row.unexpected += 1,
                Some(body) if body != line => row.changed += 1,
                Some(_) => {}
            }
            if !seen.insert(name) {
                row.twice += 1;
            }
        }
    }
    for name in expected.keys().filter(|name| !seen.contains(*name)) {
        types.entry(type_of(name).to_owned()).or_default().missing += 1;
    }
    Ok(Difference { types })
}
