//! The one body type that crosses our layers. `Send` but not `Sync`, as the middleware's bodies are.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
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

/// The same body without its trailers.
pub(crate) fn without_trailers(body: Body) -> Body {
    WithoutTrailers(body).boxed_unsync()
}

struct WithoutTrailers(Body);

impl http_body::Body for WithoutTrailers {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.0).poll_frame(context));
            if !matches!(&frame, Some(Ok(frame)) if frame.is_trailers()) {
                return Poll::Ready(frame);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
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
