//! The upstream, as requests pass through to it and as exports search it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::{care, credentials};
use crate::clock::Clock;
use crate::config::Config;
use crate::profile::{Profile, Protocol};
use crate::proxy::{Bases, PassThrough};
use crate::upstream::budget::Budget;
use crate::upstream::client::{Channel, Patience, Upstream};
use crate::upstream::connect::{PassThroughClient, Protocols, SearchClient};
use crate::upstream::live::LiveTraffic;

/// What requests pass through by.
pub(super) fn pass_through(config: &Config, live: &Arc<LiveTraffic>) -> anyhow::Result<PassThrough> {
    let base = &config.upstream.base_url;
    let scheme = base.scheme().parse().context("could not read the scheme of upstream.base_url")?;
    let authorities = credentials::of_pass_through(&config.upstream)?;
    let client = PassThroughClient::new(&scheme, &authorities);
    let client = client.context("could not set up connections to the upstream")?;
    let bases = Bases::new(&config.server.public_base_url, base).context("could not set up the proxy")?;
    let bases = bases.with_identity(config.server.identity_headers());
    Ok(PassThrough::new(client, bases, Arc::clone(live)))
}

/// What passes through, as exports make way for it.
pub(super) fn live_traffic(config: &Config, clock: &Arc<dyn Clock>) -> LiveTraffic {
    let rise = config.upstream.yield_to_live_traffic.latency_rise_percent;
    LiveTraffic::new(Arc::clone(clock), f32::from(rise) / 100.0)
}

/// The upstream as exports ask it.
pub(super) fn search_upstream(
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
