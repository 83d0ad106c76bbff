//! The body of an answer: it owns the SETs until the last byte has left.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use delivery::{Batch, BoxFuture, Bytes, House, Tap, axum::body::HttpBody};
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};

use crate::wire;

/// Bytes that are given to the server's writer at once. Fewer than it buffers (`[listen.limits] header_bytes`, 32 KiB), since a
/// writer that is full does not ask for more, and so would not hear that the time is over.
const PIECE: usize = 16 * 1024;
/// How long the writer may need for them: a receiver that reads more slowly is hung up on.
const WITHIN: Duration = Duration::from_secs(30);

/// SETs on their way to a receiver.
///
/// The next piece is given when the writer has let go of the one before, and the hand-over begins with the last byte, which
/// is given alone. Dropped before that, because the receiver hung up, it never happened: the SETs are due at once.
pub(crate) struct Answer {
    json: Arc<Vec<u8>>,
    at: usize,
    under_way: Option<(Arc<Written>, BoxFuture<'static, ()>)>,
    // The tap takes back what its batch did not hand over, so it lives as long.
    holds: Option<(Batch, Tap)>,
    house: House,
}

impl Answer {
    /// The answer with these SETs.
    pub(crate) fn new(mut batch: Batch, tap: Tap, house: House) -> Self {
        let json = wire::answer(&batch.sets, batch.more);
        // The tokens stand in the body now, and only there.
        batch.sets = Vec::new();
        Self { json: Arc::new(json), at: 0, under_way: None, holds: Some((batch, tap)), house }
    }

    fn piece(&mut self, length: usize) -> Piece {
        let written = Arc::new(Written::default());
        let range = self.at..self.at + length;
        self.at = range.end;
        self.under_way = Some((written.clone(), self.house.clock.sleep(WITHIN)));
        Piece { json: self.json.clone(), range, written }
    }
}

/// The receiver reads too slowly.
#[derive(Debug)]
pub(crate) struct Stalled;

impl std::fmt::Display for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the receiver reads its answer too slowly")
    }
}

impl std::error::Error for Stalled {}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Stalled;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Stalled>>> {
        if let Some((written, within)) = &mut self.under_way {
            written.waker.register(cx.waker());
            if !written.is.load(Ordering::Acquire) {
                return match within.as_mut().poll(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => Poll::Ready(Some(Err(Stalled))),
                };
            }
            self.under_way = None;
        }
        let piece = match self.json.len() - self.at {
            0 => return Poll::Ready(None),
            1 => {
                let piece = self.piece(1);
                if let Some((batch, tap)) = self.holds.take() {
                    // All but this byte is out of our hands: RFC 8936 §2.4, from here on it is the receiver's to acknowledge.
                    let _ = batch.hand_over();
                    drop(tap);
                }
                piece
            }
            left => self.piece(PIECE.min(left - 1)),
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.json.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.json.len() - self.at) as u64)
    }
}

/// Whether a piece is written.
#[derive(Default)]
struct Written {
    is: AtomicBool,
    waker: AtomicWaker,
}

/// Part of the body; the writer drops it when it is written.
struct Piece {
    json: Arc<Vec<u8>>,
    range: std::ops::Range<usize>,
    written: Arc<Written>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.json.get(self.range.clone()).unwrap_or_default()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.written.is.store(true, Ordering::Release);
        self.written.waker.wake();
    }
}
