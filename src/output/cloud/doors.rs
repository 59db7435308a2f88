//! What a storage answers to somebody who has nothing but a URL: no credentials are sent with any of this.

use std::sync::Arc;

use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, StatusCode, header};
use object_store::client::{HttpClient, HttpRequestBody};
use url::{Position, Url};

use crate::telemetry::error_chain;

/// Where a bucket can be asked by anybody.
#[derive(Debug, Clone)]
pub(in crate::output) struct Doors {
    http: HttpClient,
    /// The bucket's own addresses: the one that we use, and the one that clients do, if that is another.
    buckets: Arc<[Url]>,
    /// What makes a list of a bucket's address.
    list: &'static [(&'static str, &'static str)],
}

/// How S3 and Google list, and how Azure does; one object is enough to see.
pub(super) const LIST_BUCKET: &[(&str, &str)] = &[("list-type", "2"), ("max-keys", "1")];
pub(super) const LIST_CONTAINER: &[(&str, &str)] = &[("restype", "container"), ("comp", "list"), ("maxresults", "1")];

/// What came back.
#[derive(Debug)]
pub(in crate::output) struct Answer {
    pub(in crate::output) status: StatusCode,
    pub(in crate::output) headers: HeaderMap,
    /// The beginning of it.
    pub(in crate::output) body: Vec<u8>,
}

/// Nothing came back. It does not say what was asked for, as that may be signed.
#[derive(Debug)]
pub(in crate::output) struct Unanswered(pub(in crate::output) String);

/// Bytes of an answer that are read; no probe is longer.
const LONGEST: usize = 16 * 1024;

impl Doors {
    pub(in crate::output) fn new(
        http: HttpClient,
        buckets: Vec<Url>,
        list: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { http, buckets: buckets.into(), list }
    }

    /// The addresses of an object, without a signature.
    pub(in crate::output) fn objects(&self, path: &str) -> Vec<Url> {
        self.buckets.iter().map(|bucket| below(bucket, path)).collect()
    }

    /// The addresses of the list of what begins with `prefix`.
    pub(in crate::output) fn lists(&self, prefix: &str) -> Vec<Url> {
        let list = |bucket: &Url| {
            let mut url = bucket.clone();
            url.query_pairs_mut().extend_pairs(self.list).append_pair("prefix", prefix);
            url
        };
        self.buckets.iter().map(list).collect()
    }

    /// Fetches it, or some bytes of it.
    pub(in crate::output) async fn get(&self, url: &Url, range: Option<&str>) -> Result<Answer, Unanswered> {
        let mut request = Request::builder().method(Method::GET).uri(url.as_str());
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        let request = request.body(HttpRequestBody::empty());
        let request = request.map_err(|_| Unanswered("the address is none".to_owned()))?;
        let answer = self.http.execute(request).await;
        let answer = answer.map_err(|error| Unanswered(error_chain(&error)))?;
        let (head, body) = answer.into_parts();
        let mut stream = body.bytes_stream();
        let mut body = Vec::new();
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece.map_err(|error| Unanswered(error_chain(&error)))?);
            if body.len() > LONGEST {
                break;
            }
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// An object of a bucket. Keys need no escapes, nor do prefixes that no escape was put into.
fn below(bucket: &Url, path: &str) -> Url {
    let mut url = bucket.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path.split('/'));
    }
    url
}

/// The same file without what opens it.
#[cfg(test)]
pub(in crate::output) fn bare(signed: &Url) -> Url {
    let mut url = signed.clone();
    url.set_query(None);
    url
}

/// Another file, by what opens this one.
pub(in crate::output) fn exchanged(signed: &Url, other: &Url) -> Url {
    let mut url = other.clone();
    url.set_query(signed.query());
    url
}

/// The parameters that signatures are in.
const SIGNATURES: [&str; 3] = ["X-Amz-Signature", "X-Goog-Signature", "sig"];

/// The same link with one character of its signature changed, and all else as it was; `None` if it has none.
pub(in crate::output) fn changed(signed: &Url) -> Option<Url> {
    let mut is_changed = false;
    let pairs: Vec<_> = signed
        .query()?
        .split('&')
        .map(|pair| {
            let Some((name, value)) = pair.split_once('=') else { return pair.to_owned() };
            if !SIGNATURES.contains(&name) || value.is_empty() {
                return pair.to_owned();
            }
            is_changed = true;
            // The first character counts in hexadecimal digits and in base64, and 0 and 1 are of both.
            let rest = if value.starts_with('%') { value.get(3..) } else { value.get(1..) };
            let first = if value.starts_with('0') { '1' } else { '0' };
            format!("{name}={first}{}", rest.unwrap_or_default())
        })
        .collect();
    let mut url = signed.clone();
    url.set_query(Some(&pairs.join("&")));
    is_changed.then_some(url)
}

/// Host and port.
pub(in crate::output) fn host(url: &Url) -> &str {
    &url[Position::BeforeHost..Position::AfterPort]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn one_character_of_a_signature_is_changed_and_nothing_else() {
        for (before, after) in [
            (
                "https://h/b/k?X-Amz-Date=1&X-Amz-Signature=0abc",
                Some("https://h/b/k?X-Amz-Date=1&X-Amz-Signature=1abc"),
            ),
            ("https://h/b/k?X-Goog-Signature=fabc&a=%2F", Some("https://h/b/k?X-Goog-Signature=0abc&a=%2F")),
            ("https://h/b/k?sig=%2Babc%3D&se=2026", Some("https://h/b/k?sig=0abc%3D&se=2026")),
            ("https://h/b/k?signature=abc", None),
            ("https://h/b/k", None),
        ] {
            assert_eq!(changed(&url(before)), after.map(url), "{before}");
        }
    }

    #[test]
    fn addresses_are_those_of_the_bucket() {
        use object_store::ClientOptions;
        use object_store::client::{HttpConnector, ReqwestConnector};
        let http = || ReqwestConnector::default().connect(&ClientOptions::new()).expect("a client");
        let s3 = Doors::new(http(), vec![url("http://m:9000/b"), url("https://b.example.org/")], LIST_BUCKET);
        let texts = |urls: Vec<Url>| urls.iter().map(Url::to_string).collect::<Vec<_>>();
        assert_eq!(texts(s3.objects("e/x.ndjson")), ["http://m:9000/b/e/x.ndjson", "https://b.example.org/e/x.ndjson"]);
        let list = "list-type=2&max-keys=1&prefix=e%2F";
        assert_eq!(
            texts(s3.lists("e/")),
            [format!("http://m:9000/b?{list}"), format!("https://b.example.org/?{list}")]
        );
        let azure = Doors::new(http(), vec![url("https://a.blob.core.windows.net/c")], LIST_CONTAINER);
        let list = "https://a.blob.core.windows.net/c?restype=container&comp=list&maxresults=1&prefix=";
        assert_eq!(texts(azure.lists("")), [list]);
        let signed = url("https://h/b/one?sig=a");
        assert_eq!(bare(&signed), url("https://h/b/one"));
        assert_eq!(exchanged(&signed, &url("https://h/b/two?sig=b")), url("https://h/b/two?sig=a"));
    }
}
