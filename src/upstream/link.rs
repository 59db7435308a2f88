//! Next links: opaque, hostile, and often pointing to a host that nobody can reach. Whatever a link says, it is
//! asked of the configured upstream (SEC-01: credentials never go to a host that is named in a link).

use crate::fhir::resource_type::ResourceType;
use crate::profile::NextLinks;

/// Longest link that is followed, in bytes.
const LONGEST: usize = 16 * 1024;

/// The path and query to ask the upstream for, whose base path is `base` (`/fhir`; empty for the root).
///
/// The query is kept byte for byte: tokens hold what decoding would change. Of the path, what follows the base is
/// kept, or, where the server advertises another base, what begins with a type or an operation.
pub(crate) fn anchor(base: &str, link: &str) -> Option<String> {
    if link.len() > LONGEST || link.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'\\') {
        return None;
    }
    let link = link.split_once('#').map_or(link, |(link, _)| link);
    let (path, query) = link.split_once('?').map_or((link, None), |(path, query)| (path, Some(query)));
    // As some write `$everything`.
    let path = without_authority(path).replace("%24", "$");
    let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let base_segments: Vec<&str> = base.split('/').filter(|segment| !segment.is_empty()).collect();
    if let Some(rest) = segments.strip_prefix(base_segments.as_slice()) {
        segments = rest.to_vec();
    } else {
        let known = |segment: &&str| ResourceType::parse(segment).is_some() || segment.starts_with(['_', '$']);
        let start = segments.iter().position(known).unwrap_or(segments.len());
        segments.drain(..start);
    }
    if segments.iter().any(|segment| matches!(*segment, "." | "..") || segment.contains('%')) {
        return None;
    }
    let mut target = base.trim_end_matches('/').to_owned();
    for segment in &segments {
        target.push('/');
        target.push_str(segment);
    }
    if target.is_empty() {
        target.push('/');
    }
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    Some(target)
}

/// Drops scheme and host, also where the scheme was forgotten.
fn without_authority(path: &str) -> &str {
    let after_scheme = path.split_once("://").map(|(_, rest)| rest).or_else(|| path.strip_prefix("//"));
    if let Some(rest) = after_scheme {
        return rest.find('/').map_or("", |slash| &rest[slash..]);
    }
    match path.split_once('/') {
        Some((first, _)) if first.contains('.') || first.contains(':') => &path[first.len()..],
        Some(_) | None => path,
    }
}

/// What a link points into, by the parameters that carry its place. A small number is taken for a place as well, unless its
/// name says that it is none.
pub(crate) fn kind(link: &str) -> NextLinks {
    const NO_PLACES: [&str; 4] = ["_count", "_id", "patient", "subject"];
    /// What cursors are called, by whatever name.
    const CURSORS: [&str; 3] = ["cursor", "token", "after"];
    const LONGEST_PLACE: usize = 6;
    const OFFSETS: [&str; 9] =
        ["_offset", "_page", "_skip", "offset", "page", "skip", "startIndex", "_start", "_getpagesoffset"];
    let query = link.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let is_place = |(name, value): (&str, &str)| {
        let is_small = (1..=LONGEST_PLACE).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
        let is_known = NO_PLACES.contains(&name) || CURSORS.iter().any(|word| name.contains(word));
        OFFSETS.contains(&name) || (is_small && !is_known)
    };
    // HAPI's offset counts within a list that it keeps under an id; AWS's router calls one so that does not.
    let is_in_a_list = pairs.clone().any(|(name, _)| name == "_getpages");
    if !is_in_a_list && pairs.any(is_place) { NextLinks::Offsets } else { NextLinks::Stable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_asked_of_the_configured_upstream_wherever_it_points() {
        for (link, expected) in [
            ("http://127.0.0.1:9000/fhir/Patient?_cursor=a%2Bb", Some("/fhir/Patient?_cursor=a%2Bb")),
            ("http://evil.example/fhir/Patient?_cursor=a", Some("/fhir/Patient?_cursor=a")),
            ("https://other.example:8443/api/r4/Patient?x=%7C", Some("/fhir/Patient?x=%7C")),
            ("http://internal:8080/fhir?_getpages=1&_getpagesoffset=20", Some("/fhir?_getpages=1&_getpagesoffset=20")),
            ("http://internal:8080/hapi?_getpages=1", Some("/fhir?_getpages=1")),
            ("/Observation?_count=10&_offset=10", Some("/fhir/Observation?_count=10&_offset=10")),
            ("Observation?_count=10", Some("/fhir/Observation?_count=10")),
            ("?_page=2", Some("/fhir?_page=2")),
            ("//evil.example/fhir/Patient?a=b", Some("/fhir/Patient?a=b")),
            ("fqs.example.com/rest/Encounter?_after=x", Some("/fhir/Encounter?_after=x")),
            ("http://u@evil/fhir/Patient", Some("/fhir/Patient")),
            ("http://h/fhir/Patient/1/%24everything?_count=5", Some("/fhir/Patient/1/$everything?_count=5")),
            ("http://h/fhir/../admin", None),
            ("http://h/fhir/%2e%2e/admin", None),
            ("http://h/fhir/Patient?a=b c", None),
            ("http://h/fhir/Patient\r\nX: y", None),
        ] {
            assert_eq!(anchor("/fhir", link).as_deref(), expected, "{link}");
        }
        assert_eq!(anchor("", "http://h/Patient?_page=2").as_deref(), Some("/Patient?_page=2"));
        assert_eq!(anchor("/fhir", &format!("/fhir?{}", "x".repeat(LONGEST))), None);
    }

    #[test]
    fn only_a_place_in_a_list_made_anew_is_an_offset() {
        for (link, expected) in [
            ("http://h/fhir/Patient?_count=5&_offset=5", NextLinks::Offsets),
            ("/Patient?_page=2", NextLinks::Offsets),
            ("http://h/fhir?_getpages=u&_getpagesoffset=20&_offset=1", NextLinks::Stable),
            ("http://h/Patient?_count=20&_getpagesoffset=20", NextLinks::Offsets),
            ("http://h/fhir/Patient?_cursor=abc", NextLinks::Stable),
            ("http://h/Patient?_count=20&pageNumber=2", NextLinks::Offsets),
            ("http://h/Patient?from=40", NextLinks::Offsets),
            ("http://h/Patient?_id=7&_count=1&_cursor=abc", NextLinks::Stable),
            ("http://h/Patient?_count=20&since=1767225600000", NextLinks::Stable),
            ("http://h/Patient?_cursor=40", NextLinks::Stable),
            ("http://h/Patient?_after=40", NextLinks::Stable),
        ] {
            assert_eq!(kind(link), expected, "{link}");
        }
    }
}
