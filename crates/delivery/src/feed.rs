//! What a method draws from and reports to.

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

/// A stream as its method sees it. Clone, share; callable from any thread, no runtime needed.
#[derive(Clone)]
pub struct Feed(Arc<dyn spi::FeedCore>);

impl Feed {
    /// The feed of a core.
    #[must_use]
    pub fn new(core: Arc<dyn spi::FeedCore>) -> Self {
        Self(core)
    }

    /// A drawer of this feed.
    #[must_use]
    pub fn tap(&self) -> Tap {
        Tap::new(self.0.tap(None))
    }

    /// A drawer that hands over in a manner of its own: a request beside the sockets of one URL.
    #[must_use]
    pub fn tap_in(&self, manner: Manner) -> Tap {
        Tap::new(self.0.tap(Some(manner)))
    }

    /// Reports an outcome. Any order, any thread, any time; an unknown `jti` is ignored. An acknowledgement, and a refusal that
    /// parks, count whatever the attempt and are final; anything else counts only for the current attempt. Never waits, never fails.
    pub fn settle(&self, jti: Jti, attempt: Option<Attempt>, outcome: Outcome) {
        self.0.settle(vec![(jti, attempt, outcome)]);
    }

    /// Reports several outcomes. Tells how many SETs that are handed over found their end by it: whoever names others, or the same
    /// ones again, has settled nothing.
    pub fn settle_all(&self, all: Vec<(Jti, Option<Attempt>, Outcome)>) -> usize {
        self.0.settle(all)
    }

    /// Tells that a hand-over has ended well and what becomes of its SETs is told later: the peer is there, and the line is well.
    /// Until it is told, who waits for the end of a probe waits for the first acknowledgement. Not for a SET that is settled now.
    pub fn reached(&self, sets: &[(Jti, Attempt)]) {
        self.0.reached(sets);
    }

    /// SETs handed over and not settled.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.0.counts().0
    }

    /// SETs owed and not handed over.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.counts().1
    }

    /// Whether a tap that asked now would get something: what `moreAvailable` tells (RFC 8936 §2.3).
    #[must_use]
    pub fn has_due(&self) -> bool {
        self.0.has_due()
    }

    /// Whether the stream is paused: taps stay pending, and who holds an answer may want to give it sooner.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.0.is_paused()
    }

    /// For status pages: why nothing is drawn though SETs wait (peer absent, no credit).
    pub fn stalled(&self, why: Option<Cause>) {
        self.0.stalled(why);
    }
}

/// One drawer of a feed: a run of a sender, one poll, one socket.
///
/// Dropping it hands back what it claimed and did not hand over.
pub struct Tap(Box<dyn spi::TapCore>);

impl Tap {
    /// The tap of a core.
    #[must_use]
    pub fn new(core: Box<dyn spi::TapCore>) -> Self {
        Self(core)
    }

    /// The next batch. Cancel-safe and resumable: the work is kept in the tap, not in the future. Paused = stays pending.
    /// `sets: 0` draws nothing and still tells the end, so a loop without credit hears a deletion.
    ///
    /// # Errors
    /// [`Closed`] says why nothing will come any more.
    pub async fn next(&mut self, want: Want) -> Result<Batch, Closed> {
        let Some(wait) = want.wait else {
            return std::future::poll_fn(|cx| self.0.poll_next(&want, cx)).await;
        };
        let sleep = tokio::time::sleep(wait);
        tokio::pin!(sleep);
        let mut over = false;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(batch) = self.poll_next(&want, cx) {
                return Poll::Ready(batch);
            }
            over = over || sleep.as_mut().poll(cx).is_ready();
            if over && !self.is_drawing() { Poll::Ready(Ok(Batch::empty())) } else { Poll::Pending }
        })
        .await
    }

    /// [`Tap::next`] for who waits in a manner of his own; `want.wait` is not looked at.
    ///
    /// # Errors
    /// As [`Tap::next`].
    pub fn poll_next(&mut self, want: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
        self.0.poll_next(want, cx)
    }

    /// Whether SETs are claimed and being made ready for this tap. Whoever stops waiting for *something to come* waits for
    /// these still: otherwise a request that does not wait at all would never get what has to be signed first.
    #[must_use]
    pub fn is_drawing(&self) -> bool {
        self.0.is_drawing()
    }

    /// Ends when nothing this tap handed over is unsettled, or the drain deadline has passed.
    pub async fn settled(&mut self) {
        std::future::poll_fn(|cx| self.0.poll_settled(cx)).await;
    }
}

/// How a drawer hands over where that differs from what its line declares.
///
/// One URL may serve sockets, whose SETs fall due again when the socket is gone, and requests, whose SETs outlive the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// How a hand-over of this drawer can fail.
    pub order: Order,
    /// When what it handed over is due again.
    pub redelivery: Redelivery,
}

/// How much a drawer wants now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// SETs at most; 0 draws nothing.
    pub sets: usize,
    /// Bytes at most.
    pub bytes: usize,
    /// How long to wait for something to come; `None`: as long as it takes. When it is over, the batch is empty; what is
    /// being made ready then is waited for still.
    pub wait: Option<Duration>,
}

impl Want {
    /// As much as the limits allow, as long as it takes.
    pub const ALL: Self = Self { sets: usize::MAX, bytes: usize::MAX, wait: None };
}

/// Why a tap ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Closed {
    /// Nothing is due and nothing outstanding; it is started anew when something is.
    Idle,
    /// The gateway shuts down.
    Draining,
    /// Another tap took its place.
    Superseded,
    /// The stream was disabled.
    Disabled,
    /// The stream was deleted.
    Deleted,
    /// Method or endpoint of the stream changed.
    Reconfigured,
    /// The method gave up on the line.
    Fault(Cause),
}

/// SETs drawn together. Dropped before [`Batch::hand_over`]: it never happened. May be empty (the wait was over).
pub struct Batch {
    /// The SETs, sealed.
    pub sets: Vec<SealedSet>,
    /// Whether more are due now.
    pub more: bool,
    claim: Option<Box<dyn spi::Claim>>,
}

impl Batch {
    /// A batch with its claim.
    #[must_use]
    pub fn new(sets: Vec<SealedSet>, more: bool, claim: Box<dyn spi::Claim>) -> Self {
        Self { sets, more, claim: Some(claim) }
    }

    /// The batch of a wait that was over.
    #[must_use]
    pub fn empty() -> Self {
        Self { sets: Vec::new(), more: false, claim: None }
    }

    /// The hand-over begins: attempts are counted, timers start, and the SETs are the method's.
    #[must_use]
    pub fn hand_over(mut self) -> Vec<SealedSet> {
        if let Some(claim) = self.claim.take() {
            claim.handed_over();
        }
        std::mem::take(&mut self.sets)
    }
}

/// A SET ready to be handed over.
#[derive(Clone, Debug)]
pub struct SealedSet {
    /// Its identity.
    pub jti: Jti,
    /// Which hand-over of it this is.
    pub attempt: Attempt,
    /// The compact token, or the claims.
    pub body: Bytes,
    /// What all SETs of its event share.
    pub envelope: Arc<Envelope>,
    /// Its order key.
    pub order: OrderKey,
}

/// Room for unsettled SETs, shared by cloning: per line, per peer, per connection, per cluster. Fair among lines.
#[derive(Clone)]
pub struct Window(Arc<spi::WindowCore>);

impl Window {
    /// A window of so many SETs, with no limit of batches and bytes.
    #[must_use]
    pub fn of_sets(sets: usize) -> Self {
        Self(Arc::new(spi::WindowCore::new(sets, usize::MAX, usize::MAX)))
    }

    /// A window of SETs, batches and bytes.
    #[must_use]
    pub fn of(sets: usize, batches: usize, bytes: usize) -> Self {
        Self(Arc::new(spi::WindowCore::new(sets, batches, bytes)))
    }

    /// Changes the limits; 0 shuts the window.
    pub fn limit(&self, sets: usize, batches: usize, bytes: usize) {
        self.0.limit(sets, batches, bytes);
    }

    /// The core, for the feed that takes from it.
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
impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feed")
    }
}
impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
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

    /// Claims at the first look, is ready at the third.
    struct Slow(u32);

    impl spi::TapCore for Slow {
        fn poll_next(&mut self, _: &Want, cx: &mut Context<'_>) -> Poll<Result<Batch, Closed>> {
            self.0 += 1;
            cx.waker().wake_by_ref();
            if self.0 < 3 { Poll::Pending } else { Poll::Ready(Ok(Batch { more: true, ..Batch::empty() })) }
        }

        fn poll_settled(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn is_drawing(&self) -> bool {
            self.0 > 0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_gets_what_is_being_made_ready() {
        let mut tap = Tap::new(Box::new(Slow(0)));
        let batch = tap.next(Want { wait: Some(Duration::ZERO), ..Want::ALL }).await.unwrap();
        assert!(batch.more, "the wait was over before the batch was ready");
    }
}
