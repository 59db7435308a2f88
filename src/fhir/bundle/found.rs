//! What a resource says of itself, heard as it is read.

use std::borrow::Cow;
use std::sync::Arc;

use super::json::{Listener, Text};
use super::{Id, Instant, Referenced, ResourceType};
use crate::fhir::elements::LONGEST_NAME;

/// What is said, and cannot be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unfit;

/// What a resource says of itself, as far as it says it.
#[derive(Default)]
pub(super) struct Found {
    resource_type: Option<Result<ResourceType, Unfit>>,
    id: Option<Result<Id, Unfit>>,
    last_updated: Option<Result<Instant, Unfit>>,
    pub(super) version_id: Option<Box<str>>,
    pub(super) references: Vec<Referenced>,
    has_meta: bool,
    /// Its root is no object, or names its type, id or meta twice or in another form than it has to have.
    pub(super) is_strange: bool,
}

impl Found {
    /// Notes what a member says; `None` if it may not say that, or has said something before.
    fn note(&mut self, member: Member, text: Option<Cow<'_, str>>, asked: ResourceType) -> Option<()> {
        let text = text?;
        let resource_type = || if text == asked.as_str() { Some(asked) } else { ResourceType::parse(&text) };
        let is_second = match member {
            Member::ResourceType => self.resource_type.replace(resource_type().ok_or(Unfit)).is_some(),
            Member::Id => self.id.replace(Id::parse(&text).map_err(|_| Unfit)).is_some(),
            Member::LastUpdated => self.last_updated.replace(Instant::parse(&text).map_err(|_| Unfit)).is_some(),
            Member::VersionId => self.version_id.replace(text.into()).is_some(),
            Member::Meta => true,
            Member::Contained | Member::Other => false,
        };
        (!is_second).then_some(())
    }

    pub(super) fn resource_type(&self) -> Option<ResourceType> {
        self.resource_type?.ok()
    }

    pub(super) fn id(&mut self) -> Option<Id> {
        self.id.take()?.ok()
    }

    /// Not said at all is no fault.
    pub(super) fn last_updated(&self) -> Result<Option<Instant>, Unfit> {
        self.last_updated.transpose()
    }
}

/// Hears one resource.
pub(super) struct Hearing {
    found: Found,
    depth: usize,
    /// The member of the root that is being read.
    root: Member,
    /// The member of `meta` that is being read.
    of_meta: Member,
    /// Nearly every resource is of this type.
    asked: ResourceType,
    /// What is open, where references are asked for.
    levels: Option<Vec<Level>>,
}

/// Bytes of a path. Of a longer one, or of one with a longer name than any element has, the beginning is kept, which is longer than
/// any that is looked for (a search's, or one that policy names in 200 letters).
const LONGEST_PATH: usize = 300;

/// What such a path ends with, as that of no element does.
const TOO_LONG: &str = "\u{2026}";

/// One open object or array.
struct Level {
    is_object: bool,
    /// The name of the current member.
    name: Text,
}

/// A member that something is noted of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    ResourceType,
    Id,
    Meta,
    Contained,
    LastUpdated,
    VersionId,
    Other,
}

impl Member {
    fn of_root(name: &[u8]) -> Self {
        match name {
            b"resourceType" => Self::ResourceType,
            b"id" => Self::Id,
            b"meta" => Self::Meta,
            b"contained" => Self::Contained,
            _ => Self::Other,
        }
    }

    fn of_meta(name: &[u8]) -> Self {
        match name {
            b"lastUpdated" => Self::LastUpdated,
            b"versionId" => Self::VersionId,
            _ => Self::Other,
        }
    }
}

impl Hearing {
    pub(super) fn new(asked: ResourceType, references: bool) -> Self {
        let (root, of_meta) = (Member::Other, Member::Other);
        Self { found: Found::default(), depth: 0, root, of_meta, asked, levels: references.then(Vec::new) }
    }

    /// What was heard since the last time.
    pub(super) fn found(&mut self) -> Found {
        std::mem::take(&mut self.found)
    }

    /// Notes that something else than text, or than an object, begins or stands where it may not.
    fn other_than_text(&mut self, is_object: bool) {
        if self.depth != 1 {
            self.found.is_strange |= self.depth == 0 && !is_object;
            return;
        }
        match self.root {
            Member::ResourceType | Member::Id => self.found.is_strange = true,
            Member::Meta => self.found.is_strange |= !is_object || std::mem::replace(&mut self.found.has_meta, true),
            Member::Contained | Member::LastUpdated | Member::VersionId | Member::Other => {}
        }
    }

    /// The element that holds the current object; `None` if that is no name of an element. References side by side share it.
    fn path(&self, json: &[u8]) -> Option<Arc<str>> {
        let (_, holders) = self.levels.as_deref()?.split_last()?;
        let mut path = String::new();
        for level in holders.iter().filter(|level| level.is_object) {
            let name = level.name.read(json)?;
            if !path.is_empty() {
                path.push('.');
            }
            if name.len() > LONGEST_NAME || path.len() + name.len() > LONGEST_PATH {
                path.push_str(TOO_LONG);
                break;
            }
            path.push_str(&name);
        }
        let last = self.found.references.last().map(|reference| &reference.path);
        Some(last.filter(|last| ***last == *path).map_or_else(|| path.into(), Arc::clone))
    }

    /// Whether a text is what an object says it refers to.
    fn is_reference(&self, json: &[u8]) -> bool {
        let Some(Level { is_object: true, name }) = self.levels.as_ref().and_then(|levels| levels.last()) else {
            return false;
        };
        self.depth > 1 && self.root != Member::Contained && is(name, json, b"reference")
    }
}

impl Listener for Hearing {
    fn open(&mut self, is_object: bool) {
        self.other_than_text(is_object);
        self.depth += 1;
        if let Some(levels) = &mut self.levels {
            levels.push(Level { is_object, name: Text::default() });
        }
    }

    fn close(&mut self) {
        self.depth -= 1;
        if let Some(levels) = &mut self.levels {
            levels.pop();
        }
    }

    #[inline]
    fn name(&mut self, json: &[u8], text: Text) {
        if !self.is_deaf() {
            self.hear_name(json, text);
        }
    }

    #[inline]
    fn string(&mut self, json: &[u8], text: &Text) {
        if !self.is_deaf() {
            self.hear_string(json, text);
        }
    }

    fn plain(&mut self) {
        self.other_than_text(false);
    }
}

impl Hearing {
    /// Whether nothing is asked of what is read now: most of a resource lies this deep.
    fn is_deaf(&self) -> bool {
        self.depth > 2 && self.levels.is_none()
    }

    fn hear_name(&mut self, json: &[u8], text: Text) {
        match self.depth {
            1 => self.root = named(&text, json, Member::of_root),
            2 if self.root == Member::Meta => self.of_meta = named(&text, json, Member::of_meta),
            _ => {}
        }
        if let Some(level) = self.levels.as_mut().and_then(|levels| levels.last_mut()) {
            level.name = text;
        }
    }

    fn hear_string(&mut self, json: &[u8], text: &Text) {
        let member = match self.depth {
            0 => {
                self.found.is_strange = true;
                return;
            }
            1 => self.root,
            2 if self.root == Member::Meta => self.of_meta,
            _ => Member::Other,
        };
        if !matches!(member, Member::Other | Member::Contained) {
            self.found.is_strange |= self.found.note(member, text.read(json), self.asked).is_none();
        }
        if self.is_reference(json) {
            match (self.path(json), text.read(json)) {
                (Some(path), Some(target)) => {
                    self.found.references.push(Referenced { path, target: target.into() });
                }
                // Where it leads cannot be told.
                _ => self.found.is_strange = true,
            }
        }
    }
}

/// What a member is called.
fn named(text: &Text, json: &[u8], of: impl Fn(&[u8]) -> Member) -> Member {
    match text.plain(json) {
        Some(name) => of(name),
        None => text.read(json).map_or(Member::Other, |name| of(name.as_bytes())),
    }
}

fn is(text: &Text, json: &[u8], name: &[u8]) -> bool {
    match text.plain(json) {
        Some(plain) => plain == name,
        None => text.read(json).is_some_and(|text| text.as_bytes() == name),
    }
}
