//! Says when the wall clock cannot be believed, and looks for who says that it is right (SEC-44): the upstream, or an operator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::keys::keep;
use crate::clock::watch::{ClockWatch, Standing};
use crate::clock::{self, SystemClock};
use crate::config::Config;
use crate::fhir::datatypes::Millis;

const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How far apart two clocks may be that agree.
const AGREEING_MILLIS: i64 = 60_000;
/// The file in the state folder by which an operator says that the clock is right, and for how long it says so.
const CONFIRMED: &str = "clock.confirmed";
const CONFIRMED_FOR_MILLIS: i64 = 10 * 60_000;

/// Says to the process that serves a configuration that the clock is right as it is now.
///
/// # Errors
/// If the state folder cannot be written.
pub(crate) fn confirm(config: &Config) -> anyhow::Result<()> {
    let path = config.store.path.join(CONFIRMED);
    let now = clock::now(&SystemClock);
    keep(&path, now.0.to_string().as_bytes()).with_context(|| format!("could not write {}", path.display()))
}

/// Looks at the clock for as long as it is polled. `its_time` is what time it is by the upstream, `state` the folder that an
/// operator says it in, if there is one.
pub(super) async fn keep_watch(
    watch: ClockWatch,
    its_time: impl Fn() -> Option<Millis> + Send + 'static,
    state: Option<PathBuf>,
) {
    let file = state.map(|state| state.join(CONFIRMED));
    let mut told = Standing::Good;
    loop {
        watch.clock().sleep(LOOK_EVERY).await;
        let now = clock::now(&**watch.clock());
        let found = watch.look();
        if found != Standing::Good && file.as_deref().is_some_and(|file| is_confirmed(file, now)) {
            watch.confirm();
            tracing::warn!("an operator has confirmed the clock: what was seen of a later time does not count");
        } else if matches!(found, Standing::Set { .. }) && its_time().is_some_and(|its| agree(its, now)) {
            watch.explain();
            tracing::info!("the clock was set to what the FHIR server's is: exports and records expire by it");
        }
        let found = watch.look();
        if std::mem::discriminant(&found) != std::mem::discriminant(&told) {
            tell(found);
        }
        told = found;
    }
}

fn agree(one: Millis, other: Millis) -> bool {
    one.0.saturating_sub(other.0).saturating_abs() <= AGREEING_MILLIS
}

/// Whether an operator has said so within the last minutes. It counts once.
fn is_confirmed(file: &Path, now: Millis) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    // What cannot be removed would count again.
    let is_removed = std::fs::remove_file(file).is_ok();
    let said: Option<i64> = text.trim().parse().ok();
    is_removed && said.is_some_and(|said| said.saturating_sub(now.0).saturating_abs() <= CONFIRMED_FOR_MILLIS)
}

fn tell(standing: Standing) {
    match standing {
        Standing::Good => tracing::info!("the clock is believed again"),
        Standing::Set { by } => tracing::error!(
            seconds = by / 1_000,
            "THE CLOCK WAS SET while the process ran: no export and no record of the ledger expires until it is as it was, or \
             agrees with the FHIR server's; if it is right, say so by `offtake clock confirm`"
        ),
        Standing::Behind { by } => tracing::error!(
            seconds = by / 1_000,
            "THE CLOCK IS BEHIND what it was before: no token, assertion or link is accepted until it is right; if it is right \
             now, say so by `offtake clock confirm`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::clock::{Clock, ManualClock};

    async fn until(clock: &ManualClock, watch: &ClockWatch, expected: Standing) {
        for _ in 0..1_000 {
            clock.advance(LOOK_EVERY);
            tokio::task::yield_now().await;
            if watch.look() == expected {
                return;
            }
        }
        panic!("{:?} is not {expected:?}", watch.look());
    }

    /// SEC-44: confirmed or explained.
    #[tokio::test]
    async fn a_clock_is_believed_again_once_the_server_agrees_or_an_operator_says_so() {
        let clock = Arc::new(ManualClock::new(1_800_000_000_000));
        let watch = ClockWatch::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let folder = tempfile::tempdir().expect("a folder");
        let ahead = Arc::new(AtomicI64::new(0));
        let (upstream, its_ahead) = (Arc::clone(&clock), Arc::clone(&ahead));
        let its_time = move || {
            let passed = i64::try_from(upstream.monotonic().as_millis()).unwrap_or(i64::MAX);
            Some(Millis(passed + its_ahead.load(Ordering::SeqCst)))
        };
        let _watching = tokio::spawn(keep_watch(watch.clone(), its_time, Some(folder.path().to_owned())));
        clock.set_by(3_600_000);
        for _ in 0..10 {
            clock.advance(LOOK_EVERY);
            tokio::task::yield_now().await;
        }
        assert_eq!(watch.look(), Standing::Set { by: 3_600_000 }, "the server's clock says something else");
        ahead.store(3_590_000, Ordering::SeqCst);
        until(&clock, &watch, Standing::Good).await;
        ahead.store(0, Ordering::SeqCst);
        clock.set_by(-3_600_000);
        for _ in 0..10 {
            clock.advance(LOOK_EVERY);
            tokio::task::yield_now().await;
        }
        assert!(watch.is_behind(), "whoever agrees with it");
        std::fs::write(folder.path().join(CONFIRMED), clock.unix_millis().to_string()).expect("the disk takes it");
        until(&clock, &watch, Standing::Good).await;
    }

    #[test]
    fn an_operator_confirms_once_and_for_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(CONFIRMED);
        let now = Millis(1_800_000_000_000);
        assert!(!is_confirmed(&file, now));
        for (said, expected) in [
            (now.0.to_string(), true),
            ((now.0 - CONFIRMED_FOR_MILLIS).to_string(), true),
            ((now.0 - CONFIRMED_FOR_MILLIS - 1).to_string(), false),
            ((now.0 + CONFIRMED_FOR_MILLIS + 1).to_string(), false),
            ("x".to_owned(), false),
        ] {
            std::fs::write(&file, &said).expect("the disk takes it");
            assert_eq!(is_confirmed(&file, now), expected, "{said}");
            assert!(!is_confirmed(&file, now), "it counts once");
        }
    }
}
