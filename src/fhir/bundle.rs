//! Page: one pass checks a searchset, cuts its resources out and notes what is asked of each; another takes out the white space
//! of those that have some.
//!
//! A page is one buffer. Each resource is moved together within it, so that its line is a range of that buffer and no
//! byte of it is ever read into a tree or written anew: numbers and escapes stay as the server sent them.

mod found;
mod json;
mod squeeze;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::datatypes::{Id, Instant};
use super::outcome::{Issue, IssueSeverity};
use super::resource_type::ResourceType;
use found::{Found, Hearing};
use json::{Cursor, Fault, Gap};

/// What is asked of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    resource_type: ResourceType,
    references: bool,
    others: Others,
}

/// What becomes of resources of other types, and of included ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// No search answers with another type than it asked for, and what is included was not asked for.
    Refused,
    /// They are passed over; of the asked type included ones count as well.
    PassedOver,
}

/// One page of a search.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) outcomes: Vec<Issue>,
    pub(crate) next: Option<String>,
    /// `self`: the search as the server understood it.
    pub(crate) own: Option<String>,
    pub(crate) total: Option<u64>,
    /// Resources of other types than the asked one.
    pub(crate) passed_over: usize,
    /// Bytes of the page as it came.
    pub(crate) bytes: usize,
}

/// One resource of a page.
#[derive(Clone)]
pub(crate) struct Entry {
    /// The compact resource and a newline: a part of the page's buffer.
    pub(crate) line: Bytes,
    pub(crate) resource_type: ResourceType,
    pub(crate) id: Id,
    pub(crate) version_id: Option<Box<str>>,
    pub(crate) last_updated: Option<Instant>,
    /// References outside of contained resources, where they were asked for.
    pub(crate) references: Vec<Referenced>,
}

/// A reference and where it stands.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Referenced {
    /// The element that holds it, from the root and without indices: `participant.actor`. Of a long one it is the beginning.
    pub(crate) path: Arc<str>,
    pub(crate) target: Box<str>,
}

/// Why an answer is no page. Nothing of its content is told (SEC-41).
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    #[error("not JSON that we can read (line {line}, column {column})")]
    Json { line: usize, column: usize },
    #[error("nested too deep")]
    Deep,
    #[error("not a searchset")]
    NotASearchset,
    #[error("an operation outcome instead of a page")]
    Outcome(Vec<Issue>),
    #[error("more than {MOST_ENTRIES} entries on one page")]
    TooManyEntries,
    #[error("entry {index} is of another type than was asked for")]
    ForeignType { index: usize },
    #[error("entry {index} is no resource with a type and an id")]
    Entry { index: usize },
}

/// Entries of one page.
const MOST_ENTRIES: usize = 100_000;

impl Scope {
    /// Resources of this type.
    pub(crate) fn of(resource_type: ResourceType) -> Self {
        Self { resource_type, references: false, others: Others::Refused }
    }

    /// The same, and what they refer to.
    pub(crate) fn with_references(self) -> Self {
        Self { references: true, ..self }
    }

    /// Of an answer that holds resources of many types.
    pub(crate) fn among_others(self) -> Self {
        Self { others: Others::PassedOver, ..self }
    }
}

/// A link of any bundle.
#[derive(Deserialize)]
pub(super) struct Link<'a> {
    #[serde(borrow)]
    relation: Option<Cow<'a, str>>,
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
}

/// A resource where it stands, what it says, and whether the server calls it a part of the answer.
struct Place {
    range: Range<usize>,
    found: Found,
    /// There is white space between its tokens.
    is_spaced: bool,
    /// Which, among that of all resources; `None` where it was not noted.
    gaps: Option<Range<usize>>,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Match,
    Include,
    Outcome,
}

impl Page {
    /// Whether there may be more although no link leads there: of a search by POST some servers tell no next page.
    pub(crate) fn may_go_on(&self, asked: u32) -> bool {
        let entries = self.entries.len() as u64;
        self.total.is_some_and(|total| total > entries) || entries + self.passed_over as u64 >= u64::from(asked)
    }

    /// Whether the server says beside the resources that something went wrong: then they need not be all.
    pub(crate) fn is_troubled(&self) -> bool {
        self.outcomes.iter().any(|issue| issue.severity <= IssueSeverity::Error)
    }

    /// Reads an answer to a search.
    ///
    /// # Errors
    /// Each answer that is no searchset of the asked type, and each entry that is no resource with an id.
    pub(crate) fn parse<B>(mut buffer: B, scope: Scope) -> Result<Self, PageError>
    where
        B: AsRef<[u8]> + AsMut<[u8]> + Send + 'static,
    {
        let Parts { places, gaps: all_gaps, next, own, total } = read_bundle(buffer.as_ref(), scope)?;
        let bytes = buffer.as_mut();
        let mut found = Vec::with_capacity(places.len());
        let mut outcomes = Vec::new();
        let mut passed_over = 0;
        for (index, Place { range, found: resource, is_spaced, gaps, mode }) in places.into_iter().enumerate() {
            if mode == Mode::Include && scope.others == Others::Refused {
                continue;
            }
            if mode == Mode::Outcome {
                outcomes.extend(Issue::all_of(&bytes[range]));
                continue;
            }
            let resource_type = resource.resource_type().filter(|_| !resource.is_strange);
            let resource_type = resource_type.ok_or(PageError::Entry { index })?;
            if resource_type != scope.resource_type {
                if resource_type == ResourceType::OPERATION_OUTCOME {
                    outcomes.extend(Issue::all_of(&bytes[range]));
                    continue;
                }
                if scope.others == Others::PassedOver {
                    passed_over += 1;
                    continue;
                }
                return Err(PageError::ForeignType { index });
            }
            let start = range.start;
            let end = match gaps.and_then(|gaps| all_gaps.get(gaps)) {
                _ if !is_spaced => range.end,
                Some(gaps) => squeeze::close(bytes, range, gaps),
                None => squeeze::squeeze(bytes, range),
            };
            // Inside a bundle at least one byte follows a resource: the brace that ends its entry.
            *bytes.get_mut(end).ok_or(PageError::Entry { index })? = b'\n';
            found.push((start..end + 1, resource));
        }
        let bytes = bytes.len();
        let buffer = Bytes::from_owner(buffer);
        let entry = |(index, (range, resource)): (usize, (Range<usize>, Found))| {
            resource.into_entry(buffer.slice(range), scope.resource_type).ok_or(PageError::Entry { index })
        };
        let entries = found.into_iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { entries, outcomes, next, own, total, passed_over, bytes })
    }
}

/// What a bundle holds beside its resources.
struct Parts {
    places: Vec<Place>,
    gaps: Vec<Gap>,
    next: Option<String>,
    own: Option<String>,
    total: Option<u64>,
}

/// Why reading a bundle stopped.
enum Stop {
    Fault(Fault),
    Page(PageError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The members of a bundle that matter, each as it stands.
#[derive(Default)]
struct Members {
    resource_type: Option<Range<usize>>,
    kind: Option<Range<usize>>,
    total: Option<Range<usize>>,
    link: Option<Range<usize>>,
    issue: Option<Range<usize>>,
    entry: Option<Vec<Place>>,
}

fn read_bundle(json: &[u8], scope: Scope) -> Result<Parts, PageError> {
    let (mut members, mut cursor) = (Members::default(), Cursor::new(json));
    let read = cursor.members(|cursor, name| {
        let name = name.read(json).unwrap_or_default();
        let slot = match &*name {
            "resourceType" => &mut members.resource_type,
            "type" => &mut members.kind,
            "total" => &mut members.total,
            "link" => &mut members.link,
            "issue" => &mut members.issue,
            "entry" if members.entry.is_none() => {
                members.entry = Some(read_entries(cursor, scope)?);
                return Ok(());
            }
            "entry" => return Err(cursor.fault().into()),
            _ => {
                cursor.skip()?;
                return Ok(());
            }
        };
        // What is there twice is read by others in another way.
        let fault = cursor.fault();
        if slot.replace(cursor.skip()?).is_some() { Err(fault.into()) } else { Ok(()) }
    });
    match read.and_then(|()| Ok(cursor.end()?)) {
        Ok(()) => {}
        Err(Stop::Page(error)) => return Err(error),
        Err(Stop::Fault(Fault::At(at))) => return Err(position(json, at)),
        Err(Stop::Fault(Fault::Deep)) => return Err(PageError::Deep),
    }
    let Members { resource_type, kind, total, link, issue, entry } = members;
    let resource_type: Option<Cow<'_, str>> = member(json, resource_type)?;
    let kind: Option<Cow<'_, str>> = member(json, kind)?;
    let total = member::<serde_json::Number>(json, total)?.and_then(|total| total.as_u64());
    // A `null` in the place of links is not taken for the end of them.
    let links: Vec<Link<'_>> = link.map_or(Ok(Vec::new()), |range| value(json, range))?;
    let is_said = issue.is_some_and(|range| json.get(range) != Some(b"null"));
    if resource_type.as_deref() == Some("OperationOutcome") && is_said {
        return Err(PageError::Outcome(Issue::all_of(json)));
    }
    if resource_type.as_deref() != Some("Bundle") || kind.is_some_and(|kind| kind != "searchset") {
        return Err(PageError::NotASearchset);
    }
    let (next, own) = (link_of(&links, "next"), link_of(&links, "self"));
    Ok(Parts { places: entry.unwrap_or_default(), gaps: cursor.into_gaps(), next, own, total })
}

/// A member that is there or not, or `null`.
fn member<'a, T: Deserialize<'a>>(json: &'a [u8], range: Option<Range<usize>>) -> Result<Option<T>, PageError> {
    range.map_or(Ok(None), |range| value(json, range))
}

fn value<'a, T: Deserialize<'a>>(json: &'a [u8], range: Range<usize>) -> Result<T, PageError> {
    serde_json::from_slice(&json[range.clone()]).map_err(|_| position(json, range.start))
}

fn read_entries(cursor: &mut Cursor<'_>, scope: Scope) -> Result<Vec<Place>, Stop> {
    let mut places = Vec::new();
    let mut hearing = Hearing::new(scope.resource_type, scope.references);
    cursor.elements(|cursor| {
        let index = places.len();
        if index == MOST_ENTRIES {
            return Err(Stop::Page(PageError::TooManyEntries));
        }
        match read_entry(cursor, &mut hearing) {
            Ok(Some(place)) => places.push(place),
            // SEC-41, and what only one resource is to blame for: it is told which one.
            Ok(None) | Err(Stop::Fault(Fault::Deep)) => return Err(Stop::Page(PageError::Entry { index })),
            Err(stop) => return Err(stop),
        }
        Ok(())
    })?;
    Ok(places)
}

/// One entry; `None` if it has no resource.
fn read_entry(cursor: &mut Cursor<'_>, hearing: &mut Hearing) -> Result<Option<Place>, Stop> {
    let (json, mut resource, mut mode) = (cursor.json(), None, None);
    cursor.members(|cursor, name| {
        let fault = cursor.fault();
        let is_second = match name.read(json).as_deref() {
            Some("resource") => {
                let is_null = cursor.peek() == Some(b'n');
                let (before, first) = (cursor.space(), cursor.note_gaps());
                let range = cursor.value(hearing)?;
                let gaps = cursor.gaps_noted().map(|end| first..end);
                let (found, is_spaced) = (hearing.found(), cursor.space() > before);
                resource.replace((!is_null).then_some((range, found, is_spaced, gaps))).is_some()
            }
            Some("search") => mode.replace(read_mode(cursor)?).is_some(),
            _ => {
                cursor.skip()?;
                false
            }
        };
        if is_second { Err(Stop::Fault(fault)) } else { Ok(()) }
    })?;
    let mode = mode.unwrap_or(Mode::Match);
    Ok(resource.flatten().map(|(range, found, is_spaced, gaps)| Place { range, found, is_spaced, gaps, mode }))
}

/// `Bundle.entry.search`.
fn read_mode(cursor: &mut Cursor<'_>) -> Result<Mode, Stop> {
    if cursor.peek() == Some(b'n') {
        cursor.skip()?;
        return Ok(Mode::Match);
    }
    let (json, mut mode) = (cursor.json(), None);
    cursor.members(|cursor, name| {
        let is_mode = name.read(json).as_deref() == Some("mode");
        let fault = cursor.fault();
        let range = cursor.skip()?;
        if !is_mode {
            return Ok(());
        }
        let said = match json.get(range.clone()) {
            // As nearly all are written.
            Some(br#""match""#) => Mode::Match,
            Some(br#""include""#) => Mode::Include,
            Some(br#""outcome""#) => Mode::Outcome,
            _ => match member::<Cow<'_, str>>(json, Some(range)).map_err(Stop::Page)?.as_deref() {
                Some("include") => Mode::Include,
                Some("outcome") => Mode::Outcome,
                Some(_) | None => Mode::Match,
            },
        };
        if mode.replace(said).is_some() { Err(Stop::Fault(fault)) } else { Ok(()) }
    })?;
    Ok(mode.unwrap_or(Mode::Match))
}

/// Where a link of a bundle leads.
pub(super) fn link_of(links: &[Link<'_>], relation: &str) -> Option<String> {
    let link = links.iter().find(|link| link.relation.as_deref() == Some(relation));
    link.and_then(|link| link.url.as_deref()).map(str::to_owned)
}

fn position(buffer: &[u8], at: usize) -> PageError {
    let before = &buffer[..at];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
    PageError::Json { line, column }
}

impl Found {
    fn into_entry(mut self, line: Bytes, resource_type: ResourceType) -> Option<Entry> {
        let (id, last_updated) = (self.id()?, self.last_updated().ok()?);
        let Self { version_id, references, .. } = self;
        Some(Entry { line, resource_type, id, version_id, last_updated, references })
    }
}

impl Entry {
    /// Reads a single resource as if it had come on a page; `None` if it could not have.
    pub(crate) fn parse(resource: &[u8], scope: Scope) -> Option<Self> {
        let bundle = [br#"{"resourceType":"Bundle","entry":[{"resource":"#, resource, b"}]}"].concat();
        Page::parse(bundle, scope).ok()?.entries.pop()
    }
}

impl fmt::Debug for Entry {
    /// Neither content nor id (SEC-41).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.resource_type, self.line.len())
    }
}

impl fmt::Debug for Referenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a reference at {}", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(json: &str) -> Result<Page, PageError> {
        Page::parse(json.as_bytes().to_vec(), Scope::of(ResourceType::PATIENT).with_references())
    }

    fn lines(page: &Page) -> Vec<&str> {
        page.entries.iter().map(|entry| std::str::from_utf8(&entry.line).expect("UTF-8")).collect()
    }

    #[test]
    fn a_line_is_the_resource_as_it_came_but_for_white_space() {
        let resource = r#"{"resourceType":"Patient","id":"a","x":[1.00,-2.5E+10,0.1234567890123456789012345678901],"é":"\u00e9 \ud83d\ude00  two  spaces \" \\","meta":{"versionId":"3","lastUpdated":"2026-01-01T00:00:00.120Z"}}"#;
        let pretty =
            resource.replace(",\"", " ,\r\n\t \"").replace("\":", "\" : ").replace('{', "{\n ").replace('}', "\n}");
        for text in [resource.to_owned(), pretty] {
            let bundle = format!(
                r#"{{"entry":[ {{"resource": {text} }} ],"type":"searchset","total":1,"resourceType":"Bundle"}}"#
            );
            let page = page(&bundle).expect("a page");
            assert_eq!(lines(&page), [format!("{resource}\n")], "{text}");
            let entry = &page.entries[0];
            assert_eq!((entry.id.as_str(), entry.version_id.as_deref()), ("a", Some("3")));
            assert_eq!(entry.last_updated.map(|stamp| stamp.to_string()).as_deref(), Some("2026-01-01T00:00:00.120Z"));
            assert_eq!(page.total, Some(1));
        }
    }

    #[test]
    fn links_are_found_wherever_they_stand() {
        for bundle in [
            r#"{"resourceType":"Bundle","type":"searchset","link":[{"relation":"self","url":"s"},{"relation":"next","url":"a\/b?c=\u0026"}]}"#,
            r#"{"link":[{"url":"a/b?c=&","relation":"next"}],"entry":[],"type":"searchset","resourceType":"Bundle"}"#,
        ] {
            assert_eq!(page(bundle).expect("a page").next.as_deref(), Some("a/b?c=&"));
        }
    }

    /// Where there is more white space than is noted, it is looked for.
    #[test]
    fn all_white_space_goes_however_much_there_is() {
        let many = vec!["1"; 300_000].join(" , ");
        let resource = |id: &str, more: &str| format!(r#"{{ "resourceType" :"Patient", "id": "{id}","x":[ {more}] }}"#);
        let resources = [resource("a", "\"b  c\""), resource("b", &many), resource("c", "2 ,\n3")];
        let entries = resources.map(|resource| format!(r#"{{"resource" : {resource} }}"#)).join(", ");
        let page = page(&format!(r#"{{"resourceType":"Bundle","entry":[{entries}]}}"#)).expect("a page");
        let many = many.replace(' ', "");
        let expected = [("a", "\"b  c\""), ("b", &many), ("c", "2,3")]
            .map(|(id, more)| format!("{{\"resourceType\":\"Patient\",\"id\":\"{id}\",\"x\":[{more}]}}\n"));
        assert!(lines(&page) == expected);
    }

    #[test]
    fn outcomes_are_set_apart_and_includes_dropped() {
        let bundle = r#"{"resourceType":"Bundle","type":"searchset","entry":[
            {"resource":{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"incomplete","details":{"coding":[{"system":"s","code":"4119"}]}}]},"search":{"mode":"outcome"}},
            {"resource":{"resourceType":"OperationOutcome","issue":[{"severity":"odd","code":"odd"}]}},
            {"resource":{"resourceType":"Practitioner","id":"x"},"search":{"mode":"include"}},
            {"resource":{"resourceType":"Patient","id":"b"},"search":{"mode":"match"}}]}"#;
        let page = page(bundle).expect("a page");
        assert_eq!(lines(&page), ["{\"resourceType\":\"Patient\",\"id\":\"b\"}\n"]);
        assert_eq!(page.outcomes.len(), 2);
        assert_eq!(page.outcomes[0].coding, Some(("s".to_owned(), "4119".to_owned())));
    }

    #[test]
    fn references_are_noted_with_their_paths_and_contained_ones_are_not() {
        let bundle = r#"{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"a",
            "participant":[{"actor":{"reference":"Patient\/1"}},{"actor":{"display":"x","reference":"Patient/2"}}],
            "contained":[{"resourceType":"Patient","link":[{"other":{"reference":"Patient/9"}}]}],
            "subject":{"\u0072eference":"Patient/3"}, "managing":{"reference":5}}}]}"#;
        let page = page(bundle).expect("a page");
        let found: Vec<_> = page.entries[0].references.iter().map(|found| (&*found.path, &*found.target)).collect();
        assert_eq!(
            found,
            [("participant.actor", "Patient/1"), ("participant.actor", "Patient/2"), ("subject", "Patient/3")]
        );
    }

    /// A record may nest extensions as deep as it likes: each reference in them keeps a few hundred letters at most, and those
    /// side by side share them.
    #[test]
    fn a_long_path_is_kept_in_its_beginning() {
        let deep = |leaf: &str| {
            let (open, close) = (r#"{"extension":[{"a":1},"#.repeat(60), "]}".repeat(60));
            format!(
                r#"{{"resourceType":"Bundle","entry":[{{"resource":{{"resourceType":"Patient","id":"a","x":[{open}{leaf}{close}]}}}}]}}"#
            )
        };
        let two = r#"{"v":{"reference":"Patient/1"},"w":[{"reference":"Patient/2"},{"reference":"Patient/3"}]}"#;
        let found = page(&deep(two)).expect("a page").entries.remove(0).references;
        let paths: Vec<&str> = found.iter().map(|reference| &*reference.path).collect();
        assert!(paths.len() == 3 && paths.iter().all(|path| path.starts_with("x.extension.") && path.ends_with('…')));
        assert!(paths.iter().all(|path| path.len() > 200 && path.len() <= 303), "{paths:?}");
        assert!(Arc::ptr_eq(&found[1].path, &found[2].path));
        let named = format!(r#"{{"{}":{{"reference":"Patient/1"}}}}"#, "n".repeat(65));
        let bundle = format!(
            r#"{{"resourceType":"Bundle","entry":[{{"resource":{{"resourceType":"Patient","id":"a","y":{named}}}}}]}}"#
        );
        assert_eq!(&*page(&bundle).expect("a page").entries[0].references[0].path, "y.…");
    }

    #[test]
    fn what_is_no_page_is_told_without_its_content() {
        let deep = format!(
            r#"{{"resourceType":"Bundle","entry":[{{"resource":{}1{}}}]}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        let resource = |body: &str| format!(r#"{{"resourceType":"Bundle","entry":[{{"resource":{body}}}]}}"#);
        for (bundle, expected) in [
            ("<html>secret</html>".to_owned(), "not JSON that we can read (line 1, column 1)"),
            (
                r#"{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"se"#.to_owned(),
                "not JSON that we can read",
            ),
            (deep, "entry 0 is no resource"),
            (r#"{"resourceType":"Patient","id":"secret"}"#.to_owned(), "not a searchset"),
            (r#"{"resourceType":"Bundle","type":"history"}"#.to_owned(), "not a searchset"),
            (
                r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"invalid"}]}"#.to_owned(),
                "an operation outcome",
            ),
            (resource(r#"{"resourceType":"Observation","id":"secret"}"#), "entry 0 is of another type"),
            (resource(r#"{"resourceType":"Patient"}"#), "entry 0 is no resource"),
            (resource(r#"{"resourceType":"Patient","id":"a/b"}"#), "entry 0 is no resource"),
            (resource(r#"{"resourceType":"Patient","id":7}"#), "entry 0 is no resource"),
            (resource(r#"{"resourceType":"Patient","id":"a","id":"b"}"#), "entry 0 is no resource"),
            (resource(r#"{"resourceType":"Patient","id":"a","\u0069d":"b"}"#), "entry 0 is no resource"),
            (
                resource(r#"{"resourceType":"Patient","id":"a","meta":{"lastUpdated":"yesterday"}}"#),
                "entry 0 is no resource",
            ),
            (r#"{"resourceType":"Bundle","link":null}"#.to_owned(), "not JSON that we can read"),
            (r#"{"resourceType":"Bundle","entry":null}"#.to_owned(), "not JSON that we can read"),
            (r#"{"resourceType":"Bundle","entry":[],"entry":[]}"#.to_owned(), "not JSON that we can read"),
            (r#"{"resourceType":"OperationOutcome","issue":null}"#.to_owned(), "not a searchset"),
            (resource("[]"), "entry 0 is no resource"),
            (resource("null"), "entry 0 is no resource"),
            (r#"{"resourceType":"Bundle","entry":[{"fullUrl":"x"}]}"#.to_owned(), "entry 0 is no resource"),
        ] {
            let error = page(&bundle).expect_err("no page").to_string();
            assert!(error.starts_with(expected), "{error} is not {expected}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(page("\u{0}").is_err());
        assert!(Page::parse(vec![b'{', 0xff, b'}'], Scope::of(ResourceType::PATIENT)).is_err());
    }
}
