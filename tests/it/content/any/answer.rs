//! What has to come of a question, found by reading all that the server holds: the evaluator shares nothing with any search.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, FixedOffset, SecondsFormat, TimeDelta};
use sample_upstream::SampleUpstream;
use serde_json::{Map, Value, json};

use super::question::{
    FILTERS, FORMATS, How, LATEST, LEAST_FILE, NO_ELEMENT, PATIENTS_OWN, Question, RELEVANT, brought,
};
use crate::expected::{Held, belongs, followed, type_of, whose};

/// All that a server holds, by `Type/id`; it does not change.
pub(super) struct World {
    texts: BTreeMap<String, String>,
    values: BTreeMap<String, Value>,
    instants: Vec<String>,
}

/// Whose resources a question is for.
enum Who {
    Everything,
    AllPatients,
    /// `Patient/id` of each.
    Members(BTreeSet<String>),
}

/// Which Provenance of what is exported comes along.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Along {
    Latest,
    Relevant,
}

/// What is kept of every resource, whatever is asked for: at the least this.
const KEPT: [&str; 3] = ["resourceType", "id", "meta"];
/// Types whose resources are nobody's, of those that the data has Provenance of.
const NOBODYS: [&str; 1] = ["Practitioner"];
const PROVENANCE: &str = "Provenance";

/// What came of a resource, by its `Type/id`; nothing if it did not.
pub(super) type Came<'a> = &'a dyn Fn(&str) -> Option<Value>;

impl World {
    pub(super) fn of(upstream: &SampleUpstream) -> Self {
        let texts = upstream.held();
        let parse = |text: &String| serde_json::from_str(text).expect("the server holds JSON");
        let values = texts.iter().map(|(name, text)| (name.clone(), parse(text))).collect();
        let stamps: BTreeSet<_> = upstream.resources(None).iter().filter_map(|stored| stored.last_updated).collect();
        // Some of them, and never the instant itself.
        let some = stamps.iter().step_by(stamps.len().div_ceil(20)).map(|stamp| *stamp + TimeDelta::milliseconds(7));
        let instants = some.map(|stamp| stamp.to_rfc3339_opts(SecondsFormat::Millis, true)).collect();
        Self { texts, values, instants }
    }

    /// Between the times of some resources.
    pub(super) fn instants(&self) -> Vec<String> {
        self.instants.clone()
    }

    /// The ids of all patients.
    pub(super) fn patients(&self) -> Vec<String> {
        self.values.keys().filter_map(|name| name.strip_prefix("Patient/")).map(str::to_owned).collect()
    }

    fn of_type(&self, of: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.values.iter().filter(move |(name, _)| type_of(name) == of)
    }

    /// Whether something that is about this tells of the members of an export only (SEC-20).
    fn may_be_told_of(&self, name: &str, who: &Who) -> bool {
        let Who::Members(members) = who else { return true };
        let Some(value) = self.values.get(name) else { return false };
        let patients = whose(name, value);
        NOBODYS.contains(&type_of(name)) || (!patients.is_empty() && patients.is_subset(members))
    }
}

/// What a Provenance is about.
fn targets(provenance: &Value) -> BTreeSet<String> {
    let listed = provenance["target"].as_array().into_iter().flatten();
    let named = listed.filter_map(|target| target["reference"].as_str());
    named.map(|target| target.split("/_history/").next().unwrap_or_default().to_owned()).collect()
}

/// When it was recorded, and of those that are alike in that when it was updated.
fn recency(provenance: &Value) -> [Option<DateTime<FixedOffset>>; 2] {
    [&provenance["recorded"], &provenance["meta"]["lastUpdated"]].map(|text| instant(text.as_str()))
}

fn instant(text: Option<&str>) -> Option<DateTime<FixedOffset>> {
    DateTime::parse_from_rfc3339(text?).ok()
}

/// Whether a resource only ever comes because others refer to it, where patients are asked for.
fn is_context(name: &str) -> bool {
    !followed(&json!({ "reference": name })).is_empty()
}

impl Question {
    pub(super) fn is_organized(&self) -> bool {
        self.organized_by == Some("Patient")
    }

    fn along(&self) -> Option<Along> {
        // Strictly that was refused before.
        if self.is_organized() {
            None
        } else if self.associated.contains(&RELEVANT) {
            Some(Along::Relevant)
        } else if self.associated.contains(&LATEST) {
            Some(Along::Latest)
        } else {
            None
        }
    }

    /// Why it can be refused: an issue's code, and the parameter that is to blame.
    pub(super) fn refusals(&self) -> BTreeSet<(&'static str, &'static str)> {
        let is_of_patients = !self.level.is_empty() || self.is_organized();
        let belongs = |name: &&str| PATIENTS_OWN.contains(name);
        let is_asked = |name: &str| self.types.as_ref().is_none_or(|types| types.contains(&name));
        let has_list = |values: &[&str]| self.in_lists && self.how == How::Fourth && values.len() > 1;
        let listed = |values: &Option<Vec<&'static str>>| has_list(values.as_deref().unwrap_or_default());
        let of_provenance = |value: &&str| [LATEST, RELEVANT].contains(value);
        [
            (self.unknown.is_some(), "not-supported", "_unknown"),
            (self.format.is_some_and(|format| !FORMATS.contains(&format)), "not-supported", "_outputFormat"),
            (self.largest.is_some_and(|largest| largest < LEAST_FILE), "too-costly", "_maximumFileSize"),
            (
                self.smallest.is_some() && self.largest.is_some() && self.largest <= self.smallest,
                "invalid",
                "_maximumFileSize",
            ),
            (
                self.organized_by.is_some() && !self.is_organized() && !self.is_lenient,
                "not-supported",
                "organizeOutputBy",
            ),
            (self.associated.contains(&"_unknown") && !self.is_lenient, "not-supported", "includeAssociatedData"),
            (
                self.is_organized() && self.associated.iter().any(of_provenance) && !self.is_lenient,
                "not-supported",
                "includeAssociatedData",
            ),
            (self.patients.is_some() && (self.level.is_empty() || self.how == How::Get), "not-supported", "patient"),
            (
                is_of_patients && self.types.as_ref().is_some_and(|types| !types.iter().any(belongs)),
                "not-supported",
                "_type",
            ),
            (
                self.filters.iter().any(|filter| !is_asked(filter.split('?').next().unwrap_or_default())),
                "invalid",
                "_typeFilter",
            ),
            (self.since.is_some() && self.until.is_some() && self.until <= self.since, "invalid", "_until"),
            (self.elements.as_ref().is_some_and(|elements| elements.contains(&NO_ELEMENT)), "value", "_elements"),
            (listed(&self.types), "invalid", "_type"),
            (listed(&self.elements), "invalid", "_elements"),
            (has_list(&self.filters), "invalid", "_typeFilter"),
            (has_list(&self.associated), "invalid", "includeAssociatedData"),
        ]
        .into_iter()
        .filter_map(|(is_so, code, name)| is_so.then_some((code, name)))
        .collect()
    }

    /// What is left out of it, in the words of the error file.
    pub(super) fn ignored(&self) -> Vec<String> {
        let by = self.organized_by.filter(|_| !self.is_organized()).map(|_| "organizeOutputBy".to_owned());
        let is_left_out =
            |value: &&&str| **value == "_unknown" || (self.is_organized() && [LATEST, RELEVANT].contains(*value));
        let values = self.associated.iter().filter(is_left_out).map(|value| format!("includeAssociatedData={value}"));
        values.chain(by).collect()
    }

    /// The lines of an export that is not organized.
    pub(super) fn lines(&self, world: &World, came: Came<'_>) -> BTreeSet<String> {
        let who = self.who(world);
        let own = self.own(world, &who);
        let mut lines: BTreeSet<String> = own.into_iter().cloned().collect();
        loop {
            let before = lines.len();
            if !matches!(who, Who::Everything) {
                lines.extend(self.referred_to(world, lines.iter(), came));
            }
            let provenance = self.provenance_of(world, &who, &lines);
            lines.extend(provenance);
            if lines.len() == before {
                return lines;
            }
        }
    }

    /// The lines of each block of one that is: by `Patient/id`.
    pub(super) fn blocks(
        &self,
        world: &World,
        came: &dyn Fn(&str, &str) -> Option<Value>,
    ) -> BTreeMap<String, BTreeSet<String>> {
        let mut blocks: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for name in self.own(world, &self.who(world)) {
            for patient in whose(name, &world.values[name]) {
                blocks.entry(patient).or_default().insert(name.clone());
            }
        }
        for (patient, block) in &mut blocks {
            let along = self.referred_to(world, block.iter(), &|name| came(patient, name));
            block.extend(along);
        }
        blocks
    }

    fn who(&self, world: &World) -> Who {
        let group = self.level.strip_prefix("/Group/").map(|id| {
            let group = &world.values[&format!("Group/{id}")];
            let members = group["member"].as_array().expect("it has members").iter();
            members.filter_map(|member| member["entity"]["reference"].as_str().map(str::to_owned)).collect()
        });
        let named = self.patients.as_ref();
        let named: Option<BTreeSet<_>> = named.map(|ids| ids.iter().map(|id| format!("Patient/{id}")).collect());
        match (group, named) {
            (Some(members), None) => Who::Members(members),
            (Some(members), Some(named)) => Who::Members(&members & &named),
            (None, Some(named)) => Who::Members(named),
            (None, None) if self.level.is_empty() && !self.is_organized() => Who::Everything,
            (None, None) => Who::AllPatients,
        }
    }

    fn is_asked(&self, of: &str) -> bool {
        self.types.as_ref().is_none_or(|types| types.contains(&of)) || brought(&self.associated).contains(of)
    }

    /// What of the level is asked for by itself.
    fn own<'w>(&self, world: &'w World, who: &Who) -> BTreeSet<&'w String> {
        let only_latest = self.along() == Some(Along::Latest) && !brought(&self.associated).contains(PROVENANCE);
        let all = world.values.iter().filter(|(name, value)| self.lets_pass(name, value));
        let own = all.filter(|(name, value)| match (type_of(name) == PROVENANCE, who) {
            (true, _) if only_latest => false,
            (_, Who::Everything) => true,
            // What is about anything of any patient's.
            (true, Who::AllPatients) if self.along() == Some(Along::Relevant) => {
                let is_somebodys =
                    |target: &String| world.values.get(target).is_some_and(|value| !whose(target, value).is_empty());
                targets(value).iter().any(is_somebodys)
            }
            (false, Who::AllPatients | Who::Members(_)) if is_context(name) => false,
            (_, Who::AllPatients) => belongs(name, value, |_| true),
            (is_provenance, Who::Members(members)) => {
                belongs(name, value, |patient| members.contains(patient))
                    && (!is_provenance || targets(value).iter().all(|target| world.may_be_told_of(target, who)))
            }
        });
        own.map(|(name, _)| name).collect()
    }

    /// Whether it passes whatever narrows its type.
    fn lets_pass(&self, name: &str, value: &Value) -> bool {
        let of = type_of(name);
        let stamp = instant(value["meta"]["lastUpdated"].as_str()).expect("a time");
        let lies = |text: &String| stamp.cmp(&instant(Some(text)).expect("a time"));
        let is_of = |filter: &str| filter.split('?').next() == Some(of);
        let filters: Vec<_> =
            FILTERS.iter().filter(|(filter, _)| is_of(filter) && self.filters.contains(filter)).collect();
        self.is_asked(of)
            && (filters.is_empty() || filters.iter().any(|(_, passes)| passes(value)))
            && self.since.as_ref().is_none_or(|since| lies(since).is_gt())
            && self.until.as_ref().is_none_or(|until| lies(until).is_lt())
    }

    /// What comes along by reference. What is not in a line any more leads to nothing.
    fn referred_to<'a>(
        &self,
        world: &World,
        lines: impl Iterator<Item = &'a String>,
        came: Came<'_>,
    ) -> BTreeSet<String> {
        let own = lines.filter(|name| !is_context(name));
        let left = own.map(|name| came(name).unwrap_or_else(|| world.values[name].clone()));
        let referred = left.flat_map(|value| followed(&value));
        referred.filter(|name| world.values.contains_key(name) && self.is_asked(type_of(name))).collect()
    }

    /// The Provenance of what is in the export, whatever its age.
    fn provenance_of(&self, world: &World, who: &Who, lines: &BTreeSet<String>) -> BTreeSet<String> {
        let Some(along) = self.along() else { return BTreeSet::new() };
        let mut found = BTreeSet::new();
        for line in lines.iter().filter(|name| type_of(name) != PROVENANCE) {
            let about = world.of_type(PROVENANCE).filter(|(_, value)| targets(value).contains(line));
            match along {
                Along::Relevant => found.extend(about.map(|(name, _)| name)),
                Along::Latest => found.extend(about.max_by_key(|(_, value)| recency(value)).map(|(name, _)| name)),
            }
        }
        let may_leave =
            |name: &&String| targets(&world.values[*name]).iter().all(|target| world.may_be_told_of(target, who));
        found.into_iter().filter(may_leave).cloned().collect()
    }

    /// Whether of a resource that stays which was asked for, and nothing that it had not.
    pub(super) fn judge(&self, world: &World, name: &str, line: &str) -> Result<(), String> {
        let Some(elements) = &self.elements else {
            return if world.texts[name] == line {
                Ok(())
            } else {
                Err(format!("{name} is not as it was sent: {line}"))
            };
        };
        let received: Value = serde_json::from_str(line).map_err(|error| format!("{name}: {error}"))?;
        let (whole, received) = (object(&world.values[name])?, object(&received)?);
        let asked = elements.iter().filter_map(|element| match element.split_once('.') {
            Some((of, element)) => (of == type_of(name)).then_some(element),
            None => Some(*element),
        });
        let asked: BTreeSet<&str> = asked.chain(KEPT).collect();
        if let Some((element, _)) =
            received.iter().find(|(element, value)| *element != "meta" && whole.get(*element) != Some(value))
        {
            return Err(format!("{name}: {element} is another one"));
        }
        let is_missing = |element: &&String| asked.contains(element.as_str()) && !received.contains_key(*element);
        if let Some(element) = whole.keys().find(is_missing) {
            return Err(format!("{name}: {element} is missing"));
        }
        let lost = received.len() < whole.len();
        let is_said = received["meta"]["tag"].to_string().contains("SUBSETTED");
        if lost == is_said {
            Ok(())
        } else {
            Err(format!("{name}: something is missing: {lost}, it is said: {is_said}"))
        }
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| "no resource".to_owned())
}
