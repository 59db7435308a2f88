//! Ways to later pages: frozen lists of ids, positions in an order, numbers to skip.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base64;
use crate::query::Search;

/// A place in an order: that of the last entry of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) millis: i64,
    pub(crate) pid: u64,
    pub(crate) id: String,
}

impl Position {
    /// The opaque value of `_cursor`.
    pub(crate) fn encode(&self) -> String {
        base64::encode(format!("{}:{}:{}", self.millis, self.pid, self.id).as_bytes())
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        let text = String::from_utf8(base64::decode(text)?).ok()?;
        let mut parts = text.splitn(3, ':');
        let millis = parts.next()?.parse().ok()?;
        let pid = parts.next()?.parse().ok()?;
        Some(Self { millis, pid, id: parts.next()?.to_owned() })
    }
}

/// Lists kept at a time; the oldest one goes first.
const MOST_LISTS: usize = 4_096;
/// Ids kept in all lists together.
const MOST_IDS: usize = 50_000_000;

/// The result lists of searches, kept for their later pages.
#[derive(Debug, Default)]
pub(crate) struct ResultLists {
    lists: HashMap<String, Arc<ResultList>>,
    ages: VecDeque<String>,
    held_ids: usize,
    made: u64,
}

/// A search and what it had found when it was first asked.
#[derive(Debug)]
pub(crate) struct ResultList {
    pub(crate) search: Search,
    pub(crate) pids: Vec<u64>,
    /// Later pages that were asked for.
    pub(crate) served: AtomicUsize,
}

impl ResultLists {
    /// Keeps a list and gives the id by which it is asked for.
    pub(crate) fn keep(&mut self, list: ResultList, seed: u64) -> String {
        self.made += 1;
        let mut rng = crate::rng::Rng::new(seed ^ self.made.rotate_left(32));
        let (one, other) = (rng.next(), rng.next());
        let id = format!("{:08x}-{:04x}-4{:03x}-{other:016x}", one >> 32, one >> 16 & 0xffff, one & 0xfff);
        self.held_ids += list.pids.len();
        self.lists.insert(id.clone(), Arc::new(list));
        self.ages.push_back(id.clone());
        while self.ages.len() > MOST_LISTS || (self.held_ids > MOST_IDS && self.ages.len() > 1) {
            let oldest = self.ages.pop_front().and_then(|oldest| self.lists.remove(&oldest));
            self.held_ids -= oldest.map_or(0, |list| list.pids.len());
        }
        id
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<ResultList>> {
        self.lists.get(id).cloned()
    }

    /// The list of a later page, unless so many were asked for already.
    pub(crate) fn serve(&self, id: &str, most: Option<usize>) -> Option<Arc<ResultList>> {
        let list = self.get(id)?;
        let served = list.served.fetch_add(1, Ordering::Relaxed);
        most.is_none_or(|most| served < most).then_some(list)
    }

    /// Forgets all lists: their links answer 410.
    pub(crate) fn expire(&mut self) {
        let made = self.made;
        *self = Self { made, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_link() {
        let position = Position { millis: -5, pid: 7, id: "a:b".to_owned() };
        assert_eq!(Position::decode(&position.encode()), Some(position));
        assert_eq!(Position::decode("bm9uc2Vuc2U="), None);
    }
}
