//! How JSON is asked for: as FHIR says, and where a server answers that with 406, in the ways that older ones know.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU8, Ordering};

/// A way to ask for JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Media(u8);

/// The way that is asked in at present, shared by all searches.
#[derive(Debug, Default)]
pub(crate) struct MediaInUse(AtomicU8);

impl Media {
    const FHIR_JSON: Self = Self(0);
    const FORMAT: Self = Self(2);

    /// The value of `Accept`.
    pub(crate) fn accept(self) -> &'static str {
        if self == Self::FHIR_JSON { "application/fhir+json" } else { "application/json" }
    }

    /// The path and query to ask for.
    pub(crate) fn target(self, target: &str) -> Cow<'_, str> {
        let query = target.split_once('?').map(|(_, query)| query);
        let names = |query: &str| query.split('&').any(|pair| pair.starts_with("_format="));
        match query {
            _ if self != Self::FORMAT => Cow::Borrowed(target),
            Some(query) if names(query) => Cow::Borrowed(target),
            Some(_) => Cow::Owned(format!("{target}&_format=json")),
            None => Cow::Owned(format!("{target}?_format=json")),
        }
    }
}

impl MediaInUse {
    pub(crate) fn now(&self) -> Media {
        Media(self.0.load(Ordering::Relaxed))
    }

    /// After a 406 to a request made in the way `refused`: whether there is another way to ask. After the last one the
    /// next request begins anew: that server would not have it in any way.
    pub(crate) fn refused(&self, refused: Media) -> bool {
        let is_last = refused == Media::FORMAT;
        let next = if is_last { 0 } else { refused.0 + 1 };
        // Another request may have gone on already.
        let _moved_on = self.0.compare_exchange(refused.0, next, Ordering::Relaxed, Ordering::Relaxed);
        !is_last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_tried_once_and_the_last_one_stays() {
        let in_use = MediaInUse::default();
        let first = in_use.now();
        assert_eq!(
            (first.accept(), &*first.target("/fhir/Patient?a=b")),
            ("application/fhir+json", "/fhir/Patient?a=b")
        );
        assert!(in_use.refused(first));
        let second = in_use.now();
        assert_eq!((second.accept(), &*second.target("/fhir/metadata")), ("application/json", "/fhir/metadata"));
        assert!(in_use.refused(first), "a request that was under way meanwhile");
        assert_eq!(in_use.now(), second);
        assert!(in_use.refused(second));
        let third = in_use.now();
        assert_eq!(third.target("/fhir/metadata"), "/fhir/metadata?_format=json");
        assert_eq!(third.target("/fhir?_getpages=1"), "/fhir?_getpages=1&_format=json");
        assert_eq!(third.target("/fhir/Patient?_format=json&a=b"), "/fhir/Patient?_format=json&a=b");
        assert!(!in_use.refused(third));
        assert_eq!(in_use.now(), first);
    }
}
