//! What the probes found, as it is kept: raw, so that a preset or an operator can change what is made of it at any time.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Profile;
use crate::fhir::capability::Capability;
use crate::fhir::datatypes::Millis;

/// The answers to the probes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// What was seen, and nothing that is only known.
    pub(crate) profile: Profile,
    /// Lines for which there was nothing to try them on: they say nothing of the server, and are tried again.
    pub(crate) untried: BTreeSet<Line>,
    /// How far the server's clock is ahead of ours, in milliseconds, as far as its `Date` tells.
    pub(crate) ahead_millis: Option<i64>,
    /// Whether searches by patient were tried, and what is wrong with them if anything is.
    pub(crate) by_patient: ByPatient,
}

impl Findings {
    /// Takes over what was found out about searches by patient.
    pub(crate) fn keep_patients_of(&mut self, other: &Self) {
        let Profile { patients, or_lists, url_most_bytes, post, everything, .. } = other.profile;
        self.profile = Profile { patients, or_lists, url_most_bytes, post, everything, ..self.profile.clone() };
        self.by_patient = other.by_patient.clone();
    }
}

/// What came of trying searches by patient on some who are patients.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ByPatient {
    /// There is nobody to try them on, or nobody has tried.
    #[default]
    Untried,
    /// As the profile says.
    Tried,
    /// They cannot be relied on, for this reason.
    Unreliable(String),
}

/// A line of a profile that takes a resource to try it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    LastUpdated,
    Sort,
    Counts,
    Links,
    IdLists,
    History,
}

impl Line {
    /// As `upstream.profile` names it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LastUpdated => "last_updated",
            Self::Sort => "sort",
            Self::Counts => "counts",
            Self::Links => "links",
            Self::IdLists => "id_lists",
            Self::History => "history",
        }
    }
}

/// What a server calls itself. Another name or version is another server, whatever was found out about the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Software {
    name: String,
    version: String,
    fhir_version: String,
}

impl Software {
    pub(crate) fn of(capability: &Capability) -> Self {
        let Capability { fhir_version, software, version, .. } = capability;
        Self { name: software.clone(), version: version.clone(), fhir_version: fhir_version.clone() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Findings, and what they hold for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Which questions were asked: others may find something else.
    questions: u32,
    /// The FHIR base that was asked.
    pub(crate) base: String,
    pub(crate) software: Software,
    /// When it was asked.
    pub(crate) at: Millis,
    pub(crate) findings: Findings,
}

/// The questions that this version asks; to be raised when another question, or another way to judge an answer, may find
/// something else.
const QUESTIONS: u32 = 1;

impl Found {
    pub(crate) fn new(base: &str, software: Software, at: Millis, findings: Findings) -> Self {
        Self { questions: QUESTIONS, base: base.to_owned(), software, at, findings }
    }

    /// Whether it can be relied on at `now` before the server at `base` that calls itself `software`, if it says so at this
    /// moment. What was found in the future was found by a clock that was wrong.
    pub(crate) fn holds(&self, base: &str, software: Option<&Software>, now: Millis, ttl_millis: i64) -> bool {
        let age = now.0.saturating_sub(self.at.0);
        self.questions == QUESTIONS
            && self.base == base
            && software.is_none_or(|software| *software == self.software)
            && (0..ttl_millis).contains(&age)
    }
}

/// What a profile is kept under: a hash of the base that exports search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProfileKey([u8; 16]);

impl ProfileKey {
    pub(crate) fn of(base: &str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, base.as_bytes());
        Self(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "https://fhir.example/r4";

    fn software(version: &str) -> Software {
        Software { name: "a server".to_owned(), version: version.to_owned(), fhir_version: "4.0.1".to_owned() }
    }

    #[test]
    fn findings_hold_for_one_server_in_one_version_for_a_while() {
        let found = Found::new(BASE, software("1"), Millis(10_000), Findings::default());
        for (case, base, asked, now, expected) in [
            ("at once", BASE, Some(software("1")), 10_000, true),
            ("just before the end", BASE, Some(software("1")), 10_999, true),
            ("at the end", BASE, Some(software("1")), 11_000, false),
            ("before it was found", BASE, Some(software("1")), 9_999, false),
            ("nobody knows the version", BASE, None, 10_500, true),
            ("another version", BASE, Some(software("2")), 10_500, false),
            ("another base", "https://fhir.example/r4b", Some(software("1")), 10_500, false),
        ] {
            assert_eq!(found.holds(base, asked.as_ref(), Millis(now), 1_000), expected, "{case}");
        }
        let asked_otherwise = Found { questions: QUESTIONS + 1, ..found };
        assert!(!asked_otherwise.holds(BASE, None, Millis(10_000), 1_000));
    }

    #[test]
    fn another_base_is_kept_under_another_key() {
        assert_ne!(ProfileKey::of(BASE), ProfileKey::of("https://fhir.example/r4b"));
        assert_eq!(ProfileKey::of(BASE), ProfileKey::of(BASE));
    }
}
