//! `FileWriter`: one object, hashed and uploaded part by part as its lines come. It appears whole or not at all.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};

use super::{Output, OutputError};
use crate::smart::admit::Line;

/// Bytes of one part: the smallest that every store takes.
const PART: usize = 5 * 1024 * 1024;
/// A line of this length goes into its part as it is; shorter ones are copied together, so that a page's buffer
/// is free again as soon as its lines are written.
const UNCOPIED: usize = 256 * 1024;

/// An object being written.
pub(crate) struct FileWriter {
    /// Never locked: it makes a writer that one task holds fit to be seen from another.
    upload: Mutex<Box<dyn MultipartUpload>>,
    hash: Context,
    part: Vec<Bytes>,
    copied: BytesMut,
    part_bytes: usize,
    written: Written,
}

/// What has been written so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

impl FileWriter {
    /// Begins an upload. Nothing can be seen under `key` before [`complete`](Self::complete).
    pub(crate) async fn begin(output: &Output, key: &str) -> Result<Self, OutputError> {
        let upload = output.store().put_multipart(&Path::from(key)).await.map_err(failed("begin an upload"))?;
        Ok(Self {
            upload: Mutex::new(upload),
            hash: Context::new(&SHA256),
            part: Vec::new(),
            copied: BytesMut::new(),
            part_bytes: 0,
            written: Written::default(),
        })
    }

    pub(crate) fn written(&self) -> Written {
        self.written
    }

    /// Adds a line. A long one is uploaded before this returns, so that its buffer is not held any longer.
    pub(crate) async fn write(&mut self, line: Line) -> Result<(), OutputError> {
        let mut bytes = line.into_bytes();
        self.hash.update(&bytes);
        self.written.lines += 1;
        self.written.bytes += bytes.len() as u64;
        let is_long = bytes.len() >= UNCOPIED;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PART - self.part_bytes));
            self.part_bytes += piece.len();
            if is_long {
                self.seal_copied();
                self.part.push(piece);
            } else {
                if self.copied.capacity() == 0 {
                    self.copied.reserve(PART);
                }
                self.copied.extend_from_slice(&piece);
            }
            if self.part_bytes == PART {
                self.upload_part().await?;
            }
        }
        if is_long && self.part_bytes > 0 {
            // What is left of a long line would pin its page: a copy of less than a part is cheaper.
            self.copy_part();
        }
        Ok(())
    }

    /// Makes the object appear: durable, whole and for good. Its SHA-256 is in hexadecimal digits.
    pub(crate) async fn complete(mut self) -> Result<(Written, String), OutputError> {
        if self.part_bytes > 0 {
            self.upload_part().await?;
        }
        self.upload().complete().await.map_err(failed("complete an upload"))?;
        let digest = self.hash.finish();
        let sha256 = digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
            use std::fmt::Write as _;
            write!(text, "{byte:02x}").expect("a String takes all that is written");
            text
        });
        Ok((self.written, sha256))
    }

    /// Gives the upload up. What a store keeps of it in spite of that is found by its record.
    pub(crate) async fn abort(mut self) -> Result<(), OutputError> {
        self.upload().abort().await.map_err(failed("abort an upload"))
    }

    fn upload(&mut self) -> &mut dyn MultipartUpload {
        &mut **self.upload.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn seal_copied(&mut self) {
        if !self.copied.is_empty() {
            self.part.push(self.copied.split().freeze());
        }
    }

    fn copy_part(&mut self) {
        let mut copied = BytesMut::with_capacity(PART);
        self.part.drain(..).for_each(|piece| copied.extend_from_slice(&piece));
        copied.extend_from_slice(&self.copied);
        self.copied = copied;
    }

    async fn upload_part(&mut self) -> Result<(), OutputError> {
        self.seal_copied();
        self.part_bytes = 0;
        let payload: PutPayload = self.part.drain(..).collect();
        self.upload().put_part(payload).await.map_err(failed("write a part"))
    }
}

fn failed(doing: &'static str) -> impl FnOnce(object_store::Error) -> OutputError {
    move |source| OutputError::Store { doing, source }
}
