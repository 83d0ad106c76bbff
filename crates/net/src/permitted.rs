//! The traffic of a connection, watched: its bytes and the answers on it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    connection::{Asking, Side},
    permit::HeldPermit,
};

/// The byte stream of a connection together with its place: they have one owner.
pub(crate) struct PermittedIo<Io> {
    io: Io,
    held: HeldPermit,
    stalled: bool,
}

impl<Io> PermittedIo<Io> {
    pub(crate) const fn new(io: Io, held: HeldPermit) -> Self {
        Self { io, held, stalled: false }
    }

    fn check(&self, cx: &mut Context<'_>, side: Side) -> io::Result<()> {
        if self.held.permit().connection().must_end(cx, side) {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }

    /// Records whether the peer reads what is written.
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if self.stalled != written.is_pending() {
            self.stalled = written.is_pending();
            self.held.permit().connection().stalls(self.stalled);
        }
        written
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for PermittedIo<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx, Side::Read)?;
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for PermittedIo<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx, Side::Write)?;
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx, Side::Write)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The body of an answer on its way. Whether the peer reads it shows in the calls for more of it: with HTTP/2 a peer
/// can read every byte of the connection and still take nothing of an answer, by leaving its window shut (RFC 9113
/// §5.2).
pub(crate) struct Answering {
    body: Body,
    asking: Asking,
}

impl Answering {
    pub(crate) fn new(body: Body, mut asking: Asking) -> Self {
        asking.handed();
        Self { body, asking }
    }
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Pending => self.asking.taken(),
            Poll::Ready(_) => self.asking.handed(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
