//! Presets: what is known of servers by name, as data in one file. They restrict what the probes found and supply what
//! no probe can find out; there is no word in them by which a proof could become stronger.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{NextLinks, Profile, Searches, TimeFilter};

/// What is known of one product.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preset {
    /// The product.
    pub(crate) title: String,
    /// What `software.name` is or begins with.
    #[serde(default)]
    software: Vec<String>,
    #[serde(default)]
    distrust: BTreeSet<Finding>,
    finest_time: Option<FinestTime>,
    page_most: Option<u32>,
    #[serde(default)]
    patient_required: bool,
    #[serde(default)]
    searches: Searches,
}

/// What a probe may find and a preset can take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Finding {
    Times,
    Sort,
    Counts,
    PageTotals,
    Links,
    PatientLists,
    IdLists,
    Posts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FinestTime {
    Second,
}

/// Which preset is used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PresetChoice {
    /// The one whose product the capability statement names, or none.
    #[default]
    Auto,
    /// None.
    Off,
    /// The one of this name.
    Named(PresetName),
}

/// The name of a preset that exists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PresetName(&'static str);

static PRESETS: LazyLock<BTreeMap<String, Preset>> =
    LazyLock::new(|| serde_saphyr::from_str(include_str!("presets.yaml")).expect("a test reads the same file"));

impl PresetName {
    /// The preset of this name, if there is one.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        PRESETS.get_key_value(name).map(|(name, _)| Self(name))
    }

    /// The preset of the product that calls itself so.
    fn of_software(software: &str) -> Option<Self> {
        let is_or_begins = |own: &String| {
            let begin = software.get(..own.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(own))
                && software[own.len()..].chars().next().is_none_or(|next| !next.is_alphanumeric())
        };
        let found = PRESETS.iter().find(|(_, preset)| preset.software.iter().any(is_or_begins));
        found.map(|(name, _)| Self(name))
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.0
    }

    pub(crate) fn preset(self) -> &'static Preset {
        &PRESETS[self.0]
    }
}

impl fmt::Debug for PresetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl PresetChoice {
    /// The preset to be used before a server that calls itself `software`.
    pub(crate) fn of(&self, software: &str) -> Option<PresetName> {
        match self {
            Self::Auto => PresetName::of_software(software),
            Self::Off => None,
            Self::Named(name) => Some(*name),
        }
    }
}

impl Serialize for PresetChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Auto => "auto",
            Self::Off => "none",
            Self::Named(name) => name.0,
        })
    }
}

impl<'de> Deserialize<'de> for PresetChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        match &*text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::Off),
            name => PresetName::parse(name).map(Self::Named).ok_or_else(|| {
                let known: Vec<_> = PRESETS.keys().map(String::as_str).collect();
                serde::de::Error::custom(format!("the preset is neither auto nor none nor one of {}", known.join(", ")))
            }),
        }
    }
}

impl Preset {
    /// What was found, as far as it holds for this product.
    pub(crate) fn restrict(&self, mut found: Profile) -> Profile {
        for finding in &self.distrust {
            match finding {
                Finding::Times => found.last_updated = TimeFilter::None,
                Finding::Sort => found.sort = false,
                Finding::Counts => found.counts = None,
                Finding::PageTotals => found.page_total = None,
                Finding::Links => found.links = NextLinks::Offsets,
                Finding::PatientLists => found.or_lists = false,
                Finding::IdLists => found.id_lists = false,
                Finding::Posts => found.post = false,
            }
        }
        if self.finest_time == Some(FinestTime::Second) && found.last_updated == TimeFilter::Millisecond {
            found.last_updated = TimeFilter::Second;
        }
        found.page_most = self.page_most.into_iter().chain(found.page_most).min();
        found.patient_required |= self.patient_required;
        found.searches = found.searches.overridden(&self.searches);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{CountMethod, PageTotal, PatientForm, Protocol, StrictHandling};

    #[test]
    fn a_product_is_known_by_the_whole_words_that_its_name_begins_with() {
        for (software, expected) in [
            ("HAPI FHIR Server", Some("hapi")),
            ("hapi fhir", Some("hapi")),
            ("Epic", Some("epic")),
            ("Epicentre", None),
            ("An Epic Server", None),
            ("IBM FHIR Server", Some("linuxforhealth")),
            ("Blaze", Some("blaze")),
            ("épic", None),
            ("", None),
        ] {
            let found = PresetChoice::Auto.of(software).map(PresetName::as_str);
            assert_eq!(found, expected, "{software:?}");
            assert_eq!(PresetChoice::Off.of(software), None);
        }
        let named = PresetName::parse("google").expect("there is such a preset");
        assert_eq!(PresetChoice::Named(named).of("Epic").map(PresetName::as_str), Some("google"));
    }

    /// However good a server looks and however bad: with a preset it is never relied on for more.
    #[test]
    fn no_preset_makes_a_proof_stronger() {
        let best = Profile {
            last_updated: TimeFilter::Millisecond,
            sort: true,
            counts: Some(CountMethod::Summary),
            page_total: Some(PageTotal::Always),
            links: NextLinks::Stable,
            page_most: None,
            patients: PatientForm::Id,
            or_lists: true,
            id_lists: true,
            url_most_bytes: None,
            post: true,
            everything: Some(true),
            history: Some(true),
            strict: StrictHandling::Enforced,
            gzip: true,
            protocol: Protocol::Http2,
            patient_required: false,
            searches: Searches::default(),
        };
        for (name, preset) in PRESETS.iter() {
            let restricted = preset.restrict(Profile::default());
            let Profile { links, page_most, patient_required, searches, .. } = restricted.clone();
            let nothing = Profile { links, page_most, patient_required, searches, ..Profile::default() };
            assert_eq!(restricted, nothing, "{name} claims what nobody saw");
            assert!(!restricted.links_are_stable(), "{name}");
            let restricted = preset.restrict(best.clone());
            assert!(restricted.last_updated.step_millis() >= 1 && restricted.page_most.is_none_or(|most| most > 0));
            let page = Profile { page_most: Some(7), ..best.clone() };
            assert_eq!(preset.restrict(page).page_most, Some(7), "{name}");
        }
        let epic = PresetName::parse("epic").expect("there is such a preset").preset().restrict(best);
        assert!(!epic.filters_by_time() && !epic.page_proves_itself() && !epic.or_lists);
        assert_eq!((epic.counts, epic.page_most, epic.id_lists), (None, Some(1_000), true));
    }
}
