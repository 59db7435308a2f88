//! Security labels that keep a resource from leaving. Pure.
//!
//! They match wherever it is in doubt: whatever the letters are written in, however a system is called that has had several
//! names, and a label without a system is of every system. A label of confidentiality stands for all higher ones too (SEC-26).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fhir::inside::{Coding, Inside};

/// One label, as it is compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Label {
    system: System,
    code: Box<str>,
}

/// Which codings a label is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum System {
    /// `code`: of every system.
    Any,
    /// `|code`: those without one.
    None,
    /// `system|code`
    Is(Box<str>),
}

/// Labels that are withheld.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Labels(BTreeSet<Label>);

/// Why a text is no label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no label: write system|code, |code for one without a system, or code for one of every system")]
pub(crate) struct NotALabel;

/// From the lowest to the highest.
///
/// Source: <https://terminology.hl7.org/CodeSystem-v3-Confidentiality.html>
const CONFIDENTIALITY: [&str; 6] = ["u", "l", "m", "n", "r", "v"];
const CONFIDENTIALITY_SYSTEM: &str = "http://terminology.hl7.org/codesystem/v3-confidentiality";
/// How systems of version 3 were called before R4.
const FORMERLY: &str = "http://hl7.org/fhir/v3/";
const NOW: &str = "http://terminology.hl7.org/codesystem/v3-";
/// What else they are called.
const OIDS: [(&str, &str); 3] = [
    ("urn:oid:2.16.840.1.113883.5.25", CONFIDENTIALITY_SYSTEM),
    ("urn:oid:2.16.840.1.113883.5.4", "http://terminology.hl7.org/codesystem/v3-actcode"),
    ("urn:oid:2.16.840.1.113883.5.1063", "http://terminology.hl7.org/codesystem/v3-observationvalue"),
];
/// Longest text of a label.
const LONGEST: usize = 500;

impl Label {
    fn parse(text: &str) -> Result<Self, NotALabel> {
        let (system, code) = match text.rsplit_once('|') {
            None => (System::Any, text),
            Some((system, code)) => (named(Some(system)).map_or(System::None, System::Is), code),
        };
        let is_code = !code.trim().is_empty() && !text.chars().any(char::is_control);
        let is_system = match &system {
            System::Any | System::None => true,
            System::Is(system) => !system.contains(['|', ' ']),
        };
        if !is_code || !is_system || text.len() > LONGEST {
            return Err(NotALabel);
        }
        Ok(Self { system, code: plain(code).into() })
    }

    /// The same, and those that it stands for.
    fn and_higher(self) -> impl Iterator<Item = Self> {
        let is_confidentiality = match &self.system {
            System::Any | System::None => true,
            System::Is(system) => &**system == CONFIDENTIALITY_SYSTEM,
        };
        let rank = CONFIDENTIALITY.iter().position(|code| is_confidentiality && **code == *self.code);
        let above = rank.map_or(&[][..], |rank| &CONFIDENTIALITY[rank + 1..]);
        let system = match &self.system {
            // The letters mean something else in other systems.
            System::Any => System::Is(CONFIDENTIALITY_SYSTEM.into()),
            other => other.clone(),
        };
        let higher = above.iter().map(move |code| Self { system: system.clone(), code: Box::from(*code) });
        std::iter::once(self).chain(higher)
    }

    fn matches(&self, system: Option<&str>, code: &str) -> bool {
        *self.code == *code
            && match (&self.system, system) {
                (System::Any, _) | (System::None, None) => true,
                (System::None, Some(_)) => false,
                // Nobody knows whether it is another one.
                (System::Is(_), None) => true,
                (System::Is(own), Some(system)) => **own == *system,
            }
    }

    /// Whether it matches all that `other` does.
    fn includes(&self, other: &Self) -> bool {
        self.code == other.code
            && match (&self.system, &other.system) {
                (System::Any, _) | (System::None | System::Is(_), System::None) => true,
                (System::Is(own), System::Is(other)) => own == other,
                (System::None, System::Is(_)) | (System::None | System::Is(_), System::Any) => false,
            }
    }
}

/// A text as it is compared.
fn plain(text: &str) -> String {
    text.trim().to_lowercase()
}

/// A system by its one name; `None` if there is none.
fn named(system: Option<&str>) -> Option<Box<str>> {
    let system = plain(system?);
    let system = system.trim_end_matches('/');
    if system.is_empty() {
        return None;
    }
    let system = match system.strip_prefix("https://") {
        Some(rest) => format!("http://{rest}"),
        None => system.to_owned(),
    };
    if let Some((_, name)) = OIDS.iter().find(|(oid, _)| *oid == system) {
        return Some(Box::from(*name));
    }
    Some(match system.strip_prefix(FORMERLY) {
        Some(rest) => format!("{NOW}{rest}").into(),
        None => system.into(),
    })
}

impl Labels {
    /// # Errors
    /// [`NotALabel`]
    pub(crate) fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, NotALabel> {
        let labels = texts.into_iter().map(Label::parse).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(labels.into_iter().flat_map(Label::and_higher).collect()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a resource stays here. What is no proper label may be one of these (SEC-20).
    pub(crate) fn withhold(&self, inside: &Inside<'_>) -> bool {
        let is_one = |Coding { system, code }: &Coding<'_>| {
            let (system, code) = (named(system.as_deref()), plain(code));
            self.0.iter().any(|label| label.matches(system.as_deref(), &code))
        };
        !self.is_empty() && (inside.has_strange_label || inside.labels.iter().any(is_one))
    }

    /// Whether these withhold all that `others` do.
    pub(crate) fn include(&self, others: &Self) -> bool {
        others.0.iter().all(|other| self.0.iter().any(|own| own.includes(other)))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.system {
            System::Any => f.write_str(&self.code),
            System::None => write!(f, "|{}", self.code),
            System::Is(system) => write!(f, "{system}|{}", self.code),
        }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(Label::to_string)).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Label::to_string))
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Self::parse(texts.iter().map(String::as_str)).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::inside::look_inside;

    const PART_2: &str = "http://terminology.hl7.org/CodeSystem/v3-ActCode|42CFRPart2";
    const RESTRICTED: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality|R";

    fn labels(texts: &[&str]) -> Labels {
        Labels::parse(texts.iter().copied()).expect("labels")
    }

    fn withhold(texts: &[&str], security: &str) -> bool {
        let json = format!(r#"{{"resourceType":"Basic","meta":{{"security":[{security}]}}}}"#);
        labels(texts).withhold(&look_inside(json.as_bytes()).expect("an object"))
    }

    /// SEC-26
    #[test]
    fn a_label_withholds_what_carries_it() {
        let act = "http://terminology.hl7.org/CodeSystem/v3-ActCode";
        let coding = |system: &str, code: &str| format!(r#"{{"system":"{system}","code":"{code}"}}"#);
        for (label, security, expected) in [
            (PART_2, coding(act, "42CFRPart2"), true),
            (PART_2, coding(act, "ETH"), false),
            (PART_2, coding("urn:other", "42CFRPart2"), false),
            (PART_2, r#"{"code":"42CFRPart2"}"#.to_owned(), true),
            (PART_2, coding("", "42CFRPart2"), true),
            (PART_2, coding(&format!(" {act} "), " 42CFRPart2 "), true),
            (PART_2, coding(&act.to_uppercase(), "42cfrpart2"), true),
            (PART_2, coding(&format!("{act}/"), "42CFRPart2"), true),
            (PART_2, coding("https://terminology.hl7.org/CodeSystem/v3-ActCode", "42CFRPart2"), true),
            (PART_2, coding("http://hl7.org/fhir/v3/ActCode", "42CFRPart2"), true),
            (PART_2, coding("urn:oid:2.16.840.1.113883.5.4", "42CFRPart2"), true),
            (PART_2, format!("{},{}", coding("urn:other", "x"), coding(act, "42CFRPart2")), true),
            ("42CFRPart2", coding("urn:other", "42CFRPart2"), true),
            ("42CFRPart2", r#"{"code":"42CFRPart2"}"#.to_owned(), true),
            ("|secret", r#"{"code":"secret"}"#.to_owned(), true),
            ("|secret", coding("urn:other", "secret"), false),
            (PART_2, r#"{"display":"42CFRPart2"}"#.to_owned(), true),
            (PART_2, String::new(), false),
        ] {
            assert_eq!(withhold(&[label], &security), expected, "{label} {security}");
        }
        assert!(!withhold(&[], r#"{"display":"whatever"}"#), "without labels nothing is withheld");
    }

    /// SEC-26: a confidentiality label includes all higher ones.
    #[test]
    fn a_confidentiality_includes_all_higher_ones() {
        let system = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";
        let order = ["U", "L", "M", "N", "R", "V"];
        for (withheld, label) in order.iter().enumerate() {
            for (carried, code) in order.iter().enumerate() {
                for name in [system, "http://hl7.org/fhir/v3/Confidentiality", "urn:oid:2.16.840.1.113883.5.25", ""] {
                    let security = format!(r#"{{"system":"{name}","code":"{code}"}}"#);
                    for label in [format!("{system}|{label}"), (*label).to_owned()] {
                        assert_eq!(withhold(&[&label], &security), carried >= withheld, "{label}: {security}");
                    }
                }
            }
        }
        assert!(!withhold(&["R"], r#"{"system":"urn:other","code":"V"}"#), "elsewhere V is no higher than R");
        assert!(!withhold(&[PART_2], &format!(r#"{{"system":"{system}","code":"V"}}"#)));
    }

    #[test]
    fn what_is_no_label_is_refused() {
        for bad in ["", " ", "|", "system|", "a|b|c", "a b|c", "a\n|c", "c\n", &"x".repeat(501)] {
            assert_eq!(Labels::parse([bad]), Err(NotALabel), "{bad:?}");
        }
    }

    #[test]
    fn less_is_included_in_more() {
        let very = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality|V";
        for (more, less, expected) in [
            (&[RESTRICTED][..], &[very][..], true),
            (&[very], &[RESTRICTED], false),
            (&["42CFRPart2"], &[PART_2], true),
            (&[PART_2], &["42CFRPart2"], false),
            (&[PART_2], &["|42CFRPart2"], true),
            (&["|42CFRPart2"], &[PART_2], false),
            (&[PART_2, RESTRICTED], &[RESTRICTED], true),
            (&[], &[], true),
            (&[], &[PART_2], false),
            (&["http://hl7.org/fhir/v3/ActCode|42cfrpart2"], &[PART_2], true),
        ] {
            assert_eq!(labels(more).include(&labels(less)), expected, "{more:?} {less:?}");
        }
    }

    #[test]
    fn they_are_read_back_as_they_were_written() {
        let some = labels(&[PART_2, RESTRICTED, "|a", "b", "R"]);
        let json = serde_json::to_string(&some).expect("plain texts");
        assert_eq!(serde_json::from_str::<Labels>(&json).expect("what was written"), some);
    }
}
