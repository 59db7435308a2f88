//! Kick-offs of one client that ask for the same share an export, where that is wanted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fhir::datatypes::Millis;
use crate::job::{Job, JobId, JobState};

/// Kick-offs that wait for each other although they do not ask for the same are that many times fewer.
const TURNS: usize = 16;

/// What a client asks for, with which rights, and where it is to go: its SHA-256.
pub(super) type Question = [u8; 32];

/// The exports that run or wait, by what is asked for.
#[derive(Debug, Default)]
pub(super) struct SharedExports {
    known: Mutex<HashMap<Question, JobId>>,
    /// Of those that ask for the same at once, one is recorded first.
    turns: [tokio::sync::Mutex<()>; TURNS],
}

impl SharedExports {
    /// What a job is for. Those of nobody are never shared: who is on the same machine is not one client.
    pub(super) fn question(job: &Job) -> Option<Question> {
        job.owner.client()?;
        // All but which of them it is, when it was begun, and how far it is.
        let asked = Job {
            id: JobId::new([0; 16]),
            consent: Millis(0),
            created: Millis(0),
            state: JobState::Accepted,
            ..job.clone()
        };
        let text = serde_json::to_vec(&asked).ok()?;
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text).as_ref().try_into().ok()
    }

    /// Waits until nobody records an export for the same question.
    pub(super) async fn turn(&self, question: Question) -> tokio::sync::MutexGuard<'_, ()> {
        self.turns[usize::from(question[0]) % TURNS].lock().await
    }

    /// The export that was recorded last for a question. It may have ended.
    pub(super) fn find(&self, question: Question) -> Option<JobId> {
        self.known().get(&question).copied()
    }

    pub(super) fn note(&self, question: Question, id: JobId) {
        self.known().insert(question, id);
    }

    /// An export has ended.
    pub(super) fn forget(&self, id: JobId) {
        self.known().retain(|_, known| *known != id);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Question, JobId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
