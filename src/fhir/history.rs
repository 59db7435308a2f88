//! A page of a `_history`, in as far as exports ask it: what was deleted, and the newest version that lives.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::bundle::{Entry as Resource, Link, Scope, link_of};
use super::datatypes::{Id, Instant};
use super::resource_type::ResourceType;

/// One page of a history, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HistoryPage {
    /// Resources of the type asked for that have a deletion among their versions.
    pub(crate) deleted: Vec<Id>,
    /// The first version on this page that is no deletion, as it came; `None` if a later one on it is newer.
    pub(crate) living: Option<Vec<u8>>,
    pub(crate) next: Option<String>,
}

/// What one page of a resource's history says of the version that was current at some instant.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    Version(Box<Resource>),
    /// It was not there, or nothing shows that it was.
    Absent,
    /// Older versions stand on the page behind this link.
    Before(String),
}

/// Looks through a resource's versions, newest first, for the one that was current at `instant`.
#[derive(Debug)]
pub(crate) struct LookBack<'a> {
    id: &'a Id,
    scope: Scope,
    instant: Instant,
    /// Histories do not say when a deletion was made. One that lies between a version that is too new and an older one may
    /// have been made before `instant`: then nothing shows that the older one was current.
    deleted: bool,
    /// The stamp of the latest version that was looked at: later ones on the way down are older.
    below: Option<Instant>,
}

impl<'a> LookBack<'a> {
    pub(crate) fn new(id: &'a Id, scope: Scope, instant: Instant) -> Self {
        Self { id, scope, instant, deleted: false, below: None }
    }

    /// Looks through one page, after all newer ones.
    ///
    /// # Errors
    /// If the answer is no history, or one that does not begin with the newest version.
    pub(crate) fn page(&mut self, json: &[u8]) -> Result<Then, NotAHistory> {
        let bundle = Bundle::parse(json)?;
        let mut then: Option<Then> = None;
        for entry in &bundle.entry {
            if entry.is_deletion() {
                self.deleted = true;
                continue;
            }
            let resource = entry.resource.and_then(|raw| Resource::parse(raw.get().as_bytes(), self.scope));
            let Some(resource) = resource.filter(|resource| resource.id == *self.id) else { continue };
            let Some(stamp) = resource.last_updated else { continue };
            if self.below.is_some_and(|below| stamp > below) {
                return Err(NotAHistory);
            }
            self.below = Some(stamp);
            if then.is_some() {
                continue;
            }
            if stamp > self.instant {
                self.deleted = false;
            } else {
                then = Some(if self.deleted { Then::Absent } else { Then::Version(Box::new(resource)) });
            }
        }
        if let Some(then) = then {
            return Ok(then);
        }
        Ok(link_of(&bundle.link, "next").map_or(Then::Absent, Then::Before))
    }
}

/// The answer is no history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a history")]
pub(crate) struct NotAHistory;

#[derive(Deserialize)]
struct Bundle<'a> {
    #[serde(rename = "resourceType", borrow)]
    resource_type: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    link: Vec<Link<'a>>,
    #[serde(borrow, default)]
    entry: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    full_url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
}

impl<'a> Bundle<'a> {
    fn parse(json: &'a [u8]) -> Result<Self, NotAHistory> {
        let bundle: Self = serde_json::from_slice(json).map_err(|_| NotAHistory)?;
        let is_history = bundle.resource_type.as_deref() == Some("Bundle") && bundle.kind.as_deref() == Some("history");
        if is_history { Ok(bundle) } else { Err(NotAHistory) }
    }
}

impl Entry<'_> {
    fn is_deletion(&self) -> bool {
        self.request.as_ref().and_then(|request| request.method.as_deref()) == Some("DELETE")
    }
}

impl HistoryPage {
    /// Reads an answer to a history of `resource_type`. What names another type or no id is passed over: a deletion
    /// that nobody can name is none that could be listed.
    ///
    /// # Errors
    /// If the answer is no history.
    pub(crate) fn parse(json: &[u8], resource_type: ResourceType) -> Result<Self, NotAHistory> {
        let bundle = Bundle::parse(json)?;
        let mut page = Self::default();
        let (mut living, mut is_newest_first): (Option<&RawValue>, bool) = (None, true);
        for entry in &bundle.entry {
            if !entry.is_deletion() {
                match (living, entry.resource) {
                    (None, first) => living = first,
                    (Some(first), Some(other)) => is_newest_first &= stamp(first) >= stamp(other),
                    (Some(_), None) => {}
                }
                continue;
            }
            let request = entry.request.as_ref();
            let named =
                request.and_then(|request| request.url.as_deref()).and_then(|url| self::named(url, resource_type));
            let full_url = || entry.full_url.as_deref().and_then(|url| self::named(url, resource_type));
            page.deleted.extend(named.or_else(full_url));
        }
        page.living = living.filter(|_| is_newest_first).map(|resource| resource.get().as_bytes().to_vec());
        page.next = link_of(&bundle.link, "next");
        Ok(page)
    }
}

/// When a version was made, as far as it says so.
fn stamp(resource: &RawValue) -> Option<Instant> {
    #[derive(Deserialize)]
    struct Stamped<'a> {
        #[serde(borrow)]
        meta: Option<Meta<'a>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta<'a> {
        #[serde(borrow)]
        last_updated: Option<Cow<'a, str>>,
    }
    let stamped: Stamped<'_> = serde_json::from_str(resource.get()).ok()?;
    Instant::parse(&stamped.meta?.last_updated?).ok()
}

/// The id in `…/Type/id` or `…/Type/id/_history/n`.
fn named(url: &str, resource_type: ResourceType) -> Option<Id> {
    let path = url.split(['?', '#']).next()?;
    let mut segments = path.split('/').rev().skip_while(|segment| segment.is_empty());
    let (mut id, mut name) = (segments.next()?, segments.next()?);
    if name == "_history" {
        (id, name) = (segments.next()?, segments.next()?);
    }
    (name == resource_type.as_str()).then(|| Id::parse(id).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who was allowed to see an older version need not be allowed to see the last one.
    #[test]
    fn a_history_that_begins_with_the_oldest_version_does_not_tell_the_last_one() {
        let version = |number: u32| {
            format!(
                r#"{{"resource":{{"resourceType":"Patient","id":"o","meta":{{"lastUpdated":"2026-01-0{number}T00:00:00Z"}}}}}}"#
            )
        };
        let unstamped = r#"{"resource":{"resourceType":"Patient","id":"o"}}"#.to_owned();
        let deletion = r#"{"request":{"method":"DELETE","url":"Patient/o"}}"#.to_owned();
        let [old, new] = [version(1), version(2)];
        for (entries, is_told) in [
            (vec![&deletion, &new, &old], true),
            (vec![&deletion, &new, &unstamped], true),
            (vec![&deletion, &new, &new], true),
            (vec![&old, &new, &deletion], false),
            (vec![&deletion, &unstamped, &new], false),
        ] {
            let entries = entries.into_iter().map(String::as_str).collect::<Vec<_>>().join(",");
            let history = format!(r#"{{"resourceType":"Bundle","type":"history","entry":[{entries}]}}"#);
            let page = HistoryPage::parse(history.as_bytes(), ResourceType::PATIENT).expect("a history");
            assert_eq!(page.living.is_some(), is_told, "{entries}");
        }
    }

    #[test]
    fn deletions_are_found_however_their_server_writes_them() {
        let history = r#"{"resourceType":"Bundle","type":"history","link":[{"relation":"next","url":"n"}],"entry":[
            {"request":{"method":"DELETE","url":"Patient/a/_history/3"},"response":{"status":"200 OK"}},
            {"fullUrl":"http://h/fhir/Patient/b","request":{"method":"DELETE","url":"x"}},
            {"request":{"method":"DELETE","url":"http://h/fhir/Patient/c"}},
            {"request":{"method":"DELETE","url":"Observation/d"}},
            {"request":{"method":"DELETE","url":"Patient/not an id"}},
            {"resource":{"resourceType":"Patient","id":"e"},"request":{"method":"PUT","url":"Patient/e"}},
            {"resource":{"resourceType":"Patient","id":"f"}}]}"#;
        let page = HistoryPage::parse(history.as_bytes(), ResourceType::PATIENT).expect("a history");
        assert_eq!(page.deleted.iter().map(Id::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(page.living.as_deref(), Some(&br#"{"resourceType":"Patient","id":"e"}"#[..]));
        assert_eq!(page.next.as_deref(), Some("n"));
    }

    /// What a history of one observation says of noon.
    fn at_noon(entries: &str) -> Then {
        let id = Id::parse("o").expect("an id");
        let noon = Instant::parse("2026-01-01T12:00:00Z").expect("an instant");
        let history = format!(
            r#"{{"resourceType":"Bundle","type":"history","link":[{{"relation":"next","url":"n"}}],"entry":[{entries}]}}"#
        );
        let scope = Scope::of(ResourceType::PATIENT);
        LookBack::new(&id, scope, noon).page(history.as_bytes()).expect("a history")
    }

    #[test]
    fn the_version_of_then_is_the_newest_that_is_not_too_new() {
        let version = |number: u32, time: &str| {
            format!(
                r#"{{"resource":{{"resourceType":"Patient","id":"o","meta":{{"versionId":"{number}","lastUpdated":"2026-01-01T{time}Z"}}}}}}"#
            )
        };
        let deletion = r#"{"request":{"method":"DELETE","url":"Patient/o"}}"#.to_owned();
        let other = r#"{"resource":{"resourceType":"Patient","id":"p","meta":{"lastUpdated":"2026-01-01T11:59:00Z"}}}"#;
        let [late, noon, early] = [version(3, "12:00:00.001"), version(2, "12:00:00"), version(1, "11:00:00")];
        for (entries, expected) in [
            (vec![&late, &noon, &early], Some("2")),
            (vec![&late, &early], Some("1")),
            (vec![&late, &deletion, &early], None),
            (vec![&deletion, &late, &early], Some("1")),
            (vec![&deletion, &early], None),
        ] {
            let entries = entries.into_iter().map(String::as_str).collect::<Vec<_>>().join(",");
            let found = match at_noon(&entries) {
                Then::Version(found) => found.version_id.map(String::from),
                Then::Absent => None,
                Then::Before(_) => panic!("it was there: {entries}"),
            };
            assert_eq!(found.as_deref(), expected, "{entries}");
        }
        let ascending = format!(r#"{{"resourceType":"Bundle","type":"history","entry":[{early},{late}]}}"#);
        let (id, noon) = (Id::parse("o").expect("an id"), Instant::parse("2026-01-01T12:00:00Z").expect("an instant"));
        let mut look_back = LookBack::new(&id, Scope::of(ResourceType::PATIENT), noon);
        look_back.page(ascending.as_bytes()).expect_err("the newest version has to come first");
        assert!(matches!(at_noon(&format!("{late},{other}")), Then::Before(next) if next == "n"));
    }

    #[test]
    fn other_answers_are_no_history() {
        for json in
            ["", "[]", r#"{"resourceType":"Bundle","type":"searchset"}"#, r#"{"resourceType":"OperationOutcome"}"#]
        {
            assert_eq!(HistoryPage::parse(json.as_bytes(), ResourceType::PATIENT), Err(NotAHistory), "{json}");
        }
    }
}
