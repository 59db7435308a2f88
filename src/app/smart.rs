//! Who may ask by a configuration: its clients, and whose tokens they show, ours or those of another issuer.

pub(super) mod issuer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::fingerprint::{Fingerprint, MadeOf};
use super::keys::keep;
use crate::clock::{self, Clock, SystemClock};
use crate::config::{ClientConfig, ClientOutputConfig, Config, SmartConfig, SmartMode};
use crate::fhir::datatypes::Millis;
use crate::http::Access;
use crate::http::guard::Exposure;
use crate::http::key_files::KeyFiles;
use crate::smart::access_token::{Made, TokenKeys};
use crate::smart::client::ClientId;
use crate::smart::delivery::Delivery;
use crate::smart::external::ExternalIssuer;
use crate::smart::fetch::Fetcher;
use crate::smart::generate;
use crate::smart::jwk::KeySet;
use crate::smart::key_source::KeySource;
use crate::smart::scope::Scopes;
use crate::smart::server::{AuthorizationServer, Client, ClientKeys, Clients};
use crate::telemetry::error_chain;

/// The file in the state folder that the keys are kept in which sign access tokens (SEC-16).
pub(super) const TOKEN_KEYS: &str = "token.keys";
/// How often it is looked whether those are too old.
const LOOK_EVERY: Duration = Duration::from_hours(1);
/// Largest JWK Set in a file.
const MOST_JWKS_BYTES: u64 = 1024 * 1024;

/// How it is known who may ask. `state` is the folder that keys are kept in, if there is one.
pub(super) fn access(config: &Config, state: Option<&Path>, clock: &Arc<dyn Clock>) -> anyhow::Result<Access> {
    let smart = &config.smart;
    match smart.mode {
        SmartMode::Open => {
            let exposure = if smart.open_to_everyone { Exposure::Anywhere } else { Exposure::ThisMachine };
            Ok(Access::Open { exposure })
        }
        SmartMode::AuthorizationServer => {
            let clients = usable(config, &Clients::new());
            let source = key_source(smart, clock)?;
            let keys = token_keys(smart, state, None, clock::now(&**clock))?;
            let base = config.server.bulk_base();
            let server =
                AuthorizationServer::new(base.as_str(), clients, keys, source, smart.token_lifetime, Arc::clone(clock));
            Ok(Access::Server(Arc::new(server)))
        }
        SmartMode::External => {
            let clients = usable(config, &Clients::new());
            let base = config.server.bulk_base();
            issuer::warn(&smart.issuer, base.as_str());
            let verifier = issuer::verifier(config, base.as_str(), clock)?;
            let issuer = ExternalIssuer::new(base.as_str(), clients, verifier);
            Ok(Access::External(Arc::new(issuer)))
        }
    }
}

/// What fetches the keys of these clients.
fn key_source(smart: &SmartConfig, clock: &Arc<dyn Clock>) -> anyhow::Result<KeySource> {
    let mut addresses = smart.clients.iter().filter_map(|client| client.jwks_uri.as_ref());
    let has_https = addresses.any(|uri| uri.url().scheme() == "https");
    let fetcher = Fetcher::new(Arc::clone(clock), smart.private_hosts(), has_https);
    let fetcher = fetcher.context("could not set up connections to the clients' jwks_uri")?;
    Ok(KeySource::new(Arc::clone(clock), fetcher))
}

/// Of all that tokens and assertions are verified by, but for keys that a client has given us.
pub(super) fn fingerprint(config: &Config) -> anyhow::Result<Fingerprint> {
    let SmartConfig { clients, issuer, .. } = &config.smart;
    let places: Vec<_> = clients.iter().map(|client| (&client.client_id, &client.jwks_uri)).collect();
    let introspection = &issuer.introspection;
    let files = [&introspection.client_secret_file, &introspection.key_file].into_iter().flatten();
    let files = files.map(|file| super::secrets::file(file)).collect::<anyhow::Result<Vec<_>>>()?;
    // An issuer does not depend on who its clients are.
    let places = (config.smart.mode == SmartMode::AuthorizationServer).then_some(places);
    Fingerprint::of(&(places, issuer, &config.smart.jwks_private_hosts), &files)
}

/// Whether a configuration can be taken up by a process that knows in this way who may ask.
///
/// # Errors
/// If it says that there is another way.
pub(super) fn ensure_same_mode(access: &Access, mode: SmartMode) -> anyhow::Result<()> {
    match (access, mode) {
        (Access::Open { .. }, _) => anyhow::bail!("smart.mode was open at the start: there are no clients"),
        (Access::Server(_), SmartMode::AuthorizationServer) | (Access::External(_), SmartMode::External) => Ok(()),
        (Access::Server(_), SmartMode::Open | SmartMode::External)
        | (Access::External(_), SmartMode::Open | SmartMode::AuthorizationServer) => {
            anyhow::bail!("smart.mode is another one than at the start, which only a restart can change")
        }
    }
}

/// Takes up the clients that a configuration of the same mode names now, and what it says of another issuer. A client whose keys
/// cannot be read has those that it had, and holds up nothing that is said of the others; nor does an issuer of whom something
/// cannot be read: that one stays as it was.
pub(super) fn reload(access: &Access, verified_by: &MadeOf, config: &Config, clock: &Arc<dyn Clock>) {
    let smart = &config.smart;
    // First who may ask (SEC-14), whatever becomes of the rest.
    let now = fingerprint(config);
    let is_as_it_was = now.as_ref().is_ok_and(|now| verified_by.is(*now));
    let rest = match access {
        Access::Open { .. } => Ok(()),
        Access::Server(server) => {
            let registry = server.registry();
            registry.replace(usable(config, &registry.clients()));
            // What was fetched is kept as long as was allowed.
            if is_as_it_was { Ok(()) } else { key_source(smart, clock).map(|source| server.use_source(source)) }
        }
        Access::External(issuer) => {
            let registry = issuer.registry();
            registry.replace(usable(config, &registry.clients()));
            if is_as_it_was {
                // What it has withdrawn is good no more; while it cannot be asked, what it said is.
                issuer.look_again();
                Ok(())
            } else {
                issuer::verifier(config, issuer.base(), clock).map(|verifier| issuer.use_verifier(verifier))
            }
        }
    };
    if rest.is_ok()
        && let Ok(now) = now
    {
        verified_by.set(now);
    }
    if let Err(error) = rest {
        tracing::error!(
            error = error_chain(&*error),
            "how the tokens and keys of clients are verified stays as it was"
        );
    }
}

/// Finds what cannot be told from a configuration alone: what is wrong with the files that it names.
///
/// # Errors
/// All of it.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    clients(&config.smart)?;
    if config.smart.mode == SmartMode::External {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        issuer::verifier(config, config.server.bulk_base().as_str(), &clock)?;
    }
    Ok(())
}

/// The clients at a start or after a reload. What is wrong with one of them is no reason to let nothing through to the upstream,
/// nor to let another one keep what it may not have any more: it has the keys that it had `before`, or gets no tokens, and its
/// exports are kept.
fn usable(config: &Config, before: &Clients) -> Clients {
    let (smart, mut clients) = (&config.smart, Clients::new());
    for (number, of_client) in smart.clients.iter().enumerate() {
        let read = client(smart.mode, of_client).or_else(|error| {
            let error = error_chain(&*error);
            tracing::error!(
                error,
                "smart.clients[{number}] has the keys that it had, if any, until a restart or SIGHUP after it is mended"
            );
            let mut client = named(of_client, ClientKeys::Unreadable)?;
            if let Some(before) = before.get(&client.id) {
                client.keys = before.keys.clone();
            }
            Ok::<_, anyhow::Error>(client)
        });
        match read {
            Ok(mut client) => {
                if !config.export.cohorts_by_clients {
                    client.scopes = client.scopes.reading();
                }
                clients.insert(client.id.clone(), Arc::new(client));
            }
            Err(error) => tracing::error!(error = error_chain(&*error), "smart.clients[{number}] is left out"),
        }
    }
    clients
}

/// The clients that a configuration names.
///
/// # Errors
/// All that is wrong with them and their files.
fn clients(smart: &SmartConfig) -> anyhow::Result<Clients> {
    let mut clients = Clients::new();
    let mut problems = Vec::new();
    for (number, config) in smart.clients.iter().enumerate() {
        match client(smart.mode, config) {
            Ok(client) => drop(clients.insert(client.id.clone(), Arc::new(client))),
            Err(problem) => problems.push(format!("smart.clients[{number}].{}", error_chain(&*problem))),
        }
    }
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(clients)
}

fn client(mode: SmartMode, config: &ClientConfig) -> anyhow::Result<Client> {
    if mode == SmartMode::External {
        return named(config, ClientKeys::Elsewhere);
    }
    let keys = match (&config.jwks, &config.jwks_file, &config.jwks_uri) {
        (Some(jwks), None, None) => ClientKeys::Registered(KeySet::of(jwks).context("jwks")?),
        (None, Some(path), None) => {
            let json = read(path).with_context(|| format!("jwks_file {} cannot be read", path.display()))?;
            ClientKeys::Registered(KeySet::parse(&json).with_context(|| format!("jwks_file {}", path.display()))?)
        }
        (None, None, Some(uri)) => ClientKeys::At(uri.clone()),
        _ => anyhow::bail!("jwks: the keys are not given in exactly one way"),
    };
    named(config, keys)
}

fn named(config: &ClientConfig, keys: ClientKeys) -> anyhow::Result<Client> {
    let id = ClientId::parse(&config.client_id).context("client_id")?;
    let scopes = Scopes::parse(&config.scope).context("scope")?;
    let ClientOutputConfig { folder, links, sse_kms_key_id } = config.output.clone();
    let delivery = Delivery { folder, sse_kms_key_id };
    let (policy, quotas) = config.policy.read().map_err(|wrong| {
        let wrong: Vec<_> = wrong.iter().map(|(option, problem)| format!("policy.{option} {problem}")).collect();
        anyhow::anyhow!("{}", wrong.join("; "))
    })?;
    let (release, policy) = (config.bulk_data_version, Arc::new(policy));
    Ok(Client { id, scopes, keys, delivery, links, release, policy, quotas })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut json = Vec::new();
    std::fs::File::open(path)?.take(MOST_JWKS_BYTES).read_to_end(&mut json)?;
    Ok(json)
}

/// The keys that sign tokens: read, made on the first start, and replaced if they are too old. Those `in_use` are what is
/// replaced if there is nothing to be read.
fn token_keys(
    smart: &SmartConfig,
    state: Option<&Path>,
    in_use: Option<&TokenKeys>,
    now: Millis,
) -> anyhow::Result<TokenKeys> {
    let Some(state) = state else { return Ok(new_keys(smart, in_use, now)?.keys) };
    match kept_token_keys(state)? {
        Some(known) if !known.is_due(now, millis(smart.token_key_lifetime)) => Ok(known),
        before => replace_token_keys(smart, state, before.as_ref().or(in_use), now),
    }
}

/// Makes another key, beside which what those `before` have signed is good for as long as tokens live.
pub(super) fn replace_token_keys(
    smart: &SmartConfig,
    state: &Path,
    before: Option<&TokenKeys>,
    now: Millis,
) -> anyhow::Result<TokenKeys> {
    let made = new_keys(smart, before, now)?;
    let path = state.join(TOKEN_KEYS);
    keep(&path, made.text.as_bytes()).with_context(|| format!("could not make {}", path.display()))?;
    Ok(made.keys)
}

/// Those that were kept, if there are any.
pub(super) fn kept_token_keys(state: &Path) -> anyhow::Result<Option<TokenKeys>> {
    let path = state.join(TOKEN_KEYS);
    let context = || format!("could not read {}", path.display());
    match std::fs::read(&path) {
        Ok(text) => Ok(Some(TokenKeys::read(&text).with_context(context)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(context),
    }
}

fn new_keys(smart: &SmartConfig, before: Option<&TokenKeys>, now: Millis) -> anyhow::Result<Made> {
    Ok(TokenKeys::made(&generate::pkcs8_es384()?, before, now, millis(smart.token_lifetime))?)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Replaces the keys that sign tokens whenever they have become too old, until the process stops.
pub(super) fn watch_keys(
    server: Arc<AuthorizationServer>,
    files: KeyFiles,
    config: &Config,
    state: Option<&Path>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let (smart, state) = (config.smart.clone(), state.map(Path::to_owned));
    async move {
        let lifetime = smart.token_key_lifetime;
        let every = LOOK_EVERY.min(lifetime / 4);
        while stop.run_until_cancelled(clock.sleep(every)).await.is_some() {
            let now = clock::now(&*clock);
            if !server.keys().is_due(now, millis(lifetime)) {
                continue;
            }
            match token_keys(&smart, state.as_deref(), Some(&server.keys()), now) {
                Ok(keys) => {
                    server.use_keys(keys);
                    files.look_again();
                    tracing::info!("the key that signs access tokens was replaced");
                }
                // The one before it is as good as it was.
                Err(error) => tracing::error!(
                    error = error_chain(&*error),
                    "the key that signs access tokens could not be replaced"
                ),
            }
        }
    }
}
