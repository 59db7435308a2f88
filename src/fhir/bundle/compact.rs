//! Takes the white space out of one resource, in place, and notes what is asked of it on the way.

use std::borrow::Cow;
use std::ops::Range;

use super::{Referenced, ResourceType};

/// What a resource says of itself.
#[derive(Default)]
pub(super) struct Found {
    resource_type: Option<String>,
    pub(super) id: Option<String>,
    pub(super) last_updated: Option<String>,
    pub(super) version_id: Option<String>,
    pub(super) references: Vec<Referenced>,
    has_meta: bool,
}

impl Found {
    pub(super) fn resource_type(&self) -> Option<ResourceType> {
        ResourceType::parse(self.resource_type.as_deref()?)
    }
}

/// Deepest nesting; `serde_json` has refused what is deeper.
const DEEPEST: usize = 130;

/// One open object or array.
struct Level {
    is_object: bool,
    /// Where the name of the current member stands in the buffer, without its quotes.
    key: Range<usize>,
}

/// Moves the resource in `range`, which is valid JSON, together; gives the end of it. `None` if its root is no object,
/// or names its type, id or meta twice or in another form than it has to have.
pub(super) fn compact(buffer: &mut [u8], range: Range<usize>, references: bool) -> Option<(usize, Found)> {
    let levels = Vec::with_capacity(16);
    let mut scan = Scan { buffer, read: range.start, end: range.end, write: range.start, levels };
    let mut found = Found::default();
    if scan.peek() != Some(b'{') {
        return None;
    }
    while let Some(byte) = scan.peek() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => scan.read += 1,
            b'{' | b'[' => {
                scan.check_root_member(byte, &mut found)?;
                if scan.levels.len() >= DEEPEST {
                    return None;
                }
                scan.levels.push(Level { is_object: byte == b'{', key: 0..0 });
                scan.keep(1);
            }
            b'}' | b']' => {
                scan.levels.pop()?;
                scan.keep(1);
            }
            b'"' => {
                let text = scan.string()?;
                if scan.is_key() {
                    scan.levels.last_mut()?.key = text;
                } else {
                    scan.value(&text, references, &mut found)?;
                }
            }
            b':' | b',' => scan.keep(1),
            _ => {
                scan.check_root_member(byte, &mut found)?;
                scan.plain();
            }
        }
    }
    let end = scan.write;
    Some((end, found))
}

struct Scan<'a> {
    buffer: &'a mut [u8],
    read: usize,
    end: usize,
    write: usize,
    levels: Vec<Level>,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        (self.read < self.end).then(|| self.buffer[self.read])
    }

    /// Keeps the next `length` bytes.
    fn keep(&mut self, length: usize) {
        if self.read != self.write {
            self.buffer.copy_within(self.read..self.read + length, self.write);
        }
        self.read += length;
        self.write += length;
    }

    /// Keeps a string, quotes and all; gives where its inside now stands.
    fn string(&mut self) -> Option<Range<usize>> {
        let mut at = self.read + 1;
        loop {
            at += memchr::memchr2(b'"', b'\\', self.buffer.get(at..self.end)?)?;
            if self.buffer[at] == b'"' {
                break;
            }
            at += 2;
        }
        let length = at + 1 - self.read;
        let start = self.write + 1;
        self.keep(length);
        Some(start..start + length - 2)
    }

    /// Keeps a number or a word.
    fn plain(&mut self) {
        let rest = &self.buffer[self.read..self.end];
        let stops = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
        let length = rest.iter().position(stops).unwrap_or(rest.len());
        self.keep(length.max(1));
    }

    /// Whether the string just kept is the name of a member: then a colon follows.
    fn is_key(&self) -> bool {
        let rest = &self.buffer[self.read..self.end];
        let next = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
        next == Some(&b':') && self.levels.last().is_some_and(|level| level.is_object)
    }

    /// Notes a string that is the value of a member.
    fn value(&self, text: &Range<usize>, references: bool, found: &mut Found) -> Option<()> {
        let level = self.levels.last()?;
        if !level.is_object {
            return Some(());
        }
        match self.levels.len() {
            1 => match &*self.text(&level.key)? {
                "resourceType" => set(&mut found.resource_type, self.text(text)?)?,
                "id" => set(&mut found.id, self.text(text)?)?,
                "meta" => return None,
                _ => {}
            },
            2 if self.text(&self.levels[0].key)? == "meta" => match &*self.text(&level.key)? {
                "lastUpdated" => set(&mut found.last_updated, self.text(text)?)?,
                "versionId" => set(&mut found.version_id, self.text(text)?)?,
                _ => {}
            },
            _ => {}
        }
        if references
            && self.levels.len() > 1
            && self.text(&level.key)? == "reference"
            && self.text(&self.levels[0].key)? != "contained"
        {
            let target = self.text(text)?.into();
            found.references.push(Referenced { path: self.path()?, target });
        }
        Some(())
    }

    /// The element that holds the current object.
    fn path(&self) -> Option<Box<str>> {
        let (_, holders) = self.levels.split_last()?;
        let names = holders.iter().filter(|level| level.is_object).map(|level| self.text(&level.key));
        let names = names.collect::<Option<Vec<_>>>()?;
        Some(names.join(".").into_boxed_str())
    }

    /// Refuses a root's type or id that is no string, and a second `meta`. `byte` begins a value that is none.
    fn check_root_member(&self, byte: u8, found: &mut Found) -> Option<()> {
        let [root] = self.levels.as_slice() else { return Some(()) };
        match &*self.text(&root.key)? {
            "resourceType" | "id" => None,
            "meta" if byte != b'{' => None,
            "meta" => (!std::mem::replace(&mut found.has_meta, true)).then_some(()),
            _ => Some(()),
        }
    }

    /// The text of a string whose inside stands at `range`.
    fn text(&self, range: &Range<usize>) -> Option<Cow<'_, str>> {
        let inside = std::str::from_utf8(&self.buffer[range.clone()]).ok()?;
        if memchr::memchr(b'\\', inside.as_bytes()).is_none() {
            return Some(Cow::Borrowed(inside));
        }
        serde_json::from_str(&format!("\"{inside}\"")).ok().map(Cow::Owned)
    }
}

fn set(slot: &mut Option<String>, value: Cow<'_, str>) -> Option<()> {
    slot.replace(value.into_owned()).is_none().then_some(())
}
