//! What answers bulk requests, put together once all that it needs can be used. As long as one of its files cannot, nobody
//! answers them, and whatever passes through does: a damaged key is no reason to close the way to the server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use object_store::ObjectStore;
use object_store::multipart::MultipartStore;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::assembly::{Assembly, cohorts, engine_settings, presets, terms};
use super::consent::ListFile;
use super::credentials::{self, Rereadable};
use super::fingerprint::MadeOf;
use super::identity::{Identity, JobStore};
use super::keys::{LINK_KEY, kept_link_keys, link_keys, new_key, replace_link_keys, watch_link_keys};
use super::upstream::search_upstream;
use super::{ledger, smart, timekeeping};
use crate::clock::watch::ClockWatch;
use crate::clock::{self, Clock};
use crate::config::{Config, Location, ServerConfig, Size};
use crate::engine::Standing;
use crate::http::key_files::KeyFiles;
use crate::http::links::{LinkRing, Links};
use crate::http::places::Places;
use crate::http::polls::Polls;
use crate::http::seats::Seats;
use crate::http::{Access, Edge};
use crate::ledger::Ledger;
use crate::output::Output;
use crate::output::signing::LinkKeys;
use crate::upstream::capabilities::Capabilities;
use crate::upstream::client::Upstream;
use crate::upstream::live::LiveTraffic;

/// Bodies of kick-off requests that are read at the same time; a body is 1 MiB at most.
const KICKOFF_BODIES: usize = 16;
/// Token requests that are answered at the same time; a form is 64 KiB at most.
const TOKEN_FORMS: usize = 32;
/// Files that are packed on the way to clients at the same time.
const PACKED_AT_ONCE: usize = 16;

/// Something to put around the object store that the configuration names.
pub(super) struct Through(pub(super) Box<WrapStore>);

type WrapStore = dyn FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send;

/// The same for what uploads in parts.
pub(super) struct ThroughParts(pub(super) Box<WrapParts>);

type WrapParts = dyn FnOnce(Arc<dyn MultipartStore>) -> Arc<dyn MultipartStore> + Send;

/// What it is made of beside the configuration.
pub(super) struct Parts {
    pub(super) store: Option<JobStore>,
    pub(super) output: Option<Arc<dyn ObjectStore>>,
    pub(super) through: Option<Through>,
    pub(super) uploads: Option<ThroughParts>,
}

/// What it shares with the rest.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) watch: &'a ClockWatch,
    pub(super) live: &'a Arc<LiveTraffic>,
    pub(super) ledger: &'a Ledger,
    pub(super) runtime: &'a Handle,
    pub(super) stop: &'a CancellationToken,
}

/// What answers bulk requests.
pub(super) struct Bulk {
    pub(super) edge: Arc<Edge>,
    pub(super) engine: watch::Receiver<Standing>,
    /// Copies the head of the ledger to the output.
    pub(super) heads: ledger::HeadCopy,
    /// Who is not exported.
    pub(super) excluded: ListFile,
    /// What the upstream is shown by searches, to be read anew.
    pub(super) rereadable: Rereadable,
    /// What tokens and clients are verified by, other than our own keys.
    pub(super) verified_by: MadeOf,
    /// By what links are signed.
    ring: LinkRing,
    /// The folder that keys are kept in, if there is one.
    state: Option<PathBuf>,
}

/// All that can be missing.
struct Found {
    output: Output,
    upstream: Upstream,
    rereadable: Rereadable,
    keys: LinkKeys,
    identity: Identity,
    access: Access,
}

/// Refuses what would lie open to others (SEC-40): no process starts on that.
///
/// # Errors
/// If a folder of ours is readable by others, or is none.
pub(super) fn look_at_folders(config: &Config, parts: &Parts) -> anyhow::Result<()> {
    if parts.store.is_none() {
        crate::store::private_folder(&config.store.path).context("could not make the state folder")?;
    }
    if parts.output.is_none() && matches!(config.output.place(), Ok(Location::File(_))) {
        Output::open(&config.output_that_signs()).context("could not open the output")?;
    }
    Ok(())
}

impl Bulk {
    /// Opens the output, makes or reads the keys, and begins to open the job store.
    ///
    /// # Errors
    /// If something cannot be used. Then it can be tried again by the same `parts`.
    pub(super) fn start(config: &Config, parts: &mut Parts, around: Around<'_>) -> anyhow::Result<Self> {
        let Found { output, upstream, rereadable, keys, identity, access } = find(config, parts, around)?;
        let Around { clock, watch, ledger, runtime, stop, .. } = around;
        let unwrapped = output.clone();
        let output = match parts.through.take() {
            Some(Through(wrap)) => output.through(wrap),
            None => output,
        };
        let output = match parts.uploads.take() {
            Some(ThroughParts(wrap)) => output.through_parts(wrap),
            None => output,
        };
        let output = output.leaving_free(config.output.min_free.map(Size::bytes));
        let state = &config.store.path;
        let capabilities = Capabilities::new(upstream.clone(), Arc::clone(clock));
        let ring = LinkRing::new(keys);
        let links = Links::new(config.server.bulk_base(), ring.clone(), config.output.link_ttl);
        let key_files = folder_of(state, parts).map_or_else(KeyFiles::none, |folder| {
            let server = if let Access::Server(server) = &access { Some(Arc::clone(server)) } else { None };
            let tokens = server.map(|server| (folder.join(smart::TOKEN_KEYS), server));
            KeyFiles::new((folder.join(LINK_KEY), ring.clone()), tokens)
        });
        if let Some(folder) = folder_of(state, parts) {
            let after = key_files.clone();
            let watching =
                watch_link_keys(ring.clone(), after, folder.to_owned(), config.output.link_ttl, Arc::clone(clock));
            let stopped = stop.clone();
            runtime.spawn(async move { stopped.run_until_cancelled(watching).await });
        }
        let heads = ledger::HeadCopy::new(ledger.clone(), unwrapped, identity.instance.clone());
        let excluded = ListFile::of(&config.policy);
        let assembly = Assembly {
            excluded: excluded.clone(),
            output: output.clone(),
            upstream: upstream.clone(),
            capabilities: capabilities.clone(),
            clock: Arc::clone(clock),
            watch: watch.clone(),
            ledger: ledger.clone(),
            heads: heads.clone(),
            identity,
            settings: engine_settings(config),
            public_bucket: config.output.public_bucket,
            runtime: runtime.clone(),
            began: clock::now(&**clock),
            registry: access.registry().map(Arc::clone),
        };
        if let Access::Server(server) = &access {
            let folder = folder_of(state, parts);
            let (server, after) = (Arc::clone(server), key_files.clone());
            runtime.spawn(smart::watch_keys(server, after, config, folder, Arc::clone(clock), stop.clone()));
        }
        let asked = upstream.clone();
        let its_time = move || asked.its_time();
        let timekeeping = timekeeping::keep_watch(watch.clone(), its_time, folder_of(state, parts).map(Path::to_owned));
        let stopped = stop.clone();
        runtime.spawn(async move { stopped.run_until_cancelled(timekeeping).await });
        let verified_by = MadeOf::new(smart::fingerprint(config).ok());
        let kept_in = folder_of(state, parts).map(Path::to_owned);
        let engine = assembly.open(parts.store.take().map(|store| store.store), state.clone(), stop.clone());
        let edge = Edge {
            engine: engine.clone(),
            upstream: upstream.urgent(),
            output,
            clock: Arc::clone(clock),
            watch: watch.clone(),
            ledger: ledger.clone(),
            links,
            key_files,
            link_mode: config.output.links,
            access,
            seats: seats(&config.server),
            coming: Places::default(),
            asking: Places::default(),
            forms: Arc::new(Semaphore::new(TOKEN_FORMS)),
            most_members: config.export.group_max_members,
            cohorts: cohorts(config),
            most_cohorts: config.export.cohorts_by_clients.then_some(config.export.max_cohorts_per_client),
            presets: presets(config),
            finds_provenance: config.export.provenance_by_target,
            organizes: config.export.organize_by_patient,
            least_file_max: config.output.least_file_max.bytes(),
            bodies: Semaphore::new(KICKOFF_BODIES),
            capabilities,
            terms: terms(config),
            polls: Polls::new(Arc::clone(clock), config.export.early_polls_per_second),
            runtime: runtime.clone(),
            sending: TaskTracker::new(),
            packing: Arc::new(Semaphore::new(PACKED_AT_ONCE)),
        };
        Ok(Self { edge: Arc::new(edge), engine, heads, excluded, rereadable, verified_by, ring, state: kept_in })
    }

    /// Takes up the keys that an operator has put in the place of those that sign tokens and links. Where none is any more,
    /// another one is made, and nothing is good that was signed before.
    ///
    /// # Errors
    /// If they cannot be read: then those in use stay so.
    pub(super) fn reread_keys(&self, config: &Config) -> anyhow::Result<()> {
        let Some(state) = &self.state else { return Ok(()) };
        let now = clock::now(&*self.edge.clock);
        let kept = || match kept_link_keys(state)? {
            Some(keys) => Ok(keys),
            None => replace_link_keys(state, None, config.output.link_ttl, now),
        };
        // Each by itself: one that cannot be read keeps none of another that was revoked.
        let links: anyhow::Result<LinkKeys> = kept();
        let links = links.map(|links| self.ring.replace(links));
        if let Access::Server(server) = &self.edge.access {
            server.use_keys(match smart::kept_token_keys(state)? {
                Some(keys) => keys,
                None => smart::replace_token_keys(&config.smart, state, None, now)?,
            });
        }
        // They may have been replaced once more meanwhile.
        self.edge.key_files.look_again();
        links
    }
}

/// SEC-06: as many as are configured, or as leave three of four file descriptors to others.
fn seats(config: &ServerConfig) -> Seats {
    let most = config.max_bulk_requests.unwrap_or_else(|| (open_files() / 4).max(1));
    Seats::new(most, config.max_bulk_requests_per_peer)
}

/// How many files this process may have open; where nobody says that, as many as are usual.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(1024)
}

/// The folder that keys are kept in: without one of ours nothing outlives the process.
fn folder_of<'a>(state: &'a Path, parts: &Parts) -> Option<&'a Path> {
    parts.store.is_none().then_some(state)
}

fn find(config: &Config, parts: &Parts, around: Around<'_>) -> anyhow::Result<Found> {
    let Around { clock, live, .. } = around;
    let state = &config.store.path;
    let output = match &parts.output {
        Some(output) => Output::of(Arc::clone(output)),
        None => Output::open(&config.output_that_signs()).context("could not open the output")?,
    };
    let shown = credentials::of_searches(&config.upstream, clock)?;
    let rereadable = Rereadable::new(&config.upstream, &shown.tls);
    let upstream = search_upstream(config, shown, clock, config.upstream.give_up_after, Arc::clone(live))?;
    let (keys, identity) = match &parts.store {
        Some(store) => (LinkKeys::new(new_key()?, None), store.identity()?),
        None => (link_keys(state, config.output.link_ttl, clock::now(&**clock))?, Identity::kept(state)?),
    };
    let access = smart::access(config, folder_of(state, parts), clock)?;
    Ok(Found { output, upstream, rereadable, keys, identity, access })
}

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
