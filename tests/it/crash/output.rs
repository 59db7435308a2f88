//! An object store that stops for good at a [`CrashPoint`], as the disk of a process does that is killed there: what
//! was not synced by then is lost, what was staged stays where it is.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use offtake::testing::CrashPoint;

pub(crate) struct CrashOutput {
    below: Arc<dyn ObjectStore>,
    point: Arc<CrashPoint>,
    /// Is told the name of each small object that was written.
    on_put: Option<OnPut>,
}

type OnPut = Box<dyn Fn(&str) + Send + Sync>;

impl CrashOutput {
    pub(crate) fn new(below: Arc<dyn ObjectStore>, point: Arc<CrashPoint>) -> Self {
        Self { below, point, on_put: None }
    }

    /// The same, telling the name of each small object once it is written.
    pub(crate) fn telling(self, on_put: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { on_put: Some(Box::new(on_put)), ..self }
    }
}

impl fmt::Debug for CrashOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for CrashOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrashOutput({})", self.below)
    }
}

#[async_trait]
impl ObjectStore for CrashOutput {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.point.effect(kind(location), self.below.put_opts(location, payload, options)).await;
        if let (Some(on_put), Some(name)) = (&self.on_put, location.filename()) {
            on_put(name);
        }
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.point.effect("begin an upload", self.below.put_multipart_opts(location, options)).await?;
        Ok(Box::new(CrashUpload { below: ManuallyDrop::new(upload), point: Arc::clone(&self.point) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.point.look(self.below.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (below, point) = (Arc::clone(&self.below), Arc::clone(&self.point));
        let delete = move |location: Result<Path>| {
            let (below, point) = (Arc::clone(&below), Arc::clone(&point));
            async move {
                let location = location?;
                let one = futures_util::stream::iter([Ok(location.clone())]).boxed();
                let deleted = point.effect("remove", below.delete_stream(one).next()).await;
                deleted.unwrap_or(Ok(location))
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.below.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.point.look(self.below.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.point.effect("copy", self.below.copy_opts(from, to, options)).await
    }
}

/// What a small object is.
fn kind(location: &Path) -> &'static str {
    match location.extension() {
        Some("ids") => "sidecar",
        Some("checkpoint") => "checkpoint",
        Some("ndjson") => "file in one go",
        _ => "other object",
    }
}

/// An upload that a killed process leaves behind: dropping the one below would tidy up after itself.
struct CrashUpload {
    below: ManuallyDrop<Box<dyn MultipartUpload>>,
    point: Arc<CrashPoint>,
}

impl fmt::Debug for CrashUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrashUpload")
    }
}

#[async_trait]
impl MultipartUpload for CrashUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, point) = (self.below.put_part(data), Arc::clone(&self.point));
        async move { point.effect("part", part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.point.effect("complete", self.below.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.point.effect("abort an upload", self.below.abort()).await
    }
}
