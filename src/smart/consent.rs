//! Who has withdrawn consent: patients of whom nothing leaves, whoever asks (SEC-14). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fhir::datatypes::{Id, Millis};
use crate::fhir::resource_type::ResourceType;

/// The list of an operator, and when each came onto it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Consent {
    /// When it last grew. An export remembers it: whoever came later was not heeded from its beginning.
    grown: Millis,
    since: BTreeMap<Id, Millis>,
}

/// Why a text is no list of patients. Who is named on a line is not told (SEC-41).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAList {
    #[error("is not UTF-8 text")]
    Text,
    #[error("line {0} is no id of a patient, such as 123 or Patient/123")]
    Line(usize),
    #[error("names more than {MOST} patients")]
    TooLong,
}

/// Patients on one list.
const MOST: usize = 100_000;

/// What stands between `Patient` and an id, however it is escaped.
const AS_REFERENCE: [&str; 6] = ["/", "\\/", "%2F", "%2f", "\\u002f", "\\u002F"];
/// What stands between a parameter of a search and ids.
const AS_SEARCH: [&str; 9] =
    ["=", "%3D", "%3d", "\\u003d", "\\u003D", ":Patient=", ":Patient%3D", "%3APatient%3D", "%3APatient="];

impl Default for Consent {
    /// Nobody is on it.
    fn default() -> Self {
        Self { grown: Millis(0), since: BTreeMap::new() }
    }
}

impl Consent {
    /// The same list, as of no earlier time: what was exported by then may have known of more.
    pub(crate) fn not_before(self, grown: Millis) -> Self {
        Self { grown: self.grown.max(grown), ..self }
    }

    /// Reads a list: on each line an id or `Patient/id`. Empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// [`NotAList`]: of a list that is not understood nobody is left out in silence.
    pub(crate) fn read(text: &[u8]) -> Result<BTreeSet<Id>, NotAList> {
        let text = std::str::from_utf8(text).map_err(|_| NotAList::Text)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patients = BTreeSet::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let id = Id::parse(line.strip_prefix("Patient/").unwrap_or(line));
            patients.insert(id.map_err(|_| NotAList::Line(number))?);
            if patients.len() > MOST {
                return Err(NotAList::TooLong);
            }
        }
        Ok(patients)
    }

    /// The list as it is from `now` on.
    pub(crate) fn with(&self, patients: BTreeSet<Id>, now: Millis) -> Self {
        // No two lists have grown at the same time, whatever the clock says.
        let at = now.max(Millis(self.grown.0.saturating_add(1)));
        let mut grown = self.grown;
        let dated = patients.into_iter().map(|id| {
            let since = self.since.get(&id).copied().unwrap_or_else(|| {
                grown = at;
                at
            });
            (id, since)
        });
        let since = dated.collect();
        Self { grown, since }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// What an export has to remember that heeds the list as it is.
    pub(crate) fn grown(&self) -> Millis {
        self.grown
    }

    pub(crate) fn has(&self, id: &Id) -> bool {
        self.since.contains_key(id)
    }

    /// Whether somebody is on it of whom an export did not know that remembers `then`.
    pub(crate) fn has_grown_since(&self, then: Millis) -> bool {
        self.grown > then && self.since.values().any(|since| *since > then)
    }

    /// Whether a text names somebody on it, wherever in it and whatever for: in a link, a search, a narrative.
    pub(crate) fn is_named_in(&self, text: &str) -> bool {
        let is_of_id = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
        let is_on_it = |after: &str| {
            let id = after.split(|letter: char| !is_of_id(letter)).next().unwrap_or_default();
            // A full stop ends a sentence, or belongs to the id.
            [id, id.trim_end_matches('.')].into_iter().any(|id| Id::parse(id).is_ok_and(|id| self.has(&id)))
        };
        let is_among = |list: &str| {
            let list = list.split(|letter: char| !is_of_id(letter) && !matches!(letter, ',' | '%')).next();
            list.unwrap_or_default()
                .split(',')
                .flat_map(|ids| ids.split("%2C"))
                .flat_map(|ids| ids.split("%2c"))
                .any(is_on_it)
        };
        let named = |word: &str, signs: &[&str], is_it: &dyn Fn(&str) -> bool| {
            let mut words = memchr::memmem::find_iter(text.as_bytes(), word).map(|at| at + word.len());
            words.any(|at| {
                let after = text.get(at..).unwrap_or_default();
                signs.iter().filter_map(|sign| after.strip_prefix(sign)).any(is_it)
            })
        };
        named("Patient", &AS_REFERENCE, &is_on_it)
            || ["patient", "subject"].iter().any(|word| named(word, &AS_SEARCH, &is_among))
    }

    /// Whether a reference leads to somebody on it, or may do so: on whatever server it is said to be, and where it says no
    /// more than how a patient can be found.
    pub(crate) fn may_be_meant_by(&self, reference: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        if let Some(name) = reference.strip_prefix("urn:uuid:").or_else(|| reference.strip_prefix("urn:oid:")) {
            return Id::parse(name).is_ok_and(|id| self.has(&id));
        }
        let mut parts = reference.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.starts_with("Patient?") {
                return true;
            }
            if part == ResourceType::PATIENT.as_str()
                && let Some(next) = parts.peek()
            {
                let id = next.split(['?', '#', '|']).next().unwrap_or_default().trim();
                if Id::parse(id).is_ok_and(|id| self.has(&id)) {
                    return true;
                }
            }
        }
        false
    }
}

impl fmt::Debug for Consent {
    /// Nobody's id (SEC-41).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consent({} patients)", self.since.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> BTreeSet<Id> {
        Consent::read(text.as_bytes()).expect("a list")
    }

    fn id(text: &str) -> Id {
        Id::parse(text).expect("an id")
    }

    #[test]
    fn a_list_is_read_or_refused_as_a_whole() {
        assert_eq!(list("\u{feff}a\r\n# who\n\n Patient/b \nb"), BTreeSet::from([id("a"), id("b")]));
        assert_eq!(list(""), BTreeSet::new());
        for (bad, expected) in [
            ("a\nGroup/b", NotAList::Line(2)),
            ("a b", NotAList::Line(1)),
            ("Patient/", NotAList::Line(1)),
            ("http://h/fhir/Patient/a", NotAList::Line(1)),
            ("a,b", NotAList::Line(1)),
        ] {
            assert_eq!(Consent::read(bad.as_bytes()), Err(expected), "{bad}");
        }
        assert_eq!(Consent::read(b"\xff"), Err(NotAList::Text));
        let long: Vec<_> = (0..=MOST).map(|number| number.to_string()).collect();
        assert_eq!(Consent::read(long.join("\n").as_bytes()), Err(NotAList::TooLong));
    }

    /// SEC-14: whoever came onto the list after a kick-off was not heeded from the beginning.
    #[test]
    fn it_is_known_who_came_after_an_export_began() {
        let first = Consent::default().with(list("a"), Millis(100));
        let then = first.grown();
        assert!(first.has(&id("a")) && !first.has_grown_since(then) && first.has_grown_since(Millis(0)));
        let same = first.with(list("a"), Millis(200));
        assert_eq!(same, first, "it did not grow");
        let more = first.with(list("a\nb"), Millis(200));
        assert!(more.has_grown_since(then) && !more.has_grown_since(more.grown()));
        let less = more.with(list("a"), Millis(300));
        assert!(!less.has_grown_since(then), "who left it again is not heeded any more");
        assert!(less.with(list("a\nb"), Millis(300)).has_grown_since(less.grown()), "who came anew is new");
        let back = more.with(list("a\nb\nc"), Millis(5));
        assert!(back.has_grown_since(more.grown()), "a clock that was set back hides nobody");
        let lost = Consent::default().not_before(then).with(list("a"), Millis(5));
        assert!(lost.has_grown_since(then), "where the list was lost everybody is new");
        let json = serde_json::to_string(&more).expect("plain values");
        assert_eq!(serde_json::from_str::<Consent>(&json).expect("what was written"), more);
    }

    #[test]
    fn a_text_names_somebody_on_the_list_wherever_it_does() {
        let consent = Consent::default().with(list("a\n12"), Millis(1));
        for (text, expected) in [
            (r#"{"url":"http://h/fhir/Patient/12/$everything"}"#, true),
            (r#"{"criteria":"Observation?subject=Patient\/12&code=x"}"#, true),
            ("see Patient/12.", true),
            ("Patient/a", true),
            ("Patient/123 and Patient/ab", false),
            ("Patient 12, /12, Patient", false),
        ] {
            assert_eq!(consent.is_named_in(text), expected, "{text}");
        }
    }

    #[test]
    fn a_reference_is_to_somebody_on_the_list_however_it_is_written() {
        let consent = Consent::default().with(list("a\nb1"), Millis(1));
        for (reference, expected) in [
            ("Patient/a", true),
            ("Patient/a/_history/2", true),
            ("http://h/fhir/Patient/a", true),
            ("https://elsewhere/Patient/a?x=y", true),
            ("Patient/a#x", true),
            ("urn:uuid:b1", true),
            ("Patient?identifier=s|v", true),
            ("http://h/fhir/Patient?identifier=s|v", true),
            ("Patient/c", false),
            ("Practitioner/a", false),
            ("Observation/a", false),
            ("#a", false),
            ("Patient", false),
            ("", false),
        ] {
            assert_eq!(consent.may_be_meant_by(reference), expected, "{reference}");
            assert!(!Consent::default().may_be_meant_by(reference), "{reference}");
        }
    }
}
