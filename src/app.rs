//! Composition root: configuration, adapters and core meet here only; start, drain, stop.

mod admin;
mod assembly;
mod bulk;
mod care;
mod claim;
mod consent;
mod credentials;
mod examine;
mod expiries;
mod fingerprint;
mod identity;
mod keys;
mod ledger;
mod recover;
mod secrets;
mod serve;
mod smart;
mod surroundings;
mod timekeeping;
mod upstream;
mod warnings;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use object_store::ObjectStore;
use object_store::multipart::MultipartStore;
use tokio_util::sync::CancellationToken;

use crate::admin::Key;
use crate::bulk::route::BasePaths;
use crate::clock::watch::ClockWatch;
use crate::clock::{self, Clock, SystemClock};
use crate::config::{Config, Location, PassThroughMode, ServerConfig, SmartMode};
use crate::http::desk::Desk;
use crate::http::door::Door;
use crate::http::stack::{self, Behind, OfftakeLayer};
use crate::http::{Access, Edge};
use crate::ledger::{Fault, Ledger};
use crate::output::Output;
use crate::proxy::metadata::Metadata;
use crate::telemetry::error_chain;
use crate::upstream::live::LiveTraffic;
use assembly::bulk_runtime;
use bulk::{Around, Bulk, Parts, Through, ThroughParts};
pub(crate) use examine::{Examined, examine};
use expiries::Expiries;
pub(crate) use identity::Identity;
pub use identity::JobStore;
use keys::new_key;
pub(crate) use keys::{Replacing, generate as generate_keys, replace as replace_keys};
pub(crate) use ledger::commands as ledger_commands;
pub(crate) use recover::recover;
pub(crate) use serve::serve;
use surroundings::Surroundings;
pub(crate) use timekeeping::confirm as confirm_clock;
use upstream::{live_traffic, pass_through, search_upstream};

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
    clock: Arc<dyn Clock>,
    watch: ClockWatch,
    live: Arc<LiveTraffic>,
    ledger: Ledger,
    desk: Desk,
    expiries: Expiries,
    /// What operators show.
    admin_key: Key,
    bulk: OnceLock<Bulk>,
    /// What that is to be made of, as long as it cannot.
    waiting: Mutex<Parts>,
    stop: CancellationToken,
    /// Jobs have threads of their own, so that ordinary requests never wait behind a page. Dropped off the
    /// runtime that drops the last clone: a runtime may not be dropped from within another.
    runtime: Option<tokio::runtime::Runtime>,
}

/// Makes an [`Offtake`].
#[derive(Debug)]
pub struct Builder {
    config: Config,
    clock: Arc<dyn Clock>,
    store: Option<JobStore>,
    output: Option<Arc<dyn ObjectStore>>,
    through: Option<Through>,
    uploads: Option<ThroughParts>,
    ledger_fault: Option<Fault>,
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
        self.uploads = Some(ThroughParts(Box::new(wrap)));
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
    /// If a folder of ours lies open to others, or threads cannot be started. What else cannot be used, such as a key or a
    /// secret in a file, is no error, but logged: bulk requests are answered with 503 until it was mended and
    /// SIGHUP, or a restart, has it read again; a job store that cannot be opened is tried again without that.
    pub fn build(self) -> anyhow::Result<Offtake> {
        let Self { config, clock, store, output, through, uploads, ledger_fault } = self;
        let parts = Parts { store, output, through, uploads };
        bulk::look_at_folders(&config, &parts)?;
        let expiries = Expiries::new(&config, parts.store.is_none().then_some(&*config.store.path));
        let live = Arc::new(live_traffic(&config, &clock));
        let runtime = bulk_runtime()?;
        let watch = ClockWatch::new(Arc::clone(&clock));
        warnings::tell(&config);
        let admin_key = Key::default();
        admin::use_token(&admin_key, &config.admin);
        let ledger = ledger::start(&config, ledger_fault, &watch, runtime.handle());
        let desk = Desk::empty(ledger.clone(), config.smart.mode, config.server.bulk_base().as_str());
        let app = App {
            config,
            clock,
            watch,
            live,
            ledger,
            desk,
            expiries,
            admin_key,
            bulk: OnceLock::new(),
            waiting: Mutex::new(parts),
            stop: CancellationToken::new(),
            runtime: Some(runtime),
        };
        if let Err(error) = app.start_bulk(&app.config) {
            tracing::error!(
                error = error_chain(&*error),
                "BULK REQUESTS ARE REFUSED, and all others pass through: what bulk requests need cannot be used; `offtake doctor` \
                 says more; after it was mended, send SIGHUP or start anew"
            );
        }
        app.watch_expiries();
        Ok(Offtake { app: Arc::new(app) })
    }
}

impl App {
    /// SEC-44: tells of what expires, whatever becomes of bulk requests.
    fn watch_expiries(&self) {
        let Some(runtime) = &self.runtime else { return };
        let watching = self.expiries.clone().watch(Arc::clone(&self.clock));
        let stopped = self.stop.clone();
        runtime.spawn(async move { stopped.run_until_cancelled(watching).await });
    }

    /// Has bulk requests answered from now on, if they are not yet and what that needs can be used.
    fn start_bulk(&self, config: &Config) -> anyhow::Result<()> {
        let mut parts = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runtime) = self.runtime.as_ref().filter(|_| self.bulk.get().is_none()) else { return Ok(()) };
        let Self { clock, watch, live, ledger, stop, .. } = self;
        let bulk =
            Bulk::start(config, &mut parts, Around { clock, watch, live, ledger, runtime: runtime.handle(), stop })?;
        let edge = Arc::clone(&bulk.edge);
        let _there_was_none = self.bulk.set(bulk);
        self.expiries.watched_by(config);
        self.desk.open(edge);
        Ok(())
    }

    /// The configuration of the start, with what another one says of files that may be why nothing could be started by it.
    fn mended_by(&self, config: &Config) -> anyhow::Result<Config> {
        let (smart, policy) = (config.smart.clone(), config.policy.clone());
        anyhow::ensure!(
            smart.mode == self.config.smart.mode,
            "smart.mode is another one than at the start, which only a restart can change"
        );
        let mut mended = Config { smart, policy, ..self.config.clone() };
        mended.upstream.credentials = config.upstream.credentials.clone();
        mended.upstream.tls = config.upstream.tls.clone();
        Ok(mended)
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
            uploads: None,
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
        OfftakeLayer::new(self.app.desk.clone(), bases)
    }

    /// The same where nothing else is: all below our base is ours or nobody's.
    fn layer_alone(&self) -> OfftakeLayer {
        let server = &self.app.config.server;
        let bases = BasePaths::apart(server.public_base_url.path(), server.bulk_base().path());
        OfftakeLayer::new(self.app.desk.clone(), bases)
    }

    /// Takes up the clients that a configuration names now, and the list of patients who are not exported: every token and every
    /// link is held against them from the next request on (SEC-14); and what searches show to the upstream. All else stays as it
    /// was.
    ///
    /// # Errors
    /// If there can be no other clients: then all stay as they were, and so does what searches show.
    pub(crate) fn reload(&self, config: &Config) -> anyhow::Result<()> {
        let reloaded = self.take_up(config);
        // Whatever becomes of bulk requests: what operators see is needed most when they are refused.
        if config.smart.mode == self.app.config.smart.mode {
            self.app.expiries.reread(config, clock::now(&*self.app.clock));
        }
        admin::use_token(&self.app.admin_key, &config.admin);
        reloaded
    }

    /// Reads the token of the admin listener anew where the start's configuration has it: there is no other one.
    fn reread_token(&self) {
        admin::use_token(&self.app.admin_key, &self.app.config.admin);
    }

    fn take_up(&self, config: &Config) -> anyhow::Result<()> {
        let Some(bulk) = self.app.bulk.get() else {
            self.app.start_bulk(&self.app.mended_by(config)?).context("bulk requests are refused still")?;
            tracing::info!("bulk requests are answered from now on");
            return Ok(());
        };
        let Edge { upstream, clock, access, .. } = &*bulk.edge;
        bulk.excluded.follow(&config.policy);
        self.reread_excluded();
        self.reread_keys();
        if config.smart.mode == SmartMode::Open && matches!(access, Access::Open { .. }) {
            return Ok(());
        }
        // SEC-10: what is no configuration for this process changes nothing that is shown to the upstream.
        smart::ensure_same_mode(access, config.smart.mode)?;
        match bulk.rereadable.reread(&config.upstream, upstream.credentials(), clock) {
            Ok(()) => tracing::info!("the credentials for the upstream were read anew"),
            Err(error) => {
                tracing::error!(error = error_chain(&*error), "the credentials for the upstream stay as they were");
            }
        }
        smart::reload(access, &bulk.verified_by, config, clock);
        if let Some(engine) = bulk.engine.borrow().engine() {
            engine.look_again();
        }
        tracing::info!(clients = config.smart.clients.len(), "the clients were read anew");
        Ok(())
    }

    /// Reads the list of patients who are not exported anew. An engine that is yet to come reads it itself.
    fn reread_excluded(&self) {
        let Some(bulk) = self.app.bulk.get() else { return };
        if let Some(engine) = bulk.engine.borrow().engine() {
            bulk.excluded.apply_to(&engine);
        }
    }

    /// Reads the keys that sign tokens and links anew: what was revoked is good no more, whatever else is wrong.
    fn reread_keys(&self) {
        let Some(bulk) = self.app.bulk.get() else { return };
        if let Err(error) = bulk.reread_keys(&self.app.config) {
            tracing::error!(error = error_chain(&*error), "keys that sign tokens or links stay as they were");
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
        let Config { server, admin: config_admin, .. } = &self.app.config;
        let apart = match server.bulk_listen {
            Some(address) => {
                let bound = tokio::net::TcpListener::bind(address).await;
                Some(bound.with_context(|| format!("could not listen on {address} (server.bulk_listen)"))?)
            }
            None => None,
        };
        let of_operators = match config_admin.listen {
            Some(address) => {
                let bound = tokio::net::TcpListener::bind(address).await;
                Some(bound.with_context(|| format!("could not listen on {address} (admin.listen)"))?)
            }
            None => None,
        };
        let (layer, behind, door, watching) = self.front()?;
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
        let seen_by_operators = async {
            let Some(listener) = of_operators else { return };
            if let Ok(address) = listener.local_addr() {
                tracing::info!(admin_listen = %address, "serving operators");
            }
            crate::admin::serve(listener, self.admin(door), stopped.cancelled()).await;
        };
        let serving = async {
            tokio::join!(stack::serve(listener, &layer, behind, own), bulk_alone, seen_by_operators);
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

    /// The layer for the main listener, what is behind it, the door between them, and what has to go on while it serves.
    fn front(&self) -> anyhow::Result<(OfftakeLayer, Behind, Door, BoxFuture<'static, ()>)> {
        let App { config, clock, live, .. } = &*self.app;
        if config.server.pass_through == PassThroughMode::Off {
            let nothing = Box::pin(std::future::ready(()));
            return Ok((self.layer_alone(), stack::nothing(), Door::Open, nothing));
        }
        let through = pass_through(config, live)?;
        let bases = through.bases().clone();
        let (door, surroundings) = Surroundings::new(config, through.clone(), clock);
        // Where our operations are at another base, the upstream's statement is its own.
        let behind = match config.server.bulk_base_path {
            None => {
                let door = door.clone();
                let (terms, desk) = (assembly::terms(config), self.app.desk.clone());
                let is_open = move || door.is_open() && desk.is_attended();
                Behind::new(Metadata::new(through, &bases, terms, Arc::new(is_open)))
            }
            Some(_) => Behind::new(through),
        };
        Ok((self.layer().behind(door.clone()), behind, door, Box::pin(surroundings.watch())))
    }

    /// Ends all jobs in good order: what they have read is completed, and a restart reads nothing twice.
    pub async fn drain(&self) {
        self.app.stop.cancel();
        if let Some(bulk) = self.app.bulk.get() {
            let engine = bulk.engine.borrow().engine();
            if let Some(engine) = engine {
                engine.drain().await;
            }
            let sending = &bulk.edge.sending;
            sending.close();
            let _cut_by_now = tokio::time::timeout(LAST_WORDS, sending.wait()).await;
            let _copied = tokio::time::timeout(LAST_WORDS, bulk.heads.copy()).await;
        }
        self.app.ledger.close().await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(engine) = self.bulk.get().and_then(|bulk| bulk.engine.borrow().engine()) {
            engine.stop();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
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
    admin::check(config)?;
    consent::check(&config.policy)
}
