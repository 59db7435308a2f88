//! Follows the framing of one connection's requests. Pure.

/// So much of a line is kept: enough for all that is looked at.
const KEPT_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a line of text.
    Line(Line),
    /// In bytes that mean nothing here, before a line.
    Skip {
        left: u64,
        then: Line,
    },
    /// HTTP/2, which frames its messages beyond doubt.
    Http2,
    Spoilt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// The request line, or an empty line before it.
    Request,
    Header,
    ChunkSize,
    Trailer,
}

/// How a head says that its body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Unsaid,
    Length(u64),
    Chunked,
}

/// A line, or a header in it, that is not to be had.
#[derive(Debug)]
struct Offence;

/// Where in its requests a connection is.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    framing: Framing,
    has_host: bool,
    is_first: bool,
    /// The begin of the line that is being read.
    kept: Vec<u8>,
    /// Whether the line is longer than what is kept.
    is_cut: bool,
    /// The last byte of the line so far.
    last: u8,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            state: State::Line(Line::Request),
            framing: Framing::Unsaid,
            has_host: false,
            is_first: true,
            kept: Vec::with_capacity(KEPT_BYTES),
            is_cut: false,
            last: 0,
        }
    }

    /// Whether the connection has to end.
    pub(super) fn has_spoilt(&self) -> bool {
        self.state == State::Spoilt
    }

    /// Reads on; the place of the byte at which the connection has to end, if there is one.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Spoilt => return Some(at),
                State::Http2 => return None,
                State::Skip { left, then } => {
                    let here = u64::try_from(bytes.len() - at).map_or(left, |here| here.min(left));
                    at += usize::try_from(here).unwrap_or(bytes.len() - at);
                    let left = left - here;
                    self.state = if left == 0 { State::Line(then) } else { State::Skip { left, then } };
                }
                State::Line(line) => {
                    let Some(end) = memchr::memchr(b'\n', &bytes[at..]) else {
                        self.keep(&bytes[at..]);
                        return None;
                    };
                    self.keep(&bytes[at..at + end]);
                    at += end;
                    let Ok(next) = self.end_line(line) else {
                        self.state = State::Spoilt;
                        return Some(at);
                    };
                    self.state = next;
                    at += 1;
                }
            }
        }
        None
    }

    fn keep(&mut self, part: &[u8]) {
        let room = KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&part[..part.len().min(room)]);
        self.is_cut |= part.len() > room;
        self.last = part.last().copied().unwrap_or(self.last);
    }

    fn end_line(&mut self, line: Line) -> Result<State, Offence> {
        let mut kept = std::mem::take(&mut self.kept);
        let is_cut = std::mem::take(&mut self.is_cut);
        if std::mem::take(&mut self.last) != b'\r' {
            return Err(Offence);
        }
        let text = if is_cut { &kept[..] } else { &kept[..kept.len() - 1] };
        let next = match line {
            Line::Request => Ok(self.request_line(text)),
            Line::Header if text.is_empty() => Ok(self.end_head()),
            Line::Header => self.header(text, is_cut).map(|()| State::Line(Line::Header)),
            Line::ChunkSize => chunk(text, is_cut),
            Line::Trailer if text.is_empty() => Ok(State::Line(Line::Request)),
            Line::Trailer => Ok(State::Line(Line::Trailer)),
        };
        kept.clear();
        self.kept = kept;
        next
    }

    fn request_line(&mut self, text: &[u8]) -> State {
        if text.is_empty() {
            return State::Line(Line::Request);
        }
        (self.framing, self.has_host) = (Framing::Unsaid, false);
        // Later than at first this is a bad HTTP/1 request, and the server says so.
        if std::mem::take(&mut self.is_first) && text == b"PRI * HTTP/2.0" {
            return State::Http2;
        }
        State::Line(Line::Header)
    }

    fn header(&mut self, text: &[u8], is_cut: bool) -> Result<(), Offence> {
        // A line that continues the one before, and a line without a name.
        let colon = memchr::memchr(b':', text);
        let (name, value) = match colon {
            Some(colon) => (&text[..colon], text[colon + 1..].trim_ascii()),
            None if is_cut => return Ok(()), // A long name is none of those below.
            None => return Err(Offence),
        };
        if name.first().is_none_or(u8::is_ascii_whitespace) {
            return Err(Offence);
        }
        if name.eq_ignore_ascii_case(b"host") {
            if std::mem::replace(&mut self.has_host, true) {
                return Err(Offence);
            }
            return Ok(());
        }
        let framing = if name.eq_ignore_ascii_case(b"content-length") {
            Framing::Length(number(value, 10).ok_or(Offence)?)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Offence);
            }
            Framing::Chunked
        } else {
            return Ok(());
        };
        if is_cut || self.framing != Framing::Unsaid {
            return Err(Offence);
        }
        self.framing = framing;
        Ok(())
    }

    fn end_head(&self) -> State {
        match self.framing {
            Framing::Unsaid | Framing::Length(0) => State::Line(Line::Request),
            Framing::Length(left) => State::Skip { left, then: Line::Request },
            Framing::Chunked => State::Line(Line::ChunkSize),
        }
    }
}

/// What follows the line before a chunk: its bytes and the end of their line, or after the last the trailers.
fn chunk(text: &[u8], is_cut: bool) -> Result<State, Offence> {
    let end = text.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t'));
    let digits = match end {
        Some(end) => &text[..end],
        None if is_cut => return Err(Offence),
        None => text,
    };
    match number(digits, 16).ok_or(Offence)? {
        0 => Ok(State::Line(Line::Trailer)),
        bytes => {
            let left = bytes.checked_add(2).ok_or(Offence)?;
            Ok(State::Skip { left, then: Line::ChunkSize })
        }
    }
}

/// Digits only, and no more than a `u64` holds.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    digits.then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where each text is spoilt, whatever pieces it comes in.
    fn spoilt_at(text: &[u8]) -> Option<usize> {
        let whole = Scanner::new().scan(text);
        for piece in 1..text.len().min(40) {
            let (mut scanner, mut spoilt) = (Scanner::new(), None);
            for (number, part) in text.chunks(piece).enumerate() {
                spoilt = spoilt.or_else(|| scanner.scan(part).map(|at| number * piece + at));
            }
            let text = String::from_utf8_lossy(text);
            assert_eq!(spoilt, whole, "in pieces of {piece}: {text}");
        }
        whole
    }

    #[test]
    fn what_all_readers_read_alike_passes() {
        let long = format!("GET /{0} HTTP/1.1\r\n{0}: b\r\nX: {0}\r\n\r\n", "a".repeat(500));
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-LENGTH:\t3 \r\n\r\n\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\n\n\n\r\nA;x=y\r\n0123456789\r\n\
             0\r\nX: trailer\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n",
            long.as_str(),
        ] {
            assert_eq!(spoilt_at(text.as_bytes()), None, "{text}");
        }
    }

    /// SEC-04: two `Content-Length`, `Content-Length` with `Transfer-Encoding`, bare LF.
    #[test]
    fn what_two_readers_could_read_differently_is_spoilt() {
        let post = "POST / HTTP/1.1\r\n";
        for (head, spoilt_by) in [
            ("Content-Length: 5\r\nContent-Length: 5", "\r\n\r\nhello"),
            ("Content-Length: 5\r\nX: y\r\ncontent-length: 6", "\r\n\r\nhello"),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", "\r\n\r\n0\r\n\r\n"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", "\r\n\r\n0\r\n\r\n"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "\r\n\r\n"),
            ("Transfer-Encoding: gzip, chunked", "\r\n\r\n"),
            ("Transfer-Encoding:", "\r\n\r\n"),
            ("Content-Length: 5, 5", "\r\n\r\nhello"),
            ("Content-Length: +5", "\r\n\r\nhello"),
            ("Content-Length: 18446744073709551616", "\r\n\r\n"),
            ("Content-Length:", "\r\n\r\n"),
            ("Host: a\r\nHost: a", "\r\n\r\n"),
            ("X: y\r\n folded: z", "\r\n\r\n"),
            ("no colon", "\r\n\r\n"),
            (": no name", "\r\n\r\n"),
        ] {
            let text = format!("{post}{head}{spoilt_by}");
            let expected = post.len() + head.len() + 1;
            assert_eq!(spoilt_at(text.as_bytes()), Some(expected), "{text}");
        }
        let padded = format!("{post}Content-Length: {}5\r\n\r\n", " ".repeat(100));
        assert!(spoilt_at(padded.as_bytes()).is_some());
        for text in [
            "\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.1\n\n",
            "GET / HTTP/1.1\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n",
        ] {
            let at = spoilt_at(text.as_bytes()).expect("a line ends in a bare LF, or is no size");
            assert_eq!(text.as_bytes()[at], b'\n', "{text}");
        }
    }
}
