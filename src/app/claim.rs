//! What an output has to be before anything is exported to it: ours, and private where the storage itself answers links.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::{Assembly, STORE_PAUSE};
use crate::config::PublicBucket;
use crate::engine::Standing;
use crate::output::exposure::Visit;
use crate::output::layout;
use crate::telemetry::error_chain;

/// How often an output that belongs to somebody else, or is public, is looked at again.
const PAUSE: Duration = Duration::from_secs(30);

impl Assembly {
    /// Waits until the output is ours (SEC-32): before that nothing of it is written or removed.
    pub(super) async fn claim_output(&self, state: &Path, standing: &watch::Sender<Standing>) {
        loop {
            let claimed = async { Ok::<_, anyhow::Error>(self.output.claim(&self.identity.owner(state)?).await?) };
            match claimed.await {
                Ok(true) => return,
                Ok(false) => {
                    tracing::error!(
                        marker = layout::MARKER,
                        "the output belongs to another instance, or to another job store of this one: bulk requests are \
                         refused and nothing is removed; give this process an output of its own, rebuild a lost job store \
                         by `offtake jobs recover`, or remove the marker"
                    );
                    standing.send_replace(Standing::Foreign);
                    self.clock.sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(
                        error = error_chain(&*error),
                        "the output cannot be claimed; bulk requests wait for it"
                    );
                    self.clock.sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// Waits until the storage refuses what no signature asks for (SEC-31), where it answers links itself. One that cannot
    /// be asked from here is not held back: clients may reach what we do not.
    pub(super) async fn prove_private(&self, standing: &watch::Sender<Standing>) {
        if self.output.signs_for().is_none() {
            return;
        }
        loop {
            let Some(exposure) = self.output.exposure_of_marker(&*self.clock).await else { return };
            let (object, list) = (said(&exposure.object), said(&exposure.list));
            if !exposure.is_open() {
                if !exposure.is_proven_private() {
                    tracing::warn!(
                        object,
                        list,
                        "whether the storage is private could not be proven from here; `offtake doctor` tells more"
                    );
                }
                return;
            }
            if self.public_bucket == PublicBucket::Acknowledged {
                tracing::warn!(
                    object,
                    list,
                    "the bucket is public, which output.public_bucket acknowledges: anybody can read what is exported or \
                     see what there is"
                );
                return;
            }
            tracing::error!(
                object,
                list,
                "the bucket is public: bulk requests are refused until it gives nothing to anybody without a signature; \
                 block public access, and remove policies, ACLs and access levels that name everybody"
            );
            standing.send_replace(Standing::Public);
            self.clock.sleep(PAUSE).await;
        }
    }
}

fn said(visit: &Visit) -> &'static str {
    match visit {
        Visit::Untried => "untried",
        Visit::Refused(_) => "refused",
        Visit::Unclear(_) => "unclear",
        Visit::Unanswered(_) => "unanswered",
        Visit::Open => "open",
    }
}
