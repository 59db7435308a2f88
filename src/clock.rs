//! The only place that asks the system for the time or for randomness.

pub(crate) mod watch;

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::fhir::datatypes::Millis;

/// Where time comes from. Everything that waits or compares times takes one of these, so that a test can
/// hold the time still and let years pass in a moment.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since 1970-01-01T00:00:00Z, by the wall clock.
    fn unix_millis(&self) -> i64;

    /// Time since some fixed moment, by which durations are measured: setting the wall clock does not change it.
    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.unix_millis()).unwrap_or(0))
    }

    /// Completes once `duration` has passed.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// [`Clock::unix_millis`] as the type that the rest of the crate computes with.
pub(crate) fn now(clock: &dyn Clock) -> Millis {
    Millis(clock.unix_millis())
}

/// The system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    fn unix_millis(&self) -> i64 {
        chrono::Utc::now().timestamp_millis()
    }

    fn monotonic(&self) -> Duration {
        static FIRST_ASKED: OnceLock<Instant> = OnceLock::new();
        FIRST_ASKED.get_or_init(Instant::now).elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<tokio::sync::watch::Sender<i64>>,
    /// By how much the wall clock was set.
    set: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `unix_millis`.
    #[must_use]
    pub fn new(unix_millis: i64) -> Self {
        Self { now: Mutex::new(tokio::sync::watch::Sender::new(unix_millis)), set: AtomicI64::new(0) }
    }

    /// Sets the wall clock by so many milliseconds, as somebody does who thinks that it is wrong: no time passes.
    pub fn set_by(&self, millis: i64) {
        self.set.fetch_add(millis, Ordering::SeqCst);
    }

    /// Moves the clock on and wakes the sleepers whose time has come.
    pub fn advance(&self, duration: Duration) {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        self.sender().send_modify(|now| *now = now.saturating_add(millis));
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, tokio::sync::watch::Sender<i64>> {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn unix_millis(&self) -> i64 {
        self.sender().borrow().saturating_add(self.set.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(*self.sender().borrow()).unwrap_or(0))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut time = self.sender().subscribe();
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let until = time.borrow().saturating_add(millis);
        Box::pin(async move {
            // The sender lives as long as the clock; once that is gone nobody can wait for it any more.
            let _gone = time.wait_for(|now| *now >= until).await;
        })
    }
}

/// Seconds by which this machine's zone is ahead of UTC at `time`, its daylight saving included.
pub(crate) fn local_offset_seconds(time: Millis) -> i32 {
    use chrono::{Local, Offset, TimeZone};
    let time = chrono::DateTime::from_timestamp_millis(time.0).unwrap_or_default();
    Local.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc()
}

/// What a signature that needs a number that nobody can guess takes it from.
pub(crate) fn nonces() -> aws_lc_rs::rand::SystemRandom {
    aws_lc_rs::rand::SystemRandom::new()
}

/// `N` bytes from the operating system's random source.
///
/// # Errors
/// If the system has no randomness to give.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub(crate) struct NoRandomness;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_time_has_come_and_not_before() {
        let clock = ManualClock::new(1_000);
        let mut sleeper = tokio::spawn(clock.sleep(Duration::from_millis(500)));
        clock.advance(Duration::from_millis(499));
        assert!(futures_util::poll!(&mut sleeper).is_pending());
        clock.advance(Duration::from_millis(1));
        sleeper.await.expect("the sleeper was not cancelled");
        assert_eq!(clock.unix_millis(), 1_500);
    }
}
