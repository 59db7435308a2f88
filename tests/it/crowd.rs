//! A server with as many small resources as a test likes: each is made from its number when it is asked for, so that ten
//! millions take no more than their stamps. It counts what it is asked for and what it sends.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use offtake::{Clock as _, SystemClock};
use tokio::task::JoinHandle;

use crate::support::listener;

/// Observations, ordered by time, with an exact total on every page.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// `lastUpdated` in Unix milliseconds, ascending.
    stamps: Vec<i64>,
    asked: AtomicU64,
    sent: AtomicU64,
}

/// What was asked of it and what it sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Searches and counts.
    pub(crate) searches: u64,
    /// Bytes of resources.
    pub(crate) bytes: u64,
}

/// It listens until this is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) base_url: String,
    accepting: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Crowd {
    /// One resource for each stamp.
    pub(crate) fn new(mut stamps: Vec<i64>) -> Arc<Self> {
        stamps.sort_unstable();
        Arc::new(Self { stamps, asked: AtomicU64::new(0), sent: AtomicU64::new(0) })
    }

    pub(crate) fn cost(&self) -> Cost {
        Cost { searches: self.asked.load(Ordering::Relaxed), bytes: self.sent.load(Ordering::Relaxed) }
    }

    /// The number in an id.
    pub(crate) fn number(id: &str) -> Option<usize> {
        id.strip_prefix('o')?.parse().ok()
    }

    /// Resource `number`, if there is one: about 300 bytes.
    pub(crate) fn text(&self, number: usize) -> Option<String> {
        let at = DateTime::from_timestamp_millis(*self.stamps.get(number)?)?;
        let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
        Some(format!(
            r#"{{"resourceType":"Observation","id":"o{number}","meta":{{"versionId":"1","lastUpdated":"{at}"}},"status":"final","code":{{"coding":[{{"system":"http://loinc.org","code":"8867-4"}}]}},"subject":{{"reference":"Patient/p{}"}},"effectiveDateTime":"{at}","valueQuantity":{{"value":{}.50,"unit":"/min"}}}}"#,
            number % 50_000,
            40 + number % 100
        ))
    }

    pub(crate) async fn serve(self: &Arc<Self>) -> Serving {
        let listener = listener().await;
        let base_url = format!("http://{}/fhir", listener.local_addr().expect("it listens"));
        let crowd = Arc::clone(self);
        let base = base_url.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap_or_default();
                let (crowd, base) = (Arc::clone(&crowd), base.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = crowd.answer(&base, &request);
                        async move { Ok::<_, std::convert::Infallible>(answer) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // How a connection ended is its client's concern.
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Serving { base_url, accepting }
    }

    fn answer(&self, base: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = match request.uri().path() {
            "/fhir/metadata" => Some(CAPABILITY.to_owned()),
            "/fhir/Observation" => self.search(base, request.uri().query().unwrap_or_default()),
            _ => None,
        };
        let status = if answer.is_some() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/fhir+json").body(
            Full::new(Bytes::from(answer.unwrap_or_else(|| r#"{"resourceType":"OperationOutcome"}"#.to_owned()))),
        );
        answer.expect("these are headers")
    }

    /// `None` where the search is not understood.
    fn search(&self, base: &str, query: &str) -> Option<String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (mut found, mut ids) = (0..self.stamps.len(), None);
        let (mut count, mut from, mut is_count, mut descending) = (20, 0_usize, false, false);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "_lastUpdated" => {
                    let (prefix, at) = value.split_at_checked(2)?;
                    let at = DateTime::parse_from_rfc3339(at).ok()?.timestamp_millis();
                    let below = |bound| self.stamps.partition_point(|stamp| *stamp < bound);
                    match prefix {
                        "ge" => found.start = found.start.max(below(at)),
                        "lt" => found.end = found.end.min(below(at)),
                        "le" => found.end = found.end.min(below(at + 1)),
                        _ => return None,
                    }
                }
                "_id" => ids = Some(value.split(',').filter_map(Self::number).collect::<Vec<_>>()),
                "_count" => count = value.parse().ok()?,
                "_cursor" => from = value.parse().ok()?,
                "_summary" => is_count = value == "count",
                "_sort" => descending = value.starts_with('-'),
                "_elements" | "_total" => {}
                _ => return None,
            }
        }
        let (numbers, total, until): (Vec<usize>, _, _) = if let Some(ids) = ids {
            let ids: Vec<_> = ids.into_iter().filter(|number| found.contains(number)).collect();
            let total = ids.len();
            (ids, total, total)
        } else {
            let total = found.len();
            let until = if is_count { from } else { total.min(from.saturating_add(count)) };
            let place = |place| if descending { found.end - 1 - place } else { found.start + place };
            ((from..until).map(place).collect(), total, until)
        };
        let mut bundle = format!(r#"{{"resourceType":"Bundle","type":"searchset","total":{total}"#);
        if !is_count && until < total {
            let pairs = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "_cursor");
            let mut next = url::form_urlencoded::Serializer::new(String::new());
            next.extend_pairs(pairs).append_pair("_cursor", &until.to_string());
            let next = next.finish();
            write!(bundle, r#","link":[{{"relation":"next","url":"{base}/Observation?{next}"}}]"#).ok()?;
        }
        bundle += r#","entry":["#;
        let mut sent = 0;
        for (number, place) in numbers.into_iter().zip(0..) {
            let text = self.text(number)?;
            sent += text.len() as u64;
            let comma = if place > 0 { "," } else { "" };
            write!(bundle, r#"{comma}{{"resource":{text}}}"#).ok()?;
        }
        self.sent.fetch_add(sent, Ordering::Relaxed);
        bundle += "]}";
        Some(bundle)
    }
}

const CAPABILITY: &str = r#"{"resourceType":"CapabilityStatement","status":"active","fhirVersion":"4.0.1","rest":[{"mode":"server","resource":[{"type":"Observation","interaction":[{"code":"read"},{"code":"search-type"}]}]}]}"#;

/// An hour ago, before which a year of stamps lies.
fn end() -> i64 {
    SystemClock.unix_millis() - 3_600_000
}

const YEAR: i64 = 31_536_000_000;

/// So many stamps, evenly over a year.
pub(crate) fn even(count: usize) -> Vec<i64> {
    let (count, begin) = (i64::try_from(count).expect("small"), end() - YEAR);
    (0..count).map(|number| begin + number * YEAR / count).collect()
}

/// So many stamps anywhere in a year; one transaction of a hundred stamps twenty resources alike.
pub(crate) fn random_with_ties(count: usize) -> Vec<i64> {
    let begin = end() - YEAR;
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut stamps = Vec::with_capacity(count);
    while stamps.len() < count {
        let at = begin + i64::try_from(random(YEAR.unsigned_abs())).expect("within a year");
        let alike = if random(100) == 0 { 20 } else { 1 };
        stamps.extend(std::iter::repeat_n(at, alike.min(count - stamps.len())));
    }
    stamps
}
