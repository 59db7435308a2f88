//! Writes `id`, `meta.versionId` and `meta.lastUpdated` into a resource's own text.
//!
//! The text is never rebuilt from a tree: `1.00` stays `1.00`, and an escape stays the escape it was.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::{Context, bail};

/// Where a resource's text can be edited. Offsets are bytes of the text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    resource_type: String,
    id: Option<String>,
    /// After the value of `id`, or of `resourceType` where there is no id: a `,` may be written here.
    after_id: usize,
    meta: Option<Meta>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Meta {
    /// After the `{` of `meta`.
    start: usize,
    empty: bool,
    version_id: Option<Range<usize>>,
    last_updated: Option<Range<usize>>,
}

impl Shape {
    /// Looks through the root object and its `meta`. `text` must already be known to be JSON.
    ///
    /// # Errors
    /// If the root is no object, has no `resourceType`, or `meta` is no object.
    pub(crate) fn of(text: &str) -> anyhow::Result<Self> {
        let root = members(text, skip_blanks(text.as_bytes(), 0)).context("a resource is a JSON object")?;
        let named = |name: &str| root.iter().find(|member| member.key == name);
        let Some(type_member) = named("resourceType") else { bail!("no resourceType") };
        let resource_type: String = serde_json::from_str(&text[type_member.value.clone()]).context("resourceType")?;
        let id = match named("id") {
            Some(member) => Some(serde_json::from_str(&text[member.value.clone()]).context("id")?),
            None => None,
        };
        let meta = match named("meta") {
            Some(member) => Some(Meta::of(text, member.value.start)?),
            None => None,
        };
        let after_id = named("id").unwrap_or(type_member).value.end;
        Ok(Self { resource_type, id, after_id, meta })
    }

    pub(crate) fn resource_type(&self) -> &str {
        &self.resource_type
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The end of the last place that [`Shape::stamp`] may touch.
    pub(crate) fn reach(&self) -> usize {
        let meta = self.meta.as_ref();
        let ends = meta.map(|meta| {
            let spans = [&meta.version_id, &meta.last_updated];
            spans.into_iter().flatten().map(|span| span.end).max().unwrap_or(meta.start)
        });
        self.after_id.max(ends.unwrap_or(0))
    }

    /// `text` with this id (where it had none), version and stamp; all other bytes as they were. `text` may be
    /// the beginning of the one that the shape was read from, if it holds all of [`Shape::reach`].
    pub(crate) fn stamp(&self, text: &str, id: &str, version: u64, last_updated: Option<&str>) -> String {
        let mut edits: Vec<(Range<usize>, String)> = Vec::with_capacity(3);
        let mut after_id = String::new();
        if self.id.is_none() {
            after_id = format!(r#","id":"{id}""#);
        }
        let updated = last_updated.map(|at| format!(r#""lastUpdated":"{at}""#));
        match &self.meta {
            None => {
                let updated = updated.map(|member| format!(",{member}")).unwrap_or_default();
                after_id = format!(r#"{after_id},"meta":{{"versionId":"{version}"{updated}}}"#);
            }
            Some(meta) => {
                let mut missing = Vec::new();
                match &meta.version_id {
                    Some(span) => edits.push((span.clone(), format!(r#""{version}""#))),
                    None => missing.push(format!(r#""versionId":"{version}""#)),
                }
                match (&meta.last_updated, last_updated) {
                    (Some(span), Some(at)) => edits.push((span.clone(), format!(r#""{at}""#))),
                    (None, _) => missing.extend(updated),
                    // A server that keeps no stamps shows what a client once wrote there.
                    (Some(_), None) => {}
                }
                if !missing.is_empty() {
                    let comma = if meta.empty { "" } else { "," };
                    edits.push((meta.start..meta.start, missing.join(",") + comma));
                }
            }
        }
        if !after_id.is_empty() {
            edits.push((self.after_id..self.after_id, after_id));
        }
        edits.sort_by_key(|(span, _)| span.start);
        apply(text, &edits)
    }
}

impl Meta {
    fn of(text: &str, at: usize) -> anyhow::Result<Self> {
        let inside = members(text, at).context("meta is a JSON object")?;
        let value = |name: &str| inside.iter().find(|member| member.key == name).map(|member| member.value.clone());
        Ok(Self {
            start: at + 1,
            empty: inside.is_empty(),
            version_id: value("versionId"),
            last_updated: value("lastUpdated"),
        })
    }
}

fn apply(text: &str, edits: &[(Range<usize>, String)]) -> String {
    let added: usize = edits.iter().map(|(_, new)| new.len()).sum();
    let mut edited = String::with_capacity(text.len() + added);
    let mut copied = 0;
    for (span, new) in edits {
        edited.push_str(&text[copied..span.start]);
        edited.push_str(new);
        copied = span.end;
    }
    edited.push_str(&text[copied..]);
    edited
}

struct Member<'t> {
    key: Cow<'t, str>,
    value: Range<usize>,
}

/// The members of the object that begins at `at`; `None` where there is no object or it does not end.
fn members(text: &str, at: usize) -> Option<Vec<Member<'_>>> {
    let bytes = text.as_bytes();
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let mut found = Vec::new();
    let mut cursor = skip_blanks(bytes, at + 1);
    while bytes.get(cursor)? != &b'}' {
        if bytes[cursor] == b',' {
            cursor = skip_blanks(bytes, cursor + 1);
        }
        let key_end = skip_string(bytes, cursor)?;
        let key = unquote(text.get(cursor..key_end)?)?;
        let colon = skip_blanks(bytes, key_end);
        let start = skip_blanks(bytes, colon + 1);
        let end = skip_value(bytes, start)?;
        found.push(Member { key, value: start..end });
        cursor = skip_blanks(bytes, end);
    }
    Some(found)
}

fn unquote(quoted: &str) -> Option<Cow<'_, str>> {
    if quoted.contains('\\') {
        return serde_json::from_str(quoted).ok().map(Cow::Owned);
    }
    quoted.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed)
}

fn skip_blanks(bytes: &[u8], at: usize) -> usize {
    let blanks = bytes.iter().skip(at).take_while(|byte| byte.is_ascii_whitespace()).count();
    at + blanks
}

/// The end of the string that begins at `at`.
fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut cursor = at + 1;
    loop {
        match bytes.get(cursor)? {
            b'"' => return Some(cursor + 1),
            b'\\' => cursor += 2,
            _ => cursor += 1,
        }
    }
}

/// The end of the value that begins at `at`.
fn skip_value(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut cursor = at;
    loop {
        match bytes.get(cursor)? {
            b'"' => {
                cursor = skip_string(bytes, cursor)?;
                if depth == 0 {
                    return Some(cursor);
                }
            }
            b'{' | b'[' => {
                depth += 1;
                cursor += 1;
            }
            b'}' | b']' | b',' if depth == 0 => return Some(cursor),
            b'}' | b']' => {
                depth -= 1;
                cursor += 1;
                if depth == 0 {
                    return Some(cursor);
                }
            }
            byte if depth == 0 && byte.is_ascii_whitespace() => return Some(cursor),
            _ => cursor += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(text: &str, last_updated: Option<&str>) -> String {
        Shape::of(text).expect("a resource").stamp(text, "x", 3, last_updated)
    }

    #[test]
    fn only_id_version_and_stamp_are_written() {
        for (given, expected) in [
            (
                r#"{"resourceType":"Basic","id":"a","v":1.00}"#,
                r#"{"resourceType":"Basic","id":"a","meta":{"versionId":"3","lastUpdated":"T"},"v":1.00}"#,
            ),
            (
                r#"{ "resourceType" : "Basic" }"#,
                r#"{ "resourceType" : "Basic","id":"x","meta":{"versionId":"3","lastUpdated":"T"} }"#,
            ),
            (
                r#"{"meta":{},"id":"a","resourceType":"Basic","t":"\u00e9\"}"}"#,
                r#"{"meta":{"versionId":"3","lastUpdated":"T"},"id":"a","resourceType":"Basic","t":"\u00e9\"}"}"#,
            ),
            (
                r#"{"resourceType":"Basic","id":"a","meta":{"lastUpdated":"old","versionId":"9","tag":[]}}"#,
                r#"{"resourceType":"Basic","id":"a","meta":{"lastUpdated":"T","versionId":"3","tag":[]}}"#,
            ),
            (
                r#"{"resourceType":"Basic","id":"a","meta":{ "profile":["p"] }}"#,
                r#"{"resourceType":"Basic","id":"a","meta":{"versionId":"3","lastUpdated":"T", "profile":["p"] }}"#,
            ),
            (
                r#"{"contained":[{"id":"c","meta":{}}],"resourceType":"Basic","id":"a"}"#,
                r#"{"contained":[{"id":"c","meta":{}}],"resourceType":"Basic","id":"a","meta":{"versionId":"3","lastUpdated":"T"}}"#,
            ),
        ] {
            assert_eq!(stamped(given, Some("T")), expected);
        }
    }

    #[test]
    fn a_server_without_stamps_writes_the_version_alone() {
        let given = r#"{"resourceType":"Basic","id":"a"}"#;
        assert_eq!(stamped(given, None), r#"{"resourceType":"Basic","id":"a","meta":{"versionId":"3"}}"#);
    }

    #[test]
    fn what_is_no_resource_is_refused() {
        for text in ["[]", "1", r#"{"id":"a"}"#, r#"{"resourceType":"Basic","meta":[]}"#, r#"{"resourceType":"#] {
            assert!(Shape::of(text).is_err(), "{text}");
        }
    }
}
