//! By what it is known whether a configuration, and what the files hold that it names, is as it was: then nothing that was made
//! of it is thrown away by SIGHUP, such as keys and tokens that somebody would have to be asked for again.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;

/// The digest of all that something was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(options: &impl Serialize, files: &[Vec<u8>]) -> anyhow::Result<Self> {
        let mut context = Context::new(&SHA256);
        let options = serde_json::to_vec(options)?;
        for part in std::iter::once(&options).chain(files) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Ok(Self(digest))
    }
}

/// What something was made of last.
#[derive(Debug, Default)]
pub(super) struct MadeOf(Mutex<Option<Fingerprint>>);

impl MadeOf {
    pub(super) fn new(made_of: Option<Fingerprint>) -> Self {
        Self(Mutex::new(made_of))
    }

    pub(super) fn is(&self, now: Fingerprint) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == Some(now)
    }

    pub(super) fn set(&self, now: Fingerprint) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}
