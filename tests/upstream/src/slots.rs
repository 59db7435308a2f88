//! A server that works on so many requests at a time, and lets the others wait in the order in which they came.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places at which requests are worked on.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    places: Mutex<Option<(usize, Arc<Semaphore>)>>,
}

impl Slots {
    /// Waits for one of `slots` places. Those who wait when their number is changed keep to the old one.
    pub(crate) async fn take(&self, slots: usize) -> OwnedSemaphorePermit {
        let places = {
            let mut held = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            match &*held {
                Some((number, places)) if *number == slots => Arc::clone(places),
                Some(_) | None => {
                    let places = Arc::new(Semaphore::new(slots.max(1)));
                    *held = Some((slots, Arc::clone(&places)));
                    places
                }
            }
        };
        places.acquire_owned().await.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_comes_first_is_served_first() {
        let slots = Slots::default();
        let first = slots.take(2).now_or_never().expect("a place is free");
        let _second = slots.take(2).now_or_never().expect("another one");
        let (mut third, mut fourth) = (Box::pin(slots.take(2)), Box::pin(slots.take(2)));
        assert!((&mut third).now_or_never().is_none() && (&mut fourth).now_or_never().is_none());
        drop(first);
        assert!((&mut fourth).now_or_never().is_none(), "it is not its turn");
        assert!((&mut third).now_or_never().is_some());
    }
}
