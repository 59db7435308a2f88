//! Composition root: configuration, adapters and core meet here only; start, drain, stop.

mod assembly;
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
mod serve;
mod smart;
mod surroundings;
mod upstream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use object_store::ObjectStore;
use object_store::multipart::MultipartStore;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bulk::route::BasePaths;
use crate::clock::{self, Clock, SystemClock};
use crate::config::{Config, Location, PassThroughMode, ServerConfig, Size, SmartMode};
use crate::engine::Standing;
use crate::http::links::Links;
use crate::http::places::Places;
use crate::http::polls::Polls;
use crate::http::stack::{self, Behind, OfftakeLayer};
use crate::http::{Access, Edge};
use crate::ledger::Fault;
use crate::output::Output;
use crate::output::signing::LinkKeys;
use crate::proxy::metadata::Metadata;
use crate::telemetry::error_chain;
use crate::upstream::capabilities::Capabilities;
use crate::upstream::live::LiveTraffic;
use assembly::{Assembly, bulk_runtime, engine_settings};
use consent::ListFile;
use credentials::Rereadable;
pub(crate) use examine::{Examined, examine};
pub(crate) use identity::Identity;
pub use identity::JobStore;
pub(crate) use keys::generate as generate_keys;
use keys::{link_keys, new_key};
pub(crate) use ledger::commands as ledger_commands;
pub(crate) use recover::recover;
pub(crate) use serve::serve;
use surroundings::Surroundings;
use upstream::{live_traffic, pass_through, search_upstream};

/// Bodies of kick-off requests that are read at the same time; a body is 1 MiB at most.
const KICKOFF_BODIES: usize = 16;
/// Token requests that are answered at the same time; a form is 64 KiB at most.
const TOKEN_FORMS: usize = 32;
/// Files that are packed on the way to clients at the same time.
const PACKED_AT_ONCE: usize = 16;
/// How long the end waits for the last records of files that were sent, and for the copy of the ledger's head.
const LAST_WORDS: Duration = Duration::from_secs(5);

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
        let polls = Polls::new(Arc::clone(&clock), config.export.early_polls_per_second);
        let terms = assembly::terms(&config, &access);
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
            cohorts: assembly::cohorts(&config),
            least_file_max: config.output.least_file_max.bytes(),
            bodies: Semaphore::new(KICKOFF_BODIES),
            capabilities,
            terms,
            polls,
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
    /// If there can be no other clients: then all stay as they were, and so does what searches show.
    pub(crate) fn reload(&self, config: &Config) -> anyhow::Result<()> {
        let Edge { upstream, clock, access, .. } = &*self.app.edge;
        self.app.excluded.follow(&config.policy);
        self.reread_excluded();
        if config.smart.mode == SmartMode::Open && matches!(access, Access::Open { .. }) {
            return Ok(());
        }
        // SEC-10: what is no configuration for this process changes nothing that is shown to the upstream.
        smart::ensure_same_mode(access, config.smart.mode)?;
        match self.app.rereadable.reread(&config.upstream, upstream.credentials(), clock) {
            Ok(()) => tracing::info!("the credentials for the upstream were read anew"),
            Err(error) => {
                tracing::error!(error = error_chain(&*error), "the credentials for the upstream stay as they were");
            }
        }
        smart::reload(access, config, clock);
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
            None => {
                let door = door.clone();
                Behind::new(Metadata::new(through, &bases, edge.terms.clone(), Arc::new(move || door.is_open())))
            }
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
