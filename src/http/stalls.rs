//! Clients that take nothing any more of what they asked for: their connections are theirs no longer, as neither the server nor
//! the end of a download would ever notice (SEC-06, SEC-30).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a client may take nothing while something is there for it. It is noticed before twice as long has passed.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);

/// A connection of which it is known whether its client takes what is written.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    io: T,
    taking: Taking,
}

/// How a client takes what is written. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taking(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bytes: AtomicU64,
    is_waiting: AtomicBool,
}

impl<T> Watched<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, taking: Taking::default() }
    }

    pub(crate) fn taking(&self) -> Taking {
        self.taking.clone()
    }
}

impl Taking {
    /// Comes to an end once nothing was taken from one pause to the next that was to be.
    pub(super) async fn stalled<F: Future<Output = ()>>(self, pause: impl Fn() -> F) {
        let Self(state) = self;
        loop {
            let before = state.bytes.load(Ordering::Relaxed);
            let was_waiting = state.is_waiting.load(Ordering::Relaxed);
            pause().await;
            let is_same = state.bytes.load(Ordering::Relaxed) == before;
            if was_waiting && is_same && state.is_waiting.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.0.is_waiting.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.0.bytes.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.taking.note(Pin::new(&mut this.io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.taking.note(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_told_from_who_is_slow_and_from_who_is_owed_nothing() {
        let (mut client, server) = duplex(4);
        let mut server = Watched::new(server);
        let pauses = Semaphore::new(0);
        let pause = async || pauses.acquire().await.expect("it is open").forget();
        let mut stalled = std::pin::pin!(server.taking().stalled(pause));
        let mut is_stalled = || {
            pauses.add_permits(1);
            (&mut stalled).now_or_never().is_some()
        };
        assert!(!is_stalled(), "nothing was written yet");
        server.write_all(b"1234").await.expect("room");
        assert!(!is_stalled() && !is_stalled(), "there is nothing more for it");
        let mut writing = std::pin::pin!(server.write_all(b"567890"));
        for _ in 0..6 {
            assert!((&mut writing).now_or_never().is_none());
            assert!(!is_stalled(), "slow as it is");
            client.read_u8().await.expect("a byte");
        }
        (&mut writing).now_or_never().expect("room").expect("it is taken in the end");
        assert!(!is_stalled() && !is_stalled(), "there is nothing more for it");
        let mut writing = std::pin::pin!(server.write_all(b"more"));
        assert!((&mut writing).now_or_never().is_none());
        assert!(!is_stalled(), "it has not waited for long");
        assert!(is_stalled(), "nothing is taken any more");
    }
}
