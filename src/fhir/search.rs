//! `SearchQuery`, one upstream search as a value.

use std::borrow::Cow;
use std::fmt;

use super::datatypes::{Id, Millis};
use super::resource_type::ResourceType;

/// One search of one type. Its `Debug` shows no value: they may be patients' ids (SEC-41).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SearchQuery {
    resource_type: ResourceType,
    params: Vec<(Cow<'static, str>, String)>,
    manner: Manner,
    /// Whose record is asked for, of which the type is a part.
    record_of: Option<Id>,
}

/// How a search is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    /// Its parameters in the URL.
    #[default]
    Get,
    /// As a form, to `_search`: for what is too long for a URL.
    Post,
}

/// How a value of a date parameter is held against a resource's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    GreaterOrEqual,
    LessThan,
    LessOrEqual,
}

/// Which end comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Ascending,
    Descending,
}

impl SearchQuery {
    pub(crate) fn new(resource_type: ResourceType) -> Self {
        Self { resource_type, params: Vec::new(), manner: Manner::Get, record_of: None }
    }

    /// What `$everything` of a patient holds of one type.
    pub(crate) fn record_of(patient: Id, resource_type: ResourceType) -> Self {
        let query = Self { record_of: Some(patient), ..Self::new(resource_type) };
        query.param("_type", resource_type.as_str().to_owned())
    }

    /// The patient whose record is asked for, if it is no search.
    pub(crate) fn patient(&self) -> Option<&Id> {
        self.record_of.as_ref()
    }

    /// The same search, sent so.
    pub(crate) fn sent(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }

    pub(crate) fn manner(&self) -> Manner {
        self.manner
    }

    pub(crate) fn resource_type(&self) -> ResourceType {
        self.resource_type
    }

    pub(crate) fn param(mut self, name: impl Into<Cow<'static, str>>, value: String) -> Self {
        self.params.push((name.into(), value));
        self
    }

    pub(crate) fn last_updated(self, prefix: Prefix, value: Millis) -> Self {
        let prefix = match prefix {
            Prefix::GreaterOrEqual => "ge",
            Prefix::LessThan => "lt",
            Prefix::LessOrEqual => "le",
        };
        let value = value.to_string();
        // Some servers take whole seconds only. As either of these bounds a second is the same as its beginning.
        let value = match value.strip_suffix(".000Z") {
            Some(whole) if prefix != "le" => format!("{whole}Z"),
            Some(_) | None => value,
        };
        self.param("_lastUpdated", format!("{prefix}{value}"))
    }

    /// Of all that it asks for only what has one of these ids. A later call replaces an earlier one.
    pub(crate) fn ids(mut self, ids: String) -> Self {
        self.params.retain(|(name, _)| name != "_id");
        self.param("_id", ids)
    }

    /// Resources on a page. A later call replaces an earlier one.
    pub(crate) fn count(mut self, count: u32) -> Self {
        self.params.retain(|(name, _)| name != "_count");
        self.param("_count", count.to_string())
    }

    pub(crate) fn summary_count(self) -> Self {
        self.param("_summary", "count".to_owned())
    }

    pub(crate) fn total_accurate(self) -> Self {
        self.param("_total", "accurate".to_owned())
    }

    /// Only what inventories need, where the server can leave out the rest.
    pub(crate) fn ids_only(self) -> Self {
        self.param("_elements", "id,meta".to_owned())
    }

    pub(crate) fn sort_last_updated(self, direction: Direction) -> Self {
        let key = match direction {
            Direction::Ascending => "_lastUpdated",
            Direction::Descending => "-_lastUpdated",
        };
        self.param("_sort", key.to_owned())
    }

    /// The query string, each value escaped once.
    pub(crate) fn to_query(&self) -> String {
        let mut query = String::new();
        for (name, value) in &self.params {
            if !query.is_empty() {
                query.push('&');
            }
            escape(name, &mut query);
            query.push('=');
            escape(value, &mut query);
        }
        query
    }
}

impl fmt::Debug for SearchQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.params.iter().map(|(name, _)| &**name).collect();
        write!(f, "SearchQuery({} by {})", self.resource_type, names.join(", "))
    }
}

/// Whether a `self` link, where it has a query, repeats a parameter: one that a server leaves out it did not use.
pub(crate) fn is_asked_by(own: &str, name: &str) -> bool {
    let Some((_, query)) = own.split_once('?') else { return true };
    query.split('&').any(|pair| {
        let (begin, rest) = (pair.get(..name.len()), pair.get(name.len()..).unwrap_or_default());
        begin.is_some_and(|own| own.eq_ignore_ascii_case(name))
            && (rest.starts_with(['=', ':', '%']) || rest.is_empty())
    })
}

/// Unreserved characters and those that search values are made of stay readable; all others are escaped.
pub(crate) fn escape(text: &str, query: &mut String) {
    use fmt::Write;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~,:/|".contains(&byte) {
            // `|` is not allowed in a URI; everything else of these is.
            if byte == b'|' { query.push_str("%7C") } else { query.push(char::from(byte)) }
        } else {
            write!(query, "%{byte:02X}").expect("a String takes all that is written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_once_and_never_shown() {
        let query = SearchQuery::new(ResourceType::PATIENT)
            .last_updated(Prefix::LessThan, Millis(0))
            .param("identifier", "http://x|a&b=c+d é".to_owned())
            .ids("a,b".to_owned())
            .count(5)
            .ids("a".to_owned())
            .count(7);
        assert_eq!(
            query.to_query(),
            "_lastUpdated=lt1970-01-01T00:00:00Z&identifier=http://x%7Ca%26b%3Dc%2Bd%20%C3%A9&_id=a&_count=7"
        );
        assert_eq!(format!("{query:?}"), "SearchQuery(Patient by _lastUpdated, identifier, _id, _count)");
    }
}
