//! `_history` of a type or of the whole server, newest first, as HAPI answers it.

use chrono::{DateTime, Utc};
use http::StatusCode;

use crate::answer::{Answer, Refusal};
use crate::bundle::{Bundle, Head};
use crate::instant::Span;
use crate::settings::Settings;
use crate::store::Record;
use crate::upstream::SampleUpstream;

/// What a history is asked for.
struct Asked {
    since: Option<DateTime<Utc>>,
    count: usize,
    offset: usize,
}

impl Asked {
    fn parse(pairs: &[(String, String)], settings: &Settings) -> Result<Self, Refusal> {
        let mut asked = Self { since: None, count: settings.default_count, offset: 0 };
        for (name, value) in pairs {
            let bad = || Refusal::invalid(format!("invalid value of parameter {name}"));
            match name.as_str() {
                "_count" => asked.count = value.parse().map_err(|_| bad())?,
                "_offset" => asked.offset = value.parse().map_err(|_| bad())?,
                "_since" => {
                    // A full instant: a date alone is refused, as by HAPI.
                    let instant = Some(value).filter(|value| value.contains('T')).and_then(|value| Span::parse(value));
                    asked.since = instant.and_then(|span| DateTime::from_timestamp_millis(span.from));
                    asked.since.ok_or_else(bad)?;
                }
                _ => {}
            }
        }
        asked.count = asked.count.clamp(1, settings.max_count.unwrap_or(usize::MAX).max(1));
        Ok(asked)
    }
}

/// Answers the history at `path` (`_history`, `Type/_history` or `Type/id/_history`) of what `wanted` chooses.
///
/// # Errors
/// 400 for values that are not understood.
pub(crate) fn history(
    upstream: &SampleUpstream,
    base: &str,
    path: &str,
    pairs: &[(String, String)],
    wanted: impl Fn(&Record) -> bool,
) -> Result<Answer, Refusal> {
    let settings = upstream.settings();
    let asked = Asked::parse(pairs, &settings)?;
    // What is read under the lock may not ask for it once more.
    let loses_tail = settings.lies.history_loses_tail;
    let now = upstream.now();
    let since = |record: &Record| asked.since.is_none_or(|since| stamp(record) >= since);
    Ok(upstream.read(|store| {
        let mut found: Vec<(DateTime<Utc>, usize, &Record)> = store
            .records()
            .iter()
            .enumerate()
            .filter(|(_, record)| wanted(record) && since(record))
            .map(|(number, record)| (stamp(record), number, record))
            .collect();
        found.sort_unstable_by_key(|(at, number, _)| std::cmp::Reverse((*at, *number)));
        if loses_tail && asked.since.is_none() && path.split('/').count() < 3 {
            found.truncate(found.len() / 2);
        }
        let end = asked.offset.saturating_add(asked.count).min(found.len());
        let mut links = vec![("self", link(base, path, pairs, None))];
        if end < found.len() {
            links.push(("next", link(base, path, pairs, Some((asked.count, end)))));
        }
        let id = format!("{:016x}", now.timestamp_micros());
        let total = asked.since.is_none().then_some(found.len());
        let mut bundle = Bundle::open(&Head { kind: "history", id: &id, at: now, total, links: &links });
        for (_, _, record) in found.get(asked.offset..end).unwrap_or_default() {
            let full_url = format!("{base}/{}/{}", record.resource_type, record.id);
            bundle.entry(&full_url, record.body.as_ref(), &interaction(record));
        }
        Answer::fhir(StatusCode::OK, bundle.close())
    }))
}

/// The time by which histories are cut and ordered.
fn stamp(record: &Record) -> DateTime<Utc> {
    record.last_updated.unwrap_or(record.visible_at)
}

/// The members of an entry that tell what was done. As on HAPI, deletions carry no time.
fn interaction(record: &Record) -> String {
    let Record { resource_type, id, version, .. } = record;
    let (method, status) = match (&record.body, version) {
        (None, _) => ("DELETE", "200 OK"),
        (Some(_), 1) => ("POST", "201 Created"),
        (Some(_), _) => ("PUT", "200 OK"),
    };
    format!(
        r#","request":{{"method":"{method}","url":"{resource_type}/{id}/_history/{version}"}},"response":{{"status":"{status}","etag":"W/\"{version}\""}}"#
    )
}

fn link(base: &str, path: &str, pairs: &[(String, String)], next: Option<(usize, usize)>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let repeated = |name: &str| next.is_none() || !matches!(name, "_count" | "_offset");
    query.extend_pairs(pairs.iter().filter(|(name, _)| repeated(name)));
    if let Some((count, offset)) = next {
        query.extend_pairs([("_count", count.to_string()), ("_offset", offset.to_string())]);
    }
    let query = query.finish();
    let question_mark = if query.is_empty() { "" } else { "?" };
    format!("{base}/{path}{question_mark}{query}")
}
