//! `FileWriter`: one object, hashed and uploaded part by part as its lines come. It appears whole or not at all.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use object_store::multipart::{MultipartStore, PartId};
use object_store::{MultipartId, MultipartUpload, ObjectStoreExt, PutMultipartOptions, PutPayload};
use tokio::task::JoinHandle;

use super::{Output, OutputError, failed};
use crate::job::checkpoint::Plain;
use crate::smart::admit::Line;

/// Bytes of one part: the smallest that every store takes.
pub(crate) const PART: usize = 5 * 1024 * 1024;
/// A line of this length goes into its part as it is; shorter ones are copied together, so that a page's buffer
/// is free again as soon as its lines are written.
const UNCOPIED: usize = 256 * 1024;

/// Bytes of lines after which all that was packed is taken out: enough to pack well, and what is still to come out of them
/// stays known.
const FLUSH: usize = 1024 * 1024;

/// How an object is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Plain,
    Gzip,
}

/// An object being written.
pub(crate) struct FileWriter {
    output: Output,
    key: String,
    upload: Upload,
    /// The part before this one, which a cloud takes while this one is filled.
    in_flight: Option<JoinHandle<object_store::Result<Option<PartId>>>>,
    hash: Context,
    gzip: Option<Gzip>,
    part: Vec<Bytes>,
    copied: BytesMut,
    part_bytes: usize,
    written: Written,
}

/// How its bytes get where they belong.
enum Upload {
    /// Parts are written one after another to a handle. Never locked: the mutex makes a writer that one task holds fit to be
    /// seen from another.
    Handle(Mutex<Box<dyn MultipartUpload>>),
    /// To a cloud, of which nothing was asked so far: what is less than a part goes there in one go.
    Later,
    /// To a cloud that knows uploads by name.
    Named { store: Arc<dyn MultipartStore>, id: MultipartId, parts: Vec<PartId> },
    /// To a cloud that does not.
    Blocks(Mutex<Box<dyn MultipartUpload>>),
}

/// Lines on their way into gzip: one member, as many clients read no more than the first of several.
struct Gzip {
    encoder: GzEncoder<Vec<u8>>,
    /// Bytes of lines of which some may not have come out.
    unflushed: usize,
    /// Of the lines.
    hash: Context,
    /// Bytes that came out.
    packed: u64,
}

/// What has been written so far: lines, and their bytes before they are packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
}

/// An object that was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) lines: u64,
    /// Of the object, as its SHA-256 is, in hexadecimal digits.
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) plain: Option<Plain>,
}

impl Gzip {
    fn new() -> Self {
        // NDJSON shrinks to a tenth even so, and reading must not wait for it.
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        Self { encoder, unflushed: 0, hash: Context::new(&SHA256), packed: 0 }
    }

    /// Packs some bytes, and gives what came out so far.
    fn pack(&mut self, piece: &[u8]) -> Bytes {
        self.hash.update(piece);
        self.unflushed += piece.len();
        self.encoder.write_all(piece).expect("a Vec takes all that is written");
        self.take()
    }

    /// Gives all that was packed, so far as it is not yet given.
    fn flush(&mut self) -> Bytes {
        self.unflushed = 0;
        self.encoder.flush().expect("a Vec takes all that is written");
        self.take()
    }

    /// Ends the member, and gives what is left of it.
    fn end(&mut self) -> Bytes {
        self.unflushed = 0;
        self.encoder.try_finish().expect("a Vec takes all that is written");
        self.take()
    }

    fn take(&mut self) -> Bytes {
        let taken = std::mem::take(self.encoder.get_mut());
        self.packed += taken.len() as u64;
        taken.into()
    }
}

/// The most that some bytes of lines can become by being packed: letters of nine bits, and what is around them.
fn most_packed(bytes: usize) -> usize {
    bytes + bytes / 8 + bytes / 64 + 1024
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

impl FileWriter {
    /// Begins an object. Nothing can be seen under `key` before [`complete`](Self::complete).
    pub(crate) async fn begin(output: &Output, key: &str, coding: Coding) -> Result<Self, OutputError> {
        output.check_room()?;
        let upload = if output.cloud.is_some() {
            Upload::Later
        } else {
            let upload = output.store.put_multipart(&output.path(key)).await.map_err(failed("begin an upload"))?;
            Upload::Handle(Mutex::new(upload))
        };
        Ok(Self {
            output: output.clone(),
            key: key.to_owned(),
            upload,
            in_flight: None,
            hash: Context::new(&SHA256),
            gzip: (coding == Coding::Gzip).then(Gzip::new),
            part: Vec::new(),
            copied: BytesMut::new(),
            part_bytes: 0,
            written: Written::default(),
        })
    }

    /// Whether with this line the object becomes too large for one go, so that an upload has to be
    /// [begun](Self::begin_upload) before it is written.
    pub(crate) fn needs_upload(&self, line: &Line) -> bool {
        let coming = match &self.gzip {
            None => line.len(),
            Some(gzip) => most_packed(gzip.unflushed + line.len()),
        };
        matches!(self.upload, Upload::Later) && self.part_bytes + coming >= PART
    }

    /// Begins an upload in parts; gives its name, if it has one.
    pub(crate) async fn begin_upload(&mut self) -> Result<Option<MultipartId>, OutputError> {
        let doing = "begin an upload";
        let path = self.output.path(&self.key);
        let attributes = super::cloud::attributes(&self.key, self.coding());
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let parts = self.output.cloud.as_ref().and_then(|cloud| cloud.parts.as_ref());
        if let Some(parts) = parts {
            let store = Arc::clone(&parts.store);
            let creating = Arc::clone(&store);
            let created = async move { creating.create_multipart_opts(&path, options).await };
            let id = self.output.carry(doing, created).await?;
            self.upload = Upload::Named { store, id: id.clone(), parts: Vec::new() };
            Ok(Some(id))
        } else {
            let store = Arc::clone(&self.output.store);
            let begun = async move { store.put_multipart_opts(&path, options).await };
            self.upload = Upload::Blocks(Mutex::new(self.output.carry(doing, begun).await?));
            Ok(None)
        }
    }

    fn coding(&self) -> Coding {
        if self.gzip.is_some() { Coding::Gzip } else { Coding::Plain }
    }

    /// The name of the upload, if it has one.
    pub(crate) fn upload_id(&self) -> Option<MultipartId> {
        match &self.upload {
            Upload::Named { id, .. } => Some(id.clone()),
            Upload::Handle(_) | Upload::Later | Upload::Blocks(_) => None,
        }
    }

    pub(crate) fn written(&self) -> Written {
        self.written
    }

    /// Adds a line. A long one is uploaded before this returns, so that its buffer is not held any longer.
    pub(crate) async fn write(&mut self, line: Line) -> Result<(), OutputError> {
        let bytes = line.into_bytes();
        self.written.lines += 1;
        self.written.bytes += bytes.len() as u64;
        if self.gzip.is_none() {
            return self.add(bytes).await;
        }
        for piece in bytes.chunks(UNCOPIED) {
            let packed = self.gzip.as_mut().map(|gzip| gzip.pack(piece)).unwrap_or_default();
            self.add(packed).await?;
        }
        let flushed = match &mut self.gzip {
            Some(gzip) if gzip.unflushed >= FLUSH => gzip.flush(),
            _ => return Ok(()),
        };
        self.add(flushed).await
    }

    /// Adds bytes of the object.
    async fn add(&mut self, mut bytes: Bytes) -> Result<(), OutputError> {
        self.hash.update(&bytes);
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
        if is_long {
            if self.part_bytes > 0 {
                // What is left of a long line would pin its page: a copy of less than a part is cheaper.
                self.copy_part();
            }
            self.settle().await?;
        }
        Ok(())
    }

    /// Makes the object appear: durable, whole and for good.
    pub(crate) async fn complete(mut self) -> Result<Stored, OutputError> {
        let doing = "complete an upload";
        self.output.check_private()?;
        if let Some(last) = self.gzip.as_mut().map(Gzip::end) {
            self.add(last).await?;
        }
        if matches!(self.upload, Upload::Later) {
            self.seal_copied();
            let payload: PutPayload = self.part.drain(..).collect();
            self.output.put_payload(&self.key, self.coding(), payload).await?;
        } else {
            if self.part_bytes > 0 {
                self.upload_part().await?;
            }
            self.settle().await?;
        }
        match self.upload {
            Upload::Later => {}
            Upload::Handle(mut upload) => {
                inner(&mut upload).complete().await.map_err(failed(doing))?;
                self.output.leave_cache(&self.key).await;
            }
            Upload::Named { store, id, parts } => {
                let path = self.output.path(&self.key);
                let completed = async move { store.complete_multipart(&path, &id, parts).await };
                self.output.carry(doing, completed).await?;
            }
            Upload::Blocks(mut upload) => {
                self.output.carry(doing, async move { inner(&mut upload).complete().await }).await?;
            }
        }
        let Written { lines, bytes } = self.written;
        let sha256 = digits(&self.hash.finish());
        Ok(match self.gzip {
            None => Stored { lines, bytes, sha256, plain: None },
            Some(Gzip { hash, packed, .. }) => {
                let plain = Plain { bytes, sha256: digits(&hash.finish()) };
                Stored { lines, bytes: packed, sha256, plain: Some(plain) }
            }
        })
    }

    /// Gives the upload up. What a store keeps of it in spite of that is found by its record.
    pub(crate) async fn abort(mut self) -> Result<(), OutputError> {
        // However it went: nothing of it is wanted any more.
        let _settled = self.settle().await;
        match self.upload {
            Upload::Handle(mut upload) => inner(&mut upload).abort().await.map_err(failed("abort an upload")),
            Upload::Later | Upload::Named { .. } | Upload::Blocks(_) => Ok(()),
        }
    }

    /// Waits until the part that is under way is taken.
    async fn settle(&mut self) -> Result<(), OutputError> {
        let Some(part) = self.in_flight.take() else { return Ok(()) };
        let taken = part.await.unwrap_or_else(|source| Err(object_store::Error::JoinError { source }));
        if let (Some(part), Upload::Named { parts, .. }) = (taken.map_err(failed("write a part"))?, &mut self.upload) {
            parts.push(part);
        }
        Ok(())
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

    /// Sends a full part off; a cloud that is slow to take the one before it is waited for, and so slows the reading.
    async fn upload_part(&mut self) -> Result<(), OutputError> {
        self.output.check_room()?;
        self.seal_copied();
        self.part_bytes = 0;
        let payload: PutPayload = self.part.drain(..).collect();
        self.settle().await?;
        self.in_flight = match &mut self.upload {
            Upload::Handle(upload) => {
                inner(upload).put_part(payload).await.map_err(failed("write a part"))?;
                None
            }
            Upload::Later => return Err(OutputError::Unfit("was sent a part of an upload that was not begun")),
            Upload::Named { store, id, parts } => {
                let (store, id, index, path) =
                    (Arc::clone(store), id.clone(), parts.len(), self.output.path(&self.key));
                let put = async move { store.put_part(&path, &id, index, payload).await.map(Some) };
                Some(self.output.begin(put).await)
            }
            Upload::Blocks(upload) => {
                let put = inner(upload).put_part(payload);
                Some(self.output.begin(async move { put.await.map(|()| None) }).await)
            }
        };
        Ok(())
    }
}

fn inner(upload: &mut Mutex<Box<dyn MultipartUpload>>) -> &mut dyn MultipartUpload {
    &mut **upload.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn digits(digest: &Digest) -> String {
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        use std::fmt::Write as _;
        write!(text, "{byte:02x}").expect("a String takes all that is written");
        text
    })
}

#[cfg(test)]
mod tests;
