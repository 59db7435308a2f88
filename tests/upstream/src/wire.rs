//! Sends answers as slowly, as small and as broken as the settings ask.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, DATE, HeaderMap, HeaderValue, VARY};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::body::Payload;
use crate::instant;
use crate::pretty::Pretty;
use crate::upstream::SampleUpstream;

/// The body of an answer on its way.
pub(crate) type WireBody = UnsyncBoxBody<Bytes, Broken>;

/// The connection was to break here.
#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection breaks, as the settings ask")
    }
}

impl std::error::Error for Broken {}

/// Compressed bytes are gathered up to this many.
const GATHER_BYTES: usize = 16 * 1024;

/// How an answer is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) pretty: bool,
    pub(crate) gzip: bool,
    /// The body ends half-way.
    pub(crate) truncate: bool,
}

/// Whether the client takes gzip.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|weight| matches!(weight, "q=0" | "q=0.0"))
    })
}

/// Makes the response that carries `answer`.
pub(crate) fn response(upstream: &SampleUpstream, answer: Answer, manner: Manner) -> Response<WireBody> {
    let Answer { status, mut headers, payload } = answer;
    if let Ok(date) = HeaderValue::from_str(&instant::http_date(upstream.now())) {
        headers.insert(DATE, date);
    }
    let has_body = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let gzip = manner.gzip && payload.len() > 0;
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    } else if has_body && !manner.pretty {
        headers.insert(CONTENT_LENGTH, payload.len().into());
    }
    let outflow = Outflow {
        cut: manner.truncate.then(|| payload.len() / 2),
        payload,
        pretty: manner.pretty.then(Pretty::default),
        gzip: gzip.then(|| GzEncoder::new(Vec::with_capacity(GATHER_BYTES), Compression::fast())),
    };
    let state = (outflow, upstream.clone());
    let frames = futures_util::stream::unfold(state, async |(mut outflow, upstream)| {
        let bytes = match outflow.next() {
            Some(Ok(bytes)) => bytes,
            Some(Err(broken)) => {
                // What came before is to arrive first.
                tokio::time::sleep(Duration::from_millis(5)).await;
                return Some((Err(broken), (outflow, upstream)));
            }
            None => return None,
        };
        if let Some(rate) = upstream.settings().bytes_per_second {
            upstream.throttle().pace(bytes.len(), rate).await;
        }
        upstream.note_sent(bytes.len());
        Some((Ok(Frame::data(bytes)), (outflow, upstream)))
    });
    let mut response = Response::new(StreamBody::new(Box::pin(frames)).boxed_unsync());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The frames of one answer, indented, compressed and cut.
struct Outflow {
    payload: Payload,
    pretty: Option<Pretty>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Bytes of the answer, before indentation, until it breaks.
    cut: Option<u64>,
}

impl Iterator for Outflow {
    type Item = Result<Bytes, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.cut == Some(0) {
                return Some(self.gzip.take().and_then(rest).ok_or(Broken));
            }
            let Some(mut frame) = self.payload.next() else {
                return self.gzip.take().and_then(rest).map(Ok);
            };
            if let Some(left) = &mut self.cut {
                frame.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= frame.len() as u64;
            }
            if let Some(pretty) = &mut self.pretty {
                let mut indented = Vec::with_capacity(frame.len() * 5 / 4);
                pretty.push(&frame, &mut indented);
                frame = indented.into();
            }
            let Some(gzip) = &mut self.gzip else {
                return Some(Ok(frame));
            };
            if gzip.write_all(&frame).is_err() {
                return Some(Err(Broken));
            }
            if gzip.get_ref().len() >= GATHER_BYTES {
                let gathered = std::mem::replace(gzip.get_mut(), Vec::with_capacity(GATHER_BYTES));
                return Some(Ok(gathered.into()));
            }
        }
    }
}

/// The end of a compressed body. Writing to memory cannot fail.
fn rest(gzip: GzEncoder<Vec<u8>>) -> Option<Bytes> {
    gzip.finish().ok().map(Bytes::from)
}

/// The line that all answers share.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// The line may catch up this much: timers are too coarse to pace single frames.
    const SLACK: Duration = Duration::from_millis(10);

    /// Waits until `bytes` have passed at `bytes_per_second`.
    async fn pace(&self, bytes: usize, bytes_per_second: u64) {
        let nanos = u128::from(bytes as u64) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let passed = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = now.checked_sub(Self::SLACK).unwrap_or(now);
            let passed = free_at.map_or(now, |free_at| free_at.max(earliest)) + takes;
            *free_at = Some(passed);
            passed
        };
        if passed > now + Duration::from_millis(1) {
            tokio::time::sleep_until(passed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_for_those_who_ask() {
        for (accepted, expected) in
            [("gzip", true), ("br, gzip;q=0.5", true), ("gzip;q=0", false), ("identity", false), ("", false)]
        {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accepted))]);
            assert_eq!(takes_gzip(&headers), expected, "{accepted}");
        }
    }

    #[tokio::test]
    async fn the_line_is_no_faster_than_set() {
        let throttle = Throttle::default();
        let begun = Instant::now();
        for _ in 0..20 {
            throttle.pace(10_000, 1_000_000).await;
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(180), "200 kB at 1 MB/s took {took:?}");
    }
}
