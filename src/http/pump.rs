//! Carries a file from the storage to a client, at the client's pace, packed or unpacked on the way where that is wanted.
//!
//! It runs beside the exports, at their lower priority: ordinary requests never wait behind somebody's gzip. A client that
//! does not read holds a few pieces in memory, and neither the file nor its bytes once the download is cut.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use futures_util::TryStreamExt;
use futures_util::stream::{self, BoxStream};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::TaskTracker;

use super::body::{self, Body, BoxError};
use crate::engine::Download;
use crate::ledger::Ledger;
use crate::ledger::record::{Event, FileEnded};
use crate::output::OutputError;
use crate::telemetry::error_chain;

/// Bytes that are handed on together.
const PIECE: usize = 64 * 1024;
/// Bytes that are packed or unpacked in one go, which takes well below a millisecond.
const BITE: usize = 8 * 1024;
/// What unpacks may come out a thousand times as long.
const PACKED_BITE: usize = 128;
/// Pieces that wait for the client.
const WAITING: usize = 2;

/// What is done to the bytes on the way.
#[derive(Debug)]
pub(super) enum Coder {
    Plain(Vec<u8>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Gunzip(Box<MultiGzDecoder<Vec<u8>>>),
}

impl Coder {
    pub(super) fn plain() -> Self {
        Self::Plain(Vec::new())
    }

    pub(super) fn gzip() -> Self {
        // NDJSON shrinks to a tenth even so.
        Self::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    pub(super) fn gunzip() -> Self {
        Self::Gunzip(Box::new(MultiGzDecoder::new(Vec::new())))
    }

    /// Whether what comes next is the next piece.
    fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(ready) if ready.is_empty())
    }

    fn put(&mut self, bite: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(ready) => ready.extend_from_slice(bite),
            Self::Gzip(encoder) => encoder.write_all(bite)?,
            Self::Gunzip(decoder) => decoder.write_all(bite)?,
        }
        Ok(())
    }

    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Plain(ready) => ready,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Gunzip(decoder) => decoder.get_mut(),
        }
    }

    /// Bytes that are put in in one go.
    fn bite(&self) -> usize {
        match self {
            Self::Plain(_) | Self::Gzip(_) => BITE,
            Self::Gunzip(_) => PACKED_BITE,
        }
    }

    /// The next piece, if it is whole.
    fn take(&mut self) -> Option<Bytes> {
        let ready = self.ready();
        (ready.len() >= PIECE).then(|| std::mem::take(ready).into())
    }

    /// All that is left.
    fn end(mut self) -> io::Result<Bytes> {
        match &mut self {
            Self::Plain(_) => {}
            Self::Gzip(encoder) => encoder.try_finish()?,
            Self::Gunzip(decoder) => decoder.try_finish()?,
        }
        Ok(std::mem::take(self.ready()).into())
    }
}

/// Why a body ends before the file does.
#[derive(Debug, thiserror::Error)]
#[error("the download was cut: the file is gone or cannot be read")]
struct Cut;

/// What is held while a file is sent.
pub(super) struct Held {
    pub(super) download: Download,
    /// To pack it on the way.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// What the ledger is told in the end.
pub(super) struct Receipt {
    pub(super) ledger: Ledger,
    pub(super) ended: FileEnded,
}

/// A body that gives what `source` does, through `coder`. An end that is not the file's own is an error, so that nobody
/// takes a part for the whole.
pub(super) fn pump(
    (tasks, runtime): (&TaskTracker, &Handle),
    source: BoxStream<'static, Result<Bytes, OutputError>>,
    coder: Coder,
    held: Held,
    receipt: Receipt,
) -> Body {
    let (sender, receiver) = mpsc::channel(WAITING);
    let taken = Arc::new(Taken::default());
    let of_client = Arc::clone(&taken);
    let sending = async move {
        let is_all = send(source, coder, held, sender, &taken).await;
        let Receipt { ledger, mut ended } = receipt;
        let (handed, of_it) = (taken.handed.load(Ordering::SeqCst), taken.bytes.load(Ordering::SeqCst));
        // Of one that was cut the client may have taken what was on its way.
        ended.bytes = is_all.map_or(handed, |_| of_it);
        ended.whole = is_all == Some(true) && of_it == handed;
        ledger.note(Event::FileEnded(ended)).await;
    };
    tasks.spawn_on(sending, runtime);
    let pieces = stream::try_unfold((receiver, of_client), |(mut receiver, taken)| async move {
        match receiver.recv().await {
            Some(Some(piece)) => {
                taken.bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
                Ok(Some((piece, (receiver, taken))))
            }
            Some(None) => Ok(None),
            None => Err(Cut),
        }
    });
    body::map(StreamBody::new(pieces.map_ok(Frame::data)))
}

/// What a client's connection has taken of a file.
#[derive(Debug, Default)]
struct Taken {
    bytes: AtomicU64,
    /// What was given to it.
    handed: AtomicU64,
}

/// Sends a file, and ends when its body does: whether all of it was handed on; `None` if it was cut.
async fn send(
    source: BoxStream<'static, Result<Bytes, OutputError>>,
    coder: Coder,
    Held { download, permit }: Held,
    sender: mpsc::Sender<Option<Bytes>>,
    taken: &Taken,
) -> Option<bool> {
    let carried = tokio::select! {
        biased;
        () = download.cut() => return None,
        () = sender.closed() => return Some(false),
        carried = carry(source, coder, &sender, &taken.handed) => carried,
    };
    // A client that is slow to read the last piece holds nothing any more.
    drop((download, permit));
    match carried {
        Ok(()) => {
            // Whoever has gone does not wait for the end.
            let _gone = sender.send(None).await;
            sender.closed().await;
            Some(true)
        }
        Err(error) => {
            tracing::warn!(error = error_chain(&*error), "a download broke off");
            None
        }
    }
}

async fn carry(
    mut source: BoxStream<'static, Result<Bytes, OutputError>>,
    mut coder: Coder,
    sender: &mpsc::Sender<Option<Bytes>>,
    handed: &AtomicU64,
) -> Result<(), BoxError> {
    let hand_on = async |piece: Bytes| {
        handed.fetch_add(piece.len() as u64, Ordering::SeqCst);
        sender.send(Some(piece)).await
    };
    while let Some(mut bytes) = source.try_next().await? {
        // What is large enough as it is, and stays as it is, is handed on and not copied.
        while coder.is_plain() && bytes.len() >= PIECE {
            hand_on(bytes.split_to(PIECE)).await?;
        }
        for bite in bytes.chunks(coder.bite()) {
            coder.put(bite)?;
            if let Some(piece) = coder.take() {
                hand_on(piece).await?;
            }
        }
    }
    let last = coder.end()?;
    if !last.is_empty() {
        hand_on(last).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_again_in_pieces() {
        let text: Vec<u8> = (0..20_000).flat_map(|number| format!("{{\"id\":\"{number}\"}}\n").into_bytes()).collect();
        let through = |mut coder: Coder, bytes: &[u8]| {
            let mut out = Vec::new();
            for bite in bytes.chunks(coder.bite()) {
                coder.put(bite).expect("it can be coded");
                let piece = coder.take().unwrap_or_default();
                assert!(piece.len() < 4 * PIECE, "{} bytes in one piece", piece.len());
                out.extend(piece);
            }
            out.extend(coder.end().expect("it can be coded"));
            out
        };
        let packed = through(Coder::gzip(), &text);
        assert!(packed.len() * 3 < text.len(), "{} of {}", packed.len(), text.len());
        assert_eq!(through(Coder::gunzip(), &packed), text);
        let twice = [packed.clone(), packed.clone()].concat();
        assert_eq!(through(Coder::gunzip(), &twice), [text.clone(), text.clone()].concat());
        assert_eq!(through(Coder::plain(), &text), text);
        let alike = vec![b'a'; 20_000_000];
        let packed_well = through(Coder::gzip(), &alike);
        assert!(packed_well.len() * 100 < alike.len(), "{}", packed_well.len());
        assert!(through(Coder::gunzip(), &packed_well) == alike);
        let mut cut = Coder::gunzip();
        cut.put(&packed[..packed.len() / 2]).expect("so far it is good");
        assert!(cut.end().is_err(), "half of it is no whole");
    }
}
