//! The body of an answer, which owns the SETs until the last byte has left.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use setgate_delivery::{Batch, BoxFuture, Bytes, Consumer, Runtime, SealedSet, axum::body::HttpBody};

use crate::wire;

/// The bytes that are given to the server's writer at once. The number is below what the writer buffers
/// (`[listen.limits] header_bytes`, 32 KiB): a full writer does not ask for more, and so would not notice that the time
/// is over.
const PIECE: usize = 24 * 1024;
/// The time in which the writer has to send one piece; a receiver that reads more slowly is disconnected.
const WITHIN: Duration = Duration::from_secs(30);

/// SETs on their way to a receiver.
///
/// The next piece is written out when the writer has released the one before, so that an answer takes no more memory
/// than its SETs do. The hand-over begins with the last byte, which is given alone. An answer that is dropped before
/// that, because the receiver disconnected, hands over nothing: its SETs are due at once.
pub(crate) struct Answer {
    sets: std::vec::IntoIter<SealedSet>,
    first: bool,
    more: bool,
    /// The rest of a SET that was larger than a piece.
    rest: Bytes,
    /// The bytes that are not given to the writer yet.
    left: usize,
    under_way: Option<(Arc<Written>, BoxFuture<'static, ()>)>,
    // The consumer takes back SETs that its batch did not hand over, so it lives as long as the batch.
    holds: Option<(Batch, Consumer)>,
    runtime: Runtime,
}

impl Answer {
    /// Creates the answer with these SETs.
    pub(crate) fn new(mut batch: Batch, consumer: Consumer, runtime: Runtime) -> Self {
        let more = batch.more;
        // The tokens are kept here from now on, and only here.
        let sets = std::mem::take(&mut batch.sets);
        let left = wire::length(&sets, more);
        Self {
            sets: sets.into_iter(),
            first: true,
            more,
            rest: Bytes::new(),
            left,
            under_way: None,
            holds: Some((batch, consumer)),
            runtime,
        }
    }

    /// Returns the next bytes of the object, at most [`PIECE`], without its last byte.
    fn next(&mut self) -> Bytes {
        let most = PIECE.min(self.left - 1);
        if self.rest.len() >= most {
            return self.rest.split_to(most);
        }
        let mut out = Vec::with_capacity(PIECE + 2048);
        out.extend_from_slice(&std::mem::take(&mut self.rest));
        while out.len() < most {
            if std::mem::take(&mut self.first) {
                wire::open(&mut out);
                if let Some(set) = self.sets.next() {
                    wire::set(&mut out, &set);
                }
            } else if let Some(set) = self.sets.next() {
                out.push(b',');
                wire::set(&mut out, &set);
            } else {
                wire::close(&mut out, self.more);
            }
        }
        let mut piece = Bytes::from(out);
        self.rest = piece.split_off(most);
        piece
    }

    fn piece(&mut self, bytes: Bytes) -> Frame<Bytes> {
        self.left -= bytes.len();
        let written = Arc::new(Written::default());
        self.under_way = Some((written.clone(), self.runtime.clock.sleep(WITHIN)));
        Frame::data(Bytes::from_owner(Piece { bytes, written }))
    }
}

/// The error for a receiver that reads too slowly.
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
        let frame = match self.left {
            0 => return Poll::Ready(None),
            1 => {
                let last = self.piece(Bytes::from_static(wire::LAST));
                if let Some((batch, consumer)) = self.holds.take() {
                    // All bytes but this one have been sent: from here on the receiver has to acknowledge the SETs (RFC
                    // 8936 §2.4).
                    let _ = batch.hand_over();
                    drop(consumer);
                }
                last
            }
            _ => {
                let bytes = self.next();
                self.piece(bytes)
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

/// The signal that a piece is written.
#[derive(Default)]
struct Written {
    is: AtomicBool,
    waker: AtomicWaker,
}

/// A part of the body; the writer drops it when it is written.
struct Piece {
    bytes: Bytes,
    written: Arc<Written>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.written.is.store(true, Ordering::Release);
        self.written.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use setgate_delivery::{Attempt, Envelope, Jti, OrderKey, Timestamp};

    use super::*;

    fn set(number: u128, size: usize) -> SealedSet {
        SealedSet {
            jti: Jti::from_block(b'a', number.to_be_bytes()),
            attempt: Attempt(1),
            body: "x".repeat(size).into(),
            envelope: Arc::new(Envelope::new(Timestamp::from_seconds(1), Bytes::new())),
            order: OrderKey::from_bits(1),
        }
    }

    #[test]
    fn the_pieces_are_the_object_and_as_long_as_was_said() {
        for sizes in [vec![], vec![1], vec![700; 200], vec![PIECE - 40; 3], vec![1 << 20, 5, PIECE, 1 << 18]] {
            for more in [false, true] {
                let sets: Vec<_> = sizes.iter().enumerate().map(|(at, size)| set(at as u128, *size)).collect();
                let whole = wire::answer(&sets, more);
                let left = wire::length(&sets, more);
                assert_eq!(left, whole.len(), "{sizes:?}");
                let mut answer = Answer {
                    sets: sets.into_iter(),
                    first: true,
                    more,
                    rest: Bytes::new(),
                    left,
                    under_way: None,
                    holds: None,
                    runtime: clock_of_the_system(),
                };
                let mut said = Vec::new();
                while answer.left > 1 {
                    let piece = answer.next();
                    assert!(!piece.is_empty() && piece.len() <= PIECE);
                    answer.left -= piece.len();
                    said.extend_from_slice(&piece);
                }
                said.extend_from_slice(wire::LAST);
                assert!(said == whole, "{sizes:?}");
            }
        }
    }

    fn clock_of_the_system() -> Runtime {
        setgate_delivery::testkit::clock::system()
    }
}
