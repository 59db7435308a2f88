//! Looks at the heads of HTTP/1 requests while they are read, and spoils those that two readers could read
//! differently: the server then answers 400 and closes the connection (SEC-04).
//!
//! The server behind this is lenient where the standard lets it be, and what it has made of a request no
//! longer shows what was sent. It takes lines that end in a bare LF, drops a second `Content-Length` that
//! repeats the first, prefers `Transfer-Encoding` to `Content-Length`, and takes codings before `chunked`,
//! which would be lost on the way.

mod scanner;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::scanner::Scanner;
use crate::proxy::TunnelSwitch;

/// What ends a head that was spoilt in its middle.
const SPOILT_END: &[u8] = b"\n\n";

/// A connection whose requests' heads are looked at.
#[derive(Debug)]
pub(crate) struct Heads<T> {
    io: T,
    scanner: Scanner,
    tunnel: TunnelSwitch,
    /// How much of [`SPOILT_END`] the server has got.
    ends_given: usize,
}

impl<T> Heads<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, scanner: Scanner::new(), tunnel: TunnelSwitch::default(), ends_given: 0 }
    }

    pub(crate) fn tunnel_switch(&self) -> TunnelSwitch {
        self.tunnel.clone()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heads<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.scanner.has_spoilt() {
            // The server looks at a head only once it has an end; then comes the end of all.
            let end = &SPOILT_END[this.ends_given..];
            let given = end.len().min(buf.remaining());
            buf.put_slice(&end[..given]);
            this.ends_given += given;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if this.tunnel.is_open() {
            return Poll::Ready(Ok(()));
        }
        let read = &mut buf.filled_mut()[before..];
        if let Some(at) = this.scanner.scan(read) {
            // No head, and no chunk's size, may hold this byte.
            read[at] = 0;
            buf.set_filled(before + at + 1);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heads<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
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
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
