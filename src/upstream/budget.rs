//! One budget in bytes for every page in flight, whichever export reads it. Nobody waits for more of it while
//! holding some, so that it cannot lock up.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of reservation, in bytes.
const GRAIN: usize = 64 * 1024;

/// What pages may take of memory, all together.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    grains: u32,
    share: u32,
}

/// Bytes that one page may take; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Budget,
    permit: OwnedSemaphorePermit,
}

impl Budget {
    /// `bytes` for all, of which each of `readers` can have an equal share at once.
    pub(crate) fn new(bytes: u64, readers: usize) -> Self {
        let grains = u32::try_from(bytes / GRAIN as u64).unwrap_or(u32::MAX).max(1);
        let share = grains / u32::try_from(readers).unwrap_or(u32::MAX).max(1);
        Self { permits: Arc::new(Semaphore::new(grains as usize)), grains, share: share.max(1) }
    }

    /// What one reader may hold beside the others.
    pub(crate) fn share_bytes(&self) -> usize {
        self.share as usize * GRAIN
    }

    /// Waits for one reader's share.
    pub(crate) async fn share(&self) -> Reservation {
        self.reserve(self.share).await
    }

    /// What is free at this moment of one reader's share, if that is a quarter of it: for who holds some already.
    pub(crate) fn try_share(&self) -> Option<Reservation> {
        loop {
            let free = u32::try_from(self.permits.available_permits()).unwrap_or(u32::MAX).min(self.share);
            if free < self.share.div_ceil(4) {
                return None;
            }
            // Refused only where another has taken some of it since.
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_many_owned(free) {
                return Some(Reservation { budget: self.clone(), permit });
            }
        }
    }

    /// Waits for the whole budget: a page that needs it runs alone.
    pub(crate) async fn all(&self) -> Reservation {
        self.reserve(self.grains).await
    }

    async fn reserve(&self, grains: u32) -> Reservation {
        let permit = Arc::clone(&self.permits).acquire_many_owned(grains).await;
        let permit = permit.expect("the semaphore is never closed");
        Reservation { budget: self.clone(), permit }
    }
}

impl Reservation {
    /// Bytes that may be held.
    pub(crate) fn bytes(&self) -> usize {
        self.permit.num_permits() * GRAIN
    }

    /// Makes the reservation cover `bytes` if that much is free at this moment; never waits.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.bytes()).div_ceil(GRAIN);
        let Ok(missing) = u32::try_from(missing) else { return false };
        match Arc::clone(&self.budget.permits).try_acquire_many_owned(missing) {
            Ok(more) => {
                self.permit.merge(more);
                true
            }
            Err(_) => false,
        }
    }

    /// Gives back what `bytes` do not need.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(GRAIN);
        let spare = self.permit.num_permits().saturating_sub(needed);
        drop(self.permit.split(spare));
    }

    /// Whether nothing is left for anybody else.
    pub(crate) fn is_all(&self) -> bool {
        self.permit.num_permits() >= self.budget.grains as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reservation_grows_only_into_what_is_free_and_gives_back_what_it_does_not_need() {
        let budget = Budget::new(8 * GRAIN as u64, 4);
        let (mut first, second) = (budget.share().await, budget.share().await);
        assert_eq!(first.bytes(), 2 * GRAIN);
        assert!(first.grow(6 * GRAIN), "six of eight are free beside the second share");
        assert!(!first.grow(7 * GRAIN));
        first.shrink(GRAIN);
        assert_eq!(first.bytes(), GRAIN);
        let third = budget.try_share().expect("a share is free");
        first.grow(2 * GRAIN);
        let fourth = budget.try_share().expect("and another one");
        assert!(budget.try_share().is_none(), "nobody waits");
        first.shrink(GRAIN);
        assert_eq!(budget.try_share().expect("what is left of a share").bytes(), GRAIN);
        drop((first, second, third, fourth));
        assert!(budget.all().await.is_all());
    }
}
