//! Objects as they are read: small ones in one go, files piece by piece.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use super::{Output, OutputError, failed};

/// Bytes that a cloud is asked for at a time. Its answer has to be taken before `http.request_timeout_seconds` are over, and who
/// takes it is the client of a download, however slow: in 120 seconds so much is 35 kB/s.
const PIECE: u64 = 4 * 1024 * 1024;

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
        Ok(Some(got.into_stream().map_err(failed("read an object")).boxed()))
    }
}

#[cfg(test)]
mod tests {
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
    async fn a_file_that_ends_too_soon_is_told_at_once() {
        let mut short = pieces(0..12).await;
        short.most = u64::MAX;
        assert!(matches!(short.stream().await.err(), Some(OutputError::Damaged)));
    }
}
