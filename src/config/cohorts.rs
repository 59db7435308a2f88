//! Cohorts that an operator writes down, for servers without `Group` (`export.cohorts`).

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bulk::cohort::PREFIX;
use crate::fhir::datatypes::Id;
use crate::fhir::filter::{Escapes, FilterError, TypeFilter};
use crate::fhir::resource_type::ResourceType;

/// Patients who are exported as the members of a Group are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CohortConfig {
    /// The id that it is exported by, as that of a Group.
    pub id: String,
    /// What it is called.
    pub name: Option<String>,
    /// The patients in it, as `123` or `Patient/123`.
    pub patients: Vec<String>,
    /// A file with the identifiers of the patients in it: `system|value`, one on each line.
    pub identifiers_file: Option<PathBuf>,
    /// A search that finds the patients in it, such as `Patient?gender=female`.
    pub search: Option<String>,
}

/// Cohorts, and patients of one of them.
const MOST: usize = 1_000;
const MOST_PATIENTS: usize = 100_000;

impl CohortConfig {
    /// Its id, and the patients that are listed.
    pub(crate) fn read(&self) -> Option<(Id, Vec<Id>)> {
        let patients = self.patients.iter().map(|name| patient(name)).collect::<Option<BTreeSet<_>>>()?;
        Some((Id::parse(&self.id).ok()?, patients.into_iter().collect()))
    }
}

impl CohortConfig {
    /// What its search is for, if there is one.
    pub(crate) fn filter(&self) -> Option<Result<TypeFilter, FilterError>> {
        self.search.as_deref().map(|search| TypeFilter::parse(search, Escapes::Once))
    }
}

fn patient(name: &str) -> Option<Id> {
    Id::parse(name.strip_prefix("Patient/").unwrap_or(name)).ok()
}

/// What is wrong with cohorts, each with the name of the option. No patient is named.
pub(super) fn problems(cohorts: &[CohortConfig]) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    if cohorts.len() > MOST {
        wrong.push(("cohorts".to_owned(), format!("has more than {MOST} entries")));
    }
    let mut ids = BTreeSet::new();
    for (number, cohort) in cohorts.iter().enumerate() {
        let mut add =
            |option: &str, problem: &str| wrong.push((format!("cohorts[{number}].{option}"), problem.to_owned()));
        if Id::parse(&cohort.id).is_err() {
            add("id", "is no id of FHIR: letters, digits, `-` and `.`, 64 at most");
        } else if cohort.id.starts_with(PREFIX) {
            add("id", "begins like the ids of cohorts that clients make");
        } else if !ids.insert(&cohort.id) {
            add("id", "is that of another cohort, too");
        }
        let given = [!cohort.patients.is_empty(), cohort.identifiers_file.is_some(), cohort.search.is_some()];
        match given.iter().filter(|is_given| **is_given).count() {
            0 => add("patients", "is empty, and neither identifiers_file nor search is given, so that nobody is in it"),
            1 => {}
            _ => add("patients", "is one of several ways in which it is said who is in it: give one of them"),
        }
        match cohort.filter() {
            Some(Err(error)) => add("search", &format!("cannot be used: {error}")),
            Some(Ok(found)) if found.resource_type != ResourceType::PATIENT => add("search", "is not one for Patient"),
            Some(Ok(_)) | None => {}
        }
        if cohort.patients.len() > MOST_PATIENTS {
            add("patients", "has more than 100,000 entries: use a Group of the server");
        }
        if let Some(at) = cohort.patients.iter().position(|name| patient(name).is_none()) {
            add(&format!("patients[{at}]"), "is no id of a patient, such as 123 or Patient/123");
        }
    }
    wrong
}
