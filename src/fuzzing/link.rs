//! Links: only one that was minted opens its file, and a next link leads nowhere but below the upstream's base.

use crate::output::signing::{Link, LinkKey, LinkKeys};
use crate::upstream::link::anchor;

const LINK: Link<'_> = Link { base: "127.0.0.1:8080/fhir", job: "j1", file: "Patient.0001.ndjson" };
const EXPIRES: u64 = 1_800_000_000;

/// The first byte says what the others are: a query, changes of a good one, or a next link.
pub(super) fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => judge_query(&String::from_utf8_lossy(rest)),
        1 => judge_query(&super::exchanged(&keys().sign(LINK, EXPIRES), rest)),
        _ => ["/fhir", "/a/b", ""].iter().for_each(|base| judge_next(base, &String::from_utf8_lossy(rest))),
    }
}

fn keys() -> LinkKeys {
    let key = |id, byte| LinkKey::new(id, &[byte; 32]).expect("a plain id");
    LinkKeys::new(key("k1", 1), Some((key("k0", 2), u64::MAX)))
}

/// What is accepted has the parts of a link that one of the keys has made, and its time has not come.
fn judge_query(query: &str) {
    let now = EXPIRES - 1;
    let accepted = keys().verify(LINK, query, now).is_ok();
    let sorted = |query: &str| {
        let mut pairs: Vec<String> = query.split('&').map(str::to_owned).collect();
        pairs.sort_unstable();
        pairs
    };
    let minted = |key: &LinkKeys| {
        let expires = query.split('&').find_map(|pair| pair.strip_prefix("expires=")?.parse().ok());
        expires.is_some_and(|expires: u64| now < expires && sorted(&key.sign(LINK, expires)) == sorted(query))
    };
    let before = LinkKeys::new(LinkKey::new("k0", &[2; 32]).expect("a plain id"), None);
    assert_eq!(accepted, minted(&keys()) || minted(&before), "{query}");
}

/// What is asked of the upstream stays below its base, and the query is what the link says.
fn judge_next(base: &str, link: &str) {
    let Some(target) = anchor(base, link) else { return };
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    let below = path.strip_prefix(base).expect("it stays below the base");
    assert!(below.is_empty() || below.starts_with('/'), "{target}");
    assert!(path.is_empty() || path.starts_with('/'), "{target}");
    assert!(!path.contains("//") && path.split('/').all(|segment| !matches!(segment, "." | "..")), "{target}");
    assert!(target.bytes().all(|byte| byte > b' ' && byte != 0x7f && byte != b'\\'), "{target:?}");
    let sent = link.split_once('#').map_or(link, |(link, _)| link).split_once('?').map(|(_, query)| query);
    assert_eq!(query, sent, "no byte of the query is changed");
}
