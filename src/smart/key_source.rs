//! A client's keys at its `jwks_uri`: fetched when they are needed, kept as long as their answer allows.
//!
//! Nobody can make us fetch at will: an unknown `kid` has the keys fetched once a minute at most, and keys that are too
//! old by their headers are fetched anew only once somebody has shown to have one of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use url::Url;

use super::client::ClientId;
use super::fetch::{FetchError, Fetcher};
use super::jwk::{JwksError, KeySet};
use super::jws::Alg;
use crate::clock::Clock;
use crate::telemetry::error_chain;

/// Pause between two fetches for one client, whoever asks.
const PAUSE: Duration = Duration::from_mins(1);
/// Clients whose keys are kept.
const MOST_CLIENTS: u64 = 10_000;

/// Fetches keys.
pub(crate) struct KeySource {
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    kept: Cache<Place, Arc<Fetched>>,
}

/// Whose keys, and where they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    client: ClientId,
    uri: Url,
}

/// What came of the latest fetches.
#[derive(Debug)]
struct Fetched {
    /// The last set that came.
    set: Option<Arc<KeySet>>,
    /// Until when it may be used without asking again, by the monotonic clock.
    fresh_until: Duration,
    /// When it was last asked for.
    tried: Duration,
}

/// Keys, and whether they may be relied on.
pub(crate) struct Found {
    pub(crate) set: Arc<KeySet>,
    /// If not: whoever has shown to have one of them is held against a [new](KeySource::anew) set.
    pub(crate) is_fresh: bool,
}

/// Why there are no keys. It is logged.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what came {0}")]
    Keys(#[from] JwksError),
}

impl KeySource {
    pub(crate) fn new(clock: Arc<dyn Clock>, fetcher: Fetcher) -> Self {
        Self { fetcher, clock, kept: Cache::builder().max_capacity(MOST_CLIENTS).build() }
    }

    /// The keys of a client, fetched if there are none yet, or none that `is_wanted`.
    pub(crate) async fn keys(
        &self,
        client: &ClientId,
        uri: &Url,
        is_wanted: impl Fn(&KeySet) -> bool + Send + Sync,
    ) -> Option<Found> {
        let now = self.clock.monotonic();
        self.fetched(client, uri, |old: &Arc<Fetched>| {
            let has_it = old.set.as_ref().is_some_and(|set| is_wanted(set));
            !has_it && now.saturating_sub(old.tried) >= PAUSE
        })
        .await
    }

    /// The keys of a client as they are now.
    pub(crate) async fn anew(&self, client: &ClientId, uri: &Url) -> Option<Found> {
        let now = self.clock.monotonic();
        // Of several who need it at once one fetches it for all.
        let found = self.fetched(client, uri, |old: &Arc<Fetched>| old.tried < now && old.fresh_until <= now).await;
        found.map(|found| Found { is_fresh: true, ..found })
    }

    async fn fetched(
        &self,
        client: &ClientId,
        uri: &Url,
        is_due: impl FnMut(&Arc<Fetched>) -> bool + Send,
    ) -> Option<Found> {
        let place = Place { client: client.clone(), uri: uri.clone() };
        let old = self.kept.get(&place).await;
        let fetch = self.fetch(client, uri, old);
        let entry = self.kept.entry(place).or_insert_with_if(fetch, is_due).await;
        let fetched = entry.into_value();
        let is_fresh = self.clock.monotonic() < fetched.fresh_until;
        fetched.set.clone().map(|set| Found { set, is_fresh })
    }

    async fn fetch(&self, client: &ClientId, uri: &Url, old: Option<Arc<Fetched>>) -> Arc<Fetched> {
        let asked = self.ask(uri).await;
        let tried = self.clock.monotonic();
        Arc::new(match asked {
            Ok((set, lifetime)) => {
                tracing::debug!(%client, "a client's keys were fetched");
                Fetched { set: Some(Arc::new(set)), fresh_until: tried.saturating_add(lifetime), tried }
            }
            Err(error) => {
                tracing::warn!(%client, error = error_chain(&error), "a client's keys at its jwks_uri cannot be had");
                // What is good still stays so; nothing else does.
                match old.filter(|old| tried < old.fresh_until) {
                    Some(old) => Fetched { set: old.set.clone(), fresh_until: old.fresh_until, tried },
                    None => Fetched { set: None, fresh_until: tried, tried },
                }
            }
        })
    }

    async fn ask(&self, uri: &Url) -> Result<(KeySet, Duration), KeysError> {
        let came = self.fetcher.get(uri).await?;
        Ok((KeySet::parse_fetched(&came.json, &Alg::SMART)?, came.lifetime))
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySource").finish_non_exhaustive()
    }
}
