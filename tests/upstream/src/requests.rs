//! What was asked of the server, kept for tests to look at.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, Method};

/// Requests kept; the oldest one goes first.
const MOST_SEEN: usize = 100_000;

/// One request, as it arrived.
#[derive(Debug, Clone)]
pub struct RequestSeen {
    /// Its method.
    pub method: Method,
    /// Its path, the base included.
    pub path: String,
    /// Its query, without the question mark; of a search by POST the form's text.
    pub query: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Whether it came by a connection whose client has shown a certificate.
    pub has_certificate: bool,
    /// The server's time when it came.
    pub at: DateTime<Utc>,
}

type Matches = Box<dyn Fn(&RequestSeen) -> bool + Send + Sync>;

/// What happens when a request comes that was waited for, once.
pub(crate) enum Then {
    /// The server is away for so long.
    Away(Duration),
    /// This is done before the request is answered.
    Do(Box<dyn FnOnce() + Send + Sync>),
}

/// The requests seen, and those waited for.
#[derive(Default)]
pub(crate) struct RequestLog {
    seen: VecDeque<RequestSeen>,
    watched: Vec<(Matches, Then)>,
}

impl RequestLog {
    /// Notes a request. If one was waited for that this is: what happens then.
    pub(crate) fn note(&mut self, request: RequestSeen) -> Option<Then> {
        let hit = self.watched.iter().position(|(matches, _)| matches(&request));
        if self.seen.len() == MOST_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(request);
        hit.map(|hit| self.watched.remove(hit).1)
    }

    pub(crate) fn watch_for(&mut self, matches: Matches, then: Then) {
        self.watched.push((matches, then));
    }

    pub(crate) fn seen(&self) -> Vec<RequestSeen> {
        self.seen.iter().cloned().collect()
    }
}
