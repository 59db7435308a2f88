//! Uploads in parts that stop for good at a [`CrashPoint`].

use std::sync::Arc;

use async_trait::async_trait;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartId, PutMultipartOptions, PutPayload, PutResult, Result};
use offtake::testing::CrashPoint;

pub(crate) struct CrashParts {
    below: Arc<dyn MultipartStore>,
    point: Arc<CrashPoint>,
}

impl CrashParts {
    pub(crate) fn new(below: Arc<dyn MultipartStore>, point: Arc<CrashPoint>) -> Self {
        Self { below, point }
    }
}

#[async_trait]
impl MultipartStore for CrashParts {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.point.effect("begin an upload", self.below.create_multipart(path)).await
    }

    async fn create_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        self.point.effect("begin an upload", self.below.create_multipart_opts(path, options)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        self.point.effect("part", self.below.put_part(path, id, index, data)).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.point.effect("complete", self.below.complete_multipart(path, id, parts)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.point.effect("abort an upload", self.below.abort_multipart(path, id)).await
    }
}
