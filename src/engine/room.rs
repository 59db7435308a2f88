//! When an export that had no room goes on.
//!
//! Others take room and give it back: an export that has read nothing goes on as soon as there is some. What it has written itself of a file that did
//! not fit is removed, and that is no room to go on with: the same would be read again and again in vain. That holds for a job
//! store on the same disk, too. Of one that cannot tell what is free only the next write tells whether it has room.

use std::time::Duration;

use super::files::FilesError;
use super::services::Services;
use crate::disk::LEAST_FREE;
use crate::output::writer::PART;

/// How often it is looked whether there is room.
const EVERY: Duration = Duration::from_secs(2);
/// After this it is looked for the first time.
const SOON: Duration = Duration::from_millis(500);
/// The first pause of an export for which there is too little room. It doubles each time; another one may have ended by then.
const TOO_LITTLE: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_mins(15);

/// One export's waiting for room.
#[derive(Debug, Default)]
pub(super) struct RoomWait {
    /// Runs in succession that filled up the room that there was and completed nothing.
    in_vain: u32,
}

/// What had no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Output,
    Store,
    /// The ledger, or the keys.
    Records,
}

impl By {
    pub(super) fn of(error: &FilesError) -> Self {
        match error {
            FilesError::Store(_) => Self::Store,
            FilesError::Ledger(_) | FilesError::Key(_) => Self::Records,
            FilesError::Output(_) | FilesError::Revoked | FilesError::Quota => Self::Output,
        }
    }
}

/// A run that had no room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopped {
    pub(super) by: By,
    /// It has read from the upstream,
    pub(super) has_read: bool,
    /// and completed a file.
    pub(super) has_completed: bool,
}

impl RoomWait {
    /// Waits until files can be written again. What the run had begun is removed by then.
    pub(super) async fn returns(&mut self, services: &Services, stopped: Stopped) {
        let Stopped { by, has_read, has_completed } = stopped;
        if has_completed {
            self.in_vain = 0;
        }
        let stores = || services.store.free();
        if by == By::Store && has_read && stores().is_some() {
            // What is removed of the run may be on its way still.
            services.clock.sleep(SOON).await;
            return self.more_room(services, stores).await;
        }
        if by != By::Output {
            let pause = EVERY.saturating_mul(2_u32.saturating_pow(self.in_vain.min(8))).min(TOO_LITTLE);
            self.in_vain = if has_read { self.in_vain + 1 } else { 0 };
            return services.clock.sleep(pause).await;
        }
        // Others have hardly made room yet.
        services.clock.sleep(SOON).await;
        match Room::of(services).await {
            Room::Some if has_read => {
                self.more_room(services, || services.output.room().map(|room| room.free)).await;
            }
            Room::Some | Room::None => self.in_vain = 0,
            Room::Unknown => return,
        }
        while Room::of(services).await == Room::None {
            services.clock.sleep(EVERY).await;
        }
    }

    /// Waits for more room than there is, by what is `free`. For how long at most, as nobody tells that of a cloud.
    async fn more_room(&mut self, services: &Services, free: impl Fn() -> Option<u64>) {
        let before = free();
        let pause = TOO_LITTLE.saturating_mul(2_u32.saturating_pow(self.in_vain.min(8))).min(LONGEST);
        self.in_vain += 1;
        tracing::warn!(
            pause_seconds = pause.as_secs(),
            "an export needs more room than there is; it goes on once there is more"
        );
        let until = services.clock.monotonic() + pause;
        while services.clock.monotonic() < until {
            services.clock.sleep(EVERY).await;
            if let (Some(before), Some(now)) = (before, free())
                && now >= before.saturating_add(PART as u64)
            {
                self.in_vain = 0;
                return;
            }
            // Where even a store could not write, any room is worth a try.
            if before.is_some_and(|before| before < LEAST_FREE) && free().is_some_and(|now| now >= LEAST_FREE) {
                return;
            }
        }
    }
}

/// What an output has.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Some,
    None,
    /// It failed for another reason, which shows itself again where it is dealt with.
    Unknown,
}

impl Room {
    async fn of(services: &Services) -> Self {
        match services.output.has_room_again(&services.room_probe()).await {
            Ok(()) => Self::Some,
            Err(error) if error.must_wait() => Self::None,
            Err(_) => Self::Unknown,
        }
    }
}
