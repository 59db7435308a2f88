//! What an output has to be before anything is exported to it: ours, and private.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::assembly::{Assembly, STORE_PAUSE};
use crate::clock::Clock;
use crate::config::PublicBucket;
use crate::engine::{Engine, Standing};
use crate::output::Output;
use crate::output::exposure::Visit;
use crate::output::layout;
use crate::telemetry::error_chain;

/// How often an output that belongs to somebody else, or is public, is looked at again.
const PAUSE: Duration = Duration::from_secs(30);
/// The same of one that was private, or that cannot be seen from here.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

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
}

/// Watches whether a storage gives to anybody what it is to keep (SEC-31), whoever answers links to it.
pub(super) struct PrivacyWatch {
    output: Output,
    clock: Arc<dyn Clock>,
    public_bucket: PublicBucket,
}

/// What a look at the storage has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privacy {
    /// It is private, or an operator answers for it.
    Settled,
    /// It may not be: clients may reach what we do not, so that it holds nothing back.
    Unproven,
    Public,
}

impl PrivacyWatch {
    pub(super) fn of(assembly: &Assembly) -> Self {
        let Assembly { output, clock, public_bucket, .. } = assembly;
        Self { output: output.clone(), clock: Arc::clone(clock), public_bucket: *public_bucket }
    }

    /// Looks once; `before` is what was seen before. While the storage is public no file is written.
    pub(super) async fn look(&self, before: Privacy) -> Privacy {
        // On local disk nobody but us can ask.
        let Some(exposure) = self.output.exposure_of_marker(&*self.clock).await else { return Privacy::Settled };
        let (object, list) = (said(&exposure.object), said(&exposure.list));
        let privacy = match (exposure.is_open(), exposure.is_proven_private(), self.public_bucket) {
            (true, _, PublicBucket::Refused) => Privacy::Public,
            (true, _, PublicBucket::Acknowledged) | (false, true, _) => Privacy::Settled,
            // One that was public is not taken for private because it does not answer.
            (false, false, _) if before == Privacy::Public => Privacy::Public,
            (false, false, _) => Privacy::Unproven,
        };
        match privacy {
            Privacy::Public => tracing::error!(
                object,
                list,
                "the bucket is public: bulk requests are refused until it gives nothing to anybody without a signature; \
                 block public access, and remove policies, ACLs and access levels that name everybody"
            ),
            Privacy::Unproven => tracing::warn!(
                object,
                list,
                "whether the storage is private could not be proven from here; `offtake doctor` tells more"
            ),
            Privacy::Settled if exposure.is_open() => tracing::warn!(
                object,
                list,
                "the bucket is public, which output.public_bucket acknowledges: anybody can read what is exported or \
                 see what there is"
            ),
            Privacy::Settled => {}
        }
        self.output.withhold(privacy == Privacy::Public);
        privacy
    }

    /// Looks again and again, as a bucket can be opened at any time, and says how things stand. What is there can be removed all
    /// the time.
    pub(super) async fn go_on(&self, mut privacy: Privacy, engine: Engine, standing: &watch::Sender<Standing>) {
        let mut pause = PAUSE;
        loop {
            pause = match privacy {
                Privacy::Settled => LONGEST_PAUSE,
                Privacy::Public => PAUSE,
                Privacy::Unproven => pause.saturating_mul(2).min(LONGEST_PAUSE),
            };
            self.clock.sleep(pause).await;
            privacy = self.look(privacy).await;
            standing.send_replace(privacy.standing(&engine));
        }
    }
}

impl Privacy {
    /// What becomes of requests.
    pub(super) fn standing(self, engine: &Engine) -> Standing {
        match self {
            Self::Public => Standing::Public(engine.clone()),
            Self::Settled | Self::Unproven => Standing::Ready(engine.clone()),
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
