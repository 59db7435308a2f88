//! The ledger as the configuration says, the copies of its head beside the output, and the commands that read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::clock::watch::ClockWatch;
use crate::config::{Config, ForwardTo};
use crate::ledger::{Fault, Ledger, Settings, Target};
use crate::output::{Output, OutputError, layout};
use crate::telemetry::error_chain;

pub(crate) mod commands;

/// How often the head is copied.
const COPY_EVERY: Duration = Duration::from_hours(1);

/// Opens the ledger that a configuration names, or none.
pub(super) fn start(
    config: &Config,
    fault: Option<Fault>,
    watch: &ClockWatch,
    runtime: &tokio::runtime::Handle,
) -> Ledger {
    let ledger = &config.ledger;
    if !ledger.enabled {
        return Ledger::off();
    }
    let forward = ledger.forward_to().ok().flatten().map(|target| match target {
        ForwardTo::File(path) => Target::File(path),
        ForwardTo::Unix(path) => Target::Unix(path),
        ForwardTo::Udp(address) => Target::Udp(address),
    });
    let settings = Settings {
        folder: ledger.folder(&config.store.path),
        key_file: ledger.key(&config.store.path),
        head_copies: ledger.head_copies.clone(),
        retention: ledger.retention(),
        forward,
        server: config.server.public_base_url.to_string(),
        fault,
    };
    Ledger::start(settings, watch.clone(), runtime)
}

/// Copies the head of the ledger to an object in the output. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct HeadCopy {
    ledger: Ledger,
    output: Output,
    key: String,
    /// The output is ours: before that nothing of it is written.
    is_ours: Arc<AtomicBool>,
}

impl HeadCopy {
    pub(super) fn new(ledger: Ledger, output: Output, instance: String) -> Self {
        Self { ledger, output, key: layout::ledger_head(&instance), is_ours: Arc::default() }
    }

    /// Copies it every hour. Only for an output that was claimed.
    pub(super) async fn go_on(&self, clock: &dyn Clock) {
        self.is_ours.store(true, Ordering::SeqCst);
        loop {
            clock.sleep(COPY_EVERY).await;
            self.copy().await;
        }
    }

    /// Copies it now. A copy that the ledger does not hold is evidence, and stays.
    pub(super) async fn copy(&self) {
        if !self.is_ours.load(Ordering::SeqCst) {
            return;
        }
        let Some(Ok(head)) = self.ledger.head().await else { return };
        let copied = async {
            match self.output.get(&self.key).await {
                Ok(copy) if copy.as_ref() == head.as_slice() => return Ok(()),
                Ok(copy) if !self.ledger.holds(copy.to_vec()).await.unwrap_or(false) => {
                    tracing::error!(
                        object = self.key,
                        "the copy of the ledger's head beside the output is of records that the ledger does not hold: run \
                         `offtake ledger verify`; the copy is left as it is"
                    );
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
            self.output.check_private()?;
            self.output.put_again(&self.key, head).await?;
            Ok::<_, OutputError>(())
        };
        if let Err(error) = copied.await {
            tracing::warn!(error = error_chain(&error), "the head of the ledger could not be copied to the output");
        }
    }
}
