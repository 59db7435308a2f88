//! A page of a `_history`, in as far as exports ask it: what was deleted, and the newest version that lives.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::bundle::{Link, link_of};
use super::datatypes::Id;
use super::resource_type::ResourceType;

/// One page of a history, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HistoryPage {
    /// Resources of the type asked for that have a deletion among their versions.
    pub(crate) deleted: Vec<Id>,
    /// The first version on this page that is no deletion, as it came.
    pub(crate) living: Option<Vec<u8>>,
    pub(crate) next: Option<String>,
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

impl HistoryPage {
    /// Reads an answer to a history of `resource_type`. What names another type or no id is passed over: a deletion
    /// that nobody can name is none that could be listed.
    ///
    /// # Errors
    /// If the answer is no history.
    pub(crate) fn parse(json: &[u8], resource_type: ResourceType) -> Result<Self, NotAHistory> {
        let bundle: Bundle<'_> = serde_json::from_slice(json).map_err(|_| NotAHistory)?;
        if bundle.resource_type.as_deref() != Some("Bundle") || bundle.kind.as_deref() != Some("history") {
            return Err(NotAHistory);
        }
        let mut page = Self::default();
        for entry in &bundle.entry {
            let request = entry.request.as_ref();
            let is_deletion = request.and_then(|request| request.method.as_deref()) == Some("DELETE");
            if !is_deletion {
                let living = entry.resource.map(|resource| resource.get().as_bytes().to_vec());
                page.living = page.living.or(living);
                continue;
            }
            let named =
                request.and_then(|request| request.url.as_deref()).and_then(|url| self::named(url, resource_type));
            let full_url = || entry.full_url.as_deref().and_then(|url| self::named(url, resource_type));
            page.deleted.extend(named.or_else(full_url));
        }
        page.next = link_of(&bundle.link, "next");
        Ok(page)
    }
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

    #[test]
    fn other_answers_are_no_history() {
        for json in
            ["", "[]", r#"{"resourceType":"Bundle","type":"searchset"}"#, r#"{"resourceType":"OperationOutcome"}"#]
        {
            assert_eq!(HistoryPage::parse(json.as_bytes(), ResourceType::PATIENT), Err(NotAHistory), "{json}");
        }
    }
}
