//! HTTP as bytes, so that no client library puts in order on the way what a test has put into disorder.

use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long any answer may take; whoever needs longer hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// Both headers that a kick-off wants.
pub(crate) const KICKOFF: [(&str, &str); 2] = [("Accept", "application/fhir+json"), ("Prefer", "respond-async")];

/// One answer, taken apart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first answer in what came over a connection.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        let headers: HeaderMap = lines
            .filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value.trim()).ok()?))
            })
            .collect();
        let mut body = bytes[end + 4..].to_vec();
        if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            body = unchunked(&body)?;
        }
        Some(Self { status, headers, body })
    }

    /// A header's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Fails unless this is one error with this status and code at this place, told as BD-048 wants it.
    pub(crate) fn assert_refused(&self, what: &str, status: u16, code: &str, location: Option<&str>) {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{what}: {text}");
        let outcome = self.json();
        assert_eq!(outcome["resourceType"], "OperationOutcome", "{what}: {text}");
        let [issue] = outcome["issue"].as_array().map_or(&[][..], Vec::as_slice) else {
            panic!("{what}: not one issue: {text}");
        };
        assert_eq!(issue["severity"], "error", "{what}: {text}");
        assert_eq!(issue["code"], code, "{what}: {text}");
        let found = issue.get("location").map(|location| location[0].as_str().unwrap_or("?"));
        assert_eq!(found, location, "{what}: {text}");
        assert!(
            issue["diagnostics"].as_str().is_some_and(|text| !text.is_empty() && text.len() < 400),
            "{what}: {text}"
        );
        assert_eq!(self.header("content-type"), "application/fhir+json", "{what}");
        assert_eq!(self.header("cache-control"), "no-store", "{what}");
    }
}

/// A request's bytes. `Host` and `Content-Length` are added where they are not among `headers`.
pub(crate) fn request(method: &str, target: &str, host: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let has = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    let length = body.len().to_string();
    let has_length = has("content-length") || has("transfer-encoding") || body.is_empty();
    let host = (!has("host")).then_some(("Host", host));
    let length = (!has_length).then_some(("Content-Length", length.as_str()));
    for (name, value) in host.into_iter().chain(length).chain(headers.iter().copied()) {
        for part in [name, ": ", value, "\r\n"] {
            text.push_str(part);
        }
    }
    text.push_str("Connection: close\r\n\r\n");
    [text.as_bytes(), body].concat()
}

/// Sends bytes and reads the answer.
pub(crate) async fn ask(host: &str, request: &[u8]) -> Answer {
    let bytes = talk(host, request).await;
    Answer::parse(&bytes).unwrap_or_else(|| {
        panic!("{:?} was answered with {:?}", String::from_utf8_lossy(request), String::from_utf8_lossy(&bytes))
    })
}

/// Sends bytes and gives all that comes until the other side closes the connection.
pub(crate) async fn talk(host: &str, request: &[u8]) -> Vec<u8> {
    let exchange = async {
        let stream = TcpStream::connect(host).await.expect("the server listens");
        let (mut from, mut to) = stream.into_split();
        let mut answer = Vec::new();
        // The server may answer and close before it has read everything; whatever came until then counts.
        let sent = async {
            let _ended_early = to.write_all(request).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sent => {}
            _ended = from.read_to_end(&mut answer) => {}
        }
        answer
    };
    let answered = tokio::time::timeout(PATIENCE, exchange).await;
    answered.unwrap_or_else(|_| panic!("no end within {PATIENCE:?}: {:?}", String::from_utf8_lossy(request)))
}

fn unchunked(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).ok()?, 16).ok()?;
        chunks = &chunks[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunks.get(..size)?);
        chunks = chunks.get(size + 2..)?;
    }
}
