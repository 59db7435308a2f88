//! Object stores that fail: one on a disk that is full at a [`FullPoint`], and one that answers some parts with 503.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What is done with a write: nothing, or it fails so.
pub(super) type Verdict = dyn Fn(&'static str) -> Result<()> + Send + Sync;

/// Asks before each write whether it fails.
pub(super) struct Failing {
    below: Arc<dyn ObjectStore>,
    verdict: Arc<Verdict>,
}

impl Failing {
    pub(super) fn new(below: Arc<dyn ObjectStore>, verdict: Arc<Verdict>) -> Self {
        Self { below, verdict }
    }
}

/// As a local disk says it.
pub(super) fn full() -> Error {
    Error::Generic { store: "full", source: Box::new(io::Error::from(io::ErrorKind::StorageFull)) }
}

/// As a storage says it that cannot serve a request now.
pub(super) fn busy() -> Error {
    Error::Generic { store: "busy", source: "503 Slow Down".into() }
}

impl fmt::Debug for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failing")
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failing({})", self.below)
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        (self.verdict)("put")?;
        self.below.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        (self.verdict)("begin")?;
        let below = self.below.put_multipart_opts(location, options).await?;
        Ok(Box::new(FailingUpload { below, verdict: Arc::clone(&self.verdict) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.below.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.below.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.below.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.below.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.below.copy_opts(from, to, options).await
    }
}

struct FailingUpload {
    below: Box<dyn MultipartUpload>,
    verdict: Arc<Verdict>,
}

impl fmt::Debug for FailingUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FailingUpload")
    }
}

#[async_trait]
impl MultipartUpload for FailingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match (self.verdict)("part") {
            Ok(()) => self.below.put_part(data),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        (self.verdict)("complete")?;
        self.below.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.below.abort().await
    }
}
