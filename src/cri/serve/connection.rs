//! One client's connection: what it sends is rewritten where HTTP/2 servers refuse it, and one that never sends is
//! closed.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};

use crate::cri::authority::Rewriter;

/// How long a new connection may be silent before it is closed: a client's first bytes need no waiting.
pub(super) const FIRST_BYTE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes that a connection keeps room for between reads: a request of the kubelet's.
const KEPT_BYTES_MAX: usize = 32 << 10;

/// A client's connection and its place among those that may be open at a time.
pub(super) struct Connection {
    io: UnixStream,
    /// Until the first byte has come.
    pub(super) patience: Option<Pin<Box<Sleep>>>,
    rewriter: Rewriter,
    /// Rewritten bytes that are to be read next.
    ready: Vec<u8>,
    /// How much of `ready` was read.
    given: usize,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(io: UnixStream, place: OwnedSemaphorePermit) -> Self {
        let patience = Some(Box::pin(sleep(FIRST_BYTE_WAIT_MAX)));
        Self { io, patience, rewriter: Rewriter::default(), ready: Vec::new(), given: 0, _place: place }
    }

    /// Takes what the client sent, or its end, from `buf`, and puts there what is to be read instead.
    fn rewrite(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        match &buf.filled()[before..] {
            [] => self.rewriter.finish(&mut self.ready),
            came => self.rewriter.feed(came, &mut self.ready),
        }
        buf.set_filled(before);
        self.give(buf);
    }

    /// Gives of what is ready as much as fits.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.ready[self.given..];
        let (part, left) = rest.split_at(rest.len().min(buf.remaining()));
        buf.put_slice(part);
        self.given += part.len();
        if left.is_empty() {
            self.ready.clear();
            self.ready.shrink_to(KEPT_BYTES_MAX);
            self.given = 0;
        }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(patience) = &mut self.patience else { return Poll::Pending };
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        this.give(buf);
        // To give nothing is to say that the client is gone: what came may all be held back.
        while buf.filled().len() == before && buf.remaining() > 0 {
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(result) => result?,
                Poll::Pending => return this.poll_patience(cx),
            }
            this.patience = None;
            let ended = buf.filled().len() == before;
            this.rewrite(buf, before);
            if ended {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
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

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
