use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::ManualClock;

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it is away")]
    Away,
    #[error("there is nothing any more")]
    Withdrawn,
}

impl Failure for Failed {
    fn withdraws(&self) -> bool {
        matches!(self, Self::Withdrawn)
    }
}

struct Rig {
    clock: Arc<ManualClock>,
    published: Published<BTreeSet<&'static str>>,
    fetched: AtomicUsize,
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let published = Published::new("keys", clock.clone());
        Self { clock, published, fetched: AtomicUsize::new(0) }
    }

    /// Whether a key is found where these are published, to be kept for so many seconds; `None` where there is nothing to go by.
    async fn find(&self, key: &'static str, now: Option<&[&'static str]>, seconds: u64) -> Option<bool> {
        let fetch = async {
            self.fetched.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let keys = now.ok_or(Failed::Away)?.iter().copied().collect();
            Ok::<_, Failed>((keys, Duration::from_secs(seconds)))
        };
        let kept = self.published.get(|keys| keys.contains(key), fetch).await;
        kept.map(|keys| keys.contains(key))
    }

    fn fetched(&self) -> usize {
        self.fetched.load(Ordering::SeqCst)
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

#[tokio::test]
async fn what_was_rotated_is_found_at_once_and_what_is_gone_is_not_after_the_overlap() {
    let rig = Rig::new();
    assert_eq!(rig.find("a", Some(&["a"]), 300).await, Some(true));
    assert_eq!(rig.find("b", Some(&["a", "b"]), 300).await, Some(true), "it was not there a moment ago");
    assert_eq!(rig.fetched(), 2);
    assert_eq!(rig.find("a", Some(&["b"]), 300).await, Some(true), "what is fresh is not asked for");
    rig.advance(300);
    assert_eq!(rig.find("a", Some(&["b"]), 300).await, Some(false));
    assert_eq!(rig.find("b", Some(&["b"]), 300).await, Some(true));
    assert_eq!(rig.fetched(), 3);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_has_it_fetched_once_a_minute() {
    let rig = Rig::new();
    for _ in 0..10 {
        assert_eq!(rig.find("x", Some(&["a"]), 0).await, Some(false));
    }
    assert_eq!(rig.fetched(), 1);
    for minutes in 1..5 {
        rig.advance(60);
        let found = futures_util::future::join_all((0..10).map(|_| rig.find("x", Some(&["a"]), 0))).await;
        assert_eq!(found, [Some(false); 10]);
        assert_eq!(rig.fetched(), 1 + minutes);
        assert_eq!(rig.find("a", None, 0).await, Some(true), "others notice nothing");
    }
}

#[tokio::test]
async fn it_is_relied_on_for_an_hour_while_it_cannot_be_had() {
    let rig = Rig::new();
    assert_eq!(rig.find("a", None, 0).await, None);
    assert_eq!(rig.find("a", None, 0).await, None);
    assert_eq!(rig.fetched(), 1, "not at once again");
    rig.advance(10);
    assert_eq!(rig.find("a", Some(&["a"]), 0).await, Some(true), "soon");
    for minute in 1..60 {
        rig.advance(60);
        assert_eq!(rig.find("a", None, 0).await, Some(true));
        assert_eq!(rig.find("a", None, 0).await, Some(true));
        assert_eq!(rig.fetched(), 2 + minute, "once a minute");
    }
    rig.advance(60);
    assert_eq!(rig.find("a", None, 0).await, None);
    rig.advance(10);
    assert_eq!(rig.find("a", Some(&["a"]), 0).await, Some(true));
}

/// What its headers say counts within a minute and an hour.
#[tokio::test]
async fn it_is_kept_a_minute_at_least_and_an_hour_at_most() {
    for (said, kept) in [(0, 60), (59, 60), (61, 61), (3_600, 3_600), (1_000_000, 3_600)] {
        let rig = Rig::new();
        assert_eq!(rig.find("a", Some(&["a"]), said).await, Some(true));
        rig.advance(kept - 1);
        assert_eq!(rig.find("a", Some(&[]), said).await, Some(true), "{said}");
        rig.advance(1);
        assert_eq!(rig.find("a", Some(&[]), said).await, Some(false), "{said}");
    }
}

#[tokio::test]
async fn one_fetches_for_all_and_nobody_goes_by_what_is_too_old_meanwhile() {
    let rig = Rig::new();
    let found = futures_util::future::join_all((0..50).map(|_| rig.find("a", Some(&["a"]), 60))).await;
    assert_eq!((found, rig.fetched()), (vec![Some(true); 50], 1));
    rig.advance(60);
    let mut slow = Box::pin(rig.published.get(|keys| keys.contains("a"), async {
        std::future::pending::<()>().await;
        Err::<(BTreeSet<_>, _), _>(Failed::Away)
    }));
    assert!(futures_util::poll!(&mut slow).is_pending());
    let mut other = Box::pin(rig.find("a", Some(&["b"]), 60));
    assert!(futures_util::poll!(&mut other).is_pending(), "it may have been withdrawn");
    assert_eq!(rig.fetched(), 1);
    drop(slow);
    assert_eq!(other.await, Some(false), "nobody is stuck behind one who gave up");
    assert_eq!(rig.fetched(), 2);
}

#[tokio::test]
async fn an_answer_that_withdraws_all_leaves_nothing_to_go_by() {
    let rig = Rig::new();
    assert_eq!(rig.find("a", Some(&["a"]), 60).await, Some(true));
    rig.advance(60);
    let withdrawn = async { Err::<(BTreeSet<_>, _), _>(Failed::Withdrawn) };
    assert_eq!(rig.published.get(|keys| keys.contains("a"), withdrawn).await, None);
    assert_eq!(rig.find("a", None, 60).await, None, "nor where it is away then");
    rig.advance(10);
    assert_eq!(rig.find("a", Some(&["a"]), 60).await, Some(true));
}
