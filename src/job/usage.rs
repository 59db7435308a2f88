//! What a client has used of its day, and whether that leaves room for one more export. It is kept apart from jobs: what was
//! deleted still counts.

use serde::{Deserialize, Serialize};

use crate::fhir::datatypes::Millis;
use crate::smart::client::ClientId;
use crate::smart::policy::Quotas;

/// A day of UTC, by its number since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Day(i64);

const MILLIS: i64 = 86_400_000;

impl Day {
    pub(crate) fn of(now: Millis) -> Self {
        Self(now.0.div_euclid(MILLIS))
    }

    /// Seconds until the next one, rounded up.
    pub(crate) fn seconds_left(now: Millis) -> i64 {
        (MILLIS - now.0.rem_euclid(MILLIS) + 999) / 1_000
    }
}

/// What one client has used of one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    day: Day,
    kickoffs: u64,
    /// Of the files that were completed for it.
    bytes: u64,
}

/// What a client may use.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    pub(crate) client: ClientId,
    pub(crate) today: Day,
    pub(crate) quotas: Quotas,
}

/// Bytes that were written for a client.
#[derive(Debug, Clone)]
pub(crate) struct Spent {
    pub(crate) client: ClientId,
    pub(crate) today: Day,
    pub(crate) bytes: u64,
}

/// What is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exhausted {
    #[error("as many exports of this client run or wait as may; delete one, or wait for its end")]
    Running,
    #[error("as many exports were kicked off by this client today (UTC) as may")]
    Kickoffs,
    #[error("as much was exported for this client today (UTC) as may")]
    Bytes,
}

impl Usage {
    /// Nothing yet, or what is known of today. After a clock was set back over midnight the later day counts; one that lies
    /// further ahead is of a clock that was wrong, and nobody is held to that until it comes.
    fn of(known: Option<Self>, today: Day) -> Self {
        match known {
            Some(known) if (today.0..=today.0.saturating_add(1)).contains(&known.day.0) => known,
            Some(_) | None => Self { day: today, kickoffs: 0, bytes: 0 },
        }
    }

    /// With one more export, of which `running` others of the client have not ended.
    ///
    /// # Errors
    /// [`Exhausted`] if there may be none.
    pub(crate) fn with_kickoff(known: Option<Self>, running: usize, allowed: &Allowance) -> Result<Self, Exhausted> {
        let usage = Self::of(known, allowed.today);
        let Quotas { running_jobs, kickoffs_per_day, bytes_per_day } = allowed.quotas;
        let is_used_up = |used: u64, most: Option<u64>| most.is_some_and(|most| used >= most);
        if is_used_up(running as u64, running_jobs.map(u64::from)) {
            return Err(Exhausted::Running);
        }
        if is_used_up(usage.kickoffs, kickoffs_per_day.map(u64::from)) {
            return Err(Exhausted::Kickoffs);
        }
        if is_used_up(usage.bytes, bytes_per_day) {
            return Err(Exhausted::Bytes);
        }
        Ok(Self { kickoffs: usage.kickoffs.saturating_add(1), ..usage })
    }

    /// With so much more written.
    pub(crate) fn with_bytes(known: Option<Self>, spent: &Spent) -> Self {
        let usage = Self::of(known, spent.today);
        Self { bytes: usage.bytes.saturating_add(spent.bytes), ..usage }
    }

    /// Whether so much more may be written.
    pub(crate) fn has_room_for(known: Option<Self>, spent: &Spent, quotas: Quotas) -> bool {
        let bytes = Self::with_bytes(known, spent).bytes;
        quotas.bytes_per_day.is_none_or(|most| bytes <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> ClientId {
        ClientId::parse("a").expect("a name")
    }

    fn allowed(today: i64, quotas: Quotas) -> Allowance {
        Allowance { client: client(), today: Day(today), quotas }
    }

    #[test]
    fn each_quota_is_used_up_by_itself_and_is_whole_the_next_day() {
        let spent = |today, bytes| Spent { client: client(), today: Day(today), bytes };
        let running = Quotas { running_jobs: Some(2), ..Quotas::default() };
        assert!(Usage::with_kickoff(None, 1, &allowed(1, running)).is_ok());
        assert_eq!(Usage::with_kickoff(None, 2, &allowed(1, running)), Err(Exhausted::Running));
        let kickoffs = Quotas { kickoffs_per_day: Some(2), ..Quotas::default() };
        let mut usage = None;
        for _ in 0..2 {
            usage = Some(Usage::with_kickoff(usage, 9, &allowed(1, kickoffs)).expect("not yet"));
        }
        assert_eq!(Usage::with_kickoff(usage, 0, &allowed(1, kickoffs)), Err(Exhausted::Kickoffs));
        assert_eq!(Usage::with_kickoff(usage, 0, &allowed(0, kickoffs)), Err(Exhausted::Kickoffs), "a clock set back");
        assert!(Usage::with_kickoff(usage, 0, &allowed(2, kickoffs)).is_ok());
        assert!(Usage::with_kickoff(usage, 0, &allowed(-1, kickoffs)).is_ok(), "a clock that had run ahead");
        let bytes = Quotas { bytes_per_day: Some(10), ..Quotas::default() };
        assert!(Usage::has_room_for(None, &spent(1, 10), bytes) && !Usage::has_room_for(None, &spent(1, 11), bytes));
        let usage = Some(Usage::with_bytes(None, &spent(1, 10)));
        assert!(!Usage::has_room_for(usage, &spent(1, 1), bytes) && Usage::has_room_for(usage, &spent(2, 1), bytes));
        assert_eq!(Usage::with_kickoff(usage, 0, &allowed(1, bytes)), Err(Exhausted::Bytes));
        assert!(Usage::with_kickoff(usage, 99, &allowed(1, Quotas::default())).is_ok());
    }

    #[test]
    fn a_day_ends_at_midnight() {
        for (now, day, left) in
            [(0, 0, 86_400), (1, 0, 86_400), (86_399_999, 0, 1), (86_400_000, 1, 86_400), (-1, -1, 1)]
        {
            assert_eq!((Day::of(Millis(now)), Day::seconds_left(Millis(now))), (Day(day), left), "{now}");
        }
    }
}
