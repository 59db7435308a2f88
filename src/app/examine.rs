//! `offtake doctor`: the upstream and the storage of a configuration, each looked at whatever becomes of the other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::assembly::JOBS;
use super::identity::{CHECKPOINT_KEY, INSTANCE, STORE_IDENTITY, hex, known, owner};
use super::keys::{LINK_KEY, already_kept, kept_link_keys};
use super::{credentials, expiries, live_traffic, new_key, pass_through, search_upstream, smart};
use crate::clock::{self, Clock, SystemClock};
use crate::config::{AcceptsAnonymous, Config, Location, OutputConfig, PassThroughMode, PublicBucket, Size, SmartMode};
use crate::doctor::anonymous::{Anonymity, Reach};
use crate::doctor::expiries::Expiries;
use crate::doctor::files::{Kept, StateFiles};
use crate::doctor::own_export::OwnExports;
use crate::doctor::storage::{self, Opened, Owner, State, Storage};
use crate::doctor::{self, Examination};
use crate::output::Output;
use crate::output::examine::Findings;
use crate::output::layout;
use crate::output::signing::LinkKeys;
use crate::telemetry::error_chain;
use crate::upstream::capabilities::Capabilities;

/// What was found out.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) anonymity: anyhow::Result<Anonymity>,
    pub(crate) own_exports: anyhow::Result<OwnExports>,
    pub(crate) upstream: anyhow::Result<Examination>,
    pub(crate) storage: anyhow::Result<Storage>,
    pub(crate) files: StateFiles,
    pub(crate) expiries: Expiries,
    /// The issuer of access tokens and what was had of it, where there is one.
    pub(crate) issuer: Option<anyhow::Result<String>>,
}

/// How long one question may fail while somebody waits for what doctor finds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the storage may take for a request, with its body, and for one that is sent again.
const STORAGE_REQUEST: Duration = Duration::from_secs(20);
const STORAGE_RETRY: Duration = Duration::from_secs(5);

/// What doctor finds out about a configuration.
pub(crate) async fn examine(config: &Config) -> Examined {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (anonymity, own_exports, upstream, storage, issuer) = tokio::join!(
        Box::pin(anonymity(config, &clock)),
        Box::pin(own_exports(config, &clock)),
        Box::pin(upstream(config, &clock)),
        Box::pin(examine_storage(config, &clock)),
        Box::pin(examine_issuer(config, &clock))
    );
    let expiries = expiries::examine(config, clock::now(&*clock));
    Examined { anonymity, own_exports, upstream, storage, files: state_files(config), expiries, issuer }
}

/// The files of the state folder that `serve` reads at its start. None is made.
fn state_files(config: &Config) -> StateFiles {
    fn state<T>(found: anyhow::Result<Option<T>>) -> Kept {
        match found {
            Ok(Some(_)) => Kept::Good,
            Ok(None) => Kept::Absent,
            Err(error) => Kept::Bad(error_chain(&*error)),
        }
    }
    let folder = &config.store.path;
    let mut files = vec![
        (LINK_KEY, state(kept_link_keys(folder))),
        (CHECKPOINT_KEY, state(already_kept::<32>(&folder.join(CHECKPOINT_KEY)))),
        (INSTANCE, state(already_kept::<8>(&folder.join(INSTANCE)))),
    ];
    if config.smart.mode == SmartMode::AuthorizationServer {
        files.push((smart::TOKEN_KEYS, state(smart::kept_token_keys(folder))));
    }
    StateFiles(files)
}

async fn anonymity(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Anonymity> {
    let through = pass_through(config, &Arc::new(live_traffic(config, clock)))?;
    let reach = match (config.server.pass_through, config.upstream.accepts_anonymous) {
        (PassThroughMode::Off, _) => Reach::Nobody,
        (PassThroughMode::Forward, _) if config.smart.mode == SmartMode::Open => Reach::OpenMode,
        (PassThroughMode::Forward, AcceptsAnonymous::Acknowledged) => Reach::Acknowledged,
        (PassThroughMode::Forward, AcceptsAnonymous::Refused) => Reach::Watched,
    };
    let seen = through.asked_by_anybody(&**clock).await;
    Ok(Anonymity { seen, reach, listens_apart: config.server.bulk_listen.is_some() })
}

async fn examine_issuer(config: &Config, clock: &Arc<dyn Clock>) -> Option<anyhow::Result<String>> {
    if config.smart.mode != SmartMode::External {
        return None;
    }
    let examined = async {
        let verifier = smart::issuer::verifier(config, config.server.bulk_base().as_str(), clock)?;
        let found = verifier.examine().await.context("could not use the issuer of access tokens")?;
        Ok(format!("{:<14}{:<15} {found}\n", "issuer", "answers"))
    };
    Some(examined.await)
}

/// SEC-03: at each level, directly and in a batch.
async fn own_exports(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<OwnExports> {
    let live = Arc::new(live_traffic(config, clock));
    let upstream = search_upstream(config, credentials::of_searches(&config.upstream, clock)?, clock, PATIENCE, live)?;
    // First: by it is known where the server's links lead.
    let stated = upstream.states_own_exports().await;
    let (direct, batch) = (upstream.try_own_exports().await, upstream.try_own_exports_in_a_batch().await);
    Ok(OwnExports { stated, direct, batch })
}

async fn upstream(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Examination> {
    let live = Arc::new(live_traffic(config, clock));
    let options = &config.upstream;
    let upstream = search_upstream(config, credentials::of_searches(options, clock)?, clock, PATIENCE, live)?;
    let searches = options.max_concurrent_searches;
    let capabilities = Capabilities::new(upstream.clone(), Arc::clone(clock));
    let (preset, profile) = (&options.preset, &options.profile);
    let examined =
        doctor::examine(&upstream, &capabilities, preset, profile, options.page_max_resources, searches).await?;
    Ok(examined)
}

async fn examine_storage(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Storage> {
    let options = &config.output;
    let state = match options.place() {
        // It is not made here: it would belong to whoever asks for this.
        Ok(Location::File(folder)) if !folder.try_exists().unwrap_or(true) => State::Missing,
        _ => match Output::open(&impatient(options)) {
            Err(error) => State::Unopened(error_chain(&error)),
            Ok(output) => {
                let output = output.leaving_free(options.min_free.map(Size::bytes));
                State::Opened(Box::new(Box::pin(opened(&output, config, clock)).await?))
            }
        },
    };
    Ok(Storage { location: options.location.clone(), state })
}

/// The same without the patience that an export has.
fn impatient(options: &OutputConfig) -> OutputConfig {
    let mut options = options.clone();
    options.http.request_timeout = options.http.request_timeout.min(STORAGE_REQUEST);
    options.http.retry = options.http.retry.min(STORAGE_RETRY);
    options
}

async fn opened(output: &Output, config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Opened> {
    let options = &config.output;
    let signing = output.signing();
    let own_links = match signing {
        Some(_) => None,
        None => Some(storage::own_links_hold(&LinkKeys::new(new_key()?, None), &LinkKeys::new(new_key()?, None))),
    };
    let owner = owner_of(output, &config.store.path).await;
    let name = hex(clock::random()?);
    let findings = match owner {
        Owner::Nobody | Owner::Us => output.examine(&**clock, &name).await,
        // That asks, and writes nothing.
        Owner::SomebodyElse | Owner::Unknown(_) => {
            Findings { exposure: output.exposure_of_marker(&**clock).await, ..Findings::default() }
        }
    };
    Ok(Opened {
        owner,
        room: output.room(),
        signing,
        own_links,
        link_ttl: options.link_ttl,
        is_acknowledged: options.public_bucket == PublicBucket::Acknowledged,
        folder: format!("{}/{name}", layout::DOCTOR),
        findings,
    })
}

/// Whose the output is, by its mark and by what is in the state folder, of which nothing is made here.
async fn owner_of(output: &Output, state: &Path) -> Owner {
    let mark = match output.owner().await {
        Ok(mark) => mark,
        Err(error) => return Owner::Unknown(error_chain(&error)),
    };
    let Some(mark) = mark else { return Owner::Nobody };
    let instance = known(&state.join(INSTANCE));
    let store = known(&state.join(JOBS).join(STORE_IDENTITY));
    match (instance, store) {
        (Ok(Some(instance)), Ok(Some(store))) if mark == owner(&instance, &store).as_bytes() => Owner::Us,
        (Ok(_), Ok(_)) => Owner::SomebodyElse,
        (Err(error), _) | (_, Err(error)) => {
            Owner::Unknown(format!("the state folder cannot be read ({}): be who serve is", error.kind()))
        }
    }
}
