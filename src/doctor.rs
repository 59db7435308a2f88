//! Finds trouble before an export does: asks the upstream what an export would rely on, and says what that means.

use std::fmt;

use crate::fhir::capability::{Capability, CapabilityError};
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::profile::{
    CountMethod, NextLinks, PageTotal, PatientForm, PresetChoice, PresetName, Profile, ProfileOverrides, TimeFilter,
};
use crate::upstream::client::{SearchError, Upstream};
use crate::upstream::probe::{self, Held};

/// What was found out about an upstream.
#[derive(Debug)]
pub(crate) struct Examination {
    capability: Capability,
    held: Held,
    profile: Profile,
    preset: Option<PresetName>,
    overrides: ProfileOverrides,
    /// How far the upstream's clock is ahead of ours, in milliseconds, as far as its `Date` tells.
    ahead: Option<i64>,
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error("the server's capability statement cannot be fetched")]
    Metadata(#[source] SearchError),
    #[error("what the server sends as its capability statement is none")]
    Capability(#[source] CapabilityError),
    #[error("the server could no longer be had when it was asked for {0}")]
    Search(ResourceType, #[source] SearchError),
}

/// Reads the capability statement and runs the probes.
pub(crate) async fn examine(
    upstream: &Upstream,
    preset: &PresetChoice,
    overrides: &ProfileOverrides,
    page_resources: u32,
    searches: usize,
) -> Result<Examination, DoctorError> {
    let statement = upstream.metadata().await.map_err(DoctorError::Metadata)?;
    let capability = Capability::parse(&statement).map_err(DoctorError::Capability)?;
    let preset = preset.of(&capability.software);
    let given = Profile::default().known(preset, overrides);
    let by_type = |name: &ResourceType| !given.patient_required || !name.is_read_by_patient();
    let types: Vec<_> = capability.searchable().into_iter().filter(by_type).collect();
    let first = types.first().copied().unwrap_or(ResourceType::PATIENT);
    let failed = |source| DoctorError::Search(first, source);
    let method = probe::count_method(upstream, &types).await.map_err(failed)?;
    let asked = upstream.now();
    let held = probe::held(upstream, &types, method, searches).await;
    let held = held.map_err(|(name, source)| DoctorError::Search(name, source))?;
    let ahead = held.date.map(|Millis(date)| date - asked.0);
    let profile = probe::profile(upstream, method, &held.counts, &types, page_resources).await.map_err(failed)?;
    let profile = profile.known(preset, overrides);
    Ok(Examination { capability, held, profile, preset, overrides: overrides.clone(), ahead })
}

/// `Date` has whole seconds, and an answer takes a moment.
const CLOCK_TOLERANCE_MILLIS: i64 = 3_000;

impl fmt::Display for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &str, means: &str| writeln!(f, "{name:<14}{value:<16}{means}");
        let Capability { fhir_version, software, version, .. } = &self.capability;
        // It comes from outside, and a terminal may obey it.
        let software = format!("{software} {version}");
        let software: String = software.trim().chars().filter(|character| !character.is_control()).take(60).collect();
        line("software", if software.is_empty() { "unknown" } else { &software }, "")?;
        match self.preset {
            Some(name) => {
                let means = format!("what is known of {} restricts what the probes found", name.preset().title);
                line("preset", name.as_str(), &means)?;
            }
            None => line("preset", "none", "all that is relied on was found by asking")?,
        }
        let means = if self.capability.has_our_compartments() {
            "all levels can be exported"
        } else {
            "System level only: of this version the Patient compartment is not known here"
        };
        line("FHIR", if fhir_version.is_empty() { "unknown" } else { fhir_version }, means)?;
        let occupied = self.held.counts.values().filter(|count| **count > 0).count();
        let all = self.held.counts.values().copied().fold(0, u64::saturating_add);
        let searchable = self.held.counts.len() + self.held.refused.len();
        line("types", &searchable.to_string(), &format!("can be searched; {occupied} hold {all} resources together"))?;
        for (name, _) in &self.held.refused {
            let means = if name.is_read_by_patient() {
                "is refused without a patient: exports try it patient by patient"
            } else {
                "is refused although the capability statement lists it: none would be exported"
            };
            line("", name.as_str(), means)?;
        }
        match self.ahead {
            Some(ahead) if ahead.abs() > CLOCK_TOLERANCE_MILLIS => {
                let (by, way) = (ahead.abs() / 1_000, if ahead > 0 { "ahead of" } else { "behind" });
                line("clock", &format!("{by} s"), &format!("{way} ours; exports go by the server's own"))?;
            }
            Some(_) => line("clock", "agrees", "with ours")?,
            None => line("clock", "unknown", "the server sends no Date; exports go by our clock")?,
        }
        self.lines(&mut line)?;
        if self.overrides != ProfileOverrides::default() {
            line("", "", "(with the lines that upstream.profile sets)")?;
        }
        Ok(())
    }
}

impl Examination {
    fn lines(&self, line: &mut impl FnMut(&str, &str, &str) -> fmt::Result) -> fmt::Result {
        let Profile { last_updated, sort, counts, page_total, links, page_most, patients, .. } = &self.profile;
        let Profile { or_lists: _, id_lists, patient_required, searches, .. } = &self.profile;
        let (value, means) = match last_updated {
            TimeFilter::Millisecond => ("millisecond", "types are read in windows of time, many at once"),
            TimeFilter::Second => ("second", "types are read in windows of whole seconds, many at once"),
            TimeFilter::None => (
                "none",
                "types are read as one chain of pages; `_since` is our own filter, where resources say their time",
            ),
        };
        line("_lastUpdated", value, means)?;
        let (value, means) = if *sort {
            ("obeyed", "the newest change is found by one search")
        } else {
            ("unproven", "the newest change is found by halving; pages are never relied on to be in order")
        };
        line("_sort", value, means)?;
        let (value, means) = match counts {
            Some(CountMethod::Summary) => ("summary", "exact; the proof can say `counted`"),
            Some(CountMethod::Accurate) => ("accurate", "exact with `_total=accurate`; the proof can say `counted`"),
            None => ("none", "nothing exact: every slice is read twice, and the proof says `reread`"),
        };
        line("counts", value, means)?;
        let (value, means) = match page_total {
            Some(PageTotal::Always) => ("always", "a page's own total is exact"),
            Some(PageTotal::OnRequest) => ("on_request", "a page's own total is exact with `_total=accurate`"),
            None => ("none", "each slice is counted apart before it is read"),
        };
        line("page total", value, means)?;
        let (value, means) = match links {
            NextLinks::Stable => ("stable", "lists or cursors: several pages can prove themselves"),
            NextLinks::Offsets => ("offsets", "several pages are read until two readings are the same"),
            NextLinks::Unknown => ("unknown", "none was seen: taken for offsets"),
        };
        line("next links", value, means)?;
        let most = page_most.map_or_else(|| "as asked".to_owned(), |most| most.to_string());
        line("page size", &most, "resources at most")?;
        let form = match patients {
            PatientForm::Id => "id",
            PatientForm::Typed => "typed",
        };
        line("patients", form, "how searches name a patient; tried again for each Group export")?;
        if *patient_required {
            line("", "required", "what belongs to patients is read patient by patient, at every level")?;
        }
        for (name, count) in searches.types() {
            let means =
                format!("is read by {count} searches for each patient; unproven, unless the server counts without");
            line("", name.as_str(), &means)?;
        }
        line(
            "id lists",
            if *id_lists { "proven" } else { "unproven" },
            if *id_lists { "" } else { "ids are asked for one by one" },
        )
    }
}
