//! Uploads that were begun and never ended: a process that died between the beginning of one and the record of its name
//! leaves one behind that only the storage knows. `object_store` does not list them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http::{Method, Request, StatusCode, header};
use object_store::CredentialProvider;
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::gcp::GcpCredential;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use serde::Deserialize;

use super::super::StoreFault;

/// Lists unfinished uploads.
pub(crate) struct Uploads {
    http: HttpClient,
    source: Source,
}

enum Source {
    S3(Arc<dyn Signer>),
    Gcs { credentials: Arc<dyn CredentialProvider<Credential = GcpCredential>>, bucket: String },
}

/// One unfinished upload.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) upload_id: String,
}

/// Why uploads could not be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadsError {
    #[error("could not sign the request")]
    Signing(#[source] StoreFault),
    /// Without what it says: that may name the request, and the request is signed.
    #[error("the storage did not answer")]
    NoAnswer,
    /// We may not, or it cannot: not every store that speaks like S3 can.
    #[error("the storage does not list unfinished uploads for us")]
    Unlisted,
    #[error("the storage answered with {0}")]
    Status(StatusCode),
    #[error("the storage's answer is no list of uploads")]
    Content,
}

/// A page of the list. Both clouds write it in the same way.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    #[serde(rename = "Upload")]
    uploads: Vec<Upload>,
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
}

/// How long a signed request to list is good.
const SIGNED_FOR: Duration = Duration::from_mins(5);
/// A page holds a thousand uploads; no name of one is this long.
const LONGEST_PAGE: usize = 8 * 1024 * 1024;
/// Pages that are read at most: more uploads than one job can ever have begun.
const MOST_PAGES: usize = 1_000;

impl Uploads {
    pub(crate) fn of_s3(http: HttpClient, signer: Arc<dyn Signer>) -> Self {
        Self { http, source: Source::S3(signer) }
    }

    pub(crate) fn of_gcs(
        http: HttpClient,
        credentials: Arc<dyn CredentialProvider<Credential = GcpCredential>>,
        bucket: String,
    ) -> Self {
        Self { http, source: Source::Gcs { credentials, bucket } }
    }

    /// The unfinished uploads of all keys that begin with `prefix`.
    pub(crate) async fn below(&self, prefix: &str) -> Result<Vec<Upload>, UploadsError> {
        let mut found = Vec::new();
        let (mut key, mut id) = (String::new(), String::new());
        for _ in 0..MOST_PAGES {
            let mut query = vec![("uploads", ""), ("prefix", prefix)];
            if !key.is_empty() {
                query.extend([("key-marker", key.as_str()), ("upload-id-marker", id.as_str())]);
            }
            let page = self.page(&query).await?;
            found.extend(page.uploads);
            if !page.is_truncated || page.next_key_marker.is_empty() {
                return Ok(found);
            }
            (key, id) = (page.next_key_marker, page.next_upload_id_marker);
        }
        Err(UploadsError::Content)
    }

    async fn page(&self, query: &[(&str, &str)]) -> Result<Page, UploadsError> {
        let failed = |error| UploadsError::Signing(StoreFault::from(error));
        let request = match &self.source {
            Source::S3(signer) => {
                let options = SignedUrlOptions::default().with_query(query.iter().copied());
                let url = signer.signed_url_opts(Method::GET, &Path::default(), SIGNED_FOR, &options).await;
                Request::get(url.map_err(failed)?.as_str())
            }
            Source::Gcs { credentials, bucket } => {
                let credential = credentials.get_credential().await.map_err(failed)?;
                let url = url::Url::parse_with_params(bucket, query).map_err(|_| UploadsError::Content)?;
                Request::get(url.as_str()).header(header::AUTHORIZATION, format!("Bearer {}", credential.bearer))
            }
        };
        let request = request.body(HttpRequestBody::empty()).map_err(|_| UploadsError::Content)?;
        let answer = self.http.execute(request).await.map_err(|_| UploadsError::NoAnswer)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::FORBIDDEN
            | StatusCode::UNAUTHORIZED
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => return Err(UploadsError::Unlisted),
            status => return Err(UploadsError::Status(status)),
        }
        let mut body = answer.into_body().bytes_stream();
        let mut text = Vec::new();
        while let Some(piece) = body.next().await {
            text.extend_from_slice(&piece.map_err(|_| UploadsError::NoAnswer)?);
            if text.len() > LONGEST_PAGE {
                return Err(UploadsError::Content);
            }
        }
        parse(&text)
    }
}

fn parse(text: &[u8]) -> Result<Page, UploadsError> {
    quick_xml::de::from_reader(text).map_err(|_| UploadsError::Content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_what_is_none_is_refused() {
        let text = br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket><KeyMarker></KeyMarker>
            <NextKeyMarker>k2</NextKeyMarker><NextUploadIdMarker>u&amp;2</NextUploadIdMarker><MaxUploads>2</MaxUploads>
            <IsTruncated>true</IsTruncated>
            <Upload><Key>k1</Key><UploadId>u1</UploadId><Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>
            <Upload><Key>k2</Key><UploadId>u&amp;2</UploadId><Owner><ID>o</ID></Owner></Upload></ListMultipartUploadsResult>"#;
        let page = parse(text).expect("a list");
        let upload = |key: &str, id: &str| Upload { key: key.to_owned(), upload_id: id.to_owned() };
        assert_eq!(page.uploads, [upload("k1", "u1"), upload("k2", "u&2")]);
        assert!(page.is_truncated);
        assert_eq!((page.next_key_marker.as_str(), page.next_upload_id_marker.as_str()), ("k2", "u&2"));
        let empty = b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
        assert_eq!(parse(empty).expect("a list"), Page::default());
        for text in [&b"{}"[..], b"", b"<a><Upload><Key>k</Key></Upload></a>", b"<a><Upload>"] {
            assert!(parse(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
    }

    #[tokio::test]
    async fn a_storage_that_does_not_list_is_told_from_one_that_fails() {
        use object_store::ClientOptions;
        use object_store::client::{HttpConnector, ReqwestConnector};
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        for (answer, expected) in [
            ("403 Forbidden", "Err(Unlisted)"),
            ("501 Not Implemented", "Err(Unlisted)"),
            ("503 Service Unavailable", "Err(Status(503))"),
            ("200 OK", "Err(Content)"),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let bucket = format!("http://{}/bucket", listener.local_addr().expect("it listens"));
            let serving = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("somebody asks");
                let mut asked = vec![0; 4096];
                let length = stream.read(&mut asked).await.expect("a request");
                let said = format!("HTTP/1.1 {answer}\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhush");
                stream.write_all(said.as_bytes()).await.expect("it is taken");
                String::from_utf8_lossy(&asked[..length]).into_owned()
            });
            let options = ClientOptions::new().with_allow_http(true);
            let http = ReqwestConnector::default().connect(&options).expect("a client");
            let credential = GcpCredential { bearer: "token".to_owned() };
            let credentials = Arc::new(object_store::StaticCredentialProvider::new(credential));
            let found = Uploads::of_gcs(http, credentials, bucket).below("a/b").await;
            assert_eq!(format!("{found:?}"), expected, "{answer}");
            let asked = serving.await.expect("no panic");
            assert!(asked.starts_with("GET /bucket?uploads=&prefix=a%2Fb HTTP/1.1\r\n"), "{asked}");
        }
    }
}
