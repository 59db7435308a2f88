//! What was found out about where the files go, and what that means.

mod lines;

use std::fmt;
use std::time::Duration;

use crate::output::examine::Findings;
use crate::output::signing::{Link, LinkKeys, LinkRefused};
use crate::output::{Room, Signing};
use lines::Entry;

/// Whose an output is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    Nobody,
    Us,
    SomebodyElse,
    /// It cannot be told, and why.
    Unknown(String),
}

/// What was found out about the storage of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    /// As it is configured.
    pub(crate) location: String,
    pub(crate) state: State,
}

/// How far it could be looked at.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// A local folder that is not there yet.
    Missing,
    /// It cannot be opened, and why.
    Unopened(String),
    Opened(Box<Opened>),
}

/// A storage that could be opened.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) owner: Owner,
    /// Of a local disk.
    pub(crate) room: Option<Room>,
    /// Of links that the storage answers.
    pub(crate) signing: Option<Signing>,
    /// Whether links that we answer open what they are for and nothing else; `None` if there are none.
    pub(crate) own_links: Option<bool>,
    /// How long links are to be good.
    pub(crate) link_ttl: Duration,
    /// Whether it may be public, as an operator has said.
    pub(crate) is_acknowledged: bool,
    /// The folder that it was tried in.
    pub(crate) folder: String,
    /// What was tried; of an output of others only what anybody gets of it.
    pub(crate) findings: Findings,
}

impl Storage {
    /// The worst that can be found, if it was: what is kept there is for anybody.
    pub(crate) fn alarm(&self) -> Option<String> {
        let State::Opened(opened) = &self.state else { return None };
        let exposure = opened.findings.exposure.as_ref().filter(|exposure| exposure.is_open())?;
        let but = if opened.is_acknowledged { " (output.public_bucket: acknowledged)" } else { "" };
        Some(lines::alarm(exposure, but))
    }

    /// Whether exports can go there as they are meant to.
    pub(crate) fn is_fit(&self) -> bool {
        !self.entries().iter().any(|entry| entry.is_unfit)
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::good("storage", &self.location, "")];
        match &self.state {
            State::Missing => entries.push(Entry::good(
                "folder",
                "missing",
                "serve makes it, for its own user; nothing could be tried before",
            )),
            State::Unopened(why) => entries.push(Entry::unfit("", "unfit", why)),
            State::Opened(opened) => opened.entries(&mut entries),
        }
        entries
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { name, value, means, .. } in self.entries() {
            writeln!(f, "{}", format!("{name:<14}{value:<15} {means}").trim_end())?;
        }
        Ok(())
    }
}

/// Whether our own links open one file, for a time, and nothing else; nothing of it depends on `keys` but the signatures.
pub(crate) fn own_links_hold(keys: &LinkKeys, others: &LinkKeys) -> bool {
    const NOW: u64 = 1_767_225_600;
    const UNTIL: u64 = NOW + 60;
    let link = |file| Link { base: "127.0.0.1/fhir", job: "doctor", file };
    let (first, second) = (link("first.ndjson"), link("second.ndjson"));
    let query = keys.sign(first, UNTIL);
    let (head, tail) = query.split_at(query.len() - 20);
    let other = if tail.starts_with('A') { 'B' } else { 'A' };
    let changed = format!("{head}{other}{}", &tail[1..]);
    keys.verify(first, &query, NOW) == Ok(())
        && keys.verify(first, &query, UNTIL) == Err(LinkRefused::Expired)
        && keys.verify(first, &changed, NOW) == Err(LinkRefused::Signature)
        && keys.verify(second, &query, NOW) == Err(LinkRefused::Signature)
        && others.verify(first, &query, NOW) == Err(LinkRefused::Signature)
}

#[cfg(test)]
mod tests;
