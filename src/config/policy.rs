//! What single clients may have within their scopes (`smart.clients[].policy`), and of whom nothing leaves at all (`policy`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Problems, Section, Size};
use crate::fhir::datatypes::Id;
use crate::fhir::elements::Element;
use crate::fhir::filter::{self, Escapes, TypeFilter};
use crate::fhir::resource_type::ResourceType;
use crate::smart::labels::Labels;
use crate::smart::policy::{Level, Policy, Quotas};

/// What leaves for nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// A file with the ids of patients of whom nothing is exported, such as those who withdrew consent.
    pub exclude_patients_file: Option<PathBuf>,
}

/// What a client may have. What is left out restricts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientPolicyConfig {
    /// `system`, `patient` and `group`, as far as it may ask for them.
    pub levels: Option<Vec<Level>>,
    /// The ids of the Groups that it may export, also as parts of others.
    pub groups: Option<Vec<String>>,
    /// The types that it may have.
    pub types: Option<Vec<String>>,
    /// Of each type that is named here only what passes, as `Observation?category=laboratory`; of several of one type all have
    /// to hold.
    pub required_filters: Vec<String>,
    /// By what a client may filter from which labels or elements keep something back, as `Observation?code`.
    pub filter_parameters: Vec<String>,
    /// Labels of `meta.security`, as `system|code`, `|code` or `code`, that keep a resource from it.
    pub withheld_labels: Vec<String>,
    /// Elements that are taken out of what it gets, such as `Patient.telecom` and `*.text`.
    pub removed_elements: Vec<String>,
    /// How much it may have.
    pub quotas: QuotasConfig,
}

/// How much a client may have. What is left out restricts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotasConfig {
    /// Its exports that run or wait for their turn.
    pub running_jobs: Option<u32>,
    /// Its kick-offs from one midnight (UTC) to the next.
    pub kickoffs_per_day: Option<u32>,
    /// Bytes of the files that are written for it in that time.
    pub bytes_per_day: Option<Size>,
}

/// Entries of one list.
const MOST: usize = 1_000;

impl ClientPolicyConfig {
    /// The policy that it says.
    ///
    /// # Errors
    /// All that is wrong, each with the name of the option.
    pub(crate) fn read(&self) -> Result<(Policy, Quotas), Vec<(String, String)>> {
        let mut wrong = Vec::new();
        let mut add = |option: &str, problem: String| wrong.push((option.to_owned(), problem));
        let lengths = [
            ("levels", self.levels.as_ref().map(Vec::len)),
            ("groups", self.groups.as_ref().map(Vec::len)),
            ("types", self.types.as_ref().map(Vec::len)),
            ("required_filters", Some(self.required_filters.len()).filter(|length| *length > 0)),
            ("filter_parameters", Some(self.filter_parameters.len()).filter(|length| *length > 0)),
            ("withheld_labels", Some(self.withheld_labels.len()).filter(|length| *length > 0)),
            ("removed_elements", Some(self.removed_elements.len()).filter(|length| *length > 0)),
        ];
        for (option, length) in lengths {
            match length {
                Some(0) => {
                    add(option, "is empty, so that nothing could be exported: leave it out if all may be".to_owned());
                }
                Some(length) if length > MOST => add(option, format!("has more than {MOST} entries")),
                Some(_) | None => {}
            }
        }
        if self.groups.is_some() && self.levels.is_none() {
            let problem = "is given without levels, so that at System and Patient level everybody could be exported: give \
                           levels too, such as [group]";
            add("groups", problem.to_owned());
        }
        let mut groups = Vec::new();
        for (number, name) in self.groups.iter().flatten().enumerate() {
            match Id::parse(name) {
                Ok(id) => groups.push(id),
                Err(error) => add(&format!("groups[{number}]"), format!("is {error}")),
            }
        }
        let mut types = Vec::new();
        for (number, name) in self.types.iter().flatten().enumerate() {
            match ResourceType::parse(name) {
                Some(known) => types.push(known),
                None => add(&format!("types[{number}]"), format!("is `{name}`, which is no resource type")),
            }
        }
        let (required, filterable) = self.filters(&mut add);
        for (number, label) in self.withheld_labels.iter().enumerate() {
            if let Err(error) = Labels::parse([label.as_str()]) {
                add(&format!("withheld_labels[{number}]"), error.to_string());
            }
        }
        let mut removed = Vec::new();
        for (number, element) in self.removed_elements.iter().enumerate() {
            match element.parse::<Element>() {
                Ok(element) => removed.push(element),
                Err(error) => add(&format!("removed_elements[{number}]"), error.to_string()),
            }
        }
        let QuotasConfig { running_jobs, kickoffs_per_day, bytes_per_day } = self.quotas;
        let bytes_per_day = bytes_per_day.map(Size::bytes);
        let zeros = [
            ("running_jobs", running_jobs == Some(0)),
            ("kickoffs_per_day", kickoffs_per_day == Some(0)),
            ("bytes_per_day", bytes_per_day == Some(0)),
        ];
        for (option, _) in zeros.into_iter().filter(|(_, is_zero)| *is_zero) {
            add(
                &format!("quotas.{option}"),
                "is 0, so that nothing could be exported: leave it out if all may be".to_owned(),
            );
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let policy = Policy {
            levels: self.levels.as_ref().map(|levels| levels.iter().copied().collect()),
            groups: self.groups.as_ref().map(|_| groups.into_iter().collect()),
            types: self.types.as_ref().map(|_| types.into_iter().collect()),
            required,
            filterable,
            withheld: Labels::parse(self.withheld_labels.iter().map(String::as_str)).unwrap_or_default(),
            removed: removed.into_iter().collect(),
        };
        Ok((policy, Quotas { running_jobs, kickoffs_per_day, bytes_per_day }))
    }

    /// What has to pass, and by what a client may filter.
    fn filters(
        &self,
        add: &mut impl FnMut(&str, String),
    ) -> (BTreeSet<TypeFilter>, BTreeMap<ResourceType, BTreeSet<Box<str>>>) {
        let mut required: BTreeSet<TypeFilter> = BTreeSet::new();
        for (number, text) in self.required_filters.iter().enumerate() {
            let option = format!("required_filters[{number}]");
            let filter = match TypeFilter::parse(text, Escapes::Once) {
                Ok(filter) => filter,
                // It names parameters, and what is configured is the operator's own.
                Err(error) => {
                    add(&option, format!("is no filter that can be used: {error}"));
                    continue;
                }
            };
            let same_type = required.iter().filter(|other| other.resource_type == filter.resource_type);
            if same_type
                .map(|other| &other.filter)
                .try_fold(filter.filter.clone(), |sum, other| sum.and(other))
                .is_err()
            {
                add(&option, format!("makes what is required of {} too long for one search", filter.resource_type));
            }
            required.insert(filter);
        }
        let mut filterable: BTreeMap<ResourceType, BTreeSet<Box<str>>> = BTreeMap::new();
        for (number, text) in self.filter_parameters.iter().enumerate() {
            let named =
                text.split_once('?').and_then(|(name, parameter)| Some((ResourceType::parse(name)?, parameter)));
            match named.filter(|(_, parameter)| filter::is_name(parameter)) {
                Some((name, parameter)) => drop(filterable.entry(name).or_default().insert(parameter.into())),
                None => add(
                    &format!("filter_parameters[{number}]"),
                    "is no type and parameter that filters can have, such as Observation?code".to_owned(),
                ),
            }
        }
        (required, filterable)
    }
}

impl Section for PolicyConfig {
    fn check(&self, problems: &mut Problems) {
        if self.exclude_patients_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            problems.add("exclude_patients_file", "is not an absolute path");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> Result<ClientPolicyConfig, String> {
        serde_saphyr::from_str(yaml).map_err(|error| error.to_string())
    }

    fn read(yaml: &str) -> Result<(Policy, Quotas), String> {
        let wrong = |wrong: Vec<(String, String)>| {
            wrong.iter().map(|(option, problem)| format!("{option} {problem}")).collect::<Vec<_>>().join("\n")
        };
        config(yaml)?.read().map_err(wrong)
    }

    #[test]
    fn what_is_left_out_restricts_nothing() {
        let (policy, quotas) = read("{}").expect("nothing is wrong");
        assert!(policy.is_open());
        assert_eq!(quotas, Quotas::default());
        let yaml = "levels: [patient, group]\ngroups: [a]\ntypes: [Patient]\nwithheld_labels: ['s|c', '|c', c]\n\
                    required_filters: ['Observation?category=http://s|a,b']\nfilter_parameters: ['Observation?code']\n\
                    removed_elements: [Patient.telecom, '*.text']\n\
                    quotas: { running_jobs: 1, kickoffs_per_day: 2, bytes_per_day: 1GiB }\n";
        let (policy, quotas) = read(yaml).expect("nothing is wrong");
        assert!(policy.permits_level(Level::Group) && !policy.permits_level(Level::System));
        assert!(policy.permits_group(&Id::parse("a").expect("an id")) && policy.permits_type(ResourceType::PATIENT));
        assert!(!policy.withheld.is_empty() && !policy.removed.is_empty());
        let expected = Quotas { running_jobs: Some(1), kickoffs_per_day: Some(2), bytes_per_day: Some(1 << 30) };
        assert_eq!(quotas, expected);
    }

    #[test]
    fn every_mistake_is_named() {
        for (yaml, expected) in [
            ("levels: [everything]", "everything"),
            ("levels: []", "levels is empty"),
            ("groups: []", "groups is empty"),
            ("groups: [a]", "groups is given without levels"),
            ("levels: [group]\ngroups: [a, 'b c']", "groups[1] is not an id"),
            ("types: [Patient, patient]", "types[1] is `patient`"),
            ("withheld_labels: [a, 's|']", "withheld_labels[1] is no label"),
            ("removed_elements: [Patient.id]", "removed_elements[0] names `id`"),
            ("removed_elements: [telecom]", "removed_elements[0] is no element"),
            ("quotas: { running_jobs: 0 }", "quotas.running_jobs is 0"),
            ("quotas: { bytes_per_day: 0 }", "quotas.bytes_per_day is 0"),
            ("quotas: { bytes_per_day: much }", "much"),
            ("quotas: { bytes: 1 }", "bytes"),
            ("required_filters: { Observation: category=laboratory }", "required_filters"),
            ("required_filters: ['Observation?category=a', Observation]", "required_filters[1] is no filter"),
            ("required_filters: ['Observation?_count=1']", "`_count`"),
            ("required_filters: ['Observation?category:not=a']", "`category:not` has a modifier"),
            ("filter_parameters: [code]", "filter_parameters[0] is no type and parameter"),
            ("filter_parameters: ['Observation?_count']", "filter_parameters[0] is no type and parameter"),
            ("withheld: [a]", "withheld"),
        ] {
            let error = read(yaml).expect_err(yaml);
            assert!(error.contains(expected), "{yaml}: {error}");
        }
        let error = read("levels: []\ntypes: [x]").expect_err("two things are wrong");
        assert!(error.contains("levels") && error.contains("types[0]"), "{error}");
    }
}
