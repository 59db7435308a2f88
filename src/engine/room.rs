//! When an export that had no room goes on.
//!
//! Others take room and give it back: an export goes on as soon as there is some. What it has written itself of a file that did
//! not fit is removed, and that is no room to go on with: the same would be read again and again in vain.

use std::time::Duration;

use super::services::Services;
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
    /// Runs in succession that filled up the room that there was.
    in_vain: u32,
}

impl RoomWait {
    /// Waits until files can be written again. `has_read` says that the run that had no room has read from the upstream.
    pub(super) async fn returns(&mut self, services: &Services, has_read: bool) {
        // What was begun is removed by then, and others have hardly made room yet.
        services.clock.sleep(SOON).await;
        if has_read && has_room(services).await {
            self.more_room(services).await;
        } else {
            self.in_vain = 0;
        }
        while !has_room(services).await {
            services.clock.sleep(EVERY).await;
        }
    }

    /// Waits for more room than there is. For how long at most, as nobody tells what is free on a cloud.
    async fn more_room(&mut self, services: &Services) {
        let free = || services.output.room().map(|room| room.free);
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
        }
    }
}

async fn has_room(services: &Services) -> bool {
    match services.output.has_room_again(&services.room_probe()).await {
        Err(error) => !error.is_full(), // another failure shows itself again where it is dealt with
        Ok(()) => true,
    }
}
