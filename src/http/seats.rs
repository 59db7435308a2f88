//! How many requests of our routes are answered at the same time, until the last byte of each answer has gone: all together
//! they leave most file descriptors to the clinic's requests, and one peer leaves some to others (SEC-06).

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};

use super::places::network;
use crate::body::{Body, BoxError};

/// Bytes of an answer that is short.
const SHORT: u64 = 64 * 1024;

/// Who is being answered. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Seats {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_of_a_peer: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only those that have one.
    peers: HashMap<IpAddr, usize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    taken: Arc<Mutex<Taken>>,
    peer: Option<IpAddr>,
}

/// There is none left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSeat {
    #[error("as many bulk requests from this address are being answered as may")]
    OfThePeer,
    #[error("as many bulk requests are being answered as may")]
    AtAll,
}

impl Seats {
    /// So many for all, and for one peer.
    pub(crate) fn new(most: usize, most_of_a_peer: usize) -> Self {
        Self { taken: Arc::default(), most, most_of_a_peer }
    }

    /// Takes one for a request, if there is one left.
    ///
    /// # Errors
    /// [`NoSeat`], at once: whoever waited would hold its connection all the same.
    pub(crate) fn take(&self, peer: Option<IpAddr>) -> Result<Seat, NoSeat> {
        let peer = peer.map(network);
        let mut taken = lock(&self.taken);
        if taken.all >= self.most {
            return Err(NoSeat::AtAll);
        }
        if let Some(peer) = peer {
            let own = taken.peers.get(&peer).copied().unwrap_or_default();
            if own >= self.most_of_a_peer {
                return Err(NoSeat::OfThePeer);
            }
            taken.peers.insert(peer, own + 1);
        }
        taken.all += 1;
        Ok(Seat { taken: Arc::clone(&self.taken), peer })
    }
}

impl Seat {
    /// Keeps it until the answer has gone, or whoever should get it. What is short waits for nobody in here, however slowly it
    /// is taken: by HTTP/2 one connection could keep as many seats as it has streams.
    pub(super) fn until_gone(self, answer: Response<Body>) -> Response<Body> {
        if answer.body().size_hint().upper().is_some_and(|most| most <= SHORT) {
            return answer;
        }
        answer.map(|body| crate::body::map(Seated { body, _seat: self }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all = taken.all.saturating_sub(1);
        let Some(peer) = self.peer else { return };
        match taken.peers.get_mut(&peer) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => drop(taken.peers.remove(&peer)),
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of an answer, and its seat.
struct Seated {
    body: Body,
    _seat: Seat,
}

impl http_body::Body for Seated {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seat for a peer.
    fn take(seats: &Seats, peer: &str) -> Result<Seat, NoSeat> {
        seats.take(Some(peer.parse().expect("an address")))
    }

    #[test]
    fn a_peer_leaves_seats_to_others_and_all_leave_some_to_the_clinic() {
        let seats = Seats::new(3, 2);
        let mut taken =
            vec![take(&seats, "192.0.2.1").expect("the first"), take(&seats, "192.0.2.1").expect("its own")];
        assert_eq!(take(&seats, "::ffff:192.0.2.1").err(), Some(NoSeat::OfThePeer));
        taken.push(take(&seats, "192.0.2.2").expect("another one"));
        assert_eq!(take(&seats, "192.0.2.3").err(), Some(NoSeat::AtAll));
        assert_eq!(seats.take(None).err(), Some(NoSeat::AtAll));
        taken.pop();
        taken.push(seats.take(None).expect("whose it is nobody knows"));
        taken.clear();
        let left = lock(&seats.taken);
        assert!(left.all == 0 && left.peers.is_empty(), "{left:?}");
    }

    #[test]
    fn a_seat_is_kept_until_the_answer_has_gone() {
        let seats = Seats::new(1, 1);
        let seat = take(&seats, "192.0.2.1").expect("the first");
        let short = seat.until_gone(Response::new(crate::body::full("four")));
        let seat = take(&seats, "192.0.2.1").expect("what is short needs none");
        drop(short);
        let long = vec![0; 64 * 1024 + 1];
        let answer = seat.until_gone(Response::new(crate::body::full(long)));
        assert_eq!(answer.body().size_hint().exact(), Some(SHORT + 1), "its length stays known");
        assert_eq!(take(&seats, "192.0.2.2").err(), Some(NoSeat::AtAll));
        drop(answer);
        assert!(take(&seats, "192.0.2.2").is_ok());
    }
}
