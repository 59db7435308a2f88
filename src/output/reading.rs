//! Objects as they are read: small ones in one go, files piece by piece.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt};

use super::{Output, OutputError, failed};

/// Bytes that a cloud is asked for at a time. Its answer has to be taken before `http.request_timeout_seconds` are over, and who
/// takes it is the client of a download, however slow: in 120 seconds so much is 35 kB/s.
const PIECE: u64 = 4 * 1024 * 1024;
/// Bytes that are read from a local disk at a time, each on a thread that may wait. (The library's own stream wakes one for each
/// 8 KiB.)
const OF_DISK: u64 = 64 * 1024;

impl Output {
    /// Reads a small object in one go.
    pub(crate) async fn get(&self, key: &str) -> Result<Bytes, OutputError> {
        let failed = failed("read an object");
        self.store.get(&self.path(key)).await.map_err(&failed)?.bytes().await.map_err(failed)
    }

    /// Streams a part of an object.
    ///
    /// # Errors
    /// At once if there is no such part, and from the stream if the object becomes another one on the way.
    pub(crate) async fn stream(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, OutputError>>, OutputError> {
        // A local disk waits for whoever reads.
        let most = if self.cloud.is_some() { PIECE } else { u64::MAX };
        Pieces { store: Arc::clone(&self.store), path: self.path(key), left: range, most, tag: None }.stream().await
    }
}

/// A part of an object that is asked for in pieces, each when the last one was taken.
struct Pieces {
    store: Arc<dyn ObjectStore>,
    path: Path,
    left: Range<u64>,
    /// Bytes of one.
    most: u64,
    /// What tells the object from one that has taken its place.
    tag: Option<String>,
}

impl Pieces {
    async fn stream(mut self) -> Result<BoxStream<'static, Result<Bytes, OutputError>>, OutputError> {
        let Some(first) = self.next().await? else { return Ok(stream::empty().boxed()) };
        let rest = stream::try_unfold(self, |mut pieces| async move {
            Ok::<_, OutputError>(pieces.next().await?.map(|piece| (piece, pieces)))
        });
        Ok(first.chain(rest.try_flatten()).boxed())
    }

    async fn next(&mut self) -> Result<Option<BoxStream<'static, Result<Bytes, OutputError>>>, OutputError> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let piece = self.left.start..self.left.end.min(self.left.start.saturating_add(self.most));
        let options = GetOptions { range: Some(GetRange::Bounded(piece.clone())), ..GetOptions::default() };
        let got = self.store.get_opts(&self.path, options).await.map_err(failed("read an object"))?;
        let tag = got.meta.e_tag.clone();
        if got.range != piece || (self.tag.is_some() && self.tag != tag) {
            return Err(OutputError::Damaged);
        }
        (self.tag, self.left.start) = (tag, piece.end);
        Ok(Some(match got.payload {
            GetResultPayload::File(file, _) => of_disk(file, piece).boxed(),
            GetResultPayload::Stream(stream) => stream.map_err(failed("read an object")).boxed(),
        }))
    }
}

/// A part of a file that stays the same file, whatever becomes of its name.
fn of_disk(file: File, left: Range<u64>) -> impl Stream<Item = Result<Bytes, OutputError>> {
    stream::try_unfold((Arc::new(file), left), async |(file, left)| {
        if left.is_empty() {
            return Ok(None);
        }
        let piece = left.start..left.end.min(left.start + OF_DISK);
        let (source, from) = (Arc::clone(&file), piece.start);
        let mut bytes = vec![0; usize::try_from(piece.end - piece.start).expect("it is small")];
        let read = move || source.read_exact_at(&mut bytes, from).map(|()| bytes);
        let bytes = tokio::task::spawn_blocking(read).await.map_err(io::Error::from).flatten().map_err(unread)?;
        Ok(Some((Bytes::from(bytes), (file, piece.end..left.end))))
    })
}

fn unread(source: io::Error) -> OutputError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => OutputError::Damaged,
        _ => OutputError::Folder { doing: "read a file of", source },
    }
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;

    use super::*;

    async fn pieces(left: Range<u64>) -> Pieces {
        let (store, path) = (Arc::new(InMemory::new()), Path::from("file"));
        store.put(&path, "0123456789".into()).await.expect("it is kept");
        Pieces { store, path, left, most: 4, tag: None }
    }

    #[tokio::test]
    async fn pieces_are_as_one() {
        for (left, expected) in
            [(0..10, "0123456789"), (0..4, "0123"), (3..8, "34567"), (1..10, "123456789"), (9..10, "9"), (5..5, "")]
        {
            let stream = pieces(left).await.stream().await.expect("it is there");
            let read: Vec<Bytes> = stream.try_collect().await.expect("all of it comes");
            assert!(read.iter().all(|piece| piece.len() <= 4), "{read:?}");
            assert_eq!(read.concat(), expected.as_bytes());
        }
        let missing = Pieces { path: Path::from("other"), ..pieces(0..1).await };
        assert!(missing.stream().await.err().expect("it is not there").is_missing());
    }

    #[tokio::test]
    async fn a_part_of_another_object_is_none_of_this_one() {
        let asked = pieces(0..10).await;
        let (store, path) = (Arc::clone(&asked.store), asked.path.clone());
        let mut stream = asked.stream().await.expect("it is there");
        assert_eq!(stream.try_next().await.expect("the first comes").as_deref(), Some(&b"0123"[..]));
        store.put(&path, "abcdefghij".into()).await.expect("it is kept");
        assert!(matches!(stream.try_next().await, Err(OutputError::Damaged)));
    }

    #[tokio::test]
    async fn a_file_of_a_disk_comes_in_large_pieces_also_when_its_name_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store: Arc<dyn ObjectStore> =
            Arc::new(LocalFileSystem::new_with_prefix(folder.path()).expect("it is there"));
        let whole: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let path = Path::from("file");
        for part in [0..200_000, 0..1, 65_535..65_537, 65_536..131_072, 131_071..200_000] {
            store.put(&path, whole.clone().into()).await.expect("it is kept");
            let asked =
                Pieces { store: Arc::clone(&store), path: path.clone(), left: part.clone(), most: u64::MAX, tag: None };
            let stream = asked.stream().await.expect("it is there");
            store.delete(&path).await.expect("it is removed");
            let read: Vec<Bytes> = stream.try_collect().await.expect("all of it comes");
            let bounds = usize::try_from(part.start).expect("small")..usize::try_from(part.end).expect("small");
            assert_eq!(read.concat(), &whole[bounds.clone()], "{part:?}");
            assert_eq!(read.len(), bounds.len().div_ceil(64 * 1024), "{part:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_becomes_shorter_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).expect("it is there"));
        let path = Path::from("file");
        store.put(&path, vec![b'a'; 100_000].into()).await.expect("it is kept");
        let asked = Pieces { store, path, left: 0..100_000, most: u64::MAX, tag: None };
        let mut stream = asked.stream().await.expect("it is there");
        let file = std::fs::File::options().write(true).open(folder.path().join("file")).expect("it can be opened");
        file.set_len(70_000).expect("it can be cut");
        assert_eq!(stream.try_next().await.expect("the first comes").map(|piece| piece.len()), Some(64 * 1024));
        assert!(matches!(stream.try_next().await, Err(OutputError::Damaged)));
    }

    #[tokio::test]
    async fn a_file_that_ends_too_soon_is_told_at_once() {
        let mut short = pieces(0..12).await;
        short.most = u64::MAX;
        assert!(matches!(short.stream().await.err(), Some(OutputError::Damaged)));
    }
}
