//! Looks into one compact resource as bytes: its security labels, whom it refers to, and where resources lie in it. No tree of
//! it is made.
//!
//! What stands in a form that it should not have is never passed over: whoever decides by what was found is told that
//! something was not understood ([`Inside::is_strange`], [`Inside::has_strange_label`]).

use std::borrow::Cow;
use std::fmt;

/// Deepest nesting; what a page lets in is not deeper.
const DEEPEST: usize = 140;
/// Labels, subjects and resources in one; more are not understood.
const MOST_LABELS: usize = 1_000;
/// Places of references without a name, and bytes of the path to one.
const MOST_PLACES: usize = 50;
const LONGEST_PATH: usize = 300;
const MOST_RESOURCES: usize = 100_000;

/// What was found in a resource, wherever in it.
#[derive(Default)]
pub(crate) struct Inside<'a> {
    /// The resource itself and those in it, in the order in which they begin.
    pub(crate) resources: Vec<Nested<'a>>,
    /// Its labels and those of all resources in it, those of the documents that they stand for, and what extensions say by a
    /// coding, as they label single elements.
    pub(crate) labels: Vec<Coding<'a>>,
    /// The targets of all references.
    pub(crate) references: Vec<Cow<'a, str>>,
    /// Whom it is about, by the elements of its root that say so.
    pub(crate) subjects: Vec<Subject<'a>>,
    /// Where references stand that tell how a patient can be found, and lead nowhere: each place once.
    pub(crate) nameless: Vec<Nameless>,
    /// There are more such places than are told.
    pub(crate) has_more_nameless: bool,
    /// A label has no code, or two, or is none.
    pub(crate) has_strange_label: bool,
    /// A resource in it has two types or none that can be read, or a reference has two targets.
    pub(crate) is_strange: bool,
}

/// A resource, or one in it.
pub(crate) struct Nested<'a> {
    /// Where its brace stands.
    pub(crate) start: usize,
    pub(crate) resource_type: Cow<'a, str>,
    pub(crate) id: Option<Cow<'a, str>>,
}

/// A coding, as it stands there.
pub(crate) struct Coding<'a> {
    pub(crate) system: Option<Cow<'a, str>>,
    pub(crate) code: Cow<'a, str>,
}

/// A reference to whom a resource is about.
pub(crate) struct Subject<'a> {
    /// The element, such as `subject`.
    pub(crate) element: &'static str,
    pub(crate) reference: Option<Cow<'a, str>>,
    /// The type that it says it leads to.
    pub(crate) kind: Option<Cow<'a, str>>,
}

/// A place of references to patients by an identifier, or of no more than how to show them; and of those by an identifier that do
/// not say what they mean, if the element says that it is a patient.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Nameless {
    /// The names that lead to it from the root, without indices: `participant.actor`. Of a long one it is the beginning.
    pub(crate) path: String,
    /// Whether it is said to be a patient.
    pub(crate) is_patient: bool,
}

/// `Composition.confidentiality` is a code of it.
const CONFIDENTIALITY: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";

/// The elements of a resource's root that say which patient it is about.
pub(crate) const SUBJECTS: [&str; 6] = ["beneficiary", "candidate", "for", "individual", "patient", "subject"];

/// Looks into a compact resource; `None` if it is no JSON object.
pub(crate) fn look_inside(line: &[u8]) -> Option<Inside<'_>> {
    let text = std::str::from_utf8(line).ok()?.trim_end();
    let mut walk = Walk { text, at: 0, levels: Vec::with_capacity(16), inside: Inside::default() };
    walk.walk()?;
    let mut inside = walk.inside;
    inside.has_strange_label |= inside.labels.len() > MOST_LABELS;
    inside.is_strange |= inside.subjects.len() > MOST_LABELS || inside.resources.len() > MOST_RESOURCES;
    inside.resources.sort_unstable_by_key(|nested| nested.start);
    Some(inside)
}

/// Where the string that begins at `at` ends: behind its closing quote.
pub(super) fn string_end(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut next = at + 1;
    loop {
        next += memchr::memchr2(b'"', b'\\', bytes.get(next..)?)?;
        if bytes.get(next) == Some(&b'"') {
            return Some(next + 1);
        }
        next += 2;
    }
}

/// Where the number or the word that begins at `at` ends.
pub(super) fn plain_end(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(rest.len()).max(1)
}

/// What a string means, quotes and all: a name that is written with escapes is the same name.
pub(super) fn meaning(quoted: &str) -> Option<Cow<'_, str>> {
    if memchr::memchr(b'\\', quoted.as_bytes()).is_none() {
        return quoted.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed);
    }
    serde_json::from_str(quoted).ok().map(Cow::Owned)
}

/// One open object or array.
struct Level<'a> {
    is_object: bool,
    start: usize,
    /// The name of the member that is read.
    key: Cow<'a, str>,
    own: Own<'a>,
}

/// Members of one object that say what it is.
#[derive(Default)]
struct Own<'a> {
    resource_type: Slot<'a>,
    id: Slot<'a>,
    system: Slot<'a>,
    code: Slot<'a>,
    reference: Slot<'a>,
    kind: Slot<'a>,
    has_coding: bool,
    has_display: bool,
    /// Its `identifier` is an object, as references have one.
    has_identifier: bool,
}

/// A member that is a text and stands there once, if it is there.
#[derive(Default)]
struct Slot<'a> {
    text: Option<Cow<'a, str>>,
    is_strange: bool,
}

impl<'a> Slot<'a> {
    fn put(&mut self, value: Option<Cow<'a, str>>) {
        self.is_strange |= self.text.is_some() || value.is_none();
        if value.is_some() {
            self.text = value;
        }
    }
}

impl<'a> Own<'a> {
    fn slot(&mut self, key: &str) -> Option<&mut Slot<'a>> {
        Some(match key {
            "resourceType" => &mut self.resource_type,
            "id" => &mut self.id,
            "system" => &mut self.system,
            "code" => &mut self.code,
            "reference" => &mut self.reference,
            "type" => &mut self.kind,
            _ => return None,
        })
    }
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
    levels: Vec<Level<'a>>,
    inside: Inside<'a>,
}

impl<'a> Walk<'a> {
    fn walk(&mut self) -> Option<()> {
        if self.peek() != Some(b'{') {
            return None;
        }
        while let Some(byte) = self.peek() {
            match byte {
                b'{' | b'[' => {
                    if self.levels.len() >= DEEPEST {
                        return None;
                    }
                    let (is_object, start, own) = (byte == b'{', self.at, Own::default());
                    self.not_a_text(is_object);
                    self.levels.push(Level { is_object, start, key: Cow::Borrowed(""), own });
                    self.at += 1;
                }
                b'}' | b']' => {
                    let level = self.levels.pop()?;
                    if level.is_object {
                        self.end_of(level);
                    }
                    self.at += 1;
                }
                b'"' => self.string()?,
                b',' | b':' => self.at += 1,
                _ => {
                    self.not_a_text(false);
                    self.scalar();
                    self.at = plain_end(self.text, self.at);
                }
            }
        }
        self.levels.is_empty().then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Reads a string: a name, or a text.
    fn string(&mut self) -> Option<()> {
        let end = string_end(self.text, self.at)?;
        let quoted = self.text.get(self.at..end)?;
        self.at = end;
        let level = self.levels.last_mut()?;
        if level.is_object && self.text.as_bytes().get(end) == Some(&b':') {
            let name = meaning(quoted)?;
            level.own.has_coding |= name == "coding";
            level.own.has_display |= name == "display";
            level.key = name;
            return Some(());
        }
        let is_confidentiality = level.is_object && level.key == "confidentiality";
        // Other texts are none of ours, also those that hold half a character, as are seen where one was cut.
        if level.is_object
            && let Level { key, own, .. } = level
            && let Some(slot) = own.slot(key)
        {
            slot.put(meaning(quoted));
        } else if is_confidentiality && is_resource(self.names().nth(1)) {
            self.label(Some(Cow::Borrowed(CONFIDENTIALITY)), meaning(quoted)?);
        }
        self.scalar();
        Some(())
    }

    /// Notes that the member that is read is no text. A `CodeableReference` of R5 has an object for its `reference`, in which
    /// the text stands.
    fn not_a_text(&mut self, is_object: bool) {
        let Some(Level { is_object: true, key, own, .. }) = self.levels.last_mut() else { return };
        own.has_identifier |= is_object && *key == "identifier";
        if (is_object && *key == "reference") || *key == "type" {
            return;
        }
        if let Some(slot) = own.slot(key) {
            slot.put(None);
        }
    }

    /// Notes a text, a number or a word where labels should be.
    fn scalar(&mut self) {
        let is_strange = {
            let mut names = self.names();
            match (names.next(), names.next()) {
                (Some("meta"), _) | (Some("security"), Some("meta")) => true,
                (Some("securityLabel"), holder) => is_resource(holder),
                (_, _) => false,
            }
        };
        self.inside.has_strange_label |= is_strange;
    }

    /// Notes a label; one too many says that there are too many.
    fn label(&mut self, system: Option<Cow<'a, str>>, code: Cow<'a, str>) {
        if self.inside.labels.len() <= MOST_LABELS {
            self.inside.labels.push(Coding { system, code });
        }
    }

    /// Notes a reference without a name, and its place only once.
    fn nameless(&mut self, is_patient: bool) {
        let mut path = String::new();
        for level in self.levels.iter().filter(|level| level.is_object) {
            if path.len() + level.key.len() > LONGEST_PATH {
                break;
            }
            path.push_str(if path.is_empty() { "" } else { "." });
            path.push_str(&level.key);
        }
        let nameless = Nameless { path, is_patient };
        if self.inside.nameless.len() >= MOST_PLACES {
            self.inside.has_more_nameless = true;
        } else if !self.inside.nameless.contains(&nameless) {
            self.inside.nameless.push(nameless);
        }
    }

    /// The names that lead to the value that is read, the nearest first; arrays have none.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().rev().filter(|level| level.is_object).map(|level| &*level.key)
    }

    /// What an object was, now that all of it was read.
    fn end_of(&mut self, level: Level<'a>) {
        let Level { start, own, .. } = level;
        let Own { resource_type, id, system, code, reference, kind, has_coding, .. } = own;
        self.inside.is_strange |= resource_type.is_strange || reference.is_strange;
        let (is_label, is_inline, is_nameless) = {
            let mut names = self.names();
            let names = [names.next(), names.next(), names.next()];
            let is_extension = |name: Option<&str>| matches!(name, Some("extension" | "modifierExtension"));
            let is_label = match names {
                [Some("security"), Some("meta"), _] => true,
                // What a document is labelled by that is referred to, or stands in the resource.
                [Some("coding"), Some("securityLabel"), holder] => is_resource(holder),
                _ => false,
            };
            let is_nameless = match names {
                [Some("securityLabel"), holder, _] => is_resource(holder) && !has_coding,
                _ => false,
            };
            let is_inline = match names {
                [Some("valueCoding"), holder, _] => is_extension(holder),
                [Some("coding"), Some("valueCodeableConcept"), holder] => is_extension(holder),
                _ => false,
            };
            (is_label, is_inline, is_nameless)
        };
        self.inside.has_strange_label |= is_nameless;
        let is_strange = system.is_strange || code.is_strange;
        if is_label || is_inline {
            match code.text {
                Some(code) if !is_strange && !code.trim().is_empty() => self.label(system.text, code),
                // An extension may say something else.
                Some(_) => self.inside.has_strange_label = true,
                None => self.inside.has_strange_label |= is_label,
            }
        }
        let subject = match self.levels.as_slice() {
            [root] | [root, Level { is_object: false, .. }] => {
                SUBJECTS.into_iter().find(|element| *element == root.key)
            }
            _ => None,
        };
        let is_patient = kind.text.as_deref() == Some("Patient");
        let is_found =
            own.has_identifier && (is_patient || kind.is_strange || (kind.text.is_none() && subject.is_some()));
        if reference.text.is_none() && resource_type.text.is_none() && (is_found || (is_patient && own.has_display)) {
            self.nameless(is_patient || kind.is_strange);
        }
        if let Some(element) = subject
            && self.inside.subjects.len() <= MOST_LABELS
        {
            let reference = reference.text.clone();
            self.inside.subjects.push(Subject { element, reference, kind: kind.text });
        }
        self.inside.references.extend(reference.text);
        if let Some(resource_type) = resource_type.text
            && self.inside.resources.len() <= MOST_RESOURCES
        {
            self.inside.is_strange |= id.is_strange;
            self.inside.resources.push(Nested { start, resource_type, id: id.text });
        }
    }
}

/// Whether what a member of this name holds is a resource; without a name it is the whole.
fn is_resource(holder: Option<&str>) -> bool {
    matches!(holder, None | Some("contained" | "resource"))
}

impl fmt::Debug for Inside<'_> {
    /// Nothing of the content (SEC-41).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} resources, {} labels", self.resources.len(), self.labels.len())
    }
}

#[cfg(test)]
mod tests;
