//! What is known of the upstream: found out once, kept in the store for as long as it holds, and shared by all who need it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Clock};
use crate::fhir::capability::Capability;
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::job::store::Store;
use crate::profile::{ByPatient, Findings, Found, PresetChoice, PresetName, Profile, ProfileKey};
use crate::profile::{ProfileOverrides, Software};
use crate::telemetry::error_chain;
use crate::upstream::capabilities::{Capabilities, StatementError};
use crate::upstream::client::Upstream;
use crate::upstream::probe::{self, Held, Silent, Survey};

/// Finds out what the upstream does. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Profiler {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: ProfilerParts,
    /// What is known in this life of the process. Whoever probes holds it, so that all others get what that one finds.
    known: Mutex<Option<Found>>,
    /// How often the server was probed in this life.
    probings: AtomicU64,
}

#[derive(Debug)]
pub(super) struct ProfilerParts {
    pub(super) store: Arc<dyn Store>,
    pub(super) upstream: Upstream,
    pub(super) capabilities: Capabilities,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) preset: PresetChoice,
    /// Lines of the profile that an operator knows better.
    pub(super) overrides: ProfileOverrides,
    pub(super) page_resources: u32,
    pub(super) searches: usize,
    pub(super) ttl: Duration,
}

/// How long one question may fail while nobody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first pause before a server that could not be probed is tried again; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// What is known, and what the server holds if it was asked just now.
#[derive(Debug)]
struct Known {
    found: Found,
    held: Option<Held>,
}

/// Whether findings that had nothing to be tried on are good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Untried {
    Kept,
    TriedAgain,
}

impl Profiler {
    pub(super) fn new(parts: ProfilerParts) -> Self {
        Self { inner: Arc::new(Inner { parts, known: Mutex::default(), probings: AtomicU64::new(0) }) }
    }

    /// What an export goes by; found out now, if that is not known or had nothing to be tried on. `fallback` is what is
    /// asked for where the server does not say what it has.
    pub(super) async fn findings(&self, fallback: &[ResourceType]) -> Result<Findings, Silent> {
        let parts = &self.inner.parts;
        let capability = parts.capabilities.in_turn().await;
        let capability = capability.inspect_err(|error| {
            tracing::warn!(error = error_chain(error), "exports go by what was known of the upstream before");
        });
        let known = self.found(capability.ok().as_deref(), fallback, Untried::TriedAgain, &parts.upstream).await?;
        Ok(known.found.findings)
    }

    /// What the server says of itself.
    pub(super) async fn capability(&self) -> Result<Arc<Capability>, StatementError> {
        self.inner.parts.capabilities.in_turn().await
    }

    /// What is known without a question and without waiting for one.
    pub(super) fn known_profile(&self) -> Option<Profile> {
        let known = self.inner.known.try_lock().ok()?;
        known.as_ref().filter(|found| self.holds(found, None)).map(|found| self.profile(found))
    }

    /// Applies what is kept in the store, before anything is asked.
    pub(super) async fn recall(&self) {
        let mut known = self.inner.known.lock().await;
        self.recall_into(&mut known, None).await;
    }

    /// Finds out what is not known yet, or no longer, and tries until it has, or until `stop`.
    pub(super) async fn find_out(&self, stop: &CancellationToken) {
        let clock = &self.inner.parts.clock;
        let mut pause = FIRST_PAUSE;
        loop {
            let reason = match stop.run_until_cancelled(Box::pin(self.find_out_once())).await {
                None | Some(Ok(())) => return,
                Some(Err(reason)) => reason,
            };
            if stop.is_cancelled() {
                return;
            }
            tracing::info!(reason, retry_seconds = pause.as_secs(), "the upstream could not be probed yet");
            if stop.run_until_cancelled(clock.sleep(pause)).await.is_none() {
                return;
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    async fn find_out_once(&self) -> Result<(), String> {
        let parts = &self.inner.parts;
        let capability = parts.capabilities.in_turn().await.map_err(|error| error_chain(&error))?;
        let upstream = parts.upstream.within(PATIENCE);
        let known = self.found(Some(&capability), &[], Untried::Kept, &upstream).await;
        let known = known.map_err(|error| error_chain(&error))?;
        if known.found.findings.by_patient == ByPatient::Untried {
            self.try_patients(known, &capability, &upstream).await.map_err(|error| error_chain(&error))?;
        }
        Ok(())
    }

    /// What holds now: from memory, from the store, or from the server.
    async fn found(
        &self,
        capability: Option<&Capability>,
        fallback: &[ResourceType],
        untried: Untried,
        upstream: &Upstream,
    ) -> Result<Known, Silent> {
        let parts = &self.inner.parts;
        let software = capability.map(Software::of);
        let probings = || self.inner.probings.load(Ordering::Relaxed);
        let before = probings();
        let mut known = self.inner.known.lock().await;
        if known.as_ref().is_none_or(|found| !self.holds(found, software.as_ref())) {
            self.recall_into(&mut known, software.as_ref()).await;
        }
        if let Some(found) = &*known
            && self.holds(found, software.as_ref())
            // Somebody else may have tried while this one waited.
            && (untried == Untried::Kept || found.findings.untried.is_empty() || probings() > before)
        {
            let found = found.clone();
            self.apply(&found);
            return Ok(Known { found, held: None });
        }
        let preset = self.preset(software.as_ref());
        let types = capability.map_or_else(|| fallback.to_vec(), |capability| self.types(capability, preset));
        let asked = probe::survey(upstream, &types, parts.page_resources, parts.searches);
        let Survey { mut findings, held } = asked.await?;
        if let Some(before) = known.as_ref().filter(|found| self.holds(found, software.as_ref())) {
            // Patients are tried elsewhere, and what came of it is as good as it was.
            findings.keep_patients_of(&before.findings);
        }
        let found =
            Found::new(parts.upstream.base(), software.unwrap_or_default(), clock::now(&*parts.clock), findings);
        tracing::info!(profile = ?self.profile(&found), untried = ?found.findings.untried, "the upstream was probed");
        self.inner.probings.fetch_add(1, Ordering::Relaxed);
        self.keep(&found, &mut known).await;
        self.apply(&found);
        Ok(Known { found, held: Some(held) })
    }

    /// P2, P8 and P9, which no export of everything needs, and each of some patients asks anew of its own.
    async fn try_patients(&self, known: Known, capability: &Capability, upstream: &Upstream) -> Result<(), Silent> {
        let Known { found, held } = known;
        let parts = &self.inner.parts;
        let preset = self.preset(Some(&found.software));
        let given = Profile::default().known(preset, &parts.overrides);
        let all: Vec<_> = capability.searchable().into_iter().collect();
        let types = self.types(capability, preset);
        let held = match held {
            Some(held) => held,
            None => probe::held(upstream, &types, found.findings.profile.counts, parts.searches)
                .await
                .map_err(|(resource_type, source)| Silent { resource_type, source })?,
        };
        let mut findings = found.findings.clone();
        let compartments = capability.compartments().unwrap_or_default();
        probe::try_patients(upstream, compartments, &all, &held, &given, &mut findings, parts.searches).await?;
        if findings.by_patient == ByPatient::Untried {
            return Ok(());
        }
        let mut known = self.inner.known.lock().await;
        // Another one may have found out more meanwhile.
        let mut latest = known.clone().filter(|known| known.software == found.software).unwrap_or(found);
        latest.findings.keep_patients_of(&findings);
        tracing::info!(by_patient = ?latest.findings.by_patient, profile = ?self.profile(&latest), "searches by patient were probed");
        self.keep(&latest, &mut known).await;
        Ok(())
    }

    /// The types that can be searched without a patient, as far as that is known beforehand.
    fn types(&self, capability: &Capability, preset: Option<PresetName>) -> Vec<ResourceType> {
        let given = Profile::default().known(preset, &self.inner.parts.overrides);
        let compartments = capability.compartments().unwrap_or_default();
        let by_type = |name: &ResourceType| !given.patient_required || !compartments.are_read_by_patient(*name);
        capability.searchable().into_iter().filter(by_type).collect()
    }

    fn preset(&self, software: Option<&Software>) -> Option<PresetName> {
        self.inner.parts.preset.of(software.map_or("", Software::name))
    }

    /// What is made of findings: they are kept as they were found.
    fn profile(&self, found: &Found) -> Profile {
        found.findings.profile.clone().known(self.preset(Some(&found.software)), &self.inner.parts.overrides)
    }

    fn holds(&self, found: &Found, software: Option<&Software>) -> bool {
        let ProfilerParts { upstream, clock, ttl, .. } = &self.inner.parts;
        let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        found.holds(upstream.base(), software, clock::now(&**clock), ttl)
    }

    fn apply(&self, found: &Found) {
        self.inner.parts.upstream.heed(&self.profile(found));
    }

    /// Takes over what the store holds, if it holds still. A store that does not answer is as good as an empty one.
    async fn recall_into(&self, known: &mut MutexGuard<'_, Option<Found>>, software: Option<&Software>) {
        let ProfilerParts { store, upstream, .. } = &self.inner.parts;
        let kept = match store.profile(ProfileKey::of(upstream.base())).await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "what is kept of the upstream cannot be read");
                None
            }
        };
        let Some(found) = kept.filter(|found| self.holds(found, software)) else { return };
        let Millis(age) = Millis(clock::now(&*self.inner.parts.clock).0.saturating_sub(found.at.0));
        let profile = self.profile(&found);
        tracing::info!(age_seconds = age / 1_000, ?profile, "the upstream's profile is known from before");
        self.apply(&found);
        **known = Some(found);
    }

    /// Keeps findings for the next life. Without that they hold in this one.
    async fn keep(&self, found: &Found, known: &mut MutexGuard<'_, Option<Found>>) {
        let ProfilerParts { store, upstream, .. } = &self.inner.parts;
        if let Err(error) = store.keep_profile(ProfileKey::of(upstream.base()), found.clone()).await {
            tracing::warn!(error = error_chain(&error), "what was found out about the upstream could not be kept");
        }
        **known = Some(found.clone());
    }
}
