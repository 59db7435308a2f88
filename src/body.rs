//! The one body type that crosses our layers. `Send` but not `Sync`, as the middleware's bodies are.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// Why a body ended early; whose error it is depends on who made the body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or an answer's body: streamed, never collected on the way.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// No bytes at all.
pub(crate) fn empty() -> Body {
    map(Empty::new())
}

/// Bytes that are already there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    map(Full::new(bytes.into()))
}

/// Any body as ours: frames and trailers pass one by one, at the reader's pace.
pub(crate) fn map<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[test]
    fn the_length_of_a_body_stays_known() {
        for (body, length) in [(empty(), 0), (full("four"), 4), (map(full("four")), 4)] {
            assert_eq!(body.size_hint().exact(), Some(length));
        }
    }
}
