//! Filters: what is sent to search by is what may be used to filter, and nothing of it steers the search.

use crate::fhir::filter::{Escapes, TypeFilter};
use crate::fhir::search::SearchQuery;

/// What may be used of what begins with `_`.
const OF_ALL_TYPES: [&str; 4] = ["_profile", "_security", "_source", "_tag"];

/// A byte for where it stands, then the value of `_typeFilter`.
pub(super) fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let escapes = if kind % 2 == 0 { Escapes::Once } else { Escapes::CommasOnly };
    let Ok(filters) = TypeFilter::parse_list(text, escapes) else { return };
    for TypeFilter { resource_type, filter } in filters {
        for (name, value) in filter.pairs() {
            let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            assert!(is_plain && !name.is_empty(), "the parameter `{name}` is more than a name");
            assert!(!name.starts_with('_') || OF_ALL_TYPES.contains(&name), "the parameter `{name}` steers the search");
            assert!(!value.is_empty() && !value.chars().any(char::is_control), "{value:?}");
        }
        let query = filter.narrow(SearchQuery::new(resource_type)).to_query();
        assert!(query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{query}");
        let sent: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let meant: Vec<_> = filter.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(sent, meant, "what is sent is what was read");
        let shown = format!("{resource_type}?{filter}");
        assert_eq!(TypeFilter::parse(&shown, Escapes::Once), Ok(TypeFilter { resource_type, filter }), "{shown}");
    }
}
