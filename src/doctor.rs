//! Finds trouble before an export does: asks the upstream what an export would rely on, tries the storage, and
//! says what that means.

pub(crate) mod anonymous;
pub(crate) mod expiries;
pub(crate) mod files;
pub(crate) mod own_export;
pub(crate) mod storage;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::fhir::capability::Capability;
use crate::fhir::resource_type::ResourceType;
use crate::plan::cohort::Lists;
use crate::profile::{
    ByPatient, CountMethod, Findings, NextLinks, PageTotal, PatientForm, PresetChoice, PresetName, Profile,
    ProfileOverrides, Protocol, Searches, StrictHandling, TimeFilter,
};
use crate::upstream::capabilities::{Capabilities, StatementError};
use crate::upstream::client::Upstream;
use crate::upstream::probe::{self, Held, Silent, Survey};

/// What was found out about an upstream.
#[derive(Debug)]
pub(crate) struct Examination {
    capability: Arc<Capability>,
    held: Held,
    findings: Findings,
    /// What is made of the findings.
    profile: Profile,
    preset: Option<PresetName>,
    overrides: ProfileOverrides,
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error("could not read what the server says of itself")]
    Statement(#[from] StatementError),
    #[error("could not probe the server")]
    Silent(#[from] Silent),
}

/// Reads the capability statement and runs the probes, whatever is known from before.
pub(crate) async fn examine(
    upstream: &Upstream,
    capabilities: &Capabilities,
    preset: &PresetChoice,
    overrides: &ProfileOverrides,
    page_resources: u32,
    searches: usize,
) -> Result<Examination, DoctorError> {
    let capability = capabilities.in_turn().await?;
    let preset = preset.of(&capability.software);
    let given = Profile::default().known(preset, overrides);
    let compartments = capability.compartments().unwrap_or_default();
    let by_type = |name: &ResourceType| !given.patient_required || !compartments.are_read_by_patient(*name);
    let all: Vec<_> = capability.searchable().into_iter().collect();
    let types: Vec<_> = all.iter().copied().filter(by_type).collect();
    let Survey { held, mut findings } = probe::survey(upstream, &types, page_resources, searches).await?;
    probe::try_patients(upstream, compartments, &all, &held, &given, &mut findings, searches).await?;
    let profile = findings.profile.clone().known(preset, overrides);
    Ok(Examination { capability, held, findings, profile, preset, overrides: overrides.clone() })
}

/// `Date` has whole seconds, and an answer takes a moment.
const CLOCK_TOLERANCE_MILLIS: i64 = 3_000;

impl fmt::Display for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &str, means: &str| writeln!(f, "{name:<14}{value:<15} {means}");
        let Capability { fhir_version, software, version, .. } = &*self.capability;
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
        let means = if self.capability.compartments().is_some() {
            "all levels can be exported"
        } else {
            "System level only: of this version the Patient compartment is not known here"
        };
        line("FHIR", if fhir_version.is_empty() { "unknown" } else { fhir_version }, means)?;
        let occupied = self.held.counts.values().filter(|count| **count > 0).count();
        let all = self.held.counts.values().copied().fold(0, u64::saturating_add);
        let searchable = self.held.counts.len() + self.held.refused.len();
        let means = match self.findings.profile.counts {
            Some(_) => format!("can be searched; {occupied} hold {all} resources together"),
            None => "can be searched; nothing shows how much they hold".to_owned(),
        };
        line("types", &searchable.to_string(), &means)?;
        self.refused(&mut line)?;
        match self.findings.ahead_millis {
            Some(ahead) if ahead.abs() > CLOCK_TOLERANCE_MILLIS => {
                let (by, way) = (ahead.abs() / 1_000, if ahead > 0 { "ahead of" } else { "behind" });
                line("clock", &format!("{by} s"), &format!("{way} ours; exports go by the server's own"))?;
            }
            Some(_) => line("clock", "agrees", "with ours")?,
            None => line("clock", "unknown", "the server sends no Date; exports go by our clock")?,
        }
        self.lines(&mut line)?;
        if !self.findings.untried.is_empty() {
            let untried: Vec<_> = self.findings.untried.iter().map(|line| line.as_str()).collect();
            line("untried", &untried.join(", "), "no witness was found; each export tries again")?;
        }
        if self.overrides != ProfileOverrides::default() {
            line("", "", "(with the lines that upstream.profile sets)")?;
        }
        Ok(())
    }
}

type Line<'a> = dyn FnMut(&str, &str, &str) -> fmt::Result + 'a;

impl Examination {
    /// Every line of the profile. No `..`: a new one does not compile until it is printed.
    fn lines(&self, line: &mut Line<'_>) -> fmt::Result {
        let Profile {
            last_updated,
            sort,
            counts,
            page_total,
            links,
            page_most,
            patients,
            or_lists,
            id_lists,
            url_most_bytes,
            post,
            everything,
            history,
            strict,
            gzip,
            protocol,
            patient_required,
            searches,
        } = &self.profile;
        reading(line, *last_updated, *sort, *counts, *page_total)?;
        pages(line, *links, *page_most)?;
        self.by_patient(line, *patients, *patient_required, searches)?;
        lists(line, *or_lists, *url_most_bytes, *post)?;
        let means = if *id_lists { "several ids are asked for at once" } else { "ids are asked for one by one" };
        line("id lists", proven(*id_lists), means)?;
        let means = match everything {
            Some(true) => "what no search by patient reaches is read from it, unproven",
            Some(false) => "what no search by patient reaches is refused by name",
            None => "there is nobody to try it on: each export tries",
        };
        line("$everything", offered(*everything), means)?;
        let means = match history {
            Some(true) => "exports with `_since` say what was deleted",
            Some(false) => "exports with `_since` cannot say what was deleted, and say so",
            None => "there is nothing to try it on: each export tries",
        };
        line("history", offered(*history), means)?;
        let (value, means) = match strict {
            StrictHandling::Enforced => ("enforced", "a parameter that the server does not know is refused by it"),
            StrictHandling::Accepted => ("accepted", "and of no use: a parameter that is not known is ignored"),
            StrictHandling::Refused => ("refused", "searches are sent without `Prefer: handling=strict`"),
        };
        line("strict", value, means)?;
        let (value, means) =
            if *gzip { ("yes", "pages come compressed") } else { ("no", "pages come as large as they are") };
        line("gzip", value, means)?;
        match protocol {
            Protocol::Http1 => line("protocol", "http/1.1", "each search at the same time has a connection"),
            Protocol::Http2 => line("protocol", "h2", "searches share a connection"),
        }
    }

    fn refused(&self, line: &mut Line<'_>) -> fmt::Result {
        let refused: BTreeSet<_> = self.held.refused.iter().map(|(name, _)| name.as_str()).collect();
        let compartments = self.capability.compartments().unwrap_or_default();
        for name in refused {
            let by_patient = ResourceType::parse(name).is_some_and(|name| compartments.are_read_by_patient(name));
            let means = if by_patient {
                "is refused without a patient: exports try it patient by patient"
            } else {
                "is refused although the capability statement lists it: none would be exported"
            };
            line("", name, means)?;
        }
        Ok(())
    }

    fn by_patient(
        &self,
        line: &mut Line<'_>,
        form: PatientForm,
        is_required: bool,
        searches: &Searches,
    ) -> fmt::Result {
        let form = match form {
            PatientForm::Id => "id",
            PatientForm::Typed => "typed",
        };
        line("patients", form, "how searches name a patient; tried again for each Group export")?;
        match &self.findings.by_patient {
            ByPatient::Tried => {}
            ByPatient::Untried => line("", "untried", "there is nobody to try searches by patient on")?,
            ByPatient::Unreliable(why) => line("", "unreliable", why)?,
        }
        if is_required {
            line("", "required", "what belongs to patients is read patient by patient, at every level")?;
        }
        for (name, count) in searches.types() {
            let means =
                format!("is read by {count} searches for each patient; unproven, unless the server counts without");
            line("", name.as_str(), &means)?;
        }
        Ok(())
    }
}

fn reading(
    line: &mut Line<'_>,
    last_updated: TimeFilter,
    sort: bool,
    counts: Option<CountMethod>,
    page_total: Option<PageTotal>,
) -> fmt::Result {
    let (value, means) = match last_updated {
        TimeFilter::Millisecond => ("millisecond", "types are read in windows of time, many at once"),
        TimeFilter::Second => ("second", "types are read in windows of whole seconds, many at once"),
        TimeFilter::None => {
            ("none", "types are read as one chain of pages; `_since` is our own filter, where resources say their time")
        }
    };
    line("_lastUpdated", value, means)?;
    let (value, means) = if sort {
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
    line("page total", value, means)
}

fn pages(line: &mut Line<'_>, links: NextLinks, page_most: Option<u32>) -> fmt::Result {
    let (value, means) = match links {
        NextLinks::Stable => ("stable", "lists or cursors: several pages can prove themselves"),
        NextLinks::Offsets => ("offsets", "several pages are read until two readings are the same"),
        NextLinks::Unknown => ("unknown", "none was seen: taken for offsets"),
    };
    line("next links", value, means)?;
    let most = page_most.map_or_else(|| "as asked".to_owned(), |most| most.to_string());
    line("page size", &most, "resources at most")
}

/// How long a list of patients may be: what was found restricts what servers usually take.
fn lists(line: &mut Line<'_>, or_lists: bool, url_most_bytes: Option<u32>, post: bool) -> fmt::Result {
    let means = if or_lists { "one search names many patients" } else { "patients are asked for one by one" };
    line("patient lists", proven(or_lists), means)?;
    if or_lists {
        let bytes = url_most_bytes.map_or(Lists::IN_A_URL.bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let means = if bytes == 0 { "in a URL: no list goes into one" } else { "in a URL, of all that it names" };
        line("", &format!("{bytes} bytes"), means)?;
    }
    let (value, means) = if post {
        (format!("{} patients", Lists::IN_A_FORM.patients), "by POST at most")
    } else {
        ("not proven".to_owned(), "by POST: no list is longer than a URL takes")
    };
    line("", &value, means)
}

fn proven(is_proven: bool) -> &'static str {
    if is_proven { "proven" } else { "unproven" }
}

fn offered(offered: Option<bool>) -> &'static str {
    match offered {
        Some(true) => "offered",
        Some(false) => "refused",
        None => "untried",
    }
}
