//! Serves a configuration as a process, and heeds what it is told by signals.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Offtake;
use crate::config::Config;
use crate::telemetry::error_chain;

/// Serves a configuration until the process is told to stop. SIGHUP has its clients read anew from `file`.
pub(crate) async fn serve(config: Config, file: PathBuf) -> anyhow::Result<()> {
    let offtake = Offtake::builder(config).build()?;
    tokio::select! {
        served = offtake.run(told_to_stop()) => served,
        never = reload_when_told(&offtake, &file) => never,
    }
}

async fn reload_when_told(offtake: &Offtake, file: &Path) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut told = signal(SignalKind::hangup()).context("could not listen for SIGHUP")?;
    while told.recv().await.is_some() {
        let read = match Config::from_file(file) {
            Ok(config) => offtake.reload(&config),
            Err(error) => {
                offtake.reread_token();
                Err(error.into())
            }
        };
        if let Err(error) = read {
            tracing::error!(error = error_chain(&*error), "the clients stay as they were");
            // Whoever withdrew consent does not wait for the rest to be mended, nor do keys that were revoked.
            offtake.reread_excluded();
            offtake.reread_keys();
        }
    }
    std::future::pending().await
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupted = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
        }
        Err(_) => {
            let _interrupted = interrupted.await;
        }
    }
    tracing::info!("stopping: finishing what is under way");
}
