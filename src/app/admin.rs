//! What operators see of a process that serves: its token, and how all stands.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::runtime::Runtime;

use super::{App, Offtake, secrets, warnings};
use crate::admin::{Admin, Found, Jobs, Key, Snapshot, Token};
use crate::clock;
use crate::clock::watch::Standing as ClockStanding;
use crate::config::{AdminConfig, Config, LEAST_TOKEN, PassThroughMode, SecretSource};
use crate::engine::Standing;
use crate::expiry::Expiring;
use crate::http::door::{Closed, Door};
use crate::job::{Job, JobState};
use crate::telemetry::error_chain;

/// How long an operator waits for what a disk or a store says.
const PATIENCE: Duration = Duration::from_secs(1);

/// What has to be read.
struct Slow {
    jobs: Found<Option<Jobs>>,
    expiries: Found<Option<Vec<Expiring>>>,
}

/// Takes up the token that a configuration names now. One that cannot be read leaves the one before it in use.
pub(super) fn use_token(key: &Key, config: &AdminConfig) {
    match token(config) {
        Ok(Some(token)) => key.replace(token),
        Ok(None) => {}
        Err(error) => tracing::error!(
            error = error_chain(&*error),
            "the token of the admin listener cannot be used: the one before it stays in use, if there was one, until this was \
             mended and SIGHUP has it read anew"
        ),
    }
}

/// Finds what is wrong with its file.
///
/// # Errors
/// If it cannot be used.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    token(&config.admin).map(drop)
}

fn token(config: &AdminConfig) -> anyhow::Result<Option<Token>> {
    if config.listen.is_none() {
        return Ok(None);
    }
    let text = match (&config.token, &config.token_file) {
        (Some(token), _) => token.reveal().as_bytes().to_owned(),
        (None, Some(file)) => secrets::read(&SecretSource::File(file.clone())).context("admin.token_file")?,
        (None, None) => return Ok(None),
    };
    ensure!(text.len() >= LEAST_TOKEN, "the token of admin is shorter than {LEAST_TOKEN} characters");
    Ok(Some(Token::new(&text)))
}

fn count(all: &[Job]) -> Jobs {
    let mut jobs = Jobs::default();
    for job in all {
        let own = match &job.state {
            JobState::Accepted => &mut jobs.accepted,
            JobState::Running(_) => &mut jobs.running,
            JobState::Complete(_) => &mut jobs.complete,
            JobState::Failed(_) => &mut jobs.failed,
            JobState::Deleted => &mut jobs.deleted,
        };
        *own += 1;
    }
    jobs
}

impl Offtake {
    /// What answers operators, where the main listener's bulk requests are behind this door.
    pub(super) fn admin(&self, door: Door) -> Admin {
        let (own, offtake) = (self.clone(), self.clone());
        let slow = Arc::new(Slow { jobs: Found::within(PATIENCE), expiries: Found::within(PATIENCE) });
        let glance = move || own.app.glance(&door);
        Admin::new(self.app.admin_key.clone(), glance, move |snapshot| {
            let (offtake, slow) = (offtake.clone(), Arc::clone(&slow));
            Box::pin(async move { offtake.app.look(snapshot, &slow).await })
        })
    }
}

impl App {
    fn standing(&self) -> Option<Standing> {
        self.bulk.get().map(|bulk| bulk.engine.borrow().clone())
    }

    /// What is known without a disk or a store.
    fn glance(&self, door: &Door) -> Snapshot {
        let clock = match self.watch.look() {
            ClockStanding::Good => None,
            ClockStanding::Set { .. } => {
                Some("the clock was set: nothing expires until that is explained or confirmed")
            }
            ClockStanding::Behind { .. } => {
                Some("the clock is behind what it was: nothing that was signed is accepted until it is right")
            }
        };
        Snapshot {
            now: Some(clock::now(&*self.clock)),
            passes_through: self.config.server.pass_through == PassThroughMode::Forward,
            refused: self.refused(self.standing().as_ref(), door),
            warnings: warnings::of(&self.config),
            clock,
            ledger_fails: self.ledger.is_failing(),
            paused: self
                .standing()
                .and_then(|standing| standing.engine())
                .map_or_else(Vec::new, |engine| engine.pauses()),
            pause: self.bulk.get().and_then(|bulk| bulk.edge.upstream.waiting()),
            jobs: None,
            expiries: None,
        }
    }

    /// What they say as well. It is found out on the threads of exports: those that serve are left alone by a disk that hangs.
    async fn look(&self, snapshot: Snapshot, slow: &Slow) -> Snapshot {
        let Some(runtime) = self.runtime.as_ref().map(Runtime::handle) else { return snapshot };
        let now = self.clock.monotonic();
        let counted = async {
            let engine = self.standing()?.engine()?;
            // Reading them all takes a while where there are thousands.
            let count = async move { engine.all().await.ok().map(|jobs| count(&jobs)) };
            slow.jobs.look(now, runtime, count).await?
        };
        let expiries = self.expiries.clone();
        let listed = async move { tokio::task::spawn_blocking(move || expiries.list()).await.ok() };
        let listed = slow.expiries.look(now, runtime, listed);
        let (jobs, expiries) = tokio::join!(counted, listed);
        Snapshot { jobs, expiries: expiries.flatten(), ..snapshot }
    }

    /// Why bulk requests are refused, if they are.
    fn refused(&self, standing: Option<&Standing>, door: &Door) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        match standing {
            None => reasons.push("a file that they need cannot be used; the log and `offtake doctor` name it"),
            Some(Standing::Opening) => reasons.push("the job store or the storage cannot be used yet"),
            Some(Standing::Foreign) => reasons.push("the output belongs to another instance or another job store"),
            Some(Standing::Unlisted) => reasons.push("policy.exclude_patients_file cannot be read"),
            Some(Standing::Public(_)) => reasons.push("the storage of the output is public"),
            Some(Standing::Ready(_)) => {}
        }
        // Where nothing passes through they are served all the same.
        if self.config.server.bulk_listen.is_none() {
            reasons.extend(door.closed().map(|closed| match closed {
                Closed::Anonymous => {
                    "the FHIR server answers requests without credentials (upstream.accepts_anonymous)"
                }
                Closed::Unknown => "the FHIR server has not been reached yet",
            }));
        }
        if self.watch.is_behind() && self.bulk.get().is_some_and(|bulk| bulk.edge.access.registry().is_some()) {
            reasons.push("the clock is behind what it was");
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// SEC-10: a token that was replaced is good no more, whatever else cannot be used.
    #[tokio::test]
    async fn the_token_is_read_anew_while_bulk_requests_cannot_be_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, file) = (folder.path().join("state"), folder.path().join("token"));
        let write = |token: &str| {
            std::fs::write(&file, token).expect("the disk takes it");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("it is ours");
        };
        std::fs::create_dir(&state).expect("it is made");
        std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).expect("it is ours");
        std::fs::write(state.join("link.key"), "damaged").expect("the disk takes it");
        let yaml = format!(
            "server: {{ public_base_url: http://127.0.0.1:1/fhir }}\nupstream: {{ base_url: http://127.0.0.1:1/fhir }}\n\
             output: {{ location: 'file://{at}/output', min_free_bytes: 0 }}\nstore: {{ path: {at}/state }}\n\
             admin: {{ listen: 127.0.0.1:1, token_file: {at}/token }}\n",
            at = folder.path().display()
        );
        let config = Config::from_yaml(&yaml).expect("good values");
        let (first, second, third) = ("a".repeat(LEAST_TOKEN), "b".repeat(LEAST_TOKEN), "c".repeat(LEAST_TOKEN));
        write(&first);
        let offtake = Offtake::builder(config.clone()).build().expect("it starts");
        let key = &offtake.app.admin_key;
        assert!(key.is(&first));
        write(&second);
        offtake.reload(&config).expect_err("bulk requests are refused still");
        assert!(key.is(&second) && !key.is(&first));
        write("short");
        offtake.reload(&config).expect_err("bulk requests are refused still");
        assert!(key.is(&second), "what cannot be used leaves the one before it");
        write(&third);
        offtake.reread_token();
        assert!(key.is(&third));
    }
}
