//! Composition root: configuration, adapters and core meet here only; start, drain, stop.

mod care;
mod claim;
mod consent;
mod credentials;
mod examine;
mod identity;
mod keys;
mod ledger;
mod recover;
mod secrets;
mod smart;
mod surroundings;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use moka::future::Cache;
use object_store::ObjectStore;
use object_store::multipart::MultipartStore;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bulk::route::BasePaths;
use crate::clock::{self, Clock, SystemClock};
use crate::config::{Compression, Config, Location, PassThroughMode, PublicBucket, ServerConfig, Size, SmartMode};
use crate::disk::Ballast;
use crate::engine::files::FileLimits;
use crate::engine::{Engine, EngineParts, EngineSettings, Standing};
use crate::fhir::datatypes::Millis;
use crate::fhir::resource_type::ResourceType;
use crate::http::links::Links;
use crate::http::places::Places;
use crate::http::stack::{self, Behind, OfftakeLayer};
use crate::http::{Access, Edge};
use crate::job::store::Store;
use crate::ledger::{Fault, Ledger};
use crate::output::Output;
use crate::output::signing::LinkKeys;
use crate::output::writer::Coding;
use crate::profile::{Profile, Protocol};
use crate::proxy::metadata::Metadata;
use crate::proxy::{Bases, PassThrough};
use crate::smart::server::Registry;
use crate::store::sled::SledStore;
use crate::telemetry::error_chain;
use crate::upstream::budget::Budget;
use crate::upstream::capabilities::Capabilities;
use crate::upstream::client::{Channel, Patience, Upstream};
use crate::upstream::connect::{PassThroughClient, Protocols, SearchClient};
use crate::upstream::live::LiveTraffic;
use claim::{Privacy, PrivacyWatch};
use consent::ListFile;
use credentials::Rereadable;
pub(crate) use examine::{Examined, examine};
pub(crate) use identity::Identity;
pub use identity::JobStore;
pub(crate) use keys::generate as generate_keys;
use keys::{link_keys, new_key};
pub(crate) use ledger::commands as ledger_commands;
pub(crate) use recover::recover;
use surroundings::Surroundings;

/// Jobs whose first poll is remembered, and for how long.
const POLLED_JOBS: u64 = 10_000;
const POLLED_LIFETIME: Duration = Duration::from_mins(2);
/// Bodies of kick-off requests that are read at the same time; a body is 1 MiB at most.
const KICKOFF_BODIES: usize = 16;
/// Token requests that are answered at the same time; a form is 64 KiB at most.
const TOKEN_FORMS: usize = 32;
/// Files that are packed on the way to clients at the same time.
const PACKED_AT_ONCE: usize = 16;
/// How long the end waits for the last records of files that were sent, and for the copy of the ledger's head.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Pause between two tries to open the job store.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Bulk Data exports in front of one FHIR server.
///
/// [`layer`](Self::layer) puts the bulk routes before any service; [`run`](Self::run) serves them together with a
/// reverse proxy for all other requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Offtake {
    app: Arc<App>,
}

struct App {
    config: Config,
    edge: Arc<Edge>,
    live: Arc<LiveTraffic>,
    engine: watch::Receiver<Standing>,
    /// Copies the head of the ledger to the output.
    heads: ledger::HeadCopy,
    /// Who is not exported.
    excluded: ListFile,
    /// What the upstream is shown by searches, to be read anew.
    rereadable: Rereadable,
    stop: CancellationToken,
    /// Jobs have threads of their own, so that ordinary requests never wait behind a page. Dropped off the
    /// runtime that drops the last clone: a runtime may not be dropped from within another.
    bulk: Option<tokio::runtime::Runtime>,
}

/// Makes an [`Offtake`].
#[derive(Debug)]
pub struct Builder {
    config: Config,
    clock: Arc<dyn Clock>,
    store: Option<JobStore>,
    output: Option<Arc<dyn ObjectStore>>,
    through: Option<Through>,
    through_parts: Option<ThroughParts>,
    ledger_fault: Option<Fault>,
}

/// Something to put around the object store that the configuration names.
struct Through(Box<WrapStore>);

type WrapStore = dyn FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send;

/// The same for what uploads in parts.
struct ThroughParts(Box<WrapParts>);

type WrapParts = dyn FnOnce(Arc<dyn MultipartStore>) -> Arc<dyn MultipartStore> + Send;

impl fmt::Debug for ThroughParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ThroughParts")
    }
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Through")
    }
}

impl Builder {
    /// Another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Another job store than the one at `store.path`.
    #[must_use]
    pub fn store(mut self, store: JobStore) -> Self {
        self.store = Some(store);
        self
    }

    /// Another object store than the one at `output.location`.
    #[must_use]
    pub fn output(mut self, output: Arc<dyn ObjectStore>) -> Self {
        self.output = Some(output);
        self
    }

    /// Puts `wrap` around whatever object store is used: how tests make one fail.
    #[doc(hidden)]
    #[must_use]
    pub fn output_through(
        mut self,
        wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + 'static,
    ) -> Self {
        self.through = Some(Through(Box::new(wrap)));
        self
    }

    /// The same for uploads in parts, which on S3 and Google Cloud Storage do not go through that.
    #[doc(hidden)]
    #[must_use]
    pub fn uploads_through(
        mut self,
        wrap: impl FnOnce(Arc<dyn MultipartStore>) -> Arc<dyn MultipartStore> + Send + 'static,
    ) -> Self {
        self.through_parts = Some(ThroughParts(Box::new(wrap)));
        self
    }

    /// Asks `fault` before each write to the ledger whether it fails: how tests fill its disk.
    #[doc(hidden)]
    #[must_use]
    pub fn ledger_failing(mut self, fault: impl Fn() -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        self.ledger_fault = Some(Fault(Arc::new(fault)));
        self
    }

    /// Opens the output, makes or reads the keys, and begins to open the job store; jobs that were under way go on
    /// as soon as it is open. Call it from within a tokio runtime.
    ///
    /// # Errors
    /// If the output cannot be opened, a key cannot be read or made, or TLS cannot be set up. A job store that
    /// cannot be opened is no error: it is tried again, and bulk requests answer 503 until then.
    pub fn build(self) -> anyhow::Result<Offtake> {
        let Self { config, clock, store, output, through, through_parts, ledger_fault } = self;
        let state = config.store.path.clone();
        let output = match output {
            Some(output) => Output::of(output),
            None => Output::open(&config.output_that_signs()).context("could not open the output")?,
        };
        let unwrapped = output.clone();
        let output = match through {
            Some(Through(wrap)) => output.through(wrap),
            None => output,
        };
        let output = match through_parts {
            Some(ThroughParts(wrap)) => output.through_parts(wrap),
            None => output,
        };
        let output = output.leaving_free(config.output.min_free.map(Size::bytes));
        if store.is_none() {
            crate::store::private_folder(&state).context("could not make the state folder")?;
        }
        let live = Arc::new(live_traffic(&config, &clock));
        let shown = credentials::of_searches(&config.upstream, &clock)?;
        credentials::warn(&config.upstream);
        let rereadable = Rereadable::new(&config.upstream, &shown.tls);
        let upstream = search_upstream(&config, shown, &clock, config.upstream.give_up_after, Arc::clone(&live))?;
        let (keys, identity) = match &store {
            Some(store) => (LinkKeys::new(new_key()?, None), store.identity()?),
            None => (link_keys(&state)?, Identity::kept(&state)?),
        };
        let capabilities = Capabilities::new(upstream.clone(), Arc::clone(&clock));
        // Without a folder of ours nothing outlives the process.
        let folder = store.is_none().then_some(state.as_path());
        let access = smart::access(&config, folder, &clock)?;
        let links = Links::new(config.server.bulk_base(), keys, config.output.link_ttl);
        let bulk = bulk_runtime()?;
        let ledger = ledger::start(&config, ledger_fault, &clock, bulk.handle());
        let heads = ledger::HeadCopy::new(ledger.clone(), unwrapped, identity.instance.clone());
        let excluded = ListFile::of(&config.policy);
        let parts = Assembly {
            excluded: excluded.clone(),
            output: output.clone(),
            upstream: upstream.clone(),
            capabilities: capabilities.clone(),
            clock: Arc::clone(&clock),
            ledger: ledger.clone(),
            heads: heads.clone(),
            identity,
            settings: engine_settings(&config),
            public_bucket: config.output.public_bucket,
            runtime: bulk.handle().clone(),
            began: clock::now(&*clock),
            registry: access.registry().map(Arc::clone),
        };
        let stop = CancellationToken::new();
        if let Access::Server(server) = &access {
            let watching = smart::watch_keys(Arc::clone(server), &config, folder, Arc::clone(&clock), stop.clone());
            bulk.spawn(watching);
        }
        let engine = parts.open(store.map(|store| store.store), state, stop.clone());
        let edge = Edge {
            engine: engine.clone(),
            upstream: upstream.urgent(),
            output,
            clock,
            ledger,
            links,
            link_mode: config.output.links,
            access,
            coming: Places::default(),
            asking: Places::default(),
            forms: Semaphore::new(TOKEN_FORMS),
            most_members: config.export.group_max_members,
            bodies: Semaphore::new(KICKOFF_BODIES),
            capabilities,
            polled: Cache::builder().max_capacity(POLLED_JOBS).time_to_live(POLLED_LIFETIME).build(),
            runtime: bulk.handle().clone(),
            sending: TaskTracker::new(),
            packing: Arc::new(Semaphore::new(PACKED_AT_ONCE)),
        };
        let app =
            App { config, edge: Arc::new(edge), live, engine, excluded, heads, rereadable, stop, bulk: Some(bulk) };
        Ok(Offtake { app: Arc::new(app) })
    }
}

impl Offtake {
    /// Begins with a configuration.
    #[must_use]
    pub fn builder(config: Config) -> Builder {
        Builder {
            config,
            clock: Arc::new(SystemClock),
            store: None,
            output: None,
            through: None,
            through_parts: None,
            ledger_fault: None,
        }
    }

    /// The bulk routes as a tower layer: every other request goes to the service below it.
    #[must_use]
    pub fn layer(&self) -> OfftakeLayer {
        let ServerConfig { public_base_url, bulk_base_path, .. } = &self.app.config.server;
        let bases = match bulk_base_path {
            None => BasePaths::shared(public_base_url.path()),
            Some(_) => BasePaths::apart(public_base_url.path(), self.app.config.server.bulk_base().path()),
        };
        OfftakeLayer::new(Arc::clone(&self.app.edge), bases)
    }

    /// The same where nothing else is: all below our base is ours or nobody's.
    fn layer_alone(&self) -> OfftakeLayer {
        let server = &self.app.config.server;
        let bases = BasePaths::apart(server.public_base_url.path(), server.bulk_base().path());
        OfftakeLayer::new(Arc::clone(&self.app.edge), bases)
    }

    /// Takes up the clients that a configuration names now, and the list of patients who are not exported: every token and every
    /// link is held against them from the next request on (SEC-14); and what searches show to the upstream. All else stays as it
    /// was.
    ///
    /// # Errors
    /// If there can be no other clients: then all stay as they were.
    pub(crate) fn reload(&self, config: &Config) -> anyhow::Result<()> {
        let Edge { upstream, clock, .. } = &*self.app.edge;
        match self.app.rereadable.reread(&config.upstream, upstream.credentials(), clock) {
            Ok(()) => tracing::info!("the credentials for the upstream were read anew"),
            Err(error) => {
                tracing::error!(error = error_chain(&*error), "the credentials for the upstream stay as they were");
            }
        }
        self.app.excluded.follow(&config.policy);
        self.reread_excluded();
        if config.smart.mode == SmartMode::Open && matches!(self.app.edge.access, Access::Open { .. }) {
            return Ok(());
        }
        smart::reload(&self.app.edge.access, config, clock)?;
        if let Some(engine) = self.app.engine.borrow().engine() {
            engine.look_again();
        }
        tracing::info!(clients = config.smart.clients.len(), "the clients were read anew");
        Ok(())
    }

    /// Reads the list of patients who are not exported anew. An engine that is yet to come reads it itself.
    fn reread_excluded(&self) {
        if let Some(engine) = self.app.engine.borrow().engine() {
            self.app.excluded.apply_to(&engine);
        }
    }

    /// Listens on `server.listen` and serves bulk and ordinary requests until `shutdown` completes; then finishes
    /// the requests under way and drains the jobs.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
        let address = self.app.config.server.listen;
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("could not listen on {address}"))?;
        self.run_on(listener, shutdown).await
    }

    /// The same on a socket that already listens.
    ///
    /// # Errors
    /// If TLS cannot be set up for ordinary requests.
    pub async fn run_on(
        &self,
        listener: tokio::net::TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<()> {
        let Config { server, .. } = &self.app.config;
        let apart = match server.bulk_listen {
            Some(address) => {
                let bound = tokio::net::TcpListener::bind(address).await;
                Some(bound.with_context(|| format!("could not listen on {address} (server.bulk_listen)"))?)
            }
            None => None,
        };
        let (layer, behind, watching) = self.front()?;
        let passes_through = server.pass_through == PassThroughMode::Forward;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(listen = %address, public_base_url = %server.public_base_url, passes_through, "serving");
        }
        let stopped = CancellationToken::new();
        let (own, of_others) = (stopped.clone().cancelled_owned(), stopped.clone().cancelled_owned());
        let bulk_alone = async {
            let Some(listener) = apart else { return };
            if let Ok(address) = listener.local_addr() {
                tracing::info!(bulk_listen = %address, "serving bulk requests, and nothing else");
            }
            stack::serve(listener, &self.layer_alone(), stack::nothing(), of_others).await;
        };
        let serving = async {
            tokio::join!(stack::serve(listener, &layer, behind, own), bulk_alone);
        };
        let told = async {
            shutdown.await;
            stopped.cancel();
        };
        let watched = stopped.run_until_cancelled(watching);
        tokio::join!(serving, told, watched);
        self.drain().await;
        Ok(())
    }

    /// The layer for the main listener, what is behind it, and what has to go on while it serves.
    fn front(&self) -> anyhow::Result<(OfftakeLayer, Behind, BoxFuture<'static, ()>)> {
        let App { config, edge, live, .. } = &*self.app;
        if config.server.pass_through == PassThroughMode::Off {
            return Ok((self.layer_alone(), stack::nothing(), Box::pin(std::future::ready(()))));
        }
        let through = pass_through(config, live)?;
        let bases = through.bases().clone();
        let (door, surroundings) = Surroundings::new(config, through.clone(), &edge.clock);
        // Where our operations are at another base, the upstream's statement is its own.
        let behind = match config.server.bulk_base_path {
            None => Behind::new(Metadata::new(through, &bases)),
            Some(_) => Behind::new(through),
        };
        Ok((self.layer().behind(door), behind, Box::pin(surroundings.watch())))
    }

    /// Ends all jobs in good order: what they have read is completed, and a restart reads nothing twice.
    pub async fn drain(&self) {
        self.app.stop.cancel();
        let engine = self.app.engine.borrow().engine();
        if let Some(engine) = engine {
            engine.drain().await;
        }
        let Edge { ledger, sending, .. } = &*self.app.edge;
        sending.close();
        let _cut_by_now = tokio::time::timeout(LAST_WORDS, sending.wait()).await;
        let _copied = tokio::time::timeout(LAST_WORDS, self.app.heads.copy()).await;
        ledger.close().await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(engine) = self.engine.borrow().engine() {
            engine.stop();
        }
        if let Some(bulk) = self.bulk.take() {
            bulk.shutdown_background();
        }
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

/// The folder in the state folder that the job store is in.
const JOBS: &str = "jobs";
/// The file in the state folder that takes room for recording deletions on a full disk, and how much.
const BALLAST: &str = "ballast";
const BALLAST_BYTES: u64 = 4 * 1024 * 1024;

/// What an engine is made of, but for the store.
struct Assembly {
    excluded: ListFile,
    output: Output,
    upstream: Upstream,
    capabilities: Capabilities,
    clock: Arc<dyn Clock>,
    ledger: Ledger,
    heads: ledger::HeadCopy,
    identity: Identity,
    settings: EngineSettings,
    public_bucket: PublicBucket,
    runtime: tokio::runtime::Handle,
    /// When it was put together.
    began: Millis,
    registry: Option<Arc<Registry>>,
}

impl Assembly {
    /// Opens the store, now or when it becomes possible, and starts the engine on it.
    fn open(
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
                ledger: self.ledger,
                instance: self.identity.instance,
                checkpoint_key: self.identity.checkpoint_key,
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

fn engine_settings(config: &Config) -> EngineSettings {
    let upstream = &config.upstream;
    let output = &config.output;
    EngineSettings {
        most_running: config.export.max_running_jobs,
        most_waiting: config.export.max_waiting_jobs,
        searches: upstream.max_concurrent_searches,
        page_resources: upstream.page_max_resources,
        page_bytes: usize::try_from(upstream.page_target.bytes()).unwrap_or(usize::MAX),
        files: FileLimits {
            bytes: output.file_max.bytes(),
            lines: output.file_max_resources,
            age: output.file_max_age,
        },
        coding: match output.compression {
            Compression::None => Coding::Plain,
            Compression::Gzip => Coding::Gzip,
        },
        lag_millis: i64::try_from(upstream.settling_lag.as_millis()).unwrap_or(i64::MAX),
        output_ttl: config.export.output_ttl,
        most_members: config.export.group_max_members,
        context: config.export.follow_references.iter().filter_map(|name| ResourceType::parse(name)).collect(),
        preset: upstream.preset.clone(),
        profile: upstream.profile.clone(),
        profile_ttl: upstream.profile_ttl,
        probe_on_start: upstream.probe_on_start,
        on_short: config.export.on_short,
        boundary: config.export.boundary,
        deletions_by_difference: config.export.deletions_by_difference,
        give_up_after: upstream.give_up_after,
    }
}

/// Two threads, as many as small machines have, at a lower priority than those of ordinary requests.
fn bulk_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("offtake-bulk").enable_all();
    #[cfg(target_os = "linux")]
    builder.on_thread_start(|| {
        // Best effort: without the priority everything still works.
        let _lowered = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
    });
    builder.build().context("could not start the threads for exports")
}

/// What requests pass through by.
fn pass_through(config: &Config, live: &Arc<LiveTraffic>) -> anyhow::Result<PassThrough> {
    let base = &config.upstream.base_url;
    let scheme = base.scheme().parse().context("could not read the scheme of upstream.base_url")?;
    let authorities = credentials::of_pass_through(&config.upstream)?;
    let client = PassThroughClient::new(&scheme, &authorities);
    let client = client.context("could not set up connections to the upstream")?;
    let bases = Bases::new(&config.server.public_base_url, base).context("could not set up the proxy")?;
    Ok(PassThrough::new(client, bases, Arc::clone(live)))
}

/// What passes through, as exports make way for it.
fn live_traffic(config: &Config, clock: &Arc<dyn Clock>) -> LiveTraffic {
    let rise = config.upstream.yield_to_live_traffic.latency_rise_percent;
    LiveTraffic::new(Arc::clone(clock), f32::from(rise) / 100.0)
}

/// The upstream as exports ask it.
fn search_upstream(
    config: &Config,
    shown: credentials::Shown,
    clock: &Arc<dyn Clock>,
    give_up_after: Duration,
    live: Arc<LiveTraffic>,
) -> anyhow::Result<Upstream> {
    let upstream = &config.upstream;
    let base = upstream.searched().clone();
    let scheme = base.scheme().parse().context("could not read the scheme of the upstream's base URL")?;
    let protocols =
        if upstream.profile.protocol == Some(Protocol::Http1) { Protocols::Http1 } else { Protocols::Negotiated };
    let credentials::Shown { credentials, tls } = shown;
    let client = SearchClient::new(&scheme, protocols, &tls).context("could not set up connections to the upstream")?;
    let patience = Patience { timeout: upstream.search_timeout, give_up_after };
    let gate = care::gate(upstream, live, Arc::clone(clock));
    let budget = Budget::new(upstream.memory_budget.bytes(), upstream.max_concurrent_searches);
    // A replica holds what the server wrote: references with the server's own base are as good as its own.
    let known_as = upstream.base_url.as_str().trim_end_matches('/').into();
    let asked =
        Upstream::new(Channel { client, credentials }, base, known_as, gate, budget, Arc::clone(clock), patience);
    // What an operator knows holds for the first question too.
    asked.heed(&Profile::default().known(None, &upstream.profile));
    if upstream.profile.gzip == Some(false) {
        asked.ask_for_plain();
    }
    Ok(asked)
}

/// Finds what cannot be told from a configuration alone: what of a storage comes from files and the environment.
///
/// # Errors
/// If the storage could not be used as it is meant. It is not asked.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    // A folder is looked at when it is used: it may not be there yet, and is not to be made by looking.
    if !matches!(config.output.place(), Ok(Location::File(_))) {
        Output::open(&config.output_that_signs()).context("the output cannot be used")?;
    }
    smart::check(config)?;
    credentials::check(config, &(Arc::new(SystemClock) as Arc<dyn Clock>))?;
    consent::check(&config.policy)
}

/// Serves a configuration until the process is told to stop. SIGHUP has its clients read anew from `file`.
pub(crate) async fn serve(config: Config, file: PathBuf) -> anyhow::Result<()> {
    let offtake = Offtake::builder(config).build()?;
    tokio::select! {
        served = offtake.run(told_to_stop()) => served,
        never = reload_when_told(&offtake, &file) => never,
    }
}

async fn reload_when_told(offtake: &Offtake, file: &Path) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut told = signal(SignalKind::hangup()).context("could not listen for SIGHUP")?;
    while told.recv().await.is_some() {
        let read = Config::from_file(file).map_err(anyhow::Error::from).and_then(|config| offtake.reload(&config));
        if let Err(error) = read {
            tracing::error!(error = error_chain(&*error), "the clients stay as they were");
            // Whoever withdrew consent does not wait for the rest to be mended.
            offtake.reread_excluded();
        }
    }
    std::future::pending().await
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
        }
        Err(_) => {
            let _interrupted = interrupted.await;
        }
    }
    tracing::info!("stopping: finishing what is under way");
}
