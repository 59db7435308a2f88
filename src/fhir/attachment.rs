//! Attachments that are kept as a Binary of the same server: where they stand in a resource, what such a Binary holds, and the
//! resource with that in it. All else of it stays byte for byte.

use std::borrow::Cow;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::datatypes::{Id, LocalReference};
use super::inside::{meaning, plain_end, string_end};
use super::outcome::{Issue, IssueSeverity, IssueType};
use super::resource_type::ResourceType;

/// Deepest nesting; what a page lets in is not deeper.
const DEEPEST: usize = 140;
/// Elements that are attachments in some type, beside those whose name ends so.
const ELEMENTS: [&str; 6] = ["attachment", "content", "document", "image", "photo", "presentedForm"];

/// An attachment without data whose URL leads to a Binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) binary: Id,
    /// It is that Binary as it was in some version.
    pub(crate) is_version: bool,
    /// Where its brace closes.
    end: usize,
    has_type: bool,
}

/// Why an attachment stays a reference although what it holds was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The server does not give it, not as JSON, or not in this version.
    NotGiven,
    /// It is too large, or there are too many of one resource.
    TooLarge,
    /// It is somebody else's, or nobody can say whose.
    OfOthers,
    /// Whoever asked may not have what a Binary holds.
    NotPermitted,
}

/// Whose codes they are, among what servers say.
const SYSTEM: &str = "https://offtake.dev/attachments";

impl Left {
    const ALL: [Self; 4] = [Self::NotGiven, Self::TooLarge, Self::OfOthers, Self::NotPermitted];

    fn code(self) -> (&'static str, IssueType) {
        match self {
            Self::NotGiven => ("not-given", IssueType::NotFound),
            Self::TooLarge => ("too-large", IssueType::TooLong),
            Self::OfOthers => ("of-others", IssueType::Security),
            Self::NotPermitted => ("not-permitted", IssueType::Forbidden),
        }
    }

    /// As it is noted with what the server says.
    pub(crate) fn issue(self) -> Issue {
        let (name, code) = self.code();
        Issue { severity: IssueSeverity::Warning, code, coding: Some((SYSTEM.to_owned(), name.to_owned())) }
    }

    /// What was noted so.
    pub(crate) fn of(issue: &Issue) -> Option<Self> {
        Self::ALL.into_iter().find(|left| left.issue() == *issue)
    }
}

/// What a Binary holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Content<'a> {
    content_type: Cow<'a, str>,
    /// In base64, which no JSON text has to escape.
    data: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Binary<'a> {
    #[serde(borrow, rename = "contentType")]
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "securityContext")]
    security_context: Option<&'a RawValue>,
}

/// Which attachments of a compact resource are kept as a Binary on one of these bases, in the order in which they end. What is
/// not understood is none.
pub(crate) fn attachments(line: &[u8], bases: &[&str]) -> Vec<Attachment> {
    if memmem::find(line, b"Binary").is_none() {
        return Vec::new();
    }
    let text = std::str::from_utf8(line).map(str::trim_end);
    text.ok()
        .and_then(|text| Walk { text, bases, levels: Vec::with_capacity(16), found: Vec::new() }.walk())
        .unwrap_or_default()
}

/// A resource with what some of its attachments hold.
pub(crate) fn with_contents(line: &[u8], contents: &[(&Attachment, &Content<'_>)]) -> Vec<u8> {
    let more: usize = contents.iter().map(|(_, content)| content.len() + 64).sum();
    let mut written = Vec::with_capacity(line.len() + more);
    let mut copied = 0;
    for (attachment, content) in contents {
        written.extend_from_slice(line.get(copied..attachment.end).unwrap_or_default());
        copied = attachment.end;
        if !attachment.has_type {
            written.extend_from_slice(br#","contentType":"#);
            serde_json::to_writer(&mut written, &content.content_type).expect("a text always becomes JSON");
        }
        written.extend_from_slice(br#","data":""#);
        written.extend_from_slice(content.data.as_bytes());
        written.push(b'"');
    }
    written.extend_from_slice(line.get(copied..).unwrap_or_default());
    written
}

/// Whether a Binary says by anything that another resource decides who may have it.
pub(crate) fn has_security_context(binary: &[u8]) -> bool {
    serde_json::from_slice::<Binary<'_>>(binary).map_or(true, |binary| binary.security_context.is_some())
}

impl<'a> Content<'a> {
    /// What a Binary holds; `None` if that is nothing, or no base64.
    pub(crate) fn of(binary: &'a [u8]) -> Option<Self> {
        let Binary { content_type, data, .. } = serde_json::from_slice(binary).ok()?;
        let data = data.filter(|data| !data.is_empty())?;
        let is_space = |byte: u8| byte.is_ascii_whitespace();
        // FHIR lets it have spaces.
        let data = if data.bytes().any(is_space) {
            Cow::Owned(data.chars().filter(|letter| !letter.is_ascii_whitespace()).collect())
        } else {
            data
        };
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        let content_type = content_type.unwrap_or(Cow::Borrowed("application/octet-stream"));
        data.bytes().all(is_base64).then_some(Self { content_type, data })
    }

    /// Bytes that it takes of a line.
    pub(crate) fn len(&self) -> usize {
        self.data.len() + self.content_type.len()
    }
}

/// One open object or array.
struct Level<'a> {
    is_object: bool,
    /// The element that it is, or is in the list of.
    element: Cow<'a, str>,
    /// The member that is read.
    member: Cow<'a, str>,
    binary: Option<(Id, bool)>,
    has: Has,
}

/// Members that an object has.
#[derive(Clone, Copy, Default)]
struct Has {
    data: bool,
    content_type: bool,
    url: bool,
}

struct Walk<'a, 'b> {
    text: &'a str,
    bases: &'b [&'b str],
    levels: Vec<Level<'a>>,
    found: Vec<Attachment>,
}

impl Walk<'_, '_> {
    fn walk(mut self) -> Option<Vec<Attachment>> {
        let mut at = 0;
        while let Some(byte) = self.text.as_bytes().get(at) {
            match byte {
                b'{' | b'[' => {
                    if self.levels.len() >= DEEPEST {
                        return None;
                    }
                    self.open(*byte == b'{');
                    at += 1;
                }
                b'}' | b']' => {
                    let level = self.levels.pop()?;
                    self.found.extend(level.attachment(at));
                    at += 1;
                }
                b'"' => at = self.string(at)?,
                b',' | b':' => at += 1,
                _ => at = plain_end(self.text, at),
            }
        }
        self.levels.is_empty().then_some(self.found)
    }

    fn open(&mut self, is_object: bool) {
        let element = self.levels.last().map_or(Cow::Borrowed(""), |level| {
            if level.is_object { level.member.clone() } else { level.element.clone() }
        });
        let member = Cow::Borrowed("");
        self.levels.push(Level { is_object, element, member, binary: None, has: Has::default() });
    }

    /// Reads a string: a name, or a text. Gives where it ends.
    fn string(&mut self, at: usize) -> Option<usize> {
        let end = string_end(self.text, at)?;
        let quoted = self.text.get(at..end)?;
        let level = self.levels.last_mut()?;
        if !level.is_object {
            return Some(end);
        }
        if self.text.as_bytes().get(end) == Some(&b':') {
            level.member = meaning(quoted)?;
            level.has.data |= level.member == "data";
            level.has.content_type |= level.member == "contentType";
        } else if level.member == "url" {
            // Two of them are none.
            let binary = meaning(quoted).and_then(|url| binary(&url, self.bases)).filter(|_| !level.has.url);
            level.binary = binary;
            level.has.url = true;
        }
        Some(end)
    }
}

impl Level<'_> {
    fn attachment(self, end: usize) -> Option<Attachment> {
        let Self { is_object, element, binary, has, .. } = self;
        let is_attachment = is_object && (ELEMENTS.contains(&&*element) || element.ends_with("Attachment"));
        let (binary, is_version) = binary.filter(|_| is_attachment && !has.data)?;
        Some(Attachment { binary, is_version, end, has_type: has.content_type })
    }
}

/// The Binary that a URL leads to, and whether to one of its versions.
fn binary(url: &str, bases: &[&str]) -> Option<(Id, bool)> {
    let target = LocalReference::parse_on(url, bases)?;
    (target.resource_type == ResourceType::BINARY).then(|| (target.id, url.contains("/_history/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASES: [&str; 2] = ["http://inner:9/fhir", "http://replica/fhir/"];

    fn inlined(line: &str) -> String {
        let found = attachments(line.as_bytes(), &BASES);
        let binary = br#"{"resourceType":"Binary","id":"b","contentType":"text/plain","data":"aGk="}"#;
        let content = Content::of(binary).expect("data");
        let contents: Vec<_> = found.iter().map(|attachment| (attachment, &content)).collect();
        String::from_utf8(with_contents(line.as_bytes(), &contents)).expect("text")
    }

    #[test]
    fn what_a_binary_holds_comes_into_the_attachment_that_leads_to_it() {
        for (line, expected) in [
            (
                r#"{"a":1.00,"content":[{"attachment":{"url":"Binary/b","contentType":"text/html"}},{"attachment":{"title":"{","url":"http:\/\/inner:9/fhir/Binary/c"},"format":{"code":"x"}}],"b":"\u00e9"}"#,
                r#"{"a":1.00,"content":[{"attachment":{"url":"Binary/b","contentType":"text/html","data":"aGk="}},{"attachment":{"title":"{","url":"http:\/\/inner:9/fhir/Binary/c","contentType":"text/plain","data":"aGk="},"format":{"code":"x"}}],"b":"\u00e9"}"#,
            ),
            (
                r#"{"photo":[{"\u0075rl":"http://replica/fhir/Binary/b","size":3}],"valueAttachment":{"url":"Binary/d"}}"#,
                r#"{"photo":[{"\u0075rl":"http://replica/fhir/Binary/b","size":3,"contentType":"text/plain","data":"aGk="}],"valueAttachment":{"url":"Binary/d","contentType":"text/plain","data":"aGk="}}"#,
            ),
        ] {
            assert_eq!(inlined(&format!("{line}\n")), format!("{expected}\n"), "{line}");
        }
        let found = attachments(br#"{"content":{"url":"Binary/b/_history/2"}}"#, &BASES);
        assert!(found.len() == 1 && found[0].is_version && found[0].binary.as_str() == "b", "{found:?}");
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for line in [
            r#"{"content":[{"attachment":{"url":"http://inner:99/fhir/Binary/b"}}]}"#,
            r#"{"content":[{"attachment":{"url":"http://inner:9/fhir/Binary/b?x"}}]}"#,
            r#"{"content":[{"attachment":{"url":"//inner:9/fhir/Binary/b"}}]}"#,
            r#"{"content":[{"attachment":{"url":"/fhir/Binary/b"}}]}"#,
            r#"{"content":[{"attachment":{"url":"Binary/../Patient/b"}}]}"#,
            r#"{"content":[{"attachment":{"url":"Binary/b","data":"AA=="}}]}"#,
            r#"{"content":[{"attachment":{"url":"Binary/b","data":null}}]}"#,
            r#"{"content":[{"attachment":{"url":"Binary/b","url":"Binary/c"}}]}"#,
            r#"{"content":[{"attachment":{"url":"Patient/b"}}]}"#,
            r#"{"extension":[{"url":"Binary/b","valueString":"x"}]}"#,
            r#"{"related":{"url":"Binary/b"}}"#,
            r#"{"attachment":{"title":"\"url\":\"Binary/b\""}}"#,
            r#"{"attachment":["Binary/b"],"url":"Binary/b"}"#,
            r#"{"attachment":{"url":"Binary/b""#,
        ] {
            assert_eq!(inlined(line), line);
        }
        let deep = format!("{}{}{}", "[".repeat(5_000), r#"{"attachment":{"url":"Binary/b"}}"#, "]".repeat(5_000));
        assert_eq!(attachments(deep.as_bytes(), &BASES), []);
    }

    #[test]
    fn only_base64_is_what_a_binary_holds() {
        let of = |data: &str| {
            let binary = format!(r#"{{"resourceType":"Binary","id":"b",{data}"contentType":"a/b"}}"#);
            Content::of(binary.as_bytes()).map(|content| content.data.into_owned())
        };
        for (data, expected) in [
            (r#""data":"aGk=","#, Some("aGk=")),
            (r#""data":"aG\nk =","#, Some("aGk=")),
            (r#""data":"\u0061Gk=","#, Some("aGk=")),
            (r#""data":"aGk\"","#, None),
            (r#""data":"","#, None),
            (r#""data":null,"#, None),
            (r#""data":["aGk="],"#, None),
            ("", None),
        ] {
            assert_eq!(of(data).as_deref(), expected, "{data}");
        }
        for (binary, expected) in [
            (r#"{"securityContext":{"reference":"Patient/a"}}"#, true),
            (r#"{"securityContext":{}}"#, true),
            (r#"{"data":"x"}"#, false),
            ("[", true),
        ] {
            assert_eq!(has_security_context(binary.as_bytes()), expected, "{binary}");
        }
    }
}
