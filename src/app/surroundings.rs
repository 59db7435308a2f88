//! What stands behind us, found out at the start and watched: whether it answers whoever reaches it (SEC-02), and whether it
//! publishes a SMART configuration of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{AcceptsAnonymous, Config, PassThroughMode, SmartMode};
use crate::http::door::Door;
use crate::proxy::PassThrough;
use crate::proxy::anonymous::Anonymous;

/// How soon a server that does not answer is asked again, and how often one that has answered.
const SOON: Duration = Duration::from_secs(2);
const OFTEN: Duration = Duration::from_secs(30);
const NOW_AND_THEN: Duration = Duration::from_mins(10);
/// How often it is asked for a document, if it does not say whether there is one.
const MOST_QUESTIONS: usize = 5;

/// Watches the server behind a listener by which requests pass through.
pub(super) struct Surroundings {
    upstream: PassThrough,
    clock: Arc<dyn Clock>,
    /// Where it matters whether it answers anybody.
    seen: Option<watch::Sender<Anonymous>>,
    /// The base whose SMART configuration is ours, where the server may publish one of its own for it.
    shadowed: Option<String>,
}

/// Whether bulk requests have to wait, at such a listener, for a server that refuses anonymous ones.
pub(super) fn is_watched(config: &Config) -> bool {
    config.server.pass_through == PassThroughMode::Forward
        && config.smart.mode != SmartMode::Open
        && config.upstream.accepts_anonymous == AcceptsAnonymous::Refused
}

impl Surroundings {
    /// The door that our routes are behind, and who watches over it.
    pub(super) fn new(config: &Config, upstream: PassThrough, clock: &Arc<dyn Clock>) -> (Door, Self) {
        let (door, seen) = if is_watched(config) {
            let (sender, receiver) = watch::channel(Anonymous::Unanswered);
            (Door::Watched { seen: receiver, clock: Arc::clone(clock) }, Some(sender))
        } else {
            (Door::Open, None)
        };
        let has_tokens = config.smart.mode != SmartMode::Open;
        let base = config.server.public_base_url.as_str().trim_end_matches('/').to_owned();
        if has_tokens && config.server.bulk_base_path.is_some() {
            let own = config.server.bulk_base();
            tracing::info!(
                "{own}/.well-known/smart-configuration is ours; {base}/.well-known/smart-configuration is the FHIR server's own"
            );
        }
        // Where the tokens are another issuer's, what the server publishes is left in its place.
        let is_ours = config.smart.mode == SmartMode::AuthorizationServer && config.server.bulk_base_path.is_none();
        let shadowed = is_ours.then_some(base);
        (door, Self { upstream, clock: Arc::clone(clock), seen, shadowed })
    }

    /// Looks until it is dropped, if there is anything to be looked at.
    pub(super) async fn watch(mut self) {
        let mut questions = 0;
        loop {
            // First what bulk requests wait for.
            let pause = match &self.seen {
                Some(seen) => look(&self.upstream, &*self.clock, seen).await,
                None => SOON,
            };
            let is_there = self.seen.as_ref().is_none_or(|seen| *seen.borrow() != Anonymous::Unanswered);
            if is_there && let Some(base) = &self.shadowed {
                questions += 1;
                let found = self.upstream.has_smart_configuration(&*self.clock).await;
                if let Some(found) = found {
                    tell_of_documents(base, found);
                }
                if found.is_some() || questions == MOST_QUESTIONS {
                    self.shadowed = None;
                }
            }
            if self.seen.is_none() && self.shadowed.is_none() {
                return;
            }
            self.clock.sleep(pause).await;
        }
    }
}

/// Looks once; how long it is until the next time.
async fn look(upstream: &PassThrough, clock: &dyn Clock, seen: &watch::Sender<Anonymous>) -> Duration {
    let now = upstream.asked_by_anybody(clock).await;
    let before = *seen.borrow();
    // A server that was seen is not taken for another one because it is away.
    if now == Anonymous::Unanswered {
        match before {
            Anonymous::Unanswered => {
                tracing::warn!(
                    "the FHIR server has not answered yet: bulk requests are refused until it was seen to refuse requests \
                     without credentials"
                );
                return SOON;
            }
            Anonymous::Accepted(_) => return OFTEN,
            Anonymous::Refused(_) => return NOW_AND_THEN,
        }
    }
    let has_changed = before != now;
    seen.send_replace(now);
    match now {
        Anonymous::Accepted(status) => {
            if has_changed {
                tracing::error!(
                    status = status.as_u16(),
                    "the FHIR server answers requests without credentials, and whoever reaches server.listen reaches it through \
                     Offtake: bulk requests are refused there. Have it ask for credentials; or let bulk clients come by \
                     server.bulk_listen, where nothing passes through; or set server.pass_through: off; or, if whoever reaches \
                     us may read it, upstream.accepts_anonymous: acknowledged"
                );
            }
            OFTEN
        }
        Anonymous::Refused(status) => {
            if has_changed {
                tracing::info!(status = status.as_u16(), "the FHIR server refuses requests without credentials");
            }
            NOW_AND_THEN
        }
        Anonymous::Unanswered => SOON,
    }
}

fn tell_of_documents(base: &str, is_there: bool) {
    if is_there {
        tracing::warn!(
            "{base}/.well-known/smart-configuration is ours, in the place of one that the FHIR server publishes for its own \
             users: set server.bulk_base_path, and they keep theirs"
        );
    } else {
        tracing::info!("{base}/.well-known/smart-configuration is ours; the FHIR server has none");
    }
}
