//! Who is connected: a few of all, and of one address. Where no place is left, whoever has said nothing for longest makes one:
//! without a token nobody keeps operators out by only connecting.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::task::AbortHandle;

use crate::http::places::network;
use crate::http::seats::{NoSeat, Seat, Seats};

/// A connection's place, for as long as it is there.
#[derive(Debug)]
pub(super) struct Place {
    seat: Mutex<Option<Seat>>,
    has_head: AtomicBool,
}

impl Place {
    /// The head of its request has come: it is answered.
    pub(super) fn has_asked(&self) {
        self.has_head.store(true, Ordering::Relaxed);
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Connections {
    seats: Seats,
    /// Whose head may not have come, the oldest first.
    silent: VecDeque<Silent>,
}

#[derive(Debug)]
struct Silent {
    peer: IpAddr,
    place: Weak<Place>,
    connection: AbortHandle,
}

impl Connections {
    pub(super) fn new(most: usize, most_of_a_peer: usize) -> Self {
        Self { seats: Seats::new(most, most_of_a_peer), silent: VecDeque::new() }
    }

    /// A place for one more, if need be that of the oldest which has said nothing.
    pub(super) fn take(&mut self, peer: IpAddr) -> Option<Arc<Place>> {
        let is_silent = |place: Arc<Place>| !place.has_head.load(Ordering::Relaxed);
        self.silent.retain(|silent| silent.place.upgrade().is_some_and(is_silent));
        let seat = match self.seats.take(Some(peer)) {
            Ok(seat) => seat,
            Err(none) => {
                self.close_oldest(none, peer);
                self.seats.take(Some(peer)).ok()?
            }
        };
        Some(Arc::new(Place { seat: Mutex::new(Some(seat)), has_head: AtomicBool::new(false) }))
    }

    /// What may be closed if another one needs its place.
    pub(super) fn add(&mut self, peer: IpAddr, place: Weak<Place>, connection: AbortHandle) {
        self.silent.push_back(Silent { peer: network(peer), place, connection });
    }

    fn close_oldest(&mut self, none: NoSeat, peer: IpAddr) {
        let own = network(peer);
        let oldest = self.silent.iter().position(|silent| none == NoSeat::AtAll || silent.peer == own);
        let Some(oldest) = oldest.and_then(|oldest| self.silent.remove(oldest)) else { return };
        oldest.connection.abort();
        // The connection itself ends a moment later.
        if let Some(place) = oldest.place.upgrade() {
            drop(place.seat.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_says_nothing_makes_room_for_others_and_whoever_asks_does_not() {
        let peer = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut connections = Connections::new(3, 2);
        let mut connect = |peer: IpAddr| {
            let place = connections.take(peer)?;
            let own = Arc::clone(&place);
            let task = tokio::spawn(async move {
                let _own = own;
                std::future::pending::<()>().await;
            });
            connections.add(peer, Arc::downgrade(&place), task.abort_handle());
            Some((Arc::downgrade(&place), task))
        };
        let asking = |place: &Weak<Place>| place.upgrade().expect("it is there").has_asked();
        let (asks, _first) = connect(peer(1)).expect("a place");
        asking(&asks);
        let (_, silent) = connect(peer(1)).expect("a place");
        let (second, _second) = connect(peer(1)).expect("that of the one that is silent");
        assert!(silent.await.expect_err("it was closed").is_cancelled());
        asking(&second);
        assert!(connect(peer(1)).is_none(), "both are being answered");
        let (_, other) = connect(peer(2)).expect("a place");
        let (third, _third) = connect(peer(3)).expect("that of the oldest of all");
        assert!(other.await.expect_err("it was closed").is_cancelled());
        asking(&third);
        assert!(connect(peer(4)).is_none(), "all are being answered");
    }
}
