//! S3 with keys of KMS that are clients' own: to each key belongs a client of S3 that encrypts by it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};

use super::CloudError;
use crate::config::ServerSideEncryption;

/// Makes them when they are first needed. Reading and removing need no key: S3 knows by which it has encrypted.
#[derive(Clone)]
pub(in crate::output) struct Keyed {
    /// Of the bucket as it is opened without.
    builder: Arc<AmazonS3Builder>,
    made: Arc<Mutex<HashMap<String, Arc<AmazonS3>>>>,
}

impl Keyed {
    pub(super) fn new(builder: AmazonS3Builder) -> Self {
        Self { builder: Arc::new(builder), made: Arc::default() }
    }

    /// The bucket as what is written to it is encrypted by `key`.
    pub(in crate::output) fn by(&self, key: &str) -> Result<Arc<AmazonS3>, CloudError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = made.get(key) {
            return Ok(Arc::clone(store));
        }
        let encryption = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>()?;
        let mut builder = self.builder.as_ref().clone();
        // What is encrypted twice stays so; all else cannot be by a key of KMS.
        let is_double =
            builder.get_config_value(&encryption).as_deref() == Some(ServerSideEncryption::DoubleKms.as_str());
        if !is_double {
            builder = builder.with_config(encryption, ServerSideEncryption::Kms.as_str());
        }
        let store = Arc::new(builder.with_config("aws_sse_kms_key_id".parse()?, key).build()?);
        made.insert(key.to_owned(), Arc::clone(&store));
        Ok(store)
    }
}

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed")
    }
}

#[cfg(test)]
mod tests {
    use object_store::multipart::MultipartStore;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The head of the only request that `ask` sends to `store`, in lower case.
    async fn head_of<F: Future>(builder: AmazonS3Builder, key: &str, ask: impl FnOnce(Arc<AmazonS3>) -> F) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it listens"));
        let builder = builder.with_endpoint(endpoint).with_allow_http(true).with_bucket_name("bucket");
        let store = Keyed::new(builder.with_access_key_id("id").with_secret_access_key("secret")).by(key);
        let asking = ask(store.expect("it can be set up"));
        let answering = async {
            let (mut stream, _) = listener.accept().await.expect("somebody asks");
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.expect("a request") > 0, "a whole head");
            }
            let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.expect("it is taken");
            String::from_utf8_lossy(&head).to_lowercase()
        };
        tokio::join!(asking, answering).1
    }

    #[tokio::test]
    async fn whatever_is_written_names_the_key() {
        let path = Path::from("a");
        let both = |kind: &str, key: &str| {
            [
                format!("x-amz-server-side-encryption: {kind}\r\n"),
                format!("x-amz-server-side-encryption-aws-kms-key-id: {key}\r\n"),
            ]
        };
        let double = "aws_server_side_encryption".parse().expect("an option");
        for (builder, kind) in [
            (AmazonS3Builder::new(), "aws:kms"),
            (AmazonS3Builder::new().with_config(double, "aws:kms:dsse"), "aws:kms:dsse"),
        ] {
            let small = head_of(builder.clone(), "key-7", |store| {
                let path = path.clone();
                async move { store.put(&path, "text".into()).await.map(drop) }
            });
            let large = head_of(builder, "key-7", |store| {
                let path = path.clone();
                async move { store.create_multipart(&path).await.map(drop) }
            });
            for head in [small.await, large.await] {
                assert!(both(kind, "key-7").iter().all(|line| head.contains(line)), "{head}");
            }
        }
    }

    #[test]
    fn a_key_has_one_client_of_s3() {
        let keyed = Keyed::new(AmazonS3Builder::new().with_bucket_name("bucket"));
        let [first, again, other] = ["a", "a", "b"].map(|key| keyed.by(key).expect("it can be set up"));
        assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &other));
        let _: Arc<dyn ObjectStore> = first;
    }
}
