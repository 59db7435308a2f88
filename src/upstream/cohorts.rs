//! Cohorts of ours: patients that an operator has written down, and who are exported as the members of a Group are. To the
//! upstream they are unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use http::StatusCode;
use serde::Deserialize;

use super::client::{Room, SearchError, Upstream};
use super::group::{GroupError, Members};
use crate::fhir::bundle::{Entry, Scope};
use crate::fhir::datatypes::Id;
use crate::fhir::filter::Filter;
use crate::fhir::resource_type::ResourceType;
use crate::fhir::search::SearchQuery;

/// All of them, by the ids of the Groups that they are. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cohorts {
    all: Arc<BTreeMap<Id, OwnCohort>>,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct OwnCohort {
    pub(crate) name: Option<String>,
    pub(crate) who: Who,
}

/// Who is in it.
#[derive(Clone)]
pub(crate) enum Who {
    /// These, sorted.
    Patients(Vec<Id>),
    /// Whoever has one of the identifiers in this file: `system|value`, one on each line.
    Identifiers(PathBuf),
    /// Whoever a search for patients finds by this.
    Search(Filter),
}

impl std::fmt::Debug for OwnCohort {
    /// Who is in it are patients.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnCohort")
    }
}

/// Largest file of identifiers.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

impl Cohorts {
    pub(crate) fn new(all: impl IntoIterator<Item = (Id, OwnCohort)>) -> Self {
        Self { all: Arc::new(all.into_iter().collect()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn get(&self, id: &Id) -> Option<&OwnCohort> {
        self.all.get(id)
    }
}

impl OwnCohort {
    /// Who is in it now, if it is a list: at most `most`, found by `at_once` searches at a time. An identifier that nobody
    /// has, or several have, is left out.
    pub(crate) async fn members(
        &self,
        upstream: &Upstream,
        most: usize,
        at_once: usize,
    ) -> Result<Members, GroupError> {
        let identifiers = match &self.who {
            Who::Patients(patients) if patients.len() > most => return Err(GroupError::TooLarge(most)),
            Who::Patients(patients) => return Ok(Members { patients: patients.clone(), ..Members::default() }),
            // Whom a search finds is found out where it is known how far the server can be relied on.
            Who::Search(_) => return Ok(Members::default()),
            Who::Identifiers(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || identifiers(&path, most)).await;
                read.map_err(|_panicked| GroupError::Identifiers)??
            }
        };
        let mut answers = futures_util::stream::iter(identifiers)
            .map(|identifier| async move { found(upstream, &identifier).await })
            .buffer_unordered(at_once.max(1));
        let (mut patients, mut left_out) = (BTreeSet::new(), 0);
        while let Some(answer) = answers.next().await {
            match answer.map_err(GroupError::Upstream)? {
                Some(id) => {
                    patients.insert(id);
                }
                None => left_out += 1,
            }
        }
        Ok(Members { patients: patients.into_iter().collect(), left_out, ..Members::default() })
    }
}

/// What tells one patient from all others.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Identifier {
    system: String,
    value: String,
}

impl Identifier {
    /// One line of a file; `None` if it is none.
    fn parse(line: &str) -> Option<Self> {
        let (system, value) = line.split_once('|')?;
        let is_plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        let own = Self { system: system.trim().to_owned(), value: value.trim().to_owned() };
        (is_plain(&own.system) && is_plain(&own.value)).then_some(own)
    }

    /// As a search has it: nothing in it separates one value from the next.
    fn token(&self) -> String {
        let escaped = |text: &str| {
            let mut own = String::with_capacity(text.len());
            for character in text.chars() {
                if matches!(character, '\\' | ',' | '|' | '$') {
                    own.push('\\');
                }
                own.push(character);
            }
            own
        };
        format!("{}|{}", escaped(&self.system), escaped(&self.value))
    }

    /// Whether a resource carries it.
    fn is_of(&self, entry: &Entry) -> bool {
        #[derive(Deserialize)]
        struct Carrier {
            #[serde(default)]
            identifier: Vec<Carried>,
        }
        #[derive(Deserialize)]
        struct Carried {
            system: Option<String>,
            value: Option<String>,
        }
        let Ok(Carrier { identifier }) = serde_json::from_slice(&entry.line) else { return false };
        identifier.iter().any(|own| {
            own.system.as_deref() == Some(self.system.as_str()) && own.value.as_deref() == Some(self.value.as_str())
        })
    }
}

/// Reads a file of identifiers. Empty lines and those that begin with `#` are passed over; one that is no identifier makes all
/// of it unfit: nobody is left out by a slip of the pen.
fn identifiers(path: &Path, most: usize) -> Result<BTreeSet<Identifier>, GroupError> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|_| GroupError::Identifiers)?;
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(|_| GroupError::Identifiers)?;
    if read as u64 > MOST_BYTES {
        return Err(GroupError::Identifiers);
    }
    // What some editors begin a file with is no part of it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let found = lines.map(Identifier::parse).collect::<Option<BTreeSet<_>>>().ok_or(GroupError::Identifiers)?;
    if found.len() > most { Err(GroupError::TooLarge(most)) } else { Ok(found) }
}

/// The one patient who has an identifier, if it is one. SEC-21: a server that passes over the question answers with others,
/// who do not carry it.
async fn found(upstream: &Upstream, identifier: &Identifier) -> Result<Option<Id>, SearchError> {
    let query = SearchQuery::new(ResourceType::PATIENT).param("identifier", identifier.token()).count(2);
    let answer = upstream.page(&query, Scope::of(ResourceType::PATIENT), Room::Share).await?;
    if answer.page.is_troubled() {
        return Err(SearchError::Refused { status: StatusCode::OK, issues: answer.page.outcomes });
    }
    let is_whole = answer.page.next.is_none() && answer.page.total.is_none_or(|total| total == 1);
    match answer.page.entries.as_slice() {
        [one] if is_whole && identifier.is_of(one) => Ok(Some(one.id.clone())),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_lines_and_nothing_in_them_is_taken_for_another() {
        let token = |line: &str| Identifier::parse(line).map(|own| own.token());
        for (line, expected) in [
            ("http://h/mrn|123", Some("http://h/mrn|123")),
            (" http://h/mrn | 1 2 ", Some("http://h/mrn|1 2")),
            ("urn:x|a,b", Some("urn:x|a\\,b")),
            ("urn:x|a|b$c\\d", Some("urn:x|a\\|b\\$c\\\\d")),
            ("123", None),
            ("|123", None),
            ("urn:x|", None),
        ] {
            assert_eq!(token(line).as_deref(), expected, "{line}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list");
        let read = |text: &str, most| {
            std::fs::write(&path, text).expect("the disk takes it");
            identifiers(&path, most).map(|found| found.len())
        };
        assert!(matches!(read("# ours\n\nurn:x|1\nurn:x|2\nurn:x|1\n", 2), Ok(2)));
        std::fs::write(&path, "\u{feff}urn:x|1\n").expect("the disk takes it");
        let marked = identifiers(&path, 1).expect("it can be read");
        assert_eq!(marked.iter().map(Identifier::token).collect::<Vec<_>>(), ["urn:x|1"], "a byte order mark");
        assert!(matches!(read("urn:x|1\nurn:x|2\n", 1), Err(GroupError::TooLarge(1))));
        assert!(matches!(read("urn:x|1\nnonsense\n", 9), Err(GroupError::Identifiers)));
        assert!(matches!(identifiers(&folder.path().join("none"), 9), Err(GroupError::Identifiers)));
    }
}
