//! Changes to a JSON text that keep every byte which they do not concern. Pure.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why a text was not edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PatchError {
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// Only the place is kept: the parser's own words may quote the text.
    #[error("the text is not the JSON that we expect (line {line}, column {column})")]
    NotJson { line: usize, column: usize },
    #[error("the resource is not a CapabilityStatement")]
    OtherResource,
    #[error("the statement describes no server")]
    NoServer,
    #[error("the statement has the member `{0}` twice")]
    Twice(&'static str),
}

impl From<serde_json::Error> for PatchError {
    fn from(error: serde_json::Error) -> Self {
        Self::NotJson { line: error.line(), column: error.column() }
    }
}

/// The first object of `list` whose member `name` is the string `value`.
pub(super) fn find<'a>(list: &'a RawValue, name: &'static str, value: &str) -> Result<Option<Object<'a>>, PatchError> {
    for item in serde_json::from_str::<Vec<&RawValue>>(list.get())? {
        let item = Object::parse(item)?;
        if item.text(name)?.as_deref() == Some(value) {
            return Ok(Some(item));
        }
    }
    Ok(None)
}

/// A JSON object, one level read.
pub(super) struct Object<'a> {
    pub(super) raw: &'a RawValue,
    pub(super) members: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    pub(super) fn parse(raw: &'a RawValue) -> Result<Self, PatchError> {
        let Members(members) = serde_json::from_str(raw.get())?;
        Ok(Self { raw, members })
    }

    pub(super) fn member(&self, name: &'static str) -> Result<Option<&'a RawValue>, PatchError> {
        let mut found = self.members.iter().filter(|(key, _)| key == name).map(|(_, raw)| *raw);
        let first = found.next();
        // Readers do not agree on which of two counts.
        if found.next().is_some() { Err(PatchError::Twice(name)) } else { Ok(first) }
    }

    /// A member's value if it is a string.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, PatchError> {
        Ok(self.member(name)?.and_then(|raw| serde_json::from_str(raw.get()).ok()))
    }
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Read)
    }
}

/// Changes to a text, none of which overlap.
pub(super) struct Edits<'a> {
    text: &'a str,
    list: Vec<(Range<usize>, String)>,
}

impl<'a> Edits<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, list: Vec::new() }
    }

    /// Where a part, borrowed from the text, lies in it.
    fn span(&self, part: &RawValue) -> Range<usize> {
        let start = part.get().as_ptr().addr() - self.text.as_ptr().addr();
        start..start + part.get().len()
    }

    pub(super) fn replace(&mut self, part: &RawValue, with: String) {
        self.list.push((self.span(part), with));
    }

    /// Adds an item to the end of an object or array that has `length` of them.
    pub(super) fn append(&mut self, container: &RawValue, length: usize, item: &str) {
        let end = self.span(container).end - 1;
        let comma = if length == 0 { "" } else { "," };
        self.list.push((end..end, format!("{comma}{item}")));
    }

    /// Takes a member out of an object, with its comma. At most one of each object.
    pub(super) fn remove(&mut self, name: &'static str, value: &RawValue) {
        let Range { start, end } = self.span(value);
        let blank = [' ', '\t', '\n', '\r'];
        let before = self.text[..start].trim_end_matches(blank).trim_end_matches(':').trim_end_matches(blank);
        // A name without escapes holds no quotation mark.
        let key = before.strip_suffix('"').and_then(|before| before.rfind('"'));
        let Some(key) = key.filter(|key| before.get(key + 1..before.len() - 1) == Some(name)) else { return };
        let after = self.text[end..].trim_start_matches(blank);
        let range = match (after.strip_prefix(','), self.text[..key].trim_end_matches(blank).strip_suffix(',')) {
            (_, Some(before)) => before.len()..end,
            (Some(rest), None) => key..self.text.len() - rest.len(),
            (None, None) => key..end,
        };
        self.list.push((range, String::new()));
    }

    pub(super) fn apply(mut self) -> Vec<u8> {
        // Stable: of two at one place the one that was asked for first comes first.
        self.list.sort_by_key(|(range, _)| range.start);
        let added: usize = self.list.iter().map(|(_, text)| text.len()).sum();
        let mut edited = Vec::with_capacity(self.text.len() + added);
        let mut done = 0;
        for (range, with) in &self.list {
            edited.extend_from_slice(&self.text.as_bytes()[done..range.start]);
            edited.extend_from_slice(with.as_bytes());
            done = range.end;
        }
        edited.extend_from_slice(&self.text.as_bytes()[done..]);
        edited
    }
}
