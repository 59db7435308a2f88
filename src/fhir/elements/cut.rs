//! Takes elements out of the bytes of one compact resource, and says so by a tag.

use std::borrow::Cow;

use super::{Elements, is_named};
use crate::fhir::inside::{Inside, meaning, plain_end, string_end};

/// It cannot be told what would be left of the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the resource is not understood")]
pub(crate) struct NotUnderstood;

/// BD-028: how a resource says that it is not whole.
///
/// Source: <https://hl7.org/fhir/R4/valueset-common-tags.html>
const SYSTEM: &str = r#""http://terminology.hl7.org/CodeSystem/v3-ObservationValue""#;
const CODE: &str = r#""SUBSETTED""#;
pub(super) const TAG: &str =
    r#"{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}"#;

impl Elements {
    /// A compact resource without these, and a newline; `None` if it has none of them. Where they could be in it, and in what
    /// is contained, the narratives go too, as does what would be left empty.
    ///
    /// # Errors
    /// [`NotUnderstood`] if the resource has a form that it should not have.
    pub(crate) fn cut(&self, line: &[u8], inside: &Inside<'_>) -> Result<Option<Vec<u8>>, NotUnderstood> {
        let concerns = |name: &str| self.of(name).next().is_some();
        if !inside.resources.iter().any(|nested| concerns(&nested.resource_type)) {
            return Ok(None);
        }
        if inside.is_strange {
            return Err(NotUnderstood);
        }
        let text = std::str::from_utf8(line).map_err(|_| NotUnderstood)?.trim_end();
        let mut cut = Cut {
            text,
            at: 0,
            left: Vec::with_capacity(line.len() + TAG.len() + 20),
            elements: self,
            inside,
            has_lost: false,
        };
        let is_left = cut.value(&Vec::new()).ok_or(NotUnderstood)?;
        if !is_left || cut.at != text.len() {
            return Err(NotUnderstood);
        }
        if !cut.has_lost {
            return Ok(None);
        }
        let left = String::from_utf8(cut.left).map_err(|_| NotUnderstood)?;
        let mut tagged = tag(left).ok_or(NotUnderstood)?.into_bytes();
        tagged.push(b'\n');
        Ok(Some(tagged))
    }
}

/// The rests of paths that lead into what is being read.
type Paths<'a> = Vec<&'a [Box<str>]>;

struct Cut<'a> {
    text: &'a str,
    at: usize,
    left: Vec<u8>,
    elements: &'a Elements,
    inside: &'a Inside<'a>,
    has_lost: bool,
}

impl<'a> Cut<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn keep_to(&mut self, end: usize) -> Option<()> {
        self.left.extend_from_slice(self.text.as_bytes().get(self.at..end)?);
        self.at = end;
        Some(())
    }

    /// Keeps what is left of a value; `Some(false)` if that is nothing.
    fn value(&mut self, paths: &Paths<'a>) -> Option<bool> {
        match self.peek()? {
            b'{' => self.object(paths),
            b'[' => self.array(paths),
            b'"' => {
                self.keep_to(string_end(self.text, self.at)?)?;
                Some(true)
            }
            _ => {
                self.keep_to(plain_end(self.text, self.at))?;
                Some(true)
            }
        }
    }

    fn object(&mut self, paths: &Paths<'a>) -> Option<bool> {
        let resources = &self.inside.resources;
        let resource =
            resources.binary_search_by_key(&self.at, |nested| nested.start).ok().map(|index| &resources[index]);
        let mut paths = Cow::Borrowed(paths);
        if let Some(resource) = resource {
            paths.to_mut().extend(self.elements.of(&resource.resource_type));
        }
        let (mut members, mut kept) = (0, 0);
        self.keep_to(self.at + 1)?;
        while self.peek()? != b'}' {
            members += 1;
            let before = self.left.len();
            if kept > 0 {
                self.left.push(b',');
            }
            let end = string_end(self.text, self.at)?;
            let name = meaning(self.text.get(self.at..end)?)?;
            let own = name.strip_prefix('_').unwrap_or(&name);
            let (goes, below) = Self::fate(own, &paths, resource.is_some());
            self.keep_to(end)?;
            if self.peek()? != b':' {
                return None;
            }
            self.keep_to(self.at + 1)?;
            let is_left = if goes {
                self.at = value_end(self.text, self.at)?;
                self.has_lost = true;
                false
            } else {
                self.value(&below)?
            };
            if is_left {
                kept += 1;
            } else {
                self.left.truncate(before);
            }
            self.end_of_one(b'}')?;
        }
        self.keep_to(self.at + 1)?;
        Some(kept > 0 || members == 0)
    }

    /// Whether a member goes, and what goes of it if not.
    fn fate(name: &str, paths: &Paths<'a>, is_resource: bool) -> (bool, Paths<'a>) {
        // A narrative may tell of whatever else there is.
        let mut goes = is_resource && name == "text";
        let mut below = Vec::new();
        for path in paths {
            match path.split_first() {
                Some((first, [])) if is_named(first, name) => goes = true,
                Some((first, rest)) if is_named(first, name) => below.push(rest),
                Some(_) | None => {}
            }
        }
        (goes, below)
    }

    fn array(&mut self, paths: &Paths<'a>) -> Option<bool> {
        let (mut items, mut kept) = (0, 0);
        self.keep_to(self.at + 1)?;
        while self.peek()? != b']' {
            items += 1;
            let before = self.left.len();
            if kept > 0 {
                self.left.push(b',');
            }
            if self.value(paths)? {
                kept += 1;
            } else {
                self.left.truncate(before);
            }
            self.end_of_one(b']')?;
        }
        self.keep_to(self.at + 1)?;
        Some(kept > 0 || items == 0)
    }

    /// Passes over the comma after a member or an item; another one has to follow.
    fn end_of_one(&mut self, closing: u8) -> Option<()> {
        match self.peek()? {
            b',' => {
                self.at += 1;
                (self.peek()? != closing).then_some(())
            }
            byte => (byte == closing).then_some(()),
        }
    }
}

/// Where the value that begins at `at` ends.
pub(super) fn value_end(text: &str, at: usize) -> Option<usize> {
    let mut open = 0_usize;
    let mut at = at;
    loop {
        at = match *text.as_bytes().get(at)? {
            b'{' | b'[' => {
                open += 1;
                at + 1
            }
            b'}' | b']' => {
                open = open.checked_sub(1)?;
                at + 1
            }
            b'"' => string_end(text, at)?,
            b',' | b':' => at + 1,
            _ => plain_end(text, at),
        };
        if open == 0 {
            return Some(at);
        }
    }
}

/// Each member of the object that begins at `at`: its name, and where its value begins and ends.
fn members(text: &str, at: usize) -> Option<Vec<(Cow<'_, str>, usize, usize)>> {
    let mut members = Vec::new();
    let mut at = at + 1;
    while *text.as_bytes().get(at)? != b'}' {
        let colon = string_end(text, at)?;
        let name = meaning(text.get(at..colon)?)?;
        let end = value_end(text, colon + 1)?;
        members.push((name, colon + 1, end));
        at = if text.as_bytes().get(end) == Some(&b',') { end + 1 } else { end };
    }
    Some(members)
}

/// A compact resource with the tag, which is added where it has none; `None` if there is no place for it.
pub(super) fn tag(mut resource: String) -> Option<String> {
    let named = |members: Vec<(Cow<'_, str>, usize, usize)>, wanted: &str| -> Option<Option<(usize, usize)>> {
        let mut found = members.into_iter().filter(|(name, ..)| name == wanted).map(|(_, start, end)| (start, end));
        let first = found.next();
        found.next().is_none().then_some(first)
    };
    let byte = |at: usize| resource.as_bytes().get(at).copied();
    let (place, text) = match named(members(&resource, 0)?, "meta")? {
        None => (1, format!(r#""meta":{{"tag":[{TAG}]}}{}"#, if byte(1)? == b'}' { "" } else { "," })),
        Some((meta, end)) => {
            if byte(meta)? != b'{' {
                return None;
            }
            if [SYSTEM, CODE].iter().all(|part| resource.get(meta..end).is_some_and(|meta| meta.contains(part))) {
                return Some(resource);
            }
            match named(members(&resource, meta)?, "tag")? {
                None => (meta + 1, format!(r#""tag":[{TAG}]{}"#, if byte(meta + 1)? == b'}' { "" } else { "," })),
                Some((tags, _)) if byte(tags)? == b'[' => {
                    (tags + 1, if byte(tags + 1)? == b']' { TAG.to_owned() } else { format!("{TAG},") })
                }
                Some(_) => return None,
            }
        }
    };
    resource.insert_str(place, &text);
    Some(resource)
}

#[cfg(test)]
mod tests;
