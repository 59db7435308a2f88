//! JSON token by token, where it lies: each byte is looked at once, nothing is copied, and what is no JSON is told by where it
//! stops being some (RFC 8259). Strings are most of what servers send, and are read eight bytes at a time, long ones more.
#![expect(clippy::inline_always, reason = "an eighth of all instructions that a page of small resources takes")]

use std::borrow::Cow;
use std::ops::Range;

/// Why bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// From here on they are no JSON.
    At(usize),
    /// They are nested deeper than clients read.
    Deep,
}

/// Deepest nesting of one value: many readers go no deeper.
const DEEPEST: u32 = 128;

/// The inside of a string, without its quotes.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    range: Range<usize>,
    has_escapes: bool,
}

impl Text {
    /// What it says; `None` if its escapes say nothing, as half of a pair of surrogates.
    pub(super) fn read<'a>(&self, json: &'a [u8]) -> Option<Cow<'a, str>> {
        let inside = std::str::from_utf8(json.get(self.range.clone())?).ok()?;
        if self.has_escapes {
            return serde_json::from_str(&format!("\"{inside}\"")).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(inside))
    }

    /// Its bytes where they are what it says; without a look at them.
    pub(super) fn plain<'a>(&self, json: &'a [u8]) -> Option<&'a [u8]> {
        if self.has_escapes { None } else { json.get(self.range.clone()) }
    }
}

/// Hears what a value is made of, in its order.
pub(super) trait Listener {
    /// An object or an array begins.
    fn open(&mut self, _is_object: bool) {}
    fn close(&mut self) {}
    /// The name of a member.
    fn name(&mut self, _json: &[u8], _text: Text) {}
    fn string(&mut self, _json: &[u8], _text: &Text) {}
    /// A number or a word.
    fn plain(&mut self) {}
}

/// Hears nothing.
pub(super) struct Deaf;

impl Listener for Deaf {}

/// A place in some bytes that are being read.
pub(super) struct Cursor<'a> {
    json: &'a [u8],
    at: usize,
    /// Bytes of white space so far.
    space: usize,
    /// Where white space stood, while that is noted.
    gaps: Vec<Gap>,
    notes_gaps: bool,
}

/// White space between two tokens: where it begins and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// So many are noted of one page: 2 MiB. The white space of the rest of it is looked for once more.
const MOST_GAPS: usize = 1 << 18;

impl<'a> Cursor<'a> {
    pub(super) fn new(json: &'a [u8]) -> Self {
        Self { json, at: 0, space: 0, gaps: Vec::new(), notes_gaps: false }
    }

    /// Begins to note where white space stands, behind so many notes.
    pub(super) fn note_gaps(&mut self) -> usize {
        self.notes_gaps = u32::try_from(self.json.len()).is_ok();
        self.gaps.len()
    }

    /// Notes no more of it. Gives how many notes there are by now; `None` if some may have been left out.
    pub(super) fn gaps_noted(&mut self) -> Option<usize> {
        let is_noted = std::mem::take(&mut self.notes_gaps) && self.gaps.len() < MOST_GAPS;
        is_noted.then_some(self.gaps.len())
    }

    pub(super) fn into_gaps(self) -> Vec<Gap> {
        self.gaps
    }

    #[inline(always)]
    fn note_gap(&mut self, start: usize) {
        if self.notes_gaps
            && self.gaps.len() < MOST_GAPS
            && let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(self.at))
        {
            self.gaps.push(Gap { start, end });
        }
    }

    pub(super) fn json(&self) -> &'a [u8] {
        self.json
    }

    /// Bytes of white space that were passed over.
    pub(super) fn space(&self) -> usize {
        self.space
    }

    pub(super) fn fault(&self) -> Fault {
        Fault::At(self.at)
    }

    /// The next byte that is no white space.
    #[inline(always)]
    pub(super) fn peek(&mut self) -> Option<u8> {
        match self.json.get(self.at) {
            Some(byte) if *byte > b' ' => Some(*byte),
            _ => self.pass_space(),
        }
    }

    #[inline(never)]
    fn pass_space(&mut self) -> Option<u8> {
        let from = self.at;
        self.at += space(self.json.get(from..)?);
        let byte = *self.json.get(self.at)?;
        self.space += self.at - from;
        self.note_gap(from);
        Some(byte)
    }

    /// Passes over this byte.
    #[inline(always)]
    fn take(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek() != Some(byte) {
            return Err(self.fault());
        }
        self.at += 1;
        Ok(())
    }

    /// That nothing follows.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        if self.peek().is_some() { Err(self.fault()) } else { Ok(()) }
    }

    /// Reads an object: `read` is called for each member, and has to read its value.
    pub(super) fn members<E: From<Fault>>(
        &mut self,
        mut read: impl FnMut(&mut Self, Text) -> Result<(), E>,
    ) -> Result<(), E> {
        self.items(*b"{}", |cursor| {
            let name = cursor.name()?;
            read(cursor, name)
        })
    }

    /// Reads an array: `read` is called for each element, and has to read it.
    pub(super) fn elements<E: From<Fault>>(&mut self, read: impl FnMut(&mut Self) -> Result<(), E>) -> Result<(), E> {
        self.items(*b"[]", read)
    }

    /// Reads what stands between two brackets, with commas between.
    fn items<E: From<Fault>>(
        &mut self,
        [open, close]: [u8; 2],
        mut read: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(open)?;
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            read(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.fault().into()),
            }
        }
    }

    /// Passes over a value, whatever it is; gives where it stands.
    pub(super) fn skip(&mut self) -> Result<Range<usize>, Fault> {
        self.value(&mut Deaf)
    }

    /// Passes over a value, of which the listener hears all; gives where it stands.
    pub(super) fn value(&mut self, listener: &mut impl Listener) -> Result<Range<usize>, Fault> {
        // A bit for each thing that is open: whether it is an object.
        let (mut open, mut depth) = (0_u128, 0_u32);
        let mut byte = self.peek().ok_or(self.fault())?;
        let start = self.at;
        loop {
            match byte {
                b'{' | b'[' => {
                    if depth == DEEPEST {
                        return Err(Fault::Deep);
                    }
                    let is_object = byte == b'{';
                    listener.open(is_object);
                    (open, depth) = ((open << 1) | u128::from(is_object), depth + 1);
                    self.at += 1;
                    if self.peek() == Some(if is_object { b'}' } else { b']' }) {
                        // It closes below.
                    } else {
                        byte = self.next_value(is_object, listener)?;
                        continue;
                    }
                }
                b'"' => {
                    let text = self.string()?;
                    listener.string(self.json, &text);
                }
                _ => {
                    self.plain(byte)?;
                    listener.plain();
                }
            }
            loop {
                if depth == 0 {
                    return Ok(start..self.at);
                }
                let is_object = open & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        byte = self.next_value(is_object, listener)?;
                        break;
                    }
                    Some(b'}') if is_object => {}
                    Some(b']') if !is_object => {}
                    _ => return Err(self.fault()),
                }
                self.at += 1;
                listener.close();
                (open, depth) = (open >> 1, depth - 1);
            }
        }
    }

    /// Goes to the first byte of the next value, past its name if it is a member.
    #[inline(always)]
    fn next_value(&mut self, is_member: bool, listener: &mut impl Listener) -> Result<u8, Fault> {
        if is_member {
            let name = self.name()?;
            listener.name(self.json, name);
            // One blank stands behind the colons of whoever indents.
            if self.json.get(self.at) == Some(&b' ') {
                self.at += 1;
                self.space += 1;
                self.note_gap(self.at - 1);
            }
        }
        self.peek().ok_or(self.fault())
    }

    /// Passes over the name of a member and its colon.
    #[inline(always)]
    fn name(&mut self) -> Result<Text, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.fault());
        }
        let name = self.string()?;
        self.take(b':')?;
        Ok(name)
    }

    /// Passes over a string, at whose first quote it is. Nearly all are short and of ASCII, and end with the first byte that is
    /// not an ordinary one.
    #[inline(always)]
    fn string(&mut self) -> Result<Text, Fault> {
        let start = self.at + 1;
        let rest = self.json.get(start..).unwrap_or_default();
        let (mut end, mut seen) = (start, 0);
        for eight in rest.as_chunks::<8>().0.iter().take(NEAR / 8) {
            let word = u64::from_le_bytes(*eight);
            let stops = stops(word);
            seen |= word;
            if stops == 0 {
                end += 8;
                continue;
            }
            // The lowest of them is one.
            let ahead = stops.trailing_zeros() & !7;
            if (word >> ahead) & 0xff != u64::from(b'"') || seen & HIGH != 0 {
                break;
            }
            end += ahead as usize / 8;
            self.at = end + 1;
            return Ok(Text { range: start..end, has_escapes: false });
        }
        self.any_string(start)
    }

    /// Passes over a string of any kind, which begins here.
    #[inline(never)]
    fn any_string(&mut self, start: usize) -> Result<Text, Fault> {
        let (mut at, mut has_escapes, mut is_ascii) = (start, false, true);
        loop {
            let run = self.run(at);
            is_ascii &= run.is_ascii();
            at += run.len();
            match self.json.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    has_escapes = true;
                    at = self.escape(at)?;
                }
                Some(_) | None => return Err(Fault::At(at.min(self.json.len()))),
            }
        }
        if !is_ascii && let Err(error) = std::str::from_utf8(&self.json[start..at]) {
            return Err(Fault::At(start + error.valid_up_to()));
        }
        self.at = at + 1;
        Ok(Text { range: start..at, has_escapes })
    }

    /// The ordinary bytes of a string from here on: all up to a quote, a backslash or a control character.
    #[inline(never)]
    fn run(&self, at: usize) -> &'a [u8] {
        let rest = self.json.get(at..).unwrap_or_default();
        let run = memchr::memchr2(b'"', b'\\', rest).map_or(rest, |end| &rest[..end]);
        // Nearly never there is one, and whether is told of many bytes at a time.
        if run.iter().fold(u8::MAX, |least, byte| least.min(*byte)) >= b' ' {
            return run;
        }
        run.iter().position(|byte| *byte < b' ').map_or(run, |end| &run[..end])
    }

    /// Where what follows an escape begins.
    fn escape(&self, at: usize) -> Result<usize, Fault> {
        match self.json.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => match self.json.get(at + 2..at + 6) {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(at + 6),
                Some(_) | None => Err(Fault::At(at)),
            },
            Some(_) | None => Err(Fault::At(at)),
        }
    }

    /// Passes over a number or a word that begins with this byte.
    fn plain(&mut self, first: u8) -> Result<(), Fault> {
        let rest = &self.json[self.at..];
        let length = match first {
            b't' if rest.starts_with(b"true") => 4,
            b'f' if rest.starts_with(b"false") => 5,
            b'n' if rest.starts_with(b"null") => 4,
            b'-' | b'0'..=b'9' => number(rest).ok_or(self.fault())?,
            _ => return Err(self.fault()),
        };
        self.at += length;
        Ok(())
    }
}

/// Bytes of a string without anything special after which it is taken to be a long one.
pub(super) const NEAR: usize = 64;

const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// Marks what may end a run of ordinary bytes in a string: a quote, a backslash or a control character. The lowest mark is right,
/// those above it may not be.
pub(super) fn stops(word: u64) -> u64 {
    let below = |most: u8| word.wrapping_sub(LOW * u64::from(most));
    let is = |byte: u8| (word ^ (LOW * u64::from(byte))).wrapping_sub(LOW);
    // A byte with its highest bit set is none of them.
    (below(b' ') | is(b'"') | is(b'\\')) & !word & HIGH
}

/// How long the number is that this begins with.
fn number(json: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        let rest = json.get(from..)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (digits > 0).then_some(from + digits)
    };
    let start = usize::from(json.first() == Some(&b'-'));
    let mut at = if json.get(start) == Some(&b'0') { start + 1 } else { digits(start)? };
    if json.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = json.get(at) {
        at = digits(at + 1 + usize::from(matches!(json.get(at + 1), Some(b'+' | b'-'))))?;
    }
    Some(at)
}

/// Bytes of white space that this begins with: mostly the end of a line, and many blanks.
pub(super) fn space(json: &[u8]) -> usize {
    let mut at = usize::from(json.first() == Some(&b'\n'));
    loop {
        while let Some(some) = json.get(at..).and_then(<[u8]>::first_chunk) {
            let others = u128::from_le_bytes(*some) ^ u128::from_le_bytes([b' '; 16]);
            at += others.trailing_zeros() as usize / 8;
            if others != 0 {
                break;
            }
        }
        match json.get(at) {
            Some(b' ' | b'\t' | b'\r' | b'\n') => at += 1,
            Some(_) | None => return at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_read(json: &[u8]) -> bool {
        let mut cursor = Cursor::new(json);
        cursor.skip().and_then(|_| cursor.end()).is_ok()
    }

    #[test]
    fn what_serde_reads_is_read_and_nothing_else() {
        let long = format!("\"{}\"", "é".repeat(40));
        let texts = [
            "{}",
            "[]",
            "{ }",
            "[ ]",
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1.5e+10",
            "1E5",
            "-1.0",
            "\"\"",
            "\"a\"",
            "[1,2 , 3]",
            "{\"a\":{\"b\":[{},[]]}}",
            " \n\t\r{\"a\" : 1 }\n",
            "\"\\u00e9\\n\\\"\\\\\\/\\b\\f\\r\\t\"",
            "\"\\ud83d\"",
            "\"12345678\"",
            "\"1234567\\\"\"",
            "\"123456789\\\\\"",
            &long,
            "\"\u{7f}\"",
            "",
            " ",
            "{",
            "}",
            "[",
            "]",
            "{]",
            "[}",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{1:1}",
            "[,1]",
            "[1 2]",
            "nul",
            "truer",
            "True",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "--1",
            "0x1",
            "NaN",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u123\"",
            "\"a\nb\"",
            "\"1234567\u{1}\"",
            "\"12345678\u{1f}\"",
            "[1]]",
            "{} {}",
            "1 2",
            "\u{feff}{}",
            "[\"a\":1]",
            "{\"a\" 1}",
            "{\"a\":1 \"b\":2}",
            "\"\t\"",
        ];
        for text in texts {
            let expected = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
            assert_eq!(is_read(text.as_bytes()), expected, "{text:?}");
            // Wherever it lies among others.
            for before in 0..9 {
                let text = format!("[\"{}\",{text}]", "x".repeat(before));
                let expected = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
                assert_eq!(is_read(text.as_bytes()), expected, "{text:?}");
            }
        }
        for bytes in [&b"\"\xff\""[..], b"\"\xc3\"", b"\"abcdefgh\xc3(\"", b"{\"\xed\xa0\x80\":1}", b"\xff", b"[1\xa0]"]
        {
            assert!(!is_read(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn long_strings_end_where_they_end() {
        for length in (56..72).chain(120..140) {
            for place in 0..length {
                for special in ["\"", "\\", "\\n", "\\\"", "\u{1f}", "\n", "é", "\u{7f}", ""] {
                    let text = format!("[\"{}{special}{}\",1]", "a".repeat(place), "b".repeat(length - place));
                    let expected = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
                    assert_eq!(is_read(text.as_bytes()), expected, "{text:?}");
                }
                let mut bytes = format!("\"{}\"", "a".repeat(length)).into_bytes();
                bytes[1 + place] = 0xff;
                assert!(!is_read(&bytes), "{length}, {place}");
                assert!(!is_read(&bytes[..=place]), "{length} without an end at {place}");
            }
        }
        let fault = Cursor::new(format!("\"{}\u{1}\"", "a".repeat(200)).as_bytes()).skip();
        assert_eq!(fault, Err(Fault::At(201)));
    }

    #[test]
    fn nesting_has_a_bound() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_read(nested(128).as_bytes()));
        assert_eq!(Cursor::new(nested(129).as_bytes()).skip(), Err(Fault::Deep));
    }

    #[test]
    fn every_byte_that_may_end_a_run_is_seen_where_it_is() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut eight = [b'a'; 8];
                eight[place] = byte;
                let stops = stops(u64::from_le_bytes(eight));
                let is_one = byte < b' ' || byte == b'"' || byte == b'\\';
                assert_eq!(stops != 0, is_one, "{byte}");
                assert!(!is_one || stops.trailing_zeros() as usize / 8 == place, "{byte} at {place}");
            }
        }
    }
}
