//! What takes a while to be found out, or for ever where a disk or a store has gone: it is found out once at a time, however many
//! ask, and nobody waits for it for long.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

/// How long it is good.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// The last of it.
#[derive(Debug)]
pub(crate) struct Found<T> {
    /// When it was begun to be looked at, by the monotonic clock, and what came of it.
    last: Mutex<Option<(Duration, watch::Receiver<Option<T>>)>>,
    patience: Duration,
}

impl<T: Clone + Send + Sync + 'static> Found<T> {
    /// One that nobody waits for longer than this.
    pub(crate) fn within(patience: Duration) -> Self {
        Self { last: Mutex::default(), patience }
    }

    /// As it was a moment ago, or as `find` finds it on `runtime`, if nobody looks at it already; none if that takes too long.
    pub(crate) async fn look(
        &self,
        now: Duration,
        runtime: &Handle,
        find: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mut seen = self.begin(now, runtime, find);
        let found = tokio::time::timeout(self.patience, seen.wait_for(Option::is_some)).await.ok()?.ok()?;
        found.clone()
    }

    fn begin(
        &self,
        now: Duration,
        runtime: &Handle,
        find: impl Future<Output = T> + Send + 'static,
    ) -> watch::Receiver<Option<T>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, seen)) = &*last {
            let is_under_way = seen.has_changed().is_ok();
            if is_under_way || seen.borrow().is_some() && now.saturating_sub(*at) < GOOD_FOR {
                return seen.clone();
            }
        }
        let (tell, seen) = watch::channel(None);
        runtime.spawn(async move { tell.send_replace(Some(find.await)) });
        *last = Some((now, seen.clone()));
        seen
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn it_is_found_out_once_at_a_time_and_nobody_waits_for_long() {
        let (own, runtime) = (Found::within(Duration::from_millis(20)), Handle::current());
        let begun = Arc::new(AtomicUsize::new(0));
        let at = Duration::from_secs;
        let find = |found: u8, comes: bool| {
            let begun = Arc::clone(&begun);
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                if !comes {
                    std::future::pending::<()>().await;
                }
                found
            }
        };
        assert_eq!(own.look(at(1), &runtime, find(1, true)).await, Some(1));
        assert_eq!(own.look(at(2), &runtime, find(2, true)).await, Some(1), "it is good for a while");
        assert_eq!(own.look(at(3), &runtime, find(3, true)).await, Some(3));
        for later in 5..10 {
            assert_eq!(own.look(at(later), &runtime, find(4, false)).await, None, "what was before is not told");
        }
        assert_eq!(begun.load(Ordering::SeqCst), 3, "nobody begins what is under way");
    }

    #[tokio::test]
    async fn what_failed_is_tried_again() {
        let (own, runtime) = (Found::within(Duration::from_secs(20)), Handle::current());
        let failed = own.look(Duration::ZERO, &runtime, async {
            let nothing: Option<u8> = std::hint::black_box(None);
            nothing.expect("it fails")
        });
        assert_eq!(failed.await, None);
        assert_eq!(own.look(Duration::ZERO, &runtime, async { 1 }).await, Some(1));
    }
}
