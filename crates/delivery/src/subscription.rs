//! The subscription, which a method fetches SETs from and reports outcomes to.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use setgate_set::{Envelope, Jti, OrderKey};

use crate::{Attempt, Cause, Order, Outcome, Redelivery, spi};

/// A subscription: a stream as its method sees it.
///
/// Clones share it. It may be called from any thread and needs no runtime.
#[derive(Clone)]
pub struct Subscription(Arc<dyn spi::SubscriptionCore>);

impl Subscription {
    /// Makes a subscription from its core.
    #[must_use]
    pub fn new(core: Arc<dyn spi::SubscriptionCore>) -> Self {
        Self(core)
    }

    /// Opens a consumer with the delivery mode of the channel.
    #[must_use]
    pub fn consumer(&self) -> Consumer {
        Consumer::new(self.0.consumer(None))
    }

    /// Opens a consumer with a delivery mode of its own, such as a request beside the sockets of one URL.
    #[must_use]
    pub fn consumer_with(&self, mode: DeliveryMode) -> Consumer {
        Consumer::new(self.0.consumer(Some(mode)))
    }

    /// Reports an outcome: in any order, from any thread, at any time. An unknown `jti` is ignored.
    ///
    /// An acknowledgement, and a refusal that parks, count whatever the attempt, and are final. Any other outcome
    /// counts only for the current attempt; `None` stands for that one. The call never waits and never fails.
    pub fn settle(&self, jti: Jti, attempt: Option<Attempt>, outcome: Outcome) {
        self.0.settle(vec![(jti, attempt, outcome)]);
    }

    /// Reports several outcomes; returns the number of SETs in flight that they ended.
    ///
    /// Reports about other SETs, and repeated ones, settle nothing and are not counted.
    pub fn settle_all(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        self.0.settle(all)
    }

    /// Reports that a hand-over succeeded and that the outcomes of its SETs come later: the channel counts as healthy
    /// from now on.
    ///
    /// Without this report a probe ends with the first acknowledgement. It is not meant for SETs that are settled at
    /// the same time.
    pub fn reached(&self, sets: &[(Jti, Attempt)]) {
        self.0.reached(sets);
    }

    /// Returns the number of SETs that are handed over and not settled.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.0.counts().0
    }

    /// Returns the number of SETs that are owed and not handed over.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.counts().1
    }

    /// Returns whether a consumer that asked now would get something; `moreAvailable` reports it to a poller (RFC 8936
    /// §2.3).
    #[must_use]
    pub fn has_due(&self) -> bool {
        self.0.has_due()
    }

    /// Returns whether the stream is paused. Consumers stay pending then, and a handler that holds an answer may want
    /// to give it earlier.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.is_paused()
    }

    /// Sets the reason, shown on status pages, why nothing leaves although SETs wait, such as a lack of credit; `None`
    /// clears it.
    pub fn stalled(&self, why: Option<Cause>) {
        self.0.stalled(why);
    }
}

/// A consumer of a subscription: one run of a sender, one poll, or one socket.
///
/// Dropping it gives back what it leased and did not hand over.
pub struct Consumer(Box<dyn spi::ConsumerCore>);

impl Consumer {
    /// Makes a consumer from its core.
    #[must_use]
    pub fn new(core: Box<dyn spi::ConsumerCore>) -> Self {
        Self(core)
    }

    /// Returns the next batch.
    ///
    /// The call may be cancelled and repeated: its work is kept in the consumer, not in the future. While the stream is
    /// paused it stays pending. With `sets: 0` it leases nothing and still returns the end, so that a loop without
    /// credit learns of a deletion.
    ///
    /// # Errors
    /// [`Closed`] gives the reason why no further batch will come.
    pub async fn next_batch(&mut self, want: Want) -> Result<Batch, Closed> {
        let Some(wait) = want.wait else {
            return std::future::poll_fn(|cx| self.0.poll_next_batch(&want, cx)).await;
        };
        let sleep = tokio::time::sleep(wait);
        tokio::pin!(sleep);
        let mut over = false;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(batch) = self.poll_next_batch(&want, cx) {
                return Poll::Ready(batch);
            }
            over = over || sleep.as_mut().poll(cx).is_ready();
            if over && !self.is_preparing() { Poll::Ready(Ok(Batch::empty())) } else { Poll::Pending }
        })
        .await
    }

    /// Polls for the next batch, for callers that wait in their own way; `want.wait` is ignored.
    ///
    /// # Errors
    /// The same as those of [`Consumer::next_batch`].
    pub fn poll_next_batch(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        self.0.poll_next_batch(want, cx)
    }

    /// Returns whether SETs are leased and being prepared for this consumer.
    ///
    /// A caller that stops waiting for *something to come* still waits for these: otherwise a request that does not
    /// wait at all would never get what has to be signed first.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        self.0.is_preparing()
    }

    /// Waits until nothing that this consumer handed over is unsettled, or the drain deadline has passed.
    pub async fn settled(&mut self) {
        std::future::poll_fn(|cx| self.0.poll_settled(cx)).await;
    }
}

/// The delivery mode of a consumer, where it differs from its channel's.
///
/// One URL may serve sockets, whose SETs fall due again when the socket is gone, and requests, whose SETs outlive the
/// answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryMode {
    /// The unit in which a hand-over of this consumer can fail.
    pub order: Order,
    /// The time at which a SET that this consumer handed over is due again.
    pub redelivery: Redelivery,
}

/// The size of the batch that a consumer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The most SETs; 0 leases nothing.
    pub sets: usize,
    /// The most bytes.
    pub bytes: usize,
    /// The time to wait for something to come; `None` waits without end.
    ///
    /// The batch is empty when the wait is over. SETs that are being prepared by then are still waited for.
    pub wait: Option<Duration>,
}

impl Want {
    /// A request for as many SETs and bytes as the limits allow, with an unlimited wait.
    pub const ALL: Self = Self { sets: usize::MAX, bytes: usize::MAX, wait: None };
}

/// The reason for which a consumer ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Closed {
    /// Nothing is due and nothing is in flight; the router starts the sender again when something is due.
    Idle,
    /// The gateway is shutting down.
    Draining,
    /// Another consumer took its place.
    Superseded,
    /// The stream was disabled.
    Disabled,
    /// The stream was deleted.
    Deleted,
    /// The method or the endpoint of the stream changed.
    Reconfigured,
    /// The method gave up on the channel.
    Fault(Cause),
}

/// SETs that were leased together.
///
/// A batch that is dropped before [`Batch::hand_over`] counts as never made. It is empty when the wait was over.
pub struct Batch {
    /// The SETs, sealed.
    pub sets: Vec<SealedSet>,
    /// True when more SETs are due now.
    pub more: bool,
    lease: Option<Box<dyn spi::Lease>>,
}

impl Batch {
    /// Makes a batch with its lease.
    #[must_use]
    pub fn new(sets: Vec<SealedSet>, more: bool, lease: Box<dyn spi::Lease>) -> Self {
        Self { sets, more, lease: Some(lease) }
    }

    /// Makes the empty batch, which ends a wait.
    #[must_use]
    pub fn empty() -> Self {
        Self { sets: Vec::new(), more: false, lease: None }
    }

    /// Begins the hand-over and returns the SETs: their attempts count and their redelivery timeouts start.
    #[must_use]
    pub fn hand_over(mut self) -> Vec<SealedSet> {
        if let Some(lease) = self.lease.take() {
            lease.handed_over();
        }
        std::mem::take(&mut self.sets)
    }
}

/// A sealed SET, ready to be handed over.
#[derive(Clone, Debug)]
pub struct SealedSet {
    /// The identity of the SET, the same at each attempt.
    pub jti: Jti,
    /// The number of this hand-over.
    pub attempt: Attempt,
    /// The compact token, or the claims as JSON.
    pub body: Bytes,
    /// The facts that all SETs of its event share.
    pub envelope: Arc<Envelope>,
    /// The order key.
    pub order: OrderKey,
}

/// Room for unsettled SETs, shared by cloning: for a channel, a peer, a connection or a cluster. The longest waiter is
/// served first.
#[derive(Clone)]
pub struct Window(Arc<spi::WindowCore>);

impl Window {
    /// Makes a window of this many SETs, without a limit on batches and bytes.
    #[must_use]
    pub fn of_sets(sets: usize) -> Self {
        Self(Arc::new(spi::WindowCore::new(sets, usize::MAX, usize::MAX)))
    }

    /// Makes a window of SETs, batches and bytes.
    #[must_use]
    pub fn of(sets: usize, batches: usize, bytes: usize) -> Self {
        Self(Arc::new(spi::WindowCore::new(sets, batches, bytes)))
    }

    /// Changes the limits; 0 closes the window.
    pub fn limit(&self, sets: usize, batches: usize, bytes: usize) {
        self.0.limit(sets, batches, bytes);
    }

    /// Returns the core, from which the router takes room.
    #[must_use]
    pub fn core(&self) -> &Arc<spi::WindowCore> {
        &self.0
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Window")
    }
}
impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Consumer")
    }
}
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} SETs)", self.sets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core that leases at the first poll and is ready at the third.
    struct Slow(u32);

    impl spi::ConsumerCore for Slow {
        fn poll_next_batch(&mut self, _: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
            self.0 += 1;
            cx.waker().wake_by_ref();
            if self.0 < 3 { Poll::Pending } else { Poll::Ready(Ok(Batch { more: true, ..Batch::empty() })) }
        }

        fn poll_settled(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn is_preparing(&self) -> bool {
            self.0 > 0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_gets_what_is_being_made_ready() {
        let mut consumer = Consumer::new(Box::new(Slow(0)));
        let batch = consumer.next_batch(Want { wait: Some(Duration::ZERO), ..Want::ALL }).await.unwrap();
        assert!(batch.more, "the wait was over before the batch was ready");
    }
}
