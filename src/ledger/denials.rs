//! How many refused requests are recorded one by one. Whoever sends them without a right to anything must not fill the disk:
//! beyond some of each peer, and some of all peers together, they are counted, and one record a minute tells of them. Pure.
//!
//! At most about 3 MB a day come of it, however many are sent.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::record::{Denied, DeniedMore};
use crate::fhir::datatypes::Instant;

/// Of one peer: so many at once, and another one after each pause.
const OF_A_PEER: f64 = 100.0;
const PEER_PAUSE: Duration = Duration::from_secs(30);
/// Of all peers together.
const OF_ALL: f64 = 300.0;
const PAUSE: Duration = Duration::from_secs(10);
/// Peers that are told apart; those beyond are one.
const MOST_PEERS: usize = 1_000;
/// Peers that a record of counted ones names.
const MOST_NAMED: usize = 16;

/// Decides which are recorded one by one, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Denials {
    all: Option<Bucket>,
    peers: HashMap<IpAddr, Bucket>,
    counted: DeniedMore,
    counted_peers: HashMap<IpAddr, u64>,
}

/// What may be recorded still.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Duration,
}

impl Bucket {
    fn full(most: f64, now: Duration) -> Self {
        Self { left: most, at: now }
    }

    fn fill(&mut self, most: f64, pause: Duration, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64() / pause.as_secs_f64();
        self.left = (self.left + passed).min(most);
        self.at = now;
    }
}

impl Denials {
    /// Whether this one is recorded by itself; else it is counted. `now` is by a clock that nobody sets.
    pub(super) fn admit(&mut self, denied: &Denied, now: Duration, at: Instant) -> bool {
        let peer = network(denied.actor.peer);
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&peer) {
            // Those whose places are full again are as good as unknown.
            self.peers.retain(|_, bucket| {
                bucket.fill(OF_A_PEER, PEER_PAUSE, now);
                bucket.left < OF_A_PEER
            });
        }
        let known = if self.peers.len() < MOST_PEERS || self.peers.contains_key(&peer) { peer } else { NOBODY };
        let own = self.peers.entry(known).or_insert_with(|| Bucket::full(OF_A_PEER, now));
        own.fill(OF_A_PEER, PEER_PAUSE, now);
        let all = self.all.get_or_insert_with(|| Bucket::full(OF_ALL, now));
        all.fill(OF_ALL, PAUSE, now);
        if own.left >= 1.0 && all.left >= 1.0 {
            own.left -= 1.0;
            all.left -= 1.0;
            return true;
        }
        self.count(denied, at);
        false
    }

    /// Counts one that is not recorded by itself, or could not be.
    pub(super) fn count(&mut self, denied: &Denied, at: Instant) {
        let counted = &mut self.counted;
        counted.since.get_or_insert(at);
        counted.count += 1;
        *counted.by_status.entry(denied.status.to_string().into()).or_default() += 1;
        let peer = network(denied.actor.peer);
        if self.counted_peers.len() < MOST_PEERS || self.counted_peers.contains_key(&peer) {
            *self.counted_peers.entry(peer).or_default() += 1;
        } else {
            counted.other_peers += 1;
        }
    }

    /// What was counted since this was asked last, if anything was.
    pub(super) fn take(&mut self) -> Option<DeniedMore> {
        if self.counted.count == 0 {
            return None;
        }
        let mut counted = std::mem::take(&mut self.counted);
        let mut peers: Vec<_> = self.counted_peers.drain().collect();
        peers.sort_unstable_by_key(|(peer, count)| (std::cmp::Reverse(*count), *peer));
        let others = peers.split_off(peers.len().min(MOST_NAMED));
        counted.other_peers += others.into_iter().map(|(_, count)| count).sum::<u64>();
        counted.by_peer = peers.into_iter().collect::<BTreeMap<_, _>>();
        Some(counted)
    }

    /// Gives back what could not be recorded.
    pub(super) fn give_back(&mut self, more: DeniedMore) {
        self.counted.since = more.since.or(self.counted.since);
        self.counted.count += more.count;
        self.counted.other_peers += more.other_peers;
        for (status, count) in more.by_status {
            *self.counted.by_status.entry(status).or_default() += count;
        }
        for (peer, count) in more.by_peer {
            *self.counted_peers.entry(peer).or_default() += count;
        }
    }
}

const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Whoever has one address of IPv6 has all of its network.
fn network(peer: Option<IpAddr>) -> IpAddr {
    match peer {
        Some(IpAddr::V6(address)) => {
            const NETWORK: u128 = !0 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK))
        }
        Some(address) => address,
        None => NOBODY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::datatypes::Millis;
    use crate::ledger::record::{Actor, Asked};

    fn denied(peer: u32) -> Denied {
        let peer = Some(IpAddr::V4(Ipv4Addr::from_bits(peer)));
        let actor = Actor { peer, ..Actor::default() };
        Denied { route: Asked::Status, job: None, actor, status: 401, code: "login".into() }
    }

    #[test]
    fn a_flood_is_counted_and_the_first_of_it_are_recorded() {
        let (mut denials, at) = (Denials::default(), Instant::from(Millis(0)));
        let second = Duration::from_secs(1);
        let admit = |denials: &mut Denials, peer, times, now| {
            (0..times).filter(|_| denials.admit(&denied(peer), now, at)).count()
        };
        assert_eq!(admit(&mut denials, 1, 10_000, second), 100, "of one peer");
        assert_eq!(admit(&mut denials, 2, 50, second), 50, "another one has places of its own");
        let of_many: usize = (3..3_000).map(|peer| admit(&mut denials, peer, 10, second)).sum();
        assert_eq!(of_many, 150, "of all together");
        assert!(denials.peers.len() <= MOST_PEERS && denials.counted_peers.len() <= MOST_PEERS);
        let counted = denials.take().expect("they were counted");
        assert_eq!(counted.count, 9_900 + 29_970 - 150);
        assert_eq!(counted.by_peer.len(), MOST_NAMED);
        assert_eq!(counted.by_peer.values().sum::<u64>() + counted.other_peers, counted.count, "nobody is lost");
        assert_eq!(counted.by_status, BTreeMap::from([("401".into(), counted.count)]));
        assert_eq!(denials.take(), None);
        // A day of it.
        let day: usize = (0..86_400).map(|passed| admit(&mut denials, 1, 5, second * (2 + passed))).sum();
        assert!((2_000..4_000).contains(&day), "{day} of one peer");
        denials.give_back(counted.clone());
        assert!(denials.take().is_some_and(|more| more.count > counted.count));
    }

    #[test]
    fn peers_of_one_network_are_one() {
        let of = |text: &str| network(Some(text.parse().expect("an address")));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
