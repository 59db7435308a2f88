//! The URLs that we hand out: all from the configured public base, never from a request's `Host` (DS-001).

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::fhir::datatypes::Millis;
use crate::job::JobId;
use crate::output::signing::{Link, LinkKeys, LinkRefused};

/// The keys of links as they are now. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LinkRing(Arc<RwLock<Arc<LinkKeys>>>);

impl LinkRing {
    pub(crate) fn new(keys: LinkKeys) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    pub(crate) fn keys(&self) -> Arc<LinkKeys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signs by others from now on.
    pub(crate) fn replace(&self, keys: LinkKeys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

/// Makes and checks our own URLs.
#[derive(Debug)]
pub(crate) struct Links {
    base: url::Url,
    /// The base without its scheme: what signatures are bound to.
    signed_base: String,
    keys: LinkRing,
    lifetime: Duration,
}

impl Links {
    pub(crate) fn new(base: url::Url, keys: LinkRing, lifetime: Duration) -> Self {
        let signed_base = base[url::Position::BeforeHost..url::Position::AfterPath].trim_end_matches('/').to_owned();
        Self { base, signed_base, keys, lifetime }
    }

    /// The path below which we are found.
    fn base_path(&self) -> &str {
        self.base.path().trim_end_matches('/')
    }

    /// A path and query of a request as a client would write the whole URL.
    pub(crate) fn public_url(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", &self.base[..url::Position::AfterPort])
    }

    /// Where to ask for a job.
    pub(crate) fn status(&self, job: JobId) -> String {
        format!("{}/$bulk-status/{job}", self.base())
    }

    /// Where a page of its manifest is.
    pub(crate) fn page(&self, job: JobId, number: usize) -> String {
        format!("{}/{number}", self.status(job))
    }

    /// Until when a link that is made now is good.
    pub(crate) fn expiry(&self, now: Millis) -> Millis {
        now.saturating_add(self.lifetime)
    }

    /// A link to one file, good until `expires`, to the second.
    pub(crate) fn file(&self, job: JobId, name: &str, expires: Millis) -> String {
        let job = job.to_string();
        let link = Link { base: &self.signed_base, job: &job, file: name };
        let query = self.keys.keys().sign(link, unix_seconds(expires));
        format!("{}/$bulk-file/{job}/{name}?{query}", self.base())
    }

    /// The address of one file, which is no right to it.
    pub(crate) fn stable_file(&self, job: JobId, name: &str) -> String {
        format!("{}/$bulk-file/{job}/{name}", self.base())
    }

    pub(crate) fn verify(&self, job: JobId, name: &str, query: Option<&str>, now: Millis) -> Result<(), LinkRefused> {
        let job = job.to_string();
        let link = Link { base: &self.signed_base, job: &job, file: name };
        self.keys.keys().verify(link, query.unwrap_or_default(), unix_seconds(now))
    }

    /// The base of all that is ours, without a slash at its end.
    pub(crate) fn base(&self) -> String {
        self.public_url(self.base_path())
    }
}

fn unix_seconds(time: Millis) -> u64 {
    u64::try_from(time.0.div_euclid(1000)).unwrap_or(0)
}
