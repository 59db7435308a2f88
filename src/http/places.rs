//! Places for requests whose bodies come slowly, or never: a peer takes a few of them, and none of the others' (SEC-06).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Places that one peer may take while it sends.
const EACH: usize = 4;

type Peers = Mutex<HashMap<IpAddr, Arc<Semaphore>>>;

/// Who sends how much at a time.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Peers that send at the moment. Others are forgotten.
    peers: Arc<Peers>,
}

/// A place of one peer, held as long as what it was taken for goes on, wherever that is. Dropped, it is the next one's.
#[derive(Debug)]
pub(super) struct Place {
    peers: Arc<Peers>,
    peer: IpAddr,
    queue: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// Waits for one of the places of a peer. Who embeds the layer may not say who asks: then all are one.
    ///
    /// # Errors
    /// Never: the places are not closed.
    pub(super) async fn take(&self, peer: Option<IpAddr>) -> Result<Place, AcquireError> {
        let peer = network(peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        let queue = Arc::clone(self.lock().entry(peer).or_insert_with(|| Arc::new(Semaphore::new(EACH))));
        // Made before it waits: whoever gives up waiting leaves nothing behind.
        let mut place = Place { peers: Arc::clone(&self.peers), peer, queue: Some(Arc::clone(&queue)), permit: None };
        place.permit = Some(queue.acquire_owned().await?);
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        lock(&self.peers)
    }
}

fn lock(peers: &Peers) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Place {
    fn drop(&mut self) {
        let (permit, queue) = (self.permit.take(), self.queue.take());
        let mut peers = lock(&self.peers);
        drop((permit, queue));
        // Only under the lock does anybody else get hold of it.
        if peers.get(&self.peer).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            peers.remove(&self.peer);
        }
    }
}

/// All addresses that one peer is sure to have: of IPv6 it has a whole network.
pub(crate) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_peer_takes_its_own_places_and_leaves_none_behind() {
        let places = Places::default();
        let take = |peer: &str| places.take(Some(peer.parse().expect("an address")));
        let now = |peer: &str| take(peer).now_or_never().map(|place| place.expect("they are not closed"));
        let mut taken: Vec<_> = (0..EACH).map(|_| now("2001:db8::1").expect("its own")).collect();
        assert!(now("2001:db8::2").is_none(), "of the same network");
        assert!(now("2001:db8:0:1::1").is_some());
        assert!(now("192.0.2.1").is_some());
        let waiting = take("2001:db8::3");
        drop(taken.pop());
        taken.push(waiting.now_or_never().expect("one was left").expect("they are not closed"));
        assert!(now("2001:db8::1").is_none());
        taken.clear();
        assert!(places.lock().is_empty());
        let mapped: Vec<_> = (0..EACH).map(|_| now("::ffff:192.0.2.1").expect("its own")).collect();
        assert!(now("192.0.2.1").is_none(), "one and the same");
        drop(mapped);
        assert!(places.lock().is_empty());
    }

    /// What was begun for a peer goes on without it, and so does its place.
    #[tokio::test]
    async fn a_place_goes_along_with_what_it_was_taken_for() {
        let places = Places::default();
        let peer = "192.0.2.1".parse().expect("an address");
        let (ends, end) = tokio::sync::watch::channel(false);
        let mut begun = Vec::new();
        for _ in 0..EACH {
            let place = places.take(Some(peer)).await.expect("they are not closed");
            let mut end = end.clone();
            begun.push(tokio::spawn(async move {
                let _place = place;
                end.wait_for(|ends| *ends).await.is_ok()
            }));
        }
        assert!(places.take(Some(peer)).now_or_never().is_none());
        ends.send_replace(true);
        for one in begun {
            assert!(one.await.expect("it ends"));
        }
        assert!(places.lock().is_empty());
    }
}
