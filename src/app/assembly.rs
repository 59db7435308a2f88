//! What an engine is made of, and its start once the job store is open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::claim::{Privacy, PrivacyWatch};
use super::consent::ListFile;
use super::identity::Identity;
use super::ledger;
use crate::bulk::kickoff::Presets;
use crate::bulk::shape::FileSizes;
use crate::clock::Clock;
use crate::clock::watch::ClockWatch;
use crate::config::{Attachments, Compression, Config, PublicBucket, SmartMode};
use crate::disk::Ballast;
use crate::engine::files::FileLimits;
use crate::engine::{Engine, EngineParts, EngineSettings, Standing};
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::job::store::Store;
use crate::ledger::Ledger;
use crate::output::Output;
use crate::output::writer::Coding;
use crate::proxy::metadata::offer::{OwnGroups, Terms};
use crate::smart::discovery::Endpoints;
use crate::smart::server::Registry;
use crate::store::sled::SledStore;
use crate::telemetry::error_chain;
use crate::upstream::capabilities::Capabilities;
use crate::upstream::client::Upstream;
use crate::upstream::cohorts::{Cohorts, OwnCohort, Who};

/// Pause between two tries to open the job store.
pub(super) const STORE_PAUSE: Duration = Duration::from_secs(5);
/// The folder in the state folder that the job store is in.
pub(super) const JOBS: &str = "jobs";
/// The file in the state folder that takes room for recording deletions on a full disk, and how much.
const BALLAST: &str = "ballast";
const BALLAST_BYTES: u64 = 4 * 1024 * 1024;

/// What an engine is made of, but for the store.
pub(super) struct Assembly {
    pub(super) excluded: ListFile,
    pub(super) output: Output,
    pub(super) upstream: Upstream,
    pub(super) capabilities: Capabilities,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) watch: ClockWatch,
    pub(super) ledger: Ledger,
    pub(super) heads: ledger::HeadCopy,
    pub(super) identity: Identity,
    pub(super) settings: EngineSettings,
    pub(super) public_bucket: PublicBucket,
    pub(super) runtime: tokio::runtime::Handle,
    /// When it was put together.
    pub(super) began: Millis,
    pub(super) registry: Option<Arc<Registry>>,
}

impl Assembly {
    /// Opens the store, now or when it becomes possible, and starts the engine on it.
    pub(super) fn open(
        self,
        store: Option<Arc<dyn Store>>,
        folder: PathBuf,
        stop: CancellationToken,
    ) -> watch::Receiver<Standing> {
        let (sender, receiver) = watch::channel(Standing::Opening);
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let opened = stop.run_until_cancelled(open_store(store, &folder, &*self.clock)).await;
            let Some(store) = opened else { return };
            let watch = PrivacyWatch::of(&self);
            let claimed = async {
                self.claim_output(&folder, &sender).await;
                watch.look(Privacy::Unproven).await
            };
            let Some(privacy) = stop.run_until_cancelled(claimed).await else { return };
            let engine = Engine::new(EngineParts {
                store,
                output: self.output,
                upstream: self.upstream,
                capabilities: self.capabilities,
                clock: Arc::clone(&self.clock),
                watch: self.watch,
                ledger: self.ledger,
                instance: self.identity.instance,
                checkpoint_key: self.identity.checkpoint_key,
                job_keys: self.identity.job_keys,
                settings: self.settings,
                runtime: self.runtime,
                began: self.began,
                registry: self.registry,
            });
            let started = self.excluded.start(&engine, &*self.clock, &sender);
            if stop.run_until_cancelled(started).await.is_none() {
                return;
            }
            if stop.is_cancelled() {
                engine.stop();
            }
            // Also if the process is to stop by now: whoever stops it has to find the engine.
            sender.send_replace(privacy.standing(&engine));
            // It may have changed since it was read for the start, when nobody could be told.
            self.excluded.apply_to(&engine);
            let watching = watch.go_on(privacy, engine, &sender);
            let copying = self.heads.go_on(&*self.clock);
            let _stopped = stop.run_until_cancelled(futures_util::future::join(watching, copying)).await;
            stop.cancelled().await;
        });
        receiver
    }
}

async fn open_store(given: Option<Arc<dyn Store>>, folder: &Path, clock: &dyn Clock) -> Arc<dyn Store> {
    if let Some(store) = given {
        return store;
    }
    loop {
        let ballast = Ballast::new(folder.join(BALLAST), BALLAST_BYTES);
        let folder = folder.join(JOBS);
        let opened = tokio::task::spawn_blocking(move || SledStore::open_beside(&folder, Some(ballast))).await;
        match opened {
            Ok(Ok(store)) => return Arc::new(store),
            Ok(Err(error)) => tracing::error!(
                error = error_chain(&error),
                "the job store cannot be opened; bulk requests wait for it"
            ),
            Err(_panicked) => tracing::error!("opening the job store failed; bulk requests wait for it"),
        }
        clock.sleep(STORE_PAUSE).await;
    }
}

/// The cohorts that are written down, all of which are good.
pub(super) fn cohorts(config: &Config) -> Cohorts {
    Cohorts::new(config.export.cohorts.iter().filter_map(|cohort| {
        let (id, patients) = cohort.read()?;
        let who = match (&cohort.identifiers_file, cohort.filter()) {
            (Some(path), _) => Who::Identifiers(path.clone()),
            (None, Some(search)) => Who::Search(search.ok()?.filter),
            (None, None) => Who::Patients(patients),
        };
        Some((id, OwnCohort { name: cohort.name.clone(), who }))
    }))
}

/// What clients may call some types by.
pub(super) fn presets(config: &Config) -> Presets {
    let types = |names: &Vec<String>| names.iter().filter_map(|name| ResourceType::parse(name)).collect();
    config.export.associated_data.iter().map(|(name, names)| (name.clone(), types(names))).collect()
}

/// What statements say of exports.
pub(super) fn terms(config: &Config) -> Terms {
    let named = config.export.follow_references.iter().chain(config.export.associated_data.values().flatten());
    Terms {
        context: named.filter_map(|name| ResourceType::parse(name)).collect(),
        own_groups: match (config.export.cohorts_by_clients, config.export.cohorts.is_empty()) {
            (true, _) => OwnGroups::Made,
            (false, false) => OwnGroups::Read,
            (false, true) => OwnGroups::None,
        },
        has_smart: config.smart.mode != SmartMode::Open,
        token_endpoint: match config.smart.mode {
            SmartMode::AuthorizationServer => Some(Endpoints::below(config.server.bulk_base().as_str()).token),
            SmartMode::External => config.smart.issuer.token_endpoint.as_ref().map(ToString::to_string),
            SmartMode::Open => None,
        },
    }
}

pub(super) fn engine_settings(config: &Config) -> EngineSettings {
    let upstream = &config.upstream;
    let output = &config.output;
    EngineSettings {
        most_running: config.export.max_running_jobs,
        most_waiting: config.export.max_waiting_jobs,
        most_of_a_client: config.export.max_jobs_per_client,
        public_base: config.server.public_base_url.as_str().into(),
        share: config.export.share_identical_kickoffs,
        scratch: config.store.path.as_path().into(),
        searches: upstream.max_concurrent_searches,
        page_resources: upstream.page_max_resources,
        page_bytes: usize::try_from(upstream.page_target.bytes()).unwrap_or(usize::MAX),
        files: FileLimits {
            bytes: output.file_max.bytes(),
            lines: output.file_max_resources,
            age: output.file_max_age,
            asked: FileSizes::default(),
        },
        coding: match output.compression {
            Compression::None => Coding::Plain,
            Compression::Gzip => Coding::Gzip,
        },
        lag_millis: i64::try_from(upstream.settling_lag.as_millis()).unwrap_or(i64::MAX),
        output_ttl: config.export.output_ttl,
        most_members: config.export.group_max_members,
        newcomers: config.export.group_since_newcomers,
        cohorts: cohorts(config),
        context: config.export.follow_references.iter().filter_map(|name| ResourceType::parse(name)).collect(),
        preset: upstream.preset.clone(),
        profile: upstream.profile.clone(),
        profile_ttl: upstream.profile_ttl,
        probe_on_start: upstream.probe_on_start,
        on_short: config.export.on_short,
        boundary: config.export.boundary,
        deletions_by_difference: config.export.deletions_by_difference,
        inlines: match config.export.attachments {
            Attachments::Reference => None,
            Attachments::Inline => Some(config.export.attachments_max.bytes()),
        },
        give_up_after: upstream.give_up_after,
    }
}

/// Two threads, as many as small machines have, at a lower priority than those of ordinary requests.
pub(super) fn bulk_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("offtake-bulk").enable_all();
    #[cfg(target_os = "linux")]
    builder.on_thread_start(|| {
        // Best effort: without the priority everything still works.
        let _lowered = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
    });
    builder.build().context("could not start the threads for exports")
}
