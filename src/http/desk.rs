//! Where bulk requests are handled: nowhere as long as something that this needs cannot be used, such as a key whose file is
//! damaged. Whoever only passes through never waits for that.

use std::sync::{Arc, OnceLock};

use super::Edge;
use crate::config::SmartMode;
use crate::ledger::Ledger;
use crate::smart::discovery::Endpoints;

/// What handles bulk requests, from when on it could be put together. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    edge: Arc<OnceLock<Arc<Edge>>>,
    /// Where refusals are recorded, also before that.
    pub(super) ledger: Ledger,
    mode: SmartMode,
    /// The base that access tokens are for.
    base: Arc<str>,
}

impl Desk {
    /// One at which nobody is yet.
    pub(crate) fn empty(ledger: Ledger, mode: SmartMode, base: &str) -> Self {
        Self { edge: Arc::default(), ledger, mode, base: Endpoints::below(base).base.into() }
    }

    /// Bulk requests are handled from now on. Who was first stays.
    pub(crate) fn open(&self, edge: Arc<Edge>) {
        let _first_stays = self.edge.set(edge);
    }

    /// Whether bulk requests are handled.
    pub(crate) fn is_attended(&self) -> bool {
        self.edge.get().is_some()
    }

    pub(super) fn edge(&self) -> Option<&Arc<Edge>> {
        self.edge.get()
    }

    /// The base that we issue tokens for, if we do: such a token goes to nobody else (SEC-05), whatever cannot be used.
    pub(super) fn tokens_of(&self) -> Option<&str> {
        (self.mode == SmartMode::AuthorizationServer).then_some(&*self.base)
    }
}
