//! Bytes of resources and of answers, copied as seldom as possible.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use crate::base64;
use crate::rng::Rng;

/// Answers leave in frames of at most this many bytes.
const FRAME_BYTES: usize = 64 * 1024;
/// Resources above this size are handed on by reference; smaller ones are gathered into frames.
const COPY_BELOW_BYTES: usize = 16 * 1024;
/// Whole base64 groups, longer than gzip's window.
const FILLER_BYTES: usize = 192 * 1024;

/// Arbitrary base64 text that all large generated resources share.
static FILLER: LazyLock<Bytes> = LazyLock::new(|| {
    let mut rng = Rng::new(0);
    let noise: Vec<u8> = (0..FILLER_BYTES / 4 * 3 / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
    Bytes::from(base64::encode(&noise))
});

/// The text of one version of a resource.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// All of it, in memory.
    Text(Arc<str>),
    /// A large one that takes no memory: filler stands between its beginning and its end.
    Filled { head: Arc<str>, filler_bytes: usize, tail: Arc<str> },
}

impl Body {
    /// The whole text, put together where necessary.
    pub(crate) fn text(&self) -> Arc<str> {
        match self {
            Self::Text(text) => Arc::clone(text),
            Self::Filled { head, filler_bytes, tail } => {
                let mut text = String::with_capacity(head.len() + filler_bytes + tail.len());
                text.push_str(head);
                let block = str::from_utf8(&FILLER).unwrap_or_default();
                let mut left = *filler_bytes;
                while left > 0 {
                    let now = left.min(block.len());
                    text.push_str(&block[..now]);
                    left -= now;
                }
                text.push_str(tail);
                text.into()
            }
        }
    }
}

/// A part of an answer.
#[derive(Debug, Clone)]
enum Piece {
    Bytes(Bytes),
    /// So many bytes of filler, counted from its beginning.
    Filler(Range<u64>),
}

/// An answer being put together, and then its frames: an iterator over what goes on the wire.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    pieces: VecDeque<Piece>,
    open: Vec<u8>,
    len: u64,
}

impl Payload {
    pub(crate) fn filler(len: u64) -> Self {
        Self { pieces: [Piece::Filler(0..len)].into(), open: Vec::new(), len }
    }

    pub(crate) fn push_str(&mut self, text: &str) {
        self.len += text.len() as u64;
        self.open.extend_from_slice(text.as_bytes());
        if self.open.len() >= FRAME_BYTES {
            self.close();
        }
    }

    pub(crate) fn push_body(&mut self, body: &Body) {
        match body {
            Body::Text(text) if text.len() < COPY_BELOW_BYTES => self.push_str(text),
            Body::Text(text) => {
                self.close();
                self.len += text.len() as u64;
                self.pieces.push_back(Piece::Bytes(Bytes::from_owner(Shared(Arc::clone(text)))));
            }
            Body::Filled { head, filler_bytes, tail } => {
                self.push_str(head);
                self.close();
                self.len += *filler_bytes as u64;
                if *filler_bytes > 0 {
                    self.pieces.push_back(Piece::Filler(0..*filler_bytes as u64));
                }
                self.push_str(tail);
            }
        }
    }

    /// Bytes that are still to be sent.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push_back(Piece::Bytes(Bytes::from(std::mem::take(&mut self.open))));
        }
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self { len: text.len() as u64, open: text.into_bytes(), ..Self::default() }
    }
}

impl Iterator for Payload {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.close();
        let (frame, spent) = match self.pieces.front_mut()? {
            Piece::Bytes(bytes) => {
                let frame = bytes.split_to(bytes.len().min(FRAME_BYTES));
                (frame, bytes.is_empty())
            }
            Piece::Filler(range) => {
                let at = usize::try_from(range.start % FILLER_BYTES as u64).unwrap_or(0);
                let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
                let len = left.min(FRAME_BYTES).min(FILLER_BYTES - at);
                range.start += len as u64;
                (FILLER.slice(at..at + len), range.is_empty())
            }
        };
        if spent {
            self.pieces.pop_front();
        }
        self.len -= frame.len() as u64;
        Some(frame)
    }
}

struct Shared(Arc<str>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_resource_reads_the_same_in_memory_and_in_frames() {
        for filler_bytes in [0, 4, FILLER_BYTES, 3 * FILLER_BYTES + 400] {
            let body = Body::Filled { head: "{\"data\":\"".into(), filler_bytes, tail: "\"}".into() };
            let mut payload = Payload::default();
            payload.push_str("[");
            payload.push_body(&body);
            payload.push_body(&Body::Text("x".repeat(COPY_BELOW_BYTES).into()));
            let len = payload.len();
            let frames: Vec<Bytes> = payload.collect();
            assert!(frames.iter().all(|frame| frame.len() <= FRAME_BYTES && !frame.is_empty()));
            let sent = frames.concat();
            assert_eq!(sent.len() as u64, len);
            assert_eq!(String::from_utf8(sent), Ok(format!("[{}{}", body.text(), "x".repeat(COPY_BELOW_BYTES))));
        }
    }
}
